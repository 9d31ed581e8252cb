"""Settings of a request that have fields of their own. Loaded by the first request that has one: most have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import EMPTY, boolean, build, build_optional, mapping, mask, text
from groq_provider.types.request import to_exclude_domains, to_include_domains

__all__ = ["Document", "JSONSchemaFormat", "ResponseFormat", "SearchSettings", "StreamOptions"]


@attrs.frozen(kw_only=True)
class Document:
    """A context document the model may cite: text or data, exactly one of them.

    .. versionadded:: 0.1.0
    """

    id: str | None = attrs.field(default=None, validator=text())
    text: str | None = attrs.field(default=None, validator=text(), repr=mask)
    data: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    def __attrs_post_init__(self) -> None:
        if (self.text is None) == (self.data is None):
            raise InvalidRequestError("a document needs exactly one of text and data")


def as_document(data: object, what: str) -> Document:
    """Take a document as an instance, flat, or in the service's form with its nested ``source``."""
    if isinstance(data, Mapping) and isinstance(data.get("source"), Mapping):
        source = data["source"]
        flat = {key: item for key, item in data.items() if key != "source"}
        return build(Document, {**flat, "text": source.get("text"), "data": source.get("data")}, what=what)
    return build(Document, data, what=what)


@attrs.frozen(kw_only=True)
class JSONSchemaFormat:
    """The schema of a structured answer.

    This service needs its name, and knows no further keys; compatible servers get what is given.

    .. versionadded:: 0.1.0
    """

    name: str | None = attrs.field(default=None, validator=text())
    description: str | None = attrs.field(default=None, validator=text())
    schema: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping())
    strict: bool | None = attrs.field(default=None, validator=boolean())
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)


def _to_json_schema(data: object) -> JSONSchemaFormat | None:
    return build_optional(JSONSchemaFormat, data, "json_schema")


@attrs.frozen(kw_only=True)
class ResponseFormat:
    """The form of the answer: ``text``, ``json_object`` (the prompt must ask for JSON) or ``json_schema``.

    Compatible servers may know other types and further keys, which go out as given.

    .. versionadded:: 0.1.0
    """

    type: str = attrs.field(validator=text(optional=False, empty=False))
    json_schema: JSONSchemaFormat | None = attrs.field(default=None, converter=_to_json_schema)
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)


@attrs.frozen(kw_only=True)
class SearchSettings:
    """Settings for systems that search the web.

    .. versionadded:: 0.1.0
    """

    include_domains: tuple[str, ...] | None = attrs.field(default=None, converter=to_include_domains)
    exclude_domains: tuple[str, ...] | None = attrs.field(default=None, converter=to_exclude_domains)
    country: str | None = attrs.field(default=None, validator=text())
    include_images: bool | None = attrs.field(default=None, validator=boolean())


@attrs.frozen(kw_only=True)
class StreamOptions:
    """Options of a stream. Not needed: this service reports usage anyway, and compatible servers are asked to.

    .. versionadded:: 0.1.0
    """

    include_usage: bool | None = attrs.field(default=None, validator=boolean())
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)
