"""The pools of one namespace take no more memory than it has; the oldest of them come first."""

import itertools
import json
import random
import tracemalloc
from typing import Any

import msgspec
import pytest

from sglang_operator.cluster import crowding
from sglang_operator.cluster.stores import PoolKey, PoolStore
from sglang_operator.controller import judging
from sglang_operator.kube import keeping
from sglang_operator.kube.decoding import Decoder
from sglang_operator.observed import wire
from sglang_operator.pool.resolve import Refused
from tests.builders import OWNER, guide_spec

DECODER = Decoder(wire.CustomResource)
VERSIONS = itertools.count(100)
ROOM = 100_000


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    monkeypatch.setattr(crowding, "NAMESPACE_BYTES", ROOM)


class Wakes(list[tuple[PoolKey, bool]]):
    def __call__(self, key: PoolKey, urgent: bool) -> None:
        self.append((key, urgent))


def a_pool(
    name: str, age: int, size: int = 20_000, *, namespace: str = "rl", **fields: Any
) -> wire.CustomResource:
    """A pool that was made so many seconds before 14:00."""
    meta = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": str(fields.pop("version", None) or next(VERSIONS)),
        "generation": fields.pop("generation", 1),
        "creationTimestamp": f"2026-01-01T13:{59 - age // 60:02}:{59 - age % 60:02}Z",
    }
    body = {"metadata": meta, "spec": {"image": "x" * size}, **fields}
    return DECODER.object(json.dumps(body).encode())


def whole(store: PoolStore, namespace: str = "rl") -> list[str]:
    """The names of the pools that are kept whole."""
    records = {key.name: store.get(key) for key in store.known() if key.namespace == namespace}
    return sorted(name for name, record in records.items() if record and not record.left_out)


def read_again(store: PoolStore, *pools: wire.CustomResource) -> None:
    """What the passes do with those that have room now."""
    for pool in pools:
        if store.to_be_read(PoolKey(pool.metadata.namespace, pool.metadata.name)):
            store.put(pool)


def test_the_oldest_that_fit_are_kept_whole_in_whatever_order_they_are_heard_of():
    pools = [a_pool(f"p{age}", age) for age in range(10)]
    for seed in range(20):
        store = PoolStore(Wakes())
        shuffled = random.Random(seed).sample(pools, len(pools))
        for pool in shuffled:
            store.put(pool)
        read_again(store, *shuffled)
        assert whole(store) == ["p6", "p7", "p8", "p9"]


def test_a_list_by_name_ends_with_the_oldest_too():
    pools = [a_pool(f"p{age}", age) for age in range(10)]
    store = PoolStore(Wakes())
    store.replace("", [store.kept(pool) for pool in pools], 10**6)
    assert len(whole(store)) <= 4
    assert [key.name for key in store.known() if store.to_be_read(key)]
    read_again(store, *pools)
    assert whole(store) == ["p6", "p7", "p8", "p9"]


def test_a_list_that_comes_in_never_holds_more_than_fits():
    store = PoolStore(Wakes())
    for _ in range(3):  # a list that broke off begins anew
        kept = [store.kept(a_pool(f"p{age:02}", age)) for age in range(50)]
        assert sum(not pool.left_out for pool in kept) == 4
    store.replace("", kept, 10**6)
    assert not store.kept(a_pool("p49", 49)).left_out


def test_another_namespace_has_its_own_room():
    store = PoolStore(Wakes())
    for age in range(10):
        store.put(a_pool(f"p{age}", age))
    store.put(a_pool("other", 0, namespace="other"))
    assert whole(store, "other") == ["other"]


def test_who_has_no_room_is_told_so_and_keeps_what_was_told_of_it():
    wakes = Wakes()
    store = PoolStore(wakes)
    status = {"resolved": {"gate": "Committed"}, "conditions": []}
    store.put(a_pool("young", 0, status=status))
    for age in range(1, 5):
        wakes.clear()
        store.put(a_pool(f"p{age}", age))
    record = store.get(PoolKey("rl", "young"))
    assert record is not None
    assert record.left_out
    assert record.status == status
    assert (PoolKey("rl", "young"), False) in wakes
    refused = judging.judge(OWNER, record, None)
    assert isinstance(refused, Refused)
    (problem,) = refused.problems
    assert problem.message == (
        "the object is not looked at: the older pools of its namespace take all of the 32 MiB of "
        "memory that the operator has for one namespace; expected pools that are fewer, or "
        "smaller; delete pools that nobody needs, take out what no engine needs, or use another "
        "namespace; the engines that run stay as they are"
    )


def test_of_a_large_status_the_gate_is_kept_of_who_has_no_room():
    record = a_pool("p", 0, status={"resolved": {"gate": "Committed"}, "more": "x" * 100_000})
    assert crowding.left_out(record).status == {"resolved": {"gate": "Committed"}}


def test_no_pool_takes_a_namespace_by_itself(monkeypatch):
    monkeypatch.setattr(crowding, "NAMESPACE_BYTES", 32 * 2**20)
    for name, body in (
        ("commas", {"spec": {"image": "," * 120_000, "data_args": {"a": "," * 120_000}}}),
        ("status", {"status": {"resolved": {"gate": "Off"}, "x": [{}] * 150_000}}),
    ):
        store = PoolStore(Wakes())
        meta = {"name": name, "namespace": "rl", "uid": name, "resourceVersion": "1"}
        store.put(DECODER.object(json.dumps({"metadata": meta, **body}).encode()))
        record = store.get(PoolKey("rl", name))
        assert record is not None
        assert not record.left_out
        assert crowding.weight(record) < 32 * 2**20 / 8


def test_room_that_is_given_back_goes_to_the_next_in_age():
    wakes = Wakes()
    store = PoolStore(wakes)
    pools = [a_pool(f"p{age}", age) for age in range(6)]
    for pool in pools:
        store.put(pool)
    assert whole(store) == ["p2", "p3", "p4", "p5"]
    wakes.clear()
    store.drop(pools[4])
    assert (PoolKey("rl", "p1"), False) in wakes
    assert [key.name for key in store.known() if store.to_be_read(key)] == ["p1"]
    read_again(store, *pools)
    assert whole(store) == ["p1", "p2", "p3", "p5"]


def test_who_grows_leaves_the_youngest_out_and_gets_room_again_when_it_shrinks():
    store = PoolStore(Wakes())
    pools = [a_pool(f"p{age}", age) for age in range(4)]
    for pool in pools:
        store.put(pool)
    assert len(whole(store)) == 4
    store.put(a_pool("p3", 3, 45_000, generation=2))
    assert whole(store) == ["p2", "p3"] or whole(store) == ["p1", "p2", "p3"]
    store.put(a_pool("p3", 3, generation=3))
    read_again(store, *pools)
    assert whole(store) == ["p0", "p1", "p2", "p3"]


def test_an_answer_to_our_own_write_brings_nothing_back_of_who_has_no_room():
    store = PoolStore(Wakes())
    for age in range(5):
        store.put(a_pool(f"p{age}", age))
    store.put(a_pool("p0", 0, status={"conditions": []}))
    record = store.get(PoolKey("rl", "p0"))
    assert record is not None
    assert record.left_out
    assert not store.to_be_read(PoolKey("rl", "p0"))


def test_any_order_of_events_ends_as_their_ages_say():
    """Against the rule said plainly: the oldest, until one does not fit."""
    for seed in range(60):
        chance = random.Random(seed)
        store, present = PoolStore(Wakes()), dict[str, wire.CustomResource]()
        for _ in range(60):
            name = f"p{chance.randrange(12)}"
            if chance.random() < 0.25 and name in present:
                store.drop(present.pop(name))
                continue
            age = int(name[1:]) * 7 % 12
            size = chance.choice((1_000, 20_000, 50_000))
            present[name] = a_pool(name, age, size)
            store.put(present[name])
        read_again(store, *present.values())
        read_again(store, *present.values())
        expected, total = [], 0
        for pool in sorted(present.values(), key=lambda p: p.metadata.creation_timestamp or 0):
            total += crowding.weight(pool)
            if total > ROOM:
                break
            expected.append(pool.metadata.name)
        assert whole(store) == sorted(expected)


def test_the_memory_of_a_full_namespace_is_what_is_promised(monkeypatch):
    monkeypatch.setattr(crowding, "NAMESPACE_BYTES", 8 * 2**20)
    large = guide_spec(system_envs={f"A{n}": "x" * 300 for n in range(900)})
    text = json.dumps(large)
    store = PoolStore(lambda key, urgent: None)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for age in range(300):
        written = f'"name": "p{age}", "uid": "{age}", "resourceVersion": "{age + 1}"'
        body = f'{{"metadata": {{"namespace": "rl", {written}}}, "spec": {text}}}'
        store.put(DECODER.object(body.encode()))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(whole(store)) < 40
    assert used < 12 * 2**20


def test_many_pools_over_the_bound_cost_little_each():
    store = PoolStore(lambda key, urgent: None)
    for age in range(3_000):
        store.put(keeping.of_pool(msgspec.structs.replace(a_pool(f"p{age:05}", 0, 100), status={})))
    assert 0 < len(whole(store)) < 50
