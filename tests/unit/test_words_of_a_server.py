"""What a server says: shown as it wrote it, but for the key; ``error.summary`` for logs."""

from __future__ import annotations

import json
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, refusal, streamed

from groq_provider import LLMRequest
from groq_provider import errors as e
from groq_provider.types.response import Attempt
from groq_provider.wire.failures import redact_key

KEY = "gsk_canary0123456789abcdef"
TEXT = 'Meine Frage:\nWie hoch ist das Gehalt von "Frau Müller"?'


@pytest.mark.parametrize("field", ["message", "code", "type", "param"])
def test_words_are_shown_as_written(field):
    """Also where they repeat the prompt; the key alone is blanked out."""
    bench = Bench(secret=KEY)

    def repeat(call):
        sent = json.loads(bench.transport.sent[-1]["body"])["messages"][0]["content"]
        return refusal(400, **{"message": "no", field: f"cannot parse {sent} of {KEY}"})

    bench.transport.script.append(repeat)
    with pytest.raises(e.InvalidRequestError) as caught:
        bench.generate(LLMRequest(messages=TEXT))
    shown = caught.value.message if field == "message" else getattr(caught.value, field)
    assert shown.endswith(f"cannot parse {TEXT} of ****")


def test_generated_text_loses_only_key():
    """It is for the caller to read."""
    bench = Bench(refusal(400, code="json_validate_failed", failed_generation=f"{TEXT} {KEY}"), secret=KEY)
    with pytest.raises(e.JSONValidationFailedError) as caught:
        bench.generate(LLMRequest(messages=TEXT))
    assert caught.value.failed_generation == f"{TEXT} ****"


@pytest.mark.parametrize(
    "said", ["p" * 490 + KEY, "p" * 290 + KEY, ["p" * 480, KEY], ["p" * 280, KEY], {"m": KEY}], ids=range(5)
)
@pytest.mark.parametrize("place", ["error", "x_groq"])
def test_key_goes_before_the_cut(said, place):
    """The beginning of a key that was cut in two would stay: in the middle of a stream, in texts and in anything else."""
    event = {"error": said} if place == "error" else {"choices": [], "x_groq": {"error": said}}
    body = b"data: " + json.dumps(event).encode() + b"\n\n"
    bench = Bench(*[streamed(body) for _ in range(4)], secret=KEY)
    with pytest.raises(e.GroqProviderError) as caught:
        bench.stream().collect()
    shown = repr((str(caught.value), vars(caught.value), caught.value.partial))
    assert "gsk_" not in shown
    assert "canary" not in shown


@pytest.mark.parametrize("key", ["a", "key", "fifteen letters", "", None])
def test_short_key_changes_no_words(key):
    """It may be a word like any other."""
    bench = Bench(refusal(400, "a key of fifteen letters, as it is"), secret=key)
    with pytest.raises(e.InvalidRequestError, match="a key of fifteen letters, as it is"):
        bench.generate()


@given(st.text(), st.text(min_size=16, max_size=20), st.text())
def test_long_key_is_blanked_everywhere(before, key, after):
    """Whatever is around it."""
    assert key not in redact_key(f"{before}{key}{after}{key}", key).replace("****", "\n" * 50)


@pytest.mark.parametrize(
    ("message", "cls"),
    [("Please reduce the length of the messages", e.ContextTooLongError), ("no", e.InvalidRequestError)],
)
def test_class_comes_before_key_goes(message, cls):
    """A key that is part of the words that tell the class hides them only afterwards."""
    bench = Bench(refusal(400, message), secret="reduce the length of the messages")
    with pytest.raises(e.InvalidRequestError) as caught:
        bench.generate()
    assert type(caught.value) is cls


def test_error_event_may_be_text():
    """Not an object, as events named "error" may be."""
    bench = Bench(*[streamed(b'event: error\ndata: "out of order"\n\n') for _ in range(4)])
    with pytest.raises(e.StreamInterruptedError, match="out of order"):
        bench.stream().collect()


def test_errors_of_long_talks_quick():
    """Thousands of messages are compared with nothing; that took half a minute of CPU once."""
    messages = [{"role": "user", "content": f"A message of some length, number {i} of all"} for i in range(3800)]
    bench = Bench(refusal(400, json.dumps(messages)), secret=KEY)
    request = LLMRequest(messages=messages)
    begun = time.thread_time()
    with pytest.raises(e.InvalidRequestError):
        bench.generate(request)
    assert time.thread_time() - begun < 5  # a tenth in truth


# --- the summary -------------------------------------------------------------------------------------------------------------


def test_summary_names_what_is_known():
    """In one line, and in the order of the docs."""
    attempts = tuple(Attempt(number=n, started_at=None) for n in (1, 2))  # type: ignore[arg-type]
    error = e.RateLimitedError(
        "rate limited: the prompt",
        status_code=429,
        code="rate_limit_exceeded",
        type="tokens",
        param="messages[3].content",
        request_id="req_01jb",
        attempts=attempts,
    )
    known = "RateLimitedError status=429 code=rate_limit_exceeded type=tokens param=messages[3].content request_id=req_01jb attempts=2"
    assert error.summary == known
    assert pickle.loads(pickle.dumps(error)).summary == known
    assert e.ReadTimeoutError("late").summary == "ReadTimeoutError"


NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/[]$", min_size=1, max_size=64)


@given(st.dictionaries(st.sampled_from(["message", "code", "type", "param", "request_id"]), st.text() | NAMES))
def test_summary_is_one_safe_line(fields):
    """Whatever a server puts into the fields: names only, no spaces of its own, no control characters, a few hundred characters."""
    message = fields.pop("message", "")
    summary = e.APIStatusError(message, **fields).summary
    assert summary.isascii()
    assert summary.isprintable()
    assert len(summary) < 400
    for name, text in fields.items():
        if text and not all(c.isascii() and (c.isalnum() or c in "_-.:/[]$") for c in text):
            assert f"{name}=<{len(text)} characters>" in summary


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_a_summary_holds_no_prompt(stream):
    """Even if the server repeats it in every field."""
    fields = dict.fromkeys(("message", "code", "type", "param", "failed_generation"), TEXT)
    bench = Bench(refusal(400, headers={"x-request-id": TEXT}, **fields))
    with pytest.raises(e.InvalidRequestError) as caught:
        bench.stream(LLMRequest(messages=TEXT)) if stream else bench.generate(LLMRequest(messages=TEXT))
    assert caught.value.summary == (
        "InvalidRequestError status=400 code=<55 characters> type=<55 characters> param=<55 characters>"
        " request_id=<55 characters> attempts=1"
    )
