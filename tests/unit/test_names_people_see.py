"""Names in editors, in help() and in a fallback's breakers."""

from __future__ import annotations

import attrs

import groq_provider
from groq_provider import FallbackProvider, GroqProvider, LLMRequest


def test_help_lists_every_field():
    """In the order of the request."""
    text = GroqProvider.generate.__doc__
    listed = [name for name in (field.name for field in attrs.fields(LLMRequest)) if f"``{name}``" in text]
    assert listed == [field.name for field in attrs.fields(LLMRequest)]


def test_field_types_are_exported():
    """For functions that pass them on with Unpack."""
    assert set(groq_provider.RequestFields.__annotations__) == {field.name for field in attrs.fields(LLMRequest)}


def test_members_have_their_own_names():
    """Two providers of one service, and the same pair twice, are told apart."""
    with GroqProvider(api_key="gsk_1") as first, GroqProvider(api_key="gsk_2") as second:
        both = FallbackProvider([first, second, (first, "m"), (second, "m"), (first, "n"), (second, "m")])
        names = [name for name, _ in both.breakers]
    assert names == ["Groq", "Groq #2", "Groq/m", "Groq/m #4", "Groq/n", "Groq/m #6"]
