"""The keyword arguments of ``generate`` and ``generate_stream``, for type checkers and editors."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from groq_provider.types.messages import Message
from groq_provider.types.options import Document, ResponseFormat, SearchSettings, StreamOptions
from groq_provider.types.parts import Tool

__all__ = ["RequestFields"]

JSON = Mapping[str, Any]


class RequestFields(TypedDict, total=False):
    """The fields of :class:`~groq_provider.LLMRequest`, with every type that they accept.

    .. versionadded:: 0.1.0
    """

    messages: str | Sequence[Message | JSON]
    model: str | None
    max_completion_tokens: int | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    n: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    stream: bool
    stream_options: StreamOptions | JSON | None
    tools: Sequence[Tool | JSON] | None
    tool_choice: str | JSON | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | JSON | None
    reasoning_format: str | None
    include_reasoning: bool | None
    reasoning_effort: str | None
    service_tier: str | None
    disable_tool_validation: bool | None
    documents: Sequence[Document | JSON] | None
    citation_options: Literal["enabled", "disabled"] | None
    search_settings: SearchSettings | JSON | None
    include_domains: Sequence[str] | None
    exclude_domains: Sequence[str] | None
    compound_custom: JSON | None
    user: str | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    metadata: JSON | None
    store: bool | None
    functions: Sequence[JSON] | None
    function_call: str | JSON | None
    debug: bool | None
    id: uuid.UUID | str
    custom_id: str | None
    provider_metadata: JSON
