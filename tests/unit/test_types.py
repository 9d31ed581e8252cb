"""The value classes: accepted arguments, error messages, reprs, pickling."""

import copy
import inspect
import pickle
import subprocess
import sys
import uuid
from contextlib import suppress
from datetime import date, datetime, timezone
from types import MappingProxyType
from typing import get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.errors import InvalidRequestError
from groq_provider.types import activity, messages, request, response, status
from groq_provider.types import model_info as models
from groq_provider.types.activity import (
    Annotation,
    BrowserResult,
    Chart,
    ChartElement,
    CodeResult,
    DocumentCitation,
    ExecutedTool,
    FunctionCitation,
    MCPTool,
    MCPToolList,
    ModelUsage,
    SearchResult,
    SearchResults,
    UsageBreakdown,
)
from groq_provider.types.allowed import GROQ
from groq_provider.types.messages import (
    DocumentPart,
    ImagePart,
    Message,
    OtherPart,
    TextPart,
    Tool,
    ToolCall,
    ToolFunction,
)
from groq_provider.types.model_info import ModelCapability, ModelInfo, ModelLimits, ModelPricing, PerformanceProfile
from groq_provider.types.request import (
    Document,
    JSONSchemaFormat,
    LLMRequest,
    ResponseFormat,
    SearchSettings,
    StreamOptions,
)
from groq_provider.types.request_fields import RequestFields
from groq_provider.types.response import (
    Attempt,
    LLMResponse,
    ResponseChunk,
    Timing,
    ToolCallDelta,
    Usage,
    XGroq,
    XGroqUsage,
)
from groq_provider.types.status import (
    LatencyMetrics,
    MeasuredProfile,
    ProviderHealth,
    RateLimitInfo,
    RateLimitStatus,
    RateLimitWindow,
)
from groq_provider.wire import codec

CANARY = "sesame-open-4711"
AT = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)

CLASSES = [
    found
    for module in (activity, messages, request, response, models, status)
    for name in module.__all__
    if attrs.has(found := getattr(module, name))
]

EXAMPLES = [
    TextPart(text="a"),
    ImagePart(url="https://example.com/a.png", detail="low"),
    DocumentPart(data={"a": 1}, id="d"),
    OtherPart(data={"type": "input_audio"}),
    ToolFunction(name="f", description="d", parameters={"type": "object"}, strict=True),
    Tool.of("f"),
    ToolCall(id="call_1", name="f", arguments="{}", index=2),
    Message.user(["a", {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]),
    Document(id="d", text="t"),
    JSONSchemaFormat(name="n", schema={"type": "object"}),
    ResponseFormat(type="json_schema", json_schema={"name": "n"}),
    SearchSettings(include_domains=["example.com"], country="finland"),
    StreamOptions(include_usage=True),
    LLMRequest(messages="hi", tools=[Tool.of("f")], stop=["a"], provider_metadata={"a": [1]}, custom_id="c"),
    Usage(prompt_tokens=1, extra={"a": 1}),
    ModelUsage(model="m", usage=Usage()),
    UsageBreakdown(models=(ModelUsage(model="m", usage=Usage()),)),
    SearchResult(title="t", score=0.5),
    SearchResults(results=(SearchResult(),), images=("u",)),
    ChartElement(label="l", points=((1.0, 2.0),)),
    Chart(type="bar", elements=(ChartElement(label="l"),)),
    CodeResult(text="t", png="aGk="),
    BrowserResult(url="u", title="t"),
    ExecutedTool(index=0, type="search"),
    DocumentCitation(start_index=0, end_index=1),
    FunctionCitation(start_index=0, end_index=1),
    Annotation(type="document_citation", document_citation=DocumentCitation(start_index=0, end_index=1)),
    MCPTool(name="n", input_schema={"type": "object"}),
    MCPToolList(tools=(MCPTool(name="n"),)),
    XGroqUsage(sram_cached_tokens=1),
    XGroq(id="req_1", seed=7, usage=XGroqUsage()),
    Timing(total=1.0, wait=0.5),
    Attempt(number=1, started_at=AT),
    LLMResponse(id="chatcmpl-1", content="a", created_at=AT, raw={"a": 1}),
    ResponseChunk(content="a", tool_calls=(ToolCallDelta(index=0),)),
    ToolCallDelta(index=0, name="f"),
    PerformanceProfile(avg_first_token_latency=0.2, avg_tokens_per_second=500),
    ModelPricing(input=0.15),
    ModelLimits(rpm=30),
    ModelInfo(id="m", capabilities=(ModelCapability.VISION,), limits={"free": ModelLimits()}, shutdown_date=date(2026, 1, 2)),
    RateLimitInfo(limit_tokens=8000),
    RateLimitWindow(limit=30, remaining=-1, reset=2.0),
    RateLimitStatus(model="m", windows={"rpm": RateLimitWindow(limit=30, remaining=1, reset=2.0)}),
    LatencyMetrics(avg_total_latency=0.5, sample_count=3),
    MeasuredProfile(model="m", measured_first_token_latency=0.2, sample_count=3),
    ProviderHealth(status="healthy", last_check=AT),
]  # fmt: skip


# --- what every value class is -------------------------------------------------------------------------------------------


def test_every_value_class_has_example():
    """A new class joins the tests below."""
    assert {type(example) for example in EXAMPLES} == set(CLASSES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_values_are_frozen_and_travel(example):
    """Values cannot be changed, hold no dict, take keywords only, and survive pickling and copying."""
    cls = type(example)
    name = attrs.fields(cls)[0].name
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(example, name, None)
    assert not hasattr(example, "__dict__")
    kinds = {parameter.kind for parameter in inspect.signature(cls).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(example, protocol)) == example
    assert copy.deepcopy(example) == copy.copy(example) == attrs.evolve(example) == example
    assert ".. versionadded::" in (cls.__doc__ or "")


# --- fields of a request -------------------------------------------------------------------------------------------------

NUMBERS = {
    "temperature": (0, 2, False),
    "top_p": (0, 1, False),
    "max_completion_tokens": (1, None, True),
    "max_tokens": (1, None, True),
    "n": (1, 1, True),
    "seed": (None, None, True),
    "frequency_penalty": (-2, 2, False),
    "presence_penalty": (-2, 2, False),
    "top_logprobs": (0, 20, True),
}
BOOLEANS = [
    "parallel_tool_calls", "include_reasoning", "disable_tool_validation", "logprobs", "store", "debug",
]  # fmt: skip
WORDS = {
    "reasoning_format": ["hidden", "raw", "parsed"],
    "reasoning_effort": ["none", "default", "low", "medium", "high"],
    "service_tier": ["auto", "on_demand", "flex", "performance"],
    "citation_options": ["enabled", "disabled"],
}


def refusal(**fields):
    """Return the message with which a request, or this service's rules, refuse the fields."""
    with pytest.raises(InvalidRequestError) as caught:
        GROQ.check_fields(LLMRequest(**{"messages": "hi", **fields}))
    assert caught.value.status_code is None
    return str(caught.value)


@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_keep_their_range(field):
    """The bounds themselves are accepted; values beyond them, and values that are not numbers, are refused with field, value and range."""
    low, high, integer = NUMBERS[field]
    for bound in (low, high):
        if bound is not None:
            assert getattr(LLMRequest(messages="hi", **{field: bound}), field) == bound
    step = 1 if integer else 0.001
    noun = "an integer" if integer else "a number"
    span = (
        f"{noun} from {low} to {high}" if high is not None else f"{noun} of at least {low}" if low is not None else noun
    )
    no_numbers = [True, "1", float("nan"), float("inf"), float("-inf"), [1], *([1.0] if integer else [])]
    wrong = [low - step] if low is not None else []
    wrong += [high + step] if high is not None else []
    for value in wrong:
        assert refusal(**{field: value}) == f"{field} = {value!r}: must be {span}, or None"
    for value in no_numbers:
        assert refusal(**{field: value}) == f"{field} = {value!r}: must be {noun}, or None"


@pytest.mark.parametrize("field", BOOLEANS)
def test_truth_values_are_strict(field):
    """1 and "true" are no truth values."""
    for value in (True, False, None):
        assert getattr(LLMRequest(messages="hi", **{field: value}), field) is value
    for value in (0, 1, "true"):
        assert refusal(**{field: value}) == f"{field} = {value!r}: must be True or False, or None"


@pytest.mark.parametrize("field", WORDS)
def test_words_are_of_their_list(field):
    """A word outside the closed list is refused, and the list is named."""
    for value in (*WORDS[field], None):
        assert getattr(LLMRequest(messages="hi", **{field: value}), field) == value
    assert refusal(**{field: "hihg"}) == f"{field} = 'hihg': must be one of {', '.join(WORDS[field])}, or None"


FURTHER = " (a provider of type openai_compatible sends further ones)"

REFUSED = {
    "model empty": ({"model": ""}, "model = '': must be a non-empty string, or None"),
    "model no text": ({"model": 5}, "model must be a non-empty string, or None, not int"),
    "user no text": ({"user": 5}, "user must be a string, or None, not int"),
    "custom_id no text": ({"custom_id": 5}, "custom_id must be a string, or None, not int"),
    "stream no truth": ({"stream": None}, "stream = None: must be True or False"),
    "stop too many": ({"stop": ["a", "b", "c", "d", "e"]}, "stop has 5 strings: at most 4"),
    "stop no text": ({"stop": ["a", 5]}, "stop[1] must be a string, not int"),
    "stop bytes": ({"stop": b"a"}, "stop must be a sequence of strings, not bytes"),
    "both lengths": (
        {"max_tokens": 5, "max_completion_tokens": 6},
        "max_tokens = 5 and max_completion_tokens = 6: give one of the two",
    ),
    "both reasonings": (
        {"reasoning_format": "raw", "include_reasoning": True},
        "reasoning_format = 'raw' and include_reasoning = True: give one of the two",
    ),
    "tools no sequence": ({"tools": Tool.of("f")}, "tools must be a sequence, not Tool"),
    "tools no tool": ({"tools": [5]}, "tools[0] must be a Tool or a mapping, not int"),
    "too many tools": ({"tools": [Tool.of(f"f{i}") for i in range(129)]}, "tools has 129 tools: at most 128"),
    "tool twice": ({"tools": [Tool.of("f"), Tool.of("f")]}, "tools: the name 'f' is used more than once"),
    "tool without function": ({"tools": [{"type": "function"}]}, "tools[0].function: a tool of type 'function' needs its function"),
    "tool extra no mapping": (
        {"tools": [{"type": "mcp", "server_label": "a", "extra": 5}]},
        "tools[0]: extra must be a mapping, not int",
    ),
    "tool name": (
        {"tools": [{"function": {"name": "a b"}}]},
        "tools[0].function.name = 'a b': must be 1 to 64 of a-z A-Z 0-9 _ -",
    ),
    "tool name long": (
        {"tools": [{"function": {"name": "a" * 65}}]},
        f"tools[0].function.name = '{'a' * 65}': must be 1 to 64 of a-z A-Z 0-9 _ -",
    ),
    "tool name line end": (
        {"tools": [{"function": {"name": "a\n"}}]},
        "tools[0].function.name = 'a\\n': must be 1 to 64 of a-z A-Z 0-9 _ -",
    ),
    "tool function typo": (
        {"tools": [{"function": {"name": "a", "paramters": {}}}]},
        ("tools[0].function has no field 'paramters' (did you mean 'parameters'?); known fields: name, description, "
         "parameters, strict" + FURTHER),
    ),
    "tool function needs name": ({"tools": [{"function": {}}]}, "tools[0].function needs name"),
    "tool_choice": (
        {"tool_choice": "f"},
        "tool_choice = 'f': must be none, auto, required or {'type': 'function', 'function': {'name': …}}",
    ),
    "response_format": (
        {"response_format": {"type": "json"}},
        "response_format.type = 'json': must be text, json_object or json_schema",
    ),
    "response_format text": (
        {"response_format": "json_object"},
        "response_format must be a ResponseFormat or a mapping, not str",
    ),
    "json_schema missing": (
        {"response_format": {"type": "json_schema"}},
        "response_format: json_schema belongs to type 'json_schema', and only there",
    ),
    "json_schema too much": (
        {"response_format": {"type": "text", "json_schema": {"name": "n"}}},
        "response_format: json_schema belongs to type 'json_schema', and only there",
    ),
    "documents no sequence": ({"documents": {"text": "a"}}, "documents must be a sequence, not dict"),
    "document empty": ({"documents": [{"id": "d"}]}, "documents[0]: a document needs exactly one of text and data"),
    "document both": ({"documents": [{"text": "a", "data": {}}]}, "documents[0]: a document needs exactly one of text and data"),
    "search_settings typo": (
        {"search_settings": {"includ_domains": []}},
        ("search_settings has no field 'includ_domains' (did you mean 'include_domains'?); "
        "known fields: include_domains, exclude_domains, country, include_images"),
    ),
    "include_domains": ({"include_domains": "a"}, "include_domains must be a sequence of strings, not str"),
    "exclude_domains": ({"exclude_domains": [5]}, "exclude_domains[0] must be a string, not int"),
    "stream_options": ({"stream_options": True}, "stream_options must be a StreamOptions or a mapping, not bool"),
    "compound_custom": ({"compound_custom": []}, "compound_custom must be a mapping, not list"),
    "logit_bias key": ({"logit_bias": {5: 1}}, "logit_bias: key 5 must be a string"),
    "logit_bias value": ({"logit_bias": {"5": 0.5}}, "logit_bias['5'] must be int, not float"),
    "logit_bias truth": ({"logit_bias": {"5": True}}, "logit_bias['5'] must be a number, not bool"),
    "metadata value": ({"metadata": {"a": 5}}, "metadata['a'] must be str, not int"),
    "functions": ({"functions": "f"}, "functions must be a sequence of mappings, not str"),
    "provider_metadata": ({"provider_metadata": None}, "provider_metadata must be a mapping, not NoneType"),
    "id": ({"id": "job-1"}, "id = 'job-1': must be a UUID; put a key of your own into custom_id"),
    "huge number": ({"max_tokens": -(10**5000)}, "max_tokens = <int>: must be an integer of at least 1, or None"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_fields_get_helpful_message(case):
    """The message names the field, the value and the allowed values."""
    fields, message = REFUSED[case]
    assert refusal(**fields) == message


def test_long_values_are_cut():
    """A megabyte in the wrong field does not become a megabyte of message."""
    message = refusal(service_tier="x" * 1_000_000)
    assert message.startswith("service_tier = 'xxx")
    assert len(message) < 300


def test_unset_is_none_not_zero():
    """Fields that were not given are None; 0, 0.0 and False are kept apart from that."""
    bare = LLMRequest(messages="hi")
    ours = {"messages", "stream", "id", "provider_metadata"}
    assert {a.name for a in attrs.fields(LLMRequest) if getattr(bare, a.name) is not None} == ours
    zero = LLMRequest(messages="hi", temperature=0.0, top_p=0, seed=0, store=False, frequency_penalty=0.0)
    assert (zero.temperature, zero.top_p, zero.seed, zero.store, zero.frequency_penalty) == (0.0, 0, 0, False, 0.0)


def test_mappings_and_sequences_become_values():
    """OpenAI-style mappings are taken in every place that has a class, the service's nested forms too."""
    made = LLMRequest(
        messages=[{"role": "user", "content": "hi"}],
        stop=["a", "b"],
        stream_options={"include_usage": True},
        tools=[
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}},
            {"type": "browser_search"},
            {"type": "mcp", "server_label": "s", "server_url": "https://example.com"},
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}, "strict": True}},
        documents=[
            {"id": "1", "source": {"type": "text", "text": "t"}},
            {"source": {"type": "json", "data": {"a": 1}}},
        ],
        search_settings={"include_domains": ["a"], "include_images": False},
        include_domains=["a"],
        functions=[{"name": "f"}],
        id="6e0f0e54-9f3f-4e8d-9d3a-000000000001",
    )
    assert made == LLMRequest(
        messages=(Message.user("hi"),),
        stop=("a", "b"),
        stream_options=StreamOptions(include_usage=True),
        tools=(
            Tool.of("f", parameters={"type": "object"}, strict=True),
            Tool(type="browser_search"),
            Tool(type="mcp", extra={"server_label": "s", "server_url": "https://example.com"}),
        ),
        response_format=ResponseFormat(
            type="json_schema", json_schema=JSONSchemaFormat(name="n", schema={}, strict=True)
        ),
        documents=(Document(id="1", text="t"), Document(data={"a": 1})),
        search_settings=SearchSettings(include_domains=("a",), include_images=False),
        include_domains=("a",),
        functions=({"name": "f"},),
        id=uuid.UUID("6e0f0e54-9f3f-4e8d-9d3a-000000000001"),
    )


def test_any_mapping_will_do():
    """A read-only mapping is a mapping."""
    made = LLMRequest(
        messages=[MappingProxyType({"role": "user", "content": "hi"})], metadata=MappingProxyType({"a": "b"})
    )
    assert made.messages == (Message.user("hi"),)


@pytest.mark.parametrize(
    "choice", ["none", "auto", "required", {"type": "function", "function": {"name": "f"}}, None], ids=str
)
def test_tool_choice_takes_every_form(choice):
    """Every form of the service is taken as it is."""
    assert LLMRequest(messages="hi", tool_choice=choice).tool_choice == choice


def test_ids_are_unique_unless_given():
    """Each request has an id of its own."""
    assert LLMRequest(messages="hi").id != LLMRequest(messages="hi").id


@given(st.text() | st.integers() | st.floats() | st.none() | st.lists(st.integers()) | st.binary())
def test_checks_raise_only_our_errors(value):
    """No value of any type gets past the checks as another error: it is taken or refused in every field."""
    for field in attrs.fields(LLMRequest):
        with suppress(InvalidRequestError):  # both outcomes are right; another error fails the test
            LLMRequest(**{"messages": "hi", field.name: value})


# --- prompts and messages ------------------------------------------------------------------------------------------------

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}

PROMPTS = {
    "text": ("hi", (Message(role="user", content="hi"),)),
    "message": (Message.system("be brief"), (Message(role="system", content="be brief"),)),
    "messages": ([Message.user("a"), Message.assistant("b")], (Message.user("a"), Message.assistant("b"))),
    "tuple": ((Message.user("a"),), (Message.user("a"),)),
    "mapping": ([{"role": "developer", "content": "a"}], (Message(role="developer", content="a"),)),
    "openai answer": (
        [{
            "role": "assistant", "content": "hi", "refusal": None, "audio": None, "annotations": [], "function_call": None,
            "tool_calls": None, "reasoning": None, "something_new": None,
        }],
        (Message(role="assistant", content="hi", extra={"annotations": []}),),
    ),
    "answer with refusal and audio": (
        [{"role": "assistant", "content": "hi", "refusal": "no", "audio": {"id": "a"}, "executed_tools": [{}],
          "reasoning_content": "hm", "channel": "analysis"}],
        (Message(role="assistant", content="hi", extra={
            "refusal": "no", "audio": {"id": "a"}, "executed_tools": [{}], "reasoning_content": "hm", "channel": "analysis",
        }),),
    ),
    "reasoning is kept": (
        [{"role": "assistant", "content": "hi", "reasoning": "hm"}],
        (Message(role="assistant", content="hi", reasoning="hm"),),
    ),
    "tool calls": (
        [{"role": "assistant", "content": None, "tool_calls": [CALL]},
         {"role": "tool", "tool_call_id": "call_1", "content": "2"}],
        (Message.assistant(None, tool_calls=[ToolCall(id="call_1", name="f", arguments='{"a": 1}')]),
         Message.tool("call_1", "2")),
    ),
    "tool calls without content": (
        [{"role": "assistant", "tool_calls": [CALL]}],
        (Message.assistant(None, tool_calls=[CALL]),),
    ),
    "no tool calls": (
        [{"role": "assistant", "content": "a", "tool_calls": []}],
        (Message.assistant("a"),),
    ),
    "deprecated call": (
        [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
         {"role": "function", "name": "f", "content": "2"}],
        (Message(role="assistant", function_call={"name": "f", "arguments": "{}"}),
         Message(role="function", name="f", content="2")),
    ),
    "parts": (
        [{"role": "user", "content": [
            "a",
            {"type": "text", "text": "b"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "high"}},
            {"type": "image_url", "image_url": "https://example.com/b.png"},
            {"type": "document", "document": {"data": {"a": 1}, "id": "d"}},
        ]}],
        (Message(role="user", content=(
            TextPart(text="a"), TextPart(text="b"),
            ImagePart(url="https://example.com/a.png", detail="high"), ImagePart(url="https://example.com/b.png"),
            DocumentPart(data={"a": 1}, id="d"),
        )),),
    ),
    "empty content": ([{"role": "user", "content": ""}], (Message(role="user", content=""),)),
}  # fmt: skip


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_become_messages(case):
    """Text, messages, mappings and answers of OpenAI's library all become messages; unknown keys go to ``extra``."""
    given_, expected = PROMPTS[case]
    assert LLMRequest.of(given_).messages == LLMRequest(messages=given_).messages == expected


BAD_PROMPTS = {
    "empty text": ("", "the prompt is empty: give at least one character"),
    "no messages": ([], "messages is empty: give at least one message"),
    "bytes": (b"hi", "messages must be text, a Message or a sequence of messages, not bytes: decode bytes, wrap a mapping in a list"),
    "one mapping": ({"role": "user", "content": "a"}, "messages must be text, a Message or a sequence of messages, not dict: decode bytes, wrap a mapping in a list"),
    "None": (None, "the prompt is missing: give a text, a list of messages or an LLMRequest"),
    "generator": ((m for m in ()), "messages must be text, a Message or a sequence of messages, not generator: decode bytes, wrap a mapping in a list"),
    "texts": (["hi"], "messages[0] is a str; give Message.user(…) or a mapping with role and content"),
    "number": ([5], "messages[0] must be a Message or a mapping, not int"),
    "unknown role": ([{"role": "usr", "content": "a"}], "messages[0].role = 'usr': must be one of system, developer, user, assistant, tool, function"),
    "no role": ([{"content": "a"}], "messages[0] needs role"),
    "role None": ([{"role": None, "content": "a"}], "messages[0] needs role"),
    "unknown field": (
        [{"role": "user", "content": "a", "nam": "b"}],
        ("messages[0] has no field 'nam' (did you mean 'name'?); "
        "known fields: role, content, name, reasoning, tool_calls, tool_call_id, function_call" + FURTHER),
    ),
    "unknown field for content": ([{"role": "user", "contnt": "a"}], "messages[0].content: a user message needs content, not 'contnt'"),
    "unknown field without a near one": (
        [{"role": "user", "content": "a", "zzz": 1}],
        ("messages[0] has no field 'zzz'; "
        "known fields: role, content, name, reasoning, tool_calls, tool_call_id, function_call" + FURTHER),
    ),
    "no content": ([{"role": "user"}], "messages[0].content: a user message needs content"),
    "assistant without anything": ([{"role": "assistant", "content": None}], "messages[0].content: a assistant message needs content"),
    "tool without id": ([{"role": "tool", "content": "a"}], "messages[0].tool_call_id: a tool message needs the tool_call_id it answers"),
    "no parts": ([{"role": "user", "content": []}], "messages[0].content is an empty sequence: give at least one part, or text"),
    "content bytes": ([{"role": "user", "content": b"a"}], "messages[0].content must be text, a sequence of parts or None, not bytes"),
    "part number": ([{"role": "user", "content": [5]}], "messages[0].content[0] must be a TextPart, ImagePart, DocumentPart, str or mapping, not int"),
    "part type": ([{"role": "user", "content": [{"type": "audio"}]}], "messages[0].content[0]: type = 'audio': must be text, image_url or document"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text must be a string, not NoneType"),
    "image without url": ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0].image_url needs url"),
    "image detail": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": "best"}}]}],
        "messages[0].content[0].image_url.detail = 'best': must be one of auto, low, high, or None",
    ),
    "document data": (
        [{"role": "user", "content": [{"type": "document", "document": {"data": "x"}}]}],
        "messages[0].content[0].document.data must be a mapping, not str",
    ),
    "call without name": (
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}],
        "messages[0].tool_calls[0].name must be a string, not NoneType",
    ),
    "call with parsed arguments": (
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"a": 1}}}]}],
        "messages[0].tool_calls[0].arguments must be a string, not dict",
    ),
    "call without id": (
        [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}],
        "messages[0].tool_calls[0] needs id",
    ),
    "calls no sequence": ([{"role": "assistant", "tool_calls": CALL}], "messages[0].tool_calls must be a sequence, not dict"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_wrong_prompts_get_helpful_message(case):
    """The message names the mistake and, if a known name is close, suggests it."""
    given_, message = BAD_PROMPTS[case]
    with pytest.raises(InvalidRequestError) as caught:
        codec.request_body(LLMRequest.of(given_), model="m", stream=False)
    assert str(caught.value) == message


def test_message_helpers_make_four_roles():
    """Short forms of the most common messages."""
    assert [
        m.role for m in (Message.system("a"), Message.user("a"), Message.assistant("a"), Message.tool("i", "a"))
    ] == [
        "system",
        "user",
        "assistant",
        "tool",
    ]


# --- LLMRequest.of -------------------------------------------------------------------------------------------------------

BASE = LLMRequest(messages="hi", model="m", temperature=0.5, max_completion_tokens=100, custom_id="c")

OVERRIDES = {
    "a field": ({"temperature": 0.0}, {"temperature": 0.0}),
    "back to not sent": ({"temperature": None}, {"temperature": None}),
    "messages": ({"messages": "bye"}, {"messages": (Message.user("bye"),)}),
    "the other name of the length": ({"max_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": None}),
    "the same name of the length": ({"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
    "the other name as None": ({"max_tokens": None}, {"max_completion_tokens": 100}),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_fields_override_request_fields(case):
    """Keyword fields win, the others stay, the request itself is not changed."""
    fields, changed = OVERRIDES[case]
    before = attrs.asdict(BASE, recurse=False)
    made = LLMRequest.of(BASE, **fields)
    assert attrs.asdict(made, recurse=False) == {**before, **changed}
    assert attrs.asdict(BASE, recurse=False) == before


def test_request_without_overrides_is_kept():
    """No copy is made where nothing changes."""
    assert LLMRequest.of(BASE) is BASE


def test_new_length_name_replaces_old():
    """The old name of the length gives way to the new one: an override by either replaces the other."""
    old = LLMRequest(messages="hi", max_tokens=7)
    made = LLMRequest.of(old, max_completion_tokens=9)
    assert (made.max_tokens, made.max_completion_tokens, made.max_output_tokens) == (None, 9, 9)
    assert (old.max_output_tokens, BASE.max_output_tokens, LLMRequest(messages="a").max_output_tokens) == (7, 100, None)


@pytest.mark.parametrize("prompt", ["hi", BASE], ids=["text", "request"])
def test_unknown_fields_suggest_nearest(prompt):
    """A typing mistake is found before anything is sent."""
    with pytest.raises(InvalidRequestError) as caught:
        LLMRequest.of(prompt, temprature=1, zzz=2)
    assert str(caught.value) == (
        "no request field 'temprature' (did you mean 'temperature'?), 'zzz'; "
        "put a field that this version does not know into extra_body"
    )


def test_overrides_are_checked_like_fields():
    """An override gets no further than the field itself would."""
    with pytest.raises(InvalidRequestError, match=r"temperature = 3: must be a number from 0 to 2, or None"):
        GROQ.check_fields(LLMRequest.of(BASE, temperature=3))


def test_prompt_excludes_messages():
    """Two conversations at once are a mistake."""
    with pytest.raises(InvalidRequestError, match="the prompt and messages: give one of the two"):
        LLMRequest.of("hi", messages="bye")


# --- nothing private in a repr -------------------------------------------------------------------------------------------

PRIVATE = {
    "text": LLMRequest(messages=CANARY, stop=CANARY, metadata={"a": CANARY}, provider_metadata={"a": CANARY}),
    "stops": LLMRequest(messages="hi", stop=[CANARY]),
    "parts": Message.user([CANARY, ImagePart(url=CANARY), DocumentPart(data={"a": CANARY})]),
    "reasoning": Message(role="assistant", content=CANARY, reasoning=CANARY),
    "tool call": Message.assistant(None, tool_calls=[ToolCall(id="a", name="f", arguments=CANARY)]),
    "function call": Message(role="assistant", function_call={"name": "f", "arguments": CANARY}),
    "documents": LLMRequest(messages="hi", documents=[Document(text=CANARY), Document(data={"a": CANARY})]),
    "connector's key": LLMRequest(messages="hi", tools=[Tool(type="mcp", extra={"headers": {"Authorization": CANARY}})]),
    "compound's key": LLMRequest(
        messages="hi", compound_custom={"tools": {"wolfram_settings": {"authorization": CANARY}}}
    ),
    "answer's tool calls": LLMResponse(
        tool_calls=(ToolCall(id="a", name="f", arguments=CANARY),), function_call={"arguments": CANARY}
    ),
    "raw answer": LLMResponse(raw={"a": CANARY}, extra={"a": CANARY}),
    "chunk": ResponseChunk(tool_calls=(ToolCallDelta(index=0, arguments=CANARY),)),
    "executed tool": ExecutedTool(index=0, type="search", arguments=CANARY),
    "debug": XGroq(debug={"input_tokens": [CANARY]}),
}  # fmt: skip


@pytest.mark.parametrize("case", PRIVATE)
def test_repr_hides_texts_and_secrets(case):
    """No prompt, argument or secret is in a repr: a log made by accident holds sizes instead of texts."""
    assert CANARY not in repr(PRIVATE[case])
    assert CANARY not in str(PRIVATE[case])


def test_repr_shows_sizes():
    """A repr says how much there is: the size helps where the text may not be shown."""
    assert "content=<5 characters>" in repr(Message.user("hello"))
    assert "content=<2 items>" in repr(Message.user(["a", "b"]))
    assert "content=None" in repr(Message.assistant(None, tool_calls=[CALL]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextPart(text=CANARY.encode()),
        lambda: LLMRequest(messages=[{"role": "user", "content": CANARY.encode()}]),
        lambda: LLMRequest(messages=[CANARY]),
        lambda: LLMRequest(messages=[{"role": "user", "content": [[CANARY]]}]),
        lambda: LLMRequest(messages=CANARY, temperature=5),
        lambda: LLMRequest(messages=[{"role": "tool", "content": CANARY}]),
        lambda: LLMRequest(messages="hi", documents=[{"text": CANARY, "data": {"a": CANARY}}]),
    ],
    ids=["bytes part", "bytes content", "texts", "nested", "elsewhere", "tool", "document"],
)
def test_refusals_never_repeat_prompt(make):
    """A refusal does not repeat the prompt: an error message is logged, too."""
    with pytest.raises(InvalidRequestError) as caught:
        codec.request_body(make(), model="m", stream=False)
    assert CANARY not in str(caught.value)


# --- tool calls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("{}", {}),
        ('{"a": [1, "ä"]}', {"a": [1, "ä"]}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
    ids=["empty", "blank", "null", "no arguments", "arguments", "double key"],
)
def test_arguments_are_parsed(text, expected):
    """A JSON object is a dict; nothing and null are no arguments."""
    assert ToolCall(id="a", name="f", arguments=text).parse() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "arguments of tool call 'f' are not JSON: Expecting value"),
        ("<function=f>", "arguments of tool call 'f' are not JSON: Expecting value"),
        ("[1]", "arguments of tool call 'f' are a JSON list, not an object"),
        ('"a"', "arguments of tool call 'f' are a JSON str, not an object"),
        ("[" * 100_000, "arguments of tool call 'f' are not JSON: maximum recursion depth"),
        ('{"a": ' + "1" * 5000 + "}", "arguments of tool call 'f' are not JSON: Exceeds the limit"),
    ],
    ids=["cut", "no JSON", "array", "text", "deep", "huge number"],
)
def test_non_object_arguments_are_refused(text, message):
    """Arguments that are no object are a ValueError that names the call and where its text breaks."""
    with pytest.raises(ValueError, match=r"^arguments of tool call 'f' are") as caught:
        ToolCall(id="a", name="f", arguments=text).parse()
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


def test_call_position_keeps_equality():
    """A call read from a stream equals the same call built by hand."""
    assert ToolCall(id="a", name="f", index=3) == ToolCall(id="a", name="f")


# --- answers -------------------------------------------------------------------------------------------------------------

ANSWERS = {
    "text": (LLMResponse(content="hi", reasoning="hm"), Message.assistant("hi")),
    "empty": (LLMResponse(), Message.assistant("")),
    "tool calls": (
        LLMResponse(tool_calls=(ToolCall(id="a", name="f"),)),
        Message.assistant(None, tool_calls=[ToolCall(id="a", name="f")]),
    ),
    "text and tool calls": (
        LLMResponse(content="hi", tool_calls=(ToolCall(id="a", name="f"),)),
        Message.assistant("hi", tool_calls=[ToolCall(id="a", name="f")]),
    ),
    "deprecated call": (
        LLMResponse(function_call={"name": "f", "arguments": "{}"}),
        Message(role="assistant", function_call={"name": "f", "arguments": "{}"}),
    ),
    "answer-only fields": (
        LLMResponse(content="hi", annotations=(Annotation(type="x"),), executed_tools=(ExecutedTool(index=0, type="x"),)),
        Message.assistant("hi"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_answer_becomes_history_message(case):
    """``response.message`` fits into the next request unchanged, without the fields that the service would refuse."""
    answer, expected = ANSWERS[case]
    assert answer.message == expected
    assert LLMRequest(messages=[Message.user("a"), answer.message]).messages[1] == expected


@pytest.mark.parametrize(
    ("reason", "truncated"), [("length", True), ("stop", False), ("tool_calls", False), (None, False)], ids=str
)
def test_answer_knows_if_cut(reason, truncated):
    """Only ``length`` means that the limit cut it."""
    assert LLMResponse(finish_reason=reason).truncated is truncated


def test_processing_time_is_the_total():
    """It is another name of the same figure."""
    assert LLMResponse(timing=Timing(total=1.25)).processing_time == 1.25


def test_usage_exists_even_when_unknown():
    """A response without usage says that it does not know it; a reported one says so, too."""
    assert LLMResponse().usage.source == "unknown"
    assert Usage().source == "reported"


# --- nothing of the service is missing -----------------------------------------------------------------------------------

REQUEST_FIELDS_OF_THE_SERVICE = [
    "model", "messages", "temperature", "top_p", "max_completion_tokens", "max_tokens", "n", "stop", "seed", "stream",
    "stream_options", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_format",
    "include_reasoning", "reasoning_effort", "service_tier", "disable_tool_validation", "documents", "citation_options",
    "search_settings", "include_domains", "exclude_domains", "compound_custom", "user", "frequency_penalty",
    "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "metadata", "store", "function_call", "functions", "debug",
]  # fmt: skip

HOMES = {
    LLMResponse: [
        "id", "model", "content", "reasoning", "tool_calls", "executed_tools", "annotations", "function_call", "logprobs",
        "finish_reason", "usage", "usage_breakdown", "system_fingerprint", "x_groq", "service_tier", "mcp_list_tools",
    ],
    Usage: ["queue_time", "prompt_tokens", "prompt_time", "completion_tokens", "completion_time", "total_tokens", "total_time",
            "cached_tokens", "reasoning_tokens"],
    ToolCall: ["id", "type", "name", "arguments", "index"],
    ToolCallDelta: ["id", "type", "name", "arguments", "index"],
    ExecutedTool: ["index", "type", "arguments", "output", "name", "search_results", "code_results", "browser_results"],
    SearchResults: ["results", "images"],
    SearchResult: ["title", "url", "content", "score"],
    CodeResult: ["text", "png", "chart", "charts"],
    BrowserResult: ["url", "title", "live_view_url", "content"],
    Chart: ["type", "elements", "title", "x_label", "y_label", "x_unit", "y_unit", "x_ticks", "y_ticks", "x_tick_labels",
            "y_tick_labels", "x_scale", "y_scale"],
    ChartElement: ["label", "group", "value", "points", "angle", "radius", "min", "first_quartile", "median", "third_quartile",
                   "max", "outliers"],
    Annotation: ["type", "document_citation", "function_citation"],
    DocumentCitation: ["start_index", "end_index", "document_id"],
    FunctionCitation: ["start_index", "end_index", "tool_call_id"],
    XGroq: ["id", "seed", "usage", "debug", "error"],
    XGroqUsage: ["sram_cached_tokens", "dram_cached_tokens"],
    UsageBreakdown: ["models"],
    ModelUsage: ["model", "usage"],
    MCPToolList: ["id", "type", "server_label", "tools"],
    MCPTool: ["name", "description", "input_schema", "annotations"],
    ResponseChunk: ["content", "reasoning", "tool_calls", "finish_reason", "index", "usage"],
    SearchSettings: ["include_domains", "exclude_domains", "country", "include_images"],
    JSONSchemaFormat: ["name", "description", "schema", "strict"],
    ToolFunction: ["name", "description", "parameters", "strict"],
    Message: ["role", "content", "name", "reasoning", "tool_calls", "function_call", "tool_call_id"],
}  # fmt: skip


def test_every_service_request_field_exists():
    """Nothing the service takes needs ``extra_body``; ours beside it are never sent."""
    ours = {"id", "custom_id", "provider_metadata"}
    assert {a.name for a in attrs.fields(LLMRequest)} == {*REQUEST_FIELDS_OF_THE_SERVICE, *ours}


@pytest.mark.parametrize("cls", HOMES, ids=lambda cls: cls.__name__)
def test_every_service_field_has_home(cls):
    """Each field of the service's answers is an attribute; ``created`` is ``created_at``."""
    assert {a.name for a in attrs.fields(cls)} >= set(HOMES[cls])


def test_keyword_types_match_request_fields():
    """Type checkers know the same keyword arguments for ``generate(**fields)`` as the function accepts."""
    hints = get_type_hints(RequestFields)
    assert list(hints) == [a.name for a in attrs.fields(LLMRequest)]


def test_docstrings_describe_every_field():
    """The reference is complete and in order."""
    for cls in (LLMRequest, LLMResponse, ModelInfo, LatencyMetrics, ProviderHealth):
        described = [line.split(":")[0].strip() for line in inspect.getdoc(cls).splitlines() if line.startswith("    ")]
        names = [a.alias for a in attrs.fields(cls)]
        assert [name for name in described if name in names] == names


@pytest.mark.parametrize("name", ["LLMRequest", "LLMResponse", "Message", "ResponseChunk"])
def test_annotations_read_in_fresh_interpreter(name):
    """By documentation tools and by other converters, although rarer parts are loaded late."""
    program = f"import typing, groq_provider; print(len(typing.get_type_hints(groq_provider.{name})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 5
