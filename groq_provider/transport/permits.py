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
_RECHECK_AFTER = 0.05


class Permit:
    """The right to have one request under way, or the wait for it; given back once, at the latest when it is garbage.

    It is its own from the moment it is granted, wherever an interrupt may strike from then on.
    """

    __slots__ = ("_limiter", "thread_id", "wake_lock")

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self._limiter: ConnectionLimiter | None = None  # set by whoever grants it
        self.wake_lock: Lock | None = None  # of a wait, which ends when it is released

    def release(self) -> None:
        """Give it back. Idempotent; waits for nothing, so that finalizers may call it."""
        limiter, self._limiter = (
            getattr(self, "_limiter", None),
            None,
        )  # an interrupt may have struck before there was one
        if limiter is not None:
            limiter._returned.append(None)  # not by a call of in_handler, at whose beginning an interrupt might lose it
            limiter._settle_returned()

    __del__ = release


class ConnectionLimiter:
    """A cap: first come, first served; each waiter owns its wake-up."""

    def __init__(self, count: int) -> None:
        self._max_permits = count
        self._start()
        forkable(self)

    def _start(self) -> None:
        # Reentrant (_sync): wherever one may strike, what it finds is right, and it may change all of it.
        self._lock = RLock()
        self._free_permits = self._max_permits  # guarded by _lock, like _waiters
        self._waiters: deque[Permit] = deque()
        #: Given back and not yet free. A finalizer may run inside any lock, this one's included, so that giving back cannot wait
        #: for it: whoever holds it looks here again after letting go.
        self._returned: deque[None] = deque()

    _after_fork_in_child = _start  # the threads that held limiter or waited for them are not here

    def acquire(self, scope: CancelScope, limit: float | None) -> Permit:
        """Wait for a permit.

        Raises:
            PoolTimeoutError: None came free until the instant *limit*.
            RequestCancelledError: The call was cancelled.
        """
        permit = Permit()
        try:
            with self._lock:
                if self._free_permits > 0 and not self._waiters:
                    self._free_permits -= 1
                    permit._limiter = self
                else:
                    permit.wake_lock = Lock()
                    permit.wake_lock.acquire()
                    self._waiters.insert(self._queue_position(permit), permit)
                    self._settle_returned()  # a handler may have given one back just now
            if self._returned:
                self._settle_returned()
            if permit.wake_lock is not None:
                self._wait_for_permit(permit, permit.wake_lock, scope, limit)
        except BaseException:
            self._leave_queue(permit)
            permit.release()  # it may have come at the last moment, whatever ended the wait
            raise
        return permit

    def _wait_for_permit(self, permit: Permit, wake_lock: Lock, scope: CancelScope, limit: float | None) -> None:
        subscription = scope.subscribe(functools.partial(wake, wake_lock))
        # A signal handler that struck while its thread_id was in here: those who release back leave it to whoever holds the lock.
        in_handler = owns_lock(self._lock)
        try:
            while True:
                remaining = None if limit is None else limit - scope.clock.monotonic()
                step = (
                    remaining
                    if not in_handler
                    else _RECHECK_AFTER
                    if remaining is None
                    else min(remaining, _RECHECK_AFTER)
                )
                if scope.clock.wait(wake_lock, step) or step == remaining:
                    break
                self._settle_returned()
        finally:
            scope.unsubscribe(subscription)
        self._leave_queue(permit)
        if scope.cancelled:
            raise RequestCancelledError("the call was cancelled", sent=False)
        if permit._limiter is None:
            raise PoolTimeoutError(
                f"all {self._max_permits} connections (max_connections) were busy for too long", sent=False
            )

    def _queue_position(self, permit: Permit) -> int:
        """Return where in the queue a newcomer stands: last, but before one that waits in the same thread_id.

        That is a signal handler's call, and the one it interrupted cannot go on before the handler returns.
        """
        if permit.thread_id == main_thread().ident:
            for position, other in enumerate(list(self._waiters)):
                if other.thread_id == permit.thread_id:
                    return position
        return len(self._waiters)

    def _leave_queue(self, permit: Permit) -> None:
        """Leave the queue. What was granted by then stays granted."""
        with self._lock:
            try:
                self._waiters.remove(permit)
            except ValueError:
                pass  # it was granted, or never there, or is of a process that has forked meanwhile
        self._settle_returned()

    def _settle_returned(self) -> None:
        for _ in lock_attempts(self._lock):
            try:
                while self._returned:
                    del self._returned[0]
                    if (
                        self._free_permits < self._max_permits
                    ):  # in a forked child, some are given back that it never took
                        self._free_permits += 1
                while self._free_permits > 0 and self._waiters:
                    # Without a call, after which an interrupt might come, before the one that wakes.
                    first = self._waiters[0]
                    del self._waiters[0]
                    self._free_permits -= 1
                    first._limiter = self
                    if first.wake_lock is not None:
                        try:
                            first.wake_lock.release()
                        except RuntimeError:
                            pass  # awake already, by a cancel
            finally:
                self._lock.release()
            if not self._returned:
                break
