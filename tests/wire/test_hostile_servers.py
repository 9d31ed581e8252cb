"""Servers that make much of little: the call ends at its time limit, or with what is wrong; ``benchmarks/hostile.py`` has the figures."""

from __future__ import annotations

import json

import pytest
from support.fakes import PATIENCE
from support.servers import serving

from groq_provider import GroqProvider, RetryPolicy
from groq_provider import errors as e

PLAIN, STREAM = b"application/json", b"text/event-stream"
MIB = 1 << 20


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


#: By name: content type, what comes before, what comes again and again, and what the call may end with.
CASES = {
    "lists": (PLAIN, b"[", b"[]," * 20_000, (e.DeadlineExceededError, e.ResponseTooLargeError)),
    "objects": (PLAIN, b"[", b'{"a":{}},' * 7_000, (e.DeadlineExceededError, e.ResponseTooLargeError)),
    "blank-lines": (STREAM, b"", b"\n" * 65_536, (e.DeadlineExceededError, e.ResponseTooLargeError)),
    "comments": (STREAM, b"", b":\n" * 32_768, (e.DeadlineExceededError, e.ResponseTooLargeError)),
    "own-parts": (STREAM, b"", event({"choices": [], "x_groq": {"a": {}}}) * 1_000, (e.DeadlineExceededError,)),
    "calls": (
        STREAM,
        b"",
        event({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f"}}] * 500}}]}),
        (e.ResponseTooLargeError, e.StreamProtocolError, e.DeadlineExceededError),
    ),
}
REDUCED = ["blank-lines", "own-parts", "calls"]


@pytest.mark.parametrize(
    "name", [name if name in REDUCED else pytest.param(name, marks=pytest.mark.full) for name in CASES]
)
def test_hostile_answer_ends_in_time(name):
    """However much comes, and whatever it is made of: nothing goes on for long after the time limit."""
    kind, begin, piece, ends = CASES[name]

    def handler(sock, server):
        server.read(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nConnection: close\r\n\r\n" + begin)
        for _ in range(300 * MIB // len(piece)):
            sock.sendall(piece)

    settings = {"api_key": "gsk_0123456789abcdef", "retry": RetryPolicy(max_retries=0)}
    with serving(handler) as server, GroqProvider(base_url=server.url, **settings) as provider:
        begun = provider._runtime.clock.monotonic()
        ask = (lambda: provider.generate_stream("x", timeout=0.5).collect()) if kind == STREAM else None
        with pytest.raises(ends):
            (ask or (lambda: provider.generate("x", timeout=0.5)))()
        assert provider._runtime.clock.monotonic() - begun < PATIENCE
