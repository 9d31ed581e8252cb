"""Values to JSON and back.

Requests are unstructured by one cattrs converter, compiled once; ``None`` is left out, 0 and 0.0 are kept. Parts of answers that
are rare are structured by the same converter with strict primitives; what every answer has is filled by hand, which costs half.
"""

from __future__ import annotations

import functools
import json
import math
import uuid
from collections.abc import Mapping
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from groq_provider.errors import InvalidRequestError, ResponseDecodeError
from groq_provider.types import messages as m
from groq_provider.types import request as q
from groq_provider.types import response as r
from groq_provider.types._base import build

if TYPE_CHECKING:
    from cattrs import Converter

    from groq_provider.types import activity
    from groq_provider.types import options as o
    from groq_provider.types import parts as p

__all__ = ["decode", "encode", "loads", "loads_text", "request_body", "response_fields", "tool_call", "usage"]

T = TypeVar("T")


# --- JSON text -----------------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"a number is too large: {text[:40]}")
    return found


def _as_dict(given: object) -> dict[Any, Any]:
    """Let the encoder write the mappings that are no dict."""
    if isinstance(given, Mapping):
        return dict(given)
    raise TypeError(f"Object of type {type(given).__name__} is not JSON serializable")


# json.loads builds a decoder per call when it is given parse_constant; one decoder serves all threads.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
_scan_json, _decode_json = _decoder.scan_once, _decoder.decode  # type: ignore[attr-defined]  # not in typeshed
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_as_dict).encode


def loads(data: bytes, what: str = "the body") -> Any:
    """Decode JSON from bytes; see :func:`loads_text`. What is not UTF-8 reads U+FFFD."""
    return loads_text(data.decode("utf-8", "replace"), what)


def loads_text(text: str, what: str = "the body") -> Any:
    """Decode JSON text.

    Raises:
        ResponseDecodeError: Not JSON, nested too deep, ``NaN`` or infinite numbers.
    """
    try:
        # Straight to the scanner: decode() looks for white space before and after, which costs a quarter of a small text.
        try:
            found, end = _scan_json(text, 0)
        except StopIteration:
            end = -1
        return found if end == len(text) else _decode_json(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


class Body(bytes):
    """The JSON text of a request, which does not show itself where frames and variables are printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


def dumps(data: Any) -> Body:
    """Encode JSON text; ASCII only, so that lone surrogates and odd code points travel unharmed.

    Raises:
        InvalidRequestError: Something in it has no JSON form.
    """
    try:
        return Body(_encode_json(data), "ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {str(error)[:200]}") from None


def long_texts(body: bytes) -> list[str]:
    """Return the texts of a body that somebody wrote: long, or of several words; names of models and the like are neither."""
    found: list[str] = []
    try:
        pending = [loads(body)]
    except ResponseDecodeError:  # too deep to look into
        return found
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if len(item) >= 64 or (len(item) >= 16 and " " in item):
                found.append(item)
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
    return found


# --- the converter -------------------------------------------------------------------------------------------------------

#: Fields of a request that are ours and never sent.
OWN_FIELDS = frozenset({"id", "custom_id", "stream", "provider_metadata"})


@functools.cache
def converter() -> Converter:
    """Return the one converter. Made on first use: cattrs is costly to import, and a usual answer does without."""
    import cattrs
    from cattrs.gen import make_dict_unstructure_fn, override

    from groq_provider.types import activity, complete
    from groq_provider.types import options as o
    from groq_provider.types import parts as p

    complete()  # so that annotations can be read
    made = cattrs.Converter(detailed_validation=False, omit_if_default=True)
    _register_primitives(made)
    made.register_structure_hook_factory(
        lambda cls: attrs.has(cls) and cls.__module__ in (r.__name__, activity.__name__), _answer_hook(made)
    )
    made.register_structure_hook_factory(
        lambda cls: attrs.has(cls) and cls.__module__ in (m.__name__, q.__name__, p.__name__, o.__name__),
        lambda cls: lambda data, _: build(cls, data, what=cls.__name__),
    )
    # These have a wire form of their own, nested where the class is flat.
    for part in (p.TextPart, p.ImagePart, p.DocumentPart):
        made.register_structure_hook(part, lambda data, cls: _of_class(p.as_part(data, cls.__name__), cls))
    made.register_structure_hook(p.ToolCall, lambda data, _: p.as_tool_call(data, "ToolCall"))
    made.register_structure_hook(o.Document, lambda data, _: o.as_document(data, "Document"))
    made.register_unstructure_hook_factory(
        lambda cls: attrs.has(cls) and "extra" in attrs.fields_dict(cls), _extra_hook(made)
    )
    made.register_unstructure_hook(p.TextPart, lambda part: {"type": "text", "text": part.text})
    made.register_unstructure_hook(p.ImagePart, lambda part: {"type": "image_url", "image_url": _set_fields(part)})
    made.register_unstructure_hook(p.DocumentPart, lambda part: {"type": "document", "document": _set_fields(part)})
    made.register_unstructure_hook(p.ToolCall, _tool_call_to_wire)
    made.register_unstructure_hook(o.Document, _document_to_wire)
    # These unions are told apart by the classes of the values, not by what is declared.
    made.register_unstructure_hook_func(
        lambda cls: cls in (p.ContentPart, str | tuple[p.ContentPart, ...] | None), made.unstructure
    )
    made.register_unstructure_hook(
        m.Message,
        make_dict_unstructure_fn(
            m.Message, made, _cattrs_omit_if_default=True, content=override(unstruct_hook=_content_to_wire(made))
        ),
    )
    return made


def _register_primitives(made: Converter) -> None:
    def strict(kind: type, *accepted: type) -> None:
        def structure(data: Any, _cls: Any) -> Any:
            if type(data) not in accepted:
                raise TypeError(f"expected {kind.__name__}, got {type(data).__name__}")
            if kind is float:
                data = float(data)
                if not math.isfinite(data):
                    raise ValueError("expected a finite number")
            return data

        made.register_structure_hook(kind, structure)

    strict(str, str)
    strict(int, int)
    strict(float, float, int)
    strict(bool, bool)
    made.register_structure_hook(datetime, lambda data, _: _instant(data))
    made.register_unstructure_hook(datetime, lambda given: given.isoformat())
    made.register_structure_hook(date, lambda data, _: date.fromisoformat(data))
    made.register_unstructure_hook(date, lambda given: given.isoformat())
    made.register_structure_hook(uuid.UUID, lambda data, _: uuid.UUID(data))
    made.register_unstructure_hook(uuid.UUID, str)
    # Free mappings and Any travel as they are.
    made.register_structure_hook_func(_is_mapping, lambda data, _: _as_mapping(data))
    made.register_unstructure_hook_func(_is_mapping, lambda given: given)


def _is_mapping(cls: Any) -> bool:
    return getattr(cls, "__origin__", cls) is Mapping


def _as_mapping(data: object) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"expected object, got {type(data).__name__}")
    return data


def _of_class(found: T, cls: Any) -> T:
    if not isinstance(found, cls):
        raise TypeError(f"expected {cls.__name__}, got {type(found).__name__}")
    return found


#: Filled by hand and not named as on the wire: what the service sends may bear the name of a field of ours (``provider``,
#: ``cached_tokens``), so their ``extra`` stays apart.
_OWN_FORM = (r.LLMResponse, r.Usage)


def _answer_hook(made: Converter) -> Any:
    """Return a hook factory: known keys into fields, the others into ``extra``."""
    from cattrs.gen import make_dict_structure_fn, override

    def factory(cls: Any) -> Any:
        known = frozenset(attrs.fields_dict(cls))
        if "extra" not in known:
            return make_dict_structure_fn(cls, made)
        known -= {"extra"}
        own_form = cls in _OWN_FORM
        fill = make_dict_structure_fn(cls, made, extra=override(omit=True))

        def structure(data: Any, _cls: Any) -> Any:
            found = fill(
                {key: item for key, item in _as_mapping(data).items() if item is not None or key not in known}, cls
            )
            rest = {key: item for key, item in data.items() if key not in known}
            if own_form and "extra" in rest:
                rest.update(_as_mapping(rest.pop("extra")))
            return attrs.evolve(found, extra=rest) if rest else found

        return structure

    return factory


def _extra_hook(made: Converter) -> Any:
    """Return a hook factory: what stands in ``extra`` goes back to its own level."""
    from cattrs.gen import make_dict_unstructure_fn, override

    def factory(cls: Any) -> Any:
        write = make_dict_unstructure_fn(cls, made, _cattrs_omit_if_default=True, extra=override(omit=True))
        required = [a.name for a in attrs.fields(cls) if a.name == "type"]
        own_form = cls in _OWN_FORM

        def unstructure(given: Any) -> dict[str, Any]:
            written: dict[str, Any] = {name: getattr(given, name) for name in required}
            written.update(write(given))
            if not own_form:
                written.update(given.extra)
            elif given.extra:
                written["extra"] = given.extra
            return written

        return unstructure

    return factory


def _set_fields(part: Any) -> dict[str, Any]:
    return {a.name: item for a in attrs.fields(type(part)) if (item := getattr(part, a.name)) is not None}


def _content_to_wire(made: Converter) -> Any:
    return lambda content: (
        content if content is None or isinstance(content, str) else [made.unstructure(part) for part in content]
    )


def _tool_call_to_wire(call: p.ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": call.type, "function": {"name": call.name, "arguments": call.arguments}}


def _document_to_wire(document: o.Document) -> dict[str, Any]:
    source = (
        {"type": "json", "data": document.data} if document.text is None else {"type": "text", "text": document.text}
    )
    return {"source": source} if document.id is None else {"id": document.id, "source": source}


def encode(given: Any) -> Any:
    """Return the JSON form of a value; fields that were not set are left out."""
    return converter().unstructure(given)


def decode(cls: type[T], data: Any, path: str = "$") -> T:
    """Return the value of a JSON form.

    Raises:
        ResponseDecodeError: It does not fit; the message names the place.
    """
    try:
        return converter().structure(data, cls)
    except Exception as error:  # noqa: BLE001 - cattrs lets through whatever a field raised; all of it means "does not fit"
        raise ResponseDecodeError(
            f"{cls.__name__} does not fit: {_locate(cls, data, path) or f'{error} @ {path}'}"
        ) from None


def _locate(cls: type, data: Any, path: str) -> str | None:
    """Find the first field that does not fit, by structuring again field by field; only ever done for a bad answer."""
    if isinstance(data, list):
        return None
    if not isinstance(data, dict):
        return f"expected an object, got {type(data).__name__} @ {path}"
    for field in attrs.fields(attrs.resolve_types(cls)):
        if field.name in data and field.name != "extra" and data[field.name] is not None:
            try:
                converter().structure(data[field.name], field.type)
            except Exception as error:  # noqa: BLE001 - as above
                return f"{str(error)[:200] or type(error).__name__} @ {path}.{field.name}"
    missing = [a.name for a in attrs.fields(cls) if a.default is attrs.NOTHING and data.get(a.name) is None]
    return f"no {missing[0]!r} @ {path}" if missing else None


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


def _wrong(path: str, expected: str, found: object) -> ResponseDecodeError:
    return ResponseDecodeError(f"expected {expected}, got {type(found).__name__} @ {path}")


def _text(data: dict[str, Any], key: str, path: str) -> str | None:
    found = data.get(key)
    if found is None or type(found) is str:
        return found
    raise _wrong(f"{path}.{key}", "a string", found)


def _count(data: dict[str, Any], key: str, path: str) -> int | None:
    found = data.get(key)
    if found is None or type(found) is int:
        return found
    if type(found) is float and found.is_integer():
        return int(found)
    raise _wrong(f"{path}.{key}", "an integer", found)


def _seconds(data: dict[str, Any], key: str, path: str) -> float | None:
    found = data.get(key)
    if found is None or type(found) is float:
        return found
    if type(found) is int:
        try:
            return float(found)
        except OverflowError:
            pass
    raise _wrong(f"{path}.{key}", "a number", found)


def _instant(data: object, path: str = "$") -> datetime:
    """Take Unix seconds or ISO text."""
    try:
        if isinstance(data, str):
            return datetime.fromisoformat(data)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return datetime.fromtimestamp(data, timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    raise _wrong(path, "a time", data)


_USAGE_KEYS = frozenset(
    {
        "prompt_tokens", "completion_tokens", "total_tokens", "queue_time", "prompt_time", "completion_time", "total_time",
        "prompt_tokens_details", "completion_tokens_details",
    }
)  # fmt: skip


def usage(data: object, path: str = "$.usage") -> r.Usage:
    """Return the usage of an answer; a missing total is the sum."""
    if type(data) is not dict:
        raise _wrong(path, "an object", data)
    prompt, completion = _count(data, "prompt_tokens", path) or 0, _count(data, "completion_tokens", path) or 0
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
    total = _count(data, "total_tokens", path)
    return r.Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if total is None else total,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        queue_time=_seconds(data, "queue_time", path),
        prompt_time=_seconds(data, "prompt_time", path),
        completion_time=_seconds(data, "completion_time", path),
        total_time=_seconds(data, "total_time", path),
        extra=extra,
    )


def x_groq(data: object, path: str = "$.x_groq") -> r.XGroq:
    """Return the service's own part of an answer."""
    if type(data) is not dict:
        raise _wrong(path, "an object", data)
    figures = data.get("usage")
    if figures is not None and type(figures) is not dict:
        raise _wrong(f"{path}.usage", "an object", figures)
    return r.XGroq(
        id=_text(data, "id", path),
        seed=_count(data, "seed", path),
        usage=None
        if figures is None
        else r.XGroqUsage(
            sram_cached_tokens=_count(figures, "sram_cached_tokens", f"{path}.usage"),
            dram_cached_tokens=_count(figures, "dram_cached_tokens", f"{path}.usage"),
            extra={key: item for key, item in figures.items() if key not in _CACHE_KEYS},
        ),
        error=_text(data, "error", path),
        debug=data.get("debug"),
        extra={key: item for key, item in data.items() if key not in _X_GROQ_KEYS},
    )


_CACHE_KEYS = frozenset({"sram_cached_tokens", "dram_cached_tokens"})
_X_GROQ_KEYS = frozenset({"id", "seed", "usage", "error", "debug"})


def _detail(details: object, key: str, path: str, extra: dict[str, Any], name: str) -> int | None:
    if type(details) is not dict:
        raise _wrong(path, "an object", details)
    if len(details) > 1 or key not in details:
        extra[name] = {other: item for other, item in details.items() if other != key}
    return _count(details, key, path)


def tool_call(data: object, path: str) -> r.ToolCallDelta:
    """Return a tool call, whole or a fragment of one."""
    if type(data) is not dict:
        raise _wrong(path, "an object", data)
    function = data.get("function")
    if function is None:
        function = {}
    elif type(function) is not dict:
        raise _wrong(f"{path}.function", "an object", function)
    index = _count(data, "index", path)
    extra = {key: item for key, item in data.items() if key not in _CALL} if not _CALL.issuperset(data) else {}
    if len(function) > 2:
        extra["function"] = {key: item for key, item in function.items() if key not in ("name", "arguments")}
    return r.ToolCallDelta(
        index=-1 if index is None else index,
        id=_text(data, "id", path),
        name=_text(function, "name", f"{path}.function"),
        arguments=_text(function, "arguments", f"{path}.function") or "",
        type=_text(data, "type", path),
        extra=extra,
    )


_CALL = frozenset({"index", "id", "type", "function"})


def items(data: dict[str, Any], key: str, path: str) -> list[Any]:
    """Return the list under *key*; a missing or null one is empty."""
    found = data.get(key)
    if found is None:
        return []
    if type(found) is not list:
        raise _wrong(f"{path}.{key}", "an array", found)
    return found


_ENVELOPE = frozenset(
    {
        "id", "object", "created", "model", "choices", "usage", "usage_breakdown", "system_fingerprint", "x_groq", "service_tier",
        "mcp_list_tools",
    }
)  # fmt: skip
_MESSAGE = frozenset(
    {"role", "content", "reasoning", "tool_calls", "executed_tools", "annotations", "function_call", "channel"}
)

# What most messages have and nothing else; they take the short way.
_USUAL_MESSAGE = frozenset({"role", "content", "reasoning", "tool_calls"})
_CHOICE = frozenset({"index", "message", "logprobs", "finish_reason"})


def envelope(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that plain answers and chunks share, as far as they are there and not null."""
    fields: dict[str, Any] = {}
    for key in ("id", "model", "system_fingerprint", "service_tier"):
        if (found := _text(data, key, "$")) is not None:
            fields[key] = found
    if (created := data.get("created")) is not None:
        fields["created_at"] = _instant(created, "$.created")
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
        raise _wrong(path, "an object", data)
    parts = []
    for index, item in enumerate(items(data, "models", path)):
        where = f"{path}.models[{index}]"
        if type(item) is not dict:
            raise _wrong(where, "an object", item)
        parts.append(
            activity.ModelUsage(
                model=_text(item, "model", where) or "",
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
            raise _wrong(f"{path}.function_call", "an object", function_call)
        fields["function_call"] = function_call
    return fields


def unknown_parts(message: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer's message or a delta has beside the fields known here; nulls say nothing."""
    return {key: item for key, item in message.items() if key not in _MESSAGE and item is not None}


def response_fields(data: object) -> dict[str, Any]:
    """Return the fields of :class:`~groq_provider.LLMResponse` that a plain answer's JSON gives.

    Raises:
        ResponseDecodeError: It is not a chat completion; the message names the place.
    """
    if type(data) is not dict:
        raise _wrong("$", "an object", data)
    choices = items(data, "choices", "$")
    if not choices:
        raise ResponseDecodeError("the answer has no choices @ $.choices")
    choice = choices[0]
    if type(choice) is not dict:
        raise _wrong("$.choices[0]", "an object", choice)
    message = choice.get("message")
    path = "$.choices[0].message"
    if type(message) is not dict:
        raise _wrong(path, "an object", message)
    fields = envelope(data)
    fields["content"] = _text(message, "content", path) or ""
    fields["reasoning"] = _text(message, "reasoning", path)
    fields["finish_reason"] = _text(choice, "finish_reason", "$.choices[0]")
    fields["logprobs"] = choice.get("logprobs")
    if calls := items(message, "tool_calls", path):
        from groq_provider.types import parts as p  # most answers do without

        whole = [tool_call(item, f"{path}.tool_calls[{i}]") for i, item in enumerate(calls)]
        fields["tool_calls"] = tuple(
            [
                p.ToolCall(
                    id=c.id or "",
                    name=c.name or "",
                    arguments=c.arguments,
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
