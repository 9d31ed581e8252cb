"""One exchange as the transport sees it: when it must stop, and how somebody else stops it."""

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
    # The base-class method on purpose. SSLSocket.shutdown() drops the TLS layer first, after which a reader that still runs is
    # handed ciphertext (cpython#124618); urllib3's response.shutdown() has the same flaw. Looked up here, for gevent may have replaced it.
    if isinstance(sock, socket.SocketType):
        socket.SocketType.shutdown(sock, how)
    else:
        sock.shutdown(how)  # Eventlet's, which has the real one inside; its TLS sockets are real ones


class Interruptible(Protocol):
    """What a call may wait on that is not its own socket: a stream of HTTP/2, whose connection others share."""

    def interrupt(self) -> None:
        """End what the call waits for. From any thread, also in a signal handler: it must wait for nothing."""
        ...


class CancelScope(CancelToken):
    """Time limits and cancellation of one call.

    It is the call's own cancel token, so whatever waits with a token (the limiter, a retry delay) wakes with it; and while the
    call owns a socket, cancelling shuts that socket down, which wakes a blocked connect, handshake, send or read at once. What is not
    its own, a stream of HTTP/2 among others, is interrupted instead.

    Thread safety: one thread runs the call; any thread may cancel it.

    Attributes:
        deadline: Monotonic instant every blocking operation is cut to; ``None``: no limit.
        connect: Seconds a connection may take to be made.
        connect_deadline: The same as an instant, as far as :attr:`total_deadline` allows.
        after_send: Seconds from the sent request to :attr:`deadline`, as far as :attr:`total_deadline` allows.
        total_deadline: Monotonic instant nothing may outlive.
        resends: How often the transport sent the request again after a stale connection.
        sent: Whether the request left: ``False``, ``True``, or ``None`` for partly.
        received: Whether a byte of the answer came.
        sent_at: Monotonic instant the request had left.
        adopted: Whether somebody else sends this request through the adapter, and expects urllib3's exceptions.
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
        """Start an attempt: the limits that count per attempt start anew, the total does not."""
        self.deadline = self.total_deadline
        self.connect = connect
        self.connect_deadline = self.earlier(connect)
        self.resends = 0
        self.sent: bool | None = False
        self.received = False
        self.adopted = False
        self.sent_at: float | None = None

    def earlier(self, seconds: float | None, now: float | None = None) -> float | None:
        """Return the instant *seconds* from now, cut to the total. *now*: as the clock has just said."""
        if seconds is None:
            return self.total_deadline
        instant = (self.clock.monotonic() if now is None else now) + seconds
        return instant if self.total_deadline is None else min(instant, self.total_deadline)

    def send_timeout(self) -> float | None:
        """Return the seconds the next piece of the request may take to leave: a peer that takes nothing for so long is dead.

        Raises:
            TimeoutError: None are left.
        """
        remaining, patience = self.seconds_left(self.deadline), self.after_send
        if remaining is None or patience is None:
            return patience if remaining is None else remaining
        return min(remaining, patience)

    def request_sent(self) -> None:
        """Note that the request has left; from here the limit for the answer runs."""
        self.sent = True
        self.sent_at = self.clock.monotonic()
        self.deadline = self.earlier(self.after_send)

    def seconds_left(self, deadline: float | None) -> float | None:
        """Return the seconds until *deadline*.

        Raises:
            TimeoutError: None are left.
        """
        if deadline is None:
            return None
        seconds = deadline - self.clock.monotonic()
        if seconds <= 0:
            raise TimeoutError("timed out")
        return seconds

    def look(self) -> None:
        """Look up during work that waits for nothing, such as decoding what has arrived.

        Raises:
            RequestCancelledError: The call was cancelled.
            ReadTimeoutError: Its total time is up. The other limits are for silences of the peer, and this is none.
        """
        if self._cancelled:
            raise RequestCancelledError("the call was cancelled", sent=True)
        total = self.total_deadline
        if total is not None and self.clock.monotonic() >= total:
            raise ReadTimeoutError("the answer was still being read", sent=True)

    def bind(self, sock: socket.socket | Interruptible) -> None:
        """Name the socket this call waits on from now, which cancelling shuts down; or what is told to interrupt it instead.

        Raises:
            RequestCancelledError: The call was cancelled before.
        """
        with self._lock:
            self._bound = sock
            if not self._cancelled:
                return
            self._bound = None
        raise RequestCancelledError("the call was cancelled")

    def unbind(self) -> None:
        """Let go of the socket, before anybody else may get it: a late cancel must not touch it."""
        with self._lock:
            self._bound = None

    def cancel(self) -> None:
        """End this call wherever it waits. Idempotent; from any thread."""
        if self._pid != os.getpid():
            # A forked child's copy. A shutdown would reach the connection of the parent, who is still using it, and the lock may
            # be held for ever.
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
                _shutdown(target, socket.SHUT_RDWR)  # what cannot be interrupted is a socket
            except OSError:
                pass  # not connected yet, or gone already


_current = threading.local()


def current() -> CancelScope:
    """Return the call this thread is sending; urllib3's hooks have no argument to pass it through."""
    scope: CancelScope = _current.scope
    return scope


def adopt(scope: CancelScope) -> None:
    """Make *call* this thread's current call until the next: for requests that others send through the adapter."""
    scope.adopted = True
    _current.scope = scope


class activate:  # noqa: N801 - a context manager used like a function, twice as fast as contextlib's
    """Make *call* this thread's current call for the length of a block."""

    __slots__ = ("_previous_scope", "_scope")

    def __init__(self, scope: CancelScope) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._previous_scope = getattr(_current, "scope", None)
        _current.scope = self._scope

    def __exit__(self, *_exc: object) -> None:
        _current.scope = self._previous_scope
