"""Detects prompts that ask for JSON in words, as libraries of structured output do where they send no ``response_format``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DEMAND = re.compile(
    r"\b(?:answer|format(?:ted)?|give|output|produce|provide|reply|respond|return|write)\b[^.\n]{0,60}?"
    r"\b(?:as|in|only|valid|correct|raw|a|an|the|with)\s+(?:\w+\s+){0,2}json\b(?!\s+(?:parser|library|file|schema))",
    re.IGNORECASE,
)
_FENCE = re.compile(r"code\s?-?block|```json", re.IGNORECASE)
_KINDS = frozenset({"object", "array", "string", "integer", "number", "boolean"})
_HOLDERS = ("schema", "json_schema", "parameters", "input_schema")
_MOST_TRIES = 1000  # bounds the cost of a prompt full of braces


@attrs.frozen
class JSONWish:
    """A prompt's request for JSON: its schema, if the prompt holds one, and whether to put it inside a Markdown fence."""

    schema: Mapping[str, Any] | None
    fenced: bool


def json_wish(texts: Sequence[str]) -> JSONWish | None:
    """Return the request for JSON in the texts of a prompt; ``None`` if there is none.

    A JSON Schema beside the word JSON asks for a value that fits it; the last of several counts, since those before it are
    usually examples. Without a schema the prompt must say plainly that the answer should be JSON.

    >>> json_wish(['Answer in JSON that fits this schema: {"type": "integer"}'])
    JSONWish(schema={'type': 'integer'}, fenced=False)
    >>> json_wish(["What is JSON?"]) is None
    True
    """
    whole = "\n".join(texts)
    if "json" not in whole.lower():
        return None
    schema = None
    for json_object in _objects(whole):
        schema = _schema_in(json_object) or schema
    if schema is None and not _DEMAND.search(whole):
        return None
    return JSONWish(schema, bool(_FENCE.search(whole)))


def _objects(text: str) -> Iterator[Any]:
    """Yield the JSON objects in *text*, but not those nested in others."""
    decoder = json.JSONDecoder()
    at = 0
    for _ in range(_MOST_TRIES):
        at = text.find("{", at)
        if at < 0:
            return
        try:
            json_object, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
        else:
            yield json_object


def _schema_in(candidate: Any, depth: int = 0) -> Mapping[str, Any] | None:
    """Return *candidate* if it is a schema, else the one it holds, as a function's description does."""
    if not isinstance(candidate, dict) or depth > len(_HOLDERS):
        return None
    if isinstance(candidate.get("properties"), dict) or "$ref" in candidate:
        return candidate
    kind = candidate.get("type")
    if isinstance(kind, str) and kind in _KINDS and not any(name in candidate for name in _HOLDERS):
        return candidate
    if any(isinstance(candidate.get(name), list) for name in ("anyOf", "oneOf", "allOf", "enum")):
        return candidate
    return next((inner for name in _HOLDERS if (inner := _schema_in(candidate.get(name), depth + 1)) is not None), None)
