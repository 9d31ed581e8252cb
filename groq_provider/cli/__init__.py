"""The command ``groq-provider``: parses the arguments and runs one subcommand.

Each subcommand's module loads when you run it, so ``--help`` and ``--version`` answer at once. To add one,
write two functions: ``_add_NAME()`` with its arguments, which ``_parser()`` calls, and ``_NAME()``, which imports its module and returns
the exit code.

- ``demo``: ``groq-provider demo``, a stream, a batch and the figures on one page
- ``chat``: ``groq-provider chat``, one question or a conversation
- ``show``: ``groq-provider models`` and ``groq-provider health``
- ``groq-provider emulator`` runs :func:`groq_provider.testing.serve`
- ``screen``: prints text, JSON, tables and a progress line
- ``live``: the spinner and the printer of streamed answers
- ``text``: removes control characters and wraps words
- ``advice``: errors as text, with advice on what to do

Exit codes: 0 for success, 1 for an error or bad health, 2 for wrong usage, 130 after Ctrl-C, 141 if the reader closed the output.
"""

from __future__ import annotations

import argparse
import codecs
import functools
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from groq_provider import GroqProviderError, __version__
from groq_provider.cli.advice import format_error
from groq_provider.cli.screen import print_note
from groq_provider.cli.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from groq_provider import GroqProvider, ProviderConfig
    from groq_provider.testing import RecordedRequest

    _Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - the class has no public name

__all__ = ["main"]

_INTERRUPTED = 130  # what shells report for SIGINT
_NO_READER = 141  # likewise for SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``None`` means the arguments of the process."""
    _make_streams_safe()
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print_note("\ninterrupted")
        code = _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        code = _NO_READER
    except GroqProviderError as error:
        print_note(format_error(error))
        code = 1
    except OSError as error:  # for example a full disk
        _drop_output()
        print_note(f"groq-provider: {error.strerror or error}")
        code = 1
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        args = parser.parse_args(_arguments() if argv is None else argv)
    except SystemExit as stop:  # --help, --version or wrong usage: argparse has printed everything
        return stop.code if isinstance(stop.code, int) else 2
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


def _arguments() -> list[str]:
    """Return the arguments of the process, decoded as UTF-8 even in a locale of ASCII."""
    return [os.fsencode(argument).decode("utf-8", "replace") for argument in sys.argv[1:]]


def _make_streams_safe() -> None:
    """Make sure that printing never raises for its text: question marks replace characters that the terminal cannot show.

    In the locales C and POSIX Python's own streams may be ASCII and accept lone surrogates instead of characters.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open as long as the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if hasattr(sys.stdin, "reconfigure"):
        # In a locale of ASCII, input that is not ASCII is usually UTF-8.
        ascii_only = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if ascii_only else None, errors="replace")


def _drop_output() -> None:
    """Redirect standard output to the null device, so that the interpreter's flush at exit does not fail again."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError):  # standard output is not a file, as in tests
        return
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, target)
    os.close(null_device)


# --- arguments -----------------------------------------------------------------------------------------------------------


def _number(
    kind: Callable[[str], float], low: float, high: float = math.inf, *, description: str
) -> Callable[[str], float]:
    """Return a converter for argparse that accepts numbers from *low* to *high*."""

    def convert(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    convert.__name__ = "number"  # argparse shows it: "invalid number value: 'x'"
    return convert


def _add_service_options(parser: argparse.ArgumentParser, *, timeout: str = "as configured") -> None:
    """Add the arguments of every command that calls the service."""
    group = parser.add_argument_group("service")
    group.add_argument("--base-url", metavar="URL", help="root of the API (default: GROQ_BASE_URL, else Groq's)")
    group.add_argument("--config", metavar="FILE", help="settings of a .yaml, .toml or .json file")
    group.add_argument(
        "--timeout",
        type=_number(float, 0.001, 86_400, description="a number of seconds above 0"),
        metavar="SECONDS",
        help=f"longest time for a call, retries included (default: {timeout})",
    )


_COUNT = _number(int, 1, 1_000_000, description="a number of at least 1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="groq-provider",
        description="A client for Groq Cloud. The key is read from GROQ_API_KEY.",
        epilog="Exit codes: 0 success, 1 error, 2 wrong usage, 130 Ctrl-C, 141 the reader closed the output.",
    )
    parser.add_argument("--version", action="version", version=f"groq-provider {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_demo(commands)
    _add_chat(commands)
    _add_models(commands)
    _add_health(commands)
    _add_emulator(commands)
    return parser


def _add_demo(commands: _Commands) -> None:
    parser = commands.add_parser(
        "demo", help="stream an answer, run a small batch, show the figures; without a key on the bundled emulator"
    )
    parser.add_argument("--model", metavar="ID", help="model to ask (default: the provider's)")
    parser.add_argument("--prompt", metavar="TEXT", help="prompt of the streamed answer")
    parser.add_argument("--items", type=_COUNT, default=20, metavar="N", help="requests of the batch (default: 20)")
    parser.add_argument(
        "--workers",
        type=_number(int, 1, 1000, description="a number from 1 to 1000"),
        default=8,
        metavar="N",
        help="threads of the batch (default: 8)",
    )
    parser.add_argument("--no-color", action="store_true", help="no colours; NO_COLOR in the environment does the same")
    _add_service_options(parser)
    parser.set_defaults(command=_demo)


def _add_chat(commands: _Commands) -> None:
    parser = commands.add_parser("chat", help="ask a question; without a text, hold a conversation line by line")
    parser.add_argument("text", nargs="?", help="the question; - reads it from standard input")
    parser.add_argument("--model", metavar="ID", help="model to ask (default: the provider's)")
    parser.add_argument("--system", metavar="TEXT", help="instruction to the model")
    parser.add_argument(
        "--temperature", type=_number(float, 0, 2, description="a number from 0 to 2"), metavar="T", help="0 to 2"
    )
    parser.add_argument("--max-tokens", type=_COUNT, metavar="N", help="longest answer in tokens, reasoning included")
    parser.add_argument(
        "--json", action="store_true", help="print each answer as one line of JSON, when it is complete"
    )
    _add_service_options(parser)
    parser.set_defaults(command=_chat)


def _add_models(commands: _Commands) -> None:
    parser = commands.add_parser("models", help="list the models of the catalogue, or of the service")
    parser.add_argument("--refresh", action="store_true", help="ask the service; needs a key")
    parser.add_argument("--all", action="store_true", help="also models that were shut down or will be")
    parser.add_argument("--json", action="store_true", help="print all that is known of each model as JSON")
    _add_service_options(parser)
    parser.set_defaults(command=_models)


def _add_health(commands: _Commands) -> None:
    parser = commands.add_parser("health", help="check the service; exit code 0 when it is healthy, else 1")
    parser.add_argument("--probe", choices=("models", "chat"), default="models", help="chat costs a few tokens")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    _add_service_options(parser, timeout="10")
    parser.set_defaults(command=_health)


def _add_emulator(commands: _Commands) -> None:
    parser = commands.add_parser("emulator", help="run a local Groq for tests until Ctrl-C or SIGTERM")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port",
        type=_number(int, 0, 65_535, description="a port"),
        default=0,
        metavar="N",
        help="port to listen on; 0 picks a free one (default: 0)",
    )
    parser.add_argument("--plan", choices=("free", "developer"), help="enforce the limits of this plan")
    parser.add_argument(
        "--speed",
        type=_number(float, 0, description="a number of at least 0"),
        default=1.0,
        metavar="X",
        help="factor on the models' nominal speed; 0 is as fast as possible (default: 1)",
    )
    parser.set_defaults(command=_emulator)


# --- commands: each imports its module when it runs ------------------------------------------------------------------------


def _configuration(args: argparse.Namespace) -> ProviderConfig:
    from groq_provider import ProviderConfig

    settings: dict[str, Any] = {}
    if args.base_url is not None:
        settings["base_url"] = args.base_url
    if args.timeout is not None:
        settings["timeout"] = args.timeout
    return ProviderConfig.load(args.config, **settings)


def _connect(args: argparse.Namespace) -> GroqProvider:
    from groq_provider import GroqProvider

    return GroqProvider(_configuration(args))


def _demo(args: argparse.Namespace) -> int:
    from groq_provider.cli.demo import run

    is_configured = args.base_url is not None or args.config is not None
    return run(
        model=args.model,
        prompt=args.prompt,
        items=args.items,
        workers=args.workers,
        color=not args.no_color,
        config=_configuration(args) if is_configured else None,
        timeout=args.timeout,
    )


def _chat(args: argparse.Namespace) -> int:
    from groq_provider.cli.chat import run

    fields = {"model": args.model, "temperature": args.temperature, "max_completion_tokens": args.max_tokens}
    connect = functools.partial(_connect, args)
    return run(args.text, connect=connect, system=args.system, as_json=args.json, fields=fields)


def _models(args: argparse.Namespace) -> int:
    from groq_provider.cli.show import models

    return models(
        connect=functools.partial(_connect, args), refresh=args.refresh, everything=args.all, as_json=args.json
    )


def _health(args: argparse.Namespace) -> int:
    from groq_provider.cli.show import health

    timeout = 10.0 if args.timeout is None else args.timeout
    return health(connect=functools.partial(_connect, args), probe=args.probe, timeout=timeout, as_json=args.json)


def _emulator(args: argparse.Namespace) -> int:
    from groq_provider.testing import serve

    print_note("Any key but 'invalid' is accepted. Point GROQ_BASE_URL to the address below; Ctrl-C ends it.")
    try:
        serve(args.host, args.port, plan=args.plan, speed=args.speed, on_answer=_log_request)
    except (OSError, OverflowError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print_note(
            f"groq-provider: cannot listen on {args.host} port {args.port}: {getattr(error, 'strerror', None) or error}"
        )
        return 1
    return 0


def _log_request(request: RecordedRequest) -> None:
    """Print one line about a request to the emulator, without its prompt and its key."""
    body = request.json if isinstance(request.json, dict) else {}
    ending = {"sent": "", "broken": "broken off", "client-gone": "the client closed the connection"}.get(
        request.outcome, request.outcome
    )
    words = [
        time.strftime("%H:%M:%S"),
        request.method,
        request.path,
        request.status,
        body.get("model", ""),
        "streamed" if body.get("stream") is True else "",
        ending,
    ]
    print_note(" ".join(filter(None, (one_line(word)[:200] for word in words))))
