"""What the parts need of each other. Only :mod:`groq_provider.provider` knows the concrete classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Unpack

    from groq_provider.cancel import CancelToken
    from groq_provider.config import Timeouts
    from groq_provider.config.defaults import ProviderType
    from groq_provider.errors import RateLimitedError
    from groq_provider.transport.scope import CancelScope
    from groq_provider.types.messages import Message
    from groq_provider.types.model_info import ModelCapability, ModelInfo
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.request_fields import RequestFields
    from groq_provider.types.response import LLMResponse, RateLimitInfo, ResponseChunk, Usage
    from groq_provider.types.status import LatencyMetrics, ProviderHealth, RateLimitStatus

__all__ = ["LatencyRecorder", "Provider", "RateLimiter", "Reservation", "Transport", "WireResponse"]


@runtime_checkable
class Provider(Protocol):
    """The nine methods of a provider, as application code sees them.

    .. versionadded:: 0.1.0
    """

    def get_type(self) -> ProviderType:
        """Return the kind of provider."""
        ...

    def get_name(self) -> str:
        """Return the display name."""
        ...

    def get_models(self) -> Sequence[ModelInfo]:
        """Return the models offered, without I/O."""
        ...

    def get_capabilities(self) -> Sequence[ModelCapability]:
        """Return what the models together can do."""
        ...

    def generate(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]] | LLMRequest,
        *,
        timeout: float | Timeouts | None = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> LLMResponse:
        """Return a whole answer."""
        ...

    def generate_stream(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]] | LLMRequest,
        *,
        timeout: float | Timeouts | None = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> Iterable[ResponseChunk]:
        """Return an answer as it is made."""
        ...

    def is_available(self) -> bool:
        """Say whether a call is worth trying; never raises."""
        ...

    def get_health(self) -> ProviderHealth:
        """Check the service."""
        ...

    def close(self) -> None:
        """Give back every connection."""
        ...


class WireResponse(Protocol):
    """An answer whose head has arrived and whose body has not.

    .. versionadded:: 0.1.0
    """

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields, case-insensitive."""
        ...

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        """Return the whole body and give the connection back; with *cut* only the beginning of one that is larger than *limit* bytes.

        Raises:
            ResponseTooLargeError: More than *limit* bytes.
            IncompleteResponseError: Less than was announced.
        """
        ...

    def read_lines(self) -> list[bytes] | None:
        """Read once and return the lines that completes, without their ends; ``None`` at the end of the body."""
        ...

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read_lines` has something to read."""
        ...

    def abandon(self) -> None:
        """Drop the connection from a finalizer: no lock may be touched."""
        ...

    def drain(self, scope: CancelScope) -> None:
        """Read on to the end of the body, within bounds, so that the connection can serve again; else close it."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


class Transport(Protocol):
    """Sends requests over connections it keeps.

    .. versionadded:: 0.1.0
    """

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None,
        scope: CancelScope,
        query: str = "",
    ) -> WireResponse:
        """Send one request and return when the head of the answer is there. Raises only this library's errors."""
        ...

    def warm_up(self, connections: int, *, timeout: float) -> int:
        """Open connections (TLS included) for so many requests at once and return for how many there are."""
        ...

    def close(self) -> None:
        """Close every connection; idempotent."""
        ...


class Reservation(Protocol):
    """A place in the limits, held by one attempt. Exactly one of settle, refund and keep counts: the first.

    .. versionadded:: 0.1.0
    """

    wait: float
    """Seconds this reservation waited."""

    arrival: int
    """The place in the queue; a retry passes it on to keep it."""

    def settle(self, usage: Usage) -> None:
        """Replace the estimate by what was really used."""
        ...

    def refund(self, *, keep_request: bool = False) -> None:
        """Give everything back: nothing was sent. With *keep_request* only the tokens: the service refused it."""
        ...

    def keep(self) -> None:
        """Leave the estimate as it is: what was used is unknown."""
        ...

    def feedback(self, info: RateLimitInfo | None, limited: RateLimitedError | None = None) -> None:
        """Tell the limiter what the answer's headers said, and the refusal if it was one. Does not settle."""
        ...


@runtime_checkable
class RateLimiter(Protocol):
    """Decides when a request may go out. Shared by threads.

    .. versionadded:: 0.1.0
    """

    def reserve(
        self,
        model: str,
        *,
        prompt_tokens: int,
        max_output_tokens: int | None = None,
        deadline: float | None = None,
        long_wait: float | None = None,
        cancel: CancelToken | None = None,
        batch: bool = False,
        arrival: int | None = None,
    ) -> Reservation:
        """Wait for a place, first come first served, and take it.

        Args:
            model: Limits are per model.
            prompt_tokens: Estimated tokens of the prompt, before the limiter's own correction.
            max_output_tokens: Longest answer asked for; ``None``: the limiter estimates it.
            deadline: Monotonic instant to give up at; ``None``: wait as long as it takes.
            long_wait: Longest wait in seconds for a limit per hour or day before refusing at once; ``None``: no bound.
            cancel: Ends the wait.
            batch: Whether this is a bulk item, served after interactive calls in a fixed proportion.
            arrival: Place of an earlier reservation, for a retry.

        Raises:
            RateLimitTimeoutError: It would take longer than *deadline*; known at once, nothing consumed.
            RateLimitedError: A limit per hour or day needs longer than *long_wait*.
            RequestTooLargeError: The request can never fit the limit.
            RequestCancelledError: *cancel* was used.
        """
        ...

    def largest_output(self, model: str, *, prompt_tokens: int) -> int | None:
        """Return the longest answer that fits the limits beside such a prompt; ``None`` where none is known."""
        ...

    def get_status(self) -> Mapping[str, RateLimitStatus]:
        """Return the state of every model seen."""
        ...


@runtime_checkable
class LatencyRecorder(Protocol):
    """Keeps what calls took. Shared by threads.

    .. versionadded:: 0.1.0
    """

    def record(
        self,
        model: str,
        *,
        total: float | None = None,
        wait: float = 0.0,
        first_token: float | None = None,
        tokens_per_second: float | None = None,
        ok: bool = True,
        local: bool = False,
    ) -> None:
        """Record one finished call; ``None`` for what cannot be known, the total of a stream left early for one.

        *wait* is the part of *total* in the rate limiter's queue and between retries; *local* a failure without the service.
        """
        ...

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:
        """Return statistics for one model, or over all."""
        ...
