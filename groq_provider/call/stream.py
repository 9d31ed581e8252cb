"""The answer of a streamed call, chunk by chunk: complete, or an error that holds the part that had arrived.

:class:`ResponseStream` owns the state of the stream, the limits for each read, and the end. Its parts are values without a state of their
own life: ``chunk_decoder`` makes chunks and errors of events, ``body_sniffer`` finds out whether a body is an event stream at all, and
``arrival`` measures when things arrived.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import deque
from itertools import islice, repeat
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from groq_provider import errors as e
from groq_provider.call.arrival import ReadTimes
from groq_provider.call.body_sniffer import BodySniffer, is_labelled_stream
from groq_provider.call.call import MAX_STREAM
from groq_provider.call.chunk_decoder import ChunkDecoder, belongs_to_answer, ends_answer
from groq_provider.types.response import LLMResponse, ResponseChunk, ToolCallDelta
from groq_provider.wire import json_text
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.sse import DONE, Event, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from groq_provider.call.call import Call
    from groq_provider.protocols import WireResponse

__all__ = ["ResponseStream"]

#: Seconds in which a reader that comes back late can take in what has arrived.
_GRACE = 0.05
#: The longest wait of a poll in seconds; some systems refuse a longer one.
_LONGEST_POLL = 1_000_000.0
#: Lines that are decoded between two checks of the limits: some milliseconds of work.
_BATCH = 4096
#: Reads that a poll may do whatever its time limit, so that it does not miss what has arrived because the machine stopped for a moment.
_LEAST_READS = 4

# The states of a stream. They say what ``next()`` does once no chunk is pending.
_UNFINISHED = "unfinished"  # under construction: nothing to read and nothing to free
_OPEN = "open"  # reads on
_TO_RETRY = (
    "to retry"  # failed with ``_error`` before the first chunk: next() may retry; poll() must not, it would wait
)
_COMPLETE = "complete"  # the answer is whole: StopIteration
_FAILED = "failed"  # raises ``_error``
_CLOSED = "closed"  # left early, or a chunk was dropped: RuntimeError, so that a part does not look like the whole
_FOREIGN = "foreign"  # a forked child's copy of a stream that the parent reads: RuntimeError
#: The states in which the stream holds a connection and an unfinished call.
_UNENDED = (_OPEN, _TO_RETRY, _FOREIGN)

# What the caller did since the last read.
_READING = 0  # nothing else: the limit for the next event runs on
_POLLED = 1  # poll() returned False; the limit ran on
_AWAY = 2  # the caller had a chunk to work on: the limit starts again with the next read


class ResponseStream:
    """Iterate it for chunks; use it as a context manager, so that leaving early frees the connection.

    ``"".join(chunk.content for chunk in stream)`` is the answer. The last chunk has ``content=""``, the finish reason, the usage
    and the latency figures. A stream that ends early, stalls or breaks raises; ``error.partial`` holds the part that had arrived.

    If you read on after :meth:`close`, or after an interrupt within ``next()``, you get a :class:`RuntimeError` unless every chunk
    had been handed out. The same goes for reading in a forked child.

    Thread safety: one thread at a time may read. A second thread that reads at the same moment gets a :class:`RuntimeError`, and the
    first one loses nothing. Any thread may call :meth:`cancel` and :meth:`close`.

    .. versionadded:: 0.1.0
    """

    # Defaults of what few streams change: an object with more than thirty attributes of its own takes a kilobyte more.
    _state = _UNFINISHED
    #: Whether a chunk was handed out. From then on nothing is retried, since the caller would get the same text twice.
    _has_delivered = False
    _since_last_read = _AWAY
    _error: e.GroqProviderError  # in the states _FAILED and _TO_RETRY
    _response: LLMResponse | None = None
    #: The lines of the last read that are left for further batches.
    _lines: Iterator[bytes] | None = None
    #: The events of the last batch that are left. Each is decoded when its chunk is asked for, so that no chunk waits for later events.
    _events: Iterator[Event] | None = None

    def __init__(self, call: Call, wire: WireResponse) -> None:
        self._call = call
        self._scope, self._idle = call.scope, call.options.timeouts.idle
        lock = Lock()  # held by the thread that reads or closes, while it does; guards everything below
        # Each step of this iterator tries to take the lock. In a loop, for the reason that _sync.lock_attempts() gives.
        self._lock_attempts, self._release_lock = map(lock.acquire, repeat(False)), lock.release
        #: Chunks that are decoded and not handed out.
        self._pending: deque[ResponseChunk] = deque()
        self._reader_thread = get_ident()
        try:
            self._start(wire)
            self._state = _OPEN
            call.runtime.calls.add_stream(self)
        except BaseException:  # an interrupt: no caller will get this stream
            self._state = _CLOSED
            wire.close()
            call.abandoned()
            raise

    def _start(self, wire: WireResponse) -> None:
        """Begin to read the answer of an attempt."""
        self._wire = wire
        self._sniffer = None if is_labelled_stream(wire) else BodySniffer(wire)
        self._event_decoder = EventDecoder()
        self._assembler = Assembler(self._scope.checkpoint)
        self._chunk_decoder = ChunkDecoder(self._call, wire, self._assembler)
        self._times = ReadTimes(self._scope.clock.monotonic())
        self._size = 0

    def __repr__(self) -> str:
        if self._state == _UNFINISHED:
            return f"<{type(self).__name__} unfinished>"  # a debugger shows an object whose construction failed
        return f"<{type(self).__name__} {self._call.model} {self._state}, {self._assembler.chunks} chunks>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ResponseStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    # --- reading -----------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        event: Event | None
        try:
            for is_reader in self._lock_attempts:
                if is_reader:
                    try:
                        events = self._events
                        if events is not None and not self._pending and not self._scope._cancelled:  # noqa: SLF001 - the property takes longer than the rest of this
                            # The short way for nearly every chunk: it looks like those before, and came with the last read.
                            try:
                                for event in events:
                                    if not event[0] and (chunk := self._assembler.reuse_template(event[1])) is not None:
                                        return chunk
                                    self._fetch_chunk(event)
                                    break
                                else:
                                    self._events = None
                            except e.GroqProviderError as error:  # an event that is too large
                                self._handle_error(error)
                            event = events = None  # the traceback of an error must not keep the text of the answer
                        return self._next_chunk()
                    finally:
                        self._release_lock()
                break
        except StopIteration:
            raise
        except BaseException:
            # Out here, since a chunk is lost until it is returned. After an error of the stream this has no effect.
            self._close_after_interrupt()
            raise
        raise self._busy_error()

    def _ending(self) -> Exception:
        """Return the exception for a read after the last chunk."""
        if self._state == _COMPLETE:
            return StopIteration()
        if self._state == _FOREIGN:
            # The bytes that the child took from the socket would be missing in the parent, which would not notice.
            return RuntimeError("the stream belongs to the process that opened it; open one here")
        if self._state == _FAILED:
            return self._error
        return RuntimeError("the stream was closed before its end; see stream.partial")

    def _busy_error(self) -> Exception:
        """Return the error for a thread that reads while another one does. Waiting would give each of them a part of the text."""
        if self._state == _FOREIGN:  # the lock's owner is a thread of the parent
            return self._ending()
        return RuntimeError("another thread is reading this stream just now; it belongs to one reader at a time")

    def _next_chunk(self) -> ResponseChunk:
        """Return the next chunk, however long it takes."""
        pending = self._pending
        if self._scope._cancelled and self._state in (_OPEN, _TO_RETRY):  # noqa: SLF001 - as above
            # The error comes at once, not after all that has arrived. Chunks that were not handed out are on the partial answer.
            self._decode_rest()
            if self._state != _COMPLETE:
                self._handle_error(e.RequestCancelledError("the call was cancelled", sent=True))
                pending.clear()
        while not pending:
            if self._state == _OPEN:
                self._fetch_chunk()
            elif self._state == _TO_RETRY:
                self._retry()
            else:
                raise self._ending()
        if not self._has_delivered:
            self._has_delivered = True
            self._call.committed()
        self._since_last_read = _AWAY
        return pending.popleft()

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for something to arrive.

        For the reading thread only. (If a server sends one whole JSON answer instead of a stream, it is read to the end.)

        Returns:
            True when ``next()`` has a chunk, the end or an error ready, and will not wait. The exception is a failure before the first
            chunk, after which ``next()`` may try again.
        """
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or math.isnan(timeout):
            raise e.InvalidRequestError(f"timeout = {timeout!r}: must be a number of seconds")
        until = self._scope.clock.monotonic() + min(timeout, _LONGEST_POLL)
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    return self._poll(until)
                finally:
                    self._release_lock()
            break
        raise self._busy_error()

    def _poll(self, until: float) -> bool:
        clock = self._scope.clock
        reads = 0
        while not self._pending and self._state == _OPEN:
            if reads >= _LEAST_READS and clock.monotonic() >= until:
                if self._since_last_read == _READING:
                    self._since_last_read = _POLLED
                return False  # much arrived, and no chunk in it
            reads += 1
            if self._events is None and self._lines is None:
                if self._since_last_read:
                    self._resume()
                now = clock.monotonic()
                deadline = self._scope.deadline
                # A limit that has passed is read past as well, which fails: a caller that only polls must be told.
                if deadline is None or deadline > now:
                    end = until if deadline is None else min(until, deadline)
                    if not self._wire.ready(max(0.0, end - now)):
                        now = clock.monotonic()
                        if now < until:
                            continue
                        self._times.note_silence(now)
                        self._since_last_read = _POLLED
                        return False
            try:
                self._fetch_chunk()
            except BaseException:  # an interrupt
                self._close_after_interrupt()
                raise
        if self._state == _FOREIGN and not self._pending:
            raise self._ending()
        return True

    def _fetch_chunk(self, event: Event | None = None) -> None:
        """Decode events up to the next chunk, and read once if none is left. Adds a chunk, the end or an error, or nothing yet.

        Args:
            event: An event to decode before those that are left.
        """
        pending = self._pending
        try:
            if event is not None:
                self._decode_event(event)
                if pending:
                    return
            events = self._events
            if events is None:
                events = self._read()
                if events is None:
                    return
                self._events = events
            has_data = False
            for event in events:  # noqa: PLR1704 - the next one
                if not event[0] and (chunk := self._assembler.reuse_template(event[1])) is not None:
                    pending.append(chunk)
                else:
                    has_data = self._decode_event(event) or has_data
                if pending:
                    return
            self._events = None
            if has_data and self._times.first_token_at is not None:
                # Events without data, comments and pings do not extend the limit. Until the first token its own limit runs.
                scope = self._scope
                scope.deadline = scope.deadline_after(self._idle)
        except e.GroqProviderError as error:
            self._handle_error(error)

    def _read(self) -> Iterator[Event] | None:
        """Read once, and return the events that this completes; ``None`` when the body is read to its end."""
        if self._lines is not None:
            self._scope.checkpoint()
            return self._event_decoder.events(self._next_batch())
        if self._size > MAX_STREAM:
            raise e.ResponseTooLargeError(f"the stream is larger than {MAX_STREAM:,} bytes", sent=True)
        if self._since_last_read:
            self._resume()
        sniffer = self._sniffer
        if sniffer is None:
            lines = self._wire.read_lines()
        else:
            lines = sniffer.read_lines()
            if lines is None:
                self._take_plain_answer(sniffer.read_body(self._scope.checkpoint))
                return None
            if sniffer.is_stream:
                self._sniffer = None
        self._times.note_read(self._scope.clock.monotonic())
        if lines is None:
            self._end_of_body()
            return None
        count = len(lines)
        self._size += sum(map(len, lines), count)  # with their line ends
        if count > _BATCH:
            self._lines = iter(lines)
            lines = self._next_batch()
        return self._event_decoder.events(lines)

    def _resume(self) -> None:
        """Note that the caller is back since the last read, and give it time to take in what has arrived meanwhile."""
        scope, times = self._scope, self._times
        now = times.began_at = scope.clock.monotonic()
        self._reader_thread = get_ident()
        was_away, self._since_last_read = self._since_last_read == _AWAY, _READING
        if was_away and times.first_token_at is not None:
            # Time that the caller spends between two reads does not count as silence of the service.
            scope.deadline = scope.deadline_after(self._idle, now)
        elif (deadline := scope.deadline) is not None:
            # What has arrived meanwhile may have arrived in time.
            late = deadline - now < _GRACE if was_away else deadline <= now and self._wire.ready(0)
            if late:
                scope.deadline = scope.deadline_after(_GRACE, now)

    def _next_batch(self) -> list[bytes]:
        """Return the next lines of a read that brought very many."""
        lines = list(islice(self._lines or (), _BATCH))
        if len(lines) < _BATCH:
            self._lines = None
        return lines

    def _decode_event(self, event: Event) -> bool:
        """Add the chunks of an event, or the end; return whether the event had data, which shows that the service is at work."""
        if event[0] and not belongs_to_answer(event):
            return False
        if event[1][:6] == DONE:
            self._finish(is_marked=True)
            return True
        chunks = self._chunk_decoder.decode(event)
        if chunks:
            if self._times.first_token_at is None:
                self._times.note_first_token()
            self._pending.extend(chunks)
        return chunks is not None

    def _decode_rest(self) -> None:
        """Decode what has arrived, without reading: it may be all that was missing. If not, it is on the partial answer."""
        events, self._events = self._events, None
        try:
            for batch in (
                events,
                self._event_decoder.events(self._next_batch()),
            ):  # no honest read brings more than that
                for event in batch or ():
                    if not event[0] and (chunk := self._assembler.reuse_template(event[1])) is not None:
                        self._pending.append(chunk)
                        continue
                    self._decode_event(event)
                    if self._state == _COMPLETE:
                        return
        except e.GroqProviderError:
            pass  # the stream ends in another way already

    # --- the end: complete -------------------------------------------------------------------------------------------------

    def _end_of_body(self) -> None:
        event = self._event_decoder.finish()
        if event is not None and ends_answer(event, has_finished=self._assembler.finish_reason is not None):
            self._decode_event(event)
        if self._state == _OPEN:
            self._finish(is_marked=False)

    def _finish(self, *, is_marked: bool) -> None:
        """Finish an answer that is whole; without an end mark, and by default with one as well, it must have a finish reason."""
        if self._assembler.finish_reason is None and (not is_marked or self._call.runtime.require_finish_reason):
            raise e.StreamInterruptedError("the stream ended before the answer was complete: no finish_reason came")
        self._wire.drain(self._scope)
        self._finish_assembled()

    def _finish_assembled(self) -> None:
        """Finish with the answer that the chunks make."""
        assembler = self._assembler
        self._pending.extend(assembler.flush_halves())
        self._complete(assembler.response_fields(), assembler.text_size())

    def _take_plain_answer(self, body: bytes) -> None:
        """Finish with a whole JSON answer, which a server sent although a stream was asked for."""
        call = self._call
        if not body.strip():
            raise call.empty_answer()
        data = json_text.loads(body, checkpoint=self._scope.checkpoint)
        fields = call.answer(data)
        fields["raw"] = data
        calls = tuple(
            [
                ToolCallDelta(index=i, id=tool.id, name=tool.name, arguments=tool.arguments, type=tool.type)
                for i, tool in enumerate(fields.get("tool_calls", ()))
            ]
        )
        if fields["content"] or fields["reasoning"] or calls:
            self._pending.append(
                ResponseChunk(content=fields["content"], reasoning=fields["reasoning"], tool_calls=calls)
            )
        self._complete(fields, len(body))

    def _complete(self, fields: dict[str, Any], size: int) -> None:
        response = self._call.succeeded(fields, arrival=self._times.arrival(), output_size=size)
        self._events = self._lines = None  # events after the end belong to no answer
        self._response = response
        self._state = _COMPLETE
        self._pending.append(
            ResponseChunk(
                finish_reason=response.finish_reason, usage=response.usage, provider_metadata=response.provider_metadata
            )
        )

    # --- the end: failed ---------------------------------------------------------------------------------------------------

    def _handle_error(self, error: e.GroqProviderError) -> None:
        """End the stream after a failure; if no chunk was made yet, leave the failure to next(), which may try again."""
        call, assembler = self._call, self._assembler
        self._events = self._lines = None
        self._wire.close()
        call.request_id = call.request_id or assembler.request_id  # some servers name it in their chunks only
        if assembler.finish_reason is not None and isinstance(
            error, (e.ResponseError, e.ReadTimeoutError, e.ProtocolError)
        ):
            # The service had said that the answer is complete. A failure to read on is then like the end of the body.
            self._finish_assembled()
        elif self._has_delivered or self._pending:
            self._fail(call.failed(self._as_stream_error(error), usage=self._known_usage()))
        else:
            self._error, self._state = error, _TO_RETRY

    def _retry(self) -> None:
        """Make another attempt after a failure before the first chunk, or end the stream."""
        call, error = self._call, self._error
        try:
            call.recover(error, usage=self._known_usage())
        except e.GroqProviderError as final:
            if isinstance(final, e.ReadTimeoutError):  # before the first token this is the right name
                self._fail(final)
            else:
                self._fail(call.failed(self._as_stream_error(final)))
            return
        try:
            wire = call.result()
        except e.GroqProviderError as final:
            self._fail(final)
            return
        self._start(wire)
        self._state = _OPEN
        del self._error

    def _fail(self, error: e.GroqProviderError) -> None:
        """End the stream with an error, which every further read raises."""
        error.partial = self.partial
        self._error = e.without_frames(error)
        self._state = _FAILED

    def _as_stream_error(self, error: e.GroqProviderError) -> e.GroqProviderError:
        """Return the error that tells the reader how the stream failed."""
        total = self._call.scope.total_deadline
        in_time = total is None or self._call.runtime.clock.monotonic() < total
        cls: type[e.GroqProviderError] | None = None
        if isinstance(error, e.ReadTimeoutError) and in_time:
            cls, text = e.StreamIdleTimeoutError, f"no event for {self._call.options.timeouts.idle:g} s"
        elif isinstance(error, (e.IncompleteResponseError, e.APIConnectionError)):
            cls, text = e.StreamInterruptedError, f"the stream broke: {error.message}"
        elif isinstance(error, (e.ResponseDecodeError, e.ProtocolError)):
            cls, text = e.StreamProtocolError, f"the stream cannot be read: {error.message}"
        if cls is None:
            return error
        named = cls(text, sent=True, retryable=error.retryable)
        named.__cause__ = error.__cause__
        return named

    def _known_usage(self) -> Any:
        return self._assembler.usage or self._call.estimated_usage(self._assembler.text_size())

    # --- what the caller sees ----------------------------------------------------------------------------------------------

    @property
    def decode_errors(self) -> int:
        """Number of events whose bytes were not UTF-8; their broken parts read U+FFFD."""
        return self._chunk_decoder.decode_errors

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer.

        Raises:
            GroqProviderError: The stream failed; ``error.partial`` holds the part that had arrived.
        """
        for _ in self:
            pass
        return self.response

    @property
    def response(self) -> LLMResponse:
        """The whole answer, after the end.

        Raises:
            RuntimeError: The stream has not ended, or was closed before its end.
            GroqProviderError: The stream failed.
        """
        if self._response is not None:
            return self._response
        if self._state == _FAILED:
            raise self._error
        raise RuntimeError(
            "the stream was closed before its end; see stream.partial"
            if self._state == _CLOSED
            else "the stream has not ended yet"
        )

    @property
    def partial(self) -> LLMResponse:
        """The part that has arrived so far, with ``finish_reason=None``; for the reading thread."""
        if self._sniffer is not None and self._response is not None:  # a plain answer, which has no chunks
            return attrs.evolve(self._response, finish_reason=None)
        assembler, arrival = self._assembler, self._times.arrival()
        return self._call.partial(assembler.response_fields(), arrival=arrival, output_size=assembler.text_size())

    # --- the end: left by the caller ---------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the stream now, from any thread: the reader gets :class:`~groq_provider.RequestCancelledError`."""
        self._scope.cancel()

    def close(self) -> None:
        """Stop reading and free the connection, from any thread. Idempotent; after the end without effect.

        If the whole answer had arrived, ``response`` has it, even if you have not read every chunk. A thread that is in ``next()``
        meanwhile gets :class:`~groq_provider.RequestCancelledError` at once, as by :meth:`cancel`.
        """
        if self._state == _COMPLETE and not self._pending:
            return  # the usual case, without the lock: this state is final
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    self._close()
                    return
                finally:
                    self._release_lock()
            break
        self.cancel()  # the reading thread then ends the stream

    def _close(self) -> None:
        if self._state in _UNENDED:
            try:
                self._decode_rest()
            finally:  # after an interrupt, too
                if self._state in _UNENDED:
                    self._abandon()
        elif self._state == _CLOSED:
            self._abandon()  # again: an interrupt may have cut the first time short
        if self._pending:
            self._drop_pending()

    def _drop_pending(self) -> None:
        """Drop chunks that were not handed out; reading on is an error from now on."""
        self._pending.clear()
        if self._state == _COMPLETE:
            self._state = _CLOSED

    def _close_after_interrupt(self) -> None:
        """Close the stream where it is. A part of the text may be lost, so nothing after it may make the answer look complete."""
        self._drop_pending()
        if self._state in (_OPEN, _TO_RETRY):
            self._abandon()

    def _abandon(self) -> None:
        """End the stream and the call, and close the connection. You may repeat it."""
        self._events = self._lines = None
        self._state = _CLOSED
        try:
            self._wire.close()
        finally:
            self._call.abandoned(self._known_usage(), arrival=self._times.arrival())

    def disown(self) -> None:
        """In a forked child: read no more, since the bytes belong to the parent."""
        if self._state in _UNENDED:
            self._state = _FOREIGN
            self._events = self._lines = None

    def settle_at_exit(self, readers: Collection[int]) -> None:
        """Settle and record the call when the interpreter ends, and close the connection unless one of *readers* has it.

        Daemon threads run on for a moment. One that found its stream closed would print a traceback.
        """
        if self._reader_thread not in readers:
            self.close()
        elif self._state in _UNENDED:
            self._call.abandoned(self._known_usage(), arrival=self._times.arrival())

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the interpreter the books are closed already, and half of the code that closes a socket is gone.
        if self._state not in _UNENDED or _finalizing():
            return
        text = f"unclosed {self!r}: use it as a context manager, or read it to its end"
        self._state = _CLOSED
        # A finalizer must not touch a lock: the collector may run inside any of them. The call is settled with the next one.
        self._wire.abandon()
        call, usage, arrival = self._call, self._known_usage(), self._times.arrival()
        call.runtime.calls.run_with_next_call(lambda: call.abandoned(usage, arrival=arrival))
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)
