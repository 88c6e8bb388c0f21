"""What Argo CD makes of live objects, and the example trees for Argo CD and Flux."""

import pytest
import yaml

from generators.chart.generated import HEALTH
from generators.checkout import MANIFESTS
from tests.argocd import health
from tests.gitops import kstatus

TREES = MANIFESTS / "samples" / "gitops"
CASES = yaml.safe_load((HEALTH.parent / "health_test.yaml").read_text())["tests"]
KSTATUS = {
    "Healthy": {"Current"},
    "Progressing": {"InProgress"},
    "Degraded": {"Failed"},
    "Suspended": {"Current", "InProgress"},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["inputPath"])
def test_argo_cd_tells_the_health_of_a_live_object(case):
    found = yaml.safe_load((HEALTH.parent / case["inputPath"]).read_text())
    expected = case["healthStatus"]
    assert health(found) == (expected["status"], expected["message"])
    assert kstatus(found) in KSTATUS[expected["status"]]


def test_there_is_a_live_object_of_every_health():
    assert {case["healthStatus"]["status"] for case in CASES} == set(KSTATUS)


@pytest.mark.parametrize("status", [{}, {"status": {}}, {"status": {"observedGeneration": -1}}])
def test_what_nobody_has_looked_at_is_not_healthy(status):
    assert health({"metadata": {"generation": 1}, **status})[0] == "Progressing"


def test_a_healthy_object_whose_spec_changed_is_so_no_more():
    healthy = next(case for case in CASES if case["healthStatus"]["status"] == "Healthy")
    found = yaml.safe_load((HEALTH.parent / healthy["inputPath"]).read_text())
    found["metadata"]["generation"] += 1
    assert health(found)[0] == "Progressing"


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def test_flux_applies_pools_after_the_operator_and_waits_for_each():
    source, operator, pools = documents(TREES / "flux" / "kustomizations.yaml")
    assert pools["spec"]["dependsOn"] == [{"name": operator["metadata"]["name"]}]
    assert operator["spec"]["wait"] is True
    pool = yaml.safe_load((TREES / "pools" / "actor-infer.yaml").read_text())
    (checked,) = pools["spec"]["healthChecks"]
    assert (checked["apiVersion"], checked["kind"]) == (pool["apiVersion"], pool["kind"])
    assert checked["name"] == pool["metadata"]["name"]
    for kustomization in (operator, pools):
        assert kustomization["spec"]["sourceRef"]["name"] == source["metadata"]["name"]
        assert (MANIFESTS.parent / kustomization["spec"]["path"]).is_dir()


def test_argo_cd_may_apply_a_pool_beside_its_definition():
    for application in documents(TREES / "argocd" / "applications.yaml"):
        assert (MANIFESTS.parent / application["spec"]["source"]["path"]).is_dir()
    annotations = yaml.safe_load((TREES / "pools" / "actor-infer.yaml").read_text())["metadata"][
        "annotations"
    ]
    assert "SkipDryRunOnMissingResource=true" in annotations["argocd.argoproj.io/sync-options"]
    assert annotations["argocd.argoproj.io/sync-wave"] == "1"
