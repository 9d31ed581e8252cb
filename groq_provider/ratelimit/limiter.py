"""Limit the requests of all threads: one :class:`ModelLimiter` for each model, over local buckets or a shared store."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from groq_provider._sync import forkable
from groq_provider._validate import Hidden
from groq_provider.clock import SystemClock
from groq_provider.errors import ConfigurationError
from groq_provider.ratelimit.bucket import DIMENSIONS, FULL_SHARE
from groq_provider.ratelimit.model import ModelLimiter, RetiredError
from groq_provider.ratelimit.store import open_store
from groq_provider.ratelimit.store.protocol import RateLimitStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from groq_provider.cancel import CancelToken
    from groq_provider.clock import Clock
    from groq_provider.config import RateLimits
    from groq_provider.protocols import Reservation
    from groq_provider.ratelimit.shared_model import StoreLink
    from groq_provider.types.status import RateLimitStatus

__all__ = ["TokenBucketRateLimiter"]

#: The most models to remember. Beyond that the least recently used one is forgotten with its use; never one with a call in flight or
#: waiting.
_MOST_MODELS = 256


class TokenBucketRateLimiter:
    """Decides when a request may be sent: first come, first served, and never more than the limits allow.

    It models the service's own limits: for each model, continuously refilled buckets for requests and tokens per minute and per day.
    A request reserves its prompt and the longest answer it asks for, as the service counts at admission; unused tokens return when
    the answer is there. Answers correct the figures, and after a 429 all callers of the model wait until its time is up.

    While no limit is configured or learned, requests pass at once. Before a model's first answer only four calls may be in flight, and
    four more each second, since the service would refuse most of a larger burst.

    Thread safety: you can share one limiter among any number of threads and providers. Waiting is cheap: only the head of a queue has
    a timer, and there is no background thread.

    Args:
        limits: Limits per model; ``None``: learn them from the service.
        store: Where to keep the buckets, if processes or hosts should share limits: ``"memory"`` (this process only),
            ``"file:///path"`` (the processes of one host), ``"redis://…"``, ``"rediss://…"`` (any hosts; extra ``redis``), or an
            object with the methods of :class:`~groq_provider.RateLimitStore`. While a store is offline, every process goes on with its
            part of the limits.
        scope: The owner of the limits in a store: limiters with the same scope share each model's limits. The service limits
            organisations, so a provider passes a digest of its key.
        clock: The source of time, for tests; ``None``: the system's clock.

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
            store = Hidden(store)  # the URL may contain a password
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
        self._lock = threading.RLock()  # guards additions to _models; lookups need no lock; reentrant: see _sync
        self._models: dict[str, ModelLimiter] = {}
        forkable(self)

    def __repr__(self) -> str:
        if not hasattr(self, "_models"):  # a debugger may show the variables of a failed construction
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
        """Wait for a reservation, first come, first served.

        Args:
            model: Limits are per model.
            prompt_tokens: Estimated tokens of the prompt. The limiter corrects it by earlier calls of this model, and adds 5 %.
            max_output_tokens: Longest answer asked for. ``None``: assume the 99th percentile of recent answers, 1,024 before the first.
            deadline: Monotonic instant, in seconds of the limiter's clock, at which to give up; ``None``: no bound.
            long_wait: Refuse at once if a limit per hour or day needs a longer wait than this many seconds; ``None``: no bound.
            cancel: Ends the wait.
            batch: Whether this is a bulk item: while interactive calls wait too, one in five turns goes to bulk items.
            arrival: ``arrival`` of an earlier reservation of this model, for a retry, which then keeps its place in the queue.

        Returns:
            The reservation. You must settle, refund or keep it.

        Raises:
            RateLimitTimeoutError: It would take longer than *deadline*, reported at once where that can be computed. Nothing was
                consumed; ``retry_after`` and ``retry_at`` say when to try again.
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
            assert reservation is not None  # noqa: S101 - for mypy: None is returned only with wait=False
            return reservation

    def try_reserve(
        self, model: str, *, prompt_tokens: int, max_output_tokens: int | None = None, batch: bool = False
    ) -> Reservation | None:
        """Take a reservation if one is free now and no caller waits; never wait.

        The arguments are those of :meth:`reserve`.

        Returns:
            The reservation, or ``None``.

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
        """Return the longest answer that fits the known limits together with such a prompt; may be 0.

        Args:
            model: Limits are per model.
            prompt_tokens: Estimated tokens of the prompt, corrected as in :meth:`reserve`.

        Returns:
            Tokens; ``None`` while no limit of tokens is known.
        """
        model_limiter = self._models.get(model) or self._add_model(model)
        return model_limiter.largest_output(prompt_tokens)

    def get_status(self) -> Mapping[str, RateLimitStatus]:
        """Return a snapshot of every model seen, by its id."""
        return {model_limiter.model: model_limiter.status() for model_limiter in list(self._models.values())}

    def _add_model(self, model: str) -> ModelLimiter:
        with self._lock:
            model_limiter = self._models.get(model)
            if model_limiter is None:
                self._make_room()
                model_limiter = self._models.setdefault(model, self._create_model(model))
            return model_limiter

    def _make_room(self) -> None:
        """Forget models without a success about which nothing is known; if there are still too many, the least recently used ones."""
        for model_limiter in list(self._models.values()):
            if not model_limiter.proven and model_limiter.retire(used=False):
                self._forget_model(model_limiter)
        if len(self._models) < _MOST_MODELS:
            return
        for model_limiter in list(self._models.values()):
            if model_limiter.use_count > model_limiter.last_use_count:  # used since the last time: move it to the end
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

        # The scope ends at the first colon, as its own are escaped: no other pair of scope and model gives the same key.
        key = f"{self._scope.replace('%', '%25').replace(':', '%3A')}:{model}"
        return SharedModelLimiter(model, model_limits, share=share, clock=self._clock, link=self._store_link, key=key)

    def close(self) -> None:
        """Close the connections or the file of a store that was opened by its URL. You may go on: a later call opens it again."""
        if self._own_store is not None and self._store_link is not None:
            self._store_link.close()

    def _after_fork_in_child(self) -> None:
        """Replace the locks, which threads of the parent may have held, and restart each model."""
        self._lock = threading.RLock()
        if self._store_link is not None:
            self._store_link.after_fork()
        for model_limiter in list(self._models.values()):
            model_limiter.after_fork()
