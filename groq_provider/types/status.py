"""Reports on a provider: health, latency figures, rate-limit windows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import attrs

from groq_provider.types._base import freeze_mapping
from groq_provider.types.response import RateLimitInfo

if TYPE_CHECKING:
    from groq_provider.errors import GroqProviderError

__all__ = ["LatencyMetrics", "MeasuredProfile", "ProviderHealth", "RateLimitStatus", "RateLimitWindow"]


@attrs.frozen(kw_only=True)
class RateLimitWindow:
    """One limit of one model as this process knows it. You can read it from ``provider.get_rate_limits()``.

    Attributes:
        limit: Size of the limit per period.
        remaining: The amount that you can still use now, at least 0.
        reset: Seconds until the window is full again. It can be longer than the period while the window is in debt.
        source: ``"configured"`` or ``"learned"`` from the service.

    .. versionadded:: 0.1.0
    """

    limit: int
    remaining: int
    reset: float
    source: str = "configured"


@attrs.frozen(kw_only=True)
class RateLimitStatus:
    """The limits of one model as this process knows them.

    Attributes:
        model: The model.
        windows: The known limits, by the service's names: ``rpm``, ``rpd``, ``tpm``, ``tpd``, ``itpm``, ``otpm``.
        waiting: Calls in the queue. If this grows, you should send fewer requests or raise your limits.
        in_flight: Reservations not yet settled.
        blocked_for: Seconds until the pause after a 429 ends; 0 without a pause. No call can go out before.
        last: The limits from the headers of the newest answer.

    .. versionadded:: 0.1.0
    """

    model: str
    windows: Mapping[str, RateLimitWindow] = attrs.field(factory=dict, converter=freeze_mapping)
    waiting: int = 0
    in_flight: int = 0
    blocked_for: float = 0.0
    last: RateLimitInfo | None = None


@attrs.frozen(kw_only=True)
class LatencyMetrics:
    """Statistics over the newest calls. Durations are seconds; a figure without samples is 0.0, so you should look at the counts first.

    Percentiles interpolate linearly between the closest ranks (numpy's default): of the ten samples 10, 20 … 100 ms, p50 is 55,
    p95 is 95.5 and p99 is 99.1 ms.

    Attributes:
        avg_first_token_latency: Time to first token; streams only, a plain answer has none.
        p50_first_token_latency: Its median.
        p95_first_token_latency: Its 95th percentile.
        p99_first_token_latency: Its 99th percentile.
        avg_total_latency: Whole call, waiting in the rate limiter's queue and between retries included: the time that your code waits.
        p50_total_latency: Its median.
        p95_total_latency: Its 95th percentile.
        p99_total_latency: Its 99th percentile.
        min_total_latency: The fastest.
        max_total_latency: The slowest.
        avg_service_latency: Whole call without that wait: the service's time, the network's included. You should compare services by it.
        p50_service_latency: Its median.
        p95_service_latency: Its 95th percentile.
        p99_service_latency: Its 99th percentile.
        avg_wait: The wait alone.
        p50_wait: Its median.
        p95_wait: Its 95th percentile.
        p99_wait: Its 99th percentile.
        avg_tokens_per_second: Generation speed, from reported usage.
        p50_tokens_per_second: Its median.
        p95_tokens_per_second: Its 95th percentile.
        p99_tokens_per_second: Its 99th percentile.
        avg_failure_latency: Whole call, of failed calls; no figure above includes them.
        p50_failure_latency: Its median.
        p95_failure_latency: Its 95th percentile.
        p99_failure_latency: Its 99th percentile.
        sample_count: The number of successful calls behind the figures above (those of failures aside).
        first_token_count: The number of these calls with a time to first token.
        error_count: Calls that reached the service and failed, counted since the start, not only among the newest.
        local_count: Calls that failed without the service, since the start: refused by the rate limiter or a circuit breaker, never sent,
            cancelled. They can tell nothing about the service, so no figure above includes them.
        success_count: Calls that succeeded, since the start.

    .. versionadded:: 0.1.0
    """

    avg_first_token_latency: float = 0.0
    p50_first_token_latency: float = 0.0
    p95_first_token_latency: float = 0.0
    p99_first_token_latency: float = 0.0
    avg_total_latency: float = 0.0
    p50_total_latency: float = 0.0
    p95_total_latency: float = 0.0
    p99_total_latency: float = 0.0
    min_total_latency: float = 0.0
    max_total_latency: float = 0.0
    avg_service_latency: float = 0.0
    p50_service_latency: float = 0.0
    p95_service_latency: float = 0.0
    p99_service_latency: float = 0.0
    avg_wait: float = 0.0
    p50_wait: float = 0.0
    p95_wait: float = 0.0
    p99_wait: float = 0.0
    avg_tokens_per_second: float = 0.0
    p50_tokens_per_second: float = 0.0
    p95_tokens_per_second: float = 0.0
    p99_tokens_per_second: float = 0.0
    avg_failure_latency: float = 0.0
    p50_failure_latency: float = 0.0
    p95_failure_latency: float = 0.0
    p99_failure_latency: float = 0.0
    sample_count: int = 0
    first_token_count: int = 0
    error_count: int = 0
    local_count: int = 0
    success_count: int = 0


@attrs.frozen(kw_only=True)
class MeasuredProfile:
    """The published speed of a model beside the measured one, so that you can compare them. ``None`` means not published, or no sample.

    Attributes:
        model: The model.
        nominal_first_token_latency: Seconds to the first token, as published.
        measured_first_token_latency: Their median over the newest streams.
        nominal_tokens_per_second: Generation speed, as published.
        measured_tokens_per_second: Its median over the newest calls.
        sample_count: Calls measured.

    .. versionadded:: 0.1.0
    """

    model: str
    nominal_first_token_latency: float | None = None
    measured_first_token_latency: float | None = None
    nominal_tokens_per_second: float | None = None
    measured_tokens_per_second: float | None = None
    sample_count: int = 0


@attrs.frozen(kw_only=True)
class ProviderHealth:
    """The outcome of a health check. You can use ``status`` for a readiness probe, and should log ``error.summary``.

    Attributes:
        status: ``"unknown"`` before the first check, ``"healthy"``, ``"degraded"`` (the service answered with a 429, or
            with an unreadable list of models) or ``"unhealthy"``.
        last_check: The time of the check, aware UTC; ``None`` before the first check.
        latency: Seconds that the check took.
        model_count: The number of models that the service lists, or the catalogue's number if the check did not read it.
        error_count: Failed checks in a row.
        message: The text of the error; ``""`` for success.
        error: The exception; ``None`` for success.

    .. versionadded:: 0.1.0
    """

    status: str = "unknown"
    last_check: datetime | None = None
    latency: float = 0.0
    model_count: int = 0
    error_count: int = 0
    message: str = ""
    error: GroqProviderError | None = attrs.field(default=None, eq=False)
