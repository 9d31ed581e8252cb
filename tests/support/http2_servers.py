"""HTTP/2 servers on this machine, over TLS with ALPN, that violate the protocol on purpose.

A server is one thread with an event loop. You script it by coroutines: one per request, and one per connection.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.certificates import new_authority
from support.fakes import PATIENCE

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
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["Authority", "ErrorCodes", "Http2Server", "Peer", "Request", "SettingCodes", "authority"]


def _of_clients(record: logging.LogRecord) -> bool:
    """Drop the log lines of these servers: they decode requests and log the fields, keys included."""
    return record.threadName != "http2-server"


for _name in ("hpack.hpack", "hpack.table"):
    logging.getLogger(_name).addFilter(_of_clients)

#: Names in the certificates.
NAMES = ("localhost", "127.0.0.1", "service.test")


class Authority:
    """A certificate authority, a certificate for this machine, and their files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="groq-provider-http2-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        ca = new_authority()
        self.issued = ca.issue_cert(*NAMES)
        self.file, self.key, self.certificate = (
            str(self.folder / name) for name in ("ca.pem", "server.key", "server.pem")
        )
        ca.cert_pem.write_to_path(self.file)
        self.issued.private_key_pem.write_to_path(self.key)
        for index, pem in enumerate(self.issued.cert_chain_pems):
            pem.write_to_path(self.certificate, append=index > 0)

    def context(self, *protocols: str) -> ssl.SSLContext:
        """Return a server context that offers *protocols* by ALPN; without any it does not know ALPN."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """Return a client context that trusts this authority."""
        context = ssl.create_default_context(cafile=self.file)
        context.set_alpn_protocols(list(protocols or ("h2",)))
        return context


@functools.cache
def authority() -> Authority:
    """Return the one authority of this process."""
    return Authority()


class GoneError(ConnectionError):
    """The client cancelled the stream, or the connection ended."""


class Request:
    """A stream, as the server sees it.

    Attributes:
        headers: Its fields by name, with the pseudo-headers.
        never_indexed: Names of the fields that the client marked as never indexed.
        body: The bytes of the body so far.
        ended: Whether the whole body has arrived.
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
        """Allow the client to send *count* more bytes, by default as many as it has sent.

        For servers that do not do so by themselves.
        """
        count, self.unread = self.unread if count is None else count, 0
        if count and not self.gone:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.peer.h2.acknowledge_received_data(count, self.id)
        self.peer.flush()

    # --- answering ---------------------------------------------------------------------------------------------------------

    def head(self, status: int = 200, *fields: tuple[str, str], end: bool = False) -> None:
        """Send the head of an answer, or an interim answer."""
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
    """:class:`Peer` enforces the limit of streams: clients may open more before they have heard of it."""

    open_inbound_streams = -1


class Peer:
    """The connection of a client.

    Attributes:
        settings_acks, ping_acks, goaways: Numbers of these frames from the client. announced: Number of SETTINGS sent
        to it.
        gone: Whether the connection has ended.
        most: Most streams open at once.
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
        #: A bridge's connections to the server behind it that can be used again.
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
        self.announced = 1  # number of SETTINGS sent

    # --- for scripts -------------------------------------------------------------------------------------------------------

    async def news(self) -> None:
        """Wait until the client has sent something, or the connection has ended."""
        await self._news.wait()

    def flush(self) -> None:
        """Send the bytes that h2 has produced."""
        data = self.h2.data_to_send()
        if data and not self._mute and not self.gone:
            self.writer.write(data)

    async def drain(self) -> None:
        """Wait until there is room; give the loop a turn in any case, in which it reads what the client has sent."""
        with contextlib.suppress(OSError):
            await self.writer.drain()  # returns without yielding while there is room in the buffer
        await asyncio.sleep(0)

    def write(self, data: bytes) -> None:
        """Send raw bytes."""
        self.flush()
        self.writer.write(data)

    def goaway(self, last: int, code: int = ErrorCodes.NO_ERROR, debug: bytes = b"") -> None:
        """Send GOAWAY; the connection stays open until the client closes it."""
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
        """Stop reading and writing; the connection stays open."""
        self._deaf = self._mute = True
        self.writer.transport.pause_reading()

    def cut(self) -> None:
        """Close the connection, TLS included."""
        self.flush()
        self.gone = True
        if self._mute:
            self.writer.transport.abort()
        else:
            self.writer.close()  # sends close_notify and waits for the client's, which may take long
            asyncio.get_running_loop().call_later(0.1, self.writer.transport.abort)
        self._tell()

    def reset(self) -> None:
        """Close the connection with RST instead of FIN."""
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
                self.server.resets.append((event.stream_id, int(event.error_code)))  # first, because tests read both
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
        task.add_done_callback(lambda _task: work.close())  # a task that is cancelled at once never begins

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except OSError:
            pass  # the client has gone
        except Exception as problem:
            self.server.problems.append(problem)
        finally:
            self.server.tell()


class Http2Server:
    """Speaks HTTP/2 over TLS as scripted. Ready after construction; you must close it.

    Args:
        answer: A coroutine function that gets each :class:`Request`; it may return before the answer is complete.
        connected: A coroutine function that gets each :class:`Peer`.
        protocols: The ALPN protocols.
        settings: The first SETTINGS frame, by code.
        credits: Whether clients get window updates automatically; otherwise scripts call :meth:`Request.credit`.
        released: An event for scripts to wait on; set at the end of the test.

    Attributes:
        peers: All connections so far, in order. requests: All streams.
        resets: Stream and code of each RST_STREAM from clients.
        complaints: Protocol violations of clients; ``close`` raises them.
        refused: Number of streams beyond a limit that the client knew. (They are refused, as are streams that came
            before it knew.)
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
        self._ending = asyncio.Event()  # here, since the end may come before the thread has begun
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
        """Streams that are neither answered nor cancelled."""
        return sum(not (each.answered or each.gone) for each in list(self.requests))

    def wait(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
        """Wait for *condition*; say whether it holds."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    def tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def do(self, work: Callable[[], Any]) -> Any:
        """Run a function in the server's thread and return its result."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE)

    def release(self) -> None:
        """Set ``released`` before the test is over."""
        self.do(self.released.set)

    def close(self, *, strict: bool = True) -> None:
        """Stop everything; raise errors of scripts and, by default, protocol violations of clients."""
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
        # Closing the server now would lose connections accepted a moment ago: asyncio does not make a transport for
        # them any more, and a transport closed in its first moment stays open.
        self._loop.remove_reader(self._listener)
        for _ in range(3):
            await asyncio.sleep(0)
        for _ in range(3):
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=PATIENCE)
            await asyncio.sleep(0.001)  # aborted transports are closed in the next round
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
            writer.transport.abort()  # here, since a task that is cancelled at once never begins
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


def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> bool:
    """Poll until *condition* holds; say whether it does. For conditions without a notification."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
