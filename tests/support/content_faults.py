"""The cases 41 to 71 of the fault matrix: what is inside a body, and every status, with a bench that serves a case."""

from __future__ import annotations

import contextlib
import json
import random
from collections import deque
from typing import Any

import attrs
import pytest
from support.fakes import PATIENCE, FakeClock
from support.leaks import assert_hidden, objects_of, texts_of
from support.servers import FaultServer, answer, chunk, reset, serving

from groq_provider import GroqProvider, LLMRequest, RateLimits, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.ratelimit.estimate import estimate_prompt_tokens, estimate_text_tokens
from groq_provider.transport import requests_adapter as response

MODEL, OTHER = "faulty-model", "other-model"
KEY = "gsk_CONTENTcanaryOfLettersOnly"
PROMPT = "PROMPTcanary ok?"
#: What shows nowhere: parts of the key and of the prompt.
SECRETS = ["CONTENTcanary", "OfLetters", "PROMPTcanary"]
MOST = 100
LIMITS = RateLimits(rpd=1_000, tpd=1_000_000, share=1.0)
POLICY = RetryPolicy(base_delay=0.0, throttle_delay=0.0)
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
SSE = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"
TEXT = "one two three"


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def delta(content: Any = None, finish: str | None = None, *, raw: dict | None = None, **more: Any) -> bytes:
    part = ({} if content is None else {"content": content}) if raw is None else raw
    choice = {"index": 0, "delta": part, "finish_reason": finish}
    return event({"id": "chatcmpl-1", "model": MODEL, "choices": [choice], **more})


ROLE = delta(raw={"role": "assistant", "content": ""})
LAST = delta(finish="stop", x_groq={"id": "req_last", "usage": USAGE})
DONE = event(b"[DONE]")
WORDS = [delta("one"), delta(" two"), delta(" three")]
GOOD = b"".join([ROLE, *WORDS, LAST, DONE])


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers]).encode() + b"\r\n\r\n"


def chunked(*pieces: bytes, close: bool = False) -> list[bytes]:
    """An event stream in these HTTP chunks, one send each."""
    first = head(SSE, "Transfer-Encoding: chunked", *(["Connection: close"] if close else []))
    return [first, *(chunk(piece) for piece in pieces if piece), b"0\r\n\r\n"]


def completion(content: Any = TEXT, *, usage: Any = USAGE, message: dict | None = None, **more: Any) -> dict:
    message = {"role": "assistant", "content": content} if message is None else message
    data = {"id": "chatcmpl-1", "model": MODEL, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return {**data, **({"usage": usage} if usage else {}), **more}


def plain(data: Any, *headers: str) -> list[bytes]:
    return [answer(data if isinstance(data, bytes) else json.dumps(data).encode(), JSON, *headers)]


def status(code: int, body: Any = None, *headers: str) -> list[bytes]:
    if body is None:
        body = {"error": {"message": f"status {code}", "type": "t", "code": None}}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [answer(data, *(headers or (JSON,)), status=f"{code} Because")]


def error(message: str = "no", **fields: Any) -> dict:
    return {"error": {"message": message, **fields}}


@attrs.frozen
class Step:
    """What one request gets.

    Attributes:
        parts: Sent one by one.
        lim: What becomes of the reservation, as a letter of the matrix.
        kept: Whether the connection serves the next request.
        end: What the server does after: ``keep`` reading, ``close``, ``reset`` or ``hang``.
        text: What had come, for P and E of answers whose size counts.
    """

    parts: list[bytes]
    lim: str = "A"
    kept: bool = True
    end: str = "keep"
    text: str = ""


@attrs.frozen(kw_only=True)
class Case:
    """One row of the matrix.

    Attributes:
        id: Its number, perhaps with a variant.
        steps: What each request gets; a request more than that fails the test.
        stream: Which of the two methods is called.
        error: What is raised; ``None``: the call succeeds.
        words: Part of the message.
        text: The answer, or what the partial holds.
        gaps: Least and most seconds between requests.
        share: What a refusal that nothing explains leaves of the token limits.
        used: Requests of the day, where the service says how many.
        more: Looks at the result further: a function of the answer or the error, and of the bench.
        settings: Of the provider.
    """

    id: str
    steps: list[Step]
    stream: bool = True
    error: type[e.GroqProviderError] | None = None
    words: str = ""
    text: str | None = TEXT
    gaps: list[tuple[float, float]] | None = None
    share: float = 1.0
    used: int | None = None
    more: Any = None
    settings: dict = attrs.field(factory=dict)


FINE = Step(chunked(GOOD))
FINE_PLAIN = Step(plain(completion()))


class Bench:
    """A provider and the server it talks to."""

    def __init__(self, server: FaultServer, case: Case, clock: FakeClock, times: list[float]) -> None:
        self.server, self.case, self.clock, self.times = server, case, clock, times
        settings = {"rate_limits": LIMITS, "retry": POLICY, "timeout": PATIENT, "default_model": MODEL, **case.settings}
        self.provider = GroqProvider(api_key=KEY, base_url=server.url, clock=clock, **settings)
        self.chunks: list = []
        self.streams: list = []

    def call(self) -> Any:
        """Make the call; return the answer."""
        if not self.case.stream:
            return self.provider.generate(PROMPT, max_completion_tokens=MOST)
        with self.provider.generate_stream(PROMPT, max_completion_tokens=MOST) as stream:
            self.streams.append(stream)
            deque(map(self.chunks.append, stream), maxlen=0)
        return stream.response

    def limits(self, model: str = MODEL) -> Any:
        return self.provider.get_rate_limits()[model]

    def used(self, name: str) -> int:
        window = self.limits().windows[name]
        return round(window.limit * (self.case.share if name.startswith("t") else 1)) - window.remaining


@contextlib.contextmanager
def bench(case: Case):
    """Serve a case; then an answer that says how many connections are left."""
    clock, script, times = FakeClock(), list(case.steps), []

    def handler(sock, server):
        while server.read(sock) is not None:
            times.append(clock.monotonic())
            probing = b'"stream":true' not in server.requests[-1].body and OTHER.encode() in server.requests[-1].body
            step = FINE_PLAIN if probing else script.pop(0)
            for part in step.parts:
                sock.sendall(part)
            if step.end == "reset":
                reset(sock)
            if step.end == "hang":
                server.wait_for_end(sock)
            if step.end != "keep":
                return

    with pytest.MonkeyPatch.context() as patch, serving(handler) as server:
        if not any(step.end == "hang" for step in case.steps):
            # The end of a body may come late, as it has a send of its own; it is waited for in real time.
            patch.setattr(response, "_DRAIN_SECONDS", PATIENCE)
        made = Bench(server, case, clock, times)
        try:
            yield made
        finally:
            made.provider.close()


def reserved() -> int:
    """Return what is reserved for a call."""
    prompt = estimate_prompt_tokens(LLMRequest.of(PROMPT))
    return -(-prompt * 105 // 100) + MOST


def charge(step: Step) -> tuple[int, int]:
    """Return the requests and tokens that a step leaves charged."""
    prompt = estimate_prompt_tokens(LLMRequest.of(PROMPT))
    return {
        "A": (1, USAGE["total_tokens"]),
        "E": (1, reserved()),
        "P": (1, prompt + (estimate_text_tokens(len(step.text)) if step.text else 0)),
        "T": (1, 0),
    }[step.lim]


def run(case: Case) -> None:
    """Make the call of a case and check all that holds for every case."""
    with bench(case) as made:
        provider, steps = made.provider, case.steps
        if case.error is None:
            result = made.call()
            assert result.content == case.text
            attempts, failures = result.attempts, 0
            if case.stream:
                assert "".join(part.content for part in made.chunks) == case.text
        else:
            with pytest.raises(case.error) as caught:
                made.call()
            result = caught.value
            assert type(result) is case.error
            assert case.words in str(result)
            assert (result.model, result.provider) == (MODEL, "groq")
            assert_hidden(texts_of(result), SECRETS)
            assert len(str(result)) <= 600
            attempts, failures = result.attempts, 1
            if case.stream and made.streams:
                assert result.partial.content == case.text == "".join(part.content for part in made.chunks)
                assert result.partial.finish_reason is None
                assert made.streams[0].partial.content == case.text
        # Tried as often as the service was asked, and no oftener than it should be.
        assert len(made.server.requests) == len(steps) == len(attempts)
        assert [attempt.number for attempt in attempts] == list(range(1, len(steps) + 1))
        assert all(attempt.sent for attempt in attempts)
        # Settled once.
        assert provider._runtime.in_flight == 0
        assert (made.limits().in_flight, made.limits().waiting) == (0, 0)
        assert made.used("rpd") == (sum(charge(step)[0] for step in steps) if case.used is None else case.used)
        assert made.used("tpd") == sum(charge(step)[1] for step in steps)
        # Recorded once.
        metrics = provider.get_latency_metrics()
        assert (metrics.success_count, metrics.error_count) == (1 - failures, failures)
        if case.gaps is not None:
            gaps = [later - earlier for earlier, later in zip(made.times, made.times[1:], strict=False)]
            assert len(gaps) == len(case.gaps)
            assert all(low <= gap <= high for gap, (low, high) in zip(gaps, case.gaps, strict=True)), gaps
        if case.more is not None:
            case.more(result, made)
        assert_hidden([*objects_of(provider), repr(result)], SECRETS)
        # Kept or dropped.
        assert provider.generate("probe", model=OTHER).content == TEXT
        most = 1 + sum(not step.kept for step in steps)
        # Over HTTP/2 only a stream is dropped, which costs its connection behind the bridge unless all of it had come.
        bridged = provider._transport._origin.startswith("https")
        assert (1 if bridged else most) <= made.server.connections <= most


def sliced(body: bytes, size: int) -> list[bytes]:
    return [body[i : i + size] for i in range(0, len(body), size)]


def sliced_anywhere(body: bytes, seed: int) -> list[bytes]:
    cuts = sorted(random.Random(seed).sample(range(1, len(body)), 25))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def split_raw(body: bytes, size: int) -> list[bytes]:
    """The whole answer, framing included, in pieces that know nothing of chunks."""
    return sliced(b"".join(chunked(body)), size)


UNICODE = "Grüße, 世界 🌍 ﷺ"
UNICODE_BODY = (
    b"data: "
    + json.dumps({"choices": [{"delta": {"content": UNICODE}}]}, ensure_ascii=False).encode()
    + b"\n\n"
    + LAST
    + DONE
)
BAD_BYTES = b'data: {"choices": [{"delta": {"content": "a\xff\xfeb"}}]}\n\n'
MIXED = b"\r\n".join([ROLE.rstrip(), b"", b""]) + WORDS[0].replace(b"\n", b"\r") + b"".join(WORDS[1:]) + LAST + DONE
CRLF = GOOD.replace(b"\n", b"\r\n")
NOISE = (
    b": a comment\n:\nretry: 10\nid: 7\nevent: message\nunknown: x\n"
    + ROLE
    + b"event: ping\n\n: keep-alive\n\ndata:\n\ndata\n\n"
    + WORDS[0].replace(b"data: ", b"data:")
    + b"id\nretry\nevent\n"
    + b"".join([*WORDS[1:], LAST, DONE])
)
TWO_LINES = b'data: {"choices":\ndata: [{"delta": {"content": "one two three"}}]}\n\n' + LAST + DONE


def decode_errors(count):
    def check(_result, made):
        assert made.streams[0].decode_errors == count

    return check


def broken_stream(bad: bytes, *, lim_text: str = "one", **more: Any) -> list[Step]:
    """A stream that goes wrong after its first word."""
    return [Step(chunked(ROLE, WORDS[0], bad, LAST + DONE), "P", kept=False, text=lim_text, **more)]


def broken_at_first(bad: bytes) -> Step:
    return Step(chunked(ROLE, bad, LAST + DONE), "P", kept=False)


NOT_JSON = event(b"{broken")
DEEP = event(b"[" * 100_000)
NAN = event(b'{"choices": [{"delta": {"content": "x"}, "logprobs": NaN}]}')
HUGE = event(b'{"choices": [], "created": ' + b"9" * 5000 + b"}")
DEEP_BODY, NAN_BODY = b'{"a":' * 100_000, b'{"choices": [], "x": Infinity}'
HUGE_BODY = b'{"choices": [{"message": {"content": "x"}}], "created": ' + b"9" * 5000 + b"}"
ODD = [
    event({"choices": [], "id": "chatcmpl-1"}),
    event({"id": "chatcmpl-1"}),
    event({"choices": None}),
    event({"choices": [{"index": 0, "delta": None}]}),
    event({"choices": [{"index": 0}]}),
    delta(raw={"content": None}),
    delta(raw={"role": "assistant"}),
    delta(raw={"content": "", "reasoning": None, "tool_calls": None}),
]
UNKNOWN = [
    event({"choices": [{"index": 0, "delta": {"content": TEXT, "mood": "good"}, "new": 1}], "brand_new": {"a": 1}}),
    b"event: brand-new\ndata: {}\n\n",
    delta(finish="because"),
    event({"choices": [], "usage": {**USAGE, "novel_tokens": 3}}),
]


def is_unknown_kept(response, _made):
    assert response.finish_reason == "because"
    assert response.extra["brand_new"] == {"a": 1}
    assert response.extra["message"] == {"mood": "good"}
    assert response.usage.extra == {"novel_tokens": 3}


def is_unknown_kept_plain(response, _made):
    assert response.finish_reason == "because"
    assert response.extra["brand_new"] == [1]
    assert response.extra["message"] == {"mood": "good"}
    assert response.extra["choice"] == {"new": 1}


PLAIN_UNKNOWN = completion(brand_new=[1])
PLAIN_UNKNOWN["choices"][0].update(new=1, finish_reason="because")
PLAIN_UNKNOWN["choices"][0]["message"]["mood"] = "good"


def call_part(index=None, call_id=None, name=None, arguments=None):
    function = {k: v for k, v in (("name", name), ("arguments", arguments)) if v is not None}
    part = {"function": function, **({} if index is None else {"index": index}), **({"id": call_id} if call_id else {})}
    return delta(raw={"tool_calls": [part]})


CALLS = [
    call_part(1, "call_b", "second", '{"b":'),
    call_part(0, "call_a", "first", '{"a":'),
    call_part(1, arguments=" 2}"),
    call_part(0, arguments=" 1}"),
    call_part(None, "call_c", "third", "{bro"),
    call_part(None, arguments="ken"),
]


def are_calls_assembled(response, _made):
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("call_a", "first", '{"a": 1}'),
        ("call_b", "second", '{"b": 2}'),
        ("call_c", "third", "{broken"),
    ]
    assert response.tool_calls[1].parse() == {"b": 2}
    with pytest.raises(ValueError, match="third"):
        response.tool_calls[2].parse()


def are_calls_partial(error, _made):
    assert [(call.name, call.arguments) for call in error.partial.tool_calls] == [
        ("first", '{"a":'),
        ("second", '{"b":'),
    ]


def has_status(status_code, /, **fields):
    def check(error, _made):
        assert error.status_code == status_code
        assert {name: getattr(error, name) for name in fields} == fields

    return check


def is_estimated(response, _made):
    assert response.usage.source == "estimated"


def event_error(**fields):
    return b"event: error\n" + event(error(**fields))


STOPPED = event({"choices": [], "x_groq": {"id": "req_x", "error": "over capacity"}})
AFTER = event({"choices": [{"delta": {"content": "late"}}]})
CONTENT = [
    # 41: any split
    *(Case(id=f"41-chunks-of-{size}", steps=[Step(chunked(*sliced(GOOD, size)))]) for size in (1, 2, 3, 7, 64)),
    *(Case(id=f"41-pieces-of-{size}", steps=[Step(split_raw(GOOD, size))]) for size in (1, 5, 1000)),
    *(Case(id=f"41-random-{seed}", steps=[Step(chunked(*sliced_anywhere(GOOD, seed)))]) for seed in range(8)),
    Case(id="41-close-delimited", steps=[Step([head(SSE), *sliced(GOOD, 3)], end="close", kept=False)]),
    # 42: a character in pieces
    *(Case(id=f"42-{size}", steps=[Step(chunked(*sliced(UNICODE_BODY, size)))], text=UNICODE) for size in (1, 2, 3)),
    Case(id="42-halves", steps=[Step(chunked(ROLE, delta("one \ud83d"), delta("\ude00 two"), LAST, DONE))], text="one 😀 two"),
    Case(id="42-half-alone", steps=[Step(chunked(ROLE, delta("one \ud83d"), LAST, DONE))], text="one \ufffd"),
    Case(id="42-half-alone-plain", stream=False, steps=[Step(plain(completion("one \ud83d")))], text="one \ufffd"),
    # 43: no UTF-8
    Case(id="43", steps=[Step(chunked(ROLE, BAD_BYTES, LAST, DONE))], text="a��b", more=decode_errors(1)),
    Case(id="43-split", steps=[Step(chunked(*sliced(ROLE + BAD_BYTES + LAST + DONE, 1)))], text="a��b", more=decode_errors(1)),
    Case(id="43-structure", steps=broken_stream(b"data: \xff\xfe\n\n"), error=e.StreamProtocolError, text="one", more=decode_errors(1)),
    Case(id="43-plain", stream=False, steps=[Step(plain(json.dumps(completion("a??b")).encode().replace(b"??", b"\xff\xfe")))], text="a��b"),
    # 44: byte order marks
    Case(id="44", steps=[Step(chunked(b"\xef\xbb\xbf" + WORDS[0], *WORDS[1:], LAST, DONE))]),
    Case(id="44-alone", steps=[Step(chunked(b"\xef\xbb", b"\xbf", *WORDS, LAST, DONE))]),
    Case(id="44-in-text", steps=[Step(chunked(delta("a\ufeffb").replace(b"\\ufeff", b"\xef\xbb\xbf"), LAST, DONE))], text="a\ufeffb"),
    Case(id="44-later-is-no-field", steps=[Step(chunked(*WORDS, b"\xef\xbb\xbf" + AFTER, LAST, DONE))]),
    # 45: line ends
    Case(id="45-lf", steps=[FINE]),
    Case(id="45-cr", steps=[Step(chunked(*sliced(GOOD.replace(b"\n", b"\r"), 5)))]),
    Case(id="45-crlf", steps=[Step(chunked(CRLF))]),
    Case(id="45-crlf-split", steps=[Step(chunked(*sliced(CRLF, 1)))]),
    Case(id="45-mixed", steps=[Step(chunked(MIXED))]),
    # 46: what is no data
    Case(id="46", steps=[Step(chunked(b": a comment\n\n" + GOOD))]),
    Case(id="46-everything", steps=[Step(chunked(*sliced(NOISE, 11)))]),
    *(Case(id=f"46-{name}", steps=[Step(chunked(f"event: {name}\n".encode() + event(data), GOOD))]) for name, data in (
        ("ping", b"{}"), ("heartbeat", b"not json"), ("keepalive", b""))),
    # 47: data in several lines
    Case(id="47", steps=[Step(chunked(TWO_LINES))]),
    # 48: the last event lacks its blank line
    Case(id="48", steps=[Step(chunked(*WORDS[:2], WORDS[2].rstrip()), "P", text="one two")], error=e.StreamInterruptedError, text="one two"),
    Case(id="48-at-first", steps=[Step(chunked(ROLE, WORDS[0].rstrip()), "P"), FINE]),
    Case(id="48-finish-reason", steps=[Step(chunked(*WORDS, LAST.rstrip()))]),
    Case(id="48-done", steps=[Step(chunked(*WORDS, LAST, DONE.rstrip()))]),
    Case(id="48-done-newline", steps=[Step(chunked(*WORDS, LAST, DONE[:-1]))]),
    Case(id="48-half-json", steps=[Step(chunked(*WORDS, LAST[:-9]), "P", text=TEXT)], error=e.StreamInterruptedError),
    Case(id="48-error", steps=[Step(chunked(*WORDS, event_error(status_code=500).rstrip()), "P", text=TEXT)], error=e.ProviderUnavailableError),
    # 49: too large
    Case(id="49-line", steps=broken_stream(b"data: " + b"x" * 1_100_000 + b"\n\n"), error=e.ResponseTooLargeError, text="one"),
    Case(id="49-line-without-end", steps=broken_stream(b"x" * 1_100_000), error=e.ResponseTooLargeError, text="one"),
    Case(id="49-event", steps=broken_stream((b"data: " + b"x" * 900_000 + b"\n") * 5), error=e.ResponseTooLargeError, text="one"),
    Case(id="49-at-first", steps=[Step(chunked(ROLE, b"data: " + b"x" * 1_100_000 + b"\n\n"), "P", kept=False)], error=e.ResponseTooLargeError, text=""),
    # 50: no JSON
    Case(id="50", steps=broken_stream(NOT_JSON), error=e.StreamProtocolError, words="not JSON", text="one"),
    Case(id="50-at-first", steps=[broken_at_first(NOT_JSON), FINE]),
    Case(id="50-at-first-twice", steps=[broken_at_first(NOT_JSON), broken_at_first(NOT_JSON)], error=e.StreamProtocolError, text=""),
    Case(id="46-empty-data", steps=[Step(chunked(b"data:\n\n", GOOD))]),
    # 51: JSON that hurts
    *(Case(id=f"51-{name}", steps=broken_stream(bad), error=e.StreamProtocolError, text="one") for name, bad in (("deep", DEEP), ("nan", NAN), ("huge-int", HUGE))),
    *(Case(id=f"51-{name}-at-first", steps=[broken_at_first(bad), FINE]) for name, bad in (("deep", DEEP), ("nan", NAN), ("huge-int", HUGE))),
    *(Case(id=f"51-{name}-plain", stream=False, steps=[Step(plain(bad), "E"), Step(plain(bad), "E")], error=e.ResponseDecodeError)
      for name, bad in (("deep", DEEP_BODY), ("nan", NAN_BODY), ("huge-int", HUGE_BODY))),
    Case(id="51-once", stream=False, steps=[Step(plain(DEEP_BODY), "E"), FINE_PLAIN]),
    # 52: what may be missing
    Case(id="52", steps=[Step(chunked(*ODD, *WORDS, *ODD, LAST, DONE))]),
    Case(id="52-usage-chunk", steps=[Step(chunked(*WORDS, delta(finish="stop"), event({"choices": [], "usage": USAGE}), DONE))]),
    Case(id="52-usage-after-finish", steps=[Step(chunked(*WORDS, delta(finish="stop"), event({"usage": USAGE}), DONE))]),
    Case(id="52-plain", stream=False, steps=[Step(plain(completion(message={"content": None})))], text=""),
    # 53: what is new
    Case(id="53", steps=[Step(chunked(*UNKNOWN, DONE))], more=is_unknown_kept),
    Case(id="53-plain", stream=False, steps=[Step(plain(PLAIN_UNKNOWN))], more=is_unknown_kept_plain),
    # 54: wrong types
    *(Case(id=f"54-{path}", steps=broken_stream(event(bad)), error=e.StreamProtocolError, words=f"@ {path}", text="one") for path, bad in {
        "$.choices": {"choices": {}},
        "$.choices[0]": {"choices": [7]},
        "$.choices[0].delta": {"choices": [{"delta": "x"}]},
        "$.choices[0].delta.content": {"choices": [{"delta": {"content": 5}}]},
        "$.choices[0].index": {"choices": [{"index": "1", "delta": {"content": "x"}}]},
        "$.choices[0].finish_reason": {"choices": [{"delta": {}, "finish_reason": 1}]},
        "$.choices[0].delta.tool_calls[0].index": {"choices": [{"delta": {"tool_calls": [{"index": "0"}]}}]},
        "$": [1],
    }.items()),
    Case(id="54-at-first", steps=[broken_at_first(event({"choices": {}})), FINE]),
    *(Case(id=f"54-{path}-plain", stream=False, steps=[Step(plain(bad), "E"), Step(plain(bad), "E")], error=e.ResponseDecodeError, words=f"@ {path}") for path, bad in {
        "$.choices": {"choices": {}},
        "$.choices[0].message.content": completion(5),
        "$.choices[0].message.tool_calls": {"choices": [{"message": {"content": "x", "tool_calls": {}}}]},
        "$": [1],
    }.items()),
    Case(id="54-once-plain", stream=False, steps=[Step(plain({"choices": {}}), "E"), FINE_PLAIN]),
    # 55: tool calls
    Case(id="55", steps=[Step(chunked(*CALLS, delta(finish="tool_calls", x_groq={"usage": USAGE}), DONE))], text="", more=are_calls_assembled),
    Case(id="55-partial", steps=[Step(chunked(*CALLS[:2]), "P", text="12345" * 2)], error=e.StreamInterruptedError, text="", more=are_calls_partial),
    # 56: errors in a stream
    Case(id="56", steps=[Step(chunked(ROLE, WORDS[0], event_error(status_code=500)), "P", text="one")], error=e.ProviderUnavailableError, text="one", more=has_status(500)),
    Case(id="56-429", steps=[Step(chunked(WORDS[0], event_error(status_code=429)), "P", text="one")], error=e.RateLimitedError, text="one", more=has_status(429), share=0.9),
    Case(id="56-numeric-code", steps=[Step(chunked(WORDS[0], event(error("boom", code=502))), "P", text="one")], error=e.ProviderUnavailableError, words="boom", text="one", more=has_status(502)),
    Case(id="56-in-words", steps=[Step(chunked(WORDS[0], b"event: error\n" + event(b"upstream died")), "P", text="one")], error=e.StreamInterruptedError, words="upstream died", text="one"),
    Case(id="56-finish-reason-error", steps=[Step(chunked(WORDS[0], delta("", "error"), DONE), "P", text="one")], error=e.StreamInterruptedError, words="finish_reason 'error'", text="one"),
    Case(id="56-good-status-plain", stream=False, steps=[Step(plain({**error("boom", code=503), "choices": None}), "T"), FINE_PLAIN]),
    Case(id="56-good-status-plain-text", stream=False, steps=[Step(plain({"error": "boom"}), "T")], error=e.APIStatusError, words="boom"),
    Case(id="56-done-after", steps=[Step(chunked(WORDS[0], event_error(code="tool_use_failed", status_code=400, failed_generation="{") + DONE), "P", text="one")],
         error=e.ToolUseFailedError, text="one", more=has_status(400, failed_generation="{", code="tool_use_failed")),
    Case(id="56-json-invalid", steps=[Step(chunked(WORDS[0], event_error(code="json_validate_failed", status_code=400)), "P", text="one")], error=e.JSONValidationFailedError, text="one"),
    Case(id="56-unnamed", steps=[Step(chunked(WORDS[0], event(error(message="boom"))), "P", text="one")], error=e.StreamInterruptedError, words="boom", text="one"),
    Case(id="56-x-groq", steps=[Step(chunked(WORDS[0], STOPPED, DONE), "P", text="one")], error=e.StreamInterruptedError, words="over capacity", text="one"),
    Case(id="56-held-open", steps=[Step(chunked(WORDS[0], event_error(status_code=500))[:-1], "P", kept=False, end="hang", text="one")], error=e.ProviderUnavailableError, text="one"),
    Case(id="56-at-first-503", steps=[Step(chunked(ROLE, event_error(status_code=503)), "P"), FINE]),
    Case(id="56-at-first-429", steps=[Step(chunked(event_error(status_code=429)), "T"), FINE], share=0.9),
    Case(id="56-at-first-x-groq", steps=[Step(chunked(ROLE, STOPPED, DONE), "P"), FINE]),
    Case(id="56-at-first-400", steps=[Step(chunked(ROLE, event_error(status_code=400)), "P")], error=e.InvalidRequestError, text=""),
    Case(id="56-at-first-401", steps=[Step(chunked(event_error(status_code=401, message=f"key {KEY}")), "P")], error=e.AuthenticationError, text=""),
    # 57: after the end
    Case(id="57-data", steps=[Step(chunked(GOOD, AFTER))]),
    Case(id="57-data-in-the-same-read", steps=[Step(chunked(GOOD + AFTER * 3))]),
    Case(id="57-two-ends", steps=[Step(chunked(GOOD, DONE))]),
    Case(id="57-garbage", steps=[Step(chunked(GOOD, b"\xff\x00 garbage\n\ndata: {broken\n\n"))]),
    Case(id="57-too-much", steps=[Step(chunked(GOOD, *[b": " + b"x" * 20_000 + b"\n"] * 20), kept=False, end="close")]),
    Case(id="57-held-open", steps=[Step(chunked(GOOD)[:-1], kept=False, end="hang")]),
    # 58: the other kind of answer
    Case(id="58-json-for-a-stream", steps=[FINE_PLAIN]),
    *(Case(id=f"58-stream-labelled-{name}", steps=[Step([head(kind, "Transfer-Encoding: chunked"), *chunked(GOOD)[1:]])]) for name, kind in (
        ("json", JSON), ("html", "Content-Type: text/html"), ("nothing", "X-Nothing: 1"))),
    Case(id="58-json-error-for-a-stream", steps=[Step(plain(error(message="boom", status_code=503)), "T"), FINE]),
    Case(id="58-stream-for-a-plain-request", stream=False, steps=[Step(chunked(GOOD), "E"), FINE_PLAIN]),
    Case(id="58-stream-for-a-plain-request-twice", stream=False, steps=[Step(chunked(GOOD), "E")] * 2, error=e.ResponseDecodeError, words="event stream"),
    Case(id="58-page-for-a-plain-request", stream=False, steps=[Step([answer(b"<html>hi</html>", "Content-Type: text/html")], "E")] * 2, error=e.ResponseDecodeError, words="not JSON"),
    Case(id="58-page-for-a-stream", steps=[Step([answer(b"<html>hi</html>", "Content-Type: text/html")], "P")] * 2, error=e.StreamProtocolError, words="not JSON", text=""),
    # 59: no usage
    Case(id="59", steps=[Step(chunked(*WORDS, delta(finish="stop"), DONE), "E", text=TEXT)], more=is_estimated),
    Case(id="59-nothing", steps=[Step(chunked(*WORDS, event({"choices": [], "usage": {"prompt_tokens": "9"}}), delta(finish="stop"), DONE), "E", text=TEXT)], more=is_estimated),
    Case(id="59-nothing-plain", stream=False, steps=[Step(plain(completion(usage={})), "E", text=TEXT)], more=is_estimated),
    Case(id="59-plain", stream=False, steps=[Step(plain(completion(usage=None)), "E", text=TEXT)], more=is_estimated),
]  # fmt: skip
TOO_LARGE = (
    "Request too large for model `m` in organization `org_1` service tier `on_demand` on output tokens per minute (OTPM): Limit 1000, "
    "Requested 1080. The request's expected output tokens exceed the enforced limit; reduce max_tokens and try again."
)
DAILY = (
    "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on requests per day (RPD): Limit 1000, Used 1000, "
    "Requested 1. Please try again in 1m26.4s."
)
FULL = error("Rate limit reached", type="tokens", code="rate_limit_exceeded")
HINTED = error("Rate limit reached. Please try again in 5.289s. Need more?", type="tokens", code="rate_limit_exceeded")
THROTTLED = RetryPolicy(base_delay=0.25, throttle_delay=1.0)
DATE = "Date: Sun, 01 Nov 2026 10:00:00 GMT"  # two hours before the time of the client's own clock


def refused(id, code, cls, body=None, *headers, stream=True, kept=True, text="", **more):
    """A status that is not tried again."""
    steps = [Step(status(code, body, *headers), "T", kept=kept)]
    return Case(id=id, stream=stream, steps=steps, error=cls, text=text, **{"more": has_status(code), **more})


def repeated(id, code, body=None, *headers, stream=True, kept=True, **more):
    """A status that is tried again."""
    steps = [Step(status(code, body, *headers), "T", kept=kept), FINE if stream else FINE_PLAIN]
    return Case(id=id, stream=stream, steps=steps, **more)


def after(hint, body=FULL):
    """A 429 with this hint, then success: never before it, and little later."""
    return {
        "gaps": [(hint - 1e-6, hint + max(0.1, 0.05 * hint) + 1e-6)],
        "share": 0.9,
        "settings": {"retry": THROTTLED},
    }


def without_hint():
    """A 429 that says nothing readable: own backoff, and at least the second for which the gate closes."""
    return {"gaps": [(1.0 - 1e-6, 8.0)], "share": 0.9, "settings": {"retry": THROTTLED}}


def at_once(hint):
    """A hint beyond what is worth waiting for is raised, and told."""

    def check(error, made):
        assert error.status_code == 429
        assert error.retry_after == pytest.approx(hint)
        assert (error.retry_at - made.clock.now()).total_seconds() == pytest.approx(hint, abs=1)
        assert made.clock.monotonic() == made.times[0]

    return {"more": check, "share": 0.9, "settings": {"retry": THROTTLED}}


def is_share_cut(_response, made):
    """The bucket was emptied, and a tenth of the share held back."""
    window = made.limits().windows["tpm"]
    assert window.limit == 60_000
    # What has come back since, and what the refused request had held.
    assert window.remaining <= 54_000 / 60 * (made.times[1] - made.times[0]) + reserved()


def is_daily(error, made):
    assert (error.scope, error.limit_name, error.limit, error.used) == ("day", "RPD", 1000, 1000)
    assert error.retry_after == pytest.approx(86.4)
    assert made.clock.monotonic() == made.times[0]


def is_rejected_for_good(error, _made):
    assert error.status_code == 429
    assert not error.retryable


def shows_host(host):
    def check(error, _made):
        assert host in str(error)
        assert "secret" not in str(error)
        assert error.sent

    return check


def has_no_key(error, _made):
    assert KEY not in repr(vars(error))
    assert KEY[4:-4] not in str(error)


def gives_up_at(hint):
    def check(error, made):
        assert error.retry_after == hint
        assert made.clock.monotonic() == made.times[0]

    return check


STATUSES = [
    # 60: wrong requests
    *(refused(f"60-{code}{'' if stream else '-plain'}", code, cls, error("bad temperature", type="invalid_request_error", code="c", param="temperature"), stream=stream,
              words="bad temperature", more=has_status(code, code="c", param="temperature", type="invalid_request_error"))
      for stream in (True, False) for code, cls in ((400, e.InvalidRequestError), (404, e.NotFoundError), (409, e.InvalidRequestError), (422, e.InvalidRequestError))),
    refused("60-context", 400, e.ContextTooLongError, error("x", code="context_length_exceeded"), words="context too long"),
    refused("60-tool", 400, e.ToolUseFailedError, error("x", code="tool_use_failed", failed_generation="{"), more=has_status(400, failed_generation="{")),
    refused("60-json", 400, e.JSONValidationFailedError, error("x", code="json_validate_failed")),
    refused("60-decommissioned", 400, e.ModelDecommissionedError, error("x", code="model_decommissioned")),
    refused("60-no-model", 404, e.ModelNotFoundError, error("x", code="model_not_found")),
    # 61: keys
    refused("61-401", 401, e.AuthenticationError, error(f"Incorrect API key {KEY}", code="invalid_api_key"), more=has_no_key),
    refused("61-403", 403, e.PermissionDeniedError, error(f"no, {KEY}"), more=has_no_key, stream=False),
    refused("61-restricted", 400, e.PermissionDeniedError, error("x", code="organization_restricted")),
    refused("61-blocked", 400, e.PermissionDeniedError, error("x", code="blocked_api_access")),
    # 62: too large
    refused("62", 413, e.RequestTooLargeError, error("Request too large", code="rate_limit_exceeded")),
    refused("62-page", 413, e.RequestTooLargeError, b"<html>too big</html>", "Content-Type: text/html", "Connection: close", kept=False),
    # 63: every form of Retry-After
    repeated("63-seconds", 429, FULL, "Retry-After: 2", **after(2)),
    repeated("63-fraction", 429, FULL, "Retry-After: 0.5", **after(0.5)),
    repeated("63-date-past", 429, FULL, DATE, "Retry-After: Sun, 01 Nov 2026 09:59:00 GMT", **after(0)),
    repeated("63-date-future", 429, FULL, DATE, "Retry-After: Sun, 01 Nov 2026 10:00:07 GMT", **after(7)),
    repeated("63-date-bad", 429, FULL, DATE, "Retry-After: Sun, 99 Nov 2026 10:00:07 GMT", **without_hint()),
    refused("63-go-long", 429, e.RateLimitedError, FULL, "Retry-After: 2m59.56s", **at_once(179.56)),
    repeated("63-go-short", 429, FULL, "Retry-After: 120ms", **after(0.12)),
    repeated("63-milliseconds", 429, FULL, "Retry-After-Ms: 1500", "Retry-After: 9", **after(1.5)),
    repeated("63-negative", 429, FULL, "Retry-After: -5", **without_hint()),
    repeated("63-nan", 429, FULL, "Retry-After: NaN", **without_hint()),
    refused("63-huge", 429, e.RateLimitedError, FULL, "Retry-After: 1000000000", **at_once(7 * 86_400)),
    repeated("63-empty", 429, FULL, "Retry-After: ", **without_hint()),
    repeated("63-two-values", 429, FULL, "Retry-After: 2, 30", **after(30)),
    repeated("63-two-lines", 429, FULL, "Retry-After: 2", "Retry-After: 30", **after(30)),
    repeated("63-text", 429, HINTED, "Retry-After: soon", **after(5.289)),
    repeated("63-text-absent", 429, HINTED, **after(5.289)),
    repeated("63-plain", 429, FULL, "Retry-After: 2", stream=False, **after(2)),
    refused("63-beyond-cap", 429, e.RateLimitedError, FULL, "Retry-After: 61", stream=False, **at_once(61)),
    refused("63-beyond-deadline", 429, e.RateLimitedError, FULL, "Retry-After: 30", stream=False, **{**at_once(30), "settings": {"timeout": 20.0}}),
    # 64: no hint at all
    repeated("64", 429, FULL, **{**without_hint(), "more": is_share_cut,
                                 "settings": {"retry": THROTTLED, "rate_limits": RateLimits(rpd=1_000, tpd=1_000_000, tpm=60_000, share=1.0)}}),
    # 65: limits of the day, and what can never fit
    refused("65", 429, e.RateLimitedError, error(DAILY, type="requests", code="rate_limit_exceeded"), more=is_daily, used=1000),
    refused("65-header", 429, e.RateLimitedError, error(DAILY, type="requests", code="rate_limit_exceeded"), "Retry-After: 87", more=has_status(429, scope="day", retry_after=87), used=1000),
    refused("65b", 429, e.RequestTooLargeError, error(TOO_LARGE, type="tokens", code="rate_limit_exceeded"), more=is_rejected_for_good),
    # 66: no room
    repeated("66", 498, error("capacity", code="capacity_exceeded"), gaps=[(0, 1.0)], settings={"retry": THROTTLED}),
    Case(id="66-given-up", steps=[Step(status(498), "T")] * 3, error=e.OverloadedError, text="", more=has_status(498)),
    # 67: too late, too early
    repeated("67-408", 408, kept=False),
    repeated("67-425", 425, kept=False, stream=False),
    repeated("67-408-close", 408, None, "Connection: close", kept=False),
    Case(id="67-given-up", steps=[Step(status(408), "T", kept=False)] * 3, error=e.APIStatusError, text="", more=has_status(408)),
    # 68: the service fails
    *(repeated(f"68-{code}", code, stream=code % 2 == 0) for code in (500, 502, 503, 504, 520, 521, 522, 523, 524, 529)),
    *(Case(id=f"68-{code}-given-up", steps=[Step(status(code), "T")] * 3, error=cls, text="", more=has_status(code))
      for code, cls in ((500, e.ProviderUnavailableError), (502, e.ProviderUnavailableError), (503, e.OverloadedError), (504, e.ProviderUnavailableError),
                        (520, e.ProviderUnavailableError), (524, e.ProviderUnavailableError), (529, e.OverloadedError))),
    repeated("68-retry-after", 503, None, "Retry-After: 4", gaps=[(4, 4.2 + 1e-6)]),
    refused("68-retry-after-too-long", 500, e.ProviderUnavailableError, None, "Retry-After: 61", more=gives_up_at(61.0)),
    # 69: bodies of gateways
    repeated("69-page", 502, b"<html><title>Bad gateway</title></html>", "Content-Type: text/html"),
    *(Case(id=f"69-{name}", steps=[Step([answer(body, *headers, status="502 Because")], "T", kept=kept)] * 3, error=e.ProviderUnavailableError, words=words, text="")
      for name, body, headers, kept, words in (
          ("page-given-up", b"<html><title>Bad gateway</title></html>", ("Content-Type: text/html",), True, "Bad gateway"),
          ("empty", b"", (JSON,), True, "empty body"),
          ("large", b"x" * 10_000_000, ("Content-Type: text/plain",), False, "provider unavailable: groq service unavailable: xxx"),
          ("large-json", json.dumps(error("y" * 1_000_000)).encode(), (JSON,), True, "provider unavailable: groq service unavailable: yyy"),
          ("charset", "Überlastet".encode("utf-16"), ("Content-Type: application/json; charset=utf-8",), True, "provider unavailable: groq service unavailable"),
          ("long-message", json.dumps(error("z" * 50_000)).encode(), (JSON,), True, "zzz"),
          ("deep", b'{"error":' * 7_000, (JSON,), True, "provider unavailable: groq service unavailable"),
      )),
    Case(id="69-cut", steps=[Step([answer(b"x" * 100, status="502 Because")[:-50]], "T", kept=False, end="close")] * 3, error=e.ProviderUnavailableError, words="unreadable", text=""),
    # 70: redirects
    *(refused(f"70-{code}", code, e.RedirectRefusedError, b"moved", "Location: https://elsewhere.test/secret?token=secret", stream=code % 2 == 0, more=shows_host("elsewhere.test"))
      for code in (300, 301, 302, 303, 304, 307, 308) if code != 304),
    refused("70-same-host", 307, e.RedirectRefusedError, b"moved", "Location: /secret", more=shows_host("same host")),
    refused("70-304", 304, e.RedirectRefusedError, b"", more=shows_host("same host")),
    # 71: the server says whether to try again
    refused("71-false-503", 503, e.OverloadedError, None, "x-should-retry: false"),
    refused("71-false-429", 429, e.RateLimitedError, FULL, "x-should-retry: false", "Retry-After: 1", share=0.9),
    repeated("71-true-400", 400, None, "x-should-retry: true"),
    repeated("71-true-404", 404, None, "X-Should-Retry: TRUE", stream=False),
    Case(id="71-true-attempts", steps=[Step(status(400, None, "x-should-retry: true"), "T")] * 3, error=e.InvalidRequestError, text=""),
    refused("71-true-beyond-cap", 503, e.OverloadedError, None, "x-should-retry: true", "Retry-After: 61", more=gives_up_at(61.0)),
    refused("71-true-beyond-deadline", 503, e.OverloadedError, None, "x-should-retry: true", "Retry-After: 30", more=gives_up_at(30.0), settings={"timeout": 20.0}),
    refused("71-nonsense", 400, e.InvalidRequestError, None, "x-should-retry: perhaps"),
]  # fmt: skip
