"""Connections whose every wait ends at the call's time limit and at its cancellation."""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection, _ResponseOptions
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from groq_provider.errors import ConfigurationError
from groq_provider.transport.http1.receive import HTTP11Response, ReceiveBuffer, ResponseFile
from groq_provider.transport.scope import CancelScope, current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

__all__ = ["PlainConnection", "TLSConnection", "TLSSocket", "socket_options"]

#: What is sent at once between two looks at the clock.
_SEND_PIECE = 65_536


def socket_options() -> list[tuple[int, int, int]]:
    """Return the options of every socket: no delay, and probes that find a dead peer within about two minutes."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return options


_poll = getattr(select, "poll", None)  # not on every system


def _wait_connected(sock: socket.socket, timeout: float | None) -> bool:
    """Wait up to *timeout* seconds until the attempt to connect has ended, well or badly."""
    if _poll is None:  # pragma: no cover - Windows, which reports a failure as an exceptional condition
        return any(select.select([], [sock], [sock], timeout))
    poller = _poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


class _TunnelReader(socket.SocketIO):
    """The read side of a socket while http.client makes a tunnel through a proxy; never in_progress past the call's deadline."""

    def __init__(self, sock: socket.socket, scope: CancelScope) -> None:
        super().__init__(sock, "r")
        # As socket.makefile() does: the file keeps the socket open. TLS inside TLS counts on the socket below.
        counted: Any = getattr(sock, "socket", sock)
        counted._io_refs += 1
        self._socket = sock
        self._scope = scope

    def readinto(self, buffer: Buffer) -> int | None:
        """Read once, for as long as the call's deadline allows."""
        self._socket.settimeout(self._scope.seconds_left(self._scope.deadline))
        return self._socket.recv_into(buffer)


class _FileMaker:
    """Stands in for the socket address_info http.client asks it for a file."""

    __slots__ = ("_scope", "_sock")

    def __init__(self, sock: socket.socket, scope: CancelScope) -> None:
        self._sock = sock
        self._scope = scope

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TunnelReader(self._sock, self._scope))


class _TunnelResponse(http.client.HTTPResponse):
    """What a proxy says to CONNECT, which http.client reads by itself."""

    #: Here for an object that an interrupt left half made: io closes that, too, and asks for it.
    fp: Any = None

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_FileMaker(sock, current()), *args, **kwargs)  # type: ignore[arg-type]  # only makefile() is used

    def flush(self) -> None:
        """Do nothing: nothing is ever written here, and a collector may have closed the buffer before us."""


class _ScopedConnection(HTTPConnection):
    """What both kinds of connections share."""

    response_class = _TunnelResponse
    _receive_buffer: ReceiveBuffer | None = None
    #: The response that urllib3 reads from it, and after which it gives it back without asking whether it can serve again.
    pending_response: HTTP11Response | None = None
    #: Whatever http.client is told to print for others: it would print the key.
    debuglevel = 0
    #: Monotonic instant it went back to the pool; ``None``: not since it was connected.
    idle_since: float | None = None
    #: The call that made it for HTTP/2 and was given HTTP/1.1; until its first request.
    made_for: CancelScope | None = None
    pid = 0

    def _new_conn(self) -> socket.socket:
        """Connect, each address in turn, within what the call's limits leave for all of them together."""
        scope = current()
        host: str = self._dns_host  # with its trailing dot, if it has one
        try:
            addresses = socket.getaddrinfo(host, self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError as error:
            raise NewConnectionError(self, f"cannot resolve {self.host!r}: {error}") from error
        problem: OSError | None = None
        for index, address_info in enumerate(addresses):
            try:
                # A dead address takes its share of the time and leaves the rest to those after it.
                remaining = scope.seconds_left(scope.connect_deadline)
                return self._connect_to(
                    scope, address_info, None if remaining is None else remaining / (len(addresses) - index)
                )
            except OSError as error:
                problem = error
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from problem
        raise NewConnectionError(self, f"cannot connect to {self.host}: {problem or 'no address'}") from problem

    def _connect_to(self, scope: CancelScope, address_info: tuple[Any, ...], timeout: float | None) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        sock = socket.socket(family, kind, protocol)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            scope.bind(sock)
            # Not with a timeout: a cancel just before connect() would find nothing to shut down, and connect() would wait on.
            sock.setblocking(False)
            try:
                sock.connect(address)
                in_progress = False
            except BlockingIOError:
                in_progress = True
            if in_progress and not scope.cancelled:
                if not _wait_connected(sock, timeout):
                    raise TimeoutError("timed out")
                if failure := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(failure, os.strerror(failure))
            if scope.cancelled:  # a shut-down socket may report success
                raise ConnectionAbortedError("cancelled")
            sock.settimeout(
                scope.seconds_left(scope.connect_deadline)
            )  # for the TLS handshake or the tunnel that follows
        except BaseException:
            scope.unbind()
            sock.close()
            raise
        self.pid = os.getpid()
        self.idle_since = None
        return sock

    def connect(self) -> None:
        """Connect, a proxy's tunnel and the TLS handshake included, within the limit for connecting."""
        scope = current()
        sent, received = scope.sent, scope.received
        scope.deadline = scope.connect_deadline
        try:
            super().connect()
        except BaseException:
            scope.unbind()
            raise
        finally:  # what went through the tunnel so far was not the request
            scope.sent, scope.received = sent, received
            scope.deadline = scope.total_deadline

    def send(self, data: Any) -> None:
        """Send, looking at the clock between pieces."""
        scope = current()
        if self.sock is None:
            self.connect()
        if scope.sent is False:
            scope.sent = None
        if not isinstance(data, (bytes, bytearray)):  # of somebody else's request
            self.sock.settimeout(scope.send_timeout())
            super().send(data)
            return
        if len(data) <= _SEND_PIECE:
            self.sock.settimeout(scope.send_timeout())
            self.sock.sendall(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _SEND_PIECE):
            self.sock.settimeout(scope.send_timeout())
            self.sock.sendall(view[start : start + _SEND_PIECE])

    def read_response(self, method: str) -> HTTP11Response:
        """Read the head of the response."""
        scope, buffer = current(), self._receive_buffer
        if buffer is None or buffer.sock is not self.sock:
            buffer = self._receive_buffer = ReceiveBuffer(self.sock, scope)
        else:
            buffer.scope = scope
        return HTTP11Response(self, buffer, method)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        """Read the head of the response, for urllib3 and in its form."""
        options, self._response_options = self._response_options, None
        if options is None:
            raise http.client.ResponseNotReady
        state: Any = self  # http.client's own books: for it the response is over, so that it lets the next request pass
        state._HTTPConnection__state = http.client._CS_IDLE  # type: ignore[attr-defined]  # not in typeshed
        return urllib3_response(self.read_response(options.request_method), options)

    def request(  # type: ignore[override]  # urllib3's signature
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
        preload_content: bool = True,
        decode_content: bool = True,
        enforce_content_length: bool = True,
    ) -> None:
        """Send a request as urllib3 has it done: through a proxy, and for whoever sends through the adapter themselves."""
        self._response_options = options = _ResponseOptions(
            method, url, preload_content, decode_content, enforce_content_length
        )
        is_plain = headers is not None and "Host" in headers and all(isinstance(text, str) for text in headers.values())
        if headers is not None and is_plain and not chunked and (body is None or isinstance(body, bytes)):
            self.send_request(method, url, body, headers)
            return
        scope = current()
        try:
            super().request(
                method,
                url,
                body,
                headers,
                chunked=chunked,
                preload_content=preload_content,
                decode_content=decode_content,
                enforce_content_length=enforce_content_length,
            )
        except OSError:
            self._response_options = options
            scope.deadline = scope.earlier(scope.after_send)  # urllib3 may still look for an response that came early
            raise
        scope.request_sent()

    def send_request(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Send a request and note that it has left; head and body in one piece address_info they are small.

        http.client's way, a call per field, takes twice as long.

        Raises:
            ValueError: A value would break the head.
        """
        lines = [f"{method} {url} HTTP/1.1"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        head = "\r\n".join(lines) + "\r\n\r\n"
        if head.count("\n") != len(lines) + 1 or head.count("\r") != len(lines) + 1 or " " in url or "\0" in head:
            raise ValueError("a control character in a header or the path")
        data = head.encode("latin-1")
        scope = current()
        try:
            if body and len(data) + len(body) <= _SEND_PIECE:
                self.send(data + body)
            else:
                self.send(data)
                if body:
                    self.send(body)
        except OSError:
            scope.deadline = scope.earlier(scope.after_send)  # an response may have come early, and be looked for
            raise
        scope.request_sent()

    def close(self) -> None:
        """Close the socket, and forget what came over it."""
        self._receive_buffer = self.pending_response = None
        super().close()


def urllib3_response(response: HTTP11Response, options: _ResponseOptions) -> HTTPResponse:
    """Return urllib3's response around ours; the connection is for that one to give back, and for the pool to judge."""
    if (connection := response._connection) is not None:
        connection.pending_response, response._connection = response, None
    file: Any = ResponseFile(response)
    return HTTPResponse(
        body=file,
        # With it urllib3 gives the connection back at the end of the body, which for calls of ours is too early: they are still bound.
        original_response=file if current().adopted else None,
        headers=response.headers,
        status=response.status,
        version=response.version,
        version_string=f"HTTP/{response.version // 10}.{response.version % 10}",
        reason=response.reason,
        preload_content=options.preload_content,
        decode_content=options.decode_content,
        enforce_content_length=options.enforce_content_length,
        request_method=options.request_method,
        request_url=options.request_url,
    )


class PlainConnection(_ScopedConnection):
    """A connection without TLS."""


class TLSConnection(_ScopedConnection, HTTPSConnection):
    """A connection with TLS; the handshake counts as connecting."""

    response_class = _TunnelResponse
    #: Returns the TLS context to connect with; ``None``: that given at the start.
    make_context: Callable[[], ssl.SSLContext] | None = None

    def connect(self) -> None:
        """Connect, with the certificates as their files say now."""
        if self.make_context is not None:
            try:
                self.ssl_context = self.make_context()
            except ConfigurationError:
                if self.ssl_context is None:
                    raise  # else the file is being replaced: what it held until now goes on to hold
        super().connect()


class TLSSocket(ssl.SSLSocket):
    """A TLS socket that belongs to the call from before its handshake: wrapping takes the file descriptor from the socket below."""

    def do_handshake(self, *block: bool) -> None:
        """Shake hands within the call's limit for connecting. There is no argument address_info gevent has replaced the base class."""
        scope = current()
        try:
            scope.bind(self)
            self.settimeout(scope.seconds_left(scope.connect_deadline))
            super().do_handshake(*block)
        except BaseException:
            # Before Python 3.12 ssl closes the socket after some errors only, a cancel or Ctrl-C not among them.
            scope.unbind()
            self.close()
            raise
