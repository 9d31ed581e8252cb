"""A 429 seen by one thread holds all threads of that model; they leave staggered, one first. Real sockets; time passes when told."""

from __future__ import annotations

import json
import threading
import time

import pytest
from support.fakes import PATIENCE, FakeClock
from support.servers import answer, serving

from groq_provider import GroqProvider, RateLimitedError, RetryPolicy, TokenBucketRateLimiter
from groq_provider.testing import Emulator, Reply

REFUSAL = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


class Crowd:
    """Threads that each make a call at once, on a clock that stands still unless it is told to move."""

    def __init__(self, clock, count, call):
        self.clock = clock
        self.results = []
        self._threads = [threading.Thread(target=self._work, args=(call, number)) for number in range(count)]

    def _work(self, call, number):
        try:
            self.results.append(call(number))
        except BaseException as error:
            self.results.append(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, error, trace):
        """Let time pass until all are through."""
        end = time.monotonic() + PATIENCE
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            self.clock.advance(0.05)
            time.sleep(0.001)
        for thread in self._threads:
            thread.join(PATIENCE)


def test_sixteen_threads_keep_the_pause():
    """No caller sends before the two seconds are over, and no further 429 is seen."""
    clock = FakeClock(manual=True)
    first_refusal = []

    def during_the_pause(_request):
        # The service refuses everything until its two seconds are over.
        first_refusal.append(clock.monotonic())
        return clock.monotonic() - first_refusal[0] < 2.0

    with Emulator(speed=0) as emulator:
        emulator.enqueue(
            Reply(status=429, body=REFUSAL, headers={"retry-after": "2"}, match=during_the_pause, times=None)
        )
        limit = RetryPolicy(max_retries=4)
        with GroqProvider(api_key="gsk_1", base_url=emulator.base_url, retry=limit, clock=clock) as provider:

            def ask(number):
                return provider.generate(f"tag{number}x").content.startswith(f"tag{number}x")

            with Crowd(clock, 16, ask) as crowd:
                clock.until_parked(16)
                burst = len(emulator.requests)  # those that were on their way when the first answer came
                assert 1 <= burst <= 4
                clock.advance(1.99)
                clock.until_parked(16)
                assert len(emulator.requests) == burst
            assert crowd.results == [True] * 16
        assert [request.status for request in emulator.requests] == [429] * burst + [200] * 16


def test_newcomers_wait_during_pause():
    """Calls that begin during the pause wait for it too; another model is not held."""
    clock = FakeClock()
    with (
        Emulator(speed=0) as emulator,
        GroqProvider(api_key="gsk_1", base_url=emulator.base_url, max_retries=0, clock=clock) as provider,
    ):
        emulator.enqueue(Reply(status=429, body=REFUSAL, headers={"retry-after": "1"}))
        with pytest.raises(RateLimitedError, match="rate limited"):
            provider.generate("one")
        started = clock.monotonic()
        assert provider.generate("other model", model="openai/gpt-oss-20b").content
        assert clock.monotonic() == started
        assert provider.generate("two").timing.wait == pytest.approx(1)
        assert clock.monotonic() - started == pytest.approx(1)
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
    """Refuses the burst, when all of it is there, and after the pause so many more; holds the first good answer back until told.

    Attributes:
        statuses: What each request was answered with, in the order in which they came.
        go_on: Lets the first good answer out.
    """

    BURST, PAUSE = 4, 1.0

    def __init__(self, further):
        self._refused = self.BURST + further
        self._together = threading.Barrier(self.BURST, timeout=PATIENCE)
        self._lock = threading.Lock()
        self.statuses: list[int] = []
        self.go_on = threading.Event()

    def __call__(self, sock, server):
        while (request := server.read(sock)) is not None:
            with self._lock:
                number = len(self.statuses)
                self.statuses.append(429 if number < self._refused else 200)
            if number < self.BURST:
                self._together.wait()
            if number == self._refused:
                assert self.go_on.wait(PATIENCE)
            if number < self._refused:
                pause = f"Retry-After: {self.PAUSE:g}"
                sock.sendall(answer(json.dumps(REFUSAL).encode(), pause, status="429 Too Many Requests"))
            else:
                sock.sendall(STREAMED if json.loads(request.body).get("stream") else YES)

    def until(self, count):
        """Return when so many requests have come."""
        end = time.monotonic() + PATIENCE
        while len(self.statuses) < count:
            assert time.monotonic() < end
            time.sleep(0.001)


@pytest.mark.parametrize("further", [0, 2], ids=["one pause", "the probe is refused twice"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_one_probe_leaves_first(stream, further):
    """One call leaves first and the others wait for its answer: a refused probe costs one 429, and no more."""
    handler, clock = Refusing(further), FakeClock(manual=True)
    with serving(handler) as server:
        policy = RetryPolicy(max_retries=4)
        with GroqProvider(
            api_key="gsk_0123456789abcdefghij", base_url=server.url, retry=policy, clock=clock
        ) as provider:

            def ask(_number):
                return (provider.generate_stream("x").collect() if stream else provider.generate("x")).content

            with Crowd(clock, 16, ask) as crowd:
                for probe in range(further + 1):
                    clock.until_parked(16)
                    clock.advance(handler.PAUSE - 0.01)
                    clock.until_parked(16)
                    assert (
                        len(handler.statuses) == handler.BURST + probe
                    )  # each refusal holds all callers back for its whole pause
                    clock.advance(0.02)
                    handler.until(handler.BURST + probe + 1)
                clock.until_parked(15)
                assert len(handler.statuses) == handler.BURST + further + 1  # one first
                handler.go_on.set()  # the others when its answer is there
            assert crowd.results == ["yes"] * 16
            assert provider.get_rate_limits()["openai/gpt-oss-120b"].blocked_for == 0
    assert handler.statuses == [429] * (handler.BURST + further) + [200] * 16


def test_unhinted_429_holds_all_threads():
    """A 429 without a hint holds all threads too, for a second at first."""
    clock = FakeClock(manual=True)
    with (
        Emulator(speed=0) as emulator,
        GroqProvider(api_key="gsk_1", base_url=emulator.base_url, max_retries=0, clock=clock) as provider,
    ):
        emulator.enqueue(Reply(status=429, body=REFUSAL))
        with pytest.raises(RateLimitedError):
            provider.generate("one")
        with Crowd(clock, 4, lambda _: provider.generate("x").timing.wait) as crowd:
            clock.until_parked(4)
            clock.advance(0.99)
            clock.until_parked(4)
            assert crowd.results == []
        assert len(crowd.results) == 4
        assert min(crowd.results) >= 1


def test_pause_ends_with_its_window():
    """A limit per minute has room again within one, whatever the service says."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    held = limiter.reserve("m", prompt_tokens=1, max_output_tokens=1)
    held.feedback(None, RateLimitedError("slow down", retry_after=3600.0, scope="minute"))
    held.refund(keep_request=True)
    limiter.reserve("m", prompt_tokens=1, max_output_tokens=1).keep()
    assert clock.monotonic() == pytest.approx(1000 + 60)


@pytest.mark.parametrize("scope", [None, "hour", "day"])
def test_too_long_pause_is_refused(scope):
    """A pause longer than a call would wait is refused at once: an hour is known to all."""
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
