"""The operator's loads and a trainer's steps exclude each other: real client, real poller."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sglang_operator.api import names, spec
from sglang_operator.ask import engines
from sglang_operator.backoff import Backoff
from sglang_operator.client import Pool
from sglang_operator.clocks import moment, steady
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.asking import Asker
from sglang_operator.controller.memory import Memory
from sglang_operator.fleet import poller as polling
from sglang_operator.fleet.client import EngineClient
from sglang_operator.fleet.poller import Poller
from sglang_operator.gates import recovery
from sglang_operator.gates.decide import GatePlan, decide
from sglang_operator.observed import wire
from sglang_operator.observed.model import Observed, ObservedChild
from sglang_operator.plan import plan as plans
from sglang_operator.weights import lease_state
from tests import builders
from tests.builders import OWNER, a_pod, a_pool
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.fleet.engines import eventually

KEY = PoolKey(NAMESPACE, POOL)
LOAD = "/update_weights_from_disk"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(polling, "RETRY", Backoff(0.1, 0.1))
    monkeypatch.setattr(recovery, "REST_SECONDS", 0.0)


class Operator:
    """What a pass does about weights, with the same calls; gates are the world's."""

    def __init__(self, world: FakePool, poller: Poller) -> None:
        self.world = world
        self.asker = Asker(poller, "operator-a", self.look)
        self.gone = False  # what was seen of the engine that restarted is of before
        self.memory = Memory(uid=OWNER.uid)
        self.pool = a_pool(
            device_mapping="list(range(0,4))",
            weights={"gate": "Committed", "recovery": "FromCheckpoint"},
        )
        self.lives = [0, 0]
        self.keeps_images = False
        self.observed = Observed()

    async def look(self, key: PoolKey, name: str) -> wire.Pod | None:
        """The pod as it is now."""
        found = [pod for pod in self.observed.pods if pod.name == name and not self.gone]
        return builders.told(found[0]) if found else None

    def restart(self, rank: int) -> None:
        """An engine is replaced: random weights under another instance."""
        self.lives[rank] += 1
        self.world.restart(rank)
        self.name_engines()

    def name_engines(self) -> list[Any]:
        """Pods and engines are of the same instances."""
        pods = []
        for engine in self.pool.running:
            life = self.lives[engine.rank]
            run = f"containerd://{engine.rank}-{life}"
            options = {"container_id": run, "ip": "127.0.0.1", "keeps_images": self.keeps_images}
            pod = a_pod(self.pool, engine, life, **options)
            self.world.engines[engine.rank].instance = pod.instance or ""
            pods.append(pod)
        self.world.call(self.world.publish)
        return pods

    def one_pass(self) -> GatePlan:
        at, body = moment(), self.world.lease
        now = at.wall
        key = ("Lease", names.weights_lease_name(OWNER.name))
        lease = ObservedChild(uid=names.Uid("l"), owner=OWNER.uid, body=body, seen=now)
        self.observed = Observed(
            pods=tuple(self.name_engines()),
            children={key: lease},
            reports=self.asker.reports(KEY, at),
        )
        plan = plans.plan(self.pool, self.observed, at.steady)
        policy = spec.Weights(gate=self.pool.gate, recovery=self.pool.spec.weights.recovery)
        decided = decide(OWNER, policy, plan.engines, self.observed, now, self.asker.holder)
        self.asker.ask(KEY, self.memory, self.pool, plan, decided, self.observed)
        if decided.recovery is not None:
            sent = steady()
            version = body["metadata"]["resourceVersion"]
            if self.world.lease["metadata"]["resourceVersion"] == version:
                self.world.write_lease(decided.recovery.state)
                self.memory.stepped_at = sent
        return decided

    async def passes(self, check: Callable[[], Any], what: str) -> None:
        """Passes until this holds."""

        def passed() -> Any:
            self.one_pass()
            return check()

        await eventually(passed, what)


def in_a_world(
    test: Callable[[FakePool, Operator, Pool], Awaitable[None]], monkeypatch: Any
) -> None:
    async def run(world: FakePool) -> None:
        def url(address: str, port: int) -> str:
            return urls[0]

        urls = [world.engines[1].url]
        monkeypatch.setattr(engines, "url", url)
        async with EngineClient(user_agent="test") as client:
            poller = Poller(client, lambda key, urgent: None)
            operator = Operator(world, poller)
            operator.name_engines()
            with Pool(POOL, NAMESPACE, identity=world.identity, holder="trainer") as trainer:
                await asyncio.to_thread(trainer.update_from_disk, "/c/step-1", "step-1")
                operator.restart(1)
                try:
                    await test(world, operator, trainer)
                finally:
                    await poller.close()

    with FakePool(engines=2) as world:
        asyncio.run(run(world))


def held(world: FakePool) -> list[str]:
    return [engine.weights for engine in world.engines]


def test_an_engine_that_restarted_catches_up_is_covered_and_continued(monkeypatch):
    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        world.engines[1].paused = True  # it slept with the others before it had its weights
        instance = world.engines[1].instance
        await operator.passes(lambda: instance in world.state.instances, "the commit covers it")
        assert held(world) == ["/c/step-1"] * 2
        assert not world.engines[1].paused
        assert (world.state.holder, world.state.recovering) == ("", frozenset())
        # Slept and woken like any other.
        await asyncio.to_thread(trainer.sleep, ("kv_cache",), settle=0)
        await asyncio.to_thread(trainer.wake)
        assert [engine.paused for engine in world.engines] == [False, False]
        assert [engine.gate for engine in world.engines] == ["Open", "Open"]

    in_a_world(test, monkeypatch)


@pytest.mark.parametrize("version", ["0.5.20", "0.5.21", "0.5.23"])
def test_what_a_trainer_left_open_is_closed_before_an_engine_serves(monkeypatch, version):
    """SGLang has sessions for buckets since 0.5.21."""

    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        operator.pool = a_pool(
            device_mapping="list(range(0,4))",
            weights={"gate": "Committed", "recovery": "FromCheckpoint"},
            engineVersion=version,
            image=f"lmsysorg/sglang:v{version}",
        )
        operator.name_engines()
        engine, has_sessions = world.engines[1], version != "0.5.20"
        engine.session = has_sessions
        await operator.passes(lambda: engine.instance in world.state.instances, "it is covered")
        assert engine.weights == "/c/step-1"
        assert not engine.session
        asked = [path for path in engine.paths() if path in ("/end_weight_update", LOAD)]
        assert asked == ["/end_weight_update"] * has_sessions + [LOAD]

    in_a_world(test, monkeypatch)


@pytest.mark.parametrize("sees", [True, False, None], ids=["sees images", "of text", "unknown"])
def test_no_checkpoint_is_loaded_into_an_engine_that_keeps_what_its_tower_made(
    monkeypatch, caplog, sees
):
    """A trainer may not sync it either: it would answer from the tower of before."""

    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        operator.keeps_images, world.sees_images = True, sees
        engine = world.engines[1]
        if not sees:
            await operator.passes(lambda: engine.instance in world.state.instances, "it is covered")
            assert engine.weights == "/c/step-1"
            return
        await operator.passes(lambda: "its model sees images" in caplog.text, "it is told")
        assert "SGLANG_VLM_CACHE_SIZE_MB" in caplog.text
        assert [path for path in engine.paths() if path in (LOAD, "/pause_generation")] == []
        await operator.passes(lambda: not world.state.holder, "the Lease is given back")
        assert engine.instance not in world.state.instances

    in_a_world(test, monkeypatch)


def test_no_checkpoint_is_loaded_at_the_address_of_an_engine_that_is_gone(monkeypatch, caplog):
    """The operator's stream of pods stalls for a minute: the address may be another pool's."""

    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        operator.gone, engine = True, world.engines[1]
        before = engine.paths()
        await operator.passes(lambda: "(try 1)" in caplog.text, "the first try is told")
        await operator.passes(lambda: "(try 2)" in caplog.text, "and the second")
        assert "does not run at 127.0.0.1 any more" in caplog.text
        assert engine.paths() == before
        await operator.passes(lambda: not world.state.holder, "the Lease is given back")
        operator.gone = False
        await operator.passes(lambda: engine.instance in world.state.instances, "it is covered")
        assert engine.weights == "/c/step-1"

    in_a_world(test, monkeypatch)


def test_a_sync_waits_for_the_load_that_is_under_way_and_then_has_the_last_word(monkeypatch):
    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        world.engines[1].stuck.add(LOAD)
        await operator.passes(lambda: world.engines[1].held, "the load has begun")
        sync = asyncio.create_task(
            asyncio.to_thread(trainer.update_from_disk, "/c/step-2", "step-2")
        )
        await asyncio.sleep(0.8)  # more than one look at the Lease
        assert not sync.done()
        assert world.state.recovers
        assert held(world)[0] == "/c/step-1"
        world.engines[1].stuck.clear()
        await operator.passes(sync.done, "the sync")
        await sync
        assert held(world) == ["/c/step-2"] * 2
        assert world.engines[1].paths().count(LOAD) == 2

    in_a_world(test, monkeypatch)


def test_a_load_that_failed_is_tried_again_but_never_over_a_later_commit(monkeypatch):
    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        engine = world.engines[1]
        engine.refuse[LOAD] = (400, "no such file")
        await operator.passes(lambda: engine.paths().count(LOAD) >= 3, "it is tried again")
        engine.refuse.clear()
        await asyncio.to_thread(trainer.update_from_disk, "/c/step-2", "step-2")
        later = steady() + 0.5  # five times its time
        await operator.passes(lambda: steady() > later, "passes go on")
        assert held(world) == ["/c/step-2"] * 2
        assert not world.state.recovers

    in_a_world(test, monkeypatch)


def test_a_sleeping_engine_is_never_written_to(monkeypatch):
    async def test(world: FakePool, operator: Operator, trainer: Pool) -> None:
        engine = world.engines[1]
        engine.refuse[LOAD] = (400, "no such file")
        await operator.passes(lambda: engine.paths().count(LOAD), "it failed once")
        await operator.passes(lambda: not world.state.recovers, "the Lease is given back")
        await asyncio.to_thread(trainer.sleep, settle=0)
        tried = engine.paths().count(LOAD)
        later = steady() + 0.5
        await operator.passes(lambda: steady() > later, "passes go on")
        assert engine.paths().count(LOAD) == tried
        assert world.state.phase is lease_state.Phase.SLEEPING

    in_a_world(test, monkeypatch)
