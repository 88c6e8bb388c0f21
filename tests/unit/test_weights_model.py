"""Clients get answers from whole weights only: a subset of ``make weights-model``."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.weights import model

RUNS = 400
FINDING = 3000  # at most, until a control is found: some need several rare things in a row


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_whatever_happens_clients_get_answers_from_whole_weights_and_all_comes_right(chance):
    world = model.run(lambda count: chance.randint(0, count - 1), steps=60)
    assert world.violations == []
    assert world.synced()


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
def test_many_runs_from_seeds(gate):
    answers = 0
    for seed in range(RUNS):
        world = model.run(random.Random(seed).randrange, gate=gate)
        assert world.violations == [], seed
        assert world.synced(), seed
        answers += world.answers
    assert answers > RUNS  # it is not for want of requests


@pytest.mark.parametrize(("defect", "gate"), model.CONTROLS)
def test_what_the_design_forbids_is_found(defect, gate):
    found = (
        model.run(random.Random(seed).randrange, defect=defect, gate=gate).violations
        for seed in range(FINDING)
    )
    assert any(found)
