"""Parts of messages beyond text, tools, and calls of tools. Loaded by the first program that uses one: most do not.

Field names are the service's own (chat completions, request side).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Union

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import EMPTY, boolean, build, build_optional, mapping, mask, number, shorten, text

__all__ = ["ContentPart", "DocumentPart", "ImagePart", "OtherPart", "TextPart", "Tool", "ToolCall", "ToolFunction"]


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
    detail: str | None = attrs.field(default=None, validator=text())


@attrs.frozen(kw_only=True)
class DocumentPart:
    """A document (any JSON object) inside a user or tool message.

    .. versionadded:: 0.1.0
    """

    data: Mapping[str, Any] = attrs.field(validator=mapping(optional=False), repr=mask)
    id: str | None = attrs.field(default=None, validator=text())


@attrs.frozen(kw_only=True)
class OtherPart:
    """A part of another form, for compatible servers: it is sent as it is, and this service refuses it.

    Audio, video and files come as one, and parts of the kinds above with further keys (``cache_control``).

    Attributes:
        data: The whole part, with its ``type``.

    .. versionadded:: 0.1.0
    """

    data: Mapping[str, Any] = attrs.field(validator=mapping(optional=False), repr=mask)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.type, str) or not self.type:
            raise InvalidRequestError(f"type must be a non-empty string, not {shorten(self.data.get('type'))}")
        if self.type == "text" and not isinstance(self.data.get("text"), str):
            raise InvalidRequestError(f"text must be a string, not {type(self.data.get('text')).__name__}")

    @property
    def type(self) -> str:
        """Its kind, by the name that the server knows."""
        return self.data.get("type")  # type: ignore[return-value]  # checked

    @property
    def text(self) -> str:
        """What it holds as text, if it is a text."""
        found = self.data.get("text")
        return found if isinstance(found, str) else ""


ContentPart = Union[TextPart, ImagePart, DocumentPart, OtherPart]  # noqa: UP007 - asked at run time on Python 3.10
_PARTS = (TextPart, ImagePart, DocumentPart, OtherPart)


def as_part(data: object, what: str) -> ContentPart:
    """Take a part as an instance or in its wire form."""
    if isinstance(data, _PARTS):
        return data
    if isinstance(data, str):
        return TextPart(text=data)
    if not isinstance(data, Mapping):
        raise InvalidRequestError(
            f"{what} must be a TextPart, ImagePart, DocumentPart, str or mapping, not {type(data).__name__}"
        )
    kind = data.get("type")
    inner = data.get(kind) if isinstance(kind, str) else None
    if kind == "text" and data.keys() <= {"type", "text"}:
        return build(TextPart, {"text": inner}, what=what)
    if kind == "image_url" and data.keys() <= {"type", "image_url"}:
        image = {"url": inner} if isinstance(inner, str) else inner
        if not isinstance(image, Mapping) or image.keys() <= {"url", "detail"}:
            return build(ImagePart, image, what=f"{what}.image_url")
    plain = not isinstance(inner, Mapping) or inner.keys() <= {"data", "id"}
    if kind == "document" and data.keys() <= {"type", "document"} and plain:
        return build(DocumentPart, inner, what=f"{what}.document")
    return build(OtherPart, {"data": dict(data)}, what=what)


@attrs.frozen(kw_only=True)
class ToolFunction:
    """A function the model may ask for.

    Attributes:
        name: Letters, digits, ``_`` and ``-``, at most 64; compatible servers may allow others.
        description: What it does, for the model.
        parameters: JSON Schema of its arguments; ``None``: it takes none.
        strict: Whether arguments must fit the schema exactly; ``None``: the service's default (no).
        extra: Further keys, for compatible servers.

    .. versionadded:: 0.1.0
    """

    name: str = attrs.field(validator=text(optional=False, empty=False))
    description: str | None = attrs.field(default=None, validator=text())
    parameters: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping())
    strict: bool | None = attrs.field(default=None, validator=boolean())
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)


def _to_function(data: object) -> ToolFunction | None:
    return build_optional(ToolFunction, data, "function")


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
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)

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
        extra: What else the answer said of this call, that of its function under ``function``. Sent back to compatible servers
            (``extra_content`` and the like), not to this service.

    .. versionadded:: 0.1.0
    """

    id: str = attrs.field(validator=text(optional=False))
    name: str = attrs.field(validator=text(optional=False))
    arguments: str = attrs.field(default="{}", validator=text(optional=False), repr=mask)
    type: str = attrs.field(default="function", validator=text(optional=False))
    index: int | None = attrs.field(default=None, validator=number(0, integer=True), eq=False)
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=False, eq=False)

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
        if further := {key: item for key, item in function.items() if key not in ("name", "arguments")}:
            flat["extra"] = {**(flat.get("extra") or {}), "function": further}
        return build(
            ToolCall, {**flat, "name": function.get("name"), "arguments": function.get("arguments") or ""}, what=what
        )
    if isinstance(data, Mapping) and data.get("arguments", "") is None:
        data = {**data, "arguments": ""}
    return build(ToolCall, data, what=what)
