"""Where one of ROLL's workers is, in a pool whose engines join their trainer (placement Shared).

ROLL's own resource manager places each inference worker on the node of its engine's GPUs: in the
trainer's pod there.  So the worker tells the pool which GPUs that pod has, before it waits for
engines, and what its engine is handed is looked at before the engine is: a set-up that does not
fit costs an engine, not an error.

ROLL's order is kept by that.  Engines start once actor_infer is initialised, and are off before
actor_train comes (RLVR) or after it was offloaded (agentic).  A job that comes to engines which run
already puts them to sleep as it makes its workers, because an agentic one then begins with
actor_train (``put_aside``).
"""

import asyncio
import base64
import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

from sglang_operator.client import colocated, job, roll_config, roll_parts, slots
from sglang_operator.client import colocated_texts as texts
from sglang_operator.client.calls import Json
from sglang_operator.client.errors import Held, NotReady, Unsupported
from sglang_operator.client.pool import AsyncPool
from sglang_operator.client.registry import Engine, Registry
from sglang_operator.client.roll_groups import HELD_SECONDS, READY_SECONDS

TENSORS = "/update_weights_from_tensor"
_LOOK_SECONDS = 1.0
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_GPU = "GPU-"

log = logging.getLogger(__name__)


class RollPlaces:
    """Those of one worker."""

    def __init__(self, worker: Any, pool: AsyncPool) -> None:
        self._worker = worker
        self._pool = pool
        self._gpus: tuple[str, ...] = ()  # of its pod; empty: not known
        self.shares = False  # whether the pool's engines are on the trainer's GPUs

    @property
    def hands_over(self) -> bool:
        """Whether some engines are given weights as handles of memory."""
        return self.shares and colocated.hands_over(self._worker)

    async def take(self) -> None:
        """Look whether the ids mean the same GPUs, and tell the pool of this pod's.

        Raises Unsupported, InvalidArgument where the pod does not say who it is, NotReady.
        """
        if not colocated.is_policy(self._worker, self._worker.pipeline_config):
            return
        registry = await self._registry()
        if refusal := roll_config.refusal(self._worker, registry):
            raise Unsupported(refusal)
        self.shares = bool(registry.gpus_per_node)
        if not self.shares:
            return
        if self.hands_over and find_spec("sglang") is None:
            raise Unsupported(texts.NO_SGLANG)
        if registry.awaits_slots:
            self._gpus = await asyncio.to_thread(slots.visible)
            if self._publishes:
                keep_numbers()
                await asyncio.to_thread(self._publish)

    async def _registry(self) -> Registry:
        """The registry, once the operator has made one.  Raises NotReady."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                while True:
                    with contextlib.suppress(NotReady):
                        return await self._pool.registry()
                    await asyncio.sleep(_LOOK_SECONDS)
        return await self._pool.fresh()

    @property
    def _publishes(self) -> bool:
        """Whether it does so for its pod: the first worker there."""
        worker, rank = self._worker, int(self._worker.rank)
        own = colocated.node_rank(worker)
        return all(colocated.node_rank(worker, before) != own for before in range(rank))

    def _publish(self) -> None:
        pool = self._pool
        slots.publish(
            pool.name,
            colocated.node_rank(self._worker),
            namespace=pool.namespace,
            gpus=self._gpus,
            identity=pool.identity,
            wait_seconds=READY_SECONDS,
        )

    def require_folder(self) -> None:
        """The engines of this pod's GPUs have the folder of this pod.  Raises Unsupported."""
        if self.hands_over and not slots.engines_hold(slots.FOLDER):
            raise Unsupported(texts.OTHER_FOLDER.format(folder=slots.FOLDER, pool=self._pool.name))

    def body(self, handles: Sequence[str], engine: Engine) -> Json:
        """A bucket of ROLL's for the engine, one handle for each of its GPUs.

        Raises Unsupported for memory of a GPU that the engine does not have, and for other than
        one for each: a rank of the engine ends over a handle that it does not find.
        """
        if not self.shares:
            raise Unsupported(colocated.refusal(self._worker) or texts.HANDLES)
        ids, named = colocated.ids_of(self._worker), {"rank": engine.rank, "engine": engine.engine}
        if len(handles) != len(ids):
            words = texts.OTHER_COUNT.format(given=len(handles), found=len(ids), **named)
            raise Unsupported(words)
        for handle, device in zip(handles, ids, strict=True):
            wanted, given = self._known(device, engine), set(_gpus_of(handle))
            if wanted and given and given.isdisjoint(wanted):
                shown, found = ", ".join(sorted(given)), ", ".join(sorted(wanted))
                raise Unsupported(texts.OTHER_GPU.format(given=shown, found=found, **named))
        return {
            "load_format": "flattened_bucket",
            "flush_cache": False,
            "serialized_named_tensors": list(handles),
        }

    def _known(self, device: int, engine: Engine) -> Collection[str]:
        """The GPUs of which this id may be one; empty: not known.

        This pod sees its own alone.  Of an engine that spans nodes the rest are in the trainer's
        other pods, and of those it is known at most that the engine has them.
        """
        node, index = divmod(device, self._per_node)
        if not self._gpus:
            return ()
        if node == colocated.node_rank(self._worker):
            return self._gpus[index : index + 1]
        others = set(engine.uuids) - set(self._gpus)
        return others if len(engine.uuids) == engine.gpus else ()

    @property
    def _per_node(self) -> int:
        return int(self._worker.pipeline_config.num_gpus_per_node)


def _gpus_of(handle: str) -> Collection[str]:
    """The UUIDs that a handle names, which is pickled: it is looked at, and not loaded."""
    try:
        content = base64.b64decode(handle, validate=True)
    except (ValueError, TypeError):
        return ()
    return {f"{_GPU}{each.decode()}" for each in _UUID.findall(content)}


# --- process numbers


def keep_numbers() -> None:
    """Keep engines that come from having the numbers of processes that there are in this pod.

    The trainer's have been made by now, and claim their own before they hand anything over
    (``claim``).
    """
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdecimal():
            with contextlib.suppress(Unsupported):  # who hands nothing over does not mind
                slots.claim_numbers(slots.FOLDER, int(name))


def claim(_: Any) -> None:
    """In a process of the trainer's that hands weights over: no engine has its number.

    Raises Unsupported.
    """
    slots.claim_numbers(slots.FOLDER)


# --- engines of an earlier job


def put_aside(worker: Any) -> None:
    """Let engines that run on the trainer's GPUs sleep before the trainer comes there.

    Called as worker 0 is made, with nothing of ROLL's config but its own role's.  Where this job
    has no trainer (ROLL's rollout pipelines) engines keep their weights; and a pool that is not
    there yet, has no engines, or whose engines have GPUs of their own, is left as it is.  Raises
    PoolError.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(_put_aside(worker))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="put aside")  # Ray's own loop may run in this one
    thread.start()
    thread.join()
    for error in failed:
        raise error


async def _put_aside(worker: Any) -> None:
    if not await job.has_trainer(worker):
        return
    api_key, admin_key = roll_config.keys()
    name, namespace = roll_config.pool_name(worker), roll_config.namespace(worker)
    holder = await job.identity(worker)  # the job's own, which goes on with it
    async with AsyncPool(
        name, namespace, holder=holder, api_key=api_key, admin_api_key=admin_key
    ) as pool:
        try:
            registry = await pool.fresh()
        except NotReady:
            return
        there = any(each.holds or each.comes for each in registry.present)
        if not registry.gpus_per_node or not there:
            return
        if registry.memory_saver is False:
            return  # told where ROLL offloads them
        log.info("the engines of %s sleep before the trainer comes to their GPUs", name)
        await _started(pool)
        await roll_parts.again(lambda: _sleep(pool))


async def _started(pool: AsyncPool) -> None:
    """Engines that are about to start have: they would do so beside the trainer.

    ROLL's workers attach to engines that are up, so that they may not wait for a wake.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_SECONDS):
            async for registry in pool.changes():
                if not any(each.comes and not each.waits for each in registry.engines):
                    return


async def _sleep(pool: AsyncPool) -> None:
    """Once nobody else holds the Lease: a job that is gone may have died while they slept."""
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            await pool.sleep(loading=READY_SECONDS)
            return
        except Held:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_LOOK_SECONDS)
