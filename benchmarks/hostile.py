"""Measure the time and memory that hostile answers cost, each in a process of its own.

    python benchmarks/hostile.py [--only NAME]

A local server sends answers that need much memory per byte, as fast as it can. For each the script prints the seconds until the call
ended, how far that was beyond its time limit of 2 s (the goal is 0.1 s), and the most memory beyond that before the call (the goal is
eight times the cap on bytes: 64 MiB for a plain answer, 256 MiB for a stream). It asserts nothing, since a busy machine is late.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import TYPE_CHECKING

from groq_provider import GroqProvider, GroqProviderError, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

TOTAL = 2.0
MIB = 1 << 20
PLAIN, STREAM = b"application/json", b"text/event-stream"


def event(data: object) -> bytes:
    """Write an event of a stream."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def repeated(piece: bytes, size: int) -> Iterator[bytes]:
    """Yield a piece repeatedly, about *size* bytes in all."""
    many = piece * max(1, 65_536 // len(piece))
    for _ in range(size // len(many)):
        yield many


def fragments(size: int) -> Iterator[bytes]:
    """Yield fragments of tool calls without an index, each of which begins a new call."""
    for number in range(size // 100):
        yield event({"choices": [{"delta": {"tool_calls": [{"id": f"c{number}", "function": {"name": "f"}}]}}]})


def own_parts(size: int) -> Iterator[bytes]:
    """Yield fields of the service's own, each with a new name."""
    for number in range(size // 60):
        yield event({"choices": [], "x_groq": {f"key{number}": {}}})


def around(begin: bytes, piece: bytes, end: bytes, size: int) -> Iterator[bytes]:
    """Yield a JSON text with many values."""
    yield begin
    yield from repeated(piece, size)
    yield end


#: By name: content type, further headers, the body in pieces.
CASES = {
    "lists": (PLAIN, b"", lambda: around(b"[", b"[],", b"[]]", 60 * MIB)),
    "objects": (PLAIN, b"", lambda: around(b"[", b'{"a":{}},', b"1]", 60 * MIB)),
    "calls": (PLAIN, b"", lambda: around(b'{"choices":[{"message":{"tool_calls":[', b"{},", b"{}]}}]}", 60 * MIB)),
    "wide text": (PLAIN, b"", lambda: around(b'{"choices":[{"message":{"content":"\xf0\x9f\x98\x80', b"aaaa", b'"}}]}', 60 * MIB)),
    "no UTF-8": (PLAIN, b"", lambda: around(b'{"choices":[{"message":{"content":"', b"\xff", b'"}}]}', 60 * MIB)),
    "gzip": (PLAIN, b"Content-Encoding: gzip\r\n", lambda: iter([b"\x1f\x8b" * 5000])),
    "small pieces": (PLAIN, b"small", lambda: around(b'{"choices":[{"message":{"content":"', b"ab", b'"}}]}', 8 * MIB)),
    "blank lines": (STREAM, b"", lambda: repeated(b"\n", 512 * MIB)),
    "comments": (STREAM, b"", lambda: repeated(b":\n", 512 * MIB)),
    "empty chunks": (STREAM, b"", lambda: repeated(event({"choices": [{"delta": {}}]}), 512 * MIB)),
    "fragments": (STREAM, b"", lambda: fragments(64 * MIB)),
    "own parts": (STREAM, b"", lambda: own_parts(64 * MIB)),
    "one large chunk": (STREAM, b"", lambda: around(b'data: {"choices":[', b'{"delta":{}},', b"{}]}\n\n", 60 * MIB)),
}  # fmt: skip


def serve(listener: socket.socket, name: str) -> None:
    """Answers each request with one case."""
    kind, more_headers, body = CASES[name]
    small = more_headers == b"small"
    while True:
        sock, _ = listener.accept()
        with sock:
            try:
                while b"\r\n\r\n" not in sock.recv(65_536):
                    pass
                head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: " + kind + b"\r\n"
                sock.sendall(head + (b"" if small else more_headers) + b"\r\n")
                for piece in body():
                    if small:
                        chunks = [
                            b"2;x=%d\r\n" % at + piece[at : at + 2] + b"\r\n" for at in range(0, len(piece) & ~1, 2)
                        ]
                        sock.sendall(b"".join(chunks) + (b"1\r\n" + piece[-1:] + b"\r\n" if len(piece) & 1 else b""))
                    else:
                        sock.sendall(b"%x\r\n" % len(piece) + piece + b"\r\n")
                sock.sendall(b"0\r\n\r\n")
            except OSError:
                pass


def peak() -> int:
    """Return the most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(name: str, port: int) -> None:
    """Make the call in this process, and print its cost."""
    streamed = CASES[name][0] == STREAM
    with GroqProvider(
        api_key="gsk_0123456789abcdef", base_url=f"http://127.0.0.1:{port}", retry=RetryPolicy(max_retries=0)
    ) as provider:
        provider.warm_up(1)
        before, begun = peak(), time.monotonic()
        try:
            if streamed:
                provider.generate_stream("x", timeout=TOTAL).collect()
            else:
                provider.generate("x", timeout=TOTAL)
            ended = "an answer"
        except GroqProviderError as error:
            ended = type(error).__name__
        print(json.dumps({"seconds": time.monotonic() - begun, "memory": peak() - before, "ended": ended}))


def main() -> None:
    """Run the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, help="one case")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]))
        return
    print(f"{'case':16} {'seconds':>8} {'beyond':>8} {'memory':>10} {'of cap':>7}  ended with")
    for name in [options.only] if options.only else CASES:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve, args=(listener, name), daemon=True).start()
            command = [sys.executable, __file__, "--measure", name, str(listener.getsockname()[1])]
            completed = subprocess.run(command, capture_output=True, text=True, check=True)
        outcome = json.loads(completed.stdout)
        cap = (256 if CASES[name][0] == STREAM else 64) * MIB
        lateness = max(0.0, outcome["seconds"] - TOTAL)
        print(
            f"{name:16} {outcome['seconds']:8.2f} {lateness:8.2f} {outcome['memory'] / MIB:6.0f} MiB {outcome['memory'] / cap:6.1f}x  {outcome['ended']}"
        )


if __name__ == "__main__":
    main()
