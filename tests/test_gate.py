"""A 429 seen by one thread holds all threads of that model; they leave staggered, one first. Real time, real sockets."""

from __future__ import annotations

import itertools
import json
import threading
import time

import pytest
from fakes import PATIENCE, FakeClock
from servers import answer, serving

from groq_provider import GroqProvider, RateLimitedError, RetryPolicy, TokenBucketRateLimiter
from groq_provider.testing import Emulator, Reply

REFUSAL = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


def test_sixteen_threads_keep_the_pause():
    """Nobody sends before the two seconds are over, and at most two further 429s are seen."""
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


CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
YES = answer(
    json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": CHOICES}).encode()
)
STREAMED = answer(
    b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n",
    "Content-Type: text/event-stream",
)


class Refusing:
    """Refuses the burst and, after the pause it asks for, so many more; holds the first good answer back for a moment.

    Attributes:
        burst: When each request of the first burst came.
        later: When each came after it, and its status.
    """

    PAUSE, HOLD = 1.0, 0.4

    def __init__(self, further):
        self._left = further
        self._lock = threading.Lock()
        self.burst: list[float] = []
        self.later: list[tuple[float, int]] = []
        self.refused_at: float | None = None

    def __call__(self, sock, server):
        while (request := server.read(sock)) is not None:
            now = time.monotonic()
            with self._lock:
                if self.refused_at is None or now - self.refused_at < self.PAUSE / 2:
                    self.burst.append(now)
                    self.refused_at = self.refused_at or now
                    status, first = 429, False
                else:
                    status = 429 if self._left > 0 else 200
                    self._left -= 1
                    first = self._left == -1
                    self.later.append((now, status))
            if first:
                server.released.wait(self.HOLD)
            if status == 429:
                pause = f"Retry-After: {self.PAUSE:g}"
                sock.sendall(answer(json.dumps(REFUSAL).encode(), pause, status="429 Too Many Requests"))
            else:
                sock.sendall(STREAMED if json.loads(request.body).get("stream") else YES)


@pytest.mark.parametrize("further", [0, 2], ids=["one pause", "the probe is refused twice"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_one_leaves_first_and_the_others_wait_for_its_answer(stream, further):
    """A refused probe costs one 429 and closes the gate again; none of the others is tried on a service that is still full."""
    handler = Refusing(further)
    with serving(handler) as server:
        policy = RetryPolicy(max_retries=4)
        with GroqProvider(api_key="gsk_0123456789abcdefghij", base_url=server.url, retry=policy) as provider:
            barrier = threading.Barrier(16)
            answers = []

            def ask():
                barrier.wait(PATIENCE)
                answers.append((provider.generate_stream("x").collect() if stream else provider.generate("x")).content)

            threads = [threading.Thread(target=ask) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert answers == ["yes"] * 16
            assert provider.get_rate_limits()["openai/gpt-oss-120b"].blocked_for == 0
    times = [when for when, _ in handler.later]
    assert [status for _, status in handler.later] == [429] * further + [200] * 16
    assert times[0] - handler.refused_at >= handler.PAUSE
    for before, after in itertools.pairwise(times[: further + 1]):  # each refusal holds everybody for its whole pause
        assert after - before >= handler.PAUSE
    assert times[further + 1] - times[further] >= handler.HOLD  # one first; the others when its answer is there


def test_a_429_without_a_hint_holds_all_threads_too():
    """For a second at first."""
    with (
        Emulator(speed=0) as emulator,
        GroqProvider(api_key="gsk_1", base_url=emulator.base_url, max_retries=0) as provider,
    ):
        emulator.enqueue(Reply(status=429, body=REFUSAL))
        with pytest.raises(RateLimitedError):
            provider.generate("one")
        started = time.monotonic()
        waits = []
        threads = [threading.Thread(target=lambda: waits.append(provider.generate("x").timing.wait)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(waits) == 4
        assert min(waits) > 0.5
        assert time.monotonic() - started > 0.9


@pytest.mark.parametrize("scope", [None, "minute", "day"])
def test_a_pause_longer_than_a_call_would_wait_is_refused_at_once(scope):
    """Whatever the limit: an hour named by the service is known to all, and nobody sleeps it out who would not wait that long."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    held = limiter.reserve("m", prompt_tokens=1, max_output_tokens=1)
    held.feedback(None, RateLimitedError("slow down", retry_after=3600.0, scope=scope))
    held.refund(keep_request=True)
    with pytest.raises(RateLimitedError) as caught:
        limiter.reserve("m", prompt_tokens=1, max_output_tokens=1, long_wait=60.0)
    assert caught.value.retry_after == pytest.approx(3600)
    assert caught.value.scope == scope
    limiter.reserve("m", prompt_tokens=1, max_output_tokens=1).keep()
    assert clock.monotonic() == pytest.approx(1000 + 3600)
