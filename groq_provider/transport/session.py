"""The transport: builds requests, reads the caller's session and the environment, and sends through one adapter."""

from __future__ import annotations

import os
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.utils import (
    default_headers,
    get_environ_proxies,
)
from urllib3.exceptions import ClosedPoolError

from groq_provider._validate import Hidden as SecretHeader
from groq_provider._version import __version__
from groq_provider.config.urls import CHAT_PATH, check_proxy
from groq_provider.errors import (
    ConfigurationError,
    GroqProviderError,
    ProviderClosedError,
)
from groq_provider.transport.error_mapping import map_send_error
from groq_provider.transport.http1.connection import EncodedHeaders
from groq_provider.transport.http1.pool import POOL_SIZE
from groq_provider.transport.permits import ConnectionLimiter
from groq_provider.transport.requests_adapter import Adapter, RequestHeaders, Response
from groq_provider.types._base import ReadOnly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.clock import Clock
    from groq_provider.protocols import RequestBody
    from groq_provider.transport.scope import CancelScope
    from groq_provider.transport.tls import CABundle

__all__ = ["SecretHeader", "SessionTransport"]

_MOST_MERGED = 8
_JSON = {"Content-Type": "application/json"}
USER_AGENT = f"groq_provider/{__version__} (python-requests/{requests.__version__})"


class SessionTransport:
    """Sends requests to one base URL.

    Thread safety: any number of threads can send at once; nothing on the session changes after construction.

    Args:
        base_url: ``https://host[:port]/prefix``, the prefix of all paths. A trailing ``/chat/completions`` is dropped.
        clock: The source of time.
        api_key: Sent as bearer token; ``None`` means no ``Authorization`` header.
        headers: Sent with every request.
        proxies: As in requests; ``None`` means those of the environment, which is read here, once.
        ca_bundle: File or folder of CA certificates; ``None`` means ``REQUESTS_CA_BUNDLE``, else ``CURL_CA_BUNDLE``,
            else ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` together, else the certificates of certifi.
        cert: Client certificate, or a pair of certificate and key.
        max_connections: Most requests under way at once, over HTTP/1.1 and HTTP/2 alike; ``None`` means no cap.
        http2: Whether to use HTTP/2 where the server speaks it. You must install the extra ``http2`` for it.
        session: A session of the caller's. Its headers, proxies, verify and cert are read here, once. The transport
            mounts nothing on it, sends nothing through it and never closes it; its adapters, hooks, auth, params and
            cookies are ignored.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        cert: str | tuple[str, str] | None = None,
        max_connections: int | None = None,
        http2: bool = False,
        session: requests.Session | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/").removesuffix(CHAT_PATH)
        self._clock = clock
        self._closed = False
        own_headers, own_proxies, own_bundle, own_cert = _read_session(session)
        # ``trust_env = False`` on the caller's session holds for us as well.
        trust_env = session is None or session.trust_env
        proxy = _proxy_for(base_url, proxies, own_proxies, trust_env=trust_env)
        bundle: CABundle | None = ca_bundle
        if bundle is None:
            bundle = own_bundle or (_ca_from(environ) if trust_env else None)
        self.adapter = Adapter(base_url, clock=clock, proxy=proxy, ca_bundle=bundle, cert=cert or own_cert, http2=http2)
        # A session of our own. An adapter mounted on the caller's session would also get requests for other hosts with a
        # URL that begins like our origin: "https://host:18888" begins with "https://host:1888".
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.session.mount(f"{self._origin}/", self.adapter)
        self._headers = RequestHeaders(
            {
                "Host": parts.netloc,
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        for name, text in {**own_headers, **(headers or {})}.items():
            if api_key is None or name.lower() != "authorization":
                _set_header(self._headers, name, SecretHeader(text))
        self._authorization = None if api_key is None else SecretHeader(f"Bearer {api_key}")
        self._permits = None if max_connections is None else ConnectionLimiter(max_connections)
        #: The fields of requests with a body of JSON, by the identity of the headers passed to send(). The runtime passes
        #: the same immutable mapping with every call of a kind, so each is merged once. Not a dict: on a free-threaded
        #: build a dict has a lock, and a forked child may find it locked for ever.
        self._json_fields: tuple[tuple[Mapping[str, str], EncodedHeaders], ...] = ()

    def __repr__(self) -> str:
        if not hasattr(self, "adapter"):
            return f"<{type(self).__name__} unfinished>"  # for tools that show the variables of a failed construction
        pool = self.adapter._pool
        state = "closed" if self._closed else f"{'0 idle connections' if pool is None else pool.state()}"
        return f"<{type(self).__name__} {self._origin}, {state}>"

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None,
        body: RequestBody | None,
        scope: CancelScope,
        query: str = "",
    ) -> Response:
        """Send one request; return when the head of the response has arrived.

        Raises:
            TransportError: No response came.
            RequestCancelledError: The call was cancelled.
            ProviderClosedError: The transport was closed.
        """
        if self._closed:
            raise ProviderClosedError("the provider was closed; make a new one", sent=False)
        url = self._prefix + path + query
        request_headers = self._request_headers(headers, body)
        if self._permits is None:
            return self._send_once(method, url, request_headers, body, scope)
        permit = self._permits.acquire(scope, scope.deadline_after(scope.after_send))
        # Time spent waiting for the permit is not time to connect.
        scope.connect_deadline = scope.deadline_after(scope.connect)
        try:
            response = self._send_once(method, url, request_headers, body, scope)
        except BaseException:
            permit.release()
            raise
        response.permit = permit
        return response

    def url_of(self, path: str) -> str:
        """Return the URL that a request to *path* goes to."""
        return self._origin + self._prefix + path

    def _request_headers(
        self, call_headers: Mapping[str, str] | None, body: RequestBody | None
    ) -> RequestHeaders | EncodedHeaders:
        if isinstance(body, bytes):
            for known_headers, fields in self._json_fields:
                if known_headers is call_headers:
                    return fields
            fields = EncodedHeaders(self._merge_headers(call_headers, _JSON))
            if type(call_headers) is ReadOnly and len(self._json_fields) < _MOST_MERGED:
                self._json_fields = (*self._json_fields, (call_headers, fields))
            return fields
        if body is None:
            return self._merge_headers(call_headers, {})
        headers = self._merge_headers(call_headers, {"Content-Type": body.content_type})
        headers["Content-Length"] = str(len(body))
        return headers

    def _merge_headers(
        self, call_headers: Mapping[str, str] | None, content_headers: Mapping[str, str]
    ) -> RequestHeaders:
        """Return the headers of every request, those of its content, and those of one call."""
        headers = RequestHeaders({**self._headers, **content_headers})
        for name, text in (call_headers or {}).items():
            if self._authorization is None or name.lower() != "authorization":  # an explicit API key is never replaced
                _set_header(headers, name, text)
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        return headers

    def _send_once(
        self,
        method: str,
        url: str,
        headers: RequestHeaders | EncodedHeaders,
        body: RequestBody | None,
        scope: CancelScope,
    ) -> Response:
        failure: BaseException
        try:
            response = self.adapter.send_request(scope, method, self._origin, url, headers, body)
        except Exception as caught:  # noqa: BLE001 - requests, urllib3, http.client, ssl and socket each have their own
            failure = caught
        except BaseException:
            scope.unbind()
            raise
        else:
            if not scope.cancelled:
                return response
            response.close()
            failure = ConnectionAbortedError()
        scope.unbind()
        mapped_error: GroqProviderError
        if self._closed and not isinstance(failure, GroqProviderError):
            mapped_error = ProviderClosedError("the provider was closed during the call", sent=scope.sent)
        else:
            mapped_error = map_send_error(failure, scope, self._origin)
        # Raise outside the except block. Otherwise the error's context would lead to the exception that holds the
        # request and the key.
        del failure
        raise mapped_error

    def warm_up(self, connections: int, *, timeout: float = 10.0) -> int:
        """Open connections, TLS included, without sending a request.

        Returns:
            How many requests can be sent at once without a handshake. Over HTTP/1.1 that is the number of connections;
            over HTTP/2 one connection carries as many requests as the server allows, usually a hundred.

        Raises:
            ProviderClosedError: The transport was closed.
            ConfigurationError: *connections* is not between 1 and 100.
        """
        if self._closed:
            raise ProviderClosedError("the provider was closed; make a new one")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
            raise ConfigurationError(f"timeout = {timeout!r}: must be a number of seconds above 0")
        if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= POOL_SIZE:
            raise ConfigurationError(
                f"connections = {connections!r}: must be an integer from 1 to {POOL_SIZE}, the size of the pool"
            )
        try:
            return self.adapter.pool().warm_up(connections, timeout)
        except ClosedPoolError:
            raise ProviderClosedError("the provider was closed; make a new one") from None

    def close(self) -> None:
        """Close every kept connection, but not a session of the caller's. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.adapter.close()
        self.session.close()


def _set_header(headers: RequestHeaders, name: str, text: str) -> None:
    """Set a header, replacing one of the same name in any spelling."""
    lower_name = name.lower()
    for existing_name in headers:
        if existing_name.lower() == lower_name:
            headers[existing_name] = text
            return
    headers[name] = text


def _read_session(session: requests.Session | None) -> tuple[dict[str, str], dict[str, str], str | None, Any]:
    if session is None:
        return {}, {}, None, None
    if not isinstance(session, requests.Session):
        raise ConfigurationError(f"session must be a requests.Session, not {type(session).__name__}")
    if session.verify is not None and not session.verify:
        raise ConfigurationError(
            "session.verify is False: certificates are always checked; set it to the path of your CA bundle"
        )
    default_values = default_headers()
    headers: dict[str, str] = {
        str(k): SecretHeader(v)
        for k, v in session.headers.items()
        if default_values.get(k) != v and k.lower() != "authorization"
    }
    proxies: dict[str, str] = {k: SecretHeader(v) for k, v in session.proxies.items()}
    return headers, proxies, None if session.verify in (True, None) else str(session.verify), session.cert


def _proxy_for(
    base_url: str, explicit_proxies: Mapping[str, str] | None, session_proxies: Mapping[str, str], *, trust_env: bool
) -> str | None:
    """Return the proxy for a base URL: the explicit one, else the session's, else that of the environment."""
    proxies, setting_name = (explicit_proxies, "proxies") if explicit_proxies else (session_proxies, "session.proxies")
    if not proxies and trust_env:
        proxies, setting_name = get_environ_proxies(base_url, no_proxy=None), ""
    parts = urlsplit(base_url)
    # As in requests, the most specific key wins.
    keys = (f"{parts.scheme}://{parts.hostname}", parts.scheme, f"all://{parts.hostname}", "all")
    key = next((key for key in keys if key in proxies), None)
    if key is None or not proxies[key]:
        return None
    proxy, failure = check_proxy(proxies[key])
    if failure:
        del explicit_proxies, session_proxies, proxies, proxy  # a traceback may show local variables
        raise ConfigurationError(f"{f'{setting_name}[{key!r}]' if setting_name else _variable_of(key)}: {failure}")
    return None if proxy is None else SecretHeader(proxy)


def _variable_of(key: str) -> str:
    """Name the environment variable, or other place, that a proxy was read from."""
    name = f"{key}_proxy"
    variable_name = next((name for name in (name, name.upper()) if os.environ.get(name)), None)
    return f"the environment variable {variable_name}" if variable_name else f"the proxy of this system for {key}"


def _ca_from(environ: Mapping[str, str] | None) -> CABundle | None:
    environ = os.environ if environ is None else environ
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if environ.get(name):
            return environ[name]
    # OpenSSL reads both of these.
    return tuple([environ[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(name)]) or None
