"""A fair cap on the number of requests under way (``max_connections``)."""

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

#: Seconds between two checks by a waiter that other threads cannot wake.
_RECHECK_AFTER = 0.05


class Permit:
    """The right to have one request under way, or the wait for that right.

    Once granted, the permit belongs to the waiter: after an interrupt its finalizer returns it, if nothing else does.
    """

    __slots__ = ("_limiter", "thread_id", "wake_lock")

    def __init__(self) -> None:
        self.thread_id = get_ident()
        self._limiter: ConnectionLimiter | None = None  # set by the thread that grants the permit
        self.wake_lock: Lock | None = None  # while it waits; the grant releases it

    def release(self) -> None:
        """Return the permit. Idempotent; never waits, so finalizers can call it."""
        # The attribute is unset if an interrupt struck in __init__.
        limiter, self._limiter = getattr(self, "_limiter", None), None
        if limiter is not None:
            # Not by a method of ours: an interrupt as that begins would lose the permit.
            limiter._returned_permits.append(None)
            # A finalizer or a signal handler may have interrupted a locked section of this thread between any two
            # statements. It must not touch the queue then; the section settles at its end.
            if not owns_lock(limiter._lock):
                limiter._settle_returned()

    def __del__(self) -> None:
        if getattr(self, "_limiter", None) is not None:
            self.release()


class ConnectionLimiter:
    """A cap on requests: waiters are served in the order of their arrival, and each owns the lock that wakes it."""

    def __init__(self, count: int) -> None:
        self._max_permits = count
        self._reset_state()
        forkable(self)

    def _reset_state(self) -> None:
        # Reentrant (_sync): a signal handler may find these fields at any step, and may change all of them.
        self._lock = RLock()
        self._free_permits = self._max_permits  # guarded by _lock, like _waiters
        self._waiters: deque[Permit] = deque()
        #: Permits that were returned but are not free yet. A finalizer may run while the lock is held, so release()
        #: never waits for it; the holder of the lock drains this after releasing.
        self._returned_permits: deque[None] = deque()

    _after_fork_in_child = _reset_state  # in the child there are no threads that held or awaited permits

    def acquire(self, scope: CancelScope, limit: float | None) -> Permit:
        """Wait for a permit.

        Raises:
            PoolTimeoutError: No permit was free by the instant *limit*.
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
                    self._settle_returned()  # a handler may have returned one just now
            if self._returned_permits:
                self._settle_returned()
            if permit.wake_lock is not None:
                self._wait_for_permit(permit, permit.wake_lock, scope, limit)
        except BaseException:
            self._leave_queue(permit)
            permit.release()  # it may have been granted just before the wait ended
            raise
        return permit

    def _wait_for_permit(self, permit: Permit, wake_lock: Lock, scope: CancelScope, limit: float | None) -> None:
        subscription = scope.subscribe(functools.partial(wake, wake_lock))
        # In a signal handler that interrupted a locked section, this thread holds the lock, and other threads leave the
        # permits that they return to it. So it must look for them itself.
        in_handler = owns_lock(self._lock)
        try:
            while True:
                remaining = None if limit is None else limit - scope.clock.monotonic()
                wait_time = (
                    remaining
                    if not in_handler
                    else _RECHECK_AFTER
                    if remaining is None
                    else min(remaining, _RECHECK_AFTER)
                )
                if scope.clock.wait(wake_lock, wait_time) or wait_time == remaining:
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
        """Return the index in the queue for a new waiter: the end, or in front of a waiter of the same thread.

        The new waiter is then the call of a signal handler, and the call that it interrupted cannot go on before the
        handler returns.
        """
        if permit.thread_id == main_thread().ident:
            for position, waiting_permit in enumerate(list(self._waiters)):
                if waiting_permit.thread_id == permit.thread_id:
                    return position
        return len(self._waiters)

    def _leave_queue(self, permit: Permit) -> None:
        """Leave the queue. A permit that was granted meanwhile stays granted."""
        with self._lock:
            try:
                self._waiters.remove(permit)
            except ValueError:
                pass  # granted meanwhile, never queued, or from before a fork
        self._settle_returned()

    def _settle_returned(self) -> None:
        for _ in lock_attempts(self._lock):
            try:
                while self._returned_permits:
                    del self._returned_permits[0]
                    if self._free_permits < self._max_permits:  # in a forked child, permits of the parent may come back
                        self._free_permits += 1
                while self._free_permits > 0 and self._waiters:
                    # No call of a Python function before the one that wakes the waiter: an interrupt could strike there
                    # (_sync).
                    first_waiter = self._waiters[0]
                    del self._waiters[0]
                    self._free_permits -= 1
                    first_waiter._limiter = self
                    if first_waiter.wake_lock is not None:
                        try:
                            first_waiter.wake_lock.release()
                        except RuntimeError:
                            pass  # awake already, by a cancel
            finally:
                self._lock.release()
            if not self._returned_permits:
                break
