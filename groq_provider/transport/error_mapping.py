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


def _iter_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that it wraps, from the outside in.

    Leave out the one that the caller was handling when it called us.
    """
    being_handled = sys.exc_info()[1]
    seen: set[int] = set()
    to_visit: list[object] = [error]
    while to_visit:
        cause = to_visit.pop(0)
        if isinstance(cause, BaseException) and cause is not being_handled and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            to_visit.extend([getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__])


#: The text of these exceptions comes from the peer, which may echo the request.
_ECHOES = (http.client.BadStatusLine, http.client.UnknownProtocol)


def _bare_cause(error: BaseException) -> BaseException | None:
    """Return the innermost cause without its traceback and its own causes, which lead to the headers of the request."""
    causes = [
        cause
        for cause in _iter_causes(error)
        if isinstance(cause, (OSError, http.client.HTTPException))
        and not isinstance(cause, (rq.RequestException, u3.HTTPError))
    ]
    if not causes:
        return None
    cause = causes[-1]
    if isinstance(cause, _ECHOES) and not isinstance(cause, OSError):
        return type(cause)("")
    cause.__traceback__ = cause.__context__ = cause.__cause__ = None
    return cause


def _with_cause(error: e.GroqProviderError, problem: BaseException) -> e.GroqProviderError:
    error.__cause__ = _bare_cause(problem)
    return error


def _describe(problem: BaseException) -> str:
    """Describe the failure in the words of the system."""
    for cause in reversed(list(_iter_causes(problem))):
        if isinstance(cause, socket.gaierror):
            return f"the host name cannot be resolved ({cause.strerror or cause})"
        if isinstance(cause, ssl.SSLError):
            return getattr(cause, "verify_message", None) or cause.reason or "TLS failure"
        if isinstance(cause, OSError) and not isinstance(cause, rq.RequestException):
            return cause.strerror or str(cause)[:200] or type(cause).__name__
        if isinstance(cause, _ECHOES):
            return type(cause).__name__
        if isinstance(cause, http.client.HTTPException):
            return f"{type(cause).__name__}: {str(cause)[:200]}" if str(cause) else type(cause).__name__
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
    chain = list(_iter_causes(problem))
    for cause in chain:
        if isinstance(cause, e.GroqProviderError):  # requests wraps those of our errors that are an OSError
            cause.__traceback__ = cause.__context__ = None  # they lead to the headers of the request
            return cause
    sent = scope.sent

    def has_type(*types: type[BaseException]) -> bool:
        return any(isinstance(cause, types) for cause in chain)

    if has_type(rq.ConnectTimeout) or (
        sent is False and has_type(TimeoutError, u3.ConnectTimeoutError) and not has_type(u3.NewConnectionError)
    ):
        return _with_cause(e.ConnectTimeoutError(f"no connection to {where} in time", sent=sent), problem)
    # Certificate errors are both a ValueError and an OSError.
    if sent is False and isinstance(problem, ValueError) and not isinstance(problem, OSError):
        # Do not show the value: it may be the key.
        return e.ConfigurationError("a header or the path holds characters that HTTP does not allow", sent=False)
    if has_type(u3.ProxyError, rq.ProxyError) or any(
        "Tunnel connection failed" in str(cause) for cause in chain if isinstance(cause, OSError)
    ):
        text = _describe(problem)
        # A proxy that forbids the tunnel or does not know the host will refuse the next attempt, too.
        status = re.search(r"Tunnel connection failed: (\d{3})", text)
        is_permanent = status is not None and status[1][0] == "4" and status[1] not in ("408", "425", "429")
        return _with_cause(e.ProxyError(f"the proxy failed: {text}", sent=sent, retryable=not is_permanent), problem)
    # A connection that ends inside TLS is a broken connection and may be retried; a refusal by TLS itself is permanent.
    if has_type(ssl.SSLError, u3.SSLError, ssl.CertificateError) and not has_type(TimeoutError, ssl.SSLEOFError):
        return _with_cause(e.TLSError(f"TLS failed with {where}: {_describe(problem)}", sent=sent), problem)
    if has_type(TimeoutError, rq.ReadTimeout):
        return _with_cause(e.ReadTimeoutError(f"no answer from {where} in time", sent=sent), problem)
    if has_type(http.client.RemoteDisconnected) or (
        has_type(OSError) and has_type(ConnectionError, socket.gaierror, u3.NewConnectionError)
    ):
        text = (
            "the server closed the connection without an answer"
            if has_type(http.client.RemoteDisconnected)
            else _describe(problem)
        )
        return _with_cause(
            e.APIConnectionError(
                f"cannot reach {where}: {text}" if sent is False else f"connection to {where} broke: {text}", sent=sent
            ),
            problem,
        )
    if has_type(u3.NewConnectionError, u3.NameResolutionError):
        return _with_cause(e.APIConnectionError(f"cannot reach {where}: {_describe(problem)}", sent=sent), problem)
    if has_type(http.client.HTTPException, u3.InvalidHeader, rq.InvalidHeader, ValueError):
        return _with_cause(
            e.ProtocolError(f"{where} does not answer in HTTP: {_describe(problem)}", sent=sent), problem
        )
    return _with_cause(e.APIConnectionError(f"connection to {where} failed: {_describe(problem)}", sent=sent), problem)


def map_read_error(problem: BaseException, scope: CancelScope | None) -> e.GroqProviderError:
    """Return our error for an exception raised while reading a body."""
    if scope is not None and scope.cancelled:
        return e.RequestCancelledError("the call was cancelled", sent=True)
    chain = list(_iter_causes(problem))
    if any(isinstance(cause, (TimeoutError, u3.ReadTimeoutError)) for cause in chain):
        return e.ReadTimeoutError("the answer stopped coming", sent=True)
    for cause in chain:
        if isinstance(cause, UnwantedCodingError):
            coding = ascii(str(cause)[:40])
            return e.ResponseDecodeError(
                f"the answer comes in the content coding {coding}, which was not asked for", sent=True
            )
        if isinstance(cause, http.client.IncompleteRead):
            missing = (
                f"{cause.expected:,} bytes before its announced length" if cause.expected else "before its own end"
            )
            return e.IncompleteResponseError(f"the answer ended {missing}", sent=True)
    if any(isinstance(cause, OSError) for cause in chain):
        return _with_cause(
            e.IncompleteResponseError(
                f"the connection broke before the answer was complete: {_describe(problem)}", sent=True
            ),
            problem,
        )
    return _with_cause(
        e.ProtocolError(f"the framing of the answer is broken: {_describe(problem)}", sent=True), problem
    )
