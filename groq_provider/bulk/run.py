"""``BulkRun``: many requests over threads, with bounded memory, and every error as a result."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from operator import length_hint
from typing import TYPE_CHECKING, Any, Literal

import attrs

from groq_provider import errors as e
from groq_provider._sync import in_signal_handler, wake
from groq_provider.bulk.concurrency import Controller, comparable
from groq_provider.cancel import CancelToken
from groq_provider.types.messages import Message
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import LLMResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["BulkFailure", "BulkResult", "BulkRun", "BulkSuccess"]

_log = logging.getLogger(__name__)
_PACKAGE = __name__.rpartition("bulk")[0]
#: Errors of attempts that the service refused for lack of capacity.
_REFUSALS = (e.RateLimitedError, e.OverloadedError)
_REFUSAL_NAMES = {error.__name__ for error in _REFUSALS}
#: A call that spent a larger share of its time than this in the limiter or between retries is no reason to allow more calls.
_WAIT_SHARE = 0.1
#: Seconds that a thread without an item waits for the next one before it ends. Starting a thread takes about a thousandth of it.
_IDLE_SECONDS = 0.1


@attrs.frozen(kw_only=True)
class BulkResult:
    """The outcome of one item: either a response or an error.

    A run yields its two subclasses, :class:`BulkSuccess` and :class:`BulkFailure`. So after ``if result.error is None`` a type checker
    knows that there is a response. After ``if result.ok`` mypy knows it, too, but pyright does not.

    Attributes:
        index: Position in the input, from 0.
        custom_id: The request's ``custom_id``, else the index as text.
        request: The request that was sent; ``None`` if the item was not a valid request.
        response: The answer, if there is one.
        error: The reason why there is none.

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


@attrs.frozen(kw_only=True)
class BulkSuccess(BulkResult):
    """The outcome of an item with an answer.

    Its fields are those of :class:`BulkResult`.

    .. versionadded:: 0.1.0
    """

    response: LLMResponse
    error: None = attrs.field(default=None, eq=False)

    @property
    def ok(self) -> Literal[True]:
        """Whether there is a response: yes."""
        return True


@attrs.frozen(kw_only=True)
class BulkFailure(BulkResult):
    """The outcome of an item that failed.

    Its fields are those of :class:`BulkResult`.

    .. versionadded:: 0.1.0
    """

    response: None = None
    error: e.GroqProviderError = attrs.field(eq=False)

    @property
    def ok(self) -> Literal[False]:
        """Whether there is a response: no."""
        return False


_Outcome = BulkSuccess | BulkFailure
#: A pending item: its future, function and arguments; and the same preceded by its number, after a thread has taken it.
_Job = tuple["Future[_Outcome]", "Callable[..., _Outcome]", tuple[Any, ...]]
_StartedJob = tuple[int, "Future[_Outcome]", "Callable[..., _Outcome]", tuple[Any, ...]]


class BulkRun:
    """The results of many requests. Iterate it; use it as a context manager, so that leaving early ends the unfinished items.

    The iterating thread reads the input, at most two items per worker (see :attr:`workers`) ahead of the results, so an input of any
    length takes little memory. If the system refuses to start more threads, the run continues with the threads it has; without any, the
    iterating thread works on the items itself.

    A run never ends early without an error. If the provider is closed, or the run is cancelled, while there are unread items, iterating
    ends with :class:`~groq_provider.ProviderClosedError` or :class:`~groq_provider.RequestCancelledError` after the results of the items
    read so far. If you iterate on after :meth:`close`, or after an interrupt, you get a :class:`RuntimeError`.

    Thread safety: one thread may iterate; any thread may call :meth:`cancel`.

    Signal handlers: a handler that interrupted a call of this library must not wait for other threads, which may need a lock or a
    connection of that call. A run started there works on its items in the handler's thread, one after the other. Iterating a run that
    was started outside is a :class:`RuntimeError`, and :meth:`close` ends its items without waiting for the threads.

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
        self._numbered_input = enumerate(self._source)
        self._call = call
        self._fields = fields
        self._ordered = ordered
        self._executor: _AdaptiveExecutor | _InlineExecutor
        if _is_in_handler():
            self._executor = _InlineExecutor()
        else:
            self._executor = _AdaptiveExecutor(Controller() if max_workers == "auto" else _FixedLimit(max_workers))
        self._token = CancelToken()
        self._caller_token = cancel
        self._subscription = None if cancel is None else cancel.subscribe(self._token.cancel)
        self._ordered_futures: deque[Future[_Outcome]] = deque()  # in order of input; ordered runs only
        self._finished_futures: queue.SimpleQueue[Future[_Outcome]] = queue.SimpleQueue()  # unordered runs only
        self._pending_results = 0  # items submitted, without a result handed out
        self._input_ended = False
        #: Why the input was not read to its end; raised after the pending results.
        self._early_end: BaseException | None = None
        #: Raised by every ``next()`` after the end.
        self._final_error: BaseException = RuntimeError("the run was closed before its end")
        self._closed = self._threads_released = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.completed} of {self.submitted} taken done>"

    @property
    def workers(self) -> int:
        """Number of items worked on at once, at most: *max_workers*, or with ``"auto"`` the number allowed now."""
        return self._executor.workers

    def __iter__(self) -> Iterator[BulkSuccess | BulkFailure]:
        return self

    def __next__(self) -> BulkSuccess | BulkFailure:
        if self._closed:
            raise self._final_error
        if not isinstance(self._executor, _InlineExecutor) and _is_in_handler():
            raise RuntimeError(
                "a signal handler cannot wait for a run whose threads may need what the interrupted call holds"
            )
        try:
            self._submit_items()
            if not self._pending_results:
                self._final_error = StopIteration() if self._early_end is None else self._early_end
                self.close()
                raise self._final_error
            self._executor.help_out()
            future = self._ordered_futures.popleft() if self._ordered else self._finished_futures.get()
            result = future.result()
        except BaseException:  # for example KeyboardInterrupt during the wait
            self.close()
            raise
        self._pending_results -= 1
        self.completed += 1
        if isinstance(result.error, e.ProviderClosedError):  # no later item can succeed
            self._stop_reading(e.ProviderClosedError, "the provider was closed")
        return result

    def _stop_reading(self, kind: type[e.GroqProviderError], reason: str) -> None:
        """Read no more input; unless it is empty, have the run end with an error of class *kind*."""
        if not self._input_ended and length_hint(self._source, 1):
            self._early_end = kind(f"{reason} after {self.submitted} items; the others were not taken")
        self._input_ended = True

    def _submit_items(self) -> None:
        """Read the input and submit items, up to two per worker."""
        while self._pending_results < 2 * self.workers and not self._input_ended:
            if self._token.cancelled:
                self._stop_reading(e.RequestCancelledError, "the run was cancelled")
                return
            try:
                index, item = next(self._numbered_input)
            except StopIteration:
                self._input_ended = True
            except Exception as error:  # noqa: BLE001 - the caller's input failed; raised after the pending results
                self._input_ended = True
                self._early_end = error
            else:
                self._submit(index, item)

    def _submit(self, index: int, item: Any) -> None:
        # Each item runs with the context variables (trace ids, for example) of the iterating thread.
        # Nothing submitted may refer to this object: then an abandoned run is collected, and its finalizer ends the work.
        future = self._executor.submit(
            contextvars.copy_context().run, _answer_item, self._call, self._fields, self._token, index, item
        )
        self._pending_results += 1
        self.submitted += 1
        if self._ordered:
            self._ordered_futures.append(future)
        else:
            future.add_done_callback(self._finished_futures.put)

    def cancel(self) -> None:
        """End every unfinished item now, from any thread; their results are ``RequestCancelledError``.

        The run reads no more input. If there was more, iterating ends with ``RequestCancelledError``, too.
        """
        self._token.cancel()

    def close(self) -> None:
        """End the unfinished items and wait for their threads. Idempotent."""
        if not self._closed:
            self._closed = True
            self._token.cancel()
            if self._caller_token is not None and self._subscription is not None:
                self._caller_token.unsubscribe(self._subscription)
        if self._threads_released or _is_in_handler():
            return  # the interrupted call may hold the executor's lock; the next close(), or the finalizer, shuts it down
        self._threads_released = True
        self._executor.shutdown(wait=True)

    def __enter__(self) -> BulkRun:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_threads_released", True):
            # The caller abandoned the run without a ``with`` block: end the work, but do not wait for it.
            self._closed = self._threads_released = True
            self._token.cancel()
            self._executor.shutdown(wait=False)


#: These functions call the caller's input, which may be another run, and hold nothing meanwhile.
_READS_INPUT = frozenset({BulkRun._submit_items.__code__})  # noqa: SLF001 - a method of this module


def _is_in_handler() -> bool:
    """Say whether a signal handler runs that must not wait for the threads of a run; see ``_sync``."""
    return in_signal_handler(_PACKAGE, _READS_INPUT, (f"{_PACKAGE}cli", f"{_PACKAGE}testing"))


class _InlineExecutor:
    """Works on each item in the thread that submits it; for signal handlers."""

    workers = 1

    def submit(self, function: Callable[..., _Outcome], *args: Any) -> Future[_Outcome]:
        future: Future[_Outcome] = Future()
        future.set_result(function(*args))
        return future

    def help_out(self) -> None:
        """Do nothing: each item is finished when ``submit()`` returns."""

    def shutdown(self, *, wait: bool) -> None:
        """Do nothing: there are no threads."""


class _FixedLimit:
    """Allows as many items at once as the caller asked for; used like a ``Controller``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    def start(self) -> int:
        self.in_flight += 1
        return 0

    def end(self, _number: int, **_outcome: Any) -> None:
        self.in_flight -= 1


class _AdaptiveExecutor:
    """Worker threads, of which as many work at once as the controller allows.

    A thread takes item after item. When there is none, or the controller allows fewer threads, it waits a moment for the next item and
    then ends, so the interpreter's exit waits for it only briefly. Each thread has a *wake lock* of its own: it waits for that lock, and is
    woken by its release. Only the submitting thread starts threads.

    A ``ThreadPoolExecutor`` would not do: it accepts no work after the main thread has ended, even if other threads go on, and it raises
    where the system refuses to start a thread.

    Thread safety: one thread may call :meth:`submit` and :meth:`help_out`. The finalizer of an abandoned run calls :meth:`shutdown` in any
    thread, perhaps one that holds the executor's lock; with ``wait=False`` it therefore does not take that lock.
    """

    def __init__(self, controller: Controller | _FixedLimit) -> None:
        self._lock = threading.Lock()  # guards the four below; held briefly, never during a call
        self._controller = controller
        self._pending: deque[_Job] = deque()
        self._idle_locks: dict[threading.Lock, None] = {}  # wake locks of the threads that wait for an item
        self._starting_locks: set[threading.Lock] = (
            set()
        )  # wake locks of threads started or woken that have not taken an item yet
        self._is_shut_down = False
        # Only the submitting thread uses the two below.
        self._threads: list[threading.Thread] = []
        self._lacks_threads = False  # whether items are pending, no thread works, and none can be started

    @property
    def workers(self) -> int:
        return self._controller.limit

    def submit(self, function: Callable[..., _Outcome], *args: Any) -> Future[_Outcome]:
        future: Future[_Outcome] = Future()
        with self._lock:
            self._pending.append((future, function, args))
        self._start_threads()
        return future

    def help_out(self) -> None:
        """Work on one item in this thread if no worker thread runs and none can be started."""
        if not self._lacks_threads:
            return
        self._start_threads()
        if self._lacks_threads and (job := self._finish_and_take(None, {}, None)) is not None:
            self._run_job(*job, None)

    def shutdown(self, *, wait: bool) -> None:
        """Cancel the pending items; with *wait* also wait for the threads."""
        self._is_shut_down = True
        while True:
            try:
                future, _, _ = self._pending.popleft()
            except IndexError:
                break
            future.cancel()
        if not wait:
            return
        with self._lock:
            idle_locks, self._idle_locks = self._idle_locks, {}
        for wake_lock in idle_locks:
            wake(wake_lock)
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # an interrupt struck before it was started
                thread.join()

    def _start_threads(self) -> None:
        """Wake or start one thread per pending item, as many as the controller allows and the system can start."""
        self._lacks_threads = False
        while True:
            with self._lock:
                free_slots = self._controller.limit - self._controller.in_flight
                if len(self._starting_locks) >= min(free_slots, len(self._pending)):
                    return
                has_idle = bool(self._idle_locks)
                wake_lock = self._idle_locks.popitem()[0] if has_idle else threading.Lock()
                self._starting_locks.add(wake_lock)
            if has_idle:
                wake(wake_lock)
                continue
            wake_lock.acquire()
            self._threads = [started for started in self._threads if started.is_alive()]
            thread = threading.Thread(target=self._work, args=(wake_lock,), name="groq-bulk")
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:  # the system starts no more threads, or the interpreter is exiting
                with self._lock:
                    self._starting_locks.discard(wake_lock)
                    self._lacks_threads = not self._starting_locks and not self._controller.in_flight
                return  # the threads that run take the items

    def _work(self, wake_lock: threading.Lock) -> None:
        """Work on items until there is none for a while; the target of every worker thread."""
        while True:
            job = self._finish_and_take(None, {}, wake_lock)
            while job is not None:
                job = self._run_job(*job, wake_lock)
            if self._is_shut_down:
                return
            if not wake_lock.acquire(timeout=_IDLE_SECONDS):
                with self._lock:
                    if wake_lock in self._idle_locks:  # otherwise _start_threads() has just woken this thread
                        del self._idle_locks[wake_lock]
                        return

    def _run_job(
        self,
        number: int,
        future: Future[_Outcome],
        function: Callable[..., _Outcome],
        args: tuple[Any, ...],
        wake_lock: threading.Lock | None,
    ) -> _StartedJob | None:
        """Work on one item; return the next one, if this is a worker thread."""
        result: _Outcome | None = None
        failure: BaseException | None = None
        load_signals: dict[str, Any] = {}
        if future.set_running_or_notify_cancel():
            try:
                result = function(*args)
                if isinstance(self._controller, Controller):
                    load_signals = _load_signals(result)
            except BaseException as error:  # noqa: BLE001 - the iterating thread raises it, as with any executor
                failure = error
        next_job = self._finish_and_take(number, load_signals, wake_lock)
        if failure is not None:
            future.set_exception(failure)
        elif result is not None:
            future.set_result(result)
        del failure  # its traceback holds this frame
        return next_job

    def _finish_and_take(
        self, number: int | None, load_signals: dict[str, Any], wake_lock: threading.Lock | None
    ) -> _StartedJob | None:
        """Report the end of one item and take the next in one step, so that the controller sees no free slot between them.

        Args:
            number: The controller's number of the item that ended; ``None`` if none did.
            load_signals: Its outcome, as arguments of the controller's ``end()``.
            wake_lock: The worker thread's own; it counts as idle if there is no item for it. The submitting thread passes ``None`` and works
                on one item at a time.
        """
        with self._lock:
            old_limit = self._controller.limit
            if number is not None:
                self._controller.end(number, **load_signals)
            new_limit = self._controller.limit
            job = None
            if (wake_lock is not None or number is None) and self._controller.in_flight < new_limit:
                try:
                    pending_job = self._pending.popleft()
                except IndexError:  # there is none, or a finalizer has cancelled them
                    pass
                else:
                    job = (self._controller.start(), *pending_job)
            if wake_lock is not None:
                self._starting_locks.discard(wake_lock)
                self._idle_locks.pop(wake_lock, None)  # present if the thread woke by its timeout
                if job is None and not self._is_shut_down:
                    self._idle_locks[wake_lock] = None
        if new_limit != old_limit:
            _log.debug("workers: %d instead of %d", new_limit, old_limit)
        return job


def _load_signals(result: BulkResult) -> dict[str, Any]:
    """Return the signs of the service's load in *result*, as arguments of ``Controller.end``."""
    error, response = result.error, result.response
    attempts = response.attempts if response is not None else error.attempts if error is not None else ()
    if any(attempt.error in _REFUSAL_NAMES for attempt in attempts) or (
        isinstance(error, _REFUSALS)
        and error.status_code is not None  # without a status the limiter refused it, not the service
    ):
        return {"overloaded": True}
    if response is None:
        is_late = isinstance(error, (e.ReadTimeoutError, e.DeadlineExceededError)) and error.sent is not False
        if not is_late or isinstance(error, e.RateLimitTimeoutError):
            return {}
        return {"latency": math.inf, "queued": True}
    timing, usage = response.timing, response.usage
    # Of the attempt that succeeded, from the admission by the limiter to the end of the answer.
    duration = attempts[-1].duration if attempts else max(timing.total - timing.wait, 0.0)
    return {
        "latency": comparable(
            duration,
            None if usage.source == "unknown" else usage.completion_tokens,
            prompt=usage.prompt_time,
            completion=usage.completion_time,
        ),
        "queued": timing.wait > _WAIT_SHARE * duration,
    }


def _answer_item(
    call: Callable[[LLMRequest, CancelToken], LLMResponse],
    fields: dict[str, Any],
    token: CancelToken,
    index: int,
    item: Any,
) -> _Outcome:
    """Work on one item in a worker thread, and turn every error into a result."""
    request = None
    custom_id = str(index)
    try:
        request = LLMRequest.of(item, **fields)
        custom_id = request.custom_id or custom_id
        return BulkSuccess(index=index, custom_id=custom_id, request=request, response=call(request, token))
    except e.GroqProviderError as error:
        # Drop the frames: their variables would keep the request and its connection in memory.
        return BulkFailure(index=index, custom_id=custom_id, request=request, error=e.without_frames(error))
    except Exception as error:  # noqa: BLE001 - a bug in one item must not end the others
        wrapped = e.GroqProviderError(f"unexpected {type(error).__name__} in a bulk item: {str(error)[:200]}")
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # drop this frame: its variables hold the item
        wrapped.__cause__ = error
        return BulkFailure(index=index, custom_id=custom_id, request=request, error=wrapped)
