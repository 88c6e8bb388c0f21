"""What is known of nodes says something of the present, or nothing."""

import time
from datetime import UTC, datetime

import msgspec
import pytest

from sglang_operator.cluster import node_store
from sglang_operator.cluster.node_store import STALE_SECONDS, NodeStore
from sglang_operator.memory import cards
from sglang_operator.observed import health, wire
from sglang_operator.observed.moment import Moment
from tests.builders import NOW, a_pod, a_pool, planned


def a_node(version="4", status="Unknown", since=NOW - 3600, name="gpu-node-0"):
    at = datetime.fromtimestamp(since, UTC)
    ready = wire.PodCondition(type="Ready", status=status, last_transition_time=at)
    meta = wire.Meta(name=name, uid="n", resource_version=version)
    return wire.NodeObject(metadata=meta, status=wire.NodeStatus(conditions=[ready]))


@pytest.fixture
def store():
    made = NodeStore(lambda name: None)
    made.replace("", [a_node()], 5)
    return made


def removed(store):
    """How many engines go that are up and serve on that node."""
    pool = a_pool()
    pods = [a_pod(pool, engine, ready=True) for engine in pool.running]
    return len(planned(pool, pods, nodes=store.known).removals)


def test_a_node_that_is_heard_to_be_lost_takes_its_engines_along(store):
    assert removed(store) == len(a_pool().running)


def test_nodes_that_may_not_be_read_any_more_take_no_engine_along(store):
    """They stayed as last seen: a node that was well again lost its engines, again and again."""
    store.refused()
    assert store.known is None
    assert removed(store) == 0
    store.replace("", [a_node("6", "True")], 7)
    assert store.known is not None
    assert removed(store) == 0


def test_nodes_of_which_nothing_is_heard_take_no_engine_along(store):
    store.age = lambda: STALE_SECONDS + 1
    assert removed(store) == 0
    store.age = lambda: 1.0
    assert removed(store) == len(a_pool().running)


class Seen:
    """A store whose clock a test sets, and what it said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.readable = 1000.0, 0
        monkeypatch.setattr(node_store, "steady", lambda: self.now)
        monkeypatch.setattr(node_store, "moment", lambda: Moment(NOW, self.now))
        self.store = NodeStore(lambda name: None, self.said)

    def said(self) -> None:
        self.readable += 1

    @property
    def since(self) -> float:
        return self.store.nodes["gpu-node-0"].unready


@pytest.fixture
def seen(monkeypatch):
    return Seen(monkeypatch)


def test_a_node_is_not_ready_since_we_saw_it_so(seen):
    """Its stamp is of an hour ago, by a clock that may be wrong."""
    seen.store.replace("", [a_node("4")], 5)
    seen.now += 7
    seen.store.put(a_node("6"))  # a heartbeat, or a label
    assert seen.since == 1000


def test_one_that_was_ready_in_between_begins_anew(seen):
    seen.store.put(a_node("4"))
    seen.now += 7
    seen.store.put(a_node("5", "True"))
    assert seen.since == 0
    seen.store.put(a_node("6"))
    assert seen.since == 1007


def test_one_that_was_ready_unseen_begins_anew(seen):
    """Between two lists it came and went: it changed."""
    seen.store.put(a_node("4"))
    seen.now += 7
    seen.store.replace("", [a_node("6", since=NOW - 60)], 7)
    assert seen.since == 1007


def test_after_a_silence_of_the_stream_the_wait_begins_anew_and_pools_are_woken(seen):
    """The first line that comes may be of another node: what this one is now nobody has seen."""
    seen.store.replace("", [a_node("4")], 5)
    assert seen.readable == 1
    seen.now += STALE_SECONDS
    seen.store.heard(STALE_SECONDS - 1)
    assert (seen.since, seen.readable) == (1000, 1)
    seen.store.heard(STALE_SECONDS)
    assert (seen.since, seen.readable) == (1000 + STALE_SECONDS, 2)


def test_nodes_that_may_be_read_again_wake_pools_though_none_changed(seen):
    seen.store.replace("", [a_node("4")], 5)
    seen.store.refused()
    seen.store.refused()
    assert seen.readable == 2  # that they are not known any more is told once
    seen.now += 50
    seen.store.replace("", [a_node("4")], 5)
    assert (seen.since, seen.readable) == (1050, 3)


def test_a_node_that_is_gone_is_forgotten_in_its_time(seen):
    seen.store.put(a_node("4"))
    seen.store.drop(a_node("5"))
    assert seen.store.nodes["gpu-node-0"].gone
    seen.now += node_store.GONE_NODE_SECONDS + 1
    other = a_node("9")
    meta = wire.Meta(name="other", uid="o", resource_version="9")
    seen.store.put(wire.NodeObject(metadata=meta, status=other.status))
    assert set(seen.store.nodes) == {"other"}


def test_nodes_that_come_back_one_by_one_from_a_silence_of_all_are_not_lost_on_the_way(seen):
    """When half of them are back the others have been silent for long, and are about to follow."""
    names = [f"gpu-node-{n}" for n in range(10)]
    seen.store.replace("", [a_node("4", "True", name=name) for name in names], 5)
    for name in names:
        seen.store.put(a_node("6", name=name))
    seen.now += 60
    pools = seen.readable
    for name in reversed(names[5:]):
        assert seen.since == 1000
        seen.store.put(a_node("7", "True", name=name))
    assert seen.since == 1060
    assert seen.readable == pools + 1


def test_pools_are_woken_when_too_many_nodes_are_silent_and_when_they_are_not_any_more(seen):
    names = ["gpu-node-0", "gpu-node-1"]
    seen.store.replace("", [a_node("4", "True", name=name) for name in names], 5)
    assert seen.readable == 1
    seen.store.put(a_node("5", name=names[0]))
    assert seen.readable == 1
    seen.store.put(a_node("5", name=names[1]))
    assert seen.readable == 2
    seen.now += 60
    seen.store.drop(a_node("6", name=names[1]))
    assert (seen.since, seen.readable) == (1060, 3)


def test_a_list_in_which_many_nodes_are_silent_is_weighed_as_a_whole(seen):
    names = [f"gpu-node-{n}" for n in range(4)]
    seen.store.replace("", [a_node("4", name=name) for name in names], 5)
    seen.now += 60
    seen.store.replace(
        "", [a_node("6", "True", name=name) for name in names[1:]] + [a_node("6")], 7
    )
    assert seen.since == 1060


def test_the_verdict_is_handed_on_while_news_of_nodes_come_and_ends_with_time(seen):
    names = [f"gpu-node-{n}" for n in range(4)]
    assert seen.store.silence(seen.now) is None
    seen.store.replace("", [a_node("4", "True", name=name) for name in names], 5)
    assert seen.store.silence(seen.now) is None
    for name in names[1:]:
        seen.store.put(a_node("6", name=name))
    told = seen.store.silence(seen.now)
    assert (told.nodes, told.count, told.total) == (frozenset(names[1:]), 3, 4)
    seen.store.age = lambda: STALE_SECONDS + 1
    assert seen.store.silence(seen.now) is None
    seen.store.age = lambda: 1.0
    pools = seen.readable
    seen.now += health.LONG_SECONDS
    assert seen.store.silence(seen.now) is None
    seen.store.heard(1.0)
    assert seen.readable == pools + 1


def test_a_burst_of_news_of_many_nodes_costs_what_each_costs_alone():
    """One of them is not ready, as one of thousands always is: each event looked at all."""

    def seconds(count):
        names, best = [f"n{n}" for n in range(count)], float("inf")
        store = NodeStore(lambda name: None)
        store.replace("", [a_node(name="off"), *(cordoned(name, "4") for name in names)], 5)
        for version in ("5", "6", "7"):
            news = [cordoned(name, version) for name in names[:100]]
            begun = time.thread_time()
            for record in news:
                store.put(record)
            best = min(best, time.thread_time() - begun)
        return best

    assert seconds(10_000) < 5 * seconds(100)


def cordoned(name, version):
    """A node that is cordoned, or not any more, by its version."""
    node = a_node(version, "True", name=name)
    return msgspec.structs.replace(node, spec=wire.NodeSpec(unschedulable=int(version) % 2 == 1))


def test_a_node_tells_which_card_its_gpus_are():
    store = NodeStore(lambda name: None)
    labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}
    meta = wire.Meta(name="gpu-node-0", uid="n", resource_version="4", labels=labels)
    store.replace("", [wire.NodeObject(metadata=meta)], 5)
    assert store.nodes["gpu-node-0"].card == cards.CARDS["H200-141GB"]
