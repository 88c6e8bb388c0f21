"""What was seen: one frozen snapshot of a pool's surroundings, read once for each pass.

``cluster`` fills it.  Times at which we saw something are by the clock that nobody sets
(``clocks.steady``); only with them is the present compared.  ``ObservedChild.seen`` alone is by the
wall clock of the pass, made for it from a time by the other.  Stamps are seconds since the epoch by
the clocks of others, which may be wrong: they are told, and compared with others of the same clock.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from sglang_operator.api import names
from sglang_operator.api.names import EngineName, Uid, weights_lease_name
from sglang_operator.engine import diagnosis
from sglang_operator.engine.diagnosis import Diagnosis, Numbers, Reading
from sglang_operator.memory.cards import Card
from sglang_operator.observed.moment import NO_STEPS, Steps
from sglang_operator.observed.silence import Silence, Uncounted
from sglang_operator.placement.devices import Inventory, Pin
from sglang_operator.placement.seats import Claim, TrainerPod
from sglang_operator.pool.model import EngineFacts
from sglang_operator.scheduling.base import Waiting
from sglang_operator.weights.lease_state import Transaction

INSTANCE_DIGITS = 8
_DONE = ("Failed", "Succeeded")


@dataclass(frozen=True, kw_only=True, slots=True)
class Termination:
    """How the engine container ended, as kubelet told it."""

    exit_code: int
    reason: str
    message: str
    finished: float
    started: float = 0.0
    _notes: "_Notes" = field(
        init=False, compare=False, repr=False, default_factory=lambda: _Notes()
    )

    @property
    def is_read(self) -> bool:
        """Whether what it says has been read: that takes long, and is done once."""
        return self._notes.reading is not None or not self.message

    @property
    def reading(self) -> Reading:
        """What it says."""
        if self._notes.reading is None:
            self._notes.reading = diagnosis.read(self.message)
        return self._notes.reading

    def told(self, numbers: Numbers) -> Diagnosis:
        """What the engine died of, told with these numbers of its pool."""
        if self._notes.told is None or self._notes.told[0] != numbers:
            code = self.exit_code if self.exit_code >= 0 else None
            self._notes.told = numbers, self.reading.diagnosis(code, self.reason, numbers)
        return self._notes.told[1]


@dataclass(kw_only=True, slots=True)
class _Notes:
    """What was made of an end, kept with it: each pass asks for it several times."""

    reading: Reading | None = None
    told: tuple[Numbers, Diagnosis] | None = None


class ContainerKind(Enum):
    """What a container is to the engine's pod."""

    INIT = "init container"
    NATIVE_SIDECAR = "native sidecar"  # an init container that runs on
    SIDECAR = "container"


class Sightings(NamedTuple):
    """When we saw something of a pod: by the steady clock, 0 if we have not."""

    first: float = 0.0  # the pod
    placed: float = 0.0  # that it is on its node
    due: float = 0.0  # when the grace of its deletion is over, by what we saw of it
    going: float = 0.0  # that it is deleted
    bereft: float = 0.0  # that another of its engine's pods was deleted, of those that are gone
    headless: float = 0.0  # that its engine's leader is gone, and had run: this one may have met it
    ended: float = 0.0
    idle: float = 0.0  # its engine's container for the last time not to run, before it did
    alive: float = 0.0  # since when that container is seen to run
    most: float = 0.0  # seconds for which one that has ended can have run, by what we saw


@dataclass(frozen=True, kw_only=True, slots=True)
class Companion:
    """A container that somebody else put into the pod, and that is not as it should be."""

    name: str
    kind: ContainerKind
    ready: bool = False
    runs: bool = False
    since: float = 0.0  # that it runs: a stamp
    seen: float = field(compare=False, default=0.0)  # since when we see it run
    waiting_reason: str = ""
    waiting_message: str = ""
    termination: Termination | None = None
    last_termination: Termination | None = None
    over: bool = False  # it ended, and is not started again

    @property
    def well(self) -> bool:
        """As it should be: an init container has done its work, any other runs and is ready."""
        if self.kind is ContainerKind.INIT:
            return self.termination is not None and self.termination.exit_code == 0
        return self.runs and self.ready

    @property
    def fatal(self) -> bool:
        """Without it the pod can never be Ready, and it is not started again."""
        return self.over and not self.well


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A pod's readiness gate, as the operator last set it."""

    is_open: bool
    version: str = ""  # of the weights, while it is open
    reason: str = ""
    # SGLang's memory tags, while it is closed because the engine sleeps; None: it names none
    released: frozenset[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PodEvent:
    """What kubelet or scheduler told of a pod in an Event."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedPod:
    """One engine pod of the pool."""

    name: str
    uid: Uid
    # A precondition of deletes, and of moves of the gate.  It is not compared: kubelets change it
    # all the time.
    resource_version: int = field(compare=False)
    engine: EngineName
    attempt: int
    revision: str
    nodes: int = 1  # that its engine spans: so many pods live and die with it, itself included
    node_rank: int = 0  # its place among them; the first is the leader
    devices: tuple[int, ...] = ()
    start: str = ""  # the group that it starts in, where that is of other engines too
    slot: str = ""  # the mark of its seat, as it was made (``placement.seats``)
    gpus_seen: tuple[str, ...] = ()  # UUIDs that it was given by name, uncounted
    failures: int = 0  # failures in a row that led to this attempt
    startup_failures: int = 0  # those of them before the engine was up, all for this reason
    startup_reason: str = ""
    node: str = ""
    phase: str = "Pending"
    reason: str = ""  # of the pod as a whole, e.g. Evicted
    message: str = ""
    created: float = 0.0  # a stamp, as is each time but those that were seen
    seen: Sightings = field(compare=False, default=Sightings())
    deleting: bool = False
    deletion_asked: float = 0.0
    deletion_due: float = 0.0  # when its grace is over
    # Whether it ended before its deletion; None: nobody saw it.
    ended_first: bool | None = field(compare=False, default=None)
    over: bool = False  # the engine's container ended, and kubelet does not start it again
    companions: tuple[Companion, ...] = ()  # containers beside the engine that are not well
    engine_ready: bool = False  # the engine's container, whatever stands beside it
    engine_runs: bool = False
    answered: bool = False  # this container of the engine was seen to be ready
    started: bool = False  # this container of the engine has passed its startup probe
    ended_at: float = 0.0  # when it was seen to end, bounded by clocks of the control plane
    containers_ready: bool = False
    containers_ready_changed: float = 0.0
    ready: bool = False
    keeps_images: bool = False  # what its vision tower has made of them, whatever the weights
    gated: bool = False  # it is not Ready before its gate is open
    gate: Gate | None = None  # None: never set, or it has none
    unschedulable: str = ""  # the scheduler's message
    scheduling: str = ""  # True, or the reason why not; empty: no scheduler has looked at it
    scheduling_gates: tuple[str, ...] = ()
    queue: Waiting | None = None  # in which it waits, or by which it came in
    queue_seen: bool = False  # whether whoever lets it in has seen it
    scheduler: str = ""
    has_sandbox: bool = False  # with its network, so that containers can start
    memory_limit: str = ""  # of the engine's container, whoever set it
    disruption: str = ""  # reason of DisruptionTarget while True
    waiting_reason: str = ""
    waiting_message: str = ""
    termination: Termination | None = None
    last_termination: Termination | None = None
    restarts: int = 0
    container_id: str = ""
    # That of the container which runs as far as is known: kubelet may tell of none for a while.
    last_container_id: str = field(compare=False, default="")
    ip: str = ""
    limits: tuple[tuple[str, int], ...] = ()  # extended resources that its engine holds: GPUs
    # Latest first; asked for only where nothing else explains its state.
    events: tuple[PodEvent, ...] = ()
    group: str = ""  # by which KAI's scheduler knows it, where that is told
    # What follows from the others.  Each pass asks for it several times, of thousands of pods, so
    # it is computed when the pod is seen.
    # One life of the engine: eight hexadecimal digits; None while there is no container.
    instance: str | None = field(init=False, compare=False, default=None)
    # The engine will never run again in this pod.  Succeeded is a failure too.  Its life is its
    # container's: the phase follows late, and never while another container of the pod runs.
    ended: bool = field(init=False, compare=False, default=False)
    # A process may run in it: a status that is not there is no end of one.
    may_run: bool = field(init=False, compare=False, default=False)

    def __post_init__(self) -> None:
        put = partial(object.__setattr__, self)
        if self.container_id:
            put("instance", _instance(self.uid, self.container_id))
            put("last_container_id", self.container_id)
        over = self.over or self.phase in _DONE
        if over or (self.companions and any(one.fatal for one in self.companions)):
            put("ended", True)
        elif self.last_container_id or self.phase == "Running":
            put("may_run", True)

    @property
    def last_instance(self) -> str | None:
        """The life that may go on though kubelet tells of no container; else as ``instance``."""
        if self.container_id or not self.last_container_id:
            return self.instance
        return _instance(self.uid, self.last_container_id)

    @property
    def out_of_sight(self) -> bool:
        """Whether kubelet tells of no container where one ran, as after a fault of its own."""
        return not self.ended and not self.container_id and bool(self.last_container_id)

    @property
    def ran(self) -> bool:
        """Whether its engine's container was ever started, as far as is known."""
        return self.engine_runs or self.ended or bool(self.last_container_id or self.restarts)

    @property
    def terminations(self) -> Sequence[Termination]:
        """Every end that the pod shows, its companions' too."""
        if self.termination is self.last_termination is None and not self.companions:
            return ()
        own = (self.termination, self.last_termination)
        beside = ((one.termination, one.last_termination) for one in self.companions)
        return tuple(end for ends in (own, *beside) for end in ends if end is not None)

    @property
    def is_queued(self) -> bool:
        """Whether it waits in its queue, and no scheduler may look at it before it is let in."""
        if self.queue is None or self.node:
            return False
        return any(gate.startswith(names.KUEUE_PREFIX) for gate in self.scheduling_gates)

    def lacks(self, resource: str = "") -> bool:
        """Whether the scheduler finds too little of this, or of anything, on nodes.

        A taint by the name of a resource is none of it.
        """
        return f"Insufficient {resource}" in self.unschedulable

    @property
    def finds_no_node(self) -> bool:
        """Whether the scheduler has looked for a node for it, and found none."""
        return bool(self.unschedulable) and not self.node and not self.scheduling_gates

    @property
    def let_in(self) -> bool:
        """Whether kubelet says Ready of it once all of its containers are."""
        return not self.gated or (self.gate is not None and self.gate.is_open)

    @property
    def reachable(self) -> bool:
        """Whether clients reach it, as far as it is for the weights: its gate is open.

        A pod without a gate serves as soon as it is ready; one whose gate was never set is not.
        """
        if self.ended or self.deleting:
            return False
        return self.gate.is_open if self.gate is not None else self.ready

    def gpus(self, resource: str, otherwise: int) -> int:
        """The GPUs that it asks for, counted by this resource; ``otherwise``: it does not tell."""
        return dict(self.limits).get(resource) or len(self.devices) or otherwise

    @property
    def holds_gpus(self) -> bool:
        """For scheduler and quota a pod is done only when its phase says so."""
        return self.phase not in _DONE

    @property
    def may_hold_memory(self) -> bool:
        """Whether its engine may hold memory of its GPUs, or is yet to.

        It runs on in a pod that has ended for want of another container.
        """
        return not (self.over or self.phase in _DONE)

    @property
    def broken(self) -> Companion | None:
        """The container without which the pod can never be Ready, and that ended for good."""
        return next((c for c in self.companions if c.fatal), None)

    @property
    def end(self) -> Termination | None:
        """How it ended: the engine's container, else the one without which it cannot serve."""
        own = self.termination
        if own is not None and not (self.deleting and own.finished >= self.deletion_asked):
            return own
        broken = self.broken
        return broken.termination if broken is not None else own

    @property
    def failed(self) -> bool:
        """The pod ended by itself.  One that ended because it was deleted did not."""
        if not self.ended:
            return False
        if not self.deleting:
            return True
        if self.ended_first is not None:
            return self.ended_first
        if self.end is None:
            return bool(self.disruption)
        return self.end.finished < self.deletion_asked

    @property
    def dying(self) -> bool:
        """The pod is on its way out by somebody's decision."""
        return (self.deleting and not self.failed) or (bool(self.disruption) and not self.ended)


def _instance(uid: Uid, container_id: str) -> str:
    digest = hashlib.sha256(f"{uid}|{container_id}".encode())
    return digest.hexdigest()[:INSTANCE_DIGITS]


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedNode:
    """One node, as far as the health of its engines depends on it."""

    name: str
    ready: bool = True
    ready_changed: float = 0.0  # a stamp: to be told
    unready: float = field(compare=False, default=0.0)  # since when we see it not ready
    followed: float = field(compare=False, default=0.0)  # when the last of others fell silent after
    out_of_service: bool = False
    gone: bool = False
    cordoned: bool = False
    resources: Mapping[str, int] = field(default_factory=dict)  # extended ones: GPUs and the like
    card: Card | None = None  # of its GPUs, where its labels tell


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservedChild:
    """A child other than a pod, of any kind in ``children.kinds``."""

    uid: Uid
    owner: Uid | None
    body: Mapping[str, Any]
    owner_pool: str = ""  # name of the pool that controls it, whichever UID that has
    seen: float = 0.0  # since when it is known in this state, by the wall clock of the pass
    whole: bool = True  # else it is only known to be there: what it says is not


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What an engine says it runs with, asked once; None where it does not say."""

    version: str = ""  # SGLang's own, as the process knows it
    mem_fraction_static: float | None = None
    max_total_tokens: int | None = None  # of the KV cache
    max_running_requests: int | None = None
    context_length: int | None = None
    attention_backend: str | None = None
    # GiB of each of its GPUs; told since 0.4.10.post2.
    weights_gib: float | None = None
    cache_gib: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """Weights that the operator has told an engine to read from disk, and what came of it."""

    path: str
    version: str
    commit: str = ""  # the transaction that it follows
    done: bool = False
    error: str = ""  # the engine's words, if it could not
    tries: int = 1
    again: float = 0.0  # not before, if it could not; by the steady clock


class Stuck(NamedTuple):
    """Since when an engine gets nothing done: by the steady clock, and by the wall clock."""

    since: float
    stamp: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """What one engine instance said of itself, as far as it was asked (``ask.engines``).

    Times are not part of it unless they matter: a report that equals the last one is no news.
    """

    instance: str
    weight_version: str | None = None  # None: not asked, or no answer yet
    resolved: Resolved | None = None
    stuck: Stuck | None = None  # it has work, and gets nothing done
    loading: Loading | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Everything a plan may depend on, besides the pool itself and the time."""

    pods: tuple[ObservedPod, ...] = ()
    # Pods that ended, and nobody has read yet why: there were too many at once.
    unread: frozenset[Uid] = frozenset()
    # By engine the highest attempt whose name a pod has that is none of the pool's engines: of an
    # earlier pool of this name, an orphan, one aside or out of sight.
    taken: Mapping[EngineName, int] = field(default_factory=dict)
    # Orphans under engines' names that are in the pool's Service, with their engines: nothing is
    # put beside them, because clients would reach both.
    orphans: Mapping[str, EngineName] = field(default_factory=dict)
    # Pods of the pool that stand aside, until they are gone: no engines; others may choose them.
    aside: tuple[ObservedPod, ...] = ()
    # Names of orphans, and of an earlier pool's pods, that clients reach behind an open gate.
    reached: tuple[str, ...] = ()
    nodes: Mapping[str, ObservedNode] | None = None  # None: no access to nodes
    silence: Silence | Uncounted | None = Uncounted.UNCOUNTED  # of these nodes
    falls: tuple[float, ...] = ()  # when they fell silent, rising; counted as silence is
    children: Mapping[tuple[str, str], ObservedChild] = field(default_factory=dict)
    trainers: Mapping[str, TrainerPod] | None = None  # of the namespace; None: nobody looked
    claims: tuple[Claim, ...] = ()  # of node ranks about which the trainer's pods disagree
    inventory: Inventory | None = None  # of devices and claims to them; None: nobody looked
    pins: Mapping[int, Pin] = field(default_factory=dict)  # what claims had last, by node rank
    absent_kinds: frozenset[str] = frozenset()  # of children: those that the cluster lacks, and
    unwatched_kinds: frozenset[str] = frozenset()  # among them those that nobody asked for
    # What the pool's weights Lease is known to have said last, should it be lost; None: nothing yet
    said: Transaction | None = None
    work_ends: float = float("inf")  # until when who is at work by that counts on it (steady)
    reports: Mapping[str, EngineReport] = field(default_factory=dict)  # by instance
    # Failures that stand in the stored status: only these pods may be deleted.
    recorded: frozenset[Uid] = frozenset()
    creates_blocked_until: float = 0.0  # they were refused (quota, admission): until then (steady)
    creates_refused: bool = False  # the last were: what is tried again is told once it is there
    # Pods that were to go, and whose delete was not taken: they are told as they are.
    stays: frozenset[Uid] = frozenset()
    # Pods that had to go before their engines' next ones are made, which follow their failures.
    handed_on: Mapping[EngineName, ObservedPod] = field(default_factory=dict)
    # When a pod of the pool was last seen to leave, or to be on its way (steady).
    last_gone: float = 0.0
    steps: Steps = NO_STEPS  # of a trainer, where rollouts go by them
    # Why nothing is made any more: what is there is the garbage collector's, and serves until then.
    leaving: str = ""
    # The API server would refuse a pod of this revision: no running engine goes for it.
    refused_revision: str = ""
    # Nobody knows whether it would take one: one engine goes for it, to see.
    doubted_revision: str = ""
    revisions: Mapping[str, EngineFacts] = field(default_factory=dict)  # earlier ones', if known
    neighbours: tuple[str, ...] = ()  # other pools on the same GPUs
    rivals: Mapping[EngineName, str] = field(default_factory=dict)  # who has an engine's GPUs
    left_on: frozenset[EngineName] = frozenset()  # on whose GPUs pods may be of no pool that is
    departing: tuple[ObservedPod, ...] = ()  # of others, with uncounted GPUs; its own out of sight
    elsewhere: frozenset[Uid] = frozenset()  # those of them that are of other namespaces

    @property
    def all_pods(self) -> tuple[ObservedPod, ...]:
        """The pool's pods, and those aside: engines run, sleep and are written in them too."""
        return (*self.pods, *self.aside)

    def weights_lease(self, pool: str) -> ObservedChild | None:
        """The Lease of the weights of the pool of this name, whoever's it is, whole or not."""
        return self.children.get(("Lease", weights_lease_name(pool)))

    @property
    def crowded(self) -> Mapping[EngineName, Sequence[str]]:
        """Engines of which pods of several attempts stand aside, and the pods' names.

        Whoever takes labels away would have another one.
        """
        pods = defaultdict[EngineName, list[ObservedPod]](list)
        for pod in (pod for pod in self.aside if not (pod.deleting or pod.ended)):
            pods[pod.engine].append(pod)
        tries = {e: {p.attempt if p.nodes > 1 else p.name for p in of} for e, of in pods.items()}
        return {e: [p.name for p in of] for e, of in pods.items() if len(tries[e]) > 1}
