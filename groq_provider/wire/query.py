"""Write query parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from groq_provider.errors import InvalidRequestError

__all__ = ["query_string"]


def query_string(path: str, parameters: Mapping[str, Any]) -> str:
    """Return the text to append to *path* for the parameters: ``None`` is left out, booleans are ``true`` and ``false``, lists repeat a name.

    Raises:
        InvalidRequestError: A value has no form in a URL.
    """
    try:
        query = urlencode(_as_text(parameters), doseq=True)
    except (UnicodeError, TypeError) as error:
        raise InvalidRequestError(
            f"extra_query cannot be written as a URL: {type(error).__name__}", param="extra_query"
        ) from None
    if not query:
        return ""
    return f"&{query}" if "?" in path else f"?{query}"


def _as_text(parameters: Mapping[str, Any]) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, (list, tuple, set, frozenset)):
            texts[name] = [_value_as_text(name, item) for item in value if item is not None]
        elif value is not None:
            texts[name] = _value_as_text(name, value)
    return texts


def _value_as_text(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        raise InvalidRequestError(f"extra_query[{name!r}] must be a text, a number or a list of them, not a mapping")
    return str(value).lower() if isinstance(value, bool) else value
