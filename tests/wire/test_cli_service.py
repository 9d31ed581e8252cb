"""Where the commands find the service: --base-url, --config and --timeout."""

import json

import pytest

from groq_provider.cli import main
from groq_provider.testing import Emulator, Fault

COMMANDS = [["chat", "hi"], ["health"], ["models", "--refresh"], ["demo", "--items", "1"]]


@pytest.fixture
def service():
    with Emulator(speed=0) as emulator:
        yield emulator


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_base_url_names_the_service(service, command, monkeypatch):
    """It wins over the environment."""
    monkeypatch.setenv("GROQ_API_KEY", service.api_key)
    monkeypatch.setenv("GROQ_BASE_URL", "http://127.0.0.1:9")
    assert main([*command, "--base-url", service.base_url]) == 0
    assert service.requests


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_config_names_the_service(service, command, tmp_path):
    """A file is enough, key and model included."""
    file = tmp_path / "groq.json"
    file.write_text(
        json.dumps({"api_key": service.api_key, "base_url": service.base_url, "default_model": "openai/gpt-oss-20b"})
    )
    assert main([*command, "--config", str(file)]) == 0
    assert {request.json["model"] for request in service.requests if request.json} <= {"openai/gpt-oss-20b"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_timeout_ends_every_call(service, command, monkeypatch, capsys):
    """A service that is silent is waited for so long and no longer."""
    held = Fault(stall_before_headers=True)
    service.reply(fault=held, times=None)
    monkeypatch.setenv("GROQ_API_KEY", service.api_key)
    monkeypatch.setenv("GROQ_BASE_URL", service.base_url)
    assert main([*command, "--timeout", "0.2"]) == 1
    assert "0.2" in "".join(capsys.readouterr())
    held.release()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_wrong_settings_are_one_line(command, capsys):
    """A file that is not there, a URL that is none."""
    for option in (["--config", "no-such.json"], ["--base-url", "ftp://x"]):
        assert main([*command, *option]) == 1
        assert capsys.readouterr().err.count("\n") == 1
