"""Everything this library raises.

::

    GroqProviderError
    ├─ ConfigurationError                wrong settings, found before anything is sent (also a ValueError)
    ├─ ProviderClosedError               you closed it
    ├─ ProviderDisabledError             switched off by configuration
    ├─ RequestCancelledError             you cancelled it
    ├─ CircuitOpenError                  not tried: the circuit breaker is open
    ├─ DeadlineExceededError             your time is up (also a TimeoutError)
    │  └─ RateLimitTimeoutError          the limiter would need longer than you allow
    ├─ TransportError                    no usable answer; ``sent`` says whether the request left
    │  ├─ APIConnectionError
    │  │  ├─ TLSError
    │  │  └─ ProxyError
    │  ├─ ConnectTimeoutError            (also a TimeoutError)
    │  ├─ ReadTimeoutError               (also a TimeoutError)
    │  ├─ PoolTimeoutError               (also a TimeoutError)
    │  ├─ ProtocolError                  the peer does not speak HTTP properly
    │  └─ RedirectRefusedError
    ├─ ResponseError                     an answer came and cannot be used
    │  ├─ ResponseDecodeError
    │  ├─ IncompleteResponseError
    │  ├─ ResponseTooLargeError
    │  └─ OutputTruncatedError           structured output cut by its length limit
    ├─ StreamError                       a stream that began and failed; ``partial`` holds what arrived
    │  ├─ StreamInterruptedError
    │  ├─ StreamIdleTimeoutError         (also a TimeoutError)
    │  └─ StreamProtocolError
    ├─ APIStatusError                    the service answered with an error status
    │  ├─ InvalidRequestError            (also a ValueError)
    │  │  ├─ ContextTooLongError
    │  │  ├─ ToolUseFailedError
    │  │  └─ JSONValidationFailedError
    │  ├─ RequestTooLargeError           413, and what can never fit a limit, found before sending
    │  ├─ AuthenticationError
    │  ├─ PermissionDeniedError
    │  ├─ NotFoundError
    │  │  └─ ModelNotFoundError
    │  ├─ ModelDecommissionedError
    │  ├─ RateLimitedError
    │  └─ ProviderUnavailableError       5xx
    │     └─ OverloadedError             498, 503, 529
    └─ JournalError
       ├─ JournalLockedError
       └─ JournalInputChangedError

Every one takes one positional message and keyword-only plain data, so all of them pickle, copy and travel through process
pools. None holds a response, a session or a key.

A server's words are shown as it wrote them, and a server may quote the prompt: log ``error.summary``, which holds none of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from datetime import datetime

    from groq_provider.types.response import Attempt, LLMResponse

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "AuthenticationError",
    "CircuitOpenError",
    "ConfigurationError",
    "ConnectTimeoutError",
    "ContextTooLongError",
    "DeadlineExceededError",
    "GroqProviderError",
    "IncompleteResponseError",
    "InvalidRequestError",
    "JSONValidationFailedError",
    "JournalError",
    "JournalInputChangedError",
    "JournalLockedError",
    "ModelDecommissionedError",
    "ModelNotFoundError",
    "NotFoundError",
    "OutputTruncatedError",
    "OverloadedError",
    "PermissionDeniedError",
    "PoolTimeoutError",
    "ProtocolError",
    "ProviderClosedError",
    "ProviderDisabledError",
    "ProviderUnavailableError",
    "ProxyError",
    "RateLimitTimeoutError",
    "RateLimitedError",
    "ReadTimeoutError",
    "RedirectRefusedError",
    "RequestCancelledError",
    "RequestTooLargeError",
    "ResponseDecodeError",
    "ResponseError",
    "ResponseTooLargeError",
    "StreamError",
    "StreamIdleTimeoutError",
    "StreamInterruptedError",
    "StreamProtocolError",
    "TLSError",
    "ToolUseFailedError",
    "TransportError",
]


#: Control characters, other ends of lines, what turns the direction of text, and halves of characters.
_CONTROLS = "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


class GroqProviderError(Exception):
    """Base of everything this library raises.

    Args:
        message: What happened, the offending value, what to do.
        status_code: HTTP status of the answer; ``None`` when there was none or the request was refused locally.
        code: The service's ``error.code``, for example ``"rate_limit_exceeded"``.
        type: The service's ``error.type``, for example ``"invalid_request_error"``.
        param: The request field the service complains about.
        request_id: The service's ``req_…`` id, for support.
        model: Model the request was for.
        provider: Name of the provider that failed, for example ``"groq"``.
        retryable: Whether the same request may succeed later; ``None`` takes the class's own answer.
        retry_after: Seconds the service asked to wait, if it said so.
        retry_at: The same as an aware datetime.
        attempts: Every try of this call, in order.
        partial: What had arrived of the answer, if anything.
        failed_generation: What the model produced and the service refused (400 ``tool_use_failed``, …).
        sent: Whether the request left: ``True``, ``False``, or ``None`` for unknown.

    .. versionadded:: 0.1.0
    """

    #: Whether a repeat of the same request may succeed, where nothing better is known.
    default_retryable: ClassVar[bool] = False
    #: Whether a message of our own begins with what goes into ``param``.
    _begins_with_place: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int | None = None,
        code: str | None = None,
        type: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        retry_at: datetime | None = None,
        attempts: tuple[Attempt, ...] = (),
        partial: LLMResponse | None = None,
        failed_generation: str | None = None,
        sent: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.type = type
        self.param = _place(message) if param is None and status_code is None and self._begins_with_place else param
        self.request_id = request_id
        self.model = model
        self.provider = provider
        self.retryable = self.default_retryable if retryable is None else retryable
        self.retry_after = retry_after
        self.retry_at = retry_at
        self.attempts = attempts
        self.partial = partial
        self.failed_generation = failed_generation
        self.sent = sent

    def __str__(self) -> str:
        """The message, with the request id and the number of attempts where there are any: what support asks for first."""
        # Words of a server may hold whatever moves a terminal or forges a line of a log; ``message`` has them as they came.
        text = self.message
        if not text.isprintable():
            text = re.sub(_CONTROLS, lambda each: ascii(each[0])[1:-1], text)
        known = [f"request id {self.request_id}"] if self.request_id and _is_name(self.request_id) else []
        if self.attempts:
            known.append(f"{len(self.attempts)} attempt{'s' * (len(self.attempts) > 1)}")
        return f"{text} [{', '.join(known)}]" if known else text

    @property
    def summary(self) -> str:
        """The error in one line without the words of a server, which may quote the prompt: what to log.

        Class, and as far as known status, code, type, param, request id and number of attempts. Of a code, type, param or id that
        does not look like one (:data:`_NAME`) only the length is there.

        Example:
            >>> RateLimitedError("rate limited: …", status_code=429, code="rate_limit_exceeded").summary
            'RateLimitedError status=429 code=rate_limit_exceeded'

        .. versionadded:: 0.1.0
        """
        parts = [type(self).__name__]
        if self.status_code is not None:
            parts.append(f"status={self.status_code}")
        for name in ("code", "type", "param", "request_id"):
            text = getattr(self, name)
            if text:
                parts.append(f"{name}={text if _is_name(text) else f'<{len(text)} characters>'}")
        if self.attempts:
            parts.append(f"attempts={len(self.attempts)}")
        return " ".join(parts)


#: Characters of the service's codes, types, request ids and places (``messages[3].content``), of which there are so many at most.
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/[]$")
_LONGEST_NAME = 64


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and _NAME.issuperset(text)


E = TypeVar("E", bound=BaseException)


def reword(error: GroqProviderError, message: str) -> None:
    """Have an error say it in other words."""
    error.message = message
    error.args = (message,)


def without_frames(error: E) -> E:
    """Return an error to be raised anew, without the frames it went through, whose variables hold the request and the answer.

    What it was raised from stays if it is bare itself, as the transport leaves what the system said; other causes lead to frames as
    well, and decoders put the whole document on theirs.
    """
    error.__context__ = None
    cause = error.__cause__
    if cause is not None and (cause.__traceback__ or cause.__cause__ or cause.__context__):
        error.__cause__ = None
    return error.with_traceback(None)


#: Our own messages begin with the place of what is wrong: a name, or a way to it such as ``messages[3].content``.
_STEP = r"[a-z_][a-z0-9_]*(?:\[[^\]]{1,80}\])*"
_PLACE = rf"'?({_STEP}(?:\.{_STEP})*)'?(?:: | = | must | has | needs | is | and [a-z_]+(?:: | = ))"


def _place(message: str) -> str | None:
    """Return the place that a message of ours begins with."""
    found = re.match(_PLACE, message)
    return found[1] if found else None


class ConfigurationError(GroqProviderError, ValueError):
    """The settings are wrong; found before anything is sent. ``param`` names the setting, where the message begins with it."""

    _begins_with_place = True


class ProviderClosedError(GroqProviderError):
    """The provider was closed; make a new one."""


class ProviderDisabledError(GroqProviderError):
    """The provider is switched off by its configuration (``enabled: false``)."""


class RequestCancelledError(GroqProviderError):
    """The call was cancelled by a :class:`~groq_provider.CancelToken` or ``stream.cancel()``."""


class CircuitOpenError(GroqProviderError):
    """Not tried: too many calls failed lately; ``retry_after`` says when it will be tried again."""

    default_retryable = True


class DeadlineExceededError(GroqProviderError, TimeoutError):
    """The total time of the call is up; ``partial`` holds what had arrived."""


class RateLimitTimeoutError(DeadlineExceededError):
    """The limiter would need longer than the call allows; nothing was sent and nothing consumed."""

    default_retryable = True


class TransportError(GroqProviderError):
    """No usable answer came back; ``sent`` says whether the request left."""

    default_retryable = True


class APIConnectionError(TransportError):
    """The connection could not be made, or broke before an answer."""


class TLSError(APIConnectionError):
    """The TLS handshake or the certificate check failed; repeating does not help."""

    default_retryable = False


class ProxyError(APIConnectionError):
    """The proxy refused or failed."""


class ConnectTimeoutError(TransportError, TimeoutError):
    """The connection, TLS handshake included, was not made in time. The request was never sent."""


class ReadTimeoutError(TransportError, TimeoutError):
    """The request was sent and the answer did not come in time; it may have been processed and billed."""


class PoolTimeoutError(TransportError, TimeoutError):
    """All ``max_connections`` connections, or all streams HTTP/2 allows, were busy for too long. The request was never sent."""


class ProtocolError(TransportError):
    """The peer broke the rules of HTTP."""


class RedirectRefusedError(TransportError):
    """The peer answered with a redirect; the key and the request are never sent elsewhere."""

    default_retryable = False


class ResponseError(GroqProviderError):
    """An answer came and cannot be used."""


class ResponseDecodeError(ResponseError):
    """The body is not the JSON it should be; the message names the place."""


class IncompleteResponseError(ResponseError):
    """The body ended before it was complete."""

    default_retryable = True


class ResponseTooLargeError(ResponseError):
    """The body, a line or an event of it, is larger than the cap."""


class OutputTruncatedError(ResponseError):
    """Structured output was cut by the length limit; raise ``max_completion_tokens``."""


class StreamError(GroqProviderError):
    """A stream began and failed; ``partial`` holds what arrived."""


class StreamInterruptedError(StreamError):
    """The stream ended before it was complete."""

    default_retryable = True


class StreamIdleTimeoutError(StreamError, TimeoutError):
    """No event came for longer than ``Timeouts.idle``."""

    default_retryable = True


class StreamProtocolError(StreamError):
    """An event of the stream is not what it should be."""


class APIStatusError(GroqProviderError):
    """The service answered with an error status."""


class InvalidRequestError(APIStatusError, ValueError):
    """The request is wrong: 400, 409, 422, or found so before sending (``status_code`` is ``None``).

    ``param`` is the place, for example ``messages[3].content``.
    """

    _begins_with_place = True


class ContextTooLongError(InvalidRequestError):
    """The messages and the completion do not fit the model's context.

    ``limit`` and ``requested`` are the numbers of tokens that the service named, where it did.
    """

    def __init__(
        self, message: str = "", *, limit: int | None = None, requested: int | None = None, **data: object
    ) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]  # the same keywords as the base class
        self.limit = limit
        self.requested = requested


class ToolUseFailedError(InvalidRequestError):
    """The model produced a tool call that the service refused; see ``failed_generation``. A repeat may succeed."""


class JSONValidationFailedError(InvalidRequestError):
    """The model produced JSON that the service refused; see ``failed_generation``. A repeat may succeed."""


class RequestTooLargeError(APIStatusError):
    """The request can never fit: too many bytes, or more tokens than a limit holds. Waiting does not help."""


class AuthenticationError(APIStatusError):
    """The API key is missing or wrong."""


class PermissionDeniedError(APIStatusError):
    """The key may not do this: model blocked, terms not accepted, organisation restricted, spend limit reached."""


class NotFoundError(APIStatusError):
    """The service knows no such thing."""


class ModelNotFoundError(NotFoundError):
    """The model does not exist, or the key may not use it."""


class ModelDecommissionedError(APIStatusError):
    """The model was shut down; ``replacement`` names its successor where one is known."""

    def __init__(self, message: str = "", *, replacement: str | None = None, **data: object) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]  # the same keywords as the base class
        self.replacement = replacement


class RateLimitedError(APIStatusError):
    """The service's rate limit is reached.

    Besides the fields of every error: ``scope`` (``"minute"``, ``"hour"``, ``"day"`` or ``None``) and ``limit_name`` (the
    service's ``RPM``, ``RPD``, ``TPM``, ``TPD``, ``ASH``, ``ASD``, ``ITPM``, ``OTPM``), with ``limit``, ``used`` and
    ``requested`` where the service named them.
    """

    default_retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        scope: str | None = None,
        limit_name: str | None = None,
        limit: int | None = None,
        used: int | None = None,
        requested: int | None = None,
        **data: object,
    ) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]  # the same keywords as the base class
        self.scope = scope
        self.limit_name = limit_name
        self.limit = limit
        self.used = used
        self.requested = requested


class ProviderUnavailableError(APIStatusError):
    """The service failed (5xx). It does not bill such requests."""

    default_retryable = True


class OverloadedError(ProviderUnavailableError):
    """The service is over capacity (498, 503, 529)."""


class JournalError(GroqProviderError):
    """The journal of a bulk job could not be written or read."""


class JournalLockedError(JournalError):
    """Another process works on this journal."""


class JournalInputChangedError(JournalError):
    """The input of the job is not the one the journal was begun with."""
