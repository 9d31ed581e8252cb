"""Read and write JSON text, more strictly than :mod:`json`: no ``NaN``, no infinite numbers, one kind of error.

A long text is decoded in pieces, with a checkpoint after each piece: otherwise a hostile text could keep a thread past its deadline. The
number of values is bounded, because one byte of JSON can become a hundred bytes of objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groq_provider.errors import InvalidRequestError, ResponseDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AT_ONCE", "MAX_VALUES", "Body", "as_text", "dumps", "loads", "loads_text"]

#: A text of at most this many bytes is decoded in one call: a few milliseconds of work, whatever it holds.
AT_ONCE = 65_536
#: The largest number of values in a text, names of fields included: ten times the values of an answer with the probabilities of twenty
#: alternatives for each of 8,000 tokens, and some 300 MB of objects at most.
MAX_VALUES = 2_000_000


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number is too large: {text[:40]}")
    return number


def _as_dict(value: object) -> dict[Any, Any]:
    """Let the encoder write mappings that are not dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# ``json.loads`` builds a new decoder for every call with parse_constant; this one decoder serves all threads.
_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_finite)
scan_json, _decode_json = _decoder.scan_once, _decoder.decode  # type: ignore[attr-defined]  # not in typeshed
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_as_dict).encode


def loads(
    data: bytes, what: str = "the body", *, checkpoint: Callable[[], object] | None = None, max_values: int = MAX_VALUES
) -> Any:
    """Decode JSON from bytes. Bytes that are not UTF-8 become U+FFFD.

    Args:
        data: The JSON text.
        what: The name of the text, for error messages.
        checkpoint: Called every few milliseconds of work; it may raise.
        max_values: The number of values that a text of more than 64 KiB may hold.

    Raises:
        ResponseDecodeError: The text is not JSON, is nested too deep, or holds ``NaN`` or an infinite number.
        ResponseTooLargeError: The text holds more than *max_values* values.
    """
    if len(data) <= AT_ONCE:
        return loads_text(data.decode("utf-8", "replace"), what)
    from groq_provider.wire.json_pieces import PieceDecoder  # imported late: most texts are short

    try:
        return PieceDecoder(data, scan_json, checkpoint or int, max_values, what).decode()
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


def loads_text(text: str, what: str = "the body") -> Any:
    """Decode JSON text in one call.

    Raises:
        ResponseDecodeError: The text is not JSON, is nested too deep, or holds ``NaN`` or an infinite number.
    """
    try:
        # The scanner is called directly: decode() strips white space first, which costs a quarter of the time of a small text.
        try:
            decoded, end = scan_json(text, 0)
        except StopIteration:
            end = -1
        return decoded if end == len(text) else _decode_json(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


class Body(bytes):
    """The JSON text of a request. Its ``repr`` shows the size only, since it holds the prompt."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


def dumps(data: Any) -> Body:
    """Encode as JSON text, in ASCII: so lone surrogates arrive unchanged, too.

    Raises:
        InvalidRequestError: A value has no JSON form.
    """
    try:
        return Body(_encode_json(data), "ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {str(error)[:200]}") from None


def as_text(value: Any) -> str:
    """Return a text unchanged, and anything else as JSON. Never raises."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"<{type(value).__name__}>"
