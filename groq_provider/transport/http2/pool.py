"""The HTTP/2 pool, with the methods of a urllib3 pool that the adapter needs: few connections, many streams on each.

The server chooses the protocol in the TLS handshake (ALPN). If it chooses HTTP/1.1, the new connection goes to the
HTTP/1.1 pool behind this one, so that its handshake is not wasted, and all later requests go there, too.

Calls that find no free stream queue. Only the first in the queue may try the connections, make another connection, and
read those that no thread reads; when it leaves, it wakes the next. So the pool keeps no account of places: the open
streams of a connection are the account, and an interrupt has nothing to lose. The pool needs no lock either: it changes
its queue and its list of connections by single calls of C functions.

Requests that foreign code sends through the adapter (``session.get(…)``) go over HTTP/1.1, since it expects the
behaviour of urllib3.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import ssl
import weakref
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from urllib3.exceptions import ClosedPoolError, ProxyError

from groq_provider._sync import forkable, in_signal_handler, wake
from groq_provider.errors import PoolTimeoutError, RequestCancelledError
from groq_provider.transport.http1.pool import MAX_IDLE
from groq_provider.transport.http2.connection import HTTP2_MODULES, Http2Connection
from groq_provider.transport.http2.fallback import FallbackPool
from groq_provider.transport.http2.headers import fields_of
from groq_provider.transport.http2.response import HTTP2Response
from groq_provider.transport.http2.stream import Http11RequiredError, NoRoomError, Stream, UnprocessedError
from groq_provider.transport.scope import CancelScope, activate, current

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.clock import Clock

__all__ = ["MAX_CONNECTIONS", "Http2Pool"]

#: Another connection is opened when no stream is free on those before, up to so many connections.
MAX_CONNECTIONS = 8
#: How often to resend at once a request that was certainly not processed. After that it is left to the retry policy,
#: which waits in between.
_MAX_RESENDS = 4
#: With several connections, the first call in the queue reads those without a reader every so many seconds.
_RECHECK_AFTER = 0.05

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _Waiter:
    """A call that needs a free stream, and its place in the queue."""

    __slots__ = ("connection", "failure", "handshakes", "placeholder", "stream", "wake_lock", "woken")

    def __init__(self) -> None:
        self.wake_lock = Lock()
        self.wake_lock.acquire()
        self.woken = False  # since it last tried
        self.stream: Stream | None = None  # the last stream that was opened for this call, or begun to be
        self.placeholder: Stream | None = None  # on which this call waits, if it reads a connection
        self.failure: Exception | None = None  # of another call that tried to connect
        self.connection: Http2Connection | None = None  # the last one that this call made
        self.handshakes = 0  # of this call

    def wake(self) -> None:
        """End the wait of the call, so that it tries again. Never waits."""
        self.woken = True
        wake(self.wake_lock)
        placeholder = self.placeholder
        if placeholder is not None:
            placeholder.interrupt()


class Http2Pool:
    """The connections to one server.

    Thread safety: any number of threads can send at once.

    Args:
        host: Host of the server.
        port: Port of the server.
        clock: The source of time.
        tunnelled: Whether to go through the tunnel of a proxy that is reached without TLS. TLS inside TLS cannot be
            read without waiting.
        settings: For :class:`FallbackPool`, which makes the connections.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        clock: Clock,
        tunnelled: bool = False,
        **settings: Any,
    ) -> None:
        self.http1 = http1 = FallbackPool(host, port, clock=clock, **settings)
        http1.tunnelled = tunnelled
        self.clock = clock
        self._authority = http1.host if http1.port in (None, 443) else f"{http1.host}:{http1.port}"
        self._closed = False
        self._only_http1 = False  # chosen by the server
        self._connections: list[Http2Connection] = []
        self._queue: deque[_Waiter] = deque()
        self._is_connecting = False  # set by the first call in the queue only
        weakref.finalize(self, _close_all, self._connections)
        forkable(self)

    def __repr__(self) -> str:
        if self._only_http1:
            return f"<{type(self).__name__} of HTTP/1.1, {self.http1!r}>"
        return f"<{type(self).__name__} {self._connections}>"

    # --- requests ----------------------------------------------------------------------------------------------------------

    def send(self, scope: CancelScope, method: str, url: str, body: Any, headers: Any) -> Any:
        """Send one request that needs no proxy; return the response once its head has arrived."""
        with activate(scope):
            return self.urlopen(method, url, body, headers)

    def urlopen(
        self, method: str, url: str, body: Any = None, headers: Any = None, retries: Any = None, **options: Any
    ) -> Any:
        """Send one request; return the response once its head has arrived."""
        scope = current()
        if hasattr(body, "content_type") and not self._only_http1:
            body = b"".join(body)  # an upload: its frames are made as the peer's windows allow, from memory
        if self._only_http1 or scope.adopted or not (body is None or isinstance(body, bytes)):
            return self.http1.urlopen(method, url, body, headers, retries, **options)
        fields = fields_of(method, "https", self._authority, url, headers or {})
        refusals = 0
        while True:
            sent_before = scope.sent
            try:
                response = self._send_request(fields, body, scope)
            except Http11RequiredError:
                scope.sent = sent_before
                self._restart_limits(scope)
                break
            except UnprocessedError as error:
                scope.sent = sent_before  # this copy was not processed
                refusals += 1
                if scope.cancelled or refusals > _MAX_RESENDS or isinstance(error, NoRoomError):
                    raise
                scope.resends += 1
                reason: Exception = error
            except _StaleError as error:
                # As over HTTP/1.1: the peer closed the connection just as we sent the request. Resend once.
                if scope.resends or scope.cancelled:
                    raise error.problem from None
                scope.resends += 1
                scope.sent = None  # the peer may have read the first copy, whatever happens to the second
                reason = error.problem
            else:
                if response is None:
                    break
                return response
            _log.debug("sending again on another connection: %s", reason)
            self._restart_limits(scope)
        return self.http1.urlopen(method, url, body, headers, retries, **options)

    @staticmethod
    def _restart_limits(scope: CancelScope) -> None:
        scope.deadline = scope.total_deadline
        scope.connect_deadline = scope.deadline_after(scope.connect)

    def _send_request(self, fields: Any, body: bytes | None, scope: CancelScope) -> HTTP2Response | None:
        """Send a request on a free stream and return its response; ``None`` if the server speaks only HTTP/1.1."""
        waiter, own_connection = _Waiter(), None
        try:
            if self._interrupted_a_call():
                # This is a signal handler: touch nothing that other calls use.
                if self._closed:
                    raise ClosedPoolError(self.http1, "the pool is closed")
                own_connection = self._connect(scope)
                stream = None if own_connection is None else self._open_on(own_connection, waiter, fields, body, scope)
            else:
                stream = self._in_turn(waiter, scope, lambda: self._try_open(waiter, fields, body, scope))
            if stream is None:
                return None
            return HTTP2Response(stream, stream.connection.await_head(stream, scope), scope)
        except BaseException as error:
            scope.unbind()
            stream = waiter.stream
            if stream is not None:
                stream.connection.drop(stream)
                if (
                    isinstance(error, (ConnectionError, ssl.SSLError))
                    and (scope.cancelled or not isinstance(error, UnprocessedError))
                    and stream.id
                    and stream.connection.went_stale(stream)
                ):
                    raise _StaleError(error) from None
            raise
        finally:
            if own_connection is not None:
                own_connection.close()  # takes effect when the stream has ended

    def _interrupted_a_call(self) -> bool:
        """Say whether this is a signal handler that interrupted a call which may hold something that is needed here."""
        return (
            self._is_connecting
            or bool(self._queue)
            or any(each.in_use or not each.has_room for each in self._connections)
        ) and in_signal_handler(HTTP2_MODULES)

    # --- places ------------------------------------------------------------------------------------------------------------

    def _try_open(self, waiter: _Waiter, fields: Any, body: bytes | None, scope: CancelScope) -> Stream | None:
        """Open a stream for a request if one is free. Close connections that were idle for too long."""
        now, pid = self.clock.monotonic(), os.getpid()
        for connection in list(self._connections):
            if connection.dead:
                with contextlib.suppress(ValueError):  # another thread was faster
                    self._connections.remove(connection)
            elif not connection.has_room or connection.pid != pid:
                pass
            elif not connection.open_streams and now - connection.idle_since > MAX_IDLE:
                connection.close()
            else:
                with contextlib.suppress(NoRoomError):
                    return self._open_on(connection, waiter, fields, body, scope)
        return None

    @staticmethod
    def _open_on(
        connection: Http2Connection, waiter: _Waiter, fields: Any, body: bytes | None, scope: CancelScope
    ) -> Stream:
        # Known to the waiter before it is opened, so that an interrupt at any step ends it.
        stream = waiter.stream = Stream(connection)
        connection.open(stream, fields, body, scope)
        return stream

    def _usable_connections(self) -> list[Http2Connection]:
        pid = os.getpid()
        return [each for each in list(self._connections) if each.usable and each.pid == pid]

    def _may_connect(self) -> bool:
        """Say whether another connection may be made now. One at a time: its places may be enough for all waiters."""
        if self._is_connecting:
            return False
        usable = self._usable_connections()
        # While a server has not announced its limit, its connection may have places for all. If it allows no streams
        # for now, it would not allow any on another connection, either.
        return len(usable) < MAX_CONNECTIONS and all(each.settings_received and each.max_streams > 0 for each in usable)

    def _in_turn(self, waiter: _Waiter, scope: CancelScope, attempt: Callable[[], T | None]) -> T | None:
        """Call *attempt* in turn with other calls until it returns a result, connecting where that helps.

        Returns:
            The result, or ``None`` if the server speaks only HTTP/1.1.

        Raises:
            PoolTimeoutError: No place was free in time.
            TimeoutError: No connection was made in time.
            RequestCancelledError: The call was cancelled.
        """
        if self._closed:
            raise ClosedPoolError(self.http1, "the pool is closed")
        if not self._queue and (result := attempt()) is not None:
            return result
        subscription = scope.subscribe(waiter.wake)
        try:
            self._queue.append(waiter)
            return self._await_turn(waiter, scope, attempt)
        finally:
            try:
                self._leave_queue(waiter)
            except BaseException:  # an interrupt in the line above; to do it twice is harmless
                self._leave_queue(waiter)
                raise
            scope.unsubscribe(subscription)

    def _await_turn(self, waiter: _Waiter, scope: CancelScope, attempt: Callable[[], T | None]) -> T | None:
        limit, places_taken = scope.connect_deadline, False
        while True:
            waiter.woken = False  # first: a change after this line ends the wait below
            if scope.cancelled:
                raise RequestCancelledError("the call was cancelled", sent=scope.sent)
            if self._closed:
                raise ClosedPoolError(self.http1, "the pool is closed")
            if self._only_http1:
                return None
            if waiter.failure is not None:
                problem = copy.copy(waiter.failure)
                problem.__cause__ = waiter.failure.__cause__
                raise problem
            is_first = bool(self._queue) and self._queue[0] is waiter
            if is_first:
                if (result := attempt()) is not None:
                    return result
                if self._may_connect():
                    if waiter.handshakes > _MAX_RESENDS:
                        # New connections that were useless at once; more of their kind would be, too.
                        raise NoRoomError("new connections accept no requests")
                    if places_taken:  # time spent waiting for a place is not time to connect
                        limit = scope.connect_deadline = scope.deadline_after(scope.connect)
                        places_taken = False
                    self._connect_in_turn(waiter, scope)
                    continue
            # While the connection is being made, the limit for connecting counts. Once it is known that all places are
            # taken, the limit for a place does, from that moment.
            if not places_taken and any(each.settings_received for each in self._usable_connections()):
                places_taken, limit = True, scope.deadline_after(scope.after_send)
            remaining = None if limit is None else limit - self.clock.monotonic()
            if remaining is not None and remaining <= 0:
                if places_taken:
                    raise PoolTimeoutError(
                        "all streams of HTTP/2 that the server allows were busy for too long", sent=scope.sent
                    )
                raise TimeoutError("timed out")
            self._wait(waiter, remaining, is_first)

    def _wait(self, waiter: _Waiter, timeout: float | None, is_first: bool) -> None:
        """Wait once. The first in the queue waits on a connection: maybe no other thread reads the message that frees a place."""
        usable = self._usable_connections() if is_first else []
        if not usable:
            if not waiter.woken:
                self.clock.wait(waiter.wake_lock, timeout)
            return
        unread = [each for each in usable if not each.has_reader]
        for connection in unread[1:]:
            connection.read_pending()
        if len(usable) > 1:
            timeout = _RECHECK_AFTER if timeout is None else min(timeout, _RECHECK_AFTER)
        connection = (unread or usable)[0]
        placeholder = waiter.placeholder = Stream(connection)
        try:
            if not waiter.woken:  # checked after setting waiter.placeholder, which wake() reads
                connection.wait(placeholder, timeout)
        finally:
            waiter.placeholder = None

    def _leave_queue(self, waiter: _Waiter) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(waiter)
        self._wake_first()

    def _wake_first(self) -> None:
        try:
            self._queue[0].wake()
        except IndexError:
            pass

    def _wake_all(self) -> None:
        for waiter in list(self._queue):
            waiter.wake()

    def _on_change(self, connection: Http2Connection, ended_streams: int) -> None:
        """Have the calls in the queue try again. Never waits."""
        if ended_streams:
            connection.idle_since = self.clock.monotonic()
            self._wake_first()
        else:  # some may have to wait differently now: for a place instead of a connection
            self._wake_all()

    # --- connecting --------------------------------------------------------------------------------------------------------

    def _connect_in_turn(self, waiter: _Waiter, scope: CancelScope) -> None:
        """Make a connection for this call, which is the first in the queue, and for others.

        Meanwhile the next call is the first, since places of other connections may become free.
        """
        try:
            self._is_connecting = True
            self._queue.remove(waiter)
            self._wake_first()
            waiter.handshakes += 1
            waiter.connection = connection = self._connect(scope)
            if connection is None:
                self._only_http1 = True
            else:
                self._queue.appendleft(waiter)
                self._connections.append(connection)
                if self._closed:
                    connection.close()
        except Exception as error:
            self._share_failure(error, scope)
            raise
        finally:
            self._is_connecting = False
            self._wake_all()

    def _share_failure(self, problem: Exception, scope: CancelScope) -> None:
        """Pass a failure to connect to the calls in the queue, unless it concerns only this call."""
        concerns_only_us = scope.cancelled or isinstance(problem, TimeoutError) or "timed out" in str(problem)
        if not concerns_only_us and not self._usable_connections():
            for waiter in list(self._queue):
                waiter.failure = problem

    def _connect(self, scope: CancelScope) -> Http2Connection | None:
        http1 = self.http1
        conn: Any = http1.new_negotiating_connection()
        conn.timeout = None  # the limits of the scope apply instead
        try:
            if http1.tunnelled:
                http1._prepare_proxy(conn)
            else:
                conn.connect()
            scope.unbind()  # from here on the socket is shared with other calls
            if scope.cancelled:
                raise ConnectionAbortedError("cancelled")
            protocol = conn.sock.selected_alpn_protocol()
            if protocol != "h2":
                _log.debug("the server chose %s, not HTTP/2", protocol or "HTTP/1.1")
                http1.keep_connection(conn)
                return None
            sock, conn.sock = conn.sock, None
            pool = weakref.ref(self)

            def on_change(connection: Http2Connection, count: int) -> None:
                if (owner := pool()) is not None:
                    owner._on_change(connection, count)

            return Http2Connection(sock, on_change, self.clock.monotonic())
        except BaseException as error:
            scope.unbind()
            conn.close()
            if http1.proxy is not None and not conn.has_connected_to_proxy and isinstance(error, Exception):
                raise ProxyError("cannot connect to the proxy", error) from error
            raise

    def warm_up(self, connections: int, timeout: float) -> int:
        """Open connections until so many calls find a place without a handshake; one connection usually has a hundred places.

        If the server chooses HTTP/1.1, open as many connections.

        Returns:
            The number of places that are ready, at most *connections*.
        """
        waiter = _Waiter()

        def is_done() -> bool | None:
            made = waiter.connection
            if made is not None:
                made.was_used = True  # it may go stale before its first request
                if not made.usable:
                    return True  # if one connection is useless at once, more would be, too
            if not all(each.settings_received for each in self._usable_connections()):
                return None  # they say how many streams the server allows
            has_enough = self._free_places() >= connections
            return True if has_enough or not (self._is_connecting or self._may_connect()) else None

        # Not in a signal handler, which uses connections of its own.
        if is_done() is None and not self._interrupted_a_call():
            scope = CancelScope(self.clock, total_deadline=self.clock.monotonic() + timeout)
            try:
                with activate(scope):
                    self._in_turn(waiter, scope, is_done)
            except ClosedPoolError:
                raise
            except Exception as error:  # noqa: BLE001 - after any failure this connection is just not ready
                _log.debug("warm-up: %s", type(error).__name__)
        if self._only_http1:
            return self.http1.warm_up(connections, timeout)
        return min(connections, self._free_places())

    def _free_places(self) -> int:
        return sum(max(0, each.max_streams - each.open_streams) for each in self._usable_connections())

    def idle(self) -> int:
        """Count the open idle connections, for tests and repr."""
        return self.http1.idle() + sum(not (each.dead or each.open_streams) for each in list(self._connections))

    def state(self) -> str:
        """Describe the pool, for repr."""
        if self._only_http1:
            return self.http1.state()
        alive = [connection for connection in list(self._connections) if not connection.dead]
        return f"{len(alive)} connections of HTTP/2 with {sum(each.open_streams for each in alive)} streams"

    def close(self) -> None:
        """Open no more connections; each closes when its last stream has ended. Never waits."""
        self._closed = True
        self._wake_all()
        for connection in list(self._connections):
            connection.close()
        self.http1.close()

    def _after_fork_in_child(self) -> None:
        """Drop the parent's connections; the HTTP/1.1 pool registers its own hook."""
        inherited_connections = list(self._connections)
        self._connections.clear()
        self._queue = deque()
        self._is_connecting = False
        for connection in inherited_connections:
            connection._after_fork_in_child()


class _StaleError(Exception):
    """The connection ended before the peer saw the request."""

    def __init__(self, problem: Exception) -> None:
        super().__init__()
        self.problem = problem


def _close_all(connections: list[Http2Connection]) -> None:
    """Close the connections of a pool that was collected unclosed."""
    for connection in list(connections):
        connection.close()
