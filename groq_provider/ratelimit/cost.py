"""What a call will cost the limits, learned from what earlier ones did cost.

Not thread-safe by itself: the lock of the model's state guards it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from groq_provider.ratelimit.bucket import WHOLE

if TYPE_CHECKING:
    from groq_provider.ratelimit.bucket import Cost
    from groq_provider.types.response import Usage

__all__ = ["Estimate", "Estimator", "actual_cost"]

#: Taken for an answer of unknown length before anything is known. Never the catalogue's maximum: with it nothing would fit.
FIRST_OUTPUT = 1024

_MARGIN = 50_000  # millionths on top of the corrected prompt estimate
_WEIGHT = 0.1  # of the newest sample in the moving averages
_SAMPLES = 128  # completions that the p99 looks back on
# Template tokens make the ratio of tiny prompts huge; a long prompt must not be multiplied by that.
_LOWEST, _HIGHEST = 0.5, 2.0


class Estimate(NamedTuple):
    """What a call is taken to cost."""

    cost: Cost
    """What is reserved."""
    need: Cost
    """The least it can need: decides whether it can ever fit, so without margins."""
    prompt: int
    """The caller's own estimate of the prompt, to learn from."""


class Estimator:
    """Corrects prompt estimates and guesses the length of answers, for one model.

    Attributes:
        output_yield: Part of a reserved answer that is really used. Rises from 0, so that few samples give a low bound.

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_actual", "_completions", "_estimated", "_factor", "_p99", "output_yield")

    def __init__(self) -> None:
        self._factor = WHOLE + _MARGIN
        self._estimated = self._actual = 0.0
        self._completions: deque[int] = deque(maxlen=_SAMPLES)
        self._p99: int | None = FIRST_OUTPUT  # None: to be computed again
        self.output_yield = 0.0

    def estimate(self, prompt: int, output: int) -> Estimate:
        """Return what a call is taken to cost. Reads one number, so it needs no lock."""
        corrected = -(-prompt * self._factor // WHOLE)
        least = prompt if prompt < corrected else corrected  # noqa: FURB136 - min() costs three times as much
        return Estimate((1, corrected + output, corrected, output), (1, least + output, least, output), prompt)

    def guess(self, prompt: int) -> Estimate:
        """Return what a call is taken to cost that does not say how long its answer may be; that guess alone never makes it too large."""
        found = self.estimate(prompt, self.expected_output())
        least = found.need[2]
        return Estimate(found.cost, (1, least, least, 0), prompt)

    def expected_output(self) -> int:
        """Return how long an answer will be if nobody says: the 99th percentile of recent ones (nearest rank)."""
        if self._p99 is None:
            ordered = sorted(self._completions)
            self._p99 = ordered[-(-len(ordered) * 99 // 100) - 1]
        return self._p99

    def sure(self, cost: Cost) -> Cost:
        """Return what of a cost will surely be used up: the prompt, and of the answer what answers have used so far."""
        output = int(cost[3] * self.output_yield)
        return 1, cost[2] + output, cost[2], output

    def learn(self, prompt: int, output: int, usage: Usage) -> None:
        """Compare an estimate with the service's own count.

        Args:
            prompt: What the caller estimated.
            output: What was reserved for the answer.
            usage: What the service counted.
        """
        if prompt > 0 and usage.prompt_tokens > 0:
            # A ratio of averages, not an average of ratios: long prompts count for more, as they do for the limit.
            self._estimated += _WEIGHT * (prompt - self._estimated)
            self._actual += _WEIGHT * (usage.prompt_tokens - self._actual)
            ratio = self._actual / self._estimated
            if not _LOWEST <= ratio <= _HIGHEST:
                ratio = min(max(ratio, _LOWEST), _HIGHEST)
            self._factor = round(ratio * (WHOLE + _MARGIN))
        self._completions.append(usage.completion_tokens)
        self._p99 = None
        if output > 0:
            self.output_yield += _WEIGHT * (min(usage.completion_tokens / output, 1.0) - self.output_yield)


def actual_cost(usage: Usage) -> Cost:
    """Return what the service's limits count of a finished call: cached tokens are not counted."""
    prompt, output = usage.prompt_tokens, usage.completion_tokens
    if prompt > 0 and not usage.cached_tokens:  # nearly all of them
        return 1, prompt + output, prompt, output
    cached = usage.cached_tokens or 0
    prompt = max(prompt - cached, 0)
    counted = prompt + output
    if not usage.prompt_tokens and not output:  # only the sum was reported
        counted = max(usage.total_tokens - cached, 0)
    return 1, counted, prompt, output
