"""Pods that Kueue lets in: what they say, who may say it, and what their waiting is called."""

import dataclasses
import json
from typing import Any

import msgspec
import pytest

from sglang_operator.api import conditions, names
from sglang_operator.children import engine_pod
from sglang_operator.cli.cluster import queues
from sglang_operator.cli.cluster.kubectl import ClusterError, Why
from sglang_operator.kube import keeping
from sglang_operator.observed import wire
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.pool.resolve import Pool
from sglang_operator.scheduling import texts
from sglang_operator.scheduling.base import Waiting
from sglang_operator.status import failures, holdups, rollout_waits
from sglang_operator.view.cluster_view import PoolView
from tests import structural
from tests.builders import NOW, a_pod, a_pool, guide_spec, planned, refused

SCHEDULING = {"gang": "Kueue", "queueName": "gpus"}
POOL = a_pool(scheduling=SCHEDULING)
SPANNING = a_pool(
    guide_spec(num_gpus_per_worker=16, device_mapping="list(range(0,32))", scheduling=SCHEDULING)
)
CRD = structural.definition()
WAITS: dict[str, Any] = {
    "node": "",
    "phase": "Pending",
    "containers_ready": False,
    "engine_runs": False,
    "scheduling": "SchedulingGated",
    "unschedulable": "Scheduling is blocked due to non-empty scheduling gates",
    "scheduling_gates": (names.KUEUE_GATE, "kueue.x-k8s.io/topology"),
    "queue": Waiting("gpus"),
    "queue_seen": True,
}


def made(pool: Pool, attempt: int = 0, node_rank: int = 0) -> dict[str, Any]:
    template = engine_pod.template(pool)
    return engine_pod.pod(pool, template, pool.engines[0], attempt, node_rank=node_rank)


def of_kueue(found: dict[str, str]) -> dict[str, str]:
    prefix = names.KUEUE_PREFIX
    return {key.removeprefix(prefix): found[key] for key in found if key.startswith(prefix)}


def waiting(pool: Pool = POOL, index: int = 0, **changes: Any) -> list[ObservedPod]:
    """All pods of one engine, in the queue."""
    engine, attempt = pool.engines[index], changes.pop("attempt", 0)
    found = {**WAITS, **changes}
    return [a_pod(pool, engine, attempt, node_rank=n, **found) for n in range(engine.pods)]


def others(pool: Pool) -> list[ObservedPod]:
    """The pods of all engines but the first, in service."""
    return [
        a_pod(pool, e, node_rank=n, ready=True) for e in pool.engines[1:] for n in range(e.pods)
    ]


# --- what pods say


def test_an_engine_of_one_pod_is_a_group_of_one():
    """By itself a pod would give its quota away while it ends, and still has its GPUs."""
    pod = made(POOL)
    assert of_kueue(pod["metadata"]["labels"]) == {
        "queue-name": "gpus",
        "managed": "true",
        "pod-group-name": pod["metadata"]["name"],
        "pod-group-pod-index": "0",
    }
    assert of_kueue(pod["metadata"]["annotations"]) == {
        "pod-suspending-parent": names.MANAGED_BY,
        "pod-group-name": pod["metadata"]["name"],
        "pod-group-total-count": "1",
        "retriable-in-group": "false",
    }


def test_no_pod_starts_past_a_queue_that_nobody_serves():
    """Kueue's webhook adds the gate, where there is one: without it a pod would just run."""
    assert made(POOL)["spec"]["schedulingGates"] == [{"name": names.KUEUE_GATE}]
    assert "schedulingGates" not in made(a_pool())["spec"]


def test_the_pods_of_one_try_are_one_group_and_those_of_the_next_are_another():
    """Kueue would take the new pods for some too many while the old ones end, and delete them."""
    for rank in (0, 1):
        pod = made(SPANNING, attempt=3, node_rank=rank)
        labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
        assert of_kueue(labels)["pod-group-name"] == "actor-infer-g0-15-3"
        assert of_kueue(annotations)["pod-group-name"] == "actor-infer-g0-15-3"
        assert of_kueue(annotations)["pod-group-total-count"] == "2"
        # A pod that has ended, and is kept until its cause is told, holds no quota.
        assert of_kueue(annotations)["retriable-in-group"] == "false"
        assert of_kueue(labels)["pod-group-pod-index"] == str(rank)


def test_class_and_topology_are_written_for_kueue_alone():
    chosen = {**SCHEDULING, "workloadPriorityClassName": "high", "priorityClassName": "pods"}
    pod = made(a_pool(scheduling={**chosen, "requiredTopology": "cloud.example.com/rack"}))
    assert of_kueue(pod["metadata"]["labels"])["priority-class"] == "high"
    told = of_kueue(pod["metadata"]["annotations"])
    assert told["podset-required-topology"] == "cloud.example.com/rack"
    assert pod["spec"]["priorityClassName"] == "pods"
    pod = made(a_pool(scheduling={**SCHEDULING, "preferredTopology": "rack"}))
    assert of_kueue(pod["metadata"]["annotations"])["podset-preferred-topology"] == "rack"


# --- who may say it


@pytest.mark.parametrize(
    ("scheduling", "field", "words"),
    [
        ({"gang": "Kueue"}, "queueName", f"missing; write {texts.A_LOCAL_QUEUE}"),
        ({"queueName": "gpus"}, "queueName", f"found gpus, expected {texts.NO_GANG}"),
        ({"workloadPriorityClassName": "high"}, "workloadPriorityClassName", "such as Kueue"),
        ({**SCHEDULING, "queueName": "A_Queue"}, "queueName", "found A_Queue, expected a name"),
        ({**SCHEDULING, "queueName": "q" * 64}, "queueName", "at most 63"),
        (
            {**SCHEDULING, "workloadPriorityClassName": "-"},
            "workloadPriorityClassName",
            "found -, expected a name",
        ),
        ({**SCHEDULING, "preferredTopology": "a/b/c"}, "preferredTopology", "a label's key"),
        (
            {**SCHEDULING, "preferredTopology": "rack", "requiredTopology": "rack"},
            "preferredTopology",
            texts.ONE_TOPOLOGY,
        ),
        ({**SCHEDULING, "spread": {"topologyKey": "rack"}}, "spread", texts.NO_SPREAD),
        ({**SCHEDULING, "minEngines": 2}, "minEngines", texts.NOT_OF_KUEUE),
    ],
)
def test_what_cannot_be_is_refused_in_words(scheduling, field, words):
    (problem,) = refused(scheduling=scheduling).errors
    assert problem.field == f"spec.scheduling.{field}"
    assert words in problem.message


@pytest.mark.parametrize(
    ("kind", "key"),
    [("labels", names.LABEL_QUEUE), ("annotations", names.ANNOTATION_QUEUE_COUNT)],
)
def test_kueues_keys_are_not_said_twice(kind, key):
    template = {"metadata": {kind: {key: "2"}}}
    (problem,) = refused(scheduling=SCHEDULING, podTemplate=template).errors
    assert problem.field == f"spec.podTemplate.metadata.{kind}.{key}"
    # As it was for who has written them so far.
    assert a_pool(podTemplate=template)


def test_the_definition_refuses_it_in_the_same_words():
    section = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    rules = section["properties"]["scheduling"]["x-kubernetes-validations"]
    assert rules[0]["message"] == f"missing; write {texts.A_LOCAL_QUEUE}"
    assert texts.NO_GANG.replace("it then", "them then") in rules[1]["message"]
    assert rules[2]["message"] == f"expected {texts.NO_SPREAD}; {texts.DO_NO_SPREAD}"
    assert rules[3]["message"] == f"expected {texts.ONE_TOPOLOGY}; {texts.DO_ONE_TOPOLOGY}"


# --- what is seen of them


def seen(**status: Any) -> ObservedPod:
    """A pod of a queue as the operator keeps it."""
    body = made(POOL)
    body["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    body["metadata"]["annotations"][names.ANNOTATION_QUEUE_SEEN] = "5e3f"
    if status:
        body["status"] = status
    kept = keeping.of_pod(msgspec.convert(body, wire.Pod))
    return wire.observed_pod(kept, Moment(wall=NOW, steady=NOW))


def test_a_pod_tells_its_queue_and_whether_kueue_has_seen_it():
    assert seen().queue == Waiting("gpus")
    assert seen().queue_seen
    assert seen().is_queued


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        ("DueToPreempted", "EvictedByQueue", "Kueue took the engine's quota back: {}"),
        (
            "DueToPodsReadyTimeout",
            "NotReadyForQueue",
            "Kueue took the engine's quota back, because it was not Ready for too long: {}",
        ),
    ],
)
def test_a_pod_that_kueue_takes_back_goes_with_kueues_words(cause, reason, words):
    """It stops what it had let in by a condition of its own, and deletes the pod then."""
    told = "Preempted to accommodate a workload (UID: 7) due to prioritization"
    stopped = {"reason": f"WorkloadEvicted{cause}", "message": told, "status": "True"}
    pod = seen(conditions=[{"type": names.CONDITION_QUEUE_STOPPED, **stopped}])
    assert pod.dying
    pod = dataclasses.replace(pod, node="gpu-node-0", deleting=True, deletion_asked=NOW)
    plan = planned(POOL, [pod, *others(POOL)])
    assert [(each.attempt, each.failures) for each in plan.creates] == [(1, 0)]
    (failure,) = failures.seen(POOL, plan)
    assert failure.reason == reason
    assert failure.message == words.format(told)


def test_that_condition_is_nobodys_on_a_pod_of_no_queue():
    body = made(a_pool())
    stopped = {"type": names.CONDITION_QUEUE_STOPPED, "status": "True", "reason": "Else"}
    body["status"] = {"conditions": [stopped]}
    pod = wire.observed_pod(msgspec.convert(body, wire.Pod), Moment(wall=NOW, steady=NOW))
    assert not pod.dying


# --- what their waiting is called


def test_an_engine_that_waits_for_quota_says_so_and_in_which_queue():
    plan = planned(POOL, [*waiting(), *others(POOL)])
    assert plan.engines[0].state is EngineState.PENDING
    assert holdups.pending(POOL, plan, None) is None
    assert holdups.queued(POOL, plan, None) == (
        conditions.WAITING_FOR_QUOTA,
        "1 engine waiting until Kueue's LocalQueue gpus has quota for 2 nvidia.com/gpu each; what "
        "it says of each: kubectl get workloads -n rl",
    )


def test_an_engine_whose_pods_wait_together_is_one():
    plan = planned(SPANNING, [*waiting(SPANNING), *waiting(SPANNING, 1)])
    told = holdups.queued(SPANNING, plan, None)
    assert told is not None
    assert told[1].startswith("2 engines waiting until")
    assert "for 16 nvidia.com/gpu each" in told[1]


def test_pods_that_kueue_has_not_seen_are_told_apart():
    """Its pod integration is off, or the namespace is not its own: they would wait for ever."""
    plan = planned(POOL, [*waiting(queue_seen=False), *waiting(index=1), *others(POOL)[1:]])
    told = holdups.queued(POOL, plan, None)
    assert told is not None
    assert told[0] == conditions.NOT_QUEUED
    assert told[1].startswith("1 engine waiting for LocalQueue gpus, and Kueue has not looked")


def test_waiting_in_a_queue_uses_up_no_budget_and_nothing_gives_up():
    pods = [*waiting(created=NOW - 100_000), *others(POOL)]
    plan = planned(POOL, pods)
    assert not plan.creates
    assert not plan.removals
    assert not plan.stalls


def test_once_let_in_a_pod_is_any_pod():
    told = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pods = waiting(scheduling_gates=(), scheduling="Unschedulable", unschedulable=told)
    plan = planned(POOL, [*pods, *others(POOL)])
    assert holdups.queued(POOL, plan, None) is None
    held = holdups.pending(POOL, plan, None)
    assert held is not None
    assert held[0] == conditions.DEVICES_PENDING


class Kueue:
    """Answers for one Workload, to who may ask."""

    def __init__(self, answer: bytes | ClusterError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def gather(self, questions: dict[str, Any]) -> dict[str, bytes | ClusterError]:
        self.asked += [path for path, _ in questions.values()]
        return dict.fromkeys(questions, self.answer)


def asked_of_kueue(answer: bytes | ClusterError, pods: list[ObservedPod]) -> tuple[Any, list[str]]:
    record = wire.CustomResource(metadata=wire.Meta(name="actor-infer", namespace="rl"))
    plan = planned(SPANNING, pods)
    view = PoolView(record=record, resolved=SPANNING, pods=tuple(pods), plan=plan)
    kueue: Any = Kueue(answer)
    return kueue, queues.said(kueue, [view])


def test_status_has_kueues_own_words_of_an_engine_that_waits():
    words = "couldn't assign flavors to pod set 5d: insufficient unused quota"
    reserved = {"type": "QuotaReserved", "status": "False", "message": words}
    answer = json.dumps({"status": {"conditions": [{"type": "Else"}, reserved]}}).encode()
    kueue, said = asked_of_kueue(answer, waiting(SPANNING, attempt=2))
    path = "/apis/kueue.x-k8s.io/v1beta2/namespaces/rl/workloads"
    assert kueue.asked == [f"{path}/actor-infer-g0-15-2"]
    assert said == [f"Kueue of actor-infer/g0-15: {words}"]


@pytest.mark.parametrize(
    "answer", [ClusterError("get", "forbidden", Why.OTHER), b"nothing", b"{}", b'{"status": null}']
)
def test_who_may_not_ask_kueue_or_gets_no_answer_is_told_nothing_of_it(answer):
    assert asked_of_kueue(answer, waiting(SPANNING))[1] == []


def test_kueue_is_not_asked_where_nobody_waits():
    kueue, said = asked_of_kueue(b"{}", others(SPANNING))
    assert (kueue.asked, said) == ([], [])


# --- another queue


def test_who_waits_in_another_queue_than_the_pool_names_is_moved():
    plan = planned(POOL, [*waiting(queue=Waiting("typo")), *waiting(index=1), *others(POOL)[1:]])
    (removal,) = plan.removals
    assert removal.pod.engine == POOL.engines[0].name
    assert removal.reason == "it waits in queue typo, and the pool names gpus"
    # Its next one comes in the same pass, or when the old one is seen to go.
    plan = planned(POOL, [*waiting(queue=Waiting("typo"), deleting=True), *others(POOL)])
    assert [each.attempt for each in plan.creates] == [1]


def test_who_was_let_in_by_another_queue_runs_on():
    pods = [a_pod(POOL, engine, ready=True, queue=Waiting("before")) for engine in POOL.engines]
    assert not planned(POOL, pods).removals


def test_a_group_whose_pods_name_two_queues_is_let_in_by_neither_and_is_made_anew():
    first, second = waiting(SPANNING)
    pods = [first, dataclasses.replace(second, queue=Waiting("gpus", "low"))]
    plan = planned(SPANNING, [*pods, *others(SPANNING)])
    assert [each.pod.node_rank for each in plan.removals] == [0, 1]


# --- one beside another


SURGING = a_pool(scheduling=SCHEDULING, weights={"gate": "Off"}, rollout={"maxSurge": 1})
OLD = "0" * 10


def in_service(pool: Pool = SURGING) -> list[ObservedPod]:
    """The pods of all engines, of the revision before, as Kueue let them in."""
    found: dict[str, Any] = {"ready": True, "revision": OLD, "queue": Waiting("gpus")}
    return [a_pod(pool, e, node_rank=n, **found) for e in pool.engines for n in range(e.pods)]


def beside(pool: Pool = SURGING, **changes: Any) -> list[ObservedPod]:
    """All pods of the one that is to take the last engine's place, in the queue."""
    return waiting(pool, -1, **{"attempt": 1, "created": NOW, "gated": False, **changes})


def test_one_that_comes_up_beside_another_is_a_group_of_its_own_of_the_same_size():
    first, second = (
        of_kueue(made(SPANNING, attempt)["metadata"]["annotations"]) for attempt in (0, 1)
    )
    name, count = "pod-group-name", "pod-group-total-count"
    assert first[count] == second[count] == "2"
    assert first[name] != second[name]
    assert [each.attempt for each in planned(SURGING, in_service()).creates] == [1]


def test_who_waits_beside_another_in_a_queue_is_waited_for_and_then_has_its_quota():
    """That the scheduler may not look yet says nothing of room."""
    pods = [*in_service(), *beside()]
    early = planned(SURGING, pods, NOW + 170)
    assert not (early.removals or early.creates)
    assert early.wake_at == NOW + 180
    late = planned(SURGING, pods, NOW + 180)
    assert [each.pod.name for each in late.removals] == [pods[-2].name]
    assert late.cramped == f"queue gpus has not let pod {pods[-1].name} in"


def test_that_one_waits_for_quota_beside_another_is_told_once_kueue_has_looked():
    told = {
        seen: rollout_waits.rolling(
            SURGING, planned(SURGING, [*in_service(), *beside(queue_seen=seen)]), 0
        )
        for seen in (True, False)
    }
    assert told[True][0] == conditions.WAITING_FOR_QUOTA
    assert (
        "1 engine waiting until Kueue's LocalQueue gpus has quota for more beside those that serve "
        "(rollout.maxSurge 1); one that is not let in for 180 s gets"
    ) in told[True][1]
    assert told[False][0] == conditions.ROLLING_UPDATE


def test_who_waits_beside_another_in_another_queue_than_the_pool_names_is_moved():
    pods = [*in_service(), *beside(queue=Waiting("typo"))]
    plan = planned(SURGING, pods)
    assert [each.pod.name for each in plan.removals] == [pods[-1].name]
    assert plan.removals[0].reason == "it waits in queue typo, and the pool names gpus"


@pytest.mark.parametrize(("budget", "gone"), [(1, 0), (2, 1)])
def test_none_comes_up_beside_another_while_one_waits_in_the_queue(budget, gone):
    """It would be let in after that one, or before; others go in place as the budget says."""
    rollout = {"maxSurge": 1, "maxUnavailable": budget}
    pool = a_pool(scheduling=SCHEDULING, weights={"gate": "Off"}, rollout=rollout)
    pods = [*waiting(pool, gated=False), *in_service(pool)[1:]]
    plan = planned(pool, pods)
    assert not plan.creates
    assert len(plan.removals) == gone
    assert plan.cramped == f"queue gpus has not let pod {pods[0].name} in"
