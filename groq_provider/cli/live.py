"""What moves on a terminal: a sign of life while the user waits, and answers that wrap at words."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from groq_provider import GroqProviderError
from groq_provider.cli.text import Wrap, columns, one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from groq_provider import GroqProvider

__all__ = ["Answer", "Waiting", "limited"]

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_FRAMES = "|/-\\"
_PACE = 0.1  # seconds between two frames; the first comes after two of them, so that what is quick does not flicker


class Waiting:
    """A spinner on standard error with what is waited for; on anything but a terminal nothing.

    It ends with its with block, or with :meth:`end`, and leaves an empty line behind.

    Args:
        what: Says what is waited for; called in a thread of its own, ten times a second.
    """

    def __init__(self, what: Callable[[], str]) -> None:
        self.what = what
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._turn, name="groq-provider-spinner", daemon=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the line away; without effect the second time."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _turn(self) -> None:
        frames = _FRAMES if (sys.stderr.encoding or "").lower().startswith("utf") else _PLAIN_FRAMES
        began, shown, count = time.monotonic(), 0, 0
        self._ended.wait(_PACE)
        try:
            while not self._ended.wait(_PACE):
                text = f"{frames[count % len(frames)]} {self.what()}, {time.monotonic() - began:.0f} s"
                text = one_line(text)[: columns() - 1]
                # Blanks instead of a sequence that clears the line: they work on every terminal.
                sys.stderr.write(f"\r{text.ljust(shown)}")
                sys.stderr.flush()
                shown, count = len(text), count + 1
            if shown:
                sys.stderr.write("\r" + " " * shown + "\r")
                sys.stderr.flush()
        except OSError:
            pass  # nobody looks any more


def limited(provider: GroqProvider, otherwise: str) -> str:
    """Say that calls wait for the rate limit if some do, else *otherwise*."""
    try:
        states = provider.get_rate_limits().values()
    except GroqProviderError:
        return otherwise
    closed = max((state.blocked_for for state in states), default=0.0)
    if closed > 0:
        return f"waiting for the rate limit, about {closed:.0f} s to go"
    return "waiting for the rate limit" if any(state.waiting for state in states) else otherwise


class Answer:
    """Shows an answer on standard output piece by piece; on a terminal wrapped at words, and without what steers it."""

    def __init__(self) -> None:
        self._wrap = Wrap(columns() - 1) if sys.stdout.isatty() else None
        self._begun = False

    def add(self, text: str) -> None:
        """Show what can be shown of the next piece."""
        self._begun = self._begun or bool(text)
        self._write(text if self._wrap is None else self._wrap.feed(visible(text)))

    def end(self) -> None:
        """Show the rest and end the line, if there was an answer."""
        if self._begun:
            self._write(("" if self._wrap is None else self._wrap.end()) + "\n")
        self._begun = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
