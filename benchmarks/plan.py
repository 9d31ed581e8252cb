"""The plan of a run: its measures, their contenders, and how often each is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import argparse

#: Contenders that keep connections. requests.post opens one per call, so most measures do not apply to it.
KEPT = ("ours", "groq", "openai", "session", "floor")
STREAMS = ("events", "burst", "merged")
#: Contenders of the measures of how this library's cost grows.
PAIR = ("ours", "floor")


@attrs.frozen
class Measure:
    """Slices of one measure.

    Attributes:
        group: Name for ``--measures``.
        function: Its name in ``measures.MEASURES``.
        keep: The figures of a slice to keep, and the key of each.
        names: Contenders.
        rounds: Slices of each contender. Unless *fresh*, one more before them only warms up.
        arguments: Arguments of the function.
        secure: Whether to connect over TLS.
        fresh: Whether to measure in a process of its own.
    """

    group: str
    function: str
    keep: dict[str, str]
    names: tuple[str, ...]
    rounds: int
    arguments: dict[str, Any] = attrs.field(factory=dict)
    secure: bool = False
    fresh: bool = False


def sizes(args: argparse.Namespace) -> list[int]:
    """Return the sizes of answers and prompts, in bytes."""
    return [1_000, 10_000, 100_000, 1_000_000] + ([] if args.quick else [10_000_000])


def lengths(args: argparse.Namespace) -> list[int]:
    """Return the lengths of streams."""
    return [10, 100, 1_000, 10_000] + ([] if args.quick else [100_000])


def threads(args: argparse.Namespace) -> list[int]:
    """Return the numbers of threads that call at once."""
    return [1, 8, 32, 128, 256] + ([] if args.quick else [1_000])


def measures(args: argparse.Namespace) -> list[Measure]:
    """Return the measures of a run."""
    few = max(2, args.rounds // 3) if args.rounds > 1 else 1
    everybody = (*KEPT, "requests", "curl", "socket")
    raw = (*KEPT, "raw")
    found = [
        Measure(
            "json", "json", {"json": "cpu", "json wall": "wall"}, everybody, args.rounds, {"requests": args.requests}
        )
    ]
    for kind in STREAMS:
        rounds = args.rounds if kind == "events" else max(1, args.rounds * 2 // 3)
        found.append(
            Measure("chunks", "chunks", {f"chunks {kind}": "cpu"}, KEPT, rounds, {"kind": kind, "chunks": args.chunks})
        )
    for secure in (False, True):
        key, requests = "first tls" if secure else "first", {"requests": args.requests}
        found.append(Measure("first", "first", {key: "wall"}, raw, args.rounds, requests, secure=secure))
    for count in threads(args):
        keep = {f"rate {count}": "rate", f"rate {count} cpu": "cpu"}
        names = everybody if count < 2 or count == 32 else KEPT if count == 256 else PAIR
        arguments = {"threads": count, "seconds": args.seconds}
        found.append(Measure("rate", "rate", keep, names, few if len(names) > 2 else max(1, few // 2), arguments))
    many = {"streams": 64, "chunks": args.chunks // 5 + 1}
    found.append(Measure("many", "many", {"many": "rate", "many cpu": "cpu"}, KEPT, few, many))
    found.append(Measure("delay", "delay", {"delay": "delay"}, raw, few, {"events": args.requests * 8}))
    found.append(Measure("delay", "held", {"held": "came"}, KEPT, 1, {"events": 5, "patience": 5.0}))
    found.append(
        Measure(
            "new", "new", {"new": "cpu", "new wall": "wall"}, KEPT, few + 2, {"requests": args.requests // 4 or 1}, secure=True
        )
    )  # fmt: skip
    found.append(
        Measure(
            "open", "open", {"open rss": "rss", "open traced": "traced"}, KEPT, 1, {"streams": args.streams}, fresh=True
        )
    )  # fmt: skip
    found.append(
        Measure("parts", "limiter", {"limiter": "cpu", "limiter learning": "learning"}, ("ours",), few, {"loops": 2000})
    )
    found.append(Measure("parts", "tracker", {"tracker": "cpu"}, ("ours",), few, {"loops": 5000}))
    for what in ("answer", "prompt"):
        for size in sizes(args):
            repeat = max(1, min(args.requests // 2, 2_000_000 // size))
            found.append(
                Measure(
                    "sizes", what, {f"{what} {size}": "cpu"}, PAIR, max(1, few - 2), {"size": size, "repeat": repeat}
                )
            )
    for count in lengths(args):
        repeat = max(1, min(args.requests // 4, 3_000 // count))
        arguments = {"kind": "events", "count": count, "repeat": repeat}
        found.append(Measure("sizes", "stream", {f"stream {count}": "cpu"}, PAIR, max(1, few - 2), arguments))
    growth = ("rss", "rss_second_half", "blocks", "blocks_second_half")
    found.append(
        Measure(
            "growth", "growth", {f"growth {key}": key for key in growth}, ("ours",), 1, {"calls": args.calls}, fresh=True
        )
    )  # fmt: skip
    return [each for each in found if each.group in args.measures]


GROUPS = (
    "json",
    "chunks",
    "first",
    "rate",
    "many",
    "delay",
    "new",
    "open",
    "parts",
    "sizes",
    "growth",
    "imports",
    "cold",
)
