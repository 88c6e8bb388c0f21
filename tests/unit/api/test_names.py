"""Names of pods: what is put into them is read out of them again."""

import pytest

from sglang_operator.api import names
from sglang_operator.api.names import EngineName


@pytest.mark.parametrize("engine", ["g0-15", "r3", "g0x8", "h0123456789ab"])
@pytest.mark.parametrize("attempt", [0, 7, 123456])
@pytest.mark.parametrize("node_rank", [None, 0, 3, 1023])
def test_a_pod_s_name_tells_engine_attempt_and_node_rank(engine, attempt, node_rank):
    name = names.pod_name("actor-infer", EngineName(engine), attempt, node_rank)
    assert names.engine_of(name, "actor-infer") == engine
    assert names.attempt_of(name) == attempt
    assert names.node_rank_of(name) == node_rank
    assert names.is_pod_of(name, "actor-infer", EngineName(engine))


@pytest.mark.parametrize("name", ["pool-g0-x", "pool-g0-1n", "pool-g0-n1", "pool-g0-1n12345", "x"])
def test_other_names_tell_nothing(name):
    assert names.attempt_of(name) == 0
    assert names.node_rank_of(name) is None


def test_no_pod_of_a_group_has_the_name_of_a_pod_by_itself():
    """Also where the ranks of one look like the ids of the other."""
    alone = {
        names.pod_name("p", EngineName(e), a) for e in ("g0", "g0-1", "g0x8-1") for a in (0, 1)
    }
    ranks = {names.pod_name("p", EngineName(e), a, 1) for e in ("g0", "g0x8") for a in (0, 1)}
    assert alone.isdisjoint(ranks)


@pytest.mark.parametrize("nodes", [1, 2, 10, 11, 100, 101, names.MAX_NODES])
def test_a_pod_s_name_is_a_host_name(nodes):
    engine = EngineName("h" * names.longest_engine(nodes))
    ranks = [None] if nodes == 1 else range(nodes)
    pool = "p" * names.MAX_POOL_NAME
    assert max(len(names.pod_name(pool, engine, 999_999, rank)) for rank in ranks) <= 63


def test_clients_are_sent_to_leaders_alone():
    labels = {**names.serving_selector("p"), names.LABEL_COMPONENT: names.FOLLOWER}
    assert names.is_watched("p-g0-0n1", labels, "p")
    assert not names.serving_selector("p").items() <= labels.items()


@pytest.mark.parametrize("name", ["p-g0-0", "p-g0-0n0", "p-g0-0n1", "p-g0-12n31"])
def test_a_pod_with_the_labels_of_another_rank_stands_aside(name):
    """Clients would be sent to a follower, or to no pod of an engine that serves."""
    labels = names.serving_selector("p")
    follows = names.node_rank_of(name) not in (None, 0)
    assert names.is_watched(name, labels, "p") is not follows
    labels[names.LABEL_COMPONENT] = names.FOLLOWER
    assert names.is_watched(name, labels, "p") is follows


def test_a_member_whose_annotation_is_gone_is_none_of_a_whole_engine():
    assert names.nodes_of("p-g0-0", 0) == 1
    assert names.nodes_of("p-g0-0n0", 0) == 2
    assert names.nodes_of("p-g0-0n0", 4) == 4
