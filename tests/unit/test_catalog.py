"""The catalogue: the six first models exactly, today's models, what became of the others."""

import pickle
import subprocess
import sys
import threading
from datetime import date

import pytest

from groq_provider import catalog
from groq_provider.catalog import MODEL_MIGRATION, Catalogue, default_catalogue
from groq_provider.config.defaults import DEFAULT_MODEL, FAST_MODEL
from groq_provider.errors import ModelNotFoundError
from groq_provider.types.model_info import ModelCapability, ModelInfo, ModelLimits, ProviderType

ALL = (
    "text_generation",
    "code_generation",
    "code_analysis",
    "planning",
    "debugging",
    "refactoring",
    "testing",
)
TEXT = ALL[:3]
SIX = [
    (
        "llama-3.3-70b-versatile",
        131072,
        32768,
        ALL,
        True,
        "Most capable model on Groq with ultra-fast inference",
        0.05,
        500,
    ),
    ("llama-3.1-70b-versatile", 131072, 8192, ALL, True, "Previous generation with excellent speed", 0.06, 450),
    ("llama-3.1-8b-instant", 131072, 8192, ALL, True, "Extremely fast, ideal for high-volume use", 0.03, 800),
    ("mixtral-8x7b-32768", 32768, 32768, ALL, True, "Mixture of experts with fast inference", 0.07, 400),
    ("gemma2-9b-it", 8192, 8192, TEXT, False, "Google's efficient open model on Groq", 0.04, 600),
    ("gemma-7b-it", 8192, 8192, TEXT, False, "Compact and fast", 0.035, 700),
]
SIX_IDS = [row[0] for row in SIX]
LIVE = [
    ("openai/gpt-oss-120b", 131072, 65536, 500, 0.15, 0.60),
    ("openai/gpt-oss-20b", 131072, 65536, 1000, 0.075, 0.30),
    ("qwen/qwen3.8-27b", 131072, 16384, 450, 0.80, 4.00),
    ("openai/gpt-oss-safeguard-20b", 131072, 65536, 1000, 0.075, 0.30),
    ("meta-llama/llama-prompt-guard-2-22m", 512, 512, None, 0.03, 0.03),
    ("meta-llama/llama-prompt-guard-2-86m", 512, 512, None, 0.04, 0.04),
    ("minimaxai/minimax-m2.7", 196608, 131072, 260, None, None),
    ("allam-2-7b", 4096, 4096, None, None, None),
]


@pytest.fixture
def catalogue():
    return default_catalogue()


@pytest.mark.parametrize(
    ("id", "context", "longest", "capabilities", "tools", "words", "latency", "speed"), SIX, ids=SIX_IDS
)
def test_design_model_has_its_figures(catalogue, id, context, longest, capabilities, tools, words, latency, speed):  # noqa: PLR0917 - one per column
    """Every cell of the table in `docs/design/promises.md` is exact."""
    model = catalogue.get(id)
    assert (model.id, model.name, model.provider) == (id, id, ProviderType.GROQ)
    assert (model.context_size, model.max_tokens) == (context, longest)
    assert model.context_size >= model.max_tokens
    assert model.capabilities == capabilities
    assert (model.supports_tools, model.supports_vision) == (tools, False)
    assert model.description.endswith(words)
    assert model.performance_profile.avg_first_token_latency == latency
    assert model.performance_profile.avg_tokens_per_second == speed


@pytest.mark.parametrize(
    ("id", "shutdown", "live"),
    [
        ("llama-3.3-70b-versatile", date(2026, 8, 16), "openai/gpt-oss-120b"),
        ("llama-3.1-70b-versatile", date(2025, 1, 24), "openai/gpt-oss-120b"),
        ("llama-3.1-8b-instant", date(2026, 8, 16), "openai/gpt-oss-20b"),
        ("mixtral-8x7b-32768", date(2025, 3, 20), "openai/gpt-oss-120b"),
        ("gemma2-9b-it", date(2025, 10, 8), "openai/gpt-oss-20b"),
        ("gemma-7b-it", date(2024, 12, 18), "openai/gpt-oss-20b"),
    ],
)
def test_design_model_marked_shut_down(catalogue, id, shutdown, live):
    """The six are deprecated, with date and the successor that is live."""
    model = catalogue.get(id)
    assert (model.deprecated, model.shutdown_date, model.replacement) == (True, shutdown, live)
    assert catalogue.replacement_for(id) == live


@pytest.mark.parametrize(
    ("id", "family"),
    [
        ("llama-3.3-70b-versatile", "Meta Llama 3.3"),
        ("mixtral-8x7b-32768", "Mixtral"),
        ("gemma2-9b-it", "Google Gemma"),
    ],
)
def test_family_is_in_the_metadata(catalogue, id, family):
    """The families of the six first models are kept."""
    assert catalogue.get(id).metadata["family"] == family


@pytest.mark.parametrize(
    ("id", "service"),
    [
        ("llama-3.1-8b-instant", {"context_size": 131072, "max_tokens": 131072, "tokens_per_second": 560}),
        ("llama-3.3-70b-versatile", {"context_size": 131072, "max_tokens": 32768, "tokens_per_second": 280}),
    ],
)
def test_enterprise_llamas_note_service_figures(catalogue, id, service):
    """Where the service differs from the fixed figures, both stand in the entry."""
    model = catalogue.get(id)
    assert (model.stage, model.metadata["service"], model.supports_parallel_tools) == ("enterprise", service, True)


def test_six_by_speed(catalogue):
    """The order of nominal speed is the documented one."""
    six = Catalogue(catalogue.select(SIX_IDS))
    order = ["llama-3.1-8b-instant", "gemma-7b-it", "gemma2-9b-it"]
    order += ["llama-3.3-70b-versatile", "llama-3.1-70b-versatile", "mixtral-8x7b-32768"]
    assert [model.id for model in six.fastest()] == order


def test_fastest_omits_models_without_figure(catalogue):
    """No published speed, no rank."""
    speeds = [model.performance_profile.avg_tokens_per_second for model in catalogue.fastest()]
    assert speeds == sorted(speeds, reverse=True)
    assert "allam-2-7b" not in [model.id for model in catalogue.fastest()]
    assert catalogue.fastest()[0].performance_profile.avg_tokens_per_second == 1000


def test_six_models_have_seven_capabilities(catalogue):
    """The six configured models have exactly seven capabilities in their union."""
    assert catalogue.capabilities(SIX_IDS) == ALL
    assert Catalogue(catalogue.select(SIX_IDS)).capabilities() == ALL


def test_capabilities_of_all_and_some(catalogue):
    """Reasoning and vision are there where a model has them."""
    assert set(catalogue.capabilities()) == {*ALL, "vision", "reasoning"}
    assert catalogue.capabilities(["gemma-7b-it"]) == TEXT
    assert catalogue.capabilities(["openai/gpt-oss-20b"]) == (*ALL, "reasoning")
    assert catalogue.capabilities([]) == ()


@pytest.mark.parametrize(
    ("id", "context", "longest", "speed", "price_in", "price_out"), LIVE, ids=[row[0] for row in LIVE]
)
def test_live_model_has_published_figures(catalogue, id, context, longest, speed, price_in, price_out):  # noqa: PLR0917 - one per column
    """Context, longest answer, speed and prices of the models page."""
    model = catalogue.get(id)
    assert not model.deprecated
    assert (model.context_size, model.max_tokens) == (context, longest)
    profile = model.performance_profile
    assert (profile.avg_tokens_per_second if profile else None) == speed
    assert (model.pricing.input if model.pricing else None) == price_in
    assert (model.pricing.output if model.pricing else None) == price_out


@pytest.mark.parametrize(
    ("id", "efforts", "modes", "vision", "parallel"),
    [
        (
            "openai/gpt-oss-120b",
            ("low", "medium", "high"),
            ("json_object", "json_schema", "json_schema_strict"),
            False,
            False,
        ),
        (
            "openai/gpt-oss-20b",
            ("low", "medium", "high"),
            ("json_object", "json_schema", "json_schema_strict"),
            False,
            False,
        ),
        ("qwen/qwen3.8-27b", ("none", "default", "low", "medium", "high"), ("json_object",), True, True),
    ],
)
def test_live_model_features(catalogue, id, efforts, modes, vision, parallel):  # noqa: PLR0917 - one per column
    """Reasoning efforts, JSON modes, images and parallel calls."""
    model = catalogue.get(id)
    assert (model.reasoning_efforts, model.json_modes) == (efforts, modes)
    assert (model.supports_vision, model.supports_parallel_tools, model.supports_tools) == (vision, parallel, True)
    assert model.supports_reasoning


def test_audio_model_prices_and_limits(catalogue):
    """Priced by hour or by characters, limited by seconds of audio."""
    whisper = catalogue.get("whisper-large-v3")
    assert (whisper.pricing.audio_hour, whisper.input_modalities) == (0.111, ("audio",))
    assert whisper.limits["free"] == ModelLimits(rpm=20, rpd=2000, ash=7200, asd=28800)
    assert catalogue.get("whisper-large-v3-turbo").limits["developer"] == ModelLimits(rpm=400, ash=400_000)
    orpheus = catalogue.get("canopylabs/orpheus-v1-english")
    assert (orpheus.pricing.million_characters, orpheus.output_modalities) == (22.0, ("speech",))
    assert not whisper.capabilities


@pytest.mark.parametrize(
    ("id", "plan", "limits"),
    [
        ("openai/gpt-oss-120b", "free", ModelLimits(rpm=30, rpd=1000, tpm=8000, tpd=200_000)),
        ("openai/gpt-oss-120b", "developer", ModelLimits(rpm=1000, tpm=250_000)),
        ("openai/gpt-oss-safeguard-20b", "developer", ModelLimits(rpm=1000, tpm=150_000)),
        ("meta-llama/llama-prompt-guard-2-86m", "free", ModelLimits(rpm=30, rpd=14_400, tpm=15_000, tpd=500_000)),
        ("canopylabs/orpheus-arabic-saudi", "developer", ModelLimits(rpm=250, tpm=50_000)),
    ],
)
def test_limits_by_plan(catalogue, id, plan, limits):
    """The tables of the limits page."""
    assert catalogue.get(id).limits[plan] == limits


def test_live_models_come_first(catalogue):
    """File order: what can be used today, then the rest."""
    deprecated = [model.deprecated for model in catalogue.models]
    assert deprecated == sorted(deprecated)
    assert catalogue.models[0].id == DEFAULT_MODEL
    assert FAST_MODEL in catalogue


def test_every_entry_is_consistent(catalogue):
    """Successors are known, dates stand where they must, tools imply more than text for live models."""
    for model in catalogue:
        assert model.deprecated == (model.shutdown_date is not None)
        assert model.replacement is None or model.replacement in catalogue
        assert (
            model.supports_vision
            == ("image" in model.input_modalities)
            == (ModelCapability.VISION in model.capabilities)
        )
        assert model.supports_reasoning == (ModelCapability.REASONING in model.capabilities)
        following = catalogue.replacement_for(model.id)
        assert following is None or not catalogue.get(following).deprecated
        assert bool(following) == (model.deprecated and "compound" not in model.id)


def test_live_model_needs_no_replacement(catalogue):
    """A live or an unknown model has no replacement: there is nothing to replace."""
    assert catalogue.replacement_for(DEFAULT_MODEL) is None
    assert catalogue.replacement_for("no such model") is None


def test_replacement_cycle_ends():
    """Two models that name each other have no live successor."""
    pair = [ModelInfo(id="a", deprecated=True, replacement="b"), ModelInfo(id="b", deprecated=True, replacement="a")]
    assert Catalogue(pair).replacement_for("a") is None


def test_unknown_successor_is_not_recommended():
    """A successor that is not in the catalogue is not recommended."""
    assert Catalogue([ModelInfo(id="a", deprecated=True, replacement="b")]).replacement_for("a") is None


def test_get_names_the_nearest(catalogue):
    """An unknown id raises with its fixed phrase and a hint."""
    with pytest.raises(ModelNotFoundError, match=r"model not found.*did you mean 'llama-3.1-8b-instant'") as caught:
        catalogue.get("llama-3.1-8b-instnat")
    assert caught.value.model == "llama-3.1-8b-instnat"
    assert catalogue.find("llama-3.1-8b-instnat") is None


def test_select_keeps_order_and_unknown(catalogue):
    """Select keeps the order and passes unknown ids: a model of tomorrow gets an entry of its own."""
    models = catalogue.select(["tomorrow/model", "gemma-7b-it"])
    assert [model.id for model in models] == ["tomorrow/model", "gemma-7b-it"]
    assert (models[0].context_size, models[0].deprecated, models[0].capabilities) == (0, False, TEXT)


def test_catalogue_is_immutable(catalogue):
    """Changing a returned value does not change the catalogue."""
    assert isinstance(catalogue.models, tuple)
    with pytest.raises(AttributeError):
        catalogue.other = 1
    with pytest.raises(TypeError):
        catalogue.plans["free"] = None
    assert repr(catalogue) == f"<Catalogue of {len(catalogue)} models>"
    assert len(catalogue) == len(catalogue.models)


def test_first_of_equal_ids_stays():
    """Ids are unique."""
    assert Catalogue([ModelInfo(id="a", name="one"), ModelInfo(id="a", name="two")]).get("a").name == "one"


def test_models_survive_pickling(catalogue):
    """Entries travel to worker processes."""
    assert pickle.loads(pickle.dumps(catalogue.models)) == catalogue.models


OSS = {
    "id": "openai/gpt-oss-120b",
    "object": "model",
    "created": 1754408224,
    "owned_by": "OpenAI",
    "active": True,
    "context_window": 131072,
    "public_apps": None,
    "max_completion_tokens": 65536,
    "name": "GPT OSS 120B",
    "input_modalities": ["text"],
    "output_modalities": ["text"],
    "supported_features": ["tools", "json_mode", "structured_outputs", "reasoning"],
    "pricing": {
        "prompt": "0.00000015",
        "completion": "0.0000006",
        "image": "0",
        "request": "0",
        "input_cache_read": "0.000000075",
    },
}


def test_merged_agrees_with_recorded_answer(catalogue):
    """The service's own entry changes nothing but ``active`` and what this version does not know."""
    merged = catalogue.merged([OSS]).get("openai/gpt-oss-120b")
    known = catalogue.get("openai/gpt-oss-120b")
    assert (merged.active, merged.extra) == (True, {"public_apps": None})
    assert (merged.pricing.input, merged.pricing.output, merged.pricing.cached_input) == (0.15, 0.6, 0.075)
    assert merged.json_modes == known.json_modes
    assert (merged.capabilities, merged.limits, merged.builtin_tools) == (
        known.capabilities,
        known.limits,
        known.builtin_tools,
    )


def test_merged_holds_only_live_models(catalogue):
    """A merged catalogue holds exactly the live models, sorted by id; absent models are left out."""
    merged = catalogue.merged([{"id": "z"}, OSS, {"id": "gemma-7b-it"}])
    assert [model.id for model in merged.models] == ["gemma-7b-it", "openai/gpt-oss-120b", "z"]
    assert merged.plans == catalogue.plans


def test_merged_lets_the_service_win(catalogue):
    """Figures, flags and features of the answer stand over the static ones."""
    entry = {
        **OSS,
        "context_window": 1,
        "max_completion_tokens": 2,
        "active": False,
        "supported_features": ["tools"],
        "new": 1,
    }
    model = catalogue.merged([entry]).get("openai/gpt-oss-120b")
    assert (model.context_size, model.max_tokens, model.active, model.extra["new"]) == (1, 2, False, 1)
    assert (model.supports_reasoning, model.json_modes, model.capabilities) == (False, (), ALL)


def test_merged_knows_unknown_models(catalogue):
    """A new model's entry is made of the answer alone."""
    chat = {"id": "new/chat", "input_modalities": ["text", "image"], "supported_features": ["tools", "reasoning"]}
    speech = {"id": "new/speech", "output_modalities": ["speech"], "supported_features": None}
    merged = catalogue.merged([chat, speech])
    assert merged.get("new/chat").capabilities == (*ALL, "vision", "reasoning")
    assert merged.get("new/chat").supports_vision
    assert merged.get("new/speech").capabilities == ()


def test_merged_enterprise_model_stays_current(catalogue):
    """A merged enterprise model is not deprecated: the account that lists it may use it."""
    merged = catalogue.merged([{"id": "llama-3.3-70b-versatile", "active": True}])
    assert not merged.get("llama-3.3-70b-versatile").deprecated
    assert catalogue.merged([{"id": "llama-3.3-70b-versatile"}]).get("llama-3.3-70b-versatile").deprecated


@pytest.mark.parametrize(
    "entry",
    [
        {"context_window": True, "created": -1, "name": 7, "active": "yes"},
        {"context_window": None, "owned_by": None, "max_completion_tokens": "65536"},
        {"supported_features": "tools", "input_modalities": "text", "output_modalities": [1]},
        {"pricing": None},
        {"pricing": {"prompt": "free", "completion": "NaN", "input_cache_read": 1}},
        {"pricing": {"prompt": "-1", "completion": "1e400"}},
    ],
    ids=["kinds", "nulls", "modalities", "no price", "bad price", "absurd price"],
)
def test_merged_ignores_wrong_value_types(catalogue, entry):
    """An odd value leaves the known one."""
    known = catalogue.get("openai/gpt-oss-120b")
    assert catalogue.merged([{"id": known.id, **entry}]).get(known.id) == known


@pytest.mark.parametrize("entry", [None, "x", 1, [], {}, {"id": None}, {"id": ""}, {"id": 7}], ids=repr)
def test_merged_ignores_entries_without_id(catalogue, entry):
    """They cannot be named in a request."""
    assert len(catalogue.merged([entry])) == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gpt-4", "openai/gpt-oss-120b"),
        ("gpt-4o", "openai/gpt-oss-120b"),
        ("gpt-4o-mini", "openai/gpt-oss-20b"),
        ("gpt-3.5-turbo", "openai/gpt-oss-20b"),
        ("o1", "openai/gpt-oss-120b"),
        ("whisper-1", "whisper-large-v3"),
        ("mixtral-8x7b-32768", "openai/gpt-oss-120b"),
        ("gemma2-9b-it", "openai/gpt-oss-20b"),
        ("llama-3.2-11b-text-preview", "openai/gpt-oss-120b"),
    ],
)
def test_old_names_migrate_to_live(old, new):
    """Old names lead to a model of today."""
    assert MODEL_MIGRATION[old] == new


def test_migration_ends_at_live_models(catalogue):
    """No way ends at a model that was shut down, and none starts at a live one."""
    assert len(MODEL_MIGRATION) == len(list(MODEL_MIGRATION)) > 60
    assert all(not catalogue.get(new).deprecated for new in MODEL_MIGRATION.values())
    assert all(catalogue.find(old) is None or catalogue.get(old).deprecated for old in MODEL_MIGRATION)
    assert "groq/compound" not in MODEL_MIGRATION
    assert "today" in repr(MODEL_MIGRATION)


def test_catalogue_read_once_across_threads(monkeypatch):
    """All threads get the same catalogue."""
    monkeypatch.setattr(catalog, "_CACHE", {})
    reads = []
    load = catalog._load_data
    monkeypatch.setattr(catalog, "_load_data", lambda: reads.append(1) or load())
    barrier = threading.Barrier(8)
    found = []

    def run():
        barrier.wait()
        found.append(default_catalogue())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert len(set(map(id, found))) == 1


def test_import_reads_no_data():
    """Importing opens no data file and no optional package: neither requests nor a configuration parser."""
    code = (
        "import sys; import groq_provider.config, groq_provider.catalog as c; assert not c._CACHE;"
        "bad = {'requests', 'urllib3', 'yaml', 'tomllib', 'tomli', 'idna'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_replacement_is_never_retired(catalogue):
    """Of any catalogue: recommendations are followed until one is live, round circles and past the end, too."""
    assert not any(catalogue.get(model.replacement).deprecated for model in catalogue if model.replacement)
    chain = Catalogue(
        [
            ModelInfo(id="a", deprecated=True, replacement="b"),
            ModelInfo(id="b", deprecated=True, replacement="c"),
            ModelInfo(id="c"),
            ModelInfo(id="round", deprecated=True, replacement="about"),
            ModelInfo(id="about", deprecated=True, replacement="round"),
            ModelInfo(id="last", deprecated=True, replacement="end"),
            ModelInfo(id="end", deprecated=True),
            ModelInfo(id="away", deprecated=True, replacement="elsewhere"),
        ]
    )
    found = {model.id: model.replacement for model in chain}
    assert (found["a"], found["b"], found["round"], found["last"]) == ("c", "c", None, None)
    assert found["away"] == "elsewhere"  # of which nothing is known
