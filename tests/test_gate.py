"""A 429 seen by one thread holds all threads of that model; they leave staggered, one first. Real time, real sockets."""

from __future__ import annotations

import threading
import time

import pytest

from groq_provider import GroqProvider, RateLimitedError, RetryPolicy
from groq_provider.testing import Emulator, Reply

REFUSAL = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


def test_sixteen_threads_keep_the_pause():
    """Nobody sends before the two seconds are over, the first is alone, and at most two further 429s are seen."""
    with Emulator(speed=0) as emulator:
        refused = threading.Event()
        first_refusal = []

        def during_the_pause(request):
            # The service refuses everything until its two seconds are over.
            if not first_refusal:
                first_refusal.append(request.time)
                refused.set()
                return True
            return request.time - first_refusal[0] < 2.0

        emulator.enqueue(
            Reply(status=429, body=REFUSAL, headers={"retry-after": "2"}, match=during_the_pause, times=None)
        )
        limit = RetryPolicy(max_retries=4)
        with GroqProvider(api_key="gsk_1", base_url=emulator.base_url, retry=limit) as provider:
            barrier = threading.Barrier(16)
            answers = []

            def ask(number):
                barrier.wait()
                answers.append(provider.generate(f"tag{number}x").content.startswith(f"tag{number}x"))

            threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
            for thread in threads:
                thread.start()
            assert refused.wait(5)
            for thread in threads:
                thread.join(timeout=30)
            assert answers == [True] * 16
        at = sorted(request.time for request in emulator.requests)
        statuses = [request.status for request in emulator.requests]
        start = at[0]
        burst = [when for when in at if when - start < 0.5]  # those that were on their way when the first answer came
        later = [when for when in at if when - start >= 0.5]
        assert later
        assert min(later) - start >= 2.0
        assert statuses.count(429) - len(burst) <= 2
        assert later[1] > later[0]  # one first


def test_calls_that_begin_during_the_pause_wait_for_it_too():
    """The gate holds newcomers as well, and another model is not held."""
    with (
        Emulator(speed=0) as emulator,
        GroqProvider(api_key="gsk_1", base_url=emulator.base_url, max_retries=0) as provider,
    ):
        emulator.enqueue(Reply(status=429, body=REFUSAL, headers={"retry-after": "1"}))
        with pytest.raises(RateLimitedError, match="rate limited"):
            provider.generate("one")
        started = time.monotonic()
        assert provider.generate("other model", model="openai/gpt-oss-20b").content
        other = time.monotonic() - started
        assert provider.generate("two").timing.wait > 0.5
        assert time.monotonic() - started >= 0.9
        assert other < 0.9
        assert provider.get_rate_limits()["openai/gpt-oss-120b"].blocked_for == 0
