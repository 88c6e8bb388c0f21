"""No engine comes onto GPUs that its trainer has, whatever becomes of it; then it comes at once."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.api import conditions
from sglang_operator.children import engine_pod, trainer_registry
from sglang_operator.gates import holders
from sglang_operator.gates.decide import TrainerSignal
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.status import compute as status
from sglang_operator.weights import parts, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.steps import Trainer
from sglang_operator.weights.turn import ENGINES, TRAINER, Turn
from tests.builders import (
    NOW,
    a_lease_saying,
    a_pool,
    all_pods,
    an_ended_pod,
    created,
    planned,
    removed,
    weighed,
)
from tests.unit.placement.trainers import THREE, a_shared_pool, seen
from tests.unit.plan.test_seating import seated

POOL = a_shared_pool()
UNGATED = a_shared_pool(weights={"gate": "Off"})
FIRST, *REST = POOL.running
T = Trainer(holder="trainer", transaction="t1")
RUNS = [f"c{engine.rank}" for engine in POOL.running]


def running(pool=POOL, **changes):
    """All engines, each with a container of its own that has answered."""
    pods = seated(pool, started=True, **changes)
    return [dataclasses.replace(pod, container_id=f"c{n}") for n, pod in enumerate(pods)]


def asleep(pods, takes=TRAINER, **changes):
    """The Lease of a pool whose trainer has put these to sleep."""
    before = Transaction(phase=Phase.COMMITTED, id="t0", version="v0", intact=True)
    said = steps.sleep(before, T, tags=["weights"], now=NOW, seen=NOW, takes=takes)
    slept = steps.slept(said, T, instances=[pod.instance for pod in pods], now=NOW)
    return dataclasses.replace(steps.rests(slept, T), **changes)


def planned_by(state, pods, pool=POOL, **changes):
    there = seen(pool, *THREE, **changes)
    there["children"] = {**there["children"], **(a_lease_saying(pool, state) if state else {})}
    return planned(pool, pods, **there)


def told(found, pool=POOL):
    known = status.compute(
        pool, found, weighed(pool, []), ignored=(), troubles=(), previous={}, now=NOW
    )
    return {each["type"]: each for each in known["conditions"]}


@pytest.mark.parametrize("pool", [POOL, UNGATED], ids=["gated", "ungated"])
def test_one_that_is_gone_waits_and_says_for_what(pool):
    pods = running(pool)
    found = planned_by(asleep(pods), pods[1:], pool)
    assert not found.creates
    assert found.turned == (FIRST.name,)
    assert found.engines[0].state is EngineState.WAITING
    reconciling = told(found, pool)["Reconciling"]
    assert reconciling["reason"] == conditions.TURN_AWAITED == "WaitingForWake"
    assert "1 engine waiting: the trainer has these GPUs" in reconciling["message"]
    assert "kubectl sglang weights wake actor-infer" in reconciling["message"]


def test_one_that_has_failed_waits_whatever_its_backoff_says():
    pods = running()
    ended = an_ended_pod(POOL, FIRST, failures=1)
    found = planned_by(asleep(pods), [ended, *pods[1:]])
    assert not found.creates
    assert found.engines[0].state is EngineState.WAITING


def test_in_the_engines_turn_it_is_made_at_once():
    pods = running()
    woken = steps.wake(asleep(pods), T, now=NOW)
    assert [name for name, _ in created(planned_by(woken, pods[1:]))] == [FIRST.name]
    assert [name for name, _ in created(planned_by(None, pods[1:]))] == [FIRST.name]


def test_a_part_that_sleeps_keeps_out_its_own_engines_alone():
    pods = running()
    before = Transaction(
        phase=Phase.COMMITTED,
        id="t0",
        version="v0",
        intact=True,
        instances=frozenset(pod.instance for pod in pods),
    )
    part, takes = [pods[0].instance], Turn(frozenset(FIRST.devices))
    of: dict[str, Any] = {"instances": part, "tags": ["weights"], "now": NOW}
    state = parts.sleep(before, T, seen=NOW, takes=takes, **of)
    state = parts.slept(state, T, **of)
    assert state.serving
    found = planned_by(state, pods[2:])
    assert [name for name, _ in created(found)] == [REST[0].name], "the others serve, and heal"
    assert found.turned == (FIRST.name,)


def test_a_pool_that_grows_or_is_resumed_waits_too():
    found = planned_by(asleep(running()), [])
    assert not found.creates
    assert found.turned == tuple(engine.name for engine in POOL.running)


def test_engines_with_gpus_of_their_own_wait_for_nobody():
    pool = a_pool()
    pods = all_pods(pool)[1:]
    found = planned(pool, pods, children=a_lease_saying(pool, asleep([])))
    assert len(found.creates) == 1
    assert not found.turned


def test_one_that_was_made_right_before_goes_and_who_sleeps_stays():
    pods = running()
    coming = dataclasses.replace(
        pods[0], container_id="", last_container_id="", engine_runs=False, phase="Pending"
    )
    coming = dataclasses.replace(coming, containers_ready=False, started=False)
    found = planned_by(asleep(pods[1:]), [coming, *pods[1:]])
    assert removed(found) == [coming.name]
    assert not found.removals[0].drains
    assert not found.creates


def test_one_that_starts_is_left_to_a_sleep_that_is_to_name_it_and_goes_else():
    pods = running()
    starts = dataclasses.replace(pods[0], containers_ready=False, started=False)
    here = [starts, *pods[1:]]
    about = steps.sleep(Transaction(id="t0"), T, tags=["weights"], now=NOW, seen=NOW, takes=TRAINER)
    assert about.releases
    assert not planned_by(about, here).removals
    assert removed(planned_by(asleep(pods[1:]), here)) == [starts.name]


def test_who_is_up_and_could_not_be_put_to_sleep_is_its_trainers_business():
    pods = running()
    assert not planned_by(asleep(pods[1:]), pods).removals


@pytest.mark.parametrize("lost", [None, Transaction()], ids=["deleted", "emptied"])
def test_a_lease_that_is_lost_counts_as_what_it_said(lost):
    pods = running()
    found = planned_by(lost, pods[1:], said=asleep(pods))
    assert not found.creates
    assert found.turned == (FIRST.name,)


def test_one_that_is_put_back_counts_as_what_it_said_since():
    pods = running()
    before = Transaction(phase=Phase.COMMITTED, id="t0", version="v0", intact=True, transitions=1)
    slept = dataclasses.replace(asleep(pods), transitions=5)
    assert planned_by(before, pods[1:], said=slept).turned == (FIRST.name,)
    back = dataclasses.replace(before, transitions=9, turn=ENGINES)
    old = dataclasses.replace(asleep(pods), transitions=2)
    assert planned_by(old, pods[1:], said=back).creates, "it was the engines' turn by then"


def test_one_of_which_not_all_is_seen_may_say_that_it_is_the_trainers():
    pods = running()
    key, lease = next(iter(a_lease_saying(POOL, Transaction()).items()))
    unseen = dataclasses.replace(lease, body={"metadata": lease.body["metadata"]}, whole=False)
    there = seen(POOL, *THREE)
    there["children"] = {**there["children"], key: unseen}
    assert planned(POOL, pods[1:], **there).turned == (FIRST.name,)


def test_a_rollout_leaves_the_engines_alone_for_as_long_as_any_gpu_is_the_trainers():
    pods = [dataclasses.replace(pod, revision="before") for pod in running()]
    state = steps.ended(asleep(pods), "b", message="by force", now=NOW)
    assert state.phase is Phase.ABORTED
    found = planned_by(state, pods)
    assert not found.removals
    assert found.waiting.what is Waits.FOR_WAKE


IDS = frozenset(device for engine in POOL.running for device in engine.devices)


@pytest.mark.parametrize(
    "turn",
    [Turn(IDS, but=True), Turn(frozenset({max(IDS) + 1, max(IDS) + 2}))],
    ids=["given back by their ids", "scaled away"],
)
def test_gpus_that_no_engine_is_on_keep_no_rollout_waiting(turn):
    pods = [dataclasses.replace(pod, revision="before") for pod in running()]
    state = steps.ended(asleep(pods), "b", message="by force", now=NOW)
    state = dataclasses.replace(state, turn=turn, asleep=(), released=())
    found = planned_by(state, pods)
    assert found.removals
    assert found.waiting is None or found.waiting.what is not Waits.FOR_WAKE
    one = dataclasses.replace(state, turn=turn.taken(Turn(frozenset(FIRST.devices[:1]))))
    assert planned_by(one, pods).waiting.what is Waits.FOR_WAKE


def test_no_engine_runs_again_in_its_pod_by_itself():
    for pool in (POOL, UNGATED):
        spec = engine_pod.template(pool)["spec"]
        assert spec["restartPolicy"] == "Never"
    assert engine_pod.template(a_pool(weights={"gate": "Off"}))["spec"]["restartPolicy"] == "Always"


# --- what the trainer is told


def registry(state, pods, **changes):
    there = seen(POOL, *THREE)
    there["children"] = {**there["children"], **a_lease_saying(POOL, state)}
    plan = dataclasses.replace(weighed(POOL, pods, **there), **changes)
    return plan, trainer_registry.document(POOL, plan)


def test_the_registry_names_those_that_wait_and_their_gpus():
    pods = running()
    state = asleep(pods)
    plan, known = registry(state, pods[1:], occupied=holders.occupied(pods[1:]))
    assert known["weights"]["turns"] is True
    assert known["weights"]["turn"] == "all"
    assert known["weights"]["waits"] == [[0, 0]]
    assert "uuids" not in known["engines"][0]
    assert known["engines"][1]["uuids"] == list(pods[1].gpus_seen)
    assert plan.awaited(TrainerSignal()).waits == 1


def test_it_names_nobody_while_pods_are_made_that_nobody_sees_yet():
    pods = running()
    _, known = registry(asleep(pods), pods[1:], occupied=None)
    assert "waits" not in known["weights"]


def test_the_next_operator_reads_there_whose_turn_it_was():
    pods = running()
    plan, _ = registry(asleep(pods, takes=Turn(frozenset({0, 1}))), pods)
    said = trainer_registry.last_said(trainer_registry.registry(POOL, plan)["data"])
    assert said is not None
    assert said.turn == Turn(frozenset({0, 1}))


def test_a_pool_whose_gpus_are_its_own_tells_nothing_of_turns():
    pool = a_pool()
    known = trainer_registry.document(pool, weighed(pool, all_pods(pool)))
    assert not {"turns", "turn", "waits"} & known["weights"].keys()
    assert "uuids" not in known["engines"][0]


# --- who sleeps for nobody


WIDE = a_shared_pool(num_gpus_per_worker=4)


def regrouped(state, pool=WIDE, pods=None, **changes):
    return planned_by(state, running() if pods is None else pods, pool, **changes)


def test_sleepers_of_another_grouping_make_way_once_their_gpus_are_the_engines_again():
    """A sync waited for the new ones for ever: the old ones stayed for a wake."""
    pods = running()
    kept = regrouped(asleep(pods), pods=pods)
    assert not kept.removals
    found = regrouped(asleep(pods, turn=ENGINES), pods=pods)
    assert removed(found) == [pod.name for pod in pods]
    assert not any(removal.drains for removal in found.removals)
    assert all(engine.state is EngineState.WAITING for engine in found.unlisted)
    after = regrouped(asleep(pods, turn=ENGINES), pods=[])
    assert len(after.creates) == len(WIDE.running)


def test_those_on_gpus_that_are_the_trainers_yet_stay():
    pods = running()
    turn = Turn(frozenset({0, 1, 2, 3}), but=True)
    found = regrouped(asleep(pods, turn=turn), pods=pods)
    assert removed(found) == [pods[0].name, pods[1].name]


def test_a_wide_one_makes_way_for_the_first_of_those_that_are_to_be_on_its_gpus():
    wide = running(WIDE)
    turn = Turn(frozenset(FIRST.devices), but=True)
    assert removed(planned_by(asleep(wide, turn=turn), wide)) == [wide[0].name]


@pytest.mark.parametrize(
    ("changes", "pool"),
    [
        ({"at_work": True}, WIDE),
        ({"asleep": ()}, WIDE),
        ({}, a_shared_pool(num_gpus_per_worker=4, rollout={"paused": True})),
    ],
    ids=["its trainer is at work", "awake", "paused"],
)
def test_nobody_else_makes_way(changes, pool):
    """Nor anybody who is awake, and may serve."""
    found = regrouped(asleep(running(), **{"turn": ENGINES, **changes}), pool)
    assert not found.removals


def test_they_make_way_though_their_trainer_died_at_work_once_its_lease_has_run_out():
    """Who takes over gives the GPUs back, and waited for the new engines for ever."""
    pods = running()
    state = asleep(pods, turn=ENGINES, at_work=True)
    before = regrouped(state, pods=pods, work_ends=NOW + 5)
    assert not before.removals
    assert before.wake_at is not None and before.wake_at <= NOW + 5
    found = regrouped(state, pods=pods, work_ends=NOW - 1)
    assert removed(found) == [pod.name for pod in pods]


def a_part_asleep(pods, of):
    """The Lease of a pool of which these sleep, and the others serve on."""
    before = Transaction(
        phase=Phase.COMMITTED,
        id="t0",
        version="v0",
        intact=True,
        instances=frozenset(pod.instance for pod in pods),
    )
    turn = Turn(frozenset(device for pod in of for device in pod.devices))
    named: dict[str, Any] = {"instances": [pod.instance for pod in of], "tags": ["weights"]}
    state = parts.sleep(before, T, now=NOW, seen=NOW, takes=turn, **named)
    return steps.rests(parts.slept(state, T, now=NOW, **named), T)


def test_those_beside_sleepers_that_made_way_are_replaced_as_ever():
    """The sleepers were ended, and the engines that had served beside them held the new ones up:
    no wake was to come, and no sync could begin."""
    pods = [dataclasses.replace(pod, ready=True) for pod in running()]
    pods[1] = dataclasses.replace(pods[1], ready=False)
    state = a_part_asleep(pods, pods[1:2])
    assert not regrouped(state, pods=pods).removals
    back = parts.give_back(state, T, now=NOW, seen=NOW)
    assert (back.phase, back.trainers) == (Phase.SLEEPING, ENGINES)
    assert removed(regrouped(back, pods=pods)) == [pods[1].name]
    left = [pods[0], *pods[2:]]
    hidden = regrouped(back, pods=left, departing=(pods[1],))
    assert not hidden.removals
    assert hidden.waiting.what is Waits.FOR_WAKE
    found = regrouped(back, pods=left)
    assert removed(found) == [pods[0].name], "as many as maxUnavailable has it"
    assert WIDE.running[0].name in dict(created(regrouped(back, pods=pods[2:])))
    woken = regrouped(asleep(pods, turn=ENGINES, released=()), pods=left)
    assert removed(woken) == [pods[0].name]
    taken = regrouped(state, pods=left)
    assert not taken.removals, "its GPUs are the trainer's"
    died = dataclasses.replace(back, at_work=True)
    assert not regrouped(died, pods=left, work_ends=NOW + 5).removals
    assert removed(regrouped(died, pods=left, work_ends=NOW - 1)) == [pods[0].name]


def test_none_goes_for_one_that_could_not_be_made():
    pods = running()
    state = asleep(pods, turn=ENGINES)
    rivals = dict.fromkeys((engine.name for engine in WIDE.running), "rl/other")
    assert not regrouped(state, pods=pods, rivals=rivals).removals
    assert not regrouped(state, pods=pods, refused_revision=WIDE.revision).removals
