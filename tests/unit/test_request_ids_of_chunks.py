"""An error names the request also where only the chunks did."""

from __future__ import annotations

import pytest
from support.bench import Bench, chunk
from support.fakes import FakeWire

from groq_provider import RetryPolicy
from groq_provider import errors as e


@pytest.mark.parametrize("first", ["header", "none"])
@pytest.mark.parametrize(
    "fault",
    [[], [b'data: {"error": {"message": "no"}}\n\n'], [b"data: {\n\n"], [e.ReadTimeoutError]],
    ids=["cut", "error", "no-json", "silence"],
)
@pytest.mark.parametrize("text", [None, "a"], ids=["before", "after"])
def test_error_has_id_of_chunks(first, fault, text):
    """Before the first text and after it, whatever the failure; the header's comes first."""
    made = [piece("no") if isinstance(piece, type) else piece for piece in fault]
    pieces = [chunk(text, x_groq={"id": "req_chunk"}), *made]
    wire = FakeWire(headers={"content-type": "text/event-stream"}, pieces=pieces)
    if first == "none":
        del wire.headers["x-request-id"]
    bench = Bench(wire, policy=RetryPolicy(max_retries=0))
    with pytest.raises(e.GroqProviderError) as caught:
        bench.stream().collect()
    expected = "req_chunk" if first == "none" else "req_1"
    assert caught.value.request_id == expected
    assert caught.value.attempts[-1].request_id == expected
