"""A run on a system that starts no more threads."""

from __future__ import annotations

import threading
from collections import deque
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import PATIENCE

from groq_provider import BulkFailure, BulkSuccess, CancelToken, LLMResponse, RequestCancelledError
from groq_provider.bulk import run as bulk
from groq_provider.bulk.run import BulkRun


class Scarce:
    """A system that starts a thread of a run, or has none, as the next of *grants* says; after the last of them, as *then* says."""

    def __init__(self, grants=(), *, then=False):
        self.grants = deque(grants)
        self.then = then
        self.started = []

    def __enter__(self):
        self._start = start = threading.Thread.start

        def scarce(thread):
            if thread.name.startswith("groq-bulk"):
                if not (self.grants.popleft() if self.grants else self.then):
                    raise RuntimeError("can't start new thread")
                self.started.append(thread)
            start(thread)

        threading.Thread.start = scarce
        return self

    def __exit__(self, *_exc):
        threading.Thread.start = self._start


def run_of(items, call, *, workers=3, ordered=True, cancel=None):
    return BulkRun(items, call, fields={}, max_workers=workers, ordered=ordered, cancel=cancel)


def answered(request, _token):
    return LLMResponse(content=f"{threading.get_ident()}")


@given(
    grants=st.lists(st.booleans(), max_size=12),
    then=st.booleans(),
    count=st.integers(0, 12),
    workers=st.sampled_from([1, 2, 5, "auto"]),
    ordered=st.booleans(),
    linger=st.sampled_from([0, 0.0001, PATIENCE]),
)
def test_every_item_has_result(*, grants, then, count, workers, ordered, linger):
    """Whichever threads can be started and however long they wait, each item is answered once, in order if asked for; none is left."""
    asked = []

    def call(request, token):
        asked.append(request)
        return answered(request, token)

    with Scarce(grants, then=then) as system, mock.patch.object(bulk, "_IDLE_SECONDS", linger):
        results = list(run_of([str(number) for number in range(count)], call, workers=workers, ordered=ordered))
        indexes = [result.index for result in results]
        assert (indexes if ordered else sorted(indexes)) == list(range(count))
        assert all(type(result) is BulkSuccess for result in results)
        assert len(asked) == count
        assert not any(thread.is_alive() for thread in system.started)


@pytest.mark.parametrize("workers", [4, "auto"])
@pytest.mark.parametrize("ordered", [True, False])
def test_one_thread_does_all(workers, ordered):
    """If only the first thread can be started, it works on the items of the others, too."""
    first, go = threading.Event(), threading.Event()

    def call(request, token):
        first.set()
        assert go.wait(PATIENCE)
        return answered(request, token)

    def items():
        yield "0"
        assert first.wait(PATIENCE)  # it works on its item while more threads are needed
        yield from ("1", "2", "3")
        go.set()

    with Scarce([True]) as system:
        results = list(run_of(items(), call, workers=workers, ordered=ordered))
    assert len(results) == 4
    assert {result.response.content for result in results} == {str(system.started[0].ident)}


@pytest.mark.parametrize("ordered", [True, False])
def test_without_threads_results_come_singly(ordered):
    """The thread that iterates works on one item for each result, and does not keep the first back for the others."""
    asked = []

    def call(request, token):
        asked.append(request)
        return answered(request, token)

    with Scarce(), run_of(list("abcdef"), call, ordered=ordered) as run:
        assert [len(asked) for _ in run] == [1, 2, 3, 4, 5, 6]
    with Scarce(), run_of(list("abc"), answered, ordered=ordered) as run:
        assert {result.response.content for result in run} == {str(threading.get_ident())}


def test_threads_are_used_again():
    """The run tries to start threads again at each result."""
    system = Scarce()
    with system, run_of(list("abcdef"), answered, workers=1) as run:
        here = str(threading.get_ident())
        assert next(run).response.content == here
        system.then = True
        assert here not in {result.response.content for result in run}


@pytest.mark.parametrize("linger", [0, PATIENCE])
@pytest.mark.parametrize("workers", [1, "auto"])
def test_idle_thread_is_woken(workers, linger, monkeypatch):
    """A thread without items waits a while for the next; if it has ended by then, a new thread is started."""
    monkeypatch.setattr(bulk, "_IDLE_SECONDS", linger)

    def items():
        for number in range(20):
            while linger and number and not run._executor._idle_locks:
                system.started[0].join(0.001)
            if not linger and number:
                system.started[-1].join(PATIENCE)
            yield str(number)

    with Scarce(then=True) as system, run_of(items(), answered, workers=workers) as run:
        results = list(run)
    assert [result.index for result in results] == list(range(20))
    assert len(system.started) == (1 if linger else 20)


def test_late_ring_loses_nothing(monkeypatch):
    """A thread that stops waiting at the moment it is woken takes the item, and is not counted twice among those that wait."""
    monkeypatch.setattr(bulk, "_IDLE_SECONDS", 0.005)
    ring, rung = bulk.wake, []

    def wait_for(condition):
        while not condition():
            system.started[-1].join(0.001)

    def done():
        return not run._executor._pending and not run._executor._controller.in_flight

    def heard():
        return not rung or rung[-1].locked() or not system.started[-1].is_alive()

    def late(bell):
        if not run._closed:
            wait_for(done)  # its thread woke by its timeout
        ring(bell)
        rung.append(bell)

    def items():
        for number in range(10):
            yield str(number)
            wait_for(done)
            wait_for(heard)

    monkeypatch.setattr(bulk, "wake", late)
    with Scarce(then=True) as system, run_of(items(), answered, workers=1) as run:
        assert [result.index for result in run] == list(range(10))


@pytest.mark.parametrize("workers", [2, "auto"])
def test_cancel_without_threads(workers):
    """A cancel ends the items that were read and not begun; the unread ones are the error at the end."""
    cancel = CancelToken()

    def call(request, token):
        if token.cancelled:
            raise RequestCancelledError("the call was cancelled")
        return answered(request, token)

    with Scarce(), run_of((str(number) for number in range(100)), call, workers=workers, cancel=cancel) as run:
        assert next(run).ok
        cancel.cancel()
        rest = []
        with pytest.raises(RequestCancelledError, match="not taken"):
            rest.extend(run)
        assert run.completed == run.submitted < 100


def test_close_without_threads():
    """``close()`` does not wait for items that no thread has begun."""
    with Scarce(), run_of(list("abcdef"), answered) as run:
        run._submit_items()
        waiting = list(run._ordered_futures)
    assert waiting
    assert all(future.cancelled() for future in waiting)


@pytest.mark.parametrize("ordered", [True, False])
def test_interrupt_in_own_thread(ordered):
    """Ctrl-C while the iterating thread works on an item closes the run and propagates."""

    def call(request, token):
        raise KeyboardInterrupt

    with Scarce(), run_of(list("abc"), call, ordered=ordered) as run:
        with pytest.raises(KeyboardInterrupt):
            next(run)
        with pytest.raises(RuntimeError, match="closed before its end"):
            next(run)


def test_failures_are_their_kind():
    """An item that fails is a BulkFailure, one that is answered a BulkSuccess, and ok says which."""

    def call(request, token):
        if request.messages[0].content == "b":
            raise ValueError("a bug")
        return answered(request, token)

    results = list(run_of(["a", "b", ""], call))
    assert [type(result) for result in results] == [BulkSuccess, BulkFailure, BulkFailure]
    assert [result.ok for result in results] == [True, False, False]
    assert [result.error is None for result in results] == [True, False, False]
    assert [result.response is None for result in results] == [False, True, True]
