"""From the groups of a pool to the state in which a change finds its engines.  Pure."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from sglang_operator.api import texts
from sglang_operator.api.names import EngineName
from sglang_operator.api.spec import RolloutOrder
from sglang_operator.observed.groups import Group
from sglang_operator.observed.health import Health
from sglang_operator.observed.model import Observed, ObservedPod
from sglang_operator.plan import places, turns
from sglang_operator.plan.rollout_state import RolloutState, Waits
from sglang_operator.pool.resolve import Pool

# A pod for which the scheduler finds no place is given so long after the last one left: it tries
# again within ten seconds.
PLACE_SECONDS = 15.0
# And however many leave one after another, it is not waited for longer.
MOST_PLACE_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class LiveGroups:
    """The group that stands for each engine, wanted or not, and how it stands."""

    pool: Pool
    live: Mapping[EngineName, Group]
    stands: Mapping[Group, Health]
    leaving: bool  # whether pods are on their way out, and going to be gone
    lingering: Sequence[ObservedPod]  # that hold their GPUs, nobody knows for how long
    failing: bool  # whether the present revision fails at its start
    # Those of the present revision beside them, and where one was and has ended.
    beside: Mapping[EngineName, Group] = field(default_factory=dict)
    tried: frozenset[EngineName] = frozenset()
    unseated: Set[EngineName] = frozenset()  # wanted ones that would have no seat now
    amid: bool = False  # a trainer's step is under way
    covered: Set[str] = frozenset()  # the instances that hold what was committed last
    in_step: Set[str] = frozenset()  # the same, whether or not gates are closed before others
    now: float = 0.0

    def rollout_state(self, observed: Observed) -> RolloutState:
        """What ``rollout.going`` decides by."""
        pool, resource = self.pool, self.pool.resource
        ranks = {engine.name: engine.rank for engine in pool.running}
        kept = {name: self.live[name] for name in ranks if name in self.live}
        outdated = {
            name: self._old(group)
            for name, group in kept.items()
            if not (pool.accepts(group.revision) or self._is_lost(group))
            and ranks[name] >= pool.spec.rollout.partition
        }
        held = self._held_for_seats(outdated.keys()) or turns.held(pool, observed, self.now)
        if held is not Waits.FOR_SEATS:
            outdated = {n: old for n, old in outdated.items() if n not in self.unseated}
        sizes = {
            name: self._size(group)
            for name, group in kept.items()
            if not pool.accepts(group.revision)
        }
        lacking = {
            name: turns.fetches(group, pool, observed)
            for name, group in kept.items()
            if self._lacks_weights(group) and name not in outdated
        }
        free, known = places.free(
            observed.nodes,
            resource,
            (
                *(pod for g in self.live.values() for pod in g.members),
                *(pod for g in self.beside.values() for pod in g.members),
                *self.lingering,
            ),
            otherwise=pool.gpus_per_pod,
            per_node=pool.spec.num_gpus_per_node,
        )
        stuck = [n for n in kept if (due := self._stuck_from(n, observed)) and due <= self.now]
        cramped = frozenset(
            name
            for name, group in self.beside.items()
            if (due := self._cramped_from(group, observed)) and due <= self.now
        )
        alive = {n: g for n, g in kept.items() if self._is_up(g) or g.answered}
        up = {name for name, group in self.beside.items() if self._is_up(group)}
        lacking_up = {
            name: turns.fetches(group, pool, observed)
            for name in up
            if self._lacks_weights(group := self.beside[name])
        }
        return RolloutState(
            wanted=pool.running,
            gpus=pool.gpus,
            pods=pool.nodes,
            max_unavailable=pool.max_unavailable,
            serving=frozenset(n for n, group in kept.items() if serves(group, self._health(group))),
            alive=sum(sizes.get(name, pool.gpus) for name in alive),
            in_step=sum(
                sizes.get(name, pool.gpus)
                for name, group in alive.items()
                if group.instance in self.in_step
            ),
            sizes=sizes,
            closed=frozenset(name for name in lacking if pool.accepts(kept[name].revision)),
            unsynced=frozenset(name for name, fetches in lacking.items() if not fetches),
            fetching=any(lacking.values()),
            obsolete={n: self._old(group) for n, group in self.live.items() if n not in ranks},
            outdated=outdated,
            missing=ranks.keys() - kept.keys(),
            placed=frozenset(name for name, group in kept.items() if group.placed),
            stuck=stuck,
            max_surge=pool.max_surge,
            beside=self.beside.keys() | self.tried,
            homeless=frozenset(n for n, group in self.beside.items() if not group.placed),
            cramped=cramped,
            torn=frozenset(n for n in cramped if self.beside[n].unplaced < self.beside[n].size),
            arrived=frozenset(up - {name for name, fetches in lacking_up.items() if fetches}),
            awaiting=frozenset(name for name, fetches in lacking_up.items() if not fetches),
            refused=observed.creates_refused,
            queued=any(pod.is_queued for group in kept.values() for pod in group.members),
            lowest_first=pool.spec.rollout.order is RolloutOrder.LOWEST_RANK_FIRST,
            lacking=next((why for n in kept if (why := self._lacks_else(kept[n]))), ""),
            short=kept[stuck[0]].unplaced if stuck else 1,
            free=free,
            free_known=known,
            paused=pool.spec.rollout.paused,
            failing=self.failing,
            doubted=observed.doubted_revision == pool.revision
            and all(pod.revision != pool.revision for pod in observed.pods),
            held=held,
            amid=self.amid,
        )

    def _held_for_seats(self, outdated: Set[EngineName]) -> Waits | None:
        """What could not come back stays; others go on, where their places are their own."""
        if not self.unseated:
            return None
        regrouped = not self.live.keys() <= {engine.name for engine in self.pool.running}
        none_else = bool(outdated) and outdated <= self.unseated
        return Waits.FOR_SEATS if regrouped or none_else else None

    def wakes(self, observed: Observed) -> Iterator[float]:
        """When pods will have waited too long for a place."""
        for name in self.live:
            due = self._stuck_from(name, observed)
            if due is not None and due > self.now:
                yield due
        for group in self.beside.values():
            due = self._cramped_from(group, observed)
            if due is not None and due > self.now:
                yield due

    def words(self) -> str:
        """What keeps those beside from a place, in words: a queue's, or the scheduler's; "" if
        nobody says."""
        pods = [pod for group in self.beside.values() for pod in group.members]
        waiting = (*pods, *(pod for group in self.live.values() for pod in group.members))
        for pod in waiting:
            if pod.is_queued and pod.queue is not None:
                return texts.SURGE_QUEUED.format(queue=pod.queue.queue, pod=pod.name)
        return next((pod.unschedulable for pod in pods if pod.finds_no_node), "")

    @cached_property
    def _kept_back(self) -> Set[EngineName]:
        """Those that no rollout replaces, whatever revision they are of."""
        partition = self.pool.spec.rollout.partition
        return {e.name for e in self.pool.running if e.rank < partition} if partition else set()

    def _old(self, group: Group) -> places.Old:
        stands = self._health(group)
        held = self._held(group)
        return places.Old(
            devices=group.devices,
            gpus=self._size(group),
            pods=group.size,
            held=held,
            lives=stands is Health.UP or group.answered,
            serves=serves(group, stands),
            falters=falters(group, stands) or self._opens(group),
        )

    def _held(self, group: Group) -> Mapping[str, int]:
        """Its own GPUs by node: those of an older revision may have others than the pool says."""
        return places.held(group.members, self.pool.resource, self.pool.gpus_per_pod)

    def _size(self, group: Group) -> int:
        """Its own GPUs when all of its pods are there: each has as many."""
        return sum(self._held(group).values()) // len(group.members) * group.size

    def _health(self, group: Group) -> Health:
        return self.stands[group]

    def _is_up(self, group: Group) -> bool:
        return self._health(group) is Health.UP

    def _is_lost(self, group: Group) -> bool:
        """Whether it is left alone until its node returns or is removed."""
        return self._health(group) is Health.LOST

    def _opens(self, group: Group) -> bool:
        """Whether clients are about to reach it: the last commit covers it."""
        return self._is_up(group) and not group.ready and group.instance in self.covered

    def _lacks_weights(self, group: Group) -> bool:
        """Whether it only lacks weights."""
        lacks = self._is_up(group) and self.pool.gated and not group.ready
        return lacks and not self._opens(group)

    def _lacks_else(self, group: Group) -> str:
        """The scheduler's words, where nodes have the GPUs and lack something else."""
        if self._health(group) is not Health.PENDING or not group.lacks():
            return ""
        return "" if group.lacks(self.pool.resource) else group.unschedulable

    def _cramped_from(self, group: Group, observed: Observed) -> float | None:
        """From when on one beside another counts as one that finds no place.

        It is not asked why: what takes the place of another finds that one's.
        """
        if self._health(group) is not Health.PENDING or self.leaving:
            return None
        latest = group.seen + MOST_PLACE_SECONDS
        if not any(pod.finds_no_node for pod in group.members):
            return latest  # no scheduler has looked: who holds it back may let it in yet
        return min(max(group.seen, observed.last_gone) + PLACE_SECONDS, latest)

    def _stuck_from(self, name: EngineName, observed: Observed) -> float | None:
        """From when on the pod of a wanted engine counts as one that finds no place.

        None while it has a place, or some may become free because pods of ours are leaving.
        """
        group = self.live[name]
        if self._health(group) is not Health.PENDING or not group.lacks() or self.leaving:
            return None
        if not (self.pool.accepts(group.revision) or name in self._kept_back):
            return None  # it goes for the present one
        due = max(group.seen, observed.last_gone) + PLACE_SECONDS
        return min(due, group.seen + MOST_PLACE_SECONDS)


def serves(group: Group, state: Health) -> bool:
    """Whether clients reach it: what its gate says counts only while the engine answers."""
    return state is Health.UP and group.ready


def falters(group: Group, state: Health) -> bool:
    """Whether it only misses a probe: overloaded engines do, and those that take in weights.

    Or all of its containers are ready, and kubelet is about to say so of the pod, or is silent and
    Kubernetes said that it is not.
    """
    if state is Health.LOST or not group.let_in or serves(group, state):
        return False
    return state is Health.UP or group.answered


def distance(group: Group, state: Health) -> int:
    """How far it is from its clients: 0 they reach it, 1 but for a probe, 2 but for weights."""
    if serves(group, state):
        return 0
    if falters(group, state):
        return 1
    return 2 if state is Health.UP else 3
