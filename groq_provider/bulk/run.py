"""Many requests over threads: bounded, in order or as they finish, an error being a result."""

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
from groq_provider._sync import in_signal_handler
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
#: What an attempt ended with that was refused for lack of room.
_REFUSALS = (e.RateLimitedError, e.OverloadedError)
_REFUSAL_NAMES = {error.__name__ for error in _REFUSALS}
#: More of its time than this in the limiter's queue or between retries, and a call is no reason to have more of them.
_WAITING = 0.1
#: Seconds that a thread without an item waits for the next. To start another takes a thousandth of it.
_LINGER = 0.1


@attrs.frozen(kw_only=True)
class BulkResult:
    """The outcome of one item: a response or an error, exactly one of them.

    A run gives out its two kinds, :class:`BulkSuccess` and :class:`BulkFailure`, so that type checkers know that there is a response
    after ``if result.error is None``, and an error otherwise. For ``if result.ok`` mypy knows it, pyright does not.

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


@attrs.frozen(kw_only=True)
class BulkSuccess(BulkResult):
    """The outcome of an item that was answered.

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


#: What a run gives out.
_Outcome = BulkSuccess | BulkFailure
#: An item that waits, and the same with its number once a thread has taken it.
_Job = tuple["Future[_Outcome]", "Callable[..., _Outcome]", tuple[Any, ...]]
_Taken = tuple[int, "Future[_Outcome]", "Callable[..., _Outcome]", tuple[Any, ...]]


class BulkRun:
    """Iterate it for results; use it as a context manager, so that leaving early ends what is unfinished.

    At most twice as many items as workers (as :attr:`workers` says at that moment) are taken from the input ahead of the results,
    so inputs of any length take little memory. The input is read in the thread that iterates. Where the system has no more threads, the
    run goes on with those it has; if it has none, that thread works on the items, too.

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
        self._threads: _AdaptiveExecutor | _Here
        if _in_a_handler():
            self._threads = _Here()
        else:
            self._threads = _AdaptiveExecutor(Controller() if max_workers == "auto" else _Fixed(max_workers))
        self._token = CancelToken()
        self._outer = cancel
        self._handle = None if cancel is None else cancel.subscribe(self._token.cancel)
        self._waiting: deque[Future[_Outcome]] = deque()  # in order of input; ordered runs only
        self._done: queue.SimpleQueue[Future[_Outcome]] = queue.SimpleQueue()  # unordered runs only
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
        return self._threads.workers

    def __iter__(self) -> Iterator[BulkSuccess | BulkFailure]:
        return self

    def __next__(self) -> BulkSuccess | BulkFailure:
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
            self._threads.lend()
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
        self._threads.shutdown(wait=True)

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
            self._threads.shutdown(wait=False)


#: Reads the input, which may be another run.
_READING = frozenset({BulkRun._fill.__code__})  # noqa: SLF001 - ours


def _in_a_handler() -> bool:
    """Say whether a signal handler asks whose thread may hold what threads of a run need."""
    return in_signal_handler(_PACKAGE, _READING, (f"{_PACKAGE}cli", f"{_PACKAGE}testing"))


class _Here:
    """In place of a pool of threads: works on each item as it is submitted."""

    workers = 1

    def submit(self, function: Callable[..., _Outcome], *args: Any) -> Future[_Outcome]:
        future: Future[_Outcome] = Future()
        future.set_result(function(*args))
        return future

    def lend(self) -> None:
        """Each item is done when it has been submitted."""

    def shutdown(self, *, wait: bool) -> None:
        """Nothing is left to be done."""


class _Fixed:
    """In place of a controller: as many at once as the caller asked for.

    Thread safety: as a controller's.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0

    def start(self) -> int:
        self.in_flight += 1
        return 0

    def end(self, _number: int, **_outcome: Any) -> None:
        self.in_flight -= 1


class _AdaptiveExecutor:
    """Threads of which as many work at once as their controller says.

    A thread takes item after item. When none is left, or the controller wants fewer, it waits a moment for the next and ends; so it need
    not be told that the interpreter ends. A ThreadPoolExecutor does not do: it takes no work once the main thread has ended, though
    other threads go on, and raises where no thread can be started. Only the thread that submits begins new ones, and an abandoned run
    is shut down without the lock: that may happen in any thread, in the middle of what the lock guards.

    Thread safety: one thread submits and lends.
    """

    def __init__(self, controller: Controller | _Fixed) -> None:
        self._lock = threading.Lock()  # guards the four below; held for a moment, never during a call
        self._controller = controller
        self._pending: deque[_Job] = deque()
        self._idle: dict[threading.Lock, None] = {}  # one for each thread that waits for an item, released to wake it
        self._opening: set[threading.Lock] = set()  # of threads begun or woken that have not looked for an item since
        self._over = False
        self._threads: list[threading.Thread] = []  # of the submitting thread alone
        self._short = False  # whether items wait and no thread works, because none can be started; of that thread, too

    @property
    def workers(self) -> int:
        return self._controller.limit

    def submit(self, function: Callable[..., _Outcome], *args: Any) -> Future[_Outcome]:
        future: Future[_Outcome] = Future()
        with self._lock:
            self._pending.append((future, function, args))
        self._begin()
        return future

    def lend(self) -> None:
        """Where no thread works and none can be started, work on an item in this one."""
        if not self._short:
            return
        self._begin()
        if self._short and (job := self._next(None, {}, None)) is not None:
            self._work_on(*job, None)

    def shutdown(self, *, wait: bool) -> None:
        self._over = True
        while True:
            try:
                future, _, _ = self._pending.popleft()
            except IndexError:
                break
            future.cancel()
        if not wait:
            return
        with self._lock:
            idle, self._idle = self._idle, {}
        for bell in idle:
            _ring(bell)
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # an interrupt came before it was started
                thread.join()

    def _begin(self) -> None:
        """Wake or start the threads that the items waiting want and the controller allows, as far as the system has them."""
        self._short = False
        while True:
            with self._lock:
                free = self._controller.limit - self._controller.in_flight
                if len(self._opening) >= min(free, len(self._pending)):
                    return
                woken = bool(self._idle)
                bell = self._idle.popitem()[0] if woken else threading.Lock()
                self._opening.add(bell)
            if woken:
                _ring(bell)
                continue
            bell.acquire()
            self._threads = [known for known in self._threads if known.is_alive()]
            thread = threading.Thread(target=self._work, args=(bell,), name="groq-bulk")
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:  # the system has no more, or the interpreter ends
                with self._lock:
                    self._opening.discard(bell)
                    self._short = not self._opening and not self._controller.in_flight
                return  # those there are will do it

    def _work(self, bell: threading.Lock) -> None:
        while True:
            job = self._next(None, {}, bell)
            while job is not None:
                job = self._work_on(*job, bell)
            if self._over:
                return
            if not bell.acquire(timeout=_LINGER):
                with self._lock:
                    if bell in self._idle:  # else it has just been woken
                        del self._idle[bell]
                        return

    def _work_on(
        self,
        number: int,
        future: Future[_Outcome],
        function: Callable[..., _Outcome],
        args: tuple[Any, ...],
        bell: threading.Lock | None,
    ) -> _Taken | None:
        """Do one item; return the next, if this is a thread of the crew."""
        result: _Outcome | None = None
        failure: BaseException | None = None
        outcome: dict[str, Any] = {}
        if future.set_running_or_notify_cancel():
            try:
                result = function(*args)
                if isinstance(self._controller, Controller):
                    outcome = _outcome(result)
            except BaseException as error:  # noqa: BLE001 - handed to whoever reads the results, as a pool does
                failure = error
        job = self._next(number, outcome, bell)
        if failure is not None:
            future.set_exception(failure)
        elif result is not None:
            future.set_result(result)
        del failure  # its traceback holds this frame
        return job

    def _next(self, number: int | None, outcome: dict[str, Any], bell: threading.Lock | None) -> _Taken | None:
        """End one item and begin another in one step, so that the moment between them does not look like a slot nobody needs.

        Args:
            number: Of the item that ends; ``None``: none does.
            outcome: How, for the controller.
            bell: The thread's own, by which it is woken if there is no other item; ``None``: it is none of the crew, and has done its share.
        """
        with self._lock:
            before = self._controller.limit
            if number is not None:
                self._controller.end(number, **outcome)
            after = self._controller.limit
            job = None
            if (bell is not None or number is None) and self._controller.in_flight < after:
                try:
                    waiting = self._pending.popleft()
                except IndexError:  # none left, or a finalizer was here
                    pass
                else:
                    job = (self._controller.start(), *waiting)
            if bell is not None:
                self._opening.discard(bell)
                self._idle.pop(bell, None)  # there, if it rang late
                if job is None and not self._over:
                    self._idle[bell] = None
        if after != before:
            _log.debug("workers: %d instead of %d", after, before)
        return job


def _ring(bell: threading.Lock) -> None:
    with contextlib.suppress(RuntimeError):  # it rings already, from a time when its thread woke without it
        bell.release()


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
) -> _Outcome:
    """Work on one item, in a thread of the pool; whatever happens is a result."""
    request = None
    custom_id = str(index)
    try:
        request = LLMRequest.of(item, **fields)
        custom_id = request.custom_id or custom_id
        return BulkSuccess(index=index, custom_id=custom_id, request=request, response=call(request, token))
    except e.GroqProviderError as error:
        # The frames say nothing of the item, and their variables are the prompt as it was given.
        return BulkFailure(index=index, custom_id=custom_id, request=request, error=e.without_frames(error))
    except Exception as error:  # noqa: BLE001 - a bug must not take the other items with it
        wrapped = e.GroqProviderError(f"unexpected {type(error).__name__} in a bulk item: {str(error)[:200]}")
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next  # without this frame, which holds the item
        wrapped.__cause__ = error
        return BulkFailure(index=index, custom_id=custom_id, request=request, error=wrapped)
