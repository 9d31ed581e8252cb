"""Fields of decoded JSON objects: of the type that is expected, or an error that names the place."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from groq_provider.errors import ResponseDecodeError

__all__ = ["LOST", "clean", "count", "instant", "items", "seconds", "text", "whole", "wrong"]

#: What is shown for a character that did not come whole.
LOST = "\ufffd"


def wrong(path: str, expected: str, found: object) -> ResponseDecodeError:
    """Return the error for something of another type than *expected* at *path*."""
    return ResponseDecodeError(f"expected {expected}, got {type(found).__name__} @ {path}")


def text(data: dict[str, Any], key: str, path: str) -> str | None:
    """Return the text under *key*; ``None`` if it is missing or null."""
    found = data.get(key)
    if found is None or type(found) is str:
        return found
    raise wrong(f"{path}.{key}", "a string", found)


def whole(found: str) -> tuple[str, str]:
    """Return a text that can be written as UTF-8, and the half of a character at its end, if it ends with one.

    JSON can escape the two halves of a character apart, and servers that cut a stream by code units do. Halves that meet are joined;
    one that stays alone is :data:`LOST`, so that nobody who encodes an answer meets it.
    """
    if found.isascii():
        return found, ""
    half = found[-1] if "\ud800" <= found[-1] <= "\udbff" else ""
    if half:
        found = found[:-1]
    try:
        found.encode()
    except UnicodeEncodeError:
        found = found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return found, half


def clean(found: str) -> str:
    """Return a complete text so that it can be written as UTF-8; see :func:`whole`."""
    if found.isascii():
        return found
    found, half = whole(found)
    return found + LOST if half else found


def count(data: dict[str, Any], key: str, path: str) -> int | None:
    """Return the integer under *key*, also one written 3.0; ``None`` if it is missing or null."""
    found = data.get(key)
    if found is None or type(found) is int:
        return found
    if type(found) is float and found.is_integer():
        return int(found)
    raise wrong(f"{path}.{key}", "an integer", found)


def seconds(data: dict[str, Any], key: str, path: str) -> float | None:
    """Return the number under *key*; ``None`` if it is missing or null."""
    found = data.get(key)
    if found is None or type(found) is float:
        return found
    if type(found) is int:
        try:
            return float(found)
        except OverflowError:
            pass
    raise wrong(f"{path}.{key}", "a number", found)


def instant(data: object, path: str = "$") -> datetime:
    """Take Unix seconds or ISO text."""
    try:
        if isinstance(data, str):
            return datetime.fromisoformat(data)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return datetime.fromtimestamp(data, timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    raise wrong(path, "a time", data)


def items(data: dict[str, Any], key: str, path: str) -> list[Any]:
    """Return the list under *key*; a missing or null one is empty."""
    found = data.get(key)
    if found is None:
        return []
    if type(found) is not list:
        raise wrong(f"{path}.{key}", "an array", found)
    return found
