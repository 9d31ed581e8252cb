"""Many threads, one provider, real sockets."""

from __future__ import annotations

import itertools
import threading

import pytest
from support.fakes import PATIENCE

from groq_provider import GroqProvider, ModelNotFoundError, RetryPolicy, Timeouts

THREADS = 64
MODEL = "openai/gpt-oss-20b"


@pytest.mark.over_http2("nginx", full=True)
def test_sixty_four_threads_share_provider(emulator, wire, unhurried, full):
    """No answer is crossed, no connection too many, nothing left in flight, every call counted once."""
    patient = Timeouts(connect=4 * PATIENCE, first_token=4 * PATIENCE, idle=4 * PATIENCE)
    provider = GroqProvider(
        api_key=emulator.api_key,
        base_url=emulator.base_url,
        default_model=MODEL,
        timeout=patient,
        retry=RetryPolicy(max_retries=0),
    )
    rounds = 50 if full else 16
    start = threading.Barrier(THREADS)
    wrong: list[object] = []
    counts = {"generate": 0, "stream": 0, "early": 0, "error": 0}
    lock = threading.Lock()

    def work(number):
        kinds = itertools.cycle(counts)
        mine = dict.fromkeys(counts, 0)
        try:
            start.wait(PATIENCE)
            for call, kind in zip(range(rounds), kinds, strict=False):
                prompt = f"unique-{number}-{call}-prompt"
                text = _one(provider, kind, prompt)
                if not text.startswith(prompt[: len(text)] if kind == "early" else prompt):
                    wrong.append((prompt, text))
                mine[kind] += 1
        except BaseException as error:
            wrong.append(error)
        with lock:
            for kind, count in mine.items():
                counts[kind] += count

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    with provider:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert sum(counts.values()) == THREADS * rounds
        assert provider._runtime.in_flight == 0
        assert {status.in_flight for status in provider.get_rate_limits().values()} == {0}
        assert {status.waiting for status in provider.get_rate_limits().values()} == {0}
        good = provider.get_latency_metrics(MODEL)
        assert good.success_count == counts["generate"] + counts["stream"] + counts["early"]
        assert good.error_count == 0
        assert provider.get_latency_metrics("no-such-model").error_count == counts["error"]
        assert emulator.wait_until(lambda emulator: emulator.open_connections <= THREADS)
        # Every stream left early costs its connection; all the others are shared.
        if wire.kind != "nginx":  # which makes one for each request
            assert emulator.connections <= THREADS + counts["early"]
    assert len(emulator.requests) == THREADS * rounds


def _one(provider, kind, prompt):
    """Make one call; return the text, which begins with the prompt."""
    if kind == "generate":
        return provider.generate(prompt).content
    if kind == "error":
        with pytest.raises(ModelNotFoundError) as caught:
            provider.generate(prompt, model="no-such-model")
        assert caught.value.model == "no-such-model"
        return prompt
    with provider.generate_stream(prompt) as stream:
        if kind == "stream":
            return "".join(chunk.content for chunk in stream)
        for chunk in stream:
            if chunk.content:
                return chunk.content
    raise AssertionError("no content came")
