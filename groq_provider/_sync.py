"""What makes the locks of this package safe against interrupts, signal handlers, finalizers and forks.

The one place that explains it.

**Interrupts.** Ctrl-C, or a signal handler that raises, may strike the main thread between any two steps of Python
code. Afterwards nothing may hang, no lock may stay locked, no call may get the answer of another one, and the provider
must work on. A connection or a place in the limits that the interrupted step held may come back late, by its finalizer.

- Take locks by ``with``, or try them by :func:`lock_attempts`. ``if lock.acquire(blocking=False):`` leaves a gap before
  its ``try``.
- Between two statements that belong together, make no call of Python code: the interpreter looks for signals when a
  call begins.
- A resource belongs to its new owner from the statement that grants it, so that the owner's finalizer returns it after
  any interrupt.

**Signal handlers.** A handler runs in the main thread, in the middle of any function, and may call any public method.
The code that it interrupted cannot go on before the handler returns, so a handler must never wait for it:

- A lock that is waited for is an ``RLock``, and the state that it guards must be right at each step. Where it cannot
  be, the section says so, as in :class:`~groq_provider.ratelimit.model.ModelLimiter`; the handler then posts its
  change, and the section applies it at its end.
- A plain ``Lock`` belongs to a single waiter, or is tried and never waited for.
- In a queue, the call of a handler goes before the call that it interrupted.
- Where :func:`in_signal_handler` says so, use nothing that the interrupted call needs: over HTTP/2 the handler's call
  goes out on a connection of its own; a run of ``generate_many`` works on its items in the handler's thread. If only
  the interrupted call could finish the work (a stream on its connection, a run over threads), refuse at once instead of
  waiting.

Not covered: a handler that strikes while the first call of a kind imports its modules may see an ``ImportError``.
``warm_up()`` loads them.

**Finalizers.** The garbage collector may run ``__del__`` in any thread, inside any section, so a finalizer can wait for
no lock. It posts its change to a deque (``append`` is atomic), and then tries the lock. If the lock is held, its
holder drains the deque after releasing.

**Forks.** The child has copies of locks that threads of the parent may have held, and shares the parent's sockets. An
object that owns a lock or a socket registers by :func:`forkable`; its ``_after_fork_in_child()`` runs first in the
child. It must replace the locks without taking them, and close its descriptors without sending anything. Nothing is
done in the parent.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from threading import get_ident, main_thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from types import CodeType, FrameType

__all__ = ["forkable", "in_signal_handler", "lock_attempts", "owns_lock", "wake"]


class _Forkable(Protocol):
    def _after_fork_in_child(self) -> None: ...


T = TypeVar("T", bound=_Forkable)

_forkables: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def forkable(owner: T) -> T:
    """Have ``owner._after_fork_in_child()`` called in every child forked while *owner* lives; return *owner*."""
    _forkables.add(owner)
    return owner


def _after_fork_in_child() -> None:
    for owner in list(_forkables):
        owner._after_fork_in_child()  # noqa: SLF001 - the method is private to the package, not to its class


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_after_fork_in_child)


def lock_attempts(lock: threading.Lock | threading.RLock) -> Iterator[bool]:
    """Try a lock at each step of a loop, which ends when another thread holds it. Never waits.

    ::

        for _ in lock_attempts(lock):
            try:
                ...
            finally:
                lock.release()

    After ``if lock.acquire(blocking=False):`` an interrupt may strike before the ``try``, and the lock would stay
    locked. The interpreter looks for signals when a call returns, but not between a step of a loop with an iterator that is
    written in C and the ``try``.
    """
    return iter(functools.partial(lock.acquire, False), False)


def wake(lock: threading.Lock) -> None:
    """Wake the thread that waits for its own *lock* to be released. Idempotent; never waits."""
    try:
        lock.release()
    except RuntimeError:
        pass  # awake already, by a cancel or a grant


def owns_lock(lock: Any) -> bool:
    """Say whether this thread holds an ``RLock``.

    If it does, this is a signal handler that interrupted the locked section.
    """
    return bool(lock._is_owned())  # noqa: SLF001 - threading.Condition calls it, too


def in_signal_handler(inside: str, but: frozenset[CodeType] = frozenset(), beside: tuple[str, ...] = ()) -> bool:
    """Say whether this is a signal handler that interrupted one of our modules. Takes some microseconds.

    It reads the stack, where the frames of the handler lie between those of our modules. So there is no state of our
    own that an interrupt could leave wrong.

    Args:
        inside: Prefix of the names of the modules in question.
        but: Functions in these modules that call code of the caller's. They and their callers hold nothing meanwhile.
        beside: Prefixes of the names of modules that never hold anything.
    """
    if get_ident() != main_thread().ident:
        return False
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - there is no other way to see the stack
    above = True
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if not name.startswith(inside):
            above = False
        elif not above and frame.f_code in but and frame.f_back is not None:
            frame = frame.f_back
        elif not above and not name.startswith(beside):
            return True
        frame = frame.f_back
    return False
