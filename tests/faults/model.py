"""A small API server and kubelets in memory, and the pure planner between them.

Every byte of a walk is one step: a pass of the planner (whole, cut short by a crash, or on an old
snapshot), something a kubelet or a node does, or something a user does.  What the planner may do
is checked at each pass, and after a walk the world must come to rest as the spec says.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from sglang_operator.api import names
from sglang_operator.children import engine_pod
from sglang_operator.observed import groups, sightings
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Believed, Health, Tally, health, silence
from sglang_operator.observed.model import Gate, Observed, ObservedNode, ObservedPod, Termination
from sglang_operator.plan.plan import CreateEngine, Plan, plan
from sglang_operator.pool.resolve import Owner, Pool, resolve_pool
from tests.builders import NOW, OWNER, a_pod, guide_spec

MAPPINGS = (
    "list(range(0,8))",
    "list(range(4,12))",
    "list(range(0,4))",
    "list(range(1,7))",
    "[4, 5, 0, 1]",
    "list(range(8,16))",
    "[1, 0, 3, 2, 5, 4, 7, 6]",
)
CAPACITY = (4, 4, 2, 3, 2, 4, 4)
PASSES = 80  # in which a world that is left alone must come to rest


@lru_cache(maxsize=4096)
def _pool(
    uid: str,
    mapping: int,
    replicas: int,
    version: int,
    gated: bool,
    suspend: bool,
    budget: int,
    wait: bool,
    per_node: int,
    surge: int,
) -> Pool:
    owner = Owner(name=OWNER.name, namespace=OWNER.namespace, uid=names.Uid(uid), generation=1)
    spec = guide_spec(
        device_mapping=MAPPINGS[mapping],
        replicas=min(replicas, CAPACITY[mapping]),
        seed=version,
        weights={"gate": "Committed" if gated else "Off"},
        suspend=suspend,
        rollout={"maxUnavailable": budget, "maxSurge": 0 if gated else surge},
        restart={"onNodeLost": "Wait" if wait else "Replace"},
        num_gpus_per_node=per_node,
    )
    made = resolve_pool(owner, spec)
    assert isinstance(made, Pool), made
    return made


class Model:
    """The world of one pool.  ``step`` raises AssertionError when a promise is broken."""

    PER_NODE = 8  # GPUs: each engine is one pod
    SURGES = False  # its pools have no gate, and maxSurge
    steps: tuple[Callable[[Model, int], None], ...]

    def __init__(self) -> None:
        self.now = NOW
        self.version = 100
        self.pods: dict[str, ObservedPod] = {}
        self.old: dict[str, tuple[names.EngineName, int]] = {}  # pods of earlier pools of the name
        self.nodes = {name: ObservedNode(name=name) for name in ("n0", "n1", "n2")}
        self.recorded: set[names.Uid] = set()
        self.snapshots: deque[tuple[ObservedPod, ...]] = deque(maxlen=32)
        self.born = 0
        self.mapping, self.replicas, self.seed, self.budget = 0, 4, 1, 1
        self.suspend = self.wait = False
        self.gated, self.surge = not self.SURGES, int(self.SURGES)

    @property
    def pool(self) -> Pool:
        return _pool(
            f"uid-{self.born}",
            self.mapping,
            self.replicas,
            self.seed,
            self.gated,
            self.suspend,
            self.budget,
            self.wait,
            self.PER_NODE,
            self.surge,
        )

    # --- steps

    def step(self, byte: int) -> None:
        """One step: the low bits say which, the others on what."""
        self.now += 1
        which, argument = byte % len(self.steps), byte // len(self.steps)
        self.steps[which](self, argument)
        self.snapshots.append(tuple(self.pods.values()))

    def whole_pass(self, _: int) -> None:
        self.run(tuple(self.pods.values()), fresh=True)

    def crashed_pass(self, argument: int) -> None:
        self.run(tuple(self.pods.values()), fresh=True, actions=argument % 5)
        self.recorded.clear()

    def stale_pass(self, argument: int) -> None:
        if self.snapshots:
            self.run(self.snapshots[argument * 2 % len(self.snapshots)], fresh=False)

    def start_pod(self, argument: int) -> None:
        """It answers: for the first time, or after it missed a probe or kubelet was silent."""
        ready = {"phase": "Running", "containers_ready": True, "engine_runs": True}
        waiting = [
            pod
            for pod in self.pods.values()
            if not pod.ended and not (pod.containers_ready and pod.ready == _let_in(pod))
            if self._met(pod)
        ]
        for pod in waiting[argument % max(1, len(waiting)) :][:1]:
            self._put(pod, answered=True, ready=_let_in(pod), **ready)

    def miss_probe(self, argument: int) -> None:
        """One engine that answered does not in time, or all of them."""
        up = [pod for pod in self.pods.values() if pod.containers_ready and not pod.ended]
        for pod in up if argument % 4 == 0 else up[argument % max(1, len(up)) :][:1]:
            self._put(pod, containers_ready=False, ready=False)

    def vanish(self, argument: int) -> None:
        """A pod is deleted by force: nobody sees it go."""
        if self.pods:
            gone = self.pods.pop(sorted(self.pods)[argument % len(self.pods)])
            for pod in [p for p in self.pods.values() if p.engine == gone.engine]:
                if pod.attempt == gone.attempt:  # as the store of pods remembers it
                    self.pods[pod.name] = sightings.bereft(pod, gone, self.now)

    def fail_pod(self, argument: int) -> None:
        end = Termination(exit_code=137, reason="Error", message="", finished=self.now)
        running = {"phase": "Failed", "containers_ready": False, "ready": False}
        running["engine_runs"] = False
        self._change(argument, lambda pod: not pod.ended, termination=end, **running)

    def remove_pod(self, argument: int) -> None:
        """A pod that is being deleted is gone."""
        dying = [pod for pod in self.pods.values() if pod.deleting]
        if dying:
            del self.pods[dying[argument % len(dying)].name]

    def delete_pod(self, argument: int) -> None:
        self._change(argument, lambda pod: not pod.deleting, deleting=True)

    def open_gate(self, argument: int) -> None:
        gate = Gate(is_open=True)
        closed = lambda pod: pod.containers_ready and pod.gated  # noqa: E731
        self._change(argument, closed, ready=True, gate=gate)

    def move(self, argument: int) -> None:
        self.mapping = argument % len(MAPPINGS)

    def scale(self, argument: int) -> None:
        self.replicas = argument % 5

    def revise(self, argument: int) -> None:
        self.seed = argument % 3 + 1
        self.budget = argument // 4 + 1
        self.gated = argument % 5 != 4 and not self.SURGES
        self.surge = argument % 4 if self.SURGES else 0

    def suspended(self, argument: int) -> None:
        self.suspend, self.wait = argument % 4 == 0, argument // 4 % 2 == 1

    def advance(self, argument: int) -> None:
        self.now += 7.0 * (argument + 1)

    def flip_node(self, argument: int) -> None:
        node = self.nodes[f"n{argument % 3}"]
        self.nodes[node.name] = replace(
            node, ready=not node.ready, unready=self.now, gone=argument > 12
        )
        if node.ready:  # Kubernetes says so of each of its pods, and kubelets nothing
            for pod in [pod for pod in self.pods.values() if pod.node == node.name]:
                self._put(pod, ready=False)

    def recreate(self, argument: int) -> None:
        """The pool is deleted and created again; its pods wait for the garbage collector."""
        if argument % 4 == 0:
            self.old = {pod.name: (pod.engine, pod.attempt) for pod in self.pods.values()}
            self.pods, self.recorded, self.born = {}, set(), self.born + 1
            self.snapshots.clear()

    def collect(self, _: int) -> None:
        self.old.clear()

    def upset(
        self, kinds: Sequence[tuple[str, str, bool]], *, lost: bool, waits: bool, twice: bool
    ) -> None:
        """All at once each engine is as it can be: a state of ``STANDING``, a node, a revision."""
        self.now += 1
        self.wait = waits
        self.nodes = {name: ObservedNode(name=name) for name in self.nodes}
        self.nodes["n2"] = replace(self.nodes["n2"], ready=not lost, unready=self.now - 60)
        stands = [pod for pod in self.pods.values() if not (pod.ended or pod.deleting)]
        stands = [pod for pod in stands if pod.nodes == 1 or self._met(pod)]
        if twice and stands:  # a delete that was refused, of an engine that is back with its node
            pod = stands[len(kinds) % len(stands)]
            attempt = pod.attempt + 1
            for each in [p for p in stands if (p.engine, p.attempt) == (pod.engine, pod.attempt)]:
                rank = each.node_rank if each.nodes > 1 else None
                name = names.pod_name(self.pool.owner.name, pod.engine, attempt, rank)
                if name not in self.pods:
                    uid = names.Uid(f"{name}-{self.version}")
                    again = replace(each, name=name, uid=uid, attempt=attempt, created=self.now)
                    stands.append(again)
        for group, (kind, on, old) in zip(groups.of(stands), itertools.cycle(kinds), strict=False):
            for pod in group.members:
                state = dict(STANDING[kind], node=on if kind != "pending" else "")
                if (on == "n2" and lost) or pod.node_rank:
                    state["ready"] = False
                if not pod.gated:
                    state["gate"] = None
                self._put(pod, **state, revision="0" * 10 if old else self.pool.revision)

    # --- the operator

    def observed(self, pods: tuple[ObservedPod, ...]) -> Observed:
        taken: dict[names.EngineName, int] = {}
        for engine, attempt in self.old.values():
            taken[engine] = max(attempt, taken.get(engine, -1))
        return Observed(pods=pods, taken=taken, nodes=self.nodes, recorded=frozenset(self.recorded))

    def run(self, pods: tuple[ObservedPod, ...], *, fresh: bool, actions: int = 1000) -> Plan:
        """One pass on this snapshot; the API server refuses what the snapshot was wrong about."""
        pool = self.pool
        result = plan(pool, self.observed(pods), self.now)
        if fresh:
            self.check(pool, pods, result)
        for removal in result.removals[:actions]:
            there = self.pods.get(removal.pod.name)
            if there and there.resource_version == removal.pod.resource_version:
                self._put(there, deleting=True)
        creates = [(create, rank) for create in result.creates for rank in create.node_ranks]
        for create, rank in creates[: max(0, actions - len(result.removals))]:
            name = engine_pod.member_name(pool, create.engine, create.attempt, rank)
            if name not in self.pods and name not in self.old:
                self._create(pool, name, create, rank)
        if actions == 1000:
            self.recorded |= {pod.uid for pod in result.ended}
        return result

    def check(self, pool: Pool, pods: tuple[ObservedPod, ...], result: Plan) -> None:
        """I1 to I3, I5 and I6 of what is decided on the present world."""
        nodes = Believed(
            self.nodes, silence(self.nodes, self.now), Tally(self.nodes.values()).falls()
        )
        states = {pod.name: health(pod, nodes, pool.spec.restart, self.now) for pod in pods}
        wanted = {engine.name: engine for engine in pool.running}
        leaving = {removal.pod.name for removal in result.removals}
        assert leaving <= {pod.name for pod in pods}, "I3: a pod that is not there is removed"
        every = groups.of(pods)
        for group in every:
            self._check_members(group, states, leaving)
        live = [g for g in every if self._is_live(g, states)]
        staying = [group for group in live if group.first.name not in leaving]
        kinds = [(g.engine, not pool.max_surge or pool.accepts(g.revision)) for g in staying]
        assert len(kinds) == len(set(kinds)), "I1: two live groups of an engine are kept"
        held = {device: group for group in staying for device in group.devices}
        for create in result.creates:
            name = create.engine.name
            assert name in wanted, "I2: an engine that is not wanted is created"
            begun = [group for group in live if group.engine == name]
            stays = [group for group in begun if group in staying]
            assert bool(stays) == bool(begun), "I6: an engine that goes is completed"
            stays = [g for g in stays if not pool.max_surge or pool.accepts(g.revision)]
            for group in stays:
                assert create.attempt == group.attempt, "I1: a live engine is created again"
                assert set(create.node_ranks) <= set(group.missing), "I1: a pod is made twice"
            others = {held[device] for device in create.engine.devices if device in held}
            assert {group.engine for group in others} <= {name}, "I1: GPUs are given out twice"
            if len(create.node_ranks) < create.engine.pods and 0 in create.node_ranks:
                assert [group.missing for group in stays] == [(0,)], "I6: the leader is not last"
        creating = [create.engine.name for create in result.creates]
        assert len(creating) == len(set(creating)), "I1: an engine is created twice"
        kept = {group.engine for group in staying if group.engine in wanted}
        assert len(kept | set(creating)) <= pool.active, "I2: more groups than engines"
        there = {(group.engine, group.attempt) for group in staying if group.engine in wanted}
        after = there | {(create.engine.name, create.attempt) for create in result.creates}
        most = max(pool.max_surge, _doubled(there))
        assert _doubled(after) <= most, "I2: more engines beside others than maxSurge"
        up = [g for g in live if g.whole and all(states[p.name] is Health.UP for p in g.members)]
        serving = [group for group in up if group.ready]
        standing = [group for group in live if group in serving or _falters(group)]
        for before in (serving, standing):
            self._check_budget(pool, before, [group for group in before if group in staying])

    def _check_members(self, group: Group, states: Mapping[str, Health], leaving: set[str]) -> None:
        """I6: an engine is whole, about to be so, or all of it goes."""
        if group.size == 1:
            return
        there = {pod.name for pod in group.members if not (pod.deleting or pod.ended)}
        waits = self.wait and Health.LOST in [states[pod.name] for pod in group.members]
        if not self._is_live(group, states):
            draining = group.deleting and group.drains(self.now)
            assert there <= leaving or waits or draining, "I6: a part of an engine is left"
        first = group.drains(self.now) and there & leaving == {group.first.name}
        whole = there <= leaving or there.isdisjoint(leaving)
        assert whole or first, "I6: a part of an engine goes"

    def _is_live(self, group: Group, states: Mapping[str, Health]) -> bool:
        """Whether these pods are an engine, or may become one."""
        begun = group.leader is None and not any(
            pod.answered or pod.seen.headless for pod in group.members
        )
        well = all(states[pod.name] in _LIVE for pod in group.members)
        return well and (group.whole or begun)

    def _check_budget(self, pool: Pool, before: list[Group], after: list[Group]) -> None:
        """I5: by our own decision no more engines stop serving than the budget allows.

        ``before`` and ``after`` are the groups that clients reach, and once more with those that
        only miss a probe: however many do at a time, no more of them go than the budget allows.
        An engine whose GPUs are all in use by engines it replaces is stood in for; clearing its
        place may take three of those with it.
        """
        budget = pool.max_unavailable
        kept = {engine.name for engine in pool.running}
        if {group.engine for group in before} & kept - {group.engine for group in after}:
            left = {group.engine for group in after}
            assert pool.active - len(left) <= budget, "I5: fewer engines serve than allowed"
        newly = self._away(pool, after) - self._away(pool, before)
        assert len(newly) <= max(budget, 3), "I5: more engines made way than allowed"

    def _away(self, pool: Pool, up: list[Group]) -> set[names.EngineName]:
        covered = {device for group in up for device in group.devices}
        return {e.name for e in pool.running if not covered.issuperset(e.devices)}

    # --- the API server

    def _create(self, pool: Pool, name: str, create: CreateEngine, node_rank: int) -> None:
        self.version += 1
        well = [node.name for node in self.nodes.values() if node.ready and not node.gone]
        self.pods[name] = a_pod(
            pool,
            create.engine,
            create.attempt,
            node_rank=node_rank,
            uid=names.Uid(f"{name}-{self.version}"),
            resource_version=self.version,
            node=well[self.version % len(well)] if well else "",
            phase="Pending",
            created=self.now,
            containers_ready=False,
            failures=create.failures,
        )

    def _met(self, pod: ObservedPod) -> bool:
        """Whether all pods of its engine are there: before that, none gets past the rendezvous."""
        there = [p for p in self.pods.values() if p.engine == pod.engine]
        there = [p for p in there if p.attempt == pod.attempt and not (p.ended or p.deleting)]
        return len(there) == pod.nodes

    def _put(self, pod: ObservedPod, **changes: object) -> None:
        self.version += 1
        self.pods[pod.name] = replace(
            pod,
            resource_version=self.version,
            **changes,  # type: ignore[arg-type]
        )

    def _change(self, argument: int, which: object, **changes: object) -> None:
        found = [pod for pod in self.pods.values() if which(pod)]  # type: ignore[operator]
        if found:
            self._put(found[argument % len(found)], **changes)

    # --- at rest

    def settle(self) -> None:
        """Nothing is broken any more: the world comes to rest as the spec says (I10, I8)."""
        self.nodes = {name: ObservedNode(name=name) for name in self.nodes}
        self.old.clear()
        for _ in range(PASSES):
            known = set(self.recorded)
            result = self.run(tuple(self.pods.values()), fresh=True)
            # A failure that is recorded now lets its pod go in the next pass, or waits its time.
            idle = not result.creates and not result.removals and self.recorded <= known
            waits = result.wake_at is not None and result.wake_at <= self.now + 400
            if idle and not waits and not any(self._kubelets()):
                break
            list(self._kubelets(act=True))
            self.now += 400
        else:
            raise AssertionError(f"I10: not at rest after {PASSES} passes: {result}")
        at_rest = groups.of(self.pods.values())
        assert all(group.whole for group in at_rest), "I10: half an engine"
        engines = sorted(group.engine for group in at_rest)
        assert engines == sorted(engine.name for engine in self.pool.running), "I10: other engines"
        assert {pod.revision for pod in self.pods.values()} <= {self.pool.revision}, "I10: revision"

    def _kubelets(self, *, act: bool = False) -> list[str]:
        """The pods with which kubelets have something to do."""
        busy = [
            p
            for p in self.pods.values()
            if p.deleting or (not (p.ended or p.ready) and self._met(p))
        ]
        for pod in busy if act else ():
            if pod.deleting:
                del self.pods[pod.name]
            else:
                up = {"phase": "Running", "containers_ready": True, "ready": True, "answered": True}
                gate = Gate(is_open=True) if pod.gated else None
                self._put(pod, gate=gate, engine_runs=True, node="n0", **up)
        return [pod.name for pod in busy]


def _doubled(attempts: Collection[tuple[names.EngineName, int]]) -> int:
    """How many engines run twice."""
    return len(attempts) - len({engine for engine, _ in attempts})


def _let_in(pod: ObservedPod) -> bool:
    return not pod.gated or (pod.gate is not None and pod.gate.is_open)


def _falters(group: Group) -> bool:
    """It misses a probe, or kubelet has yet to say Ready."""
    answered = group.whole and all(pod.answered or pod.containers_ready for pod in group.members)
    leader = group.leader
    return leader is not None and _let_in(leader) and answered and not group.ready


_UP = {
    "phase": "Running",
    "containers_ready": True,
    "ready": False,
    "answered": True,
    "engine_runs": True,
    "gate": Gate(is_open=True),
}
_AWAY = {"containers_ready": False, "answered": False, "gate": None}
STANDING: Mapping[str, Mapping[str, object]] = {
    "pending": {**_UP, **_AWAY, "phase": "Pending", "engine_runs": False},
    "starting": {**_UP, **_AWAY},
    "serves": {**_UP, "ready": True},
    "misses a probe": {**_UP, "containers_ready": False},
    "silent": _UP,
    "unsynced": {**_UP, "gate": None},
    "closed": {**_UP, "gate": Gate(is_open=False)},
    "misses a probe behind its gate": {**_UP, "containers_ready": False, "gate": None},
}
_LIVE = (Health.UP, Health.STARTING, Health.PENDING)
STEPS = (
    Model.whole_pass,
    Model.crashed_pass,
    Model.stale_pass,
    Model.start_pod,
    Model.miss_probe,
    Model.fail_pod,
    Model.remove_pod,
    Model.delete_pod,
    Model.open_gate,
    Model.move,
    Model.scale,
    Model.revise,
    Model.suspended,
    Model.advance,
    Model.flip_node,
    Model.recreate,
    Model.collect,
)
Model.steps = STEPS


class GroupModel(Model):
    """The same of engines of two pods each; pods may also be gone without a word."""

    PER_NODE = 1
    steps = (*STEPS, Model.vanish)


class SurgeModel(Model):
    """The same of pools without a gate, in which new engines may come up beside old ones."""

    SURGES = True


class GroupSurgeModel(SurgeModel, GroupModel):
    """And of engines of two pods each."""
