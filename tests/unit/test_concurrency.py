"""The controller of calls in flight: its rules alone, and its results against models of a service."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.bulk.concurrency import FEWEST, MOST, Controller, comparable


def rounds(controller, count=1, *, latency=1.0, **how):
    """Make rounds of calls with all slots in use: when a call ends the next begins, as with workers; first in, first out."""
    numbers = deque()
    for _ in range(count):
        for _ in range(controller.limit):
            while controller.in_flight < controller.limit:
                numbers.append(controller.start())
            controller.end(numbers.popleft(), latency=latency, **how)
    while numbers:  # no news
        controller.end(numbers.popleft())


def at(limit, *, floor=1.0):
    """Return a controller that has grown to *limit* and knows the latency of a call alone."""
    controller = Controller(initial=limit)
    controller._floor = floor
    controller._is_doubling = False
    return controller


class Service:
    """Works on *slots* calls at once, on a clock of its own. Others wait their turn, or are refused.

    Args:
        slots: How many at once.
        seconds: What a call takes there.
        spread: Standard deviation of that, as a share of it.
        refuses: Whether it refuses what it has no slot for.
        long: The share of calls that take fifty times as long.
        seed: Of the spread.
    """

    def __init__(self, slots, *, seconds=1.0, spread=0.0, refuses=False, long=0.0, seed=1):
        self.slots, self.seconds, self.refuses, self.long = slots, seconds, refuses, long
        self._sigma = math.sqrt(math.log(1 + spread**2))
        self._random = random.Random(seed)
        self.now = 0.0
        self.answered = self.refused = 0
        self._events = []
        self._queue = deque()
        self._busy = 0
        self._order = 0

    def run(self, controller, calls):
        """Have so many calls answered; return the limit after each."""
        limits = []
        until = self.answered + calls
        while self.answered < until:
            while controller.in_flight < controller.limit:
                self._arrive(controller.start())
            self.now, _, number, began = heapq.heappop(self._events)
            if began is None:
                self.refused += 1
                controller.end(number, overloaded=True)
                continue
            self.answered += 1
            self._busy -= 1
            controller.end(number, latency=self.now - began)
            limits.append(controller.limit)
            while self._queue and self._busy < self.slots:
                self._serve(*self._queue.popleft())
        return limits

    def _arrive(self, number):
        if self._busy < self.slots:
            self._serve(number, self.now)
        elif self.refuses:
            self._push(0.05, number, None)
        else:
            self._queue.append((number, self.now))

    def _serve(self, number, began):
        self._busy += 1
        seconds = self.seconds * self._random.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        self._push(seconds * 50 if self._random.random() < self.long else seconds, number, began)

    def _push(self, seconds, number, began):
        self._order += 1
        heapq.heappush(self._events, (self.now + seconds, self._order, number, began))


def mean(values):
    return sum(values) / len(values)


# --- rules -------------------------------------------------------------------------------------------------------------------


def test_it_begins_small():
    """It begins with four calls, and never exceeds its bound."""
    assert Controller().limit == FEWEST == 4
    assert Controller(most=2).limit == 2
    assert MOST == 256


def test_doubles_until_first_trouble():
    """It doubles until the first refusal or slow round, while all slots are in use."""
    controller, seen = Controller(), set()
    for _ in range(60):
        seen.add(controller.limit)
        rounds(controller)
    assert seen == {4, 8, 16, 32, 64, 128, 256}


@pytest.mark.parametrize(("limit", "more"), [(1, 1), (4, 2), (9, 3), (63, 7), (100, 10), (250, 6), (256, 0)])
def test_later_growth_is_square_root(limit, more):
    """Afterwards it grows by the square root, one round of calls at a time, up to the bound."""
    controller = at(limit)
    while controller.limit == limit and controller._last_number < 1000:
        rounds(controller)
    assert controller.limit == limit + more


@pytest.mark.parametrize(
    ("limit", "refused_at", "more"), [(15, 16, 1), (12, 16, 1), (11, 16, 3), (16, 16, 4), (17, 16, 4)]
)
def test_grows_by_one_near_refusal(limit, refused_at, more):
    """From three quarters of the last refused limit on it grows by one; beyond that limit faster again."""
    controller = at(limit)
    controller._refused_at = refused_at
    controller._grow()
    assert controller.limit == limit + more


@pytest.mark.parametrize("limit", [2, 3, 4, 64, 255, 256])
def test_refusal_burst_halves_once(limit):
    """A burst of refusals of one round halves it once; one of the next round halves it again."""
    controller = at(limit)
    numbers = [controller.start() for _ in range(limit)]
    for number in numbers:
        controller.end(number, overloaded=True)
    assert controller.limit == limit // 2
    controller.end(controller.start(), latency=1.0)
    assert controller.limit == limit // 2
    numbers = [controller.start() for _ in range(controller.limit)]
    controller.end(numbers[0], overloaded=True)
    assert controller.limit == max(limit // 4, 1)


def test_earlier_call_may_halve():
    """A call from before the last growth may halve it: only a shrink since then already covers a refusal."""
    controller = at(9)
    old = controller.start()
    controller._grow()
    numbers = [controller.start() for _ in range(11)]
    controller.end(old, overloaded=True)
    assert controller.limit == 6
    controller.end(numbers[0], overloaded=True)
    assert controller.limit == 6


def test_one_is_the_least():
    """It never shrinks below one."""
    controller = at(2)
    for _ in range(5):
        controller.end(controller.start(), overloaded=True)
    assert controller.limit == 1


def test_halving_starts_from_usage():
    """A limit whose slots were not in use is no measure."""
    controller = at(200)
    numbers = [controller.start() for _ in range(20)]
    controller.end(numbers[0], overloaded=True)
    assert controller.limit == 10


@pytest.mark.parametrize(
    ("latency", "limit"),
    [(1.0, 110), (1.7, 110), (1.8, 44), (2.0, 40), (50.0, 40), (math.inf, 40)],
    ids=str,
)
def test_high_latency_shrinks_limit(latency, limit):
    """Latency well above the floor shrinks it to just below where calls queue; under that margin it grows on."""
    controller = at(100)
    while controller.limit == 100 and controller._last_number < 1000:
        rounds(controller, latency=latency)
    assert controller.limit == limit


def test_stale_latencies_do_not_count():
    """Latencies of an earlier limit do not count, nor those of as many calls as slots were added: those connect."""
    controller = at(100)
    old = [controller.start() for _ in range(100)]
    controller._grow()
    fresh = [controller.start() for _ in range(10)]
    for number in old + fresh:
        controller.end(number, latency=99.0)
    assert (controller.limit, controller._latencies) == (110, [])
    controller.end(controller.start(), latency=1.0)
    assert controller._latencies == [1.0]


@pytest.mark.parametrize(("latency", "limit"), [(0.016, 6), (0.034, 6), (0.036, 1)])
def test_tiny_differences_are_none(latency, limit):
    """Differences too small to measure do not count: a coarse clock gives 0 or 16 ms."""
    controller = Controller()
    rounds(controller, 4, latency=0.001)
    assert controller.limit == 8
    controller.limit, controller._is_doubling = 4, False
    while controller.limit == 4:
        rounds(controller, latency=latency)
    assert controller.limit == limit


def test_lone_call_sets_floor():
    """A call alone sets the floor, whatever it was before: a limit of one cannot shrink."""
    controller = at(1)
    rounds(controller, 40, latency=9.0)
    assert controller.limit > 1


def test_few_calls_are_no_measure():
    """A few calls are no measure: it takes sixteen at least, however small the limit."""
    controller = at(2)
    controller.start()
    for _ in range(15):
        controller.end(controller.start(), latency=9.0)
    assert controller.limit == 2
    controller.end(controller.start(), latency=9.0)
    assert controller.limit == 1


@pytest.mark.parametrize("slow", [3, 7, 9, 13])
def test_some_slow_calls_no_trend(slow):
    """The median counts, even if some calls did not end in time."""
    controller = at(16)
    numbers = [controller.start() for _ in range(16)]
    for index, number in enumerate(numbers):
        controller.end(number, latency=math.inf if index < slow else 1.0, queued=index < slow)
    assert controller.limit == (16 if slow < 8 else 6)


# --- idle --------------------------------------------------------------------------------------------------------------------


def test_empty_slots_stop_growth():
    """It does not grow while slots are empty: three calls where four may be."""
    controller = Controller()
    numbers = deque(controller.start() for _ in range(3))
    for _ in range(1000):
        controller.end(numbers.popleft(), latency=1.0)
        numbers.append(controller.start())
    assert controller.limit == 4


def test_limiter_wait_stops_growth():
    """It does not grow while calls wait in the limiter: more would only wait there, too."""
    controller = Controller()
    rounds(controller, 200, queued=True)
    assert controller.limit == 4


def test_silent_calls_stop_growth():
    """It does not grow on calls without a latency, such as those that fail at once."""
    controller = Controller()
    rounds(controller, 200, latency=None)
    assert controller.limit == 4


def test_bursty_use_stops_growth():
    """Slots that are in use now and then are not enough to grow: a slow input comes in bursts."""
    controller = Controller()
    for _ in range(200):
        numbers = [controller.start() for _ in range(4)]
        for number in numbers:
            controller.end(number, latency=1.0)
    assert controller.limit == 4


# --- against a service -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.6], ids="spread {}".format)
@pytest.mark.parametrize("slots", [3, 10, 64, 140])
def test_finds_knee_with_queue(slots, spread):
    """It finds the knee of a service with a queue, which is kept busy while calls do not wait long."""
    service, controller = Service(slots, spread=spread), Controller()
    service.run(controller, slots * 100)
    began = service.now
    limits = service.run(controller, slots * 200)
    assert 0.7 * slots <= mean(limits) <= 1.6 * slots
    assert max(limits) <= 2.5 * slots + 1
    assert slots * 200 / (service.now - began) >= 0.8 * slots


@pytest.mark.parametrize("slots", [10, 64, 140])
def test_finds_knee_with_refusals(slots):
    """It finds the knee of a service that refuses, and few calls are refused meanwhile."""
    service, controller = Service(slots, refuses=True, spread=0.3), Controller()
    service.run(controller, slots * 100)
    began, refused = service.now, service.refused
    limits = service.run(controller, slots * 400)
    assert 0.6 * slots <= mean(limits) <= slots
    assert max(limits) <= slots + 1
    assert slots * 400 / (service.now - began) >= 0.65 * slots
    assert service.refused - refused <= 0.02 * slots * 400


@pytest.mark.parametrize("refuses", [False, True], ids=["queues", "refuses"])
@pytest.mark.parametrize("spread", [0.0, 0.3], ids="spread {}".format)
def test_follows_available_capacity(refuses, spread):
    """It follows the service's capacity, down and up again."""
    service, controller = Service(60, refuses=refuses, spread=spread), Controller()
    service.run(controller, 8000)
    service.slots = 10
    assert mean(service.run(controller, 8000)[2000:]) <= 16
    service.slots = 80
    limits = service.run(controller, 8000)[4000:]
    assert 50 <= mean(limits) <= 125


@pytest.mark.parametrize("spread", [0.0, 0.6, 1.0], ids="spread {}".format)
def test_kneeless_service_gets_all(spread):
    """A service without a knee gets all, however much its latency varies."""
    service, controller = Service(100_000, spread=spread), Controller()
    service.run(controller, 2000)
    assert min(service.run(controller, 20_000)) == MOST


def test_long_answers_never_hold_down():
    """A few very long answers do not hold it down: one in fifty takes fifty times as long, half of those running."""
    service, controller = Service(100_000, spread=0.3, long=0.02), Controller()
    service.run(controller, 3000)
    assert min(service.run(controller, 20_000)) == MOST


@pytest.mark.parametrize("spread", [0.0, 0.6], ids="spread {}".format)
def test_slower_work_never_holds_down(spread):
    """Calls that become slower for good do not hold it down: it stops shrinking once that proves no help."""
    service, controller = Service(100_000, spread=spread), Controller()
    service.run(controller, 5000)
    service.seconds = 3.6
    limits = service.run(controller, 10_000)
    assert 16 <= min(limits) < 64
    assert limits[-1] >= 200


def test_outage_leaves_one_then_recovers():
    """An outage without any answer shrinks it to one; afterwards it grows again."""
    controller = at(64)
    rounds(controller, 60, latency=math.inf, queued=True)
    assert controller.limit == 1
    rounds(controller, 400)
    assert controller.limit >= 64


# --- always ------------------------------------------------------------------------------------------------------------------

_ENDS = st.fixed_dictionaries(
    {
        "latency": st.none() | st.just(math.inf) | st.floats(0, 1e6),
        "queued": st.booleans(),
        "overloaded": st.sampled_from([False] * 9 + [True]),
    }
)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), _ENDS), max_size=200),
)
def test_it_stays_within_its_bounds(most, steps):
    """The counts stay right in whatever order calls begin and end."""
    controller, numbers = Controller(most=most), []
    for begin, end, how in steps:
        numbers += [controller.start() for _ in range(max(0, min(begin, controller.limit - len(numbers))))]
        for _ in range(min(end, len(numbers))):
            before = controller.limit
            controller.end(numbers.pop(len(numbers) // 2), **how)
            assert 1 <= controller.limit <= most
            assert controller.in_flight == len(numbers)
            assert not how["overloaded"] or controller.limit <= before
    assert repr(controller) == f"<Controller {len(numbers)} of {controller.limit} in flight>"


@given(st.lists(_ENDS, max_size=300))
def test_never_grows_with_free_slot(ends):
    """It never grows with a slot free, one fewer than allowed, whatever the calls say."""
    controller = Controller()
    for how in ends:
        before = controller.limit
        numbers = [controller.start() for _ in range(before - 1)] or [controller.start()]
        for number in numbers:
            controller.end(number, **{**how, "queued": how["queued"] or before == 1})
        assert controller.limit <= before


# --- what calls take ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [8, 100, 5000])
def test_length_ignored_with_reported_work(tokens):
    """Length does not count if the service reports its work: half a second of network and queue, 2 ms per token."""
    took = comparable(0.5 + 0.1 + tokens * 0.002, tokens, prompt=0.1, completion=tokens * 0.002)
    assert took == pytest.approx(0.5 + 0.2)


@pytest.mark.parametrize("tokens", [10, 100, 5000])
def test_length_barely_counts_without_report(tokens):
    """Length hardly counts if the service reports no work: at 0.1 s and 2 ms per token, 100 tokens take 0.3 s."""
    assert comparable(0.1 + tokens * 0.002, tokens, prompt=None, completion=None) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("duration", "tokens", "prompt", "completion", "expected"),
    [
        (2.0, None, None, None, Fraction(2)),  # nothing known of it
        (2.0, None, 0.1, 0.2, Fraction(2)),
        (2.0, -1, None, 1.0, Fraction(2)),  # nonsense
        (2.0, 0, None, None, Fraction(6)),
        (2.0, 0, None, 0.0, Fraction(2)),
        (1.5, 100, None, 5.0, Fraction(3, 2)),  # a service that claims to have worked longer than it took
        (1.5, 100, 0.0, -1.0, Fraction(3, 2)),
        (1.5, 100, 1.0, -1.0, Fraction(3, 2)),
        (0.0, 10, None, None, Fraction(0)),
        (1.0, 2, None, 0.5, Fraction(27, 4)),  # speed over two tokens says little
    ],
)
def test_odd_figures_give_sound_ones(duration, tokens, prompt, completion, expected):
    """The comparable latency is never negative, and computing it never fails."""
    assert comparable(duration, tokens, prompt=prompt, completion=completion) == pytest.approx(float(expected))


@given(
    st.floats(0, 1e9),
    st.none() | st.integers(-10, 10**9),
    st.none() | st.floats(-1e9, 1e9),
    st.none() | st.floats(-1e9, 1e9),
)
def test_no_figure_is_negative(duration, tokens, prompt, completion):
    """But for the last bit of a difference."""
    assert comparable(duration, tokens, prompt=prompt, completion=completion) >= -1e-6
