"""Bodies of requests, and what stands in answers.

Requests are unstructured by one cattrs converter, compiled once; ``None`` is left out, 0 and 0.0 are kept. Parts of answers that
are rare are structured by the same converter; what every answer has is filled by hand, which costs half.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from groq_provider.errors import ResponseDecodeError
from groq_provider.types import request as q
from groq_provider.types import response as r
from groq_provider.types._base import EMPTY, all_of, from_answer
from groq_provider.types.allowed import GROQ
from groq_provider.types.messages import ROLES
from groq_provider.wire.converter import decode, encode
from groq_provider.wire.json_fields import (
    MAX_SECONDS,
    MAX_TOKENS,
    amount,
    clean,
    count,
    instant,
    items,
    objects,
    paced,
    seconds,
    spoken,
    text,
    word,
    wrong,
)
from groq_provider.wire.json_text import as_text, count_values, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.types import activity
    from groq_provider.types.allowed import Allowed
    from groq_provider.wire.json_text import Body

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

T = TypeVar("T")

#: Fields of a request that are ours and never sent.
OWN_FIELDS = frozenset({"id", "custom_id", "stream", "provider_metadata"})


# --- requests ------------------------------------------------------------------------------------------------------------


_PLAIN = frozenset({str, int, float, bool})
_ROLES = frozenset(ROLES) - {"tool"}


@functools.cache
def _sent_fields() -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    """Return the names of the fields that are sent as they are, and what reads them all."""
    apart = OWN_FIELDS | {"model", "messages"}
    names = tuple(a.name for a in attrs.fields(q.LLMRequest) if a.name not in apart)
    return names, all_of(names)


_NO_RARE = (None,) * 6


def request_body(
    request: q.LLMRequest,
    *,
    model: str,
    stream: bool,
    extra_body: Mapping[str, Any] | None = None,
    allowed: Allowed = GROQ,
    ask_usage: bool = False,
) -> Body:
    """Return the JSON body of a request: model, messages, then what was set; nothing else.

    Args:
        request: What is asked.
        model: The model it is asked of.
        stream: Whether the answer comes as it is made.
        extra_body: Further fields; they win.
        allowed: What the server takes.
        ask_usage: Whether a stream is to report its usage, if the request says nothing of that.

    Raises:
        InvalidRequestError: A value is not allowed; the message names its place.
    """
    # Nearly every message is text and nothing else.
    messages = [
        {"role": m.role, "content": m.content}
        if type(m.content) is str
        and (m.name, m.reasoning, m.tool_calls, m.tool_call_id, m.function_call, m.extra) == _NO_RARE
        and m.role in _ROLES
        else None
        for m in request.messages
    ]
    if None in messages:
        for index, message in enumerate(request.messages):
            if messages[index] is None:
                messages[index] = encode(allowed.check_message(message, index))
    body: dict[str, Any] = {"model": model, "messages": messages}
    checks = allowed.fields
    names, values = _sent_fields()
    for name, given in zip(names, values(request)):  # noqa: B905 - of one length, and this is a hot path
        if given is not None:
            if name in checks:
                checks[name](request, given)
            body[name] = given if type(given) in _PLAIN else encode(given)
    if stream or allowed.says_plain:
        body["stream"] = stream
    if ask_usage and stream:
        body.setdefault("stream_options", {"include_usage": True})
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


def usage(data: object, look: Callable[[], object] = int) -> r.Usage | None:
    """Return the usage that an answer reports; a missing total, or one of 0, is the sum.

    ``None`` for what is no report: without any figure, with zeros alone (a prompt has tokens), or with a figure that no answer has,
    below 0 or beyond :data:`~groq_provider.wire.json_fields.MAX_TOKENS`.
    """
    if type(data) is not dict:
        return None
    get = data.get
    prompt, completion, total = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
    # As they are in nearly every answer.
    if not (
        type(prompt) is type(completion) is type(total) is int
        and 0 < prompt <= total <= MAX_TOKENS
        and 0 <= completion <= total
    ):
        prompt, completion, total = [amount(data, key) for key in _TOKENS]
        if not (prompt or completion or total) or _absurd(data):
            return None
        prompt, completion = prompt or 0, completion or 0
    cached = reasoning = None
    extra = _others(data, _USAGE_KEYS, look)
    if details := get("prompt_tokens_details"):
        cached, rest = _detail(details, "cached_tokens", prompt)
        if rest:
            extra = from_answer({**extra, "prompt_tokens_details": rest}, look)
    if details := get("completion_tokens_details"):
        reasoning, rest = _detail(details, "reasoning_tokens")
        if rest:
            extra = from_answer({**extra, "completion_tokens_details": rest}, look)
    queue, before, during, whole = get("queue_time"), get("prompt_time"), get("completion_time"), get("total_time")
    if not (
        type(queue) is type(before) is type(during) is type(whole) is float
        and 0.0 <= queue <= MAX_SECONDS
        and 0.0 <= before <= MAX_SECONDS
        and 0.0 <= during <= MAX_SECONDS
        and 0.0 <= whole <= MAX_SECONDS
    ):
        queue, before, during, whole = [seconds(data, key) for key in _TIMES]
    return r.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total or prompt + completion,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        queue_time=queue,
        prompt_time=before,
        completion_time=during,
        total_time=whole,
        extra=extra,
    )


_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_TIMES = ("queue_time", "prompt_time", "completion_time", "total_time")


def _absurd(data: dict[str, Any]) -> bool:
    """Say whether one of the figures is a number that no answer has."""
    return any(type(found) in (int, float) and not 0 <= found <= MAX_TOKENS for found in map(data.get, _TOKENS))  # type: ignore[operator]  # numbers


def x_groq(data: dict[str, Any], look: Callable[[], object] = int) -> r.XGroq:
    """Return the service's own part of an answer."""
    figures = data.get("usage")
    return r.XGroq(
        id=word(data, "id"),
        seed=seed if type(seed := data.get("seed")) is int else amount(data, "seed"),
        usage=None
        if type(figures) is not dict
        else r.XGroqUsage(
            sram_cached_tokens=amount(figures, "sram_cached_tokens"),
            dram_cached_tokens=amount(figures, "dram_cached_tokens"),
            extra=_others(figures, _CACHE_KEYS, look),
        ),
        error=word(data, "error"),
        debug=from_answer(data.get("debug"), look),
        extra=_others(data, _X_GROQ_KEYS, look),
    )


_CACHE_KEYS = frozenset({"sram_cached_tokens", "dram_cached_tokens"})
_X_GROQ_KEYS = frozenset({"id", "seed", "usage", "error", "debug"})


def _detail(details: object, key: str, most: int = MAX_TOKENS) -> tuple[int | None, dict[str, Any]]:
    """Return a figure of the details of usage, and what else they say."""
    if type(details) is not dict:
        return None, {}
    rest = (
        {other: item for other, item in details.items() if other != key}
        if len(details) > 1 or key not in details
        else {}
    )
    return amount(details, key, most), rest


def _others(data: dict[str, Any], known: frozenset[str], look: Callable[[], object]) -> Mapping[str, Any]:
    """Return what *data* has beside the fields known here, read-only."""
    if known.issuperset(data):
        return EMPTY
    found: Mapping[str, Any] = from_answer({key: item for key, item in data.items() if key not in known}, look)
    return found


def tool_call(data: object, path: str, look: Callable[[], object] = int) -> r.ToolCallDelta:
    """Return a tool call, whole or a fragment of one."""
    if type(data) is not dict:
        raise wrong(path, "an object", data)
    function = data.get("function")
    if function is None:
        function = {}
    elif type(function) is not dict:
        raise wrong(f"{path}.function", "an object", function)
    index = count(data, "index", path)
    extra = _others(data, _CALL, look)
    if len(function) > 2:
        extra = from_answer({**extra, "function": _others(function, _FUNCTION, look)}, look)
    return r.ToolCallDelta(
        index=-1 if index is None else index,
        id=_call_id(data, path),
        name=text(function, "name", f"{path}.function"),
        arguments=_arguments(function, f"{path}.function"),
        type=word(data, "type"),
        extra=extra,
    )


_CALL = frozenset({"index", "id", "type", "function"})
_FUNCTION = frozenset({"name", "arguments"})


def _call_id(data: dict[str, Any], path: str) -> str | None:
    """Return the id of a call, which the tool's answer has to name: a number as text."""
    found = data.get("id")
    return str(found) if type(found) is int else text(data, "id", path)


def _arguments(function: dict[str, Any], path: str) -> str:
    """Return the JSON text of arguments, which some compatible servers give as an object."""
    found = function.get("arguments")
    return as_text(found) if type(found) is dict else text(function, "arguments", path) or ""


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


def envelope(data: dict[str, Any], look: Callable[[], object] = int) -> dict[str, Any]:
    """Return the fields that plain answers and chunks share, as far as they are there and can be read."""
    fields: dict[str, Any] = {}
    get = data.get
    for key in ("id", "model", "system_fingerprint", "service_tier"):
        if type(found := get(key)) is str:
            fields[key] = found
    if (created := instant(get("created"))) is not None:
        fields["created_at"] = created
    if type(own := get("x_groq")) is dict:
        fields["x_groq"] = x_groq(own, look)
    if type(breakdown := get("usage_breakdown")) is dict:
        fields["usage_breakdown"] = usage_breakdown(breakdown, look)
    if get("mcp_list_tools"):
        from groq_provider.types import activity  # most answers do without

        if tools := _readable(activity.MCPToolList, data, "mcp_list_tools", look):
            fields["mcp_list_tools"] = tools
    if not _ENVELOPE.issuperset(data):
        fields["extra"] = {key: item for key, item in data.items() if key not in _ENVELOPE}
    return fields


#: An object of more values is not read: that would take too long without a look at the clock.
_MOST_IN_ONE = 10_000


def _readable(cls: type[T], data: dict[str, Any], key: str, look: Callable[[], object]) -> tuple[T, ...]:
    """Return what can be read of a list of objects."""
    found = []
    for item in objects(data, key):
        look()
        if count_values(item, look) <= _MOST_IN_ONE:
            with suppress(ResponseDecodeError):
                found.append(decode(cls, item))
    return tuple(found)


def usage_breakdown(data: dict[str, Any], look: Callable[[], object] = int) -> activity.UsageBreakdown:
    """Return usage by model; its parts have the nested form of ``usage``."""
    from groq_provider.types import activity

    parts = [
        activity.ModelUsage(
            model=word(item, "model") or "",
            usage=usage(figures := item.get("usage"), look)
            or r.Usage(source="unknown", extra=from_answer(figures, look) if type(figures) is dict else EMPTY),
            extra=_others(item, _BY_MODEL, look),
        )
        for item in objects(data, "models")
    ]
    models = tuple(parts) if data.get("models") is not None else None
    return activity.UsageBreakdown(models=models, extra=_others(data, _MODELS, look))


_BY_MODEL = frozenset({"model", "usage"})
_MODELS = frozenset({"models"})


def message_parts(message: dict[str, Any], look: Callable[[], object] = int) -> dict[str, Any]:
    """Return the rarer fields of an answer's message or of a delta, as far as they are there and can be read."""
    fields: dict[str, Any] = {}
    if message.get("executed_tools") or message.get("annotations"):
        from groq_provider.types import activity  # most answers do without

        if executed := _readable(activity.ExecutedTool, message, "executed_tools", look):
            fields["executed_tools"] = executed
        if annotations := _readable(activity.Annotation, message, "annotations", look):
            fields["annotations"] = annotations
    if type(message.get("function_call")) is dict:
        fields["function_call"] = from_answer(message["function_call"], look)
    return fields


def reasoning(message: dict[str, Any]) -> str | None:
    """Return the reasoning of an answer's message or of a delta.

    Other servers, and gateways in front of this one, call it ``reasoning_content``; where both names are there they say the same.
    """
    return word(message, "reasoning") or word(message, "reasoning_content")


def unknown_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer's message or a delta has beside the fields known here; nulls say nothing."""
    return {key: item for key, item in message.items() if key not in _MESSAGE and item is not None}


def response_fields(data: object, look: Callable[[], object] = int) -> dict[str, Any]:
    """Return the fields of :class:`~groq_provider.LLMResponse` that a plain answer's JSON gives.

    Args:
        data: The JSON, decoded.
        look: Called every few milliseconds of work; it may raise.

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
    fields = envelope(data, look)
    fields["content"] = clean(spoken(message, "content", path) or "")
    thought = reasoning(message)
    fields["reasoning"] = thought and clean(thought)
    finish = word(choice, "finish_reason")
    fields["finish_reason"] = finish if finish != "null" else None
    fields["logprobs"] = from_answer(choice.get("logprobs"), look)
    if calls := items(message, "tool_calls", path):
        from groq_provider.types import parts as p  # most answers do without

        whole = [tool_call(item, f"{path}.tool_calls[{i}]", look) for i, item in enumerate(paced(calls, look))]
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
    extra = fields.get("extra", {})
    if not _USUAL_MESSAGE.issuperset(message):
        if unknown := unknown_parts(message):
            extra = {**extra, "message": unknown}
        fields.update(message_parts(message, look))
    if not _CHOICE.issuperset(choice):
        unknown = {key: item for key, item in choice.items() if key not in _CHOICE and item is not None}
        if unknown:
            extra = {**extra, "choice": unknown}
    if extra:
        fields["extra"] = from_answer(extra, look)
    if (reported := usage(data.get("usage"), look)) is not None:
        fields["usage"] = reported
    return fields
