"""What was created and deleted, object by object, and whose it was: the differential oracle.

A fault may cost requests.  It must not cost pods: an engine is created and deleted exactly as
often as in a run without faults, and no write ever reaches an object of somebody else.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from sglang_operator.testing.audit import AuditEvent
from sglang_operator.testing.faults.lives import PodLife
from sglang_operator.testing.faults.monitor import Violation
from sglang_operator.testing.faults.traffic import Write

# What pools have in their namespace.  Leases are left to trainers, and Events are of nobody.
OF_POOLS = ("pods", "services", "configmaps", "poddisruptionbudgets", "controllerrevisions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Creates and deletes of each engine's pods, as the API server saw them."""

    creates: Mapping[str, int]
    deletes: Mapping[str, int]

    @classmethod
    def of(cls, pods: Iterable[PodLife]) -> Ledger:
        """The ledger of these pods' lives."""
        pods = list(pods)
        return cls(
            creates=Counter(pod.engine for pod in pods),
            deletes=Counter(pod.engine for pod in pods if pod.deleting is not None),
        )

    def since(self, before: Ledger) -> Ledger:
        """What has been added to ``before``."""
        return Ledger(
            creates=Counter(self.creates) - Counter(before.creates),
            deletes=Counter(self.deletes) - Counter(before.deletes),
        )

    def without(self, engines: Collection[str]) -> Ledger:
        """The ledger of the other engines."""
        return Ledger(
            creates={e: n for e, n in self.creates.items() if e not in engines},
            deletes={e: n for e, n in self.deletes.items() if e not in engines},
        )

    def differences(self, reference: Ledger) -> list[str]:
        """Where this differs from the run without faults."""
        return [
            *_differences("created", self.creates, reference.creates),
            *_differences("deleted", self.deletes, reference.deletes),
        ]


def _differences(what: str, found: Mapping[str, int], wanted: Mapping[str, int]) -> Iterator[str]:
    for engine in sorted({*found, *wanted}):
        times, right = found.get(engine, 0), wanted.get(engine, 0)
        if times != right:
            yield f"{engine} was {what} {times} times, {right} without faults"


def foreign_writes(writes: Iterable[Write], pools: Mapping[str, str]) -> list[Violation]:
    """Successful writes on objects that are not of the pool (I3).

    ``pools`` has the name of each pool by its UID, of those that were deleted too.
    """
    found = []
    for write in writes:
        request = write.request
        if request.resource not in OF_POOLS or not 200 <= write.status < 300:
            continue
        if write.owner not in pools:
            what = f"{request}: the object belongs to {write.owner or 'nobody'}"
            found.append(Violation(invariant="I3", namespace=request.namespace, what=what))
    return found


def removed_unasked(events: Iterable[AuditEvent], namespace: str, by: str) -> set[str]:
    """The pods that the user ``by`` deleted when nobody else had since they were made."""
    asked, taken = set[str](), set[str]()
    for event in events:
        whose = (event.resource, event.subresource, event.namespace)
        if whose != ("pods", "", namespace) or not 200 <= event.code < 300:
            continue
        if event.verb == "create":
            asked.discard(event.name)
        elif event.verb == "delete" and event.user != by:
            asked.add(event.name)
        elif event.verb == "delete" and event.name not in asked:
            taken.add(event.name)
    return taken
