"""An endpoint of the service as a value: its method, its path, and how its answer is read.

The cost of a call in the limits depends on its request and is passed apart, as a :class:`Cost`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from groq_provider.types._base import EMPTY, ReadOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.protocols import WireResponse

__all__ = ["Cost", "Endpoint"]

# Constants: the transport keeps the encoded form of headers that it has sent before.
_STREAM_HEADERS: Mapping[str, str] = ReadOnly({"Accept": "text/event-stream", "Cache-Control": "no-cache"})
_PLAIN_HEADERS: Mapping[str, str] = EMPTY


class Cost(NamedTuple):
    """The charge that a call reserves in the limits of a model before it is sent: one request, and these tokens."""

    model: str
    prompt_tokens: int = 0
    max_output_tokens: int | None = 0


@attrs.frozen(kw_only=True)
class Endpoint:
    """The description of one endpoint of the service.

    Attributes:
        method: The HTTP method.
        path: The path under the base URL.
        decode: A function of the :class:`~groq_provider.call.call.Call` and its answer of good status. It returns the decoded answer, after
            it has ended the call with ``succeeded()`` or ``finished()``. It may raise.
        stream: Whether the answer is read while the service makes it.
        recorded: Whether calls count for the circuit breaker and the latency figures, as completions do.
        headers: The header fields that every request to this endpoint sends, beside those of the provider.
    """

    method: str
    path: str
    decode: Callable[[Any, WireResponse], Any]
    stream: bool = False
    recorded: bool = False
    headers: Mapping[str, str] = attrs.field(init=False)

    @headers.default
    def _default_headers(self) -> Mapping[str, str]:
        return _STREAM_HEADERS if self.stream else _PLAIN_HEADERS
