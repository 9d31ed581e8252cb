"""Assemble fragments of tool calls into whole calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import ResponseTooLargeError
from groq_provider.types._base import ReadOnly
from groq_provider.types.response import ToolCallDelta
from groq_provider.wire.json_fields import MAX_ITEMS, REPLACEMENT, split_half

if TYPE_CHECKING:
    from groq_provider.types.parts import ToolCall

__all__ = ["ToolCalls"]


class ToolCalls:
    """Collects the tool calls of one answer. A fragment costs one look-up, however many calls there are.

    A collector belongs to one thread.
    """

    __slots__ = ("_by_id", "_by_server_index", "_calls", "_newest_call", "_next_index")

    def __init__(self) -> None:
        self._calls: dict[int, _PartialCall] = {}
        #: The newest call under each index of the server, and the calls by id.
        self._by_server_index: dict[int, _PartialCall] = {}
        self._by_id: dict[str, _PartialCall] = {}
        self._newest_call: _PartialCall | None = None
        self._next_index = 0  # above every index in use

    def add(self, fragment: ToolCallDelta) -> ToolCallDelta:
        """Add a fragment to its call, or begin a call; return the fragment with the index that the call has for the caller.

        A fragment belongs to the call of its id, else to the newest call under its index, else (with neither) to the newest call of all.
        If it names a function and that call already has another id or another name, it begins the next call.
        """
        server_index = max(fragment.index, -1)
        call = self._by_id.get(fragment.id) if fragment.id else None
        if call is None or (server_index >= 0 and call.server_index not in {server_index, -1}):
            call = self._newest_call if server_index < 0 else self._by_server_index.get(server_index)
            if call is not None and fragment.name and _starts_next_call(call, fragment, has_index=server_index >= 0):
                call = None
        if call is None:
            if len(self._calls) >= MAX_ITEMS:
                raise ResponseTooLargeError(f"the answer holds more than {MAX_ITEMS:,} tool calls")
            # Keep the server's index, unless another call has it.
            index = server_index if server_index >= 0 and server_index not in self._calls else self._next_index
            self._next_index = max(self._next_index, index + 1)
            call = self._newest_call = self._calls[index] = _PartialCall(index)
        if server_index >= 0:
            call.server_index = server_index
            self._by_server_index[server_index] = call
        if fragment.id:
            self._by_id[fragment.id] = call
        arguments = call.add_fragment(fragment)
        if fragment.index != call.index or fragment.arguments != arguments:
            fragment = attrs.evolve(fragment, index=call.index, arguments=arguments)
        return fragment

    def flush_halves(self) -> tuple[ToolCallDelta, ...]:
        """End the characters of which only one half came: each becomes U+FFFD. Call it once, at the end of the stream."""
        return tuple(
            [ToolCallDelta(index=call.index, arguments=REPLACEMENT) for call in self._ordered() if call.finish_half()]
        )

    def text_size(self) -> int:
        """Return the number of characters of all arguments."""
        return sum(len(part) for call in self._calls.values() for part in call.arguments)

    def to_tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls as far as they have come, in the order of their indices."""
        return tuple([call.to_tool_call() for call in self._ordered()])

    def _ordered(self) -> list[_PartialCall]:
        return [self._calls[index] for index in sorted(self._calls)]


def _starts_next_call(call: _PartialCall, fragment: ToolCallDelta, *, has_index: bool) -> bool:
    """Tell whether a fragment with a name, which by its id or index belongs to *call*, begins the next call instead."""
    if fragment.id and call.id:
        return True
    return bool(call.name) and (call.name != fragment.name or not (fragment.id or has_index))


class _PartialCall:
    __slots__ = ("arguments", "extra", "id", "index", "name", "open_half", "server_index", "type")

    def __init__(self, index: int) -> None:
        self.index = index  # as the caller sees it
        self.server_index = -1  # as the server numbers it; -1 if it does not
        self.id = ""
        self.name = ""
        self.type = "function"
        self.arguments: list[str] = []
        self.open_half = ""  # first half of a character, at the end of the arguments
        self.extra: dict[str, Any] = {}

    def add_fragment(self, fragment: ToolCallDelta) -> str:
        """Add a fragment; return the text that it adds to the arguments."""
        self.id = self.id or fragment.id or ""
        self.name = self.name or fragment.name or ""
        self.type = fragment.type or self.type
        self.extra.update(fragment.extra)
        text = fragment.arguments
        if text and (self.open_half or not text.isascii()):
            text, self.open_half = split_half(self.open_half + text)
        if text:
            self.arguments.append(text)
        return text

    def finish_half(self) -> bool:
        """Replace an open half by U+FFFD; return ``False`` if none is open."""
        if not self.open_half:
            return False
        self.open_half = ""
        self.arguments.append(REPLACEMENT)
        return True

    def to_tool_call(self) -> ToolCall:
        from groq_provider.types.parts import ToolCall  # imported late: most answers have no tool calls

        arguments = "".join(self.arguments)
        return ToolCall(
            id=self.id,
            name=self.name,
            arguments=arguments,
            type=self.type,
            index=self.index,
            extra=ReadOnly(self.extra),
        )
