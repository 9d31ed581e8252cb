"""Decide whether and when to try again, and bound the retries of all calls of a provider together.

The decision tells three cases apart. A request that was *never sent* can be repeated at no cost. One that was *surely rejected* (an error
status) was not worked on. One that was *maybe processed* (the connection broke after the request had left) may be billed twice if it is
repeated; the library accepts that for broken connections, but not for an answer that was merely slow, plain or streamed.
"""

from __future__ import annotations

import http.client
import socket
import threading
from typing import TYPE_CHECKING

from groq_provider import errors as e
from groq_provider._sync import forkable
from groq_provider.transport.http1.receive import BadFraming

if TYPE_CHECKING:
    import random

    from groq_provider.clock import Clock
    from groq_provider.config import RetryPolicy

__all__ = ["RetryBudget", "retry_delay", "timed"]

#: Causes of a ProtocolError that a broken connection, or bytes of another answer, can have: a retry can help.
_CUT = (http.client.BadStatusLine, http.client.IncompleteRead, BadFraming)
#: The resolver's errors for a name that surely does not exist.
_NO_SUCH_NAME = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL") if hasattr(socket, name)
}  # not on every system


def retry_delay(error: e.GroqProviderError, *, retries: int, policy: RetryPolicy, rng: random.Random) -> float | None:
    """Return the seconds to wait before the next try; ``None`` means not to try again.

    The delay is never shorter than the server asked, and a hint beyond ``policy.hint_cap`` is not followed. Without a hint the delay is
    drawn from zero to an exponentially growing bound (full jitter).

    Args:
        error: The error of the last try.
        retries: The tries beyond the first that were made so far.
        policy: The retry policy of the provider.
        rng: The source of the jitter.
    """
    if retries >= policy.max_retries or not _is_worth_it(error, retries):
        return None
    hint = error.retry_after
    if hint is not None:
        if hint > policy.hint_cap:
            return None
        return hint + rng.uniform(0, max(0.1, 0.05 * hint))
    if isinstance(error, e.RateLimitedError) and error.scope in ("hour", "day"):
        return None  # the time is unknown, and not soon
    base = policy.throttle_delay if throttling(error) else policy.base_delay
    return rng.uniform(0, min(policy.max_delay, base * 2.0 ** min(retries, 30)))


def _is_worth_it(error: e.GroqProviderError, retries: int) -> bool:
    if isinstance(error, (e.RequestCancelledError, e.ProviderClosedError, e.DeadlineExceededError)):
        return False
    if _is_lasting(error):
        return retries == 0
    if isinstance(error, e.ReadTimeoutError) and error.sent is not False:
        return False  # it may have been processed and billed, so the caller must decide
    return error.retryable


def _is_lasting(error: e.GroqProviderError) -> bool:
    """Return whether a failure hints at a broken peer or a wrong name. Such a call is tried once more, not more often."""
    if isinstance(error, e.ResponseDecodeError):
        return True
    cause = error.__cause__
    if isinstance(error, e.ProtocolError):
        return not isinstance(cause, _CUT)
    return isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME


def throttling(error: e.GroqProviderError) -> bool:
    """Return whether the service refused for lack of room, instead of failing."""
    return isinstance(error, (e.RateLimitedError, e.OverloadedError))


def timed(error: e.GroqProviderError) -> bool:
    """Return whether the service refused for lack of room and named the time to come again."""
    return throttling(error) and error.retry_after is not None


class RetryBudget:
    """Keeps retries a small share of the load when everything fails at once.

    The budget holds up to 100 units and gains one a second. A retry costs 5 units after throttling and 14 after another failure; it costs
    nothing if the request was never sent, or if the server named the time to come again. A call that succeeds gains one unit or, after
    retries, the cost of its last one. In a total outage that allows seven retries and then one every 14 seconds, for all threads together.

    Thread safety: shared by all calls of a provider.
    """

    _CAPACITY = 100.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()  # guards the two below; reentrant: _sync
        self._units = self._CAPACITY
        self._at = clock.monotonic()
        forkable(self)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()

    @staticmethod
    def cost(error: e.GroqProviderError) -> float:
        """Return the cost of a retry after *error*."""
        if error.sent is False or timed(error):
            return 0.0
        return 5.0 if throttling(error) else 14.0

    def spend(self, cost: float) -> bool:
        """Take *cost* units; return whether there were so many."""
        if cost <= 0:
            return True
        with self._lock:
            now = self._clock.monotonic()
            self._units = min(self._CAPACITY, self._units + (now - self._at))
            self._at = now
            if self._units < cost:
                return False
            self._units -= cost
            return True

    def succeeded(self, last_cost: float) -> None:
        """Return units after a success: the cost of its last retry, or one unit for a first try."""
        if self._units >= self._CAPACITY:  # the usual case, without the lock: a stale value costs one unit at most
            return
        with self._lock:
            self._units = min(self._CAPACITY, self._units + max(1.0, last_cost))
