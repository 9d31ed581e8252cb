"""Calls over TLS under gevent, which replaces sockets, TLS, locks and sleeps, with either protocol."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.http2_real import Hypercorn
from support.http2_servers import authority

_PROGRAM = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from groq_provider import GroqProvider, RequestCancelledError

url, bundle, protocol = sys.argv[1:]
settings = dict(api_key="gsk_0123456789", base_url=url + "/openai/v1", ca_bundle=bundle, http2=protocol == "2")
with GroqProvider(**settings) as provider:
    jobs = [gevent.spawn(lambda n=n: provider.generate(f"call {n}").content) for n in range(40)]
    gevent.joinall(jobs, raise_error=True)
    assert [job.value for job in jobs] == [f"call {n}" for n in range(40)], [job.value for job in jobs]
    ticks = 0

    def tick():
        global ticks
        for ticks in range(1, 21):
            gevent.sleep(0.005)
        stream.cancel()  # never, if the loop stands still while the call waits

    with provider.generate_stream("x", extra_headers={"x-script": '{"words": ["a", "b"], "after": 1, "hold": "never"}'}) as stream:
        next(stream)
        ticker = gevent.spawn(tick)
        try:
            next(stream)
        except RequestCancelledError:
            pass
        else:
            sys.exit("not cancelled")
    ticker.join()
    assert ticks == 20
    print(provider._transport.adapter.pool().state())
"""


@pytest.mark.parametrize("protocol", [pytest.param("1.1", marks=pytest.mark.full), "2"])
def test_tls_calls_never_stop_loop(protocol):
    """Forty calls at once, each with its own answer; a stream that waits lets others run, and is cancelled by one of them."""
    pytest.importorskip("gevent")
    with Hypercorn() as server:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, server.url, authority().file, protocol],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2_000:]
    assert ("of HTTP/2" in done.stdout) is (protocol == "2")
