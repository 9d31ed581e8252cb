"""What people bring along from other clients works here, or the error says what to write."""

from __future__ import annotations

import pytest
from support.bench import Bench, refusal

from groq_provider import (
    ConfigurationError,
    FallbackProvider,
    GroqProvider,
    InvalidRequestError,
    LLMRequest,
    ProviderConfig,
)
from groq_provider import errors as e
from groq_provider.resources.models import Models
from groq_provider.testing import Emulator

MESSAGES = [{"role": "user", "content": "Hello"}]


class Answer:
    """A class of the caller's."""


def weather(city: str) -> str:
    """A function of the caller's."""
    return city


@pytest.fixture(scope="module")
def provider():
    with GroqProvider(api_key="gsk_example") as made:
        yield made


@pytest.mark.parametrize("fallback", [False, True], ids=["provider", "fallback"])
def test_messages_by_name(fallback):
    """As in create(messages=[…]), plain and streamed."""
    with Emulator(speed=0) as emulator, GroqProvider(api_key="gsk_1", base_url=emulator.base_url) as plain:
        asked = FallbackProvider([plain]) if fallback else plain
        assert asked.generate(messages=MESSAGES).content
        with asked.generate_stream(messages=MESSAGES) as stream:
            assert stream.collect().content
        assert [request.json["messages"] for request in emulator.requests] == [MESSAGES] * 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.generate(), "the prompt is missing: give a text, a list of messages or an LLMRequest"),
        (lambda p: p.generate("x", messages=MESSAGES), "the prompt and messages: give one of the two"),
        (lambda p: p.generate("x", stream=True), "stream = True: call generate_stream"),
        (lambda p: p.generate(messages=MESSAGES, stream=True), "stream = True: call generate_stream"),
        (lambda p: p.generate_many(["x"], stream=True), "stream = True: call generate_stream"),
        (lambda p: p.generate("x", response_format=Answer), r"response_format must be .*\{'type': 'json_schema', 'json_schema'"),
        (lambda p: p.generate("x", tools=[weather]), r"tools\[0\] must be a Tool .*: describe it, Tool\.of\(name, description, JSON Schema"),
        (lambda p: p.generate("x", tools=[Answer]), r"tools\[0\] must be .*Tool\.of"),
    ],
    ids=["nothing", "both", "stream", "stream and messages", "bulk", "class", "function", "class as tool"],
)  # fmt: skip
def test_calls_say_what_to_write(provider, call, words):
    """For each provider; nothing is sent."""
    for asked in (provider, FallbackProvider([provider])):
        with pytest.raises(InvalidRequestError, match=words):
            call(asked)


def test_flag_request_has_no_effect():
    """A request is the same for both ways to ask; only the keyword is a habit."""
    assert LLMRequest(messages="x", stream=True).stream
    with Emulator(speed=0) as emulator, GroqProvider(api_key="gsk_1", base_url=emulator.base_url) as provider:
        assert provider.generate(LLMRequest(messages="x", stream=True)).content
        with provider.generate_stream("x", stream=True) as stream:
            assert stream.collect().content


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "openai/gpt-oss-20b"}, r"'model' \(did you mean 'default_model'\?\)"),
        ({"default_headers": {}}, r"'default_headers' \(did you mean 'headers'\?\)"),
        ({"temperature": 0}, r"'temperature' \(a field of each request: give it to generate\)"),
        ({"max_tokens": 5}, r"'max_tokens' \(a field of each request"),
        ({"baseurl": "x"}, r"'baseurl' \(did you mean 'base_url'\?\)"),
    ],
    ids=lambda found: next(iter(found)) if isinstance(found, dict) else "",
)
def test_settings_say_what_to_write(settings, words):
    """Not the nearest name, which means something else."""
    for make in (GroqProvider, ProviderConfig):
        with pytest.raises(ConfigurationError, match=words):
            make(api_key="gsk_example", **settings)


@pytest.mark.parametrize("typo", ["gpt-oss-120b", "openai/gpt-oss-120B", "openai/gpt-oss120b", "openai/gtp-oss-120b"])
def test_model_typos_get_suggestions(typo):
    """In the error that the service answers with."""
    models = Models((), list, with_catalogue=True)
    bench = Bench(
        refusal(404, f"The model `{typo}` does not exist", code="model_not_found"), nearest_to=models.nearest_to
    )
    error = bench.fails(e.ModelNotFoundError, request=LLMRequest(messages="x", model=typo))
    assert "(did you mean 'openai/gpt-oss-120b'?)" in error.message


@pytest.mark.parametrize("name", ["my-own-model-of-last-year", "openai/gpt-oss-120b"])
def test_other_names_get_no_suggestion(name):
    """Neither what is like nothing, nor what is known and blocked for this key."""
    models = Models((), list, with_catalogue=True)
    bench = Bench(
        refusal(404, f"The model `{name}` does not exist", code="model_not_found"), nearest_to=models.nearest_to
    )
    message = bench.fails(e.ModelNotFoundError, request=LLMRequest(messages="x", model=name)).message
    assert "did you mean" not in message or f"{name!r}" not in message
    if name.startswith("my-own"):
        assert "did you mean" not in message
