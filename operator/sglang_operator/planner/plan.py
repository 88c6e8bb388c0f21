"""The decision: from the pool and what was seen to what each engine needs next.  Pure.

``plan(pool, observed, now)`` is level-triggered: it looks at what is there, not at what
happened, and calling it again on the same snapshot gives the same answer.  It reads top to
bottom as the rules do: sort the pods by engine, resolve extra pods, replace what is outdated,
clear what is obsolete, create what is missing, tidy what has ended.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from sglang_operator.api import names, spec
from sglang_operator.planner import health, restart, rollout
from sglang_operator.planner.health import Health
from sglang_operator.planner.observed import Observed, ObservedPod
from sglang_operator.planner.pool import Engine, Pool


class EngineState(Enum):
    """Where an engine stands, for status and registry."""

    IN_SERVICE = "InService"  # Ready: clients reach it
    UP = "Up"  # answers, but its gate is closed
    STARTING = "Starting"
    PENDING = "Pending"  # waits for a node
    LOST = "Lost"  # waits for its node (onNodeLost: Wait)
    BACKOFF = "Backoff"  # waits after failures
    WAITING = "Waiting"  # waits for GPUs of an engine that is being replaced
    CREATING = "Creating"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineView:
    """One wanted engine and the pod that stands for it, if any."""

    engine: Engine
    state: EngineState
    pod: ObservedPod | None = None
    current: bool = True  # of the pool's present revision


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateEngine:
    engine: Engine
    attempt: int
    failures: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovePod:
    pod: ObservedPod
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LostPod:
    """A pod that was given up with its node, and since when the node is lost."""

    pod: ObservedPod
    since: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now, how the engines stand, and when to look again without an event."""

    creates: tuple[CreateEngine, ...] = ()
    removals: tuple[RemovePod, ...] = ()
    engines: tuple[EngineView, ...] = ()
    obsolete: int = 0  # pods that still run for engines that are not wanted any more
    ended: tuple[ObservedPod, ...] = ()  # failures to record
    lost: tuple[LostPod, ...] = ()
    wake_at: float | None = None


@dataclass(kw_only=True)
class _Group:
    """The pods of one device group, sorted by what may be done with them."""

    live: list[ObservedPod] = field(default_factory=list)
    lost: list[ObservedPod] = field(default_factory=list)
    dying: list[ObservedPod] = field(default_factory=list)
    ended: list[ObservedPod] = field(default_factory=list)
    highest: int = -1  # attempt

    @property
    def kept(self) -> ObservedPod | None:
        return self.live[0] if self.live else None


def plan(pool: Pool, observed: Observed, now: float) -> Plan:
    """The next step towards the pool, from this snapshot at this time."""
    return _Planner(pool, observed, now).run()


class _Planner:
    """One pass.  Holds the snapshot and the lists that grow; nothing outlives the pass."""

    def __init__(self, pool: Pool, observed: Observed, now: float) -> None:
        self.pool = pool
        self.observed = observed
        self.now = now
        self.policy = pool.spec.restart
        self.wanted: dict[names.GroupName, Engine] = {e.group: e for e in pool.running}
        self.healths: dict[str, Health] = {}
        self.groups = self._sorted_pods()
        self.removals: dict[str, RemovePod] = {}
        self.creates: list[CreateEngine] = []
        self.wakes: list[float] = []
        # Views are final only after the pass; this keeps why an engine has no pod.
        self.waits: dict[names.GroupName, EngineState] = {}

    def run(self) -> Plan:
        self._resolve_extra_pods()
        self._remove_lost_pods()
        self._remove_obsolete_engines()
        if not self.pool.spec.rollout.paused:
            self._replace_outdated_engines()
        self._create_missing_engines()
        self._tidy_ended_pods()
        loss = health.next_loss(self.observed.pods, self.observed.nodes, self.policy, self.now)
        if loss is not None:
            self.wakes.append(loss)
        return Plan(
            creates=tuple(self.creates),
            removals=tuple(self.removals.values()),
            engines=tuple(self._views()),
            obsolete=sum(
                len(group.live) for name, group in self.groups.items() if name not in self.wanted
            ),
            ended=tuple(pod for group in self.groups.values() for pod in group.ended),
            lost=tuple(self._lost_pods()),
            wake_at=min(self.wakes, default=None),
        )

    # --- reading the snapshot

    def _sorted_pods(self) -> Mapping[names.GroupName, _Group]:
        groups: dict[names.GroupName, _Group] = defaultdict(_Group)
        waits = self.policy.on_node_lost is spec.OnNodeLost.WAIT
        for pod in self.observed.pods:
            group = groups[pod.group]
            group.highest = max(group.highest, pod.attempt)
            state = health.health(pod, self.observed.nodes, self.policy, self.now)
            self.healths[pod.uid] = state
            if state is Health.ENDED:
                # A pod that is deleted after its end is a tombstone all the same.
                group.ended.append(pod)
            elif state is Health.LOST and not waits:
                group.lost.append(pod)
            elif state is Health.DYING:
                group.dying.append(pod)
            else:
                group.live.append(pod)
        for name, highest in self.observed.taken.items():
            groups[name].highest = max(groups[name].highest, highest)
        for group in groups.values():
            group.live.sort(key=self._preference)
        return groups

    def _preference(self, pod: ObservedPod) -> tuple[bool, bool, bool, int]:
        """The pod to keep comes first: in service, up, of the present revision, oldest."""
        up = self.healths[pod.uid] is Health.UP
        return (not (up and pod.ready), not up, pod.revision != self.pool.revision, pod.attempt)

    def _is_up(self, pod: ObservedPod | None) -> bool:
        return pod is not None and self.healths[pod.uid] is Health.UP

    def _remove(self, pod: ObservedPod, reason: str) -> None:
        if not pod.deleting:
            self.removals.setdefault(pod.uid, RemovePod(pod=pod, reason=reason))

    # --- the rules, in order

    def _resolve_extra_pods(self) -> None:
        """At rest an engine has one pod; of several, the one in service stays."""
        for group in self.groups.values():
            for extra in group.live[1:]:
                self._remove(extra, "another pod of this engine is kept")
            del group.live[1:]

    def _remove_lost_pods(self) -> None:
        for group in self.groups.values():
            for pod in group.lost:
                self._remove(pod, f"node {pod.node} is lost")

    def _remove_obsolete_engines(self) -> None:
        obsolete = {name: group for name, group in self.groups.items() if name not in self.wanted}
        holding = {name: group for name, group in obsolete.items() if group.live}
        if not holding:
            return
        footing = rollout.Footing(
            up=frozenset(name for name in self.wanted if self._is_up(self._kept(name))),
            obsolete={name: group.live[0].devices for name, group in holding.items()},
            obsolete_up=frozenset(n for n, group in holding.items() if self._is_up(group.kept)),
        )
        budget = self.pool.spec.rollout.max_unavailable
        going = rollout.unneeded_to_remove(self.pool.running, footing, budget)
        if not self.pool.spec.rollout.paused:
            going |= rollout.obsolete_to_remove(self.pool.running, footing, budget)
        for name in holding:
            if name in going:
                self._remove(holding[name].live[0], "no longer wanted")

    def _kept(self, name: names.GroupName) -> ObservedPod | None:
        group = self.groups.get(name)
        return group.kept if group else None

    def _replace_outdated_engines(self) -> None:
        if all(pod.revision == self.pool.revision for pod in self.observed.pods):
            return  # as nearly always
        outdated: list[Engine] = []
        away = 0
        for name, engine in self.wanted.items():
            pod = self._kept(name)
            if not self._is_up(pod):
                away += 1
            if pod is None or pod.revision == self.pool.revision:
                continue
            if self._is_up(pod):
                outdated.append(engine)
            elif engine.rank >= self.pool.spec.rollout.partition:
                # It serves nobody: a fixed spec must reach it whatever else is down.
                self._replace(engine, pod)
        for engine in rollout.outdated_to_replace(
            outdated,
            away=away,
            max_unavailable=self.pool.spec.rollout.max_unavailable,
            partition=self.pool.spec.rollout.partition,
        ):
            pod = self._kept(engine.group)
            if pod is not None:
                self._replace(engine, pod)

    def _replace(self, engine: Engine, pod: ObservedPod) -> None:
        self._remove(pod, f"revision {pod.revision} is replaced by {self.pool.revision}")
        self.groups[engine.group].live.remove(pod)
        # Its replacement is created in the next pass, when the old pod is seen to be on its way.
        self.waits[engine.group] = EngineState.WAITING

    def _create_missing_engines(self) -> None:
        held = self._held_devices()
        blocked_until = self.observed.creates_blocked_until
        for engine in self.pool.running:
            group = self.groups.get(engine.group)
            if (group and group.live) or engine.group in self.waits:
                continue
            if not held.isdisjoint(engine.devices):
                self.waits[engine.group] = EngineState.WAITING
                continue
            if blocked_until > self.now:
                self.wakes.append(blocked_until)
                self.waits[engine.group] = EngineState.BACKOFF
                continue
            last = max(group.ended, key=lambda pod: pod.attempt, default=None) if group else None
            if last is not None and last.revision != self.pool.revision:
                last = None  # what failed is not what is started now
            if last is not None and (due := restart.due(last, self.policy)) > self.now:
                self.wakes.append(due)
                self.waits[engine.group] = EngineState.BACKOFF
                continue
            self.creates.append(
                CreateEngine(
                    engine=engine,
                    attempt=(group.highest if group else -1) + 1,
                    failures=restart.failures(last, self.policy) if last else 0,
                    reason=self._why_missing(group, last),
                )
            )

    def _held_devices(self) -> frozenset[int]:
        """GPUs of obsolete engines: nobody else gets them before they are seen to go."""
        return frozenset(
            device
            for name, group in self.groups.items()
            if name not in self.wanted
            for pod in group.live
            for device in pod.devices
        )

    def _why_missing(self, group: _Group | None, last: ObservedPod | None) -> str:
        if group is None:
            return "the engine has no pod"
        if group.lost:
            return f"its node {group.lost[-1].node} is lost"
        if last is not None:
            return f"pod {last.name} ended"
        return "its pod is being deleted" if group.dying else "the engine has no pod"

    def _tidy_ended_pods(self) -> None:
        """An ended pod goes when its failure is recorded and its memory is handed on."""
        for name, group in self.groups.items():
            replaced = name not in self.wanted or bool(group.live)
            for pod in group.ended:
                superseded = replaced or pod.attempt < group.highest
                if superseded and pod.uid in self.observed.recorded:
                    self._remove(pod, "ended, and another pod took over")

    # --- what comes out

    def _lost_pods(self) -> Iterable[LostPod]:
        nodes = self.observed.nodes or {}
        for group in self.groups.values():
            for pod in group.lost:
                yield LostPod(pod=pod, since=nodes[pod.node].ready_changed)

    def _views(self) -> Iterable[EngineView]:
        creating = {create.engine.group for create in self.creates}
        for engine in self.pool.running:
            pod = self._kept(engine.group)
            if pod is not None:
                yield EngineView(
                    engine=engine,
                    state=self._pod_state(pod),
                    pod=pod,
                    current=pod.revision == self.pool.revision,
                )
            elif engine.group in creating:
                yield EngineView(engine=engine, state=EngineState.CREATING)
            else:
                state = self.waits.get(engine.group, EngineState.CREATING)
                yield EngineView(engine=engine, state=state)

    def _pod_state(self, pod: ObservedPod) -> EngineState:
        state = self.healths[pod.uid]
        if state is Health.UP:
            return EngineState.IN_SERVICE if pod.ready else EngineState.UP
        return {
            Health.LOST: EngineState.LOST,
            Health.DYING: EngineState.WAITING,
            Health.PENDING: EngineState.PENDING,
        }.get(state, EngineState.STARTING)
