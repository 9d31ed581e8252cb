"""Several providers as one: the next answers when one cannot."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import errors as e
from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker
from groq_provider.clock import Clock, SystemClock
from groq_provider.completions import Completions, check_cancel, timeouts_of
from groq_provider.fallback.fallback_call import FallbackCall, Member, MemberCall
from groq_provider.fallback.fallback_stream import FallbackStream
from groq_provider.protocols import Provider
from groq_provider.types.status import ProviderHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from typing_extensions import Self

    from groq_provider.cancel import CancelToken
    from groq_provider.config import Timeouts
    from groq_provider.config.defaults import ProviderType
    from groq_provider.types.messages import Message
    from groq_provider.types.model_info import ModelCapability, ModelInfo
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.response import LLMResponse

    Prompt = str | Message | Sequence[Message | Mapping[str, Any]] | LLMRequest
    Timeout = float | str | Timeouts | None

__all__ = ["FallbackProvider"]

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


class FallbackProvider(Completions[FallbackStream]):
    """Asks its members in turn until one answers; after a first chunk nothing moves any more.

    The next member is asked when one's circuit breaker is open, when its retries are spent, when its rate limit would need too long
    (*fallback_after*, the time left, or a limit of the day), or when it is disabled; never for a request that is wrong, a key that is
    refused, or a cancelled call. The answer says who gave it in ``provider`` and ``model``; ``attempts`` lists the tries of
    all, and ``timing`` begins with the call. A *timeout* is for all members together; without one each member's own limits hold.
    *extra_headers*, *extra_body* and *extra_query* go to every member that is asked, so they must hold nothing that only one may see; the
    model of a pair wins over *extra_body*.

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
        made: list[Member] = []
        for index, item in enumerate(members):
            made.append(self._member(item, index, self._policy, {member.name for member in made}))
        self.members = tuple(made)
        if not self.members:
            raise e.ConfigurationError("members is empty: give at least one provider")

    def _member(self, item: object, index: int, policy: BreakerPolicy, taken: set[str]) -> Member:
        provider, model = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(provider, Provider) or not (model is None or (isinstance(model, str) and model)):
            raise e.ConfigurationError(
                f"members[{index}] must be a provider or a pair of a provider and a model name, not {type(item).__name__}"
            )
        name = plain = f"{provider.get_name()}/{model}" if model else provider.get_name()
        while name in taken:  # two keys of one service, say
            name = f"{plain} #{index + 1}"
            index += 1
        return Member(provider=provider, model=model, breaker=CircuitBreaker(policy, self.clock, name=name), name=name)

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

    def _generate(self, request: LLMRequest, *arguments: Any) -> LLMResponse:
        search = self._search(request, *arguments)
        response: LLMResponse = search.run(
            lambda member, call: member.provider.generate(
                call.request, timeout=call.timeout, cancel=search.cancel, **call.extras
            ),
            commit=True,
        )
        return search.completed(response)

    def _stream(self, request: LLMRequest, *arguments: Any) -> FallbackStream:
        return FallbackStream(self._search(request, *arguments))

    def _answer_item(self, request: LLMRequest, *, timeout: Timeouts | None, cancel: CancelToken | None) -> LLMResponse:
        search = self._search(request, timeout, cancel, None, None, None)

        def ask(member: Member, call: MemberCall) -> LLMResponse:
            of_provider = getattr(member.provider, "_answer_item", member.provider.generate)
            answer: LLMResponse = of_provider(call.request, timeout=call.timeout, cancel=search.cancel)
            return answer

        response: LLMResponse = search.run(ask, commit=True)
        return search.completed(response)

    def _search(  # noqa: PLR0917 - private, and called with all of them
        self,
        request: LLMRequest,
        timeout: Timeout,
        cancel: CancelToken | None,
        extra_headers: Mapping[str, str] | None,
        extra_body: Mapping[str, Any] | None,
        extra_query: Mapping[str, Any] | None,
    ) -> FallbackCall:
        """Return one call's way through the members."""
        while self._orphans:
            try:
                self._orphans.popleft()()
            except IndexError:
                break  # another thread was quicker
        check_cancel(cancel)
        given = {"extra_headers": extra_headers, "extra_body": extra_body, "extra_query": extra_query}
        extras = {name: extra for name, extra in given.items() if extra is not None}
        return FallbackCall(self, request, timeouts_of(timeout), cancel, extras)

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
