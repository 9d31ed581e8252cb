"""Count the work of the hot paths, in figures that do not depend on the machine's load.

    python benchmarks/counts.py [--update] [--json FILE]

It counts the interpreter's instructions (all, and those of this library's own code), the calls of Python and C functions, and the most
memory held at once, for a plain request, a streamed chunk, the limiter, the latency tracker and the import. It uses no network: a socket
of this process answers as soon as the request is complete. It prints the figures beside those in counts.json, which are per minor
version of Python; if one grew by more than 15 %, the exit status is 1. ``--update`` writes this version's figures.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import answers  # noqa: E402 - found by the path above
import loop  # noqa: E402
from contenders import FIELDS, MESSAGES, MODEL  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

FILE = HERE / "counts.json"
#: Largest growth of a figure.
LIMIT = 0.15
#: Growth that is always allowed: the sizes of tables depend a little on addresses.
SLACK = {"peak": 256, "blocks": 256}
PACKAGES = ("requests", "urllib3", "attrs", "cattrs")
_OWN = str(HERE.parent / "groq_provider") + os.sep
#: Files whose code is not counted: this one, and the one that answers.
_APART = (__file__, loop.__file__)
_CHUNKS = 100


# --- counting ------------------------------------------------------------------------------------------------------------


class _Instructions:
    """Counts instructions run by this thread: all of them, and this library's own; but not those of this file and of the import system."""

    def __init__(self) -> None:
        self.own = 0
        self.other = 0

    def _trace(self, frame: Any, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name in _APART or name.startswith("<frozen importlib"):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._count_own if name.startswith(_OWN) else self._count_other

    def _count_own(self, _frame: Any, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.own += 1
        return self._count_own

    def _count_other(self, _frame: Any, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.other += 1
        return self._count_other

    def __enter__(self) -> _Instructions:
        sys._getframe().f_trace_opcodes = True  # noqa: SLF001 - otherwise Python 3.12 does not count the first run
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.settrace(None)


class _Calls:
    """Counts calls made by this thread, with the same exceptions."""

    def __init__(self) -> None:
        self.count = 0

    def _profile(self, frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            name = frame.f_code.co_filename
            if name not in _APART and not name.startswith("<frozen importlib"):
                self.count += 1

    def __enter__(self) -> _Calls:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.setprofile(None)


def count(action: Callable[[], object], times: int = 10, *, peak: bool = True) -> dict[str, float]:
    """Count the work of *action* on average, after a first run that is not counted.

    Returns:
        ``instructions``, ``own``, ``calls``, and ``peak``: most bytes held at once beyond those before; of a small action too few to be reported.
    """
    for _ in range(3):
        action()
    gc.collect()
    gc.disable()  # the collector would run at arbitrary moments
    try:
        with _Instructions() as instructions:
            for _ in range(times):
                action()
        with _Calls() as calls:
            for _ in range(times):
                action()
        most = {"peak": _peak(action, times)} if peak else {}
    finally:
        gc.enable()
    return {
        "instructions": (instructions.own + instructions.other) / times,
        "own": instructions.own / times,
        "calls": calls.count / times,
        **most,
    }


def _peak(action: Callable[[], object], times: int) -> float:
    found = []
    tracemalloc.start()
    try:
        for _ in range(times):
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            action()
            found.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return min(found)


def per_unit(many: dict[str, float], one: dict[str, float], units: int) -> dict[str, float]:
    """Return the cost of each of *units* further units; the peak is that of the whole."""
    found = {key: (many[key] - one[key]) / units for key in many}
    return {**found, "peak": many["peak"]}


# --- the hot paths -------------------------------------------------------------------------------------------------------


def measure() -> dict[str, dict[str, float]]:
    """Count every hot path."""
    from groq_provider import GroqProvider, RateLimits

    limits = RateLimits(rpm=100_000_000, rpd=500_000_000, tpm=2_000_000_000, tpd=2_000_000_000_000)
    with loop.Loop().installed() as wire:
        provider = GroqProvider(api_key="gsk_counts", base_url="http://127.0.0.1:9/openai/v1", rate_limits=limits)
        found = {"JSON request": _requests(provider, wire), **_streams(provider, wire)}
        provider.close()
    return {**found, **_parts(limits), "import and provider": _in_fresh_interpreter()}


def _requests(provider: Any, wire: loop.Loop) -> dict[str, float]:
    wire.answer = answers.plain()

    def request() -> None:
        if not provider.generate(MESSAGES, model=MODEL, **FIELDS).content:
            raise RuntimeError("no answer")

    return count(request)


def _streams(provider: Any, wire: loop.Loop) -> dict[str, dict[str, float]]:
    def stream() -> int:
        with provider.generate_stream(MESSAGES, model=MODEL, **FIELDS) as chunks:
            return sum(bool(chunk.content) for chunk in chunks)

    begin, *events = answers.stream("events", _CHUNKS + 1)

    def one_by_one(length: int) -> None:
        # Each event has arrived when the client asks for it, and nothing after it.
        wire.answer = begin + events[0] + events[1]
        with provider.generate_stream(MESSAGES, model=MODEL, **FIELDS) as chunks:
            next(chunks)
            for event in events[2 : length + 1]:
                wire.push(event)
                next(chunks)
            wire.push(b"".join(events[-2:]))
            for _ in chunks:
                pass

    together, alone = {}, {}
    for length in (1, _CHUNKS + 1):
        wire.answer = b"".join(answers.stream("burst", length))
        if stream() != length:
            raise RuntimeError("not the whole stream")
        together[length] = count(stream, 4)
        alone[length] = count(functools.partial(one_by_one, length), 4)
    return {
        "stream of one chunk": together[1],
        "streamed chunk, come with others": per_unit(together[_CHUNKS + 1], together[1], _CHUNKS),
        "streamed chunk, come alone": per_unit(alone[_CHUNKS + 1], alone[1], _CHUNKS),
    }


def _parts(limits: Any) -> dict[str, dict[str, float]]:
    from groq_provider import LatencyTracker, TokenBucketRateLimiter
    from groq_provider.types.response import Usage
    from groq_provider.wire.headers import parse_rate_limit

    limiter, tracker = TokenBucketRateLimiter(limits), LatencyTracker()
    usage = Usage(prompt_tokens=62, completion_tokens=18, total_tokens=80, source="reported")
    headers = dict(line.split(": ", 1) for line in answers.COMMON_HEADERS)

    def reserve() -> None:
        limiter.reserve(MODEL, prompt_tokens=60, max_output_tokens=256).settle(usage)

    def learn() -> None:
        place = limiter.reserve(MODEL, prompt_tokens=60, max_output_tokens=256)
        place.feedback(parse_rate_limit(headers))
        place.settle(usage)

    def record() -> None:
        tracker.record(MODEL, total=0.5, first_token=0.1, tokens_per_second=500.0)

    return {
        "limiter: reserve, settle": count(reserve, 50, peak=False),
        "limiter: reserve, headers, settle": count(learn, 50, peak=False),
        "latency record": count(record, 50, peak=False),
    }


def _in_fresh_interpreter() -> dict[str, float]:
    """Count the import in a new process, after another one has written the compiled files."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("GROQ_")}
        variables |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONHASHSEED": "0"}
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, str(Path(__file__).resolve()), "--import"]
        for _ in range(2):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables, check=True, timeout=120)
        return json.loads(done.stdout)


def _count_import() -> dict[str, float]:
    import attrs  # noqa: F401 - imported first: only the cost that this library adds is counted
    import cattrs  # noqa: F401
    import requests  # noqa: F401

    def make() -> None:
        from groq_provider import GroqProvider

        GroqProvider(api_key="gsk_counts").close()

    gc.disable()
    before = sys.getallocatedblocks()
    with _Instructions() as instructions:
        make()
    return {
        "instructions": instructions.own + instructions.other,
        "own": instructions.own,
        "modules": sum(name.partition(".")[0] == "groq_provider" for name in sys.modules),
        "blocks": sys.getallocatedblocks() - before,
    }


# --- comparing -----------------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Return the versions on which the figures depend."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def compare(found: dict[str, Any], known: dict[str, Any], *, same: bool) -> tuple[list[str], list[str]]:
    """Return the lines of the table, and the figures that grew too much.

    Args:
        found: Figures by path and kind.
        known: The committed figures.
        same: Whether the packages have the versions of the committed figures; if not, only this library's own instructions are compared.
    """
    lines, grown = [], []
    for path, figures in found.items():
        for kind, value in figures.items():
            before = known.get(path, {}).get(kind)
            change, mark = "", ""
            if before is not None:
                change = f"{value / before - 1:+8.1%}" if before else ""
                if value > before * (1 + LIMIT) and value - before > SLACK.get(kind, 0):
                    if same or kind == "own":
                        mark = "GREW"
                        grown.append(f"{path}: {kind} {before:,.0f} -> {value:,.0f}")
                    else:
                        mark = "grew, with other versions below"
            text = "-" if before is None else f"{before:,.0f}"
            lines.append(f"{path:<36}{kind:<14}{value:>12,.0f}{text:>12}{change:>10}  {mark}".rstrip())
    return lines, grown


def main(argv: list[str] | None = None) -> int:
    """Count, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the figures of this Python to counts.json")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here, too")
    parser.add_argument("--import", action="store_true", dest="only_import", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.only_import:
        print(json.dumps(_count_import()))
        return 0
    minor = ".".join(map(str, sys.version_info[:2])) + ("t" if "t" in getattr(sys, "abiflags", "") else "")
    committed = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    entry = committed.get(minor, {})
    found, about = measure(), versions()
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    same = all(entry.get("versions", {}).get(name) == about.get(name) for name in PACKAGES)
    lines, grown = compare(found, entry.get("figures", {}), same=same)
    print(", ".join(f"{name} {version}" for name, version in about.items()))
    print(f"{'':<36}{'':<14}{'now':>12}{'committed':>12}{'change':>10}")
    print("\n".join(lines))
    if args.update:
        rounded = {path: {kind: round(value, 2) for kind, value in figures.items()} for path, figures in found.items()}
        committed[minor] = {"versions": about, "figures": rounded}
        FILE.write_text(json.dumps(dict(sorted(committed.items())), indent=1) + "\n", encoding="utf-8")
        print(f"written to {FILE.name}")
        return 0
    if not entry:
        print(f"no committed figures for Python {minor}: only printed")
        return 0
    if not same:
        then = ", ".join(f"{name} {entry['versions'].get(name)}" for name in PACKAGES)
        print(f"committed with {then}: only this library's own instructions are held against the figures")
    for text in grown:
        print(f"more than {LIMIT:.0%} above the committed figure: {text}", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
