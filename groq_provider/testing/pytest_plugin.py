"""pytest fixtures around the emulator; loaded by the `pytest11` entry point."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from groq_provider.testing.emulator import Emulator


@pytest.fixture
def groq_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """A running `Emulator`, as fast as possible and without limits.

    `GROQ_BASE_URL` and `GROQ_API_KEY` point to it for the length of the test, so that a `GroqProvider()` in the code
    under test talks to it; proxies of the environment are bypassed.

    .. versionadded:: 0.1.0
    """
    # Here and not above: pytest loads this module in every run of anybody who has the package installed.
    from groq_provider.testing.emulator import Emulator

    with Emulator(speed=0) as emulator:
        monkeypatch.setenv("GROQ_BASE_URL", emulator.base_url)
        monkeypatch.setenv("GROQ_API_KEY", emulator.api_key)
        monkeypatch.delenv("GROQ_HOST", raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        yield emulator
