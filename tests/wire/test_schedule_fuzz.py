"""A schedule fuzzer: threads give way at lines chosen by a seeded generator inside the critical sections, then invariants are checked.

Switch intervals, however short, do not expose a check-then-act race without a call in between; a yield at the line does.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter

import pytest
from support import schedules
from support.fakes import PATIENCE, FakeClock
from support.schedules import FILES, PACKAGE, run
from support.servers import CHUNKED, answer, chunk, read_request, serving

from groq_provider import BreakerPolicy, GroqProvider, LatencyTracker, RateLimits, RetryPolicy
from groq_provider import errors as e
from groq_provider.call.breaker import CircuitBreaker
from groq_provider.call.retry import RetryBudget
from groq_provider.cancel import CancelToken
from groq_provider.clock import SystemClock
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.transport import scope as call_module
from groq_provider.transport.permits import ConnectionLimiter
from groq_provider.transport.scope import CancelScope
from groq_provider.transport.session import SessionTransport
from groq_provider.types.response import Usage
from groq_provider.types.status import RateLimitInfo

MODEL = "m"


seeds = schedules.seeds

pytestmark = pytest.mark.soak


# --- the fuzzer itself -------------------------------------------------------------------------------------------------------


class Careless:
    """A cap that looks, then takes."""

    def __init__(self, room):
        self.room = room
        self.granted = 0

    def take(self):
        if self.room > 0:
            left = self.room - 1
            self.room = left
            self.granted += 1


def test_a_planted_race_is_found():
    """Without the yields it passes thousands of times."""

    def over_admits(seed):
        cap = Careless(10)

        def take(_rng):
            for _ in range(5):
                cap.take()

        run(seed, *[take] * 4, files={__file__})
        return cap.room != 10 - cap.granted or cap.granted > 10

    assert any(over_admits(seed) for seed in range(100))


# --- the limiter -------------------------------------------------------------------------------------------------------------


class QuickClock(SystemClock):
    """Time that passes a thousand times as fast."""

    @staticmethod
    def monotonic():
        return time.monotonic() * 1000

    def wait(self, lock, timeout):
        return super().wait(lock, None if timeout is None else timeout / 1000)


def usage(prompt, completion):
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def test_reservations_are_conserved(seeds):
    """With time standing still: what is used is what was kept and settled, each reservation ended by one thread of several."""
    for seed in seeds:
        limiter = TokenBucketRateLimiter(RateLimits(rpd=10_000, tpd=1_000_000, share=1.0), clock=FakeClock())
        shared = [limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=1000) for _ in range(4)]

        def work(rng, limiter=limiter, shared=shared):
            used = requests = 0
            for _ in range(4):
                held = limiter.reserve(MODEL, prompt_tokens=0, max_output_tokens=rng.choice([10, 100]))
                match rng.randrange(4):
                    case 0:
                        held.settle(usage(0, 7))
                        used, requests = used + 7, requests + 1
                    case 1:
                        held.refund()
                    case 2:
                        held.refund(keep_request=True)
                        requests += 1
                    case 3:
                        held.settle(usage(0, 500))  # more than was reserved
                        used, requests = used + 500, requests + 1
                held.keep()
                shared[rng.randrange(4)].settle(usage(0, 3))
                limiter.get_status()
            return used, requests

        results = run(seed, *[work] * 4)
        for held in shared:
            held.settle(usage(0, 3))
        status = limiter.get_status()[MODEL]
        assert (status.in_flight, status.waiting) == (0, 0), seed
        windows = status.windows
        assert 1_000_000 - windows["tpd"].remaining == sum(used for used, _ in results) + 4 * 3, seed
        assert 10_000 - windows["rpd"].remaining == sum(requests for _, requests in results) + 4, seed


def test_the_queue_loses_nobody(seeds):
    """Waits, deadlines, cancels, credits, headers and refusals at once: everybody gets out, and nothing is held afterwards."""
    outcomes: Counter = Counter()
    for seed in seeds:
        limiter = TokenBucketRateLimiter(RateLimits(rpm=600, tpm=6_000, share=1.0), clock=QuickClock())
        tokens = [CancelToken() for _ in range(3)]

        def work(rng, limiter=limiter, tokens=tokens):
            arrival = None
            for _ in range(4):
                deadline = QuickClock.monotonic() + rng.choice([1.0, 20.0, 1000.0])
                try:
                    held = limiter.reserve(
                        MODEL,
                        prompt_tokens=10,
                        max_output_tokens=rng.choice([10, 500, 3000]),
                        deadline=deadline,
                        cancel=rng.choice([None, *tokens]),
                        batch=rng.random() < 0.3,
                        arrival=arrival,
                    )
                except e.DeadlineExceededError:
                    outcomes["late"] += 1
                    continue
                except e.RequestCancelledError:
                    outcomes["cancelled"] += 1
                    continue
                outcomes["granted"] += 1
                arrival = held.arrival if rng.random() < 0.3 else None
                chance = rng.randrange(5)
                if chance == 0:
                    held.feedback(None, e.RateLimitedError("no", retry_after=rng.choice([None, 0.5])))
                    held.refund(keep_request=True)
                elif chance == 1:
                    held.feedback(RateLimitInfo(limit_tokens=6_000, remaining_tokens=3_000, reset_tokens=30.0))
                    held.settle(usage(10, 10))
                elif chance == 2:
                    held.refund()
                elif chance == 3:
                    held.keep()
                else:
                    del held  # forgotten

        def cancel(rng, tokens=tokens):
            for token in tokens[1:]:
                time.sleep(rng.random() * 0.002)
                token.cancel()

        run(seed, *[work] * 5, cancel)
        status = limiter.get_status()[MODEL]
        assert (status.in_flight, status.waiting) == (0, 0), seed
        assert all(window.remaining <= window.limit for window in status.windows.values()), seed
        assert limiter._models[MODEL]._in_flight_output == 0, seed
    assert min(outcomes[kind] for kind in ("granted", "late", "cancelled")) > 0


def test_windows_never_exceed_limit(seeds):
    """By the bucket's own clock: never more than burst and refill together."""
    for seed in seeds:
        limiter = TokenBucketRateLimiter(RateLimits(rpm=30), clock=QuickClock())
        started = QuickClock.monotonic()

        def work(_rng, limiter=limiter):
            for _ in range(7):
                limiter.reserve(MODEL, prompt_tokens=1, max_output_tokens=1).keep()
            return QuickClock.monotonic()

        last = max(run(seed, *[work] * 5))
        assert 30 + (last - started) / 2.0 + 1e-3 >= 35, seed


# --- connections -------------------------------------------------------------------------------------------------------------


def echo(sock, _server):
    while (request := read_request(sock)) is not None:
        half = len(request.body) // 2
        whole = answer(request.body)
        sock.sendall(whole[:-half])
        sock.sendall(whole[-half:])


def test_late_cancel_spares_other_calls(seeds):
    """Calls end just as they are cancelled; who was not cancelled gets its own answer, at the first try."""
    outcomes: Counter = Counter()
    with serving(echo) as server:
        for seed in seeds:
            transport = SessionTransport(server.url, clock=SystemClock())
            doomed: list[CancelScope] = []

            def fetch(call, text, transport=transport):
                body = text.encode() * 50
                response = transport.send("POST", "/x", headers=None, body=body, scope=call)
                assert response.read_body(1 << 20) == body

            def sure(rng, fetch=fetch):
                for _ in range(4):
                    call = CancelScope(SystemClock(), total_deadline=time.monotonic() + PATIENCE)
                    fetch(call, f"sure{rng.random()}")
                    assert call.resends == 0
                    outcomes["sure"] += 1

            def unsure(rng, fetch=fetch, doomed=doomed):
                for _ in range(4):
                    call = CancelScope(SystemClock(), total_deadline=time.monotonic() + PATIENCE)
                    doomed.append(call)
                    try:
                        fetch(call, f"unsure{rng.random()}")
                        outcomes["in time"] += 1
                    except e.RequestCancelledError:
                        outcomes["cancelled"] += 1

            def leaving(rng, transport=transport):
                for _ in range(2):
                    call = CancelScope(SystemClock(), total_deadline=time.monotonic() + PATIENCE)
                    response = transport.send("POST", "/x", headers=None, body=b"left" * 500, scope=call)
                    response.close() if rng.random() < 0.5 else response.abandon()

            def cancel(rng, doomed=doomed):
                for _ in range(30):
                    time.sleep(rng.random() * 0.0005)
                    if doomed:
                        doomed[-1 if rng.random() < 0.7 else rng.randrange(len(doomed))].cancel()

            try:
                run(seed, sure, sure, unsure, unsure, leaving, cancel)
                pool = transport.adapter._pool
                assert pool.idle() <= 6, seed
                assert all(call._bound is None for call in doomed), seed
            finally:
                transport.close()
    assert min(outcomes[kind] for kind in ("sure", "in time", "cancelled")) > 0


def test_closing_leaves_no_connection(seeds):
    """Whatever comes back to the pool while it is closed."""
    with serving(echo) as server:
        for seed in seeds:
            transport = SessionTransport(server.url, clock=SystemClock())

            def call(_rng, transport=transport):
                for number in range(4):
                    state = CancelScope(SystemClock(), total_deadline=time.monotonic() + PATIENCE)
                    body = b"%d" % number * 20
                    try:
                        response = transport.send("POST", "/x", headers=None, body=body, scope=state)
                        assert response.read_body(1 << 20) == body
                    except e.ProviderClosedError:
                        return

            def close(rng, transport=transport):
                time.sleep(rng.random() * 0.003)
                transport.close()
                transport.close()

            run(seed, call, call, call, close)
            pool = transport.adapter._pool
            assert pool is None or pool.idle() == 0, seed
        deadline = time.monotonic() + PATIENCE
        while server._open:
            assert time.monotonic() < deadline, "a connection is still open"
            time.sleep(0.001)


def test_permits_neither_lost_nor_doubled(seeds):
    """Grants, time limits, cancels and finalizers at once: never more than two hold one, and in the end both are free."""
    for seed in seeds:
        permits = ConnectionLimiter(2)
        holding: list[int] = []
        most: list[int] = []
        calls: list[CancelScope] = []

        def work(rng, permits=permits, holding=holding, most=most, calls=calls):
            for _ in range(4):
                call = CancelScope(SystemClock())
                calls.append(call)
                limit = None if rng.random() < 0.5 else time.monotonic() + rng.random() * 0.002
                try:
                    permit = permits.acquire(call, limit)
                except (e.PoolTimeoutError, e.RequestCancelledError):
                    continue
                holding.append(1)
                most.append(len(holding))
                if rng.random() < 0.5:
                    time.sleep(0)
                holding.pop()
                if rng.random() < 0.5:
                    permit.release()
                    permit.release()
                del permit

        def cancel(rng, calls=calls):
            for _ in range(10):
                time.sleep(rng.random() * 0.0005)
                if calls:
                    rng.choice(calls).cancel()

        run(seed, *[work] * 5, cancel)
        assert max(most) <= 2, seed
        assert (permits._free_permits, len(permits._waiters), len(permits._returned_permits)) == (2, 0, 0), seed


# --- whole calls -------------------------------------------------------------------------------------------------------------

WHOLE = FILES | {
    str(PACKAGE / name)
    for name in (
        "call/runtime.py",
        "call/call.py",
        "call/stream.py",
        "call/chunk_decoder.py",
        "call/body_sniffer.py",
        "call/arrival.py",
        "transport/session.py",
        "transport/requests_adapter.py",
    )
}


def moody(sock, server):
    """Give back what was asked; now and then refuse, or break a stream off."""
    mood = random.Random(server.connections)
    while (request := server.read(sock)) is not None:
        asked = json.loads(request.body)
        text, stream = asked["messages"][0]["content"], asked.get("stream", False)
        chance = mood.random()
        message = {"role": "assistant", "content": text}
        if chance < 0.2:
            sock.sendall(answer(b"{}", "Retry-After: 0", status="503 Busy"))
        elif not stream:
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            sock.sendall(answer(json.dumps({"id": "1", "model": MODEL, "choices": choices}).encode()))
        else:
            events = [
                json.dumps({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": finish}]})
                for piece, finish in ((text[:3], None), (text[3:], None), (None, "stop"))
            ]
            sock.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n"))
            for number, data in enumerate([*events, "[DONE]"]):
                if number == 1 and chance < 0.35:
                    return
                sock.sendall(chunk(f"data: {data}\n\n".encode()))
            sock.sendall(b"0\r\n\r\n")


def test_calls_end_exactly_once(seeds):
    """Answers, refusals, broken and left streams, cancels and a close at once: own answers only, all books closed, each call counted once."""
    outcomes: Counter = Counter()
    with serving(moody) as server:
        for seed in seeds:
            policy = RetryPolicy(max_retries=2, base_delay=0.001, throttle_delay=0.001)
            provider = GroqProvider(
                api_key="gsk_0123456789abcdefghij",
                base_url=server.url,
                default_model=MODEL,
                retry=policy,
                timeout=PATIENCE,
            )
            tokens = [CancelToken() for _ in range(6)]
            counted: list[bool | None] = []

            def work(rng, provider=provider, tokens=tokens, counted=counted):
                for _ in range(4):
                    text, token = f"text {rng.random()}", rng.choice([None, *tokens])
                    try:
                        if rng.random() < 0.4:
                            given = provider.generate(text, cancel=token).content
                        else:
                            with provider.generate_stream(text, cancel=token) as stream:
                                if rng.random() < 0.2:
                                    assert text.startswith(next(stream).content)
                                    outcomes["left"] += 1
                                    counted.append(True)  # with its time to the first token
                                    continue
                                given = "".join(piece.content for piece in stream)
                        assert given == text
                        counted.append(True)
                        outcomes["answered"] += 1
                    except (e.RequestCancelledError, e.ProviderClosedError) as error:
                        counted.append(None)  # an end of our own
                        outcomes[type(error).__name__] += 1
                    except (e.OverloadedError, e.StreamInterruptedError, e.StreamProtocolError) as error:
                        counted.append(False)
                        outcomes[type(error).__name__] += 1

            def disturb(rng, provider=provider, tokens=tokens, seed=seed):
                for token in tokens:
                    time.sleep(rng.random() * 0.01)
                    token.cancel()
                if seed % 3 == 0:
                    provider.close()

            try:
                run(seed, *[work] * 4, disturb, files=WHOLE)
                status = provider.get_rate_limits().get(MODEL)
                assert provider._runtime.in_flight == 0, seed
                assert status is None or (status.in_flight, status.waiting) == (0, 0), seed
                assert all(token._callbacks == {} for token in tokens), seed
                found = provider.get_latency_metrics()
                assert (found.success_count, found.error_count) == (counted.count(True), counted.count(False)), seed
                assert found.local_count <= counted.count(None), seed  # a closed provider begins none
                pool = provider._transport.adapter._pool
                assert pool is None or pool.idle() <= (0 if seed % 3 == 0 else 4), seed
            finally:
                provider.close()
    assert set(outcomes) >= {
        "answered",
        "left",
        "RequestCancelledError",
        "ProviderClosedError",
        "StreamInterruptedError",
    }


# --- cancelling --------------------------------------------------------------------------------------------------------------


def test_every_subscriber_is_told_once(seeds):
    """Who is subscribed when it happens, or after; nobody who had left before."""
    for seed in seeds:
        token = CancelToken()
        told: Counter = Counter()
        before = token.subscribe(lambda told=told: told.update(["left"]))
        token.unsubscribe(before)

        def work(rng, token=token, told=told):
            kept = []
            for number in range(6):
                name = (threading.get_ident(), number)
                handle = token.subscribe(lambda name=name: told.update([name]))
                if rng.random() < 0.5:
                    token.unsubscribe(handle)
                else:
                    kept.append(name)
            return kept

        def cancel(_rng, token=token):
            token.cancel()
            token.cancel()

        kept = [name for names in run(seed, work, work, work, cancel, cancel)[:3] for name in names]
        assert all(told[name] == 1 for name in kept), seed
        assert max(told.values()) == 1, seed
        assert "left" not in told
        assert token._callbacks == {}, seed


def test_cancel_closes_only_own_socket(seeds, monkeypatch):
    """A socket that is bound, or none: never one that was let go and belongs to another call by now."""
    wrong: list[str] = []
    owners: dict[int, CancelScope | None] = {}

    def shutdown(sock, _how):
        if owners.get(sock) is not shutting.call:
            wrong.append(f"socket {sock} was shut down by a call that no longer owns it")

    shutting = threading.local()
    monkeypatch.setattr(call_module, "_shutdown", shutdown)
    for seed in seeds:
        owners.clear()
        shared: list[CancelScope] = []

        def work(rng, shared=shared):
            sock = rng.getrandbits(40)  # stands for one kept connection
            for _ in range(6):
                call = CancelScope(SystemClock())
                shared.append(call)
                owners[sock] = call  # before it may be shut down
                try:
                    call.bind(sock)
                except e.RequestCancelledError:
                    continue
                call.unbind()
                owners[sock] = None  # whoever comes next

        def cancel(rng, shared=shared):
            for _ in range(20):
                time.sleep(0)
                if shared:
                    shutting.call = shared[-1 if rng.random() < 0.8 else rng.randrange(len(shared))]
                    shutting.call.cancel()

        run(seed, work, work, cancel, cancel)
        assert wrong == [], seed
        assert all(call._bound is None for call in shared), seed


def test_sockets_survive_last_users_cancel(seeds):
    """The same with a socket: once unbound it still carries."""
    for seed in seeds:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            calls = [CancelScope(SystemClock()) for _ in range(5)]

            def work(_rng, calls=calls, ours=ours):
                for call in calls:
                    call.begin(None)
                    call.unbind()
                last = CancelScope(SystemClock())
                last.bind(ours)
                ours.sendall(b"still there")
                last.unbind()

            def cancel(_rng, calls=calls):
                for call in calls:
                    call.cancel()

            run(seed, work, cancel)
            assert theirs.recv(100) == b"still there", seed


# --- the rest ----------------------------------------------------------------------------------------------------------------


def test_breaker_respects_probe_limit(seeds):
    """However outcomes and permits cross; in the end none is out."""
    states: Counter = Counter()
    for seed in seeds:
        clock = FakeClock()
        policy = BreakerPolicy(min_calls=4, not_sent_in_a_row=3, open_for=5.0, jitter=0.0)
        breaker = CircuitBreaker(policy, clock)
        probes: list[int] = []
        most = [0]

        def work(rng, breaker=breaker, probes=probes, most=most, clock=clock):
            for _ in range(12):
                try:
                    permit = breaker.acquire()
                except e.CircuitOpenError as error:
                    states["refused" if error.retry_after > 0 else "refused without a hint"] += 1
                    clock.advance(rng.choice([0.1, 5.0]))
                    continue
                if permit.probe:
                    states["probe"] += 1
                    probes.append(permit.generation)
                    most[0] = max(most[0], probes.count(permit.generation))
                    probes.remove(permit.generation)
                breaker.report(permit, rng.choice([True, True, False, False, None]), not_sent=rng.random() < 0.5)

        run(seed, *[work] * 5)
        assert most[0] <= policy.probes, seed
        assert breaker.state == "closed" or breaker._probing == 0, seed
        assert 0 <= breaker._not_sent < policy.not_sent_in_a_row, seed
    assert set(states) == {"refused", "probe"}


def test_every_call_is_counted(seeds):
    """Samples, successes and failures of several models, while others look and one resets another tracker."""
    for seed in seeds:
        tracker, other = LatencyTracker(50), LatencyTracker()

        def work(rng, tracker=tracker, other=other):
            for _ in range(10):
                model = rng.choice("abc")
                tracker.record(model, total=1.0, ok=rng.random() < 0.5)
                other.record(model, total=1.0)
                metrics = tracker.get_metrics(rng.choice([None, model]))
                assert metrics.sample_count == min(metrics.success_count, metrics.sample_count)
                if rng.random() < 0.1:
                    other.reset()

        run(seed, *[work] * 4)
        metrics = tracker.get_metrics()
        assert metrics.success_count + metrics.error_count == 40, seed
        assert metrics.sample_count == metrics.success_count, seed
        assert other.get_metrics().success_count <= 40


def test_retry_budget_is_never_overdrawn(seeds):
    """With time standing still a hundred units are seven retries, whoever takes them."""
    for seed in seeds:
        budget = RetryBudget(FakeClock())

        def work(_rng, budget=budget):
            return sum(budget.spend(14.0) for _ in range(4))

        assert sum(run(seed, *[work] * 5)) == 7, seed
        assert budget._units == pytest.approx(2.0)
        run(seed, *[lambda _rng, budget=budget: budget.succeeded(14.0)] * 5)
        assert budget._units == pytest.approx(72.0)
