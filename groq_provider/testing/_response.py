"""A response of the emulator, ready to be written to a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.testing._wire import Part, dumps
from groq_provider.testing.replies import Fault, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.testing._errors import RefusedError

__all__ = ["Response", "json_response", "refusal_response"]


@attrs.define(kw_only=True)
class Response:
    """Status, headers and body parts of one response, and when each part is due.

    Attributes:
        status: HTTP status.
        headers: Names and values, in the order they are sent.
        parts: The body, cut where a client may see a pause.
        is_stream: Whether the parts are the events of a stream.
        latency: Seconds from the request to the first part.
        seconds_per_token: Pace of the parts that follow.
        fault: How the writer must break the response; the default breaks nothing.
        gate: Called with an event's index before it is sent.
        settle: Returns the unused part of the charge to the limits; the emulator calls it once.
        reply: The scripted reply that made this response, if the route took one.
        error: The emulator's own failure that this 500 reports.
    """

    status: int
    headers: list[tuple[str, str]]
    parts: list[Part]
    is_stream: bool = False
    latency: float = 0.0
    seconds_per_token: float = 0.0
    fault: Fault = attrs.field(factory=Fault)
    gate: Callable[[int], object] | None = None
    settle: Callable[[], None] | None = None
    reply: Reply | None = None
    error: Exception | None = None

    def due(self, part: Part) -> float:
        """Return the seconds after the request at which *part* may be sent."""
        return self.latency + part.tokens * self.seconds_per_token


def json_response(value: Any) -> Response:
    """Return a 200 with *value* as its JSON body."""
    part = Part(dumps(value).encode(), 0)
    return Response(status=200, headers=[("content-type", "application/json")], parts=[part])


def refusal_response(error: RefusedError) -> Response:
    """Return *error* as a response."""
    headers = [("content-type", "application/json"), *error.headers]
    return Response(status=error.status, headers=headers, parts=[Part(dumps(error.body).encode(), 0)])
