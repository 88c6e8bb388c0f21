"""Of which of two pods of one engine trainers are told, while a new one is beside an old one."""

import dataclasses
from typing import Any

import pytest

from sglang_operator.children import trainer_registry
from sglang_operator.client.registry import Registry, parse
from sglang_operator.gates.decide import GatePlan
from sglang_operator.observed import listed
from sglang_operator.observed.model import Gate
from sglang_operator.weights.lease_state import Phase, Transaction
from tests.builders import (
    NOW,
    a_lease_saying,
    a_pod,
    a_pool,
    a_registry,
    all_pods,
    planned,
    weighed,
)

OPEN = Gate(is_open=True, version="step-1", reason="Committed")


class Case:
    """Four engines that serve on an older revision, and a new one that is up beside the last."""

    def __init__(self, **changes: Any) -> None:
        self.pool = a_pool(
            device_mapping="list(range(0,8))", **{"rollout": {"maxSurge": 1}, **changes}
        )
        olds = all_pods(self.pool, revision="0" * 10, ready=True, gate=OPEN, answered=True)
        new = a_pod(self.pool, self.pool.engines[3], 1, created=NOW, answered=True)
        self.pods = [
            dataclasses.replace(pod, container_id=f"containerd://{pod.name}", ip=f"10.0.1.{n}")
            for n, pod in enumerate([*olds, new])
        ]
        *self.olds, self.new = self.pods
        self.state = Transaction(
            phase=Phase.COMMITTED,
            id="t1",
            version="step-1",
            checkpoint="/ckpt/step-1",
            intact=True,
            instances=frozenset(pod.instance for pod in self.olds if pod.instance),
        )
        self.told: dict[Any, str] = {}

    def becomes(self, which: int, **changes: Any) -> None:
        self.pods[which] = dataclasses.replace(self.pods[which], **changes)

    @property
    def seen(self) -> dict[str, Any]:
        lease = a_lease_saying(self.pool, self.state, seen=NOW - 60)
        return {"children": {**lease, **a_registry(self.pool, self.told)}}

    def weigh(self, pool: Any = None) -> GatePlan:
        return weighed(pool or self.pool, self.pods, NOW, **self.seen)

    def registry(self, pool: Any = None) -> Registry:
        """What trainers read, and the registry that stands from now on."""
        body = trainer_registry.registry(pool or self.pool, self.weigh(pool))
        found = parse({"metadata": {"resourceVersion": "1"}, "data": body["data"]})
        self.told = {each.engine: each.instance for each in found.engines if each.instance}
        return found

    def last(self, pool: Any = None) -> str | None:
        """The pod that trainers know as the last engine."""
        return self.registry(pool).engines[3].pod


def test_the_next_sync_is_of_the_new_one_and_knows_of_the_old_one_beside():
    case = Case()
    found = case.registry()
    assert [engine.pod for engine in found.engines] == [
        *(pod.name for pod in case.olds[:3]),
        case.new.name,
    ]
    found.require_for_sync()
    assert [(e.pod, e.instance, e.state) for e in found.unlisted] == [
        (case.olds[3].name, case.olds[3].instance, "InService")
    ]
    assert found.world_size == 9
    assert set(found.running or ()) == {pod.instance for pod in case.pods}


def test_clients_and_the_rollout_count_the_old_one_until_the_new_one_serves():
    case = Case()
    plan = case.weigh()
    assert (plan.synced, plan.engines[3].pod_name) == (4, case.olds[3].name)
    assert not planned(case.pool, case.pods, NOW, **case.seen).removals


def test_the_commit_that_covers_the_new_one_opens_it_and_closes_the_old_one():
    case = Case()
    runs = frozenset(e.instance for e in case.registry().engines if e.instance)
    case.state = dataclasses.replace(case.state, instances=runs, version="step-2", id="t2")
    moved = {change.pod.name: change.is_open for change in case.weigh().gates}
    assert moved.pop(case.new.name) is True
    assert moved.pop(case.olds[3].name) is False
    assert moved == {pod.name: True for pod in case.olds[:3]}


def test_one_that_is_on_its_way_up_is_not_waited_for():
    case = Case()
    case.becomes(4, containers_ready=False, answered=False)
    assert case.last() == case.olds[3].name
    case.registry().require_for_sync()


@pytest.mark.parametrize("phase", [Phase.SYNCING, Phase.SLEEPING])
def test_a_trainers_turn_is_of_whom_it_was_told_before(phase):
    case = Case()
    before = dataclasses.replace(case.state, phase=phase, holder="trainer", renewed=NOW)
    case.told = {pod.engine: pod.instance for pod in case.olds if pod.instance}
    case.state = before
    assert case.last() == case.olds[3].name, "it came up in the middle of it"
    case.told = {case.new.engine: case.new.instance or ""}
    assert case.last() == case.new.name
    epoch = case.weigh().epoch
    case.becomes(4, containers_ready=False)
    later = a_pool(device_mapping="list(range(0,8))", seed=9)
    for pool in (case.pool, later):
        assert case.last(pool) == case.new.name, "whatever is edited, or misses a probe"
        assert case.weigh(pool).epoch == epoch
        assert not planned(pool, case.pods, NOW, **case.seen).removals
    case.becomes(4, phase="Failed", engine_runs=False)
    assert case.last() == case.olds[3].name


def test_one_that_was_told_of_and_misses_a_probe_stays_what_it_is():
    case = Case()
    case.becomes(4, containers_ready=False)
    assert case.last() == case.olds[3].name
    case.becomes(4, containers_ready=True)
    assert case.last() == case.new.name
    case.becomes(4, containers_ready=False)
    assert case.last() == case.new.name


def test_in_a_pause_the_old_one_is_the_engine():
    case = Case(rollout={"maxSurge": 1, "paused": True})
    assert case.last() == case.olds[3].name


def test_without_a_gate_trainers_know_the_one_that_serves():
    case = Case(weights={"gate": "Off"})
    assert case.last() == case.olds[3].name


def test_the_new_one_loads_the_checkpoint_where_the_pool_does():
    case = Case(weights={"recovery": "FromCheckpoint"})
    step = case.weigh().recovery
    assert step is not None
    assert step.state.recovering == {case.new.instance}


def test_what_the_old_one_holds_is_told_to_who_sleeps_and_wakes():
    case = Case()
    assert {e.instance for e in case.registry().present} == {pod.instance for pod in case.pods}


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"engines": 1}', '{"engines": [1]}', '{"engines": [{}]}']
)
def test_a_registry_that_somebody_else_wrote_tells_nothing(text):
    pool = a_pool()
    ((key, child),) = a_registry(pool, {}).items()
    other = dataclasses.replace(child, body={"data": {"engines.json": text}})
    assert listed.instances({key: other}, pool.owner) == {}
    assert listed.instances({key: dataclasses.replace(child, body={})}, pool.owner) == {}
    assert listed.instances({}, pool.owner) == {}
    assert listed.instances({key: dataclasses.replace(child, owner=None)}, pool.owner) == {}
