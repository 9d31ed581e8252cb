"""HTTP/2 frames from good and bad peers: heads and bodies, RST_STREAM, GOAWAY, SETTINGS, windows, PING, ends of connections.

These cases correspond to those about the framing of HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import sys
import time

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from support.fakes import PATIENCE
from support.http2_scene import (
    DONE,
    LAST,
    NEVER,
    QUICK,
    SSE,
    alive,
    answer,
    attempt,
    begin,
    completion,
    event,
    held,
    idle,
    in_threads,
    prompt_of,
    provider_on,
    running,
)
from support.http2_servers import ErrorCodes, Http2Server, SettingCodes, until

from groq_provider import CancelToken, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.transport import requests_adapter
from groq_provider.transport.http2 import connection as http2_connection
from groq_provider.transport.http2 import pool as http2_pool
from groq_provider.transport.http2.connection import Http2Connection

JSON = ("content-type", "application/json")


def raw_frame(kind, number, body=b"", flags=0):
    """A frame that the h2 library would not make."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + body


def victim_only(work):
    """Return a script that runs *work* for the prompt "victim", holds streams called "bystander", and answers all others."""
    holding = held()

    async def script(request):
        await request.whole()
        prompt = prompt_of(request)
        if prompt == "victim":
            await work(request)
        elif prompt == "bystander":
            await holding(request)
        else:
            await answer(request)

    return script


# --- heads and bodies that are right -------------------------------------------------------------------------------------------


async def interim(request):
    request.head(103, ("link", "</x>"))
    request.head(102)
    request.head(100)
    await request.json(completion("fine"))


async def with_trailers(request):
    request.head(200, JSON)
    await request.data(completion("fine"))
    request.finish(("x-checksum", "1"))


async def padded(request):
    request.head(200, JSON)
    body = completion("fine")
    for at in range(len(body)):
        await request.data(body[at : at + 1], pad=255 - at % 256)
    await request.data(pad=255, end=True)


async def end_in_a_frame_of_its_own(request):
    request.head(200, JSON, ("content-length", str(len(completion("fine")))))
    await request.data(completion("fine"))
    await request.data(end=True)


async def many_continuations(request):
    """The head in fifty frames."""
    fields = [(":status", "200"), JSON, *((f"x-{number}", "v" * 50) for number in range(50))]
    block = request.peer.h2.encoder.encode(fields)
    size = len(block) // 50 + 1
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    frames = [HeadersFrame(request.id, pieces[0])]
    frames += [ContinuationFrame(request.id, piece) for piece in pieces[1:]]
    frames[-1].flags.add("END_HEADERS")
    data = DataFrame(request.id, completion("fine"), flags=["END_STREAM"])
    request.peer.write(b"".join(frame.serialize() for frame in frames) + data.serialize())
    request.answered = True


async def large_head(request):
    await _with(request, *((f"x-{number}", "v" * 900) for number in range(20)))


async def _with(request, *fields):
    request.head(200, JSON, *fields)
    await request.data(completion("fine"), end=True)


async def unknown_frames(request):
    """Types, flags and settings that nobody has defined, and those for priorities, are passed over."""
    unknown = raw_frame(0xBB, request.id, b"what is this", flags=0xFF)
    settings = SettingsFrame(0, settings={0xABCD: 7}).serialize()
    priority = PriorityFrame(request.id, depends_on=0, stream_weight=5).serialize()
    noise = unknown + settings + priority + raw_frame(0xBC, 0, b"x" * 200) + raw_frame(0x0A, 0, b"\0\0altsvc")
    request.peer.write(noise)
    request.head(200, JSON)
    request.peer.write(noise)
    await request.data(completion("fine"), end=True)


async def byte_by_byte(request):
    """Every byte of every frame in a TLS record of its own."""
    block = request.peer.h2.encoder.encode([(":status", "200"), JSON])
    frames = HeadersFrame(request.id, block, flags=["END_HEADERS"]).serialize()
    frames += DataFrame(request.id, completion("fine"), flags=["END_STREAM"]).serialize()
    for at in range(len(frames)):
        request.peer.write(frames[at : at + 1])
        await request.peer.drain()
        if at % 20 == 0:
            await asyncio.sleep(0.001)
    request.answered = True


async def same_field_twice(request):
    await _with(request, ("x-a", "1"), ("x-a", "2"), ("set-cookie", "a=1"), ("set-cookie", "b=2"))


async def empty_frames(request):
    request.head(200, JSON)
    for _ in range(50):
        request._call("send_data", b"")
    await request.data(completion("fine"), end=True)


async def refused_after_all(request):
    """RST_STREAM(NO_ERROR) after a complete answer (RFC 9113, 8.1) takes nothing of it back."""
    request.head(200, JSON)
    await request.data(completion("fine"), end=True)
    request.peer.write(RstStreamFrame(request.id, error_code=ErrorCodes.NO_ERROR).serialize())


async def late_frames(request):
    """What comes for a stream that has ended is for nobody."""
    await request.json(completion("fine"))
    request.peer.write(WindowUpdateFrame(request.id, window_increment=1000).serialize())
    request.peer.write(RstStreamFrame(request.id, error_code=ErrorCodes.INTERNAL_ERROR).serialize())


async def many_pings(request):
    for number in range(300):
        request.peer.ping(b"%08d" % number)
    await request.json(completion("fine"))


async def many_settings(request):
    for number in range(100):
        request.peer.settings(max_concurrent_streams=50 + number)
    await request.json(completion("fine"))


RIGHT = [
    interim,
    with_trailers,
    padded,
    end_in_a_frame_of_its_own,
    many_continuations,
    large_head,
    unknown_frames,
    byte_by_byte,
    same_field_twice,
    empty_frames,
    refused_after_all,
    late_frames,
    many_pings,
    many_settings,
]


@pytest.mark.parametrize("work", RIGHT, ids=lambda work: work.__name__)
def test_odd_but_clear_answers_read(work):
    """Unusual but valid answers are read, twice each, beside a stream that is not affected, over one connection."""
    with Http2Server(victim_only(work)) as server, provider_on(server) as provider:
        with provider.generate_stream("bystander") as bystander:
            assert next(bystander).content == "one"
            for _ in range(2):
                assert provider.generate("victim").content == "fine"
            server.release()
            assert bystander.collect().content == "one two"
        assert alive(provider)
        assert server.connections == 1
        assert idle(provider)


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("how", ["in the head", "in a frame"])
def test_bodyless_answers_end_at_once(status, how):
    """An answer without a body ends at once: by END_STREAM on the head, or by an empty frame.

    The content-length of a 304 is ignored.
    """

    async def script(request):
        await request.whole()
        if request.path.endswith("/nothing"):
            fields = [("content-length", "1000")] if status == 304 else []
            request.head(status, *fields, end=how == "in the head")
            if how == "in a frame":
                await request.data(end=True)
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        result = attempt(lambda: provider.request("GET", "/nothing"))
        if isinstance(result, e.GroqProviderError):
            assert result.status_code == status
        assert alive(provider, server)
        assert server.connections == 1


def test_requests_satisfy_strict_server():
    """Requests are well-formed: lower-case names, no connection fields, right length and path; a strict server accepts them."""

    async def script(request):
        await (answer(request) if request.method == "POST" else request.json())

    with Http2Server(script) as server, provider_on(server, headers={"X-Own": "1"}) as provider:
        provider.generate("x")
        attempt(lambda: provider.request("GET", "/models", extra_query={"a": "b"}))
        first, second = server.requests
        assert first.headers[":method"] == "POST"
        assert first.headers[":scheme"] == "https"
        assert first.headers[":authority"] == f"localhost:{server.port}"
        assert first.headers[":path"] == "/openai/v1/chat/completions"
        assert first.headers["x-own"] == "1"
        assert first.headers["content-length"] == str(len(first.body))
        assert first.headers["accept-encoding"] == "identity"
        assert not first.headers.keys() & {"connection", "host", "transfer-encoding", "keep-alive", "upgrade"}
        assert all(name == name.lower() for name, _ in first.fields)
        names = [name for name, _ in first.fields]
        assert len(set(names)) == len(names)
        assert second.headers[":path"].endswith("/models?a=b")
        assert second.headers[":method"] == "GET"
        assert second.body == b""
        assert "content-length" not in second.headers
        assert server.peers[0].h2.remote_settings.enable_push == 0


def test_the_key_is_never_indexed():
    """The key enters no header table of the server or a proxy; every request sends it anew."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        for _ in range(3):
            provider.generate("x")
        for request in server.requests:
            assert request.headers["authorization"].startswith("Bearer gsk_")
            assert "authorization" in request.never_indexed


# --- heads and bodies that are wrong -------------------------------------------------------------------------------------------


def headers_frame(request, *fields, end=False, raw=None):
    """A HEADERS frame with unchecked fields."""
    block = request.peer.h2.encoder.encode(list(fields)) if raw is None else raw
    flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
    request.peer.write(HeadersFrame(request.id, block, flags=flags).serialize())


def data_frame(request, data, *, end=False, number=None):
    flags = ["END_STREAM"] if end else []
    request.peer.write(DataFrame(request.id if number is None else number, data, flags=flags).serialize())


async def no_status(request):
    headers_frame(request, JSON)


async def status_is_no_number(request):
    headers_frame(request, (":status", "abc"), JSON)


async def status_out_of_range(request):
    headers_frame(request, (":status", "99"), JSON)


async def two_statuses(request):
    headers_frame(request, (":status", "200"), (":status", "500"), JSON)


async def switching_protocols(request):
    headers_frame(request, (":status", "101"))


async def interim_ends_the_stream(request):
    headers_frame(request, (":status", "103"), end=True)


async def capital_name(request):
    headers_frame(request, (":status", "200"), ("Content-Type", "application/json"))
    data_frame(request, completion("fine"), end=True)


async def pseudo_field_late(request):
    headers_frame(request, JSON, (":status", "200"))
    data_frame(request, completion("fine"), end=True)


async def unknown_pseudo_field(request):
    headers_frame(request, (":status", "200"), (":secret", "x"), JSON)


async def field_of_a_connection(request):
    headers_frame(request, (":status", "200"), ("transfer-encoding", "chunked"))
    data_frame(request, completion("fine"), end=True)


async def too_many_fields(request):
    headers_frame(request, (":status", "200"), *((f"x-{number}", "v") for number in range(1000)))
    data_frame(request, completion("fine"), end=True)


async def too_long_a_field(request):
    block = request.peer.h2.encoder.encode([(":status", "200"), ("x-a", "v" * 100_000)])
    head_of_many_frames(request, block)
    data_frame(request, completion("fine"), end=True)


def head_of_many_frames(request, block, size=16_000):
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    frames = [HeadersFrame(request.id, pieces[0]), *(ContinuationFrame(request.id, piece) for piece in pieces[1:])]
    frames[-1].flags.add("END_HEADERS")
    request.peer.write(b"".join(frame.serialize() for frame in frames))


async def line_in_a_value(request):
    headers_frame(request, (":status", "200"), ("x-a", "1\r\nx-b: 2"))


async def body_without_head(request):
    data_frame(request, b"{}")


async def too_long_for_its_length(request):
    headers_frame(request, (":status", "200"), JSON, ("content-length", "10"))
    data_frame(request, completion("fine"))


async def too_short_for_its_length(request):
    body = completion("fine")
    headers_frame(request, (":status", "200"), JSON, ("content-length", str(len(body) + 5)))
    data_frame(request, body, end=True)


async def length_is_no_number(request):
    headers_frame(request, (":status", "200"), JSON, ("content-length", "many"))
    data_frame(request, completion("fine"), end=True)


async def lengths_that_differ(request):
    headers_frame(request, (":status", "200"), JSON, ("content-length", "10"), ("content-length", "11"))
    data_frame(request, completion("fine"), end=True)


async def end_without_body(request):
    headers_frame(request, (":status", "200"), JSON, end=True)


async def not_json(request):
    headers_frame(request, (":status", "200"), JSON)
    data_frame(request, b"{broken", end=True)


#: Faults of a single stream. ``None``: the stream may be refused, or read in spite of it.
WRONG_STREAM = {
    no_status: e.ProtocolError,
    status_is_no_number: e.ProtocolError,
    status_out_of_range: e.ProtocolError,
    two_statuses: e.ProtocolError,
    switching_protocols: e.ProtocolError,
    interim_ends_the_stream: e.ProtocolError,
    capital_name: None,
    pseudo_field_late: None,
    unknown_pseudo_field: e.ProtocolError,
    field_of_a_connection: None,
    too_many_fields: e.ProtocolError,
    too_long_a_field: e.ProtocolError,
    line_in_a_value: e.ProtocolError,
    body_without_head: e.ProtocolError,
    too_long_for_its_length: (e.ProtocolError, e.IncompleteResponseError, e.ResponseDecodeError),
    too_short_for_its_length: e.IncompleteResponseError,
    length_is_no_number: None,
    lengths_that_differ: e.ProtocolError,
    end_without_body: e.ResponseDecodeError,
    not_json: e.ResponseDecodeError,
}


@pytest.mark.sample(8)
@pytest.mark.parametrize("work", WRONG_STREAM, ids=lambda work: work.__name__)
def test_broken_answer_fails_its_stream(work):
    """A faulty stream fails soon with the right error, never a success; its connection and the other streams go on."""
    with Http2Server(victim_only(work)) as server, provider_on(server, timeout=Timeouts(total=PATIENCE)) as provider:
        with provider.generate_stream("bystander", timeout=PATIENCE) as bystander:
            assert next(bystander).content == "one"
            started = time.monotonic()
            result = attempt(lambda: provider.generate("victim"))
            assert time.monotonic() - started < PATIENCE / 2, "not noticed, only timed out"
            expected = WRONG_STREAM[work]
            if expected is None and not isinstance(result, e.GroqProviderError):
                assert result.content == "fine"
            else:
                assert isinstance(result, expected or e.ProtocolError), result
            assert not isinstance(result, e.DeadlineExceededError)
            assert "secret" not in str(result)
            server.release()
            assert bystander.collect().content == "one two"
        assert alive(provider)
        assert server.connections == 1
        assert idle(provider)
        assert [type(problem).__name__ for problem in server.complaints] == []


async def garbage(request):
    request.peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + b"\xff" * 100)


async def oversized_frame(request):
    request.peer.write(b"\x20\x00\x00\x00\x00" + request.id.to_bytes(4, "big") + b"x" * 100)


async def broken_compression(request):
    headers_frame(request, raw=b"\xff\xff\xff\xff\xff\xff\xff\xff")


async def oversized_head(request):
    """Nearly two megabytes when unpacked."""
    head_of_many_frames(request, request.peer.h2.encoder.encode([(f"x-{number}", "v" * 9000) for number in range(200)]))


async def head_that_unpacks_to_much(request):
    """A field in the table, and then a thousand references to it."""
    block = request.peer.h2.encoder.encode([(":status", "200"), ("x-bomb", "v" * 4000)])
    again = request.peer.h2.encoder.encode([("x-bomb", "v" * 4000)])
    assert len(again) == 1
    head_of_many_frames(request, block + again * 5000)


async def endless_continuation(request):
    request.peer.write(HeadersFrame(request.id, b"").serialize())
    for _ in range(20_000):
        request.peer.write(ContinuationFrame(request.id, b"").serialize())
        await request.peer.drain()


async def frame_inside_a_head(request):
    request.peer.write(HeadersFrame(request.id, b"\x88").serialize())
    data_frame(request, b"{}")


async def data_on_stream_zero(request):
    request.peer.write(raw_frame(0, 0, b"x"))


async def data_on_an_unknown_stream(request):
    data_frame(request, b"x" * 10, number=request.id + 1000)


async def head_on_an_even_stream(request):
    request.peer.write(HeadersFrame(2, b"\x88", flags=["END_HEADERS"]).serialize())


async def push(request):
    block = request.peer.h2.encoder.encode(
        [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]
    )
    request.peer.write(
        PushPromiseFrame(request.id, promised_stream_id=2, data=block, flags=["END_HEADERS"]).serialize()
    )


async def window_beyond_all_bounds(request):
    for _ in range(3):
        request.peer.write(WindowUpdateFrame(0, window_increment=(1 << 31) - 1).serialize())


async def window_update_of_nothing(request):
    request.peer.write(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00")


async def absurd_setting(request):
    request.peer.write(SettingsFrame(0, settings={SettingCodes.INITIAL_WINDOW_SIZE: 1 << 31}).serialize())


async def settings_of_odd_length(request):
    request.peer.write(b"\x00\x00\x05\x04\x00\x00\x00\x00\x00" + b"12345")


async def ping_of_odd_length(request):
    request.peer.write(b"\x00\x00\x04\x06\x00\x00\x00\x00\x00" + b"1234")


async def short_goaway(request):
    request.peer.write(b"\x00\x00\x04\x07\x00\x00\x00\x00\x00" + b"\0\0\0\0")


async def truncated_frame(request):
    request.peer.write(DataFrame(request.id, b"x" * 100).serialize()[:50])
    request.peer.cut()


async def cut(request):
    request.peer.cut()


async def reset(request):
    request.peer.reset()


async def cut_in_the_head(request):
    frame = HeadersFrame(request.id, request.peer.h2.encoder.encode([(":status", "200"), JSON]), flags=["END_HEADERS"])
    request.peer.write(frame.serialize()[:12])
    request.peer.cut()


async def cut_in_the_body(request):
    headers_frame(request, (":status", "200"), JSON)
    data_frame(request, completion("fine")[:-3])
    request.peer.cut()


async def reset_in_the_body(request):
    headers_frame(request, (":status", "200"), JSON)
    data_frame(request, completion("fine")[:-3])
    await asyncio.sleep(0.05)
    request.peer.reset()


#: Faults of the connection.
WRONG_CONNECTION = [
    garbage,
    oversized_frame,
    broken_compression,
    oversized_head,
    head_that_unpacks_to_much,
    endless_continuation,
    frame_inside_a_head,
    data_on_stream_zero,
    head_on_an_even_stream,
    push,
    window_beyond_all_bounds,
    window_update_of_nothing,
    absurd_setting,
    settings_of_odd_length,
    ping_of_odd_length,
    short_goaway,
    truncated_frame,
    cut,
    reset,
    cut_in_the_head,
    cut_in_the_body,
    reset_in_the_body,
]


@pytest.mark.sample(4)
@pytest.mark.parametrize("work", WRONG_CONNECTION, ids=lambda work: work.__name__)
def test_broken_connection_fails_its_streams(work):
    """A broken connection fails its streams soon, but no later call, which goes over another connection."""
    with Http2Server(victim_only(work)) as server, provider_on(server, timeout=Timeouts(total=PATIENCE)) as provider:
        with provider.generate_stream("bystander", timeout=PATIENCE) as bystander:
            assert next(bystander).content == "one"
            started = time.monotonic()
            result = attempt(lambda: provider.generate("victim"))
            assert time.monotonic() - started < PATIENCE / 2, "not noticed, only timed out"
            assert isinstance(result, (e.TransportError, e.IncompleteResponseError)), result
            assert not isinstance(result, TimeoutError)
            assert result.sent is not False
            failed = attempt(bystander.collect)
            assert isinstance(failed, e.StreamError), failed
            assert failed.partial.content == "one"
        assert alive(provider)
        assert server.connections == 2
        assert server.wait(lambda: server.peers[0].gone)
        assert idle(provider)
        server.complaints.clear()  # of a connection that the server itself broke


@pytest.mark.parametrize("work", [garbage, cut, reset, truncated_frame], ids=lambda work: work.__name__)
def test_policy_repeats_broken_connection(work):
    """As over HTTP/1.1, the retry policy sends the second attempt on another connection."""
    tries = []

    async def once(request):
        tries.append(request)
        await (work(request) if len(tries) == 1 else answer(request))

    with Http2Server(victim_only(once)) as server, provider_on(server, retry=QUICK) as provider:
        alive(provider)
        response = provider.generate("victim")
        assert response.content == "victim"
        assert len(response.attempts) == 2
        assert response.attempts[0].error is not None
        assert server.connections == 2
        server.complaints.clear()


NO_UPDATE = WindowUpdateFrame(0, window_increment=1).serialize()[:-4] + b"\0\0\0\0"  # a protocol error


def test_text_before_error_given_once():
    """Text before an error is returned once: the peer breaks the protocol, and has closed before we could report it."""

    async def script(request):
        peer = request.peer
        await begin(request, "one")
        await peer.server.released.wait()
        peer.write(DataFrame(request.id, event(" two")).serialize() + NO_UPDATE)
        peer.write(DataFrame(request.id, event(" three")).serialize())
        await asyncio.sleep(0.05)  # otherwise the reset is faster
        peer.reset()

    with Http2Server(script) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert next(stream).content == "one"
            server.release()
            assert server.wait(lambda: server.peers[0].gone)
            with pytest.raises(e.StreamProtocolError) as caught:
                stream.collect()
            assert caught.value.partial.content == "one two"
        assert idle(provider)


def test_error_beside_opening_window():
    """A body waits for its window; an error comes with the update.

    A thread that reads gets that error, like one that sends.
    """

    async def script(request):
        if request.headers["accept"] == "text/event-stream":
            await begin(request, "one")
            return
        await request.until(lambda: len(request.body) > 60_000)
        updates = [WindowUpdateFrame(number, window_increment=100_000).serialize() for number in (0, request.id)]
        request.peer.write(b"".join(updates) + NO_UPDATE)

    with Http2Server(script, credits=False) as server, provider_on(server) as provider:
        stream = provider.generate_stream("x")
        assert next(stream).content == "one"
        (connection,) = provider._transport.adapter._pool._connections
        with running(lambda: attempt(stream.collect)) as results:
            assert until(lambda: connection._reader is not None)
            error = attempt(lambda: provider.generate("z" * 200_000))
        assert isinstance(error, e.ProtocolError), error
        assert error.sent is None
        assert isinstance(results[0], e.StreamProtocolError), results
        assert server.wait(lambda: server.peers[0].goaways == [ErrorCodes.PROTOCOL_ERROR])
        assert idle(provider)


def test_data_after_end_harms_none():
    """DATA after the end of a stream harms neither that stream nor another; if it ends the connection, calls go on over a new one."""

    async def work(request):
        await request.json(completion("fine"))
        data_frame(request, b"and more")

    with Http2Server(victim_only(work)) as server, provider_on(server, retry=QUICK) as provider:
        for _ in range(3):
            assert provider.generate("victim").content == "fine"
            assert alive(provider)
        server.complaints.clear()


# --- RST_STREAM ----------------------------------------------------------------------------------------------------------------

CODES = [code for code in ErrorCodes if code is not ErrorCodes.HTTP_1_1_REQUIRED]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_stream_refused_before_its_head(code):
    """REFUSED_STREAM means unprocessed; after any other code the request may have been processed.

    The connection goes on.
    """

    async def work(request):
        request.abort(code)

    with Http2Server(victim_only(work)) as server, provider_on(server) as provider:
        with provider.generate_stream("bystander") as bystander:
            assert next(bystander).content == "one"
            result = attempt(lambda: provider.generate("victim"))
            assert isinstance(result, e.APIConnectionError), result
            assert result.retryable
            assert result.sent is (code != ErrorCodes.REFUSED_STREAM)
            assert code.name in str(result) or code == ErrorCodes.REFUSED_STREAM
            server.release()
            assert bystander.collect().content == "one two"
        assert alive(provider, server)
        assert server.connections == 1


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_stream_reset_in_its_body(code):
    """A reset is never a success, whatever its code: a plain answer is incomplete, a stream is interrupted, with the text so far."""

    async def work(request):
        stream = json.loads(bytes(request.body)).get("stream")
        request.head(200, SSE if stream else JSON)
        await request.data(event("so far") if stream else completion("fine")[:-2])
        request.abort(code)

    with Http2Server(victim_only(work)) as server, provider_on(server) as provider:
        with provider.generate_stream("bystander") as bystander:
            assert next(bystander).content == "one"
            with pytest.raises(e.IncompleteResponseError):
                provider.generate("victim")
            with pytest.raises(e.StreamInterruptedError) as caught:
                provider.generate_stream("victim").collect()
            assert caught.value.partial.content == "so far"
            server.release()
            assert bystander.collect().content == "one two"
        assert alive(provider, server)
        assert server.connections == 1
        assert server.resets == []


def test_finished_stream_survives_reset():
    """A stream reset after its finish reason is complete, like one that is cut there over HTTP/1.1."""

    async def work(request):
        await begin(request, "all")
        await request.data(LAST + DONE)
        request.abort()

    with Http2Server(victim_only(work)) as server, provider_on(server) as provider:
        assert provider.generate_stream("victim").collect().content == "all"
        assert alive(provider, server)
        assert server.connections == 1


def test_refused_stream_is_sent_again():
    """A refused stream was not processed, so it is sent again and answered once, however many refusals came before."""
    refused = []

    async def work(request):
        if len(refused) < 2:
            refused.append(request)
            request.abort(ErrorCodes.REFUSED_STREAM)
        else:
            await answer(request)

    with Http2Server(victim_only(work)) as server, provider_on(server) as provider:
        response = provider.generate("victim")
        assert response.content == "victim"
        assert len(refused) == 2
        assert [attempt.error is None for attempt in response.attempts][-1]
        assert server.connections == 1


def test_server_wanting_http1_gets_it():
    """After HTTP_1_1_REQUIRED the call is made over an HTTP/1.1 connection."""

    async def work(request):
        request.abort(ErrorCodes.HTTP_1_1_REQUIRED)

    class Both(Http2Server):
        async def other_answer(self, lines, body):
            return completion("over 1.1")

    with Both(victim_only(work)) as server, provider_on(server) as provider:
        response = provider.generate("victim")
        assert response.content == "over 1.1"
        assert alive(provider)  # other calls still go over HTTP/2
        assert server.connections == 1


def test_early_refusal_of_upload_read():
    """An early refusal of a large body is read: the server wants no more (NO_ERROR), so the upload stops."""

    async def script(request):
        if request.headers.get("content-length", "0") > "2" and int(request.headers["content-length"]) > 100_000:
            await request.take()
            request.head(413, JSON)
            await request.data(b'{"error": {"message": "too large", "type": "t"}}', end=True)
            request.abort(ErrorCodes.NO_ERROR)
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        started = time.monotonic()
        with pytest.raises(e.RequestTooLargeError):
            provider.generate("x" * 5_000_000)
        assert time.monotonic() - started < PATIENCE / 2
        assert len(server.requests[0].body) < 5_000_000
        assert alive(provider)
        assert server.connections == 1


@pytest.mark.parametrize("kind", ["plain", "stream"])
def test_early_answer_without_reset_read(kind):
    """The server answers without reading the rest of the request: the client resets its half."""

    async def script(request):
        if int(request.headers.get("content-length", "0")) > 100_000:
            if kind == "stream":
                request.head(200, SSE)
                await request.data(event("early") + LAST + DONE, end=True)
            else:
                request.head(200, JSON)
                await request.data(completion("early"), end=True)
        else:
            request.credit()
            await request.whole()
            await answer(request)

    with Http2Server(script, credits=False) as server, provider_on(server) as provider:
        big = "x" * 2_000_000
        if kind == "stream":
            assert provider.generate_stream(big).collect().content == "early"
        else:
            assert provider.generate(big).content == "early"
        assert server.wait(lambda: len(server.resets) == 1)
        assert server.connections == 1


# --- GOAWAY --------------------------------------------------------------------------------------------------------------------


def test_graceful_goaway_lets_streams_finish():
    """After a graceful GOAWAY open streams are complete, a new call uses a new connection, and the old one closes after its last stream."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(5)]
        assert [next(stream).content for stream in streams] == ["one"] * 5
        last = max(request.id for request in server.requests)
        server.do(lambda: server.peers[0].goaway(last))
        assert provider.generate("quick").content == "quick"
        assert until(lambda: provider.generate("quick").content == "quick" and server.connections == 2)
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 5
        assert alive(provider)
        assert server.wait(lambda: server.peers[0].gone), "the connection that the server left is still open"
        assert server.connections == 2
        assert server.resets == []
        assert idle(provider)


def test_unprocessed_streams_are_sent_again():
    """Streams above the last one are sent again over a new connection, once each, without the retry policy."""

    async def script(request):
        await request.whole()
        if len(request.peer.server.peers) == 1:
            if len(request.peer.requests) == 6:
                ids = sorted(request.peer.requests)
                request.peer.goaway(ids[2])
                request.peer.server.released.set()
            await request.peer.server.released.wait()
            if request.id > sorted(request.peer.requests)[2]:
                return
        await answer(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        answers = in_threads(6, lambda number: provider.generate(f"x{number}"))
        assert [found.content for found in answers] == [f"x{number}" for number in range(6)]
        assert server.connections == 2
        assert len(server.peers[0].requests) == 6
        assert len(server.peers[1].requests) == 3
        assert idle(provider)


def test_a_goaway_in_two_steps():
    """A GOAWAY in two steps: first with the highest number, then with the last stream that counts (RFC 9113, 6.8)."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        stream = provider.generate_stream("x")
        assert next(stream).content == "one"
        server.do(lambda: server.peers[0].goaway((1 << 31) - 1))
        assert until(lambda: provider.generate("quick").content == "quick" and server.connections == 2)
        server.do(lambda: server.peers[0].goaway(server.requests[0].id))
        server.release()
        assert stream.collect().content == "one two"
        assert alive(provider)
        assert server.connections == 2


@pytest.mark.parametrize("code", [ErrorCodes.PROTOCOL_ERROR, ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.INTERNAL_ERROR])
@pytest.mark.parametrize("closes", [True, False], ids=["and closes", "and stays"])
def test_a_goaway_for_an_error(code, closes):
    """A GOAWAY for an error (RFC 9113, 5.4.1) interrupts open streams at once, whether the server closes or not.

    New calls use a new connection.
    """
    with Http2Server(held()) as server, provider_on(server) as provider:
        stream = provider.generate_stream("x")
        assert next(stream).content == "one"

        def leave():
            server.peers[0].goaway(server.requests[0].id, code, b"why")
            if closes:
                server.peers[0].cut()

        server.do(leave)
        assert until(lambda: provider.generate("quick").content == "quick" and server.connections == 2)
        if not closes:
            server.release()
        with pytest.raises(e.StreamInterruptedError) as caught:
            stream.collect()
        assert caught.value.partial.content == "one"
        assert caught.value.retryable
        assert alive(provider)
        assert idle(provider)


def test_goaway_reaches_waiters(monkeypatch):
    """With the only allowed connection full, calls that wait for a place on it get one on its successor."""
    monkeypatch.setattr(http2_pool, "MAX_CONNECTIONS", 1)
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}

    async def script(request):
        await request.whole()
        if prompt_of(request) == "long":
            await request.peer.server.released.wait()
        await answer(request)

    works = [lambda number=number: provider.generate(f"x{number}").content for number in range(6)]
    with Http2Server(script, settings=settings) as server, provider_on(server) as provider:
        alive(provider)
        with running(*[lambda: provider.generate("long").content] * 2) as long:
            assert server.wait(lambda: len(server.requests) == 3)
            with running(*works) as results:
                assert until(lambda: len(provider._transport.adapter._pool._queue) == 6)
                server.do(lambda: server.peers[0].goaway(max(server.peers[0].requests)))
            server.release()
        assert long == ["long"] * 2
        assert results == [f"x{number}" for number in range(6)]
        assert server.refused == 0
        assert server.connections == 2


def test_frequent_goaways_cost_no_call():
    """Servers limit the requests per connection (nginx, keepalive_requests): eight threads see no failure."""

    last: dict[object, int] = {}

    async def script(request):
        if request.id > last.get(request.peer, 1 << 31):
            return  # arrived too late, so it was not processed
        await request.whole()
        if request.id == 19:
            last[request.peer] = max(request.peer.requests)
            request.peer.goaway(last[request.peer])
        await answer(request)

    with Http2Server(script) as server, provider_on(server, retry=RetryPolicy(max_retries=5, base_delay=0)) as provider:
        answers = in_threads(8, lambda number: [provider.generate(f"{number}.{call}").content for call in range(40)])
        assert answers == [[f"{number}.{call}" for call in range(40)] for number in range(8)]
        assert 10 <= server.connections <= 60
        assert idle(provider)


# --- SETTINGS ------------------------------------------------------------------------------------------------------------------


def test_settings_changes_are_acknowledged():
    """Changed settings are acknowledged, and the connection goes on."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)
        for number in range(5):
            server.do(lambda number=number: server.peers[0].settings(max_concurrent_streams=10 + number))
            alive(provider)
        assert server.wait(lambda: server.peers[0].settings_acks == 6)
        assert server.connections == 1


def test_lowered_stream_limit_is_respected():
    """After a lower stream limit the open streams go on; new ones wait, or use another connection."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(6)]
        assert [next(stream).content for stream in streams] == ["one"] * 6
        server.do(lambda: server.peers[0].settings(max_concurrent_streams=2))
        assert provider.generate("quick").content == "quick"  # the change is read with this answer
        assert provider.generate("quick").content == "quick"
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 6
        answers = in_threads(20, lambda number: provider.generate(f"y{number}").content)
        assert answers == [f"y{number}" for number in range(20)]
        assert server.refused <= 1  # a stream that was on its way when the change came


def test_raised_stream_limit_is_used():
    """Calls that wait for a place get it at once when the limit is raised."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 1}
    with Http2Server(held(), settings=settings) as server, provider_on(server) as provider:
        alive(provider)
        server.do(lambda: server.peers[0].settings(max_concurrent_streams=100))
        alive(provider)
        before = server.connections
        streams = in_threads(30, lambda number: provider.generate_stream(f"x{number}"))
        assert [next(stream).content for stream in streams] == ["one"] * 30
        assert server.connections == before
        server.release()
        assert [stream.collect().content for stream in streams] == ["one two"] * 30


def test_zero_stream_limit_is_awaited():
    """While the server allows no streams, calls wait within their limits, and go on when it allows some again."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 0}

    async def raise_later(peer):
        await peer.server.released.wait()
        peer.settings(max_concurrent_streams=10)

    with Http2Server(answer, connected=raise_later, settings=settings) as server, provider_on(server) as provider:
        assert provider.warm_up(1) == 0  # the settings are known; a request before them might be accepted
        started = time.monotonic()
        error = attempt(lambda: provider.generate("x", timeout=Timeouts(connect=0.4, first_token=0.4, total=0.8)))
        assert isinstance(error, e.GroqProviderError)
        assert error.sent is False
        assert error.retryable or isinstance(error, TimeoutError)
        assert time.monotonic() - started < PATIENCE / 2
        with running(lambda: attempt(lambda: provider.generate("x"))) as results:
            assert until(lambda: provider._runtime.in_flight == 1)
            server.release()
        assert results[0].content == "x"
        assert idle(provider)


@pytest.mark.parametrize("size", [0, 64, 65_536])
def test_header_table_resize_is_followed(size):
    """After a change of the header table's size the peer can decode every request."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)
        server.do(lambda: server.peers[0].settings(header_table_size=size))
        for number in range(5):
            assert provider.generate(f"x{number}", extra_headers={"x-number": str(number) * 50}).content == f"x{number}"
        assert [request.headers.get("x-number") for request in server.requests[1:]] == [str(n) * 50 for n in range(5)]
        assert server.connections == 1


@pytest.mark.parametrize("size", [16_384, 1 << 20])
def test_frame_size_change_is_respected(size):
    """A strict server gets no frame above its size."""
    with Http2Server(answer, settings={SettingCodes.MAX_FRAME_SIZE: size}) as server, provider_on(server) as provider:
        big = "x" * 3_000_000
        assert provider.generate(big).content == big
        assert server.connections == 1


# --- windows -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "size"), [(10, 3_000), (1_000, 300_000), (65_535, 8_000_000)])
def test_large_body_through_small_window(window, size):
    """Updates come late, one window after the other; every byte arrives, once and in order."""

    async def script(request):
        while not request.ended:
            await request.until(lambda: request.unread or request.ended)
            await asyncio.sleep(0)
            request.credit()
        await answer(request)

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: window}
    with Http2Server(script, settings=settings, credits=False) as server, provider_on(server) as provider:
        provider.warm_up(1)  # after this the server's window is known; a strict server refuses data sent before
        text = "".join(f"{number:08}" for number in range(size // 8))
        assert provider.generate(text).content == text
        assert server.connections == 1


def test_parallel_uploads_through_small_windows():
    """Twenty parallel uploads, each with its own body."""

    async def script(request):
        while not request.ended:
            await request.until(lambda: request.unread or request.ended)
            request.credit()
        await answer(request)

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 2_000}
    with Http2Server(script, settings=settings, credits=False) as server, provider_on(server) as provider:
        provider.warm_up(1)  # after this the server's window is known; a strict server refuses data sent before
        texts = [f"{number} " * 10_000 for number in range(20)]
        assert in_threads(20, lambda number: provider.generate(texts[number]).content) == texts
        assert server.connections == 1


def test_negative_window_is_waited_out():
    """INITIAL_WINDOW_SIZE drops during an upload below the bytes already sent; then it grows again."""

    async def script(request):
        if int(request.headers["content-length"]) < 100_000:
            await request.whole()
            request.credit()
            await answer(request)
            return
        await request.until(lambda: len(request.body) >= 60_000)
        request.peer.settings(initial_window_size=100)
        await request.until(lambda: request.peer.settings_acks == request.peer.announced)
        before = len(request.body)
        await asyncio.sleep(0.05)
        assert len(request.body) == before
        request.peer.settings(initial_window_size=500_000)
        request.peer.h2.increment_flow_control_window(1 << 20)
        request.peer.flush()
        await request.whole()
        await answer(request)

    with Http2Server(script, credits=False) as server, provider_on(server) as provider:
        text = "z" * 400_000
        assert provider.generate(text).content == text
        assert server.connections == 1


def test_stalled_upload_stops_no_call():
    """A stream that has used up its window stops no other."""

    async def script(request):
        if int(request.headers["content-length"]) < 60_000:
            await request.whole()
            request.credit()
            await answer(request)
            return
        await request.until(lambda: len(request.body) >= 60_000)
        # Give back the connection's window, but not the stream's.
        request.peer.h2.increment_flow_control_window(1 << 20)
        request.peer.flush()
        await request.peer.server.released.wait()
        request.peer.h2.increment_flow_control_window(1 << 20, request.id)
        request.peer.flush()
        await request.whole()
        await answer(request)

    with Http2Server(script, credits=False) as server, provider_on(server) as provider:
        text = "z" * 300_000
        with running(lambda: provider.generate(text).content) as results:
            assert server.wait(lambda: server.requests and len(server.requests[0].body) >= 60_000)
            for number in range(50):
                assert provider.generate(f"x{number}").content == f"x{number}"
            server.release()
        assert results == [text]
        assert server.connections == 1


@pytest.mark.parametrize("how", ["limit", "cancel", "total"])
def test_stalled_upload_can_be_abandoned(how):
    """A stalled upload ends at its time limit or by a cancel: RST_STREAM, and the connection goes on."""

    async def script(request):
        if int(request.headers["content-length"]) < 60_000:
            await request.whole()
            await answer(request)
            return
        await request.until(lambda: len(request.body) >= 60_000)
        request.peer.h2.increment_flow_control_window(1 << 20)
        request.peer.flush()
        await request.left()

    with Http2Server(script, credits=False) as server, provider_on(server) as provider:
        provider.warm_up(1)
        token = CancelToken()
        # The total deadline starts before the upload, and must not pass before it.
        limits = {"limit": Timeouts(first_token=0.4), "total": Timeouts(total=2.5), "cancel": None}[how]
        started = time.monotonic()
        with running(
            lambda: attempt(lambda: provider.generate("z" * 300_000, timeout=limits, cancel=token))
        ) as results:
            assert server.wait(lambda: server.requests and len(server.requests[0].body) >= 60_000)
            if how == "cancel":
                token.cancel()
        assert time.monotonic() - started < PATIENCE / 2
        error = results[0]
        expected = {"limit": e.ReadTimeoutError, "total": e.DeadlineExceededError, "cancel": e.RequestCancelledError}
        assert isinstance(error, expected[how]), error
        assert error.sent is None
        assert server.wait(lambda: len(server.resets) == 1)
        assert alive(provider)
        assert server.connections == 1


def test_a_large_answer_comes_whole():
    """An answer of many windows, in frames of all sizes, is complete, beside another stream."""
    big = "".join(chr(97 + number % 26) for number in range(3_000_000))

    async def script(request):
        await request.whole()
        await request.json(completion(big))

    with Http2Server(script) as server, provider_on(server) as provider:
        answers = in_threads(4, lambda _: provider.generate("x").content)
        assert answers == [big] * 4
        assert server.connections == 1


def test_over_window_data_is_dropped():
    """Data beyond a stream's window is dropped: a server that keeps sending ends the stream with an error, soon."""
    sent = [0]

    async def script(request):
        await request.whole()
        if prompt_of(request) != "flood":
            await answer(request)
            return
        await begin(request, "one")
        await request.peer.server.released.wait()
        for _ in range(3000):
            if request.gone or request.peer.writer.is_closing():
                return
            request.peer.write(DataFrame(request.id, b": ".ljust(16_000, b"x") + b"\n").serialize())
            await request.peer.drain()
            sent[0] += 16_000

    with Http2Server(script) as server, provider_on(server) as provider:
        with provider.generate_stream("flood") as stream:
            assert next(stream).content == "one"
            server.release()
            for number in range(50):  # some thread reads the connection
                assert provider.generate(f"x{number}").content == f"x{number}"
            with pytest.raises(e.StreamError) as caught:
                stream.collect()
            assert caught.value.partial.content == "one"
        assert alive(provider)
        assert sent[0] < 40_000_000
        server.complaints.clear()


# --- PING and silence ----------------------------------------------------------------------------------------------------------


def test_server_pings_are_answered():
    """Pings are answered with their content while a thread waits on the connection, however long nothing else arrives."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            next(stream)
            with running(stream.collect):
                for number in range(10):
                    server.do(lambda number=number: server.peers[0].ping(b"ping%04d" % number))
                    assert server.wait(lambda number=number: len(server.peers[0].ping_acks) == number + 1)
                server.release()
        assert server.peers[0].ping_acks == [b"ping%04d" % number for number in range(10)]


def test_idle_ping_answered_with_call():
    """A ping between calls is answered with the next call at the latest: an idle connection has no reader."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)
        server.do(lambda: server.peers[0].ping(b"idlepung"))
        alive(provider)
        assert server.wait(lambda: server.peers[0].ping_acks == [b"idlepung"])
        assert server.connections == 1


def test_answered_ping_keeps_stream(monkeypatch):
    """A silent peer is pinged and stays alive if it answers: with only pings for two seconds, the stream waits on."""
    monkeypatch.setattr(http2_connection, "PING_AFTER", 0.5)
    with Http2Server(held()) as server, provider_on(server) as provider, provider.generate_stream("x") as stream:
        assert next(stream).content == "one"
        with running(stream.collect) as results:
            assert server.wait(lambda: server.peers[0].pings >= 3)  # each only after the answer to the one before
            server.release()
        assert results[0].content == "one two"
        assert server.connections == 1


@pytest.fixture
def dying(monkeypatch):
    """Call it when a peer falls silent: silence is then soon too long, until a connection is found dead.

    Neither before nor after that, because a server may be slow and alive.
    """
    die = Http2Connection._end_connection

    def died(connection, *how):
        monkeypatch.setattr(http2_connection, "PING_AFTER", usual[0])
        monkeypatch.setattr(http2_connection, "PING_PATIENCE", usual[1])
        die(connection, *how)

    def now(provider):
        monkeypatch.setattr(http2_connection, "PING_AFTER", 0.5)
        monkeypatch.setattr(http2_connection, "PING_PATIENCE", 0.5)
        for connection in provider._transport.adapter._pool._connections:
            connection._pipe.wake()  # the reader must read the new limits

    usual = http2_connection.PING_AFTER, http2_connection.PING_PATIENCE
    monkeypatch.setattr(Http2Connection, "_end_connection", died)
    return now


def test_dead_connection_under_fifty_streams(dying):
    """The peer vanishes: all fifty streams end soon with their text so far, and a new call uses a new connection."""

    async def script(request):
        await held()(request)

    with Http2Server(script) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(50)]
        assert [next(stream).content for stream in streams] == ["one"] * 50
        assert server.connections == 1
        server.do(server.peers[0].freeze)
        dying(provider)
        started = time.monotonic()
        errors = in_threads(50, lambda number: attempt(streams[number].collect))
        assert time.monotonic() - started < PATIENCE / 2
        assert {type(error) for error in errors} == {e.StreamInterruptedError}
        assert {error.partial.content for error in errors} == {"one"}
        assert alive(provider)
        assert server.connections == 2
        assert idle(provider)


def test_fifty_calls_leave_dead_connection(dying):
    """A peer that vanishes before the head: the retry policy repeats the error, and the second attempts succeed elsewhere."""

    async def script(request):
        await request.whole()
        if request.peer is request.peer.server.peers[0] and prompt_of(request) != "still there?":
            if len(request.peer.requests) == 51:
                request.peer.freeze()
                dying(provider)
            await request.left()
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server, retry=QUICK) as provider:
        alive(provider)
        answers = in_threads(50, lambda number: provider.generate(f"x{number}"))
        assert [found.content for found in answers] == [f"x{number}" for number in range(50)]
        assert {len(found.attempts) for found in answers} == {2}
        assert server.connections == 2
        assert idle(provider)


class SlowReader(Http2Server):
    """Reads a megabyte and a half per second, with windows so large that it never has to update them."""

    def __init__(self, script):
        super().__init__(script, connected=self.slow_down, settings={SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)

    async def slow_down(self, peer):
        peer.h2.increment_flow_control_window(1 << 30)
        peer.flush()
        read = peer.reader.read

        async def slowly(_size):
            await asyncio.sleep(0.01)
            return await read(15_000)

        peer.reader.read = slowly


@pytest.mark.parametrize("told", [True, False], ids=["the system tells", "our buffer tells"])
def test_slow_upload_shows_life(told, monkeypatch):
    """A slow upload is a sign of life: the ping is queued behind it, and neither it nor another stream ends."""
    monkeypatch.setattr(http2_connection, "PING_AFTER", 0.2)
    monkeypatch.setattr(http2_connection, "PING_PATIENCE", 2.0)
    if not told:
        small = [*requests_adapter.socket_options(), (socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)]
        monkeypatch.setattr(requests_adapter, "socket_options", lambda: small)
        monkeypatch.setattr(http2_connection, "_unconfirmed_bytes", lambda _: 0)
    elif sys.platform != "linux":
        pytest.skip("Linux says what it holds")

    with SlowReader(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert next(stream).content == "one"
            text = "z" * 4_500_000
            with running(stream.collect) as results:
                started = time.monotonic()
                assert provider.generate(text).content == text
                assert time.monotonic() - started > 2.5, "too fast to show anything"
                server.release()
            assert results[0].content == "one two"
        assert server.peers[0].pings > 0
        assert server.connections == 1


def test_dead_peer_found_during_upload(dying):
    """An upload that stalls once all buffers are full ends with the stream beside it, long before its own limits."""
    with SlowReader(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert next(stream).content == "one"
            with running(
                lambda: attempt(stream.collect), lambda: attempt(lambda: provider.generate("z" * 20_000_000))
            ) as results:
                assert server.wait(lambda: len(server.requests) == 2 and len(server.requests[1].body) > 500_000)
                server.do(server.peers[0].freeze)
                dying(provider)
                started = time.monotonic()
            assert time.monotonic() - started < PATIENCE / 2
            assert isinstance(results[0], e.StreamInterruptedError), results
            assert isinstance(results[1], e.APIConnectionError), results
            assert "ping" in str(results[1])
        assert idle(provider)


def test_hung_peer_found_despite_requests(dying):
    """A hung peer is found out although calls keep coming: its system accepts their requests, and no more happens."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        with provider.generate_stream("x") as stream:
            assert next(stream).content == "one"
            server.do(server.peers[0].freeze)
            dying(provider)
            started = time.monotonic()
            with running(lambda: attempt(stream.collect)) as results:
                while results[0] is None and time.monotonic() - started < PATIENCE:
                    attempt(lambda: provider.generate("quick", timeout=Timeouts(total=0.1)))
            assert time.monotonic() - started < PATIENCE / 2
            assert isinstance(results[0], e.StreamInterruptedError), results
        assert alive(provider)


def test_dead_connection_respects_stream_limits():
    """Even without a ping, each stream on a dead connection ends at its own limit."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = [provider.generate_stream("x", timeout=Timeouts(idle=0.2 + 0.02 * number)) for number in range(20)]
        for stream in streams:
            next(stream)
        server.do(server.peers[0].freeze)
        started = time.monotonic()
        errors = in_threads(20, lambda number: attempt(streams[number].collect))
        assert time.monotonic() - started < PATIENCE / 4
        assert {type(error) for error in errors} == {e.StreamIdleTimeoutError}
        assert idle(provider)


# --- ends of idle connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "goaway and close", "goaway", "reset", "much and close"])
def test_idle_disconnect_is_replaced_silently(how):
    """A connection that ends while idle is replaced silently: the next call has one attempt."""
    with Http2Server(answer) as server, provider_on(server) as provider:
        alive(provider)
        peer = server.peers[0]

        def leave():
            if "goaway" in how:
                peer.goaway(max(peer.requests))
            if "much" in how:  # each in a record of its own
                for _ in range(5):
                    peer.ping()
            if how.endswith("close"):
                peer.cut()
            elif how == "reset":
                peer.reset()

        server.do(leave)
        # Wait until all of it has arrived; earlier is a race, which the next test covers.
        (connection,) = provider._transport.adapter._pool._connections
        poller = select.poll()
        poller.register(connection._sock, select.POLLIN if how == "goaway" else select.POLLRDHUP)
        assert poller.poll(PATIENCE * 1000)
        response = provider.generate("x")
        assert response.content == "x"
        assert len(response.attempts) == 1
        assert server.connections == 2
        assert server.wait(lambda: peer.gone)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_connection_ends_as_request_arrives(how):
    """A kept connection that ends as a request is sent: it is sent again once, counted as an attempt of its own, as over HTTP/1.1."""

    async def script(request):
        await request.whole()
        if request.peer is request.peer.server.peers[0] and len(request.peer.requests) == 2:
            request.peer.cut() if how == "close" else request.peer.reset()
        else:
            await answer(request)

    with Http2Server(script) as server, provider_on(server, retry=NEVER) as provider:
        alive(provider)
        response = provider.generate("x")
        assert response.content == "x"
        assert len(response.attempts) == 2
        assert alive(provider)
        assert server.connections == 2


def test_idle_connection_dropped_after_ninety(monkeypatch):
    """An idle connection is dropped after ninety seconds, as over HTTP/1.1: the peer may have vanished."""
    from groq_provider.clock import SystemClock

    clock = SystemClock()
    ahead = [0.0]
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: time.monotonic() + ahead[0])
    with Http2Server(answer) as server, provider_on(server, clock=clock) as provider:
        alive(provider)
        ahead[0] = 80.0
        alive(provider)
        assert server.connections == 1
        ahead[0] = 175.0
        alive(provider)
        assert server.connections == 2
        assert server.wait(lambda: server.peers[0].gone)


def test_closing_says_goodbye():
    """Closing sends GOAWAY(NO_ERROR) and close_notify, so that the server knows why."""
    with Http2Server(answer) as server:
        with provider_on(server) as provider:
            alive(provider)
        assert server.wait(lambda: server.peers[0].gone)
        assert server.peers[0].goaways == [0]


def test_text_before_cut_is_given():
    """Text that arrived before a cut is returned, then the error, wherever the cut falls."""

    async def script(request):
        await begin(request, *(f"{number} " for number in range(10)))
        request.peer.cut()

    with Http2Server(script) as server, provider_on(server) as provider:
        for _ in range(10):
            stream = provider.generate_stream("x")
            with pytest.raises(e.StreamInterruptedError) as caught:
                stream.collect()
            assert caught.value.partial.content == "".join(f"{number} " for number in range(10))
        assert server.connections == 10
        assert idle(provider)
