"""The provider: builds its parts from a configuration, and delegates to them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

import attrs

from groq_provider import _validate as checks
from groq_provider.call.boundary import public
from groq_provider.call.caller import Caller
from groq_provider.call.runtime import CallOptions
from groq_provider.clock import Clock, SystemClock
from groq_provider.completions import Completions, check_cancel, timeouts_of
from groq_provider.config import ProviderConfig, Timeouts
from groq_provider.config.defaults import DEFAULT_MODEL, ProviderType
from groq_provider.config.urls import CHAT_PATH
from groq_provider.errors import (
    ConfigurationError,
    IncompleteResponseError,
    InvalidRequestError,
    ProviderClosedError,
    ProviderDisabledError,
    without_frames,
)
from groq_provider.health import HealthMonitor
from groq_provider.latency import LatencyTracker, NullLatencyTracker
from groq_provider.ratelimit.estimate import estimate_prompt_tokens
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
from groq_provider.resources.models import Models
from groq_provider.transport.session import SecretHeader, SessionTransport
from groq_provider.types.request import LLMRequest, check_extra

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import requests
    from typing_extensions import Self, Unpack

    from groq_provider.call.breaker import CircuitBreaker
    from groq_provider.call.raw import RawResponse
    from groq_provider.call.stream import ResponseStream
    from groq_provider.cancel import CancelToken
    from groq_provider.config import ProviderSettings
    from groq_provider.protocols import LatencyRecorder, RateLimiter, RequestBody
    from groq_provider.types.allowed import Allowed
    from groq_provider.types.messages import Message
    from groq_provider.types.model_info import ModelCapability, ModelInfo
    from groq_provider.types.response import LLMResponse
    from groq_provider.types.status import LatencyMetrics, MeasuredProfile, ProviderHealth, RateLimitStatus
    from groq_provider.wire.upload import File

    Prompt = str | Message | Sequence[Message | Mapping[str, Any]] | LLMRequest
    Timeout = float | str | Timeouts | None

__all__ = ["GroqProvider"]

_log = logging.getLogger(__name__)


class GroqProvider(Completions["ResponseStream"]):
    """A client of Groq Cloud.

    You should make one provider per process and share it: it keeps connections, limits and figures. Construction reads the configuration
    and the environment, and sends nothing. Use it as a context manager, or call :meth:`close` when you no longer need it.

    Thread safety: any number of threads may share one provider. A stream belongs to the thread that reads it.

    Args:
        config: :class:`~groq_provider.ProviderConfig`, a mapping, the path of a YAML, TOML or JSON file, or ``None``: the
            environment (``GROQ_API_KEY``, ``GROQ_BASE_URL``, ``GROQ_HOST``).
        session: A ``requests.Session`` of yours. The provider reads its headers, proxies, verify and cert once, here; it mounts nothing on
            the session and sends nothing through it. Its adapters, hooks, auth, params and cookies have no effect.
        rate_limiter: The rate limiter. You can pass one limiter to several providers, which then share its limits.
        latency_tracker: The recorder of times. You can share it in the same way.
        tokenizer: A function that counts the tokens of a text; ``None`` estimates them by size, corrected by the counts of earlier answers.
        clock: The source of time; you can replace it in tests.
        settings: Fields of the configuration, which override those of *config*.

    Raises:
        ConfigurationError: A setting is wrong, or there is no API key. The message names the setting and tells you what to do.

    Example:
        >>> provider = GroqProvider(api_key="gsk_example")
        >>> provider
        <GroqProvider https://api.groq.com/openai/v1 open, 0 calls under way>
        >>> provider.close()

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        config: ProviderConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        session: requests.Session | None = None,
        rate_limiter: RateLimiter | None = None,
        latency_tracker: LatencyRecorder | None = None,
        tokenizer: Callable[[str], int] | None = None,
        clock: Clock | None = None,
        **settings: Unpack[ProviderSettings],
    ) -> None:
        try:
            self._config = ProviderConfig.load(config, **settings)
        except ConfigurationError as error:
            raise without_frames(error)  # noqa: B904 - the same one; the frames below show what was given
        finally:
            del config, settings  # a traceback that shows local variables must not show the key
        given = {
            "session": session,
            "rate_limiter": rate_limiter,
            "latency_tracker": latency_tracker,
            "tokenizer": tokenizer,
            "clock": clock,
        }
        self._make_parts({name: part for name, part in given.items() if part is not None})
        self._warn_of_retired()
        if self._config.prewarm and self._config.enabled:
            self.warm_up(self._config.prewarm)

    def _warn_of_retired(self) -> None:
        """Warn of models of the configuration that were shut down, and name the models to use instead."""
        config = self._config
        names = dict.fromkeys((*config.models, config.default_model))
        names.pop(DEFAULT_MODEL, None)  # mostly the only name, and then the catalogue need not be loaded
        if not names or config.type is not ProviderType.GROQ or not config.enabled:
            return
        for name in names:
            known = self._models.find(name)
            if known is None or known.shutdown_date is None or known.shutdown_date > self._clock.now().date():
                continue
            instead = f"use {known.replacement!r}" if known.replacement else "it has no successor"
            _log.warning(
                "model %.200r of the configuration was shut down on %s: %s", name, known.shutdown_date, instead
            )

    def _make_parts(self, given: dict[str, Any], *, lazy: bool = False) -> None:
        """Make the parts that the caller did not give."""
        for name, part in given.items():
            protocol = _protocol_of(name)
            if protocol is not None and not isinstance(part, protocol):
                raise ConfigurationError(f"{name} must be a {protocol.__name__}, not {type(part).__name__}")
        if "tokenizer" in given and not callable(given["tokenizer"]):
            raise ConfigurationError(
                f"tokenizer must take a text and return a number, not be {type(given['tokenizer']).__name__}"
            )
        self._passed = list(given)
        self._given_clock: Clock | None = given.get("clock")
        self._clock = self._given_clock or SystemClock()
        self._session: requests.Session | None = given.get("session")
        self._tokenizer: Callable[[str], int] | None = given.get("tokenizer")
        own: LatencyRecorder = (
            LatencyTracker(self._config.latency_samples) if self._config.track_latency else NullLatencyTracker()
        )
        self._tracker: LatencyRecorder = given.get("latency_tracker", own)
        self._given_limiter: RateLimiter | None = given.get("rate_limiter")
        self._keyless = False
        self._build(lazy=lazy)

    def _build(self, *, lazy: bool = False) -> None:
        config = self._config
        try:
            key = config.key() if config.enabled else None
        except ConfigurationError:
            if not lazy:
                raise
            key, self._keyless = None, True  # the first use looks for the key again
        # Limits belong to the owner of the key. The digest separates owners without revealing the key.
        scope = hashlib.blake2b((key or config.base_url).encode(), digest_size=8).hexdigest()
        key = None if key is None else SecretHeader(key)  # its repr hides it in frames that show local variables
        self._limiter: RateLimiter = self._given_limiter or TokenBucketRateLimiter(
            config.rate_limits,
            store=config.rate_limit_store if config.enabled else "memory",
            scope=scope,
            clock=self._given_clock,
        )
        groq = config.type is ProviderType.GROQ
        self._transport = SessionTransport(
            config.base_url,
            clock=self._clock,
            api_key=key,
            headers=config.headers,
            proxies=config.proxies,
            ca_bundle=config.ca_bundle,
            cert=config.cert,
            max_connections=config.max_connections,
            http2=config.http2,
            session=self._session,
        )
        self._models = Models(config.models, lambda: self.request("GET", "/models"), with_catalogue=groq)
        self._default_options = CallOptions(timeouts=config.timeout)
        self._runtime = Caller(
            transport=self._transport,
            limiter=self._limiter,
            tracker=self._tracker,
            clock=self._clock,
            policy=config.retry,
            provider=config.type.value,
            default_model=config.default_model,
            secret=key,
            tokenizer=self._tokenizer,
            replacement_for=self._models.replacement_for,
            nearest_to=self._models.nearest_to,
            check_length=self._check_length,
            allowed=None if groq else _anything(),
            learn=groq,
            require_finish_reason=config.require_finish_reason,
            breaker=self._breaker(),
        )
        self._health = HealthMonitor(
            self._clock,
            self._models.count,
            {"models": (self._ask_models, self._models.update), "chat": (self._ask_chat, _read_chat)},
            lambda: self._runtime.answered_at,
        )

    def _breaker(self) -> CircuitBreaker | None:
        if not self._config.circuit_breaker:
            return None
        from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker

        policy = BreakerPolicy.of(self._config.circuit_breaker)
        return None if policy is None else CircuitBreaker(policy, self._clock, name=self.get_name())

    def __repr__(self) -> str:
        if not hasattr(self, "_health"):  # tools that report errors show the variables of a failed construction
            return f"<{type(self).__name__} unfinished>"
        state = "closed" if self._runtime.calls.closed else "disabled" if not self._config.enabled else "open"
        return f"<{type(self).__name__} {self._config.base_url} {state}, {self._runtime.in_flight} calls under way>"

    def __getstate__(self) -> dict[str, Any]:
        # Connections, limits and figures belong to one process. The configuration leaves out its key when it is pickled.
        if self._passed:
            raise TypeError(
                f"a provider that was given {', '.join(self._passed)} cannot be pickled: make it where it is used"
            )
        return {"config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The other process makes new parts. The key may come into its environment later.
        self._config = state["config"]
        self._make_parts({}, lazy=True)

    # --- generating --------------------------------------------------------------------------------------------------------

    def _generate(self, request: LLMRequest, *arguments: Any) -> LLMResponse:
        options = self._options(*arguments)  # first: this may build the runtime
        return self._runtime.generate(request, options)

    def _stream(self, request: LLMRequest, *arguments: Any) -> ResponseStream:
        options = self._options(*arguments)  # first, as above
        return self._runtime.stream(request, options)

    def _answer_item(self, request: LLMRequest, *, timeout: Timeouts | None, cancel: CancelToken | None) -> LLMResponse:
        options = CallOptions(timeouts=timeout or self._config.timeout, cancel=cancel, batch=True)
        return self._runtime.generate(request, options)

    def _check_for_all(self, request: LLMRequest) -> None:
        self._require_open()
        from groq_provider.types.allowed import GROQ

        (self._runtime.allowed or GROQ).check_fields(request)

    @public
    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send one JSON request to an endpoint that has no method here, and return the decoded answer.

        Retries, time limits and errors are those of :meth:`generate`. The call is not charged to any rate limit, and its latency is not
        recorded. Use :meth:`raw` if you need the headers, or another kind of body.

        Args:
            method: ``GET``, ``POST``, ``DELETE``, …
            path: The path under the base URL, with a leading slash: ``"/models"``. It may end in a query. A path that would leave the base
                URL (``..``, in any encoding), or has a fragment or a second ``?``, is refused.
            json: The body; ``None`` sends none.
            timeout: As for :meth:`generate`.
            cancel: As for :meth:`generate`.
            extra_headers: As for :meth:`generate`.
            extra_query: As for :meth:`generate`.
        """
        body = self._check_plain(method, path, json)
        options = self._options(timeout, cancel, extra_headers, None, extra_query)
        from groq_provider.call.call import json_endpoint  # loaded by the first call

        return self._runtime.ask(json_endpoint(method.upper(), path), body, options)

    @public
    def raw(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        files: Mapping[str, File] | None = None,
        as_: Literal["json", "bytes", "file", "iterator", "events"] = "json",
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
    ) -> RawResponse:
        """Send any kind of body to any endpoint; return the status, the headers, the request id and the body of its answer.

        If *json* or *data* has a field ``model``, the call takes a place in the request limits of that model; tokens are not counted.
        Retries, time limits and errors are those of :meth:`generate`; no latency is recorded.

        Args:
            method: As for :meth:`request`.
            path: As for :meth:`request`.
            json: A body to send as JSON.
            data: A body of another kind. You can pass ``bytes``, the ``pathlib.Path`` of a file or an open binary file, which are sent
                unchanged, or a mapping, which is sent as a form.
            files: The files of a form, by the name of the field: ``bytes``, a ``pathlib.Path``, an open binary file that can seek,
                ``(name, content)`` or ``(name, content, content type)``. They are sent in pieces (over HTTP/2 from memory), and opened
                again for a retry. An open file is sent from its present position; you must close it yourself.
            as_: The form of ``body`` in the answer: decoded ``"json"``; ``"bytes"``, 64 MiB at most; a ``"file"``, which is temporary and
                which you should close; an ``"iterator"`` of bytes as they arrive; ``"events"``, an iterator of the decoded data of an
                event stream. You should use the iterators as context managers.
            timeout: As for :meth:`generate`.
            cancel: As for :meth:`generate`.
            extra_headers: As for :meth:`generate`; a ``Content-Type`` here replaces that of the body.
            extra_query: As for :meth:`generate`.

        Raises:
            InvalidRequestError: An argument is wrong, or a file cannot be read.
            GroqProviderError: As for :meth:`generate`.
        """
        self._check_plain(method, path, None)
        body, model = _body_of(json, data, files)
        options = self._options(timeout, cancel, extra_headers, None, extra_query)
        from groq_provider.call.endpoint import Cost
        from groq_provider.call.raw import raw_endpoint

        cost = None if model is None else Cost(model)
        response: RawResponse = self._runtime.ask(raw_endpoint(method.upper(), path, as_), body, options, cost)
        return response

    # --- models, figures, health -------------------------------------------------------------------------------------------

    def get_type(self) -> ProviderType:
        """Return the configured type: ``ProviderType.GROQ`` unless you have set another."""
        return self._config.type

    def get_name(self) -> str:
        """Return ``"Groq"``, or the host of another server."""
        if self._config.type is ProviderType.GROQ:
            return "Groq"
        return self._config.base_url.split("//", 1)[-1].split("/", 1)[0]

    def get_models(self) -> tuple[ModelInfo, ...]:
        """Return the models of the configuration, or the whole catalogue of the package; no I/O."""
        return self._models.get()

    def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        """Return the models that the service lists for your API key, with the data of the catalogue.

        The provider asks once and remembers the answer; *refresh* makes it ask again. A model that the catalogue does not know has the
        fields of the service only.
        """
        self._require_open()
        return self._models.list(refresh=refresh)

    def get_capabilities(self) -> tuple[ModelCapability, ...]:
        """Return the capabilities of all offered models together; no I/O."""
        return tuple(self._models.capabilities())

    def fastest_models(self) -> tuple[ModelInfo, ...]:
        """Return the offered models with a published speed, fastest first. These are nominal figures, not measurements.

        Models that were shut down are left out, unless the configuration names them.
        """
        fast = [
            model
            for model in self.get_models()
            if model.performance_profile
            and model.performance_profile.avg_tokens_per_second
            and (self._config.models or not model.deprecated)
        ]
        return tuple(sorted(fast, key=lambda model: -(model.performance_profile.avg_tokens_per_second or 0)))  # type: ignore[union-attr]  # filtered above

    def get_latency_metrics(self, model: str | None = None) -> LatencyMetrics:
        """Return statistics over the newest calls of one model, or of all models."""
        return self._tracker.get_metrics(model)

    def profile_vs_measured(self) -> Mapping[str, MeasuredProfile]:
        """Return the published speed of each offered model beside the measured one, by model id; no I/O.

        Models without any such figure are left out.
        """
        from groq_provider.types.status import MeasuredProfile  # loaded late: few programs ask

        found: dict[str, MeasuredProfile] = {}
        for model in self.get_models():
            nominal, measured = model.performance_profile, self._tracker.get_metrics(model.id)
            if nominal is not None or measured.sample_count:
                found[model.id] = MeasuredProfile(
                    model=model.id,
                    nominal_first_token_latency=None if nominal is None else nominal.avg_first_token_latency,
                    measured_first_token_latency=measured.p50_first_token_latency or None,
                    nominal_tokens_per_second=None if nominal is None else nominal.avg_tokens_per_second,
                    measured_tokens_per_second=measured.p50_tokens_per_second or None,
                    sample_count=measured.sample_count,
                )
        return found

    def get_rate_limits(self) -> Mapping[str, RateLimitStatus]:
        """Return the known limits and their use, by model."""
        return self._limiter.get_status()

    def is_available(self, *, probe: bool = False) -> bool:
        """Return whether a call is worth trying. Never raises, never logs.

        Without *probe* this does no I/O. It returns False if the provider is closed or disabled, has no API key, or was found unhealthy
        in the last 30 seconds and has answered no call since. With *probe* it asks the service (``GET /models``, 5 s at most).
        """
        if self._runtime.calls.closed or not self._config.enabled:
            return False
        if probe:
            return self.get_health(timeout=5.0).status in ("healthy", "degraded")
        return not self._health.is_suspect()

    def get_health(
        self, *, probe: str = "models", model: str | None = None, timeout: float = 10.0, raise_on_error: bool = False
    ) -> ProviderHealth:
        """Check the service now.

        Args:
            probe: ``"models"`` asks for the list of models, which uses no tokens, no place in the limits and no latency record. ``"chat"``
                makes a completion of 10 tokens, which you pay for.
            model: The model for ``"chat"``; ``None`` takes the fastest of the offered models by its published speed, else the default
                model.
            timeout: Seconds for the check.
            raise_on_error: Raise the error instead of returning it in the result.
        """
        self._timeouts(timeout)  # a wrong argument is the caller's mistake, and tells nothing about the service
        if model is not None and (not isinstance(model, str) or not model):
            raise InvalidRequestError(f"model = {checks.shown(model)}: must be a model id")
        return self._health.check(probe, model=model, timeout=timeout, raise_on_error=raise_on_error)

    @property
    def last_health(self) -> ProviderHealth:
        """The result of the newest check; no I/O. Its status is ``"unknown"`` before the first check."""
        return self._health.last

    # --- opening and closing --------------------------------------------------------------------------------------------------------------

    def warm_up(self, connections: int = 1, *, timeout: float = 10.0) -> int:
        """Open connections, TLS included, and import the modules that calls need, ahead of the first calls. Sends no request.

        You should call this shortly before the first calls, because servers close connections that stay without a request.

        Args:
            connections: The number of calls at once to prepare for, 1 to 100. Over HTTP/2 one connection serves as many calls as the
                server allows on it, mostly a hundred.
            timeout: Seconds for all connections together.

        Returns:
            The number of calls for which connections are ready.
        """
        self._require_open()
        self._runtime.load()
        from groq_provider.bulk import run  # noqa: F401 - for its effect
        from groq_provider.types import status  # noqa: F401 - likewise

        return self._transport.warm_up(connections, timeout=timeout)

    def close(self) -> None:
        """End the calls under way, close every connection, and refuse further calls. Idempotent; you can call it from any thread."""
        self._runtime.close()
        self._transport.close()
        if self._given_limiter is None and isinstance(self._limiter, TokenBucketRateLimiter):
            self._limiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- small helpers -----------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._runtime.calls.closed:
            raise ProviderClosedError("the provider was closed; make a new one", sent=False)
        if self._keyless:
            self._build()
            self._keyless = False
        if not self._config.enabled:
            raise ProviderDisabledError(
                "provider unavailable: disabled by its configuration (enabled: false)", sent=False
            )

    def _timeouts(self, timeout: Timeout) -> Timeouts:
        return (None if timeout is None else timeouts_of(timeout)) or self._config.timeout

    @staticmethod
    def _check_plain(method: str, path: str, json: Any) -> bytes | None:
        """Return the body of a request to any endpoint, after checking method and path."""
        if not isinstance(path, str) or not path.startswith("/") or any(ord(c) <= 32 or ord(c) > 126 for c in path):
            raise InvalidRequestError(
                f"path = {checks.shown(path)}: must begin with a slash and be percent-encoded ASCII"
            )
        if "#" in path or path.count("?") > 1 or _climbs(path.partition("?")[0]):
            raise InvalidRequestError(
                f"path = {checks.shown(path)}: must stay under the base URL: no '.' or '..', no fragment, one '?' at most"
            )
        if not isinstance(method, str) or not method.isascii() or not method.isalpha():
            raise InvalidRequestError(f"method = {checks.shown(method)}: must be an HTTP method")
        if json is None:
            return None
        from groq_provider.wire import json_text  # loaded by the first call

        return json_text.dumps(json)

    def _options(
        self,
        timeout: Timeout,
        cancel: CancelToken | None,
        headers: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> CallOptions:
        if self._runtime.calls.closed or self._keyless or not self._config.enabled:
            self._require_open()
        if timeout is None and cancel is None and headers is None and body is None and query is None:
            return self._default_options
        check_cancel(cancel)
        if headers is not None:
            headers = checks.check_headers(headers, what="extra_headers", error=InvalidRequestError)
        for name, given in (("extra_body", body), ("extra_query", query)):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidRequestError(f"{name} must be a mapping, not {type(given).__name__}")
        if body is not None:
            check_extra(body, "extra_body")
        return CallOptions(
            timeouts=self._timeouts(timeout), cancel=cancel, headers=headers, extra_body=body, query=query
        )

    def _check_length(self, request: LLMRequest, model: str) -> LLMRequest:
        """Check the length that a request asks for against the maximum of its model, if the catalogue knows the model as live."""
        asked = request.max_output_tokens
        if asked is None:
            return request
        name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        known = self._models.find(model)
        other = self._config.type is not ProviderType.GROQ  # another server checks lengths itself
        most = None if known is None or known.deprecated or other else known.max_tokens or None
        if self._config.trim_max_tokens:
            room = self._limiter.largest_output(model, prompt_tokens=estimate_prompt_tokens(request, self._tokenizer))
            # With no room at all the prompt is too large by itself, and the limiter says so.
            most = min((limit for limit in (most, room) if limit), default=asked)
            return request if asked <= most else LLMRequest.of(request, **{name: most})
        if most is None or asked <= most:
            return request
        raise InvalidRequestError(f"{name} = {asked}: must be at most {most}, the maximum of model {model!r}")

    def _ask_models(self, timeout: float, _model: str | None) -> Any:
        return self._probe("GET", "/models", None, timeout)

    def _ask_chat(self, timeout: float, model: str | None) -> Any:
        from groq_provider.wire import codec

        if model is None:
            live = (known.id for known in self.fastest_models() if not known.deprecated)
            model = next(live, self._config.default_model)
        request = LLMRequest(model=model, messages="Hi", max_completion_tokens=10, temperature=0.1)
        return self._probe("POST", CHAT_PATH, codec.request_body(request, model=model, stream=False), timeout)

    def _probe(self, method: str, path: str, body: bytes | None, timeout: float) -> Any:
        """Send one request without retries, which would hide the trouble that the check should find."""
        options = attrs.evolve(self._options(timeout, None, None, None, None), retry=False)
        from groq_provider.call.call import json_endpoint  # loaded by the first call

        return self._runtime.ask(json_endpoint(method, path), body, options)


def _body_of(json: Any, data: Any, files: Mapping[str, File] | None) -> tuple[RequestBody | None, str | None]:
    """Return the body of a raw request, and the model that it names."""
    if json is not None:
        if data is not None or files is not None:
            raise InvalidRequestError("json, and data or files: give one body", param="json")
        from groq_provider.wire import json_text

        return json_text.dumps(json), _model_of(json)
    if data is None and files is None:
        return None, None
    from groq_provider.wire import upload

    if files is not None:
        return upload.multipart(data, files), _model_of(data)
    if isinstance(data, Mapping):
        return upload.form(data), _model_of(data)
    return upload.file_upload(data), None


def _model_of(fields: Any) -> str | None:
    model = fields.get("model") if isinstance(fields, Mapping) else None
    return model if isinstance(model, str) and model else None


def _read_chat(answer: Any) -> None:
    from groq_provider.wire import codec

    if codec.response_fields(answer)["finish_reason"] == "error":
        raise IncompleteResponseError("the server ended the answer with finish_reason 'error'", sent=True)


def _climbs(path: str) -> bool:
    """Return whether a path leads elsewhere for a server that decodes it once or several times."""
    before = None
    while path != before:
        if any(segment.partition(";")[0] in {".", ".."} for segment in path.replace("\\", "/").split("/")):
            return True
        before, path = path, unquote(path)
    return False


def _anything() -> Allowed:
    from groq_provider.types.allowed import ANYTHING  # loaded late: most providers ask this service

    return ANYTHING


def _protocol_of(name: str) -> type | None:
    """Return the protocol that a part given under *name* must follow, if there is one."""
    if name == "clock":
        return Clock
    if name not in {"rate_limiter", "latency_tracker"}:
        return None
    from groq_provider.protocols import LatencyRecorder, RateLimiter  # loaded late: most programs give neither

    return RateLimiter if name == "rate_limiter" else LatencyRecorder
