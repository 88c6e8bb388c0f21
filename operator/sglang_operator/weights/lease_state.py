"""What a trainer does to a pool's weights, as it stands in the Lease ``<pool>-weights``.

A sync is a transaction (explanation/weights.md): begin, renew, commit or abort; one that is not
renewed has aborted.  Sleep and wake go through the same Lease, and so does the operator, which
holds it while it loads the committed weights into engines that came up later.  Operator and
trainers read it by this module, and go from one state to the next by those of ``weights.steps``.

Standard library only: the trainer's client is built on it.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from sglang_operator.api import bounds, names, redaction, texts
from sglang_operator.weights import duration as durations
from sglang_operator.weights import groups_owner as owners
from sglang_operator.weights import instances as runs
from sglang_operator.weights import trail as trails
from sglang_operator.weights import turn as turns
from sglang_operator.weights.groups_owner import GroupsOwner as GroupsOwner
from sglang_operator.weights.instances import MAX_INSTANCES as MAX_INSTANCES
from sglang_operator.weights.times import seconds, stamp
from sglang_operator.weights.trail import Trail
from sglang_operator.weights.turn import Turn

WEIGHTS = "weights"
MEMORY_TAGS = (WEIGHTS, "kv_cache", "cuda_graph")  # SGLang /release_memory_occupation
SLEEP_TAGS = (WEIGHTS, "kv_cache")  # that a trainer releases unless it says otherwise
LEASE_SECONDS = durations.LEASE_SECONDS
_MAX_WOKEN = MAX_INSTANCES * len(MEMORY_TAGS)


class Phase(Enum):
    """Where the weights of a pool stand."""

    IDLE = "Idle"  # nothing is known to have happened, also where one that was lost is made anew
    SYNCING = "Syncing"  # a trainer writes; what engines hold may be half of it
    COMMITTED = "Committed"  # the covered engines hold the version
    ABORTED = "Aborted"  # nobody knows what the engines hold
    SLEEPING = "Sleeping"  # memory is released, or is about to be
    AWAKE = "Awake"  # weights have memory again; they are not back, unless none were committed yet


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """The Lease, read.  Times are seconds since the epoch, 0 where there is none."""

    phase: Phase = Phase.IDLE
    id: str = ""
    holder: str = ""
    epoch: str = ""  # that the transaction covers
    target_version: str = ""  # that is being written
    version: str = ""  # last committed
    instances: frozenset[str] = frozenset()  # that count as covered by the last commit
    torn: frozenset[str] = frozenset()  # a sync began over them, or they released; no commit since
    checkpoint: str = ""  # a path with exactly the committed weights
    intact: bool = False  # nothing was written over the weights that count, and none released
    released: tuple[str, ...] = ()  # SGLang's memory tags, while asleep
    asleep: tuple[str, ...] = ()  # the instances whose memory is released
    recovering: frozenset[str] = frozenset()  # that the holder, an operator, loads the version into
    woken: frozenset[str] = frozenset()  # "instance/tag" of sleepers that have this memory
    unclear: frozenset[str] = frozenset()  # sleepers of which nobody knows whether they do
    shared: bool = False  # several processes write in this sync, and vouch for what they wrote
    wrote: frozenset[str] = frozenset()  # the instances that they have vouched for
    found_whole: bool = False  # as it began, what counts was whole in the engines it is over
    fence: bool = False  # it was ended, and somebody who may still write may not know of it yet
    at_work: bool = False  # a process of the holder may have requests on their way to engines
    releases: bool = False  # any engine may be about to release all of ``released``
    apart: frozenset[str] = frozenset()  # out of service, while the others serve; none: all are
    closing: frozenset[str] = frozenset()  # of those: they alone may be about to (``releases``)
    turn: Turn | None = None  # which GPUs the trainer has; None: it was not told
    begun: float = 0.0
    committed: float = 0.0
    message: str = ""
    acquired: float = 0.0
    renewed: float = 0.0  # by the holder's clock, which may be wrong: see ``expires``
    duration: float = float(LEASE_SECONDS)  # for which others wait; its holder counts on less
    edited_duration: float = field(default=0.0, compare=False)  # that it says since, if another
    transitions: int = 0  # transactions so far
    groups: GroupsOwner | None = None  # None: nobody has said so yet, in this Lease
    trail: Trail = field(default=Trail(), compare=False)  # ``written`` numbers what is written

    @property
    def memory_lost(self) -> bool:
        """Whether the engines sleep, or woke from a sleep, in which they gave up their weights.

        Those of a part that slept alone are not covered any more, and the others have theirs.
        """
        return self.phase in (Phase.SLEEPING, Phase.AWAKE) and not self.intact

    @property
    def initial(self) -> bool:
        """Whether the engines slept and woke with the weights that they were started with.

        Nobody has written others yet, and nothing is under way: all is as before the sleep.
        """
        return self.phase is Phase.AWAKE and self.intact

    @property
    def trainers(self) -> Turn:
        """The GPUs that the trainer has, where engines are on its own; not told: all, asleep."""
        slept = self.phase is Phase.SLEEPING or (self.phase is Phase.AWAKE and self.released)
        return self.turn if self.turn is not None else turns.TRAINER if slept else turns.ENGINES

    @property
    def untouched(self) -> bool:
        """Whether nobody writes into the engines, nor may have since they were whole.

        A Lease that was made in place of a lost one does not know that.
        """
        return self.phase in (Phase.IDLE, Phase.COMMITTED) and not self.fence

    def covers(self, instance: str | None) -> bool:
        """Whether the last commit vouches for this instance, or none was made yet."""
        return instance in self.instances or not (self.version or instance in self.torn)

    @property
    def recovers(self) -> bool:
        """Whether an operator holds the Lease, and loads the committed weights into engines.

        Others, of an earlier version, may leave ``recovering`` as it was when they take the Lease.
        """
        return self.phase is Phase.COMMITTED and bool(self.holder and self.recovering)

    def sleeps(self, instance: str | None) -> frozenset[str]:
        """The tags whose memory this instance has released."""
        if instance not in self._sleepers:
            return frozenset()
        return frozenset(tag for tag in self.released if f"{instance}/{tag}" not in self.woken)

    @functools.cached_property
    def _sleepers(self) -> frozenset[str]:
        """To be looked up for each engine of a pool."""
        return frozenset(self.asleep)

    def may_sleep(self, instance: str | None) -> frozenset[str]:
        """The tags whose memory this instance may have released by the time somebody reads this.

        A sleep that names nobody yet is about to release all of it: of each engine, of those that
        sleep on less too.  What came up since the engines are named is awake.  Where a part is to
        sleep alone, it is about that part.
        """
        if self.apart and not (self.releases and instance in self.closing):
            return self.sleeps(instance)
        if self.releases or not self.asleep:
            return frozenset(self.released)
        return self.sleeps(instance)

    @property
    def named(self) -> "Transaction":
        """The same, where whoever was about to release memory has named nobody, and will not.

        Engines are named before: those that were sleep on what they had released, nobody else does.
        """
        if self.asleep and not self.releases:
            return self
        left = frozenset[str]().union(*map(self.sleeps, self.asleep))
        return replace(
            self,
            released=in_order(left),
            asleep=self.asleep if left else (),
            woken=frozenset(each for each in self.woken if each.split("/")[-1] in left),
            releases=False,
            closing=frozenset(),
        )

    @property
    def serving(self) -> bool:
        """Whether engines serve on while a part of the pool sleeps, or is about to."""
        return self.phase is Phase.SLEEPING and self.intact and bool(self.apart)

    def of(self, instance: str | None) -> "Transaction":
        """What this says of one engine: those that serve on go by what was before the sleep.

        One that gave up its weights, or was written into, has not those that it started with.
        """
        serves = self.serving and instance not in self.apart and not self.sleeps(instance)
        found = self._of_others if serves else self
        return replace(found, intact=False) if found.initial and instance in self.torn else found

    @functools.cached_property
    def _of_others(self) -> "Transaction":
        return replace(
            self,
            phase=Phase.COMMITTED if self.version else Phase.AWAKE,
            released=(),
            asleep=(),
            woken=frozenset(),
            unclear=frozenset(),
            releases=False,
            apart=frozenset(),
            closing=frozenset(),
        )

    def expires(self, seen: float) -> float:
        """When the holder counts as gone, unless it renews before.

        ``seen`` is when this state of the Lease was first seen, by the reader's own clock: clocks
        of different machines are never compared (explanation/kubernetes.md).
        """
        return seen + self.duration

    def held_against(
        self, holder: str, transaction: str, seen: float, now: float, *, shared: bool = False
    ) -> bool:
        """Whether somebody else holds the Lease than ``holder`` in this transaction.

        In a sync every other transaction is somebody else, of the same holder too: an earlier life
        of it, or a second thread, may still write.  What its holder put to sleep it takes on.
        What was aborted under its holder is nobody's, and one whose holder was edited away may
        still be at it.  After a shared sync its own job may begin again, whose other processes do
        write into nothing new before they have learnt of it: in a ``shared`` sync, which they have
        to join.  They would write into what it puts to sleep, resets, or writes alone, as others
        would.  ``seen`` as in ``expires``.
        """
        ours = self.id == transaction or (self.taken_on and not self.at_work)
        joined = shared and self.shared
        own = self.holder == holder and ours and (joined or not self.fenced)
        held = bool(self.holder) or self.vacant
        return held and not own and now <= self.expires(seen)

    @property
    def taken_on(self) -> bool:
        """Whether a later process of the holder goes on with what this says: not with a sync."""
        return self.phase is not Phase.SYNCING

    @property
    def fenced(self) -> bool:
        """Whether a transaction was ended that somebody who may still write does not know of.

        Its holder does not, because another ended it, who stands as the holder then and begins
        nothing by that either; or others do not, who wrote in a shared sync of this holder.
        """
        anew = self.phase is Phase.IDLE and self.fence
        return bool(self.holder) and (self.phase is Phase.ABORTED or anew)

    @property
    def vacant(self) -> bool:
        """Whether something is under way and the Lease does not say by whom: it was edited.

        An operator's load too: its request may be on its way to an engine.  And what was ended for
        another, who may still write: the fence outlasts the name of whoever held it.
        """
        sleeps = self.phase is Phase.SLEEPING
        slept = self.phase is Phase.AWAKE or (sleeps and bool(self.released))
        works = self.phase is Phase.SYNCING or (sleeps and self.at_work)
        loads = self.phase is Phase.COMMITTED and bool(self.recovering)
        ended = self.phase in (Phase.ABORTED, Phase.IDLE) and self.fence
        return not self.holder and (works or (slept and not self.initial) or loads or ended)


def read(lease: Mapping[str, Any]) -> Transaction:
    """The transaction in a Lease object (``coordination.k8s.io/v1``, as JSON).

    Nothing raises: the Lease is written by trainers, and what they write is kept within ``bounds``.
    A phase that is not known counts as Aborted, because then nobody can say what the engines hold.
    """
    notes = lease.get("metadata", {}).get("annotations") or {}
    spec = lease.get("spec") or {}
    phase = _phase(notes.get(names.ANNOTATION_PHASE, ""))
    transaction = _label(notes, names.ANNOTATION_TRANSACTION)
    instances = frozenset(runs.words(notes.get(names.ANNOTATION_INSTANCES, "")))
    torn = runs.expanded(runs.words(notes.get(names.ANNOTATION_TORN, "")), instances)
    # It names its transaction: clients that do not know of it leave it standing in later ones.
    shared = bool(transaction) and _label(notes, names.ANNOTATION_SHARED) == transaction
    wrote = frozenset(runs.words(notes.get(names.ANNOTATION_WROTE, ""))) if shared else frozenset()
    if shared and phase is Phase.COMMITTED:
        instances &= wrote  # whatever the commit says: the others got nothing
    if phase is Phase.COMMITTED:
        torn -= instances  # clients that do not know of it leave it standing
    asleep = runs.words(notes.get(names.ANNOTATION_ASLEEP, ""))
    counted, note = spec.get("leaseDurationSeconds"), notes.get(names.ANNOTATION_DURATION, "")
    duration, edited = durations.read(counted, note, _named(transaction))
    woken = frozenset(runs.words(notes.get(names.ANNOTATION_WOKEN, ""), _MAX_WOKEN))
    # Clients that do not know of it leave it standing.
    unclear = frozenset(runs.words(notes.get(names.ANNOTATION_UNCLEAR, ""))) & frozenset(asleep)
    releases = bool(transaction) and _label(notes, names.ANNOTATION_RELEASES) == transaction
    apart = runs.by(transaction, notes, names.ANNOTATION_APART, asleep)
    closing = runs.by(transaction, notes, names.ANNOTATION_CLOSING, apart)
    return Transaction(
        phase=phase,
        id=transaction,
        holder=bounds.label(spec.get("holderIdentity") or ""),
        epoch=_label(notes, names.ANNOTATION_EPOCH),
        target_version=_label(notes, names.ANNOTATION_TARGET_VERSION),
        version=_label(notes, names.ANNOTATION_VERSION),
        instances=instances,
        torn=torn,
        checkpoint=_path(notes.get(names.ANNOTATION_CHECKPOINT, "")),
        intact=notes.get(names.ANNOTATION_INTACT) == _TRUE,
        released=_tags(notes.get(names.ANNOTATION_RELEASED, "")),
        asleep=asleep,
        recovering=frozenset(runs.words(notes.get(names.ANNOTATION_RECOVERING, ""))),
        woken=woken,
        unclear=unclear,
        shared=shared,
        wrote=wrote,
        found_whole=shared and _label(notes, names.ANNOTATION_FOUND_WHOLE) == transaction,
        fence=notes.get(names.ANNOTATION_FENCE) == _named(transaction),
        at_work=bool(transaction) and _label(notes, names.ANNOTATION_AT_WORK) == transaction,
        releases=releases,
        apart=apart if phase in (Phase.SLEEPING, Phase.SYNCING) else frozenset(),
        closing=closing & apart if releases else frozenset(),
        turn=turns.by(_named(transaction), notes, names.ANNOTATION_TURN),
        begun=seconds(notes.get(names.ANNOTATION_BEGUN)),
        committed=seconds(notes.get(names.ANNOTATION_COMMITTED)),
        message=redaction.in_words(bounds.words(notes.get(names.ANNOTATION_MESSAGE, ""))),
        acquired=seconds(spec.get("acquireTime")),
        renewed=seconds(spec.get("renewTime")),
        duration=duration,
        edited_duration=edited,
        transitions=_count(spec.get("leaseTransitions")),
        groups=owners.read(notes.get(names.ANNOTATION_GROUPS, "")),
        trail=trails.read(
            notes.get(names.ANNOTATION_TRAIL, ""),
            trails.turn(transaction, asleep, woken, unclear),
        ),
    )


def of_phase(
    word: object,
    *,
    released: str = "",
    asleep: str = "",
    woken: str = "",
    unclear: str = "",
    transitions: int = 0,
    trail: Trail | None = None,
    turn: str = "",
) -> Transaction | None:
    """What is known of a Lease of which the phase was kept, and who slept, in its own words.

    None if that was not.
    """
    if not isinstance(word, str) or not word:
        return None
    return Transaction(
        phase=_phase(word),
        released=_tags(released),
        asleep=runs.words(asleep),
        woken=frozenset(runs.words(woken, _MAX_WOKEN)),
        unclear=frozenset(runs.words(unclear)),
        transitions=transitions,
        trail=trail or Trail(),
        turn=turns.read(turn),
    )


def written(lease: Mapping[str, Any], state: Transaction) -> dict[str, Any]:
    """The Lease as it is to be put: this state, and everything else as it was read."""
    if replace(state, renewed=0.0) != replace(read(lease), renewed=0.0):
        says = state != Transaction()  # else it is as if it had just been made
        unclear = state.unclear & {*state.asleep}
        turn = trails.turn(state.id, state.asleep, state.woken, unclear)
        state = replace(state, trail=state.trail.stepped(turn) if says else Trail())
    metadata = dict(lease.get("metadata") or {})
    kept = {k: v for k, v in (metadata.get("annotations") or {}).items() if k not in _ANNOTATIONS}
    own = {key: form(state) for key, form in _ANNOTATIONS.items()}
    metadata["annotations"] = kept | {key: text for key, text in own.items() if text}
    spec = {
        **(lease.get("spec") or {}),
        "holderIdentity": state.holder or None,
        "leaseDurationSeconds": durations.told(state.duration),
        "leaseTransitions": min(bounds.INT32, state.transitions),
        "acquireTime": stamp(state.acquired) or None,
        "renewTime": stamp(state.renewed) or None,
    }
    spec = {key: value for key, value in spec.items() if value is not None}
    return {**lease, "metadata": metadata, "spec": spec}


def patch(lease: Mapping[str, Any], state: Transaction) -> dict[str, Any]:
    """What ``written`` changes of a Lease, as a merge patch: for who does not hold all of it."""
    after = written(lease, state)
    notes, spec = after["metadata"]["annotations"], after["spec"]
    return {
        "metadata": {"annotations": {key: notes.get(key) for key in _ANNOTATIONS}},
        "spec": {key: spec.get(key) for key in _SPEC},
    }


_SPEC = (
    "holderIdentity",
    "leaseDurationSeconds",
    "leaseTransitions",
    "acquireTime",
    "renewTime",
)
_TRUE = "true"
_ANNOTATIONS: Mapping[str, Callable[[Transaction], str]] = {
    names.ANNOTATION_PHASE: lambda t: "" if t.phase is Phase.IDLE else t.phase.value,
    names.ANNOTATION_TRANSACTION: lambda t: t.id,
    names.ANNOTATION_EPOCH: lambda t: t.epoch,
    names.ANNOTATION_TARGET_VERSION: lambda t: t.target_version,
    names.ANNOTATION_VERSION: lambda t: t.version,
    names.ANNOTATION_INSTANCES: lambda t: ",".join(sorted(t.instances)),
    names.ANNOTATION_TORN: lambda t: ",".join(runs.shortened(t.torn, t.instances)),
    names.ANNOTATION_CHECKPOINT: lambda t: t.checkpoint,
    names.ANNOTATION_INTACT: lambda t: _TRUE if t.intact else "",
    names.ANNOTATION_RELEASED: lambda t: ",".join(t.released),
    names.ANNOTATION_ASLEEP: lambda t: ",".join(t.asleep),
    names.ANNOTATION_RECOVERING: lambda t: ",".join(sorted(t.recovering)),
    names.ANNOTATION_WOKEN: lambda t: ",".join(sorted(t.woken)),
    names.ANNOTATION_UNCLEAR: lambda t: ",".join(sorted(t.unclear)),
    names.ANNOTATION_SHARED: lambda t: t.id if t.shared else "",
    names.ANNOTATION_WROTE: lambda t: ",".join(sorted(t.wrote)) if t.shared else "",
    names.ANNOTATION_FOUND_WHOLE: lambda t: t.id if t.shared and t.found_whole else "",
    names.ANNOTATION_FENCE: lambda t: _named(t.id) if t.fence else "",
    names.ANNOTATION_DURATION: lambda t: (
        durations.note(_named(t.id), t.duration) if t.holder or t.vacant else ""
    ),
    names.ANNOTATION_AT_WORK: lambda t: t.id if t.at_work else "",
    names.ANNOTATION_RELEASES: lambda t: t.id if t.releases else "",
    names.ANNOTATION_APART: lambda t: runs.told_by(t.id, t.apart, t.asleep),
    names.ANNOTATION_CLOSING: lambda t: runs.told_by(t.id, t.closing, t.apart),
    names.ANNOTATION_TURN: lambda t: turns.told_by(_named(t.id), t.turn),
    names.ANNOTATION_BEGUN: lambda t: stamp(t.begun),
    names.ANNOTATION_COMMITTED: lambda t: stamp(t.committed),
    names.ANNOTATION_MESSAGE: lambda t: t.message,
    names.ANNOTATION_GROUPS: lambda t: owners.written(t.groups),
    names.ANNOTATION_TRAIL: lambda t: trails.written(t.trail),
}


def _named(transaction: str) -> str:
    """What is of one transaction names it: those who do not know of it leave it standing."""
    return transaction or "unknown"


def _phase(text: str) -> Phase:
    if not text:
        return Phase.IDLE
    try:
        return Phase(text)
    except ValueError:
        return Phase.ABORTED


def _label(notes: Mapping[str, str], annotation: str) -> str:
    return bounds.label(notes.get(annotation, ""))


def _path(text: str) -> str:
    """A path that can exist; nothing for any other."""
    return text if len(text) <= bounds.MAX_PATH and text.isprintable() else ""


def _tags(text: str) -> tuple[str, ...]:
    return tuple(map(bounds.label, runs.words(text)[: bounds.MAX_TAGS]))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def mark(tags: Iterable[str]) -> str:
    """What a pod's closed gate says while the engine's memory of these tags is released."""
    return texts.GATE_SLEEPING.format(released=", ".join(in_order(tags)))


def in_order(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in SGLang's order, then those that it does not know."""
    found = set(tags)
    known = [tag for tag in MEMORY_TAGS if tag in found]
    return (*known, *sorted(found - set(known)))


def marked(message: str) -> frozenset[str] | None:
    """The tags in such a message; None in one that names none, as of operators before."""
    found = _MARK.fullmatch(message)
    return frozenset(found["released"].split(", ")) if found else None


_MARK = re.compile(
    re.escape(texts.GATE_SLEEPING).replace(r"\{released\}", r"(?P<released>[\w, ]+)")
)
