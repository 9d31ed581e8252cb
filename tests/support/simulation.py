"""Threads on a virtual clock, a service to call, and what to measure of both.

In a :class:`Simulation` real threads run one at a time, and time passes only while all of them wait. So hours take seconds, every
instant is exact, and a run is the same each time for the same seed; which of several threads goes on first is drawn from it.
"""

from __future__ import annotations

import json
import math
import random
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from support.fakes import FakeTracker

from groq_provider import LLMRequest, RateLimitedError, RetryPolicy, Timeouts
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from groq_provider.protocols import RateLimiter

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND

#: Real seconds after which a simulation that hangs fails.
PATIENCE = 60.0


class _StoppedError(BaseException):
    """Ends the threads of a simulation that failed."""


class _Task:
    """One thread, and what it waits for."""

    __slots__ = ("baton", "lock", "until")

    def __init__(self) -> None:
        self.baton = threading.Lock()  # free when it is this thread's turn
        self.baton.acquire()
        self.lock: threading.Lock | None = None  # what would wake it; None: it is ready
        self.until: int | None = None  # when it wakes by itself

    def ready(self, now: int) -> bool:
        return self.lock is None or not self.lock.locked() or (self.until is not None and self.until <= now)


class Simulation:
    """A clock whose threads run one at a time; give it to whatever takes a ``Clock``.

    Outside of its threads a wait moves the time on, as nobody else could end it.

    Args:
        seed: Decides who goes first where several could.
        start: First reading of the clock in seconds.
    """

    def __init__(self, seed: int = 0, *, start: float = 1000.0) -> None:
        self.random = random.Random(seed)
        self._start = self._now = int(start * SECOND)
        self._threads: list[threading.Thread] = []
        self._waiting: list[_Task] = []
        self._running: _Task | None = None
        self._limit: int | None = None  # instant at which a run ends
        self._error: BaseException | None = None
        self._over = threading.Event()

    # --- the clock -------------------------------------------------------------------------------------------------------

    @property
    def nanoseconds(self) -> int:
        """What the clock shows, exactly."""
        return self._now

    def monotonic(self) -> float:
        return self._now / SECOND

    def now(self) -> datetime:
        passed = (self._now - self._start) / SECOND
        return datetime(2026, 11, 1, 12, tzinfo=timezone.utc) + timedelta(seconds=passed)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        if lock.acquire(blocking=False):
            return True
        until = None if timeout is None else self._now + math.ceil(timeout * SECOND)
        task = self._running
        if task is None:
            assert until is not None, "this wait would never end"
            self._now = max(self._now, until)
        elif until is None or until > self._now:
            task.lock, task.until = lock, until
            self._waiting.append(task)
            self._switch(task)
        return lock.acquire(blocking=False)

    def sleep(self, seconds: float) -> None:
        """Let others go on for that long."""
        lock = threading.Lock()
        lock.acquire()
        self.wait(lock, seconds)

    # --- the threads -----------------------------------------------------------------------------------------------------

    def spawn(self, function: Callable[..., object], *arguments: Any) -> None:
        """Add a thread. It begins when the others wait."""
        task = _Task()

        def body() -> None:
            task.baton.acquire()
            try:
                if self._error is None:
                    function(*arguments)
            except _StoppedError:
                pass
            except BaseException as error:
                if self._error is None:
                    self._error = error
            finally:
                self._switch(None)

        thread = threading.Thread(target=body, daemon=True)
        self._threads.append(thread)
        self._waiting.append(task)
        thread.start()

    def run(self, seconds: float | None = None) -> None:
        """Return when all threads have ended, or after so many seconds with all of them waiting.

        Raises:
            BaseException: What the first of them raised.
        """
        self._limit = None if seconds is None else self._now + int(seconds * SECOND)
        self._over.clear()
        self._switch(None)
        if not self._over.wait(PATIENCE):
            self._error = AssertionError(f"the simulation hangs, {len(self._waiting)} threads wait")
            self._over.wait(PATIENCE)  # each ends as it gets its turn, if the one that runs ever waits
        if self._over.is_set() and (self._limit is None or self._error is not None):
            for thread in self._threads:
                thread.join(PATIENCE)
        if self._error is not None:
            raise self._error

    def _switch(self, task: _Task | None) -> None:
        """Give the turn to the next; return when it is *task*'s again."""
        chosen = self._choose()
        if chosen is None:
            self._running = None
            self._over.set()
        else:
            self._waiting.remove(chosen)
            self._running = chosen
            if chosen is not task:
                chosen.baton.release()
        if task is not None:
            if chosen is not task:
                task.baton.acquire()
            task.lock = task.until = None
            if self._error is not None:
                raise _StoppedError

    def _choose(self) -> _Task | None:
        if self._error is not None:
            return self._waiting[0] if self._waiting else None
        ready = [task for task in self._waiting if task.ready(self._now)]
        if not ready:
            times = [task.until for task in self._waiting if task.until is not None]
            if self._limit is not None and min(times, default=self._limit + 1) > self._limit:
                self._now = self._limit
                return None
            if not self._waiting:
                return None
            if not times:
                self._error = AssertionError(f"{len(self._waiting)} threads wait for ever")
                return self._waiting[0]
            self._now = min(times)
            ready = [task for task in self._waiting if task.ready(self._now)]
        return ready[0] if len(ready) == 1 else self.random.choice(ready)


# --- what is measured --------------------------------------------------------------------------------------------------------


class Admission(NamedTuple):
    """One grant."""

    at: int
    """Nanoseconds."""
    units: int
    caller: int = 0


def worst_window(admissions: Iterable[Admission], *, burst: int, amount: int, period: int) -> float:
    """Return the most that any window admitted beyond *burst* + *amount* / *period* times its length; at most 0 is right.

    Exact: in units times *period*, as integers. Every window that begins and ends with an admission is looked at.
    """
    before = 0  # admitted so far
    lowest = None  # of what was admitted before an instant, less what had flowed in by then
    worst = -burst * period
    for at, units, _ in admissions:
        start = before * period - amount * at
        lowest = start if lowest is None else min(lowest, start)
        before += units
        worst = max(worst, before * period - amount * at - lowest - burst * period)
    return worst / period


def jain(shares: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 for equal shares, 1/n if one of n has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def percentile(values: Iterable[float], part: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * part) - 1, 0)]


# --- the service -------------------------------------------------------------------------------------------------------------


class _ServiceBucket:
    """A limit as the service keeps it: what is used flows off at limit / period. In units times nanoseconds, so exact."""

    def __init__(self, name: str, limit: int, now: int) -> None:
        self.name = name
        self.limit = limit
        self.period = DAY if name.endswith("d") else MINUTE
        self.used = 0  # times period
        self.at = now

    def flow(self, now: int) -> int:
        self.used = max(self.used - self.limit * (now - self.at), 0)
        self.at = now
        return self.used

    def short_by(self, units: int) -> float:
        """Seconds until *units* fit: (used + requested - limit) / (limit / period)."""
        return max(self.used + (units - self.limit) * self.period, 0) / self.limit / SECOND


class Answer(NamedTuple):
    """What the service says to a request."""

    status: int
    headers: dict[str, str]
    body: bytes


_WORDS = {
    "rpm": "requests per minute (RPM)",
    "rpd": "requests per day (RPD)",
    "tpm": "tokens per minute (TPM)",
    "tpd": "tokens per day (TPD)",
}


class Service:
    """A server that enforces limits as the real one: prompt and ``max_completion_tokens`` charged at admission, what was not used given
    back at the end of the answer, a 429 with text and headers for what does not fit.

    Args:
        limits: Sizes by name; ``tpm`` and ``rpd`` are shown in headers.
        clock: Time.
        used: What is used of them at the start.

    Attributes:
        refused: Instants of the 429s, in nanoseconds.
        used: Instant and tokens of every answer that was finished, in that order.
        admitted: How many requests were let in.
    """

    def __init__(self, limits: dict[str, int], clock: Simulation, used: dict[str, int] | None = None) -> None:
        self._clock = clock
        self._buckets = [_ServiceBucket(name, limit, clock.nanoseconds) for name, limit in limits.items()]
        for bucket in self._buckets:
            bucket.used = (used or {}).get(bucket.name, 0) * bucket.period
        self.refused: list[int] = []
        self.used: list[Admission] = []
        self.admitted = 0

    @staticmethod
    def _cost(bucket: _ServiceBucket, tokens: int) -> int:
        return tokens if bucket.name.startswith("t") else 1

    def _charge(self, tokens: int) -> tuple[_ServiceBucket, float] | None:
        """Charge all buckets, or none: then return one that is short, and for how long."""
        for bucket in self._buckets:
            bucket.flow(self._clock.nanoseconds)
        for bucket in self._buckets:
            wait = bucket.short_by(self._cost(bucket, tokens))
            if wait:
                return bucket, wait
        for bucket in self._buckets:
            bucket.used += self._cost(bucket, tokens) * bucket.period
        return None

    def charge(self, tokens: int) -> bool:
        """Use that much on somebody else's account with the same limits, if it is there."""
        return self._charge(tokens) is None

    def admit(self, prompt: int, longest: int) -> Answer | None:
        """Charge a request, or refuse it."""
        short = self._charge(prompt + longest)
        if short is None:
            self.admitted += 1
            return None
        bucket, wait = short
        self.refused.append(self._clock.nanoseconds)
        return self._refusal(bucket, self._cost(bucket, prompt + longest), wait)

    def finish(self, prompt: int, longest: int, completion: int) -> None:
        """Give back what the answer did not use."""
        now = self._clock.nanoseconds
        for bucket in self._buckets:
            if bucket.name.startswith("t"):
                bucket.flow(now)
                bucket.used = max(bucket.used - (longest - completion) * bucket.period, 0)
        self.used.append(Admission(now, prompt + completion))

    def headers(self) -> dict[str, str]:
        """Return the limits as they stand now: requests are per day, tokens per minute, reset is the time until full."""
        found = {}
        for bucket in self._buckets:
            word = {"rpd": "requests", "tpm": "tokens"}.get(bucket.name)
            if word is not None:
                used = bucket.flow(self._clock.nanoseconds)
                found[f"x-ratelimit-limit-{word}"] = str(bucket.limit)
                found[f"x-ratelimit-remaining-{word}"] = str(max(bucket.limit - -(-used // bucket.period), 0))
                found[f"x-ratelimit-reset-{word}"] = _duration(used / bucket.limit / SECOND)
        return found

    def _refusal(self, bucket: _ServiceBucket, units: int, wait: float) -> Answer:
        shown = min(-(-bucket.used // bucket.period), bucket.limit)
        wait = math.ceil(wait * 1000) / 1000
        error = {
            "message": f"Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on "
            f"{_WORDS[bucket.name]}: Limit {bucket.limit}, Used {shown}, Requested {units}. Please try again in "
            f"{_duration(wait)}. Need more tokens? Upgrade to Dev Tier today",
            "type": "tokens" if bucket.name.startswith("t") else "requests",
            "code": "rate_limit_exceeded",
        }
        headers = {**self.headers(), "retry-after": str(math.ceil(wait))}
        return Answer(429, headers, json.dumps({"error": error}).encode())


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.6g}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest:.6g}s"


class SimulatedTransport:
    """Carries requests to a :class:`Service` and back, each way in a few hundredths of a second, as the engine's transport.

    A prompt has a token for about *bytes_per_token* bytes, a tenth more or less. Answers have lengths of a lognormal distribution, cut at
    the maximum asked for, and are made at 400 tokens a second.

    Args:
        service: Who answers.
        clock: Time.
        figures: When the limits in the headers are read off: ``"admission"``, with the head of the answer as early as that, as in a
            stream; ``"late admission"``, with the head after the answer; or ``"end"``.
        bytes_per_token: Of the prompts.
    """

    def __init__(
        self, service: Service, clock: Simulation, *, figures: str = "admission", bytes_per_token: float = 4.0
    ) -> None:
        self._service = service
        self._clock = clock
        self._figures = figures
        self._bytes_per_token = bytes_per_token

    def _travel(self) -> None:
        self._clock.sleep(self._clock.random.uniform(0.01, 0.05))

    def send(
        self, method: str, path: str, *, headers: Any, body: bytes, scope: Any, query: str = ""
    ) -> _SimulatedAnswer:
        """Send a completion request; see ``groq_provider.protocols.Transport``."""
        service, draw = self._service, self._clock.random
        scope.request_sent()
        self._travel()
        asked = json.loads(body)
        size = sum(len(message["content"]) for message in asked["messages"])
        prompt = max(round(size / self._bytes_per_token * draw.lognormvariate(0, 0.1)), 1) + 4
        longest = asked["max_completion_tokens"]
        refusal = service.admit(prompt, longest)
        scope.received = True
        if refusal is not None:
            self._travel()
            return _SimulatedAnswer(refusal.status, refusal.headers, lambda: refusal.body)
        completion = min(max(round(draw.lognormvariate(math.log(200), 0.8)), 1), longest)
        took = draw.uniform(0.2, 0.6) + completion / 400

        def finish() -> bytes:
            self._clock.sleep(took)
            service.finish(prompt, longest, completion)
            usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            choice = {"index": 0, "message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}
            return json.dumps({"id": "1", "model": "m", "created": 1, "choices": [choice], "usage": usage}).encode()

        shown = service.headers()
        if self._figures == "admission":
            self._travel()
            return _SimulatedAnswer(200, shown, finish)
        answer = finish()
        if self._figures == "end":
            shown = service.headers()
        self._travel()
        return _SimulatedAnswer(200, shown, lambda: answer)

    def close(self) -> None:
        """Nothing to close."""


class _SimulatedAnswer:
    def __init__(self, status: int, headers: dict[str, str], read: Callable[[], bytes]) -> None:
        self.status_code = status
        self.headers = {"content-type": "application/json", **headers}
        self._read = read

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        return self._read()

    def close(self) -> None:
        """Nothing to close."""


# --- who calls it ------------------------------------------------------------------------------------------------------------


class WorkDay:
    """Workers that call a service through a whole engine, each again as soon as its answer is there.

    Prompts are of a lognormal size, some 800 tokens on average; ``max_completion_tokens`` is 1024. After a call that fails for a rate
    limit a worker waits as long as the error says.

    Args:
        limiter: What is tested.
        simulation: Time.
        limits: What the service enforces.
        minutes: How long new calls are begun.
        workers: How many.
        other: What somebody else uses of the tokens per minute, if there are as many left.
        used: What is used of a limit at the start.
        stubborn: Whether a worker then makes the same call again, rather than another one.
        transport: Arguments of the :class:`SimulatedTransport`.

    Attributes:
        took: Seconds that each call took which was answered.
        failed: Errors of the others.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        simulation: Simulation,
        limits: dict[str, int],
        *,
        minutes: int,
        workers: int = 64,
        other: int = 0,
        used: dict[str, int] | None = None,
        stubborn: bool = False,
        **transport: Any,
    ) -> None:
        self._simulation = simulation
        self._stubborn = stubborn
        self.service = Service(limits, simulation, used)
        self._runtime = Caller(
            transport=SimulatedTransport(self.service, simulation, **transport),
            limiter=limiter,
            tracker=FakeTracker(),
            clock=simulation,
            policy=RetryPolicy(),
            provider="groq",
            default_model="openai/gpt-oss-20b",
            rng=random.Random(1),
        )
        self._capacity = limits["tpm"] * (minutes + 1)
        self.begun = simulation.nanoseconds
        self.until = self.begun + minutes * MINUTE
        self.took: list[float] = []
        self.failed: list[RateLimitedError] = []
        self._taken = 0
        for _ in range(workers):
            simulation.spawn(self._work)
        if other:
            simulation.spawn(self._other, other // 30)
        simulation.run()

    def _work(self) -> None:
        clock = self._simulation
        options = CallOptions(timeouts=Timeouts(first_token=None))
        while clock.nanoseconds < self.until:
            size = min(int(clock.random.lognormvariate(0, 0.8) * 2400), 20_000)
            request = LLMRequest(messages="x" * size, max_completion_tokens=1024)
            started = clock.monotonic()
            while not (answered := self._try(request, options)) and self._stubborn:
                pass
            if answered:
                self.took.append(clock.monotonic() - started)

    def _try(self, request: LLMRequest, options: CallOptions) -> bool:
        try:
            self._runtime.generate(request, options)
        except RateLimitedError as error:
            self.failed.append(error)
            self._simulation.sleep(error.retry_after or 1.0)
            return False
        return True

    def _other(self, tokens: int) -> None:
        while self._simulation.nanoseconds < self.until:
            self._simulation.sleep(2.0)
            if self.service.charge(tokens):
                self._taken += tokens

    @property
    def used(self) -> float:
        """Part of the tokens per minute used until the end: of a full bucket and what flows in."""
        return sum(each.units for each in self.service.used if each.at <= self.until) / self._capacity

    @property
    def taken_by_other(self) -> float:
        """The same of somebody else."""
        return self._taken / self._capacity

    @property
    def summary(self) -> str:
        """The figures in words, for messages."""
        return (
            f"used {self.used:.4f}, {len(self.service.refused)} refused, {self.service.admitted} admitted, "
            f"{len(self.failed)} calls failed, p99 {percentile(self.took, 0.99):.0f} s"
        )
