"""An error names the limit that was reached, its size, the service's count, and the details for its support."""

from __future__ import annotations

import json
import pickle
import re
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from support.bench import Bench, answer, chunk, refusal, streamed

from groq_provider import RateLimits, RetryPolicy, Timeouts, TokenBucketRateLimiter
from groq_provider import errors as e
from groq_provider.wire.failures import error_from_response

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


def slow(kind=e.ReadTimeoutError, *, sent=True):
    return kind("no answer in time", sent=sent)


def call(bench, timeouts, *, stream):
    return bench.stream(timeouts=timeouts).collect() if stream else bench.generate(timeouts=timeouts)


@pytest.mark.parametrize(
    ("step", "stream", "limits", "words"),
    [
        (slow(), False, {"first_token": 7}, "Timeouts.first_token = 7 s"),
        (slow(), True, {"first_token": 7}, "Timeouts.first_token = 7 s"),
        (streamed(slow()), True, {"first_token": 0.25}, "Timeouts.first_token = 0.25 s"),
        (slow(e.ConnectTimeoutError, sent=False), False, {"connect": 3}, "Timeouts.connect = 3 s"),
        (slow(e.PoolTimeoutError, sent=False), False, {"first_token": 9}, "Timeouts.first_token = 9 s"),
        (streamed(chunk("x"), slow()), True, {"idle": 4}, "Timeouts.idle = 4 s"),
    ],
    ids=["plain", "stream", "no event", "connect", "pool", "idle"],
)
def test_time_limits_are_named(step, stream, limits, words):
    """With their size, once."""
    bench = Bench(step, policy=RetryPolicy(max_retries=0))
    with pytest.raises(e.GroqProviderError) as caught:
        call(bench, Timeouts(**{"first_token": None, **limits}), stream=stream)
    assert caught.value.message.count(words) == 1
    assert isinstance(caught.value, TimeoutError)
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_the_total_is_named(stream):
    """Not the limit that it cut short."""

    def late(call):
        bench.clock.advance(3)
        return slow()

    bench = Bench(late)
    with pytest.raises(e.DeadlineExceededError, match=re.escape("(Timeouts.total = 2.5 s)")) as caught:
        call(bench, Timeouts(first_token=60, total=2.5), stream=stream)
    assert "first_token" not in caught.value.message


@pytest.mark.parametrize(("limits", "named"), [({"wait": 5}, "wait = 5 s"), ({"total": 6}, "total = 6 s"), ({"wait": 5, "total": 6}, "wait = 5 s"), ({"wait": 7, "total": 6}, "total = 6 s")], ids=str)  # fmt: skip
def test_waits_name_their_limit(limits, named):
    """Of the two that may end a wait, the one that did."""
    bench = Bench(answer(), answer())
    bench.runtime.limiter = TokenBucketRateLimiter(RateLimits(rpm=1), clock=bench.clock)
    bench.generate()
    with pytest.raises(e.RateLimitTimeoutError, match=re.escape(f"(Timeouts.{named})")):
        bench.generate(timeouts=Timeouts(first_token=None, **limits))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    "words", ["Please try again in 1s.", "Slow down, try again in 1m2.5s", "try again in 2 minutes", ""]
)
def test_hint_cap_says_so(words, status):
    """Instead of the service's words, which name another time than its header."""
    bench = Bench(refusal(status, f"Busy. {words}", headers={"retry-after": "120"}))
    error = bench.fails(e.APIStatusError)
    assert "try again in" not in error.message
    assert error.message.endswith("a wait of 120 s is longer than RetryPolicy.hint_cap = 60 s allows")
    assert error.message.count("hint_cap") == 1
    assert error.retry_after == 120


def test_hint_cap_of_the_limiter():
    """A limit of the day that is used up here: nothing was sent, and the cap is named."""
    bench = Bench(answer(), answer())
    bench.runtime.limiter = TokenBucketRateLimiter(RateLimits(rpd=1), clock=bench.clock)
    bench.generate()
    error = bench.fails(e.RateLimitedError)
    assert error.sent is False
    assert "RetryPolicy.hint_cap = 60 s" in error.message


@pytest.mark.parametrize(
    "policy", [RetryPolicy(max_retries=0), RetryPolicy(hint_cap=600)], ids=["no retries", "within the cap"]
)
def test_hint_cap_named_where_struck(policy):
    """What ends for another reason does not name it."""
    bench = Bench(*[refusal(429, "Please try again in 120s.", headers={"retry-after": "120"})] * 3, policy=policy)
    assert "hint_cap" not in bench.fails(e.RateLimitedError).message


CONTEXTS = {
    "groq": ("Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192", {}, 8192, 9000),
    "openai": ("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in the messages, 1000 in the completion).", {}, 8192, 9000),
    "resulted": ("This model's maximum context length is 131,072 tokens. However, your messages resulted in 140,001 tokens.", {}, 131072, 140001),
    "prompt": ("maximum prompt length is 131072 but the request contains 150000 tokens.", {}, 131072, 150000),
    "llama.cpp": ("the request exceeds the available context size", {"n_prompt_tokens": 9000, "n_ctx": 8192}, 8192, 9000),
    "none": ("Please reduce the length of the messages or completion.", {}, None, None),
    "wrong types": ("Please reduce the length of the messages.", {"n_ctx": "x", "n_prompt_tokens": -1}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTEXTS)
def test_contexts_have_their_numbers(name):
    """As the service named them, as plain integers; none where it named none."""
    message, fields, limit, requested = CONTEXTS[name]
    error = refused({"message": message, "code": "context_length_exceeded", **fields})
    assert type(error) is e.ContextTooLongError
    assert (error.limit, error.requested) == (limit, requested)
    assert (pickle.loads(pickle.dumps(error)).limit, message[:20] in error.message) == (limit, True)


def refused(body):
    return error_from_response(400, CaseInsensitiveDict(), json.dumps({"error": body}).encode(), now=NOW)


@given(st.text(st.sampled_from("0123456789,. abcdefghilmnopqrstux"), max_size=300))
def test_any_words_are_read(words):
    """Whatever a server writes: numbers or none."""
    error = refused({"message": "context length: " + words, "code": "context_length_exceeded"})
    assert all(number is None or type(number) is int for number in (error.limit, error.requested))


@pytest.mark.parametrize("tries", [1, 3])
def test_support_gets_id_and_attempts(tries):
    """Request id and number of attempts stand in the text, not in the message."""
    error = Bench(*[refusal(500, "broken")] * 3, policy=RetryPolicy(max_retries=tries - 1)).fails(
        e.ProviderUnavailableError
    )
    assert str(error) == f"{error.message} [request id req_1, {tries} attempt{'s' * (tries > 1)}]"
    assert "req_1" not in error.message


@pytest.mark.parametrize("wrong", ["req\x1b[2J", "a b", "x" * 65, "req\n2"], ids=ascii)
def test_odd_ids_stay_out(wrong):
    """An id that is none is not shown to a terminal."""
    assert str(e.APIStatusError("broken", request_id=wrong)) == "broken"


def test_nothing_known_adds_nothing():
    """A wrong setting has neither."""
    assert str(e.ConfigurationError("api_key must be a string")) == "api_key must be a string"
