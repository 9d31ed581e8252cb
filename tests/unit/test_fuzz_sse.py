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
def test_corpus_reads_same_when_split(path, full):
    """Examples of the service and what earlier runs found."""
    data = path.read_bytes()
    target.one_input(data)
    whole = target.read([data])
    for at in range(0, len(data), 1 if full else 3):
        assert repr(target.read([data[:at], data[at:]])) == repr(whole)


@pytest.mark.soak
def test_corpus_mutations_raise_our_errors(full):
    """Mutations of the corpus raise only our errors: a few thousand executions, with --full a million."""
    seeds = [path.read_bytes() for path in CORPUS]
    dice = random.Random(20261122)
    for _ in range(1_000_000 if full else 4_000):
        target.one_input(target.mutate(dice.choice(seeds), dice, seeds))
