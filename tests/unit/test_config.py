"""Settings: their sources, refusals and messages; the key never shows."""

import contextlib
import copy
import json
import logging
import pickle
import string
import sys
import traceback
from pathlib import Path
from types import MappingProxyType

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider._validate import Hidden, check_headers, parse_duration
from groq_provider.config import ProviderConfig, ProviderSettings, RateLimits, RetryPolicy, Secret, Timeouts
from groq_provider.config import files as config_loading
from groq_provider.config.urls import hide_credentials, normalise_base_url
from groq_provider.errors import ConfigurationError, InvalidRequestError
from groq_provider.types.model_info import ProviderType

CANARY = "gsk_CANARY0123456789abcdefghijklmnop"
ROOT = "https://api.groq.com/openai/v1"
OTHER = {"type": "openai_compatible", "base_url": "http://localhost:8000", "default_model": "m"}


@pytest.fixture(autouse=True)
def _no_groq_variables(monkeypatch):
    for name in ("GROQ_API_KEY", "GROQ_BASE_URL", "GROQ_HOST"):
        monkeypatch.delenv(name, raising=False)


def load(source=None, *, environ=None, **settings):
    """A configuration with a key and an environment of its own."""
    settings.setdefault("api_key", CANARY)
    return ProviderConfig.load(source, environ=environ or {}, **settings)


# --- time limits --------------------------------------------------------------------------------------------------------


def test_timeouts_default_as_documented():
    """The defaults of the time limits are the documented ones."""
    assert Timeouts() == Timeouts(wait=None, connect=10.0, first_token=60.0, idle=30.0, total=None)


@pytest.mark.parametrize("field", ["wait", "connect", "first_token", "idle", "total"])
@pytest.mark.parametrize(
    "value",
    [0, -1, True, float("nan"), float("inf"), -float("inf"), "30", 1.1e9, 10**5000, [1]],
    ids=lambda v: str(type(v)),
)
def test_timeouts_refuse_bad_values(field, value):
    """The message names field, value and range."""
    with pytest.raises(
        ConfigurationError, match=rf"{field} = .*: must be a number above 0 and at most 1e\+09, or None"
    ):
        Timeouts(**{field: value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5),
        (0.5, 0.5),
        ("30s", 30),
        ("1m30s", 90),
        ("500ms", 0.5),
        ("2h", 7200),
        ("30", 30),
        (" 1.5s ", 1.5),
        ("1h1m1s1ms", 3661.001),
        ("2m500ms", 120.5),
    ],
)
def test_timeouts_of_one_duration(value, seconds):
    """It bounds waiting, the first token and everything; the rest stays."""
    assert Timeouts.of(value) == Timeouts(wait=seconds, first_token=seconds, total=seconds)


def test_timeouts_of_other_forms():
    """Limits stay, fields are read, nothing is nothing."""
    limits = Timeouts(idle=1)
    assert Timeouts.of(limits) is limits
    assert Timeouts.of(None) is None
    assert Timeouts.of({"idle": "1m", "connect": 2, "first_token": None}) == Timeouts(
        idle=60, connect=2, first_token=None
    )


@pytest.mark.parametrize(
    "value",
    [0, -1, True, "", "s", "1x", "-1s", "1s1h", "0s", "1 s", "٣s", float("nan"), [1], b"1s", "1" * 99],
    ids=repr,
)
def test_timeouts_of_refuses(value):
    """One error, naming the setting."""
    with pytest.raises(ConfigurationError, match="timeout = "):
        Timeouts.of(value)


def test_timeouts_of_names_unknown_fields():
    """All at once, each with its nearest."""
    with pytest.raises(ConfigurationError, match=r"'idel' .did you mean 'idle'.*'zzz'"):
        Timeouts.of({"idel": 1, "zzz": 2})


@given(st.tuples(*[st.integers(0, 10**6)] * 4))
def test_durations_round_trip(parts):
    """Hours, minutes, seconds and milliseconds add up."""
    hours, minutes, seconds, millis = parts
    total = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{millis}ms") == pytest.approx(total)
    assert parse_duration(f"{millis}ms") == millis * 0.001
    assert parse_duration(str(seconds)) == parse_duration(f"{seconds}s") == seconds


@given(st.text())
def test_any_duration_reads_or_fails(text):
    """Any duration is read or refused; no text raises anything else."""
    with contextlib.suppress(ConfigurationError):
        assert parse_duration(text) >= 0


# --- retries ------------------------------------------------------------------------------------------------------------


def test_retry_defaults_and_presets():
    """Web fails fast, batch waits for the window."""
    assert RetryPolicy() == RetryPolicy(
        max_retries=2, base_delay=0.25, throttle_delay=1.0, max_delay=8.0, hint_cap=60.0
    )
    assert (RetryPolicy.web().max_retries, RetryPolicy.web().hint_cap) == (1, 1.0)
    assert RetryPolicy.web().max_delay <= 1
    assert RetryPolicy.batch().max_retries > 2
    assert RetryPolicy.batch().hint_cap == 3600
    assert RetryPolicy.of("web") == RetryPolicy.web()
    assert RetryPolicy.of("batch") == RetryPolicy.batch()
    assert RetryPolicy.of({"max_retries": 0, "hint_cap": "1m"}) == RetryPolicy(max_retries=0, hint_cap=60)
    assert RetryPolicy.of(None) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.0),
        ("max_retries", True),
        ("max_retries", 101),
        ("max_retries", None),
        ("base_delay", -0.1),
        ("throttle_delay", None),
        ("max_delay", "8"),
        ("hint_cap", float("inf")),
    ],
)
def test_retry_refuses_bad_values(field, value):
    """The message names field and value."""
    with pytest.raises(ConfigurationError, match=f"{field} = "):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize("value", [1, "fast", True, [1], {"retries": 1}], ids=repr)
def test_retry_of_refuses(value):
    """Neither policy, preset nor fields."""
    with pytest.raises(ConfigurationError, match="retry"):
        RetryPolicy.of(value)


# --- rate limits --------------------------------------------------------------------------------------------------------


def test_rate_limits_defaults():
    """Nothing is known; tokens are used up to 97 per cent."""
    limits = RateLimits()
    assert [getattr(limits, name) for name in RateLimits.DIMENSIONS] == [None] * 6
    assert (limits.share, limits.models) == (0.97, {})
    assert limits.for_model("m") is limits


@pytest.mark.parametrize("field", RateLimits.DIMENSIONS)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "30", float("nan")], ids=repr)
def test_rate_limits_refuse(field, value):
    """Zero is no limit of this class: it would let nothing through."""
    with pytest.raises(ConfigurationError, match=f"{field} = .*: must be an integer from 1"):
        RateLimits(**{field: value})


@pytest.mark.parametrize("value", [0, -0.5, 1.01, True, None, "1"], ids=repr)
def test_rate_limit_share_refuses(value):
    """Above 0, at most 1."""
    with pytest.raises(ConfigurationError, match=r"share = .*: must be a number above 0 and at most 1"):
        RateLimits(share=value)


def test_rate_limits_by_model():
    """A model's limits stand instead of the general ones; a mapping takes the share along."""
    limits = RateLimits(rpm=30, tpm=5, share=0.5, models={"a": {"rpm": 60}, "b": RateLimits(tpd=1)})
    assert limits.for_model("a") == RateLimits(rpm=60, share=0.5)
    assert limits.for_model("b") == RateLimits(tpd=1)
    assert limits.for_model("c") == RateLimits(rpm=30, tpm=5, share=0.5)
    assert pickle.loads(pickle.dumps(limits)) == limits


@pytest.mark.parametrize(
    "models",
    [1, [], {1: {}}, {"": {}}, {"a": None}, {"a": 5}, {"a": {"x": 1}}, {"a": {"models": {"b": {}}}}, {"a": {"rpm": 0}}],
)
def test_rate_limits_by_model_refuses(models):
    """Values that are not the limits of one model."""
    with pytest.raises(ConfigurationError):
        RateLimits(models=models)


@pytest.mark.parametrize(
    ("plan", "model", "limits"),
    [
        ("free", "openai/gpt-oss-120b", {"rpm": 30, "rpd": 1000, "tpm": 8000, "tpd": 200_000}),
        ("free", "unknown", {"rpm": 30, "rpd": 1000, "tpm": 8000, "tpd": 200_000}),
        ("free", "whisper-large-v3", {"rpm": 20, "rpd": 2000}),
        ("free", "canopylabs/orpheus-v1-english", {"rpm": 10, "rpd": 100, "tpm": 1200, "tpd": 3600}),
        ("developer", "openai/gpt-oss-20b", {"rpm": 1000, "tpm": 250_000}),
        ("developer", "openai/gpt-oss-safeguard-20b", {"rpm": 1000, "tpm": 150_000}),
    ],
)
def test_rate_limits_of_a_plan(plan, model, limits):
    """The published tables."""
    assert RateLimits.plan(plan).for_model(model) == RateLimits(**limits)
    assert RateLimits.of(plan) == RateLimits.plan(plan)


@pytest.mark.parametrize("plan", ["gold", "", None, 1, ["free"]], ids=repr)
def test_rate_limits_unknown_plan_refused(plan):
    """The message names those there are."""
    with pytest.raises(ConfigurationError, match="'free', 'developer'"):
        RateLimits.plan(plan)


# --- base URL -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("https://api.groq.com", ROOT),
        ("https://api.groq.com/", ROOT),
        ("HTTPS://API.GROQ.COM:443//", ROOT),
        ("https://api.groq.com.", ROOT),
        ("api.groq.com", ROOT),
        (" api.groq.com\n", ROOT),
        ("https://api.groq.com/openai", ROOT),
        ("https://api.groq.com/openai/v1", ROOT),
        ("https://api.groq.com/openai/v1/", ROOT),
        ("https://api.groq.com//openai//v1", ROOT),
        ("https://api.groq.com/openai/v1/chat/completions", ROOT),
        ("https://api.groq.com/openai/v1/models/", ROOT),
        ("api.groq.com/openai/v1/audio/speech", ROOT),
        ("localhost:8000", "http://localhost:8000/openai/v1"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/openai/v1"),
        ("[::1]:8000", "http://[::1]:8000/openai/v1"),
        ("http://[0:0::1]", "http://[::1]/openai/v1"),
        ("https://[2001:DB8::1]:8443/v1", "https://[2001:db8::1]:8443/v1"),
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1"),
        ("http://127.0.0.1:11434/v1/chat/completions", "http://127.0.0.1:11434/v1"),
        ("app.localhost", "https://app.localhost/openai/v1"),
        ("https://gateway.example/team", "https://gateway.example/team/openai/v1"),
        ("https://bücher.example", "https://xn--bcher-kva.example/openai/v1"),
        ("my_host:1/v1", "https://my_host:1/v1"),
    ],
)
def test_base_url_forms(text, root):
    """Every way of naming the place gives the same root."""
    assert normalise_base_url(text) == root
    assert load(base_url=text).base_url == root


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:11434/", "http://localhost:11434/v1"),
        ("https://h.example/v1/chat/completions", "https://h.example/v1"),
        ("https://h.example/api", "https://h.example/api"),
        ("https://h.example/api/chat/completions", "https://h.example/api"),
        ("https://h.example/v1/account/gateway/groq", "https://h.example/v1/account/gateway/groq"),
        ("https://h.example/chat/completions", "https://h.example/chat/completions"),
    ],
)
def test_base_url_of_other_servers(text, root):
    """A path stays as it is; without one it is /v1."""
    assert normalise_base_url(text, type=ProviderType.OPENAI_COMPATIBLE) == root


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a URL"),
        ("https://", "host is missing"),
        ("https:///v1", "host is missing"),
        ("//host", "host is missing"),
        ("ftp://api.groq.com", "scheme must be https"),
        ("http//api.groq.com", "must begin with https"),
        ("https:/api.groq.com//openai", "must begin with https|scheme"),
        ("file:///etc/passwd", "scheme must be https"),
        ("https://api.groq.com:99999", "port must be"),
        ("https://api.groq.com:0", "port must be"),
        ("https://api.groq.com:", "port must be"),
        ("https://api.groq.com:4٣", "port must be"),
        ("mailto:x", "port must be"),
        ("https://api groq.com", "spaces"),
        ("https://api.groq.com/a b", "spaces"),
        ("https://api.groq.com/\x00", "control"),
        ("https://api.groq.com\\@evil.example", "backslashes"),
        ("https://api.groq.com\r\nX: y", "spaces"),
        ("https://user:hunter2@api.groq.com", "leave out user name"),
        ("user:hunter2@api.groq.com", "leave out user name"),
        ("https://api.groq.com?api_key=hunter2", "query"),
        ("https://api.groq.com/#hunter2", "fragment"),
        ("https://a..b", "not a valid host name"),
        ("https://-a.example", "not a valid host name"),
        ("https://a%41.example", "not a valid host name"),
        ("https://" + "a" * 64 + ".example", "not a valid host name"),
        ("https://xn--\uff41\uff41", "not a valid host name"),
        ("https://\u2488com", "not a valid host name"),
        ("https://" + "ü" * 300, "not a valid host name"),
        ("https://999.1.1.1", "not an IPv4"),
        ("https://1.2.3", "not an IPv4"),
        ("https://[::1", "IPv6"),
        ("https://[fe80::1%25eth0]", "IPv6"),
        ("https://[::1]x", "only a port"),
        ("https://::1", "brackets"),
        ("https://h.example/ü", "percent-encoded"),
        ("https://h.example/%zz", "percent-encoded"),
        ("https://h.example/a/../v1", "leave out"),
        ("http://api.groq.com", "allow_insecure"),
        ("http://169.254.169.254/latest", "allow_insecure"),
        ("http://localhost.evil.example", "allow_insecure"),
        ("http://app.localhost", "allow_insecure"),
        ("x" * 3000, "2048"),
    ],
)
def test_base_url_refuses(text, words):
    """One error, naming the setting, without credentials."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        normalise_base_url(text)
    assert str(caught.value).startswith("base_url = ")
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_base_url_must_be_string():
    """A base URL must be a string; anything else is named by its type."""
    with pytest.raises(ConfigurationError, match="must be a string, not int"):
        normalise_base_url(8000)


def test_insecure_base_url_when_allowed():
    """With ``allow_insecure`` the caller accepts an unencrypted connection."""
    assert load(base_url="http://h.example", allow_insecure=True).base_url == "http://h.example/openai/v1"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:pa@ss/wo@host/x", "http://****@host/x"),
        ("http://user:hun?ter2@host?x=1", "http://****@host"),
        ("https://host/x?key=1", "https://host/x…"),
        ("https://host", "https://host"),
    ],
)
def test_hide_credentials_cuts_secrets(url, shown):
    """What may be a secret is cut out."""
    assert hide_credentials(url) == shown


_urls = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "https://", "http://", "HTTPS://"]),
    st.sampled_from(
        ["api.groq.com", "localhost", "[::1]", "127.0.0.1", "Ünï.example", "a_b", "[::ffff:1.2.3.4]", "ß.example"]
    ),
    st.sampled_from(["", ":8000", ":443", ":80"]),
    st.lists(
        st.sampled_from(["", "/", "openai", "v1", "chat/completions", "models", "completions", "x", "%41", "files"]),
        max_size=6,
    ).map(lambda parts: "/" + "/".join(parts) if parts else ""),
)


@given(
    st.one_of(_urls, st.text(), st.text(alphabet=string.ascii_letters + ":/.[]@?#%\\-_~ ")),
    st.sampled_from(ProviderType),
)
def test_base_url_is_idempotent(text, kind):
    """A root names itself; anything else is refused with the one error."""
    try:
        root = normalise_base_url(text, type=kind, allow_insecure=True)
    except ConfigurationError:
        return
    assert normalise_base_url(root, type=kind, allow_insecure=True) == root
    assert root.isascii()
    assert not root.endswith("/")


@pytest.mark.parametrize(
    ("settings", "environ", "host"),
    [
        ({}, {}, "api.groq.com"),
        ({}, {"GROQ_HOST": "h.example"}, "h.example"),
        ({}, {"GROQ_HOST": "h.example", "GROQ_BASE_URL": "b.example"}, "b.example"),
        ({"source": {"base_url": "f.example"}}, {"GROQ_HOST": "h.example", "GROQ_BASE_URL": "b.example"}, "f.example"),
        ({"source": {"base_url": "f.example"}, "base_url": "a.example"}, {"GROQ_BASE_URL": "b.example"}, "a.example"),
        ({"source": {"base_url": "f.example"}, "endpoint": "a.example"}, {}, "a.example"),
        ({"base_url": " "}, {"GROQ_BASE_URL": "", "GROQ_HOST": "h.example"}, "h.example"),
    ],
    ids=["default", "GROQ_HOST", "GROQ_BASE_URL", "file", "argument", "alias", "blank"],
)
def test_base_url_precedence(settings, environ, host):
    """Argument, file, GROQ_BASE_URL, GROQ_HOST, default."""
    assert load(environ=environ, **settings).base_url == f"https://{host}/openai/v1"


def test_wrong_variable_is_named():
    """The message says where the value came from."""
    with pytest.raises(ConfigurationError, match="GROQ_HOST = "):
        load(environ={"GROQ_HOST": "ftp://x"})


# --- the key ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "file", "environ", "key"),
    [
        ("a", "f", "e", "a"),
        (None, "f", "e", "f"),
        (None, None, "e", "e"),
        (" a\n", None, None, "a"),
        (" ", "f", "e", "f"),
        ("", "\t", " e ", "e"),
        (Secret("s"), "f", None, "s"),
    ],
)
def test_key_source_precedence(argument, file, environ, key):
    """The key comes from argument, file, environment, in this order; it is stripped, and blank is missing."""
    source = {} if file is None else {"api_key": file}
    variables = {} if environ is None else {"GROQ_API_KEY": environ}
    assert ProviderConfig.load(source, environ=variables, api_key=argument).key() == key


@pytest.mark.parametrize("environ", [{}, {"GROQ_API_KEY": " "}], ids=["unset", "blank"])
@pytest.mark.parametrize("source", [None, {"api_key": ""}, {"api_key": None}, {"api_key": "${GROQ_API_KEY}"}], ids=repr)
def test_missing_key_is_explained(source, environ):
    """A missing key gives its fixed phrase, and the remedy."""
    with pytest.raises(
        ConfigurationError, match=r"groq API key not provided: set GROQ_API_KEY or pass api_key.*console.groq.com"
    ):
        ProviderConfig.load(source, environ=environ)


def test_unresolved_key_names_its_variable():
    """A misspelt variable is easy to find."""
    with pytest.raises(ConfigurationError, match=r"not provided.*MY_KEY, which is not set"):
        ProviderConfig.load({"api_key": "${MY_KEY}"}, environ={})


def test_constructor_reads_the_environment(monkeypatch):
    """Key and place, at construction."""
    monkeypatch.setenv("GROQ_API_KEY", CANARY)
    monkeypatch.setenv("GROQ_HOST", "h.example")
    config = ProviderConfig()
    assert (config.key(), config.base_url) == (CANARY, "https://h.example/openai/v1")
    assert config == ProviderConfig.load()


@pytest.mark.parametrize("bad", ["a b", "a\nb", "a\x00", "é€", "a\x7f", "a\x80", "a\ud800"], ids=ascii)
@pytest.mark.parametrize("place", ["argument", "environment"])
def test_malformed_key_refused_and_hidden(bad, place):
    """A malformed key, with spaces, controls or letters beyond latin-1, is refused without showing it."""
    key = "gsk_CANARY" + bad + "CANARY"
    with pytest.raises(ConfigurationError, match=r"character 1[0-9]") as caught:
        ProviderConfig.load(
            environ={"GROQ_API_KEY": key} if place == "environment" else {},
            api_key=None if place == "environment" else key,
        )
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in str(locals_of_the_library(caught.value))


def test_malformed_key_of_the_process(monkeypatch):
    """The environment of the process shows neither."""
    monkeypatch.setenv("GROQ_API_KEY", "CANARY CANARY")
    with pytest.raises(ConfigurationError, match="GROQ_API_KEY: character 7 of 13") as caught:
        ProviderConfig()
    assert "CANARY" not in str(locals_of_the_library(caught.value))


def test_wrong_key_type_refused():
    """A key of the wrong type is refused and named by its type only."""
    with pytest.raises(ConfigurationError, match="api_key must be a string, not int"):
        ProviderConfig.load({"api_key": 123456}, environ={})


def test_disabled_needs_no_key():
    """Nothing will be sent."""
    config = ProviderConfig.load({"enabled": False}, environ={})
    assert (config.enabled, config.api_key, config.key()) == (False, None, None)
    with pytest.raises(ConfigurationError, match="groq API key not provided"):
        config.with_(enabled=True)


def everything(key=CANARY):
    """A configuration with a secret wherever one may be."""
    return load(
        api_key=key,
        headers={"X-Token": "CANARY-header"},
        proxies={"https": "http://user:CANARY@proxy:8080"},
        rate_limit_store="redis://:CANARY@redis:6379/0",
    )


def test_key_stays_out_of_repr(caplog):
    """repr, str, format, log and the class behind them."""
    config = everything()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("t").warning("%s %r %s", config, config, config.api_key)
    texts = [
        repr(config),
        str(config),
        f"{config}",
        f"{config.api_key}",
        f"{config.api_key:>20}",
        caplog.text,
        str(vars(Secret)),
    ]
    assert not [text for text in texts if "CANARY" in text]
    assert str(config.api_key) == "****mnop"
    assert repr(Secret("short")) == "Secret('****')"
    assert "proxy:8080" in repr(config)
    assert "X-Token" in repr(config)


def test_key_is_in_no_pickle(monkeypatch):
    """It is read from the environment again on first use."""
    config = load()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        dumped = pickle.dumps(config, protocol)
        assert b"CANARY" not in dumped
    loaded = pickle.loads(dumped)
    assert "CANARY" not in repr(loaded)
    with pytest.raises(ConfigurationError, match="groq API key not provided"):
        loaded.key()
    with pytest.raises(ConfigurationError, match="pass api_key again"):
        loaded.api_key.reveal()
    monkeypatch.setenv("GROQ_API_KEY", "again")
    assert loaded.key() == "again"
    assert loaded.with_(timeout=5).key() == "again"
    assert attrs.evolve(loaded, api_key=config.api_key) == config


def test_pickled_key_reads_its_variable(monkeypatch):
    """The name of the variable travels, the value does not."""
    config = ProviderConfig.load({"api_key": "${MY_KEY}"}, environ={"MY_KEY": CANARY})
    assert config.key() == CANARY
    loaded = pickle.loads(pickle.dumps(config))
    with pytest.raises(ConfigurationError, match="MY_KEY is not set"):
        loaded.key()
    monkeypatch.setenv("MY_KEY", "mine")
    assert loaded.key() == "mine"


def test_pickled_foreign_key_is_kept():
    """The pickled key of another server is not forgotten: it does not turn into a call without a key."""
    loaded = pickle.loads(pickle.dumps(load(OTHER)))
    with pytest.raises(ConfigurationError, match="key not provided"):
        loaded.key()
    assert pickle.loads(pickle.dumps(ProviderConfig.load(OTHER, environ={}))).key() is None


def test_copies_keep_the_key():
    """Only pickles lose it."""
    config = load()
    assert copy.copy(config.api_key) is config.api_key
    for same in (copy.copy(config), copy.deepcopy(config), attrs.evolve(config, prewarm=1), config.with_(prewarm=1)):
        assert same.key() == CANARY


def test_secret_compares_by_value():
    """By value, and only with its kind."""
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a", variable="V").variable == "V"


def locals_of_the_library(error):
    """Local variables as a traceback with `capture_locals` shows them, of our frames only."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    ours = [frame for frame in frames if "/groq_provider/" in frame.filename]
    assert ours
    return [(frame.name, frame.locals) for frame in ours]


@pytest.mark.parametrize(
    "bad",
    [
        {"timeout": -1},
        {"base_url": "ftp://x"},
        {"nonsense": 1},
        {"headers": {"Authorization": "x"}},
        {"models": "${NOT_SET}"},
        {"llm": 5},
        {"enabled": "x"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("nested", [False, True], ids=["top", "parameters"])
def test_key_is_in_no_traceback(bad, nested):
    """Not even where local variables of this library are shown."""
    settings = {"parameters": {"api_key": CANARY}, **bad} if nested else {"api_key": CANARY, **bad}
    with pytest.raises(ConfigurationError) as caught:
        ProviderConfig.load(settings, environ={"GROQ_API_KEY": CANARY})
    assert "CANARY" not in str(locals_of_the_library(caught.value))
    assert "CANARY" not in str(caught.value)


def test_key_as_name_stays_hidden():
    """A line in the wrong place must not show the key."""
    with pytest.raises(ConfigurationError, match="an API key as a name") as caught:
        load({CANARY: "api_key"})
    assert "CANARY" not in str(caught.value)


# --- other settings -----------------------------------------------------------------------------------------------------


def test_defaults_are_documented_ones():
    """The defaults of the settings are the documented ones."""
    config = load()
    assert (config.type, config.enabled, config.models, config.default_model) == (
        "groq",
        True,
        (),
        "openai/gpt-oss-120b",
    )
    assert (config.timeout, config.retry, config.rate_limits) == (Timeouts(), RetryPolicy(), None)
    assert (config.rate_limit_store, config.track_latency, config.latency_samples) == ("memory", True, 100)
    assert (config.headers, config.proxies, config.ca_bundle, config.cert) == ({}, None, None, None)
    assert (config.allow_insecure, config.max_connections, config.prewarm, config.http2) == (False, None, 0, False)
    assert (config.require_finish_reason, config.trim_max_tokens, config.circuit_breaker) == (True, False, None)


def test_configuration_is_immutable():
    """A change is a copy."""
    config = load()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.prewarm = 1
    with pytest.raises(AttributeError):
        object.__setattr__(config, "other", 1)
    assert (config.with_(prewarm=1).prewarm, config.prewarm) == (1, 0)


def test_given_mappings_are_copied():
    """A later change of the caller's mapping changes nothing."""
    headers = {"X-A": "1"}
    config = load(headers=headers)
    headers["X-B"] = "2"
    assert config.headers == {"X-A": "1"}


def test_typed_settings_name_every_field():
    """The typed keywords are the fields, the aliases and the shorthands."""
    fields = {field.name for field in attrs.fields(ProviderConfig)}
    more = {
        "endpoint",
        "verify",
        "max_retries",
        "parameters",
        *(f"rate_limit_{name}" for name in RateLimits.DIMENSIONS),
    }
    assert set(ProviderSettings.__annotations__) == fields | more


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"timeout": "30s"}, "timeout", Timeouts.of(30)),
        ({"timeout": {"idle": 5}}, "timeout", Timeouts(idle=5)),
        ({"retry": "batch"}, "retry", RetryPolicy.batch()),
        ({"max_retries": 0}, "retry", RetryPolicy(max_retries=0)),
        ({"rate_limits": "free"}, "rate_limits", RateLimits.plan("free")),
        ({"rate_limits": {"rpm": 1}}, "rate_limits", RateLimits(rpm=1)),
        ({"rate_limit_rpm": 30, "rate_limit_tpm": 6000}, "rate_limits", RateLimits(rpm=30, tpm=6000)),
        ({"rate_limit_rpd": 1, "rate_limit_tpd": 2}, "rate_limits", RateLimits(rpd=1, tpd=2)),
        ({"rate_limit_itpm": 1, "rate_limit_otpm": 2}, "rate_limits", RateLimits(itpm=1, otpm=2)),
        ({"rate_limit_rpm": 0}, "rate_limits", RateLimits()),
        ({"models": ["a", "b", "a"]}, "models", ("a", "b")),
        ({"endpoint": "h.example"}, "base_url", "https://h.example/openai/v1"),
        ({"verify": True}, "ca_bundle", None),
        ({"ca_bundle": __file__}, "ca_bundle", __file__),
        ({"verify": Path(__file__)}, "ca_bundle", __file__),
        ({"cert": [__file__, __file__]}, "cert", (__file__, __file__)),
        ({"cert": __file__}, "cert", __file__),
        ({"type": ProviderType.GROQ}, "type", ProviderType.GROQ),
        ({"headers": {"X-A": " 1 "}}, "headers", {"X-A": "1"}),
        ({"circuit_breaker": True}, "circuit_breaker", True),
        ({"circuit_breaker": False}, "circuit_breaker", None),
        ({"circuit_breaker": {"failures": 3}}, "circuit_breaker", {"failures": 3}),
        ({"parameters": {"timeout": 5, "max_retries": 1, "headers": {"A": "b"}}}, "retry", RetryPolicy(max_retries=1)),
        ({"parameters": {"timeout": 5}, "timeout": 6}, "timeout", Timeouts.of(6)),
        ({"enabled": None, "prewarm": None}, "enabled", True),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["mapping", "keywords"])
def test_settings_from_mapping_or_keywords(how, settings, field, value):
    """Mapping and keywords take the same forms."""
    config = load(MappingProxyType(settings)) if how == "mapping" else ProviderConfig(api_key=CANARY, **settings)
    assert getattr(config, field) == value


def test_stores_and_breakers_pass_through():
    """Their own parts of the library read them."""
    store, breaker = object(), object()
    config = load(rate_limit_store=store, circuit_breaker=breaker)
    assert config.rate_limit_store is store
    assert config.circuit_breaker is breaker
    assert "<object>" in repr(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"enabled": "yes"}, "enabled = 'yes': must be True or False"),
        ({"track_latency": 1}, "track_latency = 1"),
        ({"http2": "on"}, "http2 = 'on'"),
        ({"latency_samples": 0}, "latency_samples = 0: must be an integer from 1"),
        ({"latency_samples": True}, "latency_samples = True"),
        ({"max_connections": 0}, "max_connections = 0: must be an integer from 1"),
        ({"prewarm": -1}, "prewarm = -1"),
        ({"type": "openai"}, "type = 'openai': must be one of groq, openai_compatible"),
        ({"type": []}, "type = "),
        ({"models": "a,b"}, "models = 'a,b': must be a list"),
        ({"models": ["a b"]}, "models = 'a b'"),
        ({"models": [1]}, "models = 1"),
        ({"models": [""]}, "models = ''"),
        ({"default_model": 3}, "default_model = 3"),
        ({"timeout": "soon"}, "timeout = 'soon'"),
        ({"retry": 3}, "retry = 3"),
        ({"max_retries": -1}, "max_retries = -1"),
        ({"rate_limits": 30}, "rate_limits = 30"),
        ({"rate_limits": {"rpm": 0}}, "rpm = 0"),
        ({"rate_limit_rpm": -1}, "rate_limit_rpm = -1"),
        ({"rate_limit_rpm": "30"}, "rate_limit_rpm = '30'"),
        ({"rate_limit_store": ""}, "rate_limit_store = ''"),
        ({"rate_limit_store": 5}, "rate_limit_store = 5"),
        ({"circuit_breaker": "on"}, "circuit_breaker = 'on'"),
        ({"verify": False}, "verify = False: certificates are always verified"),
        ({"ca_bundle": "/no/such/file"}, "ca_bundle = '/no/such/file': does not exist"),
        ({"ca_bundle": "a\x00"}, "ca_bundle = .*does not exist"),
        ({"ca_bundle": 5}, "ca_bundle = 5"),
        ({"cert": ["a"]}, "cert = "),
        ({"cert": 7}, "cert = 7"),
        ({"headers": [1]}, "headers must be a mapping"),
        ({"proxies": "http://p"}, "proxies must be a mapping"),
        ({"proxies": {1: "http://p"}}, "proxies: 1"),
        ({"proxies": {"https": 1}}, r"proxies\['https'\]"),
        (
            {"proxies": {"https": "user:hunter2@p"}},
            r"proxies\['https'\]: must be a URL such as 'http://proxy:8080', with its scheme",
        ),
        ({"parameters": []}, "parameters = "),
        ({"parameters": {"parameters": {}}}, "unknown 'parameters'"),
        ({"base_url": 5}, "base_url must be a string"),
        ({"base_url": "a.example", "endpoint": "b.example"}, "same setting"),
        ({"verify": True, "ca_bundle": "x"}, "same setting"),
        ({"retry": "web", "max_retries": 1}, "max_retries abbreviates retry"),
        ({"rate_limits": "free", "rate_limit_rpm": 1}, "rate_limit_rpm abbreviates rate_limits"),
    ],
    ids=str,
)
def test_bad_settings_are_named(settings, words):
    """One error names key, value and allowed values."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(settings)
    assert "hunter2" not in str(caught.value)


def test_unknown_keys_listed_at_once():
    """Each with the nearest known name."""
    with pytest.raises(ConfigurationError) as caught:
        load({"time_out": 1, "modles": [], "qqqq": 1, 7: 2})
    text = str(caught.value)
    assert "'time_out' (did you mean 'timeout'?), 'modles' (did you mean 'models'?), 'qqqq', 7; known: api_key" in text
    with pytest.raises(ConfigurationError, match="'colour'"):
        ProviderConfig(api_key=CANARY, colour="red")


def test_later_layers_win():
    """Keywords override the mapping, and shorthands override fields of the object in the layer below."""
    config = load({"retry": "batch", "rate_limits": {"rpm": 1, "tpm": 2}}, max_retries=0, rate_limit_rpm=5)
    assert config.retry == attrs.evolve(RetryPolicy.batch(), max_retries=0)
    assert config.rate_limits == RateLimits(rpm=5, tpm=2)
    assert load({"max_retries": 9, "rate_limit_rpm": 1}, retry="web", rate_limits="free").retry == RetryPolicy.web()
    assert load(config) is not config
    assert ProviderConfig.load(config) is config


@pytest.mark.parametrize(
    ("models", "default"),
    [
        ([], "openai/gpt-oss-120b"),
        (["gemma-7b-it", "openai/gpt-oss-120b"], "openai/gpt-oss-120b"),
        (["gemma-7b-it", "openai/gpt-oss-20b"], "openai/gpt-oss-20b"),
        (["gemma-7b-it", "tomorrow/model"], "tomorrow/model"),
        (
            ["llama-3.3-70b-versatile", "llama-3.1-8b-instant", "mixtral-8x7b-32768", "gemma2-9b-it"],
            "llama-3.3-70b-versatile",
        ),
    ],
    ids=["all", "listed", "live", "unknown", "first models"],
)
def test_default_model_choice(models, default):
    """The default model is the given one if offered, else the first live one, else the first."""
    assert load(models=models).default_model == default
    assert load().with_(models=models).default_model == default
    assert load(models=models, default_model="x").with_(models=models).default_model == "x"


def test_compatible_needs_place_and_model():
    """An OpenAI-compatible server needs place and model, may lack a key, and reads no variable of Groq."""
    environ = {"GROQ_API_KEY": "e", "GROQ_BASE_URL": "b.example"}
    config = ProviderConfig.load(OTHER, environ=environ)
    assert (config.base_url, config.key(), config.type) == (
        "http://localhost:8000/v1",
        None,
        ProviderType.OPENAI_COMPATIBLE,
    )
    for missing in ("base_url", "default_model"):
        with pytest.raises(ConfigurationError, match=f"openai_compatible: {missing} is missing"):
            ProviderConfig.load({k: v for k, v in OTHER.items() if k != missing}, environ=environ)
    with pytest.raises(ConfigurationError, match="api_key: the environment variable BACKUP_KEY is not set"):
        ProviderConfig.load({**OTHER, "api_key": "${BACKUP_KEY}"}, environ=environ)


@pytest.mark.parametrize("name", ["Authorization", "HOST", "content-length", "Transfer-Encoding", "Connection"])
def test_reserved_headers_are_refused(name):
    """Reserved headers are refused: they are the library's own."""
    with pytest.raises(ConfigurationError, match="may not be set here"):
        load(headers={name: "x"})


@pytest.mark.parametrize(
    "headers",
    [{"a b": "x"}, {"": "x"}, {"a:": "x"}, {"ä": "x"}, {1: "x"}, {"a": 1}, {"a": None}, {"A": "1", "a": "2"}],
    ids=repr,
)
def test_header_names_and_types(headers):
    """Names are tokens and unique, values are texts."""
    with pytest.raises(ConfigurationError, match="headers"):
        load(headers=headers)


@pytest.mark.parametrize("bad", ["\r\n", "\x00", "\x7f", "\x85", "ł", "\ud800", "\t"], ids=ascii)
def test_header_values_stay_hidden(bad):
    """Header values must be printable latin-1; a wrong value is not shown."""
    with pytest.raises(ConfigurationError, match=r"headers\['X-Token'\]") as caught:
        load(headers={"X-Token": f"CANARY{bad}CANARY"})
    assert "CANARY" not in str(caught.value)
    assert check_headers({"X": "é\xa0\xad"}) == {"X": "é\xa0\xad"}


def test_check_headers_for_requests():
    """Per-call headers are checked alike, with their own error."""
    with pytest.raises(InvalidRequestError, match="extra_headers"):
        check_headers({"Host": "x"}, what="extra_headers", error=InvalidRequestError)


# --- trees, files, variables --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tree",
    [
        {"prewarm": 3},
        {"groq": {"prewarm": 3}},
        {"providers": {"groq": {"prewarm": 3}, "other": 5}},
        {"providers": {"groq": {"prewarm": 3}}, "timeout": 30, "default_provider": "groq"},
        {"llm": {"providers": {"groq": {"prewarm": 3}}}, "database": {"password": "${NOT_SET}"}},
    ],
    ids=["leaf", "named", "providers", "old tree", "whole tree"],
)
def test_settings_trees_take_leaf(tree):
    """The settings alone or inside a tree; other branches of the tree are ignored."""
    assert load(tree).prewarm == 3


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"llm": {}}, "no llm.providers; found nothing"),
        ({"llm": 3}, "llm must be a mapping, not int"),
        ({"llm": {"providers": {"openai": {}}}}, "no llm.providers.groq; found 'openai'"),
        ({"providers": {"groq": None}}, "providers.groq must be a mapping, not NoneType"),
        ({"groq": []}, "groq must be a mapping"),
        ({"groq": {}, "timeout": 5}, "timeout is next to 'groq'"),
    ],
)
def test_bad_trees_name_place(tree, words):
    """The message names the place."""
    with pytest.raises(ConfigurationError, match=words):
        load(tree)


def test_another_section_of_a_tree():
    """A backup server stands in the same file."""
    assert load({"providers": {"groq": {}, "backup": OTHER}}, section="backup").type is ProviderType.OPENAI_COMPATIBLE


DESIGN_YAML = """\
llm:
  providers:
    groq:
      type: "groq"
      enabled: true
      api_key: "${GROQ_API_KEY}"
      base_url: "https://api.groq.com"  # optional
      models:
        - "llama-3.3-70b-versatile"
        - "llama-3.1-8b-instant"
        - "mixtral-8x7b-32768"
        - "gemma2-9b-it"
      rate_limit_rpm: 30  # Free tier
      track_latency: true
      latency_samples: 100
"""


def toml_there():
    """Whether this Python reads TOML."""
    if sys.version_info < (3, 11):
        pytest.importorskip("tomli")


def test_design_document_configuration(tmp_path):
    """A file with the first names of settings loads as it stands."""
    pytest.importorskip("yaml")
    path = tmp_path / "config.yaml"
    path.write_text(DESIGN_YAML)
    config = ProviderConfig.load(path, environ={"GROQ_API_KEY": CANARY})
    assert (config.key(), config.base_url, config.rate_limits) == (CANARY, ROOT, RateLimits(rpm=30))
    assert config.models[0] == "llama-3.3-70b-versatile"
    assert len(config.models) == 4
    assert ProviderConfig.load(str(path), environ={}, api_key="x", prewarm=2).prewarm == 2


def test_toml_file_by_its_table(tmp_path):
    """A TOML file is read by its table."""
    toml_there()
    path = tmp_path / "c.toml"
    path.write_text('[groq]\ntimeout = "30s"\nmodels = ["a"]\n[groq.headers]\nX-A = "1"\n')
    config = load(path)
    assert (config.timeout, config.models, config.headers) == (Timeouts.of(30), ("a",), {"X-A": "1"})


def test_json_file_with_bom(tmp_path):
    """JSON with a byte order mark, as some editors write it."""
    path = tmp_path / "c.JSON"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"prewarm": 3}).encode())
    assert load(path).prewarm == 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.json", b'{\n"api_key": "CANARY",\n oops}', "is not valid JSON: line 3, column 2"),
        ("c.json", b"[" * 60_000, "is not valid JSON"),
        ("c.json", b"1" * 5000, "is not valid JSON|top level must be a mapping"),
        ("c.json", b"[]", "top level must be a mapping, not list"),
        ("c.json", b"\n\n\xff", r"is not UTF-8 \(line 3\)"),
        ("c.json", b" " * (1 << 21), "is larger than 65536 bytes"),
        ("c.yaml", b"api_key: CANARY\nb: [1\n", "is not valid YAML: line 3, column 1"),
        ("c.yaml", b"", "top level must be a mapping, not NoneType"),
        ("c.yml", b"CANARY", "top level must be a mapping, not str"),
        ("c.yaml", b"a: \x00CANARY", "is not valid YAML"),
        ("c.yaml", b"a: !!python/object/apply:os.system [CANARY]", "is not valid YAML"),
        ("c.yaml", b"a: 2024-99-99 CANARY: x", "is not valid YAML"),
        ("c.yaml", b"a: 2024-99-99", "is not valid YAML"),
        ("c.yaml", b"headers: &a {b: *a}", "nested too deeply|headers"),
        ("c.yaml", b"? [a, b]\n: CANARY", "is not valid YAML|unknown"),
        ("c.toml", b'api_key = "CANARY', "is not valid TOML"),
        ("c.toml", b'a = 1\nb = = "CANARY"', "is not valid TOML: line 2, column 5"),
        ("c.ini", b"CANARY", "must end in .yaml, .yml, .toml, .json"),
        ("config", b"CANARY", "must end in"),
    ],
    ids=[
        "json",
        "deep json",
        "long number",
        "json list",
        "latin-1",
        "large",
        "yaml",
        "empty yaml",
        "yaml text",
        "yaml control",
        "yaml object",
        "yaml nesting",
        "yaml date",
        "yaml cycle",
        "yaml key",
        "toml",
        "toml place",
        "ini",
        "no suffix",
    ],
)
def test_bad_files_name_their_place(tmp_path, name, content, words):
    """One error naming file and place, and nothing of the content, neither in it nor behind it."""
    if "toml" in name:
        toml_there()
    if ".y" in name:
        pytest.importorskip("yaml")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        ProviderConfig.load(path, environ={"GROQ_API_KEY": "k"})
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in str(locals_of_the_library(caught.value))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such/config.yaml", "configuration file '/no/such/config.yaml': does not exist"),
        ("/dev/null/config.json", "cannot be read"),
        ("a\x00.json", "is not a valid path|does not exist"),
        ("\ud800.json", "is not a valid path|does not exist"),
        ("x" * 5000 + ".json", "cannot be read"),
        ("", "must end in"),
    ],
    ids=["missing", "not a directory", "NUL", "surrogate", "long", "empty"],
)
def test_bad_paths_give_clear_error(path, words):
    """A bad path is one clear error."""
    with pytest.raises(ConfigurationError, match=words):
        load(path)


def test_directory_and_device_refused(tmp_path):
    """A directory or a device is no file: neither can hold settings."""
    directory = tmp_path / "c.json"
    directory.mkdir()
    with pytest.raises(ConfigurationError, match="is a directory"):
        load(directory)
    device = tmp_path / "d.json"
    device.symlink_to("/dev/zero")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        load(device)


@pytest.mark.parametrize("source", [5, 1.5, b"c.json", ["c.json"], object()], ids=lambda value: type(value).__name__)
def test_bad_sources_name_their_type(source):
    """Wrong sources are named by their type."""
    with pytest.raises(ConfigurationError, match="config must be"):
        load(source)


@pytest.mark.parametrize(
    ("name", "modules", "extra"),
    [("c.yaml", ["yaml"], "yaml"), ("c.toml", ["tomllib", "tomli"], "toml")],
)
def test_missing_package_is_named(tmp_path, monkeypatch, name, modules, extra):
    """With the extra that brings it."""
    path = tmp_path / name
    path.write_text("")
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf'pip install "groq-provider\[{extra}\]"'):
        load(path)


def test_tomli_replaces_missing_tomllib(tmp_path, monkeypatch):
    """Python 3.10, which has no tomllib, takes tomli."""
    pytest.importorskip("tomli")
    monkeypatch.setitem(sys.modules, "tomllib", None)
    path = tmp_path / "c.toml"
    path.write_text("prewarm = 3")
    assert load(path).prewarm == 3


def test_variables_read_as_values():
    """Whole values anywhere, numbers and truth values read as such, no recursion."""
    environ = {"H": "${X}", "N": "30", "F": "0.5", "B": " False ", "M": "a", "T": "5s", "U": "h.example", "X": "no"}
    settings = {
        "headers": {"X-A": "${H}"},
        "rate_limit_rpm": "${N}",
        "enabled": "${B}",
        "models": ["${M}", "b"],
        "timeout": "${T}",
        "base_url": "${U}",
        "retry": {"base_delay": "${F}"},
    }
    config = load(settings, environ=environ)
    assert (config.headers, config.rate_limits, config.enabled) == ({"X-A": "${X}"}, RateLimits(rpm=30), False)
    assert (config.models, config.timeout, config.base_url) == (
        ("a", "b"),
        Timeouts.of(5),
        "https://h.example/openai/v1",
    )
    assert config.retry.base_delay == 0.5
    assert [type(text) for text in (*config.models, *config.headers.values())] == [str, str, Hidden]
    assert pickle.loads(pickle.dumps(config)).headers == config.headers


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"headers": {"X-A": "${NOT_SET}"}}, "'X-A': the environment variable NOT_SET is not set"),
        ({"models": ["${NOT_SET}"]}, "'models': the environment variable NOT_SET is not set"),
        ({"base_url": "${NOT_SET:-https://x}"}, "defaults and parts of a text are not supported"),
        ({"api_key": "${NOT_SET:-CANARY}"}, "'api_key': a reference is the whole value"),
        ({"api_key": "Bearer ${CANARY}"}, "'api_key': a reference is the whole value"),
        ({"rate_limit_rpm": "${SECRET}"}, r"rate_limit_rpm = \$\{SECRET\}"),
        ({"enabled": "${SECRET}"}, r"enabled = \$\{SECRET\}"),
        ({"models": ["${SPACED}"]}, r"models = \$\{SPACED\}"),
    ],
    ids=str,
)
def test_bad_variables_are_refused(settings, words):
    """A missing one is an error, and a value is never shown."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        ProviderConfig.load(settings, environ={"SECRET": "CANARY", "SPACED": "CANARY x", "GROQ_API_KEY": "k"})
    assert "CANARY" not in str(caught.value)


def test_parts_of_a_text_stay():
    """Only whole values are references."""
    assert load({"headers": {"X-A": "a${HOME}b"}}, environ={"HOME": "x"}).headers == {"X-A": "a${HOME}b"}


def test_huge_or_endless_trees_refused():
    """A small file may stand for a billion values, or contain itself."""
    bomb = ["x"] * 10
    for _ in range(9):
        bomb = [bomb] * 10
    endless = {}
    endless["parameters"] = endless
    for tree in ({"models": bomb}, {"headers": {"a": bomb}}, endless):
        with pytest.raises(ConfigurationError):
            load(tree)


def test_unprintable_values_named_by_type():
    """A repr that fails does not hide the error."""

    class Odd:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(ConfigurationError, match="enabled = <Odd>"):
        load(enabled=Odd())


_names = [*ProviderSettings.__annotations__, "llm", "providers", "groq", "rpm", "models", "share", "total"]
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["${X}", "${}", "30s", "groq"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(_names), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.one_of(_json, st.text(), st.text().map(lambda text: text + ".json")))
def test_any_source_configures_or_fails(source):
    """Any source gives a configuration or the one error; no object and no text raises anything else."""
    try:
        config = ProviderConfig.load(source, environ={"GROQ_API_KEY": CANARY, "X": "1"})
    except ConfigurationError as error:
        shown = str(error)
    else:
        shown = repr(config)
        assert config.with_(timeout=1).key() == config.key()
    assert "CANARY" not in shown


@pytest.mark.parametrize("name", sorted(ProviderSettings.__annotations__))
@given(value=_json)
def test_any_setting_taken_or_refused(name, value):
    """No value of any setting raises anything else."""
    try:
        config = ProviderConfig.load({name: value}, environ={"GROQ_API_KEY": CANARY, "X": "1"})
    except ConfigurationError as error:
        shown = str(error)
    else:
        shown = repr(config)
        assert attrs.evolve(config) == config
    assert "CANARY" not in shown


def test_loading_module_exports_exist():
    """Its public names exist."""
    assert all(hasattr(config_loading, name) for name in config_loading.__all__)
