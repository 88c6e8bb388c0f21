"""What is to be known of a kind of object that pools have; ``kinds`` declares each of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.gates.decide import WeightsPlan
from sglang_operator.pool.resolve import Pool

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChildKind:
    """One kind of object that pools have beside their pods.

    Paths, watches, stores, what is compared, what may be deleted and what the roles must grant
    follow from it.
    """

    kind: str
    api_version: str  # group/version, or v1
    plural: str
    # The names that a pool's objects of this kind can have: others are nobody's children.
    names: Callable[[str], tuple[str, ...]]
    desired: Callable[[Pool, WeightsPlan], Iterable[Json]]
    # The parts of an object that are kept as desired; the rest is other people's to write.
    compared: tuple[str, ...] = ("spec",)
    # A pool may have it or not: what is no longer wanted is deleted, which the roles must grant.
    # The others stay until the pool goes.
    optional: bool = False
    # kube-controller-manager works over it at each change of a pod: it waits for a new pool's pods.
    selects_pods: bool = False
    urgent: bool = False  # somebody waits for the answer to a change of it
    # Fields of its spec whose change is no news.
    restless: frozenset[str] = frozenset()
    # Fields of its spec that are not written, and what they may be all the same.
    defaults: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    # Keys of its data that earlier operators wrote, and nobody keeps up to date any more.
    retired: tuple[str, ...] = ()
    most_bytes: int = 4 * 2**20  # of all that is kept whole of it in a namespace

    @property
    def group(self) -> str:
        """The API group; empty for the core."""
        return self.api_version.rpartition("/")[0]

    @property
    def root(self) -> str:
        """The API server's path of the group and version."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"

    @property
    def verbs(self) -> frozenset[str]:
        """What the operator does to objects of this kind, and its roles must grant."""
        removed = {"delete"} if self.optional else set()
        return frozenset({"get", "list", "watch", "create", "patch"} | removed)
