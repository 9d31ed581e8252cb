"""Servers whose 429 names no limit of this service's: what ``retry-after`` says is enough to lose nothing and be refused rarely."""

from __future__ import annotations

import itertools
import random
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import limiter_kinds
from support.fakes import FakeClock
from support.simulation import SECOND, Simulation
from support.strangers import Bucket, Crowd, Log, Stranger, Window

from groq_provider import GroqProvider, RetryPolicy, TokenBucketRateLimiter
from groq_provider.call.retry import RetryBudget
from groq_provider.errors import OverloadedError, ProviderUnavailableError, RateLimitedError
from groq_provider.ratelimit.gate import ThrottleGate
from groq_provider.types.response import RateLimitInfo

#: Forms of "120 requests a minute", and others.
LIMITS = {
    "bucket": lambda: Bucket(2.0, 120),
    "small bucket": lambda: Bucket(2.0, 10),
    "no burst": lambda: Bucket(2.0, 1),
    "window": lambda: Window(120, 60.0, 13.7),
    "short windows": lambda: Window(20, 10.0, 3.3),
    "log": lambda: Log(120, 60.0),
    "quick": lambda: Bucket(20.0, 20),
    "slow": lambda: Bucket(0.2, 3),
}
QUICK, USUAL = (0.01, 0.05), (0.3, 1.2)


def crowd(limit, *, seed=0, whole=True, takes=USUAL, make=lambda clock: TokenBucketRateLimiter(clock=clock), **more):
    simulation = Simulation(seed)
    server = Stranger(limit, simulation, takes=takes, whole=whole)
    return Crowd(make(simulation), simulation, server, **more), server


@pytest.mark.sample(8)
@pytest.mark.parametrize("takes", [QUICK, USUAL], ids=["quick", "usual"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole-seconds", "exact"])
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_nothing_lost_and_little_refused(limit, whole, takes):
    """0 of 180 items are lost, with two retries, and at most one call in ten is refused, for 4, 8 and 16 workers."""
    for seed, workers in enumerate((4, 8, 16)):
        run, server = crowd(limit(), seed=seed, whole=whole, takes=takes, workers=workers)
        assert run.lost == [], run.summary
        calls = len(server.admitted) + len(server.refused)
        assert 10 * len(server.refused) <= calls + 10 * max(workers - 8, 0), run.summary


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_many_workers_lose_nothing_either(limit):
    """What 64 have on the way when the first refusal comes is refused as well, once; from there it is as with few."""
    run, server = crowd(limit(), takes=QUICK, workers=64)
    assert run.lost == [], run.summary
    assert len(server.refused) <= 64 + 18, run.summary


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 30.0), st.integers(1, 60), st.booleans(), st.integers(0, 9))
def test_the_pace_follows_from_hints(rate, burst, whole, seed):
    """Whatever a server's rate is: nothing is lost, at most one call in ten is refused, and the rate is used well."""
    run, server = crowd(Bucket(rate, burst), seed=seed, whole=whole, takes=QUICK, items=300)
    assert run.lost == [], run.summary
    assert 10 * len(server.refused) <= len(server.admitted) + len(server.refused), run.summary
    assert run.took <= 1.5 * max(300 - burst, 0) / rate + 30, run.summary


@pytest.mark.parametrize("kind", ["file"])
def test_limits_in_stores_learn_too(kind):
    """The gate is each process's own, whichever holds the limits."""
    with ExitStack() as cleanup:
        run, server = crowd(Bucket(2.0, 120), make=lambda clock: limiter_kinds.SHARED_KINDS[kind](None, clock, cleanup))
    assert run.lost == [], run.summary
    assert 10 * len(server.refused) <= len(server.admitted) + len(server.refused), run.summary


# --- the budget --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RateLimitedError, OverloadedError])
def test_timed_retries_are_free(kind):
    """What the server has timed takes nothing from the budget; what it has not does."""
    assert RetryBudget.cost(kind("x", retry_after=0.0, sent=True)) == 0
    assert RetryBudget.cost(kind("x", sent=True)) == 5
    assert RetryBudget.cost(ProviderUnavailableError("x", retry_after=1.0, sent=True)) == 14


def test_empty_budget_allows_timed_retry():
    """However much else has failed before."""
    budget = RetryBudget(FakeClock())
    while budget.spend(14.0):
        pass
    assert budget.spend(RetryBudget.cost(RateLimitedError("x", retry_after=1.0, sent=True)))


# --- the gate ----------------------------------------------------------------------------------------------------------------


class Line:
    """Calls that leave a gate as soon as it lets them, each answered at once; in seconds."""

    def __init__(self) -> None:
        self.gate, self.now, self.sequence = ThrottleGate(), 0, 0

    def leave(self) -> float:
        """Let one go; return how long it waited."""
        wait = max(self.gate.opens_at - self.now, 0)
        self.now += wait
        self.gate.note_sent(self.now, SECOND)
        self.sequence += 1
        return wait / SECOND

    def refused(self, pause: float | None, *, explained: bool = False) -> None:
        self.gate.close(
            self.now,
            None if pause is None else int(pause * SECOND),
            newest_sequence=self.sequence,
            scope=None,
            limit_name=None,
            limit=None,
            refused_sequence=None if explained else self.sequence,
        )

    def answered(self) -> None:
        self.gate.note_answer(self.sequence)


def test_one_answer_opens_for_one():
    """After a refusal that explains nothing the others leave one by one, and sooner with each answer."""
    line = Line()
    line.leave()
    line.refused(3.0)
    waits = []
    for _ in range(20):
        waits.append(line.leave())
        line.answered()
    assert waits[:2] == [3.0, 1.0]
    assert all(later <= sooner for sooner, later in itertools.pairwise(waits[1:]))
    assert 0 < waits[-1] < 0.2


def test_explained_refusal_opens_for_all():
    """Its limit is known, and paces by itself."""
    line = Line()
    line.leave()
    line.refused(3.0, explained=True)
    assert line.leave() == 3.0
    line.answered()
    assert not line.gate.active
    assert [line.leave() for _ in range(3)] == [0, 0, 0]


@given(st.floats(0.05, 20.0), st.integers(2, 50))
def test_pace_follows_admitted_calls(interval, calls):
    """From the instant that one refusal names to that of the next: so many calls, so much time."""
    line = Line()
    line.leave()
    line.refused(1.0)
    named = line.now + SECOND
    for _ in range(calls):
        line.leave()
        line.answered()
    line.leave()
    elapsed = line.now - named
    pause = max(calls * interval - elapsed / SECOND, 0.0)
    line.refused(pause)
    line.leave()
    line.answered()
    measured = (elapsed / SECOND + pause) / calls
    assert line.leave() == pytest.approx(1.02 * measured, rel=0.35)
    assert line.leave() >= measured * 0.99


def test_an_unused_pace_is_forgotten():
    """After a minute in which nobody waited for it all may go at once again."""
    line = Line()
    line.leave()
    line.refused(1.0)
    line.leave()
    line.answered()
    line.now += 100 * SECOND
    assert [line.leave() for _ in range(3)] == [0, 0, 0]
    assert not line.gate.active


def test_no_refusals_stop_a_model():
    """After any refusals and answers the next call leaves within a minute of the pause that the server asked for."""
    draw = random.Random(1)
    line = Line()
    for _ in range(2000):
        line.leave()
        if draw.random() < 0.6:
            line.refused(draw.choice([None, 0.0, 0.01, 1.0, 30.0]), explained=draw.random() < 0.2)
        else:
            line.answered()
        assert line.gate.opens_at - line.now <= 60 * SECOND


def test_headers_explain_need_no_pace():
    """A refusal whose headers show that nothing is left is one for the buckets; headers that show room explain nothing."""
    for left, paced in ((0, False), (5000, True)):
        clock = FakeClock()
        limiter = TokenBucketRateLimiter(clock=clock)
        info = RateLimitInfo(limit_tokens=6000, remaining_tokens=left, reset_tokens=1.0)
        held = limiter.reserve("m", prompt_tokens=10, max_output_tokens=10)
        held.feedback(info, RateLimitedError("slow down", retry_after=1.0))
        held.refund(keep_request=True)
        waits = []
        for _ in range(3):
            held = limiter.reserve("m", prompt_tokens=1, max_output_tokens=1)
            waits.append(held.wait)
            held.feedback(None)
        assert waits == [1.0, 1.0 if paced else 0.0, pytest.approx(0.8) if paced else 0.0]
        assert limiter.get_status()["m"].blocked_for == 0


def test_batch_policies_wait_too():
    """Which count none of the retries that the server has timed."""
    policy = RetryPolicy(max_retries=1, patience=600.0)
    run, server = crowd(Bucket(2.0, 10), workers=16, policy=policy)
    assert (run.lost, len(server.admitted)) == ([], 180)


def test_provider_another_server_this_limiter():
    """What is shown here holds for ``type="openai_compatible"``."""
    with GroqProvider(type="openai_compatible", base_url="http://127.0.0.1:9", default_model="m") as provider:
        assert isinstance(provider._limiter, TokenBucketRateLimiter)
        assert provider._runtime.learn is False
