"""What the planner decides, one rule at a time and whole stories."""

import dataclasses

import pytest

from sglang_operator.api import names
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Gate, ObservedNode
from tests.builders import (
    NOW,
    a_pod,
    a_pool,
    all_pods,
    an_ended_pod,
    created,
    guide_spec,
    planned,
    removed,
)


def test_an_empty_pool_gets_a_pod_for_each_engine():
    plan = planned(a_pool(), [])
    assert created(plan) == [(f"g{2 * i}-{2 * i + 1}", 0) for i in range(12)]
    assert not plan.removals


def test_a_complete_pool_needs_nothing_and_no_later_look():
    pool = a_pool()
    plan = planned(pool, all_pods(pool))
    assert not plan.creates
    assert not plan.removals
    assert plan.wake_at is None
    assert {view.state for view in plan.engines} == {EngineState.UP}
    assert plan.coming == 0


def test_engines_without_a_pod_that_is_up_are_coming():
    pool = a_pool()
    assert planned(pool, all_pods(pool)[:5]).coming == 7


def test_a_pod_with_an_open_gate_is_in_service():
    pool = a_pool()
    plan = planned(pool, all_pods(pool, ready=True, gate=Gate(is_open=True)))
    assert {view.state for view in plan.engines} == {EngineState.IN_SERVICE}


def test_growing_keeps_the_pods_of_unchanged_engines():
    before = a_pool(device_mapping="list(range(0,8))")
    after = a_pool(device_mapping="list(range(0,12))")
    plan = planned(after, all_pods(before, ready=True))
    assert created(plan) == [("g8-9", 0), ("g10-11", 0)]
    assert not plan.removals


def test_shrinking_removes_the_engines_whose_gpus_are_gone():
    before = a_pool(device_mapping="list(range(0,12))")
    after = a_pool(device_mapping="list(range(0,8))")
    plan = planned(after, all_pods(before))
    assert removed(plan) == ["actor-infer-g8-9-0", "actor-infer-g10-11-0"]
    assert not plan.creates


def test_moving_the_window_keeps_the_engines_in_both_and_changes_their_ranks():
    before = a_pool(device_mapping="list(range(0,8))")
    after = a_pool(device_mapping="list(range(4,12))")
    plan = planned(after, all_pods(before, ready=True))
    assert created(plan) == [("g8-9", 0), ("g10-11", 0)]
    # One engine may be away; the other serves on until the first new one is up.
    assert removed(plan) == ["actor-infer-g2-3-0"]
    ranks = {str(view.engine.name): view.engine.rank for view in plan.engines}
    assert ranks["g4-5"] == 0  # was 2, and its pod stays


def test_a_mapping_that_moved_away_goes_by_the_budget_and_comes_to_an_end():
    before = a_pool(device_mapping="list(range(0,8))")
    after = a_pool(device_mapping="list(range(8,16))")
    pods, worst = _roll(after, all_pods(before, ready=True), lambda up: max(0, 4 - len(up) // 2))
    assert worst <= 1
    assert {pod.engine for pod in pods} == {engine.name for engine in after.engines}


def test_reordering_the_mapping_touches_no_pod():
    before = a_pool(device_mapping="[0, 1, 2, 3]")
    after = a_pool(device_mapping="[2, 3, 0, 1]")
    plan = planned(after, all_pods(before))
    assert not plan.creates
    assert not plan.removals


def test_fewer_replicas_take_the_highest_ranks():
    pool = a_pool(replicas=5)
    plan = planned(pool, all_pods(a_pool()))
    assert removed(plan) == [f"actor-infer-g{2 * i}-{2 * i + 1}-0" for i in range(5, 12)]


def test_a_suspended_pool_keeps_no_engine():
    pool = a_pool(suspend=True)
    plan = planned(pool, all_pods(a_pool()))
    assert len(plan.removals) == 12
    assert plan.engines == ()


def test_a_pool_without_mapping_counts_replicas():
    raw = guide_spec(replicas=3)
    del raw["device_mapping"]
    pool = a_pool(raw)
    assert created(planned(pool, [])) == [("r0", 0), ("r1", 0), ("r2", 0)]


# --- failures


def test_a_pod_that_is_being_deleted_is_replaced_under_another_name():
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.engines[0], deleting=True)
    plan = planned(pool, [pod])
    assert created(plan) == [("g0-1", 1)]
    assert not plan.removals


def test_a_deleted_pod_that_is_gone_comes_back_as_the_first_attempt():
    pool = a_pool()
    pods = all_pods(pool)[1:]
    assert created(planned(pool, pods)) == [("g0-1", 0)]


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_first_failure_is_answered_at_once_and_its_pod_stays_until_recorded(phase):
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0], phase=phase)
    plan = planned(pool, [ended])
    assert created(plan) == [("g0-1", 1)]
    assert plan.creates[0].failures == 1
    assert not plan.removals
    assert plan.ended == (ended,)


def test_an_ended_pod_goes_once_it_is_recorded_and_replaced():
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0])
    successor = a_pod(pool, pool.engines[0], 1, failures=1)
    assert removed(planned(pool, [ended, successor])) == []
    plan = planned(pool, [ended, successor], recorded=frozenset({ended.uid}))
    assert removed(plan) == [ended.name]


def test_an_ended_pod_that_waits_for_its_replacement_is_not_deleted():
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0], 3, failures=3, created=NOW - 5)
    plan = planned(pool, [ended], recorded=frozenset({ended.uid}))
    assert not plan.removals
    assert not plan.creates


def test_failures_in_a_row_wait_ever_longer():
    pool = a_pool(replicas=1)
    waits = []
    for failures in range(7):
        ended = an_ended_pod(pool, pool.engines[0], failures, failures=failures, created=NOW - 5)
        plan = planned(pool, [ended])
        waits.append(0 if plan.creates else round((plan.wake_at or 0) - NOW))
    assert waits == [0, 10, 20, 40, 80, 160, 300]


def test_the_wait_is_over_when_its_time_has_come():
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0], 1, failures=1, created=NOW - 5)
    assert not planned(pool, [ended], now=NOW + 9.9).creates
    assert created(planned(pool, [ended], now=NOW + 10)) == [("g0-1", 2)]


def test_an_engine_that_ran_for_the_reset_window_starts_anew():
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0], 5, failures=5, created=NOW - 601)
    plan = planned(pool, [ended])
    assert created(plan) == [("g0-1", 6)]
    assert plan.creates[0].failures == 1


def test_refused_creates_wait_until_they_may_be_tried_again():
    pool = a_pool()
    plan = planned(pool, [], creates_blocked_until=NOW + 5)
    assert not plan.creates
    assert plan.wake_at == NOW + 5


def test_pods_of_an_earlier_pool_of_this_name_are_stepped_around():
    pool = a_pool(replicas=2)
    plan = planned(pool, [], taken={names.EngineName("g0-1"): 4})
    assert created(plan) == [("g0-1", 5), ("g2-3", 0)]


def test_a_corrected_spec_does_not_wait_for_the_failures_of_the_old_one():
    pool = a_pool(replicas=1)
    ended = an_ended_pod(pool, pool.engines[0], 7, failures=7, revision="0" * 10)
    plan = planned(pool, [ended])
    assert created(plan) == [("g0-1", 8)]
    assert plan.creates[0].failures == 0


def test_a_pod_that_ended_because_it_was_deleted_did_not_fail():
    pool = a_pool(replicas=1)
    deleted = an_ended_pod(pool, pool.engines[0], deleting=True, deletion_asked=NOW - 3)
    plan = planned(pool, [deleted])
    assert plan.ended == ()
    assert created(plan) == [("g0-1", 1)]
    assert plan.creates[0].failures == 0


def test_a_pod_that_was_deleted_after_it_failed_did_fail():
    pool = a_pool(replicas=1)
    failed = an_ended_pod(pool, pool.engines[0], deleting=True, deletion_asked=NOW + 3)
    assert planned(pool, [failed]).ended == (failed,)


# --- lost nodes


def _on_a_node(ready=True, gone=False, since=NOW - 100.0, out_of_service=False):
    node = ObservedNode(
        name="gpu-node-0",
        ready=ready,
        ready_changed=since,
        unready=since,
        gone=gone,
        out_of_service=out_of_service,
    )
    return {"gpu-node-0": node}


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param(_on_a_node(gone=True), id="deleted"),
        pytest.param(_on_a_node(ready=False), id="silent"),
        pytest.param(_on_a_node(out_of_service=True), id="out of service"),
    ],
)
def test_engines_of_a_lost_node_are_replaced_beside_their_old_pods(nodes):
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.engines[0], ready=True, gate=Gate(is_open=True))
    plan = planned(pool, [pod], nodes=nodes)
    assert created(plan) == [("g0-1", 1)]
    assert removed(plan) == [pod.name]


def test_a_node_that_is_silent_for_a_moment_costs_nothing():
    pool = a_pool(replicas=1)
    plan = planned(pool, all_pods(pool), nodes=_on_a_node(ready=False, since=NOW - 3))
    assert not plan.creates
    assert not plan.removals
    assert plan.wake_at == NOW - 3 + 10


def test_a_pod_put_on_a_silent_node_gets_its_time_too():
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.engines[0], 3, created=NOW - 2)
    plan = planned(pool, [pod], nodes=_on_a_node(ready=False))
    assert not plan.creates
    assert plan.wake_at == NOW - 2 + 10


@pytest.mark.parametrize("deleting", [False, True])
def test_an_engine_that_is_to_wait_for_its_node_is_not_replaced(deleting):
    pool = a_pool(replicas=1, restart={"onNodeLost": "Wait"})
    pod = a_pod(pool, pool.engines[0], deleting=deleting)
    plan = planned(pool, [pod], nodes=_on_a_node(ready=False))
    assert not plan.creates
    assert not plan.removals
    assert plan.engines[0].state is EngineState.LOST


def test_without_access_to_nodes_an_eviction_is_seen_on_the_pod():
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.engines[0], disruption="DeletionByTaintManager")
    assert created(planned(pool, [pod])) == [("g0-1", 1)]


# --- extra pods


@pytest.mark.parametrize(
    "leaving",
    [
        {"deleting": True, "deletion_asked": NOW - 40},
        {"disruption": "EvictionByEvictionAPI"},
    ],
)
def test_a_pod_that_was_leaving_when_its_node_was_lost_does_not_take_its_replacement_along(leaving):
    pool = a_pool(replicas=1, restart={"onNodeLost": "Wait"})
    engine = pool.engines[0]
    old = a_pod(pool, engine, 0, created=NOW - 5000, **leaving)
    new = a_pod(pool, engine, 1, node="other", containers_ready=False, created=NOW - 30)
    nodes = {**_on_a_node(ready=False), "other": ObservedNode(name="other")}
    plan = planned(pool, [old, new], nodes=nodes)
    assert new.name not in removed(plan)
    assert plan.engines[0].members == (new,)


def test_of_two_pods_of_an_engine_the_one_in_service_stays():
    pool = a_pool(replicas=1)
    engine = pool.engines[0]
    starting = a_pod(pool, engine, 0, containers_ready=False)
    serving = a_pod(pool, engine, 1, ready=True)
    assert removed(planned(pool, [starting, serving])) == [starting.name]


@pytest.mark.parametrize(
    "other",
    [
        {"containers_ready": False},
        {"gate": Gate(is_open=False)},
        {"gate": Gate(is_open=False), "containers_ready": False, "answered": True},
    ],
    ids=["it starts", "it waits for weights", "it waits for weights and misses a probe"],
)
@pytest.mark.parametrize("up", [True, False], ids=["kubelet was silent", "it misses a probe"])
def test_of_two_pods_of_an_engine_the_one_that_clients_reach_again_stays(up, other):
    """Its node was lost and is back: until kubelet says Ready it serves nobody."""
    pool = a_pool(replicas=1)
    engine = pool.engines[0]
    opened = {"gate": Gate(is_open=True), "revision": "0" * 10, "created": NOW - 5000}
    old = a_pod(pool, engine, 0, containers_ready=up, answered=True, **opened)
    new = a_pod(pool, engine, 1, **other)
    assert removed(planned(pool, [old, new]))[0] == new.name


def test_of_two_equal_pods_the_older_attempt_stays():
    pool = a_pool(replicas=1)
    engine = pool.engines[0]
    pods = [a_pod(pool, engine, attempt) for attempt in (1, 0)]
    assert removed(planned(pool, pods)) == [pods[0].name]


def test_of_two_equal_pods_the_one_that_was_created_first_stays_whatever_its_attempt():
    pool = a_pool(replicas=1)
    engine = pool.engines[0]
    running = a_pod(pool, engine, 1, created=NOW - 100)
    again = a_pod(pool, engine, 0, created=NOW - 1)
    assert removed(planned(pool, [again, running])) == [again.name]


# --- rolling updates


def _outdated(pool, **changes):
    return all_pods(pool, **{"revision": "0" * 10, "ready": True, **changes})


def test_a_new_revision_replaces_the_highest_rank_first_and_one_at_a_time():
    pool = a_pool()
    plan = planned(pool, _outdated(pool))
    assert removed(plan) == ["actor-infer-g22-23-0"]
    assert not plan.creates


def test_max_unavailable_engines_are_away_at_a_time():
    pool = a_pool(rollout={"maxUnavailable": 4})
    assert len(planned(pool, _outdated(pool)).removals) == 4


def test_nothing_is_taken_away_while_another_engine_is_down():
    pool = a_pool()
    pods = _outdated(pool)
    pods[0] = a_pod(pool, pool.engines[0], containers_ready=False)
    assert not planned(pool, pods).removals


def test_outdated_engines_that_do_not_answer_are_replaced_whatever_else_is_down():
    pool = a_pool()
    pods = _outdated(pool, containers_ready=False, ready=False, node="")
    assert len(planned(pool, pods).removals) == 12


def test_a_paused_rollout_takes_nothing_away():
    pool = a_pool(rollout={"paused": True})
    assert not planned(pool, _outdated(pool)).removals


def test_a_paused_rollout_still_replaces_what_is_lost():
    pool = a_pool(rollout={"paused": True})
    assert created(planned(pool, _outdated(pool)[1:])) == [("g0-1", 0)]


def test_engines_below_the_partition_keep_their_revision():
    pool = a_pool(rollout={"partition": 11, "maxUnavailable": 12})
    assert removed(planned(pool, _outdated(pool))) == ["actor-infer-g22-23-0"]


def _settle(pods):
    """The pods that were told to go are gone, the others come up, and a trainer commits."""
    return [
        dataclasses.replace(pod, containers_ready=True, ready=True, node="gpu-node-0")
        for pod in pods
        if not pod.deleting
    ]


def _apply(pool, plan, pods):
    """What the executor does: deletes begin, new pods start."""
    going = {removal.pod.uid for removal in plan.removals}
    after = [dataclasses.replace(pod, deleting=pod.deleting or pod.uid in going) for pod in pods]
    for create in plan.creates:
        after.append(a_pod(pool, create.engine, create.attempt, containers_ready=False, node=""))
    return after


def _by_place(pool):
    """Engines of the new pool whose GPUs nobody serves."""
    return lambda up: sum(not up.issuperset(engine.devices) for engine in pool.running)


def _roll(pool, pods, away=None):
    """Play a change to its end; the most engines that were away at once, as ``away`` counts."""
    away = away or _by_place(pool)
    worst, steps = 0, 0
    while True:
        plan = planned(pool, pods)
        if not plan.creates and not plan.removals:
            return pods, worst
        pods = _apply(pool, plan, pods)
        up = {device for pod in pods if pod.ready and not pod.deleting for device in pod.devices}
        worst = max(worst, away(up))
        if not plan.creates:
            # The replacement is planned while the old pod is still on its way out.
            replacement = planned(pool, pods)
            pods = _apply(pool, replacement, pods)
        pods = _settle(pods)
        steps += 1
        assert steps < 200, "the change does not come to an end"


@pytest.mark.parametrize("budget", [1, 3, 12])
def test_a_whole_rollout_keeps_to_its_budget(budget):
    pool = a_pool(rollout={"maxUnavailable": budget})
    pods, worst = _roll(pool, _outdated(pool))
    assert worst <= budget
    assert {pod.revision for pod in pods} == {pool.revision}
    assert len(pods) == 12


@pytest.mark.parametrize(
    ("before", "after", "engines"),
    [
        pytest.param(2, 4, 6, id="2 to 4"),
        pytest.param(4, 2, 12, id="4 to 2"),
        pytest.param(8, 1, 24, id="8 to 1"),
    ],
)
def test_regrouping_the_gpus_goes_by_the_same_budget(before, after, engines):
    old = a_pool(num_gpus_per_worker=before)
    new = a_pool(num_gpus_per_worker=after, rollout={"maxUnavailable": 1})
    pods, worst = _roll(new, all_pods(old, ready=True))
    assert len(pods) == engines
    assert {pod.engine for pod in pods} == {engine.name for engine in new.engines}
    # An old engine that makes room for several new ones takes them away together.
    assert worst <= max(1, before // after)


def test_a_mapping_shifted_by_one_gpu_comes_to_an_end():
    old = a_pool(device_mapping="list(range(0,6))")
    new = a_pool(device_mapping="list(range(1,7))", num_gpus_per_node=64)
    pods, _ = _roll(new, all_pods(old, ready=True))
    assert {pod.engine for pod in pods} == {"g1-2", "g3-4", "g5-6"}


def test_two_engines_never_hold_the_same_gpu():
    old = a_pool(num_gpus_per_worker=2)
    new = a_pool(num_gpus_per_worker=4)
    plan = planned(new, all_pods(old, ready=True))
    assert not plan.creates
    held = _apply(new, plan, all_pods(old, ready=True))
    follow_up = planned(new, held)
    assert created(follow_up) == [("g0-3", 0)]


def test_planning_twice_decides_the_same():
    pool = a_pool()
    pods = _outdated(pool)[:7]
    assert planned(pool, pods) == planned(pool, pods)


# --- what stands in the way


def test_nothing_is_put_beside_an_orphan_that_clients_reach():
    pool = a_pool(replicas=2)
    plan = planned(pool, [], orphans={"actor-infer-g0-1-0": "g0-1"}, taken={"g0-1": 0})
    assert created(plan) == [("g2-3", 0)]
    assert [view.state.value for view in plan.engines] == ["Waiting", "Creating"]


def test_beside_a_pod_that_was_put_aside_the_engine_gets_the_next_name():
    pool = a_pool(replicas=2)
    assert created(planned(pool, [], taken={"g0-1": 4})) == [("g0-1", 5), ("g2-3", 0)]
