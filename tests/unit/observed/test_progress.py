"""What counts as a hang: work, and nothing moves.  Everything else is left alone."""

import dataclasses

import pytest

from sglang_operator.api import conditions
from sglang_operator.ask.engines import QUIET_PHASES, Topic, questions
from sglang_operator.observed import progress
from sglang_operator.observed.model import EngineReport, Stuck
from sglang_operator.observed.progress import Load, Progress, advance
from sglang_operator.plan.plan import Plan
from sglang_operator.status.failures import seen
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_pod, a_pool, all_pods, planned, removed

BUSY = Load(busy=True, mark=4100)
SILENT = Load()


def stuck(*looks: Load) -> float | None:
    """Since when an engine counts as stuck, seen like this every ten seconds from time 0."""
    work: Progress | None = None
    now = -10.0
    for look in looks:
        now += 10
        work = advance(work, look, now)
    assert work is not None
    return progress.stuck_since(work, now)


def moved(tokens: int) -> Load:
    return Load(busy=True, mark=4000 + tokens)


@pytest.mark.parametrize(
    ("looks", "since"),
    [
        pytest.param([BUSY], None, id="the first look says nothing"),
        pytest.param([BUSY, BUSY, BUSY], 0.0, id="the same work all the time"),
        pytest.param([BUSY, SILENT, SILENT], 0.0, id="work, then a silent scheduler"),
        pytest.param([BUSY, moved(101), moved(101)], 10.0, id="moved once since"),
        pytest.param([BUSY, BUSY, moved(7)], None, id="moves again"),
        pytest.param([Load(busy=False, mark=0)] * 4, None, id="idle"),
        pytest.param([Load(busy=False), SILENT, SILENT], None, id="idle when last heard of"),
        pytest.param([BUSY, BUSY, dataclasses.replace(BUSY, moves=True)], None, id="paused"),
        pytest.param([BUSY, BUSY, Load(moves=True)], None, id="not reached at all"),
        pytest.param([BUSY, BUSY, Load(busy=False, mark=0)], None, id="its work is done"),
    ],
)
def test_an_engine_is_stuck_while_it_has_work_and_nothing_moves(looks, since):
    assert stuck(*looks) == since


# --- what the planner makes of it


def hanging(seconds: float, recorded: bool = True, **changes) -> tuple[Plan, str]:
    """The plan for a pool of two, one of which is stuck for so long; and that one's pod."""
    pool = a_pool(replicas=2, restart={"hangSeconds": 60})
    pods = [
        a_pod(pool, engine, container_id="containerd://1", **changes) for engine in pool.running
    ]
    instance = pods[0].instance
    assert instance is not None
    report = EngineReport(instance=instance, stuck=Stuck(NOW - seconds, NOW))
    known = frozenset({pods[0].uid}) if recorded else frozenset()
    return planned(pool, pods, reports={instance: report}, recorded=known), pods[0].name


def test_an_engine_that_hangs_is_removed_and_comes_back():
    plan, name = hanging(61)
    assert removed(plan) == [name]


def test_it_is_recorded_before_it_is_removed():
    plan, name = hanging(61, recorded=False)
    assert removed(plan) == []
    (failure,) = seen(a_pool(restart={"hangSeconds": 60}), plan)
    assert (failure.reason, failure.pod) == (conditions.ENGINE_HUNG, name)
    assert failure.message == "the engine had requests, and nothing moved for 60 s"


def test_it_has_its_time_and_is_looked_at_again():
    plan, _ = hanging(59)
    assert removed(plan) == []
    assert plan.wake_at == NOW + 1


def test_an_engine_that_is_not_up_does_not_hang():
    plan, _ = hanging(61, containers_ready=False)
    assert removed(plan) == []


def test_without_the_field_nothing_hangs():
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.engines[0], container_id="containerd://1")
    report = EngineReport(instance=pod.instance or "", stuck=Stuck(NOW - 1e6, NOW))
    plan = planned(pool, [pod], reports={report.instance: report})
    assert not plan.removals
    assert not plan.hung


@pytest.mark.parametrize("phase", list(Phase))
def test_engines_whose_trainer_syncs_or_sleeps_are_not_even_asked(phase):
    pool = a_pool(restart={"hangSeconds": 600})
    engines = planned(pool, all_pods(pool, container_id="containerd://1")).engines
    loads = [q for q in questions(pool, engines, Transaction(phase=phase)) if q.topic is Topic.LOAD]
    assert len(loads) == (0 if phase in QUIET_PHASES else 12)
    assert all(question.every == 30 for question in loads)


def test_engines_that_serve_while_a_part_sleeps_are_asked_on():
    pool = a_pool(device_mapping="list(range(0,4))", restart={"hangSeconds": 60})
    pods = [a_pod(pool, engine, container_id=f"c{engine.rank}") for engine in pool.running]
    first, second = (pod.instance or "" for pod in pods)
    part = frozenset({first})
    asleep = Transaction(
        phase=Phase.SLEEPING, version="v", intact=True, asleep=(first,), apart=part
    )
    asked = questions(pool, planned(pool, pods).engines, asleep)
    assert [q.instance for q in asked if q.topic is Topic.LOAD] == [second]


def test_an_engine_that_loads_its_checkpoint_for_the_operator_is_not_asked_for_its_work():
    pool = a_pool(device_mapping="list(range(0,4))", restart={"hangSeconds": 60})
    pods = [a_pod(pool, engine, container_id=f"c{engine.rank}") for engine in pool.running]
    engines = planned(pool, pods).engines
    first, second = (pod.instance or "" for pod in pods)
    asked = questions(pool, engines, Transaction(phase=Phase.COMMITTED), {first})
    assert {question.instance for question in asked} == {first, second}
    assert [q.instance for q in asked if q.topic is Topic.LOAD] == [second]
