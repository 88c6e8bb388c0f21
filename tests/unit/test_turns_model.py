"""A trainer and engines on its GPUs never hold memory together: a subset of ``weights-model``."""

import pytest

from tests.weights import taking_turns, two_pools

RUNS = 40
FINDING = 400


def test_many_runs_in_which_trainer_and_engines_take_turns():
    turns = waited = regrouped = 0
    for seed in range(RUNS):
        world = taking_turns.run(seed)
        assert world.both == [], seed
        turns += world.trainer.turns
        waited += world.trainer.kept_waiting
        regrouped += world.regrouped
    assert turns > RUNS / 2  # it is not for want of turns
    assert waited > 0  # nor of engines that would have come
    assert regrouped > RUNS / 4  # nor of GPUs that were grouped anew meanwhile


@pytest.mark.parametrize("seed", [122430, 123413])
def test_a_lease_is_put_back_and_lost_before_the_operator_looks(seed):
    assert taking_turns.run(seed).both == []


@pytest.mark.parametrize("defect", taking_turns.CONTROLS)
def test_what_keeps_their_turns_apart_is_missed(defect):
    assert any(taking_turns.run(seed, defect=defect).both for seed in range(FINDING))


def test_many_runs_in_which_two_pools_are_on_the_same_gpus():
    turns = woken = refused = 0
    for seed in range(RUNS):
        pair = two_pools.run(seed)
        assert pair.awake == pair.both == [], seed
        turns += sum(world.trainer.turns for world in pair.worlds)
        woken += sum(world.woken for world in pair.worlds)
        refused += pair.refused
    assert min(turns, woken, refused) > 0


@pytest.mark.parametrize("defect", two_pools.CONTROLS)
def test_what_keeps_two_pools_apart_is_missed(defect):
    assert any(two_pools.run(seed, defect=defect).awake for seed in range(FINDING))
