"""Every error about what a caller wrote names its place, in the message and in ``param``."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import (
    ConfigurationError,
    GroqProvider,
    InvalidRequestError,
    LLMRequest,
    Message,
    ProviderConfig,
    RateLimits,
)
from groq_provider.wire import codec

GOOD = {"role": "user", "content": "Hello"}
FUNCTION = {"name": "f", "parameters": {}}

#: What may be wrong inside a message, and where.
IN_MESSAGE = [
    ({"role": "user", "content": 5}, "content"),
    ({"role": "user"}, "content"),
    ({"role": "user", "content": []}, "content"),
    ({"role": "nobody", "content": "x"}, "role"),
    ({"content": "x"}, "role"),
    ({"role": "user", "content": "x", "name": 5}, "name"),
    ({"role": "tool", "content": "x"}, "tool_call_id"),
    ({"role": "user", "content": ["x", 5]}, "content[1]"),
    ({"role": "user", "content": [{"type": "text", "text": 5}]}, "content[0].text"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}, "content[0].image_url.url"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "y"}}]}, "content[0].image_url.detail"),
    ({"role": "assistant", "tool_calls": 5}, "tool_calls"),
    ({"role": "assistant", "tool_calls": [{"id": 5, "name": "f"}]}, "tool_calls[0].id"),
    ({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": 5}}]}, "tool_calls[0].name"),
]  # fmt: skip
IN_REQUEST = [
    ({"tools": [{"function": FUNCTION}, {"function": {"name": "no spaces"}}]}, "tools[1].function.name"),
    ({"tools": [{"function": {**FUNCTION, "description": 5}}]}, "tools[0].function.description"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": 5}, "tools"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": ""}}}, "response_format.json_schema.name"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"documents": [{"text": "x"}, {"text": 5}]}, "documents[1].text"),
    ({"search_settings": {"country": 5}}, "search_settings.country"),
    ({"stream_options": {"include_usage": 5}}, "stream_options.include_usage"),
    ({"temperature": 5}, "temperature"),
    ({"stop": ["a", 5]}, "stop[1]"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
]


def send(request):
    """Have this service's provider look at a request."""
    codec.request_body(request, model="m", stream=False)


def refusal(make, kind=InvalidRequestError):
    with pytest.raises(kind) as caught:
        make()
    error = caught.value
    assert pickle.loads(pickle.dumps(error)).param == error.param
    assert error.status_code is None
    return error


@given(st.integers(0, 9), st.sampled_from(IN_MESSAGE))
def test_messages_have_a_place(number, case):
    """Which of them, and where inside."""
    message, place = case
    error = refusal(lambda: send(LLMRequest.of([GOOD] * number + [message])))
    missing = "role" not in message  # what is missing has no place of its own
    assert error.param == (f"messages[{number}]" if missing else f"messages[{number}].{place}")
    assert error.message.startswith(error.param)


@pytest.mark.parametrize(("fields", "place"), IN_REQUEST, ids=[place for _, place in IN_REQUEST])
@pytest.mark.parametrize("how", ["of", "constructor", "over a request"])
def test_fields_have_a_place(fields, place, how):
    """The path goes from the name of the field down to the faulty part."""
    error = refusal(
        {
            "of": lambda: send(LLMRequest.of("x", **fields)),
            "constructor": lambda: send(LLMRequest(messages="x", **fields)),
            "over a request": lambda: send(LLMRequest.of(LLMRequest(messages="x"), **fields)),
        }[how]
    )
    assert error.param == place
    assert error.message.startswith(place)


def test_parts_alone_have_a_place():
    """The path of a part that is built on its own begins at that part."""
    assert refusal(lambda: Message(role="user", content=["x", 5])).param == "content[1]"


@pytest.mark.parametrize("prompt", ["", []], ids=["text", "list"])
def test_no_prompt_has_a_place(prompt):
    """There is nothing in it to point at."""
    assert refusal(lambda: LLMRequest.of(prompt)).param == "messages"


def test_calls_name_the_place():
    """From the call itself, too."""
    with GroqProvider(api_key="gsk_example") as provider:
        assert refusal(lambda: provider.generate([GOOD, {"role": "user", "content": 5}])).param == "messages[1].content"
        assert refusal(lambda: provider.generate("x", timeout=-1)).param == "timeout"


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda: RateLimits.plan("gold"), "plan"),
        (lambda: ProviderConfig(api_key="k", rate_limits="gold"), "plan"),
        (lambda: ProviderConfig(api_key="k", timeout=-1), "timeout"),
        (lambda: ProviderConfig(api_key="k", proxies={"https": "http://"}), "proxies['https']"),
        (lambda: ProviderConfig(api_key="k", base_url="ftp://h"), "base_url"),
        (lambda: ProviderConfig(api_key="${MISSING_KEY_OF_A_TEST}", type="openai_compatible", base_url="http://localhost", default_model="m"), "api_key"),
    ],
    ids=["plan", "limits", "timeout", "proxies", "base_url", "api_key"],
)  # fmt: skip
def test_settings_have_a_place(make, place):
    """The name of the setting."""
    assert refusal(make, ConfigurationError).param == place
