"""Values to JSON objects and back, by one cattrs converter with strict primitives; for all that is not in every answer."""

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
from groq_provider.wire.json_fields import instant

if TYPE_CHECKING:
    from cattrs import Converter

    from groq_provider.types import options as o
    from groq_provider.types import parts as p

__all__ = ["converter", "decode", "encode"]

T = TypeVar("T")


@functools.cache
def converter() -> Converter:
    """Return the one converter. Made on first use: cattrs is costly to import, and a usual answer does without."""
    import cattrs

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
    for part in (p.TextPart, p.ImagePart, p.DocumentPart, p.OtherPart):
        made.register_structure_hook(part, lambda data, cls: _of_class(p.as_part(data, cls.__name__), cls))
    made.register_structure_hook(p.ToolCall, lambda data, _: p.as_tool_call(data, "ToolCall"))
    made.register_structure_hook(o.Document, lambda data, _: o.as_document(data, "Document"))
    made.register_unstructure_hook_factory(
        lambda cls: attrs.has(cls) and "extra" in attrs.fields_dict(cls), _extra_hook(made)
    )
    made.register_unstructure_hook(p.TextPart, lambda part: {"type": "text", "text": part.text})
    made.register_unstructure_hook(p.ImagePart, lambda part: {"type": "image_url", "image_url": _set_fields(part)})
    made.register_unstructure_hook(p.DocumentPart, lambda part: {"type": "document", "document": _set_fields(part)})
    made.register_unstructure_hook(p.OtherPart, lambda part: dict(part.data))
    made.register_unstructure_hook(p.ToolCall, _tool_call_to_wire)
    made.register_unstructure_hook(o.Document, _document_to_wire)
    # These unions are told apart by the classes of the values, not by what is declared.
    made.register_unstructure_hook_func(
        lambda cls: cls in (p.ContentPart, str | tuple[p.ContentPart, ...] | None), made.unstructure
    )
    made.register_unstructure_hook(m.Message, _message_to_wire(made))
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
    made.register_structure_hook(datetime, lambda data, _: _as_instant(data))
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


def _as_instant(data: object) -> datetime:
    found = instant(data)
    if found is None:
        raise TypeError(f"expected a time, got {type(data).__name__}")
    return found


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
        known = frozenset(field.alias for field in attrs.fields(cls))
        if "extra" not in known:
            return make_dict_structure_fn(cls, made)
        known -= {"extra"}
        own_form = cls in _OWN_FORM
        fill = make_dict_structure_fn(cls, made, extra=override(omit=True), **_aliases(cls))

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


def _aliases(cls: Any) -> dict[str, Any]:
    """Let fields behind a property have its name in JSON."""
    from cattrs.gen import override

    return {field.name: override(rename=field.alias) for field in attrs.fields(cls) if field.alias != field.name}


def _extra_hook(made: Converter) -> Any:
    """Return a hook factory: what stands in ``extra`` goes back to its own level."""
    from cattrs.gen import make_dict_unstructure_fn, override

    def factory(cls: Any) -> Any:
        write = make_dict_unstructure_fn(
            cls, made, _cattrs_omit_if_default=True, extra=override(omit=True), **_aliases(cls)
        )
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


def _message_to_wire(made: Converter) -> Any:
    from cattrs.gen import make_dict_unstructure_fn, override

    write = make_dict_unstructure_fn(
        m.Message,
        made,
        _cattrs_omit_if_default=True,
        content=override(unstruct_hook=_content_to_wire(made)),
        extra=override(omit=True),
    )

    def unstructure(message: m.Message) -> dict[str, Any]:
        written: dict[str, Any] = {
            "role": message.role,
            "content": None,
        }  # there also without text: some servers ask for it
        written.update(write(message))
        return {**written, **message.extra} if message.extra else written

    return unstructure


def _tool_call_to_wire(call: p.ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    written = {"id": call.id, "type": call.type, "function": function}
    if call.extra:
        further = call.extra.get("function")
        written = {
            **call.extra,
            **written,
            "function": {**further, **function} if isinstance(further, Mapping) else function,
        }
    return written


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
        name = field.alias
        if name in data and name != "extra" and data[name] is not None:
            try:
                converter().structure(data[name], field.type)
            except Exception as error:  # noqa: BLE001 - as above
                return f"{str(error)[:200] or type(error).__name__} @ {path}.{name}"
    missing = [a.name for a in attrs.fields(cls) if a.default is attrs.NOTHING and data.get(a.name) is None]
    return f"no {missing[0]!r} @ {path}" if missing else None
