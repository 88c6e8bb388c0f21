"""Releases under running pools: no engine notices, and nothing hangs.

The nodes are KWOK's, so the operator's pods only look as if they ran; beside them the operator
runs as a process with the ServiceAccount that the release made.
"""

import base64
import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from generators.chart.generated import CHART
from sglang_operator.api import names
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests import collecting, releases
from tests.integration.chart.helm import IMAGE, NAMESPACE, RELEASE, Helm, programs
from tests.integration.pools import PoolUnderTest

SECRET_LIMIT = 1024 * 1024  # of etcd objects, and so of a release


@pytest.fixture(scope="module")
def plane():
    with plane_for_releases() as plane:
        yield plane


@contextlib.contextmanager
def plane_for_releases() -> Iterator[ControlPlane]:
    """A plane of its own, for releases remove the definition.

    Its namespace for the operator enforces Pod Security.
    """
    # Room for each test's pool: after a definition went and came, garbage collection learns of it
    # up to 30 s later, and until then the pods of a deleted pool keep their GPUs.
    with ControlPlane("8x8") as plane:
        plane.api.post(
            "/api/v1/namespaces",
            {
                "metadata": {
                    "name": NAMESPACE,
                    "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                }
            },
        )
        plane.namespace(NAMESPACE)
        yield plane


@pytest.fixture
def helm(plane, tmp_path):
    return Helm(programs()["helm4"], tmp_path, {"KUBECONFIG": str(plane.kubeconfig)})


def in_namespace(helm: Helm, command: str, *arguments: str) -> str:
    return helm(command, RELEASE, *arguments, f"--namespace={NAMESPACE}")


def definition(plane: ControlPlane):
    return plane.api.get(
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
    )


def exists(plane: ControlPlane) -> bool:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{names.CRD_NAME}"
    return plane.api.exists(path)


def test_an_upgrade_a_rollback_and_a_removal_leave_every_engine_alone(plane, helm, tmp_path):
    """With Helm 4; Helm 3 has its turn in ``tests/installs``."""
    live_through_releases(plane, helm, tmp_path)


def live_through_releases(plane: ControlPlane, helm: Helm, folder: Path) -> None:
    """A pool of twelve engines while the operator comes, changes, goes back, goes, and returns."""
    pool = PoolUnderTest(plane, plane.namespace("rl-upgraded"))
    earlier, later = releases.earlier(folder), releases.later(folder)
    old = InstalledOperator(plane, source=earlier.operator)
    new = InstalledOperator(plane, source=later.operator)
    in_namespace(helm, "install", str(earlier.chart), "--wait")
    old.start()
    pool.apply()
    before = pool.wait_ready()
    assert len(before) == 12

    in_namespace(helm, "upgrade", str(later.chart), IMAGE, "--wait")
    assert releases.has_added_field(definition(plane))
    old.stop()
    new.start()
    pool.patch({releases.ADDED_FIELD: "new"})
    assert pool.wait_ready() == before

    in_namespace(helm, "rollback", "1", "--wait")
    assert not releases.has_added_field(definition(plane))
    new.stop()
    old.start()
    pool.patch({"num_gpus_per_node": 8})  # says what was so before
    assert pool.wait_ready() == before

    old.stop()
    in_namespace(helm, "uninstall", "--wait")
    assert exists(plane)  # crds.keep
    assert pool.uids() == before

    in_namespace(helm, "install", str(CHART), IMAGE, "--wait")  # takes the definition that was kept
    new.start()
    pool.patch({"num_gpus_per_node": None})
    assert pool.wait_ready() == before
    new.stop()
    in_namespace(helm, "uninstall", "--wait")
    pool.delete("--wait")


def test_a_release_that_does_not_keep_the_definition_takes_its_pools_along(plane, helm):
    pool = PoolUnderTest(plane, plane.namespace("rl-removed"))
    options = (IMAGE, "--set=crds.keep=false", "--wait")
    in_namespace(helm, "upgrade", "--install", str(CHART), *options)
    operator = InstalledOperator(plane)
    operator.start()
    pool.apply(replicas=2)
    pool.wait_ready()
    collecting.teach(plane)
    in_namespace(helm, "uninstall", "--wait", "--timeout=60s")
    operator.stop()  # as its pods are; without its roles it would end by itself
    plane.wait(lambda: not exists(plane), 30, "the definition to go")
    plane.wait(lambda: pool.all_pods() == [], 60, "the pods to go")


def test_a_release_with_everything_in_it_fits_into_its_secret(plane, helm):
    values = CHART / "ci" / "everything-values.yaml"
    plane.namespace("rl")
    kinds = ("podMonitor", "engines", "rules")  # there is no Prometheus operator here
    off = [f"--set=metrics.{kind}.enabled=false" for kind in kinds]
    in_namespace(helm, "install", str(CHART), f"--values={values}", *off)
    secrets = plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]
    releases = [s for s in secrets if s["type"] == "helm.sh/release.v1"]
    (release,) = [s for s in releases if s["metadata"]["labels"]["status"] == "deployed"]
    # Each SGLang version's policy adds some 50 KB: with four more they need a chart of their own.
    assert len(json.dumps(release)) < SECRET_LIMIT * 0.75
    inner = json.loads(
        gzip.decompress(base64.b64decode(base64.b64decode(release["data"]["release"])))
    )
    assert inner["name"] == RELEASE
    in_namespace(helm, "uninstall", "--wait")
