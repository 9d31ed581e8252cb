"""The limits, the queue and the open reservations of one model, and the one lock that guards them."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from groq_provider._signals import held_here
from groq_provider.errors import InvalidRequestError, RequestCancelledError
from groq_provider.ratelimit.bucket import INPUT, OUTPUT, REQUESTS, SECOND, TOKENS, BucketSet
from groq_provider.ratelimit.cost import Estimate, Estimator
from groq_provider.ratelimit.gate import ThrottleGate
from groq_provider.ratelimit.learning import LimitLearning
from groq_provider.ratelimit.queue import NEVER, Waiter, WaitQueue
from groq_provider.ratelimit.refusal import Refusal, TooLarge, TooLate, TooLong
from groq_provider.ratelimit.reservation import HeldReservation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.errors import RateLimitedError
    from groq_provider.ratelimit.bucket import Bucket, Cost
    from groq_provider.types.response import RateLimitInfo, Usage
    from groq_provider.types.status import RateLimitStatus

__all__ = ["ModelLimiter", "RetiredError"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_NOTHING: Cost = (0, 0, 0, 0)
_MOST_TOKENS = 1 << 40  # of one request: more than anything has, and NaN and infinity fail the comparison too


#: Between looks of who waits while nothing is known of the limits.
_SPACING = SECOND

#: Calls that may be out while nothing is known of the limits: until the first answer shows them, and so many more each second.
_FIRST_CALLS = 4


#: Whether one thread runs at a time, as with a global interpreter lock.
_ONE_RUNS: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class RetiredError(Exception):
    """The limiter has forgotten this state between the look for it and its use: there is, or will be, another. Never reaches a caller."""


class ModelLimiter:
    """Everything the limiter knows of one model.

    A signal handler may run in the main thread between any two steps of what stands under the lock, and call all of this again: the lock
    is reentrant, and ``_inside`` is true from the first change of such a section to its last. What the handler asks for then is answered
    without a change: what it gives back or learned is noted in ``_late``, and applied by the section it struck when that ends; a place
    is granted at once and charged then, since the queue stands still until the handler returns.

    Args:
        model: Its id.
        limits: Sizes by name.
        share: Millionths of the token limits to use.
        clock: Time, and the way to wait.
    """

    def __init__(self, model: str, limits: Mapping[str, int | None], *, share: int, clock: Clock) -> None:
        self.model = model
        self._clock = clock
        self._monotonic = clock.monotonic
        #: Guards all below but _late. Held for arithmetic only, never while waiting, logging or building errors.
        self._lock = threading.RLock()
        self._inside = False
        #: What is left to whoever is under the lock, or comes there next: by signal handlers, as above, and by reservations that were
        #: collected unsettled. A finalizer may run anywhere, even with the lock held by the same thread, so it only appends here.
        self._late: deque[Callable[[], object]] = deque()
        self._buckets = BucketSet(limits, share=share, now=self._now())
        self._estimator = Estimator()
        self._line = WaitQueue()
        self._gate = ThrottleGate()
        #: What is in flight: by sequence, so in the order it was granted. Holds no reservation, so that one may be collected.
        self._open: dict[int, Estimate] = {}
        self._open_output = 0
        self._arrivals = 0
        self._sequence = 0
        self._corrections = LimitLearning(self._buckets, self._gate, self._open)
        #: Whether an answer of this model was ever good; what the limiter looks at when it has too many.
        self.proven = False
        self.seen = 1
        self._noted = False  # whether the adoption of limits was logged
        #: No limit is known, and no answer came that could have named one.
        self._blind = not len(self._buckets)
        self._first_at = 0  # when the oldest of the calls that are out then left
        self._adopted_until = 0  # newest call that was out when a limit was adopted
        #: Takes a cost at once or not at all: what the fast path asks.
        self._take_now: Callable[[Cost, int], bool] = self._buckets.try_take

    # --- taking a place ----------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._monotonic() * SECOND)

    def acquire(
        self,
        prompt: int,
        max_output: int | None,
        *,
        deadline: float | None = None,
        long_wait: float | None = None,
        cancel: CancelToken | None = None,
        batch: bool = False,
        arrival: int | None = None,
        wait: bool = True,
    ) -> HeldReservation | None:
        """Take a place; see :meth:`groq_provider.protocols.RateLimiter.reserve`. Without *wait*: now, or ``None``."""
        if not 0 <= prompt < _MOST_TOKENS or not (max_output is None or 0 <= max_output < _MOST_TOKENS):
            raise InvalidRequestError(
                f"prompt_tokens = {prompt!r}, max_output_tokens = {max_output!r}: must be integers of at least 0",
                model=self.model,
            )
        if cancel is not None and cancel.cancelled:
            raise self._cancelled()
        held = HeldReservation(self)
        ticket = None
        # Outside the lock what can be: the less it is held, the less often a thread loses its turn while holding it.
        estimate = None if max_output is None else self._estimator.estimate(prompt, max_output)
        try:
            if self._inside and self._struck():
                return self._let_pass(held, prompt, max_output) if wait else None
            with self._lock:
                self._inside = True
                try:
                    if self._late:
                        self._clear_up()
                    if estimate is None:
                        estimate = self._estimator.guess(prompt)
                    if arrival is None:
                        arrival = self._arrivals = self._arrivals + 1
                    held.arrival = arrival
                    now = int(self._monotonic() * SECOND)
                    # Nobody overtakes: the fast path is closed while anybody waits or the gate is in use.
                    if (
                        not (self._blind and self._held_back(now))
                        and not self._line
                        and not self._gate.active
                        and self._take_now(estimate.cost, now)
                    ):
                        self._enter(held, estimate)
                        return held
                    ticket = Waiter(
                        held,
                        estimate,
                        sure=self._estimator.sure(estimate.cost),
                        since=now,
                        deadline=_nanoseconds(deadline),
                        long_wait=_nanoseconds(long_wait),
                        batch=batch,
                    )
                    self._line.put_before_own(ticket)
                    refusal = self._queue(ticket, now, wait=wait)
                finally:
                    while self._late:
                        self._late.popleft()()
                    self._inside = False
            self._raise(refusal)
            if not ticket.granted:
                if not wait:
                    return held if self._at_once(ticket) else None
                self._sleep(ticket, cancel)
        except BaseException:  # an interrupt as well: the place goes to the next, what was taken goes back
            self._leave(held, ticket)
            raise
        return held

    def _struck(self) -> bool:
        """Say whether this is a signal handler in the middle of a section of its own thread. Else let the one inside go on.

        Waiting for the lock instead would make a convoy where one thread runs at a time: whoever gets it next has to wait for the
        interpreter's own lock, and holds this one meanwhile, so that from then on every single acquire changes threads. That halves the
        rate of 64 threads, or worse.
        """
        if held_here(self._lock):
            return True
        if _ONE_RUNS:
            for _ in range(100):
                time.sleep(0.001)
                if not self._inside:
                    break
        return False

    def _let_pass(self, held: HeldReservation, prompt: int, max_output: int | None) -> HeldReservation:
        """Grant a place to a signal handler that struck in the middle of a section; it is charged when that section ends."""
        expected = self._estimator.expected_output() if max_output is None else max_output
        estimate = self._estimator.estimate(prompt, expected)
        self._arrivals += 1
        held.arrival = self._arrivals
        self._sequence += 1
        held.sequence = sequence = self._sequence  # no call between the two
        self._late.append(lambda: self._admit(sequence, estimate))
        return held

    def _admit(self, sequence: int, estimate: Estimate) -> None:
        """Charge a place that was granted before."""
        now = self._now()
        self._buckets.charge(estimate.cost, now)
        self._gate.passed(now, self._buckets.spacing())
        self._open_output += estimate.cost[OUTPUT]
        self._open[sequence] = estimate

    def _cancelled(self) -> RequestCancelledError:
        return RequestCancelledError(
            f"cancelled while waiting for the rate limit of model {self.model!r}", model=self.model, sent=False
        )

    def _raise(self, refusal: Refusal | None) -> None:
        if refusal is not None:  # made here, outside the lock: it asks the clock for the time of day
            raise refusal.error(self.model, self._clock)

    def _enter(self, held: HeldReservation, estimate: Estimate) -> None:
        """Note a place as taken. Its cost has been charged."""
        self._sequence += 1
        self._open_output += estimate.cost[OUTPUT]
        held.sequence = self._sequence  # first, so that whoever is interrupted here can be cleared up after
        self._open[held.sequence] = estimate

    def _queue(self, ticket: Waiter, now: int, *, wait: bool) -> Refusal | None:
        """Put a caller in the queue, unless it is clear now that it waits in vain."""
        refusal: Refusal | None = self._fit(ticket)
        if refusal is None and wait and self._line:
            refusal = self._forecast(ticket, now)
        if refusal is not None or (not wait and self._line):
            return refusal
        self._line.add(ticket)
        self._advance(now)
        if ticket.granted:
            return None
        if not wait:
            self._line.remove(ticket)
            return None
        return self._hopeless(ticket, now) if self._line.head is ticket else None

    def _at_once(self, ticket: Waiter) -> bool:  # noqa: ARG002 - where a store has to be asked, there is more to do
        """Take a place without waiting, if the queue could not give one."""
        return False

    def _sleep(self, ticket: Waiter, cancel: CancelToken | None) -> None:
        """Wait until granted; raise when it will not come to that."""
        handle = None if cancel is None else cancel.subscribe(ticket.cancel)
        try:
            while True:
                with self._lock:
                    self._inside = True
                    try:
                        timeout, refusal = self._step(ticket)
                    finally:
                        while self._late:
                            self._late.popleft()()
                        self._inside = False
                if ticket.cancelled:
                    raise self._cancelled()
                self._raise(refusal)
                if timeout == 0:
                    return
                self._pause(ticket, timeout)
        finally:
            if cancel is not None and handle is not None:
                cancel.unsubscribe(handle)

    def _pause(self, ticket: Waiter, timeout: float | None) -> None:
        """Do what is to be done before looking around again: sleep."""
        self._clock.wait(ticket.wake, timeout)

    def _step(self, ticket: Waiter) -> tuple[float | None, Refusal | None]:
        """Look around after waking: return how long to sleep on (0: it is this one's turn), or why not."""
        # Before looking, so that a wake-up from now on ends the next sleep.
        ticket.wake.acquire(blocking=False)
        now = self._now()
        if not ticket.granted:
            self._advance(now)
        if ticket.granted:
            return 0, None
        if self._line.head is ticket:
            refusal = self._hopeless(ticket, now)
            ticket.armed = self._ready_at(ticket.estimate.cost)[0]
            if self._blind and self._held_back(
                now
            ):  # an answer ends that, so nobody is refused for it before his time is up
                ticket.armed = min(now + _SPACING, ticket.deadline)
                refusal = refusal or (self._out_of_time(ticket, now) if now >= ticket.deadline else None)
        else:
            refusal = self._out_of_time(ticket, now) if now >= ticket.deadline else None
            ticket.armed = ticket.deadline
        # At least a microsecond: a clock in floats may not see less.
        return None if ticket.armed == NEVER else max(ticket.armed - now, 1000) / SECOND, refusal

    def _leave(self, held: HeldReservation, ticket: Waiter | None) -> None:
        """Undo whatever a caller had got to when it was stopped."""
        self._apply(lambda: self._leave_now(held, ticket))

    def _leave_now(self, held: HeldReservation, ticket: Waiter | None) -> None:
        if ticket is not None and ticket in self._line:
            self._line.remove(ticket)
        estimate = self._close(held)
        now = self._now()
        if estimate is not None:
            self._buckets.settle(estimate.cost, _NOTHING, now)
        self._advance(now)

    def _apply(self, change: Callable[[], object]) -> None:
        """Make a change under the lock; where a signal handler struck in the middle of another, when that one is done."""
        if self._inside and held_here(self._lock):
            self._late.append(change)
            return
        with self._lock:
            self._inside = True
            try:
                change()
            finally:
                while self._late:
                    self._late.popleft()()
                self._inside = False

    # --- whose turn, and when ----------------------------------------------------------------------------------------

    def _advance(self, now: int) -> None:
        """Grant what can be granted now, in order, and see that the head wakes in time for the rest.

        To be called after everything that may have changed that: time, credit, headers, somebody leaving.
        """
        while (ticket := self._line.head) is not None:
            if not ticket.granted:
                # What can never fit counts as later than any deadline: its caller wakes, finds that out and leaves.
                ready = NEVER + 1 if self._fit(ticket) else self._ready_at(ticket.estimate.cost)[0]
                if ready <= now and self._blind and self._held_back(now):
                    wake = min(now + _SPACING, ticket.deadline)
                    if wake < ticket.armed:
                        ticket.armed = wake
                        ticket.rouse()
                    return
                if ready > now:
                    if ready < ticket.armed or ready > ticket.deadline:
                        ticket.armed = ready
                        ticket.rouse()
                    return
                self._buckets.charge(ticket.estimate.cost, now)
                ticket.held.wait = (now - ticket.since) / SECOND
                self._gate.passed(now, self._buckets.spacing())
                self._enter(ticket.held, ticket.estimate)
            # Out of the queue only now: should an interrupt have struck in between, the next who comes here finishes the job.
            self._line.serve(ticket)
            ticket.rouse()

    def _held_back(self, now: int) -> bool:
        """Say whether enough calls are out for now: without any limit known a burst would mostly be refused."""
        out = len(self._open)
        if not out:
            self._first_at = now
        return out >= _FIRST_CALLS * (1 + (now - self._first_at) // _SPACING)

    def _ready_at(self, cost: Cost) -> tuple[int, Bucket | None]:
        ready, cause = self._buckets.ready_at(cost)
        return (self._gate.opens_at, None) if self._gate.opens_at > ready else (ready, cause)

    def _fit(self, ticket: Waiter) -> TooLarge | None:
        """Cut the cost to the limits as they are now; or find that it can never fit."""
        estimate = ticket.estimate
        if self._buckets.never_fits(estimate.cost) is None:
            return None
        bucket = self._buckets.never_fits(estimate.need, self._now())
        if bucket is not None:
            return TooLarge(bucket, bucket.limit, estimate.need[bucket.kind])
        ticket.estimate = estimate._replace(cost=self._buckets.fitted(estimate.cost, estimate.need))
        return None

    def _hopeless(self, ticket: Waiter, now: int) -> Refusal | None:
        """Find out whether the head waits in vain."""
        refusal: Refusal | None = self._fit(ticket)
        if refusal is None and ticket.long_wait != NEVER:
            refusal = self._too_long(ticket, _NOTHING, now)
        if refusal is None:
            ready = self._ready_at(ticket.estimate.cost)[0]
            refusal = TooLate(ready - now, ticket.deadline - now) if ready > ticket.deadline else None
        return refusal

    def _forecast(self, ticket: Waiter, now: int) -> Refusal | None:
        """Find out whether a newcomer waits in vain behind those that are there already."""
        if ticket.long_wait == NEVER and ticket.deadline == NEVER:
            return None
        before = self._line.sure_before(ticket)
        if before is None:
            return None
        refusal: Refusal | None = self._too_long(ticket, before, now) if ticket.long_wait != NEVER else None
        if refusal is None:
            ready = max([self._gate.opens_at, *(self._least(bucket, ticket, before) for bucket in self._buckets)])
            refusal = TooLate(ready - now, ticket.deadline - now) if ready > ticket.deadline else None
        return refusal

    def _out_of_time(self, ticket: Waiter, now: int) -> TooLate:
        """Say that a deadline passed in the queue, and how long it takes if begun now, behind those who are before this one."""
        ahead, own = self._line.cost_ahead(ticket), ticket.estimate.cost
        ready = max(self._gate.opens_at, now)
        for bucket in self._buckets:
            if own[bucket.kind]:
                units = ahead[bucket.kind] + min(own[bucket.kind], bucket.capacity)
                ready = max(ready, bucket.tat + units * bucket.interval - bucket.burst)
        return TooLate(ready - now, ticket.deadline - now)

    def _too_long(self, ticket: Waiter, before: Cost, now: int) -> TooLong | None:
        gate = self._gate
        if gate.opens_at - now > ticket.long_wait:
            return TooLong(gate.opens_at - now, gate.scope, gate.limit_name, gate.limit)
        for bucket in self._buckets:
            if bucket.dimension.scope == "day":
                wait = self._least(bucket, ticket, before) - now
                if wait > ticket.long_wait:
                    return TooLong(wait, "day", bucket.name.upper(), bucket.limit)
        return None

    def _least(self, bucket: Bucket, ticket: Waiter, before: Cost) -> int:
        """Return the earliest instant at which *ticket* can fit into *bucket* after those before it.

        For the head that is the plain computation. For the others what is in flight, and those before, are taken to give back
        as much as answers have given back so far.
        """
        units = ticket.estimate.cost[bucket.kind]
        if before == _NOTHING or not units:
            return bucket.ready_at(units)
        hoped = 0
        if bucket.kind in {TOKENS, OUTPUT}:
            hoped = int(self._open_output * (1 - self._estimator.output_yield))
        ahead = before[bucket.kind] - hoped
        return bucket.tat + (ahead + min(units, bucket.capacity)) * bucket.interval - bucket.burst

    # --- giving it back ----------------------------------------------------------------------------------------------

    def _close(self, held: HeldReservation) -> Estimate | None:
        """End a reservation: the first who does gets what was reserved, everybody after ``None``."""
        held.closed = True
        return self._forget(held.sequence)

    def _forget(self, sequence: int) -> Estimate | None:
        estimate = self._open.pop(sequence, None)
        if estimate is not None:
            self._open_output = self._open_output - estimate.cost[OUTPUT] if self._open else 0
        return estimate

    def drop(self, sequence: int) -> None:
        """Forget a reservation that was collected unsettled; for finalizers, takes no lock."""
        self._late.append(partial(self._forget, sequence))

    def _clear_up(self) -> None:
        while self._late:
            self._late.popleft()()

    def end(self, held: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:
        """End a reservation.

        Args:
            held: Ended once; a second call changes nothing.
            actual: What to count instead of what was reserved; ``None`` keeps that.
            usage: To learn from.
        """
        try:
            if self._inside and self._struck():
                held.closed = True
                self._late.append(lambda: self._end_now(held, actual, usage))
                return
            with self._lock:
                self._inside = True
                try:
                    self._end_now(held, actual, usage)
                finally:
                    while self._late:
                        self._late.popleft()()
                    self._inside = False
        except BaseException:  # an interrupt: nobody may stay in flight, and nobody unwoken
            self._leave_kept(held)
            raise

    def _end_now(self, held: HeldReservation, actual: Cost | None, usage: Usage | None) -> Estimate | None:
        """End a reservation; return what was reserved, if this call replaced it by something else."""
        held.closed = True
        estimate = self._forget(held.sequence)
        if estimate is None or actual is None:
            return None
        now = self._now()
        late = held.sequence <= self._adopted_until
        self._buckets.settle(self._reserved(held, estimate, actual) if late else estimate.cost, actual, now)
        if usage is not None:
            self.proven = True
            if usage.source == "reported":
                self._estimator.learn(estimate.prompt, estimate.cost[OUTPUT], usage)
        if self._line:
            self._advance(now)
        return estimate

    def _leave_kept(self, held: HeldReservation) -> None:
        """End a reservation as it is, if it had not come to its settlement yet."""

        def change() -> None:
            self._close(held)
            self._advance(self._now())

        self._apply(change)

    def _reserved(self, held: HeldReservation, estimate: Estimate, actual: Cost) -> Cost:
        """Return what a call has reserved, as far as a limit learned while it was out knows of it.

        Such a limit came with the service's own count of the prompt, and only what the answer left over is to be given back.
        """
        if held.sequence > self._adopted_until or actual[REQUESTS] == 0:
            return estimate.cost
        requests, _, prompt, output = estimate.cost
        prompt = min(prompt, actual[INPUT])
        return requests, prompt + output, prompt, output

    # --- what the service says ---------------------------------------------------------------------------------------

    def feedback(self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None) -> None:
        """Learn from an answer."""
        if self._inside and self._struck():
            self._late.append(lambda: self._feedback_now(sequence, info, limited))
            return
        with self._lock:
            self._inside = True
            try:
                self._feedback_now(sequence, info, limited)
            finally:
                while self._late:
                    self._late.popleft()()
                self._inside = False
        if not self._noted and self._corrections.learned:  # logging takes locks of its own and may do I/O
            self._noted = True
            shown = ", ".join(f"{name} {limit:,}" for name, limit in list(self._corrections.learned.items()))
            _log.info("limits of model %.200r learned from the service: %s", self.model, shown)

    def _feedback_now(self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None) -> None:
        if self._late:
            self._clear_up()
        now = self._now()
        self._correct(sequence, info, limited, now)
        if self._line:
            self._advance(now)
            head = self._line.head
            if head is not None:
                head.rouse()  # it may have become clear that it waits in vain

    def _correct(self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None, now: int) -> None:
        self._blind = False
        known = len(self._buckets)
        if info is not None:
            self._corrections.headers(sequence, info, now)
        if limited is None:
            self._corrections.success(sequence, now)
        else:
            self._corrections.refusal(sequence, self._sequence, info, limited, now)
        if len(self._buckets) > known:
            self._adopted_until = self._sequence

    def largest_output(self, prompt: int) -> int | None:
        """Return the longest answer that fits beside such a prompt; ``None`` without limits of tokens."""

        def read() -> list[int]:
            counted = self._estimator.estimate(prompt, 0).cost[TOKENS]
            return [b.limit - (counted if b.kind == TOKENS else 0) for b in self._buckets if b.kind in {TOKENS, OUTPUT}]

        room = self._look(read)
        return max(min(room), 0) if room else None

    def _look(self, read: Callable[[], T]) -> T:
        """Return what is seen under the lock; to a signal handler that struck in the middle of a section, what there is."""
        if self._inside and held_here(self._lock):
            return read()
        found: list[T] = []
        self._apply(lambda: found.append(read()))
        return found[0]

    # --- being forgotten ----------------------------------------------------------------------------------------------

    @property
    def uses(self) -> int:
        """How often somebody came."""
        return self._arrivals

    def retire(self, *, used: bool) -> bool:
        """Refuse further calls, unless one is in flight or waits, or, if not even *used*, what is kept here still says something."""
        self._apply(lambda: self._retire_now(used=used))
        return self._take_now == self._refuse

    def _retire_now(self, *, used: bool) -> None:
        self._clear_up()
        if self._open or self._line:
            return
        now = self._now()
        if not used and (self._gate.active or any(bucket.tat > now for bucket in self._buckets)):
            return
        # The way past these leads to the first.
        self._take_now = self._refuse
        self._blind = self._gate.active = False

    def _refuse(self, _cost: Cost, _now: int) -> bool:
        raise RetiredError

    # --- looking in --------------------------------------------------------------------------------------------------

    def status(self) -> RateLimitStatus:
        """Return a snapshot."""
        from groq_provider.types.status import RateLimitStatus, RateLimitWindow  # for whoever looks

        def read() -> tuple[list[tuple[str, int, int, int, str]], int, int, int, RateLimitInfo | None]:
            now = self._now()
            windows = [
                (b.name, b.limit, b.remaining(now), b.reset(now), self._buckets.source(b)) for b in self._buckets
            ]
            blocked = max(self._gate.closed_until - now, 0)
            return windows, len(self._line), len(self._open), blocked, self._corrections.last

        self._apply(self._clear_up)
        windows, waiting, in_flight, blocked, last = self._look(read)
        return RateLimitStatus(
            model=self.model,
            windows={
                name: RateLimitWindow(limit=limit, remaining=max(remaining, 0), reset=reset / SECOND, source=source)
                for name, limit, remaining, reset, source in windows
            },
            waiting=waiting,
            in_flight=in_flight,
            blocked_for=blocked / SECOND,
            last=last,
        )

    def after_fork(self, *, careful: bool = True) -> None:
        """Start anew in a child process: its threads, and what they held or waited for, stayed in the parent.

        What is used stays counted. The parent goes on using the quota too, so a *careful* child takes half the share until the
        service tells it more.
        """
        self._lock = threading.RLock()
        self._inside = False
        self._late = deque()
        self._line = WaitQueue()
        self._open.clear()
        self._open_output = 0
        if careful:
            self._corrections.be_careful(self._now())


def _nanoseconds(seconds: float | None) -> int:
    return NEVER if seconds is None else int(min(seconds, 4e9) * SECOND)
