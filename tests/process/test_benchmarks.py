"""The benchmark runs, takes its measures, and skips packages that are not installed. Nothing here asserts a time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = ["--quick", "--rounds", "1", "--requests", "2", "--chunks", "20", "--seconds", "0.05", "--imports", "1"]


def run(*arguments, timeout=180):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "compare.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """One tiny run of this library, the groq SDK if it is there, and the floor."""
    file = tmp_path_factory.mktemp("benchmarks") / "found.json"
    done = run(*TINY, "--only", "ours,groq,floor", "--json", str(file))
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text("utf-8"))


@pytest.mark.full
def test_prints_all_tables_and_budgets(tiny):
    """All tables, the server's ceiling and the budget lines are there."""
    text, _ = tiny
    for part in ("Plain requests", "Streams", "Time to first token", "Throughput", "Fresh interpreters", "own ceiling"):
        assert part in text
    assert "CPU per request: " in text
    assert "(budget 1/3)" in text
    assert "(budget 1/10)" in text


@pytest.mark.full
def test_json_holds_every_measure(tiny):
    """The file holds a figure of each kind, and every slice."""
    _, data = tiny
    found = data["contenders"]["ours"]
    for key in ("json", "json wall", "chunks events", "chunks burst", "chunks merged", "rate 1", "rate 32"):
        assert "median" in found[key], key
    assert found["json"]["median"] > 0
    assert len(data["slices"]["first"]["ours"][0]) == 2
    assert data["imports"]["ours"]["modules_import"] > 0


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("groq") is not None, reason="groq is installed")
def test_missing_contender_skipped_with_note(tiny):
    """What is not installed is named and left out."""
    text, data = tiny
    assert "groq SDK skipped: not installed: groq" in text
    assert "groq" not in data["contenders"]


@pytest.mark.parametrize("wrong", [["--only", "wget"], ["--rounds", "0"]], ids=["unknown contender", "no rounds"])
def test_wrong_options_are_refused(wrong):
    """A mistake on the command line is said before anything is measured."""
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
