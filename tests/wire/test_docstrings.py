"""The examples in the docstrings of the package do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import groq_provider


def modules_with_examples():
    """Return the names of the modules whose text has an example."""
    root = Path(groq_provider.__file__).parents[1]
    names = [module.name for module in pkgutil.walk_packages(groq_provider.__path__, "groq_provider.")]
    files = {name: root / Path(*name.split(".")) for name in names}
    files = {
        name: path / "__init__.py" if path.is_dir() else path.with_name(path.name + ".py")
        for name, path in files.items()
    }
    return sorted(name for name, file in files.items() if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples_hold(name):
    """Each example prints what stands below it."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0
