"""Connections whose every wait ends at the call's time limit and at its cancellation."""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from urllib3 import HTTPHeaderDict, HTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection, _ResponseOptions
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .call import CallState, current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

__all__ = [
    "BadFraming",
    "PlainConnection",
    "TLSConnection",
    "TLSSocket",
    "WireBody",
    "WireHTTPResponse",
    "readable",
    "socket_options",
]

#: What is sent at once between two looks at the clock.
_SEND_PIECE = 65_536
_READ_BUFFER = 10_240
#: The line with the size of a chunk, its extensions included.
_MAX_SIZE_LINE = 8_192
#: What http.client allows a head to hold, too.
_MAX_FIELDS, _MAX_FIELD_LINE = 100, 65_536
#: Status codes whose answers have no body.
_BODILESS = frozenset({204, 304})
_HEX_DIGITS = b"0123456789abcdefABCDEF"


def socket_options() -> list[tuple[int, int, int]]:
    """Return the options of every socket: no delay, and probes that find a dead peer within about two minutes."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            options.append((socket.IPPROTO_TCP, getattr(socket, name), seconds))
    return options


_poll = getattr(select, "poll", None)  # not on every system


def readable(sock: Any, timeout: float) -> bool:
    """Wait up to *timeout* seconds until *sock* can be read without waiting: data, or the end of it."""
    if _poll is None:  # pragma: no cover - Windows
        return bool(select.select([sock], [], [], timeout)[0])
    poller = _poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def _connected(sock: socket.socket, timeout: float | None) -> bool:
    """Wait up to *timeout* seconds until the attempt to connect has ended, well or badly."""
    if _poll is None:  # pragma: no cover - Windows, which reports a failure as an exceptional condition
        return any(select.select([], [sock], [sock], timeout))
    poller = _poll()
    poller.register(sock, select.POLLOUT)
    return bool(poller.poll(None if timeout is None else timeout * 1000))


_WAIT, _LOOK, _FROZEN, _FAILED = range(4)


class DeadlineIO(socket.SocketIO):
    """The read side of a socket; never waits past the call's deadline. One per answer.

    A read waits for bytes, or looks for some without waiting, or says "nothing yet" so that what is buffered above can be looked at:
    see :meth:`set_mode`. ``ended`` says whether the peer has closed.
    """

    def __init__(self, sock: socket.socket, call: CallState) -> None:
        super().__init__(sock, "r")
        # As socket.makefile() does: the file keeps the socket open. TLS inside TLS counts on the socket below.
        counted: Any = getattr(sock, "socket", sock)
        counted._io_refs += 1
        self._call = call
        self._socket = sock
        self._failure: OSError | None = None
        self._how = _WAIT
        self.ended = False

    def readinto(self, buffer: Buffer) -> int | None:
        """Read once, for as long as the call's deadline allows."""
        call = self._call
        if self._how:
            return self._special(buffer)
        self._socket.settimeout(call.left(call.deadline))
        count = self._socket.recv_into(buffer)
        if count:
            call.received = True
        else:
            self.ended = True
        return count

    def _special(self, buffer: Buffer) -> int | None:
        if self._how == _FROZEN:
            return None
        if self._failure is not None:
            if self._how == _FAILED:
                raise self._failure
            return None
        try:
            self._socket.settimeout(0)
            count = self._socket.recv_into(buffer)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except OSError as error:  # the system says it once only: keep it for the one who reads
            self._failure = error
            return None
        self.ended = not count
        return count

    def set_mode(self, mode: int) -> None:
        """Read in this way from now."""
        self._how = _FAILED if mode == _WAIT and self._failure is not None else mode

    @property
    def over(self) -> bool:
        """Whether a read will find the end or an error."""
        return self.ended or self._failure is not None


class _Readable:
    """Stands in for the socket where http.client asks it for a file."""

    __slots__ = ("_call", "_sock")

    def __init__(self, sock: socket.socket, call: CallState) -> None:
        self._sock = sock
        self._call = call

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(DeadlineIO(self._sock, self._call), _READ_BUFFER)


class Fields(HTTPHeaderDict):
    """urllib3's header fields, asked without the detours of its base class: most are asked for once in each answer."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a field, those of several joined by commas."""
        found = self._container.get(key.lower())
        if found is None:
            return default
        return found[1] if len(found) == 2 else ", ".join(found[1:])

    @classmethod
    def of(cls, head: str) -> Fields | None:
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


def _arrived_fields(fp: Any) -> Fields | None:
    """Take the fields from the buffer if all of them are there, which they nearly always are."""
    held: bytes = fp.peek(1)
    end = held.find(b"\r\n\r\n")
    head = held[:end]
    if end < 0 or head.count(b"\n") != head.count(b"\r\n"):
        return None  # cut, or with other ends of lines, of which an empty one may come before
    fields = Fields.of(head.decode("latin-1"))
    if fields is not None:
        fp.read(end + 4)
    return fields


def _read_fields(fp: Any) -> HTTPHeaderDict:
    """Read header fields up to the empty line.

    Raises:
        http.client.HTTPException: Too many, too long, cut off, or no fields.
    """
    arrived = _arrived_fields(fp)
    if arrived is not None:
        return arrived
    fields = Fields()
    add = fields.add
    name = ""
    for _ in range(_MAX_FIELDS + 1):
        line: bytes = fp.readline(_MAX_FIELD_LINE + 1)
        if line in (b"\r\n", b"\n"):
            return fields
        if len(line) > _MAX_FIELD_LINE:
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


def _once(text: str) -> str:
    """Return the value of a field that was sent several times with the same value (RFC 9110, 8.6), else the text as it is."""
    if "," not in text:
        return text
    found = {part.strip() for part in text.split(",")}
    return found.pop() if len(found) == 1 else text


class BadFraming(http.client.HTTPException):
    """A chunk that is none."""


class WireBody:
    """What :class:`Response` reads a body from, whatever brought it here; an ``io`` stream for urllib3's own decoder, besides.

    Attributes:
        length: What of the announced length has not come; ``None``: not known.
        chunked: Whether the end of the body is marked in its framing.
        overrun: Whether bytes of after the body have been read already; known once it is closed. Such a connection is of no use.
    """

    length: int | None
    chunked: Any
    overrun = False

    def read1(self, n: int = -1) -> bytes:
        """Return what has arrived, *n* bytes at most, waiting for the first; nothing at the end."""
        raise NotImplementedError

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until a read has something to do."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        raise NotImplementedError


class WireHTTPResponse(http.client.HTTPResponse, WireBody):
    """http.client's answer, read through :class:`DeadlineIO`: status line, headers, 1xx answers and body alike."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(_Readable(sock, current()), *args, **kwargs)  # type: ignore[arg-type]  # only makefile() is used

    #: Here for an object that an interrupt left half made: io closes that, too, and asks for it.
    fp: Any = None

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]  # not in typeshed
            if not 101 < found[1] < 200:
                return found
            http.client._read_headers(self.fp)  # type: ignore[attr-defined]  # 103 and its like, which http.client takes for the answer

    def begin(self) -> None:
        """Read the head of the answer.

        By hand: http.client has the email package read the fields, which takes eight times as long, and takes a head that was cut
        off for one that has ended.
        """
        while True:
            version, status, reason = self._read_status()
            if status != http.client.CONTINUE:
                break
            http.client._read_headers(self.fp)  # type: ignore[attr-defined]  # not in typeshed; an end in there shows next
        fields = _read_fields(self.fp)
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.code = self.status = status
        self.reason = reason.strip()
        self.version = 11 if version.startswith("HTTP/1.") and version != "HTTP/1.0" else 10
        self.headers = self.msg = fields  # type: ignore[assignment]  # asked by name only
        coding = _once(fields.get("transfer-encoding", "").lower())
        if coding not in ("", "chunked", "identity"):
            raise http.client.HTTPException("a transfer coding that nobody asked for")  # its framing is not the body
        self.chunked = coding == "chunked"
        self.chunk_left = None
        length = _once(fields.get("content-length", ""))
        if status < 200 or status in _BODILESS or self._method == "HEAD":  # type: ignore[attr-defined]  # not in typeshed
            self.length = 0
        elif self.chunked or not (length.isascii() and length.isdigit()):
            self.length = None
        else:
            self.length = int(length[:19])
        persistence = fields.get("connection", "").lower()
        closing = "close" in persistence if self.version == 11 else "keep-alive" not in persistence
        self.will_close = closing or (self.length is None and not self.chunked)

    def read1(self, n: int = -1) -> bytes:
        """Return what has arrived of the body; of a chunked one all whole chunks at once, if several came together."""
        fp: Any = self.fp
        left = self.chunk_left
        if fp is None or not self.chunked or left:
            return super().read1(n)
        held: bytes = fp.peek(1)
        # Only what is as it should be; the rest is for _get_chunk_left to judge.
        parts = []
        taken = 0
        ended = b"" if left is None else b"\r\n"  # of the chunk before
        while held.startswith(ended, taken):
            begin = taken + len(ended)
            newline = held.find(b"\r\n", begin, begin + 18)
            size = held[begin:newline]
            if newline < 0 or not size.isalnum() or size.strip(_HEX_DIGITS):
                break
            start = newline + 2
            end = start + int(size, 16)
            if start == end or end > len(held):
                break
            parts.append(held[start:end])
            taken = end
            ended = b"\r\n"
        if not parts:
            return super().read1(n)
        fp.read(taken)
        self.chunk_left = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _get_chunk_left(self) -> int | None:
        """Do as http.client does, with the checks it leaves out: the end of each chunk, and sizes that int() takes and HTTP does not."""
        left: int | None = self.chunk_left
        if left:
            return left
        fp: Any = self.fp
        if left is not None and (mark := fp.read(2)) != b"\r\n":
            raise BadFraming("no end of a chunk") if len(mark) == 2 else http.client.IncompleteRead(b"")
        line: bytes = fp.readline(_MAX_SIZE_LINE)
        if line[-1:] != b"\n" and len(line) < _MAX_SIZE_LINE:
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].strip()
        if line[-1:] != b"\n" or not size or size.strip(_HEX_DIGITS):
            raise BadFraming("no size of a chunk")
        self.chunk_left = left = int(size, 16) or None
        if left is None:
            self._read_and_discard_trailer()  # type: ignore[attr-defined]  # not in typeshed
            self._close_conn()
        return left

    def flush(self) -> None:
        """Do nothing: nothing is ever written here, and a collector may have closed the buffer before us."""

    def _close_conn(self) -> None:
        """Let go of the connection; the last moment to see what has been read too much."""
        try:
            self.overrun = bool(self._peek(_FROZEN))
        except (ValueError, AttributeError):  # a collector has closed the buffer before us, or the interpreter ends
            self.overrun = True
        super()._close_conn()  # type: ignore[misc]  # not in typeshed

    def _peek(self, mode: int) -> bytes:
        """Return what is buffered; if nothing is, read once in this mode before."""
        fp: Any = self.fp
        fp.raw.set_mode(mode)
        held: bytes = fp.peek(1)
        fp.raw.set_mode(_WAIT)
        return held

    def begun(self) -> bool:
        """Say whether something of the body, or its end, has been read already and waits in the buffer."""
        fp: Any = self.fp
        if fp is None:
            return True
        held = self._peek(_FROZEN)
        if not self.chunked or self.chunk_left:
            return bool(held)
        # Between two chunks: the end of the last one and half a size line are nothing to read yet.
        if self.chunk_left == 0 and held[:2] == b"\r\n":
            fp.read(2)
            self.chunk_left = None
            held = held[2:]
        size, newline, data = held.partition(b"\n")
        return bool(newline and (data or size.strip() == b"0"))

    def look(self) -> bool:
        """Take in what has arrived, without waiting; say whether a read has something to do now."""
        if self._peek(_FROZEN):
            return True  # half a line, to which nothing can be added without reading it
        self._peek(_LOOK)
        fp: Any = self.fp
        return fp.raw.over or self.begun()

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until a read has something to do."""
        if self.begun():
            return True
        fp: Any = self.fp
        sock = fp.raw._socket
        pending = getattr(sock, "pending", int)  # decrypted already, so that the system knows nothing of it
        until = time.monotonic() + timeout
        while pending() or readable(sock, max(0.0, until - time.monotonic())):
            if self.look():
                return True
        return False


class _Interruptible(HTTPConnection):
    """What both kinds of connections share."""

    response_class = WireHTTPResponse
    #: Whatever http.client is told to print for others: it would print the key.
    debuglevel = 0
    #: Monotonic instant it went back to the pool; ``None``: not since it was connected.
    idle_since: float | None = None
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
        for tried, where in enumerate(found):
            try:
                # A dead address takes its share of the time and leaves the rest to those after it.
                left = call.left(call.connect_deadline)
                return self._connect_to(call, where, None if left is None else left / (len(found) - tried))
            except OSError as error:
                problem = error
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, f"connection to {self.host} timed out") from problem
        raise NewConnectionError(self, f"cannot connect to {self.host}: {problem or 'no address'}") from problem

    def _connect_to(self, call: CallState, where: tuple[Any, ...], timeout: float | None) -> socket.socket:
        family, kind, protocol, _name, address = where
        sock = socket.socket(family, kind, protocol)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            call.bind(sock)
            # Not with a timeout: a cancel just before connect() would find nothing to shut down, and connect() would wait on.
            sock.setblocking(False)
            try:
                sock.connect(address)
                waits = False
            except BlockingIOError:
                waits = True
            if waits and not call.cancelled:
                if not _connected(sock, timeout):
                    raise TimeoutError("timed out")
                if failure := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(failure, os.strerror(failure))
            if call.cancelled:  # a shut-down socket may report success
                raise ConnectionAbortedError("cancelled")
            sock.settimeout(call.left(call.connect_deadline))  # for the TLS handshake or the tunnel that follows
        except BaseException:
            call.unbind()
            sock.close()
            raise
        self.pid = os.getpid()
        self.idle_since = None
        return sock

    def connect(self) -> None:
        """Connect, a proxy's tunnel and the TLS handshake included, within the limit for connecting."""
        call = current()
        sent, received = call.sent, call.received
        call.deadline = call.connect_deadline
        try:
            super().connect()
        except BaseException:
            call.unbind()
            raise
        finally:  # what went through the tunnel so far was not the request
            call.sent, call.received = sent, received
            call.deadline = call.total_deadline

    def send(self, data: Any) -> None:
        """Send, looking at the clock between pieces."""
        call = current()
        if self.sock is None:
            self.connect()
        if call.sent is False:
            call.sent = None
        if not isinstance(data, (bytes, bytearray)) or len(data) <= _SEND_PIECE:
            self.sock.settimeout(call.send_timeout())
            super().send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _SEND_PIECE):
            self.sock.settimeout(call.send_timeout())
            super().send(view[start : start + _SEND_PIECE])

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 does
        """Return urllib3's answer around ours, which has the header fields in urllib3's form already."""
        options, self._response_options = self._response_options, None
        if options is None:
            raise http.client.ResponseNotReady
        answer = http.client.HTTPConnection.getresponse(self)
        return HTTPResponse(
            body=answer,
            headers=answer.headers,  # type: ignore[arg-type]  # see begin()
            status=answer.status,
            version=answer.version,
            version_string=self._http_vsn_str,  # type: ignore[attr-defined]  # http.client's
            reason=answer.reason,
            preload_content=options.preload_content,
            decode_content=options.decode_content,
            original_response=answer,
            enforce_content_length=options.enforce_content_length,
            request_method=options.request_method,
            request_url=options.request_url,
        )

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
        """Send a request and note that it has left."""
        options = _ResponseOptions(method, url, preload_content, decode_content, enforce_content_length)
        call = current()
        try:
            if headers is not None and "Host" in headers and not chunked and (body is None or isinstance(body, bytes)):
                self._send_at_once(method, url, body, headers)
                self._response_options = options
            else:  # a request that somebody else sends through the adapter
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
            call.deadline = call.earlier(call.after_send)  # urllib3 may still look for an answer that came early
            raise
        call.request_sent()

    def _send_at_once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        """Send head and body in one piece where they are small: half of what http.client's way, a call per field, takes.

        Raises:
            ValueError: A value would break the head.
        """
        state: Any = self
        previous = state._HTTPConnection__response  # http.client's own books: it gives out the answer
        if previous is not None and previous.isclosed():
            state._HTTPConnection__response = previous = None
        if previous is not None or state._HTTPConnection__state != http.client._CS_IDLE:  # type: ignore[attr-defined]  # not in typeshed
            raise http.client.CannotSendRequest
        lines = [f"{method} {url} HTTP/1.1"]
        lines += [f"{name}: {text}" for name, text in headers.items()]
        head = "\r\n".join(lines) + "\r\n\r\n"
        if head.count("\n") != len(lines) + 1 or head.count("\r") != len(lines) + 1 or " " in url or "\0" in head:
            raise ValueError("a control character in a header or the path")
        data = head.encode("latin-1")
        self._method = method
        # Before sending, as http.client does: an answer that comes early can be read although not all has left.
        state._HTTPConnection__state = http.client._CS_REQ_SENT  # type: ignore[attr-defined]  # not in typeshed
        if body and len(data) + len(body) <= _SEND_PIECE:
            self.send(data + body)
        else:
            self.send(data)
            if body:
                self.send(body)


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
        try:
            call.bind(self)
            self.settimeout(call.left(call.connect_deadline))
            super().do_handshake(block)
        except BaseException:
            # Before Python 3.12 ssl closes the socket after some errors only, a cancel or Ctrl-C not among them.
            call.unbind()
            self.close()
            raise
