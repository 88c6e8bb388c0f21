"""ROLL's worker for engines of a pool: what its config names as worker_cls.

::

    actor_infer:
      worker_cls: sglang_operator.client.roll_worker.PoolInferWorker

ROLL imports it by this name in the pipeline's process and in each worker's, and with the import
``strategy_name: sglang`` attaches to a pool there, and model updates mend their groups
(``roll_updates``).  It needs no GPU and no SGLang in its process.
Processes that have no such worker are given the same by Ray's worker_process_setup_hook
(``roll_stand_in.install``).
"""

from importlib.util import find_spec
from typing import Any

from sglang_operator.client import roll_places, roll_stand_in, roll_updates, texts
from sglang_operator.client.errors import Unsupported

# Ray's hook comes before everything else in a process; what it did here it did in all of them.
_HOOKED = roll_stand_in.installed()
roll_stand_in.install()
roll_updates.install()

from roll.distributed.scheduler.decorator import (  # type: ignore[import-not-found] # noqa: E402
    Dispatch,
    register,
)
from roll.pipeline import base_worker  # type: ignore[import-not-found] # noqa: E402


class PoolInferWorker(base_worker.InferWorker):  # type: ignore[misc]
    """ROLL's InferWorker, in a process that has nothing to do on a GPU."""

    def __init__(self, worker_config: Any) -> None:
        """As ROLL does it; of engines on the trainer's GPUs none is awake then.

        ROLL's driver waits for this, and an agentic one has its trainer begin right after.
        """
        super().__init__(worker_config=worker_config)
        if self.rank == 0:
            roll_places.put_aside(self)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    async def initialize(self, pipeline_config: Any) -> None:
        """As ROLL does it; the strategy leaves it no GPU's context to ask for.

        Raises Unsupported where ROLL's schedulers would find neither SGLang nor our stand-in.
        """
        if not _HOOKED and find_spec("sglang") is None:
            raise Unsupported(texts.ROLL_NO_HOOK.format(hook=roll_stand_in.HOOK))
        await super().initialize(pipeline_config)

    @register(dispatch_mode=Dispatch.DP_MP_COMPUTE)  # type: ignore[untyped-decorator]
    async def generate(self, data: Any) -> Any:
        """As ROLL does it, with the batch left where it is: the engine's GPU is elsewhere."""
        data.to = lambda device: data
        return await super().generate(data)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    async def offload_states_partial(self, target_dp_ranks: list[int]) -> None:
        """The engines of these ranks sleep; the pool does it in one transaction for all of them.

        ROLL's own tells only the workers of those ranks, of which none may lead.
        """
        await self.strategy.offload_part(target_dp_ranks)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)  # type: ignore[untyped-decorator]
    async def load_states_partial(self, target_dp_ranks: list[int]) -> None:
        """The engines of these ranks wake."""
        await self.strategy.load_part(target_dp_ranks)

    async def update_obstacle(self) -> str:
        """Why a model update cannot use the process groups as they are; "" if it can."""
        return str(await self.strategy.update_obstacle())

    async def leave_groups(self) -> None:
        """Let the engine leave its groups, and wait until the pool is up, for new ones."""
        await self.strategy.leave_groups()
