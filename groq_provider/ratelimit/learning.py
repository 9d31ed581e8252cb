"""What the service says about its limits, taken over into ours.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider.ratelimit.bucket import DIMENSIONS, REQUESTS, SECOND, TOKENS, WHOLE

if TYPE_CHECKING:
    from groq_provider.errors import RateLimitedError
    from groq_provider.ratelimit.bucket import Bucket, BucketSet
    from groq_provider.ratelimit.cost import Estimate
    from groq_provider.ratelimit.gate import ThrottleGate
    from groq_provider.types.response import RateLimitInfo

__all__ = ["LimitLearning"]

_LOWEST_SHARE = WHOLE // 2
#: Seconds: no limit has a longer period, so nothing holds a model back for more.
_LONGEST_PAUSE = 86_400.0
_LONGEST_PAUSES = {"minute": 60.0, "hour": 3600.0}
_RECOVERY, _RECOVERY_PERIOD = WHOLE // 100, 60 * SECOND


class LimitLearning:
    """Applies headers and refusals to the buckets and the gate of one model.

    Args:
        buckets: What to correct.
        gate: What a refusal closes.
        open_calls: What is in flight, by sequence, in that order; read only.

    Attributes:
        last: The newest headers.
        learned: Limits adopted from the service, by name.

    .. versionadded:: 0.1.0
    """

    __slots__ = (
        "_base",
        "_buckets",
        "_careful",
        "_changed",
        "_cut",
        "_gate",
        "_open",
        "_synced",
        "_tiny",
        "last",
        "learned",
    )

    def __init__(self, buckets: BucketSet, gate: ThrottleGate, open_calls: dict[int, Estimate]) -> None:
        self._buckets = buckets
        self._gate = gate
        self._open = open_calls
        self._base = buckets.share
        self._changed = 0  # instant the share was changed last
        self._cut = 0  # newest request out at the last cut: one burst of refusals cuts once
        self._careful = False
        self._tiny = False  # whether a limit may have to be healed
        self._synced = 0  # request whose headers were applied last
        self.last: RateLimitInfo | None = None
        self.learned: dict[str, int] = {}

    def headers(self, sequence: int, info: RateLimitInfo, now: int) -> None:
        """Take over headers: on this service requests are per day and tokens per minute.

        Those of requests older than the newest applied are ignored: threads overtake each other on the way back.
        """
        if sequence < self._synced:
            return
        self._synced = sequence
        self.last = info
        if self._careful:
            self._careful = False
            self._buckets.set_share(self._base, now)
        alone = not self._open or (len(self._open) == 1 and sequence in self._open)
        self._one("rpd", info.limit_requests, info.remaining_requests, info.reset_requests, sequence, now, alone)
        self._one("tpm", info.limit_tokens, info.remaining_tokens, info.reset_tokens, sequence, now, alone)

    def _one(  # noqa: PLR0917 - private, once per answer and limit
        self,
        name: str,
        limit: int | None,
        remaining: int | None,
        reset: float | None,
        sequence: int,
        now: int,
        alone: bool,
    ) -> None:
        """Take over what headers say of one limit. *alone*: no other call is out."""
        bucket = self._buckets.get(name)
        adopted = False
        if limit is not None and (bucket is None or bucket.limit != limit):
            adopted = self._learn(name, limit, now) == "adopted"
            bucket = self._buckets.get(name)
            if bucket is not None and bucket.limit < limit and reset is not None:
                # Only units can be compared with a lower limit of ours, not the time until they are back.
                if remaining is None:
                    remaining = limit - int(reset * SECOND) * limit // bucket.dimension.period
                reset = None
        if bucket is None:
            return
        if limit is not None:
            bucket.heard = now
        if reset is not None:
            full = now + int(reset * SECOND)
        elif remaining is not None and limit is not None:
            full = bucket.service_full_at(limit - remaining, limit, now)
        else:
            return
        self._sync(bucket, full, sequence, now, idle=alone or adopted)

    def refusal(
        self, sequence: int, newest: int, info: RateLimitInfo | None, error: RateLimitedError, now: int
    ) -> None:
        """Close the gate, and learn why.

        Args:
            sequence: The request refused.
            newest: The newest request that is out.
            info: Headers of the refusal, applied before.
            error: What the service said.
            now: Nanoseconds of the caller's clock.
        """
        name = (error.limit_name or "").lower()
        explained = False
        if name in DIMENSIONS and error.limit:
            explained = self._learn(name, error.limit, now) is not None
            bucket = self._buckets.get(name)
            if bucket is not None and error.used is not None:
                self._sync(bucket, bucket.service_full_at(error.used, error.limit, now), sequence, now, idle=False)
        of_tokens = DIMENSIONS[name].kind != REQUESTS if name in DIMENSIONS else not name
        if of_tokens and not explained and sequence > self._cut:
            # Our figures said that it fits: others use the same quota, or the service counts otherwise.
            self._set_share(self._buckets.share * 9 // 10, now)
            self._cut = newest
        unexplained = not name and not self._shown(sequence, info)
        if not name and (info is None or info.remaining_tokens is None):
            self._buckets.empty(now)  # nothing says where we stand
        pause = error.retry_after
        if pause is None and info is not None:
            pause = info.retry_after
        self._gate.close(
            now,
            None if pause is None else int(min(pause, _LONGEST_PAUSES.get(error.scope or "", _LONGEST_PAUSE)) * SECOND),
            sent=newest,
            scope=error.scope,
            limit_name=error.limit_name,
            limit=error.limit,
            refused=sequence if unexplained else None,
            spacing=self._buckets.spacing(),
        )

    def _shown(self, sequence: int, info: RateLimitInfo | None) -> bool:
        """Say whether the headers of a refusal show what the request was too much for."""
        if info is None:
            return False
        cost = self._open.get(sequence)
        needed = 1 if cost is None else max(cost.cost[TOKENS], 1)
        return info.remaining_requests == 0 or (info.remaining_tokens is not None and info.remaining_tokens < needed)

    def success(self, sequence: int, now: int) -> None:
        """Note an answer that was no refusal: open the gate, and raise a share that was cut.

        By a hundredth a minute, and only while half of the limit is in use: idle minutes prove nothing.
        """
        self._gate.answered(sequence)
        if self._tiny:
            self._tiny = self._buckets.heal(now)
        if self._buckets.share < self._base and not self._careful and now - self._changed >= _RECOVERY_PERIOD:
            busy = (2 * bucket.remaining(now) <= bucket.capacity for bucket in self._buckets if bucket.kind >= TOKENS)
            if any(busy):
                self._set_share(self._buckets.share + _RECOVERY, now)

    def be_careful(self, now: int) -> None:
        """Take half of the share until the service says where the limits stand."""
        self._careful = True
        self._buckets.set_share(max(self._base // 2, 1), now)

    def _learn(self, name: str, limit: int, now: int) -> str | None:
        outcome = self._buckets.learn(name, limit, now)
        self._tiny = True  # perhaps: the next good answer looks
        if outcome == "adopted":
            self.learned[name] = limit
        return outcome

    def _sync(self, bucket: Bucket, full: int, sequence: int, now: int, *, idle: bool) -> None:
        """Correct a bucket, counting what left after that request: the service did not know of it yet."""
        for other in reversed(self._open):
            if other <= sequence:
                break
            full += self._open[other].cost[bucket.kind] * bucket.interval
        # With less than the whole rate in use the service's bucket is soon fuller than ours. That is the margin, not credit: only what
        # earlier figures have taken is given back.
        bucket.sync(full, now=now, idle=idle, bound=bucket.kind != REQUESTS and self._buckets.share < WHOLE)

    def _set_share(self, share: int, now: int) -> None:
        share = min(max(share, min(_LOWEST_SHARE, self._base)), self._base)
        self._buckets.set_share(share, now)
        self._changed = now
