"""The programs of README.md, of `docs/` and of `examples/`, interrupted and broken as a user would meet it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groq_provider.testing import Emulator, Fault, Gate, Reply

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    code
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
]


def block(marker):
    """The first program that holds *marker*; the README comes before the pages."""
    return next(code for code in BLOCKS if marker in code)


FIRST, THREADS, BULK, STREAMING = map(block, ("Explain LPUs", "ThreadPoolExecutor", "generate_many", "Tell me a story"))
PROGRAMS = {
    "first": FIRST,
    "threads": THREADS,
    "bulk": BULK,
    "streaming": STREAMING,
    **{path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples").glob("*.py"))},
}
#: How many calls each has under way when it waits.
AT_ONCE = {"threads": 8, "bulk": 3, "threads.py": 4}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def start(code, service):
    """Run a program in a process of its own, against *service*."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GROQ_", "COVERAGE", "COV_"))}
    environ |= {"GROQ_API_KEY": service.api_key, "GROQ_BASE_URL": service.base_url, "NO_PROXY": "*"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def interrupted(child):
    """Press Ctrl-C; return what it wrote. A program that waits for answers which never come runs into the timeout."""
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT, err
    assert err.rstrip().endswith("KeyboardInterrupt")
    return out


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_end_on_ctrl_c(name):
    """At once, though no answer ever comes and most of their work is still to do."""
    held = Fault(stall_before_headers=True)
    with Emulator(speed=0) as service:
        service.reply(fault=held, times=None)
        with start(PROGRAMS[name], service) as child:
            assert service.wait_until(lambda emulator: len(emulator.requests) >= AT_ONCE.get(name, 1), timeout=60)
            interrupted(child)
        assert len(service.requests) == AT_ONCE.get(name, 1)  # and nothing more was begun
        held.release()


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["first", "streaming", "streaming.py", "chat.py", "migrate_from_openai.py"])
def test_streams_end_on_ctrl_c(name):
    """In the middle of an answer; what had come is on the screen."""
    gate = Gate()
    gate.release(3)
    with Emulator(speed=0) as service:
        service.reply("one two three four", match=lambda request: request.json.get("stream"), gate=gate)
        with start(PROGRAMS[name], service) as child:
            assert gate.wait_for(3, timeout=60)
            out = ""
            while not out.endswith("one two"):
                piece = child.stdout.read(1)
                assert piece, "it ended before it was interrupted"
                out += piece
            assert "three" not in interrupted(child)
        gate.open()
        assert service.wait_until(lambda emulator: emulator.open_connections == 0)


@pytest.mark.parametrize("name", ["threads", "threads.py"])
def test_pools_end_on_errors(name):
    """One call that fails ends the program, not after all the others that nobody will look at."""
    held = Fault(stall_before_headers=True)
    with Emulator(speed=0) as service:
        first = {"threads": "Is 0 prime?", "threads.py": "Name a river near Oslo."}[name]
        service.reply(match=lambda request: first in str(request.json), fault=Fault(status=400), times=None)
        service.reply(fault=held, times=None)
        with start(PROGRAMS[name], service) as child:
            _, err = child.communicate(timeout=60)
        assert child.returncode == 1
        assert "groq_provider.errors.InvalidRequestError" in err
        held.release()


def faults():
    """What a stream may end with, each out of ``next()``: the replies, the time limits, the class, what had arrived."""
    early = Reply("one two three", fault=Fault(cut_after_events=1))
    return {
        "cut": ([Reply("one two three", fault=Fault(cut_after_events=3))], "", "StreamInterruptedError", "one two"),
        "stalled": ([Reply("one two three", fault=Fault(stall_after_events=3))], "timeout=Timeouts(idle=0.2)", "StreamIdleTimeoutError", "one two"),
        "no first token": ([Reply("one two three", fault=Fault(stall_after_events=1))], "timeout=Timeouts(first_token=0.2)", "ReadTimeoutError", ""),
        "total": ([Reply("one two three", fault=Fault(stall_after_events=3))], "timeout=0.5", "DeadlineExceededError", "one two"),
        "error event": ([Reply("one two three", fault=Fault(error_event=True, after_events=3))], "", "", "one two"),
        "refused later": ([early, Fault(status=401)], "", "AuthenticationError", ""),
        "limited later": ([early, Fault(status=429, headers={"retry-after": "3000"})], "", "RateLimitedError", ""),
        "refused at once": ([Fault(status=401)], "", "AuthenticationError", ""),
    }  # fmt: skip


@pytest.mark.parametrize("kind", faults())
def test_streaming_catches_every_end(kind, groq_emulator, capsys):
    """The program of the README says that it broke and shows what had come, whatever class it was."""
    replies, settings, name, arrived = faults()[kind]
    groq_emulator.enqueue(*replies)
    raised = []
    code = STREAMING.replace("GroqProvider()", f"GroqProvider({settings})").replace(
        "GroqProviderError as error:", "GroqProviderError as error:\n        raised.append(error)"
    )
    names = {"raised": raised}
    exec("from groq_provider import Timeouts\n" + code, names)
    (error,) = raised
    assert name in ("", type(error).__name__)
    assert capsys.readouterr().out.endswith(f"broken; so far: {arrived}\n")
