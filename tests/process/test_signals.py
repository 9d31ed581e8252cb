"""A signal handler may call the library in the middle of whatever its thread does in it."""

from __future__ import annotations

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
_BODY = b"".join(chunk(b"data: %s\n\n" % json.dumps(event).encode()) for event in EVENTS) + chunk(b"data: [DONE]\n\n")
STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + _BODY + b"0\r\n\r\n"
)


def service(sock, server):
    """Answer whatever is asked."""
    while (request := server.read(sock)) is not None:
        server.requests.clear()
        sock.sendall(MODELS if request.method == "GET" else STREAM if b'"stream":true' in request.body else PLAIN)


@pytest.mark.soak
@pytest.mark.parametrize("place", ["memory", "file", "tls"])
def test_handlers_may_call_everything(place, full, tmp_path):
    """Struck at random instants: nothing hangs, nothing raises but what the method raises anywhere, and nobody stays in flight."""
    settings, context = {}, None
    if place == "file":
        settings["rate_limit_store"] = f"file://{tmp_path}/limits"
    if place == "tls":
        from support.http2_servers import authority

        context = authority().context("http/1.1")
        settings["ca_bundle"] = authority().file
    count, seed = (2_000, 1) if full else (25, 1)
    with serving(service, context) as server:
        order = {"url": server.url, "settings": settings, "seed": seed, "count": count, "methods": list(METHODS)}
        run = subprocess.run(
            [sys.executable, str(WORKER), json.dumps(order)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE * (60 if full else 5),
        )
    assert (run.returncode, run.stdout.rpartition("\n")[0].rpartition("\n")[2]) == (0, "over"), run.stdout + run.stderr
