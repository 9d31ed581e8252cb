"""Figures of a server that cannot be: no wait beyond the period of a limit, no strange exception, nothing of it for other processes."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock, MemoryStore

from groq_provider.config import RateLimits
from groq_provider.errors import RateLimitedError
from groq_provider.ratelimit.cost import actual_cost
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.types.response import RateLimitInfo
from groq_provider.wire import codec, json_text
from groq_provider.wire.failures import error_from_response
from groq_provider.wire.headers import MAX_FIGURE, parse_rate_limit

M = "openai/gpt-oss-20b"
NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)
EPOCH = int(NOW.timestamp())
MINUTE, DAY = 60.0, 86_400.0


def headers(kind, limit, left, reset):
    found = {"limit": limit, "remaining": left, "reset": reset}
    return {f"x-ratelimit-{name}-{kind}": str(value) for name, value in found.items() if value is not None}


RESETS = {
    "epoch seconds": (6000, 5900, str(EPOCH + 1)),
    "epoch milliseconds": (6000, 5900, str((EPOCH + 1) * 1000)),
    "beyond the window": (6000, 5900, "240h"),
    "just beyond": (6000, 0, "25h"),
    "full, and far from it": (6000, 6000, {"tokens": "59s", "requests": "23h"}),
    "empty, and full now": (6000, 0, "0s"),
}


@pytest.mark.parametrize("kind", ["tokens", "requests"])
@pytest.mark.parametrize("case", RESETS)
def test_a_reset_that_cannot_be(case, kind):
    """It is left out; what is left of the limit says as much."""
    limit, left, reset = RESETS[case]
    found = parse_rate_limit(headers(kind, limit, left, reset if isinstance(reset, str) else reset[kind]))
    assert found == RateLimitInfo(**{f"limit_{kind}": limit, f"remaining_{kind}": left})


@pytest.mark.parametrize(
    ("kind", "limit", "left", "reset", "seconds"),
    [
        ("tokens", 18_000, 17_997, "7.66s", 7.66),  # the service's own example
        ("requests", 14_400, 14_370, "2m59.56s", 179.56),
        ("tokens", 6000, 0, "1m0s", 60.0),
        ("tokens", 6000, 0, "1m0.3s", 60.0),
        ("requests", 1000, 0, "24h0m0s", 86_400.0),
        ("tokens", 6000, None, "30s", 30.0),
        ("tokens", None, 6000, "30s", 30.0),
    ],
)
def test_a_reset_that_can_be(kind, limit, left, reset, seconds):
    """The counterpart."""
    found = parse_rate_limit(headers(kind, limit, left, reset))
    assert getattr(found, f"reset_{kind}") == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("limit", "left", "expected"),
    [
        (10**12, 5, (None, 5)),
        (6000, 10**12, (6000, None)),
        (6000, 7000, (6000, 6000)),
        (MAX_FIGURE, MAX_FIGURE, (MAX_FIGURE, MAX_FIGURE)),
        (-1, -1, (None, None)),
        (10**400, 10**400, (None, None)),
    ],
    ids=str,
)
def test_counts_that_cannot_be(limit, left, expected):
    """Beyond what any limit is; and more left than there is."""
    found = parse_rate_limit(headers("tokens", limit, left, None))
    assert (found.limit_tokens, found.remaining_tokens) == expected


def test_figures_in_text_of_refusal():
    """Of a limit that cannot be nothing is learned."""
    text = "Rate limit reached on tokens per minute (TPM): Limit 999999999999, Used 999999999999, Requested 5. Please try again in 2s."
    error = error_from_response(429, {}, json.dumps({"error": {"message": text}}).encode(), now=NOW)
    assert type(error) is RateLimitedError
    assert (error.limit, error.used, error.requested, error.retry_after) == (None, None, 5, 2.0)


def test_refusal_never_blocks_for_days():
    """Whatever it asks for: no limit has a longer period than a day."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(clock=clock)
    place = limiter.reserve(M, prompt_tokens=1, max_output_tokens=1)
    place.feedback(None, error_from_response(429, {"retry-after": "500000"}, b"", now=NOW))
    assert limiter.get_status()[M].blocked_for == DAY


# --- through the limiter -------------------------------------------------------------------------------------------------------

COUNTS = st.one_of(st.none(), st.integers(-5, 10**30), st.sampled_from([0, 1, 6000, 10**400, MAX_FIGURE]))
TIMES = st.one_of(
    st.none(),
    st.sampled_from(
        ["0", "59s", "24h", "240h", str(EPOCH), str(EPOCH * 1000), "-5s", "9" * 15, "9" * 15 + "h", "soon"]
    ),
    st.integers(0, 10**18).map(str),
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        **{f"x-ratelimit-{name}-{kind}": COUNTS.map(str) for name in ("limit", "remaining") for kind in ("tokens", "requests")},
        "x-ratelimit-reset-tokens": TIMES.map(str),
        "x-ratelimit-reset-requests": TIMES.map(str),
    },
)  # fmt: skip
USAGES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["prompt_tokens", "completion_tokens", "total_tokens"],
        st.integers(-(10**30), 10**30) | st.sampled_from([10**12, 7]),
    ),
)


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "store"])
@given(answer=ANSWERS, usage=USAGES)
def test_no_answer_blocks_for_long(shared, answer, usage):
    """After any one of them the buckets are full within their periods, here and in the store; and all of it in whole numbers."""
    clock = FakeClock()
    store = MemoryStore(clock)
    limits = RateLimits(rpm=30, rpd=14_400, tpm=6000)
    limiter = TokenBucketRateLimiter(limits, store=store if shared else "memory", clock=clock)
    place = limiter.reserve(M, prompt_tokens=10, max_output_tokens=20)
    place.feedback(parse_rate_limit(answer))
    reported = codec.usage(json_text.loads(json.dumps(usage).encode()))
    if reported is not None and max(actual_cost(reported)) < 10_000:  # larger debts are the limiter's to bound
        place.settle(reported)
    else:
        place.keep()
    for window in limiter.get_status()[M].windows.values():
        assert window.reset <= 2 * DAY
    for state in store.states.values():
        assert all(full <= (clock.monotonic() + 2 * DAY) * 1e6 for full in state.full_at.values())
    limiter.close()
