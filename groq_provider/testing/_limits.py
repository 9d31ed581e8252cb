"""The emulated service's rate limits: one continuously refilled bucket per dimension, for each model and service tier."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

#: By dimension: its name in the text of the 429, its period in seconds, the ``type`` of the error.
DIMENSIONS: dict[str, tuple[str, int, str]] = {
    "rpm": ("requests per minute", 60, "requests"),
    "rpd": ("requests per day", 86400, "requests"),
    "tpm": ("tokens per minute", 60, "tokens"),
    "tpd": ("tokens per day", 86400, "tokens"),
    "itpm": ("input tokens per minute", 60, "tokens"),
    "otpm": ("output tokens per minute", 60, "tokens"),
}
#: Limits that the headers show where none is enforced.
_UNENFORCED = {"rpd": 14_400_000, "tpm": 900_000_000}
_EPSILON = 1e-6


def go_duration(seconds: float) -> str:
    """Format *seconds* the way Go prints a duration, to the millisecond.

    >>> [go_duration(s) for s in (0, 0.4, 7.66, 86.4, 179.56, 892, 3780)]
    ['0s', '400ms', '7.66s', '1m26.4s', '2m59.56s', '14m52s', '1h3m0s']
    """
    millis = max(round(seconds * 1000), 0)
    if millis == 0:
        return "0s"
    if millis < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text


class Bucket:
    """Credit that refills continuously; full at first. The caller must hold the lock."""

    __slots__ = ("level", "limit", "rate", "refilled_at")

    def __init__(self, limit: int, period: float, now: float) -> None:
        self.limit = limit
        self.rate = limit / period
        self.level = float(limit)
        self.refilled_at = now

    def refill(self, now: float) -> float:
        """Add the credit earned since the last refill, and return the level."""
        if now > self.refilled_at:
            self.level = min(float(self.limit), self.level + (now - self.refilled_at) * self.rate)
            self.refilled_at = now
        return self.level

    def seconds_until(self, level: float) -> float:
        """Return the seconds from the last refill until the credit reaches *level*."""
        return max(level - self.level, 0.0) / self.rate if self.rate else math.inf


@attrs.frozen(kw_only=True)
class Refusal:
    """The limit that a request exceeds; ``wait`` is ``None`` if the request can never fit."""

    dimension: str
    limit: int
    used: int
    requested: int
    wait: float | None


class ModelLimits:
    """The buckets of one model on one service tier; safe to use from many threads.

    Args:
        limits: Limit per dimension (see ``DIMENSIONS``); a missing one is not enforced.
        now: Monotonic time, in seconds.
    """

    def __init__(self, limits: Mapping[str, int], now: float) -> None:
        self._lock = threading.Lock()  # guards every bucket; held for arithmetic only
        self._enforced = [name for name in DIMENSIONS if name in limits]
        self._buckets = {
            name: Bucket(limits.get(name, _UNENFORCED.get(name, 0)), DIMENSIONS[name][1], now)
            for name in DIMENSIONS
            if name in limits or name in _UNENFORCED
        }

    @staticmethod
    def _cost(name: str, prompt: float, completion: float) -> float:
        return {"rpm": 1, "rpd": 1, "itpm": prompt, "otpm": completion}.get(name, prompt + completion)

    def cap_tokens(self, prompt: int, assumed: int) -> int:
        """Cut *assumed* completion tokens to the most that full buckets can hold beside *prompt*."""
        room = [self._buckets[name].limit - prompt for name in ("tpm", "tpd") if name in self._enforced]
        room += [self._buckets["otpm"].limit] if "otpm" in self._enforced else []
        return max(min([assumed, *room]), 0)

    def admit(self, now: float, prompt: int, completion: int) -> Refusal | None:
        """Charge every bucket; if one is short, charge none and return which."""
        with self._lock:
            for bucket in self._buckets.values():
                bucket.refill(now)
            for name in self._enforced:
                bucket = self._buckets[name]
                cost = self._cost(name, prompt, completion)
                if cost > bucket.limit:
                    return Refusal(dimension=name, limit=bucket.limit, used=0, requested=int(cost), wait=None)
                if cost > bucket.level + _EPSILON:
                    used = min(math.ceil(bucket.limit - bucket.level - _EPSILON), bucket.limit)
                    wait = bucket.seconds_until(cost)
                    return Refusal(dimension=name, limit=bucket.limit, used=used, requested=int(cost), wait=wait)
            for name, bucket in self._buckets.items():
                bucket.level -= self._cost(name, prompt, completion)
            return None

    def settle(self, now: float, prompt: int, completion: int) -> None:
        """Return unused *prompt* and *completion* tokens to the buckets; negative numbers charge more."""
        with self._lock:
            for name, bucket in self._buckets.items():
                if DIMENSIONS[name][2] == "tokens":
                    bucket.refill(now)
                    bucket.level = min(float(bucket.limit), bucket.level + self._cost(name, prompt, completion))

    def headers(self, now: float) -> list[tuple[str, str]]:
        """Return the six ``x-ratelimit-*`` headers: requests per day, tokens per minute, and the time until each is full again."""
        with self._lock:
            rows = []
            for word, name in (("requests", "rpd"), ("tokens", "tpm")):
                bucket = self._buckets[name]
                level = bucket.refill(now)
                rows.append((word, bucket.limit, max(int(level + _EPSILON), 0), bucket.seconds_until(bucket.limit)))
        return [
            *((f"x-ratelimit-limit-{word}", str(limit)) for word, limit, _, _ in rows),
            *((f"x-ratelimit-remaining-{word}", str(remaining)) for word, _, remaining, _ in rows),
            *((f"x-ratelimit-reset-{word}", go_duration(reset)) for word, _, _, reset in rows),
        ]
