"""A pool is refused before its registry is too large to be written."""

import orjson
import pytest

from sglang_operator.api import errors
from sglang_operator.children import trainer_registry
from sglang_operator.observed.model import Gate
from sglang_operator.pool import registry_size
from tests.builders import a_pool, all_pods, refused, weighed


def written(pool):
    """The registry's values of a pool all of whose engines are in service."""
    pods = all_pods(
        pool,
        attempt=99,
        ip="255.255.255.255",
        ready=True,
        gate=Gate(is_open=True, version="step-100000000000000"[: registry_size.VERSION], reason=""),
        container_id="containerd://" + "0" * 64,
    )
    return trainer_registry.registry(pool, weighed(pool, pods))["data"]


def estimated(pool):
    engines = [(e.name, len(str(list(e.devices)))) for e in pool.running]
    return registry_size.most(pool.owner.name, engines, pool.gpus, pool.sampling)


@pytest.mark.parametrize(
    ("gpus", "mapping"),
    [(1, "list(range(0,2000))"), (8, "list(range(0,4096))"), (2, "list(range(100000,102000))")],
)
def test_the_estimate_is_not_exceeded_and_not_far_off(gpus, mapping):
    pool = a_pool(num_gpus_per_worker=gpus, num_gpus_per_node=8, device_mapping=mapping)
    size = len(written(pool)[trainer_registry.ENGINES_KEY])
    assert size <= estimated(pool) <= 1.1 * size


def test_the_largest_pool_that_is_taken_has_room_and_one_above_is_refused():
    """Of one GPU each; of more there are fewer, because a mapping has at most 8,192 GPUs."""
    large = a_pool(num_gpus_per_worker=1, device_mapping="list(range(0,4096))")
    data = written(large)
    assert sum(map(len, data.values())) <= registry_size.LIMIT
    assert len(orjson.loads(data[trainer_registry.ENGINES_KEY])["engines"]) == 4096
    found = refused(num_gpus_per_worker=1, device_mapping="list(range(0,4400))")
    (problem,) = found.errors
    assert problem.reason == errors.POOL_TOO_LARGE.reason
    assert "4400 engines may take" in problem.message
    assert "split them over several pools" in problem.message


def test_what_other_trainers_take_gives_way_to_the_engines():
    small = written(a_pool(num_gpus_per_worker=1, device_mapping="list(range(0,3000))"))
    assert len(small[trainer_registry.SLIME_KEY].split()) == 3000
    large = written(a_pool(num_gpus_per_worker=1, device_mapping="list(range(0,4096))"))
    others = {key: text for key, text in large.items() if key != trainer_registry.ENGINES_KEY}
    assert others == dict.fromkeys(trainer_registry.FORMATS, "")
