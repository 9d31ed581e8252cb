"""Several providers as one: the next answers when one cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import errors as e
from groq_provider.breaker import BreakerPolicy, CircuitBreaker, verdict
from groq_provider.bulk import BulkRun
from groq_provider.clock import Clock, SystemClock
from groq_provider.config import Timeouts
from groq_provider.protocols import Provider
from groq_provider.types.request import LLMRequest
from groq_provider.types.status import ProviderHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self, Unpack

    from groq_provider.cancel import CancelToken
    from groq_provider.stream import ResponseStream
    from groq_provider.types.fields import RequestFields
    from groq_provider.types.messages import Message
    from groq_provider.types.models import ModelCapability, ModelInfo, ProviderType
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
        policy = breaker or BreakerPolicy()
        if fallback_after is not None and (
            isinstance(fallback_after, bool) or not isinstance(fallback_after, (int, float)) or not fallback_after >= 0
        ):
            raise e.ConfigurationError(
                f"fallback_after = {fallback_after!r}: must be a number of seconds of at least 0, or None"
            )
        self.fallback_after = fallback_after
        self._on_decommissioned = fallback_on_decommissioned
        self.members = tuple([self._member(item, index, policy) for index, item in enumerate(members)])
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
        return (
            f"<{type(self).__name__} {', '.join(f'{member.name} ({member.breaker.state})' for member in self.members)}>"
        )

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
        **fields: Unpack[RequestFields],
    ) -> LLMResponse:
        """Return a whole answer of the first member that gives one.

        Args:
            prompt: Text, messages, or a request.
            timeout: Seconds for all members together; see :meth:`GroqProvider.generate`.
            cancel: Ends the call.
            fields: Request fields.

        Raises:
            GroqProviderError: What the last member asked ended with, with the attempts of all.
        """
        search = _Search(self, LLMRequest.of(prompt, **fields), timeout, cancel)
        response: LLMResponse = search.run(
            lambda member, call: member.provider.generate(call.request, timeout=call.timeout, cancel=cancel),
            commit=True,
        )
        return search.completed(response)

    def generate_stream(
        self,
        prompt: Prompt,
        *,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> FallbackStream:
        """Return the stream of the first member whose answer begins; arguments and errors as for :meth:`generate`."""
        return FallbackStream(_Search(self, LLMRequest.of(prompt, **fields), timeout, cancel))

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
        return BulkRun(
            requests,
            lambda request, token: self.generate(request, timeout=timeout, cancel=token),
            fields=dict(fields),
            max_workers=max_workers,
            ordered=ordered,
            cancel=cancel,
        )

    def moves_on(self, error: e.GroqProviderError) -> bool:
        """Say whether another member may do better after *error*."""
        if isinstance(error, e.ModelDecommissionedError):
            return self._on_decommissioned
        if isinstance(error, e.RedirectRefusedError):
            return False
        return isinstance(error, _MOVE_ON)

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


@attrs.frozen
class _MemberCall:
    """What one member is asked."""

    request: LLMRequest
    timeout: Timeouts | None


class _Search:
    """One call's way through the members."""

    def __init__(
        self, owner: FallbackProvider, request: LLMRequest, timeout: Timeout, cancel: CancelToken | None
    ) -> None:
        self._owner = owner
        self._request = request
        self._timeouts = Timeouts.of(timeout)
        self._clock = owner.clock
        total = None if self._timeouts is None else self._timeouts.total
        self._deadline = None if total is None else self._clock.monotonic() + total
        self._left = list(owner.members)
        self._attempts: list[Attempt] = []
        self.cancel = cancel

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
        return _MemberCall(request, limits)


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
        self._committed = False
        self._cancelled = False
        self._open()

    def _open(self) -> None:
        self._stream: ResponseStream
        self._stream, self._member, self._permit = self._search.run(
            lambda member, call: member.provider.generate_stream(
                call.request, timeout=call.timeout, cancel=self._search.cancel
            ),
            commit=False,
        )
        if self._cancelled:
            self._stream.cancel()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._member.name}: {self._stream!r}>"

    def __iter__(self) -> Iterator[ResponseChunk]:
        return self

    def __next__(self) -> ResponseChunk:
        while True:
            try:
                chunk = next(self._stream)
            except StopIteration:
                raise
            except e.GroqProviderError as error:
                if self._committed:
                    # It began well, which was counted, and broke, which counts as well.
                    self._report(verdict(error))
                    raise
                self._report(verdict(error), not_sent=error.sent is False)
                self._search.note(error)
                if not self._search.goes_on(error):
                    raise
            else:
                if not self._committed:
                    self._committed = True
                    self._report(True)
                return chunk
            self._stream.close()
            self._open()

    def _report(self, outcome: bool | None, *, not_sent: bool = False) -> None:
        breaker = self._member.breaker
        breaker.report(self._permit, outcome, not_sent=not_sent)
        if self._permit.probe:
            self._permit = self._permit._replace(probe=False)  # given back; what follows counts as any call

    def poll(self, timeout: float = 0.0) -> bool:
        """Wait up to *timeout* seconds for a chunk, the end or an error; see :meth:`ResponseStream.poll`."""
        return self._stream.poll(timeout)

    def collect(self) -> LLMResponse:
        """Read to the end and return the whole answer."""
        for _ in self:
            pass
        return self.response

    @property
    def response(self) -> LLMResponse:
        """The whole answer, after the end; it says who gave it."""
        return self._search.completed(self._stream.response)

    @property
    def partial(self) -> LLMResponse:
        """What has arrived so far."""
        return self._search.completed(self._stream.partial)

    def cancel(self) -> None:
        """End the stream now, from any thread."""
        self._cancelled = True
        self._stream.cancel()

    def close(self) -> None:
        """Stop reading and free the connection. Idempotent."""
        if not self._committed:
            self._committed = True
            self._report(None)
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
