"""The state of one HTTP/2 request and its response, and the errors that end a stream or a connection."""

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

#: Most bytes of a body that an unread stream holds. The peer sends no more until the reader has taken some.
STREAM_WINDOW = 1 << 20
#: The error class and arguments for a connection that the peer closed without giving a reason.
CLOSED: tuple[Callable[..., Exception], tuple[Any, ...]] = (
    RemoteDisconnected,
    ("the server closed the connection",),
)


class FrameError(BadFraming):
    """The peer violates HTTP/2."""


class StreamResetError(ConnectionResetError):
    """The peer reset a stream before its response was complete."""


class GoneError(ConnectionResetError):
    """The peer ended the connection because of an error."""


class UnprocessedError(ConnectionResetError):
    """The peer certainly did not process the request, so it may be sent again on another connection."""


class NoRoomError(UnprocessedError):
    """The connection accepts no more streams for now; nothing was sent."""


class Http11RequiredError(UnprocessedError):
    """The peer wants this request over HTTP/1.1."""


class Stream:
    """One request and its response, as far as it has arrived.

    Guarded by the lock of the connection, except that the reader takes items from the left of ``body_parts`` without
    it.
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
        #: The Content-Length, and the bytes of the body received so far.
        self.content_length: int | None = None
        self.received_bytes = 0
        self.ended = False
        #: Whether the response has no body although it may announce a length: the response to HEAD.
        self.bodiless = False
        #: The class and the arguments of the error that ended the stream. Each reader raises an exception of its own.
        self.failure_spec: tuple[Callable[..., Exception], tuple[Any, ...]] | None = None
        #: The rest of the request's body, which is in no frame yet.
        self.unsent: memoryview | None = None
        #: Offsets, among all bytes sent on the connection, of the beginning of the request, and of its end once that is
        #: known.
        self.start_offset = 0
        self.end_offset: int | None = None
        self.sent = False
        self.sent_noted = False
        self.progress_at = 0.0
        #: Whether the connection had served a request before this one, and the count of its reads when this one was
        #: sent.
        self.on_used_connection = False
        self.reads_before = 0
        self.receive_window = STREAM_WINDOW
        #: Bytes of the window that were read and not given back to the peer yet.
        self.unacknowledged = 0
        #: Held by the waiting thread, and released to wake it. See Http2Connection.
        self.wake_lock = Lock()
        self.wake_lock.acquire()
        self.head_noted = False

    def has_news(self) -> bool:
        """Say whether there is something that the waiting thread has not seen."""
        return bool(
            self.body_parts
            or self.ended
            or (self.sent and not self.sent_noted)
            or (self.head is not None and not self.head_noted)
        )

    def failure(self) -> Exception:
        """Return the exception for a stream that ended before its response was complete."""
        if self.failure_spec is None:
            return FrameError("response without a head")
        make, arguments = self.failure_spec
        return make(*arguments)

    def interrupt(self) -> None:
        """End the stream because its call was cancelled; never waits. For :meth:`CancelScope.cancel`."""
        if self.connection is not None:
            self.connection.drop(self, cancelled=True)


def _tls_failure(reason: str, *arguments: Any) -> ssl.SSLError:
    error = ssl.SSLError(*arguments)
    error.reason = reason
    return error


def as_closed(error: OSError) -> tuple[Callable[..., Exception], tuple[Any, ...]]:
    """Return the class and the arguments by which each affected call raises the failure of a socket."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return _tls_failure, (error.reason, *error.args)
    if isinstance(error, (TimeoutError, ssl.SSLEOFError)) or error.errno is None:
        # This includes the failed keepalive probes of the system: the connection broke, and no limit of the call has
        # passed.
        return ConnectionResetError, (errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return type(error), (error.errno, os.strerror(error.errno))
