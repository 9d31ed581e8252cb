"""What each type of provider allows in a request: the one place of it.

The classes of requests and messages check types. Ranges, lists of words, names and further keys are a matter of the server: those of
this service are held against a request when it is sent, and for compatible servers everything goes out as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import field_names, mapping, nearest, number, one_of, shorten
from groq_provider.types.messages import ANSWER_ONLY, ROLES, Message
from groq_provider.types.request import LLMRequest

if TYPE_CHECKING:
    from groq_provider.types.options import ResponseFormat, StreamOptions
    from groq_provider.types.parts import ContentPart, Tool

__all__ = ["ANYTHING", "GROQ", "Allowed"]

_TOOL_NAME = r"[a-zA-Z0-9_-]{1,64}"
_PARTS = {
    "text": ("type", "text"),
    "image_url": ("type", "image_url.url", "image_url.detail"),
    "document": ("type", "document.data", "document.id"),
}


@attrs.frozen(kw_only=True)
class Allowed:
    """What may be asked of a server.

    Attributes:
        fields: By field of a request, a check of its value; values of other fields go out as they are.
        roles: Of messages; ``None``: any.
        message: Checks a message that is more than text, and returns what of it is sent; ``None``: all of it.
        asks_usage: Whether a stream has to be told to report its usage.
        sends_stream_false: Whether a request that is no stream says ``stream: false``, as the examples of this service do.

    .. versionadded:: 0.1.0
    """

    fields: Mapping[str, Callable[[LLMRequest, Any], None]]
    roles: frozenset[str] | None
    message: Callable[[Message, str], Message] | None
    asks_usage: bool
    sends_stream_false: bool

    def check_fields(self, request: LLMRequest) -> None:
        """Hold all fields of a request but its messages against what is allowed.

        Raises:
            InvalidRequestError: One is not allowed; the message names field, value and range.
        """
        for name, check in self.fields.items():
            given = getattr(request, name)
            if given is not None:
                check(request, given)

    def check_message(self, message: Message, index: int) -> Message:
        """Return what is sent of a message.

        Raises:
            InvalidRequestError: Something in it is not allowed; the message names the place.
        """
        if self.roles is not None and message.role not in self.roles:
            raise InvalidRequestError(
                f"messages[{index}].role = {shorten(message.role)}: must be one of {', '.join(ROLES)}"
            )
        return message if self.message is None else self.message(message, f"messages[{index}]")


# --- this service ------------------------------------------------------------------------------------------------------------


def _of_field(name: str, check: Any) -> Callable[[LLMRequest, Any], None]:
    attribute = attrs.fields_dict(LLMRequest)[name]
    return lambda request, given: check(request, attribute, given)


def _range(
    name: str, low: float, high: float | None = None, *, integer: bool = False
) -> Callable[[LLMRequest, Any], None]:
    refuse = _of_field(name, number(low, high, integer=integer))

    def check(request: LLMRequest, given: Any) -> None:
        if given < low or (high is not None and given > high):
            refuse(request, given)

    return check


def _one_of_two(first: str, second: str) -> Callable[[LLMRequest, Any], None]:
    def check(request: LLMRequest, _given: Any) -> None:
        a, b = getattr(request, first), getattr(request, second)
        if a is not None and b is not None:
            raise InvalidRequestError(f"{first} = {shorten(a)} and {second} = {shorten(b)}: give one of the two")

    return check


def _both(*checks: Callable[[LLMRequest, Any], None]) -> Callable[[LLMRequest, Any], None]:
    def check(request: LLMRequest, given: Any) -> None:
        for each in checks:
            each(request, given)

    return check


def _stop(_request: LLMRequest, given: str | tuple[str, ...]) -> None:
    if not isinstance(given, str) and len(given) > 4:
        raise InvalidRequestError(f"stop has {len(given)} strings: at most 4")


def _tool_choice(_request: LLMRequest, given: object) -> None:
    if isinstance(given, str) and given not in ("none", "auto", "required"):
        raise InvalidRequestError(
            f"tool_choice = {shorten(given)}: must be none, auto, required or {{'type': 'function', 'function': {{'name': …}}}}"
        )


def _tools(_request: LLMRequest, given: tuple[Tool, ...]) -> None:
    if len(given) > 128:
        raise InvalidRequestError(f"tools has {len(given)} tools: at most 128")
    names: set[str] = set()
    for index, tool in enumerate(given):
        function = tool.function
        if function is None:
            continue
        if not re.fullmatch(_TOOL_NAME, function.name):
            raise InvalidRequestError(
                f"tools[{index}].function.name = {shorten(function.name)}: must be 1 to 64 of a-z A-Z 0-9 _ -"
            )
        if function.name in names:
            raise InvalidRequestError(f"tools: the name {function.name!r} is used more than once")
        names.add(function.name)
        _no_extra(function, f"tools[{index}].function")


def _response_format(_request: LLMRequest, given: ResponseFormat) -> None:
    if given.type not in ("text", "json_object", "json_schema"):
        raise InvalidRequestError(
            f"response_format.type = {shorten(given.type)}: must be text, json_object or json_schema"
        )
    _no_extra(given, "response_format")
    schema = given.json_schema
    if (given.type == "json_schema") != (schema is not None):
        raise InvalidRequestError("response_format: json_schema belongs to type 'json_schema', and only there")
    if schema is not None:
        if not schema.name:
            raise InvalidRequestError(
                f"response_format.json_schema.name = {shorten(schema.name)}: must be a non-empty string"
            )
        _no_extra(schema, "response_format.json_schema")


def _stream_options(_request: LLMRequest, given: StreamOptions) -> None:
    _no_extra(given, "stream_options")


def _no_extra(given: Any, place: str) -> None:
    if given.extra:
        cls: Any = type(given)
        raise unknown(place, given.extra, [name for name in field_names(cls) if name != "extra"])


def unknown(place: str, found: Any, known: Any) -> InvalidRequestError:
    """Return the error for keys that this service does not take."""
    hints = ", ".join(f"{key!r}{nearest(str(key), known)}" for key in found)
    return InvalidRequestError(
        f"{place} has no field {hints}; known fields: {', '.join(known)} (a provider of type openai_compatible sends further ones)"
    )


def _message(message: Message, place: str) -> Message:
    """Check a message; leave out what only answers carry."""
    change: dict[str, Any] = {}
    if message.extra:
        further = [key for key in message.extra if key not in ANSWER_ONLY]
        if further:
            raise unknown(place, further, [name for name in field_names(Message) if name != "extra"])
        change["extra"] = None
    if message.content is None and not (message.tool_calls or message.function_call or message.reasoning):
        raise InvalidRequestError(f"{place}.content: a {message.role} message needs content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequestError(f"{place}.tool_call_id: a tool message needs the tool_call_id it answers")
    if message.content is not None and not isinstance(message.content, str):
        for index, part in enumerate(message.content):
            _part(part, f"{place}.content[{index}]")
    if any(call.extra for call in message.tool_calls or ()):
        change["tool_calls"] = tuple([attrs.evolve(call, extra={}) for call in message.tool_calls or ()])
    return attrs.evolve(message, **change) if change else message


def _part(part: ContentPart, place: str) -> None:
    from groq_provider.types.parts import ImagePart, OtherPart  # loaded with the first message that has parts

    if isinstance(part, ImagePart) and part.detail not in (None, "auto", "low", "high"):
        raise InvalidRequestError(
            f"{place}.image_url.detail = {shorten(part.detail)}: must be one of auto, low, high, or None"
        )
    if isinstance(part, OtherPart):
        known = _PARTS.get(part.type)
        if known is None:
            raise InvalidRequestError(f"{place}: type = {shorten(part.type)}: must be text, image_url or document")
        keys = [*part.data, *(f"{part.type}.{key}" for key in _keys(part.data.get(part.type)))]
        raise unknown(place, [key for key in keys if key not in known and key != part.type], known)


def _keys(inner: object) -> list[str]:
    return list(inner) if isinstance(inner, Mapping) else []


_positive = _range("max_completion_tokens", 1, integer=True)
_one_length = _one_of_two("max_tokens", "max_completion_tokens")


def _length(request: LLMRequest, given: int) -> None:
    if request.max_tokens is not None:
        _one_length(request, given)
    if given < 1:
        _positive(request, given)


#: This service.
GROQ = Allowed(
    fields={
        "max_completion_tokens": _length,
        "max_tokens": _range("max_tokens", 1, integer=True),
        "temperature": _range("temperature", 0, 2),
        "top_p": _range("top_p", 0, 1),
        "n": _range("n", 1, 1, integer=True),
        "stop": _stop,
        "stream_options": _stream_options,
        "tools": _tools,
        "tool_choice": _tool_choice,
        "response_format": _response_format,
        "reasoning_format": _both(
            _of_field("reasoning_format", one_of("hidden", "raw", "parsed")),
            _one_of_two("reasoning_format", "include_reasoning"),
        ),
        "reasoning_effort": _of_field("reasoning_effort", one_of("none", "default", "low", "medium", "high")),
        "service_tier": _of_field("service_tier", one_of("auto", "on_demand", "flex", "performance")),
        "citation_options": _of_field("citation_options", one_of("enabled", "disabled")),
        "frequency_penalty": _range("frequency_penalty", -2, 2),
        "presence_penalty": _range("presence_penalty", -2, 2),
        "logit_bias": _of_field("logit_bias", mapping(values=int)),
        "top_logprobs": _range("top_logprobs", 0, 20, integer=True),
        "metadata": _of_field("metadata", mapping(values=str)),
    },
    roles=frozenset(ROLES),
    message=_message,
    asks_usage=False,
    sends_stream_false=True,
)

#: Any other server that takes such requests.
ANYTHING = Allowed(fields={}, roles=None, message=None, asks_usage=True, sends_stream_false=False)
