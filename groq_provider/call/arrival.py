"""When the parts of a streamed answer arrived, as far as a reader can tell that came late for some of them.

A stream is read by the caller, who may be busy with something else while parts of the answer arrive. So the instant of a read is not the
instant of the arrival, but only the latest it can have been. :class:`ReadTimes` notes both ends of that uncertainty, and
:class:`Arrival` says what follows from them: a figure with too large an uncertainty is no figure.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LATE", "LATE_AT_MOST", "LEAST_SPAN", "Arrival", "ReadTimes"]

#: The share of a time span by which a late reader may distort it; for the time to the first token, also a number of seconds.
LATE, LATE_AT_MOST = 0.1, 0.02
#: A shorter span from the first token to the end measures nothing: the whole answer came in one piece.
LEAST_SPAN = 0.001


class Arrival(NamedTuple):
    """When the parts of a streamed answer were read, and for how long at most they may have waited for the reader."""

    head: float
    first: float | None = None
    """The first token."""
    first_late: float = 0.0
    last: float = 0.0
    """The end."""
    last_late: float = 0.0

    @property
    def generating(self) -> float | None:
        """Seconds from the first token to the end; ``None`` if the reader came too late to tell."""
        if self.first is None:
            return None
        span = self.last - self.first
        return span if span >= LEAST_SPAN and self.first_late + self.last_late <= LATE * span else None


class ReadTimes:
    """Notes the instants of the reads of one answer.

    Attributes:
        began_at: When the reader came for the newest read.
        ended_at: When that read returned.
        first_token_at: When the read that brought the first token returned.
    """

    __slots__ = ("_first_token_late", "_head_at", "_nothing_waited_at", "began_at", "ended_at", "first_token_at")

    def __init__(self, now: float) -> None:
        self._head_at = self.began_at = self.ended_at = now
        #: Up to this instant everything that had arrived was read. Later parts may have arrived before the reader came.
        self._nothing_waited_at = now
        self.first_token_at: float | None = None
        self._first_token_late = 0.0

    def note_read(self, now: float) -> None:
        """Note that the read that began at :attr:`began_at` has returned."""
        began = self.began_at
        # A read that waited shows that nothing was there before. One that did not is only slow.
        if now - began >= (began - self._nothing_waited_at) / 10:
            self._nothing_waited_at = now
        self.began_at = self.ended_at = now

    def note_silence(self, now: float) -> None:
        """Note that nothing has arrived until now."""
        self._nothing_waited_at = self.began_at = self.ended_at = now

    def note_first_token(self) -> None:
        """Note that the newest read brought the first token."""
        self.first_token_at = self.ended_at
        self._first_token_late = self.ended_at - self._nothing_waited_at

    def arrival(self) -> Arrival:
        """Return the instants noted so far."""
        end = self.ended_at
        return Arrival(self._head_at, self.first_token_at, self._first_token_late, end, end - self._nothing_waited_at)
