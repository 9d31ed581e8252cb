"""The gate of one model: closed by a 429 for everybody, opened for one first.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

from .bucket import SECOND

__all__ = ["Gate"]

#: How long the gate stays closed when the service does not say; doubles with every such refusal in a row.
_FIRST, _LONGEST = SECOND, 8 * SECOND


class Gate:
    """Holds everybody back after a refusal, then lets them out one by one until an answer shows that it works again.

    Attributes:
        active: Whether callers have to ask the gate at all.
        opens_at: When the next caller may leave, in nanoseconds.
        scope: Period of the limit that closed it, if known.
        limit_name: Its name, if known.
        limit: Its size, if known.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_pause", "_sent", "active", "limit", "limit_name", "opens_at", "scope")

    def __init__(self) -> None:
        self.active = False
        self.opens_at = 0
        self.scope: str | None = None
        self.limit_name: str | None = None
        self.limit: int | None = None
        self._sent = 0  # the newest request that was out when the gate closed; answers to those tell nothing
        self._pause = _FIRST

    def close(
        self, now: int, pause: int | None, *, sent: int, scope: str | None, limit_name: str | None, limit: int | None
    ) -> None:
        """Let nobody out for *pause* nanoseconds; ``None``: a second, then two, up to eight.

        Several refusals of one burst close it once, up to the latest instant named.
        """
        if pause is None:
            pause = self._pause
            self._pause = min(2 * pause, _LONGEST)
        if not self.active or now + pause >= self.opens_at:
            self.opens_at = now + pause
            self.scope, self.limit_name, self.limit = scope, limit_name, limit
        self.active = True
        self._sent = sent

    def passed(self, now: int, spacing: int) -> None:
        """Note that somebody left: the probe. The next one may follow when its answer is there, or after *spacing*."""
        if self.active:
            self.opens_at = now + spacing
            self.scope = self.limit_name = self.limit = None

    def answered(self, sequence: int) -> None:
        """Note an answer that was no refusal; open for all if that request left after the gate had closed."""
        if self.active and sequence > self._sent:
            self.active = False
            self.opens_at = 0
            self.scope = self.limit_name = self.limit = None
        if sequence > self._sent:
            self._pause = _FIRST
