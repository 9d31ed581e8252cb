"""The HTTP/2 protocol without I/O: bytes in, stream states out; and the bytes to send.

The ``h2`` library implements the protocol. Some frames are handled here before h2 sees them, because it would end all
streams where one would do, or spend too much time:

- GOAWAY: h2 stops its whole state machine, although after a graceful one the open streams go on (python-hyper/h2#1181).
- Heads: h2 treats a malformed head, or a body of another length than announced, as an error of the connection. RFC 9113
  (8.1.1) makes it an error of the stream. So heads are decoded and checked here, and h2 is told ``:status 200``
  instead.
- DATA: h2 answers each frame of a stream that was reset with another RST_STREAM, which servers count as an attack.
  Passing every frame to it would also take more time than all other work on a body. So h2 is told only of the end of a
  body.

The remaining errors of the connection, such as a malformed frame or an undecodable header block, end every stream on
it.
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

from groq_provider.transport.http2.headers import MAX_HEAD, check_head, content_length
from groq_provider.transport.http2.hpack import HeaderDecoder
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

#: The receive window of the connection. It is given back as data arrives, so a stream that is not read never blocks the
#: others; what all streams buffer is bounded by the window of each.
CONNECTION_WINDOW = 1 << 24
#: The largest frame that we accept: the least value that the protocol allows.
MAX_FRAME = 16_384
#: The default size of a header table, in bytes.
_HEADER_TABLE_SIZE = 4_096
#: Most open streams before the peer has announced its limit, and most whatever it announces. RFC 9113 (3.4) lets us
#: open more before that, but some servers, those on the h2 library among them, count these too and end the connection.
FIRST_STREAMS, MAX_STREAMS = 1, 256
#: While so many bytes wait for the socket, put no more of a body into frames: it would only be buffered twice.
_MAX_BODY_BACKLOG = 262_144
#: So many unsent bytes are replies to a peer that reads nothing. Give it up.
_MAX_OUTBOX = 8 << 20

_DATA, _HEADERS, _RST_STREAM, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 3, 5, 7, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x4, 0x8, 0x20
#: HEADERS with ``:status 200`` and an empty DATA; the number of the stream is missing.
_PLAIN_HEAD_FRAME, _EMPTY_DATA_FRAME = b"\0\0\1\1%c%b\x88", b"\0\0\0\0%c%b"
#: WINDOW_UPDATE; the number of the stream and the count are missing.
_WINDOW_UPDATE_FRAME = b"\0\0\4\x08\0"
#: A head in more pieces is an attack.
_MAX_HEAD_PIECES = 64


def _error_name(error_code: int) -> str:
    try:
        return h2.errors.ErrorCodes(error_code).name
    except ValueError:
        return f"code {error_code}"


class _H2Connection(h2.connection.H2Connection):
    """h2's connection, which remembers fewer of the streams that have ended.

    It keeps 120 bytes of each, for late frames. Those come within one round trip, so the last thousand are enough.
    """

    MAX_CLOSED_STREAMS = 1024


class Frames:
    """The state of one connection, without its socket. Guarded by the lock of the connection.

    Attributes:
        outbox: Bytes to send. The sender removes them from the front and reports them to :meth:`flushed`.
        flushed_bytes: Number of bytes that the system has accepted so far.
        streams: Open streams by number.
        max_streams: Most open streams.
        settings_received: Whether the peer's settings have arrived.
        draining: Whether the peer accepts no new streams.
        ping_answered: Whether the last ping was answered.
        changed_streams: Streams with news. The caller empties it.
        closed_streams: Number of streams removed from ``streams``. The caller resets it.
    """

    def __init__(self) -> None:
        self._h2 = _H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,  # fields_of() makes and checks them
                normalize_outbound_headers=False,
                validate_inbound_headers=False,  # check_head() ends one stream, h2 would end the connection
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
        self._header_decoder = HeaderDecoder(MAX_HEAD)
        #: The pieces of an incomplete head, its stream, and the flags of its first piece.
        self._head_pieces: list[bytes] = []
        self._head_stream_id = self._head_flags = 0
        self._last_stream_id = 0
        self._partial_frame = bytearray()  # the beginning of an incomplete frame
        self._needed_bytes = 9
        self._window_credit = 0  # bytes of the connection's window to give back
        self._unsent_bodies: dict[Stream, None] = {}  # bodies that wait for the peer's window
        self._unflushed_streams: deque[Stream] = deque()  # all in frames, but not all accepted by the system
        self.queued_bytes = self.flushed_bytes = 0
        self.outbox = bytearray()
        self.streams: dict[int, Stream] = {}
        self.max_streams = FIRST_STREAMS
        self.settings_received = self.draining = False
        self.ping_answered = True
        self.changed_streams: list[Stream] = []
        self.closed_streams = 0
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self._collect_output()

    # --- out ---------------------------------------------------------------------------------------------------------------

    def _collect_output(self) -> None:
        data = self._h2.data_to_send()
        self.outbox += data
        self.queued_bytes += len(data)

    def open_stream(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None, now: float) -> None:
        """Put a request into frames, its body as far as the peer accepts it now.

        Raises:
            NoRoomError: The peer accepts no more streams; nothing was changed.
        """
        try:
            number = self._h2.get_next_available_stream_id()
            self._collect_output()
            stream.start_offset = self.queued_bytes
            self._h2.send_headers(number, fields, end_stream=not body)
        except h2.exceptions.TooManyStreamsError:
            raise NoRoomError("no more streams on this connection") from None
        except h2.exceptions.NoAvailableStreamIDError:
            self.draining = True  # all stream numbers are used up, a billion of them
            raise NoRoomError("no more streams on this connection") from None
        stream.id = self._last_stream_id = number
        stream.progress_at = now
        stream.bodiless = fields[0][1] == b"HEAD"
        self.streams[number] = stream
        if body:
            stream.unsent = memoryview(body)
            self._unsent_bodies[stream] = None
            self.frame_bodies(now)
        else:
            self._mark_all_framed(stream)

    def _mark_all_framed(self, stream: Stream) -> None:
        self._collect_output()
        stream.unsent = None
        stream.end_offset = self.queued_bytes
        self._unflushed_streams.append(stream)

    def frame_bodies(self, now: float) -> None:
        """Frame more of the waiting bodies, a frame of each in turn, as far as the peer's windows and our outbox allow."""
        made_progress = True
        while made_progress and self._unsent_bodies:
            made_progress = False
            for stream in list(self._unsent_bodies):
                if len(self.outbox) > _MAX_BODY_BACKLOG:
                    return
                made_progress = self._frame_next_part(stream, now) or made_progress

    def _frame_next_part(self, stream: Stream, now: float) -> bool:
        unsent = stream.unsent
        if unsent is None:
            self._unsent_bodies.pop(stream, None)
            return False
        sendable_bytes = min(
            self._h2.local_flow_control_window(stream.id),
            self._h2.max_outbound_frame_size,
            _MAX_BODY_BACKLOG,
            len(unsent),
        )
        if sendable_bytes <= 0:
            return False
        is_last = sendable_bytes == len(unsent)
        self._h2.send_data(stream.id, bytes(unsent[:sendable_bytes]), end_stream=is_last)
        stream.progress_at = now
        if is_last:
            del self._unsent_bodies[stream]
            self._mark_all_framed(stream)
        else:
            stream.unsent = unsent[sendable_bytes:]
            self._collect_output()
        return True

    def record_flushed(self, count: int) -> None:
        """Record that the system accepted *count* more bytes."""
        self.flushed_bytes += count
        unflushed_streams = self._unflushed_streams
        while unflushed_streams and (unflushed_streams[0].end_offset or 0) <= self.flushed_bytes:
            stream = unflushed_streams.popleft()
            stream.sent = True
            self.changed_streams.append(stream)

    def may_have_left(self, stream: Stream, uncounted: int = 0) -> bool:
        """Say whether any byte of a request may have left. *uncounted* bytes may have left without being counted."""
        return stream.start_offset < self.flushed_bytes + uncounted

    def reset_stream(self, stream: Stream, error_code: h2.errors.ErrorCodes = h2.errors.ErrorCodes.CANCEL) -> None:
        """Reset a stream before its end."""
        if self.streams.get(stream.id) is not stream:
            return
        self._remove_stream(stream)
        try:
            self._h2.reset_stream(stream.id, error_code)
        except h2.exceptions.ProtocolError:
            pass  # closed already, on both sides
        self._collect_output()

    def send_ping(self) -> None:
        """Send a ping."""
        self._h2.ping(b"groqping")
        self._collect_output()
        self.ping_answered = False

    def acknowledge(self, stream: Stream, count: int) -> None:
        """Let the peer send *count* more bytes on a stream."""
        if self.streams.get(stream.id) is stream:
            stream.receive_window += count
            self._send_window_update(stream.id, count)

    def _send_window_update(self, number: int, count: int) -> None:
        """Send a WINDOW_UPDATE. Not by h2, which gives back only the data that it was shown."""
        self._collect_output()
        update = _WINDOW_UPDATE_FRAME + number.to_bytes(4, "big") + count.to_bytes(4, "big")
        self.outbox += update
        self.queued_bytes += len(update)

    def send_goaway(self) -> None:
        """Send GOAWAY."""
        try:
            self._h2.close_connection()
        except h2.exceptions.ProtocolError:
            return  # sent already
        self._collect_output()

    # --- in ----------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Process bytes that have arrived.

        Raises:
            FrameError: The peer violates HTTP/2, so nothing on this connection can be trusted.
        """
        partial_frame = self._partial_frame
        partial_frame += data
        if len(partial_frame) < self._needed_bytes:
            return
        data = bytes(partial_frame)
        position, end = 0, len(data)
        self._needed_bytes = 9
        while end - position >= 9:
            length = int.from_bytes(data[position : position + 3], "big")
            if length > MAX_FRAME:
                raise FrameError("frame too long")
            frame_end = position + 9 + length
            if frame_end > end:
                self._needed_bytes = 9 + length
                break
            frame_type = data[position + 3]
            number = int.from_bytes(data[position + 5 : position + 9], "big") & 0x7FFF_FFFF
            frame = data[position:frame_end]
            position = frame_end
            if self._head_pieces and (frame_type != _CONTINUATION or number != self._head_stream_id):
                raise FrameError("frame inside a header block")
            handler = _OWN_HANDLERS.get(frame_type)
            if handler is None or not handler(self, number, frame):
                self._feed_h2(frame)
        del partial_frame[:position]
        if self._window_credit >= CONNECTION_WINDOW // 4:
            window_credit, self._window_credit = self._window_credit, 0
            self._send_window_update(0, window_credit)
        self._collect_output()
        self.frame_bodies(now)
        if len(self.outbox) > _MAX_OUTBOX:
            raise FrameError("the peer sends requests for replies and reads none")

    def _feed_h2(self, frame: bytes) -> None:
        try:
            events = self._h2.receive_data(frame)
        except h2.exceptions.ProtocolError as error:
            problem = type(error).__name__
        except Exception as error:  # noqa: BLE001 - decoders raise undocumented exceptions
            problem = type(error).__name__
        else:
            for event in events:
                handler = _EVENT_HANDLERS.get(type(event))
                if handler is not None:
                    handler(self, event)
            return
        self._collect_output()
        raise FrameError(f"the peer violates HTTP/2 ({problem})")

    # Each of these handles a frame, and returns whether to hide it from h2.

    def _on_data_frame(self, number: int, frame: bytes) -> bool:
        if number == 0:
            raise FrameError("DATA frame on stream 0")
        payload_size = len(frame) - 9
        self._window_credit += payload_size
        stream = self.streams.get(number)
        if stream is None:
            return True  # ended already
        flags = frame[4]
        if flags & _PADDED:
            padding_size = frame[9] + 1 if payload_size else 1
            if padding_size > payload_size:
                raise FrameError("more padding than payload")
            payload = frame[10 : len(frame) - padding_size + 1]
        else:
            padding_size = 0
            payload = frame[9:]
        stream.received_bytes += len(payload)
        stream.receive_window -= payload_size
        if stream.head is None:
            self._fail_malformed(stream, "DATA before the head")
        elif stream.content_length is not None and stream.received_bytes > stream.content_length:
            self._fail_malformed(stream, "body longer than its Content-Length")
        elif stream.receive_window < 0:
            self._fail_malformed(stream, "flow-control window exceeded")
        else:
            if payload:
                stream.body_parts.append(payload)
                self.changed_streams.append(stream)
            if flags & _END_STREAM:
                self._feed_h2(_EMPTY_DATA_FRAME % (_END_STREAM, number.to_bytes(4, "big")))
            elif padding_size:
                self.acknowledge(stream, padding_size)
        return True

    def _on_headers_frame(self, number: int, frame: bytes) -> bool:
        flags = frame[4]
        start, end = 9, len(frame)
        if flags & _PADDED and end > 9:
            start, end = 10, end - frame[9]
        if flags & _PRIORITY:
            start += 5
        if start > end or number % 2 == 0 or number > self._last_stream_id:
            raise FrameError("malformed HEADERS frame")
        self._head_stream_id, self._head_flags = number, flags
        self._head_pieces = [frame[start:end]]
        if flags & _END_HEADERS:
            self._decode_head()
        return True

    def _on_continuation_frame(self, _number: int, frame: bytes) -> bool:
        if not self._head_pieces or len(self._head_pieces) == _MAX_HEAD_PIECES:
            raise FrameError("unexpected CONTINUATION frame")
        self._head_pieces.append(frame[9:])
        if frame[4] & _END_HEADERS:
            self._decode_head()
        return True

    def _decode_head(self) -> None:
        """Decode a complete header block.

        Do so for every block, even of an unknown stream: each changes the header table.
        """
        block, self._head_pieces = b"".join(self._head_pieces), []
        try:
            head = self._header_decoder.decode(block)
        except ValueError:
            head = None
        if head is None:
            raise FrameError("header block cannot be decoded")
        stream = self.streams.get(self._head_stream_id)
        if stream is not None:
            self._accept_head(stream, head, self._head_flags & _END_STREAM)

    def _accept_head(self, stream: Stream, head: list[tuple[bytes, bytes]], end_stream: int) -> None:
        number = stream.id.to_bytes(4, "big")
        if stream.head is not None:  # trailers, which have no meaning here
            if end_stream:
                self._feed_h2(_EMPTY_DATA_FRAME % (_END_STREAM, number))
            else:
                self._fail_malformed(stream, "second HEADERS without END_STREAM")
            return
        status, problem = check_head(head)
        if not problem and status < 200:
            if not end_stream and status != 101:
                return  # an interim response; the final one follows
            problem = "invalid interim response"
        if problem:
            self._fail_malformed(stream, problem)
            return
        stream.content_length = None if stream.bodiless or status in (204, 304) else content_length(head)
        stream.head = head
        self.changed_streams.append(stream)
        self._feed_h2(_PLAIN_HEAD_FRAME % (_END_HEADERS | end_stream, number))

    def _fail_malformed(self, stream: Stream, problem: str) -> None:
        self._fail_stream(stream, FrameError, problem)
        self.reset_stream(stream, h2.errors.ErrorCodes.PROTOCOL_ERROR)

    def _on_rst_stream_frame(self, number: int, _frame: bytes) -> bool:
        return number not in self.streams and 0 < number <= self._last_stream_id  # ended already

    def _on_push_promise_frame(self, _number: int, _frame: bytes) -> bool:
        raise FrameError("PUSH_PROMISE although push is disabled")

    def _on_goaway_frame(self, number: int, frame: bytes) -> bool:
        if number or len(frame) < 17:
            raise FrameError("malformed GOAWAY frame")
        last_stream_id = int.from_bytes(frame[9:13], "big") & 0x7FFF_FFFF
        error_code = int.from_bytes(frame[13:17], "big")
        self.draining = True
        for stream in [each for each in self.streams.values() if each.id > last_stream_id]:
            # Not by reset_stream(): the peer does not know these streams.
            self._fail_stream(
                stream, UnprocessedError, "the server closes the connection and has not processed the request"
            )
            self._remove_stream(stream)
        if error_code:  # the peer closes now (RFC 9113, 5.4.1), so the other streams get nothing more
            raise GoneError(f"the server ended the connection ({_error_name(error_code)})")
        return True

    def _remove_stream(self, stream: Stream) -> None:
        """Remove a stream, which frees its place."""
        self._unsent_bodies.pop(stream, None)
        stream.unsent = None
        if self.streams.pop(stream.id, None) is not None:
            self.closed_streams += 1

    def _finish_stream(self, stream: Stream) -> None:
        stream.ended = True
        self.changed_streams.append(stream)

    def _fail_stream(self, stream: Stream, error_class: Callable[..., Exception], *arguments: Any) -> None:
        if not stream.ended:
            stream.failure_spec = (error_class, arguments)
            self._finish_stream(stream)

    def cancel_stream(self, stream: Stream) -> None:
        """End a stream that our side cancelled."""
        self._fail_stream(stream, ConnectionAbortedError, "cancelled")
        self.reset_stream(stream)

    def drop_stream(self, stream: Stream) -> None:
        """End a stream that no thread reads any more."""
        self.reset_stream(stream)
        stream.ended = True

    def fail_all(self, error_class: Callable[..., Exception], arguments: tuple[Any, ...], uncounted: int) -> None:
        """End every stream, because the connection has ended. Requests of which no byte has left may be sent again."""
        for stream in list(self.streams.values()):
            if self.may_have_left(stream, uncounted):
                self._fail_stream(stream, error_class, *arguments)
            else:
                self._fail_stream(stream, UnprocessedError, "the connection broke before the request was sent")
            self._remove_stream(stream)

    # --- what h2 says ------------------------------------------------------------------------------------------------------

    def _on_stream_ended(self, event: h2.events.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        self._finish_stream(stream)
        if stream.unsent is not None:
            self.reset_stream(stream)  # the response ended before the request did, so the peer does not want the rest
        else:
            self._remove_stream(stream)

    def _on_stream_reset(self, event: h2.events.StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        codes = h2.errors.ErrorCodes
        error_code = event.error_code or 0
        if stream.head is None and error_code == codes.REFUSED_STREAM:
            self._fail_stream(stream, UnprocessedError, "the server refused the stream")
        elif stream.head is None and error_code == codes.HTTP_1_1_REQUIRED:
            self._fail_stream(stream, Http11RequiredError, "the server wants HTTP/1.1")
        else:
            self._fail_stream(stream, StreamResetError, f"the server ended the stream ({_error_name(error_code)})")
        self._remove_stream(stream)

    def _on_settings(self, _event: h2.events.RemoteSettingsChanged) -> None:
        self.settings_received = True
        self.max_streams = min(MAX_STREAMS, self._h2.remote_settings.max_concurrent_streams)
        # The peer's header table costs memory on our side, too, so do not let it exceed the default. The encoder
        # announces table sizes in its next head: keep the smallest and the last only, however many the peer has
        # offered.
        encoder = self._h2.encoder
        if encoder.header_table_size > _HEADER_TABLE_SIZE:  # noqa: PLR1730 - the same size again makes hpack forget a change
            encoder.header_table_size = _HEADER_TABLE_SIZE
        if sizes := encoder.table_size_changes:
            sizes[:] = [min(sizes), sizes[-1]]
            encoder.header_table.resized = True

    def _on_pong(self, _event: h2.events.PingAckReceived) -> None:
        self.ping_answered = True


_EVENT_HANDLERS: dict[type, Any] = {
    h2.events.StreamEnded: Frames._on_stream_ended,
    h2.events.StreamReset: Frames._on_stream_reset,
    h2.events.RemoteSettingsChanged: Frames._on_settings,
    h2.events.PingAckReceived: Frames._on_pong,
}

_OWN_HANDLERS: dict[int, Any] = {
    _DATA: Frames._on_data_frame,
    _HEADERS: Frames._on_headers_frame,
    _RST_STREAM: Frames._on_rst_stream_frame,
    _PUSH_PROMISE: Frames._on_push_promise_frame,
    _GOAWAY: Frames._on_goaway_frame,
    _CONTINUATION: Frames._on_continuation_frame,
}
