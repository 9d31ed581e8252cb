"""Answers a client inside its own process, so that nothing depends on timing."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Loop:
    """Answers every connection opened while it is installed, in the thread that sends.

    ``connect`` replaces the client's socket by one end of a socket pair, so that everything but the network is real; ``send`` writes the
    answer into the other end when the request is complete.

    Attributes:
        answer: Bytes of the next answers.
    """

    _patched = ("connect", "connect_ex", "setsockopt", "send", "sendall", "sendmsg")

    def __init__(self) -> None:
        self.answer = b""
        self._peers: dict[int, tuple[socket.socket, bytearray]] = {}
        self._last: socket.socket | None = None

    def push(self, data: bytes) -> None:
        """Send more of the answer now."""
        self._last.setblocking(False)
        if self._last.send(data) != len(data):
            raise RuntimeError("more than a socket holds")

    @contextlib.contextmanager
    def installed(self) -> Iterator[Loop]:
        """Answer all sockets during the ``with`` block."""
        base = socket.socket.__mro__[1]

        def connect(sock: socket.socket, _address: Any) -> None:
            near, peer = socket.socketpair()
            for end in (near, peer):
                base.setsockopt(end, socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            timeout = sock.gettimeout()
            os.dup2(near.fileno(), sock.fileno())
            near.close()
            sock.settimeout(timeout)
            self._peers[sock.fileno()] = (peer, bytearray())

        def connect_ex(sock: socket.socket, address: Any) -> int:
            connect(sock, address)
            return 0

        def setsockopt(sock: socket.socket, *arguments: Any) -> None:
            if sock.fileno() not in self._peers:
                with contextlib.suppress(OSError):
                    base.setsockopt(sock, *arguments)

        def sent(sock: socket.socket, data: bytes) -> None:
            peer, request = self._peers[sock.fileno()]
            request += data
            head = request.find(b"\r\n\r\n")
            if head >= 0:
                length_match = _LENGTH.search(request, 0, head)
                if len(request) >= head + 4 + (int(length_match[1]) if length_match else 0):
                    request.clear()
                    self._last = peer
                    if self.answer:
                        self.push(self.answer)

        def send(sock: socket.socket, data: Any, *_flags: Any) -> int:
            if sock.fileno() not in self._peers:
                return base.send(sock, data, *_flags)
            sent(sock, bytes(data))
            return len(data)

        def sendall(sock: socket.socket, data: Any, *_flags: Any) -> None:
            send(sock, data, *_flags)

        def sendmsg(sock: socket.socket, buffers: Any, *_more: Any) -> int:
            return send(sock, b"".join(buffers))

        for method in (connect, connect_ex, setsockopt, send, sendall, sendmsg):
            setattr(socket.socket, method.__name__, method)
        try:
            yield self
        finally:
            for name in self._patched:
                delattr(socket.socket, name)
            for peer, _ in self._peers.values():
                peer.close()
