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

_MICRO = 1_000  # nanoseconds
#: How far ahead places are reserved. Longer than a trip to the store, so that one question does for a place; short enough that a call
#: of the other class, or what answers give back, is not kept out by places that begin later.
_HORIZON = 100_000
#: How long the head waits before it asks again: what other processes give back cannot wake it.
_PATIENCE = SECOND
#: The least time between two questions of a head that is not served.
_BREATH = SECOND // 200
#: Taken for the number of processes while no store has said it.
_EXPECTED_HOSTS = 4


class StoreLink:
    """A store as the models see it: there, or away and tried again from time to time.

    Thread safety: any thread.

    Args:
        store: What to ask.
        clock: Time.

    Attributes:
        away: Whether the last question went unanswered.
        hosts: How many processes share the limits, as far as known.
    """

    def __init__(self, store: RateLimitStore, clock: Clock) -> None:
        self.store = store
        self._monotonic = clock.monotonic
        self._lock = threading.RLock()  # reentrant: a signal handler may come here while its own thread is in here
        self._pause = 1.0
        self._next_try = 0.0
        self.away = False
        self.hosts = _EXPECTED_HOSTS
        self._over = False

    def close(self) -> None:
        """Have the store give back what it holds open, now and after whatever it is still asked for by calls under way."""
        self._over = True
        self.store.close()

    def due_in(self) -> float:
        """Return the seconds until a store that is away should be tried again; 0 for now."""
        return max(self._next_try - self._monotonic(), 0.0)

    def probe(self, key: str) -> None:
        """Try a store that is away again if it is time; the first who comes does, for all."""
        with self._lock:
            if not self.away or self.due_in():
                return
            self._next_try = self._monotonic() + self._pause
        try:
            self.store.adjust(key, Adjustment())
        except StoreUnavailableError as error:
            self._lost(error)
        else:
            self._found()
        finally:
            self._ended()

    def take(self, key: str, ask: AcquireRequest) -> AcquireResult | None:
        """Ask for a place; ``None`` if the store is away."""
        try:
            taken = self.store.take(key, ask)
        except StoreUnavailableError as error:
            self._lost(error)
            return None
        finally:
            self._ended()
        if taken.hosts:
            self.hosts = taken.hosts
        return taken

    def adjust(self, key: str, change: Adjustment) -> bool:
        """Pass on a change; whether it arrived. Not even tried while the store is away."""
        if self.away:
            return False
        try:
            self.store.adjust(key, change)
        except StoreUnavailableError as error:
            self._lost(error)
            return False
        finally:
            self._ended()
        return True

    def _ended(self) -> None:
        if self._over:
            self.store.close()

    def _lost(self, error: StoreUnavailableError) -> None:
        with self._lock:
            news = not self.away
            self._pause = 1.0 if news else min(2 * self._pause, 5.0)
            self._next_try = self._monotonic() + self._pause
            self.away = True
        if news:
            _log.warning(
                "the store of the rate limits is away (%.200s): going on with one part in %d of them until it is back",
                error,
                max(self.hosts, 1),
            )

    def _found(self) -> None:
        with self._lock:
            news, self.away = self.away, False
        if news:
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
        self._key = key
        self._take_now = self._take_alone
        self._blind = False  # what other processes have out is not known either
        self._claimant = _claimant()
        self._seen = 0
        #: The head, once it knows that it is.
        self._front: Waiter | None = None
        #: First request granted while another process had closed the gate; 0 for none.
        self._gated = 0
        #: What the store has to hear: put here under the lock, sent without it.
        self._outbox: deque[Adjustment] = deque()
        self._apart = False
        #: Units used while the store was away, and refill times it was not told of when it went away.
        self._spent = [0, 0, 0, 0]
        self._untold: dict[str, int] = {}

    # --- with the store, or alone ------------------------------------------------------------------------------------

    def _take_alone(self, cost: Cost, now: int) -> bool:
        """Take without asking, while there is nobody to ask."""
        self._follow(now)
        return self._apart and self._buckets.try_take(cost, now)

    def _follow(self, now: int) -> None:
        """Go on alone if the store went away, and together if it came back."""
        if self._link.away == self._apart:
            return
        self._apart = self._link.away
        if self._apart:
            self._spent = [0, 0, 0, 0]
            self._buckets.divide(max(self._link.hosts, 1), now)
            return
        # What was used meanwhile and has not been refilled since is a debt at the store.
        debts = {b.name: min(self._spent[b.kind], b.used(now)) for b in self._buckets}
        self._buckets.unite(now)
        owed = {b.name: _micro(debts[b.name] * b.interval) for b in self._buckets}
        self._tell(credits={name: self._untold.get(name, 0) - owed[name] for name in owed})
        self._untold.clear()
        self._front = None

    def _tell(self, **news: object) -> None:
        self._outbox.append(Adjustment(**news))  # type: ignore[arg-type]

    def _send(self) -> None:
        """Send what the store has to hear. Credit that does not arrive is given when the store is back."""
        while self._outbox:
            try:
                change = self._outbox.popleft()
            except IndexError:  # another thread was faster
                return
            if not self._link.adjust(self._key, change):
                self._apply(partial(self._keep_for_later, change))

    def _keep_for_later(self, change: Adjustment) -> None:
        for name, credit in change.credits.items():
            self._untold[name] = self._untold.get(name, 0) + credit

    # --- taking a place ----------------------------------------------------------------------------------------------

    def acquire(self, prompt: int, max_output: int | None, **options: Any) -> HeldReservation | None:  # noqa: D102 - as there
        if self._link.away:
            self._link.probe(self._key)
        return super().acquire(prompt, max_output, **options)

    def _queue(self, ticket: Waiter, now: int, *, wait: bool) -> Refusal | None:
        self._follow(now)
        if self._apart:
            return super()._queue(ticket, now, wait=wait)
        refusal: Refusal | None = self._fit(ticket)
        if refusal is None and wait and self._line:
            refusal = self._forecast(ticket, now)
        if refusal is None and (wait or not self._line):
            self._line.add(ticket)
            self._advance(now)
            if self._line.head is ticket and self._gate.opens_at <= now:
                ticket.ask = self._ask(ticket, now, NO_LIMIT if wait else 0)
        return refusal

    def _at_once(self, ticket: Waiter) -> bool:
        if ticket.ask is not None:
            self._put(ticket, ticket.ask)
        self._apply(lambda: self._depart(ticket))
        return ticket.granted

    def _depart(self, ticket: Waiter) -> None:
        now = self._now()
        if ticket in self._line:
            if self._apart:  # since just now
                self._advance(now)
            if not ticket.granted:
                self._line.remove(ticket)
                self._advance(now)

    def _sleep(self, ticket: Waiter, cancel: CancelToken | None) -> None:
        # Nobody waits, as a rule, and the store has room: then one question is all.
        if ticket.ask is None or not self._put(ticket, ticket.ask):
            super()._sleep(ticket, cancel)

    def _advance(self, now: int) -> None:
        self._follow(now)
        if self._apart:
            super()._advance(now)
            return
        while (head := self._line.head) is not None and head.granted:  # an interrupt struck in between
            self._line.serve(head)
            head.rouse()
        if head is not self._front:
            self._front = head
            if head is not None:
                head.armed = now
                head.rouse()

    def _step(self, ticket: Waiter) -> tuple[float | None, Refusal | None]:
        ticket.wake.acquire(blocking=False)
        now = self._now()
        ticket.ask = None
        if not ticket.granted:
            self._advance(now)
        if ticket.granted:
            return max(ticket.starts - now, 0) / SECOND, None
        refusal: Refusal | None = None
        if self._line.head is not ticket:
            ticket.armed = ticket.deadline
            refusal = self._out_of_time(ticket, now) if now >= ticket.deadline else None
        elif self._apart:
            refusal = self._hopeless(ticket, now)
            probe = now + int(self._link.due_in() * SECOND)
            ticket.armed = min(self._ready_at(ticket.estimate.cost)[0], probe)
        elif self._gate.opens_at > now:
            refusal = self._hopeless(ticket, now)
            ticket.armed = self._gate.opens_at
        else:
            refusal = self._fit(ticket)
            if now >= ticket.armed:
                ticket.ask = self._ask(ticket, now)
        return None if ticket.armed == NEVER else max(ticket.armed - now, _MICRO) / SECOND, refusal

    def _pause(self, ticket: Waiter, timeout: float | None) -> None:
        if ticket.ask is not None:
            self._put(ticket, ticket.ask)
        else:
            super()._pause(ticket, timeout)
            if self._link.away:
                self._link.probe(self._key)

    def _ask(self, ticket: Waiter, now: int, latest: int = NO_LIMIT) -> AcquireRequest:
        cost = ticket.estimate.cost
        if ticket.deadline != NEVER:
            latest = max(min(latest, (ticket.deadline - now) // _MICRO), 0)
        wants = tuple(
            BucketCharge(
                bucket.name,
                _micro(cost[bucket.kind] * bucket.interval),
                bucket.burst // _MICRO,
                max(bucket.tat - now, 0) // _MICRO,
            )
            for bucket in self._buckets
        )
        return AcquireRequest(wants, _HORIZON, latest, self._buckets.spacing() // _MICRO, self._seen, self._claimant)

    def _put(self, ticket: Waiter, ask: AcquireRequest) -> bool:
        """Ask the store, and act on the answer; say whether the call may start now."""
        taken = self._link.take(self._key, ask)
        refusals: list[Refusal] = []
        self._apply(lambda: self._answered(ticket, taken, refusals))
        if taken is None:
            return False  # alone from now on
        if self._outbox:
            self._send()
        self._raise(refusals[0] if refusals else None)
        return taken.reserved and not taken.wait

    def _answered(self, ticket: Waiter, taken: AcquireResult | None, refusals: list[Refusal]) -> None:
        """Act on the store's answer."""
        now = self._now()
        self._follow(now)
        if taken is None:
            return
        self._seen = max(self._seen, taken.version)
        # In the order of the wants; one that was learned meanwhile is at the end.
        for bucket, full in zip(self._buckets, taken.full, strict=False):
            bucket.tat = min(now + full * _MICRO, bucket.latest(now))
        if taken.reserved:
            self._grant(ticket, taken, now)
            return
        ticket.armed = now + min(max((taken.wait - _HORIZON) * _MICRO, _BREATH), _PATIENCE)
        refusal = self._hopeless(ticket, now)
        if refusal is None and now + taken.wait * _MICRO > ticket.deadline:
            # Not for want of room: others are before this one, or closed the gate. They may be gone, or an answer open it.
            ticket.doubted = ticket.doubted or now
            if now - ticket.doubted >= CLAIM_LIFE * _MICRO or now >= ticket.deadline:
                refusal = TooLate(taken.wait * _MICRO, ticket.deadline - now)
            ticket.armed = min(ticket.armed, ticket.deadline)
        if refusal is not None:
            refusals.append(refusal)

    def _grant(self, ticket: Waiter, taken: AcquireResult, now: int) -> None:
        ticket.start = taken.start
        ticket.starts = now + taken.wait * _MICRO
        ticket.held.wait = (ticket.starts - ticket.since) / SECOND
        self._gate.passed(ticket.starts, self._buckets.spacing())
        self._enter(ticket.held, ticket.estimate)
        if taken.gated and not self._gated:
            self._gated = ticket.held.sequence
        if ticket in self._line:
            self._line.serve(ticket)
        self._advance(now)

    def _enter(self, held: HeldReservation, estimate: Estimate) -> None:
        super()._enter(held, estimate)
        if self._apart:
            self._spent = [spent + units for spent, units in zip(self._spent, estimate.cost, strict=True)]

    def _admit(self, sequence: int, estimate: Estimate) -> None:
        super()._admit(sequence, estimate)
        self._give_back((0, 0, 0, 0), estimate.cost)

    def _leave(self, held: HeldReservation, ticket: Waiter | None) -> None:
        super()._leave(held, ticket)
        self._send()
        self._hurry()

    def _leave_now(self, held: HeldReservation, ticket: Waiter | None) -> None:
        estimate = self._open.get(held.sequence)
        if estimate is not None:
            self._give_back(estimate.cost, (0, 0, 0, 0), start=0 if ticket is None else ticket.start)
        elif ticket is not None and ticket is self._front:
            self._tell(claimant=self._claimant)
        super()._leave_now(held, ticket)

    # --- giving it back ----------------------------------------------------------------------------------------------

    def end(self, held: HeldReservation, actual: Cost | None, usage: Usage | None = None) -> None:  # noqa: D102 - as there
        super().end(held, actual, usage)
        if self._outbox:
            self._send()
            self._hurry()

    def _end_now(self, held: HeldReservation, actual: Cost | None, usage: Usage | None) -> Estimate | None:
        estimate = super()._end_now(held, actual, usage)
        if estimate is not None and actual is not None:
            self._give_back(self._reserved(held, estimate, actual), actual)
        return estimate

    def _give_back(self, reserved: Cost, actual: Cost, start: int = 0) -> None:
        left = [before - after for before, after in zip(reserved, actual, strict=True)]
        if self._apart:
            self._spent = [spent - units for spent, units in zip(self._spent, left, strict=True)]
            return
        # Rounded down, a debt up: no rounding ever lets more through than the limit.
        credits_ = {
            b.name: max(left[b.kind] * b.interval, -b.dimension.period) // _MICRO for b in self._buckets if left[b.kind]
        }
        if credits_ or start:
            self._tell(credits=credits_, start=start)

    def _hurry(self) -> None:
        """Let the head ask now: something was given back."""
        if self._line:
            self._apply(self._hurry_now)

    def _hurry_now(self) -> None:
        head = self._line.head
        if head is not None and not self._apart:
            head.armed = self._now()
            head.rouse()

    # --- what the service says ---------------------------------------------------------------------------------------

    def feedback(  # noqa: D102 - as there
        self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None
    ) -> None:
        closed = self._gate.active
        super().feedback(sequence, info, limited)
        self._send()
        if closed and not self._gate.active:
            self._hurry()

    def _feedback_now(self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None) -> None:
        super()._feedback_now(sequence, info, limited)
        self._follow(self._now())  # also where nobody waits

    def _correct(self, sequence: int, info: RateLimitInfo | None, limited: RateLimitedError | None, now: int) -> None:
        before = {bucket.name: bucket.tat for bucket in self._buckets}
        super()._correct(sequence, info, limited, now)
        if self._apart:
            return
        # Only what became tighter: what others have in flight the service may not have counted yet.
        full = {b.name: _micro(b.tat - now) for b in self._buckets if b.tat > max(before.get(b.name, 0), now)}
        pause = 0
        if limited is not None:
            pause = min(_micro(max(self._gate.opens_at - now, 0)), LONGEST_PAUSE)
        opened = limited is None and 0 < self._gated <= sequence
        if opened or limited is not None:
            self._gated = 0
        if full or pause or opened:
            self._tell(full=full, pause=pause, opened=opened)

    def after_fork(self, *, careful: bool = True) -> None:  # noqa: ARG002, D102 - the store knows what the parent uses
        super().after_fork(careful=False)
        self._claimant = _claimant()
        self._front = None
        self._outbox.clear()
        # Debts and credits that were not told yet are the parent's to tell.
        self._spent = [0, 0, 0, 0]
        self._untold = {}


def _micro(nanoseconds: int) -> int:
    return -(-nanoseconds // _MICRO)


def _claimant() -> int:
    return random.SystemRandom().randrange(1, 1 << 48)
