"""The retry decision, as a table, and the budget."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from datetime import datetime, timezone

import pytest
from requests.structures import CaseInsensitiveDict
from support.bench import Bench, answer, refusal
from support.fakes import PATIENCE, FakeClock
from support.servers import answer as wire_answer
from support.servers import serving

from groq_provider import GroqProvider, RetryPolicy, Timeouts
from groq_provider import errors as e
from groq_provider.call.retry import RetryBudget, retry_delay, throttling
from groq_provider.transport.http1.receive import BadFraming
from groq_provider.wire.failures import error_from_response


def decide(error, *, retries=0, policy=None, seed=1):
    return retry_delay(error, retries=retries, policy=policy or RetryPolicy(), rng=random.Random(seed))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(e.APIConnectionError("x", sent=False), True, id="refused"),
        pytest.param(e.APIConnectionError("x", sent=True), True, id="reset after the request"),
        pytest.param(e.APIConnectionError("x", sent=None), True, id="reset while sending"),
        pytest.param(e.ConnectTimeoutError("x", sent=False), True, id="connect timeout"),
        pytest.param(e.PoolTimeoutError("x", sent=False), True, id="pool timeout"),
        pytest.param(e.ReadTimeoutError("x", sent=True), False, id="slow answer: may be billed"),
        pytest.param(e.ReadTimeoutError("x", sent=None), False, id="slow, unknown whether sent"),
        pytest.param(e.ReadTimeoutError("x", sent=False), True, id="timeout before sending"),
        pytest.param(e.TLSError("x", sent=False), False, id="TLS"),
        pytest.param(e.ProxyError("x", sent=False), True, id="proxy refuses"),
        pytest.param(e.ProxyError("x", sent=False, retryable=False), False, id="proxy 407"),
        pytest.param(e.RedirectRefusedError("x", sent=True), False, id="redirect"),
        pytest.param(e.ProtocolError("x", sent=True), True, id="not HTTP"),
        pytest.param(e.ResponseDecodeError("x"), True, id="not JSON"),
        pytest.param(e.IncompleteResponseError("x"), True, id="cut body"),
        pytest.param(e.ResponseTooLargeError("x"), False, id="too large"),
        pytest.param(e.StreamInterruptedError("x"), True, id="stream ended early"),
        pytest.param(e.InvalidRequestError("x", status_code=400), False, id="400"),
        pytest.param(e.ToolUseFailedError("x", status_code=400), False, id="tool_use_failed"),
        pytest.param(e.ContextTooLongError("x", status_code=400), False, id="context too long"),
        pytest.param(e.AuthenticationError("x", status_code=401), False, id="401"),
        pytest.param(e.PermissionDeniedError("x", status_code=403), False, id="403"),
        pytest.param(e.ModelNotFoundError("x", status_code=404), False, id="404"),
        pytest.param(e.APIStatusError("x", status_code=408, retryable=True), True, id="408"),
        pytest.param(e.RequestTooLargeError("x", status_code=413), False, id="413"),
        pytest.param(e.RateLimitedError("x", status_code=429), True, id="429"),
        pytest.param(e.RateLimitedError("x", status_code=429, scope="day"), False, id="429 of the day, no hint"),
        pytest.param(e.RateLimitedError("x", status_code=429, scope="hour"), False, id="429 of the hour, no hint"),
        pytest.param(
            e.RateLimitedError("x", status_code=429, scope="day", retry_after=7200.0), False, id="429 of the day"
        ),
        pytest.param(e.RateLimitedError("x", status_code=429, retryable=False), False, id="x-should-retry: false"),
        pytest.param(e.InvalidRequestError("x", status_code=400, retryable=True), True, id="x-should-retry: true"),
        pytest.param(e.OverloadedError("x", status_code=498), True, id="498"),
        pytest.param(e.ProviderUnavailableError("x", status_code=500), True, id="500"),
        pytest.param(e.OverloadedError("x", status_code=503), True, id="503"),
        pytest.param(e.OverloadedError("x", status_code=529), True, id="529"),
        pytest.param(e.RequestCancelledError("x"), False, id="cancelled"),
        pytest.param(e.ProviderClosedError("x"), False, id="closed"),
        pytest.param(e.DeadlineExceededError("x"), False, id="deadline"),
        pytest.param(e.RateLimitTimeoutError("x"), False, id="limiter timeout, though retryable"),
        pytest.param(e.ConfigurationError("x"), False, id="configuration"),
    ],
)
def test_error_class_decides_retry(error, again):
    """The class of an error decides whether it is tried again: as in `docs/design/faults.md`."""
    assert (decide(error) is not None) is again


@pytest.mark.parametrize(
    "error", [e.ProtocolError("x"), e.ResponseDecodeError("x")], ids=lambda error: type(error).__name__
)
def test_broken_peer_gets_one_retry(error):
    """Repeating what is broken by construction helps nobody."""
    assert decide(error, retries=0) is not None
    assert decide(error, retries=1) is None


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [(RetryPolicy(max_retries=0), 0), (RetryPolicy(), 2), (RetryPolicy.web(), 1), (RetryPolicy.batch(), 8)],
    ids=["none", "default", "web", "batch"],
)
def test_policy_bounds_retry_count(policy, allowed):
    """A policy bounds the number of retries: further tries after the first."""
    error = e.ProviderUnavailableError("x", status_code=500)
    given = [retries for retries in range(20) if decide(error, retries=retries, policy=policy) is not None]
    assert given == list(range(allowed))


@pytest.mark.parametrize("hint", [0.0, 0.01, 0.5, 2.0, 30.0, 60.0])
@pytest.mark.parametrize("error", [e.RateLimitedError, e.OverloadedError, e.ProviderUnavailableError])
def test_hint_is_never_undercut(error, hint):
    """At least the hint; at most 5 % or 0.1 s more."""
    for seed in range(200):
        delay = decide(error("x", retry_after=hint), seed=seed)
        assert hint <= delay <= hint + max(0.1, 0.05 * hint)


def test_hints_are_spread():
    """Many callers told the same do not come back at the same instant."""
    assert len({decide(e.RateLimitedError("x", retry_after=2.0), seed=seed) for seed in range(50)}) == 50


@pytest.mark.parametrize(
    ("policy", "hint", "again"),
    [
        (RetryPolicy(), 60.0, True),
        (RetryPolicy(), 60.001, False),
        (RetryPolicy(hint_cap=0.0), 0.001, False),
        (RetryPolicy.web(), 1.5, False),
        (RetryPolicy.batch(), 3600.0, True),
        (RetryPolicy.batch(), 3601.0, False),
    ],
    ids=["at the cap", "beyond it", "no cap", "web", "batch", "beyond batch"],
)
def test_hint_over_cap_ends_call(policy, hint, again):
    """Nobody sleeps for hours unasked; the hint is on the error."""
    assert (decide(e.RateLimitedError("x", retry_after=hint), policy=policy) is not None) is again


@pytest.mark.parametrize(
    ("error", "retries", "bound"),
    [
        (e.ProviderUnavailableError("x"), 0, 0.25),
        (e.ProviderUnavailableError("x"), 1, 0.5),
        (e.RateLimitedError("x"), 0, 1.0),
        (e.OverloadedError("x"), 1, 2.0),
        (e.OverloadedError("x"), 5, 8.0),
        (e.OverloadedError("x"), 90, 8.0),
    ],
    ids=["fault", "fault again", "throttled", "overloaded again", "cut to the maximum", "no overflow"],
)
def test_hintless_delay_is_full_jitter(error, retries, bound):
    """Without a hint the delay is full jitter, from zero to a doubling bound."""
    policy = RetryPolicy(max_retries=100)
    delays = [decide(error, retries=retries, policy=policy, seed=seed) for seed in range(500)]
    assert all(0 <= delay <= bound for delay in delays)
    assert min(delays) < 0.1 * bound
    assert max(delays) > 0.9 * bound


# --- from the answer to the decision -----------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
PER_MINUTE = "Rate limit reached for model `m` on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443."
PER_DAY = "Rate limit reached for model `m` on requests per day (RPD): Limit 1000, Used 1000, Requested 1."
NEVER_FITS = "Request too large for model `m` on output tokens per minute (OTPM): Limit 1000, Requested 1080."


def refused(status, *headers, message=""):
    """Return the error that an answer stands for."""
    body = json.dumps({"error": {"message": message, "type": "tokens"}}).encode() if message else b""
    fields = CaseInsensitiveDict(dict(line.split(": ", 1) for line in headers))
    return error_from_response(status, fields, body, now=NOW, model="m")


TIMES = {408, 425, 429, 498, 500, 502, 503, 504, *range(520, 525), 529}


def test_which_statuses_are_tried_again():
    """Those of the fault matrix, and none below 500 beside them, 409 included."""
    again = {status for status in range(400, 600) if decide(refused(status)) is not None}
    assert again >= TIMES
    assert {status for status in again if status < 500} == {408, 425, 429, 498}
    assert all(decide(refused(status)) is None for status in (300, 301, 302, 303, 304, 307, 308))


def test_some_statuses_wait_like_throttling():
    """Some statuses wait as after throttling, a second and more for want of room; failures wait a quarter."""
    slow = {status for status in TIMES if throttling(refused(status))}
    assert slow == {429, 498, 503, 529}
    policy = RetryPolicy(max_retries=9)
    for status in TIMES:
        for retries in range(6):
            longest = max(decide(refused(status), retries=retries, policy=policy, seed=seed) for seed in range(200))
            bound = min(8.0, (1.0 if status in slow else 0.25) * 2**retries)
            assert 0.9 * bound < longest <= bound


DATE = "Date: Sun, 01 Nov 2026 10:00:00 GMT"  # two hours before the time of the client's own clock


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        pytest.param(["Retry-After: 2"], 2.0, id="seconds"),
        pytest.param(["Retry-After: 0.5"], 0.5, id="fraction"),
        pytest.param([DATE, "Retry-After: Sun, 01 Nov 2026 09:59:00 GMT"], 0.0, id="date, past"),
        pytest.param([DATE, "Retry-After: Sun, 01 Nov 2026 10:00:07 GMT"], 7.0, id="date, future"),
        pytest.param(["Retry-After: Sun, 99 Nov 2026 10:00:07 GMT"], None, id="date, bad"),
        pytest.param(["Retry-After: 2m59.56s"], 179.56, id="Go duration"),
        pytest.param(["Retry-After: 120ms"], 0.12, id="Go duration, short"),
        pytest.param(["Retry-After-Ms: 1500", "Retry-After: 9"], 1.5, id="milliseconds"),
        pytest.param(["Retry-After: -5"], None, id="negative"),
        pytest.param(["Retry-After: NaN"], None, id="NaN"),
        pytest.param(["Retry-After: 1000000000"], 7 * 86_400.0, id="a thousand million"),
        pytest.param(["Retry-After: "], None, id="empty"),
        pytest.param(["Retry-After: 2, 30"], 30.0, id="two values"),
        pytest.param([], None, id="absent"),
    ],
)
@pytest.mark.parametrize("text", [None, 5.289], ids=["no text", "try again in 5.289s"])
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("policy", [RetryPolicy(), RetryPolicy.batch()], ids=["default", "batch"])
def test_every_form_of_retry_after(headers, hint, text, status, policy):
    """Read, or passed over for the text; never undercut, little exceeded, and beyond the cap not waited for but told."""
    error = refused(status, *headers, message="" if text is None else f"Please try again in {text}s.")
    hint = text if hint is None else hint
    assert error.retry_after == (None if hint is None else pytest.approx(hint))
    delays = [decide(error, policy=policy, seed=seed) for seed in range(100)]
    if hint is None:
        assert error.retry_at is None
        assert all(0 <= delay <= policy.throttle_delay for delay in delays)
        return
    assert (error.retry_at - NOW).total_seconds() == pytest.approx(hint)
    if hint > policy.hint_cap:
        assert set(delays) == {None}
    else:
        assert all(error.retry_after <= delay <= hint + max(0.1, 0.05 * hint) for delay in delays)
        assert len(set(delays)) > 90


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(refused(429, message=PER_MINUTE + " Please try again in 4.77s."), True, id="minute"),
        pytest.param(refused(429, message=PER_DAY + " Please try again in 1m26.4s."), False, id="day, beyond the cap"),
        pytest.param(refused(429, message=PER_DAY + " Please try again in 26.4s."), True, id="day, nearly over"),
        pytest.param(refused(429, message=NEVER_FITS), False, id="65b never fits"),
        pytest.param(refused(413, message=NEVER_FITS), False, id="413"),
        pytest.param(refused(503, "x-should-retry: false"), False, id="503, but no"),
        pytest.param(refused(429, "x-should-retry: false", "Retry-After: 1"), False, id="429, but no"),
        pytest.param(refused(498, "X-Should-Retry: False"), False, id="498, but no"),
        pytest.param(refused(400, "x-should-retry: true"), True, id="400, but yes"),
        pytest.param(refused(401, "X-Should-Retry: TRUE"), True, id="401, but yes"),
        pytest.param(refused(413, "x-should-retry: true"), True, id="413, but yes"),
        pytest.param(refused(400, "x-should-retry: perhaps"), False, id="400, nonsense"),
        pytest.param(refused(503, "x-should-retry: "), True, id="503, empty"),
        pytest.param(refused(503, "x-should-retry: true", "Retry-After: 61"), False, id="yes, beyond the cap"),
    ],
)
def test_service_words_decide_retry(error, again):
    """The service's words on trying again: limits of the day, hopeless cases, and ``x-should-retry``."""
    assert (decide(error) is not None) is again


@pytest.mark.parametrize(
    "error", [refused(503, "x-should-retry: true"), refused(400, "x-should-retry: true")], ids=["503", "400"]
)
def test_headers_cannot_exceed_retry_count(error):
    """No header goes over the number of retries: the caller's switch stands."""
    assert decide(error, policy=RetryPolicy(max_retries=0)) is None
    assert decide(error, retries=2) is None


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "times"),
    [
        pytest.param(caused(e.APIConnectionError("x", sent=False), ConnectionRefusedError()), 5, id="1 refused"),
        pytest.param(caused(e.APIConnectionError("x", sent=False), socket.gaierror(socket.EAI_NONAME, "x")), 1, id="2 no such name"),
        pytest.param(caused(e.APIConnectionError("x", sent=False), socket.gaierror(socket.EAI_AGAIN, "x")), 5, id="2 resolver away"),
        pytest.param(caused(e.ProtocolError("x", sent=True), http.client.BadStatusLine("x")), 5, id="15 garbage"),
        pytest.param(caused(e.ProtocolError("x", sent=True), http.client.IncompleteRead(b"")), 5, id="16 cut head"),
        pytest.param(caused(e.ProtocolError("x", sent=True), http.client.HTTPException("got more than 100 headers")), 1, id="19 headers"),
        pytest.param(caused(e.ProtocolError("x", sent=True), http.client.LineTooLong("x")), 1, id="20 long line"),
        pytest.param(e.ResponseDecodeError("x"), 1, id="24 empty"),
        pytest.param(caused(e.ProtocolError("x", sent=True), BadFraming("x")), 5, id="35 bad chunk"),
        pytest.param(e.StreamProtocolError("x"), 0, id="43 after chunks"),
    ],
)  # fmt: skip
def test_fault_kind_decides_retry_count(error, times):
    """A fault's kind decides the tries: a broken peer once more, a broken connection as the policy says."""
    assert sum(decide(error, retries=n, policy=RetryPolicy(max_retries=5)) is not None for n in range(9)) == times


def test_the_decision_is_pure():
    """The same in, the same out; the error is left as it is."""
    error = e.RateLimitedError("x", retry_after=3.0)
    before = dict(vars(error))
    assert decide(error, seed=7) == decide(error, seed=7) != decide(error, seed=8)
    assert vars(error) == before


# --- the caller's switches, over a whole call --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [
        refusal(429, headers={"retry-after": "0"}),
        refusal(503),
        refusal(400, headers={"x-should-retry": "true"}),
        e.APIConnectionError("x", sent=False),
        e.APIConnectionError("x", sent=True),
    ],
    ids=["429", "503", "x-should-retry", "never sent", "broken"],
)
def test_no_retries_means_one_try(step):
    """Whatever speaks for another."""
    bench = Bench(step, policy=RetryPolicy(max_retries=0))
    assert len(bench.fails(e.GroqProviderError).attempts) == len(bench.transport.sent) == 1
    assert bench.clock.waits == []


def test_web_fails_fast():
    """One quick retry; a hint above a second is raised at once, and says when."""
    bench = Bench(refusal(503), refusal(503), policy=RetryPolicy.web())
    assert len(bench.fails(e.OverloadedError).attempts) == 2
    assert bench.clock.waits[0] <= 0.25
    bench = Bench(refusal(429, headers={"retry-after": "2"}), policy=RetryPolicy.web())
    error = bench.fails(e.RateLimitedError)
    assert (error.retry_after, len(error.attempts), bench.clock.waits) == (2, 1, [])
    assert error.retry_at is not None


def test_batch_waits_for_the_window():
    """Eight retries, and hints of up to an hour are followed."""
    bench = Bench(
        refusal(429, headers={"retry-after": "3000"}), *[refusal(503)] * 7, answer(), policy=RetryPolicy.batch()
    )
    response = bench.generate()
    assert len(response.attempts) == 9
    assert bench.clock.waits[0] >= 3000
    bench = Bench(refusal(429, headers={"retry-after": "3601"}), policy=RetryPolicy.batch())
    assert bench.fails(e.RateLimitedError).retry_after == 3601


@pytest.mark.parametrize("hint", [8.0, 30.0], ids=["leaves nothing", "beyond"])
def test_hint_over_remaining_time_refused(hint):
    """A hint beyond the time left is refused at once, with ``retry_at``: a sleep would be for nothing."""
    bench = Bench(refusal(429, headers={"retry-after": str(hint)}))
    start = bench.clock.monotonic()
    error = bench.fails(e.RateLimitedError, timeouts=Timeouts(total=8.5))
    assert bench.clock.monotonic() - start == 0.5
    assert error.retry_after == hint
    assert (error.retry_at - bench.clock.now()).total_seconds() == pytest.approx(hint)
    assert len(error.attempts) == 1


def test_throttling_is_told_from_failing():
    """By class."""
    assert throttling(e.RateLimitedError("x"))
    assert throttling(e.OverloadedError("x"))
    assert not throttling(e.ProviderUnavailableError("x"))


# --- the budget --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (e.APIConnectionError("x", sent=False), 0.0),
        (e.APIConnectionError("x", sent=True), 14.0),
        (e.APIConnectionError("x"), 14.0),
        (e.RateLimitedError("x", sent=True), 5.0),
        (e.OverloadedError("x", sent=True), 5.0),
        (e.ProviderUnavailableError("x", sent=True), 14.0),
    ],
    ids=["not sent", "sent", "unknown", "429", "overloaded", "5xx"],
)
def test_what_a_retry_costs(error, cost):
    """Nothing if nothing was sent, little after throttling."""
    assert RetryBudget.cost(error) == cost


def test_total_outage_limits_retries():
    """A total outage gets seven retries and then one in fourteen seconds, for all threads together."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    assert [budget.spend(14.0) for _ in range(9)] == [True] * 7 + [False] * 2
    granted = 0
    for _ in range(1400):
        clock.advance(1)
        granted += budget.spend(14.0)
    assert granted == 100


def test_unsent_call_costs_no_budget():
    """A call that was never sent is free of the budget, however empty that is."""
    budget = RetryBudget(FakeClock())
    while budget.spend(14.0):
        pass
    assert budget.spend(0.0)


@pytest.mark.parametrize(("last", "given"), [(0.0, 1), (5.0, 5), (14.0, 14)], ids=["first try", "throttled", "failed"])
def test_success_returns_last_retry_cost(last, given):
    """A success gives back what its last retry cost; a first try gives back one unit."""
    budget = RetryBudget(FakeClock())
    assert budget.spend(100.0)
    budget.succeeded(last)
    assert not budget.spend(given + 0.5)
    assert budget.spend(given)


def test_budget_holds_at_most_hundred():
    """The budget never holds more than a hundred, neither by time nor by successes."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    clock.advance(10_000)
    for _ in range(50):
        budget.succeeded(14.0)
    assert budget.spend(100.0)
    assert not budget.spend(0.1)


def test_threads_never_overspend_budget():
    """Many threads spend no more than there is: 8 threads, 100 units of one."""
    budget = RetryBudget(FakeClock())
    taken: list[bool] = []
    start = threading.Barrier(8)

    def spend():
        start.wait()
        taken.extend(budget.spend(1.0) for _ in range(50))

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100


def test_many_failures_get_few_retries():
    """In the long run what successes bring in: one retry in fourteen of them, one in five after throttling."""
    for cost in (14.0, 5.0):
        budget, rng = RetryBudget(FakeClock()), random.Random(1)
        retries = successes = 0
        for _ in range(10_000):
            if rng.random() < 0.5:
                successes += 1
                budget.succeeded(0.0)
            else:  # it fails for good, however often it is tried
                retries += sum(budget.spend(cost) for _ in range(2))
        assert successes / cost - 1 <= retries <= (successes + 100) / cost


def test_providers_calls_share_one_budget():
    """Plain ones, streams and other endpoints of twenty threads: seven retries of what failed, together."""

    def fail(sock, server):
        while server.read(sock) is not None:
            sock.sendall(wire_answer(b"{}", status="500 No"))

    errors: list[e.GroqProviderError] = []
    with serving(fail) as server:
        policy = RetryPolicy(max_retries=3, base_delay=0.0)
        with GroqProvider(api_key="gsk_0123456789abcdefghij", base_url=server.url, retry=policy) as provider:
            calls = [
                lambda: provider.generate("x"),
                lambda: provider.generate_stream("x"),
                lambda: provider.request("GET", "/models"),
            ]
            start = threading.Barrier(20)

            def work(number):
                start.wait(PATIENCE)
                with pytest.raises(e.ProviderUnavailableError) as caught:
                    calls[number % 3]()
                errors.append(caught.value)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        assert len(errors) == 20
        assert len(server.requests) == 20 + 7
        assert sum(len(error.attempts) for error in errors) == len(server.requests)
