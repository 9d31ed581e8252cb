"""The circuit breaker: opens by failure rate, looks again with few probes."""

from __future__ import annotations

import threading
import time

import attrs
import pytest
from fakes import FakeClock

from groq_provider import GroqProvider
from groq_provider import errors as e
from groq_provider.breaker import BreakerPolicy, CircuitBreaker, verdict
from groq_provider.testing import Emulator


@pytest.fixture
def clock():
    return FakeClock()


def make(clock, **changes):
    """A breaker without jitter."""
    return CircuitBreaker(attrs.evolve(BreakerPolicy(jitter=0.0), **changes), clock, name="groq")


def call(breaker, outcome, **more):
    breaker.report(breaker.acquire(), outcome, **more)


def test_it_opens_at_half_of_twenty_failing_in_turn(clock):
    """A failure rate opens it; failures need not come in a row."""
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


def test_calls_that_never_left_open_it_at_five_in_a_row(clock):
    """A peer that is not there is found out quickly; a success in between begins anew."""
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


def test_an_open_one_refuses_and_says_when(clock):
    """CircuitOpenError carries the wait; nothing was sent."""
    breaker = opened(clock)
    clock.advance(2)
    with pytest.raises(e.CircuitOpenError) as caught:
        breaker.acquire()
    assert caught.value.retry_after == pytest.approx(3.0)
    assert caught.value.sent is False


def test_thirty_two_threads_get_two_probes(clock):
    """Few look again; the others are refused at once."""
    breaker = opened(clock)
    clock.advance(5)
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
    assert len(got) == 2
    assert len(refused) == 30


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


def test_a_failed_probe_opens_it_for_twice_as_long(clock):
    """5, 10, 20, 40, then 60 seconds."""
    breaker = opened(clock)
    for seconds in (5, 10, 20, 40, 60, 60):
        clock.advance(seconds - 0.01)
        assert breaker.state == "open"
        clock.advance(0.02)
        call(breaker, False)
    assert breaker.state == "open"


def test_a_probe_without_a_verdict_makes_room_for_another(clock):
    """A cancelled probe is given back."""
    breaker = opened(clock)
    clock.advance(5)
    call(breaker, None)
    call(breaker, None)
    assert breaker.acquire().probe


def test_outcomes_of_before_do_not_count_after(clock):
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


def test_no_lock_is_held_during_a_call():
    """Eight calls at once overlap."""
    from groq_provider.clock import SystemClock

    breaker, inside, together = make(SystemClock()), [], threading.Barrier(8, timeout=5)

    def slow():
        permit = breaker.acquire()
        together.wait()  # breaks unless all eight are inside at once
        inside.append(1)
        breaker.report(permit, True)

    threads = [threading.Thread(target=slow) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 8
    assert time.monotonic() - started < 5


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


def test_a_lone_provider_has_one_when_asked_to():
    """Calls to a peer that is not there are refused after a few; a probe closes it again."""
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


def test_wrong_settings_of_a_lone_provider_are_named():
    """At construction."""
    with pytest.raises(e.ConfigurationError, match="failures"):
        GroqProvider(api_key="k", circuit_breaker={"failures": 3})
