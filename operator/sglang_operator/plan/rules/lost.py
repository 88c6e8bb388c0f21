"""Rule: a pod whose node is lost is given up.  Pure."""

from sglang_operator.plan.planner import Planner


def remove_lost_pods(planner: Planner) -> None:
    """Where ``restart.onNodeLost`` is Wait, no pod counts as one of these."""
    for found in planner.engines.values():
        for group in found.lost:
            planner.remove_group(group, f"node {planner.lost_node(group)} is lost", at_once=True)
