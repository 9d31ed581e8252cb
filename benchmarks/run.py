"""Makes one run: lets contenders take turns, keeps every slice, computes medians and ratios."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

import ceiling
import plan
from contenders import CONTENDERS, EVERY, missing
from processes import Child, fresh_interpreters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from processes import ServerProcess

#: Calls made at once in a cold start.
COLD = 50


class Run:
    """The figures of a run, by measure and contender, slice by slice.

    Attributes:
        slices: ``{measure: {contender: [figure of round 1, …]}}``; figures at the same position belong to the same round.
        notes: The contenders and measures that were skipped, and why.
    """

    def __init__(self, args: argparse.Namespace, server: ServerProcess) -> None:
        self.args = args
        self.server = server
        self.slices: dict[str, dict[str, list[Any]]] = {}
        self.imports: dict[str, dict[str, float]] = {}
        self.quiet: dict[str, list[str]] = {}
        self.cold: dict[str, dict[str, float]] = {}
        self.ceiling: dict[str, float] = {}
        self.notes: list[str] = []
        self._names = list(args.names)
        self._children: dict[tuple[str, bool], Child] = {}

    def __enter__(self) -> Run:
        for name in list(self._names):
            if lacking := missing(name):
                self._skip(name, f"not installed: {', '.join(lacking)}")
        self._start([*self._names, "raw"], secure=False)
        if self.server.secure is None:
            self.notes.append("nothing measured over TLS: the trustme package is not installed")
        return self

    def __exit__(self, *_exc: object) -> None:
        for child in self._children.values():
            child.close()

    def _start(self, names: Sequence[str], *, secure: bool) -> None:
        where = self.server.secure if secure else self.server.plain
        begun = {
            name: Child(name, where) for name in names if where is not None and (name, secure) not in self._children
        }
        for name, child in begun.items():
            if child.ready():
                self._children[name, secure] = child
            else:
                child.close()
                self._skip(name, f"did not start{' over TLS' if secure else ''}, see above")

    def _skip(self, name: str, why: str) -> None:
        self.notes.append(f"{EVERY[name].title} skipped: {why}")
        if name in self._names:
            self._names.remove(name)
        for found in self.slices.values():
            found.pop(name, None)
        for secure in (False, True):
            if child := self._children.pop((name, secure), None):
                child.close()

    @property
    def names(self) -> list[str]:
        """Contenders that take part."""
        return list(self._names)

    # --- measuring ---------------------------------------------------------------------------------------------------------

    def measure_all(self) -> None:
        """Take every measure."""
        self.ceiling = ceiling.measure(self.server, seconds=self.args.seconds)
        for measure in plan.measures(self.args):
            self._rounds(measure)
        if "imports" in self.args.measures:
            self._measure_imports()
        if "cold" in self.args.measures and self.server.secure is not None:
            self._measure_cold()

    def _rounds(self, measure: plan.Measure) -> None:
        """Have the contenders measure a slice in turn, beginning with another one each round; the first round only warms up."""
        if measure.secure and self.server.secure is None:
            return
        names = [name for name in measure.names if name in self._names or name == "raw"]
        _say(f"{', '.join(measure.keep)} …")
        if measure.secure:
            self._start(names, secure=True)
        for number in range(0 if measure.fresh else -1, measure.rounds):
            start = number % max(len(names), 1)
            for name in [*names[start:], *names[:start]]:
                if name not in self._names and name != "raw":
                    continue
                try:
                    found = self._slice(measure, name)
                except (RuntimeError, OSError) as problem:
                    # Go on with the others, and keep the earlier slices of this one.
                    self.notes.append(f"{EVERY[name].title}, {', '.join(measure.keep)}: {problem}")
                    names = [other for other in names if other != name]
                    continue
                if number >= 0 and found:
                    for key, figure in measure.keep.items():
                        self.slices.setdefault(key, {}).setdefault(name, []).append(found[figure])

    def _slice(self, measure: plan.Measure, name: str) -> dict[str, Any] | None:
        if measure.fresh:
            child = Child(name, self.server.plain)
            try:
                return child.ask(measure.function, **measure.arguments) if child.ready() else None
            finally:
                child.close()
        known = self._children.get((name, measure.secure))
        return None if known is None else known.ask(measure.function, **measure.arguments)

    def _measure_imports(self) -> None:
        """Import, build and answer once in fresh interpreters, in turn; the first round only fills the caches."""
        _say("imports …")
        names = [name for name in self.names if name in plan.KEPT]
        with fresh_interpreters() as fresh:
            for number in range(-1, self.args.imports):
                for name in names:
                    marks = fresh("import", name, self.server.plain.port)
                    if number >= 0:
                        self._keep_import(name, marks)
            if "ours" in names:
                self.quiet = fresh("quiet")
        for name in names:
            self.imports[name] = {
                key.removeprefix("import "): self.median(key, name)
                for key in self.slices
                if key.startswith("import ") and name in self.slices[key]
            }

    def _keep_import(self, name: str, marks: list[list[float]]) -> None:
        def step(end: int, field: int) -> float:
            found = marks[min(end, 2)][field] - marks[0][field]
            # The benchmark's own work between steps 2 and 3 does not count.
            return found + (marks[4][field] - marks[3][field] if end > 2 else 0)

        figures = {
            "import": step(1, 0), "construct": step(2, 0), "first_answer": step(4, 0), "import_wall": step(1, 1),
            "construct_wall": step(2, 1), "modules_import": step(1, 2), "modules_construct": step(2, 2),
            "modules_first_answer": step(4, 2), "rss_import": step(1, 3), "rss_construct": step(2, 3),
        }  # fmt: skip
        for key, figure in figures.items():
            self.slices.setdefault(f"import {key}", {}).setdefault(name, []).append(figure)

    def _measure_cold(self) -> None:
        """Make the first calls all at once, in fresh interpreters, in turn; count the handshakes."""
        _say("cold start …")
        secure, count = self.server.secure, COLD
        kinds = [(name, name, 0) for name in self.names if name in plan.KEPT]
        kinds += [("ours warm", "ours", count)] if "ours" in self.names else []
        failed: set[str] = set()
        for number in range(self.args.rounds // 4 + 1):
            start = number % max(len(kinds), 1)
            for label, name, warm in [*kinds[start:], *kinds[:start]]:
                if label in failed:
                    continue
                before = self.server.stats()["handshakes"]
                with fresh_interpreters() as fresh:
                    found = fresh("cold", name, secure.port, secure.ca, count, warm)
                found["handshakes"] = self.server.stats()["handshakes"] - before
                if "error" in found:
                    failed.add(label)
                    self.notes.append(f"cold start, {label}: {found['error']}")
                    continue
                for key, figure in found.items():
                    self.slices.setdefault(f"cold {key}", {}).setdefault(label, []).append(figure)
        self.cold = {
            label: {key[5:]: self.median(key, label) for key in self.slices if key.startswith("cold ")}
            for label, _, _ in kinds
            if label not in failed
        }

    # --- figures -----------------------------------------------------------------------------------------------------------

    def median(self, key: str, name: str) -> float | None:
        """Return the median of a contender's slices."""
        found = self.slices.get(key, {}).get(name)
        return statistics.median(found) if found else None

    def ratio(self, key: str, name: str, base: str) -> float | None:
        """Return the median over the rounds of a contender's figure by that of *base* in the same round."""
        found = self.slices.get(key, {})
        ratios = [mine / other for mine, other in zip(found.get(name, ()), found.get(base, ()), strict=False) if other]
        return statistics.median(ratios) if ratios else None

    def percentile(self, key: str, name: str, percent: int) -> float | None:
        """Return a percentile over all values of a contender, whose slices are lists here."""
        found = sorted(value for one in self.slices.get(key, {}).get(name, ()) for value in one)
        return percentile(found, percent) if found else None

    def middle(self, key: str, combine: Any, *names: str) -> float | None:
        """Return the median over the rounds of *combine*, applied to the contenders' medians of one round; slices are lists here."""
        found = self.slices.get(key, {})
        if not all(found.get(name) for name in names):
            return None
        rounds = zip(*([statistics.median(one) for one in found[name]] for name in names), strict=False)
        values = [value for each in rounds if (value := combine(*each)) is not None]
        return statistics.median(values) if values else None

    def summary(self) -> dict[str, Any]:
        """Return medians and ratios as plain data."""
        lists = [key for key in self.slices if key.startswith(("first", "delay"))]
        table: dict[str, dict[str, Any]] = {}
        for name in [*self.names, "raw"]:
            table[name] = {
                key: {
                    "median": self.median(key, name),
                    "of_floor": self.ratio(key, name, "floor"),
                    "of_groq": self.ratio(key, name, "groq"),
                }
                for key in self.slices
                if name in self.slices[key] and key not in lists and not key.startswith(("import", "cold"))
            }
            for key in lists:
                if name in self.slices[key]:
                    table[name][key] = {f"p{p}": self.percentile(key, name, p) for p in (50, 99)}
        return {
            "titles": {name: CONTENDERS[name].title for name in self.names},
            "contenders": table,
            "imports": self.imports,
            "quiet": self.quiet,
            "cold": self.cold,
            "ceiling": self.ceiling,
            "notes": self.notes,
        }


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the value that *percent* of an ordered sequence do not exceed."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
