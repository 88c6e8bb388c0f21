"""What the explorer on containers goes by: which answers are right, and how fast its clock goes."""

import asyncio
import time
from pathlib import Path

import pytest

from sglang_operator import testing
from sglang_operator.client import AsyncPool
from sglang_operator.testing.engine import held, weights
from tests.mutants.planted import planted
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.weights_real import planted as defects
from tests.weights_real import turn_trainer
from tests.weights_real.__main__ import BY_MEMORY, MUTANTS, TURN_CONTROLS, is_found
from tests.weights_real.clients import Checker
from tests.weights_real.ends import NEVER, WOKEN_AWAKE, Ends
from tests.weights_real.pace import Pace
from tests.weights_real.pool_runs import Result
from tests.weights_real.steps import BARE, MAX_RATIO, OURS, Steps
from tests.weights_real.trainer import PROGRAMS, TENSORS, Order, checkpoint_of


def answer(*stamps):
    held = weights.Weights(TENSORS, dummy=True, source="")
    for number, stamp in enumerate(stamps):
        held.update(TENSORS[number:], stamp)
    return {"fake_weights": held.describe()}


@pytest.fixture
def checker():
    checker = Checker()
    for version in ("v1", "v2", "v3"):
        checker.expect(version)
    return checker


def test_a_version_is_whole_from_buckets_and_from_its_checkpoint(checker):
    assert [checker.problem(answer(stamp)) for stamp in ("v2", checkpoint_of("v2"))] == ["", ""]


def test_random_torn_and_unknown_weights_are_a_problem(checker):
    held = [answer(), answer("v1", "v2"), answer("v1", checkpoint_of("v1")), answer("v9")]
    assert [checker.problem(each) for each in held] == ["random", "torn", "torn", "whole"]


def test_an_answer_without_a_token_is_of_no_weights(checker):
    checker.serves("v2")
    nothing = {"fake_weights": weights.NOTHING}
    assert checker.problem(nothing, oldest=checker.oldest, version="v2") == ""


def test_no_older_version_comes_back_once_a_newer_one_serves(checker):
    before = checker.oldest
    checker.serves("v2")
    assert checker.problem(answer("v1"), oldest=before) == ""  # asked before
    assert "v1, older than v2" in checker.problem(answer("v1"), oldest=checker.oldest)
    assert checker.problem(answer("v3"), oldest=checker.oldest) == ""


def test_an_engine_that_a_commit_covers_holds_exactly_its_version(checker):
    assert checker.problem(answer(checkpoint_of("v2")), version="v2") == ""
    assert "v1 instead of v2" in checker.problem(answer(checkpoint_of("v1")), version="v2")
    assert "v3 instead of v2" in checker.problem(answer("v3"), version="v2")


def test_the_clock_goes_slower_while_work_takes_longer(monkeypatch):
    at = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    pace = Pace()
    pace.took(0.02)
    at[0] += 10
    assert pace.now() == pytest.approx(10)
    for _ in range(15):
        pace.took(0.08)
    begun = pace.now()
    at[0] += 10
    assert pace.now() - begun == pytest.approx(2.5)
    assert pace.slowest == pytest.approx(4)
    assert pace.now() >= begun  # it never goes back


@pytest.mark.parametrize(
    ("ours", "bare", "lost", "wrong", "good"),
    [
        (0.1, 0.1, 0, [], True),
        (2.0, 1.9, 0, [], True),  # a machine that is busy
        (0.1 * (MAX_RATIO + 1), 0.1, 0, [], False),
        (0.1, 0.1, 1, [], False),
        (0.1, 0.1, 0, ["v1: torn"], False),
    ],
)
def test_steps_fail_for_what_is_wrong_and_not_for_a_slow_machine(ours, bare, lost, wrong, good):
    parts = {OURS: [ours], BARE: [bare]}
    measured = Steps(engines=12, parts=parts, writes=9.0, lost=lost, wrong=wrong)
    assert measured.good is good


@pytest.mark.parametrize(
    "defect", [defects.OPENS_AT_BEGIN, defects.LOADS_OUTSIDE, defects.STARTS_ANYWAY]
)
def test_what_is_planted_is_still_in_the_source(defect):
    assert planted(defect)


def ended(pod, words):
    state = {"state": {"terminated": {"message": words}}, "containerID": f"containerd://{pod}"}
    return {"metadata": {"name": pod}, "status": {"containerStatuses": [state]}}


def test_an_engine_that_is_woken_awakeis_found_unless_its_trainer_was_lost_on_the_way():
    ends = Ends()
    ends.doubt(["left", "saved"])
    ends.beyond_doubt(["saved"])
    for pod in ("left", "saved", "other", "other"):
        ends.note(ended(pod, "KeyError: 'kv_cache'"))
    kinds, wrong = ends.take()
    assert kinds == {"engine woken awake, its trainer lost on the way": 1, "engine woken awake": 2}
    assert wrong == [f"{pod} was resumed of memory that it had" for pod in ("saved", "other")]
    ends.note(ended("other", "KeyError: 'kv_cache'"))  # told once
    assert ends.take() == ({}, [])


@pytest.mark.parametrize("words", [*NEVER, WOKEN_AWAKE])
def test_what_is_looked_for_is_what_a_fake_engine_dies_of(words):
    sources = Path(testing.__file__).parent.joinpath("engine").glob("*.py")
    assert any(words in each.read_text().replace('"KeyError: {', "KeyError: '") for each in sources)


@pytest.mark.parametrize("words", NEVER)
def test_what_no_trainer_may_do_to_an_engineis_found_by_what_it_dies_of(words):
    ends = Ends()
    ends.note(ended("pod", f"Traceback\n{words} and so on\n"))
    ends.note(ended("crashed", "RuntimeError: CUDA error: an illegal memory access"))
    kinds, wrong = ends.take()
    assert (kinds, wrong) == ({"engine ended": 2}, [NEVER[words].format(pod="pod")])


@pytest.mark.parametrize(("program", "left"), [("sleep", [0, 2]), ("nap", [])])
def test_a_trainer_puts_the_part_of_its_order_to_sleep_and_wakes_it(program, left):
    order = Order(program=program, holder="trainer-a", devices=(0, 1, 4, 5), tags=("kv_cache",))

    async def trains(world):
        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            assert [engine.gate for engine in world.engines] == ["Open"] * 3
            for step in PROGRAMS[program]:
                await step(pool, order)

    with FakePool(3) as world:
        world.memory_saver = True
        world.publish()
        asyncio.run(trains(world))
        slept = [rank for rank, engine in enumerate(world.engines) if engine.released]
        closed = [rank for rank, engine in enumerate(world.engines) if engine.gate != "Open"]
        assert (slept, closed) == (left, left)


GPUS = tuple(f"GPU-{index}" for index in range(8))


@pytest.mark.parametrize("devices", [(), (2, 3)])
@pytest.mark.parametrize(
    ("defect", "held_at"), [("", [False, True]), (turn_trainer.TAKES_EARLY, [True, True])]
)
def test_a_trainer_on_the_engines_gpus_has_their_memory_from_its_turn_to_the_wake(
    tmp_path, monkeypatch, defect, held_at, devices
):
    """Whether it has it as it asks for its turn, and while it trains."""
    order = turn_trainer.TurnOrder(
        program="turn and wake",
        holder="trainer-a",
        devices=devices,
        folder=str(tmp_path),
        gpus=GPUS,
        train_seconds=0.0,
        defect=defect,
    )
    taken = {uuid: held.by_tags(()) for uuid in (map(GPUS.__getitem__, devices or range(8)))}
    seen = []
    take_turn = AsyncPool.take_turn

    async def asks(self, *arguments, **options):
        seen.append(held.used(tmp_path))
        return await take_turn(self, *arguments, **options)

    monkeypatch.setattr(AsyncPool, "take_turn", asks)

    async def trains(world):
        def point(name):
            assert name == turn_trainer.TRAINS
            released = [rank for rank, engine in enumerate(world.engines) if engine.released]
            assert released == ([1] if devices else [0, 1, 2])
            seen.append(held.used(tmp_path))

        async with AsyncPool(POOL, NAMESPACE, identity=world.identity) as pool:
            await pool.update_from_disk("/c/1", "step-1")
            job = turn_trainer.Job(pool=pool, order=order, point=point)
            for step in turn_trainer.PROGRAMS[order.program]:
                await step(job)

    with FakePool(3) as world:
        world.turns = world.memory_saver = True
        world.publish()
        asyncio.run(trains(world))
        assert [engine.released for engine in world.engines] == [set()] * 3
    assert seen == [taken if each else {} for each in held_at]
    assert held.used(tmp_path) == {}


def test_a_control_of_turnsis_found_by_what_it_does_and_by_nothing_else():
    assert set(BY_MEMORY) <= {*TURN_CONTROLS, *MUTANTS}
    by_memory, by_answers = (
        f"turns: {turn_trainer.TAKES_EARLY}",
        f"turns: {turn_trainer.COMMITS_EARLY}",
    )
    both, wrong = Result(1, both=["engine and trainer"]), Result(2)
    wrong.told.wrong.append("WRONG: garbage weights")
    assert [is_found(by_memory, [each]) for each in (both, wrong)] == [True, False]
    assert [is_found(by_answers, [each]) for each in (both, wrong)] == [False, True]
    assert both.found and wrong.found
