"""When we saw what: what is due is counted from there, by a clock that nobody sets.

The stamps in objects are by the clocks of others, which may be wrong by hours, as ours may be.
They are compared with each other, never with the present, but for one bounded case (``ended``).
Where nothing was seen before, as after a restart, a wait begins anew: better too late than a
healthy engine too early.
"""

from collections.abc import Iterable
from dataclasses import replace

from sglang_operator.observed.model import Companion, ObservedNode, ObservedPod, Sightings
from sglang_operator.observed.moment import Moment

# Kubelet tells so late of an end.  One that lies longer before a deletion in which the engine was
# seen alive has the stamp of a clock that is wrong.
TELLING_SECONDS = 60.0


def of_pod(
    node: str, deletion: float, grace: float, at: Moment, before: ObservedPod | None
) -> Sightings:
    """What was seen of a pod until now; ``deletion`` is its timestamp, 0 if it has none."""
    known = before.seen if before is not None else Sightings()
    placed = known.placed if before is not None and before.node == node else 0.0
    due = known.due
    if not deletion:
        due = 0.0
    elif before is None or not before.deleting:
        due = at.steady + grace
    elif deletion < before.deletion_due:
        due = min(due, at.steady + grace)  # asked again, with less grace
    return Sightings(
        first=known.first or at.steady,
        placed=(placed or at.steady) if node else 0.0,
        due=due,
        going=(known.going or at.steady) if deletion else 0.0,
        bereft=known.bereft,
        headless=known.headless,
        ended=known.ended,
    )


def bereft(pod: ObservedPod, gone: ObservedPod, now: float) -> ObservedPod:
    """A pod with since when it lacks one of its engine's that was deleted, and is gone by now.

    Nobody has to have seen that one asked to go to know that a leader which ran is there no more.
    """
    first = min(filter(None, (pod.seen.bereft, gone.seen.going, gone.seen.bereft)), default=0.0)
    headless = pod.seen.headless
    if gone.node_rank == 0 and gone.ran:
        headless = headless or now
    return replace(pod, seen=pod.seen._replace(bereft=first, headless=headless))


def container(told: str, restarts: int, before: ObservedPod | None) -> tuple[str, int]:
    """ID of the container that runs as far as is known, and how often it was started again.

    While kubelet tells of none, and of no restart since, it is the last one: what is not told of
    has not ended by that.
    """
    if told or before is None or restarts > before.restarts:
        return told, restarts
    return before.last_container_id, before.restarts


def ended(pod: ObservedPod, at: Moment, before: ObservedPod | None) -> ObservedPod:
    """A pod that has ended, with when it did; that is decided once.

    Its end is not older than the pod.  One that nobody saw alive may have been dead for long: there
    the clocks are believed, for at worst it is replaced at once, and only this time.
    """
    if before is not None and before.ended:
        stamp, seen = before.ended_at, before.seen.ended
        first: bool | None = True if not before.deleting else before.ended_first
    else:
        stamp, seen = at.wall, at.steady
        first = None if before is None else _ended_first(pod, before)
    finished = pod.end.finished if pod.end else 0.0
    stamp = min(stamp, max(pod.created, finished)) if finished else stamp
    if before is None:
        seen -= max(0.0, at.wall - stamp)
    known = before.seen if before is not None else Sightings()
    most = known.most or _most(pod, known, at)
    sightings = pod.seen._replace(ended=seen, idle=known.idle, alive=known.alive, most=most)
    return replace(pod, ended_at=stamp, ended_first=first, seen=sightings)


def _most(pod: ObservedPod, known: Sightings, at: Moment) -> float:
    """Seconds for which its container can have run: since it was seen not to, or was made."""
    since = at.steady - known.idle if known.idle else max(0.0, at.wall - pod.created)
    return since + TELLING_SECONDS


def running(pod: ObservedPod, at: Moment, before: ObservedPod | None) -> ObservedPod:
    """A pod that has not ended, with since when its engine's container is seen to run."""
    known = before.seen if before is not None else Sightings()
    if pod.out_of_sight:
        return replace(pod, seen=pod.seen._replace(idle=known.idle, alive=known.alive))
    if not pod.engine_runs:
        return replace(pod, seen=pod.seen._replace(idle=at.steady))
    same = before is not None and before.last_container_id == pod.container_id
    is_known = same and known.alive
    alive = known.alive if is_known else at.steady
    return replace(pod, seen=pod.seen._replace(idle=known.idle, alive=alive))


def _ended_first(pod: ObservedPod, before: ObservedPod) -> bool | None:
    """Whether it ended before its deletion was asked for, as far as that was seen."""
    if not (before.deleting and pod.end):
        return None  # both are news: their stamps tell
    return None if pod.end.finished >= pod.deletion_asked - TELLING_SECONDS else False


def companions(
    found: Iterable[Companion], at: Moment, before: ObservedPod | None
) -> tuple[Companion, ...]:
    """The companions, each with since when it is seen to run."""
    known = {one.name: one for one in before.companions} if before is not None else {}
    return tuple(_running(one, at, known.get(one.name)) if one.runs else one for one in found)


def _running(one: Companion, at: Moment, before: Companion | None) -> Companion:
    if before is not None and before.runs and before.since == one.since:
        return replace(one, seen=before.seen)
    return replace(one, seen=at.steady)


def of_node(node: ObservedNode, now: float, before: ObservedNode | None) -> ObservedNode:
    """The node with since when it is seen not to be ready: since its last change, at the most."""
    if node.ready:
        return node
    if before is not None and not (before.ready or before.gone):
        now = before.unready if before.ready_changed == node.ready_changed else now
    return replace(node, unready=now)


def by_stamps(pod: ObservedPod) -> ObservedPod:
    """A pod at one look, which has nothing but stamps: to be shown, nothing is done by it."""
    seen = Sightings(
        first=pod.created,
        placed=pod.created,
        due=pod.deletion_due,
        ended=pod.ended_at,
    )
    beside = tuple(replace(one, seen=one.since) for one in pod.companions)
    return replace(pod, seen=seen, companions=beside)
