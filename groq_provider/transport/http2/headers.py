"""Makes the header fields of HTTP/2 requests and checks those of responses. No state, no I/O."""

from __future__ import annotations

import functools
import logging
import re
from typing import TYPE_CHECKING

from hpack import HeaderTuple, NeverIndexedHeaderTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HEAD", "check_head", "content_length", "fields_of"]

#: The limits of a head, as for HTTP/1.1; a larger one ends the stream. MAX_HEAD bounds a decoded head as a whole;
#: beyond it the connection ends, since its header table is then undefined.
_MAX_FIELDS, _MAX_FIELD, MAX_HEAD = 100, 65_536, 1 << 18
_FIELD_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_CONTROL_CHARACTERS = re.compile(rb"[\0\r\n]")
#: Fields that belong to an HTTP/1.1 connection and must not be sent over HTTP/2.
_CONNECTION_FIELDS = frozenset({"host", "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"})
#: Secret fields: their values must not enter the header table of the peer, or of a proxy between.
_SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"})


def _hide_head_blocks(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Encoded header block")


# hpack writes the encoded head of each request to its debug log, with the key in it. Its other lines omit never-indexed
# values.
logging.getLogger("hpack.hpack").addFilter(_hide_head_blocks)


@functools.lru_cache(maxsize=256)
def _wire_name(header_text: str) -> tuple[bytes, bool] | None:
    """Return the name of a field as it is sent, and whether its value is a secret; ``None`` if the field is not sent.

    Raises:
        ValueError: The name is invalid.
    """
    lower_name = header_text.lower()
    if lower_name in _CONNECTION_FIELDS:
        return None
    name = lower_name.encode("latin-1")
    if not _FIELD_NAME.match(name) or name[:1] == b":":
        raise ValueError("a header name holds characters that HTTP does not allow")
    return name, lower_name in _SECRET_FIELDS


def fields_of(method: str, scheme: str, authority: str, path: str, headers: Mapping[str, str]) -> list[HeaderTuple]:
    """Return the header fields of a request.

    Raises:
        ValueError: A value would break a head of HTTP/1.1, into which a proxy behind the server may convert it.
    """
    fields = [
        HeaderTuple(b":method", method.encode("latin-1")),
        HeaderTuple(b":scheme", scheme.encode("latin-1")),
        HeaderTuple(b":authority", authority.encode("latin-1")),
        HeaderTuple(b":path", path.encode("latin-1")),
    ]
    for header_name, header_text in headers.items():
        wire_name = _wire_name(header_name)
        if wire_name is None:
            if header_name.lower() == "host":
                fields[2] = HeaderTuple(b":authority", header_text.encode("latin-1"))
            continue
        name, is_secret = wire_name
        # Any subclass of str here is a SecretHeader.
        field_class = NeverIndexedHeaderTuple if is_secret or type(header_text) is not str else HeaderTuple
        fields.append(field_class(name, header_text.encode("latin-1").strip(b" \t")))
    if any(_CONTROL_CHARACTERS.search(value) for _, value in fields) or b" " in fields[3][1]:
        raise ValueError("control character in a header or the path")
    return fields


def check_head(head: list[tuple[bytes, bytes]]) -> tuple[int, str]:
    """Return the status of a response, and a description of the fault in its head, empty if there is none."""
    if len(head) > _MAX_FIELDS:
        return 0, f"got more than {_MAX_FIELDS} headers"
    status, announced_length = 0, b""
    for name, value in head:
        if len(name) > _MAX_FIELD or len(value) > _MAX_FIELD:
            return 0, f"got more than {_MAX_FIELD} bytes in a header"
        if not _FIELD_NAME.match(name) or _CONTROL_CHARACTERS.search(value):
            return 0, "invalid header field"
        if name[:1] == b":":
            if name != b":status" or status or len(value) != 3 or not value.isdigit() or value < b"100":
                return 0, "invalid :status"
            status = int(value)
        elif name == b"content-length":
            if announced_length and announced_length != value:
                return 0, "conflicting Content-Length values"
            announced_length = value
    return status, "" if status else "no :status"


def content_length(head: list[tuple[bytes, bytes]]) -> int | None:
    """Return the announced length. Ignore an invalid one: HTTP/2 marks the end of the body anyway."""
    for name, value in head:
        if name == b"content-length":
            return int(value[:19]) if value.isdigit() else None
    return None
