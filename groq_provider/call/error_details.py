"""Complete an error with what its call knows: the cause that the caller can act on, and the limit that struck."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from groq_provider import errors as e
from groq_provider.call.retry import throttling

if TYPE_CHECKING:
    from groq_provider.config import RetryPolicy, Timeouts
    from groq_provider.transport.scope import CancelScope

__all__ = ["explain_limits", "translate"]

#: Errors that a time limit of the caller makes, and the name of the limit in Timeouts. The first match counts.
_TIME_LIMITS: tuple[tuple[Any, str], ...] = (
    (e.DeadlineExceededError, "total"),
    ((e.ReadTimeoutError, e.PoolTimeoutError), "first_token"),
    (e.ConnectTimeoutError, "connect"),
    (e.StreamIdleTimeoutError, "idle"),
)
_TRY_AGAIN = r"(?:please )?try again in [0-9][0-9hmsuµn.]*(?: ?(?:second|minute|hour|day)s?)?\.?"


def translate(
    error: e.GroqProviderError, scope: CancelScope, *, total: float | None, closed: bool
) -> e.GroqProviderError:
    """Return the error that names the cause: cancelled rather than broken, closed rather than cancelled, out of time rather than slow.

    Args:
        error: The error of a step of the call.
        scope: The scope of the call.
        total: The caller's limit for the whole call, in seconds.
        closed: Whether the provider was closed, and the caller did not cancel the call.
    """
    if scope.cancelled and isinstance(error, (e.TransportError, e.ResponseError, e.StreamError)):
        # cancel() shut the socket down under the reader. The error that this looks like depends on the framing.
        error = e.RequestCancelledError("the call was cancelled", sent=scope.sent, partial=error.partial)
    if isinstance(error, e.RequestCancelledError) and closed:
        return e.ProviderClosedError("the provider was closed", sent=error.sent, partial=error.partial)
    timed_out = isinstance(error, TimeoutError) and not isinstance(error, e.DeadlineExceededError)
    if timed_out and scope.total_deadline is not None and scope.clock.monotonic() >= scope.total_deadline:
        return e.DeadlineExceededError(
            f"the time limit of {total:g} s is up: {error.message}", sent=error.sent, partial=error.partial
        )
    return error


def explain_limits(error: e.GroqProviderError, timeouts: Timeouts, policy: RetryPolicy, *, wait_limit: str) -> None:
    """Add to the message which limit of the caller struck, and its size, so that you know what to change.

    Args:
        error: The error of the call.
        timeouts: The time limits of the call.
        policy: The retry policy of the provider.
        wait_limit: The name of the limit that ends a wait for the rate limit first: ``"wait"`` or ``"total"``.
    """
    if "Timeouts." in error.message or "RetryPolicy." in error.message:
        return  # named already
    name = next((name for kinds, name in _TIME_LIMITS if isinstance(error, kinds)), None)
    if isinstance(error, e.RateLimitTimeoutError):
        name = wait_limit
    seconds = None if name is None else getattr(timeouts, name)
    if seconds is not None:
        e.reword(error, f"{error.message} (Timeouts.{name} = {seconds:g} s)")
    hint = error.retry_after
    if hint is None or hint <= policy.hint_cap:
        return
    if throttling(error) and error.retryable and policy.max_retries:
        # The service's "try again in …" may contradict its own header, so it goes.
        words = re.sub(_TRY_AGAIN, "", error.message, flags=re.IGNORECASE).rstrip(" .;:,")
        cap = f"RetryPolicy.hint_cap = {policy.hint_cap:g} s"
        e.reword(error, f"{words}; a wait of {hint:,.6g} s is longer than {cap} allows")
