"""Build value classes strictly: construction from mappings, validators, read-only containers, masked representations."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import attrgetter, is_not
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs

from groq_provider.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_KEY_PATTERN = r"gsk_\w+"


class ReadOnly(dict[Any, Any]):
    """A mapping inside a frozen value. You can read, compare, pickle and serialise it like a dict, but not change it."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_more: object) -> NoReturn:
        raise TypeError("this mapping is read-only; make a dict of it to change it")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> ReadOnly:
        return self

    def __reduce__(self) -> tuple[type[ReadOnly], tuple[dict[Any, Any]]]:
        return type(self), (dict(self),)


class ReadOnlyList(list[Any]):
    """A list inside a read-only mapping. It compares and serialises like a list, but you cannot change it."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_more: object) -> NoReturn:
        raise TypeError("this list is read-only; make a list of it to change it")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> ReadOnlyList:
        return self

    def __reduce__(self) -> tuple[type[ReadOnlyList], tuple[list[Any]]]:
        return ReadOnlyList, (list(self),)


#: The default of mapping fields; one object serves all instances, since it cannot be changed.
EMPTY = ReadOnly()


def freeze_mapping(value: Any) -> Any:
    """Return a deeply read-only copy of a mapping. Anything else is returned unchanged, for a validator to refuse.

    Raises:
        InvalidRequestError: The mapping is nested too deep, or contains itself.
    """
    try:
        return _freeze_nested(value) if isinstance(value, Mapping) else value
    except RecursionError:
        raise InvalidRequestError("a mapping is nested too deep") from None


def _freeze_nested(value: Any) -> Any:
    if type(value) is ReadOnly:
        return value
    if isinstance(value, Mapping):
        return ReadOnly({key: _freeze_nested(item) for key, item in value.items()})
    if isinstance(value, list):
        return ReadOnlyList([_freeze_nested(item) for item in value])
    return tuple([_freeze_nested(item) for item in value]) if type(value) is tuple else value


def keep_read_only(value: Any) -> Any:
    """Convert a mapping field of an answer; nearly all are read-only already."""
    if type(value) is ReadOnly or value is None:
        return value
    return freeze_json(value) if type(value) is dict else freeze_mapping(value)


def freeze_json(decoded: Any, checkpoint: Callable[[], object] = int) -> Any:
    """Return a deeply read-only copy of decoded JSON.

    The server chooses depth and size, so this neither recurses nor runs long without a checkpoint.

    Args:
        decoded: The output of :mod:`json`.
        checkpoint: Called every few milliseconds of work; it may raise.
    """
    if type(decoded) not in _CONTAINER_COPIES:
        return decoded
    root = _CONTAINER_COPIES[type(decoded)](decoded)
    pending = [root]
    steps = 0
    while pending:
        place = pending.pop()
        if type(place) is ReadOnly:
            for key, item in place.items():
                if type(item) in _CONTAINER_COPIES:
                    copy = _CONTAINER_COPIES[type(item)](item)
                    dict.__setitem__(place, key, copy)
                    pending.append(copy)
        else:
            for index, item in enumerate(place):
                if type(item) in _CONTAINER_COPIES:
                    copy = _CONTAINER_COPIES[type(item)](item)
                    list.__setitem__(place, index, copy)
                    pending.append(copy)
        steps += 1
        if not steps % 4096:
            checkpoint()
    return root


_CONTAINER_COPIES: dict[type, Callable[[Any], Any]] = {dict: ReadOnly, list: ReadOnlyList}


def freeze_field(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Replace a mapping field by its read-only copy. Validators call this: a converter would run for every default as well."""
    if type(value) is not ReadOnly:
        object.__setattr__(instance, attribute.name, freeze_mapping(value))


def mask(content: object) -> str:
    """Represent content by its size. Use it as ``repr`` of every field that may hold a prompt or an answer."""
    if content is None:
        return "None"
    if isinstance(content, str):
        return f"<{len(content)} characters>"
    if isinstance(content, (tuple, list, dict)):
        return f"<{len(content)} items>"
    return f"<{type(content).__name__}>"


def shorten(text: object, limit: int = 200) -> str:
    """Represent a caller's value inside an error message: escaped, cut to *limit* characters, keys redacted. Never raises."""
    try:
        shown = re.sub(_KEY_PATTERN, "gsk_****", repr(text))  # a key may have been passed as the wrong argument
    except Exception:  # noqa: BLE001 - a repr may raise anything; int has a digit limit
        return f"<{type(text).__name__}>"
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for a name close to a known one, else ``""``."""
    import difflib

    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def attribute_reader(names: Iterable[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return a function that reads these attributes of an object as a tuple. There must be at least two names."""
    return attrgetter(*names)


@functools.cache
def field_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names of the arguments of a class."""
    return tuple(a.alias for a in attrs.fields(cls) if a.init)


def _required_fields(cls: type) -> list[str]:
    return [a.alias for a in attrs.fields(cls) if a.init and a.default is attrs.NOTHING]


#: Hints for callers who pass a class or a function, which some other clients accept.
_HINT_FOR_CALLABLE = {
    "ResponseFormat": ": give its JSON Schema, {'type': 'json_schema', 'json_schema': {'name': …, 'schema': …}}",
    "Tool": ": describe it, Tool.of(name, description, JSON Schema of its parameters), and call it yourself",
}


def build(cls: type[T], data: object, *, what: str, drop: frozenset[str] = frozenset()) -> T:
    """Build a value from a mapping of its fields, as code for OpenAI's client passes them.

    Args:
        cls: The value class.
        data: An instance of the class (returned unchanged) or a mapping of its fields.
        what: The name of the place, for error messages.
        drop: Keys to ignore: fields that exist in answers only.

    Raises:
        InvalidRequestError: The data is not a mapping, has an unknown key, or lacks a required one.
    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        hint = _HINT_FOR_CALLABLE.get(cls.__name__, "") if callable(data) else ""
        raise InvalidRequestError(f"{what} must be a {cls.__name__} or a mapping, not {type(data).__name__}{hint}")
    names = field_names(cls)  # type: ignore[arg-type]  # classes are hashable
    fields = {key: item for key, item in data.items() if key not in drop}
    unknown = [key for key in fields if key not in names]
    if unknown:
        if "extra" in names:
            extra = fields.get("extra", {})
            if not isinstance(extra, Mapping):
                raise InvalidRequestError(f"{what}: extra must be a mapping, not {type(extra).__name__}")
            fields["extra"] = {**{key: fields.pop(key) for key in unknown}, **extra}
        else:
            hints = ", ".join(f"{key!r}{nearest(str(key), names)}" for key in unknown)
            raise InvalidRequestError(f"{what} has no field {hints}; known fields: {', '.join(names)}")
    try:
        return cls(**fields)
    except InvalidRequestError as error:
        raise with_place(error, what) from None
    except TypeError:
        missing = [name for name in _required_fields(cls) if name not in fields]
        if not missing:
            raise
        raise InvalidRequestError(f"{what} needs {', '.join(missing)}") from None


def with_place(error: InvalidRequestError, what: str) -> InvalidRequestError:
    """Prefix an error about a part with the place of the part: ``role = …`` becomes ``messages[3].role = …``."""
    place = f"{what}.{error.param}" if error.param else what
    begins = error.param and error.message.startswith(error.param)
    return InvalidRequestError(f"{what}.{error.message}" if begins else f"{place}: {error.message}", param=place)


def build_many(cls: type[T], data: object, *, what: str, drop: frozenset[str] = frozenset()) -> tuple[T, ...]:
    """Build a tuple of values from a sequence of instances or mappings."""
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"{what} must be a sequence, not {type(data).__name__}")
    return tuple([build(cls, item, what=f"{what}[{index}]", drop=drop) for index, item in enumerate(data)])


def build_optional(cls: type[T], data: object, what: str) -> T | None:
    """Build a value from a mapping; ``None`` stays ``None``."""
    return None if data is None else build(cls, data, what=what)


def string_tuple(data: object, what: str) -> tuple[str, ...] | None:
    """Convert a sequence of strings to a tuple; ``None`` stays ``None``."""
    if data is None:
        return None
    if isinstance(data, (str, bytes)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"{what} must be a sequence of strings, not {type(data).__name__}")
    for index, item in enumerate(data):
        if not isinstance(item, str):
            raise InvalidRequestError(f"{what}[{index}] must be a string, not {type(item).__name__}")
    return tuple(data)


def to_include_domains(data: object) -> tuple[str, ...] | None:
    """Convert a list of domains to search in."""
    return string_tuple(data, "include_domains")


def to_exclude_domains(data: object) -> tuple[str, ...] | None:
    """Convert a list of domains to leave out."""
    return string_tuple(data, "exclude_domains")


_DEFERRED = "groq_provider.deferred"

Check = Callable[[object, "attrs.Attribute[Any]", Any], None]


def defer_checks(_cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Leave converters and validators to :func:`check_given`. Pass this to attrs as ``field_transformer``.

    A class of forty fields, four of them set, would otherwise spend most of its time on converting and checking defaults.
    """
    return [f if (check := _deferred_check(f)) is None else _without_checks(f, check) for f in fields]


def _deferred_check(field: attrs.Attribute[Any]) -> Check | None:
    """Return the work that is left for a field once its value is set; ``None`` for a field that attrs must convert itself."""
    if field.converter is None:
        return field.validator  # None, too
    if field.validator is not None or field.default is attrs.NOTHING:
        return None
    convert: Any = field.converter

    def convert_in_place(instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        object.__setattr__(instance, attribute.name, convert(value))

    return convert_in_place


def _without_checks(field: attrs.Attribute[Any], check: Check) -> attrs.Attribute[Any]:
    return field.evolve(validator=None, converter=None, metadata={_DEFERRED: check})


@functools.cache
def _deferred_checks(cls: type[Any]) -> tuple[Callable[[object], tuple[Any, ...]], tuple[Any, ...], tuple[Any, ...]]:
    """Return a function that reads the deferred fields of an instance, their defaults, and the pairs of field and check."""
    fields = tuple(f for f in attrs.fields(cls) if _DEFERRED in f.metadata)
    checks = tuple((f, f.metadata[_DEFERRED]) for f in fields)
    return attribute_reader(f.name for f in fields), tuple(f.default for f in fields), checks


def check_given(instance: object) -> None:
    """Convert and check the fields that do not have their default."""
    read_values, defaults, checks = _deferred_checks(type(instance))  # type: ignore[arg-type]  # classes are hashable
    values = read_values(instance)
    # A hot path: compress() skips the many fields that are not set without a step of Python code.
    for value, (attribute, check) in compress(zip(values, checks), map(is_not, values, defaults)):  # noqa: B905 - of one length
        check(instance, attribute, value)


# --- validators of values; those of settings are in ``_validate``, with another error and other ranges -----------------

Validator = Any  # attrs' own validator type is invariant in the field's type


def _refuse(attribute: attrs.Attribute[Any], shown: object, allowed: str) -> None:
    raise InvalidRequestError(f"{attribute.name} = {shorten(shown)}: must be {allowed}")


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    integer: bool = False,
    optional: bool = True,
) -> Validator:
    """Check a number and its range. Booleans, NaN and infinities are refused."""
    kinds: tuple[type, ...] = (int,) if integer else (int, float)
    noun = "an integer" if integer else "a number"
    if low is not None and high is not None:
        allowed = f"{noun} from {low} to {high}"
    elif low is not None:
        allowed = f"{noun} of at least {low}"
    else:
        allowed = noun
    if optional:
        allowed += ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value or value in _INFINITIES:  # noqa: PLR0124 - NaN
            _refuse(attribute, value, allowed)
        if (low is not None and value < low) or (high is not None and value > high):
            _refuse(attribute, value, allowed)

    return check


_INFINITIES = (float("inf"), float("-inf"))


def text(*, optional: bool = True, empty: bool = True, secret: bool = False) -> Validator:
    """Check a string. With *secret* the message does not show the value."""
    allowed = "a string" if empty else "a non-empty string"
    if optional:
        allowed += ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and optional:
            return
        if not isinstance(value, str):
            raise InvalidRequestError(f"{attribute.name} must be {allowed}, not {type(value).__name__}")
        if not empty and not value:
            _refuse(attribute, mask(value) if secret else value, allowed)

    return check


def boolean(*, optional: bool = True) -> Validator:
    """Check a boolean."""
    allowed = "True or False" + (", or None" if optional else "")

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not (isinstance(value, bool) or (optional and value is None)):
            _refuse(attribute, value, allowed)

    return check


def one_of(*allowed: str) -> Validator:
    """Check an optional word against a closed list."""
    shown = "one of " + ", ".join(allowed) + ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is not None and value not in allowed:
            _refuse(attribute, value, shown)

    return check


def mapping(*, optional: bool = True, values: type | None = None) -> Validator:
    """Check a mapping with string keys, and its values against one type if you pass it. The field becomes read-only."""

    def check(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is EMPTY or (value is None and optional):
            return
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"{attribute.name} must be a mapping, not {type(value).__name__}")
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidRequestError(f"{attribute.name}: key {shorten(key)} must be a string")
            kinds = (int, float) if values is float else values
            if kinds is not None and (not isinstance(item, kinds) or isinstance(item, bool)):
                noun = "a number" if values is float else getattr(values, "__name__", "")
                raise InvalidRequestError(f"{attribute.name}[{key!r}] must be {noun}, not {type(item).__name__}")
        freeze_field(instance, attribute, value)

    return check
