"""The pool of HTTP/2: falling back, storms of handshakes, waiting for places, places given back whatever happens."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import pytest
from fakes import PATIENCE
from http2_scene import completion, provider_on
from http2_servers import Http2Server, until
from test_transport import fork, join, needs_fork

from groq_provider import errors as e


def pool_of(provider):
    return provider._transport.adapter.pool()


# --- falling back --------------------------------------------------------------------------------------------------------------


class Older(Http2Server):
    """Speaks HTTP/1.1 only."""

    def __init__(self):
        super().__init__(protocols=("http/1.1",))
        self.writers = []

    async def other(self, reader, writer):
        self.writers.append(writer)
        await super().other(reader, writer)

    async def other_answer(self, lines, body):
        return completion("over 1.1")

    def hang_up(self):
        """Close every connection; they are closed when this returns."""
        socks = [writer.get_extra_info("socket") for writer in self.writers]
        self.do(lambda: [writer.transport.abort() for writer in self.writers])
        assert until(lambda: all(sock.fileno() < 0 for sock in socks))


def with_one_to_spare(server, provider):
    """Make a call that learns of HTTP/1.1 and finds a kept connection, so that the one that learned it is kept, too."""
    assert provider._transport.session.get(server.url + "/openai/v1/models", timeout=PATIENCE).status_code == 200
    assert provider.generate("x").content == "over 1.1"
    assert len(server.others) == 2


@needs_fork
def test_a_child_does_not_use_the_connection_that_learned_of_http_1_1():
    """It belongs to the parent like any kept one."""
    with Older() as server, provider_on(server) as provider:
        with_one_to_spare(server, provider)
        assert join(fork(lambda: provider.generate("x").content == "over 1.1")) == 0
        assert len(server.others) == 3
        for _ in range(3):
            assert provider.generate("x").content == "over 1.1"


def test_the_connection_that_learned_of_http_1_1_may_have_gone_stale():
    """The server closes it like any kept one before its first request: nobody notices."""
    with Older() as server, provider_on(server) as provider:
        with_one_to_spare(server, provider)
        server.hang_up()
        for _ in range(3):
            assert provider.generate("x").content == "over 1.1"
        assert len(server.others) == 3


def test_closing_during_a_warm_up_that_falls_back_leaves_no_connection(monkeypatch):
    """Closed between the handshake and the moment when the connection is put away."""
    with Older() as server, provider_on(server) as provider:
        http1, made = pool_of(provider).http1, []
        usual, negotiating = http1.usual, http1.negotiating

        def closing():
            provider.close()
            return usual()

        def noted():
            made.append(negotiating())
            return made[-1]

        monkeypatch.setattr(http1, "usual", closing)
        monkeypatch.setattr(http1, "negotiating", noted)
        with pytest.raises(e.ProviderClosedError):
            provider.warm_up(1)
        assert [conn.sock for conn in made] == [None]
