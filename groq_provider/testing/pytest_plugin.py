"""The pytest fixture ``groq_emulator``; pytest loads this module through the ``pytest11`` entry point."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from groq_provider.testing.emulator import Emulator


@pytest.fixture
def groq_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an :class:`Emulator`, as fast as possible and without limits, for one test.

    ``GROQ_BASE_URL`` and ``GROQ_API_KEY`` name it during the test, so that a ``GroqProvider()`` in the code under test talks to it
    and past the environment's proxies.

    .. versionadded:: 0.1.0
    """
    # Import here: pytest loads this module in every run of every user who has the package installed.
    from groq_provider.testing.emulator import Emulator

    with Emulator(speed=0) as emulator:
        monkeypatch.setenv("GROQ_BASE_URL", emulator.base_url)
        monkeypatch.setenv("GROQ_API_KEY", emulator.api_key)
        monkeypatch.delenv("GROQ_HOST", raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        yield emulator
