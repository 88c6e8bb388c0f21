"""Clients get answers from whole weights only: a subset of ``make weights-model``."""

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import LEASE_SECONDS, Phase, Transaction
from sglang_operator.weights.steps import Trainer
from tests.builders import NOW
from tests.weights import model, part_sleep
from tests.weights.ground import Entry, Registry

RUNS = 200
FINDING = 3000  # at most, until a control is found: some need several rare things in a row
# Where to begin with one that is found late: a minute and more is spent on the seeds before.
BEGIN = {
    "begins anything in the job whose shared sync was aborted": 160,
    "believes a Lease that has forgotten": 120,
    "counts transactions alone in a Lease that was put back": 305,
    "frees what is aborted by force": 80,
    "lets who gave its weights up in a part run for a moment, as the others are whole": 350,
    "loads without a fence": 130,
    "makes a lost Lease anew for whoever comes first": 70,
    "marks on gates what has been released, and not what is about to be": 110,
    "takes a sync that was ended for one in which everybody has vouched": 290,
    "takes what was aborted by force for free, once its holder is edited away": 80,
    "takes who is not named for gone": 80,
    "writes gates by the pod's UID alone": 65,
    "writes into the Lease whatever stands there by now": 2150,
}


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


def test_many_runs_in_which_all_trainers_are_jobs_of_roll():
    jobs: Counter[str] = Counter()
    for seed in range(RUNS):
        world = model.run(random.Random(seed).randrange, roll=True)
        assert world.violations == [], seed
        assert world.synced(), seed
        jobs += world.jobs
    assert jobs["committed"] > 0
    assert jobs["begun on a pool that grew"] > 0
    assert jobs["begun with a worker that gets no bucket"] > 0
    assert jobs["lost a bucket before it was under way"] > 0
    assert jobs["not told of the end of an update"] > 0


def slept_apart(gate, **how):
    """How often parts slept, in as many runs of this kind as find nothing."""
    slept = 0
    for seed in range(RUNS):
        world = model.run(random.Random(seed).randrange, gate=gate, **how)
        assert world.violations == [], seed
        assert world.synced(), seed
        slept += world.slept_apart
    return slept


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
def test_many_runs_in_which_parts_of_the_pool_sleep_and_the_others_serve_on(gate):
    assert slept_apart(gate, parts=True) > RUNS / 4


def test_many_runs_in_which_parts_sleep_of_a_pool_whose_weights_came_by_label_alone():
    assert slept_apart("Versioned", parts=True, labelled=True) > RUNS / 4


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
def test_many_runs_beside_trainers_and_operators_that_know_of_no_parts(gate):
    assert slept_apart(gate, mixed=True) > RUNS / 8


def found(defect, gate, **how):
    """Whether one of the seeds from where it begins shows this defect."""
    begin = BEGIN.get(defect, 0)
    seeds = range(begin, begin + FINDING)
    return any(
        model.run(random.Random(seed).randrange, defect=defect, gate=gate, **how).violations
        for seed in seeds
    )


@pytest.mark.parametrize(("defect", "gate"), part_sleep.CONTROLS)
def test_what_keeps_parts_asleep_and_the_others_in_service_is_missed(defect, gate):
    assert found(defect, gate, parts=True)


@pytest.mark.parametrize(("defect", "gate"), model.ROLL_CONTROLS)
def test_what_keeps_rolls_jobs_from_wrong_weights_is_missed(defect, gate):
    assert found(defect, gate, roll=True)


@pytest.mark.parametrize(("defect", "gate"), model.CONTROLS)
def test_what_the_design_forbids_is_found(defect, gate):
    assert found(defect, gate)


def test_where_to_begin_is_said_of_defects_that_there_are():
    every = (*model.CONTROLS, *model.ROLL_CONTROLS, *part_sleep.CONTROLS)
    assert BEGIN.keys() <= {defect for defect, _ in every}


HOLDER = Trainer(holder="holder", transaction="before")
COMMITTED = Transaction(phase=Phase.COMMITTED, version="v0", checkpoint="/c/v0")
ASLEEP = steps.sleep(COMMITTED, HOLDER, tags=["kv_cache"], now=NOW, seen=NOW)
SYNCING = steps.begin(COMMITTED, HOLDER, epoch="e", version="v1", now=NOW, seen=NOW, shared=True)


def takes(world, after):
    """Whether a trainer gets the Lease so many seconds after NOW."""
    before, world.now, world.trainer = world.said, NOW + after, world._sleep()
    world.train()
    return world.said != before


@pytest.mark.parametrize(
    ("before", "step"),
    [
        (ASLEEP, partial(steps.slept, trainer=HOLDER, instances=["i"], now=NOW)),
        (ASLEEP, partial(steps.woke, trainer=HOLDER, instances=["i"], tags=["kv_cache"])),
        # It was decided at NOW.
        (COMMITTED, partial(steps.recover, operator=HOLDER, instances=["i"], now=NOW, seen=NOW)),
    ],
)
def test_who_waits_for_a_lease_counts_from_its_last_change_whatever_its_time_says(before, step):
    world = model.World(lambda count: 0)
    world._put(before)
    world.now += 20
    world._put(step(before))
    assert not takes(world, LEASE_SECONDS + 1)
    assert not takes(world, 20 + LEASE_SECONDS)
    assert takes(world, 21 + LEASE_SECONDS)


def test_who_vouches_in_a_sync_does_not_renew_it():
    world = model.World(lambda count: 0)
    world._put(SYNCING)
    world.now += 20
    world._note(partial(steps.vouch, trainer=HOLDER, instances=["i"]))
    assert HOLDER.transaction not in world.renewed
    world.trainer, world.now = world._sync(), NOW + LEASE_SECONDS + 1
    world.registry = Registry(epoch="e", engines=(Entry("i", True, True),))
    world.train()
    assert world.said.id != HOLDER.transaction
