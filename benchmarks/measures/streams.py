"""Streams: cost, time to the first text, delay, many at once."""

from __future__ import annotations

import threading
import time
from typing import Any


def _stream(client: Any, kind: str, count: int) -> float:
    seen, cpu = 0, time.process_time()
    for _ in client.pieces(f"bench/{kind}-{count}"):
        seen += 1
    cpu = time.process_time() - cpu
    if seen != count:
        raise RuntimeError(f"{seen} chunks came, not {count}")
    return cpu


def chunks(client: Any, *, kind: str, chunks: int) -> dict[str, float]:
    """Measure CPU seconds per chunk of a long stream, less the cost of a stream of one chunk; and that cost."""
    short = min(_stream(client, kind, 1) for _ in range(3))
    return {"cpu": (_stream(client, kind, chunks + 1) - short) / chunks, "short": short}


def whole(client: Any, *, kind: str, count: int, repeat: int) -> dict[str, float]:
    """Measure CPU seconds of a whole stream."""
    return {"cpu": min(_stream(client, kind, count) for _ in range(repeat))}


def first_text(client: Any, *, requests: int) -> dict[str, list[float]]:
    """Measure wall seconds from the call to the first text, on a kept connection."""
    times = []
    for _ in range(requests):
        began = time.perf_counter()
        pieces = client.pieces("bench/events-3")
        next(pieces)
        times.append(time.perf_counter() - began)
        for _ in pieces:  # read to the end, so that the connection is kept
            pass
    return {"wall": times}


def delay(client: Any, *, events: int) -> dict[str, list[float]]:
    """Measure the seconds from an event's time stamp until the client has its text, at an event every 2 ms."""
    now = time.monotonic
    delays = [now() - float(text) for text in client.pieces(f"bench/timed-{events}")]
    if len(delays) != events:
        raise RuntimeError(f"{len(delays)} events came, not {events}")
    return {"delay": delays}


def held(client: Any, *, events: int, patience: float) -> dict[str, int]:
    """Count the events that the client hands out although the server sends nothing after them."""
    seen: list[str] = []
    done = threading.Event()

    def read() -> None:
        for text in client.another().pieces(f"bench/hold-{events}"):
            seen.append(text)
            if len(seen) == events:
                break
        done.set()

    threading.Thread(target=read, daemon=True).start()
    done.wait(patience)
    return {"came": len(seen)}


def many(client: Any, *, streams: int, chunks: int) -> dict[str, float]:
    """Measure chunks per second, and CPU seconds per chunk, of streams that a thread each reads at once."""
    gate, problems = threading.Barrier(streams + 1), []

    def work() -> None:
        try:
            _stream(client, "packs", 1)
        except Exception as problem:
            problems.append(problem)
        gate.wait()
        try:
            _stream(client, "packs", chunks)
        except Exception as problem:
            problems.append(problem)

    workers = [threading.Thread(target=work) for _ in range(streams)]
    for worker in workers:
        worker.start()
    gate.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for worker in workers:
        worker.join()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    if problems:
        raise problems[0]
    return {"rate": streams * chunks / wall, "cpu": cpu / (streams * chunks)}
