"""Answers of endpoints that have no method of their own: as JSON, bytes, a file, an iterator of bytes, or events."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from groq_provider import errors as e
from groq_provider.call.boundary import public
from groq_provider.call.endpoint import Endpoint
from groq_provider.types.response import ResponseHeaders
from groq_provider.wire import json_text
from groq_provider.wire.sse import DONE, EventDecoder

if TYPE_CHECKING:
    from typing_extensions import Self

    from groq_provider.call.call import Call
    from groq_provider.protocols import WireResponse

__all__ = ["BodyIterator", "RawResponse", "raw_endpoint"]

T = TypeVar("T")

#: Bytes of a file that are kept in memory; a larger one goes to a temporary file on disk.
_IN_MEMORY = 1 << 20


@attrs.frozen(kw_only=True)
class RawResponse:
    """An answer of any endpoint.

    Attributes:
        status_code: 200 to 299: anything else is an error.
        headers: Header fields, by name in any case.
        request_id: The service's ``req_…``, for support.
        body: What you asked for with ``as_``: decoded JSON, ``bytes``, a binary file, or a :class:`BodyIterator` of bytes or of events.

    .. versionadded:: 0.1.0
    """

    status_code: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    request_id: str | None
    body: Any = attrs.field(repr=False)


class BodyIterator(Generic[T]):
    """The body of an answer as it arrives. Use it as a context manager, so that leaving early frees the connection.

    It raises what ends the body early; time limits hold between two pieces (``Timeouts.idle``) and in all (``Timeouts.total``).

    Thread safety: one thread reads; :meth:`close` is for the same one.

    .. versionadded:: 0.1.0
    """

    _over = True  # until there is something to end

    def __init__(self, call: Call, response: WireResponse, read: Callable[[WireResponse], Iterator[T]]) -> None:
        self._call = call
        self._response = response
        self._pieces = read(response)
        self._over = False

    def __iter__(self) -> Self:
        return self

    @public
    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        call = self._call
        try:
            call.scope.deadline = call.scope.deadline_after(call.options.timeouts.idle)
            return next(self._pieces)
        except StopIteration:
            self._over = True
            call.finished()
            raise
        except e.GroqProviderError as error:
            problem = error
        except BaseException:
            self.close()
            raise
        self._over = True
        self._response.close()
        raise call.failed(problem)

    def close(self) -> None:
        """Stop reading and free the connection. Idempotent; after the end without effect."""
        if not self._over:
            self._over = True
            self._response.close()
            self._call.abandoned()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._over or _finalizing():
            return
        self._over = True
        self._response.abandon()  # no lock may be touched here; the books follow with the next call
        self._call.runtime.calls.run_with_next_call(self._call.abandoned)
        warnings.warn(
            "unclosed body of an answer: use it as a context manager, or read it to its end",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )


def _pieces(response: WireResponse) -> Iterator[bytes]:
    while data := response.read1():
        yield data


def _events(response: WireResponse) -> Iterator[Any]:
    decoder = EventDecoder()
    while (lines := response.read_lines()) is not None:
        for _name, data in decoder.events(lines):
            if data[:6] == DONE:
                return
            if data.strip():
                yield json_text.loads(data, "an event of the stream")
    last = decoder.finish()
    if last is not None and last.data[:6] != DONE and last.data.strip():
        yield json_text.loads(last.data, "an event of the stream")


def _json(call: Call, response: WireResponse) -> Any:
    return call.read_json(response)


def _bytes(call: Call, response: WireResponse) -> bytes:
    return call.read_bytes(response)


def _file(call: Call, response: WireResponse) -> IO[bytes]:
    file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - the caller closes it
    try:
        for piece in _pieces(response):
            call.scope.deadline = call.scope.deadline_after(call.options.timeouts.idle)
            file.write(piece)
    except BaseException:
        response.close()
        file.close()
        raise
    file.seek(0)
    return file


def _iterator(call: Call, response: WireResponse) -> BodyIterator[bytes]:
    return BodyIterator(call, response, _pieces)


def _event_iterator(call: Call, response: WireResponse) -> BodyIterator[Any]:
    return BodyIterator(call, response, _events)


_KINDS: dict[str, Callable[[Call, WireResponse], Any]] = {
    "json": _json,
    "bytes": _bytes,
    "file": _file,
    "iterator": _iterator,
    "events": _event_iterator,
}


def raw_endpoint(method: str, path: str, as_: str) -> Endpoint:
    """Return an endpoint that gives its answer in the form *as_*, inside a :class:`RawResponse`.

    Raises:
        InvalidRequestError: There is no such form.
    """
    read = _KINDS.get(as_)
    if read is None:
        raise e.InvalidRequestError(f"as_ = {as_!r}: must be one of {', '.join(_KINDS)}", param="as_")

    def decode(call: Call, response: WireResponse) -> RawResponse:
        body = read(call, response)
        if not isinstance(body, BodyIterator):
            call.finished()
        headers = ResponseHeaders(response.headers)
        return RawResponse(status_code=response.status_code, headers=headers, request_id=call.request_id, body=body)

    return Endpoint(method=method, path=path, decode=decode, stream=as_ == "events")
