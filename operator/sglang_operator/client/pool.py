"""A pool for asyncio: its engines, and what a trainer does to their weights."""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar
from weakref import WeakSet

from sglang_operator import supervision
from sglang_operator.client import credentials, given, nvml, resetting, sleeping, texts, turns
from sglang_operator.client.calls import EngineCalls
from sglang_operator.client.cluster import Cluster
from sglang_operator.client.errors import Expired, NotReady
from sglang_operator.client.freed import Freed
from sglang_operator.client.groups import Groups
from sglang_operator.client.lease import WeightsLease, recorded
from sglang_operator.client.one_at_a_time import Turn, Who
from sglang_operator.client.pausing import SyncOptions
from sglang_operator.client.registry import GATE_OFF, Engine, NcclPlan, Registry
from sglang_operator.client.sync import AsyncSync
from sglang_operator.client.watching import Watcher
from sglang_operator.sending import Allowed
from sglang_operator.weights import lease_state, steps

SLEEP_TAGS = lease_state.SLEEP_TAGS

T = TypeVar("T")


# Host and process do not tell pods of one node apart that share its network: each is process 1.
_PROCESS = secrets.token_hex(4)


def default_holder() -> str:
    """Who this process is: the pod's (host's) name, the process id, and what nobody else has."""
    return f"{socket.gethostname()}_{os.getpid()}_{_PROCESS}"


class AsyncPool:
    """One pool.  Use as an asynchronous context manager, or call ``close``.

    ``namespace``: by default that of the pod or of the kubeconfig's context.  ``holder``: a name
    that no other living process uses, by default one that is new with each process; given, a later
    process of this name takes on what an earlier one put to sleep.  ``api_key``,
    ``admin_api_key``: as the engines were given them; neither is sent to the API server.
    """

    def __init__(
        self,
        name: str,
        namespace: str | None = None,
        *,
        kubeconfig: str | Path | None = None,
        context: str | None = None,
        holder: str | None = None,
        api_key: str | None = None,
        admin_api_key: str | None = None,
        identity: credentials.Credentials | None = None,
    ) -> None:
        self.name = given.name(name, "name")
        self.holder = given.optional(given.text, holder, "holder") or default_holder()
        self._keys = given.key(api_key, "api_key"), given.key(admin_api_key, "admin_api_key")
        namespace = given.optional(given.name, namespace or None, "namespace")
        self._identity = identity or credentials.load(kubeconfig, context)
        self.namespace = namespace or self._identity.namespace
        self.groups = Groups(self.holder)
        self._cluster: Cluster | None = None
        self._lease: WeightsLease | None = None
        self._watcher: Watcher | None = None
        self._calls: EngineCalls | None = None
        self._sleeper: sleeping.Sleeper | None = None
        # Bytes in use by the UUID of each GPU that this process sees.
        self.gpu_memory: Callable[[], Mapping[str, int]] = nvml.used
        self.syncs: WeakSet[AsyncSync] = WeakSet()
        self._endings: set[asyncio.Task[Any]] = set()
        self._beside: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the watch and the connections.

        A sync that goes on is aborted: nobody could end it.  What sleeps stays held until that
        expires.  What engines do to their memory ends before, and is on record: it needs the
        connections.
        """
        async with AsyncExitStack() as rest:  # all of it, also where it is cancelled on the way
            for part in (self._calls, self._cluster, self._lease, self._watcher):
                if part is not None:
                    rest.push_async_callback(part.close)
            if self._sleeper is not None:
                rest.push_async_callback(self._sleeper.stop)
            rest.push_async_callback(supervision.ended, self._endings)
            for sync in list(self.syncs):
                rest.push_async_callback(sync.abort, texts.CLOSED)
            if self._lease is not None:
                rest.push_async_callback(self._lease.quiet)
            rest.push_async_callback(self._end_beside)
        self._cluster = self._lease = self._watcher = self._calls = self._sleeper = None

    def _open(self) -> Cluster:
        if self._cluster is None:
            self._cluster = Cluster(self._identity, self.namespace, self.name)
            self._lease = WeightsLease(self._cluster)
            self._watcher = Watcher(self._cluster)
            self._calls = EngineCalls(*self._keys)
            self._sleeper = sleeping.Sleeper(self)
        return self._cluster

    def beside(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Begin what uses the pool in the background: it ends with the pool, if not before.

        ``name``: one of few, under which it is told if it fails.
        """
        task = supervision.begun(name, work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _end_beside(self) -> None:
        tasks = set(self._beside)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- what there is

    async def registry(self) -> Registry:
        """The registry as last seen by the watch.  Raises NotReady, ClusterError."""
        return await self._watching.latest()

    async def engines(self) -> tuple[Engine, ...]:
        """The engines by rank, up or not."""
        return (await self.registry()).engines

    async def epoch(self) -> str:
        """The name of exactly these running engines: any restart changes it."""
        return (await self.registry()).epoch

    async def fresh(self) -> Registry:
        """The registry, read now."""
        return await self._watching.fresh()

    async def changes(self) -> AsyncIterator[Registry]:
        """The registry now and after each change."""
        async for registry in self._watching.changes():
            yield registry

    watch = changes

    async def wait_ready(self, timeout: float | None = None) -> Registry:
        """Wait until all engines are up, so that a trainer can attach.

        ``timeout`` in seconds.  Raises NotReady in the end, with what is missing.
        """
        begun = time.monotonic()
        missing = NotReady(texts.NO_ENGINES)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        async for registry in self.changes():
                            try:
                                registry.require_up()
                                return registry
                            except NotReady as error:
                                missing = error
                    except NotReady as error:  # no registry yet
                        missing = error
                        await asyncio.sleep(1.0)
        except TimeoutError:
            waited = time.monotonic() - begun
            what = self._with_trouble(str(missing))
            raise NotReady(texts.WAITED.format(what=what, seconds=waited)) from missing

    async def wait_synced(self, version: str | int, timeout: float | None = None) -> Registry:
        """Wait until every engine's gate is open at this version.  Raises NotReady in the end.

        The Services follow a moment later, once kubelet calls the pods Ready.
        In a pool without gates it is over once the version is committed.
        """
        version = given.version(version)
        begun = time.monotonic()
        missing = texts.NOT_SYNCED.format(synced=0, version=version)
        try:
            async with asyncio.timeout(timeout):
                async for registry in self.changes():
                    done, weights = registry.synced(version), registry.weights
                    if registry.engines and done == len(registry.engines):
                        return registry
                    words = texts.NOT_COMMITTED if weights.gate == GATE_OFF else texts.NOT_SYNCED
                    missing = words.format(
                        synced=done, version=version, phase=weights.phase, last=weights.version
                    )
        except TimeoutError:
            pass
        what = self._with_trouble(missing)
        raise NotReady(texts.WAITED.format(what=what, seconds=time.monotonic() - begun))

    def _with_trouble(self, what: str) -> str:
        """What is missing, and whether news of it could be missing too."""
        trouble = self._watching.trouble
        return f"{what} ({texts.NOT_FOLLOWED.format(detail=trouble)})" if trouble else what

    async def nccl_plan(
        self, master_address: str, master_port: int, *, group_name: str = "weight_update_group"
    ) -> NcclPlan:
        """The process group over the engines as they are now; see :class:`NcclPlan`."""
        registry = await self.fresh()
        return registry.nccl_plan(master_address, master_port, group_name=group_name)

    async def transaction(self) -> lease_state.Transaction:
        """What stands in the Lease."""
        return await self.lease.read()

    # --- what a trainer does

    def sync(
        self,
        version: str | int,
        *,
        epoch: str | None = None,
        pause: str | None = "abort",
        label: bool = True,
        wait: float = 0.0,
        duration: float = float(lease_state.LEASE_SECONDS),
        interrupts: bool = True,
    ) -> AsyncSync:
        """A sync to ``version``, to be used as a context manager; see :class:`SyncOptions`.

        It wakes whoever sleeps before the first byte, and writes to all: also to a part that sleeps
        while others serve, whose GPUs the trainer has to have left by then.
        ``epoch``: of a plan that was made before; StaleEpoch if the engines changed since.  Raises
        InvalidArgument.
        """
        options = SyncOptions(
            pause=given.optional(given.text, pause, "pause"),
            label=label,
            wait=given.seconds(wait, "wait"),
            duration=given.seconds(duration, "duration", above=0, most=given.MAX_DURATION),
        )
        epoch = given.optional(given.text, epoch, "epoch")
        named = given.version(version)
        return AsyncSync(self, named, options, epoch=epoch, interrupts=interrupts)

    async def attach(self, *, pause: str | None = "abort", label: bool = True) -> AsyncSync:
        """Go on with the sync that this holder began in another process and left (``detach``).

        Raises Expired if there is none, or if the process that was at it died without leaving it;
        StaleEpoch if engines restarted since: then it is aborted.
        """
        pause = given.optional(given.text, pause, "pause")
        sync = AsyncSync(self, "", SyncOptions(pause=pause, label=label), interrupts=False)
        await sync.attach()
        return sync

    async def update_from_disk(
        self,
        path: str | PathLike[str],
        version: str | int,
        *,
        load_format: str = "auto",
        **options: object,
    ) -> None:
        """A whole sync from a checkpoint that every engine can read, and that stays there."""
        path = given.path(path)
        given.text(load_format, "load_format")
        async with self.sync(version, **options) as sync:  # type: ignore[arg-type]
            await sync.update_weights_from_disk(path, load_format=load_format)
            sync.checkpoint = path

    async def sleep(
        self,
        tags: Iterable[str] = SLEEP_TAGS,
        *,
        devices: Iterable[int] | None = None,
        settle: float = sleeping.SETTLE_SECONDS,
        timeout: float = sleeping.ACKNOWLEDGE_SECONDS,
        loading: float | None = None,
    ) -> Freed:
        """Close the gates, then release the engines' memory of these tags; how much that was.

        ``devices``: GPU ids as ``device_mapping`` has them: only engines that have any of them
        sleep, and the others serve on.  What a part gave up of its weights it lacks once it is
        awake: it catches up from the commit's checkpoint, or stays closed until the next sync,
        which wakes whoever sleeps.  InvalidArgument if no engine has any of these ids.

        Raises Unsupported, before anything is taken, where engines do not know a tag or cannot
        release any memory.
        ``settle``: seconds that Services are given to forget the engines after the gates closed.
        Once it returns, every engine that runs has released its memory.  Raises NotReady before
        anything is taken for one that runs and does not answer within ``timeout`` seconds, or
        ``loading`` if given, and afterwards for one that came up meanwhile; Held, EngineError.

        In placement mode Shared it returns once no engine can come up on these GPUs before they are
        given back (``wake``, a sync), else NotReady; one that is lost with its node, and does not
        answer, may have their memory: NotReady, too.  Where this process sees them, so that it can
        look (NVIDIA's management library), ``Freed.gpus`` has the bytes by GPU, and a release after
        which one of them holds as much as before is NotReady.
        """
        loading = timeout if loading is None else loading
        return await self.sleeper.sleep(
            given.tags(tags),
            settle=settle,
            timeout=timeout,
            loading=loading,
            devices=() if devices is None else given.devices(devices),
        )

    async def wake(
        self,
        tags: Iterable[str] = lease_state.MEMORY_TAGS,
        *,
        devices: Iterable[int] | None = None,
        loading: float = turns.LOADING_SECONDS,
    ) -> lease_state.Transaction:
        """Resume the engines' memory.  If weights were kept, the same gates open again.

        ``devices``: only of engines all of whose GPUs are among these ids; the others sleep on,
        until they are woken or the next sync wakes them.

        Engines that restarted meanwhile are left alone: resuming what was never released kills
        them.  Raises Held, Expired, EngineError.

        In placement mode Shared it gives these GPUs back: engines that have waited for that are
        started now, behind closed gates, and it returns once all of them are up.  Raises NotReady,
        with those that are not after ``loading`` seconds; what was done is on record by then, and
        another call goes on waiting.
        """
        only = () if devices is None else given.devices(devices)
        loading = given.seconds(loading, "loading")
        return await self.sleeper.wake(given.tags(tags), only, loading=loading)

    async def take_turn(
        self,
        timeout: float = turns.LOADING_SECONDS,
        *,
        tags: Iterable[str] = SLEEP_TAGS,
        devices: Iterable[int] | None = None,
        settle: float = sleeping.SETTLE_SECONDS,
    ) -> Freed:
        """For a trainer that starts, or starts again: once it returns the memory is the trainer's.

        Engines first, then off, then the trainer, as in ROLL: it waits until the engines are up, or
        finds that they sleep or wait already, and puts them to sleep.  What an earlier process has
        left under way is waited for, too.  Call it before anything is allocated there; ``wake``
        gives the GPUs back.  ``devices`` as for ``sleep``.

        Raises NotReady after ``timeout`` seconds, with what was in the way: then the memory is not
        the trainer's.  Unsupported, InvalidArgument at once.
        """
        return await turns.take(
            self,
            given.tags(tags),
            () if devices is None else given.devices(devices),
            settle=settle,
            timeout=given.seconds(timeout, "timeout"),
        )

    async def reset(
        self, groups: Iterable[str] = (), *, wait: float = 0.0, force: bool = False
    ) -> tuple[resetting.Left, ...]:
        """Let the engines leave what trainers that are gone have left: groups, and a session.

        For a trainer that does not use this package, before it is started again; a sync sees to it
        by itself.  ``groups``: names beside those that ROLL, slime, miles and AReaL are known to
        give.  What stands in the Lease, gates and pauses stay as they are, but for a sync whose
        trainer is gone: that ends as aborted.  ``wait``: seconds to wait for another trainer.
        A trainer by this package whose groups go is told so before its next bucket; one that was
        seen just now stands in the way, unless ``force`` says that it is gone.

        Raises Unsupported where engines of this version cannot leave a group, or sleep; NotReady
        where none can be reached, or one that lives does not answer; Held, EngineError.
        """
        return await resetting.reset(self, given.groups(groups), given.seconds(wait, "wait"), force)

    # --- for sync and sleep

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what must not be left half-way, over connections that stay open until then.

        Raises Expired for what begins after they were closed.
        """
        if self._cluster is None:
            work.close()
            raise Expired(texts.CLOSED)
        return await supervision.to_its_end(work, self._endings)

    @property
    def lease(self) -> WeightsLease:
        self._open()
        assert self._lease is not None
        return self._lease

    @property
    def sleeper(self) -> sleeping.Sleeper:
        self._open()
        assert self._sleeper is not None
        return self._sleeper

    @property
    def turn(self) -> Turn:
        """Whose turn it is among the threads and tasks of this process."""
        return Turn(Who(self._identity.server, self.namespace, self.name, self.holder))

    @property
    def calls(self) -> EngineCalls:
        self._open()
        assert self._calls is not None
        return self._calls

    @property
    def identity(self) -> credentials.Credentials:
        """Who this process is to the API server."""
        return self._identity

    @property
    def _watching(self) -> Watcher:
        self._open()
        assert self._watcher is not None
        return self._watcher

    def trainer(self, duration: float, *, given: bool = True) -> steps.Trainer:
        """This process in a new transaction; not ``given``: the duration is that of a Lease."""
        if given:
            duration = recorded(duration)
        return steps.Trainer(
            holder=self.holder, transaction=secrets.token_hex(6), duration=duration
        )

    async def release_memory(
        self, engines: Iterable[Engine], tags: list[str], allowed: Allowed | None = None
    ) -> None:
        payload = {"tags": tags}
        await self.calls.post_all(engines, "/release_memory_occupation", payload, allowed=allowed)

    async def resume_memory(
        self, engines: Iterable[Engine], tags: list[str], allowed: Allowed | None = None
    ) -> None:
        payload = {"tags": tags}
        await self.calls.post_all(engines, "/resume_memory_occupation", payload, allowed=allowed)
