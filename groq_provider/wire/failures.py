"""Translate failures of the service into errors: status, headers and body give the class, by the error's code first, then by status.

The service sends ``{"error": {"message", "type", "param", "code", "failed_generation", "status_code"}}``. Gateways in front of it send
HTML, XML or plain text, so the code below must not rely on the form of a body. Errors also come under a good status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from groq_provider import errors as e
from groq_provider.wire import headers as h
from groq_provider.wire.json_text import AT_ONCE, as_text, loads

__all__ = [
    "MAX_ERROR_BODY",
    "error_from_object",
    "error_from_response",
    "error_object",
    "redact_key",
    "reported_error",
]

#: The longest error body that is read. It may be as long as an answer: ``failed_generation`` holds the text that the service refused.
MAX_ERROR_BODY = 4 << 20
#: The number of values that an error body may hold: a few milliseconds of work.
_MAX_VALUES = 50_000
_MAX_MESSAGE_LENGTH = 500
#: A shorter key is not redacted: it may be an ordinary word, and then redacting it would garble the server's text.
_MIN_KEY_LENGTH = 16

_BY_CODE: dict[str, type[e.APIStatusError]] = {
    "invalid_api_key": e.AuthenticationError,
    "context_length_exceeded": e.ContextTooLongError,
    # The codes of other servers for it: llama.cpp, LiteLLM, GitHub, …
    **dict.fromkeys(
        (
            "exceed_context_size_error",
            "ContextWindowExceededError",
            "context_window_exceeded",
            "max_context_length_exceeded",
            "model_max_prompt_tokens_exceeded",
            "prompt_too_long",
        ),
        e.ContextTooLongError,
    ),
    "tool_use_failed": e.ToolUseFailedError,
    "json_validate_failed": e.JSONValidationFailedError,
    "model_decommissioned": e.ModelDecommissionedError,
    "model_not_found": e.ModelNotFoundError,
    "unknown_url": e.NotFoundError,
    "model_terms_required": e.PermissionDeniedError,
    "model_permission_blocked_org": e.PermissionDeniedError,
    "model_permission_blocked_project": e.PermissionDeniedError,
    "organization_restricted": e.PermissionDeniedError,
    "blocked_api_access": e.PermissionDeniedError,
    "capacity_exceeded": e.OverloadedError,
    "over_capacity": e.OverloadedError,
}

_BY_STATUS: dict[int, type[e.APIStatusError]] = {
    400: e.InvalidRequestError,
    401: e.AuthenticationError,
    403: e.PermissionDeniedError,
    404: e.NotFoundError,
    409: e.InvalidRequestError,
    413: e.RequestTooLargeError,
    422: e.InvalidRequestError,
    429: e.RateLimitedError,
    498: e.OverloadedError,
    503: e.OverloadedError,
    529: e.OverloadedError,
}

# The phrase that each class's message begins with; a class without one uses that of its nearest base. Users match on these phrases, so
# they must not change.
_PHRASE_BY_CLASS: dict[type[Exception], str] = {
    e.ContextTooLongError: "context too long",
    e.InvalidRequestError: "invalid request",
    e.RequestTooLargeError: "request too large",
    e.AuthenticationError: "unauthorized: invalid Groq API key",
    e.PermissionDeniedError: "permission denied",
    e.ModelNotFoundError: "model not found",
    e.NotFoundError: "not found",
    e.ModelDecommissionedError: "model decommissioned",
    e.RateLimitedError: "rate limited",
    e.OverloadedError: "groq overloaded",
    e.ProviderUnavailableError: "provider unavailable: groq service unavailable",
}

# The phrases that name this service, and the words used instead for another one.
_PHRASE_FOR_OTHERS = {
    "unauthorized: invalid Groq API key": "unauthorized",
    "groq overloaded": "overloaded",
    "groq overloaded: please retry after a moment": "overloaded: please retry after a moment",
    "provider unavailable: groq service unavailable": "provider unavailable",
}
#: Codes of an exhausted quota or budget: a retry cannot succeed.
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"}
)

# Patterns are kept as text and compiled on first use: most programs see few failures.
_CONTEXT_TOO_LONG = (
    r"context.length|context.window|context.size|context.limit|max(?:imum)?.context|max(?:imum)?.prompt.length"
    r"|reduce the length.{0,20}(?:message|input|prompt)|(?:input|prompt)(?: is)? too long|input (?:token|length)[^.]{0,40} exceeds?"
)
# An output limit that is out of range by itself. The text names the context window, but shorter messages would not help.
_OUTPUT_RANGE = r"`max_(?:completion_)?tokens` must be "
_LIMIT_SENTENCE = (
    r" on (?P<what>[a-z ]{1,40}) \((?P<name>RPM|RPD|TPM|TPD|ASH|ASD|ITPM|OTPM)\): Limit (?P<limit>\d{1,15})"
    r"(?:, Used (?P<used>\d{1,15}))?, Requested ~?(?P<requested>\d{1,15})"
)
_TRY_AGAIN = r"try again in "
_SCOPES = {"ASH": "hour", "RPD": "day", "TPD": "day", "ASD": "day"}
_ERROR_FIELDS = ("message", "code", "type", "param", "failed_generation")
#: The fields in which servers report the HTTP status of an error that comes under another status.
_STATUS_FIELDS = ("status_code", "code", "status")
_PASSING_5XX = frozenset({None, 500, 502, 504, *range(520, 525)})  # 503 and 529 have a class of their own
_RETRYABLE_4XX = frozenset({408, 425})


def error_from_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime,
    model: str | None = None,
    provider: str | None = None,
    secret: str | None = None,
) -> e.APIStatusError:
    """Return the error for an answer with an error status. Never raises.

    Args:
        status: The HTTP status.
        headers: Case-insensitive header fields.
        body: The body, cut at :data:`MAX_ERROR_BODY`.
        now: The current time, for ``retry_at``.
        model: The requested model.
        provider: The name of the provider.
        secret: The API key. It is redacted where the server repeats it; the rest of the server's text is kept, even if it quotes a prompt.
    """
    fields = _find_error_object(body)
    not_json = fields is None
    if fields is None:
        # Redact before the text is cut: of a key that was cut in two, the first half would stay.
        redacted = redact_key(body.decode("utf-8", "surrogateescape"), secret).encode("utf-8", "surrogateescape")
        fields = {"message": _describe_foreign_body(redacted, headers)}
    should_retry = headers.get("x-should-retry")
    return error_from_object(
        fields,
        status=status,
        now=now,
        retry_after=h.parse_retry_after(headers, now),
        retryable={"true": True, "false": False}.get(should_retry.strip().lower()) if should_retry else None,
        request_id=h.request_id(headers),
        model=model,
        provider=provider,
        secret=secret,
        not_json=not_json,
    )


def redact_key(text: str, secret: str | None) -> str:
    """Return *text* with the API key replaced by ``****``. Call it before you cut a text."""
    return text.replace(secret, "****") if secret and len(secret) >= _MIN_KEY_LENGTH else text


def error_from_object(
    fields: Mapping[str, Any],
    *,
    status: int | None,
    now: datetime,
    retry_after: float | None = None,
    retryable: bool | None = None,
    request_id: str | None = None,
    model: str | None = None,
    provider: str | None = None,
    secret: str | None = None,
    not_json: bool = False,
) -> e.APIStatusError:
    """Return the error for an error object, which came as a body or as an event of a stream. Never raises.

    With *not_json* the body was no error object, and *fields* only describes it.
    """
    if status is None:
        status = next(filter(None, [_as_status(fields.get(key)) for key in _STATUS_FIELDS]), None)
    message, code, kind, param, failed_generation = [_as_text(fields.get(key)) for key in _ERROR_FIELDS]
    message = message or ""
    # Choose the class by the server's own text, before redaction can change it.
    cls = _choose_class(status, code, kind, message, retry_after)
    if retry_after is None and (hint := re.search(_TRY_AGAIN, message[-_MAX_MESSAGE_LENGTH:], re.IGNORECASE)):
        retry_after = h.parse_wait(message[-_MAX_MESSAGE_LENGTH:][hint.end() :])
    if retry_after is not None:
        retry_after = min(retry_after, h.MAX_HINT)
    limits = _limit_fields(message, kind) if issubclass(cls, e.RateLimitedError) else {}
    if issubclass(cls, e.ContextTooLongError):
        limits = _context_numbers(message, fields)
    message = redact_key(message, secret)
    code, kind, param, failed_generation = [
        text and redact_key(text, secret) for text in (code, kind, param, failed_generation)
    ]
    data: dict[str, Any] = {
        "status_code": status,
        "code": code,
        "type": kind,
        "param": param,
        "failed_generation": failed_generation,
        "request_id": request_id,
        "model": model,
        "provider": provider,
        "retry_after": retry_after,
        "retry_at": None if retry_after is None else now + timedelta(seconds=retry_after),
        "retryable": retryable,
        **limits,
    }
    if retryable is None and status in _RETRYABLE_4XX:
        data["retryable"] = True
    if retryable is None and cls is e.ProviderUnavailableError and status not in _PASSING_5XX:
        data["retryable"] = False  # 501, 505 and similar ones do not pass
    if retryable is None and not _QUOTA_CODES.isdisjoint((code, kind)):
        data["retryable"] = False
    return cls(
        _word_message(cls, status, message, other_service=provider not in (None, "groq"), not_json=not_json), **data
    )


def _choose_class(
    status: int | None, code: str | None, kind: str | None, message: str, retry_after: float | None
) -> type[e.APIStatusError]:
    if "rate_limit_exceeded" in (code, kind) or status == 429:
        # The service uses one code for two cases. A request larger than the limit itself never fits, so waiting is useless.
        never_fits = message.startswith("Request too large") or (
            retry_after is None
            and re.search(_LIMIT_SENTENCE, message) is not None
            and not re.search(_TRY_AGAIN, message, re.IGNORECASE)
        )
        return e.RequestTooLargeError if status == 413 or never_fits else e.RateLimitedError
    for name in (code, kind):  # some servers send this service's codes as ``type``
        if name is not None and name in _BY_CODE:
            return _BY_CODE[name]
    cls = _BY_STATUS.get(status or 0)
    if (
        cls is e.InvalidRequestError
        and re.search(_CONTEXT_TOO_LONG, message, re.IGNORECASE)
        and not re.match(_OUTPUT_RANGE, message)
    ):
        return e.ContextTooLongError
    if cls is e.NotFoundError and message.startswith("The model "):
        return e.ModelNotFoundError
    if cls is not None:
        return cls
    if status is not None and status >= 500:
        return e.ProviderUnavailableError
    if status is None and kind == "internal_server_error":
        return e.ProviderUnavailableError
    if status is None and kind == "invalid_request_error":
        return e.InvalidRequestError
    return e.APIStatusError


def _word_message(
    cls: type[e.APIStatusError], status: int | None, message: str, *, other_service: bool, not_json: bool
) -> str:
    """Return the message of an error: the phrase of its class, then the server's text.

    Args:
        cls: The class of the error.
        status: The HTTP status.
        message: The server's text.
        other_service: The error came from another service than this one.
        not_json: The body was not JSON.
    """
    message = message[:_MAX_MESSAGE_LENGTH]
    phrase = next((_PHRASE_BY_CLASS[base] for base in cls.__mro__ if base in _PHRASE_BY_CLASS), None)
    if cls is e.AuthenticationError and not_json:
        phrase = "unauthorized: check API key"
    if cls is e.OverloadedError and status == 503:
        phrase = _PHRASE_BY_CLASS[e.ProviderUnavailableError]
    elif cls is e.OverloadedError and (status == 529 or not message):
        phrase = f"{phrase}: please retry after a moment"
    if other_service and phrase is not None:
        phrase = _PHRASE_FOR_OTHERS.get(phrase, phrase)
    if phrase is None:
        return f"{'' if other_service else 'groq '}API error{'' if status is None else f' ({status})'}: {message or 'no message'}"
    if not message:
        return f"{phrase} (status {status})"
    return f"{phrase}: {message}"


# How servers word the size of the context, and the size that the request needs.
_CONTEXT_LIMIT = r"(?:limit|context (?:length|window|size)|maximum(?: prompt length)?|max)\D{0,40}?(\d[\d,]{0,14})"
_CONTEXT_NEED = r"(?:requested|resulted in|current length is|contains|has|request|prompt)\b\D{0,30}?(\d[\d,]{0,14}) ?(?:tokens?\b|while|[,.)]|$)"


def _context_numbers(message: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of the context and the size needed, from llama.cpp's fields or from the message."""

    def one(field: str, pattern: str) -> int | None:
        number = fields.get(field)
        if type(number) is int and 0 <= number < 10**15:
            return number
        match = re.search(pattern, message[: 2 * _MAX_MESSAGE_LENGTH], re.IGNORECASE)
        return int(match[1].replace(",", "")) if match else None

    return {"limit": one("n_ctx", _CONTEXT_LIMIT), "requested": one("n_prompt_tokens", _CONTEXT_NEED)}


def _limit_fields(message: str, kind: str | None) -> dict[str, Any]:
    match = re.search(_LIMIT_SENTENCE, message[: 2 * _MAX_MESSAGE_LENGTH])
    if match is None:
        return {"scope": "minute" if kind in ("requests", "tokens") and "day" not in message else None}
    name = match["name"]
    return {
        "limit_name": name,
        "scope": _SCOPES.get(name, "minute"),
        "limit": _parse_figure(match["limit"]),
        "used": _parse_figure(match["used"]),
        "requested": _parse_figure(match["requested"]),
    }


def _parse_figure(text: str | None) -> int | None:
    """Return a figure of a limit, or ``None`` if it is too large to be one."""
    figure = int(text) if text else None
    return None if figure is None or figure > h.MAX_FIGURE else figure


def _find_error_object(body: bytes) -> Mapping[str, Any] | None:
    """Find the error object of a body, also in a body that was cut off."""
    try:
        # ``json.loads`` detects UTF-16 and UTF-32, too.
        short = len(body) <= AT_ONCE
        decoded = json.loads(body) if short else loads(body[:MAX_ERROR_BODY], max_values=_MAX_VALUES)
    except (ValueError, RecursionError, e.ResponseError):
        return _error_from_cut_body(body) if len(body) >= MAX_ERROR_BODY else None
    return error_object(decoded) or (decoded if _has_message(decoded) else _error_from_detail(decoded))


def error_object(decoded: object) -> Mapping[str, Any] | None:
    """Return the error object of decoded JSON, or ``None`` if the JSON reports no error.

    The forms are ``{"error": {…}}``, ``{"error": "text"}`` (other fields may stand beside it), OAuth's ``error_description``, and
    ``{"object": "error", …}``. Each of them may also be the only item of a list.
    """
    if isinstance(decoded, list) and len(decoded) == 1:
        decoded = decoded[0]
    if not isinstance(decoded, Mapping):
        return None
    error, description = decoded.get("error"), decoded.get("error_description")
    if isinstance(error, Mapping):
        if not any(_as_text(error.get(key)) for key in ("message", *_STATUS_FIELDS)):
            return None
        status = next(filter(None, [_as_status(decoded.get(key)) for key in _STATUS_FIELDS]), None)
        return error if status is None else {"status": status, **error}
    if isinstance(description, str) and description:
        return {"code": error, **decoded, "message": description}
    if isinstance(error, str) and error:
        message = decoded.get("message")
        return {**decoded, "message": f"{error}: {message}" if isinstance(message, str) and message else error}
    if error is True or decoded.get("object") == "error":
        return decoded
    return None


def reported_error(decoded: object) -> Mapping[str, Any] | None:
    """Return the error object of an event, or of an answer under a good status; any ``error`` field counts, whatever its form."""
    fields = error_object(decoded)
    if fields is None and isinstance(decoded, Mapping) and (reported := decoded.get("error")):
        fields = {**(reported if isinstance(reported, Mapping) else {}), "message": as_text(reported)}
    return fields


def _error_from_detail(decoded: object) -> Mapping[str, Any] | None:
    """Return the error object for FastAPI's ``{"detail": …}``, which is a text, an object, or a list of places and problems."""
    detail = decoded.get("detail") if isinstance(decoded, Mapping) else None
    if isinstance(detail, str):
        return {"message": detail} if detail else None
    if isinstance(detail, Mapping):
        return error_object(detail) or (detail if _has_message(detail) else None)
    if not isinstance(detail, list):
        return None
    problems = []
    for item in detail[:20]:
        if _as_text(item):
            problems.append(("", _as_text(item) or ""))
        elif isinstance(item, Mapping) and isinstance(
            item.get("msg"), str
        ):  # without ``input``, which quotes the request
            loc = item.get("loc")
            place = loc[1:] if isinstance(loc, list) and loc[:1] == ["body"] else loc
            problems.append((".".join(map(str, place)) if isinstance(place, list) else "", item["msg"]))
    if not problems:
        return None
    return {
        "message": "; ".join(f"{place}: {text}" if place else text for place, text in problems),
        "param": problems[0][0] or None,
    }


def _has_message(decoded: object) -> bool:
    """Tell whether a body has its ``message`` at the top level."""
    return isinstance(decoded, Mapping) and isinstance(decoded.get("message"), str)


_CUT_FIELD = r'"(message|type|code|param|failed_generation|status_code)"\s{0,9}:\s{0,9}("(?:[^"\\]+|\\.)*"?|\d{1,9}\b)'


def _error_from_cut_body(body: bytes) -> Mapping[str, Any] | None:
    """Return the readable fields of an error object without its end, or ``None``."""
    fields: dict[str, Any] = {}
    beginning = body[:MAX_ERROR_BODY].decode("utf-8", "ignore")
    for match in islice(re.finditer(_CUT_FIELD, beginning, re.DOTALL), 64):  # no error has as many fields
        text = match[2]
        # A string without its end may end with half an escape: try again with fewer characters.
        for ended in (text, *(f'{text[: len(text) - cut]}"' for cut in range(12))):
            with suppress(ValueError):
                fields.setdefault(match[1], json.loads(ended, strict=False))
                break
    return fields if "message" in fields or "code" in fields else None


_TITLE = rb"<title[^>]{0,100}>([^<]{1,200})"
_HTML = rb"\s*(?:<!--.{0,200}?-->\s*)?<(?:!doctype html|html|head|body|title|center|h\d|p|div|script|meta)\b"
_KNOWN_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


def _describe_foreign_body(body: bytes, headers: Mapping[str, str]) -> str:
    """Describe a body that did not come from the service: an HTML page by its title, XML by its words, text by its beginning."""
    start = body[:4096].lstrip()
    ray = headers.get("cf-ray")
    suffix = f" (cf-ray {ray[:40]})" if ray else ""
    if not start:
        return f"empty body{suffix}"
    kind, coding = [(headers.get(name) or "").strip().lower() for name in ("content-type", "content-encoding")]
    if coding not in _KNOWN_CODINGS and not "".join(start[:300].decode("utf-8", "replace").split()).isprintable():
        return f"a body in {coding[:40]}, which was not asked for and cannot be read{suffix}"
    if re.match(_HTML, start, re.IGNORECASE | re.DOTALL) or ("html" in kind and start[:5].lower() != b"<?xml"):
        title = re.search(_TITLE, start, re.IGNORECASE)
        named = f" titled {title[1].decode('utf-8', 'replace').strip()!r}" if title else ""
        return f"an HTML page{named} instead of JSON: a gateway answered, not the service{suffix}"
    if start[:1] == b"<":
        from html import unescape  # imported late: nearly never needed

        words = unescape(re.sub(rb"<[^>]{0,1000}>?", b" ", start).decode("utf-8", "replace"))
        return " ".join(words.split())[:300] + suffix or f"XML without words{suffix}"
    return " ".join(start[:300].decode("utf-8", "replace").split()) + suffix


def _as_status(value: object) -> int | None:
    """Return the HTTP error status in a field, which may be a number or a text; ``None`` for anything else."""
    text = _as_text(value)
    return (
        int(text)
        if text is not None and len(text) == 3 and text.isascii() and text.isdigit() and text[0] in "45"
        else None
    )


def _as_text(value: object) -> str | None:
    """Return a string unchanged and a number as text (some servers send a number as code); ``None`` for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # an integer of thousands of digits
            return None
    return None
