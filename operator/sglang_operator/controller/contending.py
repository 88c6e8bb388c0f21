"""Pools on the same GPUs: which of them has the memory there, by the operator's word.

The rule is ``plan.contending``.  Here is what it needs of other pools, as the stores have it at
this moment, and what was granted: to a pool whose pods are on their way, or whose trainer was told
that it may wake them.  The next operator knows of the former by the pods, and of the latter by what
the registry says.

GPUs that a pool has by claims (mode Slot) are known by these until the claim is allocated and its
driver tells of their UUIDs, by which pools in mode Shared have theirs: from then on both meet.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sglang_operator.api import names, texts
from sglang_operator.api.names import EngineName, Uid
from sglang_operator.children import kinds, trainer_registry
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.cluster.unseen import UnseenPod
from sglang_operator.observed import groups
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.placement.seats import Seating
from sglang_operator.plan import contending, seating
from sglang_operator.plan.contending import Contender, Order, Place
from sglang_operator.pool.resolve import Pool
from sglang_operator.weights import lease_state, lost_lease
from sglang_operator.weights.lease_state import Transaction

if TYPE_CHECKING:
    from sglang_operator.controller.observing import View

# For so long after its first pass an operator may not have looked at all pools yet.
HEARING_SECONDS = 30.0


@dataclass(frozen=True)
class _Known:
    """What a pool's own pass has told of it."""

    places: tuple[Place, ...] = ()
    said: Transaction | None = None
    cards: Mapping[str, str] = field(default_factory=dict)  # UUIDs of GPUs that it has by claims

    def by_uuid(self, gpus: Iterable[str]) -> frozenset[str]:
        """These GPUs, by their UUIDs as far as they are known."""
        return frozenset(self.cards.get(gpu, gpu) for gpu in gpus)


class Contending:
    """Who contends with whom, and what was granted."""

    def __init__(self, view: "View") -> None:
        self._view = view
        self._known: dict[PoolKey, _Known] = {}
        self._on: defaultdict[str, set[PoolKey]] = defaultdict(set)  # by GPU, of those known
        self._granted: dict[PoolKey, frozenset[str]] = {}
        self._told: dict[PoolKey, tuple[frozenset[str], frozenset[str]]] = {}
        self._making: set[PoolKey] = set()
        self._hears_until: float | None = None

    def seen(
        self,
        key: PoolKey,
        pool: Pool | None,
        seats: Seating | None,
        observed: Observed,
        now: float,
    ) -> Observed:
        """With what other pools have of its GPUs; grants it what they have not.

        ``pool`` and ``seats`` are None where its spec, or its mode, tells of none.
        """
        if self._hears_until is None:
            self._hears_until = now + HEARING_SECONDS
        cards = {} if seats is None else seats.cards(key.namespace)
        places = tuple(_with_cards(_places(pool, seats, observed), cards))
        known = _Known(places, observed.said, cards)
        self._know(key, known)
        gpus = {gpu for place in places for gpu in place.gpus}
        if not gpus:
            self.tell(key)
            return observed
        others = {other: self._contender(other) for other in self._others(key, gpus)}
        own = self._contender(key)
        barred = contending.barred(own, tuple(others.values()))
        unheard = now < self._hears_until and self._unheard(key)
        there = known.by_uuid(gpu for pod in observed.all_pods for gpu in pod.gpus_seen)
        granted = own.has | (own.wants & there if unheard else own.wants)
        kept = own.granted if own.makes else frozenset[str]()
        self._granted[key] = kept | (granted - barred.keys())
        own = replace(own, granted=self._granted[key])
        if self._told.get(key) != (news := (own.wants, own.keeps)):
            self._told[key] = news
            self._view.pods.tell(others)
        whose = {other.uid: found for found, other in others.items()}
        rivals = dict[EngineName, str]()
        for place in places:
            of = next((whose[barred[gpu].uid] for gpu in place.gpus if gpu in barred), None)
            if of is not None:
                rivals[place.engine] = _words(key, of)
        blocked = now + seating.LOOK_SECONDS if unheard else 0.0
        says = self._says(key, own.uid, self._known[key])
        left = contending.has(self._left(gpus, observed), says, None)
        return replace(
            observed,
            rivals=rivals,
            left_on=frozenset(each.engine for each in places if not left.isdisjoint(each.gpus)),
            neighbours=tuple(sorted({_words(key, other) for other in others})),
            creates_blocked_until=max(observed.creates_blocked_until, blocked),
        )

    def making(self, key: PoolKey, makes: bool) -> None:
        """Whether pods of this pool are on their way, or may be: whatever its Lease says by now."""
        (self._making.add if makes else self._making.discard)(key)

    def tell(self, key: PoolKey) -> None:
        """Nothing of this pool is on GPUs of others any more: they look again."""
        self._granted.pop(key, None)
        if (told := self._told.pop(key, None)) is not None:
            self._view.pods.tell(self._others(key, told[0] | told[1]))

    def forget(self, key: PoolKey) -> None:
        """The pool is gone."""
        self._know(key, _Known())
        self._known.pop(key, None)
        self._making.discard(key)
        self.tell(key)

    # --- what is known of pools

    def _know(self, key: PoolKey, known: _Known) -> None:
        before = self._known.get(key, _Known())
        if before.places != known.places:
            for gpu in {gpu for place in before.places for gpu in place.gpus}:
                self._on[gpu].discard(key)
                if not self._on[gpu]:
                    del self._on[gpu]
            for gpu in {gpu for place in known.places for gpu in place.gpus}:
                self._on[gpu].add(key)
        self._known[key] = known

    def _unheard(self, key: PoolKey) -> bool:
        """Whether there is an older pool in its namespace of which nobody knows what it wants."""
        own, pools = self._order(key), self._view.pools
        return any(
            other not in self._known and self._order(other) < own
            for other in pools.known()
            if other.namespace == key.namespace and self._view.reads(other.namespace)
        )

    def _others(self, key: PoolKey, gpus: Iterable[str]) -> Sequence[PoolKey]:
        """The pools that there are and that have something on these GPUs, or are to."""
        found = {other for gpu in gpus for other in self._on.get(gpu, ())}
        for gpu in gpus:
            for entry in self._view.pods.on_gpu(gpu):
                if entry.pod.may_hold_memory and self._is_there(entry.pool, entry.owner):
                    found.add(entry.pool)
            unseen = map(self._pool_of, self._view.pods.unseen.on(gpu))
            found.update(other for other in unseen if other is not None)
        return sorted(found - {key})

    def _left(self, gpus: Iterable[str], observed: Observed) -> Sequence[ObservedPod]:
        """Pods that may be on these GPUs, and that no pool answers for: it was deleted, or does not
        own them any more.  Nobody else's Lease says whether such a one sleeps."""
        answered, pods = set[Uid](), self._view.pods
        for gpu in gpus if observed.departing else ():
            seen = (e.pod for e in pods.on_gpu(gpu) if self._is_there(e.pool, e.owner))
            unseen = (u.pod for u in pods.unseen.on(gpu) if self._pool_of(u) is not None)
            answered.update(pod.uid for pod in (*seen, *unseen))
        return [pod for pod in observed.departing if pod.uid not in answered]

    def _pool_of(self, each: UnseenPod) -> PoolKey | None:
        """The pool that answers for a pod of which no stream tells, if there is one."""
        key = PoolKey(each.namespace, each.pool)
        return key if self._view.pools.get(key) is not None else None

    def _is_there(self, key: PoolKey, uid: Uid) -> bool:
        return bool(key.name) and self._view.pools.has(key.namespace, key.name, uid)

    def _order(self, key: PoolKey) -> Order:
        record = self._view.pools.get(key)
        created = record.metadata.creation_timestamp if record is not None else None
        return Order(created.timestamp() if created else 0.0, *key)

    def _contender(self, key: PoolKey) -> Contender:
        """A pool as the stores have it now."""
        record, known = self._view.pools.get(key), self._known.get(key)
        by_uuid = known.by_uuid if known is not None else frozenset[str]
        uid = Uid(record.metadata.uid) if record is not None else Uid("")
        pods = self._pods(key, uid)
        says = self._says(key, uid, known)
        places = known.places if known is not None else tuple(_running(pods))
        told = self._answered(key, uid, says) if says is not None and says.at_work else None
        return Contender(
            uid=uid,
            order=self._order(key),
            wants=contending.wants(places, says),
            has=by_uuid(contending.has(pods, says, told)),
            granted=by_uuid(self._granted.get(key, frozenset())),
            makes=key in self._making,
        )

    def _pods(self, key: PoolKey, uid: Uid) -> Sequence[ObservedPod]:
        """Its pods on GPUs by name, also such as its stream tells of no more."""
        pods = self._view.pods
        own = {e.pod.uid: e.pod for e in pods.of(key) if e.owner == uid and e.pod.gpus_seen}
        unseen = (u.pod for u in pods.unseen.of(key.namespace) if u.pool == key.name)
        return list(({pod.uid: pod for pod in unseen if pod.gpus_seen} | own).values())

    def _says(self, key: PoolKey, uid: Uid, known: _Known | None) -> Transaction | None:
        """What a pool's Lease says, or said last where that is lost; None: nobody knows."""
        said = known.said if known is not None else None
        child = self._child(key, kinds.LEASE.kind, names.weights_lease_name(key.name))
        if child is None or child.owner != uid:
            return said or (Transaction() if known is not None else None)
        if not child.whole:
            return None
        says = lease_state.read(child.body)
        return said if said is not None and lost_lease.is_lost(says, said) else says

    def _answered(self, key: PoolKey, uid: Uid, says: Transaction) -> frozenset[EngineName] | None:
        """Engines of which its trainer, at work by this, was told that they have to wait.

        None: it was told nothing.  A registry that is gone, or not known whole, may have told it
        that none has to.
        """
        child = self._child(key, kinds.REGISTRY.kind, names.registry_name(key.name))
        if child is None or child.owner != uid or not child.whole:
            return frozenset()
        return trainer_registry.told_taken(child.body.get("data") or {}, says.id)

    def _child(self, key: PoolKey, kind: str, name: str) -> ObservedChild | None:
        store = self._view.children.get(kind)
        of_pool = store.of(key) if store is not None else ()
        return next((child for found, child in of_pool if found == name), None)


def _places(pool: Pool | None, seats: Seating | None, observed: Observed) -> Iterator[Place]:
    """Where its engines are to be, and where they are."""
    if pool is not None and seats is not None and not observed.leaving:
        for engine in pool.running:
            found: Sequence[str] = [g for s in seats.seats.get(engine.name, ()) for g in s.gpus]
            if found:
                yield Place(engine.name, tuple(engine.devices), tuple(found))
    yield from _running(observed.all_pods)


def _running(pods: Iterable[ObservedPod]) -> Iterator[Place]:
    there = [pod for pod in pods if pod.gpus_seen and pod.may_hold_memory]
    for group in groups.of(there) if there else ():
        gpus = tuple(gpu for pod in group.members for gpu in pod.gpus_seen)
        yield Place(group.engine, tuple(group.devices), gpus)


def _with_cards(places: Iterable[Place], cards: Mapping[str, str]) -> Iterator[Place]:
    for place in places:
        yield place._replace(gpus=tuple(cards.get(gpu, gpu) for gpu in place.gpus))


def _words(own: PoolKey, other: PoolKey) -> str:
    """A pool, as who may see this one may know of it: of other namespaces nothing is named."""
    return texts.seen_from(own.namespace, other.namespace, "pool", str(other))
