"""Many requests over threads: bounded, in order or as they finish, an error being a result."""

from __future__ import annotations

import contextvars
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from operator import length_hint
from typing import TYPE_CHECKING, Any, Literal

import attrs

from groq_provider import errors as e
from groq_provider._signals import struck
from groq_provider.cancel import CancelToken
from groq_provider.concurrency import MOST, Controller, comparable
from groq_provider.types.messages import Message
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import LLMResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["BulkResult", "BulkRun"]

_log = logging.getLogger(__name__)
_PACKAGE = __name__.rpartition("bulk")[0]
#: What an attempt ended with that was refused for lack of room.
_REFUSALS = (e.RateLimitedError, e.OverloadedError)
_REFUSAL_NAMES = {error.__name__ for error in _REFUSALS}
#: More of its time than this in the limiter's queue or between retries, and a call is no reason to have more of them.
_WAITING = 0.1


@attrs.frozen(kw_only=True)
class BulkResult:
    """The outcome of one item: a response or an error, exactly one of them.

    Attributes:
        index: Position in the input, from 0.
        custom_id: The request's ``custom_id``, else the index as text.
        request: What was asked; ``None`` when the item was no request.
        response: The answer.
        error: Why there is none.

    .. versionadded:: 0.1.0
    """

    index: int
    custom_id: str
    request: LLMRequest | None = None
    response: LLMResponse | None = None
    error: e.GroqProviderError | None = attrs.field(default=None, eq=False)

    @property
    def ok(self) -> bool:
        """Whether there is a response."""
        return self.error is None


class BulkRun:
    """Iterate it for results; use it as a context manager, so that leaving early ends what is unfinished.

    At most twice as many items as workers (as :attr:`workers` says at that moment) are taken from the input ahead of the results,
    so inputs of any length take little memory. The input is read in the thread that iterates.

    It never ends early in silence: if the provider is closed, or the run cancelled, while items are left untaken, iterating ends with
    :class:`~groq_provider.ProviderClosedError` or :class:`~groq_provider.RequestCancelledError` after the results of those that were
    taken; going on after :meth:`close`, or after an interrupt, is a :class:`RuntimeError`.

    Thread safety: it belongs to one iterating thread; :meth:`cancel` may be called from any. A signal handler whose thread is inside this
    library must not wait for other threads, which may need what the interrupted call holds: a run that it starts there works on its items
    in the handler's own thread, one after the other; to iterate an older one is a :class:`RuntimeError`; and :meth:`close` ends the
    items without waiting for the threads.

    .. versionadded:: 0.1.0
    """

    submitted = 0
    completed = 0

    def __init__(
        self,
        requests: Iterable[Any],
        call: Callable[[LLMRequest, CancelToken], LLMResponse],
        *,
        fields: dict[str, Any],
        max_workers: int | Literal["auto"],
        ordered: bool,
        cancel: CancelToken | None,
    ) -> None:
        if max_workers != "auto" and (
            isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1
        ):
            raise e.ConfigurationError(f'max_workers = {max_workers!r}: must be an integer of at least 1, or "auto"')
        if isinstance(requests, (str, bytes, Mapping, Message, LLMRequest)) or not isinstance(requests, Iterable):
            kind = "text" if isinstance(requests, str) else type(requests).__name__
            raise e.InvalidRequestError(
                f"generate_many takes a sequence of prompts or requests, not one {kind}; put it in a list"
            )
        self._source = iter(requests)
        self._input = enumerate(self._source)
        self._call = call
        self._fields = fields
        self._ordered = ordered
        self._threads: ThreadPoolExecutor | _Crew | _Here
        if _in_a_handler():
            self._threads = _Here()
            self._workers = 1
        elif max_workers == "auto":
            self._threads = _Crew()
        else:
            self._workers = max_workers
            self._threads = ThreadPoolExecutor(max_workers, thread_name_prefix="groq-bulk")
        self._token = CancelToken()
        self._outer = cancel
        self._handle = None if cancel is None else cancel.subscribe(self._token.cancel)
        self._waiting: deque[Future[BulkResult]] = deque()  # in order of input; ordered runs only
        self._done: queue.SimpleQueue[Future[BulkResult]] = queue.SimpleQueue()  # unordered runs only
        self._running = 0
        self._exhausted = False
        #: Why items were left untaken: raised once what is under way has been handed out.
        self._cut: BaseException | None = None
        #: What whoever goes on after the end gets.
        self._end: BaseException = RuntimeError("the run was closed before its end")
        self._closed = self._given_back = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.completed} of {self.submitted} taken done>"

    @property
    def workers(self) -> int:
        """How many items may be worked on at once: what was asked for; with ``"auto"`` the number right now."""
        return self._threads.workers if isinstance(self._threads, _Crew) else self._workers

    def __iter__(self) -> Iterator[BulkResult]:
        return self

    def __next__(self) -> BulkResult:
        if self._closed:
            raise self._end
        if not isinstance(self._threads, _Here) and _in_a_handler():
            raise RuntimeError(
                "a signal handler cannot wait for a run whose threads may need what the interrupted call holds"
            )
        try:
            self._fill()
            if not self._running:
                self._end = StopIteration() if self._cut is None else self._cut
                self.close()
                raise self._end
            result = (self._waiting.popleft() if self._ordered else self._done.get()).result()
        except BaseException:  # KeyboardInterrupt while waiting, an input that fails
            self.close()
            raise
        self._running -= 1
        self.completed += 1
        if isinstance(result.error, e.ProviderClosedError):  # nothing further can succeed
            self._stop(e.ProviderClosedError, "the provider was closed")
        return result

    def _stop(self, kind: type[e.GroqProviderError], why: str) -> None:
        """Take no further items; if there are any, the run has not come to its end, and says so."""
        if not self._exhausted and length_hint(self._source, 1):
            self._cut = kind(f"{why} after {self.submitted} items; the others were not taken")
        self._exhausted = True

    def _fill(self) -> None:
        while self._running < 2 * self.workers and not self._exhausted:
            if self._token.cancelled:
                self._stop(e.RequestCancelledError, "the run was cancelled")
                return
            try:
                index, item = next(self._input)
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # noqa: BLE001 - the caller's own; raised once what is under way has been handed out
                self._exhausted = True
                self._cut = error
            else:
                self._submit(index, item)

    def _submit(self, index: int, item: Any) -> None:
        # Each item sees the context variables (trace ids and the like) of the thread that iterates.
        # Nothing of it refers to this object, so that a run nobody holds any more is collected and ends its work.
        future = self._threads.submit(
            contextvars.copy_context().run, _run, self._call, self._fields, self._token, index, item
        )
        self._running += 1
        self.submitted += 1
        if self._ordered:
            self._waiting.append(future)
        else:
            future.add_done_callback(self._done.put)

    def cancel(self) -> None:
        """End every unfinished item now, from any thread: their results are ``RequestCancelledError``.

        No further ones are taken; if any were left, iterating ends with ``RequestCancelledError`` too, not as if all were done.
        """
        self._token.cancel()

    def close(self) -> None:
        """End what is unfinished and give back the threads. Idempotent."""
        if not self._closed:
            self._closed = True
            self._token.cancel()
            if self._outer is not None and self._handle is not None:
                self._outer.unsubscribe(self._handle)
        if self._given_back or _in_a_handler():
            return  # the call that it interrupted may hold a lock of the pool; the next close() or the collector gives them back
        self._given_back = True
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> BulkRun:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_given_back", True):
            # Left without a with-block: end the work, do not wait for it.
            self._closed = self._given_back = True
            self._token.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)


#: Reads the input, which may be another run.
_READING = frozenset({BulkRun._fill.__code__})  # noqa: SLF001 - ours


def _in_a_handler() -> bool:
    """Say whether a signal handler asks whose thread may hold what threads of a run need."""
    return struck(_PACKAGE, _READING, (f"{_PACKAGE}cli", f"{_PACKAGE}testing"))


class _Here:
    """In place of a pool of threads: works on each item as it is submitted."""

    workers = 1

    def submit(self, function: Callable[..., BulkResult], *args: Any) -> Future[BulkResult]:
        future: Future[BulkResult] = Future()
        future.set_result(function(*args))
        return future

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        """Nothing is left to be done."""


class _Crew:
    """A pool of threads of which as many work at once as its controller says.

    A thread takes item after item, and ends where the controller wants fewer. New ones are begun only by whoever submits: a worker
    must not hold a lock of the pool, for a run nobody holds any more may be collected, and its pool shut down, in any thread.

    Thread safety: one thread submits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the controller and the two below; held for a moment, never during a call
        self._controller = Controller()
        self._pending: deque[tuple[Future[BulkResult], Callable[..., BulkResult], tuple[Any, ...]]] = deque()
        self._opening: set[object] = set()  # threads asked for that have not begun
        self._threads = ThreadPoolExecutor(MOST, thread_name_prefix="groq-bulk")

    @property
    def workers(self) -> int:
        return self._controller.limit

    def submit(self, function: Callable[..., BulkResult], *args: Any) -> Future[BulkResult]:
        future: Future[BulkResult] = Future()
        with self._lock:
            self._pending.append((future, function, args))
        while True:
            with self._lock:
                free = self._controller.limit - self._controller.in_flight
                if len(self._opening) >= min(free, len(self._pending)):
                    return future
                claim = object()
                self._opening.add(claim)
            try:
                self._threads.submit(self._work, claim)
            except RuntimeError:  # the system has no more threads, or the interpreter ends
                with self._lock:
                    self._opening.discard(claim)
                    if not self._opening and not self._controller.in_flight:
                        raise
                return future  # those there are will do it

    def shutdown(self, *, wait: bool, cancel_futures: bool) -> None:
        while cancel_futures:  # without the lock: this may be a finalizer, in a thread that holds it
            try:
                future, _, _ = self._pending.popleft()
            except IndexError:
                break
            future.cancel()
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _work(self, claim: object) -> None:
        job = self._next(None, {}, claim)
        while job is not None:
            number, future, function, args = job
            result: BulkResult | None = None
            failure: BaseException | None = None
            outcome: dict[str, Any] = {}
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args)
                    outcome = _outcome(result)
                except BaseException as error:  # noqa: BLE001 - handed to whoever reads the results, as a pool does
                    failure = error
            job = self._next(number, outcome)
            if failure is not None:
                future.set_exception(failure)
            elif result is not None:
                future.set_result(result)
            del future, function, args, result, failure  # a thread that waits holds nothing of what it did

    def _next(
        self, number: int | None, outcome: dict[str, Any], claim: object = None
    ) -> tuple[int, Future[BulkResult], Callable[..., BulkResult], tuple[Any, ...]] | None:
        """End one item and begin another in one step, so that the moment between them does not look like a slot nobody needs."""
        with self._lock:
            self._opening.discard(claim)
            before = self._controller.limit
            if number is not None:
                self._controller.end(number, **outcome)
            after = self._controller.limit
            job = None
            if self._controller.in_flight < after:
                try:
                    waiting = self._pending.popleft()
                except IndexError:  # none left, or a finalizer was here
                    pass
                else:
                    job = (self._controller.start(), *waiting)
        if after != before:
            _log.debug("workers: %d instead of %d", after, before)
        return job


def _outcome(result: BulkResult) -> dict[str, Any]:
    """Return what an item says of the service's load, as arguments of ``Controller.end``."""
    error, response = result.error, result.response
    attempts = response.attempts if response is not None else error.attempts if error is not None else ()
    if any(attempt.error in _REFUSAL_NAMES for attempt in attempts) or (
        isinstance(error, _REFUSALS) and error.status_code is not None  # without one the limiter itself refused
    ):
        return {"overloaded": True}
    if response is None:
        late = isinstance(error, (e.ReadTimeoutError, e.DeadlineExceededError)) and error.sent is not False
        if not late or isinstance(error, e.RateLimitTimeoutError):
            return {}
        return {"latency": math.inf, "queued": True}
    timing, usage = response.timing, response.usage
    # From leaving the limiter to the end of the answer, of the try that succeeded.
    duration = attempts[-1].duration if attempts else max(timing.total - timing.wait, 0.0)
    return {
        "latency": comparable(
            duration,
            None if usage.source == "unknown" else usage.completion_tokens,
            prompt=usage.prompt_time,
            completion=usage.completion_time,
        ),
        "queued": timing.wait > _WAITING * duration,
    }


def _run(
    call: Callable[[LLMRequest, CancelToken], LLMResponse],
    fields: dict[str, Any],
    token: CancelToken,
    index: int,
    item: Any,
) -> BulkResult:
    """Work on one item, in a thread of the pool; whatever happens is a result."""
    request = None
    custom_id = str(index)
    try:
        request = LLMRequest.of(item, **fields)
        custom_id = request.custom_id or custom_id
        return BulkResult(index=index, custom_id=custom_id, request=request, response=call(request, token))
    except e.GroqProviderError as error:
        # The frames say nothing of the item, and their variables are the prompt as it was given.
        return BulkResult(index=index, custom_id=custom_id, request=request, error=e.without_frames(error))
    except Exception as error:  # noqa: BLE001 - a bug must not take the other items with it
        wrapped = e.GroqProviderError(f"unexpected {type(error).__name__} in a bulk item: {str(error)[:200]}")
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # without this frame, which holds the item
        wrapped.__cause__ = error
        return BulkResult(index=index, custom_id=custom_id, request=request, error=wrapped)
