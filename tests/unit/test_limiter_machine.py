"""A whole limiter under random commands: callers with and without deadlines, all ways to end, headers, refusals, cancels, time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.limiter_kinds import KINDS, MODEL
from support.simulation import DAY, MINUTE, SECOND, Admission, Simulation, worst_window

from groq_provider.cancel import CancelToken
from groq_provider.config import RateLimits
from groq_provider.errors import (
    RateLimitedError,
    RateLimitTimeoutError,
    RequestCancelledError,
    RequestTooLargeError,
)
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

LIMITS = RateLimits(rpm=20, rpd=400, tpm=10_000, tpd=60_000)
USABLE = {"tpm": 9700, "tpd": 58_200}


class Flow:
    """A limit in units times nanoseconds, as the design states it: the use drains at limit / period."""

    def __init__(self, limit: int, now: int) -> None:
        self.limit, self.used, self.at, self.share = limit, 0, now, 10**6

    def change(self, units: int, now: int) -> None:
        used = self.used - self.limit * self.share * (now - self.at)
        self.used = max(max(used, 0) + units * DAY * 10**6, 0)
        self.at = now

    def level(self, now: int) -> float:
        self.change(0, now)
        return self.limit * self.share / 10**6 - self.used / DAY / 10**6


class Caller:
    """A thread that asks once."""

    def __init__(self, number: int, cost: int, *, deadline: float | None, batch: bool) -> None:
        self.number, self.cost, self.deadline, self.batch = number, cost, deadline, batch
        self.cancel = CancelToken()
        self.arrival: int | None = None
        self.asked = self.over_at = 0
        self.held: Any = None
        self.error: BaseException | None = None
        self.over = False


class LimiterMachine(RuleBasedStateMachine):
    """See the invariants."""

    kind = "memory"
    places: Bundle[Any] = Bundle("places")

    @initialize(seed=st.integers(0, 3))
    def begin(self, seed):
        self.cleanup = ExitStack()
        self.simulation = Simulation(seed)
        self.limiter = KINDS[self.kind](LIMITS, self.simulation, self.cleanup)
        self.state = self.limiter._add_model(MODEL)
        self.begun = self.simulation.nanoseconds
        self.callers: list[Caller] = []
        self.open: dict[int, tuple[Any, int]] = {}  # by sequence: place and tokens reserved
        self.offered: set[int] = set()  # of those, what rules may end
        self.granted: list[tuple[int, int, bool]] = []  # sequence, arrival, class
        self.requests: list[Admission] = []
        self.tokens: list[Admission] = []
        self.day = {"rpd": Flow(400, self.begun), "tpd": Flow(60_000, self.begun)}
        self.day["tpd"].share = self.state._buckets.share
        self.newest = 0

    # --- commands --------------------------------------------------------------------------------------------------------

    @rule(
        costs=st.lists(
            st.one_of(st.integers(0, 3000), st.integers(1, 9700), st.integers(9700, 11_000)), min_size=1, max_size=4
        ),
        patience=st.one_of(st.none(), st.none(), st.floats(0, 120)),
        batch=st.booleans(),
    )
    def ask(self, costs, patience, batch):
        """New callers come, and wait if they must."""
        for cost in costs:
            self.come(cost, patience, batch)
            self.settle_down()

    def come(self, cost, patience, batch):
        simulation = self.simulation
        deadline = None if patience is None else simulation.monotonic() + patience
        caller = Caller(len(self.callers), cost, deadline=deadline, batch=batch)
        self.callers.append(caller)

        def work():
            caller.asked = simulation.nanoseconds
            try:
                caller.held = self.limiter.reserve(
                    MODEL, prompt_tokens=0, max_output_tokens=cost, deadline=deadline, batch=batch, cancel=caller.cancel
                )
            except (RateLimitTimeoutError, RequestCancelledError, RequestTooLargeError) as error:
                caller.error = error
            caller.over_at = simulation.nanoseconds
            caller.over = True

        simulation.spawn(work)

    @rule(target=places)
    def collect(self):
        """Those that have got their places can be ended from now on."""
        fresh = sorted(set(self.open) - self.offered)
        self.offered.update(fresh)
        return multiple(*fresh)

    @rule(cost=st.integers(0, 9700), batch=st.booleans())
    def ask_without_waiting(self, cost, batch):
        """``try_reserve`` grants if no caller waits, the gate is open and it fits; otherwise nothing changes."""
        now = self.simulation.nanoseconds
        before = self.limiter.get_status()[MODEL]
        line, gate = len(self.state._queue), self.state._gate
        free = not line and (not gate.active or gate.opens_at <= now)
        reserved = (1, cost, 0, cost)
        limit = min((b.limit for b in self.state._buckets if b.kind == 1), default=cost)
        if cost > limit:
            return
        fits = free and self.state._buckets.ready_at(reserved)[0] <= now
        held = self.limiter.try_reserve(MODEL, prompt_tokens=0, max_output_tokens=cost, batch=batch)
        assert (held is not None) == fits
        if held is None:
            assert self.limiter.get_status()[MODEL] == before
        else:
            self.note(held, cost, batch)

    @rule(seconds=st.one_of(st.floats(0, 5), st.floats(0, 5), st.floats(5, 90), st.floats(1000, 50_000)))
    def time_passes(self, seconds):
        """Waiters get in as their time comes."""
        self.simulation.run(seconds)
        self.look()

    @rule(place=consumes(places), part=st.floats(0, 1.5))
    def settle(self, place, part):
        """Less than reserved comes back, more becomes a debt."""
        self.end(place, lambda held, used: held.settle(Usage(completion_tokens=used, total_tokens=used)), part, 0)

    @rule(place=consumes(places))
    def refund(self, place):
        """Nothing was sent: all comes back, the request too."""
        self.end(place, lambda held, _: held.refund(), 0.0, 1)

    @rule(place=consumes(places))
    def refuse(self, place):
        """The request was refused: the tokens come back."""
        self.end(place, lambda held, _: held.refund(keep_request=True), 0.0, 0)

    @rule(place=consumes(places))
    def keep(self, place):
        """A call that ends without a known usage keeps its reservation."""
        self.end(place, lambda held, _: held.keep(), 1.0, 0)

    @rule(place=places, limit=st.sampled_from([10_000, 10_000, 10_000, 20_000, 9000]), left=st.floats(0, 1))
    def headers(self, place, limit, left):
        """The service says where the tokens per minute stand, rightly or not."""
        if place in self.open:
            remaining = int(limit * left)
            info = RateLimitInfo(
                limit_tokens=limit, remaining_tokens=remaining, reset_tokens=(limit - remaining) / limit * 60
            )
            self.open[place][0].feedback(info)
            self.after_feedback()

    @rule(
        place=places,
        name=st.sampled_from(["TPM", "RPM", None]),
        pause=st.one_of(st.none(), st.floats(0.1, 30)),
    )
    def refusal(self, place, name, pause):
        """A 429."""
        if place in self.open:
            limit = {"TPM": 10_000, "RPM": 20, None: None}[name]
            error = RateLimitedError(
                "no",
                status_code=429,
                retry_after=pause,
                scope=name and "minute",
                limit_name=name,
                limit=limit,
                used=limit,
            )
            self.open[place][0].feedback(None, error)
            self.after_feedback()

    @precondition(lambda self: any(not caller.over for caller in self.callers))
    @rule(which=st.integers(0, 100))
    def cancel(self, which):
        """A waiter gives up at once when it is cancelled."""
        waiting = [caller for caller in self.callers if not caller.over]
        caller = waiting[which % len(waiting)]
        caller.cancel.cancel()
        self.settle_down()
        assert caller.over
        assert isinstance(caller.error, RequestCancelledError)

    # --- what happens ----------------------------------------------------------------------------------------------------

    def settle_down(self):
        """Let all threads act that can act without time passing."""
        self.simulation.run(0)
        self.look()

    def look(self):
        """Note the grants in their order."""
        fresh = [
            caller for caller in self.callers if caller.over and caller.held is not None and caller.held.sequence > 0
        ]
        for caller in sorted(fresh, key=lambda caller: caller.held.sequence):
            if caller.held.sequence > self.newest:
                at = caller.asked + round(caller.held.wait * SECOND)
                assert abs(at - caller.over_at) <= 1
                self.note(caller.held, caller.cost, caller.batch, caller.over_at)

    def note(self, held, cost, batch, at=None):
        assert held.sequence == self.newest + 1
        self.newest = held.sequence
        at = self.simulation.nanoseconds if at is None else at
        # The margin on top of a share may be cut off, never more.
        self.open[held.sequence] = held, cost
        self.granted.append((held.sequence, held.arrival, batch))
        self.requests.append(Admission(at, 1))
        self.tokens.append(Admission(at, cost))
        self.day["rpd"].change(1, at)
        self.day["tpd"].change(cost, at)

    def end(self, place, how, part, requests_back):
        if place not in self.open:
            return
        held, reserved = self.open.pop(place)
        used = round(reserved * part)
        how(held, used)
        for again in (held.keep, held.refund, lambda: held.settle(Usage(completion_tokens=1))):
            again()  # only the first counts
        now = self.simulation.nanoseconds
        if used < reserved:
            self.tokens.append(Admission(now, used - reserved))
        if requests_back:
            self.requests.append(Admission(now, -requests_back))
        self.day["rpd"].change(-requests_back, now)
        self.day["tpd"].change(used - reserved, now)
        self.settle_down()

    def after_feedback(self):
        self.day["tpd"].change(0, self.simulation.nanoseconds)
        self.day["tpd"].share = self.state._buckets.share
        self.settle_down()

    # --- what always holds -----------------------------------------------------------------------------------------------

    @invariant()
    def everybody_is_counted(self):
        """Each reservation is settled, refunded or open; and each caller that has not left waits."""
        shown = self.limiter.get_status()[MODEL]
        assert shown.in_flight == len(self.open)
        assert shown.waiting == sum(not caller.over for caller in self.callers)

    @invariant()
    def no_window_holds_too_much(self):
        """In any window at most a bucket and what flows in, whatever headers say."""
        assert worst_window(self.requests, burst=20, amount=20, period=MINUTE) <= 0
        assert worst_window(self.requests, burst=400, amount=400, period=DAY) <= 0
        over = max((cost for _, cost, *_ in [(0, each.units) for each in self.tokens] if cost > 9700), default=9700)
        assert worst_window(self.tokens, burst=over, amount=9700, period=MINUTE) <= 0
        assert worst_window(self.tokens, burst=58_200, amount=58_200, period=DAY) <= 0

    @invariant()
    def levels_are_inside(self):
        """Never more than full."""
        now = self.simulation.nanoseconds
        for bucket in self.state._buckets:
            assert bucket.remaining(now) <= bucket.capacity
            assert bucket.reset(now) >= 0

    @invariant()
    def nothing_gets_lost(self):
        """The buckets of the day, which no header here corrects, agree with an independent count."""
        now = self.simulation.nanoseconds
        windows = self.limiter.get_status()[MODEL].windows
        for name, flow in self.day.items():
            assert abs(windows[name].remaining - flow.level(now)) <= 2, name

    @invariant()
    def first_come_first_served(self):
        """Inside a class grants follow arrivals."""
        for batch in (False, True):
            arrivals = [arrival for _, arrival, kind in self.granted if kind is batch]
            assert arrivals == sorted(arrivals)

    @invariant()
    def nobody_waits_while_the_head_fits(self):
        """With all threads asleep the first in line waits for something."""
        head = self.state._queue.head
        if head is not None:
            assert not head.granted
            assert self.state._ready_at(head.estimate.cost)[0] > self.simulation.nanoseconds

    @invariant()
    def deadlines_are_kept(self):
        """No caller waits beyond its deadline or gets in after it; one that gives up for it had a deadline."""
        for caller in self.callers:
            if caller.deadline is not None:
                at = caller.over_at / SECOND if caller.over else self.simulation.monotonic()
                assert at <= caller.deadline + 1e-5
            elif isinstance(caller.error, RateLimitTimeoutError):
                raise AssertionError("no deadline, no timeout")

    def teardown(self):
        """In the end every caller gets in or is told why not."""
        if not hasattr(self, "simulation"):
            return
        for place in list(self.open):
            self.end(place, lambda held, _: held.refund(), 0.0, 1)
        for _ in range(len(self.callers)):
            self.simulation.run(DAY / SECOND)
            self.look()
            for place in list(self.open):
                self.end(place, lambda held, _: held.refund(), 0.0, 1)
        self.simulation.run()
        self.cleanup.close()
        shown = self.limiter.get_status()[MODEL]
        assert (shown.waiting, shown.in_flight) == (0, 0)


def test_invariants_survive_any_order(full):
    """Whatever the order of commands."""
    run_state_machine_as_test(
        LimiterMachine,
        settings=settings(
            max_examples=1000 if full else 30,
            stateful_step_count=40,
        ),
    )
