"""Every example runs unchanged and prints its result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groq_provider.testing import Emulator

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What each prints with the emulator's words.
EXPECTED = {
    "basic.py": ["LPU stands for Language Processing Unit", "Latency: ", "Tokens: ", "(reported)", "Attempts: 1"],
    "streaming.py": ["Read the stream piece by piece", "First token: ", " tokens/sec", "Finish reason: stop"],
    "latency_monitoring.py": [
        "P95 first token latency: ",
        "P99 first token latency: ",
        "Sample count: 10",
        "Errors: 0",
    ],
    "chat.py": ["You: What is a mutex?", "Model: A mutex is a lock", "[3 messages, ", "[7 messages, "],
    "threads.py": [
        "Oslo: A river near Oslo is ",
        "Sofia: A dish of Sofia is ",
        "Atlantis: ModelNotFoundError",
        " RPD: ",
    ],
    "migrate_from_openai.py": ["gpt-4o -> openai/gpt-oss-120b", "Air scatters blue light", "Limits: "],
}


def run(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one example with warnings as errors."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GROQ_", "COVERAGE", "COV_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "utf8", str(EXAMPLES / name), *arguments],
        env={**environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_every_example_is_checked():
    """A new one has its expectations here."""
    assert set(EXPECTED) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", EXPECTED)
def test_example_runs_without_key(name):
    """An example runs without a key: it starts an emulator and says so."""
    done = run(name)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("GROQ_API_KEY is not set: talking to the bundled emulator at http://127.0.0.1:")
    assert done.stderr.count("\n") == 1
    for text in EXPECTED[name]:
        assert text in done.stdout


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", EXPECTED)
def test_example_with_key_uses_service(name):
    """The key and the address of the environment are used."""
    with Emulator(speed=0) as service:
        done = run(name, GROQ_API_KEY=service.api_key, GROQ_BASE_URL=service.base_url)
        assert done.returncode == 0, done.stderr
        assert service.requests
    assert done.stderr == f"Talking to {service_url(done)}.\n"
    for text in EXPECTED[name]:
        assert text in done.stdout


def service_url(done: subprocess.CompletedProcess[str]) -> str:
    """The address an example says it talks to."""
    return done.stderr.removeprefix("Talking to ").removesuffix(".\n")


def test_the_chat_keeps_its_history():
    """Each question is sent with all that was said before."""
    with Emulator(speed=0) as service:
        service.enqueue("One.", "Two.")
        done = run("chat.py", "First?", "Second?", GROQ_API_KEY=service.api_key, GROQ_BASE_URL=service.base_url)
        assert done.returncode == 0, done.stderr
        sent = service.requests[1].json["messages"]
    assert [message["content"] for message in sent][1:] == ["First?", "One.", "Second?"]


def test_broken_stream_looks_broken():
    """The example says so instead of passing half an answer for a whole one."""
    from groq_provider.testing import Fault, Reply

    with Emulator(speed=0) as service:
        service.enqueue(Reply("Half an answer", fault=Fault(cut_after_events=3)))
        done = run("streaming.py", GROQ_API_KEY=service.api_key, GROQ_BASE_URL=service.base_url)
    assert done.returncode == 0, done.stderr
    assert "[broken after " in done.stdout
    assert "First token" not in done.stdout


def test_examples_bypass_environment_proxy():
    """No proxy of the environment stands before the emulator, so examples run behind a proxy too."""
    done = run("basic.py", HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", NO_PROXY="", no_proxy="")
    assert done.returncode == 0, done.stderr
    assert "Latency: " in done.stdout
