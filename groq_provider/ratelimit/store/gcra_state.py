"""Define the shared state of one model's limits, as instants in whole microseconds of the store's clock.

A store (:mod:`groq_provider.ratelimit.store.file`, :mod:`groq_provider.ratelimit.store.redis`) keeps a :class:`GcraState` for each
model, and applies :meth:`GcraState.take` and :meth:`GcraState.adjust` to it, one command at a time. The file store runs this class; the
script of the Redis store, ``gcra_state.lua``, does the same in the same order, and a test compares the two command by command. Change
both together.

The state contains instants only. The caller knows sizes, shares and units, and converts a cost to the time that the bucket needs to
refill it. So processes that know different limits can share a state, and a changed limit needs no update here.

A state cannot block a model for good, even if it is corrupt: :meth:`GcraState.take` first cuts each instant to its farthest sensible
value. A bucket owes at most one more burst, the newest start is :data:`FARTHEST_PLACE` ahead, the gate stays closed for
:data:`LONGEST_PAUSE` and one spacing, a claim lasts for :data:`CLAIM_LIFE`.

This module is pure: no clock, no lock, no I/O. The caller passes *now*.
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

#: How long a claim to the front lasts if its process does not ask again.
CLAIM_LIFE = 2_000_000

#: How far ahead a reservation may start: further than any caller reserves.
FARTHEST_PLACE = 10_000_000

#: How long one process can close the gate for the others; after that, they send a probe themselves.
LONGEST_PAUSE = 60_000_000

#: A ``latest`` that never refuses.
NO_LIMIT = 1 << 50


class BucketCharge(NamedTuple):
    """The cost of a call in one bucket, as the time that the bucket needs to refill it."""

    name: str
    """The name of the limit: one of the keys of ``DIMENSIONS``."""
    cost: int
    """Refill time of the units, rounded up."""
    burst: int
    """Refill time of a full bucket. A call that costs this much or more waits for a full bucket, and leaves a debt."""
    known: int
    """Time until full by the caller's own copy: a store that lost its state starts from there."""


class AcquireRequest(NamedTuple):
    """Asks a store for a reservation."""

    charges: tuple[BucketCharge, ...]
    horizon: int
    """How far ahead the reservation may start, at most :data:`FARTHEST_PLACE`."""
    latest: int
    """How far ahead the caller can use a start; :data:`NO_LIMIT` for any. A later one is not reserved."""
    spacing: int
    """Time between two calls while the gate is in use."""
    seen: int
    """The newest version that the caller knows: a store with an older one has lost its state."""
    claimant: int
    """The asking queue of one process: a random number of at least 1, below 2**48."""


class AcquireResult(NamedTuple):
    """The answer to an :class:`AcquireRequest`."""

    reserved: bool
    """Whether the call has its reservation."""
    wait: int
    """Time until the call may start; if nothing was reserved, until it could start at the earliest."""
    start: int
    """The same as an instant of the store's clock, for :attr:`Adjustment.start`."""
    gated: bool
    """Whether the gate was in use: the service's answer to this call opens it."""
    version: int
    full: tuple[int, ...]
    """For each charge, the time until its bucket is full, with this reservation counted."""
    hosts: int
    """Number of processes seen lately, this one included; 0: unknown."""


class Adjustment(NamedTuple):
    """Reports to a store how a call ended, and the service's figures."""

    credits: Mapping[str, int] = {}
    """Refill times to return, by name; negative ones are charged."""
    full: Mapping[str, int] = {}
    """Time until the service's own bucket is full, by name. Can only tighten a limit."""
    start: int = 0
    """Start of a reservation that is returned unused."""
    pause: int = 0
    """Close the gate for this long, at most :data:`LONGEST_PAUSE` and one spacing of the next request."""
    opened: bool = False
    """Open the gate."""
    claimant: int = 0
    """Give up this queue's claim to the front."""


class GcraState:
    """The state of one model.

    Attributes:
        last: Newest instant seen; if the clock steps back, this is the time.
        start: Newest start reserved: no later reservation starts before it.
        gate: No call starts before this instant; 0 while the gate is not in use.
        version: Rises with every call of :meth:`take`.
        claimant: The queue that has the front because it could not be served yet; 0 for none.
        claim_start: When the claimant's call could start.
        claim_until: When the claim ends unless the claimant asks again.
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
        """Reserve a start if it is soon enough; otherwise say when it would be.

        A request that does not fit within the horizon claims the front of the queue until it does: no other queue is served before it,
        so that small calls of other processes cannot starve a large one.
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
        """Apply an adjustment. A credit to a bucket that was never charged is ignored."""
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
        """Return the instant from which this state has no more effect than a new one."""
        return max(self.start, self.gate, self.claim_until, *self.full_at.values(), 0)
