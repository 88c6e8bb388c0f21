"""Plan and trainer in turns, until nothing moves: no change of a pool has them wait for each other.

The operator decides on pods and gates, a scheduler and kubelets do as they are told, and a trainer
syncs whenever the registry lets it.  What a pool without gates comes to, one with gates does too.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sglang_operator.api import names
from sglang_operator.children import trainer_registry
from sglang_operator.client.errors import NotReady
from sglang_operator.client.registry import Registry, parse
from sglang_operator.observed.model import EngineReport, Gate, Loading, ObservedNode, ObservedPod
from sglang_operator.plan.plan import Plan
from sglang_operator.plan.rollout_state import Waiting, Waits
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction, marked
from tests import builders
from tests.builders import NOW, a_lease_saying, a_pod, created, planned, weighed

RESOURCE = "nvidia.com/gpu"
GPUS, PER_NODE = 16, 8
STEPS, AT_REST = 200, 3
FULL, FREE = GPUS // PER_NODE, 2 * GPUS // PER_NODE
BUDGETS: dict[int, tuple[int | str, ...]] = {FULL: (1, "25%", "100%"), FREE: (1,)}
Spec = dict[str, Any]
# The pool before a change: engines of two GPUs on all ids.
BEFORE: Spec = {"num_gpus_per_worker": 2, "device_mapping": f"list(range(0,{GPUS}))"}
# Changes of the same engines: these may wait for a sync, which covers all of them.
IN_PLACE: dict[str, Spec] = {
    "another image": {"seed": 7},
    "another image to a part": {"seed": 7, "rollout": {"partition": 3}},
    "fewer engines": {"replicas": 4},
    "fewer engines of another image": {"replicas": 4, "seed": 7},
    "another order": {"device_mapping": "list(range(8,16)) + list(range(0,8))"},
    "paused": {"seed": 7, "rollout": {"paused": True}},
}
MOVED: dict[str, Spec] = {
    "half of the ids": {"device_mapping": "list(range(8,24))"},
    "half of the ids, another image": {"device_mapping": "list(range(8,24))", "seed": 7},
    "a quarter of the ids": {"device_mapping": "list(range(4,20))"},
    "all other ids": {"device_mapping": "list(range(16,32))"},
    "half as many": {"device_mapping": "list(range(0,8))"},
}
SIZES: dict[str, tuple[Spec, Spec]] = {
    f"{a} to {b} GPUs": ({"num_gpus_per_worker": a}, {"num_gpus_per_worker": b})
    for a, b in itertools.permutations((1, 2, 4, 8), 2)
}
CHANGES: dict[str, tuple[Spec, Spec]] = {
    **{name: ({}, change) for name, change in {**IN_PLACE, **MOVED}.items()},
    **SIZES,
    "2 to 4 GPUs, half of the ids": ({}, {"num_gpus_per_worker": 4, **MOVED["half of the ids"]}),
}


@functools.cache
def _resolved(text: str) -> Pool:
    return builders.a_pool(json.loads(text))


def a_pool(gate: str, budget: int | str = 1, **changes: Any) -> Pool:
    """The pool with this gate, whose engines load no weights of their own where it has one."""
    config = {"mem_fraction_static": 0.7, "load_format": "auto" if gate == "Off" else "dummy"}
    raw = builders.guide_spec(
        strategy_args={"strategy_name": "sglang", "strategy_config": config},
        weights={"gate": gate},
        **{
            **BEFORE,
            **changes,
            "rollout": {"maxUnavailable": budget, **changes.get("rollout", {})},
        },
    )
    return _resolved(json.dumps(raw))


class World:
    """Nodes, the pods on them, and the Lease of the weights."""

    def __init__(self, pool: Pool, nodes: int, phase: Phase) -> None:
        self.pool, self.now, self.ids, self.syncs = pool, NOW, itertools.count(), 0
        self.nodes = {
            f"n{i}": ObservedNode(name=f"n{i}", resources={RESOURCE: PER_NODE})
            for i in range(nodes)
        }
        self.pods: dict[str, ObservedPod] = {}
        self.state, self.labels = Transaction(), dict[str, str]()
        for engine in pool.running:
            self._put(self._run(a_pod(pool, engine, node=""), pool.gpus))
        self.commit([pod.instance for pod in self.pods.values() if pod.instance])
        if phase is not Phase.COMMITTED:
            asleep = phase is Phase.SLEEPING
            self.state = dataclasses.replace(
                self.state,
                phase=phase,
                released=SLEEP_TAGS if asleep else (),
                asleep=tuple(sorted(self.state.instances)) if asleep else (),
            )
        self.move_gates()

    def _put(self, pod: ObservedPod) -> None:
        self.pods[pod.name] = pod

    def add(self, pod: ObservedPod) -> None:
        """One pod more, wherever it finds a place."""
        self._put(self._run(pod, len(pod.devices)))

    def _run(self, pod: ObservedPod, gpus: int) -> ObservedPod:
        """The pod once a scheduler and a kubelet have seen it."""
        number = next(self.ids)
        held = dict.fromkeys(self.nodes, 0)
        for other in self.pods.values():
            if other.node and other.name != pod.name:
                held[other.node] += len(other.devices)
        node = next((n for n, count in held.items() if count + gpus <= PER_NODE), "")
        return dataclasses.replace(
            pod,
            uid=names.Uid(f"uid-{number}"),
            node=node,
            container_id=f"c{number}" if node else "",
            ip=f"10.0.0.{number}" if node else "",
            phase="Running" if node else "Pending",
            containers_ready=bool(node),
            engine_runs=bool(node),
            ready=bool(node) and not pod.gated,
            unschedulable="" if node else f"0/3 nodes are available: 3 Insufficient {RESOURCE}.",
        )

    @property
    def seen(self) -> dict[str, Any]:
        """What the operator sees beside the pods; engines tell the version that they hold."""
        runs = [run for pod in self.pods.values() if (run := pod.instance)]
        reports = {
            run: EngineReport(instance=run, weight_version=self.labels.get(run, "unsynced"))
            for run in runs
        }
        return {
            "nodes": self.nodes,
            "children": a_lease_saying(self.pool, self.state, seen=self.now),
            "last_gone": self.now - 30,
            "reports": reports,
        }

    def step(self) -> tuple[Plan, bool]:
        """The operator's turn; the plan, and whether anything moved."""
        self.now += 60
        plan = planned(self.pool, list(self.pods.values()), self.now, **self.seen)
        for removal in plan.removals:
            del self.pods[removal.pod.name]
        for create in plan.creates:
            pod = a_pod(self.pool, create.engine, create.attempt, created=self.now)
            self._put(self._run(pod, self.pool.gpus))
        for pod in list(self.pods.values()):
            if not pod.node:
                self._put(self._run(pod, self.pool.gpus))
        return plan, bool(plan.removals or plan.creates) or self.move_gates()

    def move_gates(self) -> bool:
        """Gates are as they have to be, and kubelet says of pods what follows."""
        changes = weighed(self.pool, list(self.pods.values()), self.now, **self.seen).gates
        for change in changes:
            gate = Gate(
                is_open=change.is_open,
                reason=change.reason,
                version=change.message if change.is_open else "",
                released=None if change.is_open else marked(change.message),
            )
            pod = self.pods[change.pod.name]
            self._put(dataclasses.replace(pod, gate=gate, ready=change.is_open and pod.node != ""))
        return bool(changes)

    # --- the trainer

    def registry(self) -> Registry:
        """What a trainer reads."""
        plan = weighed(self.pool, list(self.pods.values()), self.now, **self.seen)
        text = json.dumps(trainer_registry.document(self.pool, plan))
        return parse({"metadata": {"resourceVersion": "1"}, "data": {"engines.json": text}})

    def train(self) -> str:
        """The trainer's turn: it wakes engines, then syncs all of them; why it cannot, if so."""
        if self.state.phase is Phase.SLEEPING:
            self.state = dataclasses.replace(
                self.state, phase=Phase.AWAKE, released=(), asleep=(), intact=False
            )
            return ""
        registry = self.registry()
        try:
            registry.require_for_sync()
        except NotReady as error:
            return str(error)
        self.commit([engine.instance for engine in registry.engines if engine.instance])
        return ""

    def commit(self, runs: list[str]) -> None:
        """A sync of these."""
        self.syncs += 1
        version = f"step-{self.syncs}"
        self.labels.update(dict.fromkeys(runs, version))
        self.state = Transaction(
            phase=Phase.COMMITTED,
            id=f"t{self.syncs}",
            version=version,
            target_version=version,
            instances=frozenset(runs),
            intact=True,
        )

    # --- what comes of it

    def serving(self) -> int:
        """GPUs that clients reach."""
        return sum(len(pod.devices) for pod in self.pods.values() if pod.ready)

    def outcome(self) -> tuple[Any, ...]:
        """The engines that run, their revisions, and whether clients reach them."""
        revisions = self.pool.accepted
        pods = self.pods.values()
        return tuple(sorted((p.engine, p.revision in revisions, p.ready) for p in pods))

    def play(self) -> Iterator[tuple[Plan, str]]:
        """Turns of both until nothing changes: each plan, and why no sync can begin."""
        quiet, last = 0, None
        for _ in range(STEPS):
            plan, moved = self.step()
            why = "" if moved else self.train()
            yield plan, why
            # A trainer that can sync does so for ever: what counts is what comes of it.
            now = self.outcome()
            quiet = 0 if moved and now != last else quiet + 1
            last = now
            if quiet > AT_REST:
                return
        raise AssertionError(f"it does not come to rest: {self.outcome()}")


def played(
    gate: str,
    first: dict[str, Any],
    then: dict[str, Any],
    budget: int | str,
    nodes: int,
    phase: Phase,
) -> tuple[World, Waiting | None, str]:
    """The world at rest after the change, what the rollout waits for, and the trainer."""
    world = World(a_pool(gate, budget, **first), nodes, phase)
    world.pool = a_pool(gate, budget, **then)
    waiting, why = None, ""
    for plan, why in world.play():
        waiting = plan.waiting
        if why and waiting is not None and not plan.removals:
            assert waiting.what is not Waits.FOR_WEIGHTS, f"both wait: {why}"
    return world, waiting, why


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("nodes", [FULL, FREE], ids=["full nodes", "free nodes"])
def test_a_gated_pool_comes_to_what_one_without_gates_does(change, nodes):
    first, then = CHANGES[change]
    for budget in BUDGETS[nodes]:
        without, _, _ = played("Off", first, then, budget, nodes, Phase.COMMITTED)
        world, waiting, why = played("Committed", first, then, budget, nodes, Phase.COMMITTED)
        assert world.outcome() == without.outcome(), (budget, waiting, why)
        assert not why, (budget, waiting)
        assert world.syncs > 1


@pytest.mark.parametrize(
    "change", ["another image", "half of the ids", "2 to 4 GPUs", "2 to 1 GPUs"]
)
@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
@pytest.mark.parametrize("phase", [Phase.COMMITTED, Phase.SLEEPING, Phase.AWAKE, Phase.ABORTED])
def test_wherever_the_weights_stand_the_next_sync_comes(change, gate, phase):
    first, then = CHANGES[change]
    world, waiting, why = played(gate, first, then, 1, FULL, phase)
    assert not why, waiting
    wanted = sorted(engine.name for engine in world.pool.running)
    assert [name for name, _, ready in world.outcome() if ready] == wanted


@pytest.mark.parametrize("change", IN_PLACE, ids=str)
@pytest.mark.parametrize("budget", [1, "25%"])
def test_what_a_sync_can_reach_waits_for_it_within_the_budget(change, budget):
    world = World(a_pool("Committed", budget), FULL, Phase.COMMITTED)
    world.pool = a_pool("Committed", budget, **IN_PLACE[change])
    least = (world.pool.active - world.pool.max_unavailable) * world.pool.gpus
    for plan, why in world.play():
        assert world.serving() >= least, plan.removals
        assert not why


def test_engines_that_a_partition_keeps_without_weights_hold_up_nobody():
    """The rest of an earlier change to other ids has the GPUs that the last engine needs."""
    ids: Spec = {"num_gpus_per_worker": 2, "device_mapping": "list(range(8,16))"}
    part: Spec = {"rollout": {"partition": 2}}
    before = a_pool("Committed", device_mapping="list(range(0,8))")
    old, new = a_pool("Committed", **ids, **part), a_pool("Committed", **ids, **part, seed=5)
    world = World(before, 1, Phase.COMMITTED)  # one node: eight GPUs
    for name in [pod.name for pod in world.pods.values()][1:]:
        del world.pods[name]
    world.pool = new
    for pool, engine in [(old, 0), (old, 1), (new, 2), (new, 3)]:
        world.add(a_pod(pool, pool.running[engine], node=""))
    assert [pod.node for pod in world.pods.values()].count("") == 1
    *_, (plan, why) = world.play()
    assert not why, plan.waiting
    assert sorted(name for name, _, _ in world.outcome()) == sorted(e.name for e in new.running)


def test_other_groups_come_at_the_pace_of_max_unavailable():
    world = World(a_pool("Committed"), FULL, Phase.COMMITTED)
    world.pool = a_pool("Committed", num_gpus_per_worker=4)
    steps = [plan for plan, _ in world.play() if plan.removals]
    assert [len(plan.removals) for plan in steps] == [2, 2, 2, 2]


def test_while_an_engine_is_on_its_way_no_other_makes_way_for_groups():
    old, new = a_pool("Committed"), a_pool("Committed", num_gpus_per_worker=4)
    world = World(old, FULL, Phase.COMMITTED)
    world.pool = new
    world.step()
    world.step()
    (name,) = [pod.name for pod in world.pods.values() if pod.revision == new.revision]
    world.pods[name] = dataclasses.replace(world.pods[name], containers_ready=False)
    assert not planned(new, list(world.pods.values()), world.now, **world.seen).removals


def test_an_engine_that_loads_the_committed_checkpoint_is_waited_for():
    weights = {"gate": "Committed", "recovery": "FromCheckpoint"}
    old, new = (
        builders.a_pool(
            weights=weights, num_gpus_per_worker=size, device_mapping="list(range(0,8))"
        )
        for size in (2, 4)
    )
    opened = Gate(is_open=True, version="step-1")
    pods = [
        *(a_pod(old, e, ready=True, gate=opened, container_id=e.name) for e in old.running[2:]),
        a_pod(new, new.running[0], container_id="new"),
    ]
    state = Transaction(phase=Phase.COMMITTED, id="t", version="step-1", checkpoint="/step-1")
    lease = a_lease_saying(new, state)
    assert not planned(new, pods, children=lease).removals
    failed = Loading(path="/step-1", version="step-1", commit="t", error="no such file")
    run = pods[-1].instance or ""
    reports = {run: EngineReport(instance=run, loading=failed)}
    assert len(planned(new, pods, children=lease, reports=reports).removals) == 2


@pytest.mark.parametrize("phase", [Phase.SYNCING, Phase.SLEEPING])
def test_engines_on_other_gpus_that_a_trainer_keeps_are_said_to_wait(phase):
    world = World(a_pool("Committed"), FREE, Phase.COMMITTED)
    world.pool = a_pool("Committed", device_mapping="list(range(16,32))")
    world.state = dataclasses.replace(world.state, phase=phase, holder="trainer")
    world.step()
    plan, _ = world.step()
    assert plan.waiting is not None
    assert not created(plan)
