"""Plain answers: cost, rate, new connections, sizes."""

from __future__ import annotations

import threading
import time
from typing import Any


def plain(client: Any, *, requests: int) -> dict[str, float]:
    """One thread on a kept connection: CPU and wall seconds per request."""
    return _timed(client.answer, requests)


def _timed(action: Any, times: int) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        action()
    return {"cpu": (time.process_time() - cpu) / times, "wall": (time.perf_counter() - wall) / times}


def new_connections(client: Any, *, requests: int) -> dict[str, float]:
    """The server closes after each answer: CPU and wall seconds per call on a new connection."""
    client.answer("bench/close-0")  # after this none is kept
    return _timed(lambda: client.answer("bench/close-0"), requests)


def answer_size(client: Any, *, size: int, repeat: int) -> dict[str, float]:
    """Answers of a size: CPU seconds each."""
    model = f"bench/size-{size}"
    if len(client.answer(model)) != size:
        raise RuntimeError("not the whole answer")
    return _timed(lambda: client.answer(model), repeat)


def prompt_size(client: Any, *, size: int, repeat: int) -> dict[str, float]:
    """Prompts of a size: CPU seconds each."""
    messages = [{"role": "user", "content": ("Say why a fixed schedule is quick. " * (size // 35 + 1))[:size]}]
    client.answer(messages=messages)
    return _timed(lambda: client.answer(messages=messages), repeat)


def rate(client: Any, *, threads: int, seconds: float) -> dict[str, float]:
    """Plain answers per second from some threads that share the client, and the CPU seconds each cost."""
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
