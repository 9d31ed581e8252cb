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
- A signal handler may find the lock held, or the connection led, by the call that it interrupted. Its own calls go elsewhere
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

__all__ = ["OURS", "PING_AFTER", "PING_PATIENCE", "Http2Connection"]

#: After so many seconds without a byte, while somebody waits for one, the peer is asked for a sign of life, and has so many to give it.
#: The question stands behind all that was to be sent before. As long as some of that leaves every PING_PATIENCE seconds, the answer is
#: waited for; when nothing leaves any more, the connection ends after PING_PATIENCE at least and twice that at most.
PING_AFTER, PING_PATIENCE = 5.0, 3.0
_READ = 16_384
#: How often a new request looks at what came before it; a peer that sends more is not silent.
_MAX_TURNS = 64
#: What may have left although the system has not said so: TLS sends whole records.
_RECORD = 16_384 + 512
#: What the modules are called that share the lock of a connection or a pool.
OURS = f"{__package__}."

_log = logging.getLogger(__name__)
_poll = getattr(select, "poll", None)  # not on every system


def _unconfirmed(sock: Any) -> int:
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
        """Have the leader look around. Waits for nothing."""
        try:
            os.write(self._writer, b"\0")
        except (BlockingIOError, AttributeError):
            pass  # full, or none: it will look

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
        on_room: Called when streams have ended, with their number, and when the connection itself has changed, with 0. It may be
            called with the lock held, or by a finalizer, and must wait for nothing.

    Attributes:
        taken: Streams promised to callers; the pool's, guarded by its lock.
        idle_since: Instant of the pool's clock from which no stream was promised; the pool's.
        served: Whether it has been of use before, so that it may have gone stale.
        dead: Whether it is of no use any more, not even for its streams.
    """

    def __init__(self, sock: Any, on_room: Callable[[Http2Connection, int], None]) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._on_room = on_room
        self.pid = os.getpid()
        self.taken = 0
        self.idle_since = 0.0
        self.served = False
        self.dead = False
        self._torn = False  # whether an interrupt was its end: that says nothing of what the peer has seen
        self._closing = False
        self._lock = Lock()
        self._frames = Frames()
        self._leader: Stream | None = None  # guarded by _lock, like all below but _left
        self._turning = False
        self._waiting: dict[Stream, None] = {}  # in the order of their coming; each is woken by whoever takes it out
        self._chosen: Stream | None = None  # woken to lead, and not there yet
        #: For whoever holds the lock, from those who cannot wait for it: a stream given up, and whether by a cancel; or how much of it was taken.
        self._left: deque[tuple[Stream | None, bool, int]] = deque()
        self._pipe = _Pipe()
        self._blocked = False  # whether the socket takes no more
        self._received = 0  # how often something came
        now = time.monotonic()
        self._heard_at = self._asked_at = self._flushed_at = now
        self._looked = (0, False)  # what _leaving() said last
        if _poll is not None:
            self._poller = _poll()
            self._poller.register(self._pipe.reader, select.POLLIN)
            self._poller.register(sock, select.POLLIN)
        with self._lock:
            self._flush()

    def __repr__(self) -> str:
        state = "dead" if self.dead else "leaving" if self._frames.draining or self._closing else "open"
        return f"<{type(self).__name__} {state}, {len(self._frames.streams)} streams>"

    @property
    def usable(self) -> bool:
        """Whether new streams may be opened."""
        return not (self.dead or self._closing or self._frames.draining)

    @property
    def limit(self) -> int:
        """Most streams at once."""
        return self._frames.limit

    @property
    def settled(self) -> bool:
        """Whether the peer's settings have arrived."""
        return self._frames.settled

    @property
    def led(self) -> bool:
        """Whether somebody reads what comes."""
        return self._leader is not None

    @property
    def engaged(self) -> bool:
        """Whether somebody is here, who may be the call that a signal handler has interrupted."""
        return self._leader is not None or self._chosen is not None or bool(self._waiting) or self._lock.locked()

    def greet(self, scope: CancelScope) -> None:
        """Wait until the peer's settings have arrived; without them nobody knows how many streams it allows."""
        stream = Stream(self)
        with self._lock:
            self._frames.greet(stream)
        self._after()
        self.wait(stream, scope.left(scope.total_deadline))

    def watch(self) -> Stream:
        """Return a stream that is none of the peer's: whoever waits for it reads for the others, and is woken by :meth:`drop`.

        For those who wait for a place: nobody else may be reading what the peer says of them. The end of the connection ends the wait.
        """
        return Stream(self)

    def look(self) -> None:
        """Read what has come, unless somebody else is there to do so."""
        with self._lock:
            if self._leader is None and self.usable and self._readable():
                self._turn()
        self._after()

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
                if self._leader is None and self.usable:
                    # Nobody was reading: it may have ended, or said that it will, after much else.
                    for _ in range(_MAX_TURNS):
                        if not (self.usable and self._readable()):
                            break
                        self._turn()
                    if not self._frames.streams:
                        self._heard_at = time.monotonic()
                if not self.usable:
                    raise NoRoomError("the connection takes no new requests")
                if stream.ended:
                    raise stream.failure()  # cancelled, just now
                self._begin(stream, fields, body)
                if scope.sent is False:
                    scope.sent = None
        finally:
            self._after()

    def _begin(self, stream: Stream, fields: list[HeaderTuple], body: bytes | None) -> None:
        stream.reused = self.served
        stream.heard = self._received
        try:
            self._frames.open(stream, fields, body, time.monotonic())
        except NoRoomError:
            raise
        except BaseException:
            self._tear()
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
                left = scope.left(scope.deadline)
                progress = None
            else:
                left, progress = self._patience(stream, scope), self._progress(stream)
            if not self.wait(stream, left) and progress == (None if stream.sent_noted else self._progress(stream)):
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

    def _progress(self, stream: Stream) -> float:
        """Return the instant at which some of the request had left last, as far as its own pace or the socket's shows."""
        return stream.progress_at if stream.unsent is not None else max(stream.progress_at, self._flushed_at)

    def _patience(self, stream: Stream, scope: CancelScope) -> float | None:
        """Return the seconds in which some more of the request must leave: a peer that takes nothing for so long is dead."""
        left = scope.left(scope.total_deadline)
        if scope.after_send is None:
            return left
        patience = max(0.0, self._progress(stream) + scope.after_send - time.monotonic())
        return patience if left is None else min(left, patience)

    def stale(self, stream: Stream) -> bool:
        """Say whether the connection had ended, for all that is known, before the peer saw the request."""
        return self.dead and not self._torn and stream.reused and stream.heard == self._received

    def took(self, stream: Stream, count: int) -> None:
        """Note that *count* bytes of a body were taken: the peer may send as many again."""
        stream.taken += count
        if stream.taken < STREAM_WINDOW // 2 or stream.ended:
            return
        count, stream.taken = stream.taken, 0
        self._left.append((stream, False, count))
        self._after()

    def drop(self, stream: Stream, *, cancelled: bool = False) -> None:
        """Have a stream ended. Waits for nothing, so that finalizers and signal handlers may call it; idempotent."""
        self._left.append((stream, cancelled, 0))
        self._after()

    def close(self) -> None:
        """Take no new streams; close when the last one has ended, which may be now. Waits for nothing, as above."""
        self._closing = True
        self._left.append((None, False, 0))
        self._after()

    # --- waiting -----------------------------------------------------------------------------------------------------------

    def wait(self, stream: Stream, left: float | None) -> bool:
        """Wait until a stream has news, *left* seconds at most; say whether it has.

        In real time whatever the clock, as over HTTP/1.1 the system waits.

        Raises:
            ConnectionAbortedError: A signal handler would wait for the call that it interrupted.
        """
        if self.engaged and not stream.news() and in_signal_handler(OURS):
            raise ConnectionAbortedError(
                "a signal handler cannot read what the call that it interrupted has to read first"
            )
        until = None if left is None else time.monotonic() + left
        try:
            while not stream.news():
                with self._lock:
                    if self._chosen is stream:
                        self._chosen = None
                    if self.dead:
                        return stream.news()
                    if self._leader is None:
                        self._leader = stream
                    else:
                        self._waiting[stream] = None
                    if stream.news():  # came while nobody was there to be woken
                        return True
                if self._left:
                    self._after()
                in_time = self._lead(stream, until) if self._leader is stream else self._follow(stream, until)
                if not in_time:
                    return stream.news()
            return True
        finally:
            # Whatever ends the wait, an interrupt too: others count on a leader.
            try:
                self._leave(stream)
            except BaseException:  # one that comes just now; to leave twice does no harm
                self._leave(stream)
                raise

    def _leave(self, stream: Stream) -> None:
        """Wait no more; let another one lead if it was us, or was to be."""
        if self._leader is stream or self._chosen is stream or stream in self._waiting:
            with self._lock:
                if self._leader is stream:
                    self._leader = None
                if self._chosen is stream:
                    self._chosen = None
                self._waiting.pop(stream, None)
                self._pass_on()
        self._after()  # we have held the lock: whoever found it held has left the rest to us

    def _pass_on(self) -> None:
        """Choose a leader if there is none. With the lock held."""
        if self._leader is None and self._chosen is None and self._waiting:
            self._rouse(next(iter(self._waiting)), lead=True)

    def _rouse(self, stream: Stream, *, lead: bool = False) -> None:
        """Wake one of those who wait, perhaps to lead. With the lock held.

        Without a call of Python's own code in it, at whose beginning an interrupt might come: who is not among those who wait is awake.
        """
        if lead:
            self._chosen = stream  # first: it must always find itself in one of the two
        del self._waiting[stream]
        try:
            stream.wake.release()
        except RuntimeError:
            pass  # awake already

    def _follow(self, stream: Stream, until: float | None) -> bool:
        """Wait to be woken, with news or as the new leader; say whether that happened in time."""
        while stream in self._waiting:  # taken out by whoever wakes us
            left = -1 if until is None else until - time.monotonic()
            if until is not None and left <= 0:
                return False
            stream.wake.acquire(timeout=min(left, TIMEOUT_MAX))
        return True

    def _lead(self, stream: Stream, until: float | None) -> bool:
        """Read for all until there is something for *stream*; say whether that happened in time."""
        while True:
            now = time.monotonic()
            silent_at = self._silent_at()
            end = silent_at if until is None else min(until, silent_at)
            readable = self._wait_io(max(0.0, end - now))
            with self._lock:
                if not self.dead:
                    if readable:
                        self._turn()
                    elif time.monotonic() >= max(silent_at, self._silent_at()):
                        self._silence()
                if self._blocked and not self.dead:
                    self._flush()
            if self._left:
                self._after()
            if stream.news() or self.dead:
                return True
            if (
                until is not None and until <= time.monotonic()
            ):  # after a look at what has come: the rest may be nothing
                return False

    def _wait_io(self, timeout: float) -> bool:
        """Wait for the socket, and for a word from another thread; say whether there is something to read."""
        if _poll is None:  # pragma: no cover - Windows
            found, _, _ = select.select([self._sock], [self._sock] if self._blocked else [], [], min(timeout, 0.05))
            return bool(found)
        sock = self._sock
        self._poller.modify(sock, select.POLLIN | select.POLLOUT if self._blocked else select.POLLIN)
        readable = False
        for number, event in self._poller.poll(timeout * 1000):
            if number == self._pipe.reader:
                self._pipe.clear()
            elif event & ~select.POLLOUT:
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

    def _turn(self) -> None:
        """Read what has come, and send what there is to be said to it."""
        self._turning = True
        try:
            self._read()
        except (FrameError, GoneError) as error:
            self._farewell()  # h2's own word on it
            self._die(type(error), error.args)
        except BaseException:
            self._tear()
            raise
        finally:
            self._turning = False

    def _read(self) -> None:
        frames, sock = self._frames, self._sock
        now = time.monotonic()
        try:
            while True:
                data = sock.recv(_READ)
                if not data:
                    self._die(*CLOSED)
                    return
                self._received += 1
                self._heard_at = now
                draining, settled, limit = frames.draining, frames.settled, frames.limit
                frames.receive(data, now)
                if frames.draining and not draining and frames.streams and frames.pong:
                    self._ask(now)  # some that say that they leave are gone already
                if (draining, settled, limit) != (frames.draining, frames.settled, frames.limit):
                    self._on_room(self, 0)
                if not sock.pending():
                    break
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError as error:
            self._die(*as_closed(error))
            return
        self._flush()

    def _flush(self) -> None:
        """Send as much as the socket takes, and tell whom it concerns."""
        try:
            self._send()
            self._tell()
        except BaseException:
            self._tear()
            raise

    def _send(self) -> None:
        frames = self._frames
        out = frames.out
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
                self._nudge()
        except OSError as error:
            # What the peer said before it closed may tell whether it took the request.
            self._blocked = False
            self._last_words()
            self._die(*as_closed(error))
        else:
            self._blocked = False

    def _last_words(self) -> None:
        """Take in what a peer that has closed had sent before."""
        try:
            while data := self._sock.recv(_READ):
                self._received += 1
                self._frames.receive(data, time.monotonic())
        except (OSError, FrameError):  # GoneError among the former
            pass

    def _farewell(self) -> None:
        """Say what there is to be said at the end, if the socket takes it now. Whatever goes wrong: it is a courtesy.

        Not by :meth:`_flush`, which looks at what the peer says and puts bodies into frames; both are over.
        """
        frames = self._frames
        try:
            if frames.out:
                frames.flushed(self._sock.send(frames.out))
        except OSError:
            pass

    def _tell(self) -> None:
        """Wake those who have news, and report places that came free."""
        frames = self._frames
        changed = frames.changed
        if changed:
            frames.changed = []
            for stream in changed:
                if stream in self._waiting:
                    self._rouse(stream)
                elif stream is self._leader:
                    self._nudge()
        if frames.closed:
            count, frames.closed = frames.closed, 0
            self.served = True
            self._on_room(self, count)
        if (frames.draining or self._closing) and not frames.streams and not self.dead:
            if self._closing:
                frames.goodbye()
                self._farewell()
            self._die(*CLOSED)

    def _nudge(self) -> None:
        """Have the leader look around, unless that is us."""
        if self._leader is not None and not self._turning:
            self._pipe.wake()

    def _silent_at(self) -> float:
        """Return the instant from which the peer has been silent for too long."""
        if self._frames.pong:
            return self._heard_at + PING_AFTER
        return max(self._asked_at, self._heard_at) + PING_PATIENCE

    def _silence(self) -> None:
        """Nothing has come for long: ask, or give up, unless the question may not have left yet."""
        now = time.monotonic()
        if self._frames.pong:
            self._ask(now)
            self._flush()
            return
        (left, waiting), self._looked = self._looked, self._leaving()
        # What was not waiting says nothing: a system takes small requests for a program that hangs.
        if waiting and self._looked[0] > left:
            self._asked_at = now
        else:
            _log.debug("a connection of HTTP/2 does not answer: %d streams end", len(self._frames.streams))
            self._die(ConnectionResetError, ("the connection is dead: the server does not answer a ping",))

    def _ask(self, now: float) -> None:
        """Ask for a sign of life; whatever comes is one."""
        self._asked_at = now
        self._looked = self._leaving()
        self._frames.ping()

    def _leaving(self) -> tuple[int, bool]:
        """Return how many of our bytes have left, as far as the system says so, and whether some have not."""
        held = _unconfirmed(self._sock)
        return self._frames.handed - held, held > 0 or bool(self._frames.out)

    def _die(self, kind: Callable[..., Exception], arguments: tuple[Any, ...]) -> None:
        """End the connection and all of its streams."""
        if not self.dead:
            self.dead = True
            self._end(kind, arguments)

    def _tear(self) -> None:
        """End the connection after an interrupt in the middle of what nobody can finish; its end, too, may be what was interrupted."""
        self._torn = self._torn or not self.dead
        self.dead = True
        self._end(ConnectionAbortedError, ("interrupted",))

    def _end(self, kind: Callable[..., Exception], arguments: tuple[Any, ...]) -> None:
        self._frames.broken(kind, arguments, _RECORD if self._blocked else 0)
        while self._waiting:
            self._rouse(next(iter(self._waiting)))
        self._tell()
        self._nudge()
        self._on_room(self, 0)

    # --- afterwards --------------------------------------------------------------------------------------------------------

    def _after(self) -> None:
        """Work off what was left for whoever holds the lock, unless somebody holds it: that one will. Close what is dead."""
        if not self._left and (not self.dead or self._sock is None):
            return
        for _ in lock_attempts(self._lock):
            try:
                self._work_off()
            except BaseException:  # an interrupt; twice does no harm
                self._work_off()
                raise
            finally:
                self._lock.release()
            if self.dead or not self._left:
                return

    def _work_off(self) -> None:
        while self._left:
            stream, cancelled, count = self._left[0]
            if stream is not None and count:
                if not self.dead:
                    self._frames.give_back(stream, count)
            elif stream is not None and cancelled:
                self._frames.cancelled(stream)
            elif stream is not None:
                self._frames.reset(stream)
                stream.ended = True
            if not self.dead:
                self._flush()
            self._left.popleft()  # last: whoever interrupts us, none is lost
        if self.dead and self._leader is None and self._sock is not None:
            sock, self._sock = self._sock, None
            sock.close()
        elif self.dead:
            self._nudge()

    def _after_fork_in_child(self) -> None:
        """Let go of what is the parent's, without a word on its socket and without a lock it may have held."""
        self._lock = Lock()
        self._left = deque()
        self._waiting = {}
        self._leader = self._chosen = None
        self.dead = True
        self._on_room = lambda *_: None
        self._frames.broken(ConnectionResetError, ("the connection belongs to the parent process",), 1 << 62)
        sock, self._sock = self._sock, None
        if sock is not None:
            try:
                os.close(sock.detach())
            except OSError:
                pass
