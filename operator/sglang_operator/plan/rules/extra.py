"""Rule: at rest an engine has one pod.  Pure.

While a revision is rolled out with ``maxSurge``, one of it comes up beside one that serves, and
takes its place once it serves itself.  Not in the trainer's turn: what it writes to, or has let
sleep, is the engine that the registry tells of.
"""

from sglang_operator.api.names import EngineName
from sglang_operator.observed.groups import Group
from sglang_operator.plan import turns
from sglang_operator.plan.planner import EngineGroups, Planner
from sglang_operator.plan.rollout_state import Waits

_TRAINERS = (Waits.FOR_SYNC, Waits.FOR_WAKE)


def remove_extra_pods(planner: Planner) -> None:
    """The pod nearest to its clients stays, as ``Planner`` has them sorted; the others go."""
    for name, found in planner.engines.items():
        if len(found.live) < 2:
            continue
        if planner.pool.max_surge and name in planner.wanted:
            found.beside = _beside(planner, name, found)
        kept, accepts = found.live[0], planner.pool.accepts
        for extra in found.live[1:]:
            if extra is found.beside:
                continue
            surged = planner.pool.max_surge and accepts(kept.revision)
            replaced = bool(surged) and not accepts(extra.revision)
            why = "another pod of this engine is kept"
            if replaced:
                why = f"one of revision {kept.revision} is in its place"
            planner.remove_group(extra, why, replaced=replaced)
        del found.live[1:]


def _beside(planner: Planner, name: EngineName, found: EngineGroups) -> Group | None:
    """The one that may stay beside the engine that is kept; in the trainer's turn that is the old
    one, whichever serves."""
    rollout, accepts = planner.pool.spec.rollout, planner.pool.accepts
    if planner.wanted[name].rank < rollout.partition:
        return None
    old = next((group for group in found.live if not accepts(group.revision)), None)
    new = next((group for group in found.live if accepts(group.revision)), None)
    if old is None or new is None:
        return None
    if found.live[0] is new and planner.is_up(old):
        if not (rollout.paused or turns.held(planner.pool, planner.observed) in _TRAINERS):
            return None
        found.live.remove(old)
        found.live.insert(0, old)
    return new if found.live[0] is old else None
