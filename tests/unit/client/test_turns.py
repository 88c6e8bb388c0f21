"""The trainer's turn and the engines': who has ended waits, and nobody has the memory too early."""

import asyncio
import threading
import time
from typing import Any

import pytest

from sglang_operator.client import AsyncPool, Held, NotReady, Pool, turns
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.turn import ENGINES, TRAINER, Turn
from tests.docs import pages
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, other


@pytest.fixture
def world():
    with FakePool() as made:
        made.turns = True
        yield made


@pytest.fixture
def pool(world):
    with a_pool(world) as made:
        yield made


def a_pool(world, holder="trainer-a"):
    return Pool(POOL, NAMESPACE, identity=world.identity, holder=holder)


def later(world, seconds, act):
    def run():
        time.sleep(seconds)
        world.call(act)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def comes_up(world):
    world.starts = True
    world._operate()


# --- wake


def test_wake_has_those_started_that_ended_asleep_and_waits_for_them(world, pool):
    pool.sleep(settle=0)
    assert world.state.trainers == TRAINER
    world.end(1)
    world.starts = False
    starting = later(world, 0.5, lambda: comes_up(world))
    begun = time.monotonic()
    after = pool.wake()
    assert time.monotonic() - begun > 0.4
    starting.join()
    assert after.phase is Phase.AWAKE
    assert after.trainers == ENGINES
    assert [engine.up for engine in pool.engines()] == [True, True, True]
    assert world.engines[1].paths() == [], "it never slept, and is not told to resume"


def test_wake_names_who_does_not_come_and_the_next_one_goes_on_waiting(world, pool):
    pool.sleep(settle=0)
    world.end(1)
    world.starts = False
    with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Waiting\): not up 0 s after"):
        pool.wake(loading=0.2)
    assert world.state.trainers == ENGINES
    assert not any(engine.released for engine in world.engines), "the others are awake"
    with pytest.raises(NotReady, match="engine 1"):
        pool.wake(loading=0.2)
    world.call(lambda: comes_up(world))
    assert pool.wake().phase is Phase.AWAKE


def test_a_wake_of_some_gpus_starts_and_waits_for_theirs_alone(world, pool):
    pool.sleep(settle=0)
    world.end(0)
    world.end(2)
    after = pool.wake(devices=[0, 1, 2, 3])
    assert after.trainers == Turn(frozenset({0, 1, 2, 3}), but=True)
    assert [engine.up for engine in pool.engines()] == [True, True, False]
    assert pool.engines()[2].waits
    after = pool.wake(devices=[4, 5])
    assert after.trainers.has([4, 5]) is False
    assert pool.engines()[2].up


def test_a_wake_of_the_weights_alone_starts_nobody(world, pool):
    pool.sleep(settle=0)
    world.end(1)
    assert pool.wake(["weights"]).trainers == TRAINER
    assert not pool.engines()[1].up
    assert pool.wake().trainers == ENGINES
    assert pool.engines()[1].up


def test_a_lease_that_was_lost_is_given_back_by_wake_and_who_slept_sleeps_on(world, pool):
    runs = [engine.instance for engine in world.engines[:2]]
    lost = Transaction(phase=Phase.ABORTED, released=("weights",), asleep=tuple(runs), turn=TRAINER)
    world.end(2)
    world.write_lease(lost)
    assert pool.wake().trainers == ENGINES
    assert pool.engines()[2].up
    assert set(world.state.asleep) == set(runs), "the next sync wakes them"


@pytest.mark.parametrize("turn", [Turn(frozenset(range(6)), but=True), Turn(frozenset({8, 9}))])
def test_a_wake_gives_back_gpus_that_no_engine_is_on(world, pool, turn):
    world.write_lease(Transaction(phase=Phase.ABORTED, id="x", turn=turn))
    assert pool.wake().trainers == ENGINES
    assert world.state.trainers == ENGINES


def test_nobody_takes_back_what_another_trainer_has(world, pool):
    with a_pool(world, "trainer-b") as first:
        first.sleep(settle=0)
        world.end(1)
        with pytest.raises(Held):
            pool.wake()
        assert world.state.trainers == TRAINER


# --- regrouped while it sleeps


class Regrouped(FakePool):
    """Once ``regrouped``: engine 1 is of GPUs 0 to 3, and waits; that of 0 and 1 sleeps there, and
    ends by the operator's word once these are the engines' again."""

    regrouped = False
    ended = False

    def regroup(self):
        self.aside = {0}
        self.end(1)
        self.regrouped = True
        self.call(self._operate)
        self.call(self.publish)

    def _entry(self, engine):
        found = super()._entry(engine)
        if self.regrouped and engine.rank == 1:
            found |= {"engine": "g0-3", "devices": [0, 1, 2, 3]}
        return found

    def _unlisted(self):
        if self.ended:
            return []
        return [{**each, "devices": [0, 1]} for each in super()._unlisted()]

    def _waits(self, engine):
        old = self.regrouped and engine.rank == 1 and not self.ended
        return super()._waits(engine) or (old and not engine.instance)

    def _takes_turns(self):
        if self.regrouped and not self.state.trainers.has((0, 1, 2, 3)) and self.starts:
            self.ended = True
        super()._takes_turns()


@pytest.fixture
def other_grouping():
    with Regrouped() as made:
        made.turns = True
        yield made


def asked_to_resume(engine):
    return "/resume_memory_occupation" in engine.paths()


def test_a_sync_of_a_pool_that_was_regrouped_asleep_is_of_the_new_engines(other_grouping):
    world = other_grouping
    with a_pool(world) as pool:
        pool.update_from_disk("/c/1", "step-1")
        pool.sleep(settle=0)
        world.regroup()
        pool.update_from_disk("/c/2", "step-2")
        assert world.state.phase is Phase.COMMITTED
        assert {engine.weights for engine in world.engines[1:]} == {"/c/2"}
        assert not asked_to_resume(world.engines[0]), "it is ended, and what it had is nobody's"


def test_a_wake_of_some_gpus_has_those_made_that_are_of_them_by_now(other_grouping):
    world = other_grouping
    with a_pool(world) as pool:
        pool.sleep(settle=0)
        world.regroup()
        after = pool.wake(devices=[0, 1, 2, 3])
        assert after.trainers == Turn(frozenset({0, 1, 2, 3}), but=True)
        assert [engine.up for engine in pool.engines()] == [True, True]
        assert not asked_to_resume(world.engines[0])
        assert world.engines[2].released, "it sleeps on"
        after = pool.wake()
        assert (after.phase, after.asleep) == (Phase.AWAKE, ())
        assert after.trainers == ENGINES


def test_what_is_said_of_new_engines_that_do_not_come_is_so(other_grouping, monkeypatch):
    """It said that all sleepers are awake, and the next call waited for nobody."""
    monkeypatch.setattr(turns, "LOADING_SECONDS", 0.3)
    world = other_grouping
    with a_pool(world) as pool:
        pool.sleep(settle=0)
        world.starts = False
        world.regroup()
        for _ in range(2):
            with pytest.raises(NotReady, match=r"\(g0-3, Waiting\): not up 0 s after") as told:
                pool.update_from_disk("/c/2", "step-2")
            assert "awake" not in str(told.value)
        assert world.state.trainers == ENGINES
        assert set(world.state.asleep) >= {world.engines[2].instance}
        world.call(lambda: comes_up(world))
        pool.update_from_disk("/c/2", "step-2")
        assert world.state.phase is Phase.COMMITTED


class Counted(Regrouped):
    """The same where engines have GPUs of their own: the old one goes once nobody sleeps."""

    def _waits(self, engine):
        return False

    def _operate(self):
        if self.regrouped and not self.ended and self.state.phase is not Phase.SLEEPING:
            self.ended, self.engines[1].instance, self.engines[1].state = True, "cccc0001", "Up"
        super()._operate()


def test_a_sync_of_a_pool_with_gpus_of_its_own_wakes_who_is_in_the_way_of_new_engines():
    """It said that these are not up, and they waited for the wake of those that slept."""
    world = Counted()
    with world, a_pool(world) as pool:
        pool.update_from_disk("/c/1", "step-1")
        pool.sleep(settle=0)
        world.regroup()
        pool.update_from_disk("/c/2", "step-2")
        assert world.state.phase is Phase.COMMITTED
        assert {engine.weights for engine in world.engines[1:]} == {"/c/2"}
        assert asked_to_resume(world.engines[0]), "it is replaced as in any rollout"


def test_a_sync_of_such_a_pool_wakes_nobody_first_where_no_old_one_sleeps():
    with FakePool() as world, a_pool(world) as pool:
        pool.sleep(settle=0)
        world.end(1)
        with pytest.raises(NotReady, match="engine 1"):
            pool.update_from_disk("/c/2", "step-2")
        assert not any(map(asked_to_resume, world.engines))


# --- sync


def test_a_sync_of_a_pool_that_sleeps_starts_who_ended_asleep_before_it_begins(world, pool):
    pool.sleep(settle=0)
    world.end(1)
    pool.update_from_disk("/c/1", "step-1")
    assert world.state.phase is Phase.COMMITTED
    assert {engine.weights for engine in world.engines} == {"/c/1"}
    assert {engine.gate for engine in world.engines} == {"Open"}


# --- sleep


def test_sleep_does_not_return_while_an_engine_may_still_come_up(world, pool):
    world.starts = False
    world.end(1)
    engine = world.engines[1]
    engine.state, told = "Pending", []
    world._waits, waits = (lambda _: False), world._waits  # its pod is about to start

    def gone():
        told.append(time.monotonic())
        engine.state, world._waits = "Waiting", waits
        world._operate()

    going = later(world, 0.7, gone)
    pool.sleep(settle=0)
    going.join()
    assert time.monotonic() > told[0]
    assert pool.engines()[1].waits


def test_sleep_says_that_the_memory_is_not_to_be_taken_while_one_may_come_up(world, pool):
    world.starts = False
    world.end(1)
    world.engines[1].state = "Pending"
    world._waits = lambda _: False
    with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Pending\): neither asleep nor said"):
        pool.sleep(settle=0, loading=0.3)
    assert world.state.trainers == TRAINER, "until it is woken, or sleeps again"


def test_one_that_came_up_is_in_the_way_of_a_sleep_also_once_an_edit_has_grouped_its_gpus_anew(
    world, pool
):
    world.starts = False
    world.end(1)
    engine = world.engines[1]
    engine.state = "Pending"
    world._waits = lambda _: False  # its pod is about to start

    def comes_up_and_is_wanted_no_more():
        engine.state, engine.instance = "Up", "late0001"
        world.aside = {1}
        world.publish()

    editing = later(world, 0.7, comes_up_and_is_wanted_no_more)
    with pytest.raises(
        NotReady, match=r"pod actor-infer-1 \(Up\): neither asleep nor said to wait"
    ):
        pool.sleep(settle=0, loading=2)
    editing.join()
    assert not engine.released


def test_the_sleep_of_a_part_takes_the_gpus_that_it_names(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    pool.sleep(devices=[0], settle=0)
    assert world.state.trainers == Turn(frozenset({0}))
    world.end(2)
    assert pool._loop.run(fresh(pool)).engines[2].up, "it serves, and is started at once"
    world.end(0)
    assert pool._loop.run(fresh(pool)).engines[0].waits


async def fresh(pool):
    return await pool._pool.fresh()


def test_a_pool_with_gpus_of_its_own_says_nothing_of_turns(world, pool):
    world.turns = False
    pool.sleep(settle=0)
    assert world.state.turn is None
    assert pool.wake().turn is None


def lost(world, rank, **changes):
    """The node of this engine is silent (onNodeLost: Wait): its pod is there, and may run."""
    for name, value in {"state": "Lost", **changes}.items():
        setattr(world.engines[rank], name, value)
    world.call(world.publish)


def test_one_that_is_lost_may_have_the_memory_that_a_sleep_is_to_free(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    lost(world, 1, dead=True)
    before = len(world.puts)
    for part in (None, [2, 3]):
        with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Lost\).* nothing was taken"):
            pool.sleep(devices=part, settle=0, loading=0.2)
    assert len(world.puts) == before
    pool.sleep(devices=[0, 1], settle=0)
    assert [bool(engine.released) for engine in world.engines] == [True, False, False]


def test_one_that_is_lost_and_answers_sleeps_like_the_others(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    lost(world, 1)
    pool.sleep(settle=0)
    assert all(engine.released for engine in world.engines)


def test_one_that_slept_before_its_node_was_lost_is_in_nobodys_way(world, pool):
    pool.sleep(settle=0)
    lost(world, 1, dead=True)
    pool.sleep(settle=0, loading=0.2)
    assert world.state.trainers == TRAINER
    asked = world.engines[1].paths()
    assert asked.count("/release_memory_occupation") == 1


def test_one_that_was_about_to_start_on_a_node_that_was_lost_may_start_yet(world, pool):
    world.starts = False
    world.end(1)
    world._waits = lambda _: False  # its pod is there
    lost(world, 1)
    with pytest.raises(NotReady, match=r"engine 1 \(g2-3, Lost\): neither asleep nor said"):
        pool.sleep(settle=0, loading=0.3)


# --- pods in which no engine is told of


def test_a_sleep_waits_for_a_pod_that_may_hold_memory_whoevers_it_is(world, pool):
    world.holders = {"pool-g0-3-1": [0, 1, 2, 3]}
    gone = list[float]()

    def goes():
        gone.append(time.monotonic())
        world.holders = {}
        world.publish()

    going = later(world, 0.7, goes)
    pool.sleep(settle=0)
    going.join()
    assert time.monotonic() > gone[0]
    assert all(engine.released for engine in world.engines)


def test_it_says_which_pod_that_is_and_takes_nothing(world, pool):
    world.holders = {"theirs": []}
    before = len(world.puts)
    with pytest.raises(NotReady, match=r"pods theirs may hold memory .* do not take it"):
        pool.sleep(settle=0, loading=0.2)
    assert len(world.puts) == before
    with pytest.raises(NotReady, match=r"the memory is not the trainer's: pods theirs may hold"):
        pool.take_turn(settle=0, timeout=1.5)


def test_one_that_is_seen_only_once_all_sleep_keeps_the_memory_from_its_trainer(world, pool):
    def seen():
        while world.state.phase is not Phase.SLEEPING:
            time.sleep(0.01)
        world.holders = {"theirs": [4, 5]}
        world.call(world.publish)

    seeing = threading.Thread(target=seen)
    seeing.start()
    with pytest.raises(NotReady, match="pods theirs may hold memory"):
        pool.sleep(settle=0.5, loading=0.3)
    seeing.join()
    assert world.state.trainers == TRAINER
    assert all(engine.released for engine in world.engines)


def test_the_sleep_of_a_part_is_about_those_on_its_gpus(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.holders = {"theirs": [4, 5]}
    world.call(world.publish)
    pool.sleep(devices=[0, 1], settle=0, loading=0.3)
    with pytest.raises(NotReady, match="pods theirs may hold memory"):
        pool.sleep(devices=[3, 4], settle=0, loading=0.3)
    world.holders = {"nobody-knows-where": []}
    world.call(world.publish)
    with pytest.raises(NotReady, match="pods nobody-knows-where"):
        pool.sleep(devices=[0, 1], settle=0, loading=0.3)


# --- the handshake of a trainer that starts


def test_a_trainer_that_starts_waits_for_the_engines_and_has_the_memory_then(world, pool):
    world.starts = False
    world.end(1)
    starting = later(world, 0.5, lambda: comes_up(world))
    pool.take_turn(timeout=20, settle=0)
    starting.join()
    assert world.state.trainers == TRAINER
    assert all(engine.released for engine in world.engines)


@pytest.mark.parametrize("devices", [None, [0, 1]], ids=["all", "a part"])
def test_a_trainer_that_starts_first_waits_until_the_pool_has_engines(world, pool, devices):
    every = world.engines[:]
    world.engines.clear()
    world.call(world.publish)

    def come():
        world.engines.extend(every)
        world.publish()

    starting = later(world, 0.5, come)
    pool.take_turn(timeout=20, settle=0, devices=devices)
    starting.join()
    assert every[0].released


def test_of_a_pool_without_engines_nobody_says_that_the_gpus_are_wrong(world, pool):
    """Neither of a trainer that waits for them, nor of one that sleeps or wakes a part."""
    world.engines.clear()
    world.call(world.publish)
    for call in (pool.sleep, pool.wake, lambda **part: pool.take_turn(timeout=1.5, **part)):
        with pytest.raises(NotReady, match="the pool has no engines"):
            call(devices=[0, 1])


def test_what_keeps_it_from_the_memory_is_told_in_the_end(world, pool):
    world.starts = False
    world.end(1)
    words = r"the turn was not taken within \d s, .* not the trainer's: 2/3 engines are up"
    with pytest.raises(NotReady, match=words):
        pool.take_turn(timeout=1.5, settle=0)
    assert world.state.phase is Phase.IDLE, "nothing was taken"


def test_a_trainer_that_starts_again_takes_over_a_pool_that_sleeps(world):
    with a_pool(world) as first:
        first.sleep(settle=0)
        first._loop.run(first._pool.sleeper.stop())
    world.end(1)
    with a_pool(world) as again:
        again.take_turn(timeout=20, settle=0)
        assert world.state.trainers == TRAINER
        assert not again.engines()[1].up
        assert again.wake().trainers == ENGINES
        assert again.engines()[1].up


def test_it_waits_for_what_an_earlier_process_has_left_under_way(world, pool):
    begun = steps.begin(Transaction(), other(), epoch="", version="v1", now=time.time(), seen=0)
    world.write_lease(begun)
    ending = later(world, 0.5, lambda: setattr(world, "lease", _aborted(world)))
    pool.take_turn(timeout=20, settle=0)
    ending.join()
    assert world.state.trainers == TRAINER


def _aborted(world):
    from sglang_operator.weights import lease_state

    return lease_state.written(world.lease, steps.aborted(world.state, "it does not renew"))


def test_the_same_in_asyncio(world):
    async def main():
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            found = await pool.take_turn(timeout=20, devices=[0, 1], settle=0)
            assert found.engines == 1
            world.end(0)
            assert (await pool.take_turn(timeout=20, devices=[0, 1], settle=0)).engines == 0
            return await pool.wake(devices=[0, 1])

    assert asyncio.run(main()).trainers == ENGINES


def test_nobody_takes_a_part_that_another_trainer_has_though_nothing_is_left_to_sleep(world, pool):
    with a_pool(world, "trainer-b") as other_trainer:
        other_trainer.update_from_disk("/c/1", "step-1")
        other_trainer.sleep(devices=[0, 1], settle=0)
        world.end(0)
        with pytest.raises(NotReady, match="the memory is not the trainer's: trainer-b holds"):
            pool.take_turn(timeout=1.5, devices=[0, 1], settle=0)
        other_trainer.wake(devices=[0, 1])
        assert other_trainer.engines()[0].up


@pytest.mark.parametrize("phase", [Phase.ABORTED, Phase.COMMITTED])
def test_a_part_that_only_waits_is_taken_and_held_until_it_is_given_back(world, pool, phase):
    pool.update_from_disk("/c/1", "step-1")
    runs = frozenset(engine.instance for engine in world.engines)
    took: dict[str, Any] = {"version": "step-1", "instances": runs}
    took["turn"] = Turn(frozenset({0, 1}))
    left = Transaction(phase=phase, id="x", intact=phase is Phase.COMMITTED, **took)
    world.write_lease(left)
    world.end(0)
    served = [engine.gate for engine in world.engines[1:]]
    before = len(world.puts)
    assert pool.take_turn(timeout=5, devices=[0, 1], settle=0).engines == 0
    state = world.state
    assert (state.phase, state.holder) == (Phase.SLEEPING, "trainer-a")
    assert state.trainers == Turn(frozenset({0, 1}))
    assert [engine.gate for engine in world.engines[1:]] == served
    assert not any(engine.released for engine in world.engines)
    with a_pool(world, "trainer-b") as other_trainer:
        with pytest.raises(Held):
            other_trainer.update_from_disk("/c/2", "step-2")
        with pytest.raises(NotReady, match="trainer-a holds"):
            other_trainer.take_turn(timeout=1.5, devices=[0, 1], settle=0)
    assert pool._loop.run(renewed(pool)), "it is renewed while the trainer is at work"
    assert len(world.puts) > before
    after = pool.wake(devices=[0, 1])
    assert not after.trainers
    assert after.phase is (Phase.COMMITTED if phase is Phase.COMMITTED else Phase.AWAKE)
    assert not after.apart
    assert pool.engines()[0].up


async def renewed(pool):
    return await pool._pool.sleeper._renewed()


def test_a_part_stays_the_trainers_while_one_of_its_engines_waits(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    runs = frozenset(engine.instance for engine in world.engines)
    took: dict[str, Any] = {"version": "step-1", "instances": runs}
    took["turn"] = Turn(frozenset({0, 1}))
    world.write_lease(Transaction(phase=Phase.COMMITTED, id="x", intact=True, **took))
    world.end(0)
    pool.take_turn(timeout=5, devices=range(4), settle=0)
    after = pool.wake(devices=[2, 3])
    assert (after.phase, after.holder) == (Phase.SLEEPING, "trainer-a"), "it has GPUs 0 and 1"
    after = pool.wake(devices=[0, 1])
    assert (after.phase, after.holder, after.trainers) == (Phase.COMMITTED, "", ENGINES)


def test_a_timeout_is_seconds(pool):
    with pytest.raises(ValueError, match="timeout"):
        pool.take_turn(timeout=-1)
    assert turns.LOADING_SECONDS >= 600


# --- the page


def test_the_page_on_colocated_pools_shows_what_a_trainer_does(world, monkeypatch, capsys):
    page = next(path for path in pages.PAGES if path.name == "colocate.md")
    programs = [b.text for b in pages.blocks(page) if b.language == "python" and "Pool" in b.text]
    starts, steps_on = programs
    assert "take_turn" in starts

    def its_own(name):
        made = a_pool(world)
        assert name == made.name
        made._pool.gpu_memory = world.used
        return made

    monkeypatch.setattr("sglang_operator.client.Pool", its_own)
    exec(starts, {})
    assert "freed 180.0 GiB on 6 GPUs" in capsys.readouterr().out
    assert world.state.trainers == TRAINER
    world.end(1)
    known: dict[str, Any] = {}
    exec(steps_on.replace("pool: Pool", "pool"), known)
    with a_pool(world) as again:
        again._loop.run(_taken_over(again))
        known["step"](again, 1, lambda devices: [f"a handle for {len(devices)} GPUs"])
    assert world.state.phase is Phase.SLEEPING
    assert world.state.version == "step-1"
    assert world.engines[1].released


async def _taken_over(pool):
    await pool._pool.take_turn(timeout=60, settle=0)
