"""Failures at the start: one engine is tried on behalf of all, and not for ever."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Observed, ObservedPod, Termination
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Pool
from tests.builders import (
    CUDA_OUT_OF_MEMORY,
    NOW,
    a_failed_start,
    a_pod,
    a_pool,
    an_ended_pod,
    created,
    planned,
    removed,
)

LATER = NOW + 3600
MODEL_GONE = "OSError: /models/a does not appear to have a file named config.json."


def all_failed(pool: Pool, **changes) -> list[ObservedPod]:
    return [a_failed_start(pool, engine, **changes) for engine in pool.running]


def test_of_engines_that_all_failed_at_their_start_one_is_tried():
    pool = a_pool()
    result = planned(pool, all_failed(pool), LATER)
    assert created(result) == [("g0-1", 1)]
    streak = result.creates[0].streak
    assert streak is not None
    assert (streak.reason, streak.count) == ("CUDAOutOfMemory", 1)
    assert result.wake_at is None  # the one's fate wakes the pool


def test_the_others_wait_while_it_is_on_its_way():
    pool = a_pool()
    tried = a_pod(
        pool,
        pool.engines[0],
        1,
        containers_ready=False,
        startup_failures=1,
        startup_reason="CUDAOutOfMemory",
    )
    result = planned(pool, [tried, *all_failed(pool)[1:]], LATER)
    assert created(result) == []
    assert {view.state for view in result.engines[1:]} == {EngineState.BACKOFF}


def test_when_it_is_up_all_others_follow():
    pool = a_pool()
    tried = a_pod(pool, pool.engines[0], 1, startup_failures=1, startup_reason="CUDAOutOfMemory")
    result = planned(pool, [tried, *all_failed(pool)[1:]], LATER)
    assert len(created(result)) == 11


def test_failures_for_another_reason_have_a_try_of_their_own():
    pool = a_pool(replicas=3)
    pods = all_failed(pool)
    pods[1] = a_failed_start(pool, pool.engines[1], message=MODEL_GONE)
    assert created(planned(pool, pods, LATER)) == [("g0-1", 1), ("g2-3", 1)]


def simulate(pool: Pool, fails: bool = True, steps: int = 60) -> tuple[Plan, int]:
    """Let time go by: every pod that is created fails at its start, or comes up."""
    pods = all_failed(pool, startup_failures=0)
    tries, now, result = 0, NOW, planned(pool, pods)
    for _ in range(steps):
        now += 400
        result = plan(
            pool, Observed(pods=tuple(pods), recorded=frozenset(p.uid for p in pods)), now
        )
        gone = {removal.pod.uid for removal in result.removals}
        pods = [pod for pod in pods if pod.uid not in gone]
        for create in result.creates:
            tries += 1
            assert create.streak is not None
            marks: dict[str, Any] = {
                "failures": create.failures,
                "startup_failures": create.streak.count,
                "startup_reason": create.streak.reason,
            }
            make = a_failed_start if fails else a_pod
            pods.append(make(pool, create.engine, create.attempt, **marks))
    return result, tries


@pytest.mark.parametrize("budget", [1, 5, 7])
def test_a_pool_whose_engines_all_fail_is_given_up_after_its_budget(budget):
    pool = a_pool(restart={"startupBudget": budget})
    result, tries = simulate(pool)
    assert tries == budget
    (stall,) = result.stalls
    assert stall.cause.reason == "CUDAOutOfMemory"
    assert len(stall.engines) == 12
    assert stall.restarts == budget
    assert created(result) == []
    assert result.wake_at is None


def test_a_pool_whose_engines_come_up_at_last_is_complete():
    pool = a_pool()
    result, tries = simulate(pool, fails=False)
    assert tries == 12
    assert not result.stalls
    assert {view.state for view in result.engines} == {EngineState.UP}


def test_where_others_are_up_each_engine_has_a_budget_of_its_own():
    pool = a_pool(replicas=3, restart={"startupBudget": 2})
    up = a_pod(pool, pool.engines[0])
    one = a_failed_start(pool, pool.engines[1], 2, startup_failures=1)
    other = a_failed_start(pool, pool.engines[2], 3, startup_failures=2)
    result = planned(pool, [up, one, other], LATER)
    assert created(result) == [("g2-3", 3)]
    assert result.stalls[0].engines == ("g4-5",)


def test_another_reason_begins_to_count_anew():
    pool = a_pool(replicas=1, restart={"startupBudget": 2})
    pod = a_failed_start(pool, pool.engines[0], 4, startup_failures=2, message=MODEL_GONE)
    (create,) = planned(pool, [pod], LATER).creates
    assert create.streak is not None
    assert (create.streak.reason, create.streak.count) == ("ModelNotFound", 1)


def test_a_changed_spec_begins_to_count_anew_for_all_engines():
    before, after = a_pool(), a_pool(image="lmsysorg/sglang:v0.5.9")
    pods = all_failed(before, startup_failures=5)
    assert planned(before, pods, LATER).stalls
    result = planned(after, pods, LATER)
    assert not result.stalls
    assert len(created(result)) == 12
    assert all(create.streak is None for create in result.creates)


def test_a_larger_budget_is_used_at_once():
    pods = all_failed(a_pool(), startup_failures=0)
    pods[0] = dataclasses.replace(pods[0], startup_failures=5, startup_reason="CUDAOutOfMemory")
    assert planned(a_pool(), pods, LATER).stalls
    result = planned(a_pool(restart={"startupBudget": 6}), pods, LATER)
    assert created(result) == [("g0-1", 1)]


def test_an_engine_that_had_been_up_has_no_budget():
    pool = a_pool(replicas=1)
    pod = an_ended_pod(
        pool, pool.engines[0], 9, failures=9, containers_ready_changed=NOW, ended_at=NOW
    )
    result = planned(pool, [pod], LATER)
    assert created(result) == [("g0-1", 10)]
    assert result.creates[0].streak is None


# --- engines that kubelet restarts in place: pools that are not gated


def ungated(**changes) -> Pool:
    return a_pool(
        strategy_args={"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}},
        **changes,
    )


def looping(pool: Pool, rank: int, message: str = CUDA_OUT_OF_MEMORY, up: bool = False):
    end = Termination(
        exit_code=137, reason="Error", message=message, finished=NOW - 1, started=NOW - 60
    )
    return a_pod(
        pool,
        pool.engines[rank],
        containers_ready=up,
        containers_ready_changed=NOW - 1 if up else NOW - 70,
        restarts=1,
        last_termination=end,
    )


def test_an_engine_that_loops_at_its_start_gets_a_pod_that_stays_when_it_fails():
    pool = ungated(replicas=2)
    result = planned(pool, [looping(pool, 0), a_pod(pool, pool.engines[1])])
    assert removed(result) == ["actor-infer-g0-1-0"]
    assert created(result) == [("g0-1", 1)]
    assert result.creates[0].streak is not None
    assert result.creates[0].streak.count == 1
    assert [pod.name for pod in result.taken_over] == ["actor-infer-g0-1-0"]


def test_an_engine_that_came_up_again_in_place_is_left_alone():
    pool = ungated(replicas=1)
    result = planned(pool, [looping(pool, 0, up=True)])
    assert not result.removals
    assert not result.creates


def test_an_engine_that_crashed_after_it_was_up_is_kubelets_to_start_again():
    pool = ungated(replicas=1)
    pod = dataclasses.replace(looping(pool, 0), containers_ready_changed=NOW - 1)
    result = planned(pool, [pod])
    assert not result.removals
