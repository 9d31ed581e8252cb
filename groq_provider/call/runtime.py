"""The parts and settings that all calls of one provider share."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider._sync import forkable
from groq_provider.call.registry import CallRegistry
from groq_provider.call.retry import RetryBudget

if TYPE_CHECKING:
    from groq_provider.call.breaker import CircuitBreaker
    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.config import RetryPolicy, Timeouts
    from groq_provider.protocols import LatencyRecorder, RateLimiter, Transport
    from groq_provider.types.allowed import Allowed
    from groq_provider.types.request import LLMRequest

__all__ = ["CallOptions", "Runtime", "live_runtimes"]


@attrs.frozen(kw_only=True)
class CallOptions:
    """The settings of one call, apart from its request."""

    timeouts: Timeouts
    cancel: CancelToken | None = None
    headers: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    extra_body: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    query: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    batch: bool = False
    retry: bool = True


class Runtime:
    """Holds the parts and settings that all calls of one provider share.

    Thread safety: any number of threads.

    Args:
        transport: Sends requests.
        limiter: Gives places in the limits.
        tracker: Records the times of calls.
        clock: The source of time.
        policy: When a call is tried again.
        provider: The name that answers and errors carry.
        default_model: The model of requests that name none.
        secret: The API key, to be redacted where a server repeats it.
        tokenizer: Counts the tokens of a text; ``None`` estimates them.
        replacement_for: Returns the successor of a model that was shut down.
        nearest_to: Returns an addition to a message that suggests the model meant, or ``""``.
        check_length: Checks the length that a request asks for against its model; may return a changed request.
        allowed: The rules for requests; ``None`` means those of this service.
        learn: Whether the limiter learns from headers, which only those of this service allow.
        require_finish_reason: Whether a stream without a finish reason is incomplete.
        breaker: Refuses completions while too many fail; ``None`` refuses none.
        rng: The source of jitter.

    Attributes:
        ask_usage: Whether streams ask for their usage; false once the server has refused that.
        budget: Bounds the retries of all calls together.
        calls: The calls under way.
        answered_at: Monotonic instant of the newest completion; ``None`` before the first.
    """

    def __init__(
        self,
        *,
        transport: Transport,
        limiter: RateLimiter,
        tracker: LatencyRecorder,
        clock: Clock,
        policy: RetryPolicy,
        provider: str,
        default_model: str | None,
        secret: str | None = None,
        tokenizer: Callable[[str], int] | None = None,
        replacement_for: Callable[[str], str | None] = lambda _model: None,
        nearest_to: Callable[[str], str] = lambda _model: "",
        check_length: Callable[[LLMRequest, str], LLMRequest] = lambda request, _model: request,
        allowed: Allowed | None = None,
        learn: bool = True,
        require_finish_reason: bool = True,
        breaker: CircuitBreaker | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.transport = transport
        self.limiter = limiter
        self.tracker = tracker
        self.clock = clock
        self.policy = policy
        self.provider = provider
        self.default_model = default_model
        self.secret = secret
        self.tokenizer = tokenizer
        self.replacement_for = replacement_for
        self.nearest_to = nearest_to
        self.check_length = check_length
        self.allowed = allowed
        self.ask_usage = allowed is not None and allowed.asks_usage
        self.learn = learn
        self.require_finish_reason = require_finish_reason
        self.breaker = breaker
        self.rng = rng or random.Random()
        self.budget = RetryBudget(clock)
        self.calls = CallRegistry()
        self.answered_at: float | None = None
        live_runtimes.add(weakref.ref(self, live_runtimes.discard))
        forkable(self)

    def _after_fork_in_child(self) -> None:
        self.rng.seed()  # children that draw the same jitter would retry together

    @property
    def closed(self) -> bool:
        """Whether the provider was closed."""
        return self.calls.closed

    @property
    def in_flight(self) -> int:
        """The number of calls under way, open streams included."""
        return len(self.calls)

    def close(self) -> None:
        """Refuse new calls and end those under way. Idempotent."""
        self.calls.close()


#: The runtimes that exist. If there are any, a fork is prepared for.
live_runtimes: set[weakref.ref[Runtime]] = set()
