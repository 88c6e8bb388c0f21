"""Who sleeps is on record by its pod, however long nothing else tells of it."""

import dataclasses
import json

import pytest

from sglang_operator.api import names, spec
from sglang_operator.children import kept_registry, trainer_registry
from sglang_operator.children.last_known import LastKnown
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
    lost = dataclasses.replace(unseen, phase="Pending")
    assert hidden(pool, lost, asleep=(pod.instance,)) == [pod.name], "a container was seen in it"
    starting = a_pod(pool, engine, phase="Pending")
    for gone in (
        dataclasses.replace(unseen, deleting=True),
        dataclasses.replace(unseen, over=True),
        starting,
    ):
        assert hidden(pool, gone, asleep=(pod.instance,)) == []
    marked = dataclasses.replace(starting, gate=Gate(is_open=False, reason="Sleeping"))
    assert hidden(pool, marked, asleep=(pod.instance,)) == [pod.name]
    # Who puts the pool to sleep has to know of it, too.
    assert hidden(pool, unseen, asleep=(), released=(), phase=Phase.AWAKE) == [pod.name]
    assert hidden(pool, starting, asleep=(), released=(), phase=Phase.AWAKE) == []


def test_a_sleeper_beside_the_pod_that_stands_for_its_engine_is_named():
    pool = a_pool(replicas=1)
    (engine,) = pool.running
    sleeper = a_pod(pool, engine, container_id="containerd://a", containers_ready=False)
    other = a_pod(pool, engine, 1, container_id="containerd://b")
    assert hidden(pool, sleeper, other) == [sleeper.name]
    assert hidden(pool, sleeper, other, woken=frozenset({f"{sleeper.instance}/kv_cache"})) == []


def test_the_mark_of_a_sleeper_stays_while_kubelet_tells_of_no_container():
    """Who believes the pod, should the Lease be lost, kills the engine with what an awake one
    bears."""
    pool = a_pool(replicas=1, weights={"gate": "Committed"})
    (engine,) = pool.running
    gate = Gate(is_open=False, reason="Sleeping", released=frozenset({"kv_cache"}))
    pod = a_pod(pool, engine, container_id="containerd://a", gate=gate)
    asleep = (str(pod.instance),)
    current = Transaction(id="t1", phase=Phase.SLEEPING, released=("kv_cache",), asleep=asleep)
    first_seen = a_pod(pool, engine, gate=gate)  # by an operator that begins now
    for unseen in (dataclasses.replace(pod, container_id=""), first_seen):
        plan = weighed(pool, [unseen], children=a_lease_saying(pool, current))
        assert not plan.gates


def test_an_engine_beside_the_kept_ones_runs_on_while_kubelet_tells_of_no_container():
    pool = a_pool(replicas=1)
    pod = a_pod(pool, pool.running[0], container_id="containerd://a")
    told = [{"pod": pod.name, "instance": pod.instance}]
    unseen = dataclasses.replace(pod, container_id="", engine_runs=False)
    for now, kept in ((pod, told), (unseen, told), (dataclasses.replace(unseen, over=True), [])):
        assert kept_registry._still(told, Observed(pods=(now,))) == kept


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
        found = kept_registry.kept(
            LastKnown(owner=pool.owner, weights=plan, observed=seen, now=NOW)
        )
        assert found is not None
        return json.loads(found["data"][trainer_registry.ENGINES_KEY]).get("hidden")

    assert kept(pods, pods) is None
    assert kept(unseen, pods) == [pods[1].name]
    assert kept(pods, unseen) is None


@pytest.mark.parametrize("port", [1e30, 70_000, -1, True, "9" * 4000])
def test_a_registry_with_a_port_that_there_is_not_is_not_kept(port):
    pool = a_pool(replicas=1)
    pods = [a_pod(pool, e, container_id=f"containerd://{e.rank}") for e in pool.running]
    lease = a_lease_saying(pool, Transaction())
    told = trainer_registry.registry(pool, weighed(pool, pods, children=lease))
    document = json.loads(told["data"][trainer_registry.ENGINES_KEY])
    for found, is_kept in ((document["port"], True), (port, False)):
        data = {trainer_registry.ENGINES_KEY: json.dumps({**document, "port": found})}
        body = {**told, "data": data}
        child = ObservedChild(uid=names.Uid("cm"), owner=pool.owner.uid, body=body, seen=NOW)
        children = {**lease, ("ConfigMap", names.registry_name(pool.owner.name)): child}
        seen = Observed(pods=tuple(pods), children=children)
        plan = decide.decide(pool.owner, spec.Weights(gate=pool.gate), (), seen, NOW)
        known = LastKnown(owner=pool.owner, weights=plan, observed=seen, now=NOW)
        assert (kept_registry.kept(known) is not None) is is_kept


def test_a_pod_that_loses_its_labels_under_a_refused_spec_is_named():
    """Nobody else tells of it then, and it holds its memory while the pool sleeps."""
    pool = a_pool(replicas=1)
    (pod,) = (a_pod(pool, e, container_id="containerd://a") for e in pool.running)
    seen = Observed(pods=(), aside=(pod,), children=a_lease_saying(pool, Transaction()))
    plan = decide.decide(pool.owner, spec.Weights(gate=pool.gate), (), seen, NOW)
    assert plan.hidden == (pod.name,)
    accepted = weighed(pool, [], aside=(pod,))
    assert accepted.hidden == ()
    assert [each.pod_name for each in accepted.unlisted] == [pod.name]
