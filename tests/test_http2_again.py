"""The second run leaves out what its table names, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import http2_again
import pytest


@pytest.fixture(scope="module")
def collected():
    """The names of the tests of the suites that run again, as pytest collects them, by suite and wire."""
    here = Path(__file__).parent
    files = [str(here / f"{suite}.py") for suite in http2_again.SUITES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "--no-header", *files],
        capture_output=True,
        text=True,
        check=False,
        cwd=here.parent,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[tuple[str, str], set[str]] = {}
    for line in done.stdout.splitlines():
        place, colons, name = line.partition("::")
        suite = Path(place).stem
        if not colons or suite not in http2_again.SUITES:
            continue
        wire, name = http2_again.split_name(name, http2_again.SUITES[suite])
        found.setdefault((suite, wire), set()).add(name)
    return found


@pytest.mark.parametrize(
    ("suite", "wire"), [(suite, wire) for suite, wires in http2_again.SUITES.items() for wire in wires]
)
def test_everything_runs_again_but_what_the_table_names(collected, suite, wire):
    """Every other test of the suite is there a second time."""
    first = collected[suite, "http1"]
    expected = {name for name in first if http2_again.is_left_out(suite, wire, name) is None}
    assert collected[suite, wire] == expected
    assert expected


@pytest.mark.parametrize("entry", http2_again.LEFT_OUT, ids=lambda entry: f"{entry[0]}-{entry[1]}-{entry[2]}")
def test_what_the_table_names_is_there(collected, entry):
    """And has a reason."""
    suite, wire, pattern, reason = entry
    assert wire == "*" or wire in http2_again.SUITES[suite]
    assert any(http2_again.matches(name, pattern) for name in collected[suite, "http1"]), "no such test"
    assert len(reason) > 20
