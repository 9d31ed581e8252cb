"""HTTP/2 responses, with the methods of :class:`~groq_provider.transport.http1.receive.HTTP11Response`."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from groq_provider.transport.http1.receive import Headers

if TYPE_CHECKING:
    from groq_provider.transport.http2.stream import Stream
    from groq_provider.transport.scope import CancelScope

__all__ = ["HTTP2Response"]


class HTTP2Response:
    """One response: its head has arrived, :meth:`read1` reads the body as it arrives.

    Belongs to the thread that runs the call.

    Attributes:
        status: Status code.
        reason: The reason phrase of HTTP/1.1 for the status, since HTTP/2 sends none.
        version: 20, as in urllib3.
        headers: Header fields.
        self_delimited: Always true: the end of the body is marked.
        can_reuse: Always true: the connection is shared, and this response does not end it.
    """

    __slots__ = ("__weakref__", "_scope", "_stream", "headers", "reason", "status")

    version = 20
    self_delimited = can_reuse = True

    def __init__(self, stream: Stream, head: list[tuple[bytes, bytes]], scope: CancelScope) -> None:
        self._stream = stream
        self._scope = scope
        self.headers = fields = Headers()
        self.status = 0
        for raw_name, raw_value in head:
            value = raw_value.decode("latin-1")
            if raw_name == b":status":
                self.status = int(value)
                continue
            fields.add(raw_name.decode("latin-1"), value)
        self.reason = http.client.responses.get(self.status, "")

    def read1(self) -> bytes:
        """Return the part of the body that has arrived, waiting for the first byte; empty at the end of the body.

        Raises:
            TimeoutError: The deadline of the call has passed.
            OSError: The stream or its connection broke.
            http.client.HTTPException: The body was shorter or longer than announced.
        """
        stream = self._stream
        scope = self._scope
        scope.seconds_left(scope.deadline)  # check the deadline even if there is always more to read
        while True:
            ended = stream.ended  # read first: the parts that arrived before the end are in the deque by now
            if stream.body_parts:
                return self._take_parts()
            if ended:
                if stream.failure_spec is not None:
                    raise stream.failure()
                if missing_bytes := self._missing_bytes():
                    raise http.client.IncompleteRead(b"", missing_bytes)
                return b""
            if not stream.connection.wait(stream, scope.seconds_left(scope.deadline)):
                raise TimeoutError("timed out")

    def _take_parts(self) -> bytes:
        stream = self._stream
        parts = stream.body_parts
        data = parts.popleft()
        if parts:
            pieces = [data]
            while parts:
                pieces.append(parts.popleft())
            data = b"".join(pieces)
        if not stream.ended:
            stream.connection.acknowledge(stream, len(data))
        return data

    def _missing_bytes(self) -> int:
        return max(0, (self._stream.content_length or 0) - self._stream.received_bytes)

    @property
    def complete(self) -> bool:
        """Whether the end has arrived, so that no further read is needed to know it."""
        stream = self._stream
        return stream.ended and not stream.body_parts and stream.failure_spec is None and not self._missing_bytes()

    @property
    def fully_read(self) -> bool:
        """Whether the end of the body was read."""
        return self._stream.ended and not self._stream.body_parts

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read1` can return or raise without waiting."""
        stream = self._stream
        return stream.has_news() or bool(stream.connection.wait(stream, timeout))

    def drop(self) -> None:
        """End the stream unless it has ended. Idempotent; never waits, so finalizers can call it."""
        stream = self._stream
        if not stream.ended:
            stream.connection.drop(stream)

    release = abandon = close = drop

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.drop()
