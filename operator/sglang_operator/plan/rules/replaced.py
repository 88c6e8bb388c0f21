"""Rule: engines go for the sake of the pool as it is wanted now.  Pure.

Obsolete ones, whose GPU ids nobody wants any more, and those of an older revision go by one budget,
so one rule decides on both; how many, and which, ``plan.rollout`` counts.
"""

from sglang_operator.observed.engines import EngineState
from sglang_operator.observed.model import ObservedPod
from sglang_operator.plan import footing, rollout
from sglang_operator.plan.step import Step


def make_way_for_the_new(step: Step) -> None:
    """Obsolete engines are removed and outdated ones replaced, as ``maxUnavailable`` allows."""
    live = {name: pods.live[0] for name, pods in step.engines.items() if pods.live}
    accepts = step.pool.accepts
    if live.keys() <= step.wanted.keys() and all(accepts(pod.revision) for pod in live.values()):
        return  # as nearly always
    dying = {pod.uid for pods in step.engines.values() for pod in pods.dying}
    leaving = bool(dying - {pod.uid for pod in step.lingering}) or bool(step.removals)
    standing = footing.LivePods(
        pool=step.pool,
        live=live,
        healths=step.healths,
        leaving=leaving,
        lingering=step.lingering,
        failing=step.present_starts().failing,
        now=step.now,
    )
    going = rollout.going(standing.rollout_state(step.observed))
    step.waiting = going.waiting
    step.wakes.extend(standing.wakes(step.observed))
    for name, pod in live.items():
        if name in going.obsolete:
            step.remove(pod, "no longer wanted", replaced=name in going.replaced)
        elif name in going.outdated:
            _replace(step, pod)


def _replace(step: Step, pod: ObservedPod) -> None:
    why = f"revision {pod.revision} is replaced by {step.pool.revision}"
    step.remove(pod, why, replaced=True)
    step.engines[pod.engine].live.remove(pod)
    # Its replacement is created in the next pass, when the old pod is seen to be on its way.
    step.podless[pod.engine] = EngineState.WAITING
