"""A bridge: speaks HTTP/2 in front of an HTTP/1.1 server, so that a suite written for such a server can be rerun over HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from support.http2_servers import ErrorCodes, Http2Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.http2_servers import Peer, Request

__all__ = ["Bridge", "behind", "bridged"]

#: Fields of an HTTP/1.1 connection, which must not be sent over HTTP/2.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"})
_PIECE = 65_536


class BrokenError(Exception):
    """The server behind the bridge violates HTTP, or its connection broke."""


class _Rest(asyncio.StreamReader):
    """Returns the bytes that have arrived before it raises an error."""

    error: Exception | None = None

    def set_exception(self, exc: Exception) -> None:
        self.error = exc
        self.feed_eof()

    async def read(self, n: int = -1) -> bytes:
        data = await super().read(n)
        if not data and n and self.error is not None:
            raise self.error
        return data


class _Behind(asyncio.StreamReaderProtocol):
    """The read side of the connection to the server behind a bridge.

    The server may answer, and end the connection, before it has read the request. When a write fails, asyncio drops an
    answer that it has not read yet; this class keeps it.
    """

    def __init__(self, reader: _Rest) -> None:
        super().__init__(reader)
        self._rest = reader
        self._way: Any = None

    def connection_made(self, transport: Any) -> None:
        self._way = transport
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            with self._way.get_extra_info("socket").dup() as sock, contextlib.suppress(OSError):
                while data := sock.recv(_PIECE):  # does not block: the transport made the socket non-blocking
                    self._rest.feed_data(data)
        super().connection_lost(exc)


async def behind(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server behind a bridge."""
    loop, reader = asyncio.get_running_loop(), _Rest(1 << 20)
    transport, protocol = await loop.create_connection(lambda: _Behind(reader), host, port)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Bridge(Http2Server):
    """Speaks HTTP/2 in front of an HTTP/1.1 server.

    Each stream is forwarded on a connection of its own, which serves a later stream of the same client if its answer
    ended properly. Bytes are passed on as they arrive, in both directions. A failure behind the bridge becomes
    RST_STREAM in front of it; a stream that the client cancels closes its connection behind the bridge.
    """

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._host, self._upstream_port = parts.hostname or "", parts.port or 80
        super().__init__(credits=False, connected=self._open_wide)

    async def _open_wide(self, peer: Peer) -> None:
        """Let streams be stopped by their own windows only, as the servers do that this one stands for."""
        peer.h2.increment_flow_control_window(1 << 28)
        peer.flush()

    async def answer(self, request: Request) -> None:
        """Forward one stream."""
        others = request.peer.requests.values()
        while any(other.answered and not other.done for other in others):  # noqa: ASYNC110 - it takes a round or two
            await asyncio.sleep(0)
        try:
            await self._bridge(request)
        finally:
            request.done = True

    @property
    def unfinished(self) -> int:
        """Streams that are still being forwarded.

        Streams of a closed connection do not count: some may never have begun.
        """
        return sum(not (request.done or request.peer.gone) for request in list(self.requests))

    async def _bridge(self, request: Request) -> None:
        reader, writer = await self._connection(request)
        work = asyncio.ensure_future(self._forward(request, reader, writer))
        leaving = asyncio.ensure_future(request.left())
        keep = False
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                try:
                    keep = work.result()
                except (BrokenError, OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                    request.abort(ErrorCodes.INTERNAL_ERROR)
        finally:
            for task in (work, leaving):
                task.cancel()
            # Before the first await, which may be cancelled.
            if keep and not request.peer.gone:
                request.peer.kept.append((reader, writer))
            else:
                writer.transport.abort()
            await asyncio.gather(work, leaving, return_exceptions=True)

    async def _connection(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await asyncio.sleep(0)  # lets the loop see which of them have ended
        kept = request.peer.kept
        while kept:  # no await while one is in hand: it could be cancelled
            reader, writer = kept.pop()
            if not reader.at_eof() and not reader._buffer and not writer.is_closing():
                poller = select.poll()  # the end may have arrived before the loop sees it
                poller.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
                if not poller.poll(0):
                    return reader, writer
            writer.transport.abort()
        # Resolve the name here: it is local, and a pool of threads for it would outlive the test.
        address = socket.getaddrinfo(self._host, self._upstream_port, type=socket.SOCK_STREAM)[0][4]
        try:
            return await behind(address[0], address[1])
        except OSError:
            request.abort(ErrorCodes.REFUSED_STREAM)
            raise

    async def _forward(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Forward request and answer; say whether the connection can serve again."""
        upload = asyncio.ensure_future(self._upload(request, writer))
        try:
            reusable = await self._download(request, reader)
        finally:
            sent = upload.done() and not upload.cancelled() and upload.exception() is None
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        if not sent and not request.ended:
            request.abort(ErrorCodes.NO_ERROR)  # the answer does not depend on the rest of the request
        return reusable and sent

    async def _upload(self, request: Request, writer: asyncio.StreamWriter) -> None:
        names = request.headers
        lines = [f"{request.method} {request.path} HTTP/1.1", f"host: {names.get(':authority', '')}"]
        lines += [
            f"{name}: {text}"
            for name, text in request.fields
            if name[0] != ":" and name not in _HOP and name not in ("host", "te")
        ]
        body = b""
        if "content-length" not in names:
            body = await self._whole(request)
            if body or request.method == "POST":
                lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        await writer.drain()
        while data := await request.take():
            writer.write(data)
            await writer.drain()
            request.credit()

    async def _whole(self, request: Request) -> bytes:
        body = b""
        while data := await request.take():
            request.credit()
            body += data
        return body

    async def _download(self, request: Request, reader: asyncio.StreamReader) -> bool:
        while True:
            status, version, fields = await self._head(reader)
            names = dict(fields)
            passed = [(name, text) for name, text in fields if name not in _HOP]
            if status >= 200:
                break
            request.head(status, *passed)
        chunked = "chunked" in names.get("transfer-encoding", "").lower()
        length = None if chunked or "content-length" not in names else int(names["content-length"])
        if request.method == "HEAD" or status in (204, 304) or length == 0:
            request.head(status, *passed, end=True)
        else:
            request.head(status, *passed)
            if chunked:
                await self._chunks(request, reader)
            elif length is not None:
                await self._counted(request, reader, length, end=True)
            else:
                while data := await reader.read(_PIECE):
                    await request.data(data)
                await request.data(end=True)
                return False
        return version == "HTTP/1.1" and "close" not in names.get("connection", "").lower()

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, str, list[tuple[str, str]]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1."):
            raise BrokenError(first)
        pairs = [line.partition(":") for line in lines]
        if not all(colon and name and name == name.strip() for name, colon, _ in pairs):
            raise BrokenError(head)
        return int(rest[:3]), version, [(name.lower(), text.strip()) for name, _, text in pairs]

    async def _counted(self, request: Request, reader: asyncio.StreamReader, left: int, *, end: bool) -> None:
        while left:
            data = await reader.read(min(left, _PIECE))
            if not data:
                raise BrokenError("cut")
            left -= len(data)
            await request.data(data, end=end and not left)

    async def _chunks(self, request: Request, reader: asyncio.StreamReader) -> None:
        while True:
            line = await reader.readuntil(b"\r\n")
            digits = line.partition(b";")[0].strip()
            if not digits or digits.strip(b"0123456789abcdefABCDEF"):
                raise BrokenError(line)
            size = int(digits, 16)
            if not size:
                break
            await self._counted(request, reader, size, end=False)
            if await reader.readexactly(2) != b"\r\n":
                raise BrokenError("chunk")
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
        await request.data(end=True)


@contextlib.contextmanager
def bridged(upstream: str) -> Iterator[Bridge]:
    """Run a :class:`Bridge` for the length of a block."""
    with Bridge(upstream) as bridge:
        yield bridge
