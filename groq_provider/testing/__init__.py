"""A local Groq and a clock for tests. The emulator needs nothing but the standard library.

>>> from groq_provider.testing import Emulator, Fault, Reply

The pytest fixture `groq_emulator` is in `groq_provider.testing.pytest_plugin`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groq_provider.testing.emulator import Emulator, serve
    from groq_provider.testing.fake_clock import FakeClock
    from groq_provider.testing.offline import demo_provider
    from groq_provider.testing.replies import Fault, Gate, RecordedRequest, Reply

__all__ = ["Emulator", "FakeClock", "Fault", "Gate", "RecordedRequest", "Reply", "demo_provider", "serve"]

_HOMES = {
    "Emulator": "emulator",
    "FakeClock": "fake_clock",
    "Fault": "replies",
    "Gate": "replies",
    "RecordedRequest": "replies",
    "Reply": "replies",
    "demo_provider": "offline",
    "serve": "emulator",
}


# Lazily: pytest imports this package in every run of anybody who has it installed, on the way to the plugin.
def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
