"""Connections whose every wait ends at the call's time limit and at its cancellation."""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .call import CallState, current

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PlainConnection", "TLSConnection", "TLSSocket", "readable", "socket_options"]

#: What is sent at once between two looks at the clock.
_SEND_PIECE = 65_536
_READ_BUFFER = 16_384


def socket_options() -> list[tuple[int, int, int]]:
    """Return the options of every socket: no delay, and probes that find a dead peer within about two minutes."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return options


def readable(sock: Any, timeout: float) -> bool:
    """Wait up to *timeout* seconds until *sock* can be read without waiting: data, or the end of it."""
    poll = getattr(select, "poll", None)
    if poll is None:  # not on every system
        return bool(select.select([sock], [], [], timeout)[0])
    poller = poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


class DeadlineIO(socket.SocketIO):
    """The read side of a socket; never waits past the call's deadline. One per answer.

    Set ``frozen`` to have it say "nothing yet" instead of reading, so that what is buffered above it can be looked at.
    """

    def __init__(self, sock: socket.socket, call: CallState) -> None:
        super().__init__(sock, "r")
        sock._io_refs += 1  # type: ignore[attr-defined]  # as socket.makefile() does: the file keeps the socket open
        self._call = call
        self._socket = sock
        self.frozen = False

    def readinto(self, buffer: Buffer) -> int | None:
        """Read once, for as long as the call's deadline allows."""
        if self.frozen:
            return None
        call = self._call
        self._socket.settimeout(call.left(call.deadline))
        count = self._socket.recv_into(buffer)
        call.received = True
        return count


class _Readable:
    """Stands in for the socket where http.client asks it for a file."""

    __slots__ = ("_call", "_sock")

    def __init__(self, sock: socket.socket, call: CallState) -> None:
        self._sock = sock
        self._call = call

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(DeadlineIO(self._sock, self._call), _READ_BUFFER)


class WireHTTPResponse(http.client.HTTPResponse):
    """http.client's answer, read through :class:`DeadlineIO`: status line, headers, 1xx answers and body alike."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Readable(sock, current()), *args, **kwargs)  # type: ignore[arg-type]  # only makefile() is used

    def buffered(self) -> bool:
        """Say whether bytes of after the body have been read already; then the connection cannot serve again."""
        reader: Any = self.fp
        if reader is None:
            return False
        reader.raw.frozen = True
        found = bool(reader.peek(1))
        reader.raw.frozen = False
        return found


class _Interruptible(HTTPConnection):
    """What both kinds of connections share."""

    response_class = WireHTTPResponse
    idle_since = 0.0
    pid = 0

    def _new_conn(self) -> socket.socket:
        """Connect, each address in turn, within what the call's limits leave for all of them together."""
        call = current()
        host: str = self._dns_host  # with its trailing dot, if it has one
        try:
            found = socket.getaddrinfo(host, self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError as error:
            raise NewConnectionError(self, f"cannot resolve {self.host!r}: {error}") from error
        problem: OSError | None = None
        for family, kind, protocol, _name, address in found:
            try:
                return self._connect_to(call, family, kind, protocol, address)
            except TimeoutError as error:
                raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from error
            except OSError as error:
                problem = error
        raise NewConnectionError(self, f"cannot connect to {self.host}: {problem or 'no address'}") from problem

    def _connect_to(self, call: CallState, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(call.left(call.connect_deadline))
            call.bind(sock)
            sock.connect(address)
            if call.cancelled:  # a shut-down socket may report success
                raise ConnectionAbortedError("cancelled")
            sock.settimeout(call.left(call.connect_deadline))  # for the TLS handshake or the tunnel that follows
        except BaseException:
            call.unbind()
            sock.close()
            raise
        self.pid = os.getpid()
        return sock

    def send(self, data: Any) -> None:
        """Send, looking at the clock between pieces."""
        call = current()
        if self.sock is None:
            self.connect()
        if call.sent is False:
            call.sent = None
        if not isinstance(data, (bytes, bytearray)) or len(data) <= _SEND_PIECE:
            self.sock.settimeout(call.left(call.deadline))
            super().send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _SEND_PIECE):
            self.sock.settimeout(call.left(call.deadline))
            super().send(view[start : start + _SEND_PIECE])

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request and note that it has left."""
        super().request(*args, **kwargs)
        current().request_sent()


class PlainConnection(_Interruptible):
    """A connection without TLS."""


class TLSConnection(_Interruptible, HTTPSConnection):
    """A connection with TLS; the handshake counts as connecting."""

    response_class = WireHTTPResponse


class TLSSocket(ssl.SSLSocket):
    """A TLS socket that belongs to the call from before its handshake: wrapping takes the file descriptor from the socket below."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands within the call's limit for connecting."""
        call = current()
        call.bind(self)
        self.settimeout(call.left(call.connect_deadline))
        super().do_handshake(block)
