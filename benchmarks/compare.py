"""Compare this library with the official SDKs, plain requests and a bare ``http.client`` loop.

    python benchmarks/compare.py [--quick] [--json FILE]

Every contender runs in a process of its own and the measures are taken in turn, a slice of each a round, so that whatever else the
machine does hits all alike. Read ratios, not microseconds; README.md says how.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contenders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
US, MS = 1e6, 1e3
#: Contenders that are measured in everything; requests.post opens a connection per call, so the rest says nothing of it.
_KEPT = ("ours", "groq", "openai", "session", "floor")
_STREAMS = ("events", "burst", "merged")

#: Run in a fresh interpreter: CPU and wall time, and modules, after each of three steps.
_IMPORT = """
import sys, time
def mark(): return [time.process_time(), time.perf_counter(), len(sys.modules)]
name, port, here = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, sys.argv[4])
marks = [mark()]
if name == "ours":
    from groq_provider import GroqProvider as make
elif name == "groq":
    from groq import Groq as make
elif name == "openai":
    from openai import OpenAI as make
elif name in ("session", "requests"):
    from requests import Session as make
else:
    import json
    from http.client import HTTPConnection as make
marks.append(mark())
if name == "ours":
    made = make(api_key="gsk_benchmark")
elif name in ("groq", "openai"):
    made = make(api_key="gsk_benchmark")
elif name == "floor":
    made = make("127.0.0.1", port)
else:
    made = make()
marks.append(mark())
sys.path.insert(0, here)
import contenders
client = contenders.CONTENDERS[name](port)
marks.append(mark())
client.answer()
marks.append(mark())
import json
print(json.dumps(marks))
"""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter slices: under 40 s")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every slice and the summary as JSON")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(contenders.CONTENDERS)}")
    parser.add_argument("--rounds", type=int, help="slices of each contender (15; quick 5)")
    parser.add_argument("--requests", type=int, help="plain requests per slice (40; quick 25)")
    parser.add_argument("--chunks", type=int, help="chunks per stream (1500; quick 600)")
    parser.add_argument("--seconds", type=float, help="length of a slice of requests per second (0.6; quick 0.3)")
    parser.add_argument("--imports", type=int, help="fresh interpreters per contender (9; quick 3)")
    found = parser.parse_args(argv)
    usual = (5, 25, 600, 0.3, 3) if found.quick else (15, 40, 1500, 0.6, 9)
    for name, value in zip(("rounds", "requests", "chunks", "seconds", "imports"), usual, strict=True):
        if getattr(found, name) is None:
            setattr(found, name, value)
        elif getattr(found, name) <= 0:
            parser.error(f"--{name} must be above 0")
    names = list(contenders.CONTENDERS) if found.only is None else found.only.split(",")
    if unknown := [name for name in names if name not in contenders.CONTENDERS]:
        parser.error(f"--only: unknown {', '.join(unknown)}")
    found.names = names
    return found


def environment() -> dict[str, str]:
    """Return this process's environment without what would send a client elsewhere or change it."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("GROQ_", "OPENAI_")) and not key.lower().endswith("_proxy")
    }


class Child:
    """A process that answers one line of JSON with another."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "contenders.py"), name, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def ready(self) -> bool:
        """Wait until it can measure."""
        return bool(self._read())

    def ask(self, measure: str, **arguments: Any) -> dict[str, Any]:
        """Have one slice measured.

        Raises:
            RuntimeError: It went wrong there.
        """
        self._process.stdin.write(json.dumps({"measure": measure, **arguments}) + "\n")
        self._process.stdin.flush()
        found = self._read()
        if not found or "error" in found:
            raise RuntimeError(f"{self.name}, {measure}: {found.get('error', 'the process ended')}")
        return found

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def running_server() -> Iterator[int]:
    """Run the server in a process of its own; give its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "server.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield int(process.stdout.readline().split()[1])
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Run:
    """One run: what was measured, by measure and contender, slice by slice.

    Attributes:
        slices: ``{measure: {contender: [figure of round 1, …]}}``; the figure of a round at the same place belongs to the same round.
        notes: What was left out, and why.
    """

    def __init__(self, args: argparse.Namespace, port: int) -> None:
        self.args = args
        self.port = port
        self.slices: dict[str, dict[str, list[float]]] = {}
        self.imports: dict[str, dict[str, float]] = {}
        self.ceiling: dict[str, float] = {}
        self.notes: list[str] = []
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Run:
        for name in self.args.names:
            if lacking := contenders.missing(name):
                self._skip(name, f"not installed: {', '.join(lacking)}")
            else:
                self._children[name] = Child(name, self.port)
        for name, child in list(self._children.items()):
            if not child.ready():
                self._children.pop(name).close()
                self._skip(name, "did not start, see above")
        return self

    def __exit__(self, *_exc: object) -> None:
        for child in self._children.values():
            child.close()

    def _skip(self, name: str, why: str) -> None:
        self.notes.append(f"{contenders.CONTENDERS[name].title} skipped: {why}")

    @property
    def names(self) -> list[str]:
        """Contenders that take part."""
        return list(self._children)

    def measure_all(self) -> None:
        """Take every measure."""
        args = self.args
        self.ceiling = contenders.ceiling(self.port, seconds=args.seconds)
        self._rounds("json", args.rounds, self.names, {"requests": args.requests}, {"json": "cpu", "json wall": "wall"})
        kept = [name for name in self.names if name in _KEPT]
        for kind in _STREAMS:
            self._rounds(
                f"chunks {kind}", args.rounds, kept, {"kind": kind, "chunks": args.chunks}, {f"chunks {kind}": "cpu"}
            )
        self._rounds("first", args.rounds, kept, {"requests": args.requests}, {"first": "wall"})
        rounds = max(2, args.rounds // 3) if args.rounds > 1 else 1
        for threads in (1, 32):
            self._rounds(
                f"rate {threads}",
                rounds,
                self.names,
                {"threads": threads, "seconds": args.seconds},
                {f"rate {threads}": "rate", f"rate {threads} cpu": "cpu"},
            )
        self._measure_imports()

    def _rounds(
        self, title: str, rounds: int, names: Sequence[str], arguments: dict[str, Any], keep: dict[str, str]
    ) -> None:
        """Have each contender measure a slice, in turn, the first one another each round; the first round only warms up."""
        _say(f"{title} …")
        for number in range(-1, rounds):
            start = number % max(len(names), 1)
            for name in [*names[start:], *names[:start]]:
                if name not in self._children:
                    continue
                try:
                    found = self._children[name].ask(title.split(maxsplit=1)[0], **arguments)
                except (RuntimeError, OSError) as problem:
                    self._children.pop(name).close()
                    self._forget(name, str(problem))
                    continue
                if number >= 0:
                    for key, field in keep.items():
                        self.slices.setdefault(key, {}).setdefault(name, []).append(found[field])

    def _forget(self, name: str, why: str) -> None:
        self._skip(name, why)
        for found in self.slices.values():
            found.pop(name, None)

    def _measure_imports(self) -> None:
        """Import, build and answer once in fresh interpreters, in turn; the first round only fills the caches."""
        _say("imports …")
        names = [name for name in self.names if name != "requests"]
        found: dict[str, list[list[list[float]]]] = {name: [] for name in names}
        with tempfile.TemporaryDirectory() as cache:
            # Compiled files of their own, so that a checkout that may not be written to is not compiled at each start.
            variables = {**environment(), "PYTHONPYCACHEPREFIX": cache}
            variables.pop("PYTHONDONTWRITEBYTECODE", None)
            for number in range(-1, self.args.imports):
                for name in names:
                    marks = self._import_once(name, variables)
                    if number >= 0:
                        found[name].append(marks)
        for name, marks in found.items():

            def step(begin: int, end: int, field: int, marks: list[list[list[float]]] = marks) -> float:
                return statistics.median(one[end][field] - one[begin][field] for one in marks)

            self.imports[name] = {
                "import": step(0, 1, 0),
                "construct": step(0, 2, 0),
                # What the benchmark itself does in between (2 to 3) is not the contender's.
                "first_answer": step(0, 2, 0) + step(3, 4, 0),
                "import_wall": step(0, 1, 1),
                "construct_wall": step(0, 2, 1),
                "modules_import": step(0, 1, 2),
                "modules_construct": step(0, 2, 2),
                "modules_first_answer": step(0, 2, 2) + step(3, 4, 2),
            }

    def _import_once(self, name: str, variables: dict[str, str]) -> list[list[float]]:
        command = [sys.executable, "-c", _IMPORT, name, str(self.port), str(HERE), str(HERE.parent)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, env=variables, check=True, timeout=60, cwd=HERE
        )
        return json.loads(done.stdout)

    # --- figures ---------------------------------------------------------------------------------------------------------

    def median(self, key: str, name: str) -> float | None:
        """Return the median of a contender's slices."""
        found = self.slices.get(key, {}).get(name)
        return statistics.median(found) if found else None

    def ratio(self, key: str, name: str, base: str) -> float | None:
        """Return the median over the rounds of a contender's figure by that of *base* in the same round."""
        found = self.slices.get(key, {})
        pairs = list(zip(found.get(name, ()), found.get(base, ()), strict=False))
        return statistics.median(mine / other for mine, other in pairs if other) if pairs else None

    def firsts(self, name: str) -> list[float]:
        """Return every time to the first token of a contender, sorted."""
        return sorted(value for one in self.slices.get("first", {}).get(name, ()) for value in one)  # type: ignore[attr-defined]  # a slice here is a list

    def summary(self) -> dict[str, Any]:
        """Return medians and ratios, for machines."""
        keys = [key for key in self.slices if key != "first"]
        table = {
            name: {
                key: {
                    "median": self.median(key, name),
                    "of_floor": self.ratio(key, name, "floor"),
                    "of_groq": self.ratio(key, name, "groq"),
                }
                for key in keys
                if name in self.slices[key]
            }
            | (
                {"first": {"p50": _percentile(times, 50), "p99": _percentile(times, 99)}}
                if (times := self.firsts(name))
                else {}
            )
            for name in self.names
        }
        return {"contenders": table, "imports": self.imports, "ceiling": self.ceiling, "notes": self.notes}


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


# --- the report ----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    versions = {}
    for package in ("groq", "openai", "requests", "urllib3", "httpx", "attrs", "cattrs"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the eye."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        ).rstrip()

    return "\n".join([title, line(header), line(["-" * width for width in widths]), *(line(row) for row in rows), ""])


def _figure(value: float | None, scale: float = 1.0, form: str = ",.0f", unit: str = "") -> str:
    return "-" if value is None else f"{value * scale:{form}}{unit}"


def report(run: Run) -> str:
    """Return what was found, for the eye."""
    names, title = run.names, {name: found.title for name, found in contenders.CONTENDERS.items()}
    kept = [name for name in names if name in _KEPT]
    parts = []

    def ratios(key: str, name: str) -> list[str]:
        return [_figure(run.ratio(key, name, base), form=".2f", unit="x") for base in ("floor", "groq")]

    rows = [
        [title[n], _figure(run.median("json", n), US), *ratios("json", n), _figure(run.median("json wall", n), US)]
        for n in names
    ]
    header = ["one thread, plain answer", "CPU us/request", "of floor", "of groq", "wall us"]
    parts.append(table("Plain requests: client CPU (median of slices)", header, rows))
    header, rows = ["CPU us/chunk"], [[title[n]] for n in kept]
    for kind in _STREAMS:
        key = f"chunks {kind}"
        header += [kind, "of floor", "of groq"]
        for row, name in zip(rows, kept, strict=True):
            row += [_figure(run.median(key, name), US, ",.1f"), *ratios(key, name)]
    parts.append(table("Streams: client CPU per chunk, the cost of a one-chunk stream taken off", header, rows))
    rows = []
    for name in kept:
        times, base = run.firsts(name), run.firsts("floor")
        if times:
            ratio = _percentile(times, 50) / _percentile(base, 50) if base else None
            p50, p99 = (_figure(_percentile(times, percent), US) for percent in (50, 99))
            rows.append([title[name], p50, p99, _figure(ratio, form=".2f", unit="x")])
    header = ["kept connection", "p50 us", "p99 us", "p50 of floor"]
    parts.append(table("Time to first token: wall, from the call to the first text", header, rows))
    rows = []
    for name in names:
        row = [title[name]]
        for threads in (1, 32):
            key = f"rate {threads}"
            row += [_figure(run.median(key, name)), ratios(key, name)[0], _figure(run.median(f"{key} cpu", name), US)]
        rows.append(row)
    header = ["plain requests per second", "1 thread", "of floor", "CPU us", "32 threads", "of floor", "CPU us"]
    parts.append(table("Throughput", header, rows))
    rows = [
        [title[n], *(_figure(f[k], MS) for k in ("import", "construct", "first_answer")),
         *(_figure(f[k]) for k in ("modules_import", "modules_construct", "modules_first_answer"))]
        for n, f in run.imports.items()
    ]  # fmt: skip
    header = ["CPU ms since start", "import", "+ client", "+ 1st answer", "modules", "+ client", "+ 1st answer"]
    parts.append(table("Fresh interpreters: the bare interpreter taken off", header, rows))
    parts += [ceiling_lines(run), *(f"note: {note}" for note in run.notes), "", *budget_lines(run)]
    return "\n".join(parts)


def ceiling_lines(run: Run) -> str:
    """Say how far the server itself was from being the limit."""
    c = run.ceiling
    return (
        f"Server's own ceiling, measured with bare sockets: {c['rate_1']:,.0f} requests/s on one connection, "
        f"{c['rate_32']:,.0f} on 32; {c['chunks_events']:,.0f} chunks/s sent one by one, {c['chunks_burst']:,.0f} in one go."
    )


def budget_lines(run: Run) -> list[str]:
    """Return the figures this project holds itself to. Nobody fails by them: machines differ."""
    lines = []
    for text, key, budget in (
        ("CPU per request", "json", "1/3"),
        ("CPU per chunk", "chunks events", "1/10"),
        ("CPU per chunk in a burst", "chunks burst", "1/10"),
    ):
        found = run.ratio(key, "ours", "groq")
        what = "not measured (groq or this library is missing)" if found is None else f"{found:.3f} of the groq SDK"
        lines.append(f"{text}: {what} (budget {budget})")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = options(argv)
    began, about = time.perf_counter(), machine()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(
        f"Python {about['python']}, {about['system']}, {about['cpus']} CPUs, load {(about['load'] or [0])[0]:.1f}; {versions}\n"
    )
    with running_server() as port, Run(args, port) as run:
        run.measure_all()
        print(report(run))
        if args.json is not None:
            settings = {name: getattr(args, name) for name in ("rounds", "requests", "chunks", "seconds", "imports")}
            data = {"machine": about, "settings": settings, **run.summary(), "slices": run.slices}
            args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
