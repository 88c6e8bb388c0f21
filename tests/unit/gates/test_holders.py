"""No GPU is its trainer's by the registry while a pod may hold memory of it, whoever's that is."""

import dataclasses

import pytest

from sglang_operator.api import spec
from sglang_operator.children import trainer_registry
from sglang_operator.client.registry import Holder, parse
from sglang_operator.gates import decide, holders
from sglang_operator.gates.decide import TrainerSignal
from sglang_operator.observed.model import Observed, ObservedNode
from sglang_operator.plan import seating
from sglang_operator.plan.plan import plan
from sglang_operator.weights import steps, turn
from sglang_operator.weights.lease_state import SLEEP_TAGS, Transaction
from tests.builders import NOW, a_lease_saying, a_pod
from tests.unit.placement.trainers import a_shared_pool, a_slot, seen

T = steps.Trainer(holder="trainer", transaction="t1")
BOTH = (a_slot(0), a_slot(1))
NODES = {name: ObservedNode(name=name) for name in ("gpu-0", "cpu-1", "cpu-2", "cpu-3")}
SILENT = ObservedNode(name="gpu-1", ready=False, unready=NOW - 500, ready_changed=NOW - 500)


def a_pool(gpus=16, per_worker=2, **more):
    return a_shared_pool(
        device_mapping=f"list(range(0,{gpus}))", num_gpus_per_worker=per_worker, **more
    )


def on_their_gpus(pool, **more):
    """A pod of each engine, where the trainer has its GPUs."""
    known = seating.of(pool, Observed(**seen(pool, *BOTH)))
    assert known is not None
    seats = known.seats
    found = []
    for engine in pool.engines:
        (seat,) = seats[engine.name]
        each = {"node": seat.node, "container_id": f"c{engine.rank}", "answered": True, **more}
        pod = a_pod(pool, engine, 1, **each)
        found.append(dataclasses.replace(pod, slot=seat.mark, gpus_seen=seat.gpus))
    return found


NOT_STARTED = {
    "container_id": "",
    "answered": False,
    "engine_runs": False,
    "containers_ready": False,
    "phase": "Pending",
}


def asleep(*pods, takes=turn.TRAINER):
    said = steps.sleep(Transaction(), T, tags=SLEEP_TAGS, now=NOW, seen=NOW, takes=takes)
    runs = [pod.instance for pod in pods if pod.instance]
    return steps.rests(steps.slept(said, T, instances=runs, now=NOW), T)


def told(pool, pods, state=None, slots=BOTH, **changes):
    """What the client reads in the registry, and the plan that it tells of."""
    around = seen(pool, *slots, nodes={**NODES, "gpu-1": ObservedNode(name="gpu-1")})
    lease = a_lease_saying(pool, state) if state else {}
    around["children"] = {**around["children"], **lease}
    observed = Observed(pods=tuple(pods), **{**around, **changes})
    made = plan(pool, observed, NOW)
    weights = decide.decide(
        pool.owner, spec.Weights(gate=pool.gate), made.engines, observed, NOW, "op", made.unlisted
    )
    assert made.seating is not None
    seats = made.seating.seats
    every = (*weights.engines, *weights.unlisted)
    weights = dataclasses.replace(
        weights,
        occupied=holders.occupied(observed.all_pods, observed.departing, seats, weights.unlisted),
        holders=holders.untold(observed, every, weights.transaction, seats),
    )
    return parse(trainer_registry.registry(pool, weights)), weights


def waiting(registry):
    return [engine.engine for engine in registry.engines if engine.waits]


def test_engines_wait_whose_gpus_nobody_is_on():
    registry, _ = told(a_pool(), [], asleep())
    assert len(waiting(registry)) == 8
    assert registry.holders == ()


@pytest.mark.parametrize("deleting", [False, True])
def test_pods_of_another_grouping_that_have_not_started_are_in_the_way(deleting):
    """They were made right before the turn: the registry said that 0-3 waits, and named nobody."""
    pods = on_their_gpus(a_pool(4), **NOT_STARTED)
    pods = [dataclasses.replace(pod, deleting=deleting) for pod in pods]
    registry, weights = told(a_pool(4, 4), pods, asleep())
    assert waiting(registry) == []
    assert [each.pod for each in registry.holders] == [pod.name for pod in pods]
    assert weights.awaited(TrainerSignal()).holders == 2
    registry, _ = told(a_pool(4, 4), [], asleep())
    assert waiting(registry) == ["g0-3"]


def test_before_the_turn_one_that_has_not_started_keeps_nobody_from_sleep():
    """The sleep is what has it removed."""
    registry, _ = told(a_pool(4, 4), on_their_gpus(a_pool(4), **NOT_STARTED))
    assert registry.holders == ()


@pytest.mark.parametrize("gone", ["Wait", "Replace"])
@pytest.mark.parametrize("edit", [{"per_worker": 4}, {"gpus": 8}], ids=["regrouped", "fewer"])
def test_engines_wanted_no_more_on_a_silent_node_may_hold_what_they_had(gone, edit):
    pods = on_their_gpus(a_pool())
    far = [pod.name for pod in pods if pod.node == "gpu-1"]
    near = [pod for pod in pods if pod.node == "gpu-0"]
    pool = a_pool(**edit, restart={"onNodeLost": gone})
    registry, _ = told(pool, pods, asleep(*near), nodes={**NODES, "gpu-1": SILENT})
    assert [each.pod for each in registry.holders] == sorted(far)
    assert {device for each in registry.holders for device in each.devices} == {*range(8, 16)}
    assert waiting(registry) == (["g0-3", "g4-7"] if "per_worker" in edit else [])


def test_one_that_is_told_of_is_asked_and_is_no_holder():
    pods = on_their_gpus(a_pool())
    registry, _ = told(a_pool(), pods, asleep(*pods))
    assert registry.holders == ()
    registry, _ = told(a_pool(per_worker=4), pods, asleep(*pods))
    assert registry.holders == ()
    assert len(registry.unlisted) == 8
    assert len(waiting(registry)) == 4, "who takes their GPUs puts those to sleep that are there"
    drains = [dataclasses.replace(pod, deleting=True) for pod in pods]
    registry, _ = told(a_pool(per_worker=4), drains, asleep(*pods))
    assert registry.holders == ()
    assert all(engine.leaving for engine in registry.unlisted)
    assert waiting(registry) == []


def test_others_pods_count_by_the_gpus_that_they_have():
    """Of an earlier pool of the name, adopted, or without labels: whatever they are called."""
    pool = a_pool()
    second = on_their_gpus(a_pool(per_worker=1))[2]
    stranger = dataclasses.replace(second, name="theirs", engine="", devices=(), deleting=True)
    registry, _ = told(pool, [], asleep(), departing=(stranger,))
    assert registry.holders == (Holder("theirs", (2,)),)
    assert "g2-3" not in waiting(registry)
    assert len(waiting(registry)) == 7
    elsewhere = dataclasses.replace(stranger, gpus_seen=("GPU-of-no-engine",))
    registry, _ = told(pool, [], asleep(), departing=(elsewhere,))
    assert registry.holders == (Holder("theirs"),), "on any, as far as is known"


def test_of_a_pod_of_another_namespace_no_name_is_told():
    pool = a_pool()
    stranger = dataclasses.replace(on_their_gpus(pool)[0], name="secret", deleting=True)
    away = {"departing": (stranger,), "elsewhere": frozenset({stranger.uid})}
    registry, _ = told(pool, [], asleep(), **away)
    assert registry.holders == (Holder("a pod of another namespace", (0, 1)),)
    assert "secret" not in repr(registry)


def test_while_nobody_knows_the_trainers_gpus_none_is_free_of_an_earlier_pools_pods():
    pool = a_pool()
    stranger = dataclasses.replace(on_their_gpus(pool)[0], deleting=True)
    registry, _ = told(pool, [], asleep(), slots=(), departing=(stranger,))
    assert waiting(registry) == []
    registry, _ = told(pool, [], asleep(), slots=())
    assert len(waiting(registry)) == 8


def test_a_sleeper_that_is_none_of_the_pools_any_more_is_hidden_until_it_goes():
    """A wake took it for ended, and the next sync flushed it."""
    pods = on_their_gpus(a_pool())
    first, *others = pods
    registry, _ = told(a_pool(), others, asleep(*pods), departing=(first,))
    assert registry.hidden == (first.name,)
    assert registry.running is None
    awake = asleep(*others)
    for gone, state in (
        (dataclasses.replace(first, deleting=True), asleep(*pods)),
        (dataclasses.replace(first, over=True), asleep(*pods)),
        (first, awake),
    ):
        registry, _ = told(a_pool(), others, state, departing=(gone,))
        assert registry.hidden == ()


def test_of_many_some_are_named_for_all():
    pods = on_their_gpus(a_pool(per_worker=1))
    registry, _ = told(a_pool(), [], asleep(), departing=tuple(pods))
    assert len(registry.holders) == trainer_registry.MOST_NAMED
    assert all(each.devices == () for each in registry.holders)
