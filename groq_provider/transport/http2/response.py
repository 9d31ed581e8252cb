"""Answers that came over HTTP/2, in the shape of :class:`~groq_provider.transport.http1.receive.Answer`."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

from groq_provider.transport.http1.receive import Headers

if TYPE_CHECKING:
    from groq_provider.transport.http2.stream import Stream
    from groq_provider.transport.scope import CancelScope

__all__ = ["HTTP2Response"]


class HTTP2Response:
    """One answer: its head is there, its body is read as it arrives.

    Belongs to the thread that runs the call.

    Attributes:
        status: Status code.
        reason: What HTTP/1.1 calls it, for people: HTTP/2 has no words for it.
        version: 20, as urllib3 writes it.
        headers: Header fields.
        marked: Whether the end of the body shows in the body itself: always.
        serves_again: Whether its end leaves the connection good: always, it is not its own.
    """

    __slots__ = ("__weakref__", "_call", "_stream", "headers", "reason", "status")

    version = 20
    marked = serves_again = True

    def __init__(self, stream: Stream, head: list[tuple[bytes, bytes]], scope: CancelScope) -> None:
        self._stream = stream
        self._call = scope
        self.headers = fields = Headers()
        self.status = 0
        container = fields._container
        for raw_name, raw_value in head:
            value = raw_value.decode("latin-1")
            if raw_name == b":status":
                self.status = int(value)
                continue
            name = raw_name.decode("latin-1")
            if name in container:
                container[name].append(value)
            else:
                container[name] = [name, value]
        self.reason = http.client.responses.get(self.status, "")

    def read1(self) -> bytes:
        """Return what has arrived of the body, waiting for the first byte; nothing at its end.

        Raises:
            TimeoutError: The call's limit has passed.
            OSError: The stream or its connection has broken.
            http.client.HTTPException: Less came than was announced, or more.
        """
        stream = self._stream
        scope = self._call
        scope.left(scope.deadline)  # also where there is always more to take
        while True:
            ended = stream.ended  # first: what came before the end is in the parts by now
            if stream.parts:
                return self._take()
            if ended:
                if stream.problem is not None:
                    raise stream.failure()
                if missing := self._missing():
                    raise http.client.IncompleteRead(b"", missing)
                return b""
            if not stream.connection.wait(stream, scope.left(scope.deadline)):
                raise TimeoutError("timed out")

    def _take(self) -> bytes:
        stream = self._stream
        parts = stream.parts
        data = parts.popleft()
        if parts:
            taken = [data]
            while parts:
                taken.append(parts.popleft())
            data = b"".join(taken)
        if not stream.ended:
            stream.connection.took(stream, len(data))
        return data

    def _missing(self) -> int:
        return max(0, (self._stream.announced or 0) - self._stream.received)

    @property
    def complete(self) -> bool:
        """Whether the end has come, so that no further read is needed to know it."""
        stream = self._stream
        return stream.ended and not stream.parts and stream.problem is None and not self._missing()

    @property
    def over(self) -> bool:
        """Whether the end of the body was read."""
        return self._stream.ended and not self._stream.parts

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read1` has something to do: bytes, the end, an error."""
        stream = self._stream
        return stream.news() or bool(stream.connection.wait(stream, timeout))

    def drop(self) -> None:
        """End the stream unless it has ended. Idempotent; waits for nothing, so that finalizers may call it."""
        stream = self._stream
        if not stream.ended:
            stream.connection.drop(stream)

    release = abandon = close = drop

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.drop()
