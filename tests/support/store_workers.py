"""The programs of other processes in the tests of stores. Here, since a worker imports the module by its name."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from support.fakes import PATIENCE
from support.store_kinds import StoreClock

from groq_provider import GroqProvider, RateLimits, TokenBucketRateLimiter
from groq_provider.ratelimit.store import open_store
from groq_provider.ratelimit.store.file import FileStore
from groq_provider.ratelimit.store.gcra_state import NO_LIMIT, AcquireRequest, Adjustment, BucketCharge

if TYPE_CHECKING:
    from groq_provider.ratelimit.store.protocol import RateLimitStore

#: A debt that never drains while a test runs.
DEBT = 10**12


def make_request(
    cost: int = 1, *, burst: int = 1000, known: int = 0, seen: int = 0, horizon: int = 0
) -> AcquireRequest:
    """Make a request that charges one bucket."""
    return AcquireRequest((BucketCharge("rpm", cost, burst, known),), horizon, NO_LIMIT, 0, seen, 1)


def work(store: FileStore, threads: int, rounds: int) -> None:
    """Count up, from several threads: every call adds one to a version, every change three to a debt."""
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for _ in range(rounds):
                store.take("shared", make_request(0))
                store.adjust("shared", Adjustment(credits={"rpm": -3}))
                store.take(f"own of thread {number}", make_request(0))
        except BaseException as error:
            failed.append(error)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if failed:
        raise failed[0]


def work_on(path: str, threads: int, rounds: int) -> None:
    """Do :func:`work` with a store of its own."""
    work(FileStore(path, clock=StoreClock(), patience=60), threads, rounds)


def race(path: str, barrier, count: int) -> None:
    """Open one new file at the same moment as others, and use it."""
    barrier.wait(60)
    store = FileStore(path, clock=StoreClock(), patience=60)
    for _ in range(count):
        store.take("shared", make_request(0))


def hammer(store: FileStore) -> None:
    """Go on until killed."""
    while True:
        store.take("shared", make_request(0))
        store.adjust("shared", Adjustment(credits={"rpm": -3}))


def patient(url: str) -> RateLimitStore:
    """Open the store at a URL, with so much patience that a pause of this machine does not make it unavailable."""
    store = open_store(url)
    if isinstance(store, FileStore):
        store._lock_patience = PATIENCE
    else:
        store._timeout = PATIENCE
    return store


def draw_places(url: str, barrier, count, enough, results) -> None:
    """Take places of one limiter from sixteen threads until all processes have enough; report when each was granted."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=6000), store=patient(url), scope="fleet")
    granted: list[float] = []

    def run() -> None:
        while count.value < enough.value:
            limiter.reserve("m", prompt_tokens=0, max_output_tokens=0, deadline=until).keep()
            granted.append(time.monotonic())
            with count.get_lock():
                count.value += 1

    threads = [threading.Thread(target=run) for _ in range(16)]
    barrier.wait(60)
    until = time.monotonic() + 50
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limiter.close()
    results.put((granted, limiter._store_link.offline))


#: Next to nothing flows in while a test runs.
OF_A_DAY = RateLimits(tpd=10_000, share=1.0)


def stop_and_go(settings: dict[str, str], url: str, connection) -> None:
    """Ask once for every word that comes, and say how many tokens are left of the day's."""
    with GroqProvider(**settings, rate_limits=OF_A_DAY, rate_limit_store=url) as provider:
        while connection.recv():
            provider.generate("Hello", max_completion_tokens=5)
            (status,) = provider.get_rate_limits().values()
            connection.send(status.windows["tpd"].remaining)


LIMITS = RateLimits(tpm=60_000, share=1.0)


def hold_for_ever(url: str, connection) -> None:
    """Take all there is, wait for more, and say so; until killed."""
    limiter = TokenBucketRateLimiter(LIMITS, store=url, scope="killed")
    limiter.reserve("m", prompt_tokens=0, max_output_tokens=60_000)
    threading.Thread(
        target=limiter.reserve, args=("m",), kwargs={"prompt_tokens": 0, "max_output_tokens": 50_000}, daemon=True
    ).start()
    while not limiter.get_status()["m"].waiting:
        time.sleep(0.001)
    connection.send("held")
    threading.Event().wait()
