"""Servers that limit requests in ways of their own, on a virtual clock, and crowds that work a list off on them.

Their 429 says nothing in this service's words; all that is known of the limit is an honest ``retry-after``.
"""

from __future__ import annotations

import json
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Any

from support.fakes import FakeTracker

from groq_provider import LLMRequest, RetryPolicy, Timeouts
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.errors import GroqProviderError

if TYPE_CHECKING:
    from support.simulation import Simulation

    from groq_provider.protocols import RateLimiter

WORDS = {"error": {"message": "Too many requests, please slow down.", "type": "throttled"}}


class Bucket:
    """Room for *burst* requests, refilled at *rate* a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = float(burst), -math.inf

    def admit(self, now: float) -> float:
        """Let a request in and return 0, or return the seconds until one fits."""
        self._level = min(self._level + (now - self._at) * self.rate, self.burst)
        self._at = now
        if self._level < 1 - 1e-9:
            return (1 - self._level) / self.rate
        self._level -= 1
        return 0.0


class Window:
    """So many requests in each window of the clock, which begins anew at every multiple of *period* plus *offset*."""

    def __init__(self, count: int, period: float, offset: float = 0.0) -> None:
        self.count, self.period, self.offset = count, period, offset
        self._number, self._used = -1, 0

    def admit(self, now: float) -> float:
        number, into = divmod(now - self.offset, self.period)
        if number != self._number:
            self._number, self._used = number, 0
        if self._used >= self.count:
            return self.period - into
        self._used += 1
        return 0.0


class Log:
    """So many requests in any window that ends now."""

    def __init__(self, count: int, period: float) -> None:
        self.count, self.period = count, period
        self._seen: deque[float] = deque()

    def admit(self, now: float) -> float:
        while self._seen and self._seen[0] <= now - self.period:
            self._seen.popleft()
        if len(self._seen) >= self.count:
            return self._seen[0] + self.period - now
        self._seen.append(now)
        return 0.0


class Stranger:
    """A server with such a limit, as a transport of the engine.

    Args:
        limit: What it enforces.
        clock: Time.
        takes: Bounds of the seconds an answer takes.
        whole: Whether ``retry-after`` is in whole seconds, rounded up.

    Attributes:
        admitted: Instants of the requests let in.
        refused: Of the others.
    """

    def __init__(self, limit: Any, clock: Simulation, *, takes: tuple[float, float], whole: bool) -> None:
        self._limit, self._clock, self._takes, self._whole = limit, clock, takes, whole
        self.admitted: list[float] = []
        self.refused: list[float] = []

    def send(self, method: str, path: str, *, headers: Any, body: bytes, scope: Any, query: str = "") -> _Answer:
        """Send a completion request; see ``groq_provider.protocols.Transport``."""
        clock = self._clock
        scope.request_sent()
        clock.sleep(clock.random.uniform(0.005, 0.03))
        wait = self._limit.admit(clock.monotonic())
        scope.received = True
        if wait:
            self.refused.append(clock.monotonic())
            clock.sleep(clock.random.uniform(0.005, 0.03))
            shown = math.ceil(wait) if self._whole else math.ceil(wait * 1000) / 1000
            return _Answer(429, WORDS, {"retry-after": str(shown)})
        self.admitted.append(clock.monotonic())
        clock.sleep(clock.random.uniform(*self._takes))
        choice = {"index": 0, "message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return _Answer(200, {"id": "1", "model": "m", "created": 1, "choices": [choice], "usage": usage}, {})

    def close(self) -> None:
        """Nothing to close."""


class _Answer:
    def __init__(self, status: int, body: Any, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = {"content-type": "application/json", **headers}
        self._body = json.dumps(body).encode()

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        return self._body

    def close(self) -> None:
        """Nothing to close."""


class Crowd:
    """Workers that work off a list of items, as a bulk run does, each with a call of a whole engine.

    Attributes:
        lost: Errors of the items that failed.
        took: Seconds for the list.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        simulation: Simulation,
        server: Stranger,
        *,
        items: int = 180,
        workers: int = 8,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._left = items
        self._runtime = Caller(
            transport=server,
            limiter=limiter,
            tracker=FakeTracker(),
            clock=simulation,
            policy=policy or RetryPolicy(),
            provider="openai_compatible",
            default_model="m",
            learn=False,
            rng=random.Random(1),
        )
        self.lost: list[GroqProviderError] = []
        begun = simulation.monotonic()
        for _ in range(workers):
            simulation.spawn(self._work)
        simulation.run()
        self.took = simulation.monotonic() - begun
        self.summary = (
            f"{len(self.lost)} lost, {len(server.refused)} refused of {len(server.admitted) + len(server.refused)}, "
            f"{self.took:.1f} s"
        )

    def _work(self) -> None:
        options = CallOptions(timeouts=Timeouts(first_token=None), batch=True)
        while self._left:
            self._left -= 1
            try:
                self._runtime.generate(LLMRequest(messages="Hello"), options)
            except GroqProviderError as error:
                self.lost.append(error)
