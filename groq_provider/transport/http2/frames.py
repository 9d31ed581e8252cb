"""HTTP/2 without I/O: bytes in, and for each stream its head, the parts of its body and its end; bytes to be sent out.

The protocol is the ``h2`` library's. What it does not keep to one stream, or to the point, is taken out before it sees it:

- GOAWAY: h2 shuts its whole state machine on any, also on a graceful one whose streams go on (python-hyper/h2#1181).
- Heads: a malformed one, or a body that is not as long as its head announced, is to h2 an error of the connection, so of all streams
  on it, where RFC 9113 (8.1.1) has it an error of the stream. They are unpacked and looked at here; h2 is told ``:status 200``.
- Bodies: h2 answers each piece for a stream that was reset with another RST_STREAM, which servers count as an attack; and showing it
  every piece takes more than all else that is done with one. It is told of their ends.

What is left as an error of the connection (fields that HPACK cannot unpack, a frame that is none) ends every stream on it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
from h2.settings import SettingCodes, Settings

from groq_provider.transport.http2.headers import MAX_HEAD, announced, look_at
from groq_provider.transport.http2.hpack import Unpacker
from groq_provider.transport.http2.stream import (
    STREAM_WINDOW,
    FrameError,
    GoneError,
    Http11RequiredError,
    NoRoomError,
    Stream,
    StreamResetError,
    UnprocessedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpack import HeaderTuple

__all__ = ["CONNECTION_WINDOW", "FIRST_STREAMS", "MAX_STREAMS", "Frames"]

#: Given back as data arrives, whoever it is for: a stream that is not read never stops the others. So what all of them hold is
#: bounded by the window of each, not by this.
CONNECTION_WINDOW = 1 << 24
#: The largest frame taken: what every peer must take, too, and the least that may be set.
MAX_FRAME = 16_384
#: Bytes of a table of header fields, as the protocol has it.
_TABLE = 4_096
#: Streams a connection has open before the peer has said how many, and at most whatever it says. A peer may not count them before
#: (RFC 9113, 3.4), but some do, servers on the h2 library among them, and end the connection if there are too many.
FIRST_STREAMS, MAX_STREAMS = 1, 256
#: No more of bodies is put into frames while so many bytes wait for the socket; they would only be held twice.
_MAX_WAITING = 262_144
#: So many bytes waiting for a peer that takes none are its pings and the like, not ours to keep.
_MAX_OUT = 8 << 20

_DATA, _HEADERS, _RST_STREAM, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 3, 5, 7, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
#: HEADERS with ``:status 200`` and an empty DATA, but for the number of the stream.
_PLAIN_HEAD, _NO_DATA = b"\0\0\1\1%c%b\x88", b"\0\0\0\0%c%b"
#: WINDOW_UPDATE, but for the number of the stream and the count.
_UPDATE = b"\0\0\4\x08\0"
#: A head in more pieces is an attack.
_MAX_PIECES = 64


def _name_of(code: int) -> str:
    try:
        return h2.errors.ErrorCodes(code).name
    except ValueError:
        return f"code {code}"


class Frames:
    """One connection's state, without its socket. Whoever uses it holds the connection's lock.

    Attributes:
        out: Bytes to be sent; whoever sends takes them off the front and says so to :meth:`flushed`.
        handed: How many bytes the system has taken so far.
        streams: Those that may still change, by number.
        limit: Most of them at once.
        settled: Whether the peer's settings have arrived.
        draining: Whether the peer takes no new streams.
        pong: Whether the last ping was answered.
        changed: Streams with news since this was emptied.
        closed: How many streams left ``streams`` since this was set to zero.
    """

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,  # made and looked at in fields_of()
                normalize_outbound_headers=False,
                validate_inbound_headers=False,  # by _bad_head(), for one stream; h2 would end the connection
                normalize_inbound_headers=False,
            )
        )
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            },
        )
        self._unpacker = Unpacker(MAX_HEAD)
        self._block: list[
            bytes
        ] = []  # the pieces of a head that is not whole yet, of this stream, with the flags of the first
        self._block_of = self._block_flags = 0
        self._highest = 0
        self._held = bytearray()  # the beginning of a frame
        self._needed = 9
        self._credit = 0  # of the connection's window, to be given back
        self._unsent: dict[Stream, None] = {}  # bodies that wait for the peer's window
        self._leaving: deque[Stream] = deque()  # all in frames, not all with the system
        self._queued = self.handed = 0
        self.out = bytearray()
        self.streams: dict[int, Stream] = {}
        self.limit = FIRST_STREAMS
        self.settled = self.draining = False
        self.pong = True
        #: No real ones: they end with the peer's settings, and with the connection.
        self._greeted: list[Stream] = []
        self.changed: list[Stream] = []
        self.closed = 0
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self._collect()

    # --- out ---------------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        data = self._h2.data_to_send()
        self.out += data
        self._queued += len(data)

    def open(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None, now: float) -> None:
        """Put a request into frames, its body as far as the peer takes it now.

        Raises:
            NoRoomError: The peer takes no more streams; nothing was changed.
        """
        try:
            number = self._h2.get_next_available_stream_id()
            self._collect()
            stream.start = self._queued
            self._h2.send_headers(number, fields, end_stream=not body)
        except h2.exceptions.TooManyStreamsError:
            raise NoRoomError("no more streams on this connection") from None
        except h2.exceptions.NoAvailableStreamIDError:
            self.draining = True  # after a billion of them
            raise NoRoomError("no more streams on this connection") from None
        stream.id = self._highest = number
        stream.progress_at = now
        stream.bodiless = fields[0][1] == b"HEAD"
        self.streams[number] = stream
        if body:
            stream.unsent = memoryview(body)
            self._unsent[stream] = None
            self.pump(now)
        else:
            self._all_framed(stream)

    def _all_framed(self, stream: Stream) -> None:
        self._collect()
        stream.unsent = None
        stream.mark = self._queued
        self._leaving.append(stream)

    def pump(self, now: float) -> None:
        """Put more of the waiting bodies into frames, one of each in turn, as far as the peer's windows and our buffer reach."""
        going = True
        while going and self._unsent:
            going = False
            for stream in list(self._unsent):
                if len(self.out) > _MAX_WAITING:
                    return
                going = self._one_frame(stream, now) or going

    def _one_frame(self, stream: Stream, now: float) -> bool:
        rest = stream.unsent
        if rest is None:
            self._unsent.pop(stream, None)
            return False
        room = min(
            self._h2.local_flow_control_window(stream.id), self._h2.max_outbound_frame_size, _MAX_WAITING, len(rest)
        )
        if room <= 0:
            return False
        last = room == len(rest)
        self._h2.send_data(stream.id, bytes(rest[:room]), end_stream=last)
        stream.progress_at = now
        if last:
            del self._unsent[stream]
            self._all_framed(stream)
        else:
            stream.unsent = rest[room:]
            self._collect()
        return True

    def flushed(self, count: int) -> None:
        """Note that the system has taken *count* more bytes."""
        self.handed += count
        leaving = self._leaving
        while leaving and (leaving[0].mark or 0) <= self.handed:
            stream = leaving.popleft()
            stream.sent = True
            self.changed.append(stream)

    def left(self, stream: Stream, slack: int = 0) -> bool:
        """Say whether anything of a request may have left; *slack* bytes may have gone without our knowing."""
        return stream.start < self.handed + slack

    def reset(self, stream: Stream, code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        """End a stream before its time; nothing of it is of use any more."""
        if self.streams.get(stream.id) is not stream:
            return
        self._forget(stream)
        try:
            self._h2.reset_stream(stream.id, code)
        except h2.exceptions.ProtocolError:
            pass  # closed already, on both sides
        self._collect()

    def greet(self, stream: Stream) -> None:
        """End *stream*, which is none of the peer's, when the settings have come or never will."""
        self._greeted.append(stream)
        if self.settled:
            self._settle()

    def _settle(self) -> None:
        while self._greeted:
            self._finish(self._greeted.pop())

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._h2.ping(b"groqping")
        self._collect()
        self.pong = False

    def give_back(self, stream: Stream, count: int) -> None:
        """Let the peer send *count* more bytes of a stream."""
        if self.streams.get(stream.id) is stream:
            stream.room += count
            self._credit_to(stream.id, count)

    def _credit_to(self, number: int, count: int) -> None:
        """Send a WINDOW_UPDATE. By hand: h2 gives back what it has seen come, and is shown no bodies."""
        self._collect()
        update = _UPDATE + number.to_bytes(4, "big") + count.to_bytes(4, "big")
        self.out += update
        self._queued += len(update)

    def goodbye(self) -> None:
        """Say that we are leaving."""
        try:
            self._h2.close_connection()
        except h2.exceptions.ProtocolError:
            return  # said already
        self._collect()

    # --- in ----------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take in what has arrived.

        Raises:
            FrameError: The peer breaks HTTP/2: nothing of this connection can be trusted.
        """
        held = self._held
        held += data
        if len(held) < self._needed:
            return
        whole = bytes(held)
        position, end = 0, len(whole)
        self._needed = 9
        while end - position >= 9:
            length = int.from_bytes(whole[position : position + 3], "big")
            if length > MAX_FRAME:
                raise FrameError("a frame that is too long")
            after = position + 9 + length
            if after > end:
                self._needed = 9 + length
                break
            kind = whole[position + 3]
            number = int.from_bytes(whole[position + 5 : position + 9], "big") & 0x7FFF_FFFF
            frame = whole[position:after]
            position = after
            if self._block and (kind != _CONTINUATION or number != self._block_of):
                raise FrameError("a frame inside a head")
            taker = _OURS.get(kind)
            if taker is None or not taker(self, number, frame):
                self._feed(frame)
        del held[:position]
        if self._credit >= CONNECTION_WINDOW // 4:
            credit, self._credit = self._credit, 0
            self._credit_to(0, credit)
        self._collect()
        self.pump(now)
        if len(self.out) > _MAX_OUT:
            raise FrameError("a peer that asks and does not listen")

    def _feed(self, frame: bytes) -> None:
        try:
            events = self._h2.receive_data(frame)
        except h2.exceptions.ProtocolError as error:
            problem = type(error).__name__
        except Exception as error:  # noqa: BLE001 - decoders have been found to raise what they do not say
            problem = type(error).__name__
        else:
            for event in events:
                handler = _HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event)
            return
        self._collect()
        raise FrameError(f"the peer breaks HTTP/2 ({problem})")

    # Each of these takes a frame and says whether h2 is not to see it.

    def _data(self, number: int, frame: bytes) -> bool:
        if number == 0:
            raise FrameError("a body of no stream")
        size = len(frame) - 9
        self._credit += size
        stream = self.streams.get(number)
        if stream is None:
            return True  # over already
        flags = frame[4]
        if flags & _PADDED:
            padding = frame[9] + 1 if size else 1
            if padding > size:
                raise FrameError("more padding than there is room for")
            text = frame[10 : len(frame) - padding + 1]
        else:
            padding = 0
            text = frame[9:]
        stream.received += len(text)
        stream.room -= size
        if stream.head is None:
            self._malformed(stream, "a body before its head")
        elif stream.announced is not None and stream.received > stream.announced:
            self._malformed(stream, "a body that is longer than announced")
        elif stream.room < 0:
            self._malformed(stream, "more of a body than was asked for")
        else:
            if text:
                stream.parts.append(text)
                self.changed.append(stream)
            if flags & _END_STREAM:
                self._feed(_NO_DATA % (_END_STREAM, number.to_bytes(4, "big")))
            elif padding:
                self.give_back(stream, padding)
        return True

    def _headers(self, number: int, frame: bytes) -> bool:
        flags = frame[4]
        start, end = 9, len(frame)
        if flags & _PADDED and end > 9:
            start, end = 10, end - frame[9]
        if flags & _PRIORITY:
            start += 5
        if start > end or number % 2 == 0 or number > self._highest:
            raise FrameError("a head that is none")
        self._block_of, self._block_flags = number, flags
        self._block = [frame[start:end]]
        if flags & _END_HEADERS:
            self._unpack()
        return True

    def _continuation(self, _number: int, frame: bytes) -> bool:
        if not self._block or len(self._block) == _MAX_PIECES:
            raise FrameError("a piece of a head that is none")
        self._block.append(frame[9:])
        if frame[4] & _END_HEADERS:
            self._unpack()
        return True

    def _unpack(self) -> None:
        """Unpack a whole head; all of them have to be, as each changes the table for those after it."""
        block, self._block = b"".join(self._block), []
        try:
            head = self._unpacker.unpack(block)
        except ValueError:
            head = None
        if head is None:
            raise FrameError("a head that cannot be unpacked")
        stream = self.streams.get(self._block_of)
        if stream is not None:
            self._head(stream, head, self._block_flags & _END_STREAM)

    def _head(self, stream: Stream, head: list[tuple[bytes, bytes]], ends: int) -> None:
        number = stream.id.to_bytes(4, "big")
        if stream.head is not None:  # trailers, which say nothing here
            if ends:
                self._feed(_NO_DATA % (_END_STREAM, number))
            else:
                self._malformed(stream, "a second head")
            return
        status, wrong = look_at(head)
        if not wrong and status < 200:
            if not ends and status != 101:
                return  # an interim answer; the one to the request follows
            wrong = "an interim answer that cannot be one"
        if wrong:
            self._malformed(stream, wrong)
            return
        stream.announced = None if stream.bodiless or status in (204, 304) else announced(head)
        stream.head = head
        self.changed.append(stream)
        self._feed(_PLAIN_HEAD % (_END_HEADERS | ends, number))

    def _malformed(self, stream: Stream, wrong: str) -> None:
        self._fail(stream, FrameError, wrong)
        self.reset(stream, h2.errors.ErrorCodes.PROTOCOL_ERROR)

    def _rst_stream(self, number: int, _frame: bytes) -> bool:
        return number not in self.streams and 0 < number <= self._highest  # over already

    def _push_promise(self, _number: int, _frame: bytes) -> bool:
        raise FrameError("a promise that was refused from the beginning")

    def _goaway(self, number: int, frame: bytes) -> bool:
        if number or len(frame) < 17:
            raise FrameError("a GOAWAY that is none")
        last = int.from_bytes(frame[9:13], "big") & 0x7FFF_FFFF
        code = int.from_bytes(frame[13:17], "big")
        self.draining = True
        for stream in [found for found in self.streams.values() if found.id > last]:
            # Not by reset(): the peer has forgotten these, or never knew them.
            self._fail(stream, UnprocessedError, "the server is leaving and has not taken the request")
            self._forget(stream)
        if code:  # it closes now (RFC 9113, 5.4.1): the other streams get nothing more
            raise GoneError(f"the server ended the connection ({_name_of(code)})")
        return True

    def _forget(self, stream: Stream) -> None:
        """Let a stream go: its place is free."""
        self._unsent.pop(stream, None)
        stream.unsent = None
        if stream.id in self.streams:
            del self.streams[stream.id]  # not by a call, after which an interrupt might come before it is counted
            self.closed += 1

    def _finish(self, stream: Stream) -> None:
        stream.ended = True
        self.changed.append(stream)

    def _fail(self, stream: Stream, kind: Callable[..., Exception], *arguments: Any) -> None:
        if not stream.ended:
            stream.problem = (kind, arguments)
            self._finish(stream)

    def cancelled(self, stream: Stream) -> None:
        """End a stream for its own side's reasons."""
        self._fail(stream, ConnectionAbortedError, "cancelled")
        self.reset(stream)

    def broken(self, kind: Callable[..., Exception], arguments: tuple[Any, ...], slack: int) -> None:
        """End every stream: the connection is no more. Those of which nothing had left may be sent again."""
        for stream in list(self.streams.values()):
            if self.left(stream, slack):
                self._fail(stream, kind, *arguments)
            else:
                self._fail(stream, UnprocessedError, "the connection broke before the request was sent")
            self._forget(stream)
        self._settle()

    # --- what h2 says ------------------------------------------------------------------------------------------------------

    def _on_end(self, event: h2.events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        self._finish(stream)
        if stream.unsent is not None:
            self.reset(stream)  # answered before it had the whole request, which it does not want any more
        else:
            self._forget(stream)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        codes = h2.errors.ErrorCodes
        code = event.error_code or 0
        if stream.head is None and code == codes.REFUSED_STREAM:
            self._fail(stream, UnprocessedError, "the server refused the stream")
        elif stream.head is None and code == codes.HTTP_1_1_REQUIRED:
            self._fail(stream, Http11RequiredError, "the server wants HTTP/1.1")
        else:
            self._fail(stream, StreamResetError, f"the server ended the stream ({_name_of(code)})")
        self._forget(stream)

    def _on_settings(self, _event: h2.events.RemoteSettingsChanged) -> None:
        self.settled = True
        self._settle()
        self.limit = min(MAX_STREAMS, self._h2.remote_settings.max_concurrent_streams)
        # What the peer offers to remember of our heads is memory of ours as well: no more than the protocol begins with. And what the
        # encoder is to say of it in its next head, the smallest size and the last, does not grow with the number of offers.
        encoder = self._h2.encoder
        if encoder.header_table_size > _TABLE:  # noqa: PLR1730 - to set what it has makes hpack forget that it changed
            encoder.header_table_size = _TABLE
        if sizes := encoder.table_size_changes:
            sizes[:] = [min(sizes), sizes[-1]]
            encoder.header_table.resized = True

    def _on_pong(self, _event: h2.events.PingAckReceived) -> None:
        self.pong = True


_HANDLERS: dict[type, Any] = {
    h2.events.StreamEnded: Frames._on_end,
    h2.events.StreamReset: Frames._on_reset,
    h2.events.RemoteSettingsChanged: Frames._on_settings,
    h2.events.PingAckReceived: Frames._on_pong,
}

_OURS: dict[int, Any] = {
    _DATA: Frames._data,
    _HEADERS: Frames._headers,
    _RST_STREAM: Frames._rst_stream,
    _PUSH_PROMISE: Frames._push_promise,
    _GOAWAY: Frames._goaway,
    _CONTINUATION: Frames._continuation,
}
