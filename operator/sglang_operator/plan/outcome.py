"""What comes of a pass: all that its rules decided, and how the engines stand.  Pure."""

from collections.abc import Collection, Mapping, Sequence

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed import groups, health
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan.decision import LostPod, Plan
from sglang_operator.plan.planner import Planner
from sglang_operator.pool.resolve import NO_RANK, Engine

# A pool has thousands of pods, and members of an Enum take long to look up.
_ENDED, _LOST, _DYING = Health.ENDED, Health.LOST, Health.DYING


def plan(planner: Planner) -> Plan:
    """All that was decided, and how the engines stand."""
    engines = planner.engines.values()
    planner.wakes += _losses(planner)
    pods = [pod for found in engines for group in found.ended for pod in group.members]
    ended = tuple(pod for pod in pods if planner.healths[pod.uid] is _ENDED)
    return Plan(
        creates=tuple(planner.creates),
        removals=tuple(planner.removals.values()),
        engines=statuses(planner),
        unlisted=unlisted(planner),
        obsolete=sum(
            len(found.live) for name, found in planner.engines.items() if name not in planner.wanted
        ),
        ended=ended,
        lost=tuple(
            LostPod(pod=pod, since=node.ready_changed)
            for found in engines
            for group in found.lost
            for pod in group.members
            if planner.healths[pod.uid] is _LOST and (node := planner.nodes.get(pod.node))
        ),
        silence=planner.silence,
        disrupted=tuple(
            pod
            for found in engines
            for group in found.dying
            for pod in group.members
            if pod.disruption
        ),
        hung=tuple(planner.hung),
        taken_over=tuple(planner.taken_over),
        stalls=tuple(planner.starts.stalls()) if ended else (),
        tuning=planner.tuned or planner.pool.tuning,
        waiting=planner.waiting,
        rolling=planner.rolling,
        beside=_all_beside(planner),
        heirs=_heirs(planner),
        cramped=planner.cramped,
        lingering=planner.lingering,
        seating=planner.seating,
        unseated=tuple(planner.unseated),
        kept_out=planner.kept_out,
        turned=tuple(planner.turned),
        rivalled=planner.rivalled,
        handed_on=_all_handed_on(planner),
        neighbours=planner.observed.neighbours,
        at=planner.now,
        untried=all(pod.revision != planner.pool.revision for pod in planner.observed.pods),
        wake_at=min(planner.wakes, default=None),
    )


def _all_handed_on(planner: Planner) -> Mapping[EngineName, ObservedPod]:
    """Until the next pod is there: that knows of the failures itself."""
    known = planner.observed.handed_on.items()
    kept = {n: pod for n, pod in known if n in planner.wanted and not planner.groups_of(n).live}
    return kept | planner.handed_on


def _losses(planner: Planner) -> list[float]:
    """When the next pod will count as lost, or as one that lingers."""
    seen, now = planner.observed, planner.now
    loss = health.next_loss(seen.pods, planner.nodes, planner.policy, now)
    lingering = health.next_lingering(seen.all_pods, now)
    return [time for time in (loss, lingering) if time is not None]


def statuses(planner: Planner) -> tuple[EngineStatus, ...]:
    """How each wanted engine stands."""
    return tuple(_status(planner, engine) for engine in planner.pool.running)


def _all_beside(planner: Planner) -> tuple[EngineStatus, ...]:
    """The engines that are to take the place of those that still serve."""
    found = list[EngineStatus]()
    for name, engine in planner.wanted.items() if planner.pool.max_surge else ():
        groups_there = planner.groups_of(name)
        if groups_there.beside is not None:
            found.append(_beside(planner, groups_there.beside))
        elif planner.tried(groups_there):
            state = planner.podless.get(name, EngineState.BACKOFF)
            found.append(EngineStatus(engine=engine, state=state))
    return tuple(found)


def _heirs(planner: Planner) -> Mapping[EngineName, EngineStatus]:
    """The engines that trainers are told of in place of those that serve, as the pool's own."""
    if not planner.pool.gated:
        return {}
    found = ((name, planner.groups_of(name).heir) for name in planner.wanted)
    return {n: _of(planner, planner.wanted[n], heir) for n, heir in found if heir is not None}


def unlisted(planner: Planner) -> tuple[EngineStatus, ...]:
    """Engines that run beside the wanted ones and hold their GPUs' memory.

    Of what is on a lost node nobody knows when, or whether, it will be gone; nor of what is
    still there long after its grace.  Nothing waits for these; for what such an engine has on
    other nodes it does.  Those whose labels were taken
    away run on, too.
    """
    listed = {found.live[0] for name in planner.wanted if (found := planner.groups_of(name)).live}
    strays = _strays(planner)
    own = {group.first.uid for group in listed} if strays else frozenset[Uid]()
    # Of a group whose pods do not all stand aside the others are no engine by themselves.
    split = {pod.uid for group in strays for pod in group.members}
    beside = (
        *(
            group
            for group in planner.groups
            if group not in listed and group.first.uid not in split
        ),
        *(group for group in strays if group.first.uid not in own),
    )
    running = (group for group in beside if group.runs and group.leader is not None)
    given_up = {pod.uid for pod in planner.lingering}
    return tuple(
        _beside(planner, group)
        for group in sorted(running, key=lambda group: group.first.name)
        if _is_waited_for(planner, group, given_up)
    )


def _is_waited_for(planner: Planner, group: Group, given_up: Collection[Uid]) -> bool:
    if _stands(planner, group) is not _LOST:
        return group.first.uid not in given_up
    # What is left of it on other nodes is known to run there.
    left = (pod for pod in group.members if _health_of(planner, pod) is not _LOST)
    return any(pod.engine_runs and pod.uid not in given_up for pod in left)


def _strays(planner: Planner) -> frozenset[Group]:
    aside = planner.observed.aside
    return groups.with_any(groups.of(planner.observed.all_pods), aside) if aside else frozenset()


def _beside(planner: Planner, group: Group) -> EngineStatus:
    engine = Engine(rank=NO_RANK, name=group.engine, devices=group.devices)
    removed = any(pod.uid in planner.removals for pod in group.members)
    goes = group.ended or group.dying or removed
    states = [_DYING if goes else _health_of(planner, pod) for pod in group.members]
    current = planner.pool.accepts(group.revision)
    return groups.status(engine, group, states, current=current)


def _stands(planner: Planner, group: Group) -> Health:
    known = planner.stands.get(group)  # of the groups that stand for engines
    return known or groups.health(group, {p.uid: _health_of(planner, p) for p in group.members})


def _health_of(planner: Planner, pod: ObservedPod) -> Health:
    known = planner.healths.get(pod.uid)
    return known or health.health(pod, planner.nodes, planner.policy, planner.now)


def _status(planner: Planner, engine: Engine) -> EngineStatus:
    group = planner.groups_of(engine.name).kept
    if group is None:
        state = planner.podless.get(engine.name, EngineState.CREATING)
        return EngineStatus(engine=engine, state=state)
    return _of(planner, engine, group)


def _of(planner: Planner, engine: Engine, group: Group) -> EngineStatus:
    states: Sequence[Health] = (planner.stands[group],)
    if group.first.nodes > 1:
        states = [planner.healths[pod.uid] for pod in group.members]
    current = planner.pool.accepts(group.revision)
    return groups.status(engine, group, states, current=current)
