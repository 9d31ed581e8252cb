"""One call's way through the members of a fallback provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import attrs

from groq_provider import errors as e
from groq_provider.call.breaker import CircuitBreaker, verdict
from groq_provider.config import Timeouts
from groq_provider.protocols import Provider
from groq_provider.types.request import LLMRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.config.defaults import ProviderType
    from groq_provider.types.response import Attempt, LLMResponse

__all__ = ["FallbackCall", "Member", "MemberCall"]

#: Seconds. With less time than this the next member is not asked.
_LEAST_TIME = 0.05


@attrs.frozen(kw_only=True)
class Member:
    """A provider, the model to ask of it, and the circuit breaker that may exclude it for a while."""

    provider: Provider
    model: str | None
    breaker: CircuitBreaker
    name: str


@attrs.frozen
class MemberCall:
    """The arguments of one member's call."""

    request: LLMRequest
    timeout: Timeouts | None
    extras: dict[str, Any] = attrs.field(repr=False)


class Owner(Protocol):
    """The provider of a call, as far as the call needs it; named here, so that no import leads back to it."""

    clock: Clock
    fallback_after: float | None
    members: tuple[Member, ...]

    def get_type(self) -> ProviderType: ...
    def run_with_next_call(self, action: Callable[[], None]) -> None: ...
    def should_ask_next(self, error: e.GroqProviderError) -> bool: ...


class FallbackCall:
    """Asks the members in turn, and collects their attempts.

    Attributes:
        cancel: Ends the call; a stream replaces it by a token of its own.
    """

    def __init__(
        self,
        owner: Owner,
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
        self._started_at = self._clock.monotonic()
        self._earlier_seconds = 0.0  # spent on members before the one asked last
        total = None if self._timeouts is None else self._timeouts.total
        self._deadline = None if total is None else self._started_at + total
        self._remaining_members = list(owner.members)
        self._attempts: list[Attempt] = []
        self.cancel = cancel

    def run_with_next_call(self, action: Callable[[], None]) -> None:
        """See :meth:`FallbackProvider.run_with_next_call`."""
        self._owner.run_with_next_call(action)

    def run(self, ask: Callable[[Member, MemberCall], Any], *, commit: bool) -> Any:
        """Ask members in turn until one answers.

        Args:
            ask: Calls one member.
            commit: Whether a return of *ask* counts as the member's success. A stream passes false, since its success is the first chunk.

        Returns:
            The answer; without *commit* also the member that gave it and the permit of its circuit breaker.

        Raises:
            GroqProviderError: The error of the last member asked, with the attempts of all.
        """
        while True:
            member = self._remaining_members.pop(0)
            try:
                permit = member.breaker.acquire()
            except e.CircuitOpenError as error:
                failure: e.GroqProviderError = error
            else:
                if len(self._remaining_members) + 1 < len(self._owner.members):
                    self._earlier_seconds = self._clock.monotonic() - self._started_at
                try:
                    answer = ask(member, self._arguments_for(member))
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
            final_error = self.record_failure(failure)
            if final_error is not None:
                raise final_error

    def record_failure(self, failure: e.GroqProviderError, *, is_final: bool = False) -> e.GroqProviderError | None:
        """Record a member's attempts; return the error to raise, or ``None`` if the caller should ask the next member.

        Args:
            failure: The error of the member's call; it gets the attempts of all members.
            is_final: Whether no other member may be asked, whatever the error.
        """
        self._attempts.extend(failure.attempts)
        failure.attempts = _renumbered(self._attempts)
        if failure.partial is not None:
            failure.partial = attrs.evolve(failure.partial, attempts=failure.attempts)
        if is_final or not self._remaining_members or not self._owner.should_ask_next(failure):
            return failure
        if self.cancel is not None and self.cancel.cancelled:
            return e.RequestCancelledError(
                "the call was cancelled", sent=failure.sent, attempts=failure.attempts, partial=failure.partial
            )
        has_time = self._deadline is None or self._deadline - self._clock.monotonic() > _LEAST_TIME
        return None if has_time else failure

    def complete(self, response: LLMResponse, *, has_failed: bool = False) -> LLMResponse:
        """Return *response* with the attempts and the time of all members.

        Args:
            response: The answer of the member asked last.
            has_failed: Whether its member failed after all, so that its attempts have been recorded.
        """
        if not self._attempts and not self._earlier_seconds:
            return response
        own_attempts = () if has_failed else response.attempts
        timing = response.timing
        total = timing.total + self._earlier_seconds
        # The time of earlier members outside their attempts was waiting, for a limit or between retries.
        recorded = self._attempts
        earlier_attempts = recorded[: len(recorded) - len(response.attempts)] if has_failed else recorded
        waited_seconds = max(self._earlier_seconds - sum([attempt.duration for attempt in earlier_attempts]), 0.0)
        tokens = response.usage.completion_tokens
        metadata = dict(response.provider_metadata)
        if "total_latency_ms" in metadata:
            metadata["total_latency_ms"] = round(total * 1000)
        return attrs.evolve(
            response,
            attempts=_renumbered([*self._attempts, *own_attempts]),
            timing=attrs.evolve(
                timing,
                total=total,
                wait=timing.wait + waited_seconds,
                overall_tokens_per_second=tokens / total if tokens and total > 0 else None,
            ),
            provider_metadata=metadata,
        )

    def _arguments_for(self, member: Member) -> MemberCall:
        request = self._request
        if member.model is not None:
            request = attrs.evolve(request, model=member.model)
        elif member.provider.get_type() is not self._owner.get_type():
            request = attrs.evolve(request, model=None)
        limits = self._timeouts
        if self._deadline is not None and limits is not None:
            limits = attrs.evolve(limits, total=max(self._deadline - self._clock.monotonic(), _LEAST_TIME))
        if self._remaining_members and self._owner.fallback_after is not None:
            limits = limits or getattr(getattr(member.provider, "_config", None), "timeout", None) or Timeouts()
            longest_wait = self._owner.fallback_after
            if limits.wait is not None:
                longest_wait = min(limits.wait, longest_wait)
            limits = attrs.evolve(limits, wait=max(longest_wait, 0.001))
        extras = self._extras
        body = extras.get("extra_body")
        if member.model is not None and body and "model" in body:
            # The model of a pair wins; otherwise every member would be asked for the same one.
            extras = {**extras, "extra_body": {name: value for name, value in body.items() if name != "model"}}
        return MemberCall(request, limits, extras)


def _renumbered(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    return tuple([attrs.evolve(attempt, number=number) for number, attempt in enumerate(attempts, start=1)])
