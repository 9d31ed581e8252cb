"""Bodies of requests, and what stands in answers.

Requests are unstructured by one cattrs converter, compiled once; ``None`` is left out, 0 and 0.0 are kept. Parts of answers that
are rare are structured by the same converter; what every answer has is filled by hand, which costs half.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import ResponseDecodeError
from groq_provider.types import request as q
from groq_provider.types import response as r

from .converter import decode, encode
from .fields import clean, count, instant, items, seconds, text, wrong
from .json_text import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.types import activity
    from groq_provider.types import messages as m

    from .json_text import Body

__all__ = [
    "OWN_FIELDS",
    "envelope",
    "message_parts",
    "reasoning",
    "request_body",
    "response_fields",
    "tool_call",
    "unknown_parts",
    "usage",
    "usage_breakdown",
    "x_groq",
]

#: Fields of a request that are ours and never sent.
OWN_FIELDS = frozenset({"id", "custom_id", "stream", "provider_metadata"})


# --- requests ------------------------------------------------------------------------------------------------------------


_PLAIN = frozenset({str, int, float, bool})


@functools.cache
def _sent_fields() -> tuple[str, ...]:
    apart = OWN_FIELDS | {"model", "messages"}
    return tuple(a.name for a in attrs.fields(q.LLMRequest) if a.name not in apart)


_NO_RARE = (None,) * 5


def _message_to_wire(message: m.Message) -> Any:
    rare = message.name, message.reasoning, message.tool_calls, message.tool_call_id, message.function_call
    if type(message.content) is str and rare == _NO_RARE:
        return {"role": message.role, "content": message.content}
    return encode(message)


def request_body(
    request: q.LLMRequest, *, model: str, stream: bool, extra_body: Mapping[str, Any] | None = None
) -> Body:
    """Return the JSON body of a request: model, messages, then what was set; nothing else."""
    body: dict[str, Any] = {"model": model, "messages": [_message_to_wire(message) for message in request.messages]}
    for name in _sent_fields():
        given = getattr(request, name)
        if given is not None:
            body[name] = given if type(given) in _PLAIN else encode(given)
    body["stream"] = stream
    if request.provider_metadata:
        body.update(request.provider_metadata)
    if extra_body:
        body.update(extra_body)
    return dumps(body)


# --- answers: what every one of them has, by hand ------------------------------------------------------------------------


_USAGE_KEYS = frozenset(
    {
        "prompt_tokens", "completion_tokens", "total_tokens", "queue_time", "prompt_time", "completion_time", "total_time",
        "prompt_tokens_details", "completion_tokens_details",
    }
)  # fmt: skip


def usage(data: object, path: str = "$.usage") -> r.Usage:
    """Return the usage of an answer; a missing total is the sum."""
    if type(data) is not dict:
        raise wrong(path, "an object", data)
    prompt, completion = count(data, "prompt_tokens", path) or 0, count(data, "completion_tokens", path) or 0
    cached = reasoning = None
    extra = (
        {key: item for key, item in data.items() if key not in _USAGE_KEYS} if not _USAGE_KEYS.issuperset(data) else {}
    )
    if details := data.get("prompt_tokens_details"):
        cached = _detail(details, "cached_tokens", f"{path}.prompt_tokens_details", extra, "prompt_tokens_details")
    if details := data.get("completion_tokens_details"):
        reasoning = _detail(
            details, "reasoning_tokens", f"{path}.completion_tokens_details", extra, "completion_tokens_details"
        )
    total = count(data, "total_tokens", path)
    return r.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if total is None else total,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        queue_time=seconds(data, "queue_time", path),
        prompt_time=seconds(data, "prompt_time", path),
        completion_time=seconds(data, "completion_time", path),
        total_time=seconds(data, "total_time", path),
        extra=extra,
    )


def x_groq(data: object, path: str = "$.x_groq") -> r.XGroq:
    """Return the service's own part of an answer."""
    if type(data) is not dict:
        raise wrong(path, "an object", data)
    figures = data.get("usage")
    if figures is not None and type(figures) is not dict:
        raise wrong(f"{path}.usage", "an object", figures)
    return r.XGroq(
        id=text(data, "id", path),
        seed=count(data, "seed", path),
        usage=None
        if figures is None
        else r.XGroqUsage(
            sram_cached_tokens=count(figures, "sram_cached_tokens", f"{path}.usage"),
            dram_cached_tokens=count(figures, "dram_cached_tokens", f"{path}.usage"),
            extra={key: item for key, item in figures.items() if key not in _CACHE_KEYS},
        ),
        error=text(data, "error", path),
        debug=data.get("debug"),
        extra={key: item for key, item in data.items() if key not in _X_GROQ_KEYS},
    )


_CACHE_KEYS = frozenset({"sram_cached_tokens", "dram_cached_tokens"})
_X_GROQ_KEYS = frozenset({"id", "seed", "usage", "error", "debug"})


def _detail(details: object, key: str, path: str, extra: dict[str, Any], name: str) -> int | None:
    if type(details) is not dict:
        raise wrong(path, "an object", details)
    if len(details) > 1 or key not in details:
        extra[name] = {other: item for other, item in details.items() if other != key}
    return count(details, key, path)


def tool_call(data: object, path: str) -> r.ToolCallDelta:
    """Return a tool call, whole or a fragment of one."""
    if type(data) is not dict:
        raise wrong(path, "an object", data)
    function = data.get("function")
    if function is None:
        function = {}
    elif type(function) is not dict:
        raise wrong(f"{path}.function", "an object", function)
    index = count(data, "index", path)
    extra = {key: item for key, item in data.items() if key not in _CALL} if not _CALL.issuperset(data) else {}
    if len(function) > 2:
        extra["function"] = {key: item for key, item in function.items() if key not in ("name", "arguments")}
    return r.ToolCallDelta(
        index=-1 if index is None else index,
        id=text(data, "id", path),
        name=text(function, "name", f"{path}.function"),
        arguments=text(function, "arguments", f"{path}.function") or "",
        type=text(data, "type", path),
        extra=extra,
    )


_CALL = frozenset({"index", "id", "type", "function"})

_ENVELOPE = frozenset(
    {
        "id", "object", "created", "model", "choices", "usage", "usage_breakdown", "system_fingerprint", "x_groq", "service_tier",
        "mcp_list_tools",
    }
)  # fmt: skip
_MESSAGE = frozenset(
    {
        "role", "content", "reasoning", "reasoning_content", "tool_calls", "executed_tools", "annotations", "function_call", "channel",
    }
)  # fmt: skip

# What most messages have and nothing else; they take the short way.
_USUAL_MESSAGE = frozenset({"role", "content", "reasoning", "reasoning_content", "tool_calls"})
_CHOICE = frozenset({"index", "message", "logprobs", "finish_reason"})


def envelope(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that plain answers and chunks share, as far as they are there and not null."""
    fields: dict[str, Any] = {}
    for key in ("id", "model", "system_fingerprint", "service_tier"):
        if (found := text(data, key, "$")) is not None:
            fields[key] = found
    if (created := data.get("created")) is not None:
        fields["created_at"] = instant(created, "$.created")
    if (own := data.get("x_groq")) is not None:
        fields["x_groq"] = x_groq(own)
    if (breakdown := data.get("usage_breakdown")) is not None:
        fields["usage_breakdown"] = usage_breakdown(breakdown, "$.usage_breakdown")
    if tools := items(data, "mcp_list_tools", "$"):
        from groq_provider.types import activity  # most answers do without

        fields["mcp_list_tools"] = tuple(
            [decode(activity.MCPToolList, item, f"$.mcp_list_tools[{i}]") for i, item in enumerate(tools)]
        )
    if not _ENVELOPE.issuperset(data):
        fields["extra"] = {key: item for key, item in data.items() if key not in _ENVELOPE}
    return fields


def usage_breakdown(data: object, path: str) -> activity.UsageBreakdown:
    """Return usage by model; its parts have the nested form of ``usage``."""
    from groq_provider.types import activity

    if type(data) is not dict:
        raise wrong(path, "an object", data)
    parts = []
    for index, item in enumerate(items(data, "models", path)):
        where = f"{path}.models[{index}]"
        if type(item) is not dict:
            raise wrong(where, "an object", item)
        parts.append(
            activity.ModelUsage(
                model=text(item, "model", where) or "",
                usage=usage(item.get("usage") or {}, f"{where}.usage"),
                extra={key: found for key, found in item.items() if key not in ("model", "usage")},
            )
        )
    rest = {key: item for key, item in data.items() if key != "models"}
    return activity.UsageBreakdown(models=tuple(parts) if data.get("models") is not None else None, extra=rest)


def message_parts(message: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the rarer fields of an answer's message or of a delta, as far as they are there."""
    fields: dict[str, Any] = {}
    if executed := items(message, "executed_tools", path):
        from groq_provider.types import activity  # most answers do without

        fields["executed_tools"] = tuple(
            [decode(activity.ExecutedTool, item, f"{path}.executed_tools[{i}]") for i, item in enumerate(executed)]
        )
    if annotations := items(message, "annotations", path):
        from groq_provider.types import activity  # most answers do without

        fields["annotations"] = tuple(
            [decode(activity.Annotation, item, f"{path}.annotations[{i}]") for i, item in enumerate(annotations)]
        )
    if (function_call := message.get("function_call")) is not None:
        if type(function_call) is not dict:
            raise wrong(f"{path}.function_call", "an object", function_call)
        fields["function_call"] = function_call
    return fields


def reasoning(message: dict[str, Any], path: str) -> str | None:
    """Return the reasoning of an answer's message or of a delta.

    Other servers, and gateways in front of this one, call it ``reasoning_content``; where both names are there they say the same.
    """
    return text(message, "reasoning", path) or text(message, "reasoning_content", path)


def unknown_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer's message or a delta has beside the fields known here; nulls say nothing."""
    return {key: item for key, item in message.items() if key not in _MESSAGE and item is not None}


def response_fields(data: object) -> dict[str, Any]:
    """Return the fields of :class:`~groq_provider.LLMResponse` that a plain answer's JSON gives.

    Raises:
        ResponseDecodeError: It is not a chat completion; the message names the place.
    """
    if type(data) is not dict:
        raise wrong("$", "an object", data)
    choices = items(data, "choices", "$")
    if not choices:
        raise ResponseDecodeError("the answer has no choices @ $.choices")
    choice = choices[0]
    if type(choice) is not dict:
        raise wrong("$.choices[0]", "an object", choice)
    message = choice.get("message")
    path = "$.choices[0].message"
    if type(message) is not dict:
        raise wrong(path, "an object", message)
    fields = envelope(data)
    fields["content"] = clean(text(message, "content", path) or "")
    thought = reasoning(message, path)
    fields["reasoning"] = thought and clean(thought)
    fields["finish_reason"] = text(choice, "finish_reason", "$.choices[0]")
    fields["logprobs"] = choice.get("logprobs")
    if calls := items(message, "tool_calls", path):
        from groq_provider.types import parts as p  # most answers do without

        whole = [tool_call(item, f"{path}.tool_calls[{i}]") for i, item in enumerate(calls)]
        fields["tool_calls"] = tuple(
            [
                p.ToolCall(
                    id=c.id or "",
                    name=c.name or "",
                    arguments=clean(c.arguments),
                    type=c.type or "function",
                    index=i,
                    extra=c.extra,
                )
                for i, c in enumerate(whole)
            ]
        )
    if not _USUAL_MESSAGE.issuperset(message):
        if unknown := unknown_parts(message):
            fields["extra"] = {**fields.get("extra", {}), "message": unknown}
        fields.update(message_parts(message, path))
    if not _CHOICE.issuperset(choice):
        unknown = {key: item for key, item in choice.items() if key not in _CHOICE and item is not None}
        if unknown:
            fields["extra"] = {**fields.get("extra", {}), "choice": unknown}
    if (reported := data.get("usage")) is not None:
        fields["usage"] = usage(reported)
    return fields
