"""The transport's view of one call: its deadlines, and how another thread cancels it."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

from groq_provider.cancel import CancelToken
from groq_provider.errors import ReadTimeoutError, RequestCancelledError

if TYPE_CHECKING:
    from groq_provider.clock import Clock

__all__ = ["CancelScope", "Interruptible", "activate", "adopt", "current"]


def _shutdown(sock: Any, how: int) -> None:
    # Call the method of the base class on purpose. ``SSLSocket.shutdown()`` drops the TLS layer first, and a thread
    # that still reads would then be handed ciphertext (cpython#124618); urllib3's ``response.shutdown()`` has the same
    # flaw. The class is looked up at each call, since gevent may have replaced it.
    if isinstance(sock, socket.SocketType):
        socket.SocketType.shutdown(sock, how)
    else:
        sock.shutdown(how)  # Eventlet's plain socket wraps the real one; its TLS sockets are real ones


class Interruptible(Protocol):
    """A target that a call can wait on besides its own socket: an HTTP/2 stream on a connection that other calls share."""

    def interrupt(self) -> None:
        """End the wait of the call. Called from any thread and inside signal handlers, so it must not wait."""
        ...


class CancelScope(CancelToken):
    """The deadlines of one call, and its cancellation.

    The scope is the call's own cancel token: the rate limiter and the retry delay wait with it, so :meth:`cancel` wakes
    them. While the call owns a socket, :meth:`cancel` also shuts that socket down, which ends a blocked connect,
    handshake, send or read at once. A target that the call shares, such as an HTTP/2 connection, is interrupted by
    :meth:`Interruptible.interrupt` instead.

    Thread safety: one thread runs the call; any thread may cancel it.

    Attributes:
        deadline: Monotonic instant that ends every blocking operation; ``None`` means no limit.
        connect: Seconds within which a connection must be made.
        connect_deadline: The same as an instant, no later than :attr:`total_deadline`.
        after_send: Seconds from the sent request to :attr:`deadline`, which is no later than :attr:`total_deadline`.
        total_deadline: Monotonic instant at which the whole call must end.
        resends: How often the transport sent the request again after a stale connection.
        sent: Whether the request was sent: ``False``, ``True``, or ``None`` if the server may have read a part of it.
        received: Whether a byte of the response has arrived.
        sent_at: Monotonic instant at which the whole request was sent.
        adopted: Whether foreign code sends this request through the adapter, and expects the exceptions of urllib3.
    """

    __slots__ = (
        "_bound",
        "_pid",
        "adopted",
        "after_send",
        "clock",
        "connect",
        "connect_deadline",
        "deadline",
        "received",
        "resends",
        "sent",
        "sent_at",
        "total_deadline",
    )

    def __init__(
        self,
        clock: Clock,
        *,
        total_deadline: float | None = None,
        connect: float | None = None,
        after_send: float | None = None,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.total_deadline = total_deadline
        self.after_send = after_send
        self._bound: socket.socket | Interruptible | None = None  # guarded by _lock
        self._pid = os.getpid()
        self.begin(connect)

    def begin(self, connect: float | None) -> None:
        """Start an attempt: reset the limits that count per attempt. The total deadline stays."""
        total = self.deadline = self.total_deadline
        self.connect = connect
        instant = None if connect is None else self.clock.monotonic() + connect
        self.connect_deadline = instant if total is None or (instant is not None and instant < total) else total
        self.resends = 0
        self.sent: bool | None = False
        self.received = False
        self.adopted = False
        self.sent_at: float | None = None

    def deadline_after(self, seconds: float | None, now: float | None = None) -> float | None:
        """Return the instant *seconds* from now, no later than the total deadline.

        Pass *now* if you have just read the clock.
        """
        if seconds is None:
            return self.total_deadline
        instant = (self.clock.monotonic() if now is None else now) + seconds
        return instant if self.total_deadline is None else min(instant, self.total_deadline)

    def send_timeout(self) -> float | None:
        """Return the seconds within which the next piece of the request must leave.

        A peer that accepts nothing for so long is dead.

        Raises:
            TimeoutError: The deadline has passed.
        """
        remaining, patience = self.seconds_left(self.deadline), self.after_send
        if remaining is None or patience is None:
            return patience if remaining is None else remaining
        return min(remaining, patience)

    def request_sent(self) -> None:
        """Record that the request was sent, and start the limit for the response."""
        self.sent = True
        now = self.sent_at = self.clock.monotonic()
        total, instant = self.total_deadline, None if self.after_send is None else now + self.after_send
        self.deadline = instant if total is None or (instant is not None and instant < total) else total

    def seconds_left(self, deadline: float | None) -> float | None:
        """Return the seconds until *deadline*.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if deadline is None:
            return None
        seconds = deadline - self.clock.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    def checkpoint(self) -> None:
        """Check for a cancel and for the total deadline, during work that does not wait, such as decoding a body.

        Raises:
            RequestCancelledError: The call was cancelled.
            ReadTimeoutError: The total deadline has passed. The other limits do not count here: they bound the silence
                of the peer.
        """
        if self._cancelled:
            raise RequestCancelledError("the call was cancelled", sent=True)
        total = self.total_deadline
        if total is not None and self.clock.monotonic() >= total:
            raise ReadTimeoutError("the answer was still being read", sent=True)

    def bind(self, sock: socket.socket | Interruptible) -> None:
        """Set the socket, or other target, that this call waits on from now; :meth:`cancel` shuts it down or interrupts it.

        Raises:
            RequestCancelledError: The call is cancelled already.
        """
        with self._lock:
            self._bound = sock
            if not self._cancelled:
                return
            self._bound = None
        raise RequestCancelledError("the call was cancelled")

    def unbind(self) -> None:
        """Forget the socket. Call this before another call may get the socket, so that a late cancel cannot touch it."""
        with self._lock:
            self._bound = None

    def cancel(self) -> None:
        """Cancel the call wherever it waits. Idempotent; you can call it from any thread."""
        if self._pid != os.getpid():
            # This is a copy in a forked child. A shutdown would end the parent's connection, and the lock may stay
            # locked for ever.
            self._cancelled = True
            return
        super().cancel()
        with self._lock:
            target = self._bound
            if target is None:
                return
            interrupt = getattr(target, "interrupt", None)
            if interrupt is not None:
                interrupt()
                return
            try:
                _shutdown(target, socket.SHUT_RDWR)  # no interrupt(), so it is a socket
            except OSError:
                pass  # not connected yet, or closed already


_current = threading.local()


def current() -> CancelScope:
    """Return the scope of the call that this thread sends. Only for the hooks of urllib3, which have no argument to pass it through."""
    scope: CancelScope = _current.scope
    return scope


def adopt(scope: CancelScope) -> None:
    """Make *scope* the current scope of this thread until the next one, for a request that foreign code sends through the adapter."""
    scope.adopted = True
    _current.scope = scope


class activate:  # noqa: N801 - a context manager used like a function, twice as fast as contextlib's
    """Make *scope* the current scope of this thread for the length of a block."""

    __slots__ = ("_previous_scope", "_scope")

    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._previous_scope = getattr(_current, "scope", None)
        _current.scope = self._scope

    def __exit__(self, *_exc: object) -> None:
        _current.scope = self._previous_scope
