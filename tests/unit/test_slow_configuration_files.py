"""A configuration file that would keep a parser busy for seconds is refused before it is parsed."""

from __future__ import annotations

import pytest

from groq_provider import ConfigurationError, ProviderConfig


@pytest.mark.parametrize("suffix", ["toml", "yaml", "json"])
def test_large_files_are_refused(tmp_path, suffix):
    """Whatever the format: 64 KiB are a hundred times what a configuration needs."""
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(b"#" * ((1 << 16) + 1))
    with pytest.raises(ConfigurationError, match="is larger than 65536 bytes"):
        ProviderConfig.load(path)


@pytest.mark.parametrize(
    "line",
    ["a" + ".a" * 30_000 + " = 1", "[a" + ".a" * 30_000 + "]", "a = {b" + ".b" * 30_000 + " = 1}", "a" + " . a" * 101 + " = 1"],
    ids=["key", "table", "inline", "spaces"],
)  # fmt: skip
def test_deep_keys_are_refused(tmp_path, line, monkeypatch):
    """The parser, which would need 23 s for the first of these, is not asked."""
    monkeypatch.setattr("groq_provider.config.files._load_toml", lambda: pytest.fail)
    path = tmp_path / "c.toml"
    path.write_text(f"enabled = false\n{line}\n")
    with pytest.raises(ConfigurationError, match="more than 100 dots"):
        ProviderConfig.load(path)


def test_ordinary_files_are_read(tmp_path):
    """Names of models and hosts have dots, too."""
    models = [f"vendor/model-{number}.1" for number in range(60)]
    path = tmp_path / "c.toml"
    path.write_text(f'llm.providers.groq.api_key = "x"\nllm.providers.groq.models = {models}\n')
    assert ProviderConfig.load(path).models == tuple(models)
