"""A part of a pool sleeps and wakes by GPU ids, and the other engines are not touched by it."""

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_operator.client import (
    EngineError,
    Held,
    InvalidArgument,
    NotReady,
    Pool,
    Unsupported,
    confirming,
    devices,
)
from sglang_operator.client.registry import (
    IN_SERVICE,
    Engine,
    Leaving,
    Registry,
    WeightsSection,
)
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool, SurgingPool

FIRST = range(2)  # the GPUs of engine 0; each has two
KEPT = ("kv_cache",)
BOTH = ("weights", "kv_cache")


@pytest.fixture
def world():
    with FakePool(4) as made:
        for engine in made.engines:
            engine.strict = True
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as made:
        made.update_from_disk("/c/1", "step-1")
        for engine in world.engines:
            engine.asked.clear()
        yield made


def sleep(pool, devices, tags=BOTH):
    pool.sleep(tags, devices=devices, settle=0)


def gates(world):
    return [engine.gate for engine in world.engines]


def asleep(world):
    return [sorted(engine.released) for engine in world.engines]


SLEEPS, AWAKE = ["kv_cache", "weights"], list[str]()


@pytest.mark.parametrize("ids", [[0], [1], range(2), [0, 1, 99]])
def test_exactly_the_engines_that_have_any_of_the_ids_sleep_and_the_others_are_asked_nothing(
    world, pool, ids
):
    sleep(pool, ids)
    assert asleep(world) == [SLEEPS, AWAKE, AWAKE, AWAKE]
    assert gates(world) == ["Closed", "Open", "Open", "Open"]
    assert not any(engine.asked for engine in world.engines[1:])
    assert world.state.phase is Phase.SLEEPING
    assert world.state.instances == {e.instance for e in world.engines[1:]}


def test_a_part_that_kept_its_weights_serves_again_once_it_is_awake(world, pool):
    sleep(pool, FIRST, KEPT)
    after = pool.wake(devices=FIRST)
    assert (after.phase, after.holder) == (Phase.COMMITTED, "")
    assert gates(world) == ["Open"] * 4
    assert not any(engine.paused or engine.released for engine in world.engines)


def test_a_part_that_gave_up_its_weights_is_awake_paused_and_closed_until_the_next_sync(
    world, pool
):
    sleep(pool, FIRST)
    assert pool.wake(devices=FIRST).phase is Phase.COMMITTED
    assert asleep(world)[0] == AWAKE
    assert gates(world) == ["Closed", "Open", "Open", "Open"]
    assert [engine.paused for engine in world.engines] == [True, False, False, False]
    pool.update_from_disk("/c/2", "step-2")
    assert gates(world) == ["Open"] * 4


def test_a_sync_wakes_who_sleeps_writes_to_all_and_covers_all(world, pool):
    sleep(pool, range(4))
    pool.update_from_disk("/c/2", "step-2")
    assert {engine.weights for engine in world.engines} == {"/c/2"}
    assert gates(world) == ["Open"] * 4
    assert asleep(world) == [AWAKE] * 4
    assert not world.state.apart


def test_a_sync_that_gets_no_further_than_its_lease_leaves_all_as_it_was(world, pool, monkeypatch):
    monkeypatch.setattr(confirming, "CONFIRM_SECONDS", 0.3)
    sleep(pool, FIRST, KEPT)
    world.operates = False
    with pytest.raises(NotReady), pool.sync("step-2"):
        pass
    world.operates = True
    world.call(world._operate)
    assert world.state.phase is Phase.SLEEPING
    assert gates(world) == ["Closed", "Open", "Open", "Open"]
    assert pool.wake(devices=FIRST).phase is Phase.COMMITTED


def test_two_parts_sleep_and_wake_one_after_the_other(world, pool):
    sleep(pool, FIRST, KEPT)
    sleep(pool, range(2, 4), KEPT)
    assert gates(world) == ["Closed", "Closed", "Open", "Open"]
    assert pool.wake(devices=range(2, 4)).phase is Phase.SLEEPING
    assert gates(world) == ["Closed", "Open", "Open", "Open"]
    assert pool.wake(devices=FIRST).phase is Phase.COMMITTED
    assert gates(world) == ["Open"] * 4


def test_an_overlapping_sleep_releases_only_what_is_not_released_yet(world, pool):
    sleep(pool, FIRST, KEPT)
    sleep(pool, range(4), BOTH)
    assert asleep(world) == [SLEEPS, SLEEPS, AWAKE, AWAKE]
    released = [each for path, each in world.engines[0].asked if "release" in path]
    assert released == [{"tags": ["kv_cache"]}, {"tags": ["weights"]}]


def test_the_weights_of_one_part_are_not_given_up_because_another_gave_up_its_own(world, pool):
    sleep(pool, FIRST, BOTH)
    sleep(pool, range(2, 4), KEPT)
    assert asleep(world) == [SLEEPS, ["kv_cache"], AWAKE, AWAKE]
    pool.wake(devices=range(4))
    assert gates(world) == ["Closed", "Open", "Open", "Open"]


def test_only_engines_all_of_whose_gpus_are_given_back_wake(world, pool):
    sleep(pool, range(4), KEPT)
    pool.wake(devices=range(3))
    assert asleep(world)[:2] == [AWAKE, ["kv_cache"]]
    with pytest.raises(InvalidArgument, match="no engine of the pool is at the GPUs 2;"):
        pool.wake(devices=[2])


def test_a_part_of_a_pool_that_sleeps_as_a_whole_wakes_and_serves(world, pool):
    pool.sleep(KEPT, settle=0)
    assert pool.wake(devices=FIRST).phase is Phase.SLEEPING
    assert gates(world) == ["Open", "Closed", "Closed", "Closed"]
    assert pool.wake().phase is Phase.COMMITTED
    assert gates(world) == ["Open"] * 4


def test_a_sleep_of_all_puts_the_rest_to_sleep_too(world, pool):
    sleep(pool, FIRST)
    pool.sleep(settle=0)
    assert asleep(world) == [SLEEPS] * 4
    assert gates(world) == ["Closed"] * 4
    pool.update_from_disk("/c/2", "step-2")
    assert gates(world) == ["Open"] * 4


def test_a_sleep_of_all_on_less_than_the_part_leaves_the_others_their_weights(world, pool):
    sleep(pool, FIRST)
    pool.sleep(KEPT, settle=0)
    assert asleep(world) == [["kv_cache", "weights"], ["kv_cache"], ["kv_cache"], ["kv_cache"]]
    assert gates(world) == ["Closed"] * 4
    after = pool.wake()
    assert asleep(world) == [[]] * 4
    assert (after.phase, len(after.instances)) == (Phase.COMMITTED, 3)
    assert gates(world) == ["Closed", "Open", "Open", "Open"], "what the part gave up is gone"


def test_who_wakes_all_wakes_the_part(world, pool):
    sleep(pool, FIRST, KEPT)
    assert pool.wake().phase is Phase.COMMITTED
    assert gates(world) == ["Open"] * 4
    resumed = [[path for path in e.paths() if "resume" in path] for e in world.engines]
    assert [len(each) for each in resumed] == [1, 0, 0, 0]


def test_one_that_ended_asleep_keeps_nothing_asleep_once_the_part_wakes(world, pool):
    sleep(pool, range(4), KEPT)
    world.restart(0)
    assert pool.wake(devices=range(4)).phase is Phase.COMMITTED
    assert gates(world) == ["Closed", "Open", "Open", "Open"]


def test_a_sleeper_outside_of_the_part_that_is_out_of_sight_stays_on_record(world, pool):
    sleep(pool, range(4), KEPT)
    run, world.engines[1].instance = world.engines[1].instance, ""
    world.call(world.publish)
    pool.wake(devices=FIRST)
    assert world.state.asleep == (run,)
    world.engines[1].instance = run
    world.call(world.publish)
    assert pool.wake().phase is Phase.COMMITTED
    assert asleep(world) == [AWAKE] * 4


def test_one_that_serves_and_ends_meanwhile_is_in_nobodys_way(world, pool):
    sleep(pool, FIRST, KEPT)
    world.restart(3)
    assert gates(world)[3] == "Closed"
    pool.wake(devices=FIRST)
    assert gates(world) == ["Open", "Open", "Open", "Closed"]


def test_one_that_serves_and_does_not_answer_keeps_no_part_from_sleeping(world, pool):
    world.engines[3].state, world.engines[3].dead = "Starting", True
    world.publish()
    sleep(pool, FIRST)
    assert asleep(world)[0] == SLEEPS


def test_one_of_the_part_that_does_not_answer_keeps_it_awake(world, pool):
    world.engines[0].state, world.engines[0].dead = "Starting", True
    world.publish()
    with pytest.raises(NotReady, match=r"engine 0 \(g0-1, Starting\).* nothing was taken"):
        pool.sleep(devices=range(4), settle=0, timeout=0.1)
    assert asleep(world) == [AWAKE] * 4
    assert gates(world)[1:] == ["Open"] * 3


def test_a_part_that_has_no_process_is_no_part(world, pool):
    world.engines[0].state, world.engines[0].instance = "Pending", ""
    world.call(world.publish)
    with pytest.raises(NotReady, match=r"none of these engines runs: engine 0"):
        sleep(pool, FIRST)


def test_an_engine_that_refuses_to_sleep_is_told_and_the_others_of_the_pool_serve_on(world, pool):
    world.engines[0].refuse["/release_memory_occupation"] = (400, "no")
    with pytest.raises(EngineError):
        sleep(pool, range(4))
    assert gates(world) == ["Closed", "Closed", "Open", "Open"]
    world.engines[0].refuse.clear()
    pool.wake(devices=range(4))
    assert asleep(world) == [AWAKE] * 4


@pytest.mark.parametrize("ids", [[], "0-7", [-1], [True], ["0"], 3])
def test_what_is_no_gpu_id_is_refused(pool, ids):
    with pytest.raises(InvalidArgument, match="GPU ids of device_mapping"):
        pool.sleep(devices=ids)


def test_ids_that_no_engine_has_are_refused_before_anything_is_taken(world, pool):
    before = len(world.puts)
    with pytest.raises(InvalidArgument, match="at the GPUs 8, 9; its engines have 0 to 7"):
        pool.sleep(devices=[8, 9])
    assert len(world.puts) == before


def test_an_engine_that_runs_beside_the_pools_may_have_these_gpus(world, pool):
    world.aside.add(3)
    world.call(world.publish)
    with pytest.raises(NotReady, match=r"nobody knows on which of its GPUs: pod actor-infer-3"):
        sleep(pool, FIRST)


def test_where_nothing_was_committed_no_part_gives_up_its_weights_beside_others_that_serve():
    with FakePool(gate="Off") as world:
        for engine in world.engines:
            engine.gate, engine.state = None, "InService"
        with Pool(POOL, NAMESPACE, identity=world.identity) as pool:
            with pytest.raises(Unsupported, match="no version of the weights was committed"):
                sleep(pool, FIRST)
            sleep(pool, FIRST, KEPT)
            assert asleep(world) == [["kv_cache"], AWAKE, AWAKE]
            assert pool.wake(devices=FIRST).phase is Phase.AWAKE
            assert not any(engine.paused for engine in world.engines)


@pytest.fixture
def labelled():
    """A pool whose trainer sends a version only: its gates are open, and nothing was committed."""
    with FakePool(4, gate="Versioned") as made:
        for engine in made.engines:
            engine.strict, engine.label = True, "v7"
            engine.gate, engine.gate_version, engine.state = "Open", "v7", "InService"
        yield made


def a_part(pool):
    sleep(pool, FIRST, KEPT)


def all_but_two(pool):
    """The operator opens by the label who is awake again."""
    pool.sleep(KEPT, settle=0)
    pool.wake(devices=range(4, 8))


@pytest.mark.parametrize("first", [a_part, all_but_two])
@pytest.mark.parametrize("devices", [range(2), range(4, 6), range(6)])
def test_nor_once_a_part_has_slept_that_kept_its_own(labelled, first, devices):
    with Pool(POOL, NAMESPACE, identity=labelled.identity) as pool:
        first(pool)
        for engine in labelled.engines[2:]:
            engine.gate, engine.gate_version, engine.state = "Open", "v7", "InService"
        labelled.call(labelled.publish)
        before = asleep(labelled)
        with pytest.raises(Unsupported, match="no version of the weights was committed"):
            sleep(pool, devices)
        assert asleep(labelled) == before
        assert not labelled.state.torn
        after = pool.wake()
        assert after.initial
        assert asleep(labelled) == [AWAKE] * 4
        assert not any(engine.paused for engine in labelled.engines)


def test_beside_an_operator_that_would_close_every_gate_no_part_sleeps(world, pool):
    world.knows_parts = False
    world.call(world.publish)
    with pytest.raises(Unsupported, match="knows of no parts of a pool"):
        sleep(pool, FIRST)
    assert gates(world) == ["Open"] * 4


def test_another_trainer_waits_for_the_part_as_for_the_pool(world, pool):
    sleep(pool, FIRST)
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-b") as other:
        with pytest.raises(Held):
            sleep(other, range(4, 6))
        with pytest.raises(Held):
            other.wake(devices=FIRST)


def test_a_later_process_of_the_trainer_wakes_the_part(world, pool):
    sleep(pool, FIRST, KEPT)
    with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer-a") as again:
        assert again.wake(devices=FIRST).phase is Phase.COMMITTED


def test_the_trainer_waits_for_the_gates_of_its_part_and_for_no_others(world, pool):
    world.operates = False
    with ThreadPoolExecutor() as threads:
        sleeps = threads.submit(sleep, pool, FIRST)
        deadline = time.monotonic() + 10
        while world.state.phase is not Phase.SLEEPING:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert asleep(world) == [AWAKE] * 4
        world.operates = True
        world.call(world._operate)
        sleeps.result()
    assert world.engines[1].state == IN_SERVICE


def test_one_whose_gate_stays_open_keeps_its_part_awake(world, pool):
    """It was out of sight as the sleep began, and is there again: nobody closes its gate."""
    run = world.engines[0].instance
    operate, publish = world._operate, world.publish

    def operated():
        world.publish = lambda: None  # nobody sees how it stands in between
        world.engines[0].gate, world.engines[0].instance = "Open", run
        hidden, world.engines[0].gate = world.engines[0].gate, None
        operate()
        world.engines[0].gate, world.engines[0].state = hidden, "Up"
        world.publish = publish
        world.publish()

    world.engines[0].state, world.engines[0].instance = "Up", ""
    world.call(world.publish)
    world._operate = operated
    with pytest.raises(NotReady, match="has not closed the gates"):
        pool.sleep(devices=range(4), settle=0, timeout=1)
    assert asleep(world) == [AWAKE] * 4
    world._operate = operate
    pool.wake(devices=range(4))
    assert gates(world) == ["Open"] * 4


# --- a rollout's two of one engine


def _surging():
    """Two engines, of which the last has a new one, and an old one that serves beside it."""
    values = {
        "gpus": 2,
        "rank_offset": 1,
        "state": "Up",
        "pod_ip": "10.0.0.1",
        "gate": "Closed",
        "version": None,
        "engine_version": "0.5.9",
    }

    def engine(rank, name, pod, **changes):
        ids = (2 * rank, 2 * rank + 1) if rank >= 0 else ()
        own = {"rank": rank, "engine": name, "devices": ids, "pod": pod, "instance": f"run-{pod}"}
        return Engine(**{**values, "url": f"http://{pod}:30000", **own, **changes})

    return Registry(
        pool=POOL,
        namespace=NAMESPACE,
        epoch="e",
        engine_version="0.5.9",
        world_size=5,
        weights=WeightsSection(gate="Committed", parts=True),
        engines=(engine(0, "g0-1", "a"), engine(1, "g2-3", "new")),
        unlisted=(engine(-1, "g2-3", "old", state=IN_SERVICE),),
    )


@pytest.mark.parametrize("part", [devices.overlapping, devices.within])
def test_both_of_a_rollouts_two_are_of_the_part_that_has_their_gpus(part):
    last = part([2, 3])(_surging())
    assert [engine.pod for engine in last.present] == ["new", "old"]
    assert [engine.pod for engine in last.others] == ["a"]
    first = part([0, 1])(_surging())
    assert [engine.pod for engine in first.present] == ["a"]
    assert [engine.pod for engine in first.others] == ["new", "old"]


@pytest.fixture
def surge():
    with SurgingPool() as made:
        for engine in made.engines:
            engine.strict = True
        made.call(made._operate)
        yield made


@pytest.mark.parametrize(
    ("tags", "then"), [(KEPT, ["Open", "Open"]), (BOTH, ["Open", "Closed"])], ids=["kept", "gone"]
)
def test_a_wake_of_a_part_wakes_both_of_a_rollouts_two(surge, tags, then):
    with Pool(POOL, NAMESPACE, identity=surge.identity) as pool:
        pool.update_from_disk("/c/1", "step-1")
        surge.begins()
        sleep(pool, [2, 3], tags)
        assert [bool(released) for released in asleep(surge)] == [False, True, True]
        after = pool.wake(devices=[2, 3])
        assert (after.phase, after.holder, after.apart) == (Phase.COMMITTED, "", frozenset())
        assert asleep(surge) == [AWAKE] * 3
        assert gates(surge)[:2] == then, "the old one serves what it kept"


@pytest.mark.parametrize("part", [devices.overlapping, devices.within])
def test_one_of_a_part_that_is_on_its_way_out_is_its_own_in_a_wake(part):
    registry = _surging()
    (old,) = registry.unlisted
    old = dataclasses.replace(old, state="Waiting", leaving=Leaving(until="", grace=30))
    last = part([2, 3])(dataclasses.replace(registry, unlisted=(old,)))
    runs = ("run-new", "run-old")
    state = Transaction(phase=Phase.SLEEPING, asleep=runs, apart=frozenset(runs))
    assert devices.awake(last, state) & state.apart == set(runs)
    other = part([0, 1])(dataclasses.replace(registry, unlisted=(old,)))
    assert not devices.awake(other, state) & state.apart


def test_who_ended_amid_the_trainers_turn_keeps_no_lease_once_its_gpus_are_given_back(world, pool):
    world.turns = True
    pool.sleep(devices=FIRST, settle=0)
    world.end(0)
    after = pool.wake(devices=FIRST)
    assert (after.phase, after.holder, after.apart) == (Phase.COMMITTED, "", frozenset())
    assert not after.trainers


def test_one_part_is_given_back_while_anothers_engine_has_ended_and_waits(world, pool):
    world.turns = True
    pool.sleep(devices=range(4), settle=0)
    world.end(0)
    after = pool.wake(devices=[2, 3])
    assert (after.phase, after.holder) == (Phase.SLEEPING, "trainer-a"), "it has GPUs 0 and 1"
    assert gates(world)[2:] == ["Open", "Open"]
    assert pool.wake(devices=FIRST).phase is Phase.COMMITTED
