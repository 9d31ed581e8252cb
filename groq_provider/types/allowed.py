"""The rules of each type of provider: which values a request may have.

The classes of requests and messages check types only. Ranges, word lists, names and unknown keys depend on the server: a request to this
service is checked against the rules below when it is sent, and a request to a compatible server is sent unchecked.
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
    """The rules of one type of provider.

    Attributes:
        fields: A check for each request field that has one; other fields are sent unchecked.
        roles: The roles that a message may have; ``None`` allows any.
        message: Checks a message that is not plain text and returns the message to send; ``None`` sends it unchanged.
        asks_usage: Whether a stream must ask for its usage.
        sends_stream_false: Whether a plain request sends ``stream: false``, as the examples of this service do.

    .. versionadded:: 0.1.0
    """

    fields: Mapping[str, Callable[[LLMRequest, Any], None]]
    roles: frozenset[str] | None
    message: Callable[[Message, str], Message] | None
    asks_usage: bool
    sends_stream_false: bool

    def check_fields(self, request: LLMRequest) -> None:
        """Check all fields of a request except its messages.

        Raises:
            InvalidRequestError: A value is not allowed; the message names field, value and range.
        """
        for name, check in self.fields.items():
            value = getattr(request, name)
            if value is not None:
                check(request, value)

    def check_message(self, message: Message, index: int) -> Message:
        """Check a message and return the message to send.

        Raises:
            InvalidRequestError: A value is not allowed; the error names the place.
        """
        if self.roles is not None and message.role not in self.roles:
            raise InvalidRequestError(
                f"messages[{index}].role = {shorten(message.role)}: must be one of {', '.join(ROLES)}"
            )
        return message if self.message is None else self.message(message, f"messages[{index}]")


# --- this service ------------------------------------------------------------------------------------------------------------


def _field_check(name: str, check: Any) -> Callable[[LLMRequest, Any], None]:
    attribute = attrs.fields_dict(LLMRequest)[name]
    return lambda request, value: check(request, attribute, value)


def _range_check(
    name: str, low: float, high: float | None = None, *, integer: bool = False
) -> Callable[[LLMRequest, Any], None]:
    validate = _field_check(name, number(low, high, integer=integer))

    def check(request: LLMRequest, value: Any) -> None:
        if value < low or (high is not None and value > high):
            validate(request, value)

    return check


def _exclusive_check(first: str, second: str) -> Callable[[LLMRequest, Any], None]:
    def check(request: LLMRequest, _given: Any) -> None:
        a, b = getattr(request, first), getattr(request, second)
        if a is not None and b is not None:
            raise InvalidRequestError(f"{first} = {shorten(a)} and {second} = {shorten(b)}: give one of the two")

    return check


def _all_checks(*checks: Callable[[LLMRequest, Any], None]) -> Callable[[LLMRequest, Any], None]:
    def check(request: LLMRequest, value: Any) -> None:
        for each in checks:
            each(request, value)

    return check


def _check_stop(_request: LLMRequest, value: str | tuple[str, ...]) -> None:
    if not isinstance(value, str) and len(value) > 4:
        raise InvalidRequestError(f"stop has {len(value)} strings: at most 4")


def _check_tool_choice(_request: LLMRequest, value: object) -> None:
    if isinstance(value, str) and value not in ("none", "auto", "required"):
        raise InvalidRequestError(
            f"tool_choice = {shorten(value)}: must be none, auto, required or {{'type': 'function', 'function': {{'name': …}}}}"
        )


def _check_tools(_request: LLMRequest, value: tuple[Tool, ...]) -> None:
    if len(value) > 128:
        raise InvalidRequestError(f"tools has {len(value)} tools: at most 128")
    names: set[str] = set()
    for index, tool in enumerate(value):
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
        _refuse_extra(function, f"tools[{index}].function")


def _check_response_format(_request: LLMRequest, value: ResponseFormat) -> None:
    if value.type not in ("text", "json_object", "json_schema"):
        raise InvalidRequestError(
            f"response_format.type = {shorten(value.type)}: must be text, json_object or json_schema"
        )
    _refuse_extra(value, "response_format")
    schema = value.json_schema
    if (value.type == "json_schema") != (schema is not None):
        raise InvalidRequestError("response_format: json_schema belongs to type 'json_schema', and only there")
    if schema is not None:
        if not schema.name:
            raise InvalidRequestError(
                f"response_format.json_schema.name = {shorten(schema.name)}: must be a non-empty string"
            )
        _refuse_extra(schema, "response_format.json_schema")


def _check_stream_options(_request: LLMRequest, value: StreamOptions) -> None:
    _refuse_extra(value, "stream_options")


def _refuse_extra(value: Any, place: str) -> None:
    if value.extra:
        cls: Any = type(value)
        raise unknown_keys_error(place, value.extra, [name for name in field_names(cls) if name != "extra"])


def unknown_keys_error(place: str, found: Any, known: Any) -> InvalidRequestError:
    """Return the error for keys that this service does not accept."""
    hints = ", ".join(f"{key!r}{nearest(str(key), known)}" for key in found)
    return InvalidRequestError(
        f"{place} has no field {hints}; known fields: {', '.join(known)} (a provider of type openai_compatible sends further ones)"
    )


def _check_groq_message(message: Message, place: str) -> Message:
    """Check a message for this service, and drop the keys that only answers have."""
    change: dict[str, Any] = {}
    if message.extra:
        unknown_keys = [key for key in message.extra if key not in ANSWER_ONLY]
        if unknown_keys:
            raise unknown_keys_error(place, unknown_keys, [name for name in field_names(Message) if name != "extra"])
        change["extra"] = None
    if message.content is None and not (message.tool_calls or message.function_call or message.reasoning):
        raise InvalidRequestError(f"{place}.content: a {message.role} message needs content")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidRequestError(f"{place}.tool_call_id: a tool message needs the tool_call_id it answers")
    if message.content is not None and not isinstance(message.content, str):
        for index, part in enumerate(message.content):
            _check_part(part, f"{place}.content[{index}]")
    if any(call.extra for call in message.tool_calls or ()):
        change["tool_calls"] = tuple([attrs.evolve(call, extra={}) for call in message.tool_calls or ()])
    return attrs.evolve(message, **change) if change else message


def _check_part(part: ContentPart, place: str) -> None:
    from groq_provider.types.parts import ImagePart, OtherPart  # imported late: most messages have no parts

    if isinstance(part, ImagePart) and part.detail not in (None, "auto", "low", "high"):
        raise InvalidRequestError(
            f"{place}.image_url.detail = {shorten(part.detail)}: must be one of auto, low, high, or None"
        )
    if isinstance(part, OtherPart):
        known = _PARTS.get(part.type)
        if known is None:
            raise InvalidRequestError(f"{place}: type = {shorten(part.type)}: must be text, image_url or document")
        keys = [*part.data, *(f"{part.type}.{key}" for key in _keys_of(part.data.get(part.type)))]
        raise unknown_keys_error(place, [key for key in keys if key not in known and key != part.type], known)


def _keys_of(inner: object) -> list[str]:
    return list(inner) if isinstance(inner, Mapping) else []


_refuse_below_one = _range_check("max_completion_tokens", 1, integer=True)
_one_length_limit = _exclusive_check("max_tokens", "max_completion_tokens")


def _check_max_completion_tokens(request: LLMRequest, value: int) -> None:
    if request.max_tokens is not None:
        _one_length_limit(request, value)
    if value < 1:
        _refuse_below_one(request, value)


#: The rules of this service.
GROQ = Allowed(
    fields={
        "max_completion_tokens": _check_max_completion_tokens,
        "max_tokens": _range_check("max_tokens", 1, integer=True),
        "temperature": _range_check("temperature", 0, 2),
        "top_p": _range_check("top_p", 0, 1),
        "n": _range_check("n", 1, 1, integer=True),
        "stop": _check_stop,
        "stream_options": _check_stream_options,
        "tools": _check_tools,
        "tool_choice": _check_tool_choice,
        "response_format": _check_response_format,
        "reasoning_format": _all_checks(
            _field_check("reasoning_format", one_of("hidden", "raw", "parsed")),
            _exclusive_check("reasoning_format", "include_reasoning"),
        ),
        "reasoning_effort": _field_check("reasoning_effort", one_of("none", "default", "low", "medium", "high")),
        "service_tier": _field_check("service_tier", one_of("auto", "on_demand", "flex", "performance")),
        "citation_options": _field_check("citation_options", one_of("enabled", "disabled")),
        "frequency_penalty": _range_check("frequency_penalty", -2, 2),
        "presence_penalty": _range_check("presence_penalty", -2, 2),
        "logit_bias": _field_check("logit_bias", mapping(values=int)),
        "top_logprobs": _range_check("top_logprobs", 0, 20, integer=True),
        "metadata": _field_check("metadata", mapping(values=str)),
    },
    roles=frozenset(ROLES),
    message=_check_groq_message,
    asks_usage=False,
    sends_stream_false=True,
)

#: The rules of any compatible server: none.
ANYTHING = Allowed(fields={}, roles=None, message=None, asks_usage=True, sends_stream_false=False)
