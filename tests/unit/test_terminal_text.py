"""Text for a terminal: wrapped at words, nothing in it that steers; the same for the words of errors."""

import io
import itertools
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import errors as e
from groq_provider.catalog import default_catalogue
from groq_provider.cli import _make_streams_safe, screen, show
from groq_provider.cli.advice import format_error
from groq_provider.cli.text import WordWrapper, one_line, visible_text

_TEXT = st.text(st.sampled_from("abcdefgh  \n\t,.") | st.characters(), max_size=200)


def controls(text, but=""):
    """What a terminal would obey."""
    return [character for character in text if unicodedata.category(character) == "Cc" and character not in but]


def wrap(text, width, cuts=()):
    """Feed a text in pieces."""
    wrapper = WordWrapper(width)
    edges = [0, *sorted(cuts), len(text)]
    return "".join(wrapper.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + wrapper.end()


@given(_TEXT, st.integers(8, 60), st.data())
def test_pieces_wrap_like_the_whole(text, width, data):
    """Wherever a stream is cut, its answer looks the same; nothing but blanks and line feeds is added or lost."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=5))
    shown = wrap(text, width, cuts)
    assert shown == wrap(text, width)
    assert re.sub("[ \t\n]", "", shown) == re.sub("[ \t\n]", "", text)


@given(st.lists(st.text("abcdefghijklm,.-", min_size=1, max_size=12), max_size=60), st.integers(12, 80))
def test_lines_break_between_words(words, width):
    """No line is wider than the terminal, no word is cut, and no line is broken before it must be."""
    lines = wrap(" ".join(words), width).split("\n")
    assert [word for line in lines for word in line.split()] == words
    assert all(len(line) <= width for line in lines)
    assert all(len(line) + 1 + len(following.split()[0]) > width for line, following in itertools.pairwise(lines))


def test_code_keeps_its_lines():
    """Between fences nothing is wrapped; after them it goes on."""
    code = "```python\n" + "x = 1 + " * 20 + "1\n```\n"
    assert wrap(code, 20) == code
    assert wrap(f"{code}a b c d e f g h i j k l m", 20) == f"{code}a b c d e f g h i j\nk l m"


def test_lines_keep_their_indent():
    """A wrapped line goes on below its first word."""
    assert wrap("  one two three four", 12) == "  one two\n  three four"


def test_wide_characters_break_anywhere():
    """Scripts without spaces count two columns a character."""
    assert wrap("漢字" * 6, 8) == "漢字漢字\n漢字漢字\n漢字漢字"


@given(st.text())
def test_shown_text_steers_nothing(text):
    """Neither as an answer nor as a name in a table."""
    assert controls(visible_text(text), but="\t\n") == []
    assert one_line(text).isprintable()


@given(st.text(), st.sampled_from(sorted(e.__all__)))
def test_errors_hold_no_controls(text, name):
    """Whatever the words in an error: its text and the line about it are one line that can be printed and encoded."""
    error = getattr(e, name)(f"before {text} after", request_id=text, model=text)
    for shown in (str(error), format_error(error)):
        assert controls(shown, but="\n") == []
        assert "\u2028" not in shown
        shown.encode()
    assert "\n" not in str(error)
    assert error.message == f"before {text} after"


def test_json_is_plain_ascii(capsys):
    """On a terminal, too."""
    text = "".join(map(chr, range(256))) + "\u202e\ud83d"
    screen.print_json({"a": text})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert shown.rstrip("\n").isprintable()


class _Stream(io.TextIOWrapper):
    def __init__(self, encoding, errors):
        super().__init__(io.BytesIO(), encoding=encoding, errors=errors)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "backslashreplace"])
def test_every_stream_takes_every_text(monkeypatch, encoding, errors):
    """Whatever the locale made of it, halves of characters included: a question mark for what cannot be shown."""
    text = "a\u00e4\u2603\ud83d\udcff\U0001f600"
    for name in ("stdout", "stderr", "stdin"):
        monkeypatch.setattr(sys, name, _Stream(encoding, errors))
    _make_streams_safe()
    for stream in (sys.stdout, sys.stderr):
        stream.write(text)
        stream.flush()
        assert stream.buffer.getvalue() == text.encode(encoding, "replace")
    sys.stdin.buffer.write(b"\xc3\xa4\xff")
    sys.stdin.seek(0)
    assert "\udcff" not in sys.stdin.read()


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("everything", [False, True], ids=["live", "all"])
def test_names_of_models_stay_whole(monkeypatch, capsys, width, everything):
    """At every width each id is there, whole where the terminal is as wide as it."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert show.models(connect=None, refresh=False, everything=everything, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0] for line in lines if line.split()}
    for model in default_catalogue():
        if everything or not model.deprecated:
            assert model.id in shown
    plain = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in lines]
    assert all(len(line) <= width or " " not in line.strip() for line in plain)


def test_only_live_models_are_recommended(capsys):
    """What was recommended when a model was shut down may be gone itself."""
    assert show.models(connect=None, refresh=False, everything=True, as_json=False) == 0
    shown = capsys.readouterr().out
    named = {line.rpartition("; use ")[2].strip() for line in shown.splitlines() if "; use " in line}
    assert named
    assert not [id for id in named if default_catalogue().get(id).deprecated]


@pytest.mark.parametrize("width", [30, 200])
def test_tables_read_no_markup(monkeypatch, capsys, width):
    """Names that look like rich's markup, or hold escape sequences, are shown as they are."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    screen.Screen().table(("name", "size", "note "), [("[/x][red]\x1b[2J\x07", "1", "a" * 30)])
    shown = capsys.readouterr().out
    assert "[/x][red]?[2J?" in shown
    assert "\x07" not in shown
