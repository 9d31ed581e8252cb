"""JSON text, both ways, stricter than :mod:`json`: no ``NaN``, no infinite numbers, one kind of error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from groq_provider.errors import InvalidRequestError, ResponseDecodeError

__all__ = ["Body", "as_text", "dumps", "loads", "loads_text"]


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
_scan_json, _decode_json = _decoder.scan_once, _decoder.decode  # type: ignore[attr-defined]  # not in typeshed
_encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_as_dict).encode


def loads(data: bytes, what: str = "the body") -> Any:
    """Decode JSON from bytes; see :func:`loads_text`. What is not UTF-8 reads U+FFFD."""
    return loads_text(data.decode("utf-8", "replace"), what)


def loads_text(text: str, what: str = "the body") -> Any:
    """Decode JSON text.

    Raises:
        ResponseDecodeError: Not JSON, nested too deep, ``NaN`` or infinite numbers.
    """
    try:
        # Straight to the scanner: decode() looks for white space before and after, which costs a quarter of a small text.
        try:
            found, end = _scan_json(text, 0)
        except StopIteration:
            end = -1
        return found if end == len(text) else _decode_json(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ResponseDecodeError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ResponseDecodeError(f"{what} is not JSON: {str(error)[:200]}") from None


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
