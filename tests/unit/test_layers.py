"""The structure: who may import whom, what is public, what importing costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import groq_provider

ROOT = Path(groq_provider.__file__).parent
PACKAGE = "groq_provider"

# A module imports from its own layer or a lower one. Folders stand for all of their modules.
LAYERS = {
    0: ["errors", "_version", "_sync"],
    1: ["types", "protocols", "config", "_validate", "catalog", "clock", "cancel"],
    2: ["wire"],
    3: ["transport", "ratelimit", "latency"],
    4: ["call"],
    5: ["resources", "health", "bulk", "completions", "fallback"],
    6: ["provider"],
    7: ["cli", "testing", "", "__main__"],
}
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}


def modules() -> list[str]:
    """Every module of the package, relative to it; the package itself is ``""``."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def layer(module: str) -> int:
    """The layer of a module."""
    return LAYER_OF[module.split(".", 1)[0]]


def source(module: str) -> tuple[Path, bool]:
    """The file of a module, and whether it is a package."""
    folder = ROOT.joinpath(*module.split(".")) if module else ROOT
    return (folder / "__init__.py", True) if folder.is_dir() else (folder.with_suffix(".py"), False)


class Imports(ast.NodeVisitor):
    """Collects what a module imports of this package, but for TYPE_CHECKING blocks."""

    def __init__(self, module: str, *, is_package: bool) -> None:
        self.parents = [PACKAGE, *module.split(".")] if module else [PACKAGE]
        if not is_package:
            self.parents = self.parents[:-1]
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found.update(alias.name for alias in node.names if alias.name.split(".", 1)[0] == PACKAGE)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = ".".join(self.parents[: len(self.parents) - node.level + 1]) if node.level else ""
        origin = ".".join(part for part in (base, node.module or "") if part)
        if origin.split(".")[0] != PACKAGE:
            return
        for alias in node.names:
            whole = f"{origin}.{alias.name}"
            relative = whole.removeprefix(PACKAGE).lstrip(".")
            path, _ = source(relative)
            self.found.add(whole if path.exists() else origin)


def imported(module: str) -> set[str]:
    """The modules of this package that a module imports, relative to it."""
    path, is_package = source(module)
    visitor = Imports(module, is_package=is_package)
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name.removeprefix(PACKAGE).lstrip(".") for name in visitor.found}


@pytest.mark.parametrize("module", modules())
def test_imports_stay_in_layers(module):
    """The picture of the architecture holds; a new module has a place in it."""
    above = {name for name in imported(module) if layer(name) > layer(module)}
    assert not above


def strong_components(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reached(start: str) -> set[str]:
        found, pending = set(), [start]
        while pending:
            for name in edges.get(pending.pop(), ()):
                if name not in found:
                    found.add(name)
                    pending.append(name)
        return found

    reach = {name: reached(name) for name in edges}
    groups = {
        frozenset({other for other in reach[name] if name in reach[other]}) for name in edges if name in reach[name]
    }
    return [set(group) for group in groups]


def all_imports(module: str) -> set[str]:
    """What a module imports of this package, ``TYPE_CHECKING`` blocks counted."""
    path, is_package = source(module)
    visitor = Imports(module, is_package=is_package)
    visitor.visit_If = visitor.generic_visit
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return {name.removeprefix(PACKAGE).lstrip(".") for name in visitor.found} - {module}


def test_no_circles_of_imports():
    """No two modules lead to each other, types counted; but errors carry values of types, which raise errors."""
    edges = {module: all_imports(module) for module in modules() if module}
    edges["errors"] = {name for name in edges["errors"] if not name.startswith("types.")}
    assert strong_components(edges) == []
    assert strong_components({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_import_reader_sees_something():
    """The reader of imports sees what is there, so that the check above looks at something."""
    assert "wire.codec" in imported("call.call")
    assert "errors" in imported("call.call")
    assert "protocols" not in imported("call.call")  # for type checkers only


def test_the_wire_layer_is_pure():
    """No socket, no thread, no clock, no HTTP library."""
    for module in modules():
        if module.startswith("wire"):
            tree = ast.parse(source(module)[0].read_text(encoding="utf-8"))
            names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            names |= {
                (n.module or "").split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level
            }
            assert not names & {"socket", "threading", "time", "requests", "urllib3", "ssl", "select", "http"}, module


def test_outer_layer_uses_public_face():
    """The emulator and the command line use only the public face: layer 7 shares no code with the library."""
    for module in modules():
        if module.split(".")[0] == "testing":
            outside = {name for name in imported(module) if name.split(".")[0] != "testing"}
            assert outside <= {""}, module
        if module.split(".")[0] == "cli":
            outside = {name for name in imported(module) if name.split(".")[0] not in ("cli", "testing")}
            assert outside <= {""}, module


def test_names_agree_in_three_lists():
    """``__all__``, the table of homes and the imports for type checkers name the same things."""
    names = groq_provider.__all__  # ruff holds its order
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(groq_provider, name) is not None
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {
        alias.name: str(node.module).removeprefix(f"{PACKAGE}.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == groq_provider._HOME_OF
    assert {*typed, "__version__"} == set(names)


def test_public_names_say_since():
    """Public classes and functions carry ``versionadded``."""
    for name in groq_provider.__all__:
        found = getattr(groq_provider, name)
        if isinstance(found, type) and found.__module__.startswith(PACKAGE) and not issubclass(found, BaseException):
            assert "versionadded" in (found.__doc__ or ""), name


def test_errors_modules_are_exported():
    """Whoever catches an error can import it."""
    errors = importlib.import_module("groq_provider.errors")
    assert set(errors.__all__) <= set(groq_provider.__all__)


def test_unknown_name_is_attribute_error():
    """The lazy package behaves like any other."""
    with pytest.raises(AttributeError, match="no attribute 'Grok'"):
        _ = groq_provider.Grok
    assert "GroqProvider" in dir(groq_provider)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import groq_provider", ["requests", "urllib3", "attrs", "cattrs", "ssl"]),
        (
            "from groq_provider import LLMRequest, Message, ConfigurationError",
            ["requests", "urllib3", "cattrs", "socket"],
        ),
        (
            "from groq_provider import GroqProvider; GroqProvider(api_key='k').close()",
            ["cattrs", "rich", "yaml", "pytest"],
        ),
    ],
    ids=["package", "values", "provider"],
)
def test_import_loads_only_needed(statement, absent):
    """Heavy parts load when they are needed; nothing starts a thread."""
    program = (
        f"import sys; {statement}; import threading; assert threading.active_count() == 1; "
        f"found = [name for name in {absent!r} if name in sys.modules]; sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_version_is_in_one_place():
    """The package, its metadata and the changelog agree."""
    from importlib.metadata import version

    assert version("groq-provider") == groq_provider.__version__
