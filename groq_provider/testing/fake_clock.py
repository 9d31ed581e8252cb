"""A clock for tests that moves only when the test moves it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(2026, 11, 1, 12, 0, tzinfo=timezone.utc)


class FakeClock:
    """A clock for tests: time stands still until you move it, and a sleep returns at once.

    Give it to a provider as ``clock=``: waits of the limiter and between retries then take no time. Sockets still keep to real time.

    You may use it from many threads. :meth:`sleep` moves the time and records the length in :attr:`sleeps`.

    >>> clock = FakeClock()
    >>> clock.sleep(1.5)
    >>> clock.advance(0.5)
    >>> clock.monotonic(), clock.sleeps
    (2.0, [1.5])

    Args:
        start: First reading of :meth:`monotonic`, in seconds.
        now: First reading of :meth:`now`, an aware datetime; ``None`` means noon of 2026-11-01, UTC.

    .. versionadded:: 0.1.0
    """

    def __init__(self, start: float = 0.0, *, now: datetime | None = None) -> None:
        self._lock = threading.Lock()  # guards the three values below
        self._start = start
        self._monotonic = start
        self._first_now = _EPOCH if now is None else now.astimezone(timezone.utc)
        self.sleeps: list[float] = []

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self.monotonic()!r}, now={self.now().isoformat()!r})"

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary point; they never go back."""
        with self._lock:
            return self._monotonic

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        with self._lock:
            return self._first_now + timedelta(seconds=self._monotonic - self._start)

    def sleep(self, seconds: float) -> None:
        """Move the time by *seconds* without waiting, and record them in :attr:`sleeps`."""
        with self._lock:
            self.sleeps.append(seconds)
            self._monotonic += max(seconds, 0.0)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Take *lock* if it is free; otherwise move the time by *timeout*, as if no other thread had released it.

        A provider waits through this method.

        Raises:
            AssertionError: The lock is not free and *timeout* is ``None``, so the wait would never end.
        """
        if lock.acquire(blocking=False):
            return True
        assert timeout is not None, "this wait would never end"  # noqa: S101 - reports a mistake of the test
        self.sleep(max(timeout, 0.0))
        return False

    def advance(self, seconds: float) -> None:
        """Move the time by *seconds*.

        Raises:
            ValueError: *seconds* is negative.
        """
        if seconds < 0:
            raise ValueError(f"cannot advance by {seconds} seconds: time does not go back")
        with self._lock:
            self._monotonic += seconds
