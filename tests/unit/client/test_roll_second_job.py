"""A second job of ROLL's on the pool: its groups have the names of those of the first."""

import asyncio

import pytest

from sglang_operator.client import AsyncPool, Held, roll_groups
from sglang_operator.weights import rules
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool
from tests.unit.client.test_roll import Cluster

GROUPS = ("/destroy_weights_update_group", "/init_weights_update_group")


def bucket(name):
    return [name], ["torch.bfloat16"], [(2,)], "g"


def touched(world):
    """How often engines were told of groups."""
    return sum(path in GROUPS for engine in world.engines for path in engine.paths())


@pytest.fixture
def looked(monkeypatch):
    """How often somebody found the Lease held."""
    times = []
    free = rules.free

    def counting(*arguments, **options):
        try:
            free(*arguments, **options)
        except rules.RefusedError:
            times.append(arguments)
            raise

    monkeypatch.setattr(rules, "free", counting)
    return times


def minding():
    world = FakePool()
    for engine in world.engines:
        engine.groups = set()
    return world


def test_it_sets_its_groups_up_once_the_sync_of_the_first_is_over(roll, reach, looked):
    async def train(world):
        async with Cluster(roll, 3) as one, Cluster(roll, 3, address="10.0.0.2") as two:
            await one.setup()
            await one.all("broadcast_parameter", *bucket("a1"))
            before = touched(world)
            starting = asyncio.create_task(two.setup())
            while not looked and not starting.done():
                await asyncio.sleep(0.01)
            await one.all("broadcast_parameter", *bucket("b1"))
            assert touched(world) == before
            await one.all("process_weights_after_loading")
            await starting
            assert touched(world) > before
            assert world.state.version == "step-1"
            assert not any(engine.dead for engine in world.engines)

    with minding() as world:
        asyncio.run(train(reach(world)))


@pytest.mark.parametrize("work", ["sync", "sleep"])
def test_it_is_refused_before_it_touches_an_engine_if_another_holds_on(
    roll, reach, monkeypatch, work
):
    monkeypatch.setattr(roll_groups, "HELD_SECONDS", 0.0)

    async def train(world):
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="other") as pool,
            Cluster(roll, 3) as cluster,
        ):
            if work == "sleep":
                await pool.sleep(["kv_cache"], settle=0)
            else:
                sync = pool.sync("7")
                await sync.begin()
            before = touched(world)
            with pytest.raises(Held, match="other"):
                await cluster.setup()
            assert touched(world) == before
            if work == "sync":
                await sync.abort("done")

    with minding() as world:
        asyncio.run(train(reach(world)))


def test_a_job_leaves_no_group_while_another_is_at_the_engines(roll, reach, monkeypatch):
    """The other's groups may have the same names."""
    monkeypatch.setattr(roll_groups, "HELD_SECONDS", 0.0)

    async def train(world):
        async with (
            AsyncPool(POOL, NAMESPACE, identity=world.identity, holder="other") as pool,
            Cluster(roll, 3) as cluster,
        ):
            await cluster.setup()
            sync = pool.sync("7")
            await sync.begin()
            before = touched(world)
            with pytest.raises(Held, match="other"):
                await cluster.all("leave_groups")
            assert touched(world) == before
            await sync.abort("done")

    with minding() as world:
        asyncio.run(train(reach(world)))
