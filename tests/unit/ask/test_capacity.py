"""Why no node has room, in numbers."""

from sglang_operator.ask.capacity import Holder, explain
from sglang_operator.observed.model import ObservedNode

GPU = "nvidia.com/gpu"


def holder(pod: str, count: int) -> Holder:
    namespace, _, name = pod.partition("/")
    return Holder(namespace=namespace, name=name, count=count)


def node(name: str, gpus: int = 8, **changes) -> ObservedNode:
    return ObservedNode(name=name, resources={GPU: gpus}, **changes)


def test_it_says_how_many_are_free_which_node_is_nearest_and_who_holds_it():
    nodes = [node("a"), node("b"), node("cpu", 0)]
    held = {
        "a": (holder("ml/trainer", 8),),
        "b": tuple(holder(f"rl/e{n}", n) for n in (1, 1, 2, 3)),
    }
    assert explain(GPU, 2, nodes, held, namespace="rl") == (
        "an engine wants 2 on one node; 1 of 16 nvidia.com/gpu are free in the cluster; nearest is "
        "b with 1 of 8 free, held by e3 3, e2 2, e1 1, 1 more pods"
    )


def test_pods_of_other_namespaces_have_no_names():
    """Who may make a pool in one namespace may know nothing of the others."""
    held = {"a": (holder("ceo/acquire-initech", 5), holder("rl/e1", 1), holder("ml/t", 2))}
    told = explain(GPU, 2, [node("a")], held, namespace="rl")
    assert told.endswith("held by e1 1, pods of other namespaces 7")
    told = explain(GPU, 2, [node("a")], held, namespace="another")
    assert told.endswith("held by pods of other namespaces 8")


def test_nodes_that_take_no_pods_do_not_count():
    nodes = [node("a", cordoned=True), node("b", ready=False), node("c", 4), node("d", gone=True)]
    assert "4 of 4 nvidia.com/gpu are free" in explain(GPU, 4, nodes, {}, namespace="rl")


def test_an_engine_that_fits_on_no_node_is_told_so_without_pods_too():
    told = explain(GPU, 16, [node("a")], None, namespace="rl")
    assert told.startswith("an engine wants 16 nvidia.com/gpu on one node, and the largest node")


def test_a_cluster_without_gpus_is_told_so():
    assert "no node that takes pods has nvidia.com/gpu" in explain(
        GPU, 2, [node("a", 0)], {}, namespace="rl"
    )


def test_a_pool_that_wants_more_than_the_cluster_has_is_told_so_first():
    told = explain(GPU, 2, [node("a"), node("b")], {}, namespace="rl", pool=32)
    assert told.startswith(
        "the pool wants 32 nvidia.com/gpu and the nodes that take pods have 16: lower "
        "device_mapping or replicas, or add nodes; an engine wants 2 on one node; 16 of 16"
    )
    alone = explain(GPU, 2, [node("a")], None, namespace="rl", pool=32)
    assert alone.endswith("have 8: lower device_mapping or replicas, or add nodes")
    assert "the pool wants" not in explain(
        GPU, 2, [node("a"), node("b")], {}, namespace="rl", pool=16
    )


def test_where_pods_of_others_may_not_be_seen_nothing_is_guessed():
    assert explain(GPU, 2, [node("a")], None, namespace="rl") == ""
