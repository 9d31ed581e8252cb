"""Bodies of requests that are sent in pieces: files, and forms with files (``multipart/form-data``).

A body knows its length before it is sent, and is opened anew for each attempt, so that a retry sends the same bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

from groq_provider.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Bytes, the path of a file, or a binary file that can seek.
    Content = bytes | os.PathLike[str] | IO[bytes]
    #: Content, or a pair of a file name and content, or these and a content type.
    File = Content | tuple[str, Content] | tuple[str, Content, str]

__all__ = ["Upload", "file_upload", "form", "multipart"]

#: Bytes read from a file at once.
_PIECE = 65_536
#: Content types by the ends of names; a file of another name is "application/octet-stream".
_TYPES = {
    "flac": "audio/flac", "m4a": "audio/mp4", "mp3": "audio/mpeg", "mp4": "audio/mp4", "mpeg": "audio/mpeg", "mpga": "audio/mpeg",
    "ogg": "audio/ogg", "opus": "audio/ogg", "wav": "audio/wav", "webm": "audio/webm", "json": "application/json",
    "jsonl": "application/jsonl", "txt": "text/plain", "csv": "text/csv", "pdf": "application/pdf", "png": "image/png",
    "jpg": "image/jpeg", "jpeg": "image/jpeg",
}  # fmt: skip
_ANY_TYPE = "application/octet-stream"


class Upload:
    """A body in pieces. ``len()`` is its size in bytes; each iteration opens it anew and yields all of them.

    Thread safety: an open file that was given is read by one call at a time; bytes and paths by any number.
    """

    __slots__ = ("_parts", "_size", "content_type")

    def __init__(self, parts: list[bytes | _Source], content_type: str) -> None:
        self._parts = parts
        self._size = sum(len(part) for part in parts)
        self.content_type = content_type

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True  # also one without a byte is a body

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            else:
                yield from part

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._size:,} bytes>"


class _Source:
    """A file to be sent."""

    __slots__ = ("_open", "_place", "_size")

    def __init__(self, open_file: Callable[[], IO[bytes]], size: int, place: str) -> None:
        self._open = open_file
        self._size = size
        self._place = place

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        try:
            file = self._open()
            try:
                while left:
                    data = file.read(min(left, _PIECE))
                    if not data:
                        break
                    left -= len(data)
                    yield data
            finally:
                file.close()
        except (OSError, ValueError) as error:  # ValueError: a file of the caller's that was closed
            raise InvalidRequestError(f"{self._place} cannot be read: {error}", param=self._place) from None
        if left:
            raise InvalidRequestError(
                f"{self._place} has become shorter since the request was made: {left:,} bytes are missing",
                param=self._place,
            )


class _Shared:
    """A file of the caller's, at the position where it was given; it stays open."""

    __slots__ = ("_file", "_start")

    def __init__(self, file: IO[bytes], start: int) -> None:
        self._file = file
        self._start = start

    def __call__(self) -> Any:
        self._file.seek(self._start)
        return self

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        """Leave the file open: it is the caller's."""


def _source(content: Any, place: str) -> tuple[bytes | _Source, str]:
    """Return what to send of a file, and the name it goes by."""
    if isinstance(content, (bytes, bytearray, memoryview)):
        return bytes(content), "file"
    if isinstance(content, os.PathLike):
        path = Path(content)
        try:
            return _Source(lambda: path.open("rb"), path.stat().st_size, place), path.name
        except OSError as error:
            raise InvalidRequestError(f"{place} cannot be read: {error}", param=place) from None
    if not callable(getattr(content, "read", None)) or isinstance(content, io.TextIOBase):
        raise InvalidRequestError(
            f"{place} must be bytes, a pathlib.Path, a binary file, or (name, content), not {type(content).__name__}",
            param=place,
        )
    try:
        start = content.tell()
        size = content.seek(0, io.SEEK_END) - start
        content.seek(start)
    except (AttributeError, OSError, ValueError) as error:
        raise InvalidRequestError(
            f"{place} must be a file that can seek, so that a retry can send it again: {error}", param=place
        ) from None
    shared = _Shared(content, start)
    name = getattr(content, "name", None)
    return _Source(shared, size, place), Path(name).name if isinstance(name, str) else "file"


def _type_of(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2].lower(), _ANY_TYPE)


def file_upload(content: Content, place: str = "data") -> Upload:
    """Return a body that is one file, as it is.

    Raises:
        InvalidRequestError: It is no file, or cannot be read.
    """
    part, name = _source(content, place)
    return Upload([part], _type_of(name))


def form(fields: Mapping[str, Any], place: str = "data") -> Upload:
    """Return the body of a form without files."""
    from urllib.parse import urlencode

    return Upload([urlencode(_texts(fields, place)).encode()], "application/x-www-form-urlencoded")


def multipart(fields: Mapping[str, Any] | None, files: Mapping[str, File]) -> Upload:
    """Return the body of a form with files.

    Args:
        fields: Texts, numbers, truth values, or lists of these, which become several fields of one name; ``None`` is left out.
        files: By name of the field.

    Raises:
        InvalidRequestError: A field or a file is none; the message names it.
    """
    boundary = uuid4().hex
    parts: list[bytes | _Source] = []
    for name, text in _texts(fields or {}, "data"):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'
        parts.append(head.encode() + text.encode() + b"\r\n")
    if not isinstance(files, Mapping):
        raise InvalidRequestError(f"files must be a mapping, not {type(files).__name__}", param="files")
    for name, given in files.items():
        place = f"files[{name!r}]"
        filename, content, content_type = None, given, None
        if isinstance(given, tuple):
            if len(given) not in (2, 3) or not isinstance(given[0], str):
                raise InvalidRequestError(
                    f"{place} must be (name, content) or (name, content, content type)", param=place
                )
            filename, content = given[0], given[1]
            content_type = given[2] if len(given) == 3 else None
        part, own_name = _source(content, place)
        filename = filename or own_name
        kind = content_type or _type_of(filename)
        if not isinstance(kind, str) or not kind.isascii() or not kind.isprintable():
            raise InvalidRequestError(f"{place}: the content type must be ASCII text", param=place)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(str(name))}"; filename="{_quoted(filename)}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        parts += [head.encode(), part, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    return Upload(parts, f"multipart/form-data; boundary={boundary}")


def _quoted(name: str) -> str:
    """Write a name inside quotes as browsers do."""
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


def _texts(fields: Mapping[str, Any], place: str) -> list[tuple[str, str]]:
    if not isinstance(fields, Mapping):
        raise InvalidRequestError(f"{place} must be a mapping, not {type(fields).__name__}", param=place)
    found = []
    for name, given in fields.items():
        for item in given if isinstance(given, (list, tuple)) else [given]:
            if item is None:
                continue
            if not isinstance(item, (str, int, float)):
                raise InvalidRequestError(
                    f"{place}[{name!r}] must be a text, a number, a truth value or a list of them, not {type(item).__name__}",
                    param=f"{place}[{name!r}]",
                )
            found.append((str(name), str(item).lower() if isinstance(item, bool) else str(item)))
    return found
