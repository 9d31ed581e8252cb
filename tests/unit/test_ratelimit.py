"""The rate limiter: which call may be sent, when, and which units return."""

import gc
import itertools
import linecache
import logging
import sys
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import PATIENCE, FakeClock
from support.limiter_kinds import KINDS, SHARED_KINDS

from groq_provider.cancel import CancelToken
from groq_provider.config import RateLimits
from groq_provider.errors import (
    InvalidRequestError,
    RateLimitedError,
    RateLimitTimeoutError,
    RequestCancelledError,
    RequestTooLargeError,
)
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.ratelimit.queue import WaitQueue
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

M = "openai/gpt-oss-20b"


#: What only a limiter of one process does, or what takes too long through a store. A store's buckets are loosened by no headers: others
#: may have calls in flight that the service has not counted yet; its process needs no care after a fork, as the parent's calls count.
MEMORY_ONLY = {
    "test_few_go_first_when_unknown",
    "test_unknown_limit_wait_is_timely",
    "test_shrunk_limit_ejects_waiter",
    "test_a_fork_starts_anew",
    "test_interrupted_limiter_leaves_nothing",
    "test_interrupted_grant_is_finished_later",
    "test_reserved_costs_are_conserved",
    "test_headers_wake_the_queue",
    "test_one_end_counts_among_threads",
    "test_threads_get_exact_ordered_totals",
    "test_windows_never_exceed_limits",
    "test_leaving_threads_leave_clean_queue",
}

#: A store counts microseconds, rounded up, so a bucket may show one unit less.
ROUNDED = 1

_now = SimpleNamespace(kind="memory", cleanup=ExitStack())


@pytest.fixture(autouse=True)
def kind(request):
    """Where the limits are kept: every test of the limiter holds for all."""
    _now.kind = request.param
    with ExitStack() as _now.cleanup:
        yield


def pytest_generate_tests(metafunc):
    kinds = KINDS if metafunc.function.__name__ in MEMORY_ONLY else {**KINDS, **SHARED_KINDS}
    metafunc.parametrize("kind", kinds, indirect=True)


def make(*, manual=False, **limits):
    clock = FakeClock(manual=manual)
    factory = {**KINDS, **SHARED_KINDS}[_now.kind]
    return factory(RateLimits(**limits) if limits else None, clock, _now.cleanup), clock


def usage(prompt=0, completion=0, **more):
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion, **more)


def take(limiter, prompt=0, output=0, **more):
    return limiter.reserve(M, prompt_tokens=prompt, max_output_tokens=output, **more)


def window(limiter, name):
    return limiter.get_status()[M].windows[name]


def status(limiter):
    return limiter.get_status()[M]


class Callers:
    """Threads that reserve, one after the other into the queue, and note the order in which they get out."""

    def __init__(self, limiter, clock):
        self.limiter, self.clock = limiter, clock
        self.out = []
        self.held = {}
        self.errors = {}
        self.threads = []
        self.left = threading.Condition()  # guards the three results; notified at each

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for thread in self.threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()

    def queue(self, name, prompt=0, output=0, **more):
        """Start a thread, and return when it waits."""

        def work():
            try:
                held = take(self.limiter, prompt, output, **more)
            except BaseException as error:
                with self.left:
                    self.errors[name] = error
                    self.left.notify_all()
            else:
                with self.left:
                    self.held[name] = held
                    self.out.append(name)
                    self.left.notify_all()

        thread = threading.Thread(target=work)
        self.threads.append(thread)
        waiting = len(self.threads) - len(self.out) - len(self.errors)
        thread.start()
        self.clock.until_parked(waiting)

    def until_left(self, count):
        """Return when that many have got their place or given up, and the others sleep."""
        with self.left:
            assert self.left.wait_for(lambda: len(self.out) + len(self.errors) >= count, PATIENCE), (
                self.out,
                self.errors,
            )
        self.clock.until_parked(len(self.threads) - count)
        assert len(self.out) + len(self.errors) == count


# --- one thread ----------------------------------------------------------------------------------------------------------


def test_31st_call_waits_two_seconds():
    """The 31st call at 30 RPM waits two seconds: the burst is the whole limit, then one call every two seconds."""
    limiter, clock = make(rpm=30)
    waits = [take(limiter).wait for _ in range(32)]
    assert waits[:30] == [0.0] * 30
    assert waits[30:] == pytest.approx([2.0, 2.0])
    if _now.kind == "memory":  # where others may give back, the head asks again from time to time
        assert len(clock.waits) == 2
    assert sum(clock.waits) == pytest.approx(4.0)


def test_longest_answer_is_reserved():
    """Prompt plus 5 % plus max_completion_tokens, as the service counts at admission."""
    limiter, _ = make(tpm=10_000, itpm=5000, otpm=3000, share=1.0)
    take(limiter, 1000, 500)
    assert [window(limiter, name).remaining for name in ("tpm", "itpm", "otpm")] == [8450, 3950, 2500]


def test_every_limit_counts():
    """Both days and minutes are kept, and shown."""
    limiter, _ = make(rpm=30, rpd=1000, tpm=8000, tpd=200_000)
    held = take(limiter, 100, 100)
    shown = status(limiter)
    assert {name: (w.limit, w.remaining, w.source) for name, w in shown.windows.items()} == {
        "rpm": (30, 29, "configured"),
        "rpd": (1000, 999, "configured"),
        "tpm": (8000, pytest.approx(7760 - 205, abs=ROUNDED), "configured"),
        "tpd": (200_000, pytest.approx(194_000 - 205, abs=ROUNDED), "configured"),
    }
    assert (shown.in_flight, shown.waiting, shown.blocked_for, shown.last) == (1, 0, 0.0, None)
    held.keep()
    assert shown.windows["rpm"].reset == pytest.approx(2.0)


def test_models_do_not_share_limits():
    """Limits are per model, with overrides by id."""
    limiter, _ = make(rpm=1, models={"big": RateLimits(rpm=2)})
    waits = [limiter.reserve(model, prompt_tokens=0).wait for model in ("small", "other", "big", "big")]
    assert waits == [0.0] * 4
    assert sorted(limiter.get_status()) == ["big", "other", "small"]
    assert repr(limiter) == "<TokenBucketRateLimiter 3 models, 0 in flight, 0 waiting>"


def test_no_limits_hold_nothing_up():
    """Without limits no call is held up after the first answer, and each is still counted."""
    limiter, clock = make()
    held = [take(limiter, 10**6, 10**6)]
    held[0].feedback(None)
    held += [take(limiter, 10**6, 10**6) for _ in range(100)]
    assert (status(limiter).in_flight, clock.waits) == (len(held), [])
    assert status(limiter).windows == {}


def test_few_go_first_when_unknown():
    """Before the first answer shows the limits, four calls are in flight, and four more each second; any answer lets all go."""
    limiter, clock = make(manual=True)
    held = [take(limiter, 10, 10) for _ in range(4)]
    assert limiter.try_reserve(M, prompt_tokens=10) is None
    with Callers(limiter, clock) as callers:
        for name in range(10):
            callers.queue(name, 10, 10)
        clock.advance(1.0)
        callers.until_left(4)
        held[1].refund()  # an end that says nothing of the limits makes room for one
        callers.until_left(5)
        held[0].feedback(None)
        callers.until_left(10)
    assert sorted(callers.out) == list(range(10))
    assert status(limiter).waiting == 0


def test_unknown_limit_wait_is_timely():
    """A call that cannot wait for the first answer is refused when its time is up, not before."""
    limiter, clock = make(manual=True)
    held = [take(limiter, 10, 10) for _ in range(4)]
    with Callers(limiter, clock) as callers:
        callers.queue("in time", 10, 10, deadline=clock.monotonic() + 0.5)
        callers.queue("too late", 10, 10, deadline=clock.monotonic() + 0.4)
        clock.advance(0.45)
        callers.until_left(1)
        held[0].feedback(None)
        callers.until_left(2)
    assert callers.out == ["in time"]
    assert isinstance(callers.errors["too late"], RateLimitTimeoutError)


def test_learned_limit_gives_back_rest():
    """The service's own count covers the calls in flight when a limit is adopted, prompt and all: only the unused output returns."""
    limiter, _ = make()
    first, second = take(limiter, 1000, 500), take(limiter, 1000, 500)
    first.feedback(RateLimitInfo(limit_tokens=10_000, remaining_tokens=7600, reset_tokens=14.4))
    before = window(limiter, "tpm").remaining
    second.settle(usage(700, 100))
    third = take(limiter, 0, 1)  # with a store, this tells the limiter what the store knows
    assert window(limiter, "tpm").remaining == pytest.approx(before + 400 - 1, abs=ROUNDED)
    third.refund()


@pytest.mark.parametrize(
    ("end", "tokens", "requests"),
    [
        pytest.param(lambda r: r.settle(usage(100, 20)), 120, 1, id="settle"),
        pytest.param(lambda r: r.settle(usage(300, 500)), 800, 1, id="settle-into-debt"),
        pytest.param(lambda r: r.settle(usage(100, 20, cached_tokens=60)), 60, 1, id="cached-tokens-are-free"),
        pytest.param(lambda r: r.settle(Usage(total_tokens=77)), 77, 1, id="only-the-sum"),
        pytest.param(lambda r: r.settle(Usage(source="unknown")), 305, 1, id="unknown-keeps"),
        pytest.param(lambda r: r.keep(), 305, 1, id="keep"),
        pytest.param(lambda r: r.refund(), 0, 0, id="refund"),
        pytest.param(lambda r: r.refund(keep_request=True), 0, 1, id="refund-tokens"),
    ],
)
def test_what_an_end_gives_back(end, tokens, requests):
    """Settle, keep and refund; whatever follows the first changes nothing."""
    limiter, _ = make(rpm=30, tpm=1000, share=1.0)
    held = take(limiter, 100, 200)
    for final in (end, lambda r: r.refund(), lambda r: r.settle(usage(1, 1)), lambda r: r.keep()):
        final(held)
        assert (1000 - window(limiter, "tpm").remaining, 30 - window(limiter, "rpm").remaining) == (tokens, requests)
    assert status(limiter).in_flight == 0


def test_debt_delays_next_call():
    """Settlement never fails; it makes the next one wait."""
    limiter, _ = make(tpm=1000, share=1.0)
    take(limiter, 0, 500).settle(usage(0, 1500))
    assert (window(limiter, "tpm").remaining, window(limiter, "tpm").reset) == (0, pytest.approx(90.0))
    assert take(limiter, 0, 100).wait == pytest.approx(36.0)


def test_context_keeps_unsettled_cost():
    """Leaving a with block ends the reservation, and only if it is still open."""
    limiter, _ = make(tpm=1000, share=1.0)
    with take(limiter, 0, 100) as held:
        assert "open" in repr(held)
    with take(limiter, 0, 100) as held:
        held.settle(usage(0, 10))
    assert (status(limiter).in_flight, window(limiter, "tpm").remaining) == (0, 890)
    assert "closed" in repr(held)


def test_forgotten_reservation_not_in_flight():
    """Garbage collection keeps the estimate and takes no lock."""
    limiter, _ = make(tpm=1000, share=1.0)
    held = take(limiter, 0, 100)
    with limiter._models[M]._lock:  # as if the collector ran inside the limiter
        del held
        gc.collect()
    assert (status(limiter).in_flight, window(limiter, "tpm").remaining) == (0, 900)


@pytest.mark.parametrize(
    ("prompt", "output"),
    [(-1, 0), (0, -1), (float("nan"), 0), (0, float("inf"))],
    ids=["prompt", "output", "nan", "inf"],
)
def test_numbers_are_checked(prompt, output):
    """Negative and infinite costs are refused before anything is charged."""
    limiter, _ = make(tpm=1000)
    with pytest.raises(InvalidRequestError, match="must be integers of at least 0"):
        take(limiter, prompt, output)
    assert status(limiter).in_flight == 0


# --- estimates -----------------------------------------------------------------------------------------------------------


def test_unknown_answer_cost_estimate():
    """An unknown answer counts 1,024, then as the longest of late, never as the catalogue's maximum."""
    limiter, _ = make(tpm=100_000, share=1.0)
    first = limiter.reserve(M, prompt_tokens=0)
    assert window(limiter, "tpm").remaining == 100_000 - 1024
    first.settle(usage(0, 300))
    second = limiter.reserve(M, prompt_tokens=0)
    assert window(limiter, "tpm").remaining == 100_000 - 300 - 300
    second.refund()
    for tokens in range(1, 129):
        take(limiter, 0, 0).settle(usage(0, tokens))
    before = window(limiter, "tpm").remaining
    limiter.reserve(M, prompt_tokens=0)
    assert before - window(limiter, "tpm").remaining == 127


def test_prompt_estimates_are_corrected():
    """A tokenizer that counts too low by a fifth is corrected, plus the margin."""
    limiter, _ = make(itpm=100_000, share=1.0)
    for _ in range(10):
        take(limiter, 1000, 0).settle(usage(1200, 5))
    before = window(limiter, "itpm").remaining
    take(limiter, 1000, 0)
    assert before - window(limiter, "itpm").remaining == 1260


def test_estimated_usage_teaches_nothing():
    """Only usage that the service reported corrects the estimates."""
    limiter, _ = make(itpm=100_000, share=1.0)
    take(limiter, 1000, 0).settle(usage(9000, 5, source="estimated"))
    before = window(limiter, "itpm").remaining
    take(limiter, 1000, 0)
    assert before - window(limiter, "itpm").remaining == 1050


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_impossible_cost_is_refused():
    """The message names the limit, its size and the need."""
    limiter, clock = make(rpm=30, tpm=8000)
    with pytest.raises(RequestTooLargeError) as caught:
        take(limiter, 1024, 8192)
    assert str(caught.value) == (
        "the request can never fit: it needs 9,216 tokens, the limit is 8,000 tokens per minute (TPM) for model "
        f"'{M}'; lower max_completion_tokens or shorten the prompt"
    )
    assert (caught.value.status_code, caught.value.model, caught.value.sent) == (None, M, False)
    assert (window(limiter, "rpm").remaining, status(limiter).in_flight, clock.waits) == (30, 0, [])


def test_a_margin_makes_nothing_impossible():
    """What fits the limit without our margins goes out when the bucket is full."""
    limiter, _ = make(tpm=8000)
    assert take(limiter, 7000, 1000).wait == 0.0
    assert (window(limiter, "tpm").remaining, window(limiter, "tpm").reset) == (
        0,
        pytest.approx(8000 * 60 / 7760, rel=1e-3),
    )
    assert take(limiter, 0, 1).wait == pytest.approx(241 * 60 / 7760, rel=1e-3)


def test_certain_lateness_costs_nothing():
    """Too late is known at once and costs nothing: the deadline is compared with the computed wait."""
    limiter, clock = make(rpm=30)
    held = [take(limiter) for _ in range(30)]
    with pytest.raises(RateLimitTimeoutError, match="rate limited") as caught:
        take(limiter, deadline=clock.monotonic() + 1.9)
    assert caught.value.retry_after == pytest.approx(2.0)
    assert (caught.value.retry_at - clock.now()).total_seconds() == pytest.approx(2.0)
    assert caught.value.retry_at.tzinfo is not None
    assert (clock.waits, status(limiter).in_flight, status(limiter).waiting) == ([], len(held), 0)
    assert take(limiter, deadline=clock.monotonic() + 2.001).wait == pytest.approx(2.0)


def test_no_deadline_is_too_far():
    """Infinity is a deadline like any other."""
    limiter, _ = make(rpm=1)
    take(limiter)
    assert take(limiter, deadline=float("inf"), long_wait=float("inf")).wait == pytest.approx(60.0)


def test_long_day_wait_is_refused():
    """No caller sleeps for hours; the error names the limit."""
    limiter, clock = make(rpd=10, rpm=30)
    for _ in range(10):
        take(limiter)
    with pytest.raises(RateLimitedError) as caught:
        take(limiter, long_wait=60.0)
    error = caught.value
    assert (error.scope, error.limit_name, error.limit, error.status_code, error.sent) == (
        "day",
        "RPD",
        10,
        None,
        False,
    )
    assert error.retry_after == pytest.approx(8640.0)
    assert (error.retry_at - clock.now()).total_seconds() == pytest.approx(8640.0)
    assert clock.waits == []
    assert take(limiter, long_wait=9000.0).wait == pytest.approx(8640.0)


def test_minute_wait_is_not_long():
    """Only limits per hour and day are compared with long_wait."""
    limiter, _ = make(rpm=1, rpd=1000)
    take(limiter)
    assert take(limiter, long_wait=5.0).wait == pytest.approx(60.0)


def test_try_reserve_never_waits():
    """A place now, or None; what can never fit is still an error."""
    limiter, clock = make(rpm=1, tpm=100)
    assert limiter.try_reserve(M, prompt_tokens=1, max_output_tokens=1) is not None
    assert limiter.try_reserve(M, prompt_tokens=1, max_output_tokens=1) is None
    with pytest.raises(RequestTooLargeError):
        limiter.try_reserve(M, prompt_tokens=1, max_output_tokens=100)
    assert (clock.waits, status(limiter).in_flight, status(limiter).waiting) == ([], 0, 0)


def test_try_reserve_does_not_overtake():
    """While any caller waits, ``try_reserve`` grants nothing."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    first = take(limiter, 0, 900)
    with Callers(limiter, clock) as callers:
        callers.queue("large", output=500)
        assert limiter.try_reserve(M, prompt_tokens=0, max_output_tokens=1) is None
        first.refund()


def test_an_cancelled_token_takes_nothing():
    """A call that is cancelled already does not begin."""
    limiter, _ = make(rpm=30)
    token = CancelToken()
    token.cancel()
    with pytest.raises(RequestCancelledError):
        take(limiter, cancel=token)
    assert window(limiter, "rpm").remaining == 30


# --- the queue -----------------------------------------------------------------------------------------------------------


def test_first_come_first_served():
    """No call overtakes: a small request waits behind a large one."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        callers.queue("large", output=900)
        callers.queue("small", output=10)
        assert status(limiter).waiting == 2
        clock.advance(30)
        clock.until_parked(2)
        assert callers.out == []
        clock.advance(24)
        callers.until_left(1)
        assert callers.out == ["large"]
        clock.advance(0.6 + 1e-6)
        callers.until_left(2)
    assert callers.held["large"].wait == pytest.approx(54.0)
    assert callers.held["small"].wait == pytest.approx(54.6)


@pytest.mark.parametrize(
    "give_back",
    [
        pytest.param(lambda held: held.settle(usage(0, 0)), id="settle"),
        pytest.param(lambda held: held.refund(), id="refund"),
    ],
)
def test_credit_wakes_the_queue(give_back):
    """Without the time moving, credit lets waiters out, in order and as many as fit."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    first = take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        for name in ("a", "b", "c"):
            callers.queue(name, output=400)
        give_back(first)
        callers.until_left(2)
        assert sorted(callers.out) == ["a", "b"]
        clock.advance(12)
        callers.until_left(3)
    assert [callers.held[name].sequence for name in "abc"] == [2, 3, 4]


def test_headers_wake_the_queue():
    """If no call is in flight, waiters may use all that the service says is left of its limit."""
    limiter, clock = make(manual=True, share=1.0)
    take(limiter).feedback(RateLimitInfo(limit_tokens=1000, remaining_tokens=1000, reset_tokens=0.0))
    first = take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        for name in ("a", "b", "c"):
            callers.queue(name, output=400)
        first.feedback(RateLimitInfo(limit_tokens=1000, remaining_tokens=1000, reset_tokens=0.0))
        callers.until_left(2)
        clock.advance(12)
        callers.until_left(3)
    assert [callers.held[name].sequence for name in "abc"] == [3, 4, 5]


def test_retry_returns_to_its_place():
    """The arrival of an earlier reservation puts a retry before those that came after it."""
    limiter, clock = make(manual=True, rpm=1)
    first = take(limiter)
    first.refund(keep_request=True)
    with Callers(limiter, clock) as callers:
        callers.queue("a")
        callers.queue("b")
        callers.queue("retry", arrival=first.arrival)
        for count in (1, 2, 3):
            clock.advance(60)
            callers.until_left(count)
    assert callers.out == ["retry", "a", "b"]
    assert callers.held["retry"].arrival == first.arrival


def test_a_retry_between_others():
    """Its place is by arrival, wherever that is."""
    limiter, clock = make(manual=True, rpm=1)
    first = take(limiter)
    first.refund()
    second = take(limiter)
    second.refund()
    take(limiter)
    with Callers(limiter, clock) as callers:
        callers.queue("new")
        callers.queue("second", arrival=second.arrival)
        callers.queue("first", arrival=first.arrival)
        for count in (1, 2, 3):
            clock.advance(60)
            callers.until_left(count)
    assert callers.out == ["first", "second", "new"]


def test_bulk_gets_one_in_five():
    """Bulk items get one place in five: interactive callers go first, and do not starve the others."""
    limiter, clock = make(manual=True, rpm=1)
    take(limiter)
    with Callers(limiter, clock) as callers:
        for i in range(3):
            callers.queue(f"bulk{i}", batch=True)
        for i in range(9):
            callers.queue(f"call{i}")
        for count in range(1, 13):
            clock.advance(60)
            callers.until_left(count)
    kinds = "".join(name[0] for name in callers.out)
    assert kinds == "ccccbccccbcb"
    for kind in ("call", "bulk"):
        own = [name for name in callers.out if name.startswith(kind)]
        assert own == sorted(own)


def test_cancelled_waiter_wakes_next():
    """The next in the queue does not wait for units of the caller that gave up."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    take(limiter, 0, 900)
    token = CancelToken()
    with Callers(limiter, clock) as callers:
        callers.queue("large", output=1000, cancel=token)
        callers.queue("small", output=100)
        token.cancel()
        callers.until_left(2)
    assert isinstance(callers.errors["large"], RequestCancelledError)
    assert callers.out == ["small"]
    assert (status(limiter).waiting, window(limiter, "tpm").remaining) == (0, 0)
    assert repr(token).endswith("0 calls>")


def test_one_token_cancels_all_waiters():
    """Head and tail alike."""
    limiter, clock = make(manual=True, rpm=1)
    take(limiter)
    token = CancelToken()
    with Callers(limiter, clock) as callers:
        for name in range(5):
            callers.queue(name, cancel=token, batch=name % 2 == 0)
        token.cancel()
        callers.until_left(5)
    assert {type(error) for error in callers.errors.values()} == {RequestCancelledError}
    assert status(limiter).waiting == 0


def test_queued_deadline_is_kept():
    """A waiter that is not the head wakes at its deadline and gives up; one that becomes the head too late gives up at once."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        callers.queue("head", output=500)
        callers.queue("impatient", output=100, deadline=clock.monotonic() + 20)
        callers.queue("late", output=1000, deadline=clock.monotonic() + 65)
        callers.queue("patient", output=300)
        clock.advance(19.9)
        clock.until_parked(4)
        clock.advance(0.1)
        callers.until_left(1)
        assert isinstance(callers.errors["impatient"], RateLimitTimeoutError)
        clock.advance(10)
        callers.until_left(3)
        assert callers.errors["late"].retry_after == pytest.approx(60.0)
        assert callers.out == ["head"]
        clock.advance(18)
        callers.until_left(4)
    assert (status(limiter).waiting, status(limiter).in_flight) == (0, 2)


def test_refused_waiter_hears_of_queue():
    """A waiter that gives up is told the least wait behind those ahead of it, not the wait in an empty queue."""
    limiter, clock = make(manual=True, tpm=600, share=1.0)
    take(limiter, 0, 600).keep()
    with Callers(limiter, clock) as callers:
        callers.queue("first", output=300)
        callers.queue("late", output=10, deadline=1020.0)
        clock.advance(20)
        callers.until_left(1)
        assert callers.errors["late"].retry_after == pytest.approx(11, abs=0.01)
        clock.advance(10)
        callers.until_left(2)


def test_queue_ahead_counts_for_deadline():
    """With ten calls waiting at one a minute the eleventh knows at once that five minutes are too few."""
    limiter, clock = make(manual=True, rpm=1)
    take(limiter)
    token = CancelToken()
    with Callers(limiter, clock) as callers:
        for name in range(10):
            callers.queue(name, cancel=token)
        with pytest.raises(RateLimitTimeoutError) as caught:
            take(limiter, deadline=clock.monotonic() + 300)
        assert caught.value.retry_after == pytest.approx(660.0)
        assert status(limiter).waiting == 10
        token.cancel()


def test_hoped_credit_refuses_no_call():
    """What waits ahead counts as far as it is sure to be used: answers are mostly shorter than reserved."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    first = take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        callers.queue("ahead", output=1000)
        callers.queue("behind", output=1000, deadline=clock.monotonic() + 61)
        first.settle(usage(0, 0))
        callers.until_left(1)
        callers.held["ahead"].settle(usage(0, 0))
        callers.until_left(2)
    assert callers.out == ["ahead", "behind"]


def test_long_wait_includes_queue():
    """A day limit used up by those ahead is refused at once."""
    limiter, clock = make(manual=True, rpd=24)
    for _ in range(24):
        take(limiter)
    token = CancelToken()
    with Callers(limiter, clock) as callers:
        callers.queue("ahead", cancel=token)
        with pytest.raises(RateLimitedError) as caught:
            take(limiter, long_wait=4000.0)
        assert caught.value.retry_after == pytest.approx(7200.0)
        token.cancel()


def test_shrunk_limit_ejects_waiter():
    """A learned limit that shrinks below a waiter's cost refuses it in the queue as well."""
    limiter, clock = make(manual=True, share=1.0)
    take(limiter).feedback(RateLimitInfo(limit_tokens=1000, remaining_tokens=1000, reset_tokens=0.0))
    first = take(limiter, 0, 1000)
    with Callers(limiter, clock) as callers:
        callers.queue("large", output=900)
        callers.queue("small", output=100)
        first.feedback(RateLimitInfo(limit_tokens=500, remaining_tokens=500, reset_tokens=0.0))
        callers.until_left(2)
    assert isinstance(callers.errors["large"], RequestTooLargeError)
    assert callers.out == ["small"]


class InterruptingClock(FakeClock):
    """A clock whose n-th wait is interrupted, before or after the place was granted."""

    def __init__(self, *, granted_first):
        super().__init__()
        self.granted_first = granted_first
        self.before = lambda: None

    def wait(self, lock, timeout):
        if self.granted_first:
            self.before()
        raise KeyboardInterrupt


@pytest.mark.parametrize("granted_first", [False, True], ids=["waiting", "just-granted"])
def test_interrupted_wait_gives_back(granted_first):
    """Ctrl-C leaves the queue, refunds in full and propagates unchanged."""
    clock = InterruptingClock(granted_first=granted_first)
    limiter = TokenBucketRateLimiter(RateLimits(rpm=10, tpm=1000, share=1.0), clock=clock)
    first = take(limiter, 0, 1000)
    clock.before = first.refund
    with pytest.raises(KeyboardInterrupt):
        take(limiter, 0, 500)
    first.refund()
    shown = status(limiter)
    assert (shown.waiting, shown.in_flight) == (0, 0)
    assert (shown.windows["rpm"].remaining, shown.windows["tpm"].remaining) == (10, 1000)


def test_interrupted_head_wakes_next():
    """No waiter sleeps on behind one that is gone."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    first = take(limiter, 0, 900)
    real_wait = clock.wait
    stop = threading.Event()

    def wait(lock, timeout):
        real_wait(lock, timeout)
        if stop.is_set() and threading.current_thread() is callers.threads[0]:
            raise KeyboardInterrupt
        return True

    clock.wait = wait
    with Callers(limiter, clock) as callers:
        callers.queue("large", output=1000)
        callers.queue("small", output=100)
        stop.set()
        clock.advance(60)
        callers.until_left(2)
    assert isinstance(callers.errors["large"], KeyboardInterrupt)
    assert callers.out == ["small"]
    assert (status(limiter).waiting, status(limiter).in_flight) == (0, 2)
    first.keep()


def test_interrupted_settlement_leaves_nothing():
    """A settlement cut short still ends the reservation."""
    limiter, _ = make(rpm=10)
    held = take(limiter)
    state = limiter._models[M]
    state._now = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        held.settle(usage(1, 1))
    del state._now
    assert status(limiter).in_flight == 0


def test_interrupted_limiter_leaves_nothing():
    """An interrupt at any line of the limiter leaves nothing in flight: no place lost, no waiter left behind."""

    def calls(limiter):
        first = take(limiter, 10, 500)
        second = take(limiter, 10, 900)  # waits
        first.settle(usage(1, 1))
        third = limiter.try_reserve(M, prompt_tokens=10, max_output_tokens=10)
        second.refund()
        (third or second).keep()

    def run(number):
        limiter, _ = make(rpm=30, tpm=1000, share=1.0)
        limiter._add_model(M)
        lines = iter(range(number, -1, -1))
        struck = False

        def trace(frame, event, _arg):
            nonlocal struck
            name, code = frame.f_code.co_filename, frame.f_code.co_name
            if "ratelimit" not in name or "tests" in name or code == "__del__":
                return None
            # The line of the with statement itself comes again on its way out, before the lock is free; a "try" is a line, and no
            # instruction. A real interrupt is never handled there: the interpreter looks for one after calls and on jumps back.
            line = linecache.getline(name, frame.f_lineno).strip()
            if event == "line" and "with self._lock" not in line and line != "try:" and next(lines, None) == 0:
                struck = True
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        gc.disable()  # it would run finalizers of other limiters' places, which swallow what strikes there
        sys.settrace(trace)
        try:
            calls(limiter)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
            gc.enable()
        shown = status(limiter)
        assert (shown.in_flight, shown.waiting) == (0, 0), number
        assert all(w.remaining <= w.limit for w in shown.windows.values()), number
        return struck

    assert sum(1 for _ in itertools.takewhile(run, itertools.count())) > 300


def test_interrupted_grant_is_finished_later():
    """If a thread is interrupted while it grants a reservation, the next caller finishes the grant."""
    limiter, clock = make(manual=True, tpm=1000, share=1.0)
    first, second = take(limiter, 0, 500), take(limiter, 0, 500)
    with Callers(limiter, clock) as callers:
        callers.queue("a", output=500)
        callers.queue("b", output=500)
        serve = WaitQueue.serve
        with pytest.MonkeyPatch.context() as patch:

            def interrupted(queue, waiter):
                patch.setattr(WaitQueue, "serve", serve)
                raise KeyboardInterrupt

            patch.setattr(WaitQueue, "serve", interrupted)
            with pytest.raises(KeyboardInterrupt):
                first.refund()
        second.refund()
        callers.until_left(2)
    assert (status(limiter).waiting, status(limiter).in_flight) == (0, 2)


# --- the service's figures -------------------------------------------------------------------------------------------------


def info(  # noqa: PLR0917 - the headers, in their usual order
    tokens=None, left=None, reset=None, requests=None, requests_left=None, requests_reset=None, *, retry_after=None
):
    return RateLimitInfo(
        limit_tokens=tokens,
        remaining_tokens=left,
        reset_tokens=reset,
        limit_requests=requests,
        remaining_requests=requests_left,
        reset_requests=requests_reset,
        retry_after=retry_after,
    )


def test_headers_fill_unconfigured_limits(caplog):
    """Headers are adopted where nothing is configured: tokens a minute, requests a day; said once per model."""
    limiter, _ = make()
    with caplog.at_level(logging.INFO, logger="groq_provider"):
        for _ in range(2):
            held = take(limiter, 0, 100)
            held.feedback(info(8000, 7000, 7.5, 1000, 999, 86.4))
            held.keep()
    shown = status(limiter)
    assert {name: (w.limit, w.source) for name, w in shown.windows.items()} == {
        "tpm": (8000, "learned"),
        "rpd": (1000, "learned"),
    }
    assert (shown.windows["tpm"].remaining, shown.windows["rpd"].remaining) == (int(7760 * 0.875), 999)
    assert shown.last.limit_tokens == 8000
    assert [record.getMessage() for record in caplog.records] == [
        f"limits of model '{M}' learned from the service: rpd 1,000, tpm 8,000"
    ]


def test_remaining_serves_without_reset():
    """Some gateways send only a part of the headers."""
    limiter, _ = make(tpm=1000, share=1.0)
    take(limiter).feedback(info(1000, 250))
    assert window(limiter, "tpm").remaining == 250
    take(limiter).feedback(info(None, 900))
    assert window(limiter, "tpm").remaining == 250


@pytest.mark.parametrize(("said", "limit"), [(500, 500), (5000, 1000)], ids=["lowers", "never-raises"])
def test_headers_lower_but_never_raise(said, limit):
    """The configuration is an upper bound."""
    limiter, _ = make(tpm=1000)
    take(limiter).feedback(info(said, said, 0.0))
    assert window(limiter, "tpm").limit == limit


def test_headers_tighten_fast_loosen_slowly():
    """With other calls in flight, each answer closes a tenth of the gap only."""
    limiter, _ = make(tpm=1000, share=1.0)
    held, other = take(limiter), take(limiter)
    held.feedback(info(1000, 0, 60.0))
    assert window(limiter, "tpm").remaining == 0
    held.feedback(info(1000, 1000, 0.0))
    assert window(limiter, "tpm").remaining == 100
    other.keep()
    held.feedback(info(1000, 1000, 0.0))
    assert window(limiter, "tpm").remaining == 1000


def test_headers_miss_later_requests():
    """Calls sent after the answered request, and still in flight, are added to its figures."""
    limiter, _ = make(tpm=1000, share=1.0)
    first, second = take(limiter, 0, 100), take(limiter, 0, 300)
    third = take(limiter, 0, 50)
    third.refund()
    first.feedback(info(1000, 400, 36.0))
    assert window(limiter, "tpm").remaining == 100
    second.keep()


def test_old_headers_are_ignored():
    """Answers overtake each other on their way back."""
    limiter, _ = make(tpm=1000, share=1.0)
    first, second = take(limiter), take(limiter)
    second.feedback(info(1000, 500, 30.0))
    first.feedback(info(1000, 0, 60.0))
    assert window(limiter, "tpm").remaining == 500
    assert status(limiter).last.remaining_tokens == 500


def limited(retry_after=2.0, name="TPM", limit=1000, used=1000, scope="minute"):
    return RateLimitedError(
        "Rate limit reached",
        status_code=429,
        retry_after=retry_after,
        scope=scope,
        limit_name=name,
        limit=limit,
        used=used,
    )


def test_429_holds_all_but_one():
    """A 429 holds all callers back: then one goes first as a probe, and the rest when that is answered."""
    limiter, clock = make(manual=True, rpm=60)
    first = take(limiter)
    first.feedback(None, limited(2.0, "RPM", 60, 3))
    first.refund(keep_request=True)
    assert status(limiter).blocked_for == pytest.approx(2.0)
    with Callers(limiter, clock) as callers:
        for name in range(6):
            callers.queue(name)
        clock.advance(1.9)
        clock.until_parked(6)
        assert callers.out == []
        clock.advance(0.1)
        callers.until_left(1)
        clock.advance(0.9)
        clock.until_parked(5)
        assert callers.out == [0]
        callers.held[0].feedback(info(None), None)
        callers.until_left(6)
    assert status(limiter).blocked_for == 0.0
    assert take(limiter).wait == 0.0


def test_unanswered_probes_keep_distance():
    """Without an answer to the probe the next one leaves at the rate of the limit."""
    limiter, clock = make(manual=True, rpm=120)
    first = take(limiter)
    first.feedback(None, limited(2.0, None, None, None))
    limiter._models[M]._buckets._buckets[0].tat = 0  # leave the gate alone to decide
    with Callers(limiter, clock) as callers:
        for name in range(3):
            callers.queue(name)
        clock.advance(2.0)
        callers.until_left(1)
        for count in (2, 3):
            clock.advance(0.5)
            callers.until_left(count)


def test_stale_answers_never_open_gate():
    """Answers to requests sent before the 429 do not open the gate: they say nothing about now."""
    limiter, _ = make()
    refused, earlier = take(limiter), take(limiter)
    refused.feedback(None, limited(2.0, None, None, None))
    earlier.feedback(None)
    assert status(limiter).blocked_for == pytest.approx(2.0)
    assert take(limiter).wait == pytest.approx(2.0)


def test_burst_refusals_close_gate_once():
    """The latest instant named counts; nothing adds up."""
    limiter, clock = make()
    held = [take(limiter) for _ in range(4)]
    for i, each in enumerate(held):
        each.feedback(None, limited(5.0 - i, None, None, None))
    assert status(limiter).blocked_for == pytest.approx(5.0)
    assert clock.waits == []


def test_hintless_gate_closes_ever_longer():
    """Without a hint the gate closes for a second, two, four, at most eight, until an answer comes through."""
    limiter, _ = make()
    waits = []
    for _ in range(5):
        held = take(limiter)
        waits.append(held.wait)
        held.feedback(None, limited(None, None, None, None))
        held.refund(keep_request=True)
    assert waits == pytest.approx([0, 1, 2, 4, 8])
    take(limiter).feedback(None)
    take(limiter).feedback(None, limited(None, None, None, None))
    assert status(limiter).blocked_for == pytest.approx(1.0)


def test_hint_may_be_in_headers():
    """retry-after closes the gate where the text says nothing."""
    limiter, _ = make()
    take(limiter).feedback(info(retry_after=7.0), limited(None, None, None, None))
    assert status(limiter).blocked_for == pytest.approx(7.0)


def test_nameless_429_empties_minute():
    """A 429 without a name empties the minute: known limits per minute start again from nothing."""
    limiter, _ = make(rpm=60, tpm=1000, rpd=1000)
    take(limiter).feedback(None, limited(1.0, None, None, None, None))
    assert (window(limiter, "rpm").remaining, window(limiter, "tpm").remaining, window(limiter, "rpd").remaining) == (
        0,
        0,
        999,
    )


def test_a_429_teaches_its_limit():
    """Limits that no header reports are learned from the text: name, size and use."""
    limiter, _ = make()
    held = take(limiter, 0, 200)
    held.feedback(None, limited(11.34, "OTPM", 1000, 997))
    held.refund(keep_request=True)
    shown = window(limiter, "otpm")
    assert (shown.limit, shown.source) == (1000, "learned")
    with pytest.raises(
        RequestTooLargeError, match=r"1,080 output tokens, the limit is 1,000 output tokens per minute \(OTPM\)"
    ):
        take(limiter, 0, 1080)


def test_gate_beyond_long_wait_refuses():
    """A call refuses at once to wait longer at the gate than it may wait for a limit of a day; another call waits."""
    limiter, _ = make()
    take(limiter).feedback(None, limited(90.0, "TPD", 100_000, 90_000, "day"))
    with pytest.raises(RateLimitedError):
        take(limiter, long_wait=60.0)
    assert take(limiter, long_wait=100.0).wait == pytest.approx(90.0)


def test_day_429_refuses_all():
    """No caller waits a quarter of an hour at the gate that would not wait that long."""
    limiter, clock = make(manual=True)
    with Callers(limiter, clock) as callers:
        take(limiter).feedback(None, limited(30.0, "TPD", 100_000, 99_000, "day"))
        callers.queue("waiting", long_wait=60.0)
        other = limiter._models[M]
        other.feedback(1, None, limited(892.0, "TPD", 100_000, 99_000, "day"))
        callers.until_left(1)
        with pytest.raises(RateLimitedError) as caught:
            take(limiter, long_wait=60.0)
    assert (caught.value.scope, caught.value.limit_name, caught.value.retry_after) == (
        "day",
        "TPD",
        pytest.approx(892.0),
    )
    assert callers.errors["waiting"].scope == "day"


def test_unexplained_429_cuts_share_once():
    """Others use the same quota: a tenth less, never less than half; one burst counts once."""
    limiter, clock = make(tpm=1000)
    burst = [take(limiter) for _ in range(3)]
    for held in burst:
        held.feedback(None, limited(1.0))
    buckets = limiter._models[M]._buckets
    assert buckets.share == 873_000
    for held in burst:
        held.refund()
    for _ in range(10):
        clock.advance(120)
        take(limiter).feedback(None, limited(1.0))
    assert buckets.share == 500_000


@pytest.mark.parametrize(
    ("configured", "error"),
    [
        pytest.param({"tpm": 2000}, limited(1.0, "TPM", 1000, 900), id="limit-was-lower"),
        pytest.param({"rpm": 30}, limited(1.0, "TPM", 1000, 900), id="limit-was-unknown"),
        pytest.param({"rpm": 30}, limited(1.0, "RPM", 30, 30), id="requests-have-no-share"),
        pytest.param({"tpm": 1000}, limited(1.0, "ASH", 7200, 7100, "hour"), id="not-a-limit-of-ours"),
    ],
)
def test_explained_429_leaves_share(configured, error):
    """An explained 429 leaves the share: a better reason needs no guess."""
    limiter, _ = make(**configured)
    take(limiter).feedback(None, error)
    assert limiter._models[M]._buckets.share == 970_000


def test_cut_share_recovers_in_use():
    """A hundredth a minute while at least half is used, up to the configured share."""
    limiter, clock = make(tpm=1000)
    take(limiter).feedback(None, limited(1.0))
    buckets = limiter._models[M]._buckets

    def minute(output):
        clock.advance(61)
        held = take(limiter, 0, output)
        held.feedback(None)
        held.keep()

    minute(10)
    assert buckets.share == 873_000
    minute(600)
    take(limiter, 0, 10).feedback(None)
    assert buckets.share == 883_000
    for _ in range(20):
        minute(600)
    assert buckets.share == 970_000


def test_a_fork_starts_anew():
    """In a child locks, queue and open reservations are gone; it takes half the share until the service speaks."""
    limiter, _ = make(tpm=1000, share=1.0)
    held = take(limiter, 0, 100)
    state = limiter._models[M]
    limiter._lock.acquire()
    state._lock.acquire()
    limiter._after_fork_in_child()
    shown = status(limiter)
    assert (shown.in_flight, shown.waiting, shown.windows["tpm"].remaining) == (0, 0, 400)
    held.settle(usage(0, 0))
    assert window(limiter, "tpm").remaining == 400
    take(limiter).feedback(info(1000, 1000, 0.0))
    assert window(limiter, "tpm").remaining == 900  # the use stays counted


# --- invariants ----------------------------------------------------------------------------------------------------------


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["reserve", "try", "settle", "refund", "keep", "advance"]),
            st.integers(0, 900),
            st.integers(0, 1200),
        ),
        max_size=50,
    )
)
def test_reserved_costs_are_conserved(steps):
    """reserved = settled + refunded + open, whatever the order; nothing waits while the head fits; nothing is left over."""
    limiter, clock = make(rpm=30, tpm=1000, tpd=10**9, share=1.0)
    first = limiter.reserve(M, prompt_tokens=0, max_output_tokens=0)
    first.refund()
    held, kept = [], 0
    for kind, a, b in steps:
        if kind == "advance":
            clock.advance(a / 10)
        elif kind in {"reserve", "try"}:
            call = limiter.reserve if kind == "reserve" else limiter.try_reserve
            got = call(M, prompt_tokens=0, max_output_tokens=a)
            if got is not None:
                held.append((got, a))
        elif held:
            got, tokens = held.pop(b % len(held))
            if kind == "settle":
                got.settle(usage(0, b))
            elif kind == "refund":
                got.refund()
            else:
                got.keep()
            kept += {"settle": b, "refund": 0, "keep": tokens}[kind]
            got.refund()
        shown = status(limiter)
        assert (shown.in_flight, shown.waiting) == (len(held), 0)
        day = shown.windows["tpd"]
        used = day.limit - day.remaining
        # The day's bucket refills meanwhile, so its use is at most the sum of all charges.
        assert used <= kept + sum(tokens for _, tokens in held)
        assert shown.windows["tpm"].remaining <= 1000


@settings(max_examples=50)
@given(calls=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 900)), min_size=1, max_size=60))
def test_windows_never_exceed_limits(calls):
    """Over any stretch of time no more goes out than burst + rate times its length."""
    limiter, clock = make(rpm=30, tpm=1000, share=1.0)
    admitted = []
    for gap, tokens in calls:
        clock.advance(gap)
        take(limiter, 0, tokens)
        admitted.append((clock.monotonic(), tokens))
    for i, (start, _) in enumerate(admitted):
        total = 0
        for count, (end, tokens) in enumerate(admitted[i:], start=1):
            total += tokens
            assert total <= 1000 + 1000 / 60 * (end - start) + 1e-3
            assert count <= 30 + 0.5 * (end - start) + 1e-6


# --- real threads, real clock --------------------------------------------------------------------------------------------


def test_threads_get_exact_ordered_totals():
    """24 threads at a barrier: nothing lost, nothing over the limit, no thread starved, served in order of arrival."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=60_000, tpm=10_000_000))
    threads_count, each = 24, 50
    begun = time.monotonic()
    limiter._models[M] = state = limiter._create_model(M)
    for bucket in state._buckets:
        bucket.charge(bucket.capacity, state._now())  # begin empty, so that all callers queue
    barrier = threading.Barrier(threads_count + 1)
    done, failed = [], []

    def work(number):
        try:
            barrier.wait(PATIENCE)
            for _ in range(each):
                held = take(limiter, 10, 20)
                done.append((held.sequence, held.arrival, number))
                held.settle(usage(10, 5))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(threads_count)]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    took = time.monotonic() - begun
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)
    assert len(done) == threads_count * each
    arrivals = [arrival for _, arrival, _ in sorted(done)]
    assert all(earlier < later for earlier, later in pairwise(arrivals))
    assert sorted(arrivals) == list(range(1, threads_count * each + 1))
    assert threads_count * each <= 1000 * took + 1  # it began with nothing: rate times time is all there is
    shown = status(limiter)
    assert (shown.in_flight, shown.waiting) == (0, 0)


def test_leaving_threads_leave_clean_queue():
    """Deadlines, cancels and refunds from many threads at once: no thread hangs, and nothing stays in flight."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=30_000, tpm=3_000_000))
    token = CancelToken()
    barrier = threading.Barrier(17)
    outcomes, failed = [], []

    def work(number):
        barrier.wait(PATIENCE)
        for i in range(50):
            try:
                deadline = time.monotonic() + 0.002 if (number + i) % 3 == 0 else None
                cancel = token if number % 4 == 0 else None
                held = take(limiter, 10, 3000, deadline=deadline, cancel=cancel, batch=number % 2 == 0)
            except (RateLimitTimeoutError, RequestCancelledError) as error:
                outcomes.append(type(error))
            except BaseException as error:
                failed.append(error)
            else:
                outcomes.append(None)
                (held.refund if i % 2 else held.keep)()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    barrier.wait(PATIENCE)
    token.cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)
    assert len(outcomes) == 16 * 50
    shown = status(limiter)
    assert (shown.in_flight, shown.waiting) == (0, 0)
    assert all(w.remaining <= w.limit for w in shown.windows.values())


def test_one_end_counts_among_threads():
    """16 threads settle, refund and keep the same reservation; one of them wins."""
    limiter, _ = make(tpm=10**6, share=1.0)
    for _ in range(50):
        before = window(limiter, "tpm").remaining if M in limiter._models else 10**6
        held = take(limiter, 0, 1000)
        barrier = threading.Barrier(16)

        def end(number, held=held, barrier=barrier):
            barrier.wait(PATIENCE)
            (held.refund, held.keep, lambda: held.settle(usage(0, 400)))[number % 3]()

        threads = [threading.Thread(target=end, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert before - window(limiter, "tpm").remaining in {0, 400, 1000}
        assert status(limiter).in_flight == 0
