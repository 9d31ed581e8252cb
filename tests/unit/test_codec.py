"""Values to JSON and back."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from types import MappingProxyType

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groq_provider.errors import InvalidRequestError, ResponseDecodeError
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
from groq_provider.types.request import (
    Document,
    JSONSchemaFormat,
    LLMRequest,
    ResponseFormat,
    SearchSettings,
    StreamOptions,
)
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
from groq_provider.types.status import RateLimitInfo
from groq_provider.wire import codec, converter, json_text
from groq_provider.wire.assemble import Assembler

# --- requests ------------------------------------------------------------------------------------------------------------

CALL = ToolCall(id="call_1", name="f", arguments='{"a":1}', index=0)

GOLDEN = {
    "the first example": (
        LLMRequest(messages="Explain LPUs", max_tokens=1024, temperature=0.7),
        '{"model":"M","messages":[{"role":"user","content":"Explain LPUs"}],"max_tokens":1024,"temperature":0.7,"stream":false}',
    ),
    "nothing set": (
        LLMRequest(messages="hi", model="another", stream=True, custom_id="c"),
        '{"model":"M","messages":[{"role":"user","content":"hi"}],"stream":false}',
    ),
    "zeros": (
        LLMRequest(messages="hi", temperature=0.0, top_p=0, seed=0, frequency_penalty=0.0, store=False, logprobs=False),
        ('{"model":"M","messages":[{"role":"user","content":"hi"}],"temperature":0.0,"top_p":0,"seed":0,"frequency_penalty":0.0,'
        '"logprobs":false,"store":false,"stream":false}'),
    ),
    "conversation": (
        LLMRequest(
            messages=[
                Message.system("be brief"),
                {"role": "user", "content": ["a", {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                                             {"type": "document", "document": {"data": {"k": 1}, "id": "d"}}], "name": "Ann"},
                Message.assistant(None, tool_calls=[CALL]),
                Message.tool("call_1", "2"),
                {"role": "assistant", "content": "b", "reasoning": "hm", "annotations": []},
            ]
        ),
        ('{"model":"M","messages":[{"role":"system","content":"be brief"},'
        '{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"u","detail":"low"}},'
        '{"type":"document","document":{"data":{"k":1},"id":"d"}}],"name":"Ann"},'
        '{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\\"a\\":1}"}}]},'
        '{"role":"tool","content":"2","tool_call_id":"call_1"},'
        '{"role":"assistant","content":"b","reasoning":"hm"}],"stream":false}'),
    ),
    "tools": (
        LLMRequest(
            messages="hi",
            tools=[Tool.of("f", "does f", {"type": "object"}, strict=False), Tool.of("g"), Tool(type="browser_search"),
                   Tool(type="mcp", extra={"server_label": "s"})],
            tool_choice={"type": "function", "function": {"name": "f"}},
            parallel_tool_calls=False,
        ),
        ('{"model":"M","messages":[{"role":"user","content":"hi"}],"tools":['
        '{"type":"function","function":{"name":"f","description":"does f","parameters":{"type":"object"},"strict":false}},'
        '{"type":"function","function":{"name":"g"}},{"type":"browser_search"},{"type":"mcp","server_label":"s"}],'
        '"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,"stream":false}'),
    ),
    "formats": (
        LLMRequest(
            messages="hi",
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}},
            stop=["a"], stream_options={"include_usage": True},
            documents=[{"id": "1", "text": "t"}, {"data": {"a": 1}}],
            search_settings={"country": "finland"},
        ),
        ('{"model":"M","messages":[{"role":"user","content":"hi"}],"stop":["a"],"stream_options":{"include_usage":true},'
        '"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"},"strict":true}},'
        '"documents":[{"id":"1","source":{"type":"text","text":"t"}},{"source":{"type":"json","data":{"a":1}}}],'
        '"search_settings":{"country":"finland"},"stream":false}'),
    ),
    "words": (
        LLMRequest(messages="hi", response_format={"type": "json_object"}, tool_choice="auto", stop="x", service_tier="flex",
                   reasoning_effort="low", function_call={"name": "f"}, functions=[{"name": "f"}]),
        ('{"model":"M","messages":[{"role":"user","content":"hi"}],"stop":"x","tool_choice":"auto",'
        '"response_format":{"type":"json_object"},"reasoning_effort":"low","service_tier":"flex",'
        '"functions":[{"name":"f"}],"function_call":{"name":"f"},"stream":false}'),
    ),
    "any mapping": (
        LLMRequest(messages="hi", metadata=MappingProxyType({"a": "b"}), logit_bias=MappingProxyType({"5": 1})),
        '{"model":"M","messages":[{"role":"user","content":"hi"}],"logit_bias":{"5":1},"metadata":{"a":"b"},"stream":false}',
    ),
    "odd characters": (
        LLMRequest(messages="ä\u2028\ud800\x00😀"),
        '{"model":"M","messages":[{"role":"user","content":"\\u00e4\\u2028\\ud800\\u0000\\ud83d\\ude00"}],"stream":false}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_request_bodies(case):
    """Byte for byte: model and messages first, then the set fields in their order, ``stream`` last; no fields of this library."""
    request, expected = GOLDEN[case]
    assert codec.request_body(request, model="M", stream=False).decode("ascii") == expected
    streamed = codec.request_body(request, model="M", stream=True).decode("ascii")
    assert streamed == expected.removesuffix("false}") + "true}"


def test_further_fields_win_over_request():
    """``provider_metadata`` of the request, over it ``extra_body`` of the call; neither is changed."""
    metadata, extra = {"top_k": 5, "seed": 1}, {"seed": 2, "model": "other", "metadata": None}
    request = LLMRequest(messages="hi", seed=0, provider_metadata=metadata)
    body = json.loads(codec.request_body(request, model="M", stream=True, extra_body=extra))
    assert body == {
        "model": "other", "messages": [{"role": "user", "content": "hi"}], "seed": 2, "stream": True, "top_k": 5, "metadata": None,
    }  # fmt: skip
    assert (metadata, extra) == ({"top_k": 5, "seed": 1}, {"seed": 2, "model": "other", "metadata": None})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "extra",
    [
        {"a": object()},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": b"x"},
        {"a": {1, 2}},
        {"a": nested(100_000)},
        {"a": 10**5000},
    ],
    ids=["object", "NaN", "infinite", "bytes", "set", "deep", "huge"],
)
def test_unencodable_value_is_refused(extra):
    """A value without a JSON form is refused: nothing that is no JSON goes out, and the message says so."""
    with pytest.raises(InvalidRequestError, match="the request cannot be written as JSON: "):
        codec.request_body(LLMRequest(messages="hi"), model="M", stream=False, extra_body=extra)


# --- JSON text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\ud800"', "\ud800"),
        (b'"\xff"', "\ufffd"),
        (b"1" * 300, int("1" * 300)),
        (b"1.5e300", 1.5e300),
        (b"1e-999", 0.0),
        (b" [null, true] ", [None, True]),
    ],
    ids=["object", "BOM", "double key", "lone surrogate", "invalid UTF-8", "large", "float", "tiny", "blanks"],
)
def test_json_is_read(body, expected):
    """JSON, and text so close to it that its meaning is certain."""
    assert json_text.loads(body) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON: Expecting value"),
        (b"<html>", "the body is not JSON: Expecting value"),
        (b'{"a": ', "the body is not JSON: Expecting value"),
        (b"{} {}", "the body is not JSON: Extra data"),
        (b"NaN", "the body is not JSON: NaN is not JSON"),
        (b"[-Infinity]", "the body is not JSON: -Infinity is not JSON"),
        (b"1e999", "the body is not JSON: a number is too large: 1e999"),
        (b"[-1e" + b"9" * 4000 + b"]", "the body is not JSON: a number is too large: -1e999"),
        (b"1" * 5000, "the body is not JSON: Exceeds the limit"),
        (b"[" * 100_000, "the body is nested too deep"),
        (b'{"a":' * 100_000, "the body is nested too deep"),
        ("{}".encode("utf-16"), "the body is not JSON: Expecting value"),
    ],
    ids=[
        "empty",
        "HTML",
        "cut",
        "two",
        "NaN",
        "infinite",
        "too large",
        "far too large",
        "digits",
        "arrays",
        "objects",
        "UTF-16",
    ],
)
def test_bad_json_is_one_error(body, message):
    """One error with a short message for everything that cannot be read; the interpreter survives."""
    with pytest.raises(ResponseDecodeError) as caught:
        json_text.loads(body)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=60) | st.text('{}[]",:0123456789.eE+-nulltrefas\\u ', max_size=60).map(str.encode))
def test_any_bytes_decode_or_fail(body):
    """Any bytes are JSON or our error; nothing else comes out of the decoder."""
    with suppress(ResponseDecodeError):
        json_text.loads(body)


# --- decode(encode(x)) == x ----------------------------------------------------------------------------------------------

TEXT = st.text(max_size=6)
NAME = st.text("abcXYZ_-09", min_size=1, max_size=6)
COUNT = st.integers(0, 10**9)
SECONDS = st.floats(0, 1e9)
PLAIN = (
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
ANY = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4
)
OBJECT = st.dictionaries(TEXT, ANY, max_size=2)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001 - the zone is added below
ZONES = st.integers(-700, 700).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIME = st.builds(lambda moment, zone: moment.replace(tzinfo=zone), MOMENTS, st.just(timezone.utc) | ZONES)


def maybe(strategy):
    return st.none() | strategy


def several(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


_ASKED = {cls.__module__ for cls in (Message, ToolCall, ResponseFormat, LLMRequest)}


def extra_of(cls):
    """Unknown fields; the service's own names of a flat class do not come among them."""
    known = {a.name for a in attrs.fields(cls)} - {"extra"}
    names = TEXT.filter(lambda name: name not in known)
    # A request is also built from mappings of the caller, where "extra" is the field itself.
    if cls.__module__ in _ASKED:
        given = st.dictionaries(names.map("x_".__add__), ANY, max_size=2)
        if cls is Message:  # where None says nothing
            return given.map(lambda found: {key: item for key, item in found.items() if item is not None} or None)
        return given
    return st.dictionaries(names | st.just("extra"), ANY, max_size=2)


def build(cls, **fields):
    if "extra" in attrs.fields_dict(cls):
        fields.setdefault("extra", extra_of(cls))
    assert set(fields) == {field.alias for field in attrs.fields(cls)}, "a field of the class is not tested"
    return st.builds(cls, **fields)


CALLS = build(ToolCall, id=TEXT, name=TEXT, arguments=TEXT, type=st.just("function"), index=st.none())
PARTS = st.one_of(
    build(TextPart, text=TEXT),
    build(ImagePart, url=NAME, detail=maybe(st.sampled_from(["auto", "low", "high"]))),
    build(DocumentPart, data=OBJECT, id=maybe(TEXT)),
    build(OtherPart, data=OBJECT.map(lambda found: {**found, "type": "input_audio"})),
)
MESSAGES = build(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
    content=TEXT | st.lists(PARTS, min_size=1, max_size=3).map(tuple),
    name=maybe(TEXT),
    reasoning=maybe(TEXT),
    tool_calls=maybe(st.lists(CALLS, min_size=1, max_size=2).map(tuple)),
    tool_call_id=st.text(min_size=1, max_size=6),
    function_call=maybe(OBJECT),
)
FUNCTIONS = build(
    ToolFunction, name=NAME, description=maybe(TEXT), parameters=maybe(OBJECT), strict=maybe(st.booleans())
)
TOOLS = build(Tool, type=st.just("function"), function=FUNCTIONS) | build(
    Tool, type=st.sampled_from(["mcp", "browser_search"]), function=st.none()
)
DOCUMENTS = build(Document, id=maybe(TEXT), text=TEXT, data=st.none()) | build(
    Document, id=maybe(TEXT), text=st.none(), data=OBJECT
)
SCHEMAS = build(JSONSchemaFormat, name=NAME, description=maybe(TEXT), schema=maybe(OBJECT), strict=maybe(st.booleans()))
FORMATS = build(ResponseFormat, type=st.sampled_from(["text", "json_object"]), json_schema=st.none()) | build(
    ResponseFormat, type=st.just("json_schema"), json_schema=SCHEMAS
)
SEARCH = build(
    SearchSettings,
    include_domains=maybe(several(TEXT)),
    exclude_domains=maybe(several(TEXT)),
    country=maybe(TEXT),
    include_images=maybe(st.booleans()),
)
FLAG = maybe(st.booleans())
REQUESTS = build(
    LLMRequest,
    messages=st.lists(MESSAGES, min_size=1, max_size=2).map(tuple),
    model=maybe(NAME),
    max_completion_tokens=maybe(st.integers(1, 9)),
    max_tokens=st.none(),
    temperature=maybe(st.floats(0, 2)),
    top_p=maybe(st.floats(0, 1) | st.integers(0, 1)),
    n=maybe(st.just(1)),
    stop=maybe(TEXT | several(TEXT)),
    seed=maybe(st.integers()),
    stream=st.booleans(),
    stream_options=maybe(build(StreamOptions, include_usage=FLAG)),
    tools=maybe(st.lists(TOOLS, max_size=2, unique_by=lambda t: t.function and t.function.name).map(tuple)),
    tool_choice=maybe(st.sampled_from(["none", "auto", "required"]) | OBJECT),
    parallel_tool_calls=FLAG,
    response_format=maybe(FORMATS),
    reasoning_format=maybe(st.sampled_from(["hidden", "raw", "parsed"])),
    include_reasoning=st.none(),
    reasoning_effort=maybe(st.sampled_from(["none", "default", "low", "medium", "high"])),
    service_tier=maybe(st.sampled_from(["auto", "on_demand", "flex", "performance"])),
    disable_tool_validation=FLAG,
    documents=maybe(several(DOCUMENTS)),
    citation_options=maybe(st.sampled_from(["enabled", "disabled"])),
    search_settings=maybe(SEARCH),
    include_domains=maybe(several(TEXT)),
    exclude_domains=maybe(several(TEXT)),
    compound_custom=maybe(OBJECT),
    user=maybe(TEXT),
    frequency_penalty=maybe(st.floats(-2, 2)),
    presence_penalty=maybe(st.floats(-2, 2)),
    logit_bias=maybe(st.dictionaries(TEXT, st.integers(), max_size=2)),
    logprobs=FLAG,
    top_logprobs=maybe(st.integers(0, 20)),
    metadata=maybe(st.dictionaries(TEXT, TEXT, max_size=2)),
    store=FLAG,
    functions=maybe(several(OBJECT)),
    function_call=maybe(TEXT | OBJECT),
    debug=FLAG,
    id=st.uuids(),
    custom_id=maybe(TEXT),
    provider_metadata=OBJECT.map(lambda found: {f"x_{key}": item for key, item in found.items()}),
)
USAGE = build(
    Usage,
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    cached_tokens=maybe(COUNT),
    reasoning_tokens=maybe(COUNT),
    queue_time=maybe(SECONDS),
    prompt_time=maybe(SECONDS),
    completion_time=maybe(SECONDS),
    total_time=maybe(SECONDS),
    source=st.sampled_from(["reported", "estimated", "unknown"]),
    extra=OBJECT | st.just({"cached_tokens": 5, "extra": 1, "source": "x"}),
)
BREAKDOWN = build(UsageBreakdown, models=maybe(several(build(ModelUsage, model=TEXT, usage=USAGE))))
SEARCH_RESULTS = build(
    SearchResults,
    results=maybe(
        several(
            build(SearchResult, title=maybe(TEXT), url=maybe(TEXT), content=maybe(TEXT), score=maybe(st.floats(0, 1)))
        )
    ),
    images=maybe(several(ANY.filter(lambda x: not isinstance(x, (list, dict))))),
)
NUMBER = maybe(st.floats(-1e6, 1e6) | st.integers(-5, 5))
ELEMENTS = build(
    ChartElement,
    label=TEXT,
    group=maybe(TEXT),
    value=NUMBER,
    points=maybe(several(several(SECONDS))),
    angle=NUMBER,
    radius=NUMBER,
    min=NUMBER,
    first_quartile=NUMBER,
    median=NUMBER,
    third_quartile=NUMBER,
    max=NUMBER,
    outliers=maybe(several(SECONDS)),
)
CHARTS = build(
    Chart,
    type=st.sampled_from(["bar", "unknown"]),
    elements=several(ELEMENTS),
    title=maybe(TEXT),
    x_label=maybe(TEXT),
    y_label=maybe(TEXT),
    x_unit=maybe(TEXT),
    y_unit=maybe(TEXT),
    x_ticks=maybe(several(PLAIN)),
    y_ticks=maybe(several(PLAIN)),
    x_tick_labels=maybe(several(TEXT)),
    y_tick_labels=maybe(several(TEXT)),
    x_scale=maybe(TEXT),
    y_scale=maybe(TEXT),
)
EXECUTED = build(
    ExecutedTool,
    index=COUNT,
    type=TEXT,
    arguments=TEXT,
    output=maybe(TEXT),
    name=maybe(TEXT),
    search_results=maybe(SEARCH_RESULTS),
    code_results=maybe(
        several(
            build(CodeResult, text=maybe(TEXT), png=maybe(TEXT), chart=maybe(CHARTS), charts=maybe(several(CHARTS)))
        )
    ),
    browser_results=maybe(
        several(build(BrowserResult, url=TEXT, title=TEXT, live_view_url=maybe(TEXT), content=maybe(TEXT)))
    ),
)
ANNOTATIONS = build(
    Annotation,
    type=TEXT,
    document_citation=maybe(build(DocumentCitation, start_index=COUNT, end_index=COUNT, document_id=maybe(TEXT))),
    function_citation=maybe(build(FunctionCitation, start_index=COUNT, end_index=COUNT, tool_call_id=maybe(TEXT))),
)
MCP = build(
    MCPToolList,
    id=maybe(TEXT),
    type=maybe(TEXT),
    server_label=maybe(TEXT),
    tools=maybe(
        several(
            build(MCPTool, name=TEXT, description=maybe(TEXT), input_schema=maybe(OBJECT), annotations=maybe(OBJECT))
        )
    ),
)
X_GROQ = build(
    XGroq,
    id=maybe(TEXT),
    seed=maybe(COUNT),
    usage=maybe(build(XGroqUsage, sram_cached_tokens=maybe(COUNT), dram_cached_tokens=maybe(COUNT))),
    error=maybe(TEXT),
    debug=maybe(OBJECT),
)
TIMINGS = build(
    Timing,
    total=SECONDS,
    wait=SECONDS,
    **{a.name: maybe(SECONDS) for a in attrs.fields(Timing)[2:]},
)
ATTEMPTS = build(
    Attempt,
    number=COUNT,
    started_at=TIME,
    status_code=maybe(COUNT),
    error=maybe(TEXT),
    wait=SECONDS,
    duration=SECONDS,
    request_id=maybe(TEXT),
    sent=FLAG,
)
RATE_LIMITS = build(
    RateLimitInfo,
    **{
        a.name: maybe(SECONDS if a.name.startswith("re") and "maining" not in a.name else COUNT)
        for a in attrs.fields(RateLimitInfo)
    },
)
RESPONSES = build(
    LLMResponse,
    **{
        name: maybe(TEXT)
        for name in ("id", "request_id", "client_request_id", "provider", "model", "reasoning", "finish_reason")
    },
    **{name: maybe(TEXT) for name in ("system_fingerprint", "service_tier")},
    content=TEXT,
    tool_calls=several(CALLS),
    usage=USAGE,
    timing=TIMINGS,
    attempts=several(ATTEMPTS),
    rate_limit=maybe(RATE_LIMITS),
    created_at=maybe(TIME),
    executed_tools=several(EXECUTED),
    annotations=several(ANNOTATIONS),
    function_call=maybe(OBJECT),
    logprobs=maybe(OBJECT),
    usage_breakdown=maybe(BREAKDOWN),
    x_groq=maybe(X_GROQ),
    mcp_list_tools=maybe(several(MCP)),
    provider_metadata=OBJECT,
    http=st.none(),
    raw=maybe(OBJECT),
    extra=OBJECT | st.just({"provider": "x", "content": 5, "extra": {}}),
)
DELTAS = build(ToolCallDelta, index=COUNT, id=maybe(TEXT), name=maybe(TEXT), arguments=TEXT, type=maybe(TEXT))
CHUNKS = build(
    ResponseChunk,
    content=TEXT,
    reasoning=maybe(TEXT),
    tool_calls=several(DELTAS),
    finish_reason=maybe(TEXT),
    index=COUNT,
    usage=maybe(USAGE),
    provider_metadata=OBJECT,
)

VALUES = {
    "request": REQUESTS, "message": MESSAGES, "part": PARTS, "tool": TOOLS, "tool call": CALLS, "document": DOCUMENTS,
    "format": FORMATS, "search settings": SEARCH, "usage": USAGE, "usage breakdown": BREAKDOWN, "executed tool": EXECUTED,
    "chart": CHARTS, "annotation": ANNOTATIONS, "MCP list": MCP, "x_groq": X_GROQ, "response": RESPONSES, "chunk": CHUNKS,
    "attempt": ATTEMPTS, "timing": TIMINGS, "rate limits": RATE_LIMITS,
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
@settings(max_examples=20)
def test_values_survive_json(kind, data):
    """A written value reads back as the same value, through real JSON text, with unknown fields at every level."""
    value = data.draw(VALUES[kind])
    text = json_text.dumps(converter.encode(value))
    assert converter.decode(type(value), json_text.loads(text)) == value


def test_unset_values_are_not_written():
    """The JSON form is as small as the value."""
    assert converter.encode(Usage()) == {}
    assert converter.encode(LLMResponse(content="a")) == {"content": "a"}
    assert converter.encode(ExecutedTool(index=0, type="x")) == {"type": "x", "index": 0}


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (XGroq, 5, "XGroq does not fit: expected an object, got int @ $.x"),
        (XGroq, [], "XGroq does not fit: expected object, got list @ $.x"),
        (XGroq, {"seed": "7"}, "XGroq does not fit: expected int, got str @ $.x.seed"),
        (XGroq, {"seed": True}, "XGroq does not fit: expected int, got bool @ $.x.seed"),
        (XGroq, {"usage": {"sram_cached_tokens": 0.5}}, "XGroq does not fit: expected int, got float @ $.x.usage"),
        (ExecutedTool, {"index": 0}, "ExecutedTool does not fit: no 'type' @ $.x"),
        (ExecutedTool, {"index": 0, "type": None}, "ExecutedTool does not fit: no 'type' @ $.x"),
        (SearchResult, {"score": "0.5"}, "SearchResult does not fit: expected float, got str @ $.x.score"),
        (SearchResult, {"score": float("inf")}, "SearchResult does not fit: expected a finite number @ $.x.score"),
        (SearchResult, {"title": 5}, "SearchResult does not fit: expected str, got int @ $.x.title"),
        (TextPart, {"type": "document", "document": {"data": {}}}, "TextPart does not fit: no 'text' @ $.x"),
        (
            Attempt,
            {"number": 1, "started_at": "soon"},
            "Attempt does not fit: expected a time, got str @ $.x.started_at",
        ),
        (LLMResponse, {"raw": []}, "LLMResponse does not fit: expected object, got list @ $.x.raw"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_misfit_names_its_place(cls, data, message):
    """What does not fit is named: nothing is coerced, a wrong type is an error that says where."""
    with pytest.raises(ResponseDecodeError) as caught:
        converter.decode(cls, data, "$.x")
    assert str(caught.value) == message


# --- answers -------------------------------------------------------------------------------------------------------------

# groq-api, section 2.
EXAMPLE = """
{
 "id":"chatcmpl-3f0c1d52-7a7e-4c61-9b06-0d3c5a0e1111",
 "object":"chat.completion",
 "created":1790000000,
 "model":"openai/gpt-oss-120b",
 "choices":[{"index":0,
   "message":{"role":"assistant","content":"Hello!","reasoning":"User greets."},
   "logprobs":null,"finish_reason":"stop"}],
 "usage":{"queue_time":0.0197,"prompt_tokens":1204,"prompt_time":0.0311,"completion_tokens":18,"completion_time":0.0402,
   "total_tokens":1222,"total_time":0.0713,
   "prompt_tokens_details":{"cached_tokens":1024},
   "completion_tokens_details":{"reasoning_tokens":9}},
 "usage_breakdown":null,
 "system_fingerprint":"fp_c82faf3ca0",
 "x_groq":{"id":"req_01k9zzzzzzzzzzzzzzzzzzzzzz","seed":581043163},
 "service_tier":"on_demand"
}
"""


def test_whole_service_example_decodes():
    """Every field of a plain answer is in its place, and there is nothing else."""
    response = LLMResponse(**codec.response_fields(json_text.loads(EXAMPLE.encode())))
    assert response == LLMResponse(
        id="chatcmpl-3f0c1d52-7a7e-4c61-9b06-0d3c5a0e1111",
        model="openai/gpt-oss-120b",
        content="Hello!",
        reasoning="User greets.",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=1204,
            completion_tokens=18,
            total_tokens=1222,
            cached_tokens=1024,
            reasoning_tokens=9,
            queue_time=0.0197,
            prompt_time=0.0311,
            completion_time=0.0402,
            total_time=0.0713,
            source="reported",
        ),
        created_at=datetime(2026, 9, 21, 14, 13, 20, tzinfo=timezone.utc),
        system_fingerprint="fp_c82faf3ca0",
        service_tier="on_demand",
        x_groq=XGroq(id="req_01k9zzzzzzzzzzzzzzzzzzzzzz", seed=581043163),
    )


def answer(message=None, *, choice=None, **more):
    """A plain answer's JSON with this message."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": message or {"role": "assistant", "content": "hi"},
                "finish_reason": "stop",
                **(choice or {}),
            }
        ],
        **more,
    }


MESSAGE_FIELDS = {
    "content absent": (
        {"role": "assistant", "tool_calls": [{"id": "call_d5wg", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"content": "", "tool_calls": (ToolCall(id="call_d5wg", name="f", arguments="{}", index=0),)},
    ),
    "content null": ({"role": "assistant", "content": None}, {"content": ""}),
    "content empty": ({"role": "assistant", "content": ""}, {"content": ""}),
    "no role": ({"content": "hi"}, {"content": "hi"}),
    "two calls without ids": (
        {"tool_calls": [{"function": {"name": "f"}}, {"id": None, "function": {"name": "g", "arguments": None}, "index": 5}]},
        {"tool_calls": (ToolCall(id="", name="f", arguments="", index=0), ToolCall(id="", name="g", arguments="", index=1))},
    ),
    "only a deprecated call": (
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"function_call": {"name": "f", "arguments": "{}"}},
    ),
    "executed tools": (
        {"role": "assistant", "executed_tools": [{
            "index": 0, "type": "search", "name": "browser.search", "arguments": "{}", "output": None,
            "search_results": {"results": [{"title": "t", "url": "u", "content": "c", "score": 1}], "images": ["i"]},
            "code_results": [{"text": "t", "png": "aGk=", "chart": {"type": "bar", "elements": [{"label": "l", "points": [[1, 2.5]]}]}}],
            "browser_results": [{"url": "u", "title": "t", "live_view_url": "v", "content": "c", "extra": 5}],
        }]},
        {"executed_tools": (ExecutedTool(
            index=0, type="search", name="browser.search", arguments="{}",
            search_results=SearchResults(results=(SearchResult(title="t", url="u", content="c", score=1.0),), images=("i",)),
            code_results=(CodeResult(text="t", png="aGk=", chart=Chart(type="bar", elements=(ChartElement(label="l", points=((1.0, 2.5),)),))),),
            browser_results=(BrowserResult(url="u", title="t", live_view_url="v", content="c", extra={"extra": 5}),),
        ),)},
    ),
    "annotations": (
        {"content": "hi", "annotations": [
            {"type": "document_citation", "document_citation": {"start_index": 0, "end_index": 2, "document_id": "1"}},
            {"type": "function_citation", "function_citation": {"start_index": 0, "end_index": 2, "tool_call_id": "a"}},
        ]},
        {"content": "hi", "annotations": (
            Annotation(type="document_citation", document_citation=DocumentCitation(start_index=0, end_index=2, document_id="1")),
            Annotation(type="function_citation", function_citation=FunctionCitation(start_index=0, end_index=2, tool_call_id="a")),
        )},
    ),
    "OpenAI's nulls": (
        {"role": "assistant", "content": "hi", "refusal": None, "audio": None, "function_call": None, "tool_calls": None,
         "annotations": [], "executed_tools": None},
        {"content": "hi"},
    ),
    "unknown": (
        {"role": "assistant", "content": "hi", "refusal": "no", "mood": {"a": 1}},
        {"content": "hi", "extra": {"message": {"refusal": "no", "mood": {"a": 1}}}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MESSAGE_FIELDS)
def test_every_message_field_decodes(case):
    """Whatever else the message holds or leaves out, each field finds its place."""
    message, expected = MESSAGE_FIELDS[case]
    assert LLMResponse(**codec.response_fields(answer(message))) == LLMResponse(
        **{"id": "chatcmpl-1", "finish_reason": "stop", **expected}
    )


ENVELOPES = {
    "finish_reason null": ({"choice": {"finish_reason": None}}, {"finish_reason": None}),
    "finish_reason unknown": ({"choice": {"finish_reason": "content_filter"}}, {"finish_reason": "content_filter"}),
    "logprobs": ({"choice": {"logprobs": {"content": []}}}, {"logprobs": {"content": []}}),
    "fields of the choice": (
        {"choice": {"content_filter_results": {"hate": 0}, "nothing": None}},
        {"extra": {"choice": {"content_filter_results": {"hate": 0}}}},
    ),
    "unknown fields everywhere": (
        {"provider": "x", "extra": 1, "choice": {"a": 2}, "x_groq": {"id": "req_1", "b": 3, "usage": {"c": 4}},
         "usage": {"prompt_tokens": 1, "d": 5, "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 6}},
         "usage_breakdown": {"models": [{"model": "m", "usage": {"e": 7}}], "f": 8}},
        {"extra": {"provider": "x", "extra": 1, "choice": {"a": 2}},
         "x_groq": XGroq(id="req_1", extra={"b": 3}, usage=XGroqUsage(extra={"c": 4})),
         "usage": Usage(prompt_tokens=1, total_tokens=1, cached_tokens=1,
                        extra={"d": 5, "prompt_tokens_details": {"audio_tokens": 6}}),
         "usage_breakdown": UsageBreakdown(models=(ModelUsage(model="m", usage=Usage(source="unknown", extra={"e": 7})),), extra={"f": 8})},
    ),
    "stub": ({"id": "stub", "system_fingerprint": None}, {"id": "stub"}),
    "usage_breakdown of 2025": ({"usage_breakdown": {"models": None}}, {"usage_breakdown": UsageBreakdown()}),
    "usage_breakdown": (
        {"usage_breakdown": {"models": [{"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}]}},
        {"usage_breakdown": UsageBreakdown(models=(ModelUsage(model="m", usage=Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)),))},
    ),
    "mcp_list_tools": (
        {"mcp_list_tools": [{"id": "i", "type": "mcp_list_tools", "server_label": "s",
                             "tools": [{"name": "n", "description": None, "input_schema": {"type": "object"}, "annotations": {"a": 1}}]}]},
        {"mcp_list_tools": (MCPToolList(id="i", type="mcp_list_tools", server_label="s",
                                        tools=(MCPTool(name="n", input_schema={"type": "object"}, annotations={"a": 1}),)),)},
    ),
    "x_groq": (
        {"x_groq": {"id": "req_1", "seed": None, "usage": {"sram_cached_tokens": 1, "dram_cached_tokens": 2}, "debug": {"input_tokens": ["a"]}}},
        {"x_groq": XGroq(id="req_1", usage=XGroqUsage(sram_cached_tokens=1, dram_cached_tokens=2), debug={"input_tokens": ["a"]})},
    ),
    "created as float": ({"created": 0.5}, {"created_at": datetime(1970, 1, 1, 0, 0, 0, 500000, tzinfo=timezone.utc)}),
    "no usage": ({"usage": None}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", ENVELOPES)
def test_every_field_around_the_message(case):
    """The envelope's fields, known and unknown, at every level."""
    more, expected = ENVELOPES[case]
    found = LLMResponse(**codec.response_fields(answer(**more)))
    assert found == LLMResponse(**{"id": "chatcmpl-1", "content": "hi", "finish_reason": "stop", **expected})


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"prompt_tokens": 2, "completion_tokens": 3}, Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5)),
        ({"prompt_tokens": 2.0, "total_tokens": 9}, Usage(prompt_tokens=2, total_tokens=9)),
        ({"total_tokens": 9, "total_time": 1}, Usage(total_tokens=9, total_time=1.0)),
        ({"total_tokens": 9, "completion_tokens_details": {}}, Usage(total_tokens=9)),
        (
            {"total_tokens": 9, "completion_tokens_details": {"audio_tokens": 1}},
            Usage(total_tokens=9, extra={"completion_tokens_details": {"audio_tokens": 1}}),
        ),
    ],
    ids=["no total", "whole floats", "whole seconds", "no details", "other details"],
)
def test_usage_of_any_completeness(data, expected):
    """A missing total is the sum, other gaps stay gaps."""
    assert codec.usage(data) == expected


WRONG = {
    "array": ([], "expected an object, got list @ $"),
    "null": (None, "expected an object, got NoneType @ $"),
    "no choices": ({"id": "a"}, "the answer has no choices @ $.choices"),
    "empty choices": (answer() | {"choices": []}, "the answer has no choices @ $.choices"),
    "choices object": (answer() | {"choices": {}}, "expected an array, got dict @ $.choices"),
    "choice text": (answer() | {"choices": ["a"]}, "expected an object, got str @ $.choices[0]"),
    "no message": (answer() | {"choices": [{}]}, "expected an object, got NoneType @ $.choices[0].message"),
    "content number": (answer({"content": 5}), "expected a string, got int @ $.choices[0].message.content"),
    "calls": (answer({"tool_calls": {}}), "expected an array, got dict @ $.choices[0].message.tool_calls"),
    "call": (answer({"tool_calls": [5]}), "expected an object, got int @ $.choices[0].message.tool_calls[0]"),
    "function": (answer({"tool_calls": [{"function": "f"}]}), "expected an object, got str @ $.choices[0].message.tool_calls[0].function"),
    "content part": (answer({"content": ["a", 5]}), "expected a string, got int @ $.choices[0].message.content[1]"),
    "arguments": (
        answer({"tool_calls": [{}, {"function": {"arguments": 5}}]}),
        "expected a string, got int @ $.choices[0].message.tool_calls[1].function.arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_name_their_place(case):
    """The message names the expected type, the actual type, and the place."""
    data, message = WRONG[case]
    with pytest.raises(ResponseDecodeError) as caught:
        codec.response_fields(data)
    assert str(caught.value) == message


# --- anything at all -----------------------------------------------------------------------------------------------------

KEYS = [
    "id", "object", "created", "model", "choices", "index", "message", "delta", "role", "content", "reasoning", "channel",
    "tool_calls", "function", "name", "arguments", "type", "finish_reason", "logprobs", "usage", "prompt_tokens", "total_tokens",
    "completion_tokens", "queue_time", "prompt_tokens_details", "cached_tokens", "completion_tokens_details", "usage_breakdown",
    "models", "x_groq", "seed", "error", "debug", "service_tier", "system_fingerprint", "mcp_list_tools", "tools", "extra",
    "executed_tools", "annotations", "function_call", "search_results", "results", "code_results", "chart", "elements", "unknown",
]  # fmt: skip
JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([10**400, 0, 1, ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
OBJECT_LIKE = st.dictionaries(st.sampled_from(KEYS), JSON_LIKE, max_size=6)


def shaped(key):
    """Answers or chunks that are almost valid, so that the tests reach their inner parts."""
    choices = st.lists(
        st.fixed_dictionaries(
            {key: OBJECT_LIKE | JSON_LIKE}, optional={"index": JSON_LIKE, "finish_reason": JSON_LIKE}
        ),
        max_size=2,
    )
    return st.fixed_dictionaries(
        {"choices": choices},
        optional={
            "usage": OBJECT_LIKE, "x_groq": OBJECT_LIKE, "usage_breakdown": OBJECT_LIKE, "created": JSON_LIKE, "id": JSON_LIKE,
            "mcp_list_tools": st.lists(OBJECT_LIKE, max_size=2), "unknown": JSON_LIKE,
        },
    )  # fmt: skip


@given(JSON_LIKE | shaped("message"))
def test_any_value_as_answer(data):
    """Any value is an answer that can be written again, or ResponseDecodeError; nothing else comes out."""
    with suppress(ResponseDecodeError):
        converter.encode(LLMResponse(**codec.response_fields(data)))


@given(JSON_LIKE | OBJECT_LIKE)
def test_any_value_gives_valid_usage(data):
    """Nothing is raised; numbers are numbers."""
    found = codec.usage(data)
    assert found is None or type(found.prompt_tokens) is type(found.total_tokens) is int


@given(st.lists(JSON_LIKE | shaped("delta"), max_size=4))
def test_any_values_as_chunks(values):
    """A stream of anything gives chunks or ResponseDecodeError, and the part received before can always be assembled."""
    assembler = Assembler()
    for data in values:
        with suppress(ResponseDecodeError):
            assembler.feed(data)
    response = LLMResponse(**assembler.response_fields())
    assert len(response.content) + len(response.reasoning or "") <= assembler.text_size()
    assert isinstance(assembler.request_id, (str, type(None)))


def test_deep_nesting_is_our_error():
    """What a decoder of another depth let through does not end the interpreter."""
    deep = nested(50_000)
    fields = codec.response_fields(answer(logprobs=deep, choice={"logprobs": deep}))
    assert isinstance(fields["logprobs"], list)
    assert codec.response_fields(answer(x_groq={"usage": deep}))["x_groq"] == XGroq()
    Assembler().feed({"choices": [], "x_groq": {"error": deep}})


def test_ids_are_uuids_in_json():
    """The id of a request is written as text."""
    request = LLMRequest(messages="hi", id="6e0f0e54-9f3f-4e8d-9d3a-000000000001")
    assert converter.encode(request)["id"] == "6e0f0e54-9f3f-4e8d-9d3a-000000000001"
    assert converter.decode(LLMRequest, converter.encode(request)).id == uuid.UUID(
        "6e0f0e54-9f3f-4e8d-9d3a-000000000001"
    )


def test_self_containing_body_is_refused():
    """A body that holds itself is refused by one clear error, and not by the end of the stack."""
    circle = {}
    circle["again"] = [circle]
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        json_text.dumps(circle)


def test_concurrent_writes_are_no_circle():
    """A value that many threads write at once is no circle: the shared encoder remembers nothing of others."""
    shared = {"parts": [{"text": "x" * 1000} for _ in range(200)]}
    expected = json_text.dumps(shared)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: json_text.dumps(shared), range(64))) == {expected}
