"""Nothing can be changed through the mappings of an answer, at any depth."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import LLMResponse, Message, ResponseChunk, ToolCallDelta, Usage
from groq_provider.types._base import freeze_json
from groq_provider.wire import codec
from groq_provider.wire.assemble import Assembler

DEEP = {"deep": [{"deeper": [1]}]}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}", "more": DEEP},
    "extra_content": DEEP,
}
PLAIN = {
    "id": "chatcmpl-1",
    "gateway": DEEP,
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi",
                "tool_calls": [CALL],
                "function_call": {"name": "f", "more": DEEP},
                "own": DEEP,
            },
            "logprobs": {"content": [DEEP]},
            "finish_reason": "stop",
            "stop_details": DEEP,
        }
    ],
    "usage": {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1, "more": DEEP},
        "cost": DEEP,
    },
    "usage_breakdown": {"models": [{"model": "m", "usage": {"odd": DEEP}, "more": DEEP}], "more": DEEP},
    "x_groq": {"id": "req_1", "debug": DEEP, "usage": {"dram_cached_tokens": 1, "more": DEEP}, "more": DEEP},
}


def plain():
    return LLMResponse(**codec.response_fields(PLAIN), raw=json.loads(json.dumps(PLAIN)))


def streamed():
    assembler = Assembler()
    choice = PLAIN["choices"][0]
    delta = {**choice, "delta": {**choice["message"], "tool_calls": [{"index": 0, **CALL}]}}
    del delta["message"]
    assembler.feed({**PLAIN, "choices": [delta]})
    return LLMResponse(**assembler.response_fields())


def mappings(response):
    """Yield each mapping of an answer with its place."""
    yield "extra", response.extra
    yield "function_call", response.function_call
    yield "logprobs", response.logprobs
    yield "tool_calls[0].extra", response.tool_calls[0].extra
    yield "usage.extra", response.usage.extra
    yield "usage_breakdown.extra", response.usage_breakdown.extra
    yield "usage_breakdown.models[0].extra", response.usage_breakdown.models[0].extra
    yield "usage_breakdown.models[0].usage.extra", response.usage_breakdown.models[0].usage.extra
    yield "x_groq.extra", response.x_groq.extra
    yield "x_groq.debug", response.x_groq.debug
    if response.raw is not None:
        yield "raw", response.raw


def containers(found):
    """Yield a container and all that are in it."""
    yield found
    for item in found.values() if isinstance(found, dict) else found:
        if isinstance(item, (dict, list)):
            yield from containers(item)


@pytest.mark.parametrize("make", [plain, streamed])
def test_answer_mappings_are_read_only(make):
    """In a plain answer and in a streamed one, all the way down."""
    response = make()
    for place, mapping in mappings(response):
        inner = list(containers(mapping))
        assert len(inner) > 2, place  # the deep ones are there
        for container in inner:
            with pytest.raises(TypeError):
                container.clear()
    assert pickle.loads(pickle.dumps(response)) == response
    assert json.loads(json.dumps(response.extra)) == response.extra


def test_raw_is_the_body():
    """It reads and serialises as the JSON that came."""
    response = plain()
    assert response.raw == PLAIN
    assert json.loads(json.dumps(response.raw)) == PLAIN
    assert response.raw is response.raw


@pytest.mark.parametrize(
    "made", [LLMResponse(), ResponseChunk(), Usage(), ToolCallDelta(index=0)], ids=lambda made: type(made).__name__
)
def test_empty_mappings_are_read_only(made):
    """A caller cannot fill an empty default either."""
    found = [getattr(made, name) for name in ("extra", "provider_metadata") if hasattr(made, name)]
    assert found
    for mapping in found:
        with pytest.raises(TypeError):
            mapping["x"] = 1


def test_given_mappings_are_copied():
    """A value that a program makes has its own, and a plain one may hold tuples."""
    given = {"a": {"b": (1, [2])}}
    usage = Usage(extra=given)
    given["a"]["b"] = None
    assert usage.extra == {"a": {"b": (1, [2])}}
    with pytest.raises(TypeError):
        usage.extra["a"]["b"] = 1


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_any_json_is_copied(found):
    """The copy is equal, serialises alike, and shares no container with the original."""
    copy = freeze_json(found)
    assert copy == found
    assert json.dumps(copy) == json.dumps(found)
    if isinstance(found, (dict, list)):
        assert not {id(item) for item in containers(found)} & {id(item) for item in containers(copy)}


def test_a_deep_call_is_answered():
    """However deep an answer's function_call is, the answer can go back as a message."""
    deep: object = 1
    for _ in range(5000):
        deep = [deep]
    response = LLMResponse(
        **codec.response_fields({"choices": [{"message": {"function_call": {"name": "f", "deep": deep}}}]})
    )
    message = response.message
    assert isinstance(message, Message)
    assert message.function_call["name"] == "f"
