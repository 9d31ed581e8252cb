"""A circuit breaker: refuse calls to a peer that fails, and probe it now and then with a few calls."""

from __future__ import annotations

import random
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import attrs

from groq_provider import _validate as checks
from groq_provider import errors as e
from groq_provider._sync import forkable, owns_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.clock import Clock

__all__ = ["Admission", "BreakerPolicy", "CircuitBreaker", "verdict"]


@attrs.frozen(kw_only=True)
class BreakerPolicy:
    """When a circuit breaker opens and closes.

    Attributes:
        window: Seconds of recent calls that count.
        min_calls: The number of calls in the window below which the ratio proves nothing.
        failure_ratio: The share of failures in the window that opens the breaker.
        not_sent_in_a_row: The number of calls in a row that could not be sent at all, which opens it at once.
        open_for: Seconds that it stays open the first time; doubled each further time in a row, up to *max_open*.
        max_open: The longest time in seconds that it stays open.
        jitter: The share by which that time varies, so that many processes do not come back together.
        probes: The number of calls at once that it lets through to probe the peer.
        successes: The number of successful probes that closes it.

    Raises:
        ConfigurationError: A value is out of range.

    .. versionadded:: 0.1.0
    """

    window: float = attrs.field(default=30.0, validator=checks.positive_seconds)
    min_calls: int = attrs.field(default=20)
    failure_ratio: float = attrs.field(default=0.5)
    not_sent_in_a_row: int = attrs.field(default=5)
    open_for: float = attrs.field(default=5.0, validator=checks.positive_seconds)
    max_open: float = attrs.field(default=60.0, validator=checks.positive_seconds)
    jitter: float = attrs.field(default=0.2)
    probes: int = attrs.field(default=2)
    successes: int = attrs.field(default=3)

    def __attrs_post_init__(self) -> None:
        for name in ("min_calls", "not_sent_in_a_row", "probes", "successes"):
            given = getattr(self, name)
            if not checks.is_number(given, integer=True) or given < 1:
                raise checks.refuse(name, given, "an integer of at least 1")
        for name, low in (("failure_ratio", 0.01), ("jitter", 0.0)):
            given = getattr(self, name)
            if not checks.is_number(given) or not low <= given <= 1:
                raise checks.refuse(name, given, f"a number from {low:g} to 1")

    @classmethod
    def of(cls, given: BreakerPolicy | bool | Mapping[str, float] | None) -> BreakerPolicy | None:
        """Return a policy from an instance, ``True`` (the defaults) or a mapping of fields; ``None`` and ``False`` give ``None``.

        Raises:
            ConfigurationError: The value is none of these, or a field is out of range.
        """
        if given is None or given is False:
            return None
        if given is True:
            return cls()
        if isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            raise checks.refuse("circuit_breaker", given, "True, a mapping, a BreakerPolicy, or None")
        checks.names([a.name for a in attrs.fields(cls)], given, what="circuit_breaker")
        return cls(**given)


def verdict(error: e.GroqProviderError) -> bool | None:
    """Return the meaning of an error for the breaker: ``False`` for a failure of the peer, ``True`` for a peer that is well, else ``None``.

    Failures are broken connections, silence, and 5xx. A refusal (4xx, 429, 498) shows a peer that is well. A cancel or a time limit of the
    caller shows nothing.
    """
    if isinstance(error, e.APIStatusError):
        if error.status_code is None:
            return None  # refused by the library, before sending
        return error.status_code < 500 or error.status_code == 498
    if isinstance(error, e.PoolTimeoutError):
        return None
    if isinstance(error, (e.TransportError, e.IncompleteResponseError, e.StreamError, e.ResponseDecodeError)):
        return False
    return None


class Admission(NamedTuple):
    """The permission to make one call. It must be returned with the outcome of the call."""

    generation: int
    probe: bool


class CircuitBreaker:
    """Counts the outcomes of one peer's calls and refuses further ones while it fails.

    Thread safety: shared by all calls; the lock covers changes of state only and is never held during a call.

    Args:
        policy: When the breaker opens and closes.
        clock: The source of time.
        name: The name of the peer, for messages.
        rng: The source of jitter: a function like ``random.random``.

    .. versionadded:: 0.1.0
    """

    _SLOTS = 10  # the window moves in tenths

    def __init__(
        self, policy: BreakerPolicy, clock: Clock, *, name: str = "", rng: Callable[[], float] = random.random
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._name = name
        self._rng = rng
        self._lock = threading.RLock()  # guards everything below; reentrant: _sync
        self._inside = False  # whether a thread counts an outcome just now
        self._late: deque[tuple[Admission, bool | None, bool]] = (
            deque()
        )  # outcomes that signal handlers reported meanwhile
        self._generation = 0  # outcomes of calls of an earlier generation no longer count
        self._slots: deque[list[float]] = deque()  # [start, calls, failures] each
        self._not_sent = 0
        self._opened = 0  # times in a row
        self._open_until: float | None = None
        self._probing = 0
        self._probe_successes = 0
        forkable(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} {self.state}>"

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half-open"``."""
        until = self._open_until
        if until is None:
            return "closed"
        return "open" if self._clock.monotonic() < until else "half-open"

    def acquire(self) -> Admission:
        """Return the permission to make a call. You must return it with :meth:`report`.

        Raises:
            CircuitOpenError: The breaker is open; ``retry_after`` tells for how long.
        """
        with self._lock:
            if self._open_until is None:
                return Admission(self._generation, probe=False)
            left = self._open_until - self._clock.monotonic()
            if left <= 0 and self._probing < self._policy.probes:
                self._probing += 1
                return Admission(self._generation, probe=True)
        wait = max(left, 0.05)
        raise e.CircuitOpenError(
            f"not tried: {self._name or 'the service'} failed too often lately; next look in {wait:.1f} s",
            retry_after=wait,
            sent=False,
        )

    def report(self, permit: Admission, outcome: bool | None, *, not_sent: bool = False) -> None:
        """Return a permission with the outcome of its call.

        Args:
            permit: The permission from :meth:`acquire`.
            outcome: ``True`` for success, ``False`` for failure, ``None`` if the call showed nothing.
            not_sent: Whether the failed call could not be sent at all.
        """
        if self._inside and owns_lock(self._lock):
            self._late.append((permit, outcome, not_sent))
            return
        with self._lock:
            self._inside = True
            try:
                self._note(permit, outcome, not_sent)
            finally:
                while self._late:
                    self._note(*self._late.popleft())
                self._inside = False

    def _note(self, permit: Admission, outcome: bool | None, not_sent: bool) -> None:
        if permit.generation != self._generation:
            return
        if permit.probe:
            self._probed(outcome)
        elif outcome is not None:
            self._count(outcome, not_sent=not_sent)

    def _probed(self, outcome: bool | None) -> None:
        self._probing -= 1
        if outcome is False:
            self._open()
        elif outcome:
            self._probe_successes += 1
            if self._probe_successes >= self._policy.successes:
                self._generation += 1
                self._open_until = None
                self._opened = 0
                self._slots.clear()
                self._not_sent = 0

    def _count(self, outcome: bool, *, not_sent: bool) -> None:
        policy, now = self._policy, self._clock.monotonic()
        width = policy.window / self._SLOTS
        if not self._slots or now - self._slots[-1][0] >= width:
            self._slots.append([now, 0, 0])
        while now - self._slots[0][0] > policy.window:
            self._slots.popleft()
        self._slots[-1][1] += 1
        if outcome:
            self._not_sent = 0
            return
        self._slots[-1][2] += 1
        self._not_sent = self._not_sent + 1 if not_sent else 0
        calls = sum(slot[1] for slot in self._slots)
        failures = sum(slot[2] for slot in self._slots)
        if self._not_sent >= policy.not_sent_in_a_row or (
            calls >= policy.min_calls and failures >= policy.failure_ratio * calls
        ):
            self._open()

    def _open(self) -> None:
        policy = self._policy
        seconds = min(policy.max_open, policy.open_for * 2.0 ** min(self._opened, 30))
        self._opened += 1
        self._generation += 1
        self._open_until = self._clock.monotonic() + seconds * (1 + policy.jitter * (2 * self._rng() - 1))
        self._probing = self._probe_successes = 0
        self._slots.clear()
        self._not_sent = 0

    def _after_fork_in_child(self) -> None:
        """Replace the lock, and forget the parent's probes under way. The state of the breaker stays: it holds for the child, too."""
        self._lock = threading.RLock()
        self._inside = False
        self._late = deque()
        self._probing = 0
