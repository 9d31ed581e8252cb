"""Adopt the service's figures from headers and refusals into the buckets of one model.

Not thread-safe by itself: the lock of the :class:`~groq_provider.ratelimit.model.ModelLimiter` guards it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider.ratelimit.bucket import DIMENSIONS, FULL_SHARE, NEVER, REQUESTS, SECOND, TOKENS

if TYPE_CHECKING:
    from groq_provider.errors import RateLimitedError
    from groq_provider.ratelimit.bucket import Bucket, BucketSet
    from groq_provider.ratelimit.cost import Estimate
    from groq_provider.ratelimit.gate import ThrottleGate
    from groq_provider.types.response import RateLimitInfo

__all__ = ["LimitLearning"]

_LOWEST_SHARE = FULL_SHARE // 2
#: Seconds. No limit has a longer period, so no refusal may hold a model back for longer.
_LONGEST_PAUSE = 86_400.0
_LONGEST_PAUSES = {"minute": 60.0, "hour": 3600.0}
_RECOVERY_STEP, _RECOVERY_PERIOD = FULL_SHARE // 100, 60 * SECOND


class LimitLearning:
    """Applies headers and refusals to the buckets and the gate of one model.

    Args:
        buckets: The buckets to correct.
        gate: The gate that a refusal closes.
        in_flight: Estimates of the calls in flight by sequence, in that order; read only.

    Attributes:
        last_info: The newest headers.
        learned_limits: Limits adopted from the service, by name.

    .. versionadded:: 0.1.0
    """

    __slots__ = (
        "_buckets",
        "_cut_sequence",
        "_gate",
        "_in_flight",
        "_initial_share",
        "_raise_limits_at",
        "_share_changed_at",
        "_share_halved",
        "_synced_sequence",
        "last_info",
        "learned_limits",
    )

    def __init__(self, buckets: BucketSet, gate: ThrottleGate, in_flight: dict[int, Estimate]) -> None:
        self._buckets = buckets
        self._gate = gate
        self._in_flight = in_flight
        self._initial_share = buckets.share
        self._share_changed_at = 0
        self._cut_sequence = 0  # newest request in flight at the last cut: one burst of refusals must cut once
        self._share_halved = False
        self._raise_limits_at = NEVER  # when to look for learned limits that the service has not confirmed
        self._synced_sequence = 0  # the request of the headers that were applied last
        self.last_info: RateLimitInfo | None = None
        self.learned_limits: dict[str, int] = {}

    def apply_headers(self, sequence: int, info: RateLimitInfo, now: int) -> None:
        """Adopt headers: this service reports requests per day and tokens per minute.

        Headers older than the newest applied are ignored: answers of several threads may arrive out of order.
        """
        if sequence < self._synced_sequence:
            return
        self._synced_sequence = sequence
        self.last_info = info
        if self._share_halved:
            self._share_halved = False
            self._buckets.set_share(self._initial_share, now)
        no_other_call = not self._in_flight or (len(self._in_flight) == 1 and sequence in self._in_flight)
        self._apply_limit(
            "rpd", info.limit_requests, info.remaining_requests, info.reset_requests, sequence, now, no_other_call
        )
        self._apply_limit(
            "tpm", info.limit_tokens, info.remaining_tokens, info.reset_tokens, sequence, now, no_other_call
        )

    def _apply_limit(  # noqa: PLR0917 - private, once per answer and limit
        self,
        name: str,
        limit: int | None,
        remaining: int | None,
        reset: float | None,
        sequence: int,
        now: int,
        no_other_call: bool,
    ) -> None:
        """Adopt the figures for one limit; with *no_other_call* in flight they apply in full."""
        bucket = self._buckets.get(name)
        adopted = False
        if limit is not None and (bucket is None or bucket.limit != limit):
            adopted = self._learn_limit(name, limit, now) == "adopted"
            bucket = self._buckets.get(name)
            if bucket is not None and bucket.limit < limit and reset is not None:
                # If our limit is lower, only units compare with it, not the time until the service's bucket is full.
                if remaining is None:
                    remaining = limit - int(reset * SECOND) * limit // bucket.dimension.period
                reset = None
        if bucket is None:
            return
        if limit is not None:
            bucket.named_at = now
        if reset is not None:
            full_at = now + int(reset * SECOND)
        elif remaining is not None and limit is not None:
            full_at = bucket.service_full_at(limit - remaining, limit, now)
        else:
            return
        self._sync_bucket(bucket, full_at, sequence, now, idle=no_other_call or adopted)

    def apply_refusal(
        self, sequence: int, newest_sequence: int, info: RateLimitInfo | None, error: RateLimitedError, now: int
    ) -> None:
        """Close the gate, and learn the reason of the refusal.

        Args:
            sequence: The refused request.
            newest_sequence: The newest request in flight.
            info: Headers of the refusal, applied before.
            error: The refusal.
            now: Nanoseconds of the caller's clock.
        """
        name = (error.limit_name or "").lower()
        explained = False
        if name in DIMENSIONS and error.limit:
            explained = self._learn_limit(name, error.limit, now) is not None
            bucket = self._buckets.get(name)
            if bucket is not None and error.used is not None:
                self._sync_bucket(
                    bucket, bucket.service_full_at(error.used, error.limit, now), sequence, now, idle=False
                )
        of_tokens = DIMENSIONS[name].kind != REQUESTS if name in DIMENSIONS else not name
        if of_tokens and not explained and sequence > self._cut_sequence:
            # By our figures the call fitted: other clients use the same quota, or the service counts in another way.
            self._set_share(self._buckets.share * 9 // 10, now)
            self._cut_sequence = newest_sequence
        unexplained = not name and not self._headers_explain(sequence, info)
        if not name and (info is None or info.remaining_tokens is None):
            self._buckets.exhaust(now)  # no figure shows how much is left
        pause = error.retry_after
        if pause is None and info is not None:
            pause = info.retry_after
        self._gate.close(
            now,
            None if pause is None else int(min(pause, _LONGEST_PAUSES.get(error.scope or "", _LONGEST_PAUSE)) * SECOND),
            newest_sequence=newest_sequence,
            scope=error.scope,
            limit_name=error.limit_name,
            limit=error.limit,
            refused_sequence=sequence if unexplained else None,
            spacing=self._buckets.spacing(),
        )

    def _headers_explain(self, sequence: int, info: RateLimitInfo | None) -> bool:
        """Return whether the headers of a refusal show which limit the request exceeded."""
        if info is None:
            return False
        cost = self._in_flight.get(sequence)
        needed_tokens = 1 if cost is None else max(cost.cost[TOKENS], 1)
        return info.remaining_requests == 0 or (
            info.remaining_tokens is not None and info.remaining_tokens < needed_tokens
        )

    def note_success(self, sequence: int, now: int) -> None:
        """Note an answer that was no refusal: it may open the gate, and raise a share that was cut.

        The share rises by a hundredth per minute, and only while half of a limit is in use: idle minutes prove nothing.
        """
        self._gate.note_answer(sequence)
        if now >= self._raise_limits_at:
            self._raise_limits_at = self._buckets.raise_unconfirmed(now)
        if (
            self._buckets.share < self._initial_share
            and not self._share_halved
            and now - self._share_changed_at >= _RECOVERY_PERIOD
        ):
            half_used = (
                2 * bucket.remaining(now) <= bucket.capacity for bucket in self._buckets if bucket.kind >= TOKENS
            )
            if any(half_used):
                self._set_share(self._buckets.share + _RECOVERY_STEP, now)

    def halve_share(self, now: int) -> None:
        """Use half of the share until the next headers arrive."""
        self._share_halved = True
        self._buckets.set_share(max(self._initial_share // 2, 1), now)

    def _learn_limit(self, name: str, limit: int, now: int) -> str | None:
        change = self._buckets.learn_limit(name, limit, now)
        self._raise_limits_at = 0  # at the next success
        if change == "adopted":
            self.learned_limits[name] = limit
        return change

    def _sync_bucket(self, bucket: Bucket, full_at: int, sequence: int, now: int, *, idle: bool) -> None:
        """Correct a bucket, and add the calls sent after that request: the service had not counted them yet."""
        for other in reversed(self._in_flight):
            if other <= sequence:
                break
            full_at += self._in_flight[other].cost[bucket.kind] * bucket.interval
        # We use less than the whole rate, so the service's bucket soon fills up beyond ours. That difference is our margin, not credit:
        # only units that earlier figures had taken may come back.
        bucket.sync(
            full_at, now=now, idle=idle, keep_own_use=bucket.kind != REQUESTS and self._buckets.share < FULL_SHARE
        )

    def _set_share(self, share: int, now: int) -> None:
        share = min(max(share, min(_LOWEST_SHARE, self._initial_share)), self._initial_share)
        self._buckets.set_share(share, now)
        self._share_changed_at = now
