"""Errors of other servers, and of proxies: no word of this service, and the class that says what a caller can do."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import Bench, answer, refusal
from support.fakes import FakeWire

from groq_provider import ConfigurationError, GroqProvider, ProviderConfig
from groq_provider import errors as e
from groq_provider.transport.error_mapping import map_send_error
from groq_provider.transport.scope import CancelScope
from groq_provider.wire.failures import error_from_response

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


def fail(body, status=400, provider="openai_compatible", **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_from_response(status, headers, data, now=NOW, provider=provider)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 418, 422, 429, 498, 500, 501, 503, 529])
@pytest.mark.parametrize("body", [b"", {"error": {"message": "no"}}], ids=["empty", "words"])
def test_other_servers_are_not_groq(status, body):
    """Nothing of it says that this service was asked; of this service it does where the design says so."""
    error = fail(body, status)
    assert "groq" not in str(error).lower()
    assert type(error) is type(fail(body, status, "groq"))


@pytest.mark.parametrize(("status", "phrase"), [(401, "Groq API key"), (503, "groq service"), (529, "groq overloaded")])
def test_this_service_keeps_its_phrases(status, phrase):
    """The fixed phrases, which name this service."""
    assert phrase in str(fail({"error": {"message": "no"}}, status, "groq"))


def test_other_keys_are_copied_elsewhere():
    """A key with a space in it is no key, and only this service's comes from its console."""
    with pytest.raises(ConfigurationError, match=r"console\.groq\.com"):
        ProviderConfig(api_key="gsk_a b")
    with pytest.raises(ConfigurationError, match=r"copy the key again$"):
        ProviderConfig(type="openai_compatible", base_url="http://localhost", default_model="m", api_key="a b")


CONTEXT = {
    "llama.cpp": ({"code": 400, "message": "the request exceeds the available context size (4096 tokens)",
                   "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}, 400),
    "llama.cpp, words only": ({"message": "the request exceeds the available context size, try increasing it"}, 400),
    "vLLM": ({"message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens",
              "type": "BadRequestError", "code": 400}, 400),
    "LiteLLM": ({"message": "litellm.ContextWindowExceededError: too much", "type": "ContextWindowExceededError"}, 400),
    "GitHub": ({"message": "prompt token count of 9000 exceeds the limit", "code": "model_max_prompt_tokens_exceeded"}, 400),
    "Anthropic": ({"message": "prompt is too long: 9000 tokens > 4096 maximum", "type": "invalid_request_error"}, 400),
    "Gemini": ({"message": "The input token count (9000) exceeds the maximum number of tokens allowed (4096)."}, 400),
    "by its code alone": ({"code": "context_window_exceeded"}, 413),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTEXT)
def test_context_errors_have_their_class(case):
    """Whichever name a server has for it."""
    found, status = CONTEXT[case]
    assert type(fail({"error": found}, status)) is e.ContextTooLongError


DETAILS = {
    "text": ("Model not loaded", "Model not loaded", None),
    "object": ({"message": "slow", "code": "x"}, "slow", None),
    "object in an error": ({"error": {"message": "slow", "param": "n"}}, "slow", "n"),
    "list": ([{"type": "missing", "loc": ["body", "messages", 0, "content"], "msg": "Field required", "input": "SECRET"},
              {"loc": ["body", "n"], "msg": "too large"}], "messages.0.content: Field required; n: too large", "messages.0.content"),
    "list of texts": (["a", "b"], "a; b", None),
    "place of the query": ([{"loc": ["query", "x"], "msg": "bad"}], "query.x: bad", "query.x"),
    "no place": ([{"msg": "bad"}], "bad", None),
}  # fmt: skip


@pytest.mark.parametrize("case", DETAILS)
def test_fastapi_details_are_read(case):
    """Words and place; not the input, which is the caller's."""
    detail, words, param = DETAILS[case]
    error = fail({"detail": detail}, 422)
    assert (type(error), error.message, error.param) == (e.InvalidRequestError, f"invalid request: {words}", param)
    assert "SECRET" not in str(error)


@given(st.recursive(st.none() | st.integers() | st.text("ab"), lambda x: st.lists(x) | st.dictionaries(st.sampled_from(["msg", "loc", "error", "message"]), x)))  # fmt: skip
def test_any_detail_gives_an_error(detail):
    """Whatever stands there: the class that the status gives, and never an exception of another kind."""
    assert isinstance(fail({"detail": detail}, 422), e.InvalidRequestError)


# --- quotas ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["code", "type"])
def test_used_up_quota_is_final(field):
    """It is not retried, and the limiter does not pause other calls: waiting does not help."""
    bench = Bench(refusal(429, "You exceeded your current quota", **{field: "insufficient_quota"}))
    error = bench.fails(e.RateLimitedError)
    assert (error.retryable, len(error.attempts)) == (False, 1)
    assert bench.limiter.granted[0].seen == [(None, None)]
    again = Bench(refusal(429, "slow down", headers={"retry-after": "1"}), answer())
    assert again.generate().content == "Fine."
    assert again.limiter.granted[0].seen[0][1].retryable


# --- proxies -----------------------------------------------------------------------------------------------------------------


def test_plain_407_is_the_proxys():
    """The service has seen nothing: nothing is charged, and the same request gets the same answer."""
    bench = Bench(FakeWire(407, b"<html>who are you?</html>", {"content-type": "text/html"}))
    error = bench.fails(e.ProxyError)
    assert (error.status_code, error.retryable, error.sent, len(error.attempts)) == (407, False, False, 1)
    assert bench.limiter.granted[0].ending == ("refund", "all")


@pytest.mark.parametrize(
    ("status", "retryable"),
    [("400", False), ("403", False), ("404", False), ("405", False), ("407", False), ("408", True), ("429", True), ("502", True), ("503", True)],
)  # fmt: skip
def test_refused_tunnels_are_final(status, retryable):
    """What a proxy does not allow it does not allow the next time; a fault of its own may pass."""
    call = CancelScope(Bench().clock)
    call.sent = False
    error = map_send_error(OSError(f"Tunnel connection failed: {status} No"), call, "https://h:443")
    assert type(error) is e.ProxyError
    assert error.retryable is retryable


@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h"])
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_socks_proxies_are_refused_alike(scheme, source, monkeypatch):
    """Wherever one is named: at construction, with the same words."""
    url = f"{scheme}://127.0.0.1:1080"
    if source == "environment":
        monkeypatch.setenv("HTTPS_PROXY", url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
    given_ = {"proxies": {"https": url}} if source == "argument" else {}
    with pytest.raises(ConfigurationError, match=f"the scheme must be http or https, not '{scheme}'"):
        GroqProvider(api_key="gsk_example", base_url="https://api.example.com/v1", **given_)


# --- models ------------------------------------------------------------------------------------------------------------------


def test_model_count_is_the_list():
    """For another server it is the length of its list; for this service that of the catalogue."""
    listed = {"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    with GroqProvider(type="openai_compatible", base_url="http://127.0.0.1:9", default_model="m") as provider:
        counts = [provider._models.count()]
        provider._models.update(listed)
        counts.append(provider._models.count())
        assert counts == [0, 3]
    with GroqProvider(api_key="gsk_example") as provider:
        catalogue = provider._models.count()
        provider._models.update(listed)
        assert provider._models.count() == catalogue == len(provider.get_models())
