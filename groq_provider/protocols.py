"""The protocols between the parts of the library. You can implement one to replace a part; only ``provider`` names the concrete classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from groq_provider.wire.upload import Upload

    RequestBody = bytes | Upload

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
    """The nine methods of a provider that your code should rely on, so that you can exchange one provider for another.

    .. versionadded:: 0.1.0
    """

    def get_type(self) -> ProviderType:
        """Return the kind of provider."""
        ...

    def get_name(self) -> str:
        """Return the display name."""
        ...

    def get_models(self) -> Sequence[ModelInfo]:
        """Return the models of this provider, without I/O."""
        ...

    def get_capabilities(self) -> Sequence[ModelCapability]:
        """Return the capabilities of all models together."""
        ...

    def generate(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]] | LLMRequest,
        *,
        timeout: float | Timeouts | None = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> LLMResponse:
        """Return the complete answer."""
        ...

    def generate_stream(
        self,
        prompt: str | Sequence[Message | Mapping[str, Any]] | LLMRequest,
        *,
        timeout: float | Timeouts | None = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> Iterable[ResponseChunk]:
        """Return the chunks of the answer while the model writes it."""
        ...

    def is_available(self) -> bool:
        """Tell whether a call is likely to succeed. Never raises."""
        ...

    def get_health(self) -> ProviderHealth:
        """Check the service and return the outcome."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class WireResponse(Protocol):
    """An answer after its head has arrived; the body is still to be read.

    .. versionadded:: 0.1.0
    """

    status_code: int

    @property
    def headers(self) -> Mapping[str, str]:
        """Header fields. The library asks for names in lower case, so an implementation must give at least these."""
        ...

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        """Return the whole body and release the connection.

        Args:
            limit: The largest body in bytes.
            cut: Return the first *limit* bytes of a larger body, instead of an error.

        Raises:
            ResponseTooLargeError: The body is larger than *limit*, and *cut* is false.
            IncompleteResponseError: The body is shorter than announced.
        """
        ...

    def read1(self) -> bytes:
        """Return the part of the body that has arrived, waiting for the first byte; ``b""`` at its end."""
        ...

    def read_lines(self) -> list[bytes] | None:
        """Read once and return the lines that are complete now, without their line ends; ``None`` at the end of the body."""
        ...

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds; return whether :meth:`read_lines` can read without blocking."""
        ...

    def abandon(self) -> None:
        """Drop the connection from a finalizer. You must not take a lock here."""
        ...

    def drain(self, scope: CancelScope) -> None:
        """Read the rest of the body if it is short, so that the connection can be reused; else close the connection."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


class Transport(Protocol):
    """Sends requests over reusable connections.

    .. versionadded:: 0.1.0
    """

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: RequestBody | None,
        scope: CancelScope,
        query: str = "",
    ) -> WireResponse:
        """Send one request and return once the head of the answer has arrived. You must raise errors of this library only."""
        ...

    def warm_up(self, connections: int, *, timeout: float) -> int:
        """Open connections (TLS included) for this many requests at once; return the number of requests that can be sent now."""
        ...

    def close(self) -> None:
        """Close every connection. Further calls do nothing."""
        ...


class Reservation(Protocol):
    """The share of the limits that one attempt holds. You must end it once: of ``settle``, ``refund`` and ``keep`` the first counts.

    .. versionadded:: 0.1.0
    """

    wait: float
    """Seconds this reservation waited."""

    arrival: int
    """The place in the queue; a retry passes it to ``reserve`` so that it need not queue anew."""

    def settle(self, usage: Usage) -> None:
        """Replace the estimate by the reported usage."""
        ...

    def refund(self, *, keep_request: bool = False) -> None:
        """Return requests and tokens, because nothing was sent. With *keep_request* return only the tokens: the service refused it."""
        ...

    def keep(self) -> None:
        """Keep the estimate, because the real usage is unknown."""
        ...

    def feedback(self, info: RateLimitInfo | None, limited: RateLimitedError | None = None) -> None:
        """Pass the limits from the answer's headers to the limiter, and the refusal if there was one. This does not settle."""
        ...


@runtime_checkable
class RateLimiter(Protocol):
    """Decides when a request may be sent. Your implementation must be thread-safe.

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
        """Wait until the limits allow the request, first come first served, and reserve its share.

        Args:
            model: The model; each one has its own limits.
            prompt_tokens: Estimated tokens of the prompt, before the limiter's own correction.
            max_output_tokens: The output limit of the request; with ``None`` the limiter estimates the output.
            deadline: The monotonic instant at which to give up; ``None`` waits without limit.
            long_wait: The longest wait in seconds for a limit per hour or day; if it would be longer, refuse at once. ``None``: no bound.
            cancel: A token that ends the wait.
            batch: Whether this is a bulk item. Bulk items are served after interactive calls, in a fixed proportion.
            arrival: The ``arrival`` of an earlier reservation, for a retry.

        Raises:
            RateLimitTimeoutError: The wait would exceed *deadline*. Raised at once; no limit is charged.
            RateLimitedError: A limit per hour or day needs longer than *long_wait*.
            RequestTooLargeError: The request is larger than a limit.
            RequestCancelledError: The token was cancelled.
        """
        ...

    def largest_output(self, model: str, *, prompt_tokens: int) -> int | None:
        """Return the largest output that fits the limits together with this prompt; ``None`` without a known limit."""
        ...

    def get_status(self) -> Mapping[str, RateLimitStatus]:
        """Return the state of every model in use."""
        ...


@runtime_checkable
class LatencyRecorder(Protocol):
    """Records the durations of calls. Your implementation must be thread-safe, and should take no longer than some microseconds.

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
        """Record one finished call. ``None`` means unknown, for example the *total* of a stream that was closed early.

        *wait* is the part of *total* in the rate limiter's queue and between retries; *local* marks a failure without the service.
        """
        ...

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:
        """Return statistics for one model, or over all models."""
        ...
