"""``reasoning_content``, as other servers and gateways call it, is reasoning: in streams and in plain answers."""

from __future__ import annotations

import json

import pytest
from support.bench import REQUEST, USAGE, Bench, chunk, streamed

from groq_provider import Timeouts
from groq_provider.types.response import LLMResponse
from groq_provider.wire import codec
from groq_provider.wire.assemble import Assembler

NAMES = ["reasoning", "reasoning_content"]


def piece(**delta):
    data = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_comes_piece_by_piece(name):
    """Each chunk gives its part out, and the response has the whole of it; none of it counts as unknown."""
    assembler = Assembler()
    deltas = [{"role": "assistant", name: "Let "}, {name: "me."}, {name: None, "content": "Yes"}, {name: ""}]
    chunks = [assembler.feed({"id": "1", "model": "m", "choices": [{"index": 0, "delta": d}]}) for d in deltas]
    assert [(c.reasoning, c.content) for c in chunks if c is not None] == [("Let ", ""), ("me.", ""), (None, "Yes")]
    response = LLMResponse(**assembler.response_fields())
    assert (response.reasoning, response.content, response.extra) == ("Let me.", "Yes", {})


def test_both_names_count_once():
    """Servers that send both names say the same under each."""
    assembler = Assembler()
    delta = {"reasoning": "a", "reasoning_content": "a"}
    assert assembler.feed({"choices": [{"index": 0, "delta": delta}]}).reasoning == "a"
    message = {"role": "assistant", "content": "b", **delta}
    fields = codec.response_fields({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    assert (fields["reasoning"], fields.get("extra", {})) == ("a", {})


@pytest.mark.parametrize("name", NAMES)
def test_plain_answers_have_reasoning(name):
    """On the response, under its one name there."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "b", name: "a"}, "finish_reason": "stop"}
    response = LLMResponse(**codec.response_fields({"choices": [choice]}))
    assert (response.reasoning, response.extra) == ("a", {})


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_is_the_first_token(name):
    """It ends the limit for the first token, is timed as that, renews the idle limit, and the call is sent once."""
    bench = Bench()
    limits = []

    def after(seconds, data):
        def give():
            bench.clock.advance(seconds)
            limits.append(bench.transport.sent[0]["scope"].deadline - bench.clock.monotonic())
            return data

        return give

    bench.transport.script.append(
        streamed(
            after(1.0, piece(**{name: "Let "})),
            after(7.0, piece(**{name: "me."})),
            after(7.0, chunk("Yes", finish="stop", usage=USAGE) + b"data: [DONE]\n\n"),
        )
    )
    response = bench.stream(REQUEST, timeouts=Timeouts(first_token=10, idle=8)).collect()
    assert (response.reasoning, response.content) == ("Let me.", "Yes")
    assert response.timing.time_to_first_token == 1.5
    assert limits == [8.5, 1.0, 1.0]  # of the first token once, then of silence, anew after each piece
    assert len(bench.transport.sent) == 1
