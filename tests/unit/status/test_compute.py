"""Status by kstatus' and Flux's rules, and the words in it."""

from dataclasses import replace
from typing import Any

import pytest

from sglang_operator.api import conditions, spec
from sglang_operator.observed.model import Gate, Observed, ObservedNode, Termination
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute as status
from sglang_operator.status.compute import Trouble
from sglang_operator.weights import lease_state, reset, steps
from tests import gitops
from tests.builders import (
    NOW,
    OWNER,
    a_failed_start,
    a_lease,
    a_pod,
    a_pool,
    all_pods,
    an_ended_pod,
    guide_spec,
    refused,
    weighed,
)
from tests.unit.placement import trainers


def compute(pool, pods, troubles=(), previous=None, now=NOW, **observed):
    planned = plan(pool, Observed(pods=tuple(pods), **observed), now)
    return status.compute(
        pool,
        planned,
        weighed(pool, list(pods), now, **observed),
        ignored=spec.ignored_fields(guide_spec()),
        troubles=troubles,
        previous=previous or {},
        now=now,
    )


def condition(found, type_):
    return conditions.find(found["conditions"], type_)


def as_object(found):
    return {"metadata": {"generation": OWNER.generation}, "status": found}


def _situations():
    pool = a_pool()
    pods = all_pods(pool)
    stalled = Trouble(reason=conditions.NAME_CONFLICT, message="a foreign pod", stalled=True)
    quota = Trouble(reason=conditions.QUOTA_EXCEEDED, message="no more")
    suspended = a_pool(suspend=True)
    failing = [an_ended_pod(pool, pool.engines[0], 3, failures=3, created=NOW - 5), *pods[1:]]
    return {
        "empty": (pool, [], ()),
        "starting": (pool, all_pods(pool, containers_ready=False), ()),
        "unschedulable": (
            pool,
            all_pods(
                pool,
                containers_ready=False,
                node="",
                unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
            ),
            (),
        ),
        "up": (pool, pods, ()),
        "in service": (pool, all_pods(pool, ready=True), ()),
        "failing": (pool, failing, ()),
        "rolling": (pool, all_pods(pool, revision="0" * 10, ready=True), ()),
        "conflict": (pool, pods[1:], (stalled,)),
        "quota": (pool, pods[1:], (quota,)),
        "suspending": (suspended, pods, ()),
        "suspended": (suspended, [], ()),
        "empty by choice": (a_pool(replicas=0), [], ()),
    }


SITUATIONS = _situations()


@pytest.mark.parametrize("name", SITUATIONS)
def test_flux_has_nothing_to_complain_about(name):
    found = compute(*SITUATIONS[name])
    assert list(gitops.flux_complaints(as_object(found))) == []


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("empty", "InProgress"),
        ("starting", "InProgress"),
        ("unschedulable", "InProgress"),
        ("up", "Current"),
        ("in service", "Current"),
        ("failing", "InProgress"),
        ("rolling", "InProgress"),
        ("conflict", "Failed"),
        ("quota", "InProgress"),
        ("suspending", "InProgress"),
        ("suspended", "InProgress"),
        ("empty by choice", "Current"),
    ],
)
def test_kstatus_reads_each_situation_as_meant(name, verdict):
    assert gitops.kstatus(as_object(compute(*SITUATIONS[name]))) == verdict


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "Creating"),
        ("starting", "EnginesStarting"),
        ("unschedulable", "DevicesPending"),
        ("up", "PoolReady"),
        ("failing", "EnginesFailing"),
        ("rolling", "RollingUpdate"),
        ("conflict", "NameConflict"),
        ("quota", "QuotaExceeded"),
        ("suspending", "Scaling"),
        ("suspended", "Suspended"),
    ],
)
def test_ready_names_the_reason(name, reason):
    assert condition(compute(*SITUATIONS[name]), conditions.READY)["reason"] == reason


def test_a_refused_pool_is_stalled_with_every_error_in_words():
    pool = refused(device_mapping="[0, 0]", router={})
    found = status.compute_refused(
        pool, Observed(), ignored=(), previous={"engines": {"desired": 12}}, now=NOW, steady=NOW
    )
    assert gitops.kstatus(as_object(found)) == "Failed"
    assert list(gitops.flux_complaints(as_object(found))) == []
    message = condition(found, conditions.STALLED)["message"]
    assert "names GPU 0 more than once" in message
    assert "not yet supported" in message
    assert found["readySummary"] == "0/12"


def test_a_refused_pool_counts_no_engine_on_a_lost_node_as_up():
    """Nobody writes the conditions of its pod any more: they stay as they were."""
    pool = a_pool()
    pods = [replace(pod, ready=True) for pod in all_pods(pool)]
    lost, *others = pods
    pods = [replace(lost, node="gone"), *(replace(pod, node="well") for pod in others)]
    nodes = {
        "gone": ObservedNode(name="gone", ready=False, gone=True),
        "well": ObservedNode(name="well", ready=True),
    }
    found = status.compute_refused(
        refused(device_mapping="[0, 0]"),
        Observed(pods=tuple(pods), nodes=nodes),
        ignored=(),
        previous={"engines": {"desired": 12}},
        now=NOW,
        steady=NOW,
    )
    assert found["readySummary"] == "11/12"
    assert found["engines"]["up"] == found["engines"]["inService"] == 11


def test_a_dummy_pool_is_ready_before_any_trainer_and_says_that_it_is_not_synced():
    found = compute(*SITUATIONS["up"])
    assert found["readySummary"] == "12/12"
    assert found["syncedSummary"] == "0/12"
    synced = condition(found, conditions.WEIGHTS_SYNCED)
    assert (synced["status"], synced["reason"]) == ("False", conditions.WAITING_FOR_TRAINER)


@pytest.mark.parametrize(
    ("phase", "released", "words"),
    [
        ("Sleeping", "weights", "12/12 engines had from the last commit are released"),
        ("Awake", "", "12/12 engines had from the last commit: they were released, or written"),
    ],
)
def test_engines_that_gave_up_their_weights_are_said_not_to_hold_them(phase, released, words):
    pool = a_pool()
    pods = all_pods(pool, container_id="containerd://1")
    held = ",".join(pod.instance for pod in pods if pod.instance)
    told: dict[str, Any] = {"instances": held, "version": "step-1", "released": released}
    asleep = compute(pool, pods, children=a_lease(pool, phase=phase, holder="t", **told))
    synced = condition(asleep, conditions.WEIGHTS_SYNCED)
    assert asleep["syncedSummary"] == "0/12"
    assert asleep["weights"]["holding"] == 0
    assert (synced["status"], synced["reason"]) == ("False", conditions.WEIGHTS_RELEASED)
    assert words in synced["message"]


@pytest.mark.parametrize("intact", [True, False])
@pytest.mark.parametrize("version", ["step-1", ""])
def test_of_a_sleep_that_came_to_nothing_no_memory_is_said_to_be_released(intact, version):
    """Its trainer was killed before it named an engine, or found the gates open for too long."""
    pool = a_pool()
    pods = all_pods(pool, container_id="containerd://1")
    held = ",".join(pod.instance for pod in pods if pod.instance) if version else ""
    told: dict[str, Any] = {"instances": held, "version": version}
    told["intact"] = "true" if intact else ""
    found = compute(pool, pods, children=a_lease(pool, phase="Sleeping", **told))
    synced = condition(found, conditions.WEIGHTS_SYNCED)
    assert "nothing was released" in synced["message"]
    assert "GPU memory" not in synced["message"]
    if intact:
        assert synced["reason"] == conditions.ASLEEP
        assert "they hold what they held before" in synced["message"]
        assert synced["message"].endswith("wake them")
    else:
        assert synced["reason"] == conditions.WAITING_FOR_TRAINER
        assert synced["message"].endswith("until a trainer commits")


@pytest.mark.parametrize("intact", [True, False])
def test_memory_that_is_about_to_be_released_is_not_said_to_be_released_yet(intact):
    pool = a_pool()
    pods = all_pods(pool, container_id="containerd://1")
    held = ",".join(pod.instance for pod in pods if pod.instance)
    told: dict[str, Any] = {"instances": held, "version": "step-1", "holder": "t"}
    about: dict[str, Any] = {"transaction": "nap", "releases": "nap", "released": "weights"}
    about["intact"] = "true" if intact else ""
    found = compute(pool, pods, children=a_lease(pool, phase="Sleeping", **told, **about))
    synced = condition(found, conditions.WEIGHTS_SYNCED)
    words = "weights memory is about to be released" if intact else "or written over"
    assert words in synced["message"]
    assert "is released" not in synced["message"]


def test_the_history_of_the_weights_has_each_commit_once_and_nothing_else():
    pool = a_pool()
    status_now: dict[str, Any] = {}
    pods = all_pods(pool)
    told = weighed(pool, pods)

    def see(state):
        nonlocal status_now
        status_now = status.compute(
            pool,
            plan(pool, Observed(pods=tuple(pods)), NOW),
            replace(told, transaction=state, said=state),
            ignored=(),
            troubles=(),
            previous=status_now,
            now=NOW,
        )
        return state

    def by(transaction):
        return steps.Trainer(holder="trainer", transaction=transaction)

    def sync(state, name, version, at):
        begun = steps.begin(
            state, by(name), epoch="e", version=version, now=at, seen=at, engines=["a"]
        )
        return see(steps.commit(see(begun), by(name), instances=["a"], now=at + 2))

    def history():
        entries = status_now["weights"]["history"]
        return [(entry["version"], entry["transaction"]) for entry in entries]

    state = sync(lease_state.Transaction(), "sync-1", "step-1", NOW)
    # Each of these leaves step-1 committed, under an identity of its own.
    for number in range(3):
        reset_by = by(f"reset-{number}")
        state = see(reset.begin(state, reset_by, epoch="e", now=NOW + 10, seen=NOW + 10))
        state = see(reset.end(state, reset_by))
    state = steps.sleep(state, by("nap"), tags=["kv_cache"], now=NOW + 20, seen=NOW + 20)
    state = steps.rests(steps.slept(state, by("nap"), instances=["a"], now=NOW + 20), by("nap"))
    state = steps.take_on(see(state), by("wake"), now=NOW + 30, seen=NOW + 30)
    state = steps.woke(state, by("wake"), instances=["a"], tags=["kv_cache"])
    state = see(steps.wake(state, by("wake"), now=NOW + 30))
    assert state.phase is lease_state.Phase.COMMITTED
    assert history() == [("step-1", "sync-1")]
    # The same weights, written again, are another commit.
    sync(state, "sync-2", "step-1", NOW + 40)
    assert history() == [("step-1", "sync-2"), ("step-1", "sync-1")]


def asleep_with_its_weights(pool, pods):
    """What the status says of it."""
    told: dict[str, Any] = {
        "instances": ",".join(pod.instance for pod in pods if pod.instance),
        "version": "step-1",
        "intact": "true",
        "released": "kv_cache",
    }
    return compute(pool, pods, children=a_lease(pool, phase="Sleeping", holder="t", **told))


def test_a_pool_asleep_with_its_weights_says_that_nobody_reaches_it_and_what_helps():
    pool = a_pool()
    gate = Gate(is_open=False, version="", reason="Sleeping")
    found = asleep_with_its_weights(pool, all_pods(pool, container_id="containerd://1", gate=gate))
    assert found["syncedSummary"] == "0/12"
    assert (found["weights"]["synced"], found["weights"]["holding"]) == (0, 12)
    synced = condition(found, conditions.WEIGHTS_SYNCED)
    assert (synced["status"], synced["reason"]) == ("False", conditions.ASLEEP)
    assert "kv_cache memory is released" in synced["message"]
    assert synced["message"].endswith("wake them")


def test_a_pool_without_a_gate_is_not_synced_while_it_sleeps():
    raw = guide_spec(
        strategy_args={"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    )
    pool = a_pool(raw)
    found = asleep_with_its_weights(pool, all_pods(pool, container_id="containerd://1", ready=True))
    synced = condition(found, conditions.WEIGHTS_SYNCED)
    assert (synced["status"], synced["reason"]) == ("False", conditions.ASLEEP)


def test_committed_weights_behind_gates_that_still_open_are_told_as_such():
    pool = a_pool()
    pods = all_pods(pool, container_id="containerd://1")
    held = ",".join(pod.instance for pod in pods if pod.instance)
    lease = a_lease(pool, phase="Committed", instances=held, version="step-1", intact="true")
    synced = condition(compute(pool, pods, children=lease), conditions.WEIGHTS_SYNCED)
    assert (synced["status"], synced["reason"]) == ("False", conditions.GATES_OPENING)
    assert "0/12 gates are open" in synced["message"]


@pytest.mark.parametrize("phase", ["Committed", "Syncing"])
def test_an_engine_that_a_commit_left_out_is_named(phase):
    """As of a trainer with fewer workers than engines: it stays closed, commit after commit."""
    pool = a_pool()
    pods = all_pods(pool, container_id="containerd://1")
    held = ",".join(pod.instance for pod in pods[:-1] if pod.instance)
    told: dict[str, Any] = {"holder": "t"} if phase == "Syncing" else {"intact": "true"}
    lease = a_lease(pool, phase=phase, instances=held, version="step-1", **told)
    synced = condition(compute(pool, pods, children=lease), conditions.WEIGHTS_SYNCED)
    assert (synced["status"], synced["reason"]) == ("False", conditions.WAITING_FOR_TRAINER)
    assert "did not cover engine 11 (g22-23): they came after it" in synced["message"]
    assert "no worker for them" in synced["message"]
    few = ",".join(pod.instance for pod in pods[:2] if pod.instance)
    lease = a_lease(pool, phase=phase, instances=few, version="step-1", **told)
    synced = condition(compute(pool, pods, children=lease), conditions.WEIGHTS_SYNCED)
    assert "engine 2 (g4-5), engine 3 (g6-7)" in synced["message"]
    assert "and 6 more" in synced["message"]


def test_a_pool_that_loads_its_weights_has_no_gate():
    raw = guide_spec(
        strategy_args={"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    )
    pool = a_pool(raw)
    found = compute(pool, all_pods(pool, ready=True))
    assert condition(found, conditions.WEIGHTS_SYNCED)["reason"] == conditions.GATE_OFF


def test_computing_the_same_again_changes_nothing_even_later():
    pool, pods, troubles = SITUATIONS["failing"]
    first = compute(pool, pods, troubles)
    assert compute(pool, pods, troubles, previous=first, now=NOW + 1) == first


def test_a_transition_time_moves_on_a_flip_only():
    pool = a_pool()
    before = compute(pool, all_pods(pool, containers_ready=False))
    starting = compute(pool, all_pods(pool, containers_ready=False), previous=before, now=NOW + 60)
    up = compute(pool, all_pods(pool), previous=starting, now=NOW + 120)
    times = [condition(s, conditions.READY)["lastTransitionTime"] for s in (before, starting, up)]
    assert times[0] == times[1] != times[2]


def test_the_first_cause_stays_when_other_failures_follow():
    pool = a_pool(replicas=2)
    first = an_ended_pod(
        pool,
        pool.engines[0],
        termination=Termination(exit_code=137, reason="OOMKilled", message="", finished=NOW - 50),
    )
    remembered = compute(pool, [first])
    later = an_ended_pod(
        pool,
        pool.engines[1],
        termination=Termination(
            exit_code=1, reason="Error", message="OSError: nothing", finished=NOW
        ),
    )
    found = compute(pool, [a_pod(pool, pool.engines[0], 1), later], previous=remembered)
    reasons = [failure["reason"] for failure in found["lastFailures"]]
    assert reasons[0] == "OOMKilled"
    assert len(reasons) == 2
    assert found["lastFailures"][0]["pod"] == first.name


def test_one_cause_on_many_engines_is_told_once():
    pool = a_pool()
    ended = [
        an_ended_pod(
            pool,
            engine,
            termination=Termination(exit_code=137, reason="OOMKilled", message="", finished=NOW),
        )
        for engine in pool.engines
    ]
    failures = compute(pool, ended)["lastFailures"]
    assert len(failures) == 1
    assert len(failures[0]["engines"]) == 12


def test_what_the_pool_was_resolved_to_is_told():
    resolved = compute(*SITUATIONS["up"])["resolved"]
    assert resolved == {
        "image": "lmsysorg/sglang:v0.5.7",
        "engineVersion": "0.5.7",
        "numGpusPerWorker": 2,
        "tensorParallelSize": 2,
        "gate": "Committed",
        "loadFormat": "dummy",
    }


def test_count_placement_says_that_ids_are_not_places():
    message = condition(compute(*SITUATIONS["up"]), conditions.DEVICES_ASSIGNED)["message"]
    assert message.startswith("24 GPUs on 1 nodes; the ids in device_mapping are honoured as a ")


def test_engines_that_cannot_start_are_told_once_with_a_count_and_remembered():
    pool = a_pool()
    pods = all_pods(
        pool,
        containers_ready=False,
        waiting_reason="ImagePullBackOff",
        waiting_message='Back-off pulling image "x": ErrImagePull: not found',
    )
    found = compute(pool, pods)
    ready = condition(found, conditions.READY)
    assert ready["reason"] == "ImageNotFound"
    assert ready["message"] == (
        "12 engines cannot start: there is no image lmsysorg/sglang:v0.5.7; correct spec.image"
    )
    (failure,) = found["lastFailures"]
    assert failure["reason"] == "ImageNotFound"
    assert len(failure["engines"]) == 12
    assert compute(pool, pods, previous=found, now=NOW + 600)["lastFailures"] == [failure]


def test_engines_that_cannot_start_for_one_reason_are_counted_together_whatever_the_words():
    pool = a_pool()
    pods = list(all_pods(pool, containers_ready=False, waiting_reason="ErrImagePull"))
    words = ("dial tcp: lookup a.example: no such host", "dial tcp 10.0.0.1:443: i/o timeout")
    pods = [replace(pod, waiting_message=words[n % 3 > 0]) for n, pod in enumerate(pods)]
    pods[11] = replace(pods[11], waiting_message="not found")
    assert condition(compute(pool, pods), conditions.READY)["message"].startswith(
        "11 engines cannot start: the registry of image lmsysorg/sglang:v0.5.7 does not answer "
        "the node: dial tcp 10.0.0.1:443: i/o timeout;"
    )


def test_engines_given_up_stall_the_pool_in_one_message():
    pool = a_pool()
    pods = [
        a_failed_start(pool, engine, startup_failures=5 * (engine.rank == 0))
        for engine in pool.running
    ]
    found = compute(pool, pods)
    stalled = condition(found, conditions.STALLED)
    assert stalled["reason"] == "CUDAOutOfMemory"
    assert stalled["message"] == (
        "12 engines failed at the start with CUDAOutOfMemory, after 5 restarts too, to be started "
        "again only when the spec changes or the failed pods are deleted: a GPU of the engine "
        "ran out of memory; lower mem_fraction_static (now 0.7), or use more GPUs for each engine"
    )
    assert condition(found, conditions.READY)["reason"] == "CUDAOutOfMemory"
    assert condition(found, conditions.RECONCILING) is None
    assert gitops.kstatus(as_object(found)) == "Failed"
    assert len(found["lastFailures"]) == 1


def test_a_lost_node_is_remembered_once():
    pool = a_pool(replicas=1)
    nodes = {"gpu-node-0": ObservedNode(name="gpu-node-0", ready=False, unready=NOW - 60)}
    pods = all_pods(pool, deleting=True)
    first = compute(pool, pods, nodes=nodes)
    again = compute(pool, pods, nodes=nodes, previous=first, now=NOW + 30)
    assert [failure["reason"] for failure in again["lastFailures"]] == [conditions.NODE_LOST]
    assert again == first


def test_engines_of_nodes_that_are_silent_all_at_once_are_told_and_none_has_failed():
    pool = a_pool(replicas=1)
    nodes = {
        name: ObservedNode(name=name, ready=False, unready=NOW - 60)
        for name in ("gpu-node-0", "gpu-node-1", "gpu-node-2")
    }
    found = compute(pool, all_pods(pool), nodes=nodes)
    told = condition(found, conditions.READY)
    assert told["reason"] == conditions.NODE_LOST
    assert told["message"].startswith(
        "3 of 3 nodes are not ready at once, so none is taken for lost, and 1 engine on them "
        "(gpu-node-0)"
    )
    assert not found.get("lastFailures")
    elsewhere = [replace(pod, node="other") for pod in all_pods(pool)]
    others = nodes | {"other": ObservedNode(name="other")}
    told = condition(compute(pool, elsewhere, nodes=others), conditions.READY)
    assert told["reason"] != conditions.NODE_LOST


def test_devices_that_are_missing_are_counted_against_those_that_are_wanted():
    pool = a_pool()
    pods = all_pods(pool)
    waiting = a_pod(pool, pool.engines[0], containers_ready=False, node="", unschedulable="no")
    told = condition(compute(pool, [waiting, *pods[1:]]), conditions.DEVICES_ASSIGNED)
    assert (told["status"], told["reason"]) == ("False", conditions.ENGINES_UNPLACED)
    assert told["message"].startswith("22 of 24 GPUs are assigned, on ")


# --- a change that waits


def rolling(**observed):
    """A serving pool of another revision, and what else is seen."""
    pool = a_pool(device_mapping="list(range(0,8))")
    pods = all_pods(pool, ready=True, revision="0" * 10)
    return compute(pool, pods, **observed)


@pytest.mark.parametrize(
    ("phase", "words"),
    [("Syncing", "the end of the weight update"), ("Sleeping", "until the trainer wakes")],
)
def test_a_rollout_that_waits_for_a_trainer_is_in_progress_and_says_so(phase, words):
    lease = a_lease(a_pool(), phase=phase, holder="trainer")
    told = rolling(children=lease)
    assert condition(told, conditions.READY)["reason"] == "RolloutWaiting"
    assert words in condition(told, conditions.RECONCILING)["message"]
    assert condition(told, conditions.STALLED) is None


def test_a_rollout_that_waits_for_the_next_sync_says_so():
    pool = a_pool(device_mapping="list(range(0,8))")
    pods = all_pods(pool, ready=True, revision="0" * 10)
    pods[3] = replace(pods[3], revision=pool.revision, ready=False)
    told = condition(compute(pool, pods), conditions.RECONCILING)
    assert told["reason"] == "RolloutWaiting"
    assert "waits for the next sync: 1 engine on revision" in told["message"]


def test_a_regrouping_without_room_is_stalled_with_the_command_that_helps():
    old = a_pool(device_mapping="list(range(0,8))")
    new = a_pool(device_mapping="list(range(0,8))", num_gpus_per_worker=4)
    pods = [replace(p, node=f"n{i % 2}") for i, p in enumerate(all_pods(old, ready=True))]
    nodes = {n: ObservedNode(name=n, resources={"nvidia.com/gpu": 4}) for n in ("n0", "n1")}
    stalled = condition(compute(new, pods, nodes=nodes), conditions.STALLED)
    assert stalled["reason"] == "NoRoomOnANode"
    assert '{"spec": {"rollout": {"maxUnavailable": 2}}}' in stalled["message"]


def test_while_a_failed_engine_is_tried_again_the_cause_stays_in_sight():
    pool = a_pool()
    dead = an_ended_pod(pool, pool.engines[0], created=NOW - 5)
    before = compute(pool, [dead, *all_pods(pool)[1:]])
    assert condition(before, conditions.READY)["reason"] == conditions.ENGINES_FAILING
    assert before["lastFailures"][0]["message"] in condition(before, conditions.READY)["message"]
    again = a_pod(pool, pool.engines[0], 1, failures=1, containers_ready=False)
    found = compute(pool, [again, *all_pods(pool)[1:]], previous=before)
    told = condition(found, conditions.READY)
    assert told["reason"] == conditions.ENGINES_FAILING
    (failure,) = found["lastFailures"]
    assert told["message"] == (
        f"11/12 engines are up; 1 engine starting again after {failure['reason']}: "
        f"{failure['message']}; {failure['advice']}"
    )
    up = compute(pool, [a_pod(pool, pool.engines[0], 1, failures=1), *all_pods(pool)[1:]])
    assert condition(up, conditions.READY)["reason"] == conditions.POOL_READY


def test_what_nobody_understands_is_told_in_the_engines_words_before_any_advice():
    pool = a_pool()
    end = Termination(exit_code=1, reason="Error", message="foo.WeirdError: no idea", finished=NOW)
    dead = an_ended_pod(pool, pool.engines[0], failures=3, created=NOW - 5, termination=end)
    told = condition(compute(pool, [dead, *all_pods(pool)[1:]]), conditions.READY)
    assert "foo.WeirdError: no idea" in told["message"]


# --- on a trainer's GPUs


def on_trainers_gpus(pods, *of, **changes):
    pool = trainers.a_shared_pool(**changes.pop("spec", {}))
    return compute(pool, pods(pool), **trainers.seen(pool, *of, **changes))


def test_engines_that_wait_for_their_trainer_say_for_what():
    found = on_trainers_gpus(lambda pool: [], *trainers.THREE[1:])
    stands = condition(found, conditions.RECONCILING)
    assert stands["reason"] == conditions.SEATS_AWAITED
    assert stands["message"].startswith("4 engines cannot start yet: nobody has said which")
    assert gitops.kstatus(as_object(found)) == "InProgress"
    assert list(gitops.flux_complaints(as_object(found))) == []


def test_slots_that_disagree_stall_the_pool_in_their_words():
    found = on_trainers_gpus(all_pods, trainers.a_slot(0, gpus=("0",)))
    stands = condition(found, conditions.STALLED)
    assert stands["reason"] == "SlotsDisagree"
    assert "ConfigMap actor-infer-slots, node-rank-0: found the GPU 0" in stands["message"]
    assert gitops.kstatus(as_object(found)) == "Failed"
    gone = on_trainers_gpus(lambda pool: [], trainers.a_slot(0, gpus=()), spec={"replicas": 0})
    assert condition(gone, conditions.STALLED) is None


def test_what_was_achieved_is_said_of_the_trainers_gpus():
    found = on_trainers_gpus(all_pods, *trainers.THREE)
    assigned = condition(found, conditions.DEVICES_ASSIGNED)
    assert (assigned["status"], assigned["reason"]) == ("True", conditions.SHARED)
    assert found["placement"] == "Shared"


def test_other_pools_on_the_same_gpus_are_told():
    found = on_trainers_gpus(all_pods, *trainers.THREE, neighbours=("rl/judge",))
    assigned = condition(found, conditions.DEVICES_ASSIGNED)
    assert assigned["message"].endswith(
        "engines of rl/judge too, of which at most one may be awake"
    )


def test_another_user_than_the_trainers_is_a_warning():
    user = trainers.a_slot(0, user=1000)
    found = on_trainers_gpus(all_pods, user, *trainers.THREE[1:])
    assert "TrainerUser" in {warning["reason"] for warning in found["warnings"]}
