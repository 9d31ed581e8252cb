"""Grant reservations for one model with limits that processes share: the queue is local, the buckets are in a store.

Only the head of the queue asks the store, in its own thread and without a lock; so each process has at most one question per model under
way. The local buckets are a copy, as fresh as the last answer. They serve to refuse at once, to convert headers, to show the status, and to
go on while the store is offline.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from groq_provider.ratelimit.bucket import SECOND
from groq_provider.ratelimit.model import ModelLimiter
from groq_provider.ratelimit.queue import NEVER
from groq_provider.ratelimit.refusal import TooLate
from groq_provider.ratelimit.store.gcra_state import (
    CLAIM_LIFE,
    LONGEST_PAUSE,
    NO_LIMIT,
    AcquireRequest,
    Adjustment,
    BucketCharge,
)
from groq_provider.ratelimit.store.protocol import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.errors import RateLimitedError
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.ratelimit.cost import Estimate
    from groq_provider.ratelimit.queue import Waiter
    from groq_provider.ratelimit.refusal import Refusal
    from groq_provider.ratelimit.reservation import HeldReservation
    from groq_provider.ratelimit.store.gcra_state import AcquireResult
    from groq_provider.ratelimit.store.protocol import RateLimitStore
    from groq_provider.types.response import RateLimitInfo, Usage

__all__ = ["SharedModelLimiter", "StoreLink"]

_log = logging.getLogger(__name__)

_MICROSECOND = 1_000  # nanoseconds
#: How far ahead to reserve. Longer than a trip to the store, so that one question suffices; short enough that reservations which start
#: later do not keep out a call of the other class or returned tokens.
_RESERVE_AHEAD = 100_000
#: How long the head waits before it asks again: other processes cannot wake it when they return tokens.
_ASK_INTERVAL = SECOND
#: The least time between two questions of a head that was not served.
_SHORTEST_INTERVAL = SECOND // 200
#: The assumed number of processes until a store reports it.
_ASSUMED_HOSTS = 4


class StoreLink:
    """Passes questions to a store, and notes whether it is offline; an offline store is probed from time to time.

    Thread safety: any thread.

    Args:
        store: The store.
        clock: The source of time.

    Attributes:
        offline: Whether the last question got no answer.
        hosts: The number of processes that share the limits, as far as known.
    """

    def __init__(self, store: RateLimitStore, clock: Clock) -> None:
        self.store = store
        self._monotonic = clock.monotonic
        self._lock = threading.RLock()  # reentrant: see _sync
        self._probe_pause = 1.0
        self._next_probe_at = 0.0
        self.offline = False
        self.hosts = _ASSUMED_HOSTS
        self._closed = False

    def close(self) -> None:
        """Close the store, and close it again after each later question of a call that is still under way."""
        self._closed = True
        self.store.close()

    def seconds_to_probe(self) -> float:
        """Return the seconds until an offline store may be probed; 0: now."""
        return max(self._next_probe_at - self._monotonic(), 0.0)

    def probe(self, key: str) -> None:
        """Probe an offline store if it is time; the first caller does it for all."""
        with self._lock:
            if not self.offline or self.seconds_to_probe():
                return
            self._next_probe_at = self._monotonic() + self._probe_pause
        try:
            self.store.adjust(key, Adjustment())
        except StoreUnavailableError as error:
            self._mark_offline(error)
        else:
            self._mark_online()
        finally:
            self._close_again()

    def take(self, key: str, request: AcquireRequest) -> AcquireResult | None:
        """Ask for a reservation; return ``None`` if the store is offline."""
        try:
            result = self.store.take(key, request)
        except StoreUnavailableError as error:
            self._mark_offline(error)
            return None
        finally:
            self._close_again()
        if result.hosts:
            self.hosts = result.hosts
        return result

    def adjust(self, key: str, change: Adjustment) -> bool:
        """Send an adjustment; return whether it arrived. An offline store is not even tried."""
        if self.offline:
            return False
        try:
            self.store.adjust(key, change)
        except StoreUnavailableError as error:
            self._mark_offline(error)
            return False
        finally:
            self._close_again()
        return True

    def _close_again(self) -> None:
        if self._closed:
            self.store.close()

    def _mark_offline(self, error: StoreUnavailableError) -> None:
        with self._lock:
            newly_offline = not self.offline
            self._probe_pause = 1.0 if newly_offline else min(2 * self._probe_pause, 5.0)
            self._next_probe_at = self._monotonic() + self._probe_pause
            self.offline = True
        if newly_offline:
            _log.warning(
                "the store of the rate limits is offline (%.200s): this process uses one part in %d of them until it answers again",
                error,
                max(self.hosts, 1),
            )

    def _mark_online(self) -> None:
        with self._lock:
            was_offline, self.offline = self.offline, False
        if was_offline:
            _log.warning("the store of the rate limits is online again")

    def after_fork(self) -> None:
        """Replace the lock in a child process, where a thread of the parent may have held it."""
        self._lock = threading.RLock()


class SharedModelLimiter(ModelLimiter):
    """Like :class:`ModelLimiter`, for one model with its buckets in a store.

    Args:
        model: The id of the model.
        limits: Configured sizes by name of the limit.
        share: Millionths of the token limits to use.
        clock: The source of time, and the way to wait.
        link: The store.
        key: The name of the model's state in the store.
    """

    def __init__(
        self, model: str, limits: Mapping[str, int | None], *, share: int, clock: Clock, link: StoreLink, key: str
    ) -> None:
        super().__init__(model, limits, share=share, clock=clock)
        self._link = link
        self._store_key = key
        self._try_take = self._take_offline
        self._limits_unknown = False  # holding our own calls back is no use: other processes may send theirs
        self._claimant = _new_claimant()
        self._store_version = 0
        #: The head that was woken to ask the store.
        self._known_head: Waiter | None = None
        #: First request granted while the gate of the store was closed; 0: none.
        self._gated_sequence = 0
        #: Adjustments to send to the store: posted under the lock, sent without it.
        self._outbox: deque[Adjustment] = deque()
        self._offline = False
        #: Units used while the store was offline; and credits that failed to reach it before.
        self._offline_use = [0, 0, 0, 0]
        self._undelivered: dict[str, int] = {}

    # --- online or offline -------------------------------------------------------------------------------------------

    def _take_offline(self, cost: Cost, now: int) -> bool:
        """Take a cost from the local buckets if the store is offline; online, the fast path is closed."""
        self._switch_mode(now)
        return self._offline and self._buckets.try_take(cost, now)

    def _switch_mode(self, now: int) -> None:
        """Follow the link: go offline with a part of the limits, or online again with the use of the meantime as a debt."""
        if self._link.offline == self._offline:
            return
        self._offline = self._link.offline
        if self._offline:
            self._offline_use = [0, 0, 0, 0]
            self._buckets.divide(max(self._link.hosts, 1), now)
            return
        # The store must be told of all units that were used offline and are not refilled yet.
        debts = {bucket.name: min(self._offline_use[bucket.kind], bucket.used(now)) for bucket in self._buckets}
        self._buckets.unite(now)
        owed = {bucket.name: _micro(debts[bucket.name] * bucket.interval) for bucket in self._buckets}
        self._post(credits={name: self._undelivered.get(name, 0) - owed[name] for name in owed})
        self._undelivered.clear()
        self._known_head = None

    def _post(self, **fields: object) -> None:
        self._outbox.append(Adjustment(**fields))  # type: ignore[arg-type]

    def _send_outbox(self) -> None:
        """Send the posted adjustments. Credits that do not arrive are kept until the store is online again."""
        while self._outbox:
            try:
                change = self._outbox.popleft()
            except IndexError:  # another thread was faster
                return
            if not self._link.adjust(self._store_key, change):
                self._run_locked(partial(self._keep_undelivered, change))

    def _keep_undelivered(self, change: Adjustment) -> None:
        for name, credit in change.credits.items():
            self._undelivered[name] = self._undelivered.get(name, 0) + credit

    # --- granting a reservation --------------------------------------------------------------------------------------

    def acquire(self, prompt_tokens: int, max_output: int | None, **options: Any) -> HeldReservation | None:  # noqa: D102 - inherited
        if self._link.offline:
            self._link.probe(self._store_key)
        return super().acquire(prompt_tokens, max_output, **options)

    def _enqueue(self, waiter: Waiter, now: int, *, wait: bool) -> Refusal | None:
        self._switch_mode(now)
        if self._offline:
            return super()._enqueue(waiter, now, wait=wait)
        refusal: Refusal | None = self._cut_to_fit(waiter)
        if refusal is None and wait and self._queue:
            refusal = self._refuse_newcomer(waiter, now)
        if refusal is None and (wait or not self._queue):
            self._queue.add(waiter)
            self._grant_ready(now)
            if self._queue.head is waiter and self._gate.opens_at <= now:
                waiter.request = self._build_request(waiter, now, NO_LIMIT if wait else 0)
        return refusal

    def _try_at_once(self, waiter: Waiter) -> bool:
        if waiter.request is not None:
            self._ask_store(waiter, waiter.request)
        self._run_locked(lambda: self._leave_queue(waiter))
        return waiter.granted

    def _leave_queue(self, waiter: Waiter) -> None:
        now = self._now()
        if waiter in self._queue:
            if self._offline:  # it went offline with this question
                self._grant_ready(now)
            if not waiter.granted:
                self._queue.remove(waiter)
                self._grant_ready(now)

    def _wait_for_grant(self, waiter: Waiter, cancel: CancelToken | None) -> None:
        # Usually no other caller waits and the store has room: then one question suffices.
        if waiter.request is None or not self._ask_store(waiter, waiter.request):
            super()._wait_for_grant(waiter, cancel)

    def _grant_ready(self, now: int) -> None:
        self._switch_mode(now)
        if self._offline:
            super()._grant_ready(now)
            return
        while (head := self._queue.head) is not None and head.granted:  # left there by an interrupt
            self._queue.serve(head)
            head.wake()
        if head is not self._known_head:
            self._known_head = head
            if head is not None:
                head.wakes_at = now
                head.wake()

    def _check_turn(self, waiter: Waiter) -> tuple[float | None, Refusal | None]:
        waiter.wake_lock.acquire(blocking=False)
        now = self._now()
        waiter.request = None
        if not waiter.granted:
            self._grant_ready(now)
        if waiter.granted:
            return max(waiter.starts_at - now, 0) / SECOND, None
        refusal: Refusal | None = None
        if self._queue.head is not waiter:
            waiter.wakes_at = waiter.deadline
            refusal = self._refuse_expired(waiter, now) if now >= waiter.deadline else None
        elif self._offline:
            refusal = self._refuse_head(waiter, now)
            probe = now + int(self._link.seconds_to_probe() * SECOND)
            waiter.wakes_at = min(self._ready_at(waiter.estimate.cost)[0], probe)
        elif self._gate.opens_at > now:
            refusal = self._refuse_head(waiter, now)
            waiter.wakes_at = self._gate.opens_at
        else:
            refusal = self._cut_to_fit(waiter)
            if now >= waiter.wakes_at:
                waiter.request = self._build_request(waiter, now)
        return None if waiter.wakes_at == NEVER else max(waiter.wakes_at - now, _MICROSECOND) / SECOND, refusal

    def _sleep(self, waiter: Waiter, timeout: float | None) -> None:
        if waiter.request is not None:
            self._ask_store(waiter, waiter.request)
        else:
            super()._sleep(waiter, timeout)
            if self._link.offline:
                self._link.probe(self._store_key)

    def _build_request(self, waiter: Waiter, now: int, latest: int = NO_LIMIT) -> AcquireRequest:
        cost = waiter.estimate.cost
        if waiter.deadline != NEVER:
            latest = max(min(latest, (waiter.deadline - now) // _MICROSECOND), 0)
        charges = tuple(
            BucketCharge(
                bucket.name,
                _micro(cost[bucket.kind] * bucket.interval),
                bucket.burst // _MICROSECOND,
                max(bucket.tat - now, 0) // _MICROSECOND,
            )
            for bucket in self._buckets
        )
        return AcquireRequest(
            charges,
            _RESERVE_AHEAD,
            latest,
            self._buckets.spacing() // _MICROSECOND,
            self._store_version,
            self._claimant,
        )

    def _ask_store(self, waiter: Waiter, request: AcquireRequest) -> bool:
        """Ask the store, and act on its answer; return whether the call may start now."""
        result = self._link.take(self._store_key, request)
        refusals: list[Refusal] = []
        self._run_locked(lambda: self._apply_result(waiter, result, refusals))
        if result is None:
            return False  # offline from now on
        if self._outbox:
            self._send_outbox()
        self._raise_refusal(refusals[0] if refusals else None)
        return result.reserved and not result.wait

    def _apply_result(self, waiter: Waiter, result: AcquireResult | None, refusals: list[Refusal]) -> None:
        """Act on the store's answer."""
        now = self._now()
        self._switch_mode(now)
        if result is None:
            return
        self._store_version = max(self._store_version, result.version)
        # In the order of the charges; a bucket that was learned meanwhile comes after them.
        for bucket, refill_time in zip(self._buckets, result.full, strict=False):
            bucket.tat = min(now + refill_time * _MICROSECOND, bucket.latest_tat(now))
        if result.reserved:
            self._grant_from_store(waiter, result, now)
            return
        waiter.wakes_at = now + min(
            max((result.wait - _RESERVE_AHEAD) * _MICROSECOND, _SHORTEST_INTERVAL), _ASK_INTERVAL
        )
        refusal = self._refuse_head(waiter, now)
        if refusal is None and now + result.wait * _MICROSECOND > waiter.deadline:
            # The limits have room, but other queues come first, or the gate is closed: either may change before the deadline.
            waiter.late_since = waiter.late_since or now
            if now - waiter.late_since >= CLAIM_LIFE * _MICROSECOND or now >= waiter.deadline:
                refusal = TooLate(result.wait * _MICROSECOND, waiter.deadline - now)
            waiter.wakes_at = min(waiter.wakes_at, waiter.deadline)
        if refusal is not None:
            refusals.append(refusal)

    def _grant_from_store(self, waiter: Waiter, result: AcquireResult, now: int) -> None:
        waiter.store_start = result.start
        waiter.starts_at = now + result.wait * _MICROSECOND
        waiter.reservation.wait = (waiter.starts_at - waiter.arrived_at) / SECOND
        self._gate.note_sent(waiter.starts_at, self._buckets.spacing())
        self._record_grant(waiter.reservation, waiter.estimate)
        if result.gated and not self._gated_sequence:
            self._gated_sequence = waiter.reservation.sequence
        if waiter in self._queue:
            self._queue.serve(waiter)
        self._grant_ready(now)

    def _record_grant(self, reservation: HeldReservation, estimate: Estimate) -> None:
        super()._record_grant(reservation, estimate)
        if self._offline:
            self._offline_use = [spent + units for spent, units in zip(self._offline_use, estimate.cost, strict=True)]

    def _charge_granted(self, sequence: int, estimate: Estimate) -> None:
        super()._charge_granted(sequence, estimate)
        self._return_units((0, 0, 0, 0), estimate.cost)

    def _withdraw(self, reservation: HeldReservation, waiter: Waiter | None) -> None:
        super()._withdraw(reservation, waiter)
        self._send_outbox()
        self._wake_head()

    def _withdraw_locked(self, reservation: HeldReservation, waiter: Waiter | None) -> None:
        estimate = self._in_flight.get(reservation.sequence)
        if estimate is not None:
            self._return_units(estimate.cost, (0, 0, 0, 0), start=0 if waiter is None else waiter.store_start)
        elif waiter is not None and waiter is self._known_head:
            self._post(claimant=self._claimant)
        super()._withdraw_locked(reservation, waiter)

    # --- ending a reservation ----------------------------------------------------------------------------------------

    def end_reservation(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:  # noqa: D102 - inherited
        super().end_reservation(reservation, actual, usage)
        if self._outbox:
            self._send_outbox()
            self._wake_head()

    def _end_locked(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None) -> Estimate | None:
        estimate = super()._end_locked(reservation, actual, usage)
        if estimate is not None and actual is not None:
            self._return_units(self._known_reserved(reservation, estimate, actual), actual)
        return estimate

    def _return_units(self, reserved: Cost, actual: Cost, start: int = 0) -> None:
        unused = [before - after for before, after in zip(reserved, actual, strict=True)]
        if self._offline:
            self._offline_use = [spent - units for spent, units in zip(self._offline_use, unused, strict=True)]
            return
        # Credits are rounded down and debts up, so that rounding never allows more than the limit.
        credits_ = {
            bucket.name: max(unused[bucket.kind] * bucket.interval, -bucket.dimension.period) // _MICROSECOND
            for bucket in self._buckets
            if unused[bucket.kind]
        }
        if credits_ or start:
            self._post(credits=credits_, start=start)

    def _wake_head(self) -> None:
        """Let the head ask the store now: it may have more room."""
        if self._queue:
            self._run_locked(self._wake_head_locked)

    def _wake_head_locked(self) -> None:
        head = self._queue.head
        if head is not None and not self._offline:
            head.wakes_at = self._now()
            head.wake()

    # --- the service's figures ---------------------------------------------------------------------------------------

    def feedback(  # noqa: D102 - inherited
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None
    ) -> None:
        was_closed = self._gate.active
        super().feedback(sequence, info, refusal_error)
        self._send_outbox()
        if was_closed and not self._gate.active:
            self._wake_head()

    def _feedback_locked(
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None
    ) -> None:
        super()._feedback_locked(sequence, info, refusal_error)
        self._switch_mode(self._now())  # needed if no caller waits

    def _learn_from_answer(
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None, now: int
    ) -> None:
        tat_before = {bucket.name: bucket.tat for bucket in self._buckets}
        super()._learn_from_answer(sequence, info, refusal_error, now)
        if self._offline:
            return
        # Send only tighter figures: the service may not have counted yet the calls that other processes have in flight.
        refill_times = {
            bucket.name: _micro(bucket.tat - now)
            for bucket in self._buckets
            if bucket.tat > max(tat_before.get(bucket.name, 0), now)
        }
        pause = 0
        if refusal_error is not None:
            pause = min(_micro(max(self._gate.opens_at - now, 0)), LONGEST_PAUSE)
        reopened = refusal_error is None and 0 < self._gated_sequence <= sequence
        if reopened or refusal_error is not None:
            self._gated_sequence = 0
        if refill_times or pause or reopened:
            self._post(full=refill_times, pause=pause, opened=reopened)

    def after_fork(self, *, careful: bool = True) -> None:  # noqa: ARG002, D102 - inherited; the store counts the parent's use
        super().after_fork(careful=False)
        self._claimant = _new_claimant()
        self._known_head = None
        self._outbox.clear()
        # The parent will send its own debts and credits.
        self._offline_use = [0, 0, 0, 0]
        self._undelivered = {}


def _micro(nanoseconds: int) -> int:
    return -(-nanoseconds // _MICROSECOND)


def _new_claimant() -> int:
    return random.SystemRandom().randrange(1, 1 << 48)
