"""The gate of one model: closed by a 429 for everybody, opened for one first.

A refusal that does not say which limit it is about, as those of other servers, leaves only its ``retry-after`` to learn from. That is
enough: at the instant it names, one more request has room. From one such instant to the next, a server lets in as many as its limit
allows, whether that is a bucket or a window. So the calls in between, over the time in between, are the pace to keep.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

from groq_provider.ratelimit.bucket import SECOND

__all__ = ["ThrottleGate"]

#: How long the gate stays closed when the service does not say; doubles with every such refusal in a row.
_FIRST_PAUSE, _LONGEST_PAUSE = SECOND, 8 * SECOND

#: The longest and the shortest time between calls at a learned pace; with less, or after so long without anybody waiting for it, the
#: gate is open.
_LONGEST_INTERVAL, _SHORTEST_INTERVAL, _IDLE_LIMIT = 60 * SECOND, SECOND // 1000, 60 * SECOND
#: By how much an answer makes the pace quicker: at first; at least; and by how much that itself grows with each answer.
_FIRST_SPEEDUP, _LEAST_SPEEDUP, _SPEEDUP_GROWTH = 0.25, 0.002, 1.02
#: What a refusal keeps of it where it follows on so many calls, as the pace is nearly known then; and on fewer.
_SPEEDUP_KEPT, _MANY_CALLS, _SPEEDUP_KEPT_OF_FEW = 0.25, 4, 0.5
#: Answers at a measured pace before it becomes quicker.
_HELD_ANSWERS = 4
#: How much slower than the server's own pace: what its figures leave out, and what is on the way.
_PACE_MARGIN = 1.02


class ThrottleGate:
    """Holds everybody back after a refusal, then lets them out one by one until an answer shows that it works again.

    After a refusal that explains itself, all may go on then: the limits themselves are known. After another one they go on one by one,
    at the pace that such refusals have shown, and each answer makes it a little quicker.

    Attributes:
        active: Whether callers have to ask the gate at all.
        opens_at: When the next caller may leave, in nanoseconds.
        scope: Period of the limit that closed it, if known.
        limit_name: Its name, if known.
        limit: Its size, if known.

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
        self._closed_sequence = 0  # the newest request that was out when the gate closed; answers to those tell nothing
        self._next_pause = _FIRST_PAUSE
        self._pace_interval = 0  # nanoseconds between calls at the pace that was learned; 0 for none
        self._speedup = _FIRST_SPEEDUP
        self._answers_to_hold = 0  # answers until it may become quicker
        self._room_at = 0  # the instant at which, by the newest refusal, there is room for one
        self._last_sent_at = 0  # when the newest call left
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
        """Let nobody out for *pause* nanoseconds; ``None``: a second, then two, up to eight.

        Several refusals of one burst close it once, up to the latest instant named.

        Args:
            now: Nanoseconds of the caller's clock.
            pause: What the service asks for.
            newest_sequence: The newest request that is out.
            scope: Period of the limit, if known.
            limit_name: Its name, if known.
            limit: Its size, if known.
            refused_sequence: The request refused, if nothing explains why: the pace is learned from it.
            spacing: Nanoseconds between calls to begin with then.
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
        """Learn the pace from the refusal of a request and the instant at which, by its words, there is room."""
        if not self._pace_interval:
            self._pace_interval, self._speedup, self._answers_to_hold = spacing, _FIRST_SPEEDUP, 0
        elif (
            refused_sequence > self._closed_sequence
        ):  # else it left before the gate closed last: one burst tells one thing
            admitted_calls = refused_sequence - self._closed_sequence - 1
            if admitted_calls:  # else a probe found no room, which tells nothing of the pace
                # What was refused was too quick, whatever the figures say.
                measured_interval = max((room_at - self._room_at) / admitted_calls, self._pace_interval)
                self._pace_interval = min(int(measured_interval * _PACE_MARGIN), _LONGEST_INTERVAL)
                self._speedup = max(
                    self._speedup * (_SPEEDUP_KEPT if admitted_calls >= _MANY_CALLS else _SPEEDUP_KEPT_OF_FEW),
                    _LEAST_SPEEDUP,
                )
                self._answers_to_hold = _HELD_ANSWERS
        else:
            room_at = max(room_at, self._room_at)
        self._room_at = room_at

    @property
    def closed_until(self) -> int:
        """When the first may leave again after a refusal; 0 once an answer has come, whatever the pace is."""
        return self.opens_at if self._awaiting_probe else 0

    def note_sent(self, now: int, spacing: int) -> None:
        """Note that somebody left: the probe. The next one may follow when its answer is there, or after *spacing*.

        At a learned pace the next one follows at that, once an answer has come.
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

        If that request left after the gate had closed: open for all, or go on at the learned pace, and a little quicker.
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
                # Not more than about twofold a second: what is on the way then is too much otherwise.
                self._pace_interval = int(self._pace_interval / (1 + min(self._speedup, self._pace_interval / SECOND)))
                self._speedup = min(self._speedup * _SPEEDUP_GROWTH, _FIRST_SPEEDUP)
        if self._pace_interval < _SHORTEST_INTERVAL:
            self._open()

    def _open(self) -> None:
        self.active = self._awaiting_probe = False
        self.opens_at = self._pace_interval = 0
        self.scope = self.limit_name = self.limit = None
