"""An independent eye: watches of its own, and the operator's promises checked on every event.

The promises are I1 to I8 and I10 of explanation/faults.md, restated for pods that have attempts and
for engines of several pods: an engine has one live attempt in service, an extra one is resolved
within a bound, and so is what is left of one that has lost a pod (I6).  ``end state`` and ``no
writes`` are checked by ``reference`` and by the proxy's counters, at rest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from sglang_operator.testing.faults import lives
from sglang_operator.testing.faults.lives import Json, PodLife, PoolLife
from sglang_operator.testing.faults.streams import split

POOLS = "/apis/sglang-operator.dev/v1alpha1/sglanginferences"
START_SECONDS = 20.0
TICK_SECONDS = 0.25
SETTLE_SECONDS = 2.0  # for the other streams to tell what explains an event
EXTRA_SECONDS = 15.0  # until extra pods must be resolved, an operator's restart included
SPEC_SECONDS = 10.0  # for so long a decision may rest on the spec before this one
BATCH = 32  # creates that may be under way when a pool is deleted
BATCH_SECONDS = 5.0
COLLECTED_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Violation:
    """A promise that was broken."""

    invariant: str
    namespace: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} in {self.namespace}: {self.what}"


class Monitor:
    """Watches pools, pods and nodes of the whole cluster; a context manager."""

    def __init__(self, server: str, *, ca_file: Path, token: str) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": "fault-monitor"}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fault-monitor", daemon=True)
        self._synced = threading.Event()
        self._ending = asyncio.Event()
        self.extra_seconds = EXTRA_SECONDS
        self.strict = True  # off where the operator is shown an old world
        self.violations: list[Violation] = []
        self.checks = 0
        self.events = 0
        self.pods: dict[str, PodLife] = {}
        self.pools: dict[str, PoolLife] = {}
        self._ill: dict[str, float] = {}  # nodes, and since when
        self._ill_before: dict[str, float] = {}  # nodes that were ill, and until when
        self._protected: dict[str, str] = {}
        self._least_up: dict[tuple[str, str], int] = {}
        self._least_open: dict[tuple[str, str], int] = {}
        self._excess: dict[tuple[str, str], float] = {}
        self._suspects: list[tuple[float, Callable[[], Iterator[Violation]]]] = []

    # --- life

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._synced.wait(START_SECONDS):
            raise RuntimeError("the monitor did not get its first lists")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_SECONDS)

    # --- what tests tell and ask

    def protect(self, uid: str, name: str) -> None:
        """This object is somebody else's: nobody may change or delete it."""
        self._protected[uid] = name

    def release(self, uid: str) -> None:
        """The object may go."""
        self._protected.pop(uid, None)

    def hold_up(self, namespace: str, pool: str, least: int | None) -> None:
        """From now on at least so many wanted engines are up (I5); None ends it."""
        if least is None:
            self._least_up.pop((namespace, pool), None)
        else:
            self._least_up[namespace, pool] = least

    def hold_open(self, namespace: str, pool: str, least: int) -> None:
        """From now on at least so many engines are up behind an open gate (I5), whoever else is."""
        self._least_open[namespace, pool] = least

    def of(self, namespace: str, pool: str) -> list[PodLife]:
        """The lives of all pods of pools of this name."""
        known = list(self.pods.values())
        return [life for life in known if (life.namespace, life.pool) == (namespace, pool)]

    def broken(self, namespace: str) -> list[Violation]:
        """The promises that were broken in this namespace."""
        return [found for found in list(self.violations) if found.namespace == namespace]

    def forget(self, namespace: str) -> None:
        """The test in this namespace is over; what it leaves behind is no concern."""
        self.pods = {u: life for u, life in self.pods.items() if life.namespace != namespace}
        self._least_up = {k: v for k, v in self._least_up.items() if k[0] != namespace}
        self._least_open = {k: v for k, v in self._least_open.items() if k[0] != namespace}
        self._excess = {k: v for k, v in self._excess.items() if k[0] != namespace}

    # --- watching

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        finally:
            self._loop.close()

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers) as session:
            sources: list[tuple[str, Callable[[str, Json], None]]] = [
                (POOLS, self._pool),
                ("/api/v1/pods", self._pod),
                ("/api/v1/nodes", self._node),
            ]
            listed = [asyncio.Event() for _ in sources]
            tasks = [
                asyncio.create_task(self._follow(session, path, take, done))
                for (path, take), done in zip(sources, listed, strict=True)
            ]
            tasks.append(asyncio.create_task(self._ticks()))
            for done in listed:
                await done.wait()
            self._synced.set()
            await self._ending.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(
        self,
        session: aiohttp.ClientSession,
        path: str,
        take: Callable[[str, Json], None],
        listed: asyncio.Event,
    ) -> None:
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(session, path, take)
                    listed.set()
                version = await self._watch(session, path, take, version)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await asyncio.sleep(0.2)  # the API server restarts, or has no such kind yet

    async def _list(
        self, session: aiohttp.ClientSession, path: str, take: Callable[[str, Json], None]
    ) -> str:
        async with session.get(self._server + path) as response:
            response.raise_for_status()
            found = orjson.loads(await response.read())
        for item in found["items"]:
            take("ADDED", item)
        return str(found["metadata"]["resourceVersion"])

    async def _watch(
        self,
        session: aiohttp.ClientSession,
        path: str,
        take: Callable[[str, Json], None],
        version: str,
    ) -> str:
        query = f"?watch=1&allowWatchBookmarks=true&resourceVersion={version}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90)
        async with session.get(self._server + path + query, timeout=timeout) as response:
            if response.status == 410:
                return ""
            response.raise_for_status()
            async for line in split(response.content.iter_any()):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self.events += 1
                    take(event["type"], event["object"])
        return version

    # --- events

    def _pod(self, kind: str, pod: Json) -> None:
        now, uid = time.monotonic(), pod["metadata"]["uid"]
        self._check_foreign(kind, pod)
        life = self.pods.get(uid)
        if life is None:
            life = lives.pod_life(pod, now)
            if life is None or kind == "DELETED":
                return
            self.pods[uid] = life
            self._check_creation(life, now)
        life.see(pod, now)
        if kind == "DELETED":
            life.deleting, life.gone = life.deleting or now, now
        self._check_engine(life, now)
        self._check_up(life)

    def _pool(self, kind: str, pool: Json) -> None:
        now, metadata = time.monotonic(), pool["metadata"]
        uid = metadata["uid"]
        life = self.pools.get(uid)
        if life is None:
            life = self.pools[uid] = PoolLife(
                uid=uid, namespace=metadata["namespace"], name=metadata["name"]
            )
        life.see(pool, now)
        if kind == "DELETED":
            life.end(pool, now)
        self.checks += 1
        observed = pool.get("status", {}).get("observedGeneration", -1)
        if observed < life.observed or observed > metadata["generation"]:
            what = f"observedGeneration {life.observed} → {observed} of {metadata['generation']}"
            self._tell("I7", life.namespace, what)
        life.observed = observed

    def _node(self, kind: str, node: Json) -> None:
        name, now = node["metadata"]["name"], time.monotonic()
        ready = any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in node.get("status", {}).get("conditions", [])
        )
        tainted = any(
            taint["key"] == "node.kubernetes.io/out-of-service"
            for taint in node["spec"].get("taints", [])
        )
        if kind == "DELETED" or not ready or tainted:
            self._ill.setdefault(name, now)
        elif self._ill.pop(name, None) is not None:
            self._ill_before[name] = now

    async def _ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._check_excess(now)
            due = [check for at, check in self._suspects if at <= now]
            self._suspects = [(at, check) for at, check in self._suspects if at > now]
            for check in due:
                self.violations.extend(check())

    # --- checks

    def _tell(self, invariant: str, namespace: str, what: str) -> None:
        self.violations.append(Violation(invariant=invariant, namespace=namespace, what=what))

    def _well(self, life: PodLife, since: float) -> bool:
        """Whether the pod's node has been well from ``since`` on."""
        return life.node not in self._ill and self._ill_before.get(life.node, 0.0) < since

    def _check_foreign(self, kind: str, pod: Json) -> None:
        metadata = pod["metadata"]
        name = self._protected.get(metadata["uid"])
        if name is None:
            return
        self.checks += 1
        owned = any(owner["kind"] == lives.KIND for owner in metadata.get("ownerReferences", []))
        if kind == "DELETED" or metadata.get("deletionTimestamp") or owned:
            self._tell("I3", metadata["namespace"], f"the foreign pod {name} was touched")

    def _check_creation(self, life: PodLife, now: float) -> None:
        """What can be said of a new pod at once is noted, and judged when the rest is known."""
        others = [
            other
            for other in self.pods.values()
            if other is not life
            and (other.owner, other.engine) == (life.owner, life.engine)
            and (other.attempt != life.attempt or other.nodes == 1)
            and other.live
            and self._well(other, now)
        ]

        def judge() -> Iterator[Violation]:
            self.checks += 3
            yield from self._judge_double(life, others, now)
            yield from self._judge_owner(life)
            yield from self._judge_wanted(life)

        self._suspects.append((now + SETTLE_SECONDS, judge))

    def _judge_double(
        self, life: PodLife, others: list[PodLife], now: float
    ) -> Iterator[Violation]:
        for other in others if not self._surges(life) else ():
            if self.strict and self._well(other, now - SETTLE_SECONDS):
                what = f"{life.name} was created beside {other.name}, which was live"
                yield Violation(invariant="I1", namespace=life.namespace, what=what)

    def _judge_owner(self, life: PodLife) -> Iterator[Violation]:
        pool = self.pools.get(life.owner)
        if pool is None:
            what = f"{life.name} was created for a pool that never was"
            yield Violation(invariant="I4", namespace=life.namespace, what=what)
            return
        if pool.ended_version is None or life.version < pool.ended_version:
            return
        late = [
            pod
            for pod in self.pods.values()
            if pod.owner == life.owner and pod.version > pool.ended_version
        ]
        if len(late) > BATCH or life.added - pool.ended_at > BATCH_SECONDS:
            what = (
                f"{life.name} was created {life.added - pool.ended_at:.1f} s after its pool's end"
            )
            yield Violation(invariant="I4", namespace=life.namespace, what=what)
        self._suspects.append((life.added + COLLECTED_SECONDS, lambda: self._judge_rest(life)))

    def _judge_rest(self, life: PodLife) -> Iterator[Violation]:
        self.checks += 1
        if life.gone is None and life.uid in self.pods:
            what = f"{life.name} of a deleted pool is still there"
            yield Violation(invariant="I4", namespace=life.namespace, what=what)

    def _judge_wanted(self, life: PodLife) -> Iterator[Violation]:
        pool = self.pools.get(life.owner)
        wanted = pool.wanted_since(life.added - SPEC_SECONDS) if pool else None
        if wanted is not None and life.engine not in wanted:
            what = f"{life.name} was created for an engine that is not in the spec"
            yield Violation(invariant="I2", namespace=life.namespace, what=what)

    def _check_engine(self, life: PodLife, now: float) -> None:
        """One attempt at an engine is in service, and an extra one, or a part, does not stay."""
        self.checks += 1
        every = [
            pod
            for pod in self.pods.values()
            if (pod.owner, pod.engine) == (life.owner, life.engine)
        ]
        members = [pod for pod in every if pod.live]
        place = (life.namespace, f"{life.pool}/{life.engine} of {life.owner}")
        well = [pod for pod in members if self._well(pod, now)]
        most = 1 + bool(self._surges(life))
        self._note_excess(place, len(_attempts(well)) > most, now)
        serving = [pod.name for pod in well if pod.ready and not pod.node_rank]
        if life.nodes > 1:
            of_it = [pod for pod in every if pod.attempt == life.attempt]
            lost = [pod for pod in of_it if not pod.live]
            left = [pod for pod in of_it if pod.live and self._well(pod, now)]
            part = (life.namespace, f"a part of {life.engine}-{life.attempt} of {life.owner}")
            self._note_excess(part, bool(lost and left), now)
        if len(serving) > most and self.strict:
            self._tell("I1", life.namespace, f"{', '.join(sorted(serving))} are in service at once")
        self._check_count(life, now)

    def _surges(self, life: PodLife) -> int:
        """How many of the pool's engines may run twice, an old one and a new one."""
        pool = self.pools.get(life.owner)
        return pool.wanted.max_surge if pool is not None and pool.wanted is not None else 0

    def _note_excess(self, place: tuple[str, str], found: bool, now: float) -> None:
        if found:
            self._excess.setdefault(place, now)
        else:
            self._excess.pop(place, None)

    def _check_count(self, life: PodLife, now: float) -> None:
        """No more live attempts than engines, beyond a bound."""
        pool = self.pools.get(life.owner)
        if pool is None or pool.wanted is None or pool.ended_version is not None:
            return
        self.checks += 1
        of_it = [pod for pod in self.pods.values() if pod.owner == life.owner and pod.live]
        live = len(_attempts(pod for pod in of_it if self._well(pod, now)))
        place = (life.namespace, f"{live} live pods of {life.pool}")
        counted = [key for key in self._excess if key[1].endswith(f"live pods of {life.pool}")]
        counted = [key for key in counted if key[0] == life.namespace]
        if live <= pool.wanted.count + pool.wanted.max_surge:
            for key in counted:
                del self._excess[key]
        elif not counted:
            self._excess[place] = now

    def _check_excess(self, now: float) -> None:
        for (namespace, what), since in list(self._excess.items()):
            self.checks += 1
            if now - since > self.extra_seconds:
                del self._excess[namespace, what]
                invariant = "I6" if what.startswith("a part of") else "I2"
                self._tell(invariant, namespace, f"{what}: too many for {self.extra_seconds:g} s")

    def _check_up(self, life: PodLife) -> None:
        place = life.namespace, life.pool
        least, serving = self._least_up.get(place), self._least_open.get(place)
        if least is None and serving is None:
            return
        self.checks += 1
        alive = [pod for pod in self.of(*place) if pod.live and pod.up]
        count = Counter((pod.engine, pod.attempt) for pod in alive)
        whole = [pod for pod in alive if count[pod.engine, pod.attempt] >= pod.nodes]
        for asked, engines, how in (
            (least, {pod.engine for pod in whole}, "are up"),
            (serving, {pod.engine for pod in whole if pod.open}, "are up and synced"),
        ):
            if asked is not None and len(engines) < asked:
                what = f"{len(engines)} engines of {life.pool} {how}, {asked} must be"
                self._tell("I5", life.namespace, what)


def _attempts(pods: Iterable[PodLife]) -> set[tuple[str, str]]:
    """The tries at engines that these pods are: of one pod each, or of several."""
    return {(pod.engine, pod.name if pod.nodes == 1 else f"{pod.attempt}n") for pod in pods}
