"""Everything the library raises: its tree, its fields, and that it travels."""

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from multiprocessing import get_context

import pytest
from support.workers import throw

from groq_provider import errors
from groq_provider.types.response import Attempt, LLMResponse, Usage

CLASSES = [getattr(errors, name) for name in errors.__all__]
NAMES = list(errors.__all__)

AT = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
FIELDS = {
    "status_code": 429,
    "code": "rate_limit_exceeded",
    "type": "tokens",
    "param": "messages",
    "request_id": "req_01",
    "model": "openai/gpt-oss-20b",
    "provider": "groq",
    "retryable": True,
    "retry_after": 1.5,
    "retry_at": AT,
    "attempts": (Attempt(number=1, started_at=AT, status_code=429, error="RateLimitedError", sent=True),),
    "partial": LLMResponse(content="Hel", usage=Usage(prompt_tokens=1)),
    "failed_generation": '{"a": ',
    "sent": True,
}
OWN_FIELDS = {
    errors.ModelDecommissionedError: {"replacement": "openai/gpt-oss-20b"},
    errors.ContextTooLongError: {"limit": 8192, "requested": 9000},
    errors.RateLimitedError: {"scope": "day", "limit_name": "TPD", "limit": 100, "used": 90, "requested": 20},
}


def full(cls):
    """An error with every field set."""
    return cls("went wrong", **FIELDS, **OWN_FIELDS.get(cls, {}))


def state(error):
    return type(error), error.args, str(error), vars(error)


class Node:
    def __init__(self, depth, name):
        self.depth, self.name = depth, name


def drawn_tree():
    """Child name -> parent name, as the module's docstring draws it."""
    found, path = {}, []
    for line in inspect.getdoc(errors).splitlines():
        match = re.match(r"([\s│]*)(?:[├└]─ )?(\w+Error)\b", line)
        if not match or (not match[1] and not line.startswith(("├", "└", "    ", "GroqProviderError"))):
            continue
        column = match.start(2)
        while path and path[-1].depth >= column:
            path.pop()
        found[match[2]] = path[-1].name if path else None
        path.append(Node(column, match[2]))
    return found


def also(name):
    """The builtin class that the drawing names for one error."""
    line = next(line for line in inspect.getdoc(errors).splitlines() if re.search(rf"\b{name}\b", line))
    match = re.search(r"also a (\w+)", line)
    return match[1] if match else None


def test_drawn_tree_is_real():
    """Each class stands in the docstring under the class it inherits from, and nothing else does."""
    real = {
        cls.__name__: next(
            (base.__name__ for base in cls.__bases__ if issubclass(base, errors.GroqProviderError)), None
        )
        for cls in CLASSES
    }
    assert drawn_tree() == real


def test_all_lists_every_error():
    """No class is missing from ``__all__``, none is listed twice."""
    defined = {name for name, found in vars(errors).items() if inspect.isclass(found) and issubclass(found, Exception)}
    assert defined == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
def test_builtin_bases_match_drawing(cls):
    """A ValueError or TimeoutError is one because the drawing says so (inherited ones need no word)."""
    builtin = {base.__name__ for base in (ValueError, TimeoutError) if base in cls.__bases__}
    drawn = also(cls.__name__)
    assert builtin == ({drawn} if drawn else set())


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidRequestError, ValueError),
        (errors.ContextTooLongError, ValueError),
        (errors.ConfigurationError, ValueError),
        (errors.DeadlineExceededError, TimeoutError),
        (errors.RateLimitTimeoutError, TimeoutError),
        (errors.ConnectTimeoutError, TimeoutError),
        (errors.ReadTimeoutError, TimeoutError),
        (errors.PoolTimeoutError, TimeoutError),
        (errors.StreamIdleTimeoutError, TimeoutError),
    ],
    ids=lambda cls: cls.__name__,
)
def test_builtin_errors_catch_ours(cls, builtin):
    """Code that knows only builtin errors catches ours: wrong values are ValueErrors, timeouts TimeoutErrors."""
    with pytest.raises(builtin, match="went wrong"):
        raise full(cls)


@pytest.mark.parametrize(
    "travel",
    [
        *(pytest.param(lambda e, p=p: pickle.loads(pickle.dumps(e, p)), id=f"pickle-{p}") for p in range(6)),
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
    ],
)
def test_errors_travel_whole(travel):
    """Pickling and copying keep class, message and every field, whichever error it is."""
    for cls in CLASSES:
        error = full(cls)
        arrived = travel(error)
        assert arrived is not error
        assert state(arrived) == state(error)


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
def test_every_field_is_an_attribute(cls):
    """Each keyword argument is readable under its name; the message is the only positional value."""
    error = full(cls)
    given = {**FIELDS, **OWN_FIELDS.get(cls, {})}
    assert {name: getattr(error, name) for name in given} == given
    assert error.args == ("went wrong",)
    assert (error.message, str(error)) == ("went wrong", "went wrong [request id req_01, 1 attempt]")
    with pytest.raises(TypeError):
        cls("went wrong", 429)
    with pytest.raises(TypeError, match="statuscode"):  # a typing mistake does not vanish
        cls("went wrong", statuscode=400)


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
def test_only_message_lacks_default(cls):
    """An error of a message alone has empty fields, and ``retryable`` is the class's own answer."""
    error = cls("went wrong")
    given = {**FIELDS, **OWN_FIELDS.get(cls, {})}
    expected = {**dict.fromkeys(given), "attempts": (), "retryable": cls.default_retryable}
    assert {name: getattr(error, name) for name in given} == expected
    assert str(cls()) == ""


@pytest.mark.parametrize("name", ["TransportError", "ProviderUnavailableError", "RateLimitedError", "CircuitOpenError"])
def test_passing_trouble_is_retryable(name):
    """Passing troubles say so, and a better knowledge wins."""
    cls = getattr(errors, name)
    assert cls("x").retryable is True
    assert cls("x", retryable=False).retryable is False


@pytest.mark.parametrize("name", ["TLSError", "RedirectRefusedError", "InvalidRequestError", "AuthenticationError"])
def test_what_stays_is_not_retryable(name):
    """A repeat of what cannot succeed is not suggested."""
    assert getattr(errors, name)("x").retryable is False


def test_errors_cross_process_pools():
    """An error raised in a worker process arrives whole."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        arrived = pool.submit(pickle.loads, pickle.dumps([full(cls) for cls in CLASSES])).result(60)
        raised = pool.submit(throw, full(errors.RateLimitedError)).exception(60)
    assert [state(error) for error in arrived] == [state(full(cls)) for cls in CLASSES]
    assert isinstance(raised, errors.RateLimitedError)
    assert (raised.retry_after, raised.limit_name, str(raised)) == (
        1.5,
        "TPD",
        "went wrong [request id req_01, 1 attempt]",
    )


def test_notes_and_repr_hold_message():
    """Notes and repr hold no more than the message: a log line of an error does not show the partial answer."""
    error = full(errors.StreamInterruptedError)
    assert repr(error) == "StreamInterruptedError('went wrong')"
