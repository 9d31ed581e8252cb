"""Decode event streams as the WHATWG standard defines them: bytes into lines, lines into events.

Both steps take linear time, keep bytes as bytes, and return each event as soon as its own last byte has come. A CR at the end of the
received bytes therefore ends its line at once; if the next byte is an LF, it belongs to that line end and is dropped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from groq_provider.errors import ResponseTooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DONE", "MAX_EVENT_BYTES", "MAX_LINE_BYTES", "Event", "EventDecoder", "LineSplitter", "is_stream"]

#: The data of the event that ends a chat stream.
DONE = b"[DONE]"

#: An event may hold a whole answer with a picture in it, so the limit is that of a plain answer. A larger event is a fault or an attack.
MAX_EVENT_BYTES = 64 << 20
#: One event in one line, with the name of its field.
MAX_LINE_BYTES = MAX_EVENT_BYTES + 64

_STREAM_START = rb"(?:\xef\xbb\xbf)?\s*(?:(?:data|event|id|retry)[:\r\n]|:)"


def is_stream(start: bytes) -> bool:
    """Tell an event stream by its first bytes, whatever its content type. JSON and HTML never begin like that."""
    return re.match(_STREAM_START, start) is not None


class LineSplitter:
    """Splits a body into lines at CR, LF and CRLF, wherever its pieces were cut.

    A splitter belongs to one thread.
    """

    __slots__ = ("_after_cr", "_partial_line", "max_line")

    def __init__(self, max_line: int = MAX_LINE_BYTES) -> None:
        self.max_line = max_line
        self._partial_line = bytearray()  # the unfinished line: one buffer, so that many small pieces take linear time
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their line ends.

        Raises:
            ResponseTooLargeError: A line is longer than ``max_line`` bytes.
        """
        if not data:
            return []
        if self._after_cr:
            self._after_cr = False
            if data[:1] == b"\n":
                data = data[1:]  # second half of a CRLF
                if not data:
                    return []
        if b"\r" in data:
            self._after_cr = data[-1:] == b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in data:
            self._extend_partial(data)
            return []
        lines = data.split(b"\n")
        partial = lines.pop()
        size = len(data)
        if self._partial_line:
            size += len(self._partial_line)
            lines[0] = b"".join((self._partial_line, lines[0]))
            self._partial_line.clear()
        if size > self.max_line:
            for line in lines:
                self._check_length(len(line))
        if partial:
            self._extend_partial(partial)
        return lines

    def finish(self) -> bytes:
        """Return the last line of a body that ended without a line end, or ``b""``. Call it at the end of the body."""
        partial = bytes(self._partial_line)
        self._partial_line.clear()
        return partial

    def _extend_partial(self, data: bytes) -> None:
        self._check_length(len(self._partial_line) + len(data))
        self._partial_line += data

    def _check_length(self, size: int) -> None:
        if size > self.max_line:
            raise ResponseTooLargeError(f"a line of the stream is longer than {self.max_line:,} bytes")


class Event(NamedTuple):
    """One event: its name (``""`` if the stream gave none) and its data."""

    name: str
    data: bytes


#: The first data lines of an event are kept as separate objects, further ones in one buffer.
_MAX_PARTS = 64

_event = tuple.__new__  # the NamedTuple's own constructor takes longer than splitting the lines


class EventDecoder:
    """Turns lines into events. Comments, ``id`` and ``retry`` are skipped.

    A decoder belongs to one thread.
    """

    __slots__ = ("_at_start", "_data_lines", "_data_size", "_event_name", "_further_data", "max_event")

    def __init__(self, max_event: int = MAX_EVENT_BYTES) -> None:
        self.max_event = max_event
        self._event_name = ""
        self._data_lines: list[bytes] = []
        self._further_data = bytearray()  # the data lines after the first ``_MAX_PARTS``: one buffer
        self._data_size = 0
        self._at_start = True

    def events(self, lines: list[bytes]) -> Iterator[Event]:
        """Take lines and yield the events that they complete, each one before the next line is read."""
        all_short = max(map(len, lines), default=0) < self.max_event
        between_events = not (self._at_start or self._data_lines or self._event_name)
        line_iterator = iter(lines)
        for line in line_iterator:
            if between_events and all_short and line[:6] == b"data: ":
                # Nearly every event is one line of data and an empty one.
                next_line = next(line_iterator, None)
                if next_line == b"":
                    yield _event(Event, ("", line[6:]))
                    continue
                self.feed(line)
                if next_line is None:
                    return
                line = next_line  # noqa: PLW2901 - this line has been taken from the iterator already
            event = self.feed(line)
            if event is not None:
                yield event
            between_events = not self._data_lines and not self._event_name

    def feed(self, line: bytes) -> Event | None:
        """Take one line; return the event that it completes, or ``None``.

        Raises:
            ResponseTooLargeError: The event is larger than ``max_event`` bytes.
        """
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        if line[:5] == b"data:":  # nearly every line
            data = line[6:] if line[5:6] == b" " else line[5:]
            if len(self._data_lines) < _MAX_PARTS:
                self._data_lines.append(data)
            else:
                self._further_data += b"\n"
                self._further_data += data
            self._data_size += len(data) + 1
            if self._data_size > self.max_event:
                raise ResponseTooLargeError(f"an event of the stream is larger than {self.max_event:,} bytes")
            return None
        if line == b"data":
            return self.feed(b"data:")
        if line[:6] == b"event:":
            name = line[7:] if line[6:7] == b" " else line[6:]
            self._event_name = name.decode("utf-8", "replace")
        elif line == b"event":
            self._event_name = ""
        return None

    def finish(self) -> Event | None:
        """Return the event that the body ended in without a blank line, or ``None``.

        The WHATWG standard discards such an event; the caller must decide whether it counts.
        """
        return self._dispatch()

    def _dispatch(self) -> Event | None:
        lines, name = self._data_lines, self._event_name
        self._event_name = ""
        if not lines:
            return None
        self._data_lines = []
        self._data_size = 0
        data = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if self._further_data:
            data += self._further_data
            self._further_data = bytearray()
        return Event(name, data)
