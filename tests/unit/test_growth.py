"""What a process remembers is bounded, however many names it meets; and nothing in flight is ever forgotten."""

from __future__ import annotations

import threading

import pytest
from support.fakes import PATIENCE, FakeClock

from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker
from groq_provider.config import RateLimits
from groq_provider.latency import LatencyTracker
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

USAGE = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)


def call(limiter, model, usage=USAGE):
    """A call that is answered with success, or without a usage one that is refused."""
    place = limiter.reserve(model, prompt_tokens=1, max_output_tokens=1)
    if usage is None:
        place.refund(keep_request=True)
    else:
        place.settle(usage)
    return place


def test_limiter_forgets_unproven_names():
    """Typos, names of other services: a hundred thousand of them leave nothing."""
    limiter = TokenBucketRateLimiter(clock=FakeClock())
    call(limiter, "real")
    for number in range(100_000 // 50):
        call(limiter, f"typo {number}", None)
        assert len(limiter._models) <= 2
    assert "real" in limiter.get_status()


def test_unproven_limits_stay_enforced():
    """A name that was never answered with success is kept as long as what it used counts, and while its gate is closed."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=10), clock=clock)
    for _ in range(10):
        call(limiter, "failing", None)
    call(limiter, "other")
    assert limiter.try_reserve("failing", prompt_tokens=1) is None
    clock.advance(61)
    call(limiter, "another")
    assert "failing" not in limiter.get_status()


def test_limiter_keeps_the_used():
    """Of too many models the least recently used go."""
    limiter = TokenBucketRateLimiter(clock=FakeClock())
    for number in range(1_000):
        call(limiter, f"model {number}")
        call(limiter, "always")
    assert len(limiter._models) <= 256
    assert {"always", "model 999", "model 900"} <= set(limiter.get_status())
    assert "model 0" not in limiter.get_status()


def test_nothing_in_flight_is_forgotten():
    """Places that are out keep their models, however many others come; they can be given back, once."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=10), clock=FakeClock())
    places = {name: limiter.reserve(name, prompt_tokens=1) for name in ("a", "b", "c")}
    for number in range(600):
        call(limiter, f"model {number}")
    assert {"a", "b", "c"} <= set(limiter.get_status())
    for name, place in places.items():
        place.feedback(RateLimitInfo(limit_requests=None))
        place.settle(USAGE)
        assert limiter.get_status()[name].in_flight == 0
        assert limiter.get_status()[name].windows["rpm"].remaining == 9


def test_a_forgotten_state_takes_nobody():
    """A thread that had found it just before goes to the one that is there instead."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=10), clock=FakeClock())
    call(limiter, "m")
    old = limiter._models["m"]
    assert old.retire(used=True)
    place = limiter.reserve("m", prompt_tokens=1)
    assert limiter._models["m"] is not old
    assert limiter.get_status()["m"].in_flight == 1
    place.keep()
    assert limiter._models["m"].retire(used=True)
    assert limiter.try_reserve("m", prompt_tokens=1) is not None


def test_threads_lose_no_place():
    """Many threads over more names than are kept: every place is in the state that counts it."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=1_000_000), clock=FakeClock(manual=True))
    start = threading.Barrier(4)
    problems = []

    def work(offset):
        try:
            start.wait(PATIENCE)
            for number in range(1_500):
                name = f"model {(number * 7 + offset) % 400}"
                place = limiter.reserve(name, prompt_tokens=1)
                assert place._limiter is limiter._models[name]
                place.settle(USAGE)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not problems
    assert len(limiter._models) <= 256 + 4
    assert all(status.in_flight == 0 for status in limiter.get_status().values())


@pytest.mark.parametrize("ok", [True, False])
def test_tracker_keeps_the_used(ok):
    """The newest of names without success, the most recently used of the others; counts of all stay whole."""
    tracker = LatencyTracker()
    for number in range(1_000):
        tracker.record(f"model {number}", total=1.0, ok=ok)
        tracker.record("always", total=1.0)
    assert len(tracker._rings) <= (256 if ok else 17)
    assert tracker.get_metrics("always").success_count == 1_000
    assert tracker.get_metrics("model 0").success_count + tracker.get_metrics("model 0").error_count == 0
    assert tracker.get_metrics("model 999").success_count == ok
    metrics = tracker.get_metrics()
    assert (metrics.success_count, metrics.error_count) == ((2_000, 0) if ok else (1_000, 1_000))
    tracker.reset()
    assert tracker.get_metrics().error_count == 0


def test_breaker_keeps_its_window():
    """However many calls there are: tenths of the window."""
    clock = FakeClock()
    breaker = CircuitBreaker(BreakerPolicy(window=10.0, failure_ratio=1.0), clock)
    for number in range(2_000):
        breaker.report(breaker.acquire(), number % 2 == 0)
        clock.advance(0.1)
    assert len(breaker._slots) <= 12
