"""The replies that a test has scripted, first in first out."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from groq_provider.testing.replies import RecordedRequest, Reply

__all__ = ["CallbackError", "Script"]


class CallbackError(Exception):
    """A callback of the test failed; its own error is the cause."""


@attrs.define
class _Entry:
    """A scripted reply and how many more requests it answers; ``None`` means all."""

    reply: Reply
    remaining_times: int | None


class Script:
    """The queue of scripted replies; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the queue and the counts in it
        self._queue: deque[_Entry] = deque()

    def add(self, reply: Reply) -> None:
        """Append *reply*."""
        with self._lock:
            self._queue.append(_Entry(reply, reply.times))

    def clear(self) -> None:
        """Drop every scripted reply."""
        with self._lock:
            self._queue.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._queue)

    def take(self, request: RecordedRequest, *, takes_completions: bool, admitted: bool) -> Reply | None:
        """Return the first reply that fits *request*, and count it as used.

        The emulator asks twice: on arrival, and again after checks and limits, because a scripted completion must wait for both.

        Args:
            request: Shown to the ``match`` callbacks of the replies, which must not call the emulator.
            takes_completions: Whether the request's route answers with completions.
            admitted: False on arrival; true after checks and limits, when only completions are returned.
        """
        with self._lock:
            for entry in self._queue:
                reply = entry.reply
                if (reply.is_chat and not takes_completions) or not _matches(reply, request):
                    continue
                if reply.is_chat != admitted:
                    if admitted:
                        continue
                    return None
                if entry.remaining_times is not None:
                    entry.remaining_times -= 1
                    if entry.remaining_times <= 0:
                        self._queue.remove(entry)
                return reply
        return None


def _matches(reply: Reply, request: RecordedRequest) -> bool:
    try:
        return reply.match is None or reply.match(request)
    except Exception as error:
        raise CallbackError from error
