"""The calls of a provider that are under way, the work that finalizers leave behind, and the end of the interpreter."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Protocol

from groq_provider._sync import forkable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from groq_provider.transport.scope import CancelScope

    class _Stream(Protocol):
        """A stream, as far as the registry needs it; named here, so that no import leads back to it."""

        def disown(self) -> None: ...

        def settle_at_exit(self, readers: Collection[int]) -> None: ...


__all__ = ["CallRegistry"]


class CallRegistry:
    """Knows the calls of one provider that are under way, so that closing the provider can end them.

    Thread safety: any number of threads. Single operations on sets and deques need no lock.

    Attributes:
        closed: Whether the provider was closed; a call that begins after that is cancelled at once.
    """

    def __init__(self) -> None:
        self.closed = False
        # References are weak: if an interrupt struck the end of a call, the call must not count for ever.
        self._scopes: set[weakref.ref[CancelScope]] = set()
        self._streams: set[weakref.ref[_Stream]] = set()
        self._pending_actions: deque[Callable[[], None]] = deque()
        _registries.add(weakref.ref(self, _registries.discard))
        forkable(self)

    def _after_fork_in_child(self) -> None:
        """Forget the calls under way: the parent ends and settles them."""
        self._scopes = set()
        self._pending_actions = deque()
        for reference in self._streams.copy():
            if (stream := reference()) is not None:
                stream.disown()
        self._streams = set()

    def __len__(self) -> int:
        """Return the number of calls under way, open streams included."""
        return len(self._scopes)

    def __bool__(self) -> bool:
        return True  # a registry without calls is still a registry

    def add(self, scope: CancelScope) -> None:
        """Count a call as under way, after doing the work that finalizers have left."""
        if self._pending_actions:
            self.run_pending()
        self._scopes.add(weakref.ref(scope, self._scopes.discard))
        if self.closed:
            scope.cancel()

    def discard(self, scope: CancelScope) -> None:
        """Count a call as over."""
        self._scopes.discard(weakref.ref(scope))

    def close(self) -> None:
        """Cancel the calls under way, and every call that begins later. Idempotent."""
        self.closed = True
        for reference in self._scopes.copy():
            if (scope := reference()) is not None:
                scope.cancel()
        self.run_pending()

    def run_with_next_call(self, action: Callable[[], None]) -> None:
        """Run *action* when the next call begins. For finalizers, which must not touch a lock."""
        self._pending_actions.append(action)

    def run_pending(self) -> None:
        """Do the work that finalizers have left."""
        while self._pending_actions:
            try:
                action = self._pending_actions.popleft()
            except IndexError:
                break  # another thread took the last one
            action()

    def add_stream(self, stream: _Stream) -> None:
        """Settle *stream* when the interpreter ends, if it is still open then."""
        self._streams.add(weakref.ref(stream, self._streams.discard))

    def settle_at_exit(self) -> None:
        """Settle and record the streams that are open when the interpreter ends; see ``ResponseStream.settle_at_exit()``."""
        readers = [thread.ident for thread in threading.enumerate() if thread is not threading.current_thread()]
        for reference in self._streams.copy():
            if (stream := reference()) is not None:
                stream.settle_at_exit([ident for ident in readers if ident is not None])
        self.run_pending()


_registries: set[weakref.ref[CallRegistry]] = set()


@atexit.register
def _settle_all() -> None:
    for reference in _registries.copy():
        if (registry := reference()) is not None:
            registry.settle_at_exit()
