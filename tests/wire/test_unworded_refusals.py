"""A bulk run over real sockets against a server that says nothing of its limit but ``retry-after``; time passes when told."""

from __future__ import annotations

import json
import math
import threading
import time

from support.fakes import PATIENCE, FakeClock
from support.servers import answer, serving
from support.strangers import WORDS, Bucket

from groq_provider import GroqProvider

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}
FINE = answer(json.dumps({"id": "1", "model": "m", "created": 1, "choices": [CHOICE]}).encode())


def test_bulk_run_outlasts_the_limit():
    """180 items of 8 workers against 120 requests a minute: all are answered, and at most one call in ten is refused."""
    clock, lock = FakeClock(manual=True), threading.Lock()
    limit, statuses, results = Bucket(2.0, 120), [], []

    def handler(sock, server):
        while server.read(sock) is not None:
            with lock:
                wait = limit.admit(clock.monotonic())
                statuses.append(429 if wait else 200)
            if wait:
                hint = f"Retry-After: {math.ceil(wait)}"
                sock.sendall(answer(json.dumps(WORDS).encode(), hint, status="429 Too Many Requests"))
            else:
                sock.sendall(FINE)

    with (
        serving(handler) as server,
        GroqProvider(type="openai_compatible", base_url=server.url, default_model="m", clock=clock) as provider,
    ):
        run = threading.Thread(target=lambda: results.extend(provider.generate_many(["Hello"] * 180)))
        run.start()
        end = time.monotonic() + PATIENCE
        while run.is_alive() and time.monotonic() < end:
            clock.advance(0.05)
            run.join(0.001)
        run.join(PATIENCE)
    assert [result.error for result in results if result.error is not None] == []
    assert len(results) == 180 == statuses.count(200)
    assert 10 * statuses.count(429) <= len(statuses)
