"""Prompts that ask for JSON in words, as libraries of structured output do where they use no `response_format`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DEMAND = re.compile(
    r"\b(?:answer|format(?:ted)?|give|output|produce|provide|reply|respond|return|write)\b[^.\n]{0,60}?"
    r"\b(?:as|in|only|valid|correct|raw|a|an|the|with)\s+(?:\w+\s+){0,2}json\b(?!\s+(?:parser|library|file|schema))",
    re.IGNORECASE,
)
_FENCE = re.compile(r"code\s?-?block|```json", re.IGNORECASE)
_KINDS = frozenset({"object", "array", "string", "integer", "number", "boolean"})
_HOLDERS = ("schema", "json_schema", "parameters", "input_schema")
_MOST_TRIES = 1000  # a prompt full of braces costs no more than so many looks


@dataclass(frozen=True)
class JSONWish:
    """That JSON is wanted: of which schema, if the prompt holds one, and whether inside a Markdown fence."""

    schema: Mapping[str, Any] | None
    fenced: bool


def json_wish(texts: Sequence[str]) -> JSONWish | None:
    """What the texts of a request say about JSON; `None` if they do not ask for it.

    A JSON Schema beside the word JSON asks for a value that fits it; of several the last one counts, since the others are
    examples. Without a schema there must be a plain demand.

    >>> json_wish(['Answer in JSON that fits this schema: {"type": "integer"}'])
    JSONWish(schema={'type': 'integer'}, fenced=False)
    >>> json_wish(["What is JSON?"]) is None
    True
    """
    whole = "\n".join(texts)
    if "json" not in whole.lower():
        return None
    schema = None
    for found in _objects(whole):
        schema = _schema_in(found) or schema
    if schema is None and not _DEMAND.search(whole):
        return None
    return JSONWish(schema, bool(_FENCE.search(whole)))


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects that stand in *text*, those inside others left out."""
    decoder = json.JSONDecoder()
    at = 0
    for _ in range(_MOST_TRIES):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            yield found


def _schema_in(found: Any, depth: int = 0) -> Mapping[str, Any] | None:
    """*found* if it is a schema, else the one it holds, as the description of a function does."""
    if not isinstance(found, dict) or depth > len(_HOLDERS):
        return None
    if isinstance(found.get("properties"), dict) or "$ref" in found:
        return found
    kind = found.get("type")
    if isinstance(kind, str) and kind in _KINDS and not any(name in found for name in _HOLDERS):
        return found
    if any(isinstance(found.get(name), list) for name in ("anyOf", "oneOf", "allOf", "enum")):
        return found
    return next((inner for name in _HOLDERS if (inner := _schema_in(found.get(name), depth + 1)) is not None), None)
