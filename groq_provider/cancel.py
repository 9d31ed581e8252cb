"""Cancelling calls from any thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from groq_provider._sync import forkable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CancelToken"]


class CancelToken:
    """A switch that ends the calls it was given to, wherever they wait.

    One token may serve many calls, one after the other or at once. Once cancelled it stays cancelled, and every later
    call given to it fails at once with :class:`~groq_provider.RequestCancelledError`.

    Thread safety: every method may be called from any thread.

    Example:
        >>> token = CancelToken()
        >>> token.cancelled
        False
        >>> token.cancel()
        >>> token.cancelled
        True

    .. versionadded:: 0.1.0
    """

    __slots__ = ("__weakref__", "_callbacks", "_cancelled", "_lock", "_next_handle")

    def __init__(self) -> None:
        # Reentrant: a signal handler may cancel while its own thread is in here. So nothing below trusts what it read before.
        self._lock = (
            threading.RLock()
        )  # guards _callbacks against a cancel() at the same time; never held over a callback
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._cancelled = False
        self._next_handle = 0
        if type(self) is CancelToken:  # those of single calls end with their process
            forkable(self)

    def _after_fork_in_child(self) -> None:
        """Another thread may have held the lock; the calls are the parent's."""
        self._lock = threading.RLock()
        self._callbacks = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'cancelled' if self._cancelled else 'open'}, {len(self._callbacks)} calls>"

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End every call that uses this token. Idempotent; returns at once."""
        with self._lock:
            self._cancelled = True
            # One by one: a subscriber that has just seen the cancel takes its own callback out, without the lock.
            callbacks = [found for handle in list(self._callbacks) if (found := self._callbacks.pop(handle, None))]
        for callback in callbacks:
            callback()

    def subscribe(self, callback: Callable[[], None]) -> int:
        """Have *callback* run once on cancel, in the cancelling thread; at once if that has happened already.

        The callback must be short and must not raise: it wakes somebody up, no more.

        Returns:
            A handle for :meth:`unsubscribe`.
        """
        with self._lock:
            self._next_handle += 1
            handle = self._next_handle
            self._callbacks[handle] = callback
        # Asked after, not before: whoever cancels in between finds the callback there, or has set this already.
        if self._cancelled and self._callbacks.pop(handle, None) is not None:
            callback()
        return handle

    def unsubscribe(self, handle: int) -> None:
        """Forget a callback. Unknown handles are ignored."""
        with self._lock:
            self._callbacks.pop(handle, None)
