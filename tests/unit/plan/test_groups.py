"""Engines of several pods: they come together, and what becomes of one becomes of all."""

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.diagnosis import causes
from sglang_operator.observed import groups
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Gate, ObservedNode, ObservedPod, Termination
from sglang_operator.plan import decision, places
from sglang_operator.plan.plan import Plan
from sglang_operator.pool.resolve import Pool, resolve_pool
from sglang_operator.pool.tuning import Tuning
from sglang_operator.status import failures, holdups
from tests.builders import (
    NOW,
    OWNER,
    a_failed_start,
    a_pod,
    a_pool,
    all_pods,
    an_ended_pod,
    guide_spec,
    planned,
)

SPEC = guide_spec(num_gpus_per_worker=24, device_mapping="list(range(0,48))")
POOL = a_pool(SPEC)
FIRST, SECOND = POOL.engines
RANKS = (0, 1, 2)
OPEN: dict[str, Any] = {"ready": True, "gate": Gate(is_open=True)}


def names_of(plan: Plan) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(create.engine.name, create.attempt, create.node_ranks) for create in plan.creates]


def removed(plan: Plan) -> list[str]:
    return [removal.pod.name.removeprefix("actor-infer-") for removal in plan.removals]


def members(engine: Any = FIRST, attempt: int = 0, **changes: Any) -> list[ObservedPod]:
    return [a_pod(POOL, engine, attempt, node_rank=rank, **changes) for rank in RANKS]


def with_one(rank: int, pod: ObservedPod, engine: Any = FIRST) -> list[ObservedPod]:
    """Both engines, with this pod as one member of the first."""
    return [pod if r == rank else a_pod(POOL, engine, node_rank=r) for r in RANKS] + members(SECOND)


def test_engines_are_as_many_as_their_groups():
    assert [engine.pods for engine in POOL.engines] == [3, 3]
    assert POOL.gpus_per_pod == 8


def test_the_leader_is_made_when_all_others_are_there():
    """Nobody gets past the rendezvous without it: that tells who is missing from who is gone."""
    plan = planned(POOL, [])
    assert names_of(plan) == [("g0-23", 0, (1, 2)), ("g24-47", 0, (1, 2))]
    starting: dict[str, Any] = {"containers_ready": False, "phase": "Pending"}
    one = [a_pod(POOL, FIRST, node_rank=1, **starting)]
    assert names_of(planned(POOL, one))[0] == ("g0-23", 0, (2,))
    others = [a_pod(POOL, FIRST, node_rank=rank, **starting) for rank in (1, 2)]
    plan = planned(POOL, others)
    assert names_of(plan)[0] == ("g0-23", 0, (0,))
    assert plan.engines[0].state is EngineState.CREATING
    assert plan.engines[0].leader is None


def test_pods_carry_the_attempt_that_they_complete():
    pods = [a_pod(POOL, FIRST, 4, node_rank=rank, containers_ready=False) for rank in (1, 2)]
    failed: Any = {"failures": 2, "startup_failures": 2, "startup_reason": "CUDAOutOfMemory"}
    plan = planned(POOL, [dataclasses.replace(pod, **failed) for pod in pods])
    create = plan.creates[0]
    assert (create.attempt, create.failures, create.node_ranks) == (4, 2, (0,))
    assert create.streak is not None
    assert create.streak.count == 2


def test_a_whole_pool_needs_nothing():
    plan = planned(POOL, all_pods(POOL, **OPEN))
    assert not (plan.creates or plan.removals or plan.unlisted)
    assert {each.state for each in plan.engines} == {EngineState.IN_SERVICE}
    assert plan.wake_at is None


@pytest.mark.parametrize("rank", RANKS)
def test_one_that_ends_takes_the_others_with_it_the_leader_first(rank):
    plan = planned(POOL, with_one(rank, an_ended_pod(POOL, FIRST, node_rank=rank)))
    left = [f"g0-23-0n{r}" for r in RANKS if r != rank]
    assert removed(plan) == left
    assert names_of(plan) == [("g0-23", 1, (1, 2))], "the first time at once"
    assert [pod.node_rank for pod in plan.ended] == [rank]


@pytest.mark.parametrize("rank", RANKS)
def test_one_that_is_deleted_takes_the_others_with_it(rank):
    going = a_pod(POOL, FIRST, node_rank=rank, deleting=True)
    plan = planned(POOL, with_one(rank, going))
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS if r != rank]
    assert names_of(plan) == [("g0-23", 1, (1, 2))]
    assert not plan.ended


def draining(leader: dict[str, Any], **others: Any) -> list[ObservedPod]:
    values = [leader, others, {}]
    return [
        a_pod(POOL, FIRST, node_rank=rank, **{"answered": True, **changes})
        for rank, changes in zip(RANKS, values, strict=True)
    ]


GOING = {"deleting": True, "deletion_asked": NOW - 5, "deletion_due": NOW + 25}


def test_a_leader_that_drains_keeps_its_ranks_until_it_has_ended():
    plan = planned(POOL, draining(GOING) + members(SECOND))
    assert not plan.removals
    assert plan.wake_at == NOW + 25, "its grace is over"
    assert not plan.creates
    assert plan.engines[0].state is EngineState.WAITING
    ended = {**GOING, "over": True, "phase": "Succeeded"}
    plan = planned(POOL, draining(ended) + members(SECOND))
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    plan = planned(POOL, draining(GOING) + members(SECOND), now=NOW + 25)
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]


def test_a_leader_that_has_lost_a_rank_has_nothing_to_drain():
    """So what was asked to go within the grace of a drain is asked once more, with less."""
    plan = planned(POOL, draining(GOING, deleting=True, deletion_due=NOW + 25) + members(SECOND))
    assert removed(plan) == ["g0-23-0n0", "g0-23-0n1", "g0-23-0n2"]
    assert not any(removal.drains for removal in plan.removals)
    soon = {**GOING, "deletion_due": NOW + 5}
    plan = planned(POOL, draining(soon, deleting=True, deletion_due=NOW + 5) + members(SECOND))
    assert removed(plan) == ["g0-23-0n2"]


def test_of_an_engine_that_serves_the_leader_goes_first():
    new = a_pool({**SPEC, "seed": 7})
    plan = planned(new, all_pods(POOL, answered=True, **OPEN))
    assert removed(plan) == ["g24-47-0n0"]


def test_what_ends_because_another_goes_has_not_failed():
    """Somebody deletes the leader, and the other ranks break off before they are asked to."""
    going = a_pod(POOL, FIRST, node_rank=0, deleting=True, deletion_asked=NOW - 3)
    broken = an_ended_pod(POOL, FIRST, node_rank=1, ended_at=NOW - 1)
    pods = [going, broken, a_pod(POOL, FIRST, node_rank=2)]
    plan = planned(POOL, pods + members(SECOND))
    assert not plan.ended
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert [(create.attempt, create.failures) for create in plan.creates] == [(1, 0)]


def test_nor_has_what_broke_off_when_the_other_had_gone_already():
    """Kubelet told of the leader's end first, so that its pod went before the other's end was."""
    broken = an_ended_pod(POOL, FIRST, node_rank=1, ended_at=NOW - 1, failures=2)
    left = [broken, a_pod(POOL, FIRST, node_rank=2)]
    pods = [replace(pod, seen=pod.seen._replace(bereft=NOW - 3)) for pod in left]
    plan = planned(POOL, pods + members(SECOND))
    assert not plan.ended
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert [(create.attempt, create.failures) for create in plan.creates] == [(1, 0)]
    before = [replace(pod, seen=pod.seen._replace(bereft=NOW)) for pod in left]
    assert [pod.node_rank for pod in planned(POOL, before + members(SECOND)).ended] == [1]


def grace(plan: Plan) -> dict[str, int]:
    asked = actions.pod_actions(POOL, plan, {"spec": {}, "metadata": {"annotations": {}}})
    return {
        action.name.removeprefix("actor-infer-"): action.grace_seconds
        for action in asked
        if isinstance(action, actions.DeletePod)
    }


@pytest.mark.parametrize("rank", RANKS)
def test_what_is_left_of_an_engine_answers_nobody_and_has_nothing_to_drain(rank):
    """Also where its process hangs, as a leader's whose follower's scheduler was killed does."""
    broken = {
        "ended": an_ended_pod(POOL, FIRST, node_rank=rank, failures=1),
        "deleted": a_pod(POOL, FIRST, node_rank=rank, deleting=True),
        "evicted": a_pod(POOL, FIRST, node_rank=rank, disruption="EvictionByEvictionAPI"),
    }
    for why, pod in broken.items():
        plan = planned(POOL, with_one(rank, pod))
        plan = dataclasses.replace(plan, creates=())
        others = {f"g0-23-0n{r}" for r in RANKS if r != rank}
        found = grace(plan)
        assert others <= found.keys(), why
        assert {found[name] for name in others} == {decision.ENDED_GRACE_SECONDS}, why


def test_an_engine_that_answers_drains_for_as_long_as_it_may():
    new = a_pool({**SPEC, "seed": 7})
    plan = planned(new, all_pods(POOL, answered=True, **OPEN))
    found = grace(dataclasses.replace(plan, creates=()))
    assert found == {"g24-47-0n0": POOL.spec.drain.grace_period_seconds}


def test_what_goes_because_another_ended_is_a_failure_all_the_same():
    ended = an_ended_pod(POOL, FIRST, node_rank=1, ended_at=NOW - 3, failures=2)
    going = [
        a_pod(POOL, FIRST, node_rank=rank, deleting=True, deletion_asked=NOW - 1) for rank in (0, 2)
    ]
    plan = planned(POOL, [*going, ended, *members(SECOND)])
    assert [pod.node_rank for pod in plan.ended] == [1]
    assert not plan.creates, "it waits its time"


@pytest.mark.parametrize("rank", RANKS)
def test_one_that_is_evicted_takes_the_others_with_it(rank):
    evicted = a_pod(POOL, FIRST, node_rank=rank, disruption="EvictionByEvictionAPI")
    plan = planned(POOL, with_one(rank, evicted))
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS]


@pytest.mark.parametrize("rank", RANKS)
def test_one_that_is_lost_takes_the_others_with_it(rank):
    nodes = {f"gpu-node-{r}": ObservedNode(name=f"gpu-node-{r}", gone=r == rank) for r in RANKS}
    pods = [a_pod(POOL, FIRST, node_rank=r) for r in RANKS]
    plan = planned(a_pool({**SPEC, "device_mapping": "list(range(0,24))"}), pods, nodes=nodes)
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS]
    assert [lost.pod.node_rank for lost in plan.lost] == [rank]


@pytest.mark.parametrize("rank", RANKS)
def test_one_that_is_gone_takes_the_others_with_it(rank):
    """Deleted by force, while nobody looked: it is not made again beside what it was part of."""
    up = [a_pod(POOL, FIRST, node_rank=r, answered=True) for r in RANKS if r != rank]
    plan = planned(POOL, up + members(SECOND))
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS if r != rank]
    assert names_of(plan) == [("g0-23", 1, (1, 2))]


def test_a_follower_that_is_gone_is_missed_before_anybody_has_answered():
    starting = [a_pod(POOL, FIRST, node_rank=r, containers_ready=False) for r in (0, 2)]
    plan = planned(POOL, starting + members(SECOND))
    assert removed(plan) == ["g0-23-0n0", "g0-23-0n2"]


def test_a_container_that_was_started_again_in_place_meets_nobody():
    end = Termination(exit_code=137, reason="Error", message="", finished=NOW - 5)
    again = a_pod(POOL, FIRST, node_rank=1, restarts=1, last_termination=end)
    plan = planned(POOL, with_one(1, again))
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS]
    assert list(plan.restarts) == [(again, end)], "its end is told all the same"


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("answered", [True, False])
def test_one_that_stands_aside_is_no_more_of_its_engine(rank, answered):
    """Its name is taken: nothing by that name would complete the others."""
    stray, *others = sorted(
        members(answered=answered, containers_ready=answered), key=lambda p: p.node_rank != rank
    )
    plan = planned(POOL, others + members(SECOND), aside=(stray,), taken={FIRST.name: 0})
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS if r != rank]
    assert names_of(plan) == [("g0-23", 1, (1, 2))]


def test_what_cannot_be_completed_because_a_name_is_taken_goes():
    """A pod without any of its labels is out of sight: only who makes it again meets it."""
    followers = members(containers_ready=False, engine_runs=False)[1:]
    assert names_of(planned(POOL, followers + members(SECOND))) == [("g0-23", 0, (0,))]
    plan = planned(POOL, followers + members(SECOND), taken={FIRST.name: 0})
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert names_of(plan) == [("g0-23", 1, (1, 2))]
    whole = planned(POOL, members() + members(SECOND), taken={FIRST.name: 0})
    assert not (whole.removals or whole.creates)


def test_an_engine_of_which_a_pod_stands_aside_is_told_of_whole():
    """A trainer knows it by the name of its run, which is that of all its pods."""
    pods = [dataclasses.replace(pod, container_id=pod.name) for pod in members()]
    (run,) = [group.instance for group in groups.of(pods)]
    for stray in pods:
        others = [pod for pod in pods if pod is not stray]
        plan = planned(POOL, others + members(SECOND), aside=(stray,))
        (told,) = plan.unlisted
        assert (told.instance, told.pod_name) == (run, pods[0].name)


def test_pods_of_one_try_that_stand_aside_are_one_engine_put_aside():
    aside = tuple(members())
    plan = planned(POOL, members(SECOND), aside=aside, taken={FIRST.name: 0})
    assert names_of(plan) == [("g0-23", 1, (1, 2))]
    aside += tuple(members(attempt=1))
    plan = planned(POOL, members(SECOND), aside=aside, taken={FIRST.name: 1})
    assert not plan.creates
    assert plan.engines[0].state is EngineState.WAITING


def test_of_what_was_to_go_and_stays_nothing_else_is_told():
    broken = members()[:2]
    assert planned(POOL, broken + members(SECOND)).removals
    plan = planned(POOL, broken + members(SECOND), stays=frozenset(pod.uid for pod in broken))
    assert not plan.removals
    assert plan.engines[0].members == tuple(broken)


def test_what_is_left_of_an_engine_is_no_engine():
    """While its pods go, clients and trainers are told of none; its leader still holds memory."""
    plan = planned(POOL, with_one(1, an_ended_pod(POOL, FIRST, node_rank=1)))
    first = plan.engines[0]
    assert not (first.exists or first.up or first.instance)
    assert [(each.name, each.state) for each in plan.unlisted] == [("g0-23", EngineState.WAITING)]


def test_the_first_end_decides_on_the_next_try_and_every_end_is_told():
    """The others may have died of it, in other words."""
    cause = a_failed_start(POOL, FIRST, node_rank=2, startup_failures=1, ended_at=NOW - 30)
    after = a_failed_start(
        POOL, FIRST, node_rank=0, startup_failures=1, ended_at=NOW - 20, message="Connection reset"
    )
    pods = [after, a_pod(POOL, FIRST, node_rank=1, containers_ready=False), cause]
    plan = planned(POOL, pods + members(SECOND))
    assert {pod.node_rank for pod in plan.ended} == {0, 2}
    assert removed(plan) == ["g0-23-0n1"]
    create = plan.creates[0]
    assert create.streak is not None
    assert (create.streak.reason, create.streak.count) == ("CUDAOutOfMemory", 2)
    assert create.failures == 2, "one more, however many of its pods failed"


def test_tombstones_stay_until_they_are_told_and_another_try_is_there():
    ended = [an_ended_pod(POOL, FIRST, node_rank=rank) for rank in RANKS]
    later = [a_pod(POOL, FIRST, 1, node_rank=rank) for rank in RANKS]
    uids = frozenset(pod.uid for pod in ended)
    assert not removed(planned(POOL, ended + later + members(SECOND)))
    plan = planned(POOL, ended + later + members(SECOND), recorded=uids)
    assert removed(plan) == [f"g0-23-0n{r}" for r in RANKS]


def test_a_budget_counts_engines_and_a_replaced_one_goes_whole():
    new = a_pool({**SPEC, "seed": 7, "rollout": {"maxUnavailable": 1}})
    plan = planned(new, all_pods(POOL, **OPEN))
    assert removed(plan) == [f"g24-47-0n{r}" for r in RANKS]
    assert not plan.creates
    away = members() + [dataclasses.replace(pod, deleting=True) for pod in members(SECOND)]
    assert names_of(planned(new, away)) == [("g24-47", 1, (1, 2))]


def test_half_an_engine_of_an_older_revision_is_not_completed():
    new = a_pool({**SPEC, "seed": 7, "rollout": {"partition": 2}})
    half = [a_pod(POOL, FIRST, node_rank=rank, containers_ready=False) for rank in (1, 2)]
    plan = planned(new, half + members(SECOND, **OPEN))
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert not plan.creates


@pytest.mark.parametrize("keep", [{}, {"paused": True}, {"partition": 4}])
def test_half_an_engine_of_two_pods_goes_when_engines_are_one(keep):
    spec = guide_spec(num_gpus_per_worker=2, device_mapping="list(range(0,4))")
    old = a_pool({**spec, "num_gpus_per_node": 1})
    new = a_pool({**spec, "rollout": keep})
    first, second = old.engines
    half = a_pod(old, first, node_rank=1, containers_ready=False)
    other = [a_pod(old, second, node_rank=rank, **OPEN) for rank in (0, 1)]
    assert half.name in [r.pod.name for r in planned(new, [half, *other]).removals]


def test_half_an_engine_that_nobody_wants_goes_even_from_a_paused_pool():
    """It holds the ids of one that is wanted, and can never serve in its place."""
    new = a_pool({**SPEC, "num_gpus_per_worker": 48, "rollout": {"paused": True}})
    half = [a_pod(POOL, FIRST, node_rank=rank, containers_ready=False) for rank in (1, 2)]
    plan = planned(new, half + members(SECOND, **OPEN))
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]


def test_half_an_engine_is_not_completed_with_another_memory_share_than_it_began_with():
    """Engines of both values may run on, but the ranks of one engine have the same."""
    bounds = {"autoTune": {"mem_fraction_static": {"min": 0.5, "max": 0.9}}}
    spec = {**SPEC, "restart": bounds, "weights": {"gate": "Off"}}
    old = a_pool(spec)
    value = Tuning(
        base=old.base_revision, start=0.7, value=0.68, changes=1, reason="", engine=SECOND.name
    )
    new = resolve_pool(OWNER, spec, value)
    assert isinstance(new, Pool)
    assert new.accepts(old.revision)
    assert new.revision != old.revision
    half = [a_pod(old, FIRST, node_rank=rank, containers_ready=False) for rank in (1, 2)]
    plan = planned(new, half + members(SECOND, revision=old.revision, **OPEN))
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert not plan.creates


def test_scaling_to_nothing_takes_all_pods_and_back_makes_all():
    none = a_pool({**SPEC, "replicas": 0})
    assert len(planned(none, all_pods(POOL)).removals) == 6
    assert len(planned(POOL, []).creates) == 2


def test_while_creates_are_refused_half_an_engine_waits():
    half = [a_pod(POOL, FIRST, node_rank=1, containers_ready=False)]
    plan = planned(POOL, half + members(SECOND), creates_blocked_until=NOW + 30)
    assert not (plan.creates or plan.removals)
    assert plan.wake_at == NOW + 30


def test_a_kept_try_is_the_whole_one():
    half = [a_pod(POOL, FIRST, 1, node_rank=rank, containers_ready=False) for rank in (1, 2)]
    plan = planned(POOL, members(**OPEN) + half + members(SECOND))
    assert removed(plan) == ["g0-23-1n1", "g0-23-1n2"]


def test_each_pod_is_asked_for_by_its_own_name():
    batch = actions.pod_actions(POOL, planned(POOL, []), engine_pod.template(POOL))
    assert [action.name for action in batch] == [
        names.pod_name("actor-infer", engine.name, 0, rank)
        for engine in POOL.engines
        for rank in (1, 2)
    ]


def test_the_pods_that_find_no_place_are_told_with_what_each_of_them_wants():
    said = "0/5 nodes are available: 5 Insufficient nvidia.com/gpu."
    waiting = a_pod(POOL, FIRST, node_rank=2, node="", containers_ready=False, unschedulable=said)
    plan = planned(POOL, with_one(2, waiting))
    assert plan.engines[0].state is EngineState.PENDING
    told = holdups.pending(POOL, plan, ())
    assert told is not None
    assert "1 engine waiting for a node with 8 free nvidia.com/gpu" in told[1]


def test_old_engines_make_way_on_as_many_nodes_as_a_larger_one_needs():
    """Their GPU ids say who replaces whom; where they stand decides who goes together."""
    small = a_pool(
        device_mapping="list(range(100,112))", num_gpus_per_worker=4, num_gpus_per_node=4
    )
    olds = [
        a_pod(small, engine, node=f"n{i}", limits=(("nvidia.com/gpu", 4),), **OPEN)
        for i, engine in enumerate(small.engines)
    ]
    need = places.Need(gpus=8, pods=3)
    movable = {
        pod.engine: places.Old(
            devices=pod.devices, gpus=4, held={pod.node: 4}, lives=True, serves=True
        )
        for pod in olds
    }
    free = {"n0": 4, "n1": 4, "n2": 4}
    assert places.room(need, movable, free) == movable.keys()
    assert places.room(need, movable, {**free, "n2": 0}) is None
    assert places.room(places.Need(gpus=8, pods=2), movable, {**free, "n2": 8}) is not None


def test_rooms_count_places_for_all_pods_of_an_engine():
    rooms = places.Rooms({"a": 8, "b": 8, "c": 0}, places.Need(gpus=8, pods=3))
    old = places.Old(devices=(), gpus=8, held={"c": 8}, lives=True, serves=True)
    assert not rooms.fits_after([])
    assert rooms.fits_after([old])
    rooms.come()
    assert rooms.waiting == 1
    rooms.leave([old])
    assert rooms.waiting == 0
    assert set(rooms.free.values()) == {0}


def test_a_leader_that_is_about_to_be_taken_is_waited_for_without_a_time_to_wake_at():
    """Preempted or evicted by its kubelet, and not deleted yet: there is no time that is due."""
    leader = a_pod(POOL, FIRST, answered=True, disruption="PreemptionByScheduler")
    others = [a_pod(POOL, FIRST, node_rank=rank, answered=True) for rank in (1, 2)]
    plan = planned(POOL, [leader, *others, *members(SECOND)])
    assert not (plan.removals or plan.creates)
    assert plan.engines[0].state is EngineState.WAITING
    assert plan.wake_at is None, "a time that is over would be a pass without a pause"


EDITED = [(rank, told) for rank in (0, 1, 2) for told in (0, 2, 5)]


@pytest.mark.parametrize(("rank", "told"), EDITED)
def test_an_edited_annotation_ends_no_engine_that_serves(rank, told):
    """Of how many pods it is one is what most of them say, and no fewer than there are."""
    pods = members(answered=True, **OPEN)
    pods[rank] = replace(pods[rank], nodes=names.nodes_of(pods[rank].name, told))
    plan = planned(POOL, pods + members(SECOND, **OPEN))
    assert not (plan.removals or plan.creates)
    assert plan.engines[0].state is EngineState.IN_SERVICE


def test_who_may_have_met_a_leader_that_is_gone_gets_no_other():
    """It is forced out while the engine loads, and nobody has answered yet."""
    loading = members(containers_ready=False)[1:]
    assert names_of(planned(POOL, loading + members(SECOND))) == [("g0-23", 0, (0,))]
    met = [replace(pod, seen=pod.seen._replace(headless=NOW - 1)) for pod in loading]
    plan = planned(POOL, met + members(SECOND))
    assert removed(plan) == ["g0-23-0n1", "g0-23-0n2"]
    assert names_of(plan) == [("g0-23", 1, (1, 2))]
    assert not plan.ended


NCCL_BROKE_OFF = "torch.distributed.DistBackendError: NCCL error in: x.cpp:7, ncclRemoteError"


def failed_start(rank: int, ended_at: float, **changes: Any) -> ObservedPod:
    """The leader runs out of memory, and a follower breaks off of it."""
    said: dict[str, Any] = {} if rank == 0 else {"message": NCCL_BROKE_OFF}
    return a_failed_start(POOL, FIRST, node_rank=rank, ended_at=ended_at, **said, **changes)


@pytest.mark.parametrize("first", RANKS)
def test_the_reason_of_an_end_does_not_depend_on_whose_was_seen_first(first):
    pods = [failed_start(rank, NOW - 900 - (rank == first)) for rank in RANKS]
    (create, *_) = planned(POOL, pods + members(SECOND, containers_ready=False)).creates
    assert create.streak is not None
    assert (create.streak.reason, create.streak.count) == ("CUDAOutOfMemory", 1)


@pytest.mark.parametrize(
    ("rank", "before", "told"),
    [
        (0, "NCCLFailed", "CUDAOutOfMemory"),
        (1, "CUDAOutOfMemory", "CUDAOutOfMemory"),
        (1, "NCCLFailed", "NCCLFailed"),
    ],
)
def test_each_start_that_fails_counts_whoever_told_of_it(rank, before, told):
    """The other's end is not told yet, and was what told of the last failure, or was not."""
    end = failed_start(rank, NOW - 900, startup_failures=2, reason=before)
    left = [a_pod(POOL, FIRST, node_rank=r, containers_ready=False) for r in RANKS if r != rank]
    (create, *_) = planned(POOL, [end, *left, *members(SECOND, containers_ready=False)]).creates
    assert create.streak is not None
    assert (create.streak.reason, create.streak.count) == (told, 3)


def test_a_follower_that_was_ready_before_its_leader_failed_at_its_start_all_the_same():
    """It answers its probes as soon as its own ranks have loaded."""
    end = failed_start(1, NOW - 900, answered=True)
    left = [a_pod(POOL, FIRST, node_rank=r, containers_ready=False) for r in (0, 2)]
    (create, *_) = planned(POOL, [end, *left, *members(SECOND, containers_ready=False)]).creates
    assert create.streak is not None
    up = [a_pod(POOL, FIRST, node_rank=r, answered=True) for r in (0, 2)]
    (create, *_) = planned(POOL, [end, *up, *members(SECOND, containers_ready=False)]).creates
    assert create.streak is None, "the engine had been up"


SCHEDULER_DIED = "SIGQUIT received. signum=None, frame=None. It usually means one child failed."


@pytest.mark.parametrize("first", ["leader", "follower"])
@pytest.mark.parametrize(
    ("follower", "told"),
    [
        ({"message": SCHEDULER_DIED, "exit_code": 3}, "SchedulerDied"),
        ({"reason": "OOMKilled"}, "OOMKilled"),
    ],
)
def test_a_follower_s_kill_is_the_cause_though_its_leader_tells_first_that_nccl_broke_off(
    first, follower, told
):
    assert cause_of_ends(first, follower) == ("g0-23-0n1", told)


def test_of_a_follower_that_ends_without_a_word_its_leader_s_nccl_error_tells():
    """So ended one whose scheduler alone was killed: seconds after its leader, with 3."""
    assert cause_of_ends("leader", {"exit_code": 3}) == ("g0-23-0n0", "NCCLFailed")


def cause_of_ends(first: str, follower: dict[str, Any]) -> tuple[str, str]:
    """The pod and the reason that are told of a serving engine whose ends are a second apart."""
    ends = {0: {"message": NCCL_BROKE_OFF}, 1: follower}
    pods = [a_pod(POOL, FIRST, node_rank=2, **OPEN)]
    for rank, said in ends.items():
        at = NOW - 10 - (rank == ("leader", "follower").index(first))
        values: dict[str, Any] = {"exit_code": 137, "reason": "Error", "message": "", **said}
        ended = Termination(finished=at, started=NOW - 900, **values)
        pods.append(
            an_ended_pod(POOL, FIRST, node_rank=rank, answered=True, termination=ended, ended_at=at)
        )
    plan = planned(POOL, pods + members(SECOND))
    about = causes.context(POOL)
    told = {each.pod: each.reason for each in failures.seen(POOL, plan)}
    cause = causes.most_telling(plan.ended, about)
    assert len(told) == 2, "each end is told"
    return cause.name.removeprefix("actor-infer-"), told[cause.name]
