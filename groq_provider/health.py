"""Is the service there, and does it answer as it should?"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from groq_provider.errors import ConfigurationError, GroqProviderError, ResponseDecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.clock import Clock
    from groq_provider.types.status import ProviderHealth

__all__ = ["HealthMonitor"]

#: Seconds a bad check keeps ``is_available()`` at False.
BAD_NEWS_LASTS = 30.0


class HealthMonitor:
    """Checks and remembers, good news and bad.

    Thread safety: every method may be called from any thread; the lock guards the remembered state and is not held during a check.

    Args:
        clock: Time.
        model_count: Count of the catalogue, for when the service does not say.
        probes: By name: a check that returns the number of models it saw, or ``None``.
    """

    def __init__(
        self, clock: Clock, model_count: Callable[[], int], probes: dict[str, Callable[[float], int | None]]
    ) -> None:
        self._clock = clock
        self._model_count = model_count
        self._probes = probes
        self._lock = threading.RLock()  # reentrant: _signals
        self._last: ProviderHealth | None = None
        self._checked_at: float | None = None

    @property
    def last(self) -> ProviderHealth:
        """The newest outcome."""
        return self._last or self._nothing_yet()

    @staticmethod
    def _nothing_yet() -> ProviderHealth:
        from groq_provider.types.status import ProviderHealth  # for whoever looks

        return ProviderHealth()

    def suspect(self) -> bool:
        """Say whether the newest check was bad and is not long ago."""
        with self._lock:
            if self._last is None or self._last.status != "unhealthy" or self._checked_at is None:
                return False
            return self._clock.monotonic() - self._checked_at < BAD_NEWS_LASTS

    def check(self, probe: str, *, timeout: float, raise_on_error: bool) -> ProviderHealth:
        """Run a probe and return its outcome.

        Raises:
            ConfigurationError: There is no such probe.
            GroqProviderError: With *raise_on_error*, what went wrong.
        """
        from groq_provider.types.status import ProviderHealth  # as above

        run = self._probes.get(probe)
        if run is None:
            raise ConfigurationError(f"probe = {probe!r}: must be one of {', '.join(sorted(self._probes))}")
        started = self._clock.monotonic()
        error: GroqProviderError | None = None
        count: int | None = None
        try:
            count = run(timeout)
        except GroqProviderError as caught:
            error = caught
        latency = self._clock.monotonic() - started
        with self._lock:
            # The service is there, and its list cannot be read. An answer that cannot be read is of no use to anybody.
            odd = isinstance(error, ResponseDecodeError) and probe == "models"
            status = "healthy" if error is None else "degraded" if odd else "unhealthy"
            self._last = ProviderHealth(
                status=status,
                last_check=self._clock.now(),
                latency=latency,
                model_count=self._model_count() if count is None else count,
                error_count=0 if error is None else self.last.error_count + (status == "unhealthy"),
                message="" if error is None else str(error),
                error=error,
            )
            self._checked_at = self._clock.monotonic()
            outcome = self.last
        if error is not None and raise_on_error:
            raise error
        return outcome
