"""Print how many of this library's own functions one ``generate("Hello")`` calls, and how often the call moves between its modules.

    python benchmarks/callpath.py [--list]

It counts a plain request after the first, and one further chunk of a stream, in one thread and without a network, as counts.py does. A call
counts if the function is this library's own: code in its folder, or code that attrs generates for a class in it. A move is a call from
a function of one module to a function of another. ``--list`` prints the calls in their order, indented by depth.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import answers  # noqa: E402 - found by the path above
import loop  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = str(HERE.parent / "groq_provider")
GENERATED = re.compile(r"<attrs generated methods? (?:\w+ )?(groq_provider\.[\w.]+)\.\w+>")
#: Most calls and moves of one ``generate("Hello")``, and most calls of one further chunk.
CALLS, MOVES, CHUNK_CALLS = 150, 70, 4
_CHUNKS = 500


def module_of(filename: str) -> str | None:
    """Return the module that a function belongs to, without the package's name; ``None`` for code of others."""
    if filename.startswith(FOLDER):
        return filename[len(FOLDER) + 1 :].removesuffix(".py").replace("/", ".")
    generated = GENERATED.match(filename)
    return None if generated is None else generated[1].partition(".")[2]


class CallPath:
    """Notes the own functions that this thread calls, and the module of each caller."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, str, str]] = []
        self.moves = 0
        self._modules: list[str | None] = []

    def _profile(self, frame: Any, event: str, _argument: Any) -> None:
        if event == "call":
            module = module_of(frame.f_code.co_filename)
            if module is not None:
                caller = next((known for known in reversed(self._modules) if known is not None), None)
                self.moves += caller is not None and caller != module
                depth = sum(known is not None for known in self._modules)
                self.calls.append((depth, module, getattr(frame.f_code, "co_qualname", frame.f_code.co_name)))
            self._modules.append(module)
        elif event == "return" and self._modules:
            self._modules.pop()

    def __enter__(self) -> CallPath:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.setprofile(None)


def trace(action: Callable[[], object]) -> CallPath:
    """Return the path of *action*, after three runs that load and fill what the first ones need."""
    for _ in range(3):
        action()
    path = CallPath()
    with path:
        action()
    return path


def measure() -> tuple[CallPath, float]:
    """Return the path of one plain call, and the calls of one further chunk: the median, as most chunks have come with others."""
    from groq_provider import GroqProvider

    with loop.Loop().installed() as wire:
        provider = GroqProvider(api_key="gsk_callpath", base_url="http://127.0.0.1:9/openai/v1")
        wire.answer = answers.plain()
        plain = trace(lambda: provider.generate("Hello"))
        wire.answer = b"".join(answers.stream("burst", _CHUNKS))
        stream = trace(lambda: provider.generate_stream("Hello").collect())
        provider.close()
    starts = [
        index for index, call in enumerate(stream.calls) if call[2].endswith("__next__") and call[1] == "call.stream"
    ]
    return plain, statistics.median(end - start for start, end in itertools.pairwise(starts))


def main(argv: list[str] | None = None) -> int:
    """Count and print; the exit status is 1 if a figure is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the calls in their order")
    args = parser.parse_args(argv)
    plain, chunk = measure()
    if args.list:
        for depth, module, name in plain.calls:
            print(f"{'  ' * depth}{module}: {name}")
    for module, number in Counter(module for _, module, _ in plain.calls).most_common():
        print(f"{number:6} {module}")
    distinct = len({call[1:] for call in plain.calls})
    print(f"one generate: {len(plain.calls)} calls (at most {CALLS}) of {distinct} functions")
    print(f"one generate: {plain.moves} moves between modules (at most {MOVES})")
    print(f"one further chunk: {chunk:g} calls (at most {CHUNK_CALLS})")
    return 1 if len(plain.calls) > CALLS or plain.moves > MOVES or chunk > CHUNK_CALLS else 0


if __name__ == "__main__":
    sys.exit(main())
