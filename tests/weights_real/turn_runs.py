"""A pool on its trainer's GPUs, through many runs: engines and trainer take turns there.

Nobody counts these GPUs but they themselves: engines and trainers write down what they hold of
them in the folder that they have in common, and with whom.  A moment at which one of each held
memory of the same GPU is found, whenever it was.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sglang_operator.placement import colocated
from sglang_operator.testing.engine import held
from tests.unit.placement.trainers import gpu
from tests.weights_real import trainer, turn_trainer
from tests.weights_real.plane import Json, SharedPlane
from tests.weights_real.pool_runs import (
    AT_ANY_TIME,
    CHECKPOINTS,
    FAIR_LEASE_SECONDS,
    PARTS,
    WHILE_NOBODY_TRAINS,
    Faults,
    Holds,
    PoolRuns,
    Result,
    Turns,
    Variant,
)
from tests.weights_real.turn_trainer import TRAINS, TurnOrder

GPUS = 8  # of the trainer
HELD = "held"  # the folder in the one at /dev/shm
GONE_SECONDS = 30.0
# One trainer has these GPUs: there is no second one, whose memory nobody would ask after.
WHILE_TRAINING = ("trainer dies", "trainer dies", "trainer stands still")
PEACE = "trains in peace"
TURN = "turn"  # a trainer had the memory
REGROUPED = ("regrouped", "regrouped")
# Ids of GPUs, and how many of them an engine has.
GROUPINGS = (
    *(("[0, 1, 2]", 1), ("[2, 0, 1]", 1), ("[0, 1, 3]", 1), ("[4, 1, 2]", 1)),
    *(("[0, 1, 2, 3]", 1), ("[0, 1, 2, 3]", 2), ("[2, 3, 0, 1]", 2), ("[1, 2, 3, 4]", 2)),
)
PROGRAMS = (
    *("turn", "turn and wake", "turn and sync", "step", "step", "two steps"),
    *("wake", "sync", "wake all and sync"),
)
# Where a trainer is held by the name of the point, and by its number.
NAMED = (
    *(TRAINS, TRAINS, TRAINS, TRAINS),
    *("before /release_memory_occupation", "after /release_memory_occupation"),
    *("before /resume_memory_occupation", "after /resume_memory_occupation"),
    *("before put_lease", "after put_lease"),
)
POINTS = 110


class TurnRuns(PoolRuns):
    """Its trainers take turns with its engines."""

    def __init__(self, shared: SharedPlane, namespace: str, variant: Variant) -> None:
        super().__init__(shared, namespace, variant)
        # Of this exploration alone: a node of another plane has the same /dev/shm here.
        self._folder = Path(f"{colocated.folder(namespace)}.{os.getpid()}")
        number = int(hashlib.sha256(namespace.encode()).hexdigest()[:8], 16)
        self._gpus = tuple(gpu(number, index) for index in range(GPUS))
        self._seen = 0  # moments

    @property
    def _turns(self) -> Turns:
        assert self._variant.turns is not None
        return self._variant.turns

    # --- life

    async def __aenter__(self) -> Self:
        (self._folder / HELD).mkdir(parents=True)
        nodes = await self._api("GET", "/api/v1/nodes")
        self._node = nodes["items"][0]["metadata"]["name"]
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, trace)
        with contextlib.suppress(TimeoutError):
            await self._until(self._is_empty, GONE_SECONDS, "the pods to go")
        await asyncio.to_thread(shutil.rmtree, self._folder)

    async def _is_empty(self) -> bool:
        return not (await self._api("GET", f"/api/v1/namespaces/{self._namespace}/pods"))["items"]

    def _pool(self) -> Json:
        made = super()._pool()
        slot = {"nodeRank": 0, "node": self._node, "gpus": list(self._gpus)}
        shared = {"slots": [slot], "sharedMemory": {"hostPath": str(self._folder)}}
        made["spec"]["placement"] = {"mode": "Shared", "shared": shared}
        env = made["spec"]["podTemplate"]["spec"]["containers"][0]["env"]
        env.append({"name": "FAKE_SGLANG_MEMORY", "value": f"/dev/shm/{HELD}"})
        return made

    # --- a run

    async def run(self, seed: int) -> Result:
        """A run of this seed; what came of it, and of everybody's memory."""
        result = await super().run(seed)
        result.outcomes[TURN] += sum(f" at {TRAINS} (" in step for step in result.steps)
        moments = await asyncio.to_thread(held.moments, self._folder / HELD)
        new, self._seen = moments[self._seen :], len(moments)
        result.both += [
            f"{'engine' if each['who'] == held.ENGINE else 'trainer'} came to hold memory of "
            f"{', '.join(each['devices'])} that the other had, at {each['at']:.2f}"
            for each in new
        ]
        return result

    async def _act(self) -> None:
        """Somebody takes a turn, or ends one, and maybe something happens meanwhile."""
        chance, turns = self._chance, self._turns
        program = turns.program or chance.choice(PROGRAMS)
        holds: Holds = {TRAINS: turns.aimed or PEACE}
        for _ in range(0 if turns.program else chance.choice((0, 1, 1, 2))):
            named = chance.random() < 0.6
            holds[chance.choice(NAMED) if named else chance.randrange(POINTS)] = self._pick()
        torn = chance.randrange(3) if not turns.program and chance.random() < 0.15 else None
        order = TurnOrder(
            program=program,
            holder="trainer-a",
            version=self._version(),
            buckets=chance.choice((2, 3, 5)),
            torn_at=torn,
            devices=() if turns.program else chance.choice(PARTS),
            holds=frozenset(holds),
            wait=chance.choice((0.0, 6.0)),
            ready=chance.random() < 0.7,
            checkpoint=chance.random() < CHECKPOINTS,
            folder=str(self._folder / HELD),
            gpus=self._gpus,
            train_seconds=turns.train_seconds or chance.uniform(0.2, 4.0),
            defect=turns.defect,
        )
        part = f" of {order.devices}" if order.devices else ""
        self._result.steps.append(f"{program}{part}{'' if torn is None else ', torn'}")
        await self._train(order, holds)

    async def _train(self, order: Any, holds: Holds, does: Any = None) -> str:
        said: str = await super()._train(order, holds, does or turn_trainer.main)
        return said

    def _fair(self, *, checkpoint: bool) -> TurnOrder:
        """Everybody wakes, and a sync that nothing disturbs."""
        return TurnOrder(
            program="wake all and sync",
            holder="trainer-a",
            version=self._version(),
            wait=trainer.LEASE_SECONDS + 2,
            ready=True,
            lease=FAIR_LEASE_SECONDS,
            checkpoint=checkpoint,
            folder=str(self._folder / HELD),
            gpus=self._gpus,
        )

    # --- faults

    def _faults(self) -> Faults:
        return {**super()._faults(), PEACE: self._nothing, "regrouped": lambda _: self._remap()}

    def _pick(self, *, nobody_trains: bool = False) -> str:
        others: Sequence[str] = WHILE_NOBODY_TRAINS if nobody_trains else WHILE_TRAINING
        chosen: str = self._chance.choice([*others, *AT_ANY_TIME, *REGROUPED])
        return chosen

    async def _nothing(self, _: Any) -> None:
        """Nothing happens while it trains."""

    async def _remap(self) -> None:
        mapping, each = self._chance.choice(GROUPINGS)
        await self._patch({"device_mapping": mapping, "num_gpus_per_worker": each})
