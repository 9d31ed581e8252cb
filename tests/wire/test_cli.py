"""The command ``groq-provider``, in this process and as a process of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import groq_provider as g
from groq_provider.cli import main
from groq_provider.cli.advice import format_error
from groq_provider.cli.screen import Progress
from groq_provider.testing import Emulator, Fault, Gate, Reply

# Children import the package that is under test here, the checkout or an installed wheel: ``-m`` looks into the current folder first.
FOLDER = Path(g.__file__).parents[1]
PROGRAM = [sys.executable, "-W", "error", "-X", "utf8", "-m", "groq_provider.cli"]


def environment(service: Emulator | None = None, **more: str) -> dict[str, str]:
    """The environment of a child: no key, or that of an emulator."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GROQ_", "COVERAGE", "COV_"))}
    if service is not None:
        environ |= {"GROQ_API_KEY": service.api_key, "GROQ_BASE_URL": service.base_url}
    return {**environ, **more}


def start(*arguments: str, service: Emulator | None = None, **more: object) -> subprocess.Popen[str]:
    """Start the program with its streams as pipes."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [*PROGRAM, *arguments], env=environment(service), cwd=FOLDER, encoding="utf-8", **{**pipes, **more}
    )


@pytest.fixture
def service(groq_emulator):
    """An emulator that ``main`` in this process finds by the environment."""
    return groq_emulator


@pytest.fixture
def typed(monkeypatch):
    """Put text on standard input."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# --- usage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["demo", "--items", "0"],
        ["demo", "--items", "many"],
        ["demo", "--workers", "-1"],
        ["chat", "--temperature", "3", "hi"],
        ["chat", "--temperature", "nan", "hi"],
        ["chat", "--max-tokens", "0", "hi"],
        ["emulator", "--port", "70000"],
        ["emulator", "--speed", "-1"],
        ["emulator", "--plan", "gold"],
        ["health", "--timeout", "0"],
        ["models", "one", "two"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_two(arguments, capsys):
    """Wrong usage is said on standard error with exit code 2: no traceback, nothing on standard output."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: groq-provider" in shown.err


@pytest.mark.parametrize("command", [[], ["demo"], ["chat"], ["models"], ["health"], ["emulator"]], ids=str)
def test_help_is_success(command, capsys):
    """Each command explains itself."""
    assert main([*command, "--help"]) == 0
    assert "usage: groq-provider" in capsys.readouterr().out


def test_version_matches_package(capsys):
    """The version is that of the package, on one line."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"groq-provider {g.__version__}\n"


@pytest.mark.parametrize("command", [["chat", "hi"], ["health"], ["models", "--refresh"]], ids=lambda c: c[0])
def test_missing_key_names_its_source(command, capsys):
    """Without a key one line names the variable and says where to get a key."""
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "GROQ_API_KEY" in shown.err


@pytest.mark.parametrize("command", [["demo"], ["models"]], ids=lambda c: c[0])
def test_missing_rich_names_extra(command, capsys, monkeypatch):
    """Without rich the message names the extra, before anything is sent."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 'pip install "groq-provider[cli]"' in shown.err


def test_chat_and_health_without_rich(service, capsys, monkeypatch):
    """Chat and health do without rich, which only tables need."""
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["chat", "hi"]) == 0
    assert main(["health"]) == 0
    assert main(["models", "--json"]) == 0
    assert "healthy" in capsys.readouterr().out


# --- chat ------------------------------------------------------------------------------------------------------------------


def test_chat_prints_answer_only(service, capsys):
    """So that its output can be used."""
    service.enqueue("Forty-two.")
    arguments = ["chat", "What is it?", "--model", "openai/gpt-oss-20b", "--system", "Be terse."]
    assert main([*arguments, "--temperature", "0.5", "--max-tokens", "50"]) == 0
    assert capsys.readouterr() == ("Forty-two.\n", "")
    sent = service.requests[0].json
    assert [message["content"] for message in sent["messages"]] == ["Be terse.", "What is it?"]
    assert (sent["model"], sent["temperature"], sent["max_completion_tokens"], sent["stream"]) == (
        "openai/gpt-oss-20b",
        0.5,
        50,
        True,
    )


def test_chat_reads_question_from_stdin(service, typed, capsys):
    """All of it, without the last line end."""
    typed("Two\nlines\n")
    assert main(["chat", "-"]) == 0
    assert service.requests[0].json["messages"][0]["content"] == "Two\nlines"
    assert '"Two\nlines"' in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "  "], ids=["empty", "blank"])
def test_empty_question_is_wrong_usage(service, text, capsys):
    """Nothing is sent."""
    assert main(["chat", text]) == 2
    assert "empty" in capsys.readouterr().err
    assert service.requests == []


def test_a_talk_keeps_its_history(service, typed, capsys):
    """Blank lines are passed over; the end of the input ends it."""
    service.enqueue("One.", "Two.")
    typed("first\n\nsecond")
    assert main(["chat", "--system", "S"]) == 0
    assert capsys.readouterr().out == "One.\nTwo.\n"
    said = [message["content"] for message in service.requests[1].json["messages"]]
    assert said == ["S", "first", "One.", "second"]


def test_failed_question_continues_talk(service, typed, capsys):
    """A failed question is left out of the history; the exit code is that of the last question."""
    service.enqueue(Fault(status=400), "Fine.")
    typed("bad\ngood\n")
    assert main(["chat"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "Fine.\n"
    assert shown.err.startswith("groq-provider: ")
    assert [message["content"] for message in service.requests[1].json["messages"]] == ["good"]
    service.enqueue(Fault(status=400))
    typed("bad\n")
    assert main(["chat"]) == 1


def test_terminal_asks_line_by_line(service, capsys, monkeypatch):
    """With a prompt, until Ctrl-D."""
    lines = iter(["first", "second"])

    def asked(prompt):
        assert prompt == "> "
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr("builtins.input", asked)
    service.enqueue("One.", "Two.")
    assert main(["chat"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "One.\nTwo.\n\n"
    assert "Ctrl-D" in shown.err


def test_closed_stdin_ends_talk(service, monkeypatch):
    """Without standard input a talk is over at once, and a question from there is empty."""
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat"]) == 0
    assert main(["chat", "-"]) == 2
    assert service.requests == []


def test_json_chat_prints_one_line(service, typed, capsys):
    """Chat as JSON prints one line per answer, with usage and timing."""
    service.enqueue("Eins — ä.", "Zwei.")
    typed("a\nb\n")
    assert main(["chat", "--json"]) == 0
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (first["content"], second["content"]) == ("Eins — ä.", "Zwei.")
    assert first["usage"]["source"] == "reported"
    assert first["timing"]["time_to_first_token"] > 0
    assert first["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        pytest.param(Fault(status=401), "Check GROQ_API_KEY", id="key"),
        pytest.param(Fault(status=404), "Check GROQ_BASE_URL", id="path"),
        pytest.param(
            Reply("Half an answer", fault=Fault(cut_after_events=3)), "The part that arrived is above", id="cut"
        ),
        pytest.param(Fault(status=400), "Change the request", id="request"),
    ],
)
def test_error_prints_line_and_advice(service, item, says, capsys):
    """On standard error, with exit code 1."""
    service.enqueue(item)
    assert main(["chat", "hi"]) == 1
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    first, second = shown.err.splitlines()
    assert first.startswith("groq-provider: ")
    assert says in second
    assert shown.out == "" or shown.out.endswith("\n")


def test_unknown_model_suggests_model_list(service, capsys):
    """The service's own words, its request id, and the command to run."""
    assert main(["chat", "hi", "--model", "no-such-model"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "`no-such-model`" in first
    assert "[request id req_" in first
    assert "groq-provider models --refresh" in second


def test_errors_take_two_lines():
    """Errors take two lines at most; control characters never reach the terminal; a replacement is named."""
    for name in g.errors.__all__:
        text = format_error(getattr(g, name)("what\x1b[31m\nhappened", request_id="req_1", retry_after=2.0))
        assert text.count("\n") <= 1
        assert "\x1b" not in text
        assert "req_1" in text
    assert "--model new" in format_error(g.ModelDecommissionedError("gone", replacement="new"))
    assert format_error(g.GroqProviderError()) == "groq-provider: GroqProviderError"


def test_model_cannot_steer_terminal(service, capsys, monkeypatch):
    """Escape sequences are left out, line feeds and tabs stay; the figures go to standard error."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    service.enqueue(Reply("a\x1b[2Jb\r\x9b\tc\nd", finish_reason="length"))
    assert main(["chat", "hi"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "a[2Jb\tc\nd\n"
    assert "tokens/s" in shown.err
    assert "--max-tokens" in shown.err


# --- models and health -----------------------------------------------------------------------------------------------------


def test_models_needs_no_key(capsys):
    """The catalogue comes with the package; retired models only on request."""
    assert main(["models"]) == 0
    few = capsys.readouterr().out
    assert "openai/gpt-oss-120b" in few
    assert "mixtral-8x7b-32768" not in few
    assert main(["models", "--all"]) == 0
    everything = capsys.readouterr().out
    assert "mixtral-8x7b-32768" in everything
    assert "shut down 2025-03-20; use " in everything


def test_json_models_hold_whole_catalogue(capsys):
    """Dates and enumerations as text."""
    assert main(["models", "--json", "--all"]) == 0
    found = {model["id"]: model for model in json.loads(capsys.readouterr().out)}
    assert set(found) == {model.id for model in g.default_catalogue()}
    assert found["openai/gpt-oss-120b"]["provider"] == "groq"
    assert found["mixtral-8x7b-32768"]["shutdown_date"] == "2025-03-20"


def test_models_can_ask_the_service(service, capsys):
    """What it lists is shown, in a table or as JSON."""
    assert main(["models", "--refresh"]) == 0
    assert main(["models", "--refresh", "--json"]) == 0
    assert [request.path for request in service.requests] == ["/openai/v1/models"] * 2
    assert "openai/gpt-oss-20b" in capsys.readouterr().out


def test_health_is_an_exit_code(service, capsys):
    """0 for healthy, 1 for anything else, with the reason."""
    assert main(["health"]) == 0
    assert capsys.readouterr().out.startswith("healthy: ")
    service.enqueue(Fault(status=503))
    assert main(["health"]) == 1
    assert capsys.readouterr().out.startswith("unhealthy: ")


def test_health_as_json(service, capsys):
    """Plain data, good news or bad."""
    assert main(["health", "--json", "--probe", "chat"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "healthy"
    service.enqueue(Fault(status=500))
    assert main(["health", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["error_count"]) == ("unhealthy", 1)
    assert found["message"]


# --- demo ------------------------------------------------------------------------------------------------------------------


def test_keyless_demo_uses_emulator():
    """The demo without a key, as a user sees it: no terminal, no colours, no warning, everything on one page."""
    done = start("demo", "--items", "6", "--workers", "3")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert out.startswith("GROQ_API_KEY is not set: talking to the bundled emulator at http://127.0.0.1:")
    assert "\x1b" not in out
    for text in (
        "first token ",
        "usage ",
        "limits left ",
        "6 of 6 done, ",
        " 0 errors",
        "p50",
        "p95",
        "p99",
        "RPD",
        "TPM",
    ):
        assert text in out


def test_demo_with_key_uses_service(service, capsys):
    """With the model, prompt and number of items asked for."""
    arguments = ["--model", "openai/gpt-oss-20b", "--prompt", "My prompt", "--items", "3", "--workers", "2"]
    assert main(["demo", *arguments]) == 0
    assert f"Talking to {service.base_url}" in capsys.readouterr().out
    sent = [request.json for request in service.requests]
    assert sent[0]["messages"][0]["content"] == "My prompt"
    assert {body["model"] for body in sent} == {"openai/gpt-oss-20b"}
    assert [body.get("stream", False) for body in sent].count(True) == 1 + 3
    assert len(sent) == 1 + 3 + 3


def test_demo_counts_and_explains_errors(service, capsys, monkeypatch):
    """It goes on, says what failed, and exits with 1."""
    service.enqueue("First answer")
    service.reply(status=400, body={"error": {"message": "no", "type": "invalid_request_error"}}, times=2)
    assert main(["demo", "--items", "2"]) == 1
    shown = capsys.readouterr().out
    assert "2 of 2 done, 0 tokens/s, 2 errors" in shown
    assert "2 x InvalidRequestError" in shown
    assert "2 of 2 done" in shown.split("generate_many")[1]


def test_progress_counts_items_tokens_errors():
    """Also before any time has gone by."""
    counts = Progress(3)
    assert counts.text(0.0) == "0 of 3 done, 0 tokens/s, 0 errors"
    counts.done, counts.tokens, counts.errors = 2, 3000, 1
    assert counts.text(2.0) == "2 of 3 done, 1,500 tokens/s, 1 error"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo terminals are POSIX")
@pytest.mark.parametrize("flags", [[], ["--no-color"]], ids=["color", "no-color"])
def test_terminal_demo_shows_progress(flags):
    """A line that is redrawn; colours unless told not to."""
    out = in_terminal("demo", "--items", "4", *flags)
    assert " of 4 done" in out
    assert "\x1b[2K" in out  # redrawn
    assert ("\x1b[32m" in out) is not bool(flags)
    assert out.rstrip().endswith("TPM: tokens per minute")


def in_terminal(*arguments: str) -> str:
    """Run the program in a pseudo terminal; return its output."""
    import pty

    ours, theirs = pty.openpty()
    more = {"TERM": "xterm", "COLUMNS": "100"}
    environ = {key: value for key, value in environment(**more).items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    child = subprocess.Popen(
        [*PROGRAM, *arguments], env=environ, cwd=FOLDER, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    pieces = []
    while piece := read_terminal(ours):
        pieces.append(piece)
    os.close(ours)
    assert child.wait(timeout=60) == 0
    return b"".join(pieces).decode()


def read_terminal(descriptor: int) -> bytes:
    """What comes next; nothing at the end, which Linux reports as an error."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


# --- the emulator ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_emulator_serves_until_signal(number):
    """It prints its address, answers, and ends with success."""
    with start("emulator", "--port", "0", "--speed", "0", "--plan", "free") as child:
        address = child.stdout.readline().strip()
        request = urllib.request.Request(f"{address}/openai/v1/models", headers={"Authorization": "Bearer gsk_any"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
        child.send_signal(number)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 0
    assert "Traceback" not in err


def test_taken_port_is_one_line(service, capsys):
    """A port that is taken is one line and not a traceback."""
    port = service.base_url.rpartition(":")[2]
    assert main(["emulator", "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


# --- ends ------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_ends_answer_cleanly():
    """Exit code 130, no traceback, what had come is on the screen, the connection is closed."""
    gate = Gate()
    with Emulator(speed=0) as service:
        service.enqueue(Reply("one two three four five", gate=gate))
        gate.release(3)
        with start("chat", "hi", service=service) as child:
            assert gate.wait_for(3, timeout=30)
            assert child.stdout.read(1) == "o"  # it has begun to print, so it is well inside
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=30)
        assert (child.returncode, err.strip()) == (130, "interrupted")
        gate.open()
        assert service.wait_until(lambda emulator: emulator.open_connections == 0)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("stage", ["streams", "batch"])
def test_ctrl_c_ends_demo_cleanly(stage):
    """In its threads too: they are woken, not waited for."""
    with Emulator(speed=0) as service:
        held = Fault(stall_before_headers=True)
        streamed = stage == "streams"
        service.enqueue("First answer.")
        service.reply(match=lambda request: bool(request.json.get("stream")) is streamed, fault=held, times=None)
        with start("demo", "--items", "4", "--workers", "4", service=service) as child:
            expected = 1 + 4 if streamed else 1 + 4 + 4
            assert service.wait_until(lambda emulator: len(emulator.requests) >= expected, timeout=30)
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=30)
        assert (child.returncode, err.strip()) == (130, "interrupted")
        held.release()


def test_ctrl_c_exits_with_130(service, capsys, monkeypatch):
    """Ctrl-C in this process is exit code 130, whatever command was running."""

    def pressed(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(g.GroqProvider, "get_health", pressed)
    assert main(["health"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX")
@pytest.mark.parametrize(
    "arguments", [["models", "--json", "--all"], ["demo", "--items", "2"], ["chat", "hi"]], ids=lambda a: a[0]
)
def test_broken_pipe_shows_no_traceback(arguments):
    """A reader that goes away, as ``| head -1`` does, causes no traceback."""
    read, write = os.pipe()
    os.close(read)
    with Emulator(speed=0) as service:
        child = start(*arguments, service=service, stdout=write)
        os.close(write)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line():
    """A full disk is one line and an error."""
    with Path("/dev/full").open("w") as full:
        child = start("models", "--json", stdout=full)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err.splitlines() == ["groq-provider: No space left on device"]


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX")
def test_works_without_any_output():
    """It works without any output: standard streams may be closed altogether, as under some schedulers."""
    code = "import sys; sys.stdout = sys.stderr = sys.stdin = None; from groq_provider.cli import main; sys.exit(main(['models']))"
    done = subprocess.run(
        [*PROGRAM[:5], "-c", code], env=environment(), cwd=FOLDER, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0


def test_plain_terminal_gets_readable_text(service):
    """A terminal without Unicode gets readable text and no encoding error."""
    service.enqueue("ä — ☃")
    environ = environment(service, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    command = [sys.executable, "-W", "error", "-m", "groq_provider.cli", "chat", "hi"]
    done = subprocess.run(command, env=environ, cwd=FOLDER, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"? ? ?\n")
