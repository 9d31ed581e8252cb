"""``FallbackStream``: the stream of the member that answers."""

from __future__ import annotations

import sys
from itertools import repeat
from threading import Lock
from typing import TYPE_CHECKING, NoReturn

from groq_provider import errors as e
from groq_provider.call.breaker import verdict
from groq_provider.cancel import CancelToken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

    from groq_provider.call.breaker import Admission
    from groq_provider.call.stream import ResponseStream
    from groq_provider.fallback.fallback_call import FallbackCall, Member
    from groq_provider.types.response import LLMResponse, ResponseChunk

__all__ = ["FallbackStream"]


class FallbackStream:
    """The stream of the member that answers; you use it like a :class:`~groq_provider.ResponseStream`.

    Until the first chunk ``next()`` may ask another member; from then on the stream is that member's.

    Thread safety: as of :class:`~groq_provider.ResponseStream`.

    .. versionadded:: 0.1.0
    """

    def __init__(self, fallback_call: FallbackCall) -> None:
        self._fallback_call = fallback_call
        lock = Lock()  # held by the reader; see ResponseStream
        self._lock_attempts, self._release_lock = map(lock.acquire, repeat(False)), lock.release
        self._error: e.GroqProviderError | None = None
        self._has_chunk = False
        # One token for all members, so that a cancel also takes effect between two of them.
        self._token = CancelToken()
        self._caller_token, fallback_call.cancel = fallback_call.cancel, self._token
        self._subscription = 0 if self._caller_token is None else self._caller_token.subscribe(self._token.cancel)
        try:
            self._open()
        except BaseException:
            self._unsubscribe()
            raise
        self._is_over = False  # set last: before this there is nothing for the finalizer to return

    def _open(self) -> None:
        self._stream: ResponseStream
        self._member: Member
        self._permit: Admission
        self._stream, self._member, self._permit = self._fallback_call.run(
            lambda member, call: member.provider.generate_stream(
                call.request, timeout=call.timeout, cancel=self._token, **call.extras
            ),
            commit=False,
        )
        self._has_failed = False  # whether the call has recorded this member's failure and attempts

    def __repr__(self) -> str:
        if not hasattr(self, "_is_over"):
            return f"<{type(self).__name__} unfinished>"  # a debugger shows objects of failed constructions
        return f"<{type(self).__name__} of {self._member.name}: {self._stream!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a FallbackStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        try:
            for is_reader in self._lock_attempts:
                if is_reader:
                    try:
                        return self._next()
                    finally:
                        self._release_lock()
                break
        except Exception:
            raise
        except BaseException:
            # An interrupt. Out here, since a chunk is lost until it is returned, so the stream must not go on.
            self._close()
            raise
        raise self._busy_error()

    @staticmethod
    def _busy_error() -> RuntimeError:
        return RuntimeError("another thread is reading this stream just now; it belongs to one reader at a time")

    def _next(self) -> ResponseChunk:
        while True:
            if self._error is not None:
                raise self._error
            try:
                chunk = next(self._stream)
                if not self._has_chunk:
                    self._has_chunk = True
                    self._report_outcome(True)
            except StopIteration:
                self._end()
                raise
            except e.GroqProviderError as error:
                self._ask_next_member(error)
            else:
                return chunk

    def _ask_next_member(self, error: e.GroqProviderError) -> None:
        """Open the next member's stream after *error*, or end this stream and raise its final error."""
        if self._is_over:  # closed after poll() met the error
            raise error
        try:
            # After a first chunk, which counted as a success, this counts as a failure of its own.
            self._report_outcome(verdict(error), not_sent=error.sent is False)
            self._has_failed = True
            final_error = self._fallback_call.record_failure(error, is_final=self._has_chunk)
            if final_error is None:
                self._stream.close()
                self._open()
                return
        except e.GroqProviderError as last_error:  # of the last member asked
            final_error = last_error
        except BaseException:
            self._close()
            raise
        self._error = final_error
        self._end()
        raise final_error

    def _end(self) -> None:
        self._is_over = True
        self._unsubscribe()

    def _unsubscribe(self) -> None:
        if self._caller_token is not None:
            self._caller_token.unsubscribe(self._subscription)

    def _report_outcome(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        breaker, permit = self._member.breaker, self._permit
        self._permit = permit._replace(
            probe=False
        )  # the probe ends with its first report; a later one counts as that of any call
        breaker.report(permit, outcome, not_sent=not_sent)

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for a chunk, the end or an error; see :meth:`ResponseStream.poll`.

        ``True`` may also mean an error before the first chunk: ``next()`` then asks the next member, and may wait for it.
        """
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    return self._error is not None or self._stream.poll(timeout)
                finally:
                    self._release_lock()
            break
        raise self._busy_error()

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer."""
        for _ in self:
            pass
        return self.response

    @property
    def decode_errors(self) -> int:
        """Number of events that were not UTF-8; their broken parts read U+FFFD."""
        return self._stream.decode_errors

    @property
    def response(self) -> LLMResponse:
        """The whole answer, after the end; its ``provider`` and ``model`` name the member that gave it."""
        if self._error is not None:
            raise self._error
        try:
            return self._fallback_call.complete(self._stream.response)
        except e.GroqProviderError:
            if self._is_over:
                raise
        raise RuntimeError("the stream has not ended yet")  # the next member may answer

    @property
    def partial(self) -> LLMResponse:
        """The part of the answer that has arrived so far."""
        return self._fallback_call.complete(self._stream.partial, has_failed=self._has_failed)

    def cancel(self) -> None:
        """End the stream now, from any thread."""
        self._token.cancel()

    def close(self) -> None:
        """Stop reading and free the connection, from any thread. Idempotent; see :meth:`ResponseStream.close`."""
        for is_reader in self._lock_attempts:
            if is_reader:
                try:
                    self._close()
                    return
                finally:
                    self._release_lock()
            break
        self.cancel()  # the reading thread then closes the stream

    def _close(self) -> None:
        if self._is_over:
            return
        self._end()
        if not self._has_chunk:
            self._report_outcome(None)
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "_is_over", True) or _finalizing():
            return
        # A finalizer must not wait for a lock. The member's stream returns its connection; the next call returns the permit.
        self._is_over = True
        breaker, permit, has_chunk = self._member.breaker, self._permit, self._has_chunk
        caller_token, subscription = self._caller_token, self._subscription

        def release() -> None:
            if not has_chunk:
                breaker.report(permit, None)
            if caller_token is not None:
                caller_token.unsubscribe(subscription)

        self._fallback_call.run_with_next_call(release)
