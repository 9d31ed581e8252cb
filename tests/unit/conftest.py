"""A unit test makes no socket."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch, request):
    """Fail a test that makes a socket: it belongs into ``tests/wire``. Only the Redis kind of a store talks to its own server."""
    if "redis" in request.node.name:
        return

    def refuse(self, *_args, **_more):
        raise AssertionError("a unit test makes a socket; move it to tests/wire")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
