"""What has to be put right in a child process after a fork.

A forked child has copies of locks that threads of the parent may have held, and shares the parent's sockets. Whatever holds either is
registered here and gets a word in the child, before anything else runs there. Nothing is done in the parent.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol, TypeVar

__all__ = ["forkable"]


class _Forkable(Protocol):
    def _after_fork_in_child(self) -> None: ...


T = TypeVar("T", bound=_Forkable)

_registered: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def forkable(given: T) -> T:
    """Have ``given._after_fork_in_child()`` called in every child forked while it lives; return it."""
    _registered.add(given)
    return given


def _after_fork_in_child() -> None:
    for found in list(_registered):
        found._after_fork_in_child()  # noqa: SLF001 - this is what it is for


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_after_fork_in_child)
