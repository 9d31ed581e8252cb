"""Many streams over one HTTP/2 connection: nothing is held back, and no stream harms another."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
import time
import tracemalloc
from types import SimpleNamespace

import pytest
from support.fakes import PATIENCE
from support.http2_scene import (
    LAST,
    QUICK,
    SSE,
    alive,
    answer,
    attempt,
    begin,
    end,
    event,
    held,
    idle,
    in_threads,
    prompt_of,
    provider_on,
    running,
    text_of,
)
from support.http2_servers import ErrorCodes, Http2Server, SettingCodes, until
from support.servers import _pump, full_backlog

from groq_provider import CancelToken, Timeouts
from groq_provider import errors as e
from groq_provider.clock import SystemClock
from groq_provider.transport.http2.connection import Http2Connection
from groq_provider.transport.scope import CancelScope

CANCEL = int(ErrorCodes.CANCEL)


# --- events come as they are sent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 50])
def test_events_before_silence_given_out(count):
    """Five events and then silence, on each stream: all five are returned."""
    words = [f"w{number} " for number in range(5)]

    async def script(request):
        await begin(request, *words)
        await request.peer.server.released.wait()
        await end(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        ready = threading.Barrier(count + 1)

        def read(number):
            with provider.generate_stream(f"x{number}") as stream:
                found = [next(stream).content for _ in words]
                ready.wait(PATIENCE)
                return found + [chunk.content for chunk in stream]

        with running(*[lambda number=number: read(number) for number in range(count)]) as results:
            ready.wait(PATIENCE)  # every stream has its five, and the server is silent
            server.release()
        assert results == [[*words, ""]] * count
        assert server.connections == 1


def test_event_precedes_next_send():
    """Every event is returned before the next is sent, whatever its frames: the server waits for the reader."""
    given: list[asyncio.Event] = []

    async def script(request):
        await request.whole()
        request.head(200, SSE)
        for number in range(20):
            step = asyncio.Event()
            given.append(step)
            await request.data(event(f"{number} "), piece=7)
            await step.wait()
        await end(request)

    with Http2Server(script) as server, provider_on(server) as provider, provider.generate_stream("x") as stream:
        for number in range(20):
            assert next(stream).content == f"{number} "
            assert not stream.poll(0)
            server.do(given[number].set)
        assert [chunk.content for chunk in stream] == [""]


def test_event_awaits_no_other_stream():
    """Of fifty streams one is served at a time; its reader has the event before the next is served."""

    async def script(request):
        await begin(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"{number}") for number in range(50)]
        by_prompt = {int(prompt_of(request)): request for request in server.requests}
        got: list[int] = []
        arrived = threading.Condition()

        def read(number):
            text = next(streams[number]).content
            with arrived:
                got.append(int(text))
                arrived.notify_all()
            return streams[number].collect().content

        def tell(number, *parts, last=False):
            async def work():
                await by_prompt[number].data(b"".join(parts), end=last)

            server.do(lambda: by_prompt[number].peer.start(work()))

        with running(*[lambda number=number: read(number) for number in range(50)]) as results:
            order = [number * 7 % 50 for number in range(50)]
            for position, number in enumerate(order):
                tell(number, event(str(number)))
                with arrived:
                    assert arrived.wait_for(lambda position=position: len(got) == position + 1, PATIENCE)
            assert got == order
            for number in range(50):
                tell(number, LAST, b"data: [DONE]\n\n", last=True)
        assert results == [str(number) for number in range(50)]
        assert server.connections == 1


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_cut_into_frames_is_irrelevant(size):
    """A frame per byte, or one for many events, with empty and padded ones between: the events are the same."""

    async def script(request):
        await request.whole()
        request.head(200, SSE)
        body = event("Grüße, ") + event("世界! 🎉") + LAST + b"data: [DONE]\n\n"
        for at in range(0, len(body), size):
            await request.data(body[at : at + size], pad=at % 200)
            if at % 5 == 0:
                request._call("send_data", b"", pad_length=at % 256)
        await request.data(end=True)

    with Http2Server(script) as server, provider_on(server) as provider:
        assert provider.generate_stream("x").collect().content == "Grüße, 世界! 🎉"


# --- one connection, many streams ----------------------------------------------------------------------------------------------


def test_fifty_streams_share_one_connection():
    """Fifty streams are open at once on one connection, even as the first calls of all."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = in_threads(50, lambda number: provider.generate_stream(f"x{number}"))
        assert [next(stream).content for stream in streams] == ["one"] * 50
        assert (server.connections, server.peers[0].most) == (1, 50)
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 50
        assert idle(provider)


@pytest.mark.parametrize("limit", [1, 8])
def test_excess_streams_are_all_answered(limit):
    """Streams above the limit wait, or use another connection; the limit of each is respected."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: limit}

    async def script(request):
        await request.whole()
        peers = request.peer.server.peers
        while prompt_of(request) != "still there?" and max(peer.most for peer in peers) < limit:  # noqa: ASYNC110 - a few rounds
            await asyncio.sleep(0.001)  # no answer before as many are open as are allowed
        await answer(request)

    with Http2Server(script, settings=settings) as server, provider_on(server) as provider:
        alive(provider)  # the settings are known
        answers = in_threads(60, lambda number: provider.generate(f"x{number}").content)
        assert answers == [f"x{number}" for number in range(60)]
        assert server.refused == 0
        assert max(peer.most for peer in server.peers) == limit
        assert server.connections < 30


def test_open_streams_lock_none_out():
    """As many streams as the server allows are open and silent; more calls are answered."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 5}
    with Http2Server(held(), settings=settings) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(5)]
        assert [next(stream).content for stream in streams] == ["one"] * 5
        assert provider.generate("more").content == "more"
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 5
        assert server.refused == 0


def test_answers_come_in_any_order():
    """The last request is answered first; each call gets its own answer."""
    turn: dict[int, asyncio.Event] = {number: asyncio.Event() for number in range(20)}

    async def script(request):
        await request.whole()
        number = int(prompt_of(request))
        await turn[number].wait()
        await answer(request)
        if number:
            turn[number - 1].set()

    with Http2Server(script) as server, provider_on(server) as provider:

        def ask(number):
            return provider.generate(str(number)).content

        with running(*[lambda number=number: ask(number) for number in range(20)]) as results:
            assert server.wait(lambda: len(server.requests) == 20)
            server.do(turn[19].set)
        assert results == [str(number) for number in range(20)]


def test_many_calls_keep_one_connection(full):
    """After hundreds of streams, thousands with ``--full``, the connection keeps nothing of those that ended."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        server.remembers = False
        for number in range(3000 if full else 400):
            assert provider.generate(str(number)).content == str(number)
        assert server.connections == 1
        assert len(server.peers[0].requests) <= 1
        assert server.resets == []


# --- one of many ends early ----------------------------------------------------------------------------------------------------


def leave_by_close(stream, _token):
    stream.close()


def leave_by_cancel(stream, _token):
    threading.Thread(target=stream.cancel).start()
    with pytest.raises(e.RequestCancelledError) as caught:
        stream.collect()
    assert caught.value.partial.content == "one"


def leave_by_token(stream, token):
    threading.Thread(target=token.cancel).start()
    with pytest.raises(e.RequestCancelledError):
        stream.collect()


def leave_by_break(stream, _token):
    with stream:
        return


def leave_by_exception(stream, _token):
    with pytest.raises(ZeroDivisionError), stream:
        _ = 1 / 0


LEAVING = {
    "close": leave_by_close,
    "cancel": leave_by_cancel,
    "token": leave_by_token,
    "break": leave_by_break,
    "exception": leave_by_exception,
}


@pytest.mark.parametrize("how", LEAVING)
def test_leaving_one_spares_others(how):
    """A stream closed early is reset at once, it alone, and the others are complete over the same connection."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        tokens = [CancelToken() for _ in range(10)]
        streams = [provider.generate_stream(f"x{number}", cancel=tokens[number]) for number in range(10)]
        assert [next(stream).content for stream in streams] == ["one"] * 10
        victim = next(request for request in server.requests if prompt_of(request) == "x4")
        LEAVING[how](streams[4], tokens[4])
        assert server.wait(lambda: victim.reset is not None)
        assert server.resets == [(victim.id, CANCEL)]
        server.release()
        rest = [stream for number, stream in enumerate(streams) if number != 4]
        assert [stream.collect().content for stream in rest] == ["one two"] * 9
        assert alive(provider, server)
        assert server.connections == 1
        assert len(server.resets) == 1
        assert idle(provider)


def test_forgotten_stream_is_given_up():
    """The finalizer of a forgotten stream warns and sends RST_STREAM, and the others go on."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(3)]
        assert [next(stream).content for stream in streams] == ["one"] * 3
        with pytest.warns(ResourceWarning, match="unclosed <ResponseStream"):  # noqa: PT031 - from one of the two
            del streams[1]
            gc.collect()
        assert server.wait(lambda: [code for _, code in server.resets] == [CANCEL])
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 2
        assert alive(provider)
        assert server.connections == 1
        assert idle(provider)


@pytest.mark.parametrize("limit", ["idle", "first_token", "total"])
def test_one_timeout_spares_others(limit):
    """A stream times out on time although others wait on the same connection, and events for those keep coming."""

    async def script(request):
        await request.whole()
        if prompt_of(request) == "victim":
            request.head(200, SSE)
            if limit != "first_token":
                await request.data(event("one"))
            await request.left()
            return
        await begin(request, "one")
        while not request.peer.server.released.is_set():
            await request.data(event("."))
            await asyncio.sleep(0.005)
        await end(request, "!")

    # The total deadline starts before the request is sent, and must not pass before that.
    limits = {"idle": Timeouts(idle=0.3), "first_token": Timeouts(first_token=0.3), "total": Timeouts(total=2.5)}
    least = 2.5 if limit == "total" else 0.3
    expected = {"idle": e.StreamIdleTimeoutError, "first_token": e.ReadTimeoutError, "total": e.DeadlineExceededError}
    with Http2Server(script) as server, provider_on(server) as provider:

        def other():
            return provider.generate_stream("x").collect().content

        with running(*[other] * 5) as results:
            assert server.wait(lambda: server.open_streams == 5)
            started = time.monotonic()
            with pytest.raises(expected[limit]):
                provider.generate_stream("victim", timeout=limits[limit]).collect()
            assert least - 0.05 < time.monotonic() - started < PATIENCE / 2
            assert server.wait(lambda: [code for _, code in server.resets] == [CANCEL])
            server.release()
        for text in results:
            assert text.startswith("one.")
            assert text.endswith("!")
        assert server.connections == 1


def test_timeout_before_head_frees_stream():
    """A timeout before the head resets the stream, of a plain call as well."""

    async def script(request):
        await request.whole()
        if prompt_of(request) == "victim":
            await request.left()
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        started = time.monotonic()
        with pytest.raises(e.ReadTimeoutError) as caught:
            provider.generate("victim", timeout=Timeouts(first_token=0.3))
        assert time.monotonic() - started < PATIENCE / 2
        assert caught.value.sent is True
        assert alive(provider, server)
        assert [code for _, code in server.resets] == [CANCEL]
        assert server.connections == 1


def test_cancels_before_head_spare_others():
    """Half of forty waiting plain calls are cancelled: they raise soon, the others are answered."""

    async def script(request):
        await request.whole()
        await request.peer.server.released.wait()
        await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        token = CancelToken()

        def ask(number):
            return attempt(lambda: provider.generate(f"x{number}", cancel=token if number % 2 else None))

        with running(*[lambda number=number: ask(number) for number in range(40)]) as results:
            assert server.wait(lambda: server.open_streams == 40)
            token.cancel()
            assert server.wait(lambda: len(server.resets) == 20)
            server.release()
        for number, result in enumerate(results):
            if number % 2:
                assert type(result) is e.RequestCancelledError
                assert result.sent is True
            else:
                assert result.content == f"x{number}"
        assert server.connections == 1
        assert idle(provider)


def test_failures_spare_others():
    """The server resets every second one of fifty streams: the others are complete."""

    async def script(request):
        await begin(request, "one")
        await request.peer.server.released.wait()
        if int(prompt_of(request)) % 2:
            request.abort()
        else:
            await end(request, " two")

    with Http2Server(script) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(str(number)) for number in range(50)]
        for stream in streams:
            next(stream)
        server.release()
        for number, stream in enumerate(streams):
            result = attempt(lambda stream=stream: stream.collect().content)
            if number % 2:
                assert type(result) is e.StreamInterruptedError
                assert result.partial.content == "one"
            else:
                assert result == "one two"
        assert server.connections == 1
        assert server.resets == []  # the client need not reset what the server has reset
        assert idle(provider)


# --- who opens the connection --------------------------------------------------------------------------------------------------


class Relay:
    """Forwards connections to a port, except the first, which stays silent."""

    def __init__(self, port):
        self.target = port
        self.accepted = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._open, self._threads, self._ending = [], [], threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while True:
            sock, _ = self._listener.accept()
            self._open.append(sock)
            if self._ending.is_set():
                return
            if len(self._open) == 1:
                self.accepted.release()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.target))
            self._open.append(upstream)
            for pair in ((sock, upstream), (upstream, sock)):
                self._threads.append(threading.Thread(target=_pump, args=pair))
                self._threads[-1].start()

    def close(self):
        self._ending.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(PATIENCE)
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        for sock in [*self._open, self._listener]:
            sock.close()


def test_cancelled_opener_spares_waiters():
    """The first of ten calls makes the handshake and is cancelled in the middle; the other nine are answered."""
    token = CancelToken()
    with Http2Server(answer) as server, contextlib.closing(Relay(server.port)) as relay:
        with provider_on(f"https://localhost:{relay.port}") as provider:
            with running(lambda: attempt(lambda: provider.generate("leader", cancel=token))) as first:
                assert relay.accepted.acquire(timeout=PATIENCE)
                works = [lambda number=number: provider.generate(f"x{number}").content for number in range(9)]
                with running(*works) as rest:
                    assert until(lambda: provider._runtime.in_flight == 10)
                    token.cancel()
                assert rest == [f"x{number}" for number in range(9)]
            assert type(first[0]) is e.RequestCancelledError
            assert first[0].sent is False
        assert server.connections == 1


def test_failed_connect_fails_all_waiters():
    """A connection that cannot be made fails each waiter with its own error, in time; not sent."""
    with full_backlog() as port, provider_on(f"https://127.0.0.1:{port}", timeout=Timeouts(connect=0.4)) as provider:
        started = time.monotonic()
        errors = in_threads(40, lambda number: attempt(lambda: provider.generate(f"x{number}")))
        assert time.monotonic() - started < 10, "one after the other: that takes 16 seconds"
        assert {type(error) for error in errors} == {e.ConnectTimeoutError}
        assert {error.sent for error in errors} == {False}
        assert len({id(error) for error in errors}) == 40
        assert idle(provider)


def test_connection_waiter_may_leave_alone():
    """A cancel or time limit of a call that waits for another one's handshake ends that wait only."""
    with full_backlog() as port, provider_on(f"https://127.0.0.1:{port}") as provider:
        token, leaders = CancelToken(), CancelToken()
        pool = provider._transport.adapter.pool()
        with running(lambda: attempt(lambda: provider.generate("leader", cancel=leaders))) as leader:
            assert until(lambda: pool._is_connecting)
            with running(lambda: attempt(lambda: provider.generate("x", cancel=token))) as cancelled:
                assert until(lambda: len(pool._queue) == 1)
                started = time.monotonic()
                late = attempt(lambda: provider.generate("x", timeout=Timeouts(connect=PATIENCE, total=0.3)))
                token.cancel()
            assert time.monotonic() - started < PATIENCE / 2
            assert leader == [None]
            leaders.cancel()
        assert isinstance(late, TimeoutError)
        assert late.sent is False
        assert type(cancelled[0]) is e.RequestCancelledError
        assert type(leader[0]) is e.RequestCancelledError


# --- readers that do not read --------------------------------------------------------------------------------------------------


def test_slow_reader_holds_little():
    """A slow reader holds little and stalls no other: its window stops the server; later all bytes arrive."""
    sent, much = [0], []
    pieces, piece = 2000, "y" * 20_000

    async def script(request):
        await request.whole()
        if prompt_of(request) != "much":
            await answer(request)
            return
        much.append(request)
        request.head(200, SSE)
        for _ in range(pieces):
            await request.data(event(piece))
            sent[0] += len(piece)
        await end(request)

    with Http2Server(script) as server, provider_on(server) as provider, provider.generate_stream("much") as stream:
        assert next(stream).content == piece
        tracemalloc.start()
        try:
            for number in range(30):
                assert provider.generate(f"x{number}").content == f"x{number}"
            assert until(lambda: server.do(lambda: server.peers[0].h2.local_flow_control_window(much[0].id)) == 0)
            stopped = sent[0]
            for number in range(30):
                assert provider.generate(f"x{number}").content == f"x{number}"
            held_now = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert sent[0] == stopped < 20 << 20
        assert held_now < 32 << 20
        total = len(piece) + sum(len(chunk.content) for chunk in stream)
        assert total == pieces * len(piece)
        assert server.connections == 1


@pytest.mark.full
def test_many_slow_readers_stall_nobody():
    """Twenty unread streams: what they buffer does not use up the connection's window."""
    sent: dict[str, int] = {}

    async def script(request):
        await request.whole()
        if not prompt_of(request).startswith("much"):
            await answer(request)
            return
        request.head(200, SSE)
        for _ in range(100):
            await request.data(event("z" * 50_000))
            sent[prompt_of(request)] = sent.get(prompt_of(request), 0) + 50_000
        await end(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"much{number}") for number in range(20)]
        for stream in streams:
            assert next(stream).content
        for number in range(20):
            assert provider.generate(f"x{number}", timeout=Timeouts(total=PATIENCE)).content == f"x{number}"
        lengths = in_threads(20, lambda number: sum(len(chunk.content) for chunk in streams[number]))
        assert lengths == [99 * 50_000] * 20
        assert server.connections == 1


def test_leaving_reader_returns_its_window():
    """Bytes received and never read are given back to the connection's window, also after a hundred such streams."""

    async def script(request):
        await request.whole()
        if prompt_of(request) == "much":
            request.head(200, SSE)
            while True:
                await request.data(event("z" * 30_000))
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        for _ in range(100):
            with provider.generate_stream("much") as stream:
                next(stream)
            assert provider.generate("x", timeout=Timeouts(total=PATIENCE)).content == "x"
        assert server.connections == 1
        big = "b" * 3_000_000
        assert len(provider.generate(big).content) == len(big)


def test_poll_shows_if_next_waits():
    """poll() is true for a chunk, the end and an error, and false in silence and for data of other streams."""
    go = asyncio.Event()

    async def script(request):
        await request.whole()
        if prompt_of(request) == "quick":
            await answer(request)
            return
        await begin(request)
        await go.wait()
        await end(request, "one")

    with Http2Server(script) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert stream.poll(0) is False
            assert provider.generate("quick").content == "quick"
            assert stream.poll(0.05) is False
            server.do(go.set)
            contents = []
            while stream.poll(PATIENCE):
                chunk = next(stream, None)
                if chunk is None:
                    break
                contents.append(chunk.content)
            assert contents == ["one", ""]
        assert stream.poll(0) is True


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_fully_arrived_answer_stays_whole(how):
    """A stream closed after its first chunk, with the rest received: it is settled as complete, and the server gets no RST_STREAM."""

    async def script(request):
        await request.whole()
        request.head(200, SSE)
        await request.data(event("a") + event("b") + event("c") + LAST + b"data: [DONE]\n\n", end=True)

    with Http2Server(script) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert next(stream).content == "a"
            assert stream._events is not None  # the rest came with it, otherwise the test proves nothing
            if how == "cancel":
                stream.cancel()
                assert [chunk.content for chunk in stream] == ["b", "c", ""]
        assert (stream.response.content, stream.response.finish_reason) == ("abc", "stop")
        assert provider.generate_stream("x").collect().content == "abc"
        assert server.resets == []
        assert server.connections == 1
        assert idle(provider)


def test_stream_collected_inside_connection_lock():
    """The finalizer waits for no lock; the holder resets the stream after releasing."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        bystander = provider.generate_stream("x")
        stream = provider.generate_stream("y")
        assert [next(bystander).content, next(stream).content] == ["one", "one"]
        lock = provider._transport.adapter.pool()._connections[0]._lock
        cycle = [stream]
        cycle.append(cycle)
        gc.disable()
        try:
            del stream, cycle
            done = threading.Event()

            def collect():
                with lock:
                    gc.collect()
                done.set()

            with pytest.warns(ResourceWarning), running(collect):
                assert done.wait(PATIENCE)
        finally:
            gc.enable()
        assert alive(provider)  # the next holder of the lock applies the posted change
        assert server.wait(lambda: len(server.resets) == 1)
        server.release()
        assert bystander.collect().content == "one two"
        assert server.connections == 1


# --- ends of streams -----------------------------------------------------------------------------------------------------------


def test_complete_stream_is_not_reset():
    """A stream read to its end, in any way, is not reset."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        for _ in range(20):
            assert provider.generate_stream("x").collect().content == "x"
            with provider.generate_stream("y") as stream:
                assert text_of(stream) == "y"
        assert alive(provider, server)
        assert server.resets == []
        assert server.connections == 1


def test_open_body_delays_nothing():
    """A body left open after the end mark delays nothing: the answer is complete, the connection goes on."""

    async def script(request):
        await begin(request, "one")
        await request.data(LAST + b"data: [DONE]\n\n")
        await request.left()

    with Http2Server(script) as server, provider_on(server) as provider:
        started = time.monotonic()
        assert provider.generate_stream("x").collect().content == "one"
        assert time.monotonic() - started < PATIENCE / 2
        assert server.wait(lambda: [code for _, code in server.resets] == [CANCEL])
        assert provider.generate_stream("x").collect().content == "one"
        assert server.connections == 1


def test_missing_finish_reason_means_interrupted():
    """END_STREAM ends the body, but does not complete an answer without a finish reason; the connection goes on."""

    async def script(request):
        await request.whole()
        if not json.loads(bytes(request.body)).get("stream"):
            await answer(request)
            return
        await begin(request, "one")
        await request.data(end=True)

    with Http2Server(script) as server, provider_on(server) as provider:
        with pytest.raises(e.StreamInterruptedError) as caught:
            provider.generate_stream("x").collect()
        assert caught.value.partial.content == "one"
        assert alive(provider, server)
        assert server.connections == 1
        assert server.resets == []


def test_first_chunk_failure_repeats_unseen():
    """A failure before the first chunk is retried unseen, on the same connection."""
    tries = [0]

    async def script(request):
        tries[0] += 1
        await begin(request)
        if tries[0] == 1:
            request.abort()
        else:
            await end(request, "one")

    with Http2Server(script) as server, provider_on(server, retry=QUICK) as provider:
        stream = provider.generate_stream("x")
        assert text_of(stream) == "one"
        assert [attempt.status_code for attempt in stream.response.attempts] == [200, 200]
        assert server.connections == 1


def test_head_with_end_is_seen():
    """A head that another thread stores together with its end, between two checks, is not missed."""

    class Slipping:
        """Has no head at the first check, and both a head and an end right after."""

        sent = sent_noted = True
        head_noted = ended = False
        there = None

        @property
        def head(self):
            found = self.there
            if found is None:
                self.there, self.ended = [(b":status", b"200")], True
            return found

        def failure(self):
            return AssertionError("the head was overlooked")

    call = CancelScope(SystemClock(), total_deadline=SystemClock().monotonic() + PATIENCE)
    connection = SimpleNamespace(wait=lambda _stream, _left: True)
    assert Http2Connection.await_head(connection, Slipping(), call) == [(b":status", b"200")]
