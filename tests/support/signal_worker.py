"""A program whose signal handler calls the library while its main thread is in it; started by the test of signals.

Its one argument is JSON: where the service is, what the handler calls, how often it is to strike. What hangs says where, and ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import random
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from groq_provider import CancelToken, GroqProvider, GroqProviderError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds without a strike that mean a hang, on any machine.
PATIENCE = 60

LIMITS = {"rpm": 1_000_000, "tpm": 1_000_000_000}


def read(provider: GroqProvider, part: int | None = None) -> None:
    """Read a stream, whole or in part."""
    with provider.generate_stream("Say it.", max_completion_tokens=20) as stream:
        for number, _ in enumerate(stream):
            if number == part:
                break


def cancel(provider: GroqProvider) -> None:
    """Cancel a call that begins."""
    token = CancelToken()
    token.cancel()
    with contextlib.suppress(GroqProviderError):
        provider.generate("Never.", cancel=token)


def hold(provider: GroqProvider) -> None:
    """Take places in the limiter and leave them in each way there is."""
    limiter: Any = provider._limiter
    limiter.reserve("m", prompt_tokens=5, max_output_tokens=5).keep()
    limiter.reserve("m", prompt_tokens=5, max_output_tokens=5).refund()
    limiter.try_reserve("m", prompt_tokens=5)


#: What a program may call, by name.
METHODS: dict[str, Callable[[GroqProvider], object]] = {
    "generate": lambda provider: provider.generate("Hello", max_completion_tokens=20),
    "generate_stream": read,
    "leave_a_stream": lambda provider: read(provider, 0),
    "generate_many": lambda provider: list(provider.generate_many(["a", "b", "c"], max_workers=2)),
    "request": lambda provider: provider.request("GET", "/models"),
    "list_models": lambda provider: provider.list_models(refresh=True),
    "get_models": lambda provider: (provider.get_models(), provider.get_capabilities(), provider.fastest_models()),
    "get_latency_metrics": lambda provider: (provider.get_latency_metrics(), repr(provider._tracker)),
    "get_rate_limits": lambda provider: (provider.get_rate_limits(), repr(provider._limiter)),
    "get_health": lambda provider: (provider.get_health(), provider.is_available()),
    "warm_up": lambda provider: provider.warm_up(3),
    "limiter": hold,
    "cancel": cancel,
    "repr": lambda provider: (repr(provider), repr(provider._transport), repr(provider._limiter)),
    "close": lambda provider: provider.close(),
}


class Program:
    """Calls everything in turn, and is struck."""

    def __init__(self, url: str, settings: dict[str, Any], seed: int) -> None:
        self._random = random.Random(seed)
        self._settings = {
            "base_url": url,
            "api_key": "gsk_test",
            "rate_limits": LIMITS,
            "circuit_breaker": True,
            **settings,
        }
        self.provider = self._new()
        self._left = 0
        self._method = METHODS["repr"]

    def _new(self) -> GroqProvider:
        return GroqProvider(timeout=PATIENCE, **self._settings)

    def _arm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._random.choice([0.0002, 0.001, 0.004]) * self._random.random() + 1e-5)

    def _strike(self, _number: int, _frame: object) -> None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        self._call(self._method)
        self._left -= 1
        if self._left > 0:
            self._arm()

    def _call(self, method: Callable[[GroqProvider], object]) -> None:
        try:
            method(self.provider)
        except GroqProviderError as error:
            if type(error).__name__ not in {"ProviderClosedError", "RequestCancelledError", "StreamInterruptedError"}:
                raise

    def run(self, name: str, count: int) -> None:
        """Be struck by *count* signals whose handler calls the method *name*."""
        self._method, self._left = METHODS[name], count
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        self._arm()
        while self._left > 0:
            if self.provider._runtime.closed:
                self.provider = self._new()
            self._call(self._random.choice(list(METHODS.values())))
        faulthandler.cancel_dump_traceback_later()

    def end(self) -> None:
        """See that nothing was left behind."""
        with self.provider as provider:
            for status in provider.get_rate_limits().values():
                assert (status.in_flight, status.waiting) == (0, 0), status


def main() -> None:
    """Run what the argument says."""
    order = json.loads(sys.argv[1])
    program = Program(order["url"], order["settings"], order["seed"])
    signal.signal(signal.SIGALRM, program._strike)
    program._call(METHODS["warm_up"])  # loads what is loaded late, in the middle of which no handler may strike
    for name in order["methods"]:
        print(name, flush=True)
        try:
            program.run(name, order["count"])
        except BaseException:
            signal.setitimer(signal.ITIMER_REAL, 0)
            traceback.print_exc()
            sys.exit(1)
    program.end()
    print("over", flush=True)


if __name__ == "__main__":
    main()
