"""The explorer's workers of ROLL, in a small world: with the client's guards, and without one."""

import asyncio

import pytest

from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import Cluster
from tests.weights_real import roll_worker
from tests.weights_real.roll_worker import UNFENCED, UNVOUCHED, Part

SIZE = 3


def part(rank, **options):
    given = {"size": SIZE, "job": 1, "master": ("10.0.0.1", 29500), "updates": (7,), "buckets": 2}
    return Part(rank=rank, **{**given, **options})


def job(roll, world, parts):
    """What became of each worker."""
    points: list[str] = []

    async def carry_out():
        async with Cluster(roll, SIZE) as cluster:
            scripts = zip(cluster.strategies, parts, strict=True)
            each = (roll_worker._script(s, p, points.append) for s, p in scripts)
            return await asyncio.gather(*each, return_exceptions=True)

    found = asyncio.run(carry_out())
    assert points == [roll_worker.JOINED] * SIZE
    return found


def served(world):
    return [engine.rank for engine in world.engines if engine.gate_version == "step-7"]


@pytest.fixture
def without(monkeypatch, roll):
    def take(defect):
        monkeypatch.setattr("sglang_operator.client.shared.VOUCH_SECONDS", 0.5)
        for owner, name, value in roll_worker._without(defect, roll):
            monkeypatch.setattr(owner, name, value)

    return take


def test_a_job_updates_every_engine(roll, reach):
    with FakePool() as world:
        found = job(roll, reach(world), [part(rank) for rank in range(SIZE)])
        assert found == [None] * SIZE
        assert served(world) == [0, 1, 2]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(("defect", "ranks"), [("", []), (UNVOUCHED, [0, 1, 2])])
def test_an_engine_whose_worker_gets_no_bucket_is_served_without_the_guard_alone(
    roll, reach, without, defect, ranks, told, monkeypatch
):
    monkeypatch.setattr("sglang_operator.client.following.FOLLOW_SECONDS", 5.0)
    without(defect)
    with FakePool() as world:
        parts = [part(rank, left_out=rank == 2, told=told) for rank in range(SIZE)]
        job(roll, reach(world), parts)
        assert not [
            path for path, _ in world.engines[2].asked if path.startswith("/update_weights")
        ]
        assert served(world) == ranks


@pytest.mark.parametrize("defect", [UNVOUCHED, UNFENCED])
def test_what_a_control_is_without_is_in_the_client(roll, defect):
    changes = roll_worker._without(defect, roll)
    assert changes
    assert all(hasattr(owner, name) for owner, name, _ in changes)
