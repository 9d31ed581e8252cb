"""The suite keeps its own rules: names, docstrings, and where helpers live."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
MODULES = sorted(TESTS.glob("*/test_*.py"))
#: Words of a name, after ``test_``.
FEWEST, MOST = 3, 5


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imported_by(tree):
    """Yield the names of the modules that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_module_follows_the_rules(file):
    """Names have three to five words, each test says in a sentence what holds, and no test module imports another."""
    tree = parsed(file)
    assert ast.get_docstring(tree)
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [node.name for node in tests if not FEWEST <= node.name.count("_") <= MOST] == []
    assert [node.name for node in tests if not ast.get_docstring(node)] == []
    stems = {module.stem for module in MODULES}
    assert [name for name in imported_by(tree) if name.rpartition(".")[2] in stems] == []


def test_every_test_has_its_folder():
    """A module in no folder of its kind would run under no rule."""
    kinds = {"unit", "wire", "process", "http2"}
    assert {file.parent.name for file in TESTS.rglob("test_*.py")} == kinds
