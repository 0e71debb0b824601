"""The written mutations fit the code as it is; ``python -m benchmarks.mutations`` applies them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks.mutations.catalogue import Mutation, catalogue
from benchmarks.mutations.choice import files_for

ROOT = Path(__file__).resolve().parents[2]
MUTATIONS = catalogue()


STALE = 0.02
"""Share whose text may have moved on; the program leaves those out and says so."""


def test_every_mutation_fits_once_and_is_a_program():
    sources = {m.file: (ROOT / m.file).read_text(encoding="utf-8") for m in MUTATIONS if (ROOT / m.file).exists()}
    stale = []
    for mutation in MUTATIONS:
        mutated = mutation.applied(sources.get(mutation.file, ""))
        if mutated is None or mutated == sources[mutation.file]:
            stale.append(f"{mutation.room}: {mutation.name}")
        else:
            compile(mutated, mutation.file, "exec")
    assert len(stale) <= STALE * len(MUTATIONS), f"rewrite these in benchmarks/mutations/rooms: {stale}"


def test_there_are_enough_of_them_in_all_rooms():
    assert len(MUTATIONS) >= 300
    assert not [key for key, count in Counter((m.file, m.name) for m in MUTATIONS).items() if count > 1]
    assert all(files_for(m.file) for m in MUTATIONS)


def test_a_text_that_is_not_there_once_is_stale():
    mutation = Mutation("room", "file", "name", ["a = 1"], ["a = 2"])
    assert mutation.applied("a = 1\nb") == "a = 2\nb"
    assert mutation.applied("a = 1\na = 1") is None and mutation.applied("") is None
