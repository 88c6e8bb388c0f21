"""The registry's ``unlisted``: engines that run beside the pool's own, while that can be helped."""

import json
from typing import Any

import pytest

from sglang_operator.api import spec
from sglang_operator.children import trainer_registry
from sglang_operator.client.registry import parse
from sglang_operator.gates.decide import TrainerSignal
from sglang_operator.observed.model import Gate, ObservedNode
from sglang_operator.pool import registry_size
from sglang_operator.weights.lease_state import Phase, Transaction
from tests import builders
from tests.builders import NOW

OPEN = Gate(is_open=True, reason="Committed", version="step-1")


def pools(**edit):
    whole: dict[str, Any] = {"device_mapping": "list(range(0,8))", "rollout": {"paused": True}}
    return builders.a_pool(**whole), builders.a_pool(**{**whole, **edit})


def a_pod(pool, engine, attempt=0, **more):
    name = f"c{engine.name}{attempt}"
    values = {"container_id": name, "ready": True, "gate": OPEN, "ip": f"10.0.{attempt}.9"}
    return builders.a_pod(pool, engine, attempt, **{**values, **more})


def unlisted(pool, pods, **seen):
    plan = builders.weighed(pool, pods, **seen)
    return trainer_registry.document(pool, plan).get("unlisted", [])


def replaced(pool, **old):
    """Rank 0 runs anew; its pod of before is as told."""
    first, *others = pool.running
    before = a_pod(pool, first, **{"deleting": True, "deletion_asked": NOW - 90, **old})
    return [before, a_pod(pool, first, 1), *(a_pod(pool, each) for each in others)]


@pytest.mark.parametrize("after", [60, 600, 6 * 3600])
def test_a_pod_on_a_dead_node_is_waited_for_by_nobody(after):
    pool, _ = pools()
    nodes = {"gpu-node-0": ObservedNode(name="gpu-node-0")}
    nodes["dead"] = ObservedNode(name="dead", ready=False, unready=NOW - after)
    due = {"deletion_asked": NOW - after + 10, "deletion_due": NOW - after + 70}
    assert not unlisted(pool, replaced(pool, node="dead", **due), nodes=nodes)


@pytest.mark.parametrize("gone", ["Replace", "Wait"])
def test_an_engine_wanted_no_more_on_a_dead_node_is_waited_for_by_nobody(gone):
    before, after = pools(num_gpus_per_worker=4, restart={"onNodeLost": gone})
    assert after.spec.restart.on_node_lost is spec.OnNodeLost(gone)
    nodes = {"gpu-node-0": ObservedNode(name="gpu-node-0")}
    nodes["dead"] = ObservedNode(name="dead", ready=False, unready=NOW - 600)
    pods = [a_pod(before, e, node="gpu-node-0" if e.rank else "dead") for e in before.running]
    told = unlisted(after, pods, nodes=nodes)
    assert [each["engine"] for each in told] == [e.name for e in before.running[1:]]


def test_a_pod_that_hangs_on_its_way_out_is_waited_for_until_it_lingers():
    pool, _ = pools()
    due = {"deletion_asked": NOW - 110, "deletion_due": NOW - 50}
    (told,) = unlisted(pool, replaced(pool, **due))
    assert (told["state"], told["graceSeconds"]) == ("Waiting", 60)
    assert told["until"].endswith("Z")
    assert not unlisted(pool, replaced(pool, **(due | {"deletion_due": NOW - 61})))
    assert not unlisted(pool, replaced(pool, **due, engine_runs=False)), "it holds nothing"


def test_a_pod_that_is_removed_in_this_very_pass_is_on_its_way_out():
    _, pool = pools(drain={"gracePeriodSeconds": 17})
    pods = replaced(pool, deleting=False, deletion_asked=0.0, containers_ready=False, ready=False)
    (told,) = unlisted(pool, pods)
    assert (told["state"], told["graceSeconds"], told["until"]) == ("Waiting", 17, None)


def test_engines_of_another_grouping_are_told_so_that_they_can_be_reached():
    before, after = pools(num_gpus_per_worker=4)
    pods = [a_pod(before, engine) for engine in before.running]
    plan = builders.weighed(after, pods, revisions={before.revision: before.facts})
    data = trainer_registry.registry(after, plan)["data"]
    registry = parse({"data": data})
    assert [engine.instance for engine in registry.engines] == [None, None]
    assert [engine.instance for engine in registry.unlisted] == [pod.instance for pod in pods]
    assert {engine.url for engine in registry.unlisted} == {"http://10.0.0.9:30000"}
    assert {engine.state for engine in registry.unlisted} == {"InService"}
    assert {engine.engine_version for engine in registry.unlisted} == {before.facts.version}
    assert registry.present[-4:] == registry.unlisted


def test_a_pool_beside_which_others_cannot_release_memory_is_told_so():
    before, _ = pools()
    saves = builders.with_config(enable_memory_saver=True)["strategy_args"]
    _, after = pools(num_gpus_per_worker=4, strategy_args=saves)
    pods = [a_pod(before, engine) for engine in before.running]
    known = {before.revision: before.facts}
    told = trainer_registry.document(after, builders.weighed(after, pods, revisions=known))
    assert after.saves_memory
    assert told["memorySaver"] is False


def test_a_lease_that_is_lost_finds_sleepers_in_the_registry_that_are_wanted_no_more():
    before, after = pools(num_gpus_per_worker=4)
    pods = [a_pod(before, engine) for engine in before.running]
    runs = [pod.instance for pod in pods]
    state = Transaction(
        phase=Phase.SLEEPING, id="t", released=("kv_cache",), asleep=tuple(runs), version="step-1"
    )
    plan = builders.weighed(after, pods, children=builders.a_lease_saying(after, state))
    said = trainer_registry.last_said(trainer_registry.registry(after, plan)["data"])
    assert said is not None
    assert set(said.asleep) == set(runs)
    assert said.sleeps(runs[0]) == {"kv_cache"}
    document = trainer_registry.document(after, plan)
    assert "hidden" not in document, "it is told where they answer"


def test_where_there_is_no_room_for_all_of_them_a_few_are_named(monkeypatch):
    before, after = pools(device_mapping="list(range(100,108))")
    pods = [a_pod(before, engine) for engine in before.running]
    plan = builders.weighed(after, pods)
    whole = trainer_registry.registry(after, plan)["data"]["engines.json"]
    monkeypatch.setattr(registry_size, "LIMIT", len(whole) - 1)
    registry = parse({"data": trainer_registry.registry(after, plan)["data"]})
    assert len(registry.engines) == len(after.running)
    assert registry.unreached
    assert all(engine.url is None for engine in registry.unlisted)
    assert len(json.loads(whole)["unlisted"]) == len(pods)


def test_clients_of_engines_that_are_wanted_no_more_are_seen_to_be_gone_at_once():
    """A trainer that lets them sleep waits for their gates, too."""
    before, after = pools(num_gpus_per_worker=4)
    state = Transaction(phase=Phase.SLEEPING, id="t", released=("kv_cache",), releases=True)
    lease = builders.a_lease_saying(after, state)
    for ready in (True, False):
        pods = [a_pod(before, engine, ready=ready) for engine in before.running]
        plan = builders.weighed(after, pods, children=lease)
        assert plan.awaited(TrainerSignal()).serves is ready
