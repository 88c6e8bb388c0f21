"""Which pods may hold sleepers of which the registry does not tell.  Pure."""

from collections.abc import Iterable, Set
from itertools import chain

from sglang_operator.api.names import Uid
from sglang_operator.gates import lease as leases
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.groups import Group
from sglang_operator.weights.lease_state import Transaction


def named(
    there: Iterable[Group],
    strays: Set[Group],
    engines: Iterable[EngineStatus],
    current: Transaction,
    others: Iterable[Group] = (),
) -> tuple[str, ...]:
    """Names of the leaders' pods; ``strays`` are groups of which a pod stands aside.

    ``engines`` are all that the registry tells of, beside the pool's own or not.  ``others`` are on
    their GPUs and none of the pool's any more, as far as is seen: those of them that sleep by the
    Lease were, and may be again.
    """
    told = frozenset(member.uid for engine in engines for member in engine.members)
    hides = (g for g in there if (_untold if g in strays else _hides)(g, current, told))
    lost = (g for g in others if _sleeps_elsewhere(g, current))
    return tuple(sorted(group.first.name for group in chain(hides, lost)))


def _sleeps_elsewhere(group: Group, current: Transaction) -> bool:
    run = group.last_instance
    return run is not None and not (group.ended or group.deleting) and bool(current.sleeps(run))


def _untold(group: Group, _: Transaction, told: Set[Uid]) -> bool:
    leader = group.leader
    return leader is not None and group.may_run and leader.uid not in told


def _hides(group: Group, current: Transaction, told: Set[Uid]) -> bool:
    """Whether an engine may run or sleep in these pods, though the registry does not say so.

    The pods decide, for however long: once they are gone or on their way, their sleeper is too.
    What runs there is out of sight while kubelet tells of no container of one of them, as after a
    fault of its own.
    """
    leader, run = group.leader, group.instance
    if leader is None or (run is not None and leader.uid in told):
        return False  # as nearly always
    if group.ended or group.deleting:
        return False
    if run is None:
        return group.may_run or leases.sleeps(group)
    return bool(current.sleeps(run))
