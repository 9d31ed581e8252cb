"""Several providers as one, over emulators and over scripted members."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
import warnings

import pytest
from support.fakes import PATIENCE, FakeClock
from support.servers import serving

from groq_provider import (
    Attempt,
    CancelToken,
    GroqProvider,
    LLMRequest,
    LLMResponse,
    Provider,
    ProviderHealth,
    ProviderType,
    RateLimits,
    ResponseChunk,
    RetryPolicy,
    Timeouts,
    default_catalogue,
)
from groq_provider import errors as e
from groq_provider.call.breaker import BreakerPolicy
from groq_provider.fallback.fallback_provider import FallbackProvider
from groq_provider.testing import Emulator, Fault, Gate, Reply

NO_RETRY = RetryPolicy(max_retries=0)
SMALL = "openai/gpt-oss-20b"


@pytest.fixture
def pair():
    """Yield two emulators, a provider on each, and a ``FallbackProvider`` over both."""
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


def test_first_member_answers_while_able(pair):
    """The first member answers while it can; the backup is not asked."""
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
def test_next_member_takes_over(pair, fault):
    """The next member answers when one cannot; the answer says who gave it and lists the tries of both."""
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
def test_request_or_key_fault_stays(pair, status, error):
    """An invalid request or a refused key asks no other member: it is invalid everywhere, or must be reported."""
    first, second, both = pair
    failing(first, status=status, body={"error": {"message": "no", "type": "x"}})
    with pytest.raises(error):
        both.generate("Hello")
    assert not second.requests


def test_decommissioned_model_moves_on_request():
    """A decommissioned model asks the next member only if configured; the error names the replacement."""
    with Emulator(speed=0) as emulator:
        provider = GroqProvider(api_key="gsk_1", base_url=emulator.base_url)
        members = [(provider, "mixtral-8x7b-32768"), (provider, SMALL)]
        with FallbackProvider(members, fallback_on_decommissioned=True) as willing, FallbackProvider(members) as strict:
            assert willing.generate("Hello").model == SMALL
            with pytest.raises(e.ModelDecommissionedError) as caught:
                strict.generate("Hello")
            assert caught.value.replacement


def test_total_failure_lists_every_try(pair):
    """The last member's error carries the attempts of all."""
    first, second, both = pair
    failing(first, status=500)
    failing(second, status=502)
    with pytest.raises(e.ProviderUnavailableError) as caught:
        both.generate("Hello")
    assert caught.value.status_code == 502
    assert [(attempt.number, attempt.status_code) for attempt in caught.value.attempts] == [(1, 500), (2, 502)]


def test_open_breaker_is_passed_by():
    """A member that cannot be reached opens its breaker and is not asked for a while."""
    with Emulator(speed=0) as emulator:
        gone = GroqProvider(api_key="gsk_1", base_url="http://127.0.0.1:9", retry=NO_RETRY)
        there = GroqProvider(api_key="gsk_2", base_url=emulator.base_url)
        policy = BreakerPolicy(not_sent_in_a_row=2, open_for=60.0)
        with FallbackProvider([(gone, SMALL), (there, SMALL)], breaker=policy) as both:
            for _ in range(2):
                assert len(both.generate("Hello").attempts) == 2
            assert [state for _, state in both.breakers] == ["open", "closed"]
            assert len(both.generate("Hello").attempts) == 1


def test_slow_limiter_moves_on():
    """*fallback_after* bounds the wait in a member's limiter while other members could answer."""
    with Emulator(speed=0) as emulator:
        limited = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, rate_limits=RateLimits(rpm=1))
        free = GroqProvider(api_key="gsk_2", base_url=emulator.base_url)
        with FallbackProvider([(limited, SMALL), (free, "qwen/qwen3.8-27b")], fallback_after=0.5) as both:
            assert both.generate("one").model == SMALL
            assert both.generate("two").model == "qwen/qwen3.8-27b"


def test_stream_moves_before_first_chunk(pair):
    """A failure before the first chunk asks the next member; a later one is raised with the partial answer."""
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


def test_interrupt_after_delivery_closes_stream(pair):
    """An interrupt when ``next()`` has released the stream loses a chunk, so reading on is an error."""
    first, _, both = pair
    first.enqueue(Reply(chunks=["one", " two", " three"]))
    stream = both.generate_stream("Hello")
    release = stream._release_lock

    def struck():
        release()
        stream._release_lock = release
        raise KeyboardInterrupt

    stream._release_lock = struck
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)


def test_one_time_limit_covers_all():
    """The second member gets the remaining time; without any it is not asked."""
    with Emulator(speed=0) as first, Emulator(speed=0) as second:
        primary = GroqProvider(api_key="gsk_1", base_url=first.base_url, retry=NO_RETRY)
        backup = GroqProvider(api_key="gsk_2", base_url=second.base_url, retry=NO_RETRY)
        with FallbackProvider([primary, backup]) as both:
            stall = Fault(stall_before_headers=True)
            first.enqueue(stall)
            with pytest.raises(e.DeadlineExceededError):
                both.generate("Hello", timeout=1.0)
            stall.release()
            assert first.wait_until(lambda _: not first.pending_replies, PATIENCE)
            assert not second.requests
            slow = Fault(stall_before_headers=True)
            first.enqueue(slow)
            limits = Timeouts(first_token=2.0, total=PATIENCE)  # which holds for the second, too
            assert both.generate("Hello", timeout=limits).provider == "groq"
            slow.release()
            assert len(second.requests) == 1


def test_cancelling_ends_the_search(pair):
    """A cancelled call asks no other member."""
    first, second, both = pair
    token, gate = CancelToken(), Gate()
    first.enqueue(Reply(content="x", gate=gate))
    gate.release()
    canceller = threading.Thread(target=lambda: (gate.wait_for(1, PATIENCE), token.cancel()))
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


def test_request_model_reaches_same_kind():
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


def test_wrong_fallback_after_is_named(pair):
    """One clear error at construction."""
    with pytest.raises(e.ConfigurationError, match="fallback_after = -1"):
        FallbackProvider([pair[2]], fallback_after=-1)


# --- triggers ----------------------------------------------------------------------------------------------------------------

#: Errors that another member may avoid.
MOVES = {
    "CircuitOpenError",
    "ProviderDisabledError",
    "RateLimitTimeoutError",
    "RateLimitedError",
    "ProviderUnavailableError",
    "OverloadedError",
    "TransportError",
    "APIConnectionError",
    "TLSError",
    "ProxyError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "PoolTimeoutError",
    "ProtocolError",
    "ResponseDecodeError",
    "IncompleteResponseError",
    "StreamError",
    "StreamInterruptedError",
    "StreamIdleTimeoutError",
    "StreamProtocolError",
}
#: Errors that every member would repeat, that must be reported, that the caller caused, out of time, or outside a call.
STAYS = {
    "GroqProviderError",
    "ConfigurationError",
    "ProviderClosedError",
    "RequestCancelledError",
    "DeadlineExceededError",
    "RedirectRefusedError",
    "ResponseError",
    "ResponseTooLargeError",
    "OutputTruncatedError",
    "APIStatusError",
    "InvalidRequestError",
    "ContextTooLongError",
    "ToolUseFailedError",
    "JSONValidationFailedError",
    "RequestTooLargeError",
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
    "ModelNotFoundError",
    "ModelDecommissionedError",
    "JournalError",
    "JournalLockedError",
    "JournalInputChangedError",
}


class Scripted:
    """A member that raises the errors given to it, and answers after that.

    Args:
        name: Its name.
        script: Errors to raise, one per call; for a stream pairs of an error and the number of chunks before it.
        clock: Clock to move by *took* at each call.
        took: Seconds that a call takes.
    """

    def __init__(self, name, *script, clock=None, took=0.0):
        self.name, self.script, self.clock, self.took = name, list(script), clock, took
        self.asked = []

    def get_type(self):
        return ProviderType.GROQ

    def get_name(self):
        return self.name

    def get_models(self):
        return ()

    def get_capabilities(self):
        return ()

    def is_available(self):
        return True

    def get_health(self):
        return ProviderHealth()

    def close(self):
        pass

    def _ask(self, request, more):
        self.asked.append({"request": request, **more})
        if self.clock is not None:
            self.clock.advance(self.took)
        return self.script.pop(0) if self.script else None

    def generate(self, request, **more):
        step = self._ask(request, more)
        if step is not None:
            raise step
        return LLMResponse(content=self.name, provider=self.name, model=request.model)

    def generate_stream(self, request, **more):
        step = self._ask(request, more)
        if step is not None and not isinstance(step, tuple):
            raise step
        return ScriptedStream(self.name, *(step or (None, 2)))


class ScriptedStream:
    """A stream of some chunks, then an error or the end."""

    decode_errors = 0

    def __init__(self, name, error, count):
        self.name, self.error, self.left, self.closed = name, error, count, False

    def __next__(self):
        if self.left:
            self.left -= 1
            return ResponseChunk(content="word ")
        if self.error is not None:
            raise self.error
        raise StopIteration

    @property
    def response(self):
        return LLMResponse(content="word word ", provider=self.name)

    def close(self):
        self.closed = True


def made(name, **more):
    return getattr(e, name)("made up", **more)


def test_trigger_table_names_every_error():
    """Each error class stands in one of the two lists, so that a new one cannot be forgotten."""
    assert set(e.__all__) == MOVES | STAYS
    assert not MOVES & STAYS


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("name", e.__all__)
def test_only_listed_triggers_move_on(name, stream):
    """Only the listed errors ask another member, for a plain call and for a stream before its first chunk."""
    step = made(name)
    first, second = Scripted("first", (step, 0) if stream else step), Scripted("second")
    both = FallbackProvider([first, second])
    call = (lambda: both.generate_stream("Hello").collect()) if stream else (lambda: both.generate("Hello"))
    if name in MOVES:
        assert call().provider == "second"
        assert len(second.asked) == 1
    else:
        with pytest.raises(getattr(e, name)) as caught:
            call()
        assert caught.value is step
        assert second.asked == []


@pytest.mark.parametrize(
    ("status", "moves"),
    [
        *((code, False) for code in (400, 401, 403, 404, 409, 413, 422)),
        *((code, True) for code in (408, 425, 429, 498, 500, 502, 503, 504, 520, 524, 529)),
    ],
)
def test_statuses_move_on_or_not(pair, status, moves):
    """A status asks the next member if a retry makes sense for it, after its retries failed."""
    first, second, both = pair
    failing(first, status=status, body={"error": {"message": "no", "type": "x"}}, headers={"retry-after": "9999"})
    if moves:
        assert both.generate("Hello").provider == "openai_compatible"
    else:
        with pytest.raises(e.APIStatusError) as caught:
            both.generate("Hello")
        assert caught.value.status_code == status
    assert len(second.requests) == int(moves)


def test_member_retries_come_first():
    """The next member is asked, and the answer lists every attempt of both."""
    with Emulator(speed=0) as emulator:
        for _ in range(3):
            failing(emulator, status=503)
        policy = RetryPolicy(max_retries=2, base_delay=0, throttle_delay=0)
        member = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, retry=policy)
        with FallbackProvider([(member, "qwen/qwen3.8-27b"), (member, SMALL)]) as both:
            answer = both.generate("Hello")
            assert answer.model == SMALL
            assert [attempt.status_code for attempt in answer.attempts] == [503, 503, 503, 200]
            assert [attempt.number for attempt in answer.attempts] == [1, 2, 3, 4]


def test_spent_retry_budget_moves_on():
    """An exhausted retry budget asks the next member at once, whatever the policy would allow."""
    with Emulator(speed=0) as emulator:
        policy = RetryPolicy(max_retries=2, base_delay=0, throttle_delay=0)
        member = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, retry=policy)
        while member._runtime.budget.spend(14.0):
            pass
        failing(emulator, status=500)
        with FallbackProvider([(member, "qwen/qwen3.8-27b"), (member, SMALL)]) as both:
            assert [attempt.status_code for attempt in both.generate("Hello").attempts] == [500, 200]


def test_day_limit_moves_without_wait():
    """A 429 that names a limit of the day asks the next member at once."""
    clock = FakeClock()
    message = "Rate limit reached for model `m` on requests per day (RPD): Limit 1000, Used 1000, Requested 1. Please try again in 1m26.4s."
    with Emulator(speed=0) as emulator:
        member = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, clock=clock)
        body = {"error": {"message": message, "type": "requests", "code": "rate_limit_exceeded"}}
        failing(emulator, status=429, body=body, headers={"retry-after": "87"})
        with FallbackProvider([(member, "qwen/qwen3.8-27b"), (member, SMALL)], clock=clock) as both:
            assert both.generate("Hello").model == SMALL
        assert clock.waits == []


def test_limiter_over_remaining_time_moves():
    """Without *fallback_after* the call's own time limit bounds the wait in a limiter."""
    clock = FakeClock()
    with Emulator(speed=0) as emulator:
        limited = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, rate_limits=RateLimits(rpm=1), clock=clock)
        free = GroqProvider(api_key="gsk_2", base_url=emulator.base_url)
        with FallbackProvider([(limited, SMALL), (free, "qwen/qwen3.8-27b")], clock=clock) as both:
            assert both.generate("one").model == SMALL
            assert both.generate("two", timeout=30).model == "qwen/qwen3.8-27b"
        assert clock.waits == []


def test_hint_over_fallback_after_moves():
    """*fallback_after* bounds the wait that a 429 asks for, too."""
    clock = FakeClock()
    with Emulator(speed=0) as emulator:
        member = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, clock=clock)
        failing(emulator, status=429, headers={"retry-after": "30"})
        with FallbackProvider([(member, "qwen/qwen3.8-27b"), (member, SMALL)], fallback_after=2, clock=clock) as both:
            assert both.generate("Hello").model == SMALL
        assert clock.waits == []


def test_decommissioned_model_moves_stream():
    """A decommissioned model asks the next member for a stream, too, if configured."""
    first, second = Scripted("first", made("ModelDecommissionedError", replacement="b")), Scripted("second")
    both = FallbackProvider([(first, "a"), (second, "b")], fallback_on_decommissioned=True)
    assert both.generate_stream("Hello").collect().provider == "second"
    assert [asked["request"].model for asked in first.asked + second.asked] == ["a", "b"]


# --- time, cancels, what is passed on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_each_member_gets_remaining_time(stream):
    """Each member gets the rest of the total; the other limits start anew with it."""
    clock = FakeClock()
    members = [Scripted(str(n), made("APIConnectionError"), clock=clock, took=3.0) for n in range(4)]
    both = FallbackProvider(members, clock=clock)
    with pytest.raises(e.APIConnectionError):
        (both.generate_stream if stream else both.generate)("Hello", timeout=Timeouts(total=8, idle=5))
    limits = [asked["timeout"] for member in members for asked in member.asked]
    assert [limit.total for limit in limits] == pytest.approx([8.0, 5.0, 2.0])  # and none for the fourth
    assert {limit.idle for limit in limits} == {5}


def test_extras_reach_asked_member(pair):
    """Extra headers, body and query reach the member that answers."""
    first, second, both = pair
    failing(first, status=503)
    extras = {"extra_headers": {"X-Trace": "t-1"}, "extra_body": {"user": "u-1"}, "extra_query": {"v": "2"}}
    both.generate("Hello", **extras)
    with both.generate_stream("Hello", **extras) as stream:
        stream.collect()
    for request in [*first.requests, *second.requests]:
        assert request.headers["x-trace"] == "t-1"
        assert request.json["user"] == "u-1"
        assert request.query == "v=2"


def test_plain_member_gets_no_extras():
    """A member that needs no extras is given none, so that it need not know of them."""
    member = Scripted("only")
    FallbackProvider([member]).generate("Hello")
    assert set(member.asked[0]) == {"request", "timeout", "cancel"}


def test_pair_model_wins_over_extra():
    """The model of a pair wins over the extra body; otherwise every pair would be asked for the same model."""
    first, second = Scripted("first", made("APIConnectionError")), Scripted("second")
    body = {"model": "x", "more": 1}
    FallbackProvider([(first, "a"), second]).generate("Hello", extra_body=body)
    assert first.asked[0]["extra_body"] == {"more": 1}
    assert second.asked[0]["extra_body"] == body == {"model": "x", "more": 1}


@pytest.mark.parametrize(
    "wrong",
    [{"timeout": -1}, {"cancel": "now"}, {"temperature": "hot"}, {"tempreature": 1}, {"extra_headers": {"a": 1}}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_argument_is_invalid_request(pair, wrong):
    """Wrong arguments raise as in a provider; no member is asked, and no breaker counts it."""
    first, second, both = pair
    for call in (both.generate, both.generate_stream):
        with pytest.raises(e.InvalidRequestError):
            call("Hello", **wrong)
    if "extra_headers" not in wrong:
        with pytest.raises(e.InvalidRequestError):
            both.generate_many(["Hello"], **wrong)
    assert not first.requests + second.requests


def test_cancel_reaches_tried_member():
    """A cancel reaches the member being tried, also while the stream moves from one to the next."""
    reached = threading.Event()

    def stuck(sock, server):
        server.read(sock)
        reached.set()
        server.wait_for_end(sock)

    with Emulator(speed=0) as emulator, serving(stuck) as server:
        first = GroqProvider(api_key="gsk_1", base_url=emulator.base_url, retry=NO_RETRY)
        second = GroqProvider(api_key="gsk_2", base_url=server.url, retry=NO_RETRY)
        emulator.enqueue(Reply(content="x", reasoning=False, fault=Fault(reset_after_events=1)))
        with FallbackProvider([first, second]) as both, both.generate_stream("Hello") as stream:
            raised = []

            def read():
                with pytest.raises(e.RequestCancelledError) as caught:
                    next(stream)
                raised.append(caught.value)

            reader = threading.Thread(target=read)
            reader.start()
            assert reached.wait(PATIENCE)
            started = time.monotonic()
            stream.cancel()
            reader.join(PATIENCE)
            assert time.monotonic() - started < 5
            assert [attempt.error for attempt in raised[0].attempts] == [
                "IncompleteResponseError",
                "RequestCancelledError",
            ]
            with pytest.raises(e.RequestCancelledError):
                next(stream)


def test_token_is_free_at_end(pair):
    """At its end, however it comes, a stream unsubscribes from the caller's token."""
    first, _, both = pair
    token = CancelToken()
    with both.generate_stream("Hello", cancel=token) as stream:
        stream.collect()
    with both.generate_stream("Hello", cancel=token) as stream:
        next(stream)
    first.enqueue(Reply(content="one two three", reasoning=False, fault=Fault(cut_after_events=3)))
    with pytest.raises(e.StreamInterruptedError):
        both.generate_stream("Hello", cancel=token).collect()
    failing(first, status=400)
    with pytest.raises(e.InvalidRequestError):
        both.generate_stream("Hello", cancel=token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        both.generate_stream("Hello", cancel=token)  # and forgotten
        gc.collect()
    both.generate("Hello", cancel=token)
    assert token._callbacks == {}


# --- streams and breakers ----------------------------------------------------------------------------------------------------

PROBING = BreakerPolicy(not_sent_in_a_row=1, open_for=5.0, jitter=0.0, probes=1, successes=1)


def half_open(clock, *script):
    """A member whose breaker lets one probe through, and the provider around it."""
    member = Scripted("only", made("APIConnectionError", sent=False), *script)
    both = FallbackProvider([member], breaker=PROBING, clock=clock)
    with pytest.raises(e.APIConnectionError):
        both.generate("Hello")
    clock.advance(5)
    assert both.breakers == (("only", "half-open"),)
    return both


@pytest.mark.parametrize("how", ["closed", "forgotten", "interrupted"])
def test_uninformative_probe_makes_room(how):
    """A stream closed, abandoned or interrupted before its first chunk says nothing of its member, so another probe may follow."""
    both = half_open(FakeClock(), (KeyboardInterrupt(), 0))
    stream = both.generate_stream("Hello")
    with pytest.raises(e.CircuitOpenError):
        both.generate("Hello")
    if how == "closed":
        stream.close()
        stream.close()
    elif how == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    else:
        del stream
        gc.collect()
    assert both.generate("Hello").provider == "only"
    assert both.breakers == (("only", "closed"),)


def test_stream_counts_start_and_break():
    """A stream counts at its first chunk and again when it breaks, once each, however often ``next()`` is called."""
    clock = FakeClock()
    policy = BreakerPolicy(min_calls=4, failure_ratio=0.5, jitter=0.0)
    member = Scripted("only", *[(made("StreamInterruptedError"), 1)] * 2)
    both = FallbackProvider([member], breaker=policy, clock=clock)
    breaker = both.members[0].breaker
    for calls in (2, 4):
        stream = both.generate_stream("Hello")
        assert next(stream).content
        assert breaker._slots[-1][1:] == [calls - 1, calls // 2 - 1]
        for _ in range(5):
            with pytest.raises(e.StreamInterruptedError):
                next(stream)
        if calls == 2:
            assert breaker._slots[-1][1:] == [2, 1]
    assert breaker.state == "open"


def test_first_chunk_answers_probe():
    """The first chunk ends a probe, not the end of a long stream."""
    both = half_open(FakeClock())
    stream = both.generate_stream("Hello")
    assert next(stream).content
    assert both.breakers == (("only", "closed"),)
    stream.close()


def test_broken_stream_lists_tries_once():
    """A broken stream lists every attempt once, those of earlier members included, however often it is read."""
    attempt = Attempt(number=1, started_at=FakeClock().now(), error="APIConnectionError")
    first = Scripted("first", (made("APIConnectionError", attempts=(attempt,)), 0))
    second = Scripted("second", (made("StreamInterruptedError", attempts=(attempt,)), 1))
    third = Scripted("third")
    stream = FallbackProvider([first, second, third]).generate_stream("Hello")
    assert next(stream).content
    for _ in range(3):
        with pytest.raises(e.StreamInterruptedError) as caught:
            next(stream)
        assert [item.number for item in caught.value.attempts] == [1, 2]
    with pytest.raises(e.StreamInterruptedError):
        _ = stream.response
    assert stream.poll()
    assert third.asked == []


CUT = {"cut_after_events": 0}


def test_closed_stream_asks_no_member(pair):
    """A closed stream asks no other member, even if ``poll()`` met the first one's failure."""
    first, second, both = pair
    failing(first, **CUT)
    stream = both.generate_stream("Hello")
    assert stream.poll(PATIENCE)
    with pytest.raises(RuntimeError, match="not ended yet"):
        _ = stream.response
    stream.close()
    for _ in range(2):
        with pytest.raises((RuntimeError, e.StreamError)):
            next(stream)
    assert not second.requests


def test_cancel_after_polled_failure_wins(pair):
    """A cancel after ``poll()`` met a failure is a cancel, though another member would have been asked."""
    first, second, both = pair
    failing(first, **CUT)
    stream = both.generate_stream("Hello")
    assert stream.poll(PATIENCE)
    stream.cancel()
    for _ in range(2):
        with pytest.raises(e.RequestCancelledError):
            next(stream)
    assert not second.requests


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_cancel_between_members_wins(stream):
    """A cancel between two members is a cancel, with the attempts so far."""
    token = CancelToken()
    attempt = Attempt(number=1, started_at=FakeClock().now(), error="APIConnectionError")
    second = Scripted("second")

    class Cancelling(Scripted):
        def _ask(self, request, more):
            token.cancel()
            return super()._ask(request, more)

    first = Cancelling("first", made("APIConnectionError", attempts=(attempt,)))
    both = FallbackProvider([first, second])
    with pytest.raises(e.RequestCancelledError) as caught:
        (both.generate_stream if stream else both.generate)("Hello", cancel=token)
    assert [each.error for each in caught.value.attempts] == ["APIConnectionError"]
    assert second.asked == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError], ids=lambda error: error.__name__)
def test_member_bug_ends_stream(error):
    """A member's own bug, or Ctrl-C, ends the stream: no other is asked; its breaker gets one report."""
    first = Scripted("first", (made("APIConnectionError"), 0))
    second = Scripted("second", error())
    third = Scripted("third")
    both = FallbackProvider([first, second, third])
    stream = both.generate_stream("Hello")
    with pytest.raises(error):
        next(stream)
    for _ in range(2):
        with pytest.raises(e.APIConnectionError):
            next(stream)
    stream.close()
    assert third.asked == []
    assert sum(slot[1] for slot in both.members[0].breaker._slots) == 1


@pytest.mark.parametrize("second_fails", ["at once", "after a chunk"])
def test_arrived_part_lists_tries_once(pair, second_fails):
    """``partial`` of the stream and of the error carry the attempts of all members."""
    first, second, both = pair
    failing(first, **CUT)
    failing(second, **({"status": 500} if second_fails == "at once" else {"cut_after_events": 2}))
    stream = both.generate_stream("Hello")
    with pytest.raises(e.GroqProviderError) as caught:
        stream.collect()
    tries = [attempt.number for attempt in caught.value.attempts]
    assert tries == [1, 2]
    assert [attempt.number for attempt in stream.partial.attempts] == tries
    if caught.value.partial is not None:
        assert [attempt.number for attempt in caught.value.partial.attempts] == tries


def test_unstartable_stream_fails_for_good():
    """Each further ``next()`` raises the last member's error, and asks no member again."""
    first = Scripted("first", (made("APIConnectionError"), 0))
    second = Scripted("second", made("ProviderUnavailableError"))
    stream = FallbackProvider([first, second]).generate_stream("Hello")
    for _ in range(3):
        with pytest.raises(e.ProviderUnavailableError):
            next(stream)
    assert len(second.asked) == 1


def test_stream_shows_state_never_pickles(pair):
    """A stream does not pickle, as it holds a connection, and shows its state."""
    _, _, both = pair
    with both.generate_stream("Hello") as stream:
        assert "Groq" in repr(stream)
        assert stream.decode_errors == 0
        for travel in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                travel(stream)


def test_it_travels_to_other_processes(pair, monkeypatch):
    """A pickled provider keeps members, models and settings; the keys come from the environment of the other process."""
    _, _, both = pair
    monkeypatch.setenv("GROQ_API_KEY", "gsk_there")
    data = pickle.dumps(
        FallbackProvider([(both.members[0].provider, SMALL)], fallback_after=3, fallback_on_decommissioned=True)
    )
    assert b"gsk_1" not in data
    with pickle.loads(data) as again:
        assert again.generate("Hello").model == SMALL
        assert again.fallback_after == 3
        assert again.should_ask_next(e.ModelDecommissionedError("x"))
    with pytest.raises(TypeError, match="clock"):
        pickle.dumps(FallbackProvider([both.members[0].provider], clock=FakeClock()))
