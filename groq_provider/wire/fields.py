"""Fields of decoded JSON objects: of the type that is expected, or an error that names the place."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from groq_provider.errors import ResponseDecodeError

__all__ = ["count", "instant", "items", "seconds", "text", "wrong"]


def wrong(path: str, expected: str, found: object) -> ResponseDecodeError:
    """Return the error for something of another type than *expected* at *path*."""
    return ResponseDecodeError(f"expected {expected}, got {type(found).__name__} @ {path}")


def text(data: dict[str, Any], key: str, path: str) -> str | None:
    """Return the text under *key*; ``None`` if it is missing or null."""
    found = data.get(key)
    if found is None or type(found) is str:
        return found
    raise wrong(f"{path}.{key}", "a string", found)


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
