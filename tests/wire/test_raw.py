"""``provider.raw``: any body there, any body back, with status, headers and request id; and these on every answer."""

from __future__ import annotations

import io
import json
import pickle

import pytest
from support.fakes import PATIENCE
from support.servers import answer, chunk, serving

from groq_provider import GroqProvider, RateLimits, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call.raw import BodyIterator

KEY = "gsk_raw0123456789"
HEAD = ("x-request-id: req_7", "X-Own: one", "X-Own: two")


@pytest.fixture
def ask():
    """Make a provider on a server that answers with what *answers* says, in turn; yield both."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(*answers, **settings):
            replies = list(answers)

            def handler(sock, server):
                while server.read(sock) is not None:
                    sock.sendall(replies.pop(0) if len(replies) > 1 else replies[0])

            server = stack.enter_context(serving(handler))
            settings = {"timeout": PATIENCE, "retry": RetryPolicy(max_retries=1, base_delay=0.001), **settings}
            provider = stack.enter_context(GroqProvider(api_key=KEY, base_url=server.url, **settings))
            return provider, server

        yield make


def test_json_bodies_come_decoded(ask):
    """With the status, the header fields and the request id."""
    provider, server = ask(answer(b'{"ok": true}', *HEAD, status="201 Created"))
    response = provider.raw("post", "/x", json={"a": 1})
    assert (response.status_code, response.body, response.request_id) == (201, {"ok": True}, "req_7")
    assert response.headers["X-OWN"] == "one, two"
    assert "x-own" in response.headers
    assert server.requests[0].method == "POST"
    assert server.requests[0].headers["content-type"] == "application/json"
    assert "ok" not in repr(response)


def test_bytes_come_as_sent(ask):
    """Also no byte at all."""
    provider, _ = ask(answer(bytes(range(256)), *HEAD), answer(b""))
    assert provider.raw("GET", "/x", as_="bytes").body == bytes(range(256))
    assert provider.raw("GET", "/x", as_="bytes").body == b""


def test_files_begin_at_zero(ask):
    """An open temporary file with the whole body."""
    data = bytes(range(256)) * 8192
    provider, _ = ask(answer(data))
    with provider.raw("GET", "/x", as_="file").body as file:
        assert file.read() == data


def test_iterators_yield_the_pieces(ask):
    """As they arrive; afterwards the connection serves the next call."""
    provider, server = ask(answer(b"abc" * 100_000))
    for _ in range(2):
        body = provider.raw("GET", "/x", as_="iterator").body
        assert isinstance(body, BodyIterator)
        assert b"".join(body) == b"abc" * 100_000
        assert list(body) == []
    assert server.connections == 1
    assert provider._runtime.in_flight == 0


def test_events_yield_their_data(ask):
    """Decoded, up to the end mark."""
    events = [{"n": 1}, {"n": 2}]
    stream = b"".join(chunk(b"data: %s\n\n" % json.dumps(event).encode()) for event in events) + chunk(
        b"data: [DONE]\n\n"
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    provider, server = ask(head + stream + b"0\r\n\r\n")
    with provider.raw("POST", "/x", json={"stream": True}, as_="events").body as body:
        assert list(body) == events
    assert server.requests[0].headers["accept"] == "text/event-stream"


def test_leaving_early_frees_the_connection(ask):
    """The call is over, and nothing of it is left."""
    provider, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    with provider.raw("GET", "/x", as_="iterator").body as body:
        assert next(body)
        assert provider._runtime.in_flight == 1
    assert provider._runtime.in_flight == 0
    assert list(body) == []


def test_cut_bodies_are_errors(ask):
    """What had come was given out; the end is no end."""
    provider, _ = ask(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nabc")
    body = provider.raw("GET", "/x", as_="iterator", timeout=Timeouts(total=PATIENCE, idle=0.2)).body
    assert next(body) == b"abc"
    with pytest.raises(e.GroqProviderError) as caught:
        next(body)
    assert isinstance(caught.value, (e.IncompleteResponseError, e.ReadTimeoutError))
    assert provider._runtime.in_flight == 0
    assert list(body) == []


def test_unclosed_bodies_are_told(ask):
    """The collector closes it, and the next call settles its books."""
    provider, _ = ask(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc", answer(b"{}"))
    with pytest.warns(ResourceWarning, match="unclosed body"):
        provider.raw("GET", "/x", as_="iterator")
    provider.raw("GET", "/x")
    assert provider._runtime.in_flight == 0


@pytest.mark.over_http2("bridge")
def test_uploads_are_sent_again(ask, tmp_path, wire):
    """A form with files goes out whole on each attempt, with its length."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + bytes(300_000))
    provider, server = ask(answer(b"{}", status="503 Busy"), answer(b'{"text": "hi"}'))
    files = {"file": path, "more": ("b.txt", io.BytesIO(b"more"))}
    response = provider.raw("POST", "/audio/transcriptions", data={"model": "whisper"}, files=files)
    assert response.body == {"text": "hi"}
    first, second = server.requests[-2:]
    assert first.body == second.body
    assert len(first.body) == int(first.headers["content-length"])
    assert path.read_bytes() in first.body
    assert first.headers["content-type"].startswith("multipart/form-data; boundary=")


def test_other_bodies_are_sent(ask, tmp_path):
    """Bytes, a file and a form; the caller's own content type wins."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    provider, server = ask(answer(b"{}"))
    provider.raw("PUT", "/x", data=b"abc")
    provider.raw("PUT", "/x", data=path)
    provider.raw("PUT", "/x", data={"a": 1})
    provider.raw("PUT", "/x", data=b"abc", extra_headers={"Content-Type": "text/x-own"})
    provider.raw("DELETE", "/x")
    assert [(request.headers.get("content-type"), request.body) for request in server.requests] == [
        ("application/octet-stream", b"abc"),
        ("application/jsonl", b"{}\n"),
        ("application/x-www-form-urlencoded", b"a=1"),
        ("text/x-own", b"abc"),
        (None, b""),
    ]


def test_a_model_holds_a_place(ask):
    """In its request limits, from JSON and from forms; a call without a model holds none."""
    provider, _ = ask(answer(b"{}"), rate_limits=RateLimits(rpm=100))
    provider.raw("POST", "/x", json={"model": "m"})
    provider.raw("POST", "/x", data={"model": "m"}, files={"file": b"x"})
    provider.raw("GET", "/x")
    limits = provider.get_rate_limits()
    assert set(limits) == {"m"}
    window = limits["m"].windows["rpm"]
    assert window.limit - window.remaining == 2
    assert limits["m"].in_flight == 0
    assert provider.get_latency_metrics().success_count == 0


@pytest.mark.parametrize("as_", ["json", "bytes", "file", "iterator", "events"])
def test_bad_statuses_are_errors(ask, as_):
    """Whatever was asked for."""
    provider, _ = ask(answer(b'{"error": {"message": "no", "code": "x"}}', *HEAD, status="404 Not Found"))
    with pytest.raises(e.NotFoundError) as caught:
        provider.raw("GET", "/x", as_=as_)
    assert (caught.value.status_code, caught.value.request_id) == (404, "req_7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"as_": "xml"}, "as_ = 'xml'"),
        ({"json": {}, "data": b""}, "give one body"),
        ({"json": {}, "files": {}}, "give one body"),
        ({"data": 5}, "data must be bytes"),
        ({"files": {"a": 5}}, r"files\['a'\]"),
    ],
)
def test_wrong_arguments_are_refused(ask, arguments, message):
    """Nothing is sent."""
    provider, server = ask(answer(b"{}"))
    with pytest.raises(e.InvalidRequestError, match=message):
        provider.raw("POST", "/x", **arguments)
    assert server.requests == []


def test_every_answer_has_its_head(emulator):
    """Status and header fields, of plain and of streamed answers; they travel with the answer."""
    with GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url) as provider:
        plain = provider.generate("Hello")
        streamed = provider.generate_stream("Hello").collect()
    for response, kind in ((plain, "application/json"), (streamed, "text/event-stream")):
        assert response.http.status_code == 200
        assert response.http.headers["Content-Type"].startswith(kind)
        assert response.http.headers["x-request-id"] == response.request_id
        again = pickle.loads(pickle.dumps(response))
        assert again == response
        assert again.http.headers["content-type"] == response.http.headers["content-type"]
        with pytest.raises(TypeError):
            response.http.headers["x"] = "y"
