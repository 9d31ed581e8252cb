"""Estimate the tokens of a prompt before the service counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.types.request import LLMRequest

__all__ = ["BYTES_PER_TOKEN", "estimate_prompt_tokens", "estimate_text_tokens"]

#: UTF-8 bytes per token, on the low side: too small an estimate would mean a refusal by the service.
BYTES_PER_TOKEN = 3.5
#: Assumed for each image or document: the service publishes no size in tokens.
_PART_TOKENS = 1_000
#: Added to each message by the chat template.
_MESSAGE_TOKENS = 4


def estimate_text_tokens(size: int) -> int:
    """Return the estimated tokens of *size* bytes of text."""
    return int(size / BYTES_PER_TOKEN) + 1


def estimate_prompt_tokens(request: LLMRequest, tokenizer: Callable[[str], int] | None = None) -> int:
    """Return the estimated tokens of a request's messages, tools and schema.

    Args:
        request: The request.
        tokenizer: Returns the exact number of tokens of a text; ``None``: estimate by its size.
    """
    tokens = size = 0
    for message in request.messages:
        tokens += _MESSAGE_TOKENS
        content = message.content
        if tokenizer is None and type(content) is str and message.reasoning is None and message.tool_calls is None:
            size += len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
            continue  # nearly all messages
        texts: list[str] = []
        if type(content) is str:
            texts.append(content)
        elif content:
            for part in content:
                text = getattr(part, "text", "")
                if text:
                    texts.append(text)
                else:
                    tokens += _PART_TOKENS
        if message.reasoning:
            texts.append(message.reasoning)
        texts.extend(call.name + call.arguments for call in message.tool_calls or ())
        for text in texts:
            if tokenizer is not None:
                tokens += tokenizer(text)
            else:
                size += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    tokens += _PART_TOKENS * len(request.documents or ())
    if request.tools:
        size += sum(
            len(repr(tool.function.parameters)) + len(tool.function.description or "") + 40
            for tool in request.tools
            if tool.function
        )
    if request.response_format is not None and request.response_format.json_schema is not None:
        size += len(repr(request.response_format.json_schema.schema))
    return tokens + int(size / BYTES_PER_TOKEN)
