"""Read fields of decoded JSON objects, strictly or leniently.

A ``strict_…`` function raises an error that names the place when the field has another type. Use it for the fields that make up the
answer. A ``lenient_…`` function returns ``None`` or nothing instead: a malformed field of lesser use must not cost the caller an answer
that has come and was paid for.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from groq_provider.errors import ResponseDecodeError, ResponseTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

__all__ = [
    "MAX_ITEMS",
    "MAX_SECONDS",
    "MAX_TOKENS",
    "REPLACEMENT",
    "count_values",
    "joined_text",
    "lenient_integer",
    "lenient_objects",
    "lenient_seconds",
    "lenient_text",
    "parse_instant",
    "replace_halves",
    "split_half",
    "strict_integer",
    "strict_items",
    "strict_text",
    "type_mismatch",
    "with_checkpoints",
]

#: The largest number of tokens that is believed, prompt included.
MAX_TOKENS = 100_000_000
#: The longest duration that is believed.
MAX_SECONDS = 7 * 86_400.0

#: The largest number of choices, calls or parts that is read.
MAX_ITEMS = 10_000

#: Stands for a character of which only one half came.
REPLACEMENT = "\ufffd"


def type_mismatch(path: str, expected: str, item: object) -> ResponseDecodeError:
    """Return the error for an item at *path* that does not have the *expected* type."""
    return ResponseDecodeError(f"expected {expected}, got {type(item).__name__} @ {path}")


def strict_text(data: dict[str, Any], key: str, path: str) -> str | None:
    """Return the text under *key*; ``None`` if it is missing or null."""
    item = data.get(key)
    if item is None or type(item) is str:
        return item
    raise type_mismatch(f"{path}.{key}", "a string", item)


def split_half(text: str) -> tuple[str, str]:
    """Return *text* in a form that can be encoded as UTF-8, and the first half of a character at its end, or ``""``.

    JSON can escape the two halves of a character (surrogates) separately, and servers that cut a stream by code units do so. Halves that
    meet are joined. A half that stays alone becomes :data:`REPLACEMENT`: otherwise the caller could not encode the answer.
    """
    if text.isascii():
        return text, ""
    half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
    if half:
        text = text[:-1]
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text, half


def replace_halves(text: str) -> str:
    """Return a complete text in a form that can be encoded as UTF-8; see :func:`split_half`."""
    if text.isascii():
        return text
    text, half = split_half(text)
    return text + REPLACEMENT if half else text


def strict_integer(data: dict[str, Any], key: str, path: str) -> int | None:
    """Return the integer under *key*, also one written 3.0; ``None`` if it is missing or null."""
    item = data.get(key)
    if item is None or type(item) is int:
        return item
    if type(item) is float and item.is_integer():
        return int(item)
    raise type_mismatch(f"{path}.{key}", "an integer", item)


def joined_text(data: dict[str, Any], key: str, path: str) -> str | None:
    """Return the text under *key*, strictly. A list of parts, which some compatible servers send, gives the texts of the parts, joined."""
    item = data.get(key)
    if item is None or type(item) is str:
        return item
    if type(item) is not list:
        raise type_mismatch(f"{path}.{key}", "a string", item)
    _check_length(item, f"{path}.{key}")
    texts: list[str] = []
    for index, part in enumerate(item):
        piece = part.get("text") if type(part) is dict else part
        if type(piece) is str:
            texts.append(piece)
        elif type(part) is not dict:
            raise type_mismatch(f"{path}.{key}[{index}]", "a string", part)
    return "".join(texts)


# --- lenient: no field read below may refuse an answer -------------------------------------------------------------------


def lenient_text(data: dict[str, Any], key: str) -> str | None:
    """Return the text under *key*, if it is a text."""
    item = data.get(key)
    return item if type(item) is str else None


def lenient_integer(data: dict[str, Any], key: str, maximum: int = MAX_TOKENS) -> int | None:
    """Return the integer under *key*, also one written 3.0, if it lies between 0 and *maximum*."""
    item = data.get(key)
    if type(item) is float and item.is_integer():
        item = int(item)
    return item if type(item) is int and 0 <= item <= maximum else None


def lenient_seconds(data: dict[str, Any], key: str) -> float | None:
    """Return the number under *key*, if it lies between 0 and :data:`MAX_SECONDS`."""
    item = data.get(key)
    if item is None or (type(item) is float and 0.0 <= item <= MAX_SECONDS):
        return item
    return float(item) if type(item) is int and 0 <= item <= MAX_SECONDS else None


def lenient_objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list under *key*, the first :data:`MAX_ITEMS` at most; empty if there is no list."""
    listed = data.get(key)
    return [item for item in listed[:MAX_ITEMS] if type(item) is dict] if type(listed) is list else []


def parse_instant(data: object) -> datetime | None:
    """Return the instant given as Unix seconds or ISO text; ``None`` for anything else."""
    try:
        if isinstance(data, str):
            return datetime.fromisoformat(data)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return datetime.fromtimestamp(data, timezone.utc)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def strict_items(data: dict[str, Any], key: str, path: str) -> list[Any]:
    """Return the list under *key*; a missing or null list is empty."""
    listed = data.get(key)
    if listed is None:
        return []
    if type(listed) is not list:
        raise type_mismatch(f"{path}.{key}", "an array", listed)
    _check_length(listed, f"{path}.{key}")
    return listed


def _check_length(listed: list[Any], path: str) -> None:
    if len(listed) > MAX_ITEMS:
        raise ResponseTooLargeError(f"more than {MAX_ITEMS:,} items @ {path}")


def with_checkpoints(iterable: Iterable[T], checkpoint: Callable[[], object]) -> Iterator[T]:
    """Yield the items of *iterable*, calling *checkpoint* after every 255 of them."""
    for number, item in enumerate(iterable, 1):
        if not number & 255:
            checkpoint()
        yield item


def count_values(decoded: object, checkpoint: Callable[[], object] = int) -> int:
    """Return the number of values in decoded JSON, names of fields and the whole included."""
    pending: list[Any] = [decoded]
    count, steps = 1, 0
    while pending:
        item = pending.pop()
        if type(item) is dict:
            count += 2 * len(item)
            pending += [value for value in item.values() if type(value) in _CONTAINERS]
        elif type(item) is list:
            count += len(item)
            pending += [value for value in item if type(value) in _CONTAINERS]
        steps += 1
        if not steps % 4096:
            checkpoint()
    return count


_CONTAINERS = (list, dict)
