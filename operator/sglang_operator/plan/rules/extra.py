"""Rule: at rest an engine has one pod.  Pure."""

from sglang_operator.plan.planner import Planner


def remove_extra_pods(planner: Planner) -> None:
    """The pod nearest to its clients stays, as ``Planner`` has them sorted; the others go."""
    for found in planner.engines.values():
        for extra in found.live[1:]:
            planner.remove_group(extra, "another pod of this engine is kept")
        del found.live[1:]
