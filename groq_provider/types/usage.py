"""The tokens and times that an answer reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from groq_provider.types._base import EMPTY, keep_read_only

__all__ = ["Usage"]


@attrs.frozen(kw_only=True)
class Usage:
    """Tokens and server times of an answer. You pay for the tokens that it reports.

    Attributes:
        prompt_tokens: Tokens of the prompt, cached ones included.
        completion_tokens: Tokens of the answer, reasoning included, which you pay for as well.
        total_tokens: The sum.
        cached_tokens: Prompt tokens that came from the service's cache: half price, not counted by rate limits.
        reasoning_tokens: Completion tokens spent on reasoning.
        queue_time: Seconds in the service's queue; not part of ``total_time``.
        prompt_time: Seconds for the prompt.
        completion_time: Seconds for the completion.
        total_time: ``prompt_time + completion_time``.
        source: ``"reported"`` by the service, ``"estimated"`` from the text, or ``"unknown"``: then you should ignore the zeros.
        extra: Further fields that the service sent here.

    .. versionadded:: 0.1.0
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    queue_time: float | None = None
    prompt_time: float | None = None
    completion_time: float | None = None
    total_time: float | None = None
    source: str = "reported"
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, converter=keep_read_only, repr=False)
