"""The program in a pseudo terminal of 80 and 40 columns, and in locales that know little."""

import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import groq_provider as g
from groq_provider.testing import Emulator, Fault, Gate, Reply

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
FOLDER = Path(g.__file__).parents[1]
PROGRAM = [sys.executable, "-W", "error", "-m", "groq_provider"]
PATIENCE = 60.0


def environment(**more):
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("GROQ_", "COVERAGE", "COV_", "LC_"))
    }
    return {**environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "NO_COLOR": "1", **more}


class Terminal:
    """A program in a pseudo terminal of so many columns."""

    def __init__(self, *arguments, columns, **environ):
        import pty

        self._ours, theirs = pty.openpty()
        self.child = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=environment(COLUMNS=str(columns), **environ),
            cwd=FOLDER,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def __enter__(self):
        return self

    def __exit__(self, *_args):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self._ours)

    def type(self, text):
        os.write(self._ours, text.encode())

    def read_until(self, pattern):
        """Read on until what came since the last call holds *pattern*; returns it."""
        start, deadline = len(self.seen), time.monotonic() + PATIENCE
        while not re.search(pattern, self.seen[start:]):
            assert time.monotonic() < deadline, self.seen[start:]
            if select.select([self._ours], [], [], 1)[0]:
                self.seen += self._read() or pytest.fail(f"it ended: {self.seen}")
        return self.seen[start:].replace("\r\n", "\n")

    def read_all(self):
        while piece := self._read():
            self.seen += piece
        return self.seen.replace("\r\n", "\n")

    def _read(self):
        try:
            return os.read(self._ours, 65536).decode()
        except OSError:  # Linux's end of a terminal
            return ""


@pytest.fixture
def service():
    with Emulator(speed=0) as emulator:
        yield emulator


def at(service):
    return {"GROQ_API_KEY": service.api_key, "GROQ_BASE_URL": service.base_url}


@pytest.mark.parametrize("columns", [80, 40])
def test_demo_fits_the_terminal(columns):
    """Plain sentences, broken at words; every figure has its name."""
    with Terminal("demo", "--items", "3", columns=columns) as terminal:
        shown = terminal.read_all()
        assert terminal.child.wait(PATIENCE) == 0
    lines = [line.rpartition("\r")[2] for line in shown.splitlines()]
    assert all(len(re.sub("\x1b\\[[^a-zA-Z]*[a-zA-Z]", "", line)) <= columns for line in lines)
    words = " ".join(shown.split())
    assert "A token bucket is filled at a steady rate, up to its size." in words
    for name in ("first token", "whole call", "openai/gpt-oss-120b RPD", "openai/gpt-oss-120b TPM"):
        assert name in words


def test_spinner_names_the_wait(service):
    """Until the first token, and then it is gone."""
    held = Fault(stall_before_headers=True)
    service.enqueue(Reply("There it is.", fault=held))
    with Terminal("chat", "hi", columns=40, **at(service)) as terminal:
        terminal.read_until("waiting for the first token, ")
        held.release()
        terminal.read_all()
        assert terminal.child.wait(PATIENCE) == 0
    rest = re.sub(r"[^\r\n]*\r", "", terminal.seen.replace("\r\n", "\n"))  # what a terminal shows in the end
    assert rest.splitlines()[0] == "There it is."


def test_spinner_names_the_rate_limit(service):
    """A 429 with a wait is told while it lasts."""
    service.reply(status=429, headers={"retry-after": "3"})
    with Terminal("chat", "hi", columns=80, **at(service)) as terminal:
        terminal.read_until("waiting for the rate limit, about [123] s to go, ")
        terminal.read_all()
        assert terminal.child.wait(PATIENCE) == 0


def test_ctrl_c_ends_answer_only(service):
    """The talk goes on, without the question, until Ctrl-D."""
    gate = Gate()
    service.enqueue(Reply("one two three four five", gate=gate), "Still here.")
    gate.release(4)
    with Terminal("chat", columns=80, **at(service)) as terminal:
        terminal.read_until("> ")
        terminal.type("first\n")
        terminal.read_until("one two")
        os.killpg(terminal.child.pid, signal.SIGINT)
        terminal.read_until("interrupted(.|\n)*> ")
        gate.open()
        terminal.type("second\n")
        terminal.read_until("Still here.(.|\n)*> ")
        terminal.type("\x04")
        terminal.read_all()
        assert terminal.child.wait(PATIENCE) == 0
    assert [message["content"] for message in service.requests[1].json["messages"]] == ["second"]


def test_models_cannot_steer_the_terminal():
    """Names that a server made up."""
    evil = "evil\x1b[2J\x1b]0;owned\x07"
    with (
        Emulator(speed=0, models=[evil]) as service,
        Terminal("models", "--refresh", columns=200, **at(service)) as terminal,
    ):
        shown = terminal.read_all()
        assert terminal.child.wait(PATIENCE) == 0
    assert "evil?[2J?]0;owned" in shown
    assert re.sub("\x1b\\[[01]m", "", shown).replace("\n", "").isprintable()  # the head is bold


@pytest.mark.sample(4)
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
@pytest.mark.parametrize(
    "arguments", [["chat", "Grüße ☃"], ["models"], ["health"], ["demo", "--items", "1"]], ids=lambda a: a[0]
)
def test_any_locale_prints_something(service, locale, arguments):
    """No traceback; a question mark for what cannot be shown, and the question arrives as it was typed."""
    service.enqueue(
        Reply(
            "ä — ☃ \ud83d", match=lambda request: "Grüße" in request.body.decode() or "\\u00fc" in request.body.decode()
        )
    )
    environ = environment(LC_ALL=locale, PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", **at(service))
    done = subprocess.run(
        [*PROGRAM, *arguments], env=environ, cwd=FOLDER, capture_output=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr
    if arguments[0] == "chat":
        assert service.requests[0].json["messages"][0]["content"] == "Grüße ☃"
        assert done.stdout.rstrip() in (b"? ? ? ?", "ä — ☃ ?".encode(), "ä — ☃ \ufffd".encode(), b"? ? ? ??")


def test_emulator_tells_each_request():
    """One line on standard error, with nothing that steers; its address alone on standard output."""
    with subprocess.Popen(
        [*PROGRAM, "emulator", "--speed", "0"], env=environment(), cwd=FOLDER, stdout=-1, stderr=-1, encoding="utf-8"
    ) as child:
        address = child.stdout.readline().strip()
        with g.GroqProvider(base_url=address, api_key="gsk_canary0000000000000") as provider:
            provider.generate_stream("prompt-canary").collect()
        request = urllib.request.Request(f"{address}/x", data=b'{"model": "\\u001b[2J"}')
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE)
        refused.value.read()
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=PATIENCE)
    assert (child.returncode, out) == (0, "")
    first, second = err.splitlines()[-2:]
    assert re.fullmatch(r"\d\d:\d\d:\d\d POST /openai/v1/chat/completions 200 openai/gpt-oss-120b streamed", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d POST /x 404 \?\[2J", second)
    assert "canary" not in err
