"""Other groups of the same GPUs, on nodes that are full: it comes to an end, or says what it lacks.

A scheduler that puts pods on any node with room stands between the planner and the nodes.
"""

import dataclasses
import functools
import itertools
import random

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.observed.model import ObservedNode, ObservedPod, Sightings
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.status import holdups, rollout_waits
from tests.builders import NOW, a_pod, a_pool, created, planned, removed

RESOURCE = "nvidia.com/gpu"
LACKING = f"0/3 nodes are available: 3 Insufficient {RESOURCE}."
SIZES = (1, 2, 4, 8)
PER_NODE = 8
STEPS = 400
BUDGETS: tuple[int | str, ...] = (1, 2, "25%", "100%")


@functools.cache
def a_grouping(size: int, budget: int | str = 1, **changes):
    """24 GPUs in engines of this size, which serve as soon as they are up."""
    strategy = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    rollout = {"maxUnavailable": budget}
    return a_pool(strategy_args=strategy, num_gpus_per_worker=size, rollout=rollout, **changes)


class World:
    """Three nodes of eight GPUs, a scheduler without a plan, and kubelets."""

    def __init__(self, seed: int, *, foreign: int = 0, see_nodes: bool = True) -> None:
        self.random = random.Random(seed)
        self.now = NOW
        self.nodes = {f"n{i}": PER_NODE for i in range(3 + (foreign > 0))}
        self.pods: list[ObservedPod] = []
        self.foreign = dict.fromkeys(self.nodes, 0)
        self.to_come = foreign  # pods of others with two GPUs each, which take what they get
        self.see_nodes = see_nodes

    def free(self, node: str) -> int:
        held = sum(len(pod.devices) for pod in self.pods if pod.node == node)
        return self.nodes[node] - held - self.foreign[node]

    def schedule(self) -> None:
        self.random.shuffle(self.pods)
        for index, pod in enumerate(self.pods):
            if pod.node or pod.deleting:
                continue
            fitting = [node for node in self.nodes if self.free(node) >= len(pod.devices)]
            node = self.random.choice(fitting) if fitting else ""
            self.pods[index] = dataclasses.replace(
                pod, node=node, unschedulable="" if node else LACKING
            )
        if self.to_come and self.random.random() < 0.5:
            fitting = [node for node in self.nodes if self.free(node) >= 2]
            if fitting:
                self.foreign[self.random.choice(fitting)] += 2
                self.to_come -= 1

    def fill(self, pool) -> None:
        """The pool as it serves, wherever its pods came to stand."""
        self.pods = [a_pod(pool, e, node="", created=self.now) for e in pool.running]
        self.schedule()
        assert all(pod.node for pod in self.pods)
        self.kubelets()

    def kubelets(self) -> None:
        """Pods that were told to go are gone; those with a place answer and serve."""
        self.pods = [
            pod
            if pod.containers_ready is pod.ready is bool(pod.node)
            else dataclasses.replace(pod, containers_ready=bool(pod.node), ready=bool(pod.node))
            for pod in self.pods
            if not pod.deleting
        ]

    def plan(self, pool) -> Plan:
        nodes = {
            name: ObservedNode(name=name, resources={RESOURCE: count})
            for name, count in self.nodes.items()
        }
        return planned(pool, self.pods, self.now, nodes=nodes if self.see_nodes else None)

    def act(self, pool, plan: Plan) -> None:
        going = {removal.pod.uid for removal in plan.removals}
        self.pods = [
            dataclasses.replace(pod, deleting=True, seen=pod.seen._replace(due=self.now))
            if pod.uid in going
            else pod
            for pod in self.pods
        ]
        for create in plan.creates:
            uid = names.Uid(f"{create.engine.name}-{create.attempt}-{self.now}")
            new = a_pod(pool, create.engine, create.attempt, uid=uid, node="", created=self.now)
            self.pods.append(dataclasses.replace(new, containers_ready=False))

    def serving(self) -> int:
        return sum(len(pod.devices) for pod in self.pods if pod.ready and not pod.deleting)

    def regroup(self, pool) -> Plan:
        """Play until nothing happens any more, and watch the budget; the last plan."""
        quiet = 0
        size = pool.gpus
        least = (pool.active - pool.max_unavailable) * size
        for _ in range(STEPS):
            before = self.serving()
            plan = self.plan(pool)
            self.act(pool, plan)
            largest = max((len(r.pod.devices) for r in plan.removals), default=0)
            if plan.removals and before > self.serving():
                # An engine that is larger than the budget can only go as a whole.
                assert self.serving() >= min(least, before - max(size, largest)), plan.removals
            quiet = 0 if plan.removals or plan.creates else quiet + 1
            if quiet > 4:
                return plan
            self.kubelets()
            self.schedule()
            self.now += 10
        raise AssertionError(f"it does not come to rest: {plan}")

    def is_regrouped(self, pool) -> bool:
        names = sorted(pod.engine for pod in self.pods if pod.ready)
        return names == sorted(engine.name for engine in pool.running)


CHANGES = [(a, b) for a, b in itertools.permutations(SIZES, 2)]


@pytest.mark.parametrize(("before", "after"), CHANGES, ids=lambda n: str(n))
@pytest.mark.parametrize("see_nodes", [True, False], ids=["nodes", "no access to nodes"])
def test_a_full_pool_is_regrouped_or_stalls_with_the_number_that_helps(before, after, see_nodes):
    for seed, budget in itertools.product(range(12), BUDGETS):
        world = World(seed, see_nodes=see_nodes)
        world.fill(a_grouping(before))
        new = a_grouping(after, budget)
        plan = world.regroup(new)
        for _ in range(4):  # the user does what the message says
            if world.is_regrouped(new):
                break
            assert plan.waiting is not None, (seed, budget, world.pods)
            assert plan.waiting.what is Waits.FOR_ROOM
            assert plan.waiting.needed > new.max_unavailable
            new = a_grouping(after, plan.waiting.needed)
            plan = world.regroup(new)
        assert world.is_regrouped(new), (seed, budget)


SMALLER = [(b, a, total) for b, a in CHANGES for total in (8, 16)]


@pytest.mark.parametrize(("before", "after", "total"), SMALLER, ids=lambda n: str(n))
def test_a_pool_that_is_regrouped_and_made_smaller_keeps_to_its_budget(before, after, total):
    """Engines whose GPUs nobody needs any more took all of it, and the last went all the same."""
    for seed, budget in itertools.product(range(2), BUDGETS):
        world = World(seed)
        world.fill(a_grouping(before))
        new = a_grouping(after, budget, device_mapping=f"list(range(0,{total}))")
        plan = world.regroup(new)
        assert world.is_regrouped(new) or plan.waiting is not None, (seed, budget)


@pytest.mark.parametrize(("before", "after"), CHANGES, ids=lambda n: str(n))
def test_a_pool_that_is_made_smaller_while_it_is_regrouped_keeps_to_its_budget(before, after):
    for passes, budget in itertools.product((1, 2, 3), BUDGETS):
        world = World(passes)
        world.fill(a_grouping(before))
        for _ in range(passes):
            pool = a_grouping(after, budget)
            world.act(pool, world.plan(pool))
            world.kubelets()
            world.schedule()
            world.now += 10
        new = a_grouping(after, budget, replicas=8 // after)
        plan = world.regroup(new)
        assert world.is_regrouped(new) or plan.waiting is not None, (passes, budget)


@pytest.mark.parametrize(("before", "after"), CHANGES, ids=lambda n: str(n))
def test_beside_pods_of_others_it_ends_or_says_what_it_waits_for(before, after):
    for seed in range(12):
        world = World(seed, foreign=4)
        world.fill(a_grouping(before))
        new = a_grouping(after, 2)
        plan = world.regroup(new)
        waits_for_gpus = any(pod.unschedulable for pod in world.pods)
        assert world.is_regrouped(new) or waits_for_gpus or plan.waiting is not None


def standing(pool, *nodes: str) -> list[ObservedPod]:
    """Its engines, which serve, on these nodes in order of their rank."""
    return [a_pod(pool, e, ready=True, node=n) for e, n in zip(pool.running, nodes, strict=True)]


def see(*counts: int) -> dict[str, ObservedNode]:
    return {
        f"n{i}": ObservedNode(name=f"n{i}", resources={RESOURCE: count})
        for i, count in enumerate(counts)
    }


SCATTERED = ("n0", "n1", "n0", "n1")


def test_engines_go_first_whose_going_gives_one_node_room():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, device_mapping="list(range(0,8))")
    pods = standing(old, "n0", "n1", "n1", "n1")
    plan = planned(new, pods, nodes=see(2, 6))
    assert removed(plan) == ["actor-infer-g4-5-0", "actor-infer-g6-7-0"]


def test_no_serving_engine_goes_where_it_would_bring_no_node_room():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, device_mapping="list(range(0,8))")
    plan = planned(new, standing(old, *SCATTERED), nodes=see(4, 4))
    assert not plan.removals
    assert plan.waiting is not None
    assert (plan.waiting.what, plan.waiting.needed) == (Waits.FOR_ROOM, 2)


def test_with_a_larger_budget_one_engine_more_goes_from_one_node():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, 2, device_mapping="list(range(0,8))")
    plan = planned(new, standing(old, *SCATTERED), nodes=see(4, 4))
    assert len(removed(plan)) >= 3


def test_a_free_node_is_room_enough():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, device_mapping="list(range(0,8))")
    plan = planned(new, standing(old, *SCATTERED), nodes=see(4, 4, 8))
    assert removed(plan) == ["actor-infer-g0-1-0", "actor-infer-g2-3-0"]


def stuck(new, engine, **changes):
    changes = {"created": NOW - 60, "unschedulable": LACKING, "node": "", **changes}
    return a_pod(new, engine, containers_ready=False, **changes)


def test_where_the_scheduler_finds_no_place_one_more_of_the_same_node_goes():
    old = a_grouping(2, device_mapping="list(range(0,12))")
    new = a_grouping(4, 2, device_mapping="list(range(0,12))")
    pods = standing(old, "n0", "n1", "n0", "n1", "n2", "n2")[2:]
    plan = planned(new, [*pods, stuck(new, new.engines[0])], nodes=see(4, 4, 8))
    assert len(removed(plan)) == 1


@pytest.mark.parametrize(
    "why",
    [
        pytest.param({"created": NOW - 5}, id="the scheduler has hardly looked"),
        pytest.param({"unschedulable": "pod has unbound PersistentVolumeClaims"}, id="a volume"),
        pytest.param(
            {"unschedulable": f"3 node(s) had untolerated taint {{{RESOURCE}: present}}"},
            id="a taint by the name of the GPUs",
        ),
    ],
)
def test_no_engine_makes_room_for_one_that_waits_for_something_else(why):
    old = a_grouping(2, device_mapping="list(range(0,12))")
    new = a_grouping(4, 2, device_mapping="list(range(0,12))")
    pods = standing(old, "n0", "n1", "n0", "n1", "n2", "n2")[2:]
    plan = planned(new, [*pods, stuck(new, new.engines[0], **why)], nodes=see(4, 4, 4))
    # Those that hold the ids of another go, as the budget allows, and nobody beside them.
    assert removed(plan) == ["actor-infer-g4-5-0", "actor-infer-g6-7-0"]


def test_no_engine_makes_room_while_one_is_still_leaving():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, 2, device_mapping="list(range(0,8))")
    pods = standing(old, *SCATTERED)
    leaving = [dataclasses.replace(pod, deleting=True) for pod in pods[:2]]
    plan = planned(new, [*leaving, *pods[2:], stuck(new, new.engines[0])], nodes=see(4, 4))
    assert plan.waiting is None


def test_ranks_without_ids_make_room_too_when_they_grow():
    strategy = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
    spec = {
        "model_args": {"model_name_or_path": "m"},
        "strategy_args": strategy,
        "replicas": 4,
        "rollout": {"maxUnavailable": 2},
    }
    old = a_pool({**spec, "num_gpus_per_worker": 2})
    new = a_pool({**spec, "num_gpus_per_worker": 4})
    limits = ((RESOURCE, 2),)
    pods = [
        dataclasses.replace(pod, limits=limits) for pod in standing(old, "n0", "n1", "n0", "n1")
    ]
    waiting = stuck(new, new.engines[3])
    plan = planned(new, [*pods[:3], waiting], nodes=see(4, 4))
    assert removed(plan) == ["actor-infer-r1-0"]


def test_planning_a_regrouping_twice_decides_the_same():
    world = World(3)
    world.fill(a_grouping(2))
    new = a_grouping(4, 2)
    assert world.plan(new) == world.plan(new)
    assert created(world.plan(new)) == []


# --- what stands in the way for good


class Stiff(World):
    """The first pod that is told to go never does."""

    hung = ""

    def kubelets(self) -> None:
        going = [pod.uid for pod in self.pods if pod.deleting]
        self.hung = self.hung or (going[0] if going else "")
        staying = [pod for pod in self.pods if pod.uid == self.hung]
        super().kubelets()
        self.pods += [pod for pod in staying if pod.deleting]


class Busy(World):
    """Somebody deletes a pod of the pool every five seconds."""

    def plan(self, pool) -> Plan:
        nodes = see(PER_NODE, PER_NODE, PER_NODE)
        return planned(pool, self.pods, self.now, nodes=nodes, last_gone=self.now - 5)


class Narrow(World):
    """A node has memory for so many engines of any size."""

    most = 4

    def schedule(self) -> None:
        for index, pod in enumerate(self.pods):
            if pod.node or pod.deleting:
                continue
            room = [n for n in self.nodes if self.free(n) >= len(pod.devices)]
            fit = [n for n in room if sum(p.node == n for p in self.pods) < self.most]
            said = "0/3 nodes are available: 3 Insufficient memory." if room else LACKING
            node = self.random.choice(fit) if fit else ""
            self.pods[index] = dataclasses.replace(
                pod, node=node, unschedulable="" if fit else said
            )


@pytest.mark.parametrize("world", [Stiff, Busy, Narrow])
@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 1), (4, 2), (1, 2)])
def test_no_regrouping_stands_still_without_a_word(world, before, after):
    for seed, budget in itertools.product(range(2), BUDGETS):
        played = world(seed)
        Narrow.most = max(1, 24 // before // 3)
        played.fill(a_grouping(before))
        new = a_grouping(after, budget)
        for _ in range(80):
            plan = played.plan(new)
            played.act(new, plan)
            played.kubelets()
            played.schedule()
            played.now += 10
        assert not plan.obsolete or plan.waiting is not None, (seed, budget, played.pods)


def lingering(new, old, due=NOW - 61):
    """The pool in the middle of its change, with an old pod that does not go."""
    pods = standing(old, *SCATTERED)
    hung = dataclasses.replace(pods[0], deleting=True, seen=Sightings(due=due))
    return [hung, *pods[2:], stuck(new, new.engines[0])]


def test_a_pod_that_does_not_go_is_no_reason_to_wait():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, 2, device_mapping="list(range(0,8))")
    plan = planned(new, lingering(new, old), nodes=see(4, 4))
    # On n0 two GPUs are held for good: the other node gets room.
    assert removed(plan) == ["actor-infer-g6-7-0"]
    assert [pod.name for pod in plan.lingering] == ["actor-infer-g0-1-0"]
    reason, message = holdups.lingering(new, plan) or ("", "")
    assert reason == conditions.POD_LINGERS
    assert "pod actor-infer-g0-1-0 on node n0 is still there a minute after" in message
    assert "kubectl delete pod actor-infer-g0-1-0 -n rl --force --grace-period=0" in message


def test_within_its_grace_and_a_minute_a_pod_is_waited_for_and_then_looked_at():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, 2, device_mapping="list(range(0,8))")
    plan = planned(new, lingering(new, old, due=NOW - 20), nodes=see(4, 4))
    assert not plan.lingering
    assert holdups.lingering(new, plan) is None
    assert plan.wake_at == NOW + 40


def test_what_else_nodes_lack_is_told_in_the_schedulers_words():
    old = a_grouping(2, device_mapping="list(range(0,8))")
    new = a_grouping(4, device_mapping="list(range(0,8))")
    said = "0/2 nodes are available: 2 Insufficient memory."
    pods = [*standing(old, *SCATTERED)[2:], stuck(new, new.engines[0], unschedulable=said)]
    plan = planned(new, pods, nodes=see(4, 4))
    assert plan.waiting is not None
    text = rollout_waits.message(new, plan.waiting)
    assert text.startswith(f"engine g0-3 finds no node: {said}; request less of it")
    assert f'"maxUnavailable": {plan.waiting.needed}' in text


def test_engines_that_nobody_needs_serve_on_until_those_that_wait_for_a_sync_do():
    """A closed gate stands in only where no sync could begin before old engines make way."""
    old = a_pool(num_gpus_per_worker=1, device_mapping="[0, 1, 2, 13]")
    new = a_pool(
        num_gpus_per_worker=2,
        device_mapping="list(range(8,14))",
        rollout={"maxUnavailable": 1},
    )
    gone = a_pod(old, old.running[3], ready=True)
    aside = [a_pod(old, engine, ready=True) for engine in old.running[:3]]
    closed = [a_pod(new, engine, containers_ready=True) for engine in new.running[:2]]
    plan = planned(new, [*aside, gone, *closed])
    assert removed(plan) == [gone.name]
