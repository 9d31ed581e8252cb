"""Where the limits of a key are kept: what a store is, and how one is found by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from groq_provider._validate import Hidden
from groq_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest, AcquireResult, Adjustment

__all__ = ["RateLimitStore", "StoreUnavailableError", "open_store"]


class StoreUnavailableError(Exception):
    """A store cannot answer now: the limiter goes on with a local share. Never reaches a caller.

    The message says why, without passwords and without the text of anything but the store's own answer, cut short.
    """


@runtime_checkable
class RateLimitStore(Protocol):
    """Keeps one :class:`~groq_provider.ratelimit.store.gcra_state.GcraState` for each key, shared by processes.

    Both methods decide within about 0.1 s, are atomic, are never repeated by themselves, and may be called from any thread and from a
    forked child.

    Raises:
        StoreUnavailableError: By both methods: no answer, or one that cannot be used. Whether the command took effect is unknown.

    .. versionadded:: 0.1.0
    """

    def take(self, key: str, request: AcquireRequest) -> AcquireResult:
        """Apply :meth:`GcraState.take` at the store's present time."""
        ...

    def adjust(self, key: str, adjustment: Adjustment) -> None:
        """Apply :meth:`GcraState.adjust` at the store's present time."""
        ...

    def close(self) -> None:
        """Give back what it holds open; idempotent. A later call opens it again."""
        ...


def open_store(url: str, *, clock: Clock | None = None) -> RateLimitStore | None:
    """Return the store that *url* names; ``None`` for ``"memory"``.

    Args:
        url: ``"memory"``; ``"file:///path"``, with ``?shared=1`` also another user's; ``"redis://…"`` or ``"rediss://…"``.
        clock: Time, for tests.

    Raises:
        ConfigurationError: Not such a URL; no ``flock`` on this system; the extra ``redis`` is not installed; a wrong password.
    """
    if url == "memory":
        return None
    url = Hidden(url)  # it may hold a password
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
