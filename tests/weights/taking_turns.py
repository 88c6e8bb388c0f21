"""A model of turns: a trainer and engines on its GPUs never hold their memory together.

What decides is the real code: ``plan.plan`` says which pods are made and which go,
``gates.decide`` what becomes of a Lease that was lost, ``gates.standing`` which engines the
registry says to wait, ``weights.steps`` and ``weights.parts`` what stands in the Lease, in the
order of ``client.sleeping`` and ``client.turns``.  The rest is written here: an operator whose
requests are on their way for as long as they like, kubelet, which starts what is there, engines
that end at any moment, trainers that die and come back, and Leases that are deleted, emptied, put
back or ended by force.

``World.both`` holds every moment at which a trainer and an engine held memory of one GPU.
"""

import dataclasses
import random
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import cache
from typing import Any

from sglang_operator.api import names, spec
from sglang_operator.gates import decide, holders, standing
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.plan import seating
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.weights import lease_state, lost_lease, parts, steps, turn
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import NOW, OWNER, a_pod
from tests.unit.placement.trainers import a_shared_pool, a_slot, seen
from tests.weights.turn_things import Entry, Operator, Process

UNGUARDED = "starts engines whoever's turn it is"
UNTOLD = "takes the memory without asking whether an engine may come up"
UNSEEN = "says that engines wait whose pods it is making"
FORGETS = "takes a lost Lease for one that says nothing of turns"
IN_PLACE = "lets kubelet run an engine once more in its pod"
PHASE_ALONE = "gives all GPUs back with those of a part"
CONTROLS = (UNGUARDED, UNTOLD, UNSEEN, FORGETS, IN_PLACE, PHASE_ALONE)
LEASE_SECONDS = 30.0
_ENGINES = 4
_TAGS = ("weights", "kv_cache")


class DiesError(Exception):
    """The trainer's call failed: it has no memory by it."""


@cache
def _pool() -> Pool:
    return a_shared_pool(device_mapping=f"list(range(0,{2 * _ENGINES}))")


@cache
def _surroundings() -> Mapping[str, Any]:
    return seen(_pool(), a_slot(0))


class World:
    """Everything together, one step after the other."""

    def __init__(self, choose: Callable[[int], int], *, defect: str = "") -> None:
        self.choose, self.defect = choose, defect
        self.pool = _pool()
        self.now = NOW
        self.attempts = 0
        self.processes: list[Process] = []
        self.lease: dict[str, Any] | None = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self.revision = 1
        self.backups: list[dict[str, Any]] = []
        self.operator = Operator()
        self.registry: tuple[Entry, ...] = ()
        self.acted = ""  # the transaction that the registry knows of
        self.trainer: Generator[None, None, None] | None = None
        self.holder, self.transactions = "trainer", 0
        self.memory: set[int] = set()  # GPUs of which the trainer holds memory
        self.both: list[str] = []
        self.turns = self.kept_waiting = self.steps = 0

    # --- the Lease

    @property
    def said(self) -> Transaction:
        return lease_state.read(self.lease) if self.lease is not None else Transaction()

    def _put(self, state: Transaction) -> None:
        self.revision += 1
        self.lease = lease_state.written(self.lease or {"metadata": {}}, state)
        self.lease["metadata"]["resourceVersion"] = str(self.revision)
        self.backups = [*self.backups[-20:], self.lease]

    def _step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        if self.lease is None:
            raise DiesError("there is no Lease")
        after = step(self.said)
        self._put(after)
        return after

    # --- what an operator does

    def observe(self) -> None:
        """The operator sees what is there by now, decides, and begins to act on it."""
        operator = self.operator
        surroundings = _surroundings()
        children = dict(surroundings["children"])
        if self.lease is not None:
            key = ("Lease", names.weights_lease_name(OWNER.name))
            lease_uid = names.Uid("lease")
            children[key] = ObservedChild(
                uid=lease_uid, owner=OWNER.uid, body=self.lease, seen=self.now
            )
        seen = Observed(
            **{**surroundings, "children": children},
            pods=tuple(self._seen(each) for each in self.processes),
            said=operator.said,
        )
        operator.seen = self.with_others(seen)
        planned = self._planned(operator)
        weights = self._weighed(operator, planned)
        operator.said = weights.said
        step = weights.restore or (weights.abort.state if weights.abort else None)
        if step is not None:
            self._put(step)
            return
        # What an earlier pass has sent it waits for: passes of one operator do not overlap.
        if operator.creates or operator.deletes:
            self._publish(weights, making=True)
            return
        self._publish(weights, making=False)
        operator.deletes = [removal.pod.uid for removal in planned.removals]
        operator.creates = [create.engine for create in planned.creates]

    def with_others(self, seen: Observed) -> Observed:
        """With what other pools have: here is none."""
        return seen

    def let_in(self, runs: Iterable[str | None]) -> None:
        """What a client asks before it has these resume; it raises DiesError."""

    def _planned(self, operator: Operator) -> Plan:
        assert operator.seen is not None
        looks = operator.seen
        if self.defect == UNGUARDED:
            children = {k: v for k, v in looks.children.items() if k[0] != "Lease"}
            looks = dataclasses.replace(looks, children=children, said=None)
        if self.defect == FORGETS:
            looks = dataclasses.replace(looks, said=None)
        return plan(self.pool, looks, self.now)

    def _weighed(self, operator: Operator, planned: Plan) -> decide.GatePlan:
        assert operator.seen is not None
        policy = spec.Weights(gate=self.pool.gate)
        weights = decide.decide(OWNER, policy, planned.engines, operator.seen, self.now, "operator")
        if self.defect == FORGETS and weights.restore is not None:
            lost = dataclasses.replace(weights.restore, turn=turn.ENGINES)
            weights = dataclasses.replace(weights, restore=lost)
        if self.defect == FORGETS and weights.abort is not None:
            state = dataclasses.replace(weights.abort.state, turn=turn.ENGINES)
            weights = dataclasses.replace(
                weights, abort=dataclasses.replace(weights.abort, state=state)
            )
        occupied = holders.occupied(operator.seen.pods)
        return dataclasses.replace(weights, occupied=occupied)

    def _publish(self, weights: decide.GatePlan, *, making: bool) -> None:
        """The registry."""
        told = standing.waiting(weights.engines, weights.transaction, weights.occupied)
        waits = {each.name for each in told}
        if making and self.defect != UNSEEN:
            waits = set()
        self.registry = tuple(
            Entry(each.devices, each.instance, each.up, each.name in waits)
            for each in weights.engines
        )
        self.acted = weights.transaction.id

    def _seen(self, process: Process) -> ObservedPod:
        if not process.ended:
            return process.pod
        return dataclasses.replace(
            process.pod, phase="Failed", over=True, engine_runs=False, containers_ready=False
        )

    def deliver(self) -> None:
        """Something that the operator has sent arrives."""
        operator = self.operator
        if operator.deletes:
            uid = operator.deletes.pop(0)
            self.processes = [each for each in self.processes if each.pod.uid != uid]
        elif operator.creates:
            self._create(operator.creates.pop(0))

    def _create(self, engine: Engine) -> None:
        ended = [p for p in self.processes if p.pod.engine == engine.name and p.ended]
        self.processes = [p for p in self.processes if p not in ended]
        if any(p.pod.engine == engine.name for p in self.processes):
            return  # the API server has one of that name
        self.attempts += 1
        known = seating.of(self.pool, Observed(**_surroundings()))
        assert known is not None
        seat = known.seats[engine.name][0]
        off: dict[str, Any] = {"engine_runs": False, "containers_ready": False, "phase": "Pending"}
        pod = a_pod(self.pool, engine, self.attempts, **off, uid=names.Uid(f"u{self.attempts}"))
        pod = dataclasses.replace(pod, node=seat.node, slot=seat.mark, gpus_seen=seat.gpus)
        self.processes.append(Process(pod=pod))

    # --- kubelet and engines

    def kubelet(self) -> None:
        """A pod's engine is started, or is up by now."""
        waiting = [each for each in self.processes if not (each.ended or each.pod.started)]
        if not waiting:
            return
        process = waiting[self.choose(len(waiting))]
        if not process.pod.engine_runs:
            name = f"c{self.attempts}-{process.pod.uid}"
            runs: dict[str, Any] = {"engine_runs": True, "phase": "Running", "container_id": name}
            process.pod = dataclasses.replace(process.pod, **runs)
        else:
            up: dict[str, Any] = {"started": True, "containers_ready": True}
            process.pod = dataclasses.replace(process.pod, **up)
        self.look()

    def crash(self) -> None:
        """An engine ends; its pod stays until there is another, or is run again in place."""
        running = [each for each in self.processes if each.pod.engine_runs and not each.ended]
        if not running:
            return
        process = running[self.choose(len(running))]
        process.ended = True
        if self.defect == IN_PLACE:
            self.attempts += 1
            again: dict[str, Any] = {"container_id": f"c{self.attempts}", "restarts": 1}
            process.pod = dataclasses.replace(process.pod, **again)
            process.ended, process.released = False, False
            self.look()

    def evict(self) -> None:
        """A pod is gone, with its engine."""
        if self.processes:
            self.processes.pop(self.choose(len(self.processes)))

    # --- what others do to the Lease

    def lose_lease(self) -> None:
        """It is deleted, emptied, or put back; an operator that has seen it takes it up."""
        operator = self.operator
        operator.said = self.said if lost_lease.was_begun(self.said) else operator.said
        which = self.choose(3)
        if which == 0:
            self.lease = None
        elif which == 1 or not self.backups:
            self._put(Transaction())
        else:
            older = self.backups[self.choose(len(self.backups))]
            self.revision += 1
            metadata = {**older["metadata"], "resourceVersion": str(self.revision)}
            self.lease = {**older, "metadata": metadata}

    def abort_by_force(self) -> None:
        if self.lease is not None:
            self._put(steps.ended(self.said, "admin", message="by force", now=self.now))

    def restart_operator(self) -> None:
        """The next one leads: it knows of the Lease what the registry has.

        Another leads after 15 seconds, when what the last one has sent is there, or never will be.
        """
        while (self.operator.creates or self.operator.deletes) and self.choose(2):
            self.deliver()
        self.operator = Operator(said=self.operator.said)

    # --- the trainer

    def train(self) -> None:
        """Its next step, or the next thing that it begins; once it dies its memory is free."""
        if self.trainer is None:
            begins = self._programs()
            self.trainer = begins[self.choose(len(begins))]()
        try:
            next(self.trainer)
        except StopIteration:
            self.trainer = None
        except (DiesError, steps.RefusedError):
            self.trainer = None

    def _programs(self) -> tuple[Callable[[], Generator[None, None, None]], ...]:
        if self.memory:
            back = (self._wake, self._wake, self._wake_part, self._wake_part, self._sync)
            return (*back, *((self._train_on,) * 5))
        return (
            self._sleep,
            self._sleep,
            self._sleep,
            self._sleep_part,
            self._sleep_part,
            self._wake,
        )

    def kill_trainer(self) -> None:
        """Its memory is free, whatever the Lease says; the next one takes it over in time."""
        self.trainer, self.memory = None, set()
        self.transactions += 1
        self.holder = f"trainer-{self.transactions}"
        self.now += LEASE_SECONDS + 1

    def _train_on(self) -> Generator[None, None, None]:
        yield from (None for _ in range(10 + self.choose(40)))

    def _me(self) -> steps.Trainer:
        self.transactions += 1
        return steps.Trainer(holder=self.holder, transaction=f"t{self.transactions}")

    def _sleep(self) -> Generator[None, None, None]:
        yield from self._take(None)

    def _sleep_part(self) -> Generator[None, None, None]:
        yield from self._take({2 * self.choose(_ENGINES)})

    def _of(self, devices: set[int] | None) -> list[Entry]:
        every = self.registry
        return [e for e in every if devices is None or not devices.isdisjoint(e.devices)]

    def _take(self, devices: set[int] | None) -> Generator[None, None, None]:
        """``Sleeper.sleep``: the Lease, the operator's word, the release, and the last look."""
        if not self.registry:
            return
        me, before = self._me(), self.said.named
        takes = turn.of(devices or ())
        named = [e.instance for e in self._of(devices) if e.instance]
        at: dict[str, Any] = {"tags": _TAGS, "now": self.now, "seen": NOW, "takes": takes}
        if devices is None:
            self._step(lambda s: steps.sleep(s, me, **at))
        elif named:
            self._step(lambda s: parts.sleep(s, me, instances=named, **at))
        else:
            return
        yield from self._until(lambda: self.acted == me.transaction, me)
        told = {e.instance for e in self._of(devices) if e.instance}
        slept = [p for p in self.processes if p.pod.instance in told and p.holds and p.pod.started]
        runs = [p.pod.instance for p in slept if p.pod.instance]
        todo: dict[str, Any] = {"instances": runs, "tags": _TAGS, "now": self.now}
        self._step(lambda s: parts.slept(s, me, **todo))
        yield
        for process in slept:
            process.released = not process.ended
            yield
        self._step(lambda s: steps.rests(s, me))
        out = {*runs, *(run for run in told if before.sleeps(run))}
        if self.defect != UNTOLD:
            yield from self._until(
                lambda: all(e.waits or e.instance in out for e in self._of(devices)), me
            )
        self._own(me)
        self.turns += 1
        self.kept_waiting += any(e.waits for e in self._of(devices))
        # A part's engines have released all of their GPUs; the trainer takes those that it named.
        self.memory |= {*range(2 * _ENGINES)} if devices is None else devices
        self.look()

    def _until(self, done: Callable[[], bool], me: steps.Trainer) -> Generator[None, None, None]:
        """NotReady after a while: the trainer does not have the memory."""
        for _ in range(60):
            if done():
                return
            yield
            self._own(me)
        with_rest = self.said.id == me.transaction and self.said.at_work
        if with_rest:
            self._step(lambda s: steps.rests(s, me))
        raise DiesError("the operator has not said so")

    def _own(self, me: steps.Trainer) -> None:
        if self.said.id != me.transaction:
            raise DiesError("somebody has begun something else")

    def _wake(self) -> Generator[None, None, None]:
        """The trainer has let go of all of it, before it says so."""
        self.memory = set()
        yield from self._resume(None)

    def _wake_part(self) -> Generator[None, None, None]:
        first = 2 * self.choose(_ENGINES)
        self.memory -= {first, first + 1}
        yield from self._resume({first, first + 1})

    def _resume(self, devices: set[int] | None) -> Generator[None, None, None]:
        me = self._me()
        given: Iterable[int] | None = devices
        if self.defect == PHASE_ALONE:
            given = range(2 * _ENGINES)
        if self.said.phase not in (Phase.SLEEPING, Phase.AWAKE):
            at: dict[str, Any] = {"now": self.now, "seen": NOW - LEASE_SECONDS}
            self._step(lambda s: parts.give_back(s, me, devices=given, **at))
            return
        state = self._step(lambda s: steps.take_on(s, me, now=self.now, seen=NOW))
        yield from self._until(lambda: self.acted == me.transaction, me)
        inside = [e for e in self.registry if devices is None or {*e.devices} <= devices]
        runs = {e.instance for e in inside}
        self.let_in(run for run in runs if state.sleeps(run))
        for process in self.processes:
            run = process.pod.instance
            if run in runs and state.sleeps(run) and not process.ended:
                process.released = False
                self.look()
                yield
        self._own(me)
        if devices is None:
            self._step(lambda s: steps.wake(s, me, now=self.now))
            return
        gone = {*state.asleep} - {p.pod.instance for p in self.processes if not p.ended}
        awake = {run for run in runs if run} | gone
        of: dict[str, Any] = {"instances": awake, "now": self.now, "devices": given}
        self._step(lambda s: parts.wake(s, me, **of))

    def _sync(self) -> Generator[None, None, None]:
        """It has left the memory, has those started that wait, and wakes whoever sleeps."""
        self.memory = set()
        me = self._me()
        if any(e.waits for e in self.registry):
            at: dict[str, Any] = {"now": self.now, "seen": NOW - LEASE_SECONDS}
            self._step(lambda s: parts.give_back(s, me, **at))
            yield from (None for _ in range(10))
        at = {"epoch": "", "version": "v", "now": self.now, "seen": NOW - LEASE_SECONDS}
        runs = [e.instance for e in self.registry if e.instance]
        state = self._step(lambda s: steps.begin(s, me, engines=runs, **at))
        yield from self._until(lambda: self.acted == me.transaction, me)
        self.let_in(run for run in runs if state.sleeps(run))
        for process in self.processes:
            if state.sleeps(process.pod.instance):
                process.released = False
        self.look()
        self._step(lambda s: steps.wake(s, me, now=self.now))
        yield
        if self.choose(3) and runs:
            self._step(lambda s: steps.commit(s, me, instances=runs, now=self.now))
        else:
            self._step(lambda s: steps.abort(s, me, message="no"))

    # --- what is counted

    def look(self) -> None:
        """Whether a trainer and an engine hold memory of the same GPU now."""
        for process in self.processes:
            shared = self.memory.intersection(process.pod.devices)
            if process.holds and shared:
                self.both.append(f"{process.pod.name} and the trainer on {sorted(shared)}")

    def step(self) -> None:
        """One step of anything."""
        self.steps += 1
        self.now += 0.2
        if self.choose(40) == 0:
            faults = (
                *((self.crash, self.evict) * 4),
                *(self.kill_trainer, self.lose_lease, self.abort_by_force, self.restart_operator),
            )
            faults[self.choose(len(faults))]()
            return
        kinds = (
            *((self.train,) * 6),
            *((self.observe,) * 4),
            *((self.deliver,) * 3),
            *((self.kubelet,) * 3),
        )
        kinds[self.choose(len(kinds))]()


def run(seed: int, *, steps: int = 400, defect: str = "") -> World:
    """One run of random steps."""
    world = World(random.Random(seed).randrange, defect=defect)
    for _ in range(steps):
        world.step()
    return world
