"""A stream of whichever provider answers."""

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
    """A stream of the member that answers; the same face as :class:`~groq_provider.ResponseStream`.

    Until the first chunk another member may take over inside ``next()``; from there it is one member's stream.

    Thread safety: as of :class:`~groq_provider.ResponseStream`.

    .. versionadded:: 0.1.0
    """

    def __init__(self, search: FallbackCall) -> None:
        self._search = search
        lock = Lock()  # as in ResponseStream
        self._turns, self._release = map(lock.acquire, repeat(False)), lock.release
        self._error: e.GroqProviderError | None = None
        self._committed = False
        # One token for whichever member is being asked, so that a cancel reaches it also between two of them.
        self._token = CancelToken()
        self._outer, search.cancel = search.cancel, self._token
        self._handle = 0 if self._outer is None else self._outer.subscribe(self._token.cancel)
        try:
            self._open()
        except BaseException:
            self._leave()
            raise
        self._over = False  # last: a finalizer has nothing to give back before

    def _open(self) -> None:
        self._stream: ResponseStream
        self._member: Member
        self._permit: Admission
        self._stream, self._member, self._permit = self._search.run(
            lambda member, call: member.provider.generate_stream(
                call.request, timeout=call.timeout, cancel=self._token, **call.extras
            ),
            commit=False,
        )
        self._noted = False  # whether its failure, and so its attempts, are among those of the search

    def __repr__(self) -> str:
        if not hasattr(self, "_over"):
            return f"<{type(self).__name__} unfinished>"  # for tools that show variables
        return f"<{type(self).__name__} of {self._member.name}: {self._stream!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a FallbackStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        for mine in self._turns:
            if mine:
                try:  # mine only in here
                    return self._next()
                finally:
                    self._release()  # no longer mine
            break
        raise self._busy()

    @staticmethod
    def _busy() -> RuntimeError:
        return RuntimeError("another thread is reading this stream just now; it belongs to one reader at a time")

    def _next(self) -> ResponseChunk:
        while True:
            if self._error is not None:
                raise self._error
            try:
                chunk = next(self._stream)
                if not self._committed:
                    self._committed = True
                    self._report(True)
                return chunk  # noqa: TRY300 - in here: lost to an interrupt, it must not be followed by the next
            except StopIteration:
                self._end()
                raise
            except e.GroqProviderError as error:
                self._move_on(error)
            except BaseException:  # KeyboardInterrupt and the like
                self._close()
                raise

    def _move_on(self, error: e.GroqProviderError) -> None:
        """Have the next member answer after *error*, or raise what the stream ends with."""
        if self._over:  # closed, after poll() had met it
            raise error
        try:
            # Once begun well, which was counted, it counts again that it broke.
            self._report(verdict(error), not_sent=error.sent is False)
            self._noted = True
            final = self._search.failed(error, last=self._committed)
            if final is None:
                self._stream.close()
                self._open()
                return
        except e.GroqProviderError as problem:  # of the last member that was asked
            final = problem
        except BaseException:
            self._close()
            raise
        self._error = final
        self._end()
        raise final

    def _end(self) -> None:
        self._over = True
        self._leave()

    def _leave(self) -> None:
        if self._outer is not None:
            self._outer.unsubscribe(self._handle)

    def _report(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        breaker, permit = self._member.breaker, self._permit
        self._permit = permit._replace(probe=False)  # given back once; what follows counts as any call
        breaker.report(permit, outcome, not_sent=not_sent)

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for a chunk, the end or an error; see :meth:`ResponseStream.poll`.

        After an error before the first chunk ``next()`` asks the next member, and so may wait.
        """
        for mine in self._turns:
            if mine:
                try:  # mine only in here
                    return self._error is not None or self._stream.poll(timeout)
                finally:
                    self._release()  # no longer mine
            break
        raise self._busy()

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer."""
        for _ in self:
            pass
        return self.response

    @property
    def decode_errors(self) -> int:
        """Events whose bytes were not UTF-8; the broken parts read U+FFFD."""
        return self._stream.decode_errors

    @property
    def response(self) -> LLMResponse:
        """The whole answer, after the end; it says who gave it."""
        if self._error is not None:
            raise self._error
        try:
            return self._search.completed(self._stream.response)
        except e.GroqProviderError:
            if self._over:
                raise
        raise RuntimeError("the stream has not ended yet")  # another member may answer

    @property
    def partial(self) -> LLMResponse:
        """What has arrived so far."""
        return self._search.completed(self._stream.partial, noted=self._noted)

    def cancel(self) -> None:
        """End the stream now, from any thread."""
        self._token.cancel()

    def close(self) -> None:
        """Stop reading and free the connection, from any thread. Idempotent; see :meth:`ResponseStream.close`."""
        for mine in self._turns:
            if mine:
                try:  # mine only in here
                    self._close()
                    return
                finally:
                    self._release()  # no longer mine
            break
        self.cancel()  # whoever reads sees to the rest

    def _close(self) -> None:
        if self._over:
            return
        self._end()
        if not self._committed:
            self._report(None)
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "_over", True) or _finalizing():
            return
        # No lock may be touched here. The member's stream sees to its connection; what is ours is given back with the next call.
        self._over = True
        breaker, permit, committed = self._member.breaker, self._permit, self._committed
        outer, handle = self._outer, self._handle

        def give_back() -> None:
            if not committed:
                breaker.report(permit, None)
            if outer is not None:
                outer.unsubscribe(handle)

        self._search.later(give_back)
