"""The pods of one attempt at an engine, taken as one."""

from typing import Any

import msgspec
import pytest

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.clocks import moment
from sglang_operator.cluster.stores import PodStore, PoolKey
from sglang_operator.observed import groups, wire
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Gate, ObservedPod
from tests.builders import a_pod, a_pool

POOL = a_pool(device_mapping="[0,1]")
ENGINE = POOL.engines[0]
UP, STARTING, PENDING = Health.UP, Health.STARTING, Health.PENDING


def member(rank: int, attempt: int = 0, **changes: Any) -> ObservedPod:
    """One of two pods that an engine runs in."""
    name = f"engine-{attempt}-{rank}"
    values = {"name": name, "uid": f"uid-{name}", "nodes": 2, "node_rank": rank, **changes}
    return a_pod(POOL, ENGINE, attempt, **values)


def pair(leader: dict[str, Any] | None = None, follower: dict[str, Any] | None = None) -> Group:
    (group,) = groups.of([member(1, **follower or {}), member(0, **leader or {})])
    return group


def test_a_pod_by_itself_is_a_group_of_one():
    pods = [a_pod(POOL, ENGINE, attempt) for attempt in (0, 1)]
    assert [group.members for group in groups.of(pods)] == [(pods[0],), (pods[1],)]
    assert all(group.whole and group.leader is group.first for group in groups.of(pods))


def test_pods_of_one_attempt_are_one_group_with_its_leader_first():
    old, new = groups.of([member(1, 0), member(1, 1), member(0, 1), member(0, 0)])
    assert [pod.node_rank for pod in old.members] == [0, 1]
    assert (old.attempt, new.attempt) == (0, 1)


def test_a_group_without_its_leader_reaches_nobody():
    (group,) = groups.of([member(1, ready=True, gate=Gate(is_open=True))])
    assert not group.whole
    assert group.leader is None
    assert not (group.ready or group.let_in or group.gated)
    assert group.instance is None


def test_the_gate_is_the_leader_s():
    group = pair(leader={"gated": False, "ready": True}, follower={"gated": True})
    assert group.ready
    assert not group.gated


@pytest.mark.parametrize(
    ("leader", "follower", "stands"),
    [
        (UP, UP, UP),
        (UP, STARTING, STARTING),
        (PENDING, STARTING, PENDING),
        (UP, Health.ENDED, Health.ENDED),
        (Health.DYING, Health.ENDED, Health.ENDED),
        (Health.LOST, Health.DYING, Health.LOST),
        (UP, Health.DYING, Health.DYING),
    ],
)
def test_what_becomes_of_one_becomes_of_all(leader, follower, stands):
    group = pair()
    of_pods = dict(zip((pod.uid for pod in group.members), (leader, follower), strict=True))
    assert groups.health(group, of_pods) is stands


def test_a_group_that_is_not_whole_is_not_up():
    (group,) = groups.of([member(0)])
    assert groups.health(group, {group.first.uid: UP}) is STARTING


def test_the_run_of_a_group_is_that_of_all_its_containers():
    runs = [
        pair({"container_id": leader}, {"container_id": follower}).instance
        for leader, follower in (("a", "b"), ("a", "c"), ("d", "b"))
    ]
    assert len({*runs}) == 3
    assert pair({"container_id": "a"}).instance is None


def test_the_first_end_is_the_one_that_was_seen_first():
    ended = {"over": True, "phase": "Failed"}
    group = pair({**ended, "ended_at": 20.0}, {**ended, "ended_at": 10.0})
    assert group.first_end.node_rank == 1
    assert group.ended


def test_the_lives_in_pods_are_those_of_the_groups_that_they_are():
    alone = member(0, nodes=1)
    both = (member(0), member(1))
    found = groups.runs((both[0], alone, both[1]))
    told = {(each.revision, each.instance) for each in found}
    assert len(found) == 2
    assert told == {(each.revision, each.instance) for each in groups.of((alone, *both))}


def test_what_is_made_as_one_engine_is_seen_as_one():
    """Through the API server's own form, and the store that tells whose a pod is."""
    pool = a_pool(num_gpus_per_worker=16, device_mapping="list(range(0,16))")
    store = PodStore(lambda key, urgent: None)
    for node_rank in (1, 0):
        made = engine_pod.pod(
            pool, engine_pod.template(pool), pool.engines[0], 2, node_rank=node_rank
        )
        made["metadata"] |= {"uid": f"uid-{node_rank}", "resourceVersion": "7"}
        store.put(msgspec.convert(made, wire.Pod))
    entries = list(store.of(PoolKey("rl", "actor-infer")))
    assert not any(entry.aside for entry in entries), "Services choose leaders, we know both"
    (group,) = groups.of(entry.pod for entry in entries)
    assert group.whole
    assert (group.engine, group.attempt, group.devices) == ("g0-15", 2, tuple(range(16)))
    assert [pod.gated for pod in group.members] == [True, False]


def test_of_how_many_pods_an_engine_is_says_what_they_were_started_with():
    """And which attempt it is says their name: annotations can be edited."""
    pool = a_pool(num_gpus_per_worker=24, device_mapping="list(range(0,24))")
    seen = []
    for node_rank in range(3):
        made = engine_pod.pod(
            pool, engine_pod.template(pool), pool.engines[0], 2, node_rank=node_rank
        )
        notes = made["metadata"]["annotations"]
        notes |= {names.ANNOTATION_NODES: "7", names.ANNOTATION_ATTEMPT: "9"}
        made["metadata"] |= {"uid": f"uid-{node_rank}", "resourceVersion": "7"}
        seen.append(wire.observed_pod(msgspec.convert(made, wire.Pod), moment()))
    (group,) = groups.of(seen)
    assert (group.size, group.attempt, group.whole) == (3, 2, True)


def test_a_pod_without_a_node_rank_in_its_name_is_one_engine_whatever_it_is_told():
    assert names.nodes_of("pool-g0-0", 2) == 1
    assert names.nodes_of("pool-g0-0n4", 2) == 5, "there are others before it"
