"""Bulk items and times of several providers as one."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from support.bench import Bench, answer, chunk, refusal, streamed
from support.fakes import FakeClock, FakeLimiter

from groq_provider import GroqProvider, LLMRequest, LLMResponse, ProviderHealth, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call.runtime import CallOptions
from groq_provider.call.stream import ResponseStream
from groq_provider.fallback.fallback_provider import FallbackProvider
from groq_provider.types.response import Attempt

NO_RETRY = RetryPolicy(max_retries=0)
AT = datetime(2026, 11, 1, tzinfo=timezone.utc)


class Plain:
    """A provider of another package, over an engine of fakes; it has no classes in a limiter."""

    def __init__(self, clock, *script, limiter=(), name="own"):
        self.bench = Bench(*script, policy=NO_RETRY)
        self.bench.clock = self.bench.runtime.clock = self.bench.transport.clock = clock
        self.bench.limiter.clock, self.bench.limiter.script = clock, list(limiter)
        self.name = name

    def _options(self, timeout, cancel):
        return CallOptions(timeouts=timeout or Timeouts(first_token=None), cancel=cancel)

    def generate(self, prompt, *, timeout=None, cancel=None, **fields):
        return self.bench.runtime.generate(LLMRequest.of(prompt, **fields), self._options(timeout, cancel))

    def generate_stream(self, prompt, *, timeout=None, cancel=None, **fields):
        request = LLMRequest.of(prompt, **fields)
        return ResponseStream(*self.bench.runtime.open_stream(request, self._options(timeout, cancel)))

    def get_type(self):
        return "groq"

    def get_name(self):
        return self.name

    def get_models(self):
        return ()

    def get_capabilities(self):
        return ()

    def is_available(self):
        return True

    def get_health(self):
        return ProviderHealth()

    def close(self):
        pass


def limited(clock):
    """A provider whose limiter records its requests, and refuses them all."""
    limiter = FakeLimiter(clock, *[e.RateLimitTimeoutError("no place", sent=False) for _ in range(9)])
    return GroqProvider(api_key="gsk_1", rate_limiter=limiter, retry=NO_RETRY), limiter


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_items_are_of_class_batch(nested):
    """Items are of class ``batch`` in each member's limiter, nested ones included; a single call is not."""
    clock = FakeClock()
    (first, of_first), (second, of_second) = limited(clock), limited(clock)
    both = FallbackProvider([first, second])
    with FallbackProvider([both]) if nested else both as provider:
        results = list(provider.generate_many(["a", "b"], max_workers=1))
        assert {type(result.error) for result in results} == {e.RateLimitTimeoutError}
        with pytest.raises(e.RateLimitTimeoutError):
            provider.generate("c")
    for limiter in (of_first, of_second):
        assert [asked["batch"] for asked in limiter.asked] == [True, True, False]


def test_own_provider_takes_items():
    """A member without classes is called by ``generate()``."""
    with FallbackProvider([Plain(FakeClock(), answer("A"), answer("B"))]) as provider:
        results = provider.generate_many(["a", "b"], max_workers=1)
        assert [result.response.content for result in results] == ["A", "B"]


#: The seconds that the first member spends before the second is asked, which takes half a second; and the part of them that is waiting.
BEFORE = {
    "refused": ([refusal(503)], [], 0.5, 0.0),
    "after-a-wait": ([refusal(503)], [2.0], 2.5, 2.0),
    "no-place": ([], [lambda _asked: (_ for _ in ()).throw(e.RateLimitTimeoutError("no", sent=False))], 0.0, 0.0),
    "broken": ([e.APIConnectionError("no", sent=False)], [], 0.5, 0.0),
}


@pytest.mark.parametrize("how", ["generate", "generate_many", "generate_stream"])
@pytest.mark.parametrize("name", BEFORE)
def test_timing_covers_failed_members(name, how):
    """The time of an answer begins with the call, not with the member that gave it."""
    script, limiter, before, waited = BEFORE[name]
    clock = FakeClock()
    first = Plain(clock, *script, limiter=limiter, name="first")
    answers = streamed(chunk("a", finish="stop")) if how == "generate_stream" else answer("a")
    second = Plain(clock, answers, limiter=[1.0], name="second")
    with FallbackProvider([first, second], clock=clock) as provider:
        if how == "generate_stream":
            response = provider.generate_stream("x").collect()
        elif how == "generate_many":
            (result,) = provider.generate_many(["x"])
            response = result.response
        else:
            response = provider.generate("x")
    assert response.timing.total == pytest.approx(before + 1.5)
    assert response.timing.wait == pytest.approx(waited + 1.0)
    assert response.provider_metadata["total_latency_ms"] == round(1000 * (before + 1.5))
    assert response.timing.overall_tokens_per_second == pytest.approx(
        response.usage.completion_tokens / response.timing.total
    )


def test_slow_limiter_before_counts():
    """A member whose limiter let the call wait in vain has no attempt, and its time counts as wait."""
    clock = FakeClock()

    def wait_in_vain(_asked):
        clock.advance(3.0)
        raise e.RateLimitTimeoutError("no", sent=False)

    first, second = Plain(clock, limiter=[wait_in_vain]), Plain(clock, answer("a"))
    with FallbackProvider([first, second], clock=clock) as provider:
        timing = provider.generate("x").timing
    assert (timing.total, timing.wait) == (pytest.approx(3.5), pytest.approx(3.0))


def test_first_members_timing_stays():
    """Nothing is added if the first member answers, or to an answer without times."""
    clock = FakeClock()
    with FallbackProvider([Plain(clock, answer("a"))], clock=clock) as provider:
        assert provider.generate("x").timing.total == 0.5
    own = Plain(clock)
    own.generate = lambda *_args, **_more: LLMResponse(content="a", attempts=(Attempt(number=1, started_at=AT),))
    with FallbackProvider([Plain(clock, refusal(503)), own], clock=clock) as provider:
        response = provider.generate("x")
    assert (response.timing.total, response.provider_metadata) == (0.5, {})
    assert [attempt.number for attempt in response.attempts] == [1, 2]
