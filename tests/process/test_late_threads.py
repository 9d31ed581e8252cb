"""A thread that goes on after the main thread has ended: everything works from it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from groq_provider.testing import Emulator

_PROGRAM = """
    import sys
    import threading

    from groq_provider import FallbackProvider, GroqProvider

    def made():
        return GroqProvider(api_key="gsk_0123456789", base_url=sys.argv[1], prewarm=2)

    def late():
        threading.main_thread().join()
        provider = early or made()
        assert provider.generate("a").content
        assert provider.generate_stream("b").collect().content
        for workers in (2, "auto"):
            for ordered in (True, False):
                with provider.generate_many(list("abcdef"), max_workers=workers, ordered=ordered) as run:
                    assert all(result.ok for result in run)
        assert all(result.ok for result in FallbackProvider([provider]).generate_many(["a", "b"]))
        assert provider.warm_up(3) == 3
        assert provider.list_models()
        assert provider.get_health(probe="chat").status == "healthy"
        assert provider.get_latency_metrics().success_count
        assert provider.get_rate_limits() is not None
        provider.close()
        print("good")

    early = made() if EARLY else None
    threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("early", [True, False], ids=["made before", "made after"])
def test_late_thread_can_do_all(early):
    """Calls, streams, runs, connections made beforehand and figures, with a provider made before the main thread ended or after."""
    with Emulator(speed=0) as emulator:  # here: since Python 3.12 no thread can start once the main one has ended
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_PROGRAM).replace("EARLY", str(early)), emulator.base_url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stdout.strip(), done.stderr) == ("good", "")
