"""``FallbackProvider``: asks its members in turn until one answers."""

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

#: Errors that another member may avoid. A request that is invalid is invalid everywhere; a refused key must be reported, since an answer
#: from another member would hide it.
_ASK_NEXT = (
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


def _is_passing_status(error: e.GroqProviderError) -> bool:
    """Say whether *error* is a temporary status without a class of its own (408, 425); its retries have failed by now."""
    return type(error) is e.APIStatusError and error.retryable


class FallbackProvider(Completions[FallbackStream]):
    """Asks its members in turn until one answers; after the first chunk of a stream it stays with that member.

    It asks the next member when a circuit breaker is open, when all retries failed, when a rate limit would need too long
    (*fallback_after*, the remaining time, or a limit of the day), or when a member is disabled. It never does so for an invalid request, a
    refused key or a cancelled call. The answer's ``provider`` and ``model`` name the member that gave it; ``attempts`` lists the attempts
    of all members, and ``timing`` begins with the call.

    A *timeout* is for all members together; without one each member's own limits apply. *extra_headers*, *extra_body* and *extra_query*
    go to every member that is asked, so you must put nothing there that only one of them may see. The model of a pair wins over
    *extra_body*.

    You can pickle it if its members can be pickled; the copy has new connections, figures and breakers.

    Thread safety: you may use it from any number of threads, if its members allow it.

    Args:
        members: Providers, or pairs of a provider and the model to ask of it, best first. A provider without a model is asked for the
            request's model if it is of the same type as the first member, else for its own default model.
        fallback_after: The longest wait, in seconds, in the rate limiter of a member that is not the last; ``None``: as long as its own
            limits allow.
        fallback_on_decommissioned: Whether to ask the next member when a model was shut down.
        breaker: When to stop asking a member for a while.
        clock: Clock for tests.

    Raises:
        ConfigurationError: *members* is empty or holds something else, or *fallback_after* is not a number of at least 0.

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
        self._deferred: deque[Callable[[], None]] = deque()  # actions of finalizers, which the next call runs
        if fallback_after is not None and (
            isinstance(fallback_after, bool) or not isinstance(fallback_after, (int, float)) or not fallback_after >= 0
        ):
            raise e.ConfigurationError(
                f"fallback_after = {fallback_after!r}: must be a number of seconds of at least 0, or None"
            )
        self.fallback_after = fallback_after
        self._on_decommissioned = fallback_on_decommissioned
        named_members: list[Member] = []
        for index, item in enumerate(members):
            used_names = {member.name for member in named_members}
            named_members.append(self._make_member(item, index, used_names))
        self.members = tuple(named_members)
        if not self.members:
            raise e.ConfigurationError("members is empty: give at least one provider")

    def _make_member(self, item: object, index: int, used_names: set[str]) -> Member:
        provider, model = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(provider, Provider) or not (model is None or (isinstance(model, str) and model)):
            raise e.ConfigurationError(
                f"members[{index}] must be a provider or a pair of a provider and a model name, not {type(item).__name__}"
            )
        name = plain_name = f"{provider.get_name()}/{model}" if model else provider.get_name()
        while name in used_names:  # for example two keys of one service
            name = f"{plain_name} #{index + 1}"
            index += 1
        breaker = CircuitBreaker(self._policy, self.clock, name=name)
        return Member(provider=provider, model=model, breaker=breaker, name=name)

    def __repr__(self) -> str:
        if not hasattr(self, "members"):  # a debugger shows objects of failed constructions
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
        self.__init__(**state)  # type: ignore[misc]  # makes new breakers

    @property
    def breakers(self) -> tuple[tuple[str, str], ...]:
        """Each member's name and the state of its circuit breaker: ``closed``, ``open`` or ``half-open``."""
        return tuple([(member.name, member.breaker.state) for member in self.members])

    # --- generating --------------------------------------------------------------------------------------------------------

    def _generate(self, request: LLMRequest, *arguments: Any) -> LLMResponse:
        fallback_call = self._start_call(request, *arguments)
        response: LLMResponse = fallback_call.run(
            lambda member, call: member.provider.generate(
                call.request, timeout=call.timeout, cancel=fallback_call.cancel, **call.extras
            ),
            commit=True,
        )
        return fallback_call.complete(response)

    def _stream(self, request: LLMRequest, *arguments: Any) -> FallbackStream:
        return FallbackStream(self._start_call(request, *arguments))

    def _answer_item(self, request: LLMRequest, *, timeout: Timeouts | None, cancel: CancelToken | None) -> LLMResponse:
        fallback_call = self._start_call(request, timeout, cancel, None, None, None)

        def ask(member: Member, call: MemberCall) -> LLMResponse:
            # Providers of this package put an item of a bulk run into their limiter's class ``batch``.
            answer_item = getattr(member.provider, "_answer_item", member.provider.generate)
            answer: LLMResponse = answer_item(call.request, timeout=call.timeout, cancel=fallback_call.cancel)
            return answer

        response: LLMResponse = fallback_call.run(ask, commit=True)
        return fallback_call.complete(response)

    def _start_call(  # noqa: PLR0917 - private; each caller passes them all
        self,
        request: LLMRequest,
        timeout: Timeout,
        cancel: CancelToken | None,
        extra_headers: Mapping[str, str] | None,
        extra_body: Mapping[str, Any] | None,
        extra_query: Mapping[str, Any] | None,
    ) -> FallbackCall:
        """Run the deferred actions of finalizers, check the arguments, and return the call."""
        while self._deferred:
            try:
                self._deferred.popleft()()
            except IndexError:
                break  # another thread took the last action
        check_cancel(cancel)
        all_extras = {"extra_headers": extra_headers, "extra_body": extra_body, "extra_query": extra_query}
        extras = {name: extra for name, extra in all_extras.items() if extra is not None}
        return FallbackCall(self, request, timeouts_of(timeout), cancel, extras)

    def run_with_next_call(self, action: Callable[[], None]) -> None:
        """Have the next call run *action*; for finalizers, which must not wait for a lock."""
        self._deferred.append(action)

    def should_ask_next(self, error: e.GroqProviderError) -> bool:
        """Say whether another member may answer where one failed with *error*."""
        if isinstance(error, e.ModelDecommissionedError):
            return self._on_decommissioned
        if isinstance(error, e.RedirectRefusedError):
            return False
        return isinstance(error, _ASK_NEXT) or _is_passing_status(error)

    # --- the rest of a provider --------------------------------------------------------------------------------------------

    def get_type(self) -> ProviderType:
        """Return the first member's type."""
        return self.members[0].provider.get_type()

    def get_name(self) -> str:
        """Return the first member's name."""
        return self.members[0].provider.get_name()

    def get_models(self) -> tuple[ModelInfo, ...]:
        """Return the models of all members, each id once."""
        models_by_id = {
            model.id: model for member in reversed(self.members) for model in reversed(member.provider.get_models())
        }
        return tuple(reversed(models_by_id.values()))

    def get_capabilities(self) -> tuple[ModelCapability, ...]:
        """Return the capabilities of all members, each once."""
        return tuple(
            dict.fromkeys(capability for member in self.members for capability in member.provider.get_capabilities())
        )

    def is_available(self) -> bool:
        """Say whether any member is worth a try. Never raises, does no I/O."""
        return any(member.provider.is_available() for member in self.members)

    def get_health(self) -> ProviderHealth:
        """Check the members in turn until one is healthy.

        Returns:
            The health of the first member if it is healthy or if no member is; ``"degraded"`` if only a later one is healthy.
        """
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
