"""No figure of the service can wedge a model: after any sequence of answers, a call goes out within one window."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock

from groq_provider.errors import RateLimitedError, RequestTooLargeError
from groq_provider.ratelimit.bucket import DIMENSIONS, SECOND, Bucket
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.wire import codec
from groq_provider.wire.failures import error_from_response
from groq_provider.wire.headers import parse_rate_limit

M = "openai/gpt-oss-20b"
NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
MINUTE = 60.0

FIGURES = st.sampled_from(["-1", "0", "1", "7", "6000", str(10**12), "1" + "0" * 400, "", "x", "1e9", "NaN"])
RESETS = st.sampled_from(["", "0s", "1s", "59s", "60s", "25h", "99999999h", "-5s", "1793534400", "9" * 400, "x"])
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "x-ratelimit-limit-tokens": FIGURES,
        "x-ratelimit-remaining-tokens": FIGURES,
        "x-ratelimit-reset-tokens": RESETS,
        "retry-after": RESETS,
    },
)
TEXTS = st.builds(
    "Rate limit reached on tokens per minute ({}): Limit {}, Used {}, Requested {}. Please try again in {}.".format,
    st.sampled_from(["TPM", "RPM", "ITPM", "OTPM"]),
    FIGURES,
    FIGURES,
    FIGURES,
    RESETS,
)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from([-1, 0, 5, 10**7, 10**12, 10**400, 1e300])
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
)
ANSWERS = st.lists(st.tuples(st.booleans(), HEADERS, TEXTS, USAGES), min_size=1, max_size=6)


def error_of(headers, text):
    body = json.dumps({"error": {"message": text, "type": "tokens", "code": "rate_limit_exceeded"}})
    return error_from_response(429, headers, body.encode(), now=NOW)


@given(ANSWERS)
def test_a_call_goes_out_soon(answers):
    """A small one, once the newest answer is a window old: of a minute, as all limits here are. With a debt, a window later."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    for refused, headers, text, usage in answers:
        try:
            place = limiter.try_reserve(M, prompt_tokens=10, max_output_tokens=None)
        except RequestTooLargeError:
            place = None
        if place is None:
            clock.advance(3 * MINUTE)
            continue
        limited = error_of(headers, text) if refused else None
        place.feedback(parse_rate_limit(headers), limited if isinstance(limited, RateLimitedError) else None)
        reported = codec.usage(usage)
        place.refund(keep_request=True) if refused else place.settle(reported) if reported else place.keep()
    clock.advance(MINUTE + 1)
    before = clock.monotonic()
    limiter.reserve(M, prompt_tokens=10, max_output_tokens=10).keep()
    assert clock.monotonic() - before <= 2 * MINUTE + 1


def test_a_limit_learned_once_heals():
    """One request a minute, read once in a text."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    place = limiter.reserve(M, prompt_tokens=10, max_output_tokens=10)
    place.feedback(
        None,
        error_of(
            {}, "Rate limit reached on requests per minute (RPM): Limit 1, Used 1, Requested 1. Please try again in 1s."
        ),
    )
    place.refund(keep_request=True)
    for _ in range(8):
        place = limiter.reserve(M, prompt_tokens=10, max_output_tokens=10)
        place.feedback(None)
        place.keep()
        clock.advance(MINUTE)
    assert limiter.get_status()[M].windows["rpm"].limit >= 15


@pytest.mark.parametrize(("name", "misread"), [("RPM", 15), ("RPM", 20), ("TPM", 60)])
def test_misread_limits_heal_with_use(name, misread):
    """A wrong limit that the service names once grows tenfold within three hours of use; nothing grows without use."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    first = limiter.reserve(M, prompt_tokens=1, max_output_tokens=1)
    first.feedback(None, RateLimitedError("x", retry_after=1.0, limit_name=name, limit=misread, sent=True))
    first.refund(keep_request=True)
    clock.advance(7 * 3600.0)
    assert limiter.get_status()[M].windows[name.lower()].limit == misread
    begun = clock.monotonic()
    while limiter.get_status()[M].windows[name.lower()].limit < 10 * misread:
        held = limiter.reserve(M, prompt_tokens=1, max_output_tokens=1)
        held.feedback(None)
        held.keep()
        assert clock.monotonic() - begun < 3 * 3600.0


def test_right_limits_cost_few_refusals():
    """Under a limit that is right, and named in refusals only, growth costs at most one call in fifty."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    service = Bucket(DIMENSIONS["rpm"], 20, now=int(clock.monotonic() * SECOND))
    calls, refused, begun = 0, 0, clock.monotonic()
    while clock.monotonic() - begun < 3 * 3600.0:
        held = limiter.reserve(M, prompt_tokens=1, max_output_tokens=1)
        calls += 1
        now = int(clock.monotonic() * SECOND)
        wait = service.ready_at(1) - now
        if wait > 0:
            refused += 1
            retry_after = wait / SECOND
            held.feedback(None, RateLimitedError("x", retry_after=retry_after, limit_name="RPM", limit=20, sent=True))
            held.refund(keep_request=True)
        else:
            service.charge(1, now)
            held.feedback(None)
            held.keep()
    assert 50 * refused <= calls
