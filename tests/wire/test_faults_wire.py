"""The fault matrix, cases 1 to 40: connections, heads, framing. The ids are those of the matrix.

Every case goes through a whole provider against a real socket. A server misbehaves until it is told to recover; then one more call
must succeed, which shows what became of the connection. The limiter's clock stands still, so that what it counts is exact.
"""

from __future__ import annotations

import time
import tracemalloc

import pytest
from support.fakes import wait_for
from support.leaks import assert_hidden, objects_of
from support.servers import chunk
from support.transports import attempt, in_threads, wait_until_readable
from support.wire_faults import (
    BAD_URLS,
    CAP,
    CASES,
    FINE,
    HELLO,
    HTTP1_ONLY,
    KEY,
    PASSING,
    POOL,
    PROMPT,
    SECRETS,
    SLACK,
    STREAM,
    UNSENT,
    USED,
    Case,
    Grounds,
    bench,
    check_error,
    expected_cost,
    plain,
    plus,
    waits,
)

from groq_provider import GroqProvider, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call import body_sniffer
from groq_provider.call import stream as stream_module
from groq_provider.call.call import Call
from groq_provider.wire.sse import LineSplitter

pytestmark = [pytest.mark.usefixtures("nothing_secret_is_said"), pytest.mark.secrets(*SECRETS)]

# --- running one -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Grounds:
    return Grounds(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def grounds(certificates: Grounds, monkeypatch: pytest.MonkeyPatch) -> Grounds:
    monkeypatch.setattr(Call.read_bytes, "__defaults__", (CAP,))
    monkeypatch.setattr(body_sniffer, "MAX_BODY", CAP)
    monkeypatch.setattr(stream_module, "MAX_STREAM", CAP)
    monkeypatch.setattr(LineSplitter.__init__, "__defaults__", (CAP,))
    certificates.patch = monkeypatch
    return certificates


@pytest.mark.over_http2("bridge", but=HTTP1_ONLY)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_fault_has_its_outcome(case: Case, grounds: Grounds) -> None:
    """Error or success, attempts, books and connections are those of the matrix; the next call succeeds."""
    with bench(case, grounds) as found:
        warm: tuple[int, int] = (0, 0)
        if case.script is not None:
            found.good_call()
            warm = case.cost("A")
            if found.place.script.idle:
                wait_until_readable(found.provider._transport)
        seen, good = found.seen(), found.recorded()[0]
        started = time.monotonic()
        if case.error is None:
            response = found.call()
            attempts = response.attempts
            assert (response.content, len(attempts)) == ("Hello", case.attempts)
        else:
            with pytest.raises(e.GroqProviderError) as caught:
                found.call()
            check_error(caught.value, found)
            attempts = caught.value.attempts
        elapsed = time.monotonic() - started
        assert case.within is None or elapsed < case.within + SLACK
        if case.seen is not None:
            wait_for(lambda: found.seen() - seen >= case.attempts)
            assert found.seen() - seen == case.attempts
        spent = plus(warm, expected_cost(found, attempts))
        assert found.spent() == spent
        succeeded, failed = (good + (case.error is None), int(case.error is not None))
        assert found.recorded() == (succeeded, failed)

        assert_hidden(objects_of(found.provider), SECRETS)
        found.place.recover()
        found.good_call()
        connections = case.attempts + 1 if case.connections is None else case.connections
        assert found.place.server.connections == connections
        assert found.spent() == plus(spent, case.cost("A") if case.prompt == PROMPT else (1, USED))
        assert found.recorded() == (succeeded + 1, failed)


@pytest.mark.over_http2("bridge", but=HTTP1_ONLY)
@pytest.mark.parametrize("case", PASSING, ids=lambda case: case.id)
def test_fault_passing_once_is_unnoticed(case: Case, grounds: Grounds) -> None:
    """What strikes once and may be tried again ends in a whole answer, given out once, after two attempts."""
    with bench(case, grounds, once=True) as found:
        response = found.call()
        assert response.content == "Hello"
        assert "".join(found.heard) == ("Hello" if case.stream else "")
        first, second = response.attempts
        assert first.error
        assert second.error is None
        assert len(found.place.server.requests) == 2
        assert found.spent() == plus(case.cost(case.spent), case.cost("A"))
        assert found.recorded() == (1, 0)


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize(("limits", "error", "attempts", "within"), POOL.values(), ids=POOL)
def test_busy_pool_waits_within_limits(
    limits: Timeouts, error: type[e.GroqProviderError], attempts: int, within: float, grounds: Grounds
) -> None:
    """Nothing was sent, everything is given back, and once the connection is free the next call succeeds."""
    case = Case(
        id="9",
        error=error,
        fault=waits(STREAM, chunk(HELLO)),
        attempts=attempts,
        limits=limits,
        settings={"max_connections": 1},
        **UNSENT,
    )
    with bench(case, grounds) as found:
        with found.provider.generate_stream("hold the line", model="other-model") as held:
            assert next(held).content == "Hello"
            started = time.monotonic()
            with pytest.raises(e.GroqProviderError) as caught:
                found.call()
            assert time.monotonic() - started < within + SLACK
            check_error(caught.value, found)
            assert found.spent() == (0, 0)
            assert found.recorded() == (0, 1)
            assert found.seen() == 1
        found.place.recover()
        found.good_call()
        assert found.spent() == case.cost("A")
        assert found.recorded() == (1, 1)


@pytest.mark.parametrize("url", BAD_URLS.values(), ids=BAD_URLS)
def test_bad_base_url_refused_early(url: str) -> None:
    """Before anything is reserved or sent; without secrets in the message."""
    with pytest.raises(e.ConfigurationError) as caught:
        GroqProvider(api_key="gsk_other", base_url=url)
    assert KEY not in str(caught.value)
    assert caught.value.attempts == ()


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.error is e.ResponseTooLargeError], ids=lambda case: case.id
)
def test_oversized_answer_uses_little_memory(case: Case, grounds: Grounds) -> None:
    """Too large an answer uses little memory: beyond the cap at most two MiB."""
    with bench(case, grounds) as found:
        tracemalloc.start()
        try:
            with pytest.raises(e.ResponseTooLargeError):
                found.call()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < CAP + (2 << 20)


def test_wire_faults_never_look_successful(grounds: Grounds) -> None:
    """None of the more than 33 wire faults passes as success, each tried once, all at the same time."""
    cases = [case for case in CASES if case.error is not None and case.stage is plain and not case.script]
    assert len({case.id for case in cases}) >= 33

    def outcome(number: int) -> str | None:
        case = cases[number]
        with bench(case, grounds, retry=RetryPolicy(max_retries=0)) as found:
            result = attempt(found.call)
        return None if type(result) is case.error else f"{case.id}: {result!r}"

    assert [found for found in in_threads(len(cases), outcome) if found] == []


def test_table_is_whole() -> None:
    """Ids are unique, the numbers are exactly 1 to 40, and only what is known to end well does."""
    ids = [*(case.id for case in CASES), *POOL, *BAD_URLS]
    assert len(set(ids)) == len(ids)
    assert {int(name.partition("-")[0]) for name in ids} == set(range(1, 41))
    assert {case.id for case in CASES if case.error is None} == FINE
