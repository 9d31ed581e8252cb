"""Event streams, by the WHATWG text: bytes into lines, lines into events.

Both steps take linear time, keep bytes as bytes, and give out what is complete at once: nothing waits for a later byte that does
not belong to it. A CR at the end of what has arrived ends its line; an LF that follows it is its second half.
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

#: A larger event is a fault or an attack. One may be a whole answer, with a picture in it, so it is as much as a plain one has.
MAX_EVENT_BYTES = 64 << 20
#: With room for the name of the field.
MAX_LINE_BYTES = MAX_EVENT_BYTES + 64

_STREAM = rb"(?:\xef\xbb\xbf)?\s*(?:(?:data|event|id|retry)[:\r\n]|:)"


def is_stream(start: bytes) -> bool:
    """Say whether a body that is labelled otherwise begins as an event stream does, which JSON and HTML never do."""
    return re.match(_STREAM, start) is not None


class LineSplitter:
    """Split a body into lines at CR, LF and CRLF, wherever the pieces were cut.

    Not shared between threads.
    """

    __slots__ = ("_after_cr", "_rest", "max_line")

    def __init__(self, max_line: int = MAX_LINE_BYTES) -> None:
        self.max_line = max_line
        self._rest = bytearray()  # the unfinished line; one object, however small the pieces it comes in
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that *data* completes, without their ends.

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
            self._hold(data)
            return []
        lines = data.split(b"\n")
        rest = lines.pop()
        size = len(data)
        if self._rest:
            size += len(self._rest)
            lines[0] = b"".join((self._rest, lines[0]))
            self._rest.clear()
        if size > self.max_line:
            for line in lines:
                self._check(len(line))
        if rest:
            self._hold(rest)
        return lines

    def finish(self) -> bytes:
        """Return the last line if the body ended without an end of line, else nothing."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _hold(self, data: bytes) -> None:
        self._check(len(self._rest) + len(data))
        self._rest += data

    def _check(self, size: int) -> None:
        if size > self.max_line:
            raise ResponseTooLargeError(f"a line of the stream is longer than {self.max_line:,} bytes")


class Event(NamedTuple):
    """One event: its name (``""`` where none is given) and its data."""

    name: str
    data: bytes


#: Lines of an event that are kept as they are.
_MANY = 64

_event = tuple.__new__  # without the checks of a NamedTuple's own, which take longer than splitting the lines


class EventDecoder:
    """Turn lines into events. Comments, ``id`` and ``retry`` are read and mean nothing here.

    Not shared between threads.
    """

    __slots__ = ("_data", "_first", "_name", "_rest", "_size", "max_event")

    def __init__(self, max_event: int = MAX_EVENT_BYTES) -> None:
        self.max_event = max_event
        self._name = ""
        self._data: list[bytes] = []
        self._rest = bytearray()  # what comes after the first lines of an event of many: one object
        self._size = 0
        self._first = True

    def events(self, lines: list[bytes]) -> Iterator[Event]:
        """Take lines, and yield the events they complete, each before the next line is looked at."""
        short = max(map(len, lines), default=0) < self.max_event
        fresh = not (self._first or self._data or self._name)
        rest = iter(lines)
        for line in rest:
            if fresh and short and line[:6] == b"data: ":
                # Nearly every event is one line of data and an empty one.
                after = next(rest, None)
                if after == b"":
                    yield _event(Event, ("", line[6:]))
                    continue
                self.feed(line)
                if after is None:
                    return
                line = after  # noqa: PLW2901 - the one that was looked at already
            event = self.feed(line)
            if event is not None:
                yield event
            fresh = not self._data and not self._name

    def feed(self, line: bytes) -> Event | None:
        """Take one line; return the event it completes, if it does.

        Raises:
            ResponseTooLargeError: The event is larger than ``max_event`` bytes.
        """
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        if line[:5] == b"data:":  # nearly every line
            data = line[6:] if line[5:6] == b" " else line[5:]
            if len(self._data) < _MANY:
                self._data.append(data)
            else:
                self._rest += b"\n"
                self._rest += data
            self._size += len(data) + 1
            if self._size > self.max_event:
                raise ResponseTooLargeError(f"an event of the stream is larger than {self.max_event:,} bytes")
            return None
        if line == b"data":
            return self.feed(b"data:")
        if line[:6] == b"event:":
            name = line[7:] if line[6:7] == b" " else line[6:]
            self._name = name.decode("utf-8", "replace")
        elif line == b"event":
            self._name = ""
        return None

    def finish(self) -> Event | None:
        """Return the event that the end of the body left without its blank line, if there is one.

        The WHATWG text drops it; whether it counts is for the caller to decide.
        """
        return self._dispatch()

    def _dispatch(self) -> Event | None:
        lines, name = self._data, self._name
        self._name = ""
        if not lines:
            return None
        self._data = []
        self._size = 0
        data = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if self._rest:
            data += self._rest
            self._rest = bytearray()
        return Event(name, data)
