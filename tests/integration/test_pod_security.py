"""Pools in namespaces that enforce a Pod Security level: what fits, and what a violation tells."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sglang_operator.api import conditions, names, pod_template
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import manifests
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8")

LEVELS = ("baseline", "restricted")
NOT_ROOT = {"runAsNonRoot": True, "runAsUser": 1000}


def volume(**source: Any) -> dict[str, Any]:
    container = {"name": "engine", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    return {
        "podTemplate": {"spec": {"volumes": [{"name": "v", **source}], "containers": [container]}}
    }


# Each field that a level forbids: the spec, the levels, and the field's name in the refusal.
VIOLATIONS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "podTemplate.spec.volumes.hostPath": (
        {**volume(hostPath={"path": "/models"}), "security": NOT_ROOT},
        LEVELS,
        "hostPath",
    ),
    "network.rdma": ({"network": {"rdma": True}, "security": NOT_ROOT}, LEVELS, "IPC_LOCK"),
    "security.runAsNonRoot": (
        {"security": {"runAsNonRoot": False, "runAsUser": 1000}},
        ("restricted",),
        "runAsNonRoot != true",
    ),
    "security.runAsUser": (
        {"security": {"runAsNonRoot": True, "runAsUser": 0}},
        ("restricted",),
        "runAsUser=0",
    ),
    "nothing said of security": ({}, ("restricted",), "runAsNonRoot != true"),
}
CASES = [(field, level) for field, (_, levels, _) in VIOLATIONS.items() for level in levels]

# Everything else that goes into a pod, all at once: no level objects.
CONTAINER = {
    "name": "engine",
    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}],
    "envFrom": [{"prefix": "S_", "secretRef": {"name": "s", "optional": True}}],
    "volumeMounts": [{"name": "emptydir", "mountPath": "/e"}],
    "resources": {"requests": {"cpu": 1}},
    "imagePullPolicy": "Always",
}
VOLUMES: dict[str, Any] = {
    "persistentVolumeClaim": {"claimName": "models"},
    "image": {"reference": "registry.example/model:1"},
    "configMap": {"name": "c", "optional": True},
    "secret": {"secretName": "s", "optional": True},
    "emptyDir": {"medium": "Memory"},
    "ephemeral": {
        "volumeClaimTemplate": {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            }
        }
    },
}
TEMPLATE = {
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "runtimeClassName": "nvidia",
    "imagePullSecrets": [{"name": "registry"}],
    "volumes": [{"name": kind.lower(), kind: source} for kind, source in VOLUMES.items()],
    "containers": [CONTAINER],
}
SECURITY = {**NOT_ROOT, "runAsGroup": 1000, "fsGroup": 1000}
KEYS = {"apiKey", "adminApiKey"}  # variables from Secrets
NETWORK = {"port": 30001, "headlessService": True, "listenOnPodIP": True}


@pytest.fixture(scope="module", autouse=True)
def runtime_class(plane: ControlPlane) -> Iterator[None]:
    """What the template names."""
    runtime = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": "nvidia"},
        "handler": "nvidia",
    }
    path = "/apis/node.k8s.io/v1/runtimeclasses"
    plane.api.post(path, runtime)
    yield
    plane.api.delete(f"{path}/nvidia")


def pool_under(plane: ControlPlane, level: str, name: str) -> PoolUnderTest:
    namespace = plane.namespace(f"{level}-{name}")
    labels = {"pod-security.kubernetes.io/enforce": level}
    plane.api.merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return PoolUnderTest(plane, namespace)


@pytest.mark.parametrize(("field", "level"), CASES)
def test_a_field_that_the_level_forbids_stalls_the_pool_in_its_words(plane, field, level):
    changes, _, said = VIOLATIONS[field]
    pool = pool_under(plane, level, f"v{list(VIOLATIONS).index(field)}")
    pool.apply(**changes)
    stalled = pool.wait_for(conditions.STALLED, conditions.POD_REJECTED)
    assert f'violates PodSecurity "{level}:' in stalled["message"]
    assert said in stalled["message"]
    assert pool.condition(conditions.READY)["status"] == "False"
    assert pool.all_pods() == []
    pool.delete("--wait=false")


@pytest.mark.parametrize("level", LEVELS)
def test_everything_else_in_a_pod_fits_every_level(plane, level):
    pool = pool_under(plane, level, "fits")
    pool.apply(podTemplate={"spec": TEMPLATE}, security=SECURITY, network=NETWORK, replicas=1)
    pool.wait(lambda: pool.all_pods(), "a pod")
    assert not pool.condition(conditions.STALLED)
    pool.delete("--wait=false")


def test_every_field_that_reaches_a_pod_has_been_judged(plane):
    """A new field is put among those that fit, or those that a level forbids."""
    assert {*TEMPLATE} == pod_template.SPEC_FIELDS
    assert {*CONTAINER} == pod_template.CONTAINER_FIELDS
    assert {*VOLUMES, "hostPath"} == pod_template.VOLUME_KINDS
    schema = yaml.safe_load((manifests() / "crd" / "sglanginferences.yaml").read_text())
    version = schema["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = version["properties"]["spec"]["properties"]
    assert {*spec["security"]["properties"]} == {*SECURITY, *KEYS}
    assert {*spec["network"]["properties"]} == {*NETWORK, "rdma"}


def test_the_guides_pool_fits_baseline_as_it_is_and_restricted_by_two_fields(plane):
    for level, security in (("baseline", None), ("restricted", NOT_ROOT)):
        pool = pool_under(plane, level, "guide")
        pool.apply(security=security)
        assert len(pool.wait_ready()) == 12
        pool.delete("--wait=false")
        pool.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")


def test_a_pool_that_was_corrected_comes_up(plane):
    pool = pool_under(plane, "restricted", "corrected")
    pool.apply(replicas=1)
    pool.wait_for(conditions.STALLED, conditions.POD_REJECTED)
    pool.patch({"security": NOT_ROOT})
    assert len(pool.wait_ready()) == 1
    assert names.KIND in json.dumps(pool.pods()[0]["metadata"]["ownerReferences"])
