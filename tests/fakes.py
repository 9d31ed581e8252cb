"""Stand-ins for collaborators, shared by the tests."""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta, timezone

#: Real seconds after which a test that hangs fails.
PATIENCE = 20.0


class FakeClock:
    """Time that moves only when told, or by itself when somebody waits.

    As it is, a wait that nobody has ended moves the time on by its timeout: right for tests of one thread. With ``manual=True`` a
    waiting thread is parked until its lock is released or :meth:`advance` reaches its timeout: right for tests of many.

    Safe to use from many threads.
    """

    def __init__(self, start: float = 1000.0, *, manual: bool = False) -> None:
        self._changed = threading.Condition()  # guards everything below; notified when a thread parks or leaves
        self._start = self._monotonic = start
        self._manual = manual
        self._parked: list[_Parked] = []
        self.waits: list[float | None] = []

    def monotonic(self) -> float:
        with self._changed:
            return self._monotonic

    def now(self) -> datetime:
        return datetime(2026, 11, 1, 12, tzinfo=timezone.utc) + timedelta(seconds=self.monotonic() - self._start)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        if lock.acquire(blocking=False):
            return True
        with self._changed:
            self.waits.append(timeout)
            if not self._manual:
                assert timeout is not None, "this wait would never end"
                self._monotonic += timeout
                return False
            parked = _Parked(lock, None if timeout is None else self._monotonic + timeout)
            self._parked.append(parked)
            self._changed.notify_all()
        woken = lock.acquire(timeout=PATIENCE)
        with self._changed:
            self._parked.remove(parked)
            self._changed.notify_all()
        assert woken, "nobody woke this thread"
        return not parked.expired

    def advance(self, seconds: float) -> None:
        """Move the time, and wake every thread whose timeout it reaches."""
        with self._changed:
            self._monotonic += seconds
            for parked in self._parked:
                if parked.until is not None and parked.until <= self._monotonic and not parked.expired:
                    parked.expired = True
                    with contextlib.suppress(RuntimeError):  # woken at the same moment
                        parked.lock.release()

    def until_parked(self, count: int) -> None:
        """Return when that many threads sleep: neither awake nor just being woken."""
        with self._changed:
            asleep = lambda: sum(parked.lock.locked() for parked in self._parked)  # noqa: E731
            assert self._changed.wait_for(lambda: asleep() == len(self._parked) == count, PATIENCE), (
                f"{asleep()} threads sleep"
            )


class _Parked:
    def __init__(self, lock: threading.Lock, until: float | None) -> None:
        self.lock = lock
        self.until = until
        self.expired = False
