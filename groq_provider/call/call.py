"""One call from request to answer: a place in the limits, attempts, retries, and exactly one end.

Every call of a provider is one :class:`Call`: plain or streamed, single or an item of a bulk job. It makes attempts until one succeeds or
another one is not worth it. Each attempt gets a place in the limits, sends the request, and has the endpoint decode the answer. The call
then ends once, with :meth:`Call.succeeded`, :meth:`Call.finished`, :meth:`Call.failed` or :meth:`Call.abandoned`: the end settles the
reservation, tells the circuit breaker, and records the figures. A second end does nothing.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from groq_provider import errors as e
from groq_provider.call.arrival import LATE, LATE_AT_MOST, LEAST_SPAN, Arrival
from groq_provider.call.endpoint import Cost, Endpoint
from groq_provider.call.error_details import explain_limits, translate
from groq_provider.call.retry import retry_delay, timed
from groq_provider.config.urls import CHAT_PATH
from groq_provider.ratelimit.estimate import estimate_prompt_tokens, estimate_text_tokens
from groq_provider.transport.scope import CancelScope
from groq_provider.types._base import ReadOnly
from groq_provider.types.allowed import GROQ
from groq_provider.types.response import Attempt, LLMResponse, Timing, Usage
from groq_provider.wire import codec, json_text
from groq_provider.wire.failures import MAX_ERROR_BODY, error_from_object, error_from_response, reported_error
from groq_provider.wire.headers import parse_rate_limit
from groq_provider.wire.query import query_string
from groq_provider.wire.sse import is_stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.call.breaker import Admission
    from groq_provider.call.runtime import CallOptions, Runtime
    from groq_provider.protocols import RequestBody, Reservation, WireResponse
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.response import RateLimitInfo

__all__ = ["MAX_BODY", "MAX_STREAM", "Call"]

#: The largest plain answer in bytes. A larger one is a fault or an attack.
MAX_BODY = 64 << 20
#: The largest stream in bytes. Each token comes in an envelope of some 250 bytes, so 64 MiB would be too little for the longest answers.
MAX_STREAM = 256 << 20
#: The longest request id that is kept.
_MAX_REQUEST_ID = 200
_PROXY_AUTHENTICATION_REQUIRED = 407
#: How servers that do not know the option refuse to report the usage of a stream.
_REFUSING_STATUSES, _USAGE_WORDS = (400, 422), ("stream_options", "include_usage", "stream options")
#: No attempt starts with fewer seconds left: the service would bill it, and the call would end before the answer.
_LEAST_TIME = 0.05
#: The least ``RetryPolicy.patience`` of an item of a bulk run, in seconds. Among many workers the same item may be refused several times
#: before the pace of the server is known, and it must not be lost for that.
_BATCH_PATIENCE = 60.0


class Call:
    """One call: its time limits, its attempts, its reservation, its record.

    Thread safety: belongs to the thread that runs the call. Other threads may only use ``scope.cancel()``.

    Args:
        runtime: The parts that all calls of the provider share.
        options: The settings of this call.
        endpoint: The endpoint to ask.
        body: The body to send, or ``None``.
        cost: The charge to reserve in the limits; ``None`` reserves nothing.
        request: The request of a chat completion; ``None`` for other endpoints.
        started: Monotonic instant at which the call began; ``None`` means now.

    Attributes:
        http: Status and header fields of the newest answer.
        attempts: The attempts that have ended.
        reservation: The newest place in the limits.
        rate_limit: The limits that the newest answer named.
        request_id: The id that the service gave to the newest attempt.
        waited: Seconds waited so far, for the limits and between attempts.
    """

    # Defaults of state that few calls change: an object with more than thirty attributes of its own takes a kilobyte more.
    http: tuple[int, Mapping[str, str]] | None = None
    reservation: Reservation | None = None
    rate_limit: RateLimitInfo | None = None
    request_id: str | None = None
    waited = 0.0
    _retries = 0
    _retry_cost = 0.0
    _cancel_handle = 0
    _permit: Admission | None = None
    _success_reported = False
    _attempt_wait = 0.0
    #: Wall clock at the start of the attempt under way; ``None`` between attempts.
    _attempt_date: datetime | None = None
    _status: int | None = None
    #: Whether the service surely did no work on the attempt, so that no tokens are charged.
    _made_nothing = False
    _is_registered = False
    _has_ended = False

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
        self._query = query_string(endpoint.path, options.query) if options.query else ""
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
        patience = runtime.policy.patience
        self._patience = max(patience, _BATCH_PATIENCE) if options.batch else patience
        self._asked_usage = (
            endpoint.stream and runtime.ask_usage and request is not None and request.stream_options is None
        )
        self._attempt_started_at = self.started

    @classmethod
    def completion(cls, runtime: Runtime, request: LLMRequest, options: CallOptions, *, stream: bool) -> Call:
        """Return a call for a chat completion.

        Raises:
            InvalidRequestError: The request cannot be sent like this.
        """
        started = runtime.clock.monotonic()  # writing a long body takes time, which counts
        model = request.model or runtime.default_model
        if not model:
            raise e.InvalidRequestError("no model: name one in the request, or set default_model")
        max_output = request.max_output_tokens
        if max_output is not None:
            request = runtime.check_length(request, model)
            max_output = request.max_output_tokens
        body = codec.request_body(
            request,
            model=model,
            stream=stream,
            extra_body=options.extra_body,
            allowed=runtime.allowed or GROQ,
            ask_usage=runtime.ask_usage,
        )
        cost = Cost(model, estimate_prompt_tokens(request, runtime.tokenizer), max_output)
        endpoint = CHAT_STREAM if stream else CHAT
        return cls(runtime, options, endpoint, body, cost=cost, request=request, started=started)

    # --- the loop ----------------------------------------------------------------------------------------------------------

    def result(self) -> Any:
        """Make attempts until one succeeds or another one is not worth it; return the value that the endpoint decodes from the answer.

        A stream calls this again to retry after a failure before its first chunk.

        Raises:
            GroqProviderError: The error of the last attempt, with all attempts on it.
        """
        try:
            if not self._is_registered:
                self._register()
            while True:
                try:
                    self._reserve()
                except e.GroqProviderError as error:
                    final_error = self.failed(error)
                else:
                    try:
                        return self.endpoint.decode(self, self._send())
                    except e.GroqProviderError as error:
                        self.recover(error)
                    continue
                raise final_error
        except e.GroqProviderError:
            raise
        except BaseException:  # KeyboardInterrupt and the like: leave nothing behind
            self.abandoned()
            raise

    def _register(self) -> None:
        """Count the call as under way, and let the caller's token cancel it."""
        self._is_registered = True
        self.runtime.calls.add(self.scope)
        token = self.options.cancel
        if token is not None:
            self._cancel_handle = token.subscribe(self.scope.cancel)

    def _reserve(self) -> None:
        """Get the permission of the circuit breaker and a place in the limits for one attempt.

        Raises:
            GroqProviderError: One of them was refused; the call is over.
        """
        scope, runtime, options = self.scope, self.runtime, self.options
        if scope.cancelled:
            raise e.RequestCancelledError("the call was cancelled before it was sent", sent=False)
        if runtime.breaker is not None and self._permit is None and self.endpoint.recorded:
            self._permit = runtime.breaker.acquire()
        cost = self.cost
        if cost is not None:
            reservation = self.reservation = runtime.limiter.reserve(
                cost.model,
                prompt_tokens=cost.prompt_tokens,
                max_output_tokens=cost.max_output_tokens,
                deadline=self._wait_deadline,
                long_wait=runtime.policy.hint_cap if options.timeouts.wait is None else None,
                cancel=scope,
                batch=options.batch,
                arrival=None if self.reservation is None else self.reservation.arrival,
            )
            if reservation.wait:
                self._attempt_wait += reservation.wait
                self.waited += reservation.wait
                if self._is_out_of_time(0.0):
                    reservation.refund()
                    raise e.DeadlineExceededError(
                        f"the time limit of {options.timeouts.total:g} s was used up waiting for the rate limit; nothing was sent",
                        sent=False,
                    )
                scope.begin(options.timeouts.connect)
        self._attempt_started_at = runtime.clock.monotonic()
        self._attempt_date = runtime.clock.now()

    def recover(self, error: e.GroqProviderError, *, usage: Usage | None = None) -> None:
        """Record a failed attempt, and wait until the next one may begin.

        Args:
            error: The error of the attempt.
            usage: The tokens that a failed stream has used, as far as known.

        Raises:
            GroqProviderError: Another attempt is not worth it; the call is over.
        """
        error = self._translate(error)
        self._end_attempt(error, usage=usage)
        runtime, scope = self.runtime, self.scope
        if not self._drop_usage_option(error):
            is_patient = self._patience > 0 and timed(error)
            delay = None
            if self.options.retry:
                retries = 0 if is_patient else self._retries
                delay = retry_delay(error, retries=retries, policy=runtime.policy, rng=runtime.rng)
            if delay is not None and scope.cancelled:
                return  # the next step raises the error for a cancelled call, or a closed provider
            if delay is None or self._is_out_of_time(delay) or self._is_wait_too_long(error, delay):
                raise self.failed(error, is_recorded=True)
            cost = 0.0 if is_patient else runtime.budget.cost(error)
            if not runtime.budget.spend(cost):
                raise self.failed(error, is_recorded=True)
            self._retry_cost = cost
            if is_patient:
                self._patience -= max(delay, 1.0)  # so that hints of 0 s do not retry without an end
            else:
                self._retries += 1
            self._attempt_wait = self._sleep(delay)
            self.waited += self._attempt_wait
        self._status = self.request_id = None
        self._made_nothing = False
        scope.begin(self.options.timeouts.connect)

    def _drop_usage_option(self, error: e.GroqProviderError) -> bool:
        """Stop asking this server for the usage of streams if it refused that; return whether it did."""
        runtime, request, model = self.runtime, self.request, self.model
        if not (self._asked_usage and isinstance(error, e.APIStatusError) and error.status_code in _REFUSING_STATUSES):
            return False
        if request is None or model is None or not any(word in error.message for word in _USAGE_WORDS):
            return False
        runtime.ask_usage = self._asked_usage = False
        self._body = codec.request_body(
            request,
            model=model,
            stream=True,
            extra_body=self.options.extra_body,
            allowed=runtime.allowed or GROQ,
            ask_usage=False,
        )
        return True

    def _is_out_of_time(self, delay: float) -> bool:
        """Return whether too little of the total time is left for an attempt after *delay* seconds."""
        total = self.scope.total_deadline
        return total is not None and self.runtime.clock.monotonic() + delay + _LEAST_TIME > total

    def _is_wait_too_long(self, error: e.GroqProviderError, delay: float) -> bool:
        """Return whether *delay* is for a rate limit and longer than the call may wait for one, here or at the service."""
        deadline = self._wait_deadline if isinstance(error, e.RateLimitedError) else None
        return deadline is not None and self.runtime.clock.monotonic() + delay > deadline

    def _sleep(self, delay: float) -> float:
        """Wait before a retry; return the seconds waited, which are fewer if the call is cancelled meanwhile."""
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

    def _send(self) -> WireResponse:
        """Send the request once; return the answer if its status is good.

        Raises:
            GroqProviderError: The status is an error, or no answer came.
        """
        runtime, endpoint = self.runtime, self.endpoint
        response = runtime.transport.send(
            endpoint.method, endpoint.path, headers=self._headers, body=self._body, scope=self.scope, query=self._query
        )
        headers = response.headers
        status = self._status = response.status_code
        self.http = (status, headers)
        sent_id = headers.get("x-request-id")
        self.request_id = sent_id[:_MAX_REQUEST_ID] if sent_id else None
        self.rate_limit = parse_rate_limit(headers)
        if not 200 <= status < 300:
            raise self._refusal(response)
        if self.reservation is not None:
            self.reservation.feedback(self.rate_limit if runtime.learn else None, None)
        return response

    def _refusal(self, response: WireResponse) -> e.GroqProviderError:
        """Return the error for an answer without a good status."""
        runtime, status = self.runtime, response.status_code
        self._made_nothing = True
        if 300 <= status < 400:
            response.drain(self.scope)
            self._teach_limiter(None)
            host = _host(response.headers.get("location", ""))
            return e.RedirectRefusedError(
                f"the server redirects (status {status}) to {host}: check base_url; the request was not sent there",
                status_code=status,
                sent=True,
            )
        if status == _PROXY_AUTHENTICATION_REQUIRED:  # only a proxy sends this: the service has seen nothing
            response.drain(self.scope)
            self._made_nothing, self.scope.sent = False, False
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
        except e.GroqProviderError as problem:  # the status tells more than this
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
        self._name_other_model(error)
        error.sent = True
        self._teach_limiter(error if isinstance(error, e.RateLimitedError) else None)
        return error

    def _name_other_model(self, error: e.GroqProviderError) -> None:
        """Name the model to use instead of one that does not exist."""
        if isinstance(error, e.ModelDecommissionedError):
            error.replacement = self.runtime.replacement_for(self.model or "")
        elif isinstance(error, e.ModelNotFoundError):
            e.reword(error, error.message + self.runtime.nearest_to(self.model or ""))

    def _teach_limiter(self, limited: e.RateLimitedError | None) -> None:
        """Pass the limits that the answer named, and its refusal, to the limiter."""
        if limited is not None and not limited.retryable and limited.retry_after is None:
            limited = None  # a quota that is used up for good: no wait helps
        if self.reservation is not None:
            self.reservation.feedback(self.rate_limit if self.runtime.learn else None, limited)

    # --- reading the answer ------------------------------------------------------------------------------------------------

    def answer(self, data: Any) -> dict[str, Any]:
        """Return the fields of a whole chat completion.

        Raises:
            APIStatusError: The body is an error in spite of the good status.
            IncompleteResponseError: The answer ended with an error.
            ResponseDecodeError: The body is not a chat completion.
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
        """Return the error for an error object under a good status, of the class that its code or status gives.

        Args:
            found: The error object.
            made: Whether the service may have made a part of an answer; if not, no tokens are charged, as with an error status.
            request_id: The id that a chunk named.
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
        self._name_other_model(error)
        error.sent = True
        if isinstance(error, e.RateLimitedError) and self.reservation is not None:
            self.reservation.feedback(None, error)  # the limiter has read the headers already
        if not made:
            self.nothing_made()
        return error

    def nothing_made(self) -> None:
        """Note that the service made no part of an answer, so that no tokens are charged."""
        self._made_nothing = True

    def ended_badly(self, choice: Mapping[str, Any]) -> e.GroqProviderError:
        """Return the error for an answer that ended with ``finish_reason: "error"``. Some gateways give the cause inside the choice."""
        found = reported_error(choice)
        if found is not None:
            return self.reported(found, made=True)
        return e.IncompleteResponseError("the server ended the answer with finish_reason 'error'", sent=True)

    def read_json(self, response: WireResponse) -> Any:
        """Return the decoded body of any endpoint.

        Raises:
            GroqProviderError: The body cannot be read, or is an error object under a good status.
        """
        data = self.read_any_json(response)
        is_error = type(data) is dict and ("error" in data or data.get("object") == "error")
        # An object of the service with an id or with data may have an "error" among its fields.
        if is_error and not ("id" in data or data.get("data")):
            found = reported_error(data)
            if found is not None:
                raise self.reported(found, made=False)
        return data

    def read_any_json(self, response: WireResponse) -> Any:
        """Return the decoded body of an answer, even if it is an error object."""
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
            if is_stream(body):  # under a wrong content type
                raise self._unasked_stream() from None
            raise

    @staticmethod
    def read_bytes(response: WireResponse, limit: int = MAX_BODY) -> bytes:
        """Return the body of an answer."""
        try:
            return response.read_body(limit)
        except BaseException:  # KeyboardInterrupt and the like, too
            response.close()
            raise

    def _unasked_stream(self) -> e.ResponseDecodeError:
        return e.ResponseDecodeError("the server sent an event stream to a plain request", status_code=self._status)

    def empty_answer(self) -> e.ResponseDecodeError:
        """Return the error for an answer without a body. No tokens are charged for it."""
        self.nothing_made()
        return e.ResponseDecodeError(f"the answer is empty (status {self._status})", status_code=self._status)

    # --- the end: only the first one counts --------------------------------------------------------------------------------

    def _end(self) -> None:
        """Mark the call as over, and no longer count it as under way."""
        token = self.options.cancel
        if token is not None:
            token.unsubscribe(self._cancel_handle)
        self.runtime.calls.discard(self.scope)
        self._has_ended = True  # last, so that an interrupt before this line leaves the end to be repeated

    def finished(self) -> None:
        """End a call that succeeded, without usage to settle or figures to record."""
        if self._has_ended:
            return
        self._end()
        if self.reservation is not None:
            self.reservation.keep()
        self.runtime.budget.succeeded(self._retry_cost)

    def succeeded(
        self, fields: dict[str, Any], *, arrival: Arrival | None = None, output_size: int | None = None
    ) -> LLMResponse:
        """End a call that succeeded: settle, record, and return the answer.

        Args:
            fields: The fields of the answer.
            arrival: The arrival times of a stream.
            output_size: Characters of the answer, to estimate a missing usage; ``None`` means those of its content.
        """
        runtime = self.runtime
        now = runtime.clock.monotonic()
        usage = fields.get("usage")
        if usage is None:
            size = len(fields["content"]) if output_size is None else output_size
            usage = fields["usage"] = self.estimated_usage(size)
        timing = self._timing(usage, now, arrival)
        if not self._has_ended:
            self._end()
            runtime.answered_at = now
            if self._permit is not None:
                self._tell_breaker(True)
            self._add_attempt(None, now)
            is_reported = usage.source == "reported"
            if self.reservation is None:
                pass
            elif is_reported:
                self.reservation.settle(usage)
            else:
                self.reservation.keep()  # the service's own count is unknown until its next headers
            runtime.budget.succeeded(self._retry_cost)
            if self.endpoint.recorded and self.model is not None:
                runtime.tracker.record(
                    self.model,
                    total=timing.total,
                    wait=timing.wait,
                    first_token=timing.time_to_first_token,
                    tokens_per_second=timing.tokens_per_second if is_reported else None,
                )
        return self._response(fields, timing, metadata=True)

    def partial(self, fields: dict[str, Any], *, arrival: Arrival | None = None, output_size: int = 0) -> LLMResponse:
        """Return the part of an answer that has arrived, without a finish reason. The call goes on."""
        fields["finish_reason"] = None
        usage = fields.setdefault("usage", self.estimated_usage(output_size))
        return self._response(fields, self._timing(usage, self.runtime.clock.monotonic(), arrival), metadata=False)

    def failed(
        self, error: e.GroqProviderError, *, usage: Usage | None = None, is_recorded: bool = False
    ) -> e.GroqProviderError:
        """End a call that failed: settle, record, and return the error with everything known about the call.

        Args:
            error: The error of the last step.
            usage: The tokens that a failed stream has used, as far as known.
            is_recorded: Whether the attempt is on the list already.
        """
        error = self._translate(error)
        if not self._has_ended:
            self._end()
            if self._permit is not None:
                from groq_provider.call.breaker import verdict  # loaded already, since there is a breaker

                self._tell_breaker(verdict(error), not_sent=error.sent is False)
            if not is_recorded:
                self._end_attempt(error, usage=usage)
            if self.reservation is not None:
                self.reservation.keep()  # no effect after another settlement
            self._record(
                total=self.runtime.clock.monotonic() - self.started,
                wait=self.waited,
                ok=False,
                local=self._is_local(error),
            )
        if error.sent is None and isinstance(error, (e.ResponseError, e.StreamError)):
            error.sent = True  # a part of an answer came
        error.model = error.model or self.model
        error.provider = error.provider or self.runtime.provider
        error.request_id = error.request_id or self.request_id
        error.attempts = tuple(self.attempts)
        wait_limit = "total" if self._wait_deadline == self.scope.total_deadline else "wait"
        explain_limits(error, self.options.timeouts, self.runtime.policy, wait_limit=wait_limit)
        if error.retry_after is not None and error.retry_at is None:
            error.retry_at = self.runtime.clock.now() + timedelta(seconds=error.retry_after)
        return error

    def abandoned(self, usage: Usage | None = None, *, arrival: Arrival | None = None) -> None:
        """End a call that the caller left. This is no success and no failure of the service; a first token that came is recorded."""
        if self._has_ended:
            return
        self._end()
        self._tell_breaker(None)
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
        """Return whether a failure tells nothing about the service: the caller ended the call, or nothing was ever sent."""
        if isinstance(error, (e.RequestCancelledError, e.ProviderClosedError)):
            return True
        return all(attempt.sent is False for attempt in self.attempts)

    def _record(self, **figures: Any) -> None:
        if self.endpoint.recorded and self.model is not None:
            self.runtime.tracker.record(self.model, **figures)

    def committed(self) -> None:
        """Report success to the circuit breaker when a stream hands out its first chunk. A failure after that counts on its own."""
        if self._permit is not None:
            self._tell_breaker(True)

    def _tell_breaker(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        """Return the permit to the circuit breaker, if there is one, with the outcome."""
        permit, breaker = self._permit, self.runtime.breaker
        if permit is None or breaker is None or (self._success_reported and outcome is not False):
            return
        self._success_reported = True
        self._permit = permit._replace(probe=False)  # a probe ends once; a later failure counts like that of any call
        breaker.report(permit, outcome, not_sent=not_sent)

    def _translate(self, error: e.GroqProviderError) -> e.GroqProviderError:
        token = self.options.cancel
        closed = self.runtime.calls.closed and not (token is not None and token.cancelled)
        return translate(error, self.scope, total=self.options.timeouts.total, closed=closed)

    # --- records -----------------------------------------------------------------------------------------------------------

    def _end_attempt(self, error: e.GroqProviderError, usage: Usage | None = None) -> None:
        """Add a failed attempt to the list, and return the part of its reservation that was surely not used."""
        reservation = self.reservation
        if self._attempt_date is None:
            return  # the attempt never began: the limiter refused it
        self._add_attempt(error, self.runtime.clock.monotonic())
        if reservation is None:
            return
        if self._made_nothing:
            reservation.refund(keep_request=True)  # the service counted a request, but no tokens
        elif self.scope.sent is False:
            reservation.refund()
        elif usage is not None:
            reservation.settle(usage)
        else:
            reservation.keep()

    def _add_attempt(self, error: e.GroqProviderError | None, now: float) -> None:
        started = self._attempt_date
        if started is None:
            return
        self._attempt_date = None
        for _ in range(self.scope.resends):  # the connection was stale, so the transport sent the request once more
            number = len(self.attempts) + 1
            self.attempts.append(
                Attempt(
                    number=number, started_at=started, error="APIConnectionError", wait=self._attempt_wait, sent=None
                )
            )
            self._attempt_wait = 0.0
        self.attempts.append(
            Attempt(
                number=len(self.attempts) + 1,
                started_at=started,
                status_code=self._status,
                error=None if error is None else type(error).__name__,
                wait=self._attempt_wait,
                duration=now - self._attempt_started_at,
                request_id=self.request_id,
                sent=self.scope.sent if error is not None else True,
            )
        )
        self._attempt_wait = 0.0

    def estimated_usage(self, output_size: int) -> Usage:
        """Return an estimate for an answer without a usage report."""
        completion = estimate_text_tokens(output_size) if output_size else 0
        prompt = 0 if self.cost is None else self.cost.prompt_tokens
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=prompt + completion,
            source="estimated",
        )

    def first_token(self, arrival: Arrival, usage: Usage | None = None) -> float | None:
        """Return the seconds to the first token: as measured, or from the service's own times if the reader came too late to measure."""
        if arrival.first is None:
            return None
        sent_at = self.scope.sent_at or self._attempt_started_at
        measured = arrival.first - sent_at
        if arrival.first_late <= max(LATE * measured, LATE_AT_MOST):
            return measured
        if usage is None or usage.prompt_time is None:
            return None
        return min(max((usage.queue_time or 0.0) + usage.prompt_time, arrival.head - sent_at), measured)

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
            tokens_per_second=tokens / generating if tokens and generating and generating >= LEAST_SPAN else None,
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


def _unread(_call: Call, response: WireResponse) -> WireResponse:
    """Return the answer with its body unread, for a stream to read."""
    return response


CHAT = Endpoint(method="POST", path=CHAT_PATH, decode=_completion, recorded=True)
CHAT_STREAM = Endpoint(method="POST", path=CHAT_PATH, decode=_unread, stream=True, recorded=True)


def json_endpoint(method: str, path: str) -> Endpoint:
    """Return an endpoint that answers with any JSON."""
    return Endpoint(method=method, path=path, decode=_json)


def _host(location: str) -> str:
    """Return the host that a redirect points to, without path and query, which may hold secrets."""
    try:
        return (urlsplit(location).hostname or "another place on the same host")[:100]
    except ValueError:
        return "an unreadable address"
