"""Of what anybody may write under the operator's label, little is kept."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.children import engine_pod, kinds
from sglang_operator.cluster.child_store import ChildStore, child_store
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.kube import keeping
from sglang_operator.kube.decoding import Decoder
from sglang_operator.observed import wire
from sglang_operator.observed.moment import Moment
from tests.builders import a_pool

POOL = "actor-infer"
KEY = PoolKey("rl", POOL)
OURS = {"kind": names.KIND, "name": POOL, "uid": "pool-uid", "controller": True}
DATA = {"config.json": "x" * 100_000}


class Pools(set[tuple[str, str, str]]):
    """The pools that are known."""

    def __call__(self, namespace: str, name: str, uid: str) -> bool:
        return (namespace, name, uid) in self


def known() -> Pools:
    return Pools({("rl", POOL, "pool-uid")})


def child(name=f"{POOL}-engines", version=1, owner: Any = OURS, **fields: Any) -> wire.Child:
    metadata = {
        "name": name,
        "namespace": "rl",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": {names.LABEL_POOL: POOL, "more": "x"},
        "annotations": {"any": "thing"},
        "ownerReferences": [owner] if owner else [],
    }
    return msgspec.convert({"metadata": metadata, **fields}, wire.Child)


def body(store: ChildStore, name=f"{POOL}-engines") -> Mapping[str, Any]:
    return dict(store.of(KEY))[name].body


def test_a_pools_own_child_is_kept_whole():
    store = child_store("ConfigMap", lambda key, urgent: None, known())
    store.put(child(data=DATA))
    assert body(store)["data"] == DATA


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        (f"{POOL}-engines", None),
        (f"{POOL}-engines", {**OURS, "kind": "Deployment"}),
        (f"{POOL}-engines", {**OURS, "controller": False}),
        ("another", OURS),
        (f"{POOL}-weights", OURS),
    ],
)
def test_of_what_only_says_so_it_is_known_that_it_is_there_and_whose(name, owner):
    store = child_store("ConfigMap", lambda key, urgent: None, known())
    store.put(child(name, owner=owner, data=DATA))
    seen = dict(store.of(KEY))[name]
    assert "data" not in seen.body
    assert seen.uid == f"uid-{name}"
    is_ours = bool(owner) and owner["kind"] == names.KIND and owner["controller"]
    assert seen.owner == (owner["uid"] if owner and owner["controller"] else None)
    assert seen.owner_pool == (POOL if is_ours else "")


def test_children_that_come_before_their_pool_are_kept_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(keeping, "UNCONFIRMED_BYTES", 150_000)
    pools = Pools()
    store = child_store("Service", lambda key, urgent: None, pools)
    first, second = child(POOL, spec={"a": "x" * 100_000}), child(spec={"a": "x" * 100_000})
    store.put(first)
    store.put(second)
    assert "spec" in body(store, POOL)
    assert "spec" not in body(store)
    pools.add(("rl", POOL, "pool-uid"))
    store.put(second)  # the answer to a write that changed nothing
    assert "spec" in body(store)


def test_what_becomes_known_makes_room_for_others(monkeypatch):
    monkeypatch.setattr(keeping, "UNCONFIRMED_BYTES", 150_000)
    pools = Pools()
    store = child_store("Service", lambda key, urgent: None, pools)
    store.put(child(POOL, spec={"a": "x" * 100_000}))
    pools.add(("rl", POOL, "pool-uid"))
    store.put(child("b", owner={**OURS, "name": "b"}, spec={"a": "x" * 100_000}))
    assert "spec" in dict(store.of(PoolKey("rl", "b")))["b"].body


def test_hundreds_of_large_objects_of_a_namespace_without_a_pool_take_no_memory():
    store = child_store("ConfigMap", lambda key, urgent: None, Pools())
    decoder = Decoder(wire.Child)
    for number in range(200):
        owner = {**OURS, "name": f"p{number}"}
        made = child(f"p{number}-engines", owner=owner, data={"a": "x" * 1_000_000})
        store.put(decoder.object(msgspec.json.encode(made)))
    kept = [
        observed.body.get("data", {})
        for number in range(200)
        for _, observed in store.of(PoolKey("rl", f"p{number}"))
    ]
    assert len(kept) == 200
    assert sum(len(value) for data in kept for value in data.values()) <= keeping.UNCONFIRMED_BYTES


def test_what_is_kept_of_known_pools_children_has_a_bound_by_namespace():
    """A pool is a word of sixty bytes, and of one that is refused nobody writes over a registry."""
    pools = Pools({("rl", f"p{number}", "pool-uid") for number in range(100)})
    pools.add(("other", "p0", "pool-uid"))
    store = child_store("ConfigMap", lambda key, urgent: None, pools)

    def put(number: int, version: int, size: int, namespace: str = "rl") -> None:
        owner = {**OURS, "name": f"p{number}"}
        made = child(f"p{number}-engines", version, owner, data={"a": "x" * size})
        meta = msgspec.structs.replace(made.metadata, namespace=namespace)
        store.put(msgspec.structs.replace(made, metadata=meta))

    def sizes() -> list[int]:
        return [
            len(seen.body.get("data", {}).get("a", ""))
            for number in range(100)
            for _, seen in store.of(PoolKey("rl", f"p{number}"))
        ]

    for number in range(100):
        put(number, 1, 1_000_000)
    assert len(sizes()) == 100
    assert 1_000_000 < sum(sizes()) <= kinds.REGISTRY.most_bytes
    put(0, 1, 1_000_000, "other")  # of which the others know nothing
    assert len(dict(store.of(PoolKey("other", "p0")))["p0-engines"].body["data"]["a"]) == 1_000_000
    for number in range(99):  # what becomes small makes room
        put(number, 2, 10)
    put(99, 2, 1_000_000)
    assert sum(sizes()) == 1_000_000 + 99 * 10


def test_small_values_count_for_what_they_take_in_memory():
    pools = Pools({("rl", f"p{number}", "pool-uid") for number in range(100)})
    store = child_store("ConfigMap", lambda key, urgent: None, pools)
    for number in range(100):
        owner = {**OURS, "name": f"p{number}"}
        store.put(child(f"p{number}-engines", owner=owner, data={f"{k}": "" for k in range(9_000)}))
    whole = sum(
        "data" in seen.body
        for number in range(100)
        for _, seen in store.of(PoolKey("rl", f"p{number}"))
    )
    assert 0 < whole < 30


def test_of_a_pods_own_keys_no_more_is_kept_than_can_be_meant():
    long = "9" * 200_000
    written = {
        "metadata": {
            "name": "p",
            "resourceVersion": "7",
            "labels": {names.LABEL_POOL: POOL, f"{names.GROUP}/junk": "x"},
            "annotations": {f"{names.GROUP}/junk": long, names.ANNOTATION_ATTEMPT: long},
        }
    }
    pod = Decoder(wire.Pod).object(json.dumps(written).encode())
    assert pod.metadata.labels == {names.LABEL_POOL: POOL}
    assert list(pod.metadata.annotations) == [names.ANNOTATION_ATTEMPT]
    assert len(pod.metadata.annotations[names.ANNOTATION_ATTEMPT]) < 100
    assert wire.observed_pod(pod, Moment(0.0, 0.0)).attempt == 0


def test_a_pods_foreign_labels_and_annotations_are_dropped_as_it_is_decoded():
    written = {
        "metadata": {
            "name": "p",
            "resourceVersion": "7",
            "labels": {names.LABEL_POOL: POOL, names.LABEL_COMPONENT: "engine", "team": "rl"},
            "annotations": {names.ANNOTATION_ATTEMPT: "3", "note": "x" * 200_000},
        }
    }
    pod = Decoder(wire.Pod).object(json.dumps(written).encode())
    assert pod.metadata.labels == names.selector(POOL)
    assert pod.metadata.annotations == {names.ANNOTATION_ATTEMPT: "3"}
    event = Decoder(wire.Pod).event(json.dumps({"type": "ADDED", "object": written}).encode())
    assert event.object == pod


def test_news_of_thousands_of_nodes_are_told_in_no_time():
    """Each looked at every pod and every node: seven seconds in which nothing else was done."""
    pods = PodStore(lambda key, urgent: None)
    woken: list[PoolKey] = []
    nodes = NodeStore(lambda name: woken.extend(pods.pools_on(name)))
    for number in range(4000):
        owner = wire.OwnerReference(kind=names.KIND, name=f"p{number}", uid="o", controller=True)
        meta = wire.Meta(
            name=f"p{number}-g0-0",
            namespace="rl",
            uid=f"u{number}",
            resource_version="1",
            owner_references=[owner],
        )
        pods.put(wire.Pod(metadata=meta, spec=wire.PodSpec(node_name=f"n{number % 2000}")))
    listed = [
        wire.NodeObject(
            metadata=wire.Meta(name=f"n{number}", uid=f"n{number}", resource_version="1")
        )
        for number in range(2000)
    ]
    calls = 0

    def counting(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(counting)
    try:
        nodes.replace("", listed, 9)
    finally:
        sys.setprofile(None)
    assert len(woken) == 4000
    assert calls < 150 * len(listed), "work that grows with nodes times pods"


def test_a_pod_is_found_on_the_node_where_it_is_now():
    pods = PodStore(lambda key, urgent: None)
    owner = wire.OwnerReference(kind=names.KIND, name=POOL, uid="o", controller=True)
    for version, node in (("1", ""), ("2", "a")):
        meta = wire.Meta(
            name=f"{POOL}-g0-0",
            namespace="rl",
            uid="u",
            resource_version=version,
            owner_references=[owner],
        )
        pods.put(wire.Pod(metadata=meta, spec=wire.PodSpec(node_name=node)))
    assert pods.pools_on("a") == {KEY}
    assert pods.pools_on("") == set()
    pods.drop(wire.Pod(metadata=msgspec.structs.replace(meta, resource_version="3")))
    assert pods.pools_on("a") == set()


def test_an_engine_pod_is_seen_the_same_though_little_of_its_containers_is_kept():
    pool = a_pool(num_gpus_per_worker=16, num_gpus_per_node=8, device_mapping="list(range(0,16))")
    template = engine_pod.template(pool)
    body = engine_pod.pod(pool, template, pool.engines[0], 0, 1)
    body["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    own = body["spec"]["containers"][0]
    own["env"] = [*own["env"], {"name": "NVIDIA_VISIBLE_DEVICES", "value": "GPU-a,GPU-b"}]
    sent = msgspec.convert(body, wire.Pod)
    kept = Decoder(wire.Pod).object(json.dumps(body).encode())
    at = Moment(wall=1.0, steady=1.0)
    assert wire.observed_pod(kept, at) == wire.observed_pod(sent, at)
    assert wire.observed_pod(kept, at).nodes == 2
    assert wire.observed_pod(kept, at).gpus_seen == ("GPU-a", "GPU-b")
    assert kept.spec.containers and sent.spec.containers
    assert len(kept.spec.containers[0].args) == 1 < len(sent.spec.containers[0].args)
    assert {each["name"] for each in kept.spec.containers[0].env} <= {
        "NVIDIA_VISIBLE_DEVICES",
        "SGLANG_VLM_CACHE_SIZE_MB",
    }
