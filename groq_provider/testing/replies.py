"""The values that you script and read in a test: replies, faults, gates, recorded requests."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Framing = Literal[
    "bad-chunk-size",
    "negative-chunk-size",
    "short-content-length",
    "long-content-length",
    "close-delimited",
    "garbage-status-line",
    "headers-cut",
]
Payload = Literal["sse", "json", "html", "half-json", "false-gzip"]
Outcome = Literal["pending", "sent", "broken", "client-gone"]


class Gate:
    """Lets streamed events through one by one, so that you can test the moments between them. Use it as ``Reply(gate=...)``.

    It is closed at first: the emulator waits before event 0 (the role chunk) until you call :meth:`release` or :meth:`open`.

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the values below
        self._permits = 0
        self._open = False
        self._reached_events = 0

    def __call__(self, index: int) -> None:
        """Wait for a permit; the emulator calls this before event *index*."""
        with self._changed:
            self._reached_events = max(self._reached_events, index + 1)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._permits > 0)
            self._permits -= not self._open

    def release(self, count: int = 1) -> None:
        """Let *count* more events through. You can call this before the emulator waits."""
        with self._changed:
            self._permits += count
            self._changed.notify_all()

    def open(self) -> None:
        """Let all events through from now on; the emulator calls this when it stops."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_for(self, index: int, timeout: float = 5.0) -> bool:
        """Wait until the emulator has reached event *index*; return False if it has not after *timeout* seconds. You must assert the result."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reached_events > index, timeout)


@attrs.define(kw_only=True, eq=False)
class Fault:
    """One way for an answer to go wrong; you can combine the fields.

    "Events" are the ``data:`` events of a stream (the role chunk is the first); the body of a plain answer counts as one.
    "Bytes" are bytes of the body, before chunked framing. A stall lasts ``stall_for`` seconds, or until you call :meth:`release`.

    Attributes:
        status: Answer with this status instead (by default with the usual error body of that status).
        body: Send this body instead. You can give bytes, text or a value to send as JSON.
        headers: Response headers to add, or to send in place of the usual ones.
        delay: Seconds before the first byte of the answer.
        stall_before_headers: Stall after the request was read.
        stall_after_events: Stall after that many events; 0 is right after the headers.
        stall_at_byte: Stall after that many bytes.
        stall_for: Length of a stall in seconds; ``None`` means until you call :meth:`release` or the emulator stops.
        drip: Write that many bytes at a time, headers included.
        drip_interval: Seconds between those writes.
        cut_before_headers: Close (FIN) without an answer.
        cut_after_events: Close after that many events.
        cut_at_byte: Close after that many bytes.
        reset_before_headers: Reset (RST) without an answer.
        reset_after_events: Reset after that many events.
        reset_at_byte: Reset after that many bytes.
        error_event: Send an ``event: error`` after ``after_events`` events and end: True for the service's recorded text, or a body.
        x_groq_error: Send a chunk with this ``x_groq.error`` after ``after_events`` events, then ``[DONE]``.
        after_events: Place of the two above and of a bad chunk size; 1 means after the role chunk.
        omit_finish_reason: Send ``finish_reason: null`` in the last chunk or the plain answer.
        omit_finish_chunk: Send ``[DONE]`` without the last chunk.
        omit_usage: Send no usage anywhere.
        omit_done: End the stream without ``[DONE]``.
        hold_open: Stall after the last byte, before the end of the body.
        framing: Break the HTTP framing.
        payload: Send other content: ``sse`` to a plain request, ``json`` to a stream request, an ``html`` error page,
            ``half-json`` (a body cut in half, with correct framing), ``false-gzip`` (declared, but not gzip).
        comments: Send a keep-alive comment before every event.
        chunk_bytes: Split the body into HTTP chunks of this size instead of one per event.
        newline: Line end of the event stream.
        reached: Set when the emulator stalls, cuts or resets. You can wait for it in the test.
        released: Set by :meth:`release`.

    .. versionadded:: 0.1.0
    """

    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    delay: float = 0.0
    stall_before_headers: bool = False
    stall_after_events: int | None = None
    stall_at_byte: int | None = None
    stall_for: float | None = None
    drip: int | None = None
    drip_interval: float = 0.0
    cut_before_headers: bool = False
    cut_after_events: int | None = None
    cut_at_byte: int | None = None
    reset_before_headers: bool = False
    reset_after_events: int | None = None
    reset_at_byte: int | None = None
    error_event: bool | Mapping[str, Any] = False
    x_groq_error: str | None = None
    after_events: int = 1
    omit_finish_reason: bool = False
    omit_finish_chunk: bool = False
    omit_usage: bool = False
    omit_done: bool = False
    hold_open: bool = False
    framing: Framing | None = None
    payload: Payload | None = None
    comments: bool = False
    chunk_bytes: int | None = None
    newline: Literal["\n", "\r\n", "\r"] = "\n"
    reached: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)
    released: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)

    def release(self) -> None:
        """End the current stall, or the next one as soon as it begins. You can call it from any thread."""
        self.released.set()


@attrs.define(kw_only=True, eq=False)
class RecordedRequest:
    """A request as it arrived, which you can read in the test. The key is in ``headers``, so you must not log it.

    Attributes:
        number: Position among all requests since the last reset, from 0.
        connection: Number of the connection, from 1.
        method: In upper case, as sent.
        target: Path and query as sent, percent encoding included.
        version: ``HTTP/1.1`` or ``HTTP/1.0``.
        headers: Values by lower-case name; those of a repeated header are joined with a comma.
        raw_headers: Names and values as sent, in order, if you must check spelling or order.
        body: The body's bytes, chunked framing removed.
        json: The parsed body; ``None`` if it is empty or not JSON.
        time: Monotonic seconds at arrival, by the emulator's clock.
        authorized: Whether the emulator accepts the key.
        status: Status of the answer; ``None`` before it.
        outcome: ``pending``, ``sent`` whole, ``broken`` by a fault, or ``client-gone`` if the client closed the connection first: so you
            can check that a cancelled call frees the service.

    .. versionadded:: 0.1.0
    """

    number: int = 0
    connection: int = 0
    method: str
    target: str
    version: str = "HTTP/1.1"
    headers: dict[str, str]
    raw_headers: list[tuple[str, str]]
    body: bytes
    json: Any
    time: float = 0.0
    authorized: bool = False
    status: int | None = None
    outcome: Outcome = "pending"

    @property
    def path(self) -> str:
        """The target's path, percent encoding kept; for a target in absolute form without scheme and host."""
        return self._origin_form().partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its question mark; ``""`` if there is none."""
        return self._origin_form().partition("?")[2]

    def _origin_form(self) -> str:
        # A server must accept the absolute form, which clients send to proxies (RFC 9112 section 3.2.2).
        origin = re.match(r"https?://[^/?#]*", self.target, re.IGNORECASE)
        if origin is None:
            return self.target
        path_and_query = self.target[origin.end() :]
        return path_and_query if path_and_query.startswith("/") else f"/{path_and_query}"


_CHAT_FIELDS = ("content", "tool_calls", "reasoning", "finish_reason", "usage", "chunks")


@attrs.define(eq=False)
class Reply:
    """One scripted answer.

    With ``status`` or ``body`` it answers the next request, whatever its endpoint and its key. With content (or tool calls,
    reasoning, usage, …) it answers the next chat request that passes all checks and limits. With neither it adds its fault, gate
    or headers to the answer that the next request gets anyway.

    Attributes:
        content: The answer's text.
        tool_calls: Each ``{"name": …, "arguments": text or object, "id"?: …}``, or the wire form.
        reasoning: Reasoning text.
        finish_reason: ``stop`` by default, ``tool_calls`` with tool calls; you can set any other.
        usage: Fields that replace those of the computed usage; you can send none with False.
        chunks: The stream's deltas one by one. You can give text for content, a mapping for a whole delta, or bytes for a raw event.
            A plain request gets the same text joined.
        status: HTTP status of a raw answer.
        body: Body of a raw answer. You can give bytes, text or a value to send as JSON.
        headers: Response headers to add, or to send in place of the usual ones.
        delay: Seconds before the first byte.
        fault: The way in which the answer goes wrong.
        gate: Called with the event's index before each streamed event; it can block. The emulator opens a :class:`Gate` when it stops.
        match: A function that gets each request. The reply answers only requests for which you return true.
        times: The number of requests to answer; ``None`` means all, so you should use it for a fault that lasts.

    .. versionadded:: 0.1.0
    """

    content: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] | None = attrs.field(default=None, kw_only=True)
    reasoning: str | None = attrs.field(default=None, kw_only=True)
    finish_reason: str | None = attrs.field(default=None, kw_only=True)
    usage: Mapping[str, Any] | Literal[False] | None = attrs.field(default=None, kw_only=True)
    chunks: Sequence[str | bytes | Mapping[str, Any]] | None = attrs.field(default=None, kw_only=True)
    status: int | None = attrs.field(default=None, kw_only=True)
    body: Any = attrs.field(default=None, kw_only=True)
    headers: Mapping[str, str] = attrs.field(factory=dict, kw_only=True)
    delay: float = attrs.field(default=0.0, kw_only=True)
    fault: Fault | None = attrs.field(default=None, kw_only=True)
    gate: Callable[[int], object] | None = attrs.field(default=None, kw_only=True)
    match: Callable[[RecordedRequest], bool] | None = attrs.field(default=None, kw_only=True)
    times: int | None = attrs.field(default=1, kw_only=True)

    @property
    def is_raw(self) -> bool:
        """Whether status or body are scripted, so that the answer does not depend on the request."""
        return self.status is not None or self.body is not None

    @property
    def is_chat(self) -> bool:
        """Whether parts of a completion are scripted."""
        return not self.is_raw and any(getattr(self, name) is not None for name in _CHAT_FIELDS)

    def merged_fault(self) -> Fault:
        """Return the fault, or one without effect."""
        return self.fault or Fault()


def as_reply(item: Reply | Fault | str) -> Reply:
    """Return *item* as a reply: text is content, a fault is a reply of its own."""
    if isinstance(item, str):
        return Reply(item)
    if isinstance(item, Fault):
        return Reply(fault=item, status=item.status, body=item.body, headers=item.headers)
    if item.fault is not None and not item.is_raw and (item.fault.status is not None or item.fault.body is not None):
        headers = {**item.fault.headers, **item.headers}
        return attrs.evolve(item, status=item.fault.status, body=item.fault.body, headers=headers)
    return item
