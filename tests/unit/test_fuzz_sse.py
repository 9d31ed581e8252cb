"""The fuzz target of the event stream: its corpus, and mutations of it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
import sse as target

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_is_read_the_same_for_every_split(path):
    """Examples of the service and what earlier runs found."""
    data = path.read_bytes()
    target.one_input(data)
    whole = target.read([data])
    for at in range(len(data)):
        assert repr(target.read([data[:at], data[at:]])) == repr(whole)


@pytest.mark.soak
def test_mutations_of_the_corpus_raise_nothing_but_our_errors(full):
    """A few thousand executions, with --full a million."""
    seeds = [path.read_bytes() for path in CORPUS]
    dice = random.Random(20261122)
    for _ in range(1_000_000 if full else 8_000):
        target.one_input(target.mutate(dice.choice(seeds), dice, seeds))
