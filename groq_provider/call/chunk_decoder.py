"""Decode the events of a streamed answer into chunks, and its error events into errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider import errors as e
from groq_provider.wire import json_text
from groq_provider.wire.failures import redact_key, reported_error
from groq_provider.wire.sse import DONE, Event

if TYPE_CHECKING:
    from groq_provider.call.call import Call
    from groq_provider.protocols import WireResponse
    from groq_provider.types.response import ResponseChunk
    from groq_provider.wire.assemble import Assembler

__all__ = ["ChunkDecoder", "belongs_to_answer", "ends_answer"]

#: Before an event of more bytes is decoded, the limits of the call are checked.
_LARGE_EVENT = 4096
#: Names of events that carry chunks and errors.
_CHUNK_EVENTS = frozenset({"", "message", "error", "chat.completion.chunk"})


class ChunkDecoder:
    """Decodes events of one attempt. It feeds them to the assembler, and raises the errors that they report.

    Attributes:
        decode_errors: The number of events so far that were not UTF-8.
    """

    __slots__ = ("_assembler", "_call", "_wire", "decode_errors")

    def __init__(self, call: Call, wire: WireResponse, assembler: Assembler) -> None:
        self._call = call
        self._wire = wire
        self._assembler = assembler
        self.decode_errors = 0

    def decode(self, event: Event) -> list[ResponseChunk] | None:
        """Return the chunks of an event, mostly one or none; ``None`` for an event without data, which is no sign of life.

        Raises:
            GroqProviderError: The event reports an error, or cannot be decoded.
        """
        name, data = event
        try:
            text = str(data, "utf-8")
        except UnicodeDecodeError:
            self.decode_errors += 1
            text = str(data[: json_text.AT_ONCE], "utf-8", "replace")
        try:
            if len(data) <= _LARGE_EVENT:
                decoded = json_text.loads_text(text, "an event of the stream")
            else:
                checkpoint = self._call.scope.checkpoint
                checkpoint()
                decoded = json_text.loads(data, "an event of the stream", checkpoint=checkpoint)
        except e.ResponseDecodeError:
            if name != "error":
                if not data.strip():
                    return None
                raise
            decoded = text
        if name == "error" or (type(decoded) is dict and (decoded.get("error") or decoded.get("object") == "error")):
            self._wire.drain(self._call.scope)  # the last event: if the body ends here, the connection serves again
            raise self._reported_error(decoded)
        assembler = self._assembler
        chunk = assembler.feed(decoded, data)
        if assembler.stop_error is not None:
            self._wire.drain(self._call.scope)
            raise self._stop_error(assembler.stop_error)
        if chunk is None:
            return []
        chunks = [chunk]
        if assembler.other_chunks:
            chunks += assembler.other_chunks
            assembler.other_chunks = []
        return chunks

    def _reported_error(self, decoded: Any) -> e.GroqProviderError:
        """Return the error that an error event reports: of the class that its status and code give without streaming."""
        found = reported_error(decoded)
        if found is None:
            has_message = type(decoded) is dict and "message" in decoded
            found = decoded if has_message else {"message": json_text.as_text(decoded) if decoded else ""}
        error: e.GroqProviderError = self._call.reported(found, made=True, request_id=self._assembler.request_id)
        if isinstance(error, e.RateLimitedError) and not self._assembler.chunks:
            self._call.nothing_made()
        if type(error) is e.APIStatusError and error.status_code is None:
            error = e.StreamInterruptedError(
                f"the service reported an error in the stream: {error.message}", code=error.code, type=error.type
            )
        return error

    def _stop_error(self, text: str) -> e.GroqProviderError:
        """Return the error for an answer that the service stopped early."""
        assembler = self._assembler
        if assembler.failed_choice is not None:
            return self._call.ended_badly(assembler.failed_choice)
        text = redact_key(text, self._call.runtime.secret)
        assembler.replace_stop_error(text)
        return e.StreamInterruptedError(f"the service stopped the answer early: {text[:300]}")


def belongs_to_answer(event: Event) -> bool:
    """Return whether an event carries a chunk, an error or the end mark.

    Anything else is a ping or a heartbeat. Some servers name an event after the ``object`` of its data, and the end mark "done".
    """
    name, data = event
    if name in _CHUNK_EVENTS:
        return True
    if data[:6] == DONE:
        return name == "done"
    if b'"object"' not in data:
        return False
    try:
        decoded = json_text.loads(data)
    except e.ResponseDecodeError:
        return False
    return type(decoded) is dict and decoded.get("object") == name


def ends_answer(event: Event, *, has_finished: bool) -> bool:
    """Return whether an event that the end of the body left without its blank line is whole, and the last one.

    That is an end mark, a finish reason, or an error. After the finish reason (*has_finished*) it is any event that can be decoded, since
    no text may be missing in a complete answer.
    """
    if event.data[:6] == DONE or event.name == "error":
        return True
    try:
        decoded = json_text.loads(event.data)
    except e.ResponseDecodeError:
        return False
    if type(decoded) is not dict:
        return False
    if has_finished or decoded.get("error") or decoded.get("object") == "error":
        return True
    choices = decoded.get("choices")
    return type(choices) is list and any(type(item) is dict and item.get("finish_reason") for item in choices)
