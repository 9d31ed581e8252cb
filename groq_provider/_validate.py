"""Strict checks of settings. Each failure is one :class:`ConfigurationError` naming the setting, the value, what is allowed."""

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

#: Longest duration in seconds. Waits of the standard library overflow not far above it.
LONGEST = 1e9

# Anchored, bounded and without nested repetition: a hostile text costs linear time.
_AMOUNT = r"(\d{1,12}(?:\.\d{1,12})?)"
# Texts, compiled on first use: most programs give no durations as text.
_DURATION = rf"(?a:(?:{_AMOUNT}h)?(?:{_AMOUNT}m(?!s))?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?)"
_PLAIN = rf"(?a:{_AMOUNT})"
_UNITS = (3600.0, 60.0, 1.0, 0.001)

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of header names: RFC 9110, 5.6.2
_RESERVED = {
    "authorization": "use api_key",
    "host": "it follows from base_url",
    "content-length": "it follows from the body",
    "transfer-encoding": "it follows from the body",
    "connection": "the connection pool decides it",
}


class Hidden(str):
    """A text that does not show itself where frames, dicts and other objects are printed: a header's value, a URL with a password.

    It is used like any other text. What is made of it (a part, a format) is not hidden.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"


def shown(given: object) -> str:
    """Represent a value inside a message: escaped, cut, and never failing."""
    try:
        return shorten(given, 100)
    except Exception:  # noqa: BLE001 - a repr may raise anything; int has a digit limit, containers may be cyclic
        return f"<{type(given).__name__}>"


def refuse(name: str, given: object, allowed: str) -> ConfigurationError:
    """Return the error for a value that is not allowed."""
    return ConfigurationError(f"{name} = {shown(given)}: must be {allowed}")


def names(
    known: Iterable[str], given: Iterable[object], *, what: str, hints: Callable[[str], str] = lambda _name: ""
) -> None:
    """Refuse all unknown names at once, each with its nearest known one, or with what *hints* says of it."""
    known = tuple(known)
    unknown = [key for key in given if key not in known]
    if unknown:
        # A key in the wrong place is a secret that must not be shown.
        parts = [
            f"{shown(key)}{hints(str(key)) or nearest(str(key), known)}"
            if "gsk_" not in str(key)
            else "'****' (an API key as a name)"
            for key in unknown
        ]
        raise ConfigurationError(f"{what}: unknown {', '.join(parts)}; known: {', '.join(known)}")


def is_number(given: object, *, integer: bool = False) -> bool:
    """Whether it is a finite number; booleans are none here."""
    if isinstance(given, bool) or not isinstance(given, int if integer else (int, float)):
        return False
    return isinstance(given, int) or math.isfinite(given)


def check_number(
    name: str,
    given: Any,
    low: float,
    high: float,
    *,
    integer: bool = False,
    optional: bool = False,
    above: bool = False,
) -> None:
    """Refuse what is no number from *low* (or, with *above*, just above it) to *high*."""
    if given is None and optional:
        return
    if not is_number(given, integer=integer) or not (low < given <= high if above else low <= given <= high):
        noun = "an integer" if integer else "a number"
        span = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
        raise refuse(name, given, f"{noun} {span}" + (", or None" if optional else ""))


def positive_seconds(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    """Validate an optional duration above zero."""
    check_number(attribute.name, given, 0, LONGEST, optional=True, above=True)


def seconds(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    """Validate a duration that may be zero."""
    check_number(attribute.name, given, 0, LONGEST)


def limit(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    """Validate an optional rate limit: at least 1."""
    check_number(attribute.name, given, 1, 10**15, integer=True, optional=True)


def flag(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    """Validate a truth value."""
    if not isinstance(given, bool):
        raise refuse(attribute.name, given, "True or False")


def parse_duration(text: str, *, what: str = "duration") -> float:
    """Return the seconds of a text such as ``30``, ``30s``, ``1m30s``, ``500ms`` or ``2h``.

    >>> parse_duration("1m30s")
    90.0
    """
    stripped = text.strip()
    if match := re.fullmatch(_PLAIN, stripped):
        return float(match[1])
    match = re.fullmatch(_DURATION, stripped)
    if not match or not stripped:
        raise refuse(what, text, "a duration such as 30, '30s', '1m30s', '500ms' or '2h'")
    return math.fsum(float(part) * unit for part, unit in zip(match.groups(), _UNITS, strict=True) if part)


def duration(given: object, *, what: str) -> Any:
    """Return a duration text as seconds, anything else as it is."""
    return parse_duration(given, what=what) if isinstance(given, str) else given


def check_key(text: str) -> tuple[str | None, str]:
    """Return a key ready for a header (``None`` if blank), and what is wrong with it.

    It raises nothing: the key would be among the local variables of the traceback.
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
    """Return a copy of header fields that are safe to send.

    Names are tokens of RFC 9110 and not ours to set; values are printable latin-1. Values are in no message.

    Args:
        headers: Names to values.
        what: Name of the place, for messages.
        error: What to raise.
    """
    if not isinstance(headers, Mapping):
        raise error(f"{what} must be a mapping of names to values, not {type(headers).__name__}")
    checked: dict[str, str] = {}
    for name, text in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_TOKEN, name):
            raise error(f"{what}: {shown(name)} is no header name; use letters, digits and hyphens")
        if name.lower() in _RESERVED:
            raise error(f"{what}: {name!r} may not be set here; {_RESERVED[name.lower()]}")
        if not isinstance(text, str):
            raise error(f"{what}[{name!r}] must be a string, not {type(text).__name__}")
        if name.lower() in {known.lower() for known in checked}:
            raise error(f"{what}: {name!r} is given twice; header names do not distinguish case")
        stripped = text.strip(" ")
        # isprintable() knows the space, but neither U+00A0 nor U+00AD, which are fine in a header.
        if any(ord(char) < 32 or 127 <= ord(char) < 160 or ord(char) > 255 for char in stripped):
            raise error(f"{what}[{name!r}] holds a control character or one outside latin-1")
        checked[name] = Hidden(stripped)
    return checked
