"""Engines that were written over, that no commit has covered since, and that are still there.

A sync that ended amid its updates leaves SGLang's label as it was: in a pool whose gates open by
the label alone the Lease has to remember it, for as long as the engine runs.
"""

import dataclasses
from typing import Any

import pytest

from sglang_operator.gates import decide
from sglang_operator.observed.model import EngineReport, Gate
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase, Transaction
from sglang_operator.weights.rules import Trainer
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, weighed

TRAINER = Trainer(holder="trainer", transaction="t2")
LATER = Trainer(holder="trainer", transaction="t3")
OPEN = Gate(is_open=True, version="v1", reason=decide.VERSIONED)


class Case:
    """Three engines at v1; a sync to v2 over all was aborted, then v3 committed over two."""

    def __init__(self, gate):
        self.pool = a_pool(replicas=3, weights={"gate": "Versioned"})
        pods = [a_pod(self.pool, e, container_id=f"c{e.rank}") for e in self.pool.running]
        self.pods = [dataclasses.replace(pod, gate=gate) for pod in pods]
        self.runs = [str(pod.instance) for pod in pods]
        self.named: dict[str, str] = dict.fromkeys(self.runs[:2], "v3") | {self.runs[2]: "v1"}
        step: dict[str, Any] = {"epoch": "e", "now": NOW, "seen": NOW}
        first = steps.begin(Transaction(), TRAINER, version="v2", engines=self.runs, **step)
        aborted = steps.abort(first, TRAINER, message="x")
        again = steps.begin(aborted, LATER, version="v3", engines=self.runs[:2], **step)
        self.state = steps.commit(again, LATER, instances=self.runs[:2], now=NOW)

    def gates(self, state, said=None, aside=(), pods=None):
        reports = {
            run: EngineReport(instance=run, weight_version=name) for run, name in self.named.items()
        }
        lease = {} if state is None else a_lease_saying(self.pool, state)
        found = self.pods if pods is None else pods
        plan = weighed(
            self.pool, found, children=lease, reports=reports, said=said, aside=tuple(aside)
        )
        return plan, {change.pod.uid: change.is_open for change in plan.gates}


@pytest.mark.parametrize(
    "gate", [None, OPEN, *(Gate(is_open=False, reason=r) for r in ("Aside", "InitialWeights"))]
)
def test_an_engine_that_no_commit_covers_since_it_was_torn_is_closed_whatever_it_says(gate):
    case = Case(gate)
    plan, moved = case.gates(case.state)
    torn = case.pods[2].uid
    assert moved.get(torn, gate is OPEN) is False
    assert all(moved[pod.uid] for pod in case.pods[:2] if gate is not OPEN)
    # The Lease is deleted: who made it anew knows.
    anew, moved = case.gates(None, said=plan.said)
    assert moved.get(torn, False) is False
    assert anew.restore is not None
    assert anew.restore.torn == {case.runs[2]}
    _, moved = case.gates(anew.restore, said=anew.said)
    assert moved.get(torn, False) is False


@pytest.mark.parametrize("reason", ["Aborted", "Awake", "LeaseForgotten", "NotCovered"])
def test_what_a_gate_remembers_counts_under_a_lease_that_says_nothing(reason):
    case = Case(Gate(is_open=False, reason=reason))
    state = Transaction(holder="operator", fence=True, acquired=NOW, renewed=NOW)
    _, moved = case.gates(state)
    assert case.pods[2].uid not in moved


def test_an_engine_that_lost_its_labels_amid_the_sync_is_closed_when_it_has_them_back():
    """By an older client, whose begin does not say over whom."""
    case = Case(Gate(is_open=False, reason="Aside"))
    _, moved = case.gates(dataclasses.replace(case.state, torn=frozenset()))
    assert case.pods[2].uid not in moved
    _, moved = case.gates(Transaction())
    assert moved[case.pods[2].uid], "a trainer that sends a version only has no Lease"


def test_the_commit_that_covers_it_opens_it():
    case = Case(Gate(is_open=False, reason="Aborted"))
    step: dict[str, Any] = {"epoch": "e", "now": NOW, "seen": NOW}
    begun = steps.begin(case.state, TRAINER, version="v4", engines=case.runs, **step)
    whole = steps.commit(begun, TRAINER, instances=case.runs, now=NOW)
    assert not whole.torn
    _, moved = case.gates(whole)
    assert moved == {pod.uid: True for pod in case.pods}


def test_a_pod_without_its_labels_sleeps_wakes_and_is_told_of_like_the_others():
    case = Case(OPEN)
    stray, pods = case.pods[2], case.pods[:2]
    plan, moved = case.gates(case.state, aside=[stray], pods=pods)
    assert moved[stray.uid] is False
    assert [each.uid for each in plan.unlisted] == [stray.uid]
    asleep = dataclasses.replace(
        case.state, phase=Phase.SLEEPING, released=("kv_cache",), asleep=tuple(case.runs)
    )
    plan, _ = case.gates(asleep, aside=[stray], pods=pods)
    (mark,) = (change for change in plan.gates if change.pod.uid == stray.uid)
    assert (mark.is_open, mark.reason) == (False, "Sleeping")
    assert plan.hidden == ()
    slept = Gate(is_open=False, reason="Sleeping", released=frozenset({"kv_cache"}))
    marked = dataclasses.replace(stray, gate=slept)
    anew, _ = case.gates(None, said=plan.said, aside=[marked], pods=pods)
    assert anew.restore is not None
    assert stray.instance in anew.restore.asleep
    # Nothing opens it before it has its labels back.
    covered = dataclasses.replace(case.state, instances=frozenset(case.runs), torn=frozenset())
    closed = dataclasses.replace(stray, gate=Gate(is_open=False, reason="Aside"))
    _, moved = case.gates(covered, aside=[closed], pods=pods)
    assert stray.uid not in moved
    _, moved = case.gates(covered, pods=[*pods, closed])
    assert moved[stray.uid]
