"""Names that are taken, and children that somebody changed, on a real control plane."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from sglang_operator.api import conditions, names

pytestmark = pytest.mark.plane("3x8", quiet=True)


def test_orphans_are_told_all_at_once_and_one_command_clears_them(pool):
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_ready()
    pool.delete("--cascade=orphan")
    pool.wait(
        lambda: not any(pod["metadata"].get("ownerReferences") for pod in pool.all_pods()),
        "orphans",
    )
    pool.apply(device_mapping="list(range(0,8))")
    told = pool.wait_for(conditions.STALLED, conditions.NAME_CONFLICT)
    taken = {
        "configmap/actor-infer-engines",
        "lease/actor-infer-weights",
        "poddisruptionbudget/actor-infer-engines",
        "service/actor-infer",
        f"controllerrevision/{names.revision_name(pool.name, pool.status['revision'])}",
        *(f"pod/actor-infer-{engine}-0" for engine in before),
    }
    command = re.search(r"\(kubectl (delete .*?)\)", told["message"])
    assert command, told["message"]
    words = command[1].split()
    assert set(words[3:]) == taken
    assert {pod["metadata"]["uid"] for pod in pool.all_pods()} == set(before.values())
    pool.plane.kubectl(*words, "--wait=false")
    after = pool.wait_ready(60)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


@pytest.mark.parametrize("cascade", ["background", "foreground"])
def test_a_pool_that_is_held_in_deletion_says_by_whom_and_leaves_a_clean_name(pool, cascade):
    """In the background its engines serve on, and follow their trainer, until it is let go."""
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_ready()
    hold = {"metadata": {"finalizers": ["tests.example/hold"]}}
    pool.kubectl("patch", "sgi", "actor-infer", "--type=merge", "-p", json.dumps(hold))
    pool.delete("--wait=false", f"--cascade={cascade}")
    told = pool.wait_for(conditions.RECONCILING, conditions.TERMINATING)
    assert "tests.example/hold" in told["message"]
    if cascade == "background":
        notes = {names.ANNOTATION_PHASE: "Sleeping", names.ANNOTATION_TRANSACTION: "t-1"}
        body = json.dumps({"metadata": {"annotations": notes}})
        pool.kubectl("patch", "lease", "actor-infer-weights", "--type=merge", "-p", body)
        pool.wait(lambda: pool.registry()["weights"]["transaction"] == "t-1", "its acknowledgement")
        assert pool.uids() == before
    else:
        pool.wait(lambda: not pool.all_pods(), "its pods to be gone, though it is held", 90)
    rests = pool.wait_rest()
    assert pool.wait_rest() == rests, "it is not written again and again"
    pool.kubectl(
        "patch", "sgi", "actor-infer", "--type=merge", "-p", '{"metadata": {"finalizers": null}}'
    )
    pool.wait(lambda: not pool.all_pods(), "its pods to be gone", 90)
    pool.apply(device_mapping="list(range(0,8))")
    after = pool.wait_ready(60)
    assert not set(after.values()) & set(before.values())
    lease = json.loads(pool.kubectl("get", "lease", "actor-infer-weights", "-o", "json"))
    assert names.ANNOTATION_PHASE not in lease["metadata"].get("annotations", {})


@pytest.mark.parametrize("label", [names.LABEL_POOL, names.LABEL_COMPONENT, names.LABEL_MANAGED_BY])
def test_a_pod_that_was_put_aside_by_a_label_is_replaced_beside_it(pool, label):
    pool.apply(device_mapping="list(range(0,8))")
    before = pool.wait_ready()
    pool.kubectl("label", "pod", "actor-infer-g0-1-0", f"{label}-")

    def replaced() -> bool:
        there = {pod["metadata"]["name"] for pod in pool.all_pods()}
        return pool.is_ready() and {"actor-infer-g0-1-0", "actor-infer-g0-1-1"} <= there

    pool.wait(replaced, "another pod beside it", 30)
    aside = {pod["metadata"]["uid"] for pod in pool.all_pods()} & set(before.values())
    assert aside == set(before.values())  # nobody touched it


CHANGES: list[tuple[str, str, dict[str, object], Callable[[dict[str, Any]], bool]]] = [
    (
        "service",
        "actor-infer",
        {"publishNotReadyAddresses": True},
        lambda spec: not spec.get("publishNotReadyAddresses"),
    ),
    (
        "service",
        "actor-infer",
        {"selector": {"zone": "a"}},
        lambda spec: spec["selector"] == names.serving_selector("actor-infer"),
    ),
    ("service", "actor-infer", {"type": "NodePort"}, lambda spec: spec["type"] == "ClusterIP"),
    (
        "service",
        "actor-infer",
        {"externalIPs": ["192.0.2.1"]},
        lambda spec: not spec.get("externalIPs"),
    ),
    (
        "service",
        "actor-infer",
        {"internalTrafficPolicy": "Local"},
        lambda spec: spec["internalTrafficPolicy"] == "Cluster",
    ),
    (
        "service",
        "actor-infer",
        {"type": "ExternalName", "externalName": "example.com"},
        lambda spec: spec["type"] == "ClusterIP" and spec.get("clusterIP", "None") != "None",
    ),
    (
        "pdb",
        "actor-infer-engines",
        {"minAvailable": None, "maxUnavailable": "100%"},
        lambda spec: spec.get("minAvailable") == 3 and "maxUnavailable" not in spec,
    ),
    (
        "pdb",
        "actor-infer-engines",
        {"selector": {"matchLabels": {"zone": "a"}}},
        lambda spec: spec["selector"] == {"matchLabels": names.selector("actor-infer")},
    ),
]


def test_what_decides_who_is_served_is_put_right_whoever_changed_it(pool):
    pool.apply(device_mapping="list(range(0,8))")
    pool.wait_ready()
    for kind, name, change, right in CHANGES:
        pool.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": change}))

        def is_right(kind=kind, name=name, right=right) -> bool:
            return bool(right(json.loads(pool.kubectl("get", kind, name, "-o", "json"))["spec"]))

        pool.wait(is_right, f"{kind} {name} after {change}", 20)
    pool.kubectl("annotate", "service", "actor-infer", "note=x")
    pool.kubectl(
        "patch", "service", "actor-infer", "-p", '{"spec": {"sessionAffinity": "ClientIP"}}'
    )
    service = json.loads(pool.kubectl("get", "service", "actor-infer", "-o", "json"))
    pool.kubectl("scale", "sgi", pool.name, "--replicas=3")
    pool.wait(lambda: pool.status["readySummary"] == "3/3", "a pass")
    after = json.loads(pool.kubectl("get", "service", "actor-infer", "-o", "json"))
    assert after["metadata"]["annotations"]["note"] == "x"
    assert after["spec"] == service["spec"]
