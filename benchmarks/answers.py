"""The server's answers, all made at its start.

The model's name ``bench/KIND-N`` chooses one:

* any other model: a plain JSON answer of about 630 bytes with the headers the service sends;
* ``events-N``: a stream of N text chunks, one HTTP chunk and one ``send`` per event;
* ``burst-N``: the same bytes, all in one ``sendall``;
* ``merged-N``: the same events in HTTP chunks of 16 KiB, as an edge that buffers sends them;
* ``packs-N``: one HTTP chunk per event, sixteen of them per ``send``, in turn with all other such streams;
* ``timed-N``: an event every 2 ms, whose text is ``time.monotonic()`` as it is sent;
* ``paced-N``: the same every 20 ms;
* ``hold-N``: N text chunks, then silence until the client closes;
* ``size-N``: a plain answer whose text has N bytes;
* ``slow-N``: the plain answer, N ms later;
* ``close-N``: the plain answer with ``Connection: close``.
"""

from __future__ import annotations

import functools
import itertools
import json
import re

WORDS = (
    "The",
    " LPU",
    " is",
    " a",
    " deterministic",
    " processor",
    ",",
    " ol",
    "á!",
    " which",
    " answers",
    " quickly",
    ".\n",
)
ID = "chatcmpl-3f0c1d52-7a7e-4c61-9b06-0d3c5a0e1111"
REQUEST_ID = "req_01k9zzzzzzzzzzzzzzzzzzzzzz"
USAGE = {
    "queue_time": 0.0197, "prompt_tokens": 62, "prompt_time": 0.0031, "completion_tokens": 18, "completion_time": 0.0402,
    "total_tokens": 80, "total_time": 0.0433,
}  # fmt: skip
#: The service's own headers; the limits are so large that a limiter that learns them never waits.
COMMON_HEADERS = (
    "date: Sun, 22 Nov 2026 15:30:00 GMT",
    "vary: Origin",
    "strict-transport-security: max-age=15552000",
    f"x-request-id: {REQUEST_ID}",
    "x-groq-region: fra",
    "x-ratelimit-limit-requests: 500000000",
    "x-ratelimit-limit-tokens: 900000000",
    "x-ratelimit-remaining-requests: 499998960",
    "x-ratelimit-remaining-tokens: 874466667",
    "x-ratelimit-reset-requests: 2m59.56s",
    "x-ratelimit-reset-tokens: 7.66s",
    "server: bench",
)
MODEL = re.compile(rb'"model": ?"bench/(events|burst|merged|packs|timed|paced|hold|size|slow|close)-(\d+)"')
#: Seconds between the events of a stream that carries time stamps.
INTERVALS = {"timed": 0.002, "paced": 0.02}
STREAM_HEADERS = ("content-type: text/event-stream", "cache-control: no-cache", "transfer-encoding: chunked")
END = b"0\r\n\r\n"
_MERGED = 16_384
_PACK = 16


def head(*headers: str) -> bytes:
    """Return the head of an answer with status 200."""
    return "\r\n".join(("HTTP/1.1 200 OK", *headers, *COMMON_HEADERS, "", "")).encode("ascii")


def _compact(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


@functools.lru_cache(maxsize=16)
def plain(size: int | None = None, *headers: str) -> bytes:
    """Return a whole answer, head and body."""
    text = "LPUs run inference in a fixed order. " * 2
    if size is not None:
        text = (text * (size // len(text) + 1))[:size]
    body = _compact(
        {
            "id": ID,
            "object": "chat.completion",
            "created": 1790000000,
            "model": "openai/gpt-oss-20b",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
            "usage_breakdown": None,
            "system_fingerprint": "fp_c82faf3ca0",
            "x_groq": {"id": REQUEST_ID, "seed": 581043163},
            "service_tier": "on_demand",
        }
    )
    kind = ("content-type: application/json", "cache-control: private, max-age=0, no-store, no-cache, must-revalidate")
    return head(*kind, *headers, f"content-length: {len(body)}") + body


def event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    """Return one event as the service writes it."""
    data = {
        "id": ID,
        "object": "chat.completion.chunk",
        "created": 1790000001,
        "model": "openai/gpt-oss-20b",
        "system_fingerprint": "fp_00c37775b7",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }
    return b"data: %b\n\n" % _compact(data)


def framed(data: bytes) -> bytes:
    """Return an HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def first_event() -> bytes:
    """Return the first event, which has a role and no text."""
    return event({"role": "assistant", "content": ""}, x_groq={"id": REQUEST_ID, "seed": 2139001717})


def last_events() -> list[bytes]:
    """Return the events after the last text."""
    return [event({}, "stop", x_groq={"id": REQUEST_ID, "usage": USAGE}, usage=USAGE), b"data: [DONE]\n\n"]


_WORD_EVENTS = [event({"content": word}) for word in WORDS]


@functools.lru_cache(maxsize=8)
def stream(kind: str, count: int) -> list[bytes]:
    """Return a streamed answer of *count* text chunks, cut into the pieces to send."""
    words = itertools.islice(itertools.cycle(_WORD_EVENTS), count)
    events = [first_event(), *words]
    if kind == "hold":
        return [head(*STREAM_HEADERS), *(framed(each) for each in events)]
    events += last_events()
    if kind == "merged":
        whole = b"".join(events)
        events = [whole[start : start + _MERGED] for start in range(0, len(whole), _MERGED)]
    pieces = [framed(each) for each in events]
    pieces[-1] += END
    if kind == "packs":
        pieces = [b"".join(pieces[start : start + _PACK]) for start in range(0, len(pieces), _PACK)]
    start = head(*STREAM_HEADERS)
    return [start + b"".join(pieces)] if kind == "burst" else [start, *pieces]
