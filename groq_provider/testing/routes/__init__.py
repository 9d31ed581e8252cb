"""The endpoints of the emulated service: one module for each, and one table of all.

To add an endpoint, write ``routes/<name>.py`` with a function that takes a :class:`RouteCall` and returns a :class:`Response`,
then add its row to :data:`ROUTES`. The service has checked the key before it calls the function, and adds the request id, the
date and the usual headers afterwards. For an error of the service raise a :class:`RefusedError`, made
by a function of ``_errors``.

- ``_route``: :class:`Route`, a row of the table, and :class:`RouteCall`, one request to it
- ``chat_completions``: ``POST /openai/v1/chat/completions``, plain and streamed
- ``models``: ``GET /openai/v1/models`` and ``GET /openai/v1/models/{id}``

A route may use the service's state (``call.state``: models, limits, cache) and the modules that make content (``_completions``,
``_schema``, ``_stock``) and bytes (``_wire``). It must not touch a socket: faults and pauses are the writer's work.
"""

from __future__ import annotations

from groq_provider.testing.routes import chat_completions, models
from groq_provider.testing.routes._route import Route, RouteCall

__all__ = ["ROUTES", "Route", "RouteCall", "find_route"]

#: The first matching row is used: put a longer path before a shorter one that ends in a ``{name}``.
ROUTES: tuple[Route, ...] = (
    Route("POST", "/openai/v1/chat/completions", chat_completions.respond, takes_completions=True),
    Route("GET", "/openai/v1/models", models.list_models),
    Route("GET", "/openai/v1/models/{id}", models.retrieve_model),
)


def find_route(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the route for a request and the values of its path's ``{names}``; ``None`` if there is no such endpoint."""
    for route in ROUTES:
        parameters = route.match(method, path)
        if parameters is not None:
            return route, parameters
    return None, {}
