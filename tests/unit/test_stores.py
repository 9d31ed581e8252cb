"""What stores promise, and that each of them does exactly what the model does."""

from __future__ import annotations

import heapq
import random
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.store_kinds import KINDS, MemoryStore, StoreClock

from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.bucket import DIMENSIONS
from groq_provider.ratelimit.store import open_store
from groq_provider.ratelimit.store.gcra_state import (
    CLAIM_LIFE,
    NO_LIMIT,
    AcquireRequest,
    Adjustment,
    BucketCharge,
    GcraState,
)
from groq_provider.ratelimit.store.protocol import RateLimitStore

SECOND = 1_000_000
KEY = "key"


def make_charge(cost=SECOND, *, burst=5 * SECOND, known=0, name="rpm"):
    return BucketCharge(name, cost, burst, known)


def make_request(*charges, horizon=0, latest=NO_LIMIT, spacing=SECOND, seen=0, claimant=1):
    return AcquireRequest(charges or (make_charge(),), horizon, latest, spacing, seen, claimant)


@pytest.fixture
def clock():
    return StoreClock()


@pytest.fixture(params=KINDS)
def store(request, clock):
    with ExitStack() as cleanup:
        yield KINDS[request.param](clock, cleanup)


def drain(store, *, key=KEY, burst=5 * SECOND, name="rpm"):
    """Take all a bucket holds."""
    result = store.take(key, make_request(make_charge(burst, burst=burst, name=name)))
    assert result.reserved
    return result


def test_kind_is_a_store(store):
    """Each kind has the interface of a store."""
    assert isinstance(store, RateLimitStore)


def test_burst_passes_then_rate(store, clock):
    """Five at once, the sixth when a fifth of the bucket is back, not a microsecond earlier."""
    assert [store.take(KEY, make_request()).reserved for _ in range(6)] == [True] * 5 + [False]
    assert store.take(KEY, make_request()).wait == SECOND
    clock.micros += SECOND - 1
    assert store.take(KEY, make_request()).wait == 1
    clock.micros += 1
    result = store.take(KEY, make_request())
    assert (result.reserved, result.wait, result.start, result.full) == (True, 0, clock.micros, (5 * SECOND,))


def test_all_or_nothing(store):
    """A request that one bucket refuses is charged to none."""
    both = make_request(make_charge(name="rpm"), make_charge(3 * SECOND, name="tpm"))
    assert store.take(KEY, both).full == (SECOND, 3 * SECOND)
    refused = store.take(KEY, both)
    assert (refused.reserved, refused.wait, refused.full) == (False, SECOND, (SECOND, 3 * SECOND))


def test_the_slowest_bucket_decides(store):
    """The wait is the longest of all."""
    drain(store, name="tpm")
    drain(store, name="rpm", burst=50 * SECOND)
    result = store.take(
        KEY, make_request(make_charge(name="tpm"), make_charge(2 * SECOND, burst=50 * SECOND, name="rpm"))
    )
    assert (result.reserved, result.wait) == (False, 2 * SECOND)


@pytest.mark.parametrize("cost", [5 * SECOND, 7 * SECOND], ids=["all", "more"])
def test_cost_over_burst_leaves_debt(store, clock, cost):
    """A cost of all and more is not split: it waits until nothing is used, and leaves a debt."""
    store.take(KEY, make_request())
    large = make_request(make_charge(cost))
    assert store.take(KEY, large).wait == SECOND
    clock.micros += SECOND
    assert store.take(KEY, large).full == (cost,)
    assert store.take(KEY, make_request()).wait == cost - 4 * SECOND


def test_zero_cost_reads_state(store):
    """A cost of nothing waits for no bucket and says how full it is, which is how a state is read."""
    drain(store)
    result = store.take(KEY, make_request(make_charge(0), make_charge(0, name="tpm", known=7)))
    assert (result.reserved, result.wait, result.full) == (True, 0, (5 * SECOND, 7))


@pytest.mark.parametrize(
    ("horizon", "latest", "reserved"),
    [
        pytest.param(SECOND, NO_LIMIT, True, id="within-the-horizon"),
        pytest.param(SECOND - 1, NO_LIMIT, False, id="beyond-the-horizon"),
        pytest.param(2 * SECOND, SECOND, True, id="just-in-time"),
        pytest.param(2 * SECOND, SECOND - 1, False, id="too-late-for-the-caller"),
    ],
)
def test_places_reserved_within_bounds(store, clock, horizon, latest, reserved):
    """Places are reserved ahead up to both bounds; one that is refused costs nothing."""
    drain(store)
    result = store.take(KEY, make_request(horizon=horizon, latest=latest))
    assert (result.reserved, result.wait, result.start) == (reserved, SECOND, clock.micros + SECOND)
    assert result.full == (6 * SECOND if reserved else 5 * SECOND,)


def test_no_call_overtakes(store):
    """A call that needs nothing of the empty bucket starts after the one that waits for it."""
    drain(store)
    assert store.take(KEY, make_request(horizon=SECOND)).wait == SECOND
    other = store.take(KEY, make_request(make_charge(name="tpm"), horizon=SECOND, claimant=2))
    assert (other.reserved, other.wait) == (True, SECOND)


def test_returned_place_frees_order(store):
    """A returned reservation frees its start and its cost; only the newest start can return."""
    drain(store)
    first = store.take(KEY, make_request(horizon=9 * SECOND))
    second = store.take(KEY, make_request(horizon=9 * SECOND))
    store.adjust(KEY, Adjustment(credits={"rpm": SECOND}, start=first.start))
    assert store.take(KEY, make_request(make_charge(0))).wait == 2 * SECOND  # the second one's start still counts
    store.adjust(KEY, Adjustment(credits={"rpm": SECOND}, start=second.start))
    assert store.take(KEY, make_request(make_charge(0))).wait == 0
    assert store.take(KEY, make_request()).wait == SECOND


def test_front_kept_for_large_call(store, clock):
    """Small calls of other queues do not use up the units that the claimant waits for."""
    drain(store)
    large = make_request(make_charge(4 * SECOND), claimant=7)
    assert store.take(KEY, large).wait == 4 * SECOND
    for _ in range(4):
        clock.micros += SECOND
        small = store.take(KEY, make_request(claimant=8, horizon=9 * SECOND))
        assert (small.reserved, small.wait) == (False, large.charges[0].cost - (clock.micros - 1_000_000_000))
        result = store.take(KEY, large)
    assert result.reserved
    assert store.take(KEY, make_request(claimant=8)).wait == SECOND  # and then the claim is gone


def test_a_claim_expires(store, clock):
    """A claimant that does not come back, such as a killed process, holds the others up no longer than that."""
    drain(store)
    store.take(KEY, make_request(make_charge(5 * SECOND), claimant=7))
    clock.micros += CLAIM_LIFE - 1
    assert not store.take(KEY, make_request(claimant=8)).reserved
    clock.micros += 1
    assert store.take(KEY, make_request(claimant=8)).reserved


@pytest.mark.parametrize(
    ("change", "reserved"),
    [
        pytest.param(Adjustment(claimant=7), True, id="own"),
        pytest.param(Adjustment(claimant=9), False, id="of-another"),
    ],
)
def test_claim_can_be_given_up(store, clock, change, reserved):
    """A claim can be given up by its owner."""
    drain(store)
    store.take(KEY, make_request(make_charge(5 * SECOND), claimant=7))
    clock.micros += SECOND
    store.adjust(KEY, change)
    assert store.take(KEY, make_request(claimant=8)).reserved is reserved


def test_impatient_caller_claims_nothing(store, clock):
    """A caller whose time is up before its place does not hold others up."""
    drain(store)
    store.take(KEY, make_request(make_charge(5 * SECOND), latest=SECOND, claimant=7))
    clock.micros += SECOND
    assert store.take(KEY, make_request(claimant=8)).reserved


def test_gate_closes_probes_then_opens(store, clock):
    """The gate closes after a refusal, so that no call starts, then lets out one at a time, then opens for all."""
    assert not store.take(KEY, make_request()).gated
    store.adjust(KEY, Adjustment(pause=3 * SECOND))
    store.adjust(KEY, Adjustment(pause=SECOND))  # a shorter one changes nothing
    refused = store.take(KEY, make_request())
    assert (refused.reserved, refused.wait, refused.gated) == (False, 3 * SECOND, True)
    clock.micros += 3 * SECOND
    waits = [store.take(KEY, make_request(horizon=9 * SECOND, spacing=2 * SECOND)).wait for _ in range(3)]
    assert waits == [0, 2 * SECOND, 4 * SECOND]
    store.adjust(KEY, Adjustment(opened=True))
    result = store.take(KEY, make_request(horizon=9 * SECOND))
    assert (result.gated, result.wait) == (False, 4 * SECOND)  # after those that have a reservation


def test_pause_beats_simultaneous_opening(store):
    """A gate opened and paused at once is paused: the newer word is the refusal."""
    store.adjust(KEY, Adjustment(pause=9 * SECOND))
    store.adjust(KEY, Adjustment(opened=True, pause=SECOND))
    assert store.take(KEY, make_request()).wait == SECOND


@pytest.mark.parametrize(
    ("credit", "full"),
    [
        pytest.param(2 * SECOND, 3 * SECOND, id="some"),
        pytest.param(9 * SECOND, 0, id="not-beyond-full"),
        pytest.param(-4 * SECOND, 9 * SECOND, id="debt"),
    ],
)
def test_settlement_credits_and_debts(store, credit, full):
    """Credit up to full; debt beyond empty."""
    drain(store)
    store.adjust(KEY, Adjustment(credits={"rpm": credit}))
    assert store.take(KEY, make_request(make_charge(0))).full == (full,)


def test_a_debt_counts_from_now(store, clock):
    """Time in which the bucket was full pays for nothing."""
    store.take(KEY, make_request())
    clock.micros += 60 * SECOND
    store.adjust(KEY, Adjustment(credits={"rpm": -SECOND, "tpd": -2 * SECOND, "tpm": SECOND}))
    found = store.take(
        KEY, make_request(make_charge(0), make_charge(0, name="tpd"), make_charge(0, name="tpm", known=7))
    )
    assert found.full == (SECOND, 2 * SECOND, 7)  # a bucket that was never charged ignores credit


def test_service_figures_only_tighten(store):
    """Figures of the service lag behind ours."""
    drain(store)
    store.adjust(KEY, Adjustment(full={"rpm": 2 * SECOND, "tpm": 3 * SECOND}))
    assert store.take(KEY, make_request(make_charge(0), make_charge(0, name="tpm"))).full == (5 * SECOND, 3 * SECOND)
    store.adjust(KEY, Adjustment(full={"rpm": 8 * SECOND}))
    assert store.take(KEY, make_request(make_charge(0))).full == (8 * SECOND,)


def test_unknown_bucket_starts_as_told(store):
    """An unknown bucket starts where the caller says, not full."""
    assert store.take(KEY, make_request(make_charge(known=5 * SECOND))).wait == SECOND


def test_lost_state_starts_as_told(store):
    """A version older than the caller knows: a restart, a failover, a deleted file."""
    drain(store, burst=SECOND)
    result = store.take(
        KEY, make_request(make_charge(0, known=4 * SECOND), make_charge(0, name="tpm", known=SECOND), seen=41)
    )
    assert (result.version, result.full) == (42, (4 * SECOND, SECOND))
    same = store.take(KEY, make_request(make_charge(0, known=9 * SECOND), seen=42))
    assert (same.version, same.full) == (43, (4 * SECOND,))  # nothing is lost


def test_a_lost_state_never_loosens(store):
    """Charges of other processes since then count."""
    drain(store)
    assert store.take(KEY, make_request(make_charge(0, known=SECOND), seen=41)).full == (5 * SECOND,)


def test_backward_clock_stands_still(store, clock):
    """A clock that steps back a little stands still: nothing is refilled twice."""
    drain(store)
    clock.micros -= SECOND
    assert store.take(KEY, make_request()).wait == SECOND
    clock.micros += SECOND
    assert store.take(KEY, make_request()).wait == SECOND
    store.adjust(KEY, Adjustment(credits={"rpm": SECOND}))
    assert store.take(KEY, make_request()).reserved


def test_versions_count_the_calls(store):
    """By one each."""
    assert [store.take(KEY, make_request(latest=0)).version for _ in range(8)] == list(range(1, 9))


@pytest.mark.parametrize("other", ["", "key2", "Key", "ключ", "k" * 5000, "org:model\n\0"])
def test_keys_never_touch_each_other(store, other):
    """Keys do not touch each other, whatever is in them."""
    drain(store)
    store.adjust(KEY, Adjustment(pause=SECOND))
    result = store.take(other, make_request())
    assert (result.reserved, result.version, result.gated) == (True, 1, False)
    assert not store.take(KEY, make_request()).reserved


def test_many_keys_keep_their_state(store):
    """More than one would use, each with its own state."""
    for number in range(200):
        store.take(f"model {number}", make_request(make_charge(number + 1, burst=SECOND)))
    found = [store.take(f"model {number}", make_request(make_charge(0))) for number in range(200)]
    assert [result.full[0] for result in found] == list(range(1, 201))
    assert {result.version for result in found} == {2}


def test_closing_loses_nothing(store):
    """And can be done twice; the next call opens again."""
    drain(store)
    store.close()
    store.close()
    assert store.take(KEY, make_request()).wait == SECOND


# --- against the model ---

_NAMES = sorted(DIMENSIONS)
# From buckets that refill in a millisecond to those of a day.
_SPANS = st.sampled_from([1, 7, 999, 400_000, SECOND, 30 * SECOND, 86_400 * SECOND]) | st.integers(0, 2 * SECOND)
#: And instants that no caller can mean.
_FIGURES = _SPANS | st.just(10**14)
_KEYS = st.sampled_from(["a", "b", "c"])
_STEPS = st.sampled_from([0, 1, -1, SECOND, -SECOND, 90 * SECOND, -90 * SECOND]) | st.integers(-SECOND, 3 * SECOND)
_WANTS = st.lists(
    st.builds(BucketCharge, st.sampled_from(_NAMES), _SPANS, _SPANS.map(lambda span: span + 1), _SPANS),
    max_size=6,
    unique_by=lambda found: found.name,
).map(tuple)
_ASKS = st.builds(
    AcquireRequest,
    _WANTS,
    st.sampled_from([0, 1000, SECOND, 60 * SECOND]),
    st.sampled_from([0, 1000, 5 * SECOND, NO_LIMIT]),
    _SPANS,
    st.just(0) | st.integers(0, 60),
    st.sampled_from([1, 2, 3, (1 << 48) - 1]),
)
_CREDITS = st.dictionaries(st.sampled_from(_NAMES), _FIGURES | _FIGURES.map(lambda span: -span), max_size=6)
_CHANGES = st.builds(
    Adjustment,
    credits=_CREDITS,
    full=st.dictionaries(st.sampled_from(_NAMES), _FIGURES, max_size=6),
    start=st.sampled_from([0, 1, 2]),  # 1: the last place of this key, 2: the one before
    pause=st.just(0) | _FIGURES,
    opened=st.booleans(),
    claimant=st.sampled_from([0, 1, 2, 3]),
)
_COMMANDS = st.lists(st.tuples(_STEPS, _KEYS, _ASKS | _ASKS | _CHANGES), max_size=40)

#: Shows the whole state: every bucket, the start and the gate in the wait, and the claim by asking as another claimant.
_LOOK = AcquireRequest(tuple(BucketCharge(name, 0, 1, 0) for name in _NAMES), -1, NO_LIMIT, 0, 0, 99)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "memory"])
@given(commands=_COMMANDS)
def test_every_store_matches_model(kind, commands):
    """Any commands at any times, small steps back included: the same answers, and the same state at the end."""
    clock = StoreClock()
    with ExitStack() as cleanup:
        store, model = KINDS[kind](clock, cleanup), MemoryStore(clock)
        starts: dict[str, list[int]] = {}
        newest = clock.micros
        for step, key, command in commands:
            clock.micros = max(clock.micros + step, newest - SECOND)  # further behind it would be another clock
            newest = max(newest, clock.micros)
            if isinstance(command, AcquireRequest):
                expected = model.take(key, command)
                assert store.take(key, command)._replace(hosts=0) == expected
                starts.setdefault(key, [0, 0]).append(expected.start)
            else:
                given_back = starts.get(key, [0, 0])[-command.start] if command.start else 0
                change = command._replace(start=given_back)
                model.adjust(key, change)
                store.adjust(key, change)
        for key in ("a", "b", "c"):
            for opened in (False, True):  # the gate may hide the start
                assert store.take(key, _LOOK)._replace(hosts=0) == model.take(key, _LOOK)
                store.adjust(key, Adjustment(opened=opened))
                model.adjust(key, Adjustment(opened=opened))
            assert store.take(key, _LOOK)._replace(hosts=0) == model.take(key, _LOOK)


def test_the_look_shows_every_field():
    """Otherwise the test above would miss one."""
    shown = set()
    for name in GcraState.__slots__:
        plain, changed = GcraState(), GcraState()
        for state in (plain, changed):
            state.take(SECOND, make_request(*(make_charge(9 * SECOND, name=each) for each in _NAMES), claimant=5))
            state.take(SECOND, make_request(claimant=5))
            state.gate = 2 * SECOND
        if name == "full_at":
            changed.full_at["tpd"] += SECOND
        else:
            value = {"claimant": 99, "claim_until": 1}.get(name, getattr(changed, name) + 50 * SECOND)
            setattr(changed, name, value)
        if plain.take(SECOND, _LOOK) != changed.take(SECOND, _LOOK):
            shown.add(name)
    assert shown == set(GcraState.__slots__)


# --- the model itself ---

_BURST = 1000


@given(
    steps=st.lists(
        st.tuples(
            st.integers(-300, 900),
            st.integers(1, _BURST),
            st.integers(1, 3),
            st.sampled_from([0, 100, 5000]),
            st.sampled_from(["keep", "keep", "settle", "give back", "gate"]),
            st.integers(0, _BURST),
        ),
        max_size=60,
    )
)
def test_windows_stay_within_burst_rate(steps):
    """Several claimants, reservations ahead, credits, returned reservations, a clock that steps back: B + r·w at the instants of the starts."""
    state, now, admitted = GcraState(), 10_000, []
    for step, cost, claimant, horizon, kind, part in steps:
        now += step
        result = state.take(
            now, make_request(make_charge(cost, burst=_BURST), horizon=horizon, spacing=50, claimant=claimant)
        )
        assert result.wait >= 0
        if kind == "gate":
            state.adjust(now, Adjustment(pause=part))
        if not result.reserved:
            continue
        if kind == "give back":
            state.adjust(now, Adjustment(credits={"rpm": cost}, start=result.start))
            continue
        if kind == "settle":
            credit = min(part, cost - 1)
            state.adjust(now, Adjustment(credits={"rpm": credit}))
            cost -= credit  # noqa: PLW2901 - the final cost
        admitted.append((result.start, cost))
    admitted.sort()
    for i, (start, _) in enumerate(admitted):
        total = 0
        for end, cost in admitted[i:]:
            total += cost
            assert total <= _BURST + end - start


@given(steps=st.lists(st.tuples(st.integers(0, 500), st.integers(1, 2 * _BURST), st.integers(1, 3)), max_size=40))
def test_starts_keep_their_order(steps):
    """A granted call starts before all later ones."""
    state, now, newest = GcraState(), 10_000, 0
    for step, cost, claimant in steps:
        now += step
        result = state.take(now, make_request(make_charge(cost, burst=_BURST), horizon=700, claimant=claimant))
        if result.reserved:
            assert result.start >= newest
            newest = result.start


@given(
    now=st.integers(10_000, 10**7),
    asks=st.lists(st.tuples(st.integers(0, 10**6), _ASKS), max_size=8),
)
def test_idle_state_says_nothing(now, asks):
    """From ``idle_at`` on, answers are those of no state at all: a table may use its place."""
    state = GcraState()
    for step, each in asks:
        now += step
        state.take(now, each)
    fresh, now = GcraState(), max(state.idle_at(), now)
    everything = make_request(*(make_charge(3, burst=3, name=name) for name in _NAMES), seen=0, claimant=77)
    assert state.take(now, everything)._replace(version=1) == fresh.take(now, everything)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("interval", "burst", "costs"),
    [
        pytest.param(10_000, 30, [1, 1, 1, 1], id="fast"),
        pytest.param(2 * SECOND, 30, [1, 1, 1, 1], id="30-a-minute"),
        pytest.param(10_000, 100, [1, 1, 1, 50], id="one-large"),
    ],
)
@pytest.mark.parametrize("horizon", [0, 50_000, SECOND])
def test_processes_take_turns(interval, burst, costs, horizon):
    """Each claimant comes back when it was told to: none starves, least of all the large call, and nothing is left unused."""
    draw, state, end = random.Random(1), GcraState(), max(120 * SECOND, 300 * interval)
    grants = [0] * len(costs)
    due = [(draw.randrange(1000), number) for number in range(len(costs))]
    while due[0][0] < end:
        now, number = heapq.heappop(due)
        each = make_charge(costs[number] * interval, burst=burst * interval)
        result = state.take(now, make_request(each, horizon=horizon, claimant=number + 1))
        grants[number] += result.reserved
        wait = result.wait if result.reserved else max(min(result.wait, SECOND), 5000)
        heapq.heappush(due, (now + wait + draw.randrange(50, 300), number))
    used = sum(grant * cost for grant, cost in zip(grants, costs, strict=True)) * interval / (end + burst * interval)
    assert used > 0.97
    large = [grant for grant, cost in zip(grants, costs, strict=True) if cost > 1]
    if large:
        assert large[0] * 50 >= 0.9 * end / interval / len(costs)
    else:
        assert sum(grants) ** 2 / (len(grants) * sum(grant**2 for grant in grants)) >= 0.98


# --- by URL ---


def test_memory_is_no_store():
    """Limits of one process need no store."""
    assert open_store("memory") is None


def test_file_url_opens_file(tmp_path, clock):
    """A file URL opens a file store."""
    store = open_store(f"file://{tmp_path}/limits", clock=clock)
    assert store.take(KEY, make_request()).reserved
    store.close()


@pytest.mark.parametrize("url", ["", "mem", "https://example.com", "sqlite:///x", "FILE"])
def test_other_urls_are_refused(url):
    """A URL of no known kind is refused with the kinds there are."""
    with pytest.raises(ConfigurationError, match="must be 'memory', 'file:///path'"):
        open_store(url)
