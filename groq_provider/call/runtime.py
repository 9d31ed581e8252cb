"""What all calls of a provider share. One call from request to answer is an :class:`~groq_provider.call.call.Call`."""

from __future__ import annotations

import atexit
import os
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider._sync import forkable
from groq_provider.call.retry import RetryBudget

if TYPE_CHECKING:
    from groq_provider.call.breaker import CircuitBreaker
    from groq_provider.call.call import Call
    from groq_provider.call.endpoint import Cost, Endpoint
    from groq_provider.call.stream import ResponseStream
    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.config import RetryPolicy, Timeouts
    from groq_provider.protocols import LatencyRecorder, RateLimiter, RequestBody, Transport, WireResponse
    from groq_provider.transport.scope import CancelScope
    from groq_provider.types.allowed import Allowed
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.response import LLMResponse

__all__ = ["CallOptions", "Runtime"]


@attrs.frozen(kw_only=True)
class CallOptions:
    """What one call may set apart from its request."""

    timeouts: Timeouts
    cancel: CancelToken | None = None
    headers: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    extra_body: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    query: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    batch: bool = False
    retry: bool = True


class Runtime:
    """Runs calls.

    Thread safety: any number of threads.

    Args:
        transport: Sends.
        limiter: Says when.
        tracker: Keeps what calls took.
        clock: Time.
        policy: Retries.
        provider: Name put on answers and errors.
        default_model: For requests that name none.
        secret: The API key, to be blanked out where a server repeats it.
        tokenizer: Counts the tokens of a text; ``None``: estimated.
        replacement_for: Names the successor of a model that was shut down.
        nearest_to: Says which model was meant, as an addition to a message, or nothing.
        check: Holds a request against what is known of its model; may return a changed one.
        allowed: What the server takes in a request; ``None``: what this service does.
        learn: Whether the limiter learns from headers (this service's own, not a compatible server's).
        require_finish_reason: Whether a stream without one is incomplete.
        breaker: Refuses completions while too many fail; ``None``: none does.
        rng: Source of jitter.
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
        check: Callable[[LLMRequest, str], LLMRequest] = lambda request, _model: request,
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
        self.check = check
        self.allowed = allowed
        #: Whether streams ask for their usage; until the server refuses that once.
        self.ask_usage = allowed is not None and allowed.asks_usage
        self.learn = learn
        self.require_finish_reason = require_finish_reason
        self.breaker = breaker
        self.rng = rng or random.Random()
        self.budget = RetryBudget(clock)
        self.closed = False
        #: When the service answered a completion last, on :attr:`clock`.
        self.answered_at: float | None = None
        self._call: type[Call] | None = None
        self._reader: type[ResponseStream] | None = None
        #: Calls under way, for close(); single set operations need no lock. Weak, so that one whose end was itself cut short by an
        #: interrupt does not count for ever.
        self._live: set[weakref.ref[CancelScope]] = set()
        self._orphans: deque[Callable[[], None]] = deque()  # what finalizers could not do themselves
        self._streams: set[weakref.ref[ResponseStream]] = set()  # for the end of the interpreter
        _runtimes.add(weakref.ref(self, _runtimes.discard))
        forkable(self)

    def _after_fork_in_child(self) -> None:
        """What is under way is the parent's, to end and to account for; and children that draw alike would retry together."""
        self._live = set()
        self._orphans = deque()
        for known in self._streams.copy():
            if (stream := known()) is not None:
                stream.foreign = True
        self._streams = set()
        self.rng.seed()

    @property
    def in_flight(self) -> int:
        """Calls under way, open streams included."""
        return len(self._live)

    def generate(self, request: LLMRequest, options: CallOptions) -> LLMResponse:
        """Return a whole answer."""
        response: LLMResponse = self._calls().completion(self, request, options, stream=False).result()
        return response

    def open_stream(self, request: LLMRequest, options: CallOptions) -> tuple[Call, WireResponse]:
        """Send a streamed request; return when the head of its answer is there and good."""
        call = self._calls().completion(self, request, options, stream=True)
        return call, call.result()

    def stream(self, request: LLMRequest, options: CallOptions) -> ResponseStream:
        """Return an answer as it is made; the request has been sent."""
        # Not an import per call: that asks a dict which a forked child may find locked for ever.
        if self._reader is None:
            from groq_provider.call.stream import ResponseStream

            self._reader = ResponseStream
        return self._reader(*self.open_stream(request, options))

    def ask(self, endpoint: Endpoint, body: RequestBody | None, options: CallOptions, cost: Cost | None = None) -> Any:
        """Return what an endpoint makes of its answer."""
        return self._calls()(self, options, endpoint, body, cost=cost).result()

    def load(self) -> None:
        """Load ahead what the first call would have to wait for."""
        self._calls()
        from groq_provider import catalog  # noqa: F401 - for its effect
        from groq_provider.call import stream  # noqa: F401 - for its effect

    def _calls(self) -> type[Call]:
        """Return the class of calls. Loaded with the first: it brings all that an answer is made of."""
        if self._call is None:
            from groq_provider.call.call import Call

            self._call = Call
        return self._call

    def close(self) -> None:
        """Refuse new calls and end those under way. Idempotent."""
        self.closed = True
        for known in self._live.copy():
            if (scope := known()) is not None:
                scope.cancel()
        self._clear_up()

    def later(self, action: Callable[[], None]) -> None:
        """Have *action* run by the next call: for finalizers, which must not touch a lock."""
        self._orphans.append(action)

    def enter(self, scope: CancelScope) -> None:
        """Count a call as under way."""
        if self._orphans:
            self._clear_up()
        self._live.add(weakref.ref(scope, self._live.discard))
        if self.closed:
            scope.cancel()

    def follow(self, stream: ResponseStream) -> None:
        """See to the books of a stream that is still open when the interpreter ends."""
        self._streams.add(weakref.ref(stream, self._streams.discard))

    def leave(self, scope: CancelScope) -> None:
        """The opposite."""
        self._live.discard(weakref.ref(scope))

    def _clear_up(self) -> None:
        while self._orphans:
            try:
                action = self._orphans.popleft()
            except IndexError:
                break  # another thread was quicker
            action()

    def close_books(self) -> None:
        """Settle and record what is left open when the interpreter ends; see :meth:`ResponseStream.close_books`."""
        readers = [thread.ident for thread in threading.enumerate() if thread is not threading.current_thread()]
        for known in self._streams.copy():
            if (stream := known()) is not None:
                stream.close_books([ident for ident in readers if ident is not None])
        self._clear_up()


_runtimes: set[weakref.ref[Runtime]] = set()


def _close_books() -> None:
    for known in _runtimes.copy():
        if (runtime := known()) is not None:
            runtime.close_books()


atexit.register(_close_books)


def _load_before_fork() -> None:
    """Have nothing left to import when a child is made: one that another thread is in the middle of would be locked there for ever."""
    for known in _runtimes.copy():
        if (runtime := known()) is not None:
            runtime.load()
            from groq_provider.types import status  # noqa: F401 - for its effect
            from groq_provider.wire.converter import converter

            converter()  # with all that rare answers are made of
            return


if hasattr(os, "register_at_fork"):  # not on every system
    os.register_at_fork(before=_load_before_fork)
