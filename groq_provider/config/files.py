"""Settings from files, mappings and the environment, as plain mappings. What they mean is the business of ``config``."""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from groq_provider._validate import shown
from groq_provider.errors import ConfigurationError

__all__ = ["Environment", "UnresolvedKey", "Variable", "expand", "pick", "read_file"]

#: A configuration of this kind has a few hundred bytes, and every parser takes seconds for some megabyte.
_LARGEST_FILE_BYTES = 1 << 16
#: Dots in one line of TOML: its parsers take a time that grows with the cube of a dotted key's depth.
_MOST_DOTS = 100
_DEEPEST = 32
_MOST_VALUES = 10_000
_REFERENCE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
_INTEGER = r"[+-]?[0-9]{1,18}"
_DECIMAL = r"[+-]?[0-9]{1,18}\.[0-9]{1,18}"
_FORMATS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".json": "JSON"}

#: Settings that are numbers or truth values: variables of the environment are texts and are read as such there.
_NOT_TEXT = frozenset(
    [
        "enabled",
        "track_latency",
        "latency_samples",
        "allow_insecure",
        "max_connections",
        "prewarm",
        "http2",
        "require_finish_reason",
        "trim_max_tokens",
        "circuit_breaker",
        "max_retries",
        "base_delay",
        "throttle_delay",
        "max_delay",
        "hint_cap",
        "patience",
        "rpm",
        "rpd",
        "tpm",
        "tpd",
        "itpm",
        "otpm",
        "share",
        "rate_limit_rpm",
        "rate_limit_rpd",
        "rate_limit_tpm",
        "rate_limit_tpd",
        "rate_limit_itpm",
        "rate_limit_otpm",
    ]
)


class Variable(str):
    """A value that came from the environment; ``name`` is its variable."""

    __slots__ = ("name",)
    name: str

    def __repr__(self) -> str:
        return f"${{{self.name}}}"  # whatever it holds may be a secret


class Environment:
    """Environment variables that do not show themselves: tracebacks may print local variables."""

    __slots__ = ("_variables",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str) -> str | None:
        """Return the value of a variable, ``None`` if it is not set."""
        return self._variables.get(name)


class UnresolvedKey:
    """Stands for a key whose variable is not set or blank. An error, unless another source gives a key or none is needed."""

    def __init__(self, name: str) -> None:
        self.name = name


# --- files -------------------------------------------------------------------------------------------------------------


def read_file(path: object) -> Mapping[Any, Any]:
    """Return the top-level mapping of a YAML, TOML or JSON file. No message holds any of its content.

    Raises:
        ConfigurationError: Not there, not readable, not of that format, or a package for it is missing.
    """
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # whatever the caller passed: that is the check
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise ConfigurationError(
            f"config must be a ProviderConfig, a mapping or the path of a file, not {type(path).__name__}"
        )
    here = f"configuration file {shown(name)}"
    format = _FORMATS.get(PurePath(name).suffix.lower())
    if format is None:
        raise ConfigurationError(f"{here}: the name must end in {', '.join(_FORMATS)}")
    # Errors are raised outside of `except`: the original ones hold the document, and with it the key.
    data, problem = _read(name)
    if not problem:
        data, problem = _parse(data, format)
    if not problem and not isinstance(data, Mapping):
        problem = f"the top level must be a mapping, not {type(data).__name__}"
    if problem:
        del data  # a traceback may show local variables
        raise ConfigurationError(f"{here}: {problem}")
    return data  # type: ignore[no-any-return]  # a mapping


def _read(name: str) -> tuple[Any, str]:
    """Return the text of a file, or what is wrong with it."""
    try:
        status = Path(name).stat()
        if stat.S_ISDIR(status.st_mode):
            return None, "is a directory"
        if not stat.S_ISREG(status.st_mode):
            return None, "is no regular file"
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        return None, "does not exist"
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except ValueError:  # NUL or a lone surrogate
        return None, "is no valid path"
    if len(content) > _LARGEST_FILE_BYTES:
        return None, f"is larger than {_LARGEST_FILE_BYTES} bytes"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, f"is not UTF-8 (line {line})"


def _parse(text: str, format: str) -> tuple[Any, str]:
    """Return the data of a text, or what is wrong with it: the place only."""
    loads: Any
    if format == "YAML":
        loads = _yaml()
    elif format == "TOML":
        loads = _toml()
        if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            return None, f"is not valid TOML here: a line holds more than {_MOST_DOTS} dots"
    else:
        loads = json.loads
    try:
        return loads(text), ""
    except RecursionError:
        return None, f"is not valid {format}: nested too deeply"
    except Exception as error:  # noqa: BLE001 - three parsers with their own errors, PyYAML also lets ValueErrors through
        return None, f"is not valid {format}{_place(error)}"


def _place(error: Exception) -> str:
    """Return where a parser stopped."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return f": line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f": line {error.lineno}, column {error.colno}"
    found = re.search(r"\(at (line \d+, column \d+|end of document)\)$", str(error))  # tomllib
    return f": {found[1]}" if found else ""


def _yaml() -> Any:
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]  # its stubs are a package of their own
    except ImportError:
        raise ConfigurationError('reading YAML needs the package PyYAML: pip install "groq-provider[yaml]"') from None
    return yaml.safe_load


def _toml() -> Any:
    for name in ("tomllib", "tomli"):  # in the standard library from Python 3.11
        try:
            return importlib.import_module(name).loads
        except ImportError:
            continue
    raise ConfigurationError('reading TOML on Python 3.10 needs the package tomli: pip install "groq-provider[toml]"')


# --- mappings ----------------------------------------------------------------------------------------------------------


def pick(tree: Mapping[Any, Any], section: str, known: tuple[str, ...]) -> tuple[Mapping[Any, Any], str]:
    """Return the settings of one provider out of a leaf or a whole configuration tree, and what is wrong with the tree.

    It raises nothing: the tree, and the key in it, would be among the local variables of the traceback.

    Args:
        tree: The settings themselves, ``{section: …}``, ``{"providers": {section: …}}`` or
            ``{"llm": {"providers": {section: …}}}``.
        section: Name of the provider in the tree.
        known: Names of settings; beside ``{section: …}`` they would be lost.
    """
    path: list[str] = []
    if "llm" in tree:
        path = ["llm", "providers", section]
    elif "providers" in tree:
        path = ["providers", section]
    elif section in tree:
        path = [section]
        if beside := [str(key) for key in tree if key in known]:
            return {}, f"{', '.join(beside)} stands beside {section!r}: put it into {section!r}"
    level: Any = tree
    for depth, key in enumerate(path):
        if key not in level:
            found = ", ".join(shown(name) for name in list(level)[:20]) or "nothing"
            return {}, f"no {'.'.join(path[: depth + 1])}; found {found}"
        level = level[key]
        if not isinstance(level, Mapping):
            return {}, f"{'.'.join(path[: depth + 1])} must be a mapping, not {type(level).__name__}"
    return level, ""


def expand(settings: Mapping[Any, Any], environ: Environment) -> dict[Any, Any]:
    """Return a copy in which each whole-value ``${NAME}`` is replaced by that variable.

    Neither defaults nor parts of texts nor recursion: a missing variable is an error, so that no default hides it. That of
    ``api_key`` becomes :class:`UnresolvedKey`, as a key by keyword may win over it.
    """
    count = 0

    def walk(item: Any, name: object, depth: int) -> Any:
        nonlocal count
        count += 1
        # A YAML file of a kilobyte can stand for a billion values, or contain itself.
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise ConfigurationError("configuration: nested too deeply or too large")
        if isinstance(item, Mapping):
            return {key: walk(inner, key, depth + 1) for key, inner in item.items()}
        if type(item) in (list, tuple):
            return [walk(inner, name, depth + 1) for inner in item]
        return _value(item, name, environ) if isinstance(item, str) else item

    return {key: walk(item, key, 0) for key, item in settings.items()}


def _value(text: str, setting: object, environ: Environment) -> object:
    """Return a text, or what its reference stands for."""
    match = re.fullmatch(_REFERENCE, text.strip())
    if match is None:
        partial = "${" in text if setting == "api_key" else text.startswith("${") and text.endswith("}")
        if partial:
            raise ConfigurationError(
                f"{shown(setting)}: a reference is the whole value, ${{NAME}}; defaults and parts of a text are not supported"
            )
        return text
    name = match[1]
    found = environ.get(name)
    if setting == "api_key" and not (found or "").strip():
        return UnresolvedKey(name)
    if found is None:
        raise ConfigurationError(f"{shown(setting)}: the environment variable {name} is not set")
    variable = Variable(found)
    variable.name = name
    return _scalar(variable) if setting in _NOT_TEXT else variable


def _scalar(variable: Variable) -> object:
    """Return the number or truth value a variable stands for, else the variable."""
    text = variable.strip().lower()
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(_INTEGER, text):
        return int(text)
    return float(text) if re.fullmatch(_DECIMAL, text) else variable
