"""What the Leases of operators say: who holds each, and which namespaces that one serves.

Releases of one namespace elect by Leases of their own, whatever these are called.  So that no two
act for one pool, each knows the others' Leases and their holders (``Rivals``): also while a release
is upgraded to another name of its Lease.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from sglang_operator.api import names
from sglang_operator.observed import wire

# What ``serves`` says of one that serves the whole cluster.
EVERYTHING = "*"


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """``coordination.k8s.io/v1`` LeaseSpec."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int = 0


class Lease(msgspec.Struct, frozen=True):
    metadata: wire.Meta
    spec: LeaseSpec = LeaseSpec()

    @property
    def is_operators(self) -> bool:
        """Whether operators elect by it; one of an earlier version has that name and no more."""
        meta = self.metadata
        return meta.name == names.LEASE_NAME or names.ANNOTATION_SERVES in meta.annotations


class Leases(msgspec.Struct, frozen=True):
    """A list of them."""

    items: list[Lease] = []


def serves(namespaces: Iterable[str]) -> str:
    """What a Lease says of a holder that serves these namespaces, or all if there are none."""
    return ",".join(sorted(set(namespaces))) or EVERYTHING


def namespaces(served: str) -> frozenset[str]:
    """The reverse of ``serves``."""
    return frozenset() if served == EVERYTHING else frozenset(served.split(","))


def meet(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether some namespace is served by both; an empty set is all of them."""
    return not one or not other or bool(one & other)


def covers(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether the one serves everything that the other serves."""
    return not one or (bool(other) and one >= other)


@dataclass
class _Rival:
    record: Lease
    until: float  # when the term of its last renewal is over


class Rivals:
    """The other Leases in the namespace of one candidate, and who of their holders it may meet."""

    def __init__(
        self,
        name: str,
        served: str,
        *,
        duration: float,  # of a term that a Lease does not tell
        retry: float,  # seconds between two attempts of a candidate
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._served = served
        self._duration = duration
        self._retry = retry
        self._clock = clock
        self._known: dict[str, _Rival] = {}
        self._rewound: set[str] = set()

    def restored(self) -> None:
        """After a restore from a backup versions begin lower: of each the next word counts."""
        self._rewound = set(self._known)

    def note(self, record: Lease) -> bool:
        """This Lease is there, in this state; whether that is news of one that matters."""
        if record.metadata.name == self._name or not record.is_operators:
            return False
        known = self._known.get(record.metadata.name)
        is_old = known is not None and known.record.metadata.version >= record.metadata.version
        if is_old and record.metadata.name not in self._rewound:
            return False
        self._rewound.discard(record.metadata.name)
        self._known[record.metadata.name] = _Rival(record, self._until(record, known))
        return True

    def _until(self, record: Lease, known: _Rival | None) -> float:
        """The end of its term, counted from when it was renewed before our eyes."""
        if not self._meets(record):
            return float("-inf")
        if record.spec.holder_identity:
            if known is not None and known.record.spec == record.spec:
                return known.until  # somebody else wrote to it
            return self._clock() + (record.spec.lease_duration_seconds or self._duration)
        given_back = known is not None and known.record.spec.holder_identity
        # Its holder's replicas are first: they may be of a version that looks at no other Lease.
        return self._clock() + self._retry if given_back else float("-inf")

    def _meets(self, record: Lease) -> bool:
        return meet(namespaces(self._served), namespaces(self._of(record)))

    def _of(self, record: Lease) -> str:
        """What its holder serves; of one that does not say, the same."""
        return record.metadata.annotations.get(names.ANNOTATION_SERVES, self._served)

    def until(self) -> float:
        """When none of them may be acting any more, if nobody renews."""
        return max((rival.until for rival in self._known.values()), default=float("-inf"))

    def acting(self) -> Lease | None:
        """A Lease whose holder acts for namespaces that this one is to serve."""
        now = self._clock()
        acting = [
            rival.record
            for rival in self._known.values()
            if rival.until > now and rival.record.spec.holder_identity
        ]
        return min(acting, key=lambda record: _rank(record.metadata.name), default=None)

    def elder(self) -> Lease | None:
        """The acting one's Lease, if this one gives way even though it holds its own.

        Two get so far only if one of them does not look at other Leases, as earlier versions, whose
        Lease has the plain name; or if what they serve has been changed by hand.
        """
        acting = self.acting()
        if acting is None or _rank(acting.metadata.name) > _rank(self._name):
            return None
        return acting

    def short(self) -> tuple[Lease, str] | None:
        """The acting one's Lease and what its holder serves, if this one is to serve more."""
        acting = self.acting()
        if acting is None:
            return None
        theirs = self._of(acting)
        if covers(namespaces(theirs), namespaces(self._served)):
            return None
        return acting, theirs


def _rank(name: str) -> tuple[bool, str]:
    return name != names.LEASE_NAME, name
