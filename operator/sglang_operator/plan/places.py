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
    """A pod that is to go: nobody wants its engine any more, or it runs an older revision."""

    devices: tuple[int, ...]
    gpus: int
    node: str
    lives: bool  # its engine runs and has answered, whether or not it answers at this moment
    serves: bool  # clients reach it
    falters: bool = False  # it would serve, but for a probe that it misses


def gpus(pod: ObservedPod, resource: str, otherwise: int) -> int:
    """The GPUs that a pod holds."""
    return dict(pod.limits).get(resource) or len(pod.devices) or otherwise


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
    held: Counter[str] = Counter()
    for pod in pods:
        held[pod.node] += gpus(pod, resource, otherwise)
    known = bool(usable) or any(resource in node.resources for node in (nodes or {}).values())
    if not known:
        usable = {node: per_node for node in held if node}
    return {node: max(0, count - held[node]) for node, count in usable.items()}, known


class Rooms:
    """What will be free on each node, while it is decided who goes and who comes."""

    def __init__(self, known: Free, size: int, waiting: int = 0) -> None:
        self.free = dict(known)
        self.waiting = waiting  # engines that come and fit nowhere yet
        self._size = size
        self._fitting = {node: None for node, count in known.items() if count >= size}

    def leave(self, olds: Iterable[Old]) -> None:
        """These go; who waits comes first."""
        for old in olds:
            if old.node in self.free:
                self._set(old.node, self.free[old.node] + old.gpus)
        while self.waiting and self._fitting:
            self.waiting -= 1
            self.come()

    def come(self) -> None:
        """One engine more will be put where it fits, or wait until it does."""
        node = next(iter(self._fitting), None)
        if node is None:
            self.waiting += 1
        else:
            self._set(node, self.free[node] - self._size)

    def fits_after(self, leaving: Iterable[Old]) -> bool:
        """Whether a node has room for one more engine once these have gone."""
        if self._fitting:
            return True
        left: Counter[str] = Counter()
        for old in leaving:
            left[old.node] += old.gpus
        places = sum((self.free[n] + c) // self._size for n, c in left.items() if n in self.free)
        return places > self.waiting

    def _set(self, node: str, count: int) -> None:
        self.free[node] = count
        if count >= self._size:
            self._fitting[node] = None
        else:
            self._fitting.pop(node, None)


def room(size: int, movable: Mapping[EngineName, Old], known: Free) -> Set[EngineName] | None:
    """The engines whose going gives one node room for one of this size; None if none can.

    Those that cost the least, from the node that then has the most.
    """
    by_node: dict[str, list[tuple[EngineName, Old]]] = {}
    for name, old in movable.items():
        by_node.setdefault(old.node, []).append((name, old))
    found: list[tuple[int, int, str, Set[EngineName]]] = []
    for node, here in by_node.items():
        count = known.get(node)
        if count is None:
            continue  # it takes no pods
        here.sort(key=lambda item: (item[1].serves, item[1].gpus, item[1].devices, item[0]))
        potential = count + sum(old.gpus for _, old in here)
        if potential < size:
            continue
        chosen: set[EngineName] = set()
        cost = 0
        for name, old in here:
            if count >= size:
                break
            chosen.add(name)
            count += old.gpus
            cost += old.gpus if old.serves else 0
        found.append((cost, -potential, node, chosen))
    return min(found, key=lambda option: option[:3])[3] if found else None
