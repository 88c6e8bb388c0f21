"""ROLL's weights never go to an engine as handles of another GPU's memory: that would end it."""

import asyncio
from types import SimpleNamespace

import pytest

from sglang_operator.client import Unsupported
from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster

TENSORS = "/update_weights_from_tensor"


def role(*ids):
    return SimpleNamespace(device_mapping=list(ids))


def configured(cluster, train, infer, **more):
    for each in cluster.strategies:
        config = each.worker.pipeline_config
        config.actor_train = role(*train)
        config.actor_infer = role(*infer)
        vars(config).update(more)
    return cluster


def attach(cluster):
    async def run():
        async with cluster:
            pass

    asyncio.run(run())


def test_shared_ids_are_refused_at_the_start_with_the_mapping_to_write(roll, reach):
    """The example of ROLL's guide: trainer on 0 to 31, engines on 0 to 23."""
    with FakePool() as world:
        reach(world)
        with pytest.raises(Unsupported) as refused:
            attach(configured(Cluster(roll, 3), range(32), range(24)))
        assert "actor_train has the GPUs 0-31, actor_infer 0-23, and they share 0-23" in str(
            refused.value
        )
        assert "device_mapping: list(range(32,56))" in str(refused.value)
        assert not world.puts
        assert not any(engine.asked for engine in world.engines)


@pytest.mark.parametrize("partial", [False, True])
def test_some_shared_ids_are_as_bad_whatever_partial_gpu_mode_is(roll, reach, partial):
    with FakePool() as world:
        reach(world)
        cluster = configured(Cluster(roll, 3), [0, 1, 4], [0, 1, 2, 3], partial_gpu_mode=partial)
        with pytest.raises(Unsupported, match=r"they share 0-1: .*list\(range\(8,12\)\)"):
            attach(cluster)


def test_the_mapping_to_write_is_on_nodes_that_no_role_has(roll, reach):
    more = {
        "reference": role(*range(8, 20)),
        "rewards": {"judge": role(20, 21)},
        "num_gpus_per_node": 4,
    }
    with FakePool() as world:
        reach(world)
        with pytest.raises(Unsupported, match=r"list\(range\(24,30\)\)"):
            attach(configured(Cluster(roll, 3), range(8), range(6), **more))


def test_ids_apart_are_taken_also_where_the_engines_share_some_with_the_reference(roll, reach):
    with FakePool() as world:
        reach(world)
        attach(configured(Cluster(roll, 3), range(8), range(8, 14), reference=role(8, 9)))


def test_a_judge_gets_no_weights_so_that_its_ids_do_not_matter(roll, reach):
    with FakePool() as world:
        reach(world)
        cluster = configured(Cluster(roll, 3), range(8), range(8))
        for each in cluster.strategies:
            each.worker.cluster_name = "llm_judge"
        attach(cluster)


@pytest.mark.parametrize("train", [range(6, 8), range(6)], ids=["apart", "shared later"])
def test_a_bucket_of_handles_is_refused_before_anything_is_begun(roll, reach, train):
    async def train_on(world):
        async with Cluster(roll, 3) as cluster:
            configured(cluster, train, range(6))
            for each in cluster.strategies:
                with pytest.raises(Unsupported, match="die of it"):
                    await each.update_parameter_in_bucket(["handle"])
            assert not world.puts
            assert not any(TENSORS in engine.paths() for engine in world.engines)

    with FakePool() as world:
        asyncio.run(train_on(reach(world)))
