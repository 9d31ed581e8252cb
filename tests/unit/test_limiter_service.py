"""Many workers against a service with limits: nearly all of the quota is used and hardly anything refused.

On a virtual clock the whole engine runs, retries, header parsing and settlement included, against a model of the service; then in short
against the emulator, with sockets and in real time.
"""

import threading
import time

import pytest
from support import limiter_kinds
from support.fakes import PATIENCE
from support.limiter_kinds import MODEL
from support.simulation import MINUTE, Simulation, WorkDay

from groq_provider import DeadlineExceededError, GroqProvider
from groq_provider.clock import SystemClock
from groq_provider.config import RateLimits
from groq_provider.testing import Emulator

make_limiter = limiter_kinds.make_limiter

TPM = 60_000
FIGURES = ["admission", "late admission", "end"]


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize("seed", range(2))
def test_full_quota_without_refusals(make_limiter, figures, seed):
    """With the limits configured: at least 95 % of the quota in 30 minutes, at most one 429 per 1,000 calls, no call lost."""
    simulation = Simulation(seed)
    run = WorkDay(make_limiter(RateLimits(tpm=TPM), simulation), simulation, {"tpm": TPM}, minutes=30, figures=figures)
    # A store takes over only figures that are worse than ours, and such of the end count what left since then twice.
    assert run.used >= (0.94 if figures == "end" and make_limiter.ahead else 0.95), run.summary
    assert 1000 * len(run.service.refused) <= run.service.admitted, run.summary
    assert run.failed == []
    # Our count of what the service charges was never above share x limit, so the margin is still there.
    assert run.used <= 0.97, run.summary


def test_underestimated_prompts_are_corrected(make_limiter):
    """Estimates that are a quarter too low are corrected after the first answers: only the first minute sees refusals."""
    simulation = Simulation(0)
    limiter = make_limiter(RateLimits(tpm=TPM), simulation)
    run = WorkDay(limiter, simulation, {"tpm": TPM}, minutes=30, bytes_per_token=2.8)
    assert len(run.service.refused) <= 3, run.summary
    assert all(at <= run.begun + MINUTE for at in run.service.refused)
    assert run.used >= 0.93, run.summary
    assert run.failed == []


@pytest.mark.parametrize("figures", FIGURES)
def test_headers_alone_teach_enough(make_limiter, figures):
    """With nothing configured: at most three 429s in the first minute, few later, and the quota is used as well."""
    simulation = Simulation(1)
    run = WorkDay(make_limiter(None, simulation), simulation, {"tpm": TPM, "rpd": 14_400}, minutes=30, figures=figures)
    assert len([at for at in run.service.refused if at <= run.begun + MINUTE]) <= 3, run.summary
    assert 1000 * len(run.service.refused) <= 3 * run.service.admitted, run.summary
    assert run.used >= 0.93, run.summary
    assert run.failed == []


def test_foreign_quota_user_is_seen(make_limiter):
    """Somebody else takes a third of the quota: headers show it, so that refusals stay rare and all of the quota is used."""
    simulation = Simulation(3)
    limiter = make_limiter(RateLimits(tpm=TPM), simulation)
    run = WorkDay(limiter, simulation, {"tpm": TPM}, minutes=30, other=TPM // 3)
    assert len(run.service.refused) <= 30 * 2, run.summary
    assert run.used + run.taken_by_other >= 0.9, run.summary
    assert len(run.failed) <= 5, run.summary


@pytest.mark.parametrize("limits", [RateLimits(tpm=TPM), None], ids=["configured", "headers-only"])
@pytest.mark.parametrize("threads", [16, 64])
def test_the_emulator_in_real_time(make_limiter, threads, limits):
    """The same with sockets and the computer's clock: what is left of a minute's quota and what flows in for three seconds."""
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
