"""One pass of the planner: the groups of each engine, and what the rules decided about them.  Pure.

The rules (``plan.rules``) read it and write into it; nothing outlives the pass.  A rule writes by
``remove`` and ``create``, takes pods that stand for no engine any more out of ``live``, says in
``podless`` where an engine without a pod stands (which keeps the rules after it from making one),
in ``wakes`` when to look again (steady), and in the fields under "What is decided" what rules after
it heed (``tuned``, ``rolling``, ``surging``) or the status tells (``waiting``, ``hung``,
``taken_over``).  What else the status is to learn is a field of ``Plan`` that ``plan.outcome``
fills and ``status.compute`` reads.

What has to be known in the next pass stands on pods: an ended one stays until its replacement is
there, and ``create`` has failures written into the annotations of the next: by ``CreateEngine``
(``plan.decision``; ``complete`` makes one too, from a pod that has them) and ``pod_actions``
(``actions``), rendered by ``children.engine_pod`` under their names in ``api.names``, read by
``READ_ANNOTATIONS`` (``observed.wire``) into ``ObservedPod`` (``observed.model``).  What has to be
gone before that can be is handed on in memory alone (``Plan.handed_on``).  Whether a pod
is of the spec as it is now says its revision (``Pool.accepts``).  Fields of ``restart`` are not in
it: each pass compares them anew with what pods carry.  Times are the steady clock's since a thing
was first seen, and begin anew with each operator; a stamp of the API server's is compared with
other stamps alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from sglang_operator.api import spec
from sglang_operator.api.names import EngineName, Uid
from sglang_operator.diagnosis import causes
from sglang_operator.observed import groups, health, listed
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.placement.seats import Seat
from sglang_operator.plan import footing, restart, seating, starting, startup, turns
from sglang_operator.plan.decision import ENDED_GRACE_SECONDS, CreateEngine, HungPod, RemovePod
from sglang_operator.plan.engine_groups import NO_GROUPS, EngineGroups
from sglang_operator.plan.rollout_state import Waiting
from sglang_operator.plan.startup import CanaryStart, FailureStreak, StartupState
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.pool.tuning import Tuning
from sglang_operator.weights.turn import Turn

# A pool has thousands of pods, and members of an Enum take long to look up.
_UP, _ENDED, _LOST, _DYING = Health.UP, Health.ENDED, Health.LOST, Health.DYING


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
        self.lingering = tuple(pod for pod in observed.all_pods if health.lingers(pod, now))
        self.healths: dict[Uid, Health] = {}
        self.stands: dict[Group, Health] = {}
        # Where an engine without a pod stands; how it stands is known only after all rules.
        self.podless: dict[EngineName, EngineState] = {}
        # Before this no other engine of several pods is begun: one that has lacks room.
        self.begins_from = 0.0
        self.groups = groups.of(observed.pods)
        self.engines = self._sorted_groups()
        # What is decided.
        self.removals: dict[Uid, RemovePod] = {}
        self.creates: list[CreateEngine] = []
        self.wakes: list[float] = []
        self.taken_over: list[ObservedPod] = []
        self.hung: list[HungPod] = []
        self.waiting: Waiting | None = None
        self.rolling = False  # whether engines are there that are to go for a change
        self.surging: frozenset[EngineName] = frozenset()  # that get another beside them now
        self.cramped: str | None = None  # why there is no room for such: "" if nobody says
        self.tuned: Tuning | None = None
        self.unseated: list[EngineName] = []
        self.kept_out: dict[EngineName, str] = {}  # by a pod: "" if of others
        self.turned: list[EngineName] = []  # that wait until the trainer gives their GPUs back
        self.rivalled: dict[EngineName, str] = {}  # that wait for another pool's to sleep there
        self.handed_on: dict[EngineName, ObservedPod] = {}
        # Where pods belong, if that is not the scheduler's to say.
        self.seating = seating.of(pool, observed)

    def _sorted_groups(self) -> Mapping[EngineName, EngineGroups]:
        engines: dict[EngineName, EngineGroups] = defaultdict(EngineGroups)
        waits = self.policy.on_node_lost is spec.OnNodeLost.WAIT
        unread, healths, nodes = self.observed.unread, self.healths, self.nodes
        for group in self.groups:
            found = engines[group.engine]
            if group.attempt > found.highest:
                found.highest = group.attempt
            for pod in group.members:
                healths[pod.uid] = state = health.health(pod, nodes, self.policy, self.now)
            if group.first.nodes > 1:
                state = groups.health(group, healths)
            self.stands[group] = state
            if unread and any(pod.uid in unread for pod in group.members):
                self.podless[group.engine] = EngineState.BACKOFF
            elif state is _ENDED:
                # A pod that is deleted after its end is a tombstone all the same.
                if self.waited_in_vain(group):
                    self.stands[group] = _DYING
                    found.dying.append(group)
                else:
                    found.ended.append(group)
            elif state is _LOST and not waits:
                found.lost.append(group)
            elif state is _DYING:
                found.dying.append(group)
            else:
                found.live.append(group)
        for name, highest in self.observed.taken.items():
            engines[name].highest = max(engines[name].highest, highest)
        for found in engines.values():
            if len(found.live) > 1:
                found.live.sort(key=self._preference)
        return engines

    def _preference(self, group: Group) -> tuple[int, bool, bool, bool, float, int]:
        """The group to keep comes first: nearest to its clients, of the present revision, oldest.

        Of two that serve, one that the last commit covers: the other's labels may have been away.
        One that was on its way out when its node was lost never comes back, waited for or not.
        A lower attempt is not always older: an operator that sees an old world may give it again.
        """
        far = footing.distance(group, self.health(group))
        outdated = not self.pool.accepts(group.revision)
        return far, group.dying, outdated, *self.seniority(group)

    # --- what rules ask

    @cached_property
    def leaves_alone(self) -> bool:
        """Whether engines are left beside each other as they are (``turns.leaves_alone``)."""
        return turns.leaves_alone(self.pool, self.observed, self.now)

    @cached_property
    def in_turn(self) -> bool:
        """Whether a trainer is at work on the engines, or has let them sleep."""
        return turns.trainers_turn(self.pool, self.observed, self.now) is not None

    @cached_property
    def turn(self) -> Turn:
        """The GPUs that the trainer has for itself."""
        return turns.taken(self.pool, self.observed)

    @cached_property
    def starting(self) -> starting.Starting:
        """The engines that start at once or not at all, before any other does."""
        return starting.of(self.pool, self.observed)

    @cached_property
    def listed(self) -> Mapping[EngineName, str]:
        """The instances by which trainers were told of the engines: looked up where two run."""
        return listed.instances(self.observed.children, self.pool.owner)

    @cached_property
    def amid(self) -> bool:
        """Whether none that serves goes for another now: a trainer's step is under way."""
        if not turns.amid_a_step(self.pool, self.observed, self.now):
            return False
        if self.now >= (until := self.window_ends.steady):
            return False
        self.wakes.append(until)
        return True

    @cached_property
    def window_ends(self) -> Moment:
        """From when on a rollout goes on whichever step is under way."""
        wait = self.pool.spec.rollout.window_deadline_seconds
        since = self.observed.steps.rolling or Moment(wall=0.0, steady=self.now)
        return Moment(wall=since.wall + wait, steady=since.steady + wait)

    def seniority(self, group: Group) -> tuple[bool, float, int]:
        """The one that the last commit covers comes first, then the oldest: no probe changes it."""
        said = self.observed.said
        covered = said is not None and group.instance in said.instances
        return not covered, group.created, group.attempt

    def lives(self, group: Group) -> bool:
        """Whether its engine runs and has answered, though it may miss a probe now."""
        state = self.health(group)
        return state is _UP or (state is not _LOST and group.answered)

    @property
    def several(self) -> bool:
        """Whether an engine is more than one pod: ``groups.of`` has those last."""
        return bool(self.groups) and self.groups[-1].size > 1

    def health(self, group: Group) -> Health:
        """The state of the engine that runs in these pods."""
        return self.stands[group]

    def is_up(self, group: Group | None) -> bool:
        """Whether the engine in these pods answers."""
        return group is not None and self.health(group) is _UP

    def groups_of(self, name: EngineName) -> EngineGroups:
        """The groups of this engine."""
        return self.engines.get(name, NO_GROUPS)

    def waited_in_vain(self, group: Group) -> bool:
        """Whether members ended because their leader had not run yet: nobody has failed.

        Ranks wait at the rendezvous for so long, or as long as a startup probe lets them.
        """
        if group.size == 1 or not (group.ended and group.never_met):
            return False
        last = causes.most_telling(group.ends, self.about)
        return causes.may_be_of_others(causes.of_end(last, self.about))

    def lost_node(self, group: Group) -> str:
        """The node with which this group is lost."""
        return next(pod.node for pod in group.members if self.healths[pod.uid] is _LOST)

    def last_end(self, found: EngineGroups) -> ObservedPod | None:
        """The pod that says most of why the engine ended last."""
        group = found.last_ended
        return causes.most_telling(group.ends, self.about) if group is not None else None

    def streak(self, ended: ObservedPod | None) -> FailureStreak | None:
        """The failures at its start that this pod is the last of, if its engine ended in one."""
        if ended is None:
            return None
        told = causes.of_end(ended, self.about)
        if ended.nodes == 1:
            return startup.streak(ended, told)
        group = next(g for g in self.groups_of(ended.engine).ended if ended in g.members)
        return startup.streak_of_group(group, ended, told)

    @cached_property
    def starts(self) -> CanaryStart:
        """``present_starts`` as it was when a rule first asked: rules tell it what they begin."""
        return self.present_starts()

    def present_starts(self) -> CanaryStart:
        """Which engines may be started again after failures, by the pods that are left now."""
        states = [self._startup_state(name) for name in self.wanted]
        return CanaryStart(states, self.pool.revision, self.policy.startup_budget)

    def _startup_state(self, name: EngineName) -> StartupState:
        found = self.groups_of(name)
        group, last = found.beside or found.kept, self.last_end(found)
        accepts = self.pool.accepts
        current = group.first if group is not None and accepts(group.revision) else None
        if current is not None or (last is not None and not accepts(last.revision)):
            last = None
        streak = self.streak(last)
        if group is None and not found.ended and (before := self.handed(name)) is not None:
            streak = startup.streak_before(before)
        return StartupState(
            up=current is not None and self.is_up(group), pod=current, streak=streak
        )

    def handed(self, name: EngineName) -> ObservedPod | None:
        """One that is gone, with the failures that the engine's next pod follows."""
        pod = self.observed.handed_on.get(name)
        return pod if pod is not None and self.pool.accepts(pod.revision) else None

    def tried(self, found: EngineGroups) -> bool:
        """Whether one beside the engine that serves has ended, and the next one is yet to come."""
        if not self.pool.max_surge or found.beside is not None or found.kept is None:
            return False
        last, accepts = found.last_ended, self.pool.accepts
        if last is None or not accepts(last.revision):
            return False
        return last.engine in self.wanted and not accepts(found.kept.revision)

    def surge_room(self) -> int:
        """How many more may come up beside others; below 0 where ``maxSurge`` was lowered."""
        beside = sum(found.beside is not None for found in self.engines.values())
        return self.pool.max_surge - beside - len(self.surging)

    def stays(self, group: Group) -> bool:
        """Whether it was to go, and a delete was not taken: it is told as it is."""
        stays = self.observed.stays
        return bool(stays) and any(pod.uid in stays for pod in group.members)

    @cached_property
    def without_seat(self) -> Mapping[EngineName, str]:
        """Why wanted engines could not be made now, by their seats alone."""
        if self.seating is None:
            return {}
        return {n: why for n in self.wanted if (why := self.seating.why_waiting(n))}

    # --- what rules decide

    def remove(
        self, pod: ObservedPod, reason: str, *, replaced: bool = False, drains: bool = True
    ) -> None:
        """The pod is to be deleted.

        One that is being deleted already is so once more where nothing of it drains any more.
        """
        soon = pod.seen.due <= self.now + ENDED_GRACE_SECONDS or not pod.may_hold_memory
        if pod.uid in self.observed.stays or (pod.deleting and (drains or soon)):
            return
        removal = RemovePod(pod=pod, reason=reason, replaced=replaced, drains=drains)
        known = self.removals.setdefault(pod.uid, removal)
        if known.drains and not drains:
            self.removals[pod.uid] = replace(known, drains=False)

    def remove_group(
        self,
        group: Group,
        reason: str,
        *,
        replaced: bool = False,
        at_once: bool = False,
        drains: bool = True,
    ) -> None:
        """All of its pods are to be deleted, the leader first.

        One that answers what it was asked needs the others for that: they follow when it has ended
        (``rules.members``), unless nothing of it is to be waited for (``at_once``).
        """
        alone = not at_once and self.is_up(group) and group.drains(self.now)
        for pod in group.members[:1] if alone else group.members:
            self.remove(pod, reason, replaced=replaced, drains=drains)

    def create(
        self,
        engine: Engine,
        *,
        reason: str,
        failures: int = 0,
        streak: FailureStreak | None = None,
        after: ObservedPod | None = None,
    ) -> None:
        """The engine gets pods, of the next attempt, after these failures.

        Where it comes ``after`` a pod, it does once the API server has taken that one's delete.
        Of several the leader is made once all others are seen (``rules.incomplete``).
        Nothing is made that has no seat, or while others may hold its GPUs.
        """
        attempt = self.groups_of(engine.name).highest + 1
        seats = self._claim(engine, range(engine.pods))
        if seats is None:
            if after is not None:
                self.hand_on(after, failures, streak)
            if streak is not None and engine.name in self.handed_on:
                self.starts.begin(streak)
            return
        self.creates.append(
            CreateEngine(
                engine=engine,
                attempt=attempt,
                failures=failures,
                reason=reason,
                streak=streak,
                after=after,
                node_ranks=tuple(range(1, engine.pods)) or (0,),
                seats=tuple(seats),
                start=self.starting.group_of(engine.name),
            )
        )
        if streak is not None:
            self.starts.begin(streak)
        # Its pod comes with the next snapshot; until then nothing else is done for the engine.
        # One more try of what was refused changes nothing for anybody until it is taken.
        refused = self.observed.creates_refused
        self.podless[engine.name] = EngineState.BACKOFF if refused else EngineState.CREATING

    def complete(self, engine: Engine, group: Group, node_ranks: tuple[int, ...]) -> None:
        """The engine gets those of its pods that are missing."""
        first = group.first
        seats = self._claim(engine, node_ranks)
        if seats is None:
            return
        self.creates.append(
            CreateEngine(
                engine=engine,
                attempt=group.attempt,
                failures=first.failures,
                reason="its other pods are there",
                streak=startup.streak_before(first),
                node_ranks=node_ranks,
                seats=tuple(seats),
                start=first.start,
            )
        )

    def _claim(self, engine: Engine, node_ranks: Iterable[int]) -> Sequence[Seat] | None:
        """The seats of its pods, if those of these node ranks may be made now; None: it waits."""
        if self.seating is None:
            return ()
        if self.turn.has(engine.devices):
            self.awaits_turn(engine.name)
            return None
        seats = self.seating.seats.get(engine.name)
        if seats and (rival := self.observed.rivals.get(engine.name)):
            self.awaits_rival(engine.name, rival)
            return None
        held = self._holders.of(seats[rank] for rank in node_ranks) if seats else ()
        if seats and not held:
            return seats
        self.podless[engine.name] = EngineState.WAITING
        for pod in held:
            state = self.healths.get(pod.uid)
            if state is None:
                # Nobody wakes a pool for the pods of others, or for one that is out of sight.
                elsewhere = pod.uid in self.observed.elsewhere
                self.kept_out[engine.name] = "" if elsewhere else pod.name
                self.wakes.append(self.now + seating.LOOK_SECONDS)
            elif state is _ENDED:
                self.let_go(pod, f"engine {engine.name} is to have its GPUs")
        return None

    def awaits_turn(self, name: EngineName) -> None:
        """The engine is not made before the trainer gives its GPUs back."""
        self.podless[name] = EngineState.WAITING
        if name not in self.turned:
            self.turned.append(name)

    def awaits_rival(self, name: EngineName, rival: str) -> None:
        """The engine is not made before those of that pool sleep, or are gone."""
        self.podless[name], self.rivalled[name] = EngineState.WAITING, rival
        self.wakes.append(self.now + seating.LOOK_SECONDS)

    @cached_property
    def _holders(self) -> seating.Holders:
        return seating.Holders(self.observed)

    def let_go(self, pod: ObservedPod, why: str) -> None:
        """One that has ended, and whose engine runs on, goes once its failure is recorded."""
        if pod.uid not in self.observed.recorded:
            return
        self.remove(pod, why, drains=False)
        last = self.last_end(self.groups_of(pod.engine))
        if last is not None:
            self.hand_on(last, restart.failures(last, self.policy), self.streak(last))

    def hand_on(self, pod: ObservedPod, failures: int, streak: FailureStreak | None) -> None:
        """The engine's next pod follows these failures, though this one goes before it."""
        self.handed_on[pod.engine] = startup.following(pod, failures, streak)
