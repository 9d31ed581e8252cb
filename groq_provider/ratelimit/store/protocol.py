"""Define a store of shared limits, and open the store that a URL names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from groq_provider._validate import Hidden
from groq_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, AcquireResult, Adjustment

__all__ = ["RateLimitStore", "StoreUnavailableError", "open_store"]


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


def open_store(url: str, *, clock: Clock | None = None) -> RateLimitStore | None:
    """Return the store that *url* names; ``None`` for ``"memory"``.

    Args:
        url: ``"memory"``; ``"file:///path"``, with ``?shared=1`` also another user's file; ``"redis://…"`` or ``"rediss://…"``.
        clock: The source of time, for tests.

    Raises:
        ConfigurationError: The URL has another form, this system has no ``flock``, the extra ``redis`` is not installed, or the server
            refused the password.
    """
    if url == "memory":
        return None
    url = Hidden(url)  # it may contain a password
    if url.startswith("file:"):
        from groq_provider.ratelimit.store.file import FileStore

        return FileStore.from_url(url, clock=clock)
    if url.startswith(("redis://", "rediss://")):
        from groq_provider.ratelimit.store.redis import RedisStore

        return RedisStore.from_url(url)
    kind = url.partition(":")[0][:40]
    raise ConfigurationError(
        f"rate_limit_store = {kind!r}…: must be 'memory', 'file:///path', 'redis://host:port/db' or 'rediss://…'"
    )
