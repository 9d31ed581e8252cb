"""Cancelling: from threads, and from a signal handler that interrupts the library itself; wherever a call waits."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import queue
import signal
import socket
import ssl
import sys
import threading
import time

import pytest
from support.certificates import new_authority
from support.fakes import PATIENCE, Strike
from support.servers import CHUNKED, answer, chunk, full_backlog, serving

from groq_provider import CancelToken, GroqProvider, RateLimits, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.clock import SystemClock
from groq_provider.errors import RequestCancelledError
from groq_provider.transport.scope import CancelScope

MODEL = "m"


def test_callback_runs_exactly_once():
    """A callback runs once: before the cancel, at once after it, not after unsubscribing."""
    token, seen = CancelToken(), []
    token.subscribe(lambda: seen.append("before"))
    gone = token.subscribe(lambda: seen.append("gone"))
    token.unsubscribe(gone)
    token.cancel()
    token.cancel()
    token.subscribe(lambda: seen.append("after"))
    assert seen == ["before", "after"]
    assert token.cancelled


def test_late_subscribers_hear_of_cancel():
    """Threads that subscribe during the cancel all hear of it: no callback is lost, none runs twice."""
    for _ in range(50):
        token, heard = CancelToken(), [0] * 8
        barrier = threading.Barrier(9)

        def listen(number, token=token, heard=heard, barrier=barrier):
            def hear():
                heard[number] += 1

            barrier.wait()
            token.subscribe(hear)

        threads = [threading.Thread(target=listen, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        barrier.wait()
        token.cancel()
        for thread in threads:
            thread.join()
        assert heard == [1] * 8


class Interrupted(threading.local):
    """Runs an action at every line of a module in turn, in the same thread: what a signal handler does."""

    def __init__(self, files, at, action):
        self.files, self.left, self.action = files, at, action

    def __call__(self, frame, event, _argument):
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.action()
        return self


@pytest.mark.parametrize("at", range(1, 40))
def test_signal_handler_cancels_anywhere(at):
    """A signal handler may cancel at any line: no deadlock, and every subscriber and binder hears of it."""
    call, heard = CancelScope(SystemClock()), []
    one, other = socket.socketpair()
    told = False
    with one, other:
        sys.settrace(Interrupted(("cancel.py", "scope.py"), at, call.cancel))
        try:
            handle = call.subscribe(lambda: heard.append(1))
            try:
                call.bind(one)
            except RequestCancelledError:
                told = True
            call.unbind()
            call.unsubscribe(handle)
        finally:
            sys.settrace(None)
        assert heard in ([], [1])
        if told:
            assert heard == [1]
        assert call.cancelled or at > 12  # the scenario has at least so many lines


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_real_signal_handler_never_deadlocks():
    """SIGALRM strikes while the main thread subscribes and unsubscribes."""
    token, before = CancelToken(), signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, lambda *_: token.cancel())
    try:
        for _ in range(20):
            token = CancelToken()
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            while not token.cancelled:
                token.unsubscribe(token.subscribe(lambda: None))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- wherever a call waits ---------------------------------------------------------------------------------------------------


def data_of(text=None, finish=None):
    delta = {} if text is None else {"content": text}
    data = {"id": "1", "model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def event(text=None, finish=None):
    return chunk(data_of(text, finish))


HEAD = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")
REST = event(finish="stop") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def whole(text):
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    body = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": choices})
    return answer(body.encode(), "Content-Type: application/json")


class Where:
    """A place where a call waits.

    Args:
        sent: What the error says of the request.
        tls: Whether over TLS.
        begun: Bytes of the answer that come; ``None``: not even the request is read.
        stream: Whether the call is a stream, read for its second chunk.
        connection: What becomes of the call's connection: ``made`` and dropped, ``none`` made, ``kept`` from an earlier answer.
        settings: Of the provider.
    """

    def __init__(self, sent, *, tls=False, begun=b"", stream=False, connection="made", **settings):
        self.sent, self.tls, self.begun, self.stream = sent, tls, begun, stream
        self.connection, self.settings = connection, settings


HINT = answer(b"{}", "Retry-After: 50", status="503 Busy")
BROKEN = HEAD + chunk(b'data: {"error": {"message": "Try again in 50s.", "status_code": 503}}\n\n') + b"0\r\n\r\n"
PLACES = {
    "limiter wait": Where(False, connection="none", rate_limits=RateLimits(rpm=2)),
    "pool wait": Where(False, connection="none", max_connections=2),
    "retry sleep": Where(False, begun=HINT, connection="kept", retry=RetryPolicy()),
    "retry sleep before a stream": Where(False, begun=HINT, connection="kept", stream=True, retry=RetryPolicy()),
    "retry sleep inside a stream": Where(False, begun=BROKEN, connection="kept", stream=True, retry=RetryPolicy()),
    "connect": Where(False, connection="none"),
    "TLS handshake": Where(False, tls=True),
    "send": Where(None, begun=None),
    "send, TLS": Where(None, begun=None, tls=True),
    "head": Where(True),
    "head, TLS": Where(True, tls=True),
    "half a head": Where(True, begun=b"HTTP/1.1 200 OK\r\nX-"),
    "body": Where(True, begun=whole("x")[:-5]),
    "body, TLS": Where(True, begun=whole("x")[:-5], tls=True),
    "error body": Where(True, begun=answer(b"x" * 100, status="500 No")[:-50]),
    "stream": Where(True, begun=HEAD + event("one"), stream=True),
    "stream, TLS": Where(True, begun=HEAD + event("one"), stream=True, tls=True),
    "stream before the first chunk": Where(True, begun=HEAD + event(), stream=True),
    "stream, half an event": Where(True, begun=HEAD + event("one") + event("two")[:-9], stream=True),
}


@pytest.fixture(autouse=True)
def _unhurried(unhurried):
    """A connection that is kept is kept also where the end of its last answer comes late."""


class Stage:
    """A server, a provider, another call of it that is under way, and one that waits at a place."""

    def __init__(self, name, where, context):
        self.name, self.where = name, where
        self.context = context
        self.go = threading.Event()  # lets the bystander end
        self.blocked = threading.Event()  # the server has come to where it leaves the call waiting
        self.ended = threading.Event()  # the waiting call's connection has ended
        self.over = threading.Event()  # the call was ended
        self.token = CancelToken()
        self.stream = None
        self.dead_port = None  # where further connections go
        self._numbers = iter(range(1000))

    def serve(self, sock, server):
        number = next(self._numbers)  # connections are made one after the other here
        if self.context is not None:
            if self.name == "TLS handshake" and number == 1:
                return self._leave_waiting(sock)
            sock = self.context.wrap_socket(sock, server_side=True)
        with sock:
            if number == 1 and self.where.begun is None:
                sock.recv(1000)
                return self._leave_waiting(sock)
            while (request := server.read(sock)) is not None:
                prompt = json.loads(request.body)["messages"][0]["content"]
                if prompt == "bystander":
                    sock.sendall(HEAD + event("by"))
                    self.go.wait(PATIENCE)
                    sock.sendall(event("stander") + REST)
                elif prompt == "after":
                    sock.sendall(whole("after"))
                else:
                    sock.sendall(self.where.begun)
                    if self.where.connection == "made":
                        return self._leave_waiting(sock)
                    self.blocked.set()
        return None

    def _leave_waiting(self, sock):
        self.blocked.set()
        if self.where.begun is None:
            self.over.wait(PATIENCE)  # reads nothing, so that the sender stays where it is
        with contextlib.suppress(OSError):
            while sock.recv(65_536):
                pass
        self.ended.set()

    def call(self):
        """Make the call that will wait."""
        more = {"extra_body": {"pad": "x" * 24_000_000}} if self.where.begun is None else {}
        if not self.where.stream:
            self.provider.generate("victim", cancel=self.token, **more)
            return
        self.stream = self.provider.generate_stream("victim", cancel=self.token)
        for _ in self.stream:
            pass

    def state(self):
        """The waiting call; ``None`` before it is made."""
        found = [call for known in list(self.provider._runtime.calls._scopes) if (call := known()) is not None]
        return next((call for call in found if call is not self.bystander._call.scope), None)

    def reached(self):
        """Whether the call waits where it should."""
        call = self.state()
        if call is None:
            return False
        if self.name == "limiter wait":
            return self.provider.get_rate_limits()[MODEL].waiting == 1
        if self.name == "pool wait":
            return len(self.provider._transport._permits._waiters) == 1
        if self.name.startswith("retry sleep"):
            return self.blocked.is_set() and bool(call._callbacks)
        if self.name == "connect":
            return call._bound is not None
        if self.name == "TLS handshake":
            return isinstance(call._bound, ssl.SSLSocket) and self.blocked.is_set()
        if self.where.stream and self.stream is None:
            return False
        if self.where.begun and b'"one"' in self.where.begun and self.stream.partial.content != "one":
            return False
        return self.blocked.is_set() and (self.where.begun is None or call.sent_at is not None)

    def wait_until_reached(self):
        deadline = time.monotonic() + PATIENCE
        while not self.reached():
            assert time.monotonic() < deadline, "the call did not come to where it should wait"
            time.sleep(0.001)

    def check_left(self, *, torn=False):
        """Nothing of the ended call is left, its connection is gone, and others go on undisturbed.

        With *torn* an interrupt may have struck while a connection of HTTP/2 took in frames for all: nobody can finish that, so the
        connection ends with all that is on it, each with an error that may be retried.
        """
        provider, pool = self.provider, self.provider._transport.adapter._pool
        assert provider._runtime.in_flight == 1
        assert "0 calls" in repr(self.token)
        status = provider.get_rate_limits()[MODEL]
        assert (status.in_flight, status.waiting) == (1, 0)
        if self.where.connection == "made":
            assert self.ended.wait(PATIENCE), "the connection is still open"
        assert pool.idle() == (self.where.connection == "kept")
        before = self.server.connections
        self.dead_port = None
        if self.name == "pool wait":
            self.first_in_pool.release()
        if self.name != "limiter wait":
            assert provider.generate("after").content == "after"
            assert torn or self.server.connections == before + (self.where.connection != "kept")
        self.go.set()
        if torn:
            with contextlib.suppress(e.StreamInterruptedError):
                assert "".join(piece.content for piece in self.bystander) == "stander"
        else:
            assert "".join(piece.content for piece in self.bystander) == "stander"
        assert provider._runtime.in_flight == 0
        assert provider.get_rate_limits()[MODEL].in_flight == 0


@contextlib.contextmanager
def staged(name, tmp_path, monkeypatch):
    """A :class:`Stage` with the bystander under way."""
    where = PLACES[name]
    context, url, more = None, "http://service.test", {"allow_insecure": True}
    if where.tls:
        ca = new_authority()
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("service.test").configure_cert(context)
        url, more = "https://service.test", {"ca_bundle": str(tmp_path / "ca.pem")}
    stage = Stage(name, where, context)
    with contextlib.ExitStack() as stack:
        stage.server = stack.enter_context(serving(stage.serve))
        dead = stack.enter_context(full_backlog())

        look_up = socket.getaddrinfo

        def found(host, *args, **more):
            if host != "service.test":
                return look_up(host, *args, **more)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", stage.dead_port or stage.server.port))]

        monkeypatch.setattr(socket, "getaddrinfo", found)
        settings = {
            "retry": RetryPolicy(max_retries=0),
            "timeout": Timeouts(first_token=PATIENCE),
            **more,
            **where.settings,
        }
        stage.provider = stack.enter_context(
            GroqProvider(api_key="gsk_0123456789abcdefghij", base_url=url, default_model=MODEL, **settings)
        )
        stage.bystander = stack.enter_context(stage.provider.generate_stream("bystander"))
        stack.callback(stage.go.set)
        stack.callback(stage.over.set)
        assert next(stage.bystander).content == "by"
        if name == "limiter wait":
            stage.provider._limiter.reserve(MODEL, prompt_tokens=1).keep()
        if name == "pool wait":
            stage.first_in_pool = stage.provider._transport._permits.acquire(CancelScope(SystemClock()), None)
        if name == "connect":
            stage.dead_port = dead
        yield stage


def cancellations():
    for name, where in PLACES.items():
        yield pytest.param(name, "token", id=f"{name}-token")
        if where.stream and name != "retry sleep before a stream":
            yield pytest.param(name, "stream", id=f"{name}-stream.cancel")


@pytest.mark.over_http2("bridge", but=("connect-*", "*TLS*"))
@pytest.mark.parametrize(("name", "how"), list(cancellations()))
def test_cancel_ends_every_wait(name, how, tmp_path, monkeypatch):
    """A cancel ends a waiting call soon, with its own error; its connection is gone, the call beside it unharmed."""
    with staged(name, tmp_path, monkeypatch) as stage:
        raised: queue.SimpleQueue = queue.SimpleQueue()

        def run():
            try:
                stage.call()
            except BaseException as error:
                raised.put((error, time.monotonic()))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            stage.wait_until_reached()
            at = time.monotonic()
            (stage.token if how == "token" else stage.stream).cancel()
            error, ended = raised.get(timeout=PATIENCE)
        finally:
            stage.over.set()
            stage.token.cancel()
            thread.join(PATIENCE)
        assert type(error) is RequestCancelledError
        assert ended - at < 5  # nothing that it waits for ends before PATIENCE
        assert error.sent is stage.where.sent
        assert not error.retryable
        tries = [attempt.error for attempt in error.attempts]
        if name.startswith("retry sleep"):
            assert tries == ["OverloadedError"]
        else:
            assert tries == ([] if name == "limiter wait" else ["RequestCancelledError"])
        if stage.stream is not None:
            expected = "one" if b"one" in stage.where.begun else ""
            assert error.partial.content == stage.stream.partial.content == expected
        stage.check_left()


@pytest.mark.over_http2("bridge", but=("connect", "*TLS*"))
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals for threads")
@pytest.mark.parametrize("name", PLACES)
def test_ctrl_c_ends_every_wait(name, tmp_path, monkeypatch, wire):
    """Ctrl-C ends a waiting call the same way; KeyboardInterrupt goes through unchanged."""
    with staged(name, tmp_path, monkeypatch) as stage:
        missed = []

        def interrupt():
            try:
                stage.wait_until_reached()
            except AssertionError as problem:
                missed.append(problem)
            strike.send()

        thread = threading.Thread(target=interrupt)
        with Strike(signal.SIGINT, KeyboardInterrupt) as strike:
            thread.start()
            try:
                with pytest.raises(KeyboardInterrupt) as caught:
                    stage.call()
            finally:
                strike.call_off()
                stage.over.set()
                thread.join(PATIENCE)
        assert missed == []
        assert type(caught.value) is KeyboardInterrupt
        del caught
        stage.check_left(torn=wire.kind == "bridge")


@pytest.mark.over_http2("bridge", but=("TLS-*",))
@pytest.mark.parametrize("managed", [True, False], ids=["with", "bare"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_closed_generator_leaves_nothing(managed, tls, tmp_path, monkeypatch):
    """GeneratorExit strikes where somebody hands the chunks on; without a context manager the collector does it, and warns."""
    with staged("stream, TLS" if tls else "stream", tmp_path, monkeypatch) as stage:

        def handed_on():
            if managed:
                with stage.provider.generate_stream("victim") as stream:
                    for piece in stream:
                        yield piece.content
            else:
                for piece in stage.provider.generate_stream("victim"):
                    yield piece.content

        generator = handed_on()
        assert next(generator) == "one"
        if managed:
            generator.close()
        else:
            with pytest.warns(ResourceWarning, match="unclosed <ResponseStream"):  # noqa: PT031 - it comes of one of the two
                generator.close()
                gc.collect()
            stage.provider._runtime.calls.run_pending()  # what a finalizer leaves for the next call
        stage.check_left()


@pytest.mark.over_http2("bridge")
def test_cancel_drops_buffered_chunks():
    """What had come before the cancel is not given out after it, though whole answers wait in the buffers."""

    def flood(sock, server):
        server.read(sock)
        sock.sendall(HEAD)
        while not server.released.is_set():
            sock.sendall(chunk(data_of("a") * 100))

    with serving(flood) as server, GroqProvider(api_key="gsk_0123456789abcdefghij", base_url=server.url) as provider:
        with provider.generate_stream("x", model=MODEL) as stream:
            for _ in range(10):
                next(stream)
            assert stream._events is not None  # more has come
            stream.cancel()
            with pytest.raises(RequestCancelledError) as caught:
                next(stream)
            assert len(caught.value.partial.content) > 10  # with what had come and nobody asked for
            with pytest.raises(RequestCancelledError):
                next(stream)
        assert provider._transport.adapter._pool.idle() == 0
        assert provider._runtime.in_flight == 0


@pytest.mark.parametrize("end", ["close", "cancel"])
def test_fully_arrived_answer_stays_whole(end):
    """Left after the first chunk, with the rest in the buffer: it is accounted for as what it is, and its connection kept."""
    whole = (
        HEAD + b"".join(event(text) for text in "abc") + REST
    )  # one packet: it comes in one read, or the test says nothing

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(whole)

    with serving(handler) as server, GroqProvider(api_key="gsk_0123456789abcdefghij", base_url=server.url) as provider:
        with provider.generate_stream("x", model=MODEL) as stream:
            next(stream)
            assert stream._events is not None
            if end == "cancel":
                stream.cancel()
                assert [chunk.content for chunk in stream] == ["b", "c", ""]
        assert (stream.response.content, stream.response.finish_reason) == ("abc", "stop")
        assert provider._transport.adapter._pool.idle() == (end == "close")
        assert provider._runtime.in_flight == 0


@pytest.mark.over_http2("bridge")
def test_one_token_ends_mixed_waits():
    """One token ends calls that wait at different places, and none that it was not given to."""
    release = threading.Event()

    def handler(sock, server):
        while (request := server.read(sock)) is not None:
            prompt = json.loads(request.body)["messages"][0]["content"]
            if prompt != "after":
                release.wait(PATIENCE)
            sock.sendall(HINT if prompt == "refused" else whole(prompt))

    with serving(handler) as server:
        limits = RateLimits(models={"full": RateLimits(rpm=1)})
        with GroqProvider(
            api_key="gsk_0123456789abcdefghij", base_url=server.url, rate_limits=limits, default_model=MODEL
        ) as provider:
            provider.generate("after", model="full")
            token, outcomes = CancelToken(), {}

            def call(name, **more):
                try:
                    outcomes[name] = provider.generate(name, **more).content
                except e.GroqProviderError as error:
                    outcomes[name] = type(error)

            calls = [
                functools.partial(call, "limiter", model="full", cancel=token),
                functools.partial(call, "head", cancel=token),
                functools.partial(call, "other"),
            ]
            threads = [threading.Thread(target=work) for work in calls]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + PATIENCE
            while len(server.requests) < 3 or not provider.get_rate_limits()["full"].waiting:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            token.cancel()
            threads[0].join(PATIENCE)
            threads[1].join(PATIENCE)
            assert outcomes == {"limiter": RequestCancelledError, "head": RequestCancelledError}
            release.set()
            threads[2].join(PATIENCE)
            assert outcomes["other"] == "other"
            with pytest.raises(RequestCancelledError):
                provider.generate("later", cancel=token)
            assert len(server.requests) == 3
