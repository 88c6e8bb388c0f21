"""Rule: an ended pod goes when its failure is recorded and its memory is handed on.  Pure."""

from sglang_operator.plan.step import Step


def remove_recorded_ends(step: Step) -> None:
    """It stays until another pod of its engine carries on what it knows of failures."""
    # A container that runs on beside the dead engine may use up its replacement's quota.
    blocked = step.observed.creates_blocked_until > step.now
    for name, pods in step.engines.items():
        replaced = name not in step.wanted or bool(pods.live)
        for pod in pods.ended:
            superseded = replaced or pod.attempt < pods.highest or (blocked and pod.holds_gpus)
            if superseded and pod.uid in step.observed.recorded:
                step.remove(pod, "ended, and another pod took over")
