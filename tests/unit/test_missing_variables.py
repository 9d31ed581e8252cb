"""A setting that names an environment variable gets that variable or an error, never something else in its place."""

import pytest

from groq_provider import ConfigurationError, GroqProvider, ProviderConfig
from groq_provider.config import ProviderSettings

#: The key of another tenant, in the environment of a machine that serves several.
OTHERS = {"GROQ_API_KEY": "gsk_the_key_of_another_tenant"}
SETTINGS = sorted(set(ProviderSettings.__annotations__) - {"parameters"})


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrap", [lambda it: it, lambda it: {"parameters": it}], ids=["top", "parameters"])
def test_missing_variable_is_refused(name, wrap):
    """Whatever the setting is, and whatever else the environment holds."""
    with pytest.raises(ConfigurationError, match=r"MISSING, which is not set|MISSING is not set"):
        ProviderConfig.load(wrap({name: "${MISSING}"}), environ=OTHERS)


@pytest.mark.parametrize("value", [None, "", " \t"], ids=["unset", "empty", "blank"])
@pytest.mark.parametrize(
    "type",
    [{}, {"type": "openai_compatible", "base_url": "http://localhost", "default_model": "m"}],
    ids=["groq", "other"],
)
def test_no_other_key_steps_in(value, type):
    """A tenant's key that is missing is not replaced by the one that lies around, nor by none."""
    environ = OTHERS if value is None else {**OTHERS, "TENANT_KEY": value}
    with pytest.raises(ConfigurationError, match="TENANT_KEY") as caught:
        ProviderConfig.load({**type, "api_key": "${TENANT_KEY}"}, environ=environ)
    assert "another_tenant" not in str(caught.value)


@pytest.mark.parametrize("how", ["keyword", "constructor", "provider"])
def test_missing_key_is_refused_everywhere(how, monkeypatch):
    """By keyword and in the constructors, as in files."""
    monkeypatch.setenv("GROQ_API_KEY", OTHERS["GROQ_API_KEY"])
    monkeypatch.delenv("TENANT_KEY", raising=False)
    make = {"keyword": ProviderConfig.load, "constructor": ProviderConfig, "provider": GroqProvider}[how]
    with pytest.raises(ConfigurationError, match=r"groq API key not provided: api_key names .* TENANT_KEY"):
        make(api_key="${TENANT_KEY}")


def test_keyword_wins_over_missing():
    """Who gives a key says which one it is."""
    config = ProviderConfig.load({"api_key": "${TENANT_KEY}"}, environ=OTHERS, api_key="mine")
    assert config.key() == "mine"


def test_disabled_needs_no_key(monkeypatch):
    """It is made without one, and when it is enabled later it still wants its own."""
    monkeypatch.setenv("GROQ_API_KEY", OTHERS["GROQ_API_KEY"])
    monkeypatch.delenv("TENANT_KEY", raising=False)
    disabled = ProviderConfig(api_key="${TENANT_KEY}", enabled=False)
    assert disabled.key() is None
    with pytest.raises(ConfigurationError, match="TENANT_KEY is not set"):
        disabled.with_(enabled=True).key()
    monkeypatch.setenv("TENANT_KEY", "mine")
    assert disabled.with_(enabled=True).key() == "mine"
