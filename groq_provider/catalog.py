"""The catalogue of the service's models: abilities, prices, limits, and replacements of retired ones.

The data is in ``data/models.json`` (state of October 2026) and is loaded on first use. To learn which models your account may use
today, ask ``GET /models``; :meth:`Catalogue.merged` combines its answer with this data.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import attrs

from groq_provider.errors import ModelNotFoundError
from groq_provider.types._base import nearest, shorten
from groq_provider.types.model_info import ModelCapability, ModelInfo, ModelLimits, ModelPricing, PerformanceProfile

__all__ = ["MODEL_MIGRATION", "Catalogue", "default_catalogue"]

_C = ModelCapability
_TEXT = (_C.TEXT_GENERATION, _C.CODE_GENERATION, _C.CODE_ANALYSIS)
_ALL = (*_TEXT, _C.PLANNING, _C.DEBUGGING, _C.REFACTORING, _C.TESTING)
_CAPABILITIES: Mapping[str, tuple[ModelCapability, ...]] = {"all": _ALL, "text": _TEXT, "none": ()}

#: Fields of ``/models`` that become fields of a :class:`ModelInfo`; the others go to ``extra``.
_LIVE_FIELDS = frozenset(
    [
        "id",
        "object",
        "name",
        "created",
        "owned_by",
        "active",
        "context_window",
        "max_completion_tokens",
        "input_modalities",
        "output_modalities",
        "supported_features",
        "pricing",
    ]
)


class Catalogue:
    """An immutable list of models, in order.

    Args:
        models: The models; of several with one id the first is kept.
        plans: The limits of models without published ones, by plan.

    >>> default_catalogue().get("openai/gpt-oss-20b").max_tokens
    65536

    .. versionadded:: 0.1.0
    """

    __slots__ = ("_by_id", "_plans")

    def __init__(self, models: Iterable[ModelInfo], *, plans: Mapping[str, ModelLimits] | None = None) -> None:
        by_id: dict[str, ModelInfo] = {}
        for model in models:
            # Interned, because every call reads this dict: on a free-threaded build, looking up a key that is not interned takes the lock
            # of the dict, and a child forked at that moment would wait for the lock for ever.
            by_id.setdefault(sys.intern(model.id), model)
        self._by_id = by_id
        for id, model in by_id.items():
            # A replacement may have been shut down as well: follow the chain to a live model.
            if model.replacement is not None and (successor := by_id.get(model.replacement)) and successor.deprecated:
                by_id[id] = attrs.evolve(model, replacement=self.replacement_for(successor.id))
        self._plans = dict(plans or {})

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """All models; the default catalogue lists the live ones first, then the retired ones."""
        return tuple(self._by_id.values())

    @property
    def plans(self) -> Mapping[str, ModelLimits]:
        """The most common limits of each plan."""
        return MappingProxyType(self._plans)

    def find(self, id: str) -> ModelInfo | None:
        """Return a model, or ``None``.

        .. versionadded:: 0.1.0
        """
        return self._by_id.get(id)

    def get(self, id: str) -> ModelInfo:
        """Return a model.

        Raises:
            ModelNotFoundError: The model is not in the catalogue; the message suggests a similar id. The service may still offer it.

        .. versionadded:: 0.1.0
        """
        model = self._by_id.get(id)
        if model is None:
            message = f"model not found in the catalogue: {shorten(id)}{nearest(str(id), self._by_id)}"
            raise ModelNotFoundError(message, model=str(id))
        return model

    def select(self, ids: Iterable[str]) -> tuple[ModelInfo, ...]:
        """Return the models of these ids, in this order; an unknown id gets an entry with defaults.

        .. versionadded:: 0.1.0
        """
        return tuple(self._by_id.get(id) or _unknown_model(id) for id in ids)

    def capabilities(self, ids: Iterable[str] | None = None) -> tuple[ModelCapability, ...]:
        """Return the capabilities of these models together (``None``: of all models), in the order of the enumeration.

        .. versionadded:: 0.1.0
        """
        models = self.models if ids is None else self.select(ids)
        present = {capability for model in models for capability in model.capabilities}
        return tuple(capability for capability in ModelCapability if capability in present)

    def fastest(self) -> tuple[ModelInfo, ...]:
        """Return the models with a published speed, the fastest first. The figures are nominal, not measured.

        .. versionadded:: 0.1.0
        """
        return tuple(
            sorted((model for model in self.models if _published_speed(model)), key=_published_speed, reverse=True)
        )

    def replacement_for(self, id: str) -> str | None:
        """Return the live model that you should use instead of a retired one.

        Replacements are followed to a live model: that of ``gemma2-9b-it``, for example, has been shut down itself.

        Returns:
            A model id; ``None`` if the model is live, unknown, or has no successor.

        >>> default_catalogue().replacement_for("gemma2-9b-it")
        'openai/gpt-oss-20b'

        .. versionadded:: 0.1.0
        """
        model = self._by_id.get(id)
        visited = {id}
        while model is not None and model.deprecated:
            successor = model.replacement
            if successor is None or successor in visited:
                return None
            visited.add(successor)
            model = self._by_id.get(successor)
        return model.id if model is not None and model.id != id else None

    def merged(self, live: Iterable[Mapping[str, Any]]) -> Catalogue:
        """Return the models that ``/models`` lists, sorted by id, completed with the data of this catalogue.

        The service's values win. An enterprise-only model that it lists as active is not deprecated for this account. Values of the
        wrong type and entries without an id are ignored.

        Args:
            live: The objects in the answer's ``data``.

        .. versionadded:: 0.1.0
        """
        entries = {
            entry["id"]: entry
            for entry in live
            if isinstance(entry, Mapping) and isinstance(entry.get("id"), str) and entry["id"]
        }
        return Catalogue((_merge(self._by_id.get(id), entries[id]) for id in sorted(entries)), plans=self._plans)

    def __iter__(self) -> Iterator[ModelInfo]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __repr__(self) -> str:
        return f"<Catalogue of {len(self)} models>"


def _published_speed(model: ModelInfo) -> int:
    profile = model.performance_profile
    return (profile.avg_tokens_per_second or 0) if profile else 0


def _unknown_model(id: str) -> ModelInfo:
    """Return an entry for an unknown model, which is assumed to be a text model."""
    return ModelInfo(id=id, capabilities=_TEXT)


# --- /models over the static data ----------------------------------------------------------------------------------------


def _merge(known: ModelInfo | None, entry: Mapping[str, Any]) -> ModelInfo:
    """Return one model of ``/models``, completed with the catalogue's data."""
    base = known or _unknown_model(entry["id"])
    changes: dict[str, Any] = {}
    for key, field, kind in (
        ("name", "name", str),
        ("created", "created", int),
        ("owned_by", "owned_by", str),
        ("active", "active", bool),
        ("context_window", "context_size", int),
        ("max_completion_tokens", "max_tokens", int),
    ):
        value = entry.get(key)
        if type(value) is kind and not (isinstance(value, int) and value < 0):  # ``type``, because True is an int
            changes[field] = value
    for key in ("input_modalities", "output_modalities"):
        if modalities := _text_items(entry.get(key)):
            changes[key] = modalities
    if "input_modalities" in changes:
        changes["supports_vision"] = "image" in changes["input_modalities"]
    if isinstance(entry.get("supported_features"), (list, tuple)):
        changes.update(_features_from(base, _text_items(entry["supported_features"])))
    if isinstance(entry.get("pricing"), Mapping):
        changes["pricing"] = _pricing(base.pricing or ModelPricing(), entry["pricing"])
    if base.stage == "enterprise" and changes.get("active") is True:
        changes["deprecated"] = False
    changes["extra"] = {str(key): value for key, value in entry.items() if key not in _LIVE_FIELDS}
    model = attrs.evolve(base, **changes)
    return attrs.evolve(model, capabilities=_live_capabilities(model, generic=known is None))


def _features_from(base: ModelInfo, features: tuple[str, ...]) -> dict[str, Any]:
    modes = [
        mode
        for mode, feature in (("json_object", "json_mode"), ("json_schema", "structured_outputs"))
        if feature in features
    ]
    if "json_schema" in modes and "json_schema_strict" in base.json_modes:
        modes.append("json_schema_strict")  # /models does not tell the two apart
    return {
        "supports_tools": "tools" in features,
        "supports_reasoning": "reasoning" in features,
        "json_modes": tuple(modes),
    }


def _live_capabilities(model: ModelInfo, *, generic: bool) -> tuple[ModelCapability, ...]:
    capabilities_found = set(model.capabilities)
    if generic:
        text = "text" in model.output_modalities
        capabilities_found = set(_ALL if model.supports_tools else _TEXT) if text else set()
    for capability, present in ((_C.VISION, model.supports_vision), (_C.REASONING, model.supports_reasoning)):
        (capabilities_found.add if present else capabilities_found.discard)(capability)
    return tuple(capability for capability in ModelCapability if capability in capabilities_found)


def _text_items(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, (list, tuple)) else ()


def _pricing(base: ModelPricing, prices: Mapping[str, Any]) -> ModelPricing:
    """Return prices per million tokens from decimal texts per token."""
    changes: dict[str, float] = {}
    for key, field in (("prompt", "input"), ("completion", "output"), ("input_cache_read", "cached_input")):
        try:
            # Decimal: 0.00000015 times a million is 0.15, not 0.15000000000000002.
            price = Decimal(prices[key]) * 1_000_000 if isinstance(prices.get(key), str) else None
        except InvalidOperation:
            continue
        if price is not None and price.is_finite() and 0 <= price < 10**12:
            changes[field] = float(price)
    return attrs.evolve(base, **changes)


# --- the data file -------------------------------------------------------------------------------------------------------

# Held only while the data file is loaded, so a later fork cannot inherit it locked. Reentrant: see _sync.
_LOAD_LOCK = threading.RLock()
_CACHE: dict[str, tuple[Catalogue, Mapping[str, str]]] = {}


def default_catalogue() -> Catalogue:
    """Return the catalogue that comes with this library. The file is read once, whichever thread comes first.

    .. versionadded:: 0.1.0
    """
    return _load_once()[0]


def _load_once() -> tuple[Catalogue, Mapping[str, str]]:
    """Return the catalogue and the map of old model names to new ones."""
    loaded = _CACHE.get("default")
    if loaded is None:
        with _LOAD_LOCK:
            loaded = _CACHE.get("default")
            if loaded is None:
                loaded = _CACHE["default"] = _load_data()
    return loaded


def _load_data() -> tuple[Catalogue, Mapping[str, str]]:
    data = json.loads(files("groq_provider").joinpath("data/models.json").read_text("utf-8"))
    plans = {plan: ModelLimits(**limits) for plan, limits in data["plans"].items()}
    catalogue = Catalogue(map(_read_model, data["models"]), plans=plans)
    retired = {model.id: catalogue.replacement_for(model.id) for model in catalogue if model.deprecated}
    migration = {**data["migration"], **{old: new for old, new in retired.items() if new is not None}}
    return catalogue, migration


def _read_model(data: Mapping[str, Any]) -> ModelInfo:
    """Return one model of the data file, which leaves out default values."""
    efforts = tuple(data.get("reasoning_efforts", ()))
    reasoning = bool(efforts) or data.get("reasoning", False)
    inputs = tuple(data.get("input_modalities", ("text",)))
    vision = "image" in inputs
    added_capabilities = ((_C.VISION,) if vision else ()) + ((_C.REASONING,) if reasoning else ())
    first_token, speed = data.get("first_token_ms"), data.get("tokens_per_second")
    shutdown = data.get("shutdown_date")
    profile = PerformanceProfile(
        avg_first_token_latency=None if first_token is None else first_token / 1000, avg_tokens_per_second=speed
    )
    return ModelInfo(
        id=data["id"],
        name=data.get("name", data["id"]),
        context_size=data["context_size"],
        max_tokens=data["max_tokens"],
        capabilities=_CAPABILITIES[data["capabilities"]] + added_capabilities,
        supports_tools=data.get("tools", False),
        supports_parallel_tools=data.get("parallel_tools"),
        supports_vision=vision,
        supports_reasoning=reasoning,
        reasoning_efforts=efforts,
        json_modes=tuple(data.get("json_modes", ())),
        builtin_tools=tuple(data.get("builtin_tools", ())),
        input_modalities=inputs,
        output_modalities=tuple(data.get("output_modalities", ("text",))),
        description=data.get("description", ""),
        owned_by=data.get("owned_by"),
        created=data.get("created"),
        stage=data["stage"],
        deprecated=shutdown is not None,
        shutdown_date=None if shutdown is None else date.fromisoformat(shutdown),
        replacement=data.get("replacement"),
        performance_profile=None if first_token is None and speed is None else profile,
        pricing=ModelPricing(**data["pricing"]) if "pricing" in data else None,
        limits={plan: ModelLimits(**limits) for plan, limits in data.get("limits", {}).items()},
        metadata={**({"family": data["family"]} if "family" in data else {}), **data.get("metadata", {})},
    )


class _Migration(Mapping[str, str]):
    """A map of old model names to current ones, which loads the data file on first use."""

    def __getitem__(self, name: str) -> str:
        return _load_once()[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(_load_once()[1])

    def __len__(self) -> int:
        return len(_load_once()[1])

    def __repr__(self) -> str:
        return "<MODEL_MIGRATION: old model names to today's>"


#: Models of OpenAI and retired models of Groq, each with the model that you should use on Groq today. The library never applies it.
MODEL_MIGRATION: Mapping[str, str] = _Migration()
