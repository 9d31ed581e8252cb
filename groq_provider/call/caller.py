"""Make calls: the way from a provider's method to a :class:`~groq_provider.call.call.Call`, which is loaded with the first one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from groq_provider.call.runtime import CallOptions, Runtime, live_runtimes

if TYPE_CHECKING:
    from groq_provider.call.call import Call
    from groq_provider.call.endpoint import Cost, Endpoint
    from groq_provider.call.stream import ResponseStream
    from groq_provider.protocols import RequestBody, WireResponse
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.response import LLMResponse

__all__ = ["Caller"]


class Caller(Runtime):
    """Makes the calls of one provider, with the parts that its base class holds.

    Thread safety: any number of threads.
    """

    # Loaded by the first call. An import statement in each call would ask a dict that a forked child may find locked for ever.
    _call_class: type[Call] | None = None
    _stream_class: type[ResponseStream] | None = None

    def generate(self, request: LLMRequest, options: CallOptions) -> LLMResponse:
        """Return a whole answer."""
        call_class = self._call_class or self._load_call_class()
        response: LLMResponse = call_class.completion(self, request, options, stream=False).result()
        return response

    def open_stream(self, request: LLMRequest, options: CallOptions) -> tuple[Call, WireResponse]:
        """Send a streamed request; return its call and the answer, once the head of a good answer has arrived."""
        call_class = self._call_class or self._load_call_class()
        call = call_class.completion(self, request, options, stream=True)
        return call, call.result()

    def stream(self, request: LLMRequest, options: CallOptions) -> ResponseStream:
        """Send a streamed request; return the stream."""
        if self._stream_class is None:
            from groq_provider.call.stream import ResponseStream

            self._stream_class = ResponseStream
        return self._stream_class(*self.open_stream(request, options))

    def ask(self, endpoint: Endpoint, body: RequestBody | None, options: CallOptions, cost: Cost | None = None) -> Any:
        """Return the decoded answer of any endpoint."""
        call_class = self._call_class or self._load_call_class()
        return call_class(self, options, endpoint, body, cost=cost).result()

    def load(self) -> None:
        """Import the modules that the first call would otherwise wait for."""
        self._load_call_class()
        from groq_provider import catalog  # noqa: F401 - for its effect
        from groq_provider.call import stream  # noqa: F401 - for its effect

    def _load_call_class(self) -> type[Call]:
        from groq_provider.call.call import Call

        self._call_class = Call
        return Call


def _load_before_fork() -> None:
    """Import everything before a fork: a module that another thread is importing would stay locked in the child."""
    if any(reference() is not None for reference in live_runtimes.copy()):
        from groq_provider import catalog  # noqa: F401 - for its effect
        from groq_provider.call import stream  # noqa: F401 - for its effect; it imports the class of calls, too
        from groq_provider.types import status  # noqa: F401 - for its effect
        from groq_provider.wire.converter import converter

        converter()  # compiles the reading of rare answers


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(before=_load_before_fork)
