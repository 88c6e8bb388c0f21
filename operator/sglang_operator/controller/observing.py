"""The first stage of a pass: what the stores hold of one pool → ``Observed``."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sglang_operator.api import names
from sglang_operator.children import kinds
from sglang_operator.cluster.child_store import ChildStore
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.stores import PodStore, PoolKey, PoolStore
from sglang_operator.controller import explaining, leaving
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.contending import Contending
from sglang_operator.controller.memory import Memory
from sglang_operator.controller.reading import EndReader
from sglang_operator.observed import ends
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.observed.moment import Moment
from sglang_operator.placement.devices import Inventory
from sglang_operator.placement.seats import Seating, TrainerPod
from sglang_operator.plan import seating
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights import lease_state


@dataclass(frozen=True, kw_only=True)
class View:
    """The stores of one cluster."""

    pools: PoolStore
    pods: PodStore
    children: Mapping[str, ChildStore]
    nodes: NodeStore
    reads: Callable[[str], bool] = lambda namespace: True  # whether it is of the present
    # Whether the stream of its pods has told all that was before this operator was elected.
    caught_up: Callable[[str], bool] = lambda namespace: True
    # The kinds of children that the cluster does not know.
    absent: Callable[[str], frozenset[str]] = lambda namespace: frozenset()
    # The pods of trainers in a namespace; None: nobody looks.
    trainers: Callable[[str], Mapping[str, TrainerPod] | None] = lambda namespace: None
    # Devices and claims, told whether claims are absent; None: nobody looks.
    inventory: Callable[[bool], Inventory | None] = lambda absent: None


@dataclass(kw_only=True)
class _Pods:
    """The pods under a pool's name, by what they are to it."""

    own: list[ObservedPod]
    strays: list[ObservedPod]  # its own, and out of its Services
    reached: list[str]  # others' whose gate is open: the pool's Service sends them requests
    orphans: dict[str, names.EngineName]
    taken: dict[names.EngineName, int]  # the highest attempt that others have, by engine


class Observer:
    """Reads the stores for passes."""

    def __init__(self, view: View, asker: Asker) -> None:
        self._view = view
        self._asker = asker
        self._reader = EndReader()
        self._contending = Contending(view)

    async def read_ends(self, key: PoolKey) -> bool:
        """Read what this pool's engines said at their end; whether all of it is read."""
        return await self._reader.read(self._view.pods.of(key))

    def observe(self, key: PoolKey, memory: Memory, at: Moment) -> Observed:
        """What is known of this pool at this moment; takes what passed by into its memory."""
        pods = self._pods(key, memory)
        record = self._view.pools.get(key)
        # Of what nobody looks at nobody knows what is there.
        unwatched = frozenset(k.kind for k in kinds.GANGS if k.kind not in self._view.children)
        absent = self._view.absent(key.namespace) | unwatched
        children = memory.out_of_sight() | {
            (store.kind, name): child
            for store in self._view.children.values()
            if store.kind not in absent
            for name, child in store.of(key, at.wall)
        }
        memory.recorded &= {pod.uid for pod in pods.own}
        memory.forget_expired(len(pods.own), at.steady)
        own, unread = ends.as_read(pods.own)
        trainers = self._view.trainers(key.namespace)
        published = seating.published(children, key.name, memory.uid)
        observed = Observed(
            pods=explaining.with_events(memory, own),
            unread=unread,
            taken=pods.taken,
            orphans=pods.orphans,
            aside=tuple(pods.strays),
            reached=tuple(sorted(pods.reached)),
            nodes=self._view.nodes.known,
            silence=self._view.nodes.silence(at.steady),
            falls=self._view.nodes.falls(),
            children=children,
            trainers=trainers,
            claims=memory.claims.settled(published, trainers, at.steady),
            inventory=self._view.inventory(kinds.CLAIM.kind in absent),
            pins=memory.last_pins(record),
            absent_kinds=absent,
            unwatched_kinds=unwatched,
            said=memory.last_said(children, record, self._former_lease(key)),
            revisions=memory.known_revisions(children, key.name),
            reports=self._asker.reports(key, at),
            recorded=frozenset(memory.recorded),
            creates_blocked_until=memory.blocked_until,
            creates_refused=memory.refusals > 0,
            refused_revision=memory.trial.refused(at.steady),
            doubted_revision=memory.trial.doubted,
            last_gone=self._view.pods.lost_at(key),
            handed_on=memory.handed_on,
            leaving=leaving.why(record, namespace_ends=memory.namespace_ends(at.steady)),
        )
        observed = replace(observed, work_ends=_work_ends(observed.weights_lease(key.name), at))
        pool = memory.resolved if isinstance(memory.resolved, Pool) else None
        seats = seating.of(pool, observed) if pool is not None else None
        observed = self._with_holders(key, memory, observed, seats, at)
        return self._contending.seen(key, pool, seats, observed, at.steady)

    def making(self, key: PoolKey, makes: bool) -> None:
        """Whether pods of this pool are on their way that the stores do not have yet."""
        self._contending.making(key, makes)

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._contending.forget(key)

    def _with_holders(
        self, key: PoolKey, memory: Memory, observed: Observed, seats: Seating | None, at: Moment
    ) -> Observed:
        """With others' pods that may hold its GPUs, where no scheduler counts these.

        While these are not all known nothing is made.
        """
        if seats is None and isinstance(memory.resolved, Pool):
            memory.beyond, memory.gpus = 0, {}
            if not (unseen := list(self._out_of_sight(key))):
                return observed  # as nearly always
            there = {pod.uid for pod in observed.all_pods}
            return replace(observed, departing=tuple(p for p in unseen if p.uid not in there))
        if seats is not None and seats.gpus:
            memory.gpus = seats.gpus
        counts = seats is not None or memory.gpus
        memory.beyond = self._view.pods.unseen.beyond(key.namespace) if counts else 0
        until = at.steady + seating.LOOK_SECONDS if memory.beyond else 0.0
        is_known, own = seats is not None and bool(seats.gpus), key.namespace
        on_gpus = self._departing(own, memory.uid, sorted(memory.gpus.items()))
        found = {pod.uid: (pod, namespace) for pod, namespace in on_gpus}
        if not is_known:
            found |= {pod.uid: (pod, own) for pod in self._namesakes(key, memory.uid)}
        return replace(
            observed,
            departing=tuple(pod for pod, _ in found.values()),
            elsewhere=frozenset(uid for uid, (_, namespace) in found.items() if namespace != own),
            creates_blocked_until=max(memory.blocked_until, until),
        )

    def _departing(
        self, namespace: str, uid: names.Uid, gpus: Iterable[tuple[str, str]]
    ) -> Iterator[tuple[ObservedPod, str]]:
        """Pods, each with its namespace, that may hold these GPUs of the trainer, of which the
        nodes are told, and are not the pool's of this UID: on their way out, or of no pool that
        there is.  Pools that are there share GPUs as told.
        """
        pods, found = self._view.pods, dict[names.Uid, tuple[ObservedPod, str]]()
        for gpu, node in gpus:
            for entry in pods.on_gpu(gpu):
                pool, pod = entry.pool, entry.pod
                if entry.owner == uid or not _may_hold(pod, node, pool.namespace == namespace):
                    continue
                if pod.deleting or not self._view.pools.has(pool.namespace, pool.name, entry.owner):
                    found[pod.uid] = pod, pool.namespace
            for each in pods.unseen.on(gpu):
                if _may_hold(each.pod, node, each.namespace == namespace):
                    found[each.pod.uid] = each.pod, each.namespace
        yield from found.values()

    def _namesakes(self, key: PoolKey, uid: names.Uid) -> Iterator[ObservedPod]:
        """Pods of earlier pools of this name, and of this one that no stream tells of: while nobody
        knows which GPUs the trainer has, they may be on these."""
        pods = self._view.pods
        for entry in pods.of(key):
            if entry.owner != uid and entry.pod.gpus_seen and entry.pod.may_hold_memory:
                yield entry.pod
        yield from self._out_of_sight(key)

    def _out_of_sight(self, key: PoolKey) -> Iterator[ObservedPod]:
        """Pods of this pool of which no stream tells; one of them may sleep."""
        unseen = self._view.pods.unseen.of(key.namespace)
        return (e.pod for e in unseen if e.pool == key.name and e.pod.may_hold_memory)

    def _former_lease(self, key: PoolKey) -> ObservedChild | None:
        store = self._view.children.get(kinds.LEASE.kind)
        return store.former(key) if store is not None else None

    def _pods(self, key: PoolKey, memory: Memory) -> _Pods:
        found = _Pods(own=[], strays=[], reached=[], orphans={}, taken=dict(memory.aside))
        for entry in self._view.pods.of(key):
            if entry.owner == memory.uid and not entry.aside:
                found.own.append(entry.pod)
                continue
            lives = not (entry.pod.ended or entry.pod.deleting)
            if lives and not entry.owner:
                found.orphans[entry.pod.name] = entry.pod.engine
            gate = entry.pod.gate if lives and entry.owner != memory.uid else None
            if gate is not None and gate.is_open and not entry.aside:
                found.reached.append(entry.pod.name)
            if entry.owner == memory.uid and entry.pod.may_hold_memory:
                found.strays.append(entry.pod)  # also while it drains: its engine runs on
            name, engine = entry.pod.name, names.engine_of(entry.pod.name, key.name)
            found.taken[engine] = max(found.taken.get(engine, -1), names.attempt_of(name))
        return found


def _work_ends(lease: ObservedChild | None, at: Moment) -> float:
    """Until when a trainer that is at work by this Lease counts on it, unless it renews; steady."""
    says = lease_state.read(lease.body) if lease is not None and lease.whole else None
    if says is None or lease is None or not says.at_work:
        return math.inf
    return at.steady + says.expires(lease.seen) - at.wall


def _may_hold(pod: ObservedPod, node: str, is_own: bool) -> bool:
    """Whether a pod that was given a GPU of this node by name may hold its memory.

    Not on another node.  One that is on none yet may come; but what waits elsewhere, as anybody may
    have a pod do, is no reason for a pool to wait, and its user could do nothing about it.
    """
    if not pod.may_hold_memory:
        return False
    return not node or pod.node == node or (is_own and not pod.node)
