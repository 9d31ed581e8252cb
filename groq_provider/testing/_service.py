"""The emulated service: a request in, a response out. No sockets here."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING

from groq_provider.testing import _errors, _wire
from groq_provider.testing._errors import RefusedError
from groq_provider.testing._response import Response, refusal_response
from groq_provider.testing._script import CallbackError
from groq_provider.testing._wire import Part
from groq_provider.testing.routes import Route, RouteCall, find_route

if TYPE_CHECKING:
    from groq_provider.testing._state import ServiceState
    from groq_provider.testing.replies import RecordedRequest, Reply

__all__ = ["Service"]

_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>"
    b"<body><center><h1>502 Bad Gateway</h1></center><hr><center>cloudflare</center></body></html>\n"
)


class Service:
    """Finds the route of a request, and adds the headers that all responses share; safe to use from many threads."""

    def __init__(self, state: ServiceState) -> None:
        self._state = state
        cookie = "__cf_bm=emulator-0123456789; path=/; HttpOnly; SameSite=None"
        self._common_headers = [
            ("cache-control", "private, max-age=0, no-store, no-cache, must-revalidate"),
            ("vary", "Origin"),
            ("strict-transport-security", "max-age=15552000"),
            ("server", "cloudflare"),
            ("x-groq-region", "emu"),
            ("set-cookie", cookie + ("; Secure" if state.settings.secure else "")),
        ]

    def respond(self, request: RecordedRequest) -> Response:
        """Return the response to *request*. Errors are responses too, those of the emulator itself included.

        Raises:
            CallbackError: A callback of the test failed.
        """
        request_id = _wire.new_request_id()
        route, parameters = find_route(request.method, request.path)
        takes_completions = route is not None and route.takes_completions
        reply = self._state.script.take(request, takes_completions=takes_completions, admitted=False)
        try:
            if reply is not None and reply.is_raw:
                response = _raw_response(reply, request)
            else:
                call = RouteCall(request, request_id, parameters, reply, self._state)
                response = _routed_response(route, call)
                reply = response.reply or reply
        except CallbackError:
            raise
        except RefusedError as error:
            response = refusal_response(error)
        except Exception as error:  # noqa: BLE001 - the client must get a response, and the test must see the error
            response = refusal_response(_errors.cannot_answer(error))
            response.error = error
        date = email.utils.formatdate(self._state.settings.clock.now().timestamp(), usegmt=True)
        response.headers = [("date", date), *response.headers, ("x-request-id", request_id), *self._common_headers]
        if reply is not None:
            _apply_reply(reply, response)
        return response


def _routed_response(route: Route | None, call: RouteCall) -> Response:
    if route is None:
        raise _errors.unknown_url(call.request.method, call.request.path)
    if not call.request.authorized:
        raise _errors.bad_key()
    return route.respond(call)


def _raw_response(reply: Reply, request: RecordedRequest) -> Response:
    """Return the status and body that *reply* scripts, whatever the request asks for."""
    status = reply.status or 200
    body = reply.body
    content_type = "application/json"
    if body is None:
        model = request.json.get("model") if isinstance(request.json, dict) else None
        body = _errors.usual_body(status, str(model))
    if isinstance(body, str):
        content_type, body = "text/plain; charset=utf-8", body.encode("utf-8", "backslashreplace")
    elif not isinstance(body, bytes):
        body = _wire.dumps(body).encode()
    headers = [("content-type", content_type)] if body else []
    if status == 429:
        headers.append(("retry-after", "1"))
    return Response(status=status, headers=headers, parts=[Part(body, 0)] if body else [])


def _apply_reply(reply: Reply, response: Response) -> None:
    """Put the fault, gate, delay and headers of *reply* on *response*."""
    fault = reply.merged_fault()
    response.fault = fault
    response.gate = reply.gate
    response.latency += reply.delay + fault.delay
    changes = {**fault.headers, **reply.headers}
    if fault.payload == "html":
        response.status = 502 if response.status == 200 else response.status
        response.is_stream = False
        response.parts = [Part(_HTML, 0)]
        changes = {"content-type": "text/html; charset=UTF-8", **changes}
    elif fault.payload == "false-gzip":
        changes = {"content-encoding": "gzip", **changes}
    elif fault.payload == "half-json":
        body = b"".join(part.data for part in response.parts)
        response.parts = [Part(body[: len(body) // 2], response.parts[-1].tokens if response.parts else 0)]
    names = {name.lower() for name in changes}
    response.headers = [pair for pair in response.headers if pair[0] not in names] + list(changes.items())
