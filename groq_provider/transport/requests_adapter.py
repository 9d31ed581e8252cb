"""All that requests, urllib3 and the ``responses`` library must see: the adapter, the prepared request and the response."""

from __future__ import annotations

import functools
import http.client
from datetime import timedelta
from threading import RLock
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.models import PreparedRequest
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import ProxyConfig
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout, parse_url

from groq_provider._sync import forkable
from groq_provider._validate import Hidden as SecretHeader
from groq_provider.errors import ConfigurationError, ProviderClosedError, ResponseTooLargeError
from groq_provider.transport.error_mapping import UnwantedCodingError, map_read_error
from groq_provider.transport.http1.connection import EncodedHeaders, socket_options
from groq_provider.transport.http1.pool import POOL_SIZE, PlainPool, TLSPool
from groq_provider.transport.http1.receive import HTTP11Response, ResponseFile
from groq_provider.transport.scope import CancelScope, activate, adopt
from groq_provider.transport.tls import CABundle, file_versions, tls_context
from groq_provider.wire.sse import LineSplitter

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from groq_provider.clock import Clock
    from groq_provider.protocols import RequestBody
    from groq_provider.transport.http2.pool import Http2Pool
    from groq_provider.transport.permits import Permit

__all__ = ["Adapter", "Request", "RequestHeaders", "Response"]

_READ_SIZE = 32_768
#: After the end of a stream, read at most so many bytes, for at most so many seconds, to find the end of the body. Past
#: either, the connection is closed.
_DRAIN_BYTES = 64 * 1024
_DRAIN_SECONDS = 0.05
_ZERO_TIME = timedelta(0)
#: The method that the ``responses`` library replaces while it is active.
_SEND_OF_REQUESTS = HTTPAdapter.send
#: Shared, because requests would make a new one for every ``None``.
_NO_TIMEOUT: Any = Timeout()
#: After so many pieces of a body they are joined, because many small objects take more memory than their bytes.
_MAX_PIECES = 256


class RequestHeaders(dict[str, str]):
    """A dict of headers by canonical name that also finds other spellings, for code that inspects a request."""

    def __missing__(self, key: str) -> str:
        lower = key.lower()
        for name, value in self.items():
            if name.lower() == lower:
                return value
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and any(name.lower() == key.lower() for name in self))

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value under any spelling of *key*."""
        try:
            return self[key]
        except KeyError:
            return default


class Request(PreparedRequest):
    """A prepared request built without the checks of requests: they were made once, when the transport was constructed."""

    def __init__(
        self, method: str, origin: str, path_and_query: str, headers: RequestHeaders, body: RequestBody | None
    ) -> None:
        self.method = method
        self.url = origin + path_and_query
        self.headers = headers  # type: ignore[assignment]  # not a CaseInsensitiveDict, but finds any spelling
        self.body = body  # type: ignore[assignment]  # an upload is sent by our own connections
        self.hooks = {"response": []}
        self._cookies = None
        self._body_position = None
        self._path_and_query = path_and_query

    @property
    def path_url(self) -> str:
        """The path and the query."""
        return self._path_and_query


def _http2_pool() -> type[Http2Pool]:
    """Import the pool for HTTP/2.

    Raises:
        ConfigurationError: The extra ``http2`` is not installed.
    """
    try:
        from groq_provider.transport.http2.pool import Http2Pool
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"h2", "hpack", "hyperframe"}:
            raise
        raise ConfigurationError('http2 = True: needs an extra package: pip install "groq-provider[http2]"') from None
    return Http2Pool


class Adapter(HTTPAdapter):
    """The adapter of requests, with our pools behind it.

    ``send`` is not overridden, so requests that other code sends work, and :meth:`send_request` goes through it wherever
    that makes a difference: under the ``responses`` library, which replaces it, and through a proxy.

    With *http2* the pool speaks HTTP/2 wherever TLS can negotiate it, also inside a proxy's tunnel. Without TLS, and
    through a proxy that is itself reached by TLS, the pool speaks HTTP/1.1: TLS inside TLS cannot be read without
    waiting.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        proxy: str | None,
        ca_bundle: CABundle | None,
        cert: str | tuple[str, str] | None,
        http2: bool = False,
    ) -> None:
        self._http2 = _http2_pool() if http2 else None
        self._base_url = urlsplit(base_url)
        self._clock = clock
        self._proxy = proxy
        self._ca_bundle = ca_bundle
        self._cert = cert
        self._pool: PlainPool | TLSPool | Http2Pool | None = None
        self._closed = False
        self._pool_lock = RLock()  # guards the creation of _pool, and its end; reentrant: _sync
        forkable(self)
        super().__init__(pool_connections=1, pool_maxsize=POOL_SIZE)

    def pool(self) -> PlainPool | TLSPool | Http2Pool:
        """Return the pool. It is made on first use, because a TLS context is costly and not every program sends a request."""
        if self._pool is None:
            with self._pool_lock:
                if self._closed:
                    raise ProviderClosedError("the provider was closed; make a new one", sent=False)
                if self._pool is None:
                    self._keep_pool(self._make_pool())
        return self.pool() if self._pool is None else self._pool

    def _keep_pool(self, pool: PlainPool | TLSPool | Http2Pool) -> None:
        """Keep a new pool, unless a signal handler made or closed one meanwhile."""
        if self._pool is None and not self._closed:
            self._pool = pool
        else:
            pool.close()

    def _after_fork_in_child(self) -> None:
        self._pool_lock = RLock()

    def _make_pool(self) -> PlainPool | TLSPool | Http2Pool:
        parts = self._base_url
        secure = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        settings: dict[str, Any] = {
            "clock": self._clock,
            "maxsize": POOL_SIZE,
            "block": False,
            "socket_options": socket_options(),
        }
        if self._proxy is None:
            return self._tls_pool(host, port, settings) if secure else PlainPool(host, port, **settings)
        proxy = parse_url(self._proxy)
        settings["_proxy"] = proxy
        settings["_proxy_headers"] = {
            name: SecretHeader(text) for name, text in self.proxy_headers(self._proxy).items()
        }
        settings["_proxy_config"] = ProxyConfig(
            self._tls_context() if proxy.scheme == "https" else None, False, None, None
        )
        if secure:  # a tunnel through the proxy
            return self._tls_pool(host, port, settings, tunnelled=True, http2=proxy.scheme == "http")
        proxy_port = proxy.port or (443 if proxy.scheme == "https" else 80)
        if proxy.scheme == "https":
            settings["ssl_context"] = self._tls_context()
            return TLSPool(proxy.host or "", proxy_port, **settings)
        return PlainPool(proxy.host or "", proxy_port, **settings)

    def _tls_pool(
        self, host: str, port: int, settings: dict[str, Any], *, tunnelled: bool = False, http2: bool = True
    ) -> TLSPool | Http2Pool:
        if self._http2 is not None and http2:
            make_context = functools.partial(self._tls_context, "h2", "http/1.1")
            http2_pool = self._http2(
                host, port, http1_context=self._tls_context, ssl_context=make_context(), tunnelled=tunnelled, **settings
            )
            http2_pool.http1.make_context = make_context
            return http2_pool
        pool = TLSPool(host, port, ssl_context=self._tls_context(), **settings)
        pool.make_context = self._tls_context
        pool.tunnelled = tunnelled
        return pool

    def _tls_context(self, *protocols: str) -> ssl.SSLContext:
        """Return the TLS context for the current contents of the files. Called for each new connection."""
        bundle = self._ca_bundle or DEFAULT_CA_BUNDLE_PATH
        return tls_context(bundle, self._cert, protocols or ("http/1.1",), file_versions(bundle, self._cert))

    def send_request(  # noqa: PLR0917 - called once, from the transport
        self,
        scope: CancelScope,
        method: str,
        origin: str,
        path_and_query: str,
        headers: RequestHeaders | EncodedHeaders,
        body: RequestBody | None,
    ) -> Response:
        """Send one request of the transport; return the response once its head has arrived."""
        is_direct = self._proxy is None and HTTPAdapter.send is _SEND_OF_REQUESTS
        if isinstance(headers, EncodedHeaders) and not (is_direct and self._http2 is None):
            headers = RequestHeaders({**headers.headers, "Content-Length": str(len(body or b""))})
        if is_direct:
            pool = self._pool
            if pool is None:
                pool = self.pool()
            return Response(pool.send(scope, method, path_and_query, body, headers), None, scope)
        request = Request(method, origin, path_and_query, headers, body)  # type: ignore[arg-type]  # see above
        request.scope = scope  # type: ignore[attr-defined]  # read by build_response
        with activate(scope):
            # The limits of the scope bound each wait. The timeout of requests would apply only to a request without a scope.
            response: Response = self.send(request, stream=True, timeout=_NO_TIMEOUT)  # type: ignore[assignment]  # by build_response
        return response

    # --- hooks of HTTPAdapter ----------------------------------------------------------------------------------------------

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> Any:
        """Return our pool for every request: this adapter serves one base URL."""
        return self.pool()

    def cert_verify(self, *_args: Any, **_kwargs: Any) -> None:
        """Do nothing: the shared TLS context decides, and must not be changed per request."""

    def add_headers(self, request: Any, **kwargs: Any) -> None:
        """Add no headers, but take the time limits of a request that foreign code sends: no other hook is told them."""
        if getattr(request, "scope", None) is None:
            timeout = kwargs.get("timeout")
            connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
            request.scope = CancelScope(self._clock, connect=connect, after_send=read)
            adopt(request.scope)

    def request_url(self, request: Any, proxies: Any) -> str:  # noqa: ARG002 - requests' signature
        """Return the path, or the whole URL for a plain-HTTP proxy."""
        if self._proxy is not None and self._base_url.scheme == "http":
            return str(request.url)
        return str(request.path_url)

    def build_response(self, req: Any, resp: Any) -> Response:
        """Return our response: no cookies, no guessing of the charset."""
        scope: CancelScope | None = getattr(req, "scope", None)
        if scope is not None and scope.sent is False:
            scope.request_sent()  # a response without a connection, from the ``responses`` library
        return Response(resp, req, scope)

    def close(self) -> None:
        """Close every kept connection."""
        super().close()
        with self._pool_lock:
            self._closed = True
        if self._pool is not None:
            self._pool.close()


class _Urllib3Body:
    """A body that urllib3 reads, with the methods of :class:`~groq_provider.transport.http1.receive.HTTP11Response`.

    Used where urllib3 talks to a proxy, and where the ``responses`` library answers without a connection.
    """

    __slots__ = ("_raw", "_response", "self_delimited")

    complete = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        file = raw._fp
        self._response: HTTP11Response | None = file.response if isinstance(file, ResponseFile) else None
        self.self_delimited = self._response is None or self._response.self_delimited

    def read1(self) -> bytes:
        data: bytes = self._raw.read1(_READ_SIZE, decode_content=False)
        return data

    def ready(self, timeout: float) -> bool:
        raw, response = self._raw, self._response
        return response is None or bool(raw._fp.has_unread) or response.ready(timeout)

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
    """A body in a content coding that was not requested. It is never decoded: a few bytes can expand to any size.

    Args:
        body: The coded body.
        coding: Its coding, from the head of the response.
    """

    __slots__ = ("_body", "_coding", "self_delimited")

    complete = False

    def __init__(self, body: Any, coding: str) -> None:
        self._body = body
        self._coding = coding
        self.self_delimited = body.self_delimited

    def read1(self) -> bytes:
        if self._body.complete:
            return b""  # an empty body is the same in every coding
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
    """A response: its head has arrived, its body is read on demand.

    Unlike the method of requests, :meth:`iter_lines` splits only at CR, LF and CRLF, takes linear time, holds nothing
    back whatever the framing, and decodes nothing.

    Not shared between threads.

    Args:
        raw: An :class:`~groq_provider.transport.http1.receive.HTTP11Response`, an object with the same methods, or a
            response of urllib3.
        request: The request that it answers; ``None`` for those that did not go through requests.
        scope: The deadlines and the cancellation of the call.
    """

    # The attributes of requests.Response that this client seldom changes.
    _content: Any = False
    _content_consumed = False
    _next = None
    encoding = "utf-8"
    elapsed = _ZERO_TIME
    permit: Permit | None = None
    _finished = False
    #: Made by the first read of lines.
    _splitter: LineSplitter | None = None

    def __init__(self, raw: Any, request: Any, scope: CancelScope | None) -> None:
        # Do not call the __init__ of requests.Response: it makes a cookie jar and a case-insensitive dict, both unused.
        self.status_code = raw.status
        self.headers = raw.headers  # to be asked in lower case
        self.raw = raw
        self.url = "" if request is None else request.url
        self.history = []
        self.reason = raw.reason
        self.request = request
        self._scope = scope
        self._body: Any = raw if hasattr(raw, "self_delimited") else _Urllib3Body(raw)
        coding = raw.headers.get("content-encoding")
        if coding and coding.strip().lower() != "identity":
            self._body = _CodedBody(self._body, coding)

    @property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]  # an attribute there
        """Always empty: this client keeps no cookies."""
        return RequestsCookieJar()

    # --- reading ---------------------------------------------------------------------------------------------------------

    def read1(self) -> bytes:
        """Return the part of the body that has arrived, waiting for the first byte; empty at the end of the body."""
        if self._finished:
            return b""
        try:
            data: bytes = self._body.read1()
        except (OSError, HTTPError, http.client.HTTPException, ValueError, AttributeError) as caught:
            failure = caught
        else:
            if not data:
                scope = self._scope
                if scope is not None and scope.cancelled and not self._body.self_delimited:
                    self.close()  # an apparent end may be our own shutdown of the socket
                    raise map_read_error(ConnectionAbortedError(), scope)
                self._return_connection()
            return data
        self.close()
        mapped_error = map_read_error(failure, self._scope)
        del failure  # its frames hold the request
        raise mapped_error

    def _return_connection(self) -> None:
        """Return the connection to the pool for the next request."""
        self._finished = True
        scope = self._scope
        if scope is not None:
            scope.unbind()
        if scope is not None and scope.cancelled:
            self._body.drop()
        else:
            self._body.release()
        self._release_permit()

    def _release_permit(self) -> None:
        if self.permit is not None:
            self.permit.release()

    def read_body(self, limit: int, *, cut: bool = False) -> bytes:
        """Return the whole body, and the connection to the pool.

        Args:
            limit: Most bytes to read. For a larger body the connection is closed.
            cut: Return the first *limit* bytes of a larger body instead of raising.

        Raises:
            ResponseTooLargeError: The body is larger than *limit*.
            IncompleteResponseError: The body is shorter than announced.
        """
        parts: list[bytes] = []
        joined_parts = bytearray()  # the joined pieces, once there are many
        size = 0
        while data := self.read1():
            size += len(data)
            if size > limit:
                self.close()
                if cut:
                    return b"".join([joined_parts, *parts, data])[:limit]
                raise ResponseTooLargeError(f"the answer is larger than {limit:,} bytes", sent=True)
            parts.append(data)
            if self._body.complete:
                self._return_connection()
                break
            if len(parts) >= _MAX_PIECES:
                joined_parts += b"".join(parts)
                parts.clear()
        if joined_parts:
            parts.insert(0, bytes(joined_parts))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def iter_lines(self, *_requests_own: Any, **_also: Any) -> Iterator[bytes]:
        """Yield the lines of the body as bytes without their ends, each as soon as it has arrived.

        Accepts the arguments of the method of requests and ignores them.
        """
        while (lines := self.read_lines()) is not None:
            yield from lines

    def read_lines(self) -> list[bytes] | None:
        """Read once and return the lines that this completes, possibly none; ``None`` at the end of the body."""
        splitter = self._splitter
        if splitter is None:
            splitter = self._splitter = LineSplitter()
        if data := self.read1():
            return splitter.feed(data)
        last_line = splitter.finish()
        return [last_line] if last_line else None

    def ready(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds until :meth:`read_lines` has something to read."""
        return self._finished or bool(self._body.ready(timeout))

    # --- ending ----------------------------------------------------------------------------------------------------------

    def drain(self, scope: CancelScope) -> None:
        """Read the rest of the body, for a short time, so that the connection can be used again; otherwise close it."""
        if self._finished:
            return
        scope.deadline = scope.deadline_after(_DRAIN_SECONDS)
        remaining = _DRAIN_BYTES
        try:
            while remaining > 0 and (data := self.read1()):
                remaining -= len(data)
        except Exception:  # noqa: BLE001 - the answer is complete, so a failure after it does not matter
            self.close()
        if not self._finished:
            self.close()

    def abandon(self) -> None:
        """Close the connection without taking a lock. For finalizers, which may run inside any lock."""
        if self._finished:
            return
        self._finished = True
        self._body.abandon()
        self._release_permit()

    def close(self) -> None:
        """Close the connection, unless it was returned to the pool already. Idempotent."""
        if self._finished:
            return
        self._finished = True
        if self._scope is not None:
            self._scope.unbind()
        self._body.drop()
        self._release_permit()

    @property
    def content(self) -> bytes:
        """The whole body, for code that treats this as a response of requests."""
        if self._content is False:
            self._content = self.read_body(1 << 62)
            self._content_consumed = True
        body: bytes = self._content
        return body
