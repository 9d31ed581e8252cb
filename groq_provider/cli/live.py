"""Moving output on a terminal: a spinner while the user waits, and streamed answers that wrap at words."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from groq_provider import GroqProviderError
from groq_provider.cli.text import WordWrapper, one_line, terminal_width, visible_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from groq_provider import GroqProvider

__all__ = ["AnswerPrinter", "Spinner", "describe_wait"]

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_FRAMES = "|/-\\"
_FRAME_INTERVAL = 0.1  # seconds; the first frame comes after two of them, so that a quick answer shows no flicker


class Spinner:
    """Shows on standard error that the user must wait, and why; on anything but a terminal nothing.

    Use it in a ``with`` block; :meth:`end` ends it earlier. It leaves an empty line behind.

    Args:
        describe: Returns the reason for the wait; called in a thread of its own, ten times a second.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self.describe = describe
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw_frames, name="groq-provider-spinner", daemon=True)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_args: object) -> None:
        self.end()

    def end(self) -> None:
        """Clear the line. Idempotent."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _draw_frames(self) -> None:
        frames = _FRAMES if (sys.stderr.encoding or "").lower().startswith("utf") else _PLAIN_FRAMES
        started, shown_width, count = time.monotonic(), 0, 0
        self._ended.wait(_FRAME_INTERVAL)
        try:
            while not self._ended.wait(_FRAME_INTERVAL):
                text = f"{frames[count % len(frames)]} {self.describe()}, {time.monotonic() - started:.0f} s"
                text = one_line(text)[: terminal_width() - 1]
                # Overwrite with blanks: unlike the escape sequence that clears a line, they work on every terminal.
                sys.stderr.write(f"\r{text.ljust(shown_width)}")
                sys.stderr.flush()
                shown_width, count = len(text), count + 1
            if shown_width:
                sys.stderr.write("\r" + " " * shown_width + "\r")
                sys.stderr.flush()
        except OSError:
            pass  # the terminal was closed


def describe_wait(provider: GroqProvider, default: str) -> str:
    """Return the reason for a wait: the rate limit if any call waits for it, else *default*."""
    try:
        states = provider.get_rate_limits().values()
    except GroqProviderError:
        return default
    blocked_for = max((state.blocked_for for state in states), default=0.0)
    if blocked_for > 0:
        return f"waiting for the rate limit, about {blocked_for:.0f} s to go"
    return "waiting for the rate limit" if any(state.waiting for state in states) else default


class AnswerPrinter:
    """Prints an answer on standard output piece by piece; on a terminal wrapped at words and without control characters."""

    def __init__(self) -> None:
        self._wrap = WordWrapper(terminal_width() - 1) if sys.stdout.isatty() else None
        self._has_begun = False

    def add(self, text: str) -> None:
        """Print the next piece; the word it ends in may be printed with a later piece."""
        self._has_begun = self._has_begun or bool(text)
        self._write(text if self._wrap is None else self._wrap.feed(visible_text(text)))

    def end(self) -> None:
        """Print the rest and end the line, if there was an answer."""
        if self._has_begun:
            self._write(("" if self._wrap is None else self._wrap.end()) + "\n")
        self._has_begun = False

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
