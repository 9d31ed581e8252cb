"""A fair cap on requests under way."""

from __future__ import annotations

import functools
from collections import deque
from threading import Lock, RLock, get_ident, main_thread
from typing import TYPE_CHECKING

from groq_provider._sync import forkable, lock_attempts, owns_lock, wake
from groq_provider.errors import PoolTimeoutError, RequestCancelledError

if TYPE_CHECKING:
    from groq_provider.transport.scope import CancelScope

__all__ = ["ConnectionLimiter", "Permit"]

#: Seconds between two looks of a wait that others cannot end.
_LOOK_AFTER = 0.05


class Permit:
    """The right to have one request under way, or the wait for it; given back once, at the latest when it is garbage.

    It is its own from the moment it is granted, wherever an interrupt may strike from then on.
    """

    __slots__ = ("_slots", "lock", "thread")

    def __init__(self) -> None:
        self.thread = get_ident()
        self._slots: ConnectionLimiter | None = None  # set by whoever grants it
        self.lock: Lock | None = None  # of a wait, which ends when it is released

    def give(self) -> None:
        """Give it back. Idempotent; waits for nothing, so that finalizers may call it."""
        slots, self._slots = getattr(self, "_slots", None), None  # an interrupt may have struck before there was one
        if slots is not None:
            slots._returned.append(None)  # not by a call of ours, at whose beginning an interrupt might lose it
            slots._settle()

    __del__ = give


class ConnectionLimiter:
    """A cap: first come, first served; each waiter owns its wake-up."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._start()
        forkable(self)

    def _start(self) -> None:
        # Reentrant (_sync): wherever one may strike, what it finds is right, and it may change all of it.
        self._lock = RLock()
        self._free = self._count  # guarded by _lock, like _queue
        self._queue: deque[Permit] = deque()
        #: Given back and not yet free. A finalizer may run inside any lock, this one's included, so that giving back cannot wait
        #: for it: whoever holds it looks here again after letting go.
        self._returned: deque[None] = deque()

    _after_fork_in_child = _start  # the threads that held slots or waited for them are not here

    def take(self, scope: CancelScope, limit: float | None) -> Permit:
        """Wait for a slot.

        Raises:
            PoolTimeoutError: None came free until the instant *limit*.
            RequestCancelledError: The call was cancelled.
        """
        slot = Permit()
        try:
            with self._lock:
                if self._free > 0 and not self._queue:
                    self._free -= 1
                    slot._slots = self
                else:
                    slot.lock = Lock()
                    slot.lock.acquire()
                    self._queue.insert(self._place(slot), slot)
                    self._settle()  # a handler may have given one back just now
            if self._returned:
                self._settle()
            if slot.lock is not None:
                self._wait(slot, slot.lock, scope, limit)
        except BaseException:
            self._leave(slot)
            slot.give()  # it may have come at the last moment, whatever ended the wait
            raise
        return slot

    def _wait(self, slot: Permit, lock: Lock, scope: CancelScope, limit: float | None) -> None:
        handle = scope.subscribe(functools.partial(wake, lock))
        # A signal handler that struck while its thread was in here: those who give back leave it to whoever holds the lock.
        ours = owns_lock(self._lock)
        try:
            while True:
                left = None if limit is None else limit - scope.clock.monotonic()
                step = left if not ours else _LOOK_AFTER if left is None else min(left, _LOOK_AFTER)
                if scope.clock.wait(lock, step) or step == left:
                    break
                self._settle()
        finally:
            scope.unsubscribe(handle)
        self._leave(slot)
        if scope.cancelled:
            raise RequestCancelledError("the call was cancelled", sent=False)
        if slot._slots is None:
            raise PoolTimeoutError(
                f"all {self._count} connections (max_connections) were busy for too long", sent=False
            )

    def _place(self, slot: Permit) -> int:
        """Return where in the queue a newcomer stands: last, but before one that waits in the same thread.

        That is a signal handler's call, and the one it interrupted cannot go on before the handler returns.
        """
        if slot.thread == main_thread().ident:
            for place, other in enumerate(list(self._queue)):
                if other.thread == slot.thread:
                    return place
        return len(self._queue)

    def _leave(self, slot: Permit) -> None:
        """Leave the queue. What was granted by then stays granted."""
        with self._lock:
            try:
                self._queue.remove(slot)
            except ValueError:
                pass  # it was granted, or never there, or is of a process that has forked meanwhile
        self._settle()

    def _settle(self) -> None:
        for _ in lock_attempts(self._lock):
            try:
                while self._returned:
                    del self._returned[0]
                    if self._free < self._count:  # in a forked child, some are given back that it never took
                        self._free += 1
                while self._free > 0 and self._queue:
                    # Without a call, after which an interrupt might come, before the one that wakes.
                    first = self._queue[0]
                    del self._queue[0]
                    self._free -= 1
                    first._slots = self
                    if first.lock is not None:
                        try:
                            first.lock.release()
                        except RuntimeError:
                            pass  # awake already, by a cancel
            finally:
                self._lock.release()
            if not self._returned:
                break
