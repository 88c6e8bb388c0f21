"""Rule: what hangs is removed once it is recorded, and comes back like any lost engine.  Pure."""

from sglang_operator.plan.decision import HungPod
from sglang_operator.plan.step import Step


def remove_hung_engines(step: Step) -> None:
    """Engines that have work, and in which nothing moved for ``restart.hangSeconds``."""
    patience = step.policy.hang_seconds
    if patience is None:
        return
    for name in step.wanted:
        pod = step.pods(name).kept
        if pod is None or not step.is_up(pod):
            continue
        report = step.observed.reports.get(pod.instance or "")
        if report is None or report.stuck is None:
            continue
        if (due := report.stuck.since + patience) > step.now:
            step.wakes.append(due)
            continue
        step.hung.append(HungPod(pod=pod, since=report.stuck.stamp))
        if pod.uid in step.observed.recorded:
            step.remove(pod, f"nothing moved for {patience} s")
