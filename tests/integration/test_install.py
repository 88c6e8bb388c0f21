"""The two ways to install: for the whole cluster, or for namespaces and nothing cluster-wide."""

import datetime

import pytest

from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import NAMESPACE, InstalledOperator, manifests
from tests.integration.pools import PoolUnderTest

pytestmark = [pytest.mark.each_kubernetes, pytest.mark.plane("1x8", operator=False)]


def remove(plane: ControlPlane) -> None:
    """All but the resource definition.

    The API server takes up to a minute to remove one that it has just come to serve.
    """
    for part in ("controller", "rbac/cluster", "rbac/users", "rbac/lease"):
        plane.kubectl("delete", "-k", str(manifests() / part), "-n", NAMESPACE)


def test_one_command_installs_the_operator_for_the_cluster(plane):
    plane.kubectl("apply", "-k", str(manifests()))
    plane.kubectl("wait", "--for=condition=Established", "crd", names.CRD_NAME)
    account = plane.service_account_kubeconfig("sglang-operator", "sglang-operator")
    pools = f"{names.PLURAL}.{names.GROUP}"
    plane.wait(
        lambda: plane.kubectl("auth", "can-i", "list", pools, "-A", as_=account).stdout == "yes\n",
        10,
        "the operator to be allowed to list pools",
    )
    plane.kubectl(
        "wait", "--for=condition=Available", "deployment/sglang-operator", "-n", "sglang-operator"
    )
    remove(plane)


def test_one_command_installs_the_operator_for_one_namespace(plane):
    plane.namespace("team")
    plane.kubectl("apply", "-k", str(manifests() / "crd"))
    plane.kubectl("apply", "-k", str(manifests() / "namespaced"), "-n", "team")
    account = plane.service_account_kubeconfig("team", "sglang-operator")
    asked = ("auth", "can-i", "create", "pods")
    assert plane.kubectl(*asked, "-n", "team", as_=account).stdout.strip() == "yes"
    refused = plane.kubectl(*asked, "-n", "default", as_=account, check=False)
    assert refused.stdout.strip() == "no"
    plane.kubectl("wait", "--for=condition=Available", "deployment/sglang-operator", "-n", "team")


def test_the_operator_may_read_no_secret_and_enter_no_pod(plane):
    plane.kubectl("apply", "-k", str(manifests()))
    account = plane.service_account_kubeconfig("sglang-operator", "sglang-operator")
    for asked in (
        ["get", "secrets"],
        ["list", "secrets"],
        ["create", "pods", "--subresource=exec"],
        ["patch", "sgi"],
        ["update", "sgi"],
        ["delete", "sgi"],
        ["create", "clusterroles"],
    ):
        answer = plane.kubectl("auth", "can-i", *asked, "-A", as_=account, check=False)
        assert answer.stdout.strip() == "no", asked
    remove(plane)


def test_only_the_named_namespaces_are_served_and_nothing_else_is_asked_for(plane):
    with InstalledOperator(plane, namespaces=["inside"], arguments=["--no-nodes"]) as operator:
        inside = PoolUnderTest(plane, plane.namespace("inside"))
        outside = PoolUnderTest(plane, plane.namespace("outside"))
        since = datetime.datetime.now(datetime.UTC)
        inside.apply(replicas=2)
        outside.apply(replicas=2)
        before = inside.wait_ready()
        inside.kubectl("delete", "pod", "actor-infer-g0-1-0", "--wait=false")
        inside.wait(lambda: inside.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod")
        assert outside.status == {"observedGeneration": -1}
        assert outside.all_pods() == []
        asked = plane.audit(user=operator.user, since=since)
        served = {e.namespace for e in asked if e.resource not in ("", "leases")}
        assert served == {"inside"}
        leases = {e.namespace for e in asked if e.resource == "leases"}
        assert leases <= {"inside", NAMESPACE}  # its own, renewed every 2 s
        assert [event.uri for event in asked if event.code == 403] == []


def test_a_namespace_that_takes_its_role_away_is_left_out_and_served_again_with_it(plane):
    teams = ["stays", "leaves"]
    with InstalledOperator(plane, namespaces=teams, arguments=["--no-nodes"]) as operator:
        stays, leaves = (PoolUnderTest(plane, team) for team in teams)
        leaves.apply(replicas=1)
        leaves.wait_ready()
        before = leaves.uids()
        binding = leaves.kubectl("get", "rolebinding/sglang-operator", "-o", "yaml")
        leaves.kubectl("delete", "rolebinding/sglang-operator")
        operator.stop()
        leaves.patch({"replicas": 2})
        stays.apply(replicas=1)
        operator.start()
        stays.wait_ready()
        assert leaves.uids() == before
        told = "namespace leaves: nothing is done for its pools"
        leaves.wait(lambda: told in operator.log.read_text(), "words of it", seconds=90)
        leaves.kubectl("apply", "-f", "-", input=binding)
        leaves.wait(lambda: len(leaves.uids()) == 2, "a second engine")
        assert leaves.uids().items() >= before.items()
        for pool in (stays, leaves):
            pool.delete()  # the node has no room for more


def test_an_operator_that_may_not_see_nodes_works_without_them(plane):
    with InstalledOperator(plane, namespaces=["blind"]) as operator:
        pool = PoolUnderTest(plane, plane.namespace("blind"))
        pool.apply(replicas=1)
        pool.wait_ready()
        assert "no access to nodes" in operator.log.read_text()
        assert operator.is_permitted()
        plane.kubectl("delete", "role", "sglang-operator-lease", f"--namespace={NAMESPACE}")
        assert not operator.is_permitted()
