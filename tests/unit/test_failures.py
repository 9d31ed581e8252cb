"""Failures of the service: status, headers and body into the right error."""

import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from groq_provider import errors as e
from groq_provider.wire.failures import MAX_ERROR_BODY, error_from_object, error_from_response
from groq_provider.wire.headers import MAX_HINT

NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
KEY = "gsk_canary0123456789abcdef"


def fail(status, body=b"", headers=None, **more):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return error_from_response(status, CaseInsensitiveDict(headers or {}), body, now=NOW, **more)


INVALID = "invalid_request_error"
ORG = "in organization `org_01…` service tier `on_demand`"
UPGRADE = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"

# Status, error object as the service sends it, class, fixed phrase.
LITERAL = {
    "unknown property": (
        400,
        {"message": "property 'store' is unsupported, did you mean 'stop'?", "type": INVALID},
        e.InvalidRequestError, "invalid request",
    ),
    "unknown property of a message": (
        400,
        {"message": "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property 'reasoning_content' is unsupported)]", "type": INVALID},
        e.InvalidRequestError, "invalid request",
    ),
    "n": (400, {"message": "'n' : number must be at most 1", "type": INVALID}, e.InvalidRequestError, "invalid request"),
    "logprobs": (
        400,
        {"message": "`logprobs` is not supported with this model", "type": INVALID, "param": "logprobs"},
        e.InvalidRequestError, "invalid request",
    ),
    "tool calling": (
        400,
        {"message": "`tool calling` is not supported with this model", "type": INVALID, "param": "tool calling"},
        e.InvalidRequestError, "invalid request",
    ),
    "reasoning_effort": (
        400,
        {"message": "`reasoning_effort` is not supported with this model", "type": INVALID, "param": "reasoning_effort"},
        e.InvalidRequestError, "invalid request",
    ),
    "max_completion_tokens": (
        400,
        {"message": "`max_completion_tokens` must be less than or equal to `16384`, the maximum value for `max_completion_tokens` is less than the `context_window` for this model", "type": INVALID, "param": "max_completion_tokens"},
        e.InvalidRequestError, "invalid request",
    ),
    "context": (
        400,
        {"message": "Please reduce the length of the messages or completion.", "type": INVALID, "param": "messages", "code": "context_length_exceeded"},
        e.ContextTooLongError, "context too long",
    ),
    "JSON not generated": (
        400,
        {"message": "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.", "type": INVALID, "code": "json_validate_failed", "failed_generation": '{"a": '},
        e.JSONValidationFailedError, "invalid request",
    ),
    "JSON not validated": (
        400,
        {"message": "Failed to validate JSON. Please adjust your prompt. See 'failed_generation' for more details.", "type": INVALID, "code": "json_validate_failed", "failed_generation": ""},
        e.JSONValidationFailedError, "invalid request",
    ),
    "JSON against the schema": (
        400,
        {"message": "Generated JSON does not match the expected schema. Please adjust your prompt. See 'failed_generation' for more details.", "type": INVALID, "code": "json_validate_failed", "failed_generation": '{"b":1}'},
        e.JSONValidationFailedError, "invalid request",
    ),
    "tool call against the schema": (
        400,
        {"message": "Tool call validation failed: tool call validation failed: parameters for tool X did not match schema: errors: [missing properties: 'name', additionalProperties 'foo' not allowed]", "type": INVALID, "code": "tool_use_failed", "failed_generation": '{"name": "X", "arguments": {"foo": 1}}'},
        e.ToolUseFailedError, "invalid request",
    ),
    "tool call not read": (
        400,
        {"message": "Failed to call a function. Please adjust your prompt. See 'failed_generation' for more details.", "type": INVALID, "code": "tool_use_failed", "failed_generation": '<function=X>{"a":1}</function>'},
        e.ToolUseFailedError, "invalid request",
    ),
    "tool unknown": (
        400,
        {"message": "Tool call validation failed: tool call validation failed: attempted to call tool 'X' which was not in request.tools", "type": INVALID, "code": "tool_use_failed", "failed_generation": '{"name": "X", "arguments": {}}'},
        e.ToolUseFailedError, "invalid request",
    ),
    "tool not called": (
        400,
        {"message": "Tool choice is required, but model did not call a tool", "type": INVALID, "code": "tool_use_failed", "failed_generation": "plain text"},
        e.ToolUseFailedError, "invalid request",
    ),
    "decommissioned": (
        400,
        {"message": "The model `X` has been decommissioned and is no longer supported. Please refer to https://console.groq.com/docs/deprecations for a recommendation on which model to use instead.", "type": INVALID, "code": "model_decommissioned"},
        e.ModelDecommissionedError, "model decommissioned",
    ),
    "terms": (
        400,
        {"message": "The model `X` requires terms acceptance. Please have the org admin accept the terms at https://console.groq.com/playground?model=X", "type": INVALID, "code": "model_terms_required"},
        e.PermissionDeniedError, "permission denied",
    ),
    "restricted": (
        400,
        {"message": "Organization has been restricted. Please reach out to support if you believe this was in error.", "type": INVALID, "code": "organization_restricted"},
        e.PermissionDeniedError, "permission denied",
    ),
    "spend limit": (
        400,
        {"message": "<spend limit text>", "type": INVALID, "code": "blocked_api_access"},
        e.PermissionDeniedError, "permission denied",
    ),
    "key": (
        401,
        {"message": "Invalid API Key", "type": INVALID, "code": "invalid_api_key"},
        e.AuthenticationError, "unauthorized: invalid Groq API key",
    ),
    "blocked for the organization": (
        403,
        {"message": "The model `X` is blocked at the organization level. Please have the org admin enable this model in the org settings at https://console.groq.com/settings/limits", "type": "permissions_error", "code": "model_permission_blocked_org"},
        e.PermissionDeniedError, "permission denied",
    ),
    "blocked for the project": (
        403,
        {"message": "The model `X` is blocked at the project level. Please have a project admin enable this model in the project settings at https://console.groq.com/settings/project/limits", "type": "permissions_error", "code": "model_permission_blocked_project"},
        e.PermissionDeniedError, "permission denied",
    ),
    "model unknown": (
        404,
        {"message": "The model `X` does not exist or you do not have access to it.", "type": INVALID, "code": "model_not_found"},
        e.ModelNotFoundError, "model not found",
    ),
    "URL unknown": (
        404,
        {"message": "Unknown request URL: GET /openai/v1/foo. Please check the URL for typos, or see the docs at https://console.groq.com/docs/", "type": INVALID, "code": "unknown_url"},
        e.NotFoundError, "not found",
    ),
    "above the limit (413)": (
        413,
        {"message": f"Request too large for model `X` {ORG} on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size and try again. {UPGRADE}", "type": "tokens", "code": "rate_limit_exceeded"},
        e.RequestTooLargeError, "request too large",
    ),
    "connector": (
        424,
        {"message": "Error retrieving tool list from MCP server: 'Stripe' Http status code: 401 (Unauthorized)", "type": "external_connector_error", "param": "tools", "code": "http_error"},
        e.APIStatusError, "groq API error (424)",
    ),
    "above the limit (429)": (
        429,
        {"message": f"Request too large for model `X` {ORG} on output tokens per minute (OTPM): Limit 1000, Requested 1080. The request's expected output tokens exceed the enforced limit; reduce max_tokens (or the request's expected output) and try again.", "type": "tokens", "code": "rate_limit_exceeded"},
        e.RequestTooLargeError, "request too large",
    ),
    "over capacity": (
        503,
        {"message": "X is currently over capacity. Please try again and back off exponentially. Visit https://groqstatus.com to see if there is an active incident.", "type": "internal_server_error"},
        e.OverloadedError, "provider unavailable: groq service unavailable",
    ),
    "internal": (
        500,
        {"message": "Internal Server Error", "type": "internal_server_error"},
        e.ProviderUnavailableError, "provider unavailable: groq service unavailable",
    ),
    "flex full": (
        498,
        {"message": "capacity exceeded", "code": "capacity_exceeded"},
        e.OverloadedError, "groq overloaded",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LITERAL)
def test_literal_bodies_of_the_service(case):
    """Each recorded body gives its class, keeps the service's words behind the phrase, and its fields."""
    status, body, cls, phrase = LITERAL[case]
    error = fail(status, {"error": body}, {"x-request-id": "req_1"}, model="X", provider="groq")
    assert type(error) is cls
    assert str(error) == f"{phrase}: {body['message']} [request id req_1]"
    expected = {"status_code": status, "request_id": "req_1", "model": "X", "provider": "groq"}
    expected.update({name: body.get(name) for name in ("type", "code", "param", "failed_generation")})
    assert {name: getattr(error, name) for name in expected} == expected
    assert (error.retry_after, error.retry_at) == (None, None)
    assert error.retryable is (status >= 498)


def limit_text(words, name, *figures):
    size, used, requested, wait = figures
    return (
        f"Rate limit reached for model `X` {ORG} on {words} ({name}): Limit {size}, Used {used}, Requested {requested}. "
        f"Please try again in {wait}."
    )


LIMITS = {
    "TPM": (limit_text("tokens per minute", "TPM", 6000, 5034, 1443, "4.77s") + f" {UPGRADE}", "tokens", "minute", 6000, 5034, 1443, 4.77),
    "RPM": (limit_text("requests per minute", "RPM", 30, 30, 1, "2s") + " …", "requests", "minute", 30, 30, 1, 2.0),
    "TPD": ("… on tokens per day (TPD): Limit 100000, Used 99000, Requested 2032. Please try again in 14m52s. …", "tokens", "day", 100000, 99000, 2032, 892.0),
    "RPD": (limit_text("requests per day", "RPD", 1000, 1000, 1, "1m26.4s"), "requests", "day", 1000, 1000, 1, 86.4),
    "ASH": ("… on seconds of audio per hour (ASH): Limit 7200, Used 7100, Requested 180. Please try again in 40s. …", "audio_seconds", "hour", 7200, 7100, 180, 40.0),
    "ASD": (limit_text("seconds of audio per day", "ASD", 28800, 28800, 180, "1h3m0s"), "audio_seconds", "day", 28800, 28800, 180, 3780.0),
    "OTPM": ("… on output tokens per minute (OTPM): Limit 1000, Used 997, Requested 192. Please try again in 11.34s.", "tokens", "minute", 1000, 997, 192, 11.34),
    "ITPM": (limit_text("input tokens per minute", "ITPM", 1000, 997, 192, "120ms"), "tokens", "minute", 1000, 997, 192, 0.12),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_text_names_reached_limit(name):
    """Which limit, its size, how much of it is used and when to come back, although no header says so."""
    message, kind, scope, limit, used, requested, wait = LIMITS[name]
    error = fail(429, {"error": {"message": message, "type": kind, "code": "rate_limit_exceeded"}})
    assert type(error) is e.RateLimitedError
    assert (error.limit_name, error.scope, error.limit, error.used, error.requested) == (
        name,
        scope,
        limit,
        used,
        requested,
    )
    assert error.retry_after == pytest.approx(wait)
    assert error.retry_at == NOW + timedelta(seconds=error.retry_after)
    assert str(error) == f"rate limited: {message}"
    assert error.retryable is True


def test_old_wording_is_read():
    """2024 wrote ``~`` before the estimate, another tail, and the limit alone."""
    message = (
        "Rate limit reached for model `X` in organization `org_01` on tokens per minute (TPM): Limit 5000, Used 0, "
        "Requested ~4251. Please try again in 7.66s. Visit https://console.groq.com/docs/rate-limits for more information."
    )
    error = fail(429, {"error": {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}})
    assert (error.limit, error.used, error.requested, error.retry_after) == (5000, 0, 4251, 7.66)


def test_header_wins_over_text():
    """``retry-after`` is the text's delay rounded up; an explicit header wins over the text."""
    error = fail(429, {"error": {"message": LIMITS["OTPM"][0]}}, {"Retry-After": "12"})
    assert (error.retry_after, error.retry_at) == (12.0, NOW + timedelta(seconds=12))


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": ""}], ids=str)
def test_useless_header_leaves_text(headers):
    """A bad header, which is as good as none, leaves the text to decide."""
    assert fail(429, {"error": {"message": LIMITS["TPM"][0]}}, headers).retry_after == 4.77


def test_hopeless_limit_is_too_large():
    """A limit's text without "try again in" and without ``retry-after`` can never succeed unchanged."""
    message = f"Something new for model `X` {ORG} on tokens per minute (TPM): Limit 1000, Requested 1080."
    body = {"error": {"message": message, "code": "rate_limit_exceeded"}}
    assert type(fail(429, body)) is e.RequestTooLargeError
    assert type(fail(429, body, {"Retry-After": "5"})) is e.RateLimitedError


@pytest.mark.parametrize(
    ("body", "scope"),
    [
        ({"error": {"message": "slow down", "type": "tokens"}}, "minute"),
        ({"error": {"message": "slow down", "type": "requests"}}, "minute"),
        ({"error": {"message": "per day: slow down", "type": "requests"}}, None),
        ({"error": {"message": "slow down"}}, None),
        (b"", None),
    ],
    ids=["tokens", "requests", "day", "no type", "empty"],
)
def test_reworded_limit_stays_limit(body, scope):
    """Any 429 is a rate limit; figures that the text does not give stay empty."""
    error = fail(429, body)
    assert type(error) is e.RateLimitedError
    assert (error.scope, error.limit_name, error.limit, error.used, error.requested) == (scope, None, None, None, None)


BY_STATUS = {
    400: e.InvalidRequestError, 401: e.AuthenticationError, 402: e.APIStatusError, 403: e.PermissionDeniedError,
    404: e.NotFoundError, 405: e.APIStatusError, 408: e.APIStatusError, 409: e.InvalidRequestError,
    413: e.RequestTooLargeError, 418: e.APIStatusError, 422: e.InvalidRequestError, 424: e.APIStatusError,
    425: e.APIStatusError, 429: e.RateLimitedError, 498: e.OverloadedError, 499: e.APIStatusError,
    500: e.ProviderUnavailableError, 501: e.ProviderUnavailableError, 502: e.ProviderUnavailableError,
    503: e.OverloadedError, 504: e.ProviderUnavailableError, 505: e.ProviderUnavailableError, 520: e.ProviderUnavailableError,
    529: e.OverloadedError, 599: e.ProviderUnavailableError,
}  # fmt: skip


@pytest.mark.parametrize("status", BY_STATUS)
def test_status_decides_without_code(status):
    """An empty body still gives the right class, a message, and a word on whether a repeat may help."""
    error = fail(status)
    assert type(error) is BY_STATUS[status]
    assert error.status_code == status
    assert "empty body" in str(error)
    assert error.retryable is (status in {408, 425, 429, 498, 500, 502, 503, 504, *range(520, 525), 529})


@pytest.mark.parametrize(
    ("status", "body", "phrase"),
    [
        (400, {"error": {"message": "Invalid request", "type": INVALID, "code": "invalid_request"}}, "invalid request"),
        (
            401,
            {"error": {"message": "Invalid API key", "type": "auth_error", "code": "invalid_api_key"}},
            "unauthorized",
        ),
        (429, {"error": {"message": "Rate limit", "type": "rate_limit_error", "code": "rate_limit"}}, "rate limited"),
        (
            400,
            {"error": {"message": "Too long", "type": INVALID, "code": "context_length_exceeded"}},
            "context too long",
        ),
        (
            503,
            {"error": {"message": "Down", "type": "server_error", "code": "service_unavailable"}},
            "service unavailable",
        ),
        (529, {"error": {"message": "Busy", "type": "server_error", "code": "overloaded"}}, "groq overloaded"),
    ],
    ids=["400", "401", "429", "context", "503", "529"],
)
def test_phrases_of_the_design_document(status, body, phrase):
    """What HelixCode's tests look for, whatever the case of its letters."""
    assert phrase in str(fail(status, body)).lower()


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens.",
        "input exceeds the context window",
        "over the context limit",
        "max context reached",
        "maximum prompt length is 100",
        "Please reduce the length of your input",
        "prompt is too long: 5 tokens",
        "input too long",
    ],
)
def test_context_recognised_by_wording(message):
    """Servers that give no code give one of these texts."""
    assert type(fail(400, {"error": {"message": message}})) is e.ContextTooLongError
    assert type(fail(500, {"error": {"message": message}})) is e.ProviderUnavailableError


def test_missing_model_recognised_by_wording():
    """Without its code, too; other 404s are not models."""
    assert type(fail(404, {"error": {"message": "The model `X` does not exist"}})) is e.ModelNotFoundError
    assert type(fail(404, {"error": {"message": "No such file"}})) is e.NotFoundError


# --- bodies of any shape -------------------------------------------------------------------------------------------------

SHAPES = {
    "empty object": (b"{}", "invalid request: {}"),
    "array": (b"[]", "invalid request: []"),
    "text": (b'"nope"', 'invalid request: "nope"'),
    "null": (b"null", "invalid request: null"),
    "number": (b"5", "invalid request: 5"),
    "error null": (b'{"error":null}', 'invalid request: {"error":null}'),
    "error empty": (b'{"error":{}}', 'invalid request: {"error":{}}'),
    "error array": (b'{"error":["a"]}', 'invalid request: {"error":["a"]}'),
    "error text": (b'{"error":"no such thing"}', "invalid request: no such thing"),
    "message beside": (b'{"message":"no such thing"}', "invalid request: no such thing"),
    "message null": (b'{"error":{"message":null,"code":"x"}}', "invalid request (status 400)"),
    "message number": (b'{"error":{"message":5}}', "invalid request: 5"),
    "message object": (b'{"error":{"message":{"a":1},"code":"x"}}', "invalid request (status 400)"),
    "plain text": (b"error code: 1010\n\n  more", "invalid request: error code: 1010 more"),
    "invalid UTF-8": (b"\xff\xfe bad", "invalid request: \ufffd\ufffd bad"),
    "UTF-16": ('{"error":{"message":"ä"}}'.encode("utf-16"), "invalid request: ä"),
    "BOM": (b'\xef\xbb\xbf{"error":{"message":"a"}}', "invalid request: a"),
    "cut": (b'{"error":{"message":"a', 'invalid request: {"error":{"message":"a'),
    "deep": (b"[" * 60_000, "invalid request: " + "[" * 300),
    "FastAPI": (b'{"detail":"Not Found"}', "invalid request: Not Found"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_any_body_gives_its_words(case):
    """A body of any shape gives an error with its words; a form of another kind is shown by its beginning."""
    body, message = SHAPES[case]
    error = fail(400, body)
    assert type(error) is e.InvalidRequestError
    assert str(error) == message


@pytest.mark.parametrize(
    ("code", "expected"),
    [("40001", "40001"), (40001, "40001"), (4.5, "4.5"), (None, None), (True, None), ([1], None), ({}, None)],
    ids=repr,
)
def test_codes_of_any_type(code, expected):
    """Some servers send a number; anything that is neither text nor number is ignored."""
    assert fail(400, {"error": {"message": "a", "code": code}}).code == expected


def test_gateway_pages_named_by_title():
    """The message has the words of the page, not the page, and Cloudflare's id for its support."""
    page = (
        b"<!DOCTYPE html>\n<html><head><title class='a'>api.groq.com | 502: Bad gateway</title></head>"
        + b"<p>x</p>" * 9000
    )
    error = fail(502, page, {"Content-Type": "text/html; charset=klingon", "CF-Ray": "8a1b2c3d4e5f-FRA"})
    assert type(error) is e.ProviderUnavailableError
    assert str(error) == (
        "provider unavailable: groq service unavailable: an HTML page titled 'api.groq.com | 502: Bad gateway' instead of JSON: "
        "a gateway answered, not the service (cf-ray 8a1b2c3d4e5f-FRA)"
    )


@pytest.mark.parametrize(
    ("body", "headers", "shown"),
    [
        (b"<html>x</html>", {}, "an HTML page instead of JSON"),
        (b"blocked", {"Content-Type": "text/HTML"}, "an HTML page instead of JSON"),
        (b"", {"CF-Ray": "8a1b"}, "empty body (cf-ray 8a1b)"),
        (b"error code: 1010", {"CF-Ray": "x" * 500}, f"error code: 1010 (cf-ray {'x' * 40})"),
    ],
    ids=["no title", "by content type", "empty", "text"],
)
def test_gateway_answers_instead_of_json(body, headers, shown):
    """Every form of an answer that is not the service's."""
    assert shown in str(fail(403, body, headers))


@pytest.mark.parametrize(
    "body",
    [b"x" * 10_000_000, b'{"error":{"message":"' + b"x" * 10_000_000 + b'"}}', b"<title>" * 1_400_000],
    ids=["text", "JSON", "titles"],
)
def test_ten_megabytes_shorten_to_message(body):
    """The body is looked at up to its cap; the message stays short."""
    error = fail(500, body)
    assert type(error) is e.ProviderUnavailableError
    assert len(str(error)) < 700


def test_long_messages_are_cut():
    """Of an error text 500 characters are kept."""
    assert str(fail(400, {"error": {"message": "y" * 60_000}})) == "invalid request: " + "y" * 500
    assert MAX_ERROR_BODY == 4 << 20


# --- hints of the server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "value", "retryable"),
    [
        (400, "true", True),
        (400, " TRUE ", True),
        (503, "false", False),
        (429, "false", False),
        (408, "false", False),
        (400, "perhaps", False),
        (503, "", True),
        (503, None, True),
    ],
)
def test_server_may_decide_retry(status, value, retryable):
    """``x-should-retry`` overrides the default of the class; nonsense does not."""
    error = fail(status, b"", {} if value is None else {"X-Should-Retry": value})
    assert error.retryable is retryable


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 7.66s. Visit", 7.66),
        ("Please try again in 2m59.56s.", 179.56),
        ("Please try again in 120ms", 0.12),
        ("try again in 250µs, or later", 0.00025),
        ("try again in 1h3m0s.", 3780.0),
        ("try again in 99999999999999h.", MAX_HINT),
        ("try again in a while", None),
        ("try again in 5 minutes", 300.0),
        ("try again in 1.2.3s.", None),
        ("try again in " + "9" * 50 + "s.", None),
        ("try again later", None),
    ],
)
def test_the_wait_in_the_text(text, seconds):
    """Durations behind "try again in", with units as letters or words; anything else is no hint, and none is longer than any limit's period."""
    error = fail(429, {"error": {"message": text}})
    assert error.retry_after == (None if seconds is None else pytest.approx(seconds))
    assert error.retry_at == (None if seconds is None else NOW + timedelta(seconds=error.retry_after))


ADVERSARIAL = {
    "try again": "try again in " * 8000,
    "digits": "try again in " + "1" * 100_000,
    "durations": "try again in " + "1h" * 50_000,
    "limits": " on a (TPM): Limit 1, Used 1" * 3500,
    "words": " on " * 25_000,
    "one long word": " on " + "a" * 100_000,
    "context": "reduce the length" * 6000,
    "prompt": "input is" * 12_000,
    "spaces": " " * 100_000,
}


@pytest.mark.parametrize("case", ADVERSARIAL)
@pytest.mark.parametrize("status", [400, 429])
def test_hostile_texts_cost_little(case, status):
    """A hundred kilobytes made for a regular expression are read in no time, as an object and as a body."""
    text = ADVERSARIAL[case]
    started = time.process_time()
    error_from_object({"message": text}, status=status, now=NOW)
    fail(status, text.encode()[:MAX_ERROR_BODY])
    fail(status, {"error": {"message": text[:60_000]}})
    # Milliseconds in truth; a regular expression that goes back and forth would take minutes.
    assert time.process_time() - started < 1.0


# --- the key -------------------------------------------------------------------------------------------------------------

ECHOES = {
    "message": json.dumps({"error": {"message": f"bad key {KEY}!"}}).encode(),
    "every field": json.dumps(
        {"error": dict.fromkeys(("message", "code", "type", "param", "failed_generation"), f"a {KEY} b")}
    ).encode(),
    "escaped": b'{"error":{"message":"bad \\u0067sk_canary0123456789abcdef"}}',
    "text": f"who is {KEY}?".encode(),
    "at the cut": b"x" * 290 + KEY.encode() + b"y" * 300,
    "at the cut of a message": json.dumps({"error": {"message": "x" * 490 + KEY}}).encode(),
    "title": f"<html><title>{'x' * 190}{KEY}</title>".encode(),
}


@pytest.mark.parametrize("case", ECHOES)
def test_repeated_key_is_blanked(case):
    """A key that the server repeats is blanked in every field, wherever it is cut; a part of a key leaks, too."""
    error = fail(401, ECHOES[case], secret=KEY)
    shown = repr((str(error), error.args, vars(error)))
    assert "gsk_" not in shown
    assert "canary" not in shown
    assert "*" in shown or case == "title"


def test_without_key_nothing_blanked():
    """Servers without a key have none to hide."""
    assert (
        str(fail(400, b'{"error":"a"}', secret=None))
        == str(fail(400, b'{"error":"a"}', secret=""))
        == "invalid request: a"
    )


# --- events of a stream --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "cls", "status"),
    [
        ({"message": "m", "code": "tool_use_failed", "status_code": 400}, e.ToolUseFailedError, 400),
        ({"message": "m", "code": "tool_use_failed"}, e.ToolUseFailedError, None),
        ({"message": "m", "status_code": 503}, e.OverloadedError, 503),
        ({"message": "m", "status_code": 429}, e.RateLimitedError, 429),
        ({"message": "m", "code": "rate_limit_exceeded"}, e.RateLimitedError, None),
        ({"message": "m", "type": "internal_server_error"}, e.ProviderUnavailableError, None),
        ({"message": "m", "type": INVALID}, e.InvalidRequestError, None),
        ({"message": "m"}, e.APIStatusError, None),
        ({"message": "m", "status_code": True}, e.APIStatusError, None),
        ({"message": "m", "status_code": "400"}, e.InvalidRequestError, 400),
        ({"message": "m", "status_code": 200}, e.APIStatusError, None),
        ({"message": "m", "status_code": 10**30}, e.APIStatusError, None),
        ({}, e.APIStatusError, None),
    ],
    ids=str,
)
def test_stream_error_has_own_status(found, cls, status):
    """The event says which status it would have been; the class is the one it has without streaming."""
    error = error_from_object(found, status=None, now=NOW, request_id="req_1")
    assert (type(error), error.status_code, error.request_id) == (cls, status, "req_1")


def test_answer_status_wins_over_body():
    """Only an event of a stream needs a status of its own."""
    error = fail(401, {"error": {"message": "m", "status_code": 500}})
    assert (type(error), error.status_code) == (e.AuthenticationError, 401)


# --- anything at all -----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "param", "failed_generation", "status_code"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "date", "x-should-retry", "x-request-id", "cf-ray", "content-type"]
    ),
    st.text(max_size=30),
)


@given(
    st.integers() | st.sampled_from(sorted(BY_STATUS)),
    HEADERS,
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda t: t.encode("utf-8", "replace")),
)
def test_no_answer_breaks_anything(status, headers, body):
    """Any status with any headers and any bytes is an error of ours, with a message of reasonable size."""
    error = error_from_response(status, headers, body, now=NOW, secret=KEY)
    assert isinstance(error, e.APIStatusError)
    assert error.status_code == status
    assert 0 < len(str(error)) <= 700
    assert error.retry_after is None or 0 <= error.retry_after <= MAX_HINT


@given(st.dictionaries(st.sampled_from(["message", "code", "type", "param", "failed_generation", "status_code"]), JSON))
def test_no_event_breaks_anything(found):
    """Any error object inside a stream is an error of ours."""
    assert isinstance(error_from_object(found, status=None, now=NOW, secret=KEY), e.APIStatusError)
