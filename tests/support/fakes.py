"""Stand-ins for collaborators, shared by the tests."""

from __future__ import annotations

import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from groq_provider.clock import SystemClock
from groq_provider.ratelimit.store.gcra_state import GcraState
from groq_provider.ratelimit.store.protocol import StoreUnavailableError
from groq_provider.wire.sse import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Callable

#: Real seconds after which a test that hangs fails.
PATIENCE = 20.0


class FakeClock:
    """Time that moves only when told, or by itself when somebody waits.

    As it is, a wait that nobody has ended moves the time on by its timeout: right for tests of one thread. With ``manual=True`` a
    waiting thread is parked until its lock is released or :meth:`advance` reaches its timeout: right for tests of many.

    Safe to use from many threads.
    """

    def __init__(self, start: float = 1000.0, *, manual: bool = False) -> None:
        self._changed = threading.Condition()  # guards everything below; notified when it changes
        self._start = self._monotonic = start
        self._manual = manual
        self._parked: list[_Parked] = []
        self.waits: list[float | None] = []

    def monotonic(self) -> float:
        with self._changed:
            return self._monotonic

    def now(self) -> datetime:
        return datetime(2026, 11, 1, 12, tzinfo=timezone.utc) + timedelta(seconds=self.monotonic() - self._start)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        if lock.acquire(blocking=False):
            return True
        with self._changed:
            self.waits.append(timeout)
            if not self._manual:
                assert timeout is not None, "this wait would never end"
                self._monotonic += timeout
                return False
            parked = _Parked(lock, None if timeout is None else self._monotonic + timeout)
            self._parked.append(parked)
            self._changed.notify_all()
            # It looks at the lock and never blocks on it: a lock may be handed to who blocks on it, and then looks as if nobody had
            # released it until that thread runs.
            self._until(lambda: parked.expired or lock.acquire(blocking=False), "nobody woke this thread")
            self._parked.remove(parked)
            self._changed.notify_all()
            return not parked.expired

    def advance(self, seconds: float) -> None:
        """Move the time, and wake every thread whose timeout it reaches."""
        with self._changed:
            self._monotonic += seconds
            for parked in self._parked:
                parked.expired |= parked.until is not None and parked.until <= self._monotonic
            self._changed.notify_all()

    def until_parked(self, count: int) -> None:
        """Return when that many threads sleep: neither awake nor just being woken."""
        with self._changed:
            self._until(
                lambda: len(self._parked) == count and not any(parked.woken() for parked in self._parked),
                "other threads sleep",
            )

    def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        """Wait, under the lock, until *done*; and look now and then: nobody tells when a lock is released."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, otherwise
            self._changed.wait(0.0005)


class _Parked:
    def __init__(self, lock: threading.Lock, until: float | None) -> None:
        self.lock = lock
        self.until = until
        self.expired = False

    def woken(self) -> bool:
        return self.expired or not self.lock.locked()


class ShiftedClock(SystemClock):
    """The computer's own clock, which can be set ahead."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


class StoppedClock(SystemClock):
    """A clock that stands still but where it is set."""

    at = 1000.0

    def monotonic(self) -> float:
        return self.at


def is_held(lock: Any) -> bool:
    """Say whether a thread holds a lock, reentrant or not."""
    found = []

    def look() -> None:
        found.append(not lock.acquire(blocking=False))
        if not found[0]:
            lock.release()

    looker = threading.Thread(target=look)  # of its own: this one could take a reentrant lock again
    looker.start()
    looker.join()
    return found[0]


def wait_for(condition: Callable[[], object], what: str = "that") -> None:
    """Return when *condition* holds. For what nobody announces."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what} in vain"
        time.sleep(0.001)


class Strike:
    """A signal that strikes the main thread once, however often it is sent; and it has to be sent until it did.

    One that comes between the interpreter's last look and the system's wait is not seen before that wait ends.

    Args:
        number: Of the signal.
        error: What its handler raises.
    """

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self._number, self._error = number, error
        self._done = False

    def __enter__(self) -> Strike:
        self._before = signal.signal(self._number, self._handle)
        return self

    def __exit__(self, *_exc: object) -> None:
        """Bring the former handler back. Nobody may be sending any more."""
        signal.signal(self._number, self._before)

    def _handle(self, _number: int, _frame: object) -> None:
        if not self._done:
            self._done = True
            raise self._error

    def call_off(self) -> None:
        """Let it strike no more."""
        self._done = True

    def send(self) -> None:
        """Have it strike; from another thread."""
        main, end = threading.main_thread().ident, time.monotonic() + PATIENCE
        while not self._done:
            assert time.monotonic() < end, "the main thread does not look for signals"
            signal.pthread_kill(main, self._number)
            time.sleep(0.05)


# --- of the engine -----------------------------------------------------------------------------------------------------------


class FakeReservation:
    """Notes how it ended; more than one ending that counts is for the test to find."""

    def __init__(self, arrival: int, wait: float = 0.0) -> None:
        self.arrival = arrival
        self.wait = wait
        self.calls: list[tuple] = []
        self.seen: list[tuple] = []

    def settle(self, usage):
        self.calls.append(("settle", usage))

    def refund(self, *, keep_request=False):
        self.calls.append(("refund", "tokens" if keep_request else "all"))

    def keep(self):
        self.calls.append(("keep",))

    def feedback(self, info, limited=None):
        self.seen.append((info, limited))

    @property
    def ending(self):
        """What counts: the first."""
        return self.calls[0][:2] if self.calls and self.calls[0][0] == "refund" else self.calls[0][:1]


class FakeLimiter:
    """Grants at once, or does what *script* says: an exception to raise, seconds to wait, or something to call."""

    def __init__(self, clock, *script) -> None:
        self.clock = clock
        self.script = list(script)
        self.asked: list[dict] = []
        self.granted: list[FakeReservation] = []

    def reserve(self, model, **arguments):
        self.asked.append({"model": model, **arguments})
        step = self.script.pop(0) if self.script else 0.0
        if isinstance(step, BaseException):
            raise step
        if callable(step):
            step = step(arguments) or 0.0
        if step:
            wake = threading.Lock()
            wake.acquire()
            self.clock.wait(wake, step)
        self.granted.append(FakeReservation(len(self.granted) + 1, step))
        return self.granted[-1]

    def largest_output(self, model, *, prompt_tokens):
        return None

    def get_status(self):
        return {}


class FakeTracker:
    """Notes what is recorded; no wait, and failures that are not local, go without saying."""

    def __init__(self) -> None:
        self.records: list[dict] = []

    def record(self, model, *, wait=0.0, local=False, **figures):
        more = {name: given for name, given in (("wait", wait), ("local", local)) if given}
        self.records.append({"model": model, **figures, **more})

    def get_metrics(self, model=None):
        raise NotImplementedError


class FakeWire:
    """An answer. The body is given out in the pieces it was made of; an exception among them is raised."""

    def __init__(self, status=200, body=b"", headers=None, *, pieces=None) -> None:
        self.status_code = status
        self.headers = {"content-type": "application/json", "x-request-id": "req_1", **(headers or {})}
        self.pieces = [body] if pieces is None else list(pieces)
        self.splitter = LineSplitter()
        self.closed = 0
        self.drained = 0

    def read_body(self, limit, *, cut=False):
        parts = []
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            parts.append(piece)
        return b"".join(parts)

    def read_lines(self):
        if not self.pieces:
            rest = self.splitter.finish()
            return [rest] if rest else None
        piece = self.pieces.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        if callable(piece):
            piece = piece()
        return self.splitter.feed(piece)

    def ready(self, timeout):
        return True

    def abandon(self):
        self.closed += 1

    def drain(self, call):
        self.drained += 1

    def close(self):
        self.closed += 1


class FakeTransport:
    """Answers with what *script* says, in order: a FakeWire, an exception, or a function of the scope that returns one."""

    def __init__(self, clock, *script, took=0.5) -> None:
        self.clock = clock
        self.script = list(script)
        self.took = took
        self.sent: list[dict] = []

    def send(self, method, path, *, headers, body, scope, query=""):
        self.sent.append(
            {"method": method, "path": path, "headers": headers, "body": body, "query": query, "scope": scope}
        )
        step = self.script.pop(0)
        if callable(step) and not isinstance(step, FakeWire):
            step = step(scope)
        if isinstance(step, BaseException):
            if getattr(step, "sent", None) is not False:
                scope.request_sent()
            self.clock.advance(self.took)
            raise step
        scope.request_sent()
        scope.received = True
        self.clock.advance(self.took)
        return step

    def warm_up(self, connections, *, timeout):
        return connections

    def close(self):
        pass


class MemoryStore:
    """A store in this process: ``GcraState`` behind a lock. With ``reason`` set it is offline; ``hosts`` is the number it reports."""

    def __init__(self, clock, hosts=0) -> None:
        self.clock, self.hosts = clock, hosts
        self.reason: str | None = None
        self.asked: list[object] = []  # every AcquireRequest and Adjustment, in order, those that failed too
        self.states: dict[str, GcraState] = {}
        self._lock = threading.Lock()

    def _find_state(self, key, command):
        self.asked.append(command)
        if self.reason is not None:
            raise StoreUnavailableError(self.reason)
        return self.states.setdefault(key, GcraState()), round(self.clock.monotonic() * 1e6)

    def take(self, key, request):
        with self._lock:
            state, now = self._find_state(key, request)
            return state.take(now, request, hosts=self.hosts)

    def adjust(self, key, adjustment):
        with self._lock:
            state, now = self._find_state(key, adjustment)
            state.adjust(now, adjustment)

    def close(self):
        pass
