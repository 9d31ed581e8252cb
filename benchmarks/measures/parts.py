"""This library's limiter and latency tracker, each alone."""

from __future__ import annotations

import time
from typing import Any

import answers
from contenders import MODEL


def limiter(_client: Any, *, loops: int) -> dict[str, float]:
    """Measure CPU seconds of one reservation with its settlement, without and with an answer's headers."""
    from groq_provider import RateLimits, TokenBucketRateLimiter
    from groq_provider.types.response import Usage
    from groq_provider.wire.headers import parse_rate_limit

    limits = RateLimits(rpm=100_000_000, rpd=500_000_000, tpm=2_000_000_000, tpd=2_000_000_000_000)
    alone = TokenBucketRateLimiter(limits)
    usage = Usage(prompt_tokens=62, completion_tokens=18, total_tokens=80, source="reported")
    headers = dict(line.split(": ", 1) for line in answers.COMMON_HEADERS)
    began = time.thread_time()
    for _ in range(loops):
        alone.reserve(MODEL, prompt_tokens=60, max_output_tokens=256).settle(usage)
    plain = time.thread_time() - began
    began = time.thread_time()
    for _ in range(loops):
        place = alone.reserve(MODEL, prompt_tokens=60, max_output_tokens=256)
        place.feedback(parse_rate_limit(headers))
        place.settle(usage)
    return {"cpu": plain / loops, "learning": (time.thread_time() - began) / loops}


def tracker(_client: Any, *, loops: int) -> dict[str, float]:
    """Measure CPU seconds of one latency record."""
    from groq_provider import LatencyTracker

    alone = LatencyTracker()
    began = time.thread_time()
    for _ in range(loops):
        alone.record(MODEL, total=0.5, first_token=0.1, tokens_per_second=500.0)
    return {"cpu": (time.thread_time() - began) / loops}
