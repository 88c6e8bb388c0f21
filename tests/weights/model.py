"""A model of everything that stands between a trainer's bytes and a client's answer.

Engines, kubelet, the client Service with its lag and kept connections, requests that a pause finds
on their way to the scheduler, one or two operators and trainers that die at any point, loads of
checkpoints that fail, arrive late or are forgotten (``loads``), and Leases that are deleted or
emptied.  What decides is the real code: ``gates.decide.decide`` for the operator, ``weights.steps``
for the trainer in the order of ``client.sync`` and ``client.sleeping``.  The rest is written here,
as the real parts were seen to behave.

``World.step`` takes one step that ``choose`` picks; ``World.violations`` holds every answer that a
client got from weights that are random, torn, released, of a version that is not whole or older
than its gate says, or from the cache of other weights, and every load that wrote over what was
newer.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sglang_operator.api import names
from sglang_operator.api.spec import Recovery, Weights
from sglang_operator.children import trainer_registry
from sglang_operator.gates import decide
from sglang_operator.gates.lease import LeaseStep
from sglang_operator.gates.recovery import Recover
from sglang_operator.observed.engine_state import EngineState
from sglang_operator.observed.engines import EngineStatus
from sglang_operator.observed.model import (
    EngineReport,
    Gate,
    Observed,
    ObservedChild,
)
from sglang_operator.weights import lease_state, lost_lease, steps, unslept
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction
from sglang_operator.weights.trail import Trail
from tests.builders import NOW, OWNER
from tests.weights.ground import (
    BAD,
    LEASE_SECONDS,
    RUNS_ON,
    STEP_SECONDS,
    Choose,
    Entry,
    Registry,
    run_of,
)
from tests.weights.loads import Loads
from tests.weights.part_sleep import CLOSES, OPENS, Parts, earlier, left_standing
from tests.weights.trainers import (
    AMID,
    ANY_RUNS,
    DIED,
    EDITED,
    ENDED,
    FREES,
    GUESSED,
    LOST,
    NAMESAKE,
    OWN_JOB,
    SHORTENED,
    UNFENCED,
    UNVOUCHED,
    WRITES_ON,
)

FORGETFUL = "believes a Lease that has forgotten"
USUAL_TAGS = "takes a lost Lease's sleepers for without all of their memory"
MARKED_LATE = "marks on gates what has been released, and not what is about to be"
REMEMBERED = "takes for asleep whom a sleep that is over has not named"
LATE = "writes gates by the pod's UID alone"
FREE = "makes a lost Lease anew for whoever comes first"
UNSEEN = "writes into the Lease whatever stands there by now"
COUNTED = "counts transactions alone in a Lease that was put back"
# Ways in which the design could be wrong, and the pool's gate: each has to be found.
CONTROLS = (
    ("no gate", "Committed"),
    ("opens at begin", "Committed"),
    ("does not pause", "Committed"),
    ("does not pause", "Versioned"),
    ("does not flush", "Committed"),
    (RUNS_ON, "Committed"),
    (RUNS_ON, "Versioned"),
    (ANY_RUNS, "Committed"),
    (ANY_RUNS, "Versioned"),
    ("loads without a fence", "Committed"),
    (AMID, "Committed"),
    (FORGETFUL, "Committed"),
    (FORGETFUL, "Versioned"),
    (FREES, "Committed"),
    (EDITED, "Committed"),
    (USUAL_TAGS, "Committed"),
    (MARKED_LATE, "Committed"),
    (REMEMBERED, "Committed"),
    (UNVOUCHED, "Committed"),
    (DIED, "Committed"),
    (UNFENCED, "Committed"),
    (SHORTENED, "Committed"),
    (NAMESAKE, "Committed"),
    (OWN_JOB, "Committed"),
    (GUESSED, "Committed"),
    (LATE, "Committed"),
    (FREE, "Committed"),
    (FREE, "Versioned"),
    (UNSEEN, "Committed"),
    (COUNTED, "Committed"),
)
_SHOWN_BY_GATES = (FORGETFUL, FREE, UNSEEN, COUNTED)
# Of ROLL's jobs alone.
ROLL_CONTROLS = (
    *((UNVOUCHED, "Committed"), (DIED, "Committed"), (ANY_RUNS, "Committed")),
    *((LOST, "Committed"), (ENDED, "Committed"), (WRITES_ON, "Committed")),
)


@dataclass
class Operator:
    """A view of its own, which may be old, and what it is about to do."""

    name: str  # of this life: no other has it
    seen: Observed | None = None
    since: float = NOW  # this state of the Lease was first seen
    lease: dict[str, Any] | None = None
    said: Transaction | None = None  # what the Lease said last; None: it only knows the registry
    pending: list[decide.GateChange] = field(default_factory=list)
    step: LeaseStep | None = None  # that it is about to take in the Lease
    loads: Loads = field(default_factory=Loads)
    before: bool = False  # of an earlier release


class World(Parts):
    """Everything together, one step after the other."""

    def __init__(self, choose: Choose, **options: Any) -> None:
        super().__init__(choose, **options)
        self.lives = 0  # of operators
        self.operators = [self._operator(), self._operator()]
        self.late: list[decide.GateChange] = []  # gates on their way, of whichever operator
        self._aimed: dict[str, tuple[tuple[Callable[[], bool], Callable[[], None]], ...]] = {
            FORGETFUL: ((self._syncs, self.lose_lease),),
            FREE: ((self._syncs, partial(self._then_begins, self.lose_lease)),),
            UNSEEN: (
                (self._is_whole, self.crash),
                (self._about_to_step, self._begin),
                (self._syncs, self._step_late),
            ),
            FREES: ((self._syncs, partial(self._then_begins, self.abort_by_force)),),
            ENDED: ((self._is_vouched_for, self.abort_by_force),),
            EDITED: ((self._syncs, partial(self._then_begins, self.edit_holder)),),
            UNFENCED: ((self._syncs, partial(self._then_begins, self.edit_fence)),),
            SHORTENED: ((self._syncs, self._then_waits),),
            DIED: ((self._syncs, self._then_attaches),),
            NAMESAKE: ((self._works, partial(self._then_wakes, self.start_twice)),),
            GUESSED: ((self._sleeps_at_rest, self._wake_at_once),),
            OWN_JOB: ((self._is_given_up, self._sleep_at_once),),
            USUAL_TAGS: ((self._sleeps, self.lose_lease),),
            MARKED_LATE: (
                (self._sleeps_on_less, self._sleep_again),
                (self._sleeps_unmarked, self.lose_lease),
            ),
            REMEMBERED: (
                (self._is_about_to_sleep, self.kill_trainer),
                (self._is_left_unnamed, self._lose_lease_later),
            ),
            LATE: (
                (self._wakes, self.delay_gates),
                (self._sleeps_marked, self._land_late),
            ),
            COUNTED: ((self._syncs, self.put_lease_back),),
            AMID: ((self._is_whole, self.crash), (self._loads, self._overtake)),
        }

    def _operator(self) -> Operator:
        self.lives += 1
        before = self.mixed and self.choose(2) == 0
        return Operator(name=f"operator-{self.lives}", before=before)

    # --- when a control's fault is likely to show

    def _syncs(self) -> bool:
        return self.said.phase is Phase.SYNCING

    def _is_vouched_for(self) -> bool:
        """Some workers have given their word, and the leader waits for the others'."""
        return self._syncs() and bool(self.said.wrote)

    def _sleeps(self) -> bool:
        return self.said.phase is Phase.SLEEPING

    def _sleeps_at_rest(self) -> bool:
        return self._sleeps() and bool(self.said.asleep) and not self.said.at_work

    def _wake_at_once(self) -> None:
        """Its own trainer, once more if it has done so before."""
        self.namesake = self.said.holder
        self.trainer = self._wake()
        self.train()

    def _sleeps_on_less(self) -> bool:
        """Engines sleep with their weights, and nobody is at work."""
        said = self.said
        return self._sleeps() and not said.at_work and said.released == ("kv_cache",)

    def _sleep_again(self) -> None:
        """Their trainer puts them to sleep once more, maybe without."""
        self.namesake = self.said.holder
        self.trainer = self._sleep()
        self.train()

    def _sleeps_unmarked(self) -> bool:
        """An engine has released more than its gate says."""
        return self._sleeps() and any(
            e.pod.gate is not None and e.released - (e.pod.gate.released or frozenset())
            for e in self.engines
        )

    def _is_about_to_sleep(self) -> bool:
        """Gates say that engines sleep, and the trainer has named none yet."""
        marked = any(e.pod.gate is not None and e.pod.gate.released for e in self.engines)
        return self._sleeps() and self.said.releases and marked

    def _is_left_unnamed(self) -> bool:
        """The same, and the trainer is gone."""
        return self.trainer is None and self._is_about_to_sleep()

    def _lose_lease_later(self) -> None:
        """Somebody looks at a sleep that is stuck, and deletes its Lease."""
        self._work()
        self.now += LEASE_SECONDS + 1
        self._work()
        for engine in self.engines:
            engine.announced &= engine.released  # nobody is there any more who would release it
        self.lose_lease()

    def _is_given_up(self) -> bool:
        """A job has aborted its sync, and nobody begins anything yet."""
        return self.trainer is None and self.said.fenced and self.said.shared

    def _sleep_at_once(self) -> None:
        self.namesake = self.said.holder
        self.trainer = self._sleep()
        self.train()

    def _works(self) -> bool:
        """A trainer puts engines to sleep, or wakes them."""
        return self.said.at_work and self.said.phase is Phase.SLEEPING

    def _wakes(self) -> bool:
        """An operator is about to open gates, or to take marks off."""
        return self.said.phase is not Phase.SLEEPING and any(o.pending for o in self.operators)

    def _sleeps_marked(self) -> bool:
        return bool(self.late) and any(e.released for e in self.engines)

    def _land_late(self) -> None:
        """The Lease is deleted while no operator runs: the next go by gates, and by the registry.

        Who has read in the Lease who sleeps does not need a mark.
        """
        for change in self.late:
            self._set(change)
        self.late = []
        self.operators = [self._operator(), self._operator()]
        self.lease = None
        self._cut_off()
        for operator in self.operators:
            self._observe(operator)
            self._publish(operator)

    def _is_whole(self) -> bool:
        """There is a checkpoint, and nobody loads it yet."""
        return (
            self.said.phase is Phase.COMMITTED and bool(self.said.checkpoint) and not self._loads()
        )

    def _loads(self) -> bool:
        return self.said.recovers

    def _about_to_step(self) -> bool:
        """One of two operators is about to write, and what it has seen is not old yet."""
        return any(operator.step is not None for operator in self.operators)

    def _step_late(self) -> None:
        for operator in self.operators:
            self._write_lease(operator)

    def _overtake(self) -> None:
        """A trainer begins while a load is on its way."""
        for operator in self.operators:
            self._send(operator)
        if self.wires:
            self._begin()

    def _begin(self) -> None:
        """A trainer begins, whoever was at it."""
        self.trainer = self._sync()
        self.train()

    def _then_begins(self, fault: Callable[[], None]) -> None:
        """Somebody takes the Lease from a trainer, and the next one is there at once."""
        fault()
        self._begin()

    def _then_waits(self) -> None:
        """Somebody has the Lease say that it is over soon, and the next trainer waits for that."""
        self.edit_duration()
        self._go_on(1.5)
        self._begin()

    def _then_wakes(self, fault: Callable[[], None]) -> None:
        """Somebody wakes the pool at once."""
        fault()
        self.trainer = self._wake()
        self.train()

    def _then_attaches(self) -> None:
        """A trainer dies where it is, and its next process ends what it was at."""
        self.kill_trainer()
        self.trainer = self._attach()
        self.train()

    # --- operators

    def observe(self) -> None:
        """One operator's watches catch up, and it decides."""
        operator = self.operators[self.choose(len(self.operators))]
        self._observe(operator)

    def _observe(self, operator: Operator) -> None:
        if _said(operator.lease) != _said(self.lease):
            operator.since = self.now
        operator.lease = self.lease
        sees = earlier(self.lease) if operator.before else self._seen_by(self.lease)
        key = ("Lease", names.weights_lease_name(OWNER.name))
        children = {}
        if sees is not None:
            children[key] = ObservedChild(
                uid=names.Uid("lease"), owner=OWNER.uid, body=sees, seen=operator.since
            )
        operator.said = operator.said or self.registry.said
        if self.defect == COUNTED and operator.said is not None:
            operator.said = replace(operator.said, trail=Trail())
        operator.seen = Observed(
            said=operator.said,
            pods=tuple(engine.pod for engine in self.engines),
            children=children,
            reports={
                run_of(e): EngineReport(
                    instance=run_of(e),
                    weight_version=e.label,
                    loading=operator.loads.loading(run_of(e)),
                )
                for e in self.engines
            },
        )
        decided = self._decide(operator)
        operator.said = decided.said
        operator.pending = list(decided.gates)
        if self.parts and not operator.before and self.defect in ("", OPENS, CLOSES):
            for change in decided.gates:
                self._look_at_change(change)
        operator.step, wanted = decided.recovery, decided.recoveries
        fenced = self.defect != "loads without a fence"
        if operator.step is not None and not fenced:
            # It loads what it would have taken the Lease for, and takes no Lease.
            wanted, operator.step = _loads(operator.step.state, decided.engines), None
        operator.loads.permit(wanted, self.now, fenced=fenced)

    def _decide(self, operator: Operator) -> decide.GatePlan:
        assert operator.seen is not None
        views = tuple(
            EngineStatus(engine=engine, state=EngineState.UP, members=(pod,))
            # What came since it has not seen.
            for engine, pod in zip(self.pool.engines, operator.seen.pods, strict=False)
        )
        policy = Weights(gate=self.pool.gate, recovery=Recovery.FROM_CHECKPOINT)
        seen = operator.seen if self.defect != MARKED_LATE else _late(operator.seen)
        decided = decide.decide(OWNER, policy, views, seen, self.now, operator.name)
        if self.defect == FORGETFUL:
            idle = decided.transaction.phase is Phase.IDLE
            decided = replace(decided, restore=None, abort=None if idle else decided.abort)
        if self.defect == FREE:
            decided = _free(decided)
        if self.defect == REMEMBERED and decided.transaction.releases:
            decided = replace(decided, abort=None)
        if self.defect == USUAL_TAGS:
            decided = _of_all_memory(decided)
        if self.defect == "opens at begin" and decided.transaction.phase is Phase.SYNCING:
            opened = tuple(
                decide.GateChange(pod=pod, is_open=True, reason="begin", message="?")
                for view in views
                for pod in view.members
                if not (pod.gate and pod.gate.is_open)
            )
            decided = replace(decided, gates=opened)
        return decided

    def write_gate(self) -> None:
        """One operator's next gate reaches the API server, or one that was long on its way."""
        operator = self.operators[self.choose(len(self.operators))]
        if self.late and self.defect != LATE and self.choose(4) == 0:
            self._set(self.late.pop(self.choose(len(self.late))))
        elif operator.pending:
            self._set(operator.pending.pop(0))

    def delay_gates(self) -> None:
        """What an operator writes is on its way for long; nobody waits for it."""
        operator = self.operators[self.choose(len(self.operators))]
        self.late += operator.pending
        operator.pending = []

    def _set(self, change: decide.GateChange) -> None:
        """It lands over the gate that was seen, and over no other, however old it is."""
        for engine in self.engines:
            seen = engine.pod.gate == change.pod.gate or self.defect == LATE
            if engine.pod.uid == change.pod.uid and seen:
                version = change.message if change.is_open else ""
                released = None if change.is_open else lease_state.marked(change.message)
                gate = Gate(
                    is_open=change.is_open,
                    version=version,
                    reason=change.reason,
                    released=released,
                )
                engine.pod = replace(engine.pod, gate=gate)

    def publish(self) -> None:
        """One operator writes what it decided last into registry and Lease."""
        operator = self.operators[self.choose(len(self.operators))]
        if operator.seen is not None and not operator.pending:
            self._publish(operator)

    def _publish(self, operator: Operator) -> None:
        assert operator.seen is not None
        decided = self._decide(operator)
        if decided.abort is not None:
            self._take(decided.abort, operator)
            return
        if not any(kind == "Lease" for kind, _ in operator.seen.children) and self.lease is None:
            self._put(decided.restore or Transaction())
            return
        if operator.lease is self.lease and decided.settled:
            self._settled()
        self.registry = Registry(
            said=_registered(decided),
            epoch=decided.epoch,
            transaction=decided.transaction.id if decided.settled else "",
            engines=tuple(
                Entry(engine.instance or "", True, engine.ready)
                for engine in decided.engines
                if engine.exists
            ),
        )

    def _settled(self) -> None:
        """Every gate says of its engine's memory what the Lease says: that is what is known."""
        if not any(change.reason == "Sleeping" for o in self.operators for change in o.pending):
            for engine in self.engines:
                engine.announced &= self._may_sleep(run_of(engine))

    def _take(self, step: LeaseStep, operator: Operator) -> bool:
        """An operator's step in the Lease, if that is still as it was seen."""
        if self.lease is None:
            return False
        seen = step.resource_version == self.lease["metadata"]["resourceVersion"]
        if not seen and self.defect != UNSEEN:
            return False
        # As the API server merges what the executor sends.
        patch = lease_state.patch(step.lease.body, step.state)
        merged = lease_state.read(
            {
                "metadata": {
                    "annotations": {k: v for k, v in patch["metadata"]["annotations"].items() if v}
                },
                "spec": patch["spec"],
            }
        )
        before = self.lease
        self._put(merged)
        if operator.before:
            self.lease = self.backups[-1] = left_standing(before, self.lease)
        return True

    def _write_lease(self, operator: Operator) -> None:
        step, operator.step = operator.step, None
        if step is not None and self._take(step, operator):
            operator.loads.stepped_at = self.now

    # --- loads: an operator sends, the message arrives or is lost, the engine reads

    def load(self) -> None:
        """Something goes on with the loads, if anything can."""
        operator = self.operators[self.choose(len(self.operators))]
        moves: list[Callable[[], None]] = [partial(self._send, operator)]
        if operator.step is not None:
            moves.append(partial(self._write_lease, operator))
        if self.wires:
            moves.append(self._arrive)
        moves += [partial(self._work_off, engine) for engine in self.engines if engine.inbox]
        moves[self.choose(len(moves))]()

    def _send(self, operator: Operator) -> None:
        """One operator's next request leaves, if it still may."""
        fenced = self.defect != "loads without a fence"
        message = operator.loads.send(self.choose, self.now, fenced=fenced)
        if message is not None:
            self.wires.append(message)

    def _arrive(self) -> None:
        """What was sent arrives, in any order."""
        self._deliver(self.wires.pop(self.choose(len(self.wires))))

    def lose_answer(self) -> None:
        """A connection breaks: what it carried may be there, on its way or lost."""
        operator = self.operators[self.choose(len(self.operators))]
        operator.loads.lose_answer(self.choose, self.now)

    # --- Leases that somebody deletes or empties by hand

    def lose_lease(self) -> None:
        """An operator acts before the next trainer begins: by a Lease alone nobody else can tell.

        The trainer that is at it goes on until it looks.
        """
        for operator in self.operators:
            # Its stream tells of each state, though no pass may have come between the last two.
            operator.said = self.said if lost_lease.was_begun(self.said) else operator.said
        if self.choose(2):
            self.lease = None
        else:
            self._put(Transaction())
        self._cut_off()
        for operator in self.operators:
            self._observe(operator)
            self._publish(operator)

    def put_lease_back(self) -> None:
        """Somebody applies what the Lease said before, and others begin by it in vain.

        No engine is told anything before an operator has seen who began.  The operators have seen
        what was since, by their streams; or they are new, and the registry is as new as that.
        """
        if self.lease is None:
            return
        for operator in self.operators:
            operator.said = self.said if lost_lease.was_begun(self.said) else operator.said
        told = self.registry.said
        known = told is not None and told.trail == self.said.trail.last and told.trail.steps
        if known and self.choose(2):
            self.operators = [self._operator(), self._operator()]
        self._put_back(self.backups[self.choose(len(self.backups))])
        self._cut_off()
        for _ in range(self.choose(4)):
            self._begin_in_vain()
        for operator in self.operators:
            self._observe(operator)
            self._publish(operator)

    def _begin_in_vain(self) -> None:
        """A trainer that withdraws its sync, or gives up a sleep; nothing was sent."""
        before, trainer = self.said, self._trainer()
        at: dict[str, Any] = {"now": self.now, "seen": self.shown_since}
        with contextlib.suppress(steps.RefusedError):
            if self.choose(2):
                runs = [run_of(engine) for engine in self.engines]
                version = f"v{self.versions}"
                state = steps.begin(before, trainer, epoch="", version=version, engines=runs, **at)
                self._put(state)
                told: dict[str, Any] = {"message": "in vain", "now": self.now}
                self._put(steps.withdraw(self.said, trainer, before, **told))
            else:
                self._put(steps.sleep(before, trainer, tags=SLEEP_TAGS, **at))
                self._put(unslept.given_up(self.said))

    def leave_asleep(self) -> None:
        """A trainer is killed before it has named whom it puts to sleep; the Lease goes later."""
        if self._is_about_to_sleep():
            self.kill_trainer()
            self._lose_lease_later()

    def operate(self) -> None:
        """One operator does all there is to do, and kubelet and the Service follow."""
        which = self.choose(len(self.operators))
        self.operators.insert(0, self.operators.pop(which))
        self._work(rounds=1)

    def restart_operator(self) -> None:
        """An operator forgets all; what it was about to write may be lost."""
        self.operators[self.choose(len(self.operators))] = self._operator()

    # --- a run

    def step(self) -> None:
        """One step of anything."""
        self.steps += 1
        self._go_on(STEP_SECONDS)
        for likely, fault in self._aimed.get(self.defect, ()):
            if likely() and self.choose(4 if self.defect == LATE else 10) == 0:
                fault()  # so that it is found in a few runs
        if self.choose(60) == 0:
            faults = (
                *(self.pass_time, self.crash, self.kill_trainer, self.restart_operator) * 2,
                *(self.lose_answer, self.lose_lease, self.abort_by_force, self.edit_holder),
                *(self.delay_gates, self.grow, self.start_twice, self.leave_asleep),
                self._then_waits,
                self.put_lease_back,
            )
            faults[self.choose(len(faults))]()
            return
        if self.cut_off and self.choose(2):
            self.train()  # whoever lost the Lease meets who took it, or nobody
            return
        kinds = (
            *((self.train,) * 24),
            *((self.operate,) * 2),
            *((self.observe,) * 6),
            *((self.write_gate,) * 5),
            *((self.publish,) * 3),
            *((self.load,) * 8),
            *((self.kubelet, self.proxy) * 4),
            *((self.request, self.request_again) * 4),
            *((self.compute,) * 3),
        )
        kinds[self.choose(len(kinds))]()

    def settle(self, rounds: int = 3) -> None:
        """From here on nothing fails, and the trainer keeps going: everything has to come right."""
        self.fair = True
        self.trainer = None
        self.namesake = ""
        self.cut_off = []
        self.operators = [self._operator()]
        while self.wires:
            self._deliver(self.wires.pop())
        while self.late:
            self._set(self.late.pop())
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
            self.now += LEASE_SECONDS + 1  # whoever holds the Lease is gone

    def rest(self) -> None:
        """Nobody trains, and one operator does all there is to do."""
        self.trainer = None
        self.cut_off = []
        self.operators = [self._operator()]
        self._work()

    def unsettle(self) -> None:
        """From here on anything may happen again."""
        self.fair = False
        self.operators = [self._operator(), self._operator()]

    def _work(self, rounds: int = 2) -> None:
        """The operator, kubelet and the Service do all there is to do."""
        picking, engine = self.choose, 0
        self.choose = lambda count: engine % count
        for _ in range(rounds):
            self.observe()
            self._catch_up(self.operators[0])
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
        if rounds > 1:
            self._look_at_gates()

    def _catch_up(self, operator: Operator) -> None:
        """Loads go as far as they can: the Lease is taken, engines read, and it is given back."""
        while operator.step is not None:
            self._write_lease(operator)
            self._observe(operator)
            while message := operator.loads.send(self.choose, self.now):
                self._deliver(message)
                self._find(message.instance)
            self._observe(operator)

    def _look_at_gates(self) -> None:
        """While nobody writes, whoever is in service by its gate holds whole weights."""
        if self.said.phase is Phase.SYNCING or self.defect not in ("", *_SHOWN_BY_GATES):
            return
        for engine in self.engines:
            gate = engine.pod.gate
            run, said = run_of(engine), self.said
            serves = said.serving and run in said.instances and run not in said.apart
            if serves and not ((gate and gate.is_open) or self.operators[0].before):
                self.violations.append(f"{engine.pod.name}, which serves on, has no open gate")
            if gate is not None and gate.is_open and engine.holds in BAD:
                self.violations.append(f"{engine.pod.name}, {engine.holds}, has an open gate")

    def synced(self) -> bool:
        """Whether every engine is whole, of one version, and reached by clients."""
        held = {engine.holds for engine in self.engines}
        return (
            len(held) == 1
            and not held & set(BAD)
            and all(run_of(e) in self.service and not e.paused for e in self.engines)
        )


def _registered(decided: decide.GatePlan) -> Transaction | None:
    """What an operator that begins later reads of the Lease in the registry."""
    weights = trainer_registry.acted_upon(decided, decided.engines)
    engines = [{"instance": engine.instance} for engine in decided.engines]
    text = json.dumps({"weights": weights, "engines": engines})
    return trainer_registry.last_said({trainer_registry.ENGINES_KEY: text})


def _loads(state: Transaction, engines: tuple[EngineStatus, ...]) -> tuple[Recover, ...]:
    """The loads that this state of the Lease names."""
    return tuple(
        Recover(
            pod=leader,
            instance=leader.instance,
            checkpoint=state.checkpoint,
            version=state.version,
            commit=state.id,
        )
        for engine in engines
        for leader in engine.members
        if leader.instance in state.recovering
    )


def _of_all_memory(decided: decide.GatePlan) -> decide.GatePlan:
    """What is written of a Lease that has forgotten, without what gates say of tags."""
    if decided.restore is not None and decided.restore.asleep:
        return replace(decided, restore=_usual(decided.restore))
    if decided.abort is not None and decided.abort.state.asleep:
        return replace(decided, abort=replace(decided.abort, state=_usual(decided.abort.state)))
    return decided


def _free(decided: decide.GatePlan) -> decide.GatePlan:
    """What is written in place of a lost Lease, without the hold on it."""
    if decided.restore is not None:
        return replace(decided, restore=replace(decided.restore, holder="", fence=False))
    if decided.abort is not None and decided.transaction.phase is Phase.IDLE:
        state = replace(decided.abort.state, holder="", fence=False)
        return replace(decided, abort=replace(decided.abort, state=state))
    return decided


def _late(seen: Observed) -> Observed:
    """What an operator sees, without the word that more is about to be released."""
    children = {
        key: replace(child, body=_without_word(child.body)) for key, child in seen.children.items()
    }
    return replace(seen, children=children)


def _without_word(lease: Mapping[str, Any]) -> dict[str, Any]:
    return lease_state.written(lease, replace(lease_state.read(lease), releases=False))


def _usual(state: Transaction) -> Transaction:
    return replace(state, released=SLEEP_TAGS, woken=frozenset())


def _said(lease: dict[str, Any] | None) -> object:
    """What stands in a Lease, renewals too: its expiry counts from the last change."""
    lease = lease or {}
    return lease.get("metadata", {}).get("annotations"), lease.get("spec", {})


def run(choose: Choose, *, steps: int = 120, **world: Any) -> World:
    """One run of random steps, and then a fair end."""
    made = World(choose, **world)
    if choose(4) and not made.labelled:
        made.settle(rounds=1)  # most of the life of a pool comes after its first sync
        made.unsettle()
        for _ in range(choose(3)):
            made.crash()
    for _ in range(steps):
        made.step()
    if not world.get("defect"):
        made.settle()
    elif world["defect"] in _SHOWN_BY_GATES:
        made.rest()
    elif world["defect"] in (USUAL_TAGS, MARKED_LATE, REMEMBERED, LATE):
        made.settle(rounds=1)  # who syncs next wakes the sleepers
        for _ in range(20):
            made.request()  # of an engine that still sleeps it is the last
    return made
