"""The HTTP/2 pool: fallback to HTTP/1.1, many handshakes at once, waiting for places, and places that come back in every case."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import pytest
from hyperframe.frame import GoAwayFrame, SettingsFrame
from support.fakes import PATIENCE
from support.http2_scene import (
    KEY,
    PATIENT,
    alive,
    answer,
    attempt,
    begin,
    completion,
    end,
    held,
    idle,
    provider_on,
    running,
)
from support.http2_servers import ErrorCodes, Http2Server, SettingCodes, authority, until
from support.leaks import PROMPT, PROMPT_PARTS, assert_hidden, texts_of
from support.servers import serving
from support.transports import fork, join, needs_fork

import groq_provider
from groq_provider import Timeouts
from groq_provider import errors as e
from groq_provider.clock import SystemClock
from groq_provider.transport.http2 import connection as http2_connection
from groq_provider.transport.http2 import pool as http2_pool
from groq_provider.transport.http2.pool import Http2Pool


def pool_of(provider):
    return provider._transport.adapter.pool()


# --- falling back --------------------------------------------------------------------------------------------------------------


class Older(Http2Server):
    """Speaks HTTP/1.1 only."""

    def __init__(self):
        super().__init__(protocols=("http/1.1",))
        self.writers = []

    async def other(self, reader, writer):
        self.writers.append(writer)
        await super().other(reader, writer)

    async def other_answer(self, lines, body):
        return completion("over 1.1")

    def hang_up(self):
        """Close every connection; they are closed when this returns."""
        socks = [writer.get_extra_info("socket") for writer in self.writers]
        self.do(lambda: [writer.transport.abort() for writer in self.writers])
        assert until(lambda: all(sock.fileno() < 0 for sock in socks))


def with_one_to_spare(server, provider):
    """Make a call that learns of HTTP/1.1 and uses a kept connection, so that the negotiated connection is kept, too."""
    assert provider._transport.session.get(server.url + "/openai/v1/models", timeout=PATIENCE).status_code == 200
    assert provider.generate("x").content == "over 1.1"
    assert len(server.others) == 2


@needs_fork
def test_child_avoids_parents_http1_connection():
    """A forked child does not use the negotiated HTTP/1.1 connection: it is the parent's, like any kept one."""
    with Older() as server, provider_on(server) as provider:
        with_one_to_spare(server, provider)
        assert join(fork(lambda: provider.generate("x").content == "over 1.1")) == 0
        assert len(server.others) == 3
        for _ in range(3):
            assert provider.generate("x").content == "over 1.1"


def test_stale_http1_connection_is_replaced():
    """The negotiated HTTP/1.1 connection may have gone stale before its first request: no call fails."""
    with Older() as server, provider_on(server) as provider:
        with_one_to_spare(server, provider)
        server.hang_up()
        for _ in range(3):
            assert provider.generate("x").content == "over 1.1"
        assert len(server.others) == 3


def test_closing_during_fallback_warm_up(monkeypatch):
    """Closing during a warm-up that falls back, between the handshake and keeping the connection, leaks no connection."""
    with Older() as server, provider_on(server) as provider:
        http1, made = pool_of(provider).http1, []
        keep, negotiating = http1.keep_connection, http1.new_negotiating_connection

        def closing(conn):
            provider.close()
            keep(conn)

        def noted():
            made.append(negotiating())
            return made[-1]

        monkeypatch.setattr(http1, "keep_connection", closing)
        monkeypatch.setattr(http1, "new_negotiating_connection", noted)
        with pytest.raises(e.ProviderClosedError):
            provider.warm_up(1)
        assert [conn.sock for conn in made] == [None]


@pytest.fixture
def ahead(monkeypatch):
    """Seconds that the providers' clock is ahead: time that passes at once."""
    ahead = [0.0]
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: time.monotonic() + ahead[0])
    return ahead


def test_late_fallback_has_connect_time(ahead):
    """A late fallback has its own time to connect, although the server took longer than that over the request."""

    async def script(request):
        await request.whole()
        ahead[0] = 2 * PATIENCE
        request.abort(ErrorCodes.HTTP_1_1_REQUIRED)

    class Both(Http2Server):
        async def other_answer(self, lines, body):
            return completion("over 1.1")

    limits = Timeouts(connect=PATIENCE, first_token=4 * PATIENCE)
    with Both(script) as server, provider_on(server, timeout=limits) as provider:
        assert provider.generate("x").content == "over 1.1"


# --- waiting for a place -------------------------------------------------------------------------------------------------------

#: The patience of those who wait for a place: less than the silence after which a ping would wake them anyway.
SOON = http2_connection.PING_AFTER - 1


def test_vain_place_wait_is_refused():
    """Too long a wait for a place raises the same error as ``max_connections``: not sent, and without secrets."""
    limits = Timeouts(connect=PATIENCE, first_token=0.3)
    with Http2Server(answer) as server, provider_on(server, timeout=limits) as provider:
        assert provider.generate("x", timeout=PATIENT).content == "x"
        server.do(lambda: server.peers[0].settings(max_concurrent_streams=0))
        started = time.monotonic()
        with pytest.raises(e.PoolTimeoutError, match="busy for too long") as caught:
            provider.generate(PROMPT)
        assert time.monotonic() - started < PATIENCE / 2
        assert (caught.value.sent, caught.value.retryable) == (False, True)
        assert_hidden(texts_of(caught.value), [KEY[4:], *PROMPT_PARTS])
        assert idle(provider)


class Reticent(Http2Server):
    """A handler that sends nothing before it is told to, not even its settings."""

    def __init__(self, *args, **more):
        self.speak = asyncio.Event()
        super().__init__(*args, **more)

    async def _serve(self, reader, writer):
        await self.speak.wait()
        await super()._serve(reader, writer)


def second_on_a_cold_start(monkeypatch, limits, work):
    """Make a call that waits while another one connects, and then finds the new connection full; return its result.

    Once the connection is known to be full, call ``work(server, waiter, results)``.
    """
    monkeypatch.setattr(http2_pool, "MAX_CONNECTIONS", 1)
    connect = Http2Pool._connect

    def connect_later(pool, call):
        assert until(lambda: pool._queue)
        return connect(pool, call)

    monkeypatch.setattr(Http2Pool, "_connect", connect_later)
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with Reticent(held(), settings=settings) as server, provider_on(server, timeout=limits) as provider:
        pool = pool_of(provider)
        with running(
            lambda: attempt(lambda: provider.generate_stream("x", timeout=PATIENT).collect().content)
        ) as first:
            assert until(lambda: pool._is_connecting)
            with running(lambda: attempt(lambda: provider.generate("y").content)) as second:
                assert until(lambda: pool._queue)
                (waiter,) = pool._queue
                assert until(lambda: waiter.placeholder is not None)
                server.do(server.speak.set)
                assert until(lambda: pool._connections[0].settings_received)
                work(server, waiter, second)
            server.release()
        assert first == ["one two"]
        assert server.connections == 1
    return second[0]


def test_cold_start_waits_for_place(monkeypatch, ahead):
    """A call that came before all places were known to be taken has the limit of those who wait for a place."""

    def wait(server, waiter, results):
        ahead[0] = 2 * PATIENCE
        stream = waiter.placeholder
        waiter.wake()
        assert until(
            lambda: waiter.placeholder not in (None, stream) or results[0] is not None
        )  # it has read the clock
        server.release()

    limits = Timeouts(connect=PATIENCE, first_token=8 * PATIENCE)
    assert second_on_a_cold_start(monkeypatch, limits, wait) == "y"


def test_cold_start_wait_begins_once(monkeypatch):
    """The limit for a place starts once, when the places are known to be taken; a call that waits for the connection is told then."""

    def wait(_server, _waiter, results):
        assert until(lambda: results[0] is not None, PATIENCE / 2)

    limits = Timeouts(connect=PATIENCE, first_token=0.5)
    assert isinstance(second_on_a_cold_start(monkeypatch, limits, wait), e.PoolTimeoutError)


@pytest.mark.parametrize("first", ["leaving", "full"])
def test_waiter_hears_of_new_place(first):
    """A call that waits for a place learns of a free one on any connection, although neither has a reader."""
    streams = 1 if first == "full" else 100
    settings, limits = {SettingCodes.MAX_CONCURRENT_STREAMS: streams}, Timeouts(connect=PATIENCE, first_token=SOON)
    with Http2Server(held(), settings=settings) as server, provider_on(server, timeout=limits) as provider:
        with provider.generate_stream("held") as stream:
            assert next(stream).content == "one"
            if first == "leaving":
                server.do(lambda: server.peers[0].goaway(1))
            assert alive(provider)
            assert server.connections == 2
            server.do(lambda: server.peers[1].settings(max_concurrent_streams=0))
            with running(lambda: attempt(lambda: provider.generate("y").content)) as results:
                assert until(lambda: pool_of(provider)._queue)
                server.do(lambda: server.peers[1].settings(max_concurrent_streams=10))
            assert results == ["y"]
            assert server.connections == 2


@pytest.mark.parametrize("which", range(3))
def test_waiter_hears_of_stream_end(which, monkeypatch):
    """A call that waits for a place learns of a stream's end on any connection, although all readers are busy."""
    monkeypatch.setattr(http2_pool, "MAX_CONNECTIONS", 3)
    settings, limits = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}, Timeouts(connect=PATIENCE, first_token=SOON)

    async def script(request):
        if len(request.peer.server.requests) > 3:
            await answer(request)
            return
        await begin(request, "one")
        await request.until(lambda: request is chosen[0])
        await end(request)

    chosen = [None]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Http2Server(script, settings=settings))
        provider = stack.enter_context(provider_on(server, timeout=limits))
        streams = [stack.enter_context(provider.generate_stream(f"x{number}")) for number in range(3)]
        assert [next(stream).content for stream in streams] == ["one"] * 3
        assert server.connections == 3
        with running(lambda: attempt(lambda: provider.generate("y").content)) as results:
            assert until(lambda: pool_of(provider)._queue)
            chosen[0] = server.requests[which]
            server.do(server.requests[which].peer._tell)
        assert results == ["y"]


# --- connections that are of no use ----------------------------------------------------------------------------------------------


def leaving(say, *, version=ssl.TLSVersion.TLSv1_2):
    """Return a handler that sends *say* and ends the connection together with the last message of the handshake, or right after it."""
    context = authority().context("h2")
    context.maximum_version = version

    def handler(sock, server):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            sock.sendall(outgoing.read())
            if not (data := sock.recv(65_536)):
                return  # the client has given up
            incoming.write(data)
        if say:
            tls.write(say)
        with contextlib.suppress(ssl.SSLError):
            tls.unwrap()
        sock.sendall(outgoing.read())
        sock.shutdown(socket.SHUT_WR)
        server.wait_for_end(sock)

    return handler


LEAVING = pytest.mark.parametrize(
    "say",
    [b"", SettingsFrame(0).serialize() + GoAwayFrame(0).serialize()],
    ids=["close", "GOAWAY"],
)


@LEAVING
def test_ending_server_is_given_up(say):
    """A server that ends every connection gets a few attempts; then the retry policy gets the error, and waits."""
    with serving(leaving(say)) as server:
        with provider_on(f"https://localhost:{server.port}", timeout=Timeouts(total=PATIENCE / 2)) as provider:
            error = attempt(lambda: provider.generate("x"))
            assert (type(error), error.sent, error.retryable) == (e.APIConnectionError, False, True)
            assert server.connections <= 6


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
@LEAVING
def test_warm_up_stops_when_useless(say, version):
    """A warm-up stops at a useless connection: it counts none, and does not try until its time is up."""
    with serving(leaving(say, version=version)) as server:
        with provider_on(f"https://localhost:{server.port}") as provider:
            started = time.monotonic()
            assert provider.warm_up(10, timeout=PATIENCE) == 0
            assert time.monotonic() - started < PATIENCE / 2
            assert server.connections <= 2


def test_idle_closed_connections_cost_nothing():
    """Any number of stale connections is replaced, as after a restart of the server."""
    with Http2Server(held(), settings={SettingCodes.MAX_CONCURRENT_STREAMS: 1}) as server:
        with provider_on(server) as provider:
            streams = [provider.generate_stream("x") for _ in range(8)]
            server.release()
            assert [stream.collect().content for stream in streams] == ["one two"] * 8
            assert server.connections == 8
            socks = [peer.writer.get_extra_info("socket") for peer in server.peers]
            server.do(lambda: [peer.cut() for peer in server.peers])
            assert until(lambda: all(sock.fileno() < 0 for sock in socks))
            assert provider.generate("y").content == "y"
            assert server.connections == 9


# --- places come back ------------------------------------------------------------------------------------------------------------


def in_another_thread(work):
    """Run it now, in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)


@contextlib.contextmanager
def full_connection(monkeypatch, script, streams=1):
    """Yield a provider with one connection, which is full, and the streams on it."""
    monkeypatch.setattr(http2_pool, "MAX_CONNECTIONS", 1)
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: streams}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Http2Server(script, settings=settings))
        provider = stack.enter_context(provider_on(server))
        held = [stack.enter_context(provider.generate_stream("x")) for _ in range(streams)]
        assert [next(stream).content for stream in held] == ["one"] * streams
        yield provider, held


def test_place_returned_during_warm_up(monkeypatch):
    """A place returned while a warm-up counts is not lost: it goes to the call that waits."""
    places = Http2Pool._free_places

    def counting(pool):
        count = places(pool)
        if sys._getframe(1).f_code.co_name == "warm_up":
            in_another_thread(stream.close)
        return count

    with full_connection(monkeypatch, held()) as (provider, (stream,)):
        with running(
            lambda: attempt(lambda: provider.generate("y", timeout=Timeouts(first_token=SOON)).content)
        ) as found:
            assert until(lambda: pool_of(provider)._queue)
            monkeypatch.setattr(Http2Pool, "_free_places", counting)
            assert provider.warm_up(1) == 0
        assert found == ["y"]


def test_abandoned_place_goes_to_next(monkeypatch):
    """A place for a call that has just given up goes to the next one."""
    error = http2_pool.PoolTimeoutError

    def late(*args, **more):
        assert until(lambda: len(pool._queue) == 2)
        in_another_thread(stream.close)
        return error(*args, **more)

    with full_connection(monkeypatch, held()) as (provider, (stream,)):
        pool = pool_of(provider)
        first, second = [
            lambda n=n: attempt(lambda: provider.generate("y", timeout=Timeouts(first_token=n)).content)
            for n in (0.3, SOON)
        ]
        monkeypatch.setattr(http2_pool, "PoolTimeoutError", late)
        with running(first) as one:
            assert until(lambda: len(pool._queue) == 1)
            with running(second) as two:
                assert until(lambda: len(pool._queue) == 2)
        assert type(one[0]) is e.PoolTimeoutError
        assert two == ["y"]


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------------------

TRANSPORT = Path(groq_provider.__file__).parent / "transport"
POOL, CONNECTION, STREAM = (str(TRANSPORT / f"http2/{name}.py") for name in ("pool", "connection", "stream"))


class Striker:
    """Raises KeyboardInterrupt at the n-th point where the interpreter looks for signals: entry of a function, return of a C function."""

    def __init__(self, number):
        self.left = number
        self.where = None

    def __call__(self, frame, event, arg):
        if event not in ("call", "c_return") or not self.concerned(frame, event):
            return
        self.left -= 1
        if self.left < 0:
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name} {event}"
            sys.setprofile(None)
            raise KeyboardInterrupt

    @staticmethod
    def concerned(frame, event):
        """Say whether this is a point in the pool, or in the opening of a stream."""
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file == POOL:  # not in finalizers, which swallow it
            return name not in ("<genexpr>", "_close_all")
        if file == CONNECTION:
            return name in ("open", "_read_before_request") or (
                name == "_settle_deferred" and event == "call" and frame.f_back.f_code.co_name == "open"
            )
        return file == STREAM and name == "__init__"


def strike(number, work):
    """Run *work* and interrupt it; say where that was."""
    striker = Striker(number)
    with contextlib.suppress(KeyboardInterrupt):
        sys.setprofile(striker)
        try:
            work()
        finally:
            sys.setprofile(None)
    return striker.where


def all_free(pool):
    """Say whether no call holds a place, waits for one, or makes a connection."""
    streams = [connection._frames.streams for connection in pool._connections if not connection.dead]
    return not (any(streams) or pool._queue or pool._is_connecting)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_interrupt_gives_place_back():
    """After an interrupt with a connection at hand, its places are free again and the next call gets one."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with Http2Server(answer, settings=settings) as server, provider_on(server) as provider:
        alive(provider)
        pool = pool_of(provider)
        for number in itertools.count():
            where = strike(number, lambda: provider.generate("x"))
            assert until(lambda: all_free(pool)), where
            assert alive(provider), where
            if where is None:
                break
        assert number > 20
        assert len([connection for connection in pool._connections if connection.usable]) == 1
        assert server.wait(lambda: server.open_connections == 1)


@pytest.mark.sample(1)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "work", [lambda provider: provider.generate("x"), lambda provider: provider.warm_up(1)], ids=["call", "warm-up"]
)
def test_interrupted_connect_leaves_nothing(work):
    """After an interrupt without a connection, no connection is left unowned and no call waits in vain."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with Http2Server(answer, settings=settings) as server:
        for number in itertools.count():
            with provider_on(server) as provider:
                where = strike(number, lambda provider=provider: work(provider))
                pool = pool_of(provider)
                assert until(lambda pool=pool: all_free(pool)), where
                assert alive(provider), where
                assert len(pool._connections) == 1, where
            assert server.wait(lambda: not server.open_connections), where
            if where is None:
                break
        assert number > 20


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_interrupted_wait_gives_place_back(monkeypatch):
    """An interrupt strikes a call that waits for a place, as one comes back: it is not lost."""
    with full_connection(monkeypatch, held()) as (provider, (first,)):
        pool, stream = pool_of(provider), first
        for number in itertools.count():
            over = threading.Event()

            def release(stream=stream, over=over):
                assert until(lambda: pool._queue or over.is_set())
                stream.close()

            with running(release):
                where = strike(number, lambda: provider.generate("y"))
                over.set()
            assert until(lambda: all_free(pool)), where
            stream = provider.generate_stream("x")
            assert next(stream).content == "one", where
            if where is None:
                break
        assert number > 20
        stream.close()
