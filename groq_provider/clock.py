"""The clock that the library reads and waits on, as an object that tests can replace."""

from __future__ import annotations

import functools
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import threading

__all__ = ["Clock", "SystemClock"]


@runtime_checkable
class Clock(Protocol):
    """The source of time. Implement it to control time in your tests.

    .. versionadded:: 0.1.0
    """

    def monotonic(self) -> float:
        """Return seconds that never go back; for deadlines and durations."""
        ...

    def now(self) -> datetime:
        """Return the wall clock as an aware UTC datetime; for records shown to people."""
        ...

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Acquire *lock* within *timeout* seconds (``None``: no limit) and return whether that succeeded.

        This is the only way in which this library waits.
        """
        ...


class SystemClock:
    """The clock of the operating system. It has no state; all threads may share it.

    .. versionadded:: 0.1.0
    """

    # Both are C functions: every call of the provider reads them several times.
    monotonic = staticmethod(time.monotonic)
    now = staticmethod(functools.partial(datetime.now, timezone.utc))

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Acquire *lock* within *timeout* seconds (``None``: no limit) and return whether that succeeded."""
        if timeout is None:
            return lock.acquire()
        if timeout <= 0:
            return lock.acquire(blocking=False)
        return lock.acquire(timeout=min(timeout, 3_000_000.0))  # threading.TIMEOUT_MAX is smaller on some systems
