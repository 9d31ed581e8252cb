"""Event streams: bytes into lines, lines into events, wherever the bytes were cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.call.call import MAX_BODY
from groq_provider.errors import ResponseTooLargeError
from groq_provider.wire.sse import DONE, MAX_EVENT_BYTES, MAX_LINE_BYTES, Event, EventDecoder, LineSplitter

BOM = b"\xef\xbb\xbf"


class Reader:
    """Both steps behind each other, as a stream uses them."""

    def __init__(self, **caps):
        self.splitter = LineSplitter(caps.get("max_line", MAX_LINE_BYTES))
        self.decoder = EventDecoder(caps.get("max_event", MAX_EVENT_BYTES))

    def feed(self, data):
        return [event for line in self.splitter.feed(data) if (event := self.decoder.feed(line)) is not None]

    def finish(self):
        """The event that the end of the body left unfinished."""
        if rest := self.splitter.finish():
            assert self.decoder.feed(rest) is None
        return self.decoder.finish()


def read(*pieces):
    reader = Reader()
    return [event for piece in pieces for event in reader.feed(piece)]


def reference(body):
    """The events of a whole body and what its end leaves, by the letter of the WHATWG text, one character after the other."""
    if body.startswith(BOM):
        body = body[3:]
    lines, line, i = [], bytearray(), 0
    while i < len(body):
        if body[i] in (10, 13):
            lines.append(bytes(line))
            line.clear()
            if body[i : i + 2] == b"\r\n":
                i += 1
        else:
            line.append(body[i])
        i += 1
    events, data, name = [], b"", ""

    def field(line):
        nonlocal data, name
        key, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if key == b"data":
            data += value + b"\n"
        elif key == b"event":
            name = value.decode("utf-8", "replace")

    for line_ in lines:
        if line_:
            field(line_)
            continue
        if data:
            events.append(Event(name, data[:-1]))
        data, name = b"", ""
    if line:
        field(bytes(line))
    return events, Event(name, data[:-1]) if data else None


TABLE = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "mixed": (b"data: a\r\n\ndata: b\n\rdata: c\r\r\ndata: d\n\r\n", [b"a", b"b", b"c", b"d"]),
    "BOM": (BOM + b"data: a\n\n", [b"a"]),
    "BOM later": (b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n", [b"a", b"c"]),
    "BOM twice": (BOM + BOM + b"data: a\n\ndata: b\n\n", [b"b"]),
    "BOM inside": (b"data: " + BOM + b"a\n\n", [BOM + b"a"]),
    "comments": (b": hello\n\n:\n\ndata: a\n: between\ndata: b\n\n", [b"a\nb"]),
    "multi-line": (b"data: a\ndata: b\ndata: c\n\n", [b"a\nb\nc"]),
    "no space": (b"data:a\n\n", [b"a"]),
    "two spaces": (b"data:  a\n\n", [b" a"]),
    "tab": (b"data:\ta\n\n", [b"\ta"]),
    "empty data": (b"data:\n\n", [b""]),
    "empty data with space": (b"data: \n\n", [b""]),
    "bare data": (b"data\n\n", [b""]),
    "bare data twice": (b"data\ndata\n\n", [b"\n"]),
    "no data": (b"event: a\n\ndata: b\n\n", [b"b"]),
    "id and retry": (b"id: 1\nretry: 5\ndata: a\n\n", [b"a"]),
    "unknown field": (b"foo: 1\nbar\ndata: a\n\n", [b"a"]),
    "field in other case": (b"Data: a\n\nDATA: b\n\n", []),
    "space before the colon": (b"data : a\n\n", []),
    "colons": (b"data: a: b:c\n\n", [b"a: b:c"]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    "done": (b"data: {}\n\ndata: [DONE]\n\n", [b"{}", DONE]),
    "U+2028, U+2029, U+0085": ("data: a\u2028b\u2029c\u0085d\n\n".encode(), ["a\u2028b\u2029c\u0085d".encode()]),
    "VT, FF, FS, NUL": (b"data: a\x0bb\x0cc\x1cd\x00e\n\n", [b"a\x0bb\x0cc\x1cd\x00e"]),
    "invalid UTF-8": (b"data: \xff\xfe\n\n", [b"\xff\xfe"]),
    "unfinished": (b"data: a\n\ndata: b\n", [b"a"]),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("case", TABLE)
def test_bodies_become_events(case):
    """By the WHATWG text, whole or byte by byte; the reference of these tests agrees."""
    body, expected = TABLE[case]
    assert [event.data for event in read(body)] == expected
    assert [event.data for event in read(*(bytes([byte]) for byte in body))] == expected
    assert [event.data for event in reference(body)[0]] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"event: error\ndata: a\n\ndata: b\n\n", [Event("error", b"a"), Event("", b"b")]),
        (b"data: a\nevent:error\n\n", [Event("error", b"a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [Event("y", b"a")]),
        (b"event: x\nevent\ndata: a\n\n", [Event("", b"a")]),
        (b"event: x\n\ndata: a\n\n", [Event("", b"a")]),
        (b"event: \xff\ndata: a\n\n", [Event("\ufffd", b"a")]),
    ],
    ids=["once", "after the data", "last wins", "bare", "without data", "invalid UTF-8"],
)
def test_events_use_their_own_names(body, expected):
    """A name holds for one event only."""
    assert read(body) == expected == reference(body)[0]


BODIES = st.lists(
    st.sampled_from(
        [
            b"data: a", b"data:", b"data", b'data: {"a": 1}', b"data: [DONE]", b": comment", b"event: error", b"event", b"id: 1",
            b"\n", b"\n", b"\n\n", b"\r", b"\r", b"\r\n", b"\r\n", BOM, "ä\u2028".encode(), b" ", b":", b"x",
        ]
    )
    | st.binary(max_size=4),
    max_size=30,
).map(b"".join)  # fmt: skip


@given(BODIES, st.lists(st.integers(0, 120), max_size=12))
def test_any_split_gives_same_events(body, cuts):
    """However the network cuts a body, the events are those of the whole, the unfinished last one too."""
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    pieces = [body[a:b] for a, b in pairwise(edges)]
    for way in ([body], pieces, [bytes([byte]) for byte in body], [p for piece in pieces for p in (b"", piece, b"")]):
        reader = Reader()
        events = [event for piece in way for event in reader.feed(piece)]
        assert (events, reader.finish()) == reference(body)


def test_every_split_gives_same_events():
    """Every split of a stream in two and three gives the same events: all positions, not a sample."""
    body = BOM + 'data: {"a":"á"}\r\n\r\nevent: error\rdata: b\r\r: c\n\ndata: [DONE]\n\n'.encode()
    expected = [Event("", '{"a":"á"}'.encode()), Event("error", b"b"), Event("", DONE)]
    for i in range(len(body) + 1):
        for j in range(i, len(body) + 1):
            assert read(body[:i], body[i:j], body[j:]) == expected


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\n", b"\n\r"], ids=repr)
def test_nothing_complete_is_held_back(end):
    """An event is given out with the byte that completes it; a CR does not wait for the LF that may follow."""
    reader = Reader()
    body = b"data: a" + end
    # CRLF completes its line with the CR already.
    last = len(body) - 1 if end.endswith(b"\r\n") else len(body)
    for byte in body[: last - 1]:
        assert reader.feed(bytes([byte])) == []
    assert reader.feed(body[last - 1 : last]) == [Event("", b"a")]
    assert reader.feed(body[last:]) == []
    assert reader.feed(b"data: b\n\n") == [Event("", b"b")]


def test_split_crlf_is_one_end():
    """A carriage return and a line feed apart are one end of line, even after an empty piece."""
    assert read(b"data: a\r", b"", b"\ndata: b\r", b"\n", b"\r\n") == [Event("", b"a\nb")]


def test_unfinished_event_is_handed_over():
    """An event without its blank line at the end of the body is handed over, for the caller to judge."""
    reader = Reader()
    assert reader.feed(b"data: a\n\nevent: x\ndata: b\ndata: c") == [Event("", b"a")]
    assert reader.finish() == Event("x", b"b\nc")
    assert reader.finish() is None
    assert reader.splitter.finish() == b""


# --- caps ----------------------------------------------------------------------------------------------------------------


def feed_all(splitter, body, step):
    return [line for i in range(0, len(body), step) for line in splitter.feed(body[i : i + step])]


@pytest.mark.parametrize("step", [1, 7, 1000], ids=["byte by byte", "in pieces", "whole"])
def test_lines_have_a_longest_length(step):
    """A line as long as the cap is taken, one byte more is refused, however it arrives and whether it ends or not."""
    for body in (b"data: 890", b"data: 890\n", b"\ndata: 890", b"x\ndata: 890\ny\n"):
        feed_all(LineSplitter(max_line=9), body, step)
    for body in (b"data: 8901", b"data: 8901\n", b"\ndata: 8901", b"x\ndata: 8901\ny\n"):
        with pytest.raises(ResponseTooLargeError, match="a line of the stream is longer than 9 bytes"):
            feed_all(LineSplitter(max_line=9), body, step)


@pytest.mark.parametrize("line", [b"data: 12345", b"data:", b"data"], ids=["data", "empty data", "bare data"])
def test_events_have_a_largest_size(line):
    """Lines that never come to an end of their event do not fill the memory, be they ever so short."""
    decoder = EventDecoder(max_event=60)
    with pytest.raises(ResponseTooLargeError, match="an event of the stream is larger than 60 bytes"):
        [decoder.feed(line) for _ in range(61)]


def test_size_counts_for_each_event():
    """The cap is one of an event, not of the stream."""
    reader = Reader(max_event=20)
    assert len(reader.feed(b"data: 1234567890\n\n" * 50)) == 50


def test_line_and_event_caps():
    """An event may be as large as a plain answer; its line has room for the name of the field."""
    assert EventDecoder().max_event == MAX_BODY
    assert LineSplitter().max_line > MAX_BODY + len("data: ")


def test_long_line_is_copied_once():
    """The unfinished line is one growing buffer, however small the pieces: not copied at each arrival, and no object for each."""
    splitter = LineSplitter()
    pieces = [b"data: "] + [b"x" * 64] * 8000
    for piece in pieces:
        assert splitter.feed(piece) == []
    assert splitter._partial_line == b"".join(pieces)
    assert splitter.feed(b"\n") == [b"".join(pieces)]
    assert not splitter._partial_line


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), max_size=8), st.integers(1, 40))
def test_json_travels_unharmed(values, step):
    """Any text the service can write in JSON comes out as it went in, U+2028 and lone CR included."""
    body = b"".join(
        b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n\n" for value in values
    )
    events = read(*(body[i : i + step] for i in range(0, len(body), step)))
    assert [json.loads(event.data.decode("utf-8", "surrogatepass")) for event in events] == values


def test_oversized_batch_line_is_refused():
    """A line that is an event too large is refused in a batch too, where nearly all are a data and an empty line."""
    decoder = EventDecoder(max_event=10)
    assert [event.data for event in decoder.events([b"data: a", b"", b"data: b", b""])] == [b"a", b"b"]
    with pytest.raises(ResponseTooLargeError):
        list(decoder.events([b"data: " + b"x" * 20, b""]))
