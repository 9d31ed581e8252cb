"""The parts of a configuration: the key, the time limits, the retries, the rate limits. Public through ``config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from groq_provider import _validate as checks
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import ReadOnly

__all__ = ["RateLimits", "RetryPolicy", "Secret", "Timeouts"]


class Secret:
    """A key that shows itself only to who asks for it.

    ``repr``, ``str`` and formatting give ``****`` and at most the last four characters. Copies keep the value; pickles do not:
    what comes out of a pickle is empty, and remembers only the name of the environment variable it came from.

    >>> Secret("gsk_0123456789abcdefghij")
    Secret('****ghij')

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_value", "_variable")

    def __init__(self, value: str | None, *, variable: str | None = None) -> None:
        self._value = value
        self._variable = variable

    @property
    def variable(self) -> str | None:
        """The environment variable it came from, if it did."""
        return self._variable

    @property
    def lost(self) -> bool:
        """Whether it comes out of a pickle, without its value."""
        return self._value is None

    def reveal(self) -> str:
        """Return the value.

        Raises:
            ConfigurationError: It comes out of a pickle.
        """
        if self._value is None:
            raise ConfigurationError("the API key was left out when this was pickled: pass api_key again")
        return self._value

    def __str__(self) -> str:
        # Four characters of a short one would be too much of it.
        return "****" + (self._value[-4:] if self._value is not None and len(self._value) >= 16 else "")

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _lost_secret, (self._variable,)


def _lost_secret(variable: str | None) -> Secret:
    return Secret(None, variable=variable)


@attrs.frozen(kw_only=True)
class Timeouts:
    """Time limits of a call in seconds; ``None`` means no limit.

    Attributes:
        wait: Longest time in the rate limiter's queue. ``None`` waits its turn.
        connect: Making a connection, TLS handshake included.
        first_token: From the sent request to the first piece of the answer; for a plain answer, to its last byte.
        idle: Longest silence inside a stream.
        total: Everything together, waiting and retries included.

    Raises:
        ConfigurationError: A value is not a number above 0 and at most 1e9.

    >>> Timeouts(idle=10)
    Timeouts(wait=None, connect=10.0, first_token=60.0, idle=10, total=None)

    .. versionadded:: 0.1.0
    """

    wait: float | None = attrs.field(default=None, validator=checks.positive_seconds)
    connect: float | None = attrs.field(default=10.0, validator=checks.positive_seconds)
    first_token: float | None = attrs.field(default=60.0, validator=checks.positive_seconds)
    idle: float | None = attrs.field(default=30.0, validator=checks.positive_seconds)
    total: float | None = attrs.field(default=None, validator=checks.positive_seconds)

    @classmethod
    def of(cls, value: Timeouts | float | str | Mapping[str, Any] | None) -> Timeouts | None:
        """Return time limits from the forms callers write them in.

        Args:
            value: Limits as they are; a number of seconds or a duration (``"30s"``, ``"1m30s"``, ``"500ms"``, ``"2h"``,
                ``"30"``) for ``wait``, ``first_token`` and ``total`` alike; a mapping of fields; or ``None``.

        Returns:
            The limits, ``None`` for ``None``.

        Raises:
            ConfigurationError: It is none of these, or a value is out of range.

        >>> Timeouts.of("1m30s").total
        90.0

        .. versionadded:: 0.1.0
        """
        if value is None or isinstance(value, Timeouts):
            return value
        if isinstance(value, Mapping):
            checks.names(field_names(cls), value, what="timeout")
            return cls(**{key: checks.duration(given, what=key) for key, given in value.items()})
        number = checks.duration(value, what="timeout")
        allowed = (
            "a number of seconds above 0 and at most 1e9, a duration such as '30s', a mapping of fields, or Timeouts"
        )
        if not checks.is_number(number) or not 0 < number <= checks.LONGEST:
            raise checks.refuse("timeout", value, allowed)
        return cls(wait=number, first_token=number, total=number)


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often and after which delays a failed call is tried again.

    Attributes:
        max_retries: Further tries after the first; 0 switches retries off.
        base_delay: Seconds before the first retry after a fault; it doubles with each further one.
        throttle_delay: The same after a 429 or an overload that names no delay.
        max_delay: Longest delay of our own choosing.
        hint_cap: Longest delay the service may ask for; a longer one ends the call at once with ``retry_after``.
        patience: How long delays that the service asks for after a 429 or an overload may last together without being counted
            as retries, each for a second at least. 0 counts every one.

    Raises:
        ConfigurationError: A value is out of range.

    .. versionadded:: 0.1.0
    """

    max_retries: int = attrs.field(default=2)
    base_delay: float = attrs.field(default=0.25, validator=checks.seconds)
    throttle_delay: float = attrs.field(default=1.0, validator=checks.seconds)
    max_delay: float = attrs.field(default=8.0, validator=checks.seconds)
    hint_cap: float = attrs.field(default=60.0, validator=checks.seconds)
    patience: float = attrs.field(default=0.0, validator=checks.seconds)

    @max_retries.validator
    def _check_max_retries(self, _attribute: object, given: object) -> None:
        checks.check_number("max_retries", given, 0, 100, integer=True)

    @classmethod
    def web(cls) -> RetryPolicy:
        """Return a policy for callers who wait at a screen: one quick retry, no waiting for a rate limit.

        .. versionadded:: 0.1.0
        """
        return cls(max_retries=1, base_delay=0.1, throttle_delay=0.25, max_delay=0.5, hint_cap=1.0)

    @classmethod
    def batch(cls) -> RetryPolicy:
        """Return a policy for jobs that nobody waits for: eight retries, and an hour of waits for the limit's window beside them.

        .. versionadded:: 0.1.0
        """
        return cls(max_retries=8, base_delay=0.5, throttle_delay=2.0, max_delay=60.0, hint_cap=3600.0, patience=3600.0)

    @classmethod
    def of(cls, value: RetryPolicy | str | Mapping[str, Any] | None) -> RetryPolicy | None:
        """Return a policy from an instance, ``"web"``, ``"batch"`` or a mapping of fields; ``None`` stays.

        Raises:
            ConfigurationError: It is none of these, or a value is out of range.

        .. versionadded:: 0.1.0
        """
        if value is None or isinstance(value, RetryPolicy):
            return value
        if isinstance(value, Mapping):
            checks.names(field_names(cls), value, what="retry")
            return cls(**{k: v if k == "max_retries" else checks.duration(v, what=k) for k, v in value.items()})
        if isinstance(value, str) and value in {"web", "batch"}:
            return cls.web() if value == "web" else cls.batch()
        raise checks.refuse("retry", value, "a RetryPolicy, 'web', 'batch', or a mapping of fields")


@attrs.frozen(kw_only=True)
class RateLimits:
    """Limits of an account, applied to each model by itself. ``None``: not known, learned from the service.

    A limit given here is enforced even where the service allows more; what the service says only ever lowers it.

    Attributes:
        rpm: Requests per minute.
        rpd: Requests per day.
        tpm: Tokens per minute.
        tpd: Tokens per day.
        itpm: Input tokens per minute.
        otpm: Output tokens per minute.
        share: Part of the token limits to use, above 0 and at most 1: estimates are never exact.
        models: Limits by model id, each a ``RateLimits`` or a mapping of fields. They stand instead of the general ones, not
            beside them; a mapping without ``share`` takes the general share.

    Raises:
        ConfigurationError: A limit is not an integer of at least 1.

    >>> RateLimits(rpm=30, models={"openai/gpt-oss-20b": {"rpm": 60}}).for_model("openai/gpt-oss-20b").rpm
    60

    .. versionadded:: 0.1.0
    """

    rpm: int | None = attrs.field(default=None, validator=checks.limit)
    rpd: int | None = attrs.field(default=None, validator=checks.limit)
    tpm: int | None = attrs.field(default=None, validator=checks.limit)
    tpd: int | None = attrs.field(default=None, validator=checks.limit)
    itpm: int | None = attrs.field(default=None, validator=checks.limit)
    otpm: int | None = attrs.field(default=None, validator=checks.limit)
    share: float = attrs.field(default=0.97)
    models: Mapping[str, RateLimits | Mapping[str, Any]] = attrs.field(factory=dict)

    #: The six dimensions by name.
    DIMENSIONS: ClassVar[tuple[str, ...]] = ("rpm", "rpd", "tpm", "tpd", "itpm", "otpm")

    @share.validator
    def _check_share(self, _attribute: object, given: object) -> None:
        checks.check_number("share", given, 0, 1, above=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.models, Mapping):
            raise checks.refuse("models", self.models, "a mapping of model ids to RateLimits")
        built: dict[str, RateLimits] = {}
        for model, given in self.models.items():
            if not isinstance(model, str) or not model:
                raise ConfigurationError(f"rate_limits: the model id {checks.shown(model)} must be a non-empty string")
            data = {"share": self.share, **given} if isinstance(given, Mapping) else given
            limits = RateLimits.of(data)
            if limits is None or limits.models:
                raise ConfigurationError(f"rate_limits: models[{checks.shown(model)}] must hold limits of one model")
            built[model] = limits
        object.__setattr__(self, "models", ReadOnly(built))  # frozen: this is the only place that sets it

    def for_model(self, model_id: str) -> RateLimits:
        """Return the limits that hold for one model.

        .. versionadded:: 0.1.0
        """
        own = self.models.get(model_id)
        if isinstance(own, RateLimits):
            return own
        return attrs.evolve(self, models={}) if self.models else self

    @classmethod
    def plan(cls, name: str) -> RateLimits:
        """Return the published limits of a plan, by model; other models get the plan's most common ones.

        Args:
            name: ``"free"`` or ``"developer"``. The limits of an organisation may differ: see its console page.

        Raises:
            ConfigurationError: No such plan.

        >>> RateLimits.plan("free").for_model("a model of tomorrow").rpm
        30

        .. versionadded:: 0.1.0
        """
        from groq_provider.catalog import default_catalogue  # costly, and most limits are numbers

        catalogue = default_catalogue()
        if not isinstance(name, str) or name not in catalogue.plans:
            raise checks.refuse("plan", name, "one of " + ", ".join(map(repr, catalogue.plans)))
        models = {model.id: _dimensions(model.limits[name]) for model in catalogue.models if name in model.limits}
        return cls(**_dimensions(catalogue.plans[name]), models=models)

    @classmethod
    def of(cls, value: RateLimits | str | Mapping[str, Any] | None) -> RateLimits | None:
        """Return limits from an instance, the name of a plan, or a mapping of fields; ``None`` stays.

        Raises:
            ConfigurationError: It is none of these, or a value is out of range.

        .. versionadded:: 0.1.0
        """
        if value is None or isinstance(value, RateLimits):
            return value
        if isinstance(value, str):
            return cls.plan(value)
        if not isinstance(value, Mapping):
            raise checks.refuse("rate_limits", value, "RateLimits, 'free', 'developer', or a mapping of fields")
        checks.names(field_names(cls), value, what="rate_limits")
        return cls(**value)


def _dimensions(limits: object) -> dict[str, int]:
    """Return the known dimensions of the limits of a plan."""
    found = {name: getattr(limits, name, None) for name in RateLimits.DIMENSIONS}
    return {name: size for name, size in found.items() if size is not None}


def field_names(cls: type[attrs.AttrsInstance]) -> list[str]:
    """Return the names of the fields of an attrs class."""
    return [field.name for field in attrs.fields(cls)]
