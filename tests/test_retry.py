"""The retry decision, as a table, and the budget."""

from __future__ import annotations

import random
import threading

import pytest
from fakes import FakeClock

from groq_provider import RetryPolicy
from groq_provider import errors as e
from groq_provider.retry import RetryBudget, retry_delay, throttling


def decide(error, *, retries=0, policy=None, stream=False, seed=1):
    return retry_delay(error, retries=retries, policy=policy or RetryPolicy(), rng=random.Random(seed), stream=stream)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(e.APIConnectionError("x", sent=False), True, id="refused"),
        pytest.param(e.APIConnectionError("x", sent=True), True, id="reset after the request"),
        pytest.param(e.APIConnectionError("x", sent=None), True, id="reset while sending"),
        pytest.param(e.ConnectTimeoutError("x", sent=False), True, id="connect timeout"),
        pytest.param(e.PoolTimeoutError("x", sent=False), True, id="pool timeout"),
        pytest.param(e.ReadTimeoutError("x", sent=True), False, id="slow answer: may be billed"),
        pytest.param(e.ReadTimeoutError("x", sent=None), False, id="slow, unknown whether sent"),
        pytest.param(e.ReadTimeoutError("x", sent=False), True, id="timeout before sending"),
        pytest.param(e.TLSError("x", sent=False), False, id="TLS"),
        pytest.param(e.ProxyError("x", sent=False), True, id="proxy refuses"),
        pytest.param(e.ProxyError("x", sent=False, retryable=False), False, id="proxy 407"),
        pytest.param(e.RedirectRefusedError("x", sent=True), False, id="redirect"),
        pytest.param(e.ProtocolError("x", sent=True), True, id="not HTTP"),
        pytest.param(e.ResponseDecodeError("x"), True, id="not JSON"),
        pytest.param(e.IncompleteResponseError("x"), True, id="cut body"),
        pytest.param(e.ResponseTooLargeError("x"), False, id="too large"),
        pytest.param(e.StreamInterruptedError("x"), True, id="stream ended early"),
        pytest.param(e.InvalidRequestError("x", status_code=400), False, id="400"),
        pytest.param(e.ToolUseFailedError("x", status_code=400), False, id="tool_use_failed"),
        pytest.param(e.ContextTooLongError("x", status_code=400), False, id="context too long"),
        pytest.param(e.AuthenticationError("x", status_code=401), False, id="401"),
        pytest.param(e.PermissionDeniedError("x", status_code=403), False, id="403"),
        pytest.param(e.ModelNotFoundError("x", status_code=404), False, id="404"),
        pytest.param(e.APIStatusError("x", status_code=408, retryable=True), True, id="408"),
        pytest.param(e.RequestTooLargeError("x", status_code=413), False, id="413"),
        pytest.param(e.RateLimitedError("x", status_code=429), True, id="429"),
        pytest.param(e.RateLimitedError("x", status_code=429, scope="day"), False, id="429 of the day, no hint"),
        pytest.param(e.RateLimitedError("x", status_code=429, scope="hour"), False, id="429 of the hour, no hint"),
        pytest.param(
            e.RateLimitedError("x", status_code=429, scope="day", retry_after=7200.0), False, id="429 of the day"
        ),
        pytest.param(e.RateLimitedError("x", status_code=429, retryable=False), False, id="x-should-retry: false"),
        pytest.param(e.InvalidRequestError("x", status_code=400, retryable=True), True, id="x-should-retry: true"),
        pytest.param(e.OverloadedError("x", status_code=498), True, id="498"),
        pytest.param(e.ProviderUnavailableError("x", status_code=500), True, id="500"),
        pytest.param(e.OverloadedError("x", status_code=503), True, id="503"),
        pytest.param(e.OverloadedError("x", status_code=529), True, id="529"),
        pytest.param(e.RequestCancelledError("x"), False, id="cancelled"),
        pytest.param(e.ProviderClosedError("x"), False, id="closed"),
        pytest.param(e.DeadlineExceededError("x"), False, id="deadline"),
        pytest.param(e.RateLimitTimeoutError("x"), False, id="limiter timeout, though retryable"),
        pytest.param(e.ConfigurationError("x"), False, id="configuration"),
    ],
)
def test_the_class_of_an_error_decides_whether_it_is_tried_again(error, again):
    """The table of faults.md 4.2."""
    assert (decide(error) is not None) is again


@pytest.mark.parametrize("retries", [0, 1])
def test_a_stream_that_has_given_nothing_may_be_repeated_after_a_slow_answer(retries):
    """A stream shows within the first-token limit whether it lives; a plain answer does not."""
    slow = e.ReadTimeoutError("x", sent=True)
    assert decide(slow, retries=retries, stream=True) is not None
    assert decide(slow, retries=retries, stream=False) is None


@pytest.mark.parametrize(
    "error", [e.ProtocolError("x"), e.ResponseDecodeError("x")], ids=lambda error: type(error).__name__
)
def test_a_broken_peer_is_tried_once_more_only(error):
    """Repeating what is broken by construction helps nobody."""
    assert decide(error, retries=0) is not None
    assert decide(error, retries=1) is None


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [(RetryPolicy(max_retries=0), 0), (RetryPolicy(), 2), (RetryPolicy.web(), 1), (RetryPolicy.batch(), 8)],
    ids=["none", "default", "web", "batch"],
)
def test_a_policy_bounds_the_number_of_retries(policy, allowed):
    """Further tries after the first."""
    error = e.ProviderUnavailableError("x", status_code=500)
    given = [retries for retries in range(20) if decide(error, retries=retries, policy=policy) is not None]
    assert given == list(range(allowed))


@pytest.mark.parametrize("hint", [0.0, 0.01, 0.5, 2.0, 30.0, 60.0])
@pytest.mark.parametrize("error", [e.RateLimitedError, e.OverloadedError, e.ProviderUnavailableError])
def test_a_hint_is_never_undercut_and_little_exceeded(error, hint):
    """At least the hint; at most 5 % or 0.1 s more."""
    for seed in range(200):
        delay = decide(error("x", retry_after=hint), seed=seed)
        assert hint <= delay <= hint + max(0.1, 0.05 * hint)


def test_hints_are_spread():
    """Many callers told the same do not come back at the same instant."""
    assert len({decide(e.RateLimitedError("x", retry_after=2.0), seed=seed) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    ("policy", "hint", "again"),
    [
        (RetryPolicy(), 60.0, True),
        (RetryPolicy(), 60.001, False),
        (RetryPolicy(hint_cap=0.0), 0.001, False),
        (RetryPolicy.web(), 1.5, False),
        (RetryPolicy.batch(), 3600.0, True),
        (RetryPolicy.batch(), 3601.0, False),
    ],
    ids=["at the cap", "beyond it", "no cap", "web", "batch", "beyond batch"],
)
def test_a_hint_beyond_the_cap_ends_the_call(policy, hint, again):
    """Nobody sleeps for hours unasked; the hint is on the error."""
    assert (decide(e.RateLimitedError("x", retry_after=hint), policy=policy) is not None) is again


@pytest.mark.parametrize(
    ("error", "retries", "bound"),
    [
        (e.ProviderUnavailableError("x"), 0, 0.25),
        (e.ProviderUnavailableError("x"), 1, 0.5),
        (e.RateLimitedError("x"), 0, 1.0),
        (e.OverloadedError("x"), 1, 2.0),
        (e.OverloadedError("x"), 5, 8.0),
        (e.OverloadedError("x"), 90, 8.0),
    ],
    ids=["fault", "fault again", "throttled", "overloaded again", "cut to the maximum", "no overflow"],
)
def test_without_a_hint_the_delay_is_full_jitter(error, retries, bound):
    """From zero to a doubling bound."""
    policy = RetryPolicy(max_retries=100)
    delays = [decide(error, retries=retries, policy=policy, seed=seed) for seed in range(500)]
    assert all(0 <= delay <= bound for delay in delays)
    assert min(delays) < 0.1 * bound
    assert max(delays) > 0.9 * bound


def test_throttling_is_told_from_failing():
    """By class."""
    assert throttling(e.RateLimitedError("x"))
    assert throttling(e.OverloadedError("x"))
    assert not throttling(e.ProviderUnavailableError("x"))


# --- the budget --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (e.APIConnectionError("x", sent=False), 0.0),
        (e.APIConnectionError("x", sent=True), 14.0),
        (e.APIConnectionError("x"), 14.0),
        (e.RateLimitedError("x", sent=True), 5.0),
        (e.OverloadedError("x", sent=True), 5.0),
        (e.ProviderUnavailableError("x", sent=True), 14.0),
    ],
    ids=["not sent", "sent", "unknown", "429", "overloaded", "5xx"],
)
def test_what_a_retry_costs(error, cost):
    """Nothing if nothing was sent, little after throttling."""
    assert RetryBudget.cost(error) == cost


def test_a_total_outage_gets_seven_retries_and_then_one_in_fourteen_seconds():
    """For all threads together."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert [budget.spend(14.0) for _ in range(9)] == [True] * 7 + [False] * 2
    granted = 0
    for _ in range(1400):
        clock.advance(1)
        granted += budget.spend(14.0)
    assert granted == 100


def test_a_call_that_was_never_sent_is_free_of_the_budget():
    """However empty it is."""
    budget = RetryBudget(FakeClock())
    while budget.spend(14.0):
        pass
    assert budget.spend(0.0)


@pytest.mark.parametrize(("last", "given"), [(0.0, 1), (5.0, 5), (14.0, 14)], ids=["first try", "throttled", "failed"])
def test_a_success_gives_back_what_its_last_retry_cost(last, given):
    """One unit for a first try."""
    budget = RetryBudget(FakeClock())
    assert budget.spend(100.0)
    budget.succeeded(last)
    assert not budget.spend(given + 0.5)
    assert budget.spend(given)


def test_the_budget_never_holds_more_than_a_hundred():
    """Neither by time nor by successes."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    clock.advance(10_000)
    for _ in range(50):
        budget.succeeded(14.0)
    assert budget.spend(100.0)
    assert not budget.spend(0.1)


def test_many_threads_spend_no_more_than_there_is():
    """8 threads, 100 units of one."""
    budget = RetryBudget(FakeClock())
    taken: list[bool] = []
    start = threading.Barrier(8)

    def spend():
        start.wait()
        taken.extend(budget.spend(1.0) for _ in range(50))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100
