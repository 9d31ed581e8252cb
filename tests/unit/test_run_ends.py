"""A run of many requests never ends early in silence."""

from __future__ import annotations

import itertools

import pytest

from groq_provider import LLMResponse
from groq_provider import errors as e
from groq_provider.bulk.run import BulkRun

INPUTS = {
    "list": lambda count: [str(number) for number in range(count)],
    "generator": lambda count: (str(number) for number in range(count)),
}


def run_of(items, call, *, ordered=True, workers=2):
    return BulkRun(items, call, fields={}, max_workers=workers, ordered=ordered, cancel=None)


def closed_after(count):
    """Return the call of a provider that is closed after some answers."""
    numbers = itertools.count(1)

    def call(request, token):
        if next(numbers) > count:
            raise e.ProviderClosedError("the provider was closed", sent=False)
        return LLMResponse(content="ok")

    return call


def results_and_end(run):
    """Return the results of a run, and the error at its end."""
    results = []
    try:
        results.extend(run)
    except e.GroqProviderError as error:
        return results, error
    return results, None


@pytest.mark.parametrize("workers", [2, "auto"])
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as-completed"])
@pytest.mark.parametrize("source", INPUTS.values(), ids=INPUTS)
def test_closed_provider_ends_loudly(source, ordered, workers):
    """Of 100 items each one read has a result; then each ``next()`` raises the error that the others were not read."""
    run = run_of(source(100), closed_after(5), ordered=ordered, workers=workers)
    results, end = results_and_end(run)
    assert sum(result.ok for result in results) == 5
    assert len(results) == run.submitted < 100
    assert isinstance(end, e.ProviderClosedError)
    assert f"after {run.submitted} items; the others were not taken" in str(end)
    assert results_and_end(run) == ([], end)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_closed_run_with_nothing_left(count):
    """If the input was read to its end, each item has a result, and the run ends without an error."""
    run = run_of([str(number) for number in range(count)], closed_after(count - 1))
    results, end = results_and_end(run)
    assert ([result.ok for result in results].count(False), end) == (1, None)
    assert list(run) == []


@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.parametrize("how", ["close", "with", "interrupt"])
def test_closed_run_raises(taken, how):
    """Reading on after a close is an error, for a run that is not at its end."""
    run = run_of([str(number) for number in range(5)], closed_after(99))
    for _ in range(taken):
        assert next(run).ok
    if how == "close":
        run.close()
    elif how == "with":
        with run:
            pass
    else:
        run._ordered_futures.append(_Interrupted())
        run._ordered_futures.rotate()
        with pytest.raises(KeyboardInterrupt):
            next(run)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed before its end"):
            list(run)


class _Interrupted:
    def result(self):
        raise KeyboardInterrupt


def test_finished_run_stays_finished():
    """A close after the end changes nothing: ``next()`` still raises ``StopIteration``."""
    run = run_of(["a", "b"], closed_after(99))
    assert [result.ok for result in run] == [True, True]
    run.close()
    assert list(run) == []


@pytest.mark.parametrize("count", [4, 5])
def test_cancelled_run_says_whats_left(count):
    """A cancel after the whole input was read skips no item, so the run ends without an error."""
    run = run_of([str(number) for number in range(count)], closed_after(99), workers=2)
    assert next(run).ok  # four were taken, or the fifth is left
    run.cancel()
    results, end = results_and_end(run)
    assert len(results) == 3
    assert (end is None) == (count == 4)
