"""Fields of decoded JSON objects.

What an answer cannot do without is of the type that is expected, or an error that names the place. Everything else is of that type, or
``None``: no field that a reader can do without may refuse an answer that is there.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from groq_provider.errors import ResponseDecodeError, ResponseTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

__all__ = [
    "LOST",
    "MAX_SECONDS",
    "MAX_TOKENS",
    "MOST_ITEMS",
    "amount",
    "clean",
    "count",
    "instant",
    "items",
    "objects",
    "paced",
    "seconds",
    "spoken",
    "text",
    "whole",
    "word",
    "wrong",
]

#: More tokens than any answer has, prompt included; a larger figure is none.
MAX_TOKENS = 100_000_000
#: A longer time is none.
MAX_SECONDS = 7 * 86_400.0

#: More choices, calls or parts than any answer has.
MOST_ITEMS = 10_000

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


def spoken(data: dict[str, Any], key: str, path: str) -> str | None:
    """Return the text under *key*, which compatible servers also give as a list of parts; of these the texts, joined."""
    found = data.get(key)
    if found is None or type(found) is str:
        return found
    if type(found) is not list:
        raise wrong(f"{path}.{key}", "a string", found)
    _bound(found, f"{path}.{key}")
    said: list[str] = []
    for index, part in enumerate(found):
        piece = part.get("text") if type(part) is dict else part
        if type(piece) is str:
            said.append(piece)
        elif type(part) is not dict:
            raise wrong(f"{path}.{key}[{index}]", "a string", part)
    return "".join(said)


# --- what an answer can do without ---------------------------------------------------------------------------------------


def word(data: dict[str, Any], key: str) -> str | None:
    """Return the text under *key*, if there is one."""
    found = data.get(key)
    return found if type(found) is str else None


def amount(data: dict[str, Any], key: str, most: int = MAX_TOKENS) -> int | None:
    """Return the integer under *key*, also one written 3.0, if it is there and from 0 to *most*."""
    found = data.get(key)
    if type(found) is float and found.is_integer():
        found = int(found)
    return found if type(found) is int and 0 <= found <= most else None


def seconds(data: dict[str, Any], key: str) -> float | None:
    """Return the number under *key*, if it is there and can be a duration."""
    found = data.get(key)
    if found is None or (type(found) is float and 0.0 <= found <= MAX_SECONDS):
        return found
    return float(found) if type(found) is int and 0 <= found <= MAX_SECONDS else None


def objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects of the list under *key*, if there is one; at most :data:`MOST_ITEMS`."""
    found = data.get(key)
    return [item for item in found[:MOST_ITEMS] if type(item) is dict] if type(found) is list else []


def instant(data: object) -> datetime | None:
    """Take Unix seconds or ISO text, if it is one of them."""
    try:
        if isinstance(data, str):
            return datetime.fromisoformat(data)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return datetime.fromtimestamp(data, timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def items(data: dict[str, Any], key: str, path: str) -> list[Any]:
    """Return the list under *key*; a missing or null one is empty."""
    found = data.get(key)
    if found is None:
        return []
    if type(found) is not list:
        raise wrong(f"{path}.{key}", "an array", found)
    _bound(found, f"{path}.{key}")
    return found


def _bound(found: list[Any], path: str) -> None:
    if len(found) > MOST_ITEMS:
        raise ResponseTooLargeError(f"more than {MOST_ITEMS:,} items @ {path}")


def paced(found: Iterable[T], look: Callable[[], object]) -> Iterator[T]:
    """Yield what there is, with a look at the clock now and then."""
    for count, item in enumerate(found, 1):
        if not count & 255:
            look()
        yield item
