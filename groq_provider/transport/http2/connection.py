"""One connection of HTTP/2, shared by the threads whose streams are on it.

There is no thread of its own. Of the threads that wait for their streams one, the leader, reads the socket for all of them and hands
each what is theirs; when its own stream has something, or its time is up, it makes another one the leader. Each waiter owns its
wake-up: the leader waits on the socket and on a pipe, all others on a lock each.

What may be done to the connection from where:

- The lock guards the TLS object, the protocol's state and the books of who waits. It is held for short computations and for sends
  and reads that do not wait.
- A canceller or a finalizer may run inside the lock, as a signal handler or the collector does. It leaves its stream on a list;
  whoever holds the lock looks there again after letting go. So neither waits for anything, and neither touches a socket that may be
  somebody else's by now.
- What the socket does not take at once is sent by whoever leads; nobody waits for it with the lock held.
- A signal handler may find the lock held, or the connection has_reader, by the call that it interrupted. Its own calls go elsewhere
  (:meth:`Http2Pool._aside`); it cannot wait for a stream that is here.

Ctrl-C, which strikes the main thread wherever it is, may strike it while it takes in frames or makes some. What it tears then is shared,
so that the connection ends, and the streams of other threads on it with an error that is worth another try.
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

#: After so many seconds without a byte, while somebody waits for one, the peer is asked for a sign of life, and has so many to give it.
#: The question stands behind all that was to be sent before. As long as some of that leaves every PING_PATIENCE seconds, the answer is
#: waited for; when nothing leaves any more, the connection ends after PING_PATIENCE at least and twice that at most.
PING_AFTER, PING_PATIENCE = 5.0, 3.0
_READ_SIZE = 16_384
#: How often a new request looks at what came before it; a peer that sends more is not silent.
_MAX_READS = 64
#: What may have left although the system has not said so: TLS sends whole records.
_TLS_RECORD = 16_384 + 512
#: What the modules are called that share the lock of a connection or a pool.
HTTP2_MODULES = f"{__package__}."

_log = logging.getLogger(__name__)
_poll = getattr(select, "poll", None)  # not on every system


def _unconfirmed_bytes(sock: Any) -> int:
    """Return how many bytes the system still holds, for the peer's has not confirmed them; 0 where it does not say so."""
    if sys.platform != "linux":
        return 0
    try:  # SIOCOUTQ by its other name
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class _Pipe:
    """Wakes the leader. Closed when nobody has it any more, so that a late wake-up never reaches a number that is another file's by then."""

    __slots__ = ("_writer", "reader")

    def __init__(self) -> None:
        if _poll is None:  # pragma: no cover - Windows, whose select() takes no pipes: see _wait_io
            return
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        """Have the leader read_pending around. Waits for nothing."""
        try:
            os.write(self._writer, b"\0")
        except (BlockingIOError, AttributeError):
            pass  # full, or none: it will read_pending

    def clear(self) -> None:
        """Take out what is in it."""
        try:
            os.read(self.reader, 4096)
        except BlockingIOError:
            pass

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        for number in (getattr(self, "reader", None), getattr(self, "_writer", None)):
            if number is not None:
                _close(number)


class Http2Connection:
    """A connected TLS socket whose peer has chosen HTTP/2.

    Thread safety: every method may be called from any thread.

    Args:
        sock: The socket; this object's from now on.
        on_change: Called when streams have ended, with their number, and when the connection itself has changed, with 0. It may be
            called with the lock held, or by a finalizer, and must wait for nothing.

    Attributes:
        reserved: Streams promised to callers; the pool's, guarded by its lock.
        idle_since: Instant of the pool's clock from which no stream was promised; the pool's.
        was_used: Whether it has been of use before, so that it may have gone went_stale.
        dead: Whether it is of no use any more, not even for its streams.
    """

    def __init__(self, sock: Any, on_change: Callable[[Http2Connection, int], None]) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._on_change = on_change
        self.pid = os.getpid()
        self.reserved = 0
        self.idle_since = 0.0
        self.was_used = False
        self.dead = False
        self._interrupted = False  # whether an interrupt was its end: that says nothing of what the peer has seen
        self._is_closing = False
        self._lock = Lock()
        self._frames = Frames()
        self._reader: Stream | None = None  # guarded by _lock, like all below but _deferred
        self._is_reading = False
        self._waiting: dict[Stream, None] = {}  # in the order of their coming; each is woken by whoever takes it out
        self._next_reader: Stream | None = None  # woken to lead, and not there yet
        #: For whoever holds the lock, from those who cannot wait for it: a stream given up, and whether by a cancel; or how much of it was reserved.
        self._deferred: deque[tuple[Stream | None, bool, int]] = deque()
        self._pipe = _Pipe()
        self._blocked = False  # whether the socket takes no more
        self._read_count = 0  # how often something came
        now = time.monotonic()
        self._received_at = self._pinged_at = self._flushed_at = now
        self._unsent_at_ping = (0, False)  # what _unsent_state() said last
        if _poll is not None:
            self._poller = _poll()
            self._poller.register(self._pipe.reader, select.POLLIN)
            self._poller.register(sock, select.POLLIN)
        with self._lock:
            self._flush()

    def __repr__(self) -> str:
        state = "dead" if self.dead else "leaving" if self._frames.draining or self._is_closing else "open"
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
    def settings_received(self) -> bool:
        """Whether the peer's settings have arrived."""
        return self._frames.settings_received

    @property
    def has_reader(self) -> bool:
        """Whether somebody reads what comes."""
        return self._reader is not None

    @property
    def in_use(self) -> bool:
        """Whether somebody is here, who may be the call that a signal handler has interrupted."""
        return self._reader is not None or self._next_reader is not None or bool(self._waiting) or self._lock.locked()

    def await_settings(self, scope: CancelScope) -> None:
        """Wait until the peer's settings have arrived; without them nobody knows how many streams it allows."""
        stream = Stream(self)
        with self._lock:
            self._frames.await_settings(stream)
        self._settle_deferred()
        self.wait(stream, scope.seconds_left(scope.total_deadline))

    def placeholder_stream(self) -> Stream:
        """Return a stream that is none of the peer's: whoever waits for it reads for the others, and is woken by :meth:`drop`.

        For those who wait for a place: nobody else may be reading what the peer says of them. The end of the connection ends the wait.
        """
        return Stream(self)

    def read_pending(self) -> None:
        """Read what has come, unless somebody else is there to do so."""
        with self._lock:
            if self._reader is None and self.usable and self._readable():
                self._read_and_send()
        self._settle_deferred()

    # --- requests ----------------------------------------------------------------------------------------------------------

    def open(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None, scope: CancelScope) -> None:
        """Send a request, as far as the socket and the peer take it now. It has begun when its stream has a number.

        Raises:
            NoRoomError: Nothing was sent: the connection takes no new streams.
            RequestCancelledError: The call was cancelled before.
        """
        scope.bind(stream)
        try:
            with self._lock:
                if self._reader is None and self.usable:
                    # Nobody was reading: it may have ended, or said that it will, after much else.
                    for _ in range(_MAX_READS):
                        if not (self.usable and self._readable()):
                            break
                        self._read_and_send()
                    if not self._frames.streams:
                        self._received_at = time.monotonic()
                if not self.usable:
                    raise NoRoomError("the connection takes no new requests")
                if stream.ended:
                    raise stream.failure()  # cancelled, just now
                self._send_request(stream, fields, body)
                if scope.sent is False:
                    scope.sent = None
        finally:
            self._settle_deferred()

    def _send_request(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None) -> None:
        stream.on_used_connection = self.was_used
        stream.reads_before = self._read_count
        try:
            self._frames.open_stream(stream, fields, body, time.monotonic())
        except NoRoomError:
            raise
        except BaseException:
            self._mark_interrupted()
            raise
        self._flush()

    def await_head(self, stream: Stream, scope: CancelScope) -> list[tuple[bytes, bytes]]:
        """Wait for the head of the answer.

        Raises:
            TimeoutError: A limit of the call's has passed.
            OSError: The stream or the connection has ended.
        """
        while True:
            ended = stream.ended  # first: whatever came before the end is there by now
            if stream.head is not None:
                break
            if stream.sent and not stream.sent_noted:
                stream.sent_noted = True
                scope.request_sent()
            if ended:
                raise stream.failure()
            if stream.sent_noted:
                remaining = scope.seconds_left(scope.deadline)
                progress = None
            else:
                remaining, progress = self._send_patience(stream, scope), self._send_progress(stream)
            if not self.wait(stream, remaining) and progress == (
                None if stream.sent_noted else self._send_progress(stream)
            ):
                raise TimeoutError("timed out")
        stream.head_noted = True
        scope.received = True
        if not stream.sent_noted:
            stream.sent_noted = True
            if stream.sent:
                scope.request_sent()
            else:  # answered early; whatever is still to be sent, the answer has its limit
                scope.deadline = scope.earlier(scope.after_send)
        return stream.head

    def _send_progress(self, stream: Stream) -> float:
        """Return the instant at which some of the request had left last, as far as its own pace or the socket's shows."""
        return stream.progress_at if stream.unsent is not None else max(stream.progress_at, self._flushed_at)

    def _send_patience(self, stream: Stream, scope: CancelScope) -> float | None:
        """Return the seconds in which some more of the request must leave: a peer that takes nothing for so long is dead."""
        remaining = scope.seconds_left(scope.total_deadline)
        if scope.after_send is None:
            return remaining
        patience = max(0.0, self._send_progress(stream) + scope.after_send - time.monotonic())
        return patience if remaining is None else min(remaining, patience)

    def went_stale(self, stream: Stream) -> bool:
        """Say whether the connection had ended, for all that is known, before the peer saw the request."""
        return (
            self.dead
            and not self._interrupted
            and stream.on_used_connection
            and stream.reads_before == self._read_count
        )

    def acknowledge(self, stream: Stream, count: int) -> None:
        """Note that *count* bytes of a body were reserved: the peer may send as many again."""
        stream.unacknowledged += count
        if stream.unacknowledged < STREAM_WINDOW // 2 or stream.ended:
            return
        count, stream.unacknowledged = stream.unacknowledged, 0
        self._deferred.append((stream, False, count))
        self._settle_deferred()

    def drop(self, stream: Stream, *, cancelled: bool = False) -> None:
        """Have a stream ended. Waits for nothing, so that finalizers and signal handlers may call it; idempotent."""
        self._deferred.append((stream, cancelled, 0))
        self._settle_deferred()

    def close(self) -> None:
        """Take no new streams; close when the last one has ended, which may be now. Waits for nothing, as above."""
        self._is_closing = True
        self._deferred.append((None, False, 0))
        self._settle_deferred()

    # --- waiting -----------------------------------------------------------------------------------------------------------

    def wait(self, stream: Stream, timeout: float | None) -> bool:
        """Wait until a stream has news, *left* seconds at most; say whether it has.

        In real time whatever the clock, as over HTTP/1.1 the system waits.

        Raises:
            ConnectionAbortedError: A signal handler would wait for the call that it interrupted.
        """
        if self.in_use and not stream.has_news() and in_signal_handler(HTTP2_MODULES):
            raise ConnectionAbortedError(
                "a signal handler cannot read what the call that it interrupted has to read first"
            )
        until = None if timeout is None else time.monotonic() + timeout
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
                        self._waiting[stream] = None
                    if stream.has_news():  # came while nobody was there to be woken
                        return True
                if self._deferred:
                    self._settle_deferred()
                in_time = (
                    self._read_for_all(stream, until) if self._reader is stream else self._await_wakeup(stream, until)
                )
                if not in_time:
                    return stream.has_news()
            return True
        finally:
            # Whatever ends the wait, an interrupt too: others count on a leader.
            try:
                self._stop_waiting(stream)
            except BaseException:  # one that comes just now; to leave twice does no harm
                self._stop_waiting(stream)
                raise

    def _stop_waiting(self, stream: Stream) -> None:
        """Wait no more; let another one lead if it was us, or was to be."""
        if self._reader is stream or self._next_reader is stream or stream in self._waiting:
            with self._lock:
                if self._reader is stream:
                    self._reader = None
                if self._next_reader is stream:
                    self._next_reader = None
                self._waiting.pop(stream, None)
                self._choose_reader()
        self._settle_deferred()  # we have held the lock: whoever found it held has left the rest to us

    def _choose_reader(self) -> None:
        """Choose a leader if there is none. With the lock held."""
        if self._reader is None and self._next_reader is None and self._waiting:
            self._wake(next(iter(self._waiting)), as_reader=True)

    def _wake(self, stream: Stream, *, as_reader: bool = False) -> None:
        """Wake one of those who wait, perhaps to lead. With the lock held.

        Without a call of Python's own code in it, at whose beginning an interrupt might come: who is not among those who wait is awake.
        """
        if as_reader:
            self._next_reader = stream  # first: it must always find itself in one of the two
        del self._waiting[stream]
        try:
            stream.wake_lock.release()
        except RuntimeError:
            pass  # awake already

    def _await_wakeup(self, stream: Stream, until: float | None) -> bool:
        """Wait to be woken, with news or as the new leader; say whether that happened in time."""
        while stream in self._waiting:  # reserved out by whoever wakes us
            remaining = -1 if until is None else until - time.monotonic()
            if until is not None and remaining <= 0:
                return False
            stream.wake_lock.acquire(timeout=min(remaining, TIMEOUT_MAX))
        return True

    def _read_for_all(self, stream: Stream, until: float | None) -> bool:
        """Read for all until there is something for *stream*; say whether that happened in time."""
        while True:
            now = time.monotonic()
            silent_at = self._silence_deadline()
            end = silent_at if until is None else min(until, silent_at)
            readable = self._wait_io(max(0.0, end - now))
            with self._lock:
                if not self.dead:
                    if readable:
                        self._read_and_send()
                    elif time.monotonic() >= max(silent_at, self._silence_deadline()):
                        self._handle_silence()
                if self._blocked and not self.dead:
                    self._flush()
            if self._deferred:
                self._settle_deferred()
            if stream.has_news() or self.dead:
                return True
            if (
                until is not None and until <= time.monotonic()
            ):  # after a read_pending at what has come: the rest may be nothing
                return False

    def _wait_io(self, timeout: float) -> bool:
        """Wait for the socket, and for a word from another thread; say whether there is something to read."""
        if _poll is None:  # pragma: no cover - Windows
            ready, _, _ = select.select([self._sock], [self._sock] if self._blocked else [], [], min(timeout, 0.05))
            return bool(ready)
        sock = self._sock
        self._poller.modify(sock, select.POLLIN | select.POLLOUT if self._blocked else select.POLLIN)
        readable = False
        for descriptor, events in self._poller.poll(timeout * 1000):
            if descriptor == self._pipe.reader:
                self._pipe.clear()
            elif events & ~select.POLLOUT:
                readable = True
        return readable

    # --- with the lock held ------------------------------------------------------------------------------------------------

    def _readable(self) -> bool:
        """Say whether there is something to read now."""
        if _poll is None:  # pragma: no cover - Windows
            return bool(select.select([self._sock], [], [], 0)[0])
        poller = _poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    def _read_and_send(self) -> None:
        """Read what has come, and send what there is to be said to it."""
        self._is_reading = True
        try:
            self._read()
        except (FrameError, GoneError) as error:
            self._send_last_bytes()  # h2's own word on it
            self._end(type(error), error.args)
        except BaseException:
            self._mark_interrupted()
            raise
        finally:
            self._is_reading = False

    def _read(self) -> None:
        frames, sock = self._frames, self._sock
        now = time.monotonic()
        try:
            while True:
                data = sock.recv(_READ_SIZE)
                if not data:
                    self._end(*CLOSED)
                    return
                self._read_count += 1
                self._received_at = now
                draining, settings_received, max_streams = frames.draining, frames.settings_received, frames.max_streams
                frames.receive(data, now)
                if frames.draining and not draining and frames.streams and frames.ping_answered:
                    self._send_ping(now)  # some that say that they leave are gone already
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
            self._end(*as_closed(error))
            return
        self._flush()

    def _flush(self) -> None:
        """Send as much as the socket takes, and tell whom it concerns."""
        try:
            self._send()
            self._notify_waiters()
        except BaseException:
            self._mark_interrupted()
            raise

    def _send(self) -> None:
        frames = self._frames
        out = frames.outbox
        try:
            while out:
                count = self._sock.send(out)
                del out[:count]
                frames.flushed(count)
                if self._blocked:
                    self._flushed_at = time.monotonic()
                if not out:
                    frames.pump(time.monotonic())
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            if not self._blocked:
                self._blocked = True
                self._flushed_at = time.monotonic()
                self._wake_reader()
        except OSError as error:
            # What the peer said before it closed may tell whether it acknowledge the request.
            self._blocked = False
            self._read_last_bytes()
            self._end(*as_closed(error))
        else:
            self._blocked = False

    def _read_last_bytes(self) -> None:
        """Take in what a peer that has closed had sent before."""
        try:
            while data := self._sock.recv(_READ_SIZE):
                self._read_count += 1
                self._frames.receive(data, time.monotonic())
        except (OSError, FrameError):  # GoneError among the former
            pass

    def _send_last_bytes(self) -> None:
        """Say what there is to be said at the end, if the socket takes it now. Whatever goes wrong: it is a courtesy.

        Not by :meth:`_flush`, which looks at what the peer says and puts bodies into frames; both are over.
        """
        frames = self._frames
        try:
            if frames.outbox:
                frames.flushed(self._sock.send(frames.outbox))
        except OSError:
            pass

    def _notify_waiters(self) -> None:
        """Wake those who have news, and report places that came free."""
        frames = self._frames
        changed = frames.changed_streams
        if changed:
            frames.changed_streams = []
            for stream in changed:
                if stream in self._waiting:
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
            self._end(*CLOSED)

    def _wake_reader(self) -> None:
        """Have the leader read_pending around, unless that is us."""
        if self._reader is not None and not self._is_reading:
            self._pipe.wake()

    def _silence_deadline(self) -> float:
        """Return the instant from which the peer has been silent for too long."""
        if self._frames.ping_answered:
            return self._received_at + PING_AFTER
        return max(self._pinged_at, self._received_at) + PING_PATIENCE

    def _handle_silence(self) -> None:
        """Nothing has come for long: ask, or give up, unless the question may not have left yet."""
        now = time.monotonic()
        if self._frames.ping_answered:
            self._send_ping(now)
            self._flush()
            return
        (left_before, was_waiting), self._unsent_at_ping = self._unsent_at_ping, self._unsent_state()
        # What was not waiting says nothing: a system takes small requests for a program that hangs.
        if was_waiting and self._unsent_at_ping[0] > left_before:
            self._pinged_at = now
        else:
            _log.debug("a connection of HTTP/2 does not answer: %d streams end", len(self._frames.streams))
            self._end(ConnectionResetError, ("the connection is dead: the server does not answer a ping",))

    def _send_ping(self, now: float) -> None:
        """Ask for a sign of life; whatever comes is one."""
        self._pinged_at = now
        self._unsent_at_ping = self._unsent_state()
        self._frames.ping()

    def _unsent_state(self) -> tuple[int, bool]:
        """Return how many of our bytes have left, as far as the system says so, and whether some have not."""
        unconfirmed = _unconfirmed_bytes(self._sock)
        return self._frames.flushed_bytes - unconfirmed, unconfirmed > 0 or bool(self._frames.outbox)

    def _end(self, error_class: Callable[..., Exception], arguments: tuple[Any, ...]) -> None:
        """End the connection and all of its streams."""
        if not self.dead:
            self.dead = True
            self._fail_streams(error_class, arguments)

    def _mark_interrupted(self) -> None:
        """End the connection after an interrupt in the middle of what nobody can finish; its end, too, may be what was interrupted."""
        self._interrupted = self._interrupted or not self.dead
        self.dead = True
        self._fail_streams(ConnectionAbortedError, ("interrupted",))

    def _fail_streams(self, error_class: Callable[..., Exception], arguments: tuple[Any, ...]) -> None:
        self._frames.fail_all(error_class, arguments, _TLS_RECORD if self._blocked else 0)
        while self._waiting:
            self._wake(next(iter(self._waiting)))
        self._notify_waiters()
        self._wake_reader()
        self._on_change(self, 0)

    # --- afterwards --------------------------------------------------------------------------------------------------------

    def _settle_deferred(self) -> None:
        """Work off what was left for whoever holds the lock, unless somebody holds it: that one will. Close what is dead."""
        if not self._deferred and (not self.dead or self._sock is None):
            return
        for _ in lock_attempts(self._lock):
            try:
                self._apply_deferred()
            except BaseException:  # an interrupt; twice does no harm
                self._apply_deferred()
                raise
            finally:
                self._lock.release()
            if self.dead or not self._deferred:
                return

    def _apply_deferred(self) -> None:
        while self._deferred:
            stream, is_cancel, count = self._deferred[0]
            if stream is not None and count:
                if not self.dead:
                    self._frames.acknowledge(stream, count)
            elif stream is not None and is_cancel:
                self._frames.cancel_stream(stream)
            elif stream is not None:
                self._frames.reset_stream(stream)
                stream.ended = True
            if not self.dead:
                self._flush()
            self._deferred.popleft()  # last: whoever interrupts us, none is lost
        if self.dead and self._reader is None and self._sock is not None:
            sock, self._sock = self._sock, None
            sock.close()
        elif self.dead:
            self._wake_reader()

    def _after_fork_in_child(self) -> None:
        """Let go of what is the parent's, without a word on its socket and without a lock it may have held."""
        self._lock = Lock()
        self._deferred = deque()
        self._waiting = {}
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
