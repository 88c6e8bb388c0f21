"""With which engines a pool starts: the first ``minEngines`` of them, at once or not at all.  Pure.

Their pods are one group of their gang's scheduler, and no other engine is made before one of these
has a node: one that got a place by itself would keep it from them, or from the first ones of
another pool.  Which they are is by rank, for a group of all engines' pods would be content with as
many pods of more engines, none of them whole.

A pool starts while none of its pods has, or had, a node: also one that is on its way out may have
its successor already.  From then on each engine is a group of its own again: the replacement of one
waits for nobody, nor does what comes by a rollout or by more ``replicas``, and fewer engines than
``minEngines`` take none away.  Nor does a pool start so that knows of a failure, or tries a share
of memory: one engine goes first then, and would wait for the others as they do for it.

The group is named by how many pods it is of, for Kubernetes' own cannot be changed, and by a number
that no pod has which is there: what is on its way out has its node still, and would be counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sglang_operator.api import names
from sglang_operator.api.names import EngineName
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.scheduling import gangs


class Starting(NamedTuple):
    """The group that the pods of these engines are of; without a name nobody starts so."""

    group: str = ""
    engines: frozenset[EngineName] = frozenset()

    def group_of(self, engine: EngineName) -> str:
        """The group that an engine's pods are made in beside others; empty: it is its own."""
        return self.group if engine in self.engines else ""

    def holds_back(self, engine: EngineName) -> bool:
        """Whether this engine is not made before others have their nodes."""
        return bool(self.group) and engine not in self.engines


def of(pool: Pool, observed: Observed) -> Starting:
    """The start that a pool is in."""
    first = engines(pool)
    if not first or pool.tuning is not None or observed.handed_on or is_over(observed):
        return Starting()
    pods = sum(engine.pods for engine in first)
    return Starting(_name(pool, observed, pods), frozenset(engine.name for engine in first))


def engines(pool: Pool) -> Sequence[Engine]:
    """The engines with which a pool starts, whether it does now or not; none: each by itself."""
    least = pool.spec.scheduling.min_engines or 0
    first = pool.running[:least]
    return first if len(first) > 1 and gangs.grouped(pool.spec) is not None else ()


def is_over(observed: Observed) -> bool:
    """Whether a pod of the pool has, or had, a node."""
    return any(pod.node for pod in observed.all_pods)


def waits(pod: ObservedPod) -> bool:
    """Whether it may yet be of another group: it has no node, and is there to get one."""
    return not (pod.node or pod.deleting or pod.ended)


def _name(pool: Pool, observed: Observed, pods: int) -> str:
    """That of the pods that wait already, as they are to be now; else one that no pod has."""
    known = [
        (pod, start)
        for pod in observed.all_pods
        if (start := names.start_of(pod.start, pool.owner.name)) is not None
    ]
    numbers = [
        number
        for pod, (of, number) in known
        if of == pods and waits(pod) and pool.accepts(pod.revision)
    ]
    taken = max((number for _, (_, number) in known), default=-1)
    return names.start_name(pool.owner.name, pods, max(numbers, default=taken + 1))
