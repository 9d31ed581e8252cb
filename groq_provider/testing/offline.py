"""A provider for demonstrations: Groq with a key, the emulator without one."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from groq_provider import GroqProvider, ProviderConfig
from groq_provider.testing.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def demo_provider(
    *,
    model: str | None = None,
    notes: TextIO | None = None,
    config: ProviderConfig | None = None,
    timeout: float | None = None,
) -> Iterator[GroqProvider]:
    """Return a provider that talks to Groq if ``GROQ_API_KEY`` is set, else to an :class:`Emulator` that runs while the ``with`` block does.

    It writes to *notes* which of the two you get. The emulator keeps to the nominal speeds of the models and to limits of 1,000
    requests and 250,000 tokens per minute and 14,400 requests per day.

    Args:
        model: Default model; ``None`` means as configured.
        notes: File for the note; ``None`` means standard error.
        config: Configuration of the service to talk to, whether the variable is set or not.
        timeout: Seconds for each call; ``None`` means as configured.

    Raises:
        ConfigurationError: A ``GROQ_…`` variable or the model is invalid.

    .. versionadded:: 0.1.0
    """
    notes = sys.stderr if notes is None else notes
    settings: dict[str, Any] = {"default_model": model}
    if timeout is not None:
        settings["timeout"] = timeout
    if config is not None or os.environ.get("GROQ_API_KEY", "").strip():
        config = ProviderConfig.load(config, **settings)
        with GroqProvider(config) as provider:
            print(f"Talking to {config.base_url}.", file=notes, flush=True)
            yield provider
        return
    # The limits of the developer plan, and the free plan's limit per day, so that every column of the demo has figures.
    emulator = Emulator(limits={"rpm": 1000, "rpd": 14_400, "tpm": 250_000})
    with emulator:
        print(
            f"GROQ_API_KEY is not set: talking to the bundled emulator at {emulator.base_url}; "
            "its words are made up, nothing leaves this machine.",
            file=notes,
            flush=True,
        )
        with GroqProvider(base_url=emulator.base_url, api_key=emulator.api_key, **settings) as provider:
            yield provider
