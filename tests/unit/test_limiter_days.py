"""Limits per day, two days long, on a virtual clock."""

import time
from itertools import pairwise

import pytest
from support import limiter_kinds
from support.limiter_kinds import MODEL
from support.simulation import DAY, MINUTE, SECOND, Admission, Simulation, WorkDay, worst_window

from groq_provider.config import RateLimits
from groq_provider.errors import RateLimitedError

make_limiter = limiter_kinds.make_limiter

FREE = {"rpm": 30, "rpd": 1000, "tpm": 8000, "tpd": 200_000}
DAYS = 2


@pytest.fixture(autouse=True)
def _is_quick(make_limiter):
    """Two days take two seconds of this process at most; with a store, which is asked once a second, more."""
    begun = time.process_time()
    yield
    assert make_limiter.ahead or time.process_time() - begun < 2 + 1


def replay(make_limiter, limits, draw, *, seed=0, callers=8):
    """Grants of two days: requests and tokens."""
    simulation = Simulation(seed)
    limiter = make_limiter(RateLimits(**limits), simulation)
    begun = simulation.nanoseconds
    until = begun + DAYS * DAY
    requests, tokens = [], []

    def work():
        while simulation.nanoseconds < until:
            cost = draw(simulation.random)
            with limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=cost):
                requests.append(Admission(simulation.nanoseconds, 1))
                tokens.append(Admission(simulation.nanoseconds, cost))

    for _ in range(callers):
        simulation.spawn(work)
    simulation.run()
    assert worst_window(requests, burst=limits["rpm"], amount=limits["rpm"], period=MINUTE) <= 0
    assert worst_window(requests, burst=limits["rpd"], amount=limits["rpd"], period=DAY) <= 0
    counted = (
        [each for each in requests if each.at <= until],
        sum(each.units for each in tokens if each.at <= until),
    )
    for name, period in (("tpm", MINUTE), ("tpd", DAY)):
        usable = limits[name] * 97 // 100
        assert worst_window(tokens, burst=usable, amount=usable, period=period) <= 0
    return begun, *counted


@pytest.mark.parametrize("seed", range(2))
def test_requests_per_day(make_limiter, seed):
    """A day's worth at the speed of the minute, then one every 86.4 s: a thousand at first and a thousand a day."""
    begun, requests, _ = replay(make_limiter, FREE, lambda random: random.randint(1, 100), seed=seed)
    assert 0.99 <= len(requests) / (1000 * (DAYS + 1)) <= 1
    # 30 at once, 30 a minute; meanwhile 22 more flow in.
    assert sum(each.at - begun <= 35 * MINUTE for each in requests) == pytest.approx(1024, abs=4)
    late = [each.at for each in requests if each.at - begun > DAY]
    assert {later - earlier for earlier, later in pairwise(late)} <= set(
        range(86_400_000_000 - 2000, 86_400_000_000 + 2000)
    )


@pytest.mark.parametrize("seed", range(2))
def test_tokens_per_day(make_limiter, seed):
    """The share of the day's tokens, a whole day's at first and then as they flow in."""
    _, _, tokens = replay(make_limiter, FREE, lambda random: random.randint(1, 2000), seed=seed)
    assert 0.99 <= tokens / (194_000 * (DAYS + 1)) <= 1


def test_whole_engine_for_two_days(make_limiter):
    """Against a service that enforces minutes and days: nothing refused, and the day's tokens are used."""
    simulation = Simulation(1)
    run = WorkDay(make_limiter(RateLimits(**FREE), simulation), simulation, FREE, minutes=DAYS * 24 * 60, workers=4)
    assert run.service.refused == [], run.summary
    assert 0.94 <= sum(each.units for each in run.service.used) / (200_000 * (DAYS + 1)) <= 0.971
    # No caller slept for a limit per day: those that would have waited for more than a minute were refused at once.
    assert {(error.scope, error.limit_name, error.sent) for error in run.failed} == {("day", "TPD", False)}
    assert all(error.retry_after > 60 for error in run.failed)
    assert max(run.took) < 4 * 60 + 10  # one after the other, each in its turn


def test_service_knows_earlier_day(make_limiter):
    """A limiter that starts anew at noon learns from the first answer how much of the day is left."""
    simulation = Simulation(2)
    limits = {"rpd": 1000, "tpm": 8000}
    limiter = make_limiter(RateLimits(**limits), simulation)
    run = WorkDay(limiter, simulation, limits, minutes=24 * 60, workers=2, used={"rpd": 990})
    # Two at the start did not know yet.
    assert run.service.admitted == pytest.approx(1010, abs=3)
    assert run.service.refused == [], run.summary


def test_day_wait_told_not_slept(make_limiter):
    """A caller that would not wait that long is refused at once, with the instant to come back at; it gets in just then."""
    simulation = Simulation(3)
    limiter = make_limiter(RateLimits(rpd=10), simulation)
    for _ in range(10):
        limiter.reserve(MODEL, prompt_tokens=0).keep()
    begun = simulation.nanoseconds
    with pytest.raises(RateLimitedError) as caught:
        limiter.reserve(MODEL, prompt_tokens=0, long_wait=60.0)
    assert simulation.nanoseconds == begun
    assert caught.value.retry_after == pytest.approx(8640)
    held = limiter.reserve(MODEL, prompt_tokens=0, long_wait=8641.0)
    assert held.wait == pytest.approx(8640)
    assert simulation.nanoseconds - begun == pytest.approx(8640 * SECOND, abs=10_000)
