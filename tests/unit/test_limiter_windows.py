"""How much the limiter lets through: all that the limits allow, and in no window more."""

import pytest
from support import limiter_kinds
from support.limiter_kinds import MODEL
from support.simulation import MINUTE, SECOND, Admission, Simulation, worst_window

from groq_provider.config import RateLimits
from groq_provider.types.response import Usage

make_limiter = limiter_kinds.make_limiter

THREADS = 64
PERIODS = 120  # the last request waiting costs up to a period, so up to 1/121 may be left


def admissions(make_limiter, limits, *, seed, draw, minutes=PERIODS, think=None, end=None):
    """What 64 threads get that each ask again and again, in the order of the grants.

    *draw* gives the tokens of a call, *think* the seconds until a thread's next one, *end* what to do with a place: it returns the
    tokens given back.
    """
    simulation = Simulation(seed)
    limiter = make_limiter(limits, simulation)
    begun = simulation.nanoseconds
    until = begun + minutes * MINUTE
    requests, tokens = [], []

    def work(number):
        while simulation.nanoseconds < until:
            cost = draw(simulation.random)
            held = limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=cost)
            # No thread moves the clock between the charge and here.
            at = simulation.nanoseconds
            requests.append(Admission(at, 1, number))
            tokens.append(Admission(at, cost, number))
            if end is None:
                held.keep()
            else:
                simulation.sleep(simulation.random.uniform(0, 5))
                back = end(held, cost, simulation.random)
                tokens.append(Admission(simulation.nanoseconds, -back, number))
            if think is not None:
                simulation.sleep(think(simulation.random))

    for number in range(THREADS):
        simulation.spawn(work, number)
    simulation.run()
    status = limiter.get_status()[MODEL]
    assert (status.in_flight, status.waiting) == (0, 0)
    assert {each.caller for each in requests} == set(range(THREADS))
    return begun, until, requests, tokens


def assert_all_is_used(found, begun, until, *, burst, amount):
    """Check admitted over ideal, ideal being a whole bucket at the start and what flows in until the end."""
    admitted = sum(each.units for each in found if each.at <= until)
    ideal = burst + amount * (until - begun) / MINUTE
    assert 0.99 <= admitted / ideal <= 1.0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("limits", "burst", "amount"),
    [
        pytest.param({"tpm": 60_000}, 58_200, 58_200, id="share-0.97"),
        pytest.param({"tpm": 8000, "share": 1.0}, 8000, 8000, id="whole"),
        pytest.param({"tpm": 997, "share": 0.5}, 498, 498.5, id="rounded"),
        pytest.param({"otpm": 1000, "tpm": 100_000}, 970, 970, id="output-tokens"),
    ],
)
def test_tokens_of_any_size(make_limiter, limits, burst, amount, seed):
    """Costs from one token to the whole bucket: 0.99 to 1.000 of the ideal, and never above it."""
    begun, until, _, tokens = admissions(
        make_limiter, RateLimits(**limits), seed=seed, draw=lambda random: random.randint(1, burst)
    )
    assert worst_window(tokens, burst=burst, amount=int(2 * amount), period=2 * MINUTE) <= 0
    assert_all_is_used(tokens, begun, until, burst=burst, amount=amount)


@pytest.mark.parametrize("seed", range(2))
def test_a_waiting_queue_wastes_nothing(make_limiter, seed):
    """While any caller waits, the last grant leaves the bucket empty, to a microsecond's worth."""
    _, _, _, tokens = admissions(
        make_limiter, RateLimits(tpm=60_000), seed=seed, minutes=30, draw=lambda random: random.randint(1, 58_200)
    )
    worst = worst_window(tokens, burst=58_200, amount=58_200, period=MINUTE)
    assert -0.01 <= worst <= 0


@pytest.mark.parametrize(
    "rpm", [pytest.param(30, marks=pytest.mark.full), 61, pytest.param(1000, marks=pytest.mark.full)]
)
def test_requests_are_whole(make_limiter, rpm):
    """The share is for estimates; requests are counted alike on both sides."""
    begun, until, requests, _ = admissions(
        make_limiter, RateLimits(rpm=rpm, share=0.5), seed=rpm, minutes=101 if rpm < 100 else 5, draw=lambda _: 0
    )
    assert worst_window(requests, burst=rpm, amount=rpm, period=MINUTE) <= 0
    assert_all_is_used(requests, begun, until, burst=rpm, amount=rpm)


@pytest.mark.parametrize(
    ("most", "binding"), [pytest.param(400, "requests", id="small"), pytest.param(3000, "tokens", id="large")]
)
def test_scarcer_limit_binds(make_limiter, most, binding):
    """Requests and tokens together: neither is passed in any window, and the one that binds is used up."""
    begun, until, requests, tokens = admissions(
        make_limiter, RateLimits(rpm=60, tpm=30_000), seed=1, minutes=120, draw=lambda random: random.randint(1, most)
    )
    assert worst_window(requests, burst=60, amount=60, period=MINUTE) <= 0
    assert worst_window(tokens, burst=29_100, amount=29_100, period=MINUTE) <= 0
    found, limit = (requests, 60) if binding == "requests" else (tokens, 29_100)
    assert_all_is_used(found, begun, until, burst=limit, amount=limit)


@pytest.mark.parametrize("seed", range(2))
def test_pauses_save_one_bucket(make_limiter, seed):
    """Threads that come and go in bursts meet a full bucket, never more than one."""
    _, _, _, tokens = admissions(
        make_limiter,
        RateLimits(tpm=60_000),
        seed=seed,
        minutes=60,
        draw=lambda random: random.randint(1, 58_200 if random.random() < 0.1 else 500),
        think=lambda random: random.choice((0, 0.05, 1, 240)),
    )
    assert worst_window(tokens, burst=58_200, amount=58_200, period=MINUTE) <= 0


@pytest.mark.parametrize("seed", range(2))
def test_returned_tokens_are_reused_once(make_limiter, seed):
    """Returned units are used again and no more: charges less returns stay inside, and all is used."""

    def end(held, cost, random):
        kind = random.randrange(3)
        if kind == 0:
            held.keep()
            return 0
        if kind == 1:
            held.refund()
            return cost
        used = random.randint(0, cost)
        held.settle(Usage(completion_tokens=used, total_tokens=used))
        return cost - used

    begun, until, _, tokens = admissions(
        make_limiter,
        RateLimits(tpm=60_000, share=1.0),
        seed=seed,
        minutes=60,
        draw=lambda random: random.randint(1, 4000),
        end=end,
    )
    # To a microsecond: between two of those instants a store may give back.
    assert worst_window(tokens, burst=60_000, amount=60_000, period=MINUTE) <= 0.001
    # At the end some calls are in flight, with unused units: 64 of 2,000 on average.
    assert_all_is_used(tokens, begun, until, burst=60_000, amount=60_000)


def test_service_agrees_above_share(make_limiter):
    """Costs up to the whole limit exceed our share, but never the service's limit."""
    _, _, _, tokens = admissions(
        make_limiter, RateLimits(tpm=60_000), seed=5, draw=lambda random: random.choice((60_000, 59_000, 100, 7000))
    )
    assert worst_window(tokens, burst=60_000, amount=60_000, period=MINUTE) <= 0
    assert worst_window(tokens, burst=58_200, amount=58_200, period=MINUTE) > 0


def test_measure_sees_tiny_excess():
    """A single unit above the limit, or a microsecond too early, is found."""
    exact = [Admission(0, 30)] + [Admission(i * 2 * SECOND, 1) for i in range(1, 50)]
    limit = {"burst": 30, "amount": 30, "period": MINUTE}
    assert worst_window(exact, **limit) == 0
    assert worst_window([*exact[:20], Admission(exact[20].at - 1000, 1), *exact[21:]], **limit) > 0
    assert worst_window([*exact[:20], Admission(exact[20].at, 2), *exact[21:]], **limit) == 1
