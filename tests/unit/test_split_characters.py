"""Characters whose two halves (surrogates) come in two chunks, and halves that stay alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.config import RetryPolicy, Timeouts
from groq_provider.testing import _wire
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import LLMResponse
from groq_provider.wire import codec, converter, json_text
from groq_provider.wire.assemble import Assembler

HIGH, LOW, LOST = "\ud83d", "\ude00", "\ufffd"
REQUEST = LLMRequest(model="m", messages="Hi")


def delta_of(place, text):
    if place == "arguments":
        return {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}]}
    return {place: text}


def text_at(place, given):
    """The text of one place of a chunk or an answer."""
    if place == "arguments":
        return "".join(call.arguments for call in given.tool_calls)
    return getattr(given, place) or ""


def chunk(place, text):
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta_of(place, text), "finish_reason": None}]}


def read(place, texts):
    """Return the joined texts of the chunks, and the text of the response."""
    assembler = Assembler()
    assembler.feed(chunk(place, "")) if place != "arguments" else None
    said = ""
    for text in texts:
        source = json.dumps(chunk(place, text), separators=(",", ":")).encode()
        out = assembler.reuse_template(source) or assembler.feed(json_text.loads(source), source)
        said += "" if out is None else text_at(place, out)
    rest = assembler.flush_halves()
    assert assembler.flush_halves() == ()
    said += "".join(text_at(place, each) for each in rest)
    return said, text_at(place, LLMResponse(**assembler.response_fields()))


PLACES = ["content", "reasoning", "arguments"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([HIGH, LOW], "😀"),
        (["a" + HIGH, LOW + "b"], "a😀b"),
        ([HIGH, LOW + HIGH, LOW], "😀😀"),
        ([HIGH, "a"], LOST + "a"),
        ([LOW, "a"], LOST + "a"),
        ([HIGH, HIGH, LOW], LOST + "😀"),
        ([HIGH + LOW], "😀"),
        (["a", HIGH], "a" + LOST),
        ([HIGH], LOST),
        ([HIGH, "", LOW], "😀"),
        (["é", "😀", "e"], "é😀e"),
    ],
    ids=ascii,
)
def test_halves_become_the_character(place, texts, expected):
    """In the chunks and in the answer; a half that stays alone is U+FFFD."""
    assert read(place, texts) == (expected, expected)


@given(
    st.sampled_from(PLACES),
    st.lists(st.text(st.sampled_from(["a", "é", "😀", HIGH, LOW, "\ud83e", "\udd17"]), max_size=4), max_size=12),
)
def test_any_cut_gives_the_text(place, texts):
    """Joined chunks equal the answer, which is the text joined first and decoded then, and can be written as UTF-8."""
    said, answer = read(place, texts)
    joined = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert said == answer == joined
    assert answer.encode().decode() == answer


def test_halves_of_different_places():
    """The reasoning between two halves of the content, and the other way round, does not part them."""
    assembler = Assembler()
    out = [assembler.feed(chunk(*each)) for each in (
        ("content", HIGH), ("reasoning", HIGH), ("arguments", HIGH), ("content", LOW), ("arguments", LOW), ("reasoning", LOW),
    )]  # fmt: skip
    assert [
        text_at(place, each) for place, each in zip(("content", "arguments", "reasoning"), out[3:], strict=True)
    ] == ["😀"] * 3
    assert assembler.flush_halves() == ()


def test_short_way_waits_for_half():
    """A chunk like those before it does not slip in between, and is taken the short way again afterwards."""
    assembler = Assembler()
    sources = [json.dumps(chunk("content", text), separators=(",", ":")).encode() for text in ("", "a", HIGH, "b", "c")]
    for source in sources[:3]:
        assembler.feed(json_text.loads(source), source)
    assert assembler.reuse_template(sources[3]) is None
    assert assembler.feed(json_text.loads(sources[3]), sources[3]).content == LOST + "b"
    assert assembler.reuse_template(sources[4]).content == "c"
    assert assembler.response_fields()["content"] == f"a{LOST}bc"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", [HIGH + LOW, HIGH, "a" + LOW], ids=ascii)
def test_plain_answer_can_be_written(place, text):
    """A half alone in an answer that came whole."""
    body = json.dumps({"choices": [{"message": delta_of(place, text), "finish_reason": "stop"}]})
    response = LLMResponse(**codec.response_fields(json_text.loads(body.encode())))
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert text_at(place, response) == expected
    assert text_at(place, converter.decode(LLMResponse, converter.encode(response))) == expected
    assert text_at(place, response).encode()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(PLACES), st.text(st.sampled_from(["a", "😀", HIGH, LOW]), min_size=1)
        )
    )
)
def test_every_choice_keeps_its_halves(pieces):
    """The texts of several choices, in any order: each is joined by itself, and a half at its end is not lost."""
    assembler, sent, said = Assembler(), {}, {}
    for index, place, text in pieces:
        data = chunk(place, text)
        data["choices"][0]["index"] = index
        sent[index, place] = sent.get((index, place), "") + text
        out = assembler.feed(data)
        if out is not None:
            assert out.index == index
            said[index, place] = said.get((index, place), "") + text_at(place, out)
    for out in assembler.flush_halves():
        for place in PLACES:
            said[out.index, place] = said.get((out.index, place), "") + text_at(place, out)
    for where, text in sent.items():
        assert said.get(where, "") == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize(("texts", "expected"), [([HIGH, LOW], "😀"), (["a", HIGH], "a" + LOST)], ids=ascii)
def test_stream_gives_out_the_rest(texts, expected):
    """The half that the end leaves alone comes before the last chunk."""
    clock = FakeClock()
    final = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    lines = [b"data: " + json.dumps(each).encode() for each in [*(chunk("content", text) for text in texts), final]]
    wire = FakeWire(
        headers={"content-type": "text/event-stream"}, pieces=[b"\n\n".join([*lines, b"data: [DONE]"]) + b"\n\n"]
    )
    runtime = Caller(
        transport=FakeTransport(clock, wire), limiter=FakeLimiter(clock), tracker=FakeTracker(), clock=clock,
        policy=RetryPolicy(max_retries=0), provider="groq", default_model="m",
    )  # fmt: skip
    stream = runtime.stream(REQUEST, CallOptions(timeouts=Timeouts()))
    chunks = list(stream)
    assert "".join(each.content for each in chunks) == stream.response.content == expected
    assert chunks[-1].finish_reason == "stop"


@given(st.text(st.sampled_from(["a", "<", "é", "😀", HIGH, LOW])))
def test_the_emulator_writes_halves(text):
    """Escaped, as JSON can: no answer of it ends a connection."""
    written = _wire.dumps({"text": text}).encode()
    # Two halves that the emulator wrote one after the other are one character to every reader.
    assert json.loads(written) == json.loads(json.dumps({"text": text}))
