"""Header fields: durations, waits, rate limits, request ids."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from groq_provider.types.status import RateLimitInfo
from groq_provider.wire.headers import MAX_HINT, parse_duration, parse_rate_limit, parse_retry_after, request_id

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("0.5", 0.5),
        ("5.", 5.0),
        (".5", 0.5),
        ("6s", 6.0),
        ("7.66s", 7.66),
        ("1.559999999s", 1.559999999),
        ("400ms", 0.4),
        ("120ms", 0.12),
        ("1m26.4s", 86.4),
        ("2m59.56s", 179.56),
        ("14m52s", 892.0),
        ("1h3m0s", 3780.0),
        ("24h0m0s", 86400.0),
        ("5m", 300.0),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("250us", 0.00025),
        ("12ns", 1.2e-08),
        ("0s", 0.0),
        ("  2s\t", 2.0),
    ],
)  # fmt: skip
def test_durations_are_seconds(text, seconds):
    """Every form the service has been seen to write, and the rest of Go's grammar."""
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        None, "", " ", "soon", "-1", "-1s", "+1s", "1e5", "nan", "NaN", "inf", "Infinity", "1,5", "1 s", "1s 2s", "1m2", "s", "ms",
        ".", ".s", "1..5s", "0x10", "1d", "2, 3", "1_000", "1" * 16, "1" * 65, "1s" * 40, "²s", "\x00", "1s\n2s",
    ],
    ids=repr,
)  # fmt: skip
def test_non_duration_is_none(text):
    """Nothing is guessed out of half a duration."""
    assert parse_duration(text) is None


def http_date(seconds):
    """The HTTP date of so many seconds after noon."""
    return (NOW + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")


RETRY_AFTER = {
    "seconds": ({"Retry-After": "2"}, 2.0),
    "fraction": ({"Retry-After": "0.5"}, 0.5),
    "zero": ({"Retry-After": "0"}, 0.0),
    "date in the future": ({"Retry-After": http_date(90)}, 90.0),
    "date in the past": ({"Retry-After": http_date(-90)}, 0.0),
    "date against the answer's own": ({"Retry-After": http_date(90), "Date": http_date(60)}, 30.0),
    "date against a server clock a year ahead": (
        {"Retry-After": http_date(31_536_005), "Date": http_date(31_536_000)},
        5.0,
    ),
    "date against a bad own date": ({"Retry-After": http_date(90), "Date": "yesterday"}, 90.0),
    "date without a zone": ({"Retry-After": "Sun, 01 Nov 2026 12:00:20 -0000"}, 20.0),
    "date of another zone": ({"Retry-After": "Sun, 01 Nov 2026 13:00:20 +0100"}, 20.0),
    "date of RFC 850": ({"Retry-After": "Sunday, 01-Nov-26 12:00:20 GMT"}, 20.0),
    "date of asctime": ({"Retry-After": "Sun Nov  1 12:00:20 2026"}, 20.0),
    "bad date": ({"Retry-After": "Sun, 41 Nov 2026 12:00:20 GMT"}, None),
    "Go duration": ({"Retry-After": "2m59.56s"}, 179.56),
    "milliseconds with unit": ({"Retry-After": "120ms"}, 0.12),
    "retry-after-ms": ({"Retry-After-Ms": "1500"}, 1.5),
    "retry-after-ms beside retry-after": ({"Retry-After-Ms": "1500", "Retry-After": "2"}, 1.5),
    "bad retry-after-ms beside retry-after": ({"Retry-After-Ms": "soon", "Retry-After": "2"}, 2.0),
    "negative retry-after-ms": ({"Retry-After-Ms": "-5"}, None),
    "negative": ({"Retry-After": "-1"}, None),
    "NaN": ({"Retry-After": "NaN"}, None),
    "infinite": ({"Retry-After": "inf"}, None),
    "10^9": ({"Retry-After": "1000000000"}, MAX_HINT),
    "far date": ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_HINT),
    "far milliseconds": ({"Retry-After-Ms": "999999999999999"}, MAX_HINT),
    "empty": ({"Retry-After": ""}, None),
    "two values": ({"Retry-After": "2, 3"}, 3.0),
    "words": ({"Retry-After": "soon"}, None),
    "absent": ({}, None),
}


@pytest.mark.parametrize("case", RETRY_AFTER)
def test_server_names_wait(case):
    """In whichever form it says so; what cannot be read counts as not said."""
    headers, expected = RETRY_AFTER[case]
    assert parse_retry_after(CaseInsensitiveDict(headers), NOW) == pytest.approx(expected)


def test_rate_limits_of_the_service():
    """The documented headers of one 429: requests per day, tokens per minute."""
    headers = CaseInsensitiveDict(
        {
            "Retry-After": "2",
            "X-RateLimit-Limit-Requests": "14400",
            "x-ratelimit-limit-tokens": "18000",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-remaining-tokens": "17997",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
        }
    )
    assert parse_rate_limit(headers) == RateLimitInfo(
        limit_requests=14400,
        remaining_requests=14370,
        reset_requests=179.56,
        limit_tokens=18000,
        remaining_tokens=17997,
        reset_tokens=7.66,
        retry_after=2.0,
    )


@pytest.mark.parametrize(
    "headers", [{}, {"retry-after": "2"}, {"x-ratelimit-reset-tokens": "1s"}, {"content-type": "a"}], ids=str
)
def test_answers_without_limits_have_none(headers):
    """Gateways and streams may leave the headers out."""
    assert parse_rate_limit(headers) is None


@pytest.mark.parametrize("bad", ["", "-1", "1.5", "many", "1e3", "²", "٣", "1" * 19, "1,000", "0x10"], ids=repr)
def test_unreadable_figures_are_omitted(bad):
    """One bad figure does not spoil the others."""
    found = parse_rate_limit(
        {"x-ratelimit-limit-tokens": bad, "x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "x"}
    )
    assert found == RateLimitInfo(remaining_tokens=5)


@pytest.mark.parametrize(
    "name",
    ["limit-requests", "limit-tokens", "remaining-requests", "remaining-tokens"],
)
def test_any_one_limit_is_enough(name):
    """Some servers send only half of them."""
    found = parse_rate_limit({f"x-ratelimit-{name}": " 12 "})
    assert found == RateLimitInfo(**{"_".join(name.split("-")): 12})


def test_request_id_is_services_own():
    """Taken as it is, cut when absurd, none when absent or empty."""
    assert request_id({"x-request-id": "req_01k9"}) == "req_01k9"
    assert request_id({"x-request-id": "x" * 5000}) == "x" * 200
    assert request_id({"x-request-id": ""}) is None
    assert request_id({}) is None


NAMES = [
    "retry-after", "retry-after-ms", "date", "x-request-id", "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
]  # fmt: skip
VALUES = (
    st.text(max_size=80)
    | st.text("0123456789.hmsunµ -+,:GMT", max_size=30)
    | st.from_regex(r"(\d{1,20}(\.\d{0,20})?(h|m|s|ms|us|ns)){1,4}", fullmatch=True)
    | st.from_regex(
        r"(Sun|Mon|x), \d{1,3} (Nov|Feb|Xxx) \d{1,5} \d{1,3}:\d{1,3}:\d{1,3} (GMT|[+-]\d{4}|EST|)", fullmatch=True
    )
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_header_breaks_anything(headers):
    """Whatever a server writes is a figure that makes sense, or none."""
    seconds = parse_retry_after(headers, NOW)
    assert seconds is None or 0 <= seconds <= MAX_HINT
    found = parse_rate_limit(headers)
    if found is not None:
        for figure in (
            found.limit_requests,
            found.remaining_tokens,
            found.reset_requests,
            found.reset_tokens,
            found.retry_after,
        ):
            assert figure is None or 0 <= figure < 1e30
    assert len(request_id(headers) or "") <= 200


@given(st.integers(0, 10**9), st.integers(0, 59), st.integers(0, 999))
def test_go_durations_round_trip(hours, minutes, milliseconds):
    """A duration as Go prints it reads back as the same value."""
    assert parse_duration(f"{hours}h{minutes}m0.{milliseconds:03d}s") == pytest.approx(
        hours * 3600 + minutes * 60 + milliseconds / 1000
    )
