"""Plain answers: cost, rate, new connections, sizes."""

from __future__ import annotations

import threading
import time
from typing import Any


def plain(client: Any, *, requests: int) -> dict[str, float]:
    """Measure CPU and wall seconds per request, with one thread on a kept connection."""
    return _timed(client.answer, requests)


def _timed(action: Any, times: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        action()
    return {"cpu": (time.process_time() - cpu) / times, "wall": (time.perf_counter() - wall) / times}


def new_connections(client: Any, *, requests: int) -> dict[str, float]:
    """Measure CPU and wall seconds per call on a new connection; the server closes after each answer."""
    client.answer("bench/close-0")  # the server closes this connection, too
    return _timed(lambda: client.answer("bench/close-0"), requests)


def answer_size(client: Any, *, size: int, repeat: int) -> dict[str, float]:
    """Measure CPU seconds per answer of one size."""
    model = f"bench/size-{size}"
    if len(client.answer(model)) != size:
        raise RuntimeError("not the whole answer")
    return _timed(lambda: client.answer(model), repeat)


def prompt_size(client: Any, *, size: int, repeat: int) -> dict[str, float]:
    """Measure CPU seconds per prompt of one size."""
    messages = [{"role": "user", "content": ("Say why a fixed schedule is quick. " * (size // 35 + 1))[:size]}]
    client.answer(messages=messages)
    return _timed(lambda: client.answer(messages=messages), repeat)


def rate(client: Any, *, threads: int, seconds: float) -> dict[str, float]:
    """Measure plain answers per second, and CPU seconds per answer, of threads that share the client."""
    gate, counts, problems = threading.Barrier(threads + 1), [0] * threads, []

    def work(index: int) -> None:
        try:
            client.answer()  # opens this thread's connection
        except Exception as problem:
            problems.append(problem)
        gate.wait()
        gate.wait()  # the clock has started
        done = 0
        try:
            while time.perf_counter() < end:
                client.answer()
                done += 1
        except Exception as problem:
            problems.append(problem)
        counts[index] = done

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began, cpu = time.perf_counter(), time.process_time()
    end = began + seconds
    gate.wait()
    for worker in workers:
        worker.join()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if problems:
        raise problems[0]
    return {"rate": sum(counts) / wall, "cpu": cpu / max(sum(counts), 1)}
