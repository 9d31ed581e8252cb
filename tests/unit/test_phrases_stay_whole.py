"""The fixed phrases (`docs/design/promises.md`) stand whole in messages, whatever the body."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from groq_provider.wire.failures import error_from_response

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
NO_JSON = {
    "empty": b"",
    "text": b"Not here",
    "page": b"<html><title>Sorry</title>",
    "half": b'{"error": {',
    "list": b"[]",
}
JSON = {
    "object": b'{"error": {"message": "Not here"}}',
    "null": b'{"error": {"message": null, "code": "x"}}',
    "blank": b'{"error": {"message": "", "type": "y", "code": "x"}}',
    "text": b'{"error": "Not here"}',
}
PHRASES = {
    529: ("groq overloaded: please retry after a moment",) * 2,
    503: ("provider unavailable: groq service unavailable",) * 2,
    500: ("provider unavailable: groq service unavailable",) * 2,
    401: ("unauthorized: check API key", "unauthorized: invalid Groq API key"),
}


@pytest.mark.parametrize("status", PHRASES)
@pytest.mark.parametrize(
    "body", [*NO_JSON.values(), *JSON.values()], ids=[*NO_JSON, *[f"json-{name}" for name in JSON]]
)
def test_phrase_is_whole(status, body):
    """At the beginning, followed by the server's words where there are any; of another server without this one's name."""
    plain, of_object = PHRASES[status]
    phrase = plain if body in NO_JSON.values() else of_object
    message = error_from_response(status, {}, body, now=NOW).message
    assert message.startswith((f"{phrase}: ", f"{phrase} ("))
    assert ("Not here" in message) == (b"Not here" in body)
    assert "groq" not in error_from_response(status, {}, body, now=NOW, provider="openai_compatible").message.lower()
