"""A fair cap on requests under way."""

from __future__ import annotations

import functools
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

from groq_provider.errors import PoolTimeoutError, RequestCancelledError

from .call import tries, wake
from .pool import at_fork

if TYPE_CHECKING:
    from .call import CallState

__all__ = ["Slot", "Slots"]


class Slot:
    """The right to have one request under way; given back once, at the latest when it is garbage."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: Slots | None = None  # set by whoever grants it

    def give(self) -> None:
        """Give it back. Idempotent; waits for nothing, so that finalizers may call it."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots._returned.append(None)  # not by a call of ours, at whose beginning an interrupt might lose it
            slots._settle()

    __del__ = give


class Slots:
    """A cap: first come, first served; each waiter owns its wake-up."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._start()
        at_fork.add(self)

    def _start(self) -> None:
        self._lock = Lock()
        self._free = self._count  # guarded by _lock, like _queue
        self._queue: deque[Lock] = deque()
        #: Given back and not yet free. A finalizer may run inside any lock, this one's included, so that giving back cannot wait
        #: for it: whoever holds it looks here again after letting go.
        self._returned: deque[None] = deque()

    _after_fork_in_child = _start  # the threads that held slots or waited for them are not here

    def take(self, call: CallState, limit: float | None) -> Slot:
        """Wait for a slot.

        Raises:
            PoolTimeoutError: None came free until the instant *limit*.
            RequestCancelledError: The call was cancelled.
        """
        mine: Lock | None = None
        slot = Slot()
        with self._lock:
            if self._free > 0 and not self._queue:
                self._free -= 1
                slot._slots = self
            else:
                mine = Lock()
                mine.acquire()
                self._queue.append(mine)
        if self._returned:
            self._settle()
        if mine is not None:
            self._wait(mine, call, limit)
            slot._slots = self
        return slot

    def _wait(self, mine: Lock, call: CallState, limit: float | None) -> None:
        handle = call.subscribe(functools.partial(wake, mine))
        try:
            call.clock.wait(mine, None if limit is None else limit - call.clock.monotonic())
        except BaseException:
            if not self._left(mine):
                self.give()
            raise
        finally:
            call.unsubscribe(handle)
        granted = not self._left(mine)  # perhaps at the last moment, whatever ended the wait
        if call.cancelled:
            if granted:
                self.give()
            raise RequestCancelledError("the call was cancelled", sent=False)
        if not granted:
            raise PoolTimeoutError(
                f"all {self._count} connections (max_connections) were busy for too long", sent=False
            )

    def _left(self, mine: Lock) -> bool:
        """Leave the queue; say whether we were still in it, without a slot."""
        with self._lock:
            try:
                self._queue.remove(mine)
                waiting = True
            except ValueError:
                waiting = False
        if self._returned:
            self._settle()
        return waiting

    def give(self) -> None:
        """Give a slot back, to the first in the queue if there is one."""
        self._returned.append(None)
        self._settle()

    def _settle(self) -> None:
        for _ in tries(self._lock):
            try:
                while self._returned:
                    # Without a call, after which an interrupt might come, before the one that wakes.
                    del self._returned[0]
                    if self._queue:
                        first = self._queue[0]
                        del self._queue[0]
                        try:
                            first.release()
                        except RuntimeError:
                            pass  # awake already, by a cancel
                    elif self._free < self._count:  # in a forked child, some are given back that it never took
                        self._free += 1
            finally:
                self._lock.release()
            if not self._returned:
                break
