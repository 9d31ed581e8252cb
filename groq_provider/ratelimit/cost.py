"""What a call will cost the limits, learned from what earlier ones did cost.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from groq_provider.ratelimit.bucket import FULL_SHARE

if TYPE_CHECKING:
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.types.response import Usage

__all__ = ["Estimate", "Estimator", "actual_cost"]

#: Taken for an answer of unknown length before anything is known. Never the catalogue's maximum: with it nothing would fit.
FIRST_OUTPUT = 1024

_PROMPT_MARGIN = 50_000  # millionths on top of the corrected prompt estimate
_NEWEST_WEIGHT = 0.1  # of the newest sample in the moving averages
_SAMPLE_COUNT = 128  # completions that the p99 looks back on
# Template tokens make the ratio of tiny prompts huge; a long prompt must not be multiplied by that.
_LOWEST_RATIO, _HIGHEST_RATIO = 0.5, 2.0


class Estimate(NamedTuple):
    """What a call is taken to cost."""

    cost: Cost
    """What is reserved."""
    need: Cost
    """The least it can need: decides whether it can ever fit, so without margins."""
    prompt_tokens: int
    """The caller's own estimate of the prompt, to learn from."""


class Estimator:
    """Corrects prompt estimates and guesses the length of answers, for one model.

    Attributes:
        output_yield: Part of a reserved answer that is really used. Rises from 0, so that few samples give a low bound.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_mean_counted", "_mean_estimated", "_output_p99", "_prompt_factor", "_recent_outputs", "output_yield")

    def __init__(self) -> None:
        self._prompt_factor = FULL_SHARE + _PROMPT_MARGIN
        self._mean_estimated = self._mean_counted = 0.0
        self._recent_outputs: deque[int] = deque(maxlen=_SAMPLE_COUNT)
        self._output_p99: int | None = FIRST_OUTPUT  # None: to be computed again
        self.output_yield = 0.0

    def estimate(self, prompt_tokens: int, output_tokens: int) -> Estimate:
        """Return what a call is taken to cost. Reads one number, so it needs no lock."""
        corrected_prompt = -(-prompt_tokens * self._prompt_factor // FULL_SHARE)
        least_prompt = prompt_tokens if prompt_tokens < corrected_prompt else corrected_prompt  # noqa: FURB136 - min() costs three times as much
        return Estimate(
            (1, corrected_prompt + output_tokens, corrected_prompt, output_tokens),
            (1, least_prompt + output_tokens, least_prompt, output_tokens),
            prompt_tokens,
        )

    def estimate_without_maximum(self, prompt_tokens: int) -> Estimate:
        """Return what a call is taken to cost that does not say how long its answer may be; that guess alone never makes it too large."""
        with_output = self.estimate(prompt_tokens, self.expected_output())
        least_prompt = with_output.need[2]
        return Estimate(with_output.cost, (1, least_prompt, least_prompt, 0), prompt_tokens)

    def expected_output(self) -> int:
        """Return how long an answer will be if nobody says: the 99th percentile of recent ones (nearest rank)."""
        if self._output_p99 is None:
            ordered = sorted(self._recent_outputs)
            self._output_p99 = ordered[-(-len(ordered) * 99 // 100) - 1]
        return self._output_p99

    def certain_cost(self, cost: Cost) -> Cost:
        """Return what of a cost will surely be used up: the prompt, and of the answer what answers have used so far."""
        output_tokens = int(cost[3] * self.output_yield)
        return 1, cost[2] + output_tokens, cost[2], output_tokens

    def learn_usage(self, prompt_tokens: int, output_tokens: int, usage: Usage) -> None:
        """Compare an estimate with the service's own count.

        Args:
            prompt_tokens: What the caller estimated.
            output_tokens: What was reserved for the answer.
            usage: What the service counted.
        """
        if prompt_tokens > 0 and usage.prompt_tokens > 0:
            # A ratio of averages, not an average of ratios: long prompts count for more, as they do for the limit.
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
    """Return what the service's limits count of a finished call: cached tokens are not counted."""
    prompt_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
    if prompt_tokens > 0 and not usage.cached_tokens:  # nearly all of them
        return 1, prompt_tokens + output_tokens, prompt_tokens, output_tokens
    cached_tokens = usage.cached_tokens or 0
    prompt_tokens = max(prompt_tokens - cached_tokens, 0)
    total_tokens = prompt_tokens + output_tokens
    if not usage.prompt_tokens and not output_tokens:  # only the sum was reported
        total_tokens = max(usage.total_tokens - cached_tokens, 0)
    return 1, total_tokens, prompt_tokens, output_tokens
