"""Settings: where, with which key, how long, how often, how fast."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from groq_provider import _validate as checks
from groq_provider.config.defaults import DEFAULT_MODEL, ProviderType
from groq_provider.config.files import Environment, UnresolvedKey, Variable, expand, pick, read_file
from groq_provider.config.policies import RateLimits, RetryPolicy, Secret, Timeouts, field_names
from groq_provider.config.urls import check_proxy, hide_credentials, normalise_base_url
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import freeze_mapping

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DEFAULT_BASE_URL", "ProviderConfig", "ProviderSettings", "RateLimits", "RetryPolicy", "Secret", "Timeouts"]

#: Where Groq's service is.
DEFAULT_BASE_URL = "https://api.groq.com"

_NOT_PROVIDED = "groq API key not provided"
_KEYS_PAGE = "keys are made at https://console.groq.com/keys"
_NO_KEY = f"{_NOT_PROVIDED}: set GROQ_API_KEY or pass api_key; {_KEYS_PAGE}"


class ProviderSettings(TypedDict, total=False):
    """What may be given by keyword: the fields of :class:`ProviderConfig`, other names of them, and shorthands.

    .. versionadded:: 0.1.0
    """

    api_key: str | Secret | None
    base_url: str | None
    endpoint: str | None
    type: str | ProviderType | None
    enabled: bool | None
    models: Sequence[str] | None
    default_model: str | None
    timeout: Timeouts | float | str | Mapping[str, Any] | None
    retry: RetryPolicy | str | Mapping[str, Any] | None
    max_retries: int | None
    rate_limits: RateLimits | str | Mapping[str, Any] | None
    rate_limit_rpm: int | None
    rate_limit_rpd: int | None
    rate_limit_tpm: int | None
    rate_limit_tpd: int | None
    rate_limit_itpm: int | None
    rate_limit_otpm: int | None
    rate_limit_store: object
    track_latency: bool | None
    latency_samples: int | None
    headers: Mapping[str, str] | None
    proxies: Mapping[str, str] | None
    ca_bundle: str | os.PathLike[str] | bool | None
    verify: str | os.PathLike[str] | bool | None
    cert: str | os.PathLike[str] | Sequence[str] | None
    allow_insecure: bool | None
    max_connections: int | None
    prewarm: int | None
    http2: bool | None
    require_finish_reason: bool | None
    trim_max_tokens: bool | None
    circuit_breaker: object
    parameters: Mapping[str, Any] | None


_ALIASES = {"endpoint": "base_url", "verify": "ca_bundle"}
_SHORTHANDS = {f"rate_limit_{name}": name for name in RateLimits.DIMENSIONS}


def _hide_headers(headers: Mapping[str, str] | None) -> str:
    return repr(dict.fromkeys(headers or {}, "****"))


def _hide_proxies(proxies: Mapping[str, str] | None) -> str:
    return repr(proxies and {scheme: hide_credentials(url) for scheme, url in proxies.items()})


def _hide_store(store: object) -> str:
    return repr(hide_credentials(store)) if isinstance(store, str) else f"<{type(store).__name__}>"


@attrs.frozen(kw_only=True, init=False)
class ProviderConfig:
    """Everything a provider is configured by. Immutable; pickles without the key.

    Values come from the arguments, then for ``type="groq"`` from ``GROQ_API_KEY``, ``GROQ_BASE_URL`` and ``GROQ_HOST``, then
    from the defaults. ``None`` means "not given". Besides the fields the constructor takes ``endpoint`` for *base_url*,
    ``verify`` (a path or ``True``) for *ca_bundle*, and the shorthands ``max_retries``, ``rate_limit_rpm``, ``_rpd``,
    ``_tpm``, ``_tpd``, ``_itpm`` and ``_otpm`` (0: not limited), which are errors beside the object they abbreviate.

    Attributes:
        api_key: The key. It is in no repr, pickle or log; :meth:`key` returns it.
        base_url: Root of the API, in any of the forms :func:`~groq_provider.config.urls.normalise_base_url` knows.
        type: ``groq``, or ``openai_compatible`` for other servers: that needs *base_url* and *default_model*, reads no
            ``GROQ_*`` variable, and may go without a key.
        enabled: Whether calls are made at all; a provider that is not enabled needs no key.
        models: Model ids to offer, in this order; empty offers the whole catalogue.
        default_model: For requests that name none. By default ``openai/gpt-oss-120b``; if *models* leaves that out, the
            first of them that is not deprecated, else the first.
        timeout: Time limits; also a number of seconds, a duration such as ``"30s"``, or a mapping.
        retry: Retry policy; also ``"web"``, ``"batch"`` or a mapping.
        rate_limits: Limits of the account; also ``"free"``, ``"developer"`` or a mapping. ``None`` learns from the service.
        rate_limit_store: Where the limiter keeps its state: ``"memory"``, a URL (``file:///path``, ``redis://…``, ``rediss://…``), or a
            store. A password in the URL is not shown, but pickled with it, as a worker process has to get in, too.
        track_latency: Whether latencies are recorded.
        latency_samples: How many are kept, 1 to 10,000,000.
        headers: Further header fields for every request. ``Authorization``, ``Host``, ``Content-Length``,
            ``Transfer-Encoding`` and ``Connection`` are not for setting.
        proxies: Proxy URLs by scheme; ``None`` reads the environment.
        ca_bundle: Path of certificates to trust; ``None`` takes the usual ones. Verification cannot be switched off.
        cert: Path of a client certificate, or a pair of certificate and key.
        allow_insecure: Whether ``http://`` may be used for other hosts than this machine.
        max_connections: Most requests under way at a time, at least 1, whatever carries them; ``None`` does not limit them.
        prewarm: For how many requests connections are opened at the start, 0 to 100.
        http2: Whether HTTP/2 is used where the server speaks it; needs the extra ``http2``. Over ``http://``, and through a proxy that
            is spoken to in TLS, it is HTTP/1.1 all the same.
        require_finish_reason: Whether a stream without a finish reason counts as interrupted.
        trim_max_tokens: Whether a completion limit above the model's maximum, or above what the limits of tokens can ever
            hold beside the prompt, is lowered instead of refused.
        circuit_breaker: ``None`` or ``True``, a mapping of its settings, or its policy.

    Raises:
        ConfigurationError: A name is not known or a value not allowed; or there is no key
            ("groq API key not provided") though one is needed.

    >>> config = ProviderConfig(api_key="gsk_example", timeout="30s", max_retries=0)
    >>> config.base_url, config.timeout.total, config.default_model
    ('https://api.groq.com/openai/v1', 30.0, 'openai/gpt-oss-120b')

    .. versionadded:: 0.1.0
    """

    api_key: Secret | None = None
    base_url: str = DEFAULT_BASE_URL
    type: ProviderType = ProviderType.GROQ
    enabled: bool = attrs.field(default=True, validator=checks.flag)
    models: tuple[str, ...] = ()
    default_model: str = DEFAULT_MODEL
    timeout: Timeouts = attrs.field(factory=Timeouts)
    retry: RetryPolicy = attrs.field(factory=RetryPolicy)
    rate_limits: RateLimits | None = None
    rate_limit_store: Any = attrs.field(default="memory", repr=_hide_store)
    track_latency: bool = attrs.field(default=True, validator=checks.flag)
    latency_samples: int = 100
    headers: Mapping[str, str] = attrs.field(factory=dict, converter=freeze_mapping, repr=_hide_headers)
    proxies: Mapping[str, str] | None = attrs.field(default=None, converter=freeze_mapping, repr=_hide_proxies)
    ca_bundle: str | None = None
    cert: str | tuple[str, str] | None = None
    allow_insecure: bool = attrs.field(default=False, validator=checks.flag)
    max_connections: int | None = None
    prewarm: int = 0
    http2: bool = attrs.field(default=False, validator=checks.flag)
    require_finish_reason: bool = attrs.field(default=True, validator=checks.flag)
    trim_max_tokens: bool = attrs.field(default=False, validator=checks.flag)
    circuit_breaker: Any = None

    def __init__(self, **settings: Unpack[ProviderSettings]) -> None:
        # Wrapped first: a traceback that shows local variables must not show the key.
        given = _shielded(settings)
        del settings
        environ = Environment(os.environ)
        self.__attrs_init__(**_resolved(_merged([expand(given, environ)]), environ))

    @classmethod
    def _build(cls, layers: list[dict[Any, Any]], environ: Environment) -> ProviderConfig:
        """Return a configuration of these layers without a look at the environment of the process."""
        resolved = _resolved(_merged(layers), environ)
        config = cls.__new__(cls)
        config.__attrs_init__(**resolved)
        return config

    def __repr__(self) -> str:
        # Not the generated one: that fails while the object is under construction, and with it tools that show the local
        # variables of a traceback.
        parts = []
        for field in attrs.fields(ProviderConfig):
            given = getattr(self, field.name, None)
            parts.append(f"{field.name}={field.repr(given) if callable(field.repr) else repr(given)}")
        return f"ProviderConfig({', '.join(parts)})"

    @classmethod
    def load(
        cls,
        source: ProviderConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        section: str = "groq",
        **settings: Unpack[ProviderSettings],
    ) -> ProviderConfig:
        """Return a configuration from another one, a mapping, or a file, with changes by keyword.

        Args:
            source: A configuration; a mapping of settings, alone or inside ``{"groq": …}``, ``{"providers": {"groq": …}}`` or
                ``{"llm": {"providers": {"groq": …}}}``; or the path of a ``.yaml``, ``.yml``, ``.toml`` or ``.json`` file
                that holds such a mapping. Texts of the form ``${NAME}`` are replaced by that variable.
            environ: The environment; ``None`` is the one of the process.
            section: Name of the provider in a tree of several.
            settings: Fields, other names and shorthands as for the constructor; they win over *source*, which wins over the
                environment.

        Raises:
            ConfigurationError: The file cannot be read, a variable is not set, a name is not known, a value not allowed,
                or there is no key. No message shows a key.

        >>> ProviderConfig.load({"api_key": "gsk_example", "rate_limit_rpm": 30}, environ={}).rate_limits.rpm
        30

        .. versionadded:: 0.1.0
        """
        given = _shielded(settings)
        variables = Environment(os.environ if environ is None else environ)
        del settings, environ
        if isinstance(source, ProviderConfig):
            return source._changed(expand(given, variables), variables) if given else source  # noqa: SLF001 - our own class
        layers = [given]
        if source is not None:
            leaf, problem = pick(source if isinstance(source, Mapping) else read_file(source), section, _KNOWN)
            layers.insert(0, _shielded(leaf))
            del source, leaf
            if problem:
                raise ConfigurationError(f"configuration: {problem}")
        return cls._build([expand(layer, variables) for layer in layers], variables)

    def with_(self, **settings: Unpack[ProviderSettings]) -> ProviderConfig:
        """Return a copy with changes: fields, other names and shorthands as for the constructor.

        Raises:
            ConfigurationError: A name is not known or a value not allowed.

        .. versionadded:: 0.1.0
        """
        return ProviderConfig.load(self, **settings)

    def _changed(self, given: dict[Any, Any], environ: Environment) -> ProviderConfig:
        own = attrs.asdict(self, recurse=False)
        if self.type is ProviderType.GROQ and self.default_model == _default_model(self.models):
            del own["default_model"]  # it follows the models
        return self._build([own, given], environ)

    def key(self) -> str | None:
        """Return the key, or ``None`` if there is none and none is needed.

        Out of a pickle the key is read again from the variable it came from, for Groq otherwise from ``GROQ_API_KEY``.

        Raises:
            ConfigurationError: It is needed and not there.

        .. versionadded:: 0.1.0
        """
        secret = self.api_key
        if secret is not None and not secret.lost:
            return secret.reveal()
        variable = secret.variable if secret is not None else None
        if self.type is ProviderType.GROQ:
            variable = variable or "GROQ_API_KEY"
        elif secret is None:
            return None
        found = (
            _checked(Secret(os.environ.get(variable, "")), variable, self.type is ProviderType.GROQ)
            if variable
            else None
        )
        if found is None and self.enabled:
            hint = "" if variable in {None, "GROQ_API_KEY"} else f" ({variable} is not set)"
            raise ConfigurationError(_NO_KEY + hint)
        return None if found is None else found.reveal()


_KNOWN = (*field_names(ProviderConfig), *_ALIASES, "max_retries", *_SHORTHANDS)


# --- from what was given to the fields -----------------------------------------------------------------------------------


def _shielded(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy whose key is wrapped, in ``parameters`` too."""
    copy = dict(settings)
    if isinstance(copy.get("parameters"), Mapping):
        copy["parameters"] = dict(copy["parameters"])
    for level in (copy, copy.get("parameters")):
        if isinstance(level, dict) and isinstance(level.get("api_key"), str) and "${" not in level["api_key"]:
            level["api_key"] = Secret(level["api_key"])
    return copy


def _merged(layers: list[dict[Any, Any]]) -> dict[str, Any]:
    """Return the fields of all layers under their own names; later layers win."""
    merged: dict[str, Any] = {}
    for given in layers:
        layer = dict(given)
        parameters = layer.pop("parameters", None)
        if parameters is not None:
            if not isinstance(parameters, Mapping):
                raise checks.refuse("parameters", parameters, "a mapping")
            layer = {**parameters, **layer}
        checks.names(_KNOWN, layer, what="configuration", hints=_elsewhere)
        layer = {name: value for name, value in layer.items() if not _not_given(name, value)}
        for alias, name in _ALIASES.items():
            if alias in layer and name in layer:
                raise ConfigurationError(f"{alias} and {name} are the same setting: give one of them")
            if alias in layer:
                layer[name] = layer.pop(alias)
        limits = {name: layer.pop(short) for short, name in _SHORTHANDS.items() if short in layer}
        retries = layer.pop("max_retries", None)
        if limits and "rate_limits" in layer:
            raise ConfigurationError(f"rate_limit_{next(iter(limits))} abbreviates rate_limits: give one of them")
        if retries is not None and "retry" in layer:
            raise ConfigurationError("max_retries abbreviates retry: give one of them")
        merged.update(layer)
        if limits:
            merged["rate_limits"] = _shortened_limits(RateLimits.of(merged.get("rate_limits")), limits)
        if retries is not None:
            merged["retry"] = attrs.evolve(RetryPolicy.of(merged.get("retry")) or RetryPolicy(), max_retries=retries)
    return merged


def _elsewhere(name: str) -> str:
    """Say where a setting goes that other clients have under another name, or in each request."""
    instead = {"model": "default_model", "default_headers": "headers", "http_client": "session of GroqProvider"}.get(
        name
    )
    if instead is not None:
        return f" (did you mean {instead!r}?)"
    from groq_provider.types.request import REQUEST_FIELDS  # for who made a mistake

    return " (a field of each request: give it to generate)" if name in REQUEST_FIELDS else ""


def _not_given(name: str, value: object) -> bool:
    """Whether a value leaves the decision to the next source: ``None``, and a blank key or place."""
    if name in {"api_key", "base_url", "endpoint"}:
        text = value.reveal() if isinstance(value, Secret) and not value.lost else value
        return text is None or (isinstance(text, str) and not text.strip())
    return value is None


def _shortened_limits(base: RateLimits | None, limits: dict[str, Any]) -> RateLimits:
    for name, size in limits.items():
        checks.check_number(f"rate_limit_{name}", size, 0, 10**15, integer=True)
    changes: dict[str, Any] = {name: size or None for name, size in limits.items()}
    return attrs.evolve(base or RateLimits(), **changes)


def _resolved(settings: dict[str, Any], environ: Environment) -> dict[str, Any]:
    """Return the values of the fields, checked, from what was given and the environment."""
    out = dict(settings)
    kinds = [kind.value for kind in ProviderType]
    given = out.get("type", ProviderType.GROQ)
    if not isinstance(given, str) or given not in kinds:
        raise checks.refuse("type", given, "one of " + ", ".join(kinds))
    out["type"] = kind = ProviderType(str(given))
    groq = kind is ProviderType.GROQ
    checks.check_number("latency_samples", out.get("latency_samples", 100), 1, 10_000_000, integer=True)
    checks.check_number("max_connections", out.get("max_connections"), 1, 1_000_000, integer=True, optional=True)
    checks.check_number("prewarm", out.get("prewarm", 0), 0, 100, integer=True)
    out["timeout"] = Timeouts.of(out.get("timeout")) or Timeouts()
    out["retry"] = RetryPolicy.of(out.get("retry")) or RetryPolicy()
    out["rate_limits"] = RateLimits.of(out.get("rate_limits"))
    out["models"] = _models(out.get("models", ()))
    if "default_model" in out:
        out["default_model"] = _models([out["default_model"]], "default_model")[0]
    elif not groq:
        raise ConfigurationError("type openai_compatible: default_model is missing")
    else:
        out["default_model"] = _default_model(out["models"])
    out["base_url"] = _base_url(out, groq, environ)
    out["headers"] = checks.check_headers(out.get("headers", {}))
    out["proxies"] = _proxies(out.get("proxies"))
    out["ca_bundle"] = _ca_bundle(out.get("ca_bundle"))
    out["cert"] = _cert(out.get("cert"))
    out["rate_limit_store"] = _part("rate_limit_store", out.get("rate_limit_store", "memory"), str, "a URL, or a store")
    breaker = out.get("circuit_breaker") or None
    out["circuit_breaker"] = _part("circuit_breaker", breaker, Mapping, "True, a mapping, or a policy", switch=True)
    out["api_key"] = _key(out.get("api_key"), groq, environ, needed=out.get("enabled", True) is not False)
    return out


def _key(given: object, groq: bool, environ: Environment, *, needed: bool) -> Secret | None:
    if isinstance(given, UnresolvedKey):
        # Going on with another key, or with none, would hide the mistake: GROQ_API_KEY may be that of another tenant.
        if groq and not needed:
            return Secret(None, variable=given.name)  # looked for again when it is
        if groq and given.name != "GROQ_API_KEY":
            raise ConfigurationError(
                f"{_NOT_PROVIDED}: api_key names the environment variable {given.name}, which is not set or blank; {_KEYS_PAGE}"
            )
        raise ConfigurationError(
            _NO_KEY if groq else f"api_key: the environment variable {given.name} is not set or blank"
        )
    if isinstance(given, Secret) and given.lost:
        return given
    if given is not None and not isinstance(given, (str, Secret)):
        raise ConfigurationError(f"api_key must be a string, not {type(given).__name__}")
    variable = given.name if isinstance(given, Variable) else None
    if isinstance(given, str):
        given = Secret(str(given), variable=variable)
    secret = None if given is None else _checked(given, "api_key", groq)
    if secret is None and groq:
        secret = _checked(Secret(environ.get("GROQ_API_KEY") or "", variable="GROQ_API_KEY"), "GROQ_API_KEY", groq)
    if secret is None and groq and needed:
        raise ConfigurationError(_NO_KEY)
    return secret


def _checked(secret: Secret, what: str, groq: bool) -> Secret | None:
    """Return a stripped key, ``None`` for a blank one. The plain text is in no variable when it raises."""
    key, problem = checks.check_key(secret.reveal())
    if problem:
        raise ConfigurationError(f"{what}: {problem}{' from console.groq.com/keys' if groq else ''}")
    return None if key is None else Secret(key, variable=secret.variable)


def _base_url(settings: dict[str, Any], groq: bool, environ: Environment) -> str:
    candidates: dict[str, Any] = {"base_url": settings.get("base_url")}
    if groq:
        candidates |= {name: environ.get(name) for name in ("GROQ_BASE_URL", "GROQ_HOST")} | {
            "default": DEFAULT_BASE_URL
        }
    insecure = settings.get("allow_insecure") is True
    for what, url in candidates.items():
        if not _not_given("base_url", url):
            return normalise_base_url(url, type=settings["type"], allow_insecure=insecure, what=what)
    raise ConfigurationError("type openai_compatible: base_url is missing")


def _models(given: object, what: str = "models") -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise checks.refuse(what, given, "a list of model ids")
    for model in given:
        if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable() or " " in model:
            raise checks.refuse(what, model, "a model id: 1 to 200 characters without spaces")
    return tuple(dict.fromkeys(map(str, given)))


def _default_model(models: tuple[str, ...]) -> str:
    if not models or DEFAULT_MODEL in models:
        return DEFAULT_MODEL
    from groq_provider.catalog import default_catalogue  # costly, and most configurations name no models

    catalogue = default_catalogue()
    return next((model.id for model in catalogue.select(models) if not model.deprecated), models[0])


def _proxies(given: object) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"proxies must be a mapping of schemes to URLs, not {type(given).__name__}")
    for scheme, url in given.items():
        if not isinstance(scheme, str):
            raise ConfigurationError(f"proxies: {checks.shown(scheme)} must be a scheme such as 'https'")
        _, problem = check_proxy(url)
        if not problem and "://" not in url:
            problem = "must be a URL such as 'http://proxy:8080', with its scheme"
        if problem:
            del given, url  # a traceback may show local variables
            raise ConfigurationError(f"proxies[{scheme!r}]: {problem}")
    return {str(scheme): checks.Hidden(url) for scheme, url in given.items()}


def _path(given: object, what: str, allowed: str) -> str:
    try:
        path = os.fspath(given)  # type: ignore[call-overload]  # whatever the caller passed: that is the check
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise checks.refuse(what, given, allowed)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for what cannot be a path
        raise ConfigurationError(f"{what} = {checks.shown(path)}: does not exist")
    return str(path)


def _ca_bundle(given: object) -> str | None:
    if given is False:
        raise ConfigurationError(
            "verify = False: certificates are always verified; to trust one of your own, give the path of its CA bundle"
        )
    return None if given is None or given is True else _path(given, "ca_bundle", "the path of a CA bundle, or True")


def _cert(given: object) -> str | tuple[str, str] | None:
    allowed = "the path of a certificate, or a pair of certificate and key"
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            raise checks.refuse("cert", given, allowed)
        return _path(given[0], "cert", allowed), _path(given[1], "cert", allowed)
    return None if given is None else _path(given, "cert", allowed)


def _part(name: str, given: object, plain: type, allowed: str, *, switch: bool = False) -> Any:
    """Return a setting that its own part of the library reads; only plain data of a wrong kind is refused here."""
    if isinstance(given, bool) and switch:
        return given
    if isinstance(given, str) and plain is str and given.strip():
        return checks.Hidden(given) if "://" in given else str(given)
    if isinstance(given, plain) and plain is not str:
        return dict(given)  # type: ignore[call-overload]  # a mapping
    if isinstance(given, (str, bytes, int, float, Mapping, list, tuple, set)):
        shown = hide_credentials(given) if isinstance(given, str) else given
        raise checks.refuse(name, shown, allowed)
    return given
