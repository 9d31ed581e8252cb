"""Makes text safe and readable on a terminal: no control characters, no word cut at the edge."""

from __future__ import annotations

import shutil
import unicodedata

__all__ = ["WordWrapper", "one_line", "terminal_width", "visible_text", "wrap_text"]

_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # all but tab and line feed


def visible_text(text: str) -> str:
    """Return *text* without control characters other than tab and line feed: an answer must not control the terminal."""
    return text.translate(_CONTROL)


def one_line(text: object) -> str:
    """Return text from outside, such as a model's name, on one line and with ``?`` for characters that cannot be seen."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(str(text).split()))


def terminal_width() -> int:
    """Return the columns of the terminal; 80 if they are unknown."""
    return max(shutil.get_terminal_size().columns, 8)


def wrap_text(text: str) -> str:
    """Return a whole *text*, wrapped for the terminal."""
    wrap = WordWrapper(terminal_width() - 1)
    return wrap.feed(text) + wrap.end()


class WordWrapper:
    r"""Wraps a text that arrives in pieces at its spaces, so that no word is cut at the edge of the terminal.

    Text between Markdown fences is not wrapped: code must keep its lines. A wrapped line is indented as its first line was.

    >>> wrap = WordWrapper(12)
    >>> wrap.feed("The quick brown f") + wrap.feed("ox") + wrap.end()
    'The quick\nbrown fox'
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 1)
        self._column = 0
        self._indent: int | None = None  # of this line; ``None`` before its first word
        self._start = ""  # the first characters of this line, where a fence may be
        self._space = ""
        self._word = ""
        self._in_fence = False

    def feed(self, text: str) -> str:
        """Return the text that is ready to print: all but the last word, which the next piece may continue."""
        return "".join(map(self._feed_character, text))

    def end(self) -> str:
        """Return the rest."""
        return self._finish_word()

    def _feed_character(self, character: str) -> str:
        if character == "\n":
            shown = self._finish_word() + "\n"
            if self._start.startswith("```"):
                self._in_fence = not self._in_fence
            self._column, self._indent, self._start, self._space = 0, None, "", ""
            return shown
        if character in " \t":
            shown = self._finish_word()
            self._space += character
            return shown
        if len(self._start) < 3:
            self._start += character
        if _cell_width(character) < 2:
            self._word += character
            return ""
        # Scripts that are written without spaces may be broken between any two characters.
        shown = self._finish_word()
        self._word = character
        return shown + self._finish_word()

    def _finish_word(self) -> str:
        """Return the pending word, which is complete now, on this line or on the next."""
        word, space = self._word, self._space
        if not word:
            return ""
        word_width = sum(map(_cell_width, word))
        space_width = len(space.expandtabs(8))
        if self._indent is None:
            self._indent = min(space_width, self._width // 2)
        self._word = self._space = ""
        if self._column and not self._in_fence and self._column + space_width + word_width > self._width:
            space, space_width = "\n" + " " * self._indent, self._indent
            self._column = 0
        self._column += space_width + word_width
        if self._column > self._width:  # a word longer than the line: the terminal breaks it
            self._column %= self._width
        return space + word


def _cell_width(character: str) -> int:
    """Return how many columns a character occupies."""
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
