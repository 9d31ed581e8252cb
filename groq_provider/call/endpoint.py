"""An endpoint as a value: its method, its path, and how its answer is read. What a call of it costs is said apart, by its request."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.call.call import Call
    from groq_provider.protocols import WireResponse

__all__ = ["Cost", "Endpoint"]

# Constants, which the transport may keep in the form it sends.
_STREAM_HEADERS: Mapping[str, str] = MappingProxyType({"Accept": "text/event-stream", "Cache-Control": "no-cache"})
_PLAIN_HEADERS: Mapping[str, str] = MappingProxyType({})


class Cost(NamedTuple):
    """What a call reserves in the limits of a model before it is sent; one request in any case."""

    model: str
    prompt_tokens: int = 0
    max_output_tokens: int | None = 0


@attrs.frozen(kw_only=True)
class Endpoint:
    """How to ask one endpoint of the service.

    Attributes:
        method: HTTP method.
        path: Under the base URL.
        decode: Reads an answer of good status, and ends the call: :meth:`Call.succeeded` or :meth:`Call.finished`. It may raise.
        stream: Whether the answer is read as it is made.
        recorded: Whether calls count for the circuit breaker and the latency record, as completions do.
    """

    method: str
    path: str
    decode: Callable[[Call, WireResponse], Any]
    stream: bool = False
    recorded: bool = False

    @property
    def headers(self) -> Mapping[str, str]:
        """What every request to it sends beside the provider's own headers."""
        return _STREAM_HEADERS if self.stream else _PLAIN_HEADERS
