"""Compute limits as continuously refilled buckets, in whole nanoseconds.

Every limit of the service seen so far is a bucket that refills all the time and holds at most one period's worth: its refusals name
``wait = (used + requested - limit) / (limit / period)`` seconds. A :class:`Bucket` stores one instant, the "theoretical arrival time"
(TAT) of the generic cell rate algorithm (GCRA): when it will be full again. The units in use are ``(TAT - now) / interval``, so no
timer has to refill anything.

This module is pure: it has no clock, lock or thread. The caller passes *now* and must guard the objects by a lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "DIMENSIONS",
    "FULL_SHARE",
    "INPUT",
    "NEVER",
    "NO_COST",
    "OUTPUT",
    "REQUESTS",
    "SECOND",
    "TOKENS",
    "Bucket",
    "BucketSet",
    "Cost",
    "Dimension",
]

#: Nanoseconds of a second.
SECOND = 1_000_000_000

#: Later than any instant, in nanoseconds.
NEVER = 1 << 62

#: The whole of a limit, in the unit of shares: millionths.
FULL_SHARE = 1_000_000

#: The places of a :data:`Cost`: requests, all tokens, tokens of the prompt, tokens of the answer.
REQUESTS, TOKENS, INPUT, OUTPUT = range(4)

Cost = tuple[int, int, int, int]

NO_COST: Cost = (0, 0, 0, 0)


class Dimension(NamedTuple):
    """One kind of limit that the service has."""

    name: str
    kind: int
    """The place of a :data:`Cost` that it counts."""
    period: int
    """Nanoseconds."""
    unit: str
    scope: str

    @property
    def words(self) -> str:
        """The limit in words, as the service writes it: ``tokens per minute (TPM)``."""
        return f"{self.unit} per {self.scope} ({self.name.upper()})"


_MINUTE, _DAY = 60 * SECOND, 86_400 * SECOND

DIMENSIONS: Mapping[str, Dimension] = {
    "rpm": Dimension("rpm", REQUESTS, _MINUTE, "requests", "minute"),
    "rpd": Dimension("rpd", REQUESTS, _DAY, "requests", "day"),
    "tpm": Dimension("tpm", TOKENS, _MINUTE, "tokens", "minute"),
    "tpd": Dimension("tpd", TOKENS, _DAY, "tokens", "day"),
    "itpm": Dimension("itpm", INPUT, _MINUTE, "input tokens", "minute"),
    "otpm": Dimension("otpm", OUTPUT, _MINUTE, "output tokens", "minute"),
}


#: A larger request is refused without being sent for this long after the service named the limit; then one may try.
_TRUSTED_PERIOD = _MINUTE
#: No plan of the service allows fewer requests or tokens than this.
_LEAST_PLAUSIBLE = 15
#: How long a learned limit holds without being named again.
_CONFIRMED_FOR = 10 * _MINUTE


class Bucket:
    """One limit of one model.

    Args:
        dimension: The units it counts, and over which period.
        limit: Its size, at least 1.
        share: Millionths of *limit* to use. Applies to tokens only: both sides count requests alike, but tokens are estimates.
        now: Nanoseconds of the caller's clock. The bucket starts full.
        keep_own_use: Whether units charged here stay counted even if the service reports that less is used.
    .. versionadded:: 0.1.0
    """

    __slots__ = (
        "_marked_tat",
        "_own_full_at",
        "burst",
        "capacity",
        "dimension",
        "interval",
        "keep_own_use",
        "kind",
        "limit",
        "name",
        "named_at",
        "tat",
    )

    def __init__(
        self, dimension: Dimension, limit: int, *, share: int = FULL_SHARE, now: int = 0, keep_own_use: bool = False
    ) -> None:
        self.dimension = dimension
        self.name = dimension.name
        self.kind = dimension.kind
        self.keep_own_use = keep_own_use
        self.named_at = now  # when the service last named the limit
        self.tat = now
        #: The part of ``tat`` used by other clients, as reported by the service: when ``tat`` was ``_marked_tat``, the bucket would have
        #: been full at ``_own_full_at`` without them. Both 0: no report.
        self._own_full_at = self._marked_tat = 0
        self._set_size(limit, share, 1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dimension.name} {self.capacity} of {self.limit}, full at {self.tat} ns>"

    def _set_size(self, limit: int, share: int, parts: int) -> None:
        if self.kind == REQUESTS:
            share = FULL_SHARE
        self.limit = limit
        self.capacity = max(1, limit * share // (FULL_SHARE * parts))
        # Rounded up, so that rounding never allows more than the limit.
        self.interval = -(-self.dimension.period * FULL_SHARE * parts // (limit * share))
        self.burst = self.capacity * self.interval

    def resize(self, limit: int, *, share: int, now: int, parts: int = 1) -> None:
        """Change the size and keep the use: a limit that shrinks must not forget the tokens already spent.

        Args:
            limit: The service's limit.
            share: Millionths of it to use, for tokens.
            now: Nanoseconds of the caller's clock.
            parts: Use one of this many equal parts of it.
        """
        used, own, old_interval = max(self.tat - now, 0), self.own_full_at(now) - now, self.interval
        self._set_size(limit, share, parts)
        latest = self.latest_tat(now)
        self._set_full_at(
            min(now - (-used * self.interval // old_interval), latest),
            min(now - (-own * self.interval // old_interval), latest),
        )

    def ready_at(self, units: int) -> int:
        """Return the instant at which *units* fit, which may be past.

        No units fit at any time. More than the capacity fits when the bucket is full, and leaves a debt; the caller must check whether
        it exceeds the limit itself, see :meth:`BucketSet.never_fits`.
        """
        if not units:
            return 0
        if units >= self.capacity:
            return self.tat
        return self.tat + units * self.interval - self.burst

    def charge(self, units: int, now: int) -> None:
        """Take *units*; the bucket may go into a debt of at most one period."""
        self.tat = min(max(self.tat, now) + units * self.interval, self.latest_tat(now))

    def credit(self, units: int, now: int) -> None:
        """Return *units*; the bucket never holds more than full."""
        returned_time = units * self.interval
        tat = max(now, self.tat - returned_time)
        if self._marked_tat:
            own = self.own_full_at(now) - returned_time
            self._own_full_at = own if own > now else now  # noqa: FURB136 - as below
            self._marked_tat = tat
        self.tat = tat

    def own_full_at(self, now: int) -> int:
        """Return when the bucket would be full if only units charged here counted, without the service's reports of other clients.

        To keep the hot path short, charges change ``tat`` only; the result is derived from it and may be slightly too late.
        """
        tat = self.tat
        if self._marked_tat:
            own = self._own_full_at
            own = (own if own > now else now) + tat - self._marked_tat  # noqa: FURB136 - as below
            tat = tat if tat < own else own  # noqa: FURB136 - as below
        return tat if tat > now else now  # noqa: FURB136 - max() costs three times as much

    def _set_full_at(self, full: int, own: int) -> None:
        """Set the bucket to be full at *full*; the units missing until *own* were used here."""
        self.tat = full
        self._own_full_at, self._marked_tat = (own, full) if own < full else (0, 0)

    def sync(self, candidate: int, *, now: int, idle: bool, keep_own_use: bool) -> None:
        """Adopt the service's own figure.

        A tighter figure applies at once. A looser one applies at once only if no call is in flight; otherwise it closes a tenth of the
        gap, because the service may have written its figure before it saw the calls in flight.

        Args:
            candidate: Instant at which the service's bucket will be full.
            now: Nanoseconds of the caller's clock.
            idle: Whether no other request is in flight.
            keep_own_use: Whether units charged here stay counted; the attribute of this name has the same effect.
        """
        tat = self.tat
        own = self.own_full_at(now) if self._marked_tat else tat if tat > now else now  # noqa: FURB136 - as above
        if candidate < own and (keep_own_use or self.keep_own_use):
            candidate = own
        if candidate < now:
            candidate = now
        elif candidate > now + self.burst:
            candidate = min(candidate, self.latest_tat(now))
        if candidate < tat and not idle:
            candidate = tat - (tat - candidate) // 10
        self.tat = candidate
        if own < candidate:
            self._own_full_at = own
            self._marked_tat = candidate
        elif self._marked_tat:
            self._marked_tat = 0

    def service_full_at(self, used: int, limit: int, now: int) -> int:
        """Convert *used* units of the service's *limit* into a ``tat`` of this bucket.

        If the service's limit is not larger than ours, the result is when the service's bucket will be full: at its rate, not at our
        share. If it is larger, the result leaves no more units here than there.
        """
        if limit > self.limit:
            return now + max(self.capacity - max(limit - used, 0), 0) * self.interval
        return now - (-used * self.dimension.period // self.limit)

    def exhaust(self, now: int) -> None:
        """Take all remaining units, although no call here used them."""
        self._set_full_at(max(self.tat, now + self.burst), self.own_full_at(now))

    def latest_tat(self, now: int) -> int:
        """Return the latest allowed ``tat``: empty, with a debt of one period. No figure of the service may block for longer."""
        return now + self.burst + self.dimension.period

    def remaining(self, now: int) -> int:
        """Return the units left for this process, without the margin that the share holds back; negative while in debt."""
        return self.capacity + (min(now - self.tat, 0) // self.interval)

    def used(self, now: int) -> int:
        """Return the units in use, rounded up."""
        return -(min(now - self.tat, 0) // self.interval)

    def reset(self, now: int) -> int:
        """Return the nanoseconds until the bucket is full."""
        return max(self.tat - now, 0)


class BucketSet:
    """The limits of one model; a cost is taken from all of them or from none.

    Args:
        limits: Sizes by name (``"rpm"`` …); ``None`` and 0 mean unknown.
        share: Millionths of the token limits to use.
        now: Nanoseconds of the caller's clock.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_buckets", "_by_name", "_configured_limits", "_parts", "share")

    def __init__(self, limits: Mapping[str, int | None], *, share: int = FULL_SHARE, now: int = 0) -> None:
        self.share = share
        self._parts = 1
        self._configured_limits = {name: limit for name, limit in limits.items() if limit}
        self._buckets = [
            Bucket(DIMENSIONS[name], size, share=share, now=now, keep_own_use=True)
            for name, size in self._configured_limits.items()
        ]
        self._by_name = {bucket.name: bucket for bucket in self._buckets}

    def __iter__(self) -> Iterator[Bucket]:
        return iter(self._buckets)

    def __len__(self) -> int:
        return len(self._buckets)

    def get(self, name: str) -> Bucket | None:
        """Return the bucket of that name; ``None`` while the limit is unknown."""
        return self._by_name.get(name)

    def spacing(self) -> int:
        """Return the nanoseconds between requests at the limit per minute; one second while that limit is unknown."""
        bucket = self.get("rpm")
        return SECOND if bucket is None else bucket.interval

    def source(self, bucket: Bucket) -> str:
        """Say where a limit comes from: ``"configured"`` or ``"learned"``."""
        return "configured" if self._configured_limits.get(bucket.name) == bucket.limit else "learned"

    def try_take(self, cost: Cost, now: int) -> bool:
        """Take *cost* from all buckets if it fits into each of them now; otherwise change nothing.

        Hot path, written out without calls. A cost above a capacity is never taken here; see :meth:`ready_at`.
        """
        for bucket in self._buckets:
            units = cost[bucket.kind]
            if units and (units > bucket.capacity or bucket.tat + units * bucket.interval - bucket.burst > now):
                return False
        for bucket in self._buckets:
            tat = bucket.tat
            bucket.tat = (tat if tat > now else now) + cost[bucket.kind] * bucket.interval  # noqa: FURB136 - max() costs three times as much
        return True

    def ready_at(self, cost: Cost) -> tuple[int, Bucket | None]:
        """Return the instant at which *cost* fits everywhere, and the bucket that fits it last; ``(0, None)`` without limits."""
        latest, cause = 0, None
        for bucket in self._buckets:
            ready = bucket.ready_at(cost[bucket.kind])
            if ready > latest:
                latest, cause = ready, bucket
        return latest, cause

    def never_fits(self, cost: Cost, now: int | None = None) -> Bucket | None:
        """Return a bucket with a whole limit of less than *cost*; ``None`` if there is no such bucket.

        With *now*, a learned limit counts only for a minute after the service named it: the figure may have been a slip, and only
        sending a request can show that.
        """
        return next(
            (
                bucket
                for bucket in self._buckets
                if cost[bucket.kind] > bucket.limit
                and (
                    now is None
                    or now - bucket.named_at < _TRUSTED_PERIOD
                    or self._configured_limits.get(bucket.name) == bucket.limit
                )
            ),
            None,
        )

    def cut_to_limits(self, cost: Cost, need: Cost) -> Cost:
        """Return *cost* cut to the limits, but not below *need*: a safety margin must not make a request impossible."""
        units = list(cost)
        for bucket in self._buckets:
            units[bucket.kind] = min(units[bucket.kind], max(bucket.limit, need[bucket.kind]))
        return units[0], units[1], units[2], units[3]

    def charge(self, cost: Cost, now: int) -> None:
        """Take *cost* from all buckets, which may go into debt."""
        for bucket in self._buckets:
            bucket.charge(cost[bucket.kind], now)

    def settle(self, reserved: Cost, actual: Cost, now: int) -> None:
        """Replace the reserved cost by the actual one: buckets may go into debt, and never hold more than full."""
        for bucket in self._buckets:
            difference = reserved[bucket.kind] - actual[bucket.kind]
            if difference > 0:
                if bucket._marked_tat:  # noqa: SLF001 - the class is of this module; a call costs too much here
                    bucket.credit(difference, now)
                else:
                    tat = bucket.tat - difference * bucket.interval
                    bucket.tat = tat if tat > now else now  # noqa: FURB136 - max() costs three times as much
            elif difference:
                bucket.charge(-difference, now)

    def learn_limit(self, name: str, limit: int, now: int) -> str | None:
        """Adopt a limit that the service named.

        It may lower a configured limit and never raises one. A limit that is not configured follows the service's latest figure.

        Returns:
            ``"adopted"`` for a limit unknown so far, ``"lowered"`` for one that shrank, otherwise ``None``.
        """
        if limit < 1:
            return None  # the service blocks models by other means; with a limit of 0 callers would wait for ever
        limit = min(limit, self._configured_limits.get(name, limit))
        bucket = self.get(name)
        if bucket is not None:
            bucket.named_at = now
        if bucket is None:
            bucket = Bucket(DIMENSIONS[name], limit, share=self.share, now=now)
            bucket.resize(limit, share=self.share, now=now, parts=self._parts)
            bucket.named_at = now
            self._buckets.append(bucket)
            self._by_name[name] = bucket
            return "adopted"
        old_limit = bucket.limit
        if limit != old_limit:
            bucket.resize(limit, share=self.share, now=now, parts=self._parts)
        return "lowered" if limit < old_limit else None

    def raise_unconfirmed(self, now: int) -> int:
        """Raise each learned limit that the service has not named for long; return the instant at which to look again.

        Headers do not report all limits, so one misread figure would otherwise slow the model down for good. An implausibly small limit
        doubles after each period. Any other grows by half after ten minutes, or a day for a limit of the day, and only while calls need
        it: if it was right, the service refuses one call, and names it again.
        """
        look_again = NEVER
        for bucket in self._buckets:
            configured = self._configured_limits.get(bucket.name)
            limit, period = bucket.limit, bucket.dimension.period
            if configured == limit:
                continue
            is_tiny = limit < _LEAST_PLAUSIBLE
            raise_at = bucket.named_at + (period if is_tiny else max(period, _CONFIRMED_FOR))
            if now >= raise_at and (is_tiny or 2 * bucket.remaining(now) <= bucket.capacity):
                raised = 2 * limit if is_tiny else limit + limit // 2
                bucket.resize(min(raised, configured or raised), share=self.share, now=now, parts=self._parts)
                bucket.named_at = now
                raise_at = now + period
            look_again = min(look_again, max(raise_at, now + _MINUTE))
        return look_again

    def set_share(self, share: int, now: int) -> None:
        """Use another share of the token limits from now on."""
        self.share = share
        for bucket in self._buckets:
            bucket.resize(bucket.limit, share=share, now=now, parts=self._parts)

    def divide(self, parts: int, now: int) -> None:
        """Use one of *parts* equal parts of the limits from now on; it starts with that part of the remaining units, at most half full."""
        self._parts = parts
        for bucket in self._buckets:
            remaining_units = bucket.remaining(now) // parts
            bucket.resize(bucket.limit, share=self.share, now=now, parts=parts)
            bucket.tat = now + (bucket.capacity - min(remaining_units, bucket.capacity // 2)) * bucket.interval

    def unite(self, now: int) -> None:
        """Use the whole limits again; the units used stay counted."""
        self._parts = 1
        self.set_share(self.share, now)

    def exhaust(self, now: int) -> None:
        """Take all that the limits per minute still hold: the service refused a call without saying which limit it hit."""
        for bucket in self._buckets:
            if bucket.dimension.scope == "minute":
                bucket.exhaust(now)
