"""Rule: an ended pod goes when its failure is recorded, and another pod knows of it.  Pure."""

from sglang_operator.plan.planner import Planner


def remove_recorded_ends(planner: Planner) -> None:
    """It stays until another pod of its engine carries on what it knows of failures."""
    # A container that runs on beside the dead engine may use up its replacement's quota.
    blocked = planner.observed.creates_blocked_until > planner.now
    for name, found in planner.engines.items():
        if not found.ended:
            continue
        replaced = name not in planner.wanted or bool(found.live)
        replaced = replaced and not planner.tried(found)
        for pod in (pod for group in found.ended for pod in group.members):
            superseded = replaced or pod.attempt < found.highest or (blocked and pod.holds_gpus)
            if superseded and pod.uid in planner.observed.recorded:
                planner.remove(pod, "ended, and another pod took over", drains=False)
