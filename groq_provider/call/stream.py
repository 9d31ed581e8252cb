"""An answer as it is made: complete, or an error that holds what there was."""

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
from groq_provider.call.call import MAX_BODY, MAX_STREAM, Arrival
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

#: Seconds a reader that comes back late gets to take in what has arrived.
_GRACE = 0.05
#: As good as without end; more is too much for some systems.
_LONGEST_POLL = 1_000_000.0
#: Lines that are taken in between two looks at the clock: some milliseconds of work.
_BATCH = 4096
#: An event of more bytes has a look at the clock of its own.
_LARGE = 4096
#: Reads that a poll may do whatever its time limit: what has arrived is not missed because the machine stopped for a moment.
_LEAST_READS = 4


class ResponseStream:
    """Iterate it for chunks; use it as a context manager, so that leaving early frees the connection.

    ``"".join(chunk.content for chunk in stream)`` is the answer. The last chunk has ``content=""``, the finish reason, the usage
    and the latency figures. A stream that ends early, stalls or breaks raises; what had arrived is on ``error.partial``.

    Reading on after :meth:`close`, or after an interrupt has struck within ``next()``, raises :class:`RuntimeError` unless every chunk
    had been given out; so does reading in a forked child.

    Thread safety: it belongs to one reading thread at a time; a second one that reads at the same moment gets a :class:`RuntimeError`,
    and the first one's words are whole. :meth:`cancel` and :meth:`close` may be called from any.

    .. versionadded:: 0.1.0
    """

    # What few streams change stands here: an object of more than thirty attributes of its own costs a kilobyte more.
    #: Whether this is a forked child's copy of a stream that the parent reads.
    foreign = False
    _cut = False  # whether a chunk was dropped that nobody got
    _error: e.GroqProviderError | None = None
    #: A failure before the first chunk that poll() has met: next() sees to it, as another try takes time.
    _problem: e.GroqProviderError | None = None

    def __init__(self, call: Call, wire: WireResponse) -> None:
        self._call = call
        self._scope, self._idle = call.scope, call.options.timeouts.idle
        lock = Lock()  # held by who reads or closes, for that moment; guards all that follows
        # Each step of this iterator tries to take the lock. In a loop, for the reason that _sync.lock_attempts() gives.
        self._lock_attempts, self._release_lock = map(lock.acquire, repeat(False)), lock.release
        self._pending: deque[ResponseChunk] = deque()
        self._reader = get_ident()
        self._given = False  # whether a chunk was handed out: from there nothing is tried again
        self._away = True  # whether the reader was busy elsewhere since the last read
        self._looked = False  # or since it had looked in vain, while the limits ran on
        self._response: LLMResponse | None = None
        try:
            self._start(wire)
            self._ended = False  # late: a finalizer has nothing to end before
            call.runtime.calls.add_stream(self)
        except BaseException:  # an interrupt: nobody will have this one
            self._ended = True
            wire.close()
            call.abandoned()
            raise

    def _start(self, wire: WireResponse) -> None:
        """Begin to read an answer; again after a retry."""
        self._wire = wire
        #: Events whose bytes were not UTF-8; the broken parts read U+FFFD.
        self.decode_errors = 0
        self._decoder = EventDecoder()
        self._assembler = Assembler(self._call.scope.checkpoint)
        #: Of the lines of the last read, those for further batches.
        self._lines: Iterator[bytes] | None = None
        #: What is left of the events that the last read completed. Each is looked at when its chunk is asked for: none has to wait for those
        #: after it.
        self._events: Iterator[Event] | None = None
        self._alive = False  # whether that read brought an event of data
        now = self._scope.clock.monotonic()
        #: When the reader came to read last, and when that read returned.
        self._came = self._got = now
        #: Up to then all that had arrived was taken in. What came later may have come before the reader did.
        self._caught_up = now
        self._head_at = now
        self._first_token_at: float | None = None
        self._first_late = 0.0  # for how long at most it may have waited to be read
        self._size = 0
        headers = wire.headers
        kind = (headers.get("content-type") or "").lower()
        #: Whether it is one JSON answer instead of a stream, or a gateway's page, which the JSON decoder refuses with a clear word, or
        #: nothing. ``None``: the first bytes will tell, as the label does not.
        self._plain: bool | None = False
        #: Of a body that is no stream, the lines so far.
        self._lead: list[bytes] = []
        if wire.status_code == 204 or headers.get("content-length") == "0":
            self._plain = True
        elif not kind.startswith("text/event-stream"):
            self._plain = None

    def __repr__(self) -> str:
        if not hasattr(self, "_ended"):
            return f"<{type(self).__name__} unfinished>"  # for tools that show variables
        state = "failed" if self._error else "complete" if self._response else "closed" if self._ended else "open"
        return f"<{type(self).__name__} {self._call.model} {state}, {self._assembler.chunks} chunks>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ResponseStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    # --- reading -----------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        event: Event | None
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    events = self._events
                    if events is None or self._pending or self._scope._cancelled:  # noqa: SLF001 - the property takes longer than the rest of this
                        return self._next()
                    # The short way for nearly every chunk: one like those before, of a read that is not used up.
                    try:
                        for event in events:
                            if not event[0] and (chunk := self._assembler.reuse_template(event[1])) is not None:
                                return chunk
                            self._pump(event)
                            break
                        else:
                            self._events = None  # used up
                    except e.GroqProviderError as error:
                        self._broken(error)
                    except BaseException:  # KeyboardInterrupt and the like
                        self._torn()
                        raise
                    finally:
                        event = None  # an error may be raised from here, and what came before it is nobody's business
                    return self._next()
                finally:
                    self._release_lock()
            break
        raise self._busy()

    def _busy(self) -> RuntimeError:
        """Return the error for who comes while another reads: waiting would give each of them a part of the words."""
        if self.foreign:
            self._refuse()
        return RuntimeError("another thread is reading this stream just now; it belongs to one reader at a time")

    def _next(self) -> ResponseChunk:
        """Return the next chunk, however long it takes."""
        pending = self._pending
        if self._scope._cancelled and not self._ended and not self._absorb():  # noqa: SLF001 - as above
            # At once, not when all that has arrived is read. What was not given out is on the partial answer.
            self._broken(e.RequestCancelledError("the call was cancelled", sent=True))
            pending.clear()
        while not pending:
            if self._ended:
                if self._error is not None:
                    raise self._error
                if self._response is None or self._cut:
                    # Not StopIteration: whoever reads on would take the beginning for the whole.
                    raise RuntimeError("the stream was closed before its end; see stream.partial")
                raise StopIteration
            if self._problem is not None:
                self._broken(self._problem)
            else:
                self._pump()
        if not self._given:
            self._given = True
            self._call.committed()
        self._away = True
        try:
            return pending.popleft()
        except BaseException:  # as above: taken out, and not given out
            self._torn()
            raise

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for something to come.

        For the reading thread only. (A server that sends one whole JSON answer instead of a stream is read to the end.)

        Returns:
            True when ``next()`` has a chunk, the end or an error ready, and will not wait; but for a failure before the first chunk,
            after which ``next()`` may try again.
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
        raise self._busy()

    def _poll(self, until: float) -> bool:
        scope = self._scope
        clock = scope.clock
        if self._looked:
            self._came = clock.monotonic()
        self._reader = get_ident()
        reads = 0
        while not self._pending and not self._ended and self._problem is None:
            if reads >= _LEAST_READS and clock.monotonic() >= until:
                self._looked = True
                return False  # much came, and nothing of it is a chunk
            reads += 1
            if self._events is not None or self._lines is not None:
                self._pump(polling=True)
                continue
            if self.foreign:
                self._refuse()
            if self._away:
                self._back()
            now = clock.monotonic()
            # Whoever only polls is told of a time limit, too: reading past it fails.
            late = scope.deadline is not None and scope.deadline <= now
            if not late:
                end = until if scope.deadline is None else min(until, scope.deadline)
                if not self._wire.ready(max(0.0, end - now)):
                    now = clock.monotonic()
                    if now >= until:
                        self._looked = True
                        self._caught_up = self._came = self._got = now
                        return False
                    continue
            self._pump(polling=True)
        return True

    @staticmethod
    def _refuse() -> NoReturn:
        """In a forked child: what it took from the socket would be missing in the parent, which would not notice."""
        raise RuntimeError("the stream belongs to the process that opened it; open one here")

    def _back(self) -> None:
        """Start the limit for the next event anew: the time the reader spent elsewhere is not the service's silence."""
        self._away = False
        scope = self._scope
        now = self._came = scope.clock.monotonic()
        if self._first_token_at is not None:
            scope.deadline = scope.deadline_after(self._idle, now)
        elif scope.deadline is not None and scope.deadline - now < _GRACE:
            scope.deadline = scope.deadline_after(_GRACE, now)  # enough to take in what has arrived meanwhile

    def _pump(self, event: Event | None = None, *, polling: bool = False) -> None:
        """Take in what came up to the next chunk; read once if nothing is left. Leaves a chunk, the end or an error behind, or nothing yet.

        Args:
            event: Taken from what came already, and to be taken in first.
            polling: Whether a failure that may be worth another try is left for later.
        """
        if self.foreign:
            self._refuse()
        try:
            if event is not None:
                self._take(event)
                if self._ended or self._pending:
                    return
            events = self._events
            if events is None:
                events = self._read()
                if events is None:
                    return
            self._events = None
            for event in events:  # noqa: PLR1704 - the next one
                self._take(event)
                if self._ended:
                    return
                if self._pending:
                    self._events = events
                    return
            if self._alive and not self._away and self._first_token_at is not None:
                # Only chunks keep a stream alive: comments and pings reset nothing. Until the first token its own limit runs.
                scope = self._scope
                scope.deadline = scope.deadline_after(self._idle)
        except e.GroqProviderError as error:
            if polling and not self._begun:
                self._problem = error
            else:
                self._broken(error)
        except BaseException:  # KeyboardInterrupt and the like
            self._torn()
            raise

    @property
    def _begun(self) -> bool:
        """Whether there is a chunk that the reader has or will get: from there nothing is tried again."""
        return self._given or bool(self._pending)

    def _read(self) -> Iterator[Event] | None:
        """Read once; return the events that completes, ``None`` if there is nothing more to take in."""
        if self._lines is not None:
            self._call.scope.checkpoint()
            return self._decoder.events(self._batch())
        if self._size > MAX_STREAM:
            raise e.ResponseTooLargeError(f"the stream is larger than {MAX_STREAM:,} bytes", sent=True)
        self._reader = get_ident()
        if self._away:
            self._back()
        elif self._looked:
            self._looked = False
            scope = self._call.scope
            self._came = scope.clock.monotonic()
            late = scope.deadline is not None and scope.deadline <= self._came
            if late and self._wire.ready(0):  # it came in time, for all that is known; it was the reader who did not
                scope.deadline = scope.deadline_after(_GRACE)
        if self._plain is False:
            lines = self._wire.read_lines()
        elif (lines := self._first_lines()) is None:
            self._read_plain()
            return None
        came, got = self._came, self._scope.clock.monotonic()
        if (
            got - came >= (came - self._caught_up) / 10
        ):  # it did wait, and not for the system to hand over what was there
            self._caught_up = got
        self._came = self._got = got
        if lines is None:
            self._end_of_body()
            return None
        number = len(lines)
        self._size += sum(map(len, lines), number)  # with their ends
        self._alive = False
        if number > _BATCH:
            self._lines = iter(lines)
            lines = self._batch()
        return self._decoder.events(lines)

    def _first_lines(self) -> list[bytes] | None:
        """Find out by its first bytes whether a body is a stream; return the lines of it that are to be taken in, ``None`` if it is none."""
        if self._plain:
            return None
        lead, lines = self._lead, self._wire.read_lines()
        lead += lines or ()
        first = next((line for line in lead if line.strip()), None)
        if first is None and lines is not None:
            self._lead = []
            self._size += len(lead)
            return []  # blank lines tell nothing
        self._plain = first is None or not is_stream(first)
        if self._plain:
            return None
        self._lead = []
        return lead

    def _batch(self) -> list[bytes]:
        """Return the next lines of a read that brought very many."""
        lines = list(islice(self._lines or (), _BATCH))
        if len(lines) < _BATCH:
            self._lines = None
        return lines

    def _absorb(self) -> bool:
        """Take in what has arrived and nobody asked for yet; say whether that was all that was missing. If not, it is on the partial answer."""
        events, self._events = self._events, None
        try:
            for batch in (events, self._decoder.events(self._batch())):  # more than that no honest read brings
                for event in batch or ():
                    self._take(event)
                    if self._ended:
                        return True
        except e.GroqProviderError:
            pass  # the stream ends in another way already
        return False

    def _take(self, event: Event) -> None:
        name, data = event
        if not name:
            chunk = self._assembler.reuse_template(data)
            if chunk is not None:
                self._alive = True
                self._pending.append(chunk)
                return
        elif name not in _OWN_NAMES and not _names_itself(event):
            return  # a ping, a heartbeat: whatever it carries, nobody asked for it
        if data[:6] == DONE:
            self._end_of_stream(clean=True)
            return
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.decode_errors += 1
            text = str(data[: json_text.AT_ONCE], "utf-8", "replace")
        try:
            if len(data) <= _LARGE:
                decoded = json_text.loads_text(text, "an event of the stream")
            else:
                self._scope.checkpoint()
                decoded = json_text.loads(data, "an event of the stream", checkpoint=self._scope.checkpoint)
        except e.ResponseDecodeError:
            if name != "error":
                if not data.strip():
                    return  # an event without data, which is no sign of life
                raise
            decoded = text
        self._alive = True
        if name == "error" or (type(decoded) is dict and (decoded.get("error") or decoded.get("object") == "error")):
            self._wire.drain(self._call.scope)  # the last event: if the body ends here, the connection serves again
            raise self._service_error(decoded)
        assembler = self._assembler
        chunk = assembler.feed(decoded, data)
        if assembler.stop_error is not None:
            self._wire.drain(self._call.scope)
            if assembler.failed_choice is not None:
                raise self._call.ended_badly(assembler.failed_choice)
            assembler.replace_stop_error(redact_key(assembler.stop_error, self._call.runtime.secret))
            raise e.StreamInterruptedError(f"the service stopped the answer early: {assembler.stop_error[:300]}")
        if chunk is not None:
            if self._first_token_at is None:
                self._first_token_at = self._got
                self._first_late = self._got - self._caught_up
            self._pending.append(chunk)
            if assembler.other_chunks:
                self._pending.extend(assembler.other_chunks)
                assembler.other_chunks = []

    def _service_error(self, decoded: Any) -> e.GroqProviderError:
        """Return the error that an error event stands for: the class its status and code give without streaming."""
        found = reported_error(decoded)
        if found is None:
            words = type(decoded) is dict and "message" in decoded
            found = decoded if words else {"message": json_text.as_text(decoded) if decoded else ""}
        error: e.GroqProviderError = self._call.reported(found, made=True, request_id=self._assembler.request_id)
        if isinstance(error, e.RateLimitedError) and not self._assembler.chunks:
            self._call.nothing_made()
        if type(error) is e.APIStatusError and error.status_code is None:
            error = e.StreamInterruptedError(
                f"the service reported an error in the stream: {error.message}", code=error.code, type=error.type
            )
        return error

    # --- ends --------------------------------------------------------------------------------------------------------------

    def _end_of_body(self) -> None:
        event = self._decoder.finish()
        if event is not None and _is_last(event, finished=self._assembler.finish_reason is not None):
            self._take(event)
        if not self._ended:
            self._end_of_stream(clean=False)

    def _end_of_stream(self, *, clean: bool) -> None:
        """Hold the answer against what a whole one needs, and finish it."""
        complete = self._assembler.finish_reason is not None or (clean and not self._call.runtime.require_finish_reason)
        if not complete:
            raise e.StreamInterruptedError("the stream ended before the answer was complete: no finish_reason came")
        self._wire.drain(self._call.scope)
        self._assembled()

    def _assembled(self) -> None:
        """Finish the answer that the chunks have made."""
        assembler = self._assembler
        rest = assembler.flush_halves()
        if rest is not None:
            self._pending.append(rest)
        self._complete(assembler.response_fields(), assembler.text_size())

    def _complete(self, fields: dict[str, Any], size: int) -> None:
        response = self._call.succeeded(fields, arrival=self._arrival, output_size=size)
        self._response = response
        self._ended = True
        self._events = self._lines = None  # nor what came after the end
        self._pending.append(
            ResponseChunk(
                finish_reason=response.finish_reason, usage=response.usage, provider_metadata=response.provider_metadata
            )
        )

    def _read_plain(self) -> None:
        """Take a whole JSON answer that a server sent although a stream was asked for."""
        body = self._whole_body()
        if not body.strip():
            raise self._call.empty_answer()
        data = json_text.loads(body, checkpoint=self._call.scope.checkpoint)
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

    def _whole_body(self) -> bytes:
        """Return a body of which the first lines may have been read already. JSON has no ends of lines that matter."""
        lead, self._lead = self._lead, []
        if not lead:
            return self._wire.read_body(MAX_BODY)
        whole = bytearray(b"\n".join(lead))  # not the lines: an object for each would be larger than they are
        while (lines := self._wire.read_lines()) is not None:
            self._scope.checkpoint()
            if lines:
                whole += b"\n"
                whole += b"\n".join(lines)
            if len(whole) > MAX_BODY:
                raise e.ResponseTooLargeError(f"the answer is larger than {MAX_BODY:,} bytes", sent=True)
        return bytes(whole)

    def _broken(self, error: e.GroqProviderError) -> None:
        """Try again if nothing was given out yet; else fail with what there is."""
        try:
            self._recover(error)
        except BaseException:  # KeyboardInterrupt, during the delay before a retry for one
            self._torn()
            raise

    def _recover(self, error: e.GroqProviderError) -> None:
        call = self._call
        self._events = self._lines = self._problem = None  # what came after the failure belongs to nothing
        self._wire.close()
        call.request_id = call.request_id or self._assembler.request_id  # some name it in their chunks only
        if self._assembler.finish_reason is not None and isinstance(
            error, (e.ResponseError, e.ReadTimeoutError, e.ProtocolError)
        ):
            # The service had said that the answer is complete; what cannot be read after that is as good as the end of the body.
            self._assembled()
            return
        if self._begun:
            self._fail(call.failed(self._as_stream_error(error), usage=self._known_usage()))
            return
        try:
            call.recover(error, usage=self._known_usage())
        except e.GroqProviderError as final:
            error = final
        else:
            self._try_again()
            return
        if not isinstance(error, e.ReadTimeoutError):  # before the first token that is its name
            error = call.failed(self._as_stream_error(error))
        self._fail(error)

    def _try_again(self) -> None:
        try:
            self._start(self._call.result())
        except e.GroqProviderError as error:
            self._fail(error)

    def _fail(self, error: e.GroqProviderError) -> None:
        """End the stream with an error, which every further read raises."""
        error.partial = self.partial
        self._error = e.without_frames(error)
        self._ended = True

    def _as_stream_error(self, error: e.GroqProviderError) -> e.GroqProviderError:
        """Name a failure after the first chunk for what it is to the reader."""
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

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer.

        Raises:
            GroqProviderError: The stream failed; ``error.partial`` holds what had arrived.
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
            "the stream was closed before its end; see stream.partial"
            if self._ended
            else "the stream has not ended yet"
        )

    @property
    def partial(self) -> LLMResponse:
        """What has arrived so far, with ``finish_reason=None``; for the reading thread."""
        if self._plain and self._response is not None:
            return attrs.evolve(self._response, finish_reason=None)
        assembler = self._assembler
        return self._call.partial(assembler.response_fields(), arrival=self._arrival, output_size=assembler.text_size())

    def cancel(self) -> None:
        """End the stream now, from any thread: the reader gets :class:`~groq_provider.RequestCancelledError`."""
        self._scope.cancel()

    def close(self) -> None:
        """Stop reading and free the connection, from any thread. Idempotent; after the end without effect.

        If all had arrived, ``response`` has it, whatever of it was read. A thread that is in ``next()`` meanwhile gets
        :class:`~groq_provider.RequestCancelledError` at once, as by :meth:`cancel`.
        """
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    self._close()
                    return
                finally:
                    self._release_lock()
            break
        self.cancel()  # whoever reads sees to the rest

    def _close(self) -> None:
        if not self._ended:
            ended = False
            try:
                ended = self._absorb()
            finally:  # an interrupt, too, ends it
                if not ended:
                    self._leave()
        if self._pending:
            self._cut = True
            self._pending.clear()

    def _torn(self) -> None:
        """Close it after an interrupt: a part may be missing, so what came after that must not make the answer look complete."""
        self._cut = True
        self._pending.clear()
        if not self._ended:
            self._leave()

    def _leave(self) -> None:
        """End it for good where it is."""
        self._events = self._lines = None
        self._ended = True
        try:
            self._free()
        except BaseException:  # an interrupt; to do it twice does no harm
            self._free()
            raise

    def _free(self) -> None:
        self._wire.close()
        self._call.abandoned(self._known_usage(), arrival=self._arrival)

    def settle_at_exit(self, readers: Collection[int]) -> None:
        """Settle and record what there is, as the interpreter ends, and close the connection unless one of *readers* has it.

        Daemon threads go on for a moment: one that found its stream closed would complain on the way out.
        """
        if self._reader not in readers:
            self.close()
        elif not self._ended:
            self._call.abandoned(self._known_usage(), arrival=self._arrival)

    @property
    def _arrival(self) -> Arrival:
        got = self._got
        return Arrival(self._head_at, self._first_token_at, self._first_late, got, got - self._caught_up)

    def __enter__(self) -> ResponseStream:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the end of the interpreter the books are closed already, and half of what closing a socket takes is gone.
        if getattr(self, "_ended", True) or _finalizing():
            return
        text = f"unclosed {self!r}: use it as a context manager, or read it to its end"
        self._ended = True
        # No lock may be touched here: the collector may run inside any of them. The socket is closed; the books follow later.
        self._wire.abandon()
        call, usage, arrival = self._call, self._known_usage(), self._arrival
        call.runtime.calls.run_with_next_call(lambda: call.abandoned(usage, arrival=arrival))
        warnings.warn(text, ResourceWarning, source=self, stacklevel=2)


#: Names that events of chunks have, or none; an event that is called by its own ``object`` is one, too.
_OWN_NAMES = frozenset({"", "message", "error", "chat.completion.chunk"})


def _names_itself(event: Event) -> bool:
    """Say whether an event is called what its data says it is, or is called the end and marks it."""
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
    """Say whether an event that the end of the body left without its blank line is whole and the last one.

    An end mark, a finish reason, an error. After the finish reason, anything: what came must not be missing in a complete answer.
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
