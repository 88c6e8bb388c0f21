"""A pool on which ROLL trains: jobs of several workers, each with an engine of its own.

The workers of a job write in one sync, which the first of them leads.  Meanwhile the pool may grow,
engines restart, a worker may get no bucket, any of them may die or stand still, and others sync.
"""

import asyncio
import contextlib
from typing import Any

from sglang_operator.testing.engine.rendezvous import Trainer
from sglang_operator.testing.realnode.network import CONTROL_PLANE
from tests.weights_real import roll_worker
from tests.weights_real.plane import Json
from tests.weights_real.pool_runs import IN_SERVICE_SECONDS, MAPPINGS, Faults, Holds, PoolRuns, Roll
from tests.weights_real.roll_worker import JOINED, Part

WRITES = "before /update_weights_from_distributed"
FORM_SECONDS = 20.0  # that a group may take to come together
JOB_SECONDS = 90.0
OTHERS_SECONDS = 45.0  # that others may take to sync: a job that was aborted keeps them waiting
COMMITTED = "job that commits"
GROWN = "[0, 1, 2, 3]"
# What happens at the points that have a name, for a control or by chance.
AIMED = (
    *((JOINED, "pool grows"), (WRITES, "pool grows"), (WRITES, "others go on")),
    *((WRITES, "worker dies"), (WRITES, "worker stands still"), (WRITES, "engine killed")),
)
# Requests of a worker that leads, and of one that follows, in a job of one update or two.
POINTS = (90, 40)


class RollPoolRuns(PoolRuns):
    """Its trainers are ROLL's jobs; the fair end is another trainer's."""

    def _pool(self) -> Json:
        made = super()._pool()
        env = made["spec"]["podTemplate"]["spec"]["containers"][0]["env"]
        # Who waits for a rank or a broadcast that does not come ends soon, not after an hour.
        for key in ("RENDEZVOUS_SECONDS", "NCCL_SECONDS"):
            env.append({"name": f"FAKE_SGLANG_{key}", "value": "6"})
        return made

    async def _act(self) -> None:
        """A job trains, and maybe something happens meanwhile."""
        with contextlib.suppress(TimeoutError):
            await self._until(self._is_as_wanted, IN_SERVICE_SECONDS, "engines")
        size = len(await self._engines.all())
        self._jobs += 1
        parts, holds = self._parts(size)
        self._result.steps.append(f"a job of {size}: {_told(parts)}")
        with Trainer(1 + size, host=CONTROL_PLANE) as master:
            parts = [self._at(part, master) for part in parts]
            broadcasting = asyncio.create_task(self._broadcast(master, parts[0]))
            try:
                async with asyncio.timeout(JOB_SECONDS):
                    await self._carry_out(parts, holds)
            except TimeoutError:
                self._result.outcomes["job that takes too long"] += 1
            finally:
                master.close()
                broadcasting.cancel()
                await asyncio.wait({broadcasting})
        said = await self._recovery.read()
        known = {roll_worker.version(step) for step in parts[0].updates}
        self._result.outcomes[COMMITTED if said.version in known else "job without a commit"] += 1
        if self._roll.grows:
            await self._patch({"device_mapping": MAPPINGS[0]})

    # --- what a job is

    _jobs = 0

    @property
    def _roll(self) -> Roll:
        assert self._variant.roll is not None
        return self._variant.roll

    def _parts(self, size: int) -> tuple[list[Part], list[Holds]]:
        chance, roll = self._chance, self._roll
        updates = tuple(self._step() for _ in range(chance.choice((1, 1, 2))))
        colocated, told = chance.random() < 0.25, chance.random() < 0.5
        left_out = chance.randrange(size) if chance.random() < 0.15 else None
        if roll.leaves_out:
            left_out, told = size - 1, False
        holds: list[Holds] = [{} for _ in range(size)]
        if roll.aimed is not None:
            holds[-1] = dict([roll.aimed])
        for _ in range(0 if roll.defect else chance.choice((0, 1, 1, 2))):
            rank = chance.choice((0, chance.randrange(size)))
            if chance.random() < 0.5:
                point, fault = chance.choice(AIMED)
                holds[rank][point] = fault
            else:
                holds[rank][chance.randrange(POINTS[rank > 0])] = self._pick()
        buckets = chance.choice((1, 2, 4))
        parts = [
            Part(
                rank=rank,
                size=size,
                job=self._jobs,
                master=("", 0),
                updates=updates,
                buckets=buckets,
                left_out=rank == left_out,
                told=told,
                colocated=colocated,
                holds=frozenset(holds[rank]),
                defect=roll.defect,
            )
            for rank in range(size)
        ]
        return parts, holds

    def _step(self) -> int:
        self._versions += 1
        self._checker.expect(roll_worker.version(self._versions))
        return self._versions

    def _at(self, part: Part, master: Trainer) -> Part:
        return roll_worker.at(part, (master.host, master.port))

    async def _broadcast(self, master: Trainer, part: Part) -> None:
        """All that the trainer's rank 0 sends; what nobody waits for yet is kept on the way."""
        with contextlib.suppress(TimeoutError, OSError):
            await asyncio.to_thread(master.wait, FORM_SECONDS)
            for step in part.updates:
                for index in range(part.buckets):
                    names = roll_worker.bucket(index, part.buckets)
                    await asyncio.to_thread(master.broadcast, names, roll_worker.version(step))

    async def _carry_out(self, parts: list[Part], holds: list[Holds]) -> None:
        """Until all have ended; ROLL ends all once one has failed, sooner or later."""
        patience = self._chance.choice((0.0, 2.0, JOB_SECONDS))
        if self._roll.defect:
            patience = JOB_SECONDS
        running = {
            asyncio.create_task(self._train(part, holds[part.rank], roll_worker.main))
            for part in parts
        }
        try:
            failed = False
            while running and not failed:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                failed = bool([error for task in done if (error := task.result())])
            if running:
                await asyncio.wait(running, timeout=patience)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await self._doubt()

    # --- faults

    def _faults(self) -> Faults:
        return {
            **super()._faults(),
            "pool grows": lambda _: self._grow(),
            "others go on": lambda _: self._others_go_on(),
            "worker dies": self._kill,
            "worker stands still": self._stall,
        }

    async def _grow(self) -> None:
        """An engine more, which is up when the job goes on."""
        await self._patch({"device_mapping": GROWN, "replicas": None})
        with contextlib.suppress(TimeoutError):
            await self._until(self._is_as_wanted, IN_SERVICE_SECONDS, "the new engine")

    async def _others_go_on(self) -> None:
        """Another trainer syncs, as soon as it may: this job's sync is over by then."""
        deadline = self._shared.pace.now() + OTHERS_SECONDS
        while self._shared.pace.now() < deadline:
            if not await self._train(self._fair(checkpoint=False), {}):
                return

    async def _is_as_wanted(self) -> bool:
        pool: Json = await self._api("GET", self._pool_path)
        mapping, replicas = pool["spec"]["device_mapping"], pool["spec"].get("replicas")
        wanted = min(len(mapping.split(",")), replicas or 99)
        engines = await self._engines.all()
        return len(engines) == wanted and all(e["instance"] and e["url"] for e in engines)


def _told(parts: list[Part]) -> str:
    left_out: list[Any] = [part.rank for part in parts if part.left_out]
    part = parts[0]
    return f"{len(part.updates)} updates of {part.buckets} buckets" + (
        f", worker {left_out[0]} gets none of the last, {'' if part.told else 'not '}told"
        if left_out
        else ""
    )
