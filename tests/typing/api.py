"""Calls a user would write: type-checked by mypy, never run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from typing_extensions import assert_never, assert_type

from groq_provider import (
    APIStatusError,
    Attempt,
    BulkFailure,
    BulkResult,
    BulkRun,
    BulkSuccess,
    CancelToken,
    ConfigurationError,
    ExecutedTool,
    GroqProvider,
    GroqProviderError,
    InvalidRequestError,
    LatencyMetrics,
    LatencyTracker,
    LLMRequest,
    LLMResponse,
    Message,
    ModelCapability,
    ModelDecommissionedError,
    ModelInfo,
    Provider,
    ProviderConfig,
    ProviderHealth,
    ProviderType,
    RateLimitedError,
    RateLimitInfo,
    RateLimits,
    RateLimitStatus,
    ResponseChunk,
    ResponseStream,
    RetryPolicy,
    StreamError,
    Timeouts,
    Timing,
    TokenBucketRateLimiter,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    XGroq,
)


def construct() -> None:
    """Every way to make a provider."""
    GroqProvider()
    GroqProvider(api_key="gsk_x", timeout=30, max_connections=10)
    GroqProvider("groq.yaml")
    GroqProvider(Path("groq.toml"), prewarm=2)
    GroqProvider({"api_key": "gsk_x"})
    GroqProvider(ProviderConfig(api_key="gsk_x", timeout=Timeouts(total=30), retry=RetryPolicy.batch()))
    limits = RateLimits(rpm=30, tpm=8000)
    GroqProvider(
        session=requests.Session(),
        rate_limiter=TokenBucketRateLimiter(limits),
        latency_tracker=LatencyTracker(50),
        tokenizer=len,
        retry=RetryPolicy(max_retries=5),
        rate_limits=RateLimits.plan("developer"),
    )
    GroqProvider(max_connection=10)  # type: ignore[call-arg]  # misspelt
    GroqProvider(5)  # type: ignore[arg-type]  # no configuration


def generate(provider: GroqProvider) -> None:
    """A prompt in each of its forms, with fields."""
    answer = provider.generate("Explain LPUs in one line.")
    assert_type(answer, LLMResponse)
    provider.generate("hi", model="openai/gpt-oss-20b", temperature=0.0, max_completion_tokens=100, stop=["a"])
    provider.generate(Message.user("hi"), reasoning_effort="low", service_tier="flex")
    provider.generate([Message.system("be brief"), Message.user("hi")])
    provider.generate([{"role": "user", "content": "hi"}, answer.message, Message.user("more")])
    provider.generate(LLMRequest(messages=(Message.user("hi"),), top_p=0.5), timeout=5, cancel=CancelToken())
    assert_type(CancelToken().cancelled, bool)
    provider.generate(
        "hi", timeout=Timeouts(connect=2, total=30), extra_headers={"X-Team": "a"}, extra_body={"top_k": 5}
    )
    provider.generate("hi", tools=[Tool.of("f"), {"type": "browser_search"}], tool_choice="auto", id=uuid.uuid4())
    provider.generate("hi", response_format={"type": "json_object"}, documents=[{"text": "t"}], custom_id="c")

    provider.generate("hi", temprature=0.5)  # type: ignore[call-arg]  # misspelt
    provider.generate("hi", temperature="hot")  # type: ignore[arg-type]  # no number
    provider.generate("hi", reasoning_effort=3)  # type: ignore[arg-type]  # no word
    provider.generate(5)  # type: ignore[arg-type]  # no prompt
    provider.generate(b"hi")  # type: ignore[arg-type]  # bytes
    provider.generate("hi", {"temperature": 0.5})  # type: ignore[call-arg,arg-type]  # keywords only


def read_answer(answer: LLMResponse) -> None:
    """The fields of an answer have precise types."""
    assert_type(answer.content, str)
    assert_type(answer.reasoning, str | None)
    assert_type(answer.finish_reason, str | None)
    assert_type(answer.id, str | None)
    assert_type(answer.request_id, str | None)
    assert_type(answer.client_request_id, str | None)
    assert_type(answer.model, str | None)
    assert_type(answer.tool_calls, tuple[ToolCall, ...])
    assert_type(answer.usage, Usage)
    assert_type(answer.usage.total_tokens, int)
    assert_type(answer.usage.cached_tokens, int | None)
    assert_type(answer.usage.queue_time, float | None)
    assert_type(answer.timing, Timing)
    assert_type(answer.timing.total, float)
    assert_type(answer.timing.tokens_per_second, float | None)
    assert_type(answer.attempts, tuple[Attempt, ...])
    assert_type(answer.attempts[0].started_at, datetime)
    assert_type(answer.rate_limit, RateLimitInfo | None)
    assert_type(answer.created_at, datetime | None)
    assert_type(answer.executed_tools, tuple[ExecutedTool, ...])
    assert_type(answer.x_groq, XGroq | None)
    assert_type(answer.raw, Mapping[str, Any] | None)
    assert_type(answer.extra, Mapping[str, Any])
    assert_type(answer.message, Message)
    assert_type(answer.processing_time, float)
    assert_type(answer.truncated, bool)
    for call in answer.tool_calls:
        assert_type(call.name, str)
        assert_type(call.arguments, str)
        assert_type(call.parse(), dict[str, Any])
    answer.content = "other"  # type: ignore[misc]  # frozen
    answer.contents  # type: ignore[attr-defined]  # noqa: B018 - no such field


def stream(provider: GroqProvider) -> str:
    """Reading an answer while it is made."""
    parts: list[str] = []
    with provider.generate_stream("Write a haiku.", temperature=1) as answer:
        assert_type(answer, ResponseStream)
        for chunk in answer:
            assert_type(chunk, ResponseChunk)
            assert_type(chunk.content, str)
            assert_type(chunk.reasoning, str | None)
            assert_type(chunk.tool_calls, tuple[ToolCallDelta, ...])
            assert_type(chunk.usage, Usage | None)
            parts.append(chunk.content)
        assert_type(answer.response, LLMResponse)
        assert_type(answer.partial, LLMResponse)
        assert_type(answer.poll(0.5), bool)
    assert_type(provider.generate_stream([Message.user("hi")]).collect(), LLMResponse)
    provider.generate_stream("hi", temprature=1)  # type: ignore[call-arg]  # misspelt
    return "".join(parts)


def many(provider: GroqProvider, prompts: Sequence[str]) -> list[str]:
    """Many requests at once."""
    with provider.generate_many(prompts, max_workers=32, ordered=False, timeout=60, temperature=0) as run:
        assert_type(run, BulkRun)
        for result in run:
            assert_type(result, BulkSuccess | BulkFailure)
            assert_type(result.index, int)
            assert_type(result.custom_id, str)
            assert_type(result.response, LLMResponse | None)
            assert_type(result.error, GroqProviderError | None)
    provider.generate_many(LLMRequest(messages=(Message.user(p),), custom_id=p) for p in prompts)
    return [result.response.content for result in provider.generate_many(prompts) if result.response is not None]


def outcomes(provider: GroqProvider, prompts: Sequence[str]) -> None:
    """Each way to tell answers from failures tells type checkers that the one is there and the other is not."""
    for result in provider.generate_many(prompts):
        known: BulkResult = result
        assert_type(known.response, LLMResponse | None)
        result.response.content  # type: ignore[union-attr]  # noqa: B018 - there may be none
        if result.error is None:
            assert_type(result, BulkSuccess)
            assert_type(result.response.content, str)
        else:
            assert_type(result.error, GroqProviderError)
            assert_type(result.response, None)
        if result.ok:
            assert_type(result.response, LLMResponse)
            assert_type(result.error, None)
        else:
            assert_type(result.error.retryable, bool)
        if not result.ok:
            assert_type(result.error, GroqProviderError)
            continue
        assert_type(result.response, LLMResponse)
        if result.response is None:
            assert_never(result)
    for result in provider.generate_many(prompts):
        if result.response is None:
            assert_type(result.error, GroqProviderError)
        else:
            assert_type(result.error, None)
        match result:
            case BulkSuccess(response=answer):
                assert_type(answer, LLMResponse)
            case BulkFailure(error=error):
                assert_type(error, GroqProviderError)


def failures(provider: GroqProvider) -> None:
    """What a caller reads from an error."""
    try:
        provider.generate("hi")
    except RateLimitedError as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.retry_at, datetime | None)
        assert_type(error.scope, str | None)
        assert_type(error.limit, int | None)
    except ModelDecommissionedError as error:
        assert_type(error.replacement, str | None)
    except APIStatusError as error:
        assert_type(error.status_code, int | None)
        assert_type(error.code, str | None)
        assert_type(error.retryable, bool)
        assert_type(error.attempts, tuple[Attempt, ...])
    except StreamError as error:
        assert_type(error.partial, LLMResponse | None)
    except ValueError:
        pass
    try:
        ProviderConfig.load("groq.yaml")
    except (ConfigurationError, InvalidRequestError) as error:
        assert_type(error.message, str)
    InvalidRequestError("no", status_code=400, param="n")
    InvalidRequestError("no", 400)  # type: ignore[call-arg]  # keywords only
    InvalidRequestError("no", statuscode=400)  # type: ignore[call-arg]  # misspelt


def state(provider: GroqProvider) -> None:
    """What a provider says about itself."""
    assert_type(provider.get_type(), ProviderType)
    assert_type(provider.get_name(), str)
    assert_type(provider.get_models(), tuple[ModelInfo, ...])
    assert_type(provider.get_capabilities(), tuple[ModelCapability, ...])
    assert_type(provider.get_latency_metrics(), LatencyMetrics)
    assert_type(provider.get_rate_limits(), Mapping[str, RateLimitStatus])
    assert_type(provider.get_health(), ProviderHealth)
    assert_type(provider.is_available(), bool)
    with provider as same:
        assert_type(same, GroqProvider)


def any_provider(provider: Provider) -> None:
    """What code may rely on that is written for any provider."""
    assert_type(provider.generate("hi", timeout=5, temperature=0.5), LLMResponse)
    for chunk in provider.generate_stream([Message.user("hi")]):
        assert_type(chunk, ResponseChunk)
    assert_type(provider.get_health(), ProviderHealth)
