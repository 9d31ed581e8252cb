"""Keep limits where several processes can share them.

- ``protocol``: ``RateLimitStore``: the methods of a store, and the error that it raises.
- ``gcra_state``: ``GcraState``: the state of one model and its rules; the commands and answers of a store. Pure.
- ``file``: ``FileStore``: the processes of one host, by a file and a lock on it.
- ``redis``: ``RedisStore``: any hosts, by one script on a Redis server.
- ``redis_link``: connections to Redis with one time limit over connecting, TLS, signing in and the command.
- ``gcra_state.lua``: the script: ``GcraState`` for Redis, step by step in the same order.

To add a store, implement the three methods of ``RateLimitStore``: apply ``GcraState`` to one record at a time, decide within about
0.1 s, and raise ``StoreUnavailableError`` if you cannot. Then add it to ``open_store()`` and to ``tests/support/store_kinds.py``, which
runs every test of stores with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider._validate import Hidden
from groq_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from groq_provider.clock import Clock
    from groq_provider.ratelimit.store.protocol import RateLimitStore

__all__ = ["open_store"]


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
