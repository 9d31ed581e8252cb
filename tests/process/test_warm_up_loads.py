"""What ``warm_up()`` loads ahead: a signal handler that strikes in the middle of an import finds half a module."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from groq_provider import GroqProvider
from groq_provider.testing import Emulator

with Emulator() as service, GroqProvider(base_url=service.base_url, api_key="gsk_test") as provider:
    provider.warm_up()
    before = set(sys.modules)
    provider.generate("a")
    provider.generate_stream("b").collect()
    list(provider.generate_many(["c"], max_workers=1))
    provider.get_health(), provider.get_rate_limits(), provider.get_latency_metrics(), provider.get_models()
    print(sorted(name for name in set(sys.modules) - before if name.startswith("groq_provider")))
"""


def test_calls_load_nothing_afterwards():
    """No module of ours is left for the first call of any kind."""
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr
