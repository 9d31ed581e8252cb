"""This project's targets, compared with a run. They are printed, never asserted: machines differ, and so does their load."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import plan
from run import Run

KIB, MIB = 1024, 1024 * 1024


@attrs.frozen
class Target:
    """One target.

    Attributes:
        text: Description of the comparison.
        figure: Function of a run that returns the figure; ``None`` if it was not measured.
        limit: The target.
        then: The next target.
        least: Whether a larger figure is better.
        form: Format of the figure.
    """

    text: str
    figure: Callable[[Run], float | None]
    limit: float
    then: float | None = None
    least: bool = False
    form: str = "{:.2f} x"

    def line(self, run: Run) -> list[str]:
        """Return text, figure, limit, next limit and verdict."""
        figure = self.figure(run)
        sign = ">=" if self.least else "<="
        aims = [f"{sign} {self.form.format(self.limit)}", "" if self.then is None else self.form.format(self.then)]
        if figure is None:
            return [self.text, "-", *aims, "not measured"]
        is_met = figure >= self.limit if self.least else figure <= self.limit
        return [self.text, self.form.format(figure), *aims, "holds" if is_met else "MISSED"]


def _ratio(key: str, base: str) -> Callable[[Run], float | None]:
    return lambda run: run.ratio(key, "ours", base)


def _whole(key: str, base: str) -> Callable[[Run], float | None]:
    return lambda run: run.middle(key, lambda ours, other: ours / other, "ours", base)


def _added(key: str, base: str) -> Callable[[Run], float | None]:
    """Subtract the time of a bare socket: no client can avoid the work of server and kernel."""
    return lambda run: run.middle(
        key, lambda ours, other, raw: (ours - raw) / (other - raw) if other > raw else None, "ours", base, "raw"
    )


def _delay(run: Run) -> float | None:
    found = run.middle("delay", lambda ours, floor: ours - floor, "ours", "floor")
    return None if found is None else found * 1e6


def _imports(run: Run) -> float | None:
    """Return the CPU time of import and construction, divided by that of ``import requests``."""
    ours = run.slices.get("import construct", {}).get("ours")
    base = run.slices.get("import import", {}).get("session")
    if not ours or not base:
        return None
    ratios = sorted(mine / other for mine, other in zip(ours, base, strict=True))
    return ratios[len(ratios) // 2]


def _noise(run: Run) -> float | None:
    return float(sum(map(len, run.quiet.values()))) if run.quiet else None


def _warmed(run: Run) -> float | None:
    found = run.slices.get("cold handshakes", {}).get("ours warm")
    ready = run.slices.get("cold ready", {}).get("ours warm")
    return (
        max(made / opened for made, opened in zip(found, ready, strict=True) if opened)
        if found and any(ready)
        else None
    )


def _scaled(key: str, scale: float = 1.0) -> Callable[[Run], float | None]:
    def figure(run: Run) -> float | None:
        found = run.median(key, "ours")
        return None if found is None else found / scale

    return figure


def _linear(what: str, steps: Callable[..., list[int]]) -> Callable[[Run], float | None]:
    """Return the cost of one more byte or chunk at the large end, divided by that in the middle, and that again by http.client's ratio.

    Data larger than the processor's caches, in memory fresh from the system, costs every client more.
    """

    def growth(run: Run, name: str) -> float | None:
        *_, first, second, last = steps(run.args)
        costs = [run.median(f"{what} {size}", name) for size in (first, second, last)]
        if None in costs:
            return None
        middle, end = (costs[1] - costs[0]) / (second - first), (costs[2] - costs[1]) / (last - second)
        return end / middle if middle > 0 else None

    def figure(run: Run) -> float | None:
        ours, floor = growth(run, "ours"), growth(run, "floor")
        return ours / floor if ours and floor else None

    return figure


TARGETS = (
    Target("JSON request: CPU, of groq", _ratio("json", "groq"), 1 / 3, 1 / 5, form="{:.3f} x"),
    Target("JSON request: CPU, of http.client", _ratio("json", "floor"), 1.4, 1.25),
    Target("streamed chunk: CPU, of groq", _ratio("chunks events", "groq"), 1 / 20, 1 / 30, form="{:.4f} x"),
    Target(
        "streamed chunk that came with others: CPU, of groq",
        _ratio("chunks burst", "groq"),
        1 / 20,
        1 / 30,
        form="{:.4f} x",
    ),
    Target("streamed chunk: CPU", _scaled("chunks events", 1e-6), 8, form="{:.1f} us"),
    Target("64 streams: chunks/s, of groq", _ratio("many", "groq"), 15, least=True, form="{:.1f} x"),
    Target("32 threads: requests/s, of groq", _ratio("rate 32", "groq"), 3.5, 5, least=True),
    Target("32 threads: requests/s, of http.client", _ratio("rate 32", "floor"), 0.86, 1.0, least=True),
    Target("first token, plain: added time, of groq", _added("first", "groq"), 1 / 2),
    Target("first token, plain: added time, of http.client", _added("first", "floor"), 1.6),
    Target("first token, plain: whole time, of http.client", _whole("first", "floor"), 1.2, 0.9),
    Target("first token, TLS: added time, of groq", _added("first tls", "groq"), 1 / 2),
    Target("first token, TLS: added time, of http.client", _added("first tls", "floor"), 1.6),
    Target("first token, TLS: whole time, of http.client", _whole("first tls", "floor"), 1.6),
    Target("event every 2 ms: delay p50 beyond http.client's", _delay, 50, form="{:.0f} us"),
    Target("5 events, then silence: given out", _scaled("held"), 5, least=True, form="{:.0f}"),
    Target("import and provider: CPU, of import requests", _imports, 1.4),
    Target("import and provider: sockets, threads, other files", _noise, 0, form="{:.0f}"),
    Target("new TLS connection: CPU, of requests", _ratio("new", "session"), 1 / 5, form="{:.3f} x"),
    Target("warmed connections: handshakes each", _warmed, 1),
    Target("open stream: memory of the process", _scaled("open rss", KIB), 30, form="{:.1f} KiB"),
    Target("open stream: allocated by Python", _scaled("open traced", KIB), 30, form="{:.1f} KiB"),
    # A leak of one object per call would be 50,000 blocks in the second half, of one per hundred streams 50.
    Target("growth, second half of all calls: memory", _scaled("growth rss_second_half", MIB), 1, form="{:.2f} MiB"),
    Target("growth, second half of all calls: blocks", _scaled("growth blocks_second_half"), 50, form="{:.0f}"),
    Target("answers: growth of cost per byte, of http.client's", _linear("answer", plan.sizes), 1.5),
    Target("prompts: growth of cost per byte, of http.client's", _linear("prompt", plan.sizes), 1.5),
    Target("streams: growth of cost per chunk, of http.client's", _linear("stream", plan.lengths), 1.5),
)


def lines(run: Run) -> list[list[str]]:
    """Return the lines of the targets that the run has measured."""
    return [target.line(run) for target in TARGETS]
