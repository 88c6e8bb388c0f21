"""Another pool has the memory of the GPUs: nobody is woken, and nothing is taken."""

import asyncio
import threading

import pytest

from sglang_operator.client import AsyncPool, NotReady, contention
from sglang_operator.weights.lease_state import Phase
from sglang_operator.weights.turn import TRAINER
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_turns import a_pool


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(contention, "PATIENCE", 0.5)
    with FakePool() as made:
        made.turns = True
        yield made


@pytest.fixture
def pool(world):
    with a_pool(world) as made:
        yield made


def takes(world, *ranks):
    """The engines of another pool have the memory of the GPUs of these."""

    def take():
        world.taken = {*ranks}
        world.publish()

    world.call(take)


def resumed(world):
    return [e.rank for e in world.engines if "/resume_memory_occupation" in e.paths()]


WORDS = r"engine 1 \(g2-3, \w+\): rl/other has the memory of these GPUs"


def test_a_wake_asks_nobody_and_says_which_pool_is_to_sleep(world, pool):
    pool.sleep(settle=0)
    takes(world, 1)
    with pytest.raises(NotReady, match=WORDS):
        pool.wake()
    assert resumed(world) == []
    assert (world.state.phase, world.state.trainers) == (Phase.SLEEPING, TRAINER)
    assert not world.state.at_work, "another may wake them"
    takes(world)
    pool.wake()
    assert resumed(world) == [0, 1, 2]


def test_a_wake_says_which_pods_are_left_on_the_gpus(world, pool):
    """Their pool was deleted: none is there that could be put to sleep."""
    pool.sleep(settle=0)

    def left():
        world.taken, world.takers = {1}, []
        world.holders = {"other-g2-3-0": [2, 3], "elsewhere-g4-5-0": [4, 5]}
        world.publish()

    world.call(left)
    words = r"engine 1 \(g2-3, \w+\): pods other-g2-3-0 may have the memory of these GPUs"
    for devices in (None, [2, 3]):
        with pytest.raises(NotReady, match=words):
            pool.wake(devices=devices)
    assert resumed(world) == []


def test_a_wake_goes_on_once_the_other_pool_is_seen_to_sleep(world, pool, monkeypatch):
    monkeypatch.setattr(contention, "PATIENCE", 30.0)
    pool.sleep(settle=0)
    takes(world, 1)
    gives_up = threading.Timer(0.5, takes, [world])
    gives_up.start()
    pool.wake()
    gives_up.join()
    assert resumed(world) == [0, 1, 2]


def test_a_wake_of_other_gpus_goes_on(world, pool):
    pool.sleep(settle=0)
    takes(world, 1)
    pool.wake(devices=[0, 1])
    assert resumed(world) == [0]


def test_a_sync_wakes_nobody_whose_gpus_another_pool_has(world, pool):
    pool.sleep(settle=0)
    takes(world, 1)
    words = "put the engines of that pool to sleep"
    with pytest.raises(NotReady, match=words), pool.sync("step-1"):
        pass
    assert resumed(world) == []


def test_who_has_ended_asleep_is_not_given_its_gpus_back_while_another_pool_has_them(world, pool):
    pool.sleep(settle=0)
    world.end(1)
    takes(world, 1)
    with pytest.raises(NotReady, match=WORDS):
        pool.wake()
    assert resumed(world) == []
    assert not world.engines[1].instance
    assert world.state.trainers == TRAINER


def test_who_is_given_its_gpus_back_and_does_not_come_up_names_the_other_pool(world, pool):
    pool.sleep(settle=0)
    world.end(1)
    world.starts = False
    taken = threading.Timer(0.3, takes, [world, 1])
    taken.start()
    with pytest.raises(NotReady, match=WORDS):
        pool.wake(loading=1.0)
    taken.join()


@pytest.mark.parametrize("asleep", [False, True])
def test_a_trainer_takes_no_memory_that_another_pools_engines_have(world, pool, asleep):
    if asleep:
        pool.sleep(settle=0)
    takes(world, 1)
    with pytest.raises(NotReady, match=rf"the memory is not the trainer's: {WORDS}"):
        pool.take_turn(timeout=1.5)
    takes(world)
    pool.take_turn(timeout=10)


def test_a_registry_that_nobody_writes_any_more_lets_nobody_in(world, pool):
    async def asks():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as made:
            await contention.nobody_else_soon(made, lambda found: found.present, "t-unknown")

    with pytest.raises(NotReady, match="the operator has not said since this was begun"):
        asyncio.run(asks())
