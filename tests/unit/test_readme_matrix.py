"""The table of errors in `docs/errors.md`, the tree of classes, the fault matrix and the tests say the same."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from support import content_faults, wire_faults
from support.matrix import DEVIATIONS, ELSEWHERE, MATRIX

from groq_provider import errors as e

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
PACKAGE = ROOT / "groq_provider"

#: Classes that exist to be caught.
BASES = {"GroqProviderError", "TransportError", "ResponseError", "StreamError"}

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = {
    name: (what, todo)
    for name, what, todo in re.findall(r"^\| `(\w+Error)` \| (.*?) \| (.*?) ?\|$", PAGE, re.MULTILINE)
}


@functools.cache
def tables():
    """Every row of the tables of the fault matrix: of the content, and of the wire."""
    content = [*content_faults.CONTENT, *content_faults.STATUSES]
    return content, wire_faults.CASES


def numbers(names):
    return {match[0] for name in names if (match := re.match(r"\d+b?", str(name)))}


@functools.cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def used_names(file):
    """The names of classes that a module mentions in its code, other than to import them."""
    names = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
    return names


def made_in(file):
    """The classes of errors that a module makes: called, or named in a table or as the class to make."""
    names = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call):
            target = node.func
            names.add(target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""))
            if isinstance(target, ast.Name) and target.id == "isinstance":
                continue
        elif isinstance(node, (ast.Dict, ast.Tuple, ast.IfExp, ast.Return, ast.Assign, ast.BoolOp)):
            for child in ast.iter_child_nodes(node):
                names.add(child.attr if isinstance(child, ast.Attribute) else getattr(child, "id", ""))
    return names & set(e.__all__)


def raised():
    """The classes that some code of the library can raise."""
    files = [
        file for file in PACKAGE.rglob("*.py") if file.name not in ("errors.py", "__init__.py") or "cli" in file.parts
    ]
    return set().union(*(made_in(file) for file in files if "testing" not in file.parts))


# --- the table and the tree -----------------------------------------------------------------------------------------------------


def test_table_names_classes_once():
    """No more and no fewer than there are."""
    names = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(names) == sorted(e.__all__)
    assert set(ROWS) == set(e.__all__)


def test_module_tree_is_right():
    """Each class stands one step to the right of its base."""
    found: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in e.__doc__.splitlines():
        match = re.match(r"^( *[│├└─ ]*)(\w+Error)\b", line)
        if match is None:
            continue
        depth = len(match[1])
        while above and above[-1][0] >= depth:
            above.pop()
        found[match[2]] = above[-1][1] if above else None
        above.append((depth, match[2]))
    real = {name: next((base.__name__ for base in getattr(e, name).__bases__ if base.__module__ == e.__name__), None) for name in e.__all__}  # fmt: skip
    assert found == real


@pytest.mark.parametrize("also", [ValueError, TimeoutError])
def test_row_names_other_bases(also):
    """The row of a class names what else it is, for callers who catch what Python has."""
    inherited = {name for name in e.__all__ if issubclass(getattr(e, name), also)}
    said = {name for name, (what, _) in ROWS.items() if f"also a `{also.__name__}`" in what}
    said |= {name for name in inherited for base in said if issubclass(getattr(e, name), getattr(e, base))}
    # The names of the others say it themselves.
    said |= {name for name in inherited if also is TimeoutError and "Timeout" in name}
    assert said == inherited


def test_rows_mark_unraised_classes():
    """A class that nothing makes is there for later, and the table says so."""
    later = {name for name, (what, _) in ROWS.items() if "not raised in this version" in what}
    assert later & raised() == set()
    assert set(e.__all__) - BASES - later <= raised()


@pytest.mark.parametrize("name", [name for name, (what, _) in ROWS.items() if re.search(r"\d{3}|\dxx", what)])
def test_status_gives_table_class(name):
    """As the cases of the matrix expect."""
    content, _ = tables()
    for code in re.findall(r"\b\d{3}\b", ROWS[name][0]):
        matching = [case for case in content if re.match(rf"\d+b?-(at-first-)?{code}-given-up|{code}$", case.id)]
        expected = {case.error.__name__ for case in matching if case.error}
        if code == "498":
            expected = {case.error.__name__ for case in content if case.id == "66-given-up"}
        assert expected == {name}, code


# --- the matrix and its page ---------------------------------------------------------------------------------------------------


def test_page_shows_the_matrix():
    """Every row of `docs/design/faults.md` has the error, retry, connection and reservation of the matrix."""
    text = (ROOT / "docs" / "design" / "faults.md").read_text(encoding="utf-8")
    shown = {
        row[0]: (frozenset(re.findall(r"`(\w+)`", row[2])), *(cell.strip("`") for cell in row[3:]))
        for line in re.findall(r"^\| \d+b? \|.*\|$", text, re.MULTILINE)
        if len(row := [cell.strip() for cell in line.strip("|").split("|")]) == 6
    }
    assert shown == {name: (row.errors, row.retry, row.connection, row.reservation) for name, row in MATRIX.items()}


# --- the matrix and the tests ------------------------------------------------------------------------------------------------


def test_every_case_has_row():
    """1 to 40 where the wire breaks, 41 to 71 with 65b for what comes over it, 72 to 80 in the process."""
    content, _ = tables()
    assert numbers(case.id for case in content) == {*(str(number) for number in range(41, 72)), "65b"}
    wire = numbers([*(case.id for case in wire_faults.CASES), *wire_faults.POOL, *wire_faults.BAD_URLS])
    assert wire >= {str(number) for number in range(1, 41)}
    functions = {
        node.name
        for node in parsed(TESTS / "process" / "test_faults_process.py").body
        if isinstance(node, ast.FunctionDef)
    }
    process = {match[1] for name in functions if (match := re.match(r"test_(\d\d)_", name))}
    assert process | set(ELSEWHERE) == {str(number) for number in range(72, 81)}


def test_ids_are_there_once():
    """A case is found by its id."""
    for cases in tables():
        ids = [case.id for case in cases]
        assert sorted(set(ids)) == sorted(ids)


def test_tables_expect_documented_classes():
    """The tables expect documented classes, and none that is only a base."""
    expected = {case.error.__name__ for cases in tables() for case in cases if case.error is not None}
    assert expected <= set(ROWS) - BASES
    assert len(expected) > 25


@pytest.mark.parametrize("name", sorted(raised() - BASES))
def test_raisable_classes_are_expected(name):
    """Every class that can be raised is expected by a test: by a row of the tables, or by name elsewhere."""
    if name in {case.error.__name__ for cases in tables() for case in cases if case.error is not None}:
        return
    others = [file for file in TESTS.rglob("test_*.py") if file.stem not in ("test_errors", "test_readme_matrix")]
    assert any(name in used_names(file) for file in others if name in file.read_text(encoding="utf-8"))


# --- the matrix and the library ----------------------------------------------------------------------------------------------


def number(name):
    return re.match(r"\d+b?", name)[0]


def disagreements(name, *, error, after, retry, connections, reservations):
    """Name the columns in which a row does not follow the matrix.

    Args:
        name: Its id.
        error: What is raised.
        after: Whether a chunk was given out before.
        retry: The letters that fit how often it is tried.
        connections: What becomes of them.
        reservations: What becomes of them.
    """
    row = MATRIX[number(name)]
    wrong = set()
    if error is not None and error.__name__ not in row.errors:
        wrong.add("error")
    if not set(retry) & set(row.retry.replace("C", "N" if after else "Y")):
        wrong.add("retry")
    if not connections <= set(row.connection):
        wrong.add("connection")
    if not reservations <= set(row.reservation):
        wrong.add("reservation")
    return wrong


def wire_row(case):
    made = case.attempts + 1 if case.connections is None else case.connections
    return disagreements(
        case.id,
        error=case.error,
        after=case.text != "",
        retry="-Y1N" if case.error is None else {1: "N", 2: "1"}.get(case.attempts, "Y"),
        connections=set() if case.seen is None else {"R" if made == 1 else "D"},
        reservations={case.spent},
    )


def content_row(case):
    content = content_faults
    bad = [step for step in case.steps if step not in (content.FINE, content.FINE_PLAIN)] or case.steps
    tries = len(case.steps)
    return disagreements(
        case.id,
        error=case.error,
        after=case.error is not None and bool(case.text),
        retry=("Y1" if tries > 1 else "-") if case.error is None else {1: "N", 2: "1Y"}.get(tries, "Y"),
        connections={"R" if step.kept else "D" for step in bad},
        reservations={step.lim for step in bad},
    )


def test_rows_follow_matrix_or_explain():
    """Every row follows the matrix in error, retry, connection and reservation, or says why not."""
    content, wire = tables()
    used, unexplained = set(), {}
    for case in [*wire, *content]:
        wrong = (content_row if case in content else wire_row)(case)
        reasons = [found for found in DEVIATIONS if re.fullmatch(found.ids, case.id)]
        used |= {(found.ids, column) for found in reasons for column in found.what & wrong}
        left = wrong.difference(*(found.what for found in reasons))
        if left:
            unexplained[case.id] = left
    assert unexplained == {}
    assert {(found.ids, column) for found in DEVIATIONS for column in found.what} - used == set()


def test_matrix_covers_documented_classes():
    """Every documented class is in the matrix or no fault of a peer: settings, closing, cancelling, our own limits."""
    named = set().union(*(row.errors for row in MATRIX.values()))
    later = {name for name, (what, _) in ROWS.items() if "not raised in this version" in what}
    own = {"ProviderClosedError", "ProviderDisabledError", "RequestCancelledError", "CircuitOpenError", "RateLimitTimeoutError"}  # fmt: skip
    assert set(ROWS) - named == BASES | later | own
