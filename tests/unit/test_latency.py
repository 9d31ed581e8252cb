"""Latency samples and their statistics."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.errors import ConfigurationError
from groq_provider.latency import LatencyTracker, NullLatencyTracker
from groq_provider.types.status import LatencyMetrics


def reference(values: list[float], percent: int) -> float:
    """Linear interpolation, written down as in the textbook."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low, high = math.floor(position), math.ceil(position)
    return ordered[low] * (1 - (position - low)) + ordered[high] * (position - low)


@pytest.mark.parametrize("size", [0, -1, True, "100", 1.5, None], ids=repr)
def test_size_is_checked(size):
    """A ring needs room for one sample; the message names the value."""
    with pytest.raises(ConfigurationError, match=f"max_samples = {size!r}"):
        LatencyTracker(size)


def test_documented_percentiles_are_right():
    """Of 10, 20 … 100 ms, p50 is 55, p95 is 95.5 and p99 is 99.1 ms."""
    tracker = LatencyTracker()
    for milliseconds in range(100, 0, -10):
        tracker.record("m", total=milliseconds / 1000)
    metrics = tracker.get_metrics()
    shown = [metrics.p50_total_latency, metrics.p95_total_latency, metrics.p99_total_latency, metrics.avg_total_latency]
    assert shown == pytest.approx([0.055, 0.0955, 0.0991, 0.055])
    assert (metrics.min_total_latency, metrics.max_total_latency) == (0.01, 0.1)


def test_empty_is_zeros():
    """Nothing recorded, nothing to divide by."""
    assert LatencyTracker().get_metrics() == LatencyTracker().get_metrics("m") == LatencyMetrics()


def test_only_the_newest_are_kept():
    """101 samples leave 100, and the oldest is gone; the counters go on."""
    tracker = LatencyTracker(100)
    for total in range(101):
        tracker.record("m", total=float(total))
    metrics = tracker.get_metrics()
    assert (metrics.sample_count, metrics.success_count, metrics.min_total_latency) == (100, 101, 1.0)


def test_failure_counts_without_figures():
    """Errors do not mix with the figures."""
    tracker = LatencyTracker()
    tracker.record("m", total=1.0, first_token=0.1, tokens_per_second=50.0)
    tracker.record("m", total=60.0, ok=False)
    metrics = tracker.get_metrics()
    assert (metrics.error_count, metrics.success_count, metrics.sample_count, metrics.max_total_latency) == (
        1,
        1,
        1,
        1.0,
    )


def test_missing_figures_skipped_per_field():
    """A plain answer has no first token and does not count as one of zero seconds."""
    tracker = LatencyTracker()
    tracker.record("m", total=1.0)
    tracker.record("m", total=2.0, first_token=0.2)
    tracker.record("m", total=3.0, tokens_per_second=100.0)
    metrics = tracker.get_metrics()
    assert (metrics.sample_count, metrics.first_token_count) == (3, 1)
    assert (metrics.avg_first_token_latency, metrics.avg_tokens_per_second, metrics.avg_total_latency) == (
        0.2,
        100.0,
        2.0,
    )


def test_models_have_own_rings():
    """Each model has its own ring; None looks at all of them."""
    tracker = LatencyTracker(2)
    for model, total in (("a", 1.0), ("a", 2.0), ("a", 3.0), ("b", 10.0)):
        tracker.record(model, total=total)
    tracker.record("b", total=9.0, ok=False)
    assert (tracker.get_metrics("a").sample_count, tracker.get_metrics("a").min_total_latency) == (2, 2.0)
    assert tracker.get_metrics("b").error_count == 1
    together = tracker.get_metrics()
    assert (together.sample_count, together.success_count, together.error_count) == (3, 4, 1)
    assert together.max_total_latency == 10.0
    assert repr(tracker) == "<LatencyTracker 3 samples, 1 errors, 2 models>"


@pytest.mark.parametrize("forget", [LatencyTracker.reset, LatencyTracker._after_fork_in_child], ids=["reset", "fork"])
def test_reset_and_fork_forget(forget):
    """A reset, and a fork, start anew."""
    tracker = LatencyTracker()
    tracker.record("m", total=1.0)
    forget(tracker)
    assert tracker.get_metrics() == LatencyMetrics()


def test_the_null_tracker_gives_zeros():
    """track_latency=False costs nothing and shows nothing."""
    tracker = NullLatencyTracker()
    tracker.record("m", total=1.0)
    tracker.reset()
    assert tracker.get_metrics() == tracker.get_metrics("m") == LatencyMetrics()


def test_both_fit_the_protocol():
    """Both trackers have every method that a call uses."""
    for recorder in (LatencyTracker(), NullLatencyTracker()):
        recorder.record("m", total=0.5, first_token=None, tokens_per_second=None, ok=True)
        assert isinstance(recorder.get_metrics(model="m"), LatencyMetrics)


def test_threads_lose_no_sample():
    """16 threads of 1,000 records each leave exact totals, for new models too."""
    tracker = LatencyTracker(16_000)
    start = threading.Barrier(17)

    def work(number: int) -> None:
        start.wait()
        for i in range(1000):
            tracker.record(f"m{i % 7}", total=float(number), ok=i % 10 != 0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    start.wait()
    for _ in range(20):  # snapshots meanwhile are consistent in themselves
        metrics = tracker.get_metrics()
        assert metrics.sample_count == metrics.success_count
    for thread in threads:
        thread.join()
    metrics = tracker.get_metrics()
    assert (metrics.success_count, metrics.error_count, metrics.sample_count) == (14_400, 1600, 14_400)
    assert sum(tracker.get_metrics(f"m{i}").success_count for i in range(7)) == 14_400


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=120))
def test_percentiles_agree_with_the_textbook(values):
    """They are monotonic, lie within the samples and equal a straightforward computation."""
    tracker = LatencyTracker(200)
    for value in values:
        tracker.record("m", total=value, first_token=value, tokens_per_second=value)
    m = tracker.get_metrics()
    low, p50, p95, p99, high = (
        m.min_total_latency,
        m.p50_total_latency,
        m.p95_total_latency,
        m.p99_total_latency,
        m.max_total_latency,
    )
    assert low <= p50 <= p95 <= p99 <= high
    assert [p50, p95, p99] == pytest.approx(
        [reference(values, percent) for percent in (50, 95, 99)], rel=1e-9, abs=1e-12
    )
    assert (m.p50_first_token_latency, m.p95_tokens_per_second) == (p50, p95)
    assert m.avg_total_latency == pytest.approx(sum(values) / len(values))
