"""Answers of status 200 that are errors: plain, of a list of models, and in the middle of a stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider import errors as e
from groq_provider.call.call import json_endpoint
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.config import RetryPolicy, Timeouts
from groq_provider.types.request import LLMRequest

OPTIONS = CallOptions(timeouts=Timeouts())
REQUEST = LLMRequest(messages="Hi")


class Bench:
    """An engine whose server says these things, one per attempt."""

    def __init__(self, *script, retries=0):
        self.clock = FakeClock()
        self.transport = FakeTransport(self.clock, *script)
        self.limiter = FakeLimiter(self.clock)
        self.runtime = Caller(
            transport=self.transport, limiter=self.limiter, tracker=FakeTracker(), clock=self.clock,
            policy=RetryPolicy(max_retries=retries, base_delay=0.0, throttle_delay=0.0), provider="groq", default_model="m",
            replacement_for=lambda model: "newer",
        )  # fmt: skip

    def generate(self):
        return self.runtime.generate(REQUEST, OPTIONS)

    def collect(self):
        return self.runtime.stream(REQUEST, OPTIONS).collect()

    def list_models(self):
        return self.runtime.ask(json_endpoint("GET", "/models"), None, OPTIONS)


def plain(body):
    return FakeWire(body=json.dumps(body).encode())


def streamed(*events):
    """A stream of these events: objects, or text as it is written."""
    texts = [each if isinstance(each, str) else f"data: {json.dumps(each)}\n\n" for each in events]
    return FakeWire(headers={"content-type": "text/event-stream"}, pieces=["".join(texts).encode()])


def chunk(content="", finish=None, **choice):
    return {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish, **choice}],
    }


DONE = "data: [DONE]\n\n"
ANSWER = {"id": "c", "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}

#: What is said, the class that it stands for, its status, and its words.
ERRORS = {
    "code": ({"error": {"message": "w o r d s", "code": "context_length_exceeded"}}, e.ContextTooLongError, None),
    "numeric code": ({"error": {"message": "w o r d s", "code": 502}}, e.ProviderUnavailableError, 502),
    "numeric code as text": ({"error": {"message": "w o r d s", "code": "429"}}, e.RateLimitedError, 429),
    "status": ({"error": {"message": "w o r d s", "status": 503}}, e.OverloadedError, 503),
    "status code": ({"error": {"message": "w o r d s", "status_code": 401}}, e.AuthenticationError, 401),
    "status beside": ({"error": {"message": "w o r d s"}, "status": 403}, e.PermissionDeniedError, 403),
    "status of words": ({"error": {"message": "w o r d s", "code": 429, "status": "RESOURCE_EXHAUSTED"}}, e.RateLimitedError, 429),
    "code that is no status": ({"error": {"message": "w o r d s", "code": 1010}}, e.APIStatusError, None),
    "text": ({"error": "w o r d s"}, e.APIStatusError, None),
    "text and code": ({"error": "w o r d s", "code": 500}, e.ProviderUnavailableError, 500),
    "null choices": ({"error": {"message": "w o r d s", "code": 400}, "choices": None}, e.InvalidRequestError, 400),
    "no choices": ({"error": {"message": "w o r d s", "code": 400}, "choices": [], "id": "x"}, e.InvalidRequestError, 400),
    "object": ({"object": "error", "message": "w o r d s", "type": "BadRequestError", "code": 400}, e.InvalidRequestError, 400),
    "type alone": ({"error": {"type": "w o r d s"}}, e.APIStatusError, None),
    "a list": ({"error": ["w o r d s"]}, e.APIStatusError, None),
    "internal": ({"error": {"message": "w o r d s", "type": "internal_server_error"}}, e.ProviderUnavailableError, None),
    "decommissioned": ({"error": {"message": "w o r d s", "code": "model_decommissioned"}}, e.ModelDecommissionedError, None),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_plain_answer_is_an_error(case):
    """Of the class that its code or status gives, with the words; nothing is charged but the request."""
    body, cls, status = ERRORS[case]
    bench = Bench(plain(body))
    with pytest.raises(cls) as caught:
        bench.generate()
    error = caught.value
    assert (type(error), error.status_code, error.request_id, error.model) == (cls, status, "req_1", "m")
    assert "w o r d s" in str(error)
    assert "None" not in str(error)
    assert (error.sent, len(error.attempts)) == (True, 1)
    assert bench.limiter.granted[0].ending == ("refund", "tokens")
    if cls is e.ModelDecommissionedError:
        assert error.replacement == "newer"


@pytest.mark.parametrize("case", [name for name in ERRORS if name != "no choices"])
def test_list_of_models_is_error(case):
    """As any other endpoint's answer that is nothing else."""
    body, cls, status = ERRORS[case]
    with pytest.raises(cls) as caught:
        Bench(plain(body)).list_models()
    assert (type(caught.value), caught.value.status_code) == (cls, status)
    assert "w o r d s" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "resp_1", "error": {"message": "x"}},
        {"data": [{"id": "m"}], "error": "x"},
        {"error": None},
        {"error": {}},
        {},
        [],
    ],
    ids=str,
)
def test_objects_with_errors_inside_pass(body):
    """An object of the service may have an error among its fields."""
    assert Bench(plain(body)).list_models() == body


@pytest.mark.parametrize("first", [True, False], ids=["at first", "after text"])
@pytest.mark.parametrize("case", ERRORS)
def test_an_event_is_an_error(case, first):
    """The same in the middle of a stream; what had come is on it. Without a class of its own it is an interruption."""
    body, cls, status = ERRORS[case]
    events = [body] if first else [chunk("Hel"), chunk("lo"), body]
    with pytest.raises(e.GroqProviderError) as caught:
        Bench(streamed(*events)).collect()
    error = caught.value
    assert type(error) is (e.StreamInterruptedError if cls is e.APIStatusError else cls)
    assert error.status_code == status
    assert "w o r d s" in str(error)
    assert error.partial.content == ("" if first else "Hello")


@pytest.mark.parametrize("retries", [0, 1])
def test_passing_error_is_tried_again(retries):
    """As a status is."""
    script = [plain({"error": {"message": "busy", "code": 503}}), plain(ANSWER)]
    bench = Bench(*script, retries=retries)
    if retries:
        assert bench.generate().content == "Hi"
    else:
        with pytest.raises(e.OverloadedError):
            bench.generate()
    assert len(bench.transport.sent) == 1 + retries


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_limit_reaches_the_limiter(stream):
    """A 429 in a body or an event closes the gate as a status does."""
    body = {"error": {"message": "slow down", "code": 429}}
    bench = Bench(streamed(body) if stream else plain(body))
    with pytest.raises(e.RateLimitedError):
        bench.collect() if stream else bench.generate()
    (reservation,) = bench.limiter.granted
    assert [type(limited) for _, limited in reservation.seen] == [type(None), e.RateLimitedError]
    assert reservation.ending == ("refund", "tokens")


def test_null_beside_answer_is_none():
    """``"error": null`` is what many servers write when all is well."""
    assert Bench(plain({**ANSWER, "error": None})).generate().content == "Hi"
    assert Bench(streamed({**chunk("Hi", "stop"), "error": None}, DONE)).collect().content == "Hi"


# --- finish reasons that are none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_finish_reason_error_no_success(stream):
    """What had come is on the error."""
    if stream:
        bench = Bench(streamed(chunk("Hel"), chunk("lo", "error"), DONE))
    else:
        bench = Bench(plain({"choices": [{"message": {"content": "Hello"}, "finish_reason": "error"}]}))
    with pytest.raises(e.StreamInterruptedError if stream else e.IncompleteResponseError) as caught:
        bench.collect() if stream else bench.generate()
    assert "finish_reason 'error'" in str(caught.value)
    assert caught.value.partial.content == "Hello"


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_choice_may_say_why(stream):
    """As some gateways do."""
    why = {"code": 502, "message": "upstream died"}
    if stream:
        bench = Bench(streamed(chunk("Hello"), chunk("", "error", error=why), DONE))
    else:
        bench = Bench(plain({"choices": [{"message": {"content": "Hello"}, "finish_reason": "error", "error": why}]}))
    with pytest.raises(e.ProviderUnavailableError, match="upstream died") as caught:
        bench.collect() if stream else bench.generate()
    assert (caught.value.status_code, caught.value.partial.content) == (502, "Hello")


@pytest.mark.parametrize("word", ["null", ""])
def test_null_as_word_completes_nothing(word):
    """On running chunks, and at the end of a body."""
    assert Bench(streamed(chunk("Hel", word), chunk("lo", "stop"), DONE)).collect().content == "Hello"
    with pytest.raises(e.StreamInterruptedError, match="no finish_reason"):
        Bench(streamed(chunk("Hello", word), DONE)).collect()


def test_null_word_in_plain_answer():
    """It is none there, too."""
    assert (
        Bench(plain({"choices": [{"message": {"content": "Hi"}, "finish_reason": "null"}]})).generate().finish_reason
        is None
    )


def test_message_in_place_of_delta():
    """Text, reasoning and tool calls; where both are there, the delta is what is new."""
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}
    said = {"index": 0, "message": {"role": "assistant", "content": "Hi", "reasoning": "hm", "tool_calls": [call]}}
    last = {"index": 0, "delta": {}, "message": {"content": "Hi"}, "finish_reason": "stop"}
    response = Bench(streamed({"choices": [said]}, {"choices": [last]}, DONE)).collect()
    assert (response.content, response.reasoning, response.finish_reason) == ("Hi", "hm", "stop")
    assert [each.name for each in response.tool_calls] == ["f"]


# --- anything ------------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 600) | st.text(max_size=4) | st.sampled_from(["429", "error", 503]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["message", "code", "status", "type", "error", "object"]), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["error", "message", "code", "status", "object", "error_description", "choices"]), VALUES
    )
)
def test_no_body_taken_for_answer(body):
    """Whatever says something without an answer is an error of ours, plain or in a stream."""
    for bench, call in ((Bench(plain(body)), Bench.generate), (Bench(streamed(body, DONE)), Bench.collect)):
        with pytest.raises(e.GroqProviderError) as caught:
            call(bench)
        assert str(caught.value).encode()
