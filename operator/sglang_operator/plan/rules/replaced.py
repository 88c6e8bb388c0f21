"""Rule: engines go for the sake of the pool as it is wanted now.  Pure.

Obsolete ones, whose GPU ids nobody wants any more, and those of an older revision go by one budget,
so one rule decides on both; how many, and which, ``plan.rollout`` counts.
"""

from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan import footing, rollout
from sglang_operator.plan.planner import Planner


def make_way_for_the_new(planner: Planner) -> None:
    """Obsolete engines are removed and outdated ones replaced, as ``maxUnavailable`` allows."""
    live = {name: pods.live[0] for name, pods in planner.engines.items() if pods.live}
    accepts = planner.pool.accepts
    if live.keys() <= planner.wanted.keys() and all(accepts(pod.revision) for pod in live.values()):
        return  # as nearly always
    dying = {pod.uid for pods in planner.engines.values() for pod in pods.dying}
    leaving = bool(dying - {pod.uid for pod in planner.lingering}) or bool(planner.removals)
    standing = footing.LivePods(
        pool=planner.pool,
        live=live,
        healths=planner.healths,
        leaving=leaving,
        lingering=planner.lingering,
        failing=planner.present_starts().failing,
        now=planner.now,
    )
    going = rollout.going(standing.rollout_state(planner.observed))
    planner.waiting = going.waiting
    planner.wakes.extend(standing.wakes(planner.observed))
    for name, pod in live.items():
        if pod.uid in planner.observed.stays:
            continue
        if name in going.obsolete:
            planner.remove(pod, "no longer wanted", replaced=name in going.replaced)
        elif name in going.outdated:
            _replace(planner, pod)


def _replace(planner: Planner, pod: ObservedPod) -> None:
    why = f"revision {pod.revision} is replaced by {planner.pool.revision}"
    planner.remove(pod, why, replaced=True)
    planner.engines[pod.engine].live.remove(pod)
    # Its replacement is created in the next pass, when the old pod is seen to be on its way.
    planner.podless[pod.engine] = EngineState.WAITING
