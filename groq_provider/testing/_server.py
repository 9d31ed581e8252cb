"""Accepts connections: a listening socket, and one thread per connection."""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
import time
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class _Connection(socketserver.BaseRequestHandler):
    """Hands one connection to the emulator, in a thread of its own."""

    server: Server

    def handle(self) -> None:
        self.server.serve_connection(self.request)


class Server(ThreadingHTTPServer):
    """Accepts connections until :meth:`wake` is called; :meth:`join_handlers` waits for their threads.

    Args:
        address: Host and port.
        serve_connection: Called in the thread of each connection; it must close the socket.
        ssl_context: Makes the connections speak TLS.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024
    allow_reuse_address = True

    def __init__(
        self,
        address: tuple[str, int],
        serve_connection: Callable[[socket.socket], None],
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.serve_connection = serve_connection
        self._ssl_context = ssl_context
        self._threads_lock = threading.Lock()  # guards the set
        self._handlers: set[threading.Thread] = set()
        self._wake, self._waker = socket.socketpair()
        try:
            super().__init__(address, _Connection)
        except BaseException:
            self._wake.close()
            self._waker.close()
            raise
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        # HTTPServer.server_bind() would ask the resolver for the name of this host.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]  # typeshed allows bytes

    def accept_loop(self) -> None:
        """Accept until :meth:`wake` is called. ``serve_forever()`` would poll for its end twice a second."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._wake in ready:
                    return
                with suppress(OSError):  # the client may have closed the connection before it is accepted
                    self.process_request(*self.get_request())

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = self.socket.accept()
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._ssl_context is not None:
            # The connection's thread does the handshake: a silent client must not block the others.
            try:
                sock = self._ssl_context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            except BaseException:
                sock.close()
                raise
        return sock, address

    def process_request(self, request: Any, client_address: Any) -> None:
        def run() -> None:
            try:
                self.process_request_thread(request, client_address)
            finally:
                with self._threads_lock:
                    self._handlers.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="groq-emulator-connection", daemon=True)
        with self._threads_lock:
            self._handlers.add(thread)
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        # Do not call shutdown() before close(): it would turn the reset that SO_LINGER asks for into a FIN.
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing; ``Emulator.errors`` keeps the errors of callbacks."""

    def wake(self) -> None:
        """End :meth:`accept_loop`."""
        self._waker.send(b"x")

    def join_handlers(self, deadline: float) -> int:
        """Wait for the connections' threads until *deadline*; return how many still run."""
        with self._threads_lock:
            threads = list(self._handlers)
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return sum(thread.is_alive() for thread in threads)

    def server_close(self) -> None:
        super().server_close()
        self._wake.close()
        self._waker.close()
