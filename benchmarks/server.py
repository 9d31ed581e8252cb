"""A server of canned answers, quick enough not to be what is measured.

One process, one thread, one selector. It looks for the end of a request and for the name of the model, and sends bytes that were
made beforehand:

* any model: a plain JSON answer of about 630 bytes with the headers the service sends;
* ``bench/events-N``: a stream of N text chunks, one HTTP chunk and one ``send`` per event;
* ``bench/burst-N``: the same bytes, all in one ``sendall``;
* ``bench/merged-N``: the same events in HTTP chunks of 16 KiB, as an edge that buffers sends them;
* ``GET /cpu``: the CPU seconds the server has used so far, as text.

``python benchmarks/server.py`` prints ``PORT n`` and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import selectors
import socket
import struct
import sys
import time

WORDS = (
    "The",
    " LPU",
    " is",
    " a",
    " deterministic",
    " processor",
    ",",
    " ol",
    "á!",
    " which",
    " answers",
    " quickly",
    ".\n",
)
ID = "chatcmpl-3f0c1d52-7a7e-4c61-9b06-0d3c5a0e1111"
REQUEST_ID = "req_01k9zzzzzzzzzzzzzzzzzzzzzz"
USAGE = {
    "queue_time": 0.0197, "prompt_tokens": 62, "prompt_time": 0.0031, "completion_tokens": 18, "completion_time": 0.0402,
    "total_tokens": 80, "total_time": 0.0433,
}  # fmt: skip
#: The service's own names and forms; limits so large that no limiter that learns them ever waits.
COMMON_HEADERS = (
    "date: Sun, 22 Nov 2026 15:30:00 GMT",
    "vary: Origin",
    "strict-transport-security: max-age=15552000",
    f"x-request-id: {REQUEST_ID}",
    "x-groq-region: fra",
    "x-ratelimit-limit-requests: 500000000",
    "x-ratelimit-limit-tokens: 2000000000",
    "x-ratelimit-remaining-requests: 499998960",
    "x-ratelimit-remaining-tokens: 1744666667",
    "x-ratelimit-reset-requests: 2m59.56s",
    "x-ratelimit-reset-tokens: 7.66s",
    "server: bench",
)
_MODEL = re.compile(rb'"model": ?"bench/(events|burst|merged)-(\d+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MERGED = 16_384


def _head(*headers: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *headers, *COMMON_HEADERS, "", "")).encode("ascii")


def _compact(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def plain_answer() -> bytes:
    """Return a whole answer, head and body."""
    body = _compact(
        {
            "id": ID,
            "object": "chat.completion",
            "created": 1790000000,
            "model": "openai/gpt-oss-20b",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "LPUs run inference in a fixed order. " * 2},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
            "usage_breakdown": None,
            "system_fingerprint": "fp_c82faf3ca0",
            "x_groq": {"id": REQUEST_ID, "seed": 581043163},
            "service_tier": "on_demand",
        }
    )
    kind = ("content-type: application/json", "cache-control: private, max-age=0, no-store, no-cache, must-revalidate")
    return _head(*kind, f"content-length: {len(body)}") + body


def _event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    data = {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": 1790000001,
        "model": "openai/gpt-oss-20b",
        "system_fingerprint": "fp_00c37775b7",
        "choices": [choice],
        **more,
    }
    return b"data: %b\n\n" % _compact(data)


@functools.cache
def stream_answer(kind: str, count: int) -> list[bytes]:
    """Return a streamed answer of *count* text chunks, as the pieces it is sent in."""
    words = itertools.islice(itertools.cycle(WORDS), count)
    events = [
        _event({"role": "assistant", "content": ""}, x_groq={"id": REQUEST_ID, "seed": 2139001717}),
        *(_event({"content": word}) for word in words),
        _event({}, "stop", x_groq={"id": REQUEST_ID, "usage": USAGE}, usage=USAGE),
        b"data: [DONE]\n\n",
    ]
    if kind == "merged":
        whole = b"".join(events)
        events = [whole[start : start + _MERGED] for start in range(0, len(whole), _MERGED)]
    head = _head("content-type: text/event-stream", "cache-control: no-cache", "transfer-encoding: chunked")
    framed = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    framed[-1] += b"0\r\n\r\n"
    return [head, *framed] if kind == "events" else [head + b"".join(framed)]


class Server:
    """Serves on 127.0.0.1; one request at a time, so that a stream is not slowed by others."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self._plain = plain_answer()
        self._selector = selectors.DefaultSelector()
        self._partial: dict[socket.socket, bytes] = {}

    def run(self, until: int) -> None:
        """Serve until the file descriptor *until* can be read."""
        select = self._selector.select
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._selector.register(until, selectors.EVENT_READ)
        while True:
            for key, _ in select():
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj == until:
                    return
                else:
                    self._serve(key.fileobj)  # type: ignore[arg-type]  # the rest are sockets

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(262_144)
            if not data:
                raise ConnectionAbortedError
            if self._partial:
                data = self._partial.pop(connection, b"") + data
            while data:
                end = self._end_of_request(data)
                if end < 0:
                    self._partial[connection] = data
                    return
                self._answer(connection, data[:end])
                data = data[end:]
        except OSError:
            self._partial.pop(connection, None)
            self._selector.unregister(connection)
            connection.close()

    @staticmethod
    def _end_of_request(data: bytes) -> int:
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return -1
        found = _LENGTH.search(data, 0, head)
        end = head + 4 + (int(found[1]) if found else 0)
        return end if len(data) >= end else -1

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        found = _MODEL.search(request)
        if found:
            for piece in stream_answer(found[1].decode(), int(found[2])):
                connection.sendall(piece)
        elif request.startswith(b"GET /cpu"):
            body = b"%f" % time.process_time()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        else:
            connection.sendall(self._plain)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    server = Server()
    print(f"PORT {server.port}", flush=True)
    server.run(sys.stdin.fileno())
    os._exit(0)  # nothing to clear up, and connections still open need no farewell


if __name__ == "__main__":
    main()
