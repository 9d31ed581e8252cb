"""The error bodies of the service, literally as it sent them in October 2026."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from groq_provider.testing._limits import DIMENSIONS, Refusal, go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "REFUSED_KEYS",
    "TOOL_USE_FAILED",
    "RefusedError",
    "bad_key",
    "cannot_answer",
    "invalid",
    "json_failed",
    "model_blocked",
    "model_decommissioned",
    "model_not_found",
    "over_limit",
    "unknown_url",
    "unsupported_with_model",
    "usual_body",
]

REFUSED_KEYS = ("", "invalid", "gsk_invalid")
_ORGANIZATION = "org_01emulator0000000000000000"
_UPGRADE = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"


class RefusedError(Exception):
    """A response with an error status; a route raises it."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, error)
        self.status = status
        self.body: dict[str, Any] = {"error": dict(error)}
        self.headers = headers


def invalid(message: str, **more: Any) -> RefusedError:
    """Return a 400 of type ``invalid_request_error``."""
    return RefusedError(400, {"message": message, "type": "invalid_request_error", **more})


def unsupported_with_model(feature: str) -> RefusedError:
    """Return the 400 for a feature that the model does not have."""
    return invalid(f"`{feature}` is not supported with this model", param=feature)


def bad_key() -> RefusedError:
    """Return the 401; the service sends the same one for a missing and for a wrong key."""
    return RefusedError(401, {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"})


def unknown_url(method: str, path: str) -> RefusedError:
    """Return the 404 for a path that does not exist, or not with this method."""
    message = (
        f"Unknown request URL: {method} {path}. Please check the URL for typos, "
        "or see the docs at https://console.groq.com/docs/"
    )
    return RefusedError(404, {"message": message, "type": "invalid_request_error", "code": "unknown_url"})


def model_not_found(model: str) -> RefusedError:
    """Return the 404 for an unknown model id."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return RefusedError(404, {"message": message, "type": "invalid_request_error", "code": "model_not_found"})


def model_decommissioned(model: str) -> RefusedError:
    """Return the 400 for a retired model id."""
    return invalid(
        f"The model `{model}` has been decommissioned and is no longer supported. Please refer to "
        "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead.",
        code="model_decommissioned",
    )


def model_blocked(model: str, level: str) -> RefusedError:
    """Return the 403 for a model that the organisation (*level* ``org``) or the project (``project``) has switched off."""
    if level == "org":
        message = (
            f"The model `{model}` is blocked at the organization level. Please have the org admin enable this model "
            "in the org settings at https://console.groq.com/settings/limits"
        )
    else:
        message = (
            f"The model `{model}` is blocked at the project level. Please have a project admin enable this model "
            "in the project settings at https://console.groq.com/settings/project/limits"
        )
    code = f"model_permission_blocked_{level}"
    return RefusedError(403, {"message": message, "type": "permissions_error", "code": code})


def json_failed(generation: str) -> RefusedError:
    """Return the 400 for JSON that was cut off by the token limit."""
    return invalid(
        "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.",
        code="json_validate_failed",
        failed_generation=generation,
    )


def cannot_answer(error: Exception) -> RefusedError:
    """Return the 500 for a failure of the emulator itself; it names the class of *error*, which ``Emulator.errors`` keeps whole."""
    message = f"The emulator cannot make an answer: {type(error).__name__}"
    error_body = {"message": message, "type": "internal_server_error"}
    return RefusedError(500, error_body, (("x-should-retry", "false"),))  # a retry would fail the same way


TOOL_USE_FAILED: dict[str, Any] = {
    "error": {
        "message": "Tool call validation failed: tool call validation failed: parameters for tool get_item did not "
        "match schema: errors: [missing properties: 'name', additionalProperties 'foo' not allowed]",
        "type": "invalid_request_error",
        "code": "tool_use_failed",
        "failed_generation": '{"name": "get_item", "arguments": {\n  "foo": "x"\n}}',
        "status_code": 400,
    }
}


def over_limit(refusal: Refusal, model: str, tier: str) -> RefusedError:
    """Return the 429 for a limit reached, or the error for a request that can never fit: 413, but 429 for output tokens."""
    limit_name, _, error_type = DIMENSIONS[refusal.dimension]
    where = f"for model `{model}` in organization `{_ORGANIZATION}` service tier `{tier}` on {limit_name}"
    limit = f"({refusal.dimension.upper()}): Limit {refusal.limit}"
    error = {"message": "", "type": error_type, "code": "rate_limit_exceeded"}
    if refusal.wait is None:
        error["message"] = f"Request too large {where} {limit}, Requested {refusal.requested}"
        if refusal.dimension == "otpm":
            error["message"] += (
                ". The request's expected output tokens exceed the enforced limit; reduce max_tokens "
                "(or the request's expected output) and try again."
            )
            return RefusedError(429, error)  # the service sends no retry-after here
        error["message"] += f", please reduce your message size and try again. {_UPGRADE}"
        return RefusedError(413, error)
    # Round to the millisecond first: header and text must agree, and float noise must not add a second.
    wait = max(math.ceil(round(refusal.wait * 1000, 3)), 1) / 1000
    error["message"] = (
        f"Rate limit reached {where} {limit}, Used {refusal.used}, Requested {refusal.requested}. "
        f"Please try again in {go_duration(wait)}. {_UPGRADE}"
    )
    return RefusedError(429, error, (("retry-after", str(math.ceil(wait))),))


def usual_body(status: int, model: str) -> Any:
    """Return the body that a response with *status* usually has; bytes or a value to send as JSON."""
    if status == 204 or status < 200:
        return b""
    if status < 400:
        return {}
    if status == 401:
        return bad_key().body
    message, error_type = f"Emulated status {status}", "invalid_request_error"
    code: dict[str, str] = {}
    if status == 429:
        message = f"Rate limit reached for model `{model}` in organization `{_ORGANIZATION}` service tier "
        message += "`on_demand` on requests per minute (RPM): Limit 30, Used 30, Requested 1. Please try again in 1s."
        error_type, code = "requests", {"code": "rate_limit_exceeded"}
    elif status == 498:
        message, code = "Flex tier capacity exceeded. Please try again later.", {"code": "capacity_exceeded"}
    elif status == 503:
        message = f"{model} is currently over capacity. Please try again and back off exponentially. Visit "
        message += "https://groqstatus.com to see if there is an active incident."
        error_type = "internal_server_error"
    elif status >= 500:
        message, error_type = "Internal Server Error", "internal_server_error"
    return {"error": {"message": message, "type": error_type, **code}}
