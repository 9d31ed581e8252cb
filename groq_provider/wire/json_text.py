"""JSON text, both ways, stricter than :mod:`json`: no ``NaN``, no infinite numbers, one kind of error.

A long text is decoded in pieces, so that neither its length nor its form decides how long nobody looks at the clock, and with a bound on
the values in it: a byte of JSON can become a hundred bytes of objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groq_provider.errors import InvalidRequestError, ResponseDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AT_ONCE", "MOST_VALUES", "Body", "as_text", "count_values", "dumps", "loads", "loads_text"]

#: So many bytes are decoded in one go: some milliseconds of work, whatever they are.
AT_ONCE = 65_536
#: Values in a text, names of fields included: ten times an answer with the probabilities of twenty alternatives for each of 8,000 tokens
#: would have them, and some 300 MB of objects at most.
MOST_VALUES = 2_000_000


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise ValueError(f"a number is too large: {text[:40]}")
    return found


def _as_dict(given: object) -> dict[Any, Any]:
    """Let the encoder write the mappings that are no dict."""
    if isinstance(given, Mapping):
        return dict(given)
    raise TypeError(f"Object of type {type(given).__name__} is not JSON serializable")


# json.loads builds a decoder per call when it is given parse_constant; one decoder serves all threads.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)
scan_json, _decode_json = _decoder.scan_once, _decoder.decode  # type: ignore[attr-defined]  # not in typeshed
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_as_dict).encode


def loads(
    data: bytes, what: str = "the body", *, look: Callable[[], object] | None = None, most: int = MOST_VALUES
) -> Any:
    """Decode JSON from bytes. What is not UTF-8 reads U+FFFD.

    Args:
        data: The text.
        what: Names it in messages.
        look: Called every few milliseconds of work; it may raise.
        most: Values that a text of more than 64 KiB may hold.

    Raises:
        ResponseDecodeError: Not JSON, nested too deep, ``NaN`` or infinite numbers.
        ResponseTooLargeError: More values than *most*.
    """
    if len(data) <= AT_ONCE:
        return loads_text(data.decode("utf-8", "replace"), what)
    from groq_provider.wire.json_pieces import Pieces  # most texts are short

    try:
        return Pieces(data, look or int, most, what).decode()
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


def loads_text(text: str, what: str = "the body") -> Any:
    """Decode JSON text, in one go.

    Raises:
        ResponseDecodeError: Not JSON, nested too deep, ``NaN`` or infinite numbers.
    """
    try:
        # Straight to the scanner: decode() looks for white space before and after, which costs a quarter of a small text.
        try:
            found, end = scan_json(text, 0)
        except StopIteration:
            end = -1
        return found if end == len(text) else _decode_json(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


def count_values(found: object, look: Callable[[], object] = int) -> int:
    """Return how many values there are in a decoded one, names of fields and itself included."""
    pending: list[Any] = [found]
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
            look()
    return count


_CONTAINERS = (list, dict)


class Body(bytes):
    """The JSON text of a request, which does not show itself where frames and variables are printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


def dumps(data: Any) -> Body:
    """Encode JSON text; ASCII only, so that lone surrogates and odd code points travel unharmed.

    Raises:
        InvalidRequestError: Something in it has no JSON form.
    """
    try:
        return Body(_encode_json(data), "ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {str(error)[:200]}") from None


def as_text(found: Any) -> str:
    """Return a text as it is, anything else as JSON. Never fails."""
    if isinstance(found, str):
        return found
    try:
        return json.dumps(found, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(found).__name__}>"
