"""Record the durations of calls, the newest of each model, and compute statistics over them."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from groq_provider._sync import forkable
from groq_provider.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from groq_provider.types.status import LatencyMetrics

__all__ = ["LatencyTracker", "NullLatencyTracker"]

#: The number of models kept, and how many of them may be models without a successful call. The least recently used are forgotten first.
_MAX_MODELS, _MAX_FAILED_MODELS = 256, 16

#: Seconds of the whole call, of its wait, and to the first token; tokens per second.
_Sample = tuple["float | None", "float", "float | None", "float | None"]


class _ModelSamples:
    """The newest samples of one model, and its counts since the start."""

    __slots__ = ("count_at_cleanup", "failed", "failures", "local", "lock", "samples", "succeeded")

    def __init__(self, size: int) -> None:
        # Guards the other attributes, so that a snapshot is consistent. Reentrant: see _sync.
        self.lock = threading.RLock()
        self.samples: deque[_Sample] = deque(maxlen=size)
        self.failures: deque[float] = deque(maxlen=size)
        self.succeeded = 0
        self.failed = 0
        self.local = 0
        self.count_at_cleanup = 1  # succeeded + failed at the last cleanup

    def fail(self, total: float | None, *, local: bool) -> None:
        """Count a failed call. The caller must hold the lock."""
        if local:
            self.local += 1
            return
        self.failed += 1
        if total is not None:
            self.failures.append(total)


class LatencyTracker:
    """Keeps the newest calls of each model and computes statistics over them.

    Failed calls have their own figures. Calls that failed without the service are only counted.

    Thread safety: you can call every method from any thread.

    Args:
        max_samples: The number of successful calls kept per model, at least 1. Default 100.

    Raises:
        ConfigurationError: *max_samples* is not an integer of at least 1.

    Example:
        >>> tracker = LatencyTracker()
        >>> for milliseconds in range(10, 110, 10):
        ...     tracker.record("llama", total=milliseconds / 1000)
        >>> metrics = tracker.get_metrics()
        >>> round(metrics.p50_total_latency, 6), round(metrics.p95_total_latency, 6), metrics.sample_count
        (0.055, 0.0955, 10)

    .. versionadded:: 0.1.0
    """

    def __init__(self, max_samples: int = 100) -> None:
        if not isinstance(max_samples, int) or isinstance(max_samples, bool) or max_samples < 1:
            raise ConfigurationError(f"max_samples = {max_samples!r}: must be an integer of at least 1")
        self._max_samples = max_samples
        self._lock = threading.RLock()  # guards changes of _rings; a look-up needs no lock
        self._rings: dict[str, _ModelSamples] = {}
        self._forgotten_counts = _ModelSamples(1)  # the counts of forgotten models
        forkable(self)

    def __repr__(self) -> str:
        metrics = self.get_metrics()
        return f"<{type(self).__name__} {metrics.sample_count} samples, {metrics.error_count} errors, {len(self._rings)} models>"

    def record(
        self,
        model: str,
        *,
        total: float | None = None,
        wait: float = 0.0,
        first_token: float | None = None,
        tokens_per_second: float | None = None,
        ok: bool = True,
        local: bool = False,
    ) -> None:
        """Record one finished call.

        Args:
            model: The requested model.
            total: Seconds of the whole call; ``None`` for a stream that was closed before its end.
            wait: The part of *total* in the rate limiter's queue and between retries, in seconds.
            first_token: Seconds to the first token; ``None`` if unknown, as in a plain answer.
            tokens_per_second: Generation speed; ``None`` if undefined.
            ok: Whether the call succeeded. Durations of failed calls are kept separately.
            local: Whether the call failed without the service: refused by the rate limiter, never sent, cancelled. Such calls are only
                counted.
        """
        ring = self._rings.get(model) or self._add_model(model)
        with ring.lock:
            if not ok:
                ring.fail(total, local=local)
            else:
                ring.samples.append((total, wait, first_token, tokens_per_second))
                ring.succeeded += 1

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:
        """Return statistics for one model, or over the samples of all models; zeros where there are no samples."""
        if model is None:
            with self._lock:
                rings = [*self._rings.values(), self._forgotten_counts]
        else:
            ring = self._rings.get(model)
            rings = [] if ring is None else [ring]
        samples: list[_Sample] = []
        failures: list[float] = []
        succeeded = failed = local = 0
        for ring in rings:
            with ring.lock:
                samples += ring.samples
                failures += ring.failures
                succeeded += ring.succeeded
                failed += ring.failed
                local += ring.local
        return _summarise(samples, failures, success_count=succeeded, error_count=failed, local_count=local)

    def reset(self) -> None:
        """Forget everything. A call recorded at the same time may be lost as well."""
        with self._lock:
            self._rings = {}
            self._forgotten_counts = _ModelSamples(1)

    def _add_model(self, model: str) -> _ModelSamples:
        with self._lock:
            ring = self._rings.get(model)
            if ring is None:
                self._make_room()
                ring = self._rings.setdefault(model, _ModelSamples(self._max_samples))
            return ring

    def _make_room(self) -> None:
        """Forget models beyond the limits above; their counts stay in the totals over all models."""
        failed_models = [model for model, ring in list(self._rings.items()) if not ring.succeeded]
        for model in failed_models[: len(failed_models) - _MAX_FAILED_MODELS + 1]:
            self._forget(model)
        if len(self._rings) < _MAX_MODELS:
            return
        for model, ring in list(self._rings.items()):
            if ring.succeeded + ring.failed > ring.count_at_cleanup:  # used since the last cleanup: move to the end
                ring.count_at_cleanup = ring.succeeded + ring.failed
                if self._rings.pop(model, None) is ring:
                    self._rings[model] = ring
        for model in list(self._rings)[: len(self._rings) - _MAX_MODELS + 1]:
            self._forget(model)

    def _forget(self, model: str) -> None:
        ring = self._rings.pop(model, None)
        if ring is None:
            return  # a signal handler has removed it meanwhile
        with ring.lock:
            self._forgotten_counts.succeeded += ring.succeeded
            self._forgotten_counts.failed += ring.failed
            self._forgotten_counts.local += ring.local
            ring.samples.clear()
            ring.failures.clear()

    def _after_fork_in_child(self) -> None:
        """Start empty in a child process. The figures are the parent's, and its threads may have held the locks."""
        self._lock = threading.RLock()
        self._rings = {}
        self._forgotten_counts = _ModelSamples(1)


class NullLatencyTracker:
    """Records nothing and returns zeros, for ``track_latency=False``.

    .. versionadded:: 0.1.0
    """

    def record(
        self,
        model: str,
        *,
        total: float | None = None,
        wait: float = 0.0,
        first_token: float | None = None,
        tokens_per_second: float | None = None,
        ok: bool = True,
        local: bool = False,
    ) -> None:
        """Do nothing."""

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:  # noqa: ARG002 - the protocol's arguments
        """Return zeros."""
        return _summarise((), ())

    def reset(self) -> None:
        """Do nothing."""


def _summarise(samples: Sequence[_Sample], failures: Sequence[float], **counts: int) -> LatencyMetrics:
    from groq_provider.types.status import LatencyMetrics  # imported late: needed only when figures are read

    timed_calls = [(total, wait) for total, wait, _, _ in samples if total is not None]
    totals = sorted([total for total, _ in timed_calls])
    first_tokens = sorted([first for _, _, first, _ in samples if first is not None])
    figures: dict[str, Sequence[float]] = {
        "first_token_latency": first_tokens,
        "total_latency": totals,
        "service_latency": sorted([max(total - wait, 0.0) for total, wait in timed_calls]),
        "wait": sorted([wait for _, wait in timed_calls]),
        "tokens_per_second": sorted([speed for _, _, _, speed in samples if speed is not None]),
        "failure_latency": sorted(failures),
    }
    statistics: dict[str, Any] = {}
    for name, ordered in figures.items():
        statistics[f"avg_{name}"] = _average(ordered)
        for percent in (50, 95, 99):
            statistics[f"p{percent}_{name}"] = _percentile(ordered, percent)
    return LatencyMetrics(
        **statistics,
        **counts,
        min_total_latency=totals[0] if totals else 0.0,
        max_total_latency=totals[-1] if totals else 0.0,
        sample_count=len(samples),
        first_token_count=len(first_tokens),
    )


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile of sorted values, interpolated linearly between the closest ranks."""
    if not ordered:
        return 0.0
    rank, remainder = divmod((len(ordered) - 1) * percent, 100)
    low = ordered[rank]
    if not remainder:
        return low
    high = ordered[rank + 1]
    return min(low + (high - low) * (remainder / 100), high)  # rounding may exceed the upper value slightly
