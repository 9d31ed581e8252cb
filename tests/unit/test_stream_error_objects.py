"""An error object in a stream is an error, whatever the settings; a 429 there is a 429 to the limiter, too."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from support.bench import REQUEST, Bench, chunk, streamed
from support.fakes import FakeClock, FakeTracker, FakeTransport, FakeWire

from groq_provider import RetryPolicy, TokenBucketRateLimiter
from groq_provider import errors as e

NO_RETRY = RetryPolicy(max_retries=0)
DONE = b"data: [DONE]\n\n"
LIMIT_TEXT = (
    "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on tokens per minute (TPM): "
    "Limit 6000, Used 5900, Requested 500. Please try again in 7s."
)


def data(found, name=None):
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(found).encode() + b"\n\n"


FORMS = {
    "object": data({"error": {"message": "no", "type": "internal_server_error"}}),
    "status": data({"error": {"message": "no", "status_code": 500}}),
    "code": data({"error": {"message": "no", "code": 503}}),
    "text": data({"error": "no"}),
    "bare": data({"object": "error", "message": "no"}),
    "event": data({"message": "no"}, "error"),
    "event-text": b"event: error\ndata: no\n\n",
    "beside-choices": data({"error": {"message": "no"}, "choices": None}),
    "in-a-chunk": chunk(None, error={"message": "no", "code": "over_capacity"}),
    "x_groq": chunk(None, x_groq={"error": "no"}),
    "finish-error": chunk(None, finish="error"),
    "unfinished": data({"error": {"message": "no"}})[:-1],
}


@pytest.mark.parametrize("required", [True, False], ids=["required", "not-required"])
@pytest.mark.parametrize("end", [[], [DONE]], ids=["cut", "done"])
@pytest.mark.parametrize("before", [[], [chunk("half")]], ids=["alone", "after-text"])
@pytest.mark.parametrize("form", FORMS)
def test_error_objects_are_errors(form, before, end, required):
    """Whether a finish reason is required or not: never half an answer, and what had arrived is on the error."""
    if form == "unfinished" and end:
        end = []  # it would be part of the same event
    bench = Bench(streamed(*before, FORMS[form], *end), policy=NO_RETRY, require_finish_reason=required)
    with pytest.raises(e.GroqProviderError) as caught:
        bench.stream().collect()
    assert caught.value.partial.content == ("half" if before else "")
    assert caught.value.partial.finish_reason is None


def limited(limiter_clock, *script):
    """An engine with a real limiter."""
    limiter = TokenBucketRateLimiter(clock=limiter_clock)
    bench = Bench(transport=None, policy=NO_RETRY)
    transport = FakeTransport(limiter_clock, *script)
    bench.runtime.transport, bench.runtime.limiter, bench.runtime.clock = transport, limiter, limiter_clock
    bench.runtime.tracker = FakeTracker()
    return SimpleNamespace(bench=bench, limiter=limiter)


def refused_by_status():
    return FakeWire(429, json.dumps({"error": _429}).encode(), {"x-request-id": "req_1"})


_429 = {"message": LIMIT_TEXT, "type": "tokens", "code": "rate_limit_exceeded"}


@pytest.mark.parametrize("text", [[], [chunk("half")]], ids=["alone", "after-text"])
@pytest.mark.parametrize("name", [None, "error"], ids=["data", "event"])
def test_429_event_is_a_429(name, text):
    """It closes the gate for as long and teaches the same limit as the status does."""
    seen = []
    for wire in (refused_by_status(), streamed(*text, data({"error": _429}, name))):
        scene = limited(FakeClock(), wire)
        with pytest.raises(e.RateLimitedError) as caught:
            scene.bench.stream(REQUEST).collect()
        assert (caught.value.limit_name, caught.value.limit) == ("TPM", 6000)
        status = scene.limiter.get_status()["m"]
        assert status.in_flight == 0
        seen.append((status.blocked_for, status.windows["tpm"].limit, status.windows["tpm"].source))
    assert seen[0] == seen[1] == (7.0, 6000, "learned")


def test_429_event_holds_others_back():
    """Until its time is up nobody else goes out."""
    clock = FakeClock()
    scene = limited(clock, streamed(data({"error": _429})))
    with pytest.raises(e.RateLimitedError):
        scene.bench.stream(REQUEST).collect()
    assert scene.limiter.try_reserve("m", prompt_tokens=1, max_output_tokens=1) is None
    clock.advance(7.001)
    assert scene.limiter.try_reserve("m", prompt_tokens=1, max_output_tokens=1) is not None
