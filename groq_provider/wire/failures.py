"""Failures of the service: status, headers and body into the right error, by code first, then by status.

Bodies and texts: ``{"error": {"message", "type", "param", "code", "failed_generation", "status_code"}}``; gateways in front of
the service answer with HTML, XML or plain text, so nothing about a body is taken for granted. Errors come under a good status, too.
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
    "reported_error",
    "without_key",
]

#: Of an error body, no more than this is read: what a model wrote and the service refused may be as long as an answer.
MAX_ERROR_BODY = 4 << 20
#: Values that an error body may hold: some milliseconds of work.
_MOST_VALUES = 50_000
_MAX_MESSAGE = 500
#: A shorter key may be a word like any other, so that blanking it would change what a server says and hide nothing.
_LEAST_KEY = 16

_BY_CODE: dict[str, type[e.APIStatusError]] = {
    "invalid_api_key": e.AuthenticationError,
    "context_length_exceeded": e.ContextTooLongError,
    # The same of other servers: llama.cpp, LiteLLM, GitHub, …
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

# The phrases of the design document, by class; looked up along the class's bases.
_PHRASES: dict[type[Exception], str] = {
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

# Where these name this service, the words for another one.
_OF_OTHERS = {
    "unauthorized: invalid Groq API key": "unauthorized",
    "groq overloaded": "overloaded",
    "groq overloaded: please retry after a moment": "overloaded: please retry after a moment",
    "provider unavailable: groq service unavailable": "provider unavailable",
}
#: What neither time nor another try mends.
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"})

# Texts, compiled on first use: most programs meet few failures.
_CONTEXT = (
    r"context.length|context.window|context.size|context.limit|max(?:imum)?.context|max(?:imum)?.prompt.length"
    r"|reduce the length.{0,20}(?:message|input|prompt)|(?:input|prompt)(?: is)? too long|input (?:token|length)[^.]{0,40} exceeds?"
)
# Out of range by itself, whatever the messages are; the service's text names the context window too.
_OUTPUT_RANGE = r"`max_(?:completion_)?tokens` must be "
_LIMIT = (
    r" on (?P<what>[a-z ]{1,40}) \((?P<name>RPM|RPD|TPM|TPD|ASH|ASD|ITPM|OTPM)\): Limit (?P<limit>\d{1,15})"
    r"(?:, Used (?P<used>\d{1,15}))?, Requested ~?(?P<requested>\d{1,15})"
)
_TRY_AGAIN = r"try again in "
_SCOPES = {"ASH": "hour", "RPD": "day", "TPD": "day", "ASD": "day"}
_FIELDS = ("message", "code", "type", "param", "failed_generation")
#: Where servers put the status that an error would have had.
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
    """Return the error that an answer with an error status stands for. Never raises.

    Args:
        status: The HTTP status.
        headers: Case-insensitive header fields.
        body: Whatever came, cut at :data:`MAX_ERROR_BODY`.
        now: For ``retry_at``.
        model: The model asked for.
        provider: Name of the provider.
        secret: The API key, blanked out where the server repeats it. All else is shown as the server wrote it, the prompt included.
    """
    found = _error_object(body)
    plain = found is None
    if found is None:
        # Before it is cut: of a key that was cut in two, the beginning would stay.
        whole = without_key(body.decode("utf-8", "surrogateescape"), secret).encode("utf-8", "surrogateescape")
        found = {"message": _plain_message(whole, headers)}
    should_retry = headers.get("x-should-retry")
    return error_from_object(
        found,
        status=status,
        now=now,
        retry_after=h.parse_retry_after(headers, now),
        retryable={"true": True, "false": False}.get(should_retry.strip().lower()) if should_retry else None,
        request_id=h.request_id(headers),
        model=model,
        provider=provider,
        secret=secret,
        plain=plain,
    )


def without_key(text: str, secret: str | None) -> str:
    """Return *text* without the API key, if that is long enough to be one. To be used before a text is cut."""
    return text.replace(secret, "****") if secret and len(secret) >= _LEAST_KEY else text


def error_from_object(
    found: Mapping[str, Any],
    *,
    status: int | None,
    now: datetime,
    retry_after: float | None = None,
    retryable: bool | None = None,
    request_id: str | None = None,
    model: str | None = None,
    provider: str | None = None,
    secret: str | None = None,
    plain: bool = False,
) -> e.APIStatusError:
    """Return the error that an error object stands for: the body of a status, or an event of a stream. Never raises.

    *plain*: the body was no error object, and *found* is made of what it was.
    """
    if status is None:
        status = next(filter(None, [_status(found.get(key)) for key in _STATUS_FIELDS]), None)
    message, code, kind, param, failed_generation = [_text(found.get(key)) for key in _FIELDS]
    message = message or ""
    # By what the server wrote, so that a key can change nothing of it.
    cls = _class(status, code, kind, message, retry_after)
    if retry_after is None and (hint := re.search(_TRY_AGAIN, message[-_MAX_MESSAGE:], re.IGNORECASE)):
        retry_after = h.parse_wait(message[-_MAX_MESSAGE:][hint.end() :])
    if retry_after is not None:
        retry_after = min(retry_after, h.MAX_HINT)
    limits = _limit(message, kind) if issubclass(cls, e.RateLimitedError) else {}
    if issubclass(cls, e.ContextTooLongError):
        limits = _context_numbers(message, found)
    message = without_key(message, secret)
    code, kind, param, failed_generation = [
        text and without_key(text, secret) for text in (code, kind, param, failed_generation)
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
        data["retryable"] = False  # 501, 505 and their like are the same the next time
    if retryable is None and not _USED_UP.isdisjoint((code, kind)):
        data["retryable"] = False
    return cls(_message(cls, status, message, other=provider not in (None, "groq"), plain=plain), **data)


def _class(
    status: int | None, code: str | None, kind: str | None, message: str, retry_after: float | None
) -> type[e.APIStatusError]:
    if "rate_limit_exceeded" in (code, kind) or status == 429:
        # The service gives one code to two things. A request above the limit itself never fits, however long one waits.
        hopeless = message.startswith("Request too large") or (
            retry_after is None
            and re.search(_LIMIT, message) is not None
            and not re.search(_TRY_AGAIN, message, re.IGNORECASE)
        )
        return e.RequestTooLargeError if status == 413 or hopeless else e.RateLimitedError
    for name in (code, kind):  # some servers put the code of this one there
        if name is not None and name in _BY_CODE:
            return _BY_CODE[name]
    cls = _BY_STATUS.get(status or 0)
    if (
        cls is e.InvalidRequestError
        and re.search(_CONTEXT, message, re.IGNORECASE)
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


def _message(cls: type[e.APIStatusError], status: int | None, message: str, *, other: bool, plain: bool) -> str:
    """Return the words of an error; *other*: of another server than this service; *plain*: the body was no JSON."""
    message = message[:_MAX_MESSAGE]
    phrase = next((_PHRASES[base] for base in cls.__mro__ if base in _PHRASES), None)
    if cls is e.AuthenticationError and plain:
        phrase = "unauthorized: check API key"
    if cls is e.OverloadedError and status == 503:
        phrase = _PHRASES[e.ProviderUnavailableError]
    elif cls is e.OverloadedError and (status == 529 or not message):
        phrase = f"{phrase}: please retry after a moment"
    if other and phrase is not None:
        phrase = _OF_OTHERS.get(phrase, phrase)
    if phrase is None:
        return (
            f"{'' if other else 'groq '}API error{'' if status is None else f' ({status})'}: {message or 'no message'}"
        )
    if not message:
        return f"{phrase} (status {status})"
    return f"{phrase}: {message}"


# How servers name the size of the context, and what it would have to hold.
_CONTEXT_LIMIT = r"(?:limit|context (?:length|window|size)|maximum(?: prompt length)?|max)\D{0,40}?(\d[\d,]{0,14})"
_CONTEXT_NEED = r"(?:requested|resulted in|current length is|contains|has|request|prompt)\b\D{0,30}?(\d[\d,]{0,14}) ?(?:tokens?\b|while|[,.)]|$)"


def _context_numbers(message: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of tokens of a context that is too short: those of llama.cpp's fields, else those in the words."""

    def one(field: str, pattern: str) -> int | None:
        given = found.get(field)
        if type(given) is int and 0 <= given < 10**15:
            return given
        match = re.search(pattern, message[: 2 * _MAX_MESSAGE], re.IGNORECASE)
        return int(match[1].replace(",", "")) if match else None

    return {"limit": one("n_ctx", _CONTEXT_LIMIT), "requested": one("n_prompt_tokens", _CONTEXT_NEED)}


def _limit(message: str, kind: str | None) -> dict[str, Any]:
    match = re.search(_LIMIT, message[: 2 * _MAX_MESSAGE])
    if match is None:
        return {"scope": "minute" if kind in ("requests", "tokens") and "day" not in message else None}
    name = match["name"]
    return {
        "limit_name": name,
        "scope": _SCOPES.get(name, "minute"),
        "limit": _figure(match["limit"]),
        "used": _figure(match["used"]),
        "requested": _figure(match["requested"]),
    }


def _figure(text: str | None) -> int | None:
    """Return a figure that a limit can have."""
    found = int(text) if text else None
    return None if found is None or found > h.MAX_FIGURE else found


def _error_object(body: bytes) -> Mapping[str, Any] | None:
    """Find the error object of a body, also where its end was cut off."""
    try:
        # The short ones in any encoding of JSON.
        short = len(body) <= AT_ONCE
        decoded = json.loads(body) if short else loads(body[:MAX_ERROR_BODY], most=_MOST_VALUES)
    except (ValueError, RecursionError, e.ResponseError):
        return _of_cut(body) if len(body) >= MAX_ERROR_BODY else None
    return error_object(decoded) or (decoded if _is_message(decoded) else _of_detail(decoded))


def error_object(decoded: object) -> Mapping[str, Any] | None:
    """Return the error object of decoded JSON, if that reports an error.

    ``{"error": {…}}``, ``{"error": "text"}`` with more beside it, OAuth's ``error_description``, ``{"object": "error", …}``; any of these
    alone in a list.
    """
    if isinstance(decoded, list) and len(decoded) == 1:
        decoded = decoded[0]
    if not isinstance(decoded, Mapping):
        return None
    found, description = decoded.get("error"), decoded.get("error_description")
    if isinstance(found, Mapping):
        if not any(_text(found.get(key)) for key in ("message", *_STATUS_FIELDS)):
            return None
        status = next(filter(None, [_status(decoded.get(key)) for key in _STATUS_FIELDS]), None)
        return found if status is None else {"status": status, **found}
    if isinstance(description, str) and description:
        return {"code": found, **decoded, "message": description}
    if isinstance(found, str) and found:
        message = decoded.get("message")
        return {**decoded, "message": f"{found}: {message}" if isinstance(message, str) and message else found}
    if found is True or decoded.get("object") == "error":
        return decoded
    return None


def reported_error(decoded: object) -> Mapping[str, Any] | None:
    """Return the error object of an answer under a good status, or of an event, if that reports an error, in whatever form."""
    found = error_object(decoded)
    if found is None and isinstance(decoded, Mapping) and (given := decoded.get("error")):
        found = {**(given if isinstance(given, Mapping) else {}), "message": as_text(given)}
    return found


def _of_detail(decoded: object) -> Mapping[str, Any] | None:
    """Find the words of FastAPI's ``{"detail": …}``: text, an object, or a list of places and what is wrong there."""
    found = decoded.get("detail") if isinstance(decoded, Mapping) else None
    if isinstance(found, str):
        return {"message": found} if found else None
    if isinstance(found, Mapping):
        return error_object(found) or (found if _is_message(found) else None)
    if not isinstance(found, list):
        return None
    wrong = []
    for item in found[:20]:
        if _text(item):
            wrong.append(("", _text(item) or ""))
        elif isinstance(item, Mapping) and isinstance(item.get("msg"), str):  # not its input, which is the caller's
            loc = item.get("loc")
            place = loc[1:] if isinstance(loc, list) and loc[:1] == ["body"] else loc
            wrong.append((".".join(map(str, place)) if isinstance(place, list) else "", item["msg"]))
    if not wrong:
        return None
    return {
        "message": "; ".join(f"{place}: {text}" if place else text for place, text in wrong),
        "param": wrong[0][0] or None,
    }


def _is_message(decoded: object) -> bool:
    """Say whether the body of an error status has its words at the top."""
    return isinstance(decoded, Mapping) and isinstance(decoded.get("message"), str)


_CUT = r'"(message|type|code|param|failed_generation|status_code)"\s{0,9}:\s{0,9}("(?:[^"\\]+|\\.)*"?|\d{1,9}\b)'


def _of_cut(body: bytes) -> Mapping[str, Any] | None:
    """Find what there is of an error object whose end is missing."""
    found: dict[str, Any] = {}
    whole = body[:MAX_ERROR_BODY].decode("utf-8", "ignore")
    for match in islice(re.finditer(_CUT, whole, re.DOTALL), 64):  # no error has as many fields
        text = match[2]
        # Of what the cut has left open, the end may be half an escape.
        for ended in (text, *(f'{text[: len(text) - cut]}"' for cut in range(12))):
            with suppress(ValueError):
                found.setdefault(match[1], json.loads(ended, strict=False))
                break
    return found if "message" in found or "code" in found else None


_TITLE = rb"<title[^>]{0,100}>([^<]{1,200})"
_HTML = rb"\s*(?:<!--.{0,200}?-->\s*)?<(?:!doctype html|html|head|body|title|center|h\d|p|div|script|meta)\b"
_KNOWN_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})


def _plain_message(body: bytes, headers: Mapping[str, str]) -> str:
    """Describe a body that is not the service's: pages of gateways by their title, text by its beginning, XML by its words."""
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
        from html import unescape  # nearly never

        words = unescape(re.sub(rb"<[^>]{0,1000}>?", b" ", start).decode("utf-8", "replace"))
        return " ".join(words.split())[:300] + suffix or f"XML without words{suffix}"
    return " ".join(start[:300].decode("utf-8", "replace").split()) + suffix


def _status(found: object) -> int | None:
    """Return the HTTP status of an error that a field names, as a number or as text."""
    text = _text(found)
    return (
        int(text)
        if text is not None and len(text) == 3 and text.isascii() and text.isdigit() and text[0] in "45"
        else None
    )


def _text(found: object) -> str | None:
    """Take strings as they are and numbers as text: some servers give a number as code."""
    if isinstance(found, str):
        return found
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        try:
            return str(found)
        except ValueError:  # an integer of thousands of digits
            return None
    return None
