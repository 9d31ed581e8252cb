"""State why a call gets no reservation: plain figures, found under the lock and made into an error outside it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from groq_provider.errors import RateLimitedError, RateLimitTimeoutError, RequestTooLargeError
from groq_provider.ratelimit.bucket import SECOND

if TYPE_CHECKING:
    from groq_provider.clock import Clock
    from groq_provider.errors import GroqProviderError
    from groq_provider.ratelimit.bucket import Bucket

__all__ = ["Refusal", "TooLarge", "TooLate", "TooLong"]


class TooLarge(NamedTuple):
    """The request is larger than a whole limit."""

    bucket: Bucket
    limit: int
    needed_units: int

    def error(self, model: str, _clock: Clock) -> GroqProviderError:
        """Return the error to raise."""
        dimension = self.bucket.dimension
        unit = dimension.unit
        return RequestTooLargeError(
            f"the request can never fit: it needs {self.needed_units:,} {unit}, the limit is {self.limit:,} {dimension.words} for "
            f"model {model!r}; lower max_completion_tokens or shorten the prompt",
            model=model,
            sent=False,
        )


class TooLate(NamedTuple):
    """The turn would come after the deadline."""

    wait: int
    remaining_time: int

    def error(self, model: str, clock: Clock) -> GroqProviderError:
        """Return the error to raise."""
        wait = self.wait / SECOND
        return RateLimitTimeoutError(
            f"rate limited: the next request to model {model!r} may go out in {wait:.3f} s and the call allows "
            f"{max(self.remaining_time, 0) / SECOND:.3f} s; nothing was sent",
            model=model,
            retry_after=wait,
            retry_at=clock.now() + timedelta(seconds=wait),
            sent=False,
        )


class TooLong(NamedTuple):
    """The wait would be longer than the caller accepts, mostly for a limit per hour or day."""

    wait: int
    scope: str | None
    limit_name: str | None
    limit: int | None

    def error(self, model: str, clock: Clock) -> GroqProviderError:
        """Return the error to raise."""
        wait = self.wait / SECOND
        if self.limit_name is None and self.scope is None:
            limit_words = "limit"
        else:
            limit_words = f"limit per {self.scope}" if self.limit_name is None else f"limit {self.limit_name}"
        limit_size = "" if self.limit is None else f" of {self.limit:,}"
        return RateLimitedError(
            f"rate limited: the {limit_words}{limit_size} for model {model!r} is used up for {wait:,.0f} s more; nothing was sent",
            scope=self.scope,
            limit_name=self.limit_name,
            limit=self.limit,
            model=model,
            retry_after=wait,
            retry_at=clock.now() + timedelta(seconds=wait),
            sent=False,
        )


Refusal = TooLarge | TooLate | TooLong
