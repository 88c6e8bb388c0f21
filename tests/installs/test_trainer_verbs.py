"""The trainer's Role: what the client asks of the API server, it may; less would not do.

No engine is asked for anything: the nodes are KWOK's, whose addresses are somebody else's.
"""

import asyncio
from pathlib import Path

import pytest

from sglang_operator.client import credentials
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import ClusterError
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import InstalledOperator, manifests
from tests.installs.test_verbs import RBAC_API, Pool, Verb, up_and_known, verbs, without

SAMPLE = manifests() / "samples" / "trainer" / "rbac.yaml"
NAMESPACE = "rl"
ROLE_PATH = f"{RBAC_API}/namespaces/{NAMESPACE}/roles/trainer-actor-infer"


async def a_trainers_requests(kubeconfig: Path) -> None:
    """Each kind of request that the client sends; raises ClusterError."""
    cluster = Cluster(credentials.load(kubeconfig), NAMESPACE, "actor-infer")
    try:
        await cluster.registry()
        async with asyncio.timeout(10):
            async for _ in cluster.watch(since=1):
                break
            async for _ in cluster.watch_lease(since=1, begins=lambda: None):
                break
        await cluster.put_lease(await cluster.lease())
    finally:
        await cluster.close()


@pytest.fixture(scope="module")
def plane():
    with ControlPlane("1x8") as plane, InstalledOperator(plane):
        up_and_known(Pool(plane, plane.namespace(NAMESPACE)))
        plane.kubectl("apply", "-f", str(SAMPLE), "-n", NAMESPACE)
        yield plane


def test_the_role_is_enough_and_each_verb_of_it_is_needed(plane):
    kubeconfig = plane.service_account_kubeconfig(NAMESPACE, "trainer")
    shipped = plane.api.get(ROLE_PATH)["rules"]
    asyncio.run(a_trainers_requests(kubeconfig))
    granted = verbs({"rules": shipped})
    assert sorted(granted) == [
        ("configmaps", "get"),
        ("configmaps", "watch"),
        ("leases", "get"),
        ("leases", "update"),
        ("leases", "watch"),
    ]
    for verb in granted:
        plane.api.merge(ROLE_PATH, {"rules": without(shipped, verb)})
        plane.wait(lambda verb=verb: refused(kubeconfig, verb), 10, f"{verb} to be refused")
    plane.api.merge(ROLE_PATH, {"rules": shipped})
    plane.wait(
        lambda: asyncio.run(a_trainers_requests(kubeconfig)) is None, 10, "all to be allowed"
    )


def refused(kubeconfig: Path, verb: Verb) -> bool:
    """Whether the client is refused exactly this verb, and says so."""
    try:
        asyncio.run(a_trainers_requests(kubeconfig))
    except ClusterError as error:
        resource, name = verb
        return f'cannot {name} resource "{resource}"' in str(error)
    return False
