"""What a check of the service's health tells, and for how long."""

from __future__ import annotations

import pytest
from support.bench import Bench, answer
from support.fakes import FakeClock

from groq_provider import errors as e
from groq_provider.health import HealthMonitor

GOOD = {"data": []}


class Checked:
    """A monitor with a scripted probe."""

    def __init__(self, took=1.0):
        self.clock = FakeClock()
        self.answered_at = None
        self.outcome = GOOD
        self.asked = []
        self.took = took
        read = self.read
        self.monitor = HealthMonitor(
            self.clock, lambda: 7, {"models": (self.ask, read), "chat": (self.ask, read)}, lambda: self.answered_at
        )

    def ask(self, timeout, model):
        self.asked.append(model)
        self.clock.advance(self.took)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def read(self, given):
        if given is not GOOD:
            raise e.ResponseDecodeError("no list @ $.data")
        return 3

    def check(self, outcome=GOOD, probe="models"):
        self.outcome = outcome
        return self.monitor.check(probe, timeout=5.0, raise_on_error=False)


@pytest.mark.parametrize("probe", ["models", "chat"])
@pytest.mark.parametrize(
    ("outcome", "of_models", "of_chat"),
    [
        (GOOD, "healthy", "healthy"),
        (e.RateLimitedError("no", status_code=429), "degraded", "degraded"),
        ({}, "degraded", "unhealthy"),
        (e.ResponseDecodeError("an HTML page instead of JSON"), "unhealthy", "unhealthy"),
        (e.RedirectRefusedError("to a portal", status_code=302), "unhealthy", "unhealthy"),
        (e.ProviderUnavailableError("no", status_code=500), "unhealthy", "unhealthy"),
        (e.AuthenticationError("no", status_code=401), "unhealthy", "unhealthy"),
        (e.ReadTimeoutError("no"), "unhealthy", "unhealthy"),
    ],
    ids=["good", "429", "odd", "portal", "redirect", "500", "401", "silence"],
)
def test_status_of_each_outcome(probe, outcome, of_models, of_chat):
    """A 429 shows a service that is well; a captive portal's page shows none, and takes the availability."""
    checked = Checked()
    health = checked.check(outcome, probe)
    assert health.status == (of_models if probe == "models" else of_chat)
    assert checked.monitor.last == health
    assert checked.monitor.is_suspect() == (health.status == "unhealthy")
    assert health.error_count == (health.status == "unhealthy")


def test_good_call_ends_suspicion():
    """A call that is answered after a bad check makes the service available again; one before it does not."""
    checked = Checked()
    checked.answered_at = checked.clock.monotonic()
    checked.check(e.ReadTimeoutError("no"))
    assert checked.monitor.is_suspect()
    checked.clock.advance(1.0)
    checked.answered_at = checked.clock.monotonic()
    assert not checked.monitor.is_suspect()
    checked.clock.advance(1.0)
    checked.check(e.ReadTimeoutError("no"))
    assert checked.monitor.is_suspect()


def test_engine_notes_its_answers():
    """Each completion that succeeds, and no other."""
    bench = Bench(answer(), e.APIConnectionError("no", sent=False))
    assert bench.runtime.answered_at is None
    bench.generate()
    noted = bench.runtime.answered_at
    assert noted == bench.clock.monotonic()
    bench.runtime.policy = type(bench.runtime.policy)(max_retries=0)
    bench.fails(e.APIConnectionError)
    assert bench.runtime.answered_at == noted


@pytest.mark.parametrize("slow", [e.ReadTimeoutError("no"), GOOD], ids=["failure", "success"])
@pytest.mark.parametrize("quick", [e.ReadTimeoutError("no"), GOOD], ids=["failure", "success"])
def test_older_check_overwrites_nothing(slow, quick):
    """A check that began earlier and ended later is returned to its caller; the newer one is remembered."""
    checked = Checked(took=0.0)
    newer = []

    def ask(timeout, model):
        checked.clock.advance(1.0)
        checked.monitor._probes = {"models": (checked.ask, checked.read)}
        newer.append(checked.check(quick))
        checked.clock.advance(10.0)
        if isinstance(slow, BaseException):
            raise slow
        return slow

    checked.monitor._probes = {"models": (ask, checked.read)}
    older = checked.monitor.check("models", timeout=5.0, raise_on_error=False)
    assert older.status == ("healthy" if slow is GOOD else "unhealthy")
    assert checked.monitor.last is newer[0]


def test_last_health_asks_nothing():
    """Unknown before the first check, then the newest outcome, as often as one looks."""
    checked = Checked()
    assert checked.monitor.last.status == "unknown"
    health = checked.check()
    assert checked.monitor.last is checked.monitor.last is health
    assert len(checked.asked) == 1
