"""A server of canned answers, fast enough not to limit the clients. ``answers.py`` says which answer a request gets.

One thread and one selector serve all plain connections. Each TLS connection (if ``trustme`` is installed) has a thread of its own, since
only measures of time use them, not of throughput. ``GET /stats`` returns the CPU seconds used, the connections accepted and the TLS
handshakes made so far, as JSON.

``python benchmarks/server.py [--ca FILE]`` prints ``PORT n TLSPORT m`` (m is 0 without TLS) and serves until its standard input ends.
With *--ca* it writes a bundle there: certifi's certificates, so that loading the bundle costs as much as for any user, and its own.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import re
import selectors
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import answers

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
#: Bytes of a long request to keep at its beginning and at its end; the model's name is in one of them.
_KEPT = 4_096


class _Request:
    """Collects a request and finds its end without keeping a long body."""

    __slots__ = ("begin", "end", "missing")

    def __init__(self) -> None:
        self.begin = b""
        self.end = b""
        self.missing = -1  # of the body; below 0 until the head is complete

    def feed(self, data: bytes) -> bytes | None:
        """Add bytes; return the request (a long one without its middle) when it is complete."""
        if self.missing < 0:
            data = self.begin + data
            stop = data.find(b"\r\n\r\n")
            if stop < 0:
                self.begin = data
                return None
            found = _LENGTH.search(data, 0, stop)
            self.missing = stop + 4 + (int(found[1]) if found else 0) - len(data)
            if self.missing <= 0:
                return data
            self.begin = data[: stop + _KEPT]
        else:
            self.missing -= len(data)
        self.end = (self.end + data)[-_KEPT:]
        return self.begin + self.end if self.missing <= 0 else None


class _Stats:
    """The counters of the server."""

    def __init__(self) -> None:
        self.accepted = 0
        self.handshakes = 0

    def answer(self) -> bytes:
        body = json.dumps(
            {"cpu": time.process_time(), "accepted": self.accepted, "handshakes": self.handshakes}
        ).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _timed(count: int, interval: float) -> Iterator[tuple[float, bytes | None]]:
    """Yield the time and the content of each piece of a stream; ``None`` stands for an event with a time stamp."""
    start = time.monotonic()
    yield start, answers.head(*answers.STREAM_HEADERS) + answers.framed(answers.first_event())
    for number in range(1, count + 1):
        yield start + number * interval, None
    ends = [answers.framed(each) for each in answers.last_events()]
    yield start + (count + 1) * interval, b"".join(ends) + answers.END


def _stamped() -> bytes:
    return answers.framed(answers.event({"content": f"{time.monotonic():.7f} "}))


class Server:
    """Serves plain connections."""

    def __init__(self, stats: _Stats) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self.listener.getsockname()[1]
        self._stats = stats
        self._plain = answers.plain()
        self._selector = selectors.DefaultSelector()
        self._partial: dict[socket.socket, _Request] = {}
        self._packs: dict[socket.socket, list[bytes]] = {}  # the remaining pieces of each, last piece first
        self._due: list[tuple[float, int, socket.socket, bytes | None, Any]] = []
        self._number = itertools.count()

    def run(self, until: int) -> None:
        """Serve until the file descriptor *until* can be read."""
        select = self._selector.select
        self._selector.register(self.listener, selectors.EVENT_READ)
        self._selector.register(until, selectors.EVENT_READ)
        while True:
            timeout = None
            if self._packs:
                timeout = self._send_packs()
            if self._due:
                timeout = self._send_due(timeout)
            for key, _ in select(timeout):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj == until:
                    return
                else:
                    self._serve(key.fileobj)  # type: ignore[arg-type]  # the rest are sockets

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        self._stats.accepted += 1
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 10, 0))
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(262_144)
            if not data:
                raise ConnectionAbortedError
            request = (self._partial.pop(connection, None) if self._partial else None) or _Request()
            whole = request.feed(data)
            if whole is None:
                self._partial[connection] = request
            else:
                self._answer(connection, whole)
        except OSError:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._partial.pop(connection, None)
        self._packs.pop(connection, None)
        if connection.fileno() >= 0:
            self._selector.unregister(connection)
            connection.close()

    def _answer(self, connection: socket.socket, request: bytes) -> None:
        found = answers.MODEL.search(request)
        if not found:
            connection.sendall(self._stats.answer() if request.startswith(b"GET /stats") else self._plain)
            return
        kind, count = found[1].decode(), int(found[2])
        if kind == "size":
            connection.sendall(answers.plain(count))
        elif kind == "close":
            connection.sendall(answers.plain(None, "connection: close"))
            self._drop(connection)
        elif kind == "slow":
            heapq.heappush(
                self._due, (time.monotonic() + count / 1000, next(self._number), connection, self._plain, None)
            )
        elif kind in answers.INTERVALS:
            self._plan(connection, _timed(count, answers.INTERVALS[kind]))
        elif kind == "packs":
            self._packs[connection] = answers.stream(kind, count)[::-1]
        else:
            for piece in answers.stream(kind, count):
                connection.sendall(piece)

    def _plan(self, connection: socket.socket, rest: Any) -> None:
        due = next(rest, None)
        if due is not None:
            heapq.heappush(self._due, (due[0], next(self._number), connection, due[1], rest))

    def _send_due(self, timeout: float | None) -> float | None:
        """Send the pieces that are due; return the seconds until the next one."""
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, connection, piece, rest = heapq.heappop(self._due)
            try:
                connection.sendall(_stamped() if piece is None else piece)
            except OSError:
                self._drop(connection)
            else:
                if rest is not None:
                    self._plan(connection, rest)
        if timeout == 0 or not self._due:
            return timeout
        # Rounded up to the selector's milliseconds: an event may be late, but its time stamp is made when it is sent.
        return max(0.0, self._due[0][0] - time.monotonic())

    def _send_packs(self) -> float:
        """Send the next piece of each stream whose socket accepts it; return how long to wait for other work."""
        moved = False
        for connection, pieces in list(self._packs.items()):
            try:
                sent = connection.send(pieces[-1], socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                self._drop(connection)
                continue
            moved = True
            if sent < len(pieces[-1]):
                pieces[-1] = pieces[-1][sent:]
            else:
                pieces.pop()
                if not pieces:
                    del self._packs[connection]
        return 0.0 if moved else 0.0005


class TLSServer:
    """Serves TLS connections, with a thread each."""

    def __init__(self, stats: _Stats, ca: Path | None) -> None:
        import certifi
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            for number, blob in enumerate([*certificate.cert_chain_pems]):
                blob.write_to_path(f"{folder}/chain", append=number > 0)
            certificate.private_key_pem.write_to_path(f"{folder}/key")
            self._context.load_cert_chain(f"{folder}/chain", f"{folder}/key")
        if ca is not None:
            ca.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + authority.cert_pem.bytes())
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._stats = stats
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secure:
                secure.settimeout(60)
                secure.do_handshake()
                with self._lock:
                    self._stats.handshakes += 1
                request = _Request()
                while data := secure.recv(262_144):
                    whole = request.feed(data)
                    if whole is not None:
                        request = _Request()
                        if not self._answer(secure, whole):
                            return
        except OSError:
            pass
        finally:
            connection.close()

    def _answer(self, secure: ssl.SSLSocket, request: bytes) -> bool:
        found = answers.MODEL.search(request)
        kind, count = (found[1].decode(), int(found[2])) if found else ("", 0)
        if kind == "timed":
            for when, piece in _timed(count):
                time.sleep(max(0.0, when - time.monotonic()))
                secure.sendall(_stamped() if piece is None else piece)
        elif kind in ("events", "burst", "merged", "packs", "hold"):
            for piece in answers.stream(kind, count):
                secure.sendall(piece)
        elif kind == "close":
            secure.sendall(answers.plain(None, "connection: close"))
            return False
        else:
            if kind == "slow":
                time.sleep(count / 1000)
            secure.sendall(answers.plain(count if kind == "size" else None))
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ca", type=Path, help="write the bundle of certificates here")
    args = parser.parse_args()
    stats = _Stats()
    server = Server(stats)
    try:
        secure = TLSServer(stats, args.ca).port
    except ImportError:
        secure = 0
    sys.setswitchinterval(0.0005)
    print(f"PORT {server.port} TLSPORT {secure}", flush=True)
    server.run(sys.stdin.fileno())
    os._exit(0)  # exit at once: there is nothing to clean up, and open connections need no close


if __name__ == "__main__":
    main()
