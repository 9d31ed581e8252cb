"""The limits of one model shared with other processes: the queue stays here, the buckets are in a store.

Only the head of the queue asks the store, in its own thread and with no lock held; one question per process and model is under way. The
buckets of this process are a copy, as fresh as the last answer: for refusals known at once, for what headers say, for showing, and for going
on alone while the store is away.
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
#: How far ahead places are reserved. Longer than a trip to the store, so that one question does for a place; short enough that a call
#: of the other class, or what answers give back, is not kept out by places that begin later.
_RESERVE_AHEAD = 100_000
#: How long the head waits before it asks again: what other processes give back cannot wake it.
_ASK_INTERVAL = SECOND
#: The least time between two questions of a head that is not served.
_SHORTEST_INTERVAL = SECOND // 200
#: Taken for the number of processes while no store has said it.
_ASSUMED_HOSTS = 4


class StoreLink:
    """A store as the models see it: there, or away and tried again from time to time.

    Thread safety: any thread.

    Args:
        store: What to ask.
        clock: Time.

    Attributes:
        offline: Whether the last question went unanswered.
        hosts: How many processes share the limits, as far as known.
    """

    def __init__(self, store: RateLimitStore, clock: Clock) -> None:
        self.store = store
        self._monotonic = clock.monotonic
        self._lock = threading.RLock()  # reentrant: a signal handler may come here while its own thread is in here
        self._probe_pause = 1.0
        self._next_probe_at = 0.0
        self.offline = False
        self.hosts = _ASSUMED_HOSTS
        self._closed = False

    def close(self) -> None:
        """Have the store give back what it holds open, now and after whatever it is still asked for by calls under way."""
        self._closed = True
        self.store.close()

    def seconds_to_probe(self) -> float:
        """Return the seconds until a store that is away should be tried again; 0 for now."""
        return max(self._next_probe_at - self._monotonic(), 0.0)

    def probe(self, key: str) -> None:
        """Try a store that is away again if it is time; the first who comes does, for all."""
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
        """Ask for a place; ``None`` if the store is away."""
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
        """Pass on a change; whether it arrived. Not even tried while the store is away."""
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
                "the store of the rate limits is away (%.200s): going on with one part in %d of them until it is back",
                error,
                max(self.hosts, 1),
            )

    def _mark_online(self) -> None:
        with self._lock:
            was_offline, self.offline = self.offline, False
        if was_offline:
            _log.warning("the store of the rate limits is back")

    def after_fork(self) -> None:
        """Start anew in a child process, whose lock may have been held."""
        self._lock = threading.RLock()


class SharedModelLimiter(ModelLimiter):
    """Everything the limiter knows of one model whose buckets are in a store.

    Args:
        model: Its id.
        limits: Sizes by name.
        share: Millionths of the token limits to use.
        clock: Time, and the way to wait.
        link: Where the store is.
        key: Its name there.
    """

    def __init__(
        self, model: str, limits: Mapping[str, int | None], *, share: int, clock: Clock, link: StoreLink, key: str
    ) -> None:
        super().__init__(model, limits, share=share, clock=clock)
        self._link = link
        self._store_key = key
        self._try_take = self._take_offline
        self._limits_unknown = False  # what other processes have out is not known either
        self._claimant = _new_claimant()
        self._store_version = 0
        #: The head, once it knows that it is.
        self._known_head: Waiter | None = None
        #: First request granted while another process had closed the gate; 0 for none.
        self._gated_sequence = 0
        #: What the store has to hear: put here under the lock, sent without it.
        self._outbox: deque[Adjustment] = deque()
        self._offline = False
        #: Units used while the store was away, and refill times it was not told of when it went away.
        self._offline_use = [0, 0, 0, 0]
        self._undelivered: dict[str, int] = {}

    # --- with the store, or alone ------------------------------------------------------------------------------------

    def _take_offline(self, cost: Cost, now: int) -> bool:
        """Take without asking, while there is nobody to ask."""
        self._switch_mode(now)
        return self._offline and self._buckets.try_take(cost, now)

    def _switch_mode(self, now: int) -> None:
        """Go on alone if the store went away, and together if it came back."""
        if self._link.offline == self._offline:
            return
        self._offline = self._link.offline
        if self._offline:
            self._offline_use = [0, 0, 0, 0]
            self._buckets.divide(max(self._link.hosts, 1), now)
            return
        # What was used meanwhile and has not been refilled since is a debt at the store.
        debts = {bucket.name: min(self._offline_use[bucket.kind], bucket.used(now)) for bucket in self._buckets}
        self._buckets.unite(now)
        owed = {bucket.name: _micro(debts[bucket.name] * bucket.interval) for bucket in self._buckets}
        self._post(credits={name: self._undelivered.get(name, 0) - owed[name] for name in owed})
        self._undelivered.clear()
        self._known_head = None

    def _post(self, **fields: object) -> None:
        self._outbox.append(Adjustment(**fields))  # type: ignore[arg-type]

    def _send_outbox(self) -> None:
        """Send what the store has to hear. Credit that does not arrive is given when the store is back."""
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

    # --- taking a place ----------------------------------------------------------------------------------------------

    def acquire(self, prompt_tokens: int, max_output: int | None, **options: Any) -> HeldReservation | None:  # noqa: D102 - as there
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
            if self._offline:  # since just now
                self._grant_ready(now)
            if not waiter.granted:
                self._queue.remove(waiter)
                self._grant_ready(now)

    def _wait_for_grant(self, waiter: Waiter, cancel: CancelToken | None) -> None:
        # Nobody waits, as a rule, and the store has room: then one question is all.
        if waiter.request is None or not self._ask_store(waiter, waiter.request):
            super()._wait_for_grant(waiter, cancel)

    def _grant_ready(self, now: int) -> None:
        self._switch_mode(now)
        if self._offline:
            super()._grant_ready(now)
            return
        while (head := self._queue.head) is not None and head.granted:  # an interrupt struck in between
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
        """Ask the store, and act on the answer; say whether the call may start now."""
        result = self._link.take(self._store_key, request)
        refusals: list[Refusal] = []
        self._run_locked(lambda: self._apply_result(waiter, result, refusals))
        if result is None:
            return False  # alone from now on
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
        # In the order of the wants; one that was learned meanwhile is at the end.
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
            # Not for want of room: others are before this one, or closed the gate. They may be gone, or an answer open it.
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

    # --- giving it back ----------------------------------------------------------------------------------------------

    def end_reservation(self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:  # noqa: D102 - as there
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
        # Rounded down, a debt up: no rounding ever lets more through than the limit.
        credits_ = {
            bucket.name: max(unused[bucket.kind] * bucket.interval, -bucket.dimension.period) // _MICROSECOND
            for bucket in self._buckets
            if unused[bucket.kind]
        }
        if credits_ or start:
            self._post(credits=credits_, start=start)

    def _wake_head(self) -> None:
        """Let the head ask now: something was given back."""
        if self._queue:
            self._run_locked(self._wake_head_locked)

    def _wake_head_locked(self) -> None:
        head = self._queue.head
        if head is not None and not self._offline:
            head.wakes_at = self._now()
            head.wake()

    # --- what the service says ---------------------------------------------------------------------------------------

    def feedback(  # noqa: D102 - as there
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
        self._switch_mode(self._now())  # also where nobody waits

    def _learn_from_answer(
        self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None, now: int
    ) -> None:
        tat_before = {bucket.name: bucket.tat for bucket in self._buckets}
        super()._learn_from_answer(sequence, info, refusal_error, now)
        if self._offline:
            return
        # Only what became tighter: what others have in flight the service may not have counted yet.
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

    def after_fork(self, *, careful: bool = True) -> None:  # noqa: ARG002, D102 - the store knows what the parent uses
        super().after_fork(careful=False)
        self._claimant = _new_claimant()
        self._known_head = None
        self._outbox.clear()
        # Debts and credits that were not told yet are the parent's to tell.
        self._offline_use = [0, 0, 0, 0]
        self._undelivered = {}


def _micro(nanoseconds: int) -> int:
    return -(-nanoseconds // _MICROSECOND)


def _new_claimant() -> int:
    return random.SystemRandom().randrange(1, 1 << 48)
