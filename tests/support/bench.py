"""A call engine over fakes, and the answers that its fake transport gives."""

from __future__ import annotations

import json
import random

import pytest
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider import LLMRequest, RetryPolicy, Timeouts
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.call.stream import ResponseStream

REQUEST = LLMRequest(messages="How are you?", max_completion_tokens=50)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "completion_time": 0.01}
FOREVER = Timeouts(first_token=None)


def answer(content="Fine.", *, usage=USAGE, **headers):
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        **({"usage": usage} if usage else {}),
    }
    return FakeWire(200, json.dumps(body).encode(), headers)


def refusal(status, message="no", *, headers=None, **fields):
    return FakeWire(status, json.dumps({"error": {"message": message, **fields}}).encode(), headers)


def chunk(content=None, *, finish=None, usage=None, **more):
    delta = {} if content is None else {"content": content}
    data = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    if usage:
        data["usage"] = usage
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def streamed(*pieces):
    return FakeWire(200, headers={"content-type": "text/event-stream"}, pieces=pieces)


class Bench:
    """An engine over fakes."""

    def __init__(self, *script, limiter=(), policy=None, transport=None, **settings):
        self.clock = FakeClock()
        self.transport = FakeTransport(self.clock, *script)
        self.limiter = FakeLimiter(self.clock, *limiter)
        self.tracker = FakeTracker()
        self.runtime = Caller(
            **{
                "transport": self.transport,
                "limiter": self.limiter,
                "tracker": self.tracker,
                "clock": self.clock,
                "policy": policy or RetryPolicy(),
                "provider": "groq",
                "default_model": "m",
                "rng": random.Random(1),
                **settings,
            }
        )

    def generate(self, request=REQUEST, **options):
        return self.runtime.generate(request, CallOptions(**{"timeouts": FOREVER, **options}))

    def stream(self, request=REQUEST, **options):
        return ResponseStream(*self.runtime.open_stream(request, CallOptions(**{"timeouts": FOREVER, **options})))

    def fails(self, error, **options):
        with pytest.raises(error) as caught:
            self.generate(**options)
        return caught.value

    @property
    def endings(self):
        """How each reservation ended, each ended at least once."""
        assert all(held.calls for held in self.limiter.granted)
        return [" ".join(held.ending) for held in self.limiter.granted]
