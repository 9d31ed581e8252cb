"""The circuit breaker: opens by failure rate, looks again with few probes."""

from __future__ import annotations

import gc
import json
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
from support.fakes import PATIENCE, FakeClock
from support.servers import answer, chunk, serving

from groq_provider import FallbackProvider, GroqProvider
from groq_provider import errors as e
from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker, verdict
from groq_provider.testing import Emulator


@pytest.fixture
def clock():
    return FakeClock()


def make(clock, **changes):
    """A breaker without jitter."""
    return CircuitBreaker(attrs.evolve(BreakerPolicy(jitter=0.0), **changes), clock, name="groq")


def call(breaker, outcome, **more):
    breaker.report(breaker.acquire(), outcome, **more)


def test_half_of_twenty_failures_opens(clock):
    """It opens at half of twenty failing; failures need not come in a row."""
    breaker = make(clock)
    for index in range(19):
        call(breaker, index % 2 == 0)
    assert breaker.state == "closed"
    call(breaker, False)
    assert breaker.state == "open"


def test_few_calls_prove_nothing(clock):
    """Nineteen failures do not open it."""
    breaker = make(clock)
    for _ in range(19):
        call(breaker, False)
    assert breaker.state == "closed"


def test_old_calls_are_forgotten(clock):
    """Only the window counts."""
    breaker = make(clock)
    for _ in range(15):
        call(breaker, False)
    clock.advance(31)
    for _ in range(15):
        call(breaker, False)
    assert breaker.state == "closed"


def test_five_unsent_calls_open_it(clock):
    """Five calls in a row that never left open it, so an absent peer is found quickly; a success begins anew."""
    breaker = make(clock)
    for _ in range(4):
        call(breaker, False, not_sent=True)
    call(breaker, True)
    for _ in range(4):
        call(breaker, False, not_sent=True)
    assert breaker.state == "closed"
    call(breaker, False, not_sent=True)
    assert breaker.state == "open"


def opened(clock, **changes):
    breaker = make(clock, **changes)
    for _ in range(5):
        call(breaker, False, not_sent=True)
    return breaker


def test_open_refuses_with_wait(clock):
    """CircuitOpenError carries the wait; nothing was sent."""
    breaker = opened(clock)
    clock.advance(2)
    with pytest.raises(e.CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == pytest.approx(3.0)
    assert caught.value.sent is False


def test_thirty_two_threads_two_probes(clock):
    """Few look again; the others are refused at once."""
    breaker = opened(clock)
    clock.advance(5)
    assert len(got_of_thirty_two(breaker)) == 2


def got_of_thirty_two(breaker):
    """Ask from 32 threads at once; return the leaves that were given."""
    barrier, got, refused = threading.Barrier(32), [], []

    def probe():
        barrier.wait()
        try:
            got.append(breaker.acquire())
        except e.CircuitOpenError as error:
            refused.append(error)

    threads = [threading.Thread(target=probe) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) + len(refused) == 32
    return got


def test_lone_provider_sends_two_probes():
    """Of thirty-two calls a lone provider sends two probes; the others are refused without a connection."""
    clock, arrived, go_on = FakeClock(), threading.Semaphore(0), threading.Event()

    def handler(sock, server):
        while server.read(sock) is not None:
            arrived.release()
            assert go_on.wait(PATIENCE)
            sock.sendall(answer(b'{"choices": [{"message": {"content": "well"}, "finish_reason": "stop"}]}'))

    policy = BreakerPolicy(jitter=0.0)
    with (
        serving(handler) as server,
        GroqProvider(
            api_key="k", base_url=server.url, default_model="m", circuit_breaker=policy, clock=clock, max_retries=0
        ) as provider,
    ):
        breaker = provider._runtime.breaker
        for _ in range(5):
            call(breaker, False, not_sent=True)
        clock.advance(5)
        outcomes = []

        def ask():
            try:
                outcomes.append(provider.generate("x").content)
            except e.CircuitOpenError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=ask) for _ in range(32)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            assert arrived.acquire(timeout=PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while len(outcomes) < 30:  # while the probes wait
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert all(isinstance(outcome, e.CircuitOpenError) for outcome in outcomes)
        go_on.set()
        for thread in threads:
            thread.join()
        assert [outcome for outcome in outcomes if outcome == "well"] == ["well"] * 2
        assert len(server.requests) == server.connections == 2


def test_three_successes_close_it(clock):
    """And everything counts anew."""
    breaker = opened(clock)
    clock.advance(5)
    call(breaker, True)
    call(breaker, True)
    assert breaker.state == "half-open"
    call(breaker, True)
    assert breaker.state == "closed"
    for _ in range(4):
        call(breaker, False, not_sent=True)
    assert breaker.state == "closed"


def test_failed_probe_doubles_open_time(clock):
    """A failed probe opens it for twice as long: 5, 10, 20, 40, then 60 seconds."""
    breaker = opened(clock)
    for seconds in (5, 10, 20, 40, 60, 60):
        clock.advance(seconds - 0.01)
        assert breaker.state == "open"
        clock.advance(0.02)
        call(breaker, False)
    assert breaker.state == "open"


def test_unjudged_probe_frees_its_place(clock):
    """A probe without a verdict, such as a cancelled one, is given back and makes room for another."""
    breaker = opened(clock)
    clock.advance(5)
    call(breaker, None)
    call(breaker, None)
    assert breaker.acquire().probe


def test_stale_outcomes_do_not_count(clock):
    """A slow call that began before it opened says nothing about the peer of now."""
    breaker = make(clock)
    slow = breaker.acquire()
    for _ in range(5):
        call(breaker, False, not_sent=True)
    clock.advance(5)
    breaker.report(slow, True)
    breaker.report(slow, False)
    assert breaker.state == "half-open"


def test_jitter_keeps_processes_apart(clock):
    """The time open varies by 20 per cent either way."""
    waits = []
    for value in (0.0, 0.5, 1.0):
        breaker = CircuitBreaker(BreakerPolicy(), clock, rng=lambda value=value: value)
        for _ in range(5):
            call(breaker, False, not_sent=True)
        with pytest.raises(e.CircuitOpenError) as caught:
            breaker.acquire()
        waits.append(caught.value.retry_after)
    assert waits == pytest.approx([4.0, 5.0, 6.0])


@pytest.mark.parametrize(("drawn", "factor"), [(0.0, 0.8), (1.0, 1.2)], ids=["shortest", "longest"])
def test_reopening_time_varies(clock, drawn, factor):
    """Every further time open is varied too: 5, 10, 20, 40, 60 and 60 seconds, a fifth less or more."""
    breaker = CircuitBreaker(BreakerPolicy(), clock, rng=lambda: drawn)
    for _ in range(5):
        call(breaker, False, not_sent=True)
    for seconds in (5, 10, 20, 40, 60, 60):
        clock.advance(seconds * factor - 0.01)
        with pytest.raises(e.CircuitOpenError) as caught:
            breaker.acquire()
        assert caught.value.retry_after == pytest.approx(0.05)
        clock.advance(0.02)
        call(breaker, False)


def test_defaults_match_design():
    """30 s, 20 calls, half of them, 5 in a row, 5 to 60 s give or take a fifth, 2 probes, 3 successes."""
    assert attrs.astuple(BreakerPolicy()) == (30.0, 20, 0.5, 5, 5.0, 60.0, 0.2, 2, 3)


def test_under_half_stays_closed(clock):
    """Less than half leaves it closed: nine of twenty, again and again."""
    breaker = make(clock)
    for index in range(200):
        call(breaker, index % 20 < 11)
    assert breaker.state == "closed"


def test_sent_failure_resets_row_count(clock):
    """A failure that had left begins the count in a row anew: only absent peers are found by the short way."""
    breaker = make(clock)
    for _ in range(3):
        for _ in range(4):
            call(breaker, False, not_sent=True)
        call(breaker, False)
    assert breaker.state == "closed"


def test_calls_hold_no_lock():
    """No lock is held during a call: eight calls at once overlap."""
    from groq_provider.clock import SystemClock

    breaker, inside, together = make(SystemClock()), [], threading.Barrier(8, timeout=PATIENCE)

    def slow():
        permit = breaker.acquire()
        together.wait()  # breaks unless all eight are inside at once
        inside.append(1)
        breaker.report(permit, True)

    threads = [threading.Thread(target=slow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 8


@pytest.mark.parametrize("kind", ["lone", "fallback"])
def test_eight_calls_run_in_parallel(kind):
    """Each is answered when all eight have arrived: one after the other, none ever would be."""
    together = threading.Barrier(8, timeout=PATIENCE)

    def handler(sock, server):
        while server.read(sock) is not None:
            together.wait()
            sock.sendall(answer(b'{"choices": [{"message": {"content": "well"}, "finish_reason": "stop"}]}'))

    with (
        serving(handler) as server,
        GroqProvider(
            api_key="k", base_url=server.url, default_model="m", circuit_breaker=kind == "lone" or None, max_retries=0
        ) as provider,
        FallbackProvider([provider]) as both,
        ThreadPoolExecutor(8) as threads,
    ):
        used = provider if kind == "lone" else both
        answers = list(threads.map(lambda _: used.generate("x").content, range(8)))
        assert answers == ["well"] * 8


def stream_of(*contents, whole):
    """An event stream of these words; the end of it, or a cut."""
    events = [{"choices": [{"delta": {"content": content}}]} for content in contents]
    if whole:
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = b"".join(chunk(b"data: " + json.dumps(event).encode() + b"\n\n") for event in events)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + body
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("how", "counted"),
    [
        ("whole", [1, 0]),
        ("broken", [2, 1]),
        ("broken at once", [2, 1]),
        ("left", [1, 0]),
        ("forgotten", [1, 0]),
        ("cancelled", [1, 0]),
    ],
)
def test_lone_stream_counts_twice(how, counted):
    """A lone provider's stream counts at commit and at interruption; left, forgotten or cancelled is a success."""

    def handler(sock, server):
        while server.read(sock) is not None:
            if how in {"whole", "broken at once"}:
                sock.sendall(stream_of("one", "two", whole=how == "whole"))
                continue
            head, tail = stream_of("one", "two", whole=False)[:-5], b"0\r\n\r\n"
            sock.sendall(head)
            if how == "broken":
                assert go_on.wait(PATIENCE)
                sock.sendall(tail)
            else:
                server.wait_for_end(sock)

    go_on = threading.Event()
    with (
        serving(handler) as server,
        GroqProvider(
            api_key="k",
            base_url=server.url,
            default_model="m",
            circuit_breaker=True,
            clock=FakeClock(),  # all is counted in one part of the window
            max_retries=0,
        ) as provider,
    ):
        breaker = provider._runtime.breaker
        stream = provider.generate_stream("x")
        assert not breaker._slots
        assert next(stream).content == "one"
        if how != "broken at once":  # whose end came in the same read
            assert breaker._slots[-1][1:] == [1, 0]
        go_on.set()
        if how == "whole":
            stream.collect()
        elif "broken" in how:
            with pytest.raises(e.StreamInterruptedError):
                stream.collect()
        elif how == "left":
            stream.close()
        elif how == "cancelled":
            stream.cancel()
            with pytest.raises(e.RequestCancelledError):
                stream.collect()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                del stream
                gc.collect()
            provider._runtime.calls.run_pending()
        assert breaker._slots[-1][1:] == counted


def test_first_chunk_answers_stream_probe():
    """However long the rest takes; an end without a chunk gives the place back."""
    clock = FakeClock()

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(stream_of("one", whole=False)[:-5])

    policy = BreakerPolicy(jitter=0.0, probes=1, successes=1)
    with (
        serving(handler) as server,
        GroqProvider(
            api_key="k", base_url=server.url, default_model="m", circuit_breaker=policy, clock=clock, max_retries=0
        ) as provider,
    ):
        breaker = provider._runtime.breaker
        for _ in range(5):
            call(breaker, False, not_sent=True)
        clock.advance(5)
        with provider.generate_stream("x"), pytest.raises(e.CircuitOpenError):
            provider.generate_stream("x")
        with provider.generate_stream("x") as stream:
            assert breaker.state == "half-open"
            next(stream)
            assert breaker.state == "closed"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (e.InvalidRequestError("x", status_code=400), True),
        (e.RateLimitedError("x", status_code=429), True),
        (e.OverloadedError("x", status_code=498), True),
        (e.OverloadedError("x", status_code=503), False),
        (e.ProviderUnavailableError("x", status_code=500), False),
        (e.APIConnectionError("x", sent=False), False),
        (e.ConnectTimeoutError("x"), False),
        (e.ReadTimeoutError("x"), False),
        (e.StreamInterruptedError("x"), False),
        (e.RequestCancelledError("x"), None),
        (e.DeadlineExceededError("x"), None),
        (e.RateLimitTimeoutError("x"), None),
        (e.PoolTimeoutError("x"), None),
        (e.RequestTooLargeError("x"), None),
    ],
    ids=lambda item: (
        type(item).__name__ + str(getattr(item, "status_code", "") or "") if isinstance(item, Exception) else str(item)
    ),
)
def test_what_counts_as_failure(error, expected):
    """Broken connections, silence and 5xx; not refusals, cancels and the caller's own limits."""
    assert verdict(error) is expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"failure_ratio": 2}, "failure_ratio = 2"),
        ({"probes": 0}, "probes = 0"),
        ({"window": -1}, "window = -1"),
        ({"windw": 1}, "did you mean 'window'"),
    ],
    ids=["ratio", "probes", "window", "name"],
)
def test_wrong_settings_are_named(settings, text):
    """One clear error."""
    with pytest.raises(e.ConfigurationError, match=text):
        BreakerPolicy.of(settings)


def test_settings_in_their_forms():
    """True, a mapping, an object, or nothing."""
    assert BreakerPolicy.of(None) is BreakerPolicy.of(False) is None
    assert BreakerPolicy.of(True) == BreakerPolicy()
    assert BreakerPolicy.of({"probes": 1}).probes == 1
    with pytest.raises(e.ConfigurationError, match="circuit_breaker"):
        BreakerPolicy.of(3)


def test_lone_provider_breaker_on_request():
    """A lone provider has a breaker on request: calls to an absent peer are soon refused; a probe closes it."""
    clock = FakeClock()
    with Emulator(speed=0) as emulator:
        policy = BreakerPolicy(not_sent_in_a_row=2, successes=1, jitter=0.0)
        with GroqProvider(
            api_key="k", base_url=emulator.base_url, circuit_breaker=policy, clock=clock, max_retries=0
        ) as provider:
            url = emulator.base_url
            emulator.stop()
            for _ in range(2):
                with pytest.raises(e.APIConnectionError):
                    provider.generate("x")
            with pytest.raises(e.CircuitOpenError) as caught:
                provider.generate("x")
            assert caught.value.retry_after == pytest.approx(5.0)
            assert (caught.value.model, caught.value.attempts) == ("openai/gpt-oss-120b", ())
            clock.advance(5)
            with Emulator(speed=0, port=int(url.rpartition(":")[2])) as again:
                assert provider.generate("x").content
                with provider.generate_stream("y") as stream:
                    assert stream.collect().content
                assert len(again.requests) == 2


def test_lone_provider_rejects_wrong_settings():
    """Wrong settings of a lone provider are named at construction."""
    with pytest.raises(e.ConfigurationError, match="failures"):
        GroqProvider(api_key="k", circuit_breaker={"failures": 3})
