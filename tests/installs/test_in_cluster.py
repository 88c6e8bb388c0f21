"""From an empty control plane with real nodes to a Ready pool, the operator in the cluster.

Each way to install is taken: the operator runs in its own pods, from its image, as its own
ServiceAccount, in a namespace that enforces the restricted Pod Security level.
"""

import itertools
import subprocess

import pytest
import yaml

from generators.chart.generated import CHART
from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import manifests
from sglang_operator.testing.pytest_plugin import require_real_node
from sglang_operator.testing.realnode import kitimages
from tests import operator_image
from tests.integration.chart.helm import IMAGE, NAMESPACE, RELEASE, Helm, HelmError, programs
from tests.integration.pools import PoolUnderTest

WAIT_SECONDS = 120.0
COUNTER = itertools.count()


@pytest.fixture(scope="module")
def plane():
    require_real_node()
    with ControlPlane("3x8", kind="real") as plane:
        plane.load_image(kitimages.default_engine())
        plane.load_image(operator_image.image())
        yield plane


@pytest.fixture
def pool(plane):
    """A namespace for a pool, which is emptied at the end, before the operator goes."""
    pool = PoolUnderTest(plane, plane.namespace(f"rl-{next(COUNTER)}"))
    yield pool
    remove_pool(pool)


def remove_pool(pool):
    if pool.plane.api.exists(f"/apis/{names.API_VERSION}"):
        pool.delete("--ignore-not-found", "--wait=false")
    pool.kubectl("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    pool.plane.wait(lambda: not pool.all_pods(), WAIT_SECONDS, "the pods to go")


def operator_pods(plane):
    listed = plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
    return [
        pod
        for pod in listed
        if not pod["metadata"].get("deletionTimestamp")
        and pod["metadata"]["labels"].get("app.kubernetes.io/name") == "sglang-operator"
    ]


def available(plane):
    arguments = ("wait", "--for=condition=Available", f"--timeout={WAIT_SECONDS:g}s")
    plane.kubectl(*arguments, f"deployment/{RELEASE}", f"-n={NAMESPACE}", timeout=WAIT_SECONDS)


def a_pool_comes_up(plane, pool):
    """The guide's pool becomes Ready by the operator that runs in the cluster."""
    available(plane)
    pool.apply()
    assert len(pool.wait_ready(WAIT_SECONDS)) == 12
    pods = operator_pods(plane)
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"sglang-operator"}
    assert [s["restartCount"] for p in pods for s in p["status"]["containerStatuses"]] == [0, 0]


def rendered():
    """The kustomize base, as a GitOps tool reads it from a repository."""
    folder = str(manifests())
    kubectl = str(programs()["helm4"].parent / "kubectl")
    made = subprocess.run([kubectl, "kustomize", folder], capture_output=True, check=True)
    return list(yaml.safe_load_all(made.stdout))


@pytest.mark.parametrize("version", ["helm4", "helm3"])
def test_helm_leads_to_a_ready_pool_and_an_upgrade_leaves_its_engines_alone(
    plane, pool, tmp_path, version
):
    helm = Helm(programs()[version], tmp_path, {"KUBECONFIG": str(plane.kubeconfig)})
    if not plane.api.exists(f"/api/v1/namespaces/{NAMESPACE}"):
        plane.kubectl("create", "namespace", NAMESPACE)
        plane.kubectl(
            "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted"
        )
    place = f"--namespace={NAMESPACE}"
    helm("install", RELEASE, str(CHART), place, IMAGE, "--wait")
    a_pool_comes_up(plane, pool)
    assert "holds the Lease, renewed" in helm("test", RELEASE, place, "--logs")
    before, operators = pool.uids(), {pod["metadata"]["uid"] for pod in operator_pods(plane)}
    helm("upgrade", RELEASE, str(CHART), place, IMAGE, "--wait", "--set=log.level=debug")
    assert not operators & {pod["metadata"]["uid"] for pod in operator_pods(plane)}
    assert pool.wait_ready(WAIT_SECONDS) == before
    helm("rollback", RELEASE, "1", place, "--wait")
    assert pool.wait_ready(WAIT_SECONDS) == before
    remove_pool(pool)
    plane.kubectl("scale", f"deployment/{RELEASE}", f"-n={NAMESPACE}", "--replicas=0")
    plane.wait(lambda: not operator_pods(plane), WAIT_SECONDS, "the operator's pods to go")
    with pytest.raises(HelmError):
        helm("test", RELEASE, place)
    said = plane.kubectl("logs", f"{RELEASE}-test", f"-n={NAMESPACE}").stdout
    assert "nobody holds the Lease sglang-operator" in said
    helm("uninstall", RELEASE, place, "--wait")


def test_kubectl_apply_leads_to_a_ready_pool(plane, pool):
    plane.kubectl("apply", "-k", str(manifests()))
    a_pool_comes_up(plane, pool)
    remove_pool(pool)
    plane.kubectl("delete", "-k", str(manifests()), timeout=WAIT_SECONDS)


@pytest.mark.parametrize("manager", ["argocd-controller", "kustomize-controller"])
def test_server_side_apply_by_a_gitops_tool_leads_to_a_ready_pool(plane, pool, manager):
    objects = rendered()
    apply = ("apply", "--server-side", "--force-conflicts", f"--field-manager={manager}", "-f", "-")
    # Both tools apply namespaces and definitions first, and wait until those are established.
    first = [o for o in objects if o["kind"] in ("Namespace", "CustomResourceDefinition")]
    plane.kubectl(*apply, input=yaml.safe_dump_all(first))
    established = ("wait", "--for=condition=Established", "crd", names.CRD_NAME)
    plane.wait(lambda: plane.kubectl(*established), WAIT_SECONDS, "the definition")
    plane.kubectl(*apply, input=yaml.safe_dump_all(objects))
    a_pool_comes_up(plane, pool)
    remove_pool(pool)
    plane.kubectl("delete", "-k", str(manifests()), timeout=WAIT_SECONDS)
