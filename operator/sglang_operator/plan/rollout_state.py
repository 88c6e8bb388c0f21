"""What a rollout decides by, and what it decides (``plan.rollout``).  Pure data."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum

from sglang_operator.api.names import EngineName
from sglang_operator.plan import places
from sglang_operator.plan.places import Old
from sglang_operator.pool.resolve import Engine


class Waits(Enum):
    """What a change that could go on waits for."""

    FOR_SYNC = "ForSync"  # a trainer writes weights to these engines
    FOR_WAKE = "ForWake"  # a trainer has their memory
    FOR_WINDOW = "ForWindow"  # a trainer's step is under way
    FOR_WEIGHTS = "ForWeights"  # replaced engines are up and hold no weights yet
    FOR_ROOM = "ForRoom"  # no node gets room for an engine by what may go
    FOR_RESUME = "ForResume"  # it is paused, and engines cannot be before old ones go
    FOR_ADMISSION = "ForAdmission"  # the API server would refuse the replacement
    FOR_SEATS = "ForSeats"  # nobody knows where those that go could come back


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Why a change does not go on, and the numbers to say it with."""

    what: Waits
    engines: int = 0  # that are up with a closed gate
    engine: EngineName | None = None  # the engine that finds no room
    needed: int = 0  # the maxUnavailable with which it would go on
    until: float = 0.0  # when it goes on all the same, by the wall clock
    # The scheduler's words, where it is not GPUs that nodes lack; of seats, why there are none.
    lacking: str = ""


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """Where the engines of a pool stand before a change by our own decision."""

    wanted: Sequence[Engine]
    gpus: int  # of one wanted engine
    pods: int = 1  # that it runs in, of as many GPUs each
    short: int = 1  # places that the first of the ``stuck`` lacks
    max_unavailable: int
    serving: Set[EngineName]  # wanted engines that clients reach, whichever revision they run
    alive: int = 0  # GPUs of wanted engines that run and have answered, whichever revision
    in_step: int = 0  # of these such as the trainer's step that is under way began with
    # GPUs that the groups of wanted engines have, where those are not of the pool's revision.
    sizes: Mapping[EngineName, int] = field(default_factory=dict)
    closed: Set[EngineName] = frozenset()  # of the present revision, up, and without weights
    # Wanted ones of any revision that stay, are up, and get weights from a sync alone.
    unsynced: Set[EngineName] = frozenset()
    fetching: bool = False  # whether others get theirs without one
    # Engines that are not wanted and have a pod, and wanted ones of an older revision.
    obsolete: Mapping[EngineName, Old] = field(default_factory=dict)
    outdated: Mapping[EngineName, Old] = field(default_factory=dict)
    missing: Set[EngineName] = frozenset()  # wanted ones without a pod
    placed: Set[EngineName] = frozenset()  # wanted ones whose pod has a node
    stuck: Sequence[EngineName] = ()  # wanted ones whose pod waits in vain for a place
    lacking: str = ""  # what the scheduler says of them, where it is not GPUs that nodes lack
    free: places.Free = field(default_factory=dict)  # at most, on each node
    free_known: bool = False  # by the nodes; else it is a guess about those that have our pods
    paused: bool = False
    failing: bool = False  # the present revision fails at its start: none that runs goes for it
    held: Waits | None = None  # running engines are left alone for now
    amid: bool = False  # a trainer's step is under way: none that serves goes for another
    max_surge: int = 0  # engines that may run beside those that they are to replace
    # Outdated ones beside which such a one runs, or did and will be tried again; those of these
    # that lack a node, of them those that find none, and of them those that hold some all the same.
    beside: Set[EngineName] = frozenset()
    homeless: Set[EngineName] = frozenset()
    cramped: Set[EngineName] = frozenset()
    torn: Set[EngineName] = frozenset()
    # Those of them that are up and load no weights; of these those that get them by a sync alone.
    arrived: Set[EngineName] = frozenset()
    awaiting: Set[EngineName] = frozenset()
    refused: bool = False  # the API server takes no more pods now
    queued: bool = False  # a wanted one waits in a queue for what one beside another would take
    lowest_first: bool = False  # the lowest rank goes first, not the highest
    doubted: bool = False  # whether the API server takes a pod of the present revision


@dataclass(frozen=True, kw_only=True)
class Going:
    """Which engines a change takes away now, and what it waits for with the others."""

    obsolete: Set[EngineName]
    outdated: Set[EngineName]
    waiting: Waiting | None
    replaced: Set[EngineName] = frozenset()  # those whose GPUs others need
    surging: frozenset[EngineName] = frozenset()  # outdated ones that get a new one beside them
    cramped: bool = False  # there is no room for such
    retreating: frozenset[EngineName] = frozenset()  # from beside which one goes again
