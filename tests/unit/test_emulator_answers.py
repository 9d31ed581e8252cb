"""The emulated service without its sockets: every request gets an answer, and default answers read as language."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groq_provider.cli import demo
from groq_provider.testing import Emulator, RecordedRequest, Reply
from groq_provider.testing._http import loads
from groq_provider.testing._schema import example
from groq_provider.testing._stock import sentences

CHAT = "/openai/v1/chat/completions"
OSS = "openai/gpt-oss-120b"


def chat(text="hi", **fields):
    """A request's body."""
    return {"model": OSS, "messages": [{"role": "user", "content": text}], **fields}


def ask(body, *, emulator=None, target=CHAT, method="POST"):
    """Return the status and the parsed body (of a stream the events) of an emulator's answer to *body*; nothing is sent."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        parsed = loads(data)
    except ValueError:
        parsed = None
    request = RecordedRequest(
        method=method, target=target, headers={}, raw_headers=[], body=data, json=parsed, authorized=True
    )
    answer = (emulator or Emulator(speed=0))._service.respond(request)
    sent = b"".join(part.data for part in answer.parts)
    if answer.is_stream:
        return answer.status, [json.loads(line[6:]) for line in sent.split(b"\n\n")[:-2]]
    return answer.status, json.loads(sent)


def content(body, **more):
    """The text of a plain answer."""
    status, found = ask(body, **more)
    assert status == 200, found
    return found["choices"][0]["message"]["content"]


# --- every request gets an answer -----------------------------------------------------------------------------------------------------

_FULL = chat(
    temperature=1,
    seed=1,
    stop=["x"],
    stream=True,
    stream_options={"include_usage": True},
    max_completion_tokens=100,
    tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}],
    tool_choice={"type": "function", "function": {"name": "f"}},
    service_tier="auto",
    reasoning_effort="low",
)
_FULL["messages"] += [
    {"role": "user", "content": [{"type": "text", "text": "f"}]},
    {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "x"},
]
_SCHEMA = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/a"}, "b": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"a": {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1}},
}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA, "strict": True}}
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _places(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


def _put(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _put(value[path[0]], path[1:], new)
    return copy


@given(base=st.sampled_from([_FULL, chat(response_format=_FORMAT)]), data=st.data())
def test_odd_requests_are_answered(base, data):
    """Any value in any place of a request gets an answer or a refusal of the service, and never an error of the emulator's own."""
    body = _put(base, data.draw(st.sampled_from(list(_places(base)))), data.draw(_JSON))
    status, found = ask(body)
    assert status in (200, 400, 404, 413), found
    assert status == 200 or found["error"]["message"]


@given(base=st.sampled_from([_FULL, chat(response_format=_FORMAT)]), data=st.data())
def test_unchecked_requests_are_answered(base, data):
    """Without the checks there may be a 500, which names the exception."""
    body = _put(base, data.draw(st.sampled_from(list(_places(base)))), data.draw(_JSON))
    status, found = ask(body, emulator=Emulator(speed=0, validate=False))
    if status == 500:
        assert re.fullmatch(r"The emulator cannot make an answer: \w+", found["error"]["message"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"model": "x", "messages": [], "temperature": NaN}', "NaN"),
        (b'{"model": "x", "messages": [], "temperature": -Infinity}', "Infinity"),
        (b'{"model": "x", "messages": [], "temperature": 1e999}', "1e999"),
        (b'{"model": ' + b"[" * 100_000, "too deep"),
        (b'{"model": ' + b'{"a":' * 100_000, "too deep"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
    ],
    ids=["nan", "infinity", "too-large", "deep-arrays", "deep-objects", "long-number", "not-utf-8"],
)
def test_non_json_is_refused(data, says):
    """A 400 that says why; Python's own decoder would take the first three."""
    status, found = ask(data)
    assert status == 400
    assert says in found["error"]["message"]


@pytest.mark.parametrize("half", ["\ud83d", "a\udfffb"], ids=ascii)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
def test_half_surrogates_travel_escaped(half, streamed):
    """Lone surrogates of a prompt or a scripted reply are in the answer."""
    emulator = Emulator(speed=0)
    for script in (
        None,
        Reply(half, reasoning=half, tool_calls=[{"name": "f", "arguments": half}]),
        Reply(chunks=[half]),
    ):
        if script is not None:
            emulator.enqueue(script)
        status, found = ask(chat(half, stream=streamed), emulator=emulator)
        assert status == 200
        parts = [
            choice["delta" if streamed else "message"]
            for event in (found if streamed else [found])
            for choice in event["choices"]
        ]
        assert half in "".join(part.get("content") or "" for part in parts)


def test_impossible_answer_names_exception():
    """A script without a JSON form gives a 500 that must not be retried; the charge is returned, the error is in ``errors``."""
    emulator = Emulator(speed=0, limits={"tpm": 2000})
    emulator.enqueue(Reply(chunks=[{"content": object()}], times=5))
    for _ in range(5):
        status, found = ask(chat(stream=True, max_completion_tokens=1500), emulator=emulator)
        assert (status, found["error"]["message"]) == (500, "The emulator cannot make an answer: TypeError")


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": None}, {"completion_tokens": -3}, {"total_tokens": "x"}], ids=str
)
def test_any_usage_can_be_scripted(usage):
    """A scripted usage may hold any value; it is sent as it is."""
    emulator = Emulator(speed=0, limits={"tpm": 100_000})
    emulator.enqueue(Reply("x", usage=usage))
    status, found = ask(chat(), emulator=emulator)
    assert status == 200
    assert usage.items() <= found["usage"].items()


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a?b=1", "/a", "b=1"),
        ("http://host:80/a?b=1", "/a", "b=1"),
        ("HTTPS://[::1]:8080/a/b", "/a/b", ""),
        ("http://host", "/", ""),
        ("http://host?b=1", "/", "b=1"),
        ("host:443", "host:443", ""),
        ("*", "*", ""),
    ],
)
def test_targets_may_be_absolute(target, path, query):
    """A target in absolute form, as clients send it to a proxy, is answered; the record keeps it as sent."""
    request = RecordedRequest(method="GET", target=target, headers={}, raw_headers=[], body=b"", json=None)
    assert (request.target, request.path, request.query) == (target, path, query)


def test_absolute_targets_are_answered():
    """Targets in absolute form are answered like those in origin form."""
    assert ask(chat(), target=f"http://any.test{CHAT}")[0] == 200
    assert ask(b"", target="http://any.test/openai/v1/models", method="GET")[0] == 200
    assert ask(b"", target="http://any.test", method="GET")[0] == 404


# --- schemas ---------------------------------------------------------------------------------------------------------------


def _numbers(kind, check):
    bounds = st.tuples(st.integers(-100, 100), st.integers(0, 100))
    return bounds.map(
        lambda pair: (
            {"type": kind, "minimum": pair[0], "maximum": pair[0] + pair[1]},
            lambda value: check(value) and pair[0] <= value <= pair[0] + pair[1],
        )
    )


_LEAVES = (
    st.tuples(st.integers(0, 20), st.integers(0, 20)).map(
        lambda pair: (
            {"type": "string", "minLength": pair[0], "maxLength": sum(pair)},
            lambda value: isinstance(value, str) and pair[0] <= len(value) <= sum(pair),
        )
    )
    | _numbers("integer", lambda value: type(value) is int)
    | _numbers("number", lambda value: type(value) in (int, float))
    | st.just(({"type": "boolean"}, lambda value: type(value) is bool))
    | st.just(({"type": "null"}, lambda value: value is None))
    | st.lists(st.integers(), min_size=1).map(lambda given: ({"enum": given}, lambda value: value in given))
    | st.text().map(lambda given: ({"const": given}, lambda value: value == given))
)


def _objects(inner):
    def build(parts):
        needed = [name for name, (_, _, required) in parts.items() if required]
        schema = {"type": "object", "properties": {name: part[0] for name, part in parts.items()}, "required": needed}
        schema["additionalProperties"] = False

        def fits(value):
            return (
                isinstance(value, dict)
                and set(needed) <= value.keys() <= parts.keys()
                and all(parts[name][1](item) for name, item in value.items())
            )

        return schema, fits

    parts = st.tuples(inner, st.booleans()).map(lambda pair: (*pair[0], pair[1]))
    return st.dictionaries(st.text(max_size=5), parts, max_size=4).map(build)


def _arrays(inner):
    return st.tuples(inner, st.integers(0, 3), st.integers(0, 3)).map(
        lambda given: (
            {"type": "array", "items": given[0][0], "minItems": given[1], "maxItems": given[1] + given[2]},
            lambda value: given[1] <= len(value) <= given[1] + given[2] and all(map(given[0][1], value)),
        )
    )


def _choices(inner):
    return st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: ({"anyOf": [part[0] for part in parts]}, lambda value: any(part[1](value) for part in parts))
    )


_SCHEMAS = st.recursive(_LEAVES, lambda inner: _objects(inner) | _arrays(inner) | _choices(inner), max_leaves=10)


@given(_SCHEMAS, st.text(max_size=30))
def test_examples_fit_their_schemas(case, text):
    """An example fits its schema, however types, bounds and choices are nested."""
    schema, fits = case
    assert fits(example(schema, text=text))


@settings(max_examples=30)
@given(
    st.recursive(
        _JSON,
        lambda inner: st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "prefixItems",
                    "enum",
                    "anyOf",
                    "allOf",
                    "$ref",
                    "required",
                    "minItems",
                    "maxItems",
                    "minimum",
                    "exclusiveMinimum",
                    "multipleOf",
                    "minLength",
                    "maxLength",
                    "format",
                    "additionalProperties",
                    "const",
                ]
            ),
            inner
            | st.sampled_from(["#", "object", "array", "string", "number", ["object", "null"], 10**400, 1e308, -1]),
            max_size=5,
        ),
        max_leaves=12,
    )
)
def test_odd_schemas_get_something(schema):
    """A value that is not a schema gets an example with a JSON form."""
    json.dumps(example(schema), allow_nan=False)


def _tree(width):
    return {
        "type": "object",
        "properties": {f"p{n}": {"$ref": "#"} for n in range(width)},
        "required": [f"p{n}" for n in range(width)],
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        _tree(1),
        _tree(2),
        _tree(50),
        {"anyOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 3},
        {"type": "array", "minItems": 10**12},
        {"type": "string", "minLength": 10**12},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ],
    ids=["itself", "list", "tree", "wide-tree", "any-of", "all-of", "arrays", "many", "long", "circle"],
)
def test_endless_schemas_come_to_end(schema):
    """A schema that no value fits, or only huge ones, gets an example of bounded size, in a request, too."""
    assert len(json.dumps(example(schema))) < 1_000_000
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert ask(chat(response_format=wanted))[0] == 200


def test_properties_as_list_are_refused():
    """A malformed schema is a 400 that names its place."""
    schema = {"type": "object", "properties": [{"name": "a"}]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for fields, where in (
        ({"response_format": wanted}, "json_schema.schema"),
        ({"tools": [tool]}, "function.parameters"),
    ):
        status, found = ask(chat(**fields))
        assert status == 400
        assert f"{where}.properties' : value must be an object" in found["error"]["message"]


# --- JSON asked for in words -----------------------------------------------------------------------------------------------

_PERSON = {
    "$defs": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/Pet"}},
        "mood": {"anyOf": [{"enum": ["good", "bad"]}, {"type": "null"}], "default": None},
    },
    "required": ["name", "age", "pets"],
}


def _is_person(value):
    return (
        type(value["age"]) is int
        and value["age"] >= 18
        and isinstance(value["name"], str)
        and all(isinstance(pet["name"], str) for pet in value["pets"])
        and value.get("mood") in ("good", "bad", None)
    )


@pytest.mark.parametrize("indent", [None, 2], ids=["compact", "indented"])
@pytest.mark.parametrize(
    "template",
    [
        "Understand the content and give the parsed objects in json that match this json_schema:\n\n%s\n\nNot the schema itself.",
        'For {"properties": {"foo": {"type": "array"}}} the object {"foo": ["bar"]} fits. JSON for you:\n```\n%s\n```',
        'Call it like this, in JSON: {"name": "person", "description": "d", "parameters": %s}',
        '{"type": "json_schema", "json_schema": {"name": "person", "schema": %s}}\nOutput valid JSON.',
    ],
    ids=["plain", "after-an-example", "function", "response-format"],
)
@pytest.mark.parametrize("role", ["system", "user"])
def test_prompts_with_schema_get_json(role, template, indent):
    """The answer fits the schema in the prompt, in whatever message it is; so it does with ``json_object``."""
    told = {"role": role, "content": template % json.dumps(_PERSON, indent=indent)}
    body = {"model": OSS, "messages": [told, {"role": "user", "content": "Ada, a friend of Rex."}]}
    assert _is_person(json.loads(content(body)))
    assert _is_person(json.loads(content({**body, "response_format": {"type": "json_object"}})))


def test_a_code_block_is_fenced():
    """The answer is inside a Markdown fence if the prompt asks for one."""
    text = content(chat(f"Return the JSON in a ```json code block, by the schema {json.dumps(_PERSON)}"))
    found = re.fullmatch(r"```json\n(.*)\n```", text, re.DOTALL)
    assert _is_person(json.loads(found[1]))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Answer only with valid JSON.", True),
        ("Respond in json format", True),
        ("Return a single JSON object", True),
        ("What is JSON?", False),
        ("Write a JSON parser in Python.", False),
        ('What does {"a": 1} mean in JSON?', False),
        ("Say {} and {{", False),
    ],
)
def test_only_demands_get_json(text, wanted):
    """Without a schema a plain demand gets an object; a question about JSON gets words."""
    try:
        found = json.loads(content(chat(text)))
    except ValueError:
        found = None
    assert isinstance(found, dict) is wanted


def test_prompts_full_of_braces_quick():
    """The search for a schema ends, whatever the prompt."""
    assert ask(chat('json {"a":' * 20_000))[0] == 200
    assert ask(chat('json {"' + "x" * 200_000))[0] == 200


# --- language --------------------------------------------------------------------------------------------------------------

_PROMPTS = [
    demo._PROMPT,
    *(demo.stream_prompt(number) for number in range(1, 20)),
    *(demo.batch_prompt(number) for number in range(30)),
    "Tell me a story.",
    "Write a haiku.",
    "Explain Groq LPU technology.",
    "Why is the sky blue?",
]


def _reads_as_language(text):
    lines = text.replace("\n", " ")
    return text.isascii() and len(lines.split()) >= 4 and lines[0].isupper() and lines[-1] in ".!?"


@pytest.mark.parametrize("prompt", _PROMPTS)
def test_prompts_of_demo_are_answered(prompt):
    """Known questions get sentences about their topic, not an echo."""
    text = sentences(prompt, random.Random(1))
    assert _reads_as_language(text)
    assert prompt.rstrip("?.") not in text
    words = set(re.findall(r"[a-z]{3,}|\d+", text.lower())) & set(re.findall(r"[a-z]{3,}|\d+", prompt.lower()))
    assert words or "haiku" in prompt or "story" in prompt


@given(st.text(max_size=600), st.integers())
def test_other_prompts_are_quoted(prompt, seed):
    """An answer quotes a short question and continues with the same sentences for the same request; a single word begins its answer."""
    text = sentences(prompt, random.Random(seed))
    assert text == sentences(prompt, random.Random(seed))
    prompt = prompt.strip()
    if not prompt or len(prompt) > 400:
        assert _reads_as_language(text)
    elif len(prompt.split()) == 1:
        assert text.startswith(f"{prompt}: ")
        assert text[len(prompt) + 2].islower()
    else:
        assert text.startswith((f'You said: "{prompt}"', f'You asked: "{prompt}"'))
        assert _reads_as_language(text.partition(f'"{prompt}"')[2].lstrip(". "))


def test_answers_vary_with_the_request():
    """The stock is large enough for that."""
    assert len({content(chat(seed=seed)) for seed in range(50)}) > 40
    assert content(chat(seed=1)) == content(chat(seed=1))
