"""What signal handlers ask of the locks here.

A handler runs in the main thread, between any two steps of whatever that thread is in, and may call any public method of this library. So
every lock that is taken by waiting is reentrant; and what it guards is right at each step, or says that it is not for the moment, as
:class:`~groq_provider.ratelimit.state.ModelState` does, and the change that a handler wants is made when the section it struck ends. Locks
that are not reentrant belong to one waiter, or are tried and never waited for. And a handler's call goes before the one it interrupted,
which cannot go on before the handler returns.

Not covered: what waits for other threads (a run of ``generate_many``), since these may need a lock that the interrupted call holds; and calls and
the closing of a pool over HTTP/2, whose connections are read by whoever waits on them, which may be the call that was interrupted.
"""

from __future__ import annotations

from typing import Any

__all__ = ["held_here"]


def held_here(lock: Any) -> bool:
    """Say whether this thread holds an ``RLock``: then it is a signal handler that asks, in the middle of what the lock guards."""
    return bool(lock._is_owned())  # noqa: SLF001 - what threading.Condition asks
