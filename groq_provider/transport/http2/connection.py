"""One HTTP/2 connection, shared by the threads that have streams on it.

The connection has no thread of its own. Of the threads that wait on its streams, one is the reader: it reads the socket
for all of them and gives each stream its frames. When its own stream has news, or its deadline has passed, it makes
another thread the reader. The reader waits on the socket and on a pipe; each of the other threads waits on a lock of
its own, ``Stream.wake_lock``.

What may touch the connection, and how:

- The lock guards the TLS object, the protocol state and the waiters. It is held for short computations, and for sends
  and reads that do not block.
- A cancel or a finalizer may run while its own thread holds the lock (``_sync``). So it only posts to
  ``_deferred_changes`` and tries the lock; the holder drains the deque after releasing. It never touches the socket, as
  the descriptor may have been reused.
- Bytes that the socket does not accept at once are sent by the reader. No thread waits for the socket while it holds
  the lock.
- A signal handler may have interrupted the call that holds the lock or is the reader. Its own calls use another
  connection (:meth:`Http2Pool._send_on_own_connection`), and it must not wait for a stream on this one.

An interrupt (Ctrl-C) while frames are processed leaves shared state undefined: the connection is closed, and the
streams of all threads on it fail with a retryable error.
"""

from __future__ import annotations

import logging
import os
import select
import ssl
import sys
import time
from collections import deque
from threading import TIMEOUT_MAX, Lock
from typing import TYPE_CHECKING, Any

from groq_provider._sync import in_signal_handler, lock_attempts
from groq_provider.transport.http1.receive import wait_until
from groq_provider.transport.http2.frames import Frames
from groq_provider.transport.http2.stream import (
    CLOSED,
    STREAM_WINDOW,
    FrameError,
    GoneError,
    NoRoomError,
    Stream,
    as_closed,
)

if sys.platform == "linux":
    import fcntl
    import termios

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpack import HeaderTuple

    from groq_provider.transport.scope import CancelScope

__all__ = ["HTTP2_MODULES", "PING_AFTER", "PING_PATIENCE", "Http2Connection"]

#: If a thread waits and no byte has come for PING_AFTER seconds, we send a ping, which the peer must answer within
#: PING_PATIENCE seconds. The ping is queued behind all unsent bytes, so while some of those leave every PING_PATIENCE
#: seconds, we keep waiting. Once none leave, the connection ends after at least PING_PATIENCE seconds and at most twice
#: that.
PING_AFTER, PING_PATIENCE = 5.0, 3.0
_READ_SIZE = 16_384
#: Most reads of pending input before a new request. A peer that has sent more than that is alive.
_MAX_READS = 64
#: Bytes that may have left the machine although send() did not report them: TLS sends whole records.
_TLS_RECORD = 16_384 + 512
#: Prefix of the names of the modules that hold locks of connections, or turns in the queue of a pool.
HTTP2_MODULES = f"{__package__}."

_log = logging.getLogger(__name__)
_poll = getattr(select, "poll", None)  # not on every system


def _unconfirmed_bytes(sock: Any) -> int:
    """Return the number of bytes that the system still holds because the peer has not confirmed them; 0 if it cannot say."""
    if sys.platform != "linux":
        return 0
    try:  # the same ioctl as SIOCOUTQ
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class _Pipe:
    """Wakes the reader. Its descriptors are closed with the last reference, so a late wake-up never reaches a reused descriptor."""

    __slots__ = ("_writer", "reader")

    def __init__(self) -> None:
        if _poll is None:  # pragma: no cover - Windows: its select() takes no pipes, see _wait_io
            return
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        """Make the reader check its state. Never waits."""
        try:
            os.write(self._writer, b"\0")
        except (BlockingIOError, AttributeError):
            pass  # full, so the reader will wake anyway; or there is no pipe

    def clear(self) -> None:
        """Drain the pipe."""
        try:
            os.read(self.reader, 4096)
        except BlockingIOError:
            pass

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        for name in ("reader", "_writer"):
            if hasattr(self, name):
                _close(getattr(self, name))


class Http2Connection:
    """A connected TLS socket, for which the server has chosen HTTP/2.

    Thread safety: you can call every method from any thread.

    Args:
        sock: The socket, which this object owns from now on.
        on_change: Called with the number of streams that ended, or with 0 if the connection itself changed. It must not
            wait: it may be called while the lock is held, or by a finalizer.
        idle_since: The present instant of the pool's clock.

    Attributes:
        idle_since: Instant of the pool's clock at which the last stream ended. The pool writes it.
        was_used: Whether the connection has served a request, so that it may have gone stale since.
        dead: Whether the connection and all of its streams have ended.
    """

    def __init__(self, sock: Any, on_change: Callable[[Http2Connection, int], None], idle_since: float = 0.0) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._on_change = on_change
        self.pid = os.getpid()
        self.idle_since = idle_since
        self.was_used = False
        self.dead = False
        self._was_interrupted = False  # an interrupt ended it, so we do not know how much the peer has read
        self._is_closing = False
        self._lock = Lock()
        self._frames = Frames()
        self._reader: Stream | None = None  # guarded by _lock, like all below except _deferred_changes
        #: Woken to become the reader, and not running yet. A thread that runs already may take its place, which is sooner.
        self._next_reader: Stream | None = None
        self._is_reading = False
        self._waiting_streams: dict[Stream, None] = {}  # in order of arrival; removing a stream means waking its thread
        #: Posted by threads that cannot wait for the lock: a method of _frames and its arguments. ``None``: look whether
        #: the connection can close.
        self._deferred_changes: deque[tuple[Callable[..., None] | None, tuple[Any, ...]]] = deque()
        self._pipe = _Pipe()
        self._send_blocked = False  # the socket accepts no more bytes for now
        self._read_count = 0  # counts the reads that returned bytes
        now = time.monotonic()
        self._received_at = self._pinged_at = self._flushed_at = now
        self._unsent_at_ping = (0, False)  # the last result of _unsent_state()
        if _poll is not None:
            self._poller = _poll()
            self._poller.register(self._pipe.reader, select.POLLIN)
            self._poller.register(sock, select.POLLIN)
        with self._lock:
            self._flush_outbox()

    def __repr__(self) -> str:
        state = "dead" if self.dead else "closing" if self._frames.draining or self._is_closing else "open"
        return f"<{type(self).__name__} {state}, {len(self._frames.streams)} streams>"

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self.dead or self._is_closing or self._frames.draining)

    @property
    def max_streams(self) -> int:
        """Most streams at once."""
        return self._frames.max_streams

    @property
    def open_streams(self) -> int:
        """Number of streams under way."""
        return len(self._frames.streams)

    @property
    def has_room(self) -> bool:
        """Whether a new stream may be opened now."""
        return self.usable and len(self._frames.streams) < self._frames.max_streams

    @property
    def settings_received(self) -> bool:
        """Whether the peer's settings have arrived."""
        return self._frames.settings_received

    @property
    def has_reader(self) -> bool:
        """Whether a thread reads the socket."""
        return self._reader is not None

    @property
    def in_use(self) -> bool:
        """Whether a thread uses the connection. In a signal handler, that may be the call that it interrupted."""
        return bool(self._reader or self._next_reader or self._waiting_streams) or self._lock.locked()

    def read_pending(self) -> None:
        """Read the bytes that have arrived, unless another thread is the reader."""
        with self._lock:
            if self._reader is None and self.usable and wait_until(self._sock, 0):
                self._read_and_send()
        self._settle_deferred()

    # --- requests ----------------------------------------------------------------------------------------------------------

    def open(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None, scope: CancelScope) -> None:
        """Send a request, as far as the socket and the peer accept it now.

        The request has begun once its stream has a number.

        Raises:
            NoRoomError: The connection accepts no new streams; nothing was sent.
            RequestCancelledError: The call is cancelled already.
        """
        scope.bind(stream)
        try:
            with self._lock:
                if self._reader is None and self.usable:
                    self._read_before_request()
                if not self.has_room:
                    raise NoRoomError("the connection accepts no new requests")
                if stream.ended:
                    raise stream.failure()  # cancelled just now
                stream.on_used_connection = self.was_used
                stream.reads_before = self._read_count
                try:
                    self._frames.open_stream(stream, fields, body, time.monotonic())
                except NoRoomError:
                    raise
                except BaseException:
                    self._end_interrupted()
                    raise
                self._flush_outbox()
                if scope.sent is False:
                    scope.sent = None
        finally:
            self._settle_deferred()

    def _read_before_request(self) -> None:
        """Read all that has arrived while no thread was reading: the peer may have announced its end."""
        for _ in range(_MAX_READS):
            if not (self.usable and wait_until(self._sock, 0)):
                break
            self._read_and_send()
        if not self._frames.streams:
            self._received_at = time.monotonic()

    def await_head(self, stream: Stream, scope: CancelScope) -> list[tuple[bytes, bytes]]:
        """Wait for the head of the response.

        Raises:
            TimeoutError: A limit of the call has passed.
            OSError: The stream or the connection has ended.
        """
        while True:
            ended = stream.ended  # read first: what arrived before the end is there by now
            if stream.head is not None:
                break
            if stream.sent and not stream.sent_noted:
                stream.sent_noted = True
                scope.request_sent()
            if ended:
                raise stream.failure()
            if stream.sent_noted:
                if not self.wait(stream, scope.seconds_left(scope.deadline)):
                    raise TimeoutError("timed out")
                continue
            # A peer that accepts no part of the request for as long as the limit for its response is dead.
            progress = self._send_progress(stream)
            remaining = scope.seconds_left(scope.total_deadline)
            if scope.after_send is not None:
                patience = max(0.0, progress + scope.after_send - time.monotonic())
                remaining = patience if remaining is None else min(remaining, patience)
            if not self.wait(stream, remaining) and progress == self._send_progress(stream):
                raise TimeoutError("timed out")
        stream.head_noted = True
        scope.received = True
        if not stream.sent_noted:
            stream.sent_noted = True
            if stream.sent:
                scope.request_sent()
            else:  # the response came early; its limit runs although a part of the request is unsent
                scope.deadline = scope.deadline_after(scope.after_send)
        return stream.head

    def _send_progress(self, stream: Stream) -> float:
        """Return the last instant at which a part of the request left, as far as its frames or the socket show it."""
        return stream.progress_at if stream.unsent is not None else max(stream.progress_at, self._flushed_at)

    def went_stale(self, stream: Stream) -> bool:
        """Say whether the connection had probably ended before the peer saw the request."""
        return (
            self.dead
            and not self._was_interrupted
            and stream.on_used_connection
            and stream.reads_before == self._read_count
        )

    def acknowledge(self, stream: Stream, count: int) -> None:
        """Record that *count* bytes of a body were read, so that the peer may send as many again."""
        stream.unacknowledged += count
        if stream.unacknowledged < STREAM_WINDOW // 2 or stream.ended:
            return
        count, stream.unacknowledged = stream.unacknowledged, 0
        self._deferred_changes.append((self._frames.acknowledge, (stream, count)))
        self._settle_deferred()

    def drop(self, stream: Stream, *, cancelled: bool = False) -> None:
        """End a stream. Idempotent; never waits, so finalizers and signal handlers can call it."""
        end_stream = self._frames.cancel_stream if cancelled else self._frames.drop_stream
        self._deferred_changes.append((end_stream, (stream,)))
        self._settle_deferred()

    def close(self) -> None:
        """Accept no new streams, and close when the last stream has ended, which may be now. Never waits."""
        self._is_closing = True
        self._deferred_changes.append((None, ()))
        self._settle_deferred()

    # --- waiting -----------------------------------------------------------------------------------------------------------

    def wait(self, stream: Stream, timeout: float | None) -> bool:
        """Wait up to *timeout* seconds until a stream has news; say whether it has.

        This takes real time whatever the clock of the provider, as do the waits of the system over HTTP/1.1.

        Raises:
            ConnectionAbortedError: This is a signal handler, and only the call that it interrupted could end the wait.
        """
        if self.in_use and not stream.has_news() and in_signal_handler(HTTP2_MODULES):
            raise ConnectionAbortedError("this signal handler cannot wait for the call that it interrupted")
        wait_deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not stream.has_news():
                with self._lock:
                    if self._next_reader is stream:
                        self._next_reader = None
                    if self.dead:
                        return stream.has_news()
                    if self._reader is None:
                        self._reader = stream
                    else:
                        self._waiting_streams[stream] = None
                    if stream.has_news():  # news that came before this thread could be woken
                        return True
                if self._deferred_changes:
                    self._settle_deferred()
                in_time = (
                    self._read_for_all(stream, wait_deadline)
                    if self._reader is stream
                    else self._await_wakeup(stream, wait_deadline)
                )
                if not in_time:
                    return stream.has_news()
            return True
        finally:
            try:
                self._stop_waiting(stream)
            except BaseException:  # an interrupt in the line above; to do it twice is harmless
                self._stop_waiting(stream)
                raise

    def _stop_waiting(self, stream: Stream) -> None:
        """Stop waiting. If this thread was the reader, hand that over: the others depend on a reader."""
        if self._reader is stream or self._next_reader is stream or stream in self._waiting_streams:
            with self._lock:
                self._waiting_streams.pop(stream, None)
                if self._reader is stream:
                    self._reader = None
                if self._next_reader is stream:
                    self._next_reader = None
                if self._reader is None and self._next_reader is None and self._waiting_streams:
                    self._wake(next(iter(self._waiting_streams)), as_reader=True)
        self._settle_deferred()  # while we held the lock, others may have posted changes

    def _wake(self, stream: Stream, *, as_reader: bool = False) -> None:
        """Wake a waiting thread, possibly as the next reader. The caller must hold the lock.

        It calls no Python function, as an interrupt could strike at its beginning: a thread that is not in
        _waiting_streams must have been woken.
        """
        if as_reader:
            self._next_reader = stream  # first, so that the stream is always in one of the two
        del self._waiting_streams[stream]
        try:
            stream.wake_lock.release()
        except RuntimeError:
            pass  # awake already

    def _await_wakeup(self, stream: Stream, wait_deadline: float | None) -> bool:
        """Wait to be woken, by news or as the next reader; say whether that happened in time."""
        while stream in self._waiting_streams:  # the thread that wakes us removes it
            remaining = -1 if wait_deadline is None else wait_deadline - time.monotonic()
            if wait_deadline is not None and remaining <= 0:
                return False
            stream.wake_lock.acquire(timeout=min(remaining, TIMEOUT_MAX))
        return True

    def _read_for_all(self, stream: Stream, wait_deadline: float | None) -> bool:
        """Read for all threads until *stream* has news; say whether that happened in time."""
        while True:
            now = time.monotonic()
            silent_at = self._silence_deadline()
            end = silent_at if wait_deadline is None else min(wait_deadline, silent_at)
            readable = self._wait_io(max(0.0, end - now))
            with self._lock:
                if not self.dead:
                    if readable:
                        self._read_and_send()
                    elif time.monotonic() >= max(silent_at, self._silence_deadline()):
                        self._handle_silence()
                if self._send_blocked and not self.dead:
                    self._flush_outbox()
            if self._deferred_changes:
                self._settle_deferred()
            if stream.has_news() or self.dead:
                return True
            # Checked after the read, which may have brought nothing for us.
            if wait_deadline is not None and wait_deadline <= time.monotonic():
                return False

    def _wait_io(self, timeout: float) -> bool:
        """Wait for the socket and for a wake-up by another thread; say whether the socket can be read."""
        if _poll is None:  # pragma: no cover - Windows
            ready, _, _ = select.select(
                [self._sock], [self._sock] if self._send_blocked else [], [], min(timeout, 0.05)
            )
            return bool(ready)
        sock = self._sock
        self._poller.modify(sock, select.POLLIN | select.POLLOUT if self._send_blocked else select.POLLIN)
        readable = False
        for descriptor, events in self._poller.poll(timeout * 1000):
            if descriptor == self._pipe.reader:
                self._pipe.clear()
            elif events & ~select.POLLOUT:
                readable = True
        return readable

    # --- with the lock held ------------------------------------------------------------------------------------------------

    def _read_and_send(self) -> None:
        """Read the bytes that have arrived, and send the replies to them."""
        self._is_reading = True
        try:
            self._read_socket()
        except (FrameError, GoneError) as error:
            self._send_last_bytes()  # this sends h2's GOAWAY
            self._end_connection(type(error), error.args)
        except BaseException:
            self._end_interrupted()
            raise
        finally:
            self._is_reading = False

    def _read_socket(self) -> None:
        frames, sock = self._frames, self._sock
        now = time.monotonic()
        try:
            while True:
                data = sock.recv(_READ_SIZE)
                if not data:
                    self._end_connection(*CLOSED)
                    return
                self._read_count += 1
                self._received_at = now
                draining, settings_received, max_streams = frames.draining, frames.settings_received, frames.max_streams
                frames.receive(data, now)
                if frames.draining and not draining and frames.streams and frames.ping_answered:
                    self._send_ping(now)  # some peers are gone already when they announce that they will close
                if (draining, settings_received, max_streams) != (
                    frames.draining,
                    frames.settings_received,
                    frames.max_streams,
                ):
                    self._on_change(self, 0)
                if not sock.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError as error:
            self._end_connection(*as_closed(error))
            return
        self._flush_outbox()

    def _flush_outbox(self) -> None:
        """Send as much as the socket accepts, and wake the threads that have news."""
        try:
            self._send_outbox()
            self._notify_waiters()
        except BaseException:
            self._end_interrupted()
            raise

    def _send_outbox(self) -> None:
        frames = self._frames
        outbox = frames.outbox
        try:
            while outbox:
                count = self._sock.send(outbox)
                del outbox[:count]
                frames.record_flushed(count)
                if self._send_blocked:
                    self._flushed_at = time.monotonic()
                if not outbox:
                    frames.frame_bodies(time.monotonic())
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            if not self._send_blocked:
                self._send_blocked = True
                self._flushed_at = time.monotonic()
                self._wake_reader()
        except OSError as error:
            # Frames that the peer sent before it closed may say whether it processed the request.
            self._send_blocked = False
            self._read_last_bytes()
            self._end_connection(*as_closed(error))
        else:
            self._send_blocked = False

    def _read_last_bytes(self) -> None:
        """Process the bytes that a peer sent before it closed."""
        try:
            while data := self._sock.recv(_READ_SIZE):
                self._read_count += 1
                self._frames.receive(data, time.monotonic())
        except (OSError, FrameError):  # GoneError is an OSError
            pass

    def _send_last_bytes(self) -> None:
        """Send the last frames, such as GOAWAY, if the socket accepts them now. Process no input and no bodies."""
        frames = self._frames
        try:
            if frames.outbox:
                frames.record_flushed(self._sock.send(frames.outbox))
        except OSError:
            pass

    def _notify_waiters(self) -> None:
        """Wake the threads that wait for a stream with news, and report free streams to the pool."""
        frames = self._frames
        changed = frames.changed_streams
        if changed:
            frames.changed_streams = []
            for stream in changed:
                if stream in self._waiting_streams:
                    self._wake(stream)
                elif stream is self._reader:
                    self._wake_reader()
        if frames.closed_streams:
            count, frames.closed_streams = frames.closed_streams, 0
            self.was_used = True
            self._on_change(self, count)
        if (frames.draining or self._is_closing) and not frames.streams and not self.dead:
            if self._is_closing:
                frames.send_goaway()
                self._send_last_bytes()
            self._end_connection(*CLOSED)

    def _wake_reader(self) -> None:
        """Make the reader check its state, unless this thread is the reader."""
        if self._reader is not None and not self._is_reading:
            self._pipe.wake()

    def _silence_deadline(self) -> float:
        """Return the instant from which the silence of the peer is too long."""
        if self._frames.ping_answered:
            return self._received_at + PING_AFTER
        return max(self._pinged_at, self._received_at) + PING_PATIENCE

    def _handle_silence(self) -> None:
        """Send a ping after a silence that is too long; if that is not answered, end the connection.

        Progress counts only if bytes were waiting to leave: the system accepts small requests for a peer that hangs.
        """
        now = time.monotonic()
        if self._frames.ping_answered:
            self._send_ping(now)
            self._flush_outbox()
            return
        (left_before, was_waiting), self._unsent_at_ping = self._unsent_at_ping, self._unsent_state()
        if was_waiting and self._unsent_at_ping[0] > left_before:
            self._pinged_at = now  # the ping may not have left yet
        else:
            _log.debug("an HTTP/2 connection does not answer a ping: ending its %d streams", len(self._frames.streams))
            self._end_connection(ConnectionResetError, ("the connection is dead: the server does not answer a ping",))

    def _send_ping(self, now: float) -> None:
        """Send a ping. Any byte from the peer counts as its answer."""
        self._pinged_at = now
        self._unsent_at_ping = self._unsent_state()
        self._frames.send_ping()

    def _unsent_state(self) -> tuple[int, bool]:
        """Return how many of our bytes the peer has confirmed, as far as the system can say, and whether others are still unsent."""
        unconfirmed = _unconfirmed_bytes(self._sock)
        return self._frames.flushed_bytes - unconfirmed, unconfirmed > 0 or bool(self._frames.outbox)

    def _end_connection(self, error_class: Callable[..., Exception], arguments: tuple[Any, ...]) -> None:
        """End the connection and all of its streams. To do it twice is harmless."""
        self.dead = True
        self._frames.fail_all(error_class, arguments, _TLS_RECORD if self._send_blocked else 0)
        while self._waiting_streams:
            self._wake(next(iter(self._waiting_streams)))
        self._notify_waiters()
        self._wake_reader()
        self._on_change(self, 0)

    def _end_interrupted(self) -> None:
        """End the connection after an interrupt that left its state undefined."""
        self._was_interrupted = self._was_interrupted or not self.dead
        self._end_connection(ConnectionAbortedError, ("interrupted",))

    # --- afterwards --------------------------------------------------------------------------------------------------------

    def _settle_deferred(self) -> None:
        """Apply the posted changes, and close the socket of a dead connection.

        If another thread holds the lock, leave it to that thread.
        """
        if not self._deferred_changes and (not self.dead or self._sock is None):
            return
        for _ in lock_attempts(self._lock):
            try:
                self._apply_deferred()
            except BaseException:  # an interrupt; to do it twice is harmless
                self._apply_deferred()
                raise
            finally:
                self._lock.release()
            if self.dead or not self._deferred_changes:
                return

    def _apply_deferred(self) -> None:
        while self._deferred_changes:
            change, arguments = self._deferred_changes[0]
            if change is not None:
                change(*arguments)
            if not self.dead:
                self._flush_outbox()
            self._deferred_changes.popleft()  # last, so that an interrupt loses none
        if self.dead and self._reader is None and self._sock is not None:
            sock, self._sock = self._sock, None
            sock.close()
        elif self.dead:
            self._wake_reader()

    def _after_fork_in_child(self) -> None:
        """Drop the parent's connection, without sending anything and without taking a lock."""
        self._lock = Lock()
        self._deferred_changes = deque()
        self._waiting_streams = {}
        self._reader = self._next_reader = None
        self.dead = True
        self._on_change = lambda *_: None
        self._frames.fail_all(ConnectionResetError, ("the connection belongs to the parent process",), 1 << 62)
        sock, self._sock = self._sock, None
        if sock is not None:
            try:
                os.close(sock.detach())
            except OSError:
                pass
