"""Chunks of a stream into one answer."""

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.errors import ResponseDecodeError
from groq_provider.types.activity import (
    Annotation,
    DocumentCitation,
    ExecutedTool,
    ModelUsage,
    SearchResults,
    UsageBreakdown,
)
from groq_provider.types.messages import ToolCall
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import LLMResponse, ResponseChunk, ToolCallDelta, Usage, XGroq, XGroqUsage
from groq_provider.wire import codec, json_text
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.sse import DONE, EventDecoder, LineSplitter


def events(text):
    """The events of a body as the service writes it."""
    splitter, decoder = LineSplitter(), EventDecoder()
    return [event for line in splitter.feed(text.encode()) if (event := decoder.feed(line)) is not None]


def run(*chunks):
    """Return the assembler after these chunks, the chunks that it returned, and the response."""
    assembler = Assembler()
    given_out = [out for chunk in chunks if (out := assembler.feed(chunk)) is not None]
    return assembler, given_out, LLMResponse(**assembler.response_fields())


def run_text(text):
    return run(*(json_text.loads(event.data) for event in events(text) if event.data != DONE))


def chunk(delta=None, *, finish=None, index=0, **more):
    """One chunk with this delta."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1790000001,
        "model": "m",
        "choices": [
            {"index": index, "delta": {} if delta is None else delta, "logprobs": None, "finish_reason": finish}
        ],
        **more,
    }


def call(arguments=None, *, index=None, id=None, name=None):
    """A fragment of a tool call with only the given parts."""
    function = {key: item for key, item in {"name": name, "arguments": arguments}.items() if item is not None}
    found = {"index": index, "id": id, "type": "function" if id else None, "function": function}
    return {key: item for key, item in found.items() if item is not None}


def calls(*fragments):
    return chunk({"tool_calls": list(fragments)})


# --- the examples of the service (groq-api 3.3 to 3.6) -------------------------------------------------------------------

AT = datetime(2026, 9, 21, 14, 13, 21, tzinfo=timezone.utc)

EXAMPLE_A = """\
data: {"id":"chatcmpl-aaaa1111-0000-4000-8000-000000000001","object":"chat.completion.chunk","created":1790000001,"model":"qwen/qwen3.8-27b","system_fingerprint":"fp_00c37775b7","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_01k9aaaaaaaaaaaaaaaaaaaaaa","seed":2139001717}}

data: {"id":"chatcmpl-aaaa1111-0000-4000-8000-000000000001","object":"chat.completion.chunk","created":1790000001,"model":"qwen/qwen3.8-27b","system_fingerprint":"fp_00c37775b7","choices":[{"index":0,"delta":{"content":"Ol"},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-aaaa1111-0000-4000-8000-000000000001","object":"chat.completion.chunk","created":1790000001,"model":"qwen/qwen3.8-27b","system_fingerprint":"fp_00c37775b7","choices":[{"index":0,"delta":{"content":"á!"},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-aaaa1111-0000-4000-8000-000000000001","object":"chat.completion.chunk","created":1790000001,"model":"qwen/qwen3.8-27b","system_fingerprint":"fp_00c37775b7","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"x_groq":{"id":"req_01k9aaaaaaaaaaaaaaaaaaaaaa","usage":{"queue_time":0.19,"prompt_tokens":20,"prompt_time":0.01,"completion_tokens":4,"completion_time":0.009,"total_tokens":24,"total_time":0.019}},"usage":{"queue_time":0.19,"prompt_tokens":20,"prompt_time":0.01,"completion_tokens":4,"completion_time":0.009,"total_tokens":24,"total_time":0.019}}

data: {"id":"chatcmpl-aaaa1111-0000-4000-8000-000000000001","object":"chat.completion.chunk","created":1790000001,"model":"qwen/qwen3.8-27b","system_fingerprint":"fp_00c37775b7","choices":[],"usage":{"queue_time":0.19,"prompt_tokens":20,"prompt_time":0.01,"completion_tokens":4,"completion_time":0.009,"total_tokens":24,"total_time":0.019},"service_tier":"on_demand"}

data: [DONE]

"""

ENVELOPE_B = '"id":"chatcmpl-b","object":"chat.completion.chunk","created":1790000001,"model":"openai/gpt-oss-120b","system_fingerprint":"fp_b"'
USAGE_B = '"queue_time":0.1,"prompt_tokens":100,"prompt_time":0.02,"completion_tokens":60,"completion_time":0.2,"total_tokens":160,"total_time":0.22'
EXAMPLE_B = r"""data: {…,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_01k9bbbbbbbbbbbbbbbbbbbbbb","seed":27718886}}

data: {…,"choices":[{"index":0,"delta":{"reasoning":"Need both","channel":"analysis"},"logprobs":null,"finish_reason":null}]}

data: {…,"choices":[{"index":0,"delta":{"tool_calls":[{"id":"fc_00000000-0000-4000-8000-000000000001","type":"function","function":{"name":"add","arguments":"{\"a\":2,\"b\":3}"},"index":0}]},"logprobs":null,"finish_reason":null}]}

data: {…,"choices":[{"index":0,"delta":{"tool_calls":[{"id":"fc_00000000-0000-4000-8000-000000000002","type":"function","function":{"name":"multiply","arguments":"{\"a\":2,\"b\":3}"},"index":1}]},"logprobs":null,"finish_reason":null}]}

data: {…,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}],"x_groq":{"id":"req_01k9bbbbbbbbbbbbbbbbbbbbbb","usage":{USAGE,"completion_tokens_details":{"reasoning_tokens":23}}},"usage":{USAGE,"completion_tokens_details":{"reasoning_tokens":23}}}

data: [DONE]

""".replace("…", ENVELOPE_B).replace("USAGE", USAGE_B)

EXAMPLE_C = r"""data: {…,"choices":[{"index":0,"delta":{"reasoning":".","channel":"analysis"},"logprobs":null,"finish_reason":null}]}

event: error
data: {"error":{"message":"Tool call validation failed: tool call validation failed: parameters for tool get_item did not match schema: errors: [missing properties: 'name', additionalProperties 'foo' not allowed]","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"{\"name\": \"get_item\", \"arguments\": {\n  \"foo\": \"x\"\n}}","status_code":400}}

""".replace("…", ENVELOPE_B)

EXAMPLE_C2 = r"""data: {…,"choices":[{"index":0,"delta":{"content":"Ab"},"logprobs":null,"finish_reason":null}]}

data: {…,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_01k9cccccccccccccccccccccc","error":"over capacity"}}

""".replace("…", ENVELOPE_B)

ENVELOPE_D = '"object":"chat.completion.chunk","created":1758144046,"model":"groq/compound","system_fingerprint":null'
EXAMPLE_D = r"""data: {"id":"chatcmpl-11111111-0000-4000-8000-000000000001",…,"choices":[{"index":0,"delta":{"reasoning":"\u003cth"},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-22222222-0000-4000-8000-000000000002",…,"choices":[{"index":0,"delta":{"executed_tools":[{"index":0,"type":"search","arguments":"{\"query\":\"x\"}","output":"!","search_results":{"results":[]}}]},"logprobs":null,"finish_reason":null}]}

data: {"id":"stub",…,"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"x_groq":{"usage":{USAGE},"usage_breakdown":{"models":[{"model":"llama-3.3-70b-versatile","usage":{USAGE}}]}}}

data: [DONE]

""".replace("…", ENVELOPE_D).replace("USAGE", USAGE_B)


def test_example_a_text_and_usage():
    """Text comes in pieces with usage three times, which is that of the last place and not the sum."""
    assembler, out, response = run_text(EXAMPLE_A)
    assert out == [ResponseChunk(content="Ol"), ResponseChunk(content="á!")]
    assert response == LLMResponse(
        id="chatcmpl-aaaa1111-0000-4000-8000-000000000001",
        model="qwen/qwen3.8-27b",
        content="Olá!",
        finish_reason="stop",
        usage=Usage(
            prompt_tokens=20, completion_tokens=4, total_tokens=24, queue_time=0.19, prompt_time=0.01, completion_time=0.009,
            total_time=0.019,
        ),
        created_at=AT,
        system_fingerprint="fp_00c37775b7",
        service_tier="on_demand",
        x_groq=XGroq(id="req_01k9aaaaaaaaaaaaaaaaaaaaaa", seed=2139001717),
    )  # fmt: skip
    assert (assembler.chunks, assembler.text_size()) == (2, 4)
    assert assembler.request_id == "req_01k9aaaaaaaaaaaaaaaaaaaaaa"


USAGE_OF_B = Usage(
    prompt_tokens=100, completion_tokens=60, total_tokens=160, queue_time=0.1, prompt_time=0.02, completion_time=0.2,
    total_time=0.22,
)  # fmt: skip


def test_example_b_reasoning_and_tools():
    """Each call comes whole, in one delta; the reasoning stays apart from the text."""
    add, multiply = (f"fc_00000000-0000-4000-8000-00000000000{i}" for i in (1, 2))
    assembler, out, response = run_text(EXAMPLE_B)
    assert out == [
        ResponseChunk(reasoning="Need both"),
        ResponseChunk(
            tool_calls=(ToolCallDelta(index=0, id=add, name="add", arguments='{"a":2,"b":3}', type="function"),)
        ),
        ResponseChunk(
            tool_calls=(
                ToolCallDelta(index=1, id=multiply, name="multiply", arguments='{"a":2,"b":3}', type="function"),
            )
        ),
    ]
    assert (response.content, response.reasoning, response.finish_reason) == ("", "Need both", "tool_calls")
    assert response.tool_calls == (
        ToolCall(id=add, name="add", arguments='{"a":2,"b":3}'),
        ToolCall(id=multiply, name="multiply", arguments='{"a":2,"b":3}'),
    )
    assert [found.index for found in response.tool_calls] == [0, 1]
    assert response.usage.reasoning_tokens == 23
    assert response.x_groq == XGroq(id="req_01k9bbbbbbbbbbbbbbbbbbbbbb", seed=27718886)
    assert assembler.text_size() == len("Need both") + 2 * len('{"a":2,"b":3}')


def test_example_c_failure_keeps_partial():
    """The error has its own event name; the partial answer has no finish reason."""
    first, error = events(EXAMPLE_C)
    assert (first.name, error.name) == ("", "error")
    assert json.loads(error.data)["error"]["status_code"] == 400
    assembler, out, response = run(json_text.loads(first.data))
    assert out == [ResponseChunk(reasoning=".")]
    assert (response.reasoning, response.finish_reason, response.usage.source) == (".", None, "unknown")
    assert (assembler.usage, assembler.stop_error) == (None, None)


def test_example_c_stop_error_kept():
    """The text of ``x_groq.error`` in a usual chunk is an early stop, kept in the stream and in the answer."""
    assembler, out, response = run_text(EXAMPLE_C2)
    assert out == [ResponseChunk(content="Ab")]
    assert assembler.stop_error == "over capacity"
    assert response.x_groq == XGroq(id="req_01k9cccccccccccccccccccccc", error="over capacity")
    assert response.finish_reason is None


def test_example_d_compound():
    """No role chunk, another id in every chunk, usage by model, no request id."""
    assembler, out, response = run_text(EXAMPLE_D)
    assert out == [ResponseChunk(reasoning="<th")]
    assert response == LLMResponse(
        id="chatcmpl-11111111-0000-4000-8000-000000000001",
        model="groq/compound",
        reasoning="<th",
        finish_reason="stop",
        usage=USAGE_OF_B,
        created_at=datetime(2025, 9, 17, 21, 20, 46, tzinfo=timezone.utc),
        executed_tools=(
            ExecutedTool(index=0, type="search", arguments='{"query":"x"}', output="!", search_results=SearchResults(results=())),
        ),
        usage_breakdown=UsageBreakdown(models=(ModelUsage(model="llama-3.3-70b-versatile", usage=USAGE_OF_B),)),
        x_groq=XGroq(),
    )  # fmt: skip
    assert assembler.request_id is None


# --- usage ---------------------------------------------------------------------------------------------------------------


def report(n):
    return {"prompt_tokens": n, "completion_tokens": n, "total_tokens": 2 * n}


PLACES = {
    "x_groq": lambda n: chunk(finish="stop", x_groq={"id": "req_1", "usage": report(n)}),
    "top level": lambda n: chunk(finish="stop", usage=report(n)),
    "without choices": lambda n: {"id": "chatcmpl-1", "choices": [], "usage": report(n)},
    "choices missing": lambda n: {"id": "chatcmpl-1", "usage": report(n)},
    "with text": lambda n: chunk({"content": "a"}, usage=report(n)),
}


@pytest.mark.parametrize("last", PLACES)
@pytest.mark.parametrize("first", PLACES)
def test_last_usage_report_wins(first, last):
    """Reports repeat each other: the last one counts and nothing is added up."""
    assembler, _, response = run(chunk({"content": "a"}), PLACES[first](3), PLACES[last](5))
    assert response.usage == assembler.usage == Usage(prompt_tokens=5, completion_tokens=5, total_tokens=10)


def test_null_usage_is_no_report():
    """OpenAI's ``"usage": null`` of running chunks does not wipe one out."""
    assembler, _, _ = run(chunk(usage=report(3)), chunk({"content": "a"}, usage=None))
    assert assembler.usage == Usage(prompt_tokens=3, completion_tokens=3, total_tokens=6)


def test_cache_figures_are_not_usage():
    """``x_groq.usage`` in the form of a plain answer is not taken for the usage."""
    assembler, _, response = run(chunk(x_groq={"usage": {"sram_cached_tokens": 5}}))
    assert assembler.usage is None
    assert response.x_groq == XGroq(usage=XGroqUsage(sram_cached_tokens=5))


def test_no_usage_is_unknown():
    """An answer without a report says so."""
    _, _, response = run(chunk({"content": "a"}), chunk(finish="stop"))
    assert response.usage == Usage(source="unknown")


# --- tool calls ----------------------------------------------------------------------------------------------------------

ADD = {"id": "a", "name": "add", "arguments": '{"x":1}'}
SUB = {"id": "b", "name": "sub", "arguments": '{"y":2}'}

SEQUENCES = {
    "whole": ([calls(call('{"x":1}', index=0, id="a", name="add"))], [ADD]),
    "fragments": (
        [calls(call("", index=0, id="a", name="add")), calls(call('{"x"', index=0)), calls(call(":1}", index=0))],
        [ADD],
    ),
    "fused in one chunk": (
        [calls(call('{"x"', index=0, id="a", name="add"), call(":1}", index=0), call('{"y":2}', index=1, id="b", name="sub"))],
        [ADD, SUB],
    ),
    "interleaved": (
        [
            calls(call('{"x"', index=0, id="a", name="add"), call('{"y"', index=1, id="b", name="sub")),
            calls(call(":2}", index=1)), calls(call(":1}", index=0)),
        ],
        [ADD, SUB],
    ),
    "second before first": (
        [calls(call('{"y":2}', index=1, id="b", name="sub")), calls(call('{"x":1}', index=0, id="a", name="add"))],
        [ADD, SUB],
    ),
    "id and name after the arguments": (
        [calls(call('{"x"', index=0)), calls(call(":1}", index=0, id="a", name="add"))],
        [ADD],
    ),
    "id and name repeated": (
        [calls(call('{"x"', index=0, id="a", name="add")), calls(call(":1}", index=0, id="a", name="add"))],
        [ADD],
    ),
    "gap in the numbers": (
        [calls(call('{"x":1}', index=0, id="a", name="add")), calls(call('{"y":2}', index=7, id="b", name="sub"))],
        [ADD, SUB],
    ),
    "no index, whole": (
        [calls(call('{"x":1}', id="a", name="add")), calls(call('{"y":2}', id="b", name="sub"))],
        [ADD, SUB],
    ),
    "no index, both at once": (
        [calls(call('{"x":1}', id="a", name="add"), call('{"y":2}', id="b", name="sub"))],
        [ADD, SUB],
    ),
    "no index, by id": (
        [calls(call('{"x"', id="a", name="add")), calls(call('{"y"', id="b", name="sub")), calls(call(":1}", id="a")),
         calls(call(":2}", id="b"))],
        [ADD, SUB],
    ),
    "no index and no id belongs to the newest": (
        [calls(call('{"x"', id="a", name="add")), calls(call(":1}")), calls(call('{"y"', id="b", name="sub")), calls(call(":2}"))],
        [ADD, SUB],
    ),
    "no index, no id, nothing before": ([calls(call('{"x":1}'))], [{"id": "", "name": "", "arguments": '{"x":1}'}]),
    "negative index is none": (
        [calls(call('{"x"', index=-1, id="a", name="add")), calls(call(":1}", index=-1))],
        [ADD],
    ),
    "null fields": (
        [calls({"index": 0, "id": "a", "type": None, "function": {"name": "add", "arguments": None}}),
         calls({"index": 0, "id": None, "function": None}),
         calls({"index": 0, "function": {"name": None, "arguments": '{"x":1}'}})],
        [ADD],
    ),
    "broken arguments": (
        [calls(call("{not JSON", index=0, id="a", name="add"))],
        [{"id": "a", "name": "add", "arguments": "{not JSON"}],
    ),
    "no arguments": ([calls(call(index=0, id="a", name="add"))], [{"id": "a", "name": "add", "arguments": ""}]),
}  # fmt: skip


@pytest.mark.parametrize("case", SEQUENCES)
def test_tool_calls_are_put_together(case):
    """By index, else by id, else with the newest; in the order of their numbers, arguments as the model wrote them."""
    chunks, expected = SEQUENCES[case]
    _, out, response = run(*chunks)
    assert [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in response.tool_calls] == expected
    assert [delta.index for given_ in out for delta in given_.tool_calls if delta.index < 0] == []
    # A reader who appends by index gets the same.
    own = {}
    for delta in (delta for given_ in out for delta in given_.tool_calls):
        own[delta.index] = own.get(delta.index, "") + delta.arguments
    assert [own[index] for index in sorted(own)] == [c.arguments for c in response.tool_calls]


def test_broken_arguments_refused_when_parsed():
    """The text is the model's; whether it is JSON shows in ``parse()``."""
    _, _, response = run(*SEQUENCES["broken arguments"][0])
    with pytest.raises(ValueError, match="arguments of tool call 'add' are not JSON"):
        response.tool_calls[0].parse()


@given(st.lists(st.text("ab{}", min_size=1, max_size=5), min_size=1, max_size=4), st.data())
def test_call_order_keeps_answer_same(texts, data):
    """Fragments of different calls may come in any order, in any grouping; those of one call stay in theirs."""
    queues = {i: list(text) for i, text in enumerate(texts)}
    fragments = []
    while any(queues.values()):
        index = data.draw(st.sampled_from([i for i, queue in queues.items() if queue]))
        fragments.append(call(queues[index].pop(0), index=index, id=f"c{index}", name="f"))
    size = data.draw(st.integers(1, 4))
    _, _, response = run(*(calls(*fragments[i : i + size]) for i in range(0, len(fragments), size)))
    assert [c.arguments for c in response.tool_calls] == texts


def test_deprecated_call_is_assembled():
    """``function_call`` fragments: the name once, the arguments appended."""
    _, out, response = run(
        chunk({"function_call": {"name": "f", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"x"'}}),
        chunk({"function_call": {"name": None, "arguments": ":1}"}}),
        chunk(finish="function_call"),
    )
    assert out == []
    assert response.function_call == {"name": "f", "arguments": '{"x":1}'}
    assert response.finish_reason == "function_call"


# --- everything else -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", ["", None], ids=["empty", "null"])
def test_running_chunks_lack_finish_reason(running):
    """Some servers send "" where the service sends null; neither ends an answer nor wipes out its reason."""
    assembler, _, _ = run(chunk({"content": "a"}, finish=running))
    assert assembler.finish_reason is None
    assembler, _, response = run(chunk({"content": "a"}, finish="stop"), chunk(finish=running))
    assert assembler.finish_reason == response.finish_reason == "stop"


@pytest.mark.parametrize(
    "quiet",
    [
        chunk(),
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": None}),
        chunk({"reasoning": "", "channel": "analysis"}),
        chunk({"tool_calls": []}),
        chunk({"tool_calls": None}),
        chunk(finish="stop"),
        {"choices": []},
        {"choices": None},
        {},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0}]},
        {"choices": [{}]},
    ],
    ids=lambda quiet: json.dumps(quiet.get("choices")),
)
def test_empty_delta_is_not_emitted(quiet):
    """Only content, reasoning and tool calls are chunks for the reader."""
    assembler, out, response = run(quiet)
    assert (out, assembler.chunks, response.content, response.reasoning) == ([], 0, "", None)


def test_text_and_reasoning_joined_apart():
    """Each in the order of arrival; a chunk may have both."""
    assembler, out, response = run(
        chunk({"reasoning": "hm"}), chunk({"reasoning": "m", "content": "He"}), chunk({"content": "llo"})
    )
    assert (response.content, response.reasoning) == ("Hello", "hmm")
    assert "".join(given_.content for given_ in out) == "Hello"
    assert assembler.chunks == 3


def test_other_answers_stay_separate():
    """With several answers in a stream the response is the first; the others are handed out with their index."""
    assembler, out, response = run(
        chunk({"content": "a", "tool_calls": [call("{}", index=0, id="x", name="f")]}),
        chunk({"content": "b", "reasoning": "r", "tool_calls": [call("[]", index=0, id="y", name="g")],
               "annotations": [{"type": "t"}], "unknown": 1}, index=1, finish="length"),
        chunk({"content": "c"}, finish="stop"),
    )  # fmt: skip
    assert [(given_.index, given_.content) for given_ in out] == [(0, "a"), (1, "b"), (0, "c")]
    assert (response.content, response.reasoning, response.finish_reason) == ("ac", None, "stop")
    assert response.tool_calls == (ToolCall(id="x", name="f", arguments="{}"),)
    assert (response.annotations, response.extra) == ((), {})
    assert assembler.text_size() == len("ac{}br[]")  # all of them were made


def test_several_answers_in_one_chunk():
    """The chunk handed out is that of the first answer, wherever it stands."""
    both = chunk()
    both["choices"] = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]
    _, out, response = run(both)
    assert out == [ResponseChunk(content="a")]
    assert response.content == "a"


def test_several_pieces_in_one_chunk():
    """A chunk with several pieces of one choice: the chunks joined equal the response."""
    twice = chunk()
    twice["choices"] = [
        {"index": 0, "delta": {"content": "a", "reasoning": "r"}},
        {"index": 1, "delta": {"content": "other"}},
        {"delta": {"content": "b", "tool_calls": [{"index": 0, "id": "1", "function": {"name": "f"}}]}},
    ]
    _, out, response = run(twice)
    assert [(one.content, one.reasoning, len(one.tool_calls)) for one in out] == [("ab", "r", 1)]
    assert response.content == "ab"


def test_rare_parts_collect_over_chunks():
    """Executed tools and annotations may come one by one."""
    _, _, response = run(
        chunk({"executed_tools": [{"index": 0, "type": "search"}]}),
        chunk({"executed_tools": [{"index": 1, "type": "python"}], "annotations": [{"type": "a"}]}),
        chunk(
            {"annotations": [{"type": "document_citation", "document_citation": {"start_index": 0, "end_index": 1}}]}
        ),
    )
    assert response.executed_tools == (ExecutedTool(index=0, type="search"), ExecutedTool(index=1, type="python"))
    assert response.annotations == (
        Annotation(type="a"),
        Annotation(type="document_citation", document_citation=DocumentCitation(start_index=0, end_index=1)),
    )


def test_unknown_fields_are_kept():
    """At the top, in ``x_groq`` and in the delta; of the same name the newest, and in no one's way."""
    _, out, response = run(
        chunk({"content": "a", "mood": 1}, provider="x", x_groq={"id": "req_1", "color": "red"}),
        chunk({"content": "b", "mood": 2, "refusal": None}, region="fra"),
    )
    assert [given_.content for given_ in out] == ["a", "b"]
    assert response.extra == {"provider": "x", "region": "fra", "message": {"mood": 2}}
    assert response.x_groq == XGroq(id="req_1", extra={"color": "red"})


def test_x_groq_grows_over_stream():
    """Later parts add to earlier ones; null does not wipe anything out."""
    _, _, response = run(
        chunk(x_groq={"id": "req_1", "seed": 5}),
        chunk(x_groq={"id": "req_1", "seed": None, "debug": {"a": 1}}),
        chunk(x_groq=None),
    )
    assert response.x_groq == XGroq(id="req_1", seed=5, debug={"a": 1})


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("over capacity", "over capacity"),
        ({"message": "m"}, '{"message": "m"}'),
        ([1], "[1]"),
        (5, "5"),
        ("", None),
        (None, None),
    ],
    ids=repr,
)
def test_early_stop_of_any_form(error, text):
    """The service writes text; anything else is shown as it is, and nothing is no stop."""
    assembler, _, response = run(chunk(x_groq={"error": error}))
    assert assembler.stop_error == text
    assert (response.x_groq.error or None) == text


def test_first_chunk_names_answer():
    """Id and creation time are the first; model and tier may follow."""
    _, _, response = run(
        {"id": "a", "created": 1, "choices": []},
        {"id": "b", "created": 9, "choices": [], "model": "m", "service_tier": "flex", "system_fingerprint": "fp_1"},
    )
    assert (response.id, response.created_at.timestamp(), response.model) == ("a", 1, "m")
    assert (response.service_tier, response.system_fingerprint) == ("flex", "fp_1")


WRONG = {
    "array": ([], "expected an object, got list @ $"),
    "null": (None, "expected an object, got NoneType @ $"),
    "choices object": ({"choices": {"a": 1}}, "expected an array, got dict @ $.choices"),
    "choices empty object": ({"choices": {}}, "expected an array, got dict @ $.choices"),
    "choice": ({"choices": [5]}, "expected an object, got int @ $.choices[0]"),
    "second choice": ({"choices": [{}, 5]}, "expected an object, got int @ $.choices[1]"),
    "delta": ({"choices": [{"delta": "a"}]}, "expected an object, got str @ $.choices[0].delta"),
    "delta empty array": ({"choices": [{"delta": []}]}, "expected an object, got list @ $.choices[0].delta"),
    "content": (chunk({"content": 5}), "expected a string, got int @ $.choices[0].delta.content"),
    "index": (chunk({"content": "a"}, index="0"), "expected an integer, got str @ $.choices[0].index"),
    "index text": (chunk({"content": "a"}, index="1"), "expected an integer, got str @ $.choices[0].index"),
    "index truth": (chunk({"content": "a"}, index=True), "expected an integer, got bool @ $.choices[0].index"),
    "finish_reason": (chunk(finish=["stop"]), "expected a string, got list @ $.choices[0].finish_reason"),
    "calls": (chunk({"tool_calls": {}}), "expected an array, got dict @ $.choices[0].delta.tool_calls"),
    "call index": (calls({"index": "0"}), "expected an integer, got str @ $.choices[0].delta.tool_calls[0].index"),
    "call arguments": (
        calls({"index": 0, "function": {"arguments": 5}}),
        "expected a string, got int @ $.choices[0].delta.tool_calls[0].function.arguments",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_types_leave_partial_answer(case):
    """The message names the place, and the part received before can still be assembled."""
    data, message = WRONG[case]
    assembler = Assembler()
    assembler.feed({"choices": [{"delta": {"content": "before"}}]})
    with pytest.raises(ResponseDecodeError) as caught:
        assembler.feed(data)
    assert str(caught.value) == message
    assert LLMResponse(**assembler.response_fields()).content == "before"


def test_empty_stream_gives_empty_answer():
    """Before the first chunk the partial answer is empty."""
    assembler = Assembler()
    assert LLMResponse(**assembler.response_fields()) == LLMResponse()
    assert (assembler.request_id, assembler.text_size(), assembler.chunks) == (None, 0, 0)


def test_unknown_fields_keep_their_place():
    """Unknown fields of a choice, a tool call, its function and the delta stay in place, also beside text."""
    assembler = Assembler()
    for delta, more in (
        ({"role": "assistant", "content": ""}, {}),
        ({"content": "a"}, {"new": 1}),
        ({"reasoning": "b", "channel": "analysis"}, {}),
        (
            {
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "c",
                        "type": "function",
                        "z": 2,
                        "function": {"name": "f", "arguments": "{}", "y": 3},
                    }
                ]
            },
            {},
        ),
    ):
        assembler.feed(
            {"id": "x", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}
        )
    response = LLMResponse(**assembler.response_fields())
    assert response.extra == {"choice": {"new": 1}, "message": {"channel": "analysis"}}
    assert response.tool_calls[0].extra == {"z": 2, "function": {"y": 3}}
    assert response.message.tool_calls[0].extra == {"z": 2, "function": {"y": 3}}
    assert b'"z"' not in codec.request_body(LLMRequest(messages=[response.message]), model="m", stream=False)


# --- the short way for chunks that repeat all but their text -----------------------------------------------------------------

FIRST = chunk({"role": "assistant", "content": ""})


def encoded(text, *, compact=True, escaped=False, **more):
    separators = (",", ":") if compact else (", ", ": ")
    return json.dumps(chunk({"content": text}, **more), separators=separators, ensure_ascii=escaped).encode()


def taught(*, compact=True, escaped=False):
    """An assembler that has seen the envelope and one plain chunk."""
    assembler = Assembler()
    assembler.feed(FIRST)
    source = encoded("Hello", compact=compact, escaped=escaped)
    assembler.feed(json_text.loads(source), source)
    return assembler


@pytest.mark.parametrize("compact", [True, False], ids=["compact", "spaced"])
def test_repeated_chunk_is_not_decoded(compact):
    """The usual case is the short way, whatever its white space."""
    assembler = taught(compact=compact)
    for text in (" world", "!", " ünd 東京 🙂", "x" * 5000):
        assert assembler.reuse_template(encoded(text, compact=compact)) == ResponseChunk(content=text)
    assert assembler.chunks == 5
    assert assembler.response_fields()["content"] == "Hello world! ünd 東京 🙂" + "x" * 5000


HEAD, TAIL = encoded("|").split(b"|")


@pytest.mark.parametrize(
    "data",
    {
        "an escape": HEAD + rb"a\nb" + TAIL,
        "a bare quote": HEAD + b'a","role":"tool' + TAIL,
        "a control character": HEAD + b"a\nb" + TAIL,
        "another control character": HEAD + b"a\x00b" + TAIL,
        "no text": HEAD + TAIL,
        "no UTF-8": HEAD + b"\xff" + TAIL,
        "head and tail overlap": HEAD + TAIL[1:],
        "another id": encoded("a", id="chatcmpl-2"),
        "more to say": encoded("a", usage={"prompt_tokens": 1}),
        "the finish": encoded("a", finish="stop"),
        "another index": encoded("a", index=1),
        "cut": encoded("a")[:-1],
        "longer": encoded("a") + b" ",
    }.items(),
    ids=lambda item: item[0],
)
def test_new_chunk_form_is_decoded(data):
    """The short way takes plain text and nothing else, and changes nothing when it does not take a chunk."""
    assembler = taught()
    assert assembler.reuse_template(data[1]) is None
    assert assembler.chunks == 1
    assert assembler.response_fields()["content"] == "Hello"


@pytest.mark.parametrize(
    "delta",
    [
        '"content":"Hello","content":"Hello"',
        '"content": "Hello","content":"Hello"',
        '"content":"Hello","c\\u006fntent":"Hello"',
    ],
    ids=["twice", "twice, spaced", "twice, escaped"],
)
def test_duplicate_key_teaches_no_pattern(delta):
    """The last occurrence counts: the bytes around the first must not become the template."""
    source = encoded("Hello").replace(b'"content":"Hello"', delta.encode())
    assembler = Assembler()
    assembler.feed(FIRST)
    assert assembler.feed(json_text.loads(source), source) == ResponseChunk(content="Hello")
    for other in (source.replace(b"Hello", b"other", 1), source.replace(b"Hello", b"other")):
        assert assembler.reuse_template(other) is None


@given(
    texts=st.lists(st.text(min_size=1), max_size=20),
    compact=st.booleans(),
    escaped=st.booleans(),
)
def test_short_path_equals_decoding(texts, compact, escaped):
    """The short way gives what decoding gives, for any text, however written."""
    sources = []
    for text in texts:
        try:
            sources.append(encoded(text, compact=compact, escaped=escaped))
        except UnicodeEncodeError:  # a lone surrogate, which has no UTF-8
            sources.append(encoded(text, compact=compact, escaped=True))
    short, long = taught(compact=compact, escaped=escaped), taught(compact=compact, escaped=escaped)
    for source in sources:
        decoded = json_text.loads(source)
        assert (short.reuse_template(source) or short.feed(decoded, source)) == long.feed(decoded)
    assert short.response_fields() == long.response_fields()


def test_unknown_namesake_breaks_nothing():
    """Found by the fuzz target: beside the choices a list called "choice", and in the choice a field of no known name."""
    odd = chunk({"content": "a"}, choice=[1])
    odd["choices"][0]["new"] = 2
    _, out, answer = run(odd)
    assert [each.content for each in out] == ["a"]
    assert answer.extra["choice"] == {"new": 2}


# --- the first chunk, whose envelope is read when there is time ------------------------------------------------------------------


def test_first_text_precedes_envelope(monkeypatch):
    """The first text goes out before the usual envelope is read; it is read at the latest when asked for."""
    read = []
    original = Assembler._read_envelope
    monkeypatch.setattr(Assembler, "_read_envelope", lambda self, data: (read.append(data), original(self, data))[1])
    assembler = Assembler()
    first = chunk({"role": "assistant", "content": ""}, x_groq={"id": "req_1", "seed": 7})
    assert assembler.feed(first) is None
    assert assembler.feed(chunk({"content": "Hi"})).content == "Hi"
    assert read == []
    assert assembler.request_id == "req_1"
    assert read == [first]
    answer = LLMResponse(**assembler.response_fields())
    assert (answer.id, answer.model, answer.x_groq) == ("chatcmpl-1", "m", XGroq(id="req_1", seed=7))
    assert answer.created_at == datetime.fromtimestamp(1790000001, timezone.utc)


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(chunk({"content": "!"}), id="one like it"),
        pytest.param(chunk(finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 2}), id="the last"),
        pytest.param({"id": "other", "choices": [], "service_tier": "flex"}, id="one with an id of its own"),
    ],
)
def test_first_chunk_envelope_wins(later):
    """The envelope of the first chunk wins whenever it is read: the order of arrival counts, not that of reading."""
    assembler, _, answer = run(chunk({"role": "assistant"}), chunk({"content": "Hi"}), later)
    assert answer.id == "chatcmpl-1"
    assert assembler.response_fields()["created_at"] == datetime.fromtimestamp(1790000001, timezone.utc)


def test_first_chunk_stop_error_seen():
    """A stop error in the first chunk is seen at once and ends the stream."""
    assembler = Assembler()
    assembler.feed(chunk({"role": "assistant"}, x_groq={"id": "req_1", "error": "over capacity"}))
    assert assembler.stop_error == "over capacity"
