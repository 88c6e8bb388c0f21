"""One pass of the planner: the pods of each engine, and what the rules decided about them.  Pure.

The rules (``plan.rules``) read it and write into it; nothing outlives the pass.  A rule writes by
``remove`` and ``create``, takes pods that stand for no engine any more out of ``live``, says in
``podless`` where an engine without a pod stands (which keeps the rules after it from making one),
in ``wakes`` when to look again (steady), and in ``waiting``, ``hung``, ``taken_over`` and ``tuned``
what is to be told.  What else the status is to learn is a
field of ``Plan`` that ``Planner.plan`` fills and ``status.compute`` reads.

What has to be known in the next pass stands on pods: an ended one stays until its replacement is
there, and ``create`` writes failures into the annotations of the next (``api.names``, rendered by
``children.engine_pod``, read by ``wire.READ_ANNOTATIONS``).  Whether a pod is of the spec as it is
now says its revision (``Pool.accepts``).  Fields of ``restart`` are not in it: each pass compares
them anew with what pods carry.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sglang_operator.api import spec
from sglang_operator.api.names import EngineName, Uid
from sglang_operator.diagnosis import causes
from sglang_operator.observed import health
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import footing, startup
from sglang_operator.plan.decision import CreateEngine, HungPod, LostPod, Plan, RemovePod
from sglang_operator.plan.rollout import Waiting
from sglang_operator.plan.startup import CanaryStart, FailureStreak, StartupState
from sglang_operator.pool.resolve import NO_RANK, Engine, Pool
from sglang_operator.pool.tuning import Tuning

# A pool has thousands of pods, and members of an Enum take long to look up.
_UP, _ENDED, _LOST, _DYING = Health.UP, Health.ENDED, Health.LOST, Health.DYING


@dataclass(kw_only=True, slots=True)
class EnginePods:
    """The pods of one engine, wanted or not, sorted by what may be done with them."""

    live: list[ObservedPod] = field(default_factory=list)  # the one to keep comes first
    lost: list[ObservedPod] = field(default_factory=list)
    dying: list[ObservedPod] = field(default_factory=list)
    ended: list[ObservedPod] = field(default_factory=list)
    highest: int = -1  # attempt

    @property
    def kept(self) -> ObservedPod | None:
        """The pod that stands for the engine."""
        return self.live[0] if self.live else None

    @property
    def last_ended(self) -> ObservedPod | None:
        """The latest attempt among the pods that ended."""
        return max(self.ended, key=lambda pod: pod.attempt, default=None)


NO_PODS = EnginePods()


class Planner:
    """The snapshot of one pass, and the lists that its rules let grow."""

    def __init__(self, pool: Pool, observed: Observed, now: float) -> None:
        self.pool = pool
        self.observed = observed
        self.now = now
        self.policy = pool.spec.restart
        self.about = causes.context(pool)
        self.silence = health.silence_seen(observed, now)
        self.nodes = health.Believed(observed.nodes, self.silence, health.falls_seen(observed))
        self.wanted: dict[EngineName, Engine] = {e.name: e for e in pool.running}
        self.lingering = tuple(pod for pod in observed.pods if health.lingers(pod, now))
        self.healths: dict[Uid, Health] = {}
        # Where an engine without a pod stands; how it stands is known only after all rules.
        self.podless: dict[EngineName, EngineState] = {}
        self.engines = self._sorted_pods()
        # What is decided.
        self.removals: dict[Uid, RemovePod] = {}
        self.creates: list[CreateEngine] = []
        self.wakes: list[float] = []
        self.taken_over: list[ObservedPod] = []
        self.hung: list[HungPod] = []
        self.waiting: Waiting | None = None
        self.tuned: Tuning | None = None

    def _sorted_pods(self) -> Mapping[EngineName, EnginePods]:
        engines: dict[EngineName, EnginePods] = defaultdict(EnginePods)
        waits = self.policy.on_node_lost is spec.OnNodeLost.WAIT
        for pod in self.observed.pods:
            pods = engines[pod.engine]
            pods.highest = max(pods.highest, pod.attempt)
            state = self.healths[pod.uid] = self._health(pod)
            if pod.uid in self.observed.unread:
                self.podless[pod.engine] = EngineState.BACKOFF
            elif state is _ENDED:
                # A pod that is deleted after its end is a tombstone all the same.
                pods.ended.append(pod)
            elif state is _LOST and not waits:
                pods.lost.append(pod)
            elif state is _DYING:
                pods.dying.append(pod)
            else:
                pods.live.append(pod)
        for name, highest in self.observed.taken.items():
            engines[name].highest = max(engines[name].highest, highest)
        for pods in engines.values():
            if len(pods.live) > 1:
                pods.live.sort(key=self._preference)
        return engines

    def _preference(self, pod: ObservedPod) -> tuple[int, bool, bool, bool, float, int]:
        """The pod to keep comes first: nearest to its clients, of the present revision, oldest.

        Of two that serve, one that the last commit covers: the other's labels may have been away.
        One that was on its way out when its node was lost never comes back, waited for or not.
        A lower attempt is not always older: an operator that sees an old world may give it again.
        """
        far = footing.distance(pod, self.healths[pod.uid])
        said = self.observed.said
        outdated = not self.pool.accepts(pod.revision)
        covered = said is not None and pod.instance in said.instances
        return far, pod.dying, outdated, not covered, pod.created, pod.attempt

    # --- what rules ask

    def is_up(self, pod: ObservedPod | None) -> bool:
        """Whether the engine in this pod answers."""
        return pod is not None and self.healths[pod.uid] is _UP

    def pods(self, name: EngineName) -> EnginePods:
        """The pods of this engine."""
        return self.engines.get(name, NO_PODS)

    def streak(self, ended: ObservedPod | None) -> FailureStreak | None:
        """The failures at its start that this pod is the last of, if it ended in one."""
        return startup.streak(ended, causes.of_end(ended, self.about)) if ended else None

    @cached_property
    def starts(self) -> CanaryStart:
        """``present_starts`` as it was when a rule first asked: rules tell it what they begin."""
        return self.present_starts()

    def present_starts(self) -> CanaryStart:
        """Which engines may be started again after failures, by the pods that are left now."""
        states = [self._startup_state(name) for name in self.wanted]
        return CanaryStart(states, self.pool.revision, self.policy.startup_budget)

    def _startup_state(self, name: EngineName) -> StartupState:
        pods = self.pods(name)
        pod, last = pods.kept, pods.last_ended
        accepts = self.pool.accepts
        current = pod if pod is not None and accepts(pod.revision) else None
        if current is not None or (last is not None and not accepts(last.revision)):
            last = None
        return StartupState(up=self.is_up(pod), pod=current, streak=self.streak(last))

    # --- what rules decide

    def remove(self, pod: ObservedPod, reason: str, *, replaced: bool = False) -> None:
        """The pod is to be deleted, unless it is being deleted already."""
        if not pod.deleting and pod.uid not in self.observed.stays:
            removal = RemovePod(pod=pod, reason=reason, replaced=replaced)
            self.removals.setdefault(pod.uid, removal)

    def create(
        self,
        engine: Engine,
        *,
        reason: str,
        failures: int = 0,
        streak: FailureStreak | None = None,
        after: ObservedPod | None = None,
    ) -> None:
        """The engine gets a pod, of the next attempt, after these failures.

        Where it comes ``after`` a pod, it does once the API server has taken that one's delete.
        """
        attempt = self.pods(engine.name).highest + 1
        self.creates.append(
            CreateEngine(
                engine=engine,
                attempt=attempt,
                failures=failures,
                reason=reason,
                streak=streak,
                after=after,
            )
        )
        if streak is not None:
            self.starts.begin(streak)
        # Its pod comes with the next snapshot; until then nothing else is done for the engine.
        # One more try of what was refused changes nothing for anybody until it is taken.
        refused = self.observed.creates_refused
        self.podless[engine.name] = EngineState.BACKOFF if refused else EngineState.CREATING

    # --- what comes of it

    def plan(self) -> Plan:
        """All that was decided, and how the engines stand."""
        engines = self.engines.values()
        self.wakes += self._losses()
        ended = tuple(pod for pods in engines for pod in pods.ended)
        return Plan(
            creates=tuple(self.creates),
            removals=tuple(self.removals.values()),
            engines=self.statuses(),
            unlisted=self.unlisted(),
            obsolete=sum(
                len(pods.live) for name, pods in self.engines.items() if name not in self.wanted
            ),
            ended=ended,
            lost=tuple(
                LostPod(pod=pod, since=node.ready_changed)
                for pods in engines
                for pod in pods.lost
                if (node := self.nodes.get(pod.node))
            ),
            silence=self.silence,
            disrupted=tuple(pod for pods in engines for pod in pods.dying if pod.disruption),
            hung=tuple(self.hung),
            taken_over=tuple(self.taken_over),
            stalls=tuple(self.starts.stalls()) if ended else (),
            tuning=self.tuned or self.pool.tuning,
            waiting=self.waiting,
            lingering=self.lingering,
            at=self.now,
            untried=all(pod.revision != self.pool.revision for pod in self.observed.pods),
            wake_at=min(self.wakes, default=None),
        )

    def _losses(self) -> list[float]:
        """When the next pod will count as lost, or as one that lingers."""
        pods, now = self.observed.pods, self.now
        loss = health.next_loss(pods, self.nodes, self.policy, now)
        return [time for time in (loss, health.next_lingering(pods, now)) if time is not None]

    def statuses(self) -> tuple[EngineStatus, ...]:
        """How each wanted engine stands."""
        return tuple(map(self._status, self.pool.running))

    def unlisted(self) -> tuple[EngineStatus, ...]:
        """Engines that run beside the wanted ones and hold their GPUs' memory.

        Of what is on a lost node nobody knows when, or whether, it will be gone; nor of what is
        still there long after its grace.  Nothing waits for these.  Those whose labels were taken
        away run on, too.
        """
        listed = {pods.live[0].uid for name in self.wanted if (pods := self.pods(name)).live}
        beside = (p for p in self.observed.pods if p.engine_runs and p.uid not in listed)
        aside = (p for p in self.observed.aside if p.engine_runs)
        given_up = {pod.uid for pod in self.lingering}
        found = ((pod, self._health(pod)) for pod in (*beside, *aside))
        return tuple(
            self._beside(pod, state)
            for pod, state in sorted(found, key=lambda one: one[0].name)
            if state is not _LOST and pod.uid not in given_up
        )

    def _beside(self, pod: ObservedPod, state: Health) -> EngineStatus:
        engine = Engine(rank=NO_RANK, name=pod.engine, devices=pod.devices)
        goes = pod.uid in self.removals or pod.ended
        healths = (_DYING if goes else state,)
        return EngineStatus.of(engine, (pod,), healths, current=self.pool.accepts(pod.revision))

    def _health(self, pod: ObservedPod) -> Health:
        known = self.healths.get(pod.uid)  # of the pods that stand for engines
        return known or health.health(pod, self.nodes, self.policy, self.now)

    def _status(self, engine: Engine) -> EngineStatus:
        pod = self.pods(engine.name).kept
        if pod is None:
            state = self.podless.get(engine.name, EngineState.CREATING)
            return EngineStatus(engine=engine, state=state)
        current = self.pool.accepts(pod.revision)
        return EngineStatus.of(engine, (pod,), (self.healths[pod.uid],), current=current)
