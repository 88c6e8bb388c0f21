"""A model of turns: a trainer and engines on its GPUs never hold their memory together.

What decides is the real code: ``plan.plan`` says which pods are made and which go,
``gates.decide`` what becomes of a Lease that was lost, ``gates.standing`` which engines the
registry says to wait and ``gates.holders`` who else may be on their GPUs, ``weights.steps`` and
``weights.parts`` what stands in the Lease, in the order of ``client.sleeping`` and
``client.turns``.  The rest is written here and in ``turn_trainers``: an operator whose requests are
on their way for as long as they like, kubelet, which starts what is there and lets go of what
drains, engines that end at any moment, trainers that die and come back, a spec that groups the
GPUs anew whoever sleeps on them, and Leases that are deleted, emptied, put back or ended by force.

``World.both`` holds every moment at which a trainer and an engine held memory of one GPU.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from sglang_operator.api import names, spec
from sglang_operator.gates import decide, holders, standing
from sglang_operator.observed.model import Observed, ObservedChild, ObservedPod
from sglang_operator.plan import seating
from sglang_operator.plan.plan import Plan, plan
from sglang_operator.pool.resolve import Engine, Pool
from sglang_operator.weights import lease_state, lost_lease, steps, turn
from sglang_operator.weights.lease_state import Transaction
from tests.builders import NOW, OWNER, a_pod
from tests.unit.placement.trainers import a_shared_pool, a_slot, seen
from tests.weights.turn_things import DiesError, Operator, Process, Told, told
from tests.weights.turn_trainers import GPUS, PHASE_ALONE, UNASKED, UNSETTLED, UNTOLD, Trainer

UNGUARDED = "starts engines whoever's turn it is"
UNSEEN = "says that engines wait whose pods it is making"
FORGETS = "takes a lost Lease for one that says nothing of turns"
IN_PLACE = "lets kubelet run an engine once more in its pod"
BY_NAME = "says that engines wait whose GPUs those of an older grouping have"
CONTROLS = (
    *(UNGUARDED, UNTOLD, UNSEEN, FORGETS, IN_PLACE),
    *(PHASE_ALONE, UNASKED, BY_NAME, UNSETTLED),
)
# GPUs by their ids, and how many of them each engine has.
_GROUPINGS = (
    *((f"list(range(0,{GPUS}))", 2), (f"list(range(0,{GPUS}))", 4)),
    *(("list(range(1,7))", 2), ("list(range(0,4))", 1)),
)


@cache
def _pools() -> tuple[Pool, ...]:
    return tuple(
        a_shared_pool(device_mapping=mapping, num_gpus_per_worker=each)
        for mapping, each in _GROUPINGS
    )


@cache
def _surroundings() -> Mapping[str, Any]:
    return seen(_pools()[0], a_slot(0))


class World:
    """Everything together, one step after the other."""

    def __init__(self, choose: Callable[[int], int], *, defect: str = "") -> None:
        self.choose, self.defect = choose, defect
        self.pool = _pools()[0]
        self.now = NOW
        self.attempts = 0
        self.processes: list[Process] = []
        self.lease: dict[str, Any] | None = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self._last_read: dict[str, Any] | None = None  # by ``said``, and what it says:
        self._says = Transaction()
        self.revision = 1
        self.backups: list[dict[str, Any]] = []
        self.operator = Operator()
        self.registry = Told()
        self.acted = ""  # the transaction that the registry knows of
        self.trainer = Trainer(self)
        self.both: list[str] = []
        self.steps = self.regrouped = 0

    # --- the Lease

    @property
    def said(self) -> Transaction:
        """What the Lease says; it is asked far more often than it changes."""
        if self._last_read is not self.lease:
            self._last_read = self.lease
            self._says = Transaction() if self.lease is None else lease_state.read(self.lease)
        return self._says

    def _put(self, state: Transaction) -> None:
        self.revision += 1
        self.lease = lease_state.written(self.lease or {"metadata": {}}, state)
        self.lease["metadata"]["resourceVersion"] = str(self.revision)
        self.backups = [*self.backups[-20:], self.lease]

    def take_step(self, step: Callable[[Transaction], Transaction]) -> Transaction:
        """A trainer's; raises DiesError, RefusedError."""
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
        operator.creates = [(create.engine, self.pool) for create in planned.creates]

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
        seen, seats = operator.seen, holders.NO_SEATS
        beside, heirs = planned.unlisted, planned.heirs
        weights = decide.decide(
            OWNER, policy, planned.engines, seen, self.now, "operator", beside, heirs
        )
        if self.defect == FORGETS and weights.restore is not None:
            lost = dataclasses.replace(weights.restore, turn=turn.ENGINES)
            weights = dataclasses.replace(weights, restore=lost)
        if self.defect == FORGETS and weights.abort is not None:
            state = dataclasses.replace(weights.abort.state, turn=turn.ENGINES)
            weights = dataclasses.replace(
                weights, abort=dataclasses.replace(weights.abort, state=state)
            )
        if planned.seating is not None:
            seats = planned.seating.seats
        every = (*weights.engines, *weights.unlisted)
        occupied = holders.occupied(seen.all_pods, seen.departing, seats, beside)
        untold = holders.untold(seen, every, weights.transaction, seats)
        if self.defect == BY_NAME:
            nobody: Any = frozenset()
            occupied, untold = dataclasses.replace(occupied, ids=nobody, gpus=nobody), ()
        return dataclasses.replace(weights, occupied=occupied, holders=untold)

    def _publish(self, weights: decide.GatePlan, *, making: bool) -> None:
        """The registry."""
        waiting = standing.waiting(weights.engines, weights.transaction, weights.occupied)
        waits = {each.name for each in waiting}
        if making and self.defect != UNSEEN:
            waits = set()
        self.registry = told(weights, waits)
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
            self._delete(operator.deletes.pop(0))
        elif operator.creates:
            self._create(*operator.creates.pop(0))

    def _delete(self, uid: names.Uid) -> None:
        """What runs drains for a while, or is gone at once."""
        for process in [each for each in self.processes if each.pod.uid == uid]:
            drains = process.pod.started and not process.ended
            if drains and not process.pod.deleting and self.choose(2):
                process.is_deleted(self.now)
            else:
                self.processes.remove(process)

    def _create(self, engine: Engine, pool: Pool) -> None:
        ended = [p for p in self.processes if p.pod.engine == engine.name and p.ended]
        self.processes = [p for p in self.processes if p not in ended]
        if any(p.pod.engine == engine.name for p in self.processes):
            return  # the API server has one of that name
        self.attempts += 1
        known = seating.of(pool, Observed(**_surroundings()))
        assert known is not None
        seat = known.seats[engine.name][0]
        off: dict[str, Any] = {"engine_runs": False, "containers_ready": False, "phase": "Pending"}
        pod = a_pod(pool, engine, self.attempts, **off, uid=names.Uid(f"u{self.attempts}"))
        pod = dataclasses.replace(pod, node=seat.node, slot=seat.mark, gpus_seen=seat.gpus)
        self.processes.append(Process(pod=pod))

    # --- kubelet and engines

    def kubelet(self) -> None:
        """A pod's engine is started, or is up by now; or it has drained, and is gone."""
        waiting = [
            each
            for each in self.processes
            if each.pod.deleting or not (each.ended or each.pod.started)
        ]
        if not waiting:
            return
        process = waiting[self.choose(len(waiting))]
        if process.pod.deleting:
            if self.choose(8) == 0:
                self.processes.remove(process)
        elif not process.pod.engine_runs:
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

    def regroup(self) -> None:
        """The spec groups the GPUs anew, whoever sleeps there."""
        self.pool = _pools()[self.choose(len(_GROUPINGS))]
        self.regrouped += 1

    def _kill_what_outlasts_its_grace(self) -> None:
        self.processes = [
            each
            for each in self.processes
            if not each.pod.deleting or self.now < each.pod.deletion_due
        ]

    # --- what others do to the Lease

    def lose_lease(self) -> None:
        """It is deleted, emptied, or put back; an operator that has seen it takes it up.

        One that had been put back before it was lost says less than is known: its stream tells of
        each state (``controller.memory.last_said``).
        """
        operator, known = self.operator, self.operator.said
        if lost_lease.was_begun(self.said):
            back = known is not None and lost_lease.is_put_back(self.said, known)
            operator.said = known if back else self.said
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

    # --- what is counted

    def look(self) -> None:
        """Whether a trainer and an engine hold memory of the same GPU now."""
        for process in self.processes:
            shared = self.trainer.memory.intersection(process.pod.devices)
            if process.holds and shared:
                self.both.append(f"{process.pod.name} and the trainer on {sorted(shared)}")

    def step(self) -> None:
        """One step of anything."""
        self.steps += 1
        self.now += 0.2
        self._kill_what_outlasts_its_grace()
        if self.choose(40) == 0:
            faults = (
                *((self.crash, self.evict) * 4),
                *(self.trainer.dies, self.lose_lease, self.abort_by_force, self.restart_operator),
                *(self.regroup, self.regroup),
            )
            faults[self.choose(len(faults))]()
            return
        kinds = (
            *((self.trainer.goes_on,) * 6),
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
