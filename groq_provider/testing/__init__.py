"""An emulator of Groq and a clock, for your tests; the emulator shares no code with the client.

>>> from groq_provider.testing import Emulator, Fault, Reply

Public modules:

- ``emulator``: ``Emulator``, the server a test starts, and ``serve`` for the command line
- ``replies``: the values a test scripts and reads: ``Reply``, ``Fault``, ``Gate``, ``RecordedRequest``
- ``fake_clock``: ``FakeClock``, which moves only when the test moves it
- ``offline``: ``demo_provider``, a provider on Groq or on an emulator
- ``pytest_plugin``: the fixture ``groq_emulator``

A request passes through these:

- ``_server``, ``_http``, ``_proxies``: accept connections, read requests, write responses with their faults
- ``_service``, ``_script``, ``routes/``: find the scripted reply and the route; one module and one table row per endpoint
- ``_state``, ``_limits``, ``_models``: the state that the routes share: models, rate limits, prompt cache
- ``_chat_checks``, ``_errors``: the checks of a chat request, and the service's literal errors
- ``_completions``, ``_prompt``, ``_schema``, ``_stock``: make the content of a completion
- ``_wire``, ``_response``: encode it as JSON or events; hold it until it is written
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groq_provider.testing.emulator import Emulator, serve
    from groq_provider.testing.fake_clock import FakeClock
    from groq_provider.testing.offline import demo_provider
    from groq_provider.testing.replies import Fault, Gate, RecordedRequest, Reply

__all__ = ["Emulator", "FakeClock", "Fault", "Gate", "RecordedRequest", "Reply", "demo_provider", "serve"]

_MODULE_OF = {
    "Emulator": "emulator",
    "FakeClock": "fake_clock",
    "Fault": "replies",
    "Gate": "replies",
    "RecordedRequest": "replies",
    "Reply": "replies",
    "demo_provider": "offline",
    "serve": "emulator",
}


# Load lazily: pytest imports this package, on the way to the plugin, in every run of every user who has it installed.
def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
