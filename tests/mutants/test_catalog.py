"""The catalog of mutants fits the source: each edit changes one place, and the file still compiles."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.catalog import MUTANTS, Mutant

SOURCE = Path(__file__).parents[2] / "src/ibbond"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_one_place(mutant: Mutant) -> None:
    text = (SOURCE / mutant.file).read_text()
    assert text.count(mutant.old) == 1
    ast.parse(text.replace(mutant.old, mutant.new))


def test_there_are_enough_of_each_room() -> None:
    rooms = Counter(mutant.room for mutant in MUTANTS)
    assert set(rooms) == {"bonding", "ipoib", "subnet", "stack", "cm"}
    assert min(rooms.values()) >= 8
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60
