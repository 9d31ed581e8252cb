"""One call from request to answer, over fakes: no socket, no sleep."""

from __future__ import annotations

import json
from collections import deque

import attrs
import pytest
from support.bench import FOREVER, REQUEST, USAGE, Bench, answer, chunk, refusal, streamed
from support.fakes import FakeWire

from groq_provider import CancelToken, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call.call import json_endpoint
from groq_provider.call.runtime import CallOptions
from groq_provider.wire.assemble import Assembler

# --- success -----------------------------------------------------------------------------------------------------------------


def test_plain_answer_settled_and_recorded():
    """A plain answer is settled, recorded and complete, once each."""
    bench = Bench(answer())
    response = bench.generate()
    assert response.content == "Fine."
    assert [held.calls for held in bench.limiter.granted] == [[("settle", response.usage)]]
    assert bench.tracker.records == [{"model": "m", "total": 0.5, "first_token": None, "tokens_per_second": 400.0}]
    assert bench.runtime.in_flight == 0
    (attempt,) = response.attempts
    assert (attempt.number, attempt.status_code, attempt.error, attempt.duration, attempt.sent, attempt.request_id) == (
        1, 200, None, 0.5, True, "req_1",
    )  # fmt: skip
    assert (response.provider, response.request_id, response.client_request_id) == ("groq", "req_1", str(REQUEST.id))


def test_limiter_learns_request_size():
    """The limiter is asked with prompt and longest answer, and with the call itself as the cancel token."""
    bench = Bench(answer())
    bench.generate(batch=True)
    (asked,) = bench.limiter.asked
    assert asked["prompt_tokens"] > 0
    assert asked["max_output_tokens"] == 50
    assert asked["batch"] is True
    assert asked["arrival"] is None
    assert asked["cancel"] is bench.transport.sent[0]["scope"]


def test_a_tokenizer_counts_the_prompt():
    """Instead of the estimate by size."""
    bench = Bench(answer(), tokenizer=lambda text: 1000)
    bench.generate()
    assert 1000 <= bench.limiter.asked[0]["prompt_tokens"] < 1100


def test_unknown_usage_is_estimated():
    """From the sizes of prompt and answer, and says so; the limits keep what was reserved."""
    bench = Bench(answer("word " * 40, usage=None))
    usage = bench.generate().usage
    assert usage.source == "estimated"
    assert 20 < usage.completion_tokens < 100
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert bench.limiter.granted[0].calls == [("keep",)]


@pytest.mark.parametrize("learn", [True, False], ids=["groq", "compatible server"])
def test_rate_limit_headers_passed_on(learn):
    """Rate-limit headers reach limiter and answer; a compatible server's are shown and not learned from."""
    bench = Bench(answer(**{"x-ratelimit-limit-tokens": "6000"}), learn=learn)
    response = bench.generate()
    assert response.rate_limit.limit_tokens == 6000
    ((info, limited),) = bench.limiter.granted[0].seen
    assert (info is not None) is learn
    assert limited is None


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([refusal(429, headers={"x-ratelimit-limit-tokens": "7"}), answer()], id="429"),
        pytest.param([refusal(500, headers={"x-ratelimit-limit-tokens": "7"}), answer()], id="500"),
        pytest.param([refusal(400, headers={"x-ratelimit-limit-tokens": "7"})], id="400"),
        pytest.param(
            [FakeWire(302, b"", {"x-ratelimit-limit-tokens": "7", "location": "https://evil.test/"})], id="302"
        ),
        pytest.param([streamed(), answer(**{"x-ratelimit-limit-tokens": "7"})], id="wrong kind of answer"),
    ],
)
def test_every_answer_reaches_the_limiter(script):
    """Errors too; a 429 with its error."""
    bench = Bench(*[attrs_free(step) for step in script])
    if len(script) == 2:
        bench.generate()
    else:
        bench.fails(e.GroqProviderError)
    seen = [held.seen for held in bench.limiter.granted]
    assert [len(one) for one in seen] == [1] * len(script)
    assert any(info is not None and info.limit_tokens == 7 for one in seen for info, _ in one)
    assert isinstance(seen[0][0][1], e.RateLimitedError) is (script[0].status_code == 429)


def attrs_free(wire):
    """A fresh copy, so that parametrised answers can be read again."""
    return FakeWire(wire.status_code, headers=dict(wire.headers), pieces=list(wire.pieces))


def test_request_without_model_is_refused():
    """A request without a model and a default is refused before anything is taken."""
    bench = Bench(default_model=None)
    bench.fails(e.InvalidRequestError)
    assert bench.limiter.asked == []
    assert bench.runtime.in_flight == 0


def test_call_headers_query_body_sent():
    """Headers, query and body of a call are sent as given, beside our own."""
    bench = Bench(answer())
    bench.generate(headers={"X-Mine": "1"}, query={"a": "b c"}, extra_body={"novel": True})
    (sent,) = bench.transport.sent
    assert (sent["method"], sent["path"], sent["query"]) == ("POST", "/chat/completions", "?a=b+c")
    assert sent["headers"] == {"X-Mine": "1"}
    assert json.loads(sent["body"])["novel"] is True


# --- failures: the Lim column ------------------------------------------------------------------------------------------------

NEVER = RetryPolicy(max_retries=0)


@pytest.mark.parametrize(
    ("step", "ending", "error"),
    [
        pytest.param(e.APIConnectionError("x", sent=False), "refund all", e.APIConnectionError, id="1 refused"),
        pytest.param(e.ConnectTimeoutError("x", sent=False), "refund all", e.ConnectTimeoutError, id="3 blackhole"),
        pytest.param(e.TLSError("x", sent=False), "refund all", e.TLSError, id="6 TLS"),
        pytest.param(e.PoolTimeoutError("x", sent=False), "refund all", e.PoolTimeoutError, id="9 pool"),
        pytest.param(e.APIConnectionError("x", sent=True), "keep", e.APIConnectionError, id="13 reset"),
        pytest.param(e.ProtocolError("x", sent=True), "keep", e.ProtocolError, id="15 not HTTP"),
        pytest.param(e.ReadTimeoutError("x", sent=True), "keep", e.ReadTimeoutError, id="17 silence"),
        pytest.param(FakeWire(204), "refund tokens", e.ResponseDecodeError, id="24 empty"),
        pytest.param(FakeWire(pieces=[e.IncompleteResponseError("x")]), "keep", e.IncompleteResponseError, id="25 short"),
        pytest.param(FakeWire(body=b'{"choices": ['), "keep", e.ResponseDecodeError, id="26 half JSON"),
        pytest.param(FakeWire(pieces=[e.ResponseTooLargeError("x")]), "keep", e.ResponseTooLargeError, id="39 bomb"),
        pytest.param(FakeWire(body=b'{"choices": {}}'), "keep", e.ResponseDecodeError, id="54 wrong type"),
        pytest.param(streamed(), "keep", e.ResponseDecodeError, id="58 a stream"),
        pytest.param(refusal(400), "refund tokens", e.InvalidRequestError, id="60 400"),
        pytest.param(refusal(404), "refund tokens", e.NotFoundError, id="60 404"),
        pytest.param(refusal(401), "refund tokens", e.AuthenticationError, id="61 401"),
        pytest.param(refusal(403), "refund tokens", e.PermissionDeniedError, id="61 403"),
        pytest.param(refusal(413), "refund tokens", e.RequestTooLargeError, id="62 413"),
        pytest.param(refusal(429), "refund tokens", e.RateLimitedError, id="64 429"),
        pytest.param(refusal(498), "refund tokens", e.OverloadedError, id="66 498"),
        pytest.param(refusal(408), "refund tokens", e.APIStatusError, id="67 408"),
        pytest.param(refusal(502), "refund tokens", e.ProviderUnavailableError, id="68 502"),
        pytest.param(FakeWire(503, pieces=[e.ReadTimeoutError("x")]), "refund tokens", e.OverloadedError, id="69 no body"),
        pytest.param(FakeWire(307, b"", {"location": "/x"}), "refund tokens", e.RedirectRefusedError, id="70 redirect"),
    ],
)  # fmt: skip
def test_what_becomes_of_the_reservation(step, ending, error):
    """Rows of the fault matrix: given back when nothing was used, kept when nobody knows; recorded once as a failure."""
    bench = Bench(attrs_free(step) if isinstance(step, FakeWire) else type(step)("x", sent=step.sent), policy=NEVER)
    raised = bench.fails(error)
    assert bench.endings == [ending]
    local = {"local": True} if raised.attempts[-1].sent is False else {}
    assert bench.tracker.records == [{"model": "m", "total": 0.5, "ok": False, **local}]
    assert bench.runtime.in_flight == 0
    assert [attempt.error for attempt in raised.attempts] == [type(raised).__name__]
    assert (raised.model, raised.provider) == ("m", "groq")


@pytest.mark.parametrize(
    ("pieces", "prompt_only"),
    [
        pytest.param([chunk(), e.IncompleteResponseError("x")], True, id="27 cut before the first chunk"),
        pytest.param([chunk("a" * 400), e.IncompleteResponseError("x")], False, id="28 cut after it"),
        pytest.param([chunk("a" * 400)], False, id="30 no end"),
        pytest.param([chunk("a" * 400), e.ReadTimeoutError("x", sent=True)], False, id="33 stall"),
        pytest.param([chunk("a" * 400), b"data: {\n\n"], False, id="50 not JSON"),
        pytest.param([chunk(), b'event: error\ndata: {"error": {"message": "x", "status_code": 500}}\n\n'], True, id="56 error event"),
        pytest.param([chunk("a" * 400), chunk(x_groq={"error": "over"})], False, id="56 x_groq.error"),
    ],
)  # fmt: skip
def test_failed_stream_settles_received(pieces, prompt_only):
    """The prompt was worked on: it counts, with what was received."""
    bench = Bench(streamed(*pieces), policy=NEVER)
    with pytest.raises(e.GroqProviderError) as caught:
        bench.stream().collect()
    ((kind, usage),) = [held.calls[0] for held in bench.limiter.granted]
    assert kind == "settle"
    assert usage.prompt_tokens > 0
    assert (usage.completion_tokens == 0) is prompt_only
    assert caught.value.partial is not None
    assert len(bench.tracker.records) == 1
    assert bench.runtime.in_flight == 0


# --- retries -----------------------------------------------------------------------------------------------------------------


def test_success_lists_every_attempt():
    """A success after failures lists every attempt with status, cause, delay before it and whether it was sent."""
    bench = Bench(refusal(503), e.APIConnectionError("x", sent=False), answer())
    response = bench.generate()
    assert [(a.number, a.status_code, a.error, a.sent) for a in response.attempts] == [
        (1, 503, "OverloadedError", True),
        (2, None, "APIConnectionError", False),
        (3, 200, None, True),
    ]
    assert response.attempts[0].wait == 0
    assert [a.wait for a in response.attempts[1:]] == pytest.approx(bench.clock.waits)
    assert [a.request_id for a in response.attempts] == ["req_1", None, "req_1"]
    assert bench.endings == ["refund tokens", "refund all", "settle"]
    assert len(bench.tracker.records) == 1
    assert response.timing.wait == pytest.approx(sum(bench.clock.waits))
    assert response.timing.total == pytest.approx(1.5 + sum(bench.clock.waits))


def test_retry_keeps_queue_place():
    """A retry keeps its place in the queue: the arrival of the first reservation is passed on."""
    bench = Bench(refusal(500), refusal(500), answer())
    bench.generate()
    assert [asked["arrival"] for asked in bench.limiter.asked] == [None, 1, 2]


def test_stale_resend_is_own_attempt():
    """A resend on a stale connection is an attempt of its own, free and on the list."""

    def stale(call):
        call.resends = 1
        return answer()

    bench = Bench(stale)
    response = bench.generate()
    assert [(a.number, a.error, a.status_code) for a in response.attempts] == [
        (1, "APIConnectionError", None),
        (2, None, 200),
    ]


def test_last_error_carries_every_attempt():
    """After the retries are used up."""
    bench = Bench(refusal(500), refusal(500), refusal(502))
    error = bench.fails(e.ProviderUnavailableError)
    assert error.status_code == 502
    assert [attempt.status_code for attempt in error.attempts] == [500, 500, 502]
    assert len(bench.tracker.records) == 1


def test_hint_is_waited_and_shown():
    """Never less; retry_at follows from it."""
    bench = Bench(refusal(429, headers={"retry-after": "7"}), answer())
    bench.generate()
    assert 7 <= bench.clock.waits[0] <= 7.36
    error = Bench(refusal(429, headers={"retry-after": "700"})).fails(e.RateLimitedError)
    assert error.retry_after == 700
    assert error.retry_at is not None


def test_unretriable_calls_never_retry():
    """Calls that may not retry, such as health checks, do not."""
    bench = Bench(refusal(500))
    bench.fails(e.ProviderUnavailableError, retry=False)
    assert bench.clock.waits == []


def test_an_empty_budget_stops_retries():
    """Everything fails at once: seven retries, for all calls together."""
    bench = Bench(*[refusal(500) for _ in range(30)])
    attempts = [len(bench.fails(e.ProviderUnavailableError).attempts) for _ in range(10)]
    assert sum(attempts) - 10 in (7, 8)  # the seconds that passed refill a little
    assert attempts[-1] == 1


def test_decommissioned_model_names_successor():
    """A decommissioned model names its successor where one is known."""
    bench = Bench(refusal(400, code="model_decommissioned"), replacement_for=lambda model: f"new {model}")
    assert bench.fails(e.ModelDecommissionedError).replacement == "new m"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://user:pw@evil.test:8080/path?key=1", "evil.test"),
        ("https://evil.test?key=secret", "evil.test"),
        ("//evil.test#secret", "evil.test"),
        ("/login?secret=1", "the same host"),
        ("https://[broken", "unreadable"),
        ("", "the same host"),
    ],
)
def test_redirect_refusal_shows_only_host(location, shown):
    """Paths, queries and user names may hold secrets."""
    wire = FakeWire(307, b"", {"location": location})
    error = Bench(wire).fails(e.RedirectRefusedError)
    assert shown in str(error)
    for hidden in ("secret", "pw", "path", "key"):
        assert hidden not in str(error)
    assert wire.drained == 1
    assert len(error.attempts) == 1


# --- time limits -------------------------------------------------------------------------------------------------------------


def test_one_total_spans_everything():
    """One total spans waiting, trying and sleeping: no retry sleep crosses it, and no limit is restarted."""
    bench = Bench(refusal(429, headers={"retry-after": "3"}), refusal(429, headers={"retry-after": "3"}), limiter=[4.0])
    start = bench.clock.monotonic()
    error = bench.fails(e.RateLimitedError, timeouts=Timeouts(total=10))
    assert bench.clock.monotonic() - start < 10
    assert [attempt.status_code for attempt in error.attempts] == [429, 429]
    assert {sent["scope"].total_deadline for sent in bench.transport.sent} == {start + 10}


def test_wait_limit_cut_to_total():
    """The wait limit is one instant, cut to the total and passed to the limiter on every try."""
    bench = Bench(refusal(500), answer())
    start = bench.clock.monotonic()
    bench.generate(timeouts=Timeouts(wait=5, total=60))
    assert [asked["deadline"] for asked in bench.limiter.asked] == [start + 5] * 2
    bench = Bench(answer())
    bench.generate(timeouts=Timeouts(wait=90, total=60))
    assert bench.limiter.asked[0]["deadline"] == bench.transport.sent[0]["scope"].total_deadline


@pytest.mark.parametrize(("wait", "long_wait"), [(None, 60.0), (600, None)], ids=["without limit", "with limit"])
def test_long_waits_need_permission(wait, long_wait):
    """A wait for a daily limit beyond the cap raises at once, unless a wait so long is allowed."""
    bench = Bench(answer())
    bench.generate(timeouts=Timeouts(wait=wait))
    assert bench.limiter.asked[0]["long_wait"] == long_wait


def test_refusing_limiter_leaves_no_attempt():
    """A limiter that refuses leaves no attempt: nothing was sent and nothing consumed."""
    bench = Bench(limiter=[e.RateLimitTimeoutError("x", sent=False, retry_after=9.0)])
    error = bench.fails(e.RateLimitTimeoutError)
    assert error.attempts == ()
    assert error.retry_at is not None
    assert bench.transport.sent == []
    assert bench.runtime.in_flight == 0


def test_refused_retry_shows_earlier_attempt():
    """A limiter that refuses a retry shows the attempt before and ends no reservation twice."""
    bench = Bench(refusal(500), limiter=[0, e.RateLimitTimeoutError("x", sent=False)])
    error = bench.fails(e.RateLimitTimeoutError)
    assert [attempt.status_code for attempt in error.attempts] == [500]
    assert bench.endings == ["refund tokens"]


def test_slow_answer_at_total_expires():
    """A slow answer at the total is a deadline and not a timeout, whatever waited when it came."""

    def slow(call):
        bench.clock.advance(30)
        return e.ReadTimeoutError("x", sent=True)

    bench = Bench(slow)
    error = bench.fails(e.DeadlineExceededError, timeouts=Timeouts(total=30))
    assert not isinstance(error, e.RateLimitTimeoutError)
    assert error.sent is True
    assert len(error.attempts) == 1


# --- leaving -----------------------------------------------------------------------------------------------------------------


def test_cancelled_token_stops_call_early():
    """Nothing is taken or sent; it counts as an end of our own."""
    token = CancelToken()
    token.cancel()
    bench = Bench()
    error = bench.fails(e.RequestCancelledError, cancel=token)
    assert error.sent is False
    assert (bench.limiter.asked, bench.transport.sent) == ([], [])
    assert bench.tracker.records == [{"model": "m", "total": 0.0, "ok": False, "local": True}]
    assert bench.runtime.in_flight == 0


def test_cancelling_ends_a_retry_sleep():
    """At once, with the attempts so far."""
    token = CancelToken()
    bench = Bench(refusal(429, headers={"retry-after": "50"}))
    waits = []

    def wait(lock, timeout):
        waits.append(timeout)
        token.cancel()
        return lock.acquire(timeout=5)

    bench.clock.wait = wait
    error = bench.fails(e.RequestCancelledError, cancel=token)
    assert len(waits) == 1
    assert [attempt.status_code for attempt in error.attempts] == [429]
    assert bench.endings == ["refund tokens"]


def test_cancel_during_failure_is_cancel():
    """A call cancelled as a failure comes in is cancelled; the failure is on the attempts, begun delay or not."""
    token = CancelToken()

    def cancelled(call):
        token.cancel()
        return refusal(503)

    bench = Bench(cancelled)
    error = bench.fails(e.RequestCancelledError, cancel=token)
    assert [attempt.status_code for attempt in error.attempts] == [503]
    assert bench.clock.waits == []


def test_cancel_reaches_limiter_through_call():
    """The limiter waits with the call as its token."""
    token = CancelToken()

    def cancelled(arguments):
        token.cancel()
        assert arguments["cancel"].cancelled
        raise e.RequestCancelledError("x", sent=False)

    bench = Bench(limiter=[cancelled])
    bench.fails(e.RequestCancelledError, cancel=token)
    assert bench.runtime.in_flight == 0


def test_token_forgets_finished_call():
    """The caller's token forgets a finished call: it may live as long as the program."""
    token = CancelToken()
    bench = Bench(answer(), refusal(400))
    bench.generate(cancel=token)
    bench.fails(e.InvalidRequestError, cancel=token)
    assert "0 calls" in repr(token)


@pytest.mark.parametrize("framing", [e.IncompleteResponseError("x"), b'{"id": "1", "cho'], ids=["broken", "short"])
def test_cancelled_body_is_no_fault(framing):
    """A body cut by cancelling is no fault of the server, however the framing makes it look."""
    token = CancelToken()

    def cut(call):
        token.cancel()
        return FakeWire(pieces=[framing])

    error = Bench(cut).fails(e.RequestCancelledError, cancel=token)
    assert error.sent is True


def test_closing_raises_its_own_error():
    """Closing ends a call under way with its own error: the caller closed it, which is not a broken connection."""

    def closed(call):
        bench.runtime.close()
        assert call.cancelled
        return e.RequestCancelledError("x", sent=True)

    bench = Bench(closed)
    error = bench.fails(e.ProviderClosedError)
    assert error.sent is True
    assert len(error.attempts) == 1
    assert bench.endings == ["keep"]
    bench.fails(e.ProviderClosedError)  # and the next one is not begun
    assert len(bench.transport.sent) == 1


@pytest.mark.parametrize("where", ["limiter", "transport", "body", "sleep", "error body"])
def test_an_interrupt_leaves_nothing_behind(where):
    """It propagates unchanged; the reservation is ended, the connection closed, the call forgotten."""
    interrupt = KeyboardInterrupt()
    wire = FakeWire(500 if where == "error body" else 200, pieces=[interrupt])
    script = {"transport": [interrupt], "sleep": [refusal(500)]}.get(where, [wire])
    bench = Bench(*script, limiter=[interrupt] if where == "limiter" else [])
    token = CancelToken()

    def wait(lock, timeout):
        raise interrupt

    if where == "sleep":
        bench.clock.wait = wait
    with pytest.raises(KeyboardInterrupt) as caught:
        bench.generate(cancel=token)
    assert caught.value is interrupt
    assert bench.runtime.in_flight == 0
    assert "0 calls" in repr(token)
    assert bench.endings == {"limiter": [], "sleep": ["refund tokens"]}.get(where, ["keep"])
    assert bench.tracker.records == []
    if "body" in where:
        assert wire.closed


def test_interrupted_stream_leaves_partial():
    """Settled by what had come."""
    wire = streamed(chunk("Hello"), KeyboardInterrupt())
    bench = Bench(wire)
    stream = bench.stream()
    assert next(stream).content == "Hello"
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert stream.partial.content == "Hello"
    assert wire.closed
    assert bench.endings == ["settle"]
    assert bench.runtime.in_flight == 0


@pytest.mark.parametrize(
    ("end", "error"),
    [
        pytest.param(b'data: {"error": {"message": "overloaded"}}\n\n', e.StreamInterruptedError, id="error"),
        pytest.param(b"data: {nonsense\n\n", e.StreamProtocolError, id="nonsense"),
        pytest.param(b"data: [DONE]\n\n", None, id="end"),
    ],
)
def test_nothing_counts_after_stream_end(end, error):
    """Data after an error or the end in one read counts for nothing, however often the reader asks."""
    words = [f" {number}" for number in range(8)]
    late = [chunk(" late"), chunk(finish="stop"), b"data: [DONE]\n\n"]
    stream = Bench(streamed(b"".join([*map(chunk, words), end, *late])), require_finish_reason=False).stream()
    assert [next(stream).content for _ in words] == words
    if error is None:
        assert next(stream).finish_reason is None
    for _ in range(5):
        with pytest.raises(error or StopIteration):
            next(stream)
    last = stream.partial if error else stream.response
    assert last.content == "".join(words)


def test_early_close_never_looks_whole():
    """A stream closed over chunks that had come does not end like a whole one, though its answer was whole."""
    words = [f" {number}" for number in range(8)]
    body = b"".join([*map(chunk, words), chunk(finish="stop"), b"data: [DONE]\n\n"])
    stream = Bench(streamed(body)).stream()
    next(stream)
    stream.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed before its end"):
            next(stream)
    assert stream.response.content == "".join(words)
    read = Bench(streamed(body)).stream()
    read.collect()
    read.close()
    with pytest.raises(StopIteration):
        next(read)


def test_interrupt_before_delivery_closes_stream():
    """An interrupt between taking a chunk and giving it out closes the stream; the chunk is lost to the reader."""

    class Struck(deque):
        def popleft(self):
            super().popleft()
            raise KeyboardInterrupt

    bench = Bench(streamed(chunk("one"), chunk(" two"), chunk(finish="stop"), b"data: [DONE]\n\n"))
    stream = bench.stream()
    stream._pending = Struck()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)
    assert bench.runtime.in_flight == 0


def test_interrupt_after_delivery_closes_stream():
    """An interrupt when ``next()`` has released the stream loses the chunk as well, so reading on is an error."""
    bench = Bench(streamed(chunk("one") + chunk(" two") + chunk(finish="stop") + b"data: [DONE]\n\n"))
    stream = bench.stream()
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
    assert stream.partial.content == "one"
    assert bench.runtime.in_flight == 0


def test_interrupted_close_still_closes(monkeypatch):
    """An interrupt while closing closes all the same; what had come is not read on from."""
    bench = Bench(streamed(b"".join([*map(chunk, "abcd"), chunk(finish="stop"), b"data: [DONE]\n\n"])))
    stream = bench.stream()
    next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(Assembler, "reuse_template", lambda self, data: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            stream.close()
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(stream)
    assert bench.runtime.in_flight == 0


@pytest.mark.parametrize("how", ["answered", "refused", "streamed", "left", "other"])
def test_interrupted_exit_leaves_no_call(how):
    """An interrupt on the way out leaves no call under way, even with a token, which remembers the call."""
    token = CancelToken()
    bench = Bench(
        {"refused": refusal(400), "streamed": streamed(chunk("a"), chunk(finish="stop"), b"data: [DONE]\n\n")}.get(how)
        or (streamed(chunk("a")) if how == "left" else answer())
    )
    discard, struck = bench.runtime.calls.discard, []

    def interrupted(call):
        if not struck:
            struck.append(call)
            raise KeyboardInterrupt
        discard(call)

    bench.runtime.calls.discard = interrupted
    stream = bench.stream(cancel=token) if how in ("streamed", "left") else None
    if stream is not None:
        next(stream)
    act = {
        "other": lambda: bench.runtime.ask(
            json_endpoint("GET", "/m"), None, CallOptions(timeouts=FOREVER, cancel=token)
        ),
        "streamed": lambda: next(stream),
        "left": getattr(stream, "close", None),
    }.get(how, lambda: bench.generate(cancel=token))
    with pytest.raises(KeyboardInterrupt):
        act()
    if stream is not None:
        stream.close()
    assert struck
    assert bench.runtime.in_flight == 0
    assert "0 calls" in repr(token)


def test_interrupted_creation_leaves_nothing():
    """An interrupt while a stream is made leaves nothing: the answer was there, and no caller has it."""
    wire = streamed(chunk("a"))
    bench = Bench(wire)
    bench.runtime.calls.add_stream = lambda stream: (_ for _ in ()).throw(KeyboardInterrupt)
    token = CancelToken()
    with pytest.raises(KeyboardInterrupt):
        bench.stream(cancel=token)
    assert wire.closed
    assert bench.runtime.in_flight == 0
    assert bench.endings == ["keep"]


@pytest.mark.parametrize("kind", ["Application/JSON", "application/json; charset=utf-8", "TEXT/HTML"])
def test_content_type_ignores_case(kind):
    """The type of an answer is read whatever its case, as the letters of header fields are."""
    wire = answer()
    wire.headers["content-type"] = kind
    assert Bench(wire).stream().collect().content == "Fine."


def test_earlier_decode_failure_never_counts():
    """An attempt that could not be decoded does not count in the answer that is given out."""
    broken = b'data: {"id": "\xff", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}\n\n'
    bench = Bench(
        streamed(broken, e.IncompleteResponseError("cut")),
        streamed(chunk("fine"), chunk(finish="stop"), b"data: [DONE]\n\n"),
    )
    stream = bench.stream()
    assert stream.collect().content == "fine"
    assert stream.decode_errors == 0


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (chunk(" end"), "a end"),
        (b'data: {"choices": [{"index": 0, "delta": {"content": " en\n\n', "a"),
        (chunk(usage=USAGE), "a"),
    ],
    ids=["whole", "cut", "usage"],
)
def test_whole_final_event_counts(last, text):
    """A last event without its blank line counts if its JSON is whole: text that came must not be missing."""
    stream = Bench(streamed(chunk("a"), chunk(finish="stop"), last[:-1])).stream()
    response = stream.collect()
    assert response.content == text
    assert response.usage.source == ("reported" if last == chunk(usage=USAGE) else "estimated")


def test_raising_tracker_leaves_no_call():
    """A caller's tracker that raises leaves no call under way."""
    bench = Bench(answer())
    bench.tracker.record = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        bench.generate()
    assert bench.runtime.in_flight == 0
    assert bench.endings == ["settle"]


def test_finalizer_leftovers_are_done_later():
    """The next call, or the end, does the leftovers of finalizers, which may not touch a lock themselves."""
    bench = Bench(answer())
    done = []
    bench.runtime.calls.run_with_next_call(lambda: done.append(1))
    assert done == []
    bench.generate()
    assert done == [1]
    bench.runtime.calls.run_with_next_call(lambda: done.append(2))
    bench.runtime.close()
    assert done == [1, 2]


# --- other endpoints ---------------------------------------------------------------------------------------------------------


def test_other_endpoints_leave_no_record():
    """Other endpoints hold no place and leave no record, but retry and have time limits."""
    bench = Bench(refusal(500), FakeWire(body=b'{"data": []}'))
    data = bench.runtime.ask(json_endpoint("GET", "/models"), None, CallOptions(timeouts=FOREVER))
    assert data == {"data": []}
    assert (bench.limiter.asked, bench.tracker.records) == ([], [])
    assert len(bench.transport.sent) == 2
    assert bench.runtime.in_flight == 0


def test_stream_timing_starts_at_sending():
    """Timing of a stream counts from the sent request: first token, generation speed, overall speed."""
    bench = Bench(limiter=[2.0])

    def later(seconds, piece):
        def give():
            bench.clock.advance(seconds)
            return piece

        return give

    wire = streamed(chunk(), later(0.5, chunk("a")), later(1.0, chunk(finish="stop", usage=USAGE)), b"data: [DONE]\n\n")
    bench.transport.script.append(wire)
    timing = bench.stream().collect().timing
    assert (timing.total, timing.wait, timing.time_to_first_token) == (4.0, 2.0, 1.0)
    assert (timing.tokens_per_second, timing.overall_tokens_per_second) == (4.0, 1.0)
    (record,) = bench.tracker.records
    assert record == {"model": "m", "total": 4.0, "wait": 2.0, "first_token": 1.0, "tokens_per_second": 4.0}


def test_options_are_values():
    """Frozen, so that threads may share them."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        CallOptions(timeouts=FOREVER).batch = True
