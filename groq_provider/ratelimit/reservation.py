"""Hold one attempt's place in the limits of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider.ratelimit.bucket import NO_COST
from groq_provider.ratelimit.cost import actual_cost

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol

    from typing_extensions import Self

    from groq_provider.errors import RateLimitedError
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.types.response import RateLimitInfo, Usage

    class _Owner(Protocol):
        """The limiter of a model, as far as its reservations need it; named here, so that no import leads back to it."""

        model: str

        def end_reservation(
            self, reservation: HeldReservation, actual: Cost | None, usage: Usage | None = None
        ) -> None: ...
        def feedback(
            self, sequence: int, info: RateLimitInfo | None, refusal_error: RateLimitedError | None
        ) -> None: ...
        def forget_collected(self, sequence: int) -> None: ...


__all__ = ["HeldReservation"]

_ONE_REQUEST: Cost = (1, 0, 0, 0)


class HeldReservation:
    """A reservation in the limits of one model, held by one attempt.

    Call exactly one of :meth:`settle`, :meth:`refund` and :meth:`keep`; only the first call counts. As a context manager the
    reservation is kept at the end if you called none of them. One that is garbage-collected open keeps its estimate too, and no longer
    counts as in flight.

    Thread safety: every method may be called from any thread, several at once.

    Attributes:
        wait: Seconds that the caller waited for it.
        arrival: The place in the queue; a retry passes it on to keep it.
        sequence: In which order reservations of this model were granted; 0 until then.
        closed: Whether one of the three was called.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("__weakref__", "_limiter", "arrival", "closed", "sequence", "wait")

    def __init__(self, limiter: _Owner) -> None:
        self._limiter = limiter
        self.wait = 0.0
        self.arrival = 0
        self.closed = False
        self.sequence = 0

    def __repr__(self) -> str:
        kind = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.sequence} of {self._limiter.model!r}, {kind}, waited {self.wait:.3f} s>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.keep()

    def __del__(self) -> None:
        # A finalizer may run while this very thread holds the limiter's lock, so it only posts the change: see _sync.
        if getattr(self, "sequence", 0) and not self.closed:  # unset if an interrupt struck in __init__
            self._limiter.forget_collected(self.sequence)

    def settle(self, usage: Usage) -> None:
        """Replace the estimate by the reported usage; using more than reserved leaves a debt.

        Cached tokens do not count, as in the service's own limits. A usage with the ``source`` ``"unknown"`` keeps the estimate.
        """
        self._limiter.end_reservation(self, None if usage.source == "unknown" else actual_cost(usage), usage)

    def refund(self, *, keep_request: bool = False) -> None:
        """Return the whole cost, as nothing was sent. With *keep_request* return only the tokens: the service refused the request."""
        self._limiter.end_reservation(self, _ONE_REQUEST if keep_request else NO_COST)

    def keep(self) -> None:
        """Keep the estimate: the actual usage is unknown."""
        self._limiter.end_reservation(self, None)

    def feedback(self, info: RateLimitInfo | None, limited: RateLimitedError | None = None) -> None:
        """Pass the answer's headers to the limiter, and the refusal if it was one. Does not settle.

        Args:
            info: The headers; ``None`` without any. Ignored if the headers of a later request were applied already.
            limited: The service's refusal. It closes the gate of the model for every caller.
        """
        self._limiter.feedback(self.sequence, info, limited)
