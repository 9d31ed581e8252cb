"""``provider.request`` reaches endpoints under the base URL, and no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider import GroqProvider, InvalidRequestError
from groq_provider.provider import _climbs

INSIDE = ["/models", "/models/openai%2Fgpt-oss-20b", "/files?limit=2", "/a..b/.c/...", "/x?next=%2e%2e", "/x?a=/../b"]
OUTSIDE = [
    "/..",
    "/../v2/models",
    "/models/../../admin",
    "/./models",
    "/%2e%2e/admin",
    "/.%2E/admin",
    "/%252e%252e/admin",
    "/..%2fadmin",
    "/a%2f..%2f..%2fadmin",
    "/..\\admin",
    "/..;x=1/admin",
    "/models#part",
    "/models?a=1#part",
    "/models?a=1?b=2",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_that_leave_are_refused(path):
    """Dots that climb, in any encoding, a fragment and a second question mark: nothing is sent."""
    with GroqProvider(api_key="gsk_test") as provider, pytest.raises(InvalidRequestError, match="under the base URL"):
        provider.request("GET", path)


@pytest.mark.parametrize("path", INSIDE)
def test_paths_inside_are_taken(path):
    """Escaped slashes, dots in names and a query are an endpoint's business."""
    assert GroqProvider._check_plain("GET", path, None) is None


@given(
    st.lists(st.sampled_from(["a", "b.c", "%41"]), max_size=4),
    st.lists(st.sampled_from([".", "%2e", "%2E", "%252e"]), min_size=1, max_size=2),
    st.sampled_from(["", "/", "/x", "%2fx", "\\x", ";v"]),
)
def test_no_encoding_hides_dots(before, dots, after):
    """However the dots of a segment are written, and whatever stands around it."""
    assert _climbs("/" + "/".join([*before, "".join(dots)]) + after)
    assert not _climbs("/" + "/".join([*before, "x" + "".join(dots)]))
