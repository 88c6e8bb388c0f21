"""Releases of one namespace have a Lease each; what one of them was called before is respected."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import NAMESPACE, InstalledOperator
from tests import releases
from tests.integration.pools import PoolUnderTest

pytestmark = pytest.mark.plane("3x8", operator=False)

LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


@pytest.fixture
def started(plane: ControlPlane) -> Iterator[list[InstalledOperator]]:
    """Operators that are ended, and whose Leases are gone, after the test."""
    operators: list[InstalledOperator] = []
    yield operators
    for operator in operators:
        if operator.pid:
            operator.kill()
    for lease in plane.api.get(LEASES)["items"]:
        plane.api.delete(f"{LEASES}/{lease['metadata']['name']}")


def holder(plane: ControlPlane, lease: str) -> str:
    path = f"{LEASES}/{lease}"
    return plane.api.get(path)["spec"].get("holderIdentity", "") if plane.api.exists(path) else ""


def cli(plane: ControlPlane, *arguments: str) -> str:
    made = subprocess.run(
        [sys.executable, "-m", "sglang_operator.cli.main", *arguments],
        env={
            **os.environ,
            "KUBECONFIG": str(plane.kubeconfig),
            "KUBECTL": str(plane.tools / "kubectl"),
            "COLUMNS": "300",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return made.stdout


def is_replaced(pool: PoolUnderTest) -> None:
    """Somebody acts for it."""
    before = pool.wait_ready()
    pool.kubectl("delete", "pods", f"--selector={names.LABEL_ENGINE}=g0-1", "--wait=false")
    pool.wait(lambda: pool.uids().get("g0-1") not in (None, before["g0-1"]), "a new pod", 20)
    assert pool.wait_ready()["g2-3"] == before["g2-3"]


def test_two_releases_in_one_namespace_act_each_for_its_team(plane, started):
    pools = []
    for team in ("blue", "green"):
        pool = PoolUnderTest(plane, plane.namespace(f"team-{team}"))
        arguments = ["--no-nodes", f"--lease-name={team}-sglang-operator"]
        operator = InstalledOperator(
            plane, namespaces=[pool.namespace], arguments=arguments, name=f"operator-{team}"
        )
        started.append(operator)
        operator.install()
        operator.start()
        pool.apply(replicas=2)
        pools.append(pool)
    for pool in pools:
        pool.wait_ready()
        is_replaced(pool)
    for team in ("blue", "green"):
        assert holder(plane, f"{team}-sglang-operator")
    said = cli(plane, "doctor", "-n", "team-blue")
    assert said.count(f" in {NAMESPACE}") == 2, said
    assert "operators act" not in said
    assert cli(plane, "status", "-n", "team-blue").count(f" in {NAMESPACE}, renewed") == 2
    for pool in pools:
        pool.delete("--wait=false")
        plane.kubectl("delete", "namespace", pool.namespace, "--wait=false")


def test_an_upgrade_to_another_lease_and_a_rollback_never_have_two_leaders(
    plane, started, tmp_path
):
    pool = PoolUnderTest(plane, plane.namespace("rl-released"))
    old = InstalledOperator(plane, name="operator-old", source=releases.earlier(tmp_path).operator)
    lease = "blue-sglang-operator"
    new = InstalledOperator(plane, name="operator-new", arguments=[f"--lease-name={lease}"])
    started += [old, new]
    new.install()
    old.start()
    plane.wait(lambda: holder(plane, names.LEASE_NAME), 20, "the old version to lead")
    pool.apply(replicas=2)
    before = pool.wait_ready()
    new.start()
    until = time.monotonic() + 20  # longer than a term: it is not for silence that it waits
    while time.monotonic() < until:
        assert not holder(plane, lease)
        time.sleep(0.1)

    old.stop()
    assert not holder(plane, names.LEASE_NAME)
    plane.wait(lambda: holder(plane, lease), 10, "the new version to lead")
    assert pool.uids() == before
    is_replaced(pool)

    before = pool.uids()
    old.start()
    plane.wait(lambda: holder(plane, names.LEASE_NAME), 20, "the old version to lead again")
    plane.await_end(new.name, 10)
    assert "serves the same namespaces" in new.log.read_text()
    assert pool.uids() == before
    is_replaced(pool)
