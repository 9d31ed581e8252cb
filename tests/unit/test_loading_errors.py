"""What a caller sees when a module of the package cannot be loaded."""

from __future__ import annotations

import importlib

import pytest

import groq_provider


def test_cause_of_loading_error_stays(monkeypatch):
    """Where something has replaced parts of the standard library, the error says what is missing, not that there is no such name."""

    def load(name, package=None):
        raise AttributeError("type object 'GreenSocket' has no attribute 'shutdown'")

    monkeypatch.delitem(vars(groq_provider), "GroqProvider", raising=False)
    monkeypatch.setattr(importlib, "import_module", load)
    with pytest.raises(ImportError, match="provider cannot be loaded: type object 'GreenSocket'") as caught:
        from groq_provider import GroqProvider  # noqa: F401 - never there
    assert isinstance(caught.value.__cause__, AttributeError)
