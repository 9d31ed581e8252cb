"""Answers of HTTP/1.1 as they come off a connection: head, framing and body, with every wait cut to the call's time limit."""

from __future__ import annotations

import errno
import http.client
import select
import ssl
import time
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPHeaderDict

if TYPE_CHECKING:
    from groq_provider.transport.scope import CancelScope

__all__ = ["BadFraming", "HTTP11Response", "Headers", "ReceiveBuffer", "ResponseFile", "readable"]

#: Most that is taken from the system at once, a record of TLS; so much memory is taken while has_unread.
_READ_SIZE = 16_384
#: The same where more than that is known to come.
_LARGE_READ_SIZE = 262_144
#: The line with the size of a chunk, its extensions included.
_MAX_SIZE_LINE = 8_192
#: What http.client allows a head to hold, too.
_MAX_FIELDS, _MAX_LINE = 100, 65_536
#: Status codes whose answers have no body.
_BODILESS_STATUSES = frozenset({204, 304})
#: The server took the request for late, or for too early, and so has its doubts about the connection; or it means to speak another
#: protocol on it.
_CLOSING_STATUSES = frozenset({101, 408, 425})
_HEX_DIGITS = b"0123456789abcdefABCDEF"

_poll = getattr(select, "poll", None)  # not on every system


def readable(sock: Any, timeout: float) -> bool:
    """Wait up to *timeout* seconds until *sock* can be read without has_unread: data, or the end of it."""
    if _poll is None:  # pragma: no cover - Windows
        return bool(select.select([sock], [], [], timeout)[0])
    poller = _poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


class BadFraming(http.client.HTTPException):
    """A chunk that is none."""


class ReceiveBuffer:
    """What has arrived on a connection and nobody has taken yet. One per connection, used by one call after the other.

    Attributes:
        scope: Whose time limits hold.
        buffered: The bytes.
    """

    __slots__ = ("_peer_closed", "_read_error", "buffered", "scope", "sock")

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self.sock = sock
        self.scope = scope
        self.buffered = b""
        self._peer_closed = False
        self._read_error: OSError | None = None

    def receive(self, size: int = _READ_SIZE) -> bytes:
        """Return bytes from the connection as they come, *size* at most, never has_unread past the call's deadline; nothing at its end."""
        if self._read_error is not None:
            raise self._read_error
        scope = self.scope
        self.sock.settimeout(scope.seconds_left(scope.deadline))
        data: bytes = self.sock.recv(size)
        if data:
            scope.received = True
        return data

    def check_limits(self) -> None:
        """See whether the call may go on, where much may be done with what has arrived.

        Raises:
            OSError: It was cancelled, or its time is up.
        """
        scope = self.scope
        scope.seconds_left(scope.deadline)
        if scope.cancelled:
            raise ConnectionAbortedError(errno.ECONNABORTED, "cancelled")

    def read_line(self, max_bytes: int = _MAX_LINE) -> bytes:
        """Take a line with its end; where the connection ends what there is of one, and of a longer one *most* bytes and another."""
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
        """Take in what has come, without has_unread; say whether a read will find the end or an error behind it."""
        if not self._peer_closed and self._read_error is None:
            completed = False
            try:
                self.sock.settimeout(0)
                data = self.sock.recv(_READ_SIZE)
                self.buffered += data
                self._peer_closed = not data
                completed = True
            except (BlockingIOError, ssl.SSLWantReadError):
                completed = True
                return False
            except OSError as error:  # the system says it once only: keep it for the one who reads
                self._read_error = error
                completed = True
            finally:
                if not completed:  # an interrupt, which may have torn out what nobody will miss
                    self._read_error = ConnectionAbortedError(errno.ECONNABORTED, "interrupted while reading")
        return self._peer_closed or self._read_error is not None


class Headers(HTTPHeaderDict):
    """urllib3's header fields, asked without the detours of its base class: most are asked for once in each answer."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a field, those of several joined by commas."""
        values = self._container.get(key.lower())
        if values is None:
            return default
        return values[1] if len(values) == 2 else ", ".join(values[1:])

    @classmethod
    def of(cls, head: str) -> Headers | None:
        """Return the fields of a head that has arrived whole and is as heads are; ``None``: it has to be read with care."""
        lines = head.split("\r\n")
        if len(lines) > _MAX_FIELDS:
            return None
        fields = cls()
        container = fields._container
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                return None
            lower = name.lower()
            if lower in container:
                container[lower].append(value.strip())
            else:
                container[lower] = [name, value.strip()]
        return fields


def _read_fields(buffer: ReceiveBuffer) -> Headers:
    """Read header fields line by line, up to the empty one.

    Raises:
        http.client.HTTPException: Too many, too long, cut off, or no fields.
    """
    fields = Headers()
    add = fields.add
    name = ""
    for _ in range(_MAX_FIELDS + 1):
        line = buffer.read_line()
        if line in (b"\r\n", b"\n"):
            return fields
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
        if line[-1:] != b"\n":
            raise http.client.IncompleteRead(b"")
        if line[:1] in (b" ", b"\t") and name:  # the obsolete way to go on with the value on the next line
            add(name, line.decode("latin-1").strip(), combine=True)
            continue
        name, colon, text = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise http.client.HTTPException("a header line is no field")
        add(name, text.strip())
    raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")


def _skip_fields(buffer: ReceiveBuffer) -> None:
    """Read what nobody asks for up to the empty line, or the end of the connection."""
    for _ in range(_MAX_FIELDS + 1):
        line = buffer.read_line()
        if line in (b"\r\n", b"\n", b""):
            return
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
    raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")


def _read_status(buffer: ReceiveBuffer) -> tuple[str, int, str]:
    """Read a status line: version, code, reason.

    Raises:
        http.client.HTTPException: It is none; RemoteDisconnected if the connection ended before it.
    """
    data = buffer.read_line()
    if len(data) > _MAX_LINE:
        raise http.client.LineTooLong("status line")
    if not data:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    version, code, reason = [*data.decode("latin-1").split(None, 2), "", "", ""][:3]
    if not version.startswith("HTTP/") or len(code) != 3 or not (code.isascii() and code.isdigit()) or code < "100":
        raise http.client.BadStatusLine("")  # without its text, which may be what it was sent
    return version, int(code), reason.strip()


def _single_value(text: str) -> str:
    """Return the value of a field that was sent several times with the same value (RFC 9110, 8.6), else the text as it is."""
    if "," not in text:
        return text
    distinct = {part.strip() for part in text.split(",")}
    return distinct.pop() if len(distinct) == 1 else text


class HTTP11Response:
    """One answer: its head is read when it is made, its body as it arrives.

    Not http.client's: that one has the email package read the fields, which takes eight times as long; it takes a head that was cut
    off for one that has ended; and it waits for whole chunks. It raises what http.client would, for others to translate.

    Belongs to the thread that runs the call.

    Attributes:
        status: Status code.
        reason: What the server calls it.
        version: 10 or 11, as http.client writes it.
        headers: Header fields.
        chunked: Whether the body comes in chunks.
        self_delimited: Whether the end of the body shows in the body itself, so that an end of the connection cannot be taken for it.
        keep_alive: Whether the head says that the connection goes on after the end of the body.
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
        self._chunk_left: int | None = (
            None  # bytes remaining of a chunk; 0: its end comes next; None: a size comes next
        )
        self._read_head()
        self._find_framing(method)

    # --- the head ----------------------------------------------------------------------------------------------------------

    def _read_head(self) -> None:
        buffer = self._buffer
        buffered = buffer.buffered or buffer.receive()
        end = buffered.find(b"\r\n\r\n")
        # Nearly every head has arrived whole, with the ends of lines as they should be.
        if (
            buffered[:9] == b"HTTP/1.1 "
            and buffered[9:12].isdigit()
            and buffered[9:10] > b"1"
            and buffered[12:13] in (b" ", b"\r")
        ):
            line_end = buffered.find(b"\r\n", 12)
            if 0 < line_end < end and buffered.count(b"\n", 0, end) == buffered.count(b"\r\n", 0, end):
                fields = Headers.of(buffered[line_end + 2 : end].decode("latin-1"))
                if fields is not None:
                    buffer.buffered = buffered[end + 4 :]
                    self.version, self.status, self.headers = 11, int(buffered[9:12]), fields
                    self.reason = buffered[13:line_end].decode("latin-1").strip()
                    return
        buffer.buffered = buffered
        version, status, reason = _read_status(buffer)
        while status < 200 and status != 101:  # 100, 103 and their like come before the answer
            buffer.check_limits()
            _skip_fields(buffer)  # an end in there shows next
            version, status, reason = _read_status(buffer)
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.version = 11 if version.startswith("HTTP/1.") and version != "HTTP/1.0" else 10
        self.status, self.reason = status, reason
        self.headers = _read_fields(buffer)

    def _find_framing(self, method: str) -> None:
        """Find out where the body ends, and whether the connection goes on after it."""
        fields, status = self.headers, self.status
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if coding is not None and (coding := _single_value(coding.lower())) not in ("", "chunked", "identity"):
            raise http.client.HTTPException("a transfer coding that nobody asked for")  # its framing is not the body
        self.chunked = coding == "chunked"
        # Both framings at once is how requests are smuggled: read as chunked, never used again.
        self.keep_alive = status not in _CLOSING_STATUSES and not (self.chunked and length is not None)
        if status < 200 or status in _BODILESS_STATUSES or method == "HEAD":
            self._body_left: int | None = 0
            self.chunked = False
        elif self.chunked or length is None:
            self._body_left = None
        elif "," in (length := _single_value(length)):
            raise http.client.HTTPException("several lengths of one body")
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
        """Return what has arrived of the body, has_unread for the first byte; nothing at its end.

        Of a chunked body all whole chunks that came together, or what there is of one.

        Raises:
            http.client.IncompleteRead: The connection ended before the body.
            BadFraming: A chunk is none.
            OSError: The connection broke, or the time was up.
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
            # Only what is as it should be; the rest is for _next_chunk to judge.
            parts = []
            consumed, total = 0, len(buffered)
            position = (
                0 if remaining is None else 2 if buffered[:2] == b"\r\n" else total
            )  # after the end of the chunk before
            while position < total:
                newline = buffered.find(b"\r\n", position, position + _MAX_SIZE_LINE)
                size = buffered[position:newline]
                if newline < 0 or not size or size.strip(_HEX_DIGITS):
                    size = size.partition(b";")[0].strip()  # with extensions, which mean nothing here
                    if newline < 0 or not size or size.strip(_HEX_DIGITS):
                        break
                start = newline + 2
                end = start + int(size, 16)
                if start == end or end > total:
                    break
                parts.append(buffered[start:end])
                consumed = end
                position = end + 2
                if buffered[end:position] != b"\r\n":
                    break
            if parts:
                ends_here = (
                    buffered[consumed : consumed + 2] == b"\r\n"
                )  # nearly always: then the next read finds nothing of this one
                buffer.buffered = buffered[consumed + 2 :] if ends_here else buffered[consumed:]
                self._chunk_left = None if ends_here else 0
                return parts[0] if len(parts) == 1 else b"".join(parts)
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
        """Read a body that ends after an announced length, or with the connection."""
        length = self._body_left
        if length == 0:
            self._body_open = False
            return b""
        buffer = self._buffer
        data = buffer.buffered
        if data:
            buffer.buffered = b""
        else:
            # Never less than a record of TLS: the rest of one would stay in the TLS layer, where nobody sees that it is too much.
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
        """Whether the whole announced length has come, so that no further read is needed to know it."""
        return self._body_left == 0

    def _next_chunk(self) -> int:
        """Read up to the data of the next chunk and return its size; at the last one, which has none, read the trailer, too."""
        buffer = self._buffer
        buffer.check_limits()
        if self._chunk_left is not None:
            while len(buffer.buffered) < 2 and (data := buffer.receive()):
                buffer.buffered += data
            terminator, buffer.buffered = buffer.buffered[:2], buffer.buffered[2:]
            if terminator != b"\r\n":
                raise BadFraming("no end of a chunk") if len(terminator) == 2 else http.client.IncompleteRead(b"")
            self._chunk_left = None
        line = buffer.read_line(_MAX_SIZE_LINE)
        if line[-1:] != b"\n" and len(line) <= _MAX_SIZE_LINE:
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].strip()
        if line[-1:] != b"\n" or not size or size.strip(_HEX_DIGITS):
            raise BadFraming("no size of a chunk")
        remaining = int(size, 16)
        if not remaining:
            _skip_fields(buffer)
        self._chunk_left = remaining or None
        return remaining

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read1` has something to do: bytes, the end, an error."""
        if not self._body_open or self._has_input():
            return True
        buffer = self._buffer
        sock = buffer.sock
        pending = getattr(sock, "pending", int)  # decrypted already, so that the system knows nothing of it
        until = time.monotonic() + timeout
        while pending() or readable(sock, max(0.0, until - time.monotonic())):
            if buffer.peek() or self._has_input():
                return True
            if time.monotonic() >= until:
                break
        return False

    def _has_input(self) -> bool:
        """Say whether something of the body, or its end, has been taken in already."""
        buffered = self._buffer.buffered
        if not self.chunked or self._chunk_left:
            return bool(buffered) or self._body_left == 0
        # Between two chunks: the end of the last one and half a size line are nothing to read yet.
        if self._chunk_left == 0 and buffered[:2] == b"\r\n":
            buffered = buffered[2:]
        if len(buffered) > _MAX_SIZE_LINE:
            return True  # which is no line of ours
        size, _, data = buffered.partition(b"\n")
        size = size.partition(b";")[0].strip()
        if size and not size.strip(b"0"):  # the last one ends with an empty line, after fields perhaps
            return data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data
        return bool(data)

    @property
    def fully_read(self) -> bool:
        """Whether the end of the body was read."""
        return not self._body_open or self._body_left == 0

    # --- the connection ----------------------------------------------------------------------------------------------------

    @property
    def can_reuse(self) -> bool:
        """Whether the connection is good for another request: bytes after the body belong to nothing that was asked for."""
        return self.keep_alive and not self._buffer.buffered

    def release(self) -> None:
        """Give the connection back after the end of the body; if it cannot serve again, closed."""
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
        """Close the connection without touching a lock: for finalizers."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None) is not None:  # unset if an interrupt struck in __init__
            self.abandon()


class ResponseFile:
    """An answer's body as a file, for urllib3: it decodes what has a content encoding, and serves those who send through the adapter themselves.

    Attributes:
        answer: The answer.
        closed: Whether urllib3 is through with it.
    """

    __slots__ = ("_unread", "closed", "response")

    def __init__(self, response: HTTP11Response) -> None:
        self.response = response
        self.closed = False
        self._unread = b""

    @property
    def has_unread(self) -> bool:
        """Whether bytes were taken from the answer that nobody has asked for yet."""
        return bool(self._unread)

    @property
    def msg(self) -> Headers:
        """The header fields, where requests looks for cookies."""
        return self.response.headers

    def read1(self, size: int = -1) -> bytes:
        """Return what has arrived, *size* bytes at most."""
        data = self._unread or self.response.read1()
        if size < 0:
            size = len(data)
        self._unread = data[size:]
        return data[:size]

    def read(self, size: int | None = None) -> bytes:
        """Return *size* bytes, fewer only at the end; all without it."""
        parts, remaining = [], size
        while (remaining is None or remaining > 0) and (data := self.read1(-1 if remaining is None else remaining)):
            parts.append(data)
            remaining = None if remaining is None else remaining - len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of it."""
        self.closed = True

    def isclosed(self) -> bool:
        """Say whether the body is fully_read, in http.client's words."""
        return self.closed or (self.response.fully_read and not self._unread)
