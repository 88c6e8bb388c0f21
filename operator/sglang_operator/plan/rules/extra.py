"""Rule: at rest an engine has one pod.  Pure."""

from sglang_operator.plan.step import Step


def remove_extra_pods(step: Step) -> None:
    """The pod nearest to its clients stays, as ``Step`` has them sorted; the others go."""
    for pods in step.engines.values():
        for extra in pods.live[1:]:
            step.remove(extra, "another pod of this engine is kept")
        del pods.live[1:]
