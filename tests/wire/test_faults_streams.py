"""Streams: one settlement, one latency record, one return or close of the socket, however a stream ends."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import textwrap
import threading
import warnings

import attrs
import pytest
from support.fakes import PATIENCE, FakeLimiter, FakeTracker, wait_for
from support.servers import chunk, reset, serving

from groq_provider import CancelToken, GroqProvider, RetryPolicy, SystemClock, Timeouts
from groq_provider import errors as e
from groq_provider.transport.requests_adapter import Response

pytestmark = pytest.mark.warm_http2

PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
SHORT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=0.3)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def event(content="", finish=None, **more):
    data = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], **more}
    return chunk(b"data: " + json.dumps(data).encode() + b"\n\n")


ONE, TWO = event("one"), event(" two")
LAST = event(finish="stop", usage={"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13})
DONE = chunk(b"data: [DONE]\n\n")


# --- ways to end -------------------------------------------------------------------------------------------------------------


def to_the_end(stream, bench):
    assert "".join(part.content for part in stream) == "one two"
    assert stream.response.usage.total_tokens == 13
    assert next(stream, None) is None


def collected(stream, bench):
    assert stream.collect().content == "one two"


def read_in_a_block(stream, bench):
    with stream:
        assert stream.collect().content == "one two"


def closed(stream, bench):
    assert next(stream).content == "one"
    stream.close()
    stream.close()


def closed_at_first(stream, bench):
    stream.close()


def left(stream, bench):
    with stream:
        for _ in stream:
            break


def left_by(cls):
    def read(stream):
        with stream:
            for _ in stream:
                raise cls

    def leave(stream, bench):
        with pytest.raises(cls):
            read(stream)

    return leave


def left_generator(stream, bench):
    def texts():
        with stream:
            for part in stream:
                yield part.content

    pieces = texts()
    assert next(pieces) == "one"
    pieces.close()  # GeneratorExit, as a web server does it when its client has gone


def raises(cls):
    def read(stream, bench):
        assert next(stream).content == "one"
        for _ in range(3):
            with pytest.raises(cls):
                stream.collect()
        stream.close()

    return read


@contextlib.contextmanager
def at_the_same_time(work):
    """Run a function in a thread, which has ended after the block."""
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()


def cancelled(stream, bench):
    assert next(stream).content == "one"
    with at_the_same_time(stream.cancel), pytest.raises(e.RequestCancelledError):
        stream.collect()


def cancelled_by_the_token(stream, bench):
    assert next(stream).content == "one"
    with at_the_same_time(bench.token.cancel), pytest.raises(e.RequestCancelledError):
        stream.collect()


def cancelled_and_closed(stream, bench):
    assert next(stream).content == "one"
    stream.cancel()
    stream.close()


def provider_closed(stream, bench):
    assert next(stream).content == "one"
    with at_the_same_time(bench.provider.close), pytest.raises(e.ProviderClosedError):
        stream.collect()


def forgotten(stream, bench):
    assert next(stream).content == "one"
    bench.forget()


def forgotten_at_first(stream, bench):
    bench.forget()


def forgotten_in_a_cycle(stream, bench):
    assert next(stream).content == "one"
    stream.itself = stream
    bench.forget()


def forgotten_after_its_end(stream, bench):
    assert stream.collect().content == "one two"
    bench.forget(warns=False)


def hang(*parts):
    def serve(sock, server):
        sock.sendall(b"".join((HEAD, *parts)))
        server.wait_for_end(sock)

    return serve


def serve_on(*parts, after=b""):
    def serve(sock, server):
        sock.sendall(b"".join((HEAD, *parts)))
        return True

    return serve


def break_off(*parts):
    def serve(sock, server):
        sock.sendall(b"".join((HEAD, *parts)))
        server.first_read.wait(PATIENCE)  # a reset overtakes what was not read
        reset(sock)

    return serve


WHOLE = serve_on(ONE, TWO, LAST, DONE, END)


@attrs.frozen
class Ending:
    """One way to end.

    Attributes:
        act: What the reader does.
        serve: What the server does; returns whether the connection goes on.
        settled: What counts of the reservation.
        record: The latency record: ``ok``, ``failed``, ``first token`` or none.
        kept: Whether the connection serves the next call.
        limits: Time limits.
    """

    act: object
    serve: object
    settled: str = "settle"
    record: str | None = "first token"
    kept: bool = False
    limits: Timeouts = PATIENT


ENDINGS = {
    "end": Ending(to_the_end, WHOLE, record="ok", kept=True),
    "collected": Ending(collected, WHOLE, record="ok", kept=True),
    "in a block": Ending(read_in_a_block, WHOLE, record="ok", kept=True),
    "end without its mark": Ending(collected, serve_on(ONE, TWO, LAST, END), record="ok", kept=True),
    "end held open": Ending(collected, hang(ONE, TWO, LAST, DONE), record="ok"),
    "end, then reset": Ending(collected, break_off(ONE, TWO, LAST), record="ok"),
    "closed": Ending(closed, hang(ONE)),
    "closed at first": Ending(closed_at_first, hang(ONE), record=None),
    "left": Ending(left, hang(ONE)),
    "left by an error": Ending(left_by(ZeroDivisionError), hang(ONE)),
    "left by an interrupt": Ending(left_by(KeyboardInterrupt), hang(ONE)),
    "left generator": Ending(left_generator, hang(ONE)),
    "cut": Ending(raises(e.StreamInterruptedError), serve_on(ONE, END), record="failed", kept=True),
    "reset": Ending(raises(e.StreamInterruptedError), break_off(ONE), record="failed"),
    "stalled": Ending(raises(e.StreamIdleTimeoutError), hang(ONE), record="failed", limits=SHORT),
    "out of time": Ending(
        raises(e.DeadlineExceededError), hang(ONE), record="failed", limits=attrs.evolve(PATIENT, total=2.0)
    ),
    "no JSON": Ending(raises(e.StreamProtocolError), hang(ONE, chunk(b"data: {no\n\n")), record="failed"),
    "bad chunk": Ending(raises(e.StreamProtocolError), hang(ONE, b"zz\r\n"), record="failed"),
    "error event": Ending(
        raises(e.ProviderUnavailableError),
        serve_on(ONE, chunk(b'data: {"error": {"message": "no", "status_code": 500}}\n\n'), END),
        record="failed",
        kept=True,
    ),
    "cancelled": Ending(cancelled, hang(ONE), record="failed"),
    "cancelled by the token": Ending(cancelled_by_the_token, hang(ONE), record="failed"),
    "cancelled and closed": Ending(cancelled_and_closed, hang(ONE)),
    "provider closed": Ending(provider_closed, hang(ONE), record="failed"),
    "forgotten": Ending(forgotten, hang(ONE)),
    "forgotten at first": Ending(forgotten_at_first, hang(ONE), record=None),
    "forgotten in a cycle": Ending(forgotten_in_a_cycle, hang(ONE)),
    "forgotten after its end": Ending(forgotten_after_its_end, WHOLE, record="ok", kept=True),
}


class Bench:
    """A provider whose limiter and tracker only take notes, and the one stream it makes."""

    def __init__(self, server, ending):
        self.limiter, self.tracker, self.token = FakeLimiter(SystemClock()), FakeTracker(), CancelToken()
        self.provider = GroqProvider(
            api_key="gsk_test",
            base_url=server.url,
            default_model="m",
            rate_limiter=self.limiter,
            latency_tracker=self.tracker,
            retry=RetryPolicy(max_retries=0),
            timeout=ending.limits,
        )
        self.streams = []

    def forget(self, *, warns=True):
        """Let the only reference that is left go, and the collector run."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.streams.clear()
            gc.collect()
        assert [item.category for item in caught] == [ResourceWarning] * warns


@pytest.mark.over_http2("bridge", but=("bad chunk",))
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_a_stream_ends_once(ending, monkeypatch, request):
    """In the books of the limiter, in the figures, and for its connection."""
    if ending.kept:
        request.getfixturevalue("unhurried")
    given_back = []
    leave = Response._release_permit
    monkeypatch.setattr(Response, "_release_permit", lambda self: (given_back.append(self.status_code), leave(self))[1])

    def handler(sock, server):
        first = True
        while server.read(sock) is not None:
            if not (ending.serve if first and server.connections == 1 else WHOLE)(sock, server):
                return
            first = False

    with serving(handler) as server:
        server.first_read = threading.Event()
        bench = Bench(server, ending)
        with bench.provider:
            bench.streams.append(bench.provider.generate_stream("Hello", cancel=bench.token))
            if ending.serve.__qualname__.startswith("break_off"):
                bench.streams[0].poll(PATIENCE)
                server.first_read.set()
            act(ending, bench)
            if ending.act is not provider_closed:
                bench.provider._runtime.calls.run_pending()  # what finalizers leave to the next call
            (reservation,) = bench.limiter.granted
            assert reservation.ending[0] == ending.settled
            endings = [item for item in reservation.calls if item[0] != "keep"]  # which is said once more, to no effect
            assert len(endings) == 1
            assert len(bench.tracker.records) == (ending.record is not None)
            if ending.record is not None:
                record = bench.tracker.records[0]
                kind = "failed" if record.get("ok") is False else "ok" if "total" in record else "first token"
                assert kind == ending.record
            assert given_back == [200]
            assert bench.provider._runtime.in_flight == 0
            assert bench.token._callbacks == {}
            bench.streams.clear()
            gc.collect()
            assert len(bench.tracker.records) == (ending.record is not None)
            assert bench.provider._runtime.calls._streams == set()
            if ending.act is not provider_closed:
                assert bench.provider.generate_stream("again", timeout=PATIENT).collect().content == "one two"
                assert server.connections == (1 if ending.kept else 2)
                assert len(bench.limiter.granted) == 2
        if not ending.kept:
            wait_for(lambda: not server._open)


def act(ending, bench):
    """Run the reader; the stream is held by the bench only."""
    if "forgotten" in ending.act.__name__:

        class Held:
            def __getattr__(self, name):
                return getattr(bench.streams[0], name)

            def __setattr__(self, name, value):
                setattr(bench.streams[0], name, value)

            def __next__(self):
                return next(bench.streams[0])

        ending.act(Held(), bench)
    else:
        ending.act(bench.streams[0], bench)


# --- the end of the interpreter ----------------------------------------------------------------------------------------------

NOTES = """
    import atexit, gc, os, sys, threading
    from groq_provider import GroqProvider, LatencyRecorder, RateLimiter

    def note(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    class Reservation:
        wait, arrival = 0.0, 1
        def __init__(self, name): self.name = name
        def settle(self, usage): note("settle", self.name, usage.completion_tokens > 0)
        def refund(self, *, keep_request=False): note("refund", self.name)
        def keep(self): note("keep", self.name)
        def feedback(self, info, limited=None): pass

    class Limiter(RateLimiter):
        def reserve(self, model, **more): return Reservation(model)
        def get_status(self): return {}

    class Tracker(LatencyRecorder):
        def record(self, model, **figures): note("record", model, *sorted(name for name in figures if figures[name] is not None))
        def get_metrics(self, model=None): pass

    provider = GroqProvider(
        base_url=sys.argv[1], api_key="gsk_test", default_model="m", rate_limiter=Limiter(), latency_tracker=Tracker()
    )
    stream = provider.generate_stream("Hello", model="the-one")
    assert next(stream).content == "one"
"""
LASTS = {
    "open in a variable": "",
    "open in a cycle": "stream.itself = stream; del stream",
    "collected just before": "stream.itself = stream; del stream; gc.collect()",
    "sys.exit": "sys.exit()",
    "sys.exit in a thread's shadow": "threading.Thread(target=lambda: next(stream), daemon=True).start(); sys.exit()",
    "an error in the block": "stream.__enter__(); sys.excepthook = lambda *given: None; 1 / 0",
    "closed by the program's own exit handler": "atexit.register(stream.close)",
    "provider closed by the program's own exit handler": "atexit.register(provider.close)",
    "a thread that goes on reading": "threading.Thread(target=stream.poll, args=(0.3,)).start()",
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("last", LASTS.values(), ids=LASTS)
def test_exit_settles_open_stream_once(last):
    """A stream open at the end of the interpreter is settled once; stderr is silent, and the peer sees the end."""
    with serving(lambda sock, server: (server.read(sock), hang(ONE)(sock, server))) as server:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(NOTES) + last, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert sorted(done.stdout.splitlines()) == ["record the-one first_token", "settle the-one True"]
        wait_for(lambda: not server._open)


def test_child_never_settles_parents_stream():
    """Though it leaves through the exit handlers: the stream is the parent's."""
    program = textwrap.dedent(NOTES) + textwrap.dedent("""
        child = os.fork()
        if child == 0:
            sys.exit()
        assert os.waitpid(child, 0)[1] == 0
        note("child gone")
    """)
    with serving(lambda sock, server: (server.read(sock), hang(ONE)(sock, server))) as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stderr == ""
        assert done.stdout.splitlines() == ["child gone", "settle the-one True", "record the-one first_token"]
