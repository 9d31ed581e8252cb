"""The default models and the types of provider; a module of its own, so that making a provider does not load the catalogue."""

from __future__ import annotations

import enum

__all__ = ["DEFAULT_MODEL", "FAST_MODEL", "ProviderType"]

#: The model of requests that name none.
DEFAULT_MODEL = "openai/gpt-oss-120b"

#: A model for short answers, as fast as possible.
FAST_MODEL = "openai/gpt-oss-20b"


class ProviderType(str, enum.Enum):
    """The types of provider that this library knows.

    .. versionadded:: 0.1.0
    """

    GROQ = "groq"
    OPENAI_COMPATIBLE = "openai_compatible"

    __str__ = str.__str__
