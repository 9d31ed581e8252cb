"""What a test scripts and reads: replies, faults, gates, recorded requests."""

from __future__ import annotations

import re
import threading
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

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
    """Lets streamed events through one by one, as a `Reply(gate=...)`.

    Closed at first: the emulator waits before event 0 (the role chunk) until `release` or `open`.

    .. versionadded:: 0.1.0
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards the values below
        self._permits = 0
        self._open = False
        self._arrived = 0

    def __call__(self, index: int) -> None:
        """Called by the emulator before event *index*: wait for a permit."""
        with self._changed:
            self._arrived = max(self._arrived, index + 1)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._permits > 0)
            self._permits -= not self._open

    def release(self, count: int = 1) -> None:
        """Let *count* more events pass."""
        with self._changed:
            self._permits += count
            self._changed.notify_all()

    def open(self) -> None:
        """Let everything pass from now on; the emulator does this when it stops."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_for(self, index: int, timeout: float = 5.0) -> bool:
        """Wait until the emulator stands before event *index* (or is past it): False after *timeout* seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._arrived > index, timeout)


@dataclass(kw_only=True, eq=False)
class Fault:
    """One way for an answer to go wrong; the fields may be combined.

    "Events" are the `data:` events of a stream (the role chunk is the first); the body of a plain answer counts as one.
    "Bytes" are bytes of the body, before chunked framing. A stall lasts `stall_for` seconds or until `release`.

    Attributes:
        status: Answer with this status instead (an error body of that status by default).
        body: Body instead: bytes, text or something to send as JSON.
        headers: Response headers added to, or replacing, the usual ones.
        delay: Seconds before the first byte of the answer.
        stall_before_headers: Stall after the request was read.
        stall_after_events: Stall after that many events; 0 is right after the headers.
        stall_at_byte: Stall after that many bytes.
        stall_for: Length of a stall in seconds; `None` means until `release` or the emulator stops.
        drip: Write that many bytes at a time, headers included.
        drip_interval: Seconds between those writes.
        cut_before_headers: Close (FIN) without an answer.
        cut_after_events: Close after that many events.
        cut_at_byte: Close after that many bytes.
        reset_before_headers: Reset (RST) without an answer.
        reset_after_events: Reset after that many events.
        reset_at_byte: Reset after that many bytes.
        error_event: Send an `event: error` after `after_events` events and end: True for the recorded text, or a body.
        x_groq_error: Send a chunk with this `x_groq.error` after `after_events` events, then `[DONE]`.
        after_events: Place of the two above and of a bad chunk size; 1 means after the role chunk.
        omit_finish_reason: The last chunk, or the plain answer, has `finish_reason: null`.
        omit_finish_chunk: The stream has no last chunk at all, but `[DONE]`.
        omit_usage: No usage anywhere.
        omit_done: The stream ends without `[DONE]`.
        hold_open: After everything the body is not ended, for the length of a stall.
        framing: Break the HTTP framing.
        payload: Send other content: `sse` to a plain request, `json` to a stream request, an `html` error page,
            `half-json` (a body cut in half, framed right), `false-gzip` (declared, but not gzip).
        comments: Send a keep-alive comment before every event.
        chunk_bytes: Split the body into HTTP chunks of this size instead of one per event.
        newline: Line end of the event stream.

    .. versionadded:: 0.1.0
    """

    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
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
    reached: threading.Event = field(default_factory=threading.Event, init=False, repr=False)
    released: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def release(self) -> None:
        """End a stall, now or when it comes."""
        self.released.set()


@dataclass(eq=False)
class RecordedRequest:
    """A request as it arrived. The key is in `headers`: this is a tool for tests.

    Attributes:
        number: Position among all requests since the last reset, from 0.
        connection: Number of the connection, from 1.
        method: In upper case, as sent.
        target: Path and query as sent, percent encoding included.
        version: `HTTP/1.1` or `HTTP/1.0`.
        headers: Values by lower-case name; repeated ones joined with a comma.
        raw_headers: Names and values as sent, in order.
        body: The body's bytes, chunked framing removed.
        json: The parsed body; `None` if it is empty or not JSON.
        time: Monotonic seconds at arrival, by the emulator's clock.
        authorized: Whether the key was acceptable.
        status: Status of the answer; `None` before it.
        outcome: `pending`, `sent` whole, `broken` by a fault, or `client-gone`.

    .. versionadded:: 0.1.0
    """

    _: KW_ONLY
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
        """The target without its query, and without scheme and host in absolute form; percent encoding kept."""
        return self._origin_form().partition("?")[0]

    @property
    def query(self) -> str:
        """The query without the question mark, `""` without one."""
        return self._origin_form().partition("?")[2]

    def _origin_form(self) -> str:
        # RFC 9112 3.2.2: a server must accept what a client sends to a proxy.
        found = re.match(r"https?://[^/?#]*", self.target, re.IGNORECASE)
        if found is None:
            return self.target
        rest = self.target[found.end() :]
        return rest if rest.startswith("/") else f"/{rest}"


_CHAT_FIELDS = ("content", "tool_calls", "reasoning", "finish_reason", "usage", "chunks")


@dataclass(eq=False)
class Reply:
    """One scripted answer.

    With `status` or `body` it answers any request, before the key is looked at. With content (or tool calls, reasoning,
    usage, …) it waits for a chat request that passes all checks and limits. With neither it only adds its fault, gate or
    headers to the answer that the next request would have had.

    Attributes:
        content: The answer's text.
        tool_calls: `{"name": …, "arguments": text or object, "id"?: …}` each, or the wire form.
        reasoning: Reasoning text.
        finish_reason: `stop` by default, `tool_calls` with tool calls.
        usage: Fields that replace those of the computed usage; False for none.
        chunks: The stream's deltas one by one: text for content, a mapping for a whole delta, bytes for a raw event.
            A plain request gets the same text joined.
        status: HTTP status of a raw answer.
        body: Body of a raw answer: bytes, text or something to send as JSON.
        headers: Response headers added to, or replacing, the usual ones.
        delay: Seconds before the first byte.
        fault: What goes wrong.
        gate: Called with the event's index before each streamed event; may block. A `Gate` is opened at stop.
        match: Answers only requests for which this is true.
        times: Number of requests it answers; `None` means all.

    .. versionadded:: 0.1.0
    """

    content: str | None = None
    _: KW_ONLY
    tool_calls: Sequence[Mapping[str, Any]] | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: Mapping[str, Any] | Literal[False] | None = None
    chunks: Sequence[str | bytes | Mapping[str, Any]] | None = None
    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    fault: Fault | None = None
    gate: Callable[[int], object] | None = None
    match: Callable[[RecordedRequest], bool] | None = None
    times: int | None = 1

    @property
    def is_raw(self) -> bool:
        """Whether status or body are scripted and nothing of the request matters."""
        return self.status is not None or self.body is not None

    @property
    def is_chat(self) -> bool:
        """Whether parts of a completion are scripted."""
        return not self.is_raw and any(getattr(self, name) is not None for name in _CHAT_FIELDS)

    def merged_fault(self) -> Fault:
        """The fault, or one without effect."""
        return self.fault or Fault()


def as_reply(item: Reply | Fault | str) -> Reply:
    """*item* as a reply: text is content, a fault stands alone."""
    if isinstance(item, str):
        return Reply(item)
    if isinstance(item, Fault):
        return Reply(fault=item, status=item.status, body=item.body, headers=item.headers)
    if item.fault is not None and not item.is_raw and (item.fault.status is not None or item.fault.body is not None):
        values = {f.name: getattr(item, f.name) for f in fields(item) if f.init}
        values |= {"status": item.fault.status, "body": item.fault.body}
        values["headers"] = {**item.fault.headers, **item.headers}
        return Reply(values.pop("content"), **values)
    return item
