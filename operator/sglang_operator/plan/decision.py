"""What a plan consists of.  Pure data: ``plan`` makes it, ``actions`` has it carried out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import ObservedPod, Termination
from sglang_operator.observed.silence import Silence
from sglang_operator.placement.seats import Seat, Seating
from sglang_operator.plan.rollout_state import Waiting
from sglang_operator.plan.startup import FailureStreak, Stall
from sglang_operator.pool.resolve import Engine
from sglang_operator.pool.tuning import Tuning

# What a pod gets to stop in which nobody answers any more: the grace of a drain is for requests.
ENDED_GRACE_SECONDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateEngine:
    """Make pods of an engine that are not there: all of them, or those of these node ranks."""

    engine: Engine
    attempt: int
    failures: int
    reason: str
    streak: FailureStreak | None = None  # the failures at its start that it follows
    after: ObservedPod | None = None  # whose delete has to be taken first: it may run on
    node_ranks: tuple[int, ...] = (0,)
    seats: tuple[Seat, ...] = ()  # of all its pods; none: the scheduler says where they are
    start: str = ""  # the group that it starts in with other engines


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovePod:
    pod: ObservedPod
    reason: str
    replaced: bool = False  # it could run on: it makes way for the pool as it is wanted now
    drains: bool = True  # it may answer what it was asked before


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
    # Beside those: engines that run and that nobody wants any more, or that are on their way out.
    unlisted: tuple[EngineStatus, ...] = ()
    obsolete: int = 0  # pods that still run for engines that are not wanted any more
    ended: tuple[ObservedPod, ...] = ()  # failures to record
    lost: tuple[LostPod, ...] = ()
    silence: Silence | None = None  # too many nodes are not ready for any to be lost
    disrupted: tuple[ObservedPod, ...] = ()  # evicted or preempted, and on their way out
    hung: tuple[HungPod, ...] = ()  # with work, and nothing moves: recorded, then removed
    taken_over: tuple[ObservedPod, ...] = ()  # from the kubelet's crash loop
    stalls: tuple[Stall, ...] = ()  # given up until the spec changes, or the pods go
    tuning: Tuning | None = None  # to be in force from the next pass on
    waiting: Waiting | None = None  # why a change does not go on
    rolling: bool = False  # whether engines are there that are to go for it
    # New ones that are on their way up beside engines of an older revision, which serve until then.
    beside: tuple[EngineStatus, ...] = ()
    cramped: str | None = None  # why none finds room, in the scheduler's words, if there are any
    # Those of them, by engine, that trainers are told of in place of the one that serves.
    heirs: Mapping[EngineName, EngineStatus] = field(default_factory=dict)
    seating: Seating | None = None  # where pods belong, if that is not the scheduler's to say
    neighbours: tuple[str, ...] = ()  # other pools that have engines on its GPUs
    unseated: tuple[EngineName, ...] = ()  # engines that have no pods for want of a seat
    # Engines that wait for GPUs which a pod may hold that is no engine of the pool, by its name.
    kept_out: Mapping[EngineName, str] = field(default_factory=dict)
    turned: tuple[EngineName, ...] = ()  # that wait until the trainer gives their GPUs back
    # Those that wait until the engines of another pool sleep on their GPUs, and which pool's.
    rivalled: Mapping[EngineName, str] = field(default_factory=dict)
    handed_on: Mapping[EngineName, ObservedPod] = field(default_factory=dict)  # for the next pass
    untried: bool = False  # there is no pod of the present revision
    lingering: tuple[ObservedPod, ...] = ()  # deleted, and still there long after their grace
    at: float = 0.0  # the time for which this holds, by the steady clock
    capacity: str = ""  # why no node has room, where it was looked up
    wake_at: float | None = None  # by the steady clock

    @property
    def to_go(self) -> frozenset[Uid]:
        """The pods that are to be deleted, and may run on if they are not.

        What is told of one that has ended does not depend upon its delete.
        """
        pods = (removal.pod for removal in self.removals)
        return frozenset(pod.uid for pod in pods if not pod.ended)

    @cached_property
    def with_beside(self) -> "Plan":
        """The same with the engines that start beside others among its own, to look at what
        keeps them; where they find no room is told otherwise."""
        found = [each for each in self.beside if each.state is not EngineState.PENDING]
        return replace(self, engines=(*self.engines, *found)) if found else self

    @cached_property
    def down(self) -> tuple[EngineStatus, ...]:
        """Wanted engines that are not up: few of many, most of the time."""
        return tuple([engine for engine in self.engines if not engine.up])

    @property
    def coming(self) -> int:
        """How many wanted engines are not up."""
        return len(self.down)

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
