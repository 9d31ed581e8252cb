"""Several providers as one."""

from __future__ import annotations

import threading

import pytest

from groq_provider import (
    CancelToken,
    GroqProvider,
    LLMRequest,
    Provider,
    ProviderType,
    RateLimits,
    RetryPolicy,
    Timeouts,
    default_catalogue,
)
from groq_provider import errors as e
from groq_provider.breaker import BreakerPolicy
from groq_provider.fallback import FallbackProvider
from groq_provider.testing import Emulator, Fault, Gate, Reply

NO_RETRY = RetryPolicy(max_retries=0)
SMALL = "openai/gpt-oss-20b"


@pytest.fixture
def pair():
    """Two emulators, a provider on each, and the two as one."""
    with Emulator(speed=0) as first, Emulator(speed=0) as second:
        primary = GroqProvider(api_key="gsk_1", base_url=first.base_url, retry=NO_RETRY)
        backup = GroqProvider(
            type="openai_compatible",
            api_key="gsk_2",
            base_url=f"{second.base_url}/openai/v1",
            default_model=SMALL,
            retry=NO_RETRY,
        )
        with FallbackProvider([primary, backup]) as both:
            yield first, second, both


def failing(emulator, **fault):
    emulator.enqueue(Fault(**fault))


def test_it_is_a_provider(pair):
    """Code that takes a provider takes this; type and name are the first member's."""
    _, _, both = pair
    assert isinstance(both, Provider)
    assert both.get_type() is ProviderType.GROQ
    assert both.get_name() == "Groq"
    assert {model.id for model in both.get_models()} >= {model.id for model in default_catalogue().models}
    assert both.get_capabilities()


def test_the_first_member_answers_while_it_can(pair):
    """The backup is not asked."""
    _, second, both = pair
    assert both.generate("Hello").provider == "groq"
    assert not second.requests


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 429, "headers": {"retry-after": "3600"}},
        {"status": 498},
        {"reset_before_headers": True},
        {"payload": "half-json"},
        {"cut_at_byte": 20},
    ],
    ids=["500", "503", "429", "498", "reset", "half-json", "cut"],
)
def test_the_next_answers_when_one_cannot(pair, fault):
    """The answer says who gave it, and lists the tries of both."""
    first, second, both = pair
    failing(first, **fault)
    answer = both.generate("Hello")
    assert (answer.provider, answer.model) == ("openai_compatible", SMALL)
    assert [attempt.number for attempt in answer.attempts] == [1, 2]
    assert answer.attempts[0].error is not None
    assert answer.attempts[1].error is None
    assert len(second.requests) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, e.InvalidRequestError),
        (401, e.AuthenticationError),
        (403, e.PermissionDeniedError),
        (404, e.NotFoundError),
        (413, e.RequestTooLargeError),
        (422, e.InvalidRequestError),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_request_or_the_key_moves_nothing(pair, status, error):
    """It would be wrong everywhere, or is for somebody to mend."""
    first, second, both = pair
    failing(first, status=status, body={"error": {"message": "no", "type": "x"}})
    with pytest.raises(error):
        both.generate("Hello")
    assert not second.requests


def test_a_decommissioned_model_moves_on_only_when_asked_to():
    """The error names the replacement."""
    with Emulator(speed=0) as emulator:
        provider = GroqProvider(api_key="gsk_1", base_url=emulator.base_url)
        members = [(provider, "mixtral-8x7b-32768"), (provider, SMALL)]
        with FallbackProvider(members, fallback_on_decommissioned=True) as willing, FallbackProvider(members) as strict:
            assert willing.generate("Hello").model == SMALL
            with pytest.raises(e.ModelDecommissionedError) as caught:
                strict.generate("Hello")
            assert caught.value.replacement


def test_all_fail_and_every_try_is_on_the_error(pair):
    """The last member's error carries the attempts of all."""
    first, second, both = pair
    failing(first, status=500)
    failing(second, status=502)
    with pytest.raises(e.ProviderUnavailableError) as caught:
        both.generate("Hello")
    assert caught.value.status_code == 502
    assert [(attempt.number, attempt.status_code) for attempt in caught.value.attempts] == [(1, 500), (2, 502)]


def test_an_open_breaker_is_passed_by():
    """A member that is not there is found out and left alone."""
    with Emulator(speed=0) as emulator:
        gone = GroqProvider(api_key="gsk_1", base_url="http://127.0.0.1:9", retry=NO_RETRY)
        there = GroqProvider(api_key="gsk_2", base_url=emulator.base_url)
        with FallbackProvider([(gone, SMALL), (there, SMALL)], breaker=BreakerPolicy(not_sent_in_a_row=2)) as both:
            for _ in range(2):
                assert len(both.generate("Hello").attempts) == 2
            assert [state for _, state in both.breakers] == ["open", "closed"]
            assert len(both.generate("Hello").attempts) == 1


def test_a_limiter_that_needs_too_long_moves_on():
    """The wait in a member's queue is bounded while somebody else could answer."""
    with Emulator(speed=0) as emulator:
        limited = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, rate_limits=RateLimits(rpm=1))
        free = GroqProvider(api_key="gsk_2", base_url=emulator.base_url)
        with FallbackProvider([(limited, SMALL), (free, "qwen/qwen3.8-27b")], fallback_after=0.5) as both:
            assert both.generate("one").model == SMALL
            assert both.generate("two").model == "qwen/qwen3.8-27b"


def test_a_stream_moves_on_before_its_first_chunk_only(pair):
    """A refusal and a broken beginning move on; a break after a chunk is raised with what there was."""
    first, second, both = pair
    failing(first, status=503)
    with both.generate_stream("Hello") as stream:
        text = "".join(chunk.content for chunk in stream)
        assert text == stream.response.content
        assert stream.response.provider == "openai_compatible"
        assert len(stream.response.attempts) == 2
    failing(first, reset_after_events=1)
    with both.generate_stream("Hello", include_reasoning=False) as stream:
        assert stream.collect().provider == "openai_compatible"
    before = len(second.requests)
    first.enqueue(Reply(content="one two three four", reasoning=False, fault=Fault(cut_after_events=3)))
    with both.generate_stream("Hello") as stream, pytest.raises(e.StreamInterruptedError) as caught:
        stream.collect()
    assert caught.value.partial.content
    assert len(second.requests) == before


def test_one_time_limit_covers_all_members():
    """The second member gets what the first left; with nothing left it is not asked."""
    with Emulator(speed=0) as first, Emulator(speed=0) as second:
        primary = GroqProvider(api_key="gsk_1", base_url=first.base_url, retry=NO_RETRY)
        backup = GroqProvider(api_key="gsk_2", base_url=second.base_url, retry=NO_RETRY)
        with FallbackProvider([primary, backup]) as both:
            stall = Fault(stall_before_headers=True)
            first.enqueue(stall)
            with pytest.raises(e.DeadlineExceededError):
                both.generate("Hello", timeout=0.3)
            stall.release()
            assert not second.requests
            slow = Fault(stall_before_headers=True)
            first.enqueue(slow)
            limits = Timeouts(first_token=0.2, total=20)
            assert both.generate("Hello", timeout=limits).provider == "groq"
            slow.release()
            assert len(second.requests) == 1


def test_cancelling_ends_the_search(pair):
    """A cancelled call moves nowhere."""
    first, second, both = pair
    token, gate = CancelToken(), Gate()
    first.enqueue(Reply(content="x", gate=gate))
    gate.release()
    canceller = threading.Thread(target=lambda: (gate.wait_for(1), token.cancel()))
    with both.generate_stream("Hello", cancel=token) as stream:
        canceller.start()
        with pytest.raises(e.RequestCancelledError):
            stream.collect()
    canceller.join()
    assert not second.requests


def test_many_requests_over_both(pair):
    """Bulk runs fall back item by item."""
    first, _, both = pair
    failing(first, status=500)
    results = list(both.generate_many(["a", "b", "c"], max_workers=1))
    assert [result.response.provider for result in results] == ["openai_compatible", "groq", "groq"]


def test_health_and_availability(pair):
    """Degraded when only the backup is well."""
    first, _, both = pair
    assert both.get_health().status == "healthy"
    failing(first, status=500)
    assert both.get_health().status == "degraded"
    assert both.is_available()
    both.close()
    both.close()
    assert not both.is_available()
    with pytest.raises(e.ProviderClosedError):
        both.generate("Hello")


def test_a_request_of_its_own_model_reaches_members_of_the_same_kind():
    """A bare member of the same kind is asked for the request's model."""
    with Emulator(speed=0) as first, Emulator(speed=0) as second:
        primary = GroqProvider(api_key="gsk_1", base_url=first.base_url, retry=NO_RETRY)
        backup = GroqProvider(api_key="gsk_2", base_url=second.base_url)
        first.enqueue(Fault(status=500))
        with FallbackProvider([primary, backup]) as both:
            assert both.generate(LLMRequest(messages="Hello", model="qwen/qwen3.8-27b")).model == "qwen/qwen3.8-27b"


@pytest.mark.parametrize(
    ("members", "text"),
    [([], "members is empty"), (["groq"], r"members\[0\]"), ([("x", "y")], r"members\[0\]")],
    ids=["none", "name", "pair"],
)
def test_wrong_members_are_named(members, text):
    """One clear error at construction."""
    with pytest.raises(e.ConfigurationError, match=text):
        FallbackProvider(members)


def test_a_wrong_fallback_after_is_named(pair):
    """One clear error at construction."""
    with pytest.raises(e.ConfigurationError, match="fallback_after = -1"):
        FallbackProvider([pair[2]], fallback_after=-1)
