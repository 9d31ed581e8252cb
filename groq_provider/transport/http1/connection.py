"""HTTP/1.1 connections, each wait of which ends at the deadline of the call or with its cancellation."""

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
from groq_provider.transport.http1.receive import (
    HTTP11Response,
    ReceiveBuffer,
    ResponseFile,
    is_plain_socket,
    new_poller,
    wait_until,
)
from groq_provider.transport.scope import CancelScope, current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Buffer

    from groq_provider.protocols import RequestBody

__all__ = ["EncodedHeaders", "PlainConnection", "TLSConnection", "TLSSocket", "socket_options"]

#: Head and body of at most so many bytes go out together. Also the bytes to send between two checks of the deadline.
_SEND_PIECE = 65_536


def socket_options() -> list[tuple[int, int, int]]:
    """Return the options of every socket: no delay, and keepalive probes that detect a dead peer within about two minutes."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return options


class EncodedHeaders:
    """The header fields of all requests of one kind, except the length of the body.

    The first request that sends them writes them out for all later ones. The ``repr`` does not show them: they hold the key.

    Attributes:
        headers: The fields by name.
    """

    __slots__ = ("_lines", "headers")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._lines: bytes | None = None

    def lines(self) -> bytes:
        """Return the fields as they are sent, each with its end of line.

        Raises:
            ValueError: A value would break the head.
        """
        lines = self._lines
        if lines is None:
            lines = self._lines = _encode_lines(
                "".join([f"{name}: {text}\r\n" for name, text in self.headers.items()]), len(self.headers)
            )
        return lines


def _encode_lines(text: str, line_count: int) -> bytes:
    """Return so many lines of a head as they are sent.

    Raises:
        ValueError: A value holds an end of line, a null character, or a character beyond Latin-1.
    """
    if text.count("\n") != line_count or text.count("\r") != line_count or "\0" in text:
        raise ValueError("control character in a header or the path")
    return text.encode("latin-1")


def _wait_connected(sock: socket.socket, timeout: float | None) -> bool:
    """Wait up to *timeout* seconds until the attempt to connect has succeeded or failed."""
    poller = new_poller()
    if poller is None:  # Windows reports a failure as an exceptional condition
        return any(select.select([], [sock], [sock], timeout))
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


class _TunnelReader(socket.SocketIO):
    """The read side of a socket while http.client opens a tunnel through a proxy.

    Never waits past the deadline of the call.
    """

    def __init__(self, sock: socket.socket, scope: CancelScope) -> None:
        super().__init__(sock, "r")
        # As in socket.makefile(): the file keeps the socket open. With TLS inside TLS, count on the socket below.
        counted: Any = getattr(sock, "socket", sock)
        counted._io_refs += 1
        self._socket = sock
        self._scope = scope

    def readinto(self, buffer: Buffer) -> int | None:
        """Read once, until the deadline of the call at most."""
        self._socket.settimeout(self._scope.seconds_left(self._scope.deadline))
        return self._socket.recv_into(buffer)


class _FileMaker:
    """Takes the place of the socket for http.client, which only calls its ``makefile()``."""

    __slots__ = ("_scope", "_sock")

    def __init__(self, sock: socket.socket, scope: CancelScope) -> None:
        self._sock = sock
        self._scope = scope

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TunnelReader(self._sock, self._scope))


class _TunnelResponse(http.client.HTTPResponse):
    """The response of a proxy to CONNECT, which http.client reads by itself."""

    #: For an instance that an interrupt left half made: io closes that as well and reads this attribute.
    fp: Any = None

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_FileMaker(sock, current()), *args, **kwargs)  # type: ignore[arg-type]  # only makefile() is used

    def flush(self) -> None:
        """Do nothing: nothing is written here, and the garbage collector may have closed the buffer already."""


class _ScopedConnection(HTTPConnection):
    """The common part of both kinds of connections: all waits follow the current :class:`CancelScope`."""

    response_class = _TunnelResponse
    _receive_buffer: ReceiveBuffer | None = None
    #: The response that urllib3 is reading from this connection. urllib3 returns the connection to the pool unchecked,
    #: so the pool decides by this response whether to close it.
    pending_response: HTTP11Response | None = None
    #: Overrides http.client's global debug level: its output would show the key.
    debuglevel = 0
    #: Monotonic instant at which the connection went back to the pool; ``None`` if it was not there since it connected.
    idle_since: float | None = None
    #: The call that opened this connection for HTTP/2 and was offered HTTP/1.1 only; reset by the first request.
    made_for: CancelScope | None = None
    pid = 0

    def _new_conn(self) -> socket.socket:
        """Connect to the addresses in turn. Together they must finish within the limits of the call."""
        scope = current()
        host: str = self._dns_host  # with its trailing dot, if it has one
        try:
            addresses = socket.getaddrinfo(host, self.port, 0, socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except UnicodeError as error:
            raise NewConnectionError(self, f"cannot resolve {self.host!r}: {error}") from error
        last_error: OSError | None = None
        for index, address_info in enumerate(addresses):
            try:
                # Give each address its share of the remaining time, so that a dead one leaves time for the next.
                remaining = scope.seconds_left(scope.connect_deadline)
                return self._connect_to(
                    scope, address_info, None if remaining is None else remaining / (len(addresses) - index)
                )
            except OSError as error:
                last_error = error
        if isinstance(last_error, TimeoutError):
            raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from last_error
        raise NewConnectionError(self, f"cannot connect to {self.host}: {last_error or 'no address'}") from last_error

    def _connect_to(self, scope: CancelScope, address_info: tuple[Any, ...], timeout: float | None) -> socket.socket:
        address_family, socket_type, protocol, _name, address = address_info
        sock = socket.socket(address_family, socket_type, protocol)
        try:
            for socket_option in self.socket_options or ():
                sock.setsockopt(*socket_option)
            scope.bind(sock)
            # Connect without blocking. With a timeout, a cancel just before connect() would find no connection to shut
            # down, and connect() would then wait for its whole timeout.
            sock.setblocking(False)
            try:
                sock.connect(address)
                in_progress = False
            except BlockingIOError:
                in_progress = True
            if in_progress and not scope.cancelled:
                if not _wait_connected(sock, timeout):
                    raise TimeoutError("timed out")
                if error_number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error_number, os.strerror(error_number))
            if scope.cancelled:  # a socket that was shut down may report success
                raise ConnectionAbortedError("cancelled")
            # For the TLS handshake or the tunnel that follows.
            sock.settimeout(scope.seconds_left(scope.connect_deadline))
        except BaseException:
            scope.unbind()
            sock.close()
            raise
        self.pid = os.getpid()
        self.idle_since = None
        return sock

    def connect(self) -> None:
        """Connect, including a proxy's tunnel and the TLS handshake, within the limit for connecting."""
        scope = current()
        sent, received = scope.sent, scope.received
        scope.deadline = scope.connect_deadline
        try:
            super().connect()
        except BaseException:
            scope.unbind()
            raise
        finally:  # bytes sent through the tunnel so far are not the request
            scope.sent, scope.received = sent, received
            scope.deadline = scope.total_deadline
        self._prepare_socket()

    def _prepare_socket(self) -> None:
        """Set the mode in which the socket is used; see :func:`~groq_provider.transport.http1.receive.is_plain_socket`."""
        if is_plain_socket(self.sock):
            self.sock.setblocking(False)

    def send(self, data: Any) -> None:
        """Send for http.client and urllib3: the request for a tunnel, and what foreign code sends."""
        scope = current()
        if self.sock is None:
            self.connect()
        if isinstance(data, (bytes, bytearray)):
            self._send_all(data, scope)
            return
        if scope.sent is False:
            scope.sent = None
        self.sock.settimeout(scope.send_timeout())
        try:
            super().send(data)  # a file or an iterable
        finally:
            if self.sock is not None:
                self._prepare_socket()

    def _send_all(self, data: bytes | bytearray, scope: CancelScope) -> None:
        """Send *data*, within the deadline of the call."""
        if scope.sent is False:
            scope.sent = None
        sock = self.sock
        if not is_plain_socket(sock):
            view = memoryview(data)
            for start in range(0, len(view), _SEND_PIECE):
                sock.settimeout(scope.send_timeout())
                sock.sendall(view[start : start + _SEND_PIECE])
            return
        unsent: bytes | bytearray | memoryview = data
        if scope.deadline is not None and scope.deadline <= scope.clock.monotonic():
            raise TimeoutError("timed out")
        while True:
            needs_room = True
            try:
                sent = sock.send(unsent)
            except (BlockingIOError, ssl.SSLWantWriteError):
                sent = 0
            except ssl.SSLWantReadError:
                sent, needs_room = 0, False
            if sent == len(unsent):
                return
            timeout = scope.send_timeout()
            if sent:
                unsent = memoryview(unsent)[sent:]
            elif not wait_until(sock, timeout, writable=needs_room):
                raise TimeoutError("timed out")

    def read_response(self, method: str, scope: CancelScope) -> HTTP11Response:
        """Read the head of the response."""
        buffer = self._receive_buffer
        if buffer is None or buffer.sock is not self.sock:
            buffer = self._receive_buffer = ReceiveBuffer(self.sock, scope)
        else:
            buffer.scope = scope
        return HTTP11Response(self, buffer, method)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        """Read the head of the response and return it as urllib3's response."""
        options, self._response_options = self._response_options, None
        if options is None:
            raise http.client.ResponseNotReady
        state: Any = self  # tell http.client that the response is over, so that it allows the next request
        state._HTTPConnection__state = http.client._CS_IDLE  # type: ignore[attr-defined]  # not in typeshed
        return urllib3_response(self.read_response(options.request_method, current()), options)

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
        """Send a request in urllib3's way: through a proxy, and for foreign code."""
        self._response_options = options = _ResponseOptions(
            method, url, preload_content, decode_content, enforce_content_length
        )
        is_plain = headers is not None and "Host" in headers and all(isinstance(text, str) for text in headers.values())
        if (
            headers is not None
            and is_plain
            and not chunked
            and (body is None or isinstance(body, bytes) or hasattr(body, "content_type"))
        ):
            if self.sock is None:
                self.connect()
            self.send_request(method, url, body, headers, current())
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
            scope.deadline = scope.deadline_after(scope.after_send)  # urllib3 may still read a response that came early
            raise
        scope.request_sent()

    def send_request(
        self,
        method: str,
        url: str,
        body: RequestBody | None,
        headers: Mapping[str, str] | EncodedHeaders,
        scope: CancelScope,
    ) -> None:
        """Send a request on the open connection, and record that it was sent. Head and body go out together if they are small.

        Args:
            method: The method.
            url: The path and the query.
            body: The body.
            headers: All fields; or, for a body of bytes, all but its length.
            scope: The deadlines of the call.

        Raises:
            ValueError: A value would break the head.
        """
        if " " in url:
            raise ValueError("a space in the path")
        first_line = _encode_lines(f"{method} {url} HTTP/1.1\r\n", 1)
        if isinstance(headers, EncodedHeaders):
            data = b"%b%bContent-Length: %d\r\n\r\n" % (first_line, headers.lines(), len(body or b""))
        else:
            data = b"%b%b\r\n" % (first_line, EncodedHeaders(headers).lines())
        try:
            if body is None or isinstance(body, bytes):
                if body and len(data) + len(body) <= _SEND_PIECE:
                    self._send_all(data + body, scope)
                else:
                    self._send_all(data, scope)
                    if body:
                        self._send_all(body, scope)
            else:
                self._send_all(data, scope)
                for piece in body:
                    self._send_all(piece, scope)
        except OSError:
            scope.deadline = scope.deadline_after(
                scope.after_send
            )  # the pool may still read a response that came early
            raise
        scope.request_sent()

    def close(self) -> None:
        """Close the socket, and drop the bytes received on it."""
        self._receive_buffer = self.pending_response = None
        super().close()


def urllib3_response(response: HTTP11Response, options: _ResponseOptions) -> HTTPResponse:
    """Wrap our response in urllib3's. urllib3 returns the connection, and the pool decides whether to close it."""
    if (connection := response._connection) is not None:
        connection.pending_response, response._connection = response, None
    file: Any = ResponseFile(response)
    return HTTPResponse(
        body=file,
        # With this, urllib3 returns the connection at the end of the body. For our own calls that is too early: they
        # still have it bound.
        original_response=file if current().adopted else None,
        headers=response.headers.to_urllib3(),
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
    #: Returns the TLS context to connect with; ``None`` means the context passed to the constructor.
    make_context: Callable[[], ssl.SSLContext] | None = None

    def connect(self) -> None:
        """Connect, using the current contents of the certificate files."""
        if self.make_context is not None:
            try:
                self.ssl_context = self.make_context()
            except ConfigurationError:
                if self.ssl_context is None:
                    raise  # otherwise a file is just being replaced: keep its previous contents
        super().connect()


class TLSSocket(ssl.SSLSocket):
    """A TLS socket that is bound to the call before its handshake, because wrapping takes the descriptor from the socket below."""

    def do_handshake(self, *block: bool) -> None:
        """Do the handshake within the limit for connecting. gevent's version takes no argument."""
        scope = current()
        try:
            scope.bind(self)
            self.settimeout(scope.seconds_left(scope.connect_deadline))
            super().do_handshake(*block)
        except BaseException:
            # Before Python 3.12, ssl closes the socket after some errors only, and not after a cancel or Ctrl-C.
            scope.unbind()
            self.close()
            raise
