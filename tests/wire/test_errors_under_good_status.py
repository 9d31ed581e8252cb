"""Answers of status 200 that are errors, through the methods of a provider."""

from __future__ import annotations

import json

import pytest
from support.fakes import PATIENCE
from support.servers import always, answer, serving

from groq_provider import GroqProvider, RetryPolicy, Timeouts
from groq_provider import errors as e


@pytest.fixture
def asked():
    """Build a provider whose server gives one answer to everything."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def build(body):
            server = stack.enter_context(
                serving(always(answer(json.dumps(body).encode(), "Content-Type: application/json")))
            )
            return stack.enter_context(
                GroqProvider(
                    api_key="gsk_" + "x" * 20, base_url=server.url, retry=RetryPolicy(max_retries=0),
                    timeout=Timeouts(connect=PATIENCE, first_token=PATIENCE), default_model="m",
                )
            )  # fmt: skip

        yield build


DOWN = {"error": {"message": "no upstream", "code": 503}, "choices": None}


def test_every_call_is_told(asked):
    """Single, in bulk, and for the list of models."""
    provider = asked(DOWN)
    with pytest.raises(e.OverloadedError, match="no upstream"):
        provider.generate("Hi")
    with pytest.raises(e.OverloadedError, match="no upstream"):
        provider.generate_stream("Hi").collect()
    assert [type(result.error) for result in provider.generate_many(["a", "b"])] == [e.OverloadedError] * 2
    with pytest.raises(e.OverloadedError, match="no upstream"):
        provider.list_models()


@pytest.mark.parametrize(
    "body",
    [
        DOWN, {"error": "no upstream"}, {}, [], {"choices": []}, {"choices": [{"message": {}, "finish_reason": "error"}]},
        {"choices": [{}]},
    ],
    ids=str,
)  # fmt: skip
def test_empty_chat_answer_is_unhealthy(asked, body):
    """Whatever its status says."""
    provider = asked(body)
    health = provider.get_health(probe="chat", timeout=PATIENCE)
    assert (health.status, health.error_count) == ("unhealthy", 1)
    assert not provider.is_available()
    with pytest.raises(e.GroqProviderError):
        provider.get_health(probe="chat", timeout=PATIENCE, raise_on_error=True)


def test_unreadable_list_is_degraded(asked):
    """The service is there; a list that says an error is not."""
    assert asked({}).get_health(timeout=PATIENCE).status == "degraded"
    assert asked(DOWN).get_health(timeout=PATIENCE).status == "unhealthy"
