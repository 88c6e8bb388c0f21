"""Who sleeps is on record by its pod, however long nothing else tells of it."""

import dataclasses
import json

from sglang_operator.api import names, spec
from sglang_operator.children import kept_registry, trainer_registry
from sglang_operator.gates import decide
from sglang_operator.observed.model import Gate, Observed, ObservedChild
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, weighed


def hidden(pool, *pods, **state):
    """The pods in which engines may sleep, by the registry: the first one does."""
    asleep = {"phase": Phase.SLEEPING, "released": ("kv_cache",), "asleep": (pods[0].instance,)}
    current = Transaction(id="t1", **{**asleep, **state})
    lease = a_lease_saying(pool, current)
    plan = weighed(pool, list(pods), children=lease)
    told: list[str] = trainer_registry.document(pool, plan).get("hidden", [])
    return told


def test_pods_of_sleepers_are_named_while_no_engine_tells_of_them():
    pool = a_pool(replicas=1)
    (engine,) = pool.running
    pod = a_pod(pool, engine, container_id="containerd://a")
    assert hidden(pool, pod) == []
    unseen = dataclasses.replace(pod, container_id="")
    assert hidden(pool, unseen, asleep=(pod.instance,)) == [pod.name], "it runs, and is not told of"
    for gone in ({"deleting": True}, {"over": True}, {"phase": "Pending"}):
        other = dataclasses.replace(unseen, **gone)
        assert hidden(pool, other, asleep=(pod.instance,)) == []
    marked = dataclasses.replace(
        unseen, phase="Pending", gate=Gate(is_open=False, reason="Sleeping")
    )
    assert hidden(pool, marked, asleep=(pod.instance,)) == [pod.name]
    assert hidden(pool, unseen, asleep=(), released=(), phase=Phase.AWAKE) == []


def test_a_sleeper_beside_the_pod_that_stands_for_its_engine_is_named():
    pool = a_pool(replicas=1)
    (engine,) = pool.running
    sleeper = a_pod(pool, engine, container_id="containerd://a", containers_ready=False)
    other = a_pod(pool, engine, 1, container_id="containerd://b")
    assert hidden(pool, sleeper, other) == [sleeper.name]
    assert hidden(pool, sleeper, other, woken=frozenset({f"{sleeper.instance}/kv_cache"})) == []


def test_they_are_named_anew_while_the_spec_is_refused():
    """A trainer goes by the registry that is kept, whose engines may come and go out of sight."""
    pool = a_pool(replicas=2)
    pods = [a_pod(pool, e, container_id=f"containerd://{e.rank}") for e in pool.running]
    unseen = [pods[0], dataclasses.replace(pods[1], container_id="")]
    asleep = tuple(sorted(pod.instance or "" for pod in pods))
    current = Transaction(phase=Phase.SLEEPING, id="t1", released=("kv_cache",), asleep=asleep)
    lease = a_lease_saying(pool, current)

    def kept(now, before):
        told = trainer_registry.registry(pool, weighed(pool, before, children=lease))
        child = ObservedChild(uid=names.Uid("cm"), owner=pool.owner.uid, body=told, seen=NOW)
        children = {**lease, ("ConfigMap", names.registry_name(pool.owner.name)): child}
        seen = Observed(pods=tuple(now), children=children)
        plan = decide.decide(pool.owner, spec.Weights(gate=pool.gate), (), seen, NOW)
        found = kept_registry.kept(pool.owner, plan, seen, NOW)
        assert found is not None
        return json.loads(found["data"][trainer_registry.ENGINES_KEY]).get("hidden")

    assert kept(pods, pods) is None
    assert kept(unseen, pods) == [pods[1].name]
    assert kept(pods, unseen) is None
