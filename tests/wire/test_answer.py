"""HTTP/1.1 responses read from a connection, over a pair of sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import sys

import pytest
from support.servers import CHUNKED, chunk

from groq_provider.clock import SystemClock
from groq_provider.transport.http1.receive import BadFraming, HTTP11Response, ReceiveBuffer, ResponseFile
from groq_provider.transport.scope import CancelScope


class Connection:
    """The part of a connection that a response needs."""

    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def buffer(pair):
    return ReceiveBuffer(pair[0], CancelScope(SystemClock(), total_deadline=SystemClock().monotonic() + 20))


@pytest.fixture
def answer_of(pair, buffer):
    """Build the response to *data*; with *end* the peer closes after it."""

    def build(data, *, end=False, method="GET"):
        pair[1].sendall(data)
        if end:
            pair[1].shutdown(socket.SHUT_WR)
        return HTTP11Response(Connection(), buffer, method)

    return build


def body_of(answer):
    return b"".join(iter(answer.read1, b""))


def test_overlong_line_returns_one_extra(pair, buffer):
    """Of a line over the limit one byte more is returned, which shows its excess; nothing beyond is consumed."""
    pair[1].sendall(b"abcdefgh\n")
    assert buffer.read_line(5) == b"abcdef"
    assert buffer.read_line(5) == b"gh\n"


def test_line_ends_with_connection(pair, buffer):
    """The pieces of a line are kept until its end; at the end of the connection the line is all that has arrived."""
    buffer.buffered = b"on"
    pair[1].sendall(b"e\ntw")
    assert buffer.read_line() == b"one\n"
    pair[1].close()
    assert buffer.read_line() == b"tw"
    assert buffer.read_line() == b""


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", id="length"),
        pytest.param(CHUNKED + chunk(b"ab") + chunk(b"c") + b"0\r\n\r\n", id="chunked"),
        pytest.param(CHUNKED + b"2;x=y\r\nab\r\n1\nc\r\n0\r\nTrailer: 1\r\n\r\n", id="chunked, extension and trailer"),
    ],
)
def test_marked_body_keeps_connection(answer_of, buffer, data):
    """After a self-delimited body the connection can be reused; bytes that follow it rule that out."""
    answer = answer_of(data)
    assert body_of(answer) == b"abc"
    assert (answer.self_delimited, answer.fully_read, answer.can_reuse, buffer.buffered) == (True, True, True, b"")
    buffer.buffered = b"HTTP/1.1 200 OK"
    assert not answer.can_reuse


def test_unmarked_body_ends_with_connection(answer_of):
    """A body without a delimiter ends with the connection, which cannot be reused."""
    answer = answer_of(b"HTTP/1.1 200 OK\r\n\r\nabc", end=True)
    assert not answer.self_delimited
    assert body_of(answer) == b"abc"
    assert not answer.can_reuse


def test_cut_body_reports_missing_bytes(answer_of):
    """A body cut before its length says how many bytes are missing, for the message."""
    answer = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", end=True)
    assert answer.read1() == b"abc"
    with pytest.raises(http.client.IncompleteRead) as caught:
        answer.read1()
    assert caught.value.expected == 7


@pytest.mark.parametrize("rest", [b"", b"\r", b"x\r\n", b"\r\n5", b"\r\n-1\r\n", b"\r\n0x5\r\n"])
def test_chunk_needs_its_end(answer_of, rest):
    """A chunk without its terminator is cut or malformed, never the end of a body."""
    answer = answer_of(CHUNKED + b"2\r\nab" + rest, end=True)
    assert answer.read1() == b"ab"
    with pytest.raises((http.client.IncompleteRead, BadFraming)):
        answer.read1()


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_file_respects_requested_size(answer_of, size):
    """A file returns no more than requested, in whichever pieces the body arrived."""
    file = ResponseFile(answer_of(CHUNKED + chunk(b"hello ") + chunk(b"world") + b"0\r\n\r\n"))
    pieces = list(iter(lambda: file.read1(size), b""))
    assert b"".join(pieces) == b"hello world"
    assert max(map(len, pieces)) <= size
    assert file.isclosed()


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"Checksum: 1\r\n\r\n", b"A: b\nC: d\n\n"], ids=repr)
@pytest.mark.parametrize("size", [b"0\r\n", b"00;last\r\n", b"0\n"], ids=repr)
def test_chunked_end_waits_for_trailers(pair, answer_of, size, end):
    """The end of a chunked body is ready once the trailer and its empty line have arrived."""
    answer = answer_of(CHUNKED + chunk(b"hello"))
    assert answer.read1() == b"hello"
    for byte in size + end[:-1]:
        pair[1].sendall(bytes([byte]))
        assert not answer.ready(0)
    pair[1].sendall(end[-1:])
    assert answer.ready(20)
    assert answer.read1() == b""
    assert answer.can_reuse


@pytest.mark.parametrize("sizes", [(None,), (4, 4, 4), (3, None)])
def test_file_reads_whole_pieces(answer_of, sizes):
    """A read with a size returns fewer bytes only at the end; one without a size returns the rest."""
    file = ResponseFile(answer_of(CHUNKED + chunk(b"hello ") + chunk(b"world") + b"0\r\n\r\n"))
    pieces = [file.read(size) for size in sizes]
    assert b"".join(pieces) == b"hello world"
    assert [len(piece) for piece, size in zip(pieces[:-1], sizes, strict=False)] == list(sizes[:-1])


def test_forgotten_answer_closes_connection(answer_of):
    """An unreferenced response closes its connection: no code could read it to its end."""
    answer = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    connection = answer._connection
    del answer
    assert connection.closed


def test_look_keeps_error_for_reader(pair, buffer, answer_of):
    """peek() buffers the bytes that have arrived, and keeps an error for the reader: the system reports it once."""
    answer = answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    assert not answer.ready(0)
    pair[1].sendall(b"a")
    assert answer.ready(0)
    assert answer.read1() == b"a"

    class Broken:
        """A socket that fails when it is read."""

        def settimeout(self, _seconds):
            pass

        def recv(self, _size):
            raise ConnectionResetError

    buffer.sock = Broken()
    assert buffer.peek()
    buffer.sock = pair[0]
    with pytest.raises(ConnectionResetError):
        answer.read1()
    with contextlib.suppress(OSError):
        pair[1].close()


def test_interrupted_look_never_passes_whole(pair, buffer, answer_of):
    """An interrupt in peek() may lose bytes, so the body never passes for complete."""
    answer = answer_of(CHUNKED)

    class Interrupting(bytes):
        """A socket that receives data and then Ctrl-C."""

        def __radd__(self, other):
            raise KeyboardInterrupt

    class Socket:
        def settimeout(self, _seconds):
            pass

        def recv(self, size):
            return Interrupting(pair[0].recv(size))

    pair[1].sendall(chunk(b"one"))
    buffer.sock = Socket()
    with pytest.raises(KeyboardInterrupt):
        buffer.peek()
    buffer.sock = pair[0]
    pair[1].sendall(chunk(b"two") + b"0\r\n\r\n")
    with pytest.raises(ConnectionAbortedError):
        answer.read1()


def test_look_ends_despite_endless_input(pair, buffer, answer_of):
    """ready() ends however much arrives: the reader gets a size line without an end, and refuses it."""
    answer = answer_of(CHUNKED)
    pair[1].sendall(b"5;" + b"a" * 20_000)
    assert answer.ready(20)
    with pytest.raises(BadFraming):
        answer.read1()


@pytest.mark.parametrize(
    ("length", "body"), [(b"3", b"abc"), (b"00000000000000000000000003", b"abc"), (b"0000000000000000000000000", b"")]
)
def test_leading_zeros_keep_length(answer_of, length, body):
    """Any number of zeros in front of a length is allowed."""
    assert body_of(answer_of(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + body)) == body


def test_protocol_change_retires_connection(answer_of):
    """A connection that changes its protocol unrequested is not reused."""
    assert not answer_of(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n").can_reuse


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the bytes of a connection for its owner")
@pytest.mark.parametrize("news", ["none", "bytes", "end", "reset", "read elsewhere"])
def test_kept_connection_shows_news(news):
    """A kept connection counts as usable only while all its bytes were read here and it is open; ``poll()`` is asked only if not."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.setblocking(False)
            buffer = ReceiveBuffer(near, CancelScope(SystemClock(), total_deadline=SystemClock().monotonic() + 20))
            far.sendall(b"answer")
            assert buffer.receive() == b"answer"
            poll, asked = buffer._poll, []
            if news == "bytes":
                far.sendall(b"more")
            elif news == "end":
                far.shutdown(socket.SHUT_WR)
            elif news == "reset":
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                far.close()
            elif news == "read elsewhere":
                far.sendall(b"more")
                assert poll(20_000)
                near.recv(100)
            if news in ("bytes", "end", "reset"):
                assert poll(20_000)
            buffer._poll = lambda timeout: asked.append(timeout) or poll(timeout)
            assert buffer.has_input() is (news in ("bytes", "end", "reset"))
            assert asked == ([] if news == "none" else [0])
