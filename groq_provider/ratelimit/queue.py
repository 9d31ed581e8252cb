"""Queue the callers of one model: first come, first served, in two classes.

Not thread-safe by itself: the lock of the :class:`~groq_provider.ratelimit.model.ModelLimiter` guards it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

from groq_provider.ratelimit.bucket import NEVER

if TYPE_CHECKING:
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.ratelimit.cost import Estimate
    from groq_provider.ratelimit.reservation import HeldReservation
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest

__all__ = ["NEVER", "WaitQueue", "Waiter"]

_MAIN_THREAD = threading.main_thread()


class Waiter:
    """One waiting caller.

    Args:
        reservation: The reservation to grant.
        estimate: The estimated cost of the call.
        certain_cost: The part of it that will almost surely be used, for lower bounds.
        arrived_at: When the caller came, in nanoseconds.
        deadline: When it gives up, in nanoseconds; :data:`NEVER` for not at all.
        long_wait: Longest wait for a limit per day, in nanoseconds; :data:`NEVER` for any.
        batch: Whether it belongs to the batch class.
    """

    __slots__ = (
        "arrived_at",
        "batch",
        "cancelled",
        "certain_cost",
        "deadline",
        "estimate",
        "late_since",
        "long_wait",
        "request",
        "reservation",
        "starts_at",
        "store_start",
        "thread_id",
        "wake_lock",
        "wakes_at",
    )

    def __init__(
        self,
        reservation: HeldReservation,
        estimate: Estimate,
        *,
        certain_cost: Cost,
        arrived_at: int,
        deadline: int,
        long_wait: int,
        batch: bool,
    ) -> None:
        self.reservation = reservation
        self.estimate = estimate
        self.certain_cost = certain_cost
        self.arrived_at = arrived_at
        self.deadline = deadline
        self.long_wait = long_wait
        self.batch = batch
        self.cancelled = False
        self.thread_id = threading.get_ident()
        #: When the caller wakes by itself; waking it for a later instant is not needed.
        self.wakes_at = NEVER
        #: With a store: the next question to it; and the start of the reservation, by our clock and by the store's.
        self.request: AcquireRequest | None = None
        self.starts_at = self.store_start = 0
        #: With a store: since when its answers promise a start after the deadline, for reasons that may pass.
        self.late_since = 0
        # Belongs to this waiter alone: locked while it sleeps, released to wake it. So a wake-up disturbs no other thread, and one that
        # comes before the sleep is not lost.
        self.wake_lock = threading.Lock()
        self.wake_lock.acquire()

    @property
    def granted(self) -> bool:
        """Whether the reservation is granted."""
        return self.reservation.sequence > 0

    def wake(self) -> None:
        """Wake the caller. Takes no shared lock, so a signal handler may come here through a cancel."""
        with contextlib.suppress(RuntimeError):  # it is awake already
            self.wake_lock.release()

    def cancel(self) -> None:
        """End the wait, from any thread."""
        self.cancelled = True
        self.wake()


class _Lane:
    """One class of callers, in order of arrival."""

    __slots__ = ("certain_cost", "stride", "virtual_time", "waiters")

    def __init__(self, stride: int) -> None:
        self.waiters: deque[Waiter] = deque()
        self.stride = stride
        self.virtual_time = 0
        #: Sum over the waiters, so that a lower bound takes constant time.
        self.certain_cost = [0, 0, 0, 0]

    def add(self, waiter: Waiter) -> None:
        for kind, units in enumerate(waiter.certain_cost):
            self.certain_cost[kind] += units
        waiters = self.waiters
        if not waiters or waiter.reservation.arrival > waiters[-1].reservation.arrival:
            waiters.append(waiter)
            return
        # A retry keeps the place of its first arrival; retries are few and old, so their place is near the front. A waiter with the
        # same arrival as another goes before it, see place_before_interrupted().
        position = next(
            index for index, other in enumerate(waiters) if other.reservation.arrival >= waiter.reservation.arrival
        )
        waiters.insert(position, waiter)

    def remove(self, waiter: Waiter) -> None:
        if self.waiters[0] is waiter:
            self.waiters.popleft()
        else:
            self.waiters.remove(waiter)  # only a caller that gives up leaves from the middle
        for kind, units in enumerate(waiter.certain_cost):
            self.certain_cost[kind] = self.certain_cost[kind] - units if self.waiters else 0


class WaitQueue:
    """Decides the order of turns.

    Interactive callers get four turns for each turn of the batch callers (stride scheduling); within a class the first come is the
    first served. A class saves no turns while it is empty.
    .. versionadded:: 0.1.0
    """

    __slots__ = ("_batch", "_interactive", "_virtual_time")

    def __init__(self) -> None:
        self._interactive, self._batch = _Lane(1), _Lane(4)
        self._virtual_time = 0  # of the turn served last

    def __len__(self) -> int:
        return len(self._interactive.waiters) + len(self._batch.waiters)

    def __bool__(self) -> bool:
        return bool(self._interactive.waiters or self._batch.waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._lane(waiter.batch).waiters

    def _lane(self, batch: bool) -> _Lane:
        return self._batch if batch else self._interactive

    @property
    def head(self) -> Waiter | None:
        """The waiter that has the next turn."""
        lane, batch_lane = self._interactive, self._batch
        if not lane.waiters or (batch_lane.waiters and batch_lane.virtual_time < lane.virtual_time):
            lane = batch_lane
        return lane.waiters[0] if lane.waiters else None

    def add(self, waiter: Waiter) -> None:
        """Add a waiter in order of arrival."""
        lane = self._lane(waiter.batch)
        if not lane.waiters:
            lane.virtual_time = max(lane.virtual_time, self._virtual_time + lane.stride)
        lane.add(waiter)

    def place_before_interrupted(self, waiter: Waiter) -> None:
        """If this thread waits already, give *waiter* the place right before that other waiter.

        Then a signal handler calls. The call that it interrupted cannot go on before the handler returns, so it must not come first.
        """
        if waiter.thread_id != _MAIN_THREAD.ident:
            return  # signal handlers run in the main thread only
        for lane in (self._interactive, self._batch):
            for other in lane.waiters:
                if other.thread_id == waiter.thread_id:
                    waiter.reservation.arrival, waiter.batch = other.reservation.arrival, other.batch
                    return

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter that gives up; this counts as no turn."""
        self._lane(waiter.batch).remove(waiter)

    def serve(self, waiter: Waiter) -> None:
        """Remove the head, and count its turn."""
        lane = self._lane(waiter.batch)
        lane.remove(waiter)
        self._virtual_time = lane.virtual_time
        lane.virtual_time += lane.stride

    def cost_ahead(self, waiter: Waiter) -> Cost:
        """Return the reserved cost of all waiters of the class before *waiter*. Linear, so use it only when a waiter gives up."""
        ahead = [0, 0, 0, 0]
        for other in self._lane(waiter.batch).waiters:
            if other is waiter:
                break
            ahead = [units + added for units, added in zip(ahead, other.estimate.cost, strict=True)]
        requests, total, prompt, output = ahead
        return requests, total, prompt, output

    def certain_cost_ahead(self, waiter: Waiter) -> Cost | None:
        """Return the certain cost of all before a newcomer; ``None`` if it would overtake others, where the sum is unknown."""
        lane = self._lane(waiter.batch)
        if not lane.waiters:
            return 0, 0, 0, 0
        if waiter.reservation.arrival <= lane.waiters[-1].reservation.arrival:
            return None
        requests, total, prompt, output = lane.certain_cost
        return requests, total, prompt, output
