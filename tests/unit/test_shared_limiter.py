"""Limits in a store: several limiters share them, and go on without it."""

import logging
import random
import threading

import pytest
from support.fakes import PATIENCE, FakeClock, MemoryStore

from groq_provider.cancel import CancelToken
from groq_provider.config import RateLimits
from groq_provider.errors import (
    ConfigurationError,
    RateLimitedError,
    RateLimitTimeoutError,
    RequestCancelledError,
    RequestTooLargeError,
)
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

M = "openai/gpt-oss-20b"


def processes(count=2, *, manual=False, hosts=0, **limits):
    """Return so many limiters over one store, as if each were in a process of its own; the store; the clock."""
    clock = FakeClock(manual=manual)
    store = MemoryStore(clock, hosts)
    limits = RateLimits(**limits) if limits else None
    return [TokenBucketRateLimiter(limits, store=store, clock=clock) for _ in range(count)], store, clock


def take(limiter, prompt=0, output=0, **more):
    return limiter.reserve(M, prompt_tokens=prompt, max_output_tokens=output, **more)


def window(limiter, name):
    return limiter.get_status()[M].windows[name]


def at_once(limiter):
    """Take until nothing more goes; return how many went."""
    count = 0
    while (held := limiter.try_reserve(M, prompt_tokens=0, max_output_tokens=0)) is not None:
        held.keep()
        count += 1
    return count


def test_two_processes_have_one_burst():
    """What one took the other does not get, in whatever order they come."""
    (one, two), _, _ = processes(rpm=30)
    for number in range(30):
        take((one, two)[number % 2]).keep()
    assert (at_once(one), at_once(two)) == (0, 0)
    with pytest.raises(RateLimitTimeoutError) as caught:
        take(two, deadline=1001.0)
    assert caught.value.retry_after == pytest.approx(2, abs=0.01)


def test_models_and_scopes_have_limits():
    """Each model and each scope has limits of its own."""
    clock = FakeClock()
    store = MemoryStore(clock)
    one, two = (TokenBucketRateLimiter(RateLimits(rpm=3), store=store, scope=s, clock=clock) for s in ("a", "b"))
    assert (at_once(one), at_once(two)) == (3, 3)
    assert one.try_reserve("another", prompt_tokens=0) is not None
    assert sorted(store.states) == ["a:another", f"a:{M}", f"b:{M}"]


def test_returned_share_reaches_others():
    """Units that one process returns are free for the other."""
    (one, two), _, _ = processes(tpm=1000, share=1.0)
    held = take(one, output=1000)
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=400) is None
    held.settle(Usage(prompt_tokens=0, completion_tokens=600, total_tokens=600))
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=400) is not None
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=1) is None


def test_debt_is_shared_by_all():
    """What one process used beyond its reservation delays the next call of another."""
    (one, two), _, clock = processes(tpm=600, share=1.0)
    take(one, output=600).settle(Usage(prompt_tokens=0, completion_tokens=660, total_tokens=660))
    before = clock.monotonic()
    take(two, output=10).keep()
    assert clock.monotonic() - before == pytest.approx(7, abs=0.01)


def test_joint_window_holds_no_more():
    """Whatever two processes ask for: in no window more than a burst and its refill, by the store's clock."""
    for seed in range(20):
        (one, two), store, clock = processes(tpm=6000, share=1.0)
        rng = random.Random(seed)
        starts = []
        for _ in range(60):
            tokens = rng.choice((1, 50, 300, 3000, 6000))
            limiter = rng.choice((one, two))
            take(limiter, output=tokens).keep()
            starts.append((store.states[f":{M}"].start / 1e6, tokens))
            clock.advance(rng.choice((0, 0, 0.1, 5)))
        for i, (since, _) in enumerate(starts):
            used = 0
            for until, tokens in starts[i:]:
                used += tokens
                assert used <= 6000 + 100 * (until - since) + 1e-3, (seed, since, until)


def test_small_wait_is_reserved_ahead():
    """A reservation that starts soon is granted at once, so that one question suffices, and starts between processes keep their order."""
    (one, two), store, clock = processes(rpm=1200)
    assert at_once(one) == 1200
    asked = len(store.asked)
    before = clock.monotonic()
    held = take(two)
    assert clock.monotonic() - before == pytest.approx(0.05, abs=0.001)
    assert held.wait == pytest.approx(0.05, abs=0.001)
    assert len(store.asked) == asked + 1


def test_large_call_is_not_starved():
    """A large call is not starved by small ones elsewhere: it has the front until it can be served."""
    (one, two), _, clock = processes(manual=True, tpm=6000, share=1.0)
    take(two, output=6000).keep()
    served = threading.Event()

    def large():
        take(one, output=3000).keep()
        served.set()

    thread = threading.Thread(target=large)
    thread.start()
    small = 0
    for _ in range(290):
        clock.until_parked(1)
        small += two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is not None
        clock.advance(0.1)
    clock.until_parked(1)
    clock.advance(1.1)
    thread.join(PATIENCE)
    assert served.is_set()
    assert small == 0
    assert clock.monotonic() - 1000 == pytest.approx(30, abs=1.2)


def test_dead_process_claim_expires():
    """A claim of a process that died expires."""
    (one, two), store, clock = processes(tpm=6000, share=1.0)
    take(two, output=6000).keep()
    assert one.try_reserve(M, prompt_tokens=0, max_output_tokens=3000) is None
    state = store.states[f":{M}"]
    state.claimant, state.claim_start, state.claim_until = 5, state.last + 30_000_000, state.last + 2_000_000
    clock.advance(1)
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is None
    clock.advance(1.1)
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is not None


@pytest.mark.parametrize("way", ["cancel", "interrupt"])
def test_reservation_ahead_is_returned(way):
    """Cancelled between the reservation and its start: nothing is used, and the next one starts then."""
    (one, two), _, clock = processes(rpm=1200)
    assert at_once(one) == 1200
    token = CancelToken()
    error = KeyboardInterrupt if way == "interrupt" else RequestCancelledError

    def wait(_lock, _timeout):
        if way == "interrupt":
            raise KeyboardInterrupt
        token.cancel()
        return True

    one._clock.wait, kept = wait, clock.wait
    with pytest.raises(error):
        take(one, cancel=token)
    one._clock.wait = kept
    before = clock.monotonic()
    take(two).keep()
    assert clock.monotonic() - before == pytest.approx(0.05, abs=0.001)
    assert (one.get_status()[M].in_flight, one.get_status()[M].waiting) == (0, 0)


def test_one_429_holds_all():
    """A 429 that one process sees holds all of them, and an answer lets them go."""
    (one, two), _, clock = processes(tpm=6000, share=1.0)
    held = take(one, output=10)
    held.feedback(None, RateLimitedError("slow down", retry_after=2.0, limit_name="RPM", limit=30, scope="minute"))
    held.refund(keep_request=True)
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is None
    clock.advance(2.001)
    probe = two.try_reserve(M, prompt_tokens=0, max_output_tokens=10)
    assert probe is not None
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is None, "one first"
    probe.feedback(None)
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=10) is not None


def test_headers_of_one_tighten_all():
    """Headers that one process sees tighten the limit for all."""
    (one, two), _, _ = processes(tpm=6000, share=1.0)
    take(one, output=10).feedback(RateLimitInfo(limit_tokens=6000, remaining_tokens=100, reset_tokens=59.0))
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=101) is None
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=99) is not None


def test_too_large_needs_no_question():
    """A call that is too large is refused without asking the store."""
    (one,), store, _ = processes(1, tpm=1000)
    with pytest.raises(RequestTooLargeError, match="1,000"):
        take(one, output=1001)
    assert store.asked == []


def test_forgetful_store_starts_from_known():
    """FLUSHALL, a restart, a file removed: no second burst."""
    (one, two), store, clock = processes(rpm=60)
    assert at_once(one) == 60
    assert at_once(two) == 0
    store.states.clear()
    assert (at_once(one), at_once(two)) == (0, 0)
    clock.advance(3)
    assert at_once(one) + at_once(two) == 3


# --- offline ---------------------------------------------------------------------------------------------------------------


def test_each_survives_without_store(caplog):
    """Never an outage, never no limit, and one line in the log when it goes and one when it is back."""
    (one, two), store, clock = processes(hosts=2, rpm=60)
    assert at_once(one) == 60
    clock.advance(60)
    with caplog.at_level(logging.INFO, "groq_provider"):
        take(one).keep(), take(two).keep()
        store.reason = "connection refused"
        assert 14 <= at_once(one) <= 15, "half of its part, which is a half"
        assert 14 <= at_once(two) <= 15
        before = clock.monotonic()
        for _ in range(10):
            take(one).keep()
        assert clock.monotonic() - before == pytest.approx(20, abs=2.1), "a half of the rate"
        assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"], "one for each process"
        assert "connection refused" in caplog.text
        store.reason = None
        clock.advance(5.1)
        take(one).keep(), take(two).keep()
        assert [r.getMessage() for r in caplog.records[2:]] == ["the store of the rate limits is online again"] * 2


def test_store_absent_from_start():
    """While the number of processes is unknown, four are assumed."""
    (one,), store, _ = processes(1, rpm=60)
    store.reason = "connection refused"
    assert 7 <= at_once(one) <= 8


def test_absent_store_is_tried_occasionally():
    """An offline store is probed once in a while, and not at each call."""
    (one,), store, clock = processes(1, rpm=60_000)
    store.reason = "timed out"
    at_once(one)
    asked = len(store.asked)
    assert asked <= 3
    for _ in range(100):
        take(one).keep()
        clock.advance(0.1)
    assert len(store.asked) - asked <= 5


def test_use_meanwhile_becomes_debt():
    """Units used while the store was offline are a debt when it is online again."""
    (one, two), store, clock = processes(hosts=1, tpm=6000, share=1.0)
    take(one, output=1).keep(), take(two, output=1).keep()
    store.reason = "timed out"
    take(one, output=2000).keep()
    store.reason = None
    clock.advance(1)
    take(one, output=1).keep()  # tries the store again, and tells it
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=4200) is None
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=3990) is not None


def test_waiters_outlive_store():
    """Waiters go on when the store goes offline: this process serves them from its part, in order."""
    (one,), store, clock = processes(1, hosts=1, rpm=60)
    assert at_once(one) == 60
    store.reason = "timed out"
    before = clock.monotonic()
    for _ in range(3):
        take(one).keep()
    assert clock.monotonic() - before == pytest.approx(3, abs=1.1)


def test_settlement_without_store_survives():
    """A settlement made while the store is offline is not lost."""
    (one, two), store, clock = processes(hosts=1, tpm=6000, share=1.0)
    held = take(one, output=6000)
    store.reason = "timed out"
    held.settle(Usage(prompt_tokens=0, completion_tokens=100, total_tokens=100))
    take(one, output=1).keep()
    store.reason = None
    clock.advance(1)
    take(one, output=1).keep()
    assert two.try_reserve(M, prompt_tokens=0, max_output_tokens=5500) is not None


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("postgres://host/db", "rate_limit_store"),
        ("", "rate_limit_store"),
        (object(), "take, adjust and close"),
    ],
)
def test_non_store_is_clear_error(store, message):
    """An object that is no store is refused with one clear error."""
    with pytest.raises(ConfigurationError, match=message):
        TokenBucketRateLimiter(store=store)


def test_foreign_claim_is_no_refusal():
    """A claim of another process refuses no call at once: only if it stands after two seconds is it certain."""
    (one,), store, clock = processes(1, rpm=6000)
    take(one).keep()
    state = store.states[f":{M}"]
    state.claimant, state.claim_start, state.claim_until = 5, state.last + 50_000_000, state.last + 1_500_000
    before = clock.monotonic()
    take(one, deadline=before + 20).keep()
    assert clock.monotonic() - before <= 3
    state.claimant, state.claim_start, state.claim_until = 5, state.last + 50_000_000, state.last + 50_000_000
    before = clock.monotonic()
    take(one, deadline=before + 20).keep()  # no queue can claim that much: the claim is cut to two seconds
    assert clock.monotonic() - before <= 3
    as_it_is = store.take

    def renewed(key, ask):
        state.claimant, state.claim_start, state.claim_until = 5, state.last + 50_000_000, state.last + 2_000_000
        return as_it_is(key, ask)

    store.take = renewed
    before = clock.monotonic()
    with pytest.raises(RateLimitTimeoutError):
        take(one, deadline=before + 20)
    assert clock.monotonic() - before <= 4
