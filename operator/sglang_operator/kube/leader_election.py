"""Who of several operators writes: a Lease, held by one (explanation/kubernetes.md).

Every replica keeps its stores warm; the holder alone writes, and asks ``holds`` before each write.
The fence is the holder's own steady clock, counted from *before* its last successful renewal
and shorter than what others wait: so a process that was stopped and goes on finds its fence down.
Renewals of others are noticed by a changed record, never by comparing clocks.

Nor does it write beside the holder of another Lease of its namespace that serves some of the same
namespaces: who took a Lease looks at the others before it goes on.

Nothing correct rests on this: names, UIDs and preconditions keep two writers harmless.  It keeps
them from doing the work twice.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeGuard

import msgspec
import orjson

from sglang_operator import supervision
from sglang_operator.api import names, texts
from sglang_operator.clocks import steady
from sglang_operator.kube import leaders, paths
from sglang_operator.kube.client import (
    ApiClient,
    Lane,
)
from sglang_operator.kube.errors import (
    ApiError,
    ApiUnreachableError,
)
from sglang_operator.kube.leaders import Lease, Leases, LeaseSpec, Rivals
from sglang_operator.observed import wire

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Seconds.  A holder that cannot renew gives up well before others may take over."""

    duration: float = 15.0  # others wait so long after the last renewal they saw
    deadline: float = 10.0  # the holder counts on its last renewal for so long
    retry: float = 2.0


_decoder = msgspec.json.Decoder(Lease)
_list_decoder = msgspec.json.Decoder(Leases)
# Of a release that is given other namespaces the old copies serve on while the new ones start.
APART_SECONDS = 180.0


class Elector:
    """One candidate.  ``run`` returns when the Lease was held and is lost."""

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        serves: Sequence[str] = (),  # the namespaces, or all if there are none
        terms: Terms | None = None,
        clock: Callable[[], float] = steady,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._serves = leaders.serves(serves)
        self._apart_since = float("inf")
        self._terms = terms or Terms()
        self._clock = clock
        self._rivals = Rivals(
            name,
            self._serves,
            duration=self._terms.duration,
            retry=self._terms.retry,
            clock=clock,
        )
        self._seen: Lease | None = None
        self._seen_at = float("-inf")  # when the record was seen to change
        self._rewound = False  # versions begin lower than that of the record
        self._others_until = float("-inf")  # when the term of another's last renewal is over
        self._renewed_at = float("-inf")  # before the last renewal was sent
        self._holding = False
        self._news = asyncio.Event()
        self._lost = asyncio.Event()
        self.acquired = asyncio.Event()
        self.elected = 0  # the version of the Lease by which it was acquired

    @property
    def name(self) -> str:
        """The Lease's."""
        return self._name

    def holds(self) -> bool:
        """Whether this process may write at this moment: the fence.

        Down while there is no Lease that anybody could hold.
        """
        return self._current() and self._seen is not None

    def _current(self) -> bool:
        return self._holding and self._clock() < self._renewed_at + self._terms.deadline

    def apart(self) -> str:
        """That who acts in its place serves other namespaces, where that has been so for long.

        Such copies are no replicas of each other: while one acts, what only the other is to serve
        is served by nobody.
        """
        is_long = self._clock() >= self._apart_since + APART_SECONDS
        return self._difference() if is_long else ""

    def _difference(self) -> str:
        """How what is served differs from what this one is to serve; empty if it does not.

        One that does not say what it serves, as earlier versions, is taken for a replica.
        """
        if self._holding:
            return ""
        if self._is_anothers(self._seen):
            theirs = self._seen.metadata.annotations.get(names.ANNOTATION_SERVES, self._serves)
            if theirs != self._serves:
                told = self._told(texts.HOLDER_SERVES_OTHERS, self._seen, theirs)
                return f"{told}; {texts.DO_ONE_LEASE_EACH}"
        short = self._rivals.short()
        if short is None:
            return ""
        told = self._told(texts.RIVAL_SERVES_OTHERS, *short)
        return f"{told}; {texts.DO_ONE_OPERATOR}"

    def _is_anothers(self, record: Lease | None) -> TypeGuard[Lease]:
        return record is not None and record.spec.holder_identity not in ("", self._identity)

    def _told(self, text: str, record: Lease, theirs: str) -> str:
        return text.format(
            namespace=self._namespace,
            name=record.metadata.name,
            holder=record.spec.holder_identity,
            theirs=_called(theirs),
            own=_called(self._serves),
        )

    # --- what the informer of Leases tells

    def replace(
        self, scope: str, records: list[Lease], version: int, unread: Sequence[wire.Meta] = ()
    ) -> None:
        for record in records:
            self.put(record)

    def restored(self) -> None:
        """After a restore from a backup versions begin lower: the next word counts."""
        self._rewound = True
        self._rivals.restored()

    def put(self, record: Lease) -> None:
        """The Lease changed: a standby may have its turn."""
        self._note(record)

    def drop(self, record: Lease) -> None:
        """Somebody deleted the Lease: it is made again."""
        if record.metadata.name == self._name:
            self._seen = None
            self._news.set()
            self._lost.set()

    def _note(self, record: Lease) -> None:
        if record.metadata.name != self._name:
            self._note_other(record)
            return
        known = self._seen
        if known is None or self._rewound or known.metadata.version < record.metadata.version:
            self._see(record)
            self._news.set()

    def _note_other(self, record: Lease) -> None:
        """Of another Lease of operators: a standby may have its turn, or a holder has to go."""
        if not self._rivals.note(record):
            return
        self._news.set()
        self._mind_difference()
        elder = self._rivals.elder() if self._holding else None
        if elder is not None:
            self._holding = False
            self._lost.set()
            holder, name = elder.spec.holder_identity, elder.metadata.name
            log.error("%s holds the Lease %s, and serves the same namespaces", holder, name)

    def _see(self, record: Lease) -> None:
        self._seen, self._seen_at, self._rewound = record, self._clock(), False
        other = self._is_anothers(record)
        self._others_until = self._seen_at + self._terms.duration if other else float("-inf")
        self._mind_difference()

    def _mind_difference(self) -> None:
        difference = self._difference()
        if not difference:
            self._apart_since = float("inf")
        elif self._apart_since == float("inf"):
            self._apart_since = self._clock()
            log.error("%s", difference)

    # --- the loop

    async def run(self) -> None:
        """Take the Lease when it is free, keep it, and return once it is lost."""
        while True:
            self._news.clear()
            self._lost.clear()
            await self._try()
            if self._holding and not self._current():
                self._holding = False
                log.error("the Lease %s could not be renewed in time", self._name)
                return
            if self.acquired.is_set() and not self._holding:
                log.error("the Lease %s was taken by another", self._name)
                return
            await self._pause()

    async def _pause(self) -> None:
        """The holder renews by the clock; a standby also wakes for news or when the term ends."""
        terms = self._terms
        wait = terms.retry * random.uniform(0.8, 1.2)
        wakes = self._lost if self._holding else self._news
        if not self._holding and not self._free():
            # Two that take Leases of their own at one moment give them back, and would for ever.
            jitter = terms.retry * random.uniform(0.0, 0.2)
            wait = max(0.05, self._free_at() - self._clock()) + jitter
        try:
            await asyncio.wait_for(wakes.wait(), wait)
        except TimeoutError:
            return

    async def _try(self) -> None:
        """One attempt to take or renew; what goes wrong is tried again."""
        begun = self._clock()
        try:
            if self._seen is None:
                await self._read_or_create(begun)
            elif self._free():
                await self._write(begun, self._record(self._identity))
            elif not self._holding and self._seen.spec.holder_identity == self._identity:
                await self._write(begun, self._record(""))  # taken, but another acts
        except ApiError as error:
            if error.status == 409:
                await self._read()
            elif error.missing:
                self._seen = None
            else:
                log.warning("Lease %s: %s", self._name, error)
        except ApiUnreachableError as error:
            log.warning("Lease %s: %s", self._name, error)
        except Exception as error:
            # Tried again for as long as the term lasts; then the holder ends, as after any other.
            supervision.failed("election", error)

    def _free(self) -> bool:
        return self._clock() >= self._free_at()

    def _free_at(self) -> float:
        """When this one may take the Lease if nobody renews; who holds it may renew."""
        if self._holding:
            return self._others_until
        return max(self._others_until, self._rivals.until())

    def _timeout(self) -> float:
        """No call may outlast the time in which its answer is of use.

        A holder waits for a slow API server, but keeps time for a second call on a fresh
        connection: half of what is left for each.
        """
        if not self._holding:
            return self._terms.retry
        left = self._renewed_at + self._terms.deadline - self._clock()
        return max(0.1, min(left, max(self._terms.retry, left / 2)))

    async def _read_or_create(self, begun: float) -> None:
        """A Lease that somebody deleted is its holder's to make again, until its term is over:
        it may be in the middle of a write.
        """
        await self._read()
        if self._seen is not None or not self._free():
            return
        body = self._body(self._record(self._identity))
        answer = await self._client.request(
            "POST",
            paths.leases(self._namespace),
            body=body,
            timeout=self._timeout(),
            fenced=False,
            lane=Lane.LEADER,
        )
        await self._took(begun, _decoder.decode(answer))

    async def _read(self) -> None:
        try:
            answer = await self._client.request(
                "GET",
                paths.lease(self._namespace, self._name),
                timeout=self._timeout(),
                lane=Lane.LEADER,
            )
        except ApiError as error:
            if not error.missing:
                raise
            self._seen = None
            return
        record = _decoder.decode(answer)
        if self._seen and record.metadata.version != self._seen.metadata.version:
            self._see(record)  # what is read is the last word, whatever its version
        self._note(record)
        if self._seen and self._seen.spec.holder_identity != self._identity:
            self._holding = False

    async def _write(self, begun: float, spec: LeaseSpec) -> None:
        """Replace exactly the version that was seen: who is later gets a conflict."""
        answer = await self._client.request(
            "PUT",
            paths.lease(self._namespace, self._name),
            body=self._body(spec),
            timeout=self._timeout(),
            fenced=False,
            lane=Lane.LEADER,
        )
        await self._took(begun, _decoder.decode(answer))

    async def _took(self, begun: float, record: Lease) -> None:
        self._see(record)
        is_own = record.spec.holder_identity == self._identity
        if is_own and not self.acquired.is_set():
            await self._look_around()
            if self._rivals.acting() is not None:
                # The other one may have looked before this one wrote.
                await self._write(begun, self._record(""))
                return
        self._holding = is_own
        if self._holding:
            self._renewed_at = begun
            if not self.acquired.is_set():
                log.info("holding the Lease %s as %s", self._name, self._identity)
                self.elected = record.metadata.version
            self.acquired.set()
            self._mind_difference()

    async def _look_around(self) -> None:
        """See the other Leases as they are now: of two who took one each, one sees the other."""
        answer = await self._client.request(
            "GET",
            paths.leases(self._namespace),
            params={"labelSelector": names.NO_POOLS_OWN},
            timeout=self._timeout(),
            lane=Lane.LEADER,
        )
        for record in _list_decoder.decode(answer).items:
            if record.metadata.name != self._name:
                self._note_other(record)

    def _record(self, holder: str) -> LeaseSpec:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = self._seen.spec if self._seen else LeaseSpec()
        same = before.holder_identity == holder
        return LeaseSpec(
            holder_identity=holder,
            lease_duration_seconds=int(self._terms.duration) or 1,
            acquire_time=before.acquire_time if same else now,
            renew_time=now,
            lease_transitions=before.lease_transitions + (0 if same else 1),
        )

    def _body(self, spec: LeaseSpec) -> bytes:
        metadata: dict[str, object] = {
            "name": self._name,
            "namespace": self._namespace,
            "annotations": {names.ANNOTATION_SERVES: self._serves},
        }
        if self._seen is not None:
            metadata["resourceVersion"] = self._seen.metadata.resource_version
        return orjson.dumps(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": msgspec.to_builtins(spec),
            }
        )

    async def release(self) -> None:
        """Give the Lease back, so that a standby goes on at once.  Call when nothing writes."""
        if not self.holds():
            return
        self._holding = False
        try:
            await self._write(self._clock(), self._record(""))
        except (ApiError, ApiUnreachableError) as error:
            log.warning("Lease %s not given back: %s", self._name, error)


def _called(serves: str) -> str:
    return texts.ALL_NAMESPACES if serves == leaders.EVERYTHING else serves.replace(",", ", ")
