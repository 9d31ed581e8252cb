"""Text that does not show itself."""

from __future__ import annotations

__all__ = ["SecretHeader"]


class SecretHeader(str):
    """A header value that does not show itself where frames and dicts are printed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"
