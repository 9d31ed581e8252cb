"""Bodies of errors: long ones, odd ones, and what a server writes that must not reach a terminal."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from support.fakes import FakeClock, FakeLimiter, FakeTracker, FakeTransport, FakeWire

from groq_provider import errors as e
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.config import RetryPolicy, Timeouts
from groq_provider.types.request import LLMRequest
from groq_provider.wire import failures
from groq_provider.wire.failures import MAX_ERROR_BODY, error_from_object, error_from_response

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)


def fail(body, status=400, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = CaseInsensitiveDict({name.replace("_", "-"): value for name, value in headers.items()})
    return error_from_response(status, fields, data, now=NOW)


def refused(text, **more):
    """Return the body with which the service refuses the output of the model."""
    return {"error": {"message": "Failed to call a function.", "type": "invalid_request_error", "code": "tool_use_failed",
                      "failed_generation": text, **more}}  # fmt: skip


# --- long --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 64 << 10, 1 << 20, 3 << 20], ids=str)
def test_long_failed_generation_is_whole(size):
    """Class, code and every character, through a call."""
    text = "ab" * (size // 2)
    clock = FakeClock()
    wire = FakeWire(status=400, body=json.dumps(refused(text), ensure_ascii=False).encode())
    runtime = Caller(
        transport=FakeTransport(clock, wire), limiter=FakeLimiter(clock), tracker=FakeTracker(), clock=clock,
        policy=RetryPolicy(max_retries=0), provider="groq", default_model="m",
    )  # fmt: skip
    with pytest.raises(e.ToolUseFailedError) as caught:
        runtime.generate(LLMRequest(messages="Hi"), CallOptions(timeouts=Timeouts()))
    assert caught.value.code == "tool_use_failed"
    assert caught.value.failed_generation == text
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("text", ["a", "é", "\\", '"', "\n", "😀"], ids=ascii)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "UTF-8"])
def test_longer_body_is_cut(text, ascii_only, monkeypatch):
    """The class stays, and the beginning of the text, wherever the cut falls."""
    monkeypatch.setattr(failures, "MAX_ERROR_BODY", 300)
    body = json.dumps(refused(text * 300), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for shift in range(14):
        error = fail((b" " * shift + body)[:300])
        assert type(error) is e.ToolUseFailedError
        assert (error.code, error.type) == ("tool_use_failed", "invalid_request_error")
        assert set(error.failed_generation) - {"\ud83d"} == {text}
        assert len(error.failed_generation) > 9


def test_cut_body_that_says_nothing():
    """Neither code nor message: the status speaks."""
    assert type(fail(b'{"error":{"failed_generation":"' + b"x" * MAX_ERROR_BODY)) is e.InvalidRequestError
    assert type(fail(b"x" * (MAX_ERROR_BODY + 1), 500)) is e.ProviderUnavailableError


def test_cut_body_takes_little_work(monkeypatch):
    """One made of nothing but fields that cannot be read."""
    tried = []
    loads = json.loads
    monkeypatch.setattr(failures.json, "loads", lambda *args, **more: (tried.append(1), loads(*args, **more))[1])
    fail(rb'"code":"\x",' * (MAX_ERROR_BODY // 12 + 1))
    assert len(tried) < 1000


# --- odd ---------------------------------------------------------------------------------------------------------------------


def test_code_where_type_should_be():
    """Without a code of its own."""
    assert type(fail({"error": {"message": "No.", "type": "context_length_exceeded"}})) is e.ContextTooLongError
    assert (
        type(fail({"error": {"message": "No.", "type": "model_decommissioned", "code": None}}))
        is e.ModelDecommissionedError
    )
    assert type(fail({"error": {"message": "No.", "type": "invalid_request_error"}})) is e.InvalidRequestError


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        ({"error": "invalid_token", "error_description": "The token expired"}, "The token expired", "invalid_token"),
        ({"error_description": "The token expired"}, "The token expired", None),
        ({"error": "Bad Gateway", "message": "upstream down", "status": 502}, "Bad Gateway: upstream down", None),
        ({"error": "no", "code": "x9"}, "no", "x9"),
        ([{"error": {"message": "in a list", "code": 400}}], "in a list", "400"),
        ({"object": "error", "message": "old vLLM", "code": 400}, "old vLLM", "400"),
    ],
    ids=str,
)
def test_words_wherever_they_stand(body, words, code):
    """OAuth's description, a text beside a text, an object in a list."""
    error = fail(body, 401)
    assert type(error) is e.AuthenticationError
    assert (str(error), error.code) == (f"unauthorized: invalid Groq API key: {words}", code)


XML = [
    (
        b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        "text/html",
    ),
    (b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", "application/xml"),
    (b"<Error><Code>AccessDenied</Code>\n  <Message>Access Denied</Message></Error>", ""),
]


@pytest.mark.parametrize(("body", "kind"), XML, ids=["declared", "by type", "bare"])
def test_xml_shown_by_its_words(body, kind):
    """It is no HTML page."""
    assert str(fail(body, 403, content_type=kind)) == "permission denied: AccessDenied Access Denied"


def test_entities_of_xml_are_resolved():
    """Cut short, and never empty."""
    assert str(fail(b"<a>x &lt; y</a>", 403)) == "permission denied: x < y"
    assert len(str(fail(b"<a>" + b"word " * 2000 + b"</a>", 403))) < 400
    assert str(fail(b"<a><b/></a>", 403)) == "permission denied: XML without words"


@pytest.mark.parametrize("coding", ["br", "zstd", "BR"])
def test_a_packed_body_is_named(coding):
    """A body in a coding that was not requested."""
    error = fail(b"\x1b\x2f\x00\xf8\x25\x00\xc2\x98", 502, content_encoding=coding)
    assert type(error) is e.ProviderUnavailableError
    assert f"a body in {coding.lower()}, which was not asked for" in str(error)


def test_coding_only_claimed_is_named():
    """The words are shown where they can be read."""
    assert "plain words" in str(fail(b"plain words", 502, content_encoding="br"))


# --- control characters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\r\nlog: forged", r"a\r\nlog: forged"),
        ("bell\x07\x00", r"bell\x07\x00"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("half \ud83d", r"half \ud83d"),
        ("tab\t", r"tab\t"),
        ("Grüße, 世界 🎉 \xa0ok", "Grüße, 世界 🎉 \xa0ok"),
    ],
    ids=ascii,
)
def test_control_characters_are_escaped(text, shown):
    """They are escaped for a status, an event and a plain text; ``failed_generation`` is kept unchanged."""
    error = fail(refused(text, message=text))
    assert str(error) == f"invalid request: {shown}"
    assert error.failed_generation == text
    assert str(error_from_object({"message": text}, status=None, now=NOW)) == f"groq API error: {shown}"


@given(
    st.text(max_size=80), st.sampled_from([b"%s", b'{"error":{"message":"%s"}}', b"<title>%s</title>", b"<a>%s</a>"])
)
def test_any_words_can_be_shown(text, form):
    """On one line of any terminal, and encoded."""
    shown = str(fail(form.replace(b"%s", text.encode("utf-8", "surrogatepass"))))
    assert shown.encode()
    assert not [c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160]
