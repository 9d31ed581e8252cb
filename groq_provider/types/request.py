"""The request: one chat completion to ask for."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import (
    EMPTY,
    boolean,
    build,
    build_many,
    check_given,
    defer_checks,
    freeze_field,
    freeze_mapping,
    mapping,
    mask,
    nearest,
    number,
    shorten,
    string_tuple,
    text,
    to_exclude_domains,
    to_include_domains,
)
from groq_provider.types.messages import Message, as_message

if TYPE_CHECKING:
    from groq_provider.types.options import Document, JSONSchemaFormat, ResponseFormat, SearchSettings, StreamOptions
    from groq_provider.types.parts import Tool

__all__ = ["Document", "JSONSchemaFormat", "LLMRequest", "ResponseFormat", "SearchSettings", "StreamOptions"]


#: The source of ids. They are never sent, so they may be guessable. ``uuid4()`` would call the system for each, which hands the
#: interpreter's lock to another thread.
_id_source = random.Random()
if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(after_in_child=_id_source.seed)


def _documents(data: object) -> tuple[Document, ...] | None:
    if data is None:
        return None
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"documents must be a sequence, not {type(data).__name__}")
    from groq_provider.types.options import as_document

    return tuple([as_document(item, f"documents[{index}]") for index, item in enumerate(data)])


def _messages(data: object) -> tuple[Message, ...]:
    if isinstance(data, str):
        if not data:
            raise InvalidRequestError("the prompt is empty: give at least one character", param="messages")
        return (Message(role="user", content=data),)
    if isinstance(data, Message):
        return (data,)
    if isinstance(data, (bytes, bytearray, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(
            f"messages must be text, a Message or a sequence of messages, not {type(data).__name__}: decode bytes, wrap a mapping in a list"
        )
    if not data:
        raise InvalidRequestError("messages is empty: give at least one message")
    return tuple([as_message(item, f"messages[{index}]") for index, item in enumerate(data)])


def _stop(data: object) -> str | tuple[str, ...] | None:
    if data is None or isinstance(data, str):
        return data
    return string_tuple(data, "stop") or ()


def _word_or_mapping(instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    if not isinstance(given, (str, Mapping)):
        raise InvalidRequestError(f"{attribute.name} must be text or a mapping, not {type(given).__name__}")
    freeze_field(instance, attribute, given)


def _uuid(given: object) -> uuid.UUID:
    if isinstance(given, uuid.UUID):
        return given
    try:
        return uuid.UUID(str(given))
    except ValueError:
        raise InvalidRequestError(
            f"id = {shorten(given)}: must be a UUID; put a key of your own into custom_id"
        ) from None


def _functions(data: object) -> tuple[Mapping[str, Any], ...] | None:
    if data is None:
        return None
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"functions must be a sequence of mappings, not {type(data).__name__}")
    return tuple([freeze_mapping(item) for item in data])


def _to_stream_options(data: object) -> StreamOptions | None:
    if data is None:
        return None
    from groq_provider.types.options import StreamOptions

    return build(StreamOptions, data, what="stream_options")


def _to_tools(data: object) -> tuple[Tool, ...] | None:
    if data is None:
        return None
    from groq_provider.types.parts import Tool

    return build_many(Tool, data, what="tools")


def _to_response_format(data: object) -> ResponseFormat | None:
    if data is None:
        return None
    from groq_provider.types.options import ResponseFormat

    return build(ResponseFormat, data, what="response_format")


def _to_search_settings(data: object) -> SearchSettings | None:
    if data is None:
        return None
    from groq_provider.types.options import SearchSettings

    return build(SearchSettings, data, what="search_settings")


@attrs.frozen(kw_only=True, field_transformer=defer_checks)
class LLMRequest:
    """One chat completion to ask for.

    Every field of the service's request has the service's name. ``None`` means "not sent"; 0 and 0.0 are sent. This class checks types.
    A provider of type ``groq`` also checks the ranges below, which are those of this service, before it sends; a provider of type
    ``openai_compatible`` sends values unchecked. Unknown model names are sent, too. You must give ``messages`` only:
    ``LLMRequest(messages="Hello")``.

    Attributes:
        messages: Text, or a sequence of :class:`Message` or mappings. At least one.
        model: The model id; ``None`` means the provider's default model.
        max_completion_tokens: Longest answer in tokens, reasoning included. The service counts all of it against your limits at admission.
        max_tokens: Deprecated name of ``max_completion_tokens``; you may set one of the two.
        temperature: 0 to 2; the service's default is 1.
        top_p: 0 to 1.
        n: The number of choices; this service allows 1 only. The response is made of the first; ``response.raw`` has the others, and the
            chunks of a stream have an ``index``.
        stop: One to four texts that end the answer.
        seed: Makes answers repeatable, as far as the service can; ``response.x_groq.seed`` has the seed that was used.
        stream: Without effect: ``generate`` and ``generate_stream`` set it.
        stream_options: You need none: this service reports usage anyway, and compatible servers are asked to do so.
        tools: At most 128 tools.
        tool_choice: ``"none"``, ``"auto"``, ``"required"``, the name form ``{"type": "function", "function": {"name": …}}``.
        parallel_tool_calls: Whether several calls may come in one answer.
        response_format: :class:`ResponseFormat` or a mapping.
        reasoning_format: ``"hidden"``, ``"raw"`` or ``"parsed"``; not together with ``include_reasoning``.
        include_reasoning: Whether reasoning is in the answer.
        reasoning_effort: ``none``, ``default``, ``low``, ``medium``, ``high``; which of them depends on the model.
        service_tier: ``auto``, ``on_demand``, ``flex``, ``performance``.
        disable_tool_validation: Whether the service should not check tool calls.
        documents: Context that the model may cite.
        citation_options: ``enabled`` or ``disabled``.
        search_settings: For systems that search the web.
        include_domains: Deprecated; see ``search_settings``.
        exclude_domains: Deprecated; see ``search_settings``.
        compound_custom: Settings of Compound systems (shut down 2026-09-21); kept for completeness.
        user: End-user id for abuse monitoring.
        frequency_penalty: -2 to 2; no model supports it yet.
        presence_penalty: -2 to 2; no model supports it yet.
        logit_bias: Refused by the service; for compatible servers.
        logprobs: Refused by the service; for compatible servers.
        top_logprobs: 0 to 20; refused by the service; for compatible servers.
        metadata: Passed to the service, which does not use it yet.
        store: Passed to the service, which does not use it yet.
        functions: Deprecated form of ``tools``.
        function_call: Deprecated form of ``tool_choice``.
        debug: Undocumented by the service.
        id: Your own id for this request, repeated as ``response.client_request_id``. Never sent.
        custom_id: Your key for this item in a bulk job. Never sent.
        provider_metadata: Further body fields that this class does not have; sent unchanged.

    Raises:
        InvalidRequestError: A value is of the wrong type; the message names field and value.

    .. versionadded:: 0.1.0
    """

    messages: tuple[Message, ...] = attrs.field(converter=_messages)
    model: str | None = attrs.field(default=None, validator=text(empty=False))
    max_completion_tokens: int | None = attrs.field(default=None, validator=number(integer=True))
    max_tokens: int | None = attrs.field(default=None, validator=number(integer=True))
    temperature: float | None = attrs.field(default=None, validator=number())
    top_p: float | None = attrs.field(default=None, validator=number())
    n: int | None = attrs.field(default=None, validator=number(integer=True))
    stop: str | tuple[str, ...] | None = attrs.field(default=None, converter=_stop, repr=mask)
    seed: int | None = attrs.field(default=None, validator=number(integer=True))
    stream: bool = attrs.field(default=False, validator=boolean(optional=False))
    stream_options: StreamOptions | None = attrs.field(default=None, converter=_to_stream_options)
    tools: tuple[Tool, ...] | None = attrs.field(default=None, converter=_to_tools)
    tool_choice: str | Mapping[str, Any] | None = attrs.field(default=None, validator=_word_or_mapping)
    parallel_tool_calls: bool | None = attrs.field(default=None, validator=boolean())
    response_format: ResponseFormat | None = attrs.field(default=None, converter=_to_response_format)
    reasoning_format: str | None = attrs.field(default=None, validator=text())
    include_reasoning: bool | None = attrs.field(default=None, validator=boolean())
    reasoning_effort: str | None = attrs.field(default=None, validator=text())
    service_tier: str | None = attrs.field(default=None, validator=text())
    disable_tool_validation: bool | None = attrs.field(default=None, validator=boolean())
    documents: tuple[Document, ...] | None = attrs.field(default=None, converter=_documents, repr=mask)
    citation_options: str | None = attrs.field(default=None, validator=text())
    search_settings: SearchSettings | None = attrs.field(default=None, converter=_to_search_settings)
    include_domains: tuple[str, ...] | None = attrs.field(default=None, converter=to_include_domains)
    exclude_domains: tuple[str, ...] | None = attrs.field(default=None, converter=to_exclude_domains)
    compound_custom: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)
    user: str | None = attrs.field(default=None, validator=text())
    frequency_penalty: float | None = attrs.field(default=None, validator=number())
    presence_penalty: float | None = attrs.field(default=None, validator=number())
    logit_bias: Mapping[str, float] | None = attrs.field(default=None, validator=mapping(values=float))
    logprobs: bool | None = attrs.field(default=None, validator=boolean())
    top_logprobs: int | None = attrs.field(default=None, validator=number(integer=True))
    metadata: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)
    store: bool | None = attrs.field(default=None, validator=boolean())
    functions: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, converter=_functions)
    function_call: str | Mapping[str, Any] | None = attrs.field(default=None, validator=_word_or_mapping)
    debug: bool | None = attrs.field(default=None, validator=boolean())
    id: uuid.UUID = attrs.field(default=None, converter=_uuid)
    custom_id: str | None = attrs.field(default=None, validator=text())
    provider_metadata: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)

    def __attrs_post_init__(self) -> None:
        check_given(self)
        object.__setattr__(self, "id", self.id or uuid.UUID(int=_id_source.getrandbits(128), version=4))
        if self.provider_metadata:
            check_extra(self.provider_metadata, "provider_metadata")

    @property
    def max_output_tokens(self) -> int | None:
        """``max_completion_tokens`` or ``max_tokens``; ``None`` if neither is set or the value is negative, which limits nothing."""
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        return None if limit is None or limit < 0 else limit

    @classmethod
    def of(
        cls, prompt: str | Message | Sequence[Message | Mapping[str, Any]] | LLMRequest | None = None, **fields: Any
    ) -> LLMRequest:
        """Make a request from the arguments of ``generate``: text, messages or a request, with fields that override those of the request.

        You may pass ``messages`` by keyword instead of *prompt*.
        """
        if prompt is None:
            prompt = fields.pop("messages", None)
            if prompt is None:
                raise InvalidRequestError(
                    "the prompt is missing: give a text, a list of messages or an LLMRequest", param="messages"
                )
        if isinstance(prompt, LLMRequest):
            if not fields:
                return prompt
            _check_names(fields)
            # Either name of the length limit replaces the other one.
            if fields.get("max_tokens") is not None:
                fields.setdefault("max_completion_tokens", None)
            elif fields.get("max_completion_tokens") is not None:
                fields.setdefault("max_tokens", None)
            return attrs.evolve(prompt, **fields)
        if fields:
            _check_names(fields)
            if "messages" in fields:
                raise InvalidRequestError("the prompt and messages: give one of the two", param="messages")
        return cls(messages=prompt, **fields)


def refuse_stream(fields: Mapping[str, Any]) -> None:
    """Refuse ``stream=True`` in a call of ``generate``: other clients switch to streaming in this way."""
    if fields.get("stream"):
        raise InvalidRequestError(
            "stream = True: call generate_stream, which gives the answer while the model writes it"
        )


#: Fields that limits and checks depend on; replacing them in the finished body would bypass both.
_NOT_EXTRA = ("model", "messages", "stream", "max_tokens", "max_completion_tokens")


def check_extra(body: Mapping[str, Any], what: str) -> None:
    """Refuse extra body fields that the caller must give as arguments."""
    for name in _NOT_EXTRA:
        if name in body:
            hint = "call generate or generate_stream" if name == "stream" else "give it as an argument"
            raise InvalidRequestError(f"{what} holds {name!r}, which cannot be replaced there: {hint}")


REQUEST_FIELDS = frozenset(map(attrgetter("name"), attrs.fields(LLMRequest)))


def _check_names(fields: Mapping[str, Any]) -> None:
    if not REQUEST_FIELDS.issuperset(fields):
        unknown = [name for name in fields if name not in REQUEST_FIELDS]
        hints = ", ".join(f"{name!r}{nearest(name, REQUEST_FIELDS)}" for name in unknown)
        raise InvalidRequestError(
            f"no request field {hints}; put a field that this version does not know into extra_body"
        )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from groq_provider.types import options

        return getattr(options, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
