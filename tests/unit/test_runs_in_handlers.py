"""What a signal handler does with runs over threads, and with the only connection, while its thread is inside the library.

No real signals: a callback of a token that was cancelled already runs inside the library, too.
"""

from __future__ import annotations

import threading

import pytest
from support.fakes import PATIENCE

from groq_provider import RequestCancelledError
from groq_provider._sync import in_signal_handler
from groq_provider.bulk.run import BulkRun
from groq_provider.cancel import CancelToken
from groq_provider.types.response import LLMResponse


def in_a_handler(work):
    """Do *work* in the middle of a function of the library's; return its result."""
    token = CancelToken()
    token.cancel()
    results = []
    token.subscribe(lambda: results.append(work()))
    return results[0]


def run_of(items, call, workers=2, ordered=True):
    return BulkRun(items, call, fields={}, max_workers=workers, ordered=ordered, cancel=None)


def answered(request, _token):
    return threading.get_ident(), request


def waiting(release):
    """Calls that wait for *release*, or their cancel."""

    def call(_request, token):
        token.subscribe(release.set)
        assert release.wait(PATIENCE)
        if token.cancelled:
            raise RequestCancelledError("cancelled")
        return LLMResponse

    return call


def test_struck_tells_handlers_apart():
    """Without a frame of this package below it is not a handler; other threads run none."""
    assert not in_signal_handler("groq_provider.")
    assert in_a_handler(lambda: in_signal_handler("groq_provider."))
    assert not in_a_handler(lambda: in_signal_handler("groq_provider.bulk.run"))
    found = []
    thread = threading.Thread(target=lambda: found.append(in_a_handler(lambda: in_signal_handler("groq_provider."))))
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize("workers", [3, "auto"])
@pytest.mark.parametrize("ordered", [True, False])
def test_handlers_run_needs_no_thread(workers, ordered):
    """The handler's thread works on the items, whatever locks it holds."""
    results = in_a_handler(lambda: list(run_of(["a", "b", "c"], answered, workers, ordered)))
    assert [result.index for result in results] == [0, 1, 2]
    assert {result.response[0] for result in results} == {threading.get_ident()}


def test_older_run_is_not_awaited():
    """Iterating raises, since its threads may need a lock of the interrupted call; the run itself stays usable."""
    release = threading.Event()
    with run_of(["a"], waiting(release)) as run:
        with pytest.raises(RuntimeError, match="signal handler"):
            in_a_handler(lambda: next(run))
        release.set()
        assert next(run).ok


def test_run_closes_without_waiting():
    """``close()`` ends the items, and the next one waits for the threads."""
    begun = threading.Event()
    release, lock = threading.Event(), threading.Lock()
    held = waiting(release)

    def call(request, token):
        begun.set()
        try:
            return held(request, token)
        finally:
            with lock:
                pass

    run = run_of(["a"], call)
    run._submit_items()
    assert begun.wait(PATIENCE)
    with lock:  # a lock of the interrupted call
        in_a_handler(run.close)
    assert release.is_set()
    with pytest.raises(RuntimeError):
        next(run)
    threads = list(run._executor._threads)
    run.close()
    assert not any(thread.is_alive() for thread in threads)


def test_run_may_read_run():
    """The input of a run may be another run, which is not a handler: it uses threads."""
    first = run_of(["a", "b", "c"], answered)
    second = run_of((f"{result.index}" for result in first), answered)
    results = list(second)
    assert [result.index for result in results] == [0, 1, 2]
    assert threading.get_ident() not in {result.response[0] for result in results}
