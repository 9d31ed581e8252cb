"""What may be billed is not repeated in silence; a wait that the service itself timed is no reason to give up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, answer, chunk, refusal, streamed
from support.fakes import FakeClock, FakeWire

from groq_provider import RateLimits, RetryPolicy, Timeouts, TokenBucketRateLimiter, Usage
from groq_provider import errors as e

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n'


def busy(*, after="0.5", status=429):
    return refusal(status, headers={} if after is None else {"retry-after": after})


def call(bench, *, stream=False, **limits):
    options = {"timeouts": Timeouts(first_token=None, **limits)}
    return bench.stream(**options).collect() if stream else bench.generate(**options)


def fails(bench, error, **how):
    with pytest.raises(error) as caught:
        call(bench, **how)
    return caught.value


def slow():
    return e.ReadTimeoutError("nothing came in time", sent=True)


@pytest.mark.parametrize("policy", [RetryPolicy(max_retries=9), RetryPolicy.web(), RetryPolicy.batch()], ids=str)
@pytest.mark.parametrize(
    ("stream", "step"),
    [
        (False, slow),
        (False, lambda: FakeWire(200, pieces=[b'{"choices"', slow()])),
        (True, slow),
        (True, lambda: streamed(slow())),
        (True, lambda: streamed(ROLE, slow())),
    ],
    ids=["no head", "half a body", "no head of a stream", "no event", "role only"],
)
def test_slow_answers_are_sent_once(stream, step, policy):
    """Plain or streamed: the service may have made it and may bill it, so the caller decides."""
    bench = Bench(*[step() for _ in range(3)], policy=policy)
    error = fails(bench, e.ReadTimeoutError, stream=stream)
    assert len(bench.transport.sent) == len(error.attempts) == 1
    assert error.retryable  # who asks again may succeed


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_unsent_requests_are_repeated(stream):
    """A time limit that struck before the request had left bills nobody."""
    good = streamed(chunk("x", finish="stop"), b"data: [DONE]\n\n")
    bench = Bench(e.ReadTimeoutError("x", sent=False), good if stream else answer())
    assert len(call(bench, stream=stream).attempts) == 2


@pytest.mark.parametrize("status", [429, 498, 503, 529])
@pytest.mark.parametrize("after", ["0", "0.5", "7"])
def test_batch_outlasts_many_waits(status, after):
    """Ten items that meet a full limit, each sixty times: none is lost, whatever the number and the budget of retries."""
    steps = [step for _ in range(10) for step in [*[busy(status=status, after=after) for _ in range(60)], answer()]]
    bench = Bench(*steps, policy=RetryPolicy.batch())
    assert [len(call(bench).attempts) for _ in range(10)] == [61] * 10


def test_batch_keeps_its_retries():
    """For faults there are eight beside them, and a wait without a time counts as one."""
    mixed = [*[busy()] * 20, *[busy(status=500)] * 4, *[busy()] * 20, *[busy(after=None)] * 4, *[busy()] * 20]
    assert len(call(Bench(*mixed, answer(), policy=RetryPolicy.batch())).attempts) == len(mixed) + 1
    bench = Bench(*mixed, busy(status=500), policy=RetryPolicy.batch())
    assert len(fails(bench, e.ProviderUnavailableError).attempts) == len(mixed) + 1


@given(st.lists(st.floats(0, 900), min_size=1, max_size=200), st.integers(0, 4000), st.integers(0, 3))
def test_patience_has_an_end(hints, patience, retries):
    """It is a bound on time, not on tries; after it they count again."""
    policy = RetryPolicy(max_retries=retries, hint_cap=3600, patience=patience)
    bench = Bench(*[busy(after=f"{hint:.3f}") for hint in hints], *[busy()] * 5000, policy=policy)
    fails(bench, e.RateLimitedError)
    waits = bench.clock.waits
    free = len(waits) - retries
    if not retries:
        assert waits == []  # switched off, all of it
    elif patience:
        assert (
            sum(max(wait, 1.0) for wait in waits[: free - 1]) < patience <= sum(max(wait, 1.0) for wait in waits[:free])
        )
    else:
        assert free <= 0


def test_no_policy_outlasts_the_total():
    """The caller's time limit stands, and the error says when to come back."""
    bench = Bench(*[busy(after="7")] * 50, policy=RetryPolicy.batch())
    started = bench.clock.monotonic()
    error = fails(bench, e.RateLimitedError, total=60.0)
    assert bench.clock.monotonic() - started < 60
    assert error.retry_after == 7


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20_000)), max_size=20))
def test_remaining_is_never_negative(calls):
    """However far an answer went beyond what was reserved for it."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=5, tpm=10_000, itpm=6000, otpm=5000), clock=clock)
    for prompt, used in calls:
        place = limiter.try_reserve("m", prompt_tokens=prompt, max_output_tokens=100)
        if place is not None:
            place.settle(
                Usage(prompt_tokens=prompt, completion_tokens=used, total_tokens=prompt + used, source="reported")
            )
        windows = limiter.get_status()["m"].windows.values()
        assert all(0 <= window.remaining <= window.limit for window in windows)
        clock.advance(1.0)
