"""The exceptions of this library.

::

    GroqProviderError
    ├─ ConfigurationError                wrong settings, found before anything is sent (also a ValueError)
    ├─ ProviderClosedError               you closed the provider
    ├─ ProviderDisabledError             the configuration disables the provider
    ├─ RequestCancelledError             you cancelled the call
    ├─ CircuitOpenError                  not tried: the circuit breaker is open
    ├─ DeadlineExceededError             the time of the call is up (also a TimeoutError)
    │  └─ RateLimitTimeoutError          the limiter would need longer than you allow
    ├─ TransportError                    no usable answer; ``sent`` tells whether the request was sent
    │  ├─ APIConnectionError
    │  │  ├─ TLSError
    │  │  └─ ProxyError
    │  ├─ ConnectTimeoutError            (also a TimeoutError)
    │  ├─ ReadTimeoutError               (also a TimeoutError)
    │  ├─ PoolTimeoutError               (also a TimeoutError)
    │  ├─ ProtocolError                  the peer violated HTTP
    │  └─ RedirectRefusedError
    ├─ ResponseError                     an answer came but cannot be used
    │  ├─ ResponseDecodeError
    │  ├─ IncompleteResponseError
    │  ├─ ResponseTooLargeError
    │  └─ OutputTruncatedError           the length limit cut a structured output
    ├─ StreamError                       a stream began and failed; ``partial`` has the received part
    │  ├─ StreamInterruptedError
    │  ├─ StreamIdleTimeoutError         (also a TimeoutError)
    │  └─ StreamProtocolError
    ├─ APIStatusError                    the service answered with an error status
    │  ├─ InvalidRequestError            (also a ValueError)
    │  │  ├─ ContextTooLongError
    │  │  ├─ ToolUseFailedError
    │  │  └─ JSONValidationFailedError
    │  ├─ RequestTooLargeError           413, or larger than a limit and therefore not sent
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

An error takes one positional message and keyword-only plain data, so you can pickle and copy it and pass it through a process pool. It
never holds a response object, a session or a key.

A message may contain the server's own text, and a server may quote your prompt. In logs you should use ``error.summary``, which contains
no text of a server.
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


#: Characters that can control a terminal or forge a line of a log: control characters, further line ends, marks of text direction, and
#: halves of characters.
_CONTROL_CHARACTERS = "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


class GroqProviderError(Exception):
    """The base class of all errors of this library.

    Args:
        message: The event, the offending value, and the remedy.
        status_code: HTTP status of the answer; ``None`` without an answer, or if the request was refused locally.
        code: The service's ``error.code``, for example ``"rate_limit_exceeded"``.
        type: The service's ``error.type``, for example ``"invalid_request_error"``.
        param: The request field or the setting that is wrong.
        request_id: The service's ``req_…`` id, which you should give to its support.
        model: The requested model.
        provider: Name of the provider that failed, for example ``"groq"``.
        retryable: Whether the same request may succeed later; ``None`` means the default of the class.
        retry_after: Seconds that the service asked you to wait, if it did.
        retry_at: The end of that wait as an aware datetime.
        attempts: Every attempt of this call, in order.
        partial: The part of the answer that had arrived, or ``None``.
        failed_generation: The output of the model that the service refused (400 ``tool_use_failed``, …).
        sent: Whether the request was sent: ``True``, ``False``, or ``None`` for unknown.

    .. versionadded:: 0.1.0
    """

    #: Whether the same request may succeed later, unless the error itself knows better.
    default_retryable: ClassVar[bool] = False
    #: Whether our own messages of this class begin with the place that belongs into ``param``.
    _message_names_param: ClassVar[bool] = False

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
        self.param = (
            _place_in_message(message) if param is None and status_code is None and self._message_names_param else param
        )
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
        """Return the message, with the request id and the number of attempts if there are any."""
        # Escape control characters, which a server's text may hold; ``message`` keeps the original text.
        text = self.message
        if not text.isprintable():
            text = re.sub(_CONTROL_CHARACTERS, lambda each: ascii(each[0])[1:-1], text)
        details = [f"request id {self.request_id}"] if self.request_id and _is_plain_id(self.request_id) else []
        if self.attempts:
            details.append(f"{len(self.attempts)} attempt{'s' * (len(self.attempts) > 1)}")
        return f"{text} [{', '.join(details)}]" if details else text

    @property
    def summary(self) -> str:
        """The error in one line, for your logs. It contains no text of a server, which may quote the prompt.

        It names the class and, where known, status, code, type, param, request id and number of attempts. A code, type, param or id with
        unusual characters is replaced by its length.

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
                parts.append(f"{name}={text if _is_plain_id(text) else f'<{len(text)} characters>'}")
        if self.attempts:
            parts.append(f"attempts={len(self.attempts)}")
        return " ".join(parts)


#: The characters of the service's codes, types, request ids and places (``messages[3].content``), and the longest of them.
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/[]$")
_MAX_ID_LENGTH = 64


def _is_plain_id(text: str) -> bool:
    return len(text) <= _MAX_ID_LENGTH and _ID_CHARACTERS.issuperset(text)


E = TypeVar("E", bound=BaseException)


def reword(error: GroqProviderError, message: str) -> None:
    """Replace the message of an error."""
    error.message = message
    error.args = (message,)


def without_frames(error: E) -> E:
    """Drop the traceback of an error before it is raised again: the variables of its frames hold the key.

    A cause without a traceback is kept, as the transport attaches the error of the operating system. Any other cause is dropped: it
    leads to frames as well, and the errors of decoders hold the whole document.
    """
    error.__context__ = None
    cause = error.__cause__
    if cause is not None and (cause.__traceback__ or cause.__cause__ or cause.__context__):
        error.__cause__ = None
    return error.with_traceback(None)


#: Our own messages begin with the place of the fault: a name, or a path such as ``messages[3].content``.
_PLACE_STEP = r"[a-z_][a-z0-9_]*(?:\[[^\]]{1,80}\])*"
_PLACE_AT_START = rf"'?({_PLACE_STEP}(?:\.{_PLACE_STEP})*)'?(?:: | = | must | has | needs | is | and [a-z_]+(?:: | = ))"


def _place_in_message(message: str) -> str | None:
    """Return the place that one of our own messages begins with, or ``None``."""
    match = re.match(_PLACE_AT_START, message)
    return match[1] if match else None


class ConfigurationError(GroqProviderError, ValueError):
    """A setting is wrong; nothing was sent. You must correct the setting that the message names; ``param`` has it if the message begins with it."""

    _message_names_param = True


class ProviderClosedError(GroqProviderError):
    """The provider was closed, before the call or during it. You must make a new provider for further calls."""


class ProviderDisabledError(GroqProviderError):
    """The configuration disables the provider (``enabled: false``). You can change the configuration, or ask another provider."""


class RequestCancelledError(GroqProviderError):
    """You cancelled the call, by a :class:`~groq_provider.CancelToken` or by ``stream.cancel()``."""


class CircuitOpenError(GroqProviderError):
    """The call was not tried, because too many recent calls failed. You can try again after ``retry_after`` seconds."""

    default_retryable = True


class DeadlineExceededError(GroqProviderError, TimeoutError):
    """The total time of the call is up; ``partial`` has the part of the answer that arrived. You can allow more time with ``timeout``."""


class RateLimitTimeoutError(DeadlineExceededError):
    """The limiter would need longer than the call may wait. Nothing was sent, and no limit was charged, so you can try again later."""

    default_retryable = True


class TransportError(GroqProviderError):
    """No usable answer came.

    If ``sent`` is not ``False``, the service may have processed and billed the request, which you should weigh before you send it again.
    """

    default_retryable = True


class APIConnectionError(TransportError):
    """The connection could not be opened, or broke before an answer came. You can try again."""


class TLSError(APIConnectionError):
    """The TLS handshake or the certificate check failed. A retry does not help: you should check ``ca_bundle`` and the clock."""

    default_retryable = False


class ProxyError(APIConnectionError):
    """The proxy refused the request or failed. You should check ``proxies`` and the proxy variables of the environment."""


class ConnectTimeoutError(TransportError, TimeoutError):
    """The connection, TLS handshake included, was not opened in time. The request was not sent, so you can try again."""


class ReadTimeoutError(TransportError, TimeoutError):
    """The request was sent, but no answer came in time.

    The service may have processed and billed the request, so the library does not repeat it; you must decide that.
    """


class PoolTimeoutError(TransportError, TimeoutError):
    """All ``max_connections`` connections, or all streams that HTTP/2 allows, were busy for too long.

    The request was not sent. You can raise ``max_connections``, or use fewer threads.
    """


class ProtocolError(TransportError):
    """The peer violated HTTP. You should check ``base_url``: something else than the service may answer there."""


class RedirectRefusedError(TransportError):
    """The peer answered with a redirect, which is never followed: the key must not go to another host. You should correct ``base_url``."""

    default_retryable = False


class ResponseError(GroqProviderError):
    """An answer came but cannot be used. The service may have billed it."""


class ResponseDecodeError(ResponseError):
    """The body is not the expected JSON; the message names the place. You should check ``base_url`` if it is not JSON at all."""


class IncompleteResponseError(ResponseError):
    """The body ended before it was complete. You can try again; the service may have billed the request."""

    default_retryable = True


class ResponseTooLargeError(ResponseError):
    """The body, or a line or an event of it, is larger than the limit of this library, which you cannot change: such an answer is a fault."""


class OutputTruncatedError(ResponseError):
    """The length limit cut a structured output. You should raise ``max_completion_tokens``."""


class StreamError(GroqProviderError):
    """A stream began and failed; ``partial`` has the part of the answer that arrived. You must not take that part for the whole."""


class StreamInterruptedError(StreamError):
    """The stream ended before it was complete. You can ask again, for the whole answer."""

    default_retryable = True


class StreamIdleTimeoutError(StreamError, TimeoutError):
    """No event came for longer than ``Timeouts.idle``, which you can raise for slow models."""

    default_retryable = True


class StreamProtocolError(StreamError):
    """An event of the stream has an invalid form, so the rest cannot be read."""


class APIStatusError(GroqProviderError):
    """The service answered with an error status. You should catch the subclasses that you can handle, and this class for the rest."""


class InvalidRequestError(APIStatusError, ValueError):
    """The request is invalid: the service answered 400, 409 or 422, or it was not sent (``status_code`` is ``None``).

    You must correct the request; ``param`` is the place, for example ``messages[3].content``.
    """

    _message_names_param = True


class ContextTooLongError(InvalidRequestError):
    """The messages and the completion do not fit the model's context. You must shorten the prompt, or lower ``max_completion_tokens``.

    ``limit`` and ``requested`` are the numbers of tokens in the service's message, or ``None``.
    """

    def __init__(
        self, message: str = "", *, limit: int | None = None, requested: int | None = None, **data: object
    ) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]  # the same keywords as the base class
        self.limit = limit
        self.requested = requested


class ToolUseFailedError(InvalidRequestError):
    """The service refused a tool call of the model; ``failed_generation`` has its text. You can try again, since the model may do better."""


class JSONValidationFailedError(InvalidRequestError):
    """The service refused the model's JSON; ``failed_generation`` has its text. You can try again, since the model may do better."""


class RequestTooLargeError(APIStatusError):
    """The request has too many bytes, or more tokens than a limit allows at all. Waiting does not help: you must make it smaller."""


class AuthenticationError(APIStatusError):
    """The API key is missing or wrong. You must set another key."""


class PermissionDeniedError(APIStatusError):
    """The key lacks the permission: model blocked, terms not accepted, organisation restricted, spend limit reached.

    You must change that in the console of the service.
    """


class NotFoundError(APIStatusError):
    """The URL or the object does not exist. You should check ``base_url`` and the path."""


class ModelNotFoundError(NotFoundError):
    """The model does not exist, or the key must not use it. You can list the models with ``list_models()``."""


class ModelDecommissionedError(APIStatusError):
    """The model was shut down; ``replacement`` names the model that you should use instead, if one is known."""

    def __init__(self, message: str = "", *, replacement: str | None = None, **data: object) -> None:
        super().__init__(message, **data)  # type: ignore[arg-type]  # the same keywords as the base class
        self.replacement = replacement


class RateLimitedError(APIStatusError):
    """The service's rate limit is reached. You can try again after ``retry_after`` seconds; with configured limits this error is rare.

    Further attributes: ``scope`` (``"minute"``, ``"hour"``, ``"day"`` or ``None``), ``limit_name`` (the service's ``RPM``, ``RPD``,
    ``TPM``, ``TPD``, ``ASH``, ``ASD``, ``ITPM`` or ``OTPM``), and ``limit``, ``used`` and ``requested`` if the service named them.
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
    """The service failed (5xx). It does not bill the request, so you can try again."""

    default_retryable = True


class OverloadedError(ProviderUnavailableError):
    """The service is over capacity (498, 503, 529). You can try again later, or ask another model."""


class JournalError(GroqProviderError):
    """The journal of a bulk job could not be written or read."""


class JournalLockedError(JournalError):
    """Another process is using this journal. You must end it, or use another journal."""


class JournalInputChangedError(JournalError):
    """The input of the job differs from the input that the journal was started with."""
