"""Several providers as one: the next answers when one cannot."""

from __future__ import annotations

import sys
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from groq_provider import errors as e
from groq_provider.breaker import BreakerPolicy, CircuitBreaker, verdict
from groq_provider.bulk import BulkRun
from groq_provider.cancel import CancelToken
from groq_provider.clock import Clock, SystemClock
from groq_provider.config import Timeouts
from groq_provider.protocols import Provider
from groq_provider.types.request import LLMRequest
from groq_provider.types.status import ProviderHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self, Unpack

    from groq_provider._defaults import ProviderType
    from groq_provider.breaker import Permit
    from groq_provider.stream import ResponseStream
    from groq_provider.types.fields import RequestFields
    from groq_provider.types.messages import Message
    from groq_provider.types.models import ModelCapability, ModelInfo
    from groq_provider.types.response import Attempt, LLMResponse, ResponseChunk

    Prompt = str | Message | Sequence[Message | Mapping[str, Any]] | LLMRequest
    Timeout = float | str | Timeouts | None

__all__ = ["FallbackProvider", "FallbackStream"]

#: No member is tried with less time left.
_LEAST_TIME = 0.05
#: Errors after which another member may do better. What is wrong with the request is wrong everywhere; a key that is refused is
#: for somebody to mend, not to hide.
_MOVE_ON = (
    e.CircuitOpenError,
    e.ProviderDisabledError,
    e.RateLimitTimeoutError,
    e.RateLimitedError,
    e.ProviderUnavailableError,
    e.TransportError,
    e.IncompleteResponseError,
    e.ResponseDecodeError,
    e.StreamError,
)


def _spent(error: e.GroqProviderError) -> bool:
    """Say whether this is a passing status without a class of its own (408, 425) that was tried again in vain."""
    return type(error) is e.APIStatusError and error.retryable


@attrs.frozen(kw_only=True)
class _Member:
    provider: Provider
    model: str | None
    breaker: CircuitBreaker
    name: str


class FallbackProvider:
    """Asks its members in turn until one answers; after a first chunk nothing moves any more.

    The next member is asked when one's circuit breaker is open, when its retries are spent, when its rate limit would need too long
    (*fallback_after*, the time left, or a limit of the day), or when it is disabled; never for a request that is wrong, a key that is
    refused, or a cancelled call. The answer says who gave it in ``provider`` and ``model``; ``attempts`` lists the tries of all.

    A pickled one comes out with new connections, figures and breakers, if its members pickle.

    Thread safety: as its members: any number of threads.

    Args:
        members: Providers, or pairs of a provider and the model to ask of it, best first. A bare backup of the same kind as the first
            member is asked for the request's model, one of another kind for its own default model.
        fallback_after: Seconds to wait in the rate limiter of a member that is not the last; ``None``: as long as its own limits say.
        fallback_on_decommissioned: Whether a model that was shut down may be answered by the next member.
        breaker: When a member is left alone for a while.
        clock: Time; for tests.

    Raises:
        ConfigurationError: No member, or something that is no provider.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        members: Iterable[Provider | tuple[Provider, str]],
        *,
        fallback_after: float | None = None,
        fallback_on_decommissioned: bool = False,
        breaker: BreakerPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self._own_clock = clock is None
        self._policy = breaker or BreakerPolicy()
        self._orphans: deque[Callable[[], None]] = deque()  # what finalizers could not do themselves
        if fallback_after is not None and (
            isinstance(fallback_after, bool) or not isinstance(fallback_after, (int, float)) or not fallback_after >= 0
        ):
            raise e.ConfigurationError(
                f"fallback_after = {fallback_after!r}: must be a number of seconds of at least 0, or None"
            )
        self.fallback_after = fallback_after
        self._on_decommissioned = fallback_on_decommissioned
        self.members = tuple([self._member(item, index, self._policy) for index, item in enumerate(members)])
        if not self.members:
            raise e.ConfigurationError("members is empty: give at least one provider")

    def _member(self, item: object, index: int, policy: BreakerPolicy) -> _Member:
        provider, model = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(provider, Provider) or not (model is None or (isinstance(model, str) and model)):
            raise e.ConfigurationError(
                f"members[{index}] must be a provider or a pair of a provider and a model name, not {type(item).__name__}"
            )
        name = f"{provider.get_name()}/{model}" if model else provider.get_name()
        return _Member(provider=provider, model=model, breaker=CircuitBreaker(policy, self.clock, name=name), name=name)

    def __repr__(self) -> str:
        if not hasattr(self, "members"):  # for tools that show the variables of a construction that failed
            return f"<{type(self).__name__} unfinished>"
        return (
            f"<{type(self).__name__} {', '.join(f'{member.name} ({member.breaker.state})' for member in self.members)}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        if not self._own_clock:
            raise TypeError("a FallbackProvider that was given a clock cannot be pickled: make it where it is used")
        return {
            "members": [
                member.provider if member.model is None else (member.provider, member.model) for member in self.members
            ],
            "fallback_after": self.fallback_after,
            "fallback_on_decommissioned": self._on_decommissioned,
            "breaker": self._policy,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # new breakers in the other process

    @property
    def breakers(self) -> tuple[tuple[str, str], ...]:
        """Each member's name and the state of its circuit breaker: ``closed``, ``open`` or ``half-open``."""
        return tuple([(member.name, member.breaker.state) for member in self.members])

    # --- generating --------------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt,
        *,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> LLMResponse:
        """Return a whole answer of the first member that gives one.

        Args:
            prompt: Text, messages, or a request.
            timeout: Seconds for all members together; see :meth:`GroqProvider.generate`. ``None``: each member's own limits.
            cancel: Ends the call.
            extra_headers: Sent to whichever member is asked, as are the two below: nothing for one member's eyes only.
            extra_body: Body fields this version does not know; they win over all others, but for the model of a pair.
            extra_query: Query parameters.
            fields: Request fields.

        Raises:
            GroqProviderError: What the last member asked ended with, with the attempts of all.
        """
        search = self._search(prompt, fields, timeout, cancel, extra_headers, extra_body, extra_query)
        # A traceback that shows local variables must not show these; a request hides its text.
        del prompt, fields, extra_headers, extra_body, extra_query
        if isinstance(search, e.GroqProviderError):
            raise search
        response: LLMResponse = search.run(
            lambda member, call: member.provider.generate(
                call.request, timeout=call.timeout, cancel=search.cancel, **call.extras
            ),
            commit=True,
        )
        return search.completed(response)

    def generate_stream(
        self,
        prompt: Prompt,
        *,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> FallbackStream:
        """Return the stream of the first member whose answer begins; arguments and errors as for :meth:`generate`."""
        search = self._search(prompt, fields, timeout, cancel, extra_headers, extra_body, extra_query)
        del prompt, fields, extra_headers, extra_body, extra_query  # as in generate()
        if isinstance(search, e.GroqProviderError):
            raise search
        return FallbackStream(search)

    def generate_many(
        self,
        requests: Iterable[Prompt],
        *,
        max_workers: int = 8,
        ordered: bool = True,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> BulkRun:
        """Return the answers to many requests, made by threads; see :meth:`GroqProvider.generate_many`."""
        try:
            LLMRequest.of("x", **fields)  # what is wrong for every item is one error, here
            limits = _limits(timeout)
            _check_token(cancel)
            return BulkRun(
                requests,
                lambda request, token: self.generate(request, timeout=limits, cancel=token),
                fields=dict(fields),
                max_workers=max_workers,
                ordered=ordered,
                cancel=cancel,
            )
        except e.GroqProviderError as error:
            problem = error
        del requests, fields  # as in generate()
        raise e.without_frames(problem)

    def _search(  # noqa: PLR0917 - private, and called with all of them
        self,
        prompt: Prompt,
        fields: Mapping[str, Any],
        timeout: Timeout,
        cancel: CancelToken | None,
        headers: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> _Search | e.GroqProviderError:
        """Return one call's way through the members, or what is wrong with it: raised here, its frames would show the prompt."""
        while self._orphans:
            try:
                self._orphans.popleft()()
            except IndexError:
                break  # another thread was quicker
        given = {"extra_headers": headers, "extra_body": body, "extra_query": query}
        try:
            _check_token(cancel)
            return _Search(
                self,
                LLMRequest.of(prompt, **fields),
                _limits(timeout),
                cancel,
                {name: extra for name, extra in given.items() if extra is not None},
            )
        except e.GroqProviderError as error:
            return e.without_frames(error)

    def later(self, action: Callable[[], None]) -> None:
        """Have *action* run by the next call: for finalizers, which must not touch a lock."""
        self._orphans.append(action)

    def moves_on(self, error: e.GroqProviderError) -> bool:
        """Say whether another member may do better after *error*."""
        if isinstance(error, e.ModelDecommissionedError):
            return self._on_decommissioned
        if isinstance(error, e.RedirectRefusedError):
            return False
        return isinstance(error, _MOVE_ON) or _spent(error)

    # --- the rest of a provider --------------------------------------------------------------------------------------------

    def get_type(self) -> ProviderType:
        """Return the first member's type."""
        return self.members[0].provider.get_type()

    def get_name(self) -> str:
        """Return the first member's name."""
        return self.members[0].provider.get_name()

    def get_models(self) -> tuple[ModelInfo, ...]:
        """Return the models of all members, each id once."""
        found = {
            model.id: model for member in reversed(self.members) for model in reversed(member.provider.get_models())
        }
        return tuple(reversed(found.values()))

    def get_capabilities(self) -> tuple[ModelCapability, ...]:
        """Return what the members together can do."""
        return tuple(
            dict.fromkeys(capability for member in self.members for capability in member.provider.get_capabilities())
        )

    def is_available(self) -> bool:
        """Say whether any member is worth trying; never raises, no I/O."""
        return any(member.provider.is_available() for member in self.members)

    def get_health(self) -> ProviderHealth:
        """Check the members in turn: the first one's health if that is good, "degraded" if only a later one is well."""
        first: ProviderHealth | None = None
        for member in self.members:
            health = member.provider.get_health()
            if health.status == "healthy":
                return (
                    health
                    if first is None
                    else attrs.evolve(
                        health, status="degraded", message=f"{self.get_name()} is {first.status}: {first.message}"
                    )
                )
            first = first or health
        return first or ProviderHealth()

    def close(self) -> None:
        """Close every member. Idempotent."""
        for member in self.members:
            member.provider.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _limits(timeout: Timeout) -> Timeouts | None:
    try:
        return Timeouts.of(timeout)
    except e.ConfigurationError as error:
        raise e.InvalidRequestError(str(error)) from None


def _check_token(cancel: object) -> None:
    if cancel is not None and not isinstance(cancel, CancelToken):
        raise e.InvalidRequestError(f"cancel must be a CancelToken, not {type(cancel).__name__}")


@attrs.frozen
class _MemberCall:
    """What one member is asked."""

    request: LLMRequest
    timeout: Timeouts | None
    extras: dict[str, Any] = attrs.field(repr=False)


class _Search:
    """One call's way through the members."""

    def __init__(
        self,
        owner: FallbackProvider,
        request: LLMRequest,
        timeouts: Timeouts | None,
        cancel: CancelToken | None,
        extras: dict[str, Any],
    ) -> None:
        self._owner = owner
        self._request = request
        self._timeouts = timeouts
        self._extras = extras
        self._clock = owner.clock
        total = None if self._timeouts is None else self._timeouts.total
        self._deadline = None if total is None else self._clock.monotonic() + total
        self._left = list(owner.members)
        self._attempts: list[Attempt] = []
        self.cancel = cancel

    def later(self, action: Callable[[], None]) -> None:
        """See :meth:`FallbackProvider.later`."""
        self._owner.later(action)

    def run(self, ask: Callable[[_Member, _MemberCall], Any], *, commit: bool) -> Any:
        """Ask members in turn until one answers.

        Args:
            ask: Makes the call.
            commit: Whether its return is the success to be counted; a stream's comes later.

        Raises:
            GroqProviderError: Of the last member asked.
        """
        while True:
            member = self._left.pop(0)
            try:
                permit = member.breaker.acquire()
            except e.CircuitOpenError as error:
                failure: e.GroqProviderError = error
            else:
                try:
                    answer = ask(member, self._call(member))
                except e.GroqProviderError as error:
                    member.breaker.report(permit, verdict(error), not_sent=error.sent is False)
                    failure = error
                except BaseException:
                    member.breaker.report(permit, None)
                    raise
                else:
                    if commit:
                        member.breaker.report(permit, True)
                        return answer
                    return answer, member, permit
            self.note(failure)
            if not self.goes_on(failure):
                raise failure

    def note(self, failure: e.GroqProviderError) -> None:
        """Collect a member's attempts; the error gets those of all."""
        self._attempts.extend(failure.attempts)
        failure.attempts = _renumbered(self._attempts)

    def goes_on(self, failure: e.GroqProviderError) -> bool:
        """Say whether there is somebody left to ask, and time for it."""
        if not self._left or not self._owner.moves_on(failure):
            return False
        if self.cancel is not None and self.cancel.cancelled:
            return False
        return self._deadline is None or self._deadline - self._clock.monotonic() > _LEAST_TIME

    def completed(self, response: LLMResponse) -> LLMResponse:
        """Put the attempts of all members on an answer."""
        if not self._attempts:
            return response
        return attrs.evolve(response, attempts=_renumbered([*self._attempts, *response.attempts]))

    def _call(self, member: _Member) -> _MemberCall:
        request = self._request
        if member.model is not None:
            request = attrs.evolve(request, model=member.model)
        elif member.provider.get_type() is not self._owner.get_type():
            request = attrs.evolve(request, model=None)
        limits = self._timeouts
        if self._deadline is not None and limits is not None:
            limits = attrs.evolve(limits, total=max(self._deadline - self._clock.monotonic(), _LEAST_TIME))
        if self._left and self._owner.fallback_after is not None:
            limits = limits or getattr(getattr(member.provider, "_config", None), "timeout", None) or Timeouts()
            longest = (
                self._owner.fallback_after if limits.wait is None else min(limits.wait, self._owner.fallback_after)
            )
            limits = attrs.evolve(limits, wait=max(longest, 0.001))
        extras = self._extras
        body = extras.get("extra_body")
        if member.model is not None and body and "model" in body:  # else every pair would be asked for the same one
            extras = {**extras, "extra_body": {name: text for name, text in body.items() if name != "model"}}
        return _MemberCall(request, limits, extras)


def _renumbered(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    return tuple([attrs.evolve(attempt, number=number) for number, attempt in enumerate(attempts, start=1)])


class FallbackStream:
    """A stream of the member that answers; the same face as :class:`~groq_provider.ResponseStream`.

    Until the first chunk another member may take over inside ``next()``; from there it is one member's stream.

    Thread safety: it belongs to one reading thread; :meth:`cancel` may be called from any.

    .. versionadded:: 0.1.0
    """

    def __init__(self, search: _Search) -> None:
        self._search = search
        self._error: e.GroqProviderError | None = None
        self._committed = False
        # One token for whichever member is being asked, so that a cancel reaches it also between two of them.
        self._token = CancelToken()
        self._outer, search.cancel = search.cancel, self._token
        self._handle = 0 if self._outer is None else self._outer.subscribe(self._token.cancel)
        try:
            self._open()
        except BaseException:
            self._leave()
            raise
        self._over = False  # last: a finalizer has nothing to give back before

    def _open(self) -> None:
        self._stream: ResponseStream
        self._member: _Member
        self._permit: Permit
        self._stream, self._member, self._permit = self._search.run(
            lambda member, call: member.provider.generate_stream(
                call.request, timeout=call.timeout, cancel=self._token, **call.extras
            ),
            commit=False,
        )

    def __repr__(self) -> str:
        if not hasattr(self, "_over"):
            return f"<{type(self).__name__} unfinished>"  # for tools that show variables
        return f"<{type(self).__name__} of {self._member.name}: {self._stream!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a FallbackStream cannot be pickled or copied: it holds a connection; take stream.response or stream.partial"
        )

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        while True:
            if self._error is not None:
                raise self._error
            try:
                chunk = next(self._stream)
                if not self._committed:
                    self._committed = True
                    self._report(True)
                return chunk  # noqa: TRY300 - in here: lost to an interrupt, it must not be followed by the next
            except StopIteration:
                self._end()
                raise
            except e.GroqProviderError as error:
                # Once begun well, which was counted, it counts again that it broke.
                self._report(verdict(error), not_sent=error.sent is False)
                self._search.note(error)
                if self._committed or not self._search.goes_on(error):
                    self._fail(error)
                    raise
            except BaseException:  # KeyboardInterrupt and the like
                self.close()
                raise
            self._move_on()

    def _move_on(self) -> None:
        self._stream.close()
        try:
            self._open()
        except e.GroqProviderError as error:
            self._fail(error)
            raise
        except BaseException:
            self._end()
            raise

    def _fail(self, error: e.GroqProviderError) -> None:
        self._error = error
        self._end()

    def _end(self) -> None:
        self._over = True
        self._leave()

    def _leave(self) -> None:
        if self._outer is not None:
            self._outer.unsubscribe(self._handle)

    def _report(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        breaker, permit = self._member.breaker, self._permit
        self._permit = permit._replace(probe=False)  # given back once; what follows counts as any call
        breaker.report(permit, outcome, not_sent=not_sent)

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for a chunk, the end or an error; see :meth:`ResponseStream.poll`.

        After an error before the first chunk ``next()`` asks the next member, and so may wait.
        """
        return self._error is not None or self._stream.poll(timeout)

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer."""
        for _ in self:
            pass
        return self.response

    @property
    def decode_errors(self) -> int:
        """Events whose bytes were not UTF-8; the broken parts read U+FFFD."""
        return self._stream.decode_errors

    @property
    def response(self) -> LLMResponse:
        """The whole answer, after the end; it says who gave it."""
        if self._error is not None:
            raise self._error
        return self._search.completed(self._stream.response)

    @property
    def partial(self) -> LLMResponse:
        """What has arrived so far."""
        return self._search.completed(self._stream.partial)

    def cancel(self) -> None:
        """End the stream now, from any thread."""
        self._token.cancel()

    def close(self) -> None:
        """Stop reading and free the connection. Idempotent."""
        if self._over:
            return
        self._end()
        if not self._committed:
            self._report(None)
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __del__(self, _finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if getattr(self, "_over", True) or _finalizing():
            return
        # No lock may be touched here. The member's stream sees to its connection; what is ours is given back with the next call.
        self._over = True
        breaker, permit, committed = self._member.breaker, self._permit, self._committed
        outer, handle = self._outer, self._handle

        def give_back() -> None:
            if not committed:
                breaker.report(permit, None)
            if outer is not None:
                outer.unsubscribe(handle)

        self._search.later(give_back)
