"""The pods of one attempt at an engine, as one: they live and die together.  Pure.

Mostly that is one pod.  An engine that spans nodes has one on each, its members: the first, the
leader, answers for all of them and has the weights gate.  Who plans engines, opens gates or tells
of weights asks here; who makes, removes and diagnoses pods looks at the members.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed import engines
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.facts import EngineRun
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Gate, ObservedPod
from sglang_operator.pool.resolve import Engine

_UP, _PENDING, _STARTING = Health.UP, Health.PENDING, Health.STARTING
_ENDED, _DYING = Health.ENDED, Health.DYING
# What one member is, all of them are; the first that one of them is.
_OF_ALL = (Health.ENDED, Health.LOST, Health.DYING)


class Group:
    """The members that are there, by node rank; at least one."""

    # A pool has thousands of engines: what each pass asks for several times is no property.
    __slots__ = ("attempt", "engine", "first", "leader", "members", "revision", "size")

    def __init__(self, members: tuple[ObservedPod, ...]) -> None:
        self.members = members
        first = members[0]
        self.first = first  # says what all of them have in common
        # The member that answers for the engine; None while it is not there.
        self.leader = first if first.node_rank == 0 else None
        self.engine = first.engine
        self.attempt = first.attempt  # which try at this engine it is
        self.revision = first.revision  # of what they were made
        # How many there are when all are there.
        self.size = first.nodes if len(members) == 1 else _size(members)

    @property
    def whole(self) -> bool:
        """Whether all are there."""
        return len(self.members) == self.size

    @property
    def missing(self) -> tuple[int, ...]:
        """The node ranks whose pods are not there."""
        there = {member.node_rank for member in self.members}
        return tuple(rank for rank in range(self.size) if rank not in there)

    @property
    def devices(self) -> tuple[int, ...]:
        """The GPU ids of all members, in order."""
        members = self.members
        if len(members) == 1:
            return members[0].devices
        return tuple(device for member in members for device in member.devices)

    @property
    def created(self) -> float:
        """When the first of them was made: a stamp."""
        return min(member.created for member in self.members)

    # --- the leader

    @property
    def ready(self) -> bool:
        """Whether Kubernetes sends clients there."""
        leader = self.leader
        return leader is not None and leader.ready

    @property
    def let_in(self) -> bool:
        """Whether kubelet says Ready of the leader once all of its containers are."""
        leader = self.leader
        return leader is not None and leader.let_in

    @property
    def gate(self) -> Gate | None:
        """The leader's weights gate; None: never set, or it has none."""
        leader = self.leader
        return leader.gate if leader is not None else None

    @property
    def gated(self) -> bool:
        """Whether the leader is not Ready before its gate is open."""
        leader = self.leader
        return leader is not None and leader.gated

    @property
    def instance(self) -> str | None:
        """The name of one life of the engine; None while a container is missing."""
        first = self.first
        if first.nodes == 1:
            return first.instance
        return engines.instance(self.members) if self.whole else None

    @property
    def last_instance(self) -> str | None:
        """The life that may go on though kubelet tells of no container; else as ``instance``."""
        if self.first.nodes == 1:
            return self.first.last_instance
        return engines.run_of([m.last_instance for m in self.members]) if self.whole else None

    @property
    def out_of_sight(self) -> bool:
        """Whether kubelet tells of no container where one ran, as after a fault of its own."""
        return self.whole and any(member.out_of_sight for member in self.members)

    @property
    def may_run(self) -> bool:
        """Whether the engine may run: a process in each member, or nobody knows of one."""
        first = self.first
        if first.nodes == 1:
            return first.may_run
        return self.whole and all(member.may_run for member in self.members)

    # --- what becomes of one becomes of all

    @property
    def ended(self) -> bool:
        """Whether the engine will never run again in these pods."""
        if len(self.members) == 1:
            return self.first.ended
        return any(member.ended for member in self.members)

    @property
    def never_met(self) -> bool:
        """Whether the leader has not run yet, as far as is known: the others wait for it."""
        if self.leader is not None:
            return not self.leader.ran
        return not any(member.seen.headless or member.seen.bereft for member in self.members)

    @property
    def ends(self) -> Sequence[ObservedPod]:
        """The members that ended, by themselves if one did."""
        if len(self.members) == 1:
            return self.members
        failed = [member for member in self.members if member.failed]
        return failed or [member for member in self.members if member.ended]

    @property
    def first_end(self) -> ObservedPod:
        """The one of ``ends`` that was seen first."""
        return min(self.ends, key=lambda member: (member.seen.ended, member.node_rank))

    def drains(self, now: float) -> bool:
        """Whether its leader still answers what it was asked, or would if it were deleted now.

        For that it needs all of its ranks.
        """
        leader = self.leader
        if leader is None or not self.answered or any(m.ended for m in self.members):
            return False
        if any(m.dying for m in self.members if m is not leader):
            return False
        return not (leader.deleting and leader.seen.due <= now)

    @property
    def deleting(self) -> bool:
        """Whether one of them is being deleted."""
        if len(self.members) == 1:
            return self.first.deleting
        return any(member.deleting for member in self.members)

    @property
    def dying(self) -> bool:
        """Whether one of them is on its way out by somebody's decision."""
        if len(self.members) == 1:
            return self.first.dying
        return any(member.dying for member in self.members)

    @property
    def answered(self) -> bool:
        """Whether the engine runs and has answered in these containers.

        The operator may have begun to look after that: then kubelet knows, by the startup probe.
        """
        return self.whole and all(m.engine_runs and (m.answered or m.started) for m in self.members)

    @property
    def containers_ready(self) -> bool:
        """Whether the containers of all members are ready."""
        return self.whole and all(member.containers_ready for member in self.members)

    @property
    def reachable(self) -> bool:
        """Whether clients reach it, as far as it is for the weights: the leader's gate is open."""
        leader = self.leader
        if leader is None or not self.whole or self.ended or self.deleting:
            return False
        return leader.reachable

    @property
    def runs(self) -> bool:
        """Whether the engine's container runs in any of them."""
        if len(self.members) == 1:
            return self.first.engine_runs
        return any(member.engine_runs for member in self.members)

    # --- their places

    @property
    def placed(self) -> bool:
        """Whether every member has a node."""
        return self.whole and all(member.node for member in self.members)

    @property
    def unplaced(self) -> int:
        """How many members have no node yet."""
        return self.size - sum(bool(member.node) for member in self.members)

    @property
    def seen(self) -> float:
        """When we first saw the last of them: by the steady clock."""
        return max(member.seen.first for member in self.members)

    def lacks(self, resource: str = "") -> bool:
        """Whether the scheduler finds too little of this, or of anything, on nodes."""
        return any(member.lacks(resource) for member in self.members)

    @property
    def unschedulable(self) -> str:
        """What the scheduler says, if it finds no node for a member."""
        return next((m.unschedulable for m in self.members if m.unschedulable), "")


def of(pods: Iterable[ObservedPod]) -> list[Group]:
    """The groups that these pods are: the engines of one pod first."""
    found: list[Group] = []
    several: dict[tuple[EngineName, int], list[ObservedPod]] = {}
    for pod in pods:
        if pod.nodes == 1:
            found.append(Group((pod,)))
        else:
            several.setdefault((pod.engine, pod.attempt), []).append(pod)
    found += [Group(tuple(sorted(members, key=_by_rank))) for members in several.values()]
    return found


def runs(pods: Iterable[ObservedPod]) -> list[EngineRun]:
    """The lives of engines in these pods; of an engine of one pod that pod is one."""
    found: list[EngineRun] = []
    several: list[ObservedPod] = []
    for pod in pods:
        (found if pod.nodes == 1 else several).append(pod)
    return [*found, *of(several)] if several else found


def _size(members: Sequence[ObservedPod]) -> int:
    """What most of them say, of which none may have been told wrong: no fewer than are there."""
    told = Counter(member.nodes for member in members)
    least = max(len(members), members[-1].node_rank + 1)
    if len(told) == 1:
        return max(least, members[0].nodes)
    said = ((-count, nodes) for nodes, count in told.items() if nodes >= least)
    return min(said, default=(0, least))[1]


def status(
    engine: Engine, group: Group, healths: Sequence[Health], *, current: bool = True
) -> EngineStatus:
    """How an engine stands by its group and the health of each member.

    It runs in as many pods as it was started with: the spec may ask for another number since.
    """
    if engine.pods != group.size:
        engine = replace(engine, pods=group.size)
    return EngineStatus.of(engine, group.members, healths, current=current)


def with_any(found: Iterable[Group], pods: Collection[ObservedPod]) -> frozenset[Group]:
    """Those of which one of these pods is a member."""
    uids = {pod.uid for pod in pods}
    if not uids:
        return frozenset()
    return frozenset(group for group in found if any(m.uid in uids for m in group.members))


def _by_rank(pod: ObservedPod) -> tuple[int, str]:
    return pod.node_rank, pod.name


def _was_going(group: Group, found: Sequence[Health]) -> bool:
    """Whether a member was on its way out before others ended, of which they died."""
    both = list(zip(group.members, found, strict=True))
    ended = min(member.seen.ended for member, state in both if state is _ENDED)
    went = [member.seen.going for member, state in both if state is _DYING]
    went += [member.seen.bereft for member in group.members]
    return any(0.0 < moment < ended for moment in went)


def health(group: Group, of_pods: Mapping[Uid, Health]) -> Health:
    """The state of the engine by that of its members."""
    first = group.first
    if first.nodes == 1:
        return of_pods[first.uid]
    found = [of_pods[member.uid] for member in group.members]
    for state in _OF_ALL:
        if state in found:
            return _DYING if state is _ENDED and _was_going(group, found) else state
    if group.whole and all(state is _UP for state in found):
        return _UP
    return _PENDING if _PENDING in found else _STARTING
