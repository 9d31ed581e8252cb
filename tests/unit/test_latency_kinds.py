"""Latency figures: the service's time without the wait; failures of the service apart from failures without it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import REQUEST, Bench, answer, chunk, refusal, streamed

from groq_provider import CancelToken, LatencyTracker, RetryPolicy
from groq_provider import errors as e
from groq_provider.types.status import LatencyMetrics

NEVER = RetryPolicy(max_retries=0)
KINDS = ["first_token_latency", "total_latency", "service_latency", "wait", "tokens_per_second", "failure_latency"]


def bench_with_tracker(*script, **more):
    bench = Bench(*script, **more)
    bench.runtime.tracker = LatencyTracker()
    return bench


def test_every_kind_has_its_figures():
    """An average and three percentiles each, and zeros before the first call."""
    metrics = LatencyTracker().get_metrics()
    assert metrics == LatencyMetrics()
    assert {f"{figure}_{kind}" for kind in KINDS for figure in ("avg", "p50", "p95", "p99")} <= set(dir(metrics))


@given(
    calls=st.lists(
        st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.sampled_from(["ok", "failed", "local"])), max_size=30
    )
)
def test_kinds_are_kept_apart(calls):
    """Whatever comes in whatever order: service and wait add up, and each kind of end is counted and timed by itself."""
    tracker = LatencyTracker()
    for wait, service, kind in calls:
        tracker.record("m", total=wait + service, wait=wait, ok=kind == "ok", local=kind == "local")
    metrics = tracker.get_metrics()
    of = {kind: [call for call in calls if call[2] == kind] for kind in ("ok", "failed", "local")}
    assert (metrics.success_count, metrics.error_count, metrics.local_count) == tuple(map(len, of.values()))
    assert metrics.sample_count == len(of["ok"])
    for name, figures in {
        "service_latency": [service for _, service, _ in of["ok"]],
        "wait": [wait for wait, _, _ in of["ok"]],
        "total_latency": [wait + service for wait, service, _ in of["ok"]],
        "failure_latency": [wait + service for wait, service, _ in of["failed"]],
    }.items():
        expected = sum(figures) / len(figures) if figures else 0.0
        assert getattr(metrics, f"avg_{name}") == pytest.approx(expected, abs=1e-9)
        assert getattr(metrics, f"p95_{name}") <= max(figures, default=0.0) + 1e-9
    assert metrics.avg_wait + metrics.avg_service_latency == pytest.approx(metrics.avg_total_latency, abs=1e-6)


def test_wait_is_not_the_service():
    """A call that waited an hour for its limit took the service half a second."""
    bench = bench_with_tracker(answer(), limiter=[3600.0])
    bench.generate()
    metrics = bench.runtime.tracker.get_metrics()
    assert (metrics.avg_wait, metrics.avg_service_latency, metrics.avg_total_latency) == (3600.0, 0.5, 3600.5)


def test_delay_of_retry_is_wait():
    """What lies between two tries is wait, too; the tries themselves are the service's time."""
    bench = bench_with_tracker(refusal(503), answer())
    timing = bench.generate().timing
    metrics = bench.runtime.tracker.get_metrics()
    assert metrics.avg_wait == timing.wait > 0
    assert metrics.avg_service_latency == pytest.approx(1.0)


def cancelled(bench):
    token = CancelToken()
    token.cancel()
    bench.generate(cancel=token)


def cancelled_in_between(bench):
    token = CancelToken()

    def cancel(call):
        token.cancel()
        return e.APIConnectionError("the socket was shut down", sent=True)

    bench.transport.script[0] = cancel
    bench.generate(cancel=token)


def closed(bench):
    bench.runtime.close()
    bench.generate()


#: What a call ends with, and whether the service saw it.
ENDS = {
    "limiter": (lambda b: b.generate(), [], [e.RateLimitTimeoutError("no", sent=False)], False),
    "too-large": (lambda b: b.generate(), [], [e.RequestTooLargeError("no", sent=False)], False),
    "not-connected": (lambda b: b.generate(), [e.ConnectTimeoutError("no", sent=False)], [], False),
    "no-slot": (lambda b: b.generate(), [e.PoolTimeoutError("no", sent=False)], [], False),
    "cancelled": (cancelled, [answer()], [], False),
    "cancelled-meanwhile": (cancelled_in_between, [answer()], [], False),
    "closed": (closed, [answer()], [], False),
    "503": (lambda b: b.generate(), [refusal(503)], [], True),
    "400": (lambda b: b.generate(), [refusal(400)], [], True),
    "429": (lambda b: b.generate(), [refusal(429)], [], True),
    "broken": (lambda b: b.generate(), [e.APIConnectionError("no", sent=True)], [], True),
    "perhaps": (lambda b: b.generate(), [e.APIConnectionError("no", sent=None)], [], True),
    "cut-stream": (lambda b: b.stream().collect(), [streamed(chunk("a"))], [], True),
}


@pytest.mark.parametrize("name", ENDS)
def test_only_seen_failures_count(name):
    """``error_count`` and the durations of failures are of calls that the service saw; the others are counted apart."""
    act, script, limiter, seen = ENDS[name]
    bench = bench_with_tracker(*script, limiter=limiter, policy=NEVER)
    with pytest.raises(e.GroqProviderError):
        act(bench)
    metrics = bench.runtime.tracker.get_metrics()
    assert (metrics.error_count, metrics.local_count, metrics.success_count) == (int(seen), int(not seen), 0)
    assert bool(metrics.avg_failure_latency) == seen
    assert metrics.sample_count == 0


def test_refused_retry_was_seen():
    """A call that the service refused and the limiter then held back is a failure that the service saw."""
    bench = bench_with_tracker(refusal(503), limiter=[0.0, e.RateLimitTimeoutError("no", sent=False)])
    with pytest.raises(e.RateLimitTimeoutError):
        bench.generate()
    assert bench.runtime.tracker.get_metrics().error_count == 1


def test_reset_forgets_all():
    """Failures and ends of our own, too."""
    bench = bench_with_tracker(refusal(400), policy=NEVER)
    bench.fails(e.InvalidRequestError, request=REQUEST)
    bench.runtime.tracker.reset()
    assert bench.runtime.tracker.get_metrics() == LatencyMetrics()
