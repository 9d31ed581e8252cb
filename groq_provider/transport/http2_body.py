"""The body of an answer that came over HTTP/2, read as http.client's are."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING

from urllib3 import HTTPResponse

from .connection import Fields, WireBody

if TYPE_CHECKING:
    from .call import CallState
    from .http2_frames import Stream

__all__ = ["Http2Body", "answer_of"]


class Http2Body(WireBody):
    """What urllib3 and :class:`Response` read a body from. Belongs to one thread.

    Attributes:
        length: Known once the body has ended: what of the announced length has not come.
    """

    chunked = False

    def __init__(self, stream: Stream, call: CallState) -> None:
        self.length: int | None = None
        self._stream = stream
        self._call = call
        self._closed = False

    def read1(self, n: int = -1) -> bytes:
        """Return what has arrived, *n* bytes at most, waiting for the first; nothing at the end.

        Raises:
            TimeoutError: The call's limit has passed.
            OSError: The stream or its connection has broken.
        """
        stream = self._stream
        while not self._closed:
            ended = stream.ended  # first: what came before the end is in the parts by now
            if stream.parts:
                return self._take(n)
            if ended:
                return self._end()
            if not stream.connection.wait(stream, self._call.deadline):
                raise TimeoutError("timed out")
        return b""

    def _take(self, n: int) -> bytes:
        stream = self._stream
        parts = stream.parts
        data = parts.popleft()
        if parts or 0 < n < len(data):
            taken, size = [data], len(data)
            while parts and (n < 0 or size < n):
                data = parts.popleft()
                taken.append(data)
                size += len(data)
            data = b"".join(taken)
            if 0 < n < size:
                parts.appendleft(data[n:])
                data = data[:n]
        if stream.ended:
            if not parts and stream.problem is None:
                self._know_length()
        else:
            stream.connection.took(stream, len(data))
        return data

    def _know_length(self) -> None:
        stream = self._stream
        self.length = max(0, (stream.announced or 0) - stream.received)

    def _end(self) -> bytes:
        if self._stream.problem is not None:
            raise self._stream.failure()
        self._know_length()
        return b""

    def read(self, amt: int | None = None) -> bytes:
        """Return *amt* bytes or fewer, or all there is until the end."""
        if amt is not None and amt >= 0:
            return self.read1(amt) if amt else b""
        parts = []
        while data := self.read1():
            parts.append(data)
        return b"".join(parts)

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until a read has something to do."""
        stream = self._stream
        return self._closed or stream.news() or stream.connection.wait(stream, time.monotonic() + timeout)

    def isclosed(self) -> bool:
        """Say whether it is closed; for urllib3."""
        return self._closed

    def close(self) -> None:
        """End the stream unless it has ended. Idempotent; waits for nothing, so that finalizers may call it."""
        if not self._closed:
            self._closed = True
            if not self._stream.ended:
                self._stream.connection.drop(self._stream)

    __del__ = close


def answer_of(stream: Stream, head: list[tuple[bytes, bytes]], call: CallState, method: str, url: str) -> HTTPResponse:
    """Return urllib3's answer around ours."""
    status = 0
    fields = Fields()
    container = fields._container
    for raw_name, raw_value in head:
        value = raw_value.decode("latin-1")
        if raw_name == b":status":
            status = int(value)
            continue
        name = raw_name.decode("latin-1")
        if name in container:
            container[name].append(value)
        else:
            container[name] = [name, value]
    return HTTPResponse(
        body=Http2Body(stream, call),  # type: ignore[arg-type]  # as much of a file as is asked for
        headers=fields,
        status=status,
        version=20,
        version_string="HTTP/2",
        reason=http.client.responses.get(status, ""),
        preload_content=False,
        decode_content=False,
        request_method=method,
        request_url=url,
    )
