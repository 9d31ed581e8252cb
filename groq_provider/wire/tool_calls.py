"""Fragments of tool calls into whole ones: which call each belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import ResponseTooLargeError
from groq_provider.types._base import ReadOnly
from groq_provider.types.response import ToolCallDelta
from groq_provider.wire.json_fields import LOST, MOST_ITEMS, whole

if TYPE_CHECKING:
    from groq_provider.types.parts import ToolCall

__all__ = ["ToolCalls"]


class ToolCalls:
    """The tool calls of one answer, in the making. Every fragment is one look-up, however many calls there are.

    Not shared between threads.
    """

    __slots__ = ("_calls", "_known", "_newest", "_next", "_places")

    def __init__(self) -> None:
        self._calls: dict[int, _PartialCall] = {}
        #: The newest call by the index that the server gives, and by id.
        self._places: dict[int, _PartialCall] = {}
        self._known: dict[str, _PartialCall] = {}
        self._newest: _PartialCall | None = None
        self._next = 0  # above all indices given out

    def add(self, found: ToolCallDelta) -> ToolCallDelta:
        """Add a fragment to its call, or begin one; return it with the index that the call has for the reader.

        It belongs to the call of its id, else to the newest under its index, else, without either, to the newest of all; unless it
        names a function where that call has another id or another name already: that is how a server begins the next call.
        """
        place = max(found.index, -1)
        call = self._known.get(found.id) if found.id else None
        if call is None or (place >= 0 and call.place not in {place, -1}):
            call = self._newest if place < 0 else self._places.get(place)
            if call is not None and found.name and _begins(call, found, placed=place >= 0):
                call = None
        if call is None:
            if len(self._calls) >= MOST_ITEMS:
                raise ResponseTooLargeError(f"the answer holds more than {MOST_ITEMS:,} tool calls")
            # The server's own index, where no other call has it.
            index = place if place >= 0 and place not in self._calls else self._next
            self._next = max(self._next, index + 1)
            call = self._newest = self._calls[index] = _PartialCall(index)
        if place >= 0:
            call.place = place
            self._places[place] = call
        if found.id:
            self._known[found.id] = call
        arguments = call.take(found)
        if found.index != call.index or found.arguments != arguments:
            found = attrs.evolve(found, index=call.index, arguments=arguments)
        return found

    def rest(self) -> tuple[ToolCallDelta, ...]:
        """Return what the end of the stream leaves of characters cut in two; to be asked for once."""
        return tuple([ToolCallDelta(index=call.index, arguments=LOST) for call in self._ordered() if call.end()])

    def size(self) -> int:
        """Return the characters of all arguments."""
        return sum(len(part) for call in self._calls.values() for part in call.arguments)

    def whole(self) -> tuple[ToolCall, ...]:
        """Return the calls so far, in the order of their indices."""
        return tuple([call.whole() for call in self._ordered()])

    def _ordered(self) -> list[_PartialCall]:
        return [self._calls[index] for index in sorted(self._calls)]


def _begins(call: _PartialCall, found: ToolCallDelta, *, placed: bool) -> bool:
    """Say whether a fragment with a name, which would belong to *call*, is the first of another one."""
    if found.id and call.id:
        return True
    return bool(call.name) and (call.name != found.name or not (found.id or placed))


class _PartialCall:
    __slots__ = ("arguments", "extra", "half", "id", "index", "name", "place", "type")

    def __init__(self, index: int) -> None:
        self.index = index  # for the reader
        self.place = -1  # the server's own, if it gave one
        self.id = ""
        self.name = ""
        self.type = "function"
        self.arguments: list[str] = []
        self.half = ""  # of a character, at the end of the arguments
        self.extra: dict[str, Any] = {}

    def take(self, found: ToolCallDelta) -> str:
        """Take over a fragment; return what it adds to the arguments."""
        self.id = self.id or found.id or ""
        self.name = self.name or found.name or ""
        self.type = found.type or self.type
        self.extra.update(found.extra)
        text = found.arguments
        if text and (self.half or not text.isascii()):
            text, self.half = whole(self.half + text)
        if text:
            self.arguments.append(text)
        return text

    def end(self) -> bool:
        """Give up a half that stayed alone; say whether there was one."""
        if not self.half:
            return False
        self.half = ""
        self.arguments.append(LOST)
        return True

    def whole(self) -> ToolCall:
        from groq_provider.types.parts import ToolCall  # most answers do without

        arguments = "".join(self.arguments)
        return ToolCall(
            id=self.id,
            name=self.name,
            arguments=arguments,
            type=self.type,
            index=self.index,
            extra=ReadOnly(self.extra),
        )
