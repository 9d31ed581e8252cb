"""The boundary to the caller's code: what is raised through it shows no frame of the package, and none of the arguments it was given.

A traceback keeps the local variables of its frames, and tools that report errors print them. Frames below this one may hold the headers
of a call, which may be secrets. (The API key is hidden by its own class wherever it stands.)
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from groq_provider.errors import GroqProviderError, without_frames

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["public"]

P = ParamSpec("P")
R = TypeVar("R")


def public(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method a boundary: an error of ours, or an interrupt, leaves it without the frames below.

    An exception of the caller's own code, of a tokenizer for one, keeps its frames: they say where it comes from.
    """

    @functools.wraps(method)
    def boundary(*args: P.args, **kwargs: P.kwargs) -> R:
        problem: BaseException
        try:
            return method(*args, **kwargs)
        except GroqProviderError as error:
            problem = error
        except Exception:
            raise
        except BaseException as interrupt:  # noqa: BLE001 - raised again below
            problem = interrupt
        del args, kwargs
        raise without_frames(problem)

    return boundary
