"""The kinds of limiter that the tests of the limiter run with, in one place.

A kind is a function of the limits, a clock and an ``ExitStack`` for what has to be cleaned up; it returns a new limiter with nothing
used. A test module takes them all with ``make_limiter = limiter_kinds.make_limiter``.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support import store_kinds

from groq_provider.ratelimit.limiter import TokenBucketRateLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from groq_provider.clock import Clock
    from groq_provider.config import RateLimits

MODEL = "openai/gpt-oss-20b"


def _memory(limits: RateLimits | None, clock: Clock, cleanup: ExitStack) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(limits, clock=clock)


def _file(limits: RateLimits | None, clock: Clock, cleanup: ExitStack) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(limits, store=store_kinds.KINDS["file"](clock, cleanup), clock=clock)


def _redis(limits: RateLimits | None, clock: Clock, cleanup: ExitStack) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(limits, store=store_kinds.KINDS["redis"](clock, cleanup), clock=clock)


#: By name. Add a kind here, and every test of windows, fairness, service and invariants runs with it as well.
KINDS: dict[str, Callable[[RateLimits | None, Clock, ExitStack], TokenBucketRateLimiter]] = {"memory": _memory}

#: Those whose buckets are in a store.
SHARED_KINDS: dict[str, Callable[[RateLimits | None, Clock, ExitStack], TokenBucketRateLimiter]] = {
    "file": _file,
    "redis": _redis,
}


#: How far ahead of its start a reservation may be granted: no later caller, of whatever class, gets in before it.
_AHEAD = {"memory": 0.0}


class Maker:
    """Makes limiters of one kind, of limits and a clock.

    Attributes:
        ahead: Seconds that a place may be reserved ahead.
    """

    def __init__(self, kind: str, cleanup: ExitStack) -> None:
        self._make = KINDS[kind]
        self._cleanup = cleanup
        self.ahead = _AHEAD.get(kind, 1.0)

    def __call__(self, limits: RateLimits | None, clock: Clock) -> TokenBucketRateLimiter:
        return self._make(limits, clock, self._cleanup)


@pytest.fixture(params=KINDS)
def make_limiter(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """A function of limits and a clock that makes limiters of one kind."""
    with ExitStack() as cleanup:
        yield Maker(request.param, cleanup)
