"""What a conversation is made of: messages, their parts, tools and calls of tools.

Field names are the service's own (chat completions, request side).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Union

import attrs

from groq_provider.errors import InvalidRequestError

from ._base import (
    boolean,
    build,
    check_given,
    defer_checks,
    mapping,
    mask,
    number,
    one_of,
    optional_build,
    shorten,
    text,
)

__all__ = [
    "ContentPart",
    "DocumentPart",
    "ImagePart",
    "Message",
    "TextPart",
    "Tool",
    "ToolCall",
    "ToolFunction",
]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_NONE_OF_FOUR = (None,) * 4
_TOOL_NAME = r"[a-zA-Z0-9_-]{1,64}"


@attrs.frozen(kw_only=True)
class TextPart:
    """A piece of text inside a message.

    .. versionadded:: 0.1.0
    """

    text: str = attrs.field(validator=text(optional=False, secret=True), repr=mask)


@attrs.frozen(kw_only=True)
class ImagePart:
    """An image inside a user or tool message.

    Attributes:
        url: ``https://…`` or a ``data:image/…;base64,…`` URL. A URL image may have 20 MB, a base64 request 4 MB.
        detail: ``"auto"`` (the service's default), ``"low"`` or ``"high"``.

    .. versionadded:: 0.1.0
    """

    url: str = attrs.field(validator=text(optional=False, empty=False, secret=True), repr=mask)
    detail: str | None = attrs.field(default=None, validator=one_of("auto", "low", "high"))


@attrs.frozen(kw_only=True)
class DocumentPart:
    """A document (any JSON object) inside a user or tool message.

    .. versionadded:: 0.1.0
    """

    data: Mapping[str, Any] = attrs.field(validator=mapping(optional=False), repr=mask)
    id: str | None = attrs.field(default=None, validator=text())


ContentPart = Union[TextPart, ImagePart, DocumentPart]  # noqa: UP007 - asked at run time on Python 3.10
_PARTS = (TextPart, ImagePart, DocumentPart)


def as_part(data: object, what: str) -> ContentPart:
    """Take a part as an instance or in the service's wire form."""
    if isinstance(data, _PARTS):
        return data
    if isinstance(data, str):
        return TextPart(text=data)
    if not isinstance(data, Mapping):
        raise InvalidRequestError(
            f"{what} must be a TextPart, ImagePart, DocumentPart, str or mapping, not {type(data).__name__}"
        )
    kind = data.get("type")
    if kind == "text":
        return TextPart(text=data.get("text"))  # type: ignore[arg-type]  # checked by the class
    if kind == "image_url":
        image = data.get("image_url")
        return build(ImagePart, {"url": image} if isinstance(image, str) else image, what=f"{what}.image_url")
    if kind == "document":
        return build(DocumentPart, data.get("document"), what=f"{what}.document")
    raise InvalidRequestError(f"{what}: type = {shorten(kind)}: must be text, image_url or document")


def _content(data: object) -> str | tuple[ContentPart, ...] | None:
    if data is None or isinstance(data, str):
        return data
    if isinstance(data, (bytes, bytearray, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"content must be text, a sequence of parts or None, not {type(data).__name__}")
    if not data:
        raise InvalidRequestError("content is an empty sequence: give at least one part, or text")
    return tuple([as_part(item, f"content[{index}]") for index, item in enumerate(data)])


@attrs.frozen(kw_only=True)
class ToolFunction:
    """A function the model may ask for.

    Attributes:
        name: Letters, digits, ``_`` and ``-``, at most 64.
        description: What it does, for the model.
        parameters: JSON Schema of its arguments; ``None``: it takes none.
        strict: Whether arguments must fit the schema exactly; ``None``: the service's default (no).

    .. versionadded:: 0.1.0
    """

    name: str = attrs.field()
    description: str | None = attrs.field(default=None, validator=text())
    parameters: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping())
    strict: bool | None = attrs.field(default=None, validator=boolean())

    @name.validator
    def _check_name(self, _attribute: object, given: object) -> None:
        if not isinstance(given, str) or not re.fullmatch(_TOOL_NAME, given):
            raise InvalidRequestError(f"name = {shorten(given)}: must be 1 to 64 of a-z A-Z 0-9 _ -")


def _to_function(data: object) -> ToolFunction | None:
    return optional_build(ToolFunction, data, "function")


@attrs.frozen(kw_only=True)
class Tool:
    """A tool the model may use: a function of yours, or one the service runs.

    Attributes:
        type: ``"function"``, ``"browser_search"``, ``"code_interpreter"``, ``"mcp"`` or what else the service knows.
        function: The function, for ``type="function"``.
        extra: Further keys of other kinds of tools (``server_label``, ``server_url``, … of ``mcp``), sent as they are.

    .. versionadded:: 0.1.0
    """

    type: str = attrs.field(default="function", validator=text(optional=False, empty=False))
    function: ToolFunction | None = attrs.field(default=None, converter=_to_function)
    extra: Mapping[str, Any] = attrs.field(factory=dict, validator=mapping(optional=False), repr=mask)

    def __attrs_post_init__(self) -> None:
        if self.type == "function" and self.function is None:
            raise InvalidRequestError("a tool of type 'function' needs its function")

    @classmethod
    def of(
        cls,
        name: str,
        description: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        strict: bool | None = None,
    ) -> Tool:
        """Make a function tool from its parts."""
        return cls(function=ToolFunction(name=name, description=description, parameters=parameters, strict=strict))


@attrs.frozen(kw_only=True)
class ToolCall:
    """A call of a tool that the model asks for.

    Attributes:
        id: The service's id of this call; opaque. The answering tool message repeats it as ``tool_call_id``.
        name: Name of the function.
        arguments: JSON text, exactly as the model wrote it; :meth:`parse` decodes it.
        type: Always ``"function"`` so far.
        index: Position in the answer; the stream's way to tell calls apart. Not sent.
        extra: What else the answer said of this call. Not sent.

    .. versionadded:: 0.1.0
    """

    id: str = attrs.field(validator=text(optional=False))
    name: str = attrs.field(validator=text(optional=False))
    arguments: str = attrs.field(default="{}", validator=text(optional=False), repr=mask)
    type: str = attrs.field(default="function", validator=text(optional=False))
    index: int | None = attrs.field(default=None, validator=number(0, integer=True), eq=False)
    extra: Mapping[str, Any] = attrs.field(factory=dict, validator=mapping(optional=False), repr=False, eq=False)

    def parse(self) -> dict[str, Any]:
        """Decode the arguments.

        Empty text and ``null`` mean no arguments.

        Raises:
            ValueError: The model's text is not a JSON object; the message says where it breaks.
        """
        if not self.arguments.strip():
            return {}
        try:
            decoded = json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"arguments of tool call {self.name!r} are not JSON: {error}") from None
        if decoded is None:
            return {}
        if not isinstance(decoded, dict):
            raise ValueError(f"arguments of tool call {self.name!r} are a JSON {type(decoded).__name__}, not an object")  # noqa: TRY004 - bad data
        return decoded


def as_tool_call(data: object, what: str) -> ToolCall:
    """Take a call as an instance, flat, or in the service's wire form with its nested ``function``."""
    if isinstance(data, Mapping) and isinstance(data.get("function"), Mapping):
        flat = {key: item for key, item in data.items() if key != "function"}
        function = data["function"]
        return build(
            ToolCall, {**flat, "name": function.get("name"), "arguments": function.get("arguments") or ""}, what=what
        )
    return build(ToolCall, data, what=what)


def _tool_calls(data: object) -> tuple[ToolCall, ...] | None:
    if data is None:
        return None
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"tool_calls must be a sequence, not {type(data).__name__}")
    return tuple([as_tool_call(item, f"tool_calls[{index}]") for index, item in enumerate(data)]) or None


#: Keys that assistant messages of answers carry (ours, OpenAI's, other servers') and requests must not.
ANSWER_ONLY = frozenset(
    {"executed_tools", "annotations", "refusal", "audio", "reasoning_content", "logprobs", "channel"}
)


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class Message:
    """One message of a conversation.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant``, ``tool`` (or the deprecated ``function``).
        content: Text, or a sequence of parts (strings, parts, or the service's part objects), or ``None`` for an
            assistant message that only calls tools.
        name: Sender's name. The service's documentation says it refuses this field, its schema lists it; leave it out.
        reasoning: Reasoning text of an earlier assistant message; sent if given.
        tool_calls: Calls an earlier assistant message asked for.
        tool_call_id: For ``tool`` messages: the call this answers.
        function_call: Deprecated form of a single call, ``{"name", "arguments"}``.

    .. versionadded:: 0.1.0
    """

    role: str = attrs.field()
    content: str | tuple[ContentPart, ...] | None = attrs.field(default=None, converter=_content, repr=mask)
    name: str | None = attrs.field(default=None, validator=text())
    reasoning: str | None = attrs.field(default=None, validator=text(), repr=mask)
    tool_calls: tuple[ToolCall, ...] | None = attrs.field(default=None, converter=_tool_calls)
    tool_call_id: str | None = attrs.field(default=None, validator=text())
    function_call: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    @role.validator
    def _check_role(self, _attribute: object, given: object) -> None:
        if given not in ROLES:
            raise InvalidRequestError(f"role = {shorten(given)}: must be one of {', '.join(ROLES)}")

    def __attrs_post_init__(self) -> None:
        if (self.name, self.reasoning, self.tool_call_id, self.function_call) != _NONE_OF_FOUR:  # nearly never
            check_given(self)
        if self.content is None and not (
            self.role == "assistant" and (self.tool_calls or self.function_call or self.reasoning)
        ):
            raise InvalidRequestError(f"a {self.role} message needs content")
        if self.role == "tool" and not self.tool_call_id:
            raise InvalidRequestError("a tool message needs the tool_call_id it answers")

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
    """Take a message as an instance or a mapping; answer-only keys and ``None`` values are dropped."""
    if isinstance(data, Message):
        return data
    if type(data) is dict and data.keys() == _USUAL and None not in data.values():  # nearly all of them
        return Message(role=data["role"], content=data["content"])
    if isinstance(data, str):
        raise InvalidRequestError(f"{what} is a str; give Message.user(…) or a mapping with role and content")
    if isinstance(data, Mapping):
        data = {key: item for key, item in data.items() if item is not None}
    return build(Message, data, what=what, drop=ANSWER_ONLY)
