"""A trainer's transactions on the real API server, and the gates that follow them."""

import asyncio
import time
from zlib import crc32

import pytest

from sglang_operator.api import conditions, names
from sglang_operator.client import AsyncPool
from sglang_operator.weights.times import micro_time
from tests import leases
from tests.integration.pools import PoolUnderTest

# The pool of each test stays: eight GPUs.
pytestmark = pytest.mark.plane("16x8")


@pytest.fixture
def pool(plane, request):
    namespace = f"weights-{crc32(request.node.name.encode()):08x}"
    plane.kubectl("create", "namespace", namespace)
    pool = PoolUnderTest(plane, namespace)
    pool.apply(device_mapping="list(range(0,8))")
    pool.wait_ready()
    return pool


def annotate(pool, holder, lasts=2, **notes):
    """Write the Lease as a trainer does, by a merge patch; it ``lasts`` so many seconds."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pool.namespace}/leases/{pool.name}-weights"
    pool.plane.api.merge(path, leases.held(holder, lasts, **notes))


def lease(pool):
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pool.namespace}/leases/{pool.name}-weights"
    return pool.plane.api.get(path)


def commit(pool, version, engines=None, transaction=None):
    covered = engines if engines is not None else pool.registry()["engines"]
    annotate(
        pool,
        None,
        phase="Committed",
        transaction=transaction or f"t-{version}",
        version=version,
        instances=",".join(engine["instance"] for engine in covered),
        begun=micro_time(time.time() - 1),
        committed=micro_time(time.time()),
    )


def synced(pool):
    return pool.status.get("syncedSummary")


def in_service(pool):
    return [e["rank"] for e in pool.registry()["engines"] if e["state"] == "InService"]


def is_known(pool):
    """Every engine's instance is in the registry: only then can a commit name it."""
    return all(engine["instance"] for engine in pool.registry()["engines"])


def test_a_commit_puts_the_engines_that_it_covers_in_service(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    assert synced(pool) == "0/4"
    commit(pool, "step-1")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "all in service")
    pool.wait(lambda: synced(pool) == "4/4", "synced")
    condition = pool.condition(conditions.WEIGHTS_SYNCED)
    assert (condition["status"], condition["reason"]) == ("True", conditions.SYNCED)
    found = pool.status["weights"]
    assert (found["phase"], found["version"], found["skew"]) == ("Committed", "step-1", 0)
    assert [(e["version"], e["engines"]) for e in found["history"]] == [("step-1", 4)]
    assert pool.registry()["weights"]["transaction"] == "t-step-1"
    assert {engine["version"] for engine in pool.registry()["engines"]} == {"step-1"}


def test_a_crashed_engine_comes_back_closed_under_a_new_epoch(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    commit(pool, "step-1")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "all in service")
    epoch = pool.registry()["epoch"]
    victim = pool.registry()["engines"][2]
    pool.break_pod(victim["pod"])

    def is_back():
        engine = pool.registry()["engines"][2]
        return engine["pod"] != victim["pod"] and engine["state"] == "Up"

    pool.wait(is_back, "the engine is back, closed", 60)
    assert in_service(pool) == [0, 1, 3]
    assert pool.registry()["epoch"] != epoch
    assert pool.registry()["engines"][2]["gate"] == "Closed"
    pool.wait(lambda: synced(pool) == "3/4", "3 of 4 synced")
    commit(pool, "step-2")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "the next commit covers it")


def test_sleep_closes_the_gates_before_it_is_acknowledged_and_the_pool_stays_ready(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    commit(pool, "step-1")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "all in service")
    annotate(pool, "trainer", phase="Sleeping", transaction="nap", released="weights,kv_cache")
    pool.wait(lambda: pool.registry()["weights"]["transaction"] == "nap", "acknowledged")
    assert {engine["gate"] for engine in pool.registry()["engines"]} == {"Closed"}
    pool.wait(lambda: in_service(pool) == [], "nobody in service")
    pool.wait(lambda: synced(pool) == "0/4", "nobody reaches them")
    assert pool.condition(conditions.READY)["status"] == "True"
    annotate(pool, "trainer", phase="Awake", transaction="up")
    pool.wait(lambda: pool.registry()["weights"]["transaction"] == "up", "acknowledged")
    assert in_service(pool) == []


def test_a_part_sleeps_and_the_others_stay_in_service(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    commit(pool, "step-1")
    pool.wait(lambda: synced(pool) == "4/4", "synced")
    since = pool.condition(conditions.WEIGHTS_SYNCED)["lastTransitionTime"]
    first, second, *others = (engine["instance"] for engine in pool.registry()["engines"])
    part = f"{first},{second}"
    about = {"phase": "Sleeping", "released": "weights,kv_cache", "intact": "true"}
    annotate(
        pool, "trainer", 60, transaction="nap", releases="nap",
        apart=f"nap:{part}", closing=f"nap:{part}", **about,
    )  # fmt: skip
    pool.wait(lambda: pool.registry()["weights"]["transaction"] == "nap", "acknowledged")
    gates = [engine["gate"] for engine in pool.registry()["engines"]]
    assert gates == ["Closed", "Closed", "Open", "Open"]
    annotate(pool, "trainer", 60, releases="", asleep=part, instances=",".join(others))
    pool.wait(lambda: in_service(pool) == [2, 3], "two in service")
    pool.wait(lambda: synced(pool) == "2/4, 2 asleep", "told")
    assert pool.registry()["weights"]["asleep"] == [[0, 1]]
    annotate(pool, "trainer", 60, phase="Syncing", transaction="next", apart=f"next:{part}")
    pool.wait(lambda: pool.registry()["weights"]["transaction"] == "next", "acknowledged")
    assert in_service(pool) == [2, 3]
    assert synced(pool) == "2/4, 2 asleep"
    commit(pool, "step-2")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "all in service")
    pool.wait(lambda: synced(pool) == "4/4", "synced")
    assert pool.condition(conditions.WEIGHTS_SYNCED)["lastTransitionTime"] == since


def test_a_trainer_that_does_not_renew_has_aborted_and_every_gate_closes(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    commit(pool, "step-1")
    pool.wait(lambda: in_service(pool) == [0, 1, 2, 3], "all in service")
    annotate(pool, "trainer-0", phase="Syncing", transaction="torn", target_version="step-2")
    pool.wait(lambda: in_service(pool) == [], "nobody in service")

    def aborted():
        found = lease(pool)
        return found if found["metadata"]["annotations"][names.ANNOTATION_PHASE] == "Aborted" else 0

    found = pool.wait(aborted, "the abort in the Lease")
    notes = found["metadata"]["annotations"]
    assert "trainer-0" in notes[names.ANNOTATION_MESSAGE]
    assert not found["spec"].get("holderIdentity")
    condition = pool.wait_for(conditions.WEIGHTS_SYNCED, conditions.SYNC_ABORTED)
    assert "trainer-0" in condition["message"]
    pool.wait(lambda: synced(pool) == "0/4", "nobody synced")


def test_a_pool_whose_spec_became_wrong_still_follows_its_trainer(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    engines = pool.registry()["engines"]
    pool.patch({"strategy_args": {"strategy_config": {"mem_fraction_statc": 0.5}}})
    pool.wait(lambda: pool.condition(conditions.STALLED), "refused")
    commit(pool, "step-1", engines)
    open_gates = "{.items[*].status.conditions[?(@.type=='Ready')].status}"

    def ready():
        return pool.kubectl("get", "pods", "-o", f"jsonpath={open_gates}").split()

    pool.wait(lambda: ready() == ["True"] * 4, "all gates open")
    annotate(pool, "trainer", phase="Sleeping", transaction="nap")
    pool.wait(lambda: ready() == ["False"] * 4, "all gates closed")


def test_the_registry_names_the_engines_as_other_trainers_take_them(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    path = f"/api/v1/namespaces/{pool.namespace}/configmaps/{pool.name}-engines"
    data = pool.plane.api.get(path)["data"]
    addresses = [f"{engine['podIP']}:30000" for engine in pool.registry()["engines"]]
    assert data["slime"] == " ".join(addresses)
    assert data["areal"] == ",".join(addresses)


def test_renewing_costs_the_operator_nothing(pool):
    pool.wait(lambda: is_known(pool), "instances in the registry")
    syncing = {"phase": "Syncing", "transaction": "long", "lasts": 20}  # also on a busy machine
    annotate(pool, "trainer", **syncing)
    pool.wait(lambda: pool.status.get("weights", {}).get("phase") == "Syncing", "syncing")
    version = pool.wait_rest()
    for _ in range(6):
        time.sleep(0.5)  # the trainer's own pace
        annotate(pool, "trainer", **syncing)
    assert pool.status["weights"]["phase"] == "Syncing"
    assert pool.object()["metadata"]["resourceVersion"] == version


def test_who_waits_at_a_lease_that_is_watched_is_told_by_the_api_server(pool):
    async def story():
        async with AsyncPool(
            pool.name, pool.namespace, kubeconfig=pool.plane.kubeconfig, holder="a"
        ) as trainer:
            known = await trainer.transaction()
            trainer.lease.watch.start()
            async with asyncio.timeout(20):
                while not trainer.lease.watch.alive:
                    await asyncio.sleep(0.01)
                waiting = asyncio.create_task(trainer.lease.newer(known, 0.0, most=60.0))
                await asyncio.to_thread(commit, pool, "step-1", engines=[])
                assert (await waiting).version == "step-1"

    asyncio.run(story())
