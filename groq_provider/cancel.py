"""Cancel calls from any thread."""

from __future__ import annotations

import threading
from operator import attrgetter
from typing import TYPE_CHECKING

from groq_provider._sync import forkable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CancelToken"]


class CancelToken:
    """Ends the calls that use it, wherever they wait.

    You may pass one token to many calls, one after the other or at the same time. A cancelled token stays cancelled: every later call
    with it fails at once with :class:`~groq_provider.RequestCancelledError`.

    Thread safety: you can call every method from any thread, and from a signal handler.

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
        # Guards _callbacks; never held while a callback runs. Reentrant, because a signal handler may call cancel() while its own thread
        # holds the lock; so state read before a statement may be stale after it.
        self._lock = threading.RLock()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._cancelled = False
        self._next_handle = 0
        if type(self) is CancelToken:  # a subclass belongs to one call, which does not outlive its process
            forkable(self)

    def _after_fork_in_child(self) -> None:
        """Replace the lock, which another thread may have held, and forget the parent's calls."""
        self._lock = threading.RLock()
        self._callbacks = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'cancelled' if self._cancelled else 'open'}, {len(self._callbacks)} calls>"

    if TYPE_CHECKING:

        @property
        def cancelled(self) -> bool:
            """Whether :meth:`cancel` has been called."""

    else:  # the getter is a C function, since every step of a call asks
        cancelled = property(attrgetter("_cancelled"), doc="Whether :meth:`cancel` has been called.")

    def cancel(self) -> None:
        """End every call that uses this token. Returns at once; further calls do nothing."""
        with self._lock:
            self._cancelled = True
            # Pop one by one: subscribe() may remove its own callback at the same time, without the lock.
            callbacks = [popped for handle in list(self._callbacks) if (popped := self._callbacks.pop(handle, None))]
        for callback in callbacks:
            callback()

    def subscribe(self, callback: Callable[[], None]) -> int:
        """Call *callback* once on cancel, in the cancelling thread; at once if the token is cancelled already.

        The callback must be short and must not raise: it should only wake a waiting thread.

        Returns:
            A handle for :meth:`unsubscribe`.
        """
        with self._lock:
            self._next_handle += 1
            handle = self._next_handle
            self._callbacks[handle] = callback
        # Check after registering: a concurrent cancel() either finds the callback or has set the flag before this line.
        if self._cancelled and self._callbacks.pop(handle, None) is not None:
            callback()
        return handle

    def unsubscribe(self, handle: int) -> None:
        """Forget a callback. Unknown handles are ignored."""
        with self._lock:
            self._callbacks.pop(handle, None)
