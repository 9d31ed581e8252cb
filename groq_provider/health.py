"""Is the service there, and does it answer as it should?"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from groq_provider.errors import ConfigurationError, GroqProviderError, RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from groq_provider.clock import Clock
    from groq_provider.types.status import ProviderHealth

    Probe = tuple[Callable[[float, "str | None"], Any], Callable[[Any], "int | None"]]

__all__ = ["HealthMonitor"]

#: Seconds a bad check keeps ``is_available()`` at False.
BAD_NEWS_LASTS = 30.0


class HealthMonitor:
    """Checks and remembers, good news and bad.

    Thread safety: every method may be called from any thread; the lock guards the remembered state and is not held during a check.

    Args:
        clock: Time.
        model_count: Count of the catalogue, for when the service does not say.
        probes: By name: a question to the service, of its time limit and a model or ``None``, and a reading of the answer, which returns the
            number of models it saw or ``None``.
        answered_at: When the service answered a call last, on the same clock; ``None``: it has not yet.
    """

    def __init__(
        self,
        clock: Clock,
        model_count: Callable[[], int],
        probes: Mapping[str, Probe],
        answered_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._model_count = model_count
        self._probes = probes
        self._answered_at = answered_at
        self._lock = threading.RLock()
        self._last: ProviderHealth | None = None
        self._started_at = self._checked_at = 0.0

    @property
    def last(self) -> ProviderHealth:
        """The newest outcome."""
        return self._last or self._nothing_yet()

    @staticmethod
    def _nothing_yet() -> ProviderHealth:
        from groq_provider.types.status import ProviderHealth  # for whoever looks

        return ProviderHealth()

    def suspect(self) -> bool:
        """Say whether the newest check was bad, is not long ago, and no call has been answered since."""
        with self._lock:
            if self._last is None or self._last.status != "unhealthy":
                return False
            answered = self._answered_at()
            if answered is not None and answered >= self._checked_at:
                return False
            return self._clock.monotonic() - self._checked_at < BAD_NEWS_LASTS

    def check(self, probe: str, *, model: str | None = None, timeout: float, raise_on_error: bool) -> ProviderHealth:
        """Run a probe and return its outcome.

        Raises:
            ConfigurationError: There is no such probe.
            GroqProviderError: With *raise_on_error*, what went wrong.
        """
        from groq_provider.types.status import ProviderHealth  # as above

        if probe not in self._probes:
            raise ConfigurationError(f"probe = {probe!r}: must be one of {', '.join(sorted(self._probes))}")
        ask, read = self._probes[probe]
        started = self._clock.monotonic()
        error: GroqProviderError | None = None
        count: int | None = None
        status = "unhealthy"
        try:
            answer = ask(timeout, model)
            # It is there, and if only its list of models cannot be read, calls may go well.
            status = "degraded" if probe == "models" else status
            count = read(answer)
            status = "healthy"
        except RateLimitedError as caught:
            status, error = "degraded", caught  # it is well, and has enough to do
        except GroqProviderError as caught:
            error = caught
        ended = self._clock.monotonic()
        with self._lock:
            outcome = ProviderHealth(
                status=status,
                last_check=self._clock.now(),
                latency=ended - started,
                model_count=self._model_count() if count is None else count,
                error_count=0 if error is None else self.last.error_count + (status == "unhealthy"),
                message="" if error is None else str(error),
                error=error,
            )
            if self._last is None or started >= self._started_at:  # one that began before it tells of an earlier time
                self._last, self._started_at, self._checked_at = outcome, started, ended
        if error is not None and raise_on_error:
            raise error
        return outcome
