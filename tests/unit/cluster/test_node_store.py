"""What is known of nodes says something of the present, or nothing."""

from datetime import UTC, datetime

import pytest

from sglang_operator.cluster import wire
from sglang_operator.cluster.node_store import STALE_SECONDS, NodeStore
from tests.builders import NOW, a_pod, a_pool, planned


def a_node(version="4", status="Unknown"):
    at = datetime.fromtimestamp(NOW - 3600, UTC)
    ready = wire.Condition(type="Ready", status=status, last_transition_time=at)
    meta = wire.Meta(name="gpu-node-0", uid="n", resource_version=version)
    return wire.Node(metadata=meta, status=wire.NodeStatus(conditions=[ready]))


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
