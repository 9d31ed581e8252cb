"""The query of a path, and ``extra_query``."""

from __future__ import annotations

import pytest
from support.servers import always, answer, serving

from groq_provider import GroqProvider


@pytest.mark.parametrize(
    ("path", "extra", "target"),
    [
        ("/models", {"b": 2}, "/v1/models?b=2"),
        ("/models?a=1", None, "/v1/models?a=1"),
        ("/models?a=1", {"b": 2}, "/v1/models?a=1&b=2"),
    ],
    ids=["extra", "path", "both"],
)
def test_queries_are_joined(path, extra, target):
    """What the path has already and what is given beside it make one query."""
    with serving(always(answer())) as server, GroqProvider(api_key="k", base_url=f"{server.url}/v1") as provider:
        provider.request("GET", path, extra_query=extra)
        assert server.requests[0].target == target
