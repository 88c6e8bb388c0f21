"""The registry says of each engine whether it sleeps, or is behind the commit."""

from typing import Any

from sglang_operator.children import trainer_registry
from sglang_operator.client.registry import parse
from sglang_operator.gates import decide
from sglang_operator.observed.model import Gate
from sglang_operator.weights import parts, steps
from sglang_operator.weights.lease_state import Transaction
from sglang_operator.weights.rules import Trainer
from tests.builders import NOW, a_lease_saying, a_pod, a_pool, weighed

TRAINER = Trainer(holder="trainer", transaction="t1")
OPEN = Gate(is_open=True, version="v1", reason=decide.COMMITTED)
BOTH = ("weights", "kv_cache")
AT: dict[str, Any] = {"now": NOW, "seen": NOW}


class Case:
    """Four engines of v1; the second and third sleep."""

    def __init__(self):
        self.pool = a_pool(replicas=4)
        self.pods = [
            a_pod(self.pool, e, container_id=f"c{e.rank}", gate=OPEN, ready=True)
            for e in self.pool.running
        ]
        self.runs = [str(pod.instance) for pod in self.pods]
        begun = steps.begin(Transaction(), TRAINER, epoch="e", version="v1", **AT)
        self.committed = steps.commit(begun, TRAINER, instances=self.runs, now=NOW)
        self.about = parts.sleep(self.committed, TRAINER, instances=self.runs[1:3], tags=BOTH, **AT)
        self.asleep = parts.slept(self.about, TRAINER, instances=self.runs[1:3], tags=BOTH, now=NOW)
        woken = steps.woke(self.asleep, TRAINER, instances=self.runs[1:2], tags=BOTH)
        self.one_awake = parts.wake(woken, TRAINER, instances=self.runs[1:2], now=NOW)

    def told(self, state):
        plan = weighed(self.pool, self.pods, children=a_lease_saying(self.pool, state))
        data = trainer_registry.registry(self.pool, plan)["data"]
        engines = parse({"data": data}).engines
        return ["asleep" if e.asleep else "behind" if e.behind else "-" for e in engines], data


def test_it_says_who_sleeps_from_the_first_word_of_the_sleep_and_who_is_behind_once_awake():
    case = Case()
    assert case.told(case.committed)[0] == ["-"] * 4
    assert case.told(case.about)[0] == ["-", "asleep", "asleep", "-"]
    assert case.told(case.asleep)[0] == ["-", "asleep", "asleep", "-"]
    assert case.told(case.one_awake)[0] == ["-", "behind", "asleep", "-"]


def test_a_pool_of_which_nobody_sleeps_or_is_behind_says_nothing_of_it():
    case = Case()
    data = case.told(case.committed)[1]
    assert "asleep" not in data["engines.json"] and "behind" not in data["engines.json"]


def test_the_next_operator_knows_who_sleeps_apart_from_those_that_serve():
    case = Case()
    said = trainer_registry.last_said(case.told(case.asleep)[1])
    assert said is not None
    assert [said.sleeps(run) for run in case.runs] == [set(), {*BOTH}, {*BOTH}, set()]


def test_the_next_operator_knows_of_whom_nobody_knows_whether_they_have_their_memory():
    """Should the Lease be put back, they would be told again to resume it, and end by that."""
    case = Case()
    lost = case.runs[1]
    at_work = steps.woke(case.asleep, TRAINER, instances=(), tags=(), unclear=[lost])
    said = trainer_registry.last_said(case.told(steps.rests(at_work, TRAINER))[1])
    assert said is not None
    assert said.unclear == {lost}
    assert "unclear" not in case.told(case.asleep)[1]["engines.json"]


def test_the_next_operator_knows_of_no_sleeper_at_whom_somebody_is_at_work():
    """Should the Lease be lost, nobody knows whether whoever was at work has died at it."""
    case = Case()
    said = trainer_registry.last_said(case.told(case.asleep)[1])
    assert said is not None
    assert said.unclear == {*case.runs} == {*said.asleep}
    rested = trainer_registry.last_said(case.told(steps.rests(case.asleep, TRAINER))[1])
    assert rested is not None
    assert not rested.unclear
