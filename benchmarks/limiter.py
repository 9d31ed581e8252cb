"""Measure the rate limiter's cost, and how well it keeps its promises in real time.

    python benchmarks/limiter.py [--quick] [--only memory] [--json FILE]

It prints one row per measure, with this project's goal beside it; each kind of limiter takes about a minute. It uses no network.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stores import Server

from groq_provider import CancelToken, RateLimits, RequestCancelledError, TokenBucketRateLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = "openai/gpt-oss-20b"
#: Four limits so large that nothing waits.
AMPLE = RateLimits(rpm=10**9, rpd=10**12, tpm=10**12, tpd=10**14)
#: 100 tokens per second.
HUNDRED = RateLimits(tpm=6000, share=1.0)


def memory(limits: RateLimits, _cleanup: ExitStack) -> TokenBucketRateLimiter:
    return TokenBucketRateLimiter(limits)


def file(limits: RateLimits, cleanup: ExitStack) -> TokenBucketRateLimiter:
    folder = cleanup.enter_context(tempfile.TemporaryDirectory())
    limiter = TokenBucketRateLimiter(limits, store=f"file://{folder}/limits")
    cleanup.callback(limiter.close)
    return limiter


def redis(limits: RateLimits, cleanup: ExitStack) -> TokenBucketRateLimiter:
    server = Server()
    cleanup.callback(server.process.wait)
    cleanup.callback(server.process.kill)
    limiter = TokenBucketRateLimiter(limits, store=server.url)
    cleanup.callback(limiter.close)
    return limiter


#: The kinds of limiter: a function of the limits and of an ExitStack for its clean-up. To add a kind, add it here and its goals below.
KINDS: dict[str, Callable[[RateLimits, ExitStack], TokenBucketRateLimiter]] = {"memory": memory, "file": file}
if shutil.which("redis-server"):
    KINDS["redis"] = redis

#: Goals: at least the first value, at most the second. First those of all kinds, then those of one kind.
GOALS: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "": {
        "wake-up lateness p99": (None, 5.0),
        "CPU of 1,000 waiters": (None, 0.5),
        "admitted / ideal": (0.99, 1.0),
        "Jain's index": (0.99, None),
        "Jain's index, 50 ms pauses": (0.99, None),
        "order inversions": (None, 0.001),
        "starved threads": (None, 0),
        "grants of a cost-50 caller": (6, None),
    },
    "memory": {"acquire p50": (None, 5.0), "acquires from 64 threads": (80_000, None)},
    "file": {"acquire p50": (None, 50.0)},
    "redis": {"acquire p50": (None, 300.0), "acquire p99": (None, 600.0)},
}


class Found(NamedTuple):
    """One figure."""

    value: float
    unit: str = ""


class Run:
    """Measures one kind of limiter.

    Args:
        make: Makes limiters of that kind.
        part: Share of the full measuring time, up to 1.
    """

    def __init__(self, make: Callable[[RateLimits], TokenBucketRateLimiter], part: float) -> None:
        self._make = make
        self._part = part

    def measure(self) -> dict[str, Found]:
        found = {}
        for step in (
            self.uncontended,
            self.contended,
            self.lateness,
            self.waiters,
            self.shares,
            self.pauses,
            self.large,
        ):
            gc.collect()
            found.update(step())
        return found

    def uncontended(self) -> dict[str, Found]:
        """Measure one ``reserve()`` by a single thread, without and with the end of the reservation."""
        reserve, clock = self._make(AMPLE).reserve, time.perf_counter_ns
        begun, alone, whole = time.monotonic(), [], []
        gc.disable()
        while time.monotonic() < begun + 3 * self._part:
            for _ in range(100):
                started = clock()
                reservation = reserve(MODEL, prompt_tokens=400, max_output_tokens=800)
                taken = clock()
                reservation.keep()
                whole.append(clock() - started)
                alone.append(taken - started)
        gc.enable()
        return {
            "acquire p50": Found(percentile(alone, 0.5) / 1000, "µs"),
            "acquire p99": Found(percentile(alone, 0.99) / 1000, "µs"),
            "acquire and end p50": Found(percentile(whole, 0.5) / 1000, "µs"),
        }

    def contended(self) -> dict[str, Found]:
        """Measure the reservations per second of 64 threads together, without and with their end."""
        found = {}
        for name, end in (("acquires from 64 threads", False), ("acquires and ends from 64 threads", True)):
            # Use several short runs: whether the threads fall into step with the lock is chance.
            rates = [self._rate(end, 0.4 * self._part) for _ in range(7)]
            found[name] = Found(percentile(rates, 0.5), "/s")
            found[f"{name}, lowest"] = Found(min(rates), "/s")
        return found

    def _rate(self, end: bool, seconds: float) -> float:
        reserve = self._make(AMPLE).reserve
        counts = [0] * 64
        stop = threading.Event()

        def work(number: int) -> None:
            done = 0
            while not stop.is_set():
                for _ in range(20):
                    reservation = reserve(MODEL, prompt_tokens=400, max_output_tokens=800)
                    if end:
                        reservation.keep()
                done += 20
            counts[number] = done

        elapsed = together(64, work, seconds, stop.set)
        return sum(counts) / elapsed

    def lateness(self) -> dict[str, Found]:
        """Measure how late a lone waiter continues after its grant, at 100 grants per second."""
        limiter = self._make(HUNDRED)
        empty(limiter)
        window = limiter.get_status()[MODEL].windows["tpm"]
        ready = time.monotonic() + window.reset - 60.0
        latenesses = []
        for _ in range(int(400 * self._part)):
            ready += 0.01  # a late waiter does not delay the next one
            limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=1).keep()
            latenesses.append(time.monotonic() - ready)
        return {
            "wake-up lateness p50": Found(percentile(latenesses, 0.5) * 1000, "ms"),
            "wake-up lateness p99": Found(percentile(latenesses, 0.99) * 1000, "ms"),
        }

    def waiters(self) -> dict[str, Found]:
        """Measure the CPU time of three seconds in which 1,000 threads wait and 200 per second are granted."""
        limiter = self._make(RateLimits(tpm=12_000, share=1.0))
        token = CancelToken()

        def work(_number: int) -> None:
            try:
                while True:
                    limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=1, cancel=token).keep()
            except RequestCancelledError:
                pass

        used: list[float] = []

        def watch() -> None:
            while limiter.get_status()[MODEL].waiting < 950:  # with a store some have been granted a moment ahead
                time.sleep(0.05)
            before = cpu_seconds()
            time.sleep(3)
            used.append(cpu_seconds() - before)
            token.cancel()

        together(1000, work, 0, watch, begin=lambda: empty(limiter, 12_000))
        return {"CPU of 1,000 waiters": Found(used[0], "s in 3 s")}

    def shares(self) -> dict[str, Found]:
        """Measure 64 threads at 100 grants per second: how many were granted, to which threads, in which order."""
        seconds = 5 * self._part
        counts, order = self._compete(seconds, lambda _: 1, 0.0)
        inverted = sum(later < earlier for earlier, later in pairwise(order))
        return {
            "admitted / ideal": Found(sum(counts) / (100 * seconds)),
            "Jain's index": Found(jain(counts)),
            "order inversions": Found(inverted / len(order)),
            "starved threads": Found(counts.count(0)),
        }

    def pauses(self) -> dict[str, Found]:
        """Measure the same with a pause of 50 ms after each grant."""
        counts, _ = self._compete(5 * self._part, lambda _: 1, 0.05)
        return {"Jain's index, 50 ms pauses": Found(jain(counts))}

    def large(self) -> dict[str, Found]:
        """Measure the grants of one caller of cost 50 in 8 s among 63 callers of cost 1, at 100 per second: 7 would be fair."""
        counts, _ = self._compete(8, lambda number: 1 if number else 50, 0.0)
        return {"grants of a cost-50 caller": Found(counts[0], "in 8 s")}

    def _compete(self, seconds: float, cost: Callable[[int], int], pause: float) -> tuple[list[int], list[int]]:
        """Return the grants of each of 64 threads at 100 per second, and the positions in the queue in the order of the grants."""
        limiter = self._make(HUNDRED)
        grants: list[tuple[int, int, int]] = []
        token = CancelToken()
        stop = float("inf")

        def begin() -> None:
            nonlocal stop
            empty(limiter)
            stop = time.monotonic() + seconds

        def work(number: int) -> None:
            try:
                while True:
                    reservation = limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=cost(number), cancel=token)
                    if time.monotonic() <= stop:
                        grants.append((reservation.sequence, reservation.arrival, number))
                    reservation.keep()
                    if pause:
                        time.sleep(pause)
            except RequestCancelledError:
                pass

        together(64, work, seconds + 0.05, token.cancel, begin=begin)
        counts = [0] * 64
        for _, _, number in grants:
            counts[number] += 1
        return counts, [arrival for _, arrival, _ in sorted(grants)]


def empty(limiter: TokenBucketRateLimiter, tokens: int = 6000) -> None:
    """Take the whole budget, so that only its refill remains."""
    limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=tokens).keep()


def together(
    count: int,
    work: Callable[[int], None],
    seconds: float,
    end: Callable[[], object],
    *,
    begin: Callable[[], object] = lambda: None,
) -> float:
    """Run *work* in threads that start together right after *begin*, and call *end* after some seconds; return the seconds until all ended."""
    barrier = threading.Barrier(count + 1)

    def body(number: int) -> None:
        barrier.wait()
        work(number)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    begin()
    barrier.wait()
    begun = time.perf_counter()
    time.sleep(seconds)
    end()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


def percentile(values: list[Any], part: float) -> float:
    ordered = sorted(values)
    return float(ordered[min(int(len(ordered) * part), len(ordered) - 1)])


def jain(shares: list[int]) -> float:
    return sum(shares) ** 2 / max(len(shares) * sum(share * share for share in shares), 1)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def goal_of(kind: str, name: str) -> tuple[str, float | None, float | None]:
    """Return a goal in words and in figures."""
    least, most = GOALS.get(kind, {}).get(name) or GOALS[""].get(name) or (None, None)
    if least is not None and most is not None:
        return f"{least:g} to {most:g}", least, most
    if least is not None:
        return f">= {least:,g}", least, most
    return ("" if most is None else f"<= {most:,g}"), least, most


def table(kind: str, found: dict[str, Found]) -> tuple[str, dict[str, Any]]:
    """Return the figures of one kind of limiter as text and as data."""
    lines, data = [f"\n{kind}"], {}
    for name, (value, unit) in found.items():
        words, least, most = goal_of(kind, name)
        # Four decimal places, as many as are printed.
        reached = None if not words else (least is None or value >= least) and (most is None or round(value, 4) <= most)
        mark = "" if reached is None else ("reached" if reached else "MISSED")
        shown = f"{value:,.0f}" if value >= 1000 or (value == int(value) and value >= 1) else f"{value:.4g}"
        lines.append(f"  {name:36}{shown:>12} {unit:9} {words:14} {mark}".rstrip())
        data[name] = {"value": value, "unit": unit, "goal": words or None, "reached": reached}
    return "\n".join(lines), data


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a third of the time, wider spread")
    parser.add_argument("--only", default=",".join(KINDS), metavar="KINDS", help="some, by comma: " + ", ".join(KINDS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    options = parser.parse_args()
    kinds = options.only.split(",")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f"--only: unknown {', '.join(unknown)}; there are {', '.join(KINDS)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    everything = {}
    for kind in kinds:
        with ExitStack() as cleanup:
            make = KINDS[kind]
            found = Run(
                lambda limits, make=make, cleanup=cleanup: make(limits, cleanup), 1 / 3 if options.quick else 1.0
            )
            text, everything[kind] = table(kind, found.measure())
        print(text, flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({"python": platform.python_version(), "kinds": everything}, indent=2), "utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
