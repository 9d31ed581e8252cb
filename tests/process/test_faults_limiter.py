"""Cases 81 to 85 of the fault matrix: what happens to calls when the store of the limits fails, and what a limiter makes of odd costs."""

import logging
import math
import os
import signal
import threading
import time
from multiprocessing import get_context

import pytest
from support import store_workers
from support.fakes import PATIENCE, FakeClock, MemoryStore
from support.redis_server import need_redis, running

from groq_provider import (
    ConfigurationError,
    GroqProvider,
    InvalidRequestError,
    RateLimits,
    RequestTooLargeError,
    TokenBucketRateLimiter,
)
from groq_provider.ratelimit.store.protocol import StoreUnavailableError
from groq_provider.testing import Emulator

MODEL = "openai/gpt-oss-20b"


@pytest.fixture
def redis():
    need_redis()
    pytest.importorskip("redis", reason="needs the extra redis")
    with running() as server:
        yield server


def take(limiter, output=0, **more):
    return limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=output, **more)


def at_once(limiter):
    count = 0
    while (held := limiter.try_reserve(MODEL, prompt_tokens=0, max_output_tokens=0)) is not None:
        held.keep()
        count += 1
    return count


@pytest.mark.parametrize("fault", ["stopped", "gone"])
def test_81_calls_survive_absent_store(redis, fault, caplog):
    """Calls go on while the store is away, with a local share; one log line when it goes, one when it is back."""
    settings = {"rate_limits": RateLimits(rpm=6000), "rate_limit_store": redis.url, "api_key": "gsk_0123456789abcdef"}
    with (
        Emulator(speed=0) as emulator,
        caplog.at_level(logging.INFO, "groq_provider"),
        GroqProvider(base_url=emulator.base_url, **settings) as provider,
    ):
        provider.generate("Hello", max_completion_tokens=5)
        redis.pause() if fault == "stopped" else redis.kill()
        begun = time.monotonic()
        for _ in range(5):
            assert provider.generate("Hello", max_completion_tokens=5).attempts[-1].status_code == 200
        assert time.monotonic() - begun < 10  # half a second in truth; without its limit it would wait for ever
        away = [r.getMessage() for r in caplog.records if "store of the rate limits" in r.getMessage()]
        assert len(away) == 1
        assert "is offline" in away[0]
        redis.resume() if fault == "stopped" else redis.restart()
        back = threading.Event()
        deadline = time.monotonic() + PATIENCE
        while not back.is_set() and time.monotonic() < deadline:
            provider.generate("Hello", max_completion_tokens=5)
            if any("is online again" in r.getMessage() for r in caplog.records):
                back.set()
        assert back.is_set()
        assert sum("is offline" in r.getMessage() for r in caplog.records) == 1


def test_81_wrong_password_found_early():
    """A wrong password is an error of the settings, found when the provider is made, and not shown."""
    need_redis()
    pytest.importorskip("redis", reason="needs the extra redis")
    with running(requirepass="right") as server:
        url = f"redis://:CANARY@127.0.0.1:{server.port}"
        with pytest.raises(ConfigurationError) as caught:
            GroqProvider(api_key="gsk_0123456789abcdef", rate_limit_store=url)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize("what", ["restart", "FLUSHALL", "SCRIPT FLUSH"])
def test_82_store_loss_without_burst(redis, what):
    """A store that forgets causes no second burst and no error: the limiter starts again from its knowledge."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=300), store=redis.url)
    begun = time.monotonic()
    used = at_once(limiter)
    redis.restart() if what == "restart" else redis.do(*what.split())
    used += at_once(limiter)
    take(limiter).keep()
    passed = time.monotonic() - begun
    limiter.close()
    assert used + 1 <= 300 + 5 * passed + 1


def test_83_lost_answer_not_repeated():
    """A lost answer is not asked for again: at most one cost too few is let through, and refilling heals it."""

    class Lossy(MemoryStore):
        lost = 0

        def take(self, key, ask):
            taken = super().take(key, ask)
            if self.lost:
                self.lost -= 1
                raise StoreUnavailableError("reset by peer")
            return taken

    clock = FakeClock()
    store = Lossy(clock, hosts=1)
    limiter = TokenBucketRateLimiter(RateLimits(rpm=60), store=store, clock=clock)
    for _ in range(9):
        take(limiter).keep()
    store.lost = 1
    take(limiter).keep()
    state = store.states[f":{MODEL}"]
    assert state.version == 10, "asked once"
    clock.advance(1.0)
    assert 47 <= at_once(limiter) <= 51
    clock.advance(60.0)
    assert at_once(limiter) == 60


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_84_odd_costs(store):
    """More than a limit is refused at once, nothing is free, and what is no number is an error of the caller."""
    clock = FakeClock()
    more = {"store": MemoryStore(clock)} if store else {}
    limiter = TokenBucketRateLimiter(RateLimits(tpm=1000, share=1.0), clock=clock, **more)
    with pytest.raises(RequestTooLargeError, match="1,001"):
        take(limiter, 1001)
    take(limiter, 1000).keep()
    for _ in range(5):
        assert take(limiter, 0).wait == 0
    for wrong in (-1, math.nan):
        with pytest.raises((InvalidRequestError, ValueError), match="must be integers of at least 0"):
            take(limiter, wrong)
    assert clock.waits == []


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_85_killed_holder_leaves_nothing(kind, tmp_path, request):
    """A holder killed between reserve and settle leaves nothing to clean up: its share refills, its place lapses."""
    url = f"file://{tmp_path}/limits" if kind == "file" else request.getfixturevalue("redis").url
    context = get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=store_workers.hold_for_ever, args=(url, there))
    worker.start()
    assert here.poll(60)
    assert here.recv() == "held"
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(60)
    limiter = TokenBucketRateLimiter(store_workers.LIMITS, store=url, scope="killed")
    begun = time.monotonic()
    assert limiter.try_reserve("m", prompt_tokens=0, max_output_tokens=60_000) is None
    # 60,000 a minute flow in at 1,000 a second, and a claim to the front lasts two seconds.
    limiter.reserve("m", prompt_tokens=0, max_output_tokens=3000, deadline=begun + PATIENCE).keep()
    assert time.monotonic() - begun < 15  # and what the dead one waited for would take fifty
    limiter.close()
