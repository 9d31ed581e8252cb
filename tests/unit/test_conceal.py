"""What a server repeats of what it was sent."""

from __future__ import annotations

import json

import pytest
from support.bench import Bench, refusal, streamed

from groq_provider import LLMRequest
from groq_provider import errors as e
from groq_provider.wire.conceal import Concealer

KEY = "gsk_canary0123456789abcdef"
TEXT = 'Meine geheime Frage:\nWie hoch ist das Gehalt von "Frau Müller" in der Abteilung?'


@pytest.mark.parametrize(
    "form",
    [
        TEXT,
        json.dumps(TEXT),
        json.dumps(TEXT, ensure_ascii=False),
        json.dumps(json.dumps(TEXT)),
        json.dumps(json.dumps(TEXT, ensure_ascii=False), ensure_ascii=False),
    ],
    ids=["bare", "JSON", "JSON with letters", "JSON in JSON", "JSON in JSON with letters"],
)
@pytest.mark.parametrize("end", [None, 40, 17], ids=["whole", "cut", "cut early"])
def test_text_found_in_any_form(form, end):
    """A text is found in any form, wherever it ends and as far as it is repeated, once or twice."""
    conceal = Concealer(KEY, [TEXT])
    begin = form.index("Meine")
    said = form[begin : len(form) if end is None else begin + end].rstrip('"\\')
    shown = conceal(f"cannot parse {said} | {said} with {KEY}")
    assert shown == "cannot parse <prompt> | <prompt> with ****"
    assert conceal.in_bytes(f"a {said}".encode() + b"\xff") == b"a <prompt>\xff"


def test_short_or_other_text_stays():
    """A text that is short or another one stays: it is words like any other."""
    conceal = Concealer(
        None, ["hello", "  hello  ", "a text of its own that is long", "\ud800 is no letter of this text"]
    )
    for said in ("", "a", "hello, hello", "a text of its", "nothing of it", "a text of mine that is long"):
        assert conceal(said) == said
    assert Concealer()(KEY) == KEY


def test_longest_form_wins():
    """The longest form at a place counts when two texts begin alike."""
    conceal = Concealer(None, ["the same beginning, then one", "the same beginning, then another"])
    assert conceal("x the same beginning, then another y") == "x <prompt> y"


OTHERS = {
    "text": {"messages": TEXT},
    "document": {"messages": "hi", "documents": [{"source": {"type": "text", "text": TEXT}}]},
    "tool": {
        "messages": "hi",
        "tools": [{"type": "function", "function": {"name": "f", "description": TEXT, "parameters": {}}}],
    },
    "arguments": {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": TEXT}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "ok"},
        ]
    },
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("field", ["message", "code", "type", "param"])
def test_no_error_shows_request(name, field):
    """No error shows what a request held, wherever in it, and wherever the server repeats it."""
    bench = Bench(secret=KEY)

    def repeat(call):
        sent = bench.transport.sent[-1]["body"].decode()
        return refusal(400, **{"message": "no", field: f"cannot parse {sent} of {KEY}"})

    bench.transport.script.append(repeat)
    with pytest.raises(e.InvalidRequestError) as caught:
        bench.generate(LLMRequest(**OTHERS[name]))
    shown = repr((str(caught.value), vars(caught.value)))
    assert "geheim" not in shown
    assert "Gehalt" not in shown
    assert "canary" not in shown
    assert "<prompt>" in shown


def test_generated_text_stays():
    """What the model generated stays, whatever it repeats, as the caller must read it. The key is concealed."""
    bench = Bench(refusal(400, code="json_validate_failed", failed_generation=f"{TEXT} {KEY}"), secret=KEY)
    with pytest.raises(e.JSONValidationFailedError) as caught:
        bench.generate(LLMRequest(messages=TEXT))
    assert caught.value.failed_generation == f"{TEXT} ****"


@pytest.mark.parametrize(
    "said", ["p" * 490 + KEY, ["p" * 480, KEY], "cannot answer: " + TEXT * 9, [TEXT * 9], {"m": TEXT * 9}], ids=range(5)
)
@pytest.mark.parametrize("place", ["error", "x_groq"])
def test_conceal_precedes_cutting(said, place):
    """Nothing is cut before it is concealed: the beginning of a text cut in two would stay, in a stream or text."""
    event = {"error": said} if place == "error" else {"choices": [], "x_groq": {"error": said}}
    body = b"data: " + json.dumps(event).encode() + b"\n\n"
    bench = Bench(*[streamed(body) for _ in range(4)], secret=KEY)
    with pytest.raises(e.GroqProviderError) as caught:
        bench.stream(request=LLMRequest(messages=TEXT * 9)).collect()
    shown = repr((str(caught.value), vars(caught.value), caught.value.partial))
    for part in ("gsk_", "canary", "geheim"):
        assert part not in shown


def test_text_only_error_event_counts():
    """An error event that is only a text says it; it need not be an object."""
    bench = Bench(*[streamed(b'event: error\ndata: "out of order"\n\n') for _ in range(4)])
    with pytest.raises(e.StreamInterruptedError, match="out of order"):
        bench.stream().collect()
