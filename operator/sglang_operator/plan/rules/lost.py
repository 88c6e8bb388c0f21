"""Rule: a pod whose node is lost is given up.  Pure."""

from sglang_operator.plan.planner import Planner


def remove_lost_pods(planner: Planner) -> None:
    """Where ``restart.onNodeLost`` is Wait, no pod counts as one of these."""
    for pods in planner.engines.values():
        for pod in pods.lost:
            planner.remove(pod, f"node {pod.node} is lost")
