"""Engines whose pods got another container from an admission policy, as a service mesh does it.

The nodes are KWOK's: what kubelet would tell of such pods the tests write themselves.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.testing import ControlPlane
from tests.integration.pools import Json, PoolUnderTest

pytestmark = pytest.mark.plane("2x2")

SIDECAR = "istio-proxy"
POLICY = f"""
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: sidecar}}
spec:
  failurePolicy: Fail
  reinvocationPolicy: Never
  matchConstraints:
    resourceRules:
    - {{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >
        [JSONPatch{{op: "add", path: "/spec/containers/0", value: Object.spec.containers{{
          name: "{SIDECAR}", image: "sidecar:1"}}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: sidecar}}
spec: {{policyName: sidecar}}
"""


@pytest.fixture(scope="module", autouse=True)
def policy(plane: ControlPlane) -> Iterator[None]:
    """In force for all pods of the plane, while the tests of this file last."""
    plane.kubectl("apply", "-f", "-", input=POLICY)
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "probe-"},
        "spec": {"containers": [{"name": "only", "image": "one:1"}]},
    }

    def containers() -> int:
        answer = plane.api.post("/api/v1/namespaces/default/pods?dryRun=All", probe)
        return len(answer["spec"]["containers"])

    plane.wait(lambda: containers() == 2, 30, "the policy to be in force")
    yield
    plane.kubectl("delete", "-f", "-", input=POLICY)
    plane.wait(lambda: containers() == 1, 30, "the policy to be gone")


def end(pool: PoolUnderTest, pod: Json, container: str, exit_code: int, reason: str) -> None:
    """What kubelet tells when one container of a pod ends, and the others run on."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    statuses = pod["status"]["containerStatuses"]
    for status in statuses:
        if status["name"] == container:
            begun = status["state"]["running"]["startedAt"]
            ended = {"exitCode": exit_code, "reason": reason}
            status["state"] = {"terminated": {**ended, "startedAt": begun, "finishedAt": now}}
            status["ready"] = status["started"] = False
    unready = {"status": "False", "reason": "ContainersNotReady", "lastTransitionTime": now}
    told = pod["status"]["conditions"]
    others = [one for one in told if one["type"] not in ("Ready", "ContainersReady")]
    changed = [{"type": type_, **unready} for type_ in ("Ready", "ContainersReady")]
    status = {"containerStatuses": statuses, "conditions": [*others, *changed]}
    path = f"/api/v1/namespaces/{pool.namespace}/pods/{pod['metadata']['name']}"
    # Else the nodes would have it start again.
    pool.plane.api.merge(path, {"metadata": {"annotations": {"fake.sglang/start-delay": "1h"}}})
    pool.plane.api.merge(f"{path}/status", {"status": status})


def states(pod: Json) -> dict[str, str]:
    return {
        status["name"]: next(iter(status["state"]))
        for status in pod["status"].get("containerStatuses", [])
    }


@pytest.mark.parametrize(
    ("container", "exit_code", "reason", "told"),
    [
        pytest.param(names.ENGINE_CONTAINER, 137, "OOMKilled", "OOMKilled", id="the engine"),
        pytest.param(SIDECAR, 3, "Error", "SidecarEnded", id="the sidecar"),
    ],
)
def test_when_a_container_ends_for_good_the_engine_is_replaced_on_full_nodes(
    pool, container, exit_code, reason, told
):
    """The dead pod holds its GPUs until it is removed: the others leave no room."""
    pool.apply(device_mapping="[0,1,2,3]")
    before = pool.wait_ready()
    victim = next(p for p in pool.pods() if p["metadata"]["uid"] == before["g0-1"])
    assert list(states(victim)) == [SIDECAR, names.ENGINE_CONTAINER]
    end(pool, victim, container, exit_code, reason)
    (failure,) = pool.wait(lambda: pool.status.get("lastFailures"), "the failure is told")
    gone = {before["g0-1"]}
    pool.wait(lambda: gone.isdisjoint(p["metadata"]["uid"] for p in pool.all_pods()), "it goes")
    after = pool.wait_engines(["g0-1", "g2-3"], 60)
    assert after["g2-3"] == before["g2-3"]
    assert (failure["reason"], failure["engines"]) == (told, ["g0-1"])
    assert pool.condition(conditions.READY)["reason"] == conditions.POOL_READY
