"""Answers: the response, the chunks of a stream, usage, timing, and the record of each attempt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from groq_provider.types._base import EMPTY, ReadOnly, check_given, defer_checks, freeze_json, keep_read_only, mask
from groq_provider.types.messages import Message
from groq_provider.types.usage import Usage

if TYPE_CHECKING:  # loaded late, by ``load_annotations``
    from groq_provider.types.activity import Annotation, ExecutedTool, MCPToolList, UsageBreakdown
    from groq_provider.types.parts import ToolCall

__all__ = [
    "Attempt",
    "HTTPInfo",
    "LLMResponse",
    "RateLimitInfo",
    "ResponseChunk",
    "ResponseHeaders",
    "Timing",
    "ToolCallDelta",
    "Usage",
    "XGroq",
    "XGroqUsage",
]

_extra: Any = attrs.field(default=EMPTY, converter=keep_read_only, repr=False)


@attrs.frozen(kw_only=True)
class XGroqUsage:
    """Cache figures of the service.

    .. versionadded:: 0.1.0
    """

    sram_cached_tokens: int | None = None
    dram_cached_tokens: int | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class XGroq:
    """The service's own part of an answer.

    Attributes:
        id: The request id ``req_…``, which you should give to the service's support.
        seed: The seed that was used.
        usage: Cache figures.
        error: Why the service stopped a stream early.
        debug: Token ids, if the request asked for them.
        extra: Further fields that the service sent here.

    .. versionadded:: 0.1.0
    """

    id: str | None = None
    seed: int | None = None
    usage: XGroqUsage | None = None
    error: str | None = None
    debug: Any = attrs.field(default=None, converter=freeze_json, repr=False)
    extra: Mapping[str, Any] = _extra

    def __attrs_post_init__(self) -> None:
        if (
            self.debug is not None or type(self.extra) is not ReadOnly
        ):  # rarely true: the wire layer passes read-only mappings
            check_given(self)


@attrs.frozen(kw_only=True)
class Timing:
    """Where the time of a call went, in seconds. You can tell with it whether a slow call waited here or at the service.

    Attributes:
        total: From the call to the complete answer, waiting and retries included.
        wait: The part of *total* spent in the rate limiter's queue and between retries.
        time_to_first_token: From the sent request to the arrival of the first content, reasoning or tool-call text. If your code read the
            stream too late to measure it, the service's queue and prompt time. ``None`` where neither is known, and for a plain answer.
        tokens_per_second: Completion tokens divided by the time from the first token to the end of the stream. If that cannot be
            measured, and for a plain answer, divided by the service's ``completion_time``. ``None`` where undefined.
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
    """One attempt of a call. You can see from the attempts of an answer or an error how often it was retried, and why.

    Attributes:
        number: The number of the attempt, from 1.
        started_at: The wall clock at its start, aware UTC.
        status_code: The status of its answer, or ``None`` without an answer.
        error: The name of the error class; ``None`` for success.
        wait: Seconds waited before it: limiter queue and retry delay.
        duration: Seconds from its start to its end.
        request_id: The service's request id, if an answer came.
        sent: Whether the request was sent: ``False``, ``True`` or ``None`` for unknown. You may have been billed for a sent request.

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
    """The limits of a model, as the headers of one answer give them.

    This service counts ``requests`` per DAY and ``tokens`` per MINUTE. ``reset`` is the time until the limit is full again, not until
    the next request is allowed, so you should not sleep for so long.

    Attributes:
        limit_requests: Requests per day.
        remaining_requests: Requests that remain.
        reset_requests: Seconds until the limit is full again.
        limit_tokens: Tokens per minute.
        remaining_tokens: Tokens that remain.
        reset_tokens: Seconds until the limit is full again.
        retry_after: Seconds that you should wait; only with 429, and not always.

    .. versionadded:: 0.1.0
    """

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None
    retry_after: float | None = None


class HTTPInfo(NamedTuple):
    """The status code and the header fields of an answer.

    .. versionadded:: 0.1.0
    """

    status_code: int
    headers: Mapping[str, str]
    """Header fields by name, in any case; read-only. Several fields of one name are joined by commas."""


class ResponseHeaders(Mapping[str, str]):
    """Header fields of an answer, by name in any case; read-only."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {name.lower(): fields[name] for name in fields}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._fields!r})"


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class LLMResponse:
    """A whole answer. You can keep, compare and pickle it; its mappings are read-only.

    Attributes:
        id: The service's ``chatcmpl-…``.
        request_id: The service's ``req_…``, which you should give to its support.
        client_request_id: The ``id`` of your request.
        provider: Name of the provider that answered.
        model: Model that answered; may differ from the one asked for.
        content: Text of the answer; ``""`` when there is none (tool calls only).
        reasoning: The model's reasoning, if it is separate from the content; other servers call it ``reasoning_content``.
        tool_calls: Tool calls that the model asks for. You must run them yourself, and send their results as ``tool`` messages.
        finish_reason: ``stop``, ``length``, ``tool_calls``, ``function_call``; ``None`` for a partial answer. With ``length`` the answer is
            cut, which you can test with :attr:`truncated`.
        usage: The tokens used. Never ``None``; ``usage.source`` tells how it is known.
        timing: Where the time went.
        attempts: Every attempt of this call, a resend by the transport included.
        rate_limit: The limits from the answer's headers; ``None`` without such headers.
        created_at: When the service made the answer.
        executed_tools: Tools that the service ran on its own.
        annotations: Citations.
        function_call: Deprecated form of a single tool call.
        logprobs: The probabilities from a compatible server, joined over the chunks of a stream; ``None`` on this service so far.
        system_fingerprint: The service's configuration.
        service_tier: The tier that was used.
        usage_breakdown: Usage by model, for systems of several models.
        x_groq: The service's own part.
        mcp_list_tools: Tools of remote MCP servers.
        provider_metadata: ``first_token_latency_ms``, ``total_latency_ms``, ``tokens_per_second``.
        http: Status code and header fields of the answer; ``None`` for one that did not come over HTTP.
        raw: The decoded JSON body of a plain answer, read-only; ``None`` for a stream.
        extra: Fields of the answer that this version does not know, which you can read all the same.

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
    _http: tuple[int, Mapping[str, str]] | None = attrs.field(default=None, repr=False, eq=False)
    _raw: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    extra: Mapping[str, Any] = _extra

    def __attrs_post_init__(self) -> None:
        if (
            type(self.provider_metadata) is not ReadOnly
            or type(self.extra) is not ReadOnly
            or self.function_call is not None
            or self.logprobs is not None
        ):  # rarely true, as above
            check_given(self)

    @property
    def http(self) -> HTTPInfo | None:
        """See the class."""
        found = self._http
        if found is not None and type(found) is not HTTPInfo:  # made when it is first asked for: few callers do
            found = HTTPInfo(found[0], ResponseHeaders(found[1]))
            object.__setattr__(self, "_http", found)
        return found

    @property
    def raw(self) -> Mapping[str, Any] | None:
        """See the class."""
        raw = self._raw
        if type(raw) is dict:  # made read-only on first use, which is rare
            raw = freeze_json(raw)
            object.__setattr__(self, "_raw", raw)
        return raw

    @property
    def message(self) -> Message:
        """The answer as a message, which you can append to your history.

        Fields that only answers have are dropped. So is the reasoning: the service charges for it, and some models refuse it.
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
    """A piece of a streamed answer, as it arrived. You can append its ``content`` to what you show.

    Attributes:
        content: Text to append; ``"".join`` of all chunks gives the answer.
        reasoning: Reasoning text to append.
        tool_calls: Fragments of tool calls. You should take the complete calls from ``stream.response``, after the end.
        finish_reason: Set on the last chunk only.
        index: The number of the choice (always 0 on this service). The response is made of choice 0.
        usage: Set on the last chunk only.
        provider_metadata: ``first_token_latency_ms``, ``total_latency_ms`` and ``tokens_per_second`` on the last chunk, else empty.

    .. versionadded:: 0.1.0
    """

    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    index: int = 0
    usage: Usage | None = None
    provider_metadata: Mapping[str, Any] = attrs.field(default=EMPTY, converter=keep_read_only)


_new_chunk = object.__new__
_set_content, _set_reasoning, _set_tool_calls, _set_finish_reason, _set_index, _set_usage, _set_metadata = [
    vars(ResponseChunk)[field.name].__set__ for field in attrs.fields(ResponseChunk)
]


def text_chunk(content: str) -> ResponseChunk:
    """Return a chunk that holds nothing but a text, as nearly all chunks of a stream do. It costs half of the class's own constructor."""
    chunk = _new_chunk(ResponseChunk)
    _set_content(chunk, content)
    _set_reasoning(chunk, None)
    _set_tool_calls(chunk, ())
    _set_finish_reason(chunk, None)
    _set_index(chunk, 0)
    _set_usage(chunk, None)
    _set_metadata(chunk, EMPTY)
    return chunk


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
