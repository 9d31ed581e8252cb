"""The schedule fuzzer over HTTP/2: threads that share a connection switch at lines of its code; see test_schedule_fuzz.py."""

from __future__ import annotations

import time
from collections import Counter

import pytest

pytest.importorskip("h2", reason="speaks HTTP/2")

from support import schedules
from support.http2_scene import answer, attempt, prompt_of, provider_on
from support.http2_servers import Http2Server, SettingCodes
from support.schedules import PACKAGE, run

from groq_provider import CancelToken
from groq_provider import errors as e

FILES = {
    str(PACKAGE / "transport" / name)
    for name in (
        "scope.py",
        "http2/response.py",
        "http2/connection.py",
        "http2/frames.py",
        "http2/pool.py",
        "http2/stream.py",
    )
}

seeds = schedules.seeds

pytestmark = pytest.mark.soak


def no_connection_left(server):
    return server.wait(lambda: not server.open_connections)


def test_closing_leaves_no_connection(seeds):
    """The connection closes whichever thread has the lock, or waits for it, as the last stream ends."""
    with Http2Server(answer) as server:
        for seed in seeds:
            with provider_on(server) as provider:

                def ask(_rng, provider=provider):
                    found = []
                    while not found or not isinstance(found[-1], e.GroqProviderError):
                        found.append(attempt(lambda: provider.generate("x").content))
                    return found

                def close(rng, provider=provider):
                    time.sleep(rng.random() * 0.03)
                    provider.close()
                    return []

                for found in run(seed, *[ask] * 6, close, files=FILES):
                    assert set(found[:-1]) <= {"x"}, seed
                    assert not found or type(found[-1]) is e.ProviderClosedError, seed
            assert no_connection_left(server), seed


@pytest.mark.full
def test_streams_stay_whole_and_apart(seeds):
    """Answers, abandoned streams and cancels on connections with three places: each call gets its own answer, and all places come back."""
    seen, few = Counter(), {SettingCodes.MAX_CONCURRENT_STREAMS: 3}

    async def script(request):
        await request.whole()
        prompt = prompt_of(request)
        await answer(request, prompt, f"-{prompt}", "-end")

    for seed in seeds:
        with Http2Server(script, settings=few) as server, provider_on(server) as provider:
            tokens: list[CancelToken] = []

            def ask(rng, provider=provider, tokens=tokens, seen=seen):
                for number in range(5):
                    prompt, token = f"{rng.random()}", CancelToken()
                    whole = f"{prompt}-{prompt}-end"
                    kind = rng.choice(["plain", "whole", "left", "cancelled"])
                    if kind == "cancelled":
                        tokens.append(token)
                    try:
                        if kind == "left":
                            with provider.generate_stream(prompt) as stream:
                                assert next(stream).content == prompt
                        elif kind == "plain" or number % 2:
                            assert provider.generate(prompt, cancel=token).content == whole
                        else:
                            with provider.generate_stream(prompt, cancel=token) as stream:
                                assert stream.collect().content == whole
                    except e.RequestCancelledError:
                        assert kind == "cancelled"
                        kind = "stopped"
                    seen[kind] += 1

            def cancel(rng, tokens=tokens):
                for _ in range(20):
                    time.sleep(rng.random() * 0.002)
                    if tokens:
                        tokens.pop().cancel()

            run(seed, *[ask] * 6, cancel, files=FILES)
            assert provider.generate("after").content == "after-after-end", seed
            assert server.wait(lambda server=server: not server.open_streams), seed
            for connection in provider._transport.adapter._pool._connections:
                assert (connection._frames.streams, len(connection._deferred_changes)) == ({}, 0), seed
                assert (connection._reader, connection._next_reader, connection._waiting_streams) == (None, None, {}), (
                    seed
                )
        assert no_connection_left(server), seed
    assert {"plain", "whole", "left", "stopped"} <= seen.keys()
