"""A trainer that died between its requests leaves nobody on record as asleep who is awake."""

import time
from typing import Any

import pytest

from sglang_operator.client.errors import NotReady
from sglang_operator.weights import parts, rules, steps
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction
from sglang_operator.weights.turn import TRAINER
from tests.unit.client.fake_pool import FakeEngine, FakePool
from tests.unit.client.test_turns import a_pool

ALL = set(SLEEP_TAGS)


@pytest.fixture
def world():
    with FakePool() as made:
        made.turns = True
        for engine in made.engines:
            engine.strict = True
        yield made


@pytest.fixture
def pool(world):
    with a_pool(world) as made:
        yield made


def dead(transaction="t-dead", holder="trainer-dead"):
    return steps.Trainer(holder=holder, transaction=transaction, duration=0.2)


def dies_at_work(world, *awake, wakes=False, holder="trainer-dead"):
    """A trainer has put all on record as asleep; all but these have released their memory."""
    now, runs = time.time(), [engine.instance for engine in world.engines]
    first, last = dead(holder=holder), dead("t-wakes", holder)
    state = steps.sleep(world.state, first, tags=SLEEP_TAGS, now=now, seen=0.0, takes=TRAINER)
    state = steps.slept(state, first, instances=runs, now=now)
    if wakes:
        state = steps.take_on(steps.rests(state, first), last, now=now, seen=0.0)
    for engine in world.engines:
        engine.paused, engine.released = True, set() if engine.rank in awake else {*SLEEP_TAGS}
    assert state.at_work
    world.write_lease(state)


def ends_if_woken(world, rank):
    """As SGLang does that is told to resume what it has; the operator sees it a moment later."""
    was = world.engines[rank]

    def ends():
        world.engines[rank] = FakeEngine(rank=rank, url=was.url, state="Waiting")
        world._operate()

    def dies(_):
        world._loop.call_later(0.3, ends)
        return was._dies("it had not released it")

    was._resume_memory_occupation = dies
    return was


@pytest.mark.parametrize("devices", [None, [2, 3]], ids=["all", "a part"])
@pytest.mark.parametrize("wakes", [False, True], ids=["putting to sleep", "waking"])
def test_who_takes_the_memory_after_that_meets_no_engine_there(world, pool, wakes, devices):
    """It was told that it has it, and that nothing was left to release."""
    dies_at_work(world, 1, wakes=wakes)
    was = ends_if_woken(world, 1)
    pool.take_turn(timeout=20, settle=0, devices=devices)
    assert was.dead
    assert not world.engines[1].instance
    assert all(engine.released >= ALL for engine in world.engines if engine.instance)
    assert world.state.phase is Phase.SLEEPING
    assert world.state.trainers.has((2, 3))


@pytest.mark.parametrize("ends", [steps.aborted, steps.ended], ids=["expired", "by force"])
def test_a_sync_that_died_as_it_woke_them_leaves_that_open_too(world, pool, ends):
    """Its abort said that all of them sleep as before it."""
    dies_at_work(world, 1)
    slept, now, syncs = steps.rests(world.state, dead()), time.time(), dead("t-syncs")
    state = steps.begin(slept, syncs, epoch="", version="v", now=now, seen=0.0)
    by: dict[str, Any] = {"unsure": True} if ends is steps.aborted else {"by": "admin", "now": now}
    world.write_lease(ends(state, message="it does not renew", **by))
    was = ends_if_woken(world, 1)
    pool.take_turn(timeout=20, settle=0)
    assert was.dead
    assert all(engine.released >= ALL for engine in world.engines if engine.instance)
    assert world.state.phase is Phase.SLEEPING


def test_an_abort_by_who_was_at_work_leaves_nothing_open(world):
    dies_at_work(world)
    assert not steps.aborted(world.state, "all is told").at_work


def test_those_that_slept_sleep_again_and_none_has_ended(world, pool):
    dies_at_work(world)
    assert pool.take_turn(timeout=20, settle=0).engines == 3
    assert [engine.dead for engine in world.engines] == [False] * 3
    assert all(engine.released >= ALL for engine in world.engines)


def test_of_a_part_nobody_else_is_woken(world, pool):
    dies_at_work(world)
    pool.take_turn(timeout=20, settle=0, devices=[2, 3])
    woken = [e.rank for e in world.engines if "/resume_memory_occupation" in e.paths()]
    assert woken == [1]


def test_who_sleeps_beside_that_part_is_not_taken_for_asleep_afterwards(world, pool):
    """The trainer may have their GPUs, so that nobody wakes them: nobody knows of them either."""
    dies_at_work(world)
    pool.take_turn(timeout=20, settle=0, devices=[2, 3])
    others = {engine.instance for engine in world.engines if engine.rank != 1}
    assert world.state.unclear == others
    with pytest.raises(NotReady, match="nobody knows"):
        pool.sleep(settle=0)


def test_where_nobody_died_at_work_nobody_is_woken(world, pool):
    dies_at_work(world, holder="trainer-a")
    world.write_lease(steps.rests(world.state, dead(holder="trainer-a")))
    pool.sleep(settle=0)
    assert not any("/resume_memory_occupation" in engine.paths() for engine in world.engines)


def test_only_a_sleep_that_has_named_engines_leaves_that_open():
    state = steps.sleep(Transaction(), dead(), tags=SLEEP_TAGS, now=1.0, seen=0.0, takes=TRAINER)
    assert not rules.unsure(state)
    slept = steps.slept(state, dead(), instances=["a"], now=1.0)
    assert rules.unsure(slept)
    assert not rules.unsure(steps.rests(slept, dead()))
    woken = parts.wake(slept, dead(), instances=["a"], now=1.0)
    assert not rules.unsure(woken)
