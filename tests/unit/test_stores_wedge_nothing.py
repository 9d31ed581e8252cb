"""Whatever stands in a store, by damage or by another writer, holds a model up for one window at most; and all kinds of store agree on it."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.fakes import FakeClock, MemoryStore
from support.redis_server import shared
from support.store_kinds import KINDS, StoreClock

from groq_provider import RateLimits
from groq_provider.errors import RateLimitedError, RequestTooLargeError
from groq_provider.ratelimit.bucket import DIMENSIONS
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.ratelimit.store.gcra_state import (
    FARTHEST_PLACE,
    LONGEST_PAUSE,
    NO_LIMIT,
    AcquireRequest,
    Adjustment,
    BucketCharge,
)
from groq_provider.types.response import Usage
from groq_provider.wire.failures import error_from_response

SECOND = 1_000_000
MINUTE = 60 * SECOND
M = "openai/gpt-oss-20b"
KEY = "key"

#: From now on: nothing, the past, possible instants, impossible ones.
INSTANTS = st.sampled_from([-(10**14), -1, 0, SECOND, MINUTE, 3 * MINUTE, 86_400 * SECOND, 10**14]) | st.integers(
    -MINUTE, 9 * MINUTE
)
STATES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("start", "gate", "claim_start", "claim_until"), INSTANTS),
        "claimant": st.sampled_from([0, 1, 9]),
        **dict.fromkeys(DIMENSIONS, INSTANTS),
    },
)
ASKS = st.builds(
    lambda names, cost, horizon, claimant: AcquireRequest(
        tuple(BucketCharge(name, cost, MINUTE, 0) for name in names), horizon, NO_LIMIT, SECOND, 0, claimant
    ),
    st.lists(st.sampled_from(sorted(DIMENSIONS)), max_size=6, unique=True),
    st.sampled_from([0, 1, SECOND, MINUTE, 3 * MINUTE]),
    st.sampled_from([0, 100_000]),
    st.sampled_from([1, 2]),
)


def corrupt_state(state, fields):
    for name, value in fields.items():
        if name in DIMENSIONS:
            state.full_at[name] = value
        else:
            setattr(state, name, value)


def corrupt(kind, store, fields):
    """Write a state of *fields* into the store, past its own methods."""
    if kind == "memory":
        corrupt_state(store.states[KEY], fields)
    elif kind == "file":
        store._update_record(KEY, lambda state, _now, given: corrupt_state(state, given), fields)
    elif fields:
        words = [word for pair in fields.items() for word in pair]
        shared().do("HSET", f"{store._prefix}:{{{KEY}}}:v1", *words)


@pytest.mark.parametrize("kind", KINDS)
@given(fields=STATES, asks=st.lists(st.tuples(st.integers(0, MINUTE), ASKS), min_size=1, max_size=5))
@example(
    fields={"claimant": 9, "claim_start": 10**14, "claim_until": 10**14},
    asks=[(0, AcquireRequest((), 0, NO_LIMIT, SECOND, 0, 1))],
)
def test_a_foreign_state_holds_briefly(kind, fields, asks):
    """All asks are answered as the model answers them, and the next call goes out when its pause, its place or its debt is over."""
    clock = StoreClock(10**15)
    with ExitStack() as cleanup:
        store, model = KINDS[kind](clock, cleanup), MemoryStore(clock)
        for each in (store, model):
            each.adjust(KEY, Adjustment())
        state = {name: value if name == "claimant" else clock.micros + value for name, value in fields.items()}
        corrupt(kind, store, state)
        corrupt("memory", model, state)
        for step, ask in asks:
            taken = store.take(KEY, ask)
            assert taken._replace(hosts=0) == model.take(KEY, ask)
            clock.micros += step
        last = AcquireRequest((BucketCharge("rpm", SECOND, MINUTE, 0),), 0, NO_LIMIT, SECOND, 0, 3)
        store.take(KEY, last)
        # A claim that was found ends first; its owner does not come.
        clock.micros += max(LONGEST_PAUSE + SECOND, FARTHEST_PLACE + MINUTE + SECOND)
        assert store.take(KEY, last).reserved


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e300", "9" * 30, "x", ""])
@pytest.mark.parametrize("field", ["last", "start", "gate", "claim_until", "claim_start", "version", "rpm", "fill"])
def test_what_redis_holds_is_numbers(number, field):
    """What no store wrote counts as not there."""
    clock = StoreClock(10**15)
    with ExitStack() as cleanup:
        store = KINDS["redis"](clock, cleanup)
        store.adjust(KEY, Adjustment(pause=SECOND))
        corrupt("redis", store, {field: number, "claimant": 9})
        clock.micros += 2 * SECOND
        assert store.take(KEY, AcquireRequest((BucketCharge("rpm", 1, MINUTE, 0),), 0, NO_LIMIT, 1, 0, 1)).reserved


# --- two processes ---

FIGURES = st.sampled_from(["-1", "0", "1", "7", "6000", str(10**12), "1" + "0" * 400, "x"])
RESETS = st.sampled_from(["0s", "1s", "59s", "25h", "99999999h", "1793534400", "9" * 400])
TEXTS = st.builds(
    "Rate limit reached on tokens per minute ({}): Limit {}, Used {}, Requested {}. Please try again in {}.".format,
    st.sampled_from(["TPM", "RPM", "ITPM", "OTPM"]),
    FIGURES,
    FIGURES,
    FIGURES,
    RESETS,
)
ANSWERS = st.lists(st.tuples(st.booleans(), TEXTS, RESETS, st.sampled_from([0, 5, 10**7, 10**30])), max_size=6)


def live_through(limiter, clock, answers):
    for refused, text, after, used in answers:
        try:
            place = limiter.try_reserve(M, prompt_tokens=10, max_output_tokens=10)
        except RequestTooLargeError:
            place = None
        if place is None:
            clock.advance(1)
        elif refused:
            body = json.dumps({"error": {"message": text, "type": "tokens", "code": "rate_limit_exceeded"}})
            error = error_from_response(429, {"retry-after": after}, body.encode(), now=clock.now())
            place.feedback(None, error if isinstance(error, RateLimitedError) else None)
            place.refund(keep_request=True)
        else:
            place.settle(Usage(prompt_tokens=used, completion_tokens=0, total_tokens=used))


@pytest.mark.parametrize("limits", [None, RateLimits(rpm=30, tpm=6000)], ids=["learned", "configured"])
@given(answers=ANSWERS, fields=STATES)
def test_another_process_goes_out(limits, answers, fields):
    """Whatever one process was told and whatever stands in the store: another one waits for a pause, or for a debt of one window."""
    clock = FakeClock(start=10.0**6)
    store = MemoryStore(clock, hosts=2)
    told, other = (TokenBucketRateLimiter(limits, clock=clock, store=store) for _ in range(2))
    live_through(told, clock, answers)
    for state in store.states.values():
        now = round(clock.monotonic() * SECOND)
        corrupt_state(state, {name: v if name == "claimant" else now + v for name, v in fields.items()})
    before = clock.monotonic()
    other.reserve(M, prompt_tokens=10, max_output_tokens=10).keep()
    assert clock.monotonic() - before <= 80


def test_limits_shown_stay_plausible():
    """A bucket that a call does not need is only read, and its level is cut to a possible one when shown."""
    clock = FakeClock()
    store = MemoryStore(clock, hosts=1)
    limiter = TokenBucketRateLimiter(RateLimits(otpm=600), clock=clock, store=store)
    limiter.reserve(M, prompt_tokens=10, max_output_tokens=0).keep()
    for state in store.states.values():
        state.full_at["otpm"] = 10**14
    limiter.reserve(M, prompt_tokens=10, max_output_tokens=0).keep()
    assert 0 < limiter.get_status()[M].windows["otpm"].reset < 121
