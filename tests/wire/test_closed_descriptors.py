"""A closed provider holds nothing open, also where calls were under way when it closed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.fakes import PATIENCE, wait_for
from support.http2_servers import authority
from support.servers import always, answer, serving

from groq_provider import GroqProvider, GroqProviderError, RateLimits
from groq_provider.ratelimit.limiter import TokenBucketRateLimiter

FOLDER = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="counts descriptors as Linux shows them")
ANSWER = answer(b'{"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}')


def waits(sock, server):
    """Answer nothing until the peer has gone."""
    while server.read(sock) is not None:
        server.wait_for_end(sock)


@pytest.mark.parametrize("place", ["memory", "file", "tls"])
@pytest.mark.parametrize("under_way", [False, True], ids=["idle", "busy"])
def test_closed_providers_hold_nothing(place, under_way, tmp_path):
    """Sockets, the file of the limits: given back by close(), and not opened again by calls that end because of it."""
    settings = {"rate_limits": {"rpm": 1000}}
    context = None
    if place == "file":
        settings["rate_limit_store"] = f"file://{tmp_path}/limits"
    if place == "tls":
        settings["ca_bundle"] = authority().file
        context = authority().context()
    before = sum(1 for _ in FOLDER.iterdir())
    with serving(waits if under_way else always(ANSWER), context) as server:
        provider = GroqProvider(base_url=server.url, api_key="k", **settings)
        threads = [threading.Thread(target=_call, args=(provider,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        if under_way:
            wait_for(lambda: len(server.requests) == 3)
            provider.close()
        for thread in threads:
            thread.join(PATIENCE)
        provider.close()
        provider.close()
    assert sum(1 for _ in FOLDER.iterdir()) == before
    assert repr(provider)


def test_late_refunds_leave_nothing_open(tmp_path):
    """A call that ends after close() tells the store, and the store closes again."""
    limiter = TokenBucketRateLimiter(RateLimits(rpm=10), store=f"file://{tmp_path}/limits")
    place = limiter.reserve("m", prompt_tokens=1)
    limiter.close()
    place.refund()
    assert limiter._own_store._fd < 0
    assert limiter.reserve("m", prompt_tokens=1)
    assert limiter.get_status()["m"].windows["rpm"].remaining == 9
    assert limiter._own_store._fd < 0


def _call(provider):
    try:
        provider.generate("x")
    except GroqProviderError:
        pass
