"""A sync of ROLL's that somebody ended is over for worker 0: nobody has vouched by that."""

import asyncio
import dataclasses
import time

import pytest

from sglang_operator.client import Expired
from sglang_operator.weights import steps
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster
from tests.unit.client.test_roll_objections import bucket
from tests.unit.client.test_roll_sharing import served


def by_force(world):
    """As ``kubectl sglang weights abort --force``."""
    world.write_lease(steps.ended(world.state, "admin", message="stuck", now=time.time()))


def by_deletion(world):
    world.delete_lease()
    world.make_lease(None)


def by_an_edit(world):
    """Nobody is asked to vouch any more."""
    world.write_lease(dataclasses.replace(world.state, shared=False))


def asked_since(world, before):
    return [path for e, n in zip(world.engines, before, strict=True) for path in e.paths()[n:]]


@pytest.mark.parametrize("end", [by_force, by_deletion, by_an_edit])
def test_while_worker_0_waits_for_words_no_engine_is_named_or_let_run(roll, reach, end):
    """Worker 2 has got one bucket of two, and its process hangs."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.model_update("a1", "b1")
            await cluster.all("broadcast_parameter", *bucket("a2"))
            others = cluster.strategies[:2]
            await asyncio.gather(*(each.broadcast_parameter(*bucket("b2")) for each in others))
            world.engines[2].busy = 1  # a client's request waits in it
            ending = asyncio.gather(
                *(each.process_weights_after_loading() for each in others), return_exceptions=True
            )
            while len(world.state.wrote) != 1:
                await asyncio.sleep(0.01)
            before = [len(engine.paths()) for engine in world.engines]
            await asyncio.to_thread(end, world)
            found = await ending
            assert isinstance(found[0], Expired)
            assert asked_since(world, before) == []
            assert [engine.label for engine in world.engines] == ["step-1"] * 3
            assert all(engine.paused for engine in world.engines)
            assert served(world, "step-2") == []

    with FakePool() as world:
        asyncio.run(train(reach(world)))
