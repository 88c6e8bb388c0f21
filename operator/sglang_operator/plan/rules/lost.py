"""Rule: a pod whose node is lost is given up.  Pure."""

from sglang_operator.plan.step import Step


def remove_lost_pods(step: Step) -> None:
    """Where ``restart.onNodeLost`` is Wait, no pod counts as one of these."""
    for pods in step.engines.values():
        for pod in pods.lost:
            step.remove(pod, f"node {pod.node} is lost")
