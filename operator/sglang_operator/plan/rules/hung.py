"""Rule: what hangs is removed once it is recorded, and comes back like any lost engine.  Pure."""

from sglang_operator.plan.decision import HungPod
from sglang_operator.plan.planner import Planner


def remove_hung_engines(planner: Planner) -> None:
    """Engines that have work, and in which nothing moved for ``restart.hangSeconds``."""
    patience = planner.policy.hang_seconds
    if patience is None:
        return
    for name in planner.wanted:
        group = planner.groups_of(name).kept
        if group is None or not planner.is_up(group):
            continue
        report = planner.observed.reports.get(group.instance or "")
        if report is None or report.stuck is None:
            continue
        if (due := report.stuck.since + patience) > planner.now:
            planner.wakes.append(due)
            continue
        planner.hung.append(HungPod(pod=group.first, since=report.stuck.stamp))
        if group.first.uid in planner.observed.recorded:
            planner.remove_group(group, f"nothing moved for {patience} s")
