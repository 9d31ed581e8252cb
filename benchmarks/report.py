"""Prints a run's figures as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plan
import targets
from contenders import CONTENDERS, EVERY
from run import COLD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from run import Run

US, MS, KIB = 1e6, 1e3, 1 / 1024


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; nothing without rows."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([title, line(header), line(["-" * width for width in widths]), *(line(row) for row in rows), ""])


def figure(value: float | None, scale: float = 1.0, form: str = ",.0f", unit: str = "") -> str:
    """Return a number for a cell."""
    return "-" if value is None else f"{value * scale:{form}}{unit}"


class Report:
    """The report of a run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def text(self) -> str:
        """Return the whole report."""
        parts = [
            self._requests(), self._chunks(), *(self._first(secure=secure) for secure in (False, True)), self._rates(),
            self._many(), self._delay(), self._new(), self._cold(), self._imports(), self._open(), self._growth(),
            self._parts(), *self._sizes(), self._threads(), self._targets(), self._ceiling(),
            *(f"note: {note}" for note in self.run.notes), "", *self._budgets(),
        ]  # fmt: skip
        return "\n".join(part for part in parts if part or part == "")

    def _having(self, key: str) -> list[str]:
        found = self.run.slices.get(key, {})
        return [name for name in EVERY if name in found]

    def _ratios(self, key: str, name: str) -> list[str]:
        return [figure(self.run.ratio(key, name, base), form=".2f", unit="x") for base in ("floor", "groq")]

    def _requests(self) -> str:
        run = self.run
        rows = [
            [CONTENDERS[n].title, figure(run.median("json", n), US), *self._ratios("json", n),
             figure(run.median("json wall", n), US)]
            for n in self._having("json")
        ]  # fmt: skip
        header = ["one thread, plain answer", "CPU us/request", "of floor", "of groq", "wall us"]
        return table("Plain requests: client CPU (median of slices)", header, rows)

    def _chunks(self) -> str:
        header, names = ["CPU us/chunk"], self._having("chunks events")
        rows = [[CONTENDERS[n].title] for n in names]
        for kind in plan.STREAMS:
            key = f"chunks {kind}"
            header += [kind, "of floor", "of groq"]
            for row, name in zip(rows, names, strict=True):
                floor, _ = self._ratios(key, name)
                of_groq = figure(self.run.ratio(key, name, "groq"), form=".3f", unit="x")
                row += [figure(self.run.median(key, name), US, ",.1f"), floor, of_groq]
        return table("Streams: client CPU per chunk, the cost of a one-chunk stream taken off", header, rows)

    def _first(self, *, secure: bool) -> str:
        run, key, rows = self.run, "first tls" if secure else "first", []
        for name in self._having(key):
            p50, p99 = (figure(run.percentile(key, name, percent), US) for percent in (50, 99))
            row = [EVERY[name].title, p50, p99]
            row += [
                figure(run.middle(key, lambda a, b: a / b, name, base), form=".2f", unit="x")
                for base in ("floor", "groq")
            ]
            for base in ("floor", "groq"):
                added = run.middle(key, lambda a, b, raw: (a - raw) / (b - raw) if b > raw else None, name, base, "raw")
                row.append("" if name == "raw" else figure(added, form=".2f", unit="x"))
            rows.append(row)
        header = ["kept connection", "p50 us", "p99 us", "of floor", "of groq", "added, of floor", "of groq"]
        title = (
            f"Time to first token {'over TLS' if secure else 'over plain HTTP'}: wall, from the call to the first text"
        )
        return table(f"{title}; added: less a bare socket's", header, rows)

    def _rates(self) -> str:
        rows = []
        for name in self._having("rate 1"):
            row = [CONTENDERS[name].title]
            for threads in (1, 32, 256):
                key = f"rate {threads}"
                row += [figure(self.run.median(key, name)), *self._ratios(key, name)]
                row.append(figure(self.run.median(f"{key} cpu", name), US))
            rows.append(row)
        header = ["plain requests per second"]
        for text in ("1 thread", "32 threads", "256 threads"):
            header += [text, "of floor", "of groq", "CPU us"]
        return table("Throughput: threads that share one client", header, rows)

    def _many(self) -> str:
        rows = [
            [CONTENDERS[n].title, figure(self.run.median("many", n)), *self._ratios("many", n),
             figure(self.run.median("many cpu", n), US, ",.1f")]
            for n in self._having("many")
        ]  # fmt: skip
        return table("64 streams at once, a thread each", ["", "chunks/s", "of floor", "of groq", "CPU us/chunk"], rows)

    def _delay(self) -> str:
        run, rows = self.run, []
        for name in self._having("delay"):
            row = [EVERY[name].title, *(figure(run.percentile("delay", name, percent), US) for percent in (50, 99))]
            row.append(figure(run.middle("delay", lambda a, b: a - b, name, "floor"), US, "+,.0f"))
            row.append(figure(run.median("held", name)))
            rows.append(row)
        header = ["", "p50 us", "p99 us", "p50 beyond floor", "of 5 given out"]
        return table("An event every 2 ms: from the server's stamp to the text; 5 events, then silence", header, rows)

    def _new(self) -> str:
        run = self.run
        rows = [
            [
                CONTENDERS[name].title, figure(run.median("new", name), MS, ".2f"), figure(run.median("new wall", name), MS, ".2f"),
                figure(run.ratio("new", name, "session"), form=".3f", unit="x"), self._ratios("new", name)[0],
            ]
            for name in self._having("new")
        ]  # fmt: skip
        header = ["", "CPU ms", "wall ms", "of requests", "of floor"]
        return table("A plain request on a new TLS connection, trusting certifi's certificates", header, rows)

    def _cold(self) -> str:
        rows = []
        for label, found in self.run.cold.items():
            title = "groq_provider, warm_up(50)" if label == "ours warm" else CONTENDERS[label].title
            warm = figure(found["warm_up"], MS) if found["ready"] else ""
            rows.append([title, figure(found["wall"], MS), figure(found["cpu"], MS), warm, figure(found["handshakes"])])
        header = ["fresh process", "all answered ms", "CPU ms", "client + warming ms", "handshakes"]
        return table(f"Cold start: a new client, {COLD} calls at once over TLS, answers after 30 ms", header, rows)

    def _imports(self) -> str:
        imports, rows = self.run.imports, []
        base = imports.get("session", {}).get("import")
        for name, found in imports.items():
            rows.append([
                CONTENDERS[name].title, *(figure(found[k], MS) for k in ("import", "construct", "first_answer")),
                figure(found["construct"] / base if base else None, form=".2f", unit="x"),
                *(figure(found[k]) for k in ("modules_import", "modules_construct", "modules_first_answer")),
                *(figure(found[k], KIB / 1024, ".1f") for k in ("rss_import", "rss_construct")),
            ])  # fmt: skip
        header = [
            "CPU ms since start",
            "import",
            "+ client",
            "+ 1st answer",
            "of import requests",
            "modules",
            "+ client",
        ]
        text = table(
            "Fresh interpreters: the bare interpreter taken off; the ratio is of import + client",
            [*header, "+ 1st answer", "MiB", "+ client"],
            rows,
        )
        for what, found in self.run.quiet.items():
            text += f"{what} at import and construction of this library: {', '.join(map(str, found)) or 'none'}\n"
        return text

    def _open(self) -> str:
        rows = [
            [
                CONTENDERS[n].title,
                *(figure(self.run.median(f"open {key}", n), KIB, ",.1f") for key in ("rss", "traced")),
            ]
            for n in self._having("open rss")
        ]
        title = f"Memory per open stream, {self.run.args.streams} open"
        return table(title, ["KiB", "of the process", "by Python (tracemalloc)"], rows)

    def _growth(self) -> str:
        run = self.run
        if not self._having("growth rss"):
            return ""
        found = {
            key: run.median(f"growth {key}", "ours")
            for key in ("rss", "rss_second_half", "blocks", "blocks_second_half")
        }
        return (
            f"Growth of this library's process over {run.args.calls:,} calls, a tenth of them streams: "
            f"{found['rss'] * KIB:,.0f} KiB, {found['blocks']:,.0f} blocks; in the second half "
            f"{found['rss_second_half'] * KIB:,.0f} KiB, {found['blocks_second_half']:,.0f} blocks.\n"
        )

    def _parts(self) -> str:
        texts = (
            ("limiter", "limiter: reserve, settle"),
            ("limiter learning", "limiter: reserve, headers, settle"),
            ("tracker", "latency tracker: record"),
        )
        whole = self.run.median("json", "ours")
        rows = []
        for key, text in texts:
            found = self.run.median(key, "ours")
            if found is not None:
                share = figure(found / whole if whole else None, 100, ".1f", " %")
                rows.append([text, figure(found, US, ",.2f"), share])
        return table("This library's parts alone", ["", "CPU us", "of a request"], rows)

    def _sizes(self) -> list[str]:
        found = []
        for what, unit, steps in (
            ("answer", 1000, plan.sizes),
            ("prompt", 1000, plan.sizes),
            ("stream", 1, plan.lengths),
        ):
            names = [
                name for name in plan.PAIR if self.run.slices.get(f"{what} {steps(self.run.args)[0]}", {}).get(name)
            ]
            per = "chunk" if what == "stream" else "KB"
            rows = []
            for size in steps(self.run.args) if names else ():
                row = [f"{size:,} chunks" if unit == 1 else f"{size // 1000:,} KB"]
                for name in names:
                    cost = self.run.median(f"{what} {size}", name)
                    row += [
                        figure(cost, MS, ",.2f"),
                        figure(None if cost is None else cost / (size / unit), US, ",.2f"),
                    ]
                found_ratio = self.run.ratio(f"{what} {size}", "ours", "floor")
                rows.append([*row, figure(found_ratio, form=".2f", unit="x")])
            header = [f"{what}s of"]
            for name in names:
                header += [CONTENDERS[name].title + ": ms", f"us/{per}"]
            found.append(table(f"Cost growth: {what}s (CPU)", [*header, "of floor"], rows))
        return found

    def _threads(self) -> str:
        rows = []
        for count in plan.threads(self.run.args):
            row = [f"{count:,}"]
            for name in plan.PAIR:
                row += [
                    figure(self.run.median(f"rate {count}", name)),
                    figure(self.run.median(f"rate {count} cpu", name), US),
                ]
            rows.append([*row, figure(self.run.ratio(f"rate {count} cpu", "ours", "floor"), form=".2f", unit="x")])
        header = ["threads"]
        for name in plan.PAIR:
            header += [CONTENDERS[name].title + ": requests/s", "CPU us"]
        return table("Cost growth: threads", [*header, "CPU of floor"], rows if self._having("rate 1") else [])

    def _targets(self) -> str:
        header = ["this library, in this run", "found", "target", "then", ""]
        return table("Targets", header, targets.lines(self.run))

    def _ceiling(self) -> str:
        c = self.run.ceiling
        return (
            f"Server's own ceiling, measured with bare sockets: {c['rate_1']:,.0f} requests/s on one connection, "
            f"{c['rate_32']:,.0f} on 32; {c['chunks_events']:,.0f} chunks/s sent one by one, {c['chunks_burst']:,.0f} in one go, "
            f"{c['chunks_64']:,.0f} over 64 streams. It uses {c['cpu_request'] * US:.0f} us of CPU per request, "
            f"{c['cpu_chunk'] * US:.1f} us per chunk of 64 streams."
        )

    def _budgets(self) -> list[str]:
        """Return the figures of the older budgets. They are printed only, since machines differ."""
        found: list[str] = []
        for text, key, budget in (
            ("CPU per request", "json", "1/3"),
            ("CPU per chunk", "chunks events", "1/10"),
            ("CPU per chunk in a burst", "chunks burst", "1/10"),
        ):
            ratio: Any = self.run.ratio(key, "ours", "groq")
            what = "not measured (groq or this library is missing)" if ratio is None else f"{ratio:.3f} of the groq SDK"
            found.append(f"{text}: {what} (budget {budget})")
        return found
