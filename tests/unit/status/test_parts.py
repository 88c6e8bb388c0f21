"""A part of a pool sleeps in each step of a trainer: what the status says of it, and when."""

import dataclasses
from typing import Any

from sglang_operator.api import conditions, spec
from sglang_operator.gates import decide
from sglang_operator.observed.model import Gate, Observed
from sglang_operator.plan.plan import plan
from sglang_operator.status import compute
from sglang_operator.weights import lease_state, parts, steps
from sglang_operator.weights.lease_state import Transaction
from sglang_operator.weights.rules import Trainer
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, guide_spec, weighed

TRAINER = Trainer(holder="trainer", transaction="t1")
OPEN = Gate(is_open=True, version="v1", reason=decide.COMMITTED)
BOTH = ("weights", "kv_cache")
AT: dict[str, Any] = {"now": NOW, "seen": NOW}


class Step:
    """One step of ROLL's: four of eight engines sleep, the others serve; then all are synced."""

    def __init__(self, **changes):
        self.pool = a_pool(replicas=8, **changes)
        gated = self.pool.gated
        self.pods = [
            a_pod(self.pool, e, container_id=f"c{e.rank}", gate=OPEN if gated else None, ready=True)
            for e in self.pool.running
        ]
        self.runs = [str(pod.instance) for pod in self.pods]
        begun = steps.begin(Transaction(), TRAINER, epoch="e", version="v1", **AT)
        self.committed = steps.commit(begun, TRAINER, instances=self.runs, now=NOW)
        four = self.runs[:4]
        self.about = parts.sleep(self.committed, TRAINER, instances=four, tags=BOTH, **AT)
        self.asleep = parts.slept(self.about, TRAINER, instances=four, tags=BOTH, now=NOW)
        self.syncing = steps.begin(self.asleep, TRAINER, epoch="e", version="v2", **AT)
        woken = steps.woke(self.syncing, TRAINER, instances=four, tags=BOTH)
        self.woken = steps.wake(woken, TRAINER, now=NOW, tags=BOTH)
        self.again = steps.commit(self.woken, TRAINER, instances=self.runs, now=NOW)
        self.status: dict[str, Any] = {}

    def told(self, state):
        """The column SYNCED, and the condition, once the operator has done all there is to do."""
        lease = a_lease_saying(self.pool, state)
        changes = {c.pod.uid: c for c in weighed(self.pool, self.pods, children=lease).gates}
        for number, pod in enumerate(self.pods):
            if change := changes.get(pod.uid):
                gate = Gate(
                    is_open=change.is_open,
                    version=change.message if change.is_open else "",
                    reason=change.reason,
                    released=None if change.is_open else lease_state.marked(change.message),
                )
                self.pods[number] = dataclasses.replace(pod, gate=gate, ready=change.is_open)
        self.status = compute.compute(
            self.pool,
            plan(self.pool, Observed(pods=tuple(self.pods)), NOW),
            weighed(self.pool, self.pods, children=lease),
            ignored=spec.ignored_fields(guide_spec()),
            troubles=(),
            previous=self.status,
            now=NOW,
        )
        found = self.synced
        return self.status["syncedSummary"], found["status"], found["reason"]

    @property
    def synced(self):
        found = conditions.find(self.status["conditions"], conditions.WEIGHTS_SYNCED)
        assert found is not None
        return found


def test_through_a_whole_step_the_condition_stays_true_and_the_column_says_who_sleeps():
    step = Step()
    assert step.told(step.committed) == ("8/8", "True", conditions.SYNCED)
    beside = ("4/8, 4 asleep", "True", conditions.PART_ASLEEP)
    for state in (step.about, step.asleep, step.syncing, step.woken):
        assert step.told(state) == beside
    assert step.told(step.again) == ("8/8", "True", conditions.SYNCED)


def test_it_names_who_sleeps_and_says_what_ends_that():
    step = Step()
    step.told(step.asleep)
    found = step.synced
    assert found["message"].startswith("4/8 engines serve; engine 0 (")
    assert found["message"].endswith("get no requests until it wakes or syncs them")


def test_one_of_the_others_that_does_not_serve_is_told_as_ever():
    step = Step()
    step.told(step.asleep)
    step.pods[7] = dataclasses.replace(step.pods[7], container_id="c9", ready=False)
    summary, status, _ = step.told(step.asleep)
    assert (summary, status) == ("3/8, 4 asleep", "False")


def test_one_that_wakes_behind_the_commit_is_no_sleeper_and_not_synced():
    step = Step()
    step.told(step.asleep)
    four = step.runs[:4]
    woken = steps.woke(step.asleep, TRAINER, instances=four, tags=BOTH)
    awake = parts.wake(woken, TRAINER, instances=four, now=NOW)
    assert step.told(awake) == ("4/8", "False", conditions.WAITING_FOR_TRAINER)


def test_without_gates_sleepers_are_not_counted_among_those_that_serve():
    step = Step(weights={"gate": "Off"})
    assert step.told(step.asleep)[0] == "4/8, 4 asleep"
