"""The transport with peers that violate HTTP: framing, limits, cancels, and the contents of errors."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import gzip
import http.client
import itertools
import queue
import socket
import sys
import threading
import time
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import PATIENCE, wait_for
from support.servers import CHUNKED, OK, answer, chunk, full_backlog, hanging, once, refusing_port, reset, serving
from support.transports import (
    KEY,
    LIMIT,
    LimitFromSending,
    attempt,
    cancelled_while,
    drip,
    echo,
    fetch,
    new_scope,
    send,
    transport_to,
)

from groq_provider.clock import SystemClock
from groq_provider.errors import (
    APIConnectionError,
    ConnectTimeoutError,
    GroqProviderError,
    IncompleteResponseError,
    ProtocolError,
    ReadTimeoutError,
    RequestCancelledError,
    ResponseDecodeError,
    ResponseTooLargeError,
)
from groq_provider.transport.error_mapping import map_read_error, map_send_error
from groq_provider.transport.scope import CancelScope

# --- limits ----------------------------------------------------------------------------------------------------------------


def endless_continue(sock, server):
    server.read(sock)
    while not server.released.wait(0.005):
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def flood_of_continue(sock, server):
    server.read(sock)
    while not server.released.is_set():
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "handler",
    [
        hanging(),
        hanging(b"HTTP/1.1 200 OK\r\nX-"),
        drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        drip(CHUNKED, b"1\r\na\r\n"),
        drip(CHUNKED + b"5;", b"x"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"a"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        drip(CHUNKED + b"0\r\n", b"X-T: a\r\n"),
        hanging(answer(b"aa")[:-1]),
        endless_continue,
        flood_of_continue,
    ],
    ids=[
        "silence",
        "half-head",
        "head-dripped",
        "chunks-dripped",
        "chunk-size-dripped",
        "body-dripped",
        "close-delimited-dripped",
        "trailers-dripped",
        "stall",
        "endless-continue",
        "flood-of-continue",
    ],
)
@pytest.mark.parametrize("limit", ["total", "after_send"])
def test_slow_answers_end_at_limit(handler, limit):
    """A slow answer ends at the limit, however its bytes trickle in, for each limit."""
    with serving(handler) as server, transport_to(server.url) as transport:
        started = time.monotonic()
        scope = LimitFromSending(0.1) if limit == "total" else new_scope(None, after_send=0.1)
        with pytest.raises(ReadTimeoutError) as caught:
            fetch(transport, scope=scope)
        assert 0.09 < time.monotonic() - started < PATIENCE / 4
        assert (caught.value.sent, caught.value.retryable) == (True, True)
        assert transport.adapter.pool().idle() == 0


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("limit", ["total", "after_send"])
def test_unread_send_ends_at_limit(limit):
    """A send of 50 MB to a peer that does not read ends at the limit, also without a total limit."""
    with serving(lambda sock, server: server.released.wait(PATIENCE)) as server, transport_to(server.url) as transport:
        started = time.monotonic()
        scope = LimitFromSending(0.2, first=True) if limit == "total" else new_scope(None, after_send=0.2)
        with pytest.raises(ReadTimeoutError) as caught:
            send(transport, bytes(50_000_000), scope=scope)
        assert time.monotonic() - started < PATIENCE / 4
        assert caught.value.sent is None


@pytest.mark.over_http2("bridge")
def test_large_body_arrives_whole():
    """A large body is sent in pieces; every byte arrives, unchanged."""
    body = bytes(range(256)) * 4096 + b"end"
    with serving(echo) as server, transport_to(server.url) as transport:
        assert send(transport, body).read_body(1 << 21) == body


def test_connecting_ends_at_its_limit():
    """Connecting to a listener with a full queue ends at its limit."""
    with full_backlog() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        started = time.monotonic()
        with pytest.raises(ConnectTimeoutError) as caught:
            send(transport, scope=new_scope(None, connect=0.1))
        assert time.monotonic() - started < PATIENCE / 4
        assert (caught.value.sent, caught.value.retryable) == (False, True)


def resolving(monkeypatch, *ports):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: found)


@pytest.mark.over_http2("bridge")
def test_dead_addresses_share_limit(monkeypatch):
    """Fifty dead addresses take the limit once, not fifty times."""
    with full_backlog() as port, transport_to("http://service.test") as transport:
        resolving(monkeypatch, *[port] * 50)
        started = time.monotonic()
        with pytest.raises(ConnectTimeoutError):
            send(transport, scope=new_scope(None, connect=0.2))
        assert time.monotonic() - started < PATIENCE / 4


def test_live_address_behind_dead_reached(monkeypatch):
    """A live address behind a dead one is reached: the dead one gets only its share of the limit."""
    with full_backlog() as port, serving(echo) as server, transport_to("http://service.test") as transport:
        resolving(monkeypatch, port, *[9] * 40, server.port)
        assert fetch(transport, scope=new_scope(None, connect=PATIENCE / 2)) == b"{}"


def test_refused_connection_is_not_sent():
    """No listener: the request is not sent."""
    with refusing_port() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        with pytest.raises(APIConnectionError, match=rf"cannot reach http://127\.0\.0\.1:{port}: .*refused") as caught:
            send(transport)
        assert (caught.value.sent, caught.value.retryable) == (False, True)


@pytest.mark.over_http2("bridge")
def test_unknown_host_is_not_sent(monkeypatch):
    """The error has the words of the resolver."""

    def fail(*_args, **_kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with transport_to("http://nowhere.test") as transport:
        with pytest.raises(APIConnectionError, match=r"resolved.*not known") as caught:
            send(transport)
        assert caught.value.sent is False


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("problem", [UnicodeError("label too long"), None], ids=["bad-name", "no-address"])
def test_host_without_address_not_sent(monkeypatch, problem):
    """Names that the resolver cannot take, and hosts without an address."""

    def found(*_args, **_kwargs):
        if problem:
            raise problem
        return []

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with transport_to("http://nowhere.test") as transport, pytest.raises(APIConnectionError) as caught:
        send(transport)
    assert caught.value.sent is False


# --- cancels ---------------------------------------------------------------------------------------------------------------


def test_cancelled_call_is_not_sent():
    """A call cancelled before is not sent, on a new connection or a kept one."""
    with serving(echo) as server, transport_to(server.url) as transport:
        for _ in range(2):
            scope = new_scope()
            scope.cancel()
            with pytest.raises(RequestCancelledError) as caught:
                send(transport, scope=scope)
            assert caught.value.sent is False
            fetch(transport)
        assert len(server.requests) == 0  # echo() keeps none
        assert server.connections == 2


def test_cancel_wakes_a_connect():
    """A cancel wakes a connect; not sent."""
    with full_backlog() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        scope = new_scope(None)
        assert cancelled_while(transport, scope, lambda: scope._bound, lambda: send(transport, scope=scope)) is False


@pytest.mark.over_http2("bridge")
def test_cancel_before_connect_is_noticed(monkeypatch):
    """A cancel just before the connect is not missed, although there is nothing to shut down yet."""
    with full_backlog() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        scope = new_scope(None)
        connect = socket.socket.connect

        def late(sock, address):
            scope.cancel()
            return connect(sock, address)

        monkeypatch.setattr(socket.socket, "connect", late)
        with pytest.raises(RequestCancelledError) as caught:
            send(transport, scope=scope)
        assert caught.value.sent is False


@pytest.mark.over_http2("bridge")
def test_cancel_wakes_a_blocked_send():
    """A cancel wakes a blocked send; partly sent."""
    begun = threading.Event()

    def handler(sock, server):
        sock.recv(1000)
        begun.set()
        server.released.wait(PATIENCE)

    with serving(handler) as server, transport_to(server.url) as transport:
        scope = new_scope(None)
        assert (
            cancelled_while(transport, scope, begun.is_set, lambda: send(transport, bytes(50_000_000), scope)) is None
        )


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("parts", [(), (b"HTTP/1.1 200 OK\r\n",)], ids=["nothing", "half-head"])
def test_cancel_wakes_head_read(parts):
    """A cancel wakes a read of the head; the request was sent."""
    with serving(hanging(*parts)) as server, transport_to(server.url) as transport:
        scope = new_scope(None)
        assert (
            cancelled_while(
                transport,
                scope,
                lambda: scope.sent_at is not None and server.requests,
                lambda: send(transport, scope=scope),
            )
            is True
        )


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "head",
    [CHUNKED + chunk(b"a"), answer(b"a" * 9)[:-8], b"HTTP/1.1 200 OK\r\n\r\na"],
    ids=["chunked", "content-length", "close-delimited"],
)
@pytest.mark.parametrize("reader", ["read_body", "read_lines", "drain"])
def test_cancel_wakes_body_read(head, reader):
    """The end that a cancel causes is not taken for the end of the answer, whatever the framing."""
    with serving(hanging(head)) as server, transport_to(server.url) as transport:
        scope = new_scope(None)
        response = send(transport, scope=scope)
        assert response.read1() == b"a"
        if reader == "drain":
            scope.cancel()
            response.drain(scope)
            assert transport.adapter.pool().idle() == 0
            return
        blocked = threading.Event()

        def work():
            blocked.set()
            response.read_body(LIMIT) if reader == "read_body" else list(response.iter_lines())

        assert cancelled_while(transport, scope, blocked.is_set, work) is True


@pytest.mark.over_http2("bridge", full=True)
def test_late_cancel_spares_next_user():
    """Two threads, one connection: the first cancels its finished calls while the second sends."""
    with serving(echo) as server, transport_to(server.url) as transport:
        finished, over = queue.SimpleQueue(), threading.Event()

        def cancel():
            while (scope := finished.get(timeout=PATIENCE)) is not None:
                scope.cancel()
            over.set()

        thread = threading.Thread(target=cancel)
        thread.start()
        for number in range(500):
            scope = new_scope()
            assert fetch(transport, b"%d" % number, scope) == b"%d" % number
            finished.put(scope)
        finished.put(None)
        assert over.wait(PATIENCE)
        thread.join(PATIENCE)
        assert server.connections == 1


@pytest.mark.over_http2("bridge", full=True)
def test_cancel_spares_other_calls():
    """Cancels race with the calls they are for; the calls in between always get their own answers."""
    with serving(echo) as server, transport_to(server.url) as transport:
        started, over = queue.SimpleQueue(), threading.Semaphore(0)

        def cancel():
            while (scope := started.get(timeout=PATIENCE)) is not None:
                scope.cancel()
                over.release()

        thread = threading.Thread(target=cancel)
        thread.start()
        cancelled = 0
        for number in range(300):
            scope = new_scope()
            started.put(scope)
            outcome = attempt(lambda scope=scope, number=number: fetch(transport, b"c%d" % number, scope))
            if outcome != b"c%d" % number:
                assert isinstance(outcome, RequestCancelledError)
                cancelled += 1
            assert fetch(transport, b"%d" % number) == b"%d" % number
            assert over.acquire(timeout=PATIENCE)  # a delayed thread misses one call, not all of them
        started.put(None)
        thread.join(PATIENCE)
        assert cancelled


# --- lines, as they come ---------------------------------------------------------------------------------------------------


def frame_chunked(pieces):
    return [chunk(piece) for piece in pieces] + [b"0\r\n\r\n"]


def acknowledged(head, parts, end, first_lines):
    """Return a handler that sends each part only after the reader has the lines of the part before it."""

    def handler(sock, server):
        server.read(sock)
        sock.sendall(head)
        for part in parts:
            sock.sendall(part)
            assert first_lines.acquire(timeout=PATIENCE), "the reader was kept waiting for a later byte"
        sock.sendall(end)

    return handler


EVENTS = [b"data: %d\n\n" % number for number in range(6)]


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("reader", ["read_lines", "iter_lines", "ready"])
@pytest.mark.parametrize(
    ("head", "parts", "end"),
    [
        (CHUNKED, [chunk(event) for event in EVENTS], b"0\r\n\r\n"),
        # All in one chunk, which arrives in pieces.
        (CHUNKED, [b"%x\r\n" % len(b"".join(EVENTS)) + EVENTS[0], *EVENTS[1:]], b"\r\n0\r\n\r\n"),
        # The end of each chunk arrives with the next chunk.
        (CHUNKED, [chunk(EVENTS[0])[:-2], *(b"\r\n" + chunk(event)[:-2] for event in EVENTS[1:])], b"\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(b"".join(EVENTS)), EVENTS, b""),
        (b"HTTP/1.1 200 OK\r\n\r\n", EVENTS, b""),
    ],
    ids=["chunk-each", "one-chunk", "late-crlf", "content-length", "close-delimited"],
)
def test_line_never_awaits_later_byte(head, parts, end, reader, ends):
    """The server sends the next event only after the reader has the one before."""
    if ends != b"\n":
        longer = len(ends) - 1
        head = head.replace(b": 60", b": %d" % (60 + 12 * longer))
        parts = [part.replace(b"\n\n", ends * 2) for part in parts]
        if head == CHUNKED:
            sizes = {b"9\r\n": b"%x\r\n" % (9 + 2 * longer - 0), b"36\r\n": b"%x\r\n" % (54 + 12 * longer)}
            parts = [resized(part, sizes) for part in parts]
        elif longer:
            head = head.replace(b": 54", b": %d" % 66)
    had = threading.Semaphore(0)
    with serving(acknowledged(head, parts, end, had)) as server, transport_to(server.url) as transport:
        response = send(transport)
        seen = []

        def take(line):
            seen.append(line)
            if not line:
                had.release()

        if reader == "iter_lines":
            for line in response.iter_lines():
                take(line)
        else:
            while True:
                if reader == "ready":
                    assert response.ready(PATIENCE)
                lines = response.read_lines()
                if lines is None:
                    break
                for line in lines:
                    take(line)
        assert seen == [line for number in range(6) for line in (b"data: %d" % number, b"")]


def resized(part, sizes):
    """Adjust the sizes of the chunks to longer line ends."""
    for old, new in sizes.items():
        lead = b"\r\n" if part.startswith(b"\r\n" + old) else b""
        if part.startswith(lead + old):
            return lead + new + part[len(lead + old) :]
    return part


@pytest.mark.over_http2("bridge")
def test_lines_come_byte_by_byte():
    """Each line is returned at its last byte."""
    had = threading.Semaphore(0)
    data = b"ab\ncd\r\n\nef\r"

    def handler(sock, server):
        server.read(sock)
        sock.sendall(CHUNKED)
        for position in range(len(data)):
            for part in chunk(data[position : position + 1]):
                sock.sendall(bytes([part]))
            if data[position : position + 1] in b"\n\r" and data[position - 1 : position + 1] != b"\r\n":
                assert had.acquire(timeout=PATIENCE)
        sock.sendall(b"0\r\n\r\n")

    with serving(handler) as server, transport_to(server.url) as transport:
        seen = []
        for line in send(transport).iter_lines():
            seen.append(line)
            had.release()
        assert seen == [b"ab", b"cd", b"", b"ef"]


@pytest.mark.over_http2("bridge")
def test_ready_waits_for_content():
    """The end of a chunk, or half a size line, is nothing to read; the end of the body is."""
    go = threading.Semaphore(0)

    def handler(sock, server):
        server.read(sock)
        for part in (CHUNKED + b"2\r\na\n", b"\r\n", b"3\r\nb", b"c\n\r\n", b"0\r\n\r\n"):
            sock.sendall(part)
            go.acquire(timeout=PATIENCE)

    with serving(handler) as server, transport_to(server.url) as transport:
        response = send(transport)
        assert response.ready(PATIENCE)
        assert response.read_lines() == [b"a"]
        assert not response.ready(0.01)
        go.release()
        assert not response.ready(0.05)  # only a CRLF
        go.release()
        assert response.ready(PATIENCE)
        assert response.read_lines() == []
        assert not response.ready(0)
        go.release()
        assert response.ready(PATIENCE)
        assert response.read_lines() == [b"bc"]
        assert not response.ready(0.01)
        go.release()
        assert response.ready(PATIENCE)
        assert response.read_lines() is None
        assert response.ready(0)
        go.release()
        assert transport.adapter.pool().idle() == 1


@pytest.mark.parametrize("head", [CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n"], ids=["chunked", "close-delimited"])
def test_ready_never_swallows_reset(head):
    """The system reports a reset once; the next read raises it."""
    go = threading.Event()

    def handler(sock, server):
        server.read(sock)
        sock.sendall(head)
        go.wait(PATIENCE)
        reset(sock)

    with serving(handler) as server, transport_to(server.url) as transport:
        response = send(transport)
        assert not response.ready(0)
        go.set()
        assert response.ready(PATIENCE)
        assert response.ready(PATIENCE)
        with pytest.raises(IncompleteResponseError, match="reset"):
            response.read_lines()


BODY = st.lists(st.sampled_from([b"a", b"data: x", b"\n", b"\r", b"\r\n", b"\n\n", b"\xe2\x80\xa8", b"0"]), max_size=12)


@pytest.mark.over_http2("bridge")
def test_any_split_gives_same_lines():
    """Cut into HTTP chunks anywhere, and into segments anywhere: the lines are the same."""
    replayed = queue.SimpleQueue()

    def handler(sock, server):
        while server.read(sock) is not None:
            for part in replayed.get(timeout=PATIENCE):
                sock.sendall(part)

    @settings(database=None)
    @given(body=BODY.map(b"".join), cuts=st.lists(st.integers(0, 200), max_size=8), chunks=st.lists(st.integers(1, 9)))
    def check_split(body, cuts, chunks):
        pieces, rest = [], body
        for size in chunks:
            pieces.append(rest[:size])
            rest = rest[size:]
        pieces.append(rest)
        wire = CHUNKED + b"".join(frame_chunked([piece for piece in pieces if piece]))
        edges = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
        replayed.put([wire[start:stop] for start, stop in itertools.pairwise(edges)])
        wanted = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if not wanted[-1]:
            wanted.pop()
        assert list(send(transport).iter_lines()) == wanted

    with serving(handler) as server, transport_to(server.url) as transport:
        check_split()
        assert server.connections == 1


# --- the connection afterwards ---------------------------------------------------------------------------------------------

STREAM = CHUNKED + chunk(b"data: 1\n\ndata: [DONE]\n\n")


def reads_until_done(response):
    seen = []
    while b"data: [DONE]" not in seen:
        seen += response.read_lines()


@pytest.mark.over_http2("bridge")
def test_drained_stream_returns_connection(unhurried):
    """The end of the body arrives a moment after [DONE], and the connection is returned."""

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(STREAM)
            sock.sendall(b"0\r\n")
            sock.sendall(b"\r\n")

    with serving(handler) as server, transport_to(server.url) as transport:
        for _ in range(3):
            scope = new_scope()
            response = send(transport, scope=scope)
            reads_until_done(response)
            response.drain(scope)
            response.drain(scope)
        assert server.connections == 1


@pytest.mark.over_http2("bridge")
def test_fully_read_body_returns_connection():
    """A body read to its end returns its connection, chunked and by length, by lines and whole."""

    def handler(sock, server):
        while (request := server.read(sock)) is not None:
            sock.sendall(STREAM + b"0\r\n\r\n" if b"s" in request.body else OK)

    with serving(handler) as server, transport_to(server.url) as transport:
        for body in (b"s", b"x", b"s", b"x"):
            list(send(transport, body).iter_lines())
            fetch(transport, body)
        assert server.connections == 1
        assert transport.adapter.pool().idle() == 1


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("after", [b"", b": more\n" * 100_000], ids=["silence", "flood"])
def test_drain_abandons_endless_body(after):
    """Draining stops when the body does not end: after 50 ms or 64 KiB the connection is closed."""

    over = threading.Event()

    def handler(sock, server):
        server.read(sock)
        try:
            sock.sendall(STREAM)
            if after:
                sock.sendall(chunk(after))
            server.wait_for_end(sock)
        finally:
            over.set()

    with serving(handler) as server, transport_to(server.url) as transport:
        scope = new_scope()
        response = send(transport, scope=scope)
        reads_until_done(response)
        started = time.monotonic()
        response.drain(scope)
        assert time.monotonic() - started < PATIENCE / 4
        assert transport.adapter.pool().idle() == 0
        assert over.wait(PATIENCE)


@pytest.mark.over_http2("bridge")
def test_unfinished_body_drops_its_connection():
    """close() before the end of the body closes the connection."""
    with serving(hanging(STREAM)) as server, transport_to(server.url) as transport:
        response = send(transport)
        response.read_lines()
        response.close()
        assert response.read1() == b""
        assert transport.adapter.pool().idle() == 0


@pytest.mark.parametrize("together", [True, False], ids=["same-segment", "later"])
@pytest.mark.parametrize("whole", [OK, STREAM + b"0\r\n\r\n"], ids=["content-length", "chunked"])
def test_surplus_bytes_drop_connection(whole, together):
    """A second, unsolicited answer never becomes the answer to the next request."""
    smuggled = answer(b"smuggled")
    sent = threading.Event()

    def handler(sock, server):
        while server.read(sock) is not None:
            if together:
                sock.sendall(whole + smuggled)
            else:
                sock.sendall(whole)
                sock.sendall(smuggled)
            sent.set()

    with serving(handler) as server, transport_to(server.url) as transport:
        for turn in range(3):
            assert b"smuggled" not in fetch(transport)
            assert sent.wait(PATIENCE)
            sent.clear()
            wait_for(lambda: transport.adapter.pool().idle() == 0 or idle_is_readable(transport))
            wait_for(lambda turn=turn: server.connections == turn + 1)


def idle_is_readable(transport):
    (conn,) = [conn for conn in transport.adapter.pool().pool.queue if conn is not None and conn.sock is not None]
    return not transport.adapter.pool()._is_usable(conn)


def test_double_framing_drops_connection():
    """Both framings at once: read as chunked, then the connection is closed."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n"
    whole = head + b"\r\n" + chunk(b"{}") + b"0\r\n\r\n"
    with serving(hanging(whole)) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b"{}"
        assert transport.adapter.pool().idle() == 0


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_bodyless_answers_end_at_once(status):
    """Answers without a body end at once, and their connection is reused."""
    head = f"HTTP/1.1 {status}\r\n\r\n".encode()

    def handler(sock, server):
        while server.read(sock) is not None:
            sock.sendall(head)

    with serving(handler) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b""
        assert fetch(transport) == b""
        assert server.connections == 1


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "early", [b"103 Early Hints\r\nLink: x", b"100 Continue", b"102 Processing"], ids=lambda v: v[:3]
)
def test_interim_answers_are_passed_over(early):
    """Any number of interim answers is skipped."""
    with (
        serving(hanging((b"HTTP/1.1 " + early + b"\r\n\r\n") * 3 + OK)) as server,
        transport_to(server.url) as transport,
    ):
        response = send(transport)
        assert response.status_code == 200
        assert response.read_body(LIMIT) == b"{}"


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.over_http2("bridge", but=("lengths-in-one", "folded", "bare-lf", "http-1.0"))
@pytest.mark.parametrize(
    "whole",
    [
        HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"X-A: a\r\n  b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["lengths", "lengths-in-one", "upper-case", "chunked-twice", "identity", "folded", "bare-lf", "http-1.0"],
)
def test_odd_but_clear_framing_read(whole):
    """Unusual but valid framing is read at once, and the connection is reused."""
    with serving(hanging(whole)) as server, transport_to(server.url) as transport:
        assert fetch(transport) == b"{}"
        assert transport.adapter.pool().idle() == 1


def test_bodyless_status_is_not_awaited():
    """An answer without a body by its status does not wait for one: 101 must not take the time limit."""
    with serving(hanging(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) as server:
        with transport_to(server.url) as transport:
            response = send(transport)
            assert (response.status_code, response.read_body(LIMIT)) == (101, b"")


@pytest.mark.over_http2("bridge")
def test_early_refusal_of_upload_read():
    """The server answers 413 and closes while the body is still being sent."""

    def handler(sock, server):
        sock.recv(1000)
        sock.sendall(answer(b"too large", "Connection: close", status="413 Too Large"))
        sock.shutdown(socket.SHUT_WR)
        server.released.wait(PATIENCE)

    with serving(handler) as server, transport_to(server.url) as transport:
        scope = new_scope(None, after_send=PATIENCE)
        outcome = attempt(lambda: send(transport, bytes(200_000), scope))
        assert outcome.status_code == 413
        assert outcome.read_body(LIMIT) == b"too large"


# --- broken framing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200",
        b"HTTP/1.",
        b"garbage\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/0.9 200 OK",
        b"<html>hello</html>",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\njunk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}",
    ],
    ids=[
        "cut-in-header",
        "cut-after-header",
        "cut-after-status",
        "cut-in-status-line",
        "cut-after-code",
        "cut-in-version",
        "garbage",
        "empty-lines",
        "http-0.9",
        "html",
        "status-text",
        "status-99",
        "http-2",
        "ssh",
        "101-headers",
        "long-header",
        "long-status-line",
        "two-lengths",
        "two-lengths-in-one",
        "unasked-coding",
        "no-field",
        "space-before-colon",
    ],
)
def test_broken_head_is_protocol_error(head):
    """A malformed head: sent, retryable, the connection closed; never a 200."""
    with serving(once(head)) as server, transport_to(server.url) as transport:
        with pytest.raises(ProtocolError) as caught:
            send(transport)
        check(caught.value, sent=True, retryable=True)
        assert transport.adapter.pool().idle() == 0


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    ("head", "end"),
    [(b"", reset), (b"HTTP/1.1 2", reset), (b"HTTP/1.1 100 Continue\r\n", socket.socket.close)],
    ids=["nothing", "part", "interim-only"],
)
def test_connection_broken_in_head_fails(head, end):
    """A connection broken in the head is a connection error: sent, retryable."""
    with serving(once(head, end=end)) as server, transport_to(server.url) as transport:
        with pytest.raises(APIConnectionError) as caught:
            send(transport)
        check(caught.value, sent=True, retryable=True)


@pytest.mark.over_http2("bridge", but=("*-long-size-line", "*-long-trailer"))
@pytest.mark.parametrize(
    "body",
    [
        answer(b"abc")[:-1],
        CHUNKED + b"5\r\nab",
        CHUNKED + chunk(b"abc"),
        CHUNKED + b"3\r\nabc",
        CHUNKED + b"5",
        CHUNKED,
        CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabc3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabcXX3\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"3\r\nabc\r\n0",
        CHUNKED + b"3;" + b"x" * 70_000 + b"\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=[
        "short-content-length",
        "cut-in-chunk",
        "cut-between-chunks",
        "cut-before-crlf",
        "cut-in-size",
        "cut-at-once",
        "bad-size",
        "negative-size",
        "plus-size",
        "prefixed-size",
        "underscore-size",
        "empty-size",
        "no-crlf",
        "wrong-crlf",
        "cut-in-last-size",
        "long-size-line",
        "long-trailer",
    ],
)
@pytest.mark.parametrize("reader", ["whole", "lines"])
def test_broken_body_is_an_error(body, reader):
    """A malformed body is never a success; the connection is closed."""
    with serving(once(body)) as server, transport_to(server.url) as transport:
        response = send(transport)
        with pytest.raises((IncompleteResponseError, ProtocolError)) as caught:
            response.read_body(LIMIT) if reader == "whole" else list(response.iter_lines())
        check(caught.value, sent=True, retryable=True)
        assert transport.adapter.pool().idle() == 0
        assert response.read1() == b""


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "body",
    [answer(b"abc")[:-1], CHUNKED + b"5\r\nab", CHUNKED + chunk(b"a"), b"HTTP/1.1 200 OK\r\n\r\nab"],
    ids=["content-length", "in-chunk", "between-chunks", "close-delimited"],
)
def test_body_reset_is_error(body):
    """A reset in the body is an error, on any framing."""
    go = threading.Event()

    def handler(sock, server):
        server.read(sock)
        sock.sendall(body)
        go.wait(PATIENCE)
        reset(sock)

    with serving(handler) as server, transport_to(server.url) as transport:
        response = send(transport)
        assert response.read1()
        go.set()
        with pytest.raises(IncompleteResponseError) as caught:
            response.read_body(LIMIT)
        check(caught.value, sent=True, retryable=True)


def test_wrong_length_is_not_trusted():
    """With an invalid length the body ends with the connection, which is not reused."""
    with serving(once(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}")) as server:
        with transport_to(server.url) as transport:
            outcome = attempt(lambda: fetch(transport))
            assert outcome == b"{}" or isinstance(outcome, ProtocolError)
            assert transport.adapter.pool().idle() == 0


# --- encodings and sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "gzip, gzip", "utf-8"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_unwanted_codings_are_named(encoding, framing):
    """A coding was not requested, and a few bytes of one may expand to any size: it is never decoded, whatever the body."""
    body, header = gzip.compress(b"{}"), f"Content-Encoding: {encoding}"
    whole = answer(body, header) if framing == "length" else CHUNKED[:-2] + header.encode() + b"\r\n\r\n" + chunk(body)
    with serving(hanging(whole)) as server, transport_to(server.url) as transport:
        response = send(transport)
        with pytest.raises(
            ResponseDecodeError, match=f"content coding '{encoding}', which was not asked for"
        ) as caught:
            response.read_body(LIMIT)
        check(caught.value, sent=True, retryable=False)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_identity_is_no_coding(coding):
    """The coding ``identity`` is accepted: it is the one requested."""
    with serving(hanging(answer(b"{}", f"Content-Encoding: {coding}"))) as server:
        with transport_to(server.url) as transport:
            assert fetch(transport) == b"{}"


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("size", [101, 50_000, 200_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_body_over_cap_is_refused(size, framing, wire):
    """A body over the cap is refused, however small; the connection is closed."""
    body = b"x" * size
    whole = {
        "length": answer(body),
        "chunked": CHUNKED + chunk(body) + b"0\r\n\r\n",
        "close": b"HTTP/1.1 200 OK\r\n\r\n" + body,
    }[framing]
    with serving(once(whole)) as server, transport_to(server.url) as transport:
        response = send(transport)
        with pytest.raises(ResponseTooLargeError, match="100 bytes") as caught:
            response.read_body(100)
        check(caught.value, sent=True, retryable=False)
        assert wire.kind != "http1" or transport.adapter.pool().idle() == 0  # a stream may have had its end


@pytest.mark.over_http2("bridge")
def test_body_at_cap_is_accepted():
    """A body of exactly the cap is accepted."""
    with serving(hanging(answer(b"x" * 100_000))) as server, transport_to(server.url) as transport:
        assert len(send(transport).read_body(100_000)) == 100_000


@pytest.mark.over_http2("bridge")
def test_endless_line_is_refused():
    """A line over 1 MiB is refused, in bounded memory."""

    def handler(sock, server):
        server.read(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sock.sendall(bytes(65_536))

    with serving(handler) as server, transport_to(server.url) as transport:
        response = send(transport)
        with pytest.raises(ResponseTooLargeError):
            list(response.iter_lines())
        response.close()


# --- what errors say and hide ----------------------------------------------------------------------------------------------


def check(error, *, sent, retryable):
    """Check that the error is ours, right about ``sent``, and without a link to the request."""
    assert (error.sent, error.retryable) == (sent, retryable)
    assert error.__context__ is None
    cause = error.__cause__
    assert cause is None or (
        isinstance(cause, (OSError, http.client.HTTPException))
        and not type(cause).__module__.startswith(("requests", "urllib3"))
        and cause.__traceback__ is cause.__context__ is cause.__cause__ is None
    )


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "handler",
    [
        None,
        once(),
        once(end=reset),
        once(b"garbage\r\n\r\n"),
        once(b"HTTP/1.1 200 OK\r\nContent-Le"),
        once(answer(b"abc")[:-1]),
        once(CHUNKED + b"zz"),
        once(answer(b"nope", "Content-Encoding: gzip")),
        hanging(),
    ],
    ids=["refused", "fin", "rst", "garbage", "cut-head", "short", "bad-chunk", "false-gzip", "silence"],
)
@pytest.mark.parametrize("header", ["plain", "not-latin-1"])
def test_key_is_in_no_error(handler, header):
    """The key is not in messages, reprs, causes, nor in a traceback with the locals of every frame."""
    extra = {"X": "\u20ac"} if header == "not-latin-1" else None
    with serving(handler or echo) as server, refusing_port() as port:
        url = server.url if handler else f"http://127.0.0.1:{port}"
        with transport_to(url, api_key=KEY, headers={"X-User": "u"}) as transport:
            with pytest.raises(GroqProviderError) as caught:
                fetch(transport, scope=new_scope(0.1), headers=extra)
            error = caught.value
            text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
            assert "_send_once" in text or "read1" in text or "_end_of_body" in text
            assert KEY not in text
            assert KEY not in repr(error) + str(error) + repr(error.__cause__) + repr(transport)
            assert KEY not in repr(vars(transport)) + repr(vars(transport.adapter))
            assert error.__context__ is None


def all_errors(*modules):
    import requests.exceptions
    import urllib3.exceptions

    found = []
    for module in (requests.exceptions, urllib3.exceptions, http.client):
        found += [
            kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, Warning)
        ]
    return sorted(
        {*found, OSError, TimeoutError, ConnectionResetError, ValueError},
        key=lambda kind: (kind.__qualname__, kind.__module__),
    )


def instance(kind):
    """Return an instance, whatever its constructor needs."""
    error = kind.__new__(kind)
    error.args = ("x",)
    if isinstance(error, http.client.IncompleteRead):
        error.partial, error.expected = (b"", None) if kind is http.client.IncompleteRead else (0, 1)
        error.length, error.response = b"x", None
    return error


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_foreign_error_is_mapped(kind):
    """Each exception of requests, urllib3 and http.client becomes one of ours, before and after the request was sent."""
    scope = CancelScope(SystemClock())
    for sent in (False, None, True):
        scope.sent = sent
        error = map_send_error(instance(kind), scope, "http://h")
        assert isinstance(error, GroqProviderError)
        check(error, sent=sent, retryable=error.retryable)
    error = map_read_error(instance(kind), scope)
    assert isinstance(error, GroqProviderError)
    check(error, sent=True, retryable=error.retryable)
    assert sys.exc_info() == (None, None, None)


def test_messages_name_the_place():
    """Messages name scheme, host and port, but not the path."""
    with serving(once()) as server, transport_to(server.url + "/openai/v1") as transport:
        with pytest.raises(APIConnectionError, match=f"connection to {server.url} broke: the server closed"):
            send(transport)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Type: application/json\nConnection: close\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\nConnection: close\r\n\n",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Folded: a\r\n b\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Twice: a\r\nx-twice: b\r\nConnection: close\r\n\r\n",
    ],
    ids=["LF", "mixed", "no fields", "folded", "twice"],
)
def test_head_ends_at_its_end(head):
    """A part of the body that arrives with the head, and looks like the end of a head, is body."""
    body = b'{"a":\r\n\r\n "b: c"}\r\n\r\n'
    with serving(once(head + body)) as server, transport_to(server.url) as transport:
        response = send(transport)
        assert response.read_body(1000) == body
        assert response.headers.get("x-folded", "a b") in ("a b", "a, b")
        assert response.headers.get("x-twice", "a, b") == "a, b"
