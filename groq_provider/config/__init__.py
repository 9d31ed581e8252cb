"""The configuration of a provider: ``ProviderConfig``, from arguments, mappings, files and the environment.

- ``__init__``: ``ProviderConfig`` and ``ProviderSettings``: merges all sources and checks every field
- ``defaults``: default models and provider types
- ``policies``: the values inside a configuration: ``Secret``, ``Timeouts``, ``RetryPolicy``, ``RateLimits``
- ``files``: YAML, TOML and JSON files, sections of a tree, ``${NAME}`` references
- ``urls``: base URLs and proxy URLs

To add a setting, add a field to ``ProviderConfig`` with its docstring, a key to ``ProviderSettings``, its check to ``_resolve_fields``
(or a validator to the field) and, if it is a number or a boolean, its name to ``files._TYPED_SETTINGS``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from groq_provider import _validate as checks
from groq_provider.config.defaults import DEFAULT_MODEL, ProviderType
from groq_provider.config.files import Environment, UnresolvedKey, Variable, expand_variables, pick_section, read_file
from groq_provider.config.policies import RateLimits, RetryPolicy, Secret, Timeouts, field_names
from groq_provider.config.urls import check_proxy, hide_credentials, normalise_base_url
from groq_provider.errors import ConfigurationError
from groq_provider.types._base import freeze_mapping

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DEFAULT_BASE_URL", "ProviderConfig", "ProviderSettings", "RateLimits", "RetryPolicy", "Secret", "Timeouts"]

#: The URL of Groq's service.
DEFAULT_BASE_URL = "https://api.groq.com"

_KEY_NOT_PROVIDED = "groq API key not provided"
_KEYS_PAGE = "keys are made at https://console.groq.com/keys"
_NO_KEY_MESSAGE = f"{_KEY_NOT_PROVIDED}: set GROQ_API_KEY or pass api_key; {_KEYS_PAGE}"


class ProviderSettings(TypedDict, total=False):
    """The keyword arguments of :class:`ProviderConfig`: its fields, aliases and shorthands.

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
    """The complete configuration of a provider. Immutable; pickles without the key. You can share one between providers and threads.

    Values come from the arguments, then (for ``type="groq"``) from ``GROQ_API_KEY``, ``GROQ_BASE_URL`` and ``GROQ_HOST``, then from the
    defaults. ``None`` means "not set". The constructor also accepts ``endpoint`` for *base_url*, ``verify`` (a path or ``True``) for
    *ca_bundle*, and the shorthands ``max_retries``, ``rate_limit_rpm``, ``_rpd``, ``_tpm``, ``_tpd``, ``_itpm`` and ``_otpm`` (0 means no
    limit). You must not combine a shorthand with the object that it abbreviates.

    Attributes:
        api_key: The key. It appears in no repr, pickle or log; :meth:`key` returns it.
        base_url: The root of the API, in any form that :func:`~groq_provider.config.urls.normalise_base_url` accepts.
        type: ``groq``, or ``openai_compatible`` for other servers: then you must set *base_url* and *default_model*, no ``GROQ_*``
            variable is read, and no key is needed.
        enabled: Whether the provider makes calls. A disabled provider needs no key, so you can switch it off where there is none.
        models: The ids of the models to offer, in this order; empty offers the whole catalogue. You can still ask for any other model.
        default_model: The model for requests that name none. The default is ``openai/gpt-oss-120b``; if *models* does not contain it,
            the first of them that is not deprecated, else the first.
        timeout: The time limits of each call. You can also give a number of seconds, a duration such as ``"30s"``, or a mapping.
        retry: The retry policy. You can also give ``"web"``, ``"batch"`` or a mapping.
        rate_limits: The limits of your account. You can also give ``"free"``, ``"developer"`` or a mapping. ``None`` learns them from the
            service; you should set them if you start many threads at once, since the first answers come too late for the first burst.
        rate_limit_store: Where the limiter keeps its state: ``"memory"``, a URL (``file:///path``, ``redis://…``, ``rediss://…``), or a
            store. You should name a store if several processes share your limits. A password in the URL is hidden in reprs, but pickled,
            because worker processes need it.
        track_latency: Whether to record latencies, which you can read with ``get_latency_metrics()``.
        latency_samples: The number of calls kept per model, 1 to 10,000,000.
        headers: Further header fields for every request. You cannot set ``Authorization``, ``Host``, ``Content-Length``,
            ``Transfer-Encoding`` or ``Connection``.
        proxies: Proxy URLs by scheme; ``None`` reads the environment. You must percent-encode special characters of a password.
        ca_bundle: The path of the certificates to trust; ``None`` uses the system's. You cannot switch off verification.
        cert: The path of a client certificate, or a pair of certificate and key.
        allow_insecure: Whether ``http://`` is allowed for hosts other than this machine. The key can then be read on the way.
        max_connections: The largest number of concurrent requests, at least 1; ``None`` sets no limit. You can use it to bound sockets.
        prewarm: The number of concurrent requests to open connections for at the start, 0 to 100. You can do the same with ``warm_up()``.
        http2: Whether to use HTTP/2 if the server speaks it; needs the extra ``http2``. Requests over ``http://``, or through a proxy
            with TLS, use HTTP/1.1 anyway.
        require_finish_reason: Whether a stream without a finish reason counts as interrupted. You should only switch this off for a server
            that sends none.
        trim_max_tokens: Whether to lower an output limit above the model's maximum, or too large for the token limits together with
            the prompt, instead of refusing the request.
        circuit_breaker: ``None`` for none, ``True`` for the defaults, a mapping of its settings, or its policy. You can use one to fail fast
            while the service is down.

    Raises:
        ConfigurationError: A setting is unknown or its value not allowed, or a key is needed and missing
            ("groq API key not provided").

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
        # Wrap the key first: a traceback with local variables must not show it.
        value = _wrap_keys(settings)
        del settings
        environ = Environment(os.environ)
        self.__attrs_init__(**_resolve_fields(_merge_layers([expand_variables(value, environ)]), environ))

    @classmethod
    def _build(cls, layers: list[dict[Any, Any]], environ: Environment) -> ProviderConfig:
        """Return a configuration from these layers and *environ*, ignoring the environment of the process."""
        resolved = _resolve_fields(_merge_layers(layers), environ)
        config = cls.__new__(cls)
        config.__attrs_init__(**resolved)
        return config

    def __repr__(self) -> str:
        # The generated repr would fail while the object is under construction, and so would tools that show local variables.
        parts = []
        for field in attrs.fields(ProviderConfig):
            value = getattr(self, field.name, None)
            parts.append(f"{field.name}={field.repr(value) if callable(field.repr) else repr(value)}")
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
            environ: The environment variables; ``None`` means those of the process.
            section: The name of the provider in a tree of several.
            settings: Fields, aliases and shorthands as for the constructor. They override *source*, which overrides the environment.

        Raises:
            ConfigurationError: The file cannot be read, a variable is not set, a setting is unknown or its value not allowed, or there is
                no key. No message shows a key.

        >>> ProviderConfig.load({"api_key": "gsk_example", "rate_limit_rpm": 30}, environ={}).rate_limits.rpm
        30

        .. versionadded:: 0.1.0
        """
        value = _wrap_keys(settings)
        variables = Environment(os.environ if environ is None else environ)
        del settings, environ
        if isinstance(source, ProviderConfig):
            return source._with_changes(expand_variables(value, variables), variables) if value else source  # noqa: SLF001 - our own class
        layers = [value]
        if source is not None:
            leaf, problem = pick_section(
                source if isinstance(source, Mapping) else read_file(source), section, _KNOWN_SETTINGS
            )
            layers.insert(0, _wrap_keys(leaf))
            del source, leaf
            if problem:
                raise ConfigurationError(f"configuration: {problem}")
        return cls._build([expand_variables(layer, variables) for layer in layers], variables)

    def with_(self, **settings: Unpack[ProviderSettings]) -> ProviderConfig:
        """Return a copy with changes: fields, aliases and shorthands as for the constructor.

        Raises:
            ConfigurationError: A setting is unknown or its value not allowed.

        .. versionadded:: 0.1.0
        """
        return ProviderConfig.load(self, **settings)

    def _with_changes(self, value: dict[Any, Any], environ: Environment) -> ProviderConfig:
        own = attrs.asdict(self, recurse=False)
        if self.type is ProviderType.GROQ and self.default_model == _default_model(self.models):
            del own["default_model"]  # derived from the models, so derive it again
        return self._build([own, value], environ)

    def key(self) -> str | None:
        """Return the key, or ``None`` if there is none and none is needed.

        An unpickled configuration reads the key again from its environment variable, or for Groq from ``GROQ_API_KEY``.

        Raises:
            ConfigurationError: A key is needed and missing.

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
        key = (
            _checked_secret(Secret(os.environ.get(variable, "")), variable, self.type is ProviderType.GROQ)
            if variable
            else None
        )
        if key is None and self.enabled:
            hint = "" if variable in {None, "GROQ_API_KEY"} else f" ({variable} is not set)"
            raise ConfigurationError(_NO_KEY_MESSAGE + hint)
        return None if key is None else key.reveal()


_KNOWN_SETTINGS = (*field_names(ProviderConfig), *_ALIASES, "max_retries", *_SHORTHANDS)


# --- from the settings of all sources to the fields ----------------------------------------------------------------------


def _wrap_keys(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy with the key wrapped in a ``Secret``, in ``parameters`` as well."""
    copy = dict(settings)
    if isinstance(copy.get("parameters"), Mapping):
        copy["parameters"] = dict(copy["parameters"])
    for level in (copy, copy.get("parameters")):
        if isinstance(level, dict) and isinstance(level.get("api_key"), str) and "${" not in level["api_key"]:
            level["api_key"] = Secret(level["api_key"])
    return copy


def _merge_layers(layers: list[dict[Any, Any]]) -> dict[str, Any]:
    """Merge the layers and replace aliases and shorthands by the fields they mean; later layers win."""
    merged: dict[str, Any] = {}
    for value in layers:
        layer = dict(value)
        parameters = layer.pop("parameters", None)
        if parameters is not None:
            if not isinstance(parameters, Mapping):
                raise checks.refuse("parameters", parameters, "a mapping")
            layer = {**parameters, **layer}
        checks.names(_KNOWN_SETTINGS, layer, what="configuration", hints=_hint_for)
        layer = {name: value for name, value in layer.items() if not _is_unset(name, value)}
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
            merged["rate_limits"] = _apply_limit_shorthands(RateLimits.of(merged.get("rate_limits")), limits)
        if retries is not None:
            merged["retry"] = attrs.evolve(RetryPolicy.of(merged.get("retry")) or RetryPolicy(), max_retries=retries)
    return merged


def _hint_for(name: str) -> str:
    """Return a hint for a setting that has another name here, or that belongs into each request."""
    other_name = {"model": "default_model", "default_headers": "headers", "http_client": "session of GroqProvider"}.get(
        name
    )
    if other_name is not None:
        return f" (did you mean {other_name!r}?)"
    from groq_provider.types.request import REQUEST_FIELDS  # imported late: needed for this error only

    return " (a field of each request: give it to generate)" if name in REQUEST_FIELDS else ""


def _is_unset(name: str, value: object) -> bool:
    """Tell whether the next source decides: the value is ``None``, or a blank key or URL."""
    if name in {"api_key", "base_url", "endpoint"}:
        text = value.reveal() if isinstance(value, Secret) and not value.lost else value
        return text is None or (isinstance(text, str) and not text.strip())
    return value is None


def _apply_limit_shorthands(base: RateLimits | None, limits: dict[str, Any]) -> RateLimits:
    for name, size in limits.items():
        checks.check_number(f"rate_limit_{name}", size, 0, 10**15, integer=True)
    changes: dict[str, Any] = {name: size or None for name, size in limits.items()}
    return attrs.evolve(base or RateLimits(), **changes)


def _resolve_fields(settings: dict[str, Any], environ: Environment) -> dict[str, Any]:
    """Check all settings and fill in defaults and the environment; return the fields of the configuration."""
    fields = dict(settings)
    provider_types = [kind.value for kind in ProviderType]
    value = fields.get("type", ProviderType.GROQ)
    if not isinstance(value, str) or value not in provider_types:
        raise checks.refuse("type", value, "one of " + ", ".join(provider_types))
    fields["type"] = kind = ProviderType(str(value))
    groq = kind is ProviderType.GROQ
    checks.check_number("latency_samples", fields.get("latency_samples", 100), 1, 10_000_000, integer=True)
    checks.check_number("max_connections", fields.get("max_connections"), 1, 1_000_000, integer=True, optional=True)
    checks.check_number("prewarm", fields.get("prewarm", 0), 0, 100, integer=True)
    fields["timeout"] = Timeouts.of(fields.get("timeout")) or Timeouts()
    fields["retry"] = RetryPolicy.of(fields.get("retry")) or RetryPolicy()
    fields["rate_limits"] = RateLimits.of(fields.get("rate_limits"))
    fields["models"] = _check_models(fields.get("models", ()))
    if "default_model" in fields:
        fields["default_model"] = _check_models([fields["default_model"]], "default_model")[0]
    elif not groq:
        raise ConfigurationError("type openai_compatible: default_model is missing")
    else:
        fields["default_model"] = _default_model(fields["models"])
    fields["base_url"] = _resolve_base_url(fields, groq, environ)
    fields["headers"] = checks.check_headers(fields.get("headers", {}))
    fields["proxies"] = _check_proxies(fields.get("proxies"))
    fields["ca_bundle"] = _check_ca_bundle(fields.get("ca_bundle"))
    fields["cert"] = _check_cert(fields.get("cert"))
    fields["rate_limit_store"] = _check_part(
        "rate_limit_store", fields.get("rate_limit_store", "memory"), str, "a URL, or a store"
    )
    breaker = fields.get("circuit_breaker") or None
    fields["circuit_breaker"] = _check_part(
        "circuit_breaker", breaker, Mapping, "True, a mapping, or a policy", switch=True
    )
    fields["api_key"] = _resolve_key(
        fields.get("api_key"), groq, environ, needed=fields.get("enabled", True) is not False
    )
    return fields


def _resolve_key(value: object, groq: bool, environ: Environment, *, needed: bool) -> Secret | None:
    if isinstance(value, UnresolvedKey):
        # Do not fall back on GROQ_API_KEY: it may belong to another tenant.
        if groq and not needed:
            return Secret(None, variable=value.name)  # read again once a key is needed
        if groq and value.name != "GROQ_API_KEY":
            raise ConfigurationError(
                f"{_KEY_NOT_PROVIDED}: api_key names the environment variable {value.name}, which is not set or blank; {_KEYS_PAGE}"
            )
        raise ConfigurationError(
            _NO_KEY_MESSAGE if groq else f"api_key: the environment variable {value.name} is not set or blank"
        )
    if isinstance(value, Secret) and value.lost:
        return value
    if value is not None and not isinstance(value, (str, Secret)):
        raise ConfigurationError(f"api_key must be a string, not {type(value).__name__}")
    variable = value.name if isinstance(value, Variable) else None
    if isinstance(value, str):
        value = Secret(str(value), variable=variable)
    secret = None if value is None else _checked_secret(value, "api_key", groq)
    if secret is None and groq:
        secret = _checked_secret(
            Secret(environ.get("GROQ_API_KEY") or "", variable="GROQ_API_KEY"), "GROQ_API_KEY", groq
        )
    if secret is None and groq and needed:
        raise ConfigurationError(_NO_KEY_MESSAGE)
    return secret


def _checked_secret(secret: Secret, what: str, groq: bool) -> Secret | None:
    """Return a secret with the stripped key; ``None`` for a blank one. When this raises, no variable holds the plain key."""
    key, problem = checks.check_key(secret.reveal())
    if problem:
        raise ConfigurationError(f"{what}: {problem}{' from console.groq.com/keys' if groq else ''}")
    return None if key is None else Secret(key, variable=secret.variable)


def _resolve_base_url(settings: dict[str, Any], groq: bool, environ: Environment) -> str:
    candidates: dict[str, Any] = {"base_url": settings.get("base_url")}
    if groq:
        candidates |= {name: environ.get(name) for name in ("GROQ_BASE_URL", "GROQ_HOST")} | {
            "default": DEFAULT_BASE_URL
        }
    insecure = settings.get("allow_insecure") is True
    for what, url in candidates.items():
        if not _is_unset("base_url", url):
            return normalise_base_url(url, type=settings["type"], allow_insecure=insecure, what=what)
    raise ConfigurationError("type openai_compatible: base_url is missing")


def _check_models(value: object, what: str = "models") -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise checks.refuse(what, value, "a list of model ids")
    for model in value:
        if not isinstance(model, str) or not 0 < len(model) <= 200 or not model.isprintable() or " " in model:
            raise checks.refuse(what, model, "a model id: 1 to 200 characters without spaces")
    return tuple(dict.fromkeys(map(str, value)))


def _default_model(models: tuple[str, ...]) -> str:
    if not models or DEFAULT_MODEL in models:
        return DEFAULT_MODEL
    from groq_provider.catalog import default_catalogue  # imported late: slow, and rarely needed

    catalogue = default_catalogue()
    return next((model.id for model in catalogue.select(models) if not model.deprecated), models[0])


def _check_proxies(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"proxies must be a mapping of schemes to URLs, not {type(value).__name__}")
    for scheme, url in value.items():
        if not isinstance(scheme, str):
            raise ConfigurationError(f"proxies: {checks.shown(scheme)} must be a scheme such as 'https'")
        _, problem = check_proxy(url)
        if not problem and "://" not in url:
            problem = "must be a URL such as 'http://proxy:8080', with its scheme"
        if problem:
            del value, url  # a traceback may show local variables
            raise ConfigurationError(f"proxies[{scheme!r}]: {problem}")
    return {str(scheme): checks.Hidden(url) for scheme, url in value.items()}


def _existing_path(value: object, what: str, allowed: str) -> str:
    try:
        path = os.fspath(value)  # type: ignore[call-overload]  # this call is the type check
    except TypeError:
        path = None
    if not isinstance(path, str) or not path:
        raise checks.refuse(what, value, allowed)
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises for an invalid path
        raise ConfigurationError(f"{what} = {checks.shown(path)}: does not exist")
    return str(path)


def _check_ca_bundle(value: object) -> str | None:
    if value is False:
        raise ConfigurationError(
            "verify = False: certificates are always verified; to trust one of your own, give the path of its CA bundle"
        )
    return (
        None
        if value is None or value is True
        else _existing_path(value, "ca_bundle", "the path of a CA bundle, or True")
    )


def _check_cert(value: object) -> str | tuple[str, str] | None:
    allowed = "the path of a certificate, or a pair of certificate and key"
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise checks.refuse("cert", value, allowed)
        return _existing_path(value[0], "cert", allowed), _existing_path(value[1], "cert", allowed)
    return None if value is None else _existing_path(value, "cert", allowed)


def _check_part(name: str, value: object, plain: type, allowed: str, *, switch: bool = False) -> Any:
    """Return a setting that another part of the library interprets; only plain data of the wrong type is refused here."""
    if isinstance(value, bool) and switch:
        return value
    if isinstance(value, str) and plain is str and value.strip():
        return checks.Hidden(value) if "://" in value else str(value)
    if isinstance(value, plain) and plain is not str:
        return dict(value)  # type: ignore[call-overload]  # a mapping
    if isinstance(value, (str, bytes, int, float, Mapping, list, tuple, set)):
        shown = hide_credentials(value) if isinstance(value, str) else value
        raise checks.refuse(name, shown, allowed)
    return value
