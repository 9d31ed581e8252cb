"""The emulated service: a request in, an answer out. No sockets here."""

from __future__ import annotations

import email.utils
import hashlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from groq_provider.testing import _answers, _errors, _validate, _wire
from groq_provider.testing._errors import RefusedError
from groq_provider.testing._limits import DIMENSIONS, ModelLimits
from groq_provider.testing._wire import Part
from groq_provider.testing.replies import Fault, RecordedRequest, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from groq_provider.testing._models import Model, Plan

_CHAT = "/openai/v1/chat/completions"
_MODELS = "/openai/v1/models"
_REFUSED_KEYS = ("", "invalid", "gsk_invalid")
_HTML = (
    b"<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head>"
    b"<body><center><h1>502 Bad Gateway</h1></center><hr><center>cloudflare</center></body></html>\n"
)
_CACHE_UNIT = 128
_CACHE_LEAST = 1024


class Clock(Protocol):
    """What the emulator wants to know of time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def now(self) -> datetime:
        """The time of day, aware."""


@dataclass(kw_only=True)
class Answer:
    """An answer ready to be written; `due` of a part is in seconds after the request."""

    status: int
    headers: list[tuple[str, str]]
    parts: list[Part]
    is_stream: bool = False
    latency: float = 0.0
    seconds_per_token: float = 0.0
    fault: Fault = field(default_factory=Fault)
    gate: Callable[[int], object] | None = None
    settle: Callable[[], None] | None = None
    error: Exception | None = None  # why no other answer could be made

    def due(self, part: Part) -> float:
        """When *part* may be sent."""
        return self.latency + part.tokens * self.seconds_per_token


class CallbackError(Exception):
    """A callback of the test has failed; its own error is the cause."""


class Script:
    """The scripted replies, first in first out; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the queue and the counts in it
        self._queue: deque[list[Any]] = deque()  # [reply, times left or None]

    def add(self, reply: Reply) -> None:
        """Put *reply* at the end."""
        with self._lock:
            self._queue.append([reply, reply.times])

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._queue.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._queue)

    def take(self, request: RecordedRequest, *, admitted: bool) -> Reply | None:
        """The first reply that fits *request*.

        Args:
            request: Shown to the `match` of the replies, which must not use the emulator.
            admitted: False on arrival, when completions wait for the checks; true after them, when only they are left.
        """
        is_chat = request.method == "POST" and request.path == _CHAT
        with self._lock:
            for entry in self._queue:
                reply, left = entry
                if (reply.is_chat and not is_chat) or not _matches(reply, request):
                    continue
                if reply.is_chat != admitted:
                    if admitted:
                        continue
                    return None
                if left is not None:
                    entry[1] = left - 1
                    if left <= 1:
                        self._queue.remove(entry)
                return reply  # type: ignore[no-any-return]  # the entry is a list of two types
        return None


def _matches(reply: Reply, request: RecordedRequest) -> bool:
    try:
        return reply.match is None or reply.match(request)
    except Exception as error:
        raise CallbackError from error


@dataclass(kw_only=True)
class Settings:
    """What an emulator was told at construction."""

    models: dict[str, Model]
    plan: Plan | None
    limits: Mapping[str, Any] | None
    api_keys: Collection[str] | None
    speed: float
    latency: float | None
    assumed_completion_tokens: int
    validate: bool
    secure: bool
    clock: Clock


@dataclass(frozen=True)
class _Admission:
    """What the limits have let through, and were charged for it."""

    limits: ModelLimits
    clock: Clock
    prompt_tokens: int
    charged: int
    headers: Collection[tuple[str, str]]

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was charged above this."""
        back = self.prompt_tokens - prompt_tokens
        self.limits.settle(self.clock.monotonic(), back, self.charged - completion_tokens)


class Service:
    """Routing, checks, limits and completions; safe to use from many threads."""

    def __init__(self, settings: Settings, script: Script) -> None:
        self._settings = settings
        self._script = script
        self._lock = threading.Lock()  # guards the three below
        self._limits: dict[tuple[str, str], ModelLimits] = {}
        self._cache: dict[tuple[str, bytes], int] = {}
        self.blocked: dict[str, str] = {}
        speed = settings.speed
        self._fast = speed <= 0 or speed == float("inf")
        cookie = "__cf_bm=emulator-0123456789; path=/; HttpOnly; SameSite=None"
        self._common = [
            ("cache-control", "private, max-age=0, no-store, no-cache, must-revalidate"),
            ("vary", "Origin"),
            ("strict-transport-security", "max-age=15552000"),
            ("server", "cloudflare"),
            ("x-groq-region", "emu"),
            ("set-cookie", cookie + ("; Secure" if settings.secure else "")),
        ]

    def reset(self) -> None:
        """Fill all buckets again and forget cached prompts."""
        with self._lock:
            self._limits.clear()
            self._cache.clear()

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        """Whether the request's key is accepted."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer":
            return False
        accepted = self._settings.api_keys
        return key not in _REFUSED_KEYS if accepted is None else key in accepted

    def answer(self, request: RecordedRequest) -> Answer:
        """What *request* gets. Errors are answers too, also those of the emulator itself.

        Raises:
            CallbackError: A callback of the test has failed.
        """
        request_id = _wire.new_request_id()
        reply = self._script.take(request, admitted=False)
        try:
            if reply is not None and reply.is_raw:
                answer = self._raw(reply, request)
            else:
                answer, later = self._route(request, request_id, reply)
                reply = later or reply
        except CallbackError:
            raise
        except RefusedError as error:
            answer = _refusal(error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer, and the test the error
            answer = _refusal(_errors.cannot_answer(error))
            answer.error = error
        date = email.utils.formatdate(self._settings.clock.now().timestamp(), usegmt=True)
        answer.headers = [("date", date), *answer.headers, ("x-request-id", request_id), *self._common]
        return answer if reply is None else _scripted_transport(answer, reply)

    def _raw(self, reply: Reply, request: RecordedRequest) -> Answer:
        status = reply.status or 200
        body = reply.body
        kind = "application/json"
        if body is None:
            model = request.json.get("model") if isinstance(request.json, dict) else None
            body = _error_body(status, str(model))
        if isinstance(body, str):
            kind, body = "text/plain; charset=utf-8", body.encode("utf-8", "backslashreplace")
        elif not isinstance(body, bytes):
            body = _wire.dumps(body).encode()
        headers = [("content-type", kind)] if body else []
        if status == 429:
            headers.append(("retry-after", "1"))
        return Answer(status=status, headers=headers, parts=[Part(body, 0)] if body else [])

    def _route(self, request: RecordedRequest, request_id: str, reply: Reply | None) -> tuple[Answer, Reply | None]:
        path = request.path
        known = {_CHAT: "POST", _MODELS: "GET"}.get(path)
        if known is None and path.startswith(_MODELS + "/") and len(path) > len(_MODELS) + 1:
            known = "GET"
        if known != request.method:
            raise _errors.unknown_url(request.method, path)
        if not request.authorized:
            raise _errors.bad_key()
        if path == _CHAT:
            return self._chat(request, request_id, reply)
        if path == _MODELS:
            body: dict[str, Any] = {"object": "list", "data": [m.to_json() for m in self._settings.models.values()]}
        else:
            id = unquote(path[len(_MODELS) + 1 :])
            if id not in self._settings.models:
                raise _errors.model_not_found(id)
            body = self._settings.models[id].to_json()
        part = Part(_wire.dumps(body).encode(), 0)
        return Answer(status=200, headers=[("content-type", "application/json")], parts=[part]), None

    def _model(self, id: str) -> Model:
        level = self.blocked.get(id)
        if level is not None:
            raise _errors.model_blocked(id, level)
        model = self._settings.models.get(id)
        if model is not None:
            return model
        from groq_provider.testing._models import RETIRED

        raise _errors.model_decommissioned(id) if id in RETIRED else _errors.model_not_found(id)

    def _chat(self, request: RecordedRequest, request_id: str, early: Reply | None) -> tuple[Answer, Reply | None]:
        body = _parse(request)
        if self._settings.validate:
            _validate.check_shape(body)
        model = self._model(body["model"])
        prompt_tokens = _answers.count_prompt(body)
        if self._settings.validate:
            _validate.check_model(body, model, prompt_tokens)
        tier = "flex" if body.get("service_tier") == "flex" else "on_demand"
        limits = self._limits_of(model, tier)
        clock = self._settings.clock
        charged = _answers.budget_of(body)
        if charged is None:
            charged = limits.fits(prompt_tokens, self._settings.assumed_completion_tokens)
        refusal = limits.admit(clock.monotonic(), prompt_tokens, charged)
        shown = limits.headers(clock.monotonic())
        if refusal is not None:
            error = _errors.over_limit(refusal, model.id, tier)
            error.headers = (*error.headers, *shown)
            raise error
        # A fault alone is an answer of its own: it does not use up the completion scripted after it.
        reply = self._script.take(request, admitted=True) if early is None else None
        fault = (reply or early or Reply()).merged_fault()
        admission = _Admission(limits, clock, prompt_tokens, charged, shown)
        try:
            return self._complete(body, model, admission, reply=reply, fault=fault, request_id=request_id), reply
        except Exception:
            admission.settle(0, 0)
            raise

    def _complete(
        self, body: Any, model: Model, admission: _Admission, *, reply: Reply | None, fault: Fault, request_id: str
    ) -> Answer:
        """The answer to a request that the limits have admitted."""
        prompt_tokens = admission.prompt_tokens
        digest = _answers.digest_of(body)
        completion = _answers.scripted(reply, model, digest) if reply else _answers.made_up(body, model, digest)
        cached = self._cached(body, model, prompt_tokens)
        nominal = 1 / model.tokens_per_second
        pace = nominal if self._fast else nominal / self._settings.speed
        usage = _wire.usage_json(
            completion, prompt_tokens=prompt_tokens, cached=cached, seconds_per_token=pace, digest=digest
        )
        made = {"prompt_tokens": prompt_tokens, "completion_tokens": completion.completion_tokens}
        # A scripted usage may say anything; the limits go by what is a count.
        spent = made | {key: value for key, value in (usage or {}).items() if key in made and type(value) is int}

        def settle() -> None:
            admission.settle(spent["prompt_tokens"] - cached, spent["completion_tokens"])

        envelope = _wire.Envelope(
            request_id=request_id,
            created=int(self._settings.clock.now().timestamp()),
            model=model.id,
            seed=body["seed"] if body.get("seed") is not None else int.from_bytes(digest[:4], "big") >> 1,
            service_tier=body["service_tier"] if body.get("service_tier") in {"flex", "performance"} else "on_demand",
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )
        is_stream = bool(body.get("stream"))
        if fault.payload in {"sse", "json"}:
            is_stream = fault.payload == "sse"
        if is_stream:
            parts = _wire.dress(_wire.events(envelope, completion, usage, fault), fault)
        else:
            parts = [_wire.plain(envelope, completion, usage, fault)]
        latency = self._settings.latency
        if latency is None:
            latency = 0.0 if self._fast else model.latency / self._settings.speed
        kind = "text/event-stream" if is_stream else "application/json"
        return Answer(
            status=200,
            headers=[("content-type", kind), *admission.headers],
            parts=parts,
            is_stream=is_stream,
            latency=latency,
            seconds_per_token=0.0 if self._fast else pace,
            settle=settle,
        )

    def _limits_of(self, model: Model, tier: str) -> ModelLimits:
        with self._lock:
            found = self._limits.get((model.id, tier))
            if found is None:
                limits = model.limits(self._settings.plan)
                given = self._settings.limits or {}
                limits.update({name: value for name, value in given.items() if name in DIMENSIONS})
                limits.update(given.get(model.id) or {})
                if tier == "flex":
                    limits = {name: 10 * value for name, value in limits.items()}
                found = self._limits[model.id, tier] = ModelLimits(limits, self._settings.clock.monotonic())
            return found

    def _cached(self, body: Mapping[str, Any], model: Model, prompt_tokens: int) -> int:
        """Tokens of the prompt's beginning that an earlier request has left in the cache."""
        if not model.caching or prompt_tokens < _CACHE_LEAST:
            return 0
        hashed = hashlib.sha256(json.dumps([body.get("tools"), body.get("response_format")]).encode())
        found = 0
        tokens = 0
        with self._lock:
            for message in body["messages"]:
                hashed.update(json.dumps(message, sort_keys=True).encode())
                tokens += _answers.count_prompt({"messages": [message]})
                key = (model.id, hashed.digest())
                if tokens >= _CACHE_LEAST:
                    found = max(found, self._cache.get(key, 0))
                    self._cache[key] = tokens // _CACHE_UNIT * _CACHE_UNIT
        return found


def _refusal(error: RefusedError) -> Answer:
    headers = [("content-type", "application/json"), *error.headers]
    return Answer(status=error.status, headers=headers, parts=[Part(_wire.dumps(error.body).encode(), 0)])


def _parse(request: RecordedRequest) -> Any:
    if request.json is None:
        if not request.body.strip():
            raise _errors.invalid("request body is empty")
        try:
            _wire.loads(request.body)
        except ValueError as error:
            raise _errors.invalid(f"request body is not valid JSON: {error}") from error
    return request.json


def _error_body(status: int, model: str) -> Any:
    """The usual body of an error status."""
    if status == 204 or status < 200:
        return b""
    if status < 400:
        return {}
    if status == 401:
        return _errors.bad_key().body
    message, kind = f"Emulated status {status}", "invalid_request_error"
    more: dict[str, str] = {}
    if status == 429:
        message = f"Rate limit reached for model `{model}` in organization `{_errors.ORGANIZATION}` service tier "
        message += "`on_demand` on requests per minute (RPM): Limit 30, Used 30, Requested 1. Please try again in 1s."
        kind, more = "requests", {"code": "rate_limit_exceeded"}
    elif status == 498:
        message, more = "Flex tier capacity exceeded. Please try again later.", {"code": "capacity_exceeded"}
    elif status == 503:
        message = f"{model} is currently over capacity. Please try again and back off exponentially. Visit "
        message += "https://groqstatus.com to see if there is an active incident."
        kind = "internal_server_error"
    elif status >= 500:
        message, kind = "Internal Server Error", "internal_server_error"
    return {"error": {"message": message, "type": kind, **more}}


def _scripted_transport(answer: Answer, reply: Reply) -> Answer:
    """*answer* with the reply's fault, gate, delay and headers."""
    fault = reply.merged_fault()
    answer.fault = fault
    answer.gate = reply.gate
    answer.latency += reply.delay + fault.delay
    changes = {**fault.headers, **reply.headers}
    if fault.payload == "html":
        answer.status = 502 if answer.status == 200 else answer.status
        answer.is_stream = False
        answer.parts = [Part(_HTML, 0)]
        changes = {"content-type": "text/html; charset=UTF-8", **changes}
    elif fault.payload == "false-gzip":
        changes = {"content-encoding": "gzip", **changes}
    elif fault.payload == "half-json":
        whole = b"".join(part.data for part in answer.parts)
        answer.parts = [Part(whole[: len(whole) // 2], answer.parts[-1].tokens if answer.parts else 0)]
    names = {name.lower() for name in changes}
    answer.headers = [pair for pair in answer.headers if pair[0] not in names] + list(changes.items())
    return answer
