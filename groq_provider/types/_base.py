"""What the value classes share: strict checks with readable messages, masked representations."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import attrs

from groq_provider.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

_KEY_PATTERN = r"gsk_\w+"


class ReadOnly(dict[Any, Any]):
    """A mapping inside a frozen value: it reads, compares, pickles and serialises as a dict, and cannot be changed."""

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
    """A list inside a read-only mapping: it is equal to a list and serialises as one, and cannot be changed."""

    __slots__ = ()

    def _refuse(self, *_args: object, **_more: object) -> NoReturn:
        raise TypeError("this list is read-only; make a list of it to change it")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> ReadOnlyList:
        return self

    def __reduce__(self) -> tuple[type[ReadOnlyList], tuple[list[Any]]]:
        return ReadOnlyList, (list(self),)


#: The default of mappings: nothing needs a copy of its own of what cannot be changed.
EMPTY = ReadOnly()


def freeze_mapping(given: Any) -> Any:
    """Return a mapping as a copy that cannot be changed, nor what it holds; anything else as it is, for checks to come.

    Raises:
        InvalidRequestError: It is nested too deep, or holds itself.
    """
    try:
        return _freeze_nested(given) if isinstance(given, Mapping) else given
    except RecursionError:
        raise InvalidRequestError("a mapping is nested too deep") from None


def _freeze_nested(given: Any) -> Any:
    if type(given) is ReadOnly:
        return given
    if isinstance(given, Mapping):
        return ReadOnly({key: _freeze_nested(item) for key, item in given.items()})
    if isinstance(given, list):
        return ReadOnlyList([_freeze_nested(item) for item in given])
    return tuple([_freeze_nested(item) for item in given]) if type(given) is tuple else given


def keep_read_only(given: Any) -> Any:
    """Convert the mapping of an answer's value; nearly all are read-only already."""
    if type(given) is ReadOnly or given is None:
        return given
    return freeze_json(given) if type(given) is dict else freeze_mapping(given)


def freeze_json(found: Any, checkpoint: Callable[[], object] = int) -> Any:
    """Return decoded JSON as a copy that cannot be changed, however deep: the server chose its depth and size.

    Args:
        found: What :mod:`json` made.
        checkpoint: Called every few milliseconds of work; it may raise.
    """
    if type(found) not in _CONTAINER_COPIES:
        return found
    whole = _CONTAINER_COPIES[type(found)](found)
    pending = [whole]
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
    return whole


_CONTAINER_COPIES: dict[type, Callable[[Any], Any]] = {dict: ReadOnly, list: ReadOnlyList}


def freeze_field(instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
    """Put a read-only copy in the place of a mapping. Validators do it, for a converter would run for every default, too."""
    if type(given) is not ReadOnly:
        object.__setattr__(instance, attribute.name, freeze_mapping(given))


def mask(content: object) -> str:
    """Represent text of a caller by its size: prompts never reach a repr."""
    if content is None:
        return "None"
    if isinstance(content, str):
        return f"<{len(content)} characters>"
    if isinstance(content, (tuple, list, dict)):
        return f"<{len(content)} items>"
    return f"<{type(content).__name__}>"


def shorten(text: object, limit: int = 200) -> str:
    """Represent a value of a caller inside a message: escaped, cut, and never failing."""
    try:
        shown = re.sub(_KEY_PATTERN, "gsk_****", repr(text))  # a key in the wrong place is still a key
    except Exception:  # noqa: BLE001 - a repr may raise anything; int has a digit limit
        return f"<{type(text).__name__}>"
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for a name close to a known one, else nothing."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def attribute_reader(names: Iterable[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return what reads so many attributes of an object at once; at least two."""
    return attrgetter(*names)


@functools.cache
def field_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names a class is built from."""
    return tuple(a.alias for a in attrs.fields(cls) if a.init)


def _required_fields(cls: type) -> list[str]:
    return [a.alias for a in attrs.fields(cls) if a.init and a.default is attrs.NOTHING]


#: For who gives a class or a function, as other clients take them.
_HINT_FOR_CALLABLE = {
    "ResponseFormat": ": give its JSON Schema, {'type': 'json_schema', 'json_schema': {'name': …, 'schema': …}}",
    "Tool": ": describe it, Tool.of(name, description, JSON Schema of its parameters), and call it yourself",
}


def build(cls: type[T], data: object, *, what: str, drop: frozenset[str] = frozenset()) -> T:
    """Build a value from a mapping such as OpenAI-style code holds.

    Args:
        cls: The value class.
        data: An instance of it (returned as it is) or a mapping of its fields.
        what: Name of the place, for messages.
        drop: Names that are quietly left out: fields that exist in answers only.

    Raises:
        InvalidRequestError: Not a mapping, a key the class does not have, or a needed one is missing.
    """
    if isinstance(data, cls):
        return data
    if not isinstance(data, Mapping):
        hint = _HINT_FOR_CALLABLE.get(cls.__name__, "") if callable(data) else ""
        raise InvalidRequestError(f"{what} must be a {cls.__name__} or a mapping, not {type(data).__name__}{hint}")
    names = field_names(cls)  # type: ignore[arg-type]  # classes are hashable
    keep_read_only = {key: item for key, item in data.items() if key not in drop}
    unknown = [key for key in keep_read_only if key not in names]
    if unknown:
        if "extra" in names:
            given = keep_read_only.get("extra", {})
            if not isinstance(given, Mapping):
                raise InvalidRequestError(f"{what}: extra must be a mapping, not {type(given).__name__}")
            keep_read_only["extra"] = {**{key: keep_read_only.pop(key) for key in unknown}, **given}
        else:
            hints = ", ".join(f"{key!r}{nearest(str(key), names)}" for key in unknown)
            raise InvalidRequestError(f"{what} has no field {hints}; known fields: {', '.join(names)}")
    try:
        return cls(**keep_read_only)
    except InvalidRequestError as error:
        raise with_place(error, what) from None
    except TypeError:
        missing = [name for name in _required_fields(cls) if name not in keep_read_only]
        if not missing:
            raise
        raise InvalidRequestError(f"{what} needs {', '.join(missing)}") from None


def with_place(error: InvalidRequestError, what: str) -> InvalidRequestError:
    """Return an error about a part with the place of that part: ``role = …`` in ``messages[3]`` is ``messages[3].role = …``."""
    place = f"{what}.{error.param}" if error.param else what
    begins = error.param and error.message.startswith(error.param)
    return InvalidRequestError(f"{what}.{error.message}" if begins else f"{place}: {error.message}", param=place)


def build_many(cls: type[T], data: object, *, what: str, drop: frozenset[str] = frozenset()) -> tuple[T, ...]:
    """Build a tuple of values from a sequence of instances or mappings."""
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"{what} must be a sequence, not {type(data).__name__}")
    return tuple([build(cls, item, what=f"{what}[{index}]", drop=drop) for index, item in enumerate(data)])


def build_optional(cls: type[T], data: object, what: str) -> T | None:
    """Convert: ``None`` stays, a mapping becomes a value."""
    return None if data is None else build(cls, data, what=what)


def string_tuple(data: object, what: str) -> tuple[str, ...] | None:
    """Convert an optional sequence of strings."""
    if data is None:
        return None
    if isinstance(data, (str, bytes)) or not isinstance(data, Sequence):
        raise InvalidRequestError(f"{what} must be a sequence of strings, not {type(data).__name__}")
    for index, item in enumerate(data):
        if not isinstance(item, str):
            raise InvalidRequestError(f"{what}[{index}] must be a string, not {type(item).__name__}")
    return tuple(data)


_DEFERRED_CHECK = "groq_provider.check"


def defer_checks(_cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Have the validators of optional fields run by :func:`check_given`; a ``field_transformer``.

    A class of forty fields of which four are given would spend most of its time on finding out that ``None`` is allowed.
    """
    return [
        f.evolve(validator=None, metadata={_DEFERRED_CHECK: f.validator})
        if f.default is None and f.validator is not None
        else f
        for f in fields
    ]


@functools.cache
def _deferred_checks(cls: type[Any]) -> tuple[Callable[[object], tuple[Any, ...]], tuple[attrs.Attribute[Any], ...]]:
    fields = tuple(f for f in attrs.fields(cls) if _DEFERRED_CHECK in f.metadata)
    return attribute_reader(f.name for f in fields), fields


def check_given(instance: object) -> None:
    """Run the deferred validators of the fields that are not ``None``."""
    values, fields = _deferred_checks(type(instance))  # type: ignore[arg-type]  # classes are hashable
    for given, attribute in zip(values(instance), fields):  # noqa: B905 - of one length, and this is a hot path
        if given is not None:
            attribute.metadata[_DEFERRED_CHECK](instance, attribute, given)


# --- validators: one message shape, "field = value: what is allowed" ---------------------------------------------------

Validator = Any  # attrs' own validator type is invariant in the field's type


def _refuse(attribute: attrs.Attribute[Any], shown: object, allowed: str, error: type[Exception]) -> None:
    raise error(f"{attribute.name} = {shorten(shown)}: must be {allowed}")


def number(
    low: float | None = None,
    high: float | None = None,
    *,
    integer: bool = False,
    optional: bool = True,
    above: float | None = None,
    error: type[Exception] = InvalidRequestError,
) -> Validator:
    """Check a number and its range; booleans, NaN and infinities are no numbers here."""
    kinds: tuple[type, ...] = (int,) if integer else (int, float)
    noun = "an integer" if integer else "a number"
    if low is not None and high is not None:
        allowed = f"{noun} from {low} to {high}"
    elif low is not None:
        allowed = f"{noun} of at least {low}"
    elif above is not None:
        allowed = f"{noun} above {above}"
    else:
        allowed = noun
    if optional:
        allowed += ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], given: Any) -> None:
        if given is None and optional:
            return
        if isinstance(given, bool) or not isinstance(given, kinds) or given != given or given in _INFINITIES:  # noqa: PLR0124 - NaN
            _refuse(attribute, given, allowed, error)
        if (low is not None and given < low) or (high is not None and given > high):
            _refuse(attribute, given, allowed, error)
        if above is not None and given <= above:
            _refuse(attribute, given, allowed, error)

    return check


_INFINITIES = (float("inf"), float("-inf"))


def text(*, optional: bool = True, empty: bool = True, secret: bool = False) -> Validator:
    """Check a string. With *secret* the value is not shown in the message."""
    allowed = "a string" if empty else "a non-empty string"
    if optional:
        allowed += ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
        if given is None and optional:
            return
        if not isinstance(given, str):
            raise InvalidRequestError(f"{attribute.name} must be {allowed}, not {type(given).__name__}")
        if not empty and not given:
            _refuse(attribute, mask(given) if secret else given, allowed, InvalidRequestError)

    return check


def boolean(*, optional: bool = True, error: type[Exception] = InvalidRequestError) -> Validator:
    """Check a truth value."""
    allowed = "True or False" + (", or None" if optional else "")

    def check(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
        if not (isinstance(given, bool) or (optional and given is None)):
            _refuse(attribute, given, allowed, error)

    return check


def one_of(*allowed: str) -> Validator:
    """Check an optional word of a closed list."""
    shown = "one of " + ", ".join(allowed) + ", or None"

    def check(_instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
        if given is not None and given not in allowed:
            _refuse(attribute, given, shown, InvalidRequestError)

    return check


def mapping(*, optional: bool = True, values: type | None = None) -> Validator:
    """Check a mapping with string keys and, if given, values of one type; make it read-only."""

    def check(instance: object, attribute: attrs.Attribute[Any], given: object) -> None:
        if given is EMPTY or (given is None and optional):
            return
        if not isinstance(given, Mapping):
            raise InvalidRequestError(f"{attribute.name} must be a mapping, not {type(given).__name__}")
        for key, item in given.items():
            if not isinstance(key, str):
                raise InvalidRequestError(f"{attribute.name}: key {shorten(key)} must be a string")
            kinds = (int, float) if values is float else values
            if kinds is not None and (not isinstance(item, kinds) or isinstance(item, bool)):
                noun = "a number" if values is float else getattr(values, "__name__", "")
                raise InvalidRequestError(f"{attribute.name}[{key!r}] must be {noun}, not {type(item).__name__}")
        freeze_field(instance, attribute, given)

    return check
