"""What each type of provider sends: this service's ranges are this service's, and for other servers all goes out as it was given."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import REQUEST, USAGE, Bench, answer, chunk, refusal, streamed

from groq_provider import GroqProvider, InvalidRequestError, LLMRequest, Message, OtherPart, RetryPolicy, ToolCall
from groq_provider.ratelimit.estimate import estimate_prompt_tokens
from groq_provider.types.allowed import ANYTHING, GROQ
from groq_provider.types.messages import ANSWER_ONLY
from groq_provider.wire import codec


def sent(messages="Hello", *, allowed=ANYTHING, stream=False, **fields):
    """The body as it goes out."""
    request = LLMRequest(messages=messages, **fields)
    return json.loads(codec.request_body(request, model="m", stream=stream, allowed=allowed))


def refused(messages="Hello", **fields):
    """What this service's list says."""
    with pytest.raises(InvalidRequestError) as caught:
        sent(messages, allowed=GROQ, **fields)
    return str(caught.value)


# --- ranges ------------------------------------------------------------------------------------------------------------------

BEYOND = {
    "effort": {"reasoning_effort": "xhigh"},
    "format of reasoning": {"reasoning_format": "deepseek"},
    "tier": {"service_tier": "priority"},
    "choices": {"n": 3},
    "temperature": {"temperature": 5.5},
    "top_p": {"top_p": 1.5},
    "stops": {"stop": ["a", "b", "c", "d", "e"]},
    "no tokens": {"max_tokens": 0},
    "endless": {"max_tokens": -1},
    "endless by its new name": {"max_completion_tokens": -1},
    "both lengths": {"max_tokens": 5, "max_completion_tokens": 5},
    "grammar": {"response_format": {"type": "grammar", "grammar": "root ::= x"}},
    "schema in place": {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
    "schema without name": {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
    "schema with more": {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "x": 1}}},
    "dotted tool": {"tools": [{"type": "function", "function": {"name": "files.read"}}]},
    "tool with more": {"tools": [{"type": "function", "function": {"name": "f", "response": {}}}]},
    "tool twice": {"tools": [{"type": "function", "function": {"name": "f"}}] * 2},
    "many tools": {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]},
    "choice of tool": {"tool_choice": "any"},
    "penalty": {"frequency_penalty": 3},
    "presence": {"presence_penalty": -2.5},
    "logprobs": {"top_logprobs": 50},
    "bias": {"logit_bias": {"5": 0.5}},
    "metadata": {"metadata": {"tags": ["a"]}},
    "citations": {"citation_options": "inline"},
    "stream options": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "raw and included": {"reasoning_format": "raw", "include_reasoning": True},
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_values_go_out_as_given(case):
    """To other servers; this service's provider refuses them before anything is sent, and names the field."""
    fields = BEYOND[case]
    body = sent(**fields)
    assert {name: body[name] for name in fields} == fields
    assert any(name in refused(**fields) for name in fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "hot"}, {"n": True}, {"max_tokens": 1.5}, {"reasoning_effort": 3}, {"stop": [1]}, {"tool_choice": 5},
        {"metadata": "x"}, {"logit_bias": {"5": "x"}}, {"response_format": {"type": 1}}, {"temperature": float("nan")},
        {"tools": [{"type": "function", "function": {"name": 1}}]},
    ],
    ids=str,
)  # fmt: skip
def test_types_are_checked_everywhere(fields):
    """A wrong type is a mistake for every server."""
    with pytest.raises(InvalidRequestError):
        sent(**fields)


def test_ranges_have_one_place():
    """Each entry of the list is a field of a request; no other module knows the type of a provider when it checks one."""
    assert set(GROQ.fields) <= {a.name for a in attrs.fields(LLMRequest)}
    assert (ANYTHING.fields, ANYTHING.roles, ANYTHING.message) == ({}, None, None)


@pytest.mark.parametrize("bound", [-1, 0, 7])
def test_negative_length_bounds_nothing(bound):
    """For the limiter, which reserves the longest answer asked for."""
    assert LLMRequest(messages="x", max_tokens=bound).max_output_tokens == (bound if bound >= 0 else None)
    bench = Bench(answer(), allowed=ANYTHING)
    bench.generate(LLMRequest(messages="x", max_tokens=bound))
    assert bench.limiter.asked[0]["max_output_tokens"] == (bound if bound >= 0 else None)


# --- messages ----------------------------------------------------------------------------------------------------------------

AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
PARTS = {
    "audio": AUDIO,
    "video": {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
    "file": {"type": "file", "file": {"file_id": "f1"}},
    "cached text": {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
    "image with more": {"type": "image_url", "image_url": {"url": "u"}, "cache_control": {"type": "ephemeral"}},
    "image with more inside": {"type": "image_url", "image_url": {"url": "u", "format": "image/png"}},
    "detail": {"type": "image_url", "image_url": {"url": "u", "detail": "ultra"}},
    "document with more": {"type": "document", "document": {"data": {}, "id": "1"}, "title": "t"},
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_go_out_as_given(case):
    """Of any kind and with any further keys; this service's provider says where one is that it does not know."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, PARTS[case]]}]
    assert sent(messages)["messages"] == messages
    assert refused(messages).startswith("messages[0].content[1]")


@pytest.mark.parametrize("part", [{}, {"type": 5}, {"type": "text", "text": 5, "x": 1}, {"type": ""}], ids=str)
def test_parts_need_their_types(part):
    """A part without a kind is none, and a text is text."""
    with pytest.raises(InvalidRequestError):
        sent([{"role": "user", "content": [part]}])


MESSAGES = {
    "prefix": {"role": "assistant", "content": "Once", "prefix": True},
    "cached": {"role": "user", "content": "a", "cache_control": {"type": "ephemeral"}},
    "nothing said": {"role": "assistant", "content": None},
    "role": {"role": "critic", "content": "a"},
    "role without content": {"role": "critic", "content": None},
    "tool without id": {"role": "tool", "content": "a", "tool_name": "f"},
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_go_out_as_given(case):
    """Their further keys, other roles and null content, too; this service's provider names the place."""
    messages = [{"role": "user", "content": "a"}, MESSAGES[case]]
    assert sent(messages)["messages"] == messages
    assert refused(messages).startswith("messages[1]")


def test_answers_fields_go_elsewhere_only():
    """What only answers carry goes back to other servers, and is left out for this one, as is said at ``Message``."""
    message = {"role": "assistant", "content": "a", **dict.fromkeys(ANSWER_ONLY, "x")}
    assert sent([message])["messages"] == [message]
    assert sent([message], allowed=GROQ)["messages"] == [{"role": "assistant", "content": "a"}]


CALL = {
    "id": "1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}", "strict": True},
    "extra_content": {"google": {"thought_signature": "abc"}},
}


def codec_call(call) -> ToolCall:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
        "finish_reason": "stop",
    }
    (found,) = codec.response_fields({"choices": [choice]})["tool_calls"]
    return found


@pytest.mark.parametrize("made", [dict, codec_call], ids=["mapping", "of an answer"])
def test_tool_calls_keep_further_keys(made):
    """At both of their levels, whether written by hand or taken from an answer; not for this service."""
    messages = [{"role": "assistant", "content": None, "tool_calls": [made(CALL)]}]
    assert sent(messages)["messages"] == [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    (bare,) = sent(messages, allowed=GROQ)["messages"][0]["tool_calls"]
    assert bare == {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("allowed", [GROQ, ANYTHING], ids=["this service", "another server"])
def test_calls_keep_null_content(allowed):
    """An assistant message with tool calls says that it has no text: some servers' templates ask."""
    call = ToolCall(id="1", name="f")
    (message,) = sent([Message.assistant(None, tool_calls=[call])], allowed=allowed)["messages"]
    assert message["content"] is None
    assert list(message) == ["role", "content", "tool_calls"]


@given(st.dictionaries(st.text("xyz", min_size=1), st.integers() | st.text("ab"), min_size=1))
def test_no_key_is_lost(keys):
    """Whatever the keys of a message, a part and a call are, they are in the body."""
    keys = {f"x_{key}": item for key, item in keys.items()}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", **keys}, **keys}
    part = {"type": "text", "text": "a", **keys}
    messages = [
        {"role": "user", "content": [part], **keys},
        {"role": "assistant", "content": None, "tool_calls": [call], **keys},
    ]
    assert sent(messages)["messages"] == messages
    refused(messages)


def test_parts_count_by_text():
    """The estimate of a prompt knows a text with further keys; a repr shows none of it."""
    long = "word " * 1000
    plain = LLMRequest(messages=[Message.user([{"type": "text", "text": long}])])
    cached = LLMRequest(messages=[Message.user([{"type": "text", "text": long, "cache_control": {}}])])
    assert estimate_prompt_tokens(cached) == estimate_prompt_tokens(plain)
    assert "word" not in repr(cached)
    assert isinstance(cached.messages[0].content[0], OtherPart)


# --- the providers -----------------------------------------------------------------------------------------------------------


def provider_of(kind):
    settings = {"groq": {"api_key": "gsk_example"}, "openai_compatible": {}}[kind]
    return GroqProvider(type=kind, base_url="http://127.0.0.1:9", default_model="m", max_retries=0, **settings)


def test_each_provider_has_its_list():
    """A request to this service is checked before it is sent, bulk runs included; another server's is not."""
    with provider_of("groq") as groq, provider_of("openai_compatible") as other:
        assert (groq._runtime.allowed, other._runtime.allowed) == (None, ANYTHING)
        for call in (groq.generate, groq.generate_stream, groq.generate_many):
            with pytest.raises(InvalidRequestError, match="temperature = 5: must be a number from 0 to 2") as caught:
                call(["Hello"] if call == groq.generate_many else "Hello", temperature=5)
            assert caught.value.sent is not True
        other.generate_many([], temperature=5).close()


# --- usage of streams --------------------------------------------------------------------------------------------------------

WORDS = [
    (400, "Unrecognized request argument supplied: stream_options"),
    (422, "body -> stream_options: Extra inputs are not permitted"),
    (400, "include_usage is not supported"),
]
END = (chunk("a", finish="stop", usage=USAGE), b"data: [DONE]\n\n")


def bodies(bench):
    return [json.loads(each["body"]) for each in bench.transport.sent]


def test_other_streams_ask_for_usage():
    """This service reports it anyway; plain requests say nothing of streams, but to this service that they are none."""
    bench = Bench(streamed(*END), answer(), allowed=ANYTHING)
    bench.stream().collect()
    bench.generate()
    first, second = bodies(bench)
    assert (first["stream"], first["stream_options"]) == (True, {"include_usage": True})
    assert second.keys().isdisjoint({"stream", "stream_options"})
    bench = Bench(streamed(*END), answer())
    bench.stream().collect()
    bench.generate()
    first, second = bodies(bench)
    assert (first["stream"], first.keys() & {"stream_options"}) == (True, set())
    assert (second["stream"], second.keys() & {"stream_options"}) == (False, set())


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"stream_options": {"include_usage": False}}, {}, {"include_usage": False}),
        ({"provider_metadata": {"stream_options": None}}, {}, None),
        ({}, {"extra_body": {"stream_options": {"x": 1}}}, {"x": 1}),
    ],
    ids=["field", "metadata", "extra body"],
)
def test_caller_decides_on_usage(fields, options, expected):
    """In each of the places where a body field can be given; a refusal is then the caller's."""
    bench = Bench(streamed(*END), allowed=ANYTHING)
    bench.stream(attrs.evolve(REQUEST, **fields), **options).collect()
    assert bodies(bench)[0]["stream_options"] == expected


@pytest.mark.parametrize(("status", "words"), WORDS, ids=["openai", "pydantic", "plain"])
def test_refused_usage_is_dropped_once(status, words):
    """The call goes out again without, whatever the retries, and no later call asks."""
    bench = Bench(
        refusal(status, words), streamed(*END), streamed(*END), allowed=ANYTHING, policy=RetryPolicy(max_retries=0)
    )
    response = bench.stream().collect()
    assert (response.content, len(response.attempts)) == ("a", 2)
    bench.stream().collect()
    assert ["stream_options" in body for body in bodies(bench)] == [True, False, False]
    assert [held.calls[0][0] for held in bench.limiter.granted] == ["refund", "settle", "settle"]


def test_other_refusals_are_raised():
    """What says nothing of the option is the caller's, and so is a refusal of an option that the caller gave."""
    bench = Bench(refusal(400, "no such model"), allowed=ANYTHING)
    with pytest.raises(InvalidRequestError, match="no such model"):
        bench.stream()
    asked = attrs.evolve(REQUEST, stream_options={"include_usage": True})
    bench = Bench(refusal(400, WORDS[0][1]), allowed=ANYTHING)
    with pytest.raises(InvalidRequestError, match="stream_options"):
        bench.stream(asked)
    assert len(bench.transport.sent) == 1
