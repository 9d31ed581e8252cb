"""Long runs: nothing grows."""

from __future__ import annotations

import gc
import os
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
from support.fakes import PATIENCE

from groq_provider import GroqProvider, RetryPolicy
from groq_provider.testing import Gate, Reply

pytestmark = pytest.mark.soak

MODEL = "openai/gpt-oss-20b"


@pytest.fixture
def provider(emulator):
    with GroqProvider(
        api_key=emulator.api_key, base_url=emulator.base_url, default_model=MODEL, retry=RetryPolicy(max_retries=0)
    ) as provider:
        yield provider


def resident():
    """This process's memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def settle(emulator, most):
    """Wait until no more connections than *most* are left at the emulator, and no thread of one that has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        threads = sum(thread.name == "groq-emulator-connection" for thread in threading.enumerate())
        if threads == emulator.open_connections <= most:
            return
        assert time.monotonic() < deadline, f"{emulator!r}, {threads} threads"
        time.sleep(0.001)


def measured(emulator, work, rounds, kept=1):
    """Run *work* in two equal halves after a warm-up; return what the second added: traced bytes, resident bytes."""

    def half():
        for _ in range(rounds // 2):
            work()
        emulator.reset()  # its records are not what is measured
        settle(emulator, kept)
        gc.collect()

    for _ in range(30):  # rings, pools and caches fill
        work()
    half()
    tracemalloc.start()
    try:
        half()
        traced, rss = tracemalloc.get_traced_memory()[0], resident()
        half()
        return tracemalloc.get_traced_memory()[0] - traced, resident() - rss
    finally:
        tracemalloc.stop()


@pytest.mark.full
@pytest.mark.over_http2("nginx", full=True)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_calls_leave_nothing_behind(emulator, provider, full, wire, unhurried):
    """Memory, sockets and threads stay flat over plain calls and streams."""

    def work():
        provider.generate("x")
        provider.generate_stream("x").collect()

    kept = 0 if wire.kind == "nginx" else 1  # nginx makes one for each request
    for _ in range(150):  # the latency ring is full
        work()
    settle(emulator, kept)
    gc.collect()  # what tests before this one have left
    sockets, threads = descriptors(), threading.active_count()
    traced, rss = measured(emulator, work, 2500 if full else 200, kept)
    assert traced < 100_000
    assert rss < 8 << 20
    assert descriptors() <= sockets
    assert threading.active_count() <= threads
    assert emulator.connections == 1 or wire.kind == "nginx"
    assert provider._runtime.in_flight == 0


@pytest.mark.over_http2("nginx")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_abandoned_streams_leave_nothing_behind(emulator, provider, full):
    """Half of them closed, half of them forgotten."""
    forgotten = iter(range(10**6))

    def work():
        gate = Gate()
        emulator.enqueue(Reply("word " * 30, gate=gate))
        gate.release(2)
        stream = provider.generate_stream("x")
        next(stream)
        if next(forgotten) % 2:
            stream.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del stream
            gc.collect(0)
        gate.open()
        emulator._gates.clear()

    traced, rss = measured(emulator, work, 500 if full else 50)
    assert traced < 100_000
    assert rss < 8 << 20
    provider.generate("x")
    assert provider._runtime.in_flight == 0
    assert {status.in_flight for status in provider.get_rate_limits().values()} == {0}
    settle(emulator, 1)
    assert threading.active_count() < 10
