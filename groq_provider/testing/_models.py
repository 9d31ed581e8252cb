"""The models the emulator knows: live, enterprise only, retired. As listed by the service's documentation in October 2026."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Plan = Literal["free", "developer"]


@attrs.frozen(kw_only=True)
class Model:
    """One model: the fields the service publishes, its speed, and the features it supports."""

    id: str
    owned_by: str = "Emulator"
    name: str = ""
    created: int = 1754408224
    context_window: int = 131072
    max_completion_tokens: int = 32768
    tokens_per_second: float = 500.0
    latency: float = 0.04  # seconds to the first token, nominal
    kind: Literal["chat", "guard", "transcription", "speech"] = "chat"
    reasoning: Literal["gpt-oss", "qwen"] | None = None
    tools: bool = True
    json_mode: bool = True
    json_schema: bool = False
    vision: bool = False
    caching: bool = False
    prices: tuple[str, str, str] | None = None  # USD per token: prompt, completion, cached prompt
    free: tuple[tuple[str, int], ...] = ()
    developer: tuple[tuple[str, int], ...] = ()

    def limits(self, plan: Plan | None) -> dict[str, int]:
        """Return the limits of *plan* by dimension (``rpm``, ``rpd``, ``tpm``, ``tpd``); empty without a plan."""
        if plan is None:
            return {}
        return dict(self.free if plan == "free" else self.developer)

    def to_json(self) -> dict[str, Any]:
        """Return the model as ``GET /openai/v1/models`` shows it."""
        features = [
            name
            for name, present in (
                ("tools", self.tools),
                ("json_mode", self.json_mode),
                ("structured_outputs", self.json_schema),
                ("reasoning", self.reasoning is not None),
            )
            if present and self.kind == "chat"
        ]
        inputs = {"chat": ["text"], "guard": ["text"], "transcription": ["audio"], "speech": ["text"]}[self.kind]
        outputs = {"chat": ["text"], "guard": ["text"], "transcription": ["transcription"], "speech": ["speech"]}
        pricing = None
        if self.prices is not None:
            prompt, completion, cached = self.prices
            pricing = {
                "prompt": prompt,
                "completion": completion,
                "image": "0",
                "request": "0",
                "input_cache_read": cached,
            }
        return {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.owned_by,
            "active": True,
            "context_window": self.context_window,
            "public_apps": None,
            "max_completion_tokens": self.max_completion_tokens,
            "name": self.name or self.id,
            "input_modalities": [*inputs, "image"] if self.vision else inputs,
            "output_modalities": outputs[self.kind],
            "supported_features": features or None,
            "pricing": pricing,
        }


def _pairs(**limits: int) -> tuple[tuple[str, int], ...]:
    return tuple(limits.items())


_CHAT_FREE = _pairs(rpm=30, rpd=1000, tpm=8000, tpd=200_000)
_CHAT_DEVELOPER = _pairs(rpm=1000, tpm=250_000)
_GUARD_FREE = _pairs(rpm=30, rpd=14_400, tpm=15_000, tpd=500_000)
_SPEECH_FREE = _pairs(rpm=10, rpd=100, tpm=1200, tpd=3600)

_OSS = Model(
    id="openai/gpt-oss-120b",
    owned_by="OpenAI",
    name="GPT OSS 120B",
    max_completion_tokens=65536,
    latency=0.05,
    reasoning="gpt-oss",
    json_schema=True,
    caching=True,
    prices=("0.00000015", "0.0000006", "0.000000075"),
    free=_CHAT_FREE,
    developer=_CHAT_DEVELOPER,
)
_OSS_20B = attrs.evolve(
    _OSS,
    id="openai/gpt-oss-20b",
    name="GPT OSS 20B",
    tokens_per_second=1000.0,
    latency=0.03,
    prices=("0.000000075", "0.0000003", "0.0000000375"),
)
_GUARD = Model(
    id="meta-llama/llama-prompt-guard-2-22m",
    owned_by="Meta",
    name="Llama Prompt Guard 2 22M",
    context_window=512,
    max_completion_tokens=512,
    kind="guard",
    tools=False,
    json_mode=False,
    prices=("0.00000003", "0.00000003", "0.00000003"),
    free=_GUARD_FREE,
    developer=_pairs(rpm=100, tpm=30_000),
)
_WHISPER = Model(
    id="whisper-large-v3",
    owned_by="OpenAI",
    name="Whisper Large V3",
    context_window=448,
    max_completion_tokens=448,
    kind="transcription",
    free=_pairs(rpm=20, rpd=2000),
    developer=_pairs(rpm=300),
)
_ORPHEUS = Model(
    id="canopylabs/orpheus-v1-english",
    owned_by="Canopy Labs",
    name="Orpheus V1 English",
    context_window=4000,
    max_completion_tokens=50_000,
    kind="speech",
    free=_SPEECH_FREE,
    developer=_pairs(rpm=250, tpm=50_000),
)

LIVE: tuple[Model, ...] = (
    _OSS,
    _OSS_20B,
    attrs.evolve(
        _OSS_20B,
        id="openai/gpt-oss-safeguard-20b",
        name="GPT OSS Safeguard 20B",
        developer=_pairs(rpm=1000, tpm=150_000),
    ),
    Model(
        id="qwen/qwen3.8-27b",
        owned_by="Alibaba Cloud",
        name="Qwen 3.8 27B",
        max_completion_tokens=16384,
        tokens_per_second=450.0,
        reasoning="qwen",
        vision=True,
        prices=("0.0000008", "0.000004", "0.0000008"),
        free=_CHAT_FREE,
        developer=_CHAT_DEVELOPER,
    ),
    _GUARD,
    attrs.evolve(_GUARD, id="meta-llama/llama-prompt-guard-2-86m", name="Llama Prompt Guard 2 86M"),
    Model(id="allam-2-7b", owned_by="SDAIA", context_window=4096, max_completion_tokens=4096, tools=False),
    _WHISPER,
    attrs.evolve(_WHISPER, id="whisper-large-v3-turbo", name="Whisper Large V3 Turbo", developer=_pairs(rpm=400)),
    _ORPHEUS,
    attrs.evolve(_ORPHEUS, id="canopylabs/orpheus-arabic-saudi", name="Orpheus Arabic Saudi"),
)

# Gone for ordinary keys since 2026-08-16 or never there; ``Emulator(models={"llama-3.3-70b-versatile": {}})`` brings one back.
ENTERPRISE: tuple[Model, ...] = (
    Model(
        id="llama-3.1-8b-instant",
        owned_by="Meta",
        name="Llama 3.1 8B Instant",
        max_completion_tokens=131072,
        tokens_per_second=560.0,
        latency=0.03,
        prices=("0.00000005", "0.00000008", "0.00000005"),
        free=_pairs(rpm=30, rpd=14_400, tpm=6000, tpd=500_000),
        developer=_pairs(rpm=1000, tpm=250_000),
    ),
    Model(
        id="llama-3.3-70b-versatile",
        owned_by="Meta",
        name="Llama 3.3 70B Versatile",
        tokens_per_second=280.0,
        prices=("0.00000059", "0.00000079", "0.00000059"),
        free=_pairs(rpm=30, rpd=1000, tpm=12_000, tpd=100_000),
        developer=_pairs(rpm=1000, tpm=300_000),
    ),
    Model(
        id="minimaxai/minimax-m2.7",
        owned_by="MiniMax",
        context_window=196_608,
        max_completion_tokens=131_072,
        tokens_per_second=260.0,
    ),
)

RETIRED: frozenset[str] = frozenset(
    """
    groq/compound groq/compound-mini compound-beta compound-beta-mini qwen/qwen3.6-27b llama-3.1-8b-instant
    llama-3.3-70b-versatile qwen/qwen3-32b meta-llama/llama-4-scout-17b-16e-instruct moonshotai/kimi-k2-instruct-0905
    meta-llama/llama-4-maverick-17b-128e-instruct meta-llama/llama-guard-4-12b playai-tts playai-tts-arabic
    moonshotai/kimi-k2-instruct gemma2-9b-it deepseek-r1-distill-llama-70b llama3-70b-8192 llama3-8b-8192
    distil-whisper-large-v3-en mistral-saba-24b qwen-qwq-32b llama-guard-3-8b deepseek-r1-distill-qwen-32b qwen-2.5-32b
    qwen-2.5-coder-32b llama-3.2-1b-preview llama-3.2-3b-preview llama-3.2-11b-vision-preview
    llama-3.2-90b-vision-preview llama-3.3-70b-specdec mixtral-8x7b-32768 llama-3.1-70b-versatile llama-3.1-70b-specdec
    llama3-groq-70b-8192-tool-use-preview llama3-groq-8b-8192-tool-use-preview gemma-7b-it llama-3.2-90b-text-preview
    llava-v1.5-7b-4096-preview llama-3.2-11b-text-preview
    """.split()  # noqa: SIM905 - a list literal would take forty lines
)


def model_table(extra: Mapping[str, Mapping[str, Any]] | Iterable[str] | None) -> dict[str, Model]:
    """Return the models of one emulator by id: the live ones and *extra*.

    Args:
        extra: Ids to add or bring back, or a mapping from such ids to the fields of ``Model`` that differ.

    Returns:
        A new dictionary, in the order of the list endpoint.

    Raises:
        TypeError: ``Model`` has no such field.
    """
    table = {model.id: model for model in LIVE}
    if extra is None:
        return table
    known = {model.id: model for model in (*LIVE, *ENTERPRISE)}
    changes = extra if hasattr(extra, "items") else {id: {} for id in extra}
    for id, fields in changes.items():
        table[id] = attrs.evolve(known.get(id) or Model(id=id), **fields)
    return table
