"""Estimate the cost of a call from the caller's figures and from earlier calls.

Not thread-safe by itself: the lock of the :class:`~groq_provider.ratelimit.model.ModelLimiter` guards it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from groq_provider.ratelimit.bucket import FULL_SHARE

if TYPE_CHECKING:
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.types.response import Usage

__all__ = ["Estimate", "Estimator", "actual_cost"]

#: Assumed length of an answer before any is known. The catalogue's maximum would fit into no limit.
FIRST_OUTPUT = 1024

_PROMPT_MARGIN = 50_000  # millionths on top of the corrected prompt estimate
_NEWEST_WEIGHT = 0.1  # of the newest sample in the moving averages
_SAMPLE_COUNT = 128  # recent answers that the 99th percentile covers
# The chat template multiplies the tokens of tiny prompts; long prompts must not be multiplied by that ratio.
_LOWEST_RATIO, _HIGHEST_RATIO = 0.5, 2.0


class Estimate(NamedTuple):
    """The estimated cost of a call."""

    cost: Cost
    """The cost to reserve."""
    need: Cost
    """The least possible cost, without margins: decides whether the call can ever fit."""
    prompt_tokens: int
    """The caller's own estimate of the prompt, to learn from."""


class Estimator:
    """Corrects the prompt estimates of one model, and guesses the length of its answers.

    Attributes:
        output_yield: Used fraction of the reserved output tokens. Rises from 0, so that few samples give a low bound.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_mean_counted", "_mean_estimated", "_output_p99", "_prompt_factor", "_recent_outputs", "output_yield")

    def __init__(self) -> None:
        self._prompt_factor = FULL_SHARE + _PROMPT_MARGIN
        self._mean_estimated = self._mean_counted = 0.0
        self._recent_outputs: deque[int] = deque(maxlen=_SAMPLE_COUNT)
        self._output_p99: int | None = FIRST_OUTPUT  # None: compute it again
        self.output_yield = 0.0

    def estimate(self, prompt_tokens: int, output_tokens: int) -> Estimate:
        """Return the estimated cost of a call. Reads one number, so it needs no lock."""
        corrected_prompt = -(-prompt_tokens * self._prompt_factor // FULL_SHARE)
        least_prompt = prompt_tokens if prompt_tokens < corrected_prompt else corrected_prompt  # noqa: FURB136 - min() costs three times as much
        return Estimate(
            (1, corrected_prompt + output_tokens, corrected_prompt, output_tokens),
            (1, least_prompt + output_tokens, least_prompt, output_tokens),
            prompt_tokens,
        )

    def estimate_without_maximum(self, prompt_tokens: int) -> Estimate:
        """Return the estimated cost of a call without a maximum length; the guessed length alone never makes it too large."""
        with_output = self.estimate(prompt_tokens, self.expected_output())
        least_prompt = with_output.need[2]
        return Estimate(with_output.cost, (1, least_prompt, least_prompt, 0), prompt_tokens)

    def expected_output(self) -> int:
        """Return the length to assume for an answer without a maximum: the 99th percentile of recent answers (nearest rank)."""
        if self._output_p99 is None:
            ordered = sorted(self._recent_outputs)
            self._output_p99 = ordered[-(-len(ordered) * 99 // 100) - 1]
        return self._output_p99

    def certain_cost(self, cost: Cost) -> Cost:
        """Return the part of *cost* that will almost surely be used: the prompt, and the usual fraction of the output."""
        output_tokens = int(cost[3] * self.output_yield)
        return 1, cost[2] + output_tokens, cost[2], output_tokens

    def learn_usage(self, prompt_tokens: int, output_tokens: int, usage: Usage) -> None:
        """Correct the estimates by the service's own count.

        Args:
            prompt_tokens: The caller's estimate.
            output_tokens: Output tokens reserved.
            usage: The service's count.
        """
        if prompt_tokens > 0 and usage.prompt_tokens > 0:
            # A ratio of averages, not an average of ratios: long prompts must weigh more, as they do in the limit.
            self._mean_estimated += _NEWEST_WEIGHT * (prompt_tokens - self._mean_estimated)
            self._mean_counted += _NEWEST_WEIGHT * (usage.prompt_tokens - self._mean_counted)
            ratio = self._mean_counted / self._mean_estimated
            if not _LOWEST_RATIO <= ratio <= _HIGHEST_RATIO:
                ratio = min(max(ratio, _LOWEST_RATIO), _HIGHEST_RATIO)
            self._prompt_factor = round(ratio * (FULL_SHARE + _PROMPT_MARGIN))
        self._recent_outputs.append(usage.completion_tokens)
        self._output_p99 = None
        if output_tokens > 0:
            self.output_yield += _NEWEST_WEIGHT * (
                min(usage.completion_tokens / output_tokens, 1.0) - self.output_yield
            )


def actual_cost(usage: Usage) -> Cost:
    """Return the cost that the service's limits count for a finished call; they do not count cached tokens."""
    prompt_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
    if prompt_tokens > 0 and not usage.cached_tokens:  # nearly all calls
        return 1, prompt_tokens + output_tokens, prompt_tokens, output_tokens
    cached_tokens = usage.cached_tokens or 0
    prompt_tokens = max(prompt_tokens - cached_tokens, 0)
    total_tokens = prompt_tokens + output_tokens
    if not usage.prompt_tokens and not output_tokens:  # the service reported the sum only
        total_tokens = max(usage.total_tokens - cached_tokens, 0)
    return 1, total_tokens, prompt_tokens, output_tokens
