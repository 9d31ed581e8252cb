"""What a conversation is made of: messages. Their rarer parts are in :mod:`groq_provider.types.parts`, and found here, too.

Field names are the service's own (chat completions, request side).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import build, check_given, defer_checks, mapping, mask, nearest, text, with_place

if TYPE_CHECKING:
    from groq_provider.types.parts import (
        ContentPart,
        DocumentPart,
        ImagePart,
        OtherPart,
        TextPart,
        Tool,
        ToolCall,
        ToolFunction,
    )

__all__ = [
    "ContentPart",
    "DocumentPart",
    "ImagePart",
    "Message",
    "OtherPart",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolFunction",
]

_NOTHING = ("", "null")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_NONE_OF_FIVE = (None,) * 5
_NEEDS_CONTENT = ("system", "developer", "user", "tool")


def _content(data: object) -> str | tuple[ContentPart, ...] | None:
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, (bytes, bytearray, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"content must be text, a sequence of parts or None, not {type(data).__name__}")
    if not data:
        raise InvalidRequestError("content is an empty sequence: give at least one part, or text")
    from groq_provider.types.parts import as_part

    return tuple([as_part(item, f"content[{index}]") for index, item in enumerate(data)])


def _tool_calls(data: object) -> tuple[ToolCall, ...] | None:
    if data is None:
        return None
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"tool_calls must be a sequence, not {type(data).__name__}")
    from groq_provider.types.parts import as_tool_call

    calls = [as_tool_call(item, f"tool_calls[{index}]") for index, item in enumerate(data)]
    # Models leave the arguments of a function that takes none empty, or write null; sent back like that they are refused.
    return tuple([attrs.evolve(c, arguments="{}") if c.arguments.strip() in _NOTHING else c for c in calls]) or None


#: Keys that assistant messages of answers carry (ours, OpenAI's, other servers') and this service's requests must not.
ANSWER_ONLY = frozenset(
    {"executed_tools", "annotations", "refusal", "audio", "reasoning_content", "logprobs", "channel"}
)


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class Message:
    """One message of a conversation.

    Made of a mapping it keeps further keys in *extra*. To compatible servers they are sent. This service knows none: those that only
    answers carry (``annotations``, ``audio``, ``channel``, ``executed_tools``, ``logprobs``, ``reasoning_content``, ``refusal``) are left
    out, so that an answer's message can go into a history as it came, and others are an error when it is sent.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant``, ``tool`` (or the deprecated ``function``).
        content: Text, or a sequence of parts (strings, parts, or the service's part objects), or ``None`` for an
            assistant message that only calls tools.
        name: Sender's name. The service's documentation says it refuses this field, its schema lists it; leave it out.
        reasoning: Reasoning text of an earlier assistant message; sent if given.
        tool_calls: Calls an earlier assistant message asked for.
        tool_call_id: For ``tool`` messages: the call this answers.
        function_call: Deprecated form of a single call, ``{"name", "arguments"}``.
        extra: Further keys, for compatible servers (``cache_control``, ``prefix``, ``reasoning_content``, …).

    .. versionadded:: 0.1.0
    """

    role: str = attrs.field(validator=text(optional=False, empty=False))
    content: str | tuple[ContentPart, ...] | None = attrs.field(default=None, converter=_content, repr=mask)
    name: str | None = attrs.field(default=None, validator=text())
    reasoning: str | None = attrs.field(default=None, validator=text(), repr=mask)
    tool_calls: tuple[ToolCall, ...] | None = attrs.field(default=None, converter=_tool_calls)
    tool_call_id: str | None = attrs.field(default=None, validator=text())
    function_call: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    extra: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    def __attrs_post_init__(self) -> None:
        if (
            self.name,
            self.reasoning,
            self.tool_call_id,
            self.function_call,
            self.extra,
        ) != _NONE_OF_FIVE:  # nearly never
            check_given(self)
        if self.content is None and self.role in _NEEDS_CONTENT:
            meant = [f", not {key!r}" for key in self.extra or () if nearest(key, ["content"])]
            raise InvalidRequestError(f"a {self.role} message needs content{''.join(meant)}", param="content")

    @classmethod
    def system(cls, content: str) -> Message:
        """Make an instruction to the model."""
        return cls(role="system", content=content)

    @classmethod
    def user(cls, content: str | Sequence[ContentPart | Mapping[str, Any] | str]) -> Message:
        """Make a message of the user."""
        return cls(role="user", content=content)

    @classmethod
    def assistant(
        cls, content: str | None, *, tool_calls: Sequence[ToolCall | Mapping[str, Any]] | None = None
    ) -> Message:
        """Make an answer the model gave earlier."""
        return cls(role="assistant", content=content, tool_calls=tool_calls)

    @classmethod
    def tool(cls, tool_call_id: str, content: str) -> Message:
        """Make the result of a tool call."""
        return cls(role="tool", tool_call_id=tool_call_id, content=content)


_USUAL = {"role", "content"}


def as_message(data: object, what: str) -> Message:
    """Take a message as an instance or a mapping; ``None`` values say nothing."""
    if isinstance(data, Message):
        return data
    if type(data) is dict and data.keys() == _USUAL and None not in data.values():  # nearly all of them
        try:
            return Message(role=data["role"], content=data["content"])
        except InvalidRequestError as error:
            raise with_place(error, what) from None
    if isinstance(data, str):
        raise InvalidRequestError(f"{what} is a str; give Message.user(…) or a mapping with role and content")
    if isinstance(data, Mapping):
        data = {key: item for key, item in data.items() if item is not None}
    return build(Message, data, what=what)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from groq_provider.types import parts

        return getattr(parts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
