"""The measures, which run in a contender's process: each is a function that takes a client and arguments, and returns figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import calls, memory, parts, streams

if TYPE_CHECKING:
    from collections.abc import Callable

MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "json": calls.plain,
    "rate": calls.rate,
    "new": calls.new_connections,
    "answer": calls.answer_size,
    "prompt": calls.prompt_size,
    "chunks": streams.chunks,
    "stream": streams.whole,
    "first": streams.first_text,
    "many": streams.many,
    "delay": streams.delay,
    "held": streams.held,
    "open": memory.open_streams,
    "growth": memory.growth,
    "limiter": parts.limiter,
    "tracker": parts.tracker,
}
