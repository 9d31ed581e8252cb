"""Ctrl-C over HTTP/2, at every point where the interpreter looks for it: it ends the call that it strikes and harms no other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from support.fakes import PATIENCE, is_held
from support.http2_scene import answer, attempt, begin, end, in_threads, prompt_of, provider_on, running
from support.http2_servers import Http2Server, SettingCodes, until

from groq_provider import RateLimits
from groq_provider import errors as e
from groq_provider._sync import lock_attempts
from groq_provider.transport.http2 import connection as http2_connection
from groq_provider.transport.http2 import pool as http2_pool
from groq_provider.transport.http2.stream import Stream
from groq_provider.transport.permits import ConnectionLimiter, Permit
from groq_provider.transport.scope import CancelScope

HERE = Path(http2_pool.__file__).parent
#: Files to strike: their lines run on behalf of one call.
FILES = {str((HERE / name).resolve()) for name in ("connection.py", "frames.py", "stream.py", "../permits.py")}


assert all(Path(file).is_file() for file in FILES)


class Interrupter:
    """Raises KeyboardInterrupt at the n-th point of these files where the interpreter looks for signals.

    These are the beginning of a function and the return of a C function (and jumps back, which lie between the same
    lines).
    """

    def __init__(self, number, files=FILES):
        self.left = number
        self.files = files
        self.where = None

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if event not in ("call", "c_return") or code.co_filename not in self.files or self.where is not None:
            return
        if _in_a_finalizer(frame):
            return  # Python swallows exceptions there
        if self.left == 0:
            name = getattr(arg, "__name__", "")
            self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name} {event} {name}"
            raise KeyboardInterrupt(self.where)
        self.left -= 1


def _in_a_finalizer(frame):
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_close_all"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def interrupted(number, files=FILES):
    """Strike the block at that point; its KeyboardInterrupt ends here."""
    interrupter = Interrupter(number, files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of a stream that the caller never got
        try:
            sys.setprofile(interrupter)
            yield interrupter
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)


def at_every_place(work):
    """Run ``work(number)`` until it says that there was no such point."""
    number = 0
    while work(number) is not None:
        number += 1
    return number


# --- locks ---------------------------------------------------------------------------------------------------------------------


def test_tried_lock_is_taken_once():
    """A free lock gives the loop one round each time; a lock held by any thread gives none."""
    lock = threading.Lock()
    rounds = 0
    for got in lock_attempts(lock):
        assert got
        assert lock.locked()
        assert list(lock_attempts(lock)) == []
        rounds += 1
        lock.release()
        if rounds == 3:
            break
    assert rounds == 3
    assert not lock.locked()


def given_back(provider):
    permits = provider._transport._permits

    permit = Permit()  # here, so that its finalizer is not struck

    def give():
        permit._limiter = permits
        permit.release()

    return give, permits._lock


def left_to_others(provider):
    (connection,) = provider._transport.adapter._pool._connections
    return lambda: connection.drop(Stream(connection)), connection._lock


@pytest.mark.parametrize("what", [given_back, left_to_others], ids=lambda what: what.__name__)
def test_interrupt_leaves_no_lock_held(what):
    """A lock that is tried and not waited for is released again, however early after it was taken the interrupt comes."""
    files = FILES | {http2_pool.__file__}
    with Http2Server(answer) as server, provider_on(server, max_connections=1) as provider:
        provider.generate("x")
        work, lock = what(provider)

        def strike(number):
            with interrupted(number, files) as interrupter:
                work()
            assert not is_held(lock), interrupter.where
            return interrupter.where

        assert at_every_place(strike) > 3


def test_interrupt_loses_no_permit():
    """A returned permit is free, or belongs to a waiter that was woken."""
    from groq_provider.clock import SystemClock

    def strike(number):
        permits = ConnectionLimiter(1)
        permit = permits.acquire(CancelScope(SystemClock()), None)
        results = []
        with running(lambda: results.append(permits.acquire(CancelScope(SystemClock()), None))):
            assert until(lambda: permits._waiters)
            with interrupted(number) as interrupter:
                permit.release()
            permit.release()  # in case it was struck before the permit was returned
            permits._settle_returned()
        assert len(results) == 1, interrupter.where
        return interrupter.where

    assert at_every_place(strike) > 3


def test_interrupted_waiter_loses_no_slot():
    """An interrupt before or after the grant loses no permit and leaves no waiter queued.

    The error is kept, as by a debugger.
    """
    from groq_provider import clock

    files, kept = FILES | {clock.__file__}, []

    def strike(number):
        permits = ConnectionLimiter(1)
        permit = permits.acquire(CancelScope(clock.SystemClock()), None)
        over = threading.Event()

        def give():
            assert until(lambda: permits._waiters or over.is_set())
            permit.release()

        taken = []
        with running(give):
            with interrupted(number, files) as interrupter:
                try:
                    taken.append(permits.acquire(CancelScope(clock.SystemClock()), None))
                except KeyboardInterrupt as problem:
                    kept.append(problem)
                    raise
            over.set()
        for each in taken:
            each.release()
        assert (permits._free_permits, len(permits._waiters), len(permits._returned_permits)) == (1, 0, 0), (
            interrupter.where
        )
        return interrupter.where

    assert at_every_place(strike) > 5


# --- connections ---------------------------------------------------------------------------------------------------------------


def clean(provider):
    """Say whether nothing is under way on any connection."""
    for connection in provider._transport.adapter._pool._connections:
        books = (
            connection._frames.streams,
            connection._waiting_streams,
            len(connection._deferred_changes),
        )
        if not connection.dead and (books != ({}, {}, 0) or connection._reader or connection._next_reader):
            return False
    return True


def locks(provider):
    return [connection._lock for connection in provider._transport.adapter._pool._connections]


def check_after(provider, where):
    """No lock is held, another thread is answered at once, and after that nothing is under way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of a stream that the caller never got
        gc.collect()
    assert not any(lock.locked() for lock in locks(provider)), where
    started = time.monotonic()
    assert in_threads(1, lambda _: provider.generate("after").content) == ["after"], where
    assert time.monotonic() - started < PATIENCE / 2, where
    assert until(lambda: clean(provider)), where


def plain(provider):
    assert provider.generate("x").content == "x"


def whole(provider):
    with provider.generate_stream("x") as stream:
        assert stream.collect().content == "x"


def left(provider):
    with provider.generate_stream("x") as stream:
        next(stream)


@pytest.fixture
def every(full):
    return 1 if full else 3


@pytest.mark.parametrize("call", [plain, whole, left], ids=lambda call: call.__name__)
def test_interrupt_anywhere_in_call(call, every):
    """One thread, and a new connection whenever an interrupt ends one: the next call is answered, and nothing is left."""
    one = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with Http2Server(answer, settings=one) as server:
        with provider_on(server, rate_limits=RateLimits(rpm=10_000_000)) as provider:
            plain(provider)

            def strike(number):
                with interrupted(number * every) as interrupter:
                    call(provider)
                check_after(provider, interrupter.where)
                return interrupter.where

            assert at_every_place(strike) > 20
        assert server.wait(lambda: not server.open_connections)


class Holding(Http2Server):
    """Answers; for the prompt "hold" the second half only after ``go``."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.go = asyncio.Event()

    async def answer(self, request):
        await request.whole()
        if prompt_of(request) != "hold":
            await answer(request)
            return
        await begin(request, "one")
        await self.go.wait()
        self.go.clear()
        await end(request, " two")

    def check(self, held, where):
        """Check the held stream: it is complete, or its connection ended and its reader got an error."""
        if isinstance(held, e.GroqProviderError):
            assert "interrupted" in str(held), where
            self.do(self.go.clear)
        else:
            assert held.content == "one two", where


def test_interrupt_while_awaiting_place(every, monkeypatch):
    """An interrupt anywhere in a wait for a place: the stream of the other call is complete, and the place is free later."""
    monkeypatch.setattr(http2_pool, "MAX_CONNECTIONS", 1)
    one = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}

    with Holding(settings=one) as server, provider_on(server) as provider:
        plain(provider)
        pool = provider._transport.adapter._pool

        def waiting(stream):
            return stream and (stream in stream.connection._waiting_streams or stream is stream.connection._reader)

        def strike(number):
            held = provider.generate_stream("hold")
            assert next(held).content == "one"
            over = threading.Event()

            def go():
                assert until(lambda: over.is_set() or any(waiting(each.placeholder) for each in list(pool._queue)))
                server.do(server.go.set)

            with running(lambda: attempt(held.collect), go) as results:
                with interrupted(number * every) as interrupter:
                    plain(provider)
                over.set()
            assert results[1] is None, results[1]
            server.check(results[0], interrupter.where)
            check_after(provider, interrupter.where)
            return interrupter.where

        assert at_every_place(strike) > 20


def test_interrupt_beside_another_stream(every):
    """An interrupt anywhere beside another stream: that stream goes on, or ends at once with an error."""
    with Holding() as server, provider_on(server) as provider:
        plain(provider)

        def strike(number):
            beside = provider.generate_stream("hold")
            assert next(beside).content == "one"
            with running(lambda: attempt(beside.collect)) as results:
                with interrupted(number * every) as interrupter:
                    plain(provider)
                started = time.monotonic()
                server.do(server.go.set)
            assert time.monotonic() - started < PATIENCE / 2, interrupter.where
            server.check(results[0], interrupter.where)
            check_after(provider, interrupter.where)
            return interrupter.where

        assert at_every_place(strike) > 10


# --- what it means for others --------------------------------------------------------------------------------------------------


def test_interrupt_repeats_no_other_request(monkeypatch):
    """An interrupt resends no request of another call: the peer is processing it, so that is left to the retry policy."""

    async def script(request):
        await request.whole()
        if prompt_of(request) == "first":
            await request.until(lambda: len(request.peer.requests) == 3)
        if prompt_of(request) != "other":
            await answer(request)

    main = threading.current_thread()
    read = http2_connection.Http2Connection._read_socket

    def struck(self):
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        read(self)

    with Http2Server(script) as server, provider_on(server) as provider:
        plain(provider)  # so that the connection may have gone stale
        (connection,) = provider._transport.adapter._pool._connections

        def other():
            assert until(lambda: connection._reader is not None)
            monkeypatch.setattr(http2_connection.Http2Connection, "_read_socket", struck)
            return attempt(lambda: provider.generate("other"))

        with running(other) as results, pytest.raises(KeyboardInterrupt):
            provider.generate("first")
        assert isinstance(results[0], e.APIConnectionError), results
        assert "interrupted" in str(results[0])
        assert len(results[0].attempts) == 1
        assert results[0].retryable
        assert len(server.requests) == 3
