"""Fields that a reader can do without never refuse an answer that is there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.types.response import LLMResponse, XGroq
from groq_provider.wire import codec, json_text
from groq_provider.wire.assemble import Assembler


def plain(message=None, choice=None, **more):
    said = {"role": "assistant", "content": "Hi", **(message or {})}
    body = {"choices": [{"index": 0, "message": said, "finish_reason": "stop", **(choice or {})}], **more}
    return LLMResponse(**codec.response_fields(json_text.loads(json.dumps(body).encode())))


def streamed(message=None, **more):
    assembler = Assembler()
    assembler.feed(
        {"choices": [{"index": 0, "delta": {"content": "Hi", **(message or {})}, "finish_reason": None}], **more}
    )
    assembler.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return LLMResponse(**assembler.response_fields())


ODD = [5, 5.5, True, "", [], [5], {}, {"a": 1}, -1, 10**30, "soon", None]

AROUND = {
    "id": [5, [], {}, True],
    "model": [5, [], {}],
    "created": [1790000000000, 10**30, "soon", "yesterday at noon", [], {}, True, -(10**30)],
    "system_fingerprint": [{"engine": "x"}, 5, []],
    "service_tier": [5, {}],
    "x_groq": [5, "req_1", []],
    "usage_breakdown": [5, "a", []],
    "mcp_list_tools": [5, "a", {}, [5], [{"tools": 5}]],
}
FIELDS = {"created": "created_at"}


@pytest.mark.parametrize("read", [plain, streamed], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in AROUND.items() for value in values], ids=str
)
def test_odd_fields_around_the_choices(read, name, value):
    """The answer is there, and the field is as if it were missing."""
    response = read(**{name: value})
    assert (response.content, response.finish_reason) == ("Hi", "stop")
    assert getattr(response, FIELDS.get(name, name)) in {None, ()}


IN_MESSAGE = {
    "reasoning": [5, [], {"a": 1}],
    "executed_tools": [5, {}, [5], [{"index": "0", "type": "a"}]],
    "annotations": [5, {}, [5]],
    "function_call": [5, "f", []],
}


@pytest.mark.parametrize("read", [plain, streamed], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in IN_MESSAGE.items() for value in values], ids=str
)
def test_odd_fields_of_the_message(read, name, value):
    """As above."""
    response = read({name: value})
    assert (response.content, response.finish_reason) == ("Hi", "stop")
    assert getattr(response, name) in {None, ()}


def test_one_bad_entry_leaves_others():
    """Of a list, and of an object."""
    tools = [{"index": 0, "type": "a"}, {"index": "1", "type": "b"}, {"index": 2, "type": "c"}]
    for read in (plain, streamed):
        assert [tool.type for tool in read({"executed_tools": tools}).executed_tools] == ["a", "c"]
        response = read(x_groq={"id": 5, "seed": "x", "usage": {"sram_cached_tokens": "1"}, "novel": 1})
        assert (response.x_groq.id, response.x_groq.seed, response.x_groq.extra) == (None, None, {"novel": 1})
        assert response.x_groq.usage.sram_cached_tokens is None
    assert plain(x_groq={"id": "req_1", "seed": -7}).x_groq == XGroq(id="req_1", seed=-7)


def test_an_odd_finish_reason():
    """Of a whole answer it is none."""
    assert plain(choice={"finish_reason": 1}).finish_reason is None


@given(st.dictionaries(st.sampled_from([*AROUND, "usage"]), st.sampled_from(ODD)), st.booleans())
def test_any_odd_fields_together(fields, stream):
    """Whatever comes of them at once."""
    response = (streamed if stream else plain)(**fields)
    assert response.content == "Hi"
    assert repr(response)


# --- forms of compatible servers -----------------------------------------------------------------------------------------------

PARTS = [
    ([{"type": "text", "text": "Hi"}], "Hi"),
    ([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "Hi"),
    (["H", "i"], "Hi"),
    ([{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}}], "Hi"),
    ([{"type": "text", "text": "\ud83d"}, {"type": "text", "text": "\ude00"}], "😀"),
    ([], ""),
    ([{"type": "text", "text": None}], ""),
]


@pytest.mark.parametrize("read", [plain, streamed], ids=["plain", "stream"])
@pytest.mark.parametrize(("parts", "text"), PARTS, ids=ascii)
def test_content_as_parts_is_joined(read, parts, text):
    """The texts of a list of parts."""
    assert read({"content": parts}).content == text


@pytest.mark.parametrize("read", [plain, streamed], ids=["plain", "stream"])
@pytest.mark.parametrize("arguments", [{"x": 1, "s": "ü"}, {}], ids=str)
def test_arguments_as_object_are_json(read, arguments):
    """Their text, which ``parse()`` reads."""
    (call,) = read(
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": arguments}}]}
    ).tool_calls
    assert isinstance(call.arguments, str)
    assert json.loads(call.arguments) == arguments == call.parse()


@pytest.mark.parametrize("read", [plain, streamed], ids=["plain", "stream"])
def test_number_as_id_of_call(read):
    """The tool's answer has to name it: it is kept, as text."""
    (call,) = read(
        {"tool_calls": [{"index": 0, "id": 7, "type": 5, "function": {"name": "f", "arguments": "{}"}}]}
    ).tool_calls
    assert (call.id, call.type) == ("7", "function")
