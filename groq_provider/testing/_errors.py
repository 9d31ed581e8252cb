"""The error bodies of the service, literally (groq-api.md 4.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from groq_provider.testing._limits import DIMENSIONS, Refusal, go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

ORGANIZATION = "org_01emulator0000000000000000"
_UPGRADE = "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"


class RefusedError(Exception):
    """An answer other than 200, as a value that can be raised."""

    def __init__(self, status: int, error: Mapping[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(status, error)
        self.status = status
        self.body: dict[str, Any] = {"error": dict(error)}
        self.headers = headers


def invalid(message: str, **more: Any) -> RefusedError:
    """A 400 of type `invalid_request_error`."""
    return RefusedError(400, {"message": message, "type": "invalid_request_error", **more})


def unsupported_with_model(feature: str) -> RefusedError:
    """A 400 for a feature the model does not have."""
    return invalid(f"`{feature}` is not supported with this model", param=feature)


def bad_key() -> RefusedError:
    """The 401 for a missing and for a wrong key alike."""
    return RefusedError(401, {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"})


def unknown_url(method: str, path: str) -> RefusedError:
    """The 404 for a path, or a method on a path, that does not exist."""
    message = (
        f"Unknown request URL: {method} {path}. Please check the URL for typos, "
        "or see the docs at https://console.groq.com/docs/"
    )
    return RefusedError(404, {"message": message, "type": "invalid_request_error", "code": "unknown_url"})


def model_not_found(model: str) -> RefusedError:
    """The 404 for an id nobody has heard of."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return RefusedError(404, {"message": message, "type": "invalid_request_error", "code": "model_not_found"})


def model_decommissioned(model: str) -> RefusedError:
    """The 400 for a retired id."""
    return invalid(
        f"The model `{model}` has been decommissioned and is no longer supported. Please refer to "
        "https://console.groq.com/docs/deprecations for a recommendation on which model to use instead.",
        code="model_decommissioned",
    )


def model_blocked(model: str, level: str) -> RefusedError:
    """The 403 for a model that the organisation (`org`) or the project (`project`) has switched off."""
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
    """The 400 for JSON that did not get finished."""
    return invalid(
        "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for more details.",
        code="json_validate_failed",
        failed_generation=generation,
    )


def cannot_answer(error: Exception) -> RefusedError:
    """The 500 of the emulator itself, with the name of what happened; the rest is in `Emulator.errors`."""
    message = f"The emulator cannot make an answer: {type(error).__name__}"
    error_body = {"message": message, "type": "internal_server_error"}
    return RefusedError(500, error_body, (("x-should-retry", "false"),))  # it would be the same again


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
    """The 429 for a limit reached, or the 413 (for output tokens again 429) for what can never fit."""
    words, _, kind = DIMENSIONS[refusal.dimension]
    where = f"for model `{model}` in organization `{ORGANIZATION}` service tier `{tier}` on {words}"
    limit = f"({refusal.dimension.upper()}): Limit {refusal.limit}"
    error = {"message": "", "type": kind, "code": "rate_limit_exceeded"}
    if refusal.wait is None:
        error["message"] = f"Request too large {where} {limit}, Requested {refusal.requested}"
        if refusal.dimension == "otpm":
            error["message"] += (
                ". The request's expected output tokens exceed the enforced limit; reduce max_tokens "
                "(or the request's expected output) and try again."
            )
            return RefusedError(429, error)  # as seen: no retry-after
        error["message"] += f", please reduce your message size and try again. {_UPGRADE}"
        return RefusedError(413, error)
    # To the millisecond first: header and text must agree, and float noise must not add a second.
    wait = max(math.ceil(round(refusal.wait * 1000, 3)), 1) / 1000
    error["message"] = (
        f"Rate limit reached {where} {limit}, Used {refusal.used}, Requested {refusal.requested}. "
        f"Please try again in {go_duration(wait)}. {_UPGRADE}"
    )
    return RefusedError(429, error, (("retry-after", str(math.ceil(wait))),))
