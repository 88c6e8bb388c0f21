"""Engines on the GPUs of a RayCluster that KubeRay's own operator makes, and makes again."""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
import yaml

from sglang_operator.api import conditions, names
from sglang_operator.kube import credentials
from sglang_operator.kube.client import ApiClient
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator
from tests.bench.peers.contenders import KubeRay
from tests.integration.pools import Json, PoolUnderTest
from tests.integration.test_colocated import SAMPLES, SHARED, engines_on, is_on, publish_of

WAIT = 120.0
SHM = "/dev/shm"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    if shutil.which("go") is None:
        pytest.skip("`go` is needed to build KubeRay's operator")
    with ControlPlane("4x8") as plane:
        asyncio.run(_install(plane))
        with InstalledOperator(plane) as operator:
            yield plane
        assert " ERROR " not in operator.log.read_text()


async def _install(plane: ControlPlane) -> None:
    async with ApiClient(credentials.load(plane.kubeconfig), user_agent="kuberay") as client:
        await KubeRay(plane).install(client)


@pytest.fixture
def pool(plane: ControlPlane) -> Iterator[PoolUnderTest]:
    pool = PoolUnderTest(plane, plane.namespace("ray"))
    yield pool
    pool.remove()


def run_cluster(pool: PoolUnderTest, workers: int) -> None:
    """A RayCluster whose workers have eight GPUs each, with what how-to/colocate.md asks of them.

    That is what the sample's StatefulSet has in its template.
    """
    sample = (SAMPLES / "trainer.yaml").read_text()
    *account, stateful = yaml.safe_load_all(sample)
    template = stateful["spec"]["template"]
    del template["spec"]["runtimeClassName"]
    (container,) = template["spec"]["containers"]
    for key in ("command", "args"):
        del container[key]  # KubeRay starts Ray
    head = {"spec": {"containers": [{"name": "head", "image": container["image"]}]}}
    size = dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), workers)
    group = {"groupName": "gpus", "rayStartParams": {}, "template": template, **size}
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "trainer"},
        "spec": {
            "rayVersion": "2.52.0",
            "headGroupSpec": {"rayStartParams": {}, "template": head},
            "workerGroupSpecs": [group],
        },
    }
    pool.kubectl("apply", "-f", "-", input=yaml.safe_dump_all([*account, body]))


def workers(pool: PoolUnderTest, count: int) -> list[Json]:
    """The workers' pods by name, once so many run; the head has no GPU, and not the label."""
    path = f"/api/v1/namespaces/{pool.namespace}/pods?labelSelector={names.LABEL_TRAINER}"

    def run() -> list[Json] | None:
        found = [p for p in pool.plane.api.get(path)["items"] if p["spec"].get("nodeName")]
        there = [p for p in found if not p["metadata"].get("deletionTimestamp")]
        return sorted(there, key=_name) if len(there) == count else None

    found: list[Json] = pool.wait(run, f"{count} workers run", WAIT)
    return found


def _name(pod: Json) -> str:
    return str(pod["metadata"]["name"])


def test_engines_join_the_workers_of_a_raycluster_and_follow_when_one_is_made_again(pool):
    pool.apply(device_mapping="list(range(0,16))", num_gpus_per_worker=4, **SHARED)
    run_cluster(pool, 2)
    pods = workers(pool, 2)
    for rank, pod in enumerate(pods):
        assert pod["metadata"]["ownerReferences"][0]["kind"] == "RayCluster"
        mounts = pod["spec"]["containers"][0]["volumeMounts"]
        volume = [each["name"] for each in mounts if each["mountPath"] == SHM]
        assert volume == ["shm"], "KubeRay puts no /dev/shm of its own over what they share"
        publish_of(pool, pod, rank)
    first, second = (pod["spec"]["nodeName"] for pod in pods)
    wanted = {"g0-3": first, "g4-7": first, "g8-11": second, "g12-15": second}
    pool.wait(lambda: is_on(pool, wanted), f"engines are on {wanted}", WAIT)
    kept = pool.uids()

    pool.plane.kubectl("cordon", first)
    pool.kubectl("delete", "pod", _name(pods[0]), "--wait=false", "--grace-period=0", "--force")
    pool.wait(lambda: set(engines_on(pool)) == {"g8-11", "g12-15"}, "its engines are gone", WAIT)
    pool.wait_for(conditions.READY, conditions.SEATS_AWAITED)
    (again,) = (pod for pod in workers(pool, 2) if _name(pod) != _name(pods[1]))
    assert _name(again) != _name(pods[0])
    moved = publish_of(pool, again, 0)["spec"]["nodeName"]
    assert moved not in (first, second)
    pool.wait(lambda: is_on(pool, {**wanted, "g0-3": moved, "g4-7": moved}), "all is well", WAIT)
    assert {n: uid for n, uid in pool.uids().items() if n in ("g8-11", "g12-15")} == {
        n: uid for n, uid in kept.items() if n in ("g8-11", "g12-15")
    }
    pool.plane.kubectl("uncordon", first)

    pool.kubectl("delete", "raycluster", "trainer")
    pool.wait(lambda: not engines_on(pool), "the cluster is gone, and the engines with it", WAIT)
