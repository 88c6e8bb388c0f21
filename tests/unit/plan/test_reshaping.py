"""Engines keep their names and get another shape: other GPUs, or as many in other pods.

Old ones count with the GPUs and pods that they have; a change goes on within its budget, or says
with which it would.  A scheduler without a plan stands between the planner and the nodes.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Iterator

import pytest

from sglang_operator.api import names
from sglang_operator.observed import groups
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedNode, ObservedPod
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waits
from sglang_operator.pool.resolve import Pool
from tests.builders import NOW, a_pool, guide_spec, planned
from tests.builders import a_pod as built_pod

RESOURCE = "nvidia.com/gpu"


def a_shape(gpus: int, count: int, per_node: int = 8, budget: int | str = 1, **changes) -> Pool:
    """So many engines of as many GPUs, without GPU ids unless a mapping is given."""
    spec = guide_spec(
        num_gpus_per_worker=gpus,
        num_gpus_per_node=per_node,
        **{
            "rollout": {"maxUnavailable": budget},
            "weights": {"gate": "Off"},
            "replicas": count,
            **changes,
        },
    )
    if "device_mapping" not in changes:
        del spec["device_mapping"]
    return a_pool(spec)


def mapped(gpus: int, count: int, per_node: int = 8, budget: int | str = 1, **changes) -> Pool:
    """The same with GPU ids from 0 on."""
    ids = f"list(range(0,{gpus * count}))"
    return a_shape(gpus, count, per_node, budget, device_mapping=ids, **changes)


def held(group: Group) -> int:
    return sum(dict(pod.limits)[RESOURCE] for pod in group.members)


class World:
    """Nodes of as many GPUs, a scheduler, kubelets, and a trainer that syncs when it can."""

    def __init__(self, nodes: int, per_node: int = 8, seed: int = 1, *, seen: bool = True) -> None:
        self.random = random.Random(seed)
        self.nodes = {f"n{i}": per_node for i in range(nodes)}
        self.seen = seen
        self.pods: dict[str, ObservedPod] = {}
        self.now = NOW
        self.last_gone = 0.0
        self.made = 0

    def free(self) -> dict[str, int]:
        left = dict(self.nodes)
        for pod in self.pods.values():
            if pod.node:
                left[pod.node] -= dict(pod.limits)[RESOURCE]
        return left

    def groups(self) -> list[Group]:
        return groups.of(self.pods.values())

    def serving(self) -> dict[str, int]:
        """GPUs of each engine that clients reach."""
        return {g.engine: held(g) for g in self.groups() if g.ready and not g.deleting}

    def standing(self) -> int:
        """GPUs of those and of engines that are up behind their gate."""
        up = (g for g in self.groups() if g.containers_ready and not g.deleting)
        return sum(map(held, up))

    def put(self, pod: ObservedPod, **changes) -> None:
        self.pods[pod.name] = dataclasses.replace(pod, **changes)

    def plan(self, pool: Pool) -> Plan:
        nodes = {
            name: ObservedNode(name=name, resources={RESOURCE: count})
            for name, count in self.nodes.items()
        }
        pods, seen = list(self.pods.values()), nodes if self.seen else None
        return planned(pool, pods, self.now, nodes=seen, last_gone=self.last_gone)

    def act(self, pool: Pool, plan: Plan) -> None:
        for removal in plan.removals:
            pod = self.pods[removal.pod.name]
            self.put(pod, deleting=True, seen=pod.seen._replace(due=self.now + 30, going=self.now))
        for create in plan.creates:
            for rank in create.node_ranks:
                self.made += 1
                pod = built_pod(
                    pool,
                    create.engine,
                    create.attempt,
                    node_rank=rank,
                    node="",
                    phase="Pending",
                    uid=names.Uid(f"uid-{self.made}"),
                    created=self.now + self.made / 1e6,
                    containers_ready=False,
                    limits=((RESOURCE, pool.gpus_per_pod),),
                )
                self.put(pod)

    def go_on(self, pool: Pool) -> None:
        """What is told to go is gone; what finds its places answers; then the trainer syncs."""
        for pod in [pod for pod in self.pods.values() if pod.deleting]:
            del self.pods[pod.name]
            self.last_gone = self.now
        for pod in sorted(self.pods.values(), key=lambda pod: pod.created):
            if not pod.node:
                size = dict(pod.limits)[RESOURCE]
                fitting = [node for node, count in self.free().items() if count >= size]
                said = "" if fitting else f"0/9 nodes are available: 9 Insufficient {RESOURCE}."
                node = self.random.choice(fitting) if fitting else ""
                self.put(pod, node=node, unschedulable=said, phase="Running" if node else "Pending")
        for group in self.groups():
            if group.whole and all(pod.node for pod in group.members):
                for pod in group.members:
                    ready = pod.ready or not pod.gated
                    self.put(pod, containers_ready=True, answered=True, started=True, ready=ready)
        up = {g.engine for g in self.groups() if g.containers_ready}
        if pool.gated and up.issuperset(engine.name for engine in pool.running):
            for pod in self.pods.values():
                self.put(pod, ready=True)
        self.now += 20

    def play(self, pool: Pool, passes: int = 240) -> Iterator[tuple[Plan, dict[str, int]]]:
        """Each plan, and what served before it, until nothing happens any more."""
        quiet = 0
        while quiet < 14:
            passes -= 1
            assert passes, "it does not come to rest"
            before = self.serving()
            plan = self.plan(pool)
            self.act(pool, plan)
            yield plan, before
            quiet = 0 if plan.creates or plan.removals else quiet + 1
            self.go_on(pool)

    def fill(self, pool: Pool) -> bool:
        """Whether the pool serves, wherever its pods came to stand."""
        for _ in self.play(pool):
            pass
        return self.is_there(pool)

    def change(self, pool: Pool) -> Plan:
        """The plan on which the change comes to rest; its budget is watched."""
        had = sum(self.serving().values())
        # A pool that grows has less than the new one: by that it takes no less.
        least = min(had, pool.active * pool.gpus) - pool.max_unavailable * pool.gpus
        last = None
        for plan, before in self.play(pool):
            last = plan
            left = self.standing() if pool.gated else sum(self.serving().values())
            fewer = set(before) - set(self.serving())
            # Where engines of other GPU ids are larger than the budget one goes as a whole.
            whole = len(fewer) == 1 and max(map(before.__getitem__, fewer)) > pool.gpus
            if fewer and not (whole and pool.running[0].devices):
                assert left >= least, (sorted(fewer), left, least)
        assert last is not None
        return last

    def is_there(self, pool: Pool) -> bool:
        found = self.groups()
        wanted = sorted(engine.name for engine in pool.running)
        return sorted(g.engine for g in found) == wanted and all(
            pool.accepts(g.revision) and g.ready for g in found
        )


def test_old_engines_count_with_the_gpus_that_they_have():
    world = World(2)
    assert world.fill(a_shape(2, 8))
    new = a_shape(8, 2)
    plan = world.change(new)
    assert world.is_there(new), plan.waiting


def test_of_groups_no_more_goes_at_once_than_their_own_gpus_allow():
    world = World(4)
    assert world.fill(a_shape(2, 16))
    new = a_shape(16, 2)
    world.act(new, world.plan(new))
    assert sum(world.serving().values()) >= 16


@pytest.mark.parametrize(("gpus", "count"), [(8, 4), (16, 2)])
def test_larger_engines_that_a_budget_keeps_say_with_which_they_would_go(gpus, count):
    world = World(4)
    assert world.fill(a_shape(gpus, count))
    new = a_shape(gpus // 2, count * 2)
    plan = world.change(new)
    assert len(world.serving()) == count
    assert plan.waiting is not None
    assert (plan.waiting.what, plan.waiting.needed) == (Waits.FOR_ROOM, 2)
    allowed = a_shape(gpus // 2, count * 2, budget=2)
    world.change(allowed)
    assert world.is_there(allowed)


def test_larger_engines_make_way_where_a_spare_node_lets_others_come_first():
    world = World(5)
    assert world.fill(a_shape(8, 4))
    new = a_shape(4, 8)
    world.change(new)
    assert world.is_there(new)


def test_as_many_make_way_at_once_as_find_no_place_and_the_budget_allows():
    world, new = World(8), a_shape(4, 16, budget="50%")
    assert world.fill(a_shape(8, 8))
    paused = a_shape(4, 16, rollout={"paused": True})
    world.change(paused)  # only new ranks are made, and find no place
    assert len({removal.pod.engine for removal in world.plan(new).removals}) == 4


def test_a_pool_whose_engines_grow_goes_on_one_by_one():
    world = World(2)
    assert world.fill(a_shape(2, 4))
    new = a_shape(4, 4)
    for _ in world.play(new):
        assert sum(world.serving().values()) >= 4
    assert world.is_there(new)


@pytest.mark.parametrize("seed", range(5))
def test_no_engine_of_two_pods_goes_for_one_of_one_that_no_node_has_room_for(seed):
    world = World(4, seed=seed)
    assert world.fill(mapped(8, 4, per_node=4))
    new = mapped(8, 4, per_node=8)
    plan = world.change(new)
    if not world.is_there(new):
        assert plan.waiting is not None
        assert (plan.waiting.what, plan.waiting.needed) == (Waits.FOR_ROOM, 2)
        assert len(world.serving()) == 4
        allowed = mapped(8, 4, per_node=8, budget=2)
        plan = world.change(allowed)
        assert world.is_there(allowed) or plan.waiting is not None


def test_where_a_node_has_both_pods_of_an_engine_its_engine_goes_first():
    old, new = mapped(8, 4, per_node=4), mapped(8, 4, per_node=8)
    world = World(4)
    assert world.fill(old)
    nodes = {0: ("n0", "n1"), 1: ("n1", "n0"), 2: ("n2", "n2"), 3: ("n3", "n3")}
    for group in world.groups():
        rank = next(e.rank for e in old.running if e.name == group.engine)
        for pod in group.members:
            world.put(pod, node=nodes[rank][pod.node_rank])
    plan = world.plan(new)
    assert {removal.pod.engine for removal in plan.removals} == {"g16-23"}


def test_a_paused_change_says_that_new_engines_wait_for_old_ones():
    world = World(4)
    assert world.fill(a_shape(8, 4))
    new = a_shape(4, 8, rollout={"paused": True})
    plan = world.change(new)
    assert plan.waiting is not None
    assert plan.waiting.what is Waits.FOR_RESUME
    assert len(world.serving()) == 4


def test_new_engines_of_another_size_come_up_beside_those_that_serve_where_there_is_room():
    world = World(3)
    assert world.fill(a_shape(2, 4))
    new = a_shape(4, 4, rollout={"maxSurge": 1})
    plan = world.plan(new)
    assert not plan.removals
    assert [create.engine.pods for create in plan.creates] == [1]
    world.change(new)
    assert world.is_there(new)


def test_without_room_for_one_beside_an_engine_of_another_size_makes_way_in_place():
    world = World(1)
    assert world.fill(a_shape(2, 4))
    new = a_shape(4, 2, rollout={"maxSurge": 1})
    plan = world.change(new)
    assert world.is_there(new), plan.waiting


# --- a random walk

SECONDS = 6.0
GPUS = 4  # of a node
BUDGETS: tuple[int | str, ...] = (1, 1, 2, "50%", "100%")


def any_shape(
    rng: random.Random, nodes: int, *, gated: bool, ids: bool, surge: int | str = 0
) -> Callable[[int | str], Pool]:
    """Engines that nodes have room for, by the budget of their pool."""
    gpus = min(rng.choice([1, 2, 4, 8, 12]), nodes * GPUS)
    per_node = GPUS if gpus % GPUS == 0 or gpus < GPUS else 1
    per_node = rng.choice([per_node, per_node, 2 if gpus % 2 == 0 else 1, 1])
    full = nodes * GPUS // gpus
    count = max(1, rng.choice([full, full, full - 1]))
    weights, seed = {"gate": "Committed" if gated else "Off"}, rng.randrange(3)
    make = mapped if ids else a_shape

    def pool(budget: int | str) -> Pool:
        rollout = {"maxUnavailable": budget, "maxSurge": surge}
        return make(gpus, count, per_node, seed=seed, weights=weights, rollout=rollout)

    return pool


@pytest.mark.parametrize("ids", [True, False], ids=["mapping", "replicas"])
@pytest.mark.parametrize(
    ("gated", "surge"), [(True, 0), (False, 0), (False, "50%")], ids=["gated", "ungated", "surge"]
)
def test_any_change_of_shapes_comes_to_the_wanted_pool_or_says_why_not(ids, gated, surge):
    end, seed, ended = time.monotonic() + SECONDS / 6, 0, 0
    while time.monotonic() < end or seed < 5:
        seed += 1
        rng = random.Random(seed)
        nodes, seen = rng.choice([2, 3, 4]), rng.random() < 0.7
        old, made = (any_shape(rng, nodes, gated=gated, ids=ids, surge=surge) for _ in range(2))
        new = made(rng.choice(BUDGETS))
        spare = rng.choice([0, 0, 1])
        world = World(nodes + spare, GPUS, seed, seen=seen)
        if not world.fill(old(1)):
            continue  # the scheduler has scattered pods of several engines
        plan = world.change(new)
        for _ in range(4):  # the user does what the message says
            if world.is_there(new) or plan.waiting is None:
                break
            assert plan.waiting.what is Waits.FOR_ROOM, seed
            assert plan.waiting.needed > new.max_unavailable, seed
            new = made(plan.waiting.needed)
            plan = world.change(new)
        assert world.is_there(new), (seed, plan.waiting)
        ended += 1
    assert ended


# --- engines that a partition keeps at a revision that came between


@pytest.mark.parametrize("partition", [0, 1, 5])
def test_one_of_a_revision_between_that_finds_no_place_says_so_whatever_the_partition(partition):
    """It is replaced by nobody below the partition: it waits for room like any."""
    rollout = {"maxUnavailable": 1, "partition": partition}
    old, between = mapped(1, 24), mapped(8, 3, rollout=rollout)
    now = between if partition == 0 else mapped(8, 3, seed=9, rollout=rollout)
    waits = built_pod(
        between,
        between.engines[0],
        created=NOW - 1000,
        containers_ready=False,
        engine_runs=False,
        node="",
        phase="Pending",
        unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        limits=((RESOURCE, 8),),
    )
    left = [
        built_pod(old, e, ready=True, node=f"n{e.rank // 8}", limits=((RESOURCE, 1),))
        for e in old.engines[8:]
    ]
    found = planned(now, [waits, *left])
    assert not found.removals
    assert found.waiting is not None
    assert found.waiting.what is Waits.FOR_ROOM
    assert found.waiting.needed == 2
    more = mapped(8, 3, seed=9, rollout={"maxUnavailable": "100%", "partition": partition})
    assert planned(more, [waits, *left]).removals
