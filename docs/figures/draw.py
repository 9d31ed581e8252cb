"""Draw the figures of the site: ``call.svg``, ``buckets.svg`` and ``throttled.svg``.

    python docs/figures/draw.py [--out FOLDER]

``call.svg`` is a scheme. The other two show data that this script makes: ``buckets.svg`` the limiter's own figures on a clock that is set,
``throttled.svg`` a run of ``tests/support/simulation.py``: 64 threads on a virtual clock against a service with limits. The same code
draws the same pictures.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from support.fakes import FakeTracker  # noqa: E402 - the path is set above
from support.simulation import Service, SimulatedTransport, Simulation  # noqa: E402

from groq_provider import LLMRequest, RateLimits, RetryPolicy, Timeouts, TokenBucketRateLimiter, Usage  # noqa: E402
from groq_provider.call.caller import Caller  # noqa: E402
from groq_provider.call.runtime import CallOptions  # noqa: E402
from groq_provider.testing import FakeClock  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STYLE = """
    text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .head { font-size: 13px; font-weight: 600 } .small { font-size: 11px; fill: #59636e }
    .code { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 11.5px }
    .ground { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 } .axis { stroke: #59636e; stroke-width: 1 }
    .box { fill: #ddf4ff; stroke: #0969da } .wait { fill: #fff1e5; stroke: #cf4a0a } .plain { fill: #f6f8fa; stroke: #8c959f }
    .blue { fill: #0969da } .orange { fill: #cf4a0a } .band { fill: #fff1e5 }
    path, polyline { fill: none; stroke-width: 1.5 } .lineblue { stroke: #0969da; stroke-width: 2 } .lineorange { stroke: #cf4a0a }
    .linegrey { stroke: #59636e } .dashed { stroke-dasharray: 5 4 }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .small { fill: #9198a1 } .ground { fill: #0d1117 } .grid { stroke: #30363d } .axis { stroke: #9198a1 }
      .box { fill: #0c2d6b; stroke: #4493f8 } .wait { fill: #5a1e02; stroke: #f0883e } .plain { fill: #151b23; stroke: #656c76 }
      .blue { fill: #4493f8 } .orange { fill: #f0883e } .band { fill: #3d1300 }
      .lineblue { stroke: #4493f8 } .lineorange { stroke: #f0883e } .linegrey { stroke: #9198a1 }
    }
"""


def picture(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    """Return a whole SVG with its ground and style."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n'
        f"  <style>{STYLE}  </style>\n"
        '  <defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" style="fill:#59636e;stroke:none"/></marker></defs>\n'
        f'  <rect class="ground" width="{width}" height="{height}" rx="6"/>\n  ' + "\n  ".join(parts) + "\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"/>'


def line(kind: str, *points: tuple[float, float]) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{joined}"/>'


# --- the life of one call ----------------------------------------------------------------------------------------------------

#: What happens, for how wide a part of the picture, which kind of box, and the module that does it.
PHASES = (
    ("check, encode", 104, "box", "call.call"),
    ("wait for the limits", 150, "wait", "ratelimit"),
    ("connect, send", 150, "box", "transport"),
    ("wait for the first token", 176, "wait", "transport"),
    ("chunks", 170, "box", "call.stream, wire"),
    ("settle, record", 110, "box", "call.call"),
)
#: Each time limit, and the first and the last of the phases that it bounds.
LIMITS = (("wait", 1, 1), ("connect", 2, 2), ("first_token", 3, 3), ("idle", 4, 4), ("total", 0, 4))


def draw_call() -> str:
    """Return the phases of one call, the time limits over them, and the way of a retry."""
    parts = [text(20, 30, "The life of one streamed call (not to scale)", "title")]
    left, top, height = 24, 118, 46
    spans: list[tuple[float, float]] = []
    for words, width, kind, module in PHASES:
        parts += [
            box(left, top, width, height, kind),
            text(left + width / 2, top + 27, words, anchor="middle"),
            text(left + width / 2, top + 64, module, "code small", anchor="middle"),
        ]
        spans.append((left, left + width))
        left += width + 8
    for name, first, last in LIMITS:
        y = 64 if name == "total" else 98
        begin, end = spans[first][0], spans[last][1]
        parts.append(line("linegrey", (begin, y + 8), (begin, y), (end, y), (end, y + 8)))
        words = {
            "idle": "idle: from event to event",
            "total": "total: over everything, retries included",
        }.get(name, name)
        parts.append(text((begin + end) / 2, y - 5, words, "code", anchor="middle"))
    retry_end, retry_begin = spans[1][0] + 75, spans[3][0] + 88
    y = 214
    parts += [
        f'<path class="lineorange dashed" d="M{retry_begin} {top + 72} V{y} H{retry_end} V{top + 74}" marker-end="url(#tip)"/>',
        text((retry_begin + retry_end) / 2, y + 18, "failed before the first chunk: wait and try again", "orange", "middle"),
        text((retry_begin + retry_end) / 2, y + 36, "if the error, the retry budget and the time left allow it (call.retry)", "small", "middle"),
        text(spans[4][0], y, "failed after it: StreamError with", "orange"),
        text(spans[4][0], y + 18, "the partial answer, never a retry", "orange"),
        text(24, 280, "Blue: the call works. Orange: the call waits; cancel() and close() end every wait, from any thread.", "small"),
    ]  # fmt: skip
    return picture(left + 16, 300, "Phases of one call with the time limits that bound them", parts)


# --- the buckets of the limiter ------------------------------------------------------------------------------------------------


class Axes:
    """A chart in a corner of a picture: seconds to the right, a quantity upwards."""

    def __init__(
        self, left: float, top: float, width: float, height: float, *, seconds: tuple[float, float], most: float
    ) -> None:
        self.left, self.top, self.width, self.height = left, top, width, height
        self._first, self._last = seconds
        self._most = most

    def x(self, second: float) -> float:
        return self.left + (second - self._first) / (self._last - self._first) * self.width

    def y(self, value: float) -> float:
        return self.top + self.height - value / self._most * self.height

    def frame(self, values: Iterable[float], seconds: Iterable[float]) -> list[str]:
        parts = []
        for value in values:
            y = self.y(value)
            parts += [
                f'<line class="grid" x1="{self.left}" y1="{y:.1f}" x2="{self.left + self.width}" y2="{y:.1f}"/>',
                text(self.left - 8, y + 4, f"{value:,.0f}", "small", "end"),
            ]
        for second in seconds:
            parts.append(text(self.x(second), self.top + self.height + 18, f"{second:g} s", "small", "middle"))
        return parts


class ObservedClock(FakeClock):
    """A clock that calls *look* every tenth of a second, also while the limiter waits on it."""

    look: Callable[[], None]

    def sleep(self, seconds: float) -> None:
        end = self.monotonic() + seconds
        while self.monotonic() < end:
            self.look()
            self.advance(min(0.1, end - self.monotonic()))
        self.look()


def draw_buckets() -> str:
    """Return the tokens and requests that remain of a model's limits while five calls come and go."""
    clock = ObservedClock()
    limiter = TokenBucketRateLimiter(RateLimits(rpm=6, tpm=8_000, share=1.0), clock=clock)
    remaining: dict[str, list[tuple[float, float]]] = {"tpm": [], "rpm": []}
    notes: list[tuple[float, str, str]] = []
    limiter.reserve(
        "m", prompt_tokens=1, max_output_tokens=1
    ).refund()  # the state of the model is made by its first use

    def look() -> None:
        windows = limiter.get_status()["m"].windows
        for name, points in remaining.items():
            points.append((clock.monotonic(), float(windows[name].remaining or 0)))

    clock.look = look
    clock.sleep(3)
    look()
    first = limiter.reserve("m", prompt_tokens=1_500, max_output_tokens=2_500)
    look()
    notes.append((clock.monotonic(), "reserve", "prompt 1,500 + at most 2,500"))
    clock.sleep(5)
    first.settle(Usage(prompt_tokens=1_500, completion_tokens=600, total_tokens=2_100))
    look()
    notes.append((clock.monotonic(), "settle", "600 used"))
    clock.sleep(4)
    second = limiter.reserve("m", prompt_tokens=1_500, max_output_tokens=3_500)
    look()
    notes.append((clock.monotonic(), "reserve", "1,500 + 3,500"))
    clock.sleep(3)
    asked = clock.monotonic()
    third = limiter.reserve("m", prompt_tokens=1_000, max_output_tokens=3_000)  # waits
    admitted = clock.monotonic()
    look()
    notes.append((asked, "wait", f"4,000 do not fit: wait {admitted - asked:.1f} s"))
    clock.sleep(4)
    second.settle(Usage(prompt_tokens=1_500, completion_tokens=900, total_tokens=2_400))
    third.settle(Usage(prompt_tokens=1_000, completion_tokens=400, total_tokens=1_400))
    look()
    notes.append((clock.monotonic(), "settle", "both answers are there"))
    clock.sleep(6)
    return show_buckets(remaining, notes, wait=(asked, admitted))


def show_buckets(
    remaining: dict[str, list[tuple[float, float]]], notes: list[tuple[float, str, str]], *, wait: tuple[float, float]
) -> str:
    """Return the picture of what :func:`draw_buckets` saw."""
    asked, admitted = wait
    last = remaining["tpm"][-1][0]
    parts = [text(20, 30, "The buckets of one model: rpm=6, tpm=8,000", "title")]
    tokens = Axes(80, 78, 690, 220, seconds=(0, last), most=8_000)
    requests = Axes(80, 352, 690, 70, seconds=(0, last), most=6)
    parts += [text(80, 62, "Tokens that remain", "head"), text(80, 340, "Requests that remain", "head")]
    parts.append(
        f'<rect class="band" x="{tokens.x(asked):.1f}" y="{tokens.top}" width="{tokens.x(admitted) - tokens.x(asked):.1f}" height="{tokens.height}"/>'
    )
    parts += tokens.frame(range(0, 8_001, 2_000), ())
    parts += requests.frame((0, 3, 6), range(0, int(last) + 1, 5))
    parts.append(line("lineblue", *((tokens.x(at), tokens.y(value)) for at, value in remaining["tpm"])))
    parts.append(line("lineblue", *((requests.x(at), requests.y(value)) for at, value in remaining["rpm"])))
    places = ((0, 3_300), (0, 5_300), (0, 1_350), (0, 6_600), (0, 3_600))
    offsets = (-4, 6, -4, 6, 8)
    for (at, kind, words), (_, value), offset in zip(notes, places, offsets, strict=True):
        color = {"wait": "orange"}.get(kind, "blue")
        parts.append(text(tokens.x(at) + offset, tokens.y(value), kind, f"head {color}"))
        parts.append(text(tokens.x(at) + offset, tokens.y(value) + 16, words, "small"))
    parts.append(text(20, 470, "A reservation takes one request and prompt + max_completion_tokens. Both refill all the time: 133 tokens a second, a request every 10 s.", "small"))  # fmt: skip
    return picture(800, 488, "Tokens and requests that remain while calls reserve, wait and settle", parts)


# --- a 429 and 64 threads ------------------------------------------------------------------------------------------------------

TPM, WORKERS, LOSS_AT, SHOWN = 240_000, 64, 5.0, 40.0


class UncountedPlace:
    """A reservation of nothing."""

    wait, arrival = 0.0, 1

    def settle(self, usage: Any) -> None: ...
    def refund(self, *, keep_request: bool = False) -> None: ...
    def keep(self) -> None: ...
    def feedback(self, info: Any, limited: Any = None) -> None: ...


class NoLimiter:
    """Lets every call out at once: each thread retries when the service told it to."""

    def reserve(self, _model: str, **_: Any) -> UncountedPlace:
        return UncountedPlace()


class WatchedService(Service):
    """A service that notes which thread asked when, and whether it was admitted."""

    def __init__(self, clock: Simulation) -> None:
        super().__init__({"tpm": TPM}, clock)
        self._watch = clock
        self._threads: dict[int, int] = {}
        self.asked: list[tuple[float, int, bool]] = []

    def admit(self, prompt: int, longest: int) -> Any:
        answer = super().admit(prompt, longest)
        thread = self._threads.setdefault(threading.get_ident(), len(self._threads))
        self.asked.append((self._watch.monotonic(), thread, answer is None))
        return answer

    def lose_quota(self) -> None:
        """Let another program with the same limits use up all that remains, and 12 s of what comes."""
        (bucket,) = self._buckets
        bucket.flow(self._watch.nanoseconds)
        bucket.used = (bucket.limit + TPM // 5) * bucket.period


def observe(make: Callable[[Simulation], Any]) -> list[tuple[float, int, bool]]:
    """Run 64 threads, each asking again two seconds after its answer; return the requests that the service saw."""
    clock = Simulation(5)
    service = WatchedService(clock)
    runtime = Caller(
        transport=SimulatedTransport(service, clock),
        limiter=make(clock),
        tracker=FakeTracker(),
        clock=clock,
        policy=RetryPolicy(max_retries=50),
        provider="groq",
        default_model="openai/gpt-oss-20b",
        rng=random.Random(1),
    )
    begun = clock.monotonic()

    def work() -> None:
        clock.sleep(clock.random.uniform(0, 20))
        while clock.monotonic() - begun < SHOWN:
            request = LLMRequest(messages="x" * 1_600, max_completion_tokens=800)
            runtime.generate(request, CallOptions(timeouts=Timeouts(first_token=None)))
            clock.sleep(clock.random.uniform(10, 20))

    def other_program() -> None:
        clock.sleep(LOSS_AT)
        service.lose_quota()

    for _ in range(WORKERS):
        clock.spawn(work)
    clock.spawn(other_program)
    clock.run()
    return [(at - begun, thread, admitted) for at, thread, admitted in service.asked if at - begun <= SHOWN]


def draw_throttled() -> str:
    """Return the requests of 64 threads around a 429, without the limiter and with it."""
    parts = [text(20, 30, "64 threads; at 5 s another program uses up the quota that they share", "title")]
    sides: tuple[tuple[str, Callable[[Simulation], Any]], ...] = (
        ("Without: each thread retries for itself", lambda _: NoLimiter()),
        ("With the limiter: one 429 holds back all threads", lambda clock: TokenBucketRateLimiter(RateLimits(tpm=TPM), clock=clock)),
    )  # fmt: skip
    for index, (words, make) in enumerate(sides):
        asked = observe(make)
        axes = Axes(50 + index * 420, 84, 370, 300, seconds=(0, SHOWN), most=WORKERS)
        refused = sum(not admitted for _, _, admitted in asked)
        answered = sum(admitted for _, _, admitted in asked)
        parts += [
            text(axes.left, 66, words, "head"),
            f'<line class="axis dashed" x1="{axes.x(LOSS_AT):.1f}" y1="{axes.top}" x2="{axes.x(LOSS_AT):.1f}" y2="{axes.top + axes.height}"/>',
            *axes.frame((0, 16, 32, 48, 64), range(0, int(SHOWN) + 1, 10)),
        ]
        parts += [
            f'<circle class="{"blue" if admitted else "orange"}" cx="{axes.x(at):.1f}" cy="{axes.y(thread + 0.5):.1f}" r="{2 if admitted else 2.6}"/>'
            for at, thread, admitted in asked
        ]
        parts += [
            text(axes.left, 428, f"refused (429): {refused}", "orange head"),
            text(axes.left + 150, 428, f"admitted: {answered}", "blue head"),
        ]
        print(f"{words}: {refused} refused, {answered} admitted")
    parts.append(text(20, 456, "Each row is a thread, each dot a request as the service saw it. A simulation: the library's call path and limiter on a virtual clock.", "small"))  # fmt: skip
    return picture(880, 474, "Requests of 64 threads around a 429, without and with the rate limiter", parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="the folder to write to")
    out = parser.parse_args().out
    for name, draw in (("call", draw_call), ("buckets", draw_buckets), ("throttled", draw_throttled)):
        (out / f"{name}.svg").write_text(draw(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
