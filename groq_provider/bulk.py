"""Many requests over threads: bounded, in order or as they finish, an error being a result."""

from __future__ import annotations

import contextvars
import queue
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import errors as e
from groq_provider.cancel import CancelToken
from groq_provider.types.messages import Message
from groq_provider.types.request import LLMRequest
from groq_provider.types.response import LLMResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["BulkResult", "BulkRun"]


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

    At most twice as many items as workers are taken from the input ahead of the results, so inputs of any length take little
    memory. The input is read in the thread that iterates.

    Thread safety: it belongs to one iterating thread; :meth:`cancel` may be called from any.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        requests: Iterable[Any],
        call: Callable[[LLMRequest, CancelToken], LLMResponse],
        *,
        fields: dict[str, Any],
        max_workers: int,
        ordered: bool,
        cancel: CancelToken | None,
    ) -> None:
        if isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1:
            raise e.ConfigurationError(f"max_workers = {max_workers!r}: must be an integer of at least 1")
        if isinstance(requests, (str, bytes, Mapping, Message, LLMRequest)) or not isinstance(requests, Iterable):
            kind = "text" if isinstance(requests, str) else type(requests).__name__
            raise e.InvalidRequestError(
                f"generate_many takes a sequence of prompts or requests, not one {kind}; put it in a list"
            )
        self._input = enumerate(iter(requests))
        self._call = call
        self._fields = fields
        self._window = 2 * max_workers
        self._ordered = ordered
        self._threads = ThreadPoolExecutor(max_workers, thread_name_prefix="groq-bulk")
        self._token = CancelToken()
        self._outer = cancel
        self._handle = None if cancel is None else cancel.subscribe(self._token.cancel)
        self._waiting: deque[Future[BulkResult]] = deque()  # in order of input; ordered runs only
        self._done: queue.SimpleQueue[Future[BulkResult]] = queue.SimpleQueue()  # unordered runs only
        self._running = 0
        self._exhausted = False
        self._input_error: BaseException | None = None
        self._cut = False  # whether a cancel left items untaken
        self._closed = False
        self.submitted = 0
        self.completed = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.completed} of {self.submitted} taken done>"

    def __iter__(self) -> Iterator[BulkResult]:
        return self

    def __next__(self) -> BulkResult:
        if self._closed:
            raise StopIteration
        try:
            self._fill()
            if not self._running:
                self.close()
                if self._input_error is not None:
                    raise self._input_error
                if self._cut:
                    raise e.RequestCancelledError(
                        f"the run was cancelled after {self.submitted} items; the others were not taken"
                    )
                raise StopIteration
            result = (self._waiting.popleft() if self._ordered else self._done.get()).result()
        except BaseException:  # KeyboardInterrupt while waiting, an input that fails
            self.close()
            raise
        self._running -= 1
        self.completed += 1
        if isinstance(result.error, e.ProviderClosedError):
            self._exhausted = True  # nothing further can succeed
        return result

    def _fill(self) -> None:
        while self._running < self._window and not self._exhausted:
            if self._token.cancelled:
                self._exhausted = self._cut = True
                return
            try:
                index, item = next(self._input)
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # noqa: BLE001 - the caller's own; raised once what is under way has been handed out
                self._exhausted = True
                self._input_error = error
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
        if self._closed:
            return
        self._closed = True
        self._token.cancel()
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._outer is not None and self._handle is not None:
            self._outer.unsubscribe(self._handle)

    def __enter__(self) -> BulkRun:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            # Left without a with-block: end the work, do not wait for it.
            self._closed = True
            self._token.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)


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
        return BulkResult(index=index, custom_id=custom_id, request=request, error=error)
    except Exception as error:  # noqa: BLE001 - a bug must not take the other items with it
        wrapped = e.GroqProviderError(f"unexpected {type(error).__name__} in a bulk item: {str(error)[:200]}")
        wrapped.__cause__ = error
        return BulkResult(index=index, custom_id=custom_id, request=request, error=wrapped)
