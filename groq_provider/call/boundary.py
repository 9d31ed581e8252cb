"""The boundary between this package and the caller's code. An error that crosses it shows no frame of the package and no argument.

A traceback keeps the local variables of its frames, and tools that report errors print them. The frames below the boundary may hold the
headers of a call, which may be secrets. (The API key has a class of its own that hides it everywhere.)
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
    """Make a method a boundary: an error of this package, or an interrupt, leaves it without the frames below.

    An exception from the caller's own code, such as a tokenizer, keeps its frames, because they say where it comes from.
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
