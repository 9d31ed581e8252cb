"""The emulator, seen by clients it was not written for: http.client, raw sockets, the groq and openai SDKs."""

import http.client
import itertools
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.certificates import new_authority

from groq_provider.testing import Emulator, FakeClock, Fault, Gate, Reply
from groq_provider.testing._limits import ModelLimits, go_duration
from groq_provider.testing._schema import example

ROOT = Path(__file__).resolve().parents[2]
CHAT = "/openai/v1/chat/completions"
MODELS = "/openai/v1/models"
OSS = "openai/gpt-oss-120b"
QWEN = "qwen/qwen3.8-27b"
KEY = "Bearer gsk_test"


@contextmanager
def connect(emulator, timeout=10):
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
    try:
        yield connection
    finally:
        connection.close()


def chat(text="hi", **fields):
    return {"model": OSS, "messages": [{"role": "user", "content": text}], **fields}


def send(connection, body, method="POST", path=CHAT, key=KEY):
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body)
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = key
    connection.request(method, path, data, headers)
    return connection.getresponse()


def call(emulator, body=None, method="POST", path=CHAT, key=KEY):
    """Send one request on a connection of its own; return status, headers and body (parsed if it is JSON)."""
    with connect(emulator) as connection:
        response = send(connection, body, method, path, key)
        data = response.read()
        if response.headers.get("content-type") == "application/json":
            data = json.loads(data)
        return response.status, response.headers, data


def content(emulator, body):
    status, _, data = call(emulator, body)
    assert status == 200, data
    return data["choices"][0]["message"]["content"]


def events(data):
    """The ``data:`` values of an event stream, parsed but for ``[DONE]``."""
    found = [block.removeprefix(b"data: ") for block in data.split(b"\n\n") if block.startswith(b"data: ")]
    return [value if value == b"[DONE]" else json.loads(value) for value in found]


def stream(emulator, **fields):
    status, headers, data = call(emulator, chat(stream=True, **fields))
    assert status == 200, data
    assert headers["content-type"] == "text/event-stream"
    return events(data)


def raw(emulator, body, size=None):
    """Send one request on a raw socket; return all bytes of the answer and the error that ended it."""
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    data = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\ncontent-length: {len(data)}\r\n"
    head = f"{head}connection: close\r\n\r\n".encode()
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(head + data)
        try:
            while size is None or len(received) < size:
                piece = sock.recv(65536)
                if not piece:
                    return received, None
                received += piece
        except OSError as error:
            return received, type(error)
    return received, None


# Plain answers


def test_answer_quotes_the_question(emulator):
    """The content holds the last user text, so that tests can detect mixed-up answers."""
    assert content(emulator, chat("question 17")).startswith('You said: "question 17". ')
    assert content(emulator, chat("tag17")).startswith("tag17: ")


def test_same_request_same_answer(emulator):
    """Content depends on the request alone; ids do not repeat."""
    first, second = (call(emulator, chat(seed=1))[2] for _ in range(2))
    assert first["choices"] == second["choices"]
    assert first["id"] != second["id"]
    assert content(emulator, chat(seed=2)) != first["choices"][0]["message"]["content"]


def test_plain_answer_has_service_shape(emulator):
    """All keys, ids and headers of a plain answer are there."""
    status, headers, data = call(emulator, chat(seed=5))
    assert status == 200
    keys = "id object created model choices usage usage_breakdown system_fingerprint x_groq service_tier"
    assert " ".join(data) == keys
    assert re.fullmatch(r"chatcmpl-[0-9a-f-]{36}", data["id"])
    assert re.fullmatch(r"req_[0-9a-hjkmnp-tv-z]{26}", data["x_groq"]["id"])
    assert re.fullmatch(r"fp_[0-9a-f]{10}", data["system_fingerprint"])
    assert headers["x-request-id"] == data["x_groq"]["id"]
    assert headers["x-groq-region"]
    assert headers["set-cookie"].startswith("__cf_bm=")
    assert data["x_groq"]["seed"] == 5
    assert data["service_tier"] == "on_demand"
    usage = data["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["total_time"] == pytest.approx(usage["prompt_time"] + usage["completion_time"])
    assert usage["completion_tokens_details"]["reasoning_tokens"] > 0
    assert "prompt_tokens_details" not in usage
    assert {name for name in headers if name.startswith("x-ratelimit-")} == {
        f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
    }


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_answer_cut_at_maximum(emulator, name):
    """A small budget, reasoning included, ends with ``length``."""
    data = call(emulator, chat(**{name: 12}))[2]
    assert data["choices"][0]["finish_reason"] == "length"
    assert data["usage"]["completion_tokens"] == 12


def test_stop_text_is_not_returned(emulator):
    """The answer ends before the stop text."""
    assert content(emulator, chat("one two three", stop=" two")) == 'You said: "one'


def test_repeated_prompt_reports_cached_tokens(emulator):
    """A long prompt seen before counts as cached, in steps of 128."""
    first, second = (call(emulator, chat("word " * 2000))[2]["usage"] for _ in range(2))
    assert "prompt_tokens_details" not in first
    assert second["prompt_tokens_details"] == {"cached_tokens": first["prompt_tokens"] // 128 * 128}


@pytest.mark.parametrize(
    ("fields", "visible"),
    [
        ({"model": OSS}, True),
        ({"model": OSS, "include_reasoning": False}, False),
        ({"model": OSS, "reasoning_format": "hidden"}, False),
        ({"model": QWEN, "reasoning_format": "parsed"}, True),
        ({"model": QWEN}, False),
        ({"model": QWEN, "reasoning_effort": "none"}, False),
    ],
    ids=["oss", "oss-excluded", "oss-hidden", "qwen-parsed", "qwen-raw", "qwen-none"],
)
def test_reasoning_is_shown_as_asked(emulator, fields, visible):
    """The answer has ``reasoning`` if the model and the request ask for it."""
    message = call(emulator, {**chat(), **fields})[2]["choices"][0]["message"]
    assert ("reasoning" in message) == visible
    assert message["content"].startswith("<think>") == (fields == {"model": QWEN})


def test_json_is_escaped_like_gos(emulator):
    """``<`` and ``>`` go out as unicode escapes, in both kinds of answer."""
    for flag in (False, True):
        received, _ = raw(emulator, chat("<b>", stream=flag), size=400)
        assert b"<" not in received
    assert "<b>" in content(emulator, chat("<b>"))


def test_guard_model_answers_a_score(emulator):
    """Prompt guard models answer with a number between 0 and 1."""
    assert 0 <= float(content(emulator, {**chat(), "model": "meta-llama/llama-prompt-guard-2-22m"})) <= 1


def test_prefill_and_parts_accepted(emulator):
    """Content may be parts, and the last message may be the assistant's."""
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "so"}]
    assert '"first\nsecond"' in content(emulator, chat(messages=messages))
    image = {"role": "user", "content": [PART, {"type": "text", "text": "what is it"}]}
    data = call(emulator, {"model": QWEN, "messages": [image], "reasoning_effort": "none"})[2]
    assert data["usage"]["prompt_tokens"] > 1000
    assert '"what is it"' in data["choices"][0]["message"]["content"]


def test_no_user_message_no_echo(emulator):
    """A system message alone gets an answer, too."""
    assert content(emulator, chat(messages=[{"role": "system", "content": "be brief"}]))


# Tools and JSON

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city"],
        },
    },
}


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("hi", "required"),
        ("hi", {"type": "function", "function": {"name": "get_weather"}}),
        ("call get_weather now", "auto"),
    ],
    ids=["required", "named", "mentioned"],
)
def test_tools_are_called_when_wanted(emulator, text, choice):
    """A demanded or mentioned function is called with arguments that fit its schema."""
    data = call(emulator, chat(text, tools=[TOOL], tool_choice=choice))[2]
    choice = data["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert "content" not in choice["message"]
    (tool_call,) = choice["message"]["tool_calls"]
    assert tool_call["function"]["name"] == "get_weather"
    assert json.loads(tool_call["function"]["arguments"]) == {"city": text, "days": 2}


@pytest.mark.parametrize(("text", "choice"), [("hi", "auto"), ("call get_weather", "none")], ids=["auto", "none"])
def test_tools_are_not_called_otherwise(emulator, text, choice):
    """Without a mention, or with ``none``, the model answers in words."""
    assert text in content(emulator, chat(text, tools=[TOOL], tool_choice=choice))


def test_tool_result_answered_in_words(emulator):
    """After the result the model does not call again by itself."""
    request = chat("call get_weather", tools=[TOOL])
    message = call(emulator, request)[2]["choices"][0]["message"]
    tool_call = message["tool_calls"][0]
    request["messages"] += [
        {"role": "assistant", "tool_calls": [tool_call]},
        {"role": "tool", "tool_call_id": tool_call["id"], "content": "sunny"},
    ]
    assert "call get_weather" in content(emulator, request)


def test_json_mode_gives_json(emulator):
    """``json_object`` content parses."""
    assert json.loads(content(emulator, chat("as json", response_format={"type": "json_object"})))["ok"] is True


def test_json_schema_gives_fitting_json(emulator):
    """``json_schema`` content fits the schema."""
    schema = {
        "type": "object",
        "properties": {"kind": {"enum": ["b", "c"]}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["kind", "next"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    value = json.loads(content(emulator, chat(response_format=wanted)))
    depth = 0
    while value is not None:
        assert value.keys() == {"kind", "next"}
        assert value["kind"] == "b"
        value, depth = value["next"], depth + 1
    assert depth > 1


def test_json_over_budget_fails(emulator):
    """JSON cut by the budget is a 400 with the part generated."""
    status, _, data = call(emulator, chat("json", response_format={"type": "json_object"}, max_completion_tokens=10))
    assert status == 400
    assert data["error"]["code"] == "json_validate_failed"
    assert data["error"]["failed_generation"] == '{"echo'


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5, "multipleOf": 4}, 8),
        ({"type": "number", "exclusiveMaximum": 0}, -0.5),
        ({"type": ["null", "string"], "maxLength": 2}, "te"),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "string", "format": "date"}, "2026-11-01"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"maxLength": 1}], "$defs": {"a": {"type": "string"}}}, "t"),
        ({"const": 3}, 3),
        ({"oneOf": [{"type": "null"}]}, None),
        ({"properties": {}}, {}),
        (True, "text"),
    ],
    ids=str,
)
def test_example_fits_its_schema(schema, value):
    """The example respects the bounds of the schema."""
    assert example(schema) == value


# Streams


def test_stream_has_service_order(emulator):
    """Role chunk with seed, reasoning, content, finish with usage twice, ``[DONE]``."""
    found = stream(emulator)
    assert found[-1] == b"[DONE]"
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[0]["x_groq"].keys() == {"id", "seed"}
    kinds = [next(iter(event["choices"][0]["delta"]), None) for event in found[1:-1]]
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["reasoning", "content", None]
    assert found[1]["choices"][0]["delta"]["channel"] == "analysis"
    final = found[-2]
    assert final["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert final["usage"] == final["x_groq"]["usage"]
    assert all("usage" not in event for event in found[:-2])
    assert len({event["id"] for event in found[:-1]}) == 1


def test_stream_equals_plain_answer(emulator):
    """Joined deltas are the content of the plain answer."""
    joined = "".join(event["choices"][0]["delta"].get("content", "") for event in stream(emulator)[:-1])
    assert joined == content(emulator, chat())


def test_include_usage_adds_empty_chunk(emulator):
    """``stream_options.include_usage`` adds a chunk without choices, so that the usage comes once more."""
    found = stream(emulator, stream_options={"include_usage": True})
    assert found[-2]["choices"] == []
    assert found[-2]["usage"] == found[-3]["usage"]
    assert found[-2]["service_tier"] == "on_demand"


def test_streamed_tool_call_is_whole(emulator):
    """A tool call is one delta with its index."""
    found = stream(emulator, tools=[TOOL], tool_choice="required")
    deltas = [event["choices"][0]["delta"] for event in found[:-1]]
    (call_delta,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert call_delta[0]["index"] == 0
    assert json.loads(call_delta[0]["function"]["arguments"])["city"] == "hi"
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_one_http_chunk_per_event(emulator):
    """Chunk boundaries are event boundaries."""
    emulator.reply(chunks=["a", "b"])
    received, _ = raw(emulator, chat(stream=True))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    chunks = re.findall(rb"([0-9a-f]+)\r\n(data: [^\r]*\n\n)\r\n", body)
    assert len(chunks) == 5
    assert all(int(size, 16) == len(data) for size, data in chunks)
    assert body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("flag", [False, True], ids=["plain", "stream"])
def test_answers_take_their_time(flag):
    """Tokens come at the model's speed times the factor, after the latency."""
    with Emulator(speed=2.0, latency=0.02) as emulator:
        emulator.reply(chunks=["x"] * 101)
        started = time.monotonic()
        assert call(emulator, chat(stream=flag))[0] == 200
        assert time.monotonic() - started >= 0.02 + 100 / 1000


def test_speed_scales_the_reported_times(emulator):
    """``usage.completion_time`` is tokens by speed."""
    with Emulator(speed=4.0, latency=0) as fast:
        quick = call(fast, chat())[2]["usage"]
    slow = call(emulator, chat())[2]["usage"]
    assert slow["completion_time"] == pytest.approx(slow["completion_tokens"] / 500)
    assert quick["completion_time"] == pytest.approx(slow["completion_time"] / 4)


def test_gate_holds_events_back(emulator):
    """With a gate the next event is not written before the test releases it."""
    gate = Gate()
    emulator.reply(chunks=["a", "b"], gate=gate)
    with connect(emulator) as connection, ThreadPoolExecutor(1) as pool:
        opened = pool.submit(send, connection, chat(stream=True))
        assert gate.wait_for(0)
        gate.release(2)
        response = opened.result()
        assert b"assistant" in response.readline()
        assert response.readline() == b"\n"
        assert b'"content":"a"' in response.readline()
        assert gate.wait_for(2)
        assert not gate.wait_for(3, timeout=0)
        gate.open()
        assert response.read().endswith(b"[DONE]\n\n")


def test_on_event_sees_each_event():
    """``on_event`` gets the request and the index of each event."""
    seen = []
    with Emulator(speed=0, on_event=lambda request, index: seen.append((request.path, index))) as emulator:
        emulator.reply("one")
        stream(emulator)
    assert seen == [(CHAT, 0), (CHAT, 1), (CHAT, 2), (CHAT, 3)]


def test_callback_errors_are_kept(emulator):
    """An exception in a gate closes the connection and is in ``errors``."""
    error = AssertionError("from the gate")

    def gate(index):
        raise error

    emulator.reply("x", gate=gate)
    with pytest.raises(http.client.IncompleteRead):
        call(emulator, chat(stream=True))
    assert emulator.errors == [error]


# Models


def test_models_are_listed(emulator):
    """Live models are there with their fields, retired ones are not."""
    data = call(emulator, method="GET", path=MODELS)[2]
    assert data["object"] == "list"
    found = {model["id"]: model for model in data["data"]}
    assert found[OSS]["max_completion_tokens"] == 65536
    assert found[OSS]["pricing"]["completion"] == "0.0000006"
    assert "llama-3.3-70b-versatile" not in found


@pytest.mark.parametrize("id", ["openai%2Fgpt-oss-120b", OSS], ids=["encoded", "raw"])
def test_one_model_is_found(emulator, id):
    """The slash of an id may be percent-encoded or not."""
    assert call(emulator, method="GET", path=f"{MODELS}/{id}")[2]["id"] == OSS


def test_models_added_and_revived():
    """``models=`` adds ids, changes fields and revives retired models."""
    models = {"my/model": {"tokens_per_second": 10.0}, "llama-3.3-70b-versatile": {}}
    with Emulator(speed=0, models=models) as emulator:
        for id in models:
            assert "hello" in content(emulator, {**chat("hello"), "model": id})
    with Emulator(speed=0, models=["other"]) as emulator:
        assert "hello" in content(emulator, {**chat("hello"), "model": "other"})


# Errors


@pytest.mark.parametrize("key", [None, "Bearer ", "Bearer invalid", "Bearer gsk_invalid", "Basic x"])
def test_bad_keys_are_refused(emulator, key):
    """401 with the literal body."""
    status, _, data = call(emulator, chat(), key=key)
    assert status == 401
    assert data == {"error": {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"}}
    assert not emulator.requests[0].authorized


def test_keys_can_be_restricted():
    """Only the keys given are accepted."""
    with Emulator(speed=0, api_keys={"gsk_one"}) as emulator:
        assert call(emulator, chat(), key="Bearer gsk_one")[0] == 200
        assert call(emulator, chat(), key="Bearer gsk_two")[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/openai/v1/completions"), ("GET", CHAT), ("DELETE", MODELS), ("GET", "/"), ("POST", MODELS + "/x")],
)
def test_unknown_urls_are_404(emulator, method, path):
    """Unknown paths and wrong methods get the same text."""
    status, _, data = call(emulator, method=method, path=path)
    assert status == 404
    assert data["error"] == {
        "message": f"Unknown request URL: {method} {path}. Please check the URL for typos, or see the docs at "
        "https://console.groq.com/docs/",
        "type": "invalid_request_error",
        "code": "unknown_url",
    }


def test_head_gets_no_body(emulator):
    """A HEAD request leaves the connection usable."""
    with connect(emulator) as connection:
        assert send(connection, None, "HEAD", MODELS).read() == b""
        assert send(connection, chat()).status == 200


@pytest.mark.parametrize(
    ("model", "status", "code", "message"),
    [
        ("nope", 404, "model_not_found", "The model `nope` does not exist or you do not have access to it."),
        (
            "gemma2-9b-it",
            400,
            "model_decommissioned",
            (
                "The model `gemma2-9b-it` has been decommissioned and is no longer supported. Please refer to "
                "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead."
            ),
        ),
        (
            "openai/gpt-oss-20b",
            403,
            "model_permission_blocked_org",
            (
                "The model `openai/gpt-oss-20b` is blocked at the organization level. Please have the org admin enable "
                "this model in the org settings at https://console.groq.com/settings/limits"
            ),
        ),
        (
            QWEN,
            403,
            "model_permission_blocked_project",
            (
                f"The model `{QWEN}` is blocked at the project level. Please have a project admin enable this model in "
                "the project settings at https://console.groq.com/settings/project/limits"
            ),
        ),
    ],
    ids=["unknown", "retired", "org", "project"],
)
def test_model_errors_are_literal(model, status, code, message):
    """Unknown, retired and blocked models have their own texts."""
    with Emulator(speed=0, blocked={QWEN: "project"}) as emulator:
        emulator.block_model("openai/gpt-oss-20b")
        got, _, data = call(emulator, {**chat(), "model": model})
    assert (got, data["error"]["code"], data["error"]["message"]) == (status, code, message)


PART = {"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}
STRICT = {"name": "x", "strict": True, "schema": {"type": "object", "properties": {"a": {}}, "required": []}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"foo": 1}, "property 'foo' is unsupported"),
        ({"top_k": 1}, "property 'top_k' is unsupported, did you mean 'top_p'?"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "reasoning_content": "b"}]},
            (
                "'messages.1' : for 'role:assistant' the following must be satisfied"
                "[('messages.1' : property 'reasoning_content' is unsupported)]"
            ),
        ),
        (
            {"messages": [{"role": "user"}]},
            (
                "'messages.0' : for 'role:user' the following must be satisfied"
                "[('messages.0' : property 'content' is missing)]"
            ),
        ),
        ({"messages": [{"role": "x"}]}, "'messages.0' : discriminator property 'role' has invalid value"),
        ({"messages": []}, "'messages' : minimum number of items is 1"),
        ({"messages": "hi"}, "'messages' : value must be an array"),
        ({"messages": ["hi"]}, "'messages.0' : value must be an object"),
        ({"messages": [{"role": "user", "content": []}]}, "minimum number of items is 1)]"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "'type' has invalid value)]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "property 'text' is missing)]"),
        ({"messages": [{"role": "user", "content": [{**PART, "x": 1}]}]}, "property 'x' is unsupported)]"),
        ({"messages": [{"role": "user", "content": 5}]}, "value must be a string)]"),
        ({"messages": [{"role": "user", "content": [PART]}]}, "messages[0].content must be a string"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "property 'id' is missing)]"),
        ({"messages": [{"role": "user", "content": "x" * 600_000}]}, "Please reduce the length of the messages"),
        ({"model": 5}, "'model' : value must be a string"),
        ({"n": 2}, "'n' : number must be at most 1"),
        ({"temperature": 2.5}, "'temperature' : number must be at most 2"),
        ({"top_p": -1}, "'top_p' : number must be at least 0"),
        ({"seed": 1.5}, "'seed' : value must be an integer"),
        ({"stream": 1}, "'stream' : value must be a boolean"),
        ({"service_tier": "x"}, "'service_tier' : value must be one of"),
        ({"stop": list("abcde")}, "'stop' : maximum number of items is 4"),
        ({"stop": 1}, "'stop' : value must be a string or an array of strings"),
        ({"stream_options": {"x": 1}}, "property 'x' is unsupported"),
        ({"logprobs": True}, "`logprobs` is not supported with this model"),
        ({"logit_bias": {"1": 1}}, "`logit_bias` is not supported with this model"),
        (
            {"model": QWEN, "max_completion_tokens": 20_000},
            (
                "`max_completion_tokens` must be less than or equal to `16384`, the maximum value for "
                "`max_completion_tokens` is less than the `context_window` for this model"
            ),
        ),
        ({"include_reasoning": True, "reasoning_format": "parsed"}, "cannot specify both"),
        ({"reasoning_format": "raw", "tools": [TOOL]}, "`reasoning_format` `raw` cannot be used with tools"),
        ({"reasoning_effort": "none"}, "`reasoning_effort` must be one of"),
        ({"model": "allam-2-7b", "reasoning_effort": "low"}, "`reasoning_effort` is not supported with this model"),
        ({"model": "allam-2-7b", "reasoning_format": "raw"}, "`reasoning_format` is not supported with this model"),
        ({"model": "allam-2-7b", "tools": [TOOL]}, "`tool calling` is not supported with this model"),
        ({"model": "whisper-large-v3"}, "The model `whisper-large-v3` does not support chat completions"),
        ({"tool_choice": "required"}, "`tool_choice` is `required`, but no `tools` are given"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "x"}}}, "tool choice 'x' was not in request.tools"),
        ({"tools": [{}]}, "'tools.0' : property 'type' is missing"),
        ({"tools": [{"type": "function"}]}, "'tools.0.function' : property 'name' is missing"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "'tools.0.function.name' : value must match"),
        ({"tools": [{"type": "function", "function": {"name": "a", "x": 1}}]}, "property 'x' is unsupported"),
        ({"tools": [TOOL] * 129}, "'tools' : maximum number of items is 128"),
        ({"response_format": {"type": "x"}}, "'response_format.type' : value must be one of"),
        ({"response_format": {"type": "json_object"}}, "'messages' must contain the word 'json'"),
        ({"response_format": {"type": "json_schema"}}, "property 'name' is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": STRICT}}, "invalid JSON schema"),
        (
            {"model": QWEN, "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "This model does not support response format `json_schema`",
        ),
    ],
    ids=lambda value: value[:48] if isinstance(value, str) else "-".join(value),
)
def test_bad_requests_are_refused(emulator, fields, message):
    """400 with the service's text."""
    status, _, data = call(emulator, {**chat(), **fields})
    assert status == 400
    assert data["error"]["type"] == "invalid_request_error"
    assert message in data["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"x"}'], ids=["empty", "cut", "array", "incomplete"])
def test_bad_json_is_refused(emulator, body):
    """A body that is not a request is a 400, too."""
    assert call(emulator, body)[0] == 400


def test_checks_can_be_switched_off():
    """``validate=False`` lets unknown properties pass."""
    with Emulator(speed=0, validate=False) as emulator:
        assert content(emulator, chat("hi", foo=1)).startswith("hi: ")


@pytest.mark.parametrize("wire", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nbad line\r\n\r\n"], ids=["line", "header"])
def test_non_http_gets_400(emulator, wire):
    """Bytes that are not HTTP get a bare 400, and the connection is closed."""
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(wire)
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_chunked_request_bodies_are_read(emulator):
    """A chunked request body arrives whole."""
    with connect(emulator) as connection:
        data = json.dumps(chat("chunked")).encode()
        connection.request("POST", CHAT, iter([data[:10], data[10:]]), {"authorization": KEY}, encode_chunked=True)
        assert connection.getresponse().status == 200
    assert emulator.requests[0].json == chat("chunked")


def test_http_1_0_without_chunks(emulator):
    """An HTTP/1.0 client gets no chunked encoding: its stream ends with the connection."""
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    data = json.dumps(chat(stream=True)).encode()
    with socket.create_connection((host, int(port)), timeout=10) as sock, sock.makefile("rb") as answer:
        sock.sendall(b"POST %b HTTP/1.0\r\nAuthorization: Bearer x\r\n" % CHAT.encode())
        sock.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(data), data))
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert events(body)[-1] == b"[DONE]"
    assert emulator.requests[0].version == "HTTP/1.0"


def test_expect_continue_is_answered(emulator):
    """A client that waits for ``100 Continue`` gets it before its body."""
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    data = json.dumps(chat()).encode()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nauthorization: {KEY}\r\nexpect: 100-continue\r\ncontent-length: {len(data)}"
        sock.sendall(head.encode() + b"\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(data)
        assert sock.recv(17) == b"HTTP/1.1 200 OK\r\n"


# Limits


@pytest.fixture
def clock():
    return FakeClock()


def test_tokens_charged_then_settled(clock):
    """Tokens are charged at admission: headers show prompt and maximum, and the real usage afterwards."""
    with Emulator(speed=0, limits={"tpm": 6000, "rpd": 14400}, clock=clock) as emulator:
        _, headers, data = call(emulator, chat("x" * 400, max_completion_tokens=500))
        prompt = data["usage"]["prompt_tokens"]
        assert headers["x-ratelimit-limit-requests"] == "14400"
        assert headers["x-ratelimit-remaining-requests"] == "14399"
        assert headers["x-ratelimit-reset-requests"] == "6s"
        assert headers["x-ratelimit-limit-tokens"] == "6000"
        assert headers["x-ratelimit-remaining-tokens"] == str(6000 - prompt - 500)
        assert headers["x-ratelimit-reset-tokens"] == go_duration((prompt + 500) / 100)
        headers = call(emulator, chat("x" * 400, max_completion_tokens=500))[1]
        assert headers["x-ratelimit-remaining-tokens"] == str(6000 - data["usage"]["total_tokens"] - prompt - 500)
        clock.advance(60)
        headers = call(emulator, chat("x" * 400, max_completion_tokens=500))[1]
        assert headers["x-ratelimit-remaining-tokens"] == str(6000 - prompt - 500)


def test_request_limit_has_literal_text(clock):
    """The 31st request of a minute is told to wait two seconds."""
    with Emulator(speed=0, plan="free", limits={"tpm": 100_000}, clock=clock) as emulator:
        for _ in range(30):
            assert call(emulator, chat(max_completion_tokens=20))[0] == 200
        status, headers, data = call(emulator, chat(max_completion_tokens=20))
        assert status == 429
        assert headers["retry-after"] == "2"
        assert data["error"]["type"] == "requests"
        assert data["error"]["code"] == "rate_limit_exceeded"
        assert re.fullmatch(
            r"Rate limit reached for model `openai/gpt-oss-120b` in organization `org_01\w+` service tier `on_demand` on "
            r"requests per minute \(RPM\): Limit 30, Used 30, Requested 1\. Please try again in 2s\. Need more tokens\? "
            r"Upgrade to Dev Tier today at https://console\.groq\.com/settings/billing",
            data["error"]["message"],
        )
        clock.advance(2)
        assert call(emulator, chat(max_completion_tokens=20))[0] == 200
        assert call(emulator, {**chat(max_completion_tokens=20), "model": QWEN})[0] == 200


def test_token_limit_names_its_wait(clock):
    """The 429 of a token limit says when to retry: text and ``retry-after`` agree, and a request then is admitted."""
    with Emulator(speed=0, limits={"tpm": 6000}, clock=clock) as emulator:
        emulator.reply("x", usage={"prompt_tokens": 34, "completion_tokens": 5000})
        assert call(emulator, chat("x", max_completion_tokens=5000))[0] == 200
        status, headers, data = call(emulator, chat("x", max_completion_tokens=1438))
        assert status == 429
        assert "(TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s." in data["error"]["message"]
        assert headers["retry-after"] == "5"
        assert data["error"]["type"] == "tokens"
        clock.advance(4.77)
        assert call(emulator, chat("x", max_completion_tokens=1438))[0] == 200


def test_day_limits_may_take_long(clock):
    """The wait for a limit of tokens per day is given in minutes."""
    with Emulator(speed=0, limits={"tpd": 1000}, clock=clock) as emulator:
        emulator.reply("x", usage={"prompt_tokens": 500, "completion_tokens": 500})
        assert call(emulator, chat(max_completion_tokens=500))[0] == 200
        _, headers, data = call(emulator, chat(max_completion_tokens=95))
        assert "(TPD): Limit 1000, Used 1000, Requested 100. Please try again in 2h24m0s." in data["error"]["message"]
        assert headers["retry-after"] == "8640"


def test_oversized_request_is_413(emulator):
    """A request that can never fit is refused with 413 and no ``retry-after``."""
    with Emulator(speed=0, plan="free") as limited:
        status, headers, data = call(limited, chat(max_completion_tokens=32_974))
    assert status == 413
    assert "retry-after" not in headers
    assert data["error"]["message"].endswith(
        "on tokens per minute (TPM): Limit 8000, Requested 32979, please reduce your message size and try again. "
        "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
    )
    assert data["error"]["code"] == "rate_limit_exceeded"


def test_output_over_limit_is_429():
    """A request whose output exceeds its limit (OTPM) is refused with 429, without ``retry-after``."""
    with Emulator(speed=0, limits={QWEN: {"otpm": 1000}}) as emulator:
        status, headers, data = call(emulator, {**chat(max_completion_tokens=1080), "model": QWEN})
        assert call(emulator, chat(max_completion_tokens=1080))[0] == 200
    assert status == 429
    assert "retry-after" not in headers
    assert "Request too large" in data["error"]["message"]
    assert "(OTPM): Limit 1000, Requested 1080." in data["error"]["message"]


def test_assumed_completion_fits_limit():
    """Without a maximum in the request the assumed tokens are cut to the limit."""
    with Emulator(speed=0, limits={"tpm": 300}) as emulator:
        assert call(emulator, chat())[0] == 200


def test_flex_tier_gets_tenfold_limit(clock):
    """The flex tier has ten times the limit, and flex requests have buckets of their own."""
    with Emulator(speed=0, limits={"rpm": 1}, clock=clock) as emulator:
        statuses = [call(emulator, chat(service_tier="flex"))[0] for _ in range(11)]
        assert call(emulator, chat())[0] == 200
    assert statuses == [200] * 10 + [429]


def test_developer_plan_limits(clock):
    """The plan sets the limits."""
    with Emulator(speed=0, plan="developer", clock=clock) as emulator:
        assert call(emulator, chat())[1]["x-ratelimit-limit-tokens"] == "250000"


def test_refused_requests_cost_nothing(clock):
    """A 400 after admission returns all tokens; the request itself counts."""
    limits = ModelLimits({"rpm": 2, "tpm": 100}, 0.0)
    assert limits.admit(0.0, 50, 40) is None
    refusal = limits.admit(0.0, 10, 5)
    assert refusal.dimension == "tpm"
    limits.settle(0.0, 50, 40)
    assert limits.admit(0.0, 60, 40) is None
    assert limits.admit(60.0, 60, 40) is None


def test_limits_hold_under_threads(clock):
    """Of the requests of many threads exactly as many are admitted as the limit allows."""
    with Emulator(speed=0, limits={"rpm": 20}, clock=clock) as emulator, ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: call(emulator, chat())[0], range(40)))
    assert statuses.count(200) == 20
    assert statuses.count(429) == 20


# Scripts


def test_replies_first_in_first_out(emulator):
    """Scripted texts are used in order, then the default answer again."""
    emulator.enqueue("one", Reply("two"))
    emulator.reply("three")
    assert emulator.pending_replies == 3
    assert [content(emulator, chat()) for _ in range(3)] == ["one", "two", "three"]
    assert content(emulator, chat()).startswith("hi: ")


def test_completion_waits_for_passing_request(emulator):
    """A scripted text is not used up by another endpoint or by a refused request."""
    emulator.reply("text")
    assert call(emulator, method="GET", path=MODELS)[0] == 200
    assert call(emulator, chat(), key=None)[0] == 401
    assert call(emulator, chat(n=2))[0] == 400
    assert content(emulator, chat()) == "text"


def test_match_and_times_choose_request(emulator):
    """A reply answers only requests that it matches, ``times`` of them."""
    emulator.reply("b", match=lambda request: request.json["messages"][0]["content"] == "B", times=2)
    emulator.reply("rest", times=None)
    assert [content(emulator, chat(text)) for text in "ABBBA"] == ["rest", "b", "b", "rest", "rest"]


def test_every_completion_part_is_scriptable(emulator):
    """Content, reasoning, tool calls, finish reason and usage go out as given."""
    emulator.reply(
        "text",
        reasoning="because",
        tool_calls=[{"name": "f", "arguments": {"a": 1}, "id": "call_1"}],
        finish_reason="length",
        usage={"prompt_tokens": 7, "completion_tokens": 5},
        headers={"X-Groq-Region": "xyz"},
    )
    _, headers, data = call(emulator, chat())
    choice = data["choices"][0]
    assert choice["message"] == {
        "role": "assistant",
        "content": "text",
        "reasoning": "because",
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    assert choice["finish_reason"] == "length"
    assert data["usage"]["total_tokens"] == 12
    assert headers.get_all("x-groq-region") == ["xyz"]


def test_chunks_are_sent_as_given(emulator):
    """Text, whole deltas and raw events go out one by one."""
    emulator.reply(chunks=["a b", {"content": "c", "x": 1}, b"data: {}\n\n"])
    found = stream(emulator)
    assert [event.get("choices", [{}])[0].get("delta") for event in found[1:4]] == [
        {"content": "a b"},
        {"content": "c", "x": 1},
        None,
    ]


def test_plain_request_joins_scripted_chunks(emulator):
    """A plain request gets scripted chunks joined as its content."""
    emulator.reply(chunks=["a b", {"content": "c"}, {"reasoning": "x"}, b": comment\n\n"])
    assert content(emulator, chat()) == "a bc"


@pytest.mark.parametrize("status", [400, 401, 404, 429, 498, 500, 503])
def test_status_scriptable_for_any_request(emulator, status):
    """A scripted status alone gets the usual body, whatever the key."""
    emulator.reply(status=status)
    got, headers, data = call(emulator, method="GET", path="/anything", key=None)
    assert got == status
    assert data["error"]["message"]
    assert headers.get("retry-after") == ("1" if status == 429 else None)


@pytest.mark.parametrize(
    ("body", "kind", "data"),
    [
        ({"a": 1}, "application/json", {"a": 1}),
        ("error code: 1010", "text/plain; charset=utf-8", b"error code: 1010"),
        (b"\x00\x01", "application/json", None),
    ],
    ids=["json", "text", "bytes"],
)
def test_body_can_be_scripted(emulator, body, kind, data):
    """A scripted body may be bytes, text or JSON."""
    emulator.reply(body=body, headers={} if data else {"content-type": "audio/wav"})
    got = call(emulator, chat())
    assert got[1]["content-type"] == (kind if data else "audio/wav")
    assert got[2] == (data or body)


def test_fault_leaves_next_reply_alone(emulator):
    """A fault alone changes the default answer, and does not use up the completion scripted after it."""
    emulator.enqueue(Fault(omit_usage=True), "next")
    data = call(emulator, chat())[2]
    assert "usage" not in data
    assert data["choices"][0]["message"]["content"].startswith("hi: ")
    assert content(emulator, chat()) == "next"


def test_reset_forgets_everything(emulator):
    """``reset()`` drops scripts and records and refills the limits."""
    call(emulator, chat())
    emulator.reply("never")
    emulator.reset()
    assert emulator.requests == []
    assert emulator.pending_replies == 0
    assert content(emulator, chat()).startswith("hi: ")


# Records


def test_requests_are_recorded(emulator):
    """A test can read all of a request afterwards."""
    with connect(emulator) as connection:
        for path in (CHAT, MODELS + "?a=b"):
            send(connection, chat() if path == CHAT else None, "POST" if path == CHAT else "GET", path).read()
    first, second = emulator.requests
    assert (first.number, first.connection, first.method, first.path) == (0, 1, "POST", CHAT)
    assert first.json == chat()
    assert json.loads(first.body) == chat()
    assert first.headers["authorization"] == KEY
    assert ("authorization", KEY) in first.raw_headers
    assert first.authorized
    assert first.status == 200
    assert (second.target, second.path, second.query) == (MODELS + "?a=b", MODELS, "a=b")
    assert second.connection == 1
    assert emulator.connections == 1


def test_open_connections_are_counted(emulator):
    """Connections are kept alive, and a test can see them close."""
    with connect(emulator) as connection:
        send(connection, chat()).read()
        assert emulator.open_connections == 1
    assert emulator.wait_until(lambda e: e.open_connections == 0)
    assert emulator.connections == 1


def test_connection_close_is_honoured(emulator):
    """The emulator closes the connection if the client asks for it."""
    with connect(emulator) as connection:
        connection.request("GET", MODELS, headers={"authorization": KEY, "connection": "close"})
        response = connection.getresponse()
        response.read()
    assert response.headers["connection"] == "close"
    assert emulator.wait_until(lambda e: e.open_connections == 0)


def test_client_that_leaves_is_noticed(emulator):
    """A stalled answer ends when the client closes the connection."""
    fault = Fault(stall_after_events=2)
    emulator.enqueue(fault)
    with connect(emulator) as connection:
        response = send(connection, chat(stream=True))
        assert fault.reached.wait(5)
        response.close()
    assert emulator.wait_until(lambda e: e.open_connections == 0)
    assert emulator.requests[0].outcome == "client-gone"


# Faults


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(cut_before_headers=True), http.client.RemoteDisconnected),
        (Fault(reset_before_headers=True), ConnectionResetError),
        (Fault(cut_at_byte=0), http.client.IncompleteRead),
        (Fault(cut_at_byte=5), http.client.IncompleteRead),
        (Fault(reset_at_byte=5), ConnectionResetError),
        (Fault(reset_after_events=0), ConnectionResetError),
        (Fault(cut_after_events=0), http.client.IncompleteRead),
        (Fault(framing="bad-chunk-size"), http.client.IncompleteRead),
        (Fault(framing="negative-chunk-size"), ValueError),  # http.client cannot read it
        (Fault(framing="long-content-length"), http.client.IncompleteRead),
        (Fault(framing="garbage-status-line"), http.client.BadStatusLine),
    ],
    ids=[
        *("cut-before-headers", "reset-before-headers", "cut-at-0", "cut-at-5", "reset-at-5", "reset-after-headers"),
        *("cut-after-headers", "bad-chunk-size", "negative-chunk-size", "long-content-length", "garbage-status-line"),
    ],
)
@pytest.mark.parametrize("flag", [False, True], ids=["plain", "stream"])
def test_broken_answers_break_clients(emulator, fault, error, flag):
    """Cuts, resets and wrong framing are errors for the client; its next request succeeds."""
    emulator.enqueue(fault)
    with pytest.raises(error):
        call(emulator, chat(stream=flag))
    assert content(emulator, chat()).startswith("hi: ")
    assert emulator.wait_until(lambda e: e.requests[0].outcome == "broken")


@pytest.mark.parametrize("at", [1, 100, 700], ids=str)
@pytest.mark.parametrize("ending", ["cut", "reset"])
@pytest.mark.parametrize("flag", [False, True], ids=["plain", "stream"])
def test_cut_comes_at_the_byte(emulator, at, ending, flag):
    """A cut at a byte sends exactly that many bytes of the body."""
    emulator.enqueue(Fault(cut_at_byte=at) if ending == "cut" else Fault(reset_at_byte=at))
    received, error = raw(emulator, chat(stream=flag))
    body = received.partition(b"\r\n\r\n")[2]
    if flag:
        body = re.sub(rb"(?:\A|\r\n)[0-9a-f]+\r\n", b"", body)
    assert len(body) == at
    assert error is (None if ending == "cut" else ConnectionResetError)


@pytest.mark.parametrize("count", [1, 3], ids=str)
def test_cut_comes_after_the_event(emulator, count):
    """A cut after events sends that many events, and no terminating chunk."""
    emulator.enqueue(Fault(cut_after_events=count))
    received, error = raw(emulator, chat(stream=True))
    assert received.count(b"data: ") == count
    assert error is None
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("place", [{"stall_before_headers": True}, {"stall_after_events": 1}, {"stall_at_byte": 10}])
def test_stall_lasts_until_released(emulator, place):
    """A stalled answer continues after ``release()``."""
    fault = Fault(**place)
    emulator.enqueue(fault)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream, emulator)
        assert fault.reached.wait(5)
        assert not waiting.done()
        fault.release()
        assert waiting.result()[-1] == b"[DONE]"


def test_stall_lasts_for_its_seconds(emulator):
    """A stall with ``stall_for`` ends by itself."""
    emulator.enqueue(Fault(stall_after_events=0, stall_for=0.05, delay=0.05))
    started = time.monotonic()
    assert content(emulator, chat()).startswith("hi: ")
    assert time.monotonic() - started >= 0.1


def test_done_before_body_ends(emulator):
    """``[DONE]`` may come without the end: the body is held open after it."""
    fault = Fault(hold_open=True)
    emulator.enqueue(fault)
    with connect(emulator) as connection:
        response = send(connection, chat(stream=True))
        while response.readline() != b"data: [DONE]\n":
            pass
        assert fault.reached.wait(5)
        assert not response.isclosed()
        fault.release()
        assert response.read() == b"\n"


def test_drip_changes_only_pieces(emulator):
    """``drip`` sends the same answer in small writes."""
    emulator.enqueue(Fault(drip=7, drip_interval=0.0001))
    assert stream(emulator, max_completion_tokens=10)[-1] == b"[DONE]"


@pytest.mark.parametrize("size", [1, 5, 64], ids=str)
def test_chunk_bytes_splits_events(emulator, size):
    """With ``chunk_bytes`` HTTP chunks differ from events."""
    emulator.enqueue(Fault(chunk_bytes=size))
    received, _ = raw(emulator, chat(stream=True, max_completion_tokens=10))
    rest = received.partition(b"\r\n\r\n")[2]
    chunks = []
    while rest != b"0\r\n\r\n":
        length, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(length, 16)])
        rest = rest[int(length, 16) + 2 :]
    assert max(map(len, chunks)) == size
    assert events(b"".join(chunks))[-1] == b"[DONE]"


def test_error_event_ends_the_stream(emulator):
    """The recorded mid-stream failure: event, then EOF without ``[DONE]``."""
    emulator.enqueue(Fault(error_event=True, after_events=3))
    data = call(emulator, chat(stream=True))[2]
    assert data.count(b"data: ") == 4
    name, value = data.rstrip(b"\n").rsplit(b"\n", 2)[-2:]
    assert name == b"event: error"
    error = json.loads(value.removeprefix(b"data: "))["error"]
    assert error["status_code"] == 400
    assert error["code"] == "tool_use_failed"
    emulator.enqueue(Fault(error_event={"error": {"message": "mine"}}))
    assert b'event: error\ndata: {"error":{"message":"mine"}}\n\n' in call(emulator, chat(stream=True))[2]


def test_x_groq_error_chunk(emulator):
    """``x_groq_error`` sends a chunk with the error, then ``[DONE]``."""
    emulator.enqueue(Fault(x_groq_error="over capacity"))
    found = stream(emulator)
    assert len(found) == 3
    assert found[1]["x_groq"]["error"] == "over capacity"


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Fault(omit_finish_reason=True), lambda found: found[-2]["choices"][0]["finish_reason"] is None),
        (Fault(omit_finish_chunk=True), lambda found: "content" in found[-2]["choices"][0]["delta"]),
        (Fault(omit_done=True), lambda found: found[-1]["choices"][0]["finish_reason"] == "stop"),
        (Fault(omit_usage=True), lambda found: all(e == b"[DONE]" or "usage" not in str(e) for e in found)),
    ],
    ids=["finish-reason", "finish-chunk", "done", "usage"],
)
def test_stream_parts_can_be_missing(emulator, fault, check):
    """A fault can omit each part that a client may rely on."""
    emulator.enqueue(fault)
    assert check(stream(emulator))


def test_plain_answer_without_finish_reason(emulator):
    """A fault can omit the same parts of a plain answer."""
    emulator.enqueue(Fault(omit_finish_reason=True))
    assert call(emulator, chat())[2]["choices"][0]["finish_reason"] is None


def test_comments_and_line_ends(emulator):
    """Comments come before every event, lines end as asked."""
    emulator.enqueue(Fault(comments=True, newline="\r\n"))
    data = call(emulator, chat(stream=True))[2]
    assert data.count(b": keep-alive\r\n\r\n") == data.count(b"data: ")
    assert b"\n" not in data.replace(b"\r\n", b"")


def test_short_content_length(emulator):
    """The content length says half of the body."""
    emulator.enqueue(Fault(framing="short-content-length"))
    with pytest.raises(json.JSONDecodeError):
        call(emulator, chat())


@pytest.mark.parametrize("flag", [False, True], ids=["plain", "stream"])
def test_close_delimited_body(emulator, flag):
    """No length and no chunks: the body ends with the connection."""
    emulator.enqueue(Fault(framing="close-delimited"))
    status, headers, data = call(emulator, chat(stream=flag))
    assert status == 200
    assert "content-length" not in headers
    assert "transfer-encoding" not in headers
    assert data


def test_headers_can_be_cut(emulator):
    """The connection ends inside the headers."""
    emulator.enqueue(Fault(framing="headers-cut"))
    received, error = raw(emulator, chat())
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in received
    assert error is None


@pytest.mark.parametrize(
    ("payload", "flag", "status", "kind"),
    [
        ("sse", False, 200, "text/event-stream"),
        ("json", True, 200, "application/json"),
        ("html", False, 502, "text/html; charset=UTF-8"),
        ("html", True, 502, "text/html; charset=UTF-8"),
    ],
)
def test_other_content_than_asked_for(emulator, payload, flag, status, kind):
    """The wrong kind of body comes with its own content type."""
    emulator.enqueue(Fault(payload=payload))
    got, headers, data = call(emulator, chat(stream=flag))
    assert (got, headers["content-type"]) == (status, kind)
    assert data


def test_html_keeps_a_scripted_status(emulator):
    """An HTML page may have any status."""
    emulator.enqueue(Fault(payload="html", status=403))
    assert call(emulator, chat())[0] == 403


def test_json_cut_in_half(emulator):
    """The framing is correct, but half of the JSON is missing."""
    emulator.enqueue(Fault(payload="half-json"))
    with pytest.raises(json.JSONDecodeError):
        call(emulator, chat())


def test_gzip_that_is_none(emulator):
    """The answer declares gzip and is not compressed."""
    emulator.enqueue(Fault(payload="false-gzip"))
    _, headers, data = call(emulator, chat())
    assert headers["content-encoding"] == "gzip"
    assert data["choices"]


def test_fault_status_and_body(emulator):
    """A fault may replace the answer, alone or within a reply."""
    emulator.enqueue(
        Fault(status=503, headers={"retry-after": "7"}), Reply(fault=Fault(status=502, body="bad gateway"))
    )
    status, headers, data = call(emulator, chat())
    assert (status, headers["retry-after"]) == (503, "7")
    assert data["error"]["message"].startswith(f"{OSS} is currently over capacity.")
    status, _, data = call(emulator, chat())
    assert (status, data) == (502, b"bad gateway")


def test_usage_can_be_scripted_away(emulator):
    """``usage=False`` leaves it out; limits are settled all the same."""
    emulator.reply("x", usage=False)
    assert "usage" not in call(emulator, chat())[2]
    emulator.reply("x", usage=False)
    assert "usage" not in str(stream(emulator)[:-1])


def test_empty_body_or_content(emulator):
    """An empty body, and an empty content."""
    emulator.enqueue(Reply(status=204), Reply(""))
    assert call(emulator, chat())[::2] == (204, b"")
    assert content(emulator, chat()) == ""


@pytest.mark.parametrize(
    "body",
    [b"content-length: 9\r\n\r\nshort", b"content-length: x\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n5\r\nab"],
    ids=["short", "no-number", "chunk"],
)
def test_cut_request_bodies_get_400(emulator, body):
    """A request that ends too early gets a bare 400."""
    host, port = emulator.base_url.rpartition("/")[2].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\n".encode() + body)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert emulator.requests == []


# Running


def test_stop_leaves_nothing(emulator):
    """``stop()`` ends all threads and connections, stalled and idle ones included."""
    before = {thread for thread in threading.enumerate() if thread.name.startswith("groq-emulator")}
    other = Emulator(speed=0).start()
    gate = Gate()
    fault = Fault(stall_before_headers=True)
    other.enqueue(fault, Reply("x", gate=gate))
    with connect(other) as idle, connect(other) as stalled, connect(other) as gated:
        idle.connect()
        for connection in (stalled, gated):
            connection.request("POST", CHAT, json.dumps(chat(stream=True)), {"authorization": KEY})
            assert fault.reached.wait(5)
        assert gate.wait_for(0)
        other.stop()
        assert {thread for thread in threading.enumerate() if thread.name.startswith("groq-emulator")} == before
        assert other.open_connections == 0
        assert idle.sock.recv(1) == b""
    other.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = other.base_url


def test_emulator_can_run_again():
    """You can start a stopped emulator again, but not a running one."""
    emulator = Emulator(speed=0)
    assert "stopped" in repr(emulator)
    for _ in range(2):
        with emulator:
            assert emulator.base_url in repr(emulator)
            assert call(emulator, chat())[0] == 200
            with pytest.raises(RuntimeError, match="runs already"):
                emulator.start()


def test_taken_port_is_an_error(emulator):
    """Starting on a used port fails and leaks nothing."""
    port = int(emulator.base_url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="in use"):
        Emulator(port=port).start()


def test_threads_get_their_own_answers(emulator):
    """64 threads on kept connections each get their own answers."""
    barrier = threading.Barrier(64)

    def work(number):
        with connect(emulator) as connection:
            barrier.wait(10)
            for turn in range(4):
                response = send(connection, chat(f"thread {number} turn {turn}", stream=turn % 2 == 1))
                data = response.read()
                if turn % 2:
                    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events(data)[:-1])
                else:
                    text = json.loads(data)["choices"][0]["message"]["content"]
                assert f'"thread {number} turn {turn}"' in text

    with ThreadPoolExecutor(64) as pool:
        for done in [pool.submit(work, number) for number in range(64)]:
            done.result()
    assert emulator.connections == 64
    assert len(emulator.requests) == 256
    assert emulator.errors == []


def test_emulator_speaks_tls():
    """With a server context the emulator speaks TLS, one silent client or not."""
    authority = new_authority()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with Emulator(speed=0, ssl_context=server) as emulator:
        scheme, _, rest = emulator.base_url.partition("://")
        assert scheme == "https"
        host, port = rest.split(":")
        with socket.create_connection((host, int(port))):
            connection = http.client.HTTPSConnection(host, int(port), context=client, timeout=10)
            try:
                response = send(connection, chat(stream=True))
                assert "; Secure" in response.headers["set-cookie"]
                assert events(response.read())[-1] == b"[DONE]"
            finally:
                connection.close()


def test_serve_runs_until_sigterm():
    """``serve()`` prints its URL, answers, and ends cleanly."""
    code = "from groq_provider.testing.emulator import serve; serve('127.0.0.1', 0, speed=0)"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        url = process.stdout.readline().strip()
        host, port = url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        assert send(connection, chat()).read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        connection.close()
        assert process.stderr.read() == ""


def test_fixture_sets_environment(groq_emulator):
    """The fixture is a running emulator, and the environment names it."""
    assert os.environ["GROQ_BASE_URL"] == groq_emulator.base_url
    assert os.environ["GROQ_API_KEY"] == groq_emulator.api_key
    assert call(groq_emulator, chat(), key=f"Bearer {os.environ['GROQ_API_KEY']}")[0] == 200


def test_emulator_shares_no_client_code():
    """It imports only ``groq_provider.testing``, and of other packages only the standard library and attrs."""
    code = (
        "import sys, groq_provider; before = set(sys.modules); import groq_provider.testing.emulator;"
        "print(*(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    ours = {name for name in found.split() if name.startswith("groq_provider")}
    assert all(name.startswith("groq_provider.testing") for name in ours)
    allowed = sys.stdlib_module_names | {"groq_provider", "attr", "attrs"}
    assert {name.partition(".")[0] for name in found.split()} - ours <= allowed


def test_fake_clock_moves_when_told():
    """Only ``sleep()`` and ``advance()`` move the clock, both readings alike."""
    clock = FakeClock(10.0)
    before = clock.now()
    clock.sleep(1.5)
    clock.sleep(-1)
    clock.advance(0.5)
    assert clock.monotonic() == 12.0
    assert (clock.now() - before).total_seconds() == 2.0
    assert clock.now().utcoffset().total_seconds() == 0
    assert clock.sleeps == [1.5, -1]
    assert "12.0" in repr(clock)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


# SDKs


@pytest.fixture
def groq_client(emulator):
    groq = pytest.importorskip("groq")
    with groq.Groq(api_key="gsk_sdk", base_url=emulator.base_url, max_retries=0) as client:
        yield client


@pytest.fixture
def openai_client(emulator):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key="gsk_sdk", base_url=emulator.base_url + "/openai/v1", max_retries=0) as client:
        yield client


@pytest.fixture(params=["groq_client", "openai_client"], ids=["groq", "openai"])
def sdk(request):
    return request.getfixturevalue(request.param)


def test_sdk_lists_models(sdk):
    """Both SDKs list models and retrieve one."""
    assert OSS in [model.id for model in sdk.models.list().data]
    assert sdk.models.retrieve(OSS).id == OSS


def test_both_sdks_generate(sdk):
    """Both SDKs get a typed answer."""
    answer = sdk.chat.completions.create(**chat("hello"))
    assert "hello" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_both_sdks_stream(sdk):
    """Both SDKs get the same text streamed."""
    plain = sdk.chat.completions.create(**chat("hello"))
    with sdk.chat.completions.create(**chat("hello"), stream=True) as chunks:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("BadRequestError", 400),
        ("AuthenticationError", 401),
        ("PermissionDeniedError", 403),
        ("NotFoundError", 404),
        ("RateLimitError", 429),
        ("InternalServerError", 503),
    ],
)
def test_sdk_raises_its_own_errors(emulator, sdk, name, status):
    """Each status is the class the SDK has for it."""
    emulator.reply(status=status)
    module = sys.modules[type(sdk).__module__.partition(".")[0]]
    with pytest.raises(getattr(module, name)) as caught:
        sdk.chat.completions.create(**chat())
    assert caught.value.status_code == status


def test_groq_sdk_reports_stream_error(emulator, groq_client):
    """The recorded error event is an ``APIError`` with the inner body."""
    groq = sys.modules["groq"]
    emulator.enqueue(Fault(error_event=True))
    with (
        groq_client.chat.completions.create(**chat(), stream=True) as chunks,
        pytest.raises(groq.APIError, match="Tool call validation failed") as caught,
    ):
        list(chunks)
    assert caught.value.body["code"] == "tool_use_failed"


def test_provider_waits_by_fake_clock(groq_emulator):
    """Retry delays and the limiter's queue take no real time."""
    from groq_provider import Clock, GroqProvider

    clock = FakeClock()
    assert isinstance(clock, Clock)
    groq_emulator.enqueue(Fault(status=503, headers={"retry-after": "20"}))
    with GroqProvider(clock=clock, rate_limit_rpm=1) as provider:
        started = time.monotonic()
        answer = provider.generate("Hello")
        assert time.monotonic() - started < 10
    assert [attempt.status_code for attempt in answer.attempts] == [503, 200]
    assert answer.timing.wait >= 59
    assert sum(clock.sleeps) >= 59
