"""What processes share of one model's limits: instants, in whole microseconds of one clock.

A store (:mod:`groq_provider.ratelimit.store.file`, :mod:`groq_provider.ratelimit.store.redis`) keeps a :class:`GcraState` for every model and applies
:meth:`GcraState.take` and :meth:`GcraState.adjust` to it, one at a time. This class is what they have to agree with: the file store runs it, the
script of the Redis store is its twin, and a test compares them command by command.

It knows time only: sizes, shares and units are the caller's, who says how long a bucket needs to refill what he wants. So processes that know
different limits get along, and a limit that changes needs no word here.

No state can hold a model up for good, whoever wrote it: each :meth:`GcraState.take` first cuts what it finds to what can be meant. A bucket is empty
and owes one more burst at most, the newest place is :data:`FARTHEST_PLACE` ahead, the gate stays closed for :data:`LONGEST_PAUSE` and one spacing,
a claim lasts for :data:`CLAIM_LIFE`.

Pure: no clock, no lock, no I/O. The caller passes *now*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CLAIM_LIFE",
    "FARTHEST_PLACE",
    "LONGEST_PAUSE",
    "NO_LIMIT",
    "AcquireRequest",
    "AcquireResult",
    "Adjustment",
    "BucketCharge",
    "GcraState",
]

#: How long a place at the front is kept for a process that does not come back to it.
CLAIM_LIFE = 2_000_000

#: How far ahead a place may be: more than any caller reserves.
FARTHEST_PLACE = 10_000_000

#: How long one process can close the gate for the others; after that they try for themselves.
LONGEST_PAUSE = 60_000_000

#: A ``latest`` that never refuses.
NO_LIMIT = 1 << 50


class BucketCharge(NamedTuple):
    """What a call takes of one bucket, as the time the bucket needs to refill it."""

    name: str
    """One of the six names of limits."""
    cost: int
    """Rounded up."""
    burst: int
    """What the bucket holds when it is full. A cost of that much and more waits for a full bucket, and leaves a debt."""
    known: int
    """Until full, as far as the caller knows: where a store that lost its state starts again."""


class AcquireRequest(NamedTuple):
    """A call that wants to start."""

    charges: tuple[BucketCharge, ...]
    horizon: int
    """How far ahead a place may be reserved, at most :data:`FARTHEST_PLACE`."""
    latest: int
    """How far ahead the caller could use one; :data:`NO_LIMIT` for any. A place later than that is not reserved."""
    spacing: int
    """Between two calls while the gate is in use."""
    seen: int
    """Newest version the caller knows: a store that shows an older one has lost something."""
    claimant: int
    """Who asks: a number of at least 1, below 2**48, of one queue of one process."""


class AcquireResult(NamedTuple):
    """The answer to an :class:`AcquireRequest`."""

    reserved: bool
    """Whether the place was taken."""
    wait: int
    """Until the call may start; if nothing was reserved, until it could at the earliest."""
    start: int
    """The same as an instant of the store's clock, for :attr:`Adjustment.start`."""
    gated: bool
    """Whether the gate was in use: an answer of the service to this call opens it."""
    version: int
    full: tuple[int, ...]
    """For each want, how long until its bucket is full, the place counted."""
    hosts: int
    """How many processes were seen lately, this one included; 0: not known."""


class Adjustment(NamedTuple):
    """What somebody learned after a call."""

    credits: Mapping[str, int] = {}
    """Refill times to give back by name; negative ones are taken in addition."""
    full: Mapping[str, int] = {}
    """How long until the service's own bucket is full, by name. Only ever tightens."""
    start: int = 0
    """Start of a place that is given back unused."""
    pause: int = 0
    """Close the gate for that long, at most :data:`LONGEST_PAUSE` and one spacing of the next to ask."""
    opened: bool = False
    """Open the gate."""
    claimant: int = 0
    """Whose claim to the front is given up."""


class GcraState:
    """The state of one model.

    Attributes:
        last: Newest instant seen; a clock that steps back is taken for that.
        start: Instant of the newest start: nobody overtakes.
        gate: Before that nobody starts; 0 for a gate not in use.
        version: Rises with every call of :meth:`take`.
        claimant: Who is at the front and could not be served yet, 0 for nobody.
        claim_start: When that one could start.
        claim_until: How long that place is kept.
        full_at: By name of a limit, the instant at which its bucket is full.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("claim_start", "claim_until", "claimant", "full_at", "gate", "last", "start", "version")

    def __init__(self) -> None:
        self.last = 0
        self.start = 0
        self.gate = 0
        self.version = 0
        self.claimant = 0
        self.claim_start = 0
        self.claim_until = 0
        self.full_at: dict[str, int] = {}

    def take(self, now: int, request: AcquireRequest, *, hosts: int = 0) -> AcquireResult:
        """Take a place if it starts soon enough, else say when.

        Who could not be served within the horizon has the front until then: nobody else is served before, so that a large call is
        not starved by small ones of other processes.
        """
        now = self.last = max(now, self.last)
        full_at = self.full_at
        state_lost = self.version < request.seen
        self.version = max(self.version, request.seen) + 1
        if self.start > now or self.gate > now or self.claim_until > now:
            self.start = min(self.start, now + FARTHEST_PLACE)
            self.gate = min(self.gate, now + LONGEST_PAUSE + request.spacing)
            self.claim_until = min(self.claim_until, now + CLAIM_LIFE)
        newest = max(now, self.start)
        start = max(newest, self.gate)
        for name, cost, burst, known in request.charges:
            full = full_at.get(name)
            if full is None or (state_lost and full < now + known):
                full = full_at[name] = now + known
            if cost:
                if full - newest > 2 * burst:
                    full = full_at[name] = newest + 2 * burst
                ready_at = full if cost >= burst else full + cost - burst
                start = max(start, ready_at)
        claimed_by_other = self.claimant not in {0, request.claimant} and now < self.claim_until
        if claimed_by_other and self.claim_start > start:
            start = self.claim_start
        wait = start - now
        gated = self.gate > 0
        reserved = not claimed_by_other and wait <= request.horizon and wait <= request.latest
        if reserved:
            self.start = start
            for name, cost, _, _ in request.charges:
                if cost:
                    full_at[name] = max(full_at[name], start) + cost
            if gated:
                self.gate = start + request.spacing
        if not claimed_by_other:
            keeps_claim = not reserved and wait <= request.latest
            self.claimant = request.claimant if keeps_claim else 0
            self.claim_start = start if keeps_claim else 0
            self.claim_until = now + CLAIM_LIFE if keeps_claim else 0
        refill_times = tuple(max(full_at[charge.name] - now, 0) for charge in request.charges)
        return AcquireResult(reserved, wait, start, gated, self.version, refill_times, hosts)

    def adjust(self, now: int, adjustment: Adjustment) -> None:
        """Apply what was learned. Of a bucket nobody took from yet, credit is ignored."""
        now = self.last = max(now, self.last)
        full_at = self.full_at
        for name, credit in adjustment.credits.items():
            full = full_at.get(name)
            if credit < 0:
                full_at[name] = max(now if full is None else full, now) - credit
            elif full is not None:
                full_at[name] = max(full - credit, now)
        for name, refill_time in adjustment.full.items():
            full = full_at.get(name)
            if full is None or full < now + refill_time:
                full_at[name] = now + refill_time
        if adjustment.start and self.start == adjustment.start:
            self.start = now
        if adjustment.opened:
            self.gate = 0
        if adjustment.pause:
            self.gate = max(self.gate, now + adjustment.pause)
        if adjustment.claimant and self.claimant == adjustment.claimant:
            self.claimant = self.claim_start = self.claim_until = 0

    def idle_at(self) -> int:
        """Return the instant from which on this state says no more than none does."""
        return max(self.start, self.gate, self.claim_until, *self.full_at.values(), 0)
