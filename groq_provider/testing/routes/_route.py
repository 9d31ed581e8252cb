"""One endpoint as a value, and one request to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from groq_provider.testing import _errors, _wire
from groq_provider.testing._response import Response
from groq_provider.testing._state import ServiceState
from groq_provider.testing.replies import RecordedRequest, Reply

__all__ = ["Route", "RouteCall"]

_PARAMETER = re.compile(r"\{(\w+)\}")


@attrs.frozen
class RouteCall:
    """One request, authorized and on its way to a route.

    Attributes:
        request: The request as it arrived.
        request_id: Its id, which the response must repeat.
        parameters: Values of the path's ``{names}``, percent encoding kept.
        early_reply: A scripted reply without a completion: its fault, gate and headers change the route's response.
        state: The service's state.
    """

    request: RecordedRequest
    request_id: str
    parameters: Mapping[str, str]
    early_reply: Reply | None
    state: ServiceState

    def parse_json(self) -> Any:
        """Return the request's JSON body.

        Raises:
            RefusedError: There is none, or it is not JSON.
        """
        request = self.request
        if request.json is None:
            if not request.body.strip():
                raise _errors.invalid("request body is empty")
            try:
                _wire.loads(request.body)
            except ValueError as error:
                raise _errors.invalid(f"request body is not valid JSON: {error}") from error
        return request.json

    def take_completion(self) -> Reply | None:
        """Return the completion scripted for this request; call it after checks and limits.

        A scripted fault alone is a response of its own: it does not use up the completion scripted after it.
        """
        if self.early_reply is not None:
            return None
        return self.state.script.take(self.request, takes_completions=True, admitted=True)


@attrs.frozen
class Route:
    """One row of the table of endpoints.

    Attributes:
        method: HTTP method, in upper case.
        path: Path from its slash; ``{name}`` stands for one or more characters, slashes included.
        respond: Makes the response; raises :class:`RefusedError` for an error of the service.
        takes_completions: Whether replies scripted with content, tool calls or the like are for this endpoint.
    """

    method: str
    path: str
    respond: Callable[[RouteCall], Response]
    takes_completions: bool = attrs.field(default=False, kw_only=True)
    _pattern: re.Pattern[str] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        literals = _PARAMETER.split(self.path)  # literal, name, literal, name, ...
        literals[::2] = map(re.escape, literals[::2])
        literals[1::2] = [f"(?P<{name}>.+)" for name in literals[1::2]]
        object.__setattr__(self, "_pattern", re.compile("".join(literals), re.DOTALL))

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the values of the path's ``{names}``; ``None`` if the request is for another route."""
        if method != self.method:
            return None
        path_match = self._pattern.fullmatch(path)
        return None if path_match is None else path_match.groupdict()
