"""``weights.gate`` is edited while engines run: a pod has the readiness gates it was made with."""

import asyncio
import dataclasses
import json

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.children import trainer_registry
from sglang_operator.gates import decide
from sglang_operator.kube import paths
from sglang_operator.observed.model import Gate
from sglang_operator.status import compute
from sglang_operator.weights.lease_state import SLEEP_TAGS, Phase, Transaction
from tests.builders import NOW, a_lease_saying, a_pool, all_pods, planned, weighed
from tests.unit.controller.passes import KEY, Clock, Passes

OPEN = Gate(is_open=True, version="step-1", reason=decide.COMMITTED)
ABORTED = Gate(is_open=False, reason=Phase.ABORTED.value)
ASLEEP = Gate(is_open=False, reason="Sleeping", released=frozenset(SLEEP_TAGS))


def of_two(gate="Committed"):
    """A pool of two engines, of which none is replaced for now."""
    mapping = "list(range(0,4))"
    return a_pool(device_mapping=mapping, weights={"gate": gate}, rollout={"paused": True})


def started(pool, gated, **changes):
    """The pods of a pool, all with the readiness gate or none; without, clients reach them."""
    return [
        dataclasses.replace(pod, container_id=f"containerd://{pod.name}")
        for pod in all_pods(pool, **{"gated": gated, "ready": not gated, **changes})
    ]


def run_of(pod):
    assert pod.instance is not None
    return pod.instance


def committed(pods, version="step-1", **changes):
    runs = frozenset(map(run_of, pods))
    state = Transaction(phase=Phase.COMMITTED, id="t1", version=version, instances=runs)
    return dataclasses.replace(state, **changes)


def weigh(pool, pods, state, **observed):
    return weighed(pool, pods, children=a_lease_saying(pool, state), **observed)


def told(pool, pods, weights):
    """The status, and its condition WeightsSynced."""
    status = compute.compute(
        pool, planned(pool, pods), weights, ignored=(), troubles=(), previous={}, now=NOW
    )
    return status, conditions.find(status["conditions"], conditions.WEIGHTS_SYNCED)


def listed(pool, weights):
    return [engine["gate"] for engine in trainer_registry.document(pool, weights)["engines"]]


# --- Off → Committed: engines without a gate


@pytest.mark.parametrize("gate", ["Committed", "Versioned"])
@pytest.mark.parametrize("phase", list(Phase))
def test_an_engine_without_a_gate_is_never_told_to_have_one(gate, phase):
    pool = of_two(gate)
    pods = started(pool, False)
    state = committed(pods, phase=phase, released=SLEEP_TAGS, holder="trainer")
    plan = weigh(pool, pods, state)
    assert not plan.gates and plan.settled
    assert listed(pool, plan) == [None, None]


def test_engines_of_both_kinds_are_told_apart():
    pool = of_two()
    (old, _), (_, new) = started(pool, False), started(pool, True)
    plan = weigh(pool, [old, new], committed([old, new]))
    assert [change.pod.name for change in plan.gates] == [new.name]
    assert listed(pool, plan) == [None, "Closed"]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE])
def test_it_is_told_that_clients_reach_engines_for_which_nobody_vouches(phase):
    pool = of_two()
    pods = started(pool, False)
    state = committed(pods, phase=phase, released=SLEEP_TAGS if phase is Phase.SLEEPING else ())
    if phase is Phase.IDLE:
        state = Transaction()
    status, found = told(pool, pods, weigh(pool, pods, state))
    assert (found["status"], found["reason"]) == ("False", "EnginesWithoutGate")
    assert "2/2 engines" in found["message"] and f"engine 0 ({pods[0].engine})" in found["message"]
    assert "no engine gets requests" not in found["message"]
    assert status["syncedSummary"] == "2/2", "clients reach them"


def test_engines_without_a_gate_that_a_commit_covers_are_synced():
    pool = of_two()
    pods = started(pool, False)
    _, found = told(pool, pods, weigh(pool, pods, committed(pods)))
    assert (found["status"], found["reason"]) == ("True", "Synced")


def test_a_sleeper_without_a_gate_is_known_by_the_lease_that_was_lost():
    """Nothing marks it before its memory is released: what was about to be released counts."""
    pool = of_two()
    pods = started(pool, False)
    said = committed(
        pods, phase=Phase.SLEEPING, released=SLEEP_TAGS, holder="trainer", releases=True
    )
    plan = weighed(pool, pods, said=said)
    assert plan.restore is not None
    assert set(plan.restore.asleep) == set(map(run_of, pods))


# --- Committed → Off: engines with a gate


def test_a_gate_that_is_there_is_not_closed_for_want_of_a_commit():
    pool = of_two("Off")
    pods = started(pool, True, gate=OPEN, ready=True)
    assert not weigh(pool, pods, Transaction()).gates
    assert not weigh(pool, pods, committed(pods[:1])).gates


def test_a_gate_that_is_there_opens_by_a_commit():
    pool = of_two("Off")
    pods = started(pool, True, gate=ABORTED)
    plan = weigh(pool, pods, committed(pods, "step-2"))
    assert {(c.pod.name, c.is_open, c.message) for c in plan.gates} == {
        (pod.name, True, "step-2") for pod in pods
    }


@pytest.mark.parametrize("phase", [Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE])
def test_a_gate_that_is_there_closes_over_what_nobody_vouches_for(phase):
    pool = of_two("Off")
    pods = started(pool, True, gate=OPEN, ready=True)
    state = committed(pods, phase=phase, released=SLEEP_TAGS if phase is Phase.SLEEPING else ())
    plan = weigh(pool, pods, state)
    assert {(c.pod.name, c.is_open, c.reason) for c in plan.gates} == {
        (pod.name, False, phase.value) for pod in pods
    }


def test_a_sleeper_with_a_gate_that_woke_is_not_woken_again_when_the_lease_is_lost():
    """Resuming memory twice kills an engine: the pod's word is put right as in other pools."""
    pool = of_two("Off")
    pods = started(pool, True, gate=ASLEEP)
    plan = weigh(pool, pods, Transaction(phase=Phase.AWAKE, id="t1", version="step-1"))
    assert {(c.is_open, c.reason) for c in plan.gates} == {(False, "Awake")}


def test_the_registry_tells_the_gate_of_an_engine_that_has_one():
    pool = of_two("Off")
    (old, _), (_, new) = started(pool, True, gate=ABORTED), started(pool, False)
    assert listed(pool, weigh(pool, [old, new], Transaction())) == ["Closed", None]


def test_it_is_told_that_closed_gates_keep_requests_away_from_engines_of_before():
    pool = of_two("Off")
    pods = started(pool, True, gate=ABORTED)
    status, found = told(pool, pods, weigh(pool, pods, Transaction()))
    assert found["reason"] == "GateOff"
    assert "nothing keeps requests away" not in found["message"]
    assert f"engine 0 ({pods[0].engine})" in found["message"]
    assert status["syncedSummary"] == "0/2"


# --- both ways, on an API server


def test_an_edit_and_back_leaves_every_engine_told_as_it_is(monkeypatch):
    async def story() -> None:
        passes = Passes(Clock(monkeypatch), weights={"gate": "Off"}, rollout={"paused": True})
        await passes.settle()
        first = passes.pod_names()
        for name in first:
            serve(passes, name)

        passes.change(weights={"gate": "Committed"})
        await passes.settle()
        assert passes.pod_names() == first, "the rollout is paused"
        assert _registry(passes) == ("Committed", {None})
        assert _synced(passes) == "EnginesWithoutGate"
        assert passes.status["syncedSummary"].startswith(f"{len(first)}/")
        passes.commit()
        await passes.settle()
        assert _synced(passes) == "Synced"
        passes.abort()
        await passes.settle()
        assert _synced(passes) == "EnginesWithoutGate"
        assert not any("/status" in path and "/pods/" in path for _, path in passes.api.calls)
        assert not any(gates_of(passes)), "a condition on such a pod says nothing"

        passes.change(weights={"gate": "Off"})
        await passes.settle()
        assert _registry(passes) == ("Off", {None})
        assert _synced(passes) == "GateOff"

    asyncio.run(story())


def serve(passes, name):
    """Clients reach the engine, whatever an operator before has said of its gate."""
    path = paths.pod("rl", name)
    aborted = {"type": names.CONDITION_WEIGHTS_SYNCED, "status": "False", "reason": "Aborted"}
    ready = {"type": "Ready", "status": "True"}
    told = passes.api.objects[path]["status"]["conditions"]
    passes.api.touch(path, {"status": {"conditions": [*told, ready, aborted]}})


def gates_of(passes):
    return [entry.pod.gate for entry in passes.pods.of(KEY)]


def _registry(passes):
    path = paths.child("ConfigMap", KEY.namespace, names.registry_name(KEY.name))
    document = json.loads(passes.api.objects[path]["data"]["engines.json"])
    return document["weights"]["gate"], {engine["gate"] for engine in document["engines"]}


def _synced(passes):
    each = passes.status["conditions"]
    return {one["type"]: one["reason"] for one in each}[conditions.WEIGHTS_SYNCED]
