"""What a unit test does not have: sockets."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch):
    """Fail a test that makes a socket: it belongs into ``tests/wire``."""

    def refuse(self, *_args, **_more):
        raise AssertionError("a unit test makes a socket; move it to tests/wire")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
