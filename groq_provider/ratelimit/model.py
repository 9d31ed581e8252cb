"""Grant reservations for one model: its limits, its queue and its calls in flight, under one lock."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from groq_provider._sync import owns_lock
from groq_provider.errors import InvalidRequestError, RequestCancelledError
from groq_provider.ratelimit.bucket import INPUT, NO_COST, OUTPUT, REQUESTS, SECOND, TOKENS, BucketSet
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

_MOST_TOKENS = 1 << 40  # of one request, more than any model allows; the comparison also fails for NaN and infinity


#: How often the head looks again while no limit is known.
_UNKNOWN_SPACING = SECOND

#: Calls that may be in flight before the first answer of a model shows its limits; each further second allows as many more.
_FIRST_CALLS = 4


#: Whether a global interpreter lock lets only one thread run at a time.
_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class RetiredError(Exception):
    """The limiter has forgotten this model since the caller looked it up; look it up again. Never reaches a user."""


class ModelLimiter:
    """Holds all that is known about the limits of one model, and decides which caller may send its request.

    Every change is a section under one reentrant lock; ``_in_section`` is true from its first step to its last. A signal handler may
    interrupt a section in the main thread and call any method. It must neither wait nor change half-changed state, so the method posts
    its change to ``_deferred``, and the interrupted section applies it at its end. A handler that asks for a reservation gets it at
    once, and its cost is charged at the end of the section: the queue cannot move before the handler returns.

    Args:
        model: The id of the model.
        limits: Configured sizes by name of the limit.
        share: Millionths of the token limits to use.
        clock: The source of time, and the way to wait.
    """

    def __init__(self, model: str, limits: Mapping[str, int | None], *, share: int, clock: Clock) -> None:
        self.model = model
        self._clock = clock
        self._monotonic = clock.monotonic
        #: Guards all below but ``_deferred``. Held for arithmetic only, never while waiting, logging or building errors.
        self._lock = threading.RLock()
        self._in_section = False
        #: Changes for the section under way, or for the next one: posted by signal handlers, and by finalizers of reservations that were
        #: collected open. A finalizer may run while its own thread holds the lock, so it must only append here. See _sync.
        self._deferred: deque[Callable[[], object]] = deque()
        self._buckets = BucketSet(limits, share=share, now=self._now())
        self._estimator = Estimator()
        self._queue = WaitQueue()
        self._gate = ThrottleGate()
        #: Calls in flight by sequence, so in the order of their grants. Refers to no reservation, so that a lost one can be collected.
        self._in_flight: dict[int, Estimate] = {}
        self._in_flight_output = 0
        self._arrivals = 0
        self._sequence = 0
        self._learning = LimitLearning(self._buckets, self._gate, self._in_flight)
        #: Whether a call of this model ever succeeded: a limiter with too many models first forgets those without.
        self.proven = False
        self.last_use_count = 1
        self._learned_logged = False
        #: No limit is known yet, and no answer came that could have named one.
        self._limits_unknown = not len(self._buckets)
        self._first_sent_at = 0  # start of the oldest burst of calls in flight without known limits
        self._adopted_sequence = 0  # newest call in flight when a limit was adopted
        #: Takes a cost now or returns false; the fast path calls it.
        self._try_take: Callable[[Cost, int], bool] = self._buckets.try_take

    # --- granting a reservation --------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._monotonic() * SECOND)

    def acquire(
        self,
        prompt_tokens: int,
        max_output: int | None,
        *,
        deadline: float | None = None,
        long_wait: float | None = None,
        cancel: CancelToken | None = None,
        batch: bool = False,
        arrival: int | None = None,
        wait: bool = True,
    ) -> HeldReservation | None:
        """Wait for a reservation, see :meth:`groq_provider.protocols.RateLimiter.reserve`. Without *wait*: ``None`` if none is free."""
        if not 0 <= prompt_tokens < _MOST_TOKENS or not (max_output is None or 0 <= max_output < _MOST_TOKENS):
            raise InvalidRequestError(
                f"prompt_tokens = {prompt_tokens!r}, max_output_tokens = {max_output!r}: must be integers of at least 0",
                model=self.model,
            )
        if cancel is not None and cancel.cancelled:
            raise self._cancelled_error()
        reservation = HeldReservation(self)
        waiter = None
        # Computed before taking the lock, to keep the critical section short.
        estimate = None if max_output is None else self._estimator.estimate(prompt_tokens, max_output)
        try:
            if self._in_section and self._interrupts_own_section():
                return self._grant_to_handler(reservation, prompt_tokens, max_output) if wait else None
            with self._lock:
                self._in_section = True
                try:
                    if self._deferred:
                        self._run_deferred()
                    if estimate is None:
                        estimate = self._estimator.estimate_without_maximum(prompt_tokens)
                    if arrival is None:
                        arrival = self._arrivals = self._arrivals + 1
                    reservation.arrival = arrival
                    now = int(self._monotonic() * SECOND)
                    # No caller overtakes: the fast path is closed while any caller waits or the gate is active.
                    if (
                        not (self._limits_unknown and self._over_first_calls(now))
                        and not self._queue
                        and not self._gate.active
                        and self._try_take(estimate.cost, now)
                    ):
                        self._record_grant(reservation, estimate)
                        return reservation
                    waiter = Waiter(
                        reservation,
                        estimate,
                        certain_cost=self._estimator.certain_cost(estimate.cost),
                        arrived_at=now,
                        deadline=_nanoseconds(deadline),
                        long_wait=_nanoseconds(long_wait),
                        batch=batch,
                    )
                    self._queue.place_before_interrupted(waiter)
                    refusal = self._enqueue(waiter, now, wait=wait)
                finally:
                    while self._deferred:
                        self._deferred.popleft()()
                    self._in_section = False
            self._raise_refusal(refusal)
            if not waiter.granted:
                if not wait:
                    return reservation if self._try_at_once(waiter) else None
                self._wait_for_grant(waiter, cancel)
        except BaseException:  # an interrupt too: return the cost and let the next waiter go
            self._withdraw(reservation, waiter)
            raise
        return reservation

    def _interrupts_own_section(self) -> bool:
        """Return whether this is a signal handler that interrupted a section of its own thread. If not, let the section finish first.

        With a global interpreter lock, waiting for our lock at once would make a convoy: the thread that gets it must still wait for
        the interpreter's lock, and holds ours meanwhile, so that from then on every acquire switches threads. That halves the rate of
        64 threads, or worse. Sleeping until the section has ended avoids it.
        """
        if owns_lock(self._lock):
            return True
        if _HAS_GIL:
            for _ in range(100):
                time.sleep(0.001)
                if not self._in_section:
                    break
        return False

    def _grant_to_handler(
        self, reservation: HeldReservation, prompt_tokens: int, max_output: int | None
    ) -> HeldReservation:
        """Grant a reservation to a signal handler that interrupted a section; the section charges it at its end."""
        expected = self._estimator.expected_output() if max_output is None else max_output
        estimate = self._estimator.estimate(prompt_tokens, expected)
        self._arrivals += 1
        reservation.arrival = self._arrivals
        self._sequence += 1
        reservation.sequence = sequence = (
            self._sequence
        )  # no call between the two, or an interrupt could leave one unset
        self._deferred.append(lambda: self._charge_granted(sequence, estimate))
        return reservation

    def _charge_granted(self, sequence: int, estimate: Estimate) -> None:
        """Charge a reservation that was granted to a signal handler."""
        now = self._now()
        self._buckets.charge(estimate.cost, now)
        self._gate.note_sent(now, self._buckets.spacing())
        self._in_flight_output += estimate.cost[OUTPUT]
        self._in_flight[sequence] = estimate

    def _cancelled_error(self) -> RequestCancelledError:
        return RequestCancelledError(
            f"cancelled while waiting for the rate limit of model {self.model!r}", model=self.model, sent=False
        )

    def _raise_refusal(self, refusal: Refusal | None) -> None:
        if refusal is not None:  # built outside the lock, because it asks the clock for the time of day
            raise refusal.error(self.model, self._clock)

    def _record_grant(self, reservation: HeldReservation, estimate: Estimate) -> None:
        """Record a granted reservation as in flight. Its cost must be charged already."""
        self._sequence += 1
        self._in_flight_output += estimate.cost[OUTPUT]
        reservation.sequence = self._sequence  # first: after an interrupt here, _withdraw() finds the grant by it
        self._in_flight[reservation.sequence] = estimate

    def _enqueue(self, waiter: Waiter, now: int, *, wait: bool) -> Refusal | None:
        """Add a waiter to the queue, unless it can be refused at once."""
        refusal: Refusal | None = self._cut_to_fit(waiter)
        if refusal is None and wait and self._queue:
            refusal = self._refuse_newcomer(waiter, now)
        if refusal is not None or (not wait and self._queue):
            return refusal
        self._queue.add(waiter)
        self._grant_ready(now)
        if waiter.granted:
            return None
        if not wait:
            self._queue.remove(waiter)
            return None
        return self._refuse_head(waiter, now) if self._queue.head is waiter else None

    def _try_at_once(self, waiter: Waiter) -> bool:  # noqa: ARG002 - a shared store needs the waiter
        """Return whether a caller that must not wait gets its reservation after all. Only a shared store can still grant one."""
        return False

    def _wait_for_grant(self, waiter: Waiter, cancel: CancelToken | None) -> None:
        """Sleep until the reservation is granted; raise the refusal if it cannot be."""
        handle = None if cancel is None else cancel.subscribe(waiter.cancel)
        try:
            while True:
                with self._lock:
                    self._in_section = True
                    try:
                        timeout, refusal = self._check_turn(waiter)
                    finally:
                        while self._deferred:
                            self._deferred.popleft()()
                        self._in_section = False
                if waiter.cancelled:
                    raise self._cancelled_error()
                self._raise_refusal(refusal)
                if timeout == 0:
                    return
                self._sleep(waiter, timeout)
        finally:
            if cancel is not None and handle is not None:
                cancel.unsubscribe(handle)

    def _sleep(self, waiter: Waiter, timeout: float | None) -> None:
        """Sleep until the waiter is woken, for *timeout* seconds at most. A shared store is asked instead, if it is time."""
        self._clock.wait(waiter.wake_lock, timeout)

    def _check_turn(self, waiter: Waiter) -> tuple[float | None, Refusal | None]:
        """Return the seconds to sleep before the next check (0: the reservation is granted), and a refusal if there is one."""
        # First, so that a wake-up from now on ends the next sleep.
        waiter.wake_lock.acquire(blocking=False)
        now = self._now()
        if not waiter.granted:
            self._grant_ready(now)
        if waiter.granted:
            return 0, None
        if self._queue.head is waiter:
            refusal = self._refuse_head(waiter, now)
            waiter.wakes_at = self._ready_at(waiter.estimate.cost)[0]
            # An answer may reveal the limits at any time, so the head is not refused before its deadline.
            if self._limits_unknown and self._over_first_calls(now):
                waiter.wakes_at = min(now + _UNKNOWN_SPACING, waiter.deadline)
                refusal = refusal or (self._refuse_expired(waiter, now) if now >= waiter.deadline else None)
        else:
            refusal = self._refuse_expired(waiter, now) if now >= waiter.deadline else None
            waiter.wakes_at = waiter.deadline
        # At least a microsecond: a clock that counts in floats may not show less.
        return None if waiter.wakes_at == NEVER else max(waiter.wakes_at - now, 1000) / SECOND, refusal

    def _withdraw(self, reservation: HeldReservation, waiter: Waiter | None) -> None:
        """Undo all that a caller has got before it was stopped."""
        self._run_locked(lambda: self._withdraw_locked(reservation, waiter))

    def _withdraw_locked(self, reservation: HeldReservation, waiter: Waiter | None) -> None:
        if waiter is not None and waiter in self._queue:
            self._queue.remove(waiter)
        estimate = self._close_reservation(reservation)
        now = self._now()
        if estimate is not None:
            self._buckets.settle(estimate.cost, NO_COST, now)
        self._grant_ready(now)

    def _run_locked(self, change: Callable[[], object]) -> None:
        """Run *change* in a section; in a signal handler that interrupted a section, defer it to the end of that section."""
        if self._in_section and owns_lock(self._lock):
            self._deferred.append(change)
            return
        with self._lock:
            self._in_section = True
            try:
                change()
            finally:
                while self._deferred:
                    self._deferred.popleft()()
                self._in_section = False

    # --- the order of turns, and their times ----------------------------------------------------------------------------------------

    def _grant_ready(self, now: int) -> None:
        """Grant in order all reservations that fit now, and make the head wake in time for the next.

        Call this after every event that may change the answer: time, credit, headers, a waiter that gives up.
        """
        while (waiter := self._queue.head) is not None:
            if not waiter.granted:
                # A request that can never fit counts as later than any deadline, so that its caller wakes and is refused.
                ready = NEVER + 1 if self._cut_to_fit(waiter) else self._ready_at(waiter.estimate.cost)[0]
                if ready <= now and self._limits_unknown and self._over_first_calls(now):
                    wakes_at = min(now + _UNKNOWN_SPACING, waiter.deadline)
                    if wakes_at < waiter.wakes_at:
                        waiter.wakes_at = wakes_at
                        waiter.wake()
                    return
                if ready > now:
                    if ready < waiter.wakes_at or ready > waiter.deadline:
                        waiter.wakes_at = ready
                        waiter.wake()
                    return
                self._buckets.charge(waiter.estimate.cost, now)
                waiter.reservation.wait = (now - waiter.arrived_at) / SECOND
                self._gate.note_sent(now, self._buckets.spacing())
                self._record_grant(waiter.reservation, waiter.estimate)
            # Removed last: if an interrupt strikes before, the next caller of this method finds the waiter granted and removes it.
            self._queue.serve(waiter)
            waiter.wake()

    def _over_first_calls(self, now: int) -> bool:
        """Return whether enough calls are in flight while no limit is known: the service would refuse most of a larger burst."""
        calls_out = len(self._in_flight)
        if not calls_out:
            self._first_sent_at = now
        return calls_out >= _FIRST_CALLS * (1 + (now - self._first_sent_at) // _UNKNOWN_SPACING)

    def _ready_at(self, cost: Cost) -> tuple[int, Bucket | None]:
        ready, cause = self._buckets.ready_at(cost)
        return (self._gate.opens_at, None) if self._gate.opens_at > ready else (ready, cause)

    def _cut_to_fit(self, waiter: Waiter) -> TooLarge | None:
        """Cut the cost to the limits as they are now; return a refusal if even the least cost can never fit."""
        estimate = waiter.estimate
        if self._buckets.never_fits(estimate.cost) is None:
            return None
        bucket = self._buckets.never_fits(estimate.need, self._now())
        if bucket is not None:
            return TooLarge(bucket, bucket.limit, estimate.need[bucket.kind])
        waiter.estimate = estimate._replace(cost=self._buckets.cut_to_limits(estimate.cost, estimate.need))
        return None

    def _refuse_head(self, waiter: Waiter, now: int) -> Refusal | None:
        """Return a refusal if the head would wait in vain."""
        refusal: Refusal | None = self._cut_to_fit(waiter)
        if refusal is None and waiter.long_wait != NEVER:
            refusal = self._check_long_wait(waiter, NO_COST, now)
        if refusal is None:
            ready = self._ready_at(waiter.estimate.cost)[0]
            refusal = TooLate(ready - now, waiter.deadline - now) if ready > waiter.deadline else None
        return refusal

    def _refuse_newcomer(self, waiter: Waiter, now: int) -> Refusal | None:
        """Return a refusal if a newcomer would wait in vain behind the present waiters."""
        if waiter.long_wait == NEVER and waiter.deadline == NEVER:
            return None
        cost_ahead = self._queue.certain_cost_ahead(waiter)
        if cost_ahead is None:
            return None
        refusal: Refusal | None = self._check_long_wait(waiter, cost_ahead, now) if waiter.long_wait != NEVER else None
        if refusal is None:
            ready = max(
                [self._gate.opens_at, *(self._earliest_fit(bucket, waiter, cost_ahead) for bucket in self._buckets)]
            )
            refusal = TooLate(ready - now, waiter.deadline - now) if ready > waiter.deadline else None
        return refusal

    def _refuse_expired(self, waiter: Waiter, now: int) -> TooLate:
        """Build the refusal of a waiter after its deadline: how long its turn takes from now, behind those ahead of it."""
        ahead, own = self._queue.cost_ahead(waiter), waiter.estimate.cost
        ready = max(self._gate.opens_at, now)
        for bucket in self._buckets:
            if own[bucket.kind]:
                units = ahead[bucket.kind] + min(own[bucket.kind], bucket.capacity)
                ready = max(ready, bucket.tat + units * bucket.interval - bucket.burst)
        return TooLate(ready - now, waiter.deadline - now)

    def _check_long_wait(self, waiter: Waiter, cost_ahead: Cost, now: int) -> TooLong | None:
        gate = self._gate
        if gate.opens_at - now > waiter.long_wait:
            return TooLong(gate.opens_at - now, gate.scope, gate.limit_name, gate.limit)
        for bucket in self._buckets:
            if bucket.dimension.scope == "day":
                wait = self._earliest_fit(bucket, waiter, cost_ahead) - now
                if wait > waiter.long_wait:
                    return TooLong(wait, "day", bucket.name.upper(), bucket.limit)
        return None

    def _earliest_fit(self, bucket: Bucket, waiter: Waiter, cost_ahead: Cost) -> int:
        """Return the earliest instant at which *waiter* can fit into *bucket* after those ahead of it.

        For the head the result is exact. For others it assumes that the calls in flight and those ahead return as large a part of
        their reserved output as earlier answers did.
        """
        units = waiter.estimate.cost[bucket.kind]
        if cost_ahead == NO_COST or not units:
            return bucket.ready_at(units)
        expected_return = 0
        if bucket.kind in {TOKENS, OUTPUT}:
            expected_return = int(self._in_flight_output * (1 - self._estimator.output_yield))
        ahead = cost_ahead[bucket.kind] - expected_return
        return bucket.tat + (ahead + min(units, bucket.capacity)) * bucket.interval - bucket.burst

    # --- ending a reservation ----------------------------------------------------------------------------------------

    def _close_reservation(self, reservation: HeldReservation) -> Estimate | None:
        """Close a reservation; return its estimate to the first caller, and ``None`` to later ones."""
        reservation.closed = True
        return self._remove_in_flight(reservation.sequence)

    def _remove_in_flight(self, sequence: int) -> Estimate | None:
        estimate = self._in_flight.pop(sequence, None)
        if estimate is not None:
            self._in_flight_output = self._in_flight_output - estimate.cost[OUTPUT] if self._in_flight else 0
        return estimate

    def forget_collected(self, sequence: int) -> None:
        """Remove a reservation that was collected open. Takes no lock, because finalizers call it."""
        self._deferred.append(partial(self._remove_in_flight, sequence))

    def _run_deferred(self) -> None:
        while self._deferred:
            self._deferred.popleft()()

    def end_reservation(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:
        """End a reservation. Only the first call for it counts.

        Args:
            reservation: The reservation.
            actual: The cost to count instead of the reserved one; ``None`` keeps that.
            usage: The service's count, to learn from.
        """
        try:
            if self._in_section and self._interrupts_own_section():
                reservation.closed = True
                self._deferred.append(lambda: self._end_locked(reservation, actual, usage))
                return
            with self._lock:
                self._in_section = True
                try:
                    self._end_locked(reservation, actual, usage)
                finally:
                    while self._deferred:
                        self._deferred.popleft()()
                    self._in_section = False
        except BaseException:  # an interrupt: the call must not stay in flight, nor a waiter asleep
            self._keep_locked(reservation)
            raise

    def _end_locked(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None) -> Estimate | None:
        """End a reservation; return its estimate if this call replaced the cost."""
        reservation.closed = True
        estimate = self._remove_in_flight(reservation.sequence)
        if estimate is None or actual is None:
            return None
        now = self._now()
        late = reservation.sequence <= self._adopted_sequence
        self._buckets.settle(
            self._known_reserved(reservation, estimate, actual) if late else estimate.cost, actual, now
        )
        if usage is not None:
            self.proven = True
            if usage.source == "reported":
                self._estimator.learn_usage(estimate.prompt_tokens, estimate.cost[OUTPUT], usage)
        if self._queue:
            self._grant_ready(now)
        return estimate

    def _keep_locked(self, reservation: HeldReservation) -> None:
        """End a reservation with its reserved cost, unless it was settled before the interrupt."""

        def change() -> None:
            self._close_reservation(reservation)
            self._grant_ready(self._now())

        self._run_locked(change)

    def _known_reserved(self, reservation: HeldReservation, estimate: Estimate, actual: Cost) -> Cost:
        """Return the reserved cost as counted by a limit that was learned while the call was in flight.

        The service's figure for that limit already contained its own count of the prompt, so only the unused output must be returned.
        """
        if reservation.sequence > self._adopted_sequence or actual[REQUESTS] == 0:
            return estimate.cost
        requests, _, prompt_tokens, output_tokens = estimate.cost
        prompt_tokens = min(prompt_tokens, actual[INPUT])
        return requests, prompt_tokens + output_tokens, prompt_tokens, output_tokens

    # --- the service's figures ---------------------------------------------------------------------------------------

    def feedback(self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None) -> None:
        """Learn from the headers of an answer, and from the refusal if it was one."""
        if self._in_section and self._interrupts_own_section():
            self._deferred.append(lambda: self._feedback_locked(sequence, info, refusal_error))
            return
        with self._lock:
            self._in_section = True
            try:
                self._feedback_locked(sequence, info, refusal_error)
            finally:
                while self._deferred:
                    self._deferred.popleft()()
                self._in_section = False
        if (
            not self._learned_logged and self._learning.learned_limits
        ):  # outside the lock: logging takes other locks and may do I/O
            self._learned_logged = True
            shown = ", ".join(f"{name} {limit:,}" for name, limit in list(self._learning.learned_limits.items()))
            _log.info("limits of model %.200r learned from the service: %s", self.model, shown)

    def _feedback_locked(
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None
    ) -> None:
        if self._deferred:
            self._run_deferred()
        now = self._now()
        self._learn_from_answer(sequence, info, refusal_error, now)
        if self._queue:
            self._grant_ready(now)
            head = self._queue.head
            if head is not None:
                head.wake()  # by the new figures it may wait in vain

    def _learn_from_answer(
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None, now: int
    ) -> None:
        self._limits_unknown = False
        known_count = len(self._buckets)
        if info is not None:
            self._learning.apply_headers(sequence, info, now)
        if refusal_error is None:
            self._learning.note_success(sequence, now)
        else:
            self._learning.apply_refusal(sequence, self._sequence, info, refusal_error, now)
        if len(self._buckets) > known_count:
            self._adopted_sequence = self._sequence

    def largest_output(self, prompt_tokens: int) -> int | None:
        """Return the longest answer that fits together with such a prompt; ``None`` while no limit of tokens is known."""

        def read() -> list[int]:
            counted = self._estimator.estimate(prompt_tokens, 0).cost[TOKENS]
            return [
                bucket.limit - (counted if bucket.kind == TOKENS else 0)
                for bucket in self._buckets
                if bucket.kind in {TOKENS, OUTPUT}
            ]

        free_tokens = self._read_locked(read)
        return max(min(free_tokens), 0) if free_tokens else None

    def _read_locked(self, read: Callable[[], T]) -> T:
        """Return *read* under the lock; in a signal handler that interrupted a section, read the state as it is."""
        if self._in_section and owns_lock(self._lock):
            return read()
        results: list[T] = []
        self._run_locked(lambda: results.append(read()))
        return results[0]

    # --- forgetting the model ----------------------------------------------------------------------------------------

    @property
    def use_count(self) -> int:
        """How many reservations were asked for."""
        return self._arrivals

    def retire(self, *, used: bool) -> bool:
        """Refuse all further calls, so that the limiter can forget this model; return whether it may.

        It may not while a call is in flight or waits; nor, unless *used*, while the state still has an effect.
        """
        self._run_locked(lambda: self._retire_now(used=used))
        return self._try_take == self._raise_retired

    def _retire_now(self, *, used: bool) -> None:
        self._run_deferred()
        if self._in_flight or self._queue:
            return
        now = self._now()
        if not used and (self._gate.active or any(bucket.tat > now for bucket in self._buckets)):
            return
        # With both off, every call reaches the first.
        self._try_take = self._raise_retired
        self._limits_unknown = self._gate.active = False

    def _raise_retired(self, _cost: Cost, _now: int) -> bool:
        raise RetiredError

    # --- status ------------------------------------------------------------------------------------------------------

    def status(self) -> RateLimitStatus:
        """Return a snapshot."""
        from groq_provider.types.status import RateLimitStatus, RateLimitWindow  # loaded on first use

        def read() -> tuple[list[tuple[str, int, int, int, str]], int, int, int, RateLimitInfo | None]:
            now = self._now()
            windows = [
                (bucket.name, bucket.limit, bucket.remaining(now), bucket.reset(now), self._buckets.source(bucket))
                for bucket in self._buckets
            ]
            blocked = max(self._gate.closed_until - now, 0)
            return windows, len(self._queue), len(self._in_flight), blocked, self._learning.last_info

        self._run_locked(self._run_deferred)
        windows, waiting, in_flight, blocked, last = self._read_locked(read)
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
        """Start again in a child process, where the parent's threads, waiters and calls in flight do not exist.

        The use stays counted. The parent goes on using the quota too, so a *careful* child takes half the share until headers of the
        service arrive.
        """
        self._lock = threading.RLock()
        self._in_section = False
        self._deferred = deque()
        self._queue = WaitQueue()
        self._in_flight.clear()
        self._in_flight_output = 0
        if careful:
            self._learning.halve_share(self._now())


def _nanoseconds(seconds: float | None) -> int:
    return NEVER if seconds is None else int(min(seconds, 4e9) * SECOND)
