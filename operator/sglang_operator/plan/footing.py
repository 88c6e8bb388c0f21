"""From the pods of a pool to the state in which a change finds its engines.  Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sglang_operator.api.names import EngineName, Uid
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import places, rollout, turns
from sglang_operator.pool.resolve import Pool

# A pod for which the scheduler finds no place is given so long after the last one left: it tries
# again within ten seconds.
PLACE_SECONDS = 15.0
# And however many leave one after another, it is not waited for longer.
MOST_PLACE_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class LivePods:
    """The pod that stands for each engine, wanted or not, and its health."""

    pool: Pool
    live: Mapping[EngineName, ObservedPod]
    healths: Mapping[Uid, Health]
    leaving: bool  # whether pods are on their way out, and going to be gone
    lingering: Sequence[ObservedPod]  # that hold their GPUs, nobody knows for how long
    failing: bool  # whether the present revision fails at its start
    now: float

    def rollout_state(self, observed: Observed) -> rollout.RolloutState:
        """What ``rollout.going`` decides by."""
        pool, resource = self.pool, self.pool.resource
        ranks = {engine.name: engine.rank for engine in pool.running}
        kept = {name: self.live[name] for name in ranks if name in self.live}
        outdated = {
            name: self._old(pod)
            for name, pod in kept.items()
            if not (pool.accepts(pod.revision) or self._is_lost(pod))
            and ranks[name] >= pool.spec.rollout.partition
        }
        lacking = {
            name: turns.fetches(pod, pool, observed)
            for name, pod in kept.items()
            if self._lacks_weights(pod) and name not in outdated
        }
        free, known = places.free(
            observed.nodes,
            resource,
            (*self.live.values(), *self.lingering),
            otherwise=pool.gpus,
            per_node=pool.spec.num_gpus_per_node,
        )
        return rollout.RolloutState(
            wanted=pool.running,
            gpus=pool.gpus,
            max_unavailable=pool.max_unavailable,
            serving=frozenset(n for n, pod in kept.items() if serves(pod, self.healths[pod.uid])),
            alive=sum(self._is_up(pod) or _answered(pod) for pod in kept.values()),
            closed=frozenset(name for name in lacking if pool.accepts(kept[name].revision)),
            unsynced=frozenset(name for name, fetches in lacking.items() if not fetches),
            fetching=any(lacking.values()),
            obsolete={n: self._old(pod) for n, pod in self.live.items() if n not in ranks},
            outdated=outdated,
            missing=ranks.keys() - kept.keys(),
            placed=frozenset(name for name, pod in kept.items() if pod.node),
            stuck=[n for n in kept if (due := self._stuck_from(n, observed)) and due <= self.now],
            lacking=next((why for n in kept if (why := self._lacks_else(kept[n]))), ""),
            free=free,
            free_known=known,
            paused=pool.spec.rollout.paused,
            failing=self.failing,
            doubted=observed.doubted_revision == pool.revision
            and all(pod.revision != pool.revision for pod in observed.pods),
            held=turns.held(pool, observed),
        )

    def wakes(self, observed: Observed) -> Iterator[float]:
        """When pods will have waited too long for a place."""
        for name in self.live:
            due = self._stuck_from(name, observed)
            if due is not None and due > self.now:
                yield due

    def _old(self, pod: ObservedPod) -> places.Old:
        return places.Old(
            devices=pod.devices,
            gpus=places.gpus(pod, self.pool.resource, self.pool.gpus),
            node=pod.node,
            lives=self._is_up(pod) or _answered(pod),
            serves=serves(pod, self.healths[pod.uid]),
            falters=falters(pod, self.healths[pod.uid]),
        )

    def _is_up(self, pod: ObservedPod) -> bool:
        return self.healths[pod.uid] is Health.UP

    def _is_lost(self, pod: ObservedPod) -> bool:
        """Whether it is left alone until its node returns or is removed."""
        return self.healths[pod.uid] is Health.LOST

    def _lacks_weights(self, pod: ObservedPod) -> bool:
        """Whether it only lacks weights."""
        return self._is_up(pod) and self.pool.gated and not pod.ready

    def _lacks_else(self, pod: ObservedPod) -> str:
        """The scheduler's words, where nodes have the GPUs and lack something else."""
        if self.healths[pod.uid] is not Health.PENDING or not pod.lacks():
            return ""
        return "" if pod.lacks(self.pool.resource) else pod.unschedulable

    def _stuck_from(self, name: EngineName, observed: Observed) -> float | None:
        """From when on the pod of a wanted engine counts as one that finds no place.

        None while it has a place, or some may become free because pods of ours are leaving.
        """
        pod = self.live[name]
        if self.healths[pod.uid] is not Health.PENDING or not pod.lacks() or self.leaving:
            return None
        if not self.pool.accepts(pod.revision):
            return None
        due = max(pod.seen.first, observed.last_gone) + PLACE_SECONDS
        return min(due, pod.seen.first + MOST_PLACE_SECONDS)


def serves(pod: ObservedPod, state: Health) -> bool:
    """Whether clients reach it: what its gate says counts only while the engine answers."""
    return state is Health.UP and pod.ready


def falters(pod: ObservedPod, state: Health) -> bool:
    """Whether it only misses a probe: overloaded engines do, and those that take in weights.

    Or all of its containers are ready, and kubelet is about to say so of the pod, or is silent and
    Kubernetes said that it is not.
    """
    if state is Health.LOST or not pod.let_in or serves(pod, state):
        return False
    return state is Health.UP or _answered(pod)


def distance(pod: ObservedPod, state: Health) -> int:
    """How far it is from its clients: 0 they reach it, 1 but for a probe, 2 but for weights."""
    if serves(pod, state):
        return 0
    if falters(pod, state):
        return 1
    return 2 if state is Health.UP else 3


def _answered(pod: ObservedPod) -> bool:
    """Whether the engine runs and has answered in this container.

    The operator may have begun to look after that: then kubelet knows, by the startup probe.
    """
    return pod.engine_runs and (pod.answered or pod.started)
