"""Models: their abilities, limits and prices."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import date
from typing import Any

import attrs

from groq_provider.config.defaults import ProviderType
from groq_provider.types._base import freeze_mapping, mapping, number, text

__all__ = ["ModelCapability", "ModelInfo", "ModelLimits", "ModelPricing", "PerformanceProfile"]


class ModelCapability(str, enum.Enum):
    """A kind of work that a model is good at.

    .. versionadded:: 0.1.0
    """

    TEXT_GENERATION = "text_generation"
    CODE_GENERATION = "code_generation"
    CODE_ANALYSIS = "code_analysis"
    PLANNING = "planning"
    DEBUGGING = "debugging"
    REFACTORING = "refactoring"
    TESTING = "testing"
    VISION = "vision"
    REASONING = "reasoning"
    ANALYSIS = "analysis"
    WRITING = "writing"
    DOCUMENTATION = "documentation"

    __str__ = str.__str__


@attrs.frozen(kw_only=True)
class PerformanceProfile:
    """Nominal speed as the service publishes it, not a measurement.

    Attributes:
        avg_first_token_latency: Seconds; ``None`` where not published.
        avg_tokens_per_second: Generation speed.

    .. versionadded:: 0.1.0
    """

    avg_first_token_latency: float | None = None
    avg_tokens_per_second: int | None = None


@attrs.frozen(kw_only=True)
class ModelPricing:
    """List prices in US dollars per million tokens (audio: see the unit fields).

    .. versionadded:: 0.1.0
    """

    input: float | None = None
    output: float | None = None
    cached_input: float | None = None
    audio_hour: float | None = None
    million_characters: float | None = None


@attrs.frozen(kw_only=True)
class ModelLimits:
    """Limits of a plan for one model; ``None``: not limited or not published.

    Attributes:
        rpm: Requests per minute.
        rpd: Requests per day.
        tpm: Tokens per minute.
        tpd: Tokens per day.
        ash: Seconds of audio per hour.
        asd: Seconds of audio per day.

    .. versionadded:: 0.1.0
    """

    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tpd: int | None = None
    ash: int | None = None
    asd: int | None = None


@attrs.frozen(kw_only=True)
class ModelInfo:
    """A model of the catalogue. Its mappings are deeply read-only.

    Attributes:
        id: The id to use in requests.
        name: The name to show to people.
        provider: The type of provider that offers the model.
        context_size: Tokens of prompt and completion together; 0 where unknown.
        max_tokens: Longest completion in tokens; 0 where unknown.
        capabilities: The kinds of work that it is good at.
        supports_tools: Function calling.
        supports_parallel_tools: Several calls in one answer; ``None`` where unknown.
        supports_vision: Images in messages.
        supports_reasoning: Reasoning before the answer.
        reasoning_efforts: Accepted values of ``reasoning_effort``.
        json_modes: Subset of ``json_object``, ``json_schema``, ``json_schema_strict``.
        builtin_tools: Tools the service runs for it.
        input_modalities: ``text``, ``image``, ``audio``.
        output_modalities: ``text``, ``audio``.
        description: One line.
        owned_by: The maker of the model.
        created: When the service added it, in Unix seconds.
        stage: ``production``, ``preview``, ``enterprise`` or ``retired``.
        active: The value in ``/models``; ``None`` until the service has been asked.
        deprecated: Whether the model has been or will be shut down.
        shutdown_date: The date of the shutdown.
        replacement: The model that you should use instead.
        performance_profile: Nominal speed.
        pricing: List prices.
        limits: By plan: ``free``, ``developer``.
        metadata: ``family`` and other known facts.
        extra: Fields of ``/models`` that this version does not know.

    .. versionadded:: 0.1.0
    """

    id: str = attrs.field(validator=text(optional=False, empty=False))
    name: str = attrs.field(
        default=attrs.Factory(lambda self: self.id, takes_self=True), validator=text(optional=False)
    )
    provider: ProviderType = ProviderType.GROQ
    context_size: int = attrs.field(default=0, validator=number(0, integer=True, optional=False))
    max_tokens: int = attrs.field(default=0, validator=number(0, integer=True, optional=False))
    capabilities: tuple[ModelCapability, ...] = ()
    supports_tools: bool = False
    supports_parallel_tools: bool | None = None
    supports_vision: bool = False
    supports_reasoning: bool = False
    reasoning_efforts: tuple[str, ...] = ()
    json_modes: tuple[str, ...] = ()
    builtin_tools: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    description: str = ""
    owned_by: str | None = None
    created: int | None = None
    stage: str | None = None
    active: bool | None = None
    deprecated: bool = False
    shutdown_date: date | None = None
    replacement: str | None = None
    performance_profile: PerformanceProfile | None = None
    pricing: ModelPricing | None = None
    limits: Mapping[str, ModelLimits] = attrs.field(
        factory=dict, converter=freeze_mapping, validator=mapping(optional=False)
    )
    metadata: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze_mapping, validator=mapping(optional=False))
    extra: Mapping[str, Any] = attrs.field(factory=dict, converter=freeze_mapping, repr=False)
