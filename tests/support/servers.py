"""Servers on this machine that violate HTTP on purpose: a listening socket, and a handler in a thread per connection."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING

from support.fakes import PATIENCE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def answer(body: bytes = b"{}", *headers: str, status: str = "200 OK") -> bytes:
    """Return a complete answer, framed by Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN."""
    # By the method of the base class: an SSLSocket would close, too, but ignore SO_LINGER.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Request:
    """Return the bytes that have arrived."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.lines = [text for text in lines if text]
        self.names = [text.partition(":")[0] for text in self.lines]
        self.headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in self.lines)}
        self.body = body


def read_request(sock: socket.socket) -> Request | None:
    """Read one request; ``None`` at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = sock.recv(65_536)
        if not got:
            return None
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    request = Request(head, body)
    length = int(request.headers.get("content-length", "0"))
    while len(request.body) < length:
        got = sock.recv(65_536)
        if not got:
            return None
        request.body += got
    return request


class FaultServer:
    """Accepts connections and passes each to *handler*, with this server as second argument. Ready after construction.

    The handler may return to close the connection, or wait on ``released``, which is set at the end of the test. An
    error of a socket ends a handler silently; other errors are raised when the server closes.

    Attributes:
        connections: Number of accepted connections.
        requests: The requests that handlers have read with :meth:`read`.
    """

    def __init__(
        self, handler: Callable[[socket.socket, FaultServer], None], context: ssl.SSLContext | None = None
    ) -> None:
        self.handler = handler
        self.context = context
        self.connections = 0
        self.handshakes = 0
        self.requests: list[Request] = []
        self.released = threading.Event()
        self.closed_by_peer = threading.Semaphore(0)
        self._problems: list[BaseException] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.host = "127.0.0.1" if context is None else "localhost"
        self.url = f"http{'' if context is None else 's'}://{self.host}:{self.port}"
        self._acceptor = threading.Thread(target=self._accept, name="fault-server")
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self.released.is_set():
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="fault-server-connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        raw = sock
        try:
            if self.context is not None:
                with self._lock:  # close() must find one of the two, or the handshake waits for ever
                    wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                    self._open.discard(raw)
                    self._open.add(wrapped)
                sock = wrapped
                sock.do_handshake()
                with self._lock:
                    self.handshakes += 1
            self.handler(sock, self)
        except OSError:
            pass
        except BaseException as problem:
            self._problems.append(problem)
        finally:
            with self._lock:
                self._open.discard(sock)
                sock.close()

    def read(self, sock: socket.socket) -> Request | None:
        """Read a request and keep it in ``requests``."""
        request = read_request(sock)
        if request is not None:
            with self._lock:
                self.requests.append(request)
        return request

    def wait_for_end(self, sock: socket.socket) -> None:
        """Wait until the peer has closed, and count that."""
        while sock.recv(65_536):
            pass
        self.closed_by_peer.release()

    def close(self) -> None:
        self.released.set()
        with contextlib.suppress(OSError):  # a shutdown wakes accept() on Linux
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(PATIENCE)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a handler does not end"
        if self._problems:
            raise self._problems[0]


@contextlib.contextmanager
def serving(
    handler: Callable[[socket.socket, FaultServer], None], context: ssl.SSLContext | None = None
) -> Iterator[FaultServer]:
    """Run a :class:`FaultServer` for the length of a block."""
    server = FaultServer(handler, context)
    try:
        yield server
    finally:
        server.close()


def always(data: bytes) -> Callable[[socket.socket, FaultServer], None]:
    """Return a handler that answers every request with *data*."""

    def handler(sock: socket.socket, server: FaultServer) -> None:
        while server.read(sock) is not None:
            sock.sendall(data)

    return handler


def once(*parts: bytes, end: Callable[[socket.socket], None] = socket.socket.close) -> Callable[..., None]:
    """Return a handler that answers one request with *parts*, one send each, then ends the connection with *end*."""

    def handler(sock: socket.socket, server: FaultServer) -> None:
        if server.read(sock) is not None:
            for part in parts:
                sock.sendall(part)
            end(sock)

    return handler


def hanging(*parts: bytes) -> Callable[..., None]:
    """Return a handler that answers with *parts* and then stays silent."""

    def handler(sock: socket.socket, server: FaultServer) -> None:
        if server.read(sock) is not None:
            for part in parts:
                sock.sendall(part)
            server.released.wait(PATIENCE)

    return handler


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield the port of a listener that accepts no connection and has a full backlog: a connect to it waits for ever."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
        yield address[1]


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """Yield a port that refuses connections; it is reserved for the length of the block."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def proxy_handler(user: str | None = None, *, refuse: str | None = None) -> Callable[..., None]:
    """A proxy that forwards plain requests and makes tunnels; with *user* (``name:password``) it asks for credentials."""
    wanted = None if user is None else "Basic " + base64.b64encode(user.encode()).decode()

    def handler(sock: socket.socket, server: FaultServer) -> None:
        while (request := server.read(sock)) is not None:
            if wanted is not None and request.headers.get("proxy-authorization") != wanted:
                sock.sendall(answer(b"", status="407 Proxy Authentication Required"))
                return
            if refuse is not None:
                sock.sendall(answer(b"", status=refuse))
                return
            if request.method == "CONNECT":
                host, _, port = request.target.rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    back = threading.Thread(target=_pump, args=(upstream, sock))
                    back.start()
                    _pump(sock, upstream)
                    back.join(PATIENCE)
                return
            place, _, path = request.target.removeprefix("http://").partition("/")
            host, _, port = place.rpartition(":")
            with socket.create_connection((host, int(port))) as upstream:
                lines = [text for text in request.lines if not text.lower().startswith(("proxy-", "connection"))]
                head = "\r\n".join([f"{request.method} /{path} HTTP/1.1", *lines, "Connection: close"])
                upstream.sendall(head.encode("latin-1") + b"\r\n\r\n" + request.body)
                upstream.shutdown(socket.SHUT_WR)
                while data := upstream.recv(65_536):
                    sock.sendall(data)

    return handler
