"""The figures of the site are drawn by a script, from the library as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"
NAMES = ["buckets", "call", "throttled"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The figures, drawn anew into a folder."""
    folder = tmp_path_factory.mktemp("figures")
    command = [sys.executable, str(FIGURES / "draw.py"), "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def words(file):
    """The texts of a figure."""
    return [element.text for element in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")]


def test_script_draws_every_figure(drawn):
    """It draws those of the site, no more and no fewer."""
    assert sorted(path.stem for path in drawn.iterdir()) == NAMES == sorted(path.stem for path in FIGURES.glob("*.svg"))


@pytest.mark.parametrize("name", NAMES)
def test_figure_says_the_same(drawn, name):
    """A change of the library that changes what a figure says needs the figure drawn anew: ``python docs/figures/draw.py``."""
    assert words(drawn / f"{name}.svg") == words(FIGURES / f"{name}.svg")


def test_limiter_spares_most_refusals(drawn):
    """The figure shows what the page beside it says: with the limiter hardly any thread is refused."""
    without, with_limiter = map(int, re.findall(r"refused \(429\): (\d+)", " ".join(words(drawn / "throttled.svg"))))
    assert with_limiter <= 3
    assert without > 50 * with_limiter
