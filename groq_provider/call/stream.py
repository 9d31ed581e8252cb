"""The answer of a streamed call, as it is made: complete, or an error that holds the part that arrived.

A read brings the lines that have arrived. They become events, the events become chunks, and each chunk is made when the reader asks for it,
so that none waits for those after it. Until the first chunk a failure may be retried by the call; after it, the failure ends the stream.
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
from groq_provider.call.call import MAX_BODY, MAX_STREAM
from groq_provider.types.response import LLMResponse, ResponseChunk, ToolCallDelta
from groq_provider.wire import json_text
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.failures import redact_key, reported_error
from groq_provider.wire.sse import DONE, Event, EventDecoder, is_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from types import TracebackType

    from groq_provider.call.call import Call
    from groq_provider.protocols import WireResponse

__all__ = ["ResponseStream"]

#: Seconds that a late reader gets to take in the part that has arrived.
_GRACE = 0.05
#: A longer timeout of poll() is cut to this: it is as good as endless, and some systems accept no more.
_LONGEST_POLL = 1_000_000.0
#: Lines that are decoded between two checks of the clock: some milliseconds of work.
_BATCH = 4096
#: Before an event of more bytes is decoded, the clock is checked.
_LARGE_EVENT = 4096
#: Reads that a poll may do whatever its timeout, so that a machine that stopped for a moment misses nothing that has arrived.
_LEAST_READS = 4

# The states of a stream.
_OPEN = "open"
_COMPLETE = "complete"
_FAILED = "failed"
_CLOSED = "closed"


class ResponseStream:
    """Iterate it for chunks. Use it as a context manager, so that leaving early frees the connection.

    ``"".join(chunk.content for chunk in stream)`` is the answer. The last chunk has ``content=""``, the finish reason, the usage
    and the latency figures. A stream that ends early, stalls or breaks raises an error; the part that had arrived is on ``error.partial``.

    You must not read on after :meth:`close`, or after an interrupt has struck within ``next()``: that raises :class:`RuntimeError` unless
    every chunk had been handed out. So does reading in a forked child.

    Thread safety: a stream belongs to one reading thread at a time. A second thread that reads at the same moment gets a
    :class:`RuntimeError`, and the reader loses nothing. You can call :meth:`cancel` and :meth:`close` from any thread.

    .. versionadded:: 0.1.0
    """

    # Defaults of state that few streams change: an object with more than thirty attributes of its own takes a kilobyte more.
    #: Whether this is a forked child's copy of a stream that the parent reads.
    foreign = False
    _state = _CLOSED  # until the constructor has finished, a finalizer has nothing to end
    #: Whether a chunk was made and dropped, so that the reader does not have the whole answer.
    _chunk_dropped = False
    _error: e.GroqProviderError | None = None
    _response: LLMResponse | None = None
    #: A failure before the first chunk that poll() has met. next() handles it, since a retry takes time.
    _unhandled_error: e.GroqProviderError | None = None
    #: Whether a chunk was handed out: from there nothing is retried.
    _has_yielded = False
    #: Whether poll() has returned False since the last read.
    _poll_was_empty = False

    def __init__(self, call: Call, wire: WireResponse) -> None:
        self._call = call
        self._scope, self._idle = call.scope, call.options.timeouts.idle
        lock = Lock()  # held by the thread that reads or closes, for that moment; guards all that follows
        # Each step of this iterator tries to take the lock. In a loop, for the reason that _sync.lock_attempts() gives.
        self._lock_attempts, self._release_lock = map(lock.acquire, repeat(False)), lock.release
        self._pending: deque[ResponseChunk] = deque()
        self._reader = get_ident()
        #: Whether the reader was busy elsewhere since the last read.
        self._reader_was_away = True
        try:
            self._start(wire)
            self._state = _OPEN
            call.runtime.calls.add_stream(self)
        except BaseException:  # an interrupt: no caller will have this stream
            self._state = _CLOSED
            wire.close()
            call.abandoned()
            raise

    def _start(self, wire: WireResponse) -> None:
        """Begin to read an answer: the first, or that of a retry."""
        self._wire = wire
        #: The number of events that were not UTF-8; their broken parts read U+FFFD.
        self.decode_errors = 0
        self._decoder = EventDecoder()
        self._assembler = Assembler(self._scope.checkpoint)
        self._times = ReadTimes(self._scope.clock.monotonic())
        #: The lines of the last read that are left for further batches.
        self._lines: Iterator[bytes] | None = None
        #: The events of the last read that are left.
        self._events: Iterator[Event] | None = None
        #: Whether the last read brought an event with data, which is a sign of life. Comments and pings are none.
        self._has_data = False
        self._size = 0
        headers = wire.headers
        #: Whether the body is a plain answer instead of a stream: one of JSON, a gateway's page (which the JSON decoder refuses), or
        #: nothing. ``None`` means that the content type does not tell, so the first bytes decide.
        self._is_plain: bool | None = False
        #: The lines read while that is undecided.
        self._first_lines: list[bytes] = []
        if wire.status_code == 204 or headers.get("content-length") == "0":
            self._is_plain = True
        elif not (headers.get("content-type") or "").lower().startswith("text/event-stream"):
            self._is_plain = None

    def __repr__(self) -> str:
        if not hasattr(self, "_assembler"):
            return f"<{type(self).__name__} unfinished>"  # a debugger shows objects of failed constructions
        return f"<{type(self).__name__} {self._call.model} {self._state}, {self._assembler.chunks} chunks>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ResponseStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    # --- handing out chunks ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        event: Event | None
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    events = self._events
                    if events is None or self._pending or self._scope._cancelled:  # noqa: SLF001 - this is the hot path of a chunk
                        return self._next()
                    # The fast path of nearly every chunk: it resembles those before, and its read is not used up.
                    try:
                        for event in events:
                            if not event[0] and (chunk := self._assembler.reuse_template(event[1])) is not None:
                                return chunk
                            self._advance(event)
                            break
                        else:
                            self._events = None  # used up
                    except e.GroqProviderError as error:
                        self._handle_failure(error)
                    except BaseException:  # KeyboardInterrupt and the like
                        self._close_torn()
                        raise
                    finally:
                        event = None  # a traceback from here must not keep the previous event
                    return self._next()
                finally:
                    self._release_lock()
            break
        raise self._busy_error()

    def _busy_error(self) -> RuntimeError:
        """Return the error for a second reader. If it waited instead, each reader would get a part of the words."""
        if self.foreign:
            self._refuse_in_child()
        return RuntimeError("another thread is reading this stream just now; it belongs to one reader at a time")

    @staticmethod
    def _refuse_in_child() -> NoReturn:
        """Refuse to read in a forked child: the parent would miss the bytes that the child reads, without noticing."""
        raise RuntimeError("the stream belongs to the process that opened it; open one here")

    def _next(self) -> ResponseChunk:
        """Return the next chunk, however long it takes."""
        pending = self._pending
        if self._scope._cancelled and self._state is _OPEN and not self._take_buffered():  # noqa: SLF001 - as above
            # At once, not when everything that has arrived is handed out. The partial answer has the rest.
            self._handle_failure(e.RequestCancelledError("the call was cancelled", sent=True))
            pending.clear()
        while not pending:
            if self._state is not _OPEN:
                if self._error is not None:
                    raise self._error
                if self._response is None or self._chunk_dropped:
                    # Not StopIteration: a loop that reads on would take the beginning for the whole.
                    raise RuntimeError("the stream was closed before its end; see stream.partial")
                raise StopIteration
            if self._unhandled_error is not None:
                self._handle_failure(self._unhandled_error)
            else:
                self._advance()
        if not self._has_yielded:
            self._has_yielded = True
            self._call.committed()
        self._reader_was_away = True
        try:
            return pending.popleft()
        except BaseException:  # an interrupt: the chunk is taken out, and not handed out
            self._close_torn()
            raise

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for something to read.

        Call it from the reading thread only. (If a server sends one JSON answer instead of a stream, this reads it to its end.)

        Returns:
            True if ``next()`` has a chunk, the end or an error ready, and will not wait. After a failure before the first chunk it may
            wait all the same, because it may retry.
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
        scope = self._scope
        clock = scope.clock
        if self._poll_was_empty:
            self._times.began_at = clock.monotonic()
        self._reader = get_ident()
        reads = 0
        while not self._pending and self._state is _OPEN and self._unhandled_error is None:
            if reads >= _LEAST_READS and clock.monotonic() >= until:
                self._poll_was_empty = True
                return False  # much came, and none of it is a chunk
            reads += 1
            if self._events is not None or self._lines is not None:
                self._advance(polling=True)
                continue
            if self.foreign:
                self._refuse_in_child()
            if self._reader_was_away:
                self._restart_idle_limit()
            now = clock.monotonic()
            # A reader who only polls must learn of a time limit, too: reading past it fails.
            is_late = scope.deadline is not None and scope.deadline <= now
            if not is_late:
                end = until if scope.deadline is None else min(until, scope.deadline)
                if not self._wire.ready(max(0.0, end - now)):
                    now = clock.monotonic()
                    if now >= until:
                        self._poll_was_empty = True
                        self._times.note_silence(now)
                        return False
                    continue
            self._advance(polling=True)
        return True

    # --- reading -----------------------------------------------------------------------------------------------------------

    def _restart_idle_limit(self) -> None:
        """Start the limit for the next event anew: time that the reader spent elsewhere is not the silence of the service."""
        self._reader_was_away = False
        scope = self._scope
        now = self._times.began_at = scope.clock.monotonic()
        if self._times.first_token_at is not None:
            scope.deadline = scope.deadline_after(self._idle, now)
        elif scope.deadline is not None and scope.deadline - now < _GRACE:
            scope.deadline = scope.deadline_after(_GRACE, now)  # enough to take in the part that has arrived meanwhile

    def _advance(self, event: Event | None = None, *, polling: bool = False) -> None:
        """Take events up to the next chunk, reading once if none is left. This leaves a chunk, the end or an error; or nothing yet.

        Args:
            event: An event to take first, which was taken out of the events already.
            polling: Whether to leave a failure that may be retried to next().
        """
        if self.foreign:
            self._refuse_in_child()
        try:
            if event is not None:
                self._take(event)
                if self._pending or self._state is not _OPEN:
                    return
            events = self._events
            if events is None:
                events = self._read()
                if events is None:
                    return
            self._events = None
            for event in events:  # noqa: PLR1704 - the next one
                self._take(event)
                if self._state is not _OPEN:
                    return
                if self._pending:
                    self._events = events
                    return
            if self._has_data and not self._reader_was_away and self._times.first_token_at is not None:
                # Only events with data renew the idle limit. Until the first token its own limit runs.
                scope = self._scope
                scope.deadline = scope.deadline_after(self._idle)
        except e.GroqProviderError as error:
            if polling and not self._has_output:
                self._unhandled_error = error
            else:
                self._handle_failure(error)
        except BaseException:  # KeyboardInterrupt and the like
            self._close_torn()
            raise

    @property
    def _has_output(self) -> bool:
        """Whether there is a chunk that the reader has or will get: from there nothing is retried."""
        return self._has_yielded or bool(self._pending)

    def _read(self) -> Iterator[Event] | None:
        """Read once; return the events that this completes, or ``None`` if the answer was taken as a whole."""
        if self._lines is not None:
            self._scope.checkpoint()
            return self._decoder.events(self._next_batch())
        if self._size > MAX_STREAM:
            raise e.ResponseTooLargeError(f"the stream is larger than {MAX_STREAM:,} bytes", sent=True)
        self._reader = get_ident()
        if self._reader_was_away:
            self._restart_idle_limit()
        elif self._poll_was_empty:
            self._forgive_late_reader()
        if self._is_plain is False:
            lines = self._wire.read_lines()
        elif (lines := self._read_first_lines()) is None:
            self._read_plain()
            return None
        self._times.note_read(self._scope.clock.monotonic())
        if lines is None:
            self._end_of_body()
            return None
        number = len(lines)
        self._size += sum(map(len, lines), number)  # with their ends
        self._has_data = False
        if number > _BATCH:
            self._lines = iter(lines)
            lines = self._next_batch()
        return self._decoder.events(lines)

    def _forgive_late_reader(self) -> None:
        """Extend a deadline that passed since poll() returned False, if something has arrived: it may have arrived in time."""
        self._poll_was_empty = False
        scope = self._scope
        now = self._times.began_at = scope.clock.monotonic()
        if scope.deadline is not None and scope.deadline <= now and self._wire.ready(0):
            scope.deadline = scope.deadline_after(_GRACE)

    def _read_first_lines(self) -> list[bytes] | None:
        """Decide by its first bytes whether a body is a stream; return its lines to decode, or ``None`` for a plain answer."""
        if self._is_plain:
            return None
        first_lines, lines = self._first_lines, self._wire.read_lines()
        first_lines += lines or ()
        first = next((line for line in first_lines if line.strip()), None)
        if first is None and lines is not None:
            self._first_lines = []
            self._size += len(first_lines)
            return []  # blank lines decide nothing
        self._is_plain = first is None or not is_stream(first)
        if self._is_plain:
            return None
        self._first_lines = []
        return first_lines

    def _next_batch(self) -> list[bytes]:
        """Return the next lines of a read that brought very many."""
        lines = list(islice(self._lines or (), _BATCH))
        if len(lines) < _BATCH:
            self._lines = None
        return lines

    def _take_buffered(self) -> bool:
        """Take the events that have been read and not handed out; return whether they completed the answer."""
        events, self._events = self._events, None
        try:
            for batch in (events, self._decoder.events(self._next_batch())):  # no honest server sends more in one read
                for event in batch or ():
                    self._take(event)
                    if self._state is not _OPEN:
                        return True
        except e.GroqProviderError:
            pass  # the stream ends in another way already
        return False

    def _take(self, event: Event) -> None:
        """Take one event: it adds a chunk, ends the stream, or adds nothing.

        Raises:
            GroqProviderError: The event is an error, or cannot be read.
        """
        name, data = event
        if not name:
            chunk = self._assembler.reuse_template(data)
            if chunk is not None:
                self._has_data = True
                self._pending.append(chunk)
                return
        elif name not in _OWN_NAMES and not _names_itself(event):
            return  # a ping or a heartbeat, with any data
        if data[:6] == DONE:
            self._end_of_stream(is_marked=True)
            return
        decoded = self._decode(name, data)
        if decoded is None:
            return
        self._has_data = True
        if name == "error" or (type(decoded) is dict and (decoded.get("error") or decoded.get("object") == "error")):
            self._wire.drain(self._scope)  # the last event: if the body ends here, the connection can be used again
            raise self._service_error(decoded)
        assembler = self._assembler
        chunk = assembler.feed(decoded, data)
        if assembler.stop_error is not None:
            self._wire.drain(self._scope)
            if assembler.failed_choice is not None:
                raise self._call.ended_badly(assembler.failed_choice)
            assembler.replace_stop_error(redact_key(assembler.stop_error, self._call.runtime.secret))
            raise e.StreamInterruptedError(f"the service stopped the answer early: {assembler.stop_error[:300]}")
        if chunk is not None:
            if self._times.first_token_at is None:
                self._times.note_first_token()
            self._pending.append(chunk)
            if assembler.other_chunks:
                self._pending.extend(assembler.other_chunks)
                assembler.other_chunks = []

    def _decode(self, name: str, data: bytes) -> Any:
        """Return the decoded data of an event; ``None`` for an event without data, which is no sign of life."""
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.decode_errors += 1
            text = str(data[: json_text.AT_ONCE], "utf-8", "replace")
        try:
            if len(data) <= _LARGE_EVENT:
                return json_text.loads_text(text, "an event of the stream")
            self._scope.checkpoint()
            return json_text.loads(data, "an event of the stream", checkpoint=self._scope.checkpoint)
        except e.ResponseDecodeError:
            if name == "error":
                return text
            if not data.strip():
                return None
            raise

    def _service_error(self, decoded: Any) -> e.GroqProviderError:
        """Return the error for an error event, of the class that its status and code give without streaming."""
        found = reported_error(decoded)
        if found is None:
            has_message = type(decoded) is dict and "message" in decoded
            found = decoded if has_message else {"message": json_text.as_text(decoded) if decoded else ""}
        error: e.GroqProviderError = self._call.reported(found, made=True, request_id=self._assembler.request_id)
        if isinstance(error, e.RateLimitedError) and not self._assembler.chunks:
            self._call.nothing_made()
        if type(error) is e.APIStatusError and error.status_code is None:
            error = e.StreamInterruptedError(
                f"the service reported an error in the stream: {error.message}", code=error.code, type=error.type
            )
        return error

    # --- the end of the answer ---------------------------------------------------------------------------------------------

    def _end_of_body(self) -> None:
        event = self._decoder.finish()
        if event is not None and _is_last(event, finished=self._assembler.finish_reason is not None):
            self._take(event)
        if self._state is _OPEN:
            self._end_of_stream(is_marked=False)

    def _end_of_stream(self, *, is_marked: bool) -> None:
        """Finish the answer if it is complete: with a finish reason or, where the configuration allows that, with the end mark.

        Raises:
            StreamInterruptedError: The answer is not complete.
        """
        has_reason = self._assembler.finish_reason is not None
        if not has_reason and not (is_marked and not self._call.runtime.require_finish_reason):
            raise e.StreamInterruptedError("the stream ended before the answer was complete: no finish_reason came")
        self._wire.drain(self._scope)
        self._complete_from_chunks()

    def _complete_from_chunks(self) -> None:
        assembler = self._assembler
        rest = assembler.flush_halves()
        if rest is not None:
            self._pending.append(rest)
        self._complete(assembler.response_fields(), assembler.text_size())

    def _complete(self, fields: dict[str, Any], size: int) -> None:
        """End the call with the whole answer, and add the last chunk."""
        response = self._call.succeeded(fields, arrival=self._times.arrival(), output_size=size)
        self._response = response
        self._state = _COMPLETE
        self._events = self._lines = None  # nothing after the end counts
        self._pending.append(
            ResponseChunk(
                finish_reason=response.finish_reason, usage=response.usage, provider_metadata=response.provider_metadata
            )
        )

    def _read_plain(self) -> None:
        """Take a plain JSON answer, which a server sent although it was asked for a stream."""
        body = self._read_body()
        if not body.strip():
            raise self._call.empty_answer()
        data = json_text.loads(body, checkpoint=self._scope.checkpoint)
        fields = self._call.answer(data)
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

    def _read_body(self) -> bytes:
        """Return the whole body. Its first lines may have been read already. The ends of lines do not matter in JSON."""
        first_lines, self._first_lines = self._first_lines, []
        if not first_lines:
            return self._wire.read_body(MAX_BODY)
        body = bytearray(
            b"\n".join(first_lines)
        )  # joined, since an object for each line takes more memory than the lines
        while (lines := self._wire.read_lines()) is not None:
            self._scope.checkpoint()
            if lines:
                body += b"\n"
                body += b"\n".join(lines)
            if len(body) > MAX_BODY:
                raise e.ResponseTooLargeError(f"the answer is larger than {MAX_BODY:,} bytes", sent=True)
        return bytes(body)

    # --- failures ----------------------------------------------------------------------------------------------------------

    def _handle_failure(self, error: e.GroqProviderError) -> None:
        """Retry if no chunk was handed out yet and a retry is worth it; otherwise fail with the part that has arrived."""
        try:
            self._retry_or_fail(error)
        except BaseException:  # an interrupt, such as KeyboardInterrupt during the delay before a retry
            self._close_torn()
            raise

    def _retry_or_fail(self, error: e.GroqProviderError) -> None:
        call = self._call
        self._events = self._lines = self._unhandled_error = None  # later events belong to no answer
        self._wire.close()
        call.request_id = call.request_id or self._assembler.request_id  # some servers name it in chunks only
        if self._assembler.finish_reason is not None and isinstance(
            error, (e.ResponseError, e.ReadTimeoutError, e.ProtocolError)
        ):
            # The service has said that the answer is complete, so a failure after that is as good as the end of the body.
            self._complete_from_chunks()
            return
        if self._has_output:
            self._fail(call.failed(self._as_stream_error(error), usage=self._known_usage()))
            return
        try:
            call.recover(error, usage=self._known_usage())
        except e.GroqProviderError as final_error:
            error = final_error
        else:
            try:
                self._start(call.result())
            except e.GroqProviderError as final_error:
                self._fail(final_error)
            return
        if not isinstance(error, e.ReadTimeoutError):  # before the first token it keeps this name
            error = call.failed(self._as_stream_error(error))
        self._fail(error)

    def _fail(self, error: e.GroqProviderError) -> None:
        """End the stream with an error, which every further read raises."""
        error.partial = self.partial
        self._error = e.without_frames(error)
        self._state = _FAILED

    def _as_stream_error(self, error: e.GroqProviderError) -> e.GroqProviderError:
        """Return the error in the terms of a reader of streams."""
        total = self._scope.total_deadline
        in_time = total is None or self._scope.clock.monotonic() < total
        cls: type[e.GroqProviderError] | None = None
        if isinstance(error, e.ReadTimeoutError) and in_time:
            cls, text = e.StreamIdleTimeoutError, f"no event for {self._idle:g} s"
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

    # --- the answer --------------------------------------------------------------------------------------------------------

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
        if self._error is not None:
            raise self._error
        raise RuntimeError(
            "the stream has not ended yet"
            if self._state is _OPEN
            else "the stream was closed before its end; see stream.partial"
        )

    @property
    def partial(self) -> LLMResponse:
        """The part that has arrived so far, with ``finish_reason=None``. For the reading thread."""
        if self._is_plain and self._response is not None:
            return attrs.evolve(self._response, finish_reason=None)
        assembler = self._assembler
        return self._call.partial(
            assembler.response_fields(), arrival=self._times.arrival(), output_size=assembler.text_size()
        )

    # --- leaving early -----------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the stream now, from any thread: the reader gets :class:`~groq_provider.RequestCancelledError`."""
        self._scope.cancel()

    def close(self) -> None:
        """Stop reading and free the connection, from any thread. Idempotent; after the end without effect.

        If the whole answer had arrived, ``response`` has it, however much of it was read. A thread that is inside ``next()`` gets
        :class:`~groq_provider.RequestCancelledError` at once, as with :meth:`cancel`.
        """
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    self._close()
                    return
                finally:
                    self._release_lock()
            break
        self.cancel()  # the thread that reads does the rest

    def _close(self) -> None:
        if self._state is _OPEN:
            completed = False
            try:
                completed = self._take_buffered()
            finally:  # after an interrupt, too
                if not completed:
                    self._abandon()
        if self._pending:
            self._chunk_dropped = True
            self._pending.clear()

    def _close_torn(self) -> None:
        """Close the stream after an interrupt: a part may be missing, so what follows must not make the answer look complete."""
        self._chunk_dropped = True
        self._pending.clear()
        if self._state is _OPEN:
            self._abandon()

    def _abandon(self) -> None:
        """End the stream where it is: close the connection, and settle the call."""
        self._events = self._lines = None
        self._state = _CLOSED
        try:
            self._release()
        except BaseException:  # an interrupt; to do it twice does no harm
            self._release()
            raise

    def _release(self) -> None:
        self._wire.close()
        self._settle_abandoned()

    def _settle_abandoned(self) -> None:
        self._call.abandoned(self._known_usage(), arrival=self._times.arrival())

    def settle_at_exit(self, readers: Collection[int]) -> None:
        """Settle and record the part that has arrived, as the interpreter ends, and close the connection unless one of *readers* reads it.

        Daemon threads run on for a moment, and one that found its stream closed would print an error.
        """
        if self._reader not in readers:
            self.close()
        elif self._state is _OPEN:
            self._settle_abandoned()

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the stream is settled already, and half of what closing a socket needs is gone.
        if self._state is not _OPEN or _finalizing():
            return
        text = f"unclosed {self!r}: use it as a context manager, or read it to its end"
        self._state = _CLOSED
        # The collector may run inside any locked section, so no lock may be taken here. The next call settles this one.
        self._wire.abandon()
        call, usage, arrival = self._call, self._known_usage(), self._times.arrival()
        call.runtime.calls.run_with_next_call(lambda: call.abandoned(usage, arrival=arrival))
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)


#: Names of events that may be chunks. An event named like its own ``object`` may be one, too.
_OWN_NAMES = frozenset({"", "message", "error", "chat.completion.chunk"})


def _names_itself(event: Event) -> bool:
    """Return whether an event has the name that its data gives, or is called the end and marks the end."""
    name, data = event
    if data[:6] == DONE:
        return name == "done"
    if b'"object"' not in data:
        return False
    try:
        decoded = json_text.loads(data)
    except e.ResponseDecodeError:
        return False
    return type(decoded) is dict and decoded.get("object") == name


def _is_last(event: Event, *, finished: bool) -> bool:
    """Return whether an event without its blank line, at the end of the body, is whole and the last one.

    That is an end mark, a finish reason or an error; after the finish reason anything, since the answer must lack nothing that came.
    """
    if event.data[:6] == DONE or event.name == "error":
        return True
    try:
        decoded = json_text.loads(event.data)
    except e.ResponseDecodeError:
        return False
    if type(decoded) is not dict:
        return False
    choices = decoded.get("choices")
    finishes = type(choices) is list and any(type(item) is dict and item.get("finish_reason") for item in choices)
    return finished or finishes or bool(decoded.get("error")) or decoded.get("object") == "error"
