"""What calls took: a ring of the newest per model, and statistics over it."""

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

#: Models kept, and how many of these may be ones of which no call succeeded. Beyond that the one that was not used for longest is forgotten.
_MOST_MODELS, _MOST_STRANGERS = 256, 16

#: Whole call, its wait, first token, speed.
_Sample = tuple["float | None", "float", "float | None", "float | None"]


class _Ring:
    """The newest samples of one model, and what was counted since the start."""

    __slots__ = ("failed", "failures", "local", "lock", "samples", "seen", "succeeded")

    def __init__(self, size: int) -> None:
        # Guards the rest, so that a snapshot fits together; held for an append or a copy. Reentrant: _sync.
        self.lock = threading.RLock()
        self.samples: deque[_Sample] = deque(maxlen=size)
        self.failures: deque[float] = deque(maxlen=size)
        self.succeeded = 0
        self.failed = 0
        self.local = 0
        self.seen = 1  # of the calls counted, when room was made last

    def fail(self, total: float | None, *, local: bool) -> None:
        """Count a failed call, under the lock."""
        if local:
            self.local += 1
            return
        self.failed += 1
        if total is not None:
            self.failures.append(total)


class LatencyTracker:
    """Keeps the newest calls of each model and computes statistics over them.

    Failed calls have figures of their own, and what ended here without the service is only counted. Recording costs less than a microsecond.

    Thread safety: every method may be called from any thread.

    Args:
        max_samples: Newest successful calls kept per model, at least 1. Default 100.

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
        self._lock = threading.RLock()  # guards changes of _rings; looking up needs no lock
        self._rings: dict[str, _Ring] = {}
        self._gone = _Ring(1)  # the counts of those that are forgotten
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
            model: The model asked.
            total: Seconds of the whole call; ``None`` for a stream left before its end.
            wait: Seconds of it in the rate limiter's queue and between retries.
            first_token: Seconds to the first token; ``None`` where it cannot be known, as in a plain answer.
            tokens_per_second: Generation speed; ``None`` where undefined.
            ok: Whether it succeeded. Of a failure its duration is kept, apart from those of successes.
            local: Whether a failure came about without the service: refused by the rate limiter, never sent, cancelled. Such calls are
                counted apart, and nothing else of them is kept.
        """
        ring = self._rings.get(model) or self._add(model)
        with ring.lock:
            if not ok:
                ring.fail(total, local=local)
            else:
                ring.samples.append((total, wait, first_token, tokens_per_second))
                ring.succeeded += 1

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:
        """Return statistics for one model, or over the samples of all.

        A model never recorded, like a figure without samples, gives zeros.
        """
        if model is None:
            with self._lock:
                rings = [*self._rings.values(), self._gone]
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
        """Forget everything. A call that is being recorded at the same moment may be forgotten with it."""
        with self._lock:
            self._rings = {}
            self._gone = _Ring(1)

    def _add(self, model: str) -> _Ring:
        with self._lock:
            ring = self._rings.get(model)
            if ring is None:
                self._make_room()
                ring = self._rings.setdefault(model, _Ring(self._max_samples))
            return ring

    def _make_room(self) -> None:
        """Forget the figures of models, as :data:`_MOST_MODELS` says; their counts stay in those of all."""
        strangers = [model for model, ring in list(self._rings.items()) if not ring.succeeded]
        for model in strangers[: len(strangers) - _MOST_STRANGERS + 1]:
            self._forget(model)
        if len(self._rings) < _MOST_MODELS:
            return
        for model, ring in list(self._rings.items()):
            if ring.succeeded + ring.failed > ring.seen:  # used since the last time: these go last
                ring.seen = ring.succeeded + ring.failed
                if self._rings.pop(model, None) is ring:
                    self._rings[model] = ring
        for model in list(self._rings)[: len(self._rings) - _MOST_MODELS + 1]:
            self._forget(model)

    def _forget(self, model: str) -> None:
        ring = self._rings.pop(model, None)
        if ring is None:
            return  # a signal handler was here
        with ring.lock:
            self._gone.succeeded += ring.succeeded
            self._gone.failed += ring.failed
            self._gone.local += ring.local
            ring.samples.clear()
            ring.failures.clear()

    def _after_fork_in_child(self) -> None:
        """Start anew in a child process: its locks may have been held by threads of the parent, the figures are the parent's."""
        self._lock = threading.RLock()
        self._rings = {}
        self._gone = _Ring(1)


class NullLatencyTracker:
    """Records nothing; all figures are zero. Serves ``track_latency=False``. Stateless; safe to share.

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
    from groq_provider.types.status import LatencyMetrics  # for whoever looks

    whole = [(total, wait) for total, wait, _, _ in samples if total is not None]
    totals = sorted([total for total, _ in whole])
    firsts = sorted([first for _, _, first, _ in samples if first is not None])
    figures: dict[str, Sequence[float]] = {
        "first_token_latency": firsts,
        "total_latency": totals,
        "service_latency": sorted([max(total - wait, 0.0) for total, wait in whole]),
        "wait": sorted([wait for _, wait in whole]),
        "tokens_per_second": sorted([speed for _, _, _, speed in samples if speed is not None]),
        "failure_latency": sorted(failures),
    }
    found: dict[str, Any] = {}
    for name, ordered in figures.items():
        found[f"avg_{name}"] = _average(ordered)
        for percent in (50, 95, 99):
            found[f"p{percent}_{name}"] = _percentile(ordered, percent)
    return LatencyMetrics(
        **found,
        **counts,
        min_total_latency=totals[0] if totals else 0.0,
        max_total_latency=totals[-1] if totals else 0.0,
        sample_count=len(samples),
        first_token_count=len(firsts),
    )


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return a percentile of sorted values, interpolated linearly between the closest ranks."""
    if not ordered:
        return 0.0
    rank, rest = divmod((len(ordered) - 1) * percent, 100)
    low = ordered[rank]
    if not rest:
        return low
    high = ordered[rank + 1]
    return min(low + (high - low) * (rest / 100), high)  # rounding may go past the end by a hair
