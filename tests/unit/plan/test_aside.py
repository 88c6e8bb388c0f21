"""Pods of the pool that stand aside: what is told of them, and what waits for them."""

import dataclasses

from sglang_operator.api import names
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed, Sightings
from sglang_operator.plan.plan import plan
from tests.builders import NOW, a_pod, a_pool, created, planned, removed
from tests.unit.placement.trainers import THREE, a_shared_pool, pods, seen
from tests.unit.plan.test_seating import seated

POOL = a_pool(weights={"gate": "Off"})
FIRST = POOL.engines[0]
STRAY = a_pod(POOL, FIRST, ready=True, container_id="c0")
DRAINS = dataclasses.replace(STRAY, deleting=True, seen=Sightings(first=NOW - 60, due=NOW + 60))


def test_one_that_drains_is_told_of_like_any_other_engine_that_goes():
    found = planned(POOL, [], aside=(DRAINS,), taken={FIRST.name: 0})
    (told,) = found.unlisted
    assert told.name == FIRST.name
    assert told.state is EngineState.WAITING


def test_one_that_drains_keeps_no_engine_from_being_made_where_a_scheduler_counts_gpus():
    again = dataclasses.replace(
        STRAY, name=f"{STRAY.name}-again", uid=names.Uid("again"), attempt=1
    )
    found = planned(POOL, [], aside=(DRAINS, again), taken={FIRST.name: 1})
    assert (FIRST.name, 2) in created(found)
    assert not Observed(aside=(DRAINS, again)).crowded


def test_nothing_waits_for_one_that_is_there_long_after_its_grace():
    late = dataclasses.replace(DRAINS, seen=Sightings(first=1.0, due=NOW - 3600))
    assert not planned(POOL, [], aside=(late,), taken={FIRST.name: 0}).unlisted


def test_those_whose_trainer_is_gone_go_also_under_a_pool_that_leaves():
    pool = a_shared_pool()
    stray, *here = seated(pool)
    gone = seen(pool, *THREE, trainers=pods(*THREE[1:]))
    lost = {pod.name for pod in (stray, *here) if pod.node == "gpu-0"}
    observed = Observed(pods=tuple(here), aside=(stray,), **gone)
    assert set(removed(plan(pool, observed, NOW))) == lost
    leaving = dataclasses.replace(observed, leaving="Terminating")
    found = plan(pool, leaving, NOW)
    assert set(removed(found)) == lost
    assert not any(removal.drains for removal in found.removals)
    assert not found.creates


def test_engines_that_wait_for_one_say_which():
    pool = a_shared_pool()
    stray, *here = seated(pool)
    found = plan(pool, Observed(pods=tuple(here), aside=(stray,), **seen(pool, *THREE)), NOW)
    assert found.kept_out == {stray.engine: stray.name}
    assert not found.creates
