"""On which node an engine would find its GPUs, if others of the pool went.  Pure.

What is free on a node is known at most: pods of others are not looked at.  Where nodes may not be
read at all, it is still known where the pool's own pods are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from sglang_operator.api.names import EngineName
from sglang_operator.observed.model import ObservedNode, ObservedPod

Free = Mapping[str, int]  # free GPUs by node


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """A group that is to go: nobody wants its engine any more, or it runs an older revision."""

    devices: tuple[int, ...]
    gpus: int  # of all its pods when all are there
    pods: int = 1  # that it has when all are there
    held: Mapping[str, int]  # of them on each node; under "" what has none yet
    lives: bool  # its engine runs and has answered, whether or not it answers at this moment
    serves: bool  # clients reach it
    falters: bool = False  # it would serve, but for a probe that it misses


def gpus(pod: ObservedPod, resource: str, otherwise: int) -> int:
    """The GPUs that a pod holds."""
    return pod.gpus(resource, otherwise)


def held(pods: Iterable[ObservedPod], resource: str, otherwise: int) -> Mapping[str, int]:
    """The GPUs that these pods hold, by node."""
    found: Counter[str] = Counter()
    for pod in pods:
        found[pod.node] += gpus(pod, resource, otherwise)
    return found


def free(
    nodes: Mapping[str, ObservedNode] | None,
    resource: str,
    pods: Iterable[ObservedPod],
    otherwise: int,
    per_node: int,
) -> tuple[Free, bool]:
    """GPUs of each node that takes pods and none of these pods hold, and whether nodes tell it.

    Where they do not, each node that has some of these pods is taken to have ``per_node``.
    """
    usable = {
        node.name: node.resources[resource]
        for node in (nodes or {}).values()
        if resource in node.resources and node.ready and not node.gone and not node.cordoned
    }
    taken = held(pods, resource, otherwise)
    known = bool(usable) or any(resource in node.resources for node in (nodes or {}).values())
    if not known:
        usable = {node: per_node for node in taken if node}
    return {node: max(0, count - taken.get(node, 0)) for node, count in usable.items()}, known


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one engine needs: so many places of so many GPUs, mostly one."""

    gpus: int  # of each place
    pods: int = 1


class Rooms:
    """What will be free on each node, while it is decided who goes and who comes."""

    def __init__(self, known: Free, need: Need, waiting: int = 0) -> None:
        self.free = dict(known)
        self.waiting = waiting  # engines that come and fit nowhere yet
        self._need = need
        self._fitting = {node: None for node, count in known.items() if count >= need.gpus}

    def leave(self, olds: Iterable[Old]) -> None:
        """These go; who waits comes first."""
        for old in olds:
            for node, count in old.held.items():
                if node in self.free:
                    self._set(node, self.free[node] + count)
        while self.waiting and self._fits():
            self.waiting -= 1
            self.come()

    def come(self) -> None:
        """One engine more will be put where it fits, or wait until it does."""
        if not self._fits():
            self.waiting += 1
            return
        for _ in range(self._need.pods):
            node = next(iter(self._fitting))
            self._set(node, self.free[node] - self._need.gpus)

    def fits_after(self, leaving: Iterable[Old]) -> bool:
        """Whether nodes have room for one more engine once these have gone."""
        if self._fits():
            return True
        left: Counter[str] = Counter()
        for old in leaving:
            left.update(old.held)
        nodes = {*left, *self._fitting} & self.free.keys()
        return self._places(nodes, left) > self._need.pods * (self.waiting + 1) - 1

    def _fits(self) -> bool:
        if self._need.pods == 1:
            return bool(self._fitting)
        return self._places(self._fitting, Counter()) >= self._need.pods

    def _places(self, nodes: Iterable[str], left: Counter[str]) -> int:
        return sum((self.free[node] + left[node]) // self._need.gpus for node in nodes)

    def _set(self, node: str, count: int) -> None:
        self.free[node] = count
        if count >= self._need.gpus:
            self._fitting[node] = None
        else:
            self._fitting.pop(node, None)


def room(need: Need, movable: Mapping[EngineName, Old], known: Free) -> Set[EngineName] | None:
    """The engines whose going gives nodes room for this one; None if none can.

    Those that cost the least, from the node that then has the most; where several pods need
    places, one after another.
    """
    left, counts, chosen = dict(movable), dict(known), set[EngineName]()
    for _ in range(need.pods):
        node = next((node for node, count in counts.items() if count >= need.gpus), None)
        if node is None:
            found = _place(need.gpus, left, counts)
            if found is None:
                return None
            node, going = found
            chosen |= going
            for name in going:
                for place, count in left.pop(name).held.items():
                    if place in counts:
                        counts[place] += count
        counts[node] -= need.gpus
    return chosen


def _place(
    size: int, movable: Mapping[EngineName, Old], known: Free
) -> tuple[str, Set[EngineName]] | None:
    """A node, and the engines whose going gives it room for so many GPUs; None if none can."""
    by_node: dict[str, list[tuple[EngineName, Old]]] = {}
    for name, old in movable.items():
        for node in old.held:
            by_node.setdefault(node, []).append((name, old))
    found: list[tuple[int, int, str, Set[EngineName]]] = []
    for node, here in by_node.items():
        count = known.get(node)
        if count is None:
            continue  # it takes no pods
        here.sort(key=lambda item: (item[1].serves, item[1].gpus, item[1].devices, item[0]))
        potential = count + sum(old.held[node] for _, old in here)
        if potential < size:
            continue
        chosen: set[EngineName] = set()
        cost = 0
        for name, old in here:
            if count >= size:
                break
            chosen.add(name)
            count += old.held[node]
            cost += old.gpus if old.serves else 0
        found.append((cost, -potential, node, chosen))
    return min(found, key=lambda option: option[:3])[2:] if found else None
