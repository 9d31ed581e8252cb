"""What calls took: a ring of the newest per model, and statistics over it."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING

from ._fork import forkable
from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .types.status import LatencyMetrics

__all__ = ["LatencyTracker", "NullLatencyTracker"]

#: Models kept, and how many of these may be ones of which no call succeeded. Beyond that the one that was not used for longest is forgotten.
_MOST_MODELS, _MOST_STRANGERS = 256, 16

_Sample = tuple["float | None", "float | None", "float | None"]


class _Ring:
    """The newest samples of one model, and what was counted since the start."""

    __slots__ = ("failed", "lock", "samples", "seen", "succeeded")

    def __init__(self, size: int) -> None:
        # Guards the three below, so that a snapshot fits together; held for an append or a copy. Reentrant: _signals.
        self.lock = threading.RLock()
        self.samples: deque[_Sample] = deque(maxlen=size)
        self.succeeded = 0
        self.failed = 0
        self.seen = 1  # of the calls counted, when room was made last


class LatencyTracker:
    """Keeps the newest calls of each model and computes statistics over them.

    Failed calls are counted, and kept apart from all figures. Recording costs less than a microsecond.

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
        first_token: float | None = None,
        tokens_per_second: float | None = None,
        ok: bool = True,
    ) -> None:
        """Record one finished call.

        Args:
            model: The model asked.
            total: Seconds of the whole call; ``None`` for a stream left before its end.
            first_token: Seconds to the first token; ``None`` where it cannot be known, as in a plain answer.
            tokens_per_second: Generation speed; ``None`` where undefined.
            ok: Whether it succeeded. A failure is counted and nothing else of it is kept.
        """
        ring = self._rings.get(model) or self._add(model)
        with ring.lock:
            if ok:
                ring.samples.append((total, first_token, tokens_per_second))
                ring.succeeded += 1
            else:
                ring.failed += 1

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
        succeeded = failed = 0
        for ring in rings:
            with ring.lock:
                samples += ring.samples
                succeeded += ring.succeeded
                failed += ring.failed
        return _summarise(samples, succeeded, failed)

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
            ring.samples.clear()

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
        first_token: float | None = None,
        tokens_per_second: float | None = None,
        ok: bool = True,
    ) -> None:
        """Do nothing."""

    def get_metrics(self, model: str | None = None) -> LatencyMetrics:  # noqa: ARG002 - the protocol's arguments
        """Return zeros."""
        return _summarise((), 0, 0)

    def reset(self) -> None:
        """Do nothing."""


def _summarise(samples: Sequence[_Sample], succeeded: int, failed: int) -> LatencyMetrics:
    from .types.status import LatencyMetrics  # for whoever looks

    totals = sorted([total for total, _, _ in samples if total is not None])
    firsts = sorted([first for _, first, _ in samples if first is not None])
    speeds = sorted([speed for _, _, speed in samples if speed is not None])
    return LatencyMetrics(
        avg_first_token_latency=_average(firsts),
        p50_first_token_latency=_percentile(firsts, 50),
        p95_first_token_latency=_percentile(firsts, 95),
        p99_first_token_latency=_percentile(firsts, 99),
        avg_total_latency=_average(totals),
        p50_total_latency=_percentile(totals, 50),
        p95_total_latency=_percentile(totals, 95),
        p99_total_latency=_percentile(totals, 99),
        min_total_latency=totals[0] if totals else 0.0,
        max_total_latency=totals[-1] if totals else 0.0,
        avg_tokens_per_second=_average(speeds),
        p50_tokens_per_second=_percentile(speeds, 50),
        p95_tokens_per_second=_percentile(speeds, 95),
        p99_tokens_per_second=_percentile(speeds, 99),
        sample_count=len(samples),
        first_token_count=len(firsts),
        error_count=failed,
        success_count=succeeded,
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
