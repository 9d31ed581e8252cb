"""The queue of one model: first come first served, in two classes.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.ratelimit.cost import Estimate
    from groq_provider.ratelimit.reservation import HeldReservation
    from groq_provider.ratelimit.store.gcra_state import AcquireRequest

__all__ = ["NEVER", "WaitQueue", "Waiter"]

_MAIN = threading.main_thread()
#: Later than any instant, in nanoseconds.
NEVER = 1 << 62


class Waiter:
    """One waiting caller.

    Args:
        held: The reservation it waits to have granted.
        estimate: What the call is taken to cost.
        sure: What of it will surely be used up, for lower bounds.
        since: When the caller came, in nanoseconds.
        deadline: When it gives up, in nanoseconds; :data:`NEVER` for not at all.
        long_wait: Longest wait for a limit per day, in nanoseconds; :data:`NEVER` for any.
        batch: Its class.
    """

    __slots__ = (
        "armed",
        "ask",
        "batch",
        "cancelled",
        "deadline",
        "doubted",
        "estimate",
        "held",
        "long_wait",
        "since",
        "start",
        "starts",
        "sure",
        "thread",
        "wake",
    )

    def __init__(
        self,
        held: HeldReservation,
        estimate: Estimate,
        *,
        sure: Cost,
        since: int,
        deadline: int,
        long_wait: int,
        batch: bool,
    ) -> None:
        self.held = held
        self.estimate = estimate
        self.sure = sure
        self.since = since
        self.deadline = deadline
        self.long_wait = long_wait
        self.batch = batch
        self.cancelled = False
        self.thread = threading.get_ident()
        #: When the caller wakes by itself; nobody needs to wake it for later than that.
        self.armed = NEVER
        #: With a store: what to ask it next; when the place that was reserved begins, by this process's clock and by the store's.
        self.ask: AcquireRequest | None = None
        self.starts = self.start = 0
        #: Since when the store says that it will be too late, for reasons that may pass.
        self.doubted = 0
        # The wake-up, owned by this caller alone: locked while it sleeps, released to wake it. So a wake-up never stirs anybody
        # else, and one that comes before the sleep is not lost.
        self.wake = threading.Lock()
        self.wake.acquire()

    @property
    def granted(self) -> bool:
        """Whether it has got its place."""
        return self.held.sequence > 0

    def rouse(self) -> None:
        """Wake the caller. Takes no lock of anybody's, so a signal handler may come here through a cancel."""
        with contextlib.suppress(RuntimeError):  # it is awake already
            self.wake.release()

    def cancel(self) -> None:
        """End the wait, from any thread."""
        self.cancelled = True
        self.rouse()


class _Lane:
    """One class of callers, in order of arrival."""

    __slots__ = ("stride", "sure", "tickets", "virtual")

    def __init__(self, stride: int) -> None:
        self.tickets: deque[Waiter] = deque()
        self.stride = stride
        self.virtual = 0
        #: Sum of what the waiting calls will surely use, for lower bounds in constant time.
        self.sure = [0, 0, 0, 0]

    def add(self, ticket: Waiter) -> None:
        for kind, units in enumerate(ticket.sure):
            self.sure[kind] += units
        tickets = self.tickets
        if not tickets or ticket.held.arrival > tickets[-1].held.arrival:
            tickets.append(ticket)
            return
        # A retry keeps the place of its first arrival. Retries are few and old, so their place is near the front. And who comes with the
        # arrival of another goes before it: see put_before_own().
        place = next(i for i, other in enumerate(tickets) if other.held.arrival >= ticket.held.arrival)
        tickets.insert(place, ticket)

    def remove(self, ticket: Waiter) -> None:
        if self.tickets[0] is ticket:
            self.tickets.popleft()
        else:
            self.tickets.remove(ticket)  # only who gives up leaves from the middle
        for kind, units in enumerate(ticket.sure):
            self.sure[kind] = self.sure[kind] - units if self.tickets else 0


class WaitQueue:
    """Who waits, and whose turn it is.

    Interactive callers have four turns for each of the batch callers (stride scheduling); inside a class it is first come first
    served. An empty class saves up no turns.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_batch", "_interactive", "_now")

    def __init__(self) -> None:
        self._interactive, self._batch = _Lane(1), _Lane(4)
        self._now = 0  # virtual time: the place of the turn served last

    def __len__(self) -> int:
        return len(self._interactive.tickets) + len(self._batch.tickets)

    def __bool__(self) -> bool:
        return bool(self._interactive.tickets or self._batch.tickets)

    def __contains__(self, ticket: Waiter) -> bool:
        return ticket in self._lane(ticket.batch).tickets

    def _lane(self, batch: bool) -> _Lane:
        return self._batch if batch else self._interactive

    @property
    def head(self) -> Waiter | None:
        """The one whose turn it is."""
        first, second = self._interactive, self._batch
        if not first.tickets or (second.tickets and second.virtual < first.virtual):
            first = second
        return first.tickets[0] if first.tickets else None

    def add(self, ticket: Waiter) -> None:
        """Put a caller in its place."""
        lane = self._lane(ticket.batch)
        if not lane.tickets:
            lane.virtual = max(lane.virtual, self._now + lane.stride)
        lane.add(ticket)

    def put_before_own(self, ticket: Waiter) -> None:
        """Give a newcomer the place of one who waits in the same thread, if there is one: it is to be added right before that.

        A signal handler's call, then: the one it interrupted cannot go on before the handler returns, and must not be waited for.
        """
        if ticket.thread != _MAIN.ident:
            return  # signal handlers run in the main thread only
        for lane in (self._interactive, self._batch):
            for other in lane.tickets:
                if other.thread == ticket.thread:
                    ticket.held.arrival, ticket.batch = other.held.arrival, other.batch
                    return

    def remove(self, ticket: Waiter) -> None:
        """Let a caller leave before its turn; no turn is counted."""
        self._lane(ticket.batch).remove(ticket)

    def serve(self, ticket: Waiter) -> None:
        """Let the head go: it had its turn."""
        lane = self._lane(ticket.batch)
        lane.remove(ticket)
        self._now = lane.virtual
        lane.virtual += lane.stride

    def cost_ahead(self, ticket: Waiter) -> Cost:
        """Return what those of its class before a waiter reserve. Counts them all: for the few who give up."""
        ahead = [0, 0, 0, 0]
        for other in self._lane(ticket.batch).tickets:
            if other is ticket:
                break
            ahead = [units + more for units, more in zip(ahead, other.estimate.cost, strict=True)]
        requests, total, prompt, output = ahead
        return requests, total, prompt, output

    def sure_before(self, ticket: Waiter) -> Cost | None:
        """Return what those before a newcomer will surely use; ``None`` if it goes in before others, where it is not known."""
        lane = self._lane(ticket.batch)
        if not lane.tickets:
            return 0, 0, 0, 0
        if ticket.held.arrival <= lane.tickets[-1].held.arrival:
            return None
        requests, total, prompt, output = lane.sure
        return requests, total, prompt, output
