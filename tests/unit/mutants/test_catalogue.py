"""Every mutant can still be planted: one that the code has outgrown is written anew."""

import pytest

from tests.faults.__main__ import scenarios
from tests.mutants import planted
from tests.mutants.catalogue import MUTANTS, Edit, Mutant
from tests.mutants.killers import KILLERS, MODEL, UNIT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_code_as_it_is(mutant):
    assert planted.planted(mutant)


def test_a_mutant_that_does_not_apply_is_an_error():
    edit = Edit(path="actions.py", before="no such line", after="")
    with pytest.raises(planted.DriftError, match="stands 0 times"):
        planted.planted(Mutant(name="old", harm="", edits=(edit,)))


def test_a_mutant_that_is_no_python_is_an_error():
    edit = Edit(path="actions.py", before="class CreatePod:", after="class (:")
    with pytest.raises(planted.DriftError, match="no Python"):
        planted.planted(Mutant(name="broken", harm="", edits=(edit,)))


def test_every_mutant_has_points_that_are_to_catch_it():
    assert {mutant.name for mutant in MUTANTS} == KILLERS.keys()
    points = {killer for killers in KILLERS.values() for killer in killers}
    assert {killer.fault for killer in points} - {MODEL.fault, UNIT} <= scenarios().keys()
    files = [planted.SOURCE.parent / killer.point for killer in points if killer.fault == UNIT]
    assert files
    assert all(file.is_file() for file in files)
