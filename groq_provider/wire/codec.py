"""Write the bodies of requests and read the bodies of answers.

A request is written by one cattrs converter, which is compiled once: ``None`` is left out, 0 and 0.0 are sent. The same converter reads
the rare parts of an answer. The fields of every answer are read by hand, which takes half the time.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from datetime import datetime, timezone
from itertools import compress, repeat
from operator import is_not
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from groq_provider.errors import ResponseDecodeError
from groq_provider.types import request as q
from groq_provider.types import response as r
from groq_provider.types._base import EMPTY, attribute_reader, freeze_json
from groq_provider.types.allowed import GROQ
from groq_provider.types.messages import ROLES
from groq_provider.wire.converter import decode, encode
from groq_provider.wire.json_fields import (
    MAX_SECONDS,
    MAX_TOKENS,
    count_values,
    joined_text,
    lenient_integer,
    lenient_objects,
    lenient_seconds,
    lenient_text,
    parse_instant,
    replace_halves,
    strict_integer,
    strict_items,
    strict_text,
    type_mismatch,
    with_checkpoints,
)
from groq_provider.wire.json_text import as_text, dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.types import activity
    from groq_provider.types.allowed import Allowed
    from groq_provider.wire.json_text import Body

__all__ = [
    "OWN_FIELDS",
    "envelope",
    "rare_fields",
    "reasoning",
    "request_body",
    "response_fields",
    "tool_call",
    "unknown_fields",
    "usage",
    "usage_breakdown",
    "x_groq",
]

T = TypeVar("T")

#: Fields of a request that this library uses itself and never sends.
OWN_FIELDS = frozenset({"id", "custom_id", "stream", "provider_metadata"})


# --- requests ------------------------------------------------------------------------------------------------------------


_PLAIN_TYPES = frozenset({str, int, float, bool})
_PLAIN_ROLES = frozenset(ROLES) - {"tool"}


@functools.cache
def _sent_fields() -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    """Return the names of the fields that are sent under their own name, and a function that reads them all at once."""
    handled_apart = OWN_FIELDS | {"model", "messages"}
    names = tuple(a.name for a in attrs.fields(q.LLMRequest) if a.name not in handled_apart)
    return names, attribute_reader(names)


_NO_RARE_FIELDS = (None,) * 6


def request_body(
    request: q.LLMRequest,
    *,
    model: str,
    stream: bool,
    extra_body: Mapping[str, Any] | None = None,
    allowed: Allowed = GROQ,
    ask_usage: bool = False,
) -> Body:
    """Return the JSON body of a request: the model, the messages, and the fields that the caller has set.

    Args:
        request: The request.
        model: The model to send; it may come from the configuration instead of the request.
        stream: Whether to ask for an event stream.
        extra_body: Further fields, which override those of the request.
        allowed: The rules of the server.
        ask_usage: Ask a stream to report its usage, unless the request has ``stream_options``.

    Raises:
        InvalidRequestError: A value is not allowed; the message names its place.
    """
    # Nearly every message is plain text.
    messages: list[Any] = []
    for index, m in enumerate(request.messages):
        if (
            type(m.content) is str
            and (m.name, m.reasoning, m.tool_calls, m.tool_call_id, m.function_call, m.extra) == _NO_RARE_FIELDS
            and m.role in _PLAIN_ROLES
        ):
            messages.append({"role": m.role, "content": m.content})
        else:
            messages.append(encode(allowed.check_message(m, index)))
    body: dict[str, Any] = {"model": model, "messages": messages}
    checks = allowed.fields
    names, read_values = _sent_fields()
    values = read_values(request)
    # A hot path: compress() skips the many fields that are not set without a step of Python code.
    for name, value in compress(zip(names, values), map(is_not, values, repeat(None))):  # noqa: B905 - of one length
        if name in checks:
            checks[name](request, value)
        body[name] = value if type(value) in _PLAIN_TYPES else encode(value)
    if stream or allowed.sends_stream_false:
        body["stream"] = stream
    if ask_usage and stream:
        body.setdefault("stream_options", {"include_usage": True})
    if request.provider_metadata:
        body.update(request.provider_metadata)
    if extra_body:
        body.update(extra_body)
    return dumps(body)


# --- answers: the fields of every answer, by hand ------------------------------------------------------------------------


_USAGE_KEYS = frozenset(
    {
        "prompt_tokens", "completion_tokens", "total_tokens", "queue_time", "prompt_time", "completion_time", "total_time",
        "prompt_tokens_details", "completion_tokens_details",
    }
)  # fmt: skip


def usage(data: object, checkpoint: Callable[[], object] = int) -> r.Usage | None:
    """Return the usage that an answer reports; a missing total, or a total of 0, becomes the sum.

    Returns:
        ``None`` for a report without figures, with zeros alone (every prompt has tokens), or with a figure below 0 or above
        :data:`~groq_provider.wire.json_fields.MAX_TOKENS`. The caller must then keep its estimate.
    """
    if type(data) is not dict:
        return None
    get = data.get
    prompt, completion, total = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
    # The short way: nearly every answer passes this check.
    if not (
        type(prompt) is type(completion) is type(total) is int
        and 0 < prompt <= total <= MAX_TOKENS
        and 0 <= completion <= total
    ):
        prompt, completion, total = [lenient_integer(data, key) for key in _TOKEN_FIELDS]
        if not (prompt or completion or total) or _has_absurd_figure(data):
            return None
        prompt, completion = prompt or 0, completion or 0
    cached = reasoning = None
    extra = EMPTY if _USAGE_KEYS.issuperset(data) else _other_fields(data, _USAGE_KEYS, checkpoint)
    if details := get("prompt_tokens_details"):
        cached, rest = _split_detail(details, "cached_tokens", prompt)
        if rest:
            extra = freeze_json({**extra, "prompt_tokens_details": rest}, checkpoint)
    if details := get("completion_tokens_details"):
        reasoning, rest = _split_detail(details, "reasoning_tokens")
        if rest:
            extra = freeze_json({**extra, "completion_tokens_details": rest}, checkpoint)
    queue, before, during, whole = get("queue_time"), get("prompt_time"), get("completion_time"), get("total_time")
    if not (
        type(queue) is type(before) is type(during) is type(whole) is float
        and 0.0 <= queue <= MAX_SECONDS
        and 0.0 <= before <= MAX_SECONDS
        and 0.0 <= during <= MAX_SECONDS
        and 0.0 <= whole <= MAX_SECONDS
    ):
        queue, before, during, whole = [lenient_seconds(data, key) for key in _TIME_FIELDS]
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


_TOKEN_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
_TIME_FIELDS = ("queue_time", "prompt_time", "completion_time", "total_time")


def _has_absurd_figure(data: dict[str, Any]) -> bool:
    """Tell whether a figure lies outside the range that is believed."""
    return any(
        type(figure) in (int, float) and not 0 <= figure <= MAX_TOKENS  # type: ignore[operator]  # numbers
        for figure in map(data.get, _TOKEN_FIELDS)
    )


def x_groq(data: dict[str, Any], checkpoint: Callable[[], object] = int) -> r.XGroq:
    """Return the ``x_groq`` part of an answer."""
    get = data.get
    own_id, seed, figures, error, debug = get("id"), get("seed"), get("usage"), get("error"), get("debug")
    return r.XGroq(
        id=own_id if type(own_id) is str else None,
        seed=seed if type(seed) is int else lenient_integer(data, "seed"),
        usage=None
        if type(figures) is not dict
        else r.XGroqUsage(
            sram_cached_tokens=lenient_integer(figures, "sram_cached_tokens"),
            dram_cached_tokens=lenient_integer(figures, "dram_cached_tokens"),
            extra=_other_fields(figures, _CACHE_KEYS, checkpoint),
        ),
        error=error if type(error) is str else None,
        debug=None if debug is None else freeze_json(debug, checkpoint),
        extra=EMPTY if _X_GROQ_KEYS.issuperset(data) else _other_fields(data, _X_GROQ_KEYS, checkpoint),
    )


_CACHE_KEYS = frozenset({"sram_cached_tokens", "dram_cached_tokens"})
_X_GROQ_KEYS = frozenset({"id", "seed", "usage", "error", "debug"})


def _split_detail(details: object, key: str, maximum: int = MAX_TOKENS) -> tuple[int | None, dict[str, Any]]:
    """Return the figure under *key* in the details of a usage report, and the other fields of the details."""
    if type(details) is not dict:
        return None, {}
    rest = (
        {other: item for other, item in details.items() if other != key}
        if len(details) > 1 or key not in details
        else {}
    )
    return lenient_integer(details, key, maximum), rest


def _other_fields(data: dict[str, Any], known: frozenset[str], checkpoint: Callable[[], object]) -> Mapping[str, Any]:
    """Return the fields of *data* that are not *known*, read-only. On hot paths, ask first whether there are any."""
    if known.issuperset(data):
        return EMPTY
    others: Mapping[str, Any] = freeze_json({key: item for key, item in data.items() if key not in known}, checkpoint)
    return others


def tool_call(data: object, path: str, checkpoint: Callable[[], object] = int) -> r.ToolCallDelta:
    """Return a tool call of a plain answer, or a fragment of one of a stream."""
    if type(data) is not dict:
        raise type_mismatch(path, "an object", data)
    function = data.get("function")
    if function is None:
        function = {}
    elif type(function) is not dict:
        raise type_mismatch(f"{path}.function", "an object", function)
    index = strict_integer(data, "index", path)
    extra = _other_fields(data, _CALL_KEYS, checkpoint)
    if len(function) > 2:
        extra = freeze_json({**extra, "function": _other_fields(function, _FUNCTION_KEYS, checkpoint)}, checkpoint)
    return r.ToolCallDelta(
        index=-1 if index is None else index,
        id=_tool_call_id(data, path),
        name=strict_text(function, "name", f"{path}.function"),
        arguments=_arguments_text(function, f"{path}.function"),
        type=lenient_text(data, "type"),
        extra=extra,
    )


_CALL_KEYS = frozenset({"index", "id", "type", "function"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


def _tool_call_id(data: dict[str, Any], path: str) -> str | None:
    """Return the id of a call, strictly, because the tool message must name it; a number becomes text."""
    call_id = data.get("id")
    return str(call_id) if type(call_id) is int else strict_text(data, "id", path)


def _arguments_text(function: dict[str, Any], path: str) -> str:
    """Return the arguments as JSON text; some compatible servers send an object instead of text."""
    arguments = function.get("arguments")
    return as_text(arguments) if type(arguments) is dict else strict_text(function, "arguments", path) or ""


_ENVELOPE_KEYS = frozenset(
    {
        "id", "object", "created", "model", "choices", "usage", "usage_breakdown", "system_fingerprint", "x_groq", "service_tier",
        "mcp_list_tools",
    }
)  # fmt: skip
_MESSAGE_KEYS = frozenset(
    {
        "role", "content", "reasoning", "reasoning_content", "tool_calls", "executed_tools", "annotations", "function_call", "channel",
    }
)  # fmt: skip

# A message with these keys alone takes the short way through ``response_fields``; most messages do.
_USUAL_MESSAGE_KEYS = frozenset({"role", "content", "reasoning", "reasoning_content", "tool_calls"})
_CHOICE_KEYS = frozenset({"index", "message", "logprobs", "finish_reason"})


#: Unix seconds of the year 2100: an instant up to there is read without further checks.
_LATEST_INSTANT = 4_102_444_800


def envelope(data: dict[str, Any], checkpoint: Callable[[], object] = int) -> dict[str, Any]:
    """Return the fields that plain answers and chunks share, leniently."""
    fields: dict[str, Any] = {}
    get = data.get
    for key in ("id", "model", "system_fingerprint", "service_tier"):
        if type(item := get(key)) is str:
            fields[key] = item
    created = get("created")
    if type(created) is int and 0 < created <= _LATEST_INSTANT:
        fields["created_at"] = datetime.fromtimestamp(created, timezone.utc)
    elif created is not None and (instant := parse_instant(created)) is not None:
        fields["created_at"] = instant
    if type(own := get("x_groq")) is dict:
        fields["x_groq"] = x_groq(own, checkpoint)
    if type(breakdown := get("usage_breakdown")) is dict:
        fields["usage_breakdown"] = usage_breakdown(breakdown, checkpoint)
    if get("mcp_list_tools"):
        from groq_provider.types import activity  # imported late: most answers do without

        if tools := _decode_readable(activity.MCPToolList, data, "mcp_list_tools", checkpoint):
            fields["mcp_list_tools"] = tools
    if not _ENVELOPE_KEYS.issuperset(data):
        fields["extra"] = {key: item for key, item in data.items() if key not in _ENVELOPE_KEYS}
    return fields


#: An object of more values is skipped: cattrs would read it without any checkpoint.
_MAX_OBJECT_VALUES = 10_000


def _decode_readable(cls: type[T], data: dict[str, Any], key: str, checkpoint: Callable[[], object]) -> tuple[T, ...]:
    """Decode the objects of a list, and skip those that do not fit."""
    decoded = []
    for item in lenient_objects(data, key):
        checkpoint()
        if count_values(item, checkpoint) <= _MAX_OBJECT_VALUES:
            with suppress(ResponseDecodeError):
                decoded.append(decode(cls, item))
    return tuple(decoded)


def usage_breakdown(data: dict[str, Any], checkpoint: Callable[[], object] = int) -> activity.UsageBreakdown:
    """Return the usage by model. Each entry nests its figures under ``usage``."""
    from groq_provider.types import activity

    parts = [
        activity.ModelUsage(
            model=lenient_text(item, "model") or "",
            usage=usage(figures := item.get("usage"), checkpoint)
            or r.Usage(source="unknown", extra=freeze_json(figures, checkpoint) if type(figures) is dict else EMPTY),
            extra=_other_fields(item, _BY_MODEL_KEYS, checkpoint),
        )
        for item in lenient_objects(data, "models")
    ]
    models = tuple(parts) if data.get("models") is not None else None
    return activity.UsageBreakdown(models=models, extra=_other_fields(data, _MODELS_KEYS, checkpoint))


_BY_MODEL_KEYS = frozenset({"model", "usage"})
_MODELS_KEYS = frozenset({"models"})


def rare_fields(message: dict[str, Any], checkpoint: Callable[[], object] = int) -> dict[str, Any]:
    """Return the rare fields of a message or of a delta, leniently."""
    fields: dict[str, Any] = {}
    if message.get("executed_tools") or message.get("annotations"):
        from groq_provider.types import activity  # imported late: most answers do without

        if executed := _decode_readable(activity.ExecutedTool, message, "executed_tools", checkpoint):
            fields["executed_tools"] = executed
        if annotations := _decode_readable(activity.Annotation, message, "annotations", checkpoint):
            fields["annotations"] = annotations
    if type(message.get("function_call")) is dict:
        fields["function_call"] = freeze_json(message["function_call"], checkpoint)
    return fields


def reasoning(message: dict[str, Any]) -> str | None:
    """Return the reasoning text of a message or of a delta.

    Other servers, and gateways in front of this service, call the field ``reasoning_content``. With both names the texts are the same.
    """
    return lenient_text(message, "reasoning") or lenient_text(message, "reasoning_content")


def unknown_fields(message: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a message or of a delta that this version does not know; nulls are dropped."""
    return {key: item for key, item in message.items() if key not in _MESSAGE_KEYS and item is not None}


def response_fields(data: object, checkpoint: Callable[[], object] = int) -> dict[str, Any]:
    """Return the fields of :class:`~groq_provider.LLMResponse` from a plain answer.

    Args:
        data: The decoded JSON.
        checkpoint: Called every few milliseconds of work; it may raise.

    Raises:
        ResponseDecodeError: The value is not a chat completion; the message names the place.
    """
    if type(data) is not dict:
        raise type_mismatch("$", "an object", data)
    choices = data.get("choices")
    if type(choices) is not list or len(choices) > 1:
        choices = strict_items(data, "choices", "$")
    if not choices:
        raise ResponseDecodeError("the answer has no choices @ $.choices")
    choice = choices[0]
    if type(choice) is not dict:
        raise type_mismatch("$.choices[0]", "an object", choice)
    message = choice.get("message")
    path = "$.choices[0].message"
    if type(message) is not dict:
        raise type_mismatch(path, "an object", message)
    fields = envelope(data, checkpoint)
    # Each field is read by a function only if it is not what nearly every answer has: this is a hot path.
    content = message.get("content")
    if type(content) is not str:
        content = joined_text(message, "content", path) or ""
    fields["content"] = content if content.isascii() else replace_halves(content)
    thought = None
    if "reasoning" in message or "reasoning_content" in message:
        thought = reasoning(message)
    fields["reasoning"] = thought and replace_halves(thought)
    finish = choice.get("finish_reason")
    fields["finish_reason"] = finish if type(finish) is str and finish != "null" else None
    logprobs = choice.get("logprobs")
    if logprobs is not None:
        fields["logprobs"] = freeze_json(logprobs, checkpoint)
    if message.get("tool_calls") is not None and (calls := strict_items(message, "tool_calls", path)):
        from groq_provider.types import parts as p  # imported late: most answers have no tool calls

        whole = [
            tool_call(item, f"{path}.tool_calls[{i}]", checkpoint)
            for i, item in enumerate(with_checkpoints(calls, checkpoint))
        ]
        fields["tool_calls"] = tuple(
            [
                p.ToolCall(
                    id=c.id or "",
                    name=c.name or "",
                    arguments=replace_halves(c.arguments),
                    type=c.type or "function",
                    index=i,
                    extra=c.extra,
                )
                for i, c in enumerate(whole)
            ]
        )
    extra = fields.get("extra", {})
    if not _USUAL_MESSAGE_KEYS.issuperset(message):
        if unknown := unknown_fields(message):
            extra = {**extra, "message": unknown}
        fields.update(rare_fields(message, checkpoint))
    if not _CHOICE_KEYS.issuperset(choice):
        unknown = {key: item for key, item in choice.items() if key not in _CHOICE_KEYS and item is not None}
        if unknown:
            extra = {**extra, "choice": unknown}
    if extra:
        fields["extra"] = freeze_json(extra, checkpoint)
    if (reported := usage(data.get("usage"), checkpoint)) is not None:
        fields["usage"] = reported
    return fields
