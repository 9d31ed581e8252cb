"""Answers: a requests.Response whose body is read as it arrives, whole or line by line."""

from __future__ import annotations

import http.client
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import requests
from requests.cookies import RequestsCookieJar
from urllib3.exceptions import HTTPError

from groq_provider.errors import ResponseTooLargeError
from groq_provider.transport.error_mapping import UnwantedCodingError, map_read_error
from groq_provider.transport.http1.receive import HTTP11Response, ResponseFile
from groq_provider.wire.sse import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from groq_provider.transport.permits import Permit
    from groq_provider.transport.scope import CancelScope

__all__ = ["Response"]

_PIECE = 32_768
#: After the end of a stream, so much is read for the end of the body, and for so long; else the connection is dropped.
_DRAIN_BYTES = 64 * 1024
_DRAIN_SECONDS = 0.05
_NO_TIME = timedelta(0)
#: So many pieces of a body are kept as they came.
_MANY = 256


class _Urllib3Body:
    """The body of urllib3's answer, with the face of :class:`~groq_provider.transport.http1.receive.HTTP11Response`.

    There is one where urllib3 talks through a proxy, and where the `responses` library answers, without any connection.
    """

    __slots__ = ("_answer", "_raw", "marked")

    complete = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        file = raw._fp
        self._answer: HTTP11Response | None = file.answer if isinstance(file, ResponseFile) else None
        self.marked = self._answer is None or self._answer.marked

    def read1(self) -> bytes:
        data: bytes = self._raw.read1(_PIECE, decode_content=False)
        return data

    def ready(self, timeout: float) -> bool:
        raw, answer = self._raw, self._answer
        return answer is None or bool(raw._fp.waiting) or answer.ready(timeout)

    def release(self) -> None:
        self._raw.release_conn()

    def drop(self) -> None:
        self._raw.close()
        self._raw.release_conn()

    def abandon(self) -> None:
        connection, self._raw._connection = self._raw._connection, None
        if connection is not None:
            connection.close()


class _CodedBody:
    """A body in a content coding that was not asked for: never decoded, as a few bytes of it can become any number.

    Args:
        body: Where it is.
        coding: What the head calls it.
    """

    __slots__ = ("_body", "_coding", "marked")

    complete = False

    def __init__(self, body: Any, coding: str) -> None:
        self._body = body
        self._coding = coding
        self.marked = body.marked

    def read1(self) -> bytes:
        if self._body.complete:
            return b""  # which is the same in every coding
        raise UnwantedCodingError(self._coding)

    def ready(self, _timeout: float) -> bool:
        return True

    def release(self) -> None:
        self._body.release()

    def drop(self) -> None:
        self._body.drop()

    def abandon(self) -> None:
        self._body.abandon()


class Response(requests.Response):
    """An answer whose head is there.

    ``iter_lines()`` is right where requests' own is not: it splits at CR, LF and CRLF only, in linear time, holds nothing back
    on any framing, and decodes nothing.

    Not shared between threads.

    Args:
        raw: An :class:`~groq_provider.transport.http1.receive.HTTP11Response`, or what has its face, or an answer of urllib3's.
        request: What was asked.
        scope: Whose limits hold.
    """

    def __init__(self, raw: Any, request: Any, scope: CancelScope | None) -> None:
        # Not requests' own __init__: it makes a cookie jar and a case-insensitive dict that nothing here uses.
        self._content: Any = False
        self._content_consumed = False
        self._next = None
        self.status_code = raw.status
        self.headers = raw.headers  # urllib3's own are case-insensitive, too
        self.raw = raw
        self.url = request.url
        self.encoding = "utf-8"
        self.history = []
        self.reason = raw.reason
        self.elapsed = _NO_TIME
        self.request = request
        self._call = scope
        self.slot: Permit | None = None
        self._done = False
        self._splitter = LineSplitter()
        self._body: Any = raw if hasattr(raw, "marked") else _Urllib3Body(raw)
        coding = raw.headers.get("content-encoding")
        if coding and coding.strip().lower() != "identity":
            self._body = _CodedBody(self._body, coding)

    @property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # an attribute there
        """Always empty: this client keeps no cookies."""
        return RequestsCookieJar()

    # --- reading ---------------------------------------------------------------------------------------------------------

    def read1(self) -> bytes:
        """Return what has arrived of the body, waiting for the first byte; nothing at its end."""
        if self._done:
            return b""
        try:
            data: bytes = self._body.read1()
        except (OSError, HTTPError, http.client.HTTPException, ValueError, AttributeError) as caught:
            problem = caught
        else:
            if not data:
                scope = self._call
                if scope is not None and scope.cancelled and not self._body.marked:
                    self.close()  # what looks like the end may be our own shutdown of the socket
                    raise map_read_error(ConnectionAbortedError(), scope)
                self._release()
            return data
        self.close()
        mapped = map_read_error(problem, self._call)
        del problem  # its frames hold the request
        raise mapped

    def _release(self) -> None:
        """Give the connection back for the next request."""
        self._done = True
        scope = self._call
        if scope is not None:
            scope.unbind()
        if scope is not None and scope.cancelled:
            self._body.drop()
        else:
            self._body.release()
        self._leave()

    def _leave(self) -> None:
        if self.slot is not None:
            self.slot.give()

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        """Return the whole body and give the connection back.

        Args:
            limit: Bytes at most; of a larger body the connection is dropped.
            cut: Return the beginning of a larger one.

        Raises:
            ResponseTooLargeError: More than *limit* bytes.
            IncompleteResponseError: Less than was announced.
        """
        parts: list[bytes] = []
        whole = bytearray()  # of what came in many pieces: an object for each would be larger than they are
        size = 0
        while data := self.read1():
            size += len(data)
            if size > limit:
                self.close()
                if cut:
                    return b"".join([whole, *parts, data])[:limit]
                raise ResponseTooLargeError(f"the answer is larger than {limit:,} bytes", sent=True)
            parts.append(data)
            if self._body.complete:
                self._release()
                break
            if len(parts) >= _MANY:
                whole += b"".join(parts)
                parts.clear()
        if whole:
            parts.insert(0, bytes(whole))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def iter_lines(self, *_requests_own: Any, **_also: Any) -> Iterator[bytes]:
        """Yield the lines of the body as bytes without their ends, each as soon as it has arrived.

        The arguments of requests' method are accepted and have no effect.
        """
        while (lines := self.read_lines()) is not None:
            yield from lines

    def read_lines(self) -> list[bytes] | None:
        """Read once and return the lines that completes, perhaps none; ``None`` at the end of the body."""
        if data := self.read1():
            return self._splitter.feed(data)
        rest = self._splitter.finish()
        return [rest] if rest else None

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read_lines` has something to read."""
        return self._done or bool(self._body.ready(timeout))

    # --- ending ----------------------------------------------------------------------------------------------------------

    def drain(self, scope: CancelScope) -> None:
        """Read on to the end of the body, for a moment at most, so that the connection can serve again; else close it."""
        if self._done:
            return
        scope.deadline = scope.earlier(_DRAIN_SECONDS)
        left = _DRAIN_BYTES
        try:
            while left > 0 and (data := self.read1()):
                left -= len(data)
        except Exception:  # noqa: BLE001 - the answer is complete; what follows it is nobody's concern
            self.close()
        if not self._done:
            self.close()

    def abandon(self) -> None:
        """Drop the connection without touching a lock: for finalizers, which may run inside any of them."""
        if self._done:
            return
        self._done = True
        self._body.abandon()
        self._leave()

    def close(self) -> None:
        """Drop the connection, unless it has gone back already. Idempotent."""
        if self._done:
            return
        self._done = True
        if self._call is not None:
            self._call.unbind()
        self._body.drop()
        self._leave()

    @property
    def content(self) -> bytes:
        """The whole body; for callers of the transport that treat it as requests' own."""
        if self._content is False:
            self._content = self.read_body(1 << 62)
            self._content_consumed = True
        found: bytes = self._content
        return found
