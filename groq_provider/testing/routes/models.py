"""``GET /openai/v1/models`` and ``GET /openai/v1/models/{id}``."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from groq_provider.testing import _errors
from groq_provider.testing._response import Response, json_response

if TYPE_CHECKING:
    from groq_provider.testing.routes._route import RouteCall

__all__ = ["list_models", "retrieve_model"]


def list_models(call: RouteCall) -> Response:
    """Return all models."""
    models = call.state.settings.models.values()
    return json_response({"object": "list", "data": [model.to_json() for model in models]})


def retrieve_model(call: RouteCall) -> Response:
    """Return one model, or the service's 404."""
    id = unquote(call.parameters["id"])
    model = call.state.settings.models.get(id)
    if model is None:
        raise _errors.model_not_found(id)
    return json_response(model.to_json())
