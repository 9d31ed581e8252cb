"""Convert values to JSON objects and back, by one cattrs converter that accepts no other type for a field.

:mod:`groq_provider.wire.codec` uses it for requests and for the rare parts of answers.
"""

from __future__ import annotations

import functools
import math
import uuid
from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from groq_provider.errors import ResponseDecodeError
from groq_provider.types import messages as m
from groq_provider.types import request as q
from groq_provider.types import response as r
from groq_provider.types._base import build
from groq_provider.wire.json_fields import parse_instant

if TYPE_CHECKING:
    from cattrs import Converter

    from groq_provider.types import options as o
    from groq_provider.types import parts as p

__all__ = ["converter", "decode", "encode"]

T = TypeVar("T")


@functools.cache
def converter() -> Converter:
    """Return the one converter. It is made on first use: cattrs is slow to import, and most answers do not need it."""
    import cattrs

    from groq_provider.types import activity, load_annotations
    from groq_provider.types import options as o
    from groq_provider.types import parts as p

    load_annotations()  # cattrs resolves the annotations of the value classes
    instance = cattrs.Converter(detailed_validation=False, omit_if_default=True)
    _register_primitives(instance)
    instance.register_structure_hook_factory(
        lambda cls: attrs.has(cls) and cls.__module__ in (r.__name__, activity.__name__), _answer_hook(instance)
    )
    instance.register_structure_hook_factory(
        lambda cls: attrs.has(cls) and cls.__module__ in (m.__name__, q.__name__, p.__name__, o.__name__),
        lambda cls: lambda data, _: build(cls, data, what=cls.__name__),
    )
    # The JSON form of these classes is nested where the class is flat.
    for part in (p.TextPart, p.ImagePart, p.DocumentPart, p.OtherPart):
        instance.register_structure_hook(part, lambda data, cls: _require_class(p.as_part(data, cls.__name__), cls))
    instance.register_structure_hook(p.ToolCall, lambda data, _: p.as_tool_call(data, "ToolCall"))
    instance.register_structure_hook(o.Document, lambda data, _: o.as_document(data, "Document"))
    instance.register_unstructure_hook_factory(
        lambda cls: attrs.has(cls) and "extra" in attrs.fields_dict(cls), _extra_hook(instance)
    )
    instance.register_unstructure_hook(p.TextPart, lambda part: {"type": "text", "text": part.text})
    instance.register_unstructure_hook(p.ImagePart, lambda part: {"type": "image_url", "image_url": _set_fields(part)})
    instance.register_unstructure_hook(p.DocumentPart, lambda part: {"type": "document", "document": _set_fields(part)})
    instance.register_unstructure_hook(p.OtherPart, lambda part: dict(part.data))
    instance.register_unstructure_hook(p.ToolCall, _tool_call_to_wire)
    instance.register_unstructure_hook(o.Document, _document_to_wire)
    # Write the members of these unions by the class of the value, not by the declared type.
    instance.register_unstructure_hook_func(
        lambda cls: cls in (p.ContentPart, str | tuple[p.ContentPart, ...] | None), instance.unstructure
    )
    instance.register_unstructure_hook(m.Message, _message_to_wire(instance))
    return instance


def _register_primitives(instance: Converter) -> None:
    def strict(target: type, *accepted: type) -> None:
        def structure(data: Any, _cls: Any) -> Any:
            if type(data) not in accepted:
                raise TypeError(f"expected {target.__name__}, got {type(data).__name__}")
            if target is float:
                data = float(data)
                if not math.isfinite(data):
                    raise ValueError("expected a finite number")
            return data

        instance.register_structure_hook(target, structure)

    strict(str, str)
    strict(int, int)
    strict(float, float, int)
    strict(bool, bool)
    instance.register_structure_hook(datetime, lambda data, _: _require_instant(data))
    instance.register_unstructure_hook(datetime, lambda value: value.isoformat())
    instance.register_structure_hook(date, lambda data, _: date.fromisoformat(data))
    instance.register_unstructure_hook(date, lambda value: value.isoformat())
    instance.register_structure_hook(uuid.UUID, lambda data, _: uuid.UUID(data))
    instance.register_unstructure_hook(uuid.UUID, str)
    # Free mappings and ``Any`` are passed through.
    instance.register_structure_hook_func(_is_mapping, lambda data, _: _require_mapping(data))
    instance.register_unstructure_hook_func(_is_mapping, lambda value: value)


def _is_mapping(cls: Any) -> bool:
    return getattr(cls, "__origin__", cls) is Mapping


def _require_mapping(data: object) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"expected object, got {type(data).__name__}")
    return data


def _require_instant(data: object) -> datetime:
    parsed = parse_instant(data)
    if parsed is None:
        raise TypeError(f"expected a time, got {type(data).__name__}")
    return parsed


def _require_class(part: T, cls: Any) -> T:
    if not isinstance(part, cls):
        raise TypeError(f"expected {cls.__name__}, got {type(part).__name__}")
    return part


#: These classes have fields of this library's own (``provider``, ``cached_tokens``), and a field of the service may have the same name.
#: So their ``extra`` is written as a field, and not spread into the object.
_KEEPS_EXTRA = (r.LLMResponse, r.Usage)


def _answer_hook(instance: Converter) -> Any:
    """Return a hook factory that reads known keys into fields and the other keys into ``extra``."""
    from cattrs.gen import make_dict_structure_fn, override

    def factory(cls: Any) -> Any:
        known = frozenset(field.alias for field in attrs.fields(cls))
        if "extra" not in known:
            return make_dict_structure_fn(cls, instance)
        known -= {"extra"}
        keeps_extra = cls in _KEEPS_EXTRA
        fill = make_dict_structure_fn(cls, instance, extra=override(omit=True), **_aliases(cls))

        def structure(data: Any, _cls: Any) -> Any:
            filled = fill(
                {key: item for key, item in _require_mapping(data).items() if item is not None or key not in known}, cls
            )
            unknown = {key: item for key, item in data.items() if key not in known}
            if keeps_extra and "extra" in unknown:
                unknown.update(_require_mapping(unknown.pop("extra")))
            return attrs.evolve(filled, extra=unknown) if unknown else filled

        return structure

    return factory


def _aliases(cls: Any) -> dict[str, Any]:
    """Name fields that stand behind a property (``_raw``) in JSON as the property (``raw``)."""
    from cattrs.gen import override

    return {field.name: override(rename=field.alias) for field in attrs.fields(cls) if field.alias != field.name}


def _extra_hook(instance: Converter) -> Any:
    """Return a hook factory that spreads ``extra`` into the object again."""
    from cattrs.gen import make_dict_unstructure_fn, override

    def factory(cls: Any) -> Any:
        write = make_dict_unstructure_fn(
            cls, instance, _cattrs_omit_if_default=True, extra=override(omit=True), **_aliases(cls)
        )
        required = [a.name for a in attrs.fields(cls) if a.name == "type"]
        keeps_extra = cls in _KEEPS_EXTRA

        def unstructure(value: Any) -> dict[str, Any]:
            written: dict[str, Any] = {name: getattr(value, name) for name in required}
            written.update(write(value))
            if not keeps_extra:
                written.update(value.extra)
            elif value.extra:
                written["extra"] = value.extra
            return written

        return unstructure

    return factory


def _set_fields(part: Any) -> dict[str, Any]:
    return {a.name: item for a in attrs.fields(type(part)) if (item := getattr(part, a.name)) is not None}


def _content_to_wire(instance: Converter) -> Any:
    return lambda content: (
        content if content is None or isinstance(content, str) else [instance.unstructure(part) for part in content]
    )


def _message_to_wire(instance: Converter) -> Any:
    from cattrs.gen import make_dict_unstructure_fn, override

    write = make_dict_unstructure_fn(
        m.Message,
        instance,
        _cattrs_omit_if_default=True,
        content=override(unstruct_hook=_content_to_wire(instance)),
        extra=override(omit=True),
    )

    def unstructure(message: m.Message) -> dict[str, Any]:
        written: dict[str, Any] = {
            "role": message.role,
            "content": None,
        }  # sent also without text: some servers require the key
        written.update(write(message))
        return {**written, **message.extra} if message.extra else written

    return unstructure


def _tool_call_to_wire(call: p.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    written = {"id": call.id, "type": call.type, "function": function}
    if call.extra:
        extra_function = call.extra.get("function")
        written = {
            **call.extra,
            **written,
            "function": {**extra_function, **function} if isinstance(extra_function, Mapping) else function,
        }
    return written


def _document_to_wire(document: o.Document) -> dict[str, Any]:
    source = (
        {"type": "json", "data": document.data} if document.text is None else {"type": "text", "text": document.text}
    )
    return {"source": source} if document.id is None else {"id": document.id, "source": source}


def encode(value: Any) -> Any:
    """Return the JSON form of a value, without the fields that have their defaults."""
    return converter().unstructure(value)


def decode(cls: type[T], data: Any, path: str = "$") -> T:
    """Return the value that a JSON form stands for.

    Raises:
        ResponseDecodeError: The data does not fit; the message names the place.
    """
    try:
        return converter().structure(data, cls)
    except Exception as error:  # noqa: BLE001 - cattrs passes on any error of a field; each one means "does not fit"
        raise ResponseDecodeError(
            f"{cls.__name__} does not fit: {_locate(cls, data, path) or f'{error} @ {path}'}"
        ) from None


def _locate(cls: type, data: Any, path: str) -> str | None:
    """Find the first field that does not fit, by reading the fields one by one; slow, and done for bad answers only."""
    if isinstance(data, list):
        return None
    if not isinstance(data, dict):
        return f"expected an object, got {type(data).__name__} @ {path}"
    for field in attrs.fields(attrs.resolve_types(cls)):
        name = field.alias
        if name in data and name != "extra" and data[name] is not None:
            try:
                converter().structure(data[name], field.type)
            except Exception as error:  # noqa: BLE001 - as above
                return f"{str(error)[:200] or type(error).__name__} @ {path}.{name}"
    missing = [a.name for a in attrs.fields(cls) if a.default is attrs.NOTHING and data.get(a.name) is None]
    return f"no {missing[0]!r} @ {path}" if missing else None
