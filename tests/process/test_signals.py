"""A signal handler may call the library in the middle of whatever its thread does in it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.servers import answer, chunk, serving
from support.signal_worker import METHODS, PATIENCE

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")

WORKER = Path(__file__).parents[1] / "support" / "signal_worker.py"
_CHOICE = {"message": {"role": "assistant", "content": "Hi!"}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
_LIMITS = ("x-ratelimit-limit-requests: 1000000", "x-ratelimit-remaining-requests: 999999")
PLAIN = answer(json.dumps({"choices": [_CHOICE], "usage": _USAGE}).encode(), *_LIMITS)
MODELS = answer(b'{"object": "list", "data": [{"id": "openai/gpt-oss-20b"}]}')
EVENTS = [
    {"choices": [{"index": 0, "delta": {"content": "Hi"}}]},
    {"choices": [{"index": 0, "delta": {"content": "!"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x_groq": {"usage": _USAGE}},
]
_LINES = [b"data: %s\n\n" % json.dumps(event).encode() for event in EVENTS] + [b"data: [DONE]\n\n"]
_BODY = b"".join(map(chunk, _LINES))
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _BODY + b"0\r\n\r\n"
)


def service(sock, server):
    """Answer whatever is asked."""
    while (request := server.read(sock)) is not None:
        server.requests.clear()
        sock.sendall(MODELS if request.method == "GET" else STREAM if b'"stream":true' in request.body else PLAIN)


async def http2_service(request):
    """The same over HTTP/2."""
    body = await request.whole()
    kind = "text/event-stream" if b'"stream":true' in body else "application/json"
    request.head(200, ("content-type", kind), *(tuple(limit.split(": ")) for limit in _LIMITS))
    if request.method == "GET":
        await request.data(MODELS.partition(b"\r\n\r\n")[2], end=True)
    elif kind == "application/json":
        await request.data(PLAIN.partition(b"\r\n\r\n")[2], end=True)
    else:
        for line in _LINES:
            await request.data(line, end=line is _LINES[-1])


@contextlib.contextmanager
def serving_over(place):
    """The service where *place* says, and the settings for it."""
    if place == "http2":
        from support.http2_servers import Http2Server, authority

        with Http2Server(http2_service) as server:
            yield server, {"http2": True, "ca_bundle": authority().file}
    elif place == "tls":
        from support.http2_servers import authority

        with serving(service, authority().context("http/1.1")) as server:
            yield server, {"ca_bundle": authority().file}
    else:
        with serving(service) as server:
            yield server, {}


@pytest.mark.soak
@pytest.mark.parametrize(
    "place",
    ["memory", pytest.param("file", marks=pytest.mark.full), pytest.param("tls", marks=pytest.mark.full), "http2"],
)
def test_handlers_may_call_everything(place, full, tmp_path):
    """Struck at random instants: nothing hangs, nothing raises but what the method raises anywhere, and nobody stays in flight."""
    count, seed = (2_000, 1) if full else (25, 1)
    with serving_over(place) as (server, settings):
        if place == "file":
            settings["rate_limit_store"] = f"file://{tmp_path}/limits"
        order = {"url": server.url, "settings": settings, "seed": seed, "count": count, "methods": list(METHODS)}
        run = subprocess.run(
            [sys.executable, str(WORKER), json.dumps(order)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE * (60 if full else 5),
        )
    assert (run.returncode, run.stdout.rpartition("\n")[0].rpartition("\n")[2]) == (0, "over"), run.stdout + run.stderr
