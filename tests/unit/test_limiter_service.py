"""Many workers against a service with limits: nearly all of the quota is used and hardly anything refused.

On a virtual clock the whole engine runs, retries, header parsing and settlement included, against a model of the service.
``tests/wire/test_limiter_emulator.py`` does the same in real time, in short.
"""

import pytest
from support import limiter_kinds
from support.simulation import MINUTE, Simulation, WorkDay

from groq_provider.config import RateLimits

make_limiter = limiter_kinds.make_limiter

TPM = 60_000
FIGURES = ["admission", "late admission", "end"]


@pytest.mark.sample(1)
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
    # Our count of the service's charges was never above share x limit, so the margin is still there.
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


@pytest.mark.sample(1)
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
    """Another client takes a third of the quota: headers show it, so that refusals stay rare and all of the quota is used."""
    simulation = Simulation(3)
    limiter = make_limiter(RateLimits(tpm=TPM), simulation)
    run = WorkDay(limiter, simulation, {"tpm": TPM}, minutes=30, other=TPM // 3)
    assert len(run.service.refused) <= 30 * 2, run.summary
    assert run.used + run.taken_by_other >= 0.9, run.summary
    assert len(run.failed) <= 5, run.summary
