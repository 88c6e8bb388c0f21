"""The decision: from the pool and what was seen to what each engine needs next.  Pure.

``plan(pool, observed, now)`` is level-triggered: it looks at what is there, not at what
happened, and calling it again on the same snapshot gives the same answer.  It reads top to
bottom as the rules do: sort the pods by engine, resolve extra pods, replace what is outdated,
clear what is obsolete, create what is missing, tidy what has ended.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sglang_operator.api import names, spec
from sglang_operator.planner import (
    causes,
    footing,
    health,
    restart,
    rollout,
    startup,
    tuning,
)
from sglang_operator.planner.engines import EngineState, EngineStatus
from sglang_operator.planner.health import Health
from sglang_operator.planner.observed import Observed, ObservedPod, Silence, Termination
from sglang_operator.planner.pool import Engine, Pool
from sglang_operator.planner.rollout import Waiting
from sglang_operator.planner.startup import Chain, Stall, Standing, Trials
from sglang_operator.planner.tuning import Tuning


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateEngine:
    engine: Engine
    attempt: int
    failures: int
    reason: str
    chain: Chain | None = None  # the failures at its start that it follows


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovePod:
    pod: ObservedPod
    reason: str
    replaced: bool = False  # it could run on: it makes way for the pool as it is wanted now


@dataclass(frozen=True, kw_only=True, slots=True)
class LostPod:
    """A pod that was given up with its node, and since when the node is lost."""

    pod: ObservedPod
    since: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HungPod:
    """A pod whose engine has work, and since when nothing moves."""

    pod: ObservedPod
    since: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now, how the engines stand, and when to look again without an event."""

    creates: tuple[CreateEngine, ...] = ()
    removals: tuple[RemovePod, ...] = ()
    engines: tuple[EngineStatus, ...] = ()
    obsolete: int = 0  # pods that still run for engines that are not wanted any more
    ended: tuple[ObservedPod, ...] = ()  # failures to record
    lost: tuple[LostPod, ...] = ()
    silence: Silence | None = None  # too many nodes are not ready for any to be lost
    taken: tuple[ObservedPod, ...] = ()  # evicted or preempted, and on their way out
    hung: tuple[HungPod, ...] = ()  # with work, and nothing moves: recorded, then removed
    taken_over: tuple[ObservedPod, ...] = ()  # from the kubelet's crash loop
    stalls: tuple[Stall, ...] = ()  # given up until the spec changes
    tuning: Tuning | None = None  # to be in force from the next pass on
    waiting: Waiting | None = None  # why a change does not go on
    untried: bool = False  # there is no pod of the present revision
    lingering: tuple[ObservedPod, ...] = ()  # deleted, and still there long after their grace
    at: float = 0.0  # the time for which this holds, by the steady clock
    capacity: str = ""  # why no node has room, where it was looked up
    wake_at: float | None = None  # by the steady clock

    @property
    def coming(self) -> int:
        """Wanted engines that are not up."""
        return sum(not engine.up for engine in self.engines)

    @property
    def pods(self) -> Iterator[ObservedPod]:
        """The pods that stand for the wanted engines."""
        for engine in self.engines:
            yield from engine.members

    @property
    def restarts(self) -> Iterator[tuple[ObservedPod, Termination]]:
        """Pods whose engine's container ended and is started again in place, and how it ended."""
        for pod in self.taken_over:
            if pod.last_termination is not None:
                yield pod, pod.last_termination
        for engine in self.engines:
            if ends := engine.ends:
                yield from ends


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
    """The next step towards the pool, from this snapshot at this time by the steady clock."""
    return _Planner(pool, observed, now).run()


class _Planner:
    """One pass.  Holds the snapshot and the lists that grow; nothing outlives the pass."""

    def __init__(self, pool: Pool, observed: Observed, now: float) -> None:
        self.pool = pool
        self.observed = observed
        self.now = now
        self.policy = pool.spec.restart
        self.silence = health.silence_seen(observed, now)
        self.nodes = health.Believed(observed.nodes, self.silence, health.falls_seen(observed))
        self.wanted: dict[names.GroupName, Engine] = {e.group: e for e in pool.running}
        self.healths: dict[names.Uid, Health] = {}
        # How engines stand is known only after the pass; this keeps why an engine has no pod.
        self.waits: dict[names.GroupName, EngineState] = {}
        self.groups = self._sorted_pods()
        self.removals: dict[str, RemovePod] = {}
        self.creates: list[CreateEngine] = []
        self.wakes: list[float] = []
        self.taken_over: list[ObservedPod] = []
        self.hung: list[HungPod] = []
        self.waiting: Waiting | None = None
        self.tuned: Tuning | None = None
        self.about = causes.context(pool)
        self.lingering = tuple(pod for pod in observed.pods if health.lingers(pod, now))

    def run(self) -> Plan:
        if self.observed.leaving:
            return Plan(engines=tuple(self._statuses()), tuning=self.pool.tuning, at=self.now)
        self._resolve_extra_pods()
        self._remove_lost_pods()
        self._make_way()
        self._take_over_crash_loops()
        self._remove_hung_engines()
        self._tune()
        self._create_missing_engines()
        self._tidy_ended_pods()
        pods, now, groups = self.observed.pods, self.now, self.groups.values()
        loss = health.next_loss(pods, self.nodes, self.policy, now)
        self.wakes += [t for t in (loss, health.next_lingering(pods, now)) if t is not None]
        ended = tuple(pod for group in groups for pod in group.ended)
        return Plan(
            creates=tuple(self.creates),
            removals=tuple(self.removals.values()),
            engines=tuple(self._statuses()),
            obsolete=sum(len(g.live) for n, g in self.groups.items() if n not in self.wanted),
            ended=ended,
            lost=tuple(
                LostPod(pod=pod, since=node.ready_changed)
                for group in groups
                for pod in group.lost
                if (node := self.nodes.get(pod.node))
            ),
            silence=self.silence,
            taken=tuple(pod for group in groups for pod in group.dying if pod.disruption),
            hung=tuple(self.hung),
            taken_over=tuple(self.taken_over),
            stalls=tuple(self.trials.stalls()) if ended else (),
            tuning=self.tuned or self.pool.tuning,
            waiting=self.waiting,
            lingering=self.lingering,
            at=self.now,
            untried=all(pod.revision != self.pool.revision for pod in self.observed.pods),
            wake_at=min(self.wakes, default=None),
        )

    # --- reading the snapshot

    def _sorted_pods(self) -> Mapping[names.GroupName, _Group]:
        groups: dict[names.GroupName, _Group] = defaultdict(_Group)
        waits = self.policy.on_node_lost is spec.OnNodeLost.WAIT
        for pod in self.observed.pods:
            group = groups[pod.group]
            group.highest = max(group.highest, pod.attempt)
            state = health.health(pod, self.nodes, self.policy, self.now)
            self.healths[pod.uid] = state
            if pod.uid in self.observed.unread:
                self.waits[pod.group] = EngineState.BACKOFF
            elif state is Health.ENDED:
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
            if len(group.live) > 1:
                group.live.sort(key=self._preference)
        return groups

    def _preference(self, pod: ObservedPod) -> tuple[int, bool, bool, float, int]:
        """The pod to keep comes first: nearest to its clients, of the present revision, oldest.

        One that was on its way out when its node was lost never comes back, waited for or not.
        A lower attempt is not always older: an operator that sees an old world may give it again.
        """
        far = footing.distance(pod, self.healths[pod.uid])
        return far, pod.dying, not self._is_current(pod), pod.created, pod.attempt

    def _is_current(self, pod: ObservedPod) -> bool:
        return pod.revision in self.pool.accepted

    def _is_up(self, pod: ObservedPod | None) -> bool:
        return pod is not None and self.healths[pod.uid] is Health.UP

    def _remove(self, pod: ObservedPod, reason: str, *, replaced: bool = False) -> None:
        if not pod.deleting:
            removal = RemovePod(pod=pod, reason=reason, replaced=replaced)
            self.removals.setdefault(pod.uid, removal)

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

    def _make_way(self) -> None:
        """Engines go for the sake of the pool as it is wanted now."""
        live = {name: group.live[0] for name, group in self.groups.items() if group.live}
        if live.keys() <= self.wanted.keys() and all(map(self._is_current, live.values())):
            return  # as nearly always
        dying = {pod.uid for group in self.groups.values() for pod in group.dying}
        leaving = bool(dying - {pod.uid for pod in self.lingering}) or bool(self.removals)
        standing = footing.Standing(
            pool=self.pool,
            live=live,
            healths=self.healths,
            leaving=leaving,
            lingering=self.lingering,
            failing=self._trials().failing,
            now=self.now,
        )
        going = rollout.going(standing.footing(self.observed))
        self.waiting = going.waiting
        self.wakes.extend(standing.wakes(self.observed))
        for name, pod in live.items():
            if name in going.obsolete:
                self._remove(pod, "no longer wanted", replaced=name in going.replaced)
            elif name in going.outdated:
                self._replace(self.wanted[name], pod)

    def _kept(self, name: names.GroupName) -> ObservedPod | None:
        group = self.groups.get(name)
        return group.kept if group else None

    def _replace(self, engine: Engine, pod: ObservedPod) -> None:
        self._remove(
            pod, f"revision {pod.revision} is replaced by {self.pool.revision}", replaced=True
        )
        self.groups[engine.group].live.remove(pod)
        # Its replacement is created in the next pass, when the old pod is seen to be on its way.
        self.waits[engine.group] = EngineState.WAITING

    def _take_over_crash_loops(self) -> None:
        """Kubelet starts the container of an ungated engine again, for ever.

        One that fails at its start gets a new pod instead, which stays when it fails (``desired``
        gives it restartPolicy Never), so that the next failures are counted here.
        """
        for engine in self.pool.running:
            pod = self._kept(engine.group)
            if pod is None or pod.restarts == 0 or pod.last_termination is None:
                continue
            told = causes.of_termination(pod, pod.last_termination, self.about)
            failed = startup.chain_in_place(pod, told)
            if failed is None or not self._is_current(pod):
                continue
            self._remove(pod, f"its container fails at its start: {told.reason}")
            group = self.groups[engine.group]
            group.live.remove(pod)
            self.taken_over.append(pod)
            self._create(
                engine, group, reason=f"pod {pod.name} is taken over", failures=1, chain=failed
            )

    def _remove_hung_engines(self) -> None:
        """What hangs is removed once it is recorded, and comes back like any lost engine."""
        patience = self.policy.hang_seconds
        if patience is None:
            return
        for name in self.wanted:
            pod = self._kept(name)
            if pod is None or not self._is_up(pod):
                continue
            report = self.observed.reports.get(pod.instance or "")
            if report is None or report.stuck is None:
                continue
            if (due := report.stuck.since + patience) > self.now:
                self.wakes.append(due)
                continue
            self.hung.append(HungPod(pod=pod, since=report.stuck.stamp))
            if pod.uid in self.observed.recorded:
                self._remove(pod, f"nothing moved for {patience} s")

    def _create(
        self,
        engine: Engine,
        group: _Group | None,
        *,
        reason: str,
        failures: int = 0,
        chain: Chain | None = None,
    ) -> None:
        self.creates.append(
            CreateEngine(
                engine=engine,
                attempt=(group.highest if group else -1) + 1,
                failures=failures,
                reason=reason,
                chain=chain,
            )
        )
        if chain is not None:
            self.trials.begin(chain)
        # Its pod comes with the next snapshot; until then nothing else is done for the engine.
        self.waits[engine.group] = EngineState.CREATING

    def _create_missing_engines(self) -> None:
        held = self._held_devices()
        barred = {*self.observed.orphans.values(), *self.observed.crowded}
        blocked_until = self.observed.creates_blocked_until
        for engine in self.pool.running:
            group = self.groups.get(engine.group)
            if (group and group.live) or engine.group in self.waits:
                continue
            if engine.group in barred or not held.isdisjoint(engine.devices):
                self.waits[engine.group] = EngineState.WAITING
                continue
            if blocked_until > self.now:
                self.wakes.append(blocked_until)
                self.waits[engine.group] = EngineState.BACKOFF
                continue
            last = max(group.ended, key=lambda pod: pod.attempt, default=None) if group else None
            if last is not None and not self._is_current(last):
                last = None  # what failed is not what is started now
            failed = self._chain(last)
            if self._waits_for_tuning(last) or self._holds_back(last, failed):
                self.waits[engine.group] = EngineState.BACKOFF
                continue
            if last is not None and (due := restart.due(last, self.policy)) > self.now:
                self.wakes.append(due)
                self.waits[engine.group] = EngineState.BACKOFF
                continue
            self._create(
                engine,
                group,
                reason=self._why_missing(group, last),
                failures=restart.failures(last, self.policy) if last else 0,
                chain=failed,
            )

    # --- failures at the start

    def _tune(self) -> None:
        """Another mem_fraction_static, if the user gave bounds and engines failed for memory."""
        pool, start = self.pool, self.pool.arguments.mem_fraction_static
        if pool.bounds is None or start is None:
            return
        unread = {pod.group for pod in self.observed.pods if pod.uid in self.observed.unread}
        failed = [
            (name, causes.of_end(last, self.about))
            for name in self.wanted
            if not (group := self.groups.get(name, _Group())).live
            and name not in unread
            and (last := max(group.ended, key=lambda pod: pod.attempt, default=None))
            and last.revision == pool.revision
        ]
        first = pool.tuning.start if pool.tuning else start
        self.tuned = tuning.next_change(pool.base_revision, first, pool.tuning, pool.bounds, failed)

    def _waits_for_tuning(self, last: ObservedPod | None) -> bool:
        """Whether a new value is about to come, or another engine tries it first."""
        if self.tuned is not None and last is not None:
            return True
        if self.pool.tuning is None or self.trials.proven:
            return False
        return bool(self.creates) or self.trials.under_way

    def _holds_back(self, last: ObservedPod | None, failed: Chain | None) -> bool:
        if last is None or failed is None:
            return False
        return self.trials.hold_back(last.group, failed, causes.of_end(last, self.about))

    def _chain(self, last: ObservedPod | None) -> Chain | None:
        return startup.chain(last, causes.of_end(last, self.about)) if last else None

    @cached_property
    def trials(self) -> Trials:
        """How the wanted engines stand, for failures at their start, once others made way."""
        return self._trials()

    def _trials(self) -> Trials:
        standings = [self._standing(name) for name in self.wanted]
        return Trials(standings, self.pool.revision, self.policy.startup_budget)

    def _standing(self, name: names.GroupName) -> Standing:
        group = self.groups.get(name)
        pod = self._kept(name)
        current = pod if pod is not None and self._is_current(pod) else None
        last = max(group.ended, key=lambda p: p.attempt, default=None) if group else None
        if current is not None or (last is not None and not self._is_current(last)):
            last = None
        return Standing(group=name, up=self._is_up(pod), pod=current, chain=self._chain(last))

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
        # A container that runs on beside the dead engine may use up its replacement's quota.
        blocked = self.observed.creates_blocked_until > self.now
        for name, group in self.groups.items():
            replaced = name not in self.wanted or bool(group.live)
            for pod in group.ended:
                superseded = replaced or pod.attempt < group.highest or (blocked and pod.holds_gpus)
                if superseded and pod.uid in self.observed.recorded:
                    self._remove(pod, "ended, and another pod took over")

    # --- what comes out

    def _statuses(self) -> Iterator[EngineStatus]:
        for engine in self.pool.running:
            pod = self._kept(engine.group)
            if pod is not None:
                health = self.healths[pod.uid]
                yield EngineStatus.of(engine, (pod,), (health,), current=self._is_current(pod))
            else:
                state = self.waits.get(engine.group, EngineState.CREATING)
                yield EngineStatus(engine=engine, state=state)
