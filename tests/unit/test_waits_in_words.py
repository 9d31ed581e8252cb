"""Waits that a server asks for in words, twice, or as an instant: read right or not at all."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.errors import RateLimitedError
from groq_provider.wire.failures import error_from_object
from groq_provider.wire.headers import MAX_HINT, parse_retry_after, parse_wait

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)
EPOCH = int(NOW.timestamp())


def hint(text):
    """The wait that a 429 of these words asks for."""
    return error_from_object({"message": f"Slow down. {text}"}, status=429, now=NOW).retry_after


WAITS = [
    ("5.289s. Need more tokens?", 5.289), ("2m59.56s.", 179.56), ("7", 7), ("7.", 7), ("7. Visit us", 7), ("120ms", 0.12),
    ("2 minutes", 120), ("2 minutes.", 120), ("1 minute, or upgrade", 60), ("2 Minutes", 120), ("2 min", 120), ("2 mins!", 120),
    ("1 hour", 3600), ("3 hours.", 10_800), ("2 hrs", 7200), ("1 day", 86_400), ("0.5 days", 43_200), ("20 seconds", 20), ("1.5 seconds", 1.5),
    ("20 sec)", 20), ("500 milliseconds", 0.5), ("250 msec", 0.25), ("1 hour and 30 minutes.", 5400), ("1 hour, 5 minutes, 3 seconds", 3903),
    ("1h 5m", 3900), ("2 m or so", 120),
]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), WAITS, ids=str)
def test_waits_are_read_right(text, seconds):
    """Whatever the unit, and however it is written."""
    assert parse_wait(text) == pytest.approx(seconds)
    assert hint(f"Please try again in {text}") == pytest.approx(seconds)
    assert hint(f"Please TRY AGAIN IN {text}") == pytest.approx(seconds)


def test_limit_with_a_wait():
    """The text of a limit that says when to come again is no request that never fits."""
    text = "on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Try again in 2 minutes."
    error = error_from_object({"message": f"Rate limit reached {text}"}, status=429, now=NOW)
    assert (type(error), error.retry_after, error.limit) == (RateLimitedError, 120.0, 6000)


@pytest.mark.parametrize(
    "text",
    [
        "a while", "an hour", "2 moons", "2 lightyears", "2 minutes 3 moons", "2-3 minutes", "1,000 seconds", "1/2 hour", "5 attempts",
        "2 minutes-ish", "1.2.3 seconds", "", " ", "½ hour", "-5 seconds", "2 мин", "5 secondsworth", "2 weeks", "9" * 50 + " seconds", "7, 3",
        "three minutes", "1e5 seconds",
    ],
)  # fmt: skip
def test_other_waits_are_not_read(text):
    """A number with an unknown unit is not a number of seconds."""
    assert parse_wait(text) is None
    assert hint(f"Please try again in {text}") is None


WORDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


@given(
    st.lists(st.tuples(st.integers(1, 59), st.sampled_from(sorted(WORDS))), min_size=1, max_size=3),
    st.sampled_from([" ", ", ", " and ", ", and "]),
    st.sampled_from(["", ".", "! Bye", ", or later"]),
)
def test_any_sum_of_units(parts, between, end):
    """In words, joined in any of the usual ways."""
    text = between.join(f"{count} {word}{'s' * (count != 1)}" for count, word in parts)
    assert parse_wait(text + end) == sum(count * WORDS[word] for count, word in parts)


@given(st.text(max_size=60) | st.text("0123456789. smhd,and", max_size=60))
def test_no_sentence_breaks_anything(text):
    """None is a wait below 0, or an error."""
    wait = parse_wait(text)
    assert wait is None or wait >= 0
    again = hint("try again in " + text)
    assert again is None or 0 <= again <= MAX_HINT


# --- the header ----------------------------------------------------------------------------------------------------------------


def date(seconds):
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5, 5", 5), ("5,5", 5), ("2, 7", 7), ("7s, 7s", 7), ("1, 2, 3", 3), (f"{date(30)}, {date(30)}", 30),
        (f"{date(30)}, {date(40)}", 40), ("5, soon", None), (f"5, {date(30)}", None), ("5,", None), (",", None),
        ("2 minutes", 120), ("1 hour", 3600), ("2 moons", None),
        (str(EPOCH + 30), 30), (str((EPOCH + 30) * 1000), 30), (str(EPOCH - 30), 0), (f"{EPOCH + 30}.5", 30.5),
        (str(EPOCH + 10**8), MAX_HINT), ("999999999", MAX_HINT),
    ],
)  # fmt: skip
def test_odd_forms_of_retry_after(text, seconds):
    """Doubled by a gateway: the longer wait. Unix time, in seconds or milliseconds: until then."""
    assert parse_retry_after({"retry-after": text}, NOW) == (None if seconds is None else pytest.approx(seconds))


def test_instant_held_against_servers_clock():
    """As an HTTP date is: a local clock that is wrong does no harm."""
    headers = {"retry-after": str(EPOCH + 3630), "date": date(3600)}
    assert parse_retry_after(headers, NOW) == pytest.approx(30)


def test_milliseconds_that_are_an_instant():
    """In the header that has them, too."""
    assert parse_retry_after({"retry-after-ms": str((EPOCH + 30) * 1000)}, NOW) == pytest.approx(30)


@given(st.lists(st.integers(0, 10**14) | st.text(max_size=8), max_size=4).map(lambda parts: ", ".join(map(str, parts))))
def test_any_header_gives_valid_wait(text):
    """Whatever it says, and however often."""
    wait = parse_retry_after({"retry-after": text}, NOW)
    assert wait is None or 0 <= wait <= MAX_HINT
