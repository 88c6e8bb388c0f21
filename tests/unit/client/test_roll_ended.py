"""A worker's word is for one sync and one update: none for what was ended, nor for the next."""

import asyncio
import dataclasses
import time

import pytest

from sglang_operator.client import Expired, NotReady
from sglang_operator.weights import steps
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster
from tests.unit.client.test_roll_objections import bucket
from tests.unit.client.test_roll_sharing import all_serve, ended, served
from tests.unit.client.test_roll_sharing import impatient as impatient


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


# --- the end of an update that worker 0 is not told of


async def unended(cluster, *names):
    """An update of which worker 0 alone is not told that it has ended."""
    for name in names:
        await cluster.all("broadcast_parameter", *bucket(name))
    for each in cluster.strategies[1:]:
        await each.process_weights_after_loading()


@pytest.mark.parametrize("watched", [True, False])
def test_the_next_update_is_a_sync_of_its_own(roll, reach, watched):
    async def train(world):
        world.lets_watch_lease = watched
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await unended(cluster, "a", "b")
            first = world.state.id
            await cluster.model_update("a", "b")
            assert world.state.id != first
            assert {e.weights for e in world.engines} == {"b"}
            await all_serve(world, "step-1", [0, 1, 2])

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_what_worker_0_alone_writes_next_is_in_no_commit(roll, reach, impatient):
    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await unended(cluster, "a")
            for name in ("a", "b"):
                await cluster.strategies[0].broadcast_parameter(*bucket(name))
            with pytest.raises(NotReady, match="nobody vouches for 2 engines"), impatient():
                await cluster.strategies[0].process_weights_after_loading()
            assert world.state.phase is Phase.ABORTED
            assert served(world, "step-1") == []

    with FakePool() as world:
        asyncio.run(train(reach(world)))


def test_a_worker_that_is_to_write_on_and_cannot_takes_its_word_back(roll, reach, impatient):
    """Whatever worker 0 knows by then of who has vouched."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await unended(cluster, "a")
            with pytest.MonkeyPatch.context() as patch, impatient():
                patch.setattr(roll.SharedSync, "_vouched", never)
                found = await ended(
                    each.broadcast_parameter(*bucket("b")) for each in cluster.strategies
                )
                assert [type(each) for each in found] == [type(None), NotReady, NotReady]
                assert "worker 0 has not done its part" in world.state.message
                with pytest.raises(NotReady, match="worker 0 has not done its part"):
                    await cluster.strategies[0].process_weights_after_loading()
            assert world.state.phase is Phase.ABORTED
            assert served(world, "step-1") == []

    with FakePool() as world:
        asyncio.run(train(reach(world)))


async def never(_):
    return False


def test_a_bucket_is_not_written_into_a_sync_that_the_lease_says_is_over(roll, reach):
    """Not even while worker 0 might count on its last renewal."""

    async def train(world):
        async with Cluster(roll, 3) as cluster:
            await cluster.setup()
            await cluster.all("broadcast_parameter", *bucket("a"))
            before = [len(engine.paths()) for engine in world.engines]
            await asyncio.to_thread(by_force, world)
            lease = cluster.strategies[0].pool.lease
            while lease.seen.phase is Phase.SYNCING:
                await asyncio.sleep(0.01)
            with pytest.raises(Expired):
                await cluster.strategies[0].broadcast_parameter(*bucket("b"))
            assert asked_since(world, before) == []

    with FakePool() as world:
        asyncio.run(train(reach(world)))
