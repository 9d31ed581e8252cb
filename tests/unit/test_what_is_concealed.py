"""A short key conceals nothing of a server's words, and a long one is taken out only after they were understood."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from groq_provider import errors as e
from groq_provider.wire.failures import error_from_response

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
WORDS = "Rate limit reached for model `m` on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s."


def refused(status, body, secret):
    headers = CaseInsensitiveDict({"x-request-id": "req_1"})
    return error_from_response(status, headers, json.dumps({"error": body}).encode(), now=NOW, secret=secret)


@given(st.text(st.sampled_from("RatelimTPM60 .e"), min_size=1, max_size=15))
def test_short_keys_conceal_nothing(secret):
    """Under 16 characters it is a word like any other, which the text may hold by chance."""
    error = refused(429, {"message": WORDS, "code": "rate_limit_exceeded", "type": "tokens"}, secret)
    plain = refused(429, {"message": WORDS, "code": "rate_limit_exceeded", "type": "tokens"}, None)
    assert error.message == plain.message
    assert (error.code, error.type, error.retry_after, error.limit) == ("rate_limit_exceeded", "tokens", 4.77, 6000)


@pytest.mark.parametrize(
    ("secret", "status", "code", "cls"),
    [
        ("model_decommissioned", 400, "model_decommissioned", e.ModelDecommissionedError),
        ("context_length_exceeded", 400, "context_length_exceeded", e.ContextTooLongError),
        ("rate_limit_exceeded", 400, "rate_limit_exceeded", e.RateLimitedError),
        ("Please try again in 4.77s", 429, None, e.RateLimitedError),
        ("Limit 6000, Used 5034", 429, None, e.RateLimitedError),
    ],
)
def test_classes_come_before_concealing(secret, status, code, cls):
    """A key that contains a phrase by which the class is chosen changes neither the class nor the figures."""
    error = refused(status, {"message": WORDS, "code": code}, secret)
    plain = refused(status, {"message": WORDS, "code": code}, None)
    assert type(error) is type(plain) is cls
    assert secret not in error.message
    for name in ("retry_after", "limit", "scope", "retryable"):
        assert getattr(error, name, None) == getattr(plain, name, None)
