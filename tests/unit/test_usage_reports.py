"""Reports of usage that say nothing: they are none, and the reservation is kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.config import RetryPolicy, Timeouts
from groq_provider.ratelimit.cost import actual_cost
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import Usage
from groq_provider.wire import codec
from groq_provider.wire.json_fields import MAX_TOKENS

KEYS = ["prompt_tokens", "completion_tokens", "total_tokens"]
REAL = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}

NOTHING = {
    "empty": {},
    "null": None,
    "all null": dict.fromkeys(KEYS),
    "all zero": dict.fromkeys(KEYS, 0),
    "negative": dict.fromkeys(KEYS, -1),
    "one negative": {**REAL, "completion_tokens": -1},
    "huge": dict.fromkeys(KEYS, 10**30),
    "one huge": {**REAL, "prompt_tokens": 10**12},
    "huge as float": {**REAL, "prompt_tokens": 1e30},
    "numeric strings": {key: str(item) for key, item in REAL.items()},
    "words": dict.fromkeys(KEYS, "many"),
    "lists": {key: [] for key in KEYS},
    "truths": dict.fromkeys(KEYS, True),
    "a list": [1],
    "a text": "12",
    "times alone": {"total_time": 0.2},
    "details alone": {"prompt_tokens_details": {"cached_tokens": 5}},
}


class Scene:
    """An engine whose server answers once."""

    def __init__(self, wire):
        clock = FakeClock()
        self.limiter = FakeLimiter(clock)
        self.runtime = Caller(
            transport=FakeTransport(clock, wire), limiter=self.limiter, tracker=FakeTracker(), clock=clock,
            policy=RetryPolicy(max_retries=0), provider="groq", default_model="m",
        )  # fmt: skip

    def usage(self, *, stream):
        request, options = LLMRequest(messages="Hello there"), CallOptions(timeouts=Timeouts())
        if stream:
            return self.runtime.stream(request, options).collect().usage
        return self.runtime.generate(request, options).usage

    @property
    def ending(self):
        (reservation,) = self.limiter.granted
        return reservation.ending


def plain(usage):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi there."}, "finish_reason": "stop"}
    return FakeWire(body=json.dumps({"id": "c", "model": "m", "choices": [choice], "usage": usage}).encode())


def streamed(*reports):
    """A stream whose chunks have these reports, the last with the finish reason."""
    chunks = [
        {"id": "c", "model": "m", "usage": usage, "choices": [
            {"index": 0, "delta": {"content": "Hi "}, "finish_reason": "stop" if usage is reports[-1] else None}]}
        for usage in reports
    ]  # fmt: skip
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return FakeWire(headers={"content-type": "text/event-stream"}, pieces=[text.encode()])


@pytest.mark.parametrize("case", NOTHING)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_says_nothing_is_estimated(case, stream):
    """The figures are marked as estimates, and the limits keep the reservation."""
    scene = Scene(streamed(NOTHING[case]) if stream else plain(NOTHING[case]))
    usage = scene.usage(stream=stream)
    assert usage.source == "estimated"
    assert usage.prompt_tokens > 0 < usage.completion_tokens
    assert scene.ending == ("keep",)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_what_says_something_is_settled(stream):
    """The counterpart."""
    scene = Scene(streamed(REAL) if stream else plain(REAL))
    assert scene.usage(stream=stream) == Usage(**REAL)
    assert scene.ending == ("settle",)


@pytest.mark.parametrize("case", NOTHING)
def test_real_report_not_wiped_out(case):
    """Whatever comes after it without saying anything."""
    scene = Scene(streamed(REAL, NOTHING[case]))
    assert scene.usage(stream=True) == Usage(**REAL)
    assert scene.ending == ("settle",)


@pytest.mark.parametrize("place", ["usage", "x_groq"])
def test_report_place_does_not_matter(place):
    """Zeros in the service's own part, too."""
    from groq_provider.wire.assemble import Assembler

    assembler = Assembler()
    for report in (REAL, dict.fromkeys(KEYS, 0)):
        assembler.feed({"choices": [], **({"usage": report} if place == "usage" else {"x_groq": {"usage": report}})})
    assert assembler.usage == Usage(**REAL)


FIGURES = st.one_of(
    st.none(),
    st.integers(-(10**40), 10**40),
    st.integers(0, 50),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=3),
    st.sampled_from(["12", [], {}]),
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys([*KEYS, "queue_time", "total_time"], FIGURES),
            "prompt_tokens_details": st.fixed_dictionaries({}, optional={"cached_tokens": FIGURES}),
            "completion_tokens_details": FIGURES,
        },
    )
)
def test_any_report_is_possible(data):
    """The figures lie within the bounds, and so does the cost that the limiter computes from them."""
    usage = codec.usage(data)
    if usage is None:
        return
    figures = [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]
    assert any(figures)
    assert all(0 <= figure <= 2 * MAX_TOKENS for figure in figures)
    assert usage.cached_tokens is None or 0 <= usage.cached_tokens <= usage.prompt_tokens
    assert all(time is None or 0 <= time <= 7 * 86_400 for time in (usage.queue_time, usage.total_time))
    assert all(0 <= units <= 2 * MAX_TOKENS for units in actual_cost(usage))
