"""Which pool has the memory of GPUs that several have engines on: at most one of them.  Pure.

Each pool's Lease says whose turn it is between its engines and its trainer, and nothing of another
pool's.  So a pool gets the GPUs by the operator's word, before its engines are made and before any
of them resumes its memory, and has them until its Lease says that all there sleep, or wait.  Of
several that are to have some at once, and have none, the oldest gets them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed import groups
from sglang_operator.observed.groups import Group
from sglang_operator.observed.model import ObservedPod
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction

# In which a trainer that is at work may have engines resume their memory.
_RESUMES = (Phase.SLEEPING, Phase.AWAKE, Phase.SYNCING)


class Place(NamedTuple):
    """One engine, as it is wanted or runs: its GPUs by their ids, and by their UUIDs."""

    engine: EngineName
    devices: tuple[int, ...]
    gpus: tuple[str, ...]


class Order(NamedTuple):
    """Who is older comes first."""

    created: float
    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A pool with engines on GPUs that others have too, at one moment."""

    uid: Uid
    order: Order
    wants: frozenset[str]  # GPUs of which its engines are to have the memory
    has: frozenset[str]  # of which one of them may have it
    granted: frozenset[str] = frozenset()  # that it was told to have
    makes: bool = False  # pods are on their way that nobody sees yet

    @property
    def keeps(self) -> frozenset[str]:
        """GPUs that nobody else may have now."""
        return self.has | (self.granted if self.makes else self.granted & self.wants)


def wants(places: Iterable[Place], says: Transaction | None) -> frozenset[str]:
    """GPUs of which the engines in these places are to have the memory, by what the Lease says.

    None: nobody knows what that says, and engines wait.  While a trainer is at work all are: it may
    be about to wake them, or not be done with putting them to sleep.
    """
    if says is None:
        return frozenset()
    works, turn = says.at_work and says.phase in _RESUMES, says.trainers
    return frozenset(
        gpu for each in places if works or not turn.has(each.devices) for gpu in each.gpus
    )


def has(
    pods: Iterable[ObservedPod], says: Transaction | None, told: Collection[EngineName] | None
) -> frozenset[str]:
    """GPUs of which one of these pods may have the memory: all that there are of their engines.

    Whoever has released weights and KV cache has none, but where its trainer is at work, or may be
    though it was ended: what is named as asleep may be about to release it yet, or to resume it.
    ``told`` are engines of which a trainer that is at work now was told that another pool has their
    GPUs: it resumes none of these.  None: it was told nothing so far, and asks no engine for
    anything before.
    """
    holds = (
        pod
        for group in groups.of(pods)
        if says is None or not _sleeps(group, says, told)
        for pod in group.members
        if pod.may_hold_memory
    )
    return frozenset(gpu for pod in holds for gpu in pod.gpus_seen)


def _sleeps(group: Group, says: Transaction, told: Collection[EngineName] | None) -> bool:
    run = group.last_instance  # of an engine of several pods: no pod of it has that
    if says.releases or says.fence or run in says.unclear:
        return False
    if not says.sleeps(run).issuperset(SLEEP_TAGS):
        return False
    return not says.at_work or told is None or group.engine in told


def barred(own: Contender, others: Sequence[Contender]) -> Mapping[str, Contender]:
    """Whose GPUs are another pool's now.

    Who has them keeps them.  What nobody has yet is the older one's that is to have it.
    """
    found = dict[str, Contender]()
    for other in sorted(others, key=lambda each: each.order):
        for gpu in other.keeps:
            found.setdefault(gpu, other)
    for other in sorted(others, key=lambda each: each.order):
        if other.order < own.order:
            for gpu in other.wants - own.keeps:
                found.setdefault(gpu, other)
    return found
