"""The provider as a whole: its face, its errors, its life."""

from __future__ import annotations

import gc
import inspect
import json
import logging
import os
import pickle
import threading
import time
import traceback
import warnings

import pytest
import requests
import responses
from support.fakes import PATIENCE, FakeClock
from support.servers import refusing_port

from groq_provider import (
    CancelToken,
    GroqProvider,
    LatencyTracker,
    LLMRequest,
    Message,
    ModelInfo,
    Provider,
    ProviderConfig,
    ProviderType,
    RateLimits,
    RetryPolicy,
    Timeouts,
    TokenBucketRateLimiter,
)
from groq_provider import errors as e
from groq_provider.testing import Emulator, Fault, Gate, Reply

KEY = "gsk_CANARYcanaryCANARYcanary0123456789"
#: Longer than what the emulator repeats in its answers.
PROMPT = "CANARYprompt about a secret " * 20
#: Read here: in tests the environment is clean.
LIVE_KEY = os.environ.get("GROQ_API_KEY")
NO_RETRY = RetryPolicy(max_retries=0)
CHAT = "https://api.groq.com/openai/v1/chat/completions"

NINE = [
    "get_type",
    "get_name",
    "get_models",
    "get_capabilities",
    "generate",
    "generate_stream",
    "is_available",
    "get_health",
    "close",
]
#: Of every public method that talks to the service or may wait for it.
CALLS = {
    "generate": lambda p: p.generate("x"),
    "generate_stream": lambda p: p.generate_stream("x"),
    "generate_many": lambda p: p.generate_many(["x"]),
    "request": lambda p: p.request("GET", "/models"),
    "list_models": lambda p: p.list_models(),
    "warm_up": lambda p: p.warm_up(),
}


@pytest.fixture
def make(emulator):
    """Build providers on the emulator; closed at the end."""
    made = []

    def build(config=None, **settings):
        settings = {"api_key": emulator.api_key, "base_url": emulator.base_url, "retry": NO_RETRY, **settings}
        made.append(GroqProvider(config, **settings))
        return made[-1]

    yield build
    for provider in made:
        provider.close()
    assert emulator.errors == []


@pytest.fixture
def provider(make):
    return make()


def offline(**settings):
    """A provider that nobody will ask anything of."""
    return GroqProvider(**{"api_key": KEY, **settings})


# --- its face ----------------------------------------------------------------------------------------------------------------


def test_a_provider_is_a_provider():
    """By the runtime-checkable protocol, of nine methods."""
    with offline() as provider:
        assert isinstance(provider, Provider)
        assert all(
            callable(getattr(provider, name))
            for name in [*NINE, "get_latency_metrics", *CALLS, "get_rate_limits", "fastest_models"]
        )
    partial = type("Partial", (), {name: lambda self: None for name in NINE[:-1]})
    assert not isinstance(partial(), Provider)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("generate", ["prompt", "timeout", "cancel", "extra_headers", "extra_body", "extra_query", "fields"]),
        ("generate_stream", ["prompt", "timeout", "cancel", "extra_headers", "extra_body", "extra_query", "fields"]),
        ("generate_many", ["requests", "max_workers", "ordered", "timeout", "cancel", "fields"]),
        ("request", ["method", "path", "json", "timeout", "cancel", "extra_headers", "extra_query"]),
        ("get_health", ["probe", "model", "timeout", "raise_on_error"]),
        ("is_available", ["probe"]),
        ("list_models", ["refresh"]),
        ("warm_up", ["connections", "timeout"]),
        ("__init__", ["config", "session", "rate_limiter", "latency_tracker", "tokenizer", "clock", "settings"]),
    ],
)
def test_signatures_are_promises(name, parameters):
    """All but the first arguments are keywords."""
    found = list(inspect.signature(getattr(GroqProvider, name)).parameters.values())[1:]
    assert [parameter.name for parameter in found] == parameters
    positional = {"request": 2, "is_available": 0, "get_health": 0, "list_models": 0}.get(name, 1)
    assert [p.kind is p.KEYWORD_ONLY for p in found if p.kind is not p.VAR_KEYWORD] == [
        index >= positional for index in range(len([p for p in found if p.kind is not p.VAR_KEYWORD]))
    ]


def test_type_name_and_repr():
    """The repr shows state and no key."""
    provider = offline()
    assert provider.get_type() is ProviderType.GROQ == "groq"
    assert provider.get_name() == "Groq"
    assert repr(provider) == "<GroqProvider https://api.groq.com/openai/v1 open, 0 calls under way>"
    provider.close()
    assert "closed" in repr(provider)
    assert "disabled" in repr(offline(enabled=False))


@responses.activate
def test_mock_of_design_document():
    """Path, bearer header, id, content, usage (A126)."""
    responses.post(
        CHAT,
        json={
            "id": "chatcmpl-groq-123",
            "object": "chat.completion",
            "created": 1234567890,
            "model": "llama-3.3-70b-versatile",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello! How can I help you?"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
        },
    )
    with GroqProvider(api_key="test-key") as provider:
        response = provider.generate("Hello", model="llama-3.3-70b-versatile", max_tokens=100)
    assert response.id == "chatcmpl-groq-123"
    assert response.content == "Hello! How can I help you?"
    assert response.finish_reason == "stop"
    assert (response.usage.prompt_tokens, response.usage.completion_tokens, response.usage.total_tokens) == (10, 20, 30)
    (call,) = responses.calls
    assert call.request.url == CHAT
    assert call.request.headers["Authorization"] == "Bearer test-key"
    assert call.request.headers["Content-Type"] == "application/json"
    body = json.loads(call.request.body)
    assert body["model"] == "llama-3.3-70b-versatile"
    assert body["max_tokens"] == 100
    assert body["stream"] is False
    assert body["messages"] == [{"role": "user", "content": "Hello"}]


# --- generating --------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "prompt",
    ["Hi", [{"role": "user", "content": "Hi"}], [Message(role="user", content="Hi")], LLMRequest(messages="Hi"), Message(role="user", content="Hi")],
    ids=["text", "mapping", "message", "request", "one message"],
)  # fmt: skip
def test_prompt_may_have_many_forms(emulator, provider, prompt):
    """All the same on the wire."""
    assert provider.generate(prompt).content.startswith("Hi")
    assert emulator.requests[-1].json["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.over_http2("bridge")
def test_keywords_override_a_request(emulator, provider):
    """The request itself stays as it is."""
    request = LLMRequest(messages="Hi", temperature=1.0, max_tokens=50)
    provider.generate(request, temperature=0.0, max_completion_tokens=60, model="openai/gpt-oss-20b")
    body = emulator.requests[-1].json
    assert (body["temperature"], body["max_completion_tokens"], body["model"]) == (0.0, 60, "openai/gpt-oss-20b")
    assert "max_tokens" not in body
    assert (request.temperature, request.max_tokens) == (1.0, 50)


@pytest.mark.over_http2("bridge")
def test_unset_fields_are_not_sent(emulator, provider):
    """Fields that were not set are not sent: the service refuses those it does not know."""
    response = provider.generate(LLMRequest(messages="Hi", custom_id="mine"))
    assert sorted(emulator.requests[-1].json) == ["messages", "model", "stream"]
    assert response.client_request_id is not None


@pytest.mark.over_http2("bridge")
def test_default_model_can_be_set(emulator, make):
    """The default model is used and can be set, per provider."""
    make().generate("Hi")
    assert emulator.requests[-1].json["model"] == "openai/gpt-oss-120b"
    make(default_model="openai/gpt-oss-20b").generate("Hi")
    assert emulator.requests[-1].json["model"] == "openai/gpt-oss-20b"


@pytest.mark.over_http2("bridge")
def test_extra_parts_are_sent(emulator, provider):
    """Extra headers, body and query are sent; the body's extras win; the key is not replaced."""
    provider.generate(
        "Hi", temperature=1.0, extra_headers={"X-Mine": "1"}, extra_body={"temperature": 0.5}, extra_query={"a": "b c"}
    )
    request = emulator.requests[-1]
    assert request.headers["x-mine"] == "1"
    assert request.headers["authorization"] == f"Bearer {emulator.api_key}"
    assert request.json["temperature"] == 0.5
    assert request.query == "a=b+c"


@pytest.mark.over_http2("bridge")
def test_request_reaches_other_endpoints(emulator, provider):
    """Decoded JSON comes back; no limit is charged, no latency recorded."""
    assert provider.request("get", "/models/openai%2Fgpt-oss-20b")["id"] == "openai/gpt-oss-20b"
    with pytest.raises(e.NotFoundError):
        provider.request("POST", "/novel", json={"a": 1})
    assert emulator.requests[-1].json == {"a": 1}
    assert provider.get_rate_limits() == {}
    assert provider.get_latency_metrics().error_count == 0


# --- bad input: one clear error each, before anything is sent ----------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        pytest.param(lambda p: p.generate([]), e.InvalidRequestError, "empty", id="no messages"),
        pytest.param(lambda p: p.generate(""), e.InvalidRequestError, "empty", id="empty prompt"),
        pytest.param(lambda p: p.generate(5), e.InvalidRequestError, "int", id="number as prompt"),
        pytest.param(lambda p: p.generate(None), e.InvalidRequestError, "missing", id="no prompt"),
        pytest.param(lambda p: p.generate(b"Hi"), e.InvalidRequestError, "bytes", id="bytes as prompt"),
        pytest.param(lambda p: p.generate({"role": "user", "content": "x"}), e.InvalidRequestError, "list", id="one mapping"),
        pytest.param(lambda p: p.generate([{"role": "user", "content": 5}]), e.InvalidRequestError, "content", id="content no text"),
        pytest.param(lambda p: p.generate([{"role": "robot", "content": "x"}]), e.InvalidRequestError, "robot", id="unknown role"),
        pytest.param(lambda p: p.generate("x", temperature=3), e.InvalidRequestError, "temperature", id="temperature 3"),
        pytest.param(lambda p: p.generate("x", temperature="hot"), e.InvalidRequestError, "temperature", id="temperature text"),
        pytest.param(lambda p: p.generate("x", max_tokens=0), e.InvalidRequestError, "max_tokens", id="max_tokens 0"),
        pytest.param(lambda p: p.generate("x", max_tokens=10**6), e.InvalidRequestError, "65536", id="beyond the model"),
        pytest.param(lambda p: p.generate_stream("x", max_completion_tokens=10**6), e.InvalidRequestError, "65536", id="beyond the model, stream"),
        pytest.param(lambda p: p.generate("x", max_tokens=1, max_completion_tokens=1), e.InvalidRequestError, "one of the two", id="both limits"),
        pytest.param(lambda p: p.generate("x", temprature=1), e.InvalidRequestError, "temperature", id="misspelt field"),
        pytest.param(lambda p: p.generate("x", timeout=-1), e.InvalidRequestError, "-1", id="negative timeout"),
        pytest.param(lambda p: p.generate("x", timeout=float("nan")), e.InvalidRequestError, "nan", id="NaN timeout"),
        pytest.param(lambda p: p.generate("x", timeout="soon"), e.InvalidRequestError, "soon", id="timeout no duration"),
        pytest.param(lambda p: p.generate("x", cancel=threading.Event()), e.InvalidRequestError, "CancelToken", id="cancel no token"),
        pytest.param(lambda p: p.generate("x", extra_headers={"Authorization": "x"}), e.InvalidRequestError, "api_key", id="own key"),
        pytest.param(lambda p: p.generate("x", extra_headers={"X": "a\r\nY: b"}), e.InvalidRequestError, "control", id="header injection"),
        pytest.param(lambda p: p.generate("x", extra_headers="X: 1"), e.InvalidRequestError, "mapping", id="headers no mapping"),
        pytest.param(lambda p: p.generate("x", extra_body=[1]), e.InvalidRequestError, "extra_body", id="body no mapping"),
        pytest.param(lambda p: p.generate("x", extra_query="a=b"), e.InvalidRequestError, "extra_query", id="query no mapping"),
        pytest.param(lambda p: p.generate("x", extra_body={"a": object()}), e.InvalidRequestError, "object", id="body no JSON"),
        pytest.param(lambda p: p.request("GET", "models"), e.InvalidRequestError, "slash", id="path without slash"),
        pytest.param(lambda p: p.request("GET", "/mo dels"), e.InvalidRequestError, "percent", id="path with space"),
        pytest.param(lambda p: p.request("G T", "/models"), e.InvalidRequestError, "method", id="method"),
        pytest.param(lambda p: p.request("POST", "/x", json={"a": {1}}), e.InvalidRequestError, "set", id="json no JSON"),
        pytest.param(lambda p: p.get_health(timeout=-1), e.InvalidRequestError, "-1", id="health timeout"),
        pytest.param(lambda p: p.get_health(probe="coffee"), e.ConfigurationError, "chat, models", id="health probe"),
        pytest.param(lambda p: p.warm_up(0), e.ConfigurationError, "1 to 100", id="no connections"),
    ],
)  # fmt: skip
def test_wrong_argument_is_clear_error(emulator, provider, call, error, words):
    """A wrong argument is one ValueError of ours that names the field, before anything is sent."""
    with pytest.raises(error, match=words) as caught:
        call(provider)
    assert isinstance(caught.value, ValueError)
    assert caught.value.status_code is None
    assert emulator.requests == []
    assert provider.is_available()
    assert "0 calls" in repr(provider)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({}, "API key not provided", id="no key"),
        pytest.param({"api_key": "  "}, "API key not provided", id="blank key"),
        pytest.param({"api_key": KEY, "base_url": "https://"}, "base_url", id="malformed URL"),
        pytest.param({"api_key": KEY, "base_url": "https://host:99999"}, "base_url", id="port"),
        pytest.param({"api_key": KEY, "base_url": "ftp://host"}, "base_url", id="scheme"),
        pytest.param({"api_key": KEY, "timeout": -1}, "-1", id="timeout"),
        pytest.param({"api_key": KEY, "timeoutt": 1}, "timeout", id="misspelt setting"),
        pytest.param({"api_key": KEY, "http2": "yes"}, "http2", id="no flag"),
        pytest.param({"api_key": KEY, "session": "x"}, "Session", id="no session"),
        pytest.param({"api_key": KEY, "latency_samples": 0}, "latency_samples", id="samples"),
    ],
)
def test_wrong_setting_found_at_construction(settings, words):
    """A wrong setting is found at construction and named, without the key."""
    with pytest.raises(e.ConfigurationError, match=words) as caught:
        GroqProvider(**settings)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_bad_yaml_is_clear_error(tmp_path):
    """A configuration file that is no YAML is one clear error with the name of the file."""
    path = tmp_path / "config.yaml"
    path.write_text("llm: [unclosed\n  - {")
    with pytest.raises(e.ConfigurationError, match=r"config\.yaml"):
        GroqProvider(path)


def test_absent_server_is_clear_error(make):
    """Never sent; the address is named."""
    with refusing_port() as port:
        provider = make(base_url=f"http://127.0.0.1:{port}")
        for call in (provider.generate, provider.generate_stream):
            with pytest.raises(e.APIConnectionError, match=f"127.0.0.1:{port}") as caught:
                call("x")
            assert caught.value.sent is False
            assert len(caught.value.attempts) == 1


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("status", [200, 502])
def test_page_answer_is_clear_error(emulator, provider, status):
    """A page instead of an answer is one clear error, by its status if that is an error's, else by its content."""
    emulator.reply(
        status=status, body=b"<html><title>Bad Gateway</title></html>", headers={"content-type": "text/html"}
    )
    with pytest.raises(e.ResponseDecodeError if status == 200 else e.ProviderUnavailableError) as caught:
        provider.generate("x")
    assert ("JSON" if status == 200 else "Bad Gateway") in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.over_http2("bridge")
def test_cut_body_is_clear_error(emulator, provider):
    """Not a half answer."""
    emulator.enqueue(Fault(payload="half-json"))
    with pytest.raises(e.ResponseDecodeError, match="JSON"):
        provider.generate("x")


# --- the longest answer ------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("model", ["gemma2-9b-it", "no-such-model"], ids=["shut down", "unknown"])
def test_length_checked_for_live_models(emulator, provider, model):
    """The length is checked for live models only; of others the service knows better."""
    with pytest.raises((e.ModelNotFoundError, e.ModelDecommissionedError)):
        provider.generate("x", model=model, max_tokens=10**6)
    assert emulator.requests[-1].json["max_tokens"] == 10**6


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_length_trimmed_on_request(emulator, make, name):
    """The length can be trimmed instead of refused, under the name it was given."""
    make(trim_max_tokens=True).generate("x", **{name: 10**6})
    assert emulator.requests[-1].json[name] == 65536


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limits_trim_length_to_fit(emulator, make, name):
    """A length that the limits can never hold is trimmed to fit beside the prompt; a prompt alone too large fails."""
    limits = RateLimits(tpm=1000, share=1.0)
    with pytest.raises(e.RequestTooLargeError, match="1,000 tokens per minute"):
        make(rate_limits=limits).generate("x" * 350, **{name: 5000})
    provider = make(rate_limits=limits, trim_max_tokens=True)
    provider.generate("x" * 350, **{name: 5000})
    assert 800 < emulator.requests[-1].json[name] < 900
    provider.generate("x", **{name: 10})
    assert emulator.requests[-1].json[name] == 10
    with pytest.raises(e.RequestTooLargeError):
        provider.generate("x" * 7000, **{name: 10})


@pytest.mark.over_http2("bridge")
def test_service_list_decides_lengths(make):
    """The service's own list decides lengths once it was asked for."""
    with Emulator(speed=0, models={"new/model": {"max_completion_tokens": 99}}) as emulator:
        provider = make(base_url=emulator.base_url)
        provider.generate("x", model="new/model", max_tokens=99)
        provider.list_models()
        with pytest.raises(e.InvalidRequestError, match="99"):
            provider.generate("x", model="new/model", max_tokens=100)
        provider.close()


# --- the classes of the service's errors, through the whole stack ------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (400, {"error": {"message": "bad", "type": "invalid_request_error"}}, e.InvalidRequestError, "invalid request"),
        (
            400,
            {"error": {"message": "x", "code": "context_length_exceeded"}},
            e.ContextTooLongError,
            "context too long",
        ),
        (401, {"error": {"message": "x", "code": "invalid_api_key"}}, e.AuthenticationError, "unauthorized"),
        (403, None, e.PermissionDeniedError, "permission denied"),
        (404, {"error": {"message": "x", "code": "model_not_found"}}, e.ModelNotFoundError, "model not found"),
        (413, None, e.RequestTooLargeError, "request too large"),
        (422, None, e.InvalidRequestError, "invalid request"),
        (429, None, e.RateLimitedError, "rate limited"),
        (498, None, e.OverloadedError, "groq overloaded"),
        (500, None, e.ProviderUnavailableError, "groq service unavailable"),
        (503, None, e.OverloadedError, "groq service unavailable"),
        (529, None, e.OverloadedError, "groq overloaded"),
        (418, None, e.APIStatusError, "groq API error .418."),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_status_gives_its_class(emulator, provider, status, body, error, words, stream):  # noqa: PLR0917 - a table
    """With status, id, model and attempts; counted once as a failure."""
    emulator.reply(status=status, body=body)
    with pytest.raises(error, match=words) as caught:
        (provider.generate_stream if stream else provider.generate)("x")
    raised = caught.value
    assert raised.status_code == status
    assert raised.request_id.startswith("req_")
    assert (raised.model, raised.provider) == ("openai/gpt-oss-120b", "groq")
    assert [attempt.status_code for attempt in raised.attempts] == [status]
    assert raised.sent is True
    metrics = provider.get_latency_metrics()
    assert (metrics.error_count, metrics.success_count) == (1, 0)
    assert [s.in_flight for s in provider.get_rate_limits().values()] == [0]


PLAIN_429 = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}


@pytest.mark.over_http2("bridge")
def test_a_hint_is_waited_for(emulator, make):
    """retry-after, over real sockets."""
    emulator.reply(status=429, body=PLAIN_429, headers={"retry-after": "0.3"})
    started = time.monotonic()
    response = make(retry=RetryPolicy()).generate("x")
    assert time.monotonic() - started >= 0.3
    assert [attempt.status_code for attempt in response.attempts] == [429, 200]
    assert response.attempts[1].wait >= 0.3


@pytest.mark.over_http2("bridge")
def test_hint_over_cap_raises_immediately(emulator, make):
    """With retry_after and retry_at."""
    emulator.reply(status=429, body=PLAIN_429, headers={"retry-after": "7200"})
    with pytest.raises(e.RateLimitedError) as caught:
        make(retry=RetryPolicy()).generate("x")
    assert caught.value.retry_after == 7200
    assert caught.value.retry_at.tzinfo is not None
    assert len(emulator.requests) == 1


@pytest.mark.over_http2("bridge")
def test_overload_is_waited_out(emulator, make):
    """529, 529, 200 (A147)."""
    emulator.enqueue(Fault(status=529), Fault(status=529))
    response = make(retry=RetryPolicy(throttle_delay=0.01)).generate("x")
    assert [attempt.status_code for attempt in response.attempts] == [529, 529, 200]


@pytest.mark.over_http2("bridge")
def test_a_redirect_is_not_followed(emulator, provider):
    """Neither key nor body goes elsewhere."""
    emulator.reply(status=307, headers={"location": "https://evil.test/collect?x=1"})
    with pytest.raises(e.RedirectRefusedError, match=r"evil\.test") as caught:
        provider.generate("x")
    assert "collect" not in str(caught.value)


# --- figures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
def test_answer_and_provider_show_limits(emulator, provider):
    """Rate limits are on the answer and the provider, as the headers said."""
    response = provider.generate("x")
    assert response.rate_limit.limit_requests > 0
    status = provider.get_rate_limits()["openai/gpt-oss-120b"]
    assert status.last == response.rate_limit
    assert status.in_flight == 0


@pytest.mark.over_http2("bridge")
def test_latency_recorded_once_per_call(emulator, make):
    """Retries are part of a call; failures are kept apart; streams have a first token."""
    provider = make(retry=RetryPolicy(base_delay=0.0))
    emulator.enqueue(Fault(status=500))
    provider.generate("x")
    provider.generate_stream("x").collect()
    emulator.enqueue(Fault(status=400))
    with pytest.raises(e.InvalidRequestError):
        provider.generate("x", model="openai/gpt-oss-20b")
    metrics = provider.get_latency_metrics()
    assert (metrics.sample_count, metrics.first_token_count, metrics.success_count, metrics.error_count) == (2, 1, 2, 1)
    assert metrics.avg_total_latency > 0
    assert provider.get_latency_metrics("openai/gpt-oss-20b").error_count == 1
    assert provider.get_latency_metrics("never").sample_count == 0


@pytest.mark.over_http2("bridge")
def test_latency_is_optional_and_bounded(make):
    """By configuration."""
    silent = make(track_latency=False)
    silent.generate("x")
    assert silent.get_latency_metrics().sample_count == 0
    small = make(latency_samples=2)
    for _ in range(3):
        small.generate("x")
    assert (small.get_latency_metrics().sample_count, small.get_latency_metrics().success_count) == (2, 3)


# --- health ------------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
def test_health_reports_good_and_bad(emulator, provider):
    """Both are remembered; failures in a row are counted; nothing is charged or recorded."""
    health = provider.get_health()
    assert (health.status, health.model_count, health.error_count, health.message, health.error) == (
        "healthy",
        11,
        0,
        "",
        None,
    )
    assert health.latency > 0
    assert health.last_check.tzinfo is not None
    for count in (1, 2):
        emulator.enqueue(Fault(status=503))
        health = provider.get_health()
        assert (health.status, health.error_count) == ("unhealthy", count)
        assert isinstance(health.error, e.OverloadedError)
        assert health.message == str(health.error)
        assert health.model_count == len(provider.get_models())
        assert len(health.error.attempts) == 1
        assert not provider.is_available()
    assert provider.get_health().error_count == 0
    assert provider.is_available()
    assert provider.get_rate_limits() == {}
    assert provider.get_latency_metrics().error_count == 0


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("body", [b'{"data": 5}', b"[]"], ids=["no list", "array"])
def test_odd_answers_mean_degraded(emulator, provider, body):
    """A service whose list of models is odd is degraded: it answers, so it stays available."""
    emulator.reply(status=200, body=body)
    health = provider.get_health()
    assert health.status == "degraded"
    assert health.error_count == 0
    assert provider.is_available()


@pytest.mark.over_http2("bridge")
def test_bad_health_can_raise(emulator, provider):
    """A bad health can be raised, and is remembered all the same."""
    emulator.enqueue(Fault(status=503))
    with pytest.raises(e.OverloadedError):
        provider.get_health(raise_on_error=True)
    assert not provider.is_available()


@pytest.mark.over_http2("bridge")
def test_health_check_has_time_limit(emulator, provider):
    """A health check has a time limit of its own."""
    fault = Fault(stall_before_headers=True)
    emulator.enqueue(fault)
    health = provider.get_health(timeout=0.2)
    fault.release()
    assert health.status == "unhealthy"
    assert isinstance(health.error, TimeoutError)


@pytest.mark.over_http2("bridge")
def test_chat_probe_is_small(emulator, provider):
    """The chat probe is a completion of ten tokens; no record, no place in the limits."""
    assert provider.get_health(probe="chat").status == "healthy"
    body = emulator.requests[-1].json
    assert (body["max_completion_tokens"], body["temperature"], body["model"]) == (10, 0.1, "openai/gpt-oss-20b")
    assert provider.get_health(probe="chat", model="openai/gpt-oss-120b").status == "healthy"
    assert emulator.requests[-1].json["model"] == "openai/gpt-oss-120b"
    assert provider.last_health.status == "healthy"
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert provider.get_latency_metrics().sample_count == 0


@pytest.mark.over_http2("bridge")
def test_bad_news_lasts_half_minute(emulator, make):
    """Bad news lasts half a minute; then it is worth a try again."""
    clock = FakeClock()
    provider = make(clock=clock)
    emulator.enqueue(Fault(status=503))
    provider.get_health()
    clock.advance(29.9)
    assert not provider.is_available()
    clock.advance(0.2)
    assert provider.is_available()


def test_availability_is_cheap_and_silent(emulator, make, caplog):
    """No I/O, no log line, no exception, whatever the state; with probe it asks."""
    caplog.set_level(logging.DEBUG)
    provider, disabled, closed = make(), make(enabled=False), make()
    closed.close()
    assert [p.is_available() for p in (provider, disabled, closed)] == [True, False, False]
    assert [p.is_available(probe=True) for p in (disabled, closed)] == [False, False]
    assert emulator.requests == []
    assert caplog.records == []
    assert provider.is_available(probe=True)
    assert len(emulator.requests) == 1
    emulator.enqueue(Fault(status=401))
    assert not provider.is_available(probe=True)
    with refusing_port() as port:
        assert make(base_url=f"http://127.0.0.1:{port}").is_available(probe=True) is False
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    started = time.thread_time()
    for _ in range(1000):
        provider.is_available()
    assert time.thread_time() - started < 1.0


# --- models ------------------------------------------------------------------------------------------------------------------


def test_models_come_in_configured_order():
    """Models are the configured ones in order, or the catalogue; values cannot change, unknown ids are kept."""
    with offline() as provider:
        assert len(provider.get_models()) >= 6
        assert isinstance(provider.get_models(), tuple)
    with offline(models=["openai/gpt-oss-20b", "my/model", "openai/gpt-oss-120b"]) as provider:
        models = provider.get_models()
        assert [model.id for model in models] == ["openai/gpt-oss-20b", "my/model", "openai/gpt-oss-120b"]
        assert all(isinstance(model, ModelInfo) for model in models)
        with pytest.raises(AttributeError):
            models[0].max_tokens = 1


def test_capabilities_are_model_union():
    """Seven of them, and none twice."""
    with offline() as provider:
        found = provider.get_capabilities()
    assert {str(getattr(one, "value", one)) for one in found} >= {
        "text_generation", "code_generation", "code_analysis", "planning", "debugging", "refactoring", "testing",
    }  # fmt: skip
    assert len(set(found)) == len(found)


def test_the_fastest_models_come_first():
    """By their published speed, without those shut down; the fixed order among the six first ones where they are configured."""
    with offline() as provider:
        found = provider.fastest_models()
    speeds = [model.performance_profile.avg_tokens_per_second for model in found]
    assert speeds == sorted(speeds, reverse=True)
    assert found[0].id == "openai/gpt-oss-20b"
    assert not any(model.deprecated for model in found)
    six = ["llama-3.1-8b-instant", "gemma-7b-it", "gemma2-9b-it", "llama-3.3-70b-versatile", "llama-3.1-70b-versatile", "mixtral-8x7b-32768"]  # fmt: skip
    with offline(models=sorted(six)) as provider:
        assert [model.id for model in provider.fastest_models()] == six


@pytest.mark.over_http2("bridge")
def test_service_list_merges_over_catalogue(emulator, provider):
    """Asked once and remembered; refresh asks again."""
    entries = [
        {"id": "openai/gpt-oss-20b", "object": "model", "active": True, "context_window": 7, "owned_by": "OpenAI"},
        {"id": "brand/new", "object": "model", "active": True, "context_window": 123, "max_completion_tokens": 45},
        {"id": "old/model", "object": "model", "active": False},
        {"no": "id"},
        5,
    ]
    emulator.reply(status=200, body={"object": "list", "data": entries})
    models = {model.id: model for model in provider.list_models()}
    assert {"openai/gpt-oss-20b", "brand/new", "old/model"} <= set(models)
    assert models["openai/gpt-oss-20b"].context_size == 7
    assert models["openai/gpt-oss-20b"].performance_profile is not None
    assert (models["brand/new"].context_size, models["brand/new"].max_tokens) == (123, 45)
    assert models["old/model"].active is False
    assert provider.list_models() == tuple(models.values())
    assert len(emulator.requests) == 1
    assert len(provider.list_models(refresh=True)) >= 11
    assert len(emulator.requests) == 2


@pytest.mark.over_http2("bridge")
def test_broken_list_is_error(emulator, provider):
    """A list of models that is no list is an error, and not an empty list."""
    emulator.reply(status=200, body={"models": []})
    with pytest.raises(e.ResponseDecodeError, match="data"):
        provider.list_models()


# --- life --------------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("name", CALLS)
def test_closed_provider_refuses_calls(emulator, provider, name):
    """With its own error; what needs no service still answers."""
    provider.close()
    provider.close()
    with pytest.raises(e.ProviderClosedError):
        CALLS[name](provider)
    assert emulator.requests == []
    assert provider.get_models()
    assert provider.get_capabilities()
    assert provider.get_latency_metrics().sample_count == 0
    assert provider.get_rate_limits() == {}
    health = provider.get_health()
    assert (health.status, type(health.error)) == ("unhealthy", e.ProviderClosedError)


@pytest.mark.parametrize("name", CALLS)
def test_disabled_provider_refuses_calls(name):
    """A disabled provider refuses every call and can be made without a key."""
    with GroqProvider(enabled=False) as provider:
        assert not provider.is_available()
        with pytest.raises(e.ProviderDisabledError, match="provider unavailable: disabled"):
            CALLS[name](provider)


@pytest.mark.over_http2("bridge")
def test_leaving_the_with_statement_closes(emulator):
    """Every connection."""
    with GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url) as provider:
        assert provider.warm_up(3) == 3
        provider.generate("x")
    assert emulator.wait_until(lambda emulator: not emulator.open_connections)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("where", ["answer", "limiter", "retry sleep"])
def test_closing_ends_other_threads_calls(emulator, make, where):
    """Closing ends calls of other threads at once, wherever they wait."""
    settings = {"answer": {}, "limiter": {"rate_limits": RateLimits(rpm=1)}, "retry sleep": {"retry": RetryPolicy()}}
    provider = make(**settings[where])
    if where == "limiter":
        provider.generate("x")
    fault = {
        "answer": Fault(stall_before_headers=True),
        "retry sleep": Fault(status=503, headers={"retry-after": "50"}),
    }.get(where)
    if fault is not None:
        emulator.enqueue(fault)
    raised: list = []

    def call():
        with pytest.raises(e.ProviderClosedError) as caught:
            provider.generate("x")
        raised.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    if where == "limiter":
        deadline = time.monotonic() + PATIENCE
        while not any(s.waiting for s in provider.get_rate_limits().values()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
    else:
        assert emulator.wait_until(
            lambda emulator: (
                (emulator.requests and emulator.requests[-1].status is not None)
                or (where == "answer" and emulator.requests)
            )
        )
    provider.close()
    thread.join(PATIENCE)
    if fault is not None:
        fault.release()
    assert len(raised) == 1
    assert "0 calls" in repr(provider)


@pytest.mark.over_http2("bridge")
def test_closing_ends_a_running_stream(emulator, provider):
    """Its next read says so."""
    gate = Gate()
    emulator.enqueue(Reply("one two", gate=gate))
    gate.release(2)
    stream = provider.generate_stream("x")
    next(stream)
    provider.close()
    with pytest.raises(e.ProviderClosedError) as caught:
        stream.collect()
    assert caught.value.partial.content
    gate.open()


@pytest.mark.over_http2("bridge")
def test_one_token_ends_blocked_call(emulator, provider):
    """One cancel token ends a blocked call from another thread."""
    fault = Fault(stall_before_headers=True)
    emulator.enqueue(fault)
    token = CancelToken()
    threading.Thread(target=lambda: emulator.wait_until(lambda emulator: emulator.requests) and token.cancel()).start()
    with pytest.raises(e.RequestCancelledError) as caught:
        provider.generate("x", cancel=token)
    fault.release()
    assert caught.value.sent is True


@pytest.mark.over_http2("bridge")
def test_pickled_provider_works_elsewhere(emulator, make, monkeypatch):
    """Its key is not inside; it is read from the environment again."""
    provider = make(default_model="openai/gpt-oss-20b")
    data = pickle.dumps(provider)
    assert emulator.api_key.encode() not in data
    monkeypatch.setenv("GROQ_API_KEY", emulator.api_key)
    with pickle.loads(data) as copy:
        assert copy.generate("x").model == "openai/gpt-oss-20b"
    assert emulator.requests[-1].headers["authorization"] == f"Bearer {emulator.api_key}"


@pytest.mark.over_http2("bridge")
def test_callers_session_is_left_open(emulator):
    """The caller's session is read, its headers sent; its other adapters stay and it is left open."""
    with requests.Session() as session:
        session.headers["X-Mine"] = "1"
        provider = GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url, session=session)
        provider.generate("x")
        provider.close()
        assert emulator.requests[-1].headers["x-mine"] == "1"
        assert session.get(emulator.base_url + "/nothing").status_code == 404


@pytest.mark.over_http2("bridge")
def test_parts_may_be_shared(emulator, make):
    """Limiter, tracker and tokenizer may be passed in and shared."""
    limiter, tracker, counted = TokenBucketRateLimiter(), LatencyTracker(), []

    def tokenizer(text):
        counted.append(text)
        return 7

    for _ in range(2):
        make(rate_limiter=limiter, latency_tracker=tracker, tokenizer=tokenizer).generate("Hello")
    assert tracker.get_metrics().success_count == 2
    assert list(limiter.get_status()) == ["openai/gpt-oss-120b"]
    assert counted == ["Hello", "Hello"]


@pytest.mark.over_http2("bridge")
def test_compatible_server_needs_no_groq(emulator, monkeypatch):
    """No GROQ variable is read, no key needed, no model known, no limit learned."""
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    with GroqProvider(
        type="openai_compatible",
        base_url=emulator.base_url + "/openai/v1",
        default_model="openai/gpt-oss-20b",
        retry=NO_RETRY,
    ) as provider:
        assert provider.get_type() is ProviderType.OPENAI_COMPATIBLE
        assert provider.get_name() == emulator.base_url.split("//")[1]
        assert provider.get_models() == ()
        with pytest.raises(e.AuthenticationError):
            provider.generate("x", max_tokens=10**9)
    assert "authorization" not in emulator.requests[-1].headers
    with GroqProvider(
        type="openai_compatible",
        api_key="k",
        base_url=emulator.base_url + "/openai/v1",
        default_model="openai/gpt-oss-20b",
    ) as provider:
        response = provider.generate("x")
        assert response.provider == "openai_compatible"
        assert response.rate_limit is not None
        assert provider.get_rate_limits()["openai/gpt-oss-20b"].windows == {}


@pytest.mark.over_http2("bridge")
def test_connections_are_kept(emulator, make):
    """Sequential calls use one."""
    before = emulator.connections
    provider = make()
    for _ in range(10):
        provider.generate("x")
    assert emulator.connections - before == 1


def test_prewarming_opens_connections_at_construction(emulator, make):
    """Before the first call."""
    before = emulator.connections
    make(prewarm=2)
    assert emulator.wait_until(lambda emulator: emulator.connections - before == 2)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_left_stream_frees_its_connection(emulator, make, how):
    """A stream that was left frees its place; else with max_connections the next call would wait for ever."""
    provider = make(max_connections=1)
    gate = Gate()
    emulator.enqueue(Reply("one two", gate=gate))
    gate.release(2)
    stream = provider.generate_stream("x")
    next(stream)
    if how == "closed":
        stream.close()
    else:
        warned = pytest.warns(ResourceWarning, match="unclosed")
        with warned:
            del stream
    gate.open()
    assert provider.generate("y", timeout=PATIENCE).content


# --- secrets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(None, id="no fault"),
        pytest.param(Fault(status=400, body={"error": {"message": f"you sent {KEY}"}}), id="400 that repeats the key"),
        pytest.param(Fault(status=401), id="401"),
        pytest.param(Fault(status=429, body=PLAIN_429), id="429"),
        pytest.param(Fault(status=500), id="500"),
        pytest.param(Fault(status=307, headers={"location": "https://evil.test/"}), id="redirect"),
        pytest.param(Fault(payload="html"), id="page"),
        pytest.param(Fault(payload="half-json"), id="half JSON"),
        pytest.param(Fault(payload="false-gzip"), id="false gzip"),
        pytest.param(Fault(cut_before_headers=True), id="cut"),
        pytest.param(Fault(reset_before_headers=True), id="reset"),
        pytest.param(Fault(cut_at_byte=20), id="cut body"),
        pytest.param(Fault(framing="garbage-status-line"), id="no HTTP"),
        pytest.param(Fault(framing="short-content-length"), id="short length"),
        pytest.param(Fault(stall_before_headers=True), id="stall"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_key_and_prompt_stay_hidden(emulator, make, caplog, fault, stream):
    """Logs at DEBUG, repr, pickles, errors and tracebacks with local variables, warnings."""
    caplog.set_level(logging.DEBUG)
    provider = make(api_key=KEY, timeout=Timeouts(first_token=0.5, idle=0.5))
    request = LLMRequest(messages=PROMPT, model="openai/gpt-oss-20b")
    if fault is not None:
        emulator.enqueue(fault)
    shown: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        error = _call(provider, request, stream)
        gc.collect()
    if fault is not None:
        fault.release()
    if error is not None:
        report = traceback.TracebackException.from_exception(error, capture_locals=True)
        # The frames of the library and what it raised; the caller's own variables are the caller's.
        report.stack[:] = [frame for frame in report.stack if "groq_provider/" in frame.filename]
        shown += [*report.format(), str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))]
        shown += [
            repr(vars(cause)) + repr(cause) for cause in (error.__cause__, error.__context__) if cause is not None
        ]
    shown += [record.getMessage() for record in caplog.records] + [str(warning.message) for warning in caught]
    shown += [
        repr(provider),
        repr(vars(provider)),
        repr(provider._config),
        repr(provider._runtime),
        repr(provider._transport),
    ]
    shown += [repr(pickle.dumps(provider)), repr(provider._runtime.__dict__.get("transport"))]
    text = "\n".join(shown)
    assert KEY not in text
    assert KEY[4:] not in text
    assert "CANARYprompt" not in text


def _call(provider, request, stream):
    """Return the error of a call, if there is one."""
    try:
        if stream:
            provider.generate_stream(request).collect()
        else:
            provider.generate(request)
    except e.GroqProviderError as error:
        return error
    return None


# --- the real service --------------------------------------------------------------------------------------------------------


@pytest.fixture
def live():
    if not LIVE_KEY:
        pytest.skip("no GROQ_API_KEY")
    with GroqProvider(ProviderConfig(api_key=LIVE_KEY)) as provider:
        yield provider


@pytest.mark.over_http2("bridge")
@pytest.mark.live
def test_live_latency_under_two_seconds(live):
    """A short answer within two seconds (A124)."""
    response = live.generate("Say hello", model="openai/gpt-oss-20b", max_completion_tokens=50)
    assert response.timing.total < 2.0


@pytest.mark.over_http2("bridge")
@pytest.mark.live
def test_live_throughput_over_200_tokens(live):
    """More than 200 tokens a second, the first within 200 ms (A125)."""
    with live.generate_stream(
        "Write a 500 word essay about rivers.", model="openai/gpt-oss-20b", max_completion_tokens=1000, temperature=0.7
    ) as stream:
        timing = stream.collect().timing
    assert timing.tokens_per_second > 200
    assert timing.time_to_first_token < 0.2


# --- what cannot be replaced, and what is wrong at once ----------------------------------------------------------------------


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("name", ["model", "messages", "stream", "max_tokens", "max_completion_tokens"])
def test_extra_fields_cannot_replace_core(provider, name):
    """Extra fields cannot replace what a call is about, or limits and checks would not hold for what is sent."""
    with pytest.raises(e.InvalidRequestError, match=f"extra_body holds '{name}'"):
        provider.generate("x", extra_body={name: 1})
    with pytest.raises(e.InvalidRequestError, match=f"provider_metadata holds '{name}'"):
        LLMRequest(messages="x", provider_metadata={name: 1})


def test_misplaced_key_is_not_shown():
    """A key in the wrong place, as the first argument or another setting, is not shown."""
    for make in (lambda: GroqProvider("gsk_CANARY123456"), lambda: offline(timeout="gsk_CANARY123456")):
        with pytest.raises(e.ConfigurationError) as caught:
            make()
        assert "CANARY" not in str(caught.value)


@pytest.mark.over_http2("bridge")
def test_shared_fields_are_checked_once(provider):
    """Not once for every item."""
    with pytest.raises(e.InvalidRequestError, match="temperature = 9"):
        provider.generate_many(["a", "b"], temperature=9)


def test_own_parts_forbid_pickling():
    """A provider with parts of the caller's does not pickle: it would lose them without a word."""
    with offline(rate_limiter=TokenBucketRateLimiter()) as provider, pytest.raises(TypeError, match="rate_limiter"):
        pickle.dumps(provider)


@pytest.mark.over_http2("bridge")
def test_unpickled_key_is_sought_lazily(emulator, monkeypatch):
    """An unpickled provider looks for its key on first use; unpickling needs none."""
    monkeypatch.setenv("GROQ_API_KEY", "gsk_1")
    with GroqProvider(base_url=emulator.base_url) as provider:
        data = pickle.dumps(provider)
    monkeypatch.delenv("GROQ_API_KEY")
    with pickle.loads(data) as again:
        with pytest.raises(e.ConfigurationError, match="groq API key not provided"):
            again.generate("x")
        monkeypatch.setenv("GROQ_API_KEY", "gsk_2")
        assert again.generate("x").content


@pytest.mark.parametrize(
    "settings",
    [{"clock": 5}, {"rate_limiter": 5}, {"latency_tracker": 5}, {"tokenizer": 5}, {"prewarm": 101}],
    ids=lambda settings: next(iter(settings)),
)
def test_wrong_parts_named_at_construction(settings):
    """Not at the first call."""
    with pytest.raises(e.ConfigurationError, match=next(iter(settings))):
        offline(**settings)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("connections", ["1", 0, 101, True], ids=repr)
def test_wrong_warm_up_count_named(provider, connections):
    """A wrong number of connections to warm up is named with its range."""
    with pytest.raises(e.ConfigurationError, match="must be an integer from 1 to 100"):
        provider.warm_up(connections)


@pytest.mark.over_http2("bridge")
def test_unwritable_query_is_refused(provider):
    """A lone surrogate has no UTF-8."""
    with pytest.raises(e.InvalidRequestError, match="extra_query"):
        provider.generate("x", extra_query={"a": "\ud800"})
