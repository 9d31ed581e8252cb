"""One call from request to answer: limits, sending, failures, retries, records.

Every call of a provider, plain or streamed, single or of a bulk job, is one :class:`Call`, which holds what outlives its attempts.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from groq_provider import errors as e
from groq_provider.call.endpoint import Cost, Endpoint
from groq_provider.call.retry import retry_delay, throttling, timed
from groq_provider.config.urls import CHAT_PATH
from groq_provider.ratelimit.estimate import estimate_prompt_tokens, estimate_text_tokens
from groq_provider.transport.scope import CancelScope
from groq_provider.types._base import ReadOnly
from groq_provider.types.allowed import GROQ
from groq_provider.types.response import Attempt, LLMResponse, Timing, Usage
from groq_provider.wire import codec, json_text
from groq_provider.wire.failures import MAX_ERROR_BODY, error_from_object, error_from_response, reported_error
from groq_provider.wire.headers import parse_rate_limit
from groq_provider.wire.headers import request_id as header_request_id
from groq_provider.wire.sse import is_stream

if TYPE_CHECKING:
    from groq_provider.call.breaker import Admission
    from groq_provider.call.runtime import CallOptions, Runtime
    from groq_provider.protocols import RequestBody, Reservation, WireResponse
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.response import RateLimitInfo

__all__ = ["MAX_BODY", "MAX_STREAM", "Arrival", "Call"]

#: A larger body is a fault or an attack.
MAX_BODY = 64 << 20
#: The same for a stream, where around every token stand some 250 bytes of envelope: 64 MiB is less than the longest answers.
MAX_STREAM = 256 << 20
#: Errors that a limit of the caller's makes, and its name in Timeouts; the first that fits counts.
_STRUCK: tuple[tuple[Any, str], ...] = (
    (e.DeadlineExceededError, "total"),
    ((e.ReadTimeoutError, e.PoolTimeoutError), "first_token"),
    (e.ConnectTimeoutError, "connect"),
    (e.StreamIdleTimeoutError, "idle"),
)
_TRY_AGAIN = r"(?:please )?try again in [0-9][0-9hmsuµn.]*(?: ?(?:second|minute|hour|day)s?)?\.?"
_PROXY_WANTS_CREDENTIALS = 407
#: How servers that do not know the option refuse to report a stream's usage.
_NOT_UNDERSTOOD, _USAGE_WORDS = (400, 422), ("stream_options", "include_usage", "stream options")
#: No attempt is started with less time left.
_LEAST_TIME = 0.05


#: By what part of a span its ends may be wrong, because the reader was late for them; and for that to the first token, in seconds.
_LATE, _LATE_AT_MOST = 0.1, 0.02
#: Fewer seconds are no time to make an answer in: it had been made before, and came in one piece.
_LEAST_SPAN = 0.001


class Arrival(NamedTuple):
    """When parts of a streamed answer were read; and for how long at most they may have waited to be."""

    head: float
    first: float | None = None
    """The first token."""
    first_late: float = 0.0
    last: float = 0.0
    """The end."""
    last_late: float = 0.0

    @property
    def generating(self) -> float | None:
        """Seconds from the first token to the end; ``None`` where the reader cannot tell."""
        if self.first is None:
            return None
        span = self.last - self.first
        return span if span >= _LEAST_SPAN and self.first_late + self.last_late <= _LATE * span else None


class Call:
    """One call: its time limits, its attempts, its reservation, its record.

    Belongs to the thread that runs the call; others reach only ``scope.cancel()``.

    Args:
        runtime: Whose call it is.
        options: What the call may set.
        endpoint: What is asked, and how its answer is read.
        body: What is sent, or nothing.
        cost: What is reserved in the limits; ``None``: nothing is.
        request: The completion asked for; ``None`` for other endpoints.
        started: Monotonic instant the call began; ``None``: now.
    """

    # What few calls change stands here: an object of more than thirty attributes of its own costs a kilobyte more.
    _retries = 0
    _last_cost = 0.0
    _handle = 0
    _permit: Admission | None = None
    #: Status and header fields of the answer that came last.
    http: tuple[int, Mapping[str, str]] | None = None
    _counted = False  # whether the circuit breaker has been told of a success

    def __init__(
        self,
        runtime: Runtime,
        options: CallOptions,
        endpoint: Endpoint,
        body: RequestBody | None,
        *,
        cost: Cost | None = None,
        request: LLMRequest | None = None,
        started: float | None = None,
    ) -> None:
        self.runtime = runtime
        self.options = options
        self.endpoint = endpoint
        self.request = request
        self.cost = cost
        self.model = None if cost is None else cost.model
        self._body = body
        try:
            mark = "&" if "?" in endpoint.path else "?"
            query = urlencode(_parameters(options.query), doseq=True) if options.query else ""
        except (UnicodeError, TypeError) as error:
            raise e.InvalidRequestError(
                f"extra_query cannot be written as a URL: {type(error).__name__}", param="extra_query"
            ) from None
        self._query = f"{mark}{query}" if query else ""
        headers = endpoint.headers
        self._headers = {**headers, **options.headers} if options.headers else headers
        limits = options.timeouts
        clock = runtime.clock
        self.started = clock.monotonic() if started is None else started
        total = None if limits.total is None else self.started + limits.total
        self._wait_deadline = total if limits.wait is None else self.started + limits.wait
        if total is not None and self._wait_deadline is not None:
            self._wait_deadline = min(total, self._wait_deadline)
        self.scope = CancelScope(clock, total_deadline=total, connect=limits.connect, after_send=limits.first_token)
        self.attempts: list[Attempt] = []
        self.reservation: Reservation | None = None
        self.rate_limit: RateLimitInfo | None = None
        self.request_id: str | None = None
        self.waited = 0.0
        self._patience = runtime.policy.patience
        self._asked_usage = (
            endpoint.stream and runtime.ask_usage and request is not None and request.stream_options is None
        )
        self._wait = 0.0  # before the attempt under way
        self._attempt_at = self.started
        self._attempt_wall: datetime | None = None
        self._status: int | None = None
        self._rejected = False  # whether the service surely did no work on the attempt
        self._begun = False
        self._over = False

    @classmethod
    def completion(cls, runtime: Runtime, request: LLMRequest, options: CallOptions, *, stream: bool) -> Call:
        """Return a call for a chat completion.

        Raises:
            InvalidRequestError: It cannot be sent like this.
        """
        started = runtime.clock.monotonic()  # making the body counts: a long one takes a while
        model = request.model or runtime.default_model
        if not model:
            raise e.InvalidRequestError("no model: name one in the request, or set default_model")
        request = runtime.check(request, model)
        body = cls._body_of(runtime, request, options, model=model, stream=stream, ask_usage=runtime.ask_usage)
        cost = Cost(model, estimate_prompt_tokens(request, runtime.tokenizer), request.max_output_tokens)
        endpoint = CHAT_STREAM if stream else CHAT
        return cls(runtime, options, endpoint, body, cost=cost, request=request, started=started)

    @staticmethod
    def _body_of(
        runtime: Runtime, request: LLMRequest, options: CallOptions, *, model: str, stream: bool, ask_usage: bool
    ) -> bytes:
        return codec.request_body(
            request,
            model=model,
            stream=stream,
            extra_body=options.extra_body,
            allowed=runtime.allowed or GROQ,
            ask_usage=ask_usage,
        )

    # --- the loop ----------------------------------------------------------------------------------------------------------

    def result(self) -> Any:
        """Run attempts until one succeeds or no further one is worth it; return what the endpoint makes of the answer.

        Raises:
            GroqProviderError: What the last one ended with, with every attempt on it.
        """
        try:
            if not self._begun:
                self._begin()
            while True:
                self._reserve()
                try:
                    return self.endpoint.decode(self, self._open())
                except e.GroqProviderError as error:
                    self.recover(error)
        except e.GroqProviderError:
            raise
        except BaseException:  # KeyboardInterrupt and the like: leave nothing behind
            self.abandoned()
            raise

    def _begin(self) -> None:
        """Count the call as under way and follow the caller's token."""
        self._begun = True
        self.runtime.enter(self.scope)
        cancel = self.options.cancel
        if cancel is not None:
            self._handle = cancel.subscribe(self.scope.cancel)

    def _reserve(self) -> None:
        """Get a place in the limits for an attempt, and leave of the circuit breaker.

        Raises:
            GroqProviderError: Neither can be had; the call is over.
        """
        try:
            self._reserve_once()
        except e.GroqProviderError as error:
            final = self.failed(error)
        else:
            return
        raise final

    def _reserve_once(self) -> None:
        scope = self.scope
        if scope.cancelled:
            raise e.RequestCancelledError("the call was cancelled before it was sent", sent=False)
        breaker = self.runtime.breaker
        if breaker is not None and self._permit is None and self.endpoint.recorded:
            self._permit = breaker.acquire()
        scope.begin(self.options.timeouts.connect)
        self._status = self.request_id = None  # of the attempt before
        self._rejected = False
        cost = self.cost
        if cost is None:
            self._attempt_at, self._attempt_wall = self.runtime.clock.monotonic(), self.runtime.clock.now()
            return
        reservation = self.runtime.limiter.reserve(
            cost.model,
            prompt_tokens=cost.prompt_tokens,
            max_output_tokens=cost.max_output_tokens,
            deadline=self._wait_deadline,
            long_wait=self.runtime.policy.hint_cap if self.options.timeouts.wait is None else None,
            cancel=scope,
            batch=self.options.batch,
            arrival=None if self.reservation is None else self.reservation.arrival,
        )
        self.reservation = reservation
        self._wait += reservation.wait
        self.waited += reservation.wait
        if reservation.wait and self._out_of_time(0.0):
            reservation.refund()
            raise e.DeadlineExceededError(
                f"the time limit of {self.options.timeouts.total:g} s was used up waiting for the rate limit; nothing was sent",
                sent=False,
            )
        scope.begin(self.options.timeouts.connect)
        self._attempt_at = self.runtime.clock.monotonic()
        self._attempt_wall = self.runtime.clock.now()

    def recover(self, error: e.GroqProviderError, *, usage: Usage | None = None) -> None:
        """Wait after a failed attempt until the next one may begin.

        Args:
            error: What happened.
            usage: What a failed stream had used, as far as known.

        Raises:
            GroqProviderError: No further attempt is worth it, and the call is over.
        """
        error = self._translate(error)
        self._after_attempt(error, usage=usage)
        runtime, scope = self.runtime, self.scope
        if self._usage_refused(error):
            return
        patient = self._patience > 0 and timed(error)
        delay = None
        if self.options.retry:
            delay = retry_delay(error, retries=0 if patient else self._retries, policy=runtime.policy, rng=runtime.rng)
        if delay is not None and scope.cancelled:
            return  # as during the delay: the next step says that it was cancelled, or closed
        if delay is None or self._out_of_time(delay) or self._waits_too_long(error, delay):
            raise self.failed(error, recorded=True)
        cost = 0.0 if patient else runtime.budget.cost(error)
        if not runtime.budget.spend(cost):
            raise self.failed(error, recorded=True)
        self._last_cost = cost
        if patient:
            self._patience -= max(delay, 1.0)  # a hint of 0 does not make it endless
        else:
            self._retries += 1
        self._wait = self._sleep(delay)
        self.waited += self._wait

    def _usage_refused(self, error: e.GroqProviderError) -> bool:
        """Say whether the server refused to be asked for a stream's usage; then it is not asked again, by nobody."""
        runtime, request, model = self.runtime, self.request, self.model
        if not (self._asked_usage and isinstance(error, e.APIStatusError) and error.status_code in _NOT_UNDERSTOOD):
            return False
        if request is None or model is None or not any(word in error.message for word in _USAGE_WORDS):
            return False
        runtime.ask_usage = self._asked_usage = False
        self._body = self._body_of(runtime, request, self.options, model=model, stream=True, ask_usage=False)
        return True

    def _out_of_time(self, delay: float) -> bool:
        """Say whether after *delay* too little is left of the total for an attempt: it would be charged and not waited for."""
        total = self.scope.total_deadline
        return total is not None and self.runtime.clock.monotonic() + delay + _LEAST_TIME > total

    def _waits_too_long(self, error: e.GroqProviderError, delay: float) -> bool:
        """Say whether *delay* is for a rate limit and ends later than the call may wait for one, whichever side counts it."""
        longest = self._wait_deadline if isinstance(error, e.RateLimitedError) else None
        return longest is not None and self.runtime.clock.monotonic() + delay > longest

    def _sleep(self, delay: float) -> float:
        """Wait out a retry delay, unless cancelled meanwhile; the next step notices that."""
        wake = threading.Lock()
        wake.acquire()
        handle = self.scope.subscribe(wake.release)
        started = self.runtime.clock.monotonic()
        try:
            self.runtime.clock.wait(wake, delay)
        finally:
            self.scope.unsubscribe(handle)
        return self.runtime.clock.monotonic() - started

    # --- one attempt -------------------------------------------------------------------------------------------------------

    def _open(self) -> WireResponse:
        """Send once; return the answer if its status is good.

        Raises:
            GroqProviderError: The status, or no answer.
        """
        runtime = self.runtime
        endpoint = self.endpoint
        response = runtime.transport.send(
            endpoint.method, endpoint.path, headers=self._headers, body=self._body, scope=self.scope, query=self._query
        )
        headers = response.headers
        self.http = (response.status_code, headers)
        self._status = response.status_code
        self.request_id = header_request_id(headers)
        self.rate_limit = parse_rate_limit(headers)
        if 200 <= self._status < 300:
            self._feedback(None)
            return response
        raise self._refused(response)

    def _refused(self, response: WireResponse) -> e.GroqProviderError:
        runtime, status = self.runtime, response.status_code
        self._rejected = True
        if 300 <= status < 400:
            response.drain(self.scope)
            self._feedback(None)
            host = _host(response.headers.get("location", ""))
            return e.RedirectRefusedError(
                f"the server redirects (status {status}) to {host}: check base_url; the request was not sent there",
                status_code=status,
                sent=True,
            )
        if status == _PROXY_WANTS_CREDENTIALS:  # only a proxy says so: the service has seen nothing
            response.drain(self.scope)
            self._rejected, self.scope.sent = False, False
            return e.ProxyError(
                "the proxy refuses the request: it asks for a user name and a password, or for others (status 407)",
                status_code=status,
                sent=False,
                retryable=False,
            )
        try:
            body = response.read_body(MAX_ERROR_BODY, cut=True)
        except e.RequestCancelledError as cancelled:
            return cancelled
        except e.GroqProviderError as problem:  # never an error over the status
            body = f"an unreadable error body: {problem.message}".encode()
        except BaseException:
            response.close()
            raise
        error = error_from_response(
            status,
            response.headers,
            body,
            now=runtime.clock.now(),
            model=self.model,
            provider=runtime.provider,
            secret=runtime.secret,
        )
        self._say_which_model(error)
        error.sent = True
        self._feedback(error if isinstance(error, e.RateLimitedError) else None)
        return error

    def _say_which_model(self, error: e.GroqProviderError) -> None:
        """Name the model to use instead of one that is not there."""
        if isinstance(error, e.ModelDecommissionedError):
            error.replacement = self.runtime.replacement_for(self.model or "")
        elif isinstance(error, e.ModelNotFoundError):
            e.reword(error, error.message + self.runtime.nearest_to(self.model or ""))

    def _feedback(self, limited: e.RateLimitedError | None) -> None:
        if limited is not None and not limited.retryable and limited.retry_after is None:
            limited = None  # a quota that is used up for good: there is nothing to wait for
        if self.reservation is not None:
            self.reservation.feedback(self.rate_limit if self.runtime.learn else None, limited)

    def answer(self, data: Any) -> dict[str, Any]:
        """Return the fields of a whole answer.

        Raises:
            APIStatusError: It is an error in spite of its status.
            IncompleteResponseError: It ended with an error.
            ResponseDecodeError: It is no answer.
        """
        if type(data) is not dict or "error" in data or not data.get("choices"):
            found = reported_error(data)
            if found is not None:
                raise self.reported(found, made=False)
        fields = codec.response_fields(data, self.scope.checkpoint)
        if fields["finish_reason"] == "error":
            error = self.ended_badly(data["choices"][0])
            error.partial = self.partial(fields, output_size=len(fields["content"]))
            raise error
        return fields

    def reported(self, found: Mapping[str, Any], *, made: bool, request_id: str | None = None) -> e.APIStatusError:
        """Return the error that an error object under a good status stands for: of the class that its code or status gives.

        Args:
            found: The error object.
            made: Whether something of an answer may have been made; else no tokens are charged, as with an error status.
            request_id: Of the service, where a chunk named it.
        """
        runtime = self.runtime
        error = error_from_object(
            found,
            status=None,
            now=runtime.clock.now(),
            request_id=request_id or self.request_id,
            model=self.model,
            provider=runtime.provider,
            secret=runtime.secret,
        )
        self._say_which_model(error)
        error.sent = True
        if isinstance(error, e.RateLimitedError) and self.reservation is not None:
            self.reservation.feedback(None, error)  # of the headers the limiter was told when they came
        if not made:
            self.nothing_made()
        return error

    def nothing_made(self) -> None:
        """Note that the service made nothing of an answer, so that no tokens are charged."""
        self._rejected = True

    def ended_badly(self, choice: Mapping[str, Any]) -> e.GroqProviderError:
        """Return the error for an answer that ended with ``finish_reason: "error"``; some gateways say in the choice why."""
        found = reported_error(choice)
        if found is not None:
            return self.reported(found, made=True)
        return e.IncompleteResponseError("the server ended the answer with finish_reason 'error'", sent=True)

    def read_json(self, response: WireResponse) -> Any:
        """Return the decoded body of an answer, whatever it is; an error object under a good status is raised.

        Raises:
            GroqProviderError: It cannot be read, or is an error.
        """
        data = self.read_any_json(response)
        if (
            type(data) is dict
            and ("error" in data or data.get("object") == "error")
            and not ("id" in data or data.get("data"))
        ):
            # Not one of the service's own objects, which may have an error among their fields.
            found = reported_error(data)
            if found is not None:
                raise self.reported(found, made=False)
        return data

    def read_any_json(self, response: WireResponse) -> Any:
        """Return the decoded body of an answer."""
        content_type = response.headers.get("content-type") or ""
        if content_type.startswith("text/event-stream"):
            response.drain(self.scope)
            raise self._unasked_stream()
        body = self.read_bytes(response)
        if not body:
            raise self.empty_answer()
        try:
            return json_text.loads(body, checkpoint=self.scope.checkpoint)
        except e.ResponseDecodeError:
            if is_stream(body):  # whatever it is labelled as
                raise self._unasked_stream() from None
            raise

    @staticmethod
    def read_bytes(response: WireResponse, limit: int = MAX_BODY) -> bytes:
        """Return the body of an answer as it is."""
        try:
            return response.read_body(limit)
        except BaseException:  # KeyboardInterrupt and the like, too
            response.close()
            raise

    def _unasked_stream(self) -> e.ResponseDecodeError:
        return e.ResponseDecodeError("the server sent an event stream to a plain request", status_code=self._status)

    def empty_answer(self) -> e.ResponseDecodeError:
        """Return the error for an answer without a body: the service made nothing, so no tokens are charged."""
        self.nothing_made()
        return e.ResponseDecodeError(f"the answer is empty (status {self._status})", status_code=self._status)

    # --- ends: exactly one of them counts ----------------------------------------------------------------------------------

    def finished(self) -> None:
        """End a call that succeeded and has no usage to settle and no figures to record."""
        if self._over:
            return
        self._leave()
        self._over = True
        if self.reservation is not None:
            self.reservation.keep()
        self.runtime.budget.succeeded(self._last_cost)

    def succeeded(
        self, fields: dict[str, Any], *, arrival: Arrival | None = None, output_size: int | None = None
    ) -> LLMResponse:
        """Settle, record, and return the answer."""
        runtime = self.runtime
        now = runtime.clock.monotonic()
        usage = fields.get("usage")
        if usage is None:
            usage = fields["usage"] = self.estimated_usage(
                len(fields["content"]) if output_size is None else output_size
            )
        timing = self._timing(usage, now, arrival)
        if not self._over:
            self._leave()  # first: whoever is interrupted between these two comes here again
            self._over = True
            runtime.answered_at = now
            self._report(True)
            self._add_attempt(None, now)
            if self.reservation is not None:
                if usage.source == "reported":
                    self.reservation.settle(usage)
                else:
                    self.reservation.keep()  # what the limits have counted is not known: the next headers say
            runtime.budget.succeeded(self._last_cost)
            self._record(
                total=timing.total,
                wait=timing.wait,
                first_token=timing.time_to_first_token,
                tokens_per_second=timing.tokens_per_second if usage.source == "reported" else None,
            )
        return self._response(fields, timing, metadata=True)

    def partial(self, fields: dict[str, Any], *, arrival: Arrival | None = None, output_size: int = 0) -> LLMResponse:
        """Return what there is of an answer, without a finish reason."""
        fields["finish_reason"] = None
        usage = fields.setdefault("usage", self.estimated_usage(output_size))
        return self._response(fields, self._timing(usage, self.runtime.clock.monotonic(), arrival), metadata=False)

    def failed(
        self, error: e.GroqProviderError, *, usage: Usage | None = None, recorded: bool = False
    ) -> e.GroqProviderError:
        """Settle, record, complete the error with what is known, and return it.

        Args:
            error: What happened.
            usage: What a failed stream had used, as far as known.
            recorded: Whether the attempt is on the list already.
        """
        error = self._translate(error)
        if not self._over:
            self._leave()
            self._over = True
            if self._permit is not None:
                from groq_provider.call.breaker import verdict  # there is a breaker, so it is loaded

                self._report(verdict(error), not_sent=error.sent is False)
            if not recorded:
                self._after_attempt(error, usage=usage)
            if self.reservation is not None:
                self.reservation.keep()  # without effect after any other settlement
            self._record(
                total=self.runtime.clock.monotonic() - self.started,
                wait=self.waited,
                ok=False,
                local=self._is_local(error),
            )
        if error.sent is None and isinstance(error, (e.ResponseError, e.StreamError)):
            error.sent = True  # something of an answer came
        error.model = error.model or self.model
        error.provider = error.provider or self.runtime.provider
        error.request_id = error.request_id or self.request_id
        error.attempts = tuple(self.attempts)
        self._explain(error)
        if error.retry_after is not None and error.retry_at is None:
            error.retry_at = self.runtime.clock.now() + timedelta(seconds=error.retry_after)
        return error

    def abandoned(self, usage: Usage | None = None, *, arrival: Arrival | None = None) -> None:
        """The caller left: neither a success nor a failure of the service, but for a first token that came."""
        if self._over:
            return
        self._leave()
        self._over = True
        self._report(None)
        if self.reservation is not None:
            if self.scope.sent is False:
                self.reservation.refund()
            elif usage is not None:
                self.reservation.settle(usage)
            else:
                self.reservation.keep()
        if arrival is not None and arrival.first is not None:
            self._record(first_token=self.first_token(arrival, usage))

    def _is_local(self, error: e.GroqProviderError) -> bool:
        """Say whether a failure tells nothing of the service: the caller's own end, or nothing was ever sent."""
        if isinstance(error, (e.RequestCancelledError, e.ProviderClosedError)):
            return True
        return all(attempt.sent is False for attempt in self.attempts)

    def _record(self, **figures: Any) -> None:
        if self.endpoint.recorded and self.model is not None:
            self.runtime.tracker.record(self.model, **figures)

    def committed(self) -> None:
        """The first chunk was given out: a success to the circuit breaker, whatever becomes of the rest, which counts by itself."""
        if self._permit is not None:
            self._report(True)

    def _report(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        """Give leave back to the circuit breaker, if one was asked."""
        permit, breaker = self._permit, self.runtime.breaker
        if permit is None or breaker is None or (self._counted and outcome is not False):
            return
        self._counted = True
        self._permit = permit._replace(probe=False)  # given back once; what follows counts as any call
        breaker.report(permit, outcome, not_sent=not_sent)

    def _leave(self) -> None:
        if self.options.cancel is not None:
            self.options.cancel.unsubscribe(self._handle)
        self.runtime.leave(self.scope)

    def _translate(self, error: e.GroqProviderError) -> e.GroqProviderError:
        """Name the cause the caller can act on: closed rather than cancelled, out of time rather than slow."""
        scope, runtime = self.scope, self.runtime
        if scope.cancelled and isinstance(error, (e.TransportError, e.ResponseError, e.StreamError)):
            # The socket was shut down under the reader; what that looks like depends on the framing.
            error = e.RequestCancelledError("the call was cancelled", sent=scope.sent, partial=error.partial)
        if (
            isinstance(error, e.RequestCancelledError)
            and runtime.closed
            and not (self.options.cancel and self.options.cancel.cancelled)
        ):
            return e.ProviderClosedError("the provider was closed", sent=error.sent, partial=error.partial)
        timed_out = isinstance(error, TimeoutError) and not isinstance(error, e.DeadlineExceededError)
        if timed_out and scope.total_deadline is not None and runtime.clock.monotonic() >= scope.total_deadline:
            return e.DeadlineExceededError(
                f"the time limit of {self.options.timeouts.total:g} s is up: {error.message}",
                sent=error.sent,
                partial=error.partial,
            )
        return error

    def _explain(self, error: e.GroqProviderError) -> None:
        """Name the limit of the caller's that struck, and its size: what the caller does not know cannot be changed."""
        if "Timeouts." in error.message or "RetryPolicy." in error.message:
            return  # named before
        name = next((name for kinds, name in _STRUCK if isinstance(error, kinds)), None)
        if isinstance(error, e.RateLimitTimeoutError):
            name = "total" if self._wait_deadline == self.scope.total_deadline else "wait"
        size = None if name is None else getattr(self.options.timeouts, name)
        if size is not None:
            e.reword(error, f"{error.message} (Timeouts.{name} = {size:g} s)")
        hint, policy = error.retry_after, self.runtime.policy
        if (
            hint is None
            or hint <= policy.hint_cap
            or not (throttling(error) and error.retryable and policy.max_retries)
        ):
            return
        # Instead of "try again in …", which may say something else than the header did.
        words = re.sub(_TRY_AGAIN, "", error.message, flags=re.IGNORECASE).rstrip(" .;:,")
        e.reword(
            error,
            f"{words}; a wait of {hint:,.6g} s is longer than RetryPolicy.hint_cap = {policy.hint_cap:g} s allows",
        )

    # --- records -----------------------------------------------------------------------------------------------------------

    def _after_attempt(self, error: e.GroqProviderError, usage: Usage | None = None) -> None:
        """Put a failed attempt on the list and give back of its reservation what was surely not used."""
        reservation = self.reservation
        if self._attempt_wall is None:
            return  # it never began: the limiter said no
        self._add_attempt(error, self.runtime.clock.monotonic())
        if reservation is None:
            return
        if self._rejected:
            reservation.refund(keep_request=True)  # an error status, a redirect, an empty answer: no tokens used
        elif self.scope.sent is False:
            reservation.refund()
        elif usage is not None:
            reservation.settle(usage)
        else:
            reservation.keep()

    def _add_attempt(self, error: e.GroqProviderError | None, now: float) -> None:
        started = self._attempt_wall
        if started is None:
            return
        self._attempt_wall = None
        number = len(self.attempts) + 1
        for _ in range(self.scope.resends):  # the connection had gone stale and the transport sent once more
            self.attempts.append(
                Attempt(number=number, started_at=started, error="APIConnectionError", wait=self._wait, sent=None)
            )
            number += 1
            self._wait = 0.0
        self.attempts.append(
            Attempt(
                number=number,
                started_at=started,
                status_code=self._status,
                error=None if error is None else type(error).__name__,
                wait=self._wait,
                duration=now - self._attempt_at,
                request_id=self.request_id,
                sent=self.scope.sent if error is not None else True,
            )
        )
        self._wait = 0.0

    def estimated_usage(self, output_size: int) -> Usage:
        """Return the usage of an answer whose own report is missing."""
        completion = estimate_text_tokens(output_size) if output_size else 0
        prompt = 0 if self.cost is None else self.cost.prompt_tokens
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            source="estimated",
        )

    def first_token(self, arrival: Arrival, usage: Usage | None = None) -> float | None:
        """Return the seconds to the first token: as it arrived or, where the reader came too late to tell, as the service says."""
        if arrival.first is None:
            return None
        sent_at = self.scope.sent_at or self._attempt_at
        taken = arrival.first - sent_at
        if arrival.first_late <= max(_LATE * taken, _LATE_AT_MOST):
            return taken
        if usage is None or usage.prompt_time is None:
            return None
        return min(max((usage.queue_time or 0.0) + usage.prompt_time, arrival.head - sent_at), taken)

    def _timing(self, usage: Usage, now: float, arrival: Arrival | None) -> Timing:
        total = now - self.started
        tokens = usage.completion_tokens
        generating = None if arrival is None else arrival.generating
        if generating is None:
            generating = usage.completion_time
        return Timing(
            total=total,
            wait=self.waited,
            time_to_first_token=None if arrival is None else self.first_token(arrival, usage),
            tokens_per_second=tokens / generating if tokens and generating and generating >= _LEAST_SPAN else None,
            overall_tokens_per_second=tokens / total if tokens and total > 0 else None,
            server_queue=usage.queue_time,
            server_prompt=usage.prompt_time,
            server_completion=usage.completion_time,
        )

    def _response(self, fields: dict[str, Any], timing: Timing, *, metadata: bool) -> LLMResponse:
        x_groq = fields.get("x_groq")
        if x_groq is not None and x_groq.id:
            self.request_id = x_groq.id
        if metadata:
            first = timing.time_to_first_token
            fields["provider_metadata"] = ReadOnly(
                first_token_latency_ms=None if first is None else round(first * 1000),
                total_latency_ms=round(timing.total * 1000),
                tokens_per_second=timing.tokens_per_second,
            )
        fields.setdefault("model", self.model)
        return LLMResponse(
            request_id=self.request_id,
            client_request_id=None if self.request is None else str(self.request.id),
            provider=self.runtime.provider,
            timing=timing,
            attempts=tuple(self.attempts),
            rate_limit=self.rate_limit,
            http=self.http,
            **fields,
        )


def _completion(call: Call, response: WireResponse) -> LLMResponse:
    data = call.read_any_json(response)
    fields = call.answer(data)
    fields["raw"] = data
    return call.succeeded(fields)


def _json(call: Call, response: WireResponse) -> Any:
    data = call.read_json(response)
    call.finished()
    return data


def opened(_call: Call, response: WireResponse) -> WireResponse:
    """Return an answer of which only the head has been read."""
    return response


CHAT = Endpoint(method="POST", path=CHAT_PATH, decode=_completion, recorded=True)
CHAT_STREAM = Endpoint(method="POST", path=CHAT_PATH, decode=opened, stream=True, recorded=True)


def json_endpoint(method: str, path: str) -> Endpoint:
    """Return an endpoint whose answer is any JSON."""
    return Endpoint(method=method, path=path, decode=_json)


def _parameters(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return query parameters as they are written: ``None`` is left out, truth values are ``true`` and ``false``, lists are repeated."""

    def written(name: str, item: Any) -> Any:
        if isinstance(item, Mapping):
            raise e.InvalidRequestError(
                f"extra_query[{name!r}] must be a text, a number or a list of them, not a mapping"
            )
        return str(item).lower() if isinstance(item, bool) else item

    found: dict[str, Any] = {}
    for name, item in query.items():
        if isinstance(item, (list, tuple, set, frozenset)):
            found[name] = [written(name, one) for one in item if one is not None]
        elif item is not None:
            found[name] = written(name, item)
    return found


def _host(location: str) -> str:
    """Return the host a redirect points to, and nothing else of it: paths and queries may hold secrets."""
    try:
        return (urlsplit(location).hostname or "another place on the same host")[:100]
    except ValueError:
        return "an unreadable address"
