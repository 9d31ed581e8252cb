"""Finds out how many calls to have in flight at once. Pure: no clock, no thread, no lock.

The method is TCP's additive increase and multiplicative decrease (Chiu and Jain, 1989), with the latency gradient of TCP Vegas: the
latency of calls now, compared with the lowest one so far, the floor.
"""

from __future__ import annotations

import math
from statistics import median

__all__ = ["FEWEST", "MOST", "Controller", "comparable"]

#: Calls in flight at first, and at most.
FEWEST, MOST = 4, 256
#: A median of fewer latencies than this is too noisy to act on.
_LEAST_SAMPLES = 16
#: A median above the floor times this means that calls queue for each other: of 1.75 calls, 0.75 wait.
_SLOW_FACTOR = 1.75
#: Seconds. Shorter latencies are not compared: they may be as short as a tick of the clock.
_SHORTEST_LATENCY = 0.02
#: The limit shrinks to this share of the estimated knee, so that the queue empties and the floor can be measured again.
_KNEE_SHARE = 0.8
#: The limit shrinks to no less than this share in one step for latency.
_SMALLEST_FACTOR = 0.4
#: The share of the distance that the floor moves towards a lower median, and towards a higher one. The first must be below 1: the lowest
#: of many noisy medians would be too low a floor.
_FLOOR_DOWN, _FLOOR_UP = 0.2, 0.01
#: The limit grows only if this share of calls ended with all slots in use, and did not wait in the limiter.
_BUSY_SHARE = 0.75
#: Tokens of a typical answer, and the number of tokens that take as long as the parts of a call that do not depend on its length.
_TYPICAL_TOKENS, _OVERHEAD_TOKENS = 100, 50
#: A speed measured over fewer tokens than this is noise.
_LEAST_TOKENS = 8


class Controller:
    """Sets the number of calls that may be in flight; you must report when each call begins and how it ends.

    The limit grows while all slots are in use and calls take about as long as they did with few in flight: it doubles until the first
    refusal or slow round, then grows by its square root, and by one near the number that was refused last. A refusal halves it, once
    for all calls that were in flight together. Latency well above its floor shrinks it to about the number at which calls began to
    queue. It does not grow while slots stay empty or calls wait in the limiter.

    Thread safety: none; the caller must hold a lock.

    Args:
        initial: The limit at first.
        most: The largest limit.

    Attributes:
        limit: The number of calls that may be in flight.
        in_flight: The number of calls in flight.
    """

    def __init__(self, *, initial: int = FEWEST, most: int = MOST) -> None:
        self.limit = min(initial, most)
        self.in_flight = 0
        self._most = most
        self._last_number = 0  # of the newest call; calls are numbered from 1
        self._last_before_shrinking = 0  # number of the newest call that began before the limit last shrank
        self._last_of_old_limit = 0  # number of the newest call that has a latency of an earlier limit
        self._peak = 0  # most calls in flight since the limit last changed
        self._latencies: list[float] = []
        self._busy_count = 0  # of these calls, how many ended with all slots in use
        self._floor: float | None = None
        self._is_doubling = True
        self._refused_at = 0  # the limit at the last refusal
        self._slow_since: tuple[int, float] | None = None  # limit and latency when latency first shrank the limit

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.in_flight} of {self.limit} in flight>"

    def start(self) -> int:
        """Record that a call begins; return its number for :meth:`end`."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        self._last_number += 1
        return self._last_number

    def end(self, number: int, *, latency: float | None = None, queued: bool = False, overloaded: bool = False) -> None:
        """Record that a call ended, and change the limit at the end of a round.

        Args:
            number: The number from :meth:`start`.
            latency: Seconds the call took, comparable with those of other calls (see :func:`comparable`); ``math.inf`` if its answer
                did not come in time, ``None`` if unknown.
            queued: Whether it waited on this side, in the limiter or between retries: more calls at once would only wait there, too.
            overloaded: Whether the service refused it for lack of capacity, even if a retry succeeded.
        """
        is_busy = self.in_flight >= self.limit and not queued
        self.in_flight -= 1
        if overloaded:
            if number > self._last_before_shrinking:
                self._refused_at = min(self.limit, self._peak)
                self._shrink(0.5)
            return
        if latency is None or number <= self._last_of_old_limit:
            return
        self._latencies.append(latency)
        self._busy_count += is_busy
        if len(self._latencies) >= max(_LEAST_SAMPLES, self.limit):
            # Calls still in flight do not count: a late answer looks the same as a long one.
            round_latency = median(self._latencies)
            is_busy = self._busy_count >= _BUSY_SHARE * len(self._latencies)
            self._clear_samples()
            self._end_round(round_latency, is_busy=is_busy)

    def _end_round(self, latency: float, *, is_busy: bool) -> None:
        """Change the limit and the floor by the median latency of a round."""
        latency = max(latency, _SHORTEST_LATENCY)
        is_finite = math.isfinite(latency)
        if is_finite and (self._floor is None or self.limit == 1):
            self._floor = latency  # a call alone cannot queue, so its latency is the floor
        floor = self._floor or _SHORTEST_LATENCY
        if latency > _SLOW_FACTOR * floor:
            floor = self._shrink_for_latency(latency, floor)
        else:
            self._slow_since = None
            if is_busy and self.limit < self._most:
                self._grow()
        if is_finite:
            self._floor = floor + (latency - floor) * (_FLOOR_DOWN if latency < floor else _FLOOR_UP)

    def _shrink_for_latency(self, latency: float, floor: float) -> float:
        """Shrink the limit, unless shrinking has not helped so far; return the floor to use from now on."""
        if self._slow_since is None:
            self._slow_since = (self.limit, latency)
        else:
            first_limit, first_latency = self._slow_since
            # Shrinking has helped if it brought at least half of the gain that fewer calls can bring.
            has_helped = latency <= first_latency * (1 + self.limit / first_limit) / 2
            if 4 * self.limit <= first_limit and not has_helped and math.isfinite(latency):
                # The calls are slow for their content, or because of other users of the service, not for their number. So
                # shrinking further would not help: take this latency as the new floor.
                self._slow_since = None
                return latency
        self._shrink(max(_SMALLEST_FACTOR, _KNEE_SHARE * floor / latency))
        return floor

    def _grow(self) -> None:
        if self._is_doubling:
            step = self.limit
        elif 3 * self._refused_at <= 4 * self.limit < 4 * self._refused_at:
            step = 1  # near the last refusal: another one would cost more than slow growth
        else:
            step = math.isqrt(self.limit)
        step = min(step, self._most - self.limit)
        self.limit += step
        # Ignore the first call of each new slot: it opens a connection, which takes longer.
        self._last_of_old_limit = self._last_number + step
        self._peak = self.in_flight
        self._clear_samples()

    def _shrink(self, factor: float) -> None:
        """Set the limit to *factor* of the slots that were in use."""
        self.limit = max(1, int(min(self.limit, self._peak) * factor))
        self._is_doubling = False
        self._last_before_shrinking = self._last_of_old_limit = self._last_number
        self._peak = self.in_flight
        self._clear_samples()

    def _clear_samples(self) -> None:
        self._latencies.clear()
        self._busy_count = 0


def comparable(duration: float, tokens: int | None, *, prompt: float | None, completion: float | None) -> float:
    """Return the seconds that a call would have taken with an answer of typical length, since a long answer is not a slow one.

    If the service reports the time of its own work, the rest of the duration (network, queues) counts in full, and the work by its
    speed per token. Otherwise the whole duration is scaled by the length.

    Args:
        duration: Seconds from sending to the end of the answer.
        tokens: Length of the answer; ``None`` if unknown.
        prompt: Seconds that the service reports for the prompt.
        completion: Seconds that the service reports for the answer.
    """
    if tokens is None or tokens < 0:
        return duration
    prompt = prompt or 0.0
    if completion is not None and min(prompt, completion) >= 0 and prompt + completion <= duration:
        return duration - prompt - completion + _TYPICAL_TOKENS * completion / max(tokens, _LEAST_TOKENS)
    return duration * (_TYPICAL_TOKENS + _OVERHEAD_TOKENS) / (tokens + _OVERHEAD_TOKENS)
