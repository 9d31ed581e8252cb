"""The HTTP/2 pool, with the methods of a urllib3 pool that the adapter needs: few connections, many streams on each.

The server chooses the protocol in the TLS handshake (ALPN). If it chooses HTTP/1.1, the new connection goes to the
HTTP/1.1 pool behind this one, so that its handshake is not wasted, and all later requests go there, too.

Requests that foreign code sends through the adapter (``session.get(…)``) go over HTTP/1.1, since it expects the
behaviour of urllib3.
"""

from __future__ import annotations

import copy
import logging
import os
import ssl
import weakref
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import ClosedPoolError, ProxyError

from groq_provider._sync import forkable, in_signal_handler, lock_attempts, wake
from groq_provider.errors import PoolTimeoutError, RequestCancelledError
from groq_provider.transport.http1.pool import MAX_IDLE
from groq_provider.transport.http2.connection import HTTP2_MODULES, Http2Connection
from groq_provider.transport.http2.fallback import FallbackPool
from groq_provider.transport.http2.headers import fields_of
from groq_provider.transport.http2.response import HTTP2Response
from groq_provider.transport.http2.stream import Http11RequiredError, NoRoomError, Stream, UnprocessedError
from groq_provider.transport.scope import CancelScope, activate, current

if TYPE_CHECKING:
    from groq_provider.clock import Clock

__all__ = ["MAX_CONNECTIONS", "Http2Pool"]

#: Another connection is opened when no stream is free on those before, up to so many connections.
MAX_CONNECTIONS = 8
#: How often to resend at once a request that was certainly not processed. After that it is left to the retry policy,
#: which waits in between.
_MAX_RESENDS = 4
#: With several connections, a call that waits for a stream reads those without a reader after this many seconds. The
#: waiting calls take turns: each waits as many times longer as there are of them, up to the second number.
_RECHECK_AFTER, _MOST_TURNS = 0.05, 20

_log = logging.getLogger(__name__)


class _Waiter:
    """A call that waits for a free stream (a *place*), and the outcome of its wait. Guarded by the pool's lock.

    Once counted, the place belongs to the waiter until a stream is opened in it, so an interrupt at any step cannot
    lose it.
    """

    __slots__ = ("connection", "failure", "must_connect", "stream", "use_http1", "wake_lock")

    def __init__(self) -> None:
        self.wake_lock = Lock()
        self.wake_lock.acquire()
        self.connection: Http2Connection | None = None
        self.must_connect = False  # whether this call must make the next connection
        self.use_http1 = False
        self.failure: Exception | None = None
        self.stream: Stream | None = None  # the placeholder stream on which this call waits, if there is a connection

    def wake(self) -> None:
        """End the wait of the call. Never waits."""
        wake(self.wake_lock)
        stream = self.stream
        if stream is not None:
            stream.interrupt()

    def is_served(self) -> bool:
        """Say whether the wait is over."""
        return self.connection is not None or self.must_connect or self.use_http1 or self.failure is not None


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
        #: All connections that are not dead, including those that accept no new streams.
        self._connections: list[Http2Connection] = []
        self._reset_state()
        weakref.finalize(self, _close_all, self._connections)
        forkable(self)

    def _reset_state(self) -> None:
        #: Guards all fields below, and those that connections keep for the pool. Held for short computations;
        #: finalizers only try it.
        self._lock = Lock()
        self._queue: deque[_Waiter] = deque()
        self._is_connecting = False
        #: Places that were returned but are not free yet, and connections that have changed; see ``ConnectionLimiter``.
        self._returned_places: deque[tuple[Http2Connection | None, int]] = deque()

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
            waiter, sent_before = _Waiter(), scope.sent
            try:
                response = (
                    self._send_on_own_connection(fields, body, scope)
                    if self._interrupted_a_call()
                    else self._send_request(waiter, fields, body, scope)
                )
            except Http11RequiredError:
                scope.sent = sent_before
                scope.deadline = scope.total_deadline
                scope.connect_deadline = scope.deadline_after(scope.connect)
                break
            except UnprocessedError as error:
                scope.sent = sent_before  # this copy was not processed
                # Connections that served requests and have ended since are limited in number. But a new connection that
                # is useless at once may be followed by more of its kind, each with a handshake, so count those.
                ended_connection = waiter.connection
                has_ended = (
                    isinstance(error, NoRoomError)
                    and ended_connection is not None
                    and ended_connection.was_used
                    and not ended_connection.usable
                )
                refusals += not has_ended
                if scope.cancelled or refusals > _MAX_RESENDS:
                    raise
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
            scope.deadline = scope.total_deadline
            scope.connect_deadline = scope.deadline_after(scope.connect)
        return self.http1.urlopen(method, url, body, headers, retries, **options)

    def _send_request(
        self, waiter: _Waiter, fields: Any, body: bytes | None, scope: CancelScope
    ) -> HTTP2Response | None:
        """Send a request on a connection with a free stream and return its response; ``None`` if the server speaks only HTTP/1.1."""
        stream: Stream | None = None
        try:
            connection = self._reserve_place(waiter, scope)
            if connection is None:
                return None
            stream = Stream(connection)
            connection.open(stream, fields, body, scope)
            head = connection.await_head(stream, scope)
            return HTTP2Response(stream, head, scope)
        except BaseException as error:
            scope.unbind()
            if stream is None or not stream.id:
                self._withdraw_waiter(waiter)
                raise
            stream.connection.drop(stream)  # its end returns the place
            if isinstance(error, UnprocessedError) and not scope.cancelled:
                scope.resends += 1
            elif isinstance(error, (ConnectionError, ssl.SSLError)) and stream.connection.went_stale(stream):
                raise _StaleError(error) from None
            raise

    def _interrupted_a_call(self) -> bool:
        """Say whether this is a signal handler that interrupted a call which may hold something that is needed here."""
        return (
            self._lock.locked()
            or self._is_connecting
            or bool(self._queue)
            or any(each.in_use or each.reserved >= each.max_streams for each in self._connections)
        ) and in_signal_handler(HTTP2_MODULES)

    def _send_on_own_connection(self, fields: Any, body: bytes | None, scope: CancelScope) -> HTTP2Response | None:
        """Send a request on a connection of its own, without touching anything that other calls use.

        For signal handlers.
        """
        if self._closed:
            raise ClosedPoolError(self.http1, "the pool is closed")
        connection = self._connect(scope)
        if connection is None:
            return None
        stream = Stream(connection)
        try:
            connection.open(stream, fields, body, scope)
            return HTTP2Response(stream, connection.await_head(stream, scope), scope)
        except BaseException:
            scope.unbind()
            connection.drop(stream)
            raise
        finally:
            connection.close()  # takes effect when the stream has ended

    # --- places ------------------------------------------------------------------------------------------------------------

    def _reserve_place(self, waiter: _Waiter, scope: CancelScope) -> Http2Connection | None:
        """Return a connection with a place for one stream, reserved for the waiter; ``None`` if the server speaks only HTTP/1.1.

        Raises:
            PoolTimeoutError: No place was free in time.
            TimeoutError: No connection was made in time.
            RequestCancelledError: The call was cancelled.
        """
        with self._lock:
            if self._closed:
                raise ClosedPoolError(self.http1, "the pool is closed")
            expired = [] if self._queue else self._assign_place(waiter)
            if self._only_http1:
                waiter.use_http1 = True
            elif waiter.connection is None:
                if self._may_connect() and not self._queue:
                    self._is_connecting = waiter.must_connect = True
                else:
                    self._queue.append(waiter)
        self._settle_returned()
        for connection in expired:
            connection.close()
        return self._await_place(waiter, scope)

    def _await_place(self, waiter: _Waiter, scope: CancelScope) -> Http2Connection | None:
        """Wait for a place and return its connection. If it is this waiter's turn, make the connection."""
        if not waiter.is_served():
            self._wait_until_served(waiter, scope)
        if waiter.failure is not None:
            problem = copy.copy(waiter.failure)
            problem.__cause__ = waiter.failure.__cause__
            raise problem
        if waiter.must_connect:
            self._connect_for(scope, waiter)
        return waiter.connection

    def _assign_place(self, waiter: _Waiter | None) -> list[Http2Connection]:
        """Reserve a place for a waiter if there is one; return the expired connections to close.

        The caller must hold the lock.
        """
        expired: list[Http2Connection] = []
        now, pid = self.clock.monotonic(), os.getpid()
        self._connections[:] = [connection for connection in self._connections if not connection.dead]
        for connection in self._connections:
            if not connection.usable or connection.pid != pid:
                continue
            if connection.reserved == 0 and now - connection.idle_since > MAX_IDLE:
                expired.append(connection)
            elif waiter is not None and connection.reserved < connection.max_streams:
                # No call between the two statements: an interrupt may strike after any call.
                connection.reserved += 1
                waiter.connection = connection
                break
        return expired

    def _may_connect(self) -> bool:
        """Say whether another connection may be made now. One at a time: its places may be enough for all waiters."""
        if self._is_connecting:
            return False
        usable = [connection for connection in self._connections if connection.usable]
        # While a server has not announced its limit, its connection may have places for all. If it allows no streams
        # for now, it would not allow any on another connection, either.
        return len(usable) < MAX_CONNECTIONS and all(each.settings_received and each.max_streams > 0 for each in usable)

    def _wait_until_served(self, waiter: _Waiter, scope: CancelScope) -> None:
        places_taken, limit = False, scope.connect_deadline
        subscription = scope.subscribe(waiter.wake)
        try:
            while not waiter.is_served() and not scope.cancelled:
                # While the connection is being made, the limit for connecting counts. Once it is known that all places
                # are taken, the limit for a permit does, from that moment.
                if not places_taken and any(each.usable and each.settings_received for each in self._connections):
                    places_taken, limit = True, scope.deadline_after(scope.after_send)
                remaining = None if limit is None else limit - self.clock.monotonic()
                if remaining is not None and remaining <= 0:
                    break
                self._wait_on(waiter, scope, remaining)
        finally:
            scope.unsubscribe(subscription)
        if scope.cancelled:
            raise RequestCancelledError("the call was cancelled", sent=scope.sent)
        if not waiter.is_served():
            if places_taken:
                raise PoolTimeoutError(
                    "all streams of HTTP/2 that the server allows were busy for too long", sent=scope.sent
                )
            raise TimeoutError("timed out")
        if places_taken:
            # Time spent waiting for a place is not time to connect.
            scope.connect_deadline = scope.deadline_after(scope.connect)

    def _wait_on(self, waiter: _Waiter, scope: CancelScope, timeout: float | None) -> None:
        """Wait once, on a connection if there is one: maybe no other thread reads the message that frees a place."""
        pid = os.getpid()
        usable = [each for each in list(self._connections) if each.usable and each.pid == pid]
        unread = [each for each in usable if not each.has_reader]
        for connection in unread[1:]:
            connection.read_pending()
        if len(usable) != 1:
            turn_length = min(len(self._queue), _MOST_TURNS) * _RECHECK_AFTER
            timeout = turn_length if timeout is None else min(timeout, turn_length)
        if not usable:
            self.clock.wait(waiter.wake_lock, timeout)
            return
        connection = (unread or usable)[0]
        stream = waiter.stream = connection.placeholder_stream()
        try:
            # Checked after setting waiter.stream, which wake() reads.
            if not waiter.is_served() and not scope.cancelled:
                connection.wait(stream, timeout)
        finally:
            waiter.stream = None

    def _withdraw_waiter(self, waiter: _Waiter) -> None:
        """Leave the queue. A place or a turn to connect that was given meanwhile goes to the next waiter."""
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
            if waiter.connection is not None:
                self._returned_places.append((waiter.connection, 1))
            if waiter.must_connect:
                self._is_connecting = waiter.must_connect = False
            self._serve_waiters()  # in every case: an interrupt may have kept another thread from doing it
        self._settle_returned()

    def _serve_waiters(self) -> None:
        """Serve the waiters in the order of their arrival, as far as possible. The caller must hold the lock."""
        while self._queue:
            waiter = self._queue[0]
            if self._closed:
                waiter.failure = ClosedPoolError(self.http1, "the pool is closed")
            elif self._only_http1:
                waiter.use_http1 = True
            elif not waiter.is_served():  # else an interrupt struck before it was removed
                # Expired connections stay for now: the next call closes them.
                self._assign_place(waiter)
                if waiter.connection is None:
                    if not self._may_connect():
                        return
                    self._is_connecting = waiter.must_connect = True
            waiter.wake()
            self._queue.popleft()

    def _return_places(self, connection: Http2Connection | None, count: int) -> None:
        """Return *count* places of a connection; 0 means that the connection or the pool has changed otherwise.

        Never waits.
        """
        self._returned_places.append((connection, count))
        self._settle_returned()

    def _settle_returned(self) -> None:
        if not self._returned_places:
            return
        for _ in lock_attempts(self._lock):
            try:
                while self._returned_places:
                    connection, count = self._returned_places[0]
                    if connection is not None:
                        connection.reserved = connection.reserved - count if connection.reserved > count else 0
                    self._returned_places.popleft()  # no call between the two statements: an interrupt may strike after any call
                    if connection is not None and count and not connection.reserved:
                        connection.idle_since = self.clock.monotonic()
                    if not count:
                        # Some waiters may have to wait differently now: for a place instead of a connection.
                        for waiter in self._queue:
                            waiter.wake()
                self._serve_waiters()
            finally:
                self._lock.release()
            if not self._returned_places:
                break

    # --- connecting --------------------------------------------------------------------------------------------------------

    def _connect_for(self, scope: CancelScope, waiter: _Waiter) -> None:
        """Make a connection for this call and the other waiters."""
        new_connection: Http2Connection | None = None
        problem: BaseException | None = None
        try:
            new_connection = self._connect(scope)
        except BaseException as error:
            problem = error
            raise
        finally:
            with self._lock:
                self._is_connecting = waiter.must_connect = False
                if problem is not None:
                    self._share_failure(problem, scope)
                elif new_connection is None:
                    self._only_http1 = waiter.use_http1 = True
                else:
                    new_connection.idle_since = self.clock.monotonic()
                    new_connection.reserved = 1
                    waiter.connection = new_connection
                    self._connections.append(new_connection)
                    if len(self._connections) > 1:  # calls that wait on the first connection must now watch two
                        for each in self._queue:
                            each.wake()
                self._serve_waiters()
                closed = self._closed
            self._settle_returned()
            if closed and new_connection is not None:
                new_connection.close()

    def _share_failure(self, problem: BaseException, scope: CancelScope) -> None:
        """Pass a failure to connect to the waiters, unless it concerns only this call. The caller must hold the lock."""
        concerns_only_us = scope.cancelled or isinstance(problem, TimeoutError) or "timed out" in str(problem)
        if (
            concerns_only_us
            or not isinstance(problem, Exception)
            or any(connection.usable for connection in self._connections)
        ):
            return  # the next waiter tries for itself
        while self._queue:
            waiter = self._queue.popleft()
            waiter.failure = problem
            waiter.wake()

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
                    owner._return_places(connection, count)

            return Http2Connection(sock, on_change)
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
        if self._interrupted_a_call():  # a handler uses connections of its own
            return min(connections, self._free_places())
        scope = CancelScope(self.clock, total_deadline=self.clock.monotonic() + timeout)
        try:
            with activate(scope):
                while self._warm_one(connections, scope):
                    pass
        except ClosedPoolError:
            raise
        except Exception as error:  # noqa: BLE001 - after any failure this connection is just not ready
            _log.debug("warm-up: %s", type(error).__name__)
        if self._only_http1:
            return self.http1.warm_up(connections, timeout)
        with self._lock:
            wanted_places = self._free_places()
        self._settle_returned()
        return min(connections, wanted_places)

    def _free_places(self) -> int:
        return sum(max(0, each.max_streams - each.reserved) for each in self._connections if each.usable)

    def _warm_one(self, wanted_places: int, scope: CancelScope) -> bool:
        """Open a connection if there are fewer than *places* places; say whether one was opened and is usable."""
        waiter = _Waiter()
        try:
            with self._lock:
                if self._closed:
                    raise ClosedPoolError(self.http1, "the pool is closed")
                expired = self._assign_place(None)
                has_enough = self._only_http1 or self._free_places() >= wanted_places
                must_connect = not has_enough and self._may_connect()
                must_wait = not has_enough and not must_connect and self._is_connecting
                if must_connect:
                    self._is_connecting = waiter.must_connect = True
            self._settle_returned()
            for connection in expired:
                connection.close()
            if not (must_connect or must_wait):
                return False
            # In the latter case another thread makes the connection.
            new_connection = self._await_place(waiter, scope) if must_connect else self._reserve_place(waiter, scope)
            if new_connection is None:
                return False
            new_connection.was_used = True  # it may go stale before its first request
            new_connection.await_settings(scope)
            waiter.connection = None
            self._returned_places.append((new_connection, 1))
            self._settle_returned()
        except BaseException:
            self._withdraw_waiter(waiter)
            raise
        return must_connect and new_connection.usable  # if one connection is useless at once, more would be, too

    def idle(self) -> int:
        """Count the open idle connections, for tests and repr."""
        return self.http1.idle() + sum(not each.dead and each.reserved == 0 for each in list(self._connections))

    def state(self) -> str:
        """Describe the pool, for repr."""
        if self._only_http1:
            return self.http1.state()
        open_connections = [connection for connection in list(self._connections) if not connection.dead]
        return f"{len(open_connections)} connections of HTTP/2 with {sum(each.reserved for each in open_connections)} streams"

    def close(self) -> None:
        """Open no more connections; each closes when its last stream has ended. Never waits."""
        self._closed = True  # without the lock, which may be held by the call that a signal handler interrupted
        self._return_places(None, 0)
        for connection in list(self._connections):
            connection.close()
        self.http1.close()

    def _after_fork_in_child(self) -> None:
        """Drop the parent's connections; the HTTP/1.1 pool registers its own hook."""
        inherited_connections = list(self._connections)
        self._connections.clear()
        self._reset_state()
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
