"""Transports over plain sockets, scopes for their calls, and threads and forks to use them from."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
import warnings

import pytest
from support.fakes import PATIENCE, wait_for
from support.servers import (
    OK,
    answer,
    read_request,
)

from groq_provider.clock import SystemClock
from groq_provider.errors import (
    GroqProviderError,
    RequestCancelledError,
)
from groq_provider.transport.scope import CancelScope
from groq_provider.transport.session import SessionTransport

LIMIT = 1 << 20
KEY = "gsk_transport_canary_0123456789"


class LimitFromSending(CancelScope):
    """A scope that starts its total limit when the request is sent: with its last byte, or with its *first*.

    Otherwise a short limit would also count the time that a loaded machine needs to get there.
    """

    __slots__ = ("_first", "_seconds", "_sent")

    def __init__(self, seconds, *, first=False):
        self._seconds, self._first = seconds, first
        super().__init__(SystemClock())

    @property
    def sent(self):
        return self._sent

    @sent.setter
    def sent(self, value):
        self._sent = value
        if self.total_deadline is None and (value or (value is None and self._first)):
            self.total_deadline = self.deadline = self.clock.monotonic() + self._seconds


@contextlib.contextmanager
def transport_to(url, **settings):
    settings.setdefault("clock", SystemClock())
    transport = SessionTransport(url, **settings)
    try:
        yield transport
    finally:
        transport.close()


def new_scope(total=PATIENCE, **limits):
    clock = SystemClock()
    return CancelScope(clock, total_deadline=None if total is None else clock.monotonic() + total, **limits)


def send(transport, body=b"{}", scope=None, path="/x", headers=None, **more):
    return transport.send(
        "GET" if body is None else "POST", path, headers=headers, body=body, scope=scope or new_scope(), **more
    )


def fetch(transport, body=b"{}", scope=None, **more):
    return send(transport, body, scope, **more).read_body(LIMIT)


def in_threads(count, work):
    """Run ``work(number)`` in *count* threads that start together; return the results in order."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(number):
        barrier.wait(PATIENCE)
        try:
            results[number] = work(number)
        except BaseException as problem:
            results[number] = problem

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def echo(sock, server):
    """Answer every request with its own body."""
    while (request := read_request(sock)) is not None:
        sock.sendall(answer(request.body))


def connection_of(response):
    return response.raw._connection


def attempt(work):
    """Return the result of *work*, or the exception that it raises."""
    try:
        return work()
    except GroqProviderError as problem:
        return problem


def drip(*parts):
    def handler(sock, server):
        server.read(sock)
        sock.sendall(parts[0])
        while not server.released.wait(0.01):
            sock.sendall(parts[1])

    return handler


def cancelled_while(transport, scope, reached, work):
    """Run *work* in a thread and cancel *call* once *reached* says so; return the error's ``sent`` and the seconds until then."""
    found = queue.SimpleQueue()

    def run():
        with pytest.raises(RequestCancelledError) as caught:
            work()
        found.put((time.monotonic(), caught.value.sent))

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(reached)
    before = time.monotonic()
    scope.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    at, sent = found.get(timeout=PATIENCE)
    assert at - before < PATIENCE / 4
    pool = transport.adapter._pool
    assert pool is None or pool.idle() == 0
    return sent


def wait_until_readable(transport):
    """Wait until the end of the idle connection has arrived."""
    (conn,) = [conn for conn in transport.adapter.pool().pool.queue if conn is not None]
    conn.sock.settimeout(PATIENCE)
    assert conn.sock.recv(1, socket.MSG_PEEK) == b""


def closes_second(end):
    """Answer the first request of the first connection and close it at the second; answer every request on later connections."""

    def handler(sock, server):
        first = server.connections == 1
        server.read(sock)
        sock.sendall(OK)
        server.read(sock)
        if first:
            end(sock)
        else:
            sock.sendall(OK)

    return handler


def fork(work):
    """Run *work* in a child process; return whether it returned a true value."""
    with warnings.catch_warnings():
        # Python 3.12 warns of fork() in a process with threads, which is the point here.
        warnings.filterwarnings("ignore", r".*use of fork\(\) may lead to deadlocks", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return child


def join(child):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung"


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
