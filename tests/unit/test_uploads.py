"""Bodies of requests that are sent in pieces: their bytes, their length, and what cannot be one."""

from __future__ import annotations

import email
import email.policy
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import InvalidRequestError
from groq_provider.wire.upload import file_upload, form, multipart


def parsed(upload):
    """Return the parts of a multipart body as (name, file name, content type, content)."""
    whole = b"".join(upload)
    assert len(whole) == len(upload)
    message = email.message_from_bytes(
        b"Content-Type: " + upload.content_type.encode() + b"\r\n\r\n" + whole, policy=email.policy.HTTP
    )
    return [
        (
            part.get_param("name", header="content-disposition"),
            part.get_filename(),
            part.get_content_type() if part.get_filename() else None,
            part.get_payload(decode=True),
        )
        for part in message.iter_parts()
    ]


def test_forms_hold_fields_and_files(tmp_path):
    """In the order given; a name decides the content type unless it is given; lists repeat a name, None is left out."""
    path = tmp_path / "speech.mp3"
    path.write_bytes(b"\xff\xfb" + bytes(100_000))
    fields = {"model": "whisper-large-v3", "temperature": 0.5, "words": ["a", "b"], "stream": True, "none": None}
    files = {
        "file": path,
        "bytes": b"abc",
        "named": ("a b.wav", io.BytesIO(b"xyz")),
        "typed": ("x", b"1", "text/x-own"),
    }
    assert parsed(multipart(fields, files)) == [
        ("model", None, None, b"whisper-large-v3"),
        ("temperature", None, None, b"0.5"),
        ("words", None, None, b"a"),
        ("words", None, None, b"b"),
        ("stream", None, None, b"true"),
        ("file", "speech.mp3", "audio/mpeg", path.read_bytes()),
        ("bytes", "file", "application/octet-stream", b"abc"),
        ("named", "a b.wav", "audio/wav", b"xyz"),
        ("typed", "x", "text/x-own", b"1"),
    ]


@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    content=st.binary(max_size=300),
    start=st.integers(0, 20),
)
def test_every_attempt_sends_the_same(name, content, start):
    """Opened anew it gives the same bytes, from where an open file stood; the file stays open."""
    file = io.BytesIO(bytes(start) + content)
    file.seek(start)
    upload = multipart({"x": name}, {"file": (name, file)})
    first = b"".join(upload)
    assert b"".join(upload) == first
    assert len(first) == len(upload)
    assert content in first
    assert not file.closed


def test_quotes_and_breaks_stay_inside():
    """A name cannot end its header."""
    whole = b"".join(multipart({}, {'a"b\r\nX: 1': ('c"\r\nY: 2', b"")}))
    assert whole.count(b"\r\nX") == whole.count(b"\r\nY") == 0
    assert b'name="a%22b%0D%0AX: 1"; filename="c%22%0D%0AY: 2"' in whole


def test_a_form_without_files():
    """It is written as browsers write it."""
    upload = form({"a": "ä b", "c": [1, True], "none": None})
    assert (b"".join(upload), upload.content_type) == (b"a=%C3%A4+b&c=1&c=true", "application/x-www-form-urlencoded")


def test_a_shrunken_file_is_named(tmp_path):
    """A file that became shorter is an error, not a request that never ends."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"12345")
    upload = file_upload(path)
    assert upload.content_type == "application/jsonl"
    path.write_bytes(b"123")
    with pytest.raises(InvalidRequestError, match="2 bytes are missing"):
        list(upload)
    path.unlink()
    with pytest.raises(InvalidRequestError, match="data cannot be read"):
        list(upload)


class Stream(io.RawIOBase):
    """A file that cannot seek."""

    def readable(self):
        return True


CLOSED = io.BytesIO(b"x")
CLOSED.close()
WRONG = {
    "no file": ({"file": 5}, r"files\['file'\] must be bytes"),
    "text": ({"file": io.StringIO("x")}, "binary file"),
    "a name alone": ({"file": "speech.mp3"}, "pathlib.Path"),
    "no name": ({"file": (b"x", b"y")}, "must be .name, content."),
    "too much": ({"file": ("a", b"x", "text/plain", 1)}, "must be .name, content."),
    "type with a break": ({"file": ("a", b"x", "text/plain\r\nX: 1")}, "content type"),
    "no seek": ({"file": Stream()}, "can seek"),
    "closed": ({"file": CLOSED}, "can seek"),
    "no mapping": ([b"x"], "files must be a mapping"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_file(name):
    """The error names the place and says what may stand there."""
    files, message = WRONG[name]
    with pytest.raises(InvalidRequestError, match=message) as caught:
        multipart({}, files)
    assert caught.value.param.startswith("files")


@pytest.mark.parametrize("fields", [{"a": {"b": 1}}, {"a": b"x"}, {"a": [["b"]]}, "a=b"])
def test_what_is_no_field(fields):
    """Texts, numbers, truth values, or lists of them."""
    with pytest.raises(InvalidRequestError, match="data"):
        multipart(fields, {})


def test_a_missing_file_is_named(tmp_path):
    """Before anything is sent."""
    with pytest.raises(InvalidRequestError, match=r"files\['file'\] cannot be read"):
        multipart({}, {"file": tmp_path / "none.mp3"})
