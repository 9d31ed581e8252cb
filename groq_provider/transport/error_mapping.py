"""Maps exceptions of requests, urllib3, http.client, ssl and socket to ours. The only place that does so."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import sys
from typing import TYPE_CHECKING

import requests.exceptions as rq
import urllib3.exceptions as u3

from groq_provider import errors as e

if TYPE_CHECKING:
    from collections.abc import Iterator

    from groq_provider.transport.scope import CancelScope

__all__ = ["UnwantedCodingError", "map_read_error", "map_send_error"]


class UnwantedCodingError(http.client.HTTPException):
    """A content coding that was not requested; its argument is the name of the coding."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it wraps, from the outside in, but not the one that the caller was handling when it called us."""
    handled = sys.exc_info()[1]
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        found = pending.pop(0)
        if isinstance(found, BaseException) and found is not handled and id(found) not in seen:
            seen.add(id(found))
            yield found
            pending.extend([getattr(found, "reason", None), *found.args, found.__cause__, found.__context__])


#: The text of these exceptions comes from the peer, which may echo the request.
_ECHOES = (http.client.BadStatusLine, http.client.UnknownProtocol)


def _scrubbed(error: BaseException) -> BaseException | None:
    """Return the innermost cause without its traceback and its own causes, which lead to the request and its headers."""
    found = [
        item
        for item in _chain(error)
        if isinstance(item, (OSError, http.client.HTTPException))
        and not isinstance(item, (rq.RequestException, u3.HTTPError))
    ]
    if not found:
        return None
    cause = found[-1]
    if isinstance(cause, _ECHOES) and not isinstance(cause, OSError):
        return type(cause)("")
    cause.__traceback__ = cause.__context__ = cause.__cause__ = None
    return cause


def _with_cause(error: e.GroqProviderError, problem: BaseException) -> e.GroqProviderError:
    error.__cause__ = _scrubbed(problem)
    return error


def _reason(problem: BaseException) -> str:
    """Describe the failure in the words of the system."""
    for item in reversed(list(_chain(problem))):
        if isinstance(item, socket.gaierror):
            return f"the host name cannot be resolved ({item.strerror or item})"
        if isinstance(item, ssl.SSLError):
            return getattr(item, "verify_message", None) or item.reason or "TLS failure"
        if isinstance(item, OSError) and not isinstance(item, rq.RequestException):
            return item.strerror or str(item)[:200] or type(item).__name__
        if isinstance(item, _ECHOES):
            return type(item).__name__
        if isinstance(item, http.client.HTTPException):
            return f"{type(item).__name__}: {str(item)[:200]}" if str(item) else type(item).__name__
    return type(problem).__name__


def map_send_error(problem: BaseException, scope: CancelScope, where: str) -> e.GroqProviderError:
    """Return our error for an exception raised while sending a request or awaiting the head of its response.

    Args:
        problem: The exception.
        scope: Says whether the request was sent and whether the call was cancelled.
        where: Scheme, host and port, for the message.
    """
    if scope.cancelled:
        return e.RequestCancelledError("the call was cancelled", sent=scope.sent)
    kinds = list(_chain(problem))
    for item in kinds:
        if isinstance(item, e.GroqProviderError):  # requests wraps those of our errors that are an OSError
            item.__traceback__ = item.__context__ = None  # a traceback leads to the request and its headers
            return item
    sent = scope.sent

    def has(*wanted: type[BaseException]) -> bool:
        return any(isinstance(item, wanted) for item in kinds)

    if has(rq.ConnectTimeout) or (
        sent is False and has(TimeoutError, u3.ConnectTimeoutError) and not has(u3.NewConnectionError)
    ):
        return _with_cause(e.ConnectTimeoutError(f"no connection to {where} in time", sent=sent), problem)
    if sent is False and isinstance(problem, ValueError) and not isinstance(problem, rq.RequestException):
        # Do not show the value: it may be the key.
        return e.ConfigurationError("a header or the path holds characters that HTTP does not allow", sent=False)
    if has(u3.ProxyError, rq.ProxyError) or any(
        "Tunnel connection failed" in str(item) for item in kinds if isinstance(item, OSError)
    ):
        text = _reason(problem)
        # A proxy that forbids the tunnel or does not know the host will refuse the next attempt, too.
        status = re.search(r"Tunnel connection failed: (\d{3})", text)
        lasting = status is not None and status[1][0] == "4" and status[1] not in ("408", "425", "429")
        return _with_cause(e.ProxyError(f"the proxy failed: {text}", sent=sent, retryable=not lasting), problem)
    # A connection that ends inside TLS is a broken connection and may be retried; a refusal by TLS itself is permanent.
    if has(ssl.SSLError, u3.SSLError, ssl.CertificateError) and not has(TimeoutError, ssl.SSLEOFError):
        return _with_cause(e.TLSError(f"TLS failed with {where}: {_reason(problem)}", sent=sent), problem)
    if has(TimeoutError, rq.ReadTimeout):
        return _with_cause(e.ReadTimeoutError(f"no answer from {where} in time", sent=sent), problem)
    if has(http.client.RemoteDisconnected) or (
        has(OSError) and has(ConnectionError, socket.gaierror, u3.NewConnectionError)
    ):
        text = (
            "the server closed the connection without an answer"
            if has(http.client.RemoteDisconnected)
            else _reason(problem)
        )
        return _with_cause(
            e.APIConnectionError(
                f"cannot reach {where}: {text}" if sent is False else f"connection to {where} broke: {text}", sent=sent
            ),
            problem,
        )
    if has(u3.NewConnectionError, u3.NameResolutionError):
        return _with_cause(e.APIConnectionError(f"cannot reach {where}: {_reason(problem)}", sent=sent), problem)
    if has(http.client.HTTPException, u3.InvalidHeader, rq.InvalidHeader, ValueError):
        return _with_cause(e.ProtocolError(f"{where} does not answer in HTTP: {_reason(problem)}", sent=sent), problem)
    return _with_cause(e.APIConnectionError(f"connection to {where} failed: {_reason(problem)}", sent=sent), problem)


def map_read_error(problem: BaseException, scope: CancelScope | None) -> e.GroqProviderError:
    """Return our error for an exception raised while reading a body."""
    if scope is not None and scope.cancelled:
        return e.RequestCancelledError("the call was cancelled", sent=True)
    kinds = list(_chain(problem))
    if any(isinstance(item, (TimeoutError, u3.ReadTimeoutError)) for item in kinds):
        return e.ReadTimeoutError("the answer stopped coming", sent=True)
    for item in kinds:
        if isinstance(item, UnwantedCodingError):
            coding = ascii(str(item)[:40])
            return e.ResponseDecodeError(
                f"the answer comes in the content coding {coding}, which was not asked for", sent=True
            )
        if isinstance(item, http.client.IncompleteRead):
            missing = f"{item.expected:,} bytes before its announced length" if item.expected else "before its own end"
            return e.IncompleteResponseError(f"the answer ended {missing}", sent=True)
    if any(isinstance(item, OSError) for item in kinds):
        return _with_cause(
            e.IncompleteResponseError(
                f"the connection broke before the answer was complete: {_reason(problem)}", sent=True
            ),
            problem,
        )
    return _with_cause(e.ProtocolError(f"the framing of the answer is broken: {_reason(problem)}", sent=True), problem)
