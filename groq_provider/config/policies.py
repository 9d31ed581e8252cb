"""The parts of a configuration: key, time limits, retry policy, rate limits. Import them from ``groq_provider.config``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from groq_provider import _validate as checks
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import ReadOnly

__all__ = ["RateLimits", "RetryPolicy", "Secret", "Timeouts"]


class Secret:
    """An API key that never appears in a ``repr``, log or pickle; you must call :meth:`reveal` to get it.

    ``repr``, ``str`` and formatting give ``****`` and at most the last four characters. Copies keep the value, pickles do not: an
    unpickled secret has no value, only the name of the environment variable that it came from.

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
        """The environment variable that the key came from, or ``None``."""
        return self._variable

    @property
    def lost(self) -> bool:
        """Whether the value was lost because the secret has been pickled."""
        return self._value is None

    def reveal(self) -> str:
        """Return the key.

        Raises:
            ConfigurationError: The key was lost because the secret has been pickled.
        """
        if self._value is None:
            raise ConfigurationError("the API key was left out when this was pickled: pass api_key again")
        return self._value

    def __str__(self) -> str:
        # A short key must not show its end: four characters would be too large a part of it.
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
        wait: The time in the rate limiter's queue. You should set it where a person waits for the answer.
        connect: The time to open a connection, TLS handshake included.
        first_token: The time from the sent request to the first piece of a streamed answer, or to the last byte of a plain answer. You
            should raise it for long plain answers.
        idle: The silence between two pieces of a stream. The time that your code spends between two reads does not count.
        total: The time of the whole call, waiting and retries included. You should set it in web applications.

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
        """Return time limits from any form in which you can write them.

        Args:
            value: ``Timeouts``; a number of seconds or a duration (``"30s"``, ``"1m30s"``, ``"500ms"``, ``"2h"``, ``"30"``), which sets
                ``wait``, ``first_token`` and ``total``; a mapping of fields; or ``None``.

        Returns:
            The limits; ``None`` for ``None``.

        Raises:
            ConfigurationError: The value has another form, or is out of range.

        >>> Timeouts.of("1m30s").total
        90.0

        .. versionadded:: 0.1.0
        """
        if value is None or isinstance(value, Timeouts):
            return value
        if isinstance(value, Mapping):
            checks.names(field_names(cls), value, what="timeout")
            return cls(**{key: checks.duration(item, what=key) for key, item in value.items()})
        number = checks.duration(value, what="timeout")
        allowed = (
            "a number of seconds above 0 and at most 1e9, a duration such as '30s', a mapping of fields, or Timeouts"
        )
        if not checks.is_number(number) or not 0 < number <= checks.LONGEST:
            raise checks.refuse("timeout", value, allowed)
        return cls(wait=number, first_token=number, total=number)


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often a failed call is retried, and after which delays. You can start from :meth:`web` or :meth:`batch`.

    Attributes:
        max_retries: The number of retries after the first attempt. You can switch retries off with 0.
        base_delay: Seconds before the first retry after a fault; the delay doubles with each further retry.
        throttle_delay: The same after a 429 or an overload without a delay from the service.
        max_delay: The longest delay that the library chooses itself.
        hint_cap: The longest delay that the service may ask for. A longer one ends the call at once, and you can read it in the
            ``retry_after`` of the error.
        patience: Waits that the service asks for after a 429 or an overload do not count as retries until they add up to this many
            seconds; each counts as one second at least. 0 counts every wait as a retry. Items of ``generate_many`` have 60 at least.

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
    def _check_max_retries(self, _attribute: object, value: object) -> None:
        checks.check_number("max_retries", value, 0, 100, integer=True)

    @classmethod
    def web(cls) -> RetryPolicy:
        """Return the policy that you should use where a person waits: one quick retry, and no wait for a rate limit.

        .. versionadded:: 0.1.0
        """
        return cls(max_retries=1, base_delay=0.1, throttle_delay=0.25, max_delay=0.5, hint_cap=1.0)

    @classmethod
    def batch(cls) -> RetryPolicy:
        """Return the policy that you should use for background jobs: eight retries, and up to an hour of waits for rate limits besides.

        .. versionadded:: 0.1.0
        """
        return cls(max_retries=8, base_delay=0.5, throttle_delay=2.0, max_delay=60.0, hint_cap=3600.0, patience=3600.0)

    @classmethod
    def of(cls, value: RetryPolicy | str | Mapping[str, Any] | None) -> RetryPolicy | None:
        """Return a policy from an instance, ``"web"``, ``"batch"`` or a mapping of fields; ``None`` stays ``None``.

        Raises:
            ConfigurationError: The value has another form, or is out of range.

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
    """The limits of an account, which apply to each model separately. ``None`` means unknown: the limiter learns it from the service.

    A limit that you set is enforced even if the service allows more. A lower limit from the service lowers it; a higher one does not
    raise it.

    Attributes:
        rpm: Requests per minute.
        rpd: Requests per day.
        tpm: Tokens per minute.
        tpd: Tokens per day.
        itpm: Input tokens per minute.
        otpm: Output tokens per minute.
        share: The part of the token limits to use, above 0 and at most 1. It should leave a margin, because estimates are not exact.
        models: Limits by model id, each a ``RateLimits`` or a mapping of fields. They replace the general limits; a mapping without
            ``share`` uses the general share.

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
    def _check_share(self, _attribute: object, value: object) -> None:
        checks.check_number("share", value, 0, 1, above=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.models, Mapping):
            raise checks.refuse("models", self.models, "a mapping of model ids to RateLimits")
        built: dict[str, RateLimits] = {}
        for model, value in self.models.items():
            if not isinstance(model, str) or not model:
                raise ConfigurationError(f"rate_limits: the model id {checks.shown(model)} must be a non-empty string")
            data = {"share": self.share, **value} if isinstance(value, Mapping) else value
            limits = RateLimits.of(data)
            if limits is None or limits.models:  # no nesting
                raise ConfigurationError(f"rate_limits: models[{checks.shown(model)}] must hold limits of one model")
            built[model] = limits
        object.__setattr__(self, "models", ReadOnly(built))  # the class is frozen; only this line sets the field

    def for_model(self, model_id: str) -> RateLimits:
        """Return the limits of one model.

        .. versionadded:: 0.1.0
        """
        own = self.models.get(model_id)
        if isinstance(own, RateLimits):
            return own
        return attrs.evolve(self, models={}) if self.models else self

    @classmethod
    def plan(cls, name: str) -> RateLimits:
        """Return the published limits of a plan, by model; other models get the plan's most common limits.

        Args:
            name: ``"free"`` or ``"developer"``. The limits of your organisation may differ; you can see them on its console page.

        Raises:
            ConfigurationError: There is no plan of this name.

        >>> RateLimits.plan("free").for_model("a model of tomorrow").rpm
        30

        .. versionadded:: 0.1.0
        """
        from groq_provider.catalog import default_catalogue  # imported late: slow to load, and most limits are numbers

        catalogue = default_catalogue()
        if not isinstance(name, str) or name not in catalogue.plans:
            raise checks.refuse("plan", name, "one of " + ", ".join(map(repr, catalogue.plans)))
        models = {model.id: _dimensions(model.limits[name]) for model in catalogue.models if name in model.limits}
        return cls(**_dimensions(catalogue.plans[name]), models=models)

    @classmethod
    def of(cls, value: RateLimits | str | Mapping[str, Any] | None) -> RateLimits | None:
        """Return limits from an instance, the name of a plan, or a mapping of fields; ``None`` stays ``None``.

        Raises:
            ConfigurationError: The value has another form, or is out of range.

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
    sizes = {name: getattr(limits, name, None) for name in RateLimits.DIMENSIONS}
    return {name: size for name, size in sizes.items() if size is not None}


def field_names(cls: type[attrs.AttrsInstance]) -> list[str]:
    """Return the names of the fields of an attrs class."""
    return [field.name for field in attrs.fields(cls)]
