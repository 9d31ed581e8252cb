"""Fuzz target of the event stream: bytes in, our errors or an answer out, the same for every split of the bytes.

With atheris installed (``pip install atheris``, CPython 3.11) the coverage-guided way::

    python tests/fuzz/sse.py tests/fuzz/corpus -runs=1000000

Without it ``tests/test_fuzz_sse.py`` mutates the corpus; ``--full`` does a million executions.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

from groq_provider.errors import GroqProviderError
from groq_provider.types.response import LLMResponse
from groq_provider.wire import json_text
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.sse import DONE, EventDecoder, LineSplitter

if TYPE_CHECKING:
    from collections.abc import Iterable


def read(pieces: Iterable[bytes], *, short: bool = True) -> tuple[object, ...]:
    """Read a stream given in pieces; return all that came of it, its error included.

    With *short* as a stream does it, which takes short ways for what is usual; without it step by step.
    """
    splitter, decoder, assembler = LineSplitter(1 << 16), EventDecoder(1 << 17), Assembler()
    seen: list[object] = []
    try:
        for piece in pieces:
            lines = splitter.feed(piece)
            for event in decoder.events(lines) if short else filter(None, map(decoder.feed, lines)):
                seen.append(event)
                if event.data[:6] == DONE:
                    return (*seen, LLMResponse(**assembler.response_fields()))
                chunk = assembler.reuse_template(event.data) if short and not event.name else None
                chunk = chunk or assembler.feed(json_text.loads(event.data), event.data if short else b"")
                if chunk is not None:
                    seen.append(chunk)
        rest = splitter.finish()
        if rest:
            seen.append(decoder.feed(rest))
        seen.append(decoder.finish())
        seen.append(LLMResponse(**assembler.response_fields()))
    except GroqProviderError as error:
        seen.append((type(error).__name__, str(error)))
    return tuple(seen)


def one_input(data: bytes) -> None:
    """Run the target once; anything but our own errors, or a difference between splits or ways, is a finding."""
    whole = read([data])
    if repr(read([data], short=False)) != repr(whole):
        raise AssertionError(f"the short way changes the outcome: {data[:200]!r}")
    cut = random.Random(len(data) * 31 + sum(data[:64]))
    at, pieces = 0, []
    while at < len(data):
        step = cut.choice((1, 1, 2, 3, 7, 64, 1024))
        pieces.append(data[at : at + step])
        at += step
    parts = read(pieces)
    if repr(parts) != repr(whole):
        raise AssertionError(f"split changes the outcome: {data[:200]!r}")


def mutate(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """Return a neighbour of *data*."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        kind = dice.randrange(8)
        at = dice.randrange(len(changed) + 1)
        if kind == 0:
            changed[at:at] = bytes([dice.randrange(256)])
        elif kind == 1:
            del changed[at : at + dice.randrange(1, 9)]
        elif kind == 2 and changed:
            changed[at % len(changed)] ^= 1 << dice.randrange(8)
        elif kind == 3:
            changed[at:at] = dice.choice(_TOKENS)
        elif kind == 4:
            other = dice.choice(others)
            start = dice.randrange(len(other) + 1)
            changed[at:at] = other[start : start + dice.randrange(1, 200)]
        elif kind == 5:
            changed = changed[:at]
        elif kind == 6:
            span = changed[at : at + dice.randrange(1, 64)]
            changed[at:at] = span
        else:
            old, new = dice.choice(_SWAPS)
            changed = bytearray(bytes(changed).replace(old, new, 1))
    return bytes(changed[:4096])


_TOKENS = (
    b"\r", b"\n", b"\r\n", b"\n\n", b"data:", b"data: ", b"event: error\n", b": ping\n", b"[DONE]", b"data: [DONE]\n\n", b"\xef\xbb\xbf", b"\xff",
    b"\xe2\x80\xa8", b"\xc2\x85", b"null", b"NaN", b"1e999", b"-0", b"[" * 300, b'{"a":' * 300, b"9" * 5000, b'"\\ud800"', b"\x00",
)  # fmt: skip
_SWAPS = (
    (b'"content":"', b'"content":5,"x":"'), (b'"delta":{', b'"delta":[{'), (b'"choices":[', b'"choices":{"0":['), (b'"index":0', b'"index":"0"'),
    (b'"usage":{', b'"usage":[{'), (b"\n\n", b"\r\r"), (b"\n\n", b"\r\n\r\n"), (b"data: ", b"data:"), (b'"finish_reason":null', b'"finish_reason":""'),
    (b'"tool_calls":[', b'"tool_calls":null,"z":['), (b'"x_groq":{', b'"x_groq":{"error":"over",'), (b"0.01", b"-1"), (b'"id":', b'"id":null,"di":'),
)  # fmt: skip


def main() -> None:
    """Run under atheris."""
    import atheris  # type: ignore[import-not-found]

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
