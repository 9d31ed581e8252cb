"""Draw 64 threads against a service with limits, with the rate limiter and without: ``benchmarks/limiter.svg``.

    python benchmarks/limiter_picture.py [--out FILE]

It simulates ten minutes on a virtual clock, through the whole call path: 64 threads call a model of the service
(``tests/support/simulation.py``) that enforces 60,000 tokens per minute, each again as soon as it has its answer. It takes a few seconds
and draws the same picture every time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from support.simulation import SECOND, Simulation, WorkDay, percentile  # noqa: E402 - found by the path above

from groq_provider import RateLimits, TokenBucketRateLimiter  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TPM, MINUTES, STEP = 60_000, 10, 4.0


class _Free:
    """A reservation that is not counted."""

    wait, arrival = 0.0, 1

    def settle(self, usage: Any) -> None: ...
    def refund(self, *, keep_request: bool = False) -> None: ...
    def keep(self) -> None: ...
    def feedback(self, info: Any, limited: Any = None) -> None: ...


class NoLimiter:
    """Admits every request at once, as a client without a limiter; a refused one is retried when the service says."""

    def reserve(self, _model: str, **_: Any) -> _Free:
        return _Free()


class Side:
    """One run; its times are in seconds from its start."""

    def __init__(self, make: Callable[[Simulation], Any]) -> None:
        simulation = Simulation(7)
        run = WorkDay(make(simulation), simulation, {"tpm": TPM}, minutes=MINUTES, stubborn=True)
        seconds = [index * STEP for index in range(int(MINUTES * 60 / STEP) + 1)]
        used = [((each.at - run.begun) / SECOND, each.units) for each in run.service.used]
        refused = [((at - run.begun) / SECOND, 1) for at in run.service.refused]
        self.used = list(zip(seconds, sums(used, seconds), strict=True))
        self.refused = list(zip(seconds, sums(refused, seconds), strict=True))
        self.answered = len(run.took)
        self.usual, self.longest = percentile(run.took, 0.5), percentile(run.took, 0.99)


def sums(events: Iterable[tuple[float, int]], seconds: list[float]) -> list[int]:
    """Return the cumulative sum at each time."""
    points, total = [], 0
    waiting = iter(sorted(events))
    event = next(waiting, None)
    for second in seconds:
        while event is not None and event[0] <= second:
            total += event[1]
            event = next(waiting, None)
        points.append(total)
    return points


class Panel:
    """A chart of one quantity over the minutes."""

    WIDTH, HEIGHT = 330, 220

    def __init__(self, left: int, top: int, most: int, every: int) -> None:
        self._left, self._top, self._most = left, top, most
        self.parts: list[str] = []
        for value in range(0, most + 1, every):
            y = self._y(value)
            self.parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + self.WIDTH}" y2="{y:.1f}"/>')
            self.parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>')
        for minute in range(0, MINUTES + 1, 2):
            x = self._x(minute * 60)
            label = f"{minute}" if minute < MINUTES else f"{minute} min"
            self.parts.append(
                f'<text class="tick" x="{x:.1f}" y="{top + self.HEIGHT + 18}" text-anchor="middle">{label}</text>'
            )

    def _x(self, second: float) -> float:
        return self._left + second / (MINUTES * 60) * self.WIDTH

    def _y(self, value: float) -> float:
        return self._top + self.HEIGHT - value / self._most * self.HEIGHT

    def line(self, kind: str, points: list[tuple[float, int]]) -> None:
        # Of a straight part keep only the ends.
        kept = [points[0]]
        for (_, before), point, (_, after) in zip(points, points[1:], points[2:], strict=False):
            if point[1] - before != after - point[1]:
                kept.append(point)
        kept.append(points[-1])
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in kept)
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def note(self, kind: str, second: float, value: float, text: str, anchor: str = "start") -> None:
        self.parts.append(
            f'<text class="note {kind}" x="{self._x(second):.1f}" y="{self._y(value):.1f}" text-anchor="{anchor}">{text}</text>'
        )


STYLE = """
    text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .head { font-size: 14px; font-weight: 600 }
    .tick { font-size: 11px; fill: #59636e } .grid { stroke: #d1d9e0; stroke-width: 1 }
    polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round }
    .ground { fill: #ffffff } polyline.quota { stroke: #59636e; stroke-dasharray: 5 4; stroke-width: 1.5 }
    polyline.with { stroke: #0969da } polyline.without { stroke: #cf4a0a }
    .note { font-size: 12px } .note.with { fill: #0969da } .note.without { fill: #cf4a0a } .note.quota { fill: #59636e }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .tick, .note.quota { fill: #9198a1 } .grid { stroke: #30363d } .ground { fill: #0d1117 }
      polyline.quota { stroke: #9198a1 } polyline.with { stroke: #4493f8 } polyline.without { stroke: #f0883e }
      .note.with { fill: #4493f8 } .note.without { fill: #f0883e }
    }
"""


def refusals(side: Side) -> str:
    count = side.refused[-1][1]
    return f"{count / side.answered:.0f} refusals per answer" if count else "no refusals"


def durations(side: Side) -> str:
    return f"half of the calls took at most {side.usual:,.0f} s, 99 % at most {side.longest:,.0f} s"


def draw(with_limiter: Side, without: Side) -> str:
    """Return the picture as SVG text."""
    quota = [(second, TPM + TPM * second / 60) for second in (0.0, MINUTES * 30.0, MINUTES * 60.0)]
    tokens = Panel(80, 92, 700_000, 100_000)
    tokens.line("quota", [(second, int(value)) for second, value in quota])
    tokens.line("without", without.used)
    tokens.line("with", with_limiter.used)
    tokens.note("quota", 270, 440_000, "what the limit allows", "end")
    tokens.note("with", 330, 240_000, f"with: {with_limiter.used[-1][1] / quota[-1][1]:.1%} of it used")
    tokens.note("without", 330, 140_000, f"without: {without.used[-1][1] / quota[-1][1]:.1%}")
    every = max(10 ** (len(str(without.refused[-1][1])) - 1) // 2, 10)
    most = -(-without.refused[-1][1] // every) * every
    refused = Panel(500, 92, most, every)
    refused.line("without", without.refused)
    refused.line("with", with_limiter.refused)
    refused.note("without", 540, most - every * 0.6, f"without: {without.refused[-1][1]:,}", "end")
    refused.note("with", 560, most * 0.04, f"with: {with_limiter.refused[-1][1]:,}", "end")
    rows = {
        "with": f"with the limiter: {refusals(with_limiter)}; {durations(with_limiter)}",
        "without": f"without, retrying when the service says: {refusals(without)}; {durations(without)}",
    }
    body = [
        '<text class="title" x="20" y="30">64 threads, a limit of 60,000 tokens per minute</text>',
        '<text class="head" x="80" y="68">Tokens used</text><text class="head" x="500" y="68">Requests refused (429)</text>',
        *tokens.parts,
        *refused.parts,
        *(
            f'<text class="note {kind}" x="20" y="{356 + 20 * i}">{row}</text>'
            for i, (kind, row) in enumerate(rows.items())
        ),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 390" role="img" aria-label="Tokens used and requests refused over ten '
        f'minutes, with and without the rate limiter">\n  <style>{STYLE}  </style>\n'
        '  <rect class="ground" width="860" height="390" rx="6"/>\n  ' + "\n  ".join(body) + "\n</svg>\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "limiter.svg", help="where to write it")
    options = parser.parse_args()
    with_limiter = Side(lambda clock: TokenBucketRateLimiter(RateLimits(tpm=TPM), clock=clock))
    without = Side(lambda _: NoLimiter())
    options.out.write_text(draw(with_limiter, without), "utf-8")
    for name, side in (("with", with_limiter), ("without", without)):
        print(
            f"{name}: {side.used[-1][1]:,} tokens, {side.refused[-1][1]:,} refused, {side.answered:,} answers, "
            f"p50 {side.usual:.0f} s, p99 {side.longest:.0f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
