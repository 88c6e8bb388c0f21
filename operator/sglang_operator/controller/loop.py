"""The control loop: informers fill the stores, the stores wake pools, passes are run.

Everything that must not be lost lives here.  kopf stands beside it as a second witness of pools
(``witness``) and may die at any time.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from sglang_operator import __version__, supervision
from sglang_operator.api import names
from sglang_operator.backoff import Backoff
from sglang_operator.children import kinds
from sglang_operator.cluster.child_store import child_store
from sglang_operator.cluster.device_store import ClaimStore, DeviceView, SliceStore
from sglang_operator.cluster.dry_runs import DryRuns
from sglang_operator.cluster.executor import Executor
from sglang_operator.cluster.lookups import Lookups
from sglang_operator.cluster.node_store import NodeStore
from sglang_operator.cluster.recorder import Recorder
from sglang_operator.cluster.seeking import Seeker
from sglang_operator.cluster.stores import PodStore, PoolKey, PoolStore
from sglang_operator.cluster.trainer_store import TrainerStore
from sglang_operator.controller import words
from sglang_operator.controller.coverage import Coverage
from sglang_operator.controller.explaining import Explainer
from sglang_operator.controller.meters import PassMeter
from sglang_operator.controller.observing import View
from sglang_operator.controller.reconcile import Reconciler
from sglang_operator.controller.settings import Settings
from sglang_operator.controller.witness import Witness
from sglang_operator.controller.words import Words
from sglang_operator.controller.workqueue import WorkQueue
from sglang_operator.fleet.client import EngineClient
from sglang_operator.fleet.poller import Poller
from sglang_operator.kube import informer, paths
from sglang_operator.kube.client import ApiClient
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.errors import ApiError
from sglang_operator.kube.leader_election import Elector
from sglang_operator.kube.leaders import Lease
from sglang_operator.observed import claims, trainers, wire

OWN_OBJECTS = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
# Passes of one pool are spaced by a multiple of what the last one cost, within these seconds:
# so planning takes a bounded share of the time however large the pool is.
SPACING = (0.05, 2.0)
SPACING_FACTOR = 50.0
UNEXPECTED_BACKOFF = Backoff(1.0, 60.0)
# A pass that takes longer waits for the API server, and lets another begin in its place: however
# many pools meet a server that does not answer them, the others have their turn.
PROMPT_SECONDS = 0.05
# At the end, for what passes have begun beside them, such as Events.
EVENTS_SECONDS = 5.0
# A stream that neither hears (bookmarks come every minute) nor tries for so long fails the probe.
STALE_SECONDS = 180.0

log = logging.getLogger(__name__)


class LeadershipLostError(Exception):
    """This process may not write any more; it ends, and comes back as a standby."""


class ControlLoop:
    """One operator's loop.  ``run`` ends when it is cancelled or ``stop`` is called."""

    def __init__(self, credentials: Credentials, settings: Settings) -> None:
        self.settings = settings
        user_agent = f"sglang-operator/{__version__}"
        self.client = ApiClient(credentials, user_agent=user_agent)
        self.engines = EngineClient(user_agent=user_agent)
        self.poller = Poller(self.engines, self.wake) if settings.ask_engines else None
        self.queue = WorkQueue()
        self.passes = PassMeter()
        self.reconciler: Reconciler | None = None
        self._ended: dict[PoolKey, tuple[float, float]] = {}  # end and cost of the last pass
        self._crashes: dict[PoolKey, int] = {}
        self._stopping = asyncio.Event()
        self.dispatching = False
        self.pools = PoolStore(self.wake)
        self.pods = PodStore(self.wake)
        self.children = {
            each.kind: child_store(each.kind, self.wake, self.pools.has)
            for each in (*kinds.CHILDREN, *kinds.of_gangs(settings.gangs))
        }
        self.words = Words(self.pools)
        self.nodes = NodeStore(self._wake_node, self._wake_all, self._wake_joining)
        self.trainers = TrainerStore(self._wake_joined)
        self.claims = ClaimStore(self._wake_claiming)
        self.slices = SliceStore(self._wake_claiming)
        self._told_of_nodes = False
        self.informers: list[informer.Informer[object]] = []  # type: ignore[type-var]
        self.coverage = Coverage(self._wake_scope)
        self.elector = self._elector()
        self.witness = Witness(lambda namespace: self._stream(paths.pools, namespace))

    # --- waking

    def wake(self, key: PoolKey, urgent: bool) -> None:
        """Something about this pool changed."""
        ended, cost = self._ended.get(key, (0.0, 0.0))
        low, high = SPACING
        spacing = cost if urgent else min(high, max(low, cost * SPACING_FACTOR))
        self.queue.add(key, ended + spacing - time.monotonic())

    def _wake_node(self, name: str) -> None:
        for key in self.pods.pools_on(name):
            self.wake(key, True)

    def _wake_joined(self, namespace: str) -> None:
        """A trainer's pod came, went or moved: engines may have joined it."""
        joined = {entry.pool for entry in self.pods.uncounted() if entry.pod.slot}
        for key in {*self.words.with_any(words.JOINS), *joined}:
            if key.namespace == namespace and self.pools.get(key) is not None:
                self.wake(key, True)

    def _wake_joining(self) -> None:
        """Nodes came or went: what is said of them says something else now, also without a pod."""
        for key in self.words.with_any((*words.JOINS, *words.CLAIMS)):
            self.wake(key, False)

    def _wake_claiming(self, namespace: str, everywhere: bool) -> None:
        """Claims or devices changed."""
        for key in self.words.with_any(words.CLAIMS):
            if key.namespace == namespace or everywhere:
                self.wake(key, key.namespace == namespace)

    def _wake_all(self) -> None:
        """Whether nodes are known changed: what each pool decides depends on it."""
        for key in self.pools.known():
            self.wake(key, False)

    def _wake_scope(self, scope: str) -> None:
        """A namespace can be read: nothing was done for its pools before."""
        for key in self.pools.known():
            if scope in ("", key.namespace):
                self.wake(key, True)

    # --- running

    async def run(self, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Sync, then serve until ``stop``; ``ready`` is awaited once in between."""
        async with self.client, self.engines:
            self._make_informers()
            streams = [
                asyncio.create_task(supervision.kept(i.resource.name, i.run), name=i.resource.name)
                for i in self.informers
            ]
            # Also of who is not elected: else it had all to ask for once it is.
            seeking = supervision.kept("seeker", Seeker(self.client, self.pods).run)
            streams.append(asyncio.create_task(seeking, name="seeker"))
            try:
                await self._synced()
                log.info("in sync: %d pools, %d pods", len(self.pools.known()), len(self.pods))
                if ready is not None:
                    await ready()
                await self._lead()
            finally:
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
                if self.poller is not None:
                    await self.poller.close()

    async def _lead(self) -> None:
        """Serve while the Lease is held; without one, at once and for ever."""
        if self.elector is None:
            await supervision.essential("dispatch", self._dispatch())
            return
        # Neither can be begun again: who is no longer known to hold the Lease may not go on.
        election = asyncio.create_task(
            supervision.essential("election", self.elector.run()), name="elector"
        )
        leading = asyncio.create_task(self._serve_when_elected(self.elector), name="leading")
        try:
            await asyncio.wait({election, leading}, return_when=asyncio.FIRST_COMPLETED)
            if not leading.done():
                election.result()
                raise LeadershipLostError("the Lease is lost; another operator goes on")
            leading.result()
        finally:
            for task in (leading, election):
                task.cancel()
            await asyncio.gather(leading, election, return_exceptions=True)
        await self.elector.release()

    async def _serve_when_elected(self, elector: Elector) -> None:
        acquired = asyncio.create_task(elector.acquired.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({acquired, stopping}, return_when=asyncio.FIRST_COMPLETED)
        acquired.cancel()
        stopping.cancel()
        if not self._stopping.is_set():
            await supervision.essential("dispatch", self._dispatch())

    def _elector(self) -> Elector | None:
        namespace = self.settings.lease_namespace
        if not namespace:
            return None
        elector = Elector(
            self.client,
            namespace,
            self.settings.lease_name,
            self.settings.identity,
            serves=self.settings.namespaces,
        )
        self.client.fence = elector.holds
        return elector

    def stop(self) -> None:
        """Begin nothing new; what is under way may finish."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Return once ``stop`` was called."""
        await self._stopping.wait()

    def _make_informers(self) -> None:
        for scope in self.settings.scopes:
            streams = [
                self._inform(
                    paths.pools(scope),
                    scope,
                    wire.CustomResource,
                    self.pools,
                    "",
                    kept=self.pools.kept,
                ),
                self._inform(paths.pods(scope), scope, wire.Pod, self.pods, OWN_OBJECTS),
                self._inform(
                    paths.pods(scope),
                    scope,
                    trainers.TrainerObject,
                    self.trainers,
                    names.LABEL_TRAINER,
                    kept=trainers.kept,
                    called="trainers",
                ),
            ]
            for kind, store in self.children.items():
                path, declared = paths.children(kind, scope), kinds.of(kind)
                streams.append(
                    self._inform(
                        path,
                        scope,
                        wire.Child,
                        store,
                        OWN_OBJECTS,
                        kept=store.kept,
                        optional=kind if declared.optional else "",
                        spare=declared.spare or declared.of_placement or bool(declared.of_gang),
                    )
                )
            streams.append(
                self._inform(
                    paths.children(kinds.CLAIM.kind, scope),
                    scope,
                    claims.ClaimObject,
                    self.claims,
                    "",
                    kept=claims.kept_claim,
                    optional=kinds.CLAIM.kind,
                    spare=True,
                    called="claims of all",
                )
            )
            streams[0].on_list = partial(self.pools.list_begins, scope)
            for stream in streams:
                self.coverage.add(scope, stream)
        if self.settings.watch_nodes:
            stream = self._inform(paths.NODES, "", wire.NodeObject, self.nodes, "")
            stream.on_refused = self._nodes_refused
            self.nodes.age, stream.on_heard = stream.age, self.nodes.heard
            slices = self._inform(
                paths.SLICES,
                "",
                claims.SliceObject,
                self.slices,
                "",
                kept=claims.kept_slice,
                optional="ResourceSlice",
                spare=True,
            )
            slices.on_refused = self._slices_refused
            slices.on_served = partial(self.slices.served, True)
        if self.elector is not None:
            namespace = self.settings.lease_namespace
            path = paths.leases(namespace)
            self._inform(path, namespace, Lease, self.elector, names.NO_POOLS_OWN)

    def _inform(
        self,
        path: str,
        scope: str,
        kind: type,
        sink: object,
        selector: str,
        *,
        kept: Callable[[Any], Any] | None = None,
        optional: str = "",
        spare: bool = False,
        called: str = "",
    ) -> informer.Informer[Any]:
        plural = called or path.rsplit("/", 1)[-1]
        resource = informer.Resource(
            path=path,
            scope=scope,
            selector=selector,
            name=f"{plural} in {scope}" if scope else plural,
            optional=optional,
            spare=spare,
        )
        made: informer.Informer[Any] = informer.Informer(self.client, resource, kind, sink, kept)  # type: ignore[arg-type]
        self.informers.append(made)
        return made

    def _stream(
        self, path: Callable[[str], str], namespace: str
    ) -> informer.Informer[object] | None:  # type: ignore[type-var]
        """The stream of what is under this path for a namespace."""
        paths_of = {path(scope) for scope in ("", namespace)}
        return next((i for i in self.informers if i.resource.path in paths_of), None)

    def _caught_up(self, namespace: str) -> bool:
        """Whether all is known that an operator before this one did to the namespace's pods."""
        stream = self._stream(paths.pods, namespace)
        return self.elector is None or stream is None or stream.newest >= self.elector.elected

    def _nodes_refused(self, error: ApiError) -> None:
        """Without nodes everything still works, from pod conditions alone."""
        if not self._told_of_nodes:
            log.info("no access to nodes: lost nodes are seen through their pods (%s)", error)
        self._told_of_nodes = True
        self.nodes.refused()
        self._node_informer().synced.set()

    def _slices_refused(self, _: ApiError) -> None:
        """Not served, or not to be read: claims are made, and nobody knows of which devices."""
        self.slices.served(False)
        self._informer_of(paths.SLICES).synced.set()

    def _node_informer(self) -> informer.Informer[object]:  # type: ignore[type-var]
        return self._informer_of(paths.NODES)

    def _informer_of(self, path: str) -> informer.Informer[object]:  # type: ignore[type-var]
        return next(i for i in self.informers if i.resource.path == path)

    async def _synced(self) -> None:
        await self.coverage.settled()
        for stream in self.informers:
            if stream not in self.coverage:
                await stream.synced.wait()

    def _is_excused(self, stream: informer.Informer[Any]) -> bool:
        """Whether the operator does its work without this stream, which it may not read."""
        if stream.resource.path in (paths.NODES, paths.SLICES):
            return stream.refused is not None
        return self.coverage.excuses(stream)

    def _reconciler(self) -> Reconciler:
        executor = Executor(self.client, self.pods, self.children, self.pools)
        view = View(
            pools=self.pools,
            pods=self.pods,
            children=self.children,
            nodes=self.nodes,
            reads=self.coverage.reads,
            caught_up=self._caught_up,
            absent=self.coverage.absent,
            trainers=self.trainers.of,
            inventory=DeviceView(self.claims, self.slices).of,
        )
        return Reconciler(
            view,
            executor,
            Recorder(self.client, self.settings.identity),
            self.poller,
            Explainer(Lookups(self.client), self.queue.add),
            DryRuns(self.client, executor.work),
            publish_interval=self.settings.publish_interval,
            engine_host=self.settings.engine_host,
            allowed_resources=self.settings.allowed_resources,
            host_folders=self.settings.host_folders,
            holder=f"{self.settings.identity}_{secrets.token_hex(4)}",
        )

    async def _dispatch(self) -> None:
        """Hand due pools to passes, a bounded number at a time."""
        reconciler = self.reconciler = self._reconciler()
        self.dispatching = True
        free = asyncio.Semaphore(self.settings.passes)
        running: set[asyncio.Task[None]] = set()
        stopping = asyncio.create_task(self._stopping.wait())
        for key in self.pools.known():
            self.queue.add(key)
        try:
            while not self._stopping.is_set():
                await free.acquire()
                getting = asyncio.create_task(self.queue.get())
                await asyncio.wait({getting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    getting.cancel()
                    break
                task = asyncio.create_task(self._pass(reconciler, getting.result(), free))
                running.add(task)
                task.add_done_callback(running.discard)
        finally:
            self.dispatching = False
            stopping.cancel()
            if running:
                await asyncio.wait(running, timeout=self.settings.drain_seconds)
            await supervision.left_alone(min(EVENTS_SECONDS, self.settings.drain_seconds))

    async def _pass(self, reconciler: Reconciler, key: PoolKey, free: asyncio.Semaphore) -> None:
        begun = time.monotonic()
        self.passes.active += 1
        place = _Place(free)
        try:
            delay = (await reconciler.reconcile(key)).delay()
            self._crashes.pop(key, None)
            self.passes.ended(time.monotonic() - begun, again=delay is not None)
        except Exception as error:
            self.passes.crashed(time.monotonic() - begun)
            # A defect in one pool's pass must not take the others down, nor spin.
            count = self._crashes[key] = self._crashes.get(key, 0) + 1
            delay = UNEXPECTED_BACKOFF.pause(count - 1)
            supervision.failed("pass", error, about=f"{key}, next try in {delay:.0f} s")
        finally:
            self.passes.active -= 1
            place.leave()
            self._ended[key] = (time.monotonic(), reconciler.planning_seconds(key))
            self.queue.done(key)
        if self.pools.get(key) is None:
            self._ended.pop(key, None)
        elif delay is not None:
            self.queue.add(key, delay)

    # --- probes

    def unsynced(self) -> list[str]:
        """The stores that have not been filled yet, by the name of their stream.

        Those of a namespace that is refused are not waited for while there are others.
        """
        if not self.informers:
            return ["everything"]
        return [
            _told(stream)
            for stream in self.informers
            if not (stream.synced.is_set() or self._is_excused(stream))
        ]

    def unready(self) -> list[str]:
        """The same, and what is refused without which nothing can be done."""
        unsynced = self.unsynced()
        return unsynced + [
            told
            for stream in self.informers
            if stream.refused and not self._is_excused(stream)
            if (told := _told(stream)) not in unsynced
        ]

    def synced(self) -> bool:
        """Every store has been filled once."""
        return not self.unsynced()

    def apart(self) -> str:
        """Why this one may wait for ever to be elected; empty if it does not."""
        return self.elector.apart() if self.elector is not None else ""

    def stale(self) -> list[str]:
        """The streams that nobody drives on any more: neither news nor an attempt to get them."""
        return [_told(stream) for stream in self.informers if stream.idle() > STALE_SECONDS]


def _told(stream: informer.Informer[Any]) -> str:
    """The name of a stream for the probes, and why it has nothing to say."""
    name = stream.resource.name
    return name if stream.refused is None else f"{name} (refused: {stream.refused})"


class _Place:
    """A pass's place among those that may run at a time, until it ends or turns out to be slow."""

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free: asyncio.Semaphore | None = free
        self._slow = asyncio.get_running_loop().call_later(PROMPT_SECONDS, self.leave)

    def leave(self) -> None:
        """Give the place to another; once."""
        self._slow.cancel()
        if self._free is not None:
            self._free.release()
            self._free = None
