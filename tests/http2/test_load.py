"""HTTP/2 under load: many threads, many requests, mixed work; every answer is the right one."""

# ruff: noqa: SIM117 - server outside, client inside: a line for each reads better

from __future__ import annotations

import random
import threading
import time

import pytest
from support.fakes import PATIENCE
from support.http2_real import Hypercorn, Nginx
from support.http2_scene import QUICK, Http2Server, attempt, held, idle, in_threads, provider_on, text_of
from support.http2_servers import SettingCodes, until

from groq_provider import CancelToken, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.testing import Emulator

#: nginx answers with the content of the request's header, so that the client is measured and not a server behind nginx.
ECHO = """
    location /openai/ {
        default_type application/json;
        return 200 '{"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "$http_x_tag"}, "finish_reason": "stop"}]}';
    }
"""


@pytest.mark.full
@pytest.mark.soak
def test_fifty_threads_many_requests():
    """Ten thousand requests of fifty threads: no failure, no wrong answer, no resend, one connection."""
    with Nginx(server=ECHO) as server, provider_on(server) as provider:

        def work(number):
            wrong = []
            for call in range(200):
                tag = f"{number}-{call}"
                response = provider.generate("x", extra_headers={"x-tag": tag})
                if response.content != tag or len(response.attempts) != 1:
                    wrong.append((tag, response.content, len(response.attempts)))
            return wrong

        results = in_threads(50, work, patience=10 * PATIENCE)
        assert results == [[]] * 50
        assert until(lambda: len(server.requests()) == 10_000)
        assert len(server.connections()) == 1
        assert idle(provider)
        metrics = provider.get_latency_metrics()
        assert (metrics.success_count, metrics.error_count) == (10_000, 0)


@pytest.mark.sample(1)
@pytest.mark.soak
@pytest.mark.parametrize("kind", ["hypercorn", "nginx and emulator"])
def test_fifty_threads_requests_and_streams(kind, full):
    """The same against servers that generate their answers: a fitting number of each, more with ``--full``."""
    calls = 100 if full else 5
    if kind == "hypercorn":
        with Hypercorn() as server, provider_on(server) as provider:
            _ask_all(provider, calls)
        return
    with Emulator(speed=0) as emulator, Nginx(int(emulator.base_url.rpartition(":")[2])) as server:
        with provider_on(server, default_model="openai/gpt-oss-20b") as provider:
            _ask_all(provider, calls)


def _ask_all(provider, calls):
    def work(number):
        wrong = []
        for call in range(calls):
            tag = f"unique-{number}-{call}-prompt"
            plain = provider.generate(tag).content
            with provider.generate_stream(tag) as stream:
                streamed = text_of(stream)
            wrong += [text for text in (plain, streamed) if not text.startswith(tag)]
        return wrong

    results = in_threads(50, work, patience=10 * PATIENCE)
    assert results == [[]] * 50
    assert idle(provider)


LONG = Timeouts(connect=3 * PATIENCE, first_token=3 * PATIENCE, idle=3 * PATIENCE)
SERVERS = {
    "nginx": {},
    "nginx, eight streams": {"server": "http2_max_concurrent_streams 8;"},
    "nginx, GOAWAY after 100": {"server": "keepalive_requests 100;"},
    "hypercorn": {},
}


@pytest.mark.full
@pytest.mark.soak
@pytest.mark.parametrize("kind", SERVERS)
def test_mixed_work_on_256_threads(kind, full):
    """Plain calls, streams, abandoned streams, cancels by other threads, limits that are too short: each gets the outcome it asked for.

    A call may fail only by its own limit or its own cancel.
    """
    rounds = 20 if full else 3
    if kind == "hypercorn":
        with Hypercorn() as server, provider_on(server, retry=RetryPolicy(max_retries=4, base_delay=0.01)) as provider:
            _mixed(provider, rounds, scripted=True)
            assert server.wait(open=0)
        return
    with Emulator(speed=0) as emulator:
        port = int(emulator.base_url.rpartition(":")[2])
        with Nginx(port, **SERVERS[kind]) as server:
            retry = RetryPolicy(max_retries=4, base_delay=0.01)
            with provider_on(server, retry=retry, default_model="openai/gpt-oss-20b") as provider:
                _mixed(provider, rounds, scripted=False)
                assert emulator.wait_until(lambda emulator: emulator.errors == [])


class _Mixed:
    """A mix of work, and its outcomes."""

    def __init__(self, provider, *, scripted):
        self.provider, self.scripted = provider, scripted
        self.counts = {"right": 0, "left": 0, "cancelled": 0, "late": 0}
        self.lock = threading.Lock()

    def one(self, number, call, dice):
        """Make one call; say whether its outcome is right."""
        tag = f"unique-{number}-{call}-prompt"
        more = {"timeout": LONG}
        if self.scripted:
            more["extra_headers"] = {"x-script": f'{{"words": ["{tag}", " a", " b"], "pace": 0.002}}'}
        kind = dice.choice(["plain", "stream", "stream", "left", "cancel", "cancel stream", "tight"])
        result = getattr(self, "_" + kind.replace(" ", "_"))(tag, more, dice)
        if isinstance(result, e.GroqProviderError):
            found, fine = {
                "tight": ("late", isinstance(result, TimeoutError)),
                "cancel": ("cancelled", type(result) is e.RequestCancelledError),
                "cancel stream": ("cancelled", type(result) is e.RequestCancelledError),
            }.get(kind, ("right", False))
        elif kind == "left":
            found, fine = "left", tag.startswith(result) or result.startswith(tag)
        else:
            found, fine = "right", result.startswith(tag)
        with self.lock:
            self.counts[found] += 1
        return fine

    def _plain(self, tag, more, dice):
        return attempt(lambda: self.provider.generate(tag, **more).content)

    def _stream(self, tag, more, dice):
        return attempt(lambda: self.provider.generate_stream(tag, **more).collect().content)

    def _left(self, tag, more, dice):
        with self.provider.generate_stream(tag, **more) as stream:
            return next(stream).content

    def _tight(self, tag, more, dice):
        return self._plain(tag, {**more, "timeout": dice.choice([0.005, 0.05, 0.1])}, dice)

    def _cancel(self, tag, more, dice, work=None):
        token = CancelToken()
        timer = threading.Timer(dice.random() * 0.05, token.cancel)
        timer.start()
        try:
            return (work or self._plain)(tag, {**more, "cancel": token}, dice)
        finally:
            timer.cancel()
            timer.join()

    def _cancel_stream(self, tag, more, dice):
        return self._cancel(tag, more, dice, self._stream)


def _mixed(provider, rounds, *, scripted):
    mixed = _Mixed(provider, scripted=scripted)

    def work(number):
        dice = random.Random(number)
        return [call for call in range(rounds) if not mixed.one(number, call, dice)]

    assert in_threads(256, work, patience=15 * PATIENCE) == [[]] * 256
    assert sum(mixed.counts.values()) == 256 * rounds
    assert all(mixed.counts.values()), mixed.counts
    assert idle(provider)
    tag = "unique-after-all"
    assert provider.generate(tag, timeout=LONG).content.startswith(tag)


@pytest.mark.full
def test_a_thousand_streams_at_once():
    """With more calls than one connection has places, more are opened, and all places are used."""
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 150}
    with Http2Server(held(), settings=settings) as server, provider_on(server, retry=QUICK) as provider:
        streams = in_threads(32, lambda number: [provider.generate_stream(f"x{number}.{n}") for n in range(30)])
        assert sum(len(some) for some in streams) == 960
        assert server.wait(lambda: server.open_streams == 960)
        assert server.refused == 0
        assert 7 <= server.connections <= 8
        server.release()
        texts = in_threads(32, lambda number: [stream.collect().content for stream in streams[number]])
        assert texts == [["one two"] * 30] * 32
        assert idle(provider)


def test_pollers_and_readers_share_connection():
    """The current reader reads for all: pollers see what readers fetch, and the reverse."""
    with Http2Server(held()) as server, provider_on(server) as provider:
        streams = [provider.generate_stream(f"x{number}") for number in range(20)]

        def work(number):
            stream = streams[number]
            found = []
            deadline = time.monotonic() + 2 * PATIENCE
            while time.monotonic() < deadline:
                if number % 2 and not stream.poll(0.01):
                    continue
                chunk = next(stream, None)
                if chunk is None:
                    return "".join(found)
                found.append(chunk.content)
                if found == ["one"] and number == 0:
                    server.release()
            return "too late"

        assert in_threads(20, work) == ["one two"] * 20
        assert server.connections == 1
