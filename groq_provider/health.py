"""Check whether the service answers, and remember the outcome."""

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

#: How long ``is_available()`` stays False after a failed check, in seconds.
SUSPECT_SECONDS = 30.0


class HealthMonitor:
    """Runs health checks and remembers the newest outcome.

    Thread safety: any thread may call every method. The lock guards the remembered outcome and is not held during a check.

    Args:
        clock: The clock.
        model_count: Returns the catalogue's number of models, for checks that do not read it from the service.
        probes: The checks by name. Each is a pair of functions: the first sends a question, given a time limit and a model or ``None``;
            the second reads the answer and returns the number of models in it, or ``None``.
        last_answer_at: Returns the time of the service's last answer to a call, on the same clock; ``None`` before the first.
    """

    def __init__(
        self,
        clock: Clock,
        model_count: Callable[[], int],
        probes: Mapping[str, Probe],
        last_answer_at: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._model_count = model_count
        self._probes = probes
        self._last_answer_at = last_answer_at
        self._lock = threading.RLock()
        self._last: ProviderHealth | None = None
        self._started_at = self._checked_at = 0.0

    @property
    def last(self) -> ProviderHealth:
        """The newest outcome."""
        return self._last or self._unknown_health()

    @staticmethod
    def _unknown_health() -> ProviderHealth:
        from groq_provider.types.status import ProviderHealth  # imported late: most programs never check

        return ProviderHealth()

    def is_suspect(self) -> bool:
        """Tell whether the newest check failed a short time ago and the service has not answered a call since."""
        with self._lock:
            if self._last is None or self._last.status != "unhealthy":
                return False
            answered = self._last_answer_at()
            if answered is not None and answered >= self._checked_at:
                return False
            return self._clock.monotonic() - self._checked_at < SUSPECT_SECONDS

    def check(self, probe: str, *, model: str | None = None, timeout: float, raise_on_error: bool) -> ProviderHealth:
        """Run a check and return its outcome.

        Raises:
            ConfigurationError: There is no check of this name.
            GroqProviderError: The check failed, and *raise_on_error* is true.
        """
        from groq_provider.types.status import ProviderHealth  # imported late, as above

        if probe not in self._probes:
            raise ConfigurationError(f"probe = {probe!r}: must be one of {', '.join(sorted(self._probes))}")
        ask, read = self._probes[probe]
        started = self._clock.monotonic()
        error: GroqProviderError | None = None
        count: int | None = None
        status = "unhealthy"
        try:
            answer = ask(timeout, model)
            # The service answered; an unreadable list of models does not mean that calls will fail.
            status = "degraded" if probe == "models" else status
            count = read(answer)
            status = "healthy"
        except RateLimitedError as caught:
            status, error = "degraded", caught  # the service works, but is busy
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
            if self._last is None or started >= self._started_at:  # a check that began earlier is older news
                self._last, self._started_at, self._checked_at = outcome, started, ended
        if error is not None and raise_on_error:
            raise error
        return outcome
