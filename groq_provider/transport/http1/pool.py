"""Pools of stack connections: liveness, age, fork safety, one resend on a stale connection."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import ssl
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ClosedPoolError

from groq_provider._sync import forkable
from groq_provider.transport.http1.connection import PlainConnection, TLSConnection
from groq_provider.transport.http1.receive import readable
from groq_provider.transport.scope import CancelScope, activate, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.clock import Clock

__all__ = ["MAX_IDLE", "POOL_SIZE", "PlainPool", "TLSPool"]

#: Connections stack per host.
POOL_SIZE = 100
#: Seconds after which an idle connection is not used again (fixed: docs/design/promises.md).
MAX_IDLE = 90.0

#: How a connection fails whose other end has closed while it was sent to; the second on macOS.
_EARLY_CLOSE = (errno.ECONNRESET, errno.EPROTOTYPE)

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _ConnectionStack:
    """What a pool keeps its connections in; urllib3's own is a ``queue.LifoQueue``, whose locks are conditions written in Python.

    An interrupt at the wrong moment inside of one leaves it locked for ever, and with it every call. A ``with`` on a plain lock cannot
    be torn.
    """

    def __init__(self, maxsize: int = POOL_SIZE) -> None:
        self.maxsize = maxsize
        self.mutex = threading.RLock()  # guards the list; held for one look at it; reentrant: _sync
        self.queue: list[Any] = []

    def get(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002 - the signature of queues
        """Return what was put last; never waits."""
        with self.mutex:
            if self.queue:
                return self.queue.pop()
        raise queue.Empty

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        """Keep a connection, or the place for one; never waits."""
        with self.mutex:
            if len(self.queue) >= self.maxsize:
                if item is None or None not in self.queue:
                    raise queue.Full
                self.queue.remove(None)  # a connection that has no place takes one that is free
            self.queue.append(item)

    def qsize(self) -> int:
        """Return how many there are, places included."""
        return len(self.queue)


class _Pool(HTTPConnectionPool):
    """What both kinds of pools share. Never blocks; a cap on connections is the transport's business."""

    QueueCls: Any = _ConnectionStack
    clock: Clock
    #: Whether requests go through a tunnel that a proxy makes; set by whoever makes the pool.
    tunnelled = False

    def __init__(self, *args: Any, clock: Clock, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clock = clock
        forkable(self)

    def _get_conn(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - urllib3's signature; this pool never waits
        stack = self.pool
        if stack is None:
            raise ClosedPoolError(self, "the pool is closed")
        try:
            conn: Any = stack.get(block=False)
        except queue.Empty:
            conn = None
        if conn is None:
            return self._new_conn()
        if conn.sock is not None and not self._is_usable(conn):
            if conn.pid == os.getpid():
                conn.close()
            else:
                _detach(conn)
        return conn

    def _is_usable(self, conn: Any) -> bool:
        if conn.pid != os.getpid() or self.clock.monotonic() - (conn.idle_since or 0.0) > MAX_IDLE:
            return False
        sock = conn.sock
        if not readable(sock, 0):
            return True
        if not isinstance(sock, ssl.SSLSocket):
            return False  # closed by the peer, or bytes nobody asked for
        # After the handshake a TLS 1.3 server sends session tickets, which make an idle socket readable. urllib3 takes that
        # for a closed connection and throws away every connection that was opened ahead.
        try:
            sock.settimeout(0)
            sock.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        except OSError:
            return False
        return False

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = self.clock.monotonic()
            response = conn.pending_response
            if response is not None:
                conn.pending_response = None
                if not (response.fully_read and response.can_reuse):
                    conn.close()
        stack = self.pool
        if stack is not None:
            try:
                stack.put(conn, block=False)
            except queue.Full:
                pass  # more than POOL_SIZE at once: closed below, which is no reason to warn
            else:
                if self.pool is None:  # closed meanwhile, perhaps after close() had emptied it
                    self._close_all(stack)
                return
        if conn is not None:
            conn.close()

    @staticmethod
    def _close_all(stack: Any) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                if conn := stack.get(block=False):
                    conn.close()

    def urlopen(  # type: ignore[override]  # urllib3 has more, which requests gives by keyword or not at all
        self, method: str, url: str, body: Any = None, headers: Any = None, retries: Any = None, **options: Any
    ) -> Any:
        """Send one request and return the head of its response.

        What urllib3 does, without its retries and redirects, which this client does elsewhere or not at all, and without copying the
        header fields. Proxies are left to it, and the requests that others send.
        """
        if self.proxy is not None or current().adopted:
            return super().urlopen(method, url, body, headers, retries, **options)
        conn = self._get_conn()
        try:
            return self._make_request(conn, method, url, body=body, headers=headers)
        except BaseException:
            conn.close()
            self._put_conn(None)
            raise

    def _exchange(self, conn: Any, method: str, url: str, **kwargs: Any) -> Any:
        """Send a request on a connection and read the head of the response."""
        if self.proxy is not None or current().adopted:
            return super()._make_request(conn, method, url, **kwargs)
        if conn.sock is None:
            conn.timeout = None  # the call's limits hold
            self._validate_conn(conn)
        try:
            conn.send_request(method, url, kwargs["body"], kwargs["headers"])
        except BrokenPipeError:
            pass  # a server may response before it has read everything, and close: the response can be read
        except OSError as error:
            if error.errno not in _EARLY_CLOSE:
                raise
        response = conn.read_response(method)
        response._pool = self
        return response

    def _make_request(self, conn: Any, method: str, url: str, **kwargs: Any) -> Any:  # type: ignore[override]  # urllib3 passes the rest by keyword
        scope = current()
        try:
            reused = conn.sock is not None and conn.idle_since is not None
            if conn.sock is not None:
                scope.bind(getattr(conn.sock, "socket", conn.sock))
            try:
                return self._exchange(conn, method, url, **kwargs)
            except (ConnectionError, ssl.SSLEOFError):
                # The peer closed an idle connection just as the request went out. Only then, and only once, the request is
                # sent again: a fresh connection that breaks, or an response that began, is the retry policy's business.
                if not reused or scope.received or scope.cancelled:
                    raise
            scope.unbind()
            conn.close()
            scope.resends += 1
            scope.sent = None  # whatever becomes of the second copy, the first may have been read
            scope.connect_deadline = scope.earlier(scope.connect)
            _log.debug("the stack connection was stale: sending again on a fresh one")
            if self.tunnelled:
                self._prepare_proxy(conn)
            return self._exchange(conn, method, url, **kwargs)
        except BaseException:
            scope.unbind()  # before urllib3 closes the socket, whose number may then be somebody else's
            raise

    def warm_up(self, connections: int, timeout: float) -> int:
        """Open connections until that many are ready, and keep them.

        Returns:
            How many are ready.
        """
        opened = [self._get_conn() for _ in range(connections)]
        deadline = self.clock.monotonic() + timeout

        def ready(conn: Any) -> bool:
            if conn.sock is not None:
                return True
            scope = CancelScope(self.clock, total_deadline=deadline)
            try:
                with activate(scope):
                    if self.tunnelled:
                        self._prepare_proxy(conn)
                    else:
                        conn.connect()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, that connection is not ready
                _log.debug("warm-up: %s", type(error).__name__)
                conn.close()
                return False
            finally:
                scope.unbind()
            return True

        try:
            # With a round trip between the two ends, handshakes side by side are what makes this quick.
            return sum(run_in_threads(ready, opened, threads=8))
        finally:
            for conn in opened:
                self._put_conn(conn)

    def idle(self) -> int:
        """Count the open connections that wait for use; for tests and repr."""
        stack = self.pool
        return (
            0 if stack is None else sum(1 for conn in list(stack.queue) if conn is not None and conn.sock is not None)
        )

    def state(self) -> str:
        """Say what there is, for repr."""
        return f"{self.idle()} idle connections"

    def _after_fork_in_child(self) -> None:
        """Forget what the parent holds, without a word on its sockets and without touching a lock it may hold."""
        stack = self.pool
        if stack is None:
            return
        inherited = [conn for conn in stack.queue if conn is not None]
        stack.__init__(stack.maxsize)  # type: ignore[misc]  # new locks, empty
        for _ in range(stack.maxsize):
            stack.put(None)
        for conn in inherited:
            _detach(conn)


def run_in_threads(work: Callable[[Any], T], items: list[Any], *, threads: int) -> list[T]:
    """Return what *work* makes of connection item, in any order; in several threads, this one among them.

    No ThreadPoolExecutor: a signal handler that came here while its own thread is in one would wait for that one's locks for ever.
    """
    pending, done = deque(items), list[T]()

    def run(finished: threading.Lock | None = None) -> None:
        try:
            while True:
                try:
                    item = pending.popleft()
                except IndexError:
                    return
                done.append(work(item))
        finally:
            if finished is not None:
                finished.release()

    helpers: list[threading.Lock] = []
    try:
        for _ in range(min(len(items), threads) - 1):
            finished = threading.Lock()
            finished.acquire()
            try:
                threading.Thread(target=run, args=(finished,), name="groq-warm-up", daemon=True).start()
            except RuntimeError:
                break  # no more can be started: those there are do it
            helpers.append(finished)
        run()
    finally:
        pending.clear()
        for finished in helpers:
            finished.acquire()
    return done


def _detach(conn: Any) -> None:
    """Let go of a connection that belongs to the parent process: close our descriptor, say nothing to the peer."""
    sock, conn.sock = conn.sock, None
    if sock is not None:
        try:
            os.close(sock.detach())  # SSLSocket.close() is silent too, but detach() cannot ever send a close_notify
        except OSError:
            pass


class PlainPool(_Pool):
    """Connections without TLS."""

    ConnectionCls = PlainConnection


class TLSPool(_Pool, HTTPSConnectionPool):
    """Connections with TLS."""

    ConnectionCls = TLSConnection
    #: Returns the TLS context for a connection made now; set by whoever makes the pool.
    make_context: Callable[[], ssl.SSLContext] | None = None

    def _new_conn(self) -> Any:
        conn: Any = super()._new_conn()
        conn.make_context = self.make_context
        return conn
