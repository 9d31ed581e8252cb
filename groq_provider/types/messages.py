"""Messages, the turns of a conversation. Field names are those of the service's chat completions request.

The rarer parts of messages live in :mod:`groq_provider.types.parts` and can be imported from here, too.
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

_EMPTY_ARGUMENTS = ("", "null")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_NO_OPTIONAL_FIELD = (None,) * 6
_NEEDS_CONTENT = ("system", "developer", "user", "tool")


def _convert_content(data: object) -> str | tuple[ContentPart, ...] | None:
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, (bytes, bytearray, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"content must be text, a sequence of parts or None, not {type(data).__name__}")
    if not data:
        raise InvalidRequestError("content is an empty sequence: give at least one part, or text")
    from groq_provider.types.parts import as_part

    return tuple([as_part(item, f"content[{index}]") for index, item in enumerate(data)])


def _convert_tool_calls(data: object) -> tuple[ToolCall, ...] | None:
    if data is None:
        return None
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"tool_calls must be a sequence, not {type(data).__name__}")
    from groq_provider.types.parts import as_tool_call

    calls = [as_tool_call(item, f"tool_calls[{index}]") for index, item in enumerate(data)]
    # For a function without parameters, models write no arguments or ``null``. The service refuses both when they are sent back.
    return (
        tuple([attrs.evolve(c, arguments="{}") if c.arguments.strip() in _EMPTY_ARGUMENTS else c for c in calls])
        or None
    )


#: Keys of assistant messages in answers (ours, OpenAI's, other servers') that a request to this service must not have.
ANSWER_ONLY = frozenset(
    {"executed_tools", "annotations", "refusal", "audio", "reasoning_content", "logprobs", "channel"}
)


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class Message:
    """One message of a conversation.

    A message built from a mapping keeps unknown keys in *extra*. They are sent to compatible servers. This service accepts none of them:
    keys that only answers have (``annotations``, ``audio``, ``channel``, ``executed_tools``, ``logprobs``, ``reasoning_content``,
    ``refusal``) are dropped, so that you can append the message of an answer to your history; any other key is an error when you send it.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant``, ``tool`` (or the deprecated ``function``).
        content: Text, or a sequence of parts (strings, parts, or the service's part objects), or ``None`` for an
            assistant message that only calls tools.
        name: The sender's name. You should leave it out: the service's schema lists this field, but its documentation says it is refused.
        reasoning: Reasoning text of an earlier assistant message; sent if you set it.
        tool_calls: Tool calls that an earlier assistant message asked for.
        tool_call_id: For ``tool`` messages: the id of the call that this message answers.
        function_call: Deprecated form of a single call, ``{"name", "arguments"}``.
        extra: Further keys, for compatible servers (``cache_control``, ``prefix``, ``reasoning_content``, …).

    .. versionadded:: 0.1.0
    """

    role: str = attrs.field(validator=text(optional=False, empty=False))
    content: str | tuple[ContentPart, ...] | None = attrs.field(default=None, converter=_convert_content, repr=mask)
    name: str | None = attrs.field(default=None, validator=text())
    reasoning: str | None = attrs.field(default=None, validator=text(), repr=mask)
    tool_calls: tuple[ToolCall, ...] | None = attrs.field(default=None, converter=_convert_tool_calls)
    tool_call_id: str | None = attrs.field(default=None, validator=text())
    function_call: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    extra: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    def __attrs_post_init__(self) -> None:
        # Nearly every message is a role and a text.
        if (
            type(self.role) is not str
            or not self.role
            or type(self.content) is not str
            or (self.name, self.reasoning, self.tool_calls, self.tool_call_id, self.function_call, self.extra)
            != _NO_OPTIONAL_FIELD
        ):
            check_given(self)
        if self.content is None and self.role in _NEEDS_CONTENT:
            misspelt_keys = [f", not {key!r}" for key in self.extra or () if nearest(key, ["content"])]
            raise InvalidRequestError(f"a {self.role} message needs content{''.join(misspelt_keys)}", param="content")

    @classmethod
    def system(cls, content: str) -> Message:
        """Make a ``system`` message: an instruction to the model."""
        return cls(role="system", content=content)

    @classmethod
    def user(cls, content: str | Sequence[ContentPart | Mapping[str, Any] | str]) -> Message:
        """Make a ``user`` message."""
        return cls(role="user", content=content)

    @classmethod
    def assistant(
        cls, content: str | None, *, tool_calls: Sequence[ToolCall | Mapping[str, Any]] | None = None
    ) -> Message:
        """Make an ``assistant`` message: an earlier answer of the model."""
        return cls(role="assistant", content=content, tool_calls=tool_calls)

    @classmethod
    def tool(cls, tool_call_id: str, content: str) -> Message:
        """Make a ``tool`` message: the result of a tool call."""
        return cls(role="tool", tool_call_id=tool_call_id, content=content)


_USUAL_KEYS = {"role", "content"}


def as_message(data: object, what: str) -> Message:
    """Convert an instance or a mapping to a message; keys with ``None`` are ignored."""
    if isinstance(data, Message):
        return data
    if type(data) is dict and data.keys() == _USUAL_KEYS and None not in data.values():  # nearly every message
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
