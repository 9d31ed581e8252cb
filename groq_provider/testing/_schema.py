"""Values that fit a JSON Schema: the arguments and JSON answers of the emulator."""

from __future__ import annotations

import math
from typing import Any

_DEEP = 4  # below this, optional things are left out so that recursive schemas end
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


def example(schema: Any, *, text: str = "text", root: Any = None, depth: int = 0) -> Any:
    """A value that fits *schema*, always the same one.

    Patterns are not looked at; everything else of the subset the service accepts is.

    >>> example({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]})
    {'n': 3}

    Args:
        schema: The schema, `True` meaning anything.
        text: What free strings hold, cut to their `maxLength`.
        root: Schema that `$ref` points into; *schema* itself by default.
        depth: How deep in the value this is.
    """
    if not isinstance(schema, dict):
        return text
    root = schema if root is None else root
    if "$ref" in schema:
        return example(_resolve(root, schema["$ref"]), text=text, root=root, depth=depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            choices = schema[key]
            if depth >= _DEEP:  # the way out of a recursion is null
                choices = sorted(choices, key=lambda choice: choice.get("type") != "null")
            return example(choices[0], text=text, root=root, depth=depth + 1)
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged.update(_resolve(root, part["$ref"]) if "$ref" in part else part)
        return example(merged, text=text, root=root, depth=depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        null = "null" in kind and depth >= _DEEP
        kind = "null" if null else next((name for name in kind if name != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    if kind == "object":
        needed = schema.get("required", ())
        return {
            name: example(part, text=text, root=root, depth=depth + 1)
            for name, part in schema.get("properties", {}).items()
            if name in needed or depth < _DEEP
        }
    if kind == "array":
        most = schema.get("maxItems", math.inf)
        count = min(max(schema.get("minItems", 0), 1 if depth < _DEEP else 0), most)
        return [example(schema.get("items", True), text=text, root=root, depth=depth + 1) for _ in range(int(count))]
    return _scalar(kind, schema, text)


def _scalar(kind: str, schema: dict[str, Any], text: str) -> Any:
    if kind == "null":
        return None
    if kind == "boolean":
        return True
    if kind in {"integer", "number"}:
        return _number(schema, whole=kind == "integer")
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    value = text or "text"
    least = schema.get("minLength", 0)
    return (value + "x" * (least - len(value)))[: schema.get("maxLength")]


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf") or (1 if whole else None)
    low = schema.get("minimum", -math.inf)
    high = schema.get("maximum", math.inf)
    above = schema.get("exclusiveMinimum")
    below = schema.get("exclusiveMaximum")
    gap = 1 if whole else 0.5
    if isinstance(above, (int, float)):
        low = max(low, above + gap)
    if isinstance(below, (int, float)):
        high = min(high, below - gap)
    value = min(max(1, low), high)
    if step:
        value = math.floor(value / step) * step
        if value < low:
            value += step
    return int(value) if whole or float(value).is_integer() else value


def _resolve(root: Any, ref: str) -> Any:
    """The part of *root* that a local reference names; anything goes where there is none."""
    found = root
    for part in ref.lstrip("#").strip("/").split("/"):
        if part:
            found = found.get(part.replace("~1", "/").replace("~0", "~"), True) if isinstance(found, dict) else True
    return found
