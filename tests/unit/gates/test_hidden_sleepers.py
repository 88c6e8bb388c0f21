"""Who sleeps is on record by its pod, however long nothing else tells of it."""

import dataclasses

from sglang_operator.children import trainer_registry
from sglang_operator.observed.model import Gate
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import a_lease_saying, a_pod, a_pool, weighed


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
