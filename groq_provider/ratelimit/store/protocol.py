"""Define the methods of a store of shared limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, AcquireResult, Adjustment

__all__ = ["RateLimitStore", "StoreUnavailableError"]


class StoreUnavailableError(Exception):
    """The store cannot answer now; the limiter goes on offline with its part of the limits. Never reaches a caller.

    The message says why. It must not contain a password, nor any text but the store's own answer, cut short.
    """


@runtime_checkable
class RateLimitStore(Protocol):
    """Keeps one :class:`~groq_provider.ratelimit.store.gcra_state.GcraState` for each key, shared by processes.

    Implement :meth:`take` and :meth:`adjust` so that each is atomic, decides within about 0.1 s, never repeats a command by itself,
    and can be called from any thread and in a forked child.

    Raises:
        StoreUnavailableError: By both methods: no answer, or an unusable one. The command may have taken effect.

    .. versionadded:: 0.1.0
    """

    def take(self, key: str, request: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` at the store's present time."""
        ...

    def adjust(self, key: str, adjustment: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` at the store's present time."""
        ...

    def close(self) -> None:
        """Close files and connections; idempotent. A later call opens them again."""
        ...
