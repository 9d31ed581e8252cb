"""What signal handlers ask of the locks here.

A handler runs in the main thread, between any two steps of whatever that thread is in, and may call any public method of this library. So
every lock that is taken by waiting is reentrant; and what it guards is right at each step, or says that it is not for the moment, as
:class:`~groq_provider.ratelimit.model.ModelLimiter` does, and the change that a handler wants is made when the section it struck ends. Locks
that are not reentrant belong to one waiter, or are tried and never waited for. And a handler's call goes before the one it interrupted,
which cannot go on before the handler returns.

What cannot be shared with the interrupted call is not: where :func:`struck` says that there is one, a call over HTTP/2 goes out on a connection of its
own, and a run of ``generate_many`` works on its items in the handler's thread. What exists already and needs the interrupted call to go on, such as a
stream on its connection or a run over threads, refuses to be waited for, at once.

Not covered: modules that the first call of a kind loads. A handler that strikes in the middle of one finds the half of it, and may see an
``ImportError``; ``warm_up()`` loads them before.
"""

from __future__ import annotations

import sys
from threading import get_ident, main_thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["held_here", "struck"]


def held_here(lock: Any) -> bool:
    """Say whether this thread holds an ``RLock``: then it is a signal handler that asks, in the middle of what the lock guards."""
    return bool(lock._is_owned())  # noqa: SLF001 - what threading.Condition asks


def struck(inside: str, but: frozenset[CodeType] = frozenset(), beside: tuple[str, ...] = ()) -> bool:
    """Say whether a signal handler asks whose thread is in the middle of some of our modules: those at the top of the stack are the handler's.

    Told from the stack, of which nothing has to be kept right, whatever strikes where. It takes some microseconds.

    Args:
        inside: What the names of the modules begin with.
        but: Functions among these that call what is the caller's, and hold nothing then, nor do those that call them.
        beside: What the names of modules begin with that hold nothing at all.
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
