"""Read settings from files, mappings and the environment, as plain mappings; ``ProviderConfig`` interprets them."""

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

__all__ = ["Environment", "UnresolvedKey", "Variable", "expand_variables", "pick_section", "read_file"]

#: A configuration has a few hundred bytes; a file of some megabytes would keep any parser busy for seconds.
_MAX_FILE_BYTES = 1 << 16
#: Dots in one line of TOML: the time of its parsers grows with the cube of the depth of a dotted key.
_MAX_DOTS = 100
_MAX_DEPTH = 32
_MAX_VALUES = 10_000
_VARIABLE_REFERENCE = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}"
_INTEGER = r"[+-]?[0-9]{1,18}"
_DECIMAL = r"[+-]?[0-9]{1,18}\.[0-9]{1,18}"
_FORMATS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".json": "JSON"}

#: Settings that are numbers or booleans, so that the text of an environment variable must be converted.
_TYPED_SETTINGS = frozenset(
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
        return f"${{{self.name}}}"  # the value may be a secret


class Environment:
    """Environment variables. A traceback with local variables does not show their values."""

    __slots__ = ("_variables",)

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str) -> str | None:
        """Return the value of a variable; ``None`` if it is not set."""
        return self._variables.get(name)


class UnresolvedKey:
    """Stands for a key that names an unset or blank variable. It becomes an error unless another source has a key or none is needed."""

    def __init__(self, name: str) -> None:
        self.name = name


# --- files -------------------------------------------------------------------------------------------------------------


def read_file(path: object) -> Mapping[Any, Any]:
    """Return the top-level mapping of a YAML, TOML or JSON file. Error messages contain nothing of the file.

    Raises:
        ConfigurationError: The file is missing, unreadable or invalid, or the package for its format is missing.
    """
    try:
        name = os.fspath(path)  # type: ignore[call-overload]  # this call is the type check
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
    # Raise outside of ``except``: the parsers' errors hold the document, and with it the key.
    data, problem = _read_text(name)
    if not problem:
        data, problem = _parse(data, format)
    if not problem and not isinstance(data, Mapping):
        problem = f"the top level must be a mapping, not {type(data).__name__}"
    if problem:
        del data  # a traceback may show local variables
        raise ConfigurationError(f"{here}: {problem}")
    return data  # type: ignore[no-any-return]  # a mapping


def _read_text(name: str) -> tuple[Any, str]:
    """Return the text of a file and ``""``, or ``None`` and the problem."""
    try:
        status = Path(name).stat()
        if stat.S_ISDIR(status.st_mode):
            return None, "is a directory"
        if not stat.S_ISREG(status.st_mode):
            return None, "is not a regular file"
        with Path(name).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None, "does not exist"
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    except ValueError:  # NUL or a lone surrogate
        return None, "is not a valid path"
    if len(content) > _MAX_FILE_BYTES:
        return None, f"is larger than {_MAX_FILE_BYTES} bytes"
    try:
        return content.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return None, f"is not UTF-8 (line {line})"


def _parse(text: str, format: str) -> tuple[Any, str]:
    """Return the data of a text and ``""``, or ``None`` and the problem with its position."""
    loads: Any
    if format == "YAML":
        loads = _load_yaml()
    elif format == "TOML":
        loads = _load_toml()
        if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
            return None, f"is not valid TOML here: a line holds more than {_MAX_DOTS} dots"
    else:
        loads = json.loads
    try:
        return loads(text), ""
    except RecursionError:
        return None, f"is not valid {format}: nested too deeply"
    except Exception as error:  # noqa: BLE001 - each of the three parsers has its own errors, and PyYAML also raises ValueError
        return None, f"is not valid {format}{_parser_position(error)}"


def _parser_position(error: Exception) -> str:
    """Return the position of a parser's error."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return f": line {mark.line + 1}, column {mark.column + 1}"
    if isinstance(error, json.JSONDecodeError):
        return f": line {error.lineno}, column {error.colno}"
    match = re.search(r"\(at (line \d+, column \d+|end of document)\)$", str(error))  # tomllib
    return f": {match[1]}" if match else ""


def _load_yaml() -> Any:
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]  # its stubs are a package of their own
    except ImportError:
        raise ConfigurationError('reading YAML needs the package PyYAML: pip install "groq-provider[yaml]"') from None
    return yaml.safe_load


def _load_toml() -> Any:
    for name in ("tomllib", "tomli"):  # in the standard library from Python 3.11
        try:
            return importlib.import_module(name).loads
        except ImportError:
            continue
    raise ConfigurationError('reading TOML on Python 3.10 needs the package tomli: pip install "groq-provider[toml]"')


# --- mappings ----------------------------------------------------------------------------------------------------------


def pick_section(tree: Mapping[Any, Any], section: str, known: tuple[str, ...]) -> tuple[Mapping[Any, Any], str]:
    """Return the settings of one provider out of a configuration tree, and the problem with the tree (or ``""``).

    The caller must raise the error: a traceback from here would show the tree, and with it the key.

    Args:
        tree: The settings themselves, ``{section: …}``, ``{"providers": {section: …}}`` or
            ``{"llm": {"providers": {section: …}}}``.
        section: The name of the provider in the tree.
        known: The names of settings. A setting next to ``{section: …}`` is an error, because it would be ignored.
    """
    path: list[str] = []
    if "llm" in tree:
        path = ["llm", "providers", section]
    elif "providers" in tree:
        path = ["providers", section]
    elif section in tree:
        path = [section]
        if misplaced := [str(key) for key in tree if key in known]:
            return {}, f"{', '.join(misplaced)} is next to {section!r}: move it into {section!r}"
    level: Any = tree
    for depth, key in enumerate(path):
        if key not in level:
            present = ", ".join(shown(name) for name in list(level)[:20]) or "nothing"
            return {}, f"no {'.'.join(path[: depth + 1])}; found {present}"
        level = level[key]
        if not isinstance(level, Mapping):
            return {}, f"{'.'.join(path[: depth + 1])} must be a mapping, not {type(level).__name__}"
    return level, ""


def expand_variables(settings: Mapping[Any, Any], environ: Environment) -> dict[Any, Any]:
    """Return a copy in which each text that is a reference ``${NAME}`` is replaced by the environment variable.

    A missing variable is an error; defaults would hide it, so there are none, and there are no references inside a longer text. For
    ``api_key`` a missing variable gives :class:`UnresolvedKey` instead, since a key by keyword may override it.
    """
    count = 0

    def expand_item(item: Any, name: object, depth: int) -> Any:
        nonlocal count
        count += 1
        # With YAML's aliases a kilobyte can expand to a billion values, or contain itself.
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise ConfigurationError("configuration: nested too deeply or too large")
        if isinstance(item, Mapping):
            return {key: expand_item(inner, key, depth + 1) for key, inner in item.items()}
        if type(item) in (list, tuple):
            return [expand_item(inner, name, depth + 1) for inner in item]
        return _resolve_reference(item, name, environ) if isinstance(item, str) else item

    return {key: expand_item(item, key, 0) for key, item in settings.items()}


def _resolve_reference(text: str, setting: object, environ: Environment) -> object:
    """Return the value of a reference, or the text if it is none."""
    match = re.fullmatch(_VARIABLE_REFERENCE, text.strip())
    if match is None:
        partial = "${" in text if setting == "api_key" else text.startswith("${") and text.endswith("}")
        if partial:
            raise ConfigurationError(
                f"{shown(setting)}: a reference is the whole value, ${{NAME}}; defaults and parts of a text are not supported"
            )
        return text
    name = match[1]
    content = environ.get(name)
    if setting == "api_key" and not (content or "").strip():
        return UnresolvedKey(name)
    if content is None:
        raise ConfigurationError(f"{shown(setting)}: the environment variable {name} is not set")
    variable = Variable(content)
    variable.name = name
    return _parse_scalar(variable) if setting in _TYPED_SETTINGS else variable


def _parse_scalar(variable: Variable) -> object:
    """Return the number or boolean in a variable; the variable itself if it holds none."""
    text = variable.strip().lower()
    if text in {"true", "false"}:
        return text == "true"
    if re.fullmatch(_INTEGER, text):
        return int(text)
    return float(text) if re.fullmatch(_DECIMAL, text) else variable
