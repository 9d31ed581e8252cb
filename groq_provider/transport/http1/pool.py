"""Pools of kept connections: liveness checks, age limit, fork safety, and one resend after a stale connection."""

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
from groq_provider.transport.http1.receive import wait_until
from groq_provider.transport.scope import CancelScope, activate, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.clock import Clock

__all__ = ["MAX_IDLE", "POOL_SIZE", "PlainPool", "TLSPool"]

#: Most connections kept per host.
POOL_SIZE = 100
#: Seconds after which an idle connection is not used again (fixed: docs/design/promises.md).
MAX_IDLE = 90.0

#: Errors of a send to a peer that has just closed the connection; the second occurs on macOS.
_EARLY_CLOSE = (errno.ECONNRESET, errno.EPROTOTYPE)

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _ConnectionStack:
    """The store of idle connections, with the methods of the queue that urllib3 would use.

    It needs no lock: each method changes the list by one call of a C function. (urllib3's ``queue.LifoQueue`` waits by
    conditions written in Python, and an interrupt inside one can leave it locked for ever.)
    """

    def __init__(self, maxsize: int = POOL_SIZE) -> None:
        self.maxsize = maxsize
        self.queue: list[Any] = []

    def get(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002 - the signature of queues
        """Return the connection that was put last; never waits."""
        try:
            return self.queue.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:  # noqa: ARG002 - as above
        """Keep a connection; never waits. ``None``, urllib3's sign for a free place, is not kept."""
        if item is None:
            return
        if len(self.queue) >= self.maxsize:
            raise queue.Full
        self.queue.append(item)

    def qsize(self) -> int:
        """Return the number of idle connections."""
        return len(self.queue)


class _Pool(HTTPConnectionPool):
    """The common part of both pools. It never waits: the transport caps the connections."""

    QueueCls: Any = _ConnectionStack
    clock: Clock
    #: Whether requests go through a proxy's tunnel. The adapter sets it.
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
            conn: Any = stack.queue.pop()
        except IndexError:
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
        sock, buffer = conn.sock, conn._receive_buffer
        if not (wait_until(sock, 0) if buffer is None or buffer.sock is not sock else buffer.has_input()):
            return True
        if not isinstance(sock, ssl.SSLSocket):
            return False  # closed by the peer, or unsolicited bytes
        # After the handshake a TLS 1.3 server sends session tickets, which make an idle socket readable. urllib3
        # mistakes that for a closed connection, and would discard every connection that was opened ahead.
        try:
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
                pass  # more than POOL_SIZE at once is normal: close the connection below, without the warning of urllib3
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
                stack.get(block=False).close()

    def urlopen(  # type: ignore[override]  # urllib3 has more parameters, which requests passes by keyword or not at all
        self, method: str, url: str, body: Any = None, headers: Any = None, retries: Any = None, **options: Any
    ) -> Any:
        """Send one request in the way of urllib3; return the response once its head has arrived.

        Only requests through a proxy, and those that foreign code sends, go through urllib3's own method: :meth:`send`
        does without its retries and redirects, which this client handles elsewhere or not at all.
        """
        scope = current()
        if self.proxy is not None or scope.adopted:
            return super().urlopen(method, url, body, headers, retries, **options)
        return self.send(scope, method, url, body, headers)

    def send(self, scope: CancelScope, method: str, url: str, body: Any, headers: Any) -> Any:
        """Send one request that needs no proxy; return the response once its head has arrived."""
        conn = self._get_conn()
        try:
            return self._send_on(conn, scope, method, url, body=body, headers=headers)
        except BaseException:
            conn.close()
            raise

    def _exchange(
        self, conn: Any, scope: CancelScope, method: str, url: str, *, body: Any, headers: Any, **options: Any
    ) -> Any:
        """Send a request on a connection and read the head of the response."""
        if self.proxy is not None or scope.adopted:
            return super()._make_request(conn, method, url, body=body, headers=headers, **options)
        if conn.sock is None:
            conn.timeout = None  # the limits of the scope apply instead
            with activate(scope):
                conn.connect()
        try:
            conn.send_request(method, url, body, headers, scope)
        except BrokenPipeError:
            pass  # a server may answer and close before it has read everything, so read its response
        except OSError as error:
            if error.errno not in _EARLY_CLOSE:
                raise
        response = conn.read_response(method, scope)
        response._pool = self
        return response

    def _make_request(self, conn: Any, method: str, url: str, **kwargs: Any) -> Any:  # type: ignore[override]  # urllib3 passes the rest by keyword
        return self._send_on(conn, current(), method, url, **kwargs)

    def _send_on(
        self, conn: Any, scope: CancelScope, method: str, url: str, *, body: Any, headers: Any, **options: Any
    ) -> Any:
        """Send a request on *conn*; if that was kept and has gone stale, send it once more on a new connection."""
        try:
            reused = conn.sock is not None and conn.idle_since is not None
            if conn.sock is not None:
                scope.bind(getattr(conn.sock, "socket", conn.sock))
            try:
                return self._exchange(conn, scope, method, url, body=body, headers=headers, **options)
            except (ConnectionError, ssl.SSLEOFError):
                # The peer closed an idle connection just as we sent the request. Only then, and only once, send it
                # again here. A fresh connection that breaks, or a response that has begun, is left to the retry policy.
                if not reused or scope.received or scope.cancelled:
                    raise
            scope.unbind()
            conn.close()
            scope.resends += 1
            scope.sent = None  # the peer may have read the first copy, whatever happens to the second
            scope.connect_deadline = scope.deadline_after(scope.connect)
            _log.debug("the kept connection was stale: sending again on a new one")
            if self.tunnelled:
                with activate(scope):
                    self._prepare_proxy(conn)
            return self._exchange(conn, scope, method, url, body=body, headers=headers, **options)
        except BaseException:
            scope.unbind()  # before urllib3 closes the socket: its descriptor may be reused at once
            raise

    def warm_up(self, connections: int, timeout: float) -> int:
        """Open connections until *connections* of them are ready, and keep them.

        Returns:
            How many are ready.
        """
        connections_to_open = [self._get_conn() for _ in range(connections)]
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
            except Exception as error:  # noqa: BLE001 - after any failure this connection is just not ready
                _log.debug("warm-up: %s", type(error).__name__)
                conn.close()
                return False
            finally:
                scope.unbind()
            return True

        try:
            # Handshakes consist of round trips, so do several at once.
            return sum(run_in_threads(ready, connections_to_open, threads=8))
        finally:
            for conn in connections_to_open:
                self._put_conn(conn)

    def idle(self) -> int:
        """Count the open idle connections, for tests and repr."""
        stack = self.pool
        return 0 if stack is None else sum(1 for conn in list(stack.queue) if conn.sock is not None)

    def state(self) -> str:
        """Describe the pool, for repr."""
        return f"{self.idle()} idle connections"

    def _after_fork_in_child(self) -> None:
        """Drop the parent's connections, without sending anything on their sockets and without taking a lock."""
        stack = self.pool
        if stack is None:
            return
        inherited_connections = list(stack.queue)
        stack.__init__(stack.maxsize)  # type: ignore[misc]  # empty
        for conn in inherited_connections:
            _detach(conn)


def run_in_threads(function: Callable[[Any], T], items: list[Any], *, threads: int) -> list[T]:
    """Apply *work* to each item, in several threads including this one; return the results in any order.

    Not a ThreadPoolExecutor: a signal handler that interrupts one in this thread would wait for its locks for ever.
    """
    pending, results = deque(items), list[T]()

    def run_pending(thread_done: threading.Lock | None = None) -> None:
        try:
            while True:
                try:
                    item = pending.popleft()
                except IndexError:
                    return
                results.append(function(item))
        finally:
            if thread_done is not None:
                thread_done.release()

    helpers: list[threading.Lock] = []
    try:
        for _ in range(min(len(items), threads) - 1):
            thread_done = threading.Lock()
            thread_done.acquire()
            try:
                threading.Thread(target=run_pending, args=(thread_done,), name="groq-warm-up", daemon=True).start()
            except RuntimeError:
                break  # no more threads can be started; those at work do the rest
            helpers.append(thread_done)
        run_pending()
    finally:
        pending.clear()
        for thread_done in helpers:
            thread_done.acquire()
    return results


def _detach(conn: Any) -> None:
    """Drop a connection of the parent process: close our descriptor, and send nothing to the peer."""
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
    #: Returns the TLS context for a new connection. The adapter sets it.
    make_context: Callable[[], ssl.SSLContext] | None = None

    def _new_conn(self) -> Any:
        conn: Any = super()._new_conn()
        conn.make_context = self.make_context
        return conn
