"""Which engines may be taken away now for the sake of a newer pool.  No memory: only counts.

Two kinds of change take a running engine away by our own decision.  A new *revision* replaces
the pod of an engine by another; a new *grouping* of the GPUs (``num_gpus_per_worker``, a shifted
mapping) replaces engines by others that need the same GPUs.  Both share one budget,
``maxUnavailable``, counted in engines of the new pool.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sglang_operator.api.names import GroupName
from sglang_operator.planner.pool import Engine


@dataclass(frozen=True, kw_only=True)
class Footing:
    """Where the wanted engines stand before a voluntary change."""

    up: frozenset[GroupName]  # wanted engines with a pod that answers
    # Obsolete engines that still hold GPUs wanted by others, and whether they answer.
    obsolete: Mapping[GroupName, tuple[int, ...]]
    obsolete_up: frozenset[GroupName]


def outdated_to_replace(
    candidates: Sequence[Engine], *, away: int, max_unavailable: int, partition: int
) -> tuple[Engine, ...]:
    """Of the engines that run an old revision and answer: those to replace now, from the top."""
    budget = max(0, max_unavailable - away)
    ordered = sorted(candidates, key=lambda engine: -engine.rank)
    return tuple(engine for engine in ordered if engine.rank >= partition)[:budget]


def away(wanted: Iterable[Engine], footing: Footing) -> frozenset[GroupName]:
    """The wanted engines that are neither up nor stood in for by the engines they replace."""
    covered = frozenset(
        device for group in footing.obsolete_up for device in footing.obsolete[group]
    )
    return frozenset(
        engine.group
        for engine in wanted
        if engine.group not in footing.up
        and not (engine.devices and covered.issuperset(engine.devices))
    )


def unneeded(wanted: Iterable[Engine], footing: Footing) -> frozenset[GroupName]:
    """The obsolete engines whose GPUs no wanted engine needs."""
    needed = frozenset(device for engine in wanted for device in engine.devices)
    return frozenset(
        group for group, devices in footing.obsolete.items() if needed.isdisjoint(devices)
    )


def unneeded_to_remove(
    wanted: Sequence[Engine], footing: Footing, max_unavailable: int
) -> frozenset[GroupName]:
    """Of these, the ones to remove now: all that are more than the new pool needs.

    Where the mapping moved, they serve on until the engines that take their place are up.
    """
    surplus = len(footing.up) + len(footing.obsolete_up) - (len(wanted) - max_unavailable)
    candidates = unneeded(wanted, footing)
    serving = sorted(candidates & footing.obsolete_up, key=lambda g: footing.obsolete[g])
    going = serving[len(serving) - min(len(serving), max(0, surplus)) :]
    return frozenset(candidates - footing.obsolete_up) | frozenset(going)


def obsolete_to_remove(
    wanted: Sequence[Engine], footing: Footing, max_unavailable: int
) -> frozenset[GroupName]:
    """The obsolete engines to remove now so that the engines which need their GPUs can start.

    One that does not answer stands in for nobody and goes at once; the others go as the budget
    allows.  If nothing is on its way up and the budget is used by engines that wait for GPUs,
    one is cleared all the same: otherwise overlapping chains ([0,1],[2,3] → [1,2],[3,4]) would
    never move.
    """
    aside = unneeded(wanted, footing)  # they block nobody
    removed = {g for g in footing.obsolete if g not in footing.obsolete_up and g not in aside}
    holder = {
        device: group
        for group, devices in footing.obsolete.items()
        if group not in aside
        for device in devices
    }
    missing = away(wanted, footing)
    in_progress = any(
        engine.group not in footing.up and not _blockers(engine, holder, removed)
        for engine in wanted
    )
    for engine in sorted(wanted, key=lambda e: (e.group not in missing, e.rank)):
        blockers = _blockers(engine, holder, removed)
        if not blockers:
            continue
        if in_progress and len(missing) > max_unavailable:
            break
        after = away(wanted, _without(footing, removed | blockers))
        if in_progress and len(after) > max_unavailable:
            break
        removed |= blockers
        missing = after
        in_progress = True
    return frozenset(removed)


def _blockers(
    engine: Engine, holder: Mapping[int, GroupName], removed: set[GroupName]
) -> set[GroupName]:
    """The obsolete engines that hold GPUs of this one."""
    return {holder[device] for device in engine.devices if device in holder} - removed


def _without(footing: Footing, removed: set[GroupName]) -> Footing:
    """The footing once these obsolete engines are gone."""
    left = {group: d for group, d in footing.obsolete.items() if group not in removed}
    return replace(footing, obsolete=left, obsolete_up=footing.obsolete_up & left.keys())
