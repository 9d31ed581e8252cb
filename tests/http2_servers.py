"""HTTP/2 servers on this machine, over TLS with ALPN: one that breaks the rules on purpose, and a bridge to servers of HTTP/1.1.

A server is one thread with an event loop. What tests script are coroutines: one for each request, and one for each connection.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import select
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from fakes import PATIENCE

pytest.importorskip("h2", reason="speaks HTTP/2")

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings
from hpack import NeverIndexedHeaderTuple
from hyperframe.frame import GoAwayFrame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

__all__ = ["Authority", "Bridge", "ErrorCodes", "Http2Server", "Peer", "Request", "SettingCodes", "authority"]


def _of_clients(record: logging.LogRecord) -> bool:
    """Say whether a line of the library's log is not of these servers: it tells what it decodes, keys included."""
    return record.threadName != "http2-server"


for _name in ("hpack.hpack", "hpack.table"):
    logging.getLogger(_name).addFilter(_of_clients)

#: Names that certificates are made out for.
NAMES = ("localhost", "127.0.0.1", "service.test")


class Authority:
    """A certificate authority, a certificate for this machine, and their files."""

    def __init__(self) -> None:
        trustme = pytest.importorskip("trustme", reason="makes the certificates")
        self.folder = Path(tempfile.mkdtemp(prefix="groq-provider-http2-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        ca = trustme.CA()
        self.issued = ca.issue_cert(*NAMES)
        self.file, self.key, self.certificate = (
            str(self.folder / name) for name in ("ca.pem", "server.key", "server.pem")
        )
        ca.cert_pem.write_to_path(self.file)
        self.issued.private_key_pem.write_to_path(self.key)
        for index, pem in enumerate(self.issued.cert_chain_pems):
            pem.write_to_path(self.certificate, append=index > 0)

    def context(self, *protocols: str) -> ssl.SSLContext:
        """A server's context that offers *protocols* by ALPN; none: it does not know ALPN."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """A client's context that trusts this authority."""
        context = ssl.create_default_context(cafile=self.file)
        context.set_alpn_protocols(list(protocols or ("h2",)))
        return context


@functools.cache
def authority() -> Authority:
    """The one authority of this process."""
    return Authority()


class GoneError(ConnectionError):
    """The client has given the stream up, or the connection is over."""


class Request:
    """A stream as the server sees it.

    Attributes:
        headers: Its fields by name, pseudo-headers too.
        never_indexed: Names of the fields that the client forbids to index.
        body: What has come of it.
        ended: Whether all of it has come.
        reset: The code of the client's RST_STREAM.
    """

    def __init__(self, peer: Peer, number: int, fields: list[tuple[str, str]]) -> None:
        self.peer = peer
        self.id = number
        self.fields = [(str(name), str(text)) for name, text in fields]
        self.headers = dict(self.fields)
        self.never_indexed = {str(field[0]) for field in fields if isinstance(field, NeverIndexedHeaderTuple)}
        self.body = bytearray()
        self.ended = False
        self.reset: int | None = None
        self.trailers: list[tuple[str, str]] | None = None
        self.answered = False
        self.unread = 0
        self.done = False
        self._taken = 0

    @property
    def method(self) -> str:
        return self.headers[":method"]

    @property
    def path(self) -> str:
        return self.headers[":path"]

    @property
    def gone(self) -> bool:
        return self.reset is not None or self.peer.gone

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something that the client does.

        Raises:
            GoneError: It can do no more for this stream.
        """
        while not condition():
            if self.gone:
                raise GoneError
            await self.peer.news()

    async def whole(self) -> bytes:
        """Return the body when all of it is there."""
        await self.until(lambda: self.ended)
        return bytes(self.body)

    async def take(self) -> bytes:
        """Return what has come of the body since the last time; nothing at its end."""
        await self.until(lambda: self.ended or len(self.body) > self._taken)
        found = bytes(self.body[self._taken :])
        self._taken += len(found)
        return found

    async def left(self) -> None:
        """Wait until the client has given the stream up."""
        while not self.gone:
            await self.peer.news()

    def credit(self, count: int | None = None) -> None:
        """Allow the client to send *count* more bytes, by default what it has sent, where the server does not by itself."""
        count, self.unread = self.unread if count is None else count, 0
        if count and not self.gone:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.peer.h2.acknowledge_received_data(count, self.id)
        self.peer.flush()

    # --- answering ---------------------------------------------------------------------------------------------------------

    def head(self, status: int = 200, *fields: tuple[str, str], end: bool = False) -> None:
        """Send the head of an answer, or an interim one."""
        self._call("send_headers", [(":status", str(status)), *fields], end_stream=end)
        if end:
            self.answered = True

    async def data(self, data: bytes = b"", *, end: bool = False, pad: int | None = None, piece: int = 1 << 20) -> None:
        """Send some of the body, as the client's windows allow."""
        rest = memoryview(data)
        connection = self.peer.h2
        extra = 0 if pad is None else pad + 1
        while rest or end:
            try:
                room = min(connection.local_flow_control_window(self.id), connection.max_outbound_frame_size) - extra
            except h2.exceptions.ProtocolError:
                raise GoneError from None
            room = min(room, len(rest), piece)
            if rest and room <= 0:
                if self.gone:
                    raise GoneError
                await self.peer.news()
                continue
            now, rest = bytes(rest[:room]), rest[room:]
            last = end and not rest
            if last:
                self.answered = True
            self._call("send_data", now, end_stream=last, pad_length=pad)
            await self.peer.drain()
            if last:
                break

    def finish(self, *fields: tuple[str, str]) -> None:
        """End the answer with trailers."""
        self.answered = True
        self._call("send_headers", list(fields), end_stream=True)

    def abort(self, code: int = ErrorCodes.INTERNAL_ERROR) -> None:
        """Send RST_STREAM."""
        self.answered = True
        with contextlib.suppress(GoneError):
            self._call("reset_stream", error_code=code)

    def _call(self, name: str, *arguments: Any, **options: Any) -> None:
        if self.gone:
            raise GoneError
        try:
            getattr(self.peer.h2, name)(self.id, *arguments, **options)
        except h2.exceptions.ProtocolError as problem:
            raise GoneError from problem
        self.peer.flush()

    async def json(self, data: bytes = b"{}", status: int = 200) -> None:
        """Send a whole answer."""
        self.head(status, ("content-type", "application/json"), ("content-length", str(len(data))))
        await self.data(data, end=True)


class _Counted(h2.connection.H2Connection):
    """How many streams are allowed is watched by :class:`Peer`: clients may open more before they have heard of a limit."""

    open_inbound_streams = -1


class Peer:
    """A connection of a client.

    Attributes:
        settings_acks, ping_acks, goaways: What it has sent of these. announced: How many SETTINGS were sent to it.
        gone: Whether it is over.
        most: How many streams were open at once.
    """

    def __init__(self, server: Http2Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.requests: dict[int, Request] = {}
        self.open = 0
        self.most = 0
        self.settings_acks = 0
        self.pings = 0
        self.ping_acks: list[bytes] = []
        self.goaways: list[int] = []
        self.gone = False
        self.closed_cleanly = False
        #: A bridge's connections to the server behind it that can serve again.
        self.kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.received = 0
        self._deaf = False
        self._mute = False
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        configuration = h2.config.H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = _Counted(configuration)
        settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 20, **server.settings}
        self.limit = settings[SettingCodes.MAX_CONCURRENT_STREAMS]
        self.h2.local_settings = Settings(client=False, initial_values=settings)
        self.h2.max_inbound_frame_size = settings.get(SettingCodes.MAX_FRAME_SIZE, 16_384)
        self.announced = 1  # how often settings were sent

    # --- for scripts -------------------------------------------------------------------------------------------------------

    async def news(self) -> None:
        """Wait until the client has sent something, or the connection has ended."""
        await self._news.wait()

    def flush(self) -> None:
        """Send what the library has made."""
        data = self.h2.data_to_send()
        if data and not self._mute and not self.gone:
            self.writer.write(data)

    async def drain(self) -> None:
        """Wait until there is room; give the loop a turn in any case, in which it reads what the client has sent."""
        with contextlib.suppress(OSError):
            await self.writer.drain()  # as long as there is room, this lets nobody else run
        await asyncio.sleep(0)

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.flush()
        self.writer.write(data)

    def goaway(self, last: int, code: int = ErrorCodes.NO_ERROR, debug: bytes = b"") -> None:
        """Send GOAWAY; the connection goes on as far as the client likes."""
        self.write(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=debug).serialize())

    def settings(self, **values: int) -> None:
        """Change settings."""
        found = {SettingCodes[name.upper()]: value for name, value in values.items()}
        self.limit = found.get(SettingCodes.MAX_CONCURRENT_STREAMS, self.limit)
        self.h2.update_settings(found)
        self.announced += 1
        self.flush()

    def ping(self, data: bytes = b"12345678") -> None:
        self.h2.ping(data)
        self.flush()

    def freeze(self) -> None:
        """Read nothing and write nothing from now; the connection stays open."""
        self._deaf = self._mute = True
        self.writer.transport.pause_reading()

    def cut(self) -> None:
        """End the connection, TLS included."""
        self.flush()
        self.gone = True
        if self._mute:
            self.writer.transport.abort()
        else:
            self.writer.close()  # says so in TLS, and waits for the same from the client, who may be in no hurry
            asyncio.get_running_loop().call_later(0.1, self.writer.transport.abort)
        self._tell()

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    # --- what comes in -----------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        self.h2.initiate_connection()
        self.flush()
        if self.server.connected is not None:
            self.start(self.server.connected(self))
        try:
            while not self._deaf:
                data = await self.reader.read(65_536)
                if not data:
                    self.closed_cleanly = True
                    break
                if self._deaf:
                    break
                self.received += len(data)
                for event in self.h2.receive_data(data):
                    self._handle(event)
                self.flush()
                self._tell()
                await self.drain()
            if self._deaf:
                await asyncio.Event().wait()  # until the server closes
        except h2.exceptions.ProtocolError as problem:
            self.server.complaints.append(problem)
            self.flush()
        except OSError:
            pass
        finally:
            self.gone = True
            self._tell()
            for task in list(self._tasks):
                if not self.server.patient:
                    task.cancel()
            self.writer.transport.abort()
            for _, kept in self.kept:
                kept.transport.abort()
            self.kept.clear()
            self.server.tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
        self.server.tell()

    def _handle(self, event: Any) -> None:
        kind = type(event)
        if kind is h2.events.RequestReceived:
            request = self.requests[event.stream_id] = Request(self, event.stream_id, event.headers)
            self.server.requests.append(request)
            count = sum(not (each.answered or each.reset is not None) for each in self.requests.values())
            if count > self.limit:
                self.server.refused += self.settings_acks == self.announced
                request.answered = True
                request.abort(ErrorCodes.REFUSED_STREAM)
                return
            self.most = max(self.most, count)
            self.start(self._answer(request))
        elif kind is h2.events.DataReceived:
            request = self.requests[event.stream_id]
            request.body += event.data
            if self.server.credits:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                request.unread += event.flow_controlled_length
        elif kind is h2.events.StreamEnded:
            self.requests[event.stream_id].ended = True
        elif kind is h2.events.StreamReset:
            request = self.requests[event.stream_id]
            if event.remote_reset:
                self.server.resets.append((event.stream_id, int(event.error_code)))  # first: tests look at both
                request.reset = int(event.error_code)
        elif kind is h2.events.SettingsAcknowledged:
            self.settings_acks += 1
        elif kind is h2.events.PingReceived:
            self.pings += 1
        elif kind is h2.events.PingAckReceived:
            self.ping_acks.append(event.ping_data)
        elif kind is h2.events.ConnectionTerminated:
            self.goaways.append(int(event.error_code))

    async def _answer(self, request: Request) -> None:
        try:
            await self.server.answer(request)
        finally:
            if not self.server.remembers:
                self.requests.pop(request.id, None)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a script of this connection."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: work.close())  # one that is cancelled at once has not begun

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except OSError:
            pass  # the client is gone
        except Exception as problem:
            self.server.problems.append(problem)
        finally:
            self.server.tell()


class Http2Server:
    """Speaks HTTP/2 over TLS as scripts say. Ready when it exists; to be closed.

    Args:
        answer: A coroutine function of each :class:`Request`; it may return before the answer is whole.
        connected: A coroutine function of each :class:`Peer`.
        protocols: Of ALPN.
        settings: What the first SETTINGS frame says, by code.
        credits: Whether clients get window updates by themselves; else scripts call :meth:`Request.credit`.
        released: What scripts may wait on: set when the test is over.

    Attributes:
        peers: Every connection there was, in order. requests: Every stream.
        resets: Stream and code of every RST_STREAM of clients.
        complaints: Where clients have broken the protocol; ``close`` raises them.
        refused: How many streams were too many for a limit that the client knew. (Those are refused, and others that come earlier.)
    """

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[None]] | None = None,
        *,
        connected: Callable[[Peer], Coroutine[Any, Any, None]] | None = None,
        protocols: tuple[str, ...] = ("h2", "http/1.1"),
        settings: dict[SettingCodes, int] | None = None,
        credits: bool = True,
    ) -> None:
        if answer is not None:
            self.answer = answer  # type: ignore[method-assign]
        self.connected = connected
        self.settings = settings or {}
        self.credits = credits
        self.remembers = True
        self.patient = False
        self.peers: list[Peer] = []
        self.requests: list[Request] = []
        self.resets: list[tuple[int, int]] = []
        self.problems: list[BaseException] = []
        self.complaints: list[BaseException] = []
        self.refused = 0
        self.others: list[str | None] = []
        self._changed = threading.Condition()
        self._serving: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}"
        self._context = authority().context(*protocols)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._unhandled)
        self._thread = threading.Thread(target=self._run, name="http2-server", daemon=True)
        self.released = asyncio.Event()
        self._ending = asyncio.Event()  # here: the end may come before the thread has begun
        self._thread.start()

    async def answer(self, request: Request) -> None:
        """Answer one request; subclasses and scripts replace it."""
        await request.whole()
        await request.json()

    async def other(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client that has not chosen HTTP/2; by default it gets one answer over HTTP/1.1 for each request."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            body = await reader.readexactly(length)
            answer = await self.other_answer(lines, body)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(answer)
                + answer
            )
            await writer.drain()

    async def other_answer(self, lines: list[str], body: bytes) -> bytes:
        return b"{}"

    # --- for tests -----------------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        return len(self.peers)

    @property
    def open_connections(self) -> int:
        return sum(not peer.gone for peer in list(self.peers))

    @property
    def open_streams(self) -> int:
        """Streams that are neither answered nor given up."""
        return sum(not (each.answered or each.gone) for each in list(self.requests))

    def wait(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Wait until *condition* holds; say whether it does."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def do(self, work: Callable[[], Any]) -> Any:
        """Run a function in the server's thread and return what it returns."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def release(self) -> None:
        """Set ``released`` before the test is over."""
        self.do(self.released.set)

    def close(self, *, strict: bool = True) -> None:
        """End everything; raise what went wrong in scripts and, unless told otherwise, what clients did wrong."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the server does not end"
            self._loop.close()
        if self.problems:
            raise self.problems[0]
        if strict and self.complaints:
            raise self.complaints[0]

    def __enter__(self) -> Any:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        self.close(strict=kind is None)

    # --- the loop ------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, ssl=self._context, backlog=512)
        await self._ending.wait()
        self.released.set()
        # Closing the server now would lose connections that were accepted a moment ago: asyncio makes no transport for them then,
        # and a transport that is closed in its first moment stays open.
        self._loop.remove_reader(self._listener)
        for _ in range(3):
            await asyncio.sleep(0)
        for _ in range(3):
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=PATIENCE)
            await asyncio.sleep(0.001)  # transports that were aborted are closed in the next round
        server.close()

    def _stop(self) -> None:
        self._ending.set()

    def _unhandled(self, _loop: Any, context: dict[str, Any]) -> None:
        problem = context.get("exception")
        if problem is not None and not isinstance(problem, OSError):
            self.problems.append(problem)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(serving)

        def over(_serving: asyncio.Task[None]) -> None:
            self._serving.discard(serving)
            writer.transport.abort()  # here, as a task that is cancelled at once has not begun
            problem = None if serving.cancelled() else serving.exception()
            if problem is not None and not isinstance(problem, OSError):
                self.problems.append(problem)

        serving.add_done_callback(over)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if chosen == "h2":
            peer = Peer(self, reader, writer)
            self.peers.append(peer)
            self.tell()
            await peer.serve()
        else:
            self.others.append(chosen)
            self.tell()
            with contextlib.suppress(OSError, EOFError):
                await self.other(reader, writer)


# --- the bridge ----------------------------------------------------------------------------------------------------------------

#: Fields that belong to a connection of HTTP/1.1 and have no place here.
_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "proxy-connection"})
_PIECE = 65_536


class BrokenError(Exception):
    """The server behind the bridge does not keep to HTTP, or its connection broke."""


class _Rest(asyncio.StreamReader):
    """Gives out what has come before it tells of an error."""

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
    """What comes from the server behind a bridge.

    That may answer, and end the connection before it has read the request. asyncio forgets an answer that it has not read when it
    fails in writing.
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
                while data := sock.recv(_PIECE):  # it does not block: the transport has seen to that
                    self._rest.feed_data(data)
        super().connection_lost(exc)


async def behind(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the server behind a bridge."""
    loop, reader = asyncio.get_running_loop(), _Rest(1 << 20)
    transport, protocol = await loop.create_connection(lambda: _Behind(reader), host, port)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Bridge(Http2Server):
    """Speaks HTTP/2 in front of a server of HTTP/1.1.

    Each stream is forwarded on a connection of its own, which serves a later stream of the same client if its answer has ended as
    answers should. Bytes are handed on as they come, both ways. What breaks behind the bridge is RST_STREAM in front of it, and the
    other way round a stream that the client gives up costs its connection behind the bridge.
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
        """Streams that are still forwarded. Of a connection that is over there are none: some may never have begun."""
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
            # Before anything is waited for: the wait may be cancelled.
            if keep and not request.peer.gone:
                request.peer.kept.append((reader, writer))
            else:
                writer.transport.abort()
            await asyncio.gather(work, leaving, return_exceptions=True)

    async def _connection(self, request: Request) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        await asyncio.sleep(0)  # the loop sees which of those have ended
        kept = request.peer.kept
        while kept:  # nothing is waited for while one is in hand: the wait may be cancelled
            reader, writer = kept.pop()
            if not reader.at_eof() and not reader._buffer and not writer.is_closing():
                poller = select.poll()  # the end may have come, and the loop not have seen it yet
                poller.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
                if not poller.poll(0):
                    return reader, writer
            writer.transport.abort()
        # Looked up here: these names are on this machine, and a pool of threads for that would outlive the test.
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
    """A :class:`Bridge` for the length of a block."""
    with Bridge(upstream) as bridge:
        yield bridge


def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
    """Look again and again until *condition* holds; say whether it does. For what nobody announces."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
