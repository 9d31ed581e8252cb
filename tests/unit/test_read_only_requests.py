"""Mappings inside requests are deeply read-only, and copies of the caller's."""

from __future__ import annotations

import copy
import json
import pickle
import types
import typing
from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import InvalidRequestError, LLMRequest, Message
from groq_provider.types import load_annotations, messages, options, parts, request
from groq_provider.types._base import ReadOnly, ReadOnlyList
from groq_provider.wire.codec import request_body, response_fields
from groq_provider.wire.converter import encode

load_annotations()

#: What each class cannot do without, beside its mappings.
NEEDED = {
    "LLMRequest": {"messages": "Hello"},
    "Message": {"role": "assistant", "content": "x"},
    "ToolFunction": {"name": "f"},
    "Tool": {"type": "mcp"},
    "ToolCall": {"id": "1", "name": "f"},
    "ResponseFormat": {"type": "text"},
    "DocumentPart": {"data": {}},
    "OtherPart": {"data": {"type": "audio"}},
}
LISTS_OF_MAPPINGS = {("LLMRequest", "functions")}


def holds_mapping(kind):
    if getattr(kind, "__origin__", kind) is Mapping:
        return True
    return typing.get_origin(kind) in (typing.Union, types.UnionType) and any(map(holds_mapping, typing.get_args(kind)))


def places():
    """Every field of every class of requests that can hold a mapping, found by its annotation."""
    found = []
    for module in (messages, options, parts, request):
        for cls in vars(module).values():
            if isinstance(cls, type) and attrs.has(cls) and cls.__module__ == module.__name__:
                hints = typing.get_type_hints(cls)
                found += [(cls, f.name) for f in attrs.fields(cls) if holds_mapping(hints[f.name])]
    return found


PLACES = places()
IDS = [f"{cls.__name__}.{name}" for cls, name in PLACES]


def deep():
    return {"type": "audio", "a": {"b": [{"c": 1}, [2]]}, "t": ({"d": 1},)}


def values(name):
    return {"a": 1, "b": 2} if name == "logit_bias" else deep()


def made(cls, name, mapping):
    return cls(**{**NEEDED.get(cls.__name__, {}), name: mapping})


def walk(value):
    """Yield every mapping and every list that can be reached from a value."""
    if attrs.has(type(value)):
        value = tuple(getattr(value, f.name) for f in attrs.fields(type(value)))
    if isinstance(value, (Mapping, list)):
        yield value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from walk(item)


MAPPING_CHANGES = {
    "set": lambda found: found.__setitem__("x", 1),
    "delete": lambda found: found.__delitem__(next(iter(found), "x")),
    "update": lambda found: found.update(x=1),
    "merge": lambda found: found.__ior__({"x": 1}),
    "setdefault": lambda found: found.setdefault("x", 1),
    "pop": lambda found: found.pop("x", None),
    "popitem": lambda found: found.popitem(),
    "clear": lambda found: found.clear(),
}
LIST_CHANGES = {
    "set": lambda found: found.__setitem__(0, 1),
    "delete": lambda found: found.__delitem__(0),
    "append": lambda found: found.append(1),
    "extend": lambda found: found.extend([1]),
    "insert": lambda found: found.insert(0, 1),
    "add": lambda found: found.__iadd__([1]),
    "repeat": lambda found: found.__imul__(2),
    "pop": lambda found: found.pop(),
    "remove": lambda found: found.remove(1),
    "reverse": lambda found: found.reverse(),
    "sort": lambda found: found.sort(),
    "clear": lambda found: found.clear(),
}


def assert_unchangeable(value):
    for found in walk(value):
        before = copy.deepcopy(found)
        for change in (MAPPING_CHANGES if isinstance(found, Mapping) else LIST_CHANGES).values():
            with pytest.raises(TypeError):
                change(found)
        assert found == before


def test_walk_finds_every_class():
    """The walk over annotations sees the fields that are known to hold mappings."""
    assert {
        "LLMRequest.tool_choice", "LLMRequest.metadata", "LLMRequest.logit_bias", "LLMRequest.function_call",
        "LLMRequest.compound_custom", "LLMRequest.provider_metadata", "Message.extra", "Message.function_call",
        "ToolFunction.parameters", "ToolFunction.extra", "Tool.extra", "ToolCall.extra", "JSONSchemaFormat.schema",
        "JSONSchemaFormat.extra", "ResponseFormat.extra", "StreamOptions.extra", "Document.data", "DocumentPart.data",
        "OtherPart.data",
    } == set(IDS)  # fmt: skip


@pytest.mark.parametrize(("cls", "name"), PLACES, ids=IDS)
def test_request_mappings_cannot_change(cls, name):
    """In none of the ways of a dict or a list, at no depth."""
    value = made(cls, name, values(name))
    assert getattr(value, name) == values(name)
    assert_unchangeable(value)


@pytest.mark.parametrize(("cls", "name"), [p for p in PLACES if p[0] is not options.Document], ids=str)
def test_default_mappings_cannot_change(cls, name):
    """The default of a mapping field is not a dict that all values share and a caller can fill."""
    assert_unchangeable(
        made(cls, name, NEEDED[cls.__name__][name]) if name == "data" else cls(**NEEDED.get(cls.__name__, {}))
    )


@pytest.mark.parametrize(("cls", "name"), PLACES, ids=IDS)
def test_given_mapping_stays_apart(cls, name):
    """The caller's mapping is unchanged and independent: changing it later does not change the request."""
    mine = values(name)
    value = made(cls, name, mine)
    assert mine == values(name)
    assert all(type(found) in (dict, list) for found in walk(mine))
    mine["new"] = 1
    if name != "logit_bias":
        mine["a"]["b"].append(3)
        mine["a"]["b"][0]["c"] = 2
        mine["t"][0]["d"] = 2
    assert getattr(value, name) == values(name)


AGAIN = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "evolve": attrs.evolve,
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize(("cls", "name"), PLACES, ids=IDS)
def test_request_mappings_travel(cls, name, again):
    """Copied, pickled and evolved a value is equal, and read-only again."""
    value = made(cls, name, values(name))
    assert again(value) == value
    assert getattr(again(value), name) == values(name)
    assert_unchangeable(again(value))


@pytest.mark.parametrize(("cls", "name"), PLACES, ids=IDS)
def test_plain_copies_can_change(cls, name):
    """A dict made of a read-only mapping, and what attrs makes of a value, are the reader's own."""
    value = made(cls, name, values(name))
    own = {**getattr(value, name)}
    own["x"] = 1
    assert getattr(value, name) == values(name)
    plain = attrs.asdict(value)[name]
    assert type(plain) is dict
    plain["x"] = 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values))
def test_any_json_stays_equal(mine):
    """Whatever JSON object is given: equal both ways, the same text, the same body, and unchangeable."""
    asked = LLMRequest(messages="Hello", metadata=mine)
    assert asked.metadata == mine
    assert mine == asked.metadata
    assert json.dumps(asked.metadata) == json.dumps(mine)
    assert repr(asked.metadata) == repr(mine)
    assert all(type(found) in (ReadOnly, ReadOnlyList) for found in walk(asked.metadata))
    assert json.loads(request_body(LLMRequest(messages="Hello", compound_custom=mine), model="m", stream=False)) == {
        "model": "m", "messages": [{"role": "user", "content": "Hello"}], "compound_custom": mine, "stream": False,
    }  # fmt: skip


def test_functions_cannot_change():
    """The old form of tools is a sequence of mappings: each is read-only, and apart from the caller's."""
    mine = [{"name": "f", "parameters": {"required": ["a"]}}]
    asked = LLMRequest(messages="Hello", functions=mine)
    mine[0]["parameters"]["required"].append("b")
    assert asked.functions == ({"name": "f", "parameters": {"required": ["a"]}},)
    assert_unchangeable(asked)


def test_nested_mapping_forms_freeze():
    """Parts given as mappings, as other clients hold them, become values as read-only as those made by name."""
    call = {"id": "1", "function": {"name": "f", "arguments": "{}", "x": [1]}, "y": {"z": [1]}}
    asked = LLMRequest(
        messages=[
            {"role": "user", "content": [{"type": "audio", "audio": {"data": ["x"]}}], "cache_control": {"a": [1]}},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"required": ["a"]}, "more": {"b": []}}}],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"required": ["a"]}}},
        documents=[{"source": {"type": "json", "data": {"a": [1]}}}],
    )
    assert sum(1 for found in walk(asked) if found) > 10
    assert_unchangeable(asked)
    json.dumps(encode(asked))


@pytest.mark.parametrize("name", ["metadata", "tool_choice", "function_call", "compound_custom", "provider_metadata"])
def test_endless_mapping_is_refused(name):
    """One that holds itself, or is nested without measure, is the error of a wrong request."""
    mine = {}
    mine["again"] = [mine]
    with pytest.raises(InvalidRequestError, match="nested too deep"):
        LLMRequest(messages="Hello", **{name: mine})


def test_answered_calls_refuse_changes():
    """What an answer said of a call cannot be changed in place, and the call goes into a history as it came."""
    item = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}", "more": 1},
        "extra_content": {"a": 1},
    }
    message = {"role": "assistant", "content": None, "tool_calls": [item]}
    call = response_fields({"choices": [{"index": 0, "message": message}]})["tool_calls"][0]
    for change in MAPPING_CHANGES.values():
        with pytest.raises(TypeError):
            change(call.extra)
    for again in AGAIN.values():
        assert again(call).extra == call.extra
        assert type(again(call).extra) is type(call.extra)
    assert encode(Message(role="assistant", tool_calls=[call]))["tool_calls"] == [item]
