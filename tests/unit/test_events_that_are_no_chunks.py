"""Events of a stream that are no chunks: pings and their like, errors in words, what comes after the finish reason."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider import errors as e
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.config import RetryPolicy, Timeouts
from groq_provider.types.request import LLMRequest

DONE = b"data: [DONE]\n\n"


def event(name, data):
    return (f"event: {name}\n" if name else "").encode() + b"data: " + data + b"\n\n"


def chunk(content="", finish=None):
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m",
                       "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}).encode()  # fmt: skip


def opened(*pieces, idle=5.0, clock=None, kind="text/event-stream"):
    """A stream of these pieces, one per read."""
    clock = clock or FakeClock()
    wire = FakeWire(headers={"content-type": kind}, pieces=pieces)
    runtime = Caller(
        transport=FakeTransport(clock, wire), limiter=FakeLimiter(clock), tracker=FakeTracker(), clock=clock,
        policy=RetryPolicy(max_retries=0), provider="groq", default_model="m", secret="gsk_" + "s" * 20,
    )  # fmt: skip
    return runtime.stream(LLMRequest(messages="Hi"), CallOptions(timeouts=Timeouts(idle=idle)))


NAMES = ["ping", "heartbeat", "keepalive", "keep-alive", "comment", "done", "PING", "chat.completion", "x"]
DATA = [
    b"",
    b" ",
    b"{}",
    b"not json",
    b'{"type": "ping"}',
    b"[]",
    b"null",
    chunk("no"),
    b'{"error": "no"}',
    b'{"object": "ping!"}',
    b"\xff",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", DATA, ids=ascii)
def test_other_events_are_ignored(name, data):
    """Whatever they carry, before the first text, between and after."""
    other = event(name, data)
    stream = opened(
        other + event("", chunk("a")) + other,
        other + event("", chunk("b")),
        event("", chunk("", "stop")) + other + DONE,
    )
    assert [each.content for each in stream] == ["a", "b", ""]
    assert stream.response.content == "ab"


@pytest.mark.parametrize("data", [b"", b" ", b"\t"], ids=repr)
@pytest.mark.parametrize("name", ["", "message"])
def test_empty_data_is_ignored(name, data):
    """It is a keep-alive of some servers."""
    stream = opened(
        event(name, data) + event("", chunk("a")), event(name, data) * 3 + event("", chunk("b", "stop")) + DONE
    )
    assert stream.collect().content == "ab"


@pytest.mark.parametrize("name", ["", "message", "chat.completion.chunk"])
def test_chunks_may_have_names(name):
    """Their own, or the one that means none."""
    assert (
        opened(event(name, chunk("a")) + event(name, chunk("b", "stop")) + event(name, b"[DONE]")).collect().content
        == "ab"
    )


def test_self_named_event_is_chunk():
    """Whatever that is, if its data says the same; and the end mark has a name of its own on some servers."""
    odd = json.dumps({**json.loads(chunk("a", "stop")), "object": "x.chunk"}).encode()
    assert opened(event("x.chunk", odd) + event("done", b"[DONE]")).collect().content == "a"


@pytest.mark.parametrize("other", [event("ping", b"{}"), event("", b""), event("", b" "), b": comment\n\n"], ids=ascii)
def test_other_events_renew_no_limit(other):
    """The limit for the next event runs on while nothing but pings come."""
    clock = FakeClock()
    stream = opened(event("", chunk("a")), other, other, event("", chunk("b")), other, clock=clock)
    assert next(stream).content == "a"
    call = stream._call.scope
    stream._fetch_chunk()  # the first read is used up
    stream._fetch_chunk()  # the reader is back from the first chunk, and the limit starts
    started = clock.monotonic()
    assert call.deadline == started + 5.0
    clock.advance(2.0)
    stream._fetch_chunk()
    assert call.deadline == started + 5.0
    assert next(stream).content == "b"
    stream._fetch_chunk()
    stream._fetch_chunk()
    assert call.deadline == started + 2.0 + 5.0  # a chunk renews it
    stream.close()


# --- errors in words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["at first", "after text"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"upstream connect error", "upstream connect error"),
        (b'"overloaded"', "overloaded"),
        (b"<html>502</html>", "<html>502</html>"),
        (b'{"detail": "w o r d s"}', "w o r d s"),
        (b'{"message": "w o r d s"}', "w o r d s"),
        (b"\x1b[2Jclear", r"\x1b[2Jclear"),
        (b"key gsk_" + b"s" * 20, "key ****"),
        (b"", "error in the stream"),
        (b"{broken", "{broken"),
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("end", [b"\n\n", b""], ids=["whole", "cut by the end"])
def test_an_error_in_words(data, words, first, end):
    """An interruption with these words, and with what had come."""
    text = (b"" if first else event("", chunk("Hello"))) + b"event: error\ndata: " + data + end
    with pytest.raises(e.StreamInterruptedError) as caught:
        opened(text).collect()
    assert words in str(caught.value)
    assert caught.value.partial.content == ("" if first else "Hello")


# --- after the finish reason -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        event("", b"not json"), event("", b"[1]"), event("", b'{"choices": {}}'), event("", b'{"choices": [{"delta": 5}]}'),
        event("", b"NaN"), b"data: {\n\n" * 3, event("", b"\xff\xfe"), event("message", b"<html>"),
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("apart", [True, False])
def test_unreadable_after_finish_ends_stream(garbage, apart):
    """The answer was said to be complete."""
    last = event("", chunk("b", "stop"))
    stream = opened(event("", chunk("a")), *((last, garbage + DONE) if apart else (last + garbage,)))
    assert stream.collect().content == "ab"
    assert stream.response.finish_reason == "stop"


def test_error_after_finish_is_one():
    """It can be read."""
    with pytest.raises(e.ProviderUnavailableError):
        opened(event("", chunk("a", "stop")) + event("error", b'{"error": {"message": "x", "code": 500}}')).collect()


def test_unreadable_before_finish_is_error():
    """Half an answer is none."""
    with pytest.raises(e.StreamProtocolError) as caught:
        opened(event("", chunk("a")), event("", b"not json")).collect()
    assert caught.value.partial.content == "a"


# --- streams with a label of something else --------------------------------------------------------------------------------------

STREAM = event("", chunk("a")) + event("", chunk("b", "stop")) + DONE
KINDS = [
    "application/json",
    "text/html; charset=utf-8",
    "text/plain",
    "application/octet-stream",
    "",
    "application/x-ndjson",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "lead",
    [
        b"",
        b": hello\n\n",
        b"\xef\xbb\xbf",
        b"\n\n",
        b"event: message\n",
        b"id: 1\n",
        b"retry: 5\n",
        b"event: ping\ndata\n\n",
    ],
    ids=ascii,
)
def test_stream_known_by_first_bytes(kind, lead):
    """Whatever its label says."""
    assert opened(lead + STREAM, kind=kind).collect().content == "ab"


PLAIN = json.dumps(
    {"id": "c", "choices": [{"message": {"content": "data: ab"}, "finish_reason": "stop"}]}, indent=1
).encode()


@given(kind=st.sampled_from(KINDS[:5]), cuts=st.lists(st.integers(0, 200), max_size=6), stream=st.booleans())
def test_any_cut_is_told_right(kind, cuts, stream):
    """However the network cuts the body."""
    body = STREAM if stream else b"\n " + PLAIN
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[a:b] for a, b in pairwise(edges)]
    response = opened(*pieces, kind=kind).collect()
    assert response.content == ("ab" if stream else "data: ab")
    assert (response.raw is None) is stream


@pytest.mark.parametrize("kind", KINDS[:2])
def test_plain_request_says_what_came(kind):
    """An event stream in place of JSON, whatever its label."""
    clock = FakeClock()
    wire = FakeWire(headers={"content-type": kind}, pieces=[STREAM])
    runtime = Caller(
        transport=FakeTransport(clock, wire), limiter=FakeLimiter(clock), tracker=FakeTracker(), clock=clock,
        policy=RetryPolicy(max_retries=0), provider="groq", default_model="m",
    )  # fmt: skip
    with pytest.raises(e.ResponseDecodeError, match="event stream to a plain request"):
        runtime.generate(LLMRequest(messages="Hi"), CallOptions(timeouts=Timeouts()))


@pytest.mark.parametrize("body", [b"", b"\n\n", b" \n"], ids=repr)
def test_empty_body_of_other_label(body):
    """As an empty plain answer is."""
    with pytest.raises(e.StreamProtocolError, match="the answer is empty"):
        opened(*([body] if body else []), kind="application/json").collect()


def test_one_event_may_be_large():
    """Of several megabytes, in one line."""
    text = "x" * (5 << 20)
    assert opened(event("", chunk(text, "stop")) + DONE).collect().content == text
