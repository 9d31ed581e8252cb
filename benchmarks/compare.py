"""Compare this library with the official SDKs, plain requests and a bare ``http.client`` loop.

    python benchmarks/compare.py [--quick] [--json FILE] [--only NAME…] [--measures NAME…]

Every contender runs in a process of its own. In each round each contender measures one slice in turn, so that other load on the machine
affects all alike. You should read ratios, not microseconds; README.md says how.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contenders import CONTENDERS
from plan import GROUPS
from processes import running_server
from report import Report
from run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter slices, nothing very large: about a minute"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every slice and the summary as JSON")
    parser.add_argument("--only", metavar="NAME", nargs="+", help=f"some of {','.join(CONTENDERS)}")
    parser.add_argument("--measures", metavar="NAME", nargs="+", help=f"some of {','.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, help="slices of each contender (11; quick 4)")
    parser.add_argument("--requests", type=int, help="plain requests per slice (40; quick 25)")
    parser.add_argument("--chunks", type=int, help="chunks per stream (1500; quick 600)")
    parser.add_argument("--seconds", type=float, help="length of a slice of requests per second (0.6; quick 0.3)")
    parser.add_argument("--imports", type=int, help="fresh interpreters per contender (9; quick 3)")
    parser.add_argument("--calls", type=int, help="calls of the search for growth (100,000; quick 1,000 a round)")
    parser.add_argument("--streams", type=int, help="open streams (500; quick 50 a round)")
    parsed = parser.parse_args(argv)
    usual = {
        "rounds": 11,
        "requests": 40,
        "chunks": 1500,
        "seconds": 0.6,
        "imports": 9,
        "calls": 100_000,
        "streams": 500,
    }
    if parsed.quick:
        rounds = parsed.rounds or 4
        usual = {"rounds": 4, "requests": 25, "chunks": 600, "seconds": 0.3, "imports": 3}
        usual |= {"calls": 1_000 * rounds, "streams": 50 * rounds}
    for name, value in usual.items():
        if getattr(parsed, name) is None:
            setattr(parsed, name, value)
        elif getattr(parsed, name) <= 0:
            parser.error(f"--{name} must be above 0")
    parsed.names = _chosen(parser, "--only", parsed.only, list(CONTENDERS))
    parsed.measures = _chosen(parser, "--measures", parsed.measures, list(GROUPS))
    return parsed


def _chosen(parser: argparse.ArgumentParser, option: str, given: list[str] | None, known: list[str]) -> list[str]:
    if given is None:
        return known
    names = [name for part in given for name in part.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{option}: unknown {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def machine() -> dict[str, Any]:
    """Return the versions and the machine, on which the figures depend besides the code."""
    versions = {}
    for package in ("groq", "openai", "requests", "urllib3", "httpx", "attrs", "cattrs", "orjson"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = options(argv)
    began, about = time.perf_counter(), machine()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    load = (about["load"] or [0])[0]
    print(f"Python {about['python']}, {about['system']}, {about['cpus']} CPUs, load {load:.1f}; {versions}\n")
    with running_server() as server, Run(args, server) as run:
        run.measure_all()
        print(Report(run).text())
        if args.json is not None:
            names = ("rounds", "requests", "chunks", "seconds", "imports", "calls", "streams")
            settings = {name: getattr(args, name) for name in names}
            data = {"machine": about, "settings": settings, **run.summary(), "slices": run.slices}
            args.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
