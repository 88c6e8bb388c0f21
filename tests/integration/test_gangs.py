"""Gangs on a real API server: the objects are taken as they are written, and Kubernetes' own
scheduler starts all pods of an engine or none.

The schedulers of Volcano and of scheduler-plugins do not run here: pools that choose these name the
cluster's own, so that their pods start, one by one.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.scheduling import gangs, texts
from sglang_operator.testing import ControlPlane
from sglang_operator.testing.installed import ACCOUNT, NAMESPACE, InstalledOperator, manifests
from tests.builders import guide_spec
from tests.integration.pools import PoolUnderTest

DATA = Path(__file__).parents[1] / "data"
DEFINITIONS = {
    "Volcano": "volcano",
    "KAI": "kai-scheduler",
    "Coscheduling": "scheduler-plugins",
}
OF_TWO_NODES = {"num_gpus_per_worker": 16, "device_mapping": "list(range(0,16))"}
# Off by default in 1.37.
GATE = "--feature-gates=GenericWorkload=true"
FLAGS = {
    "kube-apiserver": [GATE, "--runtime-config=scheduling.k8s.io/v1beta1=true"],
    "kube-controller-manager": [GATE],
    "kube-scheduler": [GATE],
}
QUIET_SECONDS = 3.0


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A plane of its own, for its components have other flags.

    Two nodes, as many as one engine of these pools wants.
    """
    with ControlPlane("2x8", flags=FLAGS) as plane:
        chosen = [f"--gang={each.name}" for each in gangs.GROUPED]
        operator = InstalledOperator(plane, arguments=chosen)
        operator.install()
        for role in sorted((manifests() / "rbac" / "gangs").iterdir()):
            plane.kubectl("apply", "-f", str(role))
            name = f"sglang-operator-gang-{role.stem}"
            account = f"--serviceaccount={NAMESPACE}:{ACCOUNT}"
            plane.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", account)
        operator.start()
        yield plane
        operator.stop()
        assert " ERROR " not in operator.log.read_text()


def groups(pool: PoolUnderTest, declared: Any) -> dict[str, Any]:
    """The pool's PodGroups, by name."""
    told = pool.kubectl("get", declared.groups, "-o", "json")
    return {item["metadata"]["name"]: item for item in json.loads(told)["items"]}


def of(name: str) -> Any:
    return next(each for each in gangs.GROUPED if each.name == name)


def placed(pool: PoolUnderTest) -> int:
    """How many of its pods have nodes."""
    return sum(bool(pod["spec"].get("nodeName")) for pod in pool.pods())


def ready(pool: PoolUnderTest) -> dict[str, Any]:
    return pool.condition(conditions.READY) or {}


def test_two_pools_that_cannot_both_fit_do_not_hold_each_other_up(plane):
    """Without a gang each may get one of the two nodes, and wait for the other for ever."""
    namespace = plane.namespace("both")
    pools = [PoolUnderTest(plane, namespace, name) for name in ("first", "second")]
    for pool in pools:
        pool.apply(**OF_TWO_NODES, scheduling={"gang": "PodGroup"})
    plane.wait(lambda: any(pool.is_ready() for pool in pools), 60, "one of two pools")
    up, waits = sorted(pools, key=lambda pool: not pool.is_ready())
    waits.wait(
        lambda: ready(waits).get("reason") == conditions.WAITING_FOR_GANG, "waiting for its gang"
    )
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        assert (placed(up), placed(waits)) == (2, 0)
        time.sleep(0.2)
    message = ready(waits)["message"]
    assert message.startswith("1 engine waiting until scheduler default-scheduler has room for all")
    assert "(2 pods with 8 nvidia.com/gpu each)" in message
    assert waits.status.get("lastFailures", []) == []
    up.patch({"suspend": True})
    waits.wait(waits.is_ready, "the other pool, once there is room", 60)
    assert placed(waits) == 2
    assert len(groups(waits, of("PodGroup"))) == 1
    # One of its pods goes: the engine goes, and the next try at it is a group of its own.
    waits.kubectl("delete", "pod", waits.pods()[1]["metadata"]["name"], "--wait=false")
    waits.wait(lambda: "-1n" in str([p["metadata"]["name"] for p in waits.pods()]), "another try")
    waits.wait(waits.is_ready, "it again", 60)
    waits.wait(
        lambda: [name[-2:] for name in groups(waits, of("PodGroup"))] == ["-1"], "its group alone"
    )
    for pool in pools:
        pool.delete("--wait=false")
    up.remove()


def test_two_pools_of_which_each_needs_all_nodes_start_one_after_the_other(plane):
    """Engines of one node each: by themselves each pool may get one of two, and wait for ever."""
    namespace = plane.namespace("start")
    pools = [PoolUnderTest(plane, namespace, name) for name in ("first", "second")]
    of_one = {"num_gpus_per_worker": 8, "device_mapping": "list(range(0,16))"}
    for pool in pools:
        pool.apply(**of_one, scheduling={"gang": "PodGroup", "minEngines": 2})
    plane.wait(lambda: any(pool.is_ready() for pool in pools), 60, "one of two pools")
    up, waits = sorted(pools, key=lambda pool: not pool.is_ready())
    waits.wait(
        lambda: ready(waits).get("reason") == conditions.WAITING_FOR_GANG, "waiting for its gang"
    )
    assert "has room for 2 at once (scheduling.minEngines 2; 1 pod" in ready(waits)["message"]
    assert {"first-start-2-0", "second-start-2-0"} == groups(waits, of("PodGroup")).keys()
    # One engine goes: its next try has the node, for the other pool's two do not fit on it.
    gone = up.pods()[0]["metadata"]
    up.kubectl("delete", "pod", gone["name"], "--wait=false")
    up.wait(lambda: gone["uid"] not in {p["metadata"]["uid"] for p in up.pods()}, "it gone")
    up.wait(up.is_ready, "the replacement, by itself", 60)
    assert placed(waits) == 0
    # Fewer than it began with run on, and one node is not enough for the other.
    up.patch({"replicas": 1})
    up.wait(lambda: len(up.pods()) == 1 and up.is_ready(), "one engine alone", 60)
    until = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < until:
        assert (placed(up), placed(waits)) == (1, 0)
        time.sleep(0.2)
    # Who asks for less has it at once, for who waits is made anew.
    waits.patch({"scheduling": {"minEngines": 1}})
    waits.wait(lambda: placed(waits) == 1, "the node that is free", 60)
    for pool in pools:
        pool.delete("--wait=false")
    up.remove()
    waits.remove()


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_groups_are_taken_as_the_projects_definition_has_them(plane, name):
    declared = of(name)
    pool = PoolUnderTest(plane, plane.namespace(f"of-{name.lower()}"))
    asked = {"gang": name, "schedulerName": "default-scheduler"}
    if name == "KAI":
        asked["queueName"] = "gpus"
    pool.apply(**OF_TWO_NODES, scheduling=asked)
    pool.wait(lambda: ready(pool).get("reason") == conditions.GANG_NOT_SERVED, "why it waits", 60)
    assert f"Kubernetes serves no {declared.groups} here" in ready(pool)["message"]
    assert not pool.pods()
    plane.kubectl("apply", "-f", str(DATA / DEFINITIONS[name] / "podgroups.yaml"))
    pool.wait(pool.is_ready, "the pool, once they are served", 90)
    ((found, body),) = groups(pool, declared).items()
    assert found == "actor-infer-g0-15-0"
    assert body["metadata"]["ownerReferences"][0]["name"] == pool.name
    assert body["spec"]["minMember"] == 2
    if name != "KAI":
        assert body["spec"]["minResources"] == {"nvidia.com/gpu": "16"}
    # What the API server had dropped as unknown, it would refuse where it is asked to be strict.
    again = {key: body[key] for key in ("apiVersion", "kind", "spec")}
    text = json.dumps({**again, "metadata": {"name": "strict"}})
    pool.kubectl("create", "--validate=strict", "--dry-run=server", "-f", "-", input=text)
    pool.kubectl("patch", declared.groups, found, "--type=merge", "-p", '{"spec":{"minMember":1}}')
    pool.wait(lambda: groups(pool, declared)[found]["spec"]["minMember"] == 2, "it put right")
    uid = groups(pool, declared)[found]["metadata"]["uid"]
    pool.kubectl("delete", declared.groups, found)
    pool.wait(
        lambda: groups(pool, declared).get(found, {}).get("metadata", {}).get("uid", uid) != uid,
        "it again",
    )
    pool.patch({"suspend": True})
    pool.wait(lambda: not pool.pods() and not groups(pool, declared), "no pod, no group", 60)
    pool.patch({"suspend": False})
    pool.wait(pool.is_ready, "it up again", 60)
    pool.remove()
    pool.wait(lambda: not groups(pool, declared), "its groups gone with the pool", 60)


@pytest.mark.parametrize(
    ("scheduling", "words"),
    [
        ({"gang": "KAI"}, texts.A_KAI_QUEUE),
        (
            {"gang": "PodGroup", "queueName": "q"},
            texts.NOT_OF_GANG.format(gang="PodGroup"),
        ),
        (
            {"gang": "Coscheduling", "queueName": "q"},
            texts.NOT_OF_GANG.format(gang="Coscheduling"),
        ),
        (
            {"gang": "Volcano", "requiredTopology": "rack"},
            "mean nothing with this scheduling.gang, which does not read them; leave them out",
        ),
    ],
    ids=lambda value: value["gang"] if isinstance(value, dict) else "",
)
def test_what_a_gang_does_not_read_is_refused_where_it_is_applied(plane, scheduling, words):
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "wrong", "namespace": "default"},
        "spec": guide_spec(scheduling=scheduling),
    }
    arguments = ("create", "--dry-run=server", "-f", "-")
    told = plane.kubectl(*arguments, input=json.dumps(body), check=False)
    assert told.returncode
    assert words in told.stderr
