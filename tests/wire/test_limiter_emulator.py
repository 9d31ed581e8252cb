"""Many workers against the emulator in real time: nearly all of the quota is used and hardly anything refused."""

from __future__ import annotations

import threading
import time

import pytest
from support import limiter_kinds
from support.fakes import PATIENCE
from support.limiter_kinds import MODEL

from groq_provider import DeadlineExceededError, GroqProvider
from groq_provider.clock import SystemClock
from groq_provider.config import RateLimits
from groq_provider.testing import Emulator

make_limiter = limiter_kinds.make_limiter

TPM = 60_000


@pytest.mark.sample(1)
@pytest.mark.parametrize("limits", [RateLimits(tpm=TPM), None], ids=["configured", "headers-only"])
@pytest.mark.parametrize("threads", [16, 64])
def test_quota_used_in_real_time(make_limiter, threads, limits):
    """What is left of a minute's quota and what flows in for three seconds."""
    seconds = 3.0
    with (
        Emulator(speed=0, latency=0.05, limits={"tpm": TPM}) as emulator,
        GroqProvider(
            api_key="gsk_1",
            base_url=emulator.base_url,
            rate_limiter=make_limiter(limits, SystemClock()),
            default_model=MODEL,
        ) as provider,
    ):
        provider.generate("Hello.", max_completion_tokens=10)
        large = provider.generate("y" * 190_000, max_completion_tokens=10).usage.total_tokens
        begun = time.monotonic()
        barrier = threading.Barrier(threads)
        tokens, ends = [], []

        def work(number):
            barrier.wait(PATIENCE)
            try:
                while (left := begun + seconds - time.monotonic()) > 0.1:
                    answer = provider.generate(f"{number} " * 50, max_completion_tokens=100, timeout=left)
                    tokens.append(answer.usage.total_tokens)
            except DeadlineExceededError:  # known at once, mostly: its turn would come too late
                ends.append(None)
            except BaseException as error:
                ends.append(error)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(2 * PATIENCE)
        took = time.monotonic() - begun
        refused = [request.status for request in emulator.requests].count(429)
    assert [error for error in ends if error is not None] == []
    assert refused <= (1 if limits else 3)
    there_was = TPM - large + TPM / 60 * took
    # Less the margin of 1,800 tokens, and what the calls out at the end had reserved.
    assert 0.7 * there_was <= sum(tokens) <= there_was
