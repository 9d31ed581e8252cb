"""Settings of a request with fields of their own. Most requests have none, so the module is loaded with the first that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from groq_provider.errors import InvalidRequestError
from groq_provider.types._base import (
    EMPTY,
    boolean,
    build,
    build_optional,
    mapping,
    mask,
    text,
    to_exclude_domains,
    to_include_domains,
)

__all__ = ["Document", "JSONSchemaFormat", "ResponseFormat", "SearchSettings", "StreamOptions"]


@attrs.frozen(kw_only=True)
class Document:
    """A context document that the model may cite. Give exactly one of *text* and *data*.

    .. versionadded:: 0.1.0
    """

    id: str | None = attrs.field(default=None, validator=text())
    text: str | None = attrs.field(default=None, validator=text(), repr=mask)
    data: Mapping[str, Any] | None = attrs.field(default=None, validator=mapping(), repr=mask)

    def __attrs_post_init__(self) -> None:
        if (self.text is None) == (self.data is None):
            raise InvalidRequestError("a document needs exactly one of text and data")


def as_document(data: object, what: str) -> Document:
    """Convert an instance, a flat mapping, or the service's form with a nested ``source``."""
    if isinstance(data, Mapping) and isinstance(data.get("source"), Mapping):
        source = data["source"]
        flat = {key: item for key, item in data.items() if key != "source"}
        return build(Document, {**flat, "text": source.get("text"), "data": source.get("data")}, what=what)
    return build(Document, data, what=what)


@attrs.frozen(kw_only=True)
class JSONSchemaFormat:
    """The schema of a structured answer.

    This service requires a name and refuses further keys; compatible servers get all keys.

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

    Compatible servers may accept other types and further keys, which are sent unchanged.

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
    """Options of a stream. You need none: this service reports usage anyway, and compatible servers are asked to do so.

    .. versionadded:: 0.1.0
    """

    include_usage: bool | None = attrs.field(default=None, validator=boolean())
    extra: Mapping[str, Any] = attrs.field(default=EMPTY, validator=mapping(optional=False), repr=mask)
