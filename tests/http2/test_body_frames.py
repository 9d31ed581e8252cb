"""Bodies of requests in frames, without a socket."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.settings
from hpack import HeaderTuple

from groq_provider.transport.http2.frames import Frames
from groq_provider.transport.http2.stream import Stream


def test_large_frames_are_not_filled():
    """A peer may allow frames of megabytes: the body is still framed a quarter of a megabyte at a time, as the socket takes it."""
    frames = Frames()
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.receive_data(bytes(frames.outbox))
    frames.outbox.clear()
    codes = h2.settings.SettingCodes
    server.update_settings({codes.MAX_FRAME_SIZE: 1 << 22, codes.INITIAL_WINDOW_SIZE: 1 << 23})
    server.increment_flow_control_window(1 << 23)
    frames.receive(server.data_to_send(), 0.0)
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/")]
    frames.open_stream(Stream(), [HeaderTuple(*field) for field in fields], bytes(2 << 20), 0.0)
    assert 262_144 < len(frames.outbox) < 600_000
