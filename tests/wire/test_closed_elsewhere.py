"""A stream closed by another thread than its reader's, over real sockets."""

from __future__ import annotations

import threading

import pytest
from support.fakes import PATIENCE, wait_for

from groq_provider import FallbackProvider, GroqProvider, RequestCancelledError, RetryPolicy, Timeouts
from groq_provider.testing import Emulator, Gate, Reply

pytestmark = pytest.mark.warm_http2


@pytest.mark.over_http2("bridge", "nginx")
@pytest.mark.parametrize("fallback", [False, True], ids=["provider", "fallback"])
@pytest.mark.parametrize("words", [0, 1], ids=["before the first chunk", "after it"])
def test_close_wakes_the_reader(words, fallback):
    """Blocked in a read: it ends at once with what had come, and nothing is sent again."""
    gate = Gate()
    gate.release(1 + words)
    with Emulator(speed=0) as emulator:
        emulator.enqueue(Reply(chunks=["one ", "two"], gate=gate, times=None))
        limits = Timeouts(connect=PATIENCE, first_token=10 * PATIENCE, idle=10 * PATIENCE)
        with GroqProvider(api_key="gsk_1", base_url=emulator.base_url, timeout=limits, retry=RetryPolicy()) as plain:
            provider = (
                FallbackProvider([(plain, "openai/gpt-oss-20b"), (plain, "openai/gpt-oss-120b")]) if fallback else plain
            )
            stream = provider.generate_stream("x")
            for _ in range(words):
                assert next(stream).content == "one "
            found = []

            def read():
                with pytest.raises(RequestCancelledError) as caught:
                    next(stream)
                found.append(caught.value)

            reader = threading.Thread(target=read)
            reader.start()
            wait_for(stream._release_lock.__self__.locked, "the reader to be in next()")
            with pytest.raises(RuntimeError, match="another thread is reading"):
                next(stream)
            stream.close()
            reader.join(PATIENCE)
            (error,) = found
            assert error.partial.content == "one " * words
            assert len(emulator.requests) == 1
            gate.open()
            assert emulator.wait_until(lambda emulator: not emulator.open_connections or words == 0, PATIENCE)
