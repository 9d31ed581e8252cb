"""Measures the server's own ceiling, with bare sockets that do not parse their answers."""

from __future__ import annotations

import json
import selectors
import socket
import time
from typing import TYPE_CHECKING

from contenders import MESSAGES, MODEL, PATH

if TYPE_CHECKING:
    from processes import ServerProcess


def measure(server: ServerProcess, *, seconds: float, chunks: int = 2000) -> dict[str, float]:
    """Return requests per second on 1 and on 32 connections, chunks per second, and the server's own CPU seconds for each."""
    port, figures = server.plain.port, {}
    for count in (1, 32):
        before = server.stats()["cpu"]
        answer_count, elapsed = _rate(port, count, seconds)
        figures[f"rate_{count}"] = answer_count / elapsed
        figures["cpu_request"] = (server.stats()["cpu"] - before) / answer_count
    for kind in ("events", "burst"):
        figures[f"chunks_{kind}"] = max(_chunks(port, kind, 1, chunks) for _ in range(3))
    before = server.stats()["cpu"]
    figures["chunks_64"] = _chunks(port, "packs", 64, chunks)
    figures["cpu_chunk"] = (server.stats()["cpu"] - before) / (64 * chunks)
    return figures


def _request(model: str) -> bytes:
    body = json.dumps({"model": model, "messages": MESSAGES}).encode()
    return b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)


def _connect(port: int, count: int) -> list[socket.socket]:
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(count)]
    for sock in sockets:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sockets


def _rate(port: int, count: int, seconds: float) -> tuple[int, float]:
    sockets, request = _connect(port, count), _request(MODEL)
    answer_count, started_at = 0, time.perf_counter()
    while not answer_count or time.perf_counter() - started_at < seconds:
        for sock in sockets:
            sock.sendall(request)
        for sock in sockets:
            sock.recv(65_536)
        answer_count += count
    elapsed = time.perf_counter() - started_at
    for sock in sockets:
        sock.close()
    return answer_count, elapsed


def _chunks(port: int, kind: str, count: int, chunks: int) -> float:
    sockets, request = _connect(port, count), _request(f"bench/{kind}-{chunks}")
    selector = selectors.DefaultSelector()
    for sock in sockets:
        selector.register(sock, selectors.EVENT_READ)
    ends = dict.fromkeys(sockets, b"")
    started_at = time.perf_counter()
    for sock in sockets:
        sock.sendall(request)
    open_streams = count
    while open_streams:
        for key, _ in selector.select():
            sock = key.fileobj
            ends[sock] = ends[sock][-8:] + sock.recv(262_144)
            open_streams -= ends[sock].endswith(b"\r\n0\r\n\r\n")
    elapsed = time.perf_counter() - started_at
    for sock in sockets:
        sock.close()
    return count * chunks / elapsed
