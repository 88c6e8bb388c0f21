"""The loop on an API server of the test's own: objects in memory, watches, and requests that hang.

It keeps just enough of the rules (versions, names, merging of conditions) that passes go through;
what a real one refuses is tested on a real one.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from sglang_operator.api import names
from sglang_operator.cluster.stores import PoolKey
from sglang_operator.controller.loop import ControlLoop
from sglang_operator.controller.settings import Settings
from sglang_operator.kube import paths
from sglang_operator.kube.credentials import Credentials
from sglang_operator.kube.errors import ApiError
from tests.builders import guide_spec
from tests.memory_api import MemoryApi

Json = dict[str, Any]
SECONDS = 30.0  # for a step on a busy machine


class Api(MemoryApi):
    """What an ``ApiClient`` is to the loop.  ``hangs`` and ``fails`` are asked of each request."""

    server = "https://test"

    def __init__(self) -> None:
        super().__init__()
        self.fence: Callable[[], bool] = lambda: True
        self.requests: Counter[tuple[str, int]] = Counter()
        self.hangs: Callable[[str, str], bool] = lambda method, path: False
        self.fails: Callable[[str, str], Exception | None] = lambda method, path: None
        # The rights to a path are not there, for reads, watches and writes alike.
        self.refuses: Callable[[str], bool] = lambda path: False
        self.refuses_watches: Callable[[str], bool] = lambda path: False
        self.seen: list[tuple[str, str]] = []
        self.hanging = 0
        self._watches: defaultdict[str, list[asyncio.Queue[bytes]]] = defaultdict(list)

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def request(self, method: str, path: str, **rest: Any) -> bytes:
        self.seen.append((method, path))
        if self.hangs(method, path):
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        error = self.fails(method, path) or self._refusal(path)
        if error is not None:
            raise error
        await asyncio.sleep(0)
        return _deepened(await super().request(method, path, **rest))

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str], *, idle: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if refusal := self._refusal(path, watches=True):
            raise refusal
        events: asyncio.Queue[bytes] = asyncio.Queue()
        self._watches[path].append(events)

        async def lines() -> AsyncIterator[bytes]:
            while chunk := await events.get():
                yield chunk

        try:
            yield lines()
        finally:
            self._watches[path].remove(events)

    # --- what changes, and who hears of it

    def add(self, path: str, body: Mapping[str, Any], *, version: str = "", uid: str = "") -> Json:
        made = super().add(path, body, version=version, uid=uid)
        if "/pods/" in path:
            made["status"] = _running(made["metadata"]["name"])
        self._tell("ADDED", path, made)
        return made

    def _found(self, path: str) -> Json:
        if path in self.objects or _is_item(path):
            return super()._found(path)
        items = [body for known, body in self.objects.items() if path in _collections(known)]
        return {"metadata": {"resourceVersion": str(next(self._versions))}, "items": items}

    def _delete(self, path: str, options: Json) -> Json:
        found = super()._delete(path, options)
        self._tell("DELETED", path, found)
        return found

    def _stored(self, path: str) -> Json:
        stored = super()._stored(path)
        self._tell("MODIFIED", path, stored)
        return stored

    def _tell(self, kind: str, path: str, body: Json) -> None:
        line = _deepened(json.dumps({"type": kind, "object": body}).encode())
        for collection in _collections(path):
            for events in self._watches[collection]:
                events.put_nowait(line + b"\n")

    def _refusal(self, path: str, *, watches: bool = False) -> ApiError | None:
        refused = self.refuses(path) or (watches and self.refuses_watches(path))
        return ApiError(403, "Forbidden", f"{path}: no", None) if refused else None

    # --- what tests do

    def make(self, namespace: str, name: str, **changes: Any) -> None:
        """Somebody makes a pool."""
        spec = guide_spec(device_mapping="[0, 1]", **changes)
        path = paths.pool(namespace, name)
        self.add(path, {"metadata": {"generation": 1}, "spec": spec})

    def change(self, namespace: str, name: str, spec: Json) -> None:
        """Somebody gives a pool another spec."""
        path = paths.pool(namespace, name)
        self.objects[path]["spec"] = spec
        self.touch(path, {"metadata": {"generation": self.generation(namespace, name) + 1}})

    def generation(self, namespace: str, name: str) -> int:
        return int(self.pool(namespace, name)["metadata"]["generation"])

    def pool(self, namespace: str, name: str) -> Json:
        return self.objects[paths.pool(namespace, name)]

    def reason(self, namespace: str, name: str) -> str:
        """The reason of Ready; empty before any was told."""
        told = self.pool(namespace, name).get("status", {}).get("conditions", ())
        return next((c["reason"] for c in told if c["type"] == "Ready"), "")

    def up(self, namespace: str, name: str) -> bool:
        """Ready is told, and what is written beside it is there: neither waits for the other."""
        kinds = {"Service": names.service_name, "PodDisruptionBudget": names.disruption_budget_name}
        kinds |= {"ConfigMap": names.registry_name, "Lease": names.weights_lease_name}
        beside = (paths.child(kind, namespace, named(name)) for kind, named in kinds.items())
        told = self.reason(namespace, name) == "PoolReady"
        return told and all(path in self.objects for path in beside)

    def pods(self, namespace: str) -> list[Json]:
        start = paths.pods(namespace) + "/"
        return [body for path, body in self.objects.items() if path.startswith(start)]

    def gate(self, namespace: str) -> str:
        """The status of the first pod's gate."""
        conditions = self.pods(namespace)[0]["status"]["conditions"]
        found = (c for c in conditions if c["type"] == names.CONDITION_WEIGHTS_SYNCED)
        return next((str(c["status"]) for c in found), "")

    def transact(self, namespace: str, name: str, phase: str, instances: str = "") -> None:
        """A trainer writes into the pool's Lease."""
        path = paths.child("Lease", namespace, names.weights_lease_name(name))
        notes = {
            names.ANNOTATION_PHASE: phase,
            names.ANNOTATION_VERSION: "step-1",
            names.ANNOTATION_TRANSACTION: phase,
            names.ANNOTATION_INSTANCES: instances,
        }
        self.touch(path, {"metadata": {"annotations": notes}})

    def refuse(self, refuses: Callable[[str], bool]) -> None:
        """Somebody takes rights away; watches of it end, as each does after some minutes."""
        self.refuses = refuses
        self._end_watches(refuses)

    def refuse_watches(self, refuses: Callable[[str], bool]) -> None:
        """Somebody takes the right to watch away, and leaves that to list."""
        self.refuses_watches = refuses
        self._end_watches(refuses)

    def _end_watches(self, of: Callable[[str], bool]) -> None:
        for path, watches in self._watches.items():
            for events in watches if of(path) else ():
                events.put_nowait(b"")

    async def until(self, check: Callable[[], object], seconds: float = SECONDS) -> float:
        """Wait until this is so; how long it took."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with asyncio.timeout(seconds):
            while not check():
                await asyncio.sleep(0.002)
        return loop.time() - begun


NOBODY = Credentials(server=Api.server, namespace="default", tls=None, authorization=lambda: None)


def a_room(api: Api, **settings: Any) -> ControlLoop:
    """A loop on this server that does not run yet."""
    made = Settings(ask_engines=False, publish_interval=0.02, drain_seconds=0.0, **settings)
    room = ControlLoop(NOBODY, made)
    room.client = api  # type: ignore[assignment]
    if room.elector is not None:
        room.elector._client = api  # type: ignore[assignment]
        api.fence = room.elector.holds
    return room


@asynccontextmanager
async def operator(api: Api, **settings: Any) -> AsyncIterator[ControlLoop]:
    """The loop at work on this server; how it ends by itself is raised."""
    room = a_room(api, **settings)
    ready = asyncio.Event()

    async def told() -> None:
        ready.set()

    running = asyncio.create_task(room.run(told), name="operator")
    waiting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        yield room
    finally:
        waiting.cancel()
        room.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def instances(room: ControlLoop, key: PoolKey) -> str:
    """The runs of the pool's engines, as a commit names them."""
    found = (entry.pod.instance for entry in room.pods.of(key))
    return ",".join(run for run in found if run)


def _deepened(body: bytes) -> bytes:
    """JSON; what says DEEP in it is nested deeper than any decoder goes."""
    return body.replace(b'"DEEP"', b"[" * 1500 + b"]" * 1500)


def _is_item(path: str) -> bool:
    parts = path.split("/")
    after = parts[parts.index("namespaces") + 2 :] if "namespaces" in parts else []
    return len(after) > 1


def _collections(path: str) -> tuple[str, ...]:
    """The collections that an object is in: that of its namespace, if it is in one, and of all."""
    parts = path.split("/")
    if "namespaces" not in parts:
        return (path.rpartition("/")[0],)
    where = parts.index("namespaces")
    return path.rpartition("/")[0], "/".join([*parts[:where], parts[where + 2]])


def _running(name: str) -> Json:
    up = [{"type": kind, "status": "True"} for kind in ("ContainersReady", "PodScheduled")]
    return {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": up,
        "containerStatuses": [
            {"name": names.ENGINE_CONTAINER, "containerID": f"containerd://{name}"}
        ],
    }
