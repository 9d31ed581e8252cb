"""Run functions in threads that give way at lines chosen by a seeded generator."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import pytest
from support.fakes import PATIENCE

import groq_provider

PACKAGE = Path(groq_provider.__file__).parent
FILES = {
    str(PACKAGE / name)
    for name in (
        "ratelimit/model.py",
        "ratelimit/queue.py",
        "ratelimit/gate.py",
        "ratelimit/limiter.py",
        "ratelimit/reservation.py",
        "transport/http1/pool.py",
        "transport/permits.py",
        "transport/scope.py",
        "cancel.py",
        "call/breaker.py",
        "latency.py",
        "call/retry.py",
    )
}
#: How often a thread gives way at a line, by seed.
RATES = (0.02, 0.1, 0.3, 0.6)


def run(seed, *works, files=FILES):
    """Run functions of a random generator in threads of their own, giving way by *seed*; raise what one of them raised.

    Returns:
        What they returned.
    """
    assert all(Path(file).is_file() for file in files)
    chance = random.Random(seed)
    rate = RATES[seed % len(RATES)]
    barrier = threading.Barrier(len(works))
    results: list = [None] * len(works)
    problems: list[BaseException] = []

    def tracer(rng):
        def trace(frame, event, _arg):
            if frame.f_code.co_filename not in files:
                return None
            if event == "line" and rng.random() < rate:
                # Sometimes longer: the others then get past several lines.
                time.sleep(0.0002 if rng.random() < 0.02 else 0)
            return trace

        return trace

    def work(number, seeded):
        trace = tracer(random.Random(seeded))
        barrier.wait(PATIENCE)
        sys.settrace(trace)
        try:
            results[number] = works[number](random.Random(seeded + 1))
        except BaseException as problem:
            problems.append(problem)
        finally:
            sys.settrace(None)

    threads = [threading.Thread(target=work, args=(number, chance.getrandbits(64))) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"seed {seed}: a thread is stuck"
    if problems:
        raise AssertionError(f"seed {seed}: {problems[0]!r}") from problems[0]
    return results


@pytest.fixture
def seeds(full):
    """Seeds of schedules: 500 with --full."""
    return range(500 if full else 20)
