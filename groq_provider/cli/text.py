"""Text for a terminal: nothing that steers it, no word cut at its edge."""

from __future__ import annotations

import shutil
import unicodedata

__all__ = ["Wrap", "columns", "one_line", "visible", "wrapped"]

_CONTROL = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # all but tab and line feed


def visible(text: str) -> str:
    """Return *text* without control characters, tabs and line feeds excepted: what comes from outside must not steer a terminal."""
    return text.translate(_CONTROL)


def one_line(text: object) -> str:
    """Return somebody else's word, such as the name of a model, so that it stays in its place: on one line, nothing hidden."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(str(text).split()))


def columns() -> int:
    """Return the width of the terminal, 80 where it does not say."""
    return max(shutil.get_terminal_size().columns, 8)


def wrapped(text: str) -> str:
    """Return a whole *text* wrapped for the terminal."""
    wrap = Wrap(columns() - 1)
    return wrap.feed(text) + wrap.end()


class Wrap:
    r"""Breaks a text that comes in pieces at its spaces, so that no word is cut at the edge of the terminal.

    What is between Markdown fences is left alone: code must stay as it is. Lines go on below the beginning of their first word.

    >>> wrap = Wrap(12)
    >>> wrap.feed("The quick brown f") + wrap.feed("ox") + wrap.end()
    'The quick\nbrown fox'
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 1)
        self._column = 0
        self._indent: int | None = None  # of this line; None before its first word
        self._start = ""  # the first characters of this line, where a fence may be
        self._space = ""
        self._word = ""
        self._fenced = False

    def feed(self, text: str) -> str:
        """Return what can be shown by now: all but the last word, which may go on."""
        return "".join(map(self._take, text))

    def end(self) -> str:
        """Return the rest."""
        return self._put()

    def _take(self, character: str) -> str:
        if character == "\n":
            shown = self._put() + "\n"
            if self._start.startswith("```"):
                self._fenced = not self._fenced
            self._column, self._indent, self._start, self._space = 0, None, "", ""
            return shown
        if character in " \t":
            shown = self._put()
            self._space += character
            return shown
        if len(self._start) < 3:
            self._start += character
        if _cells(character) < 2:
            self._word += character
            return ""
        # Scripts that are written without spaces break between any two characters.
        shown = self._put()
        self._word = character
        return shown + self._put()

    def _put(self) -> str:
        """Return the word that is complete, on this line or on the next."""
        word, space = self._word, self._space
        if not word:
            return ""
        size = sum(map(_cells, word))
        blank = len(space.expandtabs(8))
        if self._indent is None:
            self._indent = min(blank, self._width // 2)
        self._word = self._space = ""
        if self._column and not self._fenced and self._column + blank + size > self._width:
            space, blank = "\n" + " " * self._indent, self._indent
            self._column = 0
        self._column += blank + size
        if self._column > self._width:  # a word longer than the line: the terminal breaks it
            self._column %= self._width
        return space + word


def _cells(character: str) -> int:
    """Return how many columns a character takes."""
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
