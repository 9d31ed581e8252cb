"""The rate limiter for the threads of one process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from groq_provider._sync import forkable
from groq_provider._validate import Hidden
from groq_provider.clock import SystemClock
from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.bucket import DIMENSIONS, FULL_SHARE
from groq_provider.ratelimit.model import ModelLimiter, RetiredError
from groq_provider.ratelimit.store.protocol import RateLimitStore, open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.config import RateLimits
    from groq_provider.protocols import Reservation
    from groq_provider.ratelimit.shared_model import StoreLink
    from groq_provider.types.status import RateLimitStatus

__all__ = ["TokenBucketRateLimiter"]

#: Models kept. Of more the one that was not used for longest is forgotten, with what is used of its limits; never one with a call in
#: flight or in the queue.
_MOST_MODELS = 256


class TokenBucketRateLimiter:
    """Decides when a request may go out: first come first served, never more than the limits allow.

    The limits are the service's own model: per model, continuously refilled buckets for requests and tokens per minute and per
    day. A request reserves its prompt and the longest answer it asks for, as the service itself counts at admission; what it
    did not use is given back afterwards. Answers correct the figures, and a 429 holds everybody back until its time is up.

    Without limits, configured or learned, everything passes at once; but before the first answer of a model only four calls are out, and
    four more each second, since a burst at unknown limits would mostly be refused.

    Thread safety: one limiter serves any number of threads and providers. Waiting costs nothing: only the head of a queue has a
    timer, and there is no background thread.

    Args:
        limits: Limits per model; ``None``: learn them from the service.
        store: Where the buckets are kept, for limits shared by processes or hosts: ``"memory"`` (this process only),
            ``"file:///path"`` (the processes of one host), ``"redis://…"``, ``"rediss://…"`` (any hosts; extra ``redis``), or an
            object with the methods of :class:`~groq_provider.RateLimitStore`. While a store is away, every process goes on with its
            part of the limits.
        scope: Whose limits they are, for stores: everybody with the same scope and model shares them. The limits of the
            service are per organisation, so a provider passes a digest of its key here.
        clock: Time, for tests; ``None``: the computer's own.

    Example:
        >>> limiter = TokenBucketRateLimiter()
        >>> place = limiter.reserve("openai/gpt-oss-20b", prompt_tokens=12, max_output_tokens=100)
        >>> limiter.get_status()["openai/gpt-oss-20b"].in_flight
        1
        >>> place.refund()

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        limits: RateLimits | None = None,
        *,
        store: str | RateLimitStore = "memory",
        scope: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._limits = limits
        self._clock = SystemClock() if clock is None else clock
        self._scope = scope
        if isinstance(store, str):
            store = Hidden(store)  # it may hold a password
        opened_store = open_store(store, clock=clock) if isinstance(store, str) else store
        if opened_store is not None and not isinstance(opened_store, RateLimitStore):
            raise ConfigurationError(
                f"rate_limit_store must be a URL or have the methods take, adjust and close, not be a {type(store).__name__}"
            )
        self._own_store = opened_store if isinstance(store, str) else None
        self._store_link: StoreLink | None = None
        if opened_store is not None:
            from groq_provider.ratelimit.shared_model import StoreLink

            self._store_link = StoreLink(opened_store, self._clock)
        self._lock = threading.RLock()  # guards additions to _states; looking up needs no lock; reentrant: _sync
        self._models: dict[str, ModelLimiter] = {}
        forkable(self)

    def __repr__(self) -> str:
        if not hasattr(self, "_models"):  # for tools that show the variables of a construction that failed
            return f"<{type(self).__name__} unfinished>"
        statuses = [model_limiter.status() for model_limiter in list(self._models.values())]
        in_flight, waiting = sum(status.in_flight for status in statuses), sum(status.waiting for status in statuses)
        return f"<{type(self).__name__} {len(statuses)} models, {in_flight} in flight, {waiting} waiting>"

    def reserve(
        self,
        model: str,
        *,
        prompt_tokens: int,
        max_output_tokens: int | None = None,
        deadline: float | None = None,
        long_wait: float | None = None,
        cancel: CancelToken | None = None,
        batch: bool = False,
        arrival: int | None = None,
    ) -> Reservation:
        """Wait for a place, first come first served, and take it.

        Args:
            model: Limits are per model.
            prompt_tokens: Estimated tokens of the prompt. Corrected by what earlier estimates of this model turned out to be,
                plus 5 %.
            max_output_tokens: Longest answer asked for. ``None``: as long as the longest of recent answers (99th percentile),
                1,024 before the first.
            deadline: Monotonic instant, in seconds of the limiter's clock, to give up at; ``None``: wait as long as it takes.
            long_wait: Longest wait in seconds for a limit per hour or day before refusing at once; ``None``: no bound.
            cancel: Ends the wait.
            batch: Whether this is a bulk item: while others wait too, one in five places goes to bulk items.
            arrival: ``arrival`` of an earlier reservation of this model, for a retry: it goes back to its place in the queue.

        Returns:
            The place. Settle, refund or keep it.

        Raises:
            RateLimitTimeoutError: It would take longer than *deadline*; known at once where it can be computed. Nothing was
                consumed; ``retry_after`` and ``retry_at`` say when to come back.
            RateLimitedError: A limit per hour or day needs longer than *long_wait*; ``scope`` and ``limit_name`` say which.
            RequestTooLargeError: The request is larger than a whole limit.
            RequestCancelledError: *cancel* was used.
            InvalidRequestError: A negative number of tokens.
        """
        while True:
            model_limiter = self._models.get(model) or self._add_model(model)
            try:
                reservation = model_limiter.acquire(
                    prompt_tokens,
                    max_output_tokens,
                    deadline=deadline,
                    long_wait=long_wait,
                    cancel=cancel,
                    batch=batch,
                    arrival=arrival,
                )
            except RetiredError:
                self._forget_model(model_limiter)
                continue
            assert reservation is not None  # noqa: S101 - for mypy: only without wait is there nothing
            return reservation

    def try_reserve(
        self, model: str, *, prompt_tokens: int, max_output_tokens: int | None = None, batch: bool = False
    ) -> Reservation | None:
        """Take a place if one is free and nobody waits for it; never waits.

        Arguments are those of :meth:`reserve`.

        Returns:
            The place, or ``None``.

        Raises:
            RequestTooLargeError: The request is larger than a whole limit.
            InvalidRequestError: A negative number of tokens.
        """
        while True:
            model_limiter = self._models.get(model) or self._add_model(model)
            try:
                return model_limiter.acquire(prompt_tokens, max_output_tokens, batch=batch, wait=False)
            except RetiredError:
                self._forget_model(model_limiter)

    def largest_output(self, model: str, *, prompt_tokens: int) -> int | None:
        """Return the longest answer that fits the limits beside such a prompt, as they are known now; may be 0.

        Args:
            model: Limits are per model.
            prompt_tokens: Estimated tokens of the prompt, corrected as :meth:`reserve` does.

        Returns:
            Tokens; ``None`` while no limit of tokens is known.
        """
        model_limiter = self._models.get(model) or self._add_model(model)
        return model_limiter.largest_output(prompt_tokens)

    def get_status(self) -> Mapping[str, RateLimitStatus]:
        """Return the state of every model seen, by its id; a snapshot."""
        return {model_limiter.model: model_limiter.status() for model_limiter in list(self._models.values())}

    def _add_model(self, model: str) -> ModelLimiter:
        with self._lock:
            model_limiter = self._models.get(model)
            if model_limiter is None:
                self._make_room()
                model_limiter = self._models.setdefault(model, self._create_model(model))
            return model_limiter

    def _make_room(self) -> None:
        """Forget models of which no answer was ever good and nothing is known; and, of too many, those that were not used for longest."""
        for model_limiter in list(self._models.values()):
            if not model_limiter.proven and model_limiter.retire(used=False):
                self._forget_model(model_limiter)
        if len(self._models) < _MOST_MODELS:
            return
        for model_limiter in list(self._models.values()):
            if model_limiter.use_count > model_limiter.last_use_count:  # since the last time: these go last
                model_limiter.last_use_count = model_limiter.use_count
                if self._models.pop(model_limiter.model, None) is model_limiter:
                    self._models[model_limiter.model] = model_limiter
        for model_limiter in list(self._models.values()):
            if len(self._models) < _MOST_MODELS:
                break
            if model_limiter.retire(used=True):
                self._forget_model(model_limiter)

    def _forget_model(self, model_limiter: ModelLimiter) -> None:
        with self._lock:
            if self._models.get(model_limiter.model) is model_limiter:
                del self._models[model_limiter.model]

    def _create_model(self, model: str) -> ModelLimiter:
        model_limits: dict[str, int | None] = {}
        share = FULL_SHARE * 97 // 100
        if self._limits is not None:
            limits = self._limits.for_model(model)
            model_limits = {name: getattr(limits, name) for name in DIMENSIONS}
            share = max(round(limits.share * FULL_SHARE), 1)
        if self._store_link is None:
            return ModelLimiter(model, model_limits, share=share, clock=self._clock)
        from groq_provider.ratelimit.shared_model import SharedModelLimiter

        # The first colon ends the scope, whatever is in it: no other pair of scope and model gives the same key.
        key = f"{self._scope.replace('%', '%25').replace(':', '%3A')}:{model}"
        return SharedModelLimiter(model, model_limits, share=share, clock=self._clock, link=self._store_link, key=key)

    def close(self) -> None:
        """Give back what a store opened by its URL holds; a later call opens it again, for as long as it takes."""
        if self._own_store is not None and self._store_link is not None:
            self._store_link.close()

    def _after_fork_in_child(self) -> None:
        """Start anew in a child process, whose locks may have been held by threads that exist only in the parent."""
        self._lock = threading.RLock()
        if self._store_link is not None:
            self._store_link.after_fork()
        for model_limiter in list(self._models.values()):
            model_limiter.after_fork()
