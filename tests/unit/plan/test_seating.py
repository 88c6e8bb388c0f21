"""Engines are where their trainer has its GPUs: they come, wait, go and come back with it."""

import dataclasses

import pytest

from sglang_operator.api import names
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import (
    Companion,
    ContainerKind,
    Gate,
    Observed,
    ObservedNode,
    Termination,
)
from sglang_operator.placement.seats import TrainerPod
from sglang_operator.plan import seating
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.status import compute as status
from tests.builders import (
    CUDA_OUT_OF_MEMORY,
    NOW,
    a_pod,
    a_pool,
    all_pods,
    created,
    planned,
    removed,
    weighed,
)
from tests.unit.placement.trainers import (
    THREE,
    a_shared_pool,
    a_slot,
    by_hand,
    pods,
    published,
    seen,
)

POOL = a_shared_pool()
EVERY = [engine.name for engine in POOL.engines]
ON_NODE_0 = EVERY[:4]
UNGATED = {"weights": {"gate": "Off"}}


def seated(pool=POOL, *of, **changes):
    """All pods of the pool, as they were made for these slots."""
    known = seating.of(pool, Observed(**seen(pool, *(of or THREE))))
    assert known is not None
    found = []
    for pod in all_pods(pool, **changes):
        seat = known.seats[pod.engine][pod.node_rank]
        found.append(dataclasses.replace(pod, node=seat.node, slot=seat.mark, gpus_seen=seat.gpus))
    return found


def plan(here, *of, pool=POOL, **changes):
    return planned(pool, here, **seen(pool, *(of or THREE), **changes))


def test_each_engine_is_made_where_its_gpus_are():
    found = plan([])
    assert [name for name, _ in created(found)] == EVERY
    assert {create.seats[0].node for create in found.creates} == {"gpu-0", "gpu-1", "gpu-2"}
    assert not found.unseated


def test_a_pool_in_another_mode_leaves_that_to_the_scheduler():
    pool = a_pool()
    found = plan([], pool=pool)
    assert found.seating is None
    assert all(create.seats == () for create in found.creates)


def test_engines_that_are_where_they_belong_need_nothing():
    found = plan(seated())
    assert not found.creates
    assert not found.removals


def test_before_the_trainer_has_spoken_no_engine_is_made():
    found = plan([], data={})
    assert not found.creates
    assert found.unseated == tuple(EVERY)
    assert {engine.state for engine in found.engines} == {EngineState.WAITING}


def test_engines_of_the_nodes_that_are_known_do_not_wait_for_the_others():
    found = plan([], *THREE[1:], nodes={slot.node: ObservedNode(name=slot.node) for slot in THREE})
    assert [name for name, _ in created(found)] == EVERY[4:]
    assert found.unseated == tuple(ON_NODE_0)


@pytest.mark.parametrize(
    "of",
    [(a_slot(0, gpus=THREE[0].gpus[:4]), *THREE[1:]), (THREE[0], a_slot(1, gpus=THREE[0].gpus))],
    ids=["fewer GPUs than the mapping needs", "a GPU twice"],
)
def test_slots_that_disagree_make_no_pod_and_touch_none_that_runs(of):
    assert not plan([], *of).creates
    found = plan(seated()[:5], *of)
    assert not found.creates
    assert not found.removals
    assert found.seating.problem is not None


def test_what_others_wrote_under_that_name_says_nothing():
    told = seen(POOL, *THREE)
    (key, child), *_ = told["children"].items()
    strange = dataclasses.replace(child, owner=names.Uid("somebody"))
    assert not planned(POOL, [], **{**told, "children": {key: strange}}).creates


# --- the trainer moves


def test_engines_go_with_their_trainers_pod_and_at_once():
    found = plan(seated(ready=True, gate=Gate(is_open=True)), trainers=pods(*THREE[1:]))
    assert {removal.pod.engine for removal in found.removals} == set(ON_NODE_0)
    assert not any(removal.drains for removal in found.removals)
    assert not found.creates


def test_until_the_trainer_is_back_they_wait():
    left = [pod for pod in seated() if pod.engine not in ON_NODE_0]
    found = plan(left, trainers=pods(*THREE[1:]))
    assert not found.creates
    assert not found.removals
    assert found.unseated == tuple(ON_NODE_0)


def test_they_come_back_where_it_is_now():
    left = [pod for pod in seated() if pod.engine not in ON_NODE_0]
    moved = a_slot(0, "gpu-9", pod="trainer-9", uid="uid-anew")
    found = plan(left, moved, *THREE[1:])
    assert [name for name, _ in created(found)] == ON_NODE_0
    assert {create.seats[0].node for create in found.creates} == {"gpu-9"}


def test_engines_leave_a_slot_that_is_elsewhere_now():
    moved = a_slot(0, "gpu-9", pod="trainer-9", uid="uid-anew")
    found = plan(seated(), moved, *THREE[1:], trainers=pods(moved, *THREE))
    assert {removal.pod.engine for removal in found.removals} == set(ON_NODE_0)


def test_a_slot_that_is_said_no_more_moves_nobody():
    found = plan(seated(), *THREE[1:], trainers=pods(*THREE))
    assert not found.removals


def test_a_trainer_that_was_made_anew_is_waited_for_until_it_has_spoken():
    anew = {**pods(*THREE), "trainer-0": TrainerPod(uid="uid-anew", node="gpu-0")}
    assert {removal.pod.engine for removal in plan(seated(), trainers=anew).removals} == set(
        ON_NODE_0
    )
    left = [pod for pod in seated() if pod.engine not in ON_NODE_0]
    assert plan(left, trainers=anew).unseated == tuple(ON_NODE_0)


def test_engines_that_nobody_wants_any_more_go_with_their_trainer_too():
    before = seated()
    smaller = a_shared_pool(device_mapping="list(range(8,24))")
    found = plan(before, *THREE, pool=smaller, trainers=pods(*THREE[1:]))
    assert set(ON_NODE_0) <= {removal.pod.engine for removal in found.removals}


@pytest.mark.parametrize("paused", [True, False], ids=["paused", "rolled out"])
def test_engines_of_a_pool_in_another_mode_now_go_with_their_trainer_all_the_same(paused):
    """All at once: it is no step of a rollout."""
    other = a_pool(**UNGATED, rollout={"paused": paused})
    here = seated(a_shared_pool(**UNGATED), ready=True)
    found = planned(other, here, **seen(POOL, *THREE, trainers=pods(*THREE[1:])))
    gone = {removal.pod.engine for removal in found.removals if not removal.drains}
    assert gone == set(ON_NODE_0)
    alone = planned(other, here, **seen(POOL, *THREE, trainers=None))
    assert not gone & {removal.pod.engine for removal in alone.removals}


def test_where_nobody_looks_for_trainers_everything_stays():
    """As for who draws a map."""
    assert not plan(seated(), trainers=None).removals


# --- one engine at a time on a GPU: no scheduler counts these


def test_an_engine_comes_once_the_one_before_it_is_gone():
    here = seated()
    here[0] = dataclasses.replace(
        here[0], deleting=True, deletion_asked=NOW - 1, deletion_due=NOW + 60
    )
    found = plan(here)
    assert not found.creates
    assert found.engines[0].state is EngineState.WAITING
    assert created(plan(here[1:])) == [(EVERY[0], 0)]


def test_an_engine_waits_for_any_other_on_its_gpus():
    """After a change of the mapping it is not the same engine that has them."""
    wider = a_shared_pool(num_gpus_per_worker=4)
    old = [dataclasses.replace(seated()[0], deleting=True, deletion_asked=NOW - 1)]
    found = plan(old, pool=wider)
    assert [name for name, _ in created(found)] == [engine.name for engine in wider.engines[1:]]


def test_an_engine_that_has_ended_is_in_nobody_s_way():
    gone = dataclasses.replace(seated()[0], phase="Failed", over=True, deleting=True)
    assert EVERY[0] in [name for name, _ in created(plan([gone]))]


def test_an_engine_waits_for_one_that_has_its_gpus_and_no_node_yet():
    """Slots swap their GPUs while a pod is not bound."""
    pool = a_shared_pool(**UNGATED)
    here = [pod for pod in seated(pool, ready=True) if pod.engine != EVERY[1]]
    here[0] = dataclasses.replace(
        here[0], node="", phase="Pending", ready=False, engine_runs=False, containers_ready=False
    )
    gpus = THREE[0].gpus
    swapped = a_slot(0, gpus=(*gpus[2:4], *gpus[0:2], *gpus[4:]))
    found = plan(here, swapped, *THREE[1:], pool=pool)
    assert [removal.pod.engine for removal in found.removals] == [EVERY[0]]
    assert not found.creates


def test_an_engine_waits_for_the_last_of_another_pool_and_says_so():
    old = dataclasses.replace(seated()[0], name="other-g0-1-0", uid=names.Uid("other"))
    found = plan([], departing=(old,))
    assert [name for name, _ in created(found)] == EVERY[1:]
    assert found.engines[0].state is EngineState.WAITING
    assert found.wake_at is not None
    assert found.wake_at <= NOW + 5
    found = plan(seated()[1:], departing=(old,))
    told = _conditions(POOL, found)["Ready"]
    assert told["reason"] == "WaitingForTrainersGPUs"
    assert "other-g0-1-0 is not gone yet" in told["message"]
    gone = dataclasses.replace(old, phase="Failed", over=True)
    assert created(plan(seated()[1:], departing=(gone,))) == [(EVERY[0], 0)]


def test_slots_by_hand_need_no_trainer_to_be_seen():
    pool = a_shared_pool(placement=by_hand(*THREE))
    found = plan([], pool=pool, data={}, trainers={})
    assert len(found.creates) == 12


def test_a_pod_of_the_mode_before_is_replaced_by_the_rollout():
    found = plan(all_pods(a_pool(), ready=True))
    assert len(removed(found)) == 1
    assert a_pod(POOL, POOL.engines[0]).slot == ""


# --- whole stories: whatever changes, it ends well, and nobody was two on one GPU


def _comes(pool, create, rank):
    seat = create.seats[rank]
    return a_pod(
        pool,
        create.engine,
        create.attempt,
        node_rank=rank,
        node=seat.node,
        slot=seat.mark,
        gpus_seen=seat.gpus,
        ready=True,
        container_id=f"{create.attempt}",
        gate=Gate(is_open=True),
    )


def _settled(pool, here, now, nodes):
    for _ in range(60):
        now += 20
        found = planned(pool, here, now, **seen(pool, *THREE, nodes=nodes))
        if not (found.creates or found.removals):
            return here, now
        gone = {removal.pod.uid for removal in found.removals}
        here = [pod for pod in here if pod.uid not in gone]
        here += [_comes(pool, each, rank) for each in found.creates for rank in each.node_ranks]
        gpus = [gpu for pod in here for gpu in pod.gpus_seen]
        assert len(gpus) == len(set(gpus)), "two engines on one GPU"
    raise AssertionError("it does not come to rest")


@pytest.mark.parametrize("size", [8, 16], ids=["the trainer has all GPUs", "it has half of them"])
@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"num_gpus_per_worker": 4},
        {"num_gpus_per_worker": 8},
        {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,16))"},
        {"device_mapping": "list(range(8,24))"},
        {"replicas": 3},
    ],
    ids=str,
)
def test_a_change_of_the_spec_comes_to_its_end(change, size):
    ungated = {"weights": {"gate": "Off"}}
    before, after = a_shared_pool(**ungated), a_shared_pool(**{**ungated, **change})
    cards = {"nvidia.com/gpu": size}
    nodes = {slot.node: ObservedNode(name=slot.node, resources=cards) for slot in THREE}
    here, now = _settled(before, [], NOW, nodes)
    here, _ = _settled(after, here, now, nodes)
    assert {pod.engine for pod in here} == {engine.name for engine in after.running}
    assert {pod.revision for pod in here} == {after.revision}


def _conditions(pool, found):
    told = status.compute(
        pool,
        found,
        weighed(pool, list(found.pods)),
        ignored=[],
        troubles=(),
        previous={},
        now=NOW,
    )
    return {each["type"]: each for each in told["conditions"]}


# --- a rollout while nobody can have a seat


TORN = (a_slot(0, gpus=THREE[0].gpus[:4]), *THREE[1:])


@pytest.mark.parametrize(("of", "data"), [(TORN, None), (THREE, {})], ids=["disagree", "empty"])
@pytest.mark.parametrize(
    ("spec", "ready"),
    [(UNGATED, True), ({}, False), ({**UNGATED, "rollout": {"maxUnavailable": "100%"}}, True)],
    ids=["ungated", "gates are closed", "all at once"],
)
def test_no_engine_goes_for_a_revision_that_could_not_come_back(of, data, spec, ready):
    after = a_shared_pool(**spec, seed=9)
    told = {} if data is None else {"data": data}
    found = plan(seated(a_shared_pool(**spec), ready=ready), *of, pool=after, **told)
    assert not found.removals
    assert found.waiting.what is Waits.FOR_SEATS
    assert found.waiting.lacking == found.seating.why_waiting(EVERY[0]) != ""


def test_a_lost_map_keeps_a_regrouping_back():
    after = a_shared_pool(**UNGATED, num_gpus_per_worker=4, rollout={"maxUnavailable": "100%"})
    found = plan(seated(a_shared_pool(**UNGATED), ready=True), pool=after, data={})
    assert not found.removals


def test_engines_with_a_seat_are_rolled_out_beside_those_without():
    after = a_shared_pool(**UNGATED, seed=9, rollout={"maxUnavailable": "100%"})
    here = seated(a_shared_pool(**UNGATED), ready=True)
    found = plan(here, *THREE[1:], pool=after, trainers=pods(*THREE))
    assert {removal.pod.engine for removal in found.removals} == set(EVERY[4:])


def test_a_map_that_is_lost_is_told_at_once_and_engines_serve_on():
    pool = a_shared_pool(**UNGATED)
    found = plan(seated(pool, ready=True), pool=pool, data={})
    told = _conditions(pool, found)
    assert told["Ready"]["status"] == "True"
    assert told["DevicesAssigned"]["status"] == "True"
    assert told["DevicesAssigned"]["reason"] == "WaitingForTrainersGPUs"
    assert "could not come back" in told["DevicesAssigned"]["message"]
    there = plan(seated(pool, ready=True), pool=pool)
    assert _conditions(pool, there)["DevicesAssigned"]["reason"] == "Shared"


def test_a_rollout_that_waits_for_seats_says_so():
    after = a_shared_pool(**UNGATED, seed=9)
    found = plan(seated(a_shared_pool(**UNGATED), ready=True), pool=after, data={})
    told = _conditions(after, found)
    assert told["Ready"]["reason"] == "RolloutWaiting"
    assert "nobody has said which GPUs" in told["Ready"]["message"]


# --- one question before each pod: has it a seat, and are its GPUs free?

SHARE = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
IN_PLACE = a_shared_pool(**UNGATED, strategy_args=SHARE)


def _looping(here, count=1):
    """The first of these fail at their start, and kubelet starts them again in place."""
    end = Termination(
        exit_code=137,
        reason="Error",
        message=CUDA_OUT_OF_MEMORY,
        finished=NOW - 5,
        started=NOW - 60,
    )
    loops = {
        "restarts": 1,
        "last_termination": end,
        "containers_ready": False,
        "containers_ready_changed": NOW - 100,
        "ready": False,
        "answered": False,
    }
    return [*(dataclasses.replace(pod, **loops) for pod in here[:count]), *here[count:]]


def _run_on(pod, **changes):
    """A container that somebody else put there has ended for good, and the engine runs on."""
    end = Termination(exit_code=1, reason="Error", message="", finished=NOW - 1, started=NOW - 50)
    shipper = Companion(name="log-shipper", kind=ContainerKind.SIDECAR, over=True, termination=end)
    values = {"companions": (shipper,), "containers_ready": False, "ready": False}
    seen_at = pod.seen._replace(ended=NOW - 1)
    values |= {"engine_runs": True, "ended_at": NOW - 1, "seen": seen_at}
    return dataclasses.replace(pod, **values | changes)


def _going(pod, due=NOW + 600, **changes):
    seen_at = pod.seen._replace(going=NOW - 1, due=due)
    values = {"deleting": True, "deletion_asked": NOW - 1, "deletion_due": due, "seen": seen_at}
    return dataclasses.replace(pod, **values | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": published(*THREE[1:])},
        {"data": published(THREE[0], dataclasses.replace(THREE[1], gpus=THREE[0].gpus), THREE[2])},
        {"nodes": {}},
        {"data": {}},
    ],
    ids=["its slot is said no more", "a GPU twice", "no such node", "the map is lost"],
)
def test_an_engine_that_loops_without_a_seat_is_kubelets_and_all_else_goes_on(changes):
    here = _looping(seated(IN_PLACE, ready=True))
    found = plan(here, pool=IN_PLACE, **changes)
    assert not found.creates
    assert not found.removals
    gone = plan(here, pool=IN_PLACE, **changes, trainers=pods(*THREE[:2]))
    assert {removal.pod.engine for removal in gone.removals} == set(EVERY[8:])


def test_an_engine_that_loops_is_gone_before_the_next_one_is_made_and_its_failure_is_kept():
    here = _looping(seated(IN_PLACE, ready=True))
    first = plan(here, pool=IN_PLACE)
    assert removed(first) == [here[0].name]
    assert not first.removals[0].drains
    assert not first.creates
    assert first.engines[0].state is EngineState.WAITING
    assert [pod.name for pod in first.taken_over] == [here[0].name]
    leaves = plan([_going(here[0], NOW + 5), *here[1:]], pool=IN_PLACE, handed_on=first.handed_on)
    assert not leaves.creates
    then = plan(here[1:], pool=IN_PLACE, handed_on=leaves.handed_on)
    assert created(then) == [(EVERY[0], 0)]
    assert then.creates[0].failures == 1
    assert then.creates[0].streak is not None
    assert (then.creates[0].streak.reason, then.creates[0].streak.count) == ("CUDAOutOfMemory", 1)


def test_what_was_handed_on_is_known_until_the_next_pod_is_there_and_of_its_revision_alone():
    here = _looping(seated(IN_PLACE, ready=True))
    told = plan(here, pool=IN_PLACE).handed_on
    assert set(told) == {EVERY[0]}
    assert not plan(seated(IN_PLACE), pool=IN_PLACE, handed_on=told).handed_on
    after = a_shared_pool(**UNGATED, strategy_args=SHARE, seed=9)
    anew = seated(after, ready=True)[1:]
    assert plan(anew, pool=after, handed_on=told).creates[0].failures == 0


def test_an_engine_that_runs_on_in_a_pod_that_has_ended_goes_before_the_next_one_comes():
    here = seated(ready=True, gate=Gate(is_open=True))
    here[0] = _run_on(here[0], failures=2)
    untold = plan(here)
    assert not untold.creates
    assert not untold.removals  # its failure is told first
    waits = plan(here, recorded=frozenset({here[0].uid}))
    assert not waits.removals  # nor is its backoff over
    due = planned(POOL, here, NOW + 3600, **seen(POOL, *THREE), recorded=frozenset({here[0].uid}))
    assert removed(due) == [here[0].name]
    assert not due.creates
    then = plan(here[1:], handed_on=due.handed_on)
    assert created(then) == [(EVERY[0], 0)]
    assert then.creates[0].failures == 3


def test_another_engine_waits_for_one_that_runs_on_in_a_pod_that_has_ended():
    wider = a_shared_pool(num_gpus_per_worker=4)
    here = [_run_on(seated()[0])]
    found = plan(here, pool=wider)
    assert [name for name, _ in created(found)] == [e.name for e in wider.engines[1:]]
    other = dataclasses.replace(here[0], name="other-g0-1-0", uid=names.Uid("other"))
    assert [name for name, _ in created(plan([], departing=(other,)))] == EVERY[1:]


def test_an_engine_of_two_pods_gets_no_leader_where_another_is_not_gone_yet():
    pool = a_shared_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    leader, follower = seated(pool, containers_ready=False)
    other = dataclasses.replace(leader, name="other-g0-15-0", uid=names.Uid("other"))
    found = plan([follower], pool=pool, departing=(_going(other),))
    assert not found.creates
    assert found.kept_out == {"g0-15": "other-g0-15-0"}
    assert found.wake_at is not None
    assert [each.node_ranks for each in plan([follower], pool=pool).creates] == [(0,)]


# --- a trainer that is gone waits for no drain


@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "suspended"])
def test_an_engine_that_drains_is_deleted_again_once_its_trainer_is_gone(wanted):
    pool = POOL if wanted else a_shared_pool(suspend=True)
    here = seated(POOL, ready=True, gate=Gate(is_open=True))[:1]
    drains = [_going(here[0])]
    assert not plan(drains, pool=pool).removals
    found = plan(drains, pool=pool, trainers=pods(*THREE[1:]))
    assert [(removal.pod.name, removal.drains) for removal in found.removals] == [
        (here[0].name, False)
    ]
    again = plan([_going(here[0], NOW + 5)], pool=pool, trainers=pods(*THREE[1:]))
    assert not again.removals


def test_the_followers_of_an_engine_that_drains_go_with_its_trainer():
    pool = a_shared_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))", suspend=True)
    wanted = a_shared_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    leader, follower = seated(wanted, ready=True, answered=True)
    drains = [_going(leader), follower]
    assert not plan(drains, pool=pool).removals
    found = plan(drains, pool=pool, trainers={})
    assert set(removed(found)) == {leader.name, follower.name}
    assert not any(removal.drains for removal in found.removals)


def test_what_has_ended_and_runs_on_goes_with_its_trainer_and_its_failure_is_kept():
    here = [_run_on(seated()[0], failures=2)]
    found = plan(here, trainers=pods(*THREE[1:]), recorded=frozenset({here[0].uid}))
    assert removed(found) == [here[0].name]
    assert found.handed_on[EVERY[0]].failures == 3


def test_under_a_refused_spec_all_that_may_run_beside_no_trainer_is_named():
    pool = a_shared_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    leader, follower = seated(pool, ready=True, answered=True)

    def behind(*here):
        observed = Observed(pods=here, **seen(pool, *THREE, trainers={}))
        return [pod.name for pod in seating.left_behind(observed, NOW)]

    assert behind(_going(leader), follower) == [leader.name, follower.name]
    assert behind(_going(leader, NOW + 5), _run_on(follower)) == [follower.name]
    assert behind(dataclasses.replace(leader, phase="Failed", over=True)) == []
