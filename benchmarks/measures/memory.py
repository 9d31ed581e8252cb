"""Memory of open streams, and growth over many calls."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path
from typing import Any


def rss() -> int:
    """Return the bytes this process has in memory; 0 if the system does not report them."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def _opened(client: Any, count: int) -> list[Any]:
    found = []
    for _ in range(count):
        another = client.another()
        pieces = another.pieces("bench/hold-1")
        next(pieces)
        found.append((another, pieces))
    return found


def open_streams(client: Any, *, streams: int) -> dict[str, float]:
    """Measure bytes per open stream, of the process and as allocated by Python. Run it in a fresh process, which has no freed memory to reuse."""
    kept = _opened(client, 1)
    gc.collect()
    before = rss()
    kept += _opened(client, streams)
    gc.collect()
    resident = (rss() - before) / streams
    for _, pieces in kept:
        pieces.close()
    kept.clear()
    gc.collect()
    tracemalloc.start()
    kept = _opened(client, 1)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    kept += _opened(client, streams)
    gc.collect()
    traced = (tracemalloc.get_traced_memory()[0] - before) / streams
    tracemalloc.stop()
    for _, pieces in kept:
        pieces.close()
    return {"rss": resident, "traced": traced}


def growth(client: Any, *, calls: int) -> dict[str, float]:
    """Measure the bytes and Python's memory blocks that many calls leave behind, a tenth of them streams, after a tenth that fills buffers."""

    def run(count: int) -> tuple[int, int]:
        for number in range(count):
            if number % 10:
                client.answer()
            else:
                for _ in client.pieces("bench/burst-3"):
                    pass
        gc.collect()
        return rss(), sys.getallocatedblocks()

    begin = run(max(calls // 10, 300))
    middle = run(calls // 2)
    end = run(calls - calls // 2)
    return {
        "rss": end[0] - begin[0],
        "rss_second_half": end[0] - middle[0],
        "blocks": end[1] - begin[1],
        "blocks_second_half": end[1] - middle[1],
    }
