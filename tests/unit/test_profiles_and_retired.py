"""Nominal figures beside measured ones, and a word about models that were shut down."""

from __future__ import annotations

import logging

import pytest
from support.fakes import FakeClock

from groq_provider import GroqProvider, LatencyTracker, MeasuredProfile, default_catalogue


def messages(caplog, **settings):
    caplog.clear()
    with caplog.at_level(logging.WARNING, "groq_provider"):
        GroqProvider(api_key="gsk_1", clock=FakeClock(), **settings).close()
    return caplog.messages


@pytest.mark.parametrize("place", ["models", "default_model"])
@pytest.mark.parametrize("name", ["llama-3.3-70b-versatile", "mixtral-8x7b-32768", "gemma2-9b-it"])
def test_retired_model_is_a_warning(caplog, place, name):
    """At construction, with the date and the live successor, once for each model."""
    found = messages(caplog, **{place: [name] if place == "models" else name})
    known = default_catalogue().get(name)
    assert found == [
        f"model {name!r} of the configuration was shut down on {known.shutdown_date}: use {known.replacement!r}"
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"models": ["openai/gpt-oss-20b"]},
        {"default_model": "a-new-one"},
        {"models": ["llama-3.3-70b-versatile"], "enabled": False},
        {
            "type": "openai_compatible",
            "base_url": "http://127.0.0.1:9/v1",
            "default_model": "llama-3.3-70b-versatile",
        },
    ],
    ids=["default", "offered", "unknown", "disabled", "other"],
)
def test_other_models_are_none(caplog, settings):
    """Live or unknown models, a provider that makes no calls, another server: nothing is said."""
    assert messages(caplog, **settings) == []


def test_profile_beside_measured():
    """Both are there, each ``None`` where there is none; a model of neither is left out."""
    tracker = LatencyTracker()
    for first, speed in ((0.1, 100.0), (0.3, 300.0), (0.2, 200.0)):
        tracker.record("openai/gpt-oss-20b", total=1.0, first_token=first, tokens_per_second=speed)
    tracker.record("new", total=1.0)
    names = ["openai/gpt-oss-20b", "openai/gpt-oss-120b", "new", "nothing"]
    with GroqProvider(api_key="gsk_1", models=names, latency_tracker=tracker) as provider:
        found = provider.profile_vs_measured()
    assert list(found) == names[:3]
    nominal = default_catalogue().get("openai/gpt-oss-20b").performance_profile
    assert found["openai/gpt-oss-20b"] == MeasuredProfile(
        model="openai/gpt-oss-20b",
        nominal_first_token_latency=nominal.avg_first_token_latency,
        measured_first_token_latency=0.2,
        nominal_tokens_per_second=nominal.avg_tokens_per_second,
        measured_tokens_per_second=200.0,
        sample_count=3,
    )
    assert found["openai/gpt-oss-120b"].measured_tokens_per_second is None
    assert found["new"] == MeasuredProfile(model="new", sample_count=1)
