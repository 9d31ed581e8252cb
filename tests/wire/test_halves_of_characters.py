"""Halves of characters on the wire, by the emulator, which sends them as JSON can: escaped."""

from __future__ import annotations

import pytest

from groq_provider import GroqProvider, RetryPolicy
from groq_provider.testing import Emulator, Reply

HIGH, LOW, LOST = "\ud83d", "\ude00", "\ufffd"


@pytest.fixture(scope="module")
def emulator():
    with Emulator(speed=0) as running:
        yield running


@pytest.fixture
def provider(emulator):
    with GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url, retry=RetryPolicy(max_retries=0)) as made:
        yield made


@pytest.mark.parametrize(
    ("pieces", "text"),
    [([HIGH, LOW], "😀"), (["a" + HIGH, LOW + "b"], "a😀b"), (["a", HIGH], "a" + LOST), ([LOW, "a"], LOST + "a")],
    ids=ascii,
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_halves_of_a_character(emulator, provider, pieces, text, stream):
    """Whole again in the chunks and in the answer, which can be encoded."""
    emulator.enqueue(Reply(chunks=pieces))
    if stream:
        with provider.generate_stream("Hi") as chunks:
            assert "".join(chunk.content for chunk in chunks) == text
            assert chunks.response.content == text
    else:
        assert provider.generate("Hi").content == text
    assert text.encode()
    assert emulator.errors == []


def test_prompt_with_half_a_character(emulator, provider):
    """It is sent as it is, and answered."""
    assert provider.generate("half " + HIGH).content.encode()
    assert provider.generate_stream("half " + HIGH).collect().content.encode()
    assert emulator.errors == []
