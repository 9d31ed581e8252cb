"""Shares and order of the callers: none is left out."""

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from support import limiter_kinds
from support.limiter_kinds import MODEL
from support.simulation import SECOND, Simulation, jain

from groq_provider.config import RateLimits
from groq_provider.errors import RateLimitTimeoutError

make_limiter = limiter_kinds.make_limiter

CALLERS = 64
#: A hundred tokens a second.
HUNDRED = RateLimits(tpm=6000, share=1.0)
#: What thirty seconds of that hold. A store counts in whole microseconds, so that the last one may come a moment late.
ALL_OF_3000 = {2999, 3000}


class Crowd:
    """Callers that ask again and again, beginning with an empty bucket; and the order in which they asked and got."""

    def __init__(self, make_limiter, limits, *, seed=0):
        self.simulation = Simulation(seed)
        self.limiter = make_limiter(limits, self.simulation)
        for name in ("rpm", "tpm"):
            size = getattr(limits, name)
            if size is not None:
                tokens = int(size * limits.share) if name == "tpm" else 0
                for _ in range(1 if tokens else size):
                    self.limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=tokens).keep()
        self.asked = defaultdict(list)  # by class: the calls in order
        self.got = defaultdict(list)
        self.grants = Counter()  # by caller
        self.classes = []  # of every grant, in order
        self.longest = 0.0

    def add(self, number, *, seconds, cost=1, think=0.0, batch=False):
        """Add a caller that asks until *seconds* are over."""
        until = self.simulation.nanoseconds + seconds * SECOND

        def work():
            turn = 0
            while self.simulation.nanoseconds < until:
                call = number, (turn := turn + 1)
                self.asked[batch].append(call)
                asked_at = self.simulation.nanoseconds
                with self.limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=cost, batch=batch):
                    self.got[batch].append(call)
                now = self.simulation.nanoseconds
                self.longest = max(self.longest, (now - asked_at) / SECOND)
                if now <= until:
                    self.grants[number] += 1
                    self.classes.append(batch)
                if think:
                    self.simulation.sleep(think)

        self.simulation.spawn(work)

    def run(self):
        self.simulation.run()
        status = self.limiter.get_status()[MODEL]
        assert (status.in_flight, status.waiting) == (0, 0)
        for batch in (False, True):
            # No order inversion: the callers were served in the order of asking.
            assert self.got[batch] == self.asked[batch]
        return self

    @property
    def shares(self):
        return [self.grants[number] for number in range(CALLERS)]


@pytest.mark.sample(3)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("think", [0.0, 0.05, 2.0], ids=["no-think-time", "50ms", "2s"])
def test_equal_callers_get_equal_shares(make_limiter, think, seed):
    """Jain's index of 64 callers is at least 0.99, in order of arrival, and no caller waits longer than a round."""
    crowd = Crowd(make_limiter, HUNDRED, seed=seed)
    for number in range(CALLERS):
        crowd.add(number, seconds=30, think=think)
    crowd.run()
    assert sum(crowd.shares) in (ALL_OF_3000 if think < 0.64 else range(900, 1000))
    assert jain(crowd.shares) >= 0.99
    assert min(crowd.shares) >= max(crowd.shares) - 1
    assert crowd.longest <= CALLERS / 100 + 1e-5


def test_callers_of_different_haste(make_limiter):
    """Callers that think longer get fewer calls and lose no turn; the hasty ones share the rest equally."""
    crowd = Crowd(make_limiter, HUNDRED, seed=1)
    for number in range(CALLERS):
        crowd.add(number, seconds=60, think=0.0 if number % 2 else 3.0)
    crowd.run()
    assert sum(crowd.shares) in {5999, 6000}
    slow, hasty = crowd.shares[::2], crowd.shares[1::2]
    assert jain(hasty) >= 0.99
    assert jain(slow) >= 0.99
    # A round is at most 0.64 s long, so the slow ones come by at least every 3.64 s.
    assert min(slow) >= 60 // 3.64
    assert crowd.longest <= 0.64 + 1e-5


def test_large_request_gets_its_share(make_limiter):
    """A caller of cost 50 among 63 of cost 1: a round is 1.13 s, so 7 grants in 8 s are fair; no small one passes it."""
    crowd = Crowd(make_limiter, HUNDRED, seed=2)
    crowd.add(0, seconds=8, cost=50)
    for number in range(1, CALLERS):
        crowd.add(number, seconds=8)
    crowd.run()
    assert crowd.grants[0] >= 6
    assert jain(crowd.shares) >= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_sizes_take_equal_turns(make_limiter, seed):
    """Turns are equal, whatever a turn costs."""
    crowd = Crowd(make_limiter, RateLimits(tpm=60_000, share=1.0), seed=seed)
    for number in range(CALLERS):
        crowd.add(number, seconds=600, cost=1 + number * 15)
    crowd.run()
    assert jain(crowd.shares) >= 0.99
    assert min(crowd.shares) >= max(crowd.shares) - 1


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("bulk", "think"),
    [(1, 0.0), (8, 0.0), (32, 0.0), (63, 0.0), (32, 0.05)],
    ids=["1-bulk", "8-bulk", "32-bulk", "63-bulk", "32-bulk-50ms"],
)
def test_classes_share_four_to_one(make_limiter, bulk, think):
    """While both wait interactive callers get four fifths, however many they are; inside a class all get the same."""
    crowd = Crowd(make_limiter, HUNDRED, seed=bulk)
    for number in range(CALLERS):
        crowd.add(number, seconds=64, think=think, batch=number < bulk)
    crowd.run()
    batch, interactive = crowd.shares[:bulk], crowd.shares[bulk:]
    assert sum(crowd.shares) in {6399, 6400}
    # With reservations ahead of time, a class of a few callers is not always there when its turn comes.
    if not make_limiter.ahead or 8 <= bulk <= CALLERS - 8:
        assert sum(interactive) / 6400 == pytest.approx(0.8, abs=0.005)
    for shares in (batch, interactive):
        assert jain(shares) >= 0.99
        assert min(shares) >= max(shares) - 1 > 0
    if not make_limiter.ahead:
        # Not in lumps: after four interactive ones comes a bulk item, after a bulk item an interactive one.
        at = [place for place, batch in enumerate(crowd.classes) if batch]
        assert {later - earlier for earlier, later in pairwise(at)} <= {4, 5, 6}


@pytest.mark.parametrize("rare_is_batch", [False, True], ids=["rare-call-in-a-bulk-job", "rare-bulk-item"])
def test_rare_class_is_served_soon(make_limiter, rare_is_batch):
    """One that comes now and then waits for its turn, not for the queue of the other class; the others get all the rest."""
    crowd = Crowd(make_limiter, HUNDRED, seed=3)
    waits = []

    def rare():
        while crowd.simulation.monotonic() < 1060:
            crowd.simulation.sleep(2.345)
            held = crowd.limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=1, batch=rare_is_batch)
            waits.append(held.wait)
            held.keep()

    for number in range(1, CALLERS):
        crowd.add(number, seconds=60, batch=not rare_is_batch)
    crowd.simulation.spawn(rare)
    crowd.run()
    turns = 5 if rare_is_batch else 1
    assert len(waits) >= 20
    assert max(waits) <= make_limiter.ahead + (turns + 1) * 0.01 + 1e-5
    assert sum(crowd.shares) >= 5999 - len(waits)
    assert jain(crowd.shares[1:]) >= 0.99


@pytest.mark.parametrize("batch", [False, True], ids=["interactive", "bulk"])
def test_a_class_alone_gets_everything(make_limiter, batch):
    """Nothing is held back for a class that is not there, and a pause saves up no turns."""
    crowd = Crowd(make_limiter, HUNDRED, seed=4)
    for number in range(CALLERS):
        crowd.add(number, seconds=30, batch=batch)

    def latecomers():
        crowd.simulation.sleep(15)
        for number in range(CALLERS, CALLERS + 8):
            crowd.add(number, seconds=15, batch=not batch)

    crowd.simulation.spawn(latecomers)
    crowd.run()
    assert len(crowd.classes) in ALL_OF_3000
    assert set(crowd.classes[:1499]) == {batch}
    others = sum(kind is not batch for kind in crowd.classes[1499:])
    assert others == pytest.approx(1200 if batch else 300, abs=100 if make_limiter.ahead else 10)
    assert jain(crowd.shares) >= 0.99


def test_waiters_keep_their_order(make_limiter):
    """Waiters are served in order, whatever deadlines, refunds and settlements come in between."""
    simulation = Simulation(5)
    limiter = make_limiter(RateLimits(rpm=600, tpm=60_000), simulation)
    asked, got, lost = [], [], []

    def work(number):
        draw = simulation.random
        for turn in range(40):
            call = number, turn
            deadline = simulation.monotonic() + draw.uniform(0, 20) if draw.random() < 0.3 else None
            asked.append(call)
            try:
                held = limiter.reserve(
                    MODEL, prompt_tokens=50, max_output_tokens=draw.randint(1, 2000), deadline=deadline
                )
            except RateLimitTimeoutError:
                lost.append(call)
                continue
            got.append((held.sequence, call))
            simulation.sleep(draw.uniform(0, 3))
            draw.choice((held.keep, held.refund))()

    for number in range(CALLERS):
        simulation.spawn(work, number)
    simulation.run()
    assert len(got) + len(lost) == CALLERS * 40
    assert len(lost) > 100
    # By the order of the grants: credit may let several out at one instant.
    assert [call for _, call in sorted(got)] == [call for call in asked if call not in set(lost)]
