"""The limits, the queue and the open reservations of one model, and the one lock that guards them."""

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

_MOST_TOKENS = 1 << 40  # of one request: more than anything has, and NaN and infinity fail the comparison too


#: Between looks of who waits while nothing is known of the limits.
_UNKNOWN_SPACING = SECOND

#: Calls that may be out while nothing is known of the limits: until the first answer shows them, and so many more each second.
_FIRST_CALLS = 4


#: Whether one thread runs at a time, as with a global interpreter lock.
_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class RetiredError(Exception):
    """The limiter has forgotten this state between the look for it and its use: there is, or will be, another. Never reaches a caller."""


class ModelLimiter:
    """Everything the limiter knows of one model.

    A signal handler may run in the main thread between any two steps of what stands under the lock, and call all of this again: the lock
    is reentrant, and ``_in_section`` is true from the first change of such a section to its last. What the handler asks for then is answered
    without a change: what it gives back or learned is noted in ``_deferred``, and applied by the section it struck when that ends; a place
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
        #: Guards all below but _deferred. Held for arithmetic only, never while waiting, logging or building errors.
        self._lock = threading.RLock()
        self._in_section = False
        #: What is left to whoever is under the lock, or comes there next: by signal handlers, as above, and by reservations that were
        #: collected unsettled. A finalizer may run anywhere, even with the lock held by the same thread, so it only appends here.
        self._deferred: deque[Callable[[], object]] = deque()
        self._buckets = BucketSet(limits, share=share, now=self._now())
        self._estimator = Estimator()
        self._queue = WaitQueue()
        self._gate = ThrottleGate()
        #: What is in flight: by sequence, so in the order it was granted. Holds no reservation, so that one may be collected.
        self._in_flight: dict[int, Estimate] = {}
        self._in_flight_output = 0
        self._arrivals = 0
        self._sequence = 0
        self._learning = LimitLearning(self._buckets, self._gate, self._in_flight)
        #: Whether an answer of this model was ever good; what the limiter looks at when it has too many.
        self.proven = False
        self.last_use_count = 1
        self._learned_logged = False  # whether the adoption of limits was logged
        #: No limit is known, and no answer came that could have named one.
        self._limits_unknown = not len(self._buckets)
        self._first_sent_at = 0  # when the oldest of the calls that are out then left
        self._adopted_sequence = 0  # newest call that was out when a limit was adopted
        #: Takes a cost at once or not at all: what the fast path asks.
        self._try_take: Callable[[Cost, int], bool] = self._buckets.try_take

    # --- taking a place ----------------------------------------------------------------------------------------------

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
        """Take a place; see :meth:`groq_provider.protocols.RateLimiter.reserve`. Without *wait*: now, or ``None``."""
        if not 0 <= prompt_tokens < _MOST_TOKENS or not (max_output is None or 0 <= max_output < _MOST_TOKENS):
            raise InvalidRequestError(
                f"prompt_tokens = {prompt_tokens!r}, max_output_tokens = {max_output!r}: must be integers of at least 0",
                model=self.model,
            )
        if cancel is not None and cancel.cancelled:
            raise self._cancelled_error()
        reservation = HeldReservation(self)
        waiter = None
        # Outside the lock what can be: the less it is held, the less often a thread loses its turn while holding it.
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
                    # Nobody overtakes: the fast path is closed while anybody waits or the gate is in use.
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
        except BaseException:  # an interrupt as well: the place goes to the next, what was taken goes back
            self._withdraw(reservation, waiter)
            raise
        return reservation

    def _interrupts_own_section(self) -> bool:
        """Say whether this is a signal handler in the middle of a section of its own thread. Else let the one inside go on.

        Waiting for the lock instead would make a convoy where one thread runs at a time: whoever gets it next has to wait for the
        interpreter's own lock, and holds this one meanwhile, so that from then on every single acquire changes threads. That halves the
        rate of 64 threads, or worse.
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
        """Grant a place to a signal handler that struck in the middle of a section; it is charged when that section ends."""
        expected = self._estimator.expected_output() if max_output is None else max_output
        estimate = self._estimator.estimate(prompt_tokens, expected)
        self._arrivals += 1
        reservation.arrival = self._arrivals
        self._sequence += 1
        reservation.sequence = sequence = self._sequence  # no call between the two
        self._deferred.append(lambda: self._charge_granted(sequence, estimate))
        return reservation

    def _charge_granted(self, sequence: int, estimate: Estimate) -> None:
        """Charge a place that was granted before."""
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
        if refusal is not None:  # made here, outside the lock: it asks the clock for the time of day
            raise refusal.error(self.model, self._clock)

    def _record_grant(self, reservation: HeldReservation, estimate: Estimate) -> None:
        """Note a place as taken. Its cost has been charged."""
        self._sequence += 1
        self._in_flight_output += estimate.cost[OUTPUT]
        reservation.sequence = self._sequence  # first, so that whoever is interrupted here can be cleared up after
        self._in_flight[reservation.sequence] = estimate

    def _enqueue(self, waiter: Waiter, now: int, *, wait: bool) -> Refusal | None:
        """Put a caller in the queue, unless it is clear now that it waits in vain."""
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

    def _try_at_once(self, waiter: Waiter) -> bool:  # noqa: ARG002 - where a store has to be asked, there is more to do
        """Take a place without waiting, if the queue could not give one."""
        return False

    def _wait_for_grant(self, waiter: Waiter, cancel: CancelToken | None) -> None:
        """Wait until granted; raise when it will not come to that."""
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
        """Do what is to be done before looking around again: sleep."""
        self._clock.wait(waiter.wake_lock, timeout)

    def _check_turn(self, waiter: Waiter) -> tuple[float | None, Refusal | None]:
        """Look around after waking: return how long to sleep on (0: it is this one's turn), or why not."""
        # Before looking, so that a wake-up from now on ends the next sleep.
        waiter.wake_lock.acquire(blocking=False)
        now = self._now()
        if not waiter.granted:
            self._grant_ready(now)
        if waiter.granted:
            return 0, None
        if self._queue.head is waiter:
            refusal = self._refuse_head(waiter, now)
            waiter.wakes_at = self._ready_at(waiter.estimate.cost)[0]
            if self._limits_unknown and self._over_first_calls(
                now
            ):  # an answer ends that, so nobody is refused for it before his time is up
                waiter.wakes_at = min(now + _UNKNOWN_SPACING, waiter.deadline)
                refusal = refusal or (self._refuse_expired(waiter, now) if now >= waiter.deadline else None)
        else:
            refusal = self._refuse_expired(waiter, now) if now >= waiter.deadline else None
            waiter.wakes_at = waiter.deadline
        # At least a microsecond: a clock in floats may not see less.
        return None if waiter.wakes_at == NEVER else max(waiter.wakes_at - now, 1000) / SECOND, refusal

    def _withdraw(self, reservation: HeldReservation, waiter: Waiter | None) -> None:
        """Undo whatever a caller had got to when it was stopped."""
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
        """Make a change under the lock; where a signal handler struck in the middle of another, when that one is done."""
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

    # --- whose turn, and when ----------------------------------------------------------------------------------------

    def _grant_ready(self, now: int) -> None:
        """Grant what can be granted now, in order, and see that the head wakes in time for the rest.

        To be called after everything that may have changed that: time, credit, headers, somebody leaving.
        """
        while (waiter := self._queue.head) is not None:
            if not waiter.granted:
                # What can never fit counts as later than any deadline: its caller wakes, finds that out and leaves.
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
            # Out of the queue only now: should an interrupt have struck in between, the next who comes here finishes the job.
            self._queue.serve(waiter)
            waiter.wake()

    def _over_first_calls(self, now: int) -> bool:
        """Say whether enough calls are out for now: without any limit known a burst would mostly be refused."""
        calls_out = len(self._in_flight)
        if not calls_out:
            self._first_sent_at = now
        return calls_out >= _FIRST_CALLS * (1 + (now - self._first_sent_at) // _UNKNOWN_SPACING)

    def _ready_at(self, cost: Cost) -> tuple[int, Bucket | None]:
        ready, cause = self._buckets.ready_at(cost)
        return (self._gate.opens_at, None) if self._gate.opens_at > ready else (ready, cause)

    def _cut_to_fit(self, waiter: Waiter) -> TooLarge | None:
        """Cut the cost to the limits as they are now; or find that it can never fit."""
        estimate = waiter.estimate
        if self._buckets.never_fits(estimate.cost) is None:
            return None
        bucket = self._buckets.never_fits(estimate.need, self._now())
        if bucket is not None:
            return TooLarge(bucket, bucket.limit, estimate.need[bucket.kind])
        waiter.estimate = estimate._replace(cost=self._buckets.cut_to_limits(estimate.cost, estimate.need))
        return None

    def _refuse_head(self, waiter: Waiter, now: int) -> Refusal | None:
        """Find out whether the head waits in vain."""
        refusal: Refusal | None = self._cut_to_fit(waiter)
        if refusal is None and waiter.long_wait != NEVER:
            refusal = self._check_long_wait(waiter, NO_COST, now)
        if refusal is None:
            ready = self._ready_at(waiter.estimate.cost)[0]
            refusal = TooLate(ready - now, waiter.deadline - now) if ready > waiter.deadline else None
        return refusal

    def _refuse_newcomer(self, waiter: Waiter, now: int) -> Refusal | None:
        """Find out whether a newcomer waits in vain behind those that are there already."""
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
        """Say that a deadline passed in the queue, and how long it takes if begun now, behind those who are before this one."""
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
        """Return the earliest instant at which *waiter* can fit into *bucket* after those before it.

        For the head that is the plain computation. For the others what is in flight, and those before, are taken to give back
        as much as answers have given back so far.
        """
        units = waiter.estimate.cost[bucket.kind]
        if cost_ahead == NO_COST or not units:
            return bucket.ready_at(units)
        expected_return = 0
        if bucket.kind in {TOKENS, OUTPUT}:
            expected_return = int(self._in_flight_output * (1 - self._estimator.output_yield))
        ahead = cost_ahead[bucket.kind] - expected_return
        return bucket.tat + (ahead + min(units, bucket.capacity)) * bucket.interval - bucket.burst

    # --- giving it back ----------------------------------------------------------------------------------------------

    def _close_reservation(self, reservation: HeldReservation) -> Estimate | None:
        """End a reservation: the first who does gets what was reserved, everybody after ``None``."""
        reservation.closed = True
        return self._remove_in_flight(reservation.sequence)

    def _remove_in_flight(self, sequence: int) -> Estimate | None:
        estimate = self._in_flight.pop(sequence, None)
        if estimate is not None:
            self._in_flight_output = self._in_flight_output - estimate.cost[OUTPUT] if self._in_flight else 0
        return estimate

    def forget_collected(self, sequence: int) -> None:
        """Forget a reservation that was collected unsettled; for finalizers, takes no lock."""
        self._deferred.append(partial(self._remove_in_flight, sequence))

    def _run_deferred(self) -> None:
        while self._deferred:
            self._deferred.popleft()()

    def end_reservation(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:
        """End a reservation.

        Args:
            reservation: Ended once; a second call changes nothing.
            actual: What to count instead of what was reserved; ``None`` keeps that.
            usage: To learn from.
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
        except BaseException:  # an interrupt: nobody may stay in flight, and nobody unwoken
            self._keep_locked(reservation)
            raise

    def _end_locked(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None) -> Estimate | None:
        """End a reservation; return what was reserved, if this call replaced it by something else."""
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
        """End a reservation as it is, if it had not come to its settlement yet."""

        def change() -> None:
            self._close_reservation(reservation)
            self._grant_ready(self._now())

        self._run_locked(change)

    def _known_reserved(self, reservation: HeldReservation, estimate: Estimate, actual: Cost) -> Cost:
        """Return what a call has reserved, as far as a limit learned while it was out knows of it.

        Such a limit came with the service's own count of the prompt, and only what the answer left over is to be given back.
        """
        if reservation.sequence > self._adopted_sequence or actual[REQUESTS] == 0:
            return estimate.cost
        requests, _, prompt_tokens, output_tokens = estimate.cost
        prompt_tokens = min(prompt_tokens, actual[INPUT])
        return requests, prompt_tokens + output_tokens, prompt_tokens, output_tokens

    # --- what the service says ---------------------------------------------------------------------------------------

    def feedback(self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None) -> None:
        """Learn from an answer."""
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
        if not self._learned_logged and self._learning.learned_limits:  # logging takes locks of its own and may do I/O
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
                head.wake()  # it may have become clear that it waits in vain

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
        """Return the longest answer that fits beside such a prompt; ``None`` without limits of tokens."""

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
        """Return what is seen under the lock; to a signal handler that struck in the middle of a section, what there is."""
        if self._in_section and owns_lock(self._lock):
            return read()
        results: list[T] = []
        self._run_locked(lambda: results.append(read()))
        return results[0]

    # --- being forgotten ----------------------------------------------------------------------------------------------

    @property
    def use_count(self) -> int:
        """How often somebody came."""
        return self._arrivals

    def retire(self, *, used: bool) -> bool:
        """Refuse further calls, unless one is in flight or waits, or, if not even *used*, what is kept here still says something."""
        self._run_locked(lambda: self._retire_now(used=used))
        return self._try_take == self._raise_retired

    def _retire_now(self, *, used: bool) -> None:
        self._run_deferred()
        if self._in_flight or self._queue:
            return
        now = self._now()
        if not used and (self._gate.active or any(bucket.tat > now for bucket in self._buckets)):
            return
        # The way past these leads to the first.
        self._try_take = self._raise_retired
        self._limits_unknown = self._gate.active = False

    def _raise_retired(self, _cost: Cost, _now: int) -> bool:
        raise RetiredError

    # --- looking in --------------------------------------------------------------------------------------------------

    def status(self) -> RateLimitStatus:
        """Return a snapshot."""
        from groq_provider.types.status import RateLimitStatus, RateLimitWindow  # for whoever looks

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
        """Start anew in a child process: its threads, and what they held or waited for, stayed in the parent.

        What is used stays counted. The parent goes on using the quota too, so a *careful* child takes half the share until the
        service tells it more.
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
