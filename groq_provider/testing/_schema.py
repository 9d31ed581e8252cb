"""Values that fit a JSON Schema: the arguments and JSON answers of the emulator."""

from __future__ import annotations

import math
from typing import Any

_OPTIONAL_DEPTH = 4  # below this depth optional properties are omitted, so that recursive schemas end
_LARGEST_DEPTH = 64  # below this depth everything is null: no finite value fits such a schema
_MOST_VALUES = 5_000
_LONGEST_TEXT = 100_000
_FORMATS = {
    "date": "2026-11-01",
    "date-time": "2026-11-01T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def example(schema: Any, *, text: str = "text") -> Any:
    """Return a value that fits *schema*, always the same one.

    All of the subset that the service accepts is respected, except ``pattern``. For a schema that no value fits, or only one of
    thousands of parts, the value does not fit; for anything that is not a schema it is *text*.

    >>> example({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]})
    {'n': 3}

    Args:
        schema: The schema; ``True`` accepts anything.
        text: Content of free strings, cut to their ``maxLength``.
    """
    return _ExampleMaker(schema, text).value(schema, 0)


class _ExampleMaker:
    """Makes one value, of a bounded number of parts."""

    def __init__(self, root: Any, text: str) -> None:
        self._root = root  # ``$ref`` points into it
        self._text = text
        self._remaining_values = _MOST_VALUES

    def value(self, schema: Any, depth: int) -> Any:
        self._remaining_values -= 1
        if depth > _LARGEST_DEPTH or self._remaining_values < 0:
            return None
        if not isinstance(schema, dict):
            return self._text
        if "$ref" in schema:
            rest = {key: part for key, part in schema.items() if key != "$ref"}
            return self.value(_merge_schemas(_resolve_reference(self._root, schema["$ref"]), rest), depth + 1)
        if "const" in schema:
            return schema["const"]
        if _list_at(schema, "enum"):
            return schema["enum"][0]
        for key in ("anyOf", "oneOf"):
            choices = _list_at(schema, key)
            if choices:
                if depth >= _OPTIONAL_DEPTH:  # null ends a recursion
                    choices = sorted(choices, key=lambda choice: not _is_null(choice))
                rest = {name: part for name, part in schema.items() if name != key}
                return self.value(_merge_schemas(rest, choices[0]), depth + 1)
        if _list_at(schema, "allOf"):
            merged: Any = {key: part for key, part in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                whole = part
                if isinstance(part, dict) and "$ref" in part:
                    whole = _merge_schemas(
                        _resolve_reference(self._root, part["$ref"]), {k: v for k, v in part.items() if k != "$ref"}
                    )
                merged = _merge_schemas(merged, whole)
            return self.value(merged, depth + 1)
        kind = _type_to_make(schema, depth)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        return _scalar(kind, schema, self._text)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        needed = _list_at(schema, "required")
        parts = schema.get("properties")
        values = {
            name: self.value(part, depth + 1)
            for name, part in (parts.items() if isinstance(parts, dict) else ())
            if name in needed or depth < _OPTIONAL_DEPTH
        }
        more = schema.get("additionalProperties", True)
        for name in needed:
            if isinstance(name, str) and name not in values and more is not False:
                values[name] = self.value(more, depth + 1)
        return values

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = _list_at(schema, "prefixItems")
        usual = 1 if depth < _OPTIONAL_DEPTH and schema.get("items") is not False else 0
        least = max(_size_at(schema, "minItems", 0), usual if not first else len(first))
        count = min(least, _size_at(schema, "maxItems", math.inf), max(self._remaining_values, 0))
        items = schema.get("items", True)
        return [self.value(first[at] if at < len(first) else items, depth + 1) for at in range(int(count))]


def _list_at(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _size_at(schema: dict[str, Any], key: str, default: float) -> float:
    value: Any = schema.get(key)
    return float(max(value, 0)) if _is_number(value) else default


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_null(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "null"


def _type_to_make(schema: dict[str, Any], depth: int) -> str:
    """Return the type to make: the first that is not null, but null where a recursion must end."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        null = "null" in kinds and depth >= _OPTIONAL_DEPTH
        kinds = "null" if null else next((name for name in kinds if name != "null"), "null")
    if isinstance(kinds, str):
        return kinds
    return "object" if "properties" in schema else "array" if "items" in schema or "prefixItems" in schema else "string"


def _merge_schemas(base: Any, more: Any) -> Any:
    """Merge two schemas: properties and required names of both, everything else from *more* first."""
    if not isinstance(base, dict) or not isinstance(more, dict):
        return more if isinstance(more, dict) and more else base
    merged = {**base, **more}
    if isinstance(base.get("properties"), dict) and isinstance(more.get("properties"), dict):
        merged["properties"] = {**base["properties"], **more["properties"]}
    if isinstance(base.get("required"), list) and isinstance(more.get("required"), list):
        merged["required"] = [*base["required"], *more["required"]]
    return merged


def _scalar(kind: str, schema: dict[str, Any], text: str) -> Any:
    if kind == "null":
        return None
    if kind == "boolean":
        return True
    if kind in {"integer", "number"}:
        return _number(schema, whole=kind == "integer")
    form = schema.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    value = text or "text"
    least = int(min(_size_at(schema, "minLength", 0), _LONGEST_TEXT))
    return (value + "x" * (least - len(value)))[: int(min(_size_at(schema, "maxLength", math.inf), _LONGEST_TEXT))]


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    def bound(key: str, default: float) -> float:
        return schema[key] if _is_number(schema.get(key)) else default

    step = bound("multipleOf", 0) or (1 if whole else 0)
    low = bound("minimum", -math.inf)
    high = bound("maximum", math.inf)
    gap = 1 if whole else 0.5
    if _is_number(schema.get("exclusiveMinimum")):
        low = max(low, schema["exclusiveMinimum"] + gap)
    if _is_number(schema.get("exclusiveMaximum")):
        high = min(high, schema["exclusiveMaximum"] - gap)
    value = min(max(1, low), high)
    if step > 0:
        value = math.floor(value / step) * step
        if value < low:
            value += step
    return int(value) if whole or float(value).is_integer() else value


def _resolve_reference(root: Any, ref: Any) -> Any:
    """Return the part of *root* that a local reference names; ``True`` (anything) if there is none."""
    part_schema = root
    for part in str(ref).lstrip("#").strip("/").split("/"):
        if part:
            name = part.replace("~1", "/").replace("~0", "~")
            part_schema = part_schema.get(name, True) if isinstance(part_schema, dict) else True
    return part_schema
