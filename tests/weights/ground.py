"""What operators and trainers work on in the model: engines, pods, clients, the Lease, and time."""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sglang_operator.client.lease import of_holder
from sglang_operator.observed.model import (
    Gate,
    ObservedPod,
)
from sglang_operator.pool.resolve import Pool
from sglang_operator.sending import DELIVERY_SECONDS
from sglang_operator.weights import lease_state
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, a_pod, a_pool
from tests.weights.loads import Message

LEASE_SECONDS = 30
MARGIN = 0.7  # of it for which a trainer counts on its last renewal
STEP_SECONDS = 0.2
_BACKUPS = 30
MOST_ENGINES = 5  # that a pool grows to
RANDOM, TORN, GARBAGE, READING = "random", "torn", "garbage", "half of a checkpoint"
BAD = (RANDOM, TORN, GARBAGE, READING)
RUNS_ON = "pauses without its schedulers standing still"
Choose = Callable[[int], int]


@dataclass
class Engine:
    """One run of one engine, and its pod."""

    pod: ObservedPod
    holds: str = RANDOM
    cached: str = ""  # the weights that filled the prefix cache; all requests share their prefix
    paused: bool = False
    released: frozenset[str] = frozenset()
    announced: frozenset[str] = frozenset()  # tags that it may have released, by any trainer's word
    asked: bool = False  # to resume memory, with an answer that was lost
    waiting: int = 0  # requests that a pause holds back
    under_way: int = 0  # requests that have passed the look at the pause, and are not computed
    alive: bool = True
    label: str = "unsynced"
    writer: str = ""  # the transaction that has written a part
    inbox: list[Message] = field(default_factory=list)  # what it got, and works off in order


@dataclass(frozen=True)
class Entry:
    """An engine in the registry, as it was when that was written."""

    instance: str
    up: bool
    in_service: bool


@dataclass(frozen=True)
class Registry:
    epoch: str = ""
    transaction: str = ""
    engines: tuple[Entry, ...] = ()
    said: Transaction | None = None  # what the Lease said, as far as that stands here


class TrainerDiesError(Exception):
    """A call that cannot succeed any more."""


@cache
def _pool(engines: int, gate: str) -> Pool:
    mapping = f"list(range(0,{engines}))"
    return a_pool(device_mapping=mapping, num_gpus_per_worker=1, weights={"gate": gate})


class Ground:
    """``gate``: the pool's; ``defect``: a way in which the design could be wrong, for controls.

    ``roll``: its trainers are jobs of ROLL, on a pool that grows.
    """

    def __init__(
        self,
        choose: Choose,
        *,
        engines: int = 3,
        gate: str = "Committed",
        defect: str = "",
        roll: bool = False,
    ) -> None:
        self.choose = choose
        self.defect = defect
        self.roll = roll
        self.jobs: Counter[str] = Counter()  # of ROLL
        self.let_run = 0  # engines that were, for a moment, as a sync paused them
        self.pool = _pool(engines, gate)
        self.now = NOW
        self.attempts = 0
        self.engines = [self._started(rank) for rank in range(engines)]
        self.lease: dict[str, Any] | None = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self._last_read: dict[str, Any] | None = self.lease  # by ``said``, and what it says:
        self._says = Transaction()
        self.revision = 1  # of the Lease
        self.backups = [self.lease]  # what the Lease said before, the latest last
        self.shown = Transaction()  # what stood in it last
        self.shown_since = NOW  # for whoever looks all the while
        self.wires: list[Message] = []  # what operators sent, and has not arrived
        self.loaded = 0
        self.registry = Registry()
        self.service: set[str] = set()  # instances that kube-proxy sends new connections to
        self.kept: list[Engine] = []  # connections that clients opened earlier
        self.trainer: Generator[None, None, Any] | None = None
        self.namesake = ""  # the name of the next trainer, if another process has it too
        self.cut_off: list[Generator[None, None, Any]] = []  # who lost the Lease unknowingly
        self.joined: dict[str, str] = {}  # by holder: the shared sync that its workers write in
        self.renewed: dict[str, float] = {}  # by transaction: its trainer's own last step
        self.counted: dict[str, int] = {}  # by transaction: those that the Lease had with it
        self.versions = 0
        self.violations: list[str] = []
        self.answers = 0
        self.steps = 0
        self.fair = False

    # --- engines and kubelet

    def _started(self, rank: int) -> Engine:
        self.attempts += 1
        engine = self.pool.engines[rank]
        pod = a_pod(self.pool, engine, self.attempts, container_id=f"c{self.attempts}")
        return Engine(pod=pod)

    def grow(self) -> None:
        """An engine more; it is up at once."""
        rank = len(self.engines)
        if rank < MOST_ENGINES:
            self.pool = _pool(rank + 1, self.pool.gate.value)
            self.engines.append(self._started(rank))
            self._tell(rank)

    def crash(self) -> None:
        """An engine ends; the planner's replacement is up at once, under a new pod."""
        rank = self.choose(len(self.engines))
        self._end(self.engines[rank])

    def _end(self, engine: Engine) -> None:
        engine.alive = False
        engine.waiting = engine.under_way = 0
        self.kept = [kept for kept in self.kept if kept is not engine]
        rank = self.engines.index(engine)
        self.engines[rank] = self._started(rank)
        self._tell(rank)

    def _tell(self, rank: int) -> None:
        """Whoever puts engines to sleep, and has named none yet, finds this one too."""
        fresh = self.engines[rank]
        fresh.announced = self._may_sleep(run_of(fresh))

    def _may_sleep(self, run: str) -> frozenset[str]:
        """What whoever reads the Lease takes this engine for."""
        return self.said.may_sleep(run)

    def kubelet(self) -> None:
        """One pod's Ready follows its gate."""
        engine = self.engines[self.choose(len(self.engines))]
        gated = self.pool.gated and self.defect != "no gate"
        open_ = engine.pod.gate is not None and engine.pod.gate.is_open
        if engine.pod.ready is not (ready := not gated or open_):
            engine.pod = replace(engine.pod, ready=ready)

    def proxy(self) -> None:
        """One engine's endpoint follows its pod's Ready."""
        engine = self.engines[self.choose(len(self.engines))]
        run = run_of(engine)
        (self.service.add if engine.pod.ready else self.service.discard)(run)

    # --- clients

    def request(self) -> None:
        """A client asks the Service over a new connection, which it keeps."""
        routed = [e for e in self.engines if e.alive and run_of(e) in self.service]
        if routed:
            engine = routed[self.choose(len(routed))]
            self.kept.append(engine)
            del self.kept[:-8]
            self._ask(engine)

    def request_again(self) -> None:
        """A client asks over a connection that it opened before."""
        if self.kept:
            self._ask(self.kept[self.choose(len(self.kept))])

    def _ask(self, engine: Engine) -> None:
        if engine.paused:
            engine.waiting += 1
        elif self.choose(4) == 0:
            engine.under_way += 1  # in the tokenizer
        else:
            self._answer(engine)

    def compute(self) -> None:
        """An engine's scheduler gets to what came to it late, unless it stands still."""
        engine = self.engines[self.choose(len(self.engines))]
        stands = engine.paused and self.defect != RUNS_ON
        if engine.under_way and not stands:
            engine.under_way -= 1
            self._answer(engine)

    def _pause(self, engine: Engine) -> None:
        """What the scheduler has got is ended; what it has not stays under way."""
        engine.paused = True
        if self.choose(2):
            engine.under_way = 0

    def _answer(self, engine: Engine) -> None:
        self.answers += 1
        if engine.released:
            self.violations.append(f"a request reached sleeping {engine.pod.name}: it is dead")
            self._end(engine)
        elif engine.holds in BAD:
            self.violations.append(f"{engine.pod.name} answered from {engine.holds} weights")
        elif _older(engine.holds, engine.pod.gate):
            self.violations.append(f"{engine.pod.name} answered from {engine.holds}, in service")
        elif engine.cached not in ("", engine.holds):
            told = f"{engine.pod.name} answered from the cache of {engine.cached}"
            self.violations.append(f"{told}, and holds {engine.holds}")
        else:
            engine.cached = engine.holds

    def _continue(self, engine: Engine) -> None:
        engine.paused = False
        while engine.waiting and engine.alive:
            engine.waiting -= 1
            self._answer(engine)

    # --- what engines got from operators, in order

    def _deliver(self, message: Message) -> None:
        for engine in self.engines:
            if run_of(engine) == message.instance and engine.alive:
                engine.inbox.append(message)

    def _work_off(self, engine: Engine) -> None:
        self._read(engine, fails=self.choose(4) == 0)

    def _read(self, engine: Engine, *, fails: bool = False) -> None:
        message = engine.inbox[0]
        if message.resumes:
            engine.inbox.pop(0)
            self._continue(engine)
        elif not message.begun:
            message.begun = True
            self._write_checkpoint(engine, message)
            return
        else:
            engine.inbox.pop(0)
            # What cannot be read is rolled back: to what the engine was started with.
            engine.holds = RANDOM if fails else message.version
            engine.cached = ""
            self.loaded += not fails
        message.answered(failed=fails, now=self.now)

    def _write_checkpoint(self, engine: Engine, message: Message) -> None:
        name = f"{message.version} into {engine.pod.name}"
        if engine.released:
            self.violations.append(f"loaded {name}, which sleeps: it is dead")
            self._end(engine)
            return
        said = self.said
        if said.phase is Phase.SYNCING and said.id == engine.writer:
            self.violations.append(f"loaded {name} amid a sync to {said.target_version}")
        elif engine.holds not in BAD and _number(engine.holds) > _number(message.version):
            self.violations.append(f"loaded {name}, which holds {engine.holds}")
        engine.holds = READING

    def _find(self, instance: str) -> Engine:
        """The engine, which has worked off what it got before."""
        for engine in self.engines:
            if run_of(engine) == instance:
                while engine.inbox and engine.alive:
                    self._read(engine)
                if engine.alive:
                    return engine
        raise TrainerDiesError(f"{instance} does not answer")

    # --- the Lease, and time

    @property
    def said(self) -> Transaction:
        """What the Lease says; it is asked far more often than it changes."""
        if self._last_read is not self.lease:
            self._last_read = self.lease
            self._says = Transaction() if self.lease is None else lease_state.read(self.lease)
        return self._says

    def _put(self, state: Transaction) -> None:
        if of_holder(state) != of_holder(self.shown):
            self.shown_since = self.now
        self.shown = state
        self.revision += 1
        self.lease = lease_state.written(self.lease or {}, state)
        self.lease["metadata"]["resourceVersion"] = str(self.revision)
        self.backups = [*self.backups[-_BACKUPS:], self.lease]

    def _put_back(self, lease: dict[str, Any]) -> None:
        """The Lease says what it said before, its numbers too."""
        self.shown, self.shown_since = lease_state.read(lease), self.now
        self.revision += 1
        metadata = lease["metadata"] | {"resourceVersion": str(self.revision)}
        self.lease = {**lease, "metadata": metadata}

    def pass_time(self) -> None:
        """Long enough for a Lease that nobody renews, and for whatever is on its way."""
        self._go_on(LEASE_SECONDS / 2 + 1)

    def _go_on(self, seconds: float) -> None:
        """Time passes: what was sent long ago is there by then, or never will be."""
        self.now += seconds
        for message in [m for m in self.wires if self.now >= m.sent + DELIVERY_SECONDS]:
            self.wires.remove(message)
            if self.choose(2):
                self._deliver(message)


def run_of(engine: Engine) -> str:
    run = engine.pod.instance
    assert run is not None
    return run


def _number(version: str) -> int:
    return int(version.removeprefix("v")) if version.startswith("v") else -1


def _older(holds: str, gate: Gate | None) -> bool:
    """Whether an engine in service holds less than its gate says."""
    return gate is not None and gate.is_open and _number(holds) < _number(gate.version)
