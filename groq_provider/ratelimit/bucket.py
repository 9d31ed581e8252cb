"""The arithmetic of limits: continuously refilled buckets, in whole nanoseconds.

Every limit of the service seen so far is a bucket that refills all the time and holds at most one period's worth:
``wait = (used + requested - limit) / (limit / period)`` gives the seconds of its refusals. A bucket is kept as its TAT, the
"theoretical arrival time" of the cell rate algorithm (GCRA): the instant at which it is full again. What is used is then
``(TAT - now) / interval``; refilling needs no work at all.

Pure: no clock, no lock, no thread. The caller passes *now* and guards the objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "DIMENSIONS",
    "FULL_SHARE",
    "INPUT",
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

#: A share of 1 in the unit of shares: millionths.
FULL_SHARE = 1_000_000

#: What a call uses: requests, tokens in all, tokens of the prompt, tokens of the answer. The places of a :data:`Cost`.
REQUESTS, TOKENS, INPUT, OUTPUT = range(4)

Cost = tuple[int, int, int, int]

NO_COST: Cost = (0, 0, 0, 0)


class Dimension(NamedTuple):
    """One of the limits the service knows."""

    name: str
    kind: int
    """Which place of a cost it counts."""
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


#: How long a limit that the service has named refuses what is larger, without a request being tried.
_TRUSTED_PERIOD = _MINUTE
#: Fewer requests or tokens than in any plan of the service.
_LEAST_PLAUSIBLE = 15


class Bucket:
    """One limit.

    Args:
        dimension: What it counts, over which period.
        limit: Its size, at least 1.
        share: Millionths of *limit* to use. Applies to tokens only: requests are counted the same on both sides, tokens are
            estimates.
        now: Nanoseconds of the caller's clock. The bucket starts full.
        keep_own_use: Whether what was charged here counts whatever the service says.

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
        self.named_at = now  # when the service named the limit last
        self.tat = now
        #: What of ``tat`` others have used, as far as the service told: full at _own without them when _mark was the tat. 0: nothing.
        self._own_full_at = self._marked_tat = 0
        self._set_size(limit, share, 1)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dimension.name} {self.capacity} of {self.limit}, full at {self.tat} ns>"

    def _set_size(self, limit: int, share: int, parts: int) -> None:
        if self.kind == REQUESTS:
            share = FULL_SHARE
        self.limit = limit
        self.capacity = max(1, limit * share // (FULL_SHARE * parts))
        # Rounded up, so that no rounding ever lets more through than the limit.
        self.interval = -(-self.dimension.period * FULL_SHARE * parts // (limit * share))
        self.burst = self.capacity * self.interval

    def resize(self, limit: int, *, share: int, now: int, parts: int = 1) -> None:
        """Change the size and keep what is used: a limit that shrinks does not forget the tokens already spent.

        Args:
            limit: The service's limit.
            share: Millionths of it to use, of tokens.
            now: Nanoseconds of the caller's clock.
            parts: Among how many that is divided; one of them is used.
        """
        used, own, old_interval = max(self.tat - now, 0), self.own_full_at(now) - now, self.interval
        self._set_size(limit, share, parts)
        latest = self.latest_tat(now)
        self._set_full_at(
            min(now - (-used * self.interval // old_interval), latest),
            min(now - (-own * self.interval // old_interval), latest),
        )

    def ready_at(self, units: int) -> int:
        """Return the instant at which *units* fit; may lie in the past.

        Nothing is free at any time. More than the capacity fits when the bucket is full, and leaves a debt; whether it is
        more than the limit itself is for the caller to ask.
        """
        if not units:
            return 0
        if units >= self.capacity:
            return self.tat
        return self.tat + units * self.interval - self.burst

    def charge(self, units: int, now: int) -> None:
        """Take *units*, into a debt of one period at most if need be."""
        self.tat = min(max(self.tat, now) + units * self.interval, self.latest_tat(now))

    def credit(self, units: int, now: int) -> None:
        """Give *units* back, not beyond full."""
        returned_time = units * self.interval
        tat = max(now, self.tat - returned_time)
        if self._marked_tat:
            own = self.own_full_at(now) - returned_time
            self._own_full_at = own if own > now else now  # noqa: FURB136 - as below
            self._marked_tat = tat
        self.tat = tat

    def own_full_at(self, now: int) -> int:
        """Return when the bucket would be full if only what was charged here counted, and nothing the service said of others.

        Charges are kept in ``tat`` alone, which is the hot path, and read off here: at worst a little more than it was.
        """
        tat = self.tat
        if self._marked_tat:
            own = self._own_full_at
            own = (own if own > now else now) + tat - self._marked_tat  # noqa: FURB136 - as below
            tat = tat if tat < own else own  # noqa: FURB136 - as below
        return tat if tat > now else now  # noqa: FURB136 - max() costs three times as much

    def _set_full_at(self, full: int, own: int) -> None:
        """Be full at the instant *full*, of which what is missing until *own* is our own use."""
        self.tat = full
        self._own_full_at, self._marked_tat = (own, full) if own < full else (0, 0)

    def sync(self, candidate: int, *, now: int, idle: bool, keep_own_use: bool) -> None:
        """Take over what the service says.

        Tightens at once. Loosens at once only when nothing is in flight, else by a tenth of the gap: what is in flight may
        not have reached the service when it wrote its figures.

        Args:
            candidate: Instant at which the service's bucket is full.
            now: Nanoseconds of the caller's clock.
            idle: Whether no other request is in flight.
            keep_own_use: Whether our own use counts, as it does where the bucket's own ``keep_own_use`` is set.
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
        """Return the ``tat`` that stands for *used* of the service's own *limit*.

        Of a limit as large as ours that is when the service's bucket is full again: at its rate, not at our share. Of a larger one only
        so much counts that no more is left here than there.
        """
        if limit > self.limit:
            return now + max(self.capacity - max(limit - used, 0), 0) * self.interval
        return now - (-used * self.dimension.period // self.limit)

    def exhaust(self, now: int) -> None:
        """Take whatever is left, though nobody here used it."""
        self._set_full_at(max(self.tat, now + self.burst), self.own_full_at(now))

    def latest_tat(self, now: int) -> int:
        """Return the latest ``tat`` there may be: empty, with a debt of one period. No figure of the service blocks for longer."""
        return now + self.burst + self.dimension.period

    def remaining(self, now: int) -> int:
        """Return what is left for this process, the margin of the share held back; negative while in debt."""
        return self.capacity + (min(now - self.tat, 0) // self.interval)

    def used(self, now: int) -> int:
        """Return the units in use, rounded up."""
        return -(min(now - self.tat, 0) // self.interval)

    def reset(self, now: int) -> int:
        """Return the nanoseconds until full."""
        return max(self.tat - now, 0)


class BucketSet:
    """The limits of one model, decided together: all of them or none.

    Args:
        limits: Sizes by name (``"rpm"`` …); ``None`` and 0 mean not known.
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
        """Return the bucket of that name, if that limit is known."""
        return self._by_name.get(name)

    def spacing(self) -> int:
        """Return the nanoseconds between requests at the rate of the limit per minute; a second where none is known."""
        bucket = self.get("rpm")
        return SECOND if bucket is None else bucket.interval

    def source(self, bucket: Bucket) -> str:
        """Say where a limit comes from: ``"configured"`` or ``"learned"``."""
        return "configured" if self._configured_limits.get(bucket.name) == bucket.limit else "learned"

    def try_take(self, cost: Cost, now: int) -> bool:
        """Take *cost* from all buckets if all have it now; else change nothing.

        The hot path: written out, without calls. A cost beyond a capacity is never taken here; see :meth:`ready_at`.
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
        """Return the instant at which *cost* fits everywhere, and the bucket it waits for; ``(0, None)`` without limits."""
        latest, cause = 0, None
        for bucket in self._buckets:
            ready = bucket.ready_at(cost[bucket.kind])
            if ready > latest:
                latest, cause = ready, bucket
        return latest, cause

    def never_fits(self, cost: Cost, now: int | None = None) -> Bucket | None:
        """Return a bucket whose whole limit is less than *cost*, if there is one.

        With *now* a limit that the service has not named for a while counts only if it is configured: it may have been a slip, and only
        a request that goes out can show that.
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
        """Return *cost* cut to the limits: a margin on top of what a request is known to *need* must not make it impossible."""
        units = list(cost)
        for bucket in self._buckets:
            units[bucket.kind] = min(units[bucket.kind], max(bucket.limit, need[bucket.kind]))
        return units[0], units[1], units[2], units[3]

    def charge(self, cost: Cost, now: int) -> None:
        """Take *cost* from all buckets, into debt if need be."""
        for bucket in self._buckets:
            bucket.charge(cost[bucket.kind], now)

    def settle(self, reserved: Cost, actual: Cost, now: int) -> None:
        """Replace what was reserved by what was used: debt is allowed, credit ends at full. A refund has used nothing."""
        for bucket in self._buckets:
            difference = reserved[bucket.kind] - actual[bucket.kind]
            if difference > 0:
                if bucket._marked_tat:  # noqa: SLF001 - ours, and this is nearly as hot as try_take()
                    bucket.credit(difference, now)
                else:
                    tat = bucket.tat - difference * bucket.interval
                    bucket.tat = tat if tat > now else now  # noqa: FURB136 - as there
            elif difference:
                bucket.charge(-difference, now)

    def learn_limit(self, name: str, limit: int, now: int) -> str | None:
        """Take over a limit the service named.

        It lowers a configured one and never raises it. Where none is configured the newest word of the service counts.

        Returns:
            ``"adopted"`` for a limit not known before, ``"lowered"`` for one that shrank, else ``None``.
        """
        if limit < 1:
            return None  # the service blocks a model in other ways; a limit of nothing would wait for ever
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

    def raise_tiny_limits(self, now: int) -> bool:
        """Double limits that are smaller than any plan's and were not named for a whole period; say whether there are such limits.

        One of a few requests, read once in a text, would hold back everything for good: headers do not speak of all limits.
        """
        any_tiny = False
        for bucket in self._buckets:
            configured = self._configured_limits.get(bucket.name)
            if bucket.limit < _LEAST_PLAUSIBLE and configured != bucket.limit:
                any_tiny = True
                if now - bucket.named_at >= bucket.dimension.period:
                    limit = min(2 * bucket.limit, configured or 2 * bucket.limit)
                    bucket.resize(limit, share=self.share, now=now, parts=self._parts)
                    bucket.named_at = now
        return any_tiny

    def set_share(self, share: int, now: int) -> None:
        """Use another share of the token limits from now on."""
        self.share = share
        for bucket in self._buckets:
            bucket.resize(bucket.limit, share=share, now=now, parts=self._parts)

    def divide(self, parts: int, now: int) -> None:
        """Use one of so many parts of the limits from now on, beginning with that part of what is left, at most half of it."""
        self._parts = parts
        for bucket in self._buckets:
            remaining_units = bucket.remaining(now) // parts
            bucket.resize(bucket.limit, share=self.share, now=now, parts=parts)
            bucket.tat = now + (bucket.capacity - min(remaining_units, bucket.capacity // 2)) * bucket.interval

    def unite(self, now: int) -> None:
        """Use the whole of the limits again; what is used stays used."""
        self._parts = 1
        self.set_share(self.share, now)

    def exhaust(self, now: int) -> None:
        """Take whatever the limits per minute still hold: the service refused and did not say why."""
        for bucket in self._buckets:
            if bucket.dimension.scope == "minute":
                bucket.exhaust(now)
