"""The emulated service's state, shared by all routes: models, rate limits, prompt cache, script."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from groq_provider.testing import _errors
from groq_provider.testing._completions import count_prompt
from groq_provider.testing._limits import DIMENSIONS, ModelLimits
from groq_provider.testing._models import RETIRED, Model, Plan

if TYPE_CHECKING:
    from datetime import datetime

    from groq_provider.testing._script import Script

__all__ = ["Admission", "Clock", "ServiceState", "Settings"]

_CACHE_UNIT = 128
_SHORTEST_CACHED_PROMPT = 1024


class Clock(Protocol):
    """The time, as the emulator reads it."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    def now(self) -> datetime:
        """Return the time of day, aware."""


@attrs.define(kw_only=True)
class Settings:
    """The arguments an emulator was constructed with."""

    models: dict[str, Model]
    plan: Plan | None
    limits: Mapping[str, Any] | None
    api_keys: Collection[str] | None
    speed: float
    latency: float | None
    assumed_completion_tokens: int
    validate: bool
    secure: bool
    clock: Clock

    @property
    def is_fast(self) -> bool:
        """Whether responses are sent without any pause."""
        return self.speed <= 0 or self.speed == float("inf")

    def seconds_per_token(self, model: Model) -> float:
        """Return the seconds that *model* takes for one token; at full speed its nominal ones, which only ``usage`` shows."""
        nominal = 1 / model.tokens_per_second
        return nominal if self.is_fast else nominal / self.speed

    def latency_of(self, model: Model) -> float:
        """Return the seconds from a request to the first token of *model*."""
        if self.latency is not None:
            return self.latency
        return 0.0 if self.is_fast else model.latency / self.speed


@attrs.frozen
class Admission:
    """A request that the limits admitted, and the tokens they charged for it."""

    limits: ModelLimits
    clock: Clock
    prompt_tokens: int
    charged_tokens: int
    headers: Collection[tuple[str, str]]

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Return the tokens that were charged above these."""
        unused_prompt = self.prompt_tokens - prompt_tokens
        self.limits.settle(self.clock.monotonic(), unused_prompt, self.charged_tokens - completion_tokens)


class ServiceState:
    """Everything the routes share; safe to use from many threads.

    Attributes:
        settings: The emulator's arguments.
        script: The scripted replies.
        blocked: Level of the block (``org`` or ``project``) by model id.
    """

    def __init__(self, settings: Settings, script: Script) -> None:
        self.settings = settings
        self.script = script
        self.blocked: dict[str, str] = {}
        self._lock = threading.Lock()  # guards the two below
        self._limits: dict[tuple[str, str], ModelLimits] = {}
        self._cache: dict[tuple[str, bytes], int] = {}

    def reset(self) -> None:
        """Fill all buckets and forget cached prompts."""
        with self._lock:
            self._limits.clear()
            self._cache.clear()

    def is_authorized(self, headers: Mapping[str, str]) -> bool:
        """Say whether the key in *headers* is accepted."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer":
            return False
        accepted = self.settings.api_keys
        return key not in _errors.REFUSED_KEYS if accepted is None else key in accepted

    def model_of(self, id: str) -> Model:
        """Return the model with that id.

        Raises:
            RefusedError: The model is blocked, retired or unknown.
        """
        level = self.blocked.get(id)
        if level is not None:
            raise _errors.model_blocked(id, level)
        model = self.settings.models.get(id)
        if model is None:
            raise _errors.model_decommissioned(id) if id in RETIRED else _errors.model_not_found(id)
        return model

    def admit(self, model: Model, *, tier: str, prompt_tokens: int, completion_tokens: int | None) -> Admission:
        """Charge a request to the limits of *model* on service tier *tier*.

        Args:
            model: The model asked.
            tier: ``on_demand`` or ``flex``.
            prompt_tokens: Tokens of the prompt.
            completion_tokens: The most tokens the request allows; ``None`` charges an assumed number.

        Raises:
            RefusedError: A limit is reached; nothing was charged.
        """
        limits, clock = self._limits_of(model, tier), self.settings.clock
        if completion_tokens is None:
            completion_tokens = limits.cap_tokens(prompt_tokens, self.settings.assumed_completion_tokens)
        refusal = limits.admit(clock.monotonic(), prompt_tokens, completion_tokens)
        headers = limits.headers(clock.monotonic())
        if refusal is not None:
            error = _errors.over_limit(refusal, model.id, tier)
            error.headers = (*error.headers, *headers)
            raise error
        return Admission(limits, clock, prompt_tokens, completion_tokens, headers)

    def _limits_of(self, model: Model, tier: str) -> ModelLimits:
        with self._lock:
            model_limits = self._limits.get((model.id, tier))
            if model_limits is None:
                values = model.limits(self.settings.plan)
                configured = self.settings.limits or {}
                values.update({name: value for name, value in configured.items() if name in DIMENSIONS})
                values.update(configured.get(model.id) or {})
                if tier == "flex":
                    values = {name: 10 * value for name, value in values.items()}
                model_limits = self._limits[model.id, tier] = ModelLimits(values, self.settings.clock.monotonic())
            return model_limits

    def cached_tokens(self, body: Mapping[str, Any], model: Model, prompt_tokens: int) -> int:
        """Return how many leading tokens of the prompt an earlier request has put into the cache, and put this one there."""
        if not model.caching or prompt_tokens < _SHORTEST_CACHED_PROMPT:
            return 0
        prefix_hash = hashlib.sha256(json.dumps([body.get("tools"), body.get("response_format")]).encode())
        cached_tokens = 0
        tokens = 0
        with self._lock:
            for message in body["messages"]:
                prefix_hash.update(json.dumps(message, sort_keys=True).encode())
                tokens += count_prompt({"messages": [message]})
                key = (model.id, prefix_hash.digest())
                if tokens >= _SHORTEST_CACHED_PROMPT:
                    cached_tokens = max(cached_tokens, self._cache.get(key, 0))
                    self._cache[key] = tokens // _CACHE_UNIT * _CACHE_UNIT
        return cached_tokens
