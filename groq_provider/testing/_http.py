"""HTTP/1.1 on a socket: reads requests, and writes responses as correct or as broken as their fault demands."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from groq_provider.testing._wire import Part, loads
from groq_provider.testing.replies import Fault, RecordedRequest

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from io import BufferedIOBase

    from groq_provider.testing._response import Response
    from groq_provider.testing.replies import Outcome

_REASON_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_LONGEST_LINE = 65536
_PEEK_FLAGS = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)
_CHECK_INTERVAL = 0.02  # seconds between two checks of a stalled connection
_UNCHUNKED_FRAMINGS = {"short-content-length", "long-content-length", "garbage-status-line", "headers-cut"}


class BrokenError(Exception):
    """The connection must be closed: a fault demands it, the client has closed it, or the emulator stops."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome: Outcome = outcome


class BadRequestError(Exception):
    """The client sent something other than HTTP, or half a request."""


def read_request(stream: BufferedIOBase, send: Callable[[bytes], object]) -> RecordedRequest | None:
    """Read the next request on a connection.

    Args:
        stream: The bytes from the client.
        send: Sends ``100 Continue`` where the client asks for it.

    Returns:
        The request, or ``None`` if the client has closed the connection.

    Raises:
        BadRequestError: The request is not HTTP, or is cut off.
    """
    line = stream.readline(_LONGEST_LINE)
    while line in {b"\r\n", b"\n"}:
        line = stream.readline(_LONGEST_LINE)
    if not line:
        return None
    words = line.decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError(line)
    raw: list[tuple[str, str]] = []
    headers: dict[str, str] = {}
    while True:
        line = stream.readline(_LONGEST_LINE)
        if line in {b"\r\n", b"\n"}:
            break
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise BadRequestError(line)
        value = value.strip()
        raw.append((name, value))
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if headers.get("expect", "").lower() == "100-continue":
        send(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = _read_body(stream, headers)
    parsed = None
    if body:
        with suppress(ValueError):
            parsed = loads(body)
    return RecordedRequest(
        method=words[0], target=words[1], version=words[2], headers=headers, raw_headers=raw, body=body, json=parsed
    )


def _read_body(stream: BufferedIOBase, headers: dict[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        chunks: list[bytes] = []
        while True:
            size = _number(stream.readline(_LONGEST_LINE).partition(b";")[0], 16)
            chunk = stream.read(size)
            if len(chunk) < size:
                raise BadRequestError(chunk)
            stream.readline(_LONGEST_LINE)
            if not size:
                return b"".join(chunks)
            chunks.append(chunk)
    size = _number(headers.get("content-length", "0").encode(), 10)
    body = stream.read(size) if size else b""
    if len(body) < size:
        raise BadRequestError(body)
    return body


def _number(text: bytes, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise BadRequestError(text)
    return number


def reset_on_close(sock: socket.socket) -> None:
    """Make the next close of *sock* send a reset."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Writer:
    """Writes one response, with its pauses and its fault.

    Args:
        sock: The connection.
        stopping: Set when the emulator stops; ends every wait.
        before_event: Called with the index before each event of a stream.
    """

    def __init__(self, sock: socket.socket, stopping: threading.Event, before_event: Callable[[int], object]) -> None:
        self._sock = sock
        self._stopping = stopping
        self._before_event = before_event
        self._fault = Fault()
        self._bytes_sent = 0  # of the body
        self._events_sent = 0

    def write(self, response: Response, request: RecordedRequest, started: float) -> bool:
        """Send *response* to *request*, which was read at monotonic time *started*.

        Returns:
            Whether the connection may be used again.

        Raises:
            BrokenError: The caller must close the connection now.
        """
        fault = self._fault = response.fault
        if fault.stall_before_headers:
            self._stall()
        parts = response.parts
        if parts:
            self._wait_until(started + response.due(parts[0]))
        else:
            self._wait_until(started + response.latency)
        if fault.cut_before_headers:
            self._break_connection()
        if fault.reset_before_headers:
            self._break_connection(reset=True)
        bad_chunk = fault.framing in {"bad-chunk-size", "negative-chunk-size"}
        chunked = response.is_stream or fault.chunk_bytes is not None or bad_chunk
        if fault.framing in _UNCHUNKED_FRAMINGS:
            chunked = False
            parts = [Part(b"".join(part.data for part in parts), parts[-1].tokens if parts else 0)]
        close = request.headers.get("connection", "").lower() == "close" or fault.framing is not None
        # HTTP/1.0 has no chunked encoding: a stream ends with its connection.
        unframed = fault.framing == "close-delimited" or (chunked and request.version == "HTTP/1.0")
        if unframed:
            chunked = False
        close = close or request.version == "HTTP/1.0"
        self._send_head(response, parts, chunked=chunked, unframed=unframed, close=close)
        if request.method == "HEAD":
            return not close
        self._apply_event_faults()
        for index, part in enumerate(parts):
            self._wait_until(started + response.due(part))
            if response.is_stream:
                self._before_event(index)
            if response.settle is not None and index == len(parts) - 1:
                response.settle()  # before the client can see the end and send its next request
            if bad_chunk and index == min(fault.after_events, len(parts) - 1):
                self._send(b"zz\r\n" if fault.framing == "bad-chunk-size" else b"-5\r\n")
                self._send(part.data + b"\r\n")
                raise BrokenError("broken")
            self._send_body(part.data, chunked=chunked)
            if part.data.startswith((b"data:", b":", b"event:")) or not response.is_stream:
                self._events_sent += 1
                self._apply_event_faults()
        if fault.hold_open:
            self._stall()
        if chunked:
            self._send(b"0\r\n\r\n")
        if fault.framing is not None:
            raise BrokenError("broken")
        return not close

    def _send_head(self, response: Response, parts: list[Part], *, chunked: bool, unframed: bool, close: bool) -> None:
        framing = self._fault.framing
        if framing == "garbage-status-line":
            self._send(b"\x16\x03\x01 not http at all\r\n\r\n")
            raise BrokenError("broken")
        lines = [f"HTTP/1.1 {response.status} {_REASON_PHRASES.get(response.status, 'Emulated')}"]
        lines += [f"{name}: {value}" for name, value in response.headers]
        if chunked:
            lines.append("transfer-encoding: chunked")
        elif not unframed and response.status not in {204, 304}:
            size = sum(len(part.data) for part in parts)
            size = {"short-content-length": size // 2, "long-content-length": size + 64}.get(framing or "", size)
            lines.append(f"content-length: {size}")
        lines.append("connection: close" if close else "connection: keep-alive")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "backslashreplace")
        if framing == "headers-cut":
            self._send(data[: len(data) // 2])
            raise BrokenError("broken")
        self._send(data)

    def _send_body(self, data: bytes, *, chunked: bool) -> None:
        """Send *data* as one HTTP chunk or several, with the faults due at its bytes."""
        size = self._fault.chunk_bytes or len(data)
        for start in range(0, len(data), size):
            chunk = data[start : start + size]
            if not self._breaks_within(len(chunk)):
                self._send(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                self._bytes_sent += len(chunk)
                continue
            if chunked:
                self._send(b"%x\r\n" % len(chunk))
            while chunk:
                stops = [
                    at - self._bytes_sent
                    for at in self._byte_faults()
                    if self._bytes_sent < at <= self._bytes_sent + len(chunk)
                ]
                step = min(stops, default=len(chunk))
                self._send(chunk[:step])
                self._bytes_sent += step
                chunk = chunk[step:]
                self._apply_byte_faults()
            if chunked:
                self._send(b"\r\n")

    def _byte_faults(self) -> Iterator[int]:
        fault = self._fault
        for at in (fault.stall_at_byte, fault.cut_at_byte, fault.reset_at_byte):
            if at is not None:
                yield at

    def _breaks_within(self, size: int) -> bool:
        return any(self._bytes_sent < at <= self._bytes_sent + size for at in self._byte_faults())

    def _apply_byte_faults(self) -> None:
        fault = self._fault
        if fault.stall_at_byte == self._bytes_sent:
            self._stall()
        if fault.cut_at_byte == self._bytes_sent:
            self._break_connection()
        if fault.reset_at_byte == self._bytes_sent:
            self._break_connection(reset=True)

    def _apply_event_faults(self) -> None:
        """Apply the faults that are due after the events sent so far; before the first event also those at byte 0."""
        fault = self._fault
        if self._bytes_sent == 0:
            self._apply_byte_faults()
        if fault.stall_after_events == self._events_sent:
            self._stall()
        if fault.cut_after_events == self._events_sent:
            self._break_connection()
        if fault.reset_after_events == self._events_sent:
            self._break_connection(reset=True)

    def _break_connection(self, *, reset: bool = False) -> None:
        if reset:
            reset_on_close(self._sock)
        self._fault.reached.set()
        raise BrokenError("broken")

    def _send(self, data: bytes) -> None:
        drip = self._fault.drip
        try:
            if drip is None:
                self._sock.sendall(data)
                return
            for start in range(0, len(data), drip):
                self._sock.sendall(data[start : start + drip])
                if self._fault.drip_interval:
                    self._pause(self._fault.drip_interval)
        except OSError:
            raise BrokenError("client-gone") from None

    def _wait_until(self, instant: float) -> None:
        remaining_time = instant - time.monotonic()
        if remaining_time > 0:
            self._pause(remaining_time)

    def _pause(self, seconds: float | None, released: threading.Event | None = None) -> None:
        """Wait *seconds* (``None``: without end), or until *released*.

        Raises:
            BrokenError: The emulator stops, or the client has closed the connection.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            remaining_time = _CHECK_INTERVAL if deadline is None else deadline - time.monotonic()
            if remaining_time <= 0:
                return
            slice_length = min(remaining_time, _CHECK_INTERVAL)
            if released is not None and released.wait(slice_length):
                return
            if self._stopping.wait(0 if released is not None else slice_length):
                raise BrokenError("broken")
            if remaining_time > _CHECK_INTERVAL or deadline is None:
                self._check_client()

    def _check_client(self) -> None:
        """Raise :class:`BrokenError` if the client has closed the connection during a pause."""
        if _PEEK_FLAGS == socket.MSG_PEEK:  # without MSG_DONTWAIT the check would block
            return
        try:
            # Read the plain socket, also under TLS: only the end of the connection matters, not the content.
            client_closed = not socket.socket.recv(self._sock, 1, _PEEK_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            client_closed = True
        if client_closed:
            raise BrokenError("client-gone")

    def _stall(self) -> None:
        self._fault.reached.set()
        self._pause(self._fault.stall_for, self._fault.released)


def close_tls(sock: Any) -> None:
    """Send the closing alert of TLS, without waiting for the client's."""
    if hasattr(sock, "unwrap"):
        with suppress(OSError, ValueError):
            sock.settimeout(0)
            sock.unwrap()
