"""The kinds of store that the tests of stores run with, in one place.

A kind is a function of a clock and an ``ExitStack`` for what has to be cleaned up; it returns a store with nothing in it that takes its
time from that clock, or calls ``pytest.skip`` with the reason why it cannot.
"""

from __future__ import annotations

import itertools
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.fakes import PATIENCE, MemoryStore
from support.redis_server import need_redis, shared

from groq_provider.ratelimit.store.file import FileStore

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from contextlib import ExitStack

    from groq_provider.ratelimit.store.protocol import RateLimitStore


class StoreClock:
    """Time in whole microseconds that moves only when told, backwards too."""

    def __init__(self, micros: int = 1_000_000_000) -> None:
        self.micros = micros
        #: Microseconds between the wall clock and the other one.
        self.wall = 1_700_000_000_000_000

    def monotonic(self) -> float:
        return self.micros / 1_000_000

    def now(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=self.micros + self.wall)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        raise AssertionError("stores do not wait")


def _memory(clock: StoreClock, cleanup: ExitStack) -> MemoryStore:
    return MemoryStore(clock)


def _file(clock: StoreClock, cleanup: ExitStack) -> FileStore:
    folder = cleanup.enter_context(tempfile.TemporaryDirectory())
    store = FileStore(Path(folder) / "limits", clock=clock)
    cleanup.callback(store.close)
    return store


_numbers = itertools.count()


def _redis(clock: StoreClock, cleanup: ExitStack) -> RateLimitStore:
    need_redis()
    pytest.importorskip("redis", reason="needs the extra redis")
    from groq_provider.ratelimit.store.redis import RedisStore

    # One server for all; nothing is in it under a new prefix.
    store = RedisStore(
        shared().url, timeout=PATIENCE, time_source="clock", clock=clock, prefix=f"test {next(_numbers)}"
    )
    cleanup.callback(store.close)
    return store


#: By name. Add a kind here, and every test of stores runs with it as well.
KINDS: dict[str, Callable[[StoreClock, ExitStack], RateLimitStore]] = {
    "memory": _memory,
    "file": _file,
    "redis": _redis,
}
