"""A model of everything that stands between a trainer's bytes and a client's answer.

Engines, kubelet, the client Service with its lag and kept connections, one or two operators and
trainers that die at any point.  What decides is the real code: ``planner.weights.decide`` for the
operator, ``api.weights_steps`` for the trainer in the order of ``client.sync`` and
``client.memory``.  The rest is written here, as the real parts were seen to behave.

``World.step`` takes one step that ``choose`` picks; ``World.violations`` holds every answer that a
client got from weights that are random, torn, released or of a version that is not whole, or from
the cache of other weights.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sglang_operator.api import names, weights_steps
from sglang_operator.api import weights as lease_state
from sglang_operator.api.spec import Weights
from sglang_operator.api.weights import Phase, Transaction
from sglang_operator.planner import weights
from sglang_operator.planner.observed import (
    EngineReport,
    Gate,
    Observed,
    ObservedChild,
    ObservedPod,
)
from sglang_operator.planner.plan import EngineState, EngineView
from sglang_operator.planner.pool import Pool
from tests.builders import NOW, OWNER, a_pod, a_pool

LEASE_SECONDS = 30
RANDOM, TORN, GARBAGE = "random", "torn", "garbage"
BAD = (RANDOM, TORN, GARBAGE)
# Ways in which the design could be wrong, and the pool's gate: each has to be found.
CONTROLS = (
    ("no gate", "Committed"),
    ("opens at begin", "Committed"),
    ("does not pause", "Committed"),
    ("does not pause", "Versioned"),
    ("does not flush", "Committed"),
)


@dataclass
class Engine:
    """One run of one engine, and its pod."""

    pod: ObservedPod
    holds: str = RANDOM
    cached: str = ""  # the weights that filled the prefix cache; all requests share their prefix
    paused: bool = False
    released: frozenset[str] = frozenset()
    waiting: int = 0  # requests that a pause holds back
    alive: bool = True
    label: str = "unsynced"


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


class TrainerDiesError(Exception):
    """A call that cannot succeed any more."""


@cache
def _pool(engines: int, gate: str) -> Pool:
    mapping = f"list(range(0,{engines}))"
    return a_pool(device_mapping=mapping, num_gpus_per_worker=1, weights={"gate": gate})


@dataclass
class Operator:
    """A view of its own, which may be old, and what it is about to do."""

    seen: Observed | None = None
    since: float = NOW  # this state of the Lease was first seen
    lease: dict[str, Any] = field(default_factory=dict)
    pending: list[weights.SetGate] = field(default_factory=list)


Choose = Callable[[int], int]


class World:
    """``gate``: the pool's; ``defect``: a way in which the design could be wrong, for controls."""

    def __init__(
        self, choose: Choose, *, engines: int = 3, gate: str = "Committed", defect: str = ""
    ) -> None:
        self.choose = choose
        self.defect = defect
        self.pool = _pool(engines, gate)
        self.now = NOW
        self.attempts = 0
        self.engines = [self._started(rank) for rank in range(engines)]
        self.lease: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self.operators = [Operator(), Operator()]
        self.registry = Registry()
        self.service: set[str] = set()  # instances that kube-proxy sends new connections to
        self.kept: list[Engine] = []  # connections that clients opened earlier
        self.trainer: Generator[None, None, None] | None = None
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

    def crash(self) -> None:
        """An engine ends; the planner's replacement is up at once, under a new pod."""
        rank = self.choose(len(self.engines))
        self._end(self.engines[rank])

    def _end(self, engine: Engine) -> None:
        engine.alive = False
        engine.waiting = 0
        self.kept = [kept for kept in self.kept if kept is not engine]
        rank = self.engines.index(engine)
        self.engines[rank] = self._started(rank)

    def kubelet(self) -> None:
        """One pod's Ready follows its gate."""
        engine = self.engines[self.choose(len(self.engines))]
        gated = self.pool.gated and self.defect != "no gate"
        open_ = engine.pod.gate is not None and engine.pod.gate.is_open
        engine.pod = replace(engine.pod, ready=not gated or open_)

    def proxy(self) -> None:
        """One engine's endpoint follows its pod's Ready."""
        engine = self.engines[self.choose(len(self.engines))]
        run = _run(engine)
        (self.service.add if engine.pod.ready else self.service.discard)(run)

    # --- clients

    def request(self) -> None:
        """A client asks the Service over a new connection, which it keeps."""
        routed = [e for e in self.engines if e.alive and _run(e) in self.service]
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
        else:
            self._answer(engine)

    def _answer(self, engine: Engine) -> None:
        self.answers += 1
        if engine.released:
            self.violations.append(f"a request reached sleeping {engine.pod.name}: it is dead")
            self._end(engine)
        elif engine.holds in BAD:
            self.violations.append(f"{engine.pod.name} answered from {engine.holds} weights")
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

    # --- operators

    def observe(self) -> None:
        """One operator's watches catch up, and it decides."""
        operator = self.operators[self.choose(len(self.operators))]
        if _said(operator.lease) != _said(self.lease):
            operator.since = self.now
        operator.lease = self.lease
        key = ("Lease", names.weights_lease_name(OWNER.name))
        child = ObservedChild(
            uid=names.Uid("lease"), owner=OWNER.uid, body=operator.lease, seen=operator.since
        )
        operator.seen = Observed(
            pods=tuple(engine.pod for engine in self.engines),
            children={key: child},
            reports={
                _run(e): EngineReport(instance=_run(e), weight_version=e.label)
                for e in self.engines
            },
        )
        decided = self._decide(operator)
        operator.pending = list(decided.gates)

    def _decide(self, operator: Operator) -> weights.WeightsPlan:
        assert operator.seen is not None
        views = tuple(
            EngineView(engine=engine, state=EngineState.UP, pod=pod)
            for engine, pod in zip(self.pool.engines, operator.seen.pods, strict=True)
        )
        policy = Weights(gate=self.pool.gate)
        decided = weights.decide(OWNER, policy, views, operator.seen, self.now)
        if self.defect == "opens at begin" and decided.transaction.phase is Phase.SYNCING:
            opened = tuple(
                weights.SetGate(pod=v.pod, is_open=True, reason="begin", message="?")
                for v in views
                if v.pod is not None and not (v.pod.gate and v.pod.gate.is_open)
            )
            decided = replace(decided, gates=opened)
        return decided

    def write_gate(self) -> None:
        """One operator's next gate reaches the API server: by UID, however old the decision is."""
        operator = self.operators[self.choose(len(self.operators))]
        if not operator.pending:
            return
        change = operator.pending.pop(0)
        for engine in self.engines:
            if engine.pod.uid == change.pod.uid:
                version = change.message if change.is_open else ""
                gate = Gate(is_open=change.is_open, version=version, reason=change.reason)
                engine.pod = replace(engine.pod, gate=gate)

    def publish(self) -> None:
        """One operator writes what it decided last into registry and Lease."""
        operator = self.operators[self.choose(len(self.operators))]
        if operator.seen is None or operator.pending:
            return
        decided = self._decide(operator)
        if decided.abort is not None:
            if decided.abort.resource_version == self.lease["metadata"]["resourceVersion"]:
                self._put(decided.abort.state)
            return
        self.registry = Registry(
            epoch=decided.epoch,
            transaction=decided.transaction.id if decided.settled else "",
            engines=tuple(
                Entry(weights.instance(v.pod) or "", True, v.pod.ready)
                for v in decided.engines
                if v.pod is not None
            ),
        )

    def operate(self) -> None:
        """One operator does all there is to do, and kubelet and the Service follow."""
        which = self.choose(len(self.operators))
        self.operators.insert(0, self.operators.pop(which))
        self._work(rounds=1)

    def restart_operator(self) -> None:
        """An operator forgets all; what it was about to write may be lost."""
        self.operators[self.choose(len(self.operators))] = Operator()

    # --- trainers: one at a time is active, and dies between any two steps

    def train(self) -> None:
        """The trainer's next step, or a trainer that begins something."""
        if self.trainer is None:
            programs = (self._sync, self._sync, self._sleep, self._wake)
            self.trainer = programs[0 if self.fair else self.choose(len(programs))]()
        try:
            next(self.trainer)
        except StopIteration:
            self.trainer = None
        except (TrainerDiesError, weights_steps.RefusedError):
            self.trainer = None

    def kill_trainer(self) -> None:
        """It dies where it is, without a word; a later one has another name."""
        self.trainer = None

    def pass_time(self) -> None:
        """Long enough for a Lease that nobody renews."""
        self.now += LEASE_SECONDS / 2 + 1

    def _trainer(self) -> weights_steps.Trainer:
        self.versions += 1
        return weights_steps.Trainer(
            holder=f"trainer-{self.versions}",
            transaction=f"t{self.versions}",
            duration=float(LEASE_SECONDS),
        )

    def _step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        after = step(lease_state.read(self.lease))
        self._put(after)
        return after

    def _put(self, state: Transaction) -> None:
        version = str(int(self.lease["metadata"]["resourceVersion"]) + 1)
        self.lease = lease_state.written(self.lease, state)
        self.lease["metadata"]["resourceVersion"] = version

    def _seen_since(self) -> float:
        """A trainer that looks for the first time has to wait the whole duration: it renews."""
        return lease_state.read(self.lease).renewed

    def _find(self, instance: str) -> Engine:
        for engine in self.engines:
            if _run(engine) == instance:
                return engine
        raise TrainerDiesError(f"{instance} does not answer")

    def _sync(self) -> Generator[None, None, None]:
        trainer, registry = self._trainer(), self.registry
        version = f"v{self.versions}"
        if len(registry.engines) < len(self.engines):
            return
        covered = [entry.instance for entry in registry.engines]
        self._step(
            lambda s: weights_steps.begin(
                s,
                trainer,
                epoch=registry.epoch,
                version=version,
                now=self.now,
                seen=self._seen_since(),
            )
        )
        yield
        try:
            yield from self._update(trainer, version, covered)
        except TrainerDiesError as error:
            message = str(error)
            self._step(lambda s: weights_steps.abort(s, trainer, message=message))

    def _update(
        self, trainer: weights_steps.Trainer, version: str, covered: list[str]
    ) -> Generator[None, None, None]:
        if self.defect != "does not pause":
            for instance in covered:
                engine = self._find(instance)
                engine.paused = True
                yield
                if self.defect != "does not flush":
                    engine.cached = ""
        self._resume(lease_state.read(self.lease))
        self._step(lambda s: weights_steps.wake(s, trainer, now=self.now))
        for last in (False, True):
            for instance in covered:
                engine = self._find(instance)
                self._own(trainer)
                engine.holds = version if last else TORN
                if self.defect == "does not pause":
                    engine.label = version  # with every bucket, as some trainers do
                yield
        self._step(lambda s: weights_steps.renew(s, trainer, now=self.now))
        for instance in covered:
            engine = self._find(instance)
            engine.label = version
            self._own(trainer)
            self._continue(engine)
            yield
        self._step(lambda s: weights_steps.commit(s, trainer, instances=covered, now=self.now))

    def _own(self, trainer: weights_steps.Trainer) -> None:
        """The client lets nothing out once its hold may be over, by its own clock."""
        state = lease_state.read(self.lease)
        if state.id != trainer.transaction or self.now > state.renewed + LEASE_SECONDS / 2:
            raise TrainerDiesError("the Lease is lost")

    def _sleep(self) -> Generator[None, None, None]:
        trainer = self._trainer()
        tags = (("weights", "kv_cache"), ("kv_cache",))[self.choose(2)]
        self._step(
            lambda s: weights_steps.sleep(
                s, trainer, tags=tags, now=self.now, seen=self._seen_since()
            )
        )
        yield
        for _ in range(40):
            acted = self.registry.transaction == trainer.transaction
            if acted and not any(entry.in_service for entry in self.registry.engines):
                break
            yield
        else:
            return  # NotReady: nothing was released
        covered = [entry.instance for entry in self.registry.engines]
        for instance in covered:
            self._find(instance).paused = True
            yield
        self._step(lambda s: weights_steps.slept(s, trainer, instances=covered))
        yield
        for instance in covered:
            engine = self._find(instance)
            engine.released |= set(tags)
            engine.cached = ""
            if "weights" in tags:
                engine.holds = GARBAGE
            yield

    def _wake(self) -> Generator[None, None, None]:
        if lease_state.read(self.lease).phase not in (Phase.SLEEPING, Phase.AWAKE):
            return  # Unsupported: nothing sleeps
        trainer = self._trainer()
        state = self._step(
            lambda s: weights_steps.sleep(
                s, trainer, tags=(), now=self.now, seen=self._seen_since()
            )
        )
        yield
        self._resume(state)
        yield
        if state.intact:
            for engine in self.engines:
                if _run(engine) in state.instances:
                    self._continue(engine)
        self._step(lambda s: weights_steps.wake(s, trainer, now=self.now))

    def _resume(self, state: Transaction) -> None:
        for engine in self.engines:
            if _run(engine) not in state.asleep:
                continue
            if engine.released:
                engine.released = frozenset()
            else:
                self._end(engine)  # SGLang dies of resuming what was never released

    # --- a run

    def step(self) -> None:
        """One step of anything."""
        self.steps += 1
        if self.choose(60) == 0:
            faults = (self.pass_time, self.crash, self.kill_trainer, self.restart_operator)
            faults[self.choose(len(faults))]()
            return
        kinds = (
            *((self.train,) * 24),
            *((self.operate,) * 2),
            *((self.observe,) * 3),
            *((self.write_gate,) * 5),
            *((self.publish,) * 3),
            *((self.kubelet, self.proxy) * 4),
            *((self.request, self.request_again) * 4),
        )
        kinds[self.choose(len(kinds))]()

    def settle(self, rounds: int = 3) -> None:
        """From here on nothing fails, and the trainer keeps going: everything has to come right."""
        self.fair = True
        self.trainer = None
        self.operators = [Operator()]
        self.now += 2 * LEASE_SECONDS
        for _ in range(rounds):
            self._work()
            self.trainer = None
            for _ in range(60):
                self.train()
                if self.trainer is None:
                    break
                self.now += 0.1
            self._work()

    def unsettle(self) -> None:
        """From here on anything may happen again."""
        self.fair = False
        self.operators = [Operator(), Operator()]

    def _work(self, rounds: int = 2) -> None:
        """The operator, kubelet and the Service do all there is to do."""
        picking, engine = self.choose, 0
        self.choose = lambda count: engine % count
        for _ in range(rounds):
            self.observe()
            while self.operators[0].pending:
                self.write_gate()
            for index in range(len(self.engines)):
                engine = index
                self.kubelet()
                self.proxy()
            engine = 0
            self.observe()
            self.publish()
        self.choose = picking

    def synced(self) -> bool:
        """Whether every engine is whole, of one version, and reached by clients."""
        held = {engine.holds for engine in self.engines}
        return (
            len(held) == 1
            and not held & set(BAD)
            and all(_run(e) in self.service and not e.paused for e in self.engines)
        )


def _run(engine: Engine) -> str:
    run = weights.instance(engine.pod)
    assert run is not None
    return run


def _said(lease: dict[str, Any]) -> object:
    """What stands in a Lease, renewals too: its expiry counts from the last change."""
    return lease.get("metadata", {}).get("annotations"), lease.get("spec", {})


def run(choose: Choose, *, steps: int = 120, **world: Any) -> World:
    """One run of random steps, and then a fair end."""
    made = World(choose, **world)
    if choose(4):
        made.settle(rounds=1)  # most of the life of a pool comes after its first sync
        made.unsettle()
    for _ in range(steps):
        made.step()
    if not world.get("defect"):
        made.settle()
    return made
