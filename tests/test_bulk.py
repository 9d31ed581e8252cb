"""Bulk runs: order, bounds, errors as results."""

from __future__ import annotations

import contextvars
import gc
import itertools
import threading
import weakref

import pytest
from fakes import PATIENCE

from groq_provider import BulkResult, CancelToken, GroqProvider, LLMRequest, LLMResponse, Message, RetryPolicy, Timing
from groq_provider import errors as e
from groq_provider.bulk import BulkRun
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


def test_results_keep_the_order_of_the_input():
    """However long each takes."""
    hold = Hold()
    with bulk(list("abcd"), hold, max_workers=4) as run:
        for text in "dcba":
            hold.event(text).set()
        results = list(run)
    assert [(r.index, r.custom_id, r.response.content) for r in results] == [
        (0, "0", "A"), (1, "1", "B"), (2, "2", "C"), (3, "3", "D"),
    ]  # fmt: skip
    assert all(r.ok and r.error is None and r.request is not None for r in results)


def test_results_may_come_as_they_finish():
    """With ordered=False."""
    hold = Hold()
    with bulk(list("abc"), hold, max_workers=3, ordered=False) as run:
        seen = []
        for text in "cab":
            hold.event(text).set()
            seen.append(next(run).response.content)
        assert list(run) == []
    assert seen == ["C", "A", "B"]


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_every_item_has_exactly_one_result(ordered):
    """A hundred items, three workers."""
    results = list(bulk([str(i) for i in range(100)], max_workers=3, ordered=ordered))
    assert sorted(r.index for r in results) == list(range(100))
    assert all(r.response.content == str(r.index) for r in results)


def test_an_empty_input_gives_nothing():
    """And ends."""
    assert list(bulk([])) == []


# --- laziness ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("workers", [1, 3])
def test_an_endless_input_is_read_as_far_as_needed(ordered, workers):
    """At most twice as many items as workers ahead of the results."""
    taken = itertools.count()
    most = 0
    with bulk((str(next(taken)) for _ in itertools.count()), max_workers=workers, ordered=ordered) as run:
        assert next(taken) == 0  # nothing is read before the first result is wanted
        for given in range(50):
            next(run)
            most = max(most, run.submitted - given)
        assert most == 2 * workers
        assert run.completed == 50
        assert repr(run) == f"<BulkRun 50 of {run.submitted} taken done>"


# --- errors ------------------------------------------------------------------------------------------------------------------


def test_an_error_is_a_result():
    """The others go on."""

    def call(request, token):
        if request.messages[0].content == "b":
            raise e.RateLimitedError("slow down", status_code=429)
        return reply(request)

    first, second, third = bulk(list("abc"), call)
    assert (first.ok, second.ok, third.ok) == (True, False, True)
    assert second.response is None
    assert second.error.status_code == 429
    assert second.request.messages[0].content == "b"


@pytest.mark.parametrize(
    "bad", [5, None, "", [], {"role": "user"}, [{"role": "robot", "content": "x"}], b"x"], ids=repr
)
def test_an_item_that_is_no_request_is_a_result_with_an_error(bad):
    """It has no request."""
    good, failed = bulk(["a", bad])
    assert good.ok
    assert isinstance(failed.error, e.InvalidRequestError)
    assert (failed.index, failed.custom_id, failed.request) == (1, "1", None)


def test_a_bug_in_one_item_does_not_take_the_others_with_it():
    """It is wrapped, its cause kept."""

    def call(request, token):
        if request.messages[0].content == "b":
            raise ZeroDivisionError("oops")
        return reply(request)

    first, second, third = bulk(list("abc"), call)
    assert (first.ok, third.ok) == (True, True)
    assert isinstance(second.error, e.GroqProviderError)
    assert isinstance(second.error.__cause__, ZeroDivisionError)
    assert "ZeroDivisionError" in str(second.error)


def test_items_may_be_text_messages_or_requests():
    """Fields of the run override those of a request."""
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


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, None, "2"], ids=repr)
def test_the_number_of_workers_is_checked(workers):
    """An integer of at least 1."""
    with pytest.raises(e.ConfigurationError, match="max_workers"):
        bulk([], max_workers=workers)


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
def test_one_prompt_instead_of_many_is_refused(one):
    """Its letters, keys or fields are no prompts."""
    with pytest.raises(e.InvalidRequestError, match="list"):
        bulk(one)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_an_input_that_fails_raises_after_what_was_under_way(ordered):
    """Nothing that was paid for is lost."""

    def items():
        yield from "abc"
        raise OSError("disk gone")

    run = bulk(items(), max_workers=4, ordered=ordered)
    assert sorted(next(run).response.content for _ in range(3)) == list("ABC")
    with pytest.raises(OSError, match="disk gone"):
        next(run)
    assert list(run) == []


# --- ending ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["run.cancel", "token"])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_cancelling_ends_what_is_unfinished_and_takes_no_more(how, ordered):
    """From another thread; each item under way is a result, and an endless input ends, but not as if all were done."""
    hold, token = Hold(), CancelToken()
    run = bulk((str(i) for i in itertools.count()), hold, ordered=ordered, cancel=token)
    canceller = threading.Thread(
        target=lambda: (hold.started.acquire(timeout=PATIENCE), (run.cancel if how == "run.cancel" else token.cancel)())
    )
    canceller.start()
    results = []
    with pytest.raises(e.RequestCancelledError, match="the others were not taken"):
        results.extend(run)  # keeps what came before the error
    canceller.join()
    assert 1 <= len(results) <= 4
    assert {type(r.error) for r in results} == {e.RequestCancelledError}
    assert "0 calls" in repr(token)


def test_a_cancelled_token_begins_nothing():
    """The input is not read."""
    token = CancelToken()
    token.cancel()
    with pytest.raises(e.RequestCancelledError, match="after 0 items"):
        list(bulk(iter(lambda: pytest.fail("read"), None), cancel=token))


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_leaving_early_ends_what_is_unfinished(ordered):
    """And gives back the threads, before the with statement is over."""
    hold = Hold()
    hold.event("0").set()
    with bulk((str(i) for i in itertools.count()), hold, ordered=ordered) as run:
        assert next(run).ok
    assert [thread for thread in threading.enumerate() if thread.name.startswith("groq-bulk")] == []
    assert list(run) == []
    run.close()


def test_a_forgotten_run_is_collected_and_ends_its_work():
    """Its threads hold nothing of it."""
    hold = Hold()
    run = bulk((str(i) for i in itertools.count()), hold)
    hold.event("0").set()
    next(run)
    gone = weakref.ref(run)
    del run
    gc.collect()
    assert gone() is None  # that no thread is left is checked after every test


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
@pytest.mark.parametrize("where", ["waiting", "reading"])
def test_an_interrupt_ends_the_run_and_propagates(monkeypatch, where, ordered):
    """Nothing is left running."""
    hold = Hold()

    def items():
        yield "a"
        yield "b"
        if where == "reading":
            raise KeyboardInterrupt

    run = bulk(items(), hold, ordered=ordered)
    if where == "waiting":

        def interrupted(self, *args):
            raise KeyboardInterrupt

        target = ("concurrent.futures.Future.result", interrupted) if ordered else None
        if target is None:
            monkeypatch.setattr(run, "_done", type("Queue", (), {"put": lambda *a: None, "get": interrupted})())
        else:
            monkeypatch.setattr(*target)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    monkeypatch.undo()
    assert list(run) == []


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as completed"])
def test_a_worker_that_is_told_to_exit_does_not_hang_the_run(ordered):
    """It propagates to the reader."""

    def call(request, token):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        next(bulk(["a"], call, ordered=ordered))


def test_context_variables_reach_the_workers():
    """Those of the thread that iterates, at each item."""
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


# --- through the provider ----------------------------------------------------------------------------------------------------


@pytest.fixture
def emulator():
    with Emulator(speed=0) as running:
        yield running


@pytest.fixture
def provider(emulator):
    with GroqProvider(
        api_key=emulator.api_key, base_url=emulator.base_url, retry=RetryPolicy(max_retries=0)
    ) as provider:
        yield provider


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


def test_the_time_limit_is_per_item(emulator, provider):
    """One that hangs fails alone."""
    from groq_provider.testing import Fault

    hang = Fault(stall_before_headers=True)
    emulator.enqueue(Reply(fault=hang, match=lambda request: "hang" in request.body.decode()))
    results = list(provider.generate_many(["a", "hang", "b"], timeout=0.3, max_workers=1))
    hang.release()
    assert [r.ok for r in results] == [True, False, True]
    assert isinstance(results[1].error, e.DeadlineExceededError)


def test_closing_the_provider_ends_a_run(emulator, provider):
    """Also one over an endless input."""
    run = provider.generate_many((str(i) for i in itertools.count()), max_workers=2)
    next(run)
    provider.close()
    results = list(run)
    assert results
    assert isinstance(results[-1].error, e.ProviderClosedError)
    with pytest.raises(e.ProviderClosedError):
        provider.generate_many(["a"])


def test_a_wrong_cancel_token_is_refused_early(provider):
    """Before any thread is started."""
    with pytest.raises(e.InvalidRequestError, match="CancelToken"):
        provider.generate_many(["a"], cancel=threading.Event())


def test_cancelling_reaches_calls_under_way(emulator, provider):
    """Over real sockets."""
    emulator.enqueue(Reply("x", delay=PATIENCE, times=None))
    token = CancelToken()
    threading.Thread(
        target=lambda: emulator.wait_until(lambda emulator: len(emulator.requests) >= 2, PATIENCE) and token.cancel()
    ).start()
    results = list(provider.generate_many(["a", "b"], max_workers=2, cancel=token))
    assert [type(r.error) for r in results] == [e.RequestCancelledError] * 2


def test_streams_and_runs_share_the_limiter(emulator, provider):
    """One queue for all."""
    gate = Gate()
    emulator.enqueue(Reply("x", gate=gate))
    with provider.generate_stream("s") as stream:
        assert all(r.ok for r in provider.generate_many(["a", "b"]))
        gate.open()
        stream.collect()
    assert sum(s.in_flight for s in provider.get_rate_limits().values()) == 0
