"""How many calls to have under way at once: found out, not configured. Pure: no clock, no thread, no lock.

The method is TCP's, additive increase and multiplicative decrease (Chiu and Jain, 1989), with the latency gradient of TCP Vegas: what
a call takes now, against the least it took before.
"""

from __future__ import annotations

import math
from statistics import median

__all__ = ["FEWEST", "MOST", "Controller", "comparable"]

#: Calls at once in the beginning, and at most.
FEWEST, MOST = 4, 256
#: Latencies of fewer calls than this say nothing: they differ too much from each other.
_LEAST_SAMPLES = 16
#: A median above so many times the floor means that calls wait for each other: of 1.75 calls, 0.75 are in a queue.
_TOO_SLOW = 1.75
#: Less than this is no latency to compare: clocks may be as coarse.
_FINEST = 0.02
#: How much below the estimated knee a shrinking goes, so that the queue empties and the floor is seen anew.
_BELOW = 0.8
#: The most one shrinking takes away on account of latency.
_LEAST_LEFT = 0.4
#: How far the floor follows a lower median, and a higher one. The first is no 1: the lowest of many noisy medians is too low a floor.
_DOWN, _UP = 0.2, 0.01
#: The share of calls that must have ended with every slot in use, and without waiting in the limiter, before more are allowed.
_IN_USE = 0.75
#: An answer of ordinary length, in tokens, and what the parts of a call that do not depend on length amount to.
_ORDINARY, _FIXED = 100, 50
#: Speed measured over fewer tokens than this is noise.
_LEAST_TOKENS = 8


class Controller:
    """Says how many calls may be under way, told when each begins and how it ends.

    It grows while every slot is in use and calls take about as long as they did with few of them: doubling until the first
    trouble, by the square root afterwards, by one near the number that was refused last. A refusal halves it, once for
    all the calls that were under way together; latency well above its floor takes it back to where the floor says that calls
    began to queue. It does not grow where slots stay empty or callers wait for the limiter.

    Thread safety: none of its own; whoever uses it holds a lock.

    Args:
        initial: The number to begin with.
        most: The largest number.

    Attributes:
        limit: How many may be under way.
        in_flight: How many are.
    """

    def __init__(self, *, initial: int = FEWEST, most: int = MOST) -> None:
        self.limit = min(initial, most)
        self.in_flight = 0
        self._most = most
        self._begun = 0  # calls so far; each has its number
        self._shrunk = 0  # the newest call that was under way when the limit last shrank
        self._changed = 0  # the newest call whose latency belongs to an earlier limit
        self._peak = 0  # most in flight since the limit last changed
        self._latencies: list[float] = []
        self._in_use = 0  # of these, how many ended with every slot in use
        self._floor: float | None = None
        self._doubling = True
        self._refused_at = 0  # the limit that was refused last
        self._slow_since: tuple[int, float] | None = None  # limit and latency when latency began to shrink it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.in_flight} of {self.limit} in flight>"

    def start(self) -> int:
        """Note that a call begins; return its number for :meth:`end`."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        self._begun += 1
        return self._begun

    def end(self, number: int, *, latency: float | None = None, queued: bool = False, overloaded: bool = False) -> None:
        """Note that a call ended, and change the limit if it is time to.

        Args:
            number: What :meth:`start` returned.
            latency: Seconds it took, comparable with those of other calls (see :func:`comparable`); ``math.inf`` if its answer
                did not come in time, ``None`` where nothing can be said.
            queued: Whether something on this side held it back: more calls at once would only wait there.
            overloaded: Whether the service refused it for lack of room, even if a repeat succeeded.
        """
        in_use = self.in_flight >= self.limit and not queued
        self.in_flight -= 1
        if overloaded:
            if number > self._shrunk:
                self._refused_at = min(self.limit, self._peak)
                self._shrink(0.5)
            return
        if latency is None or number <= self._changed:
            return
        self._latencies.append(latency)
        self._in_use += in_use
        if len(self._latencies) >= max(_LEAST_SAMPLES, self.limit):
            # Calls still under way say nothing: that they are late cannot be told from answers that are long.
            recent, busy = median(self._latencies), self._in_use >= _IN_USE * len(self._latencies)
            self._forget_samples()
            self._judge(recent, busy=busy)

    def _judge(self, recent: float, *, busy: bool) -> None:
        """Act on the median latency of a round."""
        recent = max(recent, _FINEST)
        known = math.isfinite(recent)
        if known and (self._floor is None or self.limit == 1):
            self._floor = recent  # what a call takes alone is the floor, whatever it was before
        floor = self._floor or _FINEST
        if recent > _TOO_SLOW * floor:
            floor = self._too_slow(recent, floor)
        else:
            self._slow_since = None
            if busy and self.limit < self._most:
                self._grow()
        if known:
            self._floor = floor + (recent - floor) * (_DOWN if recent < floor else _UP)

    def _too_slow(self, recent: float, floor: float) -> float:
        """Shrink, unless that has not helped so far; return the floor to go by."""
        since = self._slow_since
        if since is None:
            self._slow_since = (self.limit, recent)
        else:
            limit, latency = since
            helped = recent <= latency * (1 + self.limit / limit) / 2  # at least half of what fewer calls can bring
            if 4 * self.limit <= limit and not helped and math.isfinite(recent):
                # They are slow for what is asked now, or for others who use the service, and not for their number. To go on
                # shrinking would help nobody.
                self._slow_since = None
                return recent
        self._shrink(max(_LEAST_LEFT, _BELOW * floor / recent))
        return floor

    def _grow(self) -> None:
        if self._doubling:
            step = self.limit
        elif 3 * self._refused_at <= 4 * self.limit < 4 * self._refused_at:
            step = 1  # the last time this was too much; a refusal costs more than a moment's patience
        else:
            step = math.isqrt(self.limit)
        step = min(step, self._most - self.limit)
        self.limit += step
        # The first calls of the new slots open connections, which takes longer and means nothing.
        self._changed = self._begun + step
        self._peak = self.in_flight
        self._forget_samples()

    def _shrink(self, factor: float) -> None:
        """Leave *factor* of what was really in use."""
        self.limit = max(1, int(min(self.limit, self._peak) * factor))
        self._doubling = False
        self._shrunk = self._changed = self._begun
        self._peak = self.in_flight
        self._forget_samples()

    def _forget_samples(self) -> None:
        self._latencies.clear()
        self._in_use = 0


def comparable(duration: float, tokens: int | None, *, prompt: float | None, completion: float | None) -> float:
    """Return what a call would have taken, had its answer been of ordinary length: long answers are no sign of trouble.

    Where the service says what it worked, the rest of the time (network, queues) counts as it is and its speed by the token;
    otherwise the whole time is divided by the length.

    Args:
        duration: Seconds from sending to the end of the answer.
        tokens: Length of the answer; ``None``: unknown.
        prompt: Seconds the service says it took for the prompt.
        completion: Seconds the service says it took for the answer.
    """
    if tokens is None or tokens < 0:
        return duration
    prompt = prompt or 0.0
    if completion is not None and min(prompt, completion) >= 0 and prompt + completion <= duration:
        return duration - prompt - completion + _ORDINARY * completion / max(tokens, _LEAST_TOKENS)
    return duration * (_ORDINARY + _FIXED) / (tokens + _FIXED)
