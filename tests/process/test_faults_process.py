"""The fault matrix, cases 72 to 80: clocks, signals, interrupts at any line, garbage, closing, the end of the interpreter, many threads.

Case 73, forks, needs processes of its own: see ``ELSEWHERE``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import linecache
import logging
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections import deque
from datetime import timedelta
from pathlib import Path

import pytest
from support.fakes import PATIENCE, FakeClock, Strike, wait_for
from support.matrix import ELSEWHERE
from support.servers import FaultServer, answer, chunk, read_request, serving

import groq_provider
from groq_provider import BreakerPolicy, FallbackProvider, GroqProvider, RateLimits, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call.breaker import CircuitBreaker
from groq_provider.ratelimit.estimate import estimate_text_tokens
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.testing import Gate, Reply

MODEL = "openai/gpt-oss-20b"
KEY = "gsk_PROCESScanaryOfLettersOnly"
PACKAGE = Path(groq_provider.__file__).parent
TESTS = Path(__file__).resolve().parents[1]
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
NO_RETRY = RetryPolicy(max_retries=0)


@pytest.mark.parametrize("case", ELSEWHERE)
def test_cases_held_elsewhere_are_there(case):
    """Under the names given here."""
    for place in ELSEWHERE[case]:
        module, _, name = place.partition("::")
        assert f"\ndef {name}(" in (TESTS / module).read_text(encoding="utf-8")


def counts(provider):
    """Return how many hold a place and how many wait for one."""
    found = provider.get_rate_limits().values()
    return sum(status.in_flight for status in found), sum(status.waiting for status in found)


@contextlib.contextmanager
def running(*works):
    """Run functions in threads for the length of a block; they end with it."""
    problems = []

    def run(work):
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    assert problems == []


# --- 72: clocks --------------------------------------------------------------------------------------------------------------


class JumpingClock(FakeClock):
    """A wall clock that is an hour fast, then an hour slow, at every look; time itself passes evenly."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self._jumps = itertools.cycle([timedelta(hours=1), timedelta(hours=-1), timedelta(days=-400)])

    def now(self):
        return super().now() + next(self._jumps)


def test_72_limiter_ignores_wall_clock():
    """The burst, then one call every two seconds."""
    clock = JumpingClock()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=30), clock=clock)
    waits = []
    for _ in range(33):
        held = limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
        waits.append(held.wait)
        held.keep()
    assert waits == [0.0] * 30 + [pytest.approx(2.0, abs=1e-5)] * 3


def test_72_breaker_ignores_wall_clock():
    """Open for its five seconds, no more and no less."""
    clock = JumpingClock()
    breaker = CircuitBreaker(BreakerPolicy(jitter=0.0), clock)
    for _ in range(5):
        breaker.report(breaker.acquire(), False, not_sent=True)
    clock.advance(4.9)
    with pytest.raises(e.CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == pytest.approx(0.1, abs=1e-6)
    clock.advance(0.2)
    assert breaker.acquire().probe


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("headers", [["Retry-After: 5"], ["Date: Mon, 05 May 2025 08:00:00 GMT", "Retry-After: Mon, 05 May 2025 08:00:05 GMT"]], ids=["seconds", "date"])  # fmt: skip
def test_72_delays_ignore_wall_clock(headers):
    """Delays and deadlines ignore the wall clock: a date counts against the answer's own, the total runs evenly."""
    clock = JumpingClock()
    refusal = answer(b"{}", *headers, status="503 Busy")

    def handler(sock, server):
        while server.read(sock) is not None:
            clock.advance(1.0)
            sock.sendall(refusal)

    with (
        serving(handler) as server,
        GroqProvider(api_key=KEY, base_url=server.url, clock=clock, default_model=MODEL) as provider,
    ):
        started = clock.monotonic()
        with pytest.raises(e.OverloadedError) as caught:
            provider.generate("x", timeout=12.0)
        assert len(caught.value.attempts) == 2
        assert 7.0 <= clock.monotonic() - started <= 7.5


@pytest.mark.over_http2("bridge")
def test_72_suspended_machine_resumes_well(emulator):
    """Hours pass between two calls: full buckets, a new connection, no error; in the middle of one, the time is up."""
    clock = FakeClock()
    provider = GroqProvider(
        api_key=emulator.api_key,
        base_url=emulator.base_url,
        clock=clock,
        default_model=MODEL,
        rate_limits=RateLimits(rpm=2),
        retry=NO_RETRY,
    )
    with provider:
        for _ in range(2):
            assert provider.generate("x").content
        clock.advance(5 * 3600)
        assert provider.generate("x").timing.wait == 0
        assert emulator.connections >= 2
        assert provider.get_rate_limits()[MODEL].windows["rpm"].remaining == 1
        gate = Gate()
        emulator.enqueue(Reply("one two", gate=gate))
        gate.release(2)
        stream = provider.generate_stream("x", timeout=60.0)
        assert next(stream).content
        clock.advance(5 * 3600)
        with pytest.raises(e.DeadlineExceededError) as caught:
            next(stream)
        assert caught.value.partial.content
        gate.open()


# --- 74, 75: signals ---------------------------------------------------------------------------------------------------------


class Ended(BaseException):
    """What a program's own handler of SIGTERM raises."""


SIGNALS = pytest.mark.parametrize(
    ("number", "raised"),
    [pytest.param(signal.SIGINT, KeyboardInterrupt, id="SIGINT"), pytest.param(signal.SIGTERM, Ended, id="SIGTERM")],
)


@pytest.mark.over_http2("bridge")
@SIGNALS
def test_74_signal_leaves_limiter_queue(make, number, raised):
    """The next one moves up, everything is given back, and what was raised goes through unchanged."""
    provider = make(rate_limits=RateLimits(rpm=1))
    held = provider._limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
    behind = []

    def interrupt():
        wait_for(lambda: counts(provider) == (1, 1), "the main thread to wait")
        second = threading.Thread(target=lambda: behind.append(provider.generate("second").content))
        second.start()
        wait_for(lambda: counts(provider) == (1, 2), "the second to wait")
        strike.send()
        wait_for(lambda: counts(provider) == (1, 1), "the main thread to leave")
        held.refund()
        second.join(PATIENCE)

    with Strike(number, raised) as strike, running(interrupt), pytest.raises(raised) as caught:
        provider.generate("first")
    assert type(caught.value) is raised
    assert behind
    assert behind[0].startswith("second")
    assert counts(provider) == (0, 0)
    assert provider._runtime.in_flight == 0
    assert provider.get_latency_metrics().error_count == 0


#: Functions that wait for the socket, of HTTP/1.1 and of HTTP/2.
READS = ("receive", "_wait_io")


@pytest.mark.over_http2("bridge")
@SIGNALS
def test_75_signal_closes_blocked_stream(emulator, make, number, raised):
    """The socket is closed, what came is settled and stays readable, and what was raised goes through unchanged."""
    provider = make(rate_limits=RateLimits(tpd=1_000_000, rpd=1000, share=1.0))
    gate = Gate()
    emulator.enqueue(Reply(chunks=["one", " two", " three"], gate=gate))
    gate.release(3)
    stream = provider.generate_stream("x", max_completion_tokens=1000)
    assert [next(stream).content, next(stream).content] == ["one", " two"]
    main = threading.get_ident()

    def interrupt():
        wait_for(lambda: sys._current_frames()[main].f_code.co_name in READS, "the main thread to read")
        strike.send()

    with Strike(number, raised) as strike, running(interrupt), pytest.raises(raised):
        next(stream)
    assert stream.partial.content == "one two"
    assert stream.partial.finish_reason is None
    assert counts(provider) == (0, 0)
    assert provider._runtime.in_flight == 0
    window = provider.get_rate_limits()[MODEL].windows["tpd"]
    assert window.limit - window.remaining <= 10 + estimate_text_tokens(len("one two"))
    gate.open()
    assert emulator.wait_until(lambda emulator: not emulator.open_connections, PATIENCE)
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)


# --- 76: an exception at any line --------------------------------------------------------------------------------------------

BODY = "".join(
    f"data: {json.dumps(item)}\n\n"
    for item in (
        {"choices": [{"delta": {"content": "one"}}]},
        {"choices": [{"delta": {"content": " two"}}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    )
).encode() + b"data: [DONE]\n\n"  # fmt: skip
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    [chunk(BODY[:150]), chunk(BODY[150:]), b"0\r\n\r\n"]
)
PLAIN = answer(
    json.dumps(
        {
            "choices": [{"message": {"content": "one two"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2},
        }
    ).encode(),
    "Content-Type: application/json",
)


def answering(sock, server):
    """Answer plain and streamed requests with the same words."""
    while (request := read_request(sock)) is not None:
        sock.sendall(STREAM if b'"stream":true' in request.body else PLAIN)


def plain_call(provider):
    assert provider.generate("x").content == "one two"


def whole_stream(provider):
    with provider.generate_stream("x") as stream:
        assert "".join(part.content for part in stream) == "one two"


def left_stream(provider):
    with provider.generate_stream("x") as stream:
        assert next(stream).content == "one"


class Striker:
    """Raises KeyboardInterrupt at the n-th line of these modules that the thread comes to."""

    def __init__(self, modules, number):
        self.files = {str(PACKAGE / name) for name in modules}
        assert all(Path(file).is_file() for file in self.files)
        self.left = number
        self.where = None

    def __call__(self, frame, event, _arg):
        name = frame.f_code.co_filename
        if name not in self.files or frame.f_code.co_name in ("__del__", "abandon", "drop", "later"):
            return None  # what finalizers call: Python swallows what they raise
        if frame.f_code.co_name == "__init__" and name.endswith("connection.py"):
            return None  # a file object that is struck while it is made complains of that when it is collected, since Python 3.13
        # The line of a with statement on a lock comes again on its way out, before the lock is free. A real interrupt is never
        # handled there: the interpreter looks for one after calls and on jumps back.
        # Nor at a `try:`, which is no instruction that does anything: what is around it does not cover it.
        # Nor between a step of a loop that takes a lock and its `try`, nor before the release in its `finally`.
        line = linecache.getline(name, frame.f_lineno)
        idle = (
            "with " in line
            or line.strip() == "try:"
            or re.search(r"\b(_lock_attempts|is_reader|_release_lock)\b", line)
        )
        if event == "line" and self.where is None and not idle:
            if self.left == 0:
                self.where = f"{Path(name).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise KeyboardInterrupt(self.where)
            self.left -= 1
        return self


@contextlib.contextmanager
def striking(modules, number):
    striker = Striker(modules, number)
    before = sys.gettrace()
    sys.settrace(striker)
    try:
        yield striker
    finally:
        sys.settrace(before)


MODULES = {
    "limiter": ["ratelimit/limiter.py", "ratelimit/model.py", "ratelimit/queue.py", "ratelimit/reservation.py", "ratelimit/bucket.py"],
    "call": ["call/caller.py", "call/registry.py", "call/call.py", "provider.py", "call/retry.py", "cancel.py", "latency.py"],
    "stream": ["call/stream.py", "call/chunk_decoder.py", "call/body_sniffer.py", "call/arrival.py", "wire/assemble.py", "wire/sse.py"],
    "pool": ["transport/http1/pool.py", "transport/session.py", "transport/scope.py", "transport/http1/connection.py"],
    "answer": ["transport/requests_adapter.py"],
}  # fmt: skip


def check_after(provider, where):
    """Nobody holds or waits for a place, no call is under way, and the provider works as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of a stream that could not be handed over
        gc.collect()
    whole_stream(provider)
    assert counts(provider) == (0, 0), where
    assert provider._runtime.in_flight == 0, where
    assert provider._runtime.calls._pending_actions == deque(), where
    pool = provider._transport.adapter._pool
    assert pool is None or pool.idle() <= 2, where
    for window in provider.get_rate_limits()[MODEL].windows.values():
        assert window.remaining <= window.limit, where


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("call", [plain_call, whole_stream, left_stream], ids=lambda call: call.__name__)
@pytest.mark.parametrize("part", MODULES)
def test_76_interrupted_line_leaves_nothing(part, call, full):
    """An interrupt at any line leaves no reservation, no call under way and no connection with unread bytes."""
    struck = 0
    with (
        serving(answering) as server,
        GroqProvider(
            api_key=KEY,
            base_url=server.url,
            default_model=MODEL,
            rate_limits=RateLimits(rpm=1_000_000, tpd=1_000_000_000),
            timeout=Timeouts(total=PATIENCE),
        ) as provider,
    ):
        plain_call(provider)
        for number in itertools.count(step=1 if full else 5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                with contextlib.suppress(KeyboardInterrupt), striking(MODULES[part], number) as striker:
                    call(provider)
                check_after(provider, striker.where)
            if striker.where is None:
                break
            struck += 1
    assert struck or (part, call) == ("stream", plain_call)


@pytest.mark.over_http2("bridge", full=True)
@pytest.mark.parametrize("way", ["provider", "fallback"])
def test_76_interrupt_never_fakes_whole(way):
    """No interrupt makes a part look whole: a reader who catches one and goes on gets all the rest, or an error."""
    words = [f" {number}" for number in range(8)]
    items = [{"choices": [{"delta": {"content": word}}]} for word in words]
    items.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(item)}\n\n" for item in items).encode() + b"data: [DONE]\n\n"

    def at_once(sock, server):
        while read_request(sock) is not None:
            sock.sendall(answer(body, "Content-Type: text/event-stream"))

    endings = set()
    with (
        serving(at_once) as server,
        GroqProvider(
            api_key=KEY, base_url=server.url, default_model=MODEL, rate_limits=RateLimits(rpm=1_000_000)
        ) as provider,
    ):
        asker = FallbackProvider([provider]) if way == "fallback" else provider
        for number in itertools.count():
            given = []
            with asker.generate_stream("x") as stream:
                with (
                    contextlib.suppress(KeyboardInterrupt),
                    striking([*MODULES["stream"], "fallback/fallback_stream.py"], number) as striker,
                ):
                    given.extend(part.content for part in stream)
                if striker.where is None:
                    break
                try:
                    given.extend(part.content for part in stream)
                except (RuntimeError, e.GroqProviderError):
                    assert "".join(words).startswith("".join(given)), striker.where
                    endings.add("error")
                else:
                    assert "".join(given) == "".join(words), striker.where
                    endings.add("whole")
                with contextlib.suppress(RuntimeError, e.GroqProviderError):
                    assert stream.response.content == "".join(words), striker.where
    assert endings == {"error", "whole"}
    assert given == [*words, ""]


@pytest.mark.over_http2("bridge", full=True)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that strikes in a finalizer
def test_76_foreign_exceptions_leave_nothing(full):
    """Exceptions from other threads, thrown at the interpreter's own moment, leave nothing behind."""

    class Struck(BaseException):
        pass

    rounds = 2000 if full else 200
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    with (
        serving(answering) as server,
        GroqProvider(
            api_key=KEY, base_url=server.url, default_model=MODEL, rate_limits=RateLimits(rpm=1_000_000, share=1.0)
        ) as provider,
    ):
        caught, stop, progress = [], threading.Event(), [0]

        def work():
            while not stop.is_set():
                try:
                    while not stop.is_set():
                        for call in (plain_call, whole_stream, left_stream):
                            call(provider)
                            progress[0] += 1
                except Struck as struck:
                    caught.append(struck.with_traceback(None))

        thread = threading.Thread(target=work, daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            thread.start()
            wait = threading.Event()
            for number in range(rounds):
                reached = progress[0]
                wait_for(lambda reached=reached: progress[0] > reached, "a call to end: the thread is stuck")
                wait.wait(0.0003 * (number % 11))
                before, reached = len(caught), progress[0]
                assert raise_in(ctypes.c_ulong(thread.ident), ctypes.py_object(Struck)) == 1
                # It may have struck in a finalizer, and be gone.
                wait_for(lambda before=before, reached=reached: len(caught) > before or progress[0] > reached + 6, "it to strike")  # fmt: skip
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            check_after(provider, "thrown")
        assert len(caught) > rounds // 2


# --- 77: garbage -------------------------------------------------------------------------------------------------------------


def locks_of(provider, stream):
    """Every lock of ours that is anywhere near a stream."""
    call = stream._call.scope
    pool = provider._transport.adapter._pool
    return {
        "limiter": provider._limiter._models[MODEL]._lock,
        "limiter-models": provider._limiter._lock,
        "budget": provider._runtime.budget._lock,
        "tracker": provider._tracker._lock,
        "ring": provider._tracker._add_model(MODEL).lock,
        "call": call._lock,
        "permits": provider._transport._permits._lock,
        "adapter": provider._transport.adapter._pool_lock,
        "pool": getattr(pool, "_lock", None) or threading.RLock(),  # over HTTP/1.1 the pool needs none
    }


LOCKS = ["limiter", "limiter-models", "budget", "tracker", "ring", "call", "permits", "adapter", "pool"]


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("held", LOCKS)
def test_77_stream_collected_inside_lock(emulator, make, held):
    """It waits for none, warns, closes the socket; the books follow with the next call."""
    provider = make(rate_limits=RateLimits(rpd=1000, tpd=1_000_000, share=1.0), max_connections=2)
    gate = Gate()
    emulator.enqueue(Reply(chunks=["one", " two"], gate=gate))
    gate.release(2)
    stream = provider.generate_stream("x", max_completion_tokens=1000)
    next(stream)
    locks = locks_of(provider, stream)
    assert set(locks) == set(LOCKS)
    cycle = [stream]
    cycle.append(cycle)
    del stream
    done = threading.Event()

    def collect():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with locks[held]:
                gc.collect()
            warned.extend(str(item.message) for item in caught if item.category is ResourceWarning)
        done.set()

    warned = []
    # Freed by nobody but the collector, in a thread that holds the lock.
    gc.disable()
    try:
        del cycle
        with running(collect):
            assert done.wait(PATIENCE), f"the finalizer waits for the lock of the {held}"
    finally:
        gc.enable()
    assert [text for text in warned if "unclosed <ResponseStream" in text]
    gate.open()
    assert emulator.wait_until(lambda emulator: not emulator.open_connections, PATIENCE)
    assert provider.generate("y", max_completion_tokens=10).content
    assert counts(provider) == (0, 0)
    assert provider._runtime.in_flight == 0
    window = provider.get_rate_limits()[MODEL].windows["tpd"]
    assert window.limit - window.remaining < 500  # settled by what came, not by the thousand reserved


@pytest.mark.over_http2("bridge")
def test_77_reservation_collected_inside_lock(make):
    """A reservation may be collected inside its own lock: it only leaves word."""
    provider = make(rate_limits=RateLimits(rpm=10))
    held = provider._limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1)
    cycle = [held]
    cycle.append(cycle)
    del held

    def collect():
        with provider._limiter._models[MODEL]._lock:
            gc.collect()

    gc.disable()
    try:
        del cycle
        with running(collect):
            pass
    finally:
        gc.enable()
    assert counts(provider) == (0, 0)


# --- 78: closing -------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
def test_78_close_ends_everything():
    """In the queue, before the head, in the body, in a stream, in a retry delay: each with its own error, and soon."""
    reached = threading.Semaphore(0)

    def handler(sock, server):
        while (request := server.read(sock)) is not None:
            kind = json.loads(request.body)["messages"][0]["content"]
            if kind == "body":
                sock.sendall(PLAIN[:-10])
            elif kind == "stream":
                sock.sendall(STREAM[:-100])
            elif kind == "retry":
                sock.sendall(answer(b"{}", "Retry-After: 50", status="503 Busy"))
            reached.release()
        server.closed_by_peer.release()

    with serving(handler) as server:
        provider = GroqProvider(
            api_key=KEY,
            base_url=server.url,
            default_model=MODEL,
            rate_limits=RateLimits(models={"full": RateLimits(rpm=1)}),
        )
        provider._limiter.reserve("full", prompt_tokens=1, max_output_tokens=1).keep()
        raised, ended = {}, {}

        def start(kind, number):
            def plain():
                provider.generate(kind, model="full" if kind == "queue" else MODEL)

            def work():
                with pytest.raises(e.ProviderClosedError) as caught:
                    (provider.generate_stream(kind).collect if kind == "stream" else plain)()
                ended[kind, number] = time.monotonic()
                raised[kind, number] = caught.value

            return work

        kinds = ("queue", "head", "body", "stream", "retry")
        with running(*[start(kind, number) for kind in kinds for number in range(4)]):
            for _ in range(16):
                assert reached.acquire(timeout=PATIENCE)
            wait_for(lambda: counts(provider) == (12, 4), "everybody to be on the way")
            closed = time.monotonic()
            provider.close()
            provider.close()
        assert len(raised) == 20
        assert (
            max(ended.values()) - closed < 5.0
        )  # a hundredth of it on an idle machine; nothing else ends before ten seconds
        assert {error.sent for (kind, _), error in raised.items() if kind == "queue"} == {False}
        assert {error.sent for (kind, _), error in raised.items() if kind in ("head", "body", "stream")} == {True}
        assert all("closed" in str(error) for error in raised.values())
        assert {len(error.attempts) for (kind, _), error in raised.items() if kind == "retry"} == {1}
        assert counts(provider) == (0, 0)
        assert provider._runtime.in_flight == 0
        provider.close()
        for use in (provider.generate, provider.generate_stream):
            with pytest.raises(e.ProviderClosedError):
                use("x")


# --- 79: the end of the interpreter ------------------------------------------------------------------------------------------

DAEMONS = """
    import sys, threading
    from groq_provider import CancelToken, GroqProvider, RateLimits, RetryPolicy
    provider = GroqProvider(
        base_url=sys.argv[1], api_key="gsk_test", default_model="m",
        rate_limits=RateLimits(models={"full": RateLimits(rpm=1)}), max_connections=40,
    )
    limiter = provider._limiter
    limiter.reserve("full", prompt_tokens=1, max_output_tokens=1).keep()
    waiting = threading.Semaphore(0)
    token = CancelToken()

    def queue(): provider.generate("queue", model="full", cancel=token)
    def head(): provider.generate("head")
    def retry(): provider.generate("retry")
    def stream():
        with provider.generate_stream("stream") as found:
            for _ in found: waiting.release()
    def bulk(): list(provider.generate_many(["head"] * 3, max_workers=2))

    for work in (queue, head, retry, stream) * 3:
        threading.Thread(target=work, daemon=True).start()
    for _ in range(3): waiting.acquire()
    while sum(status.waiting for status in provider.get_rate_limits().values()) < 3: pass
    print("ready", flush=True)
    sys.stdin.readline()
"""


def test_79_interpreter_ends_despite_daemons():
    """The interpreter ends while daemon threads wait: at once, with status 0 and nothing on standard error."""

    def handler(sock, server):
        while (request := server.read(sock)) is not None:
            if b'"retry"' in request.body:
                sock.sendall(answer(b"{}", "Retry-After: 50", status="503 Busy"))
            elif b'"stream":true' in request.body:
                sock.sendall(STREAM[:-100])

    with serving(handler) as server:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(DAEMONS), server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            started = time.monotonic()
            _, said = process.communicate("\n", timeout=PATIENCE)
            took = time.monotonic() - started
        finally:
            process.kill()
            process.wait(PATIENCE)
            for pipe in (process.stdin, process.stdout, process.stderr):
                pipe.close()
        assert process.returncode == 0
        assert said == ""
        assert took < 10.0  # well below one second on an idle machine; nothing that is waited for ends before fifty


# --- 80: many threads --------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_80_thousand_threads_share_provider(caplog):
    """None waits for a connection, no answer is crossed, no cookie kept, no header shared, a hundred connections stay."""
    caplog.set_level(logging.WARNING)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    threads = min(1000, (soft - 200) // 4)
    all_there = threading.Event()

    def handler(sock, server):
        while (request := server.read(sock)) is not None:
            if len(server.requests) >= threads:
                all_there.set()
            all_there.wait(PATIENCE)
            said = json.loads(request.body)["messages"][0]["content"]
            data = {"choices": [{"message": {"content": said}, "finish_reason": "stop"}]}
            sock.sendall(answer(json.dumps(data).encode(), f"Set-Cookie: id={said}"))

    answers = {}
    before = threading.stack_size(256 * 1024)
    try:
        with FaultServerOf(handler) as server:
            provider = GroqProvider(
                api_key=KEY, base_url=server.url, default_model=MODEL, timeout=Timeouts(connect=60, first_token=60)
            )
            with provider:
                session = provider._transport.session
                headers = dict(session.headers)

                def ask(number):
                    name = f"caller-{number}"
                    extra = {"X-Caller": name}
                    answers[number] = [provider.generate(name, extra_headers=extra).content]
                    answers[number].append(provider.generate(name, extra_headers=extra).content)

                workers = [threading.Thread(target=ask, args=(number,)) for number in range(threads)]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join(3 * PATIENCE)
                    assert not worker.is_alive()
                assert answers == {number: [f"caller-{number}"] * 2 for number in range(threads)}
                assert dict(session.headers) == headers
                assert list(session.cookies) == []
                assert 1 <= provider._transport.adapter._pool.idle() <= 100
                assert counts(provider) == (0, 0)
                assert provider.get_latency_metrics().success_count == 2 * threads
            for request in server.requests:
                assert "cookie" not in request.headers
                assert request.headers["x-caller"] == json.loads(request.body)["messages"][0]["content"]
    finally:
        threading.stack_size(before)
    assert [record.getMessage() for record in caplog.records] == []


class FaultServerOf(FaultServer):
    """A server for the length of a block, with a longer queue of connections."""

    def __init__(self, handler):
        super().__init__(handler)
        self._listener.listen(2048)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()
