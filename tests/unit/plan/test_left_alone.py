"""While a trainer is at work, or a rollout is paused, engines that run stay, whatever happens."""

import dataclasses

import pytest

from sglang_operator.gates import decide
from sglang_operator.observed.model import Observed, Termination
from sglang_operator.plan.plan import plan
from tests.builders import CUDA_OUT_OF_MEMORY, NOW, a_failed_start, a_lease, a_pod, a_pool, all_pods
from tests.unit.plan.rollout_world import World

OLD = "0" * 10
TURNS = ["sync", "sleep"]


def surging(**rollout) -> World:
    """Four engines, and a new one is on its way up beside the last."""
    world = World({"pool": {"rollout": {"maxSurge": 1, **rollout}, "weights": {"gate": "Off"}}})
    world.carry_out(world.plan())
    return world


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rollout": {}},
        {"rollout": {"maxSurge": 1, "partition": 4}},
        {"rollout": {"maxSurge": 1, "paused": True}},
        {"rollout": {"paused": True, "partition": 4}},
        {"seed": 9},
    ],
)
def test_neither_a_probe_nor_an_edit_changes_the_epoch_in_the_trainers_turn(turn, change):
    world = surging()
    world.happens(turn)
    world.happens("3 up")
    before = world.plan()
    world.change(change)
    world.happens("old 3 misses a probe")
    made = world.plan()
    assert not made.removals
    assert decide.epoch(made.engines) == decide.epoch(before.engines)


@pytest.mark.parametrize("phase", ["Syncing", "Sleeping"])
def test_of_two_of_one_revision_neither_goes_in_the_trainers_turn(phase):
    pool = a_pool(weights={"gate": "Off"})
    pods = all_pods(pool, ready=True)
    pods[0] = dataclasses.replace(pods[0], containers_ready=False, ready=False, answered=True)
    twice = a_pod(pool, pool.engines[0], 1, ready=True, created=NOW + 1)
    lease = a_lease(pool, phase=phase, holder="trainer")
    made = plan(pool, Observed(pods=(*pods, twice), children=lease), NOW)
    assert not made.removals
    assert made.engines[0].pod_name == pods[0].name
    assert [removal.pod.name for removal in plan(pool, Observed(pods=(*pods, twice)), NOW).removals]


def test_of_two_of_one_revision_one_goes_though_the_rollout_is_paused():
    pool = a_pool(weights={"gate": "Off"}, rollout={"paused": True})
    pods = all_pods(pool, ready=True)
    twice = a_pod(pool, pool.engines[0], 1, ready=True, created=NOW + 1)
    made = plan(pool, Observed(pods=(*pods, twice)), NOW)
    assert [removal.pod.name for removal in made.removals] == [twice.name]


def test_a_container_that_fails_beside_another_is_taken_over_after_the_sync():
    pool = a_pool(
        device_mapping="list(range(0,8))", weights={"gate": "Off"}, rollout={"maxSurge": 1}
    )
    ended = Termination(
        exit_code=137, reason="Error", message=CUDA_OUT_OF_MEMORY, finished=NOW - 1, started=NOW - 4
    )
    new = a_pod(
        pool,
        pool.engines[3],
        1,
        containers_ready=False,
        restarts=1,
        last_termination=ended,
        containers_ready_changed=NOW - 5,
    )
    pods = (*all_pods(pool, revision=OLD, ready=True), new)
    lease = a_lease(pool, phase="Syncing", holder="trainer")
    held = plan(pool, Observed(pods=pods, children=lease), NOW)
    assert not (held.removals or held.creates)
    freed = plan(pool, Observed(pods=pods), NOW)
    assert [create.attempt for create in freed.creates] == [2]


def test_what_was_given_up_beside_another_is_told_in_a_sync_too():
    world = surging()
    failed = a_failed_start(world.pool, world.pool.engines[3], 1, startup_failures=9, ended_at=NOW)
    world.pods[-1] = failed
    assert world.plan().stalls
    world.happens("sync")
    assert world.plan().stalls


def test_a_pause_keeps_engines_on_other_ids_until_as_many_others_are_up():
    world = World({"pool": {"weights": {"gate": "Off"}}})
    world.change({"device_mapping": "list(range(8,16))", "rollout": {"paused": True}})
    made = world.plan()
    assert not made.removals
    assert len(made.creates) == 4
    world.carry_out(made)
    assert not world.plan().removals
    world.happens("0 up")
    assert len(world.plan().removals) == 1


def test_a_pause_stops_no_pool_from_having_fewer_engines():
    world = World({"pool": {"weights": {"gate": "Off"}}})
    world.change({"replicas": 2, "rollout": {"paused": True}})
    assert len(world.plan().removals) == 2
