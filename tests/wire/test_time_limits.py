"""Time limits: one total over everything a call may wait for, and a limit of its own for each kind of wait."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from support.bench import Bench, refusal, streamed
from support.bench import answer as fine
from support.bench import chunk as event
from support.certificates import new_authority
from support.fakes import PATIENCE, ShiftedClock, wait_for
from support.servers import CHUNKED, answer, chunk, full_backlog, hanging, proxy_handler, serving

from groq_provider import CancelToken, FallbackProvider, GroqProvider, RateLimits, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.clock import SystemClock
from groq_provider.transport.scope import CancelScope
from groq_provider.transport.session import SessionTransport

pytestmark = pytest.mark.warm_http2

KEY = "gsk_0123456789abcdefghij"
MODEL = "m"
#: Of most calls here, in seconds. All other limits are far above, so that what ends the call is the total.
LIMIT = 0.4
#: How far the clock of a provider jumps, where the limit is that much longer: until then a call has time for whatever it does first.
AHEAD = 20.0
NEVER = RetryPolicy(max_retries=0)
HEAD = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n")
EVENT = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


class Scene:
    """Providers and servers of a test, on one clock, and what must be true of them when it is over."""

    def __init__(self, stack, tmp_path, monkeypatch):
        self.stack, self.folder, self.monkeypatch = stack, tmp_path, monkeypatch
        self.clock = ShiftedClock()
        self.providers = []

    def jump_when_begun(self):
        """Jump when the next try begins."""
        send = SessionTransport.send

        def begin(*args, **more):
            self.clock.ahead += AHEAD
            return send(*args, **more)

        self.monkeypatch.setattr(SessionTransport, "send", begin)

    def jump_when_sending(self):
        """Jump when the first bytes of a request leave: from then on nobody knows whether it was sent."""
        slot = CancelScope.sent

        def note(call, sent):
            if sent is None and not self.clock.ahead:
                self.clock.ahead += AHEAD
            slot.__set__(call, sent)

        self.monkeypatch.setattr(CancelScope, "sent", property(slot.__get__, note))

    def jump_when_sent(self, count=1):
        """Jump when that many requests have left."""
        request_sent, left = CancelScope.request_sent, iter(range(count - 1, -1, -1))

        def sent(call):
            if next(left, None) == 0:
                self.clock.ahead += AHEAD
            request_sent(call)

        self.monkeypatch.setattr(CancelScope, "request_sent", sent)

    def jump_when_answered(self):
        """Jump when the head of an answer is there."""
        send = SessionTransport.send

        def answered(*args, **more):
            wire = send(*args, **more)
            self.clock.ahead += AHEAD
            return wire

        self.monkeypatch.setattr(SessionTransport, "send", answered)

    def serve(self, handler, context=None):
        return self.stack.enter_context(serving(handler, context))

    def provider(self, url, **settings):
        """A provider whose own limits are far away."""
        limits = Timeouts(connect=60, idle=60)
        settings = {"retry": NEVER, "timeout": limits, "default_model": MODEL, "clock": self.clock, **settings}
        self.providers.append(self.stack.enter_context(GroqProvider(api_key=KEY, base_url=url, **settings)))
        return self.providers[-1]

    def certificates(self):
        return new_authority()


@pytest.fixture
def scene(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path, monkeypatch)


def held_up(provider, call, limit=LIMIT):
    """Return the error of a call that took no longer than it may and left nothing behind."""
    started = time.monotonic()
    with pytest.raises(e.GroqProviderError) as caught:
        call(provider)
    assert time.monotonic() - started < limit + 10  # what must not be waited for takes longer
    assert provider._runtime.in_flight == 0
    assert sum(status.waiting for status in provider.get_rate_limits().values()) == 0
    assert sum(status.in_flight for status in provider.get_rate_limits().values()) == 0
    return caught.value


def plainly(provider, limit=AHEAD + LIMIT, **more):
    return provider.generate("x", timeout=Timeouts(connect=60, idle=60, total=limit), **more)


def streaming(provider, limit=AHEAD + LIMIT, **more):
    with provider.generate_stream("x", timeout=Timeouts(connect=60, idle=60, total=limit), **more) as stream:
        return stream.collect()


def dripping(head, piece, pause=0.01):
    def handler(sock, server):
        server.read(sock)
        sock.sendall(head)
        while not server.released.wait(pause):
            sock.sendall(piece)

    return handler


EITHER = pytest.mark.parametrize("call", [plainly, streaming], ids=["plain", "stream"])


# --- the total, over each of the nine ----------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@EITHER
def test_total_bounds_limiter_queue(scene, call):
    """A turn that may come sooner than computed is waited for, and given up at the limit; nothing is sent."""
    server = scene.serve(hanging())
    provider = scene.provider(server.url, rate_limits=RateLimits(tpm=6000, share=1.0))
    out = provider._limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=5900)  # may give back nearly all of it
    with first_in_the_queue(provider):
        started = time.monotonic()
        with pytest.raises(e.RateLimitTimeoutError) as caught:
            call(provider, LIMIT, max_completion_tokens=100)
        assert time.monotonic() - started < LIMIT + 10  # there is room after half a minute at the earliest
        assert provider._runtime.in_flight == 0
        assert sum(status.waiting for status in provider.get_rate_limits().values()) == 1
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.sent, caught.value.attempts, server.requests) == (False, (), [])
    assert caught.value.retry_at is not None
    out.refund()


@contextlib.contextmanager
def first_in_the_queue(provider):
    """Somebody who has all the time of the world."""
    token = CancelToken()

    def wait():
        with contextlib.suppress(e.RequestCancelledError):
            provider._limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=4000, cancel=token).refund()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not any(status.waiting for status in provider.get_rate_limits().values()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        yield
    finally:
        token.cancel()
        thread.join(PATIENCE)


@pytest.mark.over_http2("bridge")
@EITHER
def test_late_turn_is_refused(scene, call):
    """Nobody waits for what is known to be in vain; the error says when to come back."""
    server = scene.serve(hanging())
    provider = scene.provider(server.url, rate_limits=RateLimits(rpm=1))
    provider._limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1).keep()
    started = time.monotonic()
    with pytest.raises(e.RateLimitTimeoutError) as caught:
        call(provider, 30)
    assert time.monotonic() - started < 10
    assert 30 < caught.value.retry_after <= 60
    assert caught.value.retry_at is not None
    assert (caught.value.sent, server.requests) == (False, [])


@pytest.mark.over_http2("bridge")
@EITHER
def test_total_bounds_connection_wait(scene, call):
    """The total bounds the wait for a connection, with all of ``max_connections`` busy."""
    server = scene.serve(hanging())
    provider = scene.provider(server.url, max_connections=1)
    permit = provider._transport._permits.acquire(CancelScope(SystemClock()), None)
    scene.jump_when_begun()
    error = held_up(provider, call)
    permit.release()
    assert type(error) is e.DeadlineExceededError
    assert (error.sent, server.connections) == (False, 0)
    assert [(attempt.error, attempt.sent) for attempt in error.attempts] == [("DeadlineExceededError", False)]


@EITHER
def test_the_total_bounds_connecting(scene, call):
    """A peer that accepts nobody."""
    port = scene.stack.enter_context(full_backlog())
    scene.jump_when_begun()
    error = held_up(scene.provider(f"http://127.0.0.1:{port}"), call)
    assert (type(error), error.sent) == (e.DeadlineExceededError, False)


@EITHER
@pytest.mark.parametrize("through", ["straight", "silent proxy", "proxy"])
def test_total_bounds_tls_handshake(scene, call, through):
    """A peer that accepts and says nothing; the tunnel of a proxy is part of it."""

    def silent(sock, server):
        server.released.wait(PATIENCE)

    server = scene.serve(silent)
    proxies = {}
    if through != "straight":
        proxy = scene.serve(silent if through == "silent proxy" else proxy_handler())
        proxies = {"proxies": {"all": proxy.url}}
    ca = scene.certificates()
    ca.cert_pem.write_to_path(str(scene.folder / "ca.pem"))
    provider = scene.provider(f"https://localhost:{server.port}", ca_bundle=str(scene.folder / "ca.pem"), **proxies)
    scene.jump_when_begun()
    error = held_up(provider, call)
    assert (type(error), error.sent) == (e.DeadlineExceededError, False)


@pytest.mark.over_http2("bridge")
@EITHER
def test_the_total_bounds_sending(scene, call):
    """To a peer that takes nothing."""
    server = scene.serve(lambda sock, server: server.released.wait(PATIENCE))
    scene.jump_when_sending()
    error = held_up(scene.provider(server.url), lambda provider: call(provider, extra_body={"pad": "x" * 24_000_000}))
    assert (type(error), error.sent) == (e.DeadlineExceededError, None)


@pytest.mark.over_http2("bridge")
@EITHER
@pytest.mark.parametrize(
    "handler",
    [
        hanging(),
        hanging(b"HTTP/1.1 200 OK\r\nX-"),
        dripping(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        dripping(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    ],
    ids=["silence", "half", "dripped", "endless 100", "endless 103"],
)
def test_the_total_bounds_the_head(scene, call, handler):
    """However much of it comes."""
    scene.jump_when_sent()
    error = held_up(scene.provider(scene.serve(handler).url), call)
    assert (type(error), error.sent) == (e.DeadlineExceededError, True)
    (attempt,) = error.attempts
    assert (attempt.error, attempt.status_code) == ("DeadlineExceededError", None)


@pytest.mark.over_http2("bridge")
@EITHER
@pytest.mark.parametrize(
    ("status", "handler"),
    [
        (200, hanging(answer(b"{}" * 50)[:-9])),
        (200, dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" ")),
        (200, dripping(b"HTTP/1.1 200 OK\r\n\r\n", b" ")),
        (200, dripping(CHUNKED, chunk(b" "))),
        (200, dripping(CHUNKED + b"0\r\n", b"X: a\r\n")),
    ],
    ids=["stall", "by length", "to the end", "chunks", "trailers"],
)
def test_the_total_bounds_the_body(scene, call, status, handler):
    """In any framing; for a stream these are lines that never end."""
    scene.jump_when_answered()
    error = held_up(scene.provider(scene.serve(handler).url), call)
    assert (type(error), error.sent) == (e.DeadlineExceededError, True)
    assert error.attempts[0].status_code == status


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "handler",
    [
        hanging(HEAD + chunk(EVENT)),
        dripping(HEAD, chunk(EVENT)),
        dripping(HEAD + chunk(EVENT), chunk(b": still there\n\n")),
        dripping(HEAD + chunk(EVENT), chunk(b"d")),
    ],
    ids=["stall", "events", "comments", "half a line"],
)
def test_the_total_bounds_a_stream(scene, handler):
    """However lively it is; what came is on the error."""

    def read(provider):
        limits = Timeouts(connect=60, idle=60, total=AHEAD + LIMIT)
        with provider.generate_stream("x", timeout=limits) as stream:
            assert next(stream).content == "a"
            scene.clock.ahead += AHEAD
            stream.collect()

    error = held_up(scene.provider(scene.serve(handler).url), read)
    assert (type(error), error.sent) == (e.DeadlineExceededError, True)
    assert set(error.partial.content) == {"a"}


@pytest.mark.over_http2("bridge")
@EITHER
def test_total_bounds_all_tries(scene, call):
    """Each of them is short, and there could be many."""

    def handler(sock, server):
        while server.read(sock) is not None:
            server.released.wait(LIMIT / 4)
            sock.sendall(answer(b"{}", "Retry-After: 0", status="503 Busy"))

    server = scene.serve(handler)
    scene.jump_when_sent(2)
    error = held_up(scene.provider(server.url, retry=RetryPolicy(max_retries=100)), call)
    assert isinstance(error, (e.DeadlineExceededError, e.OverloadedError))
    assert 2 <= len(error.attempts) <= 6
    assert {attempt.error for attempt in error.attempts[:-1]} == {"OverloadedError"}
    wait_for(lambda: len(server.requests) == sum(attempt.sent is not False for attempt in error.attempts))


@pytest.mark.over_http2("bridge")
@EITHER
def test_no_delay_outlasts_total(scene, call):
    """The refusal is raised at once, and says when."""
    server = scene.serve(hanging(answer(b"{}", "Retry-After: 45", status="503 Busy")))
    started = time.monotonic()
    with pytest.raises(e.OverloadedError) as caught:
        call(scene.provider(server.url, retry=RetryPolicy()), 30)
    assert time.monotonic() - started < 10
    assert caught.value.retry_after == 45
    assert caught.value.retry_at is not None
    assert len(caught.value.attempts) == 1


@pytest.mark.over_http2("bridge")
@EITHER
def test_total_bounds_fallback_members(scene, call):
    """The second gets what the first has left, whatever its own limits are."""
    servers = [scene.serve(hanging()) for _ in range(2)]
    members = [scene.provider(server.url) for server in servers]
    both = FallbackProvider(members, clock=scene.clock)
    limits = Timeouts(connect=60, idle=60, first_token=LIMIT / 2, total=AHEAD + LIMIT)
    patient = Timeouts(connect=60, idle=60, first_token=60, total=AHEAD + LIMIT)

    def ask(limits):
        started = time.monotonic()
        with pytest.raises(e.GroqProviderError) as caught:
            both.generate("x", timeout=limits) if call is plainly else both.generate_stream("x", timeout=limits)
        assert time.monotonic() - started < LIMIT + 10
        return caught.value

    scene.jump_when_sent(2)
    error = ask(limits)
    assert isinstance(error, TimeoutError)
    wait_for(lambda: [len(server.requests) for server in servers] == [1, 1])
    assert len(error.attempts) == 2
    scene.jump_when_sent()
    error = ask(patient)
    assert type(error) is e.DeadlineExceededError
    wait_for(lambda: [len(server.requests) for server in servers] == [2, 1])
    assert all(member._runtime.in_flight == 0 for member in members)


# --- the total, in figures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waits", "tries"), [([9.96], 0), ([0.0, 9.0], 1)], ids=["first try", "second try"])
def test_nothing_sent_under_fifty_milliseconds(waits, tries):
    """Nothing is sent with less than fifty milliseconds left: it would be charged, and no reader there for it."""
    bench = Bench(*[refusal(503)] * tries, limiter=waits, policy=RetryPolicy(base_delay=1, throttle_delay=1))
    bench.runtime.rng = _Highest()
    error = bench.fails(e.DeadlineExceededError, timeouts=Timeouts(first_token=None, total=10 if tries == 0 else 10.51))
    assert error.sent is False
    assert "10" in str(error)
    assert len(bench.transport.sent) == len(error.attempts) == tries
    assert bench.endings == ["refund tokens"] * tries + ["refund all"]
    assert bench.runtime.in_flight == 0
    assert len(bench.tracker.records) == 1


def test_short_call_is_made_anyway():
    """A call with little time from the start is made all the same: twenty milliseconds were allowed."""
    bench = Bench(fine())
    assert bench.generate(timeouts=Timeouts(total=0.02)).content


class _Highest:
    """Draws the upper bound."""

    def uniform(self, _low, high):
        return high


@pytest.mark.parametrize(("total", "tries"), [(2.03, 1), (2.05, 2), (None, 2)], ids=["too short", "enough", "none"])
def test_delay_leaves_time_for_try(total, tries):
    """At least fifty milliseconds: after half a second for the first try and one and a half for the delay."""
    bench = Bench(refusal(503, headers={"retry-after": "1.39"}), fine())
    bench.runtime.rng = _Highest()
    if tries == 1:
        error = bench.fails(e.OverloadedError, timeouts=Timeouts(total=total))
        assert error.retry_after == 1.39
        assert bench.clock.waits == []
    else:
        assert len(bench.generate(timeouts=Timeouts(total=total)).attempts) == tries


def test_try_limits_start_with_each():
    """Limits of a try start with each and end with the total: for connecting and the first token, not the queue."""
    seen = []

    def look(then):
        def step(call):
            call.request_sent()
            seen.append((call.connect_deadline - start, call.deadline - start))
            return then

        return step

    bench = Bench(
        look(refusal(503, headers={"retry-after": "2"})),
        look(refusal(503, headers={"retry-after": "2"})),
        look(fine()),
        limiter=[3.0],
    )
    start = bench.clock.monotonic()
    bench.runtime.rng = _Highest()
    bench.generate(timeouts=Timeouts(connect=4, first_token=5, total=10))
    # Tries begin after 3.0, 5.6 and 8.2 seconds: half a second each, and delays of 2.1.
    assert seen == [(pytest.approx(7.0), pytest.approx(8.0)), (pytest.approx(9.6), pytest.approx(10)), (10, 10)]


def test_making_the_body_counts():
    """The limit begins with the call, not when the prompt has been written and its tokens counted."""
    bench = Bench(fine(), tokenizer=lambda text: bench.clock.advance(3) or len(text))
    start = bench.clock.monotonic()
    response = bench.generate(timeouts=Timeouts(total=10))
    assert bench.transport.sent[0]["scope"].total_deadline == start + 10
    assert response.timing.total == 3.5


# --- the others, each by itself ----------------------------------------------------------------------------------------------


def alone(name):
    """Only this limit."""
    return Timeouts(**{"connect": None, "first_token": None, "idle": None, name: LIMIT})


@pytest.mark.over_http2("bridge")
def test_wait_bounds_the_queue(scene):
    """And is no deadline for the rest."""
    server = scene.serve(hanging())
    provider = scene.provider(server.url, rate_limits=RateLimits(rpm=1))
    provider._limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1).keep()
    error = held_up(provider, lambda p: p.generate("x", timeout=alone("wait")))
    assert (type(error), error.sent) == (e.RateLimitTimeoutError, False)


@EITHER
def test_connect_bounds_connecting(scene, call):
    """TCP and TLS together, not sent."""
    port = scene.stack.enter_context(full_backlog())
    provider = scene.provider(f"http://127.0.0.1:{port}", timeout=alone("connect"))
    error = held_up(provider, lambda p: p.generate("x") if call is plainly else p.generate_stream("x"))
    assert (type(error), error.sent, error.retryable) == (e.ConnectTimeoutError, False, True)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    ("handler", "stream"),
    [
        (hanging(), False),
        (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "), False),
        (hanging(), True),
        (hanging(HEAD), True),
        (dripping(HEAD, chunk(b": wait\n\n")), True),
        (dripping(HEAD, chunk(EVENT.replace(b'"content":"a"', b'"role":"assistant"'))), True),
    ],
    ids=["head", "last byte", "head of a stream", "first event", "comments only", "roles only"],
)
def test_first_token_bounds_answer_start(scene, handler, stream):
    """A plain answer counts to its last byte; comments and events without text are no token."""
    provider = scene.provider(scene.serve(handler).url, timeout=alone("first_token"))
    error = held_up(provider, lambda p: p.generate_stream("x").collect() if stream else p.generate("x"))
    assert (type(error), error.sent) == (e.ReadTimeoutError, True)
    assert len(error.attempts) == 1


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("polls", [False, True], ids=["next", "poll"])
@pytest.mark.parametrize(
    "piece",
    [b"", chunk(b": still there\n\n"), chunk(b"event: ping\n\n"), chunk(b"id: 7\nretry: 10\n\n"), chunk(b"d")],
    ids=["silence", "comments", "names of events", "other fields", "half a line"],
)
def test_idle_counts_data_events_only(scene, piece, polls):
    """A peer that sends other things is silent."""
    provider = scene.provider(scene.serve(dripping(HEAD + chunk(EVENT), piece)).url, timeout=alone("idle"))

    def read(p):
        with p.generate_stream("x") as stream:
            next(stream)
            while polls and not stream.poll(0.05):
                pass
            next(stream)

    error = held_up(provider, read)
    assert type(error) is e.StreamIdleTimeoutError
    assert error.partial.content == "a"


def test_data_moves_stream_deadline():
    """Events of data do, once the first token is there; comments, roles and names never do."""
    clock_at, deadlines = [], []

    def after(seconds, piece):
        def give():
            bench.clock.advance(seconds)
            clock_at.append(bench.clock.monotonic() - start)
            deadlines.append(bench.transport.sent[0]["scope"].deadline - start)
            return piece

        return give

    pieces = [
        (1, event()),  # the role
        (1, b": comment\n\n"),
        (1, event("first")),
        (1, b": comment\n\n"),
        (1, b"event: ping\n\n"),
        (1, event()),  # data, though nothing to give out
        (1, b": comment\n\n"),
        (1, event("second")),
        (1, event(finish="stop")),
        (0, b"data: [DONE]\n\n"),
    ]
    bench = Bench()
    wire = streamed(*[after(*piece) for piece in pieces])
    bench.transport.script.append(wire)
    start = bench.clock.monotonic()
    stream = bench.stream(timeouts=Timeouts(first_token=60, idle=10))
    assert [piece.content for piece in stream] == ["first", "second", ""]
    # Sent after half a second, which FakeTransport does not count; the first token comes at 3.5, the event without text at 6.5.
    assert deadlines == pytest.approx([60, 60, 60, 13.5, 13.5, 13.5, 16.5, 16.5, 18.5, 19.5])
    assert clock_at == pytest.approx([1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 9.5])


def test_reader_time_is_no_silence():
    """Time that the reader spends is not the service's silence: idle starts anew, the total does not."""
    bench = Bench()
    bench.transport.script.append(streamed(event("a"), event("b"), event(finish="stop"), b"data: [DONE]\n\n"))
    stream = bench.stream(timeouts=Timeouts(first_token=60, idle=10, total=100))
    call = bench.transport.sent[0]["scope"]
    start = call.total_deadline - 100
    next(stream)
    bench.clock.advance(50)
    next(stream)
    assert call.deadline - start == pytest.approx(60.5)
    bench.clock.advance(45)
    stream.collect()
    assert call.total_deadline - start == 100


def test_unbounded_waits_stay_unbounded():
    """Waits that are not bounded stay so: with ``None`` everywhere no instant is set."""
    seen = []

    def look(call):
        call.request_sent()
        seen.extend([call.deadline, call.connect_deadline, call.total_deadline])
        return fine()

    bench = Bench(look)
    bench.generate(timeouts=Timeouts(connect=None, first_token=None, idle=None))
    assert seen == [None, None, None]
    assert bench.limiter.asked[0]["deadline"] is None
