"""A trainer and its pool as stories, on a real node: real containers, real requests, real ends."""

import asyncio
import json
import re
import threading
import time
import urllib.request

import aiohttp
import pytest

from sglang_operator.api import conditions, names
from sglang_operator.client import Held, Pool, StaleEpoch
from sglang_operator.testing import ports
from sglang_operator.testing.engine import weights
from sglang_operator.testing.installed import InstalledOperator
from tests.builders import with_config
from tests.integration.pools import PoolUnderTest
from tests.weights_real import pool_runs, steps, trainer, turn_runs
from tests.weights_real.engines import CONTROL_PORT
from tests.weights_real.exploring import explore
from tests.weights_real.plane import in_network

pytestmark = pytest.mark.plane("3x8", kind="real", operator=False)

READY_SECONDS = 60.0
# A trainer is to hear of a killed engine within 2 s; a node that is busy with others gets more.
STALE_SECONDS = 5.0
GENERATE = {"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 4}}


@pytest.fixture(scope="module")
def metrics():
    return f"127.0.0.1:{ports.free()}"


@pytest.fixture(scope="module")
def operator(plane, metrics):
    with InstalledOperator(plane, arguments=[f"--metrics-address={metrics}"]) as operator:
        yield operator


@pytest.fixture(scope="module")
def shared(plane, operator):
    """Three engines, through all stories: each begins with what the one before it left."""
    pool = PoolUnderTest(plane, plane.namespace("story"))
    pool.apply(
        strategy_args=with_config(enable_memory_saver=True)["strategy_args"],
        num_gpus_per_worker=1,
        device_mapping="[0, 1, 2]",
        podTemplate=pool_runs.engines_template(),
    )
    pool.wait_ready(READY_SECONDS)
    return pool


@pytest.fixture
def pool(plane, shared):
    """The pool, with this test in its network."""
    with plane.inside():
        yield shared


@pytest.fixture
def train(pool):
    """A trainer that attaches by its name."""
    made = []

    def attached(holder="trainer-a"):
        options = {"kubeconfig": pool.plane.kubeconfig, "holder": holder}
        made.append(Pool(pool.name, pool.namespace, **options))
        made[-1].wait_ready(READY_SECONDS)
        return made[-1]

    yield attached
    for each in made:
        each.close()


def bucket(version, part=slice(None)):
    return {"serialized_named_tensors": [weights.bucket(trainer.TENSORS[part], version)]}


def write(pool, version):
    """A whole sync, after which clients are answered."""
    with pool.sync(version) as sync:
        sync.update_weights_from_tensor(bucket(version))
    for registry in pool.watch():
        if {(e.version, e.state) for e in registry.engines} == {(version, "InService")}:
            return


def in_service(pool):
    return [e["rank"] for e in pool.registry()["engines"] if e["state"] == "InService"]


def ask(url, body=None, timeout=10):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read() or b"null")


def service(pool):
    path = f"/api/v1/namespaces/{pool.namespace}/services/{names.service_name(pool.name)}"
    spec = pool.plane.api.get(path)["spec"]
    return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"


def held_by_service(pool):
    """What the weights of an answer through the Service are; None without one."""
    try:
        return ask(f"{service(pool)}/generate", GENERATE, timeout=2)["fake_weights"]["stamp"]
    except OSError:
        return None


def kill(engine):
    ask(f"http://{engine['podIP']}:{CONTROL_PORT}/fault", {"fault": "kill"})


def test_an_engine_killed_during_a_sync_is_stale_at_once_and_comes_back_closed(pool, train):
    trainer_a = train()
    write(trainer_a, "step-1")
    epoch, victim = trainer_a.epoch, pool.registry()["engines"][1]
    told = threading.Event()

    with (
        pytest.raises(StaleEpoch, match=r"engine 1 .* restarted") as caught,
        trainer_a.sync("step-2", on_lost=lambda _: told.set()) as sync,
    ):
        sync.update_weights_from_tensor(bucket("step-2", slice(0, 9)))
        kill(victim)
        killed = time.monotonic()
        assert told.wait(STALE_SECONDS)
        print(f"\nStaleEpoch {time.monotonic() - killed:.2f} s after the kill")
        sync.check()
    assert "write all weights again" in str(caught.value)

    # Two engines hold half of step-2: nobody may reach them, nor the one that came back.
    pool.wait(lambda: in_service(pool) == [], "every gate to close")
    registry = trainer_a.wait_ready(READY_SECONDS)
    back = pool.registry()["engines"][1]
    assert back["pod"] != victim["pod"]
    assert (back["state"], back["gate"]) == ("Up", "Closed")
    assert registry.epoch != epoch
    assert held_by_service(pool) is None
    pool.wait_for(conditions.WEIGHTS_SYNCED, conditions.SYNC_ABORTED)

    write(trainer_a, "step-3")
    assert in_service(pool) == [0, 1, 2]
    assert {
        ask(f"{e['url']}/model_info")["weight_version"] for e in pool.registry()["engines"]
    } == {"step-3"}
    pool.plane.wait(lambda: held_by_service(pool) == "step-3", READY_SECONDS, "the Service")


def test_a_second_trainer_is_refused_in_words_and_has_its_turn_later(pool, train):
    first, second = train("trainer-a"), train("trainer-b")
    with first.sync("mine") as sync:
        sync.update_weights_from_tensor(bucket("mine"))
        with pytest.raises(
            Held, match=r"trainer-a holds the weights .* run only one trainer"
        ) as refused:
            second.sync("theirs").__enter__()
    print("\n", refused.value)
    write(second, "theirs")
    assert [e["version"] for e in pool.registry()["engines"]] == ["theirs"] * 3


def test_a_trainer_that_dies_has_aborted_and_who_is_connected_waits_for_whole_weights(pool, train):
    url = f"{service(pool)}/generate"
    write(train(), "before")
    amid = frozenset({"after /update_weights_from_tensor"})
    order = trainer.Order(program="sync", holder="trainer-x", version="torn", holds=amid)

    def dies_amid_its_buckets():
        process, talk = trainer.spawn(_place(pool), order)
        _, _, where = talk.recv()
        process.kill()
        process.join()
        assert "update_weights_from_tensor" in where

    def is_aborted():
        pool.wait(lambda: in_service(pool) == [], "every gate to close")
        said = pool.wait_for(conditions.WEIGHTS_SYNCED, conditions.SYNC_ABORTED)["message"]
        assert "trainer-x" in said
        write(train("trainer-b"), "after")

    async def story():
        """A client that keeps the connection over which it was answered before."""
        async with aiohttp.ClientSession() as session:
            async with session.post(url, json=GENERATE) as answer:
                before = await answer.json()
            await asyncio.to_thread(dies_amid_its_buckets)
            asked = asyncio.create_task(session.post(url, json=GENERATE).__aenter__())
            await asyncio.to_thread(is_aborted)
            return before, await (await asked).json()

    before, after = asyncio.run(story())
    assert before["fake_weights"]["stamp"] == "before"
    assert after["fake_weights"]["stamp"] == "after"


def _place(pool):
    return trainer.Place(
        namespace=pool.namespace,
        pool=pool.name,
        kubeconfig=str(pool.plane.kubeconfig),
        thread=threading.get_native_id(),
    )


def _sample(metrics, name):
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(rf'^{name}{{[^}}]*namespace="story"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def test_a_step_of_sleep_wake_and_sync_is_measured_by_the_operator(pool, train, metrics):
    prefix = "sglang_operator_pool_"
    counted = {
        "syncs": f"{prefix}weight_sync_seconds_count",
        "seconds": f"{prefix}weight_sync_seconds_sum",
        "closed": f"{prefix}gate_closed_seconds_total",
        "asleep": f"{prefix}sleep_seconds_total",
    }
    trainer_a = train()
    write(trainer_a, "asleep")
    before = {name: _sample(metrics, series) for name, series in counted.items()}
    trainer_a.sleep()
    time.sleep(1.0)
    trainer_a.wake()
    begun = time.monotonic()
    write(trainer_a, "measured")
    took = time.monotonic() - begun

    def grown():
        return {name: _sample(metrics, series) - before[name] for name, series in counted.items()}

    def counted_all():
        """Three engines' gates were closed, for longer than a second."""
        seen = grown()
        whole = seen["syncs"] == 1 and seen["asleep"] >= 1.0 and seen["closed"] >= 3.0
        return seen if whole else None

    seen = pool.wait(counted_all, "the sync, the sleep and the gates to be counted")
    print("\n", seen)
    assert 0 < seen["seconds"] < took
    pool.wait(lambda: _sample(metrics, f"{prefix}weight_skew") == 0, "no skew")


def test_steps_of_sleep_wake_sync_and_generate_lose_no_engine(pool):
    measured = in_network(pool.plane, lambda: steps.measure(pool.plane, pool, 3))
    print(f"\n{measured.table()}")
    assert measured.lost == 0
    assert measured.wrong == []
    assert measured.gate_writes <= steps.MAX_WRITES
    # Registry and status cost as much for any pool, and more on a node that takes its time.
    assert measured.writes <= 3 * steps.MAX_WRITES


def test_clients_get_whole_weights_whatever_trainers_engines_and_operators_do(plane, operator):
    """A subset of ``make weights-real``."""
    results = in_network(
        plane,
        lambda: explore(plane, [operator], pool_runs.Variant(), (97, 99), name="explored", pools=1),
    )
    assert [result.found for result in results] == [[], []]
    assert sum(n for result in results for n in result.told.answers.values()) > 30


def test_trainer_and_engines_on_the_same_gpus_take_turns_whatever_trainers_and_engines_do(
    plane, operator
):
    """A subset of ``make weights-real ARGS="--only turns"``."""
    variant = pool_runs.Variant(turns=pool_runs.Turns())
    results = in_network(
        plane, lambda: explore(plane, [operator], variant, (1, 2), name="turns", pools=1)
    )
    assert [result.found for result in results] == [[], []]
    assert sum(result.outcomes[turn_runs.TURN] for result in results) > 0
    assert sum(n for result in results for n in result.told.answers.values()) > 30
