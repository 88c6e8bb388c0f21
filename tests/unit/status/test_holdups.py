"""What engines that are not up wait for, each part of their way in its own words."""

from typing import Any

import pytest

from sglang_operator.diagnosis import causes, pod_signatures
from sglang_operator.observed.model import (
    Companion,
    ContainerKind,
    ObservedPod,
    PodEvent,
    Termination,
)
from sglang_operator.status import holdups
from tests.builders import NOW, a_pod, a_pool, planned

POOL = a_pool(device_mapping="[0,1]")
ABOUT = causes.context(POOL)
FAILED = Termination(exit_code=3, reason="Error", message="no control plane", finished=NOW)


def starting(**changes: Any) -> ObservedPod:
    return a_pod(
        POOL, POOL.engines[0], **{"containers_ready": False, "engine_runs": False, **changes}
    )


def beside(kind: ContainerKind = ContainerKind.SIDECAR, **changes: Any) -> tuple[Companion, ...]:
    return (Companion(name="proxy", kind=kind, **changes),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"node": "", "scheduling": "SchedulingGated", "scheduling_gates": ("a/b",)},
            "1 held by scheduling gates (a/b)",
            id="gated",
        ),
        pytest.param(
            {"node": "", "scheduler": "volcano"},
            "1 that scheduler volcano has not looked at",
            id="no such scheduler",
        ),
        pytest.param({"node": "", "scheduling": "Unschedulable"}, "1 without a node", id="node"),
        pytest.param(
            {"waiting_reason": "ContainerCreating"},
            "1 waiting for volumes, network and devices",
            id="sandbox",
        ),
        pytest.param(
            {
                "waiting_reason": "PodInitializing",
                "has_sandbox": True,
                "companions": beside(ContainerKind.INIT, runs=True),
            },
            "1 in init container proxy",
            id="init container",
        ),
        pytest.param(
            {
                "waiting_reason": "PodInitializing",
                "companions": beside(ContainerKind.NATIVE_SIDECAR, runs=True),
            },
            "1 in init container proxy",
            id="native sidecar",
        ),
        pytest.param(
            {"waiting_reason": "ContainerCreating", "has_sandbox": True},
            "1 pulling the image or creating the container",
            id="image",
        ),
        pytest.param(
            {"waiting_reason": "CrashLoopBackOff"},
            "1 between two tries of the container",
            id="crash loop",
        ),
        pytest.param(
            {"engine_ready": True, "companions": beside(runs=True)},
            "1 waiting for container proxy beside the engine",
            id="sidecar",
        ),
        pytest.param({"engine_runs": True}, "1 load their model or warm up", id="loading"),
        pytest.param({}, "1 not yet looked at by the kubelet of their node", id="no kubelet"),
    ],
)
def test_each_part_of_the_way_has_its_own_words(changes, words):
    assert holdups.phases(planned(POOL, [starting(**changes)])) == words


def test_engines_in_different_parts_are_counted_apart():
    pool = a_pool(device_mapping="[0,1,2,3]")
    first, second = pool.engines
    pods = [
        a_pod(pool, first, containers_ready=False),
        a_pod(pool, second, containers_ready=False, waiting_reason="ContainerCreating"),
    ]
    assert holdups.phases(planned(pool, pods)) == (
        "1 load their model or warm up, 1 waiting for volumes, network and devices"
    )


@pytest.mark.parametrize(
    ("said", "reason", "message"),
    [
        (
            'persistentvolumeclaim "models" not found',
            "VolumeClaimMissing",
            "there is no PersistentVolumeClaim models",
        ),
        (
            "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "VolumeClaimUnbound",
            "no volume yet",
        ),
        (
            "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
            "VolumeElsewhere",
            "3 node(s)",
        ),
        ("0/3 nodes are available: 3 cannot allocate all claims.", "DeviceClaimPending", "claims"),
    ],
)
def test_a_pod_without_a_node_for_another_reason_than_gpus_says_so(said, reason, message):
    pod = starting(node="", scheduling="Unschedulable", unschedulable=said)
    told = holdups.waiting(POOL, planned(POOL, [pod]), None)
    assert told is not None
    assert told[0] == reason
    assert message in told[1]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("3 node(s) had untolerated taint {nvidia.com/gpu: present}.", "tolerations"),
        ("3 node(s) had untolerated taint(s).", "tolerations"),
        ("3 node(s) didn't match Pod's node affinity/selector.", "nodeSelector"),
        ("3 Insufficient memory.", "request less"),
        ("1 Insufficient cpu, 2 node(s) had untolerated taint(s).", "tolerations"),
        ("3 node(s) didn't match pod anti-affinity rules.", "loosen"),
        ("3 node(s) didn't match pod topology spread constraints.", "loosen"),
        ("3 Too many pods.", "maxPods"),
        ("something that nobody knows yet", ""),
    ],
)
def test_a_pod_that_waits_for_no_gpus_is_not_told_to(said, advice):
    message = f"0/3 nodes are available: {said}"
    pod = starting(node="", scheduling="Unschedulable", unschedulable=message)
    told = holdups.pending(POOL, planned(POOL, [pod]), None)
    assert told is not None
    assert told[0] == "Unschedulable"
    assert "nvidia.com/gpu:" not in told[1].replace(said, "")
    assert message in told[1]
    assert advice in told[1].replace(said, "")


PENDING: dict[str, Any] = {
    "containers_ready": False,
    "engine_runs": False,
    "phase": "Pending",
    "created": NOW,
}
RACKS = {"requiredTopology": "rack", "spread": {"topologyKey": "zone"}}


@pytest.mark.parametrize(
    ("said", "reason", "advice"),
    [
        ("2 node(s) didn't match pod affinity rules.", "Unschedulable", "by rack"),
        (
            "2 Insufficient nvidia.com/gpu, 1 node(s) didn't match pod affinity rules.",
            "DevicesPending",
            "-0n1, on node-a, has no room for 1 more",
        ),
        ("3 node(s) didn't match pod topology spread constraints.", "Unschedulable", "by zone"),
    ],
)
def test_what_the_pool_asks_for_itself_is_not_told_as_podtemplates(said, reason, advice):
    told = told_of_racks(said)
    assert told[0] == reason
    assert advice in told[1]
    assert "podTemplate" not in told[1]
    besides = told_of_racks(said, podTemplate={"spec": {"affinity": {"podAntiAffinity": {}}}})
    assert ("podTemplate" in besides[1]) is (reason == "Unschedulable")


def told_of_racks(said: str, **changes: Any) -> tuple[str, str]:
    """What is told of an engine of which one pod has a node, and the scheduler says this."""
    pool = a_pool(
        num_gpus_per_worker=16, device_mapping="list(range(0,16))", scheduling=RACKS, **changes
    )
    (engine,) = pool.engines
    message = f"0/3 nodes are available: {said}"
    waits: dict[str, Any] = {"node": "", "unschedulable": message}
    pods = [
        a_pod(pool, engine, node_rank=0, **PENDING, **waits),
        a_pod(pool, engine, node_rank=1, node="node-a", **PENDING),
    ]
    told = holdups.pending(pool, planned(pool, pods), None)
    assert told is not None
    return told


def test_where_gpus_lack_too_it_is_told_as_that():
    said = "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 Insufficient memory."
    pod = starting(node="", scheduling="Unschedulable", unschedulable=said)
    told = holdups.pending(POOL, planned(POOL, [pod]), None)
    assert told is not None
    assert told[0] == "DevicesPending"


def test_a_pod_behind_scheduling_gates_waits_for_whoever_lifts_them():
    said = "Scheduling is blocked due to non-empty scheduling gates"
    gates = {"scheduling": "SchedulingGated", "scheduling_gates": ("a/b",)}
    pod = starting(node="", unschedulable=said, **gates)
    seen = planned(POOL, [pod])
    assert holdups.pending(POOL, seen, None) is None
    assert holdups.phases(seen) == "1 held by scheduling gates (a/b)"


def test_want_of_gpus_is_still_told_as_that():
    said = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod = starting(node="", scheduling="Unschedulable", unschedulable=said)
    assert causes.of_wait(pod, ABOUT) is None


@pytest.mark.parametrize(
    ("reason", "said", "expected"),
    [
        (
            "FailedCreatePodSandBox",
            'Failed to create pod sandbox: plugin type="calico" failed (add): no IP addresses',
            "PodNetworkFailed",
        ),
        (
            "FailedCreatePodSandBox",
            'failed to get sandbox runtime: no runtime for "nvidia" is configured',
            "RuntimeClassMissing",
        ),
        ("FailedCreatePodSandBox", "rpc error: deadline exceeded", "PodSandboxFailed"),
        ("NetworkNotReady", "network is not ready", "PodNetworkFailed"),
        ("FailedPrepareDynamicResources", "plugin gpu.x not registered", "DevicesNotPrepared"),
    ],
)
def test_what_fails_before_any_container_is_told_by_events(reason, said, expected):
    pod = starting(
        waiting_reason="ContainerCreating",
        events=(PodEvent(reason="Scheduled", message=""), PodEvent(reason=reason, message=said)),
    )
    told = causes.of_wait(pod, ABOUT)
    assert told is not None
    assert told.reason == expected


def test_a_container_beside_the_engine_that_does_not_start_is_named():
    crashing = beside(waiting_reason="CrashLoopBackOff", last_termination=FAILED)
    told = causes.of_wait(starting(companions=crashing), ABOUT)
    assert told is not None
    assert told.reason == "SidecarEnded"
    assert "proxy" in told.message
    missing = beside(waiting_reason="ImagePullBackOff", waiting_message="x: not found")
    told = causes.of_wait(starting(companions=missing), ABOUT)
    assert told is not None
    assert told.message == "container proxy: x: not found"


def test_what_only_a_human_can_help_is_in_the_table():
    assert {row.reason for row in pod_signatures.SIGNATURES} >= pod_signatures.ONLY_A_HUMAN
