"""The test servers and the bridge themselves: they lose no connection and report no violation."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading

import pytest
from support.fakes import PATIENCE
from support.servers import OK, answer, reset, serving


def raw_client(server):
    """Open a connection to an HTTP/2 server, with the protocol state for it."""
    import h2.connection
    from support.http2_servers import authority

    sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    spoken = h2.connection.H2Connection()
    spoken.initiate_connection()
    return authority().client_context().wrap_socket(sock, server_hostname="localhost"), spoken


def ask(sock, spoken, number):
    target = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "localhost")]
    spoken.send_headers(number, target, end_stream=True)
    sock.sendall(spoken.data_to_send())


def test_bridge_closes_ended_streams_connection():
    """When a stream ends at once, the bridge closes its connection to the server behind; none is left to the collector."""
    from support.http2_bridge import bridged

    def answering(sock, server):
        while server.read(sock):
            sock.sendall(OK)

    with serving(answering) as behind, bridged(behind.url) as bridge:
        for _ in range(20):
            sock, spoken = raw_client(bridge)
            with sock:
                ask(sock, spoken, 1)
                while not any(
                    type(event).__name__ == "StreamEnded" for event in spoken.receive_data(sock.recv(65_536))
                ):
                    pass  # the bridge keeps its connection for the next stream
                ask(sock, spoken, 3)
    gc.collect()


def test_unbegun_server_work_ends_quietly():
    """A connection and a script that arrive just as the server ends are cancelled before their first line."""
    from support.http2_servers import Http2Server

    async def script():
        raise AssertionError("it was cancelled")

    with Http2Server() as server:
        sock, _ = raw_client(server)
        with sock:
            assert server.wait(lambda: server.peers)

            def give_up():
                peer = server.peers[0]
                before = asyncio.all_tasks()
                server._accept(peer.reader, peer.writer)
                peer.start(script())
                for task in asyncio.all_tasks() - before:
                    task.cancel()

            server.do(give_up)
            assert server.wait(lambda: server.peers[0].gone)
    gc.collect()


def test_ending_server_closes_new_connection():
    """A server that ends closes a connection accepted just then; nothing of a last client is left to the collector."""
    from support.http2_servers import Http2Server

    with Http2Server() as server:
        clients = []

        def end():  # in the server's thread: the connection is accepted in the round in which the server learns of its end
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            server._loop.call_soon(server._stop)

        server.do(end)
    with clients[0], contextlib.suppress(ConnectionResetError):
        assert clients[0].recv(1) == b""
    gc.collect()


def test_answer_read_despite_blocked_request():
    """The bridge passes on an answer although the server reads no more, before it ends the connection."""
    from support.http2_bridge import behind

    over = threading.Event()

    def refuses(sock, server):
        sock.recv(1)
        sock.sendall(answer(b"too large", status="413 Payload Too Large"))
        reset(sock)
        over.set()

    async def asks():
        reader, writer = await behind("127.0.0.1", server.port)
        writer.write(b"x" * 1000)
        assert over.wait(PATIENCE)  # blocks the loop, so that nothing is read meanwhile
        writer.write(b"y")  # fails
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(9)
        with pytest.raises(OSError):  # an answer that ends with the connection is incomplete
            await reader.read(1)
        return head.partition(b"\r")[0], body

    with serving(refuses) as server:
        assert asyncio.run(asks()) == (b"HTTP/1.1 413 Payload Too Large", b"too large")
