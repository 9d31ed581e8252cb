"""Bulk runs: order, bounds, errors as results."""

from __future__ import annotations

import contextvars
import gc
import itertools
import logging
import math
import threading
import time
import weakref
from datetime import datetime, timezone

import pytest
from support.fakes import PATIENCE

from groq_provider import (
    Attempt,
    BulkResult,
    CancelToken,
    GroqProvider,
    LLMRequest,
    LLMResponse,
    Message,
    RateLimits,
    RetryPolicy,
    Timing,
    TokenBucketRateLimiter,
    Usage,
)
from groq_provider import errors as e
from groq_provider.bulk.run import BulkRun, _load_signals
from groq_provider.testing import Emulator, Gate, Reply


def reply(request):
    return LLMResponse(
        provider="groq", model="m", content=request.messages[0].content.upper(), timing=Timing(total=1.0)
    )


def echo(request, token):
    return reply(request)


def bulk(requests, call=echo, *, fields=None, max_workers=2, ordered=True, cancel=None):
    return BulkRun(requests, call, fields=fields or {}, max_workers=max_workers, ordered=ordered, cancel=cancel)


class Hold:
    """Calls that wait until they are let go, or cancelled."""

    def __init__(self):
        self.events = {}
        self.lock = threading.Lock()
        self.started = threading.Semaphore(0)

    def event(self, text):
        with self.lock:
            return self.events.setdefault(text, threading.Event())

    def __call__(self, request, token):
        event = self.event(request.messages[0].content)
        handle = token.subscribe(event.set)
        self.started.release()
        assert event.wait(PATIENCE)
        token.unsubscribe(handle)
        if token.cancelled:
            raise e.RequestCancelledError("cancelled")
        return reply(request)


# --- order -------------------------------------------------------------------------------------------------------------------


def test_results_keep_input_order():
    """Results keep the order of the input, however long each takes."""
    hold = Hold()
    with bulk(list("abcd"), hold, max_workers=4) as run:
        for text in "dcba":
            hold.event(text).set()
        results = list(run)
    assert [(r.index, r.custom_id, r.response.content) for r in results] == [
        (0, "0", "A"), (1, "1", "B"), (2, "2", "C"), (3, "3", "D"),
    ]  # fmt: skip
    assert all(r.ok and r.error is None and r.request is not None for r in results)


def test_results_in_order_of_finish():
    """With ordered=False results come as they finish."""
    hold = Hold()
    with bulk(list("abc"), hold, max_workers=3, ordered=False) as run:
        seen = []
        for text in "cab":
            hold.event(text).set()
            seen.append(next(run).response.content)
        assert list(run) == []
    assert seen == ["C", "A", "B"]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [3, "auto"])
def test_one_result_per_item(ordered, workers):
    """Every item has exactly one result, also with a hundred items and few workers."""
    results = list(bulk([str(i) for i in range(100)], max_workers=workers, ordered=ordered))
    assert sorted(r.index for r in results) == list(range(100))
    assert all(r.response.content == str(r.index) for r in results)


@pytest.mark.parametrize("workers", [2, "auto"])
def test_an_empty_input_gives_nothing(workers):
    """A run over an empty input ends at once."""
    assert list(bulk([], max_workers=workers)) == []


# --- laziness ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [1, 3])
def test_endless_input_read_as_needed(ordered, workers):
    """At most twice as many items as workers ahead of the results."""
    taken = itertools.count()
    most = 0
    with bulk((str(next(taken)) for _ in itertools.count()), max_workers=workers, ordered=ordered) as run:
        assert next(taken) == 0  # nothing is read before the first ``next()``
        for given in range(50):
            next(run)
            most = max(most, run.submitted - given)
        assert most == 2 * workers
        assert run.completed == 50
        assert repr(run) == f"<BulkRun 50 of {run.submitted} taken done>"


# --- errors ------------------------------------------------------------------------------------------------------------------


def test_an_error_is_a_result():
    """One item that fails does not stop the others."""

    def call(request, token):
        if request.messages[0].content == "b":
            raise e.RateLimitedError("slow down", status_code=429)
        return reply(request)

    first, second, third = bulk(list("abc"), call)
    assert (first.ok, second.ok, third.ok) == (True, False, True)
    assert second.response is None
    assert second.error.status_code == 429
    assert second.request.messages[0].content == "b"


@pytest.mark.parametrize("bad", [5, None, "", [], {"role": "user"}, [{"role": 5, "content": "x"}], b"x"], ids=repr)
def test_non_request_item_gives_error(bad):
    """An item that is no request is a result with an error and without a request."""
    good, failed = bulk(["a", bad])
    assert good.ok
    assert isinstance(failed.error, e.InvalidRequestError)
    assert (failed.index, failed.custom_id, failed.request) == (1, "1", None)


def test_bug_spares_other_items():
    """A bug in one item does not end the others: the error wraps it as its cause."""

    def call(request, token):
        if request.messages[0].content == "b":
            raise ZeroDivisionError("oops")
        return reply(request)

    first, second, third = bulk(list("abc"), call)
    assert (first.ok, third.ok) == (True, True)
    assert isinstance(second.error, e.GroqProviderError)
    assert isinstance(second.error.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError" in str(second.error)


def test_items_take_several_forms():
    """Items may be text, messages or requests; fields of the run override those of a request."""
    items = [
        "a",
        [{"role": "user", "content": "b"}],
        [Message(role="user", content="c")],
        LLMRequest(messages="d", custom_id="mine"),
    ]
    results = list(bulk(items, fields={"temperature": 0.5}))
    assert [r.response.content for r in results] == list("ABCD")
    assert [r.custom_id for r in results] == ["0", "1", "2", "mine"]
    assert {r.request.temperature for r in results} == {0.5}


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, None, "2", "", "AUTO", "automatic", b"auto"], ids=repr)
def test_worker_count_is_checked(workers):
    """``max_workers`` must be an integer of at least 1, or "auto"."""
    with pytest.raises(e.ConfigurationError) as caught:
        bulk([], max_workers=workers)
    assert str(caught.value) == f'max_workers = {workers!r}: must be an integer of at least 1, or "auto"'


def test_a_number_of_workers_stays():
    """A fixed number of workers stays, whatever errors the service sends."""

    def call(request, token):
        raise e.OverloadedError("full", status_code=498)

    with bulk([str(i) for i in range(40)], call, max_workers=5) as run:
        assert {run.workers for _ in run} == {5}
        with pytest.raises(AttributeError):
            run.workers = 6


@pytest.mark.parametrize(
    "one",
    [
        "one text",
        b"bytes",
        {"role": "user", "content": "x"},
        Message(role="user", content="x"),
        LLMRequest(messages="x"),
        5,
        None,
    ],
    ids=lambda one: type(one).__name__,
)
def test_single_prompt_is_refused(one):
    """One prompt instead of many is refused: its letters, keys or fields are no prompts."""
    with pytest.raises(e.InvalidRequestError, match="list"):
        bulk(one)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_failing_input_raises_last(ordered):
    """An input that fails raises after the results of the items in flight: no answer that was billed is lost."""

    def items():
        yield from "abc"
        raise OSError("disk gone")

    run = bulk(items(), max_workers=4, ordered=ordered)
    assert sorted(next(run).response.content for _ in range(3)) == list("ABC")
    for _ in range(2):  # a caller that goes on gets it again
        with pytest.raises(OSError, match="disk gone"):
            next(run)


# --- ending ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["run.cancel", "token"])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [2, "auto"])
def test_cancel_ends_unfinished_items(how, ordered, workers):
    """A cancel from another thread ends the unfinished items, each with a result, and no more input is read."""
    hold, token = Hold(), CancelToken()
    run = bulk((str(i) for i in itertools.count()), hold, ordered=ordered, cancel=token, max_workers=workers)
    canceller = threading.Thread(
        target=lambda: (hold.started.acquire(timeout=PATIENCE), (run.cancel if how == "run.cancel" else token.cancel)())
    )
    canceller.start()
    results = []
    with pytest.raises(e.RequestCancelledError, match="the others were not taken"):
        results.extend(run)  # keeps the results before the error
    canceller.join()
    assert 1 <= len(results) <= 2 * run.workers
    assert {type(r.error) for r in results} == {e.RequestCancelledError}
    assert "0 calls" in repr(token)


def test_a_cancelled_token_begins_nothing():
    """A run with a cancelled token does not read its input."""
    token = CancelToken()
    token.cancel()
    with pytest.raises(e.RequestCancelledError, match="after 0 items"):
        list(bulk(iter(lambda: pytest.fail("read"), None), cancel=token))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [2, "auto"])
def test_early_exit_ends_unfinished_items(ordered, workers):
    """Leaving early ends the unfinished items and the threads before the ``with`` statement ends."""
    hold = Hold()
    hold.event("0").set()
    with bulk((str(i) for i in itertools.count()), hold, ordered=ordered, max_workers=workers) as run:
        assert next(run).ok
    assert [thread for thread in threading.enumerate() if thread.name.startswith("groq-bulk")] == []
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(run)
    run.close()


@pytest.mark.parametrize("workers", [2, "auto"])
def test_forgotten_run_is_collected(workers):
    """An abandoned run is collected and ends its work, since its threads do not refer to it."""
    hold = Hold()
    run = bulk((str(i) for i in itertools.count()), hold, max_workers=workers)
    hold.event("0").set()
    next(run)
    gone = weakref.ref(run)
    del run
    gc.collect()
    assert gone() is None  # a fixture checks after every test that no thread runs on


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("where", ["waiting", "reading"])
@pytest.mark.parametrize("workers", [2, "auto"])
def test_interrupt_ends_run_and_propagates(monkeypatch, where, ordered, workers):
    """Ctrl-C during the wait or in the input closes the run and propagates."""
    hold = Hold()

    def items():
        yield "a"
        yield "b"
        if where == "reading":
            raise KeyboardInterrupt

    run = bulk(items(), hold, ordered=ordered, max_workers=workers)
    if where == "waiting":

        def interrupted(self, *args):
            raise KeyboardInterrupt

        target = ("concurrent.futures.Future.result", interrupted) if ordered else None
        if target is None:
            monkeypatch.setattr(
                run, "_finished_futures", type("Queue", (), {"put": lambda *a: None, "get": interrupted})()
            )
        else:
            monkeypatch.setattr(*target)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="closed before its end"):
        next(run)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [2, "auto"])
def test_exiting_worker_never_hangs_run(ordered, workers):
    """A worker that is told to exit does not hang the run: the exit propagates to the reader."""

    def call(request, token):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        next(bulk(["a"], call, ordered=ordered, max_workers=workers))


def test_context_variables_reach_the_workers():
    """Each item sees the context variables of the iterating thread at its submission."""
    trace = contextvars.ContextVar("trace", default="none")
    seen = []

    def call(request, token):
        seen.append(trace.get())
        trace.set("changed")
        return reply(request)

    run = bulk(list("abcdef"), call, max_workers=1)
    trace.set("first")
    next(run)
    trace.set("second")
    list(run)
    assert set(seen) == {"first", "second"}
    assert seen[0] == "first"


def test_a_result_is_a_value():
    """Frozen and comparable."""
    assert BulkResult(index=1, custom_id="1") == BulkResult(index=1, custom_id="1")


# --- as many workers as the service can use ----------------------------------------------------------------------------------


def attempt(**more):
    return Attempt(number=1, started_at=datetime.now(timezone.utc), **more)


class Crowd:
    """A service whose answers come only while every worker waits for one, so that no worker ever looks idle.

    Args:
        latency: Function of the number of calls in flight; returns the reported seconds of an answer.
        answer: Function of that latency; returns the answer, or raises.
    """

    def __init__(self, latency=lambda active: 1.0, answer=None):
        self.latency, self.answer = latency, answer or self.plain
        self.changed = threading.Condition()  # guards the rest
        self.active = self.most = self.asked = 0
        self.waiting = []  # their numbers; the first to arrive is answered first
        self.over = False  # there are no further items: release the last ones
        self.run = None

    @staticmethod
    def plain(number, took):
        return LLMResponse(timing=Timing(total=took))

    def items(self, count):
        yield from map(str, range(count))
        self.over = True

    def __call__(self, request, token):
        until = time.monotonic() + PATIENCE
        with self.changed:
            self.active += 1
            self.asked += 1
            number = self.asked
            self.waiting.append(number)
            self.most = max(self.most, self.active)
            self.changed.notify_all()
            while not token.cancelled and (
                self.waiting[0] != number or (self.active < self.run.workers and not self.over)
            ):
                assert time.monotonic() < until, f"{self.active} of {self.run.workers} workers came"
                self.changed.wait(0.01)  # the number of workers may fall without a notice
            took = self.latency(self.active)
            self.active -= 1
            self.waiting.remove(number)
            self.changed.notify_all()
        return self.answer(number, took)

    def start(self, count):
        self.run = bulk(self.items(count), self, max_workers="auto", ordered=False)
        return self.run


def test_busy_run_takes_more_workers():
    """It takes more workers while all are busy: as many threads as needed, and twice as many items."""
    crowd = Crowd()
    with crowd.start(180) as run:
        assert run.workers == 4
        seen = []
        for given, result in enumerate(run):
            assert result.ok
            assert run.submitted - given <= 2 * run.workers
            seen.append(run.workers)
    assert seen == sorted(seen)
    assert set(seen) == {4, 8, 16, 32, 64}
    assert 32 <= crowd.most <= 64


def test_threads_start_when_needed():
    """Four items, four threads at most."""
    crowd = Crowd()
    with crowd.start(400) as run:
        next(run)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("groq-bulk")]
        assert len(threads) == 4


@pytest.mark.parametrize("slots", [6, 20])
def test_workers_match_service_concurrency(slots):
    """It takes as many workers as the service works on at once; more of them only become slower."""
    crowd = Crowd(lambda active: max(1.0, active / slots))
    with crowd.start(slots * 100) as run:
        seen = [run.workers for _ in run][slots * 50 : -4 * slots]
    assert 0.6 * slots <= sum(seen) / len(seen) <= 1.7 * slots


@pytest.mark.parametrize("kind", ["429", "498", "429, then an answer", "498, then an answer"])
def test_refusal_burst_halves_workers_once(kind, caplog):
    """A burst of refusals halves the workers once; an answer that a retry brought says so, too."""
    error = e.RateLimitedError if kind.startswith("429") else e.OverloadedError

    def answer(number, took):
        if number > 4:  # the first four are in flight together
            return Crowd.plain(number, took)
        if "answer" not in kind:
            raise error("no room", status_code=int(kind))
        tries = [attempt(error=error.__name__), attempt(duration=took)]
        return LLMResponse(timing=Timing(total=took), attempts=tuple(tries))

    crowd = Crowd(answer=answer)
    with caplog.at_level(logging.DEBUG, "groq_provider.bulk.run"), crowd.start(15) as run:
        results = list(run)
    assert sum(not result.ok for result in results) == (0 if "answer" in kind else 4)
    changes = [record.getMessage() for record in caplog.records if record.name == "groq_provider.bulk.run"]
    assert changes == ["workers: 2 instead of 4"]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_slow_input_adds_no_workers(ordered):
    """A slow input, which yields an item only after the answer to the last one, adds no workers."""
    done = threading.Semaphore(1)

    def items():
        for i in range(200):
            assert done.acquire(timeout=PATIENCE)
            yield str(i)

    def call(request, token):
        done.release()
        return reply(request)

    with bulk(items(), call, max_workers="auto", ordered=ordered) as run:
        assert {run.workers for _ in run} == {4}


def test_limiter_wait_adds_no_workers():
    """Calls that wait in the limiter add no workers, which would only wait there, too."""
    crowd = Crowd(answer=lambda number, took: LLMResponse(timing=Timing(total=took + 0.2, wait=0.2)))
    with crowd.start(200) as run:
        assert {run.workers for _ in run} == {4}


def test_context_variables_reach_changing_workers():
    """With "auto", too, each item sees the context variables of the iterating thread."""
    trace = contextvars.ContextVar("trace", default="none")
    seen = set()

    def call(request, token):
        seen.add(trace.get())
        return reply(request)

    trace.set("mine")
    list(bulk(list("abcdef"), call, max_workers="auto"))
    assert seen == {"mine"}


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_run_survives_thread_shortage(monkeypatch, threads):
    """If the system starts no more threads, the run uses those it has; without any, the iterating thread."""
    start, left = threading.Thread.start, itertools.count(1)

    def scarce(self):
        if self.name.startswith("groq-bulk") and next(left) > threads:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", scarce)
    hold = Hold()

    def items():
        yield from map(str, range(7))
        for i in range(8):
            hold.event(str(i)).set()
        yield "7"

    run = bulk(items(), hold if threads else lambda request, token: reply(request), max_workers="auto")
    assert [result.index for result in run if result.ok] == list(range(8))


def test_wrong_answer_never_hangs_run():
    """A call that breaks its contract raises in the thread that reads its result."""
    with pytest.raises(AttributeError):
        next(bulk(["a"], lambda request, token: "text", max_workers="auto"))


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (LLMResponse(timing=Timing(total=3, wait=1)), {"latency": 2, "queued": True}),
        (LLMResponse(timing=Timing(total=3, wait=0.1)), {"latency": 2.9, "queued": False}),
        (LLMResponse(timing=Timing(total=1, wait=3)), {"latency": 0, "queued": True}),
        (
            LLMResponse(timing=Timing(total=9), attempts=(attempt(error="ProtocolError"), attempt(duration=2))),
            {"latency": 2, "queued": False},
        ),
        (LLMResponse(timing=Timing(total=3), usage=Usage(completion_tokens=250)), {"latency": 1.5, "queued": False}),
        (
            LLMResponse(
                timing=Timing(total=3), usage=Usage(completion_tokens=200, prompt_time=0.5, completion_time=2.0)
            ),
            {"latency": 1.5, "queued": False},
        ),
        (LLMResponse(attempts=(attempt(error="OverloadedError"), attempt())), {"overloaded": True}),
        (e.RateLimitedError("x", status_code=429), {"overloaded": True}),
        (e.OverloadedError("x", status_code=503), {"overloaded": True}),
        (e.RateLimitedError("the limiter itself", scope="day"), {}),
        (e.RateLimitTimeoutError("x"), {}),
        (e.RateLimitTimeoutError("x", attempts=(attempt(error="RateLimitedError"),)), {"overloaded": True}),
        (e.ReadTimeoutError("x", sent=True), {"latency": math.inf, "queued": True}),
        (e.DeadlineExceededError("x"), {"latency": math.inf, "queued": True}),
        (e.DeadlineExceededError("x", sent=False), {}),
        (e.APIConnectionError("x"), {}),
        (e.AuthenticationError("x", status_code=401), {}),
        (e.ProviderUnavailableError("x", status_code=500), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_item_reports_load(result, outcome):
    """The controller gets the latency without waits on this side, any refusal of an attempt, or nothing if nothing is known."""
    key = "error" if isinstance(result, Exception) else "response"
    assert _load_signals(BulkResult(index=0, custom_id="0", **{key: result})) == pytest.approx(outcome)


# --- through the provider ----------------------------------------------------------------------------------------------------


@pytest.fixture
def provider(emulator):
    with GroqProvider(
        api_key=emulator.api_key, base_url=emulator.base_url, retry=RetryPolicy(max_retries=0)
    ) as provider:
        yield provider


@pytest.mark.over_http2("bridge")
def test_a_run_over_the_provider(emulator, provider):
    """Errors of the service are results; the class of the limiter is batch."""
    asked = []
    reserve = provider._limiter.reserve
    provider._limiter.reserve = lambda model, **more: asked.append(more["batch"]) or reserve(model, **more)
    items = [f"prompt {i}" for i in range(20)]
    items[7] = LLMRequest(messages="x", model="no-such-model", custom_id="bad")
    with provider.generate_many(items, max_workers=4, max_completion_tokens=60) as run:
        results = list(run)
    assert [r.index for r in results if not r.ok] == [7]
    assert results[7].custom_id == "bad"
    assert isinstance(results[7].error, e.ModelNotFoundError)
    assert all(f"prompt {r.index}" in r.response.content for r in results if r.ok)
    assert set(asked) == {True}
    assert {request.json["max_completion_tokens"] for request in emulator.requests} == {60}
    assert all("custom_id" not in request.json for request in emulator.requests)
    provider._limiter.reserve = reserve
    assert [s.in_flight for s in provider.get_rate_limits().values()] == [0] * len(provider.get_rate_limits())


@pytest.mark.over_http2("bridge")
def test_time_limit_is_per_item(emulator, provider):
    """The time limit is per item: one that hangs fails alone."""
    from groq_provider.testing import Fault

    hang = Fault(stall_before_headers=True)
    emulator.enqueue(Reply(fault=hang, match=lambda request: "hang" in request.body.decode()))
    results = list(provider.generate_many(["a", "hang", "b"], timeout=2.0, max_workers=1))
    hang.release()
    assert [r.ok for r in results] == [True, False, True]
    assert isinstance(results[1].error, e.DeadlineExceededError)


@pytest.mark.over_http2("bridge")
def test_closing_provider_ends_run(emulator, provider):
    """Closing the provider ends a run, even over an endless input."""
    run = provider.generate_many((str(i) for i in itertools.count()), max_workers=2)
    next(run)
    provider.close()
    results = []
    with pytest.raises(e.ProviderClosedError, match="the others were not taken"):
        results.extend(run)  # items that finished before the close succeeded
    assert {type(result.error) for result in results if not result.ok} == {e.ProviderClosedError}
    with pytest.raises(e.ProviderClosedError):
        provider.generate_many(["a"])


@pytest.mark.over_http2("bridge")
def test_wrong_token_is_refused_early(provider):
    """A wrong cancel token is refused early, before any thread is started."""
    with pytest.raises(e.InvalidRequestError, match="CancelToken"):
        provider.generate_many(["a"], cancel=threading.Event())


@pytest.mark.over_http2("bridge")
def test_cancelling_reaches_calls_under_way(emulator, provider):
    """A cancel ends calls in flight over real sockets, too."""
    emulator.enqueue(Reply("x", delay=PATIENCE, times=None))
    token, taken = CancelToken(), threading.Event()

    def prompts():
        yield from "ab"
        taken.set()  # otherwise it would be open whether the input had more items

    def cancel():
        assert taken.wait(PATIENCE)
        assert emulator.wait_until(lambda emulator: len(emulator.requests) >= 2, PATIENCE)
        token.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    results = list(provider.generate_many(prompts(), max_workers=2, cancel=token))
    canceller.join()
    assert [type(r.error) for r in results] == [e.RequestCancelledError] * 2


@pytest.mark.over_http2("bridge")
def test_streams_and_runs_share_limiter(emulator, provider):
    """A stream and the items of a run share the provider's limiter, and release all that they reserved."""
    gate = Gate()
    emulator.enqueue(Reply("x", gate=gate))
    with provider.generate_stream("s") as stream:
        assert all(r.ok for r in provider.generate_many(["a", "b"]))
        gate.open()
        stream.collect()
    assert sum(s.in_flight for s in provider.get_rate_limits().values()) == 0


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_auto_grows_over_the_provider(ordered):
    """Against a service that answers any number of calls at once the workers grow."""
    with (
        Emulator(speed=0, latency=0.2) as emulator,
        GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url) as provider,
    ):
        with provider.generate_many([str(i) for i in range(100)], max_workers="auto", ordered=ordered) as run:
            most = max(run.workers for result in run if result.ok)
        assert most >= 8
        assert len(emulator.requests) == 100


@pytest.mark.over_http2("bridge")
@pytest.mark.parametrize("status", [429, 498])
@pytest.mark.parametrize("retries", [0, 3])
def test_auto_shrinks_over_the_provider(emulator, status, retries):
    """A refusal halves the workers, whether a retry succeeds or not."""
    error = {"type": "tokens", "code": "rate_limit_exceeded" if status == 429 else "capacity_exceeded"}
    error["message"] = "on tokens per minute (TPM): Limit 9000000, Used 9000000, Requested 9. Please try again in 50ms."
    emulator.enqueue(Reply(status=status, body={"error": error}, times=3))
    with (
        GroqProvider(
            api_key=emulator.api_key, base_url=emulator.base_url, retry=RetryPolicy(max_retries=retries)
        ) as provider,
        provider.generate_many([str(i) for i in range(12)], max_workers="auto") as run,
    ):
        least, results = 4, []
        for result in run:
            least = min(least, run.workers)
            results.append(result)
    assert least in {1, 2}
    refused = [result for result in results if not result.ok]
    assert len(refused) == (0 if retries else 3)
    assert {result.error.status_code for result in refused} <= {status}


class Exhausted(TokenBucketRateLimiter):
    """A limiter whose whole refill is used by another client, however long ago the last request was."""

    def reserve(self, model, **more):
        while (place := self.try_reserve(model, prompt_tokens=1)) is not None:
            place.keep()
        return super().reserve(model, **more)


@pytest.mark.over_http2("bridge")
def test_auto_stops_growing_at_limit(emulator):
    """At forty requests per second the workers wait in the limiter, and no more are added."""
    limiter = Exhausted(RateLimits(rpm=2400))
    with (
        GroqProvider(api_key=emulator.api_key, base_url=emulator.base_url, rate_limiter=limiter) as provider,
        provider.generate_many([str(i) for i in range(50)], max_workers="auto") as run,
    ):
        assert max(run.workers for result in run if result.ok) == 4
