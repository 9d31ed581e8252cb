"""Work that waits for nothing: linear, with frequent checks of deadline and cancellation, and with a bound on what a byte can become."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, streamed
from support.fakes import FakeWire

from groq_provider import CancelToken, Timeouts
from groq_provider import errors as e
from groq_provider.wire import codec, json_pieces, json_text
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.sse import EventDecoder

TEXTS = st.text(st.characters() | st.sampled_from('"\\\n😀é\ud83d\ude00'), max_size=60)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=40,
)


def outcome(decode):
    """What decoding gives, or that the text is none."""
    try:
        return json.dumps(decode())
    except e.ResponseDecodeError:
        return "no JSON"


@given(VALUES, st.booleans(), st.sampled_from([None, 1]), st.sampled_from([40, 47, 64, 200]), st.data())
def test_pieces_decode_like_the_whole(value, escaped, indent, piece, data):
    """Wherever a text is cut, and also where it is damaged: the same value, or none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "AT_ONCE", 0)
        patch.setattr(json_pieces, "_PIECE_BYTES", piece)
        body = json.dumps(value, ensure_ascii=escaped, indent=indent).encode("utf-8", "surrogatepass")
        at = data.draw(st.integers(0, len(body)))
        mark = data.draw(st.sampled_from([b"", b'"', b"\\", b"[", b"}", b",", b"x", b"1", b"\n", b"\xff"]))
        for text in (body, body[:at] + mark + body[at:], body[:at]):
            whole = text.decode("utf-8", "replace")
            assert outcome(lambda t=text: json_text.loads(t)) == outcome(lambda w=whole: json_text.loads_text(w))


LONG = {
    "lists": b"[" + b"[]," * 400_000 + b"[]]",
    "open lists": b"[" * 1_000_000,
    "nested": b"[1," * 200 + b"[]," * 60_000,
    "objects": b"[" + b'{"a":{}},' * 120_000 + b"1]",
    "names": b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}",
    "spaces": b" " * 1_000_000 + b"1",
    "text": b'"' + b"a" * 1_000_000 + b'"',
    "escapes": b'"' + b"\\u0041" * 200_000 + b'"',
    "quotes": b'"' + b'\\"' * 500_000 + b'"',
    "no UTF-8": b'"' + b"\xff" * 1_000_000 + b'"',
    "bad escapes": b'"' + b"\\x" * 500_000 + b'"',
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", LONG)
def test_decoding_checks_often(name):
    """A checkpoint comes after every 32 KiB of text at most, which are a few milliseconds of work."""
    calls = 0

    def checkpoint():
        nonlocal calls
        calls += 1

    try:
        json_text.loads(LONG[name], checkpoint=checkpoint, max_values=10**9)
    except e.ResponseDecodeError:
        assert name in {"open lists", "nested", "bad escapes"}
    else:
        assert calls >= len(LONG[name]) // 32_768


@pytest.mark.parametrize("name", ["lists", "nested", "objects", "names"])
def test_number_of_values_is_bounded(name):
    """A byte of them would become a hundred in memory."""
    with pytest.raises(e.ResponseTooLargeError, match="more than 50,000 values"):
        json_text.loads(LONG[name], max_values=50_000)


def test_commas_in_text_count_nothing():
    """They are counted for values only until it matters."""
    rows = [{"text": "a,b:[{" * 400} for _ in range(300)]
    assert json_text.loads(json.dumps(rows).encode(), max_values=2_000) == rows


class Late(Exception):  # noqa: N818 - raised by a checkpoint
    pass


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{}] * 5_000},
        {"tool_calls": [{"function": {"arguments": "x"}}] * 5_000},
        {"executed_tools": [{"index": 0, "type": "search"}] * 500},
    ],
    ids=["calls", "arguments", "executed"],
)
def test_one_chunk_checks_often(delta):
    """However much one chunk holds."""
    calls = 0

    def checkpoint():
        nonlocal calls
        calls += 1

    Assembler(checkpoint).feed({"choices": [{"index": 0, "delta": delta}]})
    assert calls >= 15


def test_plain_answer_checks_often():
    """While its calls are read."""

    def checkpoint():
        raise Late

    answer = {"choices": [{"message": {"content": "", "tool_calls": [{}] * 5_000}}]}
    with pytest.raises(Late):
        codec.response_fields(answer, checkpoint)
    answer["choices"][0]["message"]["tool_calls"] *= 10
    with pytest.raises(e.ResponseTooLargeError, match=r"more than 10,000 items @ \$.choices\[0\].message.tool_calls"):
        codec.response_fields(answer)


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [], "x_groq": {"debug%d": 1}},
        {"choices": [], "more%d": 1},
        {"choices": [{"index": 0, "delta": {"more%d": 1}}]},
        {"choices": [{"index": 0, "delta": {}, "more%d": 1}]},
        {"choices": [{"index": 0, "delta": {"function_call": {"arguments": "xy"}}}]},
        {"choices": [{"index": 0, "delta": {"executed_tools": [{"index": 0, "type": "t"}]}}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [1]}}]},
    ],
    ids=["x_groq", "envelope", "delta", "choice", "function", "executed", "logprobs"],
)
def test_what_is_kept_is_bounded(chunk, monkeypatch):
    """The bound covers all chunks together, and each chunk costs its own size only: kept values are not copied."""
    monkeypatch.setattr("groq_provider.wire.assemble._MAX_KEPT_VALUES", 300)
    assembler = Assembler()
    text = json.dumps(chunk)

    def feed_all():
        for n in range(400):
            assembler.feed(json.loads(text.replace("%d", str(n))))

    with pytest.raises(e.ResponseTooLargeError, match="more than 300 values beside the texts"):
        feed_all()
    assembler.response_fields()


def test_event_lines_become_one_object():
    """However many there are."""
    decoder = EventDecoder()
    for _ in range(1000):
        assert decoder.feed(b"data: ab") is None
    assert len(decoder._data_lines) < 100
    assert decoder.feed(b"").data == b"\n".join([b"ab"] * 1000)
    assert decoder.feed(b"data: c") is None
    assert decoder.feed(b"").data == b"c"


# --- the stream --------------------------------------------------------------------------------------------------------------

EMPTY = b'data: {"choices":[{"index":0,"delta":{}}]}\n\n'


@pytest.mark.parametrize(
    "piece", [b"\n" * 200_000, b":\n" * 100_000, EMPTY * 20_000], ids=["blank", "comments", "empty"]
)
@pytest.mark.parametrize("way", ["total", "cancel"])
def test_limits_hold_within_one_read(piece, way):
    """Of what brings no chunk, however much of it a read brings."""
    token = CancelToken()
    bench = Bench()

    def late():
        """The time is up, or the call is cancelled, once the read is done."""
        if way == "total":
            bench.clock.advance(100)
        else:
            token.cancel()
        return piece

    bench.transport.script.append(streamed(late, b"data: never\n\n"))
    stream = bench.stream(timeouts=Timeouts(total=50), cancel=token)
    with pytest.raises(e.DeadlineExceededError if way == "total" else e.RequestCancelledError):
        next(stream)
    assert len(stream._wire.pieces) == 1, "read on"


def test_a_poll_keeps_its_time():
    """While much comes that is no chunk."""
    bench = Bench()

    def piece():
        bench.clock.advance(1)
        return b": nothing\n\n"

    bench.transport.script.append(streamed(*[piece] * 100))
    stream = bench.stream()
    before = bench.clock.monotonic()
    assert stream.poll(6.5) is False
    assert bench.clock.monotonic() - before <= 7.5
    stream.close()


def test_blank_lines_count_too(monkeypatch):
    """As the bytes they are."""
    monkeypatch.setattr("groq_provider.call.stream.MAX_STREAM", 10_000)
    bench = Bench(*[streamed(*[b"\n" * 1000] * 50) for _ in range(2)])
    with pytest.raises(e.ResponseTooLargeError, match="larger than 10,000 bytes"):
        bench.stream().collect()


def test_streams_end_at_their_cap():
    """A stream may have 256 MiB: it ends with the first read beyond them."""
    comment = b":" + bytes((8 << 20) - 2)  # 8 MiB with the end of the line

    class Endless(FakeWire):
        reads = 0

        def read_lines(self):
            self.reads += 1
            return [comment]

    bench = Bench(*[Endless(200, headers={"content-type": "text/event-stream"}) for _ in range(2)])
    first = bench.transport.script[0]
    with pytest.raises(e.ResponseTooLargeError, match="larger than 268,435,456 bytes"):
        bench.stream().collect()
    assert first.reads == 33
