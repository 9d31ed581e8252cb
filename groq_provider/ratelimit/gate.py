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
_FIRST, _LONGEST = SECOND, 8 * SECOND

#: The longest and the shortest time between calls at a learned pace; with less, or after so long without anybody waiting for it, the
#: gate is open.
_LONGEST_INTERVAL, _SHORTEST_INTERVAL, _UNUSED = 60 * SECOND, SECOND // 1000, 60 * SECOND
#: By how much an answer makes the pace quicker: at first; at least; and by how much that itself grows with each answer.
_QUICKER, _LEAST_QUICKER, _ACCELERATION = 0.25, 0.002, 1.02
#: What a refusal keeps of it where it follows on so many calls, as the pace is nearly known then; and on fewer.
_KEPT, _MANY, _KEPT_OF_FEW = 0.25, 4, 0.5
#: Answers at a measured pace before it becomes quicker.
_HOLD = 4
#: How much slower than the server's own pace: what its figures leave out, and what is on the way.
_MARGIN = 1.02


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
        "_hold",
        "_interval",
        "_left",
        "_named",
        "_pause",
        "_probing",
        "_quicker",
        "_sent",
        "_used",
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
        self._sent = 0  # the newest request that was out when the gate closed; answers to those tell nothing
        self._pause = _FIRST
        self._interval = 0  # nanoseconds between calls at the pace that was learned; 0 for none
        self._quicker = _QUICKER
        self._hold = 0  # answers until it may become quicker
        self._named = 0  # the instant at which, by the newest refusal, there is room for one
        self._left = 0  # when the newest call left
        self._used = False  # whether the newest call waited for the pace
        self._probing = False  # whether no answer came since the gate closed

    def close(
        self,
        now: int,
        pause: int | None,
        *,
        sent: int,
        scope: str | None,
        limit_name: str | None,
        limit: int | None,
        refused: int | None = None,
        spacing: int = SECOND,
    ) -> None:
        """Let nobody out for *pause* nanoseconds; ``None``: a second, then two, up to eight.

        Several refusals of one burst close it once, up to the latest instant named.

        Args:
            now: Nanoseconds of the caller's clock.
            pause: What the service asks for.
            sent: The newest request that is out.
            scope: Period of the limit, if known.
            limit_name: Its name, if known.
            limit: Its size, if known.
            refused: The request refused, if nothing explains why: the pace is learned from it.
            spacing: Nanoseconds between calls to begin with then.
        """
        if refused is not None:
            self._learn(refused, now + (pause or 0), spacing)
        if pause is None:
            pause = self._pause
            self._pause = min(2 * pause, _LONGEST)
        if not self.active or now + pause >= self.opens_at:
            self.opens_at = now + pause
            self.scope, self.limit_name, self.limit = scope, limit_name, limit
        self.active = True
        self._probing = True
        self._sent = sent

    def _learn(self, refused: int, room_at: int, spacing: int) -> None:
        """Learn the pace from the refusal of a request and the instant at which, by its words, there is room."""
        if not self._interval:
            self._interval, self._quicker, self._hold = spacing, _QUICKER, 0
        elif refused > self._sent:  # else it left before the gate closed last: one burst tells one thing
            let_in = refused - self._sent - 1
            if let_in:  # else a probe found no room, which tells nothing of the pace
                # What was refused was too quick, whatever the figures say.
                measured = max((room_at - self._named) / let_in, self._interval)
                self._interval = min(int(measured * _MARGIN), _LONGEST_INTERVAL)
                self._quicker = max(self._quicker * (_KEPT if let_in >= _MANY else _KEPT_OF_FEW), _LEAST_QUICKER)
                self._hold = _HOLD
        else:
            room_at = max(room_at, self._named)
        self._named = room_at

    @property
    def closed_until(self) -> int:
        """When the first may leave again after a refusal; 0 once an answer has come, whatever the pace is."""
        return self.opens_at if self._probing else 0

    def passed(self, now: int, spacing: int) -> None:
        """Note that somebody left: the probe. The next one may follow when its answer is there, or after *spacing*.

        At a learned pace the next one follows at that, once an answer has come.
        """
        if not self.active:
            return
        if self._interval:
            late = now - self.opens_at
            if late > _UNUSED and not self._probing:
                self._open()
                return
            self._used = self._probing or late < self._interval
            spacing = max(spacing, self._interval) if self._probing else self._interval
        self._left = now
        self.opens_at = now + spacing
        self.scope = self.limit_name = self.limit = None

    def answered(self, sequence: int) -> None:
        """Note an answer that was no refusal.

        If that request left after the gate had closed: open for all, or go on at the learned pace, and a little quicker.
        """
        if sequence <= self._sent:
            return
        self._pause = _FIRST
        if not self.active:
            return
        if self._probing:
            self._probing = False
            self.opens_at = self._left + self._interval
        if self._interval and self._used:
            if self._hold:
                self._hold -= 1
            else:
                # Not more than about twofold a second: what is on the way then is too much otherwise.
                self._interval = int(self._interval / (1 + min(self._quicker, self._interval / SECOND)))
                self._quicker = min(self._quicker * _ACCELERATION, _QUICKER)
        if self._interval < _SHORTEST_INTERVAL:
            self._open()

    def _open(self) -> None:
        self.active = self._probing = False
        self.opens_at = self._interval = 0
        self.scope = self.limit_name = self.limit = None
