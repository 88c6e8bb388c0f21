"""A pool for the client's tests: an API server with one registry and one Lease, and engines.

Everything runs in a thread of its own.  The API server compares and swaps, and streams watches;
the operator in it acts as explanation/weights.md says, as soon as the Lease changes.
"""

import asyncio
import contextlib
import dataclasses
import gc
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from sglang_operator.api import names
from sglang_operator.client.credentials import Credentials
from sglang_operator.engine import versions
from sglang_operator.weights import lease_state, lost_lease, steps
from sglang_operator.weights.lease_state import GroupsOwner, Phase, Transaction

NAMESPACE = "rl"
POOL = "actor-infer"
OWNED = {"kind": names.KIND, "name": POOL, "uid": "pool-uid", "controller": True}
_CLOSED = (Phase.ABORTED, Phase.SLEEPING, Phase.AWAKE)

Json = dict[str, Any]


@dataclass(kw_only=True)
class FakeEngine:
    """What one engine holds and was asked."""

    rank: int
    url: str = ""
    instance: str = ""
    gate: str | None = "Closed"  # None: it was started without one, and serves
    gate_version: str | None = None
    state: str = "Up"
    runs_in_part: bool = False  # of one that is Lost
    weights: str = "random"
    label: str = "unsynced"
    paused: bool = False
    released: set[str] = field(default_factory=set)
    strict: bool = False  # dies of being woken twice, as SGLang does
    version: str = ""  # of its SGLang, where that is not the spec's
    keeps_images: bool = False  # as an earlier operator has started it
    sessions: bool = False  # updates need one
    session: bool = False
    groups: set[str] | None = None  # process groups that it is in; None: nobody minds
    routed_experts: str = ""  # of each answer that is to tell them
    dead: bool = False
    dropped: int = 0  # requests that came once it was
    asked: list[tuple[str, Json]] = field(default_factory=list)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)  # paths that never answer
    held: int = 0  # requests to those
    busy: int = 0  # flushes that are refused
    lacks: set[str] = field(default_factory=set)  # paths that it does not know
    frees: bool = True  # what it releases is free then

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def answer(self, path: str, payload: Json) -> tuple[int, Any]:
        """What SGLang would say (explanation/sglang.md, Weights)."""
        self.asked.append((path, payload))
        if path in self.lacks:
            return 404, {"detail": "Not Found"}
        if path in self.refuse:
            status, message = self.refuse[path]
            return status, {"success": False, "message": message}
        handler = getattr(self, "_" + path.strip("/"), None)
        return handler(payload) if handler else (200, {"success": True, "message": ""})

    def _dies(self, message: str) -> tuple[int, Json]:
        self.dead = True
        return 500, {"success": False, "message": message}

    def _pause_generation(self, payload: Json) -> tuple[int, Json]:
        self.paused = True
        return 200, {}

    def _continue_generation(self, payload: Json) -> tuple[int, Json]:
        self.paused = False
        return 200, {}

    def _flush_cache(self, payload: Json) -> tuple[int, Json]:
        if self.released:
            return self._dies("flushing released memory")
        if self.busy:
            self.busy -= 1
            return 400, {"message": "busy"}
        return 200, {}

    def _update_weight_version(self, payload: Json) -> tuple[int, Json]:
        self.label = payload["new_version"]
        return 200, {"success": True}

    def _update_weights_from_disk(self, payload: Json) -> tuple[int, Json]:
        if "weights" in self.released:
            return self._dies("writing into released memory")
        self.weights = payload["model_path"]
        return 200, {"success": True}

    def _update_weights_from_tensor(self, payload: Json) -> tuple[int, Json]:
        assert self.paused, "a request would be answered from half of the weights"
        if "weights" in self.released:
            return self._dies("writing into released memory")
        self.weights = "+".join(payload["serialized_named_tensors"])
        return 200, {"success": True}

    def _update_weights_from_distributed(self, payload: Json) -> tuple[int, Json]:
        if self.sessions and not self.session:
            text = "update_weights_from_distributed must run between begin_weight_update() and "
            return 400, {"success": False, "message": text + "end_weight_update()"}
        assert self.paused, "a request would be answered from half of the weights"
        if "weights" in self.released:
            return self._dies("writing into released memory")
        if self.groups is not None and payload["group_name"] not in self.groups:
            return self._dies("Group not in []")  # the scheduler asserts
        self.weights = "+".join(payload["names"])
        return 200, {"success": True}

    def _init_weights_update_group(self, payload: Json) -> tuple[int, Json]:
        if self.groups is None:
            return 200, {"success": True}
        if payload["group_name"] in self.groups:
            text = "The specified group name has already been created, please use a different name"
            return 400, {"success": False, "message": text}
        self.groups.add(payload["group_name"])
        return 200, {"success": True}

    def _destroy_weights_update_group(self, payload: Json) -> tuple[int, Json]:
        if self.groups is not None and payload["group_name"] not in self.groups:
            text = "The group to be destroyed does not exist."
            return 400, {"success": False, "message": text}
        (self.groups or set()).discard(payload["group_name"])
        return 200, {"success": True}

    def _generate(self, payload: Json) -> tuple[int, Any]:
        assert not self.paused and not self.released
        assert not self.session, "its weights stand in the form in which they are loaded"
        one: Json = {
            "output_ids": [7, 8],
            "meta_info": {
                "finish_reason": {"type": "stop"},
                "weight_version": self.label,
                "output_token_logprobs": [[-0.5, 7, None], [-0.25, 8, None]],
            },
        }
        if self.routed_experts and payload.get("return_routed_experts"):
            one["meta_info"]["routed_experts"] = self.routed_experts
        many = isinstance(payload["input_ids"][0], list)
        return 200, [one for _ in payload["input_ids"]] if many else one

    def _begin_weight_update(self, payload: Json) -> tuple[int, Json]:
        if self.session:
            return 400, {"success": False, "message": "a weight-update session is already open"}
        self.session = True
        return 200, {"success": True}

    def _end_weight_update(self, payload: Json) -> tuple[int, Json]:
        if not self.session:
            text = "no weight-update session is open; call begin_weight_update() first"
            return 400, {"success": False, "message": text}
        self.session = False
        return 200, {"success": True}

    def _release_memory_occupation(self, payload: Json) -> tuple[int, Json]:
        assert self.gate != "Open", "released behind an open gate"
        assert self.paused, "a late request would kill it"
        self.released |= set(payload["tags"])
        return 200, {}

    def _resume_memory_occupation(self, payload: Json) -> tuple[int, Json]:
        for tag in payload["tags"]:
            assert not self.strict or tag in self.released, "KeyError in SGLang, which kills it"
        self.released -= set(payload["tags"])
        return 200, {}


class FakePool:
    """The API server, the operator and the engines; used as a context manager."""

    def __init__(self, engines: int = 3, version: str = "0.5.7", gate: str = "Committed") -> None:
        self.version = version
        self.gate = gate
        self.memory_saver: bool | None = None
        self.gpus_per_node, self.awaits_slots = 0, False  # of the trainer that engines join
        self.no_sync = ""
        self.unlisted: list[str] = []  # pods that run nobody knows where
        self.aside: set[int] = set()  # engines that are the pool's no more
        self.leaving: dict[str, int] = {}  # pods on their way out, and their grace
        self.hidden: list[str] = []
        self.holders: dict[str, list[int]] = {}  # pods that may hold memory, and of which GPUs
        self.sees_images: bool | None = None  # the model; None: its SGLang does not say
        self.engines = [FakeEngine(rank=rank) for rank in range(engines)]
        self.operates = True
        self.tells_groups = True  # as operators before did not
        self.knows_parts = True  # the same
        self.turns = False  # whether engines are on their trainer's GPUs
        self.taken: set[int] = set()  # engines whose GPUs another pool has
        self.takers = ["rl/other"]
        self.starts = True  # engines that have waited for their turn, once it comes
        self.others = 0  # bytes that somebody else has on each GPU
        self.looked: list[int] = []  # engines that were asked what they are
        self.slow = 0.0  # seconds that they take to say so
        self.server_info: Json = {}  # what engines say of their arguments
        self.strangers = False  # others answer at the engines' addresses
        self.lease: Json = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": names.weights_lease_name(POOL),
                "uid": "lease-1",
                "resourceVersion": "1",
                "ownerReferences": [OWNED],
            },
            "spec": {},
        }
        self.lease_is_there = True
        self.put_lease = self._put_lease  # who answers writes of it
        self.puts: list[Transaction] = []
        self.told = 0  # how often the registry was written
        self.slots: dict[str, str] = {}  # the data of that ConfigMap
        self.slots_asked, self.slots_from = 0, 1  # the operator makes it before that request
        self.server = ""
        self.failures: list[int] = []  # statuses for the next writes of the Lease; 0: drop it
        self.conflicts = 0  # writes that others are quicker than
        self.lose_answers = 0  # writes that are done, and whose answer is not sent
        self._acted = ""
        self._groups = GroupsOwner(id="", holder="")  # as the operator has seen it
        self._resource_version = 100
        self._restarts = 0
        self._watchers: list[asyncio.Queue[Json]] = []
        self.lease_watchers: list[asyncio.Queue[Json]] = []
        self.lets_watch_lease = True  # what the trainer's Role says
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runners: list[web.AppRunner] = []

    def __enter__(self) -> "FakePool":
        gc.freeze()  # so that the end looks through what this world left, and not at all tests
        self._thread.start()
        self.call(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        # On a busy machine connections end while this server lets go of them.  A client that was
        # not closed is told all the same, by aiohttp.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "unclosed (transport|<socket)", ResourceWarning)
            gc.collect()
        gc.unfreeze()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run this in the world's thread."""

        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    @property
    def identity(self) -> Credentials:
        return Credentials(
            server=self.server, namespace=NAMESPACE, tls=None, authorization=lambda: "Bearer t"
        )

    @property
    def state(self) -> Transaction:
        return lease_state.read(self.lease)

    # --- what happens to it

    def restart(self, rank: int, *, told: bool = True) -> None:
        """The engine ends and comes back with random weights behind a closed gate."""
        self.call(lambda: self._restart(rank, told))

    def _restart(self, rank: int, told: bool) -> None:
        old = self.engines[rank]
        old.dead = True
        self._restarts += 1
        self.engines[rank] = FakeEngine(
            rank=rank, url=old.url, instance=f"{self._restarts:04x}{rank:04x}"
        )
        if told:
            self.publish()

    def end(self, rank: int) -> None:
        """The engine ends, and is not started again amid its trainer's turn."""

        def end() -> None:
            old = self.engines[rank]
            old.dead = True
            self.engines[rank] = FakeEngine(rank=rank, url=old.url, state="Waiting")
            self._operate()

        self.call(end)

    def used(self) -> dict[str, int]:
        """Bytes in use by GPU, as a process sees it that sees all of them."""
        found: dict[str, int] = {}
        for engine in self.engines:
            held = 0
            if engine.instance and not engine.dead:
                gone = engine.released if engine.frees else set[str]()
                held = (1 + 20 * ("weights" not in gone) + 10 * ("kv_cache" not in gone)) * 2**30
            for uuid in uuids(engine):
                found[uuid] = self.others + held
        return found

    def _takes_turns(self) -> None:
        """Who has waited comes up once it may."""
        for engine in self.engines:
            if self._waits(engine) or engine.instance or not self.starts:
                continue
            self._restarts += 1
            engine.instance, engine.state = f"{self._restarts:04x}{engine.rank:04x}", "Up"

    def _waits(self, engine: FakeEngine) -> bool:
        """Whether the operator says that it is not made before its trainer gives its GPUs back."""
        ids = (2 * engine.rank, 2 * engine.rank + 1)
        return self.turns and not engine.instance and self.state.trainers.has(ids)

    def grow(self) -> None:
        """An engine comes, with random weights behind a closed gate."""

        async def come() -> None:
            engine = FakeEngine(rank=len(self.engines))
            self.engines.append(engine)
            await self._start_engine(engine)
            self.publish()

        self.call(come)

    def write_lease(self, state: Transaction) -> None:
        """Somebody else writes the Lease."""

        def write() -> None:
            self.lease = lease_state.written(self.lease, state)
            self._bump_lease()

        self.call(write)

    def delete_lease(self) -> None:
        """Somebody deletes the Lease."""
        self.call(lambda: setattr(self, "lease_is_there", False))

    def anew(self) -> Transaction:
        """What the operator writes into a Lease in place of one that was lost."""
        operator = steps.Trainer(holder="operator", transaction="")
        return lost_lease.made_anew(operator, message="the Lease was deleted", now=time.time())

    def make_lease(self, state: Transaction | None = None) -> None:
        """The operator makes it again, and holds it for a while; or somebody restores it."""

        def make() -> None:
            number = int(self.lease["metadata"]["resourceVersion"]) + 1
            metadata = {
                "name": self.lease["metadata"]["name"],
                "uid": f"lease-{number}",
                "resourceVersion": str(number),
                "ownerReferences": self.lease["metadata"].get("ownerReferences", []),
            }
            self.lease = lease_state.written(
                {**self.lease, "metadata": metadata, "spec": {}}, state or self.anew()
            )
            self.lease_is_there = True
            self._bump_lease()

        self.call(make)

    def publish(self) -> None:
        self.told += 1
        self._resource_version += 1
        event = {"type": "MODIFIED", "object": self._config_map()}
        for queue in self._watchers:
            queue.put_nowait(event)

    # --- the operator

    def _operate(self) -> None:
        if not self.operates:
            return
        state = self.state
        if self.turns:
            self._takes_turns()
        for engine in self.engines:
            if self.turns and not engine.instance:
                continue
            told = state.of(engine.instance) if self.knows_parts else state
            if told.phase is Phase.COMMITTED:
                covered = engine.instance in state.instances
                self._set(engine, "Open" if covered else "Closed", state.version)
            elif told.phase in _CLOSED and not told.initial:
                self._set(engine, "Closed", "")
        self._acted = state.id
        self._groups = state.groups or GroupsOwner(id="", holder="")
        self.publish()

    def _set(self, engine: FakeEngine, gate: str, version: str) -> None:
        if engine.gate is None:
            engine.state = "InService"
            return
        engine.gate = gate
        engine.gate_version = version if gate == "Open" else None
        if engine.state != "Lost":
            engine.state = "InService" if gate == "Open" else "Up"

    def _config_map(self) -> Json:
        state = self.state
        document = {
            "pool": POOL,
            "namespace": NAMESPACE,
            "epoch": "-".join(engine.instance for engine in self.engines),
            "engineVersion": self.version,
            "memorySaver": self.memory_saver,
            **self._told_places(),
            "worldSize": 1 + 2 * len(self.engines),
            "port": 30000,
            "generation": {"temperature": 0.99},
            "weights": {
                "gate": self.gate,
                "lease": names.weights_lease_name(POOL),
                "phase": state.phase.value,
                "version": state.version,
                "transaction": self._acted,
                **self._told_groups(),
                "noSync": self.no_sync,
                "parts": self.knows_parts,
                "turns": self.turns,
                **self._told_by_ranks(state),
                "keepImages": [[e.rank, e.rank] for e in self.engines if e.keeps_images],
            },
            "revisions": {
                f"of-{engine.rank}": {
                    "engineVersion": engine.version,
                    "port": 30000,
                    "memorySaver": True,
                    "ranks": [[engine.rank, engine.rank]],
                }
                for engine in self.engines
                if engine.version
            },
            "unlisted": self._unlisted(),
            "hidden": self.hidden,
            "holders": [{"pod": pod, "devices": ids} for pod, ids in self.holders.items()],
            "engines": [self._entry(e) for e in self.engines if e.rank not in self.aside],
        }
        return {
            "kind": "ConfigMap",
            "metadata": {
                "name": names.registry_name(POOL),
                "namespace": NAMESPACE,
                "resourceVersion": str(self._resource_version),
            },
            "data": {"engines.json": json.dumps(document)},
        }

    def _told_by_ranks(self, state: Transaction) -> Json:
        told = [(engine, state.of(engine.instance)) for engine in self.engines]
        asleep = [e for e, each in told if each.phase is Phase.SLEEPING and each.sleeps(e.instance)]
        behind = [
            engine
            for engine, each in told
            if each.phase is Phase.COMMITTED and engine.instance not in each.instances
        ]
        waits = [engine for engine in self.engines if self._waits(engine)]
        taken = [engine for engine in self.engines if engine.rank in self.taken]
        found = {"asleep": asleep, "behind": behind, "waits": waits, "taken": taken}
        ranks = {key: [[e.rank, e.rank] for e in engines] for key, engines in found.items()}
        return {**ranks, "takenBy": self.takers if taken else []}

    def _told_places(self) -> Json:
        told = {"numGpusPerNode": self.gpus_per_node, "awaitsSlots": self.awaits_slots}
        return {"placement": told} if self.gpus_per_node else {}

    def _told_groups(self) -> Json:
        return (
            {"groups": self._groups.id, "claims": self._groups.claims} if self.tells_groups else {}
        )

    def _unlisted(self) -> list[Json]:
        beside = [FakePool._entry(self, self.engines[rank]) for rank in sorted(self.aside)]
        blank = dict.fromkeys(("url", "instance", "gate", "version"))
        hidden = [blank | {"engine": "g", "state": "Up", "pod": pod} for pod in self.unlisted]
        going = [
            blank
            | {"engine": "g", "state": "Waiting", "pod": pod}
            | {"until": "2026-11-29T20:00:00Z", "graceSeconds": grace}
            for pod, grace in self.leaving.items()
        ]
        by_rank = ("rank", "devices", "gpus", "rankOffset", "podIP")
        return [
            {key: value for key, value in each.items() if key not in by_rank}
            | {"engineVersion": self.version}
            for each in (*beside, *hidden, *going)
        ]

    def _entry(self, engine: FakeEngine) -> Json:
        return {
            "rank": engine.rank,
            "engine": f"g{2 * engine.rank}-{2 * engine.rank + 1}",
            "devices": [2 * engine.rank, 2 * engine.rank + 1],
            "gpus": 2,
            "rankOffset": 1 + 2 * engine.rank,
            **({"uuids": uuids(engine)} if self.turns else {}),
            "state": engine.state,
            **({"runsInPart": True} if engine.runs_in_part else {}),
            "pod": f"{POOL}-{engine.rank}",
            "podIP": "127.0.0.1",
            "url": engine.url,
            "instance": engine.instance or None,
            "gate": engine.gate if self.gate != "Off" else None,
            "version": engine.gate_version if self.gate != "Off" else None,
        }

    # --- HTTP

    async def _start(self) -> None:
        api = web.Application()
        config_maps = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{POOL}-weights"
        api.router.add_get(config_maps, self._watch)
        api.router.add_get(f"{config_maps}/{POOL}-engines", self._get_registry)
        api.router.add_get(lease, self._get_lease)
        api.router.add_get(lease.rpartition("/")[0], self._watch_lease)
        api.router.add_put(lease, self._handle_put)
        api.router.add_patch(f"{config_maps}/{POOL}-slots", self._patch_slots)
        self.server = await self._serve(api)
        for engine in self.engines:
            await self._start_engine(engine)

    async def _start_engine(self, engine: FakeEngine) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._engine_handler(engine.rank))
        app.router.add_get("/{path:.*model_info}", self._model_info(engine.rank))
        app.router.add_get("/{path:.*server_info}", self._server_info)
        app.router.add_get("/{path:.*}", self._other_method(engine.rank))
        engine.url = await self._serve(app)
        engine.instance = f"ffff{engine.rank:04x}"

    async def _serve(self, app: web.Application) -> str:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _stop(self) -> None:
        for queue in self._watchers + self.lease_watchers:
            queue.put_nowait({})
        for runner in self._runners:
            await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:  # requests to engines that are stuck
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)

    async def _server_info(self, _: web.Request) -> web.Response:
        return web.json_response(self.server_info)

    def _model_info(self, rank: int) -> Any:
        async def handle(request: web.Request) -> web.Response:
            self.looked.append(rank)
            if self.engines[rank].dead:
                _drop(request)
            answers = asyncio.get_running_loop().time() + self.slow
            while self.slow and asyncio.get_running_loop().time() < answers:
                await asyncio.sleep(0.01)
            version = versions.parse(self.engines[rank].version or self.version)
            if self.strangers or request.path != versions.features(version).model_info_path:
                raise web.HTTPNotFound(text="404 page not found")
            told = {"model_path": "Qwen/Qwen2.5-7B-Instruct"}
            sees = self.sees_images
            seen = {} if sees is None else {"has_image_understanding": sees}
            return web.json_response({**told, **seen})

        return handle

    def _other_method(self, rank: int) -> Any:
        async def handle(request: web.Request) -> web.Response:
            if self.engines[rank].dead:
                _drop(request)
            known = request.path not in self.engines[rank].lacks
            return web.json_response({"detail": "no"}, status=405 if known else 404)

        return handle

    def _engine_handler(self, rank: int) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            engine = self.engines[rank]
            path = request.path
            if engine.dead:
                engine.dropped += 1
                _drop(request)
            engine.held += path in engine.stuck
            while path in engine.stuck:
                await asyncio.sleep(0.01)
                if self.engines[rank] is not engine:  # it ended while it worked on this
                    _drop(request)
            status, body = engine.answer(path, await request.json())
            if not status:  # it ends over that
                _drop(request)
            return web.json_response(body, status=status)

        return handle

    async def _get_registry(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer t"
        return web.json_response(self._config_map())

    async def _patch_slots(self, request: web.Request) -> web.Response:
        self.slots_asked += 1
        if self.slots_asked < self.slots_from:
            return web.json_response({"message": "not found"}, status=404)
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        self.slots |= (await request.json())["data"]
        return web.json_response({"data": self.slots})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"] == f"metadata.name={POOL}-engines"
        response = web.StreamResponse()
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self._watchers.append(queue)
        if int(request.query["resourceVersion"]) < self._resource_version:
            queue.put_nowait({"type": "MODIFIED", "object": self._config_map()})
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            while event := await queue.get():
                await response.write(json.dumps(event).encode() + b"\n")
        self._watchers.remove(queue)
        return response

    async def _watch_lease(self, request: web.Request) -> web.StreamResponse:
        assert request.query["fieldSelector"] == f"metadata.name={POOL}-weights"
        if not self.lets_watch_lease:
            return web.json_response({"message": "cannot watch leases"}, status=403)
        response = web.StreamResponse()
        queue: asyncio.Queue[Json] = asyncio.Queue()
        self.lease_watchers.append(queue)
        if int(request.query["resourceVersion"]) < int(self.lease["metadata"]["resourceVersion"]):
            queue.put_nowait({"type": "MODIFIED", "object": self.lease})
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            while event := await queue.get():
                await response.write(json.dumps(event).encode() + b"\n")
        if queue in self.lease_watchers:
            self.lease_watchers.remove(queue)
        return response

    def break_watches(self) -> None:
        """Every watch ends, as the API server ends them after some minutes."""

        def end() -> None:
            for queue in self._watchers + self.lease_watchers:
                queue.put_nowait({})

        self.call(end)

    async def _get_lease(self, request: web.Request) -> web.Response:
        if not self.lease_is_there:
            return web.json_response({"message": "not found"}, status=404)
        return web.json_response(self.lease)

    async def _handle_put(self, request: web.Request) -> web.StreamResponse:
        return await self.put_lease(request)

    async def _put_lease(self, request: web.Request) -> web.Response:
        body = await request.json()
        if self.failures:
            status = self.failures.pop(0)
            if not status:
                _drop(request)
            return web.json_response({"message": "try later"}, status=status)
        if self.conflicts:
            self.conflicts -= 1
            self._bump_lease(renewal=True)
        same = all(
            body["metadata"][key] == self.lease["metadata"][key]
            for key in ("uid", "resourceVersion")
        )
        # A real API server would make a Lease that is not there, were it not for the UID.
        if not same or not self.lease_is_there:
            return web.json_response({"reason": "Conflict", "message": "changed"}, status=409)
        before = self.state
        self.lease = body
        self.puts.append(self.state)
        self._bump_lease(renewal=dataclasses.replace(self.state, renewed=before.renewed) == before)
        if self.lose_answers:
            self.lose_answers -= 1
            _drop(request)
        return web.json_response(self.lease)

    def _bump_lease(self, *, renewal: bool = False) -> None:
        version = int(self.lease["metadata"]["resourceVersion"]) + 1
        metadata = {**self.lease["metadata"], "resourceVersion": str(version)}
        self.lease = {**self.lease, "metadata": metadata}
        for queue in self.lease_watchers:
            queue.put_nowait({"type": "MODIFIED", "object": self.lease})
        if not renewal:
            self._operate()


def uuids(engine: FakeEngine) -> list[str]:
    """Of its GPUs, where it shares them with its trainer."""
    return [f"GPU-{engine.rank}-{number}" for number in range(2)]


def _drop(request: web.Request) -> None:
    """End the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


@contextlib.contextmanager
def world(**options: Any) -> Iterator[FakePool]:
    with FakePool(**options) as made:
        yield made


def other(transaction: str = "t-other") -> steps.Trainer:
    """Another trainer than the tests'."""
    return steps.Trainer(holder="trainer-b", transaction=transaction)


class SurgingPool(FakePool):
    """Engine 1 serves beside the new one of its name, which is the pool's own by now."""

    heir = False

    def __init__(self) -> None:
        super().__init__(3)

    def _entry(self, engine: FakeEngine) -> Json:
        own = {"rank": 1, "engine": "g2-3", "devices": [2, 3], "pod": f"{POOL}-1-new"}
        return super()._entry(engine) | (own if engine.rank == 2 else {})

    def _config_map(self) -> Json:
        every = self.engines
        self.engines = every if self.heir else every[:2]
        try:
            return super()._config_map()
        finally:
            self.engines = every

    def begins(self) -> None:
        self.heir, self.aside = True, {1}
        self.call(self._operate)
