"""The arithmetic of limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.ratelimit.bucket import DIMENSIONS, FULL_SHARE, SECOND, TOKENS, Bucket, BucketSet, Dimension

HOUR = Dimension("ash", TOKENS, 3600 * SECOND, "audio seconds", "hour")
SHARE = 970_000


def cost(tokens: int = 0, *, prompt: int = 0, output: int = 0) -> tuple[int, int, int, int]:
    return 1, tokens or prompt + output, prompt, output


@pytest.mark.parametrize(
    ("dimension", "limit", "used", "requested", "seconds", "tolerance"),
    [
        pytest.param(DIMENSIONS["tpm"], 15000, 11972, 4351, 5.289, 0.004, id="tpm-5.289"),
        pytest.param(DIMENSIONS["tpm"], 15000, 11390, 4351, 2.961, 0.004, id="tpm-2.961"),
        pytest.param(DIMENSIONS["tpm"], 6000, 5034, 1443, 4.77, 0.001, id="tpm-4.77"),
        pytest.param(DIMENSIONS["rpm"], 30, 30, 1, 2.0, 1e-9, id="rpm-2"),
        pytest.param(DIMENSIONS["tpd"], 100000, 99000, 2032, 892, 0.5, id="tpd-14m52s"),
        pytest.param(DIMENSIONS["otpm"], 1000, 997, 192, 11.34, 0.001, id="otpm-11.34"),
        pytest.param(HOUR, 7200, 7100, 180, 40, 0.001, id="ash-40"),
    ],
)
def test_waits_match_service(dimension, limit, used, requested, seconds, tolerance):  # noqa: PLR0917 - a table
    """The waits of published 429 texts come out of the same arithmetic."""
    bucket = Bucket(dimension, limit)
    bucket.charge(used, 0)
    assert bucket.ready_at(requested) / SECOND == pytest.approx(seconds, abs=tolerance)


@pytest.mark.parametrize(
    ("limit", "used", "seconds"),
    [(14400, 1, 6.0), (1000, 1, 86.4), (14400, 30, 179.99)],
    ids=["6s", "1m26.4s", "2m59.56s"],
)
def test_reset_is_time_until_full(limit, used, seconds):
    """The reset headers of the day limit come out too."""
    bucket = Bucket(DIMENSIONS["rpd"], limit)
    bucket.charge(used, 0)
    assert bucket.reset(0) / SECOND == pytest.approx(seconds, abs=0.5)


def test_share_scales_tokens_only():
    """Requests are whole: both sides count them alike."""
    buckets = BucketSet({"rpm": 30, "tpm": 1000}, share=SHARE)
    assert {bucket.dimension.name: bucket.capacity for bucket in buckets} == {"rpm": 30, "tpm": 970}
    assert buckets.get("tpm").interval == -(-60 * SECOND * 100 // (1000 * 97))


def test_all_or_nothing():
    """A cost that one bucket refuses leaves the others as they were."""
    buckets = BucketSet({"rpm": 30, "tpm": 100})
    assert buckets.try_take(cost(90), 0)
    before = [bucket.tat for bucket in buckets]
    assert not buckets.try_take(cost(20), 0)
    assert [bucket.tat for bucket in buckets] == before


def test_over_share_goes_into_debt():
    """More than the share waits for a full bucket and goes into debt: it leaves once nothing is used."""
    bucket = Bucket(DIMENSIONS["tpm"], 1000, share=SHARE)
    bucket.charge(10, 0)
    assert bucket.ready_at(990) == bucket.tat == 10 * bucket.interval
    bucket.charge(990, bucket.tat)
    assert bucket.remaining(10 * bucket.interval) == -20


def test_only_over_limit_never_fits():
    """Only a cost above the limit can never fit."""
    buckets = BucketSet({"tpm": 1000}, share=SHARE)
    assert buckets.never_fits(cost(1000)) is None
    assert buckets.never_fits(cost(1001)) is buckets.get("tpm")
    assert buckets.cut_to_limits(cost(prompt=1001), cost(prompt=900))[TOKENS] == 1000
    assert buckets.cut_to_limits(cost(prompt=1100), cost(prompt=1001))[TOKENS] == 1001  # the need is never cut


def test_zero_cost_is_always_free():
    """A cost of nothing never waits, even in debt."""
    buckets = BucketSet({"otpm": 10})
    buckets.charge(cost(output=10), 0)
    buckets.charge(cost(output=10), 0)
    assert buckets.ready_at(cost(prompt=5)) == (0, None)
    assert buckets.try_take(cost(prompt=5), 0)


def test_no_limits_no_wait():
    """Unknown limits, zero included, hold no call up."""
    buckets = BucketSet({"rpm": None, "tpm": 0})
    assert len(buckets) == 0
    assert buckets.try_take(cost(10**9), 0)


def test_longest_wait_names_cause():
    """A wait names the limit of the bucket that takes longest."""
    buckets = BucketSet({"rpm": 1, "rpd": 1})
    buckets.charge(cost(), 0)
    ready, cause = buckets.ready_at(cost())
    assert ready == 86_400 * SECOND
    assert cause is buckets.get("rpd")


def test_resize_keeps_what_is_used():
    """A smaller limit does not forget the tokens spent."""
    bucket = Bucket(DIMENSIONS["tpm"], 1000)
    bucket.charge(400, 0)
    bucket.resize(500, share=FULL_SHARE, now=0)
    assert bucket.remaining(0) == 100


@pytest.mark.parametrize(
    ("configured", "learned", "limit", "source", "outcome"),
    [
        pytest.param(1000, 800, 800, "learned", "lowered", id="lowers"),
        pytest.param(1000, 2000, 1000, "configured", None, id="never-raises"),
        pytest.param(None, 2000, 2000, "learned", "adopted", id="adopts"),
        pytest.param(1000, 0, 1000, "configured", None, id="nothing-is-no-limit"),
    ],
)
def test_learned_limits_are_believed(configured, learned, limit, source, outcome):
    """The service lowers a configured limit, and is believed where none is configured."""
    buckets = BucketSet({"tpm": configured})
    assert buckets.learn_limit("tpm", learned, 0) == outcome
    bucket = buckets.get("tpm")
    assert (bucket.limit, buckets.source(bucket)) == (limit, source)


def test_learned_limit_follows_service_up():
    """A learned limit follows the service up to the configured one: a plan that changes back is believed."""
    buckets = BucketSet({"tpm": 1000})
    buckets.learn_limit("tpm", 500, 0)
    assert buckets.learn_limit("tpm", 3000, 0) is None
    assert buckets.get("tpm").limit == 1000


@pytest.mark.parametrize(
    ("candidate", "idle", "expected"),
    [
        pytest.param(50, False, 50, id="tightens-at-once"),
        pytest.param(20, False, 38, id="loosens-by-a-tenth"),
        pytest.param(20, True, 20, id="loosens-when-idle"),
        pytest.param(5, True, 10, id="not-before-now"),
    ],
)
def test_sync_tightens_before_it_loosens(candidate, idle, expected):
    """Headers tighten at once and loosen with care."""
    bucket = Bucket(DIMENSIONS["rpm"], 30, now=40)
    bucket.sync(candidate, now=10, idle=idle, keep_own_use=False)
    assert bucket.tat == expected


def test_refusal_empties_minute_limits_only():
    """A refusal without a name says nothing about the day."""
    buckets = BucketSet({"rpm": 30, "rpd": 1000, "tpm": 1000})
    buckets.exhaust(0)
    assert [bucket.remaining(0) for bucket in buckets] == [0, 1000, 0]


def test_unexplained_share_keeps_usage():
    """A smaller share makes less of the same."""
    buckets = BucketSet({"tpm": 1000})
    buckets.charge(cost(300), 0)
    buckets.set_share(FULL_SHARE // 2, 0)
    assert buckets.get("tpm").remaining(0) == 200


def test_repr_shows_the_state():
    """The repr shows the level of a bucket."""
    assert repr(Bucket(DIMENSIONS["rpm"], 30)) == "<Bucket rpm 30 of 30, full at 0 ns>"


@given(
    limit=st.integers(1, 10**6),
    share=st.integers(1, FULL_SHARE),
    name=st.sampled_from(sorted(DIMENSIONS)),
    steps=st.lists(st.tuples(st.integers(0, 90 * SECOND), st.integers(1, 10**6)), max_size=40),
)
def test_window_bounds_admission(limit, share, name, steps):
    """In any window w no more is admitted than burst + rate times w."""
    bucket = Bucket(DIMENSIONS[name], limit, share=share)
    now, admitted = 0, []
    for gap, asked in steps:
        now += gap
        units = 1 + asked % bucket.capacity
        if bucket.ready_at(units) <= now:
            bucket.charge(units, now)
            admitted.append((now, units))
    for i, (start, _) in enumerate(admitted):
        total = 0
        for end, units in admitted[i:]:
            total += units
            assert total * bucket.interval <= bucket.burst + (end - start)
            whole = limit if bucket.kind == 0 else limit * share / FULL_SHARE
            assert total <= bucket.capacity + whole * (end - start) / bucket.dimension.period + 1e-6


@given(
    operations=st.lists(
        st.tuples(st.integers(0, 30 * SECOND), st.sampled_from(["take", "settle", "refund"]), st.integers(0, 2000)),
        max_size=60,
    )
)
def test_level_stays_within_capacity(operations):
    """Whatever is settled or refunded, a bucket never holds more than its capacity; without time passing the sums agree."""
    timed = BucketSet({"rpm": 30, "tpm": 1000, "tpd": 20_000}, share=SHARE)
    still = BucketSet({"tpd": 10**9})
    now, held, used = 0, [], 0
    for gap, kind, units in operations:
        now += gap
        if kind == "take":
            if timed.try_take(cost(units), now):
                still.charge(cost(units), 0)
                held.append(units)
        elif held:
            reserved = held.pop()
            actual = cost(units) if kind == "settle" else (0, 0, 0, 0)
            timed.settle(cost(reserved), actual, now)
            still.settle(cost(reserved), actual, 0)
            used += actual[TOKENS]
        assert all(bucket.remaining(now) <= bucket.capacity and bucket.reset(now) >= 0 for bucket in timed)
        assert still.get("tpd").remaining(0) == 10**9 - used - sum(held)


@given(units=st.integers(1, 1000), used=st.integers(0, 3000))
def test_cost_fits_exactly_on_time(units, used):
    """A cost fits exactly when its time has come, not a nanosecond earlier."""
    buckets = BucketSet({"tpm": 1000})
    buckets.charge(cost(used), 0)
    ready, _ = buckets.ready_at(cost(units))
    if ready > 0:
        assert not buckets.try_take(cost(units), ready - 1)
    assert buckets.try_take(cost(units), max(ready, 0))


@pytest.mark.parametrize("name", ["rpm", "tpm", "tpd"])
def test_debts_end_within_a_period(name):
    """However much a call has used, the bucket has room again one period after it would have been full."""
    bucket = Bucket(DIMENSIONS[name], 1000)
    for _ in range(3):
        bucket.charge(10**12, 7)
    assert bucket.tat <= 7 + 2 * bucket.dimension.period + bucket.interval
