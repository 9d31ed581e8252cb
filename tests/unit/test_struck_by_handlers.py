"""Signal handlers in the middle of their own thread's work: what they find, and what they may do.

No real signals: a profiler runs the handler where the interpreter looks for signals, as a function begins and as a C
function returns.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading

import pytest
from support.fakes import FakeClock, wait_for

from groq_provider import CircuitOpenError, PoolTimeoutError
from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker
from groq_provider.call.retry import RetryBudget
from groq_provider.clock import SystemClock
from groq_provider.config import RateLimits
from groq_provider.latency import LatencyTracker
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.ratelimit.store.file import FileStore
from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, Adjustment, BucketCharge
from groq_provider.transport.permits import ConnectionLimiter
from groq_provider.transport.scope import CancelScope
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

M = "m"
LIMIT = 10_000


def strike(part: str, handler, action) -> int:
    """Run *action* once for each point in *part* of the package where a handler may run, and run *handler* there; return their number.

    *action* is a generator: it prepares the handler's context, yields, runs the code to interrupt, yields, and checks
    the outcome.
    """
    for number in itertools.count():
        context: dict[str, object] = {}
        moments = iter(range(number, -1, -1))
        struck = False

        def profile(frame, event, _arg, moments=moments, context=context):
            nonlocal struck
            if event not in {"call", "c_return"} or f"groq_provider/{part}" not in frame.f_code.co_filename:
                return
            if frame.f_code.co_name != "__del__" and next(moments, None) == 0:
                struck = True
                handler(context)

        steps = action(context)
        next(steps)
        before = sys.getprofile()
        gc.disable()
        sys.setprofile(profile)
        try:
            next(steps)
        finally:
            sys.setprofile(before)
            gc.enable()
        for _ in steps:
            pass
        if not struck:
            return number
    raise AssertionError


def usage(completion: int) -> Usage:
    return Usage(prompt_tokens=0, completion_tokens=completion, total_tokens=completion)


def take(limiter, output=10):
    return limiter.reserve(M, prompt_tokens=0, max_output_tokens=output)


#: Actions of a handler on a limiter, and the requests that each counts for.
LIMITER_HANDLERS = {
    "reads": (lambda limiter: (limiter.get_status(), repr(limiter), limiter.largest_output(M, prompt_tokens=1)), 0),
    "refunds": (lambda limiter: take(limiter).refund(), 0),
    "settles": (lambda limiter: take(limiter).settle(usage(4)), 1),
    "keeps": (lambda limiter: take(limiter, 4).keep(), 1),
    "learns": (lambda limiter: take(limiter, 4).feedback(RateLimitInfo(limit_tokens=LIMIT, remaining_tokens=LIMIT)), 1),
}


@pytest.mark.parametrize("what", LIMITER_HANDLERS)
def test_limiter_right_at_any_moment(what):
    """Each action of the handler takes effect once: nothing stays in flight, and every request is charged once."""
    handler, requests = LIMITER_HANDLERS[what]

    def action(context):
        limiter = context["limiter"] = TokenBucketRateLimiter(
            RateLimits(rpd=LIMIT, tpd=LIMIT, share=1.0), clock=FakeClock()
        )
        limiter._add_model(M)
        yield
        take(limiter).settle(usage(4))
        take(limiter).feedback(None)
        limiter.try_reserve(M, prompt_tokens=0, max_output_tokens=10).refund()
        yield
        del context["limiter"]
        gc.collect()
        status = limiter.get_status()[M]
        assert (status.in_flight, status.waiting) == (0, 0)
        assert LIMIT - status.windows["rpd"].remaining == 2 + struck(requests)

    seen = []

    def struck(requests):
        return requests * len(seen)

    def run(context):
        seen.append(1)
        handler(context["limiter"])

    def counted(context):
        seen.clear()
        return action(context)

    assert strike("ratelimit", run, counted) > 20


@pytest.mark.parametrize("batch", [False, True])
def test_a_handlers_call_goes_first(batch):
    """The interrupted call waits and cannot go on before the handler returns, so the handler must not wait for it."""
    clock = FakeClock()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=1), clock=clock)
    limiter.reserve(M, prompt_tokens=0, max_output_tokens=0).keep()
    order, wait = [], clock.wait

    def strike_once(lock, timeout):
        clock.wait = wait
        limiter.reserve(M, prompt_tokens=0, max_output_tokens=0)
        order.append(("handler", clock.monotonic()))
        return wait(lock, timeout)

    clock.wait = strike_once
    limiter.reserve(M, prompt_tokens=0, max_output_tokens=0, batch=batch)
    order.append(("struck", clock.monotonic()))
    assert [name for name, _ in order] == ["handler", "struck"]
    assert order[1][1] - order[0][1] == pytest.approx(60, abs=1)
    assert limiter.get_status()[M].waiting == 0


def test_handler_passes_a_waiting_request():
    """With ``max_connections``, the next free permit goes to the handler."""
    permits, call = ConnectionLimiter(1), CancelScope(SystemClock())
    held = permits.acquire(call, None)

    class Striking(SystemClock):
        struck = False

        def wait(self, lock, timeout):
            if not self.struck:
                self.struck = True
                giver = threading.Thread(target=lambda: (wait_for(lambda: len(permits._waiters) == 2), held.release()))
                giver.start()
                permits.acquire(CancelScope(self), None).release()
                giver.join()
            return super().wait(lock, timeout)

    permits.acquire(CancelScope(Striking()), None).release()
    assert (permits._free_permits, len(permits._waiters)) == (1, 0)


def test_slots_right_at_any_moment():
    """A handler acquires and returns a permit, or finds none in time: none is lost, and none exists twice."""

    def handler(context):
        permits = context["permits"]
        try:
            permits.acquire(CancelScope(SystemClock()), 0).release()
        except PoolTimeoutError:
            pass

    def action(context):
        permits = context["permits"] = ConnectionLimiter(2)
        yield
        first, second = (permits.acquire(CancelScope(SystemClock()), None) for _ in range(2))
        first.release()
        third = permits.acquire(CancelScope(SystemClock()), None)
        try:
            permits.acquire(CancelScope(SystemClock()), 0)
        except PoolTimeoutError:
            pass
        second.release()
        third.release()
        yield
        assert (permits._free_permits, len(permits._waiters), len(permits._returned_permits)) == (2, 0, 0)

    assert strike("transport/permits", handler, action) > 5


def test_file_right_at_any_moment(tmp_path):
    """The handler's charge and the interrupted one both count, exactly once, and the file is left unlocked."""
    numbers = itertools.count()
    make_request = AcquireRequest(
        (BucketCharge("rpd", 1, LIMIT, 0),), horizon=0, latest=NO_LIMIT, spacing=0, seen=0, claimant=1
    )
    handlers = itertools.cycle(
        [lambda store: store.take("k", make_request), lambda store: store.adjust("k", Adjustment(credits={"rpd": -1}))]
    )
    seen = []

    def handler(context):
        seen.append(1)
        next(handlers)(context["store"])

    def action(context):
        seen.clear()
        path = tmp_path / str(next(numbers))
        store = context["store"] = FileStore(path, clock=FakeClock())
        yield
        store.take("k", make_request)
        store.adjust("k", Adjustment(credits={"rpd": -1}))
        yield
        other = FileStore(path, clock=FakeClock(), patience=0)  # the lock is free
        nothing = make_request._replace(charges=(make_request.charges[0]._replace(cost=0),))
        assert other.take("k", nothing).full == (2 + len(seen),)
        other.close()
        store.close()

    assert strike("ratelimit/store/file", handler, action) > 5


def test_breaker_right_at_any_moment():
    """Outcomes are counted, probes returned."""
    policy = BreakerPolicy(not_sent_in_a_row=3, open_for=1.0, jitter=0.0, successes=1)

    def handler(context):
        breaker = context["breaker"]
        with contextlib.suppress(CircuitOpenError):
            breaker.report(breaker.acquire(), False, not_sent=True)
        repr(breaker)

    def action(context):
        clock = FakeClock()
        breaker = context["breaker"] = CircuitBreaker(policy, clock)
        yield
        with contextlib.suppress(CircuitOpenError):  # the handler may be the third
            for _ in range(3):
                breaker.report(breaker.acquire(), False, not_sent=True)
        yield
        assert breaker.state == "open"
        clock.advance(2)
        breaker.report(breaker.acquire(), True)
        assert breaker.state == "closed"

    assert strike("call/breaker", handler, action) > 5


def test_figures_take_part(tmp_path):
    """The same for the tracker and the retry budget."""

    def handler(context):
        context["tracker"].record(M, total=1.0)
        context["tracker"].get_metrics()
        context["budget"].spend(1.0)
        context["budget"].succeeded(1.0)

    def action(context):
        tracker, budget = LatencyTracker(), RetryBudget(FakeClock())
        context.update(tracker=tracker, budget=budget)
        yield
        tracker.record(M, total=1.0)
        tracker.get_metrics(M)
        budget.spend(5.0)
        budget.succeeded(5.0)
        yield
        assert tracker.get_metrics(M).success_count in {1, 2}
        assert 0 <= budget._units <= 100

    for part in ("latency", "call/retry"):
        assert strike(part, handler, action) > 5
