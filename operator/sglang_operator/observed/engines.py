"""How each engine of a pool stands.  Pure.

An engine is what clients and trainers know: a rank, an address, weights.  It runs in one pod, or in
several that live and die together: its members.  The first of them, the leader, answers for all;
the weights gate is the leader's.  Who makes, removes and diagnoses pods looks at the members;
everybody else asks here.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import INSTANCE_DIGITS, Gate, ObservedPod, Termination
from sglang_operator.pool.resolve import Engine

UP_STATES = (EngineState.IN_SERVICE, EngineState.UP)
# A pool has thousands of engines, and members of an Enum take long to look up.
_IN_SERVICE, _ONLY_UP, _LOST = EngineState.IN_SERVICE, EngineState.UP, EngineState.LOST
_WELL = Health.UP

# What one member tells of the whole engine, the most telling first.
_HELD_UP_BY: tuple[tuple[Health, EngineState], ...] = (
    (Health.LOST, EngineState.LOST),
    (Health.DYING, EngineState.WAITING),
    (Health.PENDING, EngineState.PENDING),
)


def state(members: Sequence[ObservedPod], healths: Sequence[Health], size: int = 1) -> EngineState:
    """The state of an engine of ``size`` members, of which these are there and healthy like this.

    It is up once all of them are, and in service by the leader's readiness.
    """
    if healths.count(_WELL) == size:
        return _IN_SERVICE if members[0].ready else _ONLY_UP
    for health, found in _HELD_UP_BY:
        if health in healths:
            return found
    return EngineState.CREATING if len(members) < size else EngineState.STARTING


def instance(members: Sequence[ObservedPod]) -> str | None:
    """The name of one life of an engine: it changes with each restart of any member's container.

    Eight hexadecimal digits; None while a container is missing.
    """
    if len(members) == 1:
        return members[0].instance
    return run_of([member.instance for member in members])


def run_of(lives: Sequence[str | None]) -> str | None:
    """The name of the life of an engine that is these of its members, by node rank."""
    if not lives or None in lives:
        return None
    if len(lives) == 1:
        return lives[0]
    return hashlib.sha256("|".join(map(str, lives)).encode()).hexdigest()[:INSTANCE_DIGITS]


def span(engines: Iterable["EngineStatus"]) -> bool:
    """Whether one of these is several pods, as it runs or else is to be made."""
    return any(each.engine.pods > 1 for each in engines)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatus:
    """One wanted engine, and the pods that stand for it as far as there are any."""

    engine: Engine  # the wanted one, in as many pods as it runs in if it has any
    state: EngineState
    members: tuple[ObservedPod, ...] = ()  # the leader first
    current: bool = True  # of the pool's present revision
    lost_nodes: tuple[str, ...] = ()  # nodes of members that are lost with them
    # What follows from these, asked for ten times in each pass.
    # The member that answers for the engine, and has its gate; None while it is not there.
    leader: ObservedPod | None = field(init=False, compare=False, default=None)
    # The name of this life of it; None while a container is missing.
    instance: str | None = field(init=False, compare=False, default=None)

    def __post_init__(self) -> None:
        members = self.members
        if not members:
            return
        if members[0].node_rank == 0:
            object.__setattr__(self, "leader", members[0])
        if len(members) >= self.engine.pods:
            object.__setattr__(self, "instance", instance(members))

    @classmethod
    def of(
        cls,
        engine: Engine,
        members: tuple[ObservedPod, ...],
        healths: Sequence[Health],
        *,
        current: bool = True,
    ) -> "EngineStatus":
        """How an engine stands by its members and their health, each at the same place.

        Of a group: ``groups.status``.
        """
        found = state(members, healths, engine.pods)
        if found is not _LOST:
            return cls(engine=engine, state=found, members=members, current=current)
        beside = zip(members, healths, strict=True)
        lost = dict.fromkeys(member.node for member, health in beside if health is Health.LOST)
        return cls(
            engine=engine, state=found, members=members, current=current, lost_nodes=tuple(lost)
        )

    # --- which one it is

    @property
    def rank(self) -> int:
        """Its place among the pool's engines: ROLL's dp_rank."""
        return self.engine.rank

    @property
    def name(self) -> EngineName:
        """Its name: that of the GPUs that it has."""
        return self.engine.name

    @property
    def devices(self) -> tuple[int, ...]:
        """The GPU ids of the mapping that are its own."""
        return self.engine.devices

    @property
    def pod_name(self) -> str:
        """Name of the leader's pod; "" while there is none."""
        leader = self.leader
        return leader.name if leader is not None else ""

    @property
    def uid(self) -> Uid | None:
        """UID of the leader's pod."""
        leader = self.leader
        return leader.uid if leader is not None else None

    @property
    def revision(self) -> str:
        """What its pods were made of; "" while there is none."""
        return self.members[0].revision if self.members else ""

    @property
    def attempt(self) -> int:
        """How often it was made anew before; -1 while no pod is there."""
        return max([member.attempt for member in self.members], default=-1)

    @property
    def lives(self) -> str:
        """The very pods and containers that it runs in, as the epoch counts them."""
        members = self.members
        if len(members) == 1:
            return f"{members[0].uid}|{members[0].container_id}"
        return "|".join(f"{each.uid}|{each.container_id}" for each in members) or "|"

    # --- how far it is

    @property
    def exists(self) -> bool:
        """Whether any pod stands for it."""
        return bool(self.members)

    @property
    def created(self) -> bool:
        """Whether all of its pods are there."""
        return len(self.members) >= self.engine.pods

    @property
    def updated(self) -> bool:
        """Whether all of its pods are there, and of the present revision."""
        return self.created and self.current

    @property
    def outdated(self) -> bool:
        """Whether it runs an older revision."""
        return self.exists and not self.current

    @property
    def up(self) -> bool:
        """Whether the engine answers: all members are up."""
        return self.state in UP_STATES

    @property
    def in_service(self) -> bool:
        """Whether clients reach it."""
        return self.state is _IN_SERVICE

    @property
    def runs(self) -> bool:
        """Whether a container of it runs, as far as anybody can say that of its nodes."""
        if self.state is _LOST:
            return self.runs_in_part
        return any(member.engine_runs for member in self.members)

    @property
    def runs_in_part(self) -> bool:
        """Whether a process of an engine that is lost runs on a node that is not."""
        if self.state is not _LOST:
            return False
        return any(each.engine_runs and each.node not in self.lost_nodes for each in self.members)

    @property
    def ready(self) -> bool:
        """Whether Kubernetes says Ready of the leader, and so sends clients there."""
        leader = self.leader
        return leader is not None and leader.ready

    @property
    def answers(self) -> bool:
        """Whether the containers of all members are ready, and none is on its way out."""
        return self.created and all(
            member.containers_ready and not member.dying for member in self.members
        )

    @property
    def ended(self) -> bool:
        """Whether a member has ended for good, and the engine with it."""
        return any(member.ended for member in self.members)

    @property
    def failures(self) -> int:
        """Failures in a row that led to the pods that it has."""
        return max([member.failures for member in self.members], default=0)

    # --- where it is

    @property
    def ip(self) -> str:
        """Where clients reach it, once it has an address."""
        leader = self.leader
        return leader.ip if leader is not None else ""

    @property
    def node(self) -> str:
        """The leader's node; "" while it has none."""
        leader = self.leader
        return leader.node if leader is not None else ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes of all members that have one, the leader's first, each once."""
        members = self.members
        if len(members) == 1:
            node = members[0].node
            return (node,) if node else ()
        return tuple(dict.fromkeys(member.node for member in members if member.node))

    @property
    def placed(self) -> bool:
        """Whether every member has a node."""
        members = self.members
        if len(members) == 1 == self.engine.pods:
            return bool(members[0].node)
        return self.created and all(member.node for member in members)

    def gpus(self, resource: str, otherwise: int) -> int:
        """Its GPUs in all; ``otherwise``: no pod tells."""
        if not self.members:
            return otherwise
        return self.members[0].gpus(resource, otherwise // self.engine.pods) * self.engine.pods

    def held(self, resource: str, otherwise: int) -> Mapping[str, int]:
        """GPUs that it holds on each node; ``otherwise``: in all, where its pods do not tell."""
        found: dict[str, int] = {}
        for member in self.members:
            if member.node:
                gpus = member.gpus(resource, otherwise // self.engine.pods)
                found[member.node] = found.get(member.node, 0) + gpus
        return found

    # --- its weights gate

    @property
    def gated(self) -> bool | None:
        """Whether it was started with a gate, which is so for its life; None: no leader."""
        leader = self.leader
        return leader.gated if leader is not None else None

    @property
    def gate(self) -> Gate | None:
        """The gate as the operator last set it; None: never set, or no leader."""
        leader = self.leader
        return leader.gate if leader is not None else None

    @property
    def reachable(self) -> bool:
        """Whether clients reach it, as far as it is for the weights: its gate is open."""
        members = self.members
        if len(members) != self.engine.pods:
            return False
        if len(members) > 1 and any(each.ended or each.deleting for each in members):
            return False
        return members[0].node_rank == 0 and members[0].reachable

    # --- what keeps it

    @property
    def unready(self) -> Iterator[ObservedPod]:
        """The members of which a container is not ready."""
        for member in self.members:
            if not member.containers_ready:
                yield member

    @property
    def why(self) -> str:
        """What Kubernetes says of what keeps it; "" if nothing is said."""
        return next(filter(None, map(_said, self.members)), "")

    @property
    def unschedulable(self) -> str:
        """What the scheduler says, if it finds no node for a member."""
        for member in self.members:
            if member.unschedulable:
                return member.unschedulable
        return ""

    @property
    def scheduling_gates(self) -> tuple[str, ...]:
        """Gates that keep members from the scheduler."""
        return tuple(dict.fromkeys(g for each in self.members for g in each.scheduling_gates))

    @property
    def queued(self) -> ObservedPod | None:
        """The first member that waits in its queue; None if none does."""
        return next((member for member in self.members if member.is_queued), None)

    def lacks(self, resource: str) -> bool:
        """Whether the scheduler finds too little of this on the nodes."""
        return any(member.lacks(resource) for member in self.members)

    # --- how it ended before

    @property
    def ends(self) -> Sequence[tuple[ObservedPod, Termination]]:
        """Members whose container ended and is started again in place, the first end first."""
        members = self.members
        if len(members) == 1:
            end = members[0].last_termination
            return ((members[0], end),) if end is not None else ()
        found = [(each, end) for each in members if (end := each.last_termination) is not None]
        return sorted(found, key=lambda one: one[1].finished)

    @property
    def restarting(self) -> bool:
        """Whether a container ended and the engine is not up again."""
        return not self.up and bool(self.ends)


def _said(pod: ObservedPod) -> str:
    return pod.unschedulable or pod.waiting_message or pod.waiting_reason
