"""JSON texts of any length, decoded a piece at a time."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from groq_provider.errors import ResponseTooLargeError
from groq_provider.wire.json_text import count_values, scan_json

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pieces"]

_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]  # as above
_PIECE = 32_768
#: Characters that an escape sequence has at most: two halves of one character.
_ESCAPE = 12
#: Whole characters and escape sequences of a string. The first half of a character goes with the second, so it is none if there is nothing
#: behind it yet.
_WHOLE = re.compile(
    r'(?:[^"\\]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}(?=.{6})|\\[^u](?=.{6}))*',
    re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\r]*")
_DEEPEST = 900
#: A string whose end seems to be as near as this is taken in one go.
_NEAR = 1024
#: The values of a container whose text is no longer are counted at once, of others only if need be.
_SMALL = 256


class Pieces:
    """Decodes a text of any length, a piece at a time: json's own scanner takes what fits into a piece, and this what does not.

    Args:
        data: The text.
        look: Called once a piece.
        most: Values it may hold.
        what: Names it.
    """

    def __init__(self, data: bytes, look: Callable[[], object], most: int, what: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._look = look
        self._most = most
        self._what = what
        self._values = 0
        self._roughly: list[tuple[Any, int]] = []
        self._text = ""
        self._ended = False

    def _more(self, position: int) -> None:
        """Drop the text before *position*, and add a piece."""
        self._look()
        piece = self._data[self._at : self._at + _PIECE]
        self._at += len(piece)
        self._ended = self._at >= len(self._data)
        self._text = self._text[position:] + self._utf8.decode(piece, self._ended)

    def _token(self, position: int) -> int:
        """Return where the next token begins, with a piece of text behind it unless it is among the last."""
        while True:
            position = _SPACE.match(self._text, position).end()  # type: ignore[union-attr]  # matches everywhere
            if self._ended or len(self._text) - position > _PIECE:
                return position
            self._more(position)
            position = 0

    def _count(self, values: int) -> None:
        self._values += values
        if self._values <= self._most:
            return
        # So many there can be at most, by the marks between values, some of which may be letters of strings.
        pending, self._roughly = self._roughly, []
        for found, roughly in pending:
            self._values += count_values(found, self._look) - roughly
        if self._values > self._most:
            raise ResponseTooLargeError(f"{self._what} holds more than {self._most:,} values")

    def _count_all(self, found: Any, text: str, begin: int, end: int) -> None:
        if end - begin <= _SMALL:
            self._count(count_values(found))
        else:
            roughly = 1 + sum([text.count(mark, begin, end) for mark in ",:[{"])
            self._roughly.append((found, roughly))
            self._count(roughly)

    def decode(self) -> Any:
        """Return the value of the text.

        Raises:
            ValueError: It is not JSON.
            RecursionError: It is nested too deep.
            ResponseTooLargeError: It holds too many values.
        """
        self._more(0)
        position = 1 if self._text[:1] == "\ufeff" else 0
        stack: list[tuple[Any, str]] = []  # what is open, and the name of its field
        while True:
            found, position, opened = self._value(position)
            if opened:
                if len(stack) >= _DEEPEST:
                    raise RecursionError
                position = self._token(position)
                closed = self._text[position : position + 1] == ("]" if type(found) is list else "}")
                if not closed:
                    name, position = ("", position) if type(found) is list else self._name(position)
                    stack.append((found, name))
                    continue
                position += 1
            # What is whole goes to what it stands in, which may be whole with it.
            while stack:
                into, name = stack[-1]
                if type(into) is list:
                    into.append(found)
                else:
                    into[name] = found
                position = self._token(position)
                mark = self._text[position : position + 1]
                position += 1
                if mark == ",":
                    if type(into) is dict:
                        name, position = self._name(self._token(position))
                        stack[-1] = into, name
                    break
                if mark != ("]" if type(into) is list else "}"):
                    raise ValueError("Expecting ',' delimiter")
                found = stack.pop()[0]
            else:
                if self._token(position) < len(self._text):
                    raise ValueError("Extra data")
                return found

    def _value(self, position: int) -> tuple[Any, int, bool]:
        """Return the value at *position*, where it ends, and whether it was only opened."""
        position = self._token(position)
        first = self._text[position : position + 1]
        if first == '"':
            self._count(1)
            return *self._string(position + 1), False
        container = first in ("[", "{")
        try:
            found, end = scan_json(self._text, position)
        except StopIteration:
            if self._ended or not container:
                raise ValueError("Expecting value") from None
        except ValueError as error:
            if self._ended or not container:
                raise ValueError(getattr(error, "msg", str(error))) from None
        else:
            if not container and end == len(self._text) and not self._ended:
                raise ValueError("a number is too long")
            if container:
                self._count_all(found, self._text, position, end)
            else:
                self._count(1)
            return found, end, False
        self._look()  # that was a piece of work in vain
        self._count(1)
        return [] if first == "[" else {}, position + 1, True

    def _name(self, position: int) -> tuple[str, int]:
        """Return the name of a field, and where its value begins."""
        position = self._token(position)
        if self._text[position : position + 1] != '"':
            raise ValueError("Expecting property name enclosed in double quotes")
        self._count(1)
        name, position = self._string(position + 1)
        position = self._token(position)
        if self._text[position : position + 1] != ":":
            raise ValueError("Expecting ':' delimiter")
        return name, position + 1

    def _string(self, position: int) -> tuple[str, int]:
        """Return the rest of a string, and where it ends."""
        text = self._text
        if self._ended or text.find('"', position, position + _NEAR) >= 0:
            try:
                return _scan_string(text, position)
            except ValueError:
                if self._ended:
                    raise
        parts: list[str] = []
        while self._at < len(self._data):
            cut = _cut(self._text, position)
            part, end = _scan_string(f'{self._text[position:cut]}"', 0)
            parts.append(part)
            if end <= cut - position:
                return "".join(parts), position + end
            self._more(cut)
            position = 0
        part, end = _scan_string(self._text, position)
        return "".join([*parts, part]), end


def _cut(text: str, position: int) -> int:
    """Return where a string may be cut in two, late in *text*: in no escape sequence."""
    cut = len(text) - _ESCAPE
    for _ in range(_ESCAPE):
        if cut - _ESCAPE <= position:
            break
        escape = text.rfind("\\", cut - _ESCAPE, cut)
        if escape < 0:
            return cut
        cut = escape
    cut = _WHOLE.match(text, position).end()  # type: ignore[union-attr]  # matches everywhere
    if cut <= position and len(text) - position > 2 * _ESCAPE and text[position] != '"':
        raise ValueError("Invalid \\escape")
    return cut
