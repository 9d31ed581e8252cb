"""Draw compare.svg from the figures of ``compare.py --json FILE``.

python benchmarks/plot.py FILE [--out benchmarks/compare.svg]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {
    "ours": "groq_provider",
    "groq": "groq SDK",
    "openai": "openai SDK",
    "session": "requests",
    "floor": "http.client + json",
}
_WIDTH, _MARGIN, _GAP, _LABEL, _ROW, _TITLE = 860, 16, 28, 118, 19, 30
_STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.quiet { fill: #59636e }
.ours { fill: #0969da } .other { fill: #afb8c1 } .floor { fill: #d8dee4 }
.mine { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .quiet { fill: #9198a1 }
  .ours { fill: #4493f8 } .other { fill: #656c76 } .floor { fill: #3d444d }
}
"""


def _median(key: str) -> Callable[[dict[str, Any], str], float | None]:
    return lambda data, name: data["contenders"].get(name, {}).get(key, {}).get("median")


def _first(data: dict[str, Any], name: str) -> float | None:
    return data["contenders"].get(name, {}).get("first", {}).get("p50")


def _construct(data: dict[str, Any], name: str) -> float | None:
    return data["imports"].get(name, {}).get("construct")


#: Title, function that takes the figure from the file, scale, and format.
PANELS: tuple[tuple[str, Callable[[dict[str, Any], str], float | None], float, str], ...] = (
    ("CPU per request, µs (less is better)", _median("json"), 1e6, "{:,.0f}"),
    ("CPU per streamed chunk, µs (less is better)", _median("chunks events"), 1e6, "{:,.1f}"),
    ("Time to first token, µs, median (less is better)", _first, 1e6, "{:,.0f}"),
    ("Import and client, CPU ms (less is better)", _construct, 1e3, "{:,.0f}"),
    ("Requests per second, 32 threads (more is better)", _median("rate 32"), 1, "{:,.0f}"),
    ("Chunks per second, 64 streams (more is better)", _median("many"), 1, "{:,.0f}"),
)


def _panel(data: dict[str, Any], panel: tuple[Any, ...], left: float, top: float, width: float) -> list[str]:
    title, take, scale, form = panel
    figures = {name: found * scale for name in NAMES if (found := take(data, name)) is not None}
    parts = [f'<text class="title" x="{left}" y="{top + 14}">{escape(title)}</text>']
    if not figures:
        return [*parts, f'<text class="quiet" x="{left}" y="{top + 36}">not measured</text>']
    room, most = width - _LABEL - 108, max(figures.values())
    for number, (name, value) in enumerate(figures.items()):
        y = top + _TITLE + number * _ROW
        length = max(1.0, room * value / most)
        kind = {"ours": "ours", "floor": "floor"}.get(name, "other")
        mine = ' class="mine"' if name == "ours" else ""
        text = form.format(value)
        if name != "groq" and figures.get("groq"):
            text += f'<tspan class="quiet"> · {_ratio(value / figures["groq"])} of groq</tspan>'
        parts += [
            f'<text{mine} x="{left + _LABEL - 6}" y="{y + 10}" text-anchor="end">{escape(NAMES[name])}</text>',
            f'<rect class="{kind}" x="{left + _LABEL}" y="{y}" width="{length:.1f}" height="13" rx="2"/>',
            f'<text x="{left + _LABEL + length + 5:.1f}" y="{y + 10}">{text}</text>',
        ]
    return parts


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def draw(data: dict[str, Any]) -> str:
    """Return the picture."""
    width = (_WIDTH - 2 * _MARGIN - _GAP) / 2
    height_of = _TITLE + len(NAMES) * _ROW + 20
    parts: list[str] = []
    for number, panel in enumerate(PANELS):
        left, top = _MARGIN + number % 2 * (width + _GAP), _MARGIN + number // 2 * height_of
        parts += _panel(data, panel, left, top, width)
    height = _MARGIN + (len(PANELS) + 1) // 2 * height_of + 14
    machine = data["machine"]
    versions = machine["versions"]
    note = f"Python {machine['python']}, {machine['cpus']} CPUs, one run; " + ", ".join(
        f"{name} {versions[name]}" for name in ("groq", "openai", "requests") if name in versions
    )
    parts.append(f'<text class="quiet" x="{_MARGIN}" y="{height - 8}">{escape(note)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-label="groq_provider beside other clients">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="what compare.py --json wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "compare.svg")
    args = parser.parse_args()
    args.out.write_text(draw(json.loads(args.file.read_text("utf-8"))), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
