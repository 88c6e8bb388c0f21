"""Where many nodes are not ready at once nobody is lost: kubelets do not reach the API server."""

import dataclasses
import random
import time
from typing import Any

import pytest

from sglang_operator.observed import health
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import Gate, Observed, ObservedNode
from sglang_operator.observed.silence import Silence
from sglang_operator.plan.plan import plan
from tests.builders import NOW, a_pod, a_pool, created, planned, removed

GPUS = {"nvidia.com/gpu": 8}


def some_nodes(silent, total, since=NOW - 60, prefix="n", **changes):
    """So many nodes, of which the first ones are not ready."""
    return {
        name: ObservedNode(
            name=name,
            ready=n >= silent,
            ready_changed=since if n < silent else 0.0,
            unready=since if n < silent else 0.0,
            **{"resources": GPUS, **changes},
        )
        for n in range(total)
        for name in [f"{prefix}{n}"]
    }


def decided(nodes, on="n0", **restart):
    """What is done for one engine that serves on this node."""
    pool = a_pool(replicas=1, restart=restart)
    pod = a_pod(pool, pool.engines[0], node=on, created=NOW - 86400, ready=True)
    return planned(pool, [pod], nodes=nodes)


@pytest.mark.parametrize(
    ("silent", "total"), [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (3, 6), (3, 10), (5, 10)]
)
def test_a_few_lost_nodes_are_lost(silent, total):
    nodes = some_nodes(silent, total)
    assert health.silence(nodes, NOW) is None
    plan = decided(nodes)
    assert created(plan) == [("g0-1", 1)]
    assert len(plan.removals) == 1


@pytest.mark.parametrize(
    ("silent", "total"), [(2, 2), (3, 3), (3, 4), (3, 5), (4, 7), (6, 10), (10, 10), (55, 100)]
)
def test_of_many_nodes_that_are_silent_at_once_none_is_lost(silent, total):
    plan = decided(some_nodes(silent, total))
    assert plan.silence is not None
    assert (plan.silence.count, plan.silence.total) == (silent, total)
    assert not plan.creates
    assert not plan.removals
    assert plan.engines[0].state is EngineState.IN_SERVICE
    assert plan.wake_at is None


def test_who_is_to_wait_for_its_node_waits_either_way():
    assert decided(some_nodes(1, 3), onNodeLost="Wait").engines[0].state is EngineState.LOST
    plan = decided(some_nodes(3, 3), onNodeLost="Wait")
    assert not plan.removals
    assert plan.engines[0].state is EngineState.IN_SERVICE


def test_nodes_without_devices_do_not_make_up_for_all_that_have_them():
    """Engines that are given up would have nowhere to go."""
    others = some_nodes(0, 20, prefix="cpu", resources={"example.com/fuse": 0})
    assert not removed(decided(some_nodes(3, 3) | others))
    assert removed(decided(some_nodes(3, 10) | others))


@pytest.mark.parametrize(
    "of_the_network",
    ["aliyun/member-eni", "vpc.amazonaws.com/pod-eni", "tke.cloud.tencent.com/eni-ip"],
)
def test_what_a_network_gives_to_every_node_makes_none_a_node_with_gpus(of_the_network):
    """As clouds do: GPU nodes that are cut off, beside nodes that have the network's alone."""
    others = some_nodes(0, 20, prefix="cpu", resources={of_the_network: 10})
    both = {of_the_network: 10, "nvidia.com/gpu": 8}
    assert not removed(decided(some_nodes(8, 8, resources=both) | others))
    assert removed(decided(some_nodes(3, 10, resources=both) | others))


def test_nodes_without_devices_tell_of_the_api_server_too():
    others = some_nodes(20, 20, prefix="cpu", resources={})
    assert not removed(decided(some_nodes(1, 10) | others))
    few = some_nodes(2, 20, prefix="cpu", resources={})
    assert removed(decided(some_nodes(1, 10) | few))


@pytest.mark.parametrize("known", [{"gone": True}, {"out_of_service": True}])
def test_what_is_known_to_be_lost_is_lost_whoever_else_is_silent(known):
    nodes = some_nodes(6, 10)
    nodes["n0"] = dataclasses.replace(nodes["n0"], **known)
    assert health.silence(nodes, NOW) is not None  # 5 of 9
    assert removed(decided(nodes))
    assert not removed(decided(nodes, on="n1"))


def test_nodes_that_are_gone_are_no_part_of_the_share():
    nodes = some_nodes(9, 10, gone=True)
    nodes["n9"] = ObservedNode(name="n9", resources=GPUS)
    assert health.silence(nodes, NOW) is None
    assert removed(decided(nodes))


def test_without_access_to_nodes_nobody_is_silent():
    assert health.silence(None, NOW) is None
    assert health.silence({}, NOW) is None
    assert not removed(decided(None))


@pytest.mark.parametrize("policy", ["Committed", "Off"])
@pytest.mark.parametrize("silent", [1, 3])
def test_a_rolling_update_takes_no_more_engines_than_ever_while_nodes_are_silent(policy, silent):
    """Kubernetes says of each pod of a silent node that it is not ready: its engine serves on."""
    pool = a_pool(weights={"gate": policy})
    pods = [
        a_pod(
            pool,
            engine,
            node=f"n{engine.rank // 4}",
            revision="0" * 10,
            ready=engine.rank // 4 >= silent,
            gate=Gate(is_open=True) if pool.gated else None,
        )
        for engine in pool.engines
    ]
    plan = planned(pool, pods, nodes=some_nodes(silent, 3, since=NOW - 3))
    assert len(plan.removals) <= pool.max_unavailable
    assert planned(pool, pods, nodes=some_nodes(3, 3)).removals == plan.removals


def test_machines_that_were_switched_off_long_ago_keep_no_dead_engine():
    """Of five nodes with devices three are off for weeks, and the fourth dies under its engine."""
    off = some_nodes(3, 3, since=NOW - 30 * 86400, prefix="off")
    well = some_nodes(0, 20, prefix="cpu", resources={})
    plan = decided({**off, **well, **some_nodes(1, 2)})
    assert plan.silence is None
    assert created(plan) == [("g0-1", 1)]


def test_however_long_no_node_at_all_is_ready_none_is_lost():
    plan = decided(some_nodes(4, 4, since=NOW - 86400))
    assert plan.silence is not None
    assert not plan.removals


def an_outage(luck, nodes, lost_seconds=10.0):
    """GPU nodes that are cut off at one moment, by the clocks of kubelets and the node controller:
    those whose engines would be deleted.

    Leases are renewed every 10 s, and the controller looks at all of them every 5 s and a little.
    """
    first = luck.uniform(0, 5.05)
    looks = [first + 5.05 * n for n in range(4)]
    marks = {}
    for n in range(nodes):
        ends = luck.uniform(0, 10.4)
        marks[f"g{n}"] = next(NOW + look for look in looks if look >= ends)
    pool = a_pool(replicas=1, restart={"nodeLostSeconds": int(lost_seconds)})
    on = {name: a_pod(pool, pool.engines[0], node=name, created=1.0, ready=True) for name in marks}
    known = {f"c{n}": ObservedNode(name=f"c{n}") for n in range(20)}
    tally, lost, due = health.Tally(known.values()), set(), dict(marks)
    for name in marks:
        known[name] = ObservedNode(name=name, resources=GPUS)
        tally.put(known[name])
    while due:
        now = min(due.values())
        for name, at in marks.items():
            if at <= now and known[name].ready:
                known[name] = ObservedNode(name=name, ready=False, unready=at, resources=GPUS)
                tally.put(known[name])
        believed = health.Believed(known, tally.silence(now), tally.falls())
        for name in [name for name, at in due.items() if at <= now]:
            next_loss = health.lost_from(on[name], believed.get(name), pool.spec.restart)
            if next_loss is None:
                del due[name]  # silent: no look at the clock helps
            elif next_loss <= now:
                del due[name]
                lost.add(name)
            else:
                due[name] = next_loss
    return lost


@pytest.mark.parametrize("nodes", [16, 32, 64, 200])
def test_nodes_that_are_cut_off_at_one_moment_are_not_lost_one_after_another(nodes):
    """The first of them were lost before the rest had been seen to be silent."""
    luck = random.Random(nodes)
    assert [lost for _ in range(100) if (lost := an_outage(luck, nodes))] == []


@pytest.mark.parametrize(("nodes", "most"), [(4, 30), (8, 10)])
def test_of_a_few_nodes_some_may_be_lost_that_no_look_tells_from_single_ones(nodes, most):
    """Whom nobody follows within the whole time is a node that died."""
    luck = random.Random(nodes)
    assert sum(bool(an_outage(luck, nodes)) for _ in range(300)) <= most


@pytest.mark.parametrize(
    ("falls", "lost"),
    [
        ((0.0,), 10.0),  # alone
        ((0.0, 0.0), 10.0),
        ((0.0, 3.0), 10.0),
        ((0.0, 9.0), 15.0),
        ((0.0, 5.0, 10.0, 15.0), 21.0),
        ((0.0, 16.5), 10.0),  # another matter
    ],
)
def test_a_node_that_others_follow_is_lost_once_the_controller_has_looked_again(falls, lost):
    nodes = some_nodes(0, 20, prefix="well") | {
        f"n{n}": ObservedNode(name=f"n{n}", ready=False, unready=NOW + at, resources=GPUS)
        for n, at in enumerate(falls)
    }
    assert decided(nodes).wake_at == pytest.approx(NOW + lost)
    for late, gone in ((-0.1, False), (0.1, True)):
        pool = a_pool(replicas=1)
        pod = a_pod(pool, pool.engines[0], node="n0", created=NOW - 86400, ready=True)
        seen = Observed(pods=(pod,), nodes=nodes)
        assert bool(plan(pool, seen, NOW + lost + late).removals) is gone


def test_however_many_nodes_fall_no_pass_is_told_more_than_a_time_for_each_second():
    tally = health.Tally()
    for n in range(20_000):
        tally.put(ObservedNode(name=f"n{n}", ready=False, unready=NOW + n / 5))
    falls = tally.falls()
    assert len(falls) <= 128
    assert list(falls) == sorted(falls)
    assert falls[-1] == NOW + 19_999 / 5


def recounted(nodes, now):
    """The rule, node by node: what a count that is kept must come to."""
    there = [node for node in nodes.values() if not (node.gone or node.out_of_service)]
    if len(there) > 1 and not any(node.ready for node in there):
        return Silence(nodes=frozenset(n.name for n in there), count=len(there), total=len(there))
    there = [n for n in there if n.ready or now < n.unready + health.LONG_SECONDS]
    silent = frozenset(node.name for node in there if not node.ready)
    for counted in ([n for n in there if any(n.resources.values())], there):
        count = sum(not node.ready for node in counted)
        if 1 < count == len(counted) or (count >= 3 and count / len(counted) >= 0.55):
            return Silence(nodes=silent, count=count, total=len(counted))
    return None


@pytest.mark.parametrize("seed", range(40))
def test_a_count_that_is_kept_is_that_of_all_nodes_at_any_time(seed):
    luck, now, tally = random.Random(seed), NOW, health.Tally()
    nodes: dict[str, ObservedNode] = {}
    seen = set()
    for _ in range(300):
        now += luck.choice([0.0, 1.0, 60.0, 300.0])
        name = f"n{luck.randrange(luck.choice([2, 5, 9]))}"
        if luck.random() < 0.05:
            nodes.pop(name, None)
            tally.drop(name)
        else:
            ready = luck.random() < luck.choice([0.2, 0.6])
            nodes[name] = ObservedNode(
                name=name,
                ready=ready,
                unready=0.0 if ready else now - luck.choice([0.0, 0.0, 599.0, 600.0, 9999.0]),
                gone=luck.random() < 0.1,
                out_of_service=luck.random() < 0.1,
                resources=luck.choice([{}, GPUS, {"example.com/fuse": 0}]),
            )
            tally.put(nodes[name])
        right = recounted(nodes, now)
        assert tally.silence(now) == health.silence(nodes, now) == right
        assert tally.is_silent(now) is (right is not None)
        seen.add(right is not None)
    assert seen == {True, False}


class Unwalked(dict[str, ObservedNode]):
    """Nodes that may be asked for by name alone."""

    def walked(self, *_: object) -> Any:
        raise AssertionError("a pass looks at every node of the cluster")

    __iter__ = items = values = keys = walked


@pytest.mark.parametrize("silent", [1, 6])
def test_a_pass_takes_the_verdict_as_it_is_given_and_looks_at_no_other_node(silent):
    nodes = some_nodes(silent, 10)
    verdict = health.silence(nodes, NOW)
    pool = a_pool(replicas=1)
    pods = (a_pod(pool, pool.engines[0], node="n0", created=NOW - 86400, ready=True),)
    falls = health.Tally(nodes.values()).falls()
    observed = Observed(pods=pods, nodes=Unwalked(nodes), silence=verdict, falls=falls)
    given = plan(pool, observed, NOW)
    assert given == plan(pool, Observed(pods=pods, nodes=nodes), NOW)
    assert given.silence == verdict
    assert bool(given.removals) is (verdict is None)


def test_news_of_a_node_cost_the_same_however_many_there_are():
    """While one of them is not ready each node's news looked at all nodes, twice."""

    def seconds(count):
        nodes = list(some_nodes(1, count).values())
        tally, best = health.Tally(nodes), float("inf")
        for turn in range(5):
            begun = time.thread_time()
            for node in nodes[:500]:
                tally.put(dataclasses.replace(node, unready=node.unready and NOW - turn))
                tally.is_silent(NOW)
            best = min(best, time.thread_time() - begun)
        return best

    assert seconds(20_000) < 5 * seconds(500)
