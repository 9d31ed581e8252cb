"""A clock that moves only when told."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(2026, 11, 1, 12, 0, tzinfo=timezone.utc)


class FakeClock:
    """A clock for tests: nothing passes by itself, and a sleep returns at once.

    Give it to a provider as ``clock=``: waits of the limiter and between retries then take no time. Sockets keep their own.

    Safe to use from many threads. `sleep` moves the time and notes the length in `sleeps`.

    >>> clock = FakeClock()
    >>> clock.sleep(1.5)
    >>> clock.advance(0.5)
    >>> clock.monotonic(), clock.sleeps
    (2.0, [1.5])

    Args:
        start: First reading of `monotonic`, in seconds.
        now: First reading of `now`, an aware datetime; `None` means noon of 2026-11-01, UTC.

    .. versionadded:: 0.1.0
    """

    def __init__(self, start: float = 0.0, *, now: datetime | None = None) -> None:
        self._lock = threading.Lock()  # guards the three values below
        self._start = start
        self._monotonic = start
        self._begin = _EPOCH if now is None else now.astimezone(timezone.utc)
        self.sleeps: list[float] = []

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self.monotonic()!r}, now={self.now().isoformat()!r})"

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        with self._lock:
            return self._monotonic

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        with self._lock:
            return self._begin + timedelta(seconds=self._monotonic - self._start)

    def sleep(self, seconds: float) -> None:
        """Move the time by *seconds* without waiting, and note it in `sleeps`."""
        with self._lock:
            self.sleeps.append(seconds)
            self._monotonic += max(seconds, 0.0)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Take *lock* if it is free; else the time moves by *timeout*, as if nobody had come. This is how a provider waits.

        Raises:
            AssertionError: The wait has no end and the lock is not free.
        """
        if lock.acquire(blocking=False):
            return True
        assert timeout is not None, "this wait would never end"  # noqa: S101 - a test's own mistake
        self.sleep(max(timeout, 0.0))
        return False

    def advance(self, seconds: float) -> None:
        """Move the time by *seconds*; a `ValueError` if that is backwards."""
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} seconds: time does not go back")
        with self._lock:
            self._monotonic += seconds
