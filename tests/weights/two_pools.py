"""A model of two pools on the same GPUs: engines of both never hold the memory of one together.

Each pool, with its trainer, its Lease and whatever becomes of them, is one of ``taking_turns``.
One operator runs both, by the real ``controller.contending``; ``let_in`` is what
``client.contention`` asks.  The trainers know nothing of each other.

``Pair.awake`` holds every moment at which engines of both held memory of one GPU.
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from sglang_operator.api import names
from sglang_operator.children import kinds, trainer_registry
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.contending import Contending
from sglang_operator.gates import decide
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.plan import seating
from tests.weights.taking_turns import World
from tests.weights.turn_things import DiesError

ALONE = "looks at no other pool"
UNASKED = "wakes engines without asking whether another pool has their GPUs"
UNSEEN = "does not count engines on their way"
CONTROLS = (ALONE, UNASKED, UNSEEN)


class _Pool(World):
    """One of the two."""

    def __init__(self, choose: Callable[[int], int], pair: "Pair", name: str) -> None:
        super().__init__(choose)
        self.pair, self.key = pair, PoolKey("rl", name)
        self.uid = names.Uid(f"uid-{name}")
        self.taken: frozenset[str] = frozenset()  # as the registry names them, by engine
        self.woken = 0

    def observe(self) -> None:
        super().observe()
        self._makes()

    def deliver(self) -> None:
        super().deliver()
        self._makes()

    def _makes(self) -> None:
        makes = bool(self.operator.creates) and self.pair.defect != UNSEEN
        self.pair.contending.making(self.key, makes)

    def with_others(self, seen: Observed) -> Observed:
        if self.pair.defect == ALONE:
            return seen
        seats = seating.of(self.pool, seen)
        return self.pair.contending.seen(self.key, self.pool, seats, seen, self.now)

    def _publish(self, weights: decide.GatePlan, *, making: bool) -> None:
        super()._publish(weights, making=making)
        assert self.operator.seen is not None
        self.taken = frozenset(self.operator.seen.rivals)

    def let_in(self, runs: Iterable[str | None]) -> None:
        if self.pair.defect == UNASKED:
            return
        asked = {*runs}
        engines = {p.pod.engine for p in self.processes if p.pod.instance in asked}
        if engines & self.taken:
            self.pair.refused += 1
            self._gives_up()
            raise DiesError("another pool has them")
        self.woken += bool(engines)

    def _gives_up(self) -> None:
        """The trainer leaves the Lease at rest."""
        self._put(dataclasses.replace(self.said, at_work=False))

    def look(self) -> None:
        super().look()
        self.pair.look()

    def restart_operator(self) -> None:
        self.pair.restart()

    def leads_no_more(self) -> None:
        super().restart_operator()

    # --- as the stores have it

    @property
    def record(self) -> Any:
        return SimpleNamespace(metadata=SimpleNamespace(uid=self.uid, creation_timestamp=None))

    def entries(self) -> Iterator[Any]:
        for process in self.processes:
            pod = self._seen(process)
            yield SimpleNamespace(pod=pod, pool=self.key, owner=self.uid)

    def children(self, kind: str) -> Iterator[tuple[str, ObservedChild]]:
        own: dict[str, Any] = {"uid": names.Uid("c"), "owner": self.uid}
        if kind == kinds.LEASE.kind and self.lease is not None:
            name = names.weights_lease_name(self.key.name)
            yield name, ObservedChild(**own, body=self.lease)
        if kind == kinds.REGISTRY.kind:
            engines = [engine.name for engine in self.pool.running]
            ranks = [[r, r] for r, name in enumerate(engines) if name in self.taken]
            told = {
                "weights": {"seen": self.acted, trainer_registry.TAKEN: ranks},
                "engines": [{"engine": name} for name in engines],
            }
            data = {trainer_registry.ENGINES_KEY: json.dumps(told)}
            yield names.registry_name(self.key.name), ObservedChild(**own, body={"data": data})


class _View:
    """What ``controller.contending`` reads of the stores."""

    def __init__(self, pair: "Pair") -> None:
        self._of = {world.key: world for world in pair.worlds}
        self.pools, self.pods = self, SimpleNamespace(of=self._entries, on_gpu=self._on_gpu)
        self.pods.tell = lambda keys: None
        self.pods.unseen = SimpleNamespace(of=lambda namespace: (), on=lambda gpu: ())
        kept = (kinds.LEASE.kind, kinds.REGISTRY.kind)
        self.children = {kind: SimpleNamespace(of=self._children(kind)) for kind in kept}

    def get(self, key: PoolKey) -> Any:
        return self._of[key].record

    def known(self) -> list[PoolKey]:
        return [*self._of]

    def has(self, namespace: str, name: str, uid: str) -> bool:
        return self._of[PoolKey(namespace, name)].uid == uid

    def reads(self, _: str) -> bool:
        return True

    def _entries(self, key: PoolKey) -> Iterator[Any]:
        return self._of[key].entries()

    def _on_gpu(self, gpu: str) -> Iterator[Any]:
        every = (entry for world in self._of.values() for entry in world.entries())
        return (entry for entry in every if gpu in entry.pod.gpus_seen)

    def _children(self, kind: str) -> Callable[[PoolKey], Iterator[tuple[str, ObservedChild]]]:
        return lambda key: self._of[key].children(kind)


class Pair:
    """Two pools, one operator, one step after the other."""

    def __init__(self, choose: Callable[[int], int], *, defect: str = "") -> None:
        self.choose, self.defect = choose, defect
        self.worlds = tuple(_Pool(choose, self, name) for name in ("one", "two"))
        self.awake: list[str] = []
        self.refused = self.steps = 0
        self.begin()

    def begin(self) -> None:
        view: Any = _View(self)
        self.contending = Contending(view)

    def restart(self) -> None:
        """Another operator leads: it knows what stands in the cluster."""
        for world in self.worlds:
            world.leads_no_more()
        self.begin()

    def look(self) -> None:
        one, two = self.worlds
        for process in one.processes:
            for other in two.processes if process.holds else ():
                if other.holds and not {*process.pod.devices}.isdisjoint(other.pod.devices):
                    self.awake.append(f"{process.pod.name} of one and {other.pod.name} of two")

    @property
    def both(self) -> list[str]:
        """Moments at which a trainer and an engine of its own pool held memory of one GPU."""
        return [each for world in self.worlds for each in world.both]

    def step(self) -> None:
        self.steps += 1
        self.worlds[self.choose(2)].step()


def run(seed: int, *, steps: int = 400, defect: str = "") -> Pair:
    """One run of random steps."""
    pair = Pair(random.Random(seed).randrange, defect=defect)
    for _ in range(steps):
        pair.step()
    return pair
