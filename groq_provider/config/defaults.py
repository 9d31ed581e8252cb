"""What a provider is unless told otherwise. Apart, so that making one does not load the catalogue."""

from __future__ import annotations

import enum

__all__ = ["DEFAULT_MODEL", "FAST_MODEL", "ProviderType"]

#: For requests that name no model.
DEFAULT_MODEL = "openai/gpt-oss-120b"

#: For short answers as fast as possible.
FAST_MODEL = "openai/gpt-oss-20b"


class ProviderType(str, enum.Enum):
    """Kinds of providers that exist here.

    .. versionadded:: 0.1.0
    """

    GROQ = "groq"
    OPENAI_COMPATIBLE = "openai_compatible"

    __str__ = str.__str__
