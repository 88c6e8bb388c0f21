"""An engine that keeps what a vision tower made of images is synced only if its model sees none."""

import pytest

from sglang_operator.client import Pool, Unsupported
from sglang_operator.weights.lease_state import Phase
from tests.unit.client.fake_pool import NAMESPACE, POOL, FakePool


@pytest.fixture
def world():
    with FakePool() as made:
        yield made


@pytest.fixture
def pool(world):
    with Pool(POOL, NAMESPACE, identity=world.identity) as made:
        yield made


def test_an_engine_of_an_earlier_operator_that_keeps_images_is_named_and_not_written(world, pool):
    pool.update_from_disk("/c/1", "step-1")
    world.sees_images, world.engines[1].keeps_images = True, True
    world.call(world.publish)
    with pytest.raises(Unsupported, match=r"^engine 1 \(g2-3\): .* rollout restart actor-infer"):
        pool.update_from_disk("/c/2", "step-2")
    assert {engine.weights for engine in world.engines} == {"/c/1"}
    assert not any(engine.paused for engine in world.engines)
    assert (world.state.phase, world.state.intact) == (Phase.COMMITTED, True)
    world.engines[1].keeps_images = False  # it was replaced
    world.call(world.publish)
    pool.update_from_disk("/c/2", "step-2")


@pytest.mark.parametrize("sees", [False, None])
def test_of_a_model_without_images_nothing_is_kept(world, pool, sees):
    world.sees_images = sees
    for engine in world.engines:
        engine.keeps_images = True
    pool.update_from_disk("/c/1", "step-1")
    assert {engine.weights for engine in world.engines} == {"/c/1"}
