"""What is to be known of a kind of object that pools have; ``kinds`` declares each of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sglang_operator.api.names import EngineName, is_engine
from sglang_operator.children.last_known import LastKnown
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed.model import Observed
from sglang_operator.pool.resolve import Pool

Json = Mapping[str, Any]
_ANY = EngineName("*")  # no engine's name


@dataclass(frozen=True, kw_only=True)
class ChildKind:
    """One kind of object that pools have beside their pods.

    Paths, watches, stores, what is compared, what may be deleted and what the roles must grant
    follow from it.
    """

    # Where several API groups have one of a name, it is followed by its group, as kubectl takes it:
    # PodGroup.scheduling.volcano.sh.
    kind: str
    api_version: str  # group/version, or v1
    plural: str
    # All that a pool should have of this kind now.
    desired: Callable[[Pool, GatePlan], Iterable[Json]]
    # The same of a pool whose spec is refused, and whose engines run on: as far as it is known what
    # chooses pods and addresses.  What is not among these stays as it is found (``kept.nothing``).
    kept: Callable[[LastKnown], Iterable[Json]]
    # The names that these can have, from the pool's name: others are nobody's children.
    names: tuple[Callable[[str], str], ...] = ()
    # All that is wanted of it, where that depends on what is there of it too.
    history: Callable[[Pool, Observed], Iterable[Json]] | None = None
    # Where there are many: whether this is a name of one, of a pool of that name.
    is_one: Callable[[str, str], bool] | None = None
    # Where engines have one each: its name, from the pool's and the engine's.
    engine_name: Callable[[str, EngineName], str] | None = None
    # The parts of an object that are kept as desired; the rest is other people's to write.
    compared: tuple[str, ...] = ("spec",)
    # What is no longer wanted of it is deleted, which the roles must grant.  The others stay until
    # the pool goes.
    pruned: bool = False
    # A cluster may not know the kind (404, its definition is not installed): pools do without it,
    # and get theirs once it does.  A kind that the operator may not read is refused all the same.
    optional: bool = False
    # And pools do without an ``optional`` one also where the operator may not read it: the role of
    # the release before does not grant it, which is told.  A new kind is both.  Whatever keeps one
    # from being written is a warning, and no word about the pool.
    spare: bool = False
    # It is there where whoever started the operator asked for it, and where it may not be read it
    # is as absent: pools that cannot do without say so.
    of_gang: str = ""  # the gang's name
    # Pools of one placement alone have it, and say so where it is absent; to others, that it may
    # not be read, is nothing.
    of_placement: bool = False
    # Others begin to use one at any moment: it is deleted only in the state that was seen.
    exact: bool = False
    # Parts of an object that nobody compares: they are not kept.
    unkept: tuple[str, ...] = ()
    # It is made once a new pool's pods are there: by what selects them, kube-controller-manager
    # works at each of their changes.
    waits_for_pods: bool = False
    urgent: bool = False  # somebody waits for the answer to a change of it
    # Where any are named: fields of its spec whose change is no news, nor is any of its status.
    restless: frozenset[str] = frozenset()
    # Whether an object says less than it did, given both states: what it said then is remembered
    # until the next pass, which may come too late to have seen it.
    forgets: Callable[[Json, Json], bool] | None = None
    # Fields of its spec that are not written, and what they may be all the same.
    defaults: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    # Labels with which whoever acts on such objects passes one over.
    barred_labels: tuple[str, ...] = ()
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

    def is_of(self, body: Json) -> bool:
        """Whether an object is of this kind."""
        same = body["kind"] == self.kind.partition(".")[0]
        return bool(same and body.get("apiVersion", self.api_version) == self.api_version)

    def is_name(self, name: str, pool: str) -> bool:
        """Whether a pool of this name can have an object of this kind and name."""
        if any(name == of(pool) for of in self.names):
            return True
        if self.is_one is not None and self.is_one(name, pool):
            return True
        if self.engine_name is None:
            return False
        before, _, after = self.engine_name(pool, _ANY).partition(_ANY)
        engine = name.removeprefix(before).removesuffix(after)
        return is_engine(engine) and name == f"{before}{engine}{after}"

    @property
    def verbs(self) -> frozenset[str]:
        """What the operator does to objects of this kind, and its roles must grant."""
        removed = {"delete"} if self.pruned else set()
        return frozenset({"get", "list", "watch", "create", "patch"} | removed)
