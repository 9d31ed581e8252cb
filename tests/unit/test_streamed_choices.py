"""What other servers stream beyond one text: log probabilities, and several choices side by side."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, streamed

from groq_provider import StreamInterruptedError
from groq_provider.types.response import LLMResponse
from groq_provider.wire.assemble import Assembler

PIECES = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=8)


def chunk(*choices):
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)}


def choice(text=None, index=0, finish=None, **more):
    return {"index": index, "delta": {} if text is None else {"content": text}, "finish_reason": finish, **more}


def read(chunks):
    """All that a stream of these gives out, and its response."""
    pieces = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks]
    stream = Bench(streamed(*pieces, b"data: [DONE]\n\n")).stream()
    return list(stream), stream.response


def token(text):
    return {"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}


@given(PIECES, st.booleans())
def test_logprobs_of_chunks_are_joined(pieces, closing):
    """The response has them all, in the form of a plain answer; a chunk of them alone loses none."""
    chunks = [chunk(choice(piece, logprobs={"content": [token(piece)], "refusal": None})) for piece in pieces]
    if closing:
        chunks.append(chunk(choice(logprobs={"content": [token("<end>")]})))
    chunks.append(chunk(choice(finish="stop", logprobs=None)))
    given_out, response = read(chunks)
    tokens = [*pieces, "<end>"] if closing else pieces
    assert response.logprobs == {"content": [token(each) for each in tokens], "refusal": None}
    assert response.content == "".join(pieces) == "".join(each.content for each in given_out)


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([{"tokens": ["a"], "token_logprobs": [-1.0]}, {"tokens": ["b"], "token_logprobs": [-2.0]}],
         {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}),
        ([{"content": None}, {"content": [1]}], {"content": [1]}),
        ([[1], {"content": [2]}], {"content": [2]}),
        ([{"content": [2]}, "x"], "x"),
        ([None, None], None),
    ],
    ids=["completions form", "null first", "list first", "text last", "none"],
)  # fmt: skip
def test_other_forms_of_logprobs(parts, whole):
    """Lists are appended under their names; a value that is not an object is kept unchanged."""
    assembler = Assembler()
    for part in parts:
        assembler.feed(chunk(choice("x", logprobs=part)))
    assert LLMResponse(**assembler.response_fields()).logprobs == whole


def test_partial_logprobs_stay_unchanged():
    """A response made in the middle does not grow with the stream, and the chunk is not changed."""
    assembler = Assembler()
    first = chunk(choice("a", logprobs={"content": [1]}))
    assembler.feed(first)
    middle = assembler.response_fields()["logprobs"]
    assembler.feed(chunk(choice("b", logprobs={"content": [2]})))
    assert middle == {"content": [1]} == first["choices"][0]["logprobs"]
    assert assembler.response_fields()["logprobs"] == {"content": [1, 2]}


@given(st.lists(st.lists(st.tuples(st.integers(0, 2), st.text("abc", max_size=2)), min_size=1, max_size=4), max_size=8))
def test_choices_are_never_mixed(groups):
    """However a server spreads them over chunks, each choice's pieces come out whole, in order and under its index."""
    texts = {0: "", 1: "", 2: ""}
    for group in groups:
        for index, text in group:
            texts[index] += text
    chunks = [chunk(*(choice(text, index) for index, text in group)) for group in groups]
    chunks.append(chunk(*(choice(None, index, "length" if index else "stop") for index in texts)))
    given_out, response = read(chunks)
    found = {index: "".join(each.content for each in given_out if each.index == index) for index in texts}
    assert found == texts
    assert (response.content, response.finish_reason) == (texts[0], "stop")


def test_choices_of_chunk_keep_calls():
    """Tool calls and reasoning, too; two parts of one choice are joined."""
    call = {"index": 0, "id": "x", "function": {"name": "f", "arguments": "{}"}}
    second = {"index": 1, "delta": {"tool_calls": [call], "reasoning": "r"}, "finish_reason": None}
    finish = chunk(choice(finish="stop"), choice(index=1, finish="tool_calls"))
    given_out, response = read([chunk(second, choice("a"), choice("b")), finish])
    shown = [(each.index, each.content, each.reasoning, [c.name for c in each.tool_calls]) for each in given_out[:-1]]
    assert shown == [(0, "ab", None, []), (1, "", "r", ["f"])]
    assert (response.content, response.tool_calls, response.reasoning) == ("ab", (), None)


def test_stream_waits_for_every_choice():
    """The first choice's finish reason is no end while another one is still being made."""
    pieces = [chunk(choice("a"), choice("b", 1)), chunk(choice(finish="stop")), chunk(choice("c", 1))]
    stream = Bench(streamed(*(b"data: " + json.dumps(each).encode() + b"\n\n" for each in pieces))).stream()
    with pytest.raises(StreamInterruptedError) as caught:
        list(stream)
    assert caught.value.partial.content == "a"


def test_usage_estimate_counts_every_choice():
    """All of them were made, whichever is on the response."""
    long = "word " * 100
    end = chunk(choice(finish="stop"), choice(index=1, finish="stop"))
    _, alone = read([chunk(choice(long)), end])
    _, both = read([chunk(choice(long), choice(long, 1)), end])
    assert both.usage.completion_tokens == pytest.approx(2 * alone.usage.completion_tokens, abs=2)
