"""What tests have worker processes do. Here, since a worker imports the module by its name, which that of a test module is not."""

from __future__ import annotations

import os

from groq_provider import GroqProvider


def sign_in(key: str) -> None:
    """Put a key into the environment, which a worker has of whoever started the first of its kind."""
    os.environ["GROQ_API_KEY"] = key


def throw(error: BaseException) -> None:
    """Raise an error of the library."""
    raise error


def echo(value: object) -> object:
    """Send back what came."""
    return value


def ask(base_url: str) -> object:
    """Make a call."""
    with GroqProvider(api_key="gsk_test", base_url=base_url) as provider:
        return provider.generate("from a worker")


def use(provider: GroqProvider) -> str:
    """Use a provider that came through a pickle."""
    with provider:
        return provider.generate("carried over").content
