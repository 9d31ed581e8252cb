"""What comes back: answers, chunks of answers, usage, timing and the record of every try."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.types._base import EMPTY, freeze_json, keep_read_only, mask
from groq_provider.types.messages import Message

if TYPE_CHECKING:  # not read until an answer has some: see converter.converter
    from groq_provider.types.activity import Annotation, ExecutedTool, MCPToolList, UsageBreakdown
    from groq_provider.types.parts import ToolCall

__all__ = [
    "Attempt",
    "LLMResponse",
    "RateLimitInfo",
    "ResponseChunk",
    "Timing",
    "ToolCallDelta",
    "Usage",
    "XGroq",
    "XGroqUsage",
]

_extra: Any = attrs.field(default=EMPTY, converter=keep_read_only, repr=False)


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens and server times of an answer.

    Attributes:
        prompt_tokens: Tokens of the prompt, cached ones included.
        completion_tokens: Tokens of the answer, reasoning included.
        total_tokens: The sum.
        cached_tokens: Prompt tokens that came from the service's cache: half price, not counted by rate limits.
        reasoning_tokens: Completion tokens spent on reasoning.
        queue_time: Seconds in the service's queue; not part of ``total_time``.
        prompt_time: Seconds for the prompt.
        completion_time: Seconds for the completion.
        total_time: ``prompt_time + completion_time``.
        source: ``"reported"`` by the service, ``"estimated"`` from the text, or ``"unknown"``; zeros of the latter mean nothing.
        extra: What else the service sent here.

    .. versionadded:: 0.1.0
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_time: float | None = None
    prompt_time: float | None = None
    completion_time: float | None = None
    total_time: float | None = None
    source: str = "reported"
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class XGroqUsage:
    """Cache figures of the service.

    .. versionadded:: 0.1.0
    """

    sram_cached_tokens: int | None = None
    dram_cached_tokens: int | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class XGroq:
    """The service's own part of an answer.

    Attributes:
        id: The request id ``req_…`` to name to support.
        seed: The seed really used.
        usage: Cache figures.
        error: Why a stream was stopped early.
        debug: Token ids, where asked for.
        extra: What else the service sent here.

    .. versionadded:: 0.1.0
    """

    id: str | None = None
    seed: int | None = None
    usage: XGroqUsage | None = None
    error: str | None = None
    debug: Any = attrs.field(default=None, converter=freeze_json, repr=False)
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class Timing:
    """Where the time of a call went, in seconds.

    Attributes:
        total: From the call to the complete answer, waiting and retries included.
        wait: Of it, spent in the rate limiter's queue and between retries.
        time_to_first_token: From the sent request to the first content, reasoning or tool-call text, as it arrived; where the reader
            of a stream came too late to tell, the service's queue and prompt time. ``None`` where neither is known, and for a plain
            answer.
        tokens_per_second: Completion tokens over the time they took: from the first token to the end of a stream as they arrived; where
            that cannot be told, and for a plain answer, over the service's ``completion_time``. ``None`` where undefined.
        overall_tokens_per_second: Completion tokens over ``total``.
        server_queue: The service's own figure.
        server_prompt: The service's own figure.
        server_completion: The service's own figure.

    .. versionadded:: 0.1.0
    """

    total: float = 0.0
    wait: float = 0.0
    time_to_first_token: float | None = None
    tokens_per_second: float | None = None
    overall_tokens_per_second: float | None = None
    server_queue: float | None = None
    server_prompt: float | None = None
    server_completion: float | None = None


@attrs.frozen(kw_only=True)
class Attempt:
    """One try of a call.

    Attributes:
        number: Counts from 1.
        started_at: Wall clock, aware UTC.
        status_code: Of its answer, if there was one.
        error: Name of the error class, ``None`` for success.
        wait: Seconds waited before it: limiter queue and retry delay.
        duration: Seconds from its start to its end.
        request_id: The service's id, if an answer came.
        sent: Whether the request left: ``False``, ``True`` or ``None`` for unknown. A sent request may have been billed.

    .. versionadded:: 0.1.0
    """

    number: int
    started_at: datetime
    status_code: int | None = None
    error: str | None = None
    wait: float = 0.0
    duration: float = 0.0
    request_id: str | None = None
    sent: bool | None = None


@attrs.frozen(kw_only=True)
class RateLimitInfo:
    """What the headers of one answer said about the limits of its model.

    On this service ``requests`` counts per DAY and ``tokens`` per MINUTE. ``reset`` is the time until the limit is full again,
    not until the next request is allowed.

    Attributes:
        limit_requests: Requests per day.
        remaining_requests: Of them, left.
        reset_requests: Seconds until all are back.
        limit_tokens: Tokens per minute.
        remaining_tokens: Of them, left.
        reset_tokens: Seconds until all are back.
        retry_after: Seconds to wait, only with 429 and not always.

    .. versionadded:: 0.1.0
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None
    retry_after: float | None = None


@attrs.frozen(kw_only=True)
class LLMResponse:
    """A whole answer.

    Attributes:
        id: The service's ``chatcmpl-…``.
        request_id: The service's ``req_…``, for support.
        client_request_id: The ``id`` of your request.
        provider: Name of the provider that answered.
        model: Model that answered; may differ from the one asked for.
        content: Text of the answer; ``""`` when there is none (tool calls only).
        reasoning: The model's reasoning, where it is given apart; other servers call it ``reasoning_content``.
        tool_calls: Calls of tools the model asks for.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``function_call``; ``None`` for a partial answer.
        usage: Always there; see ``usage.source``.
        timing: Where the time went.
        attempts: Every try of this call, the transport's own resend included.
        rate_limit: What the answer's headers said about the limits; ``None`` without such headers.
        created_at: When the service made it.
        executed_tools: Tools the service ran by itself.
        annotations: Citations.
        function_call: Deprecated form of a single tool call.
        logprobs: As a compatible server gave them, those of a stream's chunks joined; always ``None`` on this service so far.
        system_fingerprint: The service's configuration.
        service_tier: The tier really used.
        usage_breakdown: Usage by model, for systems of several.
        x_groq: The service's own part.
        mcp_list_tools: Tools of remote MCP servers.
        provider_metadata: ``first_token_latency_ms``, ``total_latency_ms``, ``tokens_per_second``.
        raw: The decoded JSON body of a plain answer, read-only; ``None`` for a stream.
        extra: Fields of the answer this version does not know.

    .. versionadded:: 0.1.0
    """

    id: str | None = None
    request_id: str | None = None
    client_request_id: str | None = None
    provider: str | None = None
    model: str | None = None
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage = attrs.field(factory=lambda: Usage(source="unknown"))
    timing: Timing = attrs.field(factory=Timing)
    attempts: tuple[Attempt, ...] = ()
    rate_limit: RateLimitInfo | None = None
    created_at: datetime | None = None
    executed_tools: tuple[ExecutedTool, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    function_call: Mapping[str, Any] | None = attrs.field(default=None, converter=keep_read_only, repr=mask)
    logprobs: Any = attrs.field(default=None, converter=freeze_json)
    system_fingerprint: str | None = None
    service_tier: str | None = None
    usage_breakdown: UsageBreakdown | None = None
    x_groq: XGroq | None = None
    mcp_list_tools: tuple[MCPToolList, ...] | None = None
    provider_metadata: Mapping[str, Any] = attrs.field(default=EMPTY, converter=keep_read_only)
    _raw: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    extra: Mapping[str, Any] = _extra

    @property
    def raw(self) -> Mapping[str, Any] | None:
        """See the class."""
        found = self._raw
        if type(found) is dict:  # made read-only when it is first asked for: few callers do
            found = freeze_json(found)
            object.__setattr__(self, "_raw", found)
        return found

    @property
    def message(self) -> Message:
        """The answer as a message, ready to append to a history.

        Answer-only fields are left out, the reasoning too: the service charges for it and some models refuse it.
        """
        content: str | None = self.content
        if not content and (self.tool_calls or self.function_call):
            content = None
        return Message(
            role="assistant", content=content, tool_calls=self.tool_calls or None, function_call=self.function_call
        )

    @property
    def processing_time(self) -> float:
        """Seconds from the call to the complete answer; the same as ``timing.total``."""
        return self.timing.total

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut by its length limit."""
        return self.finish_reason == "length"


@attrs.frozen(kw_only=True)
class ResponseChunk:
    """A piece of a streamed answer, as it arrived.

    Attributes:
        content: Text to append; ``"".join`` of all of them is the answer.
        reasoning: Reasoning text to append.
        tool_calls: Fragments of tool calls; the whole ones are on ``stream.response``.
        finish_reason: ``None`` but on the last chunk.
        index: Which of several answers (always 0 on this service). The response is the one of index 0.
        usage: ``None`` but on the last chunk.
        provider_metadata: Empty but on the last chunk, which has ``first_token_latency_ms``, ``total_latency_ms`` and
            ``tokens_per_second``.

    .. versionadded:: 0.1.0
    """

    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    index: int = 0
    usage: Usage | None = None
    provider_metadata: Mapping[str, Any] = attrs.field(default=EMPTY, converter=keep_read_only)


@attrs.frozen(kw_only=True)
class ToolCallDelta:
    """A fragment of a tool call inside a stream. This service sends each call whole, in one fragment.

    .. versionadded:: 0.1.0
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = attrs.field(default="", repr=mask)
    type: str | None = None
    extra: Mapping[str, Any] = _extra
