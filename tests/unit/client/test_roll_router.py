"""ROLL's own shrink and expand, from a clone of it (ROLL_SOURCE), over our strategies.

Its router imports torch and ray; the class that decides which ranks sleep uses neither.
"""

import ast
import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.fake_pool import FakePool
from tests.unit.client.test_roll import ANSWER, Cluster

SOURCE = os.environ.get("ROLL_SOURCE", "")
pytestmark = pytest.mark.skipif(not SOURCE, reason="no ROLL_SOURCE, a clone of alibaba/ROLL")


def manager():
    """ROLL's PartialGPUManager, as it stands there."""
    path = Path(SOURCE) / "roll" / "distributed" / "scheduler" / "router.py"
    classes = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    found = next(node for node in classes if node.name == "PartialGPUManager")
    scope: dict[str, Any] = {"asyncio": asyncio, "time": time, "logger": logging.getLogger("roll")}
    scope |= {"List": list, "Dict": dict, "Any": Any}
    exec(compile(ast.Module([found], []), str(path), "exec"), scope)
    return scope["PartialGPUManager"]


class Reference:
    """What Ray gives for a call."""

    def __init__(self, call):
        self._future = asyncio.run_coroutine_threadsafe(call, asyncio.get_running_loop())

    def future(self):
        return self._future


class Workers:
    """ROLL's cluster: each call goes to every worker (Dispatch.ONE_TO_ALL)."""

    def __init__(self, cluster):
        self._cluster = cluster
        self.world_size = len(cluster.strategies)
        self.rank2devices = {
            rank: [{"node_rank": 0, "gpu_rank": gpu} for gpu in (2 * rank, 2 * rank + 1)]
            for rank in range(self.world_size)
        }

    def offload_states_partial(self, ranks, blocking):
        return [Reference(each.offload_part(ranks)) for each in self._cluster.strategies]

    def load_states_partial(self, ranks, blocking):
        return [Reference(each.load_part(ranks)) for each in self._cluster.strategies]


class Router:
    """Where ROLL sends its requests."""

    def __init__(self):
        self.active = set(range(4))

    async def rebalance_on_shrink(self, ranks):
        self.active -= set(ranks)
        return {}

    async def rebalance_on_expand(self, ranks):
        self.active |= set(ranks)
        return {}


@pytest.mark.parametrize("train", [range(4), [4, 5], range(4, 8)])
def test_steps_of_rolls_agentic_pipeline(roll, reach, train):
    """In the order of agentic_pipeline.py: update of all, expand (skip_load), rollout, shrink."""
    asleep = [rank for rank in range(4) if {2 * rank, 2 * rank + 1} & {*train}]

    async def live(world):
        async with Cluster(roll, 4, colocated=True) as cluster:
            await cluster.setup()
            router = Router()
            gpus = manager()(Workers(cluster), router, 8)
            for step in range(1, 4):
                await cluster.all("offload_states", include="OffloadStateType.other_params")
                await cluster.model_update(f"a{step}")
                if step > 1:
                    await gpus.expand_workers([*train], skip_load=True)
                assert router.active == set(range(4))
                assert [engine.gate for engine in world.engines] == ["Open"] * 4
                assert await cluster.generate() == [ANSWER] * 4
                told = await gpus.shrink_workers([*train])
                assert told["offload_ranks"] == asleep
                assert [bool(engine.released) for engine in world.engines] == [
                    rank in asleep for rank in range(4)
                ]
                assert router.active == set(range(4)) - {*asleep}

    with FakePool(4) as world:
        for engine in world.engines:
            engine.strict = True
        asyncio.run(live(reach(world)))
