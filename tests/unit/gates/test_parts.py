"""A part of a pool sleeps: its gates close, those of the others stay as the commit has them."""

import dataclasses

import pytest

from sglang_operator.gates import decide
from sglang_operator.observed.model import EngineReport, Gate
from sglang_operator.weights import lease_state, parts, steps
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.rules import Trainer
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, weighed

TRAINER = Trainer(holder="trainer", transaction="t1")
OPEN = Gate(is_open=True, version="v1", reason=decide.COMMITTED)
SLEEPS = Gate(is_open=False, reason=Phase.SLEEPING.value, released=frozenset({"weights"}))
BOTH = ("weights", "kv_cache")


class Case:
    """Four engines that serve v1; the first two sleep, or are about to."""

    def __init__(self, gate="Committed", tags=BOTH, checkpoint=""):
        recovers = {"recovery": "FromCheckpoint"} if checkpoint else {}
        self.pool = a_pool(replicas=4, weights={"gate": gate, **recovers})
        self.pods = [
            a_pod(self.pool, e, container_id=f"c{e.rank}", gate=OPEN, ready=True)
            for e in self.pool.running
        ]
        self.runs = [str(pod.instance) for pod in self.pods]
        self.tags = tags
        begun = steps.begin(Transaction(), TRAINER, epoch="e", version="v1", now=NOW, seen=NOW)
        self.committed = steps.commit(
            begun, TRAINER, instances=self.runs, now=NOW, checkpoint=checkpoint
        )
        self.about = parts.sleep(
            self.committed, TRAINER, instances=self.runs[:2], tags=tags, now=NOW, seen=NOW
        )
        named = parts.slept(self.about, TRAINER, instances=self.runs[:2], tags=tags, now=NOW)
        self.asleep = steps.rests(named, TRAINER)
        woken = steps.woke(self.asleep, TRAINER, instances=self.runs[:1], tags=tags)
        self.one_awake = parts.wake(woken, TRAINER, instances=self.runs[:1], now=NOW)
        woken = steps.woke(self.one_awake, TRAINER, instances=self.runs[1:2], tags=tags)
        self.awake = parts.wake(woken, TRAINER, instances=self.runs[1:2], now=NOW)

    def decide(self, state, now=NOW, **observed):
        reports = {run: EngineReport(instance=run, weight_version="v1") for run in self.runs}
        lease = a_lease_saying(self.pool, state)
        return weighed(self.pool, self.pods, now, reports=reports, children=lease, **observed)

    @property
    def open(self):
        return [pod.gate is not None and pod.gate.is_open for pod in self.pods]

    def move(self, state):
        """What is decided is done; the engines whose gates moved, and how."""
        moved = {change.pod.uid: change for change in self.decide(state).gates}
        self.pods = [_after(pod, moved.get(pod.uid)) for pod in self.pods]
        return {
            rank: moved[pod.uid].is_open for rank, pod in enumerate(self.pods) if pod.uid in moved
        }


def _after(pod, change):
    if change is None:
        return pod
    version = change.message if change.is_open else ""
    released = None if change.is_open else lease_state.marked(change.message)
    gate = Gate(is_open=change.is_open, version=version, reason=change.reason, released=released)
    return dataclasses.replace(pod, gate=gate, ready=change.is_open)


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
@pytest.mark.parametrize("tags", [BOTH, ("kv_cache",)])
def test_exactly_the_gates_of_the_part_close_and_open_again(gate, tags):
    case = Case(gate, tags)
    assert case.move(case.about) == {0: False, 1: False}
    assert case.move(case.asleep) == {}
    assert case.decide(case.asleep).settled
    back = {} if "weights" in tags else {0: True}
    assert {rank: how for rank, how in case.move(case.one_awake).items() if how} == back
    assert not case.open[1]
    assert all(pod.gate == OPEN for pod in case.pods[2:])
    after = case.move(case.awake)
    assert {rank for rank, how in after.items() if how} == ({1} if back else set())
    assert case.open == [bool(back)] * 2 + [True] * 2


def test_what_a_part_sleeps_on_is_remembered_by_its_pods_alone_if_the_lease_is_lost():
    case = Case()
    case.move(case.about)
    case.move(case.asleep)
    plan = case.decide(Transaction(), said=case.asleep)
    assert plan.abort is not None
    lost = plan.abort.state
    assert lost.phase is Phase.ABORTED
    assert [lost.sleeps(run) for run in case.runs] == [{*BOTH}] * 2 + [frozenset()] * 2


def test_the_trainer_waits_for_the_part_only():
    case = Case()
    before = decide.TrainerSignal()
    assert case.decide(case.about).awaited(before).serves
    case.move(case.about)
    signal = case.decide(case.about).awaited(before)
    assert not signal.serves
    assert signal.step == ("t1", Phase.SLEEPING)


def test_an_engine_that_wakes_behind_the_commit_catches_up_from_its_checkpoint():
    case = Case(checkpoint="/c/v1")
    case.move(case.about)
    assert case.decide(case.asleep, now=NOW + 60).recovery is None, "its memory is not there"
    case.move(case.awake)
    found = case.decide(case.awake, now=NOW + 60).recovery
    assert found is not None
    assert found.state.recovering == {*case.runs[:2]}


def test_one_that_came_up_while_a_part_sleeps_is_closed_like_any_other_beside_a_commit():
    case = Case()
    case.move(case.about)
    again = dataclasses.replace(case.pods[3], container_id="c9", gate=OPEN)
    case.pods[3] = again
    assert case.move(case.asleep) == {3: False}


def test_engines_of_a_part_count_as_closed_and_hold_what_they_kept():
    case = Case(tags=("kv_cache",))
    case.move(case.about)
    plan = case.decide(case.asleep)
    assert (plan.synced, plan.holding, plan.covered) == (2, 4, 4)
    case = Case()
    case.move(case.about)
    plan = case.decide(case.asleep)
    assert (plan.synced, plan.holding, plan.covered) == (2, 2, 2)


def test_a_part_whose_trainer_is_gone_before_it_named_anybody_stays_closed_beside_the_others():
    case = Case()
    case.move(case.about)
    over = case.decide(case.about, now=NOW + lease_state.LEASE_SECONDS + 1).abort
    assert over is not None
    assert over.state.apart == {*case.runs[:2]}
    case.move(over.state)
    assert case.open == [False, False, True, True]


def beside(torn, asleep=""):
    """Nobody has committed anything, and the Lease says that all is as it was started."""
    said = Transaction(phase=Phase.AWAKE, intact=True, torn=frozenset(torn))
    if not asleep:
        return said
    said = dataclasses.replace(said, phase=Phase.SLEEPING, id="t1", released=("kv_cache",))
    return dataclasses.replace(said, asleep=(asleep,), apart=frozenset({asleep}))


@pytest.mark.parametrize("slept", [False, True], ids=["serving", "just awake"])
@pytest.mark.parametrize("asleep", [False, True], ids=["all awake", "another sleeps"])
def test_no_label_opens_the_gate_of_an_engine_that_gave_up_weights_nobody_committed(slept, asleep):
    """It says the version that it had before, and no commit tells it from the others."""
    case = Case("Versioned")
    if slept:
        case.pods[1] = dataclasses.replace(case.pods[1], gate=SLEEPS, ready=False)
    case.move(beside(case.runs[1:2], case.runs[0] if asleep else ""))
    assert case.open == [not asleep, False, True, True]
    plan = case.decide(beside(case.runs[1:2]))
    assert case.runs[1] not in {e.instance for e in plan.engines if e.name in plan.versions}
    case.move(Transaction(torn=frozenset(case.runs[1:2])))
    assert not case.open[1]
