"""Parts of messages beyond plain text, tools, and tool calls. Most programs use none, so the module is loaded on first use.

Field names are those of the service's chat completions request.
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
    """A part of any other form, for compatible servers. It is sent unchanged; this service refuses it.

    Use it for audio, video and files, and for parts of the kinds above with further keys (``cache_control``).

    Attributes:
        data: The complete part, with its ``type``.

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
        """The ``type`` of the part."""
        return self.data.get("type")  # type: ignore[return-value]  # checked

    @property
    def text(self) -> str:
        """The text of a text part, else ``""``."""
        text = self.data.get("text")
        return text if isinstance(text, str) else ""


ContentPart = Union[TextPart, ImagePart, DocumentPart, OtherPart]  # noqa: UP007 - asked at run time on Python 3.10
_PARTS = (TextPart, ImagePart, DocumentPart, OtherPart)


def as_part(data: object, what: str) -> ContentPart:
    """Convert an instance, a string, or the service's form to a part."""
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
    """A function that the model may call.

    Attributes:
        name: Letters, digits, ``_`` and ``-``, at most 64; compatible servers may allow others.
        description: A description of the function, for the model.
        parameters: The JSON Schema of its arguments; ``None`` if it takes none.
        strict: Whether arguments must fit the schema exactly; ``None`` means the service's default (no).
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
    """A tool that the model may use: a function of yours, or a tool that the service runs.

    Attributes:
        type: ``"function"``, ``"browser_search"``, ``"code_interpreter"``, ``"mcp"``, or another type of the service.
        function: The function, for ``type="function"``.
        extra: Further keys of other kinds of tools (``server_label``, ``server_url``, … of ``mcp``), sent unchanged.

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
        """Make a tool of type ``function``."""
        return cls(function=ToolFunction(name=name, description=description, parameters=parameters, strict=strict))


@attrs.frozen(kw_only=True)
class ToolCall:
    """A tool call that the model asks for.

    Attributes:
        id: The service's opaque id of this call. Your tool message must repeat it as ``tool_call_id``.
        name: The name of the function.
        arguments: JSON text, exactly as the model wrote it; :meth:`parse` decodes it.
        type: Always ``"function"`` so far.
        index: The position in the answer, by which a stream tells calls apart. Not sent.
        extra: Further fields of the call, and those of its function under ``function``. They are sent back to compatible servers
            (``extra_content`` and similar), but not to this service.

    .. versionadded:: 0.1.0
    """

    id: str = attrs.field(validator=text(optional=False))
    name: str = attrs.field(validator=text(optional=False))
    arguments: str = attrs.field(default="{}", validator=text(optional=False), repr=mask)
    type: str = attrs.field(default="function", validator=text(optional=False))
    index: int | None = attrs.field(default=None, validator=number(0, integer=True), eq=False)
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=False, eq=False)

    def parse(self) -> dict[str, Any]:
        """Decode the arguments; empty text and ``null`` give an empty dict.

        Raises:
            ValueError: The model's text is not a JSON object; the message names the position of the fault.
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
    """Convert an instance, a flat mapping, or the service's form with a nested ``function``."""
    if isinstance(data, Mapping) and isinstance(data.get("function"), Mapping):
        flat = {key: item for key, item in data.items() if key != "function"}
        function = data["function"]
        if unknown := {key: item for key, item in function.items() if key not in ("name", "arguments")}:
            flat["extra"] = {**(flat.get("extra") or {}), "function": unknown}
        return build(
            ToolCall, {**flat, "name": function.get("name"), "arguments": function.get("arguments") or ""}, what=what
        )
    if isinstance(data, Mapping) and data.get("arguments", "") is None:
        data = {**data, "arguments": ""}
    return build(ToolCall, data, what=what)
