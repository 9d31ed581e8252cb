"""Hold a model's calls back after a refusal (429), and pace them until an answer shows that the service accepts calls again.

A refusal that names no limit, as other servers send them, leaves only its ``retry-after`` to learn from. That is enough: at the
instant it names, one more request has room. Between two such instants the server admits as many requests as its limit allows,
whether it counts by a bucket or by a window. So the pace to keep is the time between the instants, divided by the admitted calls.

Not thread-safe by itself: the lock of the :class:`~groq_provider.ratelimit.model.ModelLimiter` guards it.
"""

from __future__ import annotations

from groq_provider.ratelimit.bucket import SECOND

__all__ = ["ThrottleGate"]

#: How long the gate stays closed if the service does not say; each such refusal in a row doubles the pause.
_FIRST_PAUSE, _LONGEST_PAUSE = SECOND, 8 * SECOND

#: The longest and the shortest interval of a learned pace. A shorter interval opens the gate, and so does an interval in which no
#: caller needed the pace for the third figure.
_LONGEST_INTERVAL, _SHORTEST_INTERVAL, _IDLE_LIMIT = 60 * SECOND, SECOND // 1000, 60 * SECOND
#: How much an answer speeds the pace up: at first, at least, and the growth of that factor with each answer.
_FIRST_SPEEDUP, _LEAST_SPEEDUP, _SPEEDUP_GROWTH = 0.25, 0.002, 1.02
#: The part of the speedup that a refusal keeps: after this many admitted calls, since the pace is nearly known then; after fewer.
_SPEEDUP_KEPT, _MANY_CALLS, _SPEEDUP_KEPT_OF_FEW = 0.25, 4, 0.5
#: Answers at a measured pace before it speeds up again.
_HELD_ANSWERS = 4
#: How much slower than the server's own pace we go, for rounding in its figures and for calls under way.
_PACE_MARGIN = 1.02


class ThrottleGate:
    """Holds all callers back after a refusal, then sends one call as a probe.

    If the refusal named its limit, the probe's answer opens the gate for all: the buckets know the limit. Otherwise callers follow one
    by one, at the pace learned from such refusals, and each answer speeds it up a little.

    Attributes:
        active: Whether callers must respect the gate at all.
        opens_at: When the next call may be sent, in nanoseconds.
        scope: Period of the limit that closed it, if known.
        limit_name: The name of that limit, if known.
        limit: The size of that limit, if known.

    .. versionadded:: 0.1.0
    """

    __slots__ = (
        "_answers_to_hold",
        "_awaiting_probe",
        "_closed_sequence",
        "_last_sent_at",
        "_next_pause",
        "_pace_interval",
        "_pace_used",
        "_room_at",
        "_speedup",
        "active",
        "limit",
        "limit_name",
        "opens_at",
        "scope",
    )

    def __init__(self) -> None:
        self.active = False
        self.opens_at = 0
        self.scope: str | None = None
        self.limit_name: str | None = None
        self.limit: int | None = None
        self._closed_sequence = 0  # newest request in flight when the gate closed; answers up to it tell nothing
        self._next_pause = _FIRST_PAUSE
        self._pace_interval = 0  # nanoseconds between calls at the learned pace; 0: none
        self._speedup = _FIRST_SPEEDUP
        self._answers_to_hold = 0  # answers until the pace may speed up
        self._room_at = 0  # instant from which, by the newest refusal, one request has room
        self._last_sent_at = 0
        self._pace_used = False  # whether the newest call waited for the pace
        self._awaiting_probe = False  # whether no answer came since the gate closed

    def close(
        self,
        now: int,
        pause: int | None,
        *,
        newest_sequence: int,
        scope: str | None,
        limit_name: str | None,
        limit: int | None,
        refused_sequence: int | None = None,
        spacing: int = SECOND,
    ) -> None:
        """Hold all callers back for *pause* nanoseconds; ``None``: one second, then two, up to eight.

        Several refusals of one burst close the gate once, until the latest instant they name.

        Args:
            now: Nanoseconds of the caller's clock.
            pause: Nanoseconds that the service asks for.
            newest_sequence: The newest request in flight.
            scope: Period of the limit, if known.
            limit_name: Its name, if known.
            limit: Its size, if known.
            refused_sequence: The refused request, if the refusal explains nothing: the pace is learned from it.
            spacing: Nanoseconds between calls to start that pace with.
        """
        if refused_sequence is not None:
            self._learn_pace(refused_sequence, now + (pause or 0), spacing)
        if pause is None:
            pause = self._next_pause
            self._next_pause = min(2 * pause, _LONGEST_PAUSE)
        if not self.active or now + pause >= self.opens_at:
            self.opens_at = now + pause
            self.scope, self.limit_name, self.limit = scope, limit_name, limit
        self.active = True
        self._awaiting_probe = True
        self._closed_sequence = newest_sequence

    def _learn_pace(self, refused_sequence: int, room_at: int, spacing: int) -> None:
        """Learn the pace from a refused request and from the instant at which, by the refusal, there is room."""
        if not self._pace_interval:
            self._pace_interval, self._speedup, self._answers_to_hold = spacing, _FIRST_SPEEDUP, 0
        elif refused_sequence > self._closed_sequence:
            admitted_calls = refused_sequence - self._closed_sequence - 1
            if admitted_calls:  # a refused probe tells nothing about the pace
                # The pace that led to a refusal was too fast, whatever the figures say.
                measured_interval = max((room_at - self._room_at) / admitted_calls, self._pace_interval)
                self._pace_interval = min(int(measured_interval * _PACE_MARGIN), _LONGEST_INTERVAL)
                self._speedup = max(
                    self._speedup * (_SPEEDUP_KEPT if admitted_calls >= _MANY_CALLS else _SPEEDUP_KEPT_OF_FEW),
                    _LEAST_SPEEDUP,
                )
                self._answers_to_hold = _HELD_ANSWERS
        else:  # sent before the gate closed: the refusals of one burst count once
            room_at = max(room_at, self._room_at)
        self._room_at = room_at

    @property
    def closed_until(self) -> int:
        """When the probe may be sent after a refusal; 0 once an answer has come, at any pace."""
        return self.opens_at if self._awaiting_probe else 0

    def note_sent(self, now: int, spacing: int) -> None:
        """Note that a call was sent. The next may follow after *spacing*, or earlier if the answer comes.

        At a learned pace the next call follows at that pace once an answer has come.
        """
        if not self.active:
            return
        if self._pace_interval:
            idle_time = now - self.opens_at
            if idle_time > _IDLE_LIMIT and not self._awaiting_probe:
                self._open()
                return
            self._pace_used = self._awaiting_probe or idle_time < self._pace_interval
            spacing = max(spacing, self._pace_interval) if self._awaiting_probe else self._pace_interval
        self._last_sent_at = now
        self.opens_at = now + spacing
        self.scope = self.limit_name = self.limit = None

    def note_answer(self, sequence: int) -> None:
        """Note an answer that was no refusal.

        If its request was sent after the gate closed, open the gate; at a learned pace, keep it and speed it up a little.
        """
        if sequence <= self._closed_sequence:
            return
        self._next_pause = _FIRST_PAUSE
        if not self.active:
            return
        if self._awaiting_probe:
            self._awaiting_probe = False
            self.opens_at = self._last_sent_at + self._pace_interval
        if self._pace_interval and self._pace_used:
            if self._answers_to_hold:
                self._answers_to_hold -= 1
            else:
                # At most about twice as fast within a second: more would flood the server before the next refusal arrives.
                self._pace_interval = int(self._pace_interval / (1 + min(self._speedup, self._pace_interval / SECOND)))
                self._speedup = min(self._speedup * _SPEEDUP_GROWTH, _FIRST_SPEEDUP)
        if self._pace_interval < _SHORTEST_INTERVAL:
            self._open()

    def _open(self) -> None:
        self.active = self._awaiting_probe = False
        self.opens_at = self._pace_interval = 0
        self.scope = self.limit_name = self.limit = None
