"""Query parameters and the calls of earlier answers go out in the form that a server reads."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, answer

from groq_provider import InvalidRequestError, LLMRequest, Message, ToolCall
from groq_provider.wire import codec


def sent(query):
    """The query that a call goes out with."""
    bench = Bench(answer())
    bench.generate(query=query)
    return bench.transport.sent[0]["query"]


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ({"a": None}, ""),
        ({"a": None, "b": 1}, "?b=1"),
        ({"a": True, "b": False}, "?a=true&b=false"),
        ({"a": [True, None, "x"]}, "?a=true&a=x"),
        ({"a": []}, ""),
        ({"a": 0, "b": ""}, "?a=0&b="),
        ({"a b": "c&d"}, "?a+b=c%26d"),
        ({}, ""),
    ],
    ids=str,
)
def test_queries_are_written(query, written):
    """``None`` is left out, truth values are those of JSON, lists are repeated."""
    assert sent(query) == written


@pytest.mark.parametrize("query", [{"a": {}}, {"a": {"b": 1}}, {"a": ["x", {"b": 1}]}], ids=str)
def test_mappings_are_refused(query):
    """There is no one way to write them; nothing is sent."""
    bench = Bench()
    with pytest.raises(InvalidRequestError, match=r"extra_query\['a'\] must be a text, a number or a list") as caught:
        bench.generate(query=query)
    assert caught.value.param == "extra_query['a']"
    assert bench.transport.sent == []


plain = st.text(st.characters(codec="utf-8"), max_size=5) | st.integers() | st.booleans() | st.none()


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5), plain | st.lists(plain, max_size=3), max_size=4
    )
)
def test_any_query_is_read_back(query):
    """Each value comes out of the URL as it would stand in JSON, but for the quotes."""
    items = [(name, one) for name, item in query.items() for one in (item if isinstance(item, list) else [item])]
    expected = [
        (name, json.dumps(one) if isinstance(one, bool) else str(one)) for name, one in items if one is not None
    ]
    assert parse_qsl(sent(query).removeprefix("?"), keep_blank_values=True) == expected


@pytest.mark.parametrize("arguments", ["", " ", "null", " null\n", None], ids=repr)
@pytest.mark.parametrize("form", ["value", "flat", "wire"])
def test_empty_arguments_are_an_object(arguments, form):
    """A history with a call of a function that takes none is one that the service accepts."""
    call = {
        "value": lambda: ToolCall(id="c", name="f", arguments=arguments or ""),
        "flat": lambda: {"id": "c", "name": "f", "arguments": arguments},
        "wire": lambda: {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}},
    }[form]()
    messages = [Message.user("x"), {"role": "assistant", "tool_calls": [call]}, Message.tool("c", "done")]
    body = json.loads(codec.request_body(LLMRequest(messages=messages), model="m", stream=False))
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("arguments", ["{}", '{"a": null}', "not JSON", '"null"'])
def test_other_arguments_stay(arguments):
    """They go back as the model wrote them."""
    messages = [Message.assistant(None, tool_calls=[ToolCall(id="c", name="f", arguments=arguments)])]
    body = json.loads(codec.request_body(LLMRequest(messages=messages), model="m", stream=False))
    assert body["messages"][0]["tool_calls"][0]["function"]["arguments"] == arguments
