"""Callers cannot change the catalogue through the values that it returns."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from groq_provider import (
    ModelInfo,
    ModelLimits,
    ProviderConfig,
    RateLimits,
    RateLimitStatus,
    RateLimitWindow,
    default_catalogue,
)
from groq_provider.types._base import ReadOnly

CHANGES = {
    "set": lambda found: found.__setitem__("x", 1),
    "delete": lambda found: found.__delitem__("free"),
    "update": lambda found: found.update(x=1),
    "merge": lambda found: found.__ior__({"x": 1}),
    "setdefault": lambda found: found.setdefault("x", 1),
    "pop": lambda found: found.pop("free"),
    "popitem": lambda found: found.popitem(),
    "clear": lambda found: found.clear(),
}


def mappings():
    given = {"free": {"deep": [{"deeper": 1}]}}
    model = ModelInfo(id="m", limits={"free": ModelLimits(rpm=1)}, metadata=given, extra=given)
    status = RateLimitStatus(model="m", windows={"free": RateLimitWindow(limit=1, remaining=1, reset=0.0)})
    limits = RateLimits(models={"free": RateLimits(rpm=1)})
    found = {
        "limits": model.limits,
        "metadata": model.metadata,
        "deep": model.metadata["free"],
        "deeper": model.extra["free"]["deep"][0],
        "windows": status.windows,
        "models": limits.models,
    }
    config = ProviderConfig(api_key="gsk_1", headers={"free": "x"}, proxies={"free": "http://127.0.0.1:9"})
    found |= {"headers": config.headers, "proxies": config.proxies}
    for name in ("limits", "metadata", "extra"):
        found[f"default-{name}"] = getattr(ModelInfo(id="m"), name)
        found[f"catalogue-{name}"] = getattr(default_catalogue().get("openai/gpt-oss-20b"), name)
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", mappings())
def test_mappings_cannot_be_changed(name, change):
    """In none of the ways of a dict, and nothing is different after the attempt."""
    found = mappings()[name]
    before = dict(found)
    with pytest.raises(TypeError):
        CHANGES[change](found)
    assert found == before


def test_what_was_given_stays_apart():
    """A change of the caller's own dict does not reach the value."""
    given = {"a": {"b": [1]}}
    model = ModelInfo(id="m", metadata=given)
    given["a"]["b"].append(2)
    given["c"] = 3
    assert model.metadata == {"a": {"b": [1]}}


def test_plan_follows_nobody():
    """The limits of a plan belong to the catalogue: changing a model's copy does not change them."""
    before = RateLimits.of("free")
    with pytest.raises(TypeError):
        default_catalogue().get("openai/gpt-oss-20b").limits["free"] = ModelLimits(rpm=10**6)
    assert RateLimits.of("free") == before


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_read_only_values_travel(again):
    """Copied and pickled they are equal, and read-only again."""
    model = default_catalogue().get("openai/gpt-oss-20b")
    assert again(model) == model
    assert type(again(model).limits) is ReadOnly
    assert json.loads(json.dumps(model.metadata)) == model.metadata
