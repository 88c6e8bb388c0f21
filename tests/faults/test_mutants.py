"""The suite can fail: a few of the planted defects, each caught by the points named for it.

``python -m tests.mutants`` tries all of them.  ``FAULT_SEED`` chooses another sample.
"""

import random
from collections.abc import Iterator

import pytest

from tests.faults.lab import Lab
from tests.faults.test_faults import SEED
from tests.mutants.__main__ import caught
from tests.mutants.catalogue import MUTANTS
from tests.mutants.killers import KILLERS, MODEL
from tests.mutants.planted import source_root

OF_THE_PLANNER = [mutant for mutant in MUTANTS if MODEL in KILLERS[mutant.name]]
SAMPLE = random.Random(SEED).sample(OF_THE_PLANNER, 3)
# A few seconds each; the others take the time in which something does not happen.
QUICK = ("ghost-after-410", "hot-refusals", "older-wins", "failure-not-recorded")


@pytest.fixture
def restored(lab: Lab) -> Iterator[Lab]:
    yield lab
    lab.replace_operator(None)


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name)
def test_a_defect_of_the_planner_is_walked_into(restored: Lab, mutant):
    with source_root(mutant) as package:
        assert caught(restored, [MODEL], package)


def test_a_defect_of_the_loop_is_caught(restored: Lab):
    name = random.Random(SEED).choice(QUICK)
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with source_root(mutant) as package:
        assert caught(restored, KILLERS[name], package)
