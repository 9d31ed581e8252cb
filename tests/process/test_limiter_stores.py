"""Limits in a file or in Redis: processes together get as much as the limits allow, never more, and each its part."""

import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pytest
from support import store_kinds, store_workers
from support.fakes import MemoryStore
from support.limiter_kinds import MODEL
from support.redis_server import need_redis, shared
from support.simulation import MINUTE, SECOND, Admission, Simulation, jain, worst_window

from groq_provider import GroqProvider
from groq_provider.config import RateLimits
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.testing import Emulator
from groq_provider.types.response import Usage

#: A store counts microseconds: a place begins up to one later than it could.
GRAIN = 0.001

PROCESSES = 4
THREADS = 16


class Fleet:
    """Four limiters over one store, as four processes would have, with sixteen callers each, on a virtual clock."""

    def __init__(self, kind, limits, cleanup, *, seed=0):
        self.simulation = Simulation(seed)
        clock = self.simulation
        store = MemoryStore(clock) if kind == "memory" else store_kinds.KINDS[kind](clock, cleanup)
        self.limiters = [TokenBucketRateLimiter(limits, store=store, clock=self.simulation) for _ in range(PROCESSES)]
        self.requests, self.tokens = [], []
        self.grants = [0] * (PROCESSES * THREADS)
        self.begun = self.simulation.nanoseconds

    def run(self, seconds, *, draw, think=0.0, used=None):
        """Have every caller ask again and again for what *draw* says, using *used* of it."""
        until = self.begun + seconds * SECOND
        simulation = self.simulation

        def work(number):
            limiter = self.limiters[number % PROCESSES]
            while simulation.nanoseconds < until:
                cost = draw(simulation.random, number)
                held = limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=cost)
                self.requests.append(Admission(simulation.nanoseconds, 1, number))
                self.tokens.append(Admission(simulation.nanoseconds, cost, number))
                self.grants[number] += 1
                if used is None:
                    held.keep()
                else:
                    simulation.sleep(simulation.random.uniform(0, 1))
                    spent = int(cost * used)
                    held.settle(Usage(prompt_tokens=0, completion_tokens=spent, total_tokens=spent))
                    self.tokens.append(Admission(simulation.nanoseconds, spent - cost, number))
                simulation.sleep(think)

        for number in range(PROCESSES * THREADS):
            simulation.spawn(work, number)
        simulation.run()
        for limiter in self.limiters:
            status = limiter.get_status()[MODEL]
            assert (status.in_flight, status.waiting) == (0, 0)
        return until

    def ideal(self, found, until, *, burst):
        """Return admitted over ideal: a bucket, refilled once a minute."""
        admitted = sum(each.units for each in found if each.at <= until)
        return admitted / (burst + burst * (until - self.begun) / MINUTE)


@pytest.fixture
def cleanup():
    with ExitStack() as stack:
        yield stack


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["memory", "file", "redis"])
@pytest.mark.parametrize("seed", range(2))
def test_four_processes_get_exact_share(kind, seed, cleanup):
    """Four processes get all requests and no more: 0.99 to 1.000 of a bucket and its refill, equal parts."""
    fleet = Fleet(kind, RateLimits(rpm=1200), cleanup, seed=seed)
    for limiter in fleet.limiters:
        while limiter.try_reserve(MODEL, prompt_tokens=0, max_output_tokens=0):
            fleet.requests.append(Admission(fleet.begun, 1))
    until = fleet.run(180, draw=lambda random, number: 0)
    assert worst_window(fleet.requests, burst=1200, amount=1200, period=MINUTE) <= GRAIN
    assert 0.99 <= fleet.ideal(fleet.requests, until, burst=1200) <= 1.0
    assert jain(fleet.grants) >= 0.99


@pytest.mark.full
@pytest.mark.parametrize("kind", ["memory", "file", "redis"])
@pytest.mark.parametrize("used", [None, 0.4], ids=["all-used", "0.4-used"])
def test_four_processes_with_large_costs(kind, used, cleanup):
    """Tokens of any size, with and without credit from answers: in no window more; a large one is not starved."""
    limit = 20_000
    fleet = Fleet(kind, RateLimits(tpm=limit, share=1.0), cleanup, seed=3)
    sizes = (1, 40, 400, 4000, limit)

    def draw(random, number):
        return limit if number == 0 else random.choice(sizes[:-1])

    until = fleet.run(60 * 60 if kind == "memory" else 20 * 60, draw=draw, used=used)
    assert worst_window(fleet.tokens, burst=limit, amount=limit, period=MINUTE) <= GRAIN
    # The last request waiting costs up to a period.
    assert fleet.ideal(fleet.tokens, until, burst=limit) >= (0.98 if kind == "memory" else 0.94)
    assert min(fleet.grants) >= 1


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_thinking_callers_get_their_wish(kind, cleanup):
    """While there is room for all, no process waits for the reservations of others."""
    fleet = Fleet(kind, RateLimits(rpm=6000), cleanup)
    fleet.run(30, draw=lambda random, number: 0, think=2.0)
    assert min(fleet.grants) >= 15


@pytest.fixture(params=["file", "redis"])
def url(request, tmp_path):
    """A store that processes can find."""
    if request.param == "file":
        return f"file://{tmp_path}/limits"
    need_redis()
    pytest.importorskip("redis", reason="needs the extra redis")
    return shared().url + "?socket_timeout=20"  # a pause of this machine must not make it unavailable


@pytest.mark.sample(1)
def test_real_processes_share_a_limit(url):
    """Four processes with sixteen threads each, in real time: they use all that refills and no more, and each gets a part."""
    context = get_context("spawn")
    barrier, results = context.Barrier(PROCESSES + 1), context.Queue()
    count, enough = context.Value("i", 0), context.Value("i", 0)
    workers = [
        context.Process(target=store_workers.draw_places, args=(url, barrier, count, enough, results))
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=6000), store=store_workers.patient(url), scope="fleet")
    while True:
        drained = time.monotonic()  # if the next one is not there, the bucket was empty then
        if (held := limiter.try_reserve("m", prompt_tokens=0, max_output_tokens=0)) is None:
            break
        held.keep()  # the burst
    enough.value = int((time.monotonic() - drained) * 100) + 300  # the units refilled so far, and some more
    barrier.wait(60)
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    limiter.close()
    grants = sorted(at for granted, _ in found for at in granted)
    assert not any(away for _, away in found)
    # What had flowed in meanwhile is there at once; a place may begin a bit before it is noted, and so never after.
    assert len(grants) <= (grants[-1] - drained) * 100 + 1
    # Nothing is left unused, as the last grants show at their best: a pause of the machine costs the later ones nothing.
    at_their_best = max(number / (grants[number - 1] - drained) for number in range(enough.value - 100, enough.value))
    assert at_their_best >= 0.8 * 100
    assert all(len(granted) >= 10 for granted, _ in found)


@pytest.mark.sample(1)
def test_processes_share_one_count(url):
    """From the setting to the service: what one process sends the other has less of."""
    context = get_context("spawn")
    here, there = context.Pipe()
    with here, there, Emulator() as emulator:
        settings = {"api_key": "gsk_of_one_organisation", "base_url": emulator.base_url}
        worker = context.Process(target=store_workers.stop_and_go, args=(settings, url, there))
        worker.start()
        with GroqProvider(**settings, rate_limits=store_workers.OF_A_DAY, rate_limit_store=url) as provider:
            left = []
            for _ in range(3):
                used = provider.generate("Hello", max_completion_tokens=5).usage.total_tokens
                here.send(True)
                assert here.poll(60)
                left.append(here.recv())
            here.send(False)
        worker.join(60)
        assert worker.exitcode == 0
    assert [(10_000 - each) / used for each in left] == pytest.approx([2, 4, 6], abs=0.5)


def test_limits_belong_to_a_key(url):
    """Providers with the same key count together, others do not; and the key itself is not in the store."""
    left = []
    with Emulator() as emulator:
        for key in ("gsk_first_organisation", "gsk_first_organisation", "gsk_second_organisation"):
            with GroqProvider(
                api_key=key, base_url=emulator.base_url, rate_limits=store_workers.OF_A_DAY, rate_limit_store=url
            ) as provider:
                provider.generate("Hello", max_completion_tokens=5)
                (status,) = provider.get_rate_limits().values()
                left.append(status.windows["tpd"].remaining)
    used = [10_000 - each for each in left]
    assert used[1] == pytest.approx(2 * used[0], rel=0.1)
    assert used[2] == pytest.approx(used[0], rel=0.1)
    if url.startswith("file:"):
        assert b"organisation" not in Path(url.removeprefix("file://")).read_bytes()
