"""Rule: at rest an engine has one pod.  Pure."""

from sglang_operator.plan.planner import Planner


def remove_extra_pods(planner: Planner) -> None:
    """The pod nearest to its clients stays, as ``Planner`` has them sorted; the others go."""
    for pods in planner.engines.values():
        for extra in pods.live[1:]:
            planner.remove(extra, "another pod of this engine is kept")
        del pods.live[1:]
