"""Tell by its first bytes whether the answer to a stream request is an event stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from groq_provider import errors as e
from groq_provider.call.call import MAX_BODY
from groq_provider.wire.sse import is_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.protocols import WireResponse

__all__ = ["BodySniffer", "is_labelled_stream"]


def is_labelled_stream(wire: WireResponse) -> bool:
    """Return whether the head of an answer announces an event stream."""
    headers = wire.headers
    content_type = headers.get("content-type")
    return (
        content_type is not None
        and content_type.lower().startswith("text/event-stream")
        and wire.status_code != 204
        and headers.get("content-length") != "0"
    )


class BodySniffer:
    """Reads the beginning of a body if its head announces no event stream.

    The body may be an event stream with a wrong content type, one JSON answer, the page of a gateway, or nothing.

    Attributes:
        is_stream: Whether the lines read so far show an event stream. From then on you can read the body without the sniffer.
    """

    __slots__ = ("_first_lines", "_wire", "is_stream")

    def __init__(self, wire: WireResponse) -> None:
        self._wire = wire
        self._first_lines: list[bytes] = []
        self.is_stream = False

    def read_lines(self) -> list[bytes] | None:
        """Read once, and return lines to decode as events; ``None`` if the body is no event stream: then call :meth:`read_body`."""
        lines = self._wire.read_lines()
        first = next((line for line in lines or () if line.strip()), None)
        if first is None and lines is not None:
            return lines  # blank lines tell nothing
        if first is not None and is_stream(first):
            self.is_stream = True
            return lines
        self._first_lines = lines or []
        return None

    def read_body(self, checkpoint: Callable[[], object]) -> bytes:
        """Return the whole body, with each line end as LF: JSON has no line ends that matter.

        Args:
            checkpoint: Called after every read. It may raise, to enforce a deadline or a cancellation.
        """
        lines, self._first_lines = self._first_lines, []
        if not lines:
            return self._wire.read_body(MAX_BODY)
        # One buffer, not a list of lines: an object for each short line would take more memory than the line.
        body = bytearray(b"\n".join(lines))
        while (more := self._wire.read_lines()) is not None:
            checkpoint()
            if more:
                body += b"\n"
                body += b"\n".join(more)
            if len(body) > MAX_BODY:
                raise e.ResponseTooLargeError(f"the answer is larger than {MAX_BODY:,} bytes", sent=True)
        return bytes(body)
