"""The same for trainers without asyncio: every call blocks, a thread of ours does the waiting."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar

from sglang_operator import supervision
from sglang_operator.client import given, sleeping, texts, turns
from sglang_operator.client.calls import CONTROL_SECONDS, Json, Payload
from sglang_operator.client.errors import PoolError
from sglang_operator.client.freed import Freed
from sglang_operator.client.pool import SLEEP_TAGS, AsyncPool
from sglang_operator.client.registry import Engine, NcclPlan, Registry
from sglang_operator.client.resetting import Left
from sglang_operator.client.sync import AsyncSync
from sglang_operator.weights import lease_state

SETTLE_SECONDS = 5.0  # for what was interrupted to come to its end

T = TypeVar("T")


class _Loop:
    """An event loop in a thread of its own, started with the first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._interrupted: set[asyncio.Task[Any]] = set()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="sglang-operator-client", daemon=True
            )
            self._thread.start()
        if self._thread is None or not self._thread.is_alive():
            coroutine.close()
            raise RuntimeError(texts.LOOP_ENDED)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        begun: list[asyncio.Task[Any]] = []

        async def work() -> T:
            task = asyncio.current_task()
            assert task is not None
            begun.append(task)
            return await coroutine

        try:
            future = self.submit(work())
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return future.result()
        except BaseException:
            if future.cancel():  # the caller was interrupted: nobody waits for it any more
                self._interrupted.update(begun)
            raise

    def settle(self) -> None:
        """Let what was interrupted end what it began: a sync tells the Lease that it aborts."""
        interrupted, self._interrupted = self._interrupted, set()
        if interrupted:
            self.run(_ended(interrupted))

    def stop(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_rest(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks, timeout=SETTLE_SECONDS)


async def _rest() -> None:
    """What was submitted and nobody waited for ends, and with it its connections."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in supervision.interruptible(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.sleep(0)  # a transport that was closed lets go of its socket one turn later


class Pool:
    """One pool; see :class:`AsyncPool` for the arguments and what is raised.

    Use as a context manager, or call ``close``.  Make it after a fork, not before.
    """

    def __init__(self, name: str, namespace: str | None = None, **options: Any) -> None:
        self._pool = AsyncPool(name, namespace, **options)
        self._loop = _Loop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the watch, the connections and the thread."""
        self._loop.settle()
        self._loop.run(self._pool.close())
        self._loop.stop()

    @property
    def name(self) -> str:
        return self._pool.name

    @property
    def namespace(self) -> str:
        return self._pool.namespace

    @property
    def holder(self) -> str:
        """Who this process is on the Lease."""
        return self._pool.holder

    @property
    def epoch(self) -> str:
        """The name of exactly these running engines: any restart changes it."""
        return self._loop.run(self._pool.epoch())

    def registry(self) -> Registry:
        """The registry as last seen by the watch."""
        return self._loop.run(self._pool.registry())

    def engines(self) -> tuple[Engine, ...]:
        """The engines by rank, up or not."""
        return self._loop.run(self._pool.engines())

    def watch(self) -> Iterator[Registry]:
        """The registry now, and again after each change."""
        changes = self._pool.changes()

        async def following() -> Registry:
            return await anext(changes)

        while True:
            yield self._loop.run(following())

    def wait_ready(self, timeout: float | None = None) -> Registry:
        """Wait until all engines are up.  Raises NotReady after ``timeout`` seconds."""
        return self._loop.run(self._pool.wait_ready(timeout))

    def wait_synced(self, version: str | int, timeout: float | None = None) -> Registry:
        """Wait until clients reach every engine at this version.  Raises NotReady in the end."""
        return self._loop.run(self._pool.wait_synced(version, timeout))

    def nccl_plan(
        self, master_address: str, master_port: int, *, group_name: str = "weight_update_group"
    ) -> NcclPlan:
        """The process group over the engines as they are now; see :class:`NcclPlan`."""
        plan = self._pool.nccl_plan(master_address, master_port, group_name=group_name)
        return self._loop.run(plan)

    def transaction(self) -> lease_state.Transaction:
        """What stands in the Lease."""
        return self._loop.run(self._pool.transaction())

    def sync(
        self,
        version: str | int,
        *,
        on_lost: Callable[[PoolError], None] | None = None,
        **options: Any,
    ) -> "Sync":
        """A sync to ``version``, to be used as a context manager; options as ``AsyncPool.sync``.

        ``on_lost`` is called once, from another thread, the moment an engine restarts under the
        sync or the Lease is lost: there a trainer ends a broadcast that would wait for ever.
        """
        return Sync(self._pool, self._loop, given.version(version), on_lost, options)

    def update_from_disk(
        self, path: str | PathLike[str], version: str | int, **options: Any
    ) -> None:
        """A whole sync from a checkpoint that every engine can read, and that stays there."""
        self._loop.run(self._pool.update_from_disk(path, version, **options))

    def sleep(
        self,
        tags: Iterable[str] = SLEEP_TAGS,
        *,
        devices: Iterable[int] | None = None,
        settle: float = sleeping.SETTLE_SECONDS,
        timeout: float = sleeping.ACKNOWLEDGE_SECONDS,
        loading: float | None = None,
    ) -> Freed:
        """Close the gates, then release the engines' memory; see ``AsyncPool.sleep``."""
        return self._loop.run(
            self._pool.sleep(tags, devices=devices, settle=settle, timeout=timeout, loading=loading)
        )

    def wake(
        self,
        tags: Iterable[str] = lease_state.MEMORY_TAGS,
        *,
        devices: Iterable[int] | None = None,
        loading: float = turns.LOADING_SECONDS,
    ) -> lease_state.Transaction:
        """Resume the engines' memory; see ``AsyncPool.wake``."""
        return self._loop.run(self._pool.wake(tags, devices=devices, loading=loading))

    def take_turn(
        self,
        timeout: float = turns.LOADING_SECONDS,
        *,
        tags: Iterable[str] = SLEEP_TAGS,
        devices: Iterable[int] | None = None,
        settle: float = sleeping.SETTLE_SECONDS,
    ) -> Freed:
        """Wait for the engines, and put them to sleep; see ``AsyncPool.take_turn``."""
        taking = self._pool.take_turn(timeout, tags=tags, devices=devices, settle=settle)
        return self._loop.run(taking)

    def reset(
        self, groups: Iterable[str] = (), *, wait: float = 0.0, force: bool = False
    ) -> tuple[Left, ...]:
        """Let the engines leave what trainers that are gone have left; see ``AsyncPool.reset``."""
        return self._loop.run(self._pool.reset(groups, wait=wait, force=force))


class Sync:
    """A sync that blocks; see :class:`AsyncSync` for what each step does and raises.

    Every method raises StaleEpoch or Expired at once when the sync is lost, one that waits too.
    Code of the trainer itself cannot be interrupted: it calls ``check``, or gives ``on_lost``.
    """

    def __init__(
        self,
        pool: AsyncPool,
        loop: _Loop,
        version: str,
        on_lost: Callable[[PoolError], None] | None,
        options: dict[str, Any],
    ) -> None:
        self._pool = pool
        self._loop = loop
        self._options = options
        self._on_lost = on_lost
        self._sync: AsyncSync | None = None
        self.version = version

    def __enter__(self) -> Self:
        self._sync = self._loop.run(self._begun())
        return self

    async def _begun(self) -> AsyncSync:
        sync = self._pool.sync(self.version, interrupts=False, **self._options)
        await sync.begin()
        if self._on_lost is not None:
            sync.when_lost(self._tell)
        return sync

    def _tell(self, reason: PoolError) -> None:
        """In a thread of its own: it may wait, or end the thread, and ours renews the Lease."""
        assert self._on_lost is not None
        threading.Thread(
            target=self._on_lost, args=(reason,), name="sglang-operator-on-lost", daemon=True
        ).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run(self._inner.__aexit__(kind, error, trace))

    @property
    def _inner(self) -> AsyncSync:
        if self._sync is None:
            raise RuntimeError("use the sync as a context manager")
        return self._sync

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines that this sync covers, by rank."""
        return self._inner.engines

    @property
    def epoch(self) -> str:
        """The epoch that this sync covers."""
        assert self._inner.registry is not None
        return self._inner.registry.epoch

    @property
    def checkpoint(self) -> str:
        """A path with exactly these weights, told to the operator with the commit."""
        return self._inner.checkpoint

    @checkpoint.setter
    def checkpoint(self, path: str | PathLike[str]) -> None:
        self._inner.checkpoint = path

    def check(self) -> None:
        """Raises StaleEpoch or Expired if the sync is over: call it between long steps."""
        self._inner.check()

    def nccl_plan(self, master_address: str, master_port: int, **options: Any) -> NcclPlan:
        """As ``Registry.nccl_plan``, over the engines of this sync."""
        return self._inner.nccl_plan(master_address, master_port, **options)

    def submit(self, method: str, *arguments: Any, **options: Any) -> Future[Any]:
        """Start a method of this class without waiting.

        For what the trainer has a part in: ``init_weights_update_group`` blocks until the trainer
        has joined, ``update_weights_from_distributed`` until it has broadcast.
        """
        return self._loop.submit(getattr(self._inner, method)(*arguments, **options))

    def call(
        self, path: str, payload: Payload, *, timeout: float | None = CONTROL_SECONDS
    ) -> list[Json]:
        """POST to all engines at once; answers by rank."""
        return self._loop.run(self._inner.call(path, payload, timeout=timeout))

    def init_weights_update_group(self, plan: NcclPlan, **options: Any) -> None:
        """Let every engine join the group; see ``submit``."""
        self._loop.run(self._inner.init_weights_update_group(plan, **options))

    def destroy_weights_update_group(self, group_name: str) -> None:
        """Let every engine leave the group."""
        self._loop.run(self._inner.destroy_weights_update_group(group_name))

    def begin_weight_update(self) -> None:
        """Open SGLang's session for buckets; the update methods do it by themselves."""
        self._loop.run(self._inner.begin_weight_update())

    def update_weights_from_distributed(self, *buckets: Any, **options: Any) -> None:
        """One bucket that the trainer broadcasts; see ``submit``."""
        self._loop.run(self._inner.update_weights_from_distributed(*buckets, **options))

    def update_weights_from_tensor(self, payload: Payload, **options: Any) -> None:
        """One bucket by handle or value."""
        self._loop.run(self._inner.update_weights_from_tensor(payload, **options))

    def update_weights_from_disk(self, path: str, **options: Any) -> None:
        """All weights from a path that every engine can read."""
        self._loop.run(self._inner.update_weights_from_disk(path, **options))
