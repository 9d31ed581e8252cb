"""Fragments of tool calls: which call each of them belongs to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groq_provider.types.response import LLMResponse
from groq_provider.wire.assemble import Assembler
from groq_provider.wire.tool_calls import ToolCalls


def fragment(arguments=None, *, index=None, id=None, name=None):
    """A fragment of a tool call with only the given parts."""
    function = {key: item for key, item in {"name": name, "arguments": arguments}.items() if item is not None}
    found = {"index": index, "id": id, "function": function}
    return {key: item for key, item in found.items() if item is not None}


def assembled(groups):
    """The calls of the answer, and those that a reader has who appends the fragments by their index."""
    assembler = Assembler()
    own: dict[int, list] = {}
    for group in groups:
        out = assembler.feed({"choices": [{"index": 0, "delta": {"tool_calls": group}, "finish_reason": None}]})
        for delta in out.tool_calls if out is not None else ():
            call = own.setdefault(delta.index, [None, None, ""])
            call[0], call[1], call[2] = call[0] or delta.id, call[1] or delta.name, call[2] + delta.arguments
    response = LLMResponse(**assembler.response_fields())
    answer = [(call.id or None, call.name or None, call.arguments) for call in response.tool_calls]
    assert [tuple(own[index]) for index in sorted(own)] == answer
    return answer


A, B = ("a", "add", '{"x":1}'), ("b", "sub", '{"y":2}')
NAMELESS_A, NAMELESS_B = (None, *A[1:]), (None, *B[1:])

WHOLE_A, WHOLE_B = fragment('{"x":1}', index=0, id="a", name="add"), fragment('{"y":2}', index=0, id="b", name="sub")

CASES = {
    "a new id and a new name": ([WHOLE_A, WHOLE_B], [A, B]),
    "a new id and the same name": (
        [WHOLE_A, fragment('{"y":2}', index=0, id="b", name="add")],
        [A, ("b", "add", '{"y":2}')],
    ),
    "fragments of the second": (
        [WHOLE_A, fragment("", index=0, id="b", name="sub"), fragment('{"y"', index=0), fragment(":2}", index=0)],
        [A, B],
    ),
    "back to the first by its id": (
        [fragment('{"x"', index=0, id="a", name="add"), WHOLE_B, fragment(":1}", index=0, id="a")],
        [A, B],
    ),
    "another name without an id": (
        [WHOLE_A, fragment('{"y":2}', index=0, name="sub")],
        [A, NAMELESS_B],
    ),
    "an index that the second has got": (
        [WHOLE_A, WHOLE_B, fragment("{}", index=1, id="c", name="f"), fragment(" ", index=1), fragment("", index=0)],
        [A, B, ("c", "f", "{} ")],
    ),
    "a fresh id without a name goes on": (
        [fragment('{"x"', index=0, id="a", name="add"), fragment(":", index=0, id="a2"), fragment("1}", index=0, id="a3")],
        [A],
    ),
    "a fresh id goes on without an index, too": (
        [fragment('{"x"', id="a", name="add"), fragment(":", id="a2"), fragment("1}")],
        [A],
    ),
    "the same id and name again": (
        [fragment('{"x"', index=0, id="a", name="add"), fragment(":1}", index=0, id="a", name="add")],
        [A],
    ),
    "the name alone again": (
        [fragment('{"x"', index=0, id="a", name="add"), fragment(":1}", index=0, name="add")],
        [A],
    ),
    "the id after the name": ([fragment('{"x"', index=0, name="add"), fragment(":1}", index=0, id="a", name="add")], [A]),
    "names without index and id": (
        [fragment('{"x":1}', name="add"), fragment('{"y"', name="sub"), fragment(":2}")],
        [NAMELESS_A, NAMELESS_B],
    ),
    "the same name twice without index and id": (
        [fragment('{"x":1}', name="add"), fragment('{"y":2}', name="add")],
        [NAMELESS_A, (None, "add", '{"y":2}')],
    ),
    "a name for arguments that came first": ([fragment('{"x"'), fragment(":1}", name="add")], [NAMELESS_A]),
    "the index after the id": (
        [fragment('{"x"', id="a", name="add"), fragment(":", index=0, id="a"), fragment("1}", index=0)],
        [A],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("together", [False, True], ids=["a chunk each", "one chunk"])
def test_calls_under_one_index(case, together):
    """A new id with a name begins a call, also within one chunk; all that has no name of its own goes on."""
    fragments, expected = CASES[case]
    assert assembled([fragments] if together else [[each] for each in fragments]) == expected


WAYS = {
    "one index and ids": lambda i, first: {"index": 0, "id": f"c{i}"} if first else {"index": 0},
    "one index, ids throughout": lambda i, first: {"index": 0, "id": f"c{i}"},
    "own indices": lambda i, first: {"index": i, "id": f"c{i}"} if first else {"index": i},
    "ids alone": lambda i, first: {"id": f"c{i}"},
    "names alone": lambda i, first: {},
}


@given(
    way=st.sampled_from(sorted(WAYS)),
    texts=st.lists(st.lists(st.text("ab{}", min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=5),
    size=st.integers(1, 6),
    data=st.data(),
)
def test_no_call_is_ever_lost(way, texts, size, data):
    """However a server numbers calls that follow each other, and however it groups the fragments: each is there, whole."""
    fragments = []
    for i, parts in enumerate(texts):
        name = data.draw(st.sampled_from(["f", "g"]))
        for j, part in enumerate(parts):
            fragments.append(fragment(part, name=name if j == 0 else None, **WAYS[way](i, j == 0)))
    found = assembled([fragments[i : i + size] for i in range(0, len(fragments), size)])
    assert [arguments for _, _, arguments in found] == ["".join(parts) for parts in texts]


def test_many_fragments_take_linear_work(monkeypatch):
    """A fragment without an index is not held against every call before it."""
    looked = []

    class Calls(dict):
        def __iter__(self):
            looked.append(1)
            return super().__iter__()

        def items(self):
            looked.append(1)
            return super().items()

    assembler = Assembler()
    assembler._tool_calls = ToolCalls()
    monkeypatch.setattr(assembler._tool_calls, "_calls", Calls())
    for i in range(300):
        for each in (fragment("{", id=f"c{i}", name="f"), fragment("}")):
            assembler.feed({"choices": [{"delta": {"tool_calls": [each]}}]})
    assert looked == []
    assert [call.arguments for call in LLMResponse(**assembler.response_fields()).tool_calls] == ["{}"] * 300


def test_json_of_arguments_stays_text():
    """The model's own text is not changed."""
    assert json.loads(assembled([[WHOLE_A]])[0][2]) == {"x": 1}
