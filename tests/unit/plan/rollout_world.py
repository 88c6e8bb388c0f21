"""A world in which rollouts are replayed: pods that come up when a table says so, and a scheduler.

What a table may say stands in ``rollouts/README.md``.  All the world does by itself is what a
cluster would: pods that are created appear, and get a place where there is one; pods that are
removed are gone, and their places free; failures are recorded, so that ended pods may go.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sglang_operator.api import conditions
from sglang_operator.api.names import EngineName
from sglang_operator.api.spec import RolloutWindow
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import groups
from sglang_operator.observed.model import Gate, Observed, ObservedNode, ObservedPod
from sglang_operator.observed.moment import Moment, Steps
from sglang_operator.plan import turns
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Pool
from sglang_operator.status import compute
from tests.builders import NOW, a_failed_start, a_lease, a_pod, a_pool, a_registry, weighed

GPUS = 2
OLD = "0" * 10
OPEN = Gate(is_open=True, version="step-9")
CLOSED = Gate(is_open=False, version="", reason="NotCovered")
NO_PLACE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
LOADS = {"strategy_name": "sglang", "strategy_config": {"mem_fraction_static": 0.7}}
Json = dict[str, Any]


class World:
    """One pool, its pods, the room that they find, and what a trainer does."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        told = dict(case.get("pool") or {})
        self.count = told.pop("engines", 4)
        self.size = told.pop("pods", 1)
        gpus = GPUS if self.size == 1 else 8 * self.size
        spec: Json = {
            "num_gpus_per_worker": gpus,
            "device_mapping": f"list(range(0,{self.count * gpus}))",
        }
        if not told.pop("gated", False):
            spec["strategy_args"] = LOADS
        self.spec = {**spec, **told}
        self.pool: Pool = a_pool(**self.spec)
        self.room: int | None = case.get("room")  # engines that find a place beside the first
        self.seen: int | None = case.get("seen")  # the same as the nodes have it, if they are read
        self.now = NOW
        self.phase = ""
        self.refused = False  # the API server takes no pod
        self.dry_run = ""  # "refused" or "doubted"
        self.last_gone = 0.0
        self.committed: float | None = None  # when a commit was seen to come about
        self.rolling = Moment(wall=NOW, steady=NOW)
        self.told: dict[EngineName, str] = {}  # by the registry: the instance of each engine
        self.covered: frozenset[str] = frozenset()  # by the last commit
        self.pods: list[ObservedPod] = []
        for engine in self.pool.running:
            if engine.rank not in (case.get("without") or ()):
                self._make(engine.rank, 0, revision=OLD, ready=True, containers_ready=True)
        if case.get("closed"):
            self.pods = [dataclasses.replace(p, ready=False, gate=None) for p in self.pods]
        there = groups.of(self.pods)
        self.told = {group.engine: group.instance for group in there if group.instance}

    # --- what happens

    def happens(self, event: str) -> None:
        """One event of a table."""
        first, _, rest = event.partition(" ")
        if first == "old":
            rank, _, what = rest.partition(" ")
            self._engine(int(rank), what, min)
        elif first.isdecimal() and rest in ("s", "seconds"):
            self.now += int(first)
        elif first.isdecimal():
            self._engine(int(first), rest)
        elif first == "admission":
            self.dry_run = {"refuses": "refused", "doubts": "doubted", "takes": ""}[rest]
        elif first == "quota":
            self.refused = rest == "refuses"
        elif event == "commit":
            self._commit()
        elif event == "covered":
            self._commit()
            self.pods = [dataclasses.replace(p, ready=False, gate=None) for p in self.pods]
        elif event == "another operator":
            self.committed = None  # it has seen none
        elif event in ("sync", "sleep"):
            self.phase = {"sync": "Syncing", "sleep": "Sleeping"}[event]
        elif event == "free":
            self.phase = ""
        elif first == "room":
            self.room = int(rest)
        else:
            raise ValueError(f"no such event: {event}")
        self._schedule()

    def _commit(self) -> None:
        """A trainer has synced the engines of which the registry tells."""
        self.phase, self.committed = "Committed", self.now
        listed = set(self.told.values())
        self.covered = frozenset(
            group.instance
            for group in groups.of(self.pods)
            if group.instance in listed and group.containers_ready
        )
        self._gates()

    def _gates(self) -> None:
        """What the commit covers is open, and nothing else."""
        covered = {
            pod.uid
            for group in groups.of(self.pods)
            if not self.pool.gated or group.instance in self.covered
            for pod in group.members
        }
        self.pods = [
            (_open(pod) if pod.uid in covered else _closed(pod)) if pod.containers_ready else pod
            for pod in self.pods
        ]

    def change(self, spec: Mapping[str, Any]) -> None:
        """Somebody edits the pool."""
        self.spec |= spec
        before, self.pool = self.pool.revision, a_pool(**self.spec)
        if self.pool.revision != before:
            self.rolling = Moment(wall=self.now, steady=self.now)

    def _engine(self, rank: int, what: str, which: Callable[[list[int]], int] = max) -> None:
        name = self.pool.engines[rank].name
        attempts = [pod.attempt for pod in self.pods if pod.engine == name and not pod.ended]
        self.becomes(name, which(attempts), what)

    def becomes(self, name: EngineName, attempt: int, what: str) -> None:
        """What becomes of the pods of this attempt of an engine."""
        changes: Mapping[str, Any] = {
            "up": {"containers_ready": True, "ready": not self.pool.gated, "answered": True},
            "misses a probe": {"containers_ready": False, "ready": False, "answered": True},
            "dies": {"containers_ready": False, "ready": False, "engine_runs": False},
        }.get(what, {})
        for index, pod in enumerate(self.pods):
            if pod.engine != name or pod.attempt != attempt:
                continue
            if what == "fails":
                self.pods[index] = self._failed(pod)
            elif what == "loads":
                pass  # below: an engine as a whole has weights
            elif what == "is deleted":
                self.pods[index] = dataclasses.replace(pod, phase="")  # is left out below
            else:
                assert changes, f"no such event: {what}"
                assert pod.node, f"{pod.name} has no place"
                self.pods[index] = dataclasses.replace(pod, **changes)
        self.pods = [pod for pod in self.pods if pod.phase]
        if what == "loads":
            runs = (g for g in groups.of(self.pods) if (g.engine, g.attempt) == (name, attempt))
            self.covered |= {group.instance for group in runs if group.instance}
            self._gates()

    def _failed(self, pod: ObservedPod) -> ObservedPod:
        engine = next(e for e in self.pool.engines if e.name == pod.engine)
        return a_failed_start(
            self.pool,
            engine,
            pod.attempt,
            revision=pod.revision,
            startup_failures=pod.startup_failures,
            failures=pod.failures,
            ended_at=self.now,
            node=pod.node,
        )

    def comes_up(self) -> None:
        """Whatever has a place comes up, and a trainer gives all that are up their weights."""
        self.now += 20
        starting = [p for p in self.pods if p.node and not (p.ended or p.containers_ready)]
        for name, attempt in {(pod.engine, pod.attempt) for pod in starting}:
            mates = [p for p in self.pods if (p.engine, p.attempt) == (name, attempt)]
            if all(pod.node and self.is_whole(pod) for pod in mates):
                self.becomes(name, attempt, "up")
        wanted = {engine.name for engine in self.pool.running}
        if self.pool.gated and wanted <= {p.engine for p in self.pods if p.containers_ready}:
            self.happens("commit")

    def is_whole(self, pod: ObservedPod) -> bool:
        """Whether all pods of its engine are there with it."""
        mates = [p for p in self.pods if (p.engine, p.attempt) == (pod.engine, pod.attempt)]
        return pod.ended or len(mates) == pod.nodes

    def forget_failures(self) -> None:
        """Somebody deletes the pods that failed: what was given up is tried again."""
        self.pods = [pod for pod in self.pods if not pod.ended]

    def rank(self, pod: ObservedPod) -> int:
        """The rank of the engine that it is a pod of."""
        return next(e.rank for e in self.pool.engines if e.name == pod.engine)

    # --- what is decided, and what comes of it

    def plan(self) -> Plan:
        """What is decided now."""
        return plan(self.pool, self._observed(), self.now)

    def _publish(self, made: Plan) -> None:
        """The registry tells of the engines as they are."""
        engines = (made.heirs.get(engine.name, engine) for engine in made.engines)
        self.told = {each.name: each.instance for each in engines if each.instance}

    def _observed(self) -> Observed:
        doubted = refused = ""
        if self.dry_run == "refused":
            refused = self.pool.revision
        elif self.dry_run == "doubted":
            doubted = self.pool.revision
        nodes = None
        if self.seen is not None:
            gpus = (self.count + self.seen) * self.pool.gpus
            per_node = self.pool.gpus_per_pod if self.size > 1 else gpus
            nodes = {
                name: ObservedNode(name=name, resources={self.pool.resource: per_node})
                for name in (f"gpu-node-{n}" for n in range(gpus // per_node))
            }
        return Observed(
            pods=tuple(self.pods),
            nodes=nodes,
            children={**self._lease(), **a_registry(self.pool, self.told)},
            recorded=frozenset(pod.uid for pod in self.pods if pod.ended),
            creates_refused=self.refused,
            refused_revision=refused,
            doubted_revision=doubted,
            last_gone=self.last_gone,
            steps=Steps(committed=self.committed, rolling=self.rolling),
        )

    def _lease(self) -> dict[Any, Any]:
        if not self.phase:
            return {}
        said: Json = {
            "phase": self.phase,
            "version": OPEN.version,
            "checkpoint": "/ckpt/step-9",
        }
        if self.phase != "Committed":
            said["holder"] = "trainer"
        return a_lease(self.pool, **said, instances=",".join(sorted(self.covered)))

    def reason(self, made: Plan) -> str:
        """The reason by which the pool's status tells of it."""
        weights: GatePlan = weighed(
            self.pool, self.pods, self.now, children=self._observed().children
        )
        status = compute.compute(
            self.pool, made, weights, ignored=(), troubles=(), previous={}, now=self.now
        )
        found = conditions.find(status["conditions"], conditions.READY)
        assert found is not None
        return str(found["reason"])

    def carry_out(self, made: Plan) -> None:
        """What was decided comes about."""
        self._publish(made)
        gone = {removal.pod.uid for removal in made.removals}
        if gone:
            self.last_gone = self.now
        self.pods = [pod for pod in self.pods if pod.uid not in gone]
        for create in () if self.refused else made.creates:
            streak = create.streak
            for node_rank in create.node_ranks:
                self._make(
                    create.engine.rank,
                    create.attempt,
                    node_rank=node_rank,
                    failures=create.failures,
                    startup_failures=streak.count if streak else 0,
                    startup_reason=streak.reason if streak else "",
                )
        self._schedule()
        self.now += 1

    def _make(self, rank: int, attempt: int, **changes: Any) -> None:
        old = changes.get("ready", False)
        values: Json = {
            "containers_ready": False,
            "ready": False,
            "created": self.now,
            "node": "gpu-node-0" if old else "",
            "phase": "Running" if old else "Pending",
            "engine_runs": old,
            "answered": old,
            "gate": OPEN if old and self.pool.gated else None,
            **changes,
        }
        for node_rank in range(self.size) if old else (values.get("node_rank", 0),):
            values["node_rank"] = node_rank
            if old:
                values["node"] = f"gpu-node-{rank * self.size + node_rank if self.size > 1 else 0}"
            if old:
                values["container_id"] = f"containerd://{rank}-{attempt}-{node_rank}"
            self.pods.append(a_pod(self.pool, self.pool.engines[rank], attempt, **values))

    def _schedule(self) -> None:
        """Pods without a node get one while there is room, those that came first before others."""
        places = None if self.room is None else (self.count + self.room) * self.size
        held = {pod.node for pod in self.pods if pod.node and not pod.ended}
        free = [n for n in range(200) if self.size == 1 or f"gpu-node-{n}" not in held]
        for index, pod in enumerate(self.pods):
            if pod.node or pod.ended:
                continue
            taken = sum(bool(p.node) and not p.ended for p in self.pods)
            if places is not None and taken >= places:
                self.pods[index] = dataclasses.replace(pod, unschedulable=NO_PLACE)
                continue
            node = f"gpu-node-{free.pop(0)}" if self.size > 1 else "gpu-node-0"
            self.pods[index] = dataclasses.replace(
                pod,
                node=node,
                phase="Running",
                engine_runs=True,
                unschedulable="",
                container_id=f"containerd://{pod.name}",
            )

    # --- how it is told

    def actions(self, made: Plan) -> list[str]:
        """What is done, as tables have it: ``+3``, ``-3``; ends are not told."""
        ranks = {engine.name: engine.rank for engine in self.pool.engines}
        known = {(pod.engine, pod.attempt) for pod in self.pods}
        told = set()
        for create in made.creates:
            part = ""
            if self.size > 1:
                is_rest = (create.engine.name, create.attempt) in known
                part = " leader" if is_rest else " followers"
            told.add(f"+{create.engine.rank}{part}")
        for removal in made.removals:
            pod = removal.pod
            if not pod.ended:
                which = " new" if self.pool.accepts(pod.revision) else ""
                told.add(f"-{ranks[pod.engine]}{which}")
        return sorted(told)

    def serving(self, without: Iterable[str] = ()) -> int:
        """Engines that clients reach, but for those of these pods."""
        left = set(without)
        reached = [p for p in self.pods if p.ready and not p.node_rank and p.uid not in left]
        return len({pod.engine for pod in reached})

    def running(self, among: Iterable[str]) -> list[str]:
        """Of these pods those of wanted engines that have answered, and run on."""
        wanted = {engine.name for engine in self.pool.running}
        pods = [p for p in self.pods if p.engine in wanted and self.is_whole(p)]
        down = {(p.engine, p.attempt) for p in pods if p.ended or not p.engine_runs}
        runs = (p for p in pods if p.answered and (p.engine, p.attempt) not in down)
        found = set(among)
        return [p.name for p in runs if p.uid in found]

    def groups(self, without: Iterable[str] = (), new: Iterable[object] = ()) -> int:
        """Engines that run or are to, each as often as it does, but for those of these pods."""
        left = set(without)
        members: dict[object, int] = {}
        for pod in self.pods:
            if not pod.ended and pod.uid not in left:
                key = (pod.engine, pod.attempt)
                members[key] = members.get(key, 0) + 1
        # Of an old one whose leader has gone the others follow.
        olds = {(p.engine, p.attempt) for p in self.pods if not self.pool.accepts(p.revision)}
        there = {k for k, count in members.items() if count == self.size or k not in olds}
        return len(there | set(new))

    @property
    def amid(self) -> bool:
        """Whether a trainer's step is under way that is to be left alone."""
        rollout = self.pool.spec.rollout
        if rollout.window is RolloutWindow.ANYTIME or self.phase != "Committed":
            return False
        over = self.now >= self.rolling.steady + rollout.window_deadline_seconds
        seen = self.committed
        return not over and (seen is None or self.now >= seen + turns.BETWEEN_SECONDS)

    @property
    def updated(self) -> bool:
        """Whether each engine that is to be of the present revision is, alone and up."""
        partition = self.pool.spec.rollout.partition
        for engine in self.pool.running:
            own: Sequence[ObservedPod] = [p for p in self.pods if p.engine == engine.name]
            if len(own) != self.size or not all(pod.containers_ready for pod in own):
                return False
            accepted = all(self.pool.accepts(pod.revision) for pod in own)
            if engine.rank >= partition and not accepted:
                return False
        return True


def _open(pod: ObservedPod) -> ObservedPod:
    return dataclasses.replace(pod, ready=True, gate=OPEN if pod.gated else None)


def _closed(pod: ObservedPod) -> ObservedPod:
    return dataclasses.replace(pod, ready=False, gate=CLOSED) if pod.gated else pod
