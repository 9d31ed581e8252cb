"""Streams of HTTP/2, and the ways in which they end."""

from __future__ import annotations

import errno
import os
import ssl
from collections import deque
from http.client import RemoteDisconnected
from threading import Lock
from typing import TYPE_CHECKING, Any

from groq_provider.transport.http1.receive import BadFraming

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CLOSED",
    "STREAM_WINDOW",
    "FrameError",
    "GoneError",
    "Http11RequiredError",
    "NoRoomError",
    "Stream",
    "StreamResetError",
    "UnprocessedError",
    "as_closed",
]

#: What an unread stream may hold; the peer sends no more before some of it is unacknowledged.
STREAM_WINDOW = 1 << 20
#: How a connection ends that just ends.
CLOSED: tuple[Callable[..., Exception], tuple[Any, ...]] = (
    RemoteDisconnected,
    ("the server closed the connection",),
)


class FrameError(BadFraming):
    """The peer breaks HTTP/2."""


class StreamResetError(ConnectionResetError):
    """The peer ended a stream before its answer was complete."""


class GoneError(ConnectionResetError):
    """The peer ended the connection because of an error."""


class UnprocessedError(ConnectionResetError):
    """The peer surely did nothing with the request: it may be sent again on another connection."""


class NoRoomError(UnprocessedError):
    """The peer takes no more streams just now; nothing was sent."""


class Http11RequiredError(UnprocessedError):
    """The peer wants this request over HTTP/1.1."""


class Stream:
    """One request and its answer, as far as it has come.

    Written by whoever holds the connection's lock; the reader takes ``body_parts`` from the left without it.
    """

    __slots__ = (
        "__weakref__",
        "bodiless",
        "body_parts",
        "connection",
        "content_length",
        "end_offset",
        "ended",
        "failure_spec",
        "head",
        "head_noted",
        "id",
        "on_used_connection",
        "progress_at",
        "reads_before",
        "receive_window",
        "received_bytes",
        "sent",
        "sent_noted",
        "start_offset",
        "unacknowledged",
        "unsent",
        "wake_lock",
    )

    def __init__(self, connection: Any = None) -> None:
        self.connection = connection
        self.id = 0
        self.head: list[tuple[bytes, bytes]] | None = None
        self.body_parts: deque[bytes] = deque()
        #: What Content-Length says, and what has come.
        self.content_length: int | None = None
        self.received_bytes = 0
        self.ended = False
        #: Whether the answer's length is that of a body that is not sent: to HEAD.
        self.bodiless = False
        #: How the end is to be raised, by class and arguments: each reader raises one of its own.
        self.failure_spec: tuple[Callable[..., Exception], tuple[Any, ...]] | None = None
        #: What of the body is in no frame yet.
        self.unsent: memoryview | None = None
        #: Among all bytes of the connection, where the request begins, and where it ends as soon as that is known.
        self.start_offset = 0
        self.end_offset: int | None = None
        self.sent = False
        self.sent_noted = False
        self.progress_at = 0.0
        #: Whether its connection had been of use before it, and how often that had reads_before from the peer.
        self.on_used_connection = False
        self.reads_before = 0
        self.receive_window = STREAM_WINDOW
        #: Bytes of the window that the reader has unacknowledged and not given back.
        self.unacknowledged = 0
        #: Held by the reader; released to wake_lock it up. See Http2Connection.
        self.wake_lock = Lock()
        self.wake_lock.acquire()
        self.head_noted = False

    def has_news(self) -> bool:
        """Say whether there is something that its thread has not seen."""
        return bool(
            self.body_parts
            or self.ended
            or (self.sent and not self.sent_noted)
            or (self.head is not None and not self.head_noted)
        )

    def failure(self) -> Exception:
        """Return the exception of an end before the answer was complete."""
        if self.failure_spec is None:
            return FrameError("an answer without a head")
        make, arguments = self.failure_spec
        return make(*arguments)

    def interrupt(self) -> None:
        """End it because its call was cancelled; waits for nothing. For :meth:`CancelScope.cancel`."""
        if self.connection is not None:
            self.connection.drop(self, cancelled=True)


def _tls_failure(reason: str, *arguments: Any) -> ssl.SSLError:
    error = ssl.SSLError(*arguments)
    error.reason = reason
    return error


def as_closed(error: OSError) -> tuple[Callable[..., Exception], tuple[Any, ...]]:
    """Return how a socket's failure is to be raised, by each of those it concerns."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _tls_failure, (error.reason, *error.args)
    if isinstance(error, (TimeoutError, ssl.SSLEOFError)) or error.errno is None:
        # The system's own probes among them: a connection that broke, not a limit of the call's.
        return ConnectionResetError, (errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return type(error), (error.errno, os.strerror(error.errno))
