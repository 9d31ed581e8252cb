"""Shared by the HTTP/2 tests: providers for their servers, answers like the service's, threads."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from support.fakes import PATIENCE
from support.http2_servers import Http2Server, Request, authority

from groq_provider import GroqProvider, RetryPolicy, Timeouts
from groq_provider import errors as e

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "gsk_http2_canary_0123456789abcdef"
MODEL = "m"
NEVER = RetryPolicy(max_retries=0)
QUICK = RetryPolicy(base_delay=0.0, throttle_delay=0.0)
PATIENT = Timeouts(connect=PATIENCE, first_token=PATIENCE, idle=PATIENCE)


@contextlib.contextmanager
def provider_on(server: Any, **settings: Any) -> Iterator[GroqProvider]:
    """Return a provider that speaks HTTP/2 with *server*, without retries by default."""
    settings = {
        "http2": True,
        "retry": NEVER,
        "timeout": PATIENT,
        "default_model": MODEL,
        "rate_limits": {
            "rpm": 10_000_000
        },  # otherwise the first calls go out a few at a time, until the limits are known
        "ca_bundle": authority().file,
        "base_url": server if isinstance(server, str) else server.url,
        **settings,
    }
    with GroqProvider(api_key=KEY, **settings) as provider:
        yield provider


# --- what servers say ------------------------------------------------------------------------------------------------------

SSE = ("content-type", "text/event-stream")
DONE = b"data: [DONE]\n\n"


def event(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "model": MODEL, "choices": [choice], **more}).encode() + b"\n\n"


LAST = event(finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    ).encode()


def prompt_of(request: Request) -> str:
    """Return the request, whose body has arrived."""
    return json.loads(bytes(request.body))["messages"][-1]["content"]


async def answer(request: Request, *words: str) -> None:
    """Answer with *words*, or with the prompt: plainly, or as a stream if that was asked for."""
    body = json.loads(await request.whole())
    words = words or (body["messages"][-1]["content"],)
    if body.get("stream"):
        request.head(200, SSE)
        for word in words:
            await request.data(event(word))
        await request.data(LAST + DONE, end=True)
    else:
        await request.json(completion("".join(words)))


async def begin(request: Request, *words: str) -> None:
    """Begin a stream with *words*."""
    await request.whole()
    request.head(200, SSE)
    for word in words:
        await request.data(event(word))


async def end(request: Request, *words: str) -> None:
    """End a stream, after more *words*."""
    for word in words:
        await request.data(event(word))
    await request.data(LAST + DONE, end=True)


def held(first: str = "one", rest: str = " two") -> Callable[[Request], Any]:
    """A script: requests that say so begin an answer and wait until the server is released; all others are answered."""

    async def work(request: Request) -> None:
        body = json.loads(await request.whole())
        if not body.get("stream") or body["messages"][-1]["content"] == "quick":
            await answer(request)
            return
        await begin(request, first)
        await request.peer.server.released.wait()
        await end(request, rest)

    return work


# --- callers ---------------------------------------------------------------------------------------------------------------


def text_of(chunks: Any) -> str:
    return "".join(chunk.content for chunk in chunks)


def attempt(work: Callable[[], Any]) -> Any:
    """Return the result of *work*, or the error of this library that it raises."""
    try:
        return work()
    except e.GroqProviderError as problem:
        return problem


def in_threads(count: int, work: Callable[[int], Any], patience: float = 3 * PATIENCE) -> list[Any]:
    """Run ``work(number)`` in *count* threads that start together; return the results, or exceptions, in order."""
    barrier, results = threading.Barrier(count), [None] * count

    def run(number: int) -> None:
        try:
            barrier.wait(PATIENCE)
            results[number] = work(number)
        except BaseException as problem:
            results[number] = problem

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = sum(thread.is_alive() for thread in threads)
    assert not stuck, f"{stuck} of {count} threads do not end"
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, e.GroqProviderError):
            raise result
    return results


@contextlib.contextmanager
def running(*works: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run these in threads of their own; leaving the block waits for them. Yields the list of their results."""
    results: list[Any] = [None] * len(works)

    def run(number: int) -> None:
        try:
            results[number] = works[number]()
        except BaseException as problem:
            results[number] = problem

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread does not end"


def idle(provider: GroqProvider) -> bool:
    """Say whether no call is under way."""
    return provider._runtime.in_flight == 0 and all(
        status.in_flight == 0 and status.waiting == 0 for status in provider.get_rate_limits().values()
    )


def alive(provider: GroqProvider, server: Http2Server | None = None) -> bool:
    """Make a call that must succeed; with *server*, all streams must have ended after it."""
    assert provider.generate("still there?").content == "still there?"
    return server is None or server.wait(lambda: not server.open_streams)
