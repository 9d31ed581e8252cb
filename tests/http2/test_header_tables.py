"""The memory for header tables over HTTP/2, with a peer that offers far too much."""

from __future__ import annotations

import pytest

pytest.importorskip("h2")

import h2.config
import h2.connection
import h2.settings
from hpack import HeaderTuple

from groq_provider.transport.http2.frames import Frames
from groq_provider.transport.http2.stream import Stream


@pytest.mark.parametrize("offered", [0, 100, 4_096, 1 << 20, (1 << 32) - 1])
def test_header_tables_are_bounded(offered):
    """The table holds at most 4,096 bytes, and the announcement of its size does not grow with the number of offers."""
    frames = Frames()
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.receive_data(bytes(frames.outbox))
    frames.outbox.clear()
    frames.receive(server.data_to_send(), 0.0)
    for size in [offered, 0, offered] * 50:
        server.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
        frames.receive(server.data_to_send(), 0.0)
    encoder = frames._h2.encoder
    assert len(encoder.table_size_changes) <= 2
    server.receive_data(bytes(frames.outbox))
    frames.outbox.clear()
    for number in range(50):
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/%d" % number)]
        fields.append((b"x-long", b"%d" % number * 400))
        frames.open_stream(Stream(), [HeaderTuple(*field) for field in fields], None, 0.0)
        assert encoder.header_table._current_size <= min(offered, 4_096)
        events = server.receive_data(bytes(frames.outbox))  # a peer understands it
        frames.outbox.clear()
        assert any(type(event).__name__ == "RequestReceived" for event in events)
