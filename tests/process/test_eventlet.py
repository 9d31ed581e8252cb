"""Under Eventlet, which replaces sockets, TLS, locks and threads: calls side by side, runs, cancels."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
import threading

import pytest
from support.http2_real import Hypercorn
from support.http2_servers import authority

from groq_provider.testing import Emulator

_BEGIN = """
    import sys, warnings
    warnings.simplefilter("ignore")  # Eventlet's own, that it is not for new programs
    if sys.argv.pop(1) == "late":
        import groq_provider.provider
    import eventlet
    eventlet.monkey_patch()
    from groq_provider import GroqProvider, RequestCancelledError
"""
_PLAIN = """
    with GroqProvider(api_key="gsk_0123456789", base_url=sys.argv[1]) as provider:
        contents = list(eventlet.GreenPool(30).imap(lambda n: provider.generate(f"tag{n}x").content, range(30)))
        assert all(content.startswith(f"tag{n}x") for n, content in enumerate(contents)), contents
        assert provider.generate_stream("tag").collect().content.startswith("tag")
        for workers in (2, "auto"):
            assert [result.ok for result in provider.generate_many(list("abcde"), max_workers=workers)] == [True] * 5
        assert provider.get_health(probe="chat").status == "healthy"
        cancelled(provider, {})
        print("good")
"""
_TLS = """
    url, bundle, protocol = sys.argv[1:]
    with GroqProvider(
        api_key="gsk_0123456789", base_url=url + "/openai/v1", ca_bundle=bundle, http2=protocol == "2"
    ) as provider:
        contents = list(eventlet.GreenPool(30).imap(lambda n: provider.generate(f"call {n}").content, range(30)))
        assert contents == [f"call {n}" for n in range(30)], contents
        cancelled(provider, {"x-script": '{"words": ["a", "b"], "after": 1, "hold": "never"}'})
        print("good", provider._transport.adapter.pool().state())
"""
_CANCELLED = """
    def cancelled(provider, headers):
        with provider.generate_stream("x", extra_headers=headers) as stream:
            next(stream)

            def tick():
                for _ in range(20):
                    eventlet.sleep(0.001)
                ticked.append(True)
                stream.cancel()  # never, if the loop stands still while the call waits

            ticked = []
            ticker = eventlet.spawn(tick)
            try:
                for _ in stream:
                    pass
            except RequestCancelledError:
                pass
            else:
                sys.exit("not cancelled")
            ticker.wait()
            assert ticked
"""


def run(program, *args):
    if (
        importlib.util.find_spec("eventlet") is None
    ):  # not importorskip(): loaded here, it would get a say in every fork of other tests
        pytest.skip("needs eventlet")
    return subprocess.run(
        [sys.executable, "-c", "".join(map(textwrap.dedent, (_BEGIN, _CANCELLED, program))), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("patched", [pytest.param("early", marks=pytest.mark.full), "late"])
def test_eventlet_calls_run_concurrently(patched):
    """Whether it has replaced the sockets before this library was loaded or after."""
    end = threading.Event()

    def on_event(request, index):
        if request.json["messages"][-1]["content"] == "x" and index == 2:
            end.wait(60)

    with Emulator(speed=0, on_event=on_event) as emulator:
        try:
            done = run(_PLAIN, patched, emulator.base_url + "/openai/v1")
        finally:
            end.set()
    assert done.stdout.strip() == "good", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("protocol", "patched"),
    [
        ("1.1", "early"),
        ("2", "late"),
        pytest.param("1.1", "late", marks=pytest.mark.full),
        pytest.param("2", "early", marks=pytest.mark.full),
    ],
)
def test_eventlet_tls_never_stops_loop(protocol, patched):
    """Thirty calls at once, each with its own answer; a stream that waits is cancelled by another green thread."""
    with Hypercorn() as server:
        done = run(_TLS, patched, server.url, authority().file, protocol)
    assert done.stdout.startswith("good"), done.stderr[-2000:]
    assert ("of HTTP/2" in done.stdout) is (protocol == "2")
