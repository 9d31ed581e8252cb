"""Parts of messages beyond text, tools, and calls of tools. Loaded by the first program that uses one: most do not.

Field names are the service's own (chat completions, request side).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Union

import attrs

from groq_provider.errors import InvalidRequestError

from ._base import boolean, build, mapping, mask, number, one_of, optional_build, shorten, text

__all__ = ["ContentPart", "DocumentPart", "ImagePart", "TextPart", "Tool", "ToolCall", "ToolFunction"]

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
        return build(TextPart, {"text": data.get("text")}, what=what)
    if kind == "image_url":
        image = data.get("image_url")
        return build(ImagePart, {"url": image} if isinstance(image, str) else image, what=f"{what}.image_url")
    if kind == "document":
        return build(DocumentPart, data.get("document"), what=f"{what}.document")
    raise InvalidRequestError(f"{what}: type = {shorten(kind)}: must be text, image_url or document")


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
            raise InvalidRequestError("a tool of type 'function' needs its function", param="function")

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
