"""Check settings strictly. Each failure is one :class:`ConfigurationError` that names the setting, the value and the allowed values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groq_provider.errors import ConfigurationError
from groq_provider.types._base import nearest, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import attrs

#: The longest duration in seconds. Waits of the standard library overflow not far above it.
LONGEST = 1e9

# Bounded and without nested repetition, so that a hostile text takes linear time.
_NUMBER_PATTERN = r"(\d{1,12}(?:\.\d{1,12})?)"
# Patterns are compiled on first use: few programs write durations as text.
_DURATION_PATTERN = (
    rf"(?a:(?:{_NUMBER_PATTERN}h)?(?:{_NUMBER_PATTERN}m(?!s))?(?:{_NUMBER_PATTERN}s)?(?:{_NUMBER_PATTERN}ms)?)"
)
_PLAIN_SECONDS = rf"(?a:{_NUMBER_PATTERN})"
_UNITS = (3600.0, 60.0, 1.0, 0.001)

_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RESERVED_HEADERS = {
    "authorization": "use api_key",
    "host": "it follows from base_url",
    "content-length": "it follows from the body",
    "transfer-encoding": "it follows from the body",
    "connection": "the connection pool decides it",
}


class Hidden(str):
    """A text that shows ``'****'`` as its ``repr``: a header's value, or a URL with a password.

    It works like any string. A string derived from it (a slice, a formatted text) is not hidden.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"


def shown(value: object) -> str:
    """Represent a value inside an error message, escaped and cut. Never raises."""
    try:
        return shorten(value, 100)
    except Exception:  # noqa: BLE001 - a repr may raise anything: integers have a digit limit, containers may be cyclic
        return f"<{type(value).__name__}>"


def refuse(name: str, value: object, allowed: str) -> ConfigurationError:
    """Return the error for a value that is not allowed."""
    return ConfigurationError(f"{name} = {shown(value)}: must be {allowed}")


def names(
    known: Iterable[str], value: Iterable[object], *, what: str, hints: Callable[[str], str] = lambda _name: ""
) -> None:
    """Refuse unknown names, all in one error, each with a hint from *hints* or the nearest known name."""
    known = tuple(known)
    unknown = [key for key in value if key not in known]
    if unknown:
        # The caller may have passed an API key as a name: it must not be shown.
        parts = [
            f"{shown(key)}{hints(str(key)) or nearest(str(key), known)}"
            if "gsk_" not in str(key)
            else "'****' (an API key as a name)"
            for key in unknown
        ]
        raise ConfigurationError(f"{what}: unknown {', '.join(parts)}; known: {', '.join(known)}")


def is_number(value: object, *, integer: bool = False) -> bool:
    """Tell whether a value is a finite number. Booleans are not."""
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        return False
    return isinstance(value, int) or math.isfinite(value)


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    integer: bool = False,
    optional: bool = False,
    above: bool = False,
) -> None:
    """Refuse a value that is not a number from *low* to *high*; with *above* it must exceed *low*."""
    if value is None and optional:
        return
    if not is_number(value, integer=integer) or not (low < value <= high if above else low <= value <= high):
        noun = "an integer" if integer else "a number"
        span = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise refuse(name, value, f"{noun} {span}" + (", or None" if optional else ""))


def positive_seconds(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Validate an optional duration above zero."""
    check_number(attribute.name, value, 0, LONGEST, optional=True, above=True)


def seconds(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Validate a duration that may be zero."""
    check_number(attribute.name, value, 0, LONGEST)


def limit(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Validate an optional rate limit: at least 1."""
    check_number(attribute.name, value, 1, 10**15, integer=True, optional=True)


def flag(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Validate a boolean."""
    if not isinstance(value, bool):
        raise refuse(attribute.name, value, "True or False")


def parse_duration(text: str, *, what: str = "duration") -> float:
    """Return the seconds of a text such as ``30``, ``30s``, ``1m30s``, ``500ms`` or ``2h``.

    >>> parse_duration("1m30s")
    90.0
    """
    stripped = text.strip()
    if match := re.fullmatch(_PLAIN_SECONDS, stripped):
        return float(match[1])
    match = re.fullmatch(_DURATION_PATTERN, stripped)
    if not match or not stripped:
        raise refuse(what, text, "a duration such as 30, '30s', '1m30s', '500ms' or '2h'")
    return math.fsum(float(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def duration(value: object, *, what: str) -> Any:
    """Convert a duration text to seconds, and return anything else unchanged."""
    return parse_duration(value, what=what) if isinstance(value, str) else value


def check_key(text: str) -> tuple[str | None, str]:
    """Return the stripped key (``None`` if blank), and the problem with it (or ``""``).

    The caller must raise the error: a traceback from here would show the key.
    """
    key = text.strip()
    for index, char in enumerate(key):
        if char.isspace() or not char.isprintable() or ord(char) > 255:
            return None, (
                f"character {index + 1} of {len(key)} is a space, a control character or not latin-1; copy the key again"
            )
    return key or None, ""


def check_headers(
    headers: object, *, what: str = "headers", error: type[Exception] = ConfigurationError
) -> dict[str, str]:
    """Check header fields and return a copy with hidden values.

    A name must be a token of RFC 9110 and not reserved; a value must be printable latin-1. Error messages show no values.

    Args:
        headers: The fields: names and values.
        what: The name of the place, for error messages.
        error: The class of error to raise.
    """
    if not isinstance(headers, Mapping):
        raise error(f"{what} must be a mapping of names to values, not {type(headers).__name__}")
    checked: dict[str, str] = {}
    for name, text in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            raise error(f"{what}: {shown(name)} is not a header name; use letters, digits and hyphens")
        if name.lower() in _RESERVED_HEADERS:
            raise error(f"{what}: {name!r} may not be set here; {_RESERVED_HEADERS[name.lower()]}")
        if not isinstance(text, str):
            raise error(f"{what}[{name!r}] must be a string, not {type(text).__name__}")
        if name.lower() in {known.lower() for known in checked}:
            raise error(f"{what}: {name!r} is given twice; header names do not distinguish case")
        stripped = text.strip(" ")
        # isprintable() would refuse U+00A0 and U+00AD, which are allowed in a header.
        if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) > 255 for char in stripped):
            raise error(f"{what}[{name!r}] holds a control character or one outside latin-1")
        checked[name] = Hidden(stripped)
    return checked
