"""What the loop remembers of a pool between two passes: nothing it could not lose.

A restart of the operator begins with an empty memory and comes to decisions that are as right: it
asks the API server once more what it had refused, durations (of a Lease that nobody renews, of
backoffs) begin anew, the failures of a pod that had to go before the next one was made are
forgotten (``handed_on``), and a rollout that waits for the end of a step takes the one that stands
for old (``windows``).
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from sglang_operator.actions import CreatePod, DeletePod
from sglang_operator.api import conditions, names, texts
from sglang_operator.ask.capacity import Holder
from sglang_operator.backoff import Backoff
from sglang_operator.children import kinds, origin, trainer_registry
from sglang_operator.clocks import steady
from sglang_operator.cluster import unseen
from sglang_operator.cluster.outcome import Outcome
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller import conflicts, history
from sglang_operator.controller.claims import Claims
from sglang_operator.controller.meters import PoolMeter
from sglang_operator.controller.requeue import Reason, Requeue
from sglang_operator.controller.rewrites import Rewrites
from sglang_operator.controller.trying import Trial
from sglang_operator.controller.windows import Windows
from sglang_operator.gates import decide
from sglang_operator.kube.errors import ApiError
from sglang_operator.observed import facts
from sglang_operator.observed.model import EngineReport, ObservedChild, ObservedPod, PodEvent
from sglang_operator.observed.wire import CustomResource
from sglang_operator.placement.devices import Pin
from sglang_operator.pool.resolve import EngineFacts, Pool, Refused
from sglang_operator.pool.tuning import Tuning
from sglang_operator.status import stored
from sglang_operator.status.compute import Trouble
from sglang_operator.status.history import Hindrance
from sglang_operator.status.rollout_progress import Progress
from sglang_operator.weights import lease_state, lost_lease
from sglang_operator.weights.lease_state import Transaction

# Seconds between two tries of creates that the API server refused: first and most.
REFUSED_BACKOFF = Backoff(5.0, 300.0)
CONFLICT_BACKOFF = 30.0
# Seconds between two passes while the server is overloaded or away: first and most.
ERROR_BACKOFF = Backoff(0.2, 8.0)
# An outage this short is nobody's business.
ERRORS_BEFORE_TOLD = 4
# Conflicts in a row on a child that are nobody's business.
CONFLICTS_UNTOLD = 2
# A quorum read of the pool is good for this long.
CONFIRMED_SECONDS = 10.0
# Creates that went through say for so long that more of them will.
PROVEN_SECONDS = 10.0
# What selects pods waits until a new pool's pods are made and no more engines than this are yet to
# come up; and no longer than so many seconds.
MANY_COMING = 50
NEW_SECONDS = 30.0
_ANY = PoolKey("", "")
LATEST_REVISIONS = 4
# Engines whose pods vanish within an hour; or twice all of them, if that is more.
FEW_VANISHED = 8


@dataclass
class Failures:
    """Failures in a row of one kind of work against the API server."""

    count: int = 0
    message: str = ""

    def failed(self, error: Exception) -> float:
        """The server is away or overloaded; seconds until the next try."""
        self.message = error.told if isinstance(error, ApiError) else str(error)
        delay = ERROR_BACKOFF.pause(self.count)
        self.count += 1
        return delay

    def succeeded(self) -> None:
        self.count = 0


@dataclass
class Memory:
    """One pool's memory; times are by the steady clock unless said otherwise."""

    uid: names.Uid
    known_since: float = field(default_factory=time.monotonic)  # monotonic
    resolved: Pool | Refused | None = None
    judged: CustomResource | None = None  # the last record of what was resolved
    tuning: Tuning | None = None  # that it was resolved with
    namespace_refused: float = float("-inf")  # when a create last was, because it is deleted
    ignored: tuple[str, ...] = ()  # the spec's fields that mean nothing to an engine
    template: dict[str, object] | None = None
    recorded: set[names.Uid] = field(default_factory=set)
    published_at: float = float("-inf")  # monotonic
    confirmed_at: float = float("-inf")
    roll_called: bool = False  # its pods were read past their stream
    proven_until: float = 0.0  # creates went through and may be taken to go on doing so
    blocked_until: float = 0.0
    refusals: int = 0
    refused: Trouble | None = None
    pods_when_refused: int = 0
    conflicts: dict[tuple[str, str], float] = field(default_factory=dict)
    # Creates without an answer: an engine's next pod might get another name beside that one.
    unsure: dict[str, CreatePod] = field(default_factory=dict)
    spoilt: dict[names.Uid, DeletePod] = field(default_factory=dict)  # pods to be taken back
    # Names that pods hold which are out of our sight: engines' next pods are called otherwise.
    aside: dict[names.EngineName, int] = field(default_factory=dict)
    vanished: int = 0  # engines that went without a word, when that was last looked at
    # That its trainer had, as far as it was known last, and their nodes.
    gpus: Mapping[str, str] = field(default_factory=dict)
    beyond: int = 0  # pods that may hold GPUs of the namespace and are not known one by one
    child_error: str = ""
    child_failing: tuple[str, str] = ("", "")  # kind and name of what that is about
    trial: Trial = field(default_factory=Trial)
    # What kubelet told of pods that nothing else explains: when it was asked, for which life.
    events: dict[names.Uid, tuple[float, int, tuple[PodEvent, ...]]] = field(default_factory=dict)
    asking: asyncio.Task[bool | None] | None = None  # for events
    # Who holds how much of this resource on which node, and until when that is good enough.
    counted: tuple[str, Mapping[str, tuple[Holder, ...]] | None] = ("", None)
    counted_until: float = float("-inf")  # monotonic
    counting: asyncio.Task[bool | None] | None = None
    judging_seconds: float = 0.0  # of reading its spec, in the last pass
    planning_seconds: float = 0.0
    meter: PoolMeter = field(default_factory=PoolMeter)
    acting: Failures = field(default_factory=Failures)
    again: Failures = field(default_factory=Failures)  # passes that got nowhere
    telling: Failures = field(default_factory=Failures)
    gating: Failures = field(default_factory=Failures)
    spares: history.Writing = field(default_factory=history.Writing)  # what pools do without
    rewrites: Rewrites = field(default_factory=Rewrites)
    claims: Claims = field(default_factory=Claims)
    progress: Progress | None = None  # of its rollout, as it was told last
    windows: Windows = field(default_factory=Windows)
    stepped_at: float = float("-inf")  # the last own step in the Lease
    said: Transaction | None = None  # what the weights Lease said last
    # Pods that went before their next ones are made, with the failures that those follow.
    handed_on: Mapping[names.EngineName, ObservedPod] = field(default_factory=dict)
    # What claims to devices had last, by node rank; None: the status has not been read yet.
    pins: Mapping[int, Pin] | None = None
    # What engines of each revision are started with; None: the registry has not been read yet.
    revisions: dict[str, EngineFacts] | None = None
    awaited: decide.TrainerSignal = field(default_factory=decide.TrainerSignal)  # last published

    def waits_for_pods(self, coming: int, *, creating: bool) -> float:
        """Seconds for which what waits for pods still does, with so many engines yet to come up.

        The API server would be kept busy with lists of addresses, written anew at each pod.
        """
        if not creating and coming <= MANY_COMING:
            return 0.0
        return max(0.0, self.known_since + NEW_SECONDS - time.monotonic())

    @property
    def in_doubt(self) -> bool:
        """Whether it is yet to be learnt what came out of creates."""
        return bool(self.unsure or self.spoilt)

    def out_of_sight(self) -> dict[tuple[str, str], ObservedChild]:
        """A Lease of somebody else, without our labels, that was met where the pool's should be."""
        return {
            (kind, name): ObservedChild(
                uid=names.Uid(""), owner=None, body={"metadata": {"name": name}}
            )
            for kind, name in self.conflicts
            if kind == kinds.LEASE.kind
        }

    def last_said(
        self,
        children: Mapping[tuple[str, str], ObservedChild],
        pool: CustomResource | None,
        former: ObservedChild | None = None,
    ) -> Transaction | None:
        """What the weights Lease said last, also before this process began, if that stands.

        ``former``: its state before the present one, where no pass may have seen that.
        """
        if self.said is None:
            self.said = self._told_before(children, pool)
        if former is not None and former.owner == self.uid:
            state = lease_state.read(former.body)
            # One that had been put back before it was lost says less than is known.
            if self.said is None or not lost_lease.is_put_back(state, self.said):
                self.said = state
        return self.said

    def _told_before(
        self, children: Mapping[tuple[str, str], ObservedChild], pool: CustomResource | None
    ) -> Transaction | None:
        if pool is None:
            return None
        told = children.get((kinds.REGISTRY.kind, names.registry_name(pool.metadata.name)))
        said = None
        if told is not None and told.whole and told.owner == self.uid:
            said = trainer_registry.last_said(told.body.get("data") or {})
        return said or stored.said_of(pool.status)

    def last_pins(self, pool: CustomResource | None) -> Mapping[int, Pin]:
        """Which devices the claims of its node ranks had last, also before this process began."""
        if self.pins is None:
            self.pins = stored.pins_of(pool.status) if pool is not None else {}
        return self.pins

    def known_revisions(
        self, children: Mapping[tuple[str, str], ObservedChild], pool: str
    ) -> dict[str, EngineFacts]:
        """What engines were started with, by revision, also before this process began."""
        if self.revisions is None:
            told = children.get((kinds.REGISTRY.kind, names.registry_name(pool)))
            ours = told is not None and told.whole and told.owner == self.uid
            data = told.body.get("data") or {} if told is not None and ours else {}
            self.revisions = trainer_registry.revisions(data)
        return dict(self.revisions)

    def note_revisions(
        self,
        pool: Pool,
        running: Collection[facts.EngineRun],
        reports: Mapping[str, EngineReport] = MappingProxyType({}),
    ) -> None:
        """Engines are started, or were tuned, as the pool is now; the rest is as it was.

        What no pod has is forgotten, but for the latest: their pods may be on their way.
        """
        known = facts.learnt(pool, running, self.revisions or {}, reports)
        now = dict.fromkeys((*sorted(pool.accepted), pool.revision), known)
        before = {k: v for k, v in (self.revisions or {}).items() if k not in now}
        kept = {each.revision for each in running} | set(list(before)[-LATEST_REVISIONS:])
        self.revisions = {k: v for k, v in before.items() if k in kept} | now

    def forget_expired(self, pods: int, now: float) -> None:
        """A pod of the pool went away, or time passed: what was refused may be asked again."""
        if pods < self.pods_when_refused:
            self.blocked_until = 0.0
        self.pods_when_refused = min(self.pods_when_refused, pods)
        self.conflicts = {key: due for key, due in self.conflicts.items() if due > now}

    def try_again(self, requeue: Requeue, decided: float) -> None:
        """What was refused is asked again in its time, also if that came since it was ``decided``.

        What was told rests on it: nothing else wakes the pool.
        """
        requeue.at(Reason.NAME_TAKEN, min(self.conflicts.values(), default=None))
        for reason, when in (
            (Reason.PODS_REFUSED, self.blocked_until),
            (Reason.REVISION_REFUSED, self.trial.until),
            (Reason.NAMESPACE, self.namespace_refused + REFUSED_BACKOFF.most),
        ):
            if when > decided:
                requeue.at(reason, when)

    def learn(self, outcome: Outcome, pods: int, now: float, *, complete: bool = False) -> None:
        """Take in what came of a batch of pod actions.

        ``complete``: no pod is missing, so what was refused is of no account any more.
        """
        self.note_conflicts(outcome, now)
        self.unsure |= outcome.unsure
        self.spoilt |= outcome.spoilt
        self.aside |= outcome.aside
        if outcome.stop:
            self.proven_until = 0.0
        elif outcome.created:
            self.proven_until = now + PROVEN_SECONDS
        self.heed(*(error for *_, error in outcome.rejected))
        if outcome.quota or outcome.rejected:
            self._refuse(outcome, pods, now)
        elif outcome.created or complete:
            self.refusals, self.refused, self.blocked_until = 0, None, 0.0

    def note_conflicts(self, outcome: Outcome, now: float) -> None:
        """These names are somebody else's; they are asked for again after a while."""
        for conflict in outcome.conflicts:
            self.conflicts[conflict] = now + CONFLICT_BACKOFF

    def learn_of_spares(self, outcome: Outcome, requeue: Requeue) -> None:
        """Take in what came of those that pools do without."""
        self.note_conflicts(outcome, steady())
        self.heed(outcome.failed)
        self.spares.learn(outcome, steady())
        if outcome.failed is not None:
            requeue.at(Reason.CHILDREN_FAILED, self.spares.until)

    def unstored(
        self, foreign: Iterable[tuple[str, str]], wanted: Collection[tuple[str, str]], key: PoolKey
    ) -> Hindrance | None:
        """What keeps revisions from being stored.

        ``foreign`` are objects that stand in the way; ``wanted`` is what there should be.
        """
        taken = sorted({*self.conflicts, *foreign}.intersection(wanted))
        return self.spares.hindrance(taken, self.rewrites, key.namespace, key.name)

    def learn_of_children(self, outcome: Outcome, requeue: Requeue) -> bool:
        """Take in what came of the other children; whether all of them could be written."""
        error = outcome.failed
        self.child_error, self.child_failing = "", outcome.failing
        if error is None:
            return True
        self.heed(error)
        requeue.after(Reason.CHILDREN_FAILED, self.telling.failed(error))
        # A conflict is nothing to tell, unless it stays: then a trainer lacks the registry.
        if isinstance(error, ApiError) and (
            error.status not in (404, 409) or self.telling.count > CONFLICTS_UNTOLD
        ):
            self.child_error = error.told
        return False

    def heed(self, *errors: Exception | None) -> None:
        """Take in that the namespace is being deleted, if one of these says so."""
        if any(isinstance(error, ApiError) and error.namespace_ends for error in errors):
            self.namespace_refused = steady()

    def namespace_ends(self, now: float) -> bool:
        """Whether the namespace was seen to be on its way out; asked again after a while."""
        return now < self.namespace_refused + REFUSED_BACKOFF.most

    def _refuse(self, outcome: Outcome, pods: int, now: float) -> None:
        delay = REFUSED_BACKOFF.pause(self.refusals)
        self.refusals += 1
        self.blocked_until = now + delay
        self.pods_when_refused = pods
        when = texts.TRY_AGAIN.format(seconds=int(REFUSED_BACKOFF.most))
        if outcome.quota:
            kind = kinds.several(outcome.over_quota)
            message = texts.QUOTA_EXCEEDED.format(kind=kind, message=outcome.quota.told, when=when)
            self.refused = Trouble(reason=conditions.QUOTA_EXCEEDED, message=message)
            return
        kind, name, error = outcome.rejected[0]
        said = error.told
        if isinstance(self.resolved, Pool) and kind == kinds.POD:
            said = origin.message(self.resolved, said)
        message = texts.CREATE_REJECTED.format(
            kind=kinds.single(kind), name=name, message=said, when=when
        )
        self.refused = Trouble(reason=conditions.POD_REJECTED, message=message, stalled=True)

    def note_vanished(self, count: int, engines: int, now: float) -> None:
        """Engines that vanish again and again are made more and more slowly: they may live on."""
        more, self.vanished = count > self.vanished, count
        if not more or count <= max(FEW_VANISHED, 2 * engines):
            return
        over = count - max(FEW_VANISHED, 2 * engines)
        delay = REFUSED_BACKOFF.pause(over // max(engines, 1))
        self.blocked_until = max(self.blocked_until, now + delay)

    def troubles(
        self,
        foreign: Iterable[tuple[str, str]] = (),
        key: PoolKey = _ANY,
        crowded: Mapping[names.EngineName, Sequence[str]] = MappingProxyType({}),
        leaving: str = "",
    ) -> list[Trouble]:
        """What keeps plans from being carried out, the worst first.

        ``foreign`` are objects that stand in the way and are seen all the time; ``crowded`` are
        engines of which several pods stand aside.
        """
        if leaving:
            return [Trouble(reason=conditions.TERMINATING, message=leaving)]
        told = []
        taken = sorted({*self.conflicts, *foreign})
        if any(not kinds.is_spare(kind) for kind, _ in taken):
            message = conflicts.message(taken, key.namespace, key.name)
            told.append(Trouble(reason=conditions.NAME_CONFLICT, message=message, stalled=True))
        if self.vanished > FEW_VANISHED and self.blocked_until > steady():
            message = texts.PODS_VANISH.format(
                count=self.vanished,
                label=names.LABEL_MANAGED_BY,
                selector=names.selector_text(key.name),
            )
            told.append(Trouble(reason=conditions.POD_REJECTED, message=message))
        if self.beyond:
            message = texts.PODS_BEYOND.format(most=unseen.MOST, label=names.LABEL_MANAGED_BY)
            told.append(Trouble(reason=conditions.POD_REJECTED, message=message))
        if crowded:
            engine, pods = min(crowded.items())
            message = texts.LABELS_TAKEN.format(
                count=len(pods),
                engine=engine,
                pods=", ".join(sorted(pods)[:3]),
                labels=" and ".join(names.serving_selector("")),
            )
            told.append(Trouble(reason=conditions.POD_REJECTED, message=message, stalled=True))
        pool = self.resolved if isinstance(self.resolved, Pool) else None
        told += filter(None, (self.refused, self.trial.trouble(pool)))
        if self.child_error:
            when = texts.TRY_AGAIN.format(seconds=int(ERROR_BACKOFF.most))
            message = _child_refused(*self.child_failing, self.child_error, when)
            told.append(Trouble(reason=conditions.CHILD_REFUSED, message=message))
        if again := self.rewrites.worst():
            (kind, name), times = again
            message = texts.CHANGED_BACK.format(kind=kind.lower(), name=name, times=times)
            told.append(Trouble(reason=conditions.CHANGED_BACK, message=message))
        for work in (self.gating, self.acting):
            if work.count >= ERRORS_BEFORE_TOLD:
                when = texts.TRY_AGAIN.format(seconds=int(ERROR_BACKOFF.most))
                message = texts.API_ERROR.format(message=work.message, when=when)
                told.append(Trouble(reason=conditions.API_ERROR, message=message))
        return sorted(told, key=lambda trouble: not trouble.stalled)


def _child_refused(kind: str, name: str, said: str, when: str) -> str:
    if kinds.is_of_gang(kind):
        return texts.GROUP_REFUSED.format(kind=kind, name=name, message=said, when=when)
    return texts.CHILD_REFUSED.format(kinds=kinds.in_words(), message=said, when=when)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over one pool: which, as it was read, what is remembered, and who wants another."""

    key: PoolKey
    record: CustomResource
    memory: Memory
    requeue: Requeue = field(default_factory=Requeue)
