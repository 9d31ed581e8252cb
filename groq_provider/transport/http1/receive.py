"""HTTP/1.1 responses read from a connection: head, framing and body. Every wait ends at the deadline of the call."""

from __future__ import annotations

import errno
import http.client
import select
import socket
import ssl
import sys
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPHeaderDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.transport.scope import CancelScope

__all__ = [
    "BadFraming",
    "HTTP11Response",
    "Headers",
    "ReceiveBuffer",
    "ResponseFile",
    "is_plain_socket",
    "new_poller",
    "wait_until",
]

#: Bytes to read at once, the size of a TLS record. So much memory is allocated during a wait.
_READ_SIZE = 16_384
#: The same where more bytes are known to come.
_LARGE_READ_SIZE = 262_144
#: Most bytes of the line with a chunk's size, including its extensions.
_MAX_SIZE_LINE = 8_192
#: The limits of http.client for a head.
_MAX_FIELDS, _MAX_LINE = 100, 65_536
#: Status codes of responses without a body.
_BODILESS_STATUSES = frozenset({204, 304})
#: Status codes after which the connection is closed. With 408 and 425 the server found the request late or early, so it
#: may be confused about the connection; with 101 it would switch to another protocol.
_CLOSING_STATUSES = frozenset({101, 408, 425})
_HEX_DIGITS = b"0123456789abcdefABCDEF"

#: The option that returns Linux's ``struct tcp_info``; ``None`` on other systems. Its first byte is the state of the
#: connection; the bytes of the slice are the number of bytes received in order, the peer's FIN counted as one.
_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_ESTABLISHED = 1
_TCP_BYTES_RECEIVED = slice(128, 136)
#: Errors of a socket in non-blocking mode that has nothing to read, or no room to write. TLS may need either for both.
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def new_poller() -> Any:
    """Return a new poll object; ``None`` where there is none: on Windows, and under Eventlet, which may remove it after this import."""
    make = getattr(select, "poll", None)
    return None if make is None else make()


def is_plain_socket(sock: Any) -> bool:
    """Return whether *sock* is a socket of the system, with TLS or without.

    Our connections keep such a socket in non-blocking mode, try each send at once, and wait with ``poll()``. Each wait of
    a socket in timeout mode takes one more system call, and each of these hands the interpreter's lock to another thread.
    Other objects (TLS inside TLS, Eventlet's sockets) are used in timeout mode.
    """
    return isinstance(sock, socket.SocketType)  # looked up at each call, since gevent may have replaced the class


def wait_until(sock: Any, timeout: float | None, *, writable: bool = False) -> bool:
    """Wait up to *timeout* seconds until *sock* can be read without blocking: data, or its end. Or until it can be written."""
    poller = new_poller()
    if poller is None:  # Windows, Eventlet
        read, write, _ = select.select([] if writable else [sock], [sock] if writable else [], [], timeout)
        return bool(read or write)
    poller.register(sock, select.POLLOUT if writable else select.POLLIN)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


class BadFraming(http.client.HTTPException):
    """The framing of a body is invalid."""


class ReceiveBuffer:
    """The bytes that arrived on a connection and were not consumed yet.

    One per connection, used by one call after the other.

    Attributes:
        scope: The deadlines of the current call.
        buffered: The bytes.
        known_names: The names of the fields of the last head, as they came and in lower case; empty before the first.
    """

    __slots__ = (
        "_byte_count",
        "_decrypted",
        "_is_plain",
        "_peer_closed",
        "_poll",
        "_read_error",
        "_reports_tcp_info",
        "buffered",
        "known_names",
        "scope",
        "sock",
    )

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self.sock = sock
        self.scope = scope
        self.buffered = b""
        self.known_names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._peer_closed = False
        self._read_error: OSError | None = None
        self._is_plain = is_plain_socket(sock)
        #: Counts the bytes that TLS has decrypted already, which poll() does not see; ``None`` without TLS.
        self._decrypted: Callable[[], int] | None = getattr(sock, "pending", None)
        self._byte_count = 0
        self._reports_tcp_info = _TCP_INFO is not None and self._is_plain and self._decrypted is None
        self._poll: Callable[[float | None], list[Any]] | None = None
        poller = new_poller() if self._is_plain else None
        if poller is not None:
            poller.register(sock, select.POLLIN)
            self._poll = poller.poll

    def receive(self, size: int = _READ_SIZE) -> bytes:
        """Return up to *size* bytes as they arrive, waiting until the deadline of the call; empty at the end of the connection."""
        if self._read_error is not None:
            raise self._read_error
        scope, deadline, sock, decrypted = self.scope, self.scope.deadline, self.sock, self._decrypted
        while True:
            remaining = None
            if deadline is not None:
                remaining = deadline - scope.clock.monotonic()
                if remaining <= 0:
                    raise TimeoutError("timed out")
            if not self._is_plain:
                sock.settimeout(remaining)
            elif decrypted is None or not decrypted():
                poll = self._poll
                if poll is None:  # Windows, Eventlet
                    has_input = wait_until(sock, remaining)
                else:
                    has_input = bool(poll(None if remaining is None else remaining * 1000))
                if not has_input:
                    raise TimeoutError("timed out")
            try:
                data: bytes = sock.recv(size)
            except _NOT_NOW:  # a part of a TLS record, or a wake-up without cause
                continue
            if data:
                scope.received = True
                self._byte_count += len(data)
            return data

    def has_input(self) -> bool:
        """Return, without waiting, whether the socket can be read: data, or its end.

        On Linux without TLS the kernel is first asked how many bytes have arrived: ``getsockopt()`` does not hand the
        interpreter's lock to another thread as ``poll()`` does. Unless it says that all of them were read and the
        connection is still open, ``poll()`` decides.
        """
        count = self._byte_count
        if self._reports_tcp_info and count:
            try:
                info = self.sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _TCP_BYTES_RECEIVED.stop)
            except OSError:  # not a TCP socket
                self._reports_tcp_info = False
            else:
                if info[0] == _TCP_ESTABLISHED and info[_TCP_BYTES_RECEIVED] == count.to_bytes(8, sys.byteorder):
                    return False
        return bool(wait_until(self.sock, 0) if self._poll is None else self._poll(0))

    def check_limits(self) -> None:
        """Check for a cancel and the deadline, between steps that may process much input without waiting.

        Raises:
            OSError: The call was cancelled, or its deadline has passed.
        """
        scope = self.scope
        scope.seconds_left(scope.deadline)
        if scope.cancelled:
            raise ConnectionAbortedError(errno.ECONNABORTED, "cancelled")

    def read_line(self, max_bytes: int = _MAX_LINE) -> bytes:
        """Consume a line with its end.

        If the connection ends first, return the rest; of a longer line, the first *max_bytes* and one more.
        """
        while True:
            buffered = self.buffered
            end = buffered.find(b"\n", 0, max_bytes + 1) + 1
            if not end and len(buffered) > max_bytes:
                end = max_bytes + 1
            if not end:
                data = self.receive()
                if data:
                    self.buffered = buffered + data
                    continue
                end = len(buffered)
            self.buffered = buffered[end:]
            return buffered[:end]

    def peek(self) -> bool:
        """Buffer the bytes that have arrived, without waiting.

        Say whether the end of the connection or an error follows them.
        """
        if not self._peer_closed and self._read_error is None:
            completed = False
            try:
                if not self._is_plain:
                    self.sock.settimeout(0)
                data = self.sock.recv(_READ_SIZE)
                self._byte_count += len(data)
                self.buffered += data
                self._peer_closed = not data
                completed = True
            except _NOT_NOW:
                completed = True
                return False
            except OSError as error:  # the system reports it once, so keep it for the next read
                self._read_error = error
                completed = True
            finally:
                if not completed:  # an interrupt, which may have lost bytes
                    self._read_error = ConnectionAbortedError(errno.ECONNABORTED, "interrupted while reading")
        return self._peer_closed or self._read_error is not None


class Headers(dict[str, str]):
    """Header fields by their names in lower case, the only spelling to ask for. Several fields of one name are joined by commas."""

    #: The values of each name that came more than once.
    repeated: Mapping[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Add a field."""
        name = name.lower()
        if name not in self:
            self[name] = value
            return
        values = [*self.repeated.get(name, [self[name]]), value]
        self.repeated = {**self.repeated, name: values}
        self[name] = ", ".join(values)

    def to_urllib3(self) -> HTTPHeaderDict:
        """Return the fields in the form that urllib3 and requests expect, for responses that they read."""
        fields = HTTPHeaderDict()
        for name, value in self.items():
            for each in self.repeated.get(name, (value,)):
                fields.add(name, each)
        return fields

    @classmethod
    def of(cls, head: str, buffer: ReceiveBuffer) -> Headers | None:
        """Parse a complete head of the usual form. ``None`` means that it must be read line by line.

        A server nearly always sends the names of its last head again, in the same order; *buffer* keeps them.
        """
        # Each step is a C function over all lines: a step of Python for each line would take longer than all the rest of a call's head.
        names, separators, values = zip(*map(str.partition, head.split("\r\n"), repeat(":")))  # noqa: B905 - of one length
        if "" in separators or head.count("\n") != len(names) - 1:
            return None
        known_names, lower_names = buffer.known_names
        if names != known_names:
            if len(names) > _MAX_FIELDS or "" in names or tuple(map(str.strip, names)) != names:
                return None
            lower_names = tuple(map(str.lower, names))
            # Not kept for another connection, whose threads would count the references to the same strings.
            buffer.known_names = (names, lower_names)
        fields = cls(zip(lower_names, map(str.strip, values)))  # noqa: B905 - of one length
        if len(fields) < len(names):  # a name came twice
            fields.clear()
            for name, value in zip(names, values, strict=True):
                fields.add(name, value.strip())
        return fields


def _read_fields(buffer: ReceiveBuffer) -> Headers:
    """Read header fields line by line, up to the empty line.

    Raises:
        http.client.HTTPException: The head is too large, incomplete or malformed.
    """
    fields = Headers()
    name = ""
    for _ in range(_MAX_FIELDS + 1):
        line = buffer.read_line()
        if line in (b"\r\n", b"\n"):
            return fields
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
        if line[-1:] != b"\n":
            raise http.client.IncompleteRead(b"")
        if line[:1] in (b" ", b"\t") and name:  # an obsolete line folding continues the value
            fields[name.lower()] += f" {line.decode('latin-1').strip()}"
            continue
        name, separator, text = line.decode("latin-1").partition(":")
        if not separator or not name or name != name.strip():
            raise http.client.HTTPException("invalid header field")
        fields.add(name, text.strip())
    raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")


def _skip_fields(buffer: ReceiveBuffer) -> None:
    """Skip fields up to the empty line, or to the end of the connection."""
    for _ in range(_MAX_FIELDS + 1):
        line = buffer.read_line()
        if line in (b"\r\n", b"\n", b""):
            return
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
    raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")


def _read_status(buffer: ReceiveBuffer) -> tuple[str, int, str]:
    """Read a status line; return version, code and reason.

    Raises:
        http.client.HTTPException: The line is malformed; RemoteDisconnected if the connection ended before it.
    """
    data = buffer.read_line()
    if len(data) > _MAX_LINE:
        raise http.client.LineTooLong("status line")
    if not data:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    version, code, reason = [*data.decode("latin-1").split(None, 2), "", "", ""][:3]
    if not version.startswith("HTTP/") or len(code) != 3 or not (code.isascii() and code.isdigit()) or code < "100":
        raise http.client.BadStatusLine("")  # not its text, which may echo the request
    return version, int(code), reason.strip()


def _single_value(text: str) -> str:
    """Return the value of a field that was repeated with the same value (RFC 9110, 8.6); otherwise the text unchanged."""
    if "," not in text:
        return text
    distinct = {part.strip() for part in text.split(",")}
    return distinct.pop() if len(distinct) == 1 else text


class HTTP11Response:
    """One response: the constructor reads the head, :meth:`read1` reads the body as it arrives.

    It replaces the response of http.client, which parses fields with the email package in eight times the time, accepts
    an incomplete head, and waits for whole chunks. It raises the same exceptions, which the caller maps.

    Belongs to the thread that runs the call.

    Attributes:
        status: Status code.
        reason: The reason phrase of the server.
        version: 10 or 11, as in http.client.
        headers: Header fields.
        chunked: Whether the body is chunked.
        self_delimited: Whether the body marks its own end, so that a closed connection cannot pass for it.
        keep_alive: Whether the head allows another request on this connection.
    """

    __slots__ = (
        "_body_left",
        "_body_open",
        "_buffer",
        "_chunk_left",
        "_connection",
        "_pool",
        "chunked",
        "headers",
        "keep_alive",
        "reason",
        "self_delimited",
        "status",
        "version",
    )  # fmt: skip

    def __init__(self, connection: Any, buffer: ReceiveBuffer, method: str) -> None:
        self._connection = connection
        self._pool: Any = None
        self._buffer = buffer
        self._body_open = True
        self._chunk_left: int | None = None  # bytes left of this chunk; 0: its CRLF comes next; None: a size comes next
        self._read_head()
        self._find_framing(method)

    # --- the head ----------------------------------------------------------------------------------------------------------

    def _read_head(self) -> None:
        buffer = self._buffer
        buffered = buffer.buffered or buffer.receive()
        end = buffered.find(b"\r\n\r\n")
        # The fast case, for nearly every head: it has arrived whole, with CRLF at the end of each line.
        if end > 0 and buffered.startswith(b"HTTP/1.1 "):
            line, _, lines = buffered[9:end].decode("latin-1").partition("\r\n")
            code, _, reason = line.partition(" ")
            if len(code) == 3 and code.isdecimal() and code >= "200" and "\n" not in line:
                fields = Headers.of(lines, buffer)
                if fields is not None:
                    buffer.buffered = buffered[end + 4 :]
                    self.version, self.status, self.headers = 11, int(code), fields
                    self.reason = reason.strip()
                    return
        buffer.buffered = buffered
        version, status, reason = _read_status(buffer)
        while status < 200 and status != 101:  # skip interim responses such as 100 and 103
            buffer.check_limits()
            _skip_fields(buffer)  # if the connection ends there, the next read shows it
            version, status, reason = _read_status(buffer)
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.version = 11 if version.startswith("HTTP/1.") and version != "HTTP/1.0" else 10
        self.status, self.reason = status, reason
        self.headers = _read_fields(buffer)

    def _find_framing(self, method: str) -> None:
        """Determine where the body ends, and whether the connection can be used again."""
        fields, status = self.headers, self.status
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if coding is not None and (coding := _single_value(coding.lower())) not in ("", "chunked", "identity"):
            # We could not tell the framing from the body.
            raise http.client.HTTPException("a transfer coding that was not requested")
        self.chunked = coding == "chunked"
        # Both framings at once may be an attempt to smuggle a request: read the body as chunked, then close the
        # connection.
        self.keep_alive = status not in _CLOSING_STATUSES and not (self.chunked and length is not None)
        if status < 200 or status in _BODILESS_STATUSES or method == "HEAD":
            self._body_left: int | None = 0
            self.chunked = False
        elif self.chunked or length is None:
            self._body_left = None
        elif "," in length and "," in (length := _single_value(length)):
            raise http.client.HTTPException("conflicting Content-Length values")
        else:
            self._body_left = int(length.lstrip("0")[:19] or "0") if length.isascii() and length.isdigit() else None
        self.self_delimited = self.chunked or self._body_left is not None
        persistence = fields.get("connection")
        if not self.self_delimited:
            self.keep_alive = False
        elif self.version == 10:
            self.keep_alive = self.keep_alive and persistence is not None and "keep-alive" in persistence.lower()
        elif persistence is not None and "close" in persistence.lower():
            self.keep_alive = False

    # --- the body ----------------------------------------------------------------------------------------------------------

    def read1(self) -> bytes:
        """Return the part of the body that has arrived, waiting for the first byte; empty at the end of the body.

        For a chunked body that is all complete chunks that have arrived, or a part of one chunk.

        Raises:
            http.client.IncompleteRead: The connection ended before the body.
            BadFraming: A chunk is malformed.
            OSError: The connection broke, or the deadline has passed.
        """
        if not self._body_open:
            return b""
        if not self.chunked:
            return self._read_plain()
        buffer = self._buffer
        remaining = self._chunk_left
        if not remaining:
            buffered = buffer.buffered
            if not buffered:
                buffered = buffer.buffered = buffer.receive()
            # The fast case, for well-formed chunks; _next_chunk() handles all others.
            pieces = []
            consumed, buffered_size = 0, len(buffered)
            # After the CRLF of the previous chunk.
            position = 0 if remaining is None else 2 if buffered[:2] == b"\r\n" else buffered_size
            while position < buffered_size:
                newline = buffered.find(b"\r\n", position, position + _MAX_SIZE_LINE)
                size = buffered[position:newline]
                if newline < 0 or not size or size.strip(_HEX_DIGITS):
                    size = size.partition(b";")[0].strip()  # drop the extensions, which have no meaning here
                    if newline < 0 or not size or size.strip(_HEX_DIGITS):
                        break
                start = newline + 2
                end = start + int(size, 16)
                if start == end or end > buffered_size:
                    break
                pieces.append(buffered[start:end])
                consumed = end
                position = end + 2
                if buffered[end:position] != b"\r\n":
                    break
            if pieces:
                # True nearly always; the next read then starts with a size.
                ends_here = buffered[consumed : consumed + 2] == b"\r\n"
                buffer.buffered = buffered[consumed + 2 :] if ends_here else buffered[consumed:]
                self._chunk_left = None if ends_here else 0
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            remaining = self._next_chunk()
            if not remaining:
                self._body_open = False
                return b""
        data = buffer.buffered or buffer.receive(min(max(remaining, _READ_SIZE), _LARGE_READ_SIZE))
        if not data:
            raise http.client.IncompleteRead(b"")
        buffer.buffered = data[remaining:]
        data = data[:remaining]
        self._chunk_left = remaining - len(data)
        return data

    def _read_plain(self) -> bytes:
        """Read a body that ends at its announced length, or with the connection."""
        length = self._body_left
        if length == 0:
            self._body_open = False
            return b""
        buffer = self._buffer
        data = buffer.buffered
        if data:
            buffer.buffered = b""
        else:
            # Read at least a whole TLS record: the rest of one would stay in the TLS layer, where excess bytes go
            # unnoticed.
            data = buffer.receive(_READ_SIZE if length is None else max(_READ_SIZE, min(length, _LARGE_READ_SIZE)))
            if not data:
                self._body_open = False
                if length:
                    raise http.client.IncompleteRead(b"", length)
                return b""
        if length is not None:
            if len(data) > length:
                buffer.buffered = data[length:]
                data = data[:length]
            self._body_left = length - len(data)
        return data

    @property
    def complete(self) -> bool:
        """Whether the whole announced length has arrived, so that no further read is needed to know it."""
        return self._body_left == 0

    def _next_chunk(self) -> int:
        """Read up to the data of the next chunk and return its size.

        After the last chunk read the trailer and return 0.
        """
        buffer = self._buffer
        buffer.check_limits()
        if self._chunk_left is not None:
            while len(buffer.buffered) < 2 and (data := buffer.receive()):
                buffer.buffered += data
            terminator, buffer.buffered = buffer.buffered[:2], buffer.buffered[2:]
            if terminator != b"\r\n":
                raise (
                    BadFraming("chunk without its terminating CRLF")
                    if len(terminator) == 2
                    else http.client.IncompleteRead(b"")
                )
            self._chunk_left = None
        line = buffer.read_line(_MAX_SIZE_LINE)
        if line[-1:] != b"\n" and len(line) <= _MAX_SIZE_LINE:
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].strip()
        if line[-1:] != b"\n" or not size or size.strip(_HEX_DIGITS):
            raise BadFraming("invalid chunk size")
        remaining = int(size, 16)
        if not remaining:
            _skip_fields(buffer)
        self._chunk_left = remaining or None
        return remaining

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read1` can return or raise without waiting."""
        if not self._body_open or self._has_input():
            return True
        buffer = self._buffer
        sock = buffer.sock
        pending = getattr(sock, "pending", int)  # bytes decrypted already, which poll() does not see
        wait_deadline = time.monotonic() + timeout
        while pending() or wait_until(sock, max(0.0, wait_deadline - time.monotonic())):
            if buffer.peek() or self._has_input():
                return True
            if time.monotonic() >= wait_deadline:
                break
        return False

    def _has_input(self) -> bool:
        """Say whether a part of the body, or its end, is in the buffer."""
        buffered = self._buffer.buffered
        if not self.chunked or self._chunk_left:
            return bool(buffered) or self._body_left == 0
        # Between two chunks, the end of the last one and an incomplete size line do not count yet.
        if self._chunk_left == 0 and buffered[:2] == b"\r\n":
            buffered = buffered[2:]
        if len(buffered) > _MAX_SIZE_LINE:
            return True  # not a valid size line, so read1() will raise
        size, _, data = buffered.partition(b"\n")
        size = size.partition(b";")[0].strip()
        if size and not size.strip(b"0"):  # the last chunk ends with an empty line after its trailer
            return data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data
        return bool(data)

    @property
    def fully_read(self) -> bool:
        """Whether the end of the body was read."""
        return not self._body_open or self._body_left == 0

    # --- the connection ----------------------------------------------------------------------------------------------------

    @property
    def can_reuse(self) -> bool:
        """Whether the connection can serve another request.

        Bytes after the body rule that out: they answer no request.
        """
        return self.keep_alive and not self._buffer.buffered

    def release(self) -> None:
        """Return the connection to its pool after the end of the body, closed if it cannot be used again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not self.can_reuse:
            connection.close()
        if self._pool is not None:
            self._pool._put_conn(connection)

    def drop(self) -> None:
        """Close the connection."""
        self.keep_alive = False
        self.release()

    def abandon(self) -> None:
        """Close the connection without taking a lock. For finalizers."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:  # unset if an interrupt struck in __init__
            self.abandon()


class ResponseFile:
    """The body of a response as a file, for urllib3: used through a proxy, and for requests that foreign code sends.

    Attributes:
        response: The response.
        closed: Whether urllib3 has closed the file.
    """

    __slots__ = ("_unread", "closed", "response")

    def __init__(self, response: HTTP11Response) -> None:
        self.response = response
        self.closed = False
        self._unread = b""

    @property
    def has_unread(self) -> bool:
        """Whether bytes were read from the response that :meth:`read1` has not returned yet."""
        return bool(self._unread)

    @property
    def msg(self) -> HTTPHeaderDict:
        """The header fields, where requests looks for cookies."""
        return self.response.headers.to_urllib3()

    def read1(self, size: int = -1) -> bytes:
        """Return the bytes that have arrived, at most *size*."""
        data = self._unread or self.response.read1()
        if size < 0:
            size = len(data)
        self._unread = data[size:]
        return data[:size]

    def read(self, size: int | None = None) -> bytes:
        """Return *size* bytes, fewer only at the end of the body; without *size* the rest of the body."""
        pieces, remaining = [], size
        while (remaining is None or remaining > 0) and (data := self.read1(-1 if remaining is None else remaining)):
            pieces.append(data)
            remaining = None if remaining is None else remaining - len(data)
        return b"".join(pieces)

    def close(self) -> None:
        """Mark the file as closed."""
        self.closed = True

    def isclosed(self) -> bool:
        """Say whether the body was read to its end, under the name that http.client uses."""
        return self.closed or (self.response.fully_read and not self._unread)
