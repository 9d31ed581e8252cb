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

#: Most that is taken from the system at once, a record of TLS; so much memory is taken while waiting.
_PIECE = 16_384
#: The same where more than that is known to come.
_LARGE_PIECE = 262_144
#: The line with the size of a chunk, its extensions included.
_MAX_SIZE_LINE = 8_192
#: What http.client allows a head to hold, too.
_MAX_FIELDS, _MAX_LINE = 100, 65_536
#: Status codes whose answers have no body.
_BODILESS = frozenset({204, 304})
#: The server took the request for late, or for too early, and so has its doubts about the connection; or it means to speak another
#: protocol on it.
_DOUBTFUL = frozenset({101, 408, 425})
_HEX_DIGITS = b"0123456789abcdefABCDEF"

_poll = getattr(select, "poll", None)  # not on every system


def readable(sock: Any, timeout: float) -> bool:
    """Wait up to *timeout* seconds until *sock* can be read without waiting: data, or the end of it."""
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
        held: The bytes.
    """

    __slots__ = ("_ended", "_failure", "held", "scope", "sock")

    def __init__(self, sock: Any, scope: CancelScope) -> None:
        self.sock = sock
        self.scope = scope
        self.held = b""
        self._ended = False
        self._failure: OSError | None = None

    def receive(self, size: int = _PIECE) -> bytes:
        """Return bytes from the connection as they come, *size* at most, never waiting past the call's deadline; nothing at its end."""
        if self._failure is not None:
            raise self._failure
        scope = self.scope
        self.sock.settimeout(scope.left(scope.deadline))
        data: bytes = self.sock.recv(size)
        if data:
            scope.received = True
        return data

    def look_up(self) -> None:
        """See whether the call may go on, where much may be done with what has arrived.

        Raises:
            OSError: It was cancelled, or its time is up.
        """
        scope = self.scope
        scope.left(scope.deadline)
        if scope.cancelled:
            raise ConnectionAbortedError(errno.ECONNABORTED, "cancelled")

    def line(self, most: int = _MAX_LINE) -> bytes:
        """Take a line with its end; where the connection ends what there is of one, and of a longer one *most* bytes and another."""
        while True:
            held = self.held
            end = held.find(b"\n", 0, most + 1) + 1
            if not end and len(held) > most:
                end = most + 1
            if not end:
                data = self.receive()
                if data:
                    self.held = held + data
                    continue
                end = len(held)
            self.held = held[end:]
            return held[:end]

    def look(self) -> bool:
        """Take in what has come, without waiting; say whether a read will find the end or an error behind it."""
        if not self._ended and self._failure is None:
            whole = False
            try:
                self.sock.settimeout(0)
                data = self.sock.recv(_PIECE)
                self.held += data
                self._ended = not data
                whole = True
            except (BlockingIOError, ssl.SSLWantReadError):
                whole = True
                return False
            except OSError as error:  # the system says it once only: keep it for the one who reads
                self._failure = error
                whole = True
            finally:
                if not whole:  # an interrupt, which may have torn out what nobody will miss
                    self._failure = ConnectionAbortedError(errno.ECONNABORTED, "interrupted while reading")
        return self._ended or self._failure is not None


class Headers(HTTPHeaderDict):
    """urllib3's header fields, asked without the detours of its base class: most are asked for once in each answer."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a field, those of several joined by commas."""
        found = self._container.get(key.lower())
        if found is None:
            return default
        return found[1] if len(found) == 2 else ", ".join(found[1:])

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


def _read_fields(intake: ReceiveBuffer) -> Headers:
    """Read header fields line by line, up to the empty one.

    Raises:
        http.client.HTTPException: Too many, too long, cut off, or no fields.
    """
    fields = Headers()
    add = fields.add
    name = ""
    for _ in range(_MAX_FIELDS + 1):
        line = intake.line()
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


def _skip_fields(intake: ReceiveBuffer) -> None:
    """Read what nobody asks for up to the empty line, or the end of the connection."""
    for _ in range(_MAX_FIELDS + 1):
        line = intake.line()
        if line in (b"\r\n", b"\n", b""):
            return
        if len(line) > _MAX_LINE:
            raise http.client.LineTooLong("header line")
    raise http.client.HTTPException(f"got more than {_MAX_FIELDS} headers")


def _read_status(intake: ReceiveBuffer) -> tuple[str, int, str]:
    """Read a status line: version, code, reason.

    Raises:
        http.client.HTTPException: It is none; RemoteDisconnected if the connection ended before it.
    """
    data = intake.line()
    if len(data) > _MAX_LINE:
        raise http.client.LineTooLong("status line")
    if not data:
        raise http.client.RemoteDisconnected("Remote end closed connection without response")
    version, code, reason = [*data.decode("latin-1").split(None, 2), "", "", ""][:3]
    if not version.startswith("HTTP/") or len(code) != 3 or not (code.isascii() and code.isdigit()) or code < "100":
        raise http.client.BadStatusLine("")  # without its text, which may be what it was sent
    return version, int(code), reason.strip()


def _once(text: str) -> str:
    """Return the value of a field that was sent several times with the same value (RFC 9110, 8.6), else the text as it is."""
    if "," not in text:
        return text
    found = {part.strip() for part in text.split(",")}
    return found.pop() if len(found) == 1 else text


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
        marked: Whether the end of the body shows in the body itself, so that an end of the connection cannot be taken for it.
        reusable: Whether the head says that the connection goes on after the end of the body.
    """

    __slots__ = (
        "_chunk", "_connection", "_intake", "_length", "_open", "_pool", "chunked", "headers", "marked", "reason", "reusable", "status",
        "version",
    )  # fmt: skip

    def __init__(self, connection: Any, intake: ReceiveBuffer, method: str) -> None:
        self._connection = connection
        self._pool: Any = None
        self._intake = intake
        self._open = True
        self._chunk: int | None = None  # bytes left of a chunk; 0: its end comes next; None: a size comes next
        self._read_head()
        self._frame(method)

    # --- the head ----------------------------------------------------------------------------------------------------------

    def _read_head(self) -> None:
        intake = self._intake
        held = intake.held or intake.receive()
        end = held.find(b"\r\n\r\n")
        # Nearly every head has arrived whole, with the ends of lines as they should be.
        if held[:9] == b"HTTP/1.1 " and held[9:12].isdigit() and held[9:10] > b"1" and held[12:13] in (b" ", b"\r"):
            first = held.find(b"\r\n", 12)
            if 0 < first < end and held.count(b"\n", 0, end) == held.count(b"\r\n", 0, end):
                fields = Headers.of(held[first + 2 : end].decode("latin-1"))
                if fields is not None:
                    intake.held = held[end + 4 :]
                    self.version, self.status, self.headers = 11, int(held[9:12]), fields
                    self.reason = held[13:first].decode("latin-1").strip()
                    return
        intake.held = held
        version, status, reason = _read_status(intake)
        while status < 200 and status != 101:  # 100, 103 and their like come before the answer
            intake.look_up()
            _skip_fields(intake)  # an end in there shows next
            version, status, reason = _read_status(intake)
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.version = 11 if version.startswith("HTTP/1.") and version != "HTTP/1.0" else 10
        self.status, self.reason = status, reason
        self.headers = _read_fields(intake)

    def _frame(self, method: str) -> None:
        """Find out where the body ends, and whether the connection goes on after it."""
        fields, status = self.headers, self.status
        coding, length = fields.get("transfer-encoding"), fields.get("content-length")
        if coding is not None and (coding := _once(coding.lower())) not in ("", "chunked", "identity"):
            raise http.client.HTTPException("a transfer coding that nobody asked for")  # its framing is not the body
        self.chunked = coding == "chunked"
        # Both framings at once is how requests are smuggled: read as chunked, never used again.
        self.reusable = status not in _DOUBTFUL and not (self.chunked and length is not None)
        if status < 200 or status in _BODILESS or method == "HEAD":
            self._length: int | None = 0
            self.chunked = False
        elif self.chunked or length is None:
            self._length = None
        elif "," in (length := _once(length)):
            raise http.client.HTTPException("several lengths of one body")
        else:
            self._length = int(length.lstrip("0")[:19] or "0") if length.isascii() and length.isdigit() else None
        self.marked = self.chunked or self._length is not None
        persistence = fields.get("connection")
        if not self.marked:
            self.reusable = False
        elif self.version == 10:
            self.reusable = self.reusable and persistence is not None and "keep-alive" in persistence.lower()
        elif persistence is not None and "close" in persistence.lower():
            self.reusable = False

    # --- the body ----------------------------------------------------------------------------------------------------------

    def read1(self) -> bytes:
        """Return what has arrived of the body, waiting for the first byte; nothing at its end.

        Of a chunked body all whole chunks that came together, or what there is of one.

        Raises:
            http.client.IncompleteRead: The connection ended before the body.
            BadFraming: A chunk is none.
            OSError: The connection broke, or the time was up.
        """
        if not self._open:
            return b""
        if not self.chunked:
            return self._read_plain()
        intake = self._intake
        left = self._chunk
        if not left:
            held = intake.held
            if not held:
                held = intake.held = intake.receive()
            # Only what is as it should be; the rest is for _next_chunk to judge.
            parts = []
            taken, total = 0, len(held)
            begin = 0 if left is None else 2 if held[:2] == b"\r\n" else total  # after the end of the chunk before
            while begin < total:
                newline = held.find(b"\r\n", begin, begin + _MAX_SIZE_LINE)
                size = held[begin:newline]
                if newline < 0 or not size or size.strip(_HEX_DIGITS):
                    size = size.partition(b";")[0].strip()  # with extensions, which mean nothing here
                    if newline < 0 or not size or size.strip(_HEX_DIGITS):
                        break
                start = newline + 2
                end = start + int(size, 16)
                if start == end or end > total:
                    break
                parts.append(held[start:end])
                taken = end
                begin = end + 2
                if held[end:begin] != b"\r\n":
                    break
            if parts:
                whole = (
                    held[taken : taken + 2] == b"\r\n"
                )  # nearly always: then the next read finds nothing of this one
                intake.held = held[taken + 2 :] if whole else held[taken:]
                self._chunk = None if whole else 0
                return parts[0] if len(parts) == 1 else b"".join(parts)
            left = self._next_chunk()
            if not left:
                self._open = False
                return b""
        data = intake.held or intake.receive(min(max(left, _PIECE), _LARGE_PIECE))
        if not data:
            raise http.client.IncompleteRead(b"")
        intake.held = data[left:]
        data = data[:left]
        self._chunk = left - len(data)
        return data

    def _read_plain(self) -> bytes:
        """Read a body that ends after an announced length, or with the connection."""
        length = self._length
        if length == 0:
            self._open = False
            return b""
        intake = self._intake
        data = intake.held
        if data:
            intake.held = b""
        else:
            # Never less than a record of TLS: the rest of one would stay in the TLS layer, where nobody sees that it is too much.
            data = intake.receive(_PIECE if length is None else max(_PIECE, min(length, _LARGE_PIECE)))
            if not data:
                self._open = False
                if length:
                    raise http.client.IncompleteRead(b"", length)
                return b""
        if length is not None:
            if len(data) > length:
                intake.held = data[length:]
                data = data[:length]
            self._length = length - len(data)
        return data

    @property
    def complete(self) -> bool:
        """Whether the whole announced length has come, so that no further read is needed to know it."""
        return self._length == 0

    def _next_chunk(self) -> int:
        """Read up to the data of the next chunk and return its size; at the last one, which has none, read the trailer, too."""
        intake = self._intake
        intake.look_up()
        if self._chunk is not None:
            while len(intake.held) < 2 and (data := intake.receive()):
                intake.held += data
            mark, intake.held = intake.held[:2], intake.held[2:]
            if mark != b"\r\n":
                raise BadFraming("no end of a chunk") if len(mark) == 2 else http.client.IncompleteRead(b"")
            self._chunk = None
        line = intake.line(_MAX_SIZE_LINE)
        if line[-1:] != b"\n" and len(line) <= _MAX_SIZE_LINE:
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].strip()
        if line[-1:] != b"\n" or not size or size.strip(_HEX_DIGITS):
            raise BadFraming("no size of a chunk")
        left = int(size, 16)
        if not left:
            _skip_fields(intake)
        self._chunk = left or None
        return left

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read1` has something to do: bytes, the end, an error."""
        if not self._open or self._begun():
            return True
        intake = self._intake
        sock = intake.sock
        pending = getattr(sock, "pending", int)  # decrypted already, so that the system knows nothing of it
        until = time.monotonic() + timeout
        while pending() or readable(sock, max(0.0, until - time.monotonic())):
            if intake.look() or self._begun():
                return True
            if time.monotonic() >= until:
                break
        return False

    def _begun(self) -> bool:
        """Say whether something of the body, or its end, has been taken in already."""
        held = self._intake.held
        if not self.chunked or self._chunk:
            return bool(held) or self._length == 0
        # Between two chunks: the end of the last one and half a size line are nothing to read yet.
        if self._chunk == 0 and held[:2] == b"\r\n":
            held = held[2:]
        if len(held) > _MAX_SIZE_LINE:
            return True  # which is no line of ours
        size, _, data = held.partition(b"\n")
        size = size.partition(b";")[0].strip()
        if size and not size.strip(b"0"):  # the last one ends with an empty line, after fields perhaps
            return data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data
        return bool(data)

    @property
    def over(self) -> bool:
        """Whether the end of the body was read."""
        return not self._open or self._length == 0

    # --- the connection ----------------------------------------------------------------------------------------------------

    @property
    def serves_again(self) -> bool:
        """Whether the connection is good for another request: bytes after the body belong to nothing that was asked for."""
        return self.reusable and not self._intake.held

    def release(self) -> None:
        """Give the connection back after the end of the body; if it cannot serve again, closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if not self.serves_again:
            connection.close()
        if self._pool is not None:
            self._pool._put_conn(connection)

    def drop(self) -> None:
        """Close the connection."""
        self.reusable = False
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

    __slots__ = ("_rest", "answer", "closed")

    def __init__(self, answer: HTTP11Response) -> None:
        self.answer = answer
        self.closed = False
        self._rest = b""

    @property
    def waiting(self) -> bool:
        """Whether bytes were taken from the answer that nobody has asked for yet."""
        return bool(self._rest)

    @property
    def msg(self) -> Headers:
        """The header fields, where requests looks for cookies."""
        return self.answer.headers

    def read1(self, size: int = -1) -> bytes:
        """Return what has arrived, *size* bytes at most."""
        data = self._rest or self.answer.read1()
        if size < 0:
            size = len(data)
        self._rest = data[size:]
        return data[:size]

    def read(self, size: int | None = None) -> bytes:
        """Return *size* bytes, fewer only at the end; all without it."""
        parts, left = [], size
        while (left is None or left > 0) and (data := self.read1(-1 if left is None else left)):
            parts.append(data)
            left = None if left is None else left - len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Let go of it."""
        self.closed = True

    def isclosed(self) -> bool:
        """Say whether the body is over, in http.client's words."""
        return self.closed or (self.answer.over and not self._rest)
