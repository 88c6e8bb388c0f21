"""Rule: engines that have begun and lack room for the rest of their pods do not block each other.

Pure.  All engines are begun side by side, and each has its pods one after another: where there is
room for some of them only, each may get a part, hold its GPUs, and wait for the rest for ever.  So
for three minutes without a change no other is begun beside one that lacks room (``rules.missing``),
and where nothing has moved for a
while, the last ones give way, as many as others need to become whole: by what these lack, then by
rank.  One that holds no room takes none from anybody: it waits on, and shows a cluster autoscaler
what is wanted.

Room is nodes for pods that are there, and what the API server lets be made (quota) for those that
are not.

Where all pods of an engine have to be where its first one is (``scheduling.topology``), the
scheduler may have put that one into a rack with room for a part of them.  Nobody moves it: so the
engine that has stood longest is made anew, if other nodes have room.  Its next try is made while
its pods still end, and so finds the rack full.  Where they are gone at once it may come to stand
there again: of nodes that score alike Kubernetes 1.37 takes the first (prioritizeNodes draws lots
for extenders alone).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.plan.footing import MOST_PLACE_SECONDS, PLACE_SECONDS
from sglang_operator.plan.planner import Planner
from sglang_operator.scheduling import gangs

# So long nothing has come, gone or found a place before engines give way: a cluster autoscaler's
# next node may be on its way, and ranks wait for each other longer than this.
GIVE_WAY_SECONDS = 60.0


class _Short(NamedTuple):
    """An engine that has begun and lacks room: for so many pods, while so many have theirs."""

    lacks: int
    rank: int
    holds: int
    group: Group


def make_room_for_one_another(planner: Planner) -> None:
    """The last engines that are not whole give way to the first, and no others are begun."""
    if planner.pool.nodes == 1 or not (short := sorted(_short(planner))):
        return
    if not any(each.holds for each in short):
        return
    last = _last_change(planner)
    # Only what the scheduler has looked at for a while is short of room; and whatever keeps it so
    # in the end, others may be luckier.
    if min(each.group.seen for each in short) + PLACE_SECONDS <= planner.now:
        planner.begins_from = last + MOST_PLACE_SECONDS
    why = "others become whole where it is"
    if not (going := _giving_way(short)):
        going, why = _moving(planner, short), "its other pods find no room where its first one is"
    if not going:
        return
    if (due := last + GIVE_WAY_SECONDS) > planner.now:
        planner.wakes.append(due)
        return
    for group in going:
        planner.remove_group(group, why, at_once=True, drains=False)
        found = planner.groups_of(group.engine)
        found.live.remove(group)
        found.dying.append(group)
        planner.podless[group.engine] = EngineState.WAITING


def _moving(planner: Planner, short: Sequence[_Short]) -> list[Group]:
    """One of them, if nodes have room that are not where its first pod is."""
    parsed = planner.pool.spec
    held = [
        each.group
        for each in short
        if each.holds
        and any(gangs.is_drawn(parsed, pod.unschedulable) for pod in each.group.members)
    ]
    return sorted(held, key=lambda group: group.seen)[:1]


def _short(planner: Planner) -> Iterator[_Short]:
    """Those that lack quota, if any does, for what comes into being asks for nodes only then."""
    found = list(_unfinished(planner))
    if planner.observed.creates_refused or planner.observed.creates_blocked_until > planner.now:
        refused = [
            _Short(len(group.missing), rank, len(group.members), group)
            for rank, group in found
            if not group.whole
        ]
        if refused:
            yield from refused
            return
    for rank, group in found:
        if any(pod.finds_no_node for pod in group.members):
            yield _Short(group.unplaced, rank, group.size - group.unplaced, group)


def _unfinished(planner: Planner) -> Iterator[tuple[int, Group]]:
    for engine in planner.pool.running:
        group = planner.groups_of(engine.name).kept
        if group is None or planner.is_up(group) or group.placed or planner.stays(group):
            continue
        if planner.health(group) is Health.LOST:
            continue
        # Below the partition no rollout takes away one of an older revision: it waits like others.
        kept_back = engine.rank < planner.pool.spec.rollout.partition
        if kept_back or planner.pool.accepts(group.revision):
            yield engine.rank, group


def _last_change(planner: Planner) -> float:
    """When a pod of the pool was last seen to come, to find its node, or to go."""
    seen = (pod.seen for pod in planner.observed.pods)
    came = max((max(each.first, each.placed) for each in seen), default=0.0)
    return max(came, planner.observed.last_gone)


def _giving_way(short: Sequence[_Short]) -> list[Group]:
    """Of these, from the last, as many as make room for others to become whole."""
    going: list[Group] = []
    asked: list[Group] = []  # that would only be enough with those before them
    first, last, room = 0, len(short) - 1, 0
    while first < last:
        if room >= short[first].lacks:
            room -= short[first].lacks
            first += 1
            going += asked
            asked = []
            continue
        if short[last].holds:
            asked.append(short[last].group)
            room += short[last].holds
        last -= 1
    return going + (asked if first == last and room >= short[first].lacks else [])
