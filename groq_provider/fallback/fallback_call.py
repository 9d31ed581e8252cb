"""One call's way through several providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import errors as e
from groq_provider.call.breaker import CircuitBreaker, verdict
from groq_provider.config import Timeouts
from groq_provider.protocols import Provider
from groq_provider.types.request import LLMRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from groq_provider.cancel import CancelToken
    from groq_provider.fallback.fallback_provider import FallbackProvider
    from groq_provider.types.response import Attempt, LLMResponse

__all__ = ["FallbackCall", "Member", "MemberCall"]

#: No member is tried with less time left.
_LEAST_TIME = 0.05


@attrs.frozen(kw_only=True)
class Member:
    """A provider, what to ask of it, and whether to leave it alone for now."""

    provider: Provider
    model: str | None
    breaker: CircuitBreaker
    name: str


@attrs.frozen
class MemberCall:
    """What one member is asked."""

    request: LLMRequest
    timeout: Timeouts | None
    extras: dict[str, Any] = attrs.field(repr=False)


class FallbackCall:
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
        self._begun = self._clock.monotonic()
        self._before = 0.0  # seconds that went to members before the one asked last
        total = None if self._timeouts is None else self._timeouts.total
        self._deadline = None if total is None else self._begun + total
        self._left = list(owner.members)
        self._attempts: list[Attempt] = []
        self.cancel = cancel

    def later(self, action: Callable[[], None]) -> None:
        """See :meth:`FallbackProvider.later`."""
        self._owner.later(action)

    def run(self, ask: Callable[[Member, MemberCall], Any], *, commit: bool) -> Any:
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
                if len(self._left) + 1 < len(self._owner.members):
                    self._before = self._clock.monotonic() - self._begun
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
            final = self.failed(failure)
            if final is not None:
                raise final

    def failed(self, failure: e.GroqProviderError, *, last: bool = False) -> e.GroqProviderError | None:
        """Collect a member's attempts; return the error to raise, with those of all, or ``None`` if the next one is to be asked.

        Args:
            failure: What the member's call ended with.
            last: Whether nobody else is to be asked whatever it was.
        """
        self._attempts.extend(failure.attempts)
        failure.attempts = _renumbered(self._attempts)
        if failure.partial is not None:
            failure.partial = attrs.evolve(failure.partial, attempts=failure.attempts)
        if last or not self._left or not self._owner.moves_on(failure):
            return failure
        if self.cancel is not None and self.cancel.cancelled:
            return e.RequestCancelledError(
                "the call was cancelled", sent=failure.sent, attempts=failure.attempts, partial=failure.partial
            )
        in_time = self._deadline is None or self._deadline - self._clock.monotonic() > _LEAST_TIME
        return None if in_time else failure

    def completed(self, response: LLMResponse, *, noted: bool = False) -> LLMResponse:
        """Put the attempts and the time of all members on an answer. *noted*: its own attempts are among them already."""
        if not self._attempts and not self._before:
            return response
        own = () if noted else response.attempts
        timing = response.timing
        total = timing.total + self._before
        # What the members before did beside their attempts was waiting, for a limit or between retries.
        earlier = self._attempts[: len(self._attempts) - len(response.attempts)] if noted else self._attempts
        waited = max(self._before - sum([attempt.duration for attempt in earlier]), 0.0)
        tokens = response.usage.completion_tokens
        metadata = dict(response.provider_metadata)
        if "total_latency_ms" in metadata:
            metadata["total_latency_ms"] = round(total * 1000)
        return attrs.evolve(
            response,
            attempts=_renumbered([*self._attempts, *own]),
            timing=attrs.evolve(
                timing,
                total=total,
                wait=timing.wait + waited,
                overall_tokens_per_second=tokens / total if tokens and total > 0 else None,
            ),
            provider_metadata=metadata,
        )

    def _call(self, member: Member) -> MemberCall:
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
        return MemberCall(request, limits, extras)


def _renumbered(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    return tuple([attrs.evolve(attempt, number=number) for number, attempt in enumerate(attempts, start=1)])
