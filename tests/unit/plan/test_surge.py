"""Engines that come up beside those that they replace; the order of events is in rollouts/."""

import dataclasses

import pytest

from sglang_operator.api import conditions
from sglang_operator.observed.model import Observed, ObservedNode, Termination
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute
from tests.builders import (
    CUDA_OUT_OF_MEMORY,
    NOW,
    a_failed_start,
    a_pod,
    a_pool,
    all_pods,
    created,
    planned,
    refused,
    removed,
    weighed,
)

OLD = "0" * 10
NO_PLACE = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."


def four(rollout=None, **changes):
    """Four engines without a gate, and one may come up beside them."""
    base = {"device_mapping": "list(range(0,8))", "weights": {"gate": "Off"}}
    return a_pool(**{**base, "rollout": {"maxSurge": 1, **(rollout or {})}, **changes})


def serving(pool, **changes):
    return all_pods(pool, **{"revision": OLD, "ready": True, **changes})


def beside(pool, rank=3, attempt=1, **changes):
    """The new pod of this rank, on its way up."""
    started = {"containers_ready": False, "created": NOW - 5}
    return a_pod(pool, pool.engines[rank], attempt, **{**started, **changes})


def homeless(pool, **changes):
    """The new pod without a node."""
    return beside(pool, node="", phase="Pending", engine_runs=False, **changes)


def condition(pool, pods, now=NOW):
    told = compute.compute(
        pool,
        planned(pool, pods, now),
        weighed(pool, pods, now),
        ignored=(),
        troubles=(),
        previous={},
        now=now,
    )
    return conditions.find(told["conditions"], conditions.RECONCILING)


def test_the_new_pod_is_the_next_attempt_of_the_same_engine():
    pool = four()
    made = planned(pool, serving(pool))
    assert created(made) == [("g6-7", 1)]
    assert made.creates[0].reason == f"it comes up beside the one of revision {OLD}"
    assert not made.removals


def test_the_old_one_goes_for_the_new_one_by_name():
    pool = four()
    new = beside(pool, containers_ready=True, ready=True)
    (removal,) = planned(pool, [*serving(pool), new]).removals
    assert removal.pod.name == "actor-infer-g6-7-0"
    assert removal.replaced
    assert removal.reason == f"one of revision {pool.revision} is in its place"


def test_what_runs_beside_is_known_to_run():
    """It sleeps and wakes with the others: it holds memory of GPUs as they do."""
    pool = four()
    made = planned(pool, [*serving(pool), beside(pool)])
    assert [engine.pod_name for engine in made.unlisted] == ["actor-infer-g6-7-1"]
    assert [engine.pod_name for engine in made.beside] == ["actor-infer-g6-7-1"]
    assert [engine.pod_name for engine in made.engines][3] == "actor-infer-g6-7-0"


def test_a_container_that_fails_in_place_is_taken_over_while_the_old_one_serves():
    pool = four()
    ended = Termination(
        exit_code=137, reason="Error", message=CUDA_OUT_OF_MEMORY, finished=NOW - 1, started=NOW - 4
    )
    new = beside(pool, restarts=1, last_termination=ended, containers_ready_changed=NOW - 5)
    made = planned(pool, [*serving(pool), new])
    assert removed(made) == ["actor-infer-g6-7-1"]
    assert created(made) == [("g6-7", 2)]
    streak = made.creates[0].streak
    assert streak is not None
    assert streak.reason == "CUDAOutOfMemory"


def test_one_that_ended_stays_until_the_next_one_knows_of_it():
    pool = four()
    failed = a_failed_start(pool, pool.engines[3], 1, startup_failures=1, ended_at=NOW)
    pods, recorded = (*serving(pool), failed), frozenset({failed.uid})
    held = plan(pool, Observed(pods=pods, recorded=recorded), NOW)
    assert not (held.removals or held.creates)
    due = NOW + pool.spec.restart.backoff_seconds
    assert held.wake_at == due
    later = plan(pool, Observed(pods=pods, recorded=recorded), due)
    assert created(later) == [("g6-7", 2)]
    streak = later.creates[0].streak
    assert streak is not None
    assert streak.count == 2
    again = (*pods, beside(pool, attempt=2, startup_failures=2))
    swept = plan(pool, Observed(pods=again, recorded=recorded), NOW)
    assert removed(swept) == ["actor-infer-g6-7-1"]


def test_where_fewer_may_surge_by_now_one_that_failed_waits_for_the_other():
    """Two were begun while two might come up beside others."""
    pool = four()
    failed = a_failed_start(pool, pool.engines[3], 1, ended_at=NOW - 999)
    pods = [*serving(pool), beside(pool, 2), failed]
    recorded = frozenset({failed.uid})
    held = plan(pool, Observed(pods=tuple(pods), recorded=recorded), NOW)
    assert not (held.creates or held.removals)
    pods.remove(next(pod for pod in pods if pod.engine == "g4-5" and pod.attempt == 0))
    pods = [dataclasses.replace(pod, ready=True, containers_ready=True) for pod in pods[:-1]]
    later = plan(pool, Observed(pods=(*pods, failed), recorded=recorded), NOW)
    assert created(later) == [("g6-7", 2)]
    both = four({"maxSurge": 2})
    as_ever = plan(both, Observed(pods=(*serving(both), beside(both, 2), failed)), NOW)
    assert created(as_ever) == [("g6-7", 2)]


def test_where_fewer_may_surge_by_now_one_that_loops_makes_way_for_the_other():
    pool = four()
    end = Termination(
        exit_code=137, reason="Error", message=CUDA_OUT_OF_MEMORY, finished=NOW - 1, started=NOW - 4
    )
    loops = {"restarts": 1, "last_termination": end, "containers_ready_changed": NOW - 5}
    made = planned(pool, [*serving(pool), beside(pool, 2), beside(pool, 3, **loops)])
    assert removed(made) == ["actor-infer-g6-7-1"]
    assert not made.creates


def test_what_is_tuned_is_tried_beside_too():
    pool = four(restart={"autoTune": {"mem_fraction_static": {"min": 0.5, "max": 0.8}}})
    failed = a_failed_start(pool, pool.engines[3], 1, ended_at=NOW)
    tuned = planned(pool, [*serving(pool), failed]).tuning
    assert tuned is not None
    assert tuned.reason == "CUDAOutOfMemory"


def test_where_the_old_ones_node_is_lost_the_new_one_is_the_engine():
    pool = four()
    pods = serving(pool)
    pods[3] = dataclasses.replace(pods[3], node="lost")
    nodes = {
        "gpu-node-0": ObservedNode(name="gpu-node-0", resources={"nvidia.com/gpu": 16}),
        "lost": ObservedNode(name="lost", ready=False, unready=NOW - 100),
    }
    made = planned(pool, [*pods, beside(pool)], nodes=nodes)
    assert "actor-infer-g6-7-0" in removed(made)
    assert [engine.pod_name for engine in made.engines][3] == "actor-infer-g6-7-1"


def test_larger_engines_come_in_place_whatever_may_surge():
    old, new = four(), four(num_gpus_per_worker=4)
    made = planned(new, serving(old))
    assert len(made.removals) == 2
    assert not made.creates


def test_a_pool_with_a_gate_has_one_pod_an_engine():
    pool = a_pool(device_mapping="list(range(0,8))")
    pods = [*all_pods(pool, revision=OLD, ready=True), beside(pool)]
    assert pool.max_surge == 0
    assert "actor-infer-g6-7-1" in removed(planned(pool, pods))


@pytest.mark.parametrize("gates", [(), ("kueue.x-k8s.io/admission",)])
def test_one_of_which_nobody_says_why_it_has_no_place_is_waited_for_three_minutes(gates):
    pool = four()
    pods = [*serving(pool), homeless(pool, scheduling_gates=gates, created=NOW)]
    assert not planned(pool, pods, NOW + 170).removals
    assert removed(planned(pool, pods, NOW + 180)) == ["actor-infer-g6-7-0"]


def test_a_place_that_is_about_to_be_free_is_waited_for():
    pool = four()
    pods = (*serving(pool), homeless(pool, unschedulable=NO_PLACE))
    made = plan(pool, Observed(pods=pods, last_gone=NOW), NOW + 14)
    assert not made.removals
    assert made.wake_at == NOW + 15


# --- how many


@pytest.mark.parametrize(
    ("value", "engines", "surge"),
    [
        pytest.param(1, 12, 1, id="a number"),
        pytest.param("25%", 12, 3, id="a share"),
        pytest.param("25%", 11, 3, id="rounded up"),
        pytest.param("1%", 12, 1, id="a little is one"),
        pytest.param("0%", 12, 0, id="none"),
        pytest.param("50%", 0, 0, id="of none"),
    ],
)
def test_max_surge_is_a_number_or_a_share_of_all_engines(value, engines, surge):
    pool = a_pool(replicas=engines, rollout={"maxSurge": value}, weights={"gate": "Off"})
    assert pool.max_surge == surge


@pytest.mark.parametrize("value", [-1, 4097, "101%", "two", "5", "1.5%", "x"])
def test_a_surge_that_is_neither_is_refused(value):
    found = refused(rollout={"maxSurge": value}, weights={"gate": "Off"}).errors
    assert [p.field for p in found] == ["spec.rollout.maxSurge"]


@pytest.mark.parametrize("value", [1, "25%", "100%"])
def test_a_surge_is_refused_where_nobody_says_when_a_trainer_writes(value):
    versioned = {"weights": {"gate": "Versioned"}}
    (problem,) = refused(rollout={"maxSurge": value}, **versioned).errors
    assert problem.reason == "SurgeOfVersionedPool"
    assert "does not say when it writes" in problem.message
    assert a_pool(rollout={"maxSurge": "0%"}, **versioned).max_surge == 0


@pytest.mark.parametrize("weights", [{}, {"recovery": "FromCheckpoint"}, {"gate": "Off"}])
def test_a_surge_is_no_part_of_the_revision(weights):
    pool = a_pool(rollout={"maxSurge": 1}, weights=weights)
    assert pool.max_surge == 1
    assert pool.revision == a_pool(weights=weights).revision


# --- how it is told


def test_a_rollout_with_new_ones_first_is_told_as_that():
    pool = four()
    told = condition(pool, [*serving(pool), beside(pool)])
    assert told["reason"] == "RollingUpdate"
    assert told["message"] == (
        f"0/4 engines run revision {pool.revision}; at most 1 new ones at a time come up beside "
        "those that serve, 1 do now"
    )


def test_where_there_is_no_room_that_is_told_with_the_schedulers_words():
    pool = four()
    told = condition(pool, [*serving(pool), homeless(pool, unschedulable=NO_PLACE)], NOW + 20)
    assert told["reason"] == "SurgeFoundNoRoom"
    assert told["message"] == (
        f"1/4 engines run revision {pool.revision}; there is no room for one more beside them "
        f"(rollout.maxSurge 1): {NO_PLACE}, so they are replaced in place, at most 1 away at a time"
    )


def test_what_one_beside_dies_of_is_told_while_all_serve():
    pool = four()
    failed = a_failed_start(pool, pool.engines[3], 1, startup_failures=1, ended_at=NOW)
    told = condition(pool, [*serving(pool), failed])
    assert told["reason"] == "EnginesFailing"
    assert "CUDAOutOfMemory" in told["message"]


def test_an_image_that_cannot_be_pulled_is_told_while_all_serve():
    pool = four()
    new = beside(
        pool,
        phase="Pending",
        engine_runs=False,
        waiting_reason="ErrImagePull",
        waiting_message="dial tcp: lookup registry: no such host",
    )
    assert condition(pool, [*serving(pool), new])["reason"] == "RegistryUnreachable"
