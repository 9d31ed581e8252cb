"""Decode JSON texts of any length, a piece at a time."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from groq_provider.errors import ResponseTooLargeError
from groq_provider.wire.json_fields import count_values

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PieceDecoder"]

_scan_string: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]  # not in typeshed
_PIECE_BYTES = 32_768
#: The length of the longest escape sequence: two halves of one character.
_MAX_ESCAPE = 12
#: Whole characters and escape sequences of a string. The two halves of a character belong together, so a first half at the end of the
#: text does not match.
_WHOLE_CHARACTERS = re.compile(
    r'(?:[^"\\]+|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}(?=.{6})|\\[^u](?=.{6}))*',
    re.DOTALL,
)
_SPACE = re.compile(r"[ \t\n\r]*")
_MAX_DEPTH = 900
#: A string that seems to end within this many characters is decoded in one call.
_SHORT_STRING = 1024
#: The values of a container with a text up to this length are counted at once; those of a longer one are estimated first.
_SMALL_CONTAINER = 256


class PieceDecoder:
    """Decodes one text of any length: json's own scanner decodes values that fit into a piece, and this class the longer ones.

    Args:
        data: The JSON text.
        scan: The scanner of json for values that fit into a piece.
        checkpoint: Called once for every piece; it may raise.
        max_values: The number of values that the text may hold.
        what: The name of the text, for error messages.
    """

    def __init__(
        self,
        data: bytes,
        scan: Callable[[str, int], tuple[Any, int]],
        checkpoint: Callable[[], object],
        max_values: int,
        what: str,
    ) -> None:
        self._scan = scan
        self._data = memoryview(data)
        self._next_byte = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._checkpoint = checkpoint
        self._max_values = max_values
        self._what = what
        self._value_count = 0
        self._estimates: list[tuple[Any, int]] = []
        self._buffer = ""
        self._at_end = False

    def _load_piece(self, position: int) -> None:
        """Drop the buffered text before *position* and append the next piece."""
        self._checkpoint()
        piece = self._data[self._next_byte : self._next_byte + _PIECE_BYTES]
        self._next_byte += len(piece)
        self._at_end = self._next_byte >= len(self._data)
        self._buffer = self._buffer[position:] + self._utf8.decode(piece, self._at_end)

    def _skip_space(self, position: int) -> int:
        """Return the position of the next token, and make sure that a piece of text follows it (or the end of the text)."""
        while True:
            position = _SPACE.match(self._buffer, position).end()  # type: ignore[union-attr]  # matches everywhere
            if self._at_end or len(self._buffer) - position > _PIECE_BYTES:
                return position
            self._load_piece(position)
            position = 0

    def _add_values(self, values: int) -> None:
        self._value_count += values
        if self._value_count <= self._max_values:
            return
        # The estimates count commas and brackets inside strings, too: replace them by exact numbers before refusing the text.
        pending, self._estimates = self._estimates, []
        for container, estimate in pending:
            self._value_count += count_values(container, self._checkpoint) - estimate
        if self._value_count > self._max_values:
            raise ResponseTooLargeError(f"{self._what} holds more than {self._max_values:,} values")

    def _add_container(self, container: Any, text: str, begin: int, end: int) -> None:
        if end - begin <= _SMALL_CONTAINER:
            self._add_values(count_values(container))
        else:
            estimate = 1 + sum([text.count(mark, begin, end) for mark in ",:[{"])
            self._estimates.append((container, estimate))
            self._add_values(estimate)

    def decode(self) -> Any:
        """Return the decoded value. Call it once.

        Raises:
            ValueError: The text is not JSON.
            RecursionError: The text is nested too deep.
            ResponseTooLargeError: The text holds too many values.
        """
        self._load_piece(0)
        position = 1 if self._buffer[:1] == "\ufeff" else 0
        stack: list[tuple[Any, str]] = []  # open containers, each with the name of the field to come
        while True:
            decoded, position, opened = self._read_value(position)
            if opened:
                if len(stack) >= _MAX_DEPTH:
                    raise RecursionError
                position = self._skip_space(position)
                closed = self._buffer[position : position + 1] == ("]" if type(decoded) is list else "}")
                if not closed:
                    name, position = ("", position) if type(decoded) is list else self._read_name(position)
                    stack.append((decoded, name))
                    continue
                position += 1
            # Add the finished value to its container, which may be finished by that as well.
            while stack:
                container, name = stack[-1]
                if type(container) is list:
                    container.append(decoded)
                else:
                    container[name] = decoded
                position = self._skip_space(position)
                mark = self._buffer[position : position + 1]
                position += 1
                if mark == ",":
                    if type(container) is dict:
                        name, position = self._read_name(self._skip_space(position))
                        stack[-1] = container, name
                    break
                if mark != ("]" if type(container) is list else "}"):
                    raise ValueError("Expecting ',' delimiter")
                decoded = stack.pop()[0]
            else:
                if self._skip_space(position) < len(self._buffer):
                    raise ValueError("Extra data")
                return decoded

    def _read_value(self, position: int) -> tuple[Any, int, bool]:
        """Return the value at *position*, its end, and whether it is a container of which only the bracket was read."""
        position = self._skip_space(position)
        first = self._buffer[position : position + 1]
        if first == '"':
            self._add_values(1)
            return *self._read_string(position + 1), False
        container = first in ("[", "{")
        try:
            decoded, end = self._scan(self._buffer, position)
        except StopIteration:
            if self._at_end or not container:
                raise ValueError("Expecting value") from None
        except ValueError as error:
            if self._at_end or not container:
                raise ValueError(getattr(error, "msg", str(error))) from None
        else:
            if not container and end == len(self._buffer) and not self._at_end:
                raise ValueError("a number is too long")
            if container:
                self._add_container(decoded, self._buffer, position, end)
            else:
                self._add_values(1)
            return decoded, end, False
        self._checkpoint()  # the scanner has read a whole piece for nothing
        self._add_values(1)
        return [] if first == "[" else {}, position + 1, True

    def _read_name(self, position: int) -> tuple[str, int]:
        """Return the name of a field and the position after its colon."""
        position = self._skip_space(position)
        if self._buffer[position : position + 1] != '"':
            raise ValueError("Expecting property name enclosed in double quotes")
        self._add_values(1)
        name, position = self._read_string(position + 1)
        position = self._skip_space(position)
        if self._buffer[position : position + 1] != ":":
            raise ValueError("Expecting ':' delimiter")
        return name, position + 1

    def _read_string(self, position: int) -> tuple[str, int]:
        """Return a string after its opening quote, and its end."""
        text = self._buffer
        if self._at_end or text.find('"', position, position + _SHORT_STRING) >= 0:
            try:
                return _scan_string(text, position)
            except ValueError:
                if self._at_end:
                    raise
        parts: list[str] = []
        while self._next_byte < len(self._data):
            cut = _cut_point(self._buffer, position)
            part, end = _scan_string(f'{self._buffer[position:cut]}"', 0)
            parts.append(part)
            if end <= cut - position:
                return "".join(parts), position + end
            self._load_piece(cut)
            position = 0
        part, end = _scan_string(self._buffer, position)
        return "".join([*parts, part]), end


def _cut_point(text: str, position: int) -> int:
    """Return a position late in *text* where a string may be cut without splitting an escape sequence."""
    cut = len(text) - _MAX_ESCAPE
    for _ in range(_MAX_ESCAPE):
        if cut - _MAX_ESCAPE <= position:
            break
        escape = text.rfind("\\", cut - _MAX_ESCAPE, cut)
        if escape < 0:
            return cut
        cut = escape
    cut = _WHOLE_CHARACTERS.match(text, position).end()  # type: ignore[union-attr]  # matches everywhere
    if cut <= position and len(text) - position > 2 * _MAX_ESCAPE and text[position] != '"':
        raise ValueError("Invalid \\escape")
    return cut
