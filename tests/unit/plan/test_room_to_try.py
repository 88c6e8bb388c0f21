"""A start failed, and others have its place since: it is found out whether the revision starts."""

import dataclasses

import pytest

from sglang_operator.plan.rollout_state import Waits
from tests.unit.plan.rollout_world import World

MOVED = {"device_mapping": "list(range(8,16))"}
CHANGES = [pytest.param(MOVED, id="other ids"), pytest.param({"seed": 9}, id="another revision")]


def _without_a_place(change, surge=0, seen: int | None = 0) -> World:
    """The first new engine failed, and somebody else's pod is where it was."""
    world = World(
        {
            "pool": {"rollout": {"maxSurge": surge}, "weights": {"gate": "Off"}},
            "room": surge,
            "seen": seen if seen is None else surge,
        }
    )
    world.pods = [dataclasses.replace(pod, revision=world.pool.revision) for pod in world.pods]
    world.change(change)
    while not (new := _starting(world)):
        world.carry_out(world.plan())
    world.becomes(new[0].engine, new[0].attempt, "fails")
    _others_take_a_place(world)
    return world


def _starting(world):
    return [pod for pod in world.pods if pod.node and not (pod.ended or pod.containers_ready)]


def _others_take_a_place(world):
    assert world.room is not None
    world.happens(f"room {world.room - 1}")
    if world.seen is not None:
        world.seen = world.room


def _pass_by(world, passes=20):
    for _ in range(passes):
        made = world.plan()
        world.carry_out(made)
        world.now += 30
    return world.plan()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seen", [None, 0], ids=["nodes unread", "nodes read"])
def test_what_lets_it_go_on_is_told_and_lets_it_go_on(change, seen):
    world = _without_a_place(change, seen=seen)
    made = _pass_by(world)
    assert world.serving() == 3
    assert made.waiting is not None
    assert made.waiting.what is Waits.FOR_ROOM
    assert world.reason(made) == "NoRoomOnANode"
    world.change({"rollout": {"maxUnavailable": made.waiting.needed}})
    for _ in range(30):
        made = world.plan()
        world.carry_out(made)
        world.comes_up()
    pods = world.pods
    assert all(world.pool.accepts(pod.revision) for pod in pods)
    assert {pod.engine for pod in pods} <= {engine.name for engine in world.pool.running}
    assert world.serving() == 3  # one place is another's


def test_old_ones_go_within_the_budget_where_it_allows_that():
    world = _without_a_place(MOVED)
    world.change({"rollout": {"maxUnavailable": 2}})
    _pass_by(world)
    assert world.serving() == 2
    assert _starting(world)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("surge", [0, 1])
def test_a_revision_that_always_fails_takes_one_place_for_each_that_was_lost(change, surge):
    world = _without_a_place(change, surge)
    world.change({"rollout": {"maxUnavailable": "100%", "maxSurge": surge}})
    for _ in range(100):
        made = world.plan()
        world.carry_out(made)
        for pod in _starting(world)[:1]:
            world.becomes(pod.engine, pod.attempt, "fails")
            world.happens("free")
        world.now += 30
    assert made.stalls
    assert world.serving() == 2 + surge


def test_no_other_goes_while_one_is_tried():
    world = _without_a_place(MOVED)
    world.change({"rollout": {"maxUnavailable": "100%"}})
    for _ in range(20):
        if not _starting(world):
            world.carry_out(world.plan())
            world.now += 30
    assert _starting(world)
    assert not _pass_by(world).removals
    assert world.serving() == 2
