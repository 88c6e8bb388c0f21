"""An engine's life is its container's, whatever else runs in its pod or has run there."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from sglang_operator import actions
from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.diagnosis import causes
from sglang_operator.observed import sightings, wire
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.health import Health, health
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.plan import decision, startup
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.status import compute, failures, holdups
from tests.builders import OWNER, a_lease, a_pool, refused, weighed

POOL = a_pool(device_mapping="[0,1]")
ENGINE = POOL.running[0]
NOW = 1_795_863_660.0
AT = Moment(wall=NOW, steady=NOW)
BORN, BEGUN, DIED = "2026-11-28T10:00:00Z", "2026-11-28T10:00:05Z", "2026-11-28T11:00:00Z"
RUNS = {"running": {"startedAt": BEGUN}}
DEAD = {
    "terminated": {
        "exitCode": 137,
        "reason": "OOMKilled",
        "startedAt": BEGUN,
        "finishedAt": DIED,
    }
}
CRASHED = {
    "terminated": {
        "exitCode": 3,
        "reason": "Error",
        "message": "no control plane",
        "startedAt": BEGUN,
        "finishedAt": DIED,
    }
}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": BEGUN}}


def container(
    name: str, state: dict[str, Any], *, ready: bool | None = None, **told: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "containerID": f"containerd://{name}",
        "ready": "running" in state if ready is None else ready,
        "state": state,
        **told,
    }


def raw(
    *containers: dict[str, Any],
    init: tuple[dict[str, Any], ...] = (),
    native: tuple[str, ...] = (),
    policy: str = "Never",
    phase: str = "Running",
    changed: str = DIED,
    version: int = 9,
    attempt: int = 0,
    **metadata: Any,
) -> wire.Pod:
    """The engine's pod as the API server sends it."""
    ready = all(one["ready"] for one in containers)
    body = {
        "metadata": {
            "name": names.pod_name(OWNER.name, ENGINE.name, attempt),
            "namespace": OWNER.namespace,
            "uid": f"u{attempt}",
            "resourceVersion": str(version),
            "creationTimestamp": BORN,
            "labels": {
                names.LABEL_ENGINE: ENGINE.name,
                names.LABEL_REVISION: POOL.revision,
            },
            "annotations": {
                names.ANNOTATION_ATTEMPT: str(attempt),
                names.ANNOTATION_DEVICES: "0,1",
            },
            "ownerReferences": [
                {"kind": names.KIND, "name": OWNER.name, "uid": OWNER.uid, "controller": True}
            ],
            **metadata,
        },
        "spec": {
            "nodeName": "gpu-node-0",
            "restartPolicy": policy,
            "readinessGates": [{"conditionType": names.CONDITION_WEIGHTS_SYNCED}],
            "containers": [{"name": one["name"]} for one in containers],
            "initContainers": [
                {"name": one["name"]}
                | ({"restartPolicy": "Always"} if one["name"] in native else {})
                for one in init
            ],
        },
        "status": {
            "phase": phase,
            "conditions": [
                {
                    "type": "ContainersReady",
                    "status": str(ready),
                    "lastTransitionTime": changed,
                }
            ],
            "containerStatuses": list(containers),
            "initContainerStatuses": list(init),
        },
    }
    return msgspec.convert(body, wire.Pod)


def seen(*containers: dict[str, Any], **more: Any) -> ObservedPod:
    return wire.observed_pod(raw(*containers, **more), AT)


def planned(*pods: ObservedPod, **more: Any) -> Plan:
    return plan(POOL, Observed(pods=pods, **more), NOW)


def told(made: Plan) -> list[tuple[str, int | None]]:
    return [(one.reason, one.exit_code) for one in failures.seen(POOL, made)]


ENGINE_DIED = container("engine", DEAD)
ENGINE_RUNS = container("engine", RUNS)
PROXY = container("istio-proxy", RUNS)
SICK_PROXY = container("istio-proxy", RUNS, ready=False)
DEAD_PROXY = container("istio-proxy", CRASHED)


@pytest.mark.parametrize(
    "containers",
    [
        pytest.param([ENGINE_DIED, PROXY], id="beside a sidecar"),
        pytest.param([PROXY, ENGINE_DIED], id="behind a sidecar"),
        pytest.param([ENGINE_DIED, SICK_PROXY], id="beside one that is not ready"),
        pytest.param([ENGINE_DIED], id="before its phase says so"),
    ],
)
def test_an_engine_whose_container_ended_is_replaced_though_its_pod_runs(containers):
    pod = seen(*containers)
    made = planned(pod)
    assert health(pod, {}, POOL.spec.restart, NOW) is Health.ENDED
    assert [create.attempt for create in made.creates] == [1]
    assert told(made) == [("OOMKilled", 137)]
    assert [engine.members for engine in made.engines] == [()]


@pytest.mark.parametrize("policy", ["Always", "OnFailure"])
def test_a_container_that_kubelet_starts_again_has_not_ended(policy):
    made = planned(seen(ENGINE_DIED, PROXY, policy=policy))
    assert not made.creates
    assert not made.ended
    assert [view.state for view in made.engines] == [EngineState.STARTING]


def test_on_failure_a_container_that_exited_with_0_is_not_started_again():
    assert seen(container("engine", DONE), PROXY, policy="OnFailure").ended


def test_a_dead_engine_beside_a_sidecar_is_removed_when_its_successor_is_there():
    dead = seen(ENGINE_DIED, PROXY)
    successor = seen(ENGINE_RUNS, PROXY, attempt=1)
    assert not planned(dead, successor).removals  # its failure is not on record yet
    made = planned(dead, successor, recorded=frozenset({dead.uid}))
    assert [removal.pod.uid for removal in made.removals] == [dead.uid]
    (delete,) = actions.pod_actions(POOL, made, engine_pod.template(POOL))
    assert isinstance(delete, actions.DeletePod)
    assert delete.grace_seconds == decision.ENDED_GRACE_SECONDS  # nothing of it has to drain


def test_a_sidecar_that_uses_up_the_quota_goes_before_the_successor_can_come():
    dead = seen(ENGINE_DIED, PROXY)
    known = {"recorded": frozenset({dead.uid}), "creates_blocked_until": NOW + 30}
    assert [removal.pod.uid for removal in planned(dead, **known).removals] == [dead.uid]
    done = seen(ENGINE_DIED, DEAD_PROXY, phase="Failed")  # counts for no quota, and remembers
    assert not planned(done, **known).removals


def test_the_wait_before_the_next_try_counts_from_the_end_of_the_container():
    again = {names.ANNOTATION_FAILURES: "3", names.ANNOTATION_DEVICES: "0,1"}
    pod = seen(ENGINE_DIED, PROXY, annotations=again, attempt=1)
    assert pod.ended_at == NOW - 60  # 11:00:00, by its node
    policy = POOL.spec.restart
    assert startup.streak(pod, causes.of_end(pod, causes.context(POOL))) is None
    made = planned(pod)
    assert made.wake_at is None or made.wake_at >= pod.ended_at + policy.backoff_seconds


def test_the_trainer_and_the_gates_know_a_dead_engine_no_more():
    alive, dead = seen(ENGINE_RUNS, PROXY), seen(ENGINE_DIED, PROXY)
    lease = a_lease(POOL, phase="Committed", version="step-1", instances=alive.instance or "")
    assert [gate.pod.uid for gate in weighed(POOL, [alive], children=lease).gates] == [alive.uid]
    made = weighed(POOL, [dead], children=lease)
    assert not made.gates
    assert made.synced == 0
    assert made.epoch != weighed(POOL, [alive], children=lease).epoch


def test_an_end_is_urgent_news_before_the_phase_follows():
    wakes: list[bool] = []
    store = PodStore(lambda _, urgent: wakes.append(urgent))
    store.put(raw(ENGINE_RUNS, PROXY))
    store.put(raw(ENGINE_DIED, PROXY, version=10))
    assert wakes == [False, True]
    (entry,) = store.of(PoolKey(OWNER.namespace, OWNER.name))
    assert entry.pod.ended


def test_a_refused_spec_counts_no_dead_engine_as_up():
    pods = (replace(seen(ENGINE_DIED, PROXY), containers_ready=True),)
    told = compute.compute_refused(
        refused(engineVersion="none"),
        Observed(pods=pods),
        ignored=[],
        previous={},
        now=NOW,
        steady=NOW,
    )
    assert told["engines"]["up"] == 0


DELETED = {"deletionTimestamp": "2026-11-28T11:01:00Z", "deletionGracePeriodSeconds": 60}


def test_a_container_that_ends_because_its_pod_is_deleted_has_not_failed():
    for containers in ([ENGINE_DIED, PROXY], [ENGINE_RUNS, DEAD_PROXY], [ENGINE_DIED, DEAD_PROXY]):
        pod = seen(*containers, **DELETED)
        assert not pod.failed
        assert pod.dying
        assert not planned(pod).ended


def test_an_engine_that_died_before_its_pod_was_deleted_has_failed():
    later = {"deletionTimestamp": "2026-11-28T11:01:40Z", "deletionGracePeriodSeconds": 60}
    assert seen(ENGINE_DIED, DEAD_PROXY, **later).failed


# --- the containers beside it


def test_a_sidecar_that_ended_for_good_is_told_and_the_engine_replaced():
    """Its pod can never be Ready again: Kubernetes counts every container."""
    made = planned(seen(ENGINE_RUNS, DEAD_PROXY))
    (failure,) = failures.seen(POOL, made)
    assert (failure.reason, failure.exit_code) == ("SidecarEnded", 3)
    assert failure.message == (
        "container istio-proxy beside the engine ended (exit code 3), and is not started again, "
        "so that the pod can never be Ready: no control plane"
    )
    assert "istio-proxy" in failure.advice
    assert [create.attempt for create in made.creates] == [1]


def test_a_sidecar_that_is_started_again_costs_no_engine():
    assert not planned(seen(ENGINE_RUNS, DEAD_PROXY, policy="Always")).creates
    native = seen(ENGINE_RUNS, init=(DEAD_PROXY,), native=("istio-proxy",))
    assert not planned(native).creates


def test_after_its_sidecar_ended_the_engine_that_was_removed_for_it_is_told_of_once():
    """The delete ends the engine too; why it was removed stays the cause."""
    terminated = {"exitCode": 143, "reason": "Error", "finishedAt": "2026-11-28T11:02:00Z"}
    pod = seen(
        container("engine", {"terminated": terminated}),
        DEAD_PROXY,
        deletionTimestamp="2026-11-28T11:01:05Z",
        deletionGracePeriodSeconds=5,
    )
    assert pod.failed
    assert told(planned(pod)) == [("SidecarEnded", 3)]


@pytest.mark.parametrize("phase", ["Pending", "Failed"])
def test_an_init_container_that_failed_is_the_cause(phase):
    waiting = {"waiting": {"reason": "PodInitializing"}}
    pod = seen(
        container("engine", waiting),
        init=(container("vault-agent-init", CRASHED),),
        phase=phase,
        changed=BORN,
    )
    made = planned(pod)
    (failure,) = failures.seen(POOL, made)
    assert (failure.reason, failure.exit_code) == ("InitContainerFailed", 3)
    assert failure.message == (
        "init container vault-agent-init failed (exit code 3): no control plane"
    )
    (create,) = made.creates
    assert create.streak == startup.FailureStreak(
        reason="InitContainerFailed", count=1
    )  # not for ever


def test_an_init_container_that_has_done_its_work_is_not_told_of():
    pod = seen(ENGINE_RUNS, PROXY, init=(container("istio-init", DONE),))
    assert not pod.companions
    assert not pod.ended


def test_an_engine_that_had_answered_did_not_fail_at_its_start_because_a_sidecar_was_not_ready():
    """ContainersReady went when the sidecar did, long before the engine's end."""
    before = seen(ENGINE_RUNS, SICK_PROXY, changed=BEGUN)
    after = wire.observed_pod(raw(ENGINE_DIED, SICK_PROXY, changed=BEGUN), AT, before)
    (failed,) = planned(after).creates
    assert failed.streak is None


def test_an_operator_that_begins_now_knows_that_an_engine_had_passed_its_startup_probe():
    body = raw(container("engine", RUNS, ready=False))
    assert not wire.observed_pod(body, AT).started
    (engine, *others) = body.status.container_statuses
    passed = [msgspec.structs.replace(engine, started=True), *others]
    status = msgspec.structs.replace(body.status, container_statuses=passed)
    pod = wire.observed_pod(msgspec.structs.replace(body, status=status), AT)
    assert (pod.started, pod.answered, pod.containers_ready) == (True, False, False)


def test_an_engine_goes_on_while_kubelet_tells_of_no_container_and_of_no_restart():
    """A status that is not there, as after a fault of kubelet's, is no end."""
    before = seen(container("engine", RUNS, containerID="c1", restartCount=1))
    assert before.seen.alive
    waiting = {"waiting": {"reason": "ContainerCreating"}}
    later = Moment(wall=AT.wall + 9, steady=AT.steady + 9)

    def after(*told, known=before):
        return wire.observed_pod(raw(*told, phase="Pending"), later, known)

    for told in ((), (container("engine", waiting, restartCount=1, containerID=""),)):
        unseen = after(*told)
        assert (unseen.instance, unseen.last_instance) == (None, before.instance)
        assert unseen.out_of_sight
        assert unseen.may_run
        assert unseen.answered
        again = after(container("engine", RUNS, containerID="c1", restartCount=1), known=unseen)
        assert (again.last_instance, again.restarts, again.seen) == (
            before.instance,
            1,
            before.seen,
        )
        gone = after(container("engine", waiting, restartCount=2, containerID=""), known=unseen)
        assert (gone.last_instance, gone.out_of_sight, gone.may_run) == (None, False, False)
    assert after(container("engine", RUNS, containerID="c2")).last_instance != before.instance


RULE = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
OTHERS = {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}


@pytest.mark.parametrize(
    ("rule", "code", "again"),
    [(RULE, 42, True), (RULE, 1, False), (OTHERS, 3, True), (OTHERS, 0, False), ({}, 42, False)],
)
def test_a_container_that_its_rules_start_again_has_not_ended_for_good(rule, code, again):
    pod = a_pod_with_rules(rule, code)
    assert pod.ended is not again


def a_pod_with_rules(rule: dict[str, Any], code: int) -> ObservedPod:
    agent = {"name": "agent", "restartPolicy": "Never", "restartPolicyRules": [rule]}
    body = {
        "metadata": {"name": "p", "namespace": "rl", "uid": "u", "resourceVersion": "1"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "engine"}, agent]},
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "engine", "state": {"running": {}}},
                {"name": "agent", "state": {"terminated": {"exitCode": code}}},
            ],
        },
    }
    return wire.observed_pod(msgspec.convert(body, wire.Pod), AT)


def test_what_others_write_into_a_pod_is_kept_within_bounds():
    """Whoever may write the status of pods: times, reasons and texts stand in the pool's status."""
    old = datetime(1, 1, 1, tzinfo=UTC)
    ended = wire.Terminated(exit_code=1, reason="a b", message="m" * 10**6, finished_at=old)
    waiting = wire.ContainerWaiting(reason="no such\nthing", message="m" * 10**6)
    status = wire.PodStatus(
        message="m" * 10**6,
        conditions=[
            wire.PodCondition(
                type=names.CONDITION_WEIGHTS_SYNCED, status="True", message="v" * 10**6
            )
        ],
        container_statuses=[
            wire.ContainerStatus(
                name="engine",
                state=wire.ContainerState(waiting=waiting),
                last_state=wire.ContainerState(terminated=ended),
            )
        ],
    )
    meta = wire.Meta(name="p", namespace="rl", uid="u", resource_version="1")
    gated = wire.PodSpec(readiness_gates=[wire.ReadinessGate(names.CONDITION_WEIGHTS_SYNCED)])
    pod = wire.observed_pod(wire.Pod(metadata=meta, spec=gated, status=status), AT)
    assert pod.last_termination is not None
    assert (pod.last_termination.reason, pod.last_termination.finished) == ("a_b", 0.0)
    assert pod.waiting_reason == "no_such_thing"
    assert pod.gate is not None
    texts = (pod.message, pod.waiting_message, pod.last_termination.message, pod.gate.version)
    assert max(map(len, texts)) < 20_000


@pytest.mark.parametrize("policy", ["Committed", "Versioned", "Off"])
def test_a_pod_is_known_to_have_the_gate_that_it_was_made_with(policy):
    """Whatever its pool has by now, and though nobody has set the gate yet."""
    pool = a_pool(weights={"gate": policy})
    spec = engine_pod.template(pool)["spec"]
    body = {"metadata": {"name": "p", "namespace": "rl", "uid": "u"}, "spec": spec}
    body["metadata"]["resourceVersion"] = "1"
    pod = wire.observed_pod(msgspec.convert(body, wire.Pod), AT)
    assert pod.gate is None
    assert (pod.gated, pod.let_in) == (pool.gated, not pool.gated)
    others = msgspec.structs.replace(wire.PodSpec(), readiness_gates=[wire.ReadinessGate("x/y")])
    meta = wire.Meta(name="p", namespace="rl", uid="u", resource_version="1")
    assert not wire.observed_pod(wire.Pod(metadata=meta, spec=others), AT).gated


BEGUN_AT = 1_795_860_005.0


def initializing(name: str, *, native: bool = False) -> ObservedPod:
    """The engine waits for an init container that runs and is not done, or not ready."""
    engine = container("engine", {"waiting": {"reason": "PodInitializing"}})
    first = container(name, RUNS, ready=False)
    body = raw(engine, init=(first,), native=(name,) if native else (), phase="Pending")
    return wire.observed_pod(body, AT)


@pytest.mark.parametrize(
    ("native", "words"),
    [
        (False, "init container fetch runs for longer than 1800 s, the budget of an engine's"),
        (True, "native sidecar fetch runs for longer than 1800 s, the budget of an engine's"),
    ],
)
def test_an_init_container_that_hangs_is_told_once_the_budget_of_a_start_is_over(native, words):
    pod = sightings.by_stamps(initializing("fetch", native=native))
    observed = Observed(pods=(pod,))
    assert not failures.seen(POOL, plan(POOL, observed, BEGUN_AT + 1790))
    late = plan(POOL, observed, BEGUN_AT + 1810)
    (failure,) = failures.seen(POOL, late)
    assert failure.reason == "InitContainerHangs"
    assert failure.message.startswith(words)
    assert "kubectl logs POD -c fetch" in failure.advice
    reason, message = holdups.waiting(POOL, late, None) or ("", "")
    assert reason == "InitContainerHangs"
    assert words in message


def test_a_native_sidecar_that_waits_for_its_next_try_is_told_without_its_last_end():
    waits = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}
    body = raw(ENGINE_RUNS, init=(container("proxy", waits),), native=("proxy",), phase="Running")
    pod = replace(wire.observed_pod(body, AT), containers_ready=False)
    (failure,) = failures.seen(POOL, plan(POOL, Observed(pods=(pod,)), NOW))
    assert failure.reason == "CrashLoopBackOff"
    assert failure.message == "native sidecar proxy: back-off 5m0s restarting"
