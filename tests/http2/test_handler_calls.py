"""Signal handlers over HTTP/2 never wait for the call that they interrupted.

No real signals: a profiler runs the handler where the interpreter looks for signals, as a function begins and as a C
function returns.
"""

from __future__ import annotations

import sys
import time

import pytest
from support.fakes import PATIENCE
from support.http2_scene import answer, held, provider_on
from support.http2_servers import Http2Server

from groq_provider import StreamInterruptedError
from groq_provider import errors as e

HTTP2 = "groq_provider/transport/http2/"


class Striking:
    """Runs *handler* at the points with these numbers in the modules of HTTP/2, or at the first point in *function*."""

    def __init__(self, handler, numbers=(), function=None):
        self._handler, self._numbers, self._function = handler, numbers, function
        self._within = False
        self.seen = self.strikes = 0

    def _profile(self, frame, event, _argument):
        code = frame.f_code
        if (
            self._within
            or event not in {"call", "c_return"}
            or HTTP2 not in code.co_filename
            or code.co_name == "__del__"
        ):
            return
        number, self.seen = self.seen, self.seen + 1
        if number in self._numbers or (code.co_name == self._function and not self.strikes):
            self.strikes += 1
            self._within = True
            try:
                self._handler()
            finally:
                self._within = False

    def __enter__(self):
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_exc):
        sys.setprofile(None)


def places_taken(provider):
    return sum(connection.open_streams for connection in provider._transport.adapter.pool()._connections)


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_answered_anywhere(stream):
    """The handler's call is answered, and so is the call that it interrupted; no place is lost."""

    def ask(provider, prompt):
        if stream:
            return provider.generate_stream(prompt).collect().content
        return provider.generate(prompt).content

    with Http2Server(answer) as server, provider_on(server) as provider:
        ask(provider, "first")

        def handler():
            assert ask(provider, "handler") == "handler"
            provider.warm_up(3)
            repr(provider._transport)

        # The numbers end: a handler that returns places inside the loop that settles them keeps that loop going.
        with Striking(handler, range(0, 1_000, 3)) as striking:
            assert ask(provider, "struck") == "struck"
        assert striking.strikes > 5
        assert ask(provider, "last") == "last"
        assert places_taken(provider) == 0


def test_provider_closes_anywhere():
    """A handler may close the provider, also while the interrupted call holds a lock: that call ends as closed, and nothing stays open."""
    with Http2Server(answer) as server:
        for number in range(0, 100_000, 7):
            with provider_on(server) as provider:
                with Striking(provider.close, [number]) as striking:
                    try:
                        provider.generate("struck")
                    except (e.ProviderClosedError, e.RequestCancelledError):
                        pass
                if not striking.strikes:
                    break
        assert number > 100
        assert server.wait(lambda: server.open_connections == 0)


@pytest.mark.parametrize("function", ["_wait_io", "_flush_outbox"])
def test_stream_on_struck_connection_refused(function):
    """A stream that only the interrupted call can read: the handler gets an error at once."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        stream = provider.generate_stream("held")
        assert next(stream).content == "one"
        problems = []

        def handler():
            begun = time.monotonic()
            with pytest.raises(StreamInterruptedError, match="signal handler") as caught:
                next(stream)
            problems.append(caught.value)
            assert time.monotonic() - begun < PATIENCE

        with Striking(handler, function=function):
            assert provider.generate("quick").content == "quick"
        assert problems[0].retryable
